//! Writing without waiting, to whatever others read at their own pace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::os::{Kind, SharedFd};

/// Bytes. A longer queue takes nothing more: a dozen messages, and less than a page.
const BACKLOG: usize = 4096;

/// A descriptor that messages, drawings and records are written to. A reader that does not keep up
/// loses some of them: it is not waited for.
#[derive(Debug)]
pub(super) struct Output {
    fd: SharedFd,
    /// The rest of what went out in part.
    unsent: Vec<u8>,
    /// `unsent` is the rest of a text of which some went out.
    begun: bool,
    /// The latest bytes that went out are the beginning of a text whose rest was lost by an error.
    torn: bool,
}

impl Output {
    /// # Errors
    /// If the system does not tell what the descriptor is.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut fd = SharedFd::new(fd)?;
        if fd.kind() == Kind::File {
            fd.set_plain();
        }
        Ok(Output { fd, unsent: Vec::new(), begun: false, torn: false })
    }

    /// Writes `text` as a whole; its end may go out before the next text. False, and nothing is
    /// written, if the reader takes none of it within `wait`.
    ///
    /// # Errors
    /// If the descriptor cannot be written to. What was written of `text` stays.
    pub(super) fn try_send(&mut self, text: &[u8], wait: Duration) -> Result<bool, Errno> {
        self.flush(wait)?;
        if !self.unsent.is_empty() {
            return Ok(false);
        }
        self.unsent.extend_from_slice(text);
        let sent = self.flush(wait)? > 0;
        if !sent {
            // By the time it could go out, it would be out of date.
            self.unsent.clear();
        }
        Ok(sent)
    }

    /// [`try_send`](Self::try_send) where an error says no more than a reader that is behind.
    pub(super) fn send(&mut self, text: &[u8], wait: Duration) -> bool {
        self.try_send(text, wait).unwrap_or(false)
    }

    /// Whether the latest bytes that went out are a text that an error cut off.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    /// Writes `text` as soon as the reader takes it: now, or before the next text. It is lost if
    /// much is waiting already.
    pub(super) fn queue(&mut self, text: &[u8]) {
        if self.unsent.len() < BACKLOG {
            self.unsent.extend_from_slice(text);
        }
        let _ = self.flush(Duration::ZERO);
    }

    /// Writes all of `text`, and waits for that at most so long altogether. The rest is lost.
    pub(super) fn write_within(&mut self, text: &[u8], patience: Duration) {
        let start = Instant::now();
        self.unsent.extend_from_slice(text);
        loop {
            let left = patience.saturating_sub(start.elapsed());
            // A poll that a signal interrupts sends nothing, and is tried again.
            if self.flush(left).unwrap_or(0) == 0 && (self.unsent.is_empty() || left.is_zero()) {
                break;
            }
        }
        self.unsent.clear();
    }

    /// Writes as much of the unsent bytes as the reader takes, and returns how much that was.
    ///
    /// # Errors
    /// If the descriptor cannot be written to. Then nothing is unsent.
    fn flush(&mut self, wait: Duration) -> Result<usize, Errno> {
        let wait = Timespec::try_from(wait).unwrap_or_default();
        let mut sent = 0;
        while !self.unsent.is_empty() {
            if !matches!(poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&wait)), Ok(1..)) {
                break;
            }
            match self.fd.write(&self.unsent) {
                Ok(written) => {
                    self.unsent.drain(..written);
                    sent += written;
                    self.begun = !self.unsent.is_empty();
                    self.torn = false;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => {
                    self.torn |= std::mem::take(&mut self.begun);
                    self.unsent.clear();
                    return Err(error);
                }
            }
        }
        Ok(sent)
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets this thread write to its terminal from the background although the user has said `stty
/// tostop`. Without this, one message would stop the transfer, and its neighbours in the pipeline,
/// by SIGTTOU. Drawings from the background are left out elsewhere.
pub(super) fn allow_writes_from_background() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTTOU);
    // Should this fail, a message behaves as that of any other program.
    let _ = set.thread_block();
}
