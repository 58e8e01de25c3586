//! Axes of the picture: where they end, and what is written along them.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Free space above the highest value, as a share of that value.
const HEADROOM: f64 = 0.06;

/// A linear axis that begins at 0.
#[derive(Clone, Copy)]
pub struct Axis {
    /// The highest value.
    pub end: f64,
    /// Distance between two labels.
    step: f64,
    /// The value that a label counts as 1.
    unit: f64,
    /// Name of that unit, such as `MiB`.
    pub name: &'static str,
}

impl Axis {
    /// The time axis of a run of so many seconds.
    pub fn time(seconds: f64) -> Self {
        const UNITS: [(&str, f64, &[f64]); 5] = [
            ("ms", 0.001, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0]),
            ("s", 1.0, &[0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]),
            ("min", 60.0, &[0.5, 1.0, 2.0, 5.0, 10.0, 15.0]),
            ("h", 3600.0, &[0.5, 1.0, 2.0, 3.0, 6.0, 12.0]),
            ("days", 86400.0, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
        ];
        let end = seconds.max(0.001);
        UNITS
            .iter()
            .flat_map(|&(name, unit, steps)| steps.iter().map(move |step| Axis { end, step: step * unit, unit, name }))
            .find(|axis| end / axis.step <= 8.0)
            .unwrap_or(Axis { end, step: end / 8.0, unit: 86400.0, name: "days" })
    }

    /// An axis for bytes, or bytes per second, up to `top`. It has three to six labels above 0, one of
    /// them at `top` if that is a round number.
    pub fn bytes(top: f64) -> Self {
        const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let top = if top > 0.0 { top } else { 1.0 };
        let power = (top.log2() / 10.0).clamp(0.0, 6.0).floor();
        let unit = 1024_f64.powf(power);
        let count = top / unit;
        // Limits are often round in decimal (100 MiB), buffers in binary (64 KiB).
        let binary = (count / 6.0).log2().ceil().exp2();
        let decimal = 10_f64.powf((count / 6.0).log10().floor());
        let step = [binary, 2.0 * decimal, 5.0 * decimal, 10.0 * decimal, 20.0 * decimal]
            .into_iter()
            .filter(|step| (3.0..=6.0).contains(&(count / step)))
            .min_by(|one, other| (count % one).total_cmp(&(count % other)))
            .unwrap_or(binary);
        Axis { end: top * (1.0 + HEADROOM), step: step * unit, unit, name: NAMES[power as usize] }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + f64::from(to - from) * value / self.end).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Light points are those between the labels. There are none.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        // A rounding error must not cost the last one.
        let count = (self.end / self.step + 1e-9) as u32;
        (0..=count).map(|label| f64::from(label) * self.step).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.end
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    /// The label at `value`, without traces of rounding.
    fn format_ext(&self, value: &f64) -> String {
        ((value / self.unit * 1e4).round() / 1e4).to_string()
    }
}

#[cfg(test)]
mod tests {
    use plotters::coord::ranged1d::BoldPoints;

    use super::*;

    #[track_caller]
    fn labels(axis: Axis, name: &str, labels: &str) {
        let shown: Vec<_> = axis.key_points(BoldPoints(10)).iter().map(|value| axis.format_ext(value)).collect();
        assert_eq!((axis.name, shown.join(" ").as_str()), (name, labels));
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
    fn no_size_has_few_labels_or_many() {
        for power in -40..700 {
            let axis = Axis::bytes(1.1_f64.powi(power));
            let count = axis.key_points(BoldPoints(10)).len();
            assert!((4..=8).contains(&count), "{count} labels up to {}", axis.end);
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
}
