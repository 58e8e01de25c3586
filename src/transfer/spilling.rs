//! Between a buffer that spills and its disk.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ends::Notice;
use crate::buffer::{Fifo, Spill};
use crate::endpoint::{Disk, EndpointError};
use crate::poller::{Interest, Poller};

/// How often to ask a disk that has something to do: should the news of it be lost, it is heard all
/// the same.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A disk, and what the user knows of it.
#[derive(Debug)]
pub(super) struct Spilling {
    disk: Disk,
    folder: PathBuf,
    /// The user knows that the disk takes no more.
    told: bool,
    /// When to ask it again.
    again: Duration,
}

impl Spilling {
    /// A disk that keeps up to `size` bytes in `folder`. The poller wakes up when it has news. To be made once the
    /// poller has blocked the signals: the thread must not take them.
    ///
    /// # Errors
    /// When there can be no file in that folder, or no thread.
    pub(super) fn open(folder: &Path, size: usize, poller: &mut Poller) -> io::Result<Self> {
        let disk = Disk::open(folder, size)?;
        poller.add(&disk, Interest::Read);
        Ok(Spilling { disk, folder: folder.to_owned(), told: false, again: Duration::ZERO })
    }

    /// Has the disk and the buffer hear of each other. Returns what the user is to know.
    ///
    /// # Errors
    /// When bytes are lost.
    pub(super) fn attend(&mut self, buffer: &mut Fifo) -> Result<Option<Notice>, EndpointError> {
        while let Some(report) = self.disk.report() {
            buffer.hear(report);
        }
        while let Some(order) = buffer.take_order() {
            self.disk.order(order);
        }
        let Some(spill) = buffer.spill_mut() else { return Ok(None) };
        let label = || format!("--spill {}", self.folder.display());
        if let Some(error) = spill.take_lost() {
            return Err(EndpointError::new(&label(), error));
        }
        let trouble = spill.take_trouble().filter(|_| !std::mem::replace(&mut self.told, true));
        let says = |error| Notice::Says(format!("{}: {error}; reading goes on as far as there is room", label()));
        Ok(trouble.map(says))
    }

    /// When to look at the disk, should there be no news of it.
    pub(super) fn ask_again(&mut self, buffer: &Fifo, now: Duration) -> Option<Duration> {
        if self.again <= now {
            // Not a new time at each rest: that would cost a system call.
            self.again = now.saturating_add(ASK_AGAIN);
        }
        buffer.spill().filter(|spill| Spill::is_waiting(spill)).map(|_| self.again)
    }
}
