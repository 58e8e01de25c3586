//! The only room that knows mio: readiness, interests, deadlines, signals.
//!
//! The loop holds no rule of its own. It tells the proxy that a side is ready, asks it what
//! it is interested in, and sleeps in between.

mod outcome;
mod signals;
mod timer;
mod watch;

pub use outcome::{End, Error, Outcome};

use std::io;
use std::time::Duration;

use jiff::Zoned;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::time::TimerfdClockId;
use signal_hook_mio::v1_0::Signals;

use crate::buffer::{Fifo, Patience};
use crate::clock;
use crate::config::{Config, Pace};
use crate::group::{self, GroupFile};
use crate::proxy::{ProducerConsumerProxy, Watermarks};
use crate::report;
use crate::shaping::{Burst, Group, Limit, TokenBucket};
use crate::stream::{self, Descriptor, Fill, Side, Sink, Source, StreamError};
use signals::heeded_signals;
use timer::Timer;
use watch::Watch;

const STDIN: Token = Token(0);
const STDOUT: Token = Token(1);
const SIGNALS: Token = Token(2);
const TIMER: Token = Token(3);
const TIMETABLE: Token = Token(4);

/// How many steps are taken before the loop looks up: signals must be heard even when both
/// sides are always ready.
const STEPS_A_LOOK: u32 = 64;

/// Bytes moved straight from stdin to stdout in one step.
const STRETCH: usize = 256 * 1024;

/// Moves stdin to stdout as `config` says, until one of the two ends or a signal does.
pub fn run(config: &Config) -> Outcome {
    match EventLoop::new(config) {
        Ok(mut event_loop) => {
            let end = event_loop.run();
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
    pace: Pace,
    burst: Option<Burst>,
    stdin: Watch,
    stdout: Watch,
    proxy: ProducerConsumerProxy<Source, Sink, Fifo, TokenBucket<Group<GroupFile>>>,
    patience: Patience,
    /// The signal that ended the input.
    interrupted: Option<i32>,
    /// The user has been told that the group cannot be used.
    troubled: bool,
    /// The error that ended the input: told once what was read before it is delivered.
    failed: Option<StreamError>,
}

impl EventLoop {
    fn new(config: &Config) -> Result<Self, Error> {
        let open = |side| Descriptor::new(side).map_err(|error| StreamError { side, cause: error.into() });
        let (mut input, mut output) = (open(Side::Stdin)?, open(Side::Stdout)?);
        if stream::feeds_itself(&input, &output) {
            return Err(Error::FeedsItself);
        }
        if let Some(size) = config.pipe_size {
            stream::grow_pipes([&input, &output], size);
        }

        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut signals = Signals::new(heeded_signals())?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE)?;
        let stdin = Watch::new(registry, &mut input, STDIN, Interest::READABLE)?;
        let stdout = Watch::new(registry, &mut output, STDOUT, Interest::WRITABLE)?;

        let splices = Source::splices(&input) && Sink::splices(&output);
        let watermarks = Watermarks { high: config.buffer, low: config.low_water, prefetch: true };
        let group = config.group.as_ref().map(group::join).transpose()?;
        let bucket = TokenBucket::empty(None).below(group.unwrap_or_default());
        let timer = Timer::new(registry, TIMER, TimerfdClockId::Monotonic)?;
        let timetable = Timer::new(registry, TIMETABLE, TimerfdClockId::Realtime)?;
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
            pace: config.pace.clone(),
            burst: config.burst,
            stdin,
            stdout,
            proxy,
            patience: Patience::default(),
            interrupted: None,
            troubled: false,
            failed: None,
        };
        event_loop.set_pace()?;
        Ok(event_loop)
    }

    /// Puts the limit in force that the pace asks for now.
    fn set_pace(&mut self) -> io::Result<()> {
        let rate = match &self.pace {
            Pace::Free => None,
            Pace::Constant(rate) => Some(*rate),
            Pace::Timetable(schedule) => {
                let now = schedule.at(&Zoned::now());
                self.timetable.set_at(now.until)?;
                now.rate
            }
        };
        self.proxy.drip(clock::now());
        self.proxy.shaper_mut().set_limit(rate.map(|rate| Limit::paced(rate, self.burst)));
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
        if !busy {
            let delivered = self.proxy.consumer().map_or(0, Sink::delivered);
            self.patience.earn(delivered);
            let registry = self.poll.registry();
            let wanted = self.proxy.producer().is_some_and(Source::is_wanted) && !self.waits_to_splice();
            self.stdin.set(registry, wanted.then_some(Interest::READABLE))?;
            // Without interest in writing, the news that the consumer has left still comes.
            let waiting = !self.stdout_ready() && self.proxy.buffered() > 0;
            self.stdout.set(registry, Some(if waiting { Interest::WRITABLE } else { Interest::PRIORITY }))?;
            if let Some(due) = self.proxy.due().filter(|_| !waiting) {
                self.timer.set(due.saturating_sub(clock::now()))?;
            }
            timeout = self.waits_to_splice().then(|| self.patience.left());
        }
        self.tell_trouble();
        let asleep = clock::now();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        if timeout.is_some() && !busy {
            self.patience.spend(clock::now().saturating_sub(asleep));
        }
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
                // The timer only wakes: what is due shows in the next step.
                _ => {}
            }
        }
        Ok(None)
    }

    /// Says once why nothing moves, should the group be out of order: it is tried again all the
    /// time, since to wait for a limit is better than to break it, or to end a transfer.
    fn tell_trouble(&mut self) {
        let trouble = self.proxy.shaper().parent().trouble();
        if let Some(trouble) = trouble.filter(|_| !self.troubled) {
            report::say(format!("{trouble}; waiting until that is mended"));
        }
        self.troubled = trouble.is_some();
    }

    /// Whether the next byte would have to be copied to memory, and the consumer may yet make
    /// room for it in the pipe.
    fn waits_to_splice(&self) -> bool {
        !self.stdout_ready() && self.proxy.buffer().would_copy() && !self.patience.left().is_zero()
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
            if self.interrupted.replace(signal).is_some() {
                return Some(End::Abandoned(signal));
            }
            self.proxy.finish();
        }
        None
    }
}
