//! One run of the program: turns the poller and the flow until the bytes are moved.

mod config;
mod direction;
mod ending;
mod ends;
mod outcome;
mod setup;
mod steering;

pub use config::Config;
pub use outcome::{End, Error, Outcome};

use std::time::Duration;

use rustix::io::Errno;
use signal_hook::consts::SIGUSR1;

use crate::control::Server;
use crate::endpoint::EndpointError;
use crate::os::clock;
use crate::poller::{Deadline, Key, Poller};
use crate::report::Reporter;
use crate::stats::{Cause, Ending};
use crate::units::show_bytes;
use direction::{Direction, Notice};
use ending::{Interrupts, Reaction};
use outcome::NotStarted;
use steering::Steering;

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
    direction: Direction,
    reporter: Reporter,
    control: Option<(Server, Key)>,
    interrupts: Interrupts,
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
        let now = clock::now();
        self.observe(now);
        let undelivered = self.direction.undelivered();
        let arrived =
            config.output.is_some().then(|| self.direction.flow().delivered() - self.direction.unacknowledged());
        // Some file systems report a full disk only now.
        let closed = self.direction.close(config.sync && end.is_ok());
        let end = match end {
            Ok(end @ (End::Delivered | End::Incomplete)) => closed.map(|()| end).map_err(Error::from),
            end => end,
        };
        self.reporter.finish(
            now,
            match &end {
                Ok(End::Incomplete) => Ending::Failed,
                Ok(End::Delivered) if self.stopped => Ending::Stopped,
                Ok(End::Delivered) => Ending::Done,
                Ok(End::ConsumerLeft) => Ending::Stopped,
                Ok(End::Interrupted(_) | End::Abandoned(..)) => Ending::Interrupted,
                Err(_) => Ending::Failed,
            },
        );
        Outcome { end, undelivered, arrived }
    }

    fn turn_until_the_end(&mut self) -> Result<End, Error> {
        loop {
            let account = &mut self.reporter.account;
            let busy = match self.direction.work(&mut self.poller, |now, delay| account.late(now, delay)) {
                Ok(busy) => busy,
                Err(error) => return self.consumer_failed(error),
            };
            while let Some(notice) = self.direction.take_notice() {
                self.incomplete |= matches!(notice, Notice::Failed(_));
                self.reporter.say(notice);
            }
            if self.direction.flow().is_finished() {
                return match (self.direction.take_input_error(), self.interrupts.interrupted_by()) {
                    (Some(error), _) => Err(error.into()),
                    (None, Some(signal)) => Ok(End::Interrupted(signal)),
                    (None, None) if self.incomplete => Ok(End::Incomplete),
                    (None, None) => Ok(End::Delivered),
                };
            }
            if let Some(end) = self.tell_of_group() {
                return Ok(end);
            }
            self.sleep(busy);
            if let Some(end) = self.react()? {
                return Ok(end);
            }
        }
    }

    /// Sleeps until there may be something to do. Only looks what has become ready if `busy`.
    fn sleep(&mut self, busy: bool) {
        let asleep = clock::now();
        let mut most = Some(Duration::ZERO);
        let mut cause = None;
        if !busy {
            let needs = self.direction.rest(&mut self.poller, asleep);
            self.poller.set_deadline(Deadline::Tokens, needs.due);
            most = needs.patience;
            cause = Some(if self.direction.is_paused() { Cause::Paused } else { needs.cause });
        }
        self.observe(asleep);
        self.reporter.account.sleeps(asleep, cause);
        self.poller.wait(most, asleep);
        let awake = clock::now();
        self.reporter.account.wakes(awake);
        if most.is_some() && !busy {
            self.direction.waited(awake.saturating_sub(asleep));
        }
    }

    /// Reacts to what has happened.
    fn react(&mut self) -> Result<Option<End>, Error> {
        let now = clock::now();
        let mut called = self.poller.is_due(Deadline::Control, now);
        let mut departed = None;
        for ready in self.poller.ready() {
            called |= self.control.as_ref().is_some_and(|(_, key)| *key == ready.key);
            departed = departed.or(self.direction.notice(ready).err());
        }
        if let Some(error) = departed {
            return self.consumer_failed(error).map(Some);
        }
        while let Some(received) = self.poller.signals().take() {
            if let Some(end) = self.signalled(received.signal, now) {
                return Ok(Some(end));
            }
        }
        if self.poller.is_due(Deadline::Timetable, now) {
            self.direction.apply_pace(&mut self.poller);
        }
        if self.poller.is_due(Deadline::Tick, now) {
            self.tick(now);
        }
        // Tokens show in the next step.
        let _ = self.poller.is_due(Deadline::Tokens, now);
        if called && let Some((server, _)) = &mut self.control {
            let Transfer { poller, direction, reporter, stopped, .. } = self;
            server.work(now, &mut Steering { poller, direction, reporter, stopped });
            self.poller.set_deadline(Deadline::Control, server.due());
        }
        Ok(None)
    }

    fn tick(&mut self, now: Duration) {
        if self.interrupts.interrupted_by().is_some() && !std::mem::replace(&mut self.told_to_drain, true) {
            let held = show_bytes(self.direction.flow().proxy().buffered() as u64);
            self.reporter.say(format!("interrupted: still delivering {held}; interrupt again to drop them"));
        }
        self.observe(now);
        self.reporter.tick(now);
        let next = self.reporter.next_tick(now).map(|wait| now.saturating_add(wait));
        self.poller.set_deadline(Deadline::Tick, next);
    }

    /// Brings what is told of the run up to date.
    fn observe(&mut self, now: Duration) {
        observe(&self.direction, &mut self.reporter, now);
    }

    /// Says once that nothing moves since the group cannot be used. It is tried again all the time:
    /// to wait for a limit is better than to break it, or to end a transfer. A run that was asked to
    /// end does not wait.
    fn tell_of_group(&mut self) -> Option<End> {
        let trouble = self.direction.group().failure();
        if let Some(trouble) = trouble {
            if !self.told_of_group {
                self.reporter.say(format!("{trouble}; waiting until that is mended"));
            }
            if let Some(signal) = self.interrupts.interrupted_by() {
                return Some(End::Abandoned(signal, "interrupted, and the group cannot be used"));
            }
        }
        self.told_of_group = trouble.is_some();
        let notice = self.direction.group().notice();
        if notice != self.told_of_store.as_deref() {
            self.told_of_store = notice.map(str::to_owned);
            self.told_of_store.iter().for_each(|notice| self.reporter.say(notice));
        }
        None
    }

    /// The consumer takes no more bytes: it has left, or cannot write.
    fn consumer_failed(&self, error: EndpointError) -> Result<End, Error> {
        match (Errno::from_io_error(&error.cause), self.interrupts.interrupted_by()) {
            (Some(Errno::PIPE), Some(signal)) => Ok(End::Interrupted(signal)),
            (Some(Errno::PIPE), None) => Ok(End::ConsumerLeft),
            _ => Err(error.into()),
        }
    }

    fn signalled(&mut self, signal: i32, now: Duration) -> Option<End> {
        if signal == SIGUSR1 {
            self.observe(now);
            self.reporter.summarize(now);
            return None;
        }
        match self.interrupts.on(signal, now) {
            Reaction::Nothing => {}
            Reaction::Abandon
                if self.interrupts.interrupted_by() == Some(signal) && signal == signal_hook::consts::SIGQUIT =>
            {
                return Some(End::Abandoned(signal, "quit"));
            }
            Reaction::Abandon => return Some(End::Abandoned(signal, "interrupted twice")),
            Reaction::Finish => {
                self.direction.finish(&mut self.poller);
                // By then most are done, or have lost their consumer to the same Ctrl-C.
                self.poller.set_deadline(Deadline::Tick, Some(now.saturating_add(DRAINS_IN_SILENCE)));
            }
        }
        None
    }
}

/// Brings what is told of a run up to date.
fn observe(direction: &Direction, reporter: &mut Reporter, now: Duration) {
    let (flow, proxy) = (direction.flow(), direction.flow().proxy());
    let paused = proxy.producer().is_some() && proxy.producer_paused();
    reporter.account.holds(now, flow.delivered(), proxy.buffered(), paused);
    reporter.facts.limit = direction.limit();
    reporter.facts.paused = direction.is_paused();
}
