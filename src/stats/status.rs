//! The status of a run: the record that `--stats` writes, `ctl` answers with and `top` shows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::{RateUnit, show_rate_in, show_record_rate};

/// The version of the record. It changes when a field changes its meaning or is removed. New
/// fields and new states come without a new version.
pub const VERSION: u32 = 1;

/// One flow of a run that has several: to a command, and from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// `up`, to the command, or `down`, from it.
    pub flow: String,
    /// Bytes delivered so far.
    pub bytes: u64,
    /// The limit in force, in bytes per second; none if there is none.
    pub limit: Option<u64>,
    /// Bytes held.
    pub buffered: u64,
}

/// The status of a run at one moment. Sizes are in bytes, rates in bytes per second, times in
/// seconds.
///
/// The names of the fields are those of the JSON objects that pcproxy writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The time of day, in seconds since the Unix epoch.
    pub time: f64,
    /// How long the run has lasted.
    pub elapsed: f64,
    /// The process.
    pub pid: u32,
    /// The name of the run.
    pub name: Option<String>,
    /// The group whose budget it draws on.
    pub group: Option<String>,
    /// Its state since the status before this one.
    pub state: State,
    /// Bytes delivered to the consumer so far.
    pub bytes: u64,
    /// The expected total, if one is known and not contradicted.
    pub size: Option<u64>,
    /// Rate since the status before this one.
    pub rate: f64,
    /// Rate since the beginning.
    pub mean_rate: f64,
    /// The highest rate over at least a quarter of a second so far; the mean of a shorter run.
    pub peak_rate: f64,
    /// The limit in force; none if the consumer is fed as fast as it takes the bytes.
    pub limit: Option<u64>,
    /// Size of the buffer.
    pub buffer: u64,
    /// Bytes held in it.
    pub buffered: u64,
    /// The most bytes it has held so far.
    pub peak_buffered: u64,
    /// Time spent waiting for the producer: the buffer was empty, and nothing came.
    pub waited_for_producer: f64,
    /// Time spent waiting for the consumer: bytes were due, and it took none.
    pub waited_for_consumer: f64,
    /// Time spent waiting for the token bucket: bytes were held, and not yet due.
    pub waited_for_limit: f64,
    /// Time lost to a busy machine: bytes could have moved, and the process did not get a
    /// processor. Records of older versions do not have it.
    #[serde(default)]
    pub waited_for_machine: f64,
    /// How often the producer was paused because the buffer was full.
    pub producer_pauses: u64,
    /// How long it was paused in all.
    pub producer_paused: f64,
    /// How much of `waited_for_producer` a larger buffer would have avoided: the producer had been
    /// paused for that long before, and could have been that far ahead.
    pub avoidable_wait: f64,
    /// The unit in which the user gave the rate, and in which rates are shown. All rates here are in
    /// bytes per second all the same.
    #[serde(default)]
    pub rate_unit: RateUnit,
    /// Figures of records, where the run counts them. Records of older versions do not have
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordStatus>,
    /// The checksum of the delivered bytes, in the last status of a run that computes one. Records of
    /// older versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// How many of the bytes held are on a disk, in a run with `--spill`. Records of older versions
    /// do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spilled: Option<u64>,
    /// Whether this is the last status of a run, which has ended.
    pub done: bool,
    /// How the run ended; none while it lasts. Records of older versions do not have it.
    #[serde(default)]
    pub ending: Option<Ending>,
    /// Seconds until all is delivered, if the run goes on as in the last while. None if that is not known:
    /// no size, no byte yet, a pause, or a stall. Records of older versions do not have it.
    #[serde(default)]
    pub time_left: Option<f64>,
    /// The flows of a run that has several, `pcproxy run`: all other fields are then of both
    /// together. Empty, and left out of the JSON, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowStatus>,
}

/// Figures for people: in records where the run counts these, else in bytes.
impl Status {
    /// The rate since the status before this one.
    pub fn show_rate(&self) -> String {
        self.records.map_or_else(|| self.show_bytes_rate(self.rate), |records| show_record_rate(records.rate))
    }

    /// The rate since the beginning.
    pub fn show_mean_rate(&self) -> String {
        self.records.map_or_else(|| self.show_bytes_rate(self.mean_rate), |records| show_record_rate(records.mean_rate))
    }

    /// The limit in force, if there is one.
    pub fn show_limit(&self) -> Option<String> {
        match self.records.and_then(|records| records.limit) {
            Some(limit) => Some(show_record_rate(limit)),
            None => self.limit.map(|limit| self.show_bytes_rate(limit as f64)),
        }
    }

    /// A rate in bytes per second, in the unit in which the user gave the rate of this run.
    pub fn show_bytes_rate(&self, rate: f64) -> String {
        show_rate_in(rate, self.rate_unit)
    }

    /// The amount delivered, and the expected total.
    pub fn progress(&self) -> (u64, Option<u64>) {
        self.records.map_or((self.bytes, self.size), |records| (records.delivered, records.size))
    }
}

/// The records of a run. Its bytes are counted beside them, and `limit` and `size` of the status
/// are none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordStatus {
    /// The kind of record.
    pub kind: RecordKind,
    /// Records delivered so far.
    pub delivered: u64,
    /// The expected total, if the user gave one that is not contradicted.
    pub size: Option<u64>,
    /// Records per second since the status before this one.
    pub rate: f64,
    /// Records per second since the beginning.
    pub mean_rate: f64,
    /// The limit in force in records per second, if there is one.
    pub limit: Option<f64>,
}

/// A checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash {
    /// Its kind, such as `sha256`.
    pub algorithm: String,
    /// Its value in hexadecimal digits.
    pub digest: String,
}

/// The kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// A line, with its line feed.
    Lines,
    /// Bytes up to a null, and the null.
    Null,
}

impl RecordKind {
    /// The byte that ends a record.
    pub fn end(self) -> u8 {
        match self {
            RecordKind::Lines => b'\n',
            RecordKind::Null => 0,
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordKind::Lines => "lines",
            RecordKind::Null => "records",
        })
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing holds it back more than half of the time.
    #[default]
    Flowing,
    /// It waits for the producer more than half of the time.
    ProducerSlow,
    /// It waits for the consumer more than half of the time.
    ConsumerSlow,
    /// It waits for the token bucket more than half of the time.
    Limited,
    /// A busy machine keeps it from running more than half of the time.
    MachineBusy,
    /// It was told to pause.
    Paused,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The input ended, or `--stop-after` was reached, and every byte was delivered.
    Done,
    /// A signal ended it.
    Interrupted,
    /// `pcproxy ctl` stopped it, or the consumer left before the input ended.
    Stopped,
    /// An error ended it.
    Failed,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Done => "done",
            Ending::Interrupted => "interrupted",
            Ending::Stopped => "stopped",
            Ending::Failed => "failed",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Flowing => "flowing",
            State::ProducerSlow => "producer slow",
            State::ConsumerSlow => "consumer slow",
            State::Limited => "limited",
            State::MachineBusy => "machine busy",
            State::Paused => "paused",
        })
    }
}
