//! Sizes and rates as people write them.

use std::fmt;
use std::time::Duration;

/// Why a text is no size, no rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// What is wrong, for the user.
    pub(crate) reason: String,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for UnitError {}

/// What a size may look like.
const SIZES: &str = "64K or 64KiB (65,536 bytes), 64kB (64,000 bytes), 1.5M, or a plain number of bytes";

/// Bytes from a size: `64K` and `64KiB` are 65,536, `64kB` is 64,000, a plain number is bytes.
///
/// # Errors
/// When the text is no size, or one beyond 2^64 bytes.
///
/// ```
/// use pcproxy::units::parse_size;
/// assert_eq!(parse_size("64K"), Ok(65_536));
/// assert_eq!(parse_size("64kB"), Ok(64_000));
/// assert_eq!(parse_size("1.5MiB"), Ok(1_572_864));
/// assert!(parse_size("64 quatloos").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    // `K` is a power of two and `kB` one of ten, as GNU's tools have it.
    let decimal = text.ends_with(['b', 'B']);
    let config = parse_size::Config::new();
    let parsed = if decimal { config.with_decimal().parse_size(text) } else { config.with_binary().parse_size(text) };
    parsed.map_err(|error| UnitError {
        reason: match error {
            parse_size::Error::PosOverflow => "is too large: the largest size is 16E, 2^64 bytes".to_owned(),
            _ => format!("is not a size: use {SIZES}"),
        },
    })
}

/// Bytes a second from a rate: a size (`10M`), if you like with `/s`, or bits (`80Mbit`, a
/// power of ten: 10,000,000 bytes a second).
///
/// # Errors
/// When the text is no rate, or one below a byte or beyond 2^64 bytes a second.
///
/// ```
/// use pcproxy::units::parse_rate;
/// assert_eq!(parse_rate("10M"), Ok(10 << 20));
/// assert_eq!(parse_rate("80Mbit"), Ok(10_000_000));
/// assert!(parse_rate("0").is_err());
/// ```
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let amount = text.strip_suffix("/s").unwrap_or(text);
    let parsed = match amount.strip_suffix("bit") {
        Some(bits) => parse_size::Config::new().with_decimal().parse_size(bits).ok().map(|bits| bits / 8),
        None => parse_size(amount).ok(),
    };
    match parsed {
        Some(0) => Err(UnitError { reason: "is no rate at which anything moves: the least is 1 byte a second".into() }),
        Some(rate) => Ok(rate),
        None => Err(UnitError {
            reason: "is not a rate: use 10M or 1.5MiB/s (bytes a second), 500kB, or 80Mbit (bits a second)".into(),
        }),
    }
}

/// A time: `1s`, `500ms`, `1m`, or a plain number of seconds.
///
/// # Errors
/// When the text is no time, or one below zero.
///
/// ```
/// use pcproxy::units::parse_time;
/// use std::time::Duration;
/// assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(parse_time("0"), Ok(Duration::ZERO));
/// assert!(parse_time("-1s").is_err());
/// ```
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = || text.parse::<jiff::SignedDuration>().ok()?.try_into().ok();
    let time = seconds.or_else(time);
    time.ok_or_else(|| UnitError { reason: "is not a time: use 1s, 500ms, 2m, or a number of seconds".into() })
}

/// The time between two records: a time of at least 10 ms.
///
/// # Errors
/// When the text is no time, or one below 10 ms.
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
        time if time >= Duration::from_millis(10) => Ok(time),
        _ => Err(UnitError { reason: "is too short: the least is 10ms".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("100B", 100),
            ("1.5M", 1_572_864),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("16 MiB", 16 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn reads_rates_in_bytes_and_bits() {
        for (text, rate) in [
            ("1", 1),
            ("10M", 10 << 20),
            ("1.5MiB/s", 1_572_864),
            ("500kB", 500_000),
            ("500kB/s", 500_000),
            ("80Mbit", 10_000_000),
            ("80Mbit/s", 10_000_000),
            ("8bit", 1),
            ("8Kibit", 1024),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_rate() {
        for text in ["", "0", "0M", "5X", "7bit", "-1", "M/s", "10M/h", "10 Mbps"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "K", "-1", "64X", "sixty", "1M/s", "0x10", "99E99"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
