//! What became of a run.

use std::{fmt, io};

use crate::budget::GroupError;
use crate::endpoint::EndpointError;

/// How a run ended without an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was read was delivered.
    Delivered,
    /// The consumer left first.
    ConsumerLeft,
    /// A signal of this number ended the input. The held bytes were delivered, unless the consumer
    /// left first.
    Interrupted(i32),
    /// A signal of this number ended the run at once, for this reason.
    Abandoned(i32, &'static str),
}

/// Why a run failed.
#[derive(Debug)]
pub enum Error {
    /// One of the two ends.
    Endpoint(EndpointError),
    /// stdout is the file that stdin reads.
    FeedsItself,
    /// The group that was to be joined.
    Group(GroupError),
    /// Where the records of the run were to go.
    Stats(io::Error),
    /// The system has nothing to wait with.
    Poller(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Endpoint(error) => error.fmt(f),
            Error::FeedsItself => f.write_str("input and output are the same file; this would never end"),
            Error::Group(error) => error.fmt(f),
            Error::Stats(error) => write!(f, "--stats: {error}"),
            Error::Poller(error) => write!(f, "epoll: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Self {
        Error::Endpoint(error)
    }
}

impl From<GroupError> for Error {
    fn from(error: GroupError) -> Self {
        Error::Group(error)
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended, or the first error.
    pub end: Result<End, Error>,
    /// Bytes that were read and not delivered.
    pub undelivered: usize,
}
