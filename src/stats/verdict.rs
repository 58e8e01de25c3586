//! Who was slow: the account of a run in words.

use super::{State, Status};
use crate::units::{show_bytes, show_rate, show_share, show_size, show_time};

/// Who was waited for less than this share of the time is not called slow.
const MUCH: f64 = 0.2;

/// A smaller share of the time is not worth a word.
const SOME: f64 = 0.1;

/// Seconds in which the start of the neighbours decides, and not their speed.
const SHORT: f64 = 0.1;

/// Something that was waited for.
struct Wait {
    /// A neighbour, or none: the limit.
    who: Option<&'static str>,
    /// What held bytes back.
    what: String,
    /// So many seconds.
    time: f64,
}

/// One sentence that says who was slow in a run up to `status`, and what would help.
///
/// It tells of the whole run, not of the interval before the status.
///
/// ```text
/// consumer-bound: stdout was full 83 % of the time; a larger --buffer would not help
/// ```
pub fn verdict(status: &Status) -> String {
    let limit = status.limit.map_or("the limit".into(), |limit| format!("the limit of {}", show_rate(limit as f64)));
    let producer = Wait { who: Some("producer"), what: "stdin was empty".into(), time: status.waited_for_producer };
    let consumer = Wait { who: Some("consumer"), what: "stdout was full".into(), time: status.waited_for_consumer };
    let limit = Wait { who: None, what: format!("{limit} was waited for"), time: status.waited_for_limit };

    let (much, some) = (MUCH * status.elapsed, SOME * status.elapsed);
    let share = |wait: &Wait| format!("{} {}", wait.what, show_share(wait.time, status.elapsed));
    let drain = if consumer.time >= limit.time { &consumer } else { &limit };
    let bursty = status.avoidable_wait >= some && drain.time >= some;

    let mut waits = [&producer, &consumer, &limit];
    waits.sort_by(|one, other| other.time.total_cmp(&one.time));
    let [first, second, _] = waits;

    if status.state == State::Paused && first.time <= status.elapsed / 2.0 {
        return "paused: pcproxy was told to pause".into();
    }
    if status.bytes == 0 && drain.time <= much {
        return "idle: nothing was delivered".into();
    }
    if status.elapsed < SHORT {
        return "brief: the run was too short to tell who was slow".into();
    }
    if bursty {
        let (buffer, empty, full) = (show_size(status.buffer), share(&producer), share(drain));
        return format!(
            "bursty: {empty} of the time and {full}; the buffer of {buffer} is too small for that, \
             a larger --buffer would help"
        );
    }
    if first.time < much {
        let share = show_share(first.time, status.elapsed);
        return format!("flowing: neither side, nor a limit, was waited for more than {share} of the time");
    }
    let label = first.who.map_or("limited".into(), |who| format!("{who}-bound"));
    let second = (second.time >= some).then_some(second);
    let also = second.map_or(String::new(), |second| format!(" and {}", share(second)));
    let advice = match (first.who, second.map(|second| second.who)) {
        (None, Some(Some(who))) | (Some(who), Some(None)) => {
            format!("the {who} was too slow for the limit part of the time")
        }
        (None, _) => "the limit decides".into(),
        (Some(_), None) => "a larger --buffer would not help".into(),
        // Both sides wait, and the buffer is not in the way: that is latency.
        (Some(_), Some(_)) => "the buffer was seldom full, a larger --buffer would not help".into(),
    };
    format!("{label}: {} of the time{also}; {advice}", share(first))
}

/// What a run of `status` comes to, in a few lines for people. The last is the [`verdict`].
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
    vec![
        format!(
            "{}{size} delivered in {}: {} on average, {} at the peak",
            show_bytes(status.bytes),
            show_time(status.elapsed),
            show_rate(status.mean_rate),
            show_rate(status.peak_rate)
        ),
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
