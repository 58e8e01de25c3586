//! The statuses of runs as OpenMetrics text, version 1.0.0.
//!
//! See <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::fmt::Write;

use pcproxy::stats::{State, Status};
use pcproxy::units::printable;

/// The kind of a metric family.
#[derive(Clone, Copy)]
enum Kind {
    /// Only grows. Its samples have the suffix `_total`.
    Counter,
    Gauge,
}

/// A metric family with one sample for each run that has the value.
struct Family {
    name: &'static str,
    kind: Kind,
    /// The end of the name.
    unit: &'static str,
    help: &'static str,
    value: fn(&Status) -> Option<f64>,
}

const FAMILIES: [Family; 15] = [
    Family {
        name: "pcproxy_delivered_bytes",
        kind: Kind::Counter,
        unit: "bytes",
        help: "Bytes delivered to the consumer.",
        value: |run| Some(run.bytes as f64),
    },
    Family {
        name: "pcproxy_expected_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Expected total, where it is known.",
        value: |run| run.size.map(|size| size as f64),
    },
    Family {
        name: "pcproxy_rate_bytes_per_second",
        kind: Kind::Gauge,
        unit: "bytes_per_second",
        help: "Rate over the last half second.",
        value: |run| Some(run.rate),
    },
    Family {
        name: "pcproxy_limit_bytes_per_second",
        kind: Kind::Gauge,
        unit: "bytes_per_second",
        help: "Limit in force, where there is one.",
        value: |run| run.limit.map(|limit| limit as f64),
    },
    Family {
        name: "pcproxy_delivered_records",
        kind: Kind::Counter,
        unit: "records",
        help: "Records delivered to the consumer, where they are counted.",
        value: |run| run.records.map(|records| records.delivered as f64),
    },
    Family {
        name: "pcproxy_expected_records",
        kind: Kind::Gauge,
        unit: "records",
        help: "Expected total of records, where it is known.",
        value: |run| run.records.and_then(|records| records.size).map(|size| size as f64),
    },
    Family {
        name: "pcproxy_rate_records_per_second",
        kind: Kind::Gauge,
        unit: "records_per_second",
        help: "Rate in records over the last half second.",
        value: |run| run.records.map(|records| records.rate),
    },
    Family {
        name: "pcproxy_limit_records_per_second",
        kind: Kind::Gauge,
        unit: "records_per_second",
        help: "Limit in records in force, where there is one.",
        value: |run| run.records.and_then(|records| records.limit),
    },
    Family {
        name: "pcproxy_buffer_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Size of the buffer.",
        value: |run| Some(run.buffer as f64),
    },
    Family {
        name: "pcproxy_buffered_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Bytes held in the buffer.",
        value: |run| Some(run.buffered as f64),
    },
    Family {
        name: "pcproxy_buffered_peak_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "The most bytes the buffer has held.",
        value: |run| Some(run.peak_buffered as f64),
    },
    Family {
        name: "pcproxy_producer_pauses",
        kind: Kind::Counter,
        unit: "",
        help: "How often the producer was paused because the buffer was full.",
        value: |run| Some(run.producer_pauses as f64),
    },
    Family {
        name: "pcproxy_producer_paused_seconds",
        kind: Kind::Counter,
        unit: "seconds",
        help: "How long the producer was paused.",
        value: |run| Some(run.producer_paused),
    },
    Family {
        name: "pcproxy_elapsed_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        help: "How long the run has lasted.",
        value: |run| Some(run.elapsed),
    },
    Family {
        name: "pcproxy_paused",
        kind: Kind::Gauge,
        unit: "",
        help: "1 while the run is paused by 'pcproxy ctl', else 0.",
        value: |run| Some(f64::from(u8::from(run.state == State::Paused))),
    },
];

/// How long a run waited for something, in seconds.
type Waited = fn(&Status) -> f64;

/// The causes of waits, and how long a run waited for each.
const WAITS: [(&str, Waited); 4] = [
    ("producer", |run| run.waited_for_producer),
    ("consumer", |run| run.waited_for_consumer),
    ("limit", |run| run.waited_for_limit),
    ("machine", |run| run.waited_for_machine),
];

/// The text that describes these runs.
pub fn text<'a>(runs: impl Iterator<Item = &'a Status> + Clone) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for Family { name, kind, unit, help, value } in FAMILIES {
        head(&mut text, name, kind, unit, help);
        let suffix = suffix(kind);
        for run in runs.clone() {
            if let Some(value) = value(run) {
                let _ = writeln!(text, "{name}{suffix}{{{}}} {value}", labels(run));
            }
        }
    }
    let name = "pcproxy_waited_seconds";
    head(&mut text, name, Kind::Counter, "seconds", "Time spent waiting, by what was waited for.");
    for run in runs {
        for (cause, waited) in WAITS {
            let _ = writeln!(text, "{name}_total{{{},cause=\"{cause}\"}} {}", labels(run), waited(run));
        }
    }
    text + "# EOF\n"
}

fn head(text: &mut String, name: &str, kind: Kind, unit: &str, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if !unit.is_empty() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {help}");
}

fn suffix(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Gauge => "",
    }
}

fn labels(run: &Status) -> String {
    let text = |label: &Option<String>| label.as_deref().map(escape).unwrap_or_default();
    format!("pid=\"{}\",name=\"{}\",group=\"{}\"", run.pid, text(&run.name), text(&run.group))
}

/// The value of a label, as it stands between quotes. A line feed in a name is shown as `?`, as
/// everywhere.
fn escape(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_described_once_and_every_run_has_a_sample() {
        let named = Status { pid: 7, name: Some("a\"b\\c\nd".to_owned()), bytes: 5, ..Status::default() };
        let text = text([&named, &Status { pid: 8, limit: Some(9), ..Status::default() }].into_iter());
        let label = r#"{pid="7",name="a\"b\\c?d",group=""}"#;
        assert!(text.contains(&format!("\npcproxy_delivered_bytes_total{label} 5\n")), "{text}");
        assert!(text.contains("\npcproxy_limit_bytes_per_second{pid=\"8\",name=\"\",group=\"\"} 9\n"), "{text}");
        assert!(!text.contains(&format!("pcproxy_limit_bytes_per_second{label}")), "{text}");
        assert_eq!(text.matches("# TYPE ").count(), FAMILIES.len() + 1);
        assert!(text.starts_with("# TYPE ") && text.ends_with("\n# EOF\n"), "{text}");
        assert!(FAMILIES.iter().all(|family| family.name.ends_with(family.unit)));
    }
}
