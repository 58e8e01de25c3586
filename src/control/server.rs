//! Being asked from outside.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use super::{ENDING, Reply, Request, VERSION};
use crate::os::{self, FolderError, RuntimeFolder};
use crate::shaping::{Limit, Shaper, TokenBucket};
use crate::stats::{Interval, Status};

/// The longest request, with some room: also the most that is read at once.
const LINE: usize = 256;

/// How many requests that can hold, `{"do":"stats"}` being the shortest.
const REQUESTS: u64 = 17;

/// Who comes when so many are there has the one leave that has been silent for longest.
const MOST_CLIENTS: usize = 32;

/// How many requests of clients are heard a second, of all of them together, and how many at once:
/// enough for any number of people, and about a hundredth of a processor.
const ATTENTION: Limit = Limit::new(200, 100).with_quantum(REQUESTS);

/// How many may wait to be accepted.
const BACKLOG: i32 = 32;

/// What the listener is called in the epoll; clients are counted from 1 on.
const LISTENER: u64 = 0;

/// What a server speaks for.
pub trait Host {
    /// Does what was asked.
    ///
    /// # Errors
    /// Why it cannot be done, for the user.
    fn obey(&mut self, request: &Request) -> Result<(), String>;
    /// How things are, since the beginning of `interval`.
    fn status(&mut self, interval: &mut Interval) -> Status;
}

/// The socket of a run. It never waits for a client: one that hangs costs a descriptor, and one
/// that floods is heard as often as all others together may be.
#[derive(Debug)]
pub struct Server {
    folder: RuntimeFolder,
    name: String,
    listener: UnixListener,
    epoll: OwnedFd,
    clients: BTreeMap<u64, Client>,
    /// The number of the next event, which the client that caused it is known by.
    next: u64,
    attention: TokenBucket,
    /// Someone may be waiting to be heard.
    waiting: bool,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    /// Of a request that is not complete.
    input: Vec<u8>,
    /// Of replies that did not go out. Until they do, nothing more is read.
    output: Vec<u8>,
    interval: Interval,
}

impl Server {
    /// Listens on the socket of this process, and removes those that dead ones have left.
    ///
    /// # Errors
    /// When the folder or the socket cannot be made.
    pub fn open() -> Result<Self, FolderError> {
        let folder = RuntimeFolder::open()?;
        remove_stale(&folder)?;
        let name = format!("{}{ENDING}", std::process::id());
        let refused = |error: io::Error| FolderError::new(&folder.path_of(&name), error);
        let listener = UnixListener::bind(folder.socket_path(&name)).map_err(refused)?;
        let prepare = || {
            listener.set_nonblocking(true)?;
            rustix::net::listen(&listener, BACKLOG)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
            Ok(epoll)
        };
        let epoll = prepare().map_err(refused)?;
        let attention = TokenBucket::empty(ATTENTION);
        Ok(Server { folder, name, listener, epoll, clients: BTreeMap::new(), next: 1, attention, waiting: false })
    }

    /// Hears those who are waiting, as far as they have attention left at `now`.
    pub fn work(&mut self, now: Duration, host: &mut impl Host) {
        self.attention.drip(now);
        while self.attention.take(REQUESTS, REQUESTS).is_ok() {
            let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            let found = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())).unwrap_or(0);
            if found == 0 {
                self.attention.refund(REQUESTS);
                self.waiting = false;
                return;
            }
            let heard = match events[0].data.u64() {
                LISTENER => self.accept(),
                client => self.serve(client, host),
            };
            self.attention.refund(REQUESTS.saturating_sub(heard));
        }
        self.waiting = true;
    }

    /// When to [`work`](Self::work) again though the epoll reports nothing new.
    pub fn due(&self) -> Option<Duration> {
        if self.waiting { self.attention.due(REQUESTS) } else { None }
    }

    /// Lets a client in. Returns what that counts for, in requests.
    fn accept(&mut self) -> u64 {
        let Ok((stream, _)) = self.listener.accept() else { return 1 };
        // The folder is closed to others; this is for descriptors that were handed on.
        let trusted = socket_peercred(&stream).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root());
        if !trusted || stream.set_nonblocking(true).is_err() {
            return 1;
        }
        if self.clients.len() == MOST_CLIENTS {
            self.clients.pop_first();
        }
        let data = epoll::EventData::new_u64(self.next);
        if epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).is_ok() {
            let interval = Interval::default();
            self.clients.insert(self.next, Client { stream, input: Vec::new(), output: Vec::new(), interval });
            self.next += 1;
        }
        1
    }

    /// Has a client take its replies and make its requests; returns how many, at least 1. It gets
    /// a new number, so that the one that was silent for longest has the lowest.
    fn serve(&mut self, number: u64, host: &mut impl Host) -> u64 {
        let Some(mut client) = self.clients.remove(&number) else { return 1 };
        let Ok(heard) = client.converse(host) else { return 1 };
        let flags = if client.output.is_empty() { epoll::EventFlags::IN } else { epoll::EventFlags::OUT };
        if epoll::modify(&self.epoll, &client.stream, epoll::EventData::new_u64(self.next), flags).is_ok() {
            self.clients.insert(self.next, client);
            self.next += 1;
        }
        heard.max(1)
    }
}

/// Removes the sockets of processes that are no more. Whoever has this pid by now has none yet.
fn remove_stale(folder: &RuntimeFolder) -> Result<(), FolderError> {
    for name in folder.names_ending(ENDING)? {
        if name.parse().is_ok_and(|pid: u32| pid == std::process::id() || !os::exists(pid)) {
            // What cannot be removed harms nobody.
            let _ = folder.remove(&format!("{name}{ENDING}"));
        }
    }
    Ok(())
}

impl AsFd for Server {
    /// Is readable when someone is waiting to be heard.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Should this fail, whoever finds it will notice that the process is gone.
        let _ = self.folder.remove(&self.name);
    }
}

impl Client {
    /// Returns how many requests it made.
    ///
    /// # Errors
    /// When the client has left, or is not one.
    fn converse(&mut self, host: &mut impl Host) -> io::Result<u64> {
        if self.output.is_empty() {
            let mut bytes = [0; LINE];
            match self.stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.input.extend_from_slice(&bytes[..read]),
            }
        }
        let mut heard = 0;
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.input.drain(..=end).collect();
            let reply = self.answer(&line, host)?;
            self.output.extend(reply);
            heard += 1;
        }
        if self.input.len() >= LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.stream.write(&self.output) {
            Ok(written) => drop(self.output.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(heard)
    }

    fn answer(&mut self, line: &[u8], host: &mut impl Host) -> io::Result<Vec<u8>> {
        let done = serde_json::from_slice(line)
            .map_err(|error| format!("not a request: {error}"))
            .and_then(|request| host.obey(&request));
        let (status, error) = match done {
            Ok(()) => (Some(host.status(&mut self.interval)), None),
            Err(reason) => (None, Some(reason)),
        };
        let mut reply = serde_json::to_vec(&Reply { version: VERSION, status, error })?;
        reply.push(b'\n');
        Ok(reply)
    }
}
