//! What became of a run.

use std::{fmt, io};

use rustix::io::Errno;

use crate::budget::GroupError;
use crate::endpoint::StreamError;

/// How a run ended without an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was read was delivered.
    Delivered,
    /// The consumer left first.
    ConsumerLeft,
    /// A signal of this number ended the input, and what was buffered was delivered as far
    /// as the consumer was still there.
    Interrupted(i32),
    /// A second signal, of this number, ended the run at once.
    Abandoned(i32),
}

/// Why a run failed.
#[derive(Debug)]
pub enum Error {
    /// One of the two sides.
    Stream(StreamError),
    /// stdout is the file that stdin reads.
    FeedsItself,
    /// The group that was to be joined.
    Group(GroupError),
    /// Where the records of the run were to go.
    Stats(io::Error),
    /// The event loop itself: out of descriptors or memory.
    EventLoop(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Stream(error) => error.fmt(f),
            Error::FeedsItself => f.write_str("stdout: the output file is the input file, and would be read for ever"),
            Error::Group(error) => error.fmt(f),
            Error::Stats(error) => write!(f, "--stats: {error}"),
            Error::EventLoop(error) => write!(f, "event loop: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        Error::Stream(error)
    }
}

impl From<GroupError> for Error {
    fn from(error: GroupError) -> Self {
        Error::Group(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::EventLoop(error)
    }
}

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        Error::EventLoop(error.into())
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
