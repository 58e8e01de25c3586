//! The only room that knows mio: readiness, interests, deadlines, signals.
//!
//! The loop holds no rule of its own. It tells the proxy that a side is ready, asks it what
//! it is interested in, and sleeps in between.

mod config;
mod outcome;

pub use config::{Config, Pace};
pub use outcome::{End, Error, Outcome};

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use jiff::Zoned;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::time::TimerfdClockId;
use signal_hook::consts::SIGUSR1;
use signal_hook_mio::v1_0::Signals;

use crate::budget::{self, GroupFile, Membership};
use crate::buffer::{self, Fifo, Patience};
use crate::control::{Host, Request, Server};
use crate::endpoint::{self, Descriptor, Fill, Side, Sink, Source, StreamError};
use crate::flow::{ProducerConsumerProxy, Watermarks};
use crate::os::clock;
use crate::poller::signals::heeded_signals;
use crate::poller::timer::Timer;
use crate::poller::watch::Watch;
use crate::report::Reporter;
use crate::shaping::{Burst, Limit, TokenBucket};
use crate::stats::{Cause, Ending, Interval, Status};
use crate::units::show_bytes;

const STDIN: Token = Token(0);
const STDOUT: Token = Token(1);
const SIGNALS: Token = Token(2);
const TIMER: Token = Token(3);
const TIMETABLE: Token = Token(4);
const TICK: Token = Token(5);
const CONTROL: Token = Token(6);

/// How many steps are taken before the loop looks up: signals must be heard even when both
/// sides are always ready.
const STEPS_A_LOOK: u32 = 64;

/// How long what is held may go out after an interrupt without a word.
const DRAINS_IN_SILENCE: Duration = Duration::from_millis(500);

/// Bytes moved straight from stdin to stdout in one step.
const STRETCH: usize = 256 * 1024;

/// Moves stdin to stdout as `config` says, until one of the two ends or a signal does.
pub fn run(config: &Config) -> Outcome {
    match EventLoop::new(config) {
        Ok(mut event_loop) => {
            let end = event_loop.run();
            event_loop.observe(clock::now());
            let ending = match &end {
                Ok(End::Delivered) if event_loop.stopped => Ending::Stopped,
                Ok(End::Delivered) => Ending::Done,
                Ok(End::ConsumerLeft) => Ending::Stopped,
                Ok(End::Interrupted(_) | End::Abandoned(_)) => Ending::Interrupted,
                Err(_) => Ending::Failed,
            };
            event_loop.reporter.finish(clock::now(), ending);
            Outcome { end, undelivered: event_loop.proxy.buffered() }
        }
        Err(error) => Outcome { end: Err(error), undelivered: 0 },
    }
}

struct EventLoop {
    poll: Poll,
    signals: Signals,
    timer: Timer,
    timetable: Timer,
    tick: Timer,
    control: Option<Server>,
    reporter: Reporter,
    pace: Pace,
    /// The share of the buffer that is its low watermark.
    low_share: f64,
    /// The limit that the pace asks for, in bytes a second.
    rate: Option<u64>,
    /// Told to feed the consumer nothing for now.
    held_up: bool,
    burst: Option<Burst>,
    stdin: Watch,
    stdout: Watch,
    proxy: ProducerConsumerProxy<Source, Sink, Fifo, TokenBucket<Membership<GroupFile>>>,
    patience: Patience,
    /// The signal that ended the input.
    interrupted: Option<i32>,
    /// A control client ended the input.
    stopped: bool,
    /// The user has been told that what is held still goes out.
    told_to_drain: bool,
    /// The user has been told that the group cannot be used.
    group_failed: bool,
    /// The error that ended the input: told once what was read before it is delivered.
    failed: Option<StreamError>,
}

impl EventLoop {
    fn new(config: &Config) -> Result<Self, Error> {
        let now = clock::now();
        let mut reporter =
            Reporter::new(&config.reports, now, config.buffer, config.group_name()).map_err(Error::Stats)?;
        let open = |side| Descriptor::new(side).map_err(|error| StreamError { side, cause: error.into() });
        let (mut input, mut output) = (open(Side::Stdin)?, open(Side::Stdout)?);
        if endpoint::feeds_itself(&input, &output) {
            return Err(Error::FeedsItself);
        }
        if let Some(size) = config.pipe_size {
            endpoint::grow_pipes([&input, &output], size);
        }

        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut signals = Signals::new(heeded_signals())?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE)?;
        let stdin = Watch::new(registry, &mut input, STDIN, Interest::READABLE)?;
        let stdout = Watch::new(registry, &mut output, STDOUT, Interest::WRITABLE)?;

        let splices = Source::splices(&input) && Sink::splices(&output);
        let watermarks = Watermarks { high: config.buffer, low: config.low_water, prefetch: true };
        let group = config.group.as_ref().map(budget::join).transpose()?;
        let bucket = TokenBucket::empty(None).below(group.unwrap_or_default());
        let timer = Timer::new(registry, TIMER, TimerfdClockId::Monotonic)?;
        let timetable = Timer::new(registry, TIMETABLE, TimerfdClockId::Realtime)?;
        let tick = Timer::new(registry, TICK, TimerfdClockId::Monotonic)?;
        let left = endpoint::left_to_read(&input).map(|left| left.min(config.stop_after.unwrap_or(u64::MAX)));
        reporter.facts.size = reporter.facts.size.or(left);
        if let Some(wait) = reporter.next_tick(clock::now()) {
            tick.set(wait)?;
        }
        // Without a socket it still moves what there is to move.
        let control = if config.control { Server::open().ok() } else { None };
        if let Some(server) = &control {
            registry.register(&mut SourceFd(&server.as_fd().as_raw_fd()), CONTROL, Interest::READABLE)?;
        }
        let buffer = Fifo::new(config.buffer, splices);
        let mut proxy = ProducerConsumerProxy::shaped(Sink::new(output), buffer, watermarks, true, bucket);
        // A producer that cannot be waited for is asked for each piece.
        let streaming = stdin.waits();
        let source = Source::new(input, streaming, config.stop_after);
        let registered = proxy.register_producer(source, streaming);
        debug_assert!(registered.is_ok(), "the first producer");
        let mut event_loop = EventLoop {
            poll,
            signals,
            timer,
            timetable,
            tick,
            control,
            reporter,
            low_share: config.low_share,
            rate: None,
            held_up: false,
            pace: config.pace.clone(),
            burst: config.burst,
            stdin,
            stdout,
            proxy,
            patience: Patience::default(),
            interrupted: None,
            stopped: false,
            told_to_drain: false,
            group_failed: false,
            failed: None,
        };
        event_loop.set_pace()?;
        Ok(event_loop)
    }

    /// Puts the limit in force that the pace asks for now: nothing passes while held up.
    fn set_pace(&mut self) -> io::Result<()> {
        self.rate = match &self.pace {
            Pace::Free => None,
            Pace::Constant(rate) => Some(*rate),
            Pace::Timetable(schedule) => {
                let now = schedule.at(&Zoned::now());
                self.timetable.set_at(now.until)?;
                now.rate
            }
        };
        self.proxy.drip(clock::now());
        let bucket = self.proxy.shaper_mut();
        if self.held_up {
            // Without a limit a bucket holds nothing, and with one of 0 it stays so.
            bucket.set_limit(None);
            bucket.set_limit(Limit::new(0, 1));
        } else {
            let limit = self.rate.map(|rate| Limit::paced(rate, self.burst));
            // Each grant is a visit to the group.
            let coarse = limit.filter(|_| bucket.parent().is_shared()).map(Limit::coarse);
            bucket.set_limit(coarse.or(limit));
        }
        Ok(())
    }

    fn run(&mut self) -> Result<End, Error> {
        let mut events = Events::with_capacity(8);
        loop {
            let busy = match self.work() {
                Ok(busy) => busy,
                Err(error) => return self.consumer_failed(error),
            };
            if self.proxy.consumer().is_none_or(Sink::is_finished) {
                return match (self.failed.take(), self.interrupted) {
                    (Some(error), _) => Err(error.into()),
                    (None, Some(signal)) => Ok(End::Interrupted(signal)),
                    (None, None) => Ok(End::Delivered),
                };
            }
            if let Some(end) = self.look(&mut events, busy)? {
                return Ok(end);
            }
        }
    }

    /// Takes the steps that can be taken now. Returns whether more could be.
    fn work(&mut self) -> Result<bool, StreamError> {
        for _ in 0..STEPS_A_LOOK {
            let now = clock::now();
            self.proxy.drip(now);
            // What is held goes first: each byte that is out makes room in the pipe.
            if self.stdout_ready() && self.proxy.due().is_some_and(|due| due <= now) {
                self.proxy.resume_producing()?;
            } else if self.proxy.producer().is_some_and(Source::can_produce) && !self.waits_to_splice() {
                if self.proxy.pass_through(STRETCH, |source, sink, limit| source.splice_through(sink, limit)) > 0 {
                    continue;
                }
                match self.proxy.write_with(Source::fill)? {
                    Some(Ok(Fill::End)) => self.proxy.finish(),
                    Some(Err(error)) => {
                        self.failed = Some(error);
                        self.proxy.finish();
                    }
                    Some(Ok(Fill::Moved(_))) | None => {}
                }
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sees what has become ready; sleeps until something does unless there is work to do.
    fn look(&mut self, events: &mut Events, busy: bool) -> Result<Option<End>, Error> {
        let mut timeout = Some(Duration::ZERO);
        let mut cause = None;
        if !busy {
            let delivered = self.proxy.consumer().map_or(0, Sink::delivered);
            self.patience.earn(delivered);
            let registry = self.poll.registry();
            let wanted = self.proxy.producer().is_some_and(Source::is_wanted) && !self.waits_to_splice();
            self.stdin.set(registry, wanted.then_some(Interest::READABLE))?;
            // Without interest in writing, the news that the consumer has left still comes.
            let waiting = !self.stdout_ready() && self.proxy.buffered() > 0;
            self.stdout.set(registry, Some(if waiting { Interest::WRITABLE } else { Interest::PRIORITY }))?;
            let next = self.proxy.due().filter(|_| !waiting);
            let heard = self.control.as_ref().and_then(Server::due);
            if let Some(due) = next.into_iter().chain(heard).min() {
                self.timer.set(due.saturating_sub(clock::now()))?;
            }
            timeout = self.waits_to_splice().then(|| self.patience.left());
            cause = Some(self.cause(waiting));
        }
        self.tell_group_failure();
        let asleep = clock::now();
        self.observe(asleep);
        self.reporter.account.sleeps(asleep, cause);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        let awake = clock::now();
        self.reporter.account.wakes(awake);
        if timeout.is_some() && !busy {
            self.patience.spend(awake.saturating_sub(asleep));
        }
        let mut called = self.control.as_ref().and_then(Server::due).is_some_and(|due| due <= awake);
        for event in events.iter() {
            match event.token() {
                STDIN => self.proxy.producer_mut().into_iter().for_each(Source::set_ready),
                STDOUT => {
                    if let Some(sink) = self.proxy.consumer_mut() {
                        if event.is_error() || event.is_write_closed() {
                            let departure = sink.departure();
                            return self.consumer_failed(departure).map(Some);
                        }
                        if event.is_writable() {
                            sink.set_ready();
                        }
                    }
                }
                SIGNALS => {
                    if let Some(end) = self.signalled() {
                        return Ok(Some(end));
                    }
                }
                TIMETABLE => self.set_pace()?,
                TICK => self.tick(awake)?,
                CONTROL => called = true,
                // The timer only wakes: what is due shows in the next step.
                _ => {}
            }
        }
        if called && let Some(mut control) = self.control.take() {
            control.work(awake, self);
            self.control = Some(control);
        }
        Ok(None)
    }

    fn tick(&mut self, now: Duration) -> io::Result<()> {
        if self.interrupted.is_some() && !std::mem::replace(&mut self.told_to_drain, true) {
            let held = show_bytes(self.proxy.buffered() as u64);
            self.reporter.say(format!("interrupted: still delivering {held}; interrupt again to drop them"));
        }
        self.observe(now);
        self.reporter.tick(now);
        self.reporter.next_tick(now).map_or(Ok(()), |wait| self.tick.set(wait))
    }

    /// What the loop waits for when it has nothing to do; `waiting` if it is for the consumer.
    fn cause(&self, waiting: bool) -> Cause {
        if self.held_up {
            Cause::Paused
        } else if waiting || self.waits_to_splice() {
            Cause::Consumer
        } else if self.proxy.buffered() > 0 {
            Cause::Limit
        } else {
            Cause::Producer
        }
    }

    /// Brings what is told of the run up to date.
    fn observe(&mut self, now: Duration) {
        let (proxy, reporter) = (&self.proxy, &mut self.reporter);
        let delivered = proxy.consumer().map_or(0, Sink::delivered);
        let paused = proxy.producer().is_some() && proxy.producer_paused();
        reporter.account.holds(now, delivered, proxy.buffered(), paused);
        reporter.facts.limit = self.rate.into_iter().chain(proxy.shaper().parent().rate()).min();
        reporter.facts.paused = self.held_up;
    }

    /// Says once why nothing moves if the group cannot be used. Attempts go on: to wait for a limit
    /// is better than to break it, or to end a transfer.
    fn tell_group_failure(&mut self) {
        let failure = self.proxy.shaper().parent().failure();
        if let Some(failure) = failure.filter(|_| !self.group_failed) {
            self.reporter.say(format!("{failure}; waiting until that is mended"));
        }
        self.group_failed = failure.is_some();
    }

    /// Whether the next byte would have to be copied to memory, and the consumer may yet make
    /// room for it in the pipe.
    fn waits_to_splice(&self) -> bool {
        !self.stdout_ready() && self.proxy.buffer().would_copy() && !self.patience.left().is_zero()
    }

    /// Ends the input. What is held goes out, also where it was to wait.
    fn finish(&mut self) {
        self.held_up = false;
        self.proxy.finish();
    }

    /// Holds at most `size` bytes from now on, with the same share of them for the low watermark.
    fn resize(&mut self, size: u64) -> Result<(), String> {
        let high = buffer::check_size(size)?;
        let low = (high as f64 * self.low_share) as usize;
        let watermarks = Watermarks { high, low: low.min(high - 1), ..self.proxy.watermarks() };
        self.proxy.set_watermarks(watermarks, |fifo| fifo.set_capacity(high));
        self.reporter.account.resize(high);
        Ok(())
    }

    fn stdout_ready(&self) -> bool {
        self.proxy.consumer().is_some_and(Sink::is_ready)
    }

    /// The consumer takes no more bytes: it has left, or cannot write.
    fn consumer_failed(&mut self, error: StreamError) -> Result<End, Error> {
        self.proxy.stop_producing();
        match (Errno::from_io_error(&error.cause), self.interrupted) {
            (Some(Errno::PIPE), Some(signal)) => Ok(End::Interrupted(signal)),
            (Some(Errno::PIPE), None) => Ok(End::ConsumerLeft),
            _ => Err(error.into()),
        }
    }

    /// The first signal ends the input, so that what is buffered is still delivered; the
    /// second ends the run.
    fn signalled(&mut self) -> Option<End> {
        for signal in self.signals.pending() {
            if signal == SIGUSR1 {
                let now = clock::now();
                self.observe(now);
                self.reporter.summarize(now);
                continue;
            }
            if self.interrupted.replace(signal).is_some() {
                return Some(End::Abandoned(signal));
            }
            self.finish();
            let _ = self.set_pace();
            // By then most are done, or have lost their consumer to the same Ctrl-C.
            let _ = self.tick.set(DRAINS_IN_SILENCE);
        }
        None
    }
}

/// What can be asked for from outside.
impl Host for EventLoop {
    fn obey(&mut self, request: &Request) -> Result<(), String> {
        match request {
            Request::Stats {} => {}
            Request::Rate { rate: Some(0) } => return Err("the least rate is 1 byte a second".to_owned()),
            Request::Rate { rate } => self.pace = rate.map_or(Pace::Free, Pace::Constant),
            Request::Pause {} => self.held_up = true,
            Request::Resume {} => self.held_up = false,
            Request::Buffer { size } => self.resize(*size)?,
            Request::Stop {} => {
                self.stopped = true;
                self.finish();
            }
        }
        self.set_pace().map_err(|error| error.to_string())
    }

    fn status(&mut self, interval: &mut Interval) -> Status {
        let now = clock::now();
        self.observe(now);
        self.reporter.status(now, interval)
    }
}
