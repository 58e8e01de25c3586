//! How fast the consumer may be fed. Pure rules: time comes in as an argument.

mod bucket;
mod pace;
mod records;
mod schedule;

pub use bucket::{Burst, Limit, TokenBucket, parse_burst};
pub(crate) use bucket::{LARGEST_QUANTUM, TOKENS_PER_BYTE, in_tokens};
pub use pace::{InForce, Pace, Rate};
pub use records::{Cut, Held, TOKENS_PER_RECORD, Unit};
pub use schedule::{Schedule, ScheduleError, ScheduledRate, unit_of_schedule};

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The tokens that were asked for are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The earliest time at which the same request can succeed, later than now; none if it never
    /// will.
    pub again: Option<Duration>,
}

/// Grants bytes over time.
pub trait Shaper {
    /// Lets time pass up to `now`, on any clock; an earlier `now` changes nothing.
    fn drip(&mut self, now: Duration);

    /// The time up to the next [`drip`](Self::drip) includes a delay that the machine imposed:
    /// bytes were held, tokens were due, the consumer was ready, and the process did not run.
    /// A shaper may make up for it.
    fn late(&mut self, _delay: Duration) {}

    /// Takes tokens for at most `most` bytes and returns for how many, at least `least`. `least`
    /// is at most `most`.
    ///
    /// # Errors
    /// Where fewer than `least` are there. None are taken then.
    fn take(&mut self, least: u64, most: u64) -> Result<u64, Refusal>;

    /// How many bytes [`take`](Self::take) would grant from what is in hand, without asking
    /// anyone else for them.
    fn in_hand(&self) -> u64;

    /// The flow has nothing to do for now. Tokens in hand that have expired go back to where they
    /// came from. Returns when to call this again, should the flow not go on before.
    fn rest(&mut self) -> Option<Duration> {
        None
    }

    /// Gives back tokens of the latest grant that were not used.
    fn refund(&mut self, unused: u64);

    /// The earliest time at which tokens for `bytes` are due, if nothing else takes any; zero
    /// or the past if they are now, nothing if they never will be.
    fn due_for(&self, bytes: u64) -> Option<Duration>;

    /// The most bytes that can ever be granted at once.
    fn depth(&self) -> u64;

    /// Bytes worth waiting for: where more is wanted, nothing is granted until so many are
    /// due, as far as [`depth`](Self::depth) allows.
    fn quantum(&self) -> u64;

    /// Takes tokens for at most `want` bytes and returns for how many: at least one
    /// [`quantum`](Self::quantum), or all that is wanted.
    ///
    /// # Errors
    /// Before it is [`due`](Self::due).
    fn grant(&mut self, want: u64) -> Result<u64, Refusal> {
        self.take(want.min(self.quantum()).min(self.depth()), want)
    }

    /// The earliest time at which `grant(want)` would grant something, as with
    /// [`due_for`](Self::due_for).
    fn due(&self, want: u64) -> Option<Duration> {
        self.due_for(want.min(self.quantum()).min(self.depth()))
    }
}

/// No limit at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unshaped;

impl Shaper for Unshaped {
    fn drip(&mut self, _now: Duration) {}
    fn take(&mut self, _least: u64, most: u64) -> Result<u64, Refusal> {
        Ok(most)
    }
    fn in_hand(&self) -> u64 {
        u64::MAX
    }
    fn refund(&mut self, _unused: u64) {}
    fn due_for(&self, _bytes: u64) -> Option<Duration> {
        Some(Duration::ZERO)
    }
    fn depth(&self) -> u64 {
        u64::MAX
    }
    fn quantum(&self) -> u64 {
        1
    }
}

/// A shaper that several share: one parent of many buckets.
impl<S: Shaper> Shaper for Rc<RefCell<S>> {
    fn drip(&mut self, now: Duration) {
        self.borrow_mut().drip(now);
    }
    fn late(&mut self, delay: Duration) {
        self.borrow_mut().late(delay);
    }
    fn rest(&mut self) -> Option<Duration> {
        self.borrow_mut().rest()
    }
    fn take(&mut self, least: u64, most: u64) -> Result<u64, Refusal> {
        self.borrow_mut().take(least, most)
    }
    fn in_hand(&self) -> u64 {
        self.borrow().in_hand()
    }
    fn refund(&mut self, unused: u64) {
        self.borrow_mut().refund(unused);
    }
    fn due_for(&self, bytes: u64) -> Option<Duration> {
        self.borrow().due_for(bytes)
    }
    fn depth(&self) -> u64 {
        self.borrow().depth()
    }
    fn quantum(&self) -> u64 {
        self.borrow().quantum()
    }
}
