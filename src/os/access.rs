//! How to read and write a descriptor that others share, without waiting for them.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags, Stat, makedev};
use rustix::io::{Errno, ReadWriteFlags, Result};
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::PIPE_BUF;

/// The first kernel on which a pipe takes `RWF_NOWAIT`. Some that claim to be older accept the
/// flag and wait all the same (gVisor).
const NOWAIT_SINCE: (u32, u32) = (6, 4);

/// A way to read or write without waiting: a rung of the ladder.
///
/// `O_NONBLOCK` would do, but it belongs to the open file description, which the other processes
/// of the pipeline and the shell share. It is neither set nor relied upon, except on a description
/// of our own.
///
/// A rung whose first call is refused is left for the next one below it.
#[derive(Debug)]
pub enum Access {
    /// `RWF_NOWAIT`: pipes.
    Nowait,
    /// `MSG_DONTWAIT`: sockets.
    Message,
    /// A description of our own, opened with `O_NONBLOCK` through `/proc/self/fd`: terminals, and
    /// pipes where `RWF_NOWAIT` is refused.
    Own(OwnedFd),
    /// `poll` before each call, and a write that is small enough for its answer to be right.
    Polled,
    /// The calls themselves: for what never waits for another process.
    Plain,
}

/// The kind of a descriptor, as far as it matters for moving bytes.
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
    /// A block device.
    Disk,
    /// A device such as `/dev/null`, a directory, or something newer.
    Other,
}

impl Kind {
    /// The kind of `fd`, by its `stat`.
    pub fn of(fd: BorrowedFd<'_>, stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => Kind::Pipe,
            FileType::Socket => Kind::Socket,
            FileType::RegularFile => Kind::File,
            FileType::BlockDevice => Kind::Disk,
            FileType::CharacterDevice if rustix::termios::isatty(fd) => Kind::Terminal,
            _ => Kind::Other,
        }
    }
}

impl Access {
    /// The highest rung for `fd`, which is of this kind and was opened with `flags`.
    pub fn of(fd: BorrowedFd<'_>, kind: Kind, stat: &Stat, flags: OFlags) -> Self {
        match kind {
            Kind::Pipe if takes_nowait() => Access::Nowait,
            Kind::Socket => Access::Message,
            // Opening the multiplexer anew would make another terminal.
            Kind::Terminal if stat.st_rdev == makedev(5, 2) => Access::Polled,
            Kind::Pipe | Kind::Terminal => Self::anew(fd, flags),
            Kind::File | Kind::Disk | Kind::Other => Access::Polled,
        }
    }

    /// A description of our own of what `fd` is, or `Polled` where there can be none.
    fn anew(fd: BorrowedFd<'_>, flags: OFlags) -> Self {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = (flags & OFlags::RWMODE) | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_or(Access::Polled, Access::Own)
    }

    /// Whether the calls never wait for another process.
    pub fn is_plain(&self) -> bool {
        matches!(self, Access::Plain)
    }

    /// Reads what is there, at most as much as `into` holds; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there, else those of `read`.
    pub fn read(&mut self, fd: BorrowedFd<'_>, flags: OFlags, into: &mut [u8]) -> Result<usize> {
        loop {
            let result = match self {
                Access::Nowait => {
                    rustix::io::preadv2(fd, &mut [IoSliceMut::new(into)], u64::MAX, ReadWriteFlags::NOWAIT)
                }
                Access::Message => rustix::net::recv(fd, &mut *into, RecvFlags::DONTWAIT).map(|(read, _)| read),
                Access::Own(own) => rustix::io::read(own, &mut *into),
                Access::Polled => when(fd, PollFlags::IN).and_then(|()| rustix::io::read(fd, &mut *into)),
                Access::Plain => rustix::io::read(fd, &mut *into),
            };
            match result {
                Err(error) if self.steps_down(fd, flags, error) => {}
                result => return result,
            }
        }
    }

    /// Writes what goes without waiting; at least one byte.
    ///
    /// # Errors
    /// `EAGAIN` if nothing goes, else those of `write`.
    pub fn write(&mut self, fd: BorrowedFd<'_>, flags: OFlags, from: &[u8]) -> Result<usize> {
        loop {
            let result = match self {
                Access::Nowait => rustix::io::pwritev2(fd, &[IoSlice::new(from)], u64::MAX, ReadWriteFlags::NOWAIT),
                Access::Message => rustix::net::send(fd, from, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Access::Own(own) => rustix::io::write(own, from),
                // A pipe that is writable takes PIPE_BUF bytes at once.
                Access::Polled => {
                    when(fd, PollFlags::OUT).and_then(|()| rustix::io::write(fd, &from[..from.len().min(PIPE_BUF)]))
                }
                Access::Plain => rustix::io::write(fd, from),
            };
            match result {
                Err(error) if self.steps_down(fd, flags, error) => {}
                result => return result,
            }
        }
    }

    /// Leaves a rung that the system refuses, for the next one. False if `error` is an error of
    /// the descriptor itself.
    fn steps_down(&mut self, fd: BorrowedFd<'_>, flags: OFlags, error: Errno) -> bool {
        let refused = is_refusal(error);
        *self = match self {
            Access::Nowait if refused => Self::anew(fd, flags),
            // A socket may also be read and written as a file.
            Access::Message if refused || error == Errno::NOTSOCK => Access::Polled,
            _ => return false,
        };
        true
    }
}

/// Whether an error says that the system does not offer a call at all: an old kernel, or a
/// sandbox that filters calls.
pub fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::ACCESS)
}

/// Whether `RWF_NOWAIT` can be believed.
fn takes_nowait() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let uname = nix::sys::utsname::uname();
        uname.is_ok_and(|uname| version(&uname.release().to_string_lossy()) >= NOWAIT_SINCE)
    })
}

/// The first two numbers of a kernel's release; 0 for what is no number.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `EAGAIN` unless `fd` is ready, in error, or hung up.
fn when(fd: BorrowedFd<'_>, ready: PollFlags) -> Result<()> {
    match rustix::event::poll(&mut [PollFd::new(&fd, ready)], Some(&Timespec::default()))? {
        0 => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}

/// A descriptor together with its way of access: for messages and records, which never wait.
#[derive(Debug)]
pub struct SharedFd {
    fd: OwnedFd,
    flags: OFlags,
    kind: Kind,
    access: Access,
}

impl SharedFd {
    /// Takes a descriptor that others may share.
    ///
    /// # Errors
    /// Those of `fstat` and `fcntl`.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let kind = Kind::of(fd.as_fd(), &stat);
        let access = Access::of(fd.as_fd(), kind, &stat, flags);
        Ok(SharedFd { fd, flags, kind, access })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The flags that it was opened with.
    pub fn flags(&self) -> OFlags {
        self.flags
    }

    /// Takes note that the descriptor never waits for another process.
    pub fn set_plain(&mut self) {
        self.access = Access::Plain;
    }

    /// Whether it never waits for another process.
    pub fn is_plain(&self) -> bool {
        self.access.is_plain()
    }

    /// Closes it.
    ///
    /// # Errors
    /// Those of `close`.
    pub fn close(self) -> Result<()> {
        nix::unistd::close(self.fd).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    /// The size of a block device in bytes; none where the system does not tell.
    pub fn size_of_disk(&self) -> Option<u64> {
        // The end of a description of our own: that of others must not move.
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let own = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        rustix::fs::seek(own, rustix::fs::SeekFrom::End(0)).ok()
    }

    /// Reads what is there, at most as much as `into` holds; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there, else those of `read`.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        self.access.read(self.fd.as_fd(), self.flags, into)
    }

    /// Writes what goes without waiting; at least one byte.
    ///
    /// # Errors
    /// `EAGAIN` if nothing goes, else those of `write`.
    pub fn write(&mut self, from: &[u8]) -> Result<usize> {
        self.access.write(self.fd.as_fd(), self.flags, from)
    }
}

impl AsFd for SharedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write, pipe};
    use std::os::unix::net::UnixStream;

    fn nonblocking(fd: impl AsFd) -> bool {
        rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
    }

    /// Both ends of a pipe, by way of these rungs.
    fn pipe_by(reads: Access, writes: Access) -> (SharedFd, SharedFd) {
        let (reader, writer) = pipe().unwrap();
        let (mut reader, mut writer) = (SharedFd::new(reader.into()).unwrap(), SharedFd::new(writer.into()).unwrap());
        (reader.access, writer.access) = (reads, writes);
        (reader, writer)
    }

    /// Reads, writes until nothing goes, and reads all of it, without ever waiting.
    fn never_waits((mut reader, mut writer): (SharedFd, SharedFd)) {
        let mut bytes = vec![7; 1 << 21];
        assert_eq!(reader.read(&mut bytes), Err(Errno::AGAIN));
        let mut written = 0;
        loop {
            match writer.write(&bytes) {
                Ok(more) => written += more,
                Err(error) => break assert_eq!(error, Errno::AGAIN),
            }
        }
        assert!(written > PIPE_BUF);
        let mut read = 0;
        while read < written {
            read += reader.read(&mut bytes).unwrap();
        }
        assert_eq!(reader.read(&mut bytes), Err(Errno::AGAIN));
        assert!(!nonblocking(&reader) && !nonblocking(&writer), "the descriptions that others share are as they were");
        drop(writer);
        assert_eq!(reader.read(&mut bytes), Ok(0));
    }

    #[test]
    fn no_rung_waits_for_a_pipe() {
        never_waits(pipe_by(Access::Polled, Access::Polled));
        let own = |end: &SharedFd| Access::anew(end.as_fd(), end.flags);
        let (reader, writer) = pipe_by(Access::Plain, Access::Plain);
        let (reads, writes) = (own(&reader), own(&writer));
        assert!(matches!((&reads, &writes), (Access::Own(_), Access::Own(_))));
        never_waits((SharedFd { access: reads, ..reader }, SharedFd { access: writes, ..writer }));
        if takes_nowait() {
            never_waits(pipe_by(Access::Nowait, Access::Nowait));
        }
    }

    #[test]
    fn a_socket_never_waits_and_a_file_that_poses_as_one_is_read_as_a_file() {
        let (one, other) = UnixStream::pair().unwrap();
        never_waits((SharedFd::new(one.into()).unwrap(), SharedFd::new(other.into()).unwrap()));
        let (reader, writer) = pipe_by(Access::Message, Access::Message);
        never_waits((reader, writer));
    }

    #[test]
    fn a_terminal_that_cannot_be_opened_anew_is_polled() {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        // The multiplexer itself is one: to open it again would make another terminal.
        let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let mut termios = rustix::termios::tcgetattr(&slave).unwrap();
        termios.make_raw();
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &termios).unwrap();
        let mut master = SharedFd::new(master).unwrap();
        assert_eq!(master.kind(), Kind::Terminal);
        assert!(matches!(master.access, Access::Polled));
        let mut slave = SharedFd::new(slave.into()).unwrap();
        assert!(matches!(slave.access, Access::Own(_)));
        slave.access = Access::Polled;
        let mut bytes = [0; 64];
        assert_eq!(master.read(&mut bytes), Err(Errno::AGAIN));
        assert_eq!(slave.read(&mut bytes), Err(Errno::AGAIN));
        assert_eq!(master.write(b"to the slave"), Ok(12));
        let _ = slave.read(&mut bytes).map(|read| assert_eq!(&bytes[..read], b"to the slave"));
        assert_eq!(slave.write(b"back"), Ok(4));
        assert!(!nonblocking(&slave) && !nonblocking(&master));
    }

    #[test]
    fn a_file_is_read_and_written_at_its_own_place() {
        let mut named = tempfile::NamedTempFile::new().unwrap();
        let mut shared = SharedFd::new(File::create(named.path()).unwrap().into()).unwrap();
        shared.set_plain();
        assert_eq!((shared.write(b"one"), shared.write(b"two")), (Ok(3), Ok(3)));
        let mut text = String::new();
        named.read_to_string(&mut text).unwrap();
        assert_eq!(text, "onetwo");
        named.write_all(b"!").unwrap();
    }

    #[test]
    fn reads_the_version_of_a_kernel() {
        for (release, is) in [("6.18.44-fc-v769", (6, 18)), ("4.4.0", (4, 4)), ("7", (7, 0)), ("?", (0, 0))] {
            assert_eq!(version(release), is, "{release}");
        }
    }
}
