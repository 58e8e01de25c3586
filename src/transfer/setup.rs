//! From what the user asked for to a transfer that is ready to run.

use std::cell::RefCell;
use std::io::{IsTerminal, stderr, stdin};
use std::rc::Rc;

use signal_hook::consts::SIGUSR1;

use super::direction::{Direction, Share};
use super::ending::Interrupts;
use super::inputs::{self, Inputs};
use super::spilling::Spilling;
use super::wrapping::Wrapping;
use super::{CommandLine, Config, Error, NotStarted, SpillTo, Transfer, apply_pace, ends, outputs};
use crate::budget::{self, GroupFile, GroupRequest, Membership};
use crate::control::Server;
use crate::endpoint::{self, Address, Checksum};
use crate::flow::StallClock;
use crate::os::clock;
use crate::poller::{Deadline, Interest, Poller};
use crate::report::{Reporter, Show};
use crate::stats::RecordFacts;

/// Joins a group. A signal that comes while another process keeps it waiting ends that.
fn join(
    request: &GroupRequest,
    name: Option<&str>,
    poller: &mut Poller,
    reporter: &mut Reporter,
) -> Result<Membership<GroupFile>, NotStarted> {
    let mut interrupted = None;
    let joined = budget::join(request, name, || {
        let signals = poller.signals();
        signals.look();
        while let Some(received) = signals.take() {
            if received.signal != SIGUSR1 {
                interrupted = Some(received.signal);
                return false;
            }
            reporter.summarize(clock::now());
        }
        true
    })?;
    match (joined, interrupted) {
        (_, Some(signal)) => Err(NotStarted::Interrupted(signal)),
        (joined, None) => Ok(joined.unwrap_or_default()),
    }
}

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
            if reports.progress == Show::Auto && stderr().is_terminal() {
                reports.progress = Show::Always;
            }
        }
        let name = reports.name.clone();
        let mut reporter = Reporter::new(&reports, start, config.buffer, config.group_name()).map_err(Error::Stats)?;
        // Threads that open endpoints must not take the signals: these are blocked first.
        let mut poller = Poller::new().map_err(Error::Poller)?;
        let group = match &config.group {
            Some(request) => join(request, name.as_deref(), &mut poller, &mut reporter)?,
            None => Membership::default(),
        };
        let group = Rc::new(RefCell::new(group.with_catch_up(config.catch_up)));
        let (mut directions, wrapping) = match &config.command {
            Some(line) => wrap(config, line, &group, &mut poller, &mut reporter)?,
            None => (vec![plain(config, group, &mut poller, &mut reporter)?], None),
        };
        if let Some(SpillTo { folder, memory }) = &config.spill {
            for direction in &mut directions {
                let spilling = Spilling::open(folder, config.buffer, &mut poller);
                direction.spill(spilling.map_err(|error| Error::Spill(folder.clone(), error))?, *memory);
            }
        }
        reporter.account.resize(config.buffer * directions.len());
        apply_pace(&mut directions, &mut poller, clock::now());
        if let Some(kind) = config.records {
            let size = reporter.facts.size.take().or(config.stop_after);
            reporter.facts.records = Some(RecordFacts { kind, size, limit: None });
        }
        // Without a socket it still moves what there is to move.
        let server = if config.control { Server::open().ok() } else { None };
        let control = server.and_then(|server| poller.add(&server, Interest::Read).map(|key| (server, key)));
        let now = clock::now();
        poller.set_deadline(Deadline::Tick, reporter.next_tick(now).map(|wait| now.saturating_add(wait)));
        let interrupts = Interrupts::default();
        Ok(Transfer {
            poller,
            directions,
            wrapping,
            reporter,
            control,
            interrupts,
            stall: config.stall_timeout.map(StallClock::new),
            stopped: false,
            incomplete: false,
            told_to_drain: false,
            told_of_group: false,
            told_of_store: None,
        })
    }
}

/// The checksum of what is delivered, if one is wanted. To be made once there is a poller, which has
/// blocked the signals that it reads: so its thread does not take them.
fn checksum(config: &Config) -> Result<Option<Checksum>, Error> {
    config.hash.map(Checksum::new).transpose().map_err(Error::Checksum)
}

/// A direction from the inputs to all outputs.
fn plain(config: &Config, group: Share, poller: &mut Poller, reporter: &mut Reporter) -> Result<Direction, NotStarted> {
    let inputs = Inputs::new(config);
    let (outputs, not_opened) = outputs::open(config, poller, reporter)?;
    reporter.begin(&ends::identities(config, &outputs)).map_err(Error::Stats)?;
    if config.inputs == [Address::Standard] && stdin().is_terminal() {
        reporter.reads_from_terminal();
    }
    let mut direction = Direction::new(config, config.rate.clone(), inputs, outputs, group, checksum(config)?, poller);
    not_opened.into_iter().for_each(|error| direction.left_out(error, 0));
    if config.records.is_some() {
        return Ok(direction);
    }
    let left = match &config.inputs[..] {
        [_] => direction.left_to_read(),
        several => inputs::size_of_all(several),
    };
    let size = left.map(|left| left.min(config.stop_after.unwrap_or(u64::MAX)));
    reporter.facts.size = reporter.facts.size.or(size);
    Ok(direction)
}

/// Two directions, to a command and from it. A command that gets the terminal as it is has only the
/// second.
fn wrap(
    config: &Config,
    line: &CommandLine,
    group: &Share,
    poller: &mut Poller,
    reporter: &mut Reporter,
) -> Result<(Vec<Direction>, Option<Wrapping>), NotStarted> {
    let output = endpoint::stdout()?;
    reporter.begin(&ends::identities(config, std::slice::from_ref(&output))).map_err(Error::Stats)?;
    let own_stdin = stdin().is_terminal();
    let input = if own_stdin { None } else { Some(endpoint::stdin()?) };
    let (wrapping, to_command, from_command) = Wrapping::start(line, own_stdin, poller)?;
    let mut directions = Vec::new();
    if let (Some(input), Some(to_command)) = (input, to_command) {
        let inputs = Inputs::one(config, input);
        let up = Direction::new(config, line.up.clone(), inputs, vec![to_command], group.clone(), None, poller);
        directions.push(up.named("up"));
    }
    let inputs = Inputs::one(config, from_command);
    let checksum = checksum(config)?;
    let down = Direction::new(config, line.down.clone(), inputs, vec![output], group.clone(), checksum, poller);
    directions.push(down.named("down"));
    Ok((directions, Some(wrapping)))
}
