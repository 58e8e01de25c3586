//! The rate by time of day and day of week.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::AmbiguousOffset;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::units::parse_rate;

/// A timetable in the form of rclone's `--bwlimit`: entries `[DAY-]HH:MM,RATE`, set apart by
/// spaces. `RATE` may be `off`, for no limit. An entry without a day stands for every day.
///
/// Each entry comes into force at its time of the local clock, and stays in force until
/// the next does. Where the clock is set forward over that time, it does so at that moment;
/// where the clock passes it twice, the first time.
///
/// ```
/// use pcproxy::shaping::Schedule;
///
/// let backup: Schedule = "Mon-00:00,512K 08:00,10M Sat-12:00,off".parse()?;
/// let noon = "2026-11-21T12:00[Europe/Berlin]".parse()?; // a Saturday
/// assert_eq!(backup.at(&noon).rate, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// At least one.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Every day, if none.
    day: Option<Weekday>,
    time: Time,
    rate: Option<u64>,
}

/// What a [`Schedule`] says of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledRate {
    /// Bytes a second; no limit, if none.
    pub rate: Option<u64>,
    /// When the next entry comes into force.
    pub until: Timestamp,
}

/// The place in a timetable where it cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError {
    /// Which entry, from 1.
    number: usize,
    entry: String,
    reason: String,
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScheduleError { number, entry, reason } = self;
        write!(f, "entry {number}, '{entry}', {reason}; a good one is \"Mon-00:00,512K 08:00,10M Sat-12:00,off\"")
    }
}

impl std::error::Error for ScheduleError {}

impl Schedule {
    /// What is in force at `now`, in the time zone of `now`.
    pub fn at(&self, now: &Zoned) -> ScheduledRate {
        // Any entry comes into force once in each 7 days, and daylight saving moves it by
        // less than one: 8 days each way hold the latest before and the first after.
        let days = (-8..=8).filter_map(|day| now.date().checked_add(day.days()).ok());
        let moments = days.flat_map(|date| {
            self.entries.iter().filter(move |entry| entry.day.is_none_or(|day| day == date.weekday())).filter_map(
                move |entry| {
                    let local = now.time_zone().to_ambiguous_zoned(date.to_datetime(entry.time));
                    let moment = match local.offset() {
                        // The clock jumps over it: the moment at which it jumps.
                        AmbiguousOffset::Gap { after, .. } => {
                            let before = after.to_timestamp(local.datetime()).ok()?;
                            now.time_zone().following(before).next()?.timestamp()
                        }
                        _ => local.earlier().ok()?.timestamp(),
                    };
                    Some((moment, entry.rate))
                },
            )
        });
        let now = now.timestamp();
        let (mut latest, mut until) = (None, Timestamp::MAX);
        for (moment, rate) in moments {
            if moment > now {
                until = until.min(moment);
            } else if latest.is_none_or(|(at, _)| at <= moment) {
                latest = Some((moment, rate));
            }
        }
        ScheduledRate { rate: latest.and_then(|(_, rate)| rate), until }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let entries: Result<Vec<_>, _> = text
            .split_whitespace()
            .enumerate()
            .map(|(index, entry)| {
                let refuse = |reason| ScheduleError { number: index + 1, entry: entry.to_owned(), reason };
                parse_entry(entry).map_err(refuse)
            })
            .collect();
        match entries?.as_slice() {
            [] => Err(ScheduleError { number: 1, entry: String::new(), reason: "is missing".into() }),
            entries => Ok(Schedule { entries: entries.into() }),
        }
    }
}

fn parse_entry(entry: &str) -> Result<Entry, String> {
    let (when, rate) = entry.split_once(',').ok_or("has no ',' between its time and its rate")?;
    let (day, time) = match when.split_once('-') {
        Some((day, time)) => (Some(parse_day(day)?), time),
        None => (None, when),
    };
    Ok(Entry {
        day,
        time: Time::strptime("%H:%M", time)
            .map_err(|_| format!("has no time of day in '{time}': use 00:00 to 23:59"))?,
        rate: match rate {
            "off" => None,
            rate => Some(parse_rate(rate).map_err(|error| format!("has a rate, '{rate}', that {error}, or 'off'"))?),
        },
    })
}

fn parse_day(day: &str) -> Result<Weekday, String> {
    let names = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let given = day.to_ascii_lowercase();
    let found = names.iter().position(|name| *name == given || name[..3] == given);
    found
        .and_then(|index| Weekday::from_monday_zero_offset(index as i8).ok())
        .ok_or_else(|| format!("has no day of the week in '{day}': use Mon to Sun"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: &str, now: &str) -> (Option<u64>, String) {
        let now: Zoned = now.parse().unwrap();
        let ScheduledRate { rate, until } = schedule.parse::<Schedule>().unwrap().at(&now);
        (rate, until.to_zoned(now.time_zone().clone()).datetime().to_string())
    }

    const BACKUP: &str = "Mon-00:00,512K 08:00,10M Sat-12:00,off";

    #[test]
    fn an_entry_stays_in_force_until_the_next_one() {
        assert_eq!(at(BACKUP, "2026-11-23T00:00[Europe/Berlin]"), (Some(512 << 10), "2026-11-23T08:00:00".into()));
        assert_eq!(at(BACKUP, "2026-11-23T07:59:59[Europe/Berlin]"), (Some(512 << 10), "2026-11-23T08:00:00".into()));
        assert_eq!(at(BACKUP, "2026-11-24T00:00[Europe/Berlin]"), (Some(10 << 20), "2026-11-24T08:00:00".into()));
        assert_eq!(at(BACKUP, "2026-11-21T12:00[Europe/Berlin]"), (None, "2026-11-22T08:00:00".into()));
    }

    #[test]
    fn a_single_entry_is_always_in_force() {
        assert_eq!(at("Wed-10:00,1M", "2026-11-25T09:59[UTC]"), (Some(1 << 20), "2026-11-25T10:00:00".into()));
        assert_eq!(at("Wed-10:00,1M", "2026-11-25T10:00[UTC]"), (Some(1 << 20), "2026-12-02T10:00:00".into()));
    }

    #[test]
    fn an_entry_in_the_skipped_hour_comes_into_force_when_the_clock_jumps() {
        let spring = "00:00,1M 02:30,2M 06:00,3M";
        assert_eq!(
            at(spring, "2026-03-29T01:59:59+01:00[Europe/Berlin]"),
            (Some(1 << 20), "2026-03-29T03:00:00".into())
        );
        assert_eq!(
            at(spring, "2026-03-29T03:00:00+02:00[Europe/Berlin]"),
            (Some(2 << 20), "2026-03-29T06:00:00".into())
        );
    }

    #[test]
    fn an_entry_in_the_repeated_hour_comes_into_force_once() {
        let autumn = "00:00,1M 02:30,2M 06:00,3M";
        assert_eq!(at(autumn, "2026-10-25T02:29+02:00[Europe/Berlin]").0, Some(1 << 20));
        assert_eq!(at(autumn, "2026-10-25T02:30+02:00[Europe/Berlin]").0, Some(2 << 20));
        assert_eq!(at(autumn, "2026-10-25T02:10+01:00[Europe/Berlin]"), (Some(2 << 20), "2026-10-25T06:00:00".into()));
    }

    #[test]
    fn over_a_year_each_change_leads_to_the_next() {
        let schedule: Schedule = BACKUP.parse().unwrap();
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
            let mut now: Zoned = format!("2026-01-01T00:00[{zone}]").parse().unwrap();
            let end: Zoned = format!("2027-01-01T00:00[{zone}]").parse().unwrap();
            let (mut changes, mut unlimited) = (0, 0);
            while now < end {
                let here = schedule.at(&now);
                // Nothing changes in between.
                let just_before = (here.until - 1.nanosecond()).to_zoned(now.time_zone().clone());
                assert_eq!(schedule.at(&just_before), here);
                let next = here.until.to_zoned(now.time_zone().clone());
                unlimited += if here.rate.is_none() { (here.until - now.timestamp()).get_seconds() } else { 0 };
                now = next;
                changes += 1;
            }
            // One a day, one more on 52 Mondays and on 52 Saturdays, and the year's beginning.
            assert_eq!(changes, 365 + 52 + 52 + 1, "{zone}");
            // Saturdays from 12:00 to Sunday 08:00, an hour more or less for daylight saving.
            assert!((unlimited - 52 * 20 * 3600).abs() <= 3600, "{zone}: {unlimited}");
        }
    }

    #[test]
    fn says_where_a_timetable_cannot_be_read() {
        for (text, place) in [
            ("", "entry 1, '', is missing"),
            ("10M", "entry 1, '10M', has no ','"),
            ("08:00,10M Foo-09:00,1M", "entry 2, 'Foo-09:00,1M', has no day of the week in 'Foo'"),
            ("25:00,10M", "entry 1, '25:00,10M', has no time of day in '25:00'"),
            ("08:00,10M 09:00,fast", "entry 2, '09:00,fast', has a rate, 'fast', that is not a rate"),
            ("08:00,0", "entry 1, '08:00,0', has a rate, '0', that is no rate at which anything moves"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
            assert!(error.ends_with("a good one is \"Mon-00:00,512K 08:00,10M Sat-12:00,off\""), "{error}");
        }
    }
}
