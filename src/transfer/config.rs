//! The configuration of a run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::budget::GroupRequest;
use crate::endpoint::{Address, Algorithm};
use crate::report::Reports;
use crate::shaping::{Burst, Rate, Unit};
use crate::stats::RecordKind;

/// A command that runs between two flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program to start.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How fast it is fed.
    pub up: Rate,
    /// How fast its output goes on.
    pub down: Rate,
}

/// Where a buffer keeps what does not fit in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillTo {
    /// The folder of an unnamed file.
    pub folder: PathBuf,
    /// Bytes that stay in memory, at least [`LEAST_MEMORY`](crate::buffer::LEAST_MEMORY).
    pub memory: usize,
}

/// Everything a run needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The inputs, one after the other; at least one.
    pub inputs: Vec<Address>,
    /// The outputs, each of which gets every byte; stdout if there is none.
    pub outputs: Vec<Address>,
    /// Files are written at their end, and what is in them stays.
    pub append: bool,
    /// The system is asked to keep what was written to files before success is reported.
    pub sync: bool,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// Bytes held at most, at least 1.
    pub buffer: usize,
    /// A paused producer is resumed once no more than this many bytes are held. Below
    /// `buffer`.
    pub low_water: usize,
    /// `low_water` as a share of `buffer`, from 0 to below 1. The share stays when the buffer gets
    /// another size.
    pub low_share: f64,
    /// Nothing goes out until so many bytes are held, and again after the buffer ran empty. At most
    /// `buffer`; 0 never waits.
    pub start_at: usize,
    /// Where each buffer keeps what does not fit in memory. None holds everything in memory.
    pub spill: Option<SpillTo>,
    /// How long a side may move nothing although the limit allows it. None waits for ever.
    pub stall_timeout: Option<Duration>,
    /// Bytes per second that are read at most, at least 1; none if there is no such limit.
    pub read_rate: Option<u64>,
    /// The size in bytes to which the pipes of the neighbours are grown; none leaves them.
    pub pipe_size: Option<usize>,
    /// The records that are counted instead of bytes; bytes if none. `rate` and the group count them in tokens of
    /// [`Unit`], `burst`, `stop_after` and the expected total in whole records.
    pub records: Option<RecordKind>,
    /// The command whose stdin is fed and whose stdout is passed on, in place of inputs and output.
    pub command: Option<CommandLine>,
    /// How fast the consumer is fed, where there is no command.
    pub rate: Rate,
    /// Depth of the token bucket; the default if none.
    pub burst: Option<Burst>,
    /// How much delay of the machine is made up for.
    pub catch_up: Duration,
    /// The group whose budget is shared.
    pub group: Option<GroupRequest>,
    /// The producer is stopped after so many bytes.
    pub stop_after: Option<u64>,
    /// The checksum of the delivered bytes that is told at the end.
    pub hash: Option<Algorithm>,
    /// The reports of the run.
    pub reports: Reports,
    /// Listen to `pcproxy ctl` and `pcproxy top`.
    pub control: bool,
}

impl Config {
    /// The unit of limits.
    pub fn unit(&self) -> Unit {
        if self.records.is_some() { Unit::Records } else { Unit::Bytes }
    }

    /// Whether stdout gets the bytes.
    pub fn writes_to_stdout(&self) -> bool {
        self.outputs.is_empty() || self.outputs.contains(&Address::Standard)
    }

    /// The name of the group, if there is one.
    pub fn group_name(&self) -> Option<String> {
        self.group.as_ref().map(|request| request.name.to_string())
    }
}
