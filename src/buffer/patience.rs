//! How long to wait for room in the kernel's pipe before bytes are copied to memory.

use std::time::Duration;

/// The rest of the time for which a consumer may keep a full pipe waiting.
///
/// Running ahead of a slow consumer is what a buffer is for. Running ahead of a fast one only
/// takes the processor away from it: copying into fresh memory is slower than the consumer
/// is. So a consumer earns a nanosecond of waiting with every byte that it takes; one that
/// takes less than 1 GB/s uses up what it has, and is then run ahead of.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    seen: u64,
}

impl Patience {
    /// The most that can be saved up: a few turns of the scheduler.
    const MOST: Duration = Duration::from_millis(4);

    /// The consumer has taken `delivered` bytes since the beginning.
    pub fn earn(&mut self, delivered: u64) {
        let taken = delivered - self.seen;
        self.seen = delivered;
        self.left = Self::MOST.min(self.left + Duration::from_nanos(taken));
    }

    /// The consumer has kept us waiting for so long.
    pub fn spend(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }

    /// For how long it still may.
    pub fn left(&self) -> Duration {
        self.left
    }
}

impl Default for Patience {
    fn default() -> Self {
        Patience { left: Self::MOST, seen: 0 }
    }
}
