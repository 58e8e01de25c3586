//! A command that runs between two flows.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{Endpoint, EndpointError};
use crate::os::with_all_signals;

/// A child process whose stdin and stdout are pipes of ours. Its stderr is that of pcproxy.
#[derive(Debug)]
pub struct Wrapped {
    child: Child,
    /// Becomes readable when the child ends, where the system offers that.
    pidfd: Option<OwnedFd>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The exit status that says the same: 128 and the number for a signal, as a shell has it.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128u8.saturating_add(signal as u8),
        }
    }
}

impl Wrapped {
    /// Starts `program`. It reads from the first endpoint that is returned, unless it is to have our
    /// own stdin as it is, and its output comes from the second.
    ///
    /// # Errors
    /// When it cannot be started: `NotFound` if there is no such program.
    pub fn start(
        program: &OsString,
        arguments: &[OsString],
        own_stdin: bool,
    ) -> io::Result<(Self, Option<Endpoint>, Endpoint)> {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::piped());
        command.stdin(if own_stdin { Stdio::inherit() } else { Stdio::piped() });
        let mut child = with_all_signals(|| command.spawn())?;
        let name = program.to_string_lossy();
        let end = |fd: OwnedFd, what: &str| {
            Endpoint::new(fd, format!("{what} of {name}"), false).map_err(|EndpointError { cause, .. }| cause)
        };
        let input = child.stdin.take().map(|stdin| end(stdin.into(), "stdin")).transpose()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("it has no stdout"))?;
        let output = end(output.into(), "stdout")?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Ok((Wrapped { child, pidfd }, input, output))
    }

    /// The descriptor that becomes readable when the child ends, if there is one.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// How it ended; none while it runs.
    ///
    /// # Errors
    /// When the system does not say: nothing is left to wait for then.
    pub fn exit(&mut self) -> io::Result<Option<Exit>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        Ok(Some(match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code as u8),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Code(125),
        }))
    }

    /// Passes a signal on to it.
    pub fn signal(&self, signal: i32) {
        // It has not been waited for while it is here, so its pid is no other's.
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }
}
