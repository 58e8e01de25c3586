//! The outside world: what stdin and stdout are, and how to use them without blocking.

mod descriptor;
mod sink;
mod source;

pub use descriptor::{Descriptor, Kind, Side};
pub use sink::Sink;
pub use source::{Fill, Source};

use std::{fmt, io};

/// An operation on one of the two sides failed for good.
#[derive(Debug)]
pub struct StreamError {
    /// The side it happened on.
    pub side: Side,
    /// Why.
    pub cause: io::Error,
}

impl StreamError {
    fn new(side: Side, cause: impl Into<io::Error>) -> Self {
        StreamError { side, cause: cause.into() }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.side, self.cause)
    }
}

impl std::error::Error for StreamError {}

/// Grows the pipe behind each of the two descriptors to `size` bytes, where there is one, it
/// is smaller, and the system allows it. Fewer, larger steps on both sides are worth more
/// than anything done between them.
pub fn grow_pipes(ends: [&Descriptor; 2], size: usize) {
    for end in ends {
        if end.kind() == Kind::Pipe && rustix::pipe::fcntl_getpipe_size(end.fd()).is_ok_and(|now| now < size) {
            // EPERM and EBUSY: go on with what there is.
            let _ = rustix::pipe::fcntl_setpipe_size(end.fd(), size);
        }
    }
}

/// Whether stdout is the very file that stdin reads, and writing would feed the reading, as
/// `cat` puts it: "input file is output file".
pub fn feeds_itself(input: &Descriptor, output: &Descriptor) -> bool {
    let same = || {
        let (one, other) = (rustix::fs::fstat(input.fd()).ok()?, rustix::fs::fstat(output.fd()).ok()?);
        let reads_at = rustix::fs::tell(input.fd()).ok()?;
        let writes_at = if output.appends() { other.st_size as u64 } else { rustix::fs::tell(output.fd()).ok()? };
        Some((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) && reads_at < writes_at)
    };
    input.kind() == Kind::File && output.kind() == Kind::File && same().unwrap_or(false)
}

/// How many bytes of a regular file are still to be read, as of now; nothing of anything else.
pub fn left_to_read(input: &Descriptor) -> Option<u64> {
    if input.kind() != Kind::File {
        return None;
    }
    let size = rustix::fs::fstat(input.fd()).ok()?.st_size as u64;
    Some(size.saturating_sub(rustix::fs::tell(input.fd()).ok()?))
}
