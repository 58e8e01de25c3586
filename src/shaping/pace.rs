//! The limit in force: from the rate that was asked for, the timetable, and the pause.

use std::time::Duration;

use jiff::{Timestamp, Zoned};

use super::{Burst, Limit, Schedule, Unit};

/// How fast the consumer is to be fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it takes the bytes.
    Free,
    /// At so many tokens per second, at least 1. A token buys a byte, or what [`Unit`] says.
    Constant(u64),
    /// As the time of day has it.
    Timetable(Schedule),
}

/// Turns what was asked for into a [`Limit`].
#[derive(Clone, Debug)]
pub struct Pace {
    /// How fast the consumer is to be fed.
    pub rate: Rate,
    /// The latest timetable, or the rate of the start if there was none.
    usual: Rate,
    /// Nothing passes for now, whatever the rate.
    pub paused: bool,
    burst: Option<Burst>,
    catch_up: Duration,
    unit: Unit,
    /// A group is to grant the bytes too.
    shared: bool,
}

/// The limit of a [`Pace`] at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The rate in tokens per second; none if there is no limit. A pause does not change it.
    pub rate: Option<u64>,
    /// The limit of the bucket; none if there is none.
    pub limit: Option<Limit>,
    /// When it changes by itself, if it does.
    pub until: Option<Timestamp>,
}

impl Pace {
    /// A pace that is not paused. `catch_up` says how much delay of the machine is made up for,
    /// and `shared` that a group has to grant the bytes too.
    pub fn new(rate: Rate, burst: Option<Burst>, catch_up: Duration, shared: bool) -> Self {
        Pace { usual: rate.clone(), rate, paused: false, burst, catch_up, unit: Unit::Bytes, shared }
    }

    /// The same for a limit that counts `unit`.
    #[must_use]
    pub fn counting(self, unit: Unit) -> Self {
        Pace { unit, ..self }
    }

    /// Follows this timetable from now on.
    pub fn follow(&mut self, schedule: Schedule) {
        self.rate = Rate::Timetable(schedule);
        self.usual = self.rate.clone();
    }

    /// Returns to the latest timetable, or to the rate of the start if there was none.
    pub fn return_to_usual(&mut self) {
        self.rate = self.usual.clone();
    }

    /// How much delay of the machine is made up for at most.
    pub fn catch_up(&self) -> Duration {
        self.catch_up
    }

    /// The limit in force at `now`, in the time zone of `now`. `now` is asked for only where there
    /// is a timetable.
    pub fn at(&self, now: impl FnOnce() -> Zoned) -> InForce {
        let (rate, until) = match &self.rate {
            Rate::Free => (None, None),
            Rate::Constant(rate) => (Some(*rate), None),
            Rate::Timetable(schedule) => {
                let now = schedule.at(&now());
                (now.rate, Some(now.until))
            }
        };
        let limit = rate.map(|rate| {
            let paced = if self.shared { Limit::of_member } else { Limit::paced_in };
            paced(self.unit, rate, self.burst).with_catch_up(self.catch_up)
        });
        let limit = if self.paused { Some(Limit::new(0, 1)) } else { limit };
        InForce { rate, limit, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pace: &Pace, now: &str) -> InForce {
        pace.at(|| now.parse().unwrap())
    }

    fn pace(rate: Rate) -> Pace {
        Pace::new(rate, None, Duration::ZERO, false)
    }

    #[test]
    fn a_constant_rate_never_changes_by_itself() {
        let now = pace(Rate::Constant(1000)).at(|| unreachable!("there is no timetable"));
        assert_eq!((now.rate, now.until), (Some(1000), None));
        assert_eq!(now.limit.map(|limit| limit.rate()), Some(1000));
    }

    #[test]
    fn a_timetable_says_when_it_changes() {
        let pace = pace(Rate::Timetable("08:00,1M 18:00,off".parse().unwrap()));
        let day = at(&pace, "2026-11-25T12:00[UTC]");
        assert_eq!((day.rate, day.until), (Some(1 << 20), Some("2026-11-25T18:00Z".parse().unwrap())));
        let night = at(&pace, "2026-11-25T19:00[UTC]");
        assert_eq!((night.rate, night.limit), (None, None));
    }

    #[test]
    fn a_constant_rate_takes_the_place_of_a_timetable_until_it_returns() {
        let timetable = || "00:00,1M".parse().unwrap();
        for (start, usual) in
            [(Rate::Constant(5), Rate::Constant(5)), (Rate::Timetable(timetable()), Rate::Timetable(timetable()))]
        {
            let mut pace = pace(start);
            pace.rate = Rate::Constant(7);
            pace.return_to_usual();
            assert_eq!(pace.rate, usual);
            pace.follow("00:00,2M".parse().unwrap());
            pace.rate = Rate::Free;
            pace.return_to_usual();
            assert_eq!(at(&pace, "2026-11-25T12:00[UTC]").rate, Some(2 << 20));
        }
    }

    #[test]
    fn a_pause_lets_nothing_pass_and_leaves_the_rate_as_it_is() {
        for rate in [Rate::Free, Rate::Constant(5)] {
            let mut pace = pace(rate);
            let before = at(&pace, "2026-11-25T12:00[UTC]").rate;
            pace.paused = true;
            let now = at(&pace, "2026-11-25T12:00[UTC]");
            assert_eq!((now.rate, now.limit.map(|limit| limit.rate())), (before, Some(0)));
        }
    }
}
