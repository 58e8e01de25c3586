//! From what the user asked for to a transfer that is ready to run.

use super::direction::Direction;
use super::ending::Interrupts;
use super::{Config, Error, Transfer};
use crate::budget;
use crate::control::Server;
use crate::endpoint;
use crate::os::clock;
use crate::poller::{Deadline, Interest, Poller};
use crate::report::Reporter;

impl Transfer {
    /// A transfer from stdin to stdout. Nothing has been read yet.
    ///
    /// # Errors
    /// When a part that is needed cannot be had.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let start = clock::now();
        // The first of all: see `Reporter::new`.
        let mut reporter =
            Reporter::new(&config.reports, start, config.buffer, config.group_name()).map_err(Error::Stats)?;
        let (input, output) = (endpoint::stdin()?, endpoint::stdout()?);
        if endpoint::feeds_itself(&input, &output) {
            return Err(Error::FeedsItself);
        }
        if let Some(size) = config.pipe_size {
            input.grow_pipe(size);
            output.grow_pipe(size);
        }
        let mut poller = Poller::new().map_err(Error::Poller)?;
        let group = config.group.as_ref().map(budget::join).transpose()?.unwrap_or_default();
        let left = input.left_to_read().map(|left| left.min(config.stop_after.unwrap_or(u64::MAX)));
        reporter.facts.size = reporter.facts.size.or(left);
        let mut direction = Direction::new(config, input, output, group, &mut poller);
        direction.apply_pace(&mut poller);
        // Without a socket it still moves what there is to move.
        let server = if config.control { Server::open().ok() } else { None };
        let control = server.and_then(|server| poller.add(&server, Interest::Read).map(|key| (server, key)));
        let now = clock::now();
        poller.set_deadline(Deadline::Tick, reporter.next_tick(now).map(|wait| now.saturating_add(wait)));
        let interrupts = Interrupts::default();
        Ok(Transfer {
            poller,
            direction,
            reporter,
            control,
            interrupts,
            stopped: false,
            told_to_drain: false,
            told_of_group: false,
            told_of_store: None,
        })
    }
}
