//! Records for programs, a line each.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::output::Output;
use crate::stats::Status;

/// How long the last record waits for a reader that is behind. A reader that works takes it much
/// sooner, and one that does not must not hold up the end of the run.
const LAST: Duration = Duration::from_secs(1);

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file. It is emptied first, unless another run writes to it.
    File(PathBuf),
    /// A descriptor that was open at the start, by its number.
    Descriptor(i32),
}

/// Writes records as JSON objects, one a line.
#[derive(Debug)]
pub struct Lines {
    output: Output,
    /// A file of our own, until it has been emptied. Afterwards it keeps the lock.
    file: Option<File>,
    /// An error has been reported.
    failed: bool,
}

impl Lines {
    /// Opens `target`, and changes nothing in it. Must be called before any other descriptor is
    /// opened: the number of a closed descriptor could become that of another.
    ///
    /// # Errors
    /// If it cannot be opened or not be written to, or if it is stdin or stdout by number.
    pub fn open(target: &Target) -> io::Result<Self> {
        let (fd, file) = match target {
            Target::File(path) => {
                let file =
                    open(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
                (file.try_clone()?.into(), Some(file))
            }
            Target::Descriptor(0 | 1) => {
                return Err(io::Error::other("descriptors 0 and 1 carry the bytes themselves: use 3, or a file"));
            }
            Target::Descriptor(number) => (descriptor(*number)?, None),
        };
        if fcntl_getfl(&fd)? & OFlags::RWMODE == OFlags::RDONLY {
            return Err(Errno::BADF.into());
        }
        Ok(Lines { output: Output::new(fd)?, file, failed: false })
    }

    /// Empties the file, now that nothing can refuse the run any more. `ends` are device and inode of
    /// what the run reads from and writes to.
    ///
    /// # Errors
    /// If records would go into one of the ends.
    pub fn begin(&mut self, ends: &[(u64, u64)]) -> io::Result<()> {
        let found = fstat(&self.output)?;
        // `/dev/null` and terminals are shared on purpose.
        let counts = FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice;
        if counts && ends.contains(&(found.st_dev, found.st_ino)) {
            return Err(io::Error::other("records would go where the bytes of the run come from or go to"));
        }
        if let Some(file) = &self.file {
            // Each run holds a shared lock while it writes. Only the first one empties the file.
            match file.try_lock() {
                // A file that cannot be emptied, such as a device, takes records all the same.
                Ok(()) => _ = file.set_len(0),
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
            }
            let _ = file.try_lock_shared();
        }
        Ok(())
    }

    /// Writes a record. A reader that does not keep up loses it: only the last record is waited for.
    ///
    /// # Errors
    /// The first time that the target cannot be written to. A reader that has left is no error.
    pub fn write(&mut self, status: &Status) -> io::Result<()> {
        let mut line = Vec::new();
        if self.output.is_torn() {
            // The rest of an earlier record is missing. It must not spoil this one.
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, status)?;
        line.push(b'\n');
        match self.output.try_send(&line, if status.done { LAST } else { Duration::ZERO }) {
            Err(error) if error != Errno::PIPE && !std::mem::replace(&mut self.failed, true) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Opens a file to append records to. Nothing waits: a FIFO that nobody reads yet is opened for
/// reading as well, and keeps the records until a reader comes.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let mut options = OpenOptions::new();
    options.append(true).create(true).custom_flags(flags);
    let is_fifo = rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if is_fifo && let Ok(file) = options.clone().read(true).open(path) {
        return Ok(file);
    }
    options.open(path)
}

/// A descriptor by its number, to own. One that is closed is an error.
fn descriptor(number: i32) -> io::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).and_then(|own| {
        // Then the number was free.
        if own.as_raw_fd() == number { Err(Errno::BADF) } else { pidfd_getfd(own, number, PidfdGetfdFlags::empty()) }
    });
    own.or_else(|error| {
        if error == Errno::BADF {
            return Err(error.into());
        }
        // Some containers do not allow it. A file is opened anew, to append.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, format!("/proc/self/fd/{number}"), flags, Mode::empty()).map_err(|found| {
            // With /proc, that the descriptor is missing there says more.
            if found == Errno::NOENT && Path::new("/proc/self/fd/2").exists() {
                Errno::BADF.into()
            } else {
                error.into()
            }
        })
    })
}
