//! What the user asked for.

use crate::budget::GroupRequest;
use crate::report::Reports;
use crate::shaping::{Burst, Schedule};

/// Everything a run needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Bytes held at most, at least 1.
    pub buffer: usize,
    /// A paused producer is resumed once no more than this many bytes are held. Below
    /// `buffer`.
    pub low_water: usize,
    /// The share of the buffer that this is, and stays when the buffer gets another size: from 0
    /// to below 1.
    pub low_share: f64,
    /// To how many bytes the pipes of the neighbours are grown; nothing leaves them.
    pub pipe_size: Option<usize>,
    /// How fast the consumer is fed.
    pub pace: Pace,
    /// How deep the token bucket is; the default if nothing.
    pub burst: Option<Burst>,
    /// The group whose budget is shared.
    pub group: Option<GroupRequest>,
    /// The producer is stopped after so many bytes.
    pub stop_after: Option<u64>,
    /// What to tell of the run.
    pub reports: Reports,
    /// Listen to who wants to see and steer the run.
    pub control: bool,
}

impl Config {
    /// What the group is called, if there is one.
    pub fn group_name(&self) -> Option<String> {
        self.group.as_ref().map(|request| request.name.to_string())
    }
}

/// How fast the consumer is fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it takes the bytes.
    Free,
    /// At so many bytes a second, at least 1.
    Constant(u64),
    /// As the time of day has it.
    Timetable(Schedule),
}
