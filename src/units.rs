//! Sizes and rates as people write them.

use std::fmt;

/// Why a text is no size, no rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// What is wrong, for the user.
    reason: String,
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

/// A size for people: `64 KiB`.
pub fn show_size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
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
    fn refuses_what_is_no_size() {
        for text in ["", "K", "-1", "64X", "sixty", "1M/s", "0x10", "99E99"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
