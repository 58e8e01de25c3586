//! How fast the consumer may be fed. Pure rules: time comes in as an argument.

mod bucket;
mod schedule;

pub use bucket::{Burst, Limit, TokenBucket};
pub use schedule::{Schedule, ScheduleError};

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Grants bytes over time.
pub trait Shaper {
    /// Lets time pass up to `now`, on any clock; an earlier `now` changes nothing.
    fn drip(&mut self, now: Duration);
    /// Takes tokens for at most `want` bytes and returns for how many.
    fn grant(&mut self, want: u64) -> u64;
    /// Gives back tokens of the latest grant that were not used.
    fn refund(&mut self, unused: u64);
    /// The earliest time at which `grant(want)` would grant something, if nothing else
    /// takes tokens; zero or the past if it would do so now, nothing if it never will.
    fn due(&self, want: u64) -> Option<Duration>;
}

/// No limit at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unshaped;

impl Shaper for Unshaped {
    fn drip(&mut self, _now: Duration) {}
    fn grant(&mut self, want: u64) -> u64 {
        want
    }
    fn refund(&mut self, _unused: u64) {}
    fn due(&self, _want: u64) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// A shaper that several share: one parent of many buckets.
impl<S: Shaper> Shaper for Rc<RefCell<S>> {
    fn drip(&mut self, now: Duration) {
        self.borrow_mut().drip(now);
    }
    fn grant(&mut self, want: u64) -> u64 {
        self.borrow_mut().grant(want)
    }
    fn refund(&mut self, unused: u64) {
        self.borrow_mut().refund(unused);
    }
    fn due(&self, want: u64) -> Option<Duration> {
        self.borrow().due(want)
    }
}
