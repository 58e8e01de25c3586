//! From what the user asked for to a transfer that is ready to run.

use std::io::{IsTerminal, stderr};

use super::direction::Direction;
use super::ending::Interrupts;
use super::ends::{self, Inputs};
use super::{Config, Error, NotStarted, Transfer};
use crate::budget;
use crate::control::Server;
use crate::os::clock;
use crate::poller::{Deadline, Interest, Poller};
use crate::report::Reporter;

impl Transfer {
    /// A transfer as `config` says. Nothing has been read yet.
    ///
    /// # Errors
    /// When a part that is needed cannot be had.
    pub(super) fn new(config: &Config) -> Result<Self, NotStarted> {
        let start = clock::now();
        // The first of all: see `Reporter::new`.
        let mut reports = config.reports.clone();
        if !config.writes_to_stdout() {
            // Bytes that go elsewhere leave the terminal to the progress line.
            reports.progress = reports.progress.or_else(|| Some(stderr().is_terminal()));
        }
        let mut reporter = Reporter::new(&reports, start, config.buffer, config.group_name()).map_err(Error::Stats)?;
        // Threads that open endpoints must not take the signals: these are blocked first.
        let mut poller = Poller::new().map_err(Error::Poller)?;
        let group = config.group.as_ref().map(budget::join).transpose()?.unwrap_or_default();
        let inputs = Inputs::new(config);
        let output = ends::open_output(config, &mut poller, &mut reporter)?;
        let mut direction = Direction::new(config, inputs, output, group, &mut poller);
        let left = match &config.inputs[..] {
            [_] => direction.left_to_read(),
            several => ends::size_of_all(several),
        };
        let size = left.map(|left| left.min(config.stop_after.unwrap_or(u64::MAX)));
        reporter.facts.size = reporter.facts.size.or(size);
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
            incomplete: false,
            told_to_drain: false,
            told_of_group: false,
            told_of_store: None,
        })
    }
}
