//! The next step of a flow: the policy that the program's loop and every simulation run.
//!
//! A step is the decision between three actions: feed the consumer, take bytes from the producer,
//! or rest. Readiness and time come in, and [`Needs`] say what to wait for.

use std::time::Duration;

use super::{Consumer, Producer, ProducerConsumerProxy, StartMark, Watermarks};
use crate::buffer::{Buffer, Patience};
use crate::shaping::{Shaper, TokenBucket, Unit};
use crate::stats::Cause;

/// Bytes moved straight from producer to consumer in one step, at most: small enough for signals to be
/// heard. The two may choose smaller steps.
const LARGEST_PASS: usize = 1 << 20;

/// A longer gap than this is not taken for a delay of the machine: the process was stopped in a
/// way that no signal tells of, such as a frozen control group.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The result of an attempt to fill the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes went into the buffer; 0 if none were there.
    Moved(usize),
    /// No more will come.
    End,
}

/// A producer that says whether it has bytes, and gives them when it is asked.
pub trait Upstream<C, B>: Producer {
    /// Why no more bytes can be had.
    type Error;
    /// The proxy wants data.
    fn is_wanted(&self) -> bool;
    /// There may be data.
    fn is_ready(&self) -> bool;
    /// Puts at most `room` bytes, at least 1, into `buffer` without waiting.
    ///
    /// # Errors
    /// When no more can be had.
    fn fill(&mut self, buffer: &mut B, room: usize) -> Result<Fill, Self::Error>;
    /// Moves at most `limit` bytes straight to `consumer`, where that can be done, and returns how
    /// many. A result of 0 says nothing about either side.
    fn pass(&mut self, consumer: &mut C, limit: usize) -> usize;
}

/// A consumer that says whether it takes bytes.
pub trait Downstream<B>: Consumer<B> {
    /// It may take some of the `held` bytes in the buffer.
    fn is_ready(&self, held: usize) -> bool;
    /// The last byte is out, and no more will come.
    fn is_finished(&self) -> bool;
    /// Bytes that it has taken since the beginning.
    fn delivered(&self) -> u64;
}

/// The events that a flow waits for while it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The producer to have bytes.
    pub input: bool,
    /// The consumer to take bytes.
    pub output: bool,
    /// A time: tokens are due then, or unused ones are to be given back.
    pub due: Option<Duration>,
    /// At most so long for the consumer, before bytes are copied to memory.
    pub patience: Option<Duration>,
    /// Which of them holds back the bytes.
    pub cause: Cause,
}

/// One direction of bytes: a proxy with its policy.
#[derive(Debug)]
pub struct Flow<P, C, B, S>
where
    P: Upstream<C, B>,
    B: Buffer,
{
    proxy: ProducerConsumerProxy<P, C, B, S>,
    patience: Patience,
    start: StartMark,
    /// How fast bytes may be read.
    intake: TokenBucket,
    /// Why the input ended early.
    input_error: Option<P::Error>,
    /// When the tokens are due that it waits for; nothing while it waits for anything else.
    could_go_on: Option<Duration>,
    /// The time of its latest step, or since when it rests, if it does not wait for tokens.
    kept_waiting: Option<Duration>,
}

impl<P, C, B, S> Flow<P, C, B, S>
where
    P: Upstream<C, B>,
    C: Downstream<B>,
    B: Buffer,
    S: Shaper,
{
    /// A flow from `producer`, which pushes if `streaming`, to `consumer`.
    pub fn new(producer: P, streaming: bool, consumer: C, buffer: B, watermarks: Watermarks, shaper: S) -> Self {
        let mut proxy = ProducerConsumerProxy::shaped(consumer, buffer, watermarks, true, shaper);
        let registered = proxy.register_producer(producer, streaming);
        debug_assert!(registered.is_ok(), "the first producer");
        Flow {
            proxy,
            patience: Patience::default(),
            start: StartMark::at(0),
            intake: TokenBucket::empty(None),
            input_error: None,
            could_go_on: None,
            kept_waiting: None,
        }
    }

    /// The same, where nothing goes out before the start mark is reached.
    #[must_use]
    pub fn starting(mut self, start: StartMark) -> Self {
        self.start = start;
        self.hold_until_start();
        self
    }

    /// The same, with a limit that counts `unit`. For records, the buffer must know where they end.
    #[must_use]
    pub fn counting(mut self, unit: Unit) -> Self {
        self.proxy.count(unit);
        self
    }

    /// The same, where bytes are read no faster than `intake` grants.
    #[must_use]
    pub fn sparing(mut self, intake: TokenBucket) -> Self {
        self.intake = intake;
        self
    }

    /// Takes the step that can be taken at `now`. Returns false if there is none.
    ///
    /// Bytes in the buffer go first: each byte that is out makes room in the kernel's pipe.
    ///
    /// # Errors
    /// The consumer's, when it can take no byte any more.
    pub fn step(&mut self, now: Duration) -> Result<bool, C::Error> {
        let delay = self.delay(now);
        if !delay.is_zero() {
            self.proxy.shaper_mut().late(delay);
            self.intake.late(delay);
        }
        self.proxy.tend_buffer();
        self.proxy.drip(now);
        self.intake.drip(now);
        let mut stepped = true;
        if self.can_feed() && self.proxy.due().is_some_and(|due| due <= now) {
            self.proxy.resume_producing()?;
        } else if self.can_take_in() && self.intake_due().is_some_and(|due| due <= now) {
            if self.pass_through() == 0 {
                self.take_in()?;
            }
        } else {
            stepped = false;
        }
        self.hold_until_start();
        self.could_go_on = None;
        if stepped {
            // Up to the next step a neighbour may keep it waiting, a disk, or the machine.
            self.kept_waiting = Some(now);
        }
        Ok(stepped)
    }

    /// While the start mark holds bytes back, the proxy is paused as by its consumer.
    fn hold_until_start(&mut self) {
        if !self.start.admits(self.proxy.buffered()) {
            self.proxy.pause_producing();
        }
    }

    /// How long a neighbour, a disk or the machine has kept the flow waiting by `now`: the time since
    /// its latest step, or since it was last [excused](Self::excuse).
    pub fn kept_waiting(&self, now: Duration) -> Duration {
        let waited = self.kept_waiting.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if waited > LONGEST_DELAY { Duration::ZERO } else { waited }
    }

    /// A neighbour kept the flow waiting up to `now`, and for `delay` of that time the machine was
    /// to blame: the neighbour did not get a processor either.
    pub fn excuse(&mut self, delay: Duration, now: Duration) {
        self.proxy.shaper_mut().late(delay);
        self.intake.late(delay);
        self.kept_waiting = self.kept_waiting.map(|_| now);
    }

    /// The delay that the machine has imposed on the next step by `now`: the time since the tokens
    /// were due that the flow waited for.
    pub fn delay(&self, now: Duration) -> Duration {
        let delay = self.could_go_on.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if delay > LONGEST_DELAY { Duration::ZERO } else { delay }
    }

    /// The events to wait for from `now` on, once there is no further step to take.
    pub fn needs(&mut self, now: Duration) -> Needs {
        self.patience.earn(self.delivered());
        let holds_off = self.holds_off();
        let feeds = self.proxy.offers() && self.start.is_open();
        let output = !self.consumer_is_ready() && feeds;
        let buffer = self.proxy.buffer();
        let (has_room, waits_for_disk) = (buffer.has_room(), buffer.available() == 0 && !buffer.is_empty());
        // A producer that has bytes for the taking need not be waited for, only the read rate.
        let spares = self.can_take_in();
        let due = if feeds && !output { self.proxy.due() } else { None };
        let intake_due = if spares { self.intake_due() } else { None };
        // A wait for tokens ends at a known time, so it shows exactly how late the next step comes.
        self.could_go_on = due.into_iter().chain(intake_due).min().map(|due| due.max(now));
        self.kept_waiting = match self.could_go_on {
            Some(_) => None,
            None => Some(self.kept_waiting.unwrap_or(now)),
        };
        // While the flow waits for tokens, it keeps those that it has.
        let rest = if due.is_none() { self.proxy.shaper_mut().rest() } else { None };
        Needs {
            input: self.proxy.producer().is_some_and(P::is_wanted) && has_room && !holds_off && !spares,
            output,
            due: due.into_iter().chain(rest).chain(intake_due).min(),
            patience: holds_off.then(|| self.patience.left()),
            cause: if output || holds_off {
                Cause::Consumer
            } else if feeds || spares {
                Cause::Limit
            } else if waits_for_disk {
                Cause::Machine
            } else if !has_room {
                Cause::Consumer
            } else {
                Cause::Producer
            },
        }
    }

    /// The flow rested for so long, with patience for its consumer.
    pub fn waited(&mut self, time: Duration) {
        self.patience.spend(time);
    }

    /// The process was stopped, and goes on: that was no delay of the machine.
    pub fn continued(&mut self) {
        self.kept_waiting = None;
        self.could_go_on = None;
    }

    /// No more is read. Bytes in the buffer still go out.
    pub fn finish(&mut self) {
        self.start.end();
        self.proxy.finish();
    }

    /// Where the consumer is held back until enough is held.
    pub fn start_mark(&mut self) -> &mut StartMark {
        &mut self.start
    }

    /// Bytes that were read since the beginning.
    pub fn read(&self) -> u64 {
        self.delivered() + self.proxy.buffered() as u64
    }

    /// All that was read has been delivered, and no more will come.
    pub fn is_finished(&self) -> bool {
        self.proxy.consumer().is_none_or(C::is_finished)
    }

    /// Why the input ended early, if it did. The answer is given once.
    pub fn take_input_error(&mut self) -> Option<P::Error> {
        self.input_error.take()
    }

    /// Bytes that the consumer has taken since the beginning.
    pub fn delivered(&self) -> u64 {
        self.proxy.consumer().map_or(0, C::delivered)
    }

    /// Takes the consumer out: the flow is over.
    pub fn take_consumer(&mut self) -> Option<C> {
        self.proxy.take_consumer()
    }

    /// The state machine.
    pub fn proxy(&self) -> &ProducerConsumerProxy<P, C, B, S> {
        &self.proxy
    }

    /// The state machine, to change its limit or its watermarks, or to tell a side of readiness.
    pub fn proxy_mut(&mut self) -> &mut ProducerConsumerProxy<P, C, B, S> {
        &mut self.proxy
    }

    /// Moves bytes past the buffer, as far as both limits allow it. Returns how many.
    fn pass_through(&mut self) -> usize {
        let most = self.intake.in_hand().min(LARGEST_PASS as u64);
        let moved = self.proxy.pass_through(most as usize, P::pass);
        // They are in hand.
        let _ = self.intake.take(moved as u64, moved as u64);
        moved
    }

    fn take_in(&mut self) -> Result<(), C::Error> {
        let Ok(granted) = self.intake.grant(self.room()) else { return Ok(()) };
        let most = usize::try_from(granted).unwrap_or(usize::MAX);
        let filled = self.proxy.write_with(|producer, buffer, room| producer.fill(buffer, room.min(most)))?;
        let moved = if let Some(Ok(Fill::Moved(moved))) = filled { moved as u64 } else { 0 };
        self.intake.refund(granted.saturating_sub(moved));
        match filled {
            Some(Ok(Fill::End)) => self.finish(),
            Some(Err(error)) => {
                self.input_error = Some(error);
                self.finish();
            }
            Some(Ok(Fill::Moved(_))) | None => {}
        }
        Ok(())
    }

    /// Room in the buffer, in bytes: what the read rate is asked for.
    fn room(&self) -> u64 {
        self.proxy.watermarks().high().saturating_sub(self.proxy.buffered()).max(1) as u64
    }

    /// When the read rate lets the next bytes in; the past if it does so already.
    fn intake_due(&self) -> Option<Duration> {
        self.intake.due(self.room())
    }

    /// Bytes are held, they have started to go out, and the consumer takes them.
    fn can_feed(&self) -> bool {
        self.consumer_is_ready() && self.proxy.offers() && self.start.is_open()
    }

    fn consumer_is_ready(&self) -> bool {
        self.proxy.consumer().is_some_and(|consumer| consumer.is_ready(self.proxy.buffer().available()))
    }

    fn can_take_in(&self) -> bool {
        let ready = self.proxy.producer().is_some_and(|producer| producer.is_wanted() && producer.is_ready());
        ready && self.proxy.buffer().has_room() && !self.holds_off()
    }

    /// Whether the next byte would have to be copied to memory, and the consumer may yet make
    /// room for it in the kernel's pipe.
    fn holds_off(&self) -> bool {
        let waits = !self.consumer_is_ready() && self.start.is_open();
        waits && self.proxy.buffer().would_copy() && !self.patience.left().is_zero()
    }
}
