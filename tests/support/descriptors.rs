//! Descriptors of every kind that pcproxy can be given.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::ioctl_fionread;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

/// What ends the input of a terminal: Ctrl-D.
pub const END_OF_FILE: u8 = 4;

/// What a descriptor of pcproxy can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pipe,
    Fifo,
    /// A regular file.
    File,
    /// A regular file opened with `O_APPEND`.
    Append,
    Tcp,
    /// A Unix stream socket.
    Unix,
    /// The slave side of a pseudo-terminal.
    Terminal,
    /// `/dev/null`.
    Null,
}

impl Kind {
    /// Those with another process behind them, which can wait and leave.
    pub const STREAMS: [Kind; 5] = [Kind::Pipe, Kind::Fifo, Kind::Tcp, Kind::Unix, Kind::Terminal];

    pub fn is_stream(self) -> bool {
        Kind::STREAMS.contains(&self)
    }
}

/// Which side of pcproxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Stdin,
    Stdout,
}

/// The two ends of a connection: what pcproxy gets, and what the test keeps.
pub struct Ends {
    pub theirs: OwnedFd,
    pub ours: File,
}

/// A new connection of this kind on that side of pcproxy.
pub fn connection(kind: Kind, side: Side) -> Ends {
    let (reader, writer): (OwnedFd, OwnedFd) = match kind {
        Kind::Pipe => pipe().map(|(reader, writer)| (reader.into(), writer.into())).unwrap(),
        Kind::Fifo => fifo(),
        Kind::Unix => UnixStream::pair().map(|(one, other)| (one.into(), other.into())).unwrap(),
        Kind::Tcp => tcp(),
        Kind::File | Kind::Append => file(kind == Kind::Append),
        Kind::Terminal => return terminal(side),
        Kind::Null => (null(), null()),
    };
    match side {
        Side::Stdin => Ends { theirs: reader, ours: writer.into() },
        Side::Stdout => Ends { theirs: writer, ours: reader.into() },
    }
}

fn null() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
}

fn tcp() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0.into(), writer.into())
}

fn file(append: bool) -> (OwnedFd, OwnedFd) {
    let named = tempfile::NamedTempFile::new().unwrap();
    let writer = OpenOptions::new().write(true).append(append).open(named.path()).unwrap();
    (File::open(named.path()).unwrap().into(), writer.into())
}

fn fifo() -> (OwnedFd, OwnedFd) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // A reader that would wait for the writer would wait for ever.
    let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path).unwrap();
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    set_nonblocking(&reader, false);
    (reader.into(), writer.into())
}

/// A pseudo-terminal that changes no byte. On stdin it gives line by line, since only then is
/// there a way to end the input without hanging up: Ctrl-D.
fn terminal(side: Side) -> Ends {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    let mut termios = tcgetattr(&slave).unwrap();
    termios.make_raw();
    if side == Side::Stdin {
        termios.local_modes |= LocalModes::ICANON;
        for editing in [
            SpecialCodeIndex::VERASE,
            SpecialCodeIndex::VKILL,
            SpecialCodeIndex::VEOL,
            SpecialCodeIndex::VEOL2,
            SpecialCodeIndex::VWERASE,
        ] {
            termios.special_codes[editing] = 0;
        }
        termios.special_codes[SpecialCodeIndex::VEOF] = END_OF_FILE;
    }
    tcsetattr(&slave, OptionalActions::Now, &termios).unwrap();
    Ends { theirs: slave, ours: master.into() }
}

/// A pipe for stdin whose write end, ours, does not wait, and our view of its read end.
pub fn input_pipe() -> (PipeReader, PipeWriter, PipeReader) {
    let (theirs, ours) = pipe().unwrap();
    set_nonblocking(&ours, true);
    let view = theirs.try_clone().unwrap();
    (theirs, ours, view)
}

/// Sets or clears `O_NONBLOCK` on an open file description of the test's.
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) {
    let mut flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    flags.set(OFlags::NONBLOCK, nonblocking);
    rustix::fs::fcntl_setfl(&fd, flags).unwrap();
}

/// How many bytes can be read from `fd`.
pub fn unread(fd: impl AsFd) -> usize {
    ioctl_fionread(fd).unwrap() as usize
}

/// How many bytes were written to this TCP socket that its peer does not have yet.
pub fn unsent(socket: &File) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = socket.metadata().unwrap().ino().to_string();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.split_whitespace().nth(9) == Some(&inode)).expect("a TCP socket");
    let queues = line.split_whitespace().nth(4).unwrap();
    usize::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap()
}
