//! Changes of a rate, as people write them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{UnitError, parse_rate};

/// By how much a rate is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateChange {
    /// So many hundredths of it.
    Percent(i32),
    /// So many bytes, or records, per second.
    Amount(i64),
}

impl RateChange {
    /// The new rate in tokens per second, of which each byte or record takes `tokens`; nothing
    /// if it would be less than 1.
    ///
    /// ```
    /// use pcproxy::units::RateChange;
    /// assert_eq!(RateChange::Percent(10).of(1000, 1), Some(1100));
    /// assert_eq!(RateChange::Amount(-1000).of(1000, 1), None);
    /// ```
    pub fn of(self, rate: u64, tokens: u64) -> Option<u64> {
        let rate = i128::from(rate);
        let changed = match self {
            RateChange::Percent(percent) => rate + rate * i128::from(percent) / 100,
            RateChange::Amount(amount) => rate + i128::from(amount) * i128::from(tokens),
        };
        u64::try_from(changed.min(u64::MAX.into())).ok().filter(|rate| *rate > 0)
    }
}

impl FromStr for RateChange {
    type Err = UnitError;

    /// Reads `+10%`, `-1M` or `+80Mbit`. The minus sign U+2212 does as well.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { reason: "is not a change of a rate: use +10%, -25%, +1M or -500kB".into() };
        let mut signs = text.chars();
        let sign = match signs.next() {
            Some('+') => 1,
            Some('-' | '\u{2212}') => -1,
            _ => return Err(wrong()),
        };
        let amount = signs.as_str();
        if !amount.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(wrong());
        }
        let change = match amount.strip_suffix('%') {
            Some(percent) => RateChange::Percent(sign * percent.parse::<i32>().map_err(|_| wrong())?),
            None => {
                let bytes = parse_rate(amount).map_err(|_| wrong())?;
                RateChange::Amount(i64::from(sign) * i64::try_from(bytes).map_err(|_| wrong())?)
            }
        };
        match change {
            RateChange::Percent(..=-100) => Err(UnitError { reason: "would leave nothing of the rate".into() }),
            change => Ok(change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_changes() {
        for (text, change) in [
            ("+10%", RateChange::Percent(10)),
            ("-99%", RateChange::Percent(-99)),
            ("+1M", RateChange::Amount(1 << 20)),
            ("\u{2212}2M", RateChange::Amount(-2 << 20)),
            ("-500kB/s", RateChange::Amount(-500_000)),
            ("+8Mbit", RateChange::Amount(1_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(change), "{text}");
        }
        for text in
            ["", "+", "-", "10%", "1M", "+-1M", "--1M", "+%", "-100%", "-1000%", "+1e3%", "+99999999999%", "+16E"]
        {
            assert!(text.parse::<RateChange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_stays_within_its_bounds() {
        assert_eq!(RateChange::Amount(-2).of(5 * 3600, 3600), Some(3 * 3600));
        for (change, rate, changed) in [
            (RateChange::Percent(-50), 3, Some(2)),
            (RateChange::Percent(-99), 1, Some(1)),
            (RateChange::Percent(i32::MAX), u64::MAX, Some(u64::MAX)),
            (RateChange::Percent(i32::MIN), u64::MAX, None),
            (RateChange::Amount(i64::MAX), u64::MAX, Some(u64::MAX)),
            (RateChange::Amount(i64::MIN), 5, None),
            (RateChange::Amount(-4), 5, Some(1)),
        ] {
            assert_eq!(change.of(rate, 1), changed, "{change:?} of {rate}");
        }
    }
}
