//! Axes of the picture: where they end, and what is written along them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pcproxy::units::RateUnit;

/// Free space above the highest value, as a share of that value.
const HEADROOM: f64 = 0.06;

/// Labels along a time axis, at most.
const MOST_TIMES: f64 = 8.0;

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86400.0;

/// A linear axis that begins at 0.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The highest value.
    pub end: f64,
    /// Values and what is written at them, from 0 up.
    pub labels: Vec<(f64, String)>,
    /// The unit of the labels, such as `MiB` or `s`.
    pub name: String,
}

impl Axis {
    /// The time axis of a run of so many seconds, from its beginning.
    pub fn time(seconds: f64) -> Self {
        const UNITS: [(&str, f64, &[f64]); 5] = [
            ("ms", 0.001, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0]),
            ("s", 1.0, &[0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]),
            ("min", MINUTE, &[0.5, 1.0, 2.0, 5.0, 10.0, 15.0]),
            ("h", HOUR, &[0.5, 1.0, 2.0, 3.0, 6.0, 12.0]),
            ("days", DAY, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
        ];
        let end = seconds.max(0.001);
        let steps =
            UNITS.iter().flat_map(|&(name, unit, steps)| steps.iter().map(move |step| (step * unit, unit, name)));
        let fitting = steps.clone().find(|(step, ..)| end / step <= MOST_TIMES);
        let (step, unit, name) = fitting.unwrap_or((end / MOST_TIMES, DAY, "days"));
        Axis { end, labels: labels(end, step, unit), name: name.to_owned() }
    }

    /// The time axis of a run of so many seconds that began at `start` (seconds since the Unix
    /// epoch), labelled with the time of day in `zone`.
    pub fn time_of_day(start: f64, seconds: f64, zone: &TimeZone) -> Self {
        const STEPS: [f64; 21] = [
            1.0,
            2.0,
            5.0,
            10.0,
            15.0,
            30.0,
            MINUTE,
            2.0 * MINUTE,
            5.0 * MINUTE,
            10.0 * MINUTE,
            15.0 * MINUTE,
            30.0 * MINUTE,
            HOUR,
            2.0 * HOUR,
            3.0 * HOUR,
            6.0 * HOUR,
            12.0 * HOUR,
            DAY,
            2.0 * DAY,
            5.0 * DAY,
            10.0 * DAY,
        ];
        let end = seconds.max(0.001);
        let step =
            STEPS.into_iter().find(|step| end / step <= MOST_TIMES).unwrap_or((end / MOST_TIMES / DAY).ceil() * DAY);
        let moment = |time: f64| Timestamp::from_millisecond((time * 1000.0) as i64).unwrap_or_default();
        // Round times of the local clock. Where daylight saving changes it, the labels stay true.
        let offset = f64::from(zone.to_offset(moment(start)).seconds());
        let first = ((start + offset) / step).ceil() * step - offset - start;
        let format = match step {
            ..MINUTE => "%H:%M:%S",
            ..DAY => "%H:%M",
            _ => "%b %d",
        };
        let times = (0..=MOST_TIMES as u32).map(|label| first + f64::from(label) * step).filter(|time| *time <= end);
        let labels = times
            .map(|time| (time, moment(start + time).to_zoned(zone.clone()).strftime(format).to_string()))
            .collect();
        let name = moment(start).to_zoned(zone.clone()).strftime("%Y-%m-%d, UTC%:z").to_string();
        Axis { end, labels, name }
    }

    /// An axis for bytes up to `top`. It has three to six labels above 0, one of them at `top` if
    /// that is a round number.
    pub fn bytes(top: f64) -> Self {
        Self::amounts(top, 1.0, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
    }

    /// The same for rates in bytes per second, labelled in units of this kind.
    pub fn rates(top: f64, unit: RateUnit) -> Self {
        match unit {
            RateUnit::Binary => Self::bytes(top),
            RateUnit::Decimal => Self::amounts(top, 1.0, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"]),
            RateUnit::Bits => {
                Self::amounts(top, 0.125, 1000.0, &["bit", "kbit", "Mbit", "Gbit", "Tbit", "Pbit", "Ebit"])
            }
        }
    }

    /// The same for numbers of records.
    pub fn counts(top: f64) -> Self {
        Self::amounts(top, 1.0, 1000.0, &["", "thousand ", "million ", "billion "])
    }

    /// An axis up to `top`, labelled in multiples of `one`, or of a power of `base` of it.
    fn amounts(top: f64, one: f64, base: f64, names: &[&str]) -> Self {
        let top = if top > 0.0 { top } else { one };
        let power = ((top / one).log2() / base.log2() + 1e-9).floor().clamp(0.0, (names.len() - 1) as f64);
        let unit = one * base.powf(power);
        let count = top / unit;
        // Limits are often round in decimal (100 MiB), buffers in binary (64 KiB).
        let binary = (count / 6.0).log2().ceil().exp2();
        let decimal = 10_f64.powf((count / 6.0).log10().floor());
        let remainder = |step: &f64| (count / step - (count / step).round()).abs() > 1e-9;
        let step = [binary, 2.0 * decimal, 5.0 * decimal, 10.0 * decimal, 20.0 * decimal]
            .into_iter()
            .filter(|step| (3.0 - 1e-9..=6.0 + 1e-9).contains(&(count / step)))
            .min_by(|one, other| remainder(one).cmp(&remainder(other)).then((count % one).total_cmp(&(count % other))))
            .unwrap_or(binary);
        let end = top * (1.0 + HEADROOM);
        Axis { end, labels: labels(end, step * unit, unit), name: names[power as usize].to_owned() }
    }
}

/// A label at each multiple of `step`, which counts `unit`.
fn labels(end: f64, step: f64, unit: f64) -> Vec<(f64, String)> {
    // A rounding error must not cost the last one.
    let count = (end / step + 1e-9).min(100.0) as u32;
    let value = |label| f64::from(label) * step;
    // Without traces of rounding.
    (0..=count).map(|label| (value(label), ((value(label) / unit * 1e4).round() / 1e4).to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn labels(axis: Axis, name: &str, labels: &str) {
        let shown: Vec<_> = axis.labels.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!((axis.name.as_str(), shown.join(" ").as_str()), (name, labels));
    }

    #[test]
    fn sizes_are_labelled_in_steps_that_meet_the_top() {
        const KIB: f64 = 1024.0;
        labels(Axis::bytes(0.0), "B", "0 0.25 0.5 0.75 1");
        labels(Axis::bytes(64.0 * KIB), "KiB", "0 16 32 48 64");
        labels(Axis::bytes(10.0 * KIB * KIB), "MiB", "0 2 4 6 8 10");
        labels(Axis::bytes(100.0 * KIB * KIB), "MiB", "0 20 40 60 80 100");
        labels(Axis::bytes(1000.0 * KIB * KIB), "MiB", "0 200 400 600 800 1000");
        labels(Axis::bytes(1.5 * KIB.powi(3)), "GiB", "0 0.25 0.5 0.75 1 1.25 1.5");
        labels(Axis::bytes(96.0 * KIB.powi(3)), "GiB", "0 16 32 48 64 80 96");
        labels(Axis::bytes(u64::MAX as f64), "EiB", "0 4 8 12 16");
    }

    #[test]
    fn records_are_counted_in_thousands() {
        labels(Axis::counts(5.0), "", "0 1 2 3 4 5");
        labels(Axis::counts(60_000.0), "thousand ", "0 20 40 60");
    }

    #[test]
    fn rates_are_labelled_in_the_unit_of_the_run() {
        labels(Axis::rates(1e6, RateUnit::Bits), "Mbit", "0 2 4 6 8");
        labels(Axis::rates(1e6, RateUnit::Decimal), "MB", "0 0.25 0.5 0.75 1");
        labels(Axis::rates(0.0, RateUnit::Bits), "bit", "0 0.25 0.5 0.75 1");
    }

    #[test]
    fn no_size_has_few_labels_or_many() {
        for power in -40..700 {
            for unit in [RateUnit::Binary, RateUnit::Decimal, RateUnit::Bits] {
                let axis = Axis::rates(1.1_f64.powi(power), unit);
                let count = axis.labels.len();
                assert!((4..=8).contains(&count), "{count} labels up to {} {unit:?}", axis.end);
            }
        }
    }

    #[test]
    fn time_is_counted_in_what_suits_the_length() {
        labels(Axis::time(0.0), "ms", "0 1");
        labels(Axis::time(0.3), "ms", "0 50 100 150 200 250 300");
        labels(Axis::time(2.5), "s", "0 0.5 1 1.5 2 2.5");
        labels(Axis::time(150.0), "s", "0 20 40 60 80 100 120 140");
        labels(Axis::time(1800.0), "min", "0 5 10 15 20 25 30");
        labels(Axis::time(86400.0), "h", "0 3 6 9 12 15 18 21 24");
        labels(Axis::time(7.5 * 86400.0), "days", "0 1 2 3 4 5 6 7");
    }

    #[test]
    fn the_time_of_day_is_round_on_the_local_clock() {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        let start = "2026-11-25T09:59:58.5Z".parse::<Timestamp>().unwrap().as_millisecond() as f64 / 1000.0;
        let axis = |seconds| Axis::time_of_day(start, seconds, &zone);
        labels(axis(10.0), "2026-11-25, UTC+05:30", "15:30:00 15:30:02 15:30:04 15:30:06 15:30:08");
        labels(axis(4.0 * HOUR), "2026-11-25, UTC+05:30", "15:30 16:00 16:30 17:00 17:30 18:00 18:30 19:00");
        labels(axis(5.0 * DAY), "2026-11-25, UTC+05:30", "Nov 26 Nov 27 Nov 28 Nov 29 Nov 30");
        assert!((axis(10.0).labels[0].0 - 1.5).abs() < 1e-3);
        for seconds in [0.0, 1.0, 1e5, 1e7, 1e10] {
            assert!(axis(seconds).labels.len() <= 9);
        }
    }
}
