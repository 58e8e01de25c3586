//! The socket of a run: hears requests, and has the run answer them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::process::geteuid;

use super::socket::{self, SocketName, is_strange};
use super::{Reply, Request, VERSION};
use crate::os::{FolderError, RuntimeFolder};
use crate::shaping::{Limit, Shaper, TokenBucket};
use crate::stats::{Interval, Status};

/// The longest request in bytes, with its end. A timetable may be long.
const LINE: usize = 4096;

/// Bytes that are read from a client at once.
const PIECE: usize = 256;

/// Requests that can end in one piece. `{"do":"stats"}` is the shortest.
const REQUESTS: u64 = 18;

/// When another client comes, the one that was silent for longest is disconnected.
const MOST_CLIENTS: usize = 32;

/// Requests per second of all clients together, and how many at once. It is enough for any number
/// of people, and about a hundredth of a processor.
const ATTENTION: Limit = Limit::new(200, 100).with_quantum(REQUESTS);

/// How long the listener is left alone after the system had no descriptor for a client. The client
/// keeps waiting, so the listener would report it again at once.
const DEAF: Duration = Duration::from_secs(1);

/// The name of the listener in the epoll. Clients are counted from 1 on.
const LISTENER: u64 = 0;

/// The run that a server speaks for.
pub trait Host {
    /// Does what was asked.
    ///
    /// # Errors
    /// Why it cannot be done, for the user.
    fn obey(&mut self, request: &Request) -> Result<(), String>;
    /// The status of the run, with rates since the beginning of `interval`.
    fn status(&mut self, interval: &mut Interval) -> Status;
}

/// The socket of a run. It never waits for a client: a client that hangs costs a descriptor, and
/// the requests of all clients together are limited.
#[derive(Debug)]
pub struct Server {
    folder: RuntimeFolder,
    name: SocketName,
    listener: UnixListener,
    epoll: OwnedFd,
    clients: BTreeMap<u64, Client>,
    /// The number that the next client gets.
    next: u64,
    attention: TokenBucket,
    /// A client may be waiting to be heard.
    waiting: bool,
    /// The listener is left alone until then.
    deaf: Option<Duration>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    /// Bytes of a request that is not complete.
    input: Vec<u8>,
    /// Bytes of replies that did not go out. Until they do, nothing more is read.
    output: Vec<u8>,
    interval: Interval,
}

impl Server {
    /// Listens on the socket of this process, and removes sockets that killed processes left
    /// behind.
    ///
    /// # Errors
    /// When the folder or the socket cannot be made.
    pub fn open() -> Result<Self, FolderError> {
        let folder = RuntimeFolder::open()?;
        let (listener, name) = socket::listen(&folder)?;
        let watched = watch(&listener).map_err(|error| FolderError::new(&folder.path_of(&name.to_string()), error));
        if watched.is_err() {
            let _ = folder.remove(&name.to_string());
        }
        Ok(Server {
            epoll: watched?,
            folder,
            name,
            listener,
            clients: BTreeMap::new(),
            next: 1,
            attention: TokenBucket::empty(ATTENTION),
            waiting: false,
            deaf: None,
        })
    }

    /// Hears the clients that are waiting, as far as there is attention left at `now`.
    pub fn work(&mut self, now: Duration, host: &mut impl Host) {
        self.attention.drip(now);
        if self.deaf.is_some_and(|until| until <= now) {
            self.deaf = None;
            self.listen(epoll::EventFlags::IN);
        }
        while self.attention.take(REQUESTS, REQUESTS).is_ok() {
            let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            let found = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())).unwrap_or(0);
            if found == 0 {
                self.attention.refund(REQUESTS);
                self.waiting = false;
                return;
            }
            let heard = match events[0].data.u64() {
                LISTENER => self.accept(now),
                client => self.serve(client, host),
            };
            self.attention.refund(REQUESTS.saturating_sub(heard));
        }
        self.waiting = true;
    }

    /// When to [`work`](Self::work) again though the epoll reports nothing new.
    pub fn due(&self) -> Option<Duration> {
        let heard = if self.waiting { self.attention.due(REQUESTS) } else { None };
        heard.into_iter().chain(self.deaf).min()
    }

    /// Has the epoll report clients that want to connect, or not.
    fn listen(&self, flags: epoll::EventFlags) {
        // If this fails, the listener is asked more often or not at all; bytes move all the same.
        let _ = epoll::modify(&self.epoll, &self.listener, epoll::EventData::new_u64(LISTENER), flags);
    }

    /// Lets a client in. Returns how many requests that counts for.
    fn accept(&mut self, now: Duration) -> u64 {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Without a descriptor for it, the client has to wait.
                let refused = !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted);
                if refused && self.clients.pop_first().is_none() {
                    self.deaf = Some(now + DEAF);
                    self.listen(epoll::EventFlags::empty());
                }
                return 1;
            }
        };
        if is_strange(&stream, &[geteuid().as_raw(), 0]) || stream.set_nonblocking(true).is_err() {
            return 1;
        }
        if self.clients.len() == MOST_CLIENTS {
            self.clients.pop_first();
        }
        let data = epoll::EventData::new_u64(self.next);
        if epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).is_ok() {
            self.clients.insert(self.next, Client::new(stream));
            self.next += 1;
        }
        1
    }

    /// Has a client take its replies and make its requests; returns how many, at least 1. The
    /// client gets a new number: the client that was silent for longest has the lowest.
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

/// An epoll that reports clients that want to connect.
fn watch(listener: &UnixListener) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    Ok(epoll)
}

impl AsFd for Server {
    /// Is readable when a client is waiting to be heard.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If this fails, the next process that connects to the socket finds that nobody listens.
        let _ = self.folder.remove(&self.name.to_string());
    }
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        Client { stream, input: Vec::new(), output: Vec::new(), interval: Interval::default() }
    }

    /// Reads a piece, answers the requests that are complete, and writes what the client takes.
    /// Returns how many requests there were.
    ///
    /// # Errors
    /// When the client has left, or sends a line that is too long.
    fn converse(&mut self, host: &mut impl Host) -> io::Result<u64> {
        if self.output.is_empty() {
            let mut bytes = [0; PIECE];
            match self.stream.read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
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
            return Err(ErrorKind::InvalidData.into());
        }
        match self.stream.write(&self.output) {
            Ok(written) => drop(self.output.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Account, Facts};
    use crate::units::{RateChange, RateUnit};
    use proptest::prelude::*;

    /// A run that does whatever it is asked, and remembers it.
    #[derive(Default)]
    struct Obedient {
        requests: Vec<Request>,
    }

    impl Host for Obedient {
        fn obey(&mut self, request: &Request) -> Result<(), String> {
            self.requests.push(request.clone());
            Ok(())
        }

        fn status(&mut self, interval: &mut Interval) -> Status {
            Account::new(Duration::ZERO, 1).status(Duration::ZERO, interval, &Facts::default())
        }
    }

    /// Says `bytes` to a run in pieces of these sizes. Returns what it obeyed, and its replies
    /// until it hung up, if it did.
    fn say(bytes: &[u8], sizes: &[usize]) -> (Vec<Request>, Vec<Reply>, bool) {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        let (mut client, mut host) = (Client::new(here), Obedient::default());
        let (mut replies, mut hung_up) = (Vec::new(), false);
        let mut rest = bytes;
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() && !hung_up {
            let (piece, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            there.write_all(piece).unwrap();
            rest = later;
            loop {
                let heard = client.converse(&mut host);
                // Memory is bounded whatever is said.
                assert!(client.input.capacity() <= 2 * (LINE + PIECE), "{} bytes", client.input.capacity());
                match heard {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        hung_up = true;
                        break;
                    }
                }
                let mut taken = [0; 65_536];
                while let Ok(count @ 1..) = there.read(&mut taken) {
                    replies.extend_from_slice(&taken[..count]);
                }
            }
        }
        let replies = replies.split_inclusive(|byte| *byte == b'\n');
        (host.requests, replies.map(|line| serde_json::from_slice(line).unwrap()).collect(), hung_up)
    }

    fn request() -> impl Strategy<Value = Request> {
        let unit = prop::option::of(prop::sample::select(vec![RateUnit::Binary, RateUnit::Decimal, RateUnit::Bits]));
        prop_oneof![
            Just(Request::Stats {}),
            Just(Request::Pause {}),
            Just(Request::Resume {}),
            Just(Request::Stop {}),
            Just(Request::RateBack {}),
            (any::<Option<u64>>(), any::<u64>(), unit).prop_map(|(rate, seconds, unit)| Request::Rate {
                rate,
                seconds,
                unit
            }),
            any::<i32>().prop_map(|percent| Request::ChangeRate { by: RateChange::Percent(percent) }),
            any::<i64>().prop_map(|amount| Request::ChangeRate { by: RateChange::Amount(amount) }),
            ".{0,40}".prop_map(|timetable| Request::Schedule { timetable }),
            any::<u64>().prop_map(|size| Request::Buffer { size }),
        ]
    }

    proptest! {
        /// Every request is obeyed once, in order, however the bytes are cut.
        #[test]
        fn requests_are_obeyed_however_they_are_cut(
            requests in proptest::collection::vec(request(), 0..20),
            sizes in proptest::collection::vec(1usize..600, 1..5),
        ) {
            let lines = requests.iter().map(|request| serde_json::to_string(request).unwrap() + "\n");
            let (obeyed, replies, hung_up) = say(lines.collect::<String>().as_bytes(), &sizes);
            prop_assert_eq!(&obeyed, &requests);
            prop_assert_eq!(replies.len(), requests.len());
            prop_assert!(!hung_up && replies.iter().all(|reply| reply.error.is_none()));
        }

        /// Each line of any bytes gets one reply, and only a line without an end is hung up on.
        #[test]
        fn any_bytes_get_a_reply_for_each_line(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..100),
                    proptest::collection::vec(Just(b'x'), 0..3000),
                    Just(b"\n".to_vec()),
                    request().prop_map(|request| serde_json::to_vec(&request).unwrap()),
                ],
                0..20,
            ),
            sizes in proptest::collection::vec(1usize..6000, 1..5),
        ) {
            let bytes = pieces.concat();
            let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let (obeyed, replies, hung_up) = say(&bytes, &sizes);
            let whole = lines.iter().filter(|line| line.ends_with(b"\n")).count();
            // A line may be answered though it is too long, if its end came soon enough.
            prop_assert_eq!(hung_up, replies.len() < whole || lines.last().is_some_and(|line| {
                !line.ends_with(b"\n") && line.len() >= LINE
            }));
            prop_assert!(!hung_up || lines.iter().any(|line| line.len() >= LINE));
            prop_assert_eq!(obeyed.len(), replies.iter().filter(|reply| reply.error.is_none()).count());
        }

        /// A request with a few wrong bytes is obeyed or refused, with one reply for each line, and the
        /// right request behind it is obeyed.
        #[test]
        fn a_damaged_request_gets_a_reply_and_harms_no_other(
            damaged in request(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..6),
            sizes in proptest::collection::vec(1usize..300, 1..5),
        ) {
            let mut bytes = serde_json::to_vec(&damaged).unwrap();
            for (at, byte, kind) in changes {
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => _ = bytes.remove(at),
                }
            }
            bytes.extend_from_slice(b"\n{\"do\":\"stats\"}\n");
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            let (obeyed, replies, hung_up) = say(&bytes, &sizes);
            prop_assert!(!hung_up);
            prop_assert_eq!(replies.len(), lines);
            prop_assert_eq!(obeyed.len(), replies.iter().filter(|reply| reply.error.is_none()).count());
            prop_assert_eq!(obeyed.last(), Some(&Request::Stats {}));
        }
    }
}
