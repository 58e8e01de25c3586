//! One run of the program: turns the poller and the flows until the bytes are moved.

mod config;
mod direction;
mod ending;
mod ends;
mod inputs;
mod outcome;
mod outputs;
mod setup;
mod spilling;
mod steering;
mod wrapping;

pub use config::{CommandLine, Config, SpillTo};
pub use outcome::{End, Error, Outcome, Stalled, lost};

use std::time::Duration;

use jiff::Timestamp;
use rustix::io::Errno;
use signal_hook::consts::{SIGQUIT, SIGUSR1};

use crate::control::Server;
use crate::endpoint::{Checksum, EndpointError};
use crate::flow::{StallClock, Watch};
use crate::os::clock;
use crate::poller::{Deadline, Key, Poller, Received};
use crate::report::{Reporter, tell};
use crate::stats::{Cause, Ending, FlowStatus, Hash};
use crate::units::show_bytes;
use direction::Direction;
use ending::{Interrupts, Reaction};
use ends::Notice;
use outcome::NotStarted;
use steering::Steering;
use wrapping::Wrapping;

/// How long the held bytes may go out after an interrupt before the user is told of it.
const DRAINS_IN_SILENCE: Duration = Duration::from_millis(500);

/// Moves bytes as `config` says, until one side ends or a signal does.
pub fn run(config: &Config) -> Outcome {
    let end = match Transfer::new(config) {
        Ok(transfer) => return transfer.run(config),
        Err(NotStarted::Failed(error)) => Err(error),
        Err(NotStarted::Interrupted(signal)) => Ok(End::Interrupted(signal)),
    };
    Outcome { end, undelivered: 0, arrived: None }
}

/// A run of the program.
#[derive(Debug)]
struct Transfer {
    poller: Poller,
    /// One, or two if a command is wrapped: to it and from it.
    directions: Vec<Direction>,
    /// The command between the directions, if there is one.
    wrapping: Option<Wrapping>,
    reporter: Reporter,
    control: Option<(Server, Key)>,
    interrupts: Interrupts,
    stall: Option<StallClock>,
    /// A control client ended the input.
    stopped: bool,
    /// An input could not be read to its end.
    incomplete: bool,
    /// The user has been told that held bytes still go out.
    told_to_drain: bool,
    /// The user has been told that the group cannot be used.
    told_of_group: bool,
    /// What the user has been told of the store of many machines.
    told_of_store: Option<String>,
}

impl Transfer {
    fn run(mut self, config: &Config) -> Outcome {
        let end = self.turn_until_the_end();
        if let (Err(Error::Stalled(_)), Some(wrapping)) = (&end, &self.wrapping) {
            wrapping.end();
        }
        let now = clock::now();
        self.observe(now);
        describe_flows(&self.directions, &mut self.reporter);
        let sum = |of: fn(&Direction) -> u64| self.directions.iter().map(of).sum::<u64>();
        let undelivered = sum(Direction::undelivered);
        let arrived = (config.outputs.len() == 1).then(|| sum(Direction::delivered) - sum(Direction::unacknowledged));
        let mut closed = Vec::new();
        for direction in &mut self.directions {
            direction.missing_elsewhere().for_each(|line| self.reporter.say(line));
            // Some file systems report a full disk only now.
            closed.extend(direction.close(config.sync && end.is_ok(), &mut self.poller));
        }
        let hash = self.directions.last_mut().and_then(Direction::take_checksum).and_then(Checksum::finish);
        self.reporter.facts.hash = hash.map(|(algorithm, digest)| Hash { algorithm: algorithm.to_string(), digest });
        let end = match end {
            Ok(end @ (End::Delivered | End::Incomplete)) => match closed.pop() {
                Some(error) => Err(error.into()),
                None => Ok(end),
            },
            end => end,
        };
        self.reporter.finish(
            now,
            match &end {
                Ok(End::Incomplete) => Ending::Failed,
                Ok(End::Delivered) if self.stopped => Ending::Stopped,
                Ok(End::Delivered) => Ending::Done,
                Ok(End::Exited(exit)) if exit.code() == 0 => Ending::Done,
                Ok(End::ConsumerLeft) => Ending::Stopped,
                Ok(End::Interrupted(_) | End::Abandoned(..)) => Ending::Interrupted,
                Ok(End::Exited(_)) | Err(_) => Ending::Failed,
            },
        );
        // As `sha256sum` prints it. A consumer that left hears nothing, as with `cat`.
        if let Some(hash) = self.reporter.facts.hash.take()
            && !matches!(end, Ok(End::ConsumerLeft))
        {
            tell(&format!("{}  -\n", hash.digest));
        }
        Outcome { end, undelivered, arrived }
    }

    fn turn_until_the_end(&mut self) -> Result<End, Error> {
        loop {
            let mut busy = false;
            for at in 0..self.directions.len() {
                match self.work(at) {
                    Ok(more) => busy |= more,
                    Err(error) => {
                        if let Some(end) = self.consumer_failed(at, error)? {
                            return Ok(end);
                        }
                    }
                }
            }
            if let Some(end) = self.ended()? {
                return Ok(end);
            }
            if let Some(end) = self.tell_of_group() {
                return Ok(end);
            }
            self.sleep(busy)?;
            if let Some(end) = self.react()? {
                return Ok(end);
            }
        }
    }

    /// Has one direction take its steps. Returns whether it can take more at once.
    fn work(&mut self, at: usize) -> Result<bool, EndpointError> {
        let direction = &mut self.directions[at];
        if direction.is_over() {
            return Ok(false);
        }
        let account = &mut self.reporter.account;
        let busy = direction.work(&mut self.poller, |now, delay| account.late(now, delay))?;
        while let Some(notice) = direction.take_notice() {
            self.incomplete |= matches!(notice, Notice::Failed(_));
            self.reporter.say(notice);
        }
        Ok(busy && !direction.flow().is_finished())
    }

    /// How the run has ended, if it has.
    fn ended(&mut self) -> Result<Option<End>, Error> {
        if self.wrapping.is_some() {
            return Ok(self.command_ended());
        }
        let direction = &mut self.directions[0];
        if !direction.flow().is_finished() {
            return Ok(None);
        }
        match (direction.take_input_error(), self.interrupts.interrupted_by()) {
            (Some(error), _) => Err(error.into()),
            (None, Some(signal)) => Ok(Some(End::Interrupted(signal))),
            (None, None) if self.incomplete => Ok(Some(End::Incomplete)),
            (None, None) => Ok(Some(End::Delivered)),
        }
    }

    /// Sleeps until there may be something to do. Only looks what has become ready if `busy`.
    ///
    /// # Errors
    /// When a side has moved nothing for longer than it may.
    fn sleep(&mut self, busy: bool) -> Result<(), Error> {
        let asleep = clock::now();
        let mut most = Some(Duration::ZERO);
        let mut cause = None;
        if !busy {
            (most, cause) = self.rest(asleep);
        }
        self.observe(asleep);
        if let Some(cause) = cause {
            self.watch(asleep, cause)?;
        }
        self.reporter.account.sleeps(asleep, cause);
        self.poller.wait(most, asleep);
        let awake = clock::now();
        self.reporter.account.wakes(awake);
        if most.is_some() && !busy {
            let waited = awake.saturating_sub(asleep);
            self.directions.iter_mut().for_each(|direction| direction.waited(waited));
        }
        Ok(())
    }

    /// At `now` the run rests for this `cause`. Has the poller wake it when a side will have stalled.
    /// Of several flows, a byte that any of them moves counts.
    fn watch(&mut self, now: Duration, cause: Cause) -> Result<(), Error> {
        let Some(clock) = &mut self.stall else { return Ok(()) };
        if self.poller.signals().was_continued() {
            self.directions.iter_mut().for_each(Direction::continued);
        }
        if self.directions.iter_mut().map(Direction::take_stopped).filter(|stopped| *stopped).count() > 0 {
            clock.continued();
        }
        let delivered = self.directions.iter().map(Direction::delivered).sum::<u64>();
        let held = self.directions.iter().map(|direction| direction.flow().proxy().buffered() as u64).sum::<u64>();
        // A command may read long before it writes.
        let moved = if self.directions.len() > 1 { 2 * delivered + held } else { delivered };
        let watch = clock.rests(now, cause, delivered + held, moved);
        self.poller.set_deadline(Deadline::Stall, if let Watch::Until(time) = watch { Some(time) } else { None });
        let Watch::Stalled(side) = watch else { return Ok(()) };
        let mut label = "the input".to_owned();
        for direction in self.directions.iter_mut().filter(|direction| !direction.is_over()) {
            if direction.needs(now).cause == cause {
                direction.label(side).clone_into(&mut label);
            }
        }
        Err(Stalled { label, side, time: clock.timeout() }.into())
    }

    /// Has the poller wait for all that the flows need. Returns for how long at most, and what holds
    /// back the bytes: of several flows, the reason that the user can do most about.
    fn rest(&mut self, now: Duration) -> (Option<Duration>, Option<Cause>) {
        let (mut most, mut due, mut cause): (Option<Duration>, Option<Duration>, _) = (None, None, Cause::Producer);
        for direction in self.directions.iter_mut().filter(|direction| !direction.is_over()) {
            let needs = direction.rest(&mut self.poller, now);
            due = due.into_iter().chain(needs.due).min();
            most = most.into_iter().chain(needs.patience).min();
            let own = if direction.is_paused() { Cause::Paused } else { needs.cause };
            let rank = |cause| [Cause::Paused, Cause::Limit, Cause::Consumer].iter().position(|one| *one == cause);
            if rank(own).unwrap_or(usize::MAX) < rank(cause).unwrap_or(usize::MAX) {
                cause = own;
            }
        }
        self.poller.set_deadline(Deadline::Tokens, due);
        self.poller.set_deadline(Deadline::Flush, self.directions.iter().filter_map(Direction::flush_at).min());
        (most, Some(cause))
    }

    /// Reacts to what has happened.
    fn react(&mut self) -> Result<Option<End>, Error> {
        let now = clock::now();
        let mut called = self.poller.is_due(Deadline::Control, now);
        let mut departed = Vec::new();
        for ready in self.poller.ready() {
            called |= self.control.as_ref().is_some_and(|(_, key)| *key == ready.key);
            for (at, direction) in self.directions.iter_mut().enumerate() {
                departed.extend(direction.notice(ready).err().map(|error| (at, error)));
            }
        }
        for (at, error) in departed {
            if let Some(end) = self.consumer_failed(at, error)? {
                return Ok(Some(end));
            }
        }
        while let Some(received) = self.poller.signals().take() {
            if let Some(end) = self.signalled(received, now) {
                return Ok(Some(end));
            }
        }
        if self.poller.is_due(Deadline::Timetable, now) {
            apply_pace(&mut self.directions, &mut self.poller, now);
        }
        if self.poller.is_due(Deadline::Tick, now) {
            self.tick(now);
        }
        // Tokens show in the next step, a stall in the next rest, and a child that has ended when it is asked.
        let _ = (self.poller.is_due(Deadline::Stall, now), self.poller.is_due(Deadline::Flush, now));
        let _ = (self.poller.is_due(Deadline::Tokens, now), self.poller.is_due(Deadline::Child, now));
        if called && let Some((server, _)) = &mut self.control {
            let Transfer { poller, directions, reporter, stopped, .. } = self;
            server.work(now, &mut Steering { poller, directions, reporter, stopped });
            self.poller.set_deadline(Deadline::Control, server.due());
        }
        Ok(None)
    }

    fn tick(&mut self, now: Duration) {
        if self.interrupts.interrupted_by().is_some() && !std::mem::replace(&mut self.told_to_drain, true) {
            let held: usize = self.directions.iter().map(|direction| direction.flow().proxy().buffered()).sum();
            let held = show_bytes(held as u64);
            self.reporter.say(format!("interrupted: still delivering {held}; interrupt again to drop them"));
        }
        self.observe(now);
        describe_flows(&self.directions, &mut self.reporter);
        self.reporter.tick(now);
        let next = self.reporter.next_tick(now).map(|wait| now.saturating_add(wait));
        self.poller.set_deadline(Deadline::Tick, next);
    }

    /// Brings what is told of the run up to date.
    fn observe(&mut self, now: Duration) {
        observe(&self.directions, &mut self.reporter, now);
    }

    /// Says once that nothing moves since the group cannot be used. It is tried again all the time:
    /// to wait for a limit is better than to break it, or to end a transfer. A run that was asked to
    /// end does not wait.
    fn tell_of_group(&mut self) -> Option<End> {
        let group = self.directions[0].group();
        let trouble = group.failure();
        let failed = trouble.is_some();
        if let Some(trouble) = trouble {
            if !self.told_of_group {
                self.reporter.say(format!("{trouble}; waiting until that is repaired"));
            }
            if let Some(signal) = self.interrupts.interrupted_by() {
                return Some(End::Abandoned(signal, "interrupted, and the group cannot be used"));
            }
        }
        let notice = group.notice().map(str::to_owned);
        drop(group);
        self.told_of_group = failed;
        if notice != self.told_of_store {
            notice.iter().for_each(|notice| self.reporter.say(notice));
            self.told_of_store = notice;
        }
        None
    }

    /// The consumer of a direction takes no more bytes: it has left, or cannot write.
    fn consumer_failed(&mut self, at: usize, error: EndpointError) -> Result<Option<End>, Error> {
        if self.wrapping.is_some() {
            self.direction_failed(at, &error);
            return Ok(None);
        }
        match (Errno::from_io_error(&error.cause), self.interrupts.interrupted_by()) {
            (Some(Errno::PIPE), Some(signal)) => Ok(Some(End::Interrupted(signal))),
            (Some(Errno::PIPE), None) => Ok(Some(End::ConsumerLeft)),
            _ => Err(error.into()),
        }
    }

    fn signalled(&mut self, received: Received, now: Duration) -> Option<End> {
        let signal = received.signal;
        if signal == SIGUSR1 {
            self.observe(now);
            self.reporter.summarize(now);
            return None;
        }
        if let Some(wrapping) = &self.wrapping {
            wrapping.pass_on(received);
            return None;
        }
        let first = self.interrupts.interrupted_by().is_none();
        match self.interrupts.on(signal, now) {
            Reaction::Nothing => {}
            Reaction::Abandon if first && signal == SIGQUIT => return Some(End::Abandoned(signal, "quit")),
            Reaction::Abandon => return Some(End::Abandoned(signal, "interrupted twice")),
            Reaction::Finish => {
                self.directions.iter_mut().for_each(|direction| direction.finish(&mut self.poller));
                // By then most are done, or have lost their consumer to the same Ctrl-C.
                self.poller.set_deadline(Deadline::Tick, Some(now.saturating_add(DRAINS_IN_SILENCE)));
            }
        }
        None
    }
}

/// Puts the limits in force that are asked for now, and has the poller tell when one changes.
fn apply_pace(directions: &mut [Direction], poller: &mut Poller, now: Duration) {
    let until: Option<Timestamp> = directions.iter_mut().filter_map(Direction::apply_pace).min();
    poller.set_alarm(until, now);
}

/// Brings what is told of a run up to date: the sums of its directions.
fn observe(directions: &[Direction], reporter: &mut Reporter, now: Duration) {
    let (mut delivered, mut buffered, mut paused) = (0, 0, false);
    for direction in directions {
        let proxy = direction.flow().proxy();
        delivered += direction.delivered();
        buffered += if direction.is_over() { 0 } else { proxy.buffered() };
        paused |= proxy.producer().is_some() && proxy.producer_paused();
    }
    reporter.account.holds(now, delivered, buffered, paused);
    reporter.facts.limit = directions.iter().filter_map(Direction::limit).min();
    if let (Some(records), Some(last)) = (&mut reporter.facts.records, directions.last()) {
        records.limit = last.record_limit();
        reporter.account.counts(last.flow().proxy().records());
    }
    reporter.facts.spilled = directions.iter().filter_map(Direction::spilled).reduce(|sum, more| sum + more);
    reporter.facts.paused = directions.iter().any(Direction::is_paused);
}

/// Brings up to date what is told of each flow, where there are several.
fn describe_flows(directions: &[Direction], reporter: &mut Reporter) {
    let flow = |direction: &Direction| {
        let name = direction.name()?.to_owned();
        let (bytes, limit) = (direction.delivered(), direction.limit());
        Some(FlowStatus { flow: name, bytes, limit, buffered: direction.flow().proxy().buffered() as u64 })
    };
    reporter.facts.flows = directions.iter().filter_map(flow).collect();
}
