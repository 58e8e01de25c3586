//! Writing without waiting, where others read as they like.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, makedev};
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;
use rustix::termios::isatty;

/// Bytes beyond which nothing more is queued.
const BACKLOG: usize = 4096;

/// What messages, drawings and records are written to. A reader that does not keep up loses some
/// of them: it is not waited for.
///
/// `O_NONBLOCK` belongs to the open file description, which others share. So a terminal or pipe
/// is opened anew where that goes, and `poll` is asked first where it does not.
#[derive(Debug)]
pub(super) struct Output {
    fd: OwnedFd,
    /// How many bytes can be written at once without waiting.
    most: usize,
    /// Bytes that are yet to go out: the rest of what went out in part.
    unsent: Vec<u8>,
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> Self {
        match open_anew(&fd) {
            Some(own) => Output { fd: own, most: usize::MAX, unsent: Vec::new() },
            // A pipe that is writable takes PIPE_BUF bytes at once.
            None => Output { fd, most: PIPE_BUF, unsent: Vec::new() },
        }
    }

    /// Writes `text` as a whole, some of it perhaps with the next one. False, and nothing is
    /// written, if the reader takes none of it within `wait`.
    pub(super) fn send(&mut self, text: &[u8], wait: Duration) -> bool {
        self.flush(wait);
        if !self.unsent.is_empty() {
            return false;
        }
        self.unsent.extend_from_slice(text);
        let sent = self.flush(wait) > 0;
        if !sent {
            // By the time it could go out, it would be out of date.
            self.unsent.clear();
        }
        sent
    }

    /// Writes `text` as soon as the reader takes it: now, or before what is written next. It is
    /// lost if much is waiting already.
    pub(super) fn queue(&mut self, text: &[u8]) {
        if self.unsent.len() < BACKLOG {
            self.unsent.extend_from_slice(text);
        }
        self.flush(Duration::ZERO);
    }

    /// Writes all of `text`, and waits for that at most so long altogether. The rest is lost.
    pub(super) fn write_within(&mut self, text: &[u8], patience: Duration) {
        let start = Instant::now();
        self.unsent.extend_from_slice(text);
        loop {
            let left = patience.saturating_sub(start.elapsed());
            // A poll that a signal interrupts sends nothing, and is tried again.
            if self.flush(left) == 0 && (self.unsent.is_empty() || left.is_zero()) {
                break;
            }
        }
        self.unsent.clear();
    }

    /// Writes of what is unsent as much as the reader takes. Returns how much that was.
    fn flush(&mut self, wait: Duration) -> usize {
        let wait = Timespec::try_from(wait).unwrap_or_default();
        let mut sent = 0;
        while !self.unsent.is_empty() {
            if !matches!(poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&wait)), Ok(1..)) {
                break;
            }
            let most = self.unsent.len().min(self.most);
            match rustix::io::write(&self.fd, &self.unsent[..most]) {
                Ok(written) => {
                    self.unsent.drain(..written);
                    sent += written;
                }
                Err(error) => {
                    if !matches!(error, Errno::AGAIN | Errno::INTR) {
                        // Nobody will ever read it.
                        self.unsent.clear();
                    }
                    break;
                }
            }
        }
        sent
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A description of our own, on which `O_NONBLOCK` is nobody else's matter.
fn open_anew(fd: &OwnedFd) -> Option<OwnedFd> {
    let stat = fstat(fd).ok()?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // Opening the multiplexer anew would make another terminal.
    let terminal = kind == FileType::CharacterDevice && stat.st_rdev != makedev(5, 2) && isatty(fd);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    if terminal || kind == FileType::Fifo { rustix::fs::open(path, flags, Mode::empty()).ok() } else { None }
}
