//! The time that is left, from the speed of the last while. There is no clock here: time comes with
//! each status.

use super::{State, Status};

/// Seconds after which a speed counts only 1/e as much: long enough to even out the stutter of a
/// disk or a network, short enough to follow a change of the limit within half a minute.
const MEMORY: f64 = 15.0;

/// Seconds. A longer time that is left says only that the run stalls.
const UNKNOWN_FROM: f64 = 1000.0 * 3600.0;

/// An exponentially weighted average of the speed: bytes and seconds fade alike, so the first
/// statuses count in full. Time in a pause does not count.
#[derive(Clone, Debug, Default)]
pub(super) struct Eta {
    /// Bytes delivered, faded.
    bytes: f64,
    /// Seconds that passed, faded.
    seconds: f64,
    /// `elapsed` and `bytes` of the latest status.
    latest: (f64, u64),
}

impl Eta {
    /// Takes note of a status. One that is no later than the latest changes nothing.
    pub(super) fn observe(&mut self, status: &Status) {
        let (elapsed, bytes) = self.latest;
        let passed = status.elapsed - elapsed;
        if passed > 0.0 {
            self.latest = (status.elapsed, status.progress().0);
            if status.state != State::Paused {
                let fade = (-passed / MEMORY).exp();
                // The weight of a second, summed over the time that passed.
                let weight = MEMORY * (1.0 - fade);
                self.bytes = self.bytes * fade + status.progress().0.saturating_sub(bytes) as f64 / passed * weight;
                self.seconds = self.seconds * fade + weight;
            }
        }
    }

    /// Seconds until all bytes are delivered. None if that is unknown: no size, no byte yet, a
    /// pause, or a stall.
    pub(super) fn left(&self, status: &Status) -> Option<f64> {
        let left = status.progress().1?.saturating_sub(status.progress().0) as f64;
        let seconds = left * self.seconds / self.bytes;
        (status.state != State::Paused && self.bytes > 0.0 && seconds < UNKNOWN_FROM).then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(elapsed: f64, bytes: u64) -> Status {
        Status { elapsed, bytes, size: Some(1000), ..Status::default() }
    }

    #[test]
    fn a_steady_run_has_its_time_left_from_the_first_status() {
        let mut eta = Eta::default();
        assert_eq!(eta.left(&status(0.0, 0)), None);
        for second in 1..=10 {
            let status = status(second as f64, second * 10);
            eta.observe(&status);
            assert!((eta.left(&status).unwrap() - (100 - second) as f64).abs() < 1e-6);
        }
    }

    #[test]
    fn a_change_of_speed_is_followed_and_a_stall_ends_in_no_answer() {
        let mut eta = Eta::default();
        eta.observe(&status(100.0, 100));
        (1..=60).for_each(|second| eta.observe(&status(100.0 + second as f64, 100 + second * 10)));
        let left = eta.left(&status(160.0, 700)).unwrap();
        assert!((30.0..33.0).contains(&left), "{left}");
        (1..=1000).for_each(|second| eta.observe(&status(160.0 + second as f64, 700)));
        assert_eq!(eta.left(&status(1160.0, 700)), None);
    }

    #[test]
    fn a_pause_has_no_answer_and_leaves_no_trace() {
        let mut eta = Eta::default();
        eta.observe(&status(10.0, 100));
        let paused = Status { state: State::Paused, ..status(1000.0, 100) };
        eta.observe(&paused);
        assert_eq!(eta.left(&paused), None);
        let resumed = status(1001.0, 110);
        eta.observe(&resumed);
        assert!((eta.left(&resumed).unwrap() - 89.0).abs() < 1e-6);
    }
}
