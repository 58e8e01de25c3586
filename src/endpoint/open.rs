//! How endpoints come to be.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use super::awaited::{Awaited, Teller};
use super::{Address, Endpoint, EndpointError, file, tcp, unix};
use crate::os::{Kind, closed};

/// The first number that our own descriptors get: those below it are for others to find.
const FIRST: i32 = 3;

/// An endpoint that is there, or that is waited for.
#[derive(Debug)]
pub enum Opening {
    /// It is there.
    There(Endpoint),
    /// Something has to happen first.
    Awaited(Awaited),
}

/// Begins to open `address` to be read. A connection may take `connect_timeout` to be made.
///
/// # Errors
/// When it is known already that it cannot be opened.
pub fn open_input(address: &Address, connect_timeout: Duration) -> Result<Opening, EndpointError> {
    match address {
        Address::Standard => stdin().map(Opening::There),
        Address::File(path) => open_path(address, path, file::open_to_read),
        _ => open_socket(address, connect_timeout),
    }
}

/// Begins to open `address` to be written: a file at its end if it is to `append`, else at its
/// start, with what is in it. A connection may take `connect_timeout` to be made.
///
/// # Errors
/// When it is known already that it cannot be opened.
pub fn open_output(address: &Address, append: bool, connect_timeout: Duration) -> Result<Opening, EndpointError> {
    match address {
        Address::Standard => stdout().map(Opening::There),
        Address::File(path) => open_path(address, path, move |path: &Path| file::open_to_write(path, append)),
        _ => open_socket(address, connect_timeout),
    }
}

fn open_path(
    address: &Address,
    path: &Path,
    open: impl FnOnce(&Path) -> Result<OwnedFd, Errno> + Send + 'static,
) -> Result<Opening, EndpointError> {
    let label = address.to_string();
    if file::may_wait(path) {
        let path = path.to_owned();
        return Awaited::start(&label, move |_| Ok(open(&path)?)).map(Opening::Awaited);
    }
    let fd = open(path).map_err(|error| EndpointError::new(&label, error))?;
    Endpoint::new(fd, label, false).map(Opening::There)
}

/// Opens a socket, in a thread.
type Opener = Box<dyn FnOnce(&mut Teller) -> io::Result<OwnedFd> + Send>;

fn open_socket(address: &Address, timeout: Duration) -> Result<Opening, EndpointError> {
    let make: Opener = match address.clone() {
        Address::Tcp { host, port, .. } => Box::new(move |_| tcp::connect(host, port, timeout)),
        Address::TcpListen { host, port, .. } => Box::new(move |teller| tcp::accept(&host, port, teller)),
        Address::Unix(path) => Box::new(move |_| unix::connect(&path)),
        Address::UnixListen(path) => return listen_at(address, path),
        Address::Standard | Address::File(_) => return Err(EndpointError::new(&address.to_string(), Errno::NOTSOCK)),
    };
    Awaited::start(&address.to_string(), make).map(Opening::Awaited)
}

fn listen_at(address: &Address, path: PathBuf) -> Result<Opening, EndpointError> {
    let label = address.to_string();
    let listener = unix::Listener::bind(path.clone()).map_err(|error| EndpointError::new(&label, error))?;
    let awaited = Awaited::start(&label, move |_| listener.accept())?;
    Ok(Opening::Awaited(awaited.removing(path)))
}

/// The input that the program was given.
///
/// # Errors
/// When it was closed at the start, or delivers messages that do not fit a read in pieces only.
pub fn stdin() -> Result<Endpoint, EndpointError> {
    inherited(rustix::stdio::stdin(), "stdin", 0)
}

/// The output that the program was given.
///
/// # Errors
/// When it was closed at the start, or takes whole messages only.
pub fn stdout() -> Result<Endpoint, EndpointError> {
    inherited(rustix::stdio::stdout(), "stdout", 1)
}

/// Closes what the program was given to read, so that the producer notices. Its number stays taken.
pub fn release_stdin() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
}

/// Closes what the program was given to write, so that the consumer notices. Its number stays
/// taken.
pub fn release_stdout() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
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
        _ => None,
    };
    match cuts {
        None => Ok(endpoint),
        Some(why) => Err(EndpointError::new(label, io::Error::other(format!("is {why}; use a stream")))),
    }
}
