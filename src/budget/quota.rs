//! So many bytes per day, week or month. Pure: the wall clock is an argument, in milliseconds since
//! 1970.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Zoned};
use serde::{Deserialize, Serialize};

use crate::units::{UnitError, parse_size, show_size};

/// So many periods a quota remembers, so that a clock that steps away and back finds what was used.
const REMEMBERED: usize = 8;

/// How often a quota begins anew, in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// At midnight.
    Day,
    /// At midnight before Monday.
    Week,
    /// At midnight before the first of a month.
    Month,
}

/// What happens when a quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Nothing passes until it begins anew.
    Pause,
    /// At most so many bytes per second pass, at least 1.
    Rate(u64),
}

/// So many bytes in each period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quota {
    pub(super) allowance: Allowance,
    pub(super) then: Then,
    /// When the period began that is counted.
    pub(super) begun: i64,
    /// Bytes used in it, as of when the group had used `counted` bytes in all.
    pub(super) used: u64,
    pub(super) counted: u64,
    /// How much of `used` it began with.
    pub(super) entered: u64,
    /// Other periods that were counted, and the bytes used in each.
    pub(super) known: Vec<(i64, u64)>,
    /// Bytes that other machines have used in this period, and all of them together, as heard last.
    pub(super) elsewhere: u64,
    pub(super) heard: u64,
}

/// So many bytes per period: `50G/day`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// At least 1.
    pub bytes: u64,
    /// How often they are allowed anew.
    pub period: Period,
}

/// What a quota is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaOutlook {
    /// So many bytes per period.
    pub allowance: Allowance,
    /// What happens when it is used up.
    pub then: Then,
    /// Bytes used in this period.
    pub used: u64,
    /// When it begins anew.
    pub anew: Zoned,
}

impl QuotaOutlook {
    /// Bytes left in this period.
    pub fn left(&self) -> u64 {
        self.allowance.bytes.saturating_sub(self.used)
    }
}

impl Quota {
    /// One of which nothing is used in the period that began then.
    pub(super) fn new(allowance: Allowance, then: Then, begun: i64, counted: u64) -> Quota {
        let (used, entered, known, elsewhere, heard) = (0, 0, Vec::new(), 0, 0);
        Quota { allowance, then, begun, used, counted, entered, known, elsewhere, heard }
    }

    /// Bytes used in the period on this machine, where the group has used `counted` bytes in all.
    pub(super) fn own(&self, counted: u64) -> u64 {
        self.used.saturating_add(counted.saturating_sub(self.counted))
    }

    /// Bytes used in the period on all machines.
    pub(super) fn used(&self, counted: u64) -> u64 {
        self.own(counted).saturating_add(self.elsewhere)
    }

    /// Counts up to `now`, and turns to another period if another one has begun.
    ///
    /// A clock that steps back gives nothing for a second time: right after the begin of a period
    /// that one is counted on, and further back it starts with what was used in the period that it
    /// leaves. Where it returns to a period, what was used there still counts, and what was used
    /// meanwhile as well.
    pub(super) fn pass(&mut self, now: i64, counted: u64, zone: &TimeZone) {
        (self.used, self.counted) = (self.own(counted), counted);
        let period = self.allowance.period;
        let (Some(begin), Some(end)) = (period.begin(now, zone), period.end(now, zone)) else { return };
        if begin == self.begun || end == self.begun {
            return;
        }
        let meanwhile = self.used.saturating_sub(self.entered);
        let used = match self.known.iter().position(|(known, _)| *known == begin) {
            Some(place) => self.known.remove(place).1.saturating_add(meanwhile),
            None if begin < self.begun => self.used,
            None => 0,
        };
        self.known.push((self.begun, self.used));
        if self.known.len() > REMEMBERED {
            self.known.remove(0);
        }
        (self.begun, self.used, self.entered) = (begin, used, used);
        (self.elsewhere, self.heard) = (0, 0);
    }
}

impl Period {
    /// When the period began that `now` is in.
    pub(super) fn begin(self, now: i64, zone: &TimeZone) -> Option<i64> {
        self.bounds(now, zone).map(|(begin, _)| begin)
    }

    /// When it ends.
    pub(super) fn end(self, now: i64, zone: &TimeZone) -> Option<i64> {
        self.bounds(now, zone).map(|(_, end)| end)
    }

    fn bounds(self, now: i64, zone: &TimeZone) -> Option<(i64, i64)> {
        let today = zoned(now, zone)?.date();
        let (first, length): (_, Span) = match self {
            Period::Day => (today, 1.day()),
            Period::Week => {
                (today.checked_sub(i64::from(Weekday::Monday.until(today.weekday())).days()).ok()?, 1.week())
            }
            Period::Month => (today.first_of_month(), 1.month()),
        };
        // Where the clock jumps over midnight, the day begins with the jump.
        let midnight = |date: jiff::civil::Date| {
            Some(date.to_zoned(zone.clone()).ok()?.start_of_day().ok()?.timestamp().as_millisecond())
        };
        Some((midnight(first)?, midnight(first.checked_add(length).ok()?)?))
    }
}

/// A moment in milliseconds since 1970, in a time zone; nothing if it is beyond all years.
pub(super) fn zoned(millis: i64, zone: &TimeZone) -> Option<Zoned> {
    Some(Timestamp::from_millisecond(millis).ok()?.to_zoned(zone.clone()))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
        })
    }
}

/// `50 GiB per day`.
impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {}", show_size(self.bytes), self.period)
    }
}

impl FromStr for Allowance {
    type Err = UnitError;

    /// Reads `50G/day`, `1T/week` or `500G/month`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { reason: "is not a quota: use 50G/day, 200G/week or 1T/month".into() };
        let (size, period) = text.split_once('/').ok_or_else(wrong)?;
        let period = match period {
            "day" | "d" => Period::Day,
            "week" | "w" => Period::Week,
            "month" => Period::Month,
            _ => return Err(wrong()),
        };
        let bytes = parse_size(size).map_err(|_| wrong())?;
        if bytes == 0 {
            return Err(UnitError { reason: "allows nothing: use 'pcproxy ctl --group NAME pause'".into() });
        }
        Ok(Allowance { bytes, period })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse::<Zoned>()
            .map(|zoned| zoned.timestamp())
            .or_else(|_| format!("{text}[Europe/Berlin]").parse::<Zoned>().map(|zoned| zoned.timestamp()))
            .unwrap()
    }

    #[test]
    fn periods_begin_in_local_time_also_where_days_have_23_or_25_hours() {
        let bounds = |period: Period, now: &str, zone: &str| {
            let zone = TimeZone::get(zone).unwrap();
            let (begin, end) = period.bounds(at(now).as_millisecond(), &zone).unwrap();
            [begin, end].map(|time| zoned(time, &zone).unwrap().strftime("%Y-%m-%d %H:%M %a").to_string())
        };
        let berlin = "Europe/Berlin";
        assert_eq!(bounds(Period::Day, "2026-03-29T12:00", berlin), ["2026-03-29 00:00 Sun", "2026-03-30 00:00 Mon"]);
        assert_eq!(bounds(Period::Week, "2026-03-29T23:59", berlin), ["2026-03-23 00:00 Mon", "2026-03-30 00:00 Mon"]);
        assert_eq!(bounds(Period::Week, "2026-03-30T00:00", berlin)[0], "2026-03-30 00:00 Mon");
        assert_eq!(bounds(Period::Month, "2024-02-29T12:00", berlin), ["2024-02-01 00:00 Thu", "2024-03-01 00:00 Fri"]);
        assert_eq!(bounds(Period::Month, "2026-12-31T23:59", berlin)[1], "2027-01-01 00:00 Fri");
        // In Beirut the clock jumps over midnight.
        let beirut = bounds(Period::Day, "2026-03-29T12:00[Asia/Beirut]", "Asia/Beirut");
        assert_eq!(beirut, ["2026-03-29 01:00 Sun", "2026-03-30 00:00 Mon"]);
        let long: Vec<_> = Period::Day
            .bounds(at("2026-10-25T12:00").as_millisecond(), &TimeZone::get(berlin).unwrap())
            .into_iter()
            .collect();
        assert_eq!(long[0].1 - long[0].0, 25 * 3_600_000);
    }
}
