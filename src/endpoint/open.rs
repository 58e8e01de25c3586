//! How endpoints come to be.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use super::{Endpoint, EndpointError};
use crate::os::{Kind, closed};

/// The first number that our own descriptors get: those below it are for others to find.
const FIRST: i32 = 3;

/// What the program was given to read.
///
/// # Errors
/// When it was closed at the start, or delivers messages that do not fit a read in pieces only.
pub fn stdin() -> Result<Endpoint, EndpointError> {
    inherited(rustix::stdio::stdin(), "stdin", 0)
}

/// What the program was given to write.
///
/// # Errors
/// When it was closed at the start, or takes whole messages only.
pub fn stdout() -> Result<Endpoint, EndpointError> {
    inherited(rustix::stdio::stdout(), "stdout", 1)
}

fn inherited(fd: BorrowedFd<'_>, label: &str, number: usize) -> Result<Endpoint, EndpointError> {
    let refused = |errno: Errno| EndpointError::new(label, errno);
    if closed::was_closed(number) {
        return Err(refused(Errno::BADF));
    }
    let endpoint = Endpoint::new(fcntl_dupfd_cloexec(fd, FIRST).map_err(refused)?, label, true)?;
    let cuts = match endpoint.kind() {
        Kind::Socket if socket_type(&endpoint).is_ok_and(|kind| kind != SocketType::STREAM) => {
            Some("a socket that keeps messages apart, and a message that does not fit would be cut")
        }
        Kind::Pipe if number == 0 && endpoint.fd.flags().contains(OFlags::DIRECT) => {
            Some("a pipe in packet mode, and a packet that does not fit would be cut")
        }
        _ => None,
    };
    match cuts {
        None => Ok(endpoint),
        Some(why) => Err(EndpointError::new(label, io::Error::other(format!("is {why}; use a stream")))),
    }
}
