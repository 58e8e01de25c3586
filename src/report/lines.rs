//! Records for programs, a line each.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::Status;

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
    /// Nothing once it cannot be written any more.
    fd: Option<OwnedFd>,
}

impl Lines {
    /// Records will go to `target`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(target: &Target) -> io::Result<Self> {
        let fd = match target {
            Target::File(path) => File::create(path)?.into(),
            Target::Descriptor(number) => descriptor(*number)?,
        };
        Ok(Lines { fd: Some(fd) })
    }

    /// Writes a record. A reader that does not keep up loses it: it is not waited for, but for the
    /// last one.
    pub fn write(&mut self, status: &Status) {
        let (Some(fd), Ok(mut line)) = (&self.fd, serde_json::to_vec(status)) else { return };
        line.push(b'\n');
        let wait = Timespec::try_from(if status.done { LAST } else { Duration::ZERO }).ok();
        // What is writable takes PIPE_BUF bytes, 4096, at once.
        if poll(&mut [PollFd::new(fd, PollFlags::OUT)], wait.as_ref()).is_ok_and(|ready| ready > 0)
            && rustix::io::write(fd, &line).is_err()
        {
            self.fd = None;
        }
    }
}

/// A descriptor by its number, to own. One that is closed is an error.
fn descriptor(number: i32) -> io::Result<OwnedFd> {
    let own =
        pidfd_open(getpid(), PidfdFlags::empty()).and_then(|own| pidfd_getfd(own, number, PidfdGetfdFlags::empty()));
    own.or_else(|error| {
        // Not allowed in some containers: a file is opened anew, to append.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, format!("/proc/self/fd/{number}"), flags, Mode::empty()).map_err(|_| error.into())
    })
}
