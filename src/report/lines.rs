//! Records for programs, a line each.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::output::Output;
use crate::stats::Status;

/// How long the last line may take: a reader that is there takes it much sooner.
const LAST: Duration = Duration::from_secs(1);

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, which is emptied first.
    File(PathBuf),
    /// A descriptor that was open at the start, by its number.
    Descriptor(i32),
}

/// Writes records as JSON objects, one a line.
#[derive(Debug)]
pub struct Lines {
    output: Output,
}

impl Lines {
    /// Records will go to `target`. To be called before any other descriptor is opened, so that
    /// the number of one that is closed is not that of another.
    ///
    /// # Errors
    /// When it cannot be opened, or not be written to.
    pub fn open(target: &Target) -> io::Result<Self> {
        let fd = match target {
            Target::File(path) => File::create(path)?.into(),
            Target::Descriptor(number) => descriptor(*number)?,
        };
        if fcntl_getfl(&fd)? & OFlags::RWMODE == OFlags::RDONLY {
            return Err(Errno::BADF.into());
        }
        Ok(Lines { output: Output::new(fd) })
    }

    /// Writes a record. A reader that does not keep up loses it: it is not waited for, but for the
    /// last one.
    pub fn write(&mut self, status: &Status) {
        if let Ok(mut line) = serde_json::to_vec(status) {
            line.push(b'\n');
            self.output.send(&line, if status.done { LAST } else { Duration::ZERO });
        }
    }
}

/// A descriptor by its number, to own. One that is closed is an error.
fn descriptor(number: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{number}");
    if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(Errno::BADF.into());
    }
    let own =
        pidfd_open(getpid(), PidfdFlags::empty()).and_then(|own| pidfd_getfd(own, number, PidfdGetfdFlags::empty()));
    own.or_else(|error| {
        // Not allowed in some containers: a file is opened anew, to append.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|_| error.into())
    })
}
