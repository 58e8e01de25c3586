//! Anything that bytes come from or go to, and how a proxy is fed from it and feeds it.

mod address;
mod awaited;
mod claim;
mod command;
mod disk;
mod file;
mod lane;
mod open;
mod outputs;
mod sink;
mod source;
mod tap;
mod tcp;
mod unix;

pub use address::{Address, AddressError};
pub use awaited::{Awaited, News};
pub use command::{Exit, Wrapped};
pub use disk::Disk;
pub use lane::Lane;
pub use open::{Opening, open_input, open_output, release_stdin, release_stdout, stdin, stdout};
pub use outputs::Outputs;
pub use sink::Sink;
pub use source::Source;
pub use tap::{Algorithm, Checksum};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::{fmt, io};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;

use crate::buffer::{KernelPipe, Splice};
use crate::os::{Kind, SharedFd};
use tcp::Receipt;

/// A descriptor that bytes come from or go to.
///
/// It is ours to close. Its open file description may be shared with other processes: its flags
/// are then never changed.
#[derive(Debug)]
pub struct Endpoint {
    fd: SharedFd,
    label: String,
    /// Other processes may use its open file description: its flags and its place in a file.
    is_shared: bool,
    /// Of a TCP connection of our own.
    receipt: Option<Receipt>,
    /// A pipe by way of which packets are cut: see [`read`](Self::read).
    packets: Option<KernelPipe>,
}

impl Endpoint {
    /// An endpoint with a label for messages, such as `stdin`. `is_shared` says that other processes
    /// may use the same open file description.
    ///
    /// # Errors
    /// When `fd` cannot be examined, or cuts messages that do not fit a read.
    pub fn new(fd: OwnedFd, label: impl Into<String>, is_shared: bool) -> Result<Self, EndpointError> {
        let label = label.into();
        let fd = SharedFd::new(fd).map_err(|error| EndpointError::new(&label, error))?;
        let own_socket = fd.kind() == Kind::Socket && !is_shared;
        let receipt = if own_socket { Receipt::new(&fd) } else { None };
        Ok(Endpoint { fd, label, is_shared, receipt, packets: None })
    }

    /// Its name in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.fd.kind()
    }

    /// Whether writes go to the end of the file (`>>`).
    pub fn appends(&self) -> bool {
        self.fd.flags().contains(OFlags::APPEND)
    }

    /// Takes note that nothing can wait for this endpoint, since the system says that it is always
    /// ready.
    pub fn set_always_ready(&mut self) {
        self.fd.set_plain();
    }

    /// Whether it never waits for another process.
    pub fn is_always_ready(&self) -> bool {
        self.fd.is_plain()
    }

    /// Reads what is there, at most as much as `into` holds; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there, else those of `read`.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        if self.kind() == Kind::Pipe
            && into.len() < PIPE_BUF
            && let Some(result) = self.read_packets(into)
        {
            return result;
        }
        self.fd.read(into)
    }

    /// Reads from a pipe that may be in packet mode. A read that is shorter than a packet loses the
    /// rest of it, and the reader cannot tell the mode. A splice loses nothing, so the bytes go by
    /// way of a pipe of our own. Nothing, if the system does not splice.
    fn read_packets(&mut self, into: &mut [u8]) -> Option<Result<usize, Errno>> {
        let pipe = match &mut self.packets {
            Some(pipe) => pipe,
            none => none.insert(KernelPipe::new(PIPE_BUF).ok()?),
        };
        match pipe.splice_from(&self.fd, None, into.len()) {
            Ok(Splice::Moved(_)) => {}
            Ok(Splice::End) => return Some(Ok(0)),
            Ok(Splice::NotReady) => return Some(Err(Errno::AGAIN)),
            Ok(Splice::Refused) => return None,
            Err(error) => return Some(Err(error)),
        }
        let mut read = 0;
        while !pipe.is_empty() {
            match pipe.read(&mut into[read..]) {
                Ok(more) => read += more,
                Err(error) => return Some(Err(error)),
            }
        }
        Some(if read == 0 { Err(Errno::INTR) } else { Ok(read) })
    }

    /// Writes what goes without waiting; at least one byte.
    ///
    /// # Errors
    /// `EAGAIN` if nothing goes, else those of `write`.
    pub fn write(&mut self, from: &[u8]) -> Result<usize, Errno> {
        self.fd.write(from)
    }

    /// Grows the pipe behind it to `size` bytes, where there is one, it is smaller, and the system
    /// allows it. Fewer, larger steps on both sides are worth more than anything done between
    /// them.
    pub fn grow_pipe(&self, size: usize) {
        if self.kind() == Kind::Pipe && rustix::pipe::fcntl_getpipe_size(self).is_ok_and(|now| now < size) {
            // EPERM and EBUSY: go on with what there is.
            let _ = rustix::pipe::fcntl_setpipe_size(self, size);
        }
    }

    /// How many bytes are still to be read from a file or a disk, as of now; none if that cannot
    /// be told. Files of size 0, such as those in `/proc`, may hold bytes all the same.
    pub fn left_to_read(&self) -> Option<u64> {
        let size = match self.kind() {
            Kind::File => rustix::fs::fstat(self).ok()?.st_size as u64,
            Kind::Disk => self.fd.size_of_disk()?,
            _ => 0,
        };
        let at = if size > 0 { rustix::fs::tell(self).ok()? } else { 0 };
        (size > 0).then(|| size.saturating_sub(at))
    }

    /// Has the system send full segments only, or all that there is. Returns whether it does: it is for
    /// TCP connections of our own.
    fn cork(&self, corked: bool) -> bool {
        self.receipt.is_some() && rustix::net::sockopt::set_tcp_cork(self, corked).is_ok()
    }

    /// Whether other processes may use the same open file description.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// A connection that nobody but this process uses.
    fn is_own_socket(&self) -> bool {
        self.kind() == Kind::Socket && !self.is_shared
    }

    /// The file behind it, to tell it from others; none if it is no regular file.
    pub fn file(&self) -> Option<FileId> {
        let stat = rustix::fs::fstat(self).ok()?;
        (self.kind() == Kind::File).then_some(FileId(stat.st_dev, stat.st_ino))
    }

    /// Empties a file of our own. Everything else stays as it is.
    ///
    /// # Errors
    /// Those of `ftruncate`.
    pub fn empty(&self) -> Result<(), EndpointError> {
        if self.kind() != Kind::File || self.is_shared {
            return Ok(());
        }
        rustix::fs::ftruncate(self, 0).map_err(|error| EndpointError::new(&self.label, error))
    }

    /// Has the system keep what was written to a file or disk even if the machine loses power.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> Result<(), EndpointError> {
        match rustix::fs::fsync(self) {
            // Pipes, sockets and most devices keep nothing.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS) => Ok(()),
            Err(error) => Err(EndpointError::new(&self.label, error)),
        }
    }

    /// Closes it.
    ///
    /// # Errors
    /// When the system could not keep what was written to it: a network file system may tell of a
    /// full disk only now.
    pub fn close(self) -> Result<(), EndpointError> {
        let Endpoint { fd, label, .. } = self;
        match fd.close() {
            // The descriptor is closed all the same.
            Ok(()) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(EndpointError::new(&label, error)),
        }
    }

    /// Whether a splice from it never waits for another process.
    fn splices_from(&self) -> bool {
        match self.kind() {
            Kind::Pipe => true,
            // Where the place in it cannot be claimed, see `Claim`.
            Kind::Disk => !self.is_shared && self.is_always_ready(),
            // A splice from a blocking TCP socket waits, whatever its flags say.
            Kind::Socket => self.is_own_socket() && self.fd.flags().contains(OFlags::NONBLOCK),
            _ => self.is_always_ready(),
        }
    }

    /// Whether a splice to it never waits for another process, and disturbs none.
    fn splices_to(&self) -> bool {
        match self.kind() {
            Kind::Pipe => true,
            // A splice moves the place in the file without the lock that read and write take.
            Kind::File | Kind::Disk => self.is_always_ready() && !self.appends() && !self.is_shared,
            // A splice to a blocking socket waits for room for all of it.
            Kind::Socket => self.is_own_socket() && self.fd.flags().contains(OFlags::NONBLOCK),
            _ => self.is_always_ready(),
        }
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How bytes may go in one step from one endpoint to another without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Straight {
    /// They have to go by way of the buffer.
    No,
    /// One of the two is a pipe.
    Splice,
    /// From a file of our own to something that is no pipe.
    SendFile,
}

/// How bytes may go between two endpoints without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splicing {
    /// By way of a pipe of our own.
    pub by_pipe: bool,
    /// In one step.
    pub straight: Straight,
    /// Bytes that are moved in one step at most.
    pub largest: usize,
}

/// The largest step between most ends. Larger ones keep the neighbours from working meanwhile.
const LARGEST_STEP: usize = 256 * 1024;

/// The largest step to a connection: as many bytes as a pipe holds, since each step wakes up a
/// neighbour on either side.
const LARGEST_STEP_TO_SOCKET: usize = 1 << 20;

impl Splicing {
    /// Every byte is copied.
    pub const NONE: Splicing = Splicing { by_pipe: false, straight: Straight::No, largest: 0 };

    /// How bytes may go from `input` to all of `outputs`. To be asked once it is known which of them
    /// are always ready.
    pub fn between(input: &Endpoint, outputs: &[&Endpoint]) -> Self {
        if !input.splices_from() || !outputs.iter().all(|output| output.splices_to()) {
            return Splicing::NONE;
        }
        let pipe = |end: &Endpoint| end.kind() == Kind::Pipe;
        let straight = match outputs {
            [output] if pipe(input) || pipe(output) => Straight::Splice,
            [_] if input.kind() == Kind::File && !input.is_shared => Straight::SendFile,
            _ => Straight::No,
        };
        let to_socket = outputs.iter().all(|output| output.kind() == Kind::Socket);
        Splicing { by_pipe: true, straight, largest: if to_socket { LARGEST_STEP_TO_SOCKET } else { LARGEST_STEP } }
    }
}

/// Which file this is, among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// The regular file at `path`; none if there is none.
    pub fn at(path: &Path) -> Option<Self> {
        let stat = rustix::fs::stat(path).ok()?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        regular.then_some(FileId(stat.st_dev, stat.st_ino))
    }
}

/// How many bytes there are to be read at `address`, as far as that is known before it is opened.
pub fn size_of(address: &Address) -> Option<u64> {
    match address {
        Address::Standard => stdin().ok()?.left_to_read(),
        // A pipe or terminal is not opened, only to be asked for its size.
        Address::File(path) if !file::may_wait(path) => {
            Endpoint::new(file::open_to_read(path).ok()?, "", false).ok()?.left_to_read()
        }
        _ => None,
    }
}

/// Refuses an `output` that is the very file that `input` reads, where writing would feed the
/// reading, as `cat` puts it: "input file is output file".
///
/// # Errors
/// In words, with the name of the input.
pub fn check_feeding(input: &Endpoint, output: &Endpoint) -> Result<(), EndpointError> {
    let why = "input and output are the same file; this would never end";
    if feeds_itself(input, output) { Err(EndpointError::new(&input.label, io::Error::other(why))) } else { Ok(()) }
}

fn feeds_itself(input: &Endpoint, output: &Endpoint) -> bool {
    let same = || {
        let (one, other) = (rustix::fs::fstat(input).ok()?, rustix::fs::fstat(output).ok()?);
        let reads_at = rustix::fs::tell(input).ok()?;
        let writes_at = if output.appends() { other.st_size as u64 } else { rustix::fs::tell(output).ok()? };
        Some((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) && reads_at < writes_at)
    };
    input.kind() == Kind::File && output.kind() == Kind::File && same().unwrap_or(false)
}

/// An operation on an endpoint failed for good.
#[derive(Debug)]
pub struct EndpointError {
    /// The name of the endpoint in messages.
    pub label: String,
    /// Why.
    pub cause: io::Error,
}

impl EndpointError {
    /// The endpoint of this label failed for this reason.
    pub fn new(label: &str, cause: impl Into<io::Error>) -> Self {
        EndpointError { label: label.to_owned(), cause: cause.into() }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.cause)
    }
}

impl std::error::Error for EndpointError {}

/// The number of an error of the system; out of memory where there is none.
fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::NOMEM)
}
