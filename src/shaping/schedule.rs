//! The rate by time of day and day of week.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan, Zoned};

use super::Unit;

use crate::units::{RateUnit, parse_speed};

/// A timetable: entries `[DAY[-DAY]-]HH:MM[-HH:MM],RATE`, separated by spaces. `RATE` may be `off`,
/// for no limit. The form is that of rclone's `--bwlimit`, with ranges of days and of times.
///
/// An entry without a day is for every day, and `Mon-Fri` is for each day from Monday to Friday. An
/// entry with one time comes into force at that time of the local clock, and stays in force until
/// the next such entry does. An entry with two times is a span: it is in force from the first to the
/// second (`22:00-06:00` ends on the next day), and takes precedence over the entries with one time.
/// Of several spans, the one that began last counts. Outside of all spans of a timetable without
/// other entries there is no limit.
///
/// Where the clock is set forward over a time, that time is the moment of the jump. Where the clock
/// passes a time twice, the first one counts.
///
/// ```
/// use pcproxy::shaping::Schedule;
///
/// let backup: Schedule = "Mon-00:00,512K 08:00,10M Sat-12:00,off".parse()?;
/// let noon = "2026-11-21T12:00[Europe/Berlin]".parse()?; // a Saturday
/// assert_eq!(backup.at(&noon).rate, None);
///
/// let office: Schedule = "Mon-Fri-08:00-18:00,512K".parse()?;
/// assert_eq!(office.at(&noon).rate, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// At least one.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// The first and the last day of the week; every day if none.
    days: Option<(Weekday, Weekday)>,
    time: Time,
    /// When it ends; if none, when the next entry comes into force.
    end: Option<Time>,
    /// Bytes per second; no limit if none.
    rate: Option<u64>,
}

/// The rate of a [`Schedule`] at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledRate {
    /// Tokens per second; no limit, if none.
    pub rate: Option<u64>,
    /// When the next entry begins or ends.
    pub until: Timestamp,
}

/// The place in a timetable that cannot be read, and why.
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
        write!(f, "entry {number}, '{entry}', {reason}; a good one is \"{EXAMPLE}\"")
    }
}

impl std::error::Error for ScheduleError {}

/// The unit in which the first rate of a timetable is given. None where there is no rate.
pub fn unit_of_schedule(text: &str) -> Option<RateUnit> {
    let mut rates = text.split_whitespace().filter_map(|entry| entry.split_once(','));
    rates.find_map(|(_, rate)| parse_speed(rate).ok()).map(|speed| speed.unit)
}

/// A timetable that shows what there is.
const EXAMPLE: &str = "08:00,512K 18:00,10M Sat-12:00,off Mon-Fri-12:00-13:00,2M";

/// Days before and after a moment in which to look for entries. Any entry begins once in 7 days, and
/// daylight saving moves it by less than one day. A span lasts at most one day.
const DAYS: i32 = 9;

impl Schedule {
    /// The lowest rate in tokens per second; none if there is no limit at any time.
    pub fn lowest(&self) -> Option<u64> {
        self.entries.iter().filter_map(|entry| entry.rate).min()
    }

    /// The rate in force at `now`, in the time zone of `now`.
    pub fn at(&self, now: &Zoned) -> ScheduledRate {
        let (zone, instant) = (now.time_zone(), now.timestamp());
        let days = (-DAYS..=DAYS).filter_map(|day| now.date().checked_add(day.days()).ok());
        let mut until = Timestamp::MAX;
        let mut next = |moment: Timestamp| {
            if moment > instant {
                until = until.min(moment);
            }
        };
        // The begin and the rate of the latest entry of each kind. Of two that begin at the same
        // moment the later one in the timetable counts.
        let (mut entry_in_force, mut span_in_force) = (None, None);
        for date in days {
            for entry in self.entries.iter().filter(|entry| entry.is_on(date.weekday())) {
                let Some(begin) = moment(zone, date, entry.time) else { continue };
                next(begin);
                let in_force = match entry.end {
                    None => &mut entry_in_force,
                    Some(time) => {
                        let date = if time > entry.time { Some(date) } else { date.tomorrow().ok() };
                        let Some(end) = date.and_then(|date| moment(zone, date, time)) else { continue };
                        next(end);
                        if end <= instant {
                            continue;
                        }
                        &mut span_in_force
                    }
                };
                if begin <= instant && in_force.is_none_or(|(latest, _)| latest <= begin) {
                    *in_force = Some((begin, entry.rate));
                }
            }
        }
        ScheduledRate { rate: span_in_force.or(entry_in_force).and_then(|(_, rate)| rate), until }
    }
}

/// The moment at which the clock shows `time` on `date`.
fn moment(zone: &TimeZone, date: Date, time: Time) -> Option<Timestamp> {
    let local = zone.to_ambiguous_zoned(date.to_datetime(time));
    match local.offset() {
        // The clock jumps over it: the moment of the jump.
        AmbiguousOffset::Gap { after, .. } => {
            let before = after.to_timestamp(local.datetime()).ok()?;
            Some(zone.following(before).next()?.timestamp())
        }
        _ => Some(local.earlier().ok()?.timestamp()),
    }
}

impl Entry {
    /// Whether it begins on this day of the week.
    fn is_on(&self, day: Weekday) -> bool {
        self.days.is_none_or(|(first, last)| first.until(day) <= first.until(last))
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        Schedule::parse_in(Unit::Bytes, text)
    }
}

impl Schedule {
    /// A timetable whose rates count `unit`.
    ///
    /// # Errors
    /// Where and why the text is no timetable.
    pub fn parse_in(unit: Unit, text: &str) -> Result<Self, ScheduleError> {
        let entries: Result<Vec<_>, _> = text
            .split_whitespace()
            .enumerate()
            .map(|(index, entry)| {
                let refuse = |reason| ScheduleError { number: index + 1, entry: entry.to_owned(), reason };
                parse_entry(entry, unit).map_err(refuse)
            })
            .collect();
        match entries?.as_slice() {
            [] => Err(ScheduleError { number: 1, entry: String::new(), reason: "is missing".into() }),
            entries => Ok(Schedule { entries: entries.into() }),
        }
    }
}

fn parse_entry(entry: &str, unit: Unit) -> Result<Entry, String> {
    let (when, rate) = entry.split_once(',').ok_or("has no ',' between its time and its rate")?;
    let parts: Vec<_> = when.split('-').collect();
    let (days, times) = parts.split_at(parts.iter().take_while(|part| !part.contains(':')).count());
    let days = match days {
        [] => None,
        [day] => Some((parse_day(day)?, parse_day(day)?)),
        [first, last] => Some((parse_day(first)?, parse_day(last)?)),
        _ => return Err("has more than two days: use Mon-Fri".to_owned()),
    };
    let (time, end) = match times {
        [] => return Err(format!("has no time of day in '{when}': use 00:00 to 23:59")),
        [time] => (parse_time(time)?, None),
        [time, "24:00"] => (parse_time(time)?, Some(Time::midnight())),
        [time, end] if time == end => return Err("ends when it begins".to_owned()),
        [time, end] => (parse_time(time)?, Some(parse_time(end)?)),
        _ => return Err("has more than two times: use 08:00-18:00".to_owned()),
    };
    if end == Some(time) && time != Time::midnight() {
        return Err("ends when it begins".to_owned());
    }
    let rate = match rate {
        "off" => None,
        rate => Some(
            parse_speed(rate)
                .and_then(|speed| speed.in_tokens(unit.tokens()))
                .map_err(|error| format!("has a rate, '{rate}', that {error}, or 'off'"))?,
        ),
    };
    Ok(Entry { days, time, end, rate })
}

fn parse_time(time: &str) -> Result<Time, String> {
    Time::strptime("%H:%M", time).map_err(|_| format!("has no time of day in '{time}': use 00:00 to 23:59"))
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
    use proptest::prelude::*;

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
            ("08:00,0", "entry 1, '08:00,0', has a rate, '0', that must be at least"),
            ("Mon,10M", "entry 1, 'Mon,10M', has no time of day in 'Mon'"),
            ("Mon-Fri-Sat-08:00,1M", "entry 1, 'Mon-Fri-Sat-08:00,1M', has more than two days"),
            ("08:00-09:00-10:00,1M", "entry 1, '08:00-09:00-10:00,1M', has more than two times"),
            ("08:00-08:00,1M", "entry 1, '08:00-08:00,1M', ends when it begins"),
            ("08:00-24:01,1M", "entry 1, '08:00-24:01,1M', has no time of day in '24:01'"),
            ("08:00-Fri,1M", "entry 1, '08:00-Fri,1M', has no time of day in 'Fri'"),
            ("-08:00,1M", "entry 1, '-08:00,1M', has no day of the week in ''"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
            assert!(
                error.ends_with("a good one is \"08:00,512K 18:00,10M Sat-12:00,off Mon-Fri-12:00-13:00,2M\""),
                "{error}"
            );
        }
    }

    #[test]
    fn an_entry_for_a_range_of_days_begins_on_each_of_them() {
        const OFFICE: &str = "Mon-Fri-08:00,1M Sat-sunday-00:00,off";
        assert_eq!(at(OFFICE, "2026-11-25T07:59[UTC]"), (Some(1 << 20), "2026-11-25T08:00:00".into()));
        assert_eq!(at(OFFICE, "2026-11-27T23:00[UTC]"), (Some(1 << 20), "2026-11-28T00:00:00".into()));
        assert_eq!(at(OFFICE, "2026-11-30T07:59[UTC]"), (None, "2026-11-30T08:00:00".into()));
        // From Friday over the weekend to Monday.
        assert_eq!(at("Fri-Mon-12:00,1M Tue-00:00,2M", "2026-11-30T13:00[UTC]").1, "2026-12-01T00:00:00");
        assert_eq!(
            at("Fri-Mon-12:00,1M Tue-00:00,2M", "2026-12-02T13:00[UTC]"),
            (Some(2 << 20), "2026-12-04T12:00:00".into())
        );
    }

    #[test]
    fn a_span_is_in_force_from_its_begin_to_its_end() {
        const SPAN: &str = "08:00-18:00,1M";
        assert_eq!(at(SPAN, "2026-11-25T07:59[UTC]"), (None, "2026-11-25T08:00:00".into()));
        assert_eq!(at(SPAN, "2026-11-25T08:00[UTC]"), (Some(1 << 20), "2026-11-25T18:00:00".into()));
        assert_eq!(at(SPAN, "2026-11-25T18:00[UTC]"), (None, "2026-11-26T08:00:00".into()));
        const OFFICE: &str = "Mon-Fri-08:00-18:00,1M";
        assert_eq!(at(OFFICE, "2026-11-27T18:00[UTC]"), (None, "2026-11-30T08:00:00".into()));
        assert_eq!(at("18:00-24:00,1M", "2026-11-25T23:59[UTC]"), (Some(1 << 20), "2026-11-26T00:00:00".into()));
        assert_eq!(at("00:00-24:00,1M", "2026-11-25T00:00[UTC]").0, Some(1 << 20));
    }

    #[test]
    fn a_span_over_midnight_ends_on_the_next_day() {
        const NIGHT: &str = "Sat-22:00-06:00,1M";
        assert_eq!(at(NIGHT, "2026-11-28T21:59[UTC]").0, None);
        assert_eq!(at(NIGHT, "2026-11-29T05:59[UTC]"), (Some(1 << 20), "2026-11-29T06:00:00".into()));
        assert_eq!(at(NIGHT, "2026-11-29T22:30[UTC]").0, None);
    }

    #[test]
    fn after_a_span_the_other_entries_count_again() {
        const BOTH: &str = "00:00,5M 08:00-18:00,1M 12:00-13:00,off 12:30,7M";
        assert_eq!(at(BOTH, "2026-11-25T07:00[UTC]").0, Some(5 << 20));
        assert_eq!(at(BOTH, "2026-11-25T11:00[UTC]"), (Some(1 << 20), "2026-11-25T12:00:00".into()));
        assert_eq!(at(BOTH, "2026-11-25T12:40[UTC]"), (None, "2026-11-25T13:00:00".into()));
        assert_eq!(at(BOTH, "2026-11-25T13:00[UTC]").0, Some(1 << 20));
        assert_eq!(at(BOTH, "2026-11-25T18:00[UTC]"), (Some(7 << 20), "2026-11-26T00:00:00".into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            let _ = text.parse::<Schedule>();
        }

        /// A few wrong characters in a good timetable: it is refused in one line, or its rates and changes
        /// are in range.
        #[test]
        fn a_damaged_timetable_is_refused_or_in_range(
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof!["[0-9a-zA-Z:,/ -]", "."], any::<bool>()), 1..6),
            unit in prop::sample::select(vec![Unit::Bytes, Unit::Records]),
            second in Timestamp::MIN.as_second()..=Timestamp::MAX.as_second(),
        ) {
            let mut letters: Vec<_> = EXAMPLE.chars().map(String::from).collect();
            for (at, letter, replace) in changes {
                let at = at.index(letters.len());
                letters.splice(at..at + usize::from(replace), [letter]);
            }
            let text = letters.concat();
            let _ = unit_of_schedule(&text);
            match Schedule::parse_in(unit, &text) {
                Ok(schedule) => {
                    prop_assert!(schedule.lowest() != Some(0) && schedule.entries.len() <= text.len());
                    let now = Timestamp::from_second(second).unwrap().to_zoned(TimeZone::UTC);
                    let here = schedule.at(&now);
                    prop_assert!(here.rate != Some(0) && (here.until > now.timestamp() || here.until == Timestamp::MAX));
                }
                Err(error) => prop_assert!(error.number >= 1 && error.to_string().contains(&error.entry)),
            }
        }

        #[test]
        fn any_timetable_changes_only_where_it_says(
            text in "((Mon|Tue|Sat|Sun)-){0,2}([01][0-9]|2[0-4]):[0-5][0-9](-[01][0-9]:[0-5][0-9])?,([1-9]M|off)( (Mon-Fri-)?([01][0-9]):[0-5][0-9](-2[0-3]:[0-5][0-9])?,[1-9]K)?",
            second in 1_700_000_000_i64..1_900_000_000,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"]),
        ) {
            let Ok(schedule) = text.parse::<Schedule>() else { return Ok(()) };
            let now = Timestamp::from_second(second).unwrap().in_tz(zone).unwrap();
            let here = schedule.at(&now);
            prop_assert!(here.until > now.timestamp());
            prop_assert!((here.until - now.timestamp()).get_seconds() <= 8 * 24 * 3600, "{}: {}", text, here.until);
            let between = now.timestamp().as_second() + (here.until.as_second() - second) / 2;
            for moment in [Timestamp::from_second(between).unwrap(), here.until - 1.nanosecond()] {
                prop_assert_eq!(schedule.at(&moment.to_zoned(now.time_zone().clone())), here);
            }
        }
    }
}
