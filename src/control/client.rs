//! Asking runs from outside. Nothing here waits for a run: one loop asks any number of them.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::Deserialize;

use super::socket::{SocketName, connect, is_strange, remove_if_left_over};
use super::{Reply, Request, VERSION};
use crate::os::{FolderError, RuntimeFolder};
use crate::stats::Status;

/// A run that has not answered after this time hangs.
const LIMIT: Duration = Duration::from_secs(2);

/// How soon a run is tried again that has too many connections to accept.
const RETRY: Duration = Duration::from_millis(10);

/// The longest reply in bytes, with plenty of room.
const LONGEST: usize = 64 * 1024;

/// Tells a run from all others that this process can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// The user whose run it is.
    pub user: u32,
    /// The process, as its own pid namespace has it.
    pub pid: u32,
    /// Tells runs of the same pid in several namespaces apart.
    pub number: u32,
}

/// A pcproxy that is running, or was when it was found.
#[derive(Debug)]
pub struct Run {
    user: u32,
    name: SocketName,
    folder: RuntimeFolder,
    /// The connection of earlier requests: the rate in a status is that since the request before.
    stream: Option<UnixStream>,
    exchange: Option<Exchange>,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Exchange {
    request: Vec<u8>,
    /// Bytes of the request that the run's socket has taken.
    written: usize,
    reply: Vec<u8>,
    deadline: Instant,
    /// Earliest time of the next attempt to connect.
    again: Option<Instant>,
    /// The connection was made for this request.
    new: bool,
}

/// Why a run did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// The run has ended.
    Ended,
    /// The run did not answer within two seconds. It may still do what was asked.
    Silent,
    /// The run refused, for this reason.
    Refused(String),
    /// The run speaks this version of the protocol.
    Version(u32),
    /// The run cannot be asked, for this reason.
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

/// The runs of this user, by pid; for root, those of all users. They have not been asked yet: a run
/// that was killed leaves its socket behind, which is found out and removed when the run is asked.
///
/// # Errors
/// When the folder of this user cannot be used. Folders of other users that cannot be used are left
/// out.
pub fn runs() -> Result<Vec<Run>, FolderError> {
    let mut runs = RuntimeFolder::find()?.map_or(Ok(Vec::new()), runs_in)?;
    for folder in RuntimeFolder::of_others() {
        runs.extend(runs_in(folder).unwrap_or_default());
    }
    Ok(runs)
}

/// The runs in a folder.
fn runs_in(folder: RuntimeFolder) -> Result<Vec<Run>, FolderError> {
    let own = geteuid();
    let mut runs = Vec::new();
    for name in SocketName::all(&folder)? {
        let Ok(found) = std::fs::symlink_metadata(folder.socket_path(&name.to_string())) else { continue };
        // In a folder that several users share, each asks his own runs.
        if found.file_type().is_socket() && (found.uid() == own.as_raw() || own.is_root()) {
            runs.push(Run { user: found.uid(), name, folder: folder.clone(), stream: None, exchange: None });
        }
    }
    Ok(runs)
}

/// Asks all runs the same at the same time, and returns their answers in order. A run that hangs
/// takes two seconds, and does not delay the others.
pub fn ask(runs: &mut [Run], request: &Request) -> Vec<Result<Status, ControlError>> {
    let start = Instant::now();
    runs.iter_mut().for_each(|run| run.begin(request, start));
    let mut answers: Vec<_> = runs.iter().map(|_| None).collect();
    loop {
        let now = Instant::now();
        for (run, answer) in runs.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            *answer = run.advance(now);
        }
        let open: Vec<&Run> = runs.iter().filter(|run| run.is_asked()).collect();
        if open.is_empty() {
            // Each run without an exchange has given its answer.
            return answers.into_iter().map(|answer| answer.unwrap_or(Err(ControlError::Ended))).collect();
        }
        let mut descriptors: Vec<_> = open.iter().filter_map(|run| run.interest()).collect();
        let due = open.iter().filter_map(|run| run.due()).min().unwrap_or(now);
        let wait = Timespec::try_from(due.saturating_duration_since(now)).unwrap_or_default();
        // A signal only makes for another round.
        let _ = poll(&mut descriptors, Some(&wait));
    }
}

impl Run {
    /// Which run it is.
    pub fn id(&self) -> RunId {
        RunId { user: self.user, pid: self.name.pid, number: self.name.number }
    }

    /// Whether a request is not answered yet.
    pub fn is_asked(&self) -> bool {
        self.exchange.is_some()
    }

    /// Begins to ask the run to do something, at `now`. A request that was not answered yet is
    /// given up.
    pub fn begin(&mut self, request: &Request, now: Instant) {
        if self.exchange.is_some() {
            // The reply to the earlier request would be taken for that to this one.
            self.stream = None;
        }
        // A request is made of numbers and text, which JSON can always hold.
        let mut line = serde_json::to_vec(request).unwrap_or_default();
        line.push(b'\n');
        let deadline = now + LIMIT;
        self.exchange =
            Some(Exchange { request: line, written: 0, reply: Vec::new(), deadline, again: None, new: false });
    }

    /// The descriptors to poll until the run can [`advance`](Self::advance).
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let (stream, exchange) = (self.stream.as_ref()?, self.exchange.as_ref()?);
        let flags = if exchange.written < exchange.request.len() { PollFlags::OUT } else { PollFlags::IN };
        Some(PollFd::from_borrowed_fd(stream.as_fd(), flags))
    }

    /// When to advance though there is nothing to read or write.
    pub fn due(&self) -> Option<Instant> {
        let exchange = self.exchange.as_ref()?;
        Some(exchange.again.unwrap_or(exchange.deadline))
    }

    /// Does what can be done at `now` without waiting. Returns the status of the run once it has
    /// done what was asked.
    ///
    /// # Errors
    /// When it has ended, hangs, refuses or cannot be understood.
    pub fn advance(&mut self, now: Instant) -> Option<Result<Status, ControlError>> {
        let mut exchange = self.exchange.take()?;
        let answer = match self.converse(&mut exchange, now) {
            Ok(None) if now < exchange.deadline => {
                self.exchange = Some(exchange);
                return None;
            }
            Ok(None) => Err(ControlError::Silent),
            Ok(Some(())) => return Some(read(&exchange.reply)),
            Err(error) => Err(error),
        };
        self.stream = None;
        Some(answer)
    }

    /// Connects, writes and reads as far as that goes. Returns something once there is a reply.
    fn converse(&mut self, exchange: &mut Exchange, now: Instant) -> Result<Option<()>, ControlError> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => match reach(&self.folder, self.name, self.user) {
                    Ok(stream) => {
                        (exchange.new, exchange.again) = (true, None);
                        none.insert(stream)
                    }
                    Err(Connecting::Later) => {
                        exchange.again = Some(exchange.deadline.min(now + RETRY));
                        return Ok(None);
                    }
                    Err(Connecting::Failed(error)) => return Err(error),
                },
            };
            match exchange.go_on(stream) {
                // A run hangs up on clients that it has too many of.
                Err(ControlError::Ended) if !exchange.new => {
                    self.stream = None;
                    exchange.written = 0;
                    exchange.reply.clear();
                }
                result => return result,
            }
        }
    }
}

/// Why there is no connection yet.
enum Connecting {
    Later,
    Failed(ControlError),
}

/// Connects to the run of this name, which belongs to `user`.
fn reach(folder: &RuntimeFolder, name: SocketName, user: u32) -> Result<UnixStream, Connecting> {
    let failed = |error| Err(Connecting::Failed(error));
    let file = name.to_string();
    let stream = match connect(folder, &file) {
        Ok(stream) => stream,
        Err(Errno::AGAIN) => return Err(Connecting::Later),
        Err(Errno::CONNREFUSED) => {
            remove_if_left_over(folder, &file);
            return failed(ControlError::Ended);
        }
        Err(errno) => return failed(errno.into()),
    };
    if is_strange(&stream, &[user]) {
        return failed(ControlError::Broken("its socket belongs to another user".to_owned()));
    }
    Ok(stream)
}

impl Exchange {
    /// Writes and reads as far as that goes. Returns something once the reply is complete.
    fn go_on(&mut self, stream: &mut UnixStream) -> Result<Option<()>, ControlError> {
        let mut piece = [0; 4096];
        loop {
            let moved = if self.written < self.request.len() {
                stream.write(&self.request[self.written..]).inspect(|written| self.written += written)
            } else {
                stream.read(&mut piece).inspect(|read| self.reply.extend_from_slice(&piece[..*read]))
            };
            match moved {
                Ok(0) => return Err(ControlError::Ended),
                Ok(_) if self.reply.len() > LONGEST => {
                    return Err(ControlError::Broken("its reply has no end".to_owned()));
                }
                Ok(_) if self.reply.ends_with(b"\n") => return Ok(Some(())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The content of a reply.
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
    use proptest::prelude::*;

    fn exchange() -> Exchange {
        let request = b"{\"do\":\"pause\"}\n".to_vec();
        Exchange { request, written: 0, reply: Vec::new(), deadline: Instant::now(), again: None, new: true }
    }

    /// What comes of a reply of these bytes, after which the run hangs; nothing if that is no
    /// whole reply.
    fn reply(bytes: &[u8]) -> Option<Result<Status, ControlError>> {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.write_all(bytes).unwrap();
        let mut exchange = exchange();
        let heard = exchange.go_on(&mut here);
        let mut request = [0; 64];
        let count = there.read(&mut request).unwrap();
        assert_eq!(&request[..count], exchange.request);
        heard.transpose().map(|heard| heard.and_then(|()| read(&exchange.reply)))
    }

    #[test]
    fn says_what_is_wrong_with_a_reply() {
        let broken = |bytes: &[u8]| matches!(reply(bytes), Some(Err(ControlError::Broken(_))));
        assert_eq!(reply(b""), None);
        assert_eq!(reply(b"{\"version\":1}"), None);
        assert!(broken(b"{\"version\":1}\n"));
        assert!(broken(b"\n"));
        assert!(broken(b"{\"version\":1,\"status\":{}}\n"));
        assert!(broken(&[b' '; LONGEST + 1]));
        assert_eq!(reply(b"{\"version\":7,\"status\":\"new\"}\n"), Some(Err(ControlError::Version(7))));
        assert_eq!(reply(b"{\"version\":1,\"error\":\"no\"}\n"), Some(Err(ControlError::Refused("no".to_owned()))));
    }

    #[test]
    fn a_run_that_hangs_up_has_ended() {
        let (mut here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert_eq!(exchange().go_on(&mut here), Err(ControlError::Ended));
    }

    proptest! {
        /// A run of another program, or one that was tampered with, cannot make 'ctl' panic.
        #[test]
        fn any_reply_is_a_status_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
