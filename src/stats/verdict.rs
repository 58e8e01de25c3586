//! The account of a run in words: what held it back.

use super::{State, Status};
use crate::units::{show_bytes, show_number, show_share, show_size, show_time};

/// Share of the run (0 to 1). A cause that held bytes back for less is no bottleneck: short waits
/// are part of every pipe.
const BOTTLENECK: f64 = 0.2;

/// Share of the run (0 to 1). A second cause is named from here on: removing a smaller one would
/// not be noticed.
const NOTABLE: f64 = 0.1;

/// Seconds. In a shorter run, the time that the neighbours take to start outweighs their speed.
const TOO_SHORT: f64 = 0.1;

/// The cause of a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Producer,
    Consumer,
    Limit,
    Machine,
}

/// One thing that held bytes back.
struct Wait {
    kind: Kind,
    /// The cause in words that a share of the time can follow.
    what: String,
    /// Seconds.
    time: f64,
}

/// One sentence that says what held a run back up to `status`, and what would help.
///
/// It is about the whole run, not about the interval before the status.
///
/// ```text
/// consumer-bound: stdout was full 83 % of the time; a larger --buffer would not help
/// limited: held back by the 20 MiB/s limit 98 % of the time
/// ```
pub fn verdict(status: &Status) -> String {
    let limit = status.show_limit().map_or("the limit".into(), |limit| format!("the {limit} limit"));
    let wait = |kind, what: &str, time| Wait { kind, what: what.to_owned(), time };
    let producer = wait(Kind::Producer, "stdin was empty", status.waited_for_producer);
    let consumer = wait(Kind::Consumer, "stdout was full", status.waited_for_consumer);
    let limit = wait(Kind::Limit, &format!("held back by {limit}"), status.waited_for_limit);
    let machine = wait(Kind::Machine, "held back by a busy machine", status.waited_for_machine);

    let (bottleneck, notable) = (BOTTLENECK * status.elapsed, NOTABLE * status.elapsed);
    let share = |wait: &Wait| format!("{} {}", wait.what, show_share(wait.time, status.elapsed));
    let drain = if consumer.time >= limit.time { &consumer } else { &limit };
    let bursty = status.avoidable_wait >= notable && drain.time >= notable;

    let mut waits = [&producer, &consumer, &limit, &machine];
    waits.sort_by(|one, other| other.time.total_cmp(&one.time));
    let first = waits[0];
    let others: Vec<_> = waits[1..].iter().copied().filter(|wait| wait.time >= notable).collect();

    if status.state == State::Paused && first.time <= status.elapsed / 2.0 {
        return "paused: pcproxy was told to pause".into();
    }
    if status.bytes == 0 && drain.time.max(machine.time) <= bottleneck {
        return "idle: nothing was delivered".into();
    }
    if status.elapsed < TOO_SHORT {
        return "brief: the run was too short to find a bottleneck".into();
    }
    if bursty {
        let (buffer, empty, full) = (show_size(status.buffer), share(&producer), share(drain));
        return format!(
            "bursty: {empty} of the time and {full}; the buffer of {buffer} is too small for that, \
             a larger --buffer would help"
        );
    }
    if first.time < bottleneck {
        return "flowing: no bottleneck".into();
    }
    let label = match first.kind {
        Kind::Producer => "producer-bound",
        Kind::Consumer => "consumer-bound",
        Kind::Limit => "limited",
        Kind::Machine => "machine-bound",
    };
    let also: String = others.iter().map(|wait| format!(" and {}", share(wait))).collect();
    let advice = advice(first.kind, others.iter().map(|wait| wait.kind).find(|kind| *kind != Kind::Machine));
    format!("{label}: {} of the time{also}{advice}", share(first))
}

/// The conclusion from the first and the second cause.
fn advice(first: Kind, second: Option<Kind>) -> &'static str {
    match (first, second) {
        (Kind::Limit, Some(Kind::Producer)) | (Kind::Producer, Some(Kind::Limit)) => {
            "; the producer was too slow for the limit part of the time"
        }
        (Kind::Limit, Some(Kind::Consumer)) | (Kind::Consumer, Some(Kind::Limit)) => {
            "; the consumer was too slow for the limit part of the time"
        }
        (Kind::Limit, _) => "",
        (Kind::Machine, _) => "; fewer or less urgent programs beside it would help",
        // Both sides wait although the buffer is seldom full: each waits for the other's answer.
        (_, Some(_)) => "; the buffer was seldom full, a larger --buffer would not help",
        (_, None) => "; a larger --buffer would not help",
    }
}

/// A few lines for people about a run of `status`. The last one is the [`verdict`].
pub fn summary(status: &Status) -> Vec<String> {
    let size = match status.bytes {
        0..1024 => String::new(),
        bytes => format!(" ({})", show_size(bytes)),
    };
    let paused = match status.producer_pauses {
        0 => "never paused".into(),
        1 => format!("paused once, for {}", show_time(status.producer_paused)),
        pauses => format!("paused {pauses} times, for {} in all", show_time(status.producer_paused)),
    };
    let time = show_time(status.elapsed);
    let delivered = match status.records {
        Some(records) => format!(
            "{} {} ({}) delivered in {time}: {} on average",
            show_number(records.delivered),
            records.kind,
            show_size(status.bytes),
            status.show_mean_rate()
        ),
        None => format!(
            "{}{size} delivered in {time}: {} on average, {} at the peak",
            show_bytes(status.bytes),
            status.show_bytes_rate(status.mean_rate),
            status.show_bytes_rate(status.peak_rate)
        ),
    };
    vec![
        delivered,
        format!("the producer was {paused}"),
        format!(
            "the buffer held at most {}, {} of {}",
            show_bytes(status.peak_buffered),
            show_share(status.peak_buffered as f64, status.buffer as f64),
            show_size(status.buffer)
        ),
        verdict(status),
    ]
}
