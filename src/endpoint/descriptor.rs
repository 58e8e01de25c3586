//! A descriptor we were given, and how to read or write it without blocking.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, Result};
use rustix::net::{RecvFlags, SendFlags};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the producer writes.
    Stdin = 0,
    /// Where the consumer reads.
    Stdout = 1,
}

impl Side {
    /// The descriptor of this side.
    pub fn fd(self) -> BorrowedFd<'static> {
        match self {
            Side::Stdin => rustix::stdio::stdin(),
            Side::Stdout => rustix::stdio::stdout(),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Stdin => "stdin",
            Side::Stdout => "stdout",
        })
    }
}

/// What a descriptor is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pipe or FIFO.
    Pipe,
    /// A socket of any family.
    Socket,
    /// A terminal.
    Terminal,
    /// A regular file.
    File,
    /// A device such as `/dev/null`, a directory, or something newer.
    Other,
}

/// How to read or write without blocking.
///
/// `O_NONBLOCK` would do, but belongs to the open file description, which the other
/// processes of the pipeline and the shell share: it is neither set nor relied upon.
#[derive(Debug)]
enum Access {
    /// `RWF_NOWAIT`: pipes, from Linux 6.4 on.
    Nowait,
    /// `MSG_DONTWAIT`: sockets.
    Message,
    /// A description of our own, from `/proc/self/fd`: FIFOs and terminals.
    Own(OwnedFd),
    /// Ask `poll` before each step, and write little enough for it to be right.
    Polled,
    /// Never waits for another process: files and most devices.
    Plain,
}

/// A descriptor that we were given.
#[derive(Debug)]
pub struct Descriptor {
    side: Side,
    kind: Kind,
    flags: OFlags,
    access: Access,
}

impl Descriptor {
    /// Finds out what the descriptor of `side` is.
    ///
    /// # Errors
    /// `EBADF` if it was closed when the program started.
    pub fn new(side: Side) -> Result<Self> {
        if crate::os::closed::was_closed(side as usize) {
            return Err(Errno::BADF);
        }
        let stat = rustix::fs::fstat(side.fd())?;
        let flags = rustix::fs::fcntl_getfl(side.fd())?;
        let (kind, access) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => (Kind::Pipe, Access::Nowait),
            FileType::Socket => (Kind::Socket, Access::Message),
            FileType::RegularFile => (Kind::File, Access::Plain),
            FileType::CharacterDevice if rustix::termios::isatty(side.fd()) => (Kind::Terminal, Access::Polled),
            _ => (Kind::Other, Access::Polled),
        };
        let mut descriptor = Descriptor { side, kind, flags, access };
        // Opening the multiplexer anew would make another terminal.
        if kind == Kind::Terminal && stat.st_rdev != rustix::fs::makedev(5, 2) {
            descriptor.open_anew();
        }
        Ok(descriptor)
    }

    /// The descriptor itself.
    pub fn fd(&self) -> BorrowedFd<'static> {
        self.side.fd()
    }

    /// Which side this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether writes go to the end of the file (`>>`).
    pub fn appends(&self) -> bool {
        self.flags.contains(OFlags::APPEND)
    }

    /// Takes note that the event loop cannot wait for this descriptor: it is always ready.
    pub fn set_always_ready(&mut self) {
        self.access = Access::Plain;
    }

    /// Whether this descriptor never waits for another process.
    pub fn is_always_ready(&self) -> bool {
        matches!(self.access, Access::Plain)
    }

    /// Reads what is there, at most as much as `into` holds; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there, else those of `read`.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let fd = self.side.fd();
        match &self.access {
            Access::Nowait => {
                let result = rustix::io::preadv2(fd, &mut [IoSliceMut::new(into)], u64::MAX, ReadWriteFlags::NOWAIT);
                match self.unless_unsupported(result) {
                    Some(result) => result,
                    None => self.read(into),
                }
            }
            Access::Message => rustix::net::recv(fd, into, RecvFlags::DONTWAIT).map(|(read, _)| read),
            Access::Own(own) => rustix::io::read(own, into),
            Access::Polled => when(fd, PollFlags::IN).and_then(|()| rustix::io::read(fd, into)),
            Access::Plain => rustix::io::read(fd, into),
        }
    }

    /// Writes what goes without waiting; at least one byte.
    ///
    /// # Errors
    /// `EAGAIN` if nothing goes, else those of `write`.
    pub fn write(&mut self, from: &[u8]) -> Result<usize> {
        let fd = self.side.fd();
        match &self.access {
            Access::Nowait => {
                let result = rustix::io::pwritev2(fd, &[IoSlice::new(from)], u64::MAX, ReadWriteFlags::NOWAIT);
                match self.unless_unsupported(result) {
                    Some(result) => result,
                    None => self.write(from),
                }
            }
            Access::Message => rustix::net::send(fd, from, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Access::Own(own) => rustix::io::write(own, from),
            // A pipe that is writable takes PIPE_BUF bytes at once.
            Access::Polled => when(fd, PollFlags::OUT)
                .and_then(|()| rustix::io::write(fd, &from[..from.len().min(rustix::pipe::PIPE_BUF)])),
            Access::Plain => rustix::io::write(fd, from),
        }
    }

    /// Steps down from `RWF_NOWAIT` where the kernel has none: nothing, to be tried again.
    fn unless_unsupported(&mut self, result: Result<usize>) -> Option<Result<usize>> {
        match result {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.access = Access::Polled;
                self.open_anew();
                None
            }
            result => Some(result),
        }
    }

    /// Tries to get a description of our own, on which `O_NONBLOCK` is nobody else's matter.
    fn open_anew(&mut self) {
        let path = format!("/proc/self/fd/{}", self.fd().as_raw_fd());
        let mode = self.flags & OFlags::RWMODE;
        let flags = mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(own) = rustix::fs::open(path, flags, Mode::empty()) {
            self.access = Access::Own(own);
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.side.fd()
    }
}

/// `EAGAIN` unless `fd` is ready, in error, or hung up.
fn when(fd: BorrowedFd<'_>, ready: PollFlags) -> Result<()> {
    match rustix::event::poll(&mut [PollFd::new(&fd, ready)], Some(&Timespec::default()))? {
        0 => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}
