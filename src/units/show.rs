//! Numbers for people.

use super::RateUnit;

use std::time::Duration;

/// A size for people: `64 KiB`.
pub fn show_size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

/// A rate in bytes a second for people: `9.99 MiB/s`.
///
/// ```
/// assert_eq!(pcproxy::units::show_rate(10_475_274.2), "9.99 MiB/s");
/// ```
pub fn show_rate(rate: f64) -> String {
    format!("{}/s", show_size(rate.round() as u64))
}

/// A rate in bytes per second for people, in units of this kind: `8 Mbit/s`.
///
/// ```
/// use pcproxy::units::{RateUnit, show_rate_in};
/// assert_eq!(show_rate_in(1e6, RateUnit::Bits), "8 Mbit/s");
/// assert_eq!(show_rate_in(500e3, RateUnit::Decimal), "500 kB/s");
/// assert_eq!(show_rate_in(65_536.0, RateUnit::Binary), "64 KiB/s");
/// ```
pub fn show_rate_in(rate: f64, unit: RateUnit) -> String {
    let Some((amount, name)) = in_thousands(rate, unit, 999.995) else { return show_rate(rate) };
    let amount = format!("{amount:.2}");
    format!("{} {name}/s", amount.trim_end_matches('0').trim_end_matches('.'))
}

/// A rate of so many of the largest unit of this kind in which it is at least 1. Units change where an
/// amount reaches `bound`. Nothing for powers of 1024.
fn in_thousands(rate: f64, unit: RateUnit, bound: f64) -> Option<(f64, &'static str)> {
    let (mut amount, names) = match unit {
        RateUnit::Binary => return None,
        RateUnit::Decimal => (rate, ["B", "kB", "MB", "GB", "TB", "PB", "EB"]),
        RateUnit::Bits => (rate * 8.0, ["bit", "kbit", "Mbit", "Gbit", "Tbit", "Pbit", "Ebit"]),
    };
    // Whole bytes or bits. No number is 0.
    amount = amount.max(0.0).round();
    let mut names = names.into_iter();
    let mut name = names.next()?;
    for larger in names {
        if amount < bound {
            break;
        }
        (amount, name) = (amount / 1000.0, larger);
    }
    Some((amount, name))
}

/// The same in at most ten columns, to three digits: `8.00 Mbit/s`, `1.23 GiB/s`. Bits take one column
/// more.
///
/// ```
/// use pcproxy::units::{RateUnit, show_rate_briefly};
/// assert_eq!(show_rate_briefly(1e6, RateUnit::Bits), "8.00 Mbit/s");
/// assert_eq!(show_rate_briefly(999.7e3, RateUnit::Decimal), "1.00 MB/s");
/// ```
pub fn show_rate_briefly(rate: f64, unit: RateUnit) -> String {
    let Some((amount, name)) = in_thousands(rate, unit, 999.5) else { return show_briefly(rate) + "/s" };
    let is_whole = name == "B" || name == "bit" || amount >= 99.95;
    let decimals = if is_whole { 0 } else { usize::from(amount < 99.95) + usize::from(amount < 9.995) };
    format!("{amount:.decimals$} {name}/s")
}

/// Bytes in at most eight columns, to three digits: `1.23 GiB`, `1023 KiB`, `12 B`.
///
/// ```
/// assert_eq!(pcproxy::units::show_briefly(1_320_702_444.0), "1.23 GiB");
/// ```
pub fn show_briefly(bytes: f64) -> String {
    // The sum of no numbers is -0.0.
    let mut amount = if bytes > 0.0 { bytes.min(u64::MAX as f64) } else { 0.0 };
    let (mut unit, mut decimals) = ("B", 0);
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        // The bounds are where rounding would reach the next unit, or make another digit.
        if amount < 1023.5 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
        decimals = if amount < 9.995 { 2 } else { usize::from(amount < 99.95) };
    }
    format!("{amount:.decimals$} {unit}")
}

/// A part of a total, in the total's unit and not rounded up: `70 of 300 MiB`. The columns depend
/// on the total alone.
///
/// ```
/// assert_eq!(pcproxy::units::show_of(70 << 20, 300 << 20), " 70 of 300 MiB");
/// assert_eq!(pcproxy::units::show_of(1 << 20, 5 << 30), "0.00 of 5.00 GiB");
/// ```
pub fn show_of(part: u64, total: u64) -> String {
    let shown = show_briefly(total as f64);
    let (number, unit) = shown.split_once(' ').unwrap_or((&shown, ""));
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|name| *name == unit).unwrap_or(0);
    let scale = 10_f64.powi(decimals as i32);
    // The total is rounded to nearest, and all of it must look like all of it.
    let whole = part >= total;
    let part = (part as f64 / 1024_f64.powi(power as i32) * scale).floor() / scale;
    let part = if whole { number.to_owned() } else { format!("{part:.decimals$}") };
    format!("{part:>width$} of {shown}", width = number.len())
}

/// A number of records in at most eight columns, to three digits: `1.23 M`, `999`.
///
/// ```
/// assert_eq!(pcproxy::units::show_count(1_234_567.0), "1.23 M");
/// assert_eq!(pcproxy::units::show_count(0.5), "0.5");
/// ```
pub fn show_count(count: f64) -> String {
    let mut amount = if count > 0.0 { count } else { 0.0 };
    if amount < 999.5 {
        let shown = if amount < 9.995 { format!("{amount:.2}") } else { format!("{amount:.1}") };
        return shown.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let mut unit = "";
    for larger in ["k", "M", "G", "T", "P", "E"] {
        if amount < 999.5 {
            break;
        }
        (amount, unit) = (amount / 1000.0, larger);
    }
    let decimals = if amount < 9.995 { 2 } else { usize::from(amount < 99.95) };
    format!("{amount:.decimals$} {unit}")
}

/// A rate in records per second for people: `5/s`, `30/min`, `1/h`.
///
/// ```
/// assert_eq!(pcproxy::units::show_record_rate(0.5), "30/min");
/// ```
pub fn show_record_rate(rate: f64) -> String {
    match rate {
        rate if rate >= 1.0 || rate <= 0.0 => format!("{}/s", show_count(rate)),
        rate if rate * 60.0 >= 1.0 => format!("{}/min", show_count(rate * 60.0)),
        rate => format!("{}/h", show_count(rate * 3600.0)),
    }
}

/// A time in seconds, with three digits or so: `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`.
///
/// ```
/// assert_eq!(pcproxy::units::show_time(200.0), "3 min 20 s");
/// ```
pub fn show_time(seconds: f64) -> String {
    // The bounds are where rounding would reach the next unit.
    if seconds < 0.01 {
        format!("{seconds:.3} s")
    } else if seconds < 9.995 {
        format!("{seconds:.2} s")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if seconds < 3599.5 {
        let seconds = seconds.round() as u64;
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// A time that somebody chose, to the last digit where it is short: `30 s`, `0.5 s`, `3 min 20 s`.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(pcproxy::units::show_timeout(Duration::from_secs(30)), "30 s");
/// ```
pub fn show_timeout(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 60.0 => format!("{seconds} s"),
        seconds => show_time(seconds),
    }
}

/// The share that `part` has of `whole`, never more than all of it: `83 %`. Of nothing it is
/// nothing.
pub fn show_share(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 };
    format!("{:.0} %", share * 100.0)
}

/// A number to the last digit: `20,971,520`.
pub fn show_number(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A number of bytes to the last one, in words for a sentence: `20,971,520 bytes`.
pub fn show_bytes(bytes: u64) -> String {
    show_number(bytes) + if bytes == 1 { " byte" } else { " bytes" }
}

/// A text from outside, such as a name or a path, that is harmless on a terminal: characters that
/// move the cursor, change colours, break the line or reverse the direction of writing become `?`.
///
/// ```
/// assert_eq!(pcproxy::units::printable("a\x1b[2Jb\nc\u{202e}d"), "a?[2Jb?c?d");
/// ```
pub fn printable(text: &str) -> String {
    text.replace(is_harmful, "?")
}

/// Control characters (Unicode's Cc), and of the format characters (Cf) those that override the
/// direction of writing, separate lines or carry hidden text.
fn is_harmful(c: char) -> bool {
    let overrides =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}');
    let hides = matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    c.is_control() || overrides || hides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GivenRate;

    #[test]
    fn shows_times() {
        for (seconds, shown) in [
            (0.0, "0.000 s"),
            (0.0034, "0.003 s"),
            (0.42, "0.42 s"),
            (9.994, "9.99 s"),
            (9.996, "10.0 s"),
            (12.34, "12.3 s"),
            (59.96, "1 min 00 s"),
            (200.4, "3 min 20 s"),
            (3599.6, "1 h 00 min"),
            (7500.0, "2 h 05 min"),
            (360_000.0, "100 h 00 min"),
        ] {
            assert_eq!(show_time(seconds), shown, "{seconds}");
        }
    }

    #[test]
    fn shows_chosen_times() {
        for (millis, shown) in [(30_000, "30 s"), (500, "0.5 s"), (1, "0.001 s"), (90_000, "1 min 30 s")] {
            assert_eq!(show_timeout(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn shows_shares() {
        for (part, whole, shown) in
            [(0.0, 0.0, "0 %"), (1.0, 0.0, "0 %"), (0.834, 1.0, "83 %"), (0.996, 1.0, "100 %"), (3.0, 2.0, "100 %")]
        {
            assert_eq!(show_share(part, whole), shown, "{part} of {whole}");
        }
    }

    #[test]
    fn shows_bytes() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1,000 bytes"),
            (20_971_520, "20,971,520 bytes"),
            (u64::MAX, "18,446,744,073,709,551,615 bytes"),
        ] {
            assert_eq!(show_bytes(bytes), shown);
        }
    }

    #[test]
    fn shows_brief_sizes() {
        for (bytes, shown) in [
            (0.0, "0 B"),
            (-0.0, "0 B"),
            (1023.4, "1023 B"),
            (1023.5, "1.00 KiB"),
            (10_240.0, "10.0 KiB"),
            (1_047_552.0, "1023 KiB"),
            (1_048_064.0, "1.00 MiB"),
            (u64::MAX as f64, "16.0 EiB"),
            (f64::NAN, "0 B"),
        ] {
            assert_eq!(show_briefly(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn what_could_move_the_cursor_or_turn_a_line_around_is_shown_as_a_question_mark() {
        for harmful in [
            "\x00",
            "\x07",
            "\x1b",
            "\n",
            "\r",
            "\t",
            "\x7f",
            "\u{9b}",
            "\u{202e}",
            "\u{2066}",
            "\u{200f}",
            "\u{e0041}",
        ] {
            assert_eq!(printable(&format!("a{harmful}b")), "a?b", "{harmful:?}");
        }
        for harmless in ["naïve", "日本語", "דוח", "👩\u{200d}🚀", "e\u{301}"] {
            assert_eq!(printable(harmless), harmless);
        }
    }

    #[test]
    fn a_rate_is_shown_in_the_unit_it_was_given_in() {
        for (text, shown, brief) in [
            ("8Mbit", "8 Mbit/s", "8.00 Mbit/s"),
            ("500kB", "500 kB/s", "500 kB/s"),
            ("1.5GB/s", "1.5 GB/s", "1.50 GB/s"),
            ("10M", "10 MiB/s", "10.0 MiB/s"),
            ("64KiB", "64 KiB/s", "64.0 KiB/s"),
            ("8bit", "8 bit/s", "8 bit/s"),
            ("15E", "15 EiB/s", "15.0 EiB/s"),
        ] {
            let rate: GivenRate = text.parse().unwrap();
            assert_eq!(show_rate_in(rate.per_second as f64, rate.unit), shown, "{text}");
            assert_eq!(show_rate_briefly(rate.per_second as f64, rate.unit), brief, "{text}");
        }
    }

    #[test]
    fn shows_rates() {
        for (rate, shown) in [(0.0, "0 B/s"), (999.6, "1000 B/s"), (10_485_760.0, "10 MiB/s"), (f64::NAN, "0 B/s")] {
            assert_eq!(show_rate(rate), shown);
        }
    }
}
