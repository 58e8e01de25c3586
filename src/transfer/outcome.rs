//! The outcome of a run.

use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use crate::budget::GroupError;
use crate::endpoint::{EndpointError, Exit};
use crate::flow::Side;
use crate::units::{show_bytes, show_timeout};

/// The end of a message about bytes that were lost: `; 65,536 bytes were read and not delivered`.
/// Nothing, if none were.
pub fn lost(bytes: u64) -> String {
    let verb = if bytes == 1 { "was" } else { "were" };
    if bytes == 0 { String::new() } else { format!("; {} {verb} read and not delivered", show_bytes(bytes)) }
}

/// How a run ended without an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was read was delivered.
    Delivered,
    /// The same, and an input could not be read to its end, or an output was left out. The user has
    /// been told of it.
    Incomplete,
    /// The consumer left first.
    ConsumerLeft,
    /// A signal of this number ended the input. The held bytes were delivered, unless the consumer
    /// left first.
    Interrupted(i32),
    /// The command ended like this, and its output was delivered.
    Exited(Exit),
    /// A signal of this number ended the run at once, for this reason.
    Abandoned(i32, &'static str),
}

/// Why a run failed.
#[derive(Debug)]
pub enum Error {
    /// One of the two ends.
    Endpoint(EndpointError),
    /// The output of this name is a file that is also an input.
    FeedsItself(String),
    /// The output of this name is the same file as another.
    Doubled(String),
    /// The group that was to be joined.
    Group(GroupError),
    /// Where the records of the run were to go.
    Stats(io::Error),
    /// The command of this name cannot be started.
    Command(String, io::Error),
    /// The system has nothing to wait with.
    Poller(io::Error),
    /// There is no thread for the checksum.
    Checksum(io::Error),
    /// Where the buffer was to keep what does not fit in memory.
    Spill(PathBuf, io::Error),
    /// A side moved nothing for longer than it may.
    Stalled(Stalled),
}

/// A side that moved nothing for too long, although the limit allowed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The name of the endpoint in messages.
    pub label: String,
    /// Whether it had to give bytes or to take them.
    pub side: Side,
    /// For how long it may move nothing.
    pub time: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moved = match self.side {
            Side::Producer => "gave",
            Side::Consumer => "took",
        };
        write!(f, "{} {moved} nothing for {}", self.label, show_timeout(self.time))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Endpoint(error) => error.fmt(f),
            Error::FeedsItself(label) => write!(f, "{label}: input and output are the same file"),
            Error::Doubled(label) => write!(f, "{label}: two outputs are the same file"),
            Error::Group(error) => error.fmt(f),
            Error::Stats(error) => write!(f, "--stats: {error}"),
            Error::Command(name, error) => write!(f, "{name}: {error}"),
            Error::Poller(error) => write!(f, "epoll: {error}"),
            Error::Checksum(error) => write!(f, "--hash: {error}"),
            Error::Spill(folder, error) => write!(f, "--spill {}: {error}", folder.display()),
            Error::Stalled(stalled) => stalled.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Self {
        Error::Endpoint(error)
    }
}

impl From<Stalled> for Error {
    fn from(stalled: Stalled) -> Self {
        Error::Stalled(stalled)
    }
}

impl From<GroupError> for Error {
    fn from(error: GroupError) -> Self {
        Error::Group(error)
    }
}

/// Why a run has not even started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// A part that is needed cannot be had.
    Failed(Error),
    /// A signal of this number came before the output was there.
    Interrupted(i32),
}

impl<E: Into<Error>> From<E> for NotStarted {
    fn from(error: E) -> Self {
        NotStarted::Failed(error.into())
    }
}

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended, or the first error.
    pub end: Result<End, Error>,
    /// Bytes that were read and not delivered.
    pub undelivered: u64,
    /// Bytes that arrived, where there is a single output that the user named.
    pub arrived: Option<u64>,
}
