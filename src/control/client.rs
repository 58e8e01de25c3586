//! Asking runs from outside.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;
use serde::Deserialize;

use super::{ENDING, Reply, Request, VERSION};
use crate::os::{self, FolderError, RuntimeFolder};
use crate::stats::Status;

/// A run that has not answered by then hangs.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest reply in bytes, with plenty of room.
const LONGEST: usize = 64 * 1024;

/// A pcproxy that runs, or did when it was found.
#[derive(Debug)]
pub struct Run {
    pid: u32,
    folder: Arc<RuntimeFolder>,
    /// On which it was asked before: a status tells of the time since.
    stream: Option<UnixStream>,
}

/// Why a run did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// It has ended.
    Ended,
    /// It did not answer within two seconds. It may yet do what was asked.
    Silent,
    /// It would not, for this reason.
    Refused(String),
    /// It speaks this version of the protocol.
    Version(u32),
    /// There is no talking to it, for this reason.
    Broken(String),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Ended => f.write_str("has ended"),
            ControlError::Silent => f.write_str("does not answer"),
            ControlError::Refused(reason) => write!(f, "refused: {reason}"),
            ControlError::Version(theirs) => {
                write!(f, "is of another version: it speaks protocol {theirs}, and this pcproxy {VERSION}")
            }
            ControlError::Broken(reason) => write!(f, "cannot be asked: {reason}"),
        }
    }
}

impl std::error::Error for ControlError {}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ControlError::Silent,
            ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::NotFound
            | ErrorKind::UnexpectedEof => ControlError::Ended,
            _ => ControlError::Broken(error.to_string()),
        }
    }
}

impl From<Errno> for ControlError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// The runs of this user, by pid. None of them has been asked yet: one that was killed left its
/// socket behind, and is found out, and cleared away, when it is asked.
///
/// # Errors
/// When the folder of this user cannot be used.
pub fn runs() -> Result<Vec<Run>, FolderError> {
    let folder = Arc::new(RuntimeFolder::open()?);
    let mut pids: Vec<u32> = folder.names_ending(ENDING)?.iter().filter_map(|pid| pid.parse().ok()).collect();
    pids.sort();
    Ok(pids.into_iter().map(|pid| Run { pid, folder: folder.clone(), stream: None }).collect())
}

impl Run {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks the run to do something, and how things are once it is done. Takes two seconds or so at
    /// the most.
    ///
    /// # Errors
    /// When it has ended, hangs, refuses or cannot be understood.
    pub fn ask(&mut self, request: &Request) -> Result<Status, ControlError> {
        let answer = match self.stream.take() {
            Some(stream) => self.converse(stream, request),
            None => Err(ControlError::Ended),
        };
        match answer {
            // It hangs up on clients that it has too many of.
            Err(ControlError::Ended) => self.converse(self.connect()?, request),
            answer => answer,
        }
    }

    /// Keeps the stream only if there was a reply: one that comes late would be taken for that to
    /// the next request.
    fn converse(&mut self, mut stream: UnixStream, request: &Request) -> Result<Status, ControlError> {
        let reply = exchange(&mut stream, request, LIMIT)?;
        self.stream = Some(stream);
        read(&reply)
    }

    fn connect(&self) -> Result<UnixStream, ControlError> {
        let name = format!("{}{ENDING}", self.pid);
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // A run that hangs may have more callers than it can keep waiting.
        set_socket_timeout(&socket, Timeout::Send, Some(LIMIT))?;
        let address = SocketAddrUnix::new(self.folder.socket_path(&name))?;
        match retry_on_intr(|| connect(&socket, &address)) {
            // Nobody listens, or not yet: that of a process which lives may be just being made.
            Err(Errno::CONNREFUSED) if !os::exists(self.pid) => {
                // Whoever comes next will find it again.
                let _ = self.folder.remove(&name);
                return Err(ControlError::Ended);
            }
            connected => connected?,
        }
        let peer = socket_peercred(&socket)?.uid;
        if peer != geteuid() {
            return Err(ControlError::Broken(format!("its socket belongs to user {}", peer.as_raw())));
        }
        Ok(socket.into())
    }
}

/// Says a line and hears one.
fn exchange(stream: &mut UnixStream, request: &Request, limit: Duration) -> Result<Vec<u8>, ControlError> {
    let deadline = Instant::now() + limit;
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    let mut piece = [0; 4096];
    while !reply.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ControlError::Silent);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ControlError::Ended),
            Ok(read) => reply.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        if reply.len() > LONGEST {
            return Err(ControlError::Broken("its reply has no end".to_owned()));
        }
    }
    Ok(reply)
}

/// What a reply says.
fn read(reply: &[u8]) -> Result<Status, ControlError> {
    /// All that can be read of the reply of another version.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let nonsense = |error| ControlError::Broken(format!("its reply makes no sense: {error}"));
    let Versioned { version } = serde_json::from_slice(reply).map_err(nonsense)?;
    if version != VERSION {
        return Err(ControlError::Version(version));
    }
    match serde_json::from_slice(reply).map_err(nonsense)? {
        Reply { error: Some(reason), .. } => Err(ControlError::Refused(reason)),
        Reply { status: Some(status), .. } => Ok(status),
        Reply { .. } => Err(ControlError::Broken("its reply says nothing".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a reply of these bytes, after which the run hangs.
    fn reply(bytes: &[u8]) -> Result<Status, ControlError> {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        there.write_all(bytes).unwrap();
        let reply = exchange(&mut here, &Request::Pause {}, Duration::from_millis(50));
        let mut request = [0; 64];
        let read_bytes = there.read(&mut request).unwrap();
        assert_eq!(&request[..read_bytes], b"{\"do\":\"pause\"}\n");
        read(&reply?)
    }

    #[test]
    fn says_what_is_wrong_with_a_reply() {
        let broken = |bytes: &[u8]| matches!(reply(bytes), Err(ControlError::Broken(_)));
        assert_eq!(reply(b""), Err(ControlError::Silent));
        assert_eq!(reply(b"{\"version\":1}"), Err(ControlError::Silent));
        assert!(broken(b"{\"version\":1}\n"));
        assert!(broken(b"\n"));
        assert!(broken(b"{\"version\":1,\"status\":{}}\n"));
        assert!(broken(&[b' '; LONGEST + 1]));
        assert_eq!(reply(b"{\"version\":7,\"status\":\"new\"}\n"), Err(ControlError::Version(7)));
        assert_eq!(reply(b"{\"version\":1,\"error\":\"no\"}\n"), Err(ControlError::Refused("no".to_owned())));
    }

    #[test]
    fn one_that_hangs_up_has_ended() {
        let (mut here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert_eq!(exchange(&mut here, &Request::Stats {}, LIMIT), Err(ControlError::Ended));
    }
}
