//! What the tests of the binary share: descriptors of every kind, bytes whose place shows, and
//! a `pcproxy` that is watched while it runs.
//!
//! Nothing here waits for time to pass. A test waits for the thing itself: for bytes, for the
//! end of the process, or with [`Running::settle`] for the process to have nothing left to do.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

pub const KIB: usize = 1024;

/// After this a test that waits has failed. No test gets near it unless something hangs.
const WATCHDOG: Duration = Duration::from_secs(30);

/// What ends the input of a terminal: Ctrl-D.
const END_OF_FILE: u8 = 4;

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

/// Pseudo-random bytes. There is no Ctrl-D among them, and no line is longer than 512 bytes,
/// so that a terminal can carry them.
pub fn payload(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.iter_mut().filter(|byte| **byte == END_OF_FILE).for_each(|byte| *byte = b'.');
    bytes.iter_mut().skip(511).step_by(512).for_each(|byte| *byte = b'\n');
    if let Some(last) = bytes.last_mut() {
        *last = b'\n';
    }
    bytes
}

/// Fails, in few words, unless the bytes that arrived are those that were sent.
#[track_caller]
pub fn assert_arrived(arrived: &[u8], sent: &[u8], what: impl std::fmt::Display) {
    if arrived != sent {
        let differ = arrived.iter().zip(sent).position(|(one, other)| one != other);
        panic!("{what}: {} bytes of {} arrived, the first different one at {differ:?}", arrived.len(), sent.len());
    }
}

/// Writes `data` to pcproxy's stdin in the background, and then ends it. The result must be
/// kept until pcproxy has ended: a terminal that is closed hangs up.
pub fn feed(kind: Kind, mut ours: File, data: Vec<u8>) -> JoinHandle<Option<File>> {
    let feeder = thread::spawn(move || {
        ours.write_all(&data).expect("pcproxy takes its input");
        (kind == Kind::Terminal).then(|| {
            ours.write_all(&[END_OF_FILE]).expect("pcproxy takes its input");
            ours
        })
    });
    if kind == Kind::File {
        // A file that is still being written ends too early.
        until("the file to be written", || feeder.is_finished());
    }
    feeder
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

/// All that comes out, to the end.
pub fn read_to_end(mut ours: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    match ours.read_to_end(&mut all) {
        // How the master of a terminal says that nobody has the slave open any more.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => {}
        result => {
            result.unwrap();
        }
    }
    all
}

/// The next `count` bytes.
pub fn read_exactly(mut ours: impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ours.read_exact(&mut bytes).expect("pcproxy delivers");
    bytes
}

/// Asks again and again whether `done`, and lets others run in between.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WATCHDOG, "waited too long for {what}");
        thread::yield_now();
    }
}

/// A running pcproxy. Killed by a watchdog should it hang, and when it goes out of scope.
pub struct Running {
    child: Child,
    stderr: PipeReader,
}

/// Starts pcproxy between two descriptors. None of them stays open in the test.
pub fn start(options: &[&str], stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pcproxy"));
    command.args(options);
    Running::spawn(command, stdin, stdout)
}

/// The same from a shell: `script` calls pcproxy `"$0"`, and ought to `exec` it.
pub fn start_in_shell(script: &str, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_pcproxy")]);
    Running::spawn(command, stdin, stdout)
}

impl Running {
    fn spawn(mut command: Command, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Self {
        let (stderr, theirs) = pipe().unwrap();
        let child = command.stdin(stdin).stdout(stdout).stderr(theirs).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        thread::spawn(move || {
            let patience = Timespec::try_from(WATCHDOG).unwrap();
            if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)) == Ok(0) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        });
        Running { child, stderr }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// A line of `/proc/PID/status`.
    pub fn status(&self, name: &str) -> String {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Waits until pcproxy sleeps in its event loop with no deadline: it has done all that
    /// there was to do, and only one of its descriptors or a signal will wake it. One that has
    /// ended has nothing to do either.
    #[track_caller]
    pub fn settle(&self) {
        until("pcproxy to have nothing to do", || {
            // `epoll_wait(epfd, events, maxevents, timeout)`, where -1 is for ever. The state
            // comes first: one who has just been woken still shows the call he is in.
            match self.status("State").chars().next() {
                Some('S') => self.proc("syscall").split(' ').nth(4).is_some_and(|word| word.ends_with("ffffffff")),
                state => state == Some('Z'),
            }
        });
    }

    /// Waits until pcproxy has been stopped by SIGSTOP.
    #[track_caller]
    pub fn wait_stopped(&self) {
        until("pcproxy to stop", || self.status("State").starts_with('T'));
    }

    /// Waits until pcproxy heeds `signal` itself, instead of dying of it.
    #[track_caller]
    pub fn wait_heeding(&self, signal: Signal) {
        let bit = 1 << (signal.as_raw() - 1);
        let set = |name| u64::from_str_radix(&self.status(name), 16).unwrap();
        // It blocks them and reads them from a descriptor.
        until("pcproxy to heed a signal", || (set("SigCgt") | set("SigBlk")) & bit != 0);
    }

    /// Writes `data` to pcproxy's stdin in pieces of `piece` bytes, until not even the pipe
    /// takes any more while pcproxy does nothing. Returns how many bytes were accepted.
    #[track_caller]
    pub fn feed_until_paused(&self, mut stdin: &PipeWriter, data: &[u8], piece: usize) -> usize {
        let (mut accepted, mut refused) = (0, false);
        loop {
            let rest = &data[accepted..];
            assert!(!rest.is_empty(), "pcproxy took all of {} bytes", data.len());
            match stdin.write(&rest[..rest.len().min(piece)]) {
                Ok(written) => {
                    accepted += written;
                    refused = false;
                }
                Err(error) => {
                    assert_eq!(Errno::from_io_error(&error), Some(Errno::AGAIN));
                    if refused {
                        return accepted;
                    }
                    self.settle();
                    refused = true;
                }
            }
        }
    }

    /// Waits for the end of the process.
    pub fn wait(mut self) -> End {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        End { status: self.child.wait().unwrap(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How pcproxy ended, and what it said.
#[derive(Debug)]
pub struct End {
    pub status: ExitStatus,
    pub stderr: String,
}

impl End {
    /// It ended well, and without a word.
    #[track_caller]
    pub fn succeeded(&self, what: impl std::fmt::Display) {
        assert!(self.status.success() && self.stderr.is_empty(), "{what}: {self:?}");
    }

    /// It ended with this exit status, in one line that has all of `words` in it.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word} is missing in {self:?}");
        }
    }

    /// It was ended by this signal.
    #[track_caller]
    pub fn died_by(&self, signal: Signal) {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self:?}");
    }

    /// It was ended by this signal, and without a word.
    #[track_caller]
    pub fn died_silently_by(&self, signal: Signal) {
        self.died_by(signal);
        assert_eq!(self.stderr, "");
    }
}

/// Starts a pcproxy that the test has prepared, such as with an environment of its own.
pub fn start_command(command: Command, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    Running::spawn(command, stdin, stdout)
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says on stderr, without its end.
    pub fn line(&self) -> String {
        let mut line = Vec::new();
        // No byte more: the rest is for whoever waits for the end.
        while !line.ends_with(b"\n") {
            line.extend(read_exactly(&self.stderr, 1));
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }
}
