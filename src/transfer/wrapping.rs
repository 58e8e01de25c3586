//! A run with a command between two directions: to it and from it.

use std::time::Duration;

use rustix::io::Errno;
use signal_hook::consts::SIGTERM;

use super::outcome::lost;
use super::{CommandLine, End, Error, Transfer};
use crate::endpoint::{self, Endpoint, EndpointError, Exit, Wrapped};
use crate::os::clock;
use crate::poller::{Deadline, Interest, Poller, Received};

/// How often a child is asked whether it has ended, where the system does not tell.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The command of a run.
#[derive(Debug)]
pub(super) struct Wrapping {
    /// What was started, for messages.
    program: String,
    wrapped: Wrapped,
    /// The poller tells when it ends.
    is_watched: bool,
    exit: Option<Exit>,
    /// A direction failed, other than by a side that left.
    failed: bool,
}

impl Wrapping {
    /// Starts the command. Returns it with the endpoint that feeds it, unless it has our own stdin,
    /// and the one with its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(
        line: &CommandLine,
        own_stdin: bool,
        poller: &mut Poller,
    ) -> Result<(Self, Option<Endpoint>, Endpoint), Error> {
        let started = Wrapped::start(&line.program, &line.arguments, own_stdin);
        let program = line.program.to_string_lossy().into_owned();
        let (wrapped, input, output) = started.map_err(|cause| Error::Command(program.clone(), cause))?;
        let is_watched = wrapped.pidfd().is_some_and(|pidfd| poller.add(pidfd, Interest::Read).is_some());
        Ok((Wrapping { program, wrapped, is_watched, exit: None, failed: false }, input, output))
    }

    /// Asks the command to end.
    pub(super) fn end(&self) {
        if self.exit.is_none() {
            self.wrapped.signal(SIGTERM);
        }
    }

    /// Passes a signal on to the command, unless the kernel has sent it to the whole job, as it does
    /// for Ctrl-C: then the command has it already.
    pub(super) fn pass_on(&self, received: Received) {
        if !received.by_kernel && self.exit.is_none() {
            self.wrapped.signal(received.signal);
        }
    }
}

impl Transfer {
    /// Closes the directions that have delivered all. The run has ended once the command has, and
    /// its output is delivered: as in a shell, what it left running may hold its output open.
    pub(super) fn command_ended(&mut self) -> Option<End> {
        for at in 0..self.directions.len() {
            let direction = &mut self.directions[at];
            if direction.is_over() || !direction.flow().is_finished() {
                continue;
            }
            let error = direction.take_input_error();
            let closed = direction.close(false, &mut self.poller);
            self.release(at);
            for error in error.into_iter().chain(closed) {
                self.say_failed(at, &error);
            }
        }
        let wrapping = self.wrapping.as_mut()?;
        if wrapping.exit.is_none() {
            wrapping.exit = wrapping.wrapped.exit().unwrap_or_else(|error| {
                self.reporter.say(format!("{}: the system does not say how it ended: {error}", wrapping.program));
                Some(Exit::Code(125))
            });
        }
        let output_is_over = self.directions.last().is_none_or(|down| down.is_over());
        match wrapping.exit {
            Some(_) if !output_is_over => None,
            Some(_) if wrapping.failed => Some(End::Exited(Exit::Code(125))),
            Some(exit) => Some(End::Exited(exit)),
            None => {
                if !wrapping.is_watched {
                    self.poller.set_deadline(Deadline::Child, Some(clock::now().saturating_add(ASK_AGAIN)));
                }
                None
            }
        }
    }

    /// The consumer of a direction takes no more bytes. The producer will notice, as in a shell.
    pub(super) fn direction_failed(&mut self, at: usize, error: &EndpointError) {
        self.directions[at].abandon(&mut self.poller);
        self.release(at);
        if Errno::from_io_error(&error.cause) != Some(Errno::PIPE) {
            self.say_failed(at, error);
        }
    }

    fn say_failed(&mut self, at: usize, error: &EndpointError) {
        let held = self.directions[at].flow().proxy().buffered() as u64;
        self.reporter.say(format!("{error}{}", lost(held)));
        if let Some(wrapping) = &mut self.wrapping {
            wrapping.failed = true;
        }
    }

    /// Lets our own neighbour of a direction that is over notice that.
    fn release(&self, at: usize) {
        if at + 1 == self.directions.len() {
            endpoint::release_stdout();
        } else {
            endpoint::release_stdin();
        }
    }
}
