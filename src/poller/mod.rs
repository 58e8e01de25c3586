//! The only room that knows mio: readiness, interests, deadlines, signals.
//!
//! A table leads from each mio token to what it stands for. Whoever turns the poller adds what it
//! waits for, says before each sleep what is of interest, and reads afterwards what has happened.

mod deadlines;
mod signals;

pub use deadlines::Deadline;
pub use signals::{Received, Signals};

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use mio::unix::SourceFd;
use mio::{Events, Poll, Token};
use rustix::io::Errno;

use deadlines::Deadlines;

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(usize);

/// The events of a descriptor that are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing at all.
    Nothing,
    /// It can be read.
    Read,
    /// It can be written.
    Write,
    /// Only that its other side has gone.
    Departure,
}

impl Interest {
    fn mio(self) -> Option<mio::Interest> {
        match self {
            Interest::Nothing => None,
            Interest::Read => Some(mio::Interest::READABLE),
            Interest::Write => Some(mio::Interest::WRITABLE),
            // Errors and hang-ups are reported whatever the interest.
            Interest::Departure => Some(mio::Interest::PRIORITY),
        }
    }
}

/// Something that happened to a descriptor of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which descriptor.
    pub key: Key,
    /// It can be read, or has ended.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// Its other side has gone, or it is in error.
    pub gone: bool,
}

#[derive(Debug)]
struct Entry {
    fd: RawFd,
    interest: Interest,
    /// The system has refused to wait for it.
    lost: bool,
}

/// Waits for descriptors, deadlines and signals.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
    table: Vec<Entry>,
    deadlines: Deadlines,
    signals: Signals,
    /// The last wait failed.
    blind: bool,
}

/// Tokens from here up are the poller's own, and not of the table.
const OWN: usize = usize::MAX - 16;
const SIGNALS: Token = Token(OWN);

/// How often descriptors are tried that cannot be waited for.
const BLIND: Duration = Duration::from_millis(5);

impl Poller {
    /// A poller that waits for nothing but the signals that end a run.
    ///
    /// # Errors
    /// When there is no epoll to be had. Signals and timers are not needed for bytes to move: where
    /// they cannot be waited for, the poller does with less.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let signals = Signals::new();
        if let Some(fd) = signals.fd() {
            let _ = poll.registry().register(&mut SourceFd(&fd), SIGNALS, mio::Interest::READABLE);
        }
        let deadlines = Deadlines::default();
        Ok(Poller { poll, events: Events::with_capacity(16), table: Vec::new(), deadlines, signals, blind: false })
    }

    /// Adds a descriptor, which must stay open until the poller is dropped. Nothing, if it cannot
    /// be waited for, since it is always ready.
    pub fn add(&mut self, fd: impl AsFd, interest: Interest) -> Option<Key> {
        let (key, added) = self.enter(fd, interest);
        if added.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::PERM)) {
            self.table.pop();
            return None;
        }
        Some(key)
    }

    /// Adds a pipe, which must stay open until the poller is dropped. Should the system refuse to wait
    /// for it, it is tried again and again.
    pub fn add_pipe(&mut self, fd: impl AsFd, interest: Interest) -> Key {
        self.enter(fd, interest).0
    }

    fn enter(&mut self, fd: impl AsFd, interest: Interest) -> (Key, io::Result<()>) {
        let key = Key(self.table.len());
        self.table.push(Entry { fd: fd.as_fd().as_raw_fd(), interest: Interest::Nothing, lost: false });
        let added = self.change(key, interest);
        let entry = &mut self.table[key.0];
        (entry.interest, entry.lost) = (interest, added.is_err());
        (key, added)
    }

    /// Waits for `interest` from now on. Readiness that is there already is reported anew.
    pub fn set_interest(&mut self, key: Key, interest: Interest) {
        // Should the system have no room for it, bytes still move: they are tried again and again.
        // A descriptor that is closed already needs no more waiting.
        let lost = self.change(key, interest).is_err() && interest != Interest::Nothing;
        let entry = &mut self.table[key.0];
        (entry.interest, entry.lost) = (interest, lost);
    }

    fn change(&self, key: Key, interest: Interest) -> io::Result<()> {
        let entry = &self.table[key.0];
        let registered = entry.interest.mio().filter(|_| !entry.lost);
        if entry.interest == interest && !entry.lost {
            return Ok(());
        }
        let (registry, fd, token) = (self.poll.registry(), &mut SourceFd(&entry.fd), Token(key.0));
        match (registered, interest.mio()) {
            (None, None) => Ok(()),
            (None, Some(interest)) => {
                registry.register(fd, token, interest).or_else(|_| registry.reregister(fd, token, interest))
            }
            (Some(_), Some(interest)) => registry.reregister(fd, token, interest),
            (Some(_), None) => registry.deregister(fd),
        }
    }

    /// Ends a wait at `time`, on the clock of [`now`](crate::os::clock::now), or at no time.
    pub fn set_deadline(&mut self, deadline: Deadline, time: Option<Duration>) {
        self.deadlines.set(deadline, time);
    }

    /// Ends a wait at `time` of day, and whenever the clock is set, or at no time: see
    /// [`Deadline::Timetable`].
    pub fn set_alarm(&mut self, time: Option<Timestamp>, now: Duration) {
        self.deadlines.set_alarm(self.poll.registry(), time, now);
    }

    /// Whether this deadline has passed at `now`. It is then set no more.
    pub fn is_due(&mut self, deadline: Deadline, now: Duration) -> bool {
        self.deadlines.take_due(deadline, now)
    }

    /// The signals that were received.
    pub fn signals(&mut self) -> &mut Signals {
        &mut self.signals
    }

    /// Waits until something happens, at most for `most`.
    ///
    /// Should the system refuse to wait, this takes a few milliseconds, and everything counts as
    /// ready: bytes go on moving.
    pub fn wait(&mut self, most: Option<Duration>, now: Duration) {
        // A signal may have been read while somebody asked for another: nothing would wake us for it.
        let most = if self.signals.has_some() { Some(Duration::ZERO) } else { most };
        let at_once = most == Some(Duration::ZERO);
        let mut most = if at_once { most } else { self.deadlines.arm(self.poll.registry(), most, now) };
        if self.table.iter().any(|entry| entry.lost) && !at_once {
            most = Some(most.unwrap_or(BLIND).min(BLIND));
        }
        self.blind = false;
        if let Err(error) = self.poll.poll(&mut self.events, most) {
            self.events.clear();
            if error.kind() != io::ErrorKind::Interrupted {
                self.blind = true;
                thread::sleep(BLIND);
            }
            self.signals.look();
        }
        for event in &self.events {
            match event.token() {
                SIGNALS => self.signals.look(),
                timer @ (deadlines::TIMER | deadlines::ALARM) => self.deadlines.fired(timer),
                _ => {}
            }
        }
        if self.signals.fd().is_none() {
            self.signals.look();
        }
    }

    /// Events of descriptors of the table during the last wait.
    pub fn ready(&self) -> impl Iterator<Item = Ready> {
        let seen = self.events.iter().filter(|event| event.token().0 < OWN).map(|event| Ready {
            key: Key(event.token().0),
            readable: event.is_readable() || event.is_read_closed(),
            writable: event.is_writable(),
            gone: event.is_error() || event.is_write_closed(),
        });
        let unseen = self.table.iter().enumerate().filter(|(_, entry)| entry.lost || self.blind);
        seen.chain(unseen.map(|(key, _)| Ready { key: Key(key), readable: true, writable: true, gone: false }))
    }
}
