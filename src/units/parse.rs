//! Sizes, rates and times as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is not a size, a rate or a time. The words follow the text and the option that it was
/// given for: `--rate: '5X' is not a rate: use ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// The reason, for the user.
    pub(crate) reason: String,
}

impl UnitError {
    fn new(reason: impl Into<String>) -> Self {
        UnitError { reason: reason.into() }
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for UnitError {}

/// Ways to write a size.
const SIZES: &str = "64K or 64KiB (65,536 bytes), 64kB (64,000 bytes), 1.5M, or a plain number of bytes";

/// Ways to write a rate.
const RATES: &str = "10M or 1.5MiB/s (bytes per second), 500kB, 10G/h, or 80Mbit (bits per second)";

/// The longest time that is accepted. Sums of times and clocks stay far from overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The shortest interval between two reports.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes from a size: `64K` and `64KiB` are 65,536, `64kB` is 64,000, a plain number is bytes.
///
/// # Errors
/// When the text is not a size, is a fraction of a byte, or is 2^64 bytes or more.
///
/// ```
/// use pcproxy::units::parse_size;
/// assert_eq!(parse_size("64K"), Ok(65_536));
/// assert_eq!(parse_size("64kB"), Ok(64_000));
/// assert_eq!(parse_size("1.5MiB"), Ok(1_572_864));
/// assert!(parse_size("64 quatloos").is_err());
/// assert!(parse_size("0.5").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let not_a_size = || UnitError::new(format!("is not a size: use {SIZES}"));
    let amount = Amount::read(text).ok_or_else(not_a_size)?;
    let prefix = amount.unit.strip_suffix(['b', 'B']);
    let factor = factor(prefix.unwrap_or(amount.unit), prefix.is_some()).ok_or_else(not_a_size)?;
    if factor == 1 && !amount.is_whole() {
        return Err(UnitError::new("must be a whole number of bytes"));
    }
    match amount.times(factor, 1) {
        None => Err(UnitError::new("must be below 16E (2^64 bytes)")),
        Some(0) if !amount.is_zero() => Err(UnitError::new("must be at least 1 byte")),
        Some(bytes) => Ok(bytes),
    }
}

/// Bytes, or records, in a number of seconds: `10M`, `30/m`, `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// How many, at least 1.
    pub amount: u64,
    /// In so many seconds, at least 1.
    pub seconds: u64,
    /// The unit in which to show it.
    pub unit: RateUnit,
}

impl Speed {
    /// Whole tokens per second, of which each of what is counted takes `tokens`.
    ///
    /// # Errors
    /// When that is less than one token per second, or more than 2^64.
    pub fn in_tokens(self, tokens: u64) -> Result<u64, UnitError> {
        let rate = u128::from(self.amount) * u128::from(tokens) / u128::from(self.seconds.max(1));
        match u64::try_from(rate) {
            Ok(0) => Err(UnitError::new("must be at least 1 byte per second")),
            Ok(rate) => Ok(rate),
            Err(_) => Err(UnitError::new("must be below 16E (2^64 bytes per second)")),
        }
    }
}

/// A rate as people write it: an amount per second (`10M`, `10M/s`, `80Mbit`: see [`GivenRate`]), per
/// minute (`30/m`) or per hour (`10G/h`).
///
/// # Errors
/// When the text is not a rate.
///
/// ```
/// use pcproxy::units::{RateUnit, Speed, parse_speed};
/// assert_eq!(parse_speed("30/m"), Ok(Speed { amount: 30, seconds: 60, unit: RateUnit::Binary }));
/// assert_eq!(parse_speed("30/m").and_then(|speed| speed.in_tokens(3600)), Ok(1800));
/// assert!(parse_speed("0/h").is_err());
/// ```
pub fn parse_speed(text: &str) -> Result<Speed, UnitError> {
    let (rate, seconds) = read_rate(text)?;
    Ok(Speed { amount: rate.per_second, seconds, unit: rate.unit })
}

/// Bytes per second from a rate: see [`GivenRate`].
///
/// # Errors
/// As for [`GivenRate`].
///
/// ```
/// use pcproxy::units::parse_rate;
/// assert_eq!(parse_rate("10M"), Ok(10 << 20));
/// assert_eq!(parse_rate("80Mbit"), Ok(10_000_000));
/// assert_eq!(parse_rate("10G/h"), Ok(2_982_616));
/// assert!(parse_rate("0").is_err());
/// assert!(parse_rate("10Mb").is_err());
/// ```
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    text.parse().map(|rate: GivenRate| rate.per_second)
}

/// A rate, and the kind of unit that it was given in: a size per second (`10M`, `10M/s`, `500kB`), or
/// bits per second (`80Mbit`, a power of ten: 10,000,000 bytes per second).
///
/// Parsing fails when the text is not a rate, is below one byte per second, is 2^64 bytes per second
/// or more, or ends in a `b` that could mean bits or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenRate {
    /// Bytes per second, at least 1.
    pub per_second: u64,
    /// The unit in which to show it.
    pub unit: RateUnit,
}

/// The kind of unit in which rates are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateUnit {
    /// `KiB/s`, `MiB/s`: powers of 1024 bytes.
    #[default]
    Binary,
    /// `kB/s`, `MB/s`: powers of 1000 bytes.
    Decimal,
    /// `kbit/s`, `Mbit/s`: powers of 1000 bits.
    Bits,
}

impl FromStr for GivenRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (rate, seconds) = read_rate(text)?;
        let per_second = Speed { amount: rate.per_second, seconds, unit: rate.unit }.in_tokens(1)?;
        Ok(GivenRate { per_second, ..rate })
    }
}

/// A rate per so many seconds.
fn read_rate(text: &str) -> Result<(GivenRate, u64), UnitError> {
    let (amount, seconds) = match text.rsplit_once('/') {
        Some((amount, "m" | "min")) => (amount, 60),
        Some((amount, "h")) => (amount, 3600),
        // Only the end of the last one is cut off below.
        Some((amount, "s")) if amount.contains('/') => ("", 1),
        _ => (text, 1),
    };
    if seconds > 1 && amount.contains('/') {
        return Err(UnitError::new(format!("is not a rate: use {RATES}")));
    }
    GivenRate::per_second(amount).map(|rate| (rate, seconds))
}

impl GivenRate {
    fn per_second(text: &str) -> Result<Self, UnitError> {
        let not_a_rate = || UnitError::new(format!("is not a rate: use {RATES}"));
        let amount = Amount::read(text).ok_or_else(not_a_rate)?;
        let unit = amount.unit.strip_suffix("/s").unwrap_or(amount.unit);
        if let Some(prefix) = unit.strip_suffix("bps").or(unit.strip_suffix('b'))
            && factor(prefix, true).is_some()
        {
            let number = amount.number;
            return Err(UnitError::new(format!(
                "may mean bits or bytes: write {number}{prefix}bit or {number}{prefix}B"
            )));
        }
        let (prefix, unit) = match (unit.strip_suffix("bit"), unit.strip_suffix('B')) {
            (Some(prefix), _) => (prefix, RateUnit::Bits),
            (None, Some(prefix)) if prefix.ends_with('i') || prefix.is_empty() => (prefix, RateUnit::Binary),
            (None, Some(prefix)) => (prefix, RateUnit::Decimal),
            (None, None) => (unit, RateUnit::Binary),
        };
        let factor = factor(prefix, unit != RateUnit::Binary).ok_or_else(not_a_rate)?;
        let divisor = if unit == RateUnit::Bits { 8 } else { 1 };
        match amount.times(factor, divisor) {
            Some(1..) if factor == 1 && divisor == 1 && !amount.is_whole() => {
                Err(UnitError::new("must be a whole number of bytes per second"))
            }
            None => Err(UnitError::new("must be below 16E (2^64 bytes per second)")),
            Some(0) => Err(UnitError::new("must be at least 1 byte per second")),
            Some(per_second) => Ok(GivenRate { per_second, unit }),
        }
    }
}

/// A number and the unit behind it.
struct Amount<'a> {
    /// The number as it was written.
    number: &'a str,
    /// The number is `numerator / denominator`; none if it is beyond all bounds.
    numerator: Option<u128>,
    denominator: u128,
    unit: &'a str,
}

impl<'a> Amount<'a> {
    /// Digits after the point that count. Further ones make no difference to any size.
    const DECIMALS: usize = 18;

    /// Splits `1.5 MiB`. Nothing if it does not begin with a number.
    fn read(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if decimals.contains('.') || (whole.is_empty() && decimals.is_empty()) {
            return None;
        }
        let counted = &decimals[..decimals.len().min(Self::DECIMALS)];
        // Numbers of more digits than this are beyond 2^64 in any unit.
        let whole = whole.trim_start_matches('0');
        let digits = format!("0{whole}{counted}");
        let numerator = if whole.len() > 20 { None } else { digits.parse().ok() };
        Some(Amount { number, numerator, denominator: 10_u128.pow(counted.len() as u32), unit: unit.trim_start() })
    }

    fn is_whole(&self) -> bool {
        self.numerator.is_none_or(|numerator| numerator % self.denominator == 0)
    }

    fn is_zero(&self) -> bool {
        self.numerator == Some(0)
    }

    /// The number times `factor / divisor`, rounded, but 0 if it is below 1. Nothing if it is 2^64 or
    /// more.
    fn times(&self, factor: u128, divisor: u128) -> Option<u64> {
        let scaled = self.numerator?.checked_mul(factor)?;
        let divisor = divisor * self.denominator;
        if scaled < divisor {
            return Some(0);
        }
        u64::try_from((scaled + divisor / 2) / divisor).ok()
    }
}

/// The factor of a prefix: `K` and `Ki` are 1024, or `k` is 1000 where the unit behind it
/// is `decimal`.
fn factor(prefix: &str, decimal: bool) -> Option<u128> {
    let letter = prefix.strip_suffix('i');
    let mut letters = letter.unwrap_or(prefix).chars();
    let power = match (letters.next(), letters.next()) {
        (None, _) if letter.is_none() => 0,
        (Some(letter), None) => 1 + "KMGTPE".find(letter.to_ascii_uppercase())? as u32,
        _ => return None,
    };
    Some(if decimal && letter.is_none() { 1000_u128 } else { 1024 }.pow(power))
}

/// A time: `1s`, `500ms`, `1m`, or a plain number of seconds.
///
/// # Errors
/// When the text is not a time, is negative, or is longer than a year.
///
/// ```
/// use pcproxy::units::parse_time;
/// use std::time::Duration;
/// assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(parse_time("0"), Ok(Duration::ZERO));
/// assert!(parse_time("-1s").is_err());
/// ```
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let too_long = || UnitError::new("must be at most 366 days");
    let not_a_time = || UnitError::new("is not a time: use 1s, 500ms, 2m, or a number of seconds");
    let time = match text.parse::<f64>() {
        Ok(seconds) if seconds > LONGEST.as_secs_f64() => return Err(too_long()),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| not_a_time())?,
        Err(_) => {
            let time = text.parse::<jiff::SignedDuration>().map_err(|_| not_a_time())?;
            time.try_into().map_err(|_| not_a_time())?
        }
    };
    if time > LONGEST { Err(too_long()) } else { Ok(time) }
}

/// The time between two reports: a time of at least 10 ms.
///
/// # Errors
/// When the text is not a time, or one below 10 ms or longer than a year.
///
/// ```
/// use pcproxy::units::parse_interval;
/// use std::time::Duration;
/// assert_eq!(parse_interval("500ms"), Ok(Duration::from_millis(500)));
/// assert_eq!(parse_interval("2"), Ok(Duration::from_secs(2)));
/// assert!(parse_interval("0").is_err());
/// ```
pub fn parse_interval(text: &str) -> Result<Duration, UnitError> {
    match parse_time(text)? {
        time if time >= SHORTEST_INTERVAL => Ok(time),
        _ => Err(UnitError::new("must be at least 10ms")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::{RateChange, show_rate_in, show_size};

    #[test]
    fn reads_the_three_ways_to_write_a_size() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("100", 100),
            ("64k", 65_536),
            ("64K", 65_536),
            ("64KiB", 65_536),
            ("64kB", 64_000),
            ("64KB", 64_000),
            ("64Ki", 65_536),
            ("100B", 100),
            ("1.5M", 1_572_864),
            (".5K", 512),
            ("1.0", 1),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("16 MiB", 16 << 20),
            ("18446744073709551615", u64::MAX),
            ("00000000000000000000000000000000000000000001", 1),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn reads_rates_in_bytes_and_bits() {
        for (text, rate, unit) in [
            ("1", 1, RateUnit::Binary),
            ("10M", 10 << 20, RateUnit::Binary),
            ("10B/s", 10, RateUnit::Binary),
            ("1.5MiB/s", 1_572_864, RateUnit::Binary),
            ("500kB", 500_000, RateUnit::Decimal),
            ("500kB/s", 500_000, RateUnit::Decimal),
            ("80Mbit", 10_000_000, RateUnit::Bits),
            ("80Mbit/s", 10_000_000, RateUnit::Bits),
            ("8bit", 1, RateUnit::Bits),
            ("8Kibit", 1024, RateUnit::Bits),
        ] {
            assert_eq!(text.parse(), Ok(GivenRate { per_second: rate, unit }), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_rate() {
        for text in [
            "", "0", "0M", "5X", "7bit", "-1", "M/s", "10M/d", "1/s/s", "10/h", "10 Mbps", "0.5", "1.5", "16E",
            "99E99", "10Mbits",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lone_b_is_neither_bits_nor_bytes() {
        for (text, spellings) in [
            ("10Mb", "10Mbit or 10MB"),
            ("10Mb/s", "10Mbit or 10MB"),
            ("1.5kb", "1.5kbit or 1.5kB"),
            ("10Mbps", "10Mbit or 10MB"),
            ("10b", "10bit or 10B"),
        ] {
            let error = parse_rate(text).unwrap_err().to_string();
            assert!(error.contains("bits or bytes") && error.ends_with(spellings), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in
            ["", "K", "-1", "64X", "sixty", "1M/s", "0x10", "99E99", ".", "1.2.3", "i", "1i", "0.5", "1.5B", "0.0001K"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_error_of_a_large_size_does_not_offer_it() {
        for text in ["16E", "18446744073709551616", "99999999999999999999999999999999999999999999999", "1e", "17E"] {
            let error = parse_size(text).map_err(|error| error.reason);
            if text == "1e" {
                assert_eq!(error, Ok(1 << 60));
            } else {
                assert!(error.unwrap_err().contains("must be below 16E"), "{text}");
            }
        }
    }

    #[test]
    fn a_time_beyond_a_year_is_refused() {
        for text in ["18446744073709549568", "1e300", "inf", "9000h", "366d 1s"] {
            let error = parse_interval(text).unwrap_err().to_string();
            assert!(error.starts_with("must be at most") || error.starts_with("is not a time"), "{text}: {error}");
        }
        for text in ["-1", "NaN", "-1s", "", "s", "1 quatloo"] {
            assert!(parse_interval(text).unwrap_err().to_string().starts_with("is not a time"), "{text}");
        }
        assert_eq!(parse_interval("1h"), Ok(Duration::from_secs(3600)));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            let _ = (parse_size(&text), parse_rate(&text), parse_time(&text), parse_interval(&text));
        }

        #[test]
        fn no_text_that_looks_like_a_number_makes_a_parser_panic(text in "[0-9]{0,45}[.]?[0-9]{0,45}[ ]?[kKMGTPEibB]{0,3}(bit|bps)?(/s)?") {
            if let Ok(rate) = parse_rate(&text) {
                prop_assert!(rate > 0);
            }
            let _ = (parse_size(&text), parse_time(&text));
        }

        /// A few wrong characters in a good text: what is still read is in range.
        #[test]
        fn what_a_damaged_text_is_read_as_is_in_range(
            text in prop::sample::select(vec!["64K", "1.5MiB", "10M/s", "80Mbit", "10G/h", "30/m", "500ms", "1h 30m", "+10%", "-25%", "-1M"]),
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof!["[0-9a-zA-Z./+% -]", "."], any::<bool>()), 1..6),
        ) {
            let mut letters: Vec<_> = text.chars().map(String::from).collect();
            for (at, letter, replace) in changes {
                let at = at.index(letters.len());
                letters.splice(at..at + usize::from(replace), [letter]);
            }
            let text = letters.concat();
            prop_assert!(parse_time(&text).is_ok_and(|time| time <= LONGEST) || parse_time(&text).is_err());
            if let Ok(time) = parse_interval(&text) {
                prop_assert!((SHORTEST_INTERVAL..=LONGEST).contains(&time));
            }
            if let Ok(speed) = parse_speed(&text) {
                prop_assert!(speed.amount > 0 && [1, 60, 3600].contains(&speed.seconds));
                prop_assert!(speed.in_tokens(3600).is_ok_and(|rate| rate > 0) || speed.in_tokens(3600).is_err());
            }
            if let Ok(change) = text.parse::<RateChange>() {
                for rate in [1, 1000, u64::MAX] {
                    prop_assert!(change.of(rate, 3600).is_none_or(|rate| rate > 0));
                }
            }
            let _ = parse_size(&text);
        }

        /// Of a number from outside that is no text, such as one in a request.
        #[test]
        fn a_speed_or_a_change_of_any_numbers_is_a_rate_or_an_error(
            amount: u64, seconds: u64, tokens in 1..=3600_u64, percent: i32, change: i64, rate: u64,
        ) {
            let speed = Speed { amount, seconds, unit: RateUnit::default() };
            prop_assert_ne!(speed.in_tokens(tokens), Ok(0));
            for change in [RateChange::Percent(percent), RateChange::Amount(change)] {
                prop_assert_ne!(change.of(rate, tokens), Some(0));
            }
        }

        #[test]
        fn a_time_is_read_as_it_is_written(millis in 0..=366 * 24 * 3_600_000_u64) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_time(&format!("{millis}ms")), Ok(time));
            prop_assert_eq!(parse_time(&format!("{}s {}ms", millis / 1000, millis % 1000)), Ok(time));
            let seconds = parse_time(&format!("{}.{:03}", millis / 1000, millis % 1000)).unwrap();
            prop_assert!(seconds.abs_diff(time) < Duration::from_micros(1), "{:?} and {:?}", seconds, time);
        }

        /// A size or rate that the program shows can be given to it.
        #[test]
        fn what_is_shown_is_read_as_nearly_the_same(amount in 1..u64::MAX / 2) {
            let near = |read: Result<u64, UnitError>| read.is_ok_and(|read| {
                (read as f64 / amount as f64 - 1.0).abs() <= 0.01
            });
            let size = show_size(amount);
            prop_assert!(near(parse_size(&size)), "{} is shown as {}", amount, size);
            for unit in [RateUnit::Binary, RateUnit::Decimal, RateUnit::Bits] {
                let rate = show_rate_in(amount as f64, unit);
                prop_assert!(near(parse_rate(&rate)), "{} is shown as {}", amount, rate);
            }
        }

        #[test]
        fn a_plain_number_is_that_many_bytes(bytes: u64) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
            prop_assert_eq!(parse_rate(&format!("{}/s", bytes.max(1))), Ok(bytes.max(1)));
        }

        #[test]
        fn a_unit_multiplies_to_the_nearest_byte(number in 0_u32..4_000_000, decimals in 0_u32..1000, power in 1_usize..5) {
            let prefix = ["k", "M", "G", "T"][power - 1];
            let exact = (f64::from(number) + f64::from(decimals) / 1000.0) * 1024_f64.powi(power as i32);
            let parsed = parse_size(&format!("{number}.{decimals:03}{prefix}"));
            let parsed = if exact > 0.0 && exact < 1.0 { exact } else { parsed.unwrap() as f64 };
            prop_assert!((parsed - exact).abs() <= 0.5 + exact * 1e-12, "{} {}", parsed, exact);
        }
    }
}
