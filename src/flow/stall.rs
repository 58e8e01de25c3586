//! Whether a flow waits in vain: one side moves nothing although the limit allows it.

use std::time::Duration;

use crate::stats::Cause;

/// A clock that is read so much later than its alarm did not run by itself: the process was stopped
/// or frozen, and the time says nothing about the two sides.
const FROZEN: Duration = Duration::from_secs(1);

/// One of the two sides of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It gives bytes.
    Producer,
    /// It takes bytes.
    Consumer,
}

/// A side that a flow waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// The flow waits for no side: for its limit, or because it was paused.
    Nothing,
    /// The side has time until then.
    Until(Duration),
    /// The side has moved nothing for the whole timeout.
    Stalled(Side),
}

/// Measures how long a flow has been waiting for the same side without a byte from it or to it.
///
/// Time that the flow spends waiting for its limit, for a timetable or for the end of a pause is
/// not counted, and the count begins anew after it.
#[derive(Clone, Copy, Debug)]
pub struct StallClock {
    timeout: Duration,
    waits: Option<Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    side: Side,
    since: Duration,
    /// Bytes that the side had moved by then.
    moved: u64,
}

impl StallClock {
    /// A clock for a side that may take `timeout` for its next byte.
    pub fn new(timeout: Duration) -> Self {
        StallClock { timeout, waits: None }
    }

    /// How long a side may take for its next byte.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// At `now` the flow rests for this `cause`. So far it has read and delivered so many bytes.
    pub fn rests(&mut self, now: Duration, cause: Cause, read: u64, delivered: u64) -> Watch {
        let (side, moved) = match cause {
            Cause::Producer => (Side::Producer, read),
            Cause::Consumer => (Side::Consumer, delivered),
            Cause::Limit | Cause::Machine | Cause::Paused => {
                self.waits = None;
                return Watch::Nothing;
            }
        };
        let same = self.waits.filter(|wait| (wait.side, wait.moved) == (side, moved));
        let end = |wait: &Wait| wait.since.saturating_add(self.timeout);
        let wait = match same {
            Some(wait) if now <= end(&wait).saturating_add(FROZEN) => wait,
            _ => Wait { side, since: now, moved },
        };
        self.waits = Some(wait);
        match end(&wait) {
            end if end <= now => Watch::Stalled(side),
            end => Watch::Until(end),
        }
    }

    /// The process was stopped, and goes on: the count begins anew.
    pub fn continued(&mut self) {
        self.waits = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_side_that_moves_nothing_for_the_timeout_has_stalled() {
        let mut clock = StallClock::new(s(30));
        assert_eq!(clock.rests(s(0), Cause::Producer, 0, 0), Watch::Until(s(30)));
        assert_eq!(clock.rests(s(20), Cause::Producer, 5, 5), Watch::Until(s(50)), "a byte came");
        assert_eq!(clock.rests(s(49), Cause::Consumer, 9, 5), Watch::Until(s(79)), "the other side");
        assert_eq!(clock.rests(s(78), Cause::Consumer, 20, 5), Watch::Until(s(79)), "reading does not help stdout");
        assert_eq!(clock.rests(s(79), Cause::Consumer, 20, 5), Watch::Stalled(Side::Consumer));
    }

    #[test]
    fn the_limit_a_pause_and_a_stopped_process_do_not_count() {
        let mut clock = StallClock::new(s(30));
        for cause in [Cause::Limit, Cause::Paused] {
            clock.rests(s(0), Cause::Consumer, 9, 5);
            assert_eq!(clock.rests(s(20), cause, 9, 5), Watch::Nothing);
            assert_eq!(clock.rests(s(1000), Cause::Consumer, 9, 5), Watch::Until(s(1030)));
            clock.continued();
        }
        clock.rests(s(0), Cause::Producer, 0, 0);
        clock.continued();
        assert_eq!(clock.rests(s(29), Cause::Producer, 0, 0), Watch::Until(s(59)));
        assert_eq!(clock.rests(s(3600), Cause::Producer, 0, 0), Watch::Until(s(3630)), "frozen");
    }

    proptest! {
        /// Against the definition: nothing moved at any rest of the last `timeout`, and the flow
        /// waited for the same side at all of them.
        #[test]
        fn it_has_stalled_exactly_when_nothing_moved_for_the_whole_time(
            timeout in 1..20u64,
            rests in prop::collection::vec((0..4u64, 0..4usize, 0..2u64), 1..60),
        ) {
            let mut clock = StallClock::new(s(timeout));
            let (mut now, mut moved, mut since) = (0, 0, None);
            for (step, cause, bytes) in rests {
                let cause = [Cause::Producer, Cause::Producer, Cause::Consumer, Cause::Limit][cause];
                // A poll never sleeps past the alarm.
                now += since.map_or(step, |(_, since): (Cause, u64)| step.min(since + timeout - now));
                moved += bytes;
                let answer = clock.rests(s(now), cause, moved, moved);
                if bytes > 0 || since.is_none_or(|(waits, _)| waits != cause) {
                    since = (cause != Cause::Limit).then_some((cause, now));
                }
                let expected = match since {
                    None => Watch::Nothing,
                    Some((Cause::Producer, since)) if now - since >= timeout => Watch::Stalled(Side::Producer),
                    Some((_, since)) if now - since >= timeout => Watch::Stalled(Side::Consumer),
                    Some((_, since)) => Watch::Until(s(since + timeout)),
                };
                prop_assert_eq!(answer, expected);
                if let Watch::Stalled(_) = answer {
                    break;
                }
            }
        }
    }
}
