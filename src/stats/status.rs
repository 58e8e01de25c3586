//! One look at a run: the record that `--stats` writes, `ctl` answers and `top` shows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of the record. It changes when a field changes its meaning or goes; a new
/// field leaves it as it is.
pub const VERSION: u32 = 1;

/// One look at a run. Sizes are in bytes, rates in bytes a second, times in seconds.
///
/// The names of the fields are those of the JSON objects that pcproxy writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// When: seconds since the Unix epoch.
    pub time: f64,
    /// How long the run has lasted.
    pub elapsed: f64,
    /// The process.
    pub pid: u32,
    /// What the user calls the run.
    pub name: Option<String>,
    /// The group on whose budget it draws.
    pub group: Option<String>,
    /// What it is doing.
    pub state: State,
    /// Bytes delivered to the consumer so far.
    pub bytes: u64,
    /// How many there will be, if that is known.
    pub size: Option<u64>,
    /// Rate since the status before this one.
    pub rate: f64,
    /// Rate since the beginning.
    pub mean_rate: f64,
    /// The highest rate over a quarter of a second so far; the mean of a shorter run.
    pub peak_rate: f64,
    /// The limit in force; none, if the consumer gets the bytes as fast as it takes them.
    pub limit: Option<u64>,
    /// Size of the buffer.
    pub buffer: u64,
    /// Bytes held in it.
    pub buffered: u64,
    /// The most bytes it has held so far.
    pub peak_buffered: u64,
    /// Time spent waiting for the producer: nothing was held, and nothing came.
    pub waited_for_producer: f64,
    /// Time spent waiting for the consumer: bytes were due, and it took none.
    pub waited_for_consumer: f64,
    /// Time spent waiting for the token bucket: bytes were held, and not yet due.
    pub waited_for_limit: f64,
    /// How often the producer was paused since the buffer was full.
    pub producer_pauses: u64,
    /// How long it was paused in all.
    pub producer_paused: f64,
    /// How much of `waited_for_producer` a larger buffer would have spared: the producer had been
    /// paused for as long before, and could have been ahead by so much.
    pub avoidable_wait: f64,
    /// The last status of a run that has ended.
    pub done: bool,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Bytes move as fast as they can.
    Flowing,
    /// It waits for the producer more than half of the time.
    ProducerSlow,
    /// It waits for the consumer more than half of the time.
    ConsumerSlow,
    /// It waits for the token bucket more than half of the time.
    Limited,
    /// It was told to pause.
    Paused,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Flowing => "flowing",
            State::ProducerSlow => "producer slow",
            State::ConsumerSlow => "consumer slow",
            State::Limited => "limited",
            State::Paused => "paused",
        })
    }
}
