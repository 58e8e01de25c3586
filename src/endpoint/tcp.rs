//! TCP connections of our own, and what the other side has acknowledged.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::{getsockopt_impl, sockopt_impl};
use rustix::net::sockopt;

use super::awaited::Teller;

/// Bytes on their way within this machine. A round trip takes microseconds there, so more of them gain
/// nothing. With fewer, the two sides take turns in larger steps, and wake each other up less often.
const LOCAL_SEND_BUFFER: usize = 512 * 1024;

/// Connects to the first address of `host` that answers, within `timeout` altogether.
///
/// # Errors
/// When the name does not resolve, and the last error of the addresses where none answers.
pub(super) fn connect(host: String, port: u16, timeout: Duration) -> io::Result<OwnedFd> {
    let start = Instant::now();
    let left = || timeout.saturating_sub(start.elapsed());
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}"));
    // The resolver has timeouts of its own, and no call to cut them short.
    let (sender, resolved) = channel();
    thread::Builder::new().spawn(move || sender.send(resolve(&host, port)))?;
    let addresses = resolved.recv_timeout(left()).map_err(|_| late())??;
    let mut last = late();
    for (tried, address) in addresses.iter().enumerate() {
        // An address that does not answer leaves the others their share of the time.
        let share = left() / (addresses.len() - tried) as u32;
        if share.is_zero() {
            return Err(late());
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return ours(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => last = late(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens on the first address of `host` that it can have, and takes the first connection.
///
/// # Errors
/// When the name does not resolve, or the port cannot be had.
pub(super) fn accept(host: &str, port: u16, teller: &mut Teller) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind(&resolve(host, port)?[..])?;
    if port == 0 {
        teller.say(format!("listening on {}", listener.local_addr()?));
    }
    loop {
        match listener.accept() {
            Ok((stream, _)) => return ours(stream),
            // It was there, and has gone again before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// All addresses of a name, at least one.
fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| io::Error::other(format!("cannot find the address of '{host}': {}", reason(&error))))?
        .collect();
    if addresses.is_empty() { Err(io::Error::other(format!("'{host}' has no address"))) } else { Ok(addresses) }
}

/// The words of the resolver, without those that the standard library puts in front.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// Makes a connection ready to carry bytes.
fn ours(stream: TcpStream) -> io::Result<OwnedFd> {
    // Nobody else has this description, so its flag is ours to set: then splice does not wait.
    stream.set_nonblocking(true)?;
    // Bytes are written as soon as they may go: to hold back a small piece gains nothing. Where bytes
    // flow in bulk, see `Sink::holds_back`.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    if is_local(&stream) {
        // A refusal leaves the system's own choice.
        let _ = sockopt::set_socket_send_buffer_size(&stream, LOCAL_SEND_BUFFER);
    }
    Ok(stream.into())
}

/// Whether both ends of a connection are on this machine.
fn is_local(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(own), Ok(peer)) => own.ip() == peer.ip() || peer.ip().to_canonical().is_loopback(),
        _ => false,
    }
}

/// The beginning of the kernel's `struct tcp_info`, which only ever grows at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    state: u8,
    _bytes: [u8; 7],
    _words: [u32; 24],
    _rates: [u64; 2],
    bytes_acked: u64,
}

// The crate that has this option has it for other systems only.
sockopt_impl!(
    /// How a connection is getting on.
    Info,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

/// The state of a connection that is no more, by its number in the kernel.
const CLOSE: u8 = 7;

/// The bytes that the peer of a TCP connection has acknowledged, beside those that were written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    /// The count of acknowledged bytes before the first byte: the handshake counts.
    before: u64,
}

impl Receipt {
    /// To be taken before the first byte is written. Nothing, if `fd` is no TCP connection.
    pub(super) fn new(fd: impl AsFd) -> Option<Self> {
        info(fd).map(|info| Receipt { before: info.bytes_acked })
    }

    /// Whether the connection is no more: nothing will be acknowledged.
    pub(super) fn is_closed(&self, fd: impl AsFd) -> bool {
        info(fd).is_none_or(|info| info.state == CLOSE)
    }

    /// How many of `written` bytes the other side's kernel has not acknowledged.
    pub(super) fn missing(&self, fd: impl AsFd, written: u64) -> u64 {
        info(fd).map_or(0, |info| written.saturating_sub(info.bytes_acked.saturating_sub(self.before)))
    }
}

fn info(fd: impl AsFd) -> Option<TcpInfo> {
    nix::sys::socket::getsockopt(&fd, Info).ok()
}
