//! How evenly a stream arrives.

use std::time::{Duration, Instant};

/// Reads of a stream that is meant to keep a rate, added up as they come.
pub struct Curve {
    rate: f64,
    first: Option<(Instant, u64)>,
    last: Option<Instant>,
    total: u64,
    level: f64,
    sigma: f64,
    largest_gap: Duration,
}

impl Curve {
    /// Nothing has been read yet of a stream of `rate` bytes a second.
    pub fn new(rate: u64) -> Self {
        let largest_gap = Duration::ZERO;
        Curve { rate: rate as f64, first: None, last: None, total: 0, level: 0.0, sigma: 0.0, largest_gap }
    }

    /// `count` bytes were read, just before `now`.
    pub fn record(&mut self, now: Instant, count: usize) {
        self.first.get_or_insert((now, count as u64));
        let gap = now - self.last.unwrap_or(now);
        self.largest_gap = self.largest_gap.max(gap);
        // A bucket that leaks at the rate: what it holds at most is the burst.
        self.level = (self.level - self.rate * gap.as_secs_f64()).max(0.0) + count as f64;
        self.sigma = self.sigma.max(self.level);
        self.last = Some(now);
        self.total += count as u64;
    }

    /// The measurement ends: silence up to here counts as a gap.
    pub fn end(&mut self, now: Instant) {
        if let Some(last) = self.last {
            self.largest_gap = self.largest_gap.max(now.saturating_duration_since(last));
        }
    }

    /// Bytes read.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes a second: those after the first read, over the time from the first read to the last. NaN
    /// if there were not two reads.
    pub fn mean(&self) -> f64 {
        match (self.first, self.last) {
            (Some((first, count)), Some(last)) if last > first => {
                (self.total - count) as f64 / (last - first).as_secs_f64()
            }
            _ => f64::NAN,
        }
    }

    /// How far the mean is above the rate, in percent of the rate.
    pub fn error(&self) -> f64 {
        100.0 * (self.mean() / self.rate - 1.0)
    }

    /// The least burst for which every interval of length t brought at most `burst + rate * t` bytes, as
    /// the milliseconds that the rate takes for it.
    pub fn sigma_ms(&self) -> f64 {
        1e3 * self.sigma / self.rate
    }

    /// The longest time between two reads.
    pub fn largest_gap_ms(&self) -> f64 {
        1e3 * self.largest_gap.as_secs_f64()
    }
}
