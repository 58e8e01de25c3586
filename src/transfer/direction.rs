//! A flow between two endpoints, in a poller.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use jiff::{Timestamp, Zoned};

use crate::budget::{GroupFile, Membership};
use crate::buffer::{self, Fifo};
use crate::endpoint::{Checksum, Endpoint, EndpointError, Outputs, Source};
use crate::flow::{Flow, Needs, Side, StartMark, Watermarks};
use crate::os::{RunDelay, clock};
use crate::poller::{Poller, Ready};
use crate::shaping::{Limit, Pace, Rate, TOKENS_PER_RECORD, TokenBucket, Unit};
use crate::stats::{Cause, RecordKind};

use super::Config;
use super::ends::Notice;
use super::inputs::Inputs;
use super::outputs::Outlets;
use super::spilling::Spilling;

/// How many steps are taken before the poller is asked: signals must be heard even when both
/// sides are always ready.
const STEPS_PER_TURN: u32 = 64;

/// A shorter delay than this may be anything. A longer one is worth asking whether the process
/// was stopped, and worth a word in the account.
const NOTABLE_DELAY: Duration = Duration::from_millis(1);

/// How long bytes that do not fill a segment of a connection may wait for those that follow: longer
/// than a producer takes to fill its pipe again, and too short to be noticed.
const LULL: Duration = Duration::from_millis(1);

/// The part of a run in a group: all its directions draw on it.
pub(super) type Share = Rc<RefCell<Membership<GroupFile>>>;

/// Bytes in one direction: a flow, what the poller knows of its ends, and how fast it may go.
#[derive(Debug)]
pub(super) struct Direction {
    name: Option<&'static str>,
    flow: Flow<Source, Outputs, Fifo, TokenBucket<Share>>,
    inputs: Inputs,
    outlets: Outlets,
    /// News for the user.
    notices: VecDeque<Notice>,
    pace: Pace,
    /// The limit in force, in tokens per second, without a pause.
    rate: Option<u64>,
    /// The unit in which it counts.
    unit: Unit,
    /// Bytes per second that are read at most.
    read_rate: Option<u64>,
    /// The share of the buffer that is its low watermark, and the share that is its start mark.
    low_share: f64,
    start_share: f64,
    /// The process was stopped.
    was_stopped: bool,
    run_delay: RunDelay,
    /// How much of the waits for neighbours may still be blamed on the machine.
    excuses: Duration,
    /// The checksum of what was delivered, once it is over.
    checksum: Option<Checksum>,
    /// Bytes that were delivered, once it is over.
    delivered: Option<u64>,
    /// A client or a signal has ended the input.
    told_to_end: bool,
    /// When the system is to send what it holds back of bulk data; none while bytes flow.
    flush_at: Option<Duration>,
    /// Where bytes go that do not fit in memory.
    spilling: Option<Spilling>,
}

impl Direction {
    /// A direction from `inputs`, one after the other, to all of `outputs`, at `rate`, that draws on
    /// `group`.
    pub(super) fn new(
        config: &Config,
        rate: Rate,
        mut inputs: Inputs,
        mut outputs: Vec<Endpoint>,
        group: Share,
        checksum: Option<Checksum>,
        poller: &mut Poller,
    ) -> Self {
        let outlets = Outlets::new(&mut outputs, config.pipe_size, poller);
        let (unit, end) = (config.unit(), config.records.map(RecordKind::end));
        let pace = Pace::new(rate, config.burst, config.catch_up, group.borrow().is_shared()).counting(unit);
        let streaming = inputs.open_first(poller);
        let flow = Flow::new(
            Source::new(streaming, config.stop_after, unit),
            streaming,
            Outputs::new(outputs, end, checksum),
            end.into_iter().fold(Fifo::new(config.buffer, true), Fifo::of_records),
            Watermarks::new(config.buffer, config.low_water),
            TokenBucket::empty(None).below(group),
        );
        let intake = config.read_rate.map(|rate| Limit::paced(rate, None).with_catch_up(config.catch_up));
        let flow = flow.counting(unit);
        let flow = flow.starting(StartMark::at(config.start_at)).sparing(TokenBucket::empty(intake));
        let mut direction = Direction {
            name: None,
            flow,
            inputs,
            outlets,
            notices: VecDeque::new(),
            pace,
            rate: None,
            unit,
            read_rate: config.read_rate,
            low_share: config.low_share,
            start_share: config.start_at as f64 / config.buffer as f64,
            was_stopped: false,
            run_delay: RunDelay::default(),
            excuses: Duration::ZERO,
            checksum: None,
            delivered: None,
            told_to_end: false,
            flush_at: None,
            spilling: None,
        };
        direction.inputs.go_on(&mut direction.flow, poller, &mut direction.notices);
        direction
    }

    /// Holds at most `memory` bytes in memory, and the others on a disk. Nothing has been read yet.
    pub(super) fn spill(&mut self, spilling: Spilling, memory: usize) {
        self.flow.proxy_mut().buffer_mut().spill_beyond(memory);
        self.spilling = Some(spilling);
    }

    /// Bytes that are on a disk, if there may be some.
    pub(super) fn spilled(&self) -> Option<u64> {
        let held = if self.is_over() { None } else { self.flow.proxy().buffer().spill() };
        self.spilling.as_ref().map(|_| held.map_or(0, |spill| spill.on_disk() as u64))
    }

    /// An output is fed no longer, and `arrived` bytes have arrived there.
    pub(super) fn left_out(&mut self, error: EndpointError, arrived: u64) {
        self.outlets.leave_out(&error, arrived);
        self.notices.push_back(Notice::Failed(error));
    }

    /// How many bytes did not arrive at each output that was left out, in words.
    pub(super) fn missing_elsewhere(&self) -> impl Iterator<Item = String> {
        self.outlets.missing(self.flow.read())
    }

    /// Takes in nothing more.
    fn end_input(&mut self, poller: &mut Poller) {
        self.inputs.forget(poller);
        self.flow.finish();
    }

    /// The next thing that the user is to be told.
    pub(super) fn take_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// How many bytes of the input that is being read are left, if that is known.
    pub(super) fn left_to_read(&self) -> Option<u64> {
        self.flow.proxy().producer()?.endpoint()?.left_to_read()
    }

    /// Bytes that were read, and have not arrived.
    pub(super) fn undelivered(&self) -> u64 {
        self.flow.proxy().buffered() as u64 + self.unacknowledged()
    }

    /// Bytes that were written, and that the peer of a connection has not acknowledged.
    pub(super) fn unacknowledged(&self) -> u64 {
        self.flow.proxy().consumer().map_or(0, Outputs::unacknowledged)
    }

    /// Gives it a name, for records: a run of several flows tells them apart.
    pub(super) fn named(self, name: &'static str) -> Self {
        Direction { name: Some(name), ..self }
    }

    /// Its name, where there are several.
    pub(super) fn name(&self) -> Option<&'static str> {
        self.name
    }

    /// Bytes that were delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.unwrap_or_else(|| self.flow.delivered())
    }

    /// Both ends are closed.
    pub(super) fn is_over(&self) -> bool {
        self.delivered.is_some()
    }

    /// The flow itself.
    pub(super) fn flow(&self) -> &Flow<Source, Outputs, Fifo, TokenBucket<Share>> {
        &self.flow
    }

    /// Why the input ended early, if it did. The answer is given once.
    pub(super) fn take_input_error(&mut self) -> Option<EndpointError> {
        self.flow.take_input_error()
    }

    /// How fast it is to go; [`apply_pace`](Self::apply_pace) puts a change in force.
    pub(super) fn pace_mut(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// Whether it was told to pause.
    pub(super) fn is_paused(&self) -> bool {
        self.pace.paused
    }

    /// Whether a client or a signal has ended the input.
    pub(super) fn is_told_to_end(&self) -> bool {
        self.told_to_end
    }

    /// The lowest limit in bytes per second: its own, that of its groups, or that of its input.
    pub(super) fn limit(&self) -> Option<u64> {
        let output = self.rate.into_iter().chain(self.group().rate()).filter(|_| self.unit == Unit::Bytes);
        output.chain(self.read_rate).min()
    }

    /// The lowest limit in records per second, where these are counted.
    pub(super) fn record_limit(&self) -> Option<f64> {
        let tokens = self.rate.into_iter().chain(self.group().rate()).filter(|_| self.unit == Unit::Records).min();
        tokens.map(|tokens| tokens as f64 / TOKENS_PER_RECORD as f64)
    }

    /// The unit of its limit.
    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    /// The group that it draws on.
    pub(super) fn group(&self) -> Ref<'_, Membership<GroupFile>> {
        self.flow.proxy().shaper().parent().borrow()
    }

    /// Puts the limit in force that the pace asks for now. Returns when it changes by itself.
    pub(super) fn apply_pace(&mut self) -> Option<Timestamp> {
        let now = clock::now();
        let in_force = self.pace.at(Zoned::now);
        self.rate = in_force.rate;
        self.flow.proxy_mut().drip(now);
        let bucket = self.flow.proxy_mut().shaper_mut();
        if self.pace.paused {
            // Without a limit a bucket holds nothing: a pause keeps no tokens.
            bucket.set_limit(None);
        }
        bucket.set_limit(in_force.limit);
        in_force.until
    }

    /// Takes the steps that can be taken now, and tells `late` at what time the machine had imposed
    /// how much delay. Returns whether more steps can be taken at once.
    ///
    /// # Errors
    /// When the consumer takes no more bytes.
    pub(super) fn work(
        &mut self,
        poller: &mut Poller,
        mut late: impl FnMut(Duration, Duration),
    ) -> Result<bool, EndpointError> {
        for _ in 0..STEPS_PER_TURN {
            self.inputs.look(&mut self.flow, poller, &mut self.notices);
            self.outlets.look(&mut self.flow, poller, &mut self.notices);
            self.attend_to_disk()?;
            let now = clock::now();
            if self.flow.delay(now).max(self.flow.kept_waiting(now)) >= NOTABLE_DELAY {
                if poller.signals().was_continued() {
                    self.continued();
                }
                self.blame_the_machine(now, &mut late);
            }
            if !self.flow.step(now)? {
                // The step may have found something for the disk to do.
                return self.attend_to_disk().map(|()| false);
            }
            self.flush_at = None;
        }
        Ok(true)
    }

    /// Has the disk and the buffer hear of each other.
    fn attend_to_disk(&mut self) -> Result<(), EndpointError> {
        if let Some(spilling) = &mut self.spilling {
            self.notices.extend(spilling.attend(self.flow.proxy_mut().buffer_mut())?);
        }
        Ok(())
    }

    /// Takes account of what the machine is to blame for by `now`: a delay of our own, and a wait for
    /// a neighbour as far as we had to wait for a processor ourselves. The neighbours stand in the
    /// same queue, so their delay is estimated by ours.
    fn blame_the_machine(&mut self, now: Duration, late: &mut impl FnMut(Duration, Duration)) {
        let delay = self.flow.delay(now);
        if delay >= NOTABLE_DELAY {
            late(now, delay);
        }
        let waited = self.flow.kept_waiting(now);
        if waited >= NOTABLE_DELAY && self.limit().is_some() {
            self.excuses = self.pace.catch_up().min(self.excuses + self.run_delay.take());
            let excused = waited.min(self.excuses);
            self.excuses -= excused;
            self.flow.excuse(excused, now);
            if excused >= NOTABLE_DELAY {
                late(now, excused);
            }
        }
    }

    /// Has the poller wait for all that the flow needs from `now` on.
    pub(super) fn rest(&mut self, poller: &mut Poller, now: Duration) -> Needs {
        let mut needs = self.flow.needs(now);
        let ask_again = self.spilling.as_mut().and_then(|disk| disk.ask_again(self.flow.proxy().buffer(), now));
        needs.due = needs.due.into_iter().chain(ask_again).min();
        self.inputs.rest(needs.input, poller);
        self.outlets.rest(needs.output, self.flow.proxy().consumer(), poller);
        self.flush(&needs, now);
        needs
    }

    /// Has the system send what it holds back, unless more bytes may come soon.
    fn flush(&mut self, needs: &Needs, now: Duration) {
        let Some(outputs) = self.flow.proxy_mut().consumer_mut().filter(|outputs| outputs.hold_back()) else {
            self.flush_at = None;
            return;
        };
        let soon = if needs.cause == Cause::Producer { now.saturating_add(LULL) } else { now };
        if *self.flush_at.get_or_insert(soon) <= now {
            outputs.flush();
            self.flush_at = None;
        }
    }

    /// When [`rest`](Self::rest) is to be called again, so that the system sends what it holds back.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.flush_at
    }

    /// The process was stopped, and goes on.
    pub(super) fn continued(&mut self) {
        self.flow.continued();
        self.was_stopped = true;
    }

    /// Whether the process was stopped since the last call, as far as this direction has found out.
    pub(super) fn take_stopped(&mut self) -> bool {
        std::mem::take(&mut self.was_stopped)
    }

    /// The events that it waits for from `now` on.
    pub(super) fn needs(&mut self, now: Duration) -> Needs {
        self.flow.needs(now)
    }

    /// The name of one of its sides in messages.
    pub(super) fn label(&self, side: Side) -> &str {
        let proxy = self.flow.proxy();
        let endpoint = match side {
            Side::Producer => proxy.producer().and_then(Source::endpoint),
            Side::Consumer => proxy.consumer().and_then(Outputs::slowest),
        };
        endpoint.map_or("the input", Endpoint::label)
    }

    /// The flow rested for so long, with patience for its consumer.
    pub(super) fn waited(&mut self, time: Duration) {
        self.flow.waited(time);
    }

    /// Takes note of what happened to one of its ends.
    ///
    /// # Errors
    /// When the consumer has left.
    pub(super) fn notice(&mut self, ready: Ready) -> Result<(), EndpointError> {
        let proxy = self.flow.proxy_mut();
        if self.inputs.has(ready.key) {
            proxy.producer_mut().into_iter().for_each(Source::set_ready);
        }
        self.outlets.notice(ready, proxy.consumer_mut())
    }

    /// Ends the input. Bytes that are held go out, also where they were to wait.
    pub(super) fn finish(&mut self, poller: &mut Poller) {
        self.told_to_end = true;
        self.pace.paused = false;
        self.end_input(poller);
        // An alarm for the timetable may stay: it changes nothing that is not right.
        let _ = self.apply_pace();
    }

    /// Nothing moves any more: both ends are closed, and the bytes that are held are lost.
    pub(super) fn abandon(&mut self, poller: &mut Poller) {
        self.outlets.forget(poller);
        self.end_input(poller);
        self.delivered = Some(self.flow.delivered());
        self.keep_checksum();
        let _ = self.flow.take_consumer();
    }

    /// The buffered bytes go out, whether the start mark is reached or not.
    pub(super) fn start(&mut self) {
        self.flow.start_mark().start();
    }

    /// Takes the checksum of the delivered bytes out, if there is one.
    pub(super) fn take_checksum(&mut self) -> Option<Checksum> {
        self.keep_checksum();
        self.checksum.take()
    }

    /// The checksum stays when the consumer goes.
    fn keep_checksum(&mut self) {
        let checksum = self.flow.proxy_mut().consumer_mut().and_then(Outputs::take_checksum);
        self.checksum = checksum.or(self.checksum.take());
    }

    /// Closes the outputs, once the system has kept what was written to them if it is to `sync`.
    /// Returns the errors of those of which the system could not keep what was written.
    pub(super) fn close(&mut self, sync: bool, poller: &mut Poller) -> Vec<EndpointError> {
        self.outlets.forget(poller);
        self.delivered.get_or_insert(self.flow.delivered());
        self.keep_checksum();
        let outputs = self.flow.take_consumer().map_or(Vec::new(), Outputs::into_endpoints);
        let close = |output: Endpoint| {
            let synced = if sync { output.sync() } else { Ok(()) };
            synced.and(output.close())
        };
        outputs.into_iter().filter_map(|output| close(output).err()).collect()
    }

    /// Holds at most `size` bytes from now on, with the same share of them for the low watermark.
    /// Returns the size.
    ///
    /// # Errors
    /// Why a buffer cannot have this size.
    pub(super) fn resize(&mut self, size: u64) -> Result<usize, String> {
        let high = match self.spilling {
            None => buffer::check_size(size)?,
            Some(_) => buffer::check_spilled_size(size)?,
        };
        let watermarks = Watermarks::new(high, (high as f64 * self.low_share) as usize);
        self.flow.proxy_mut().set_watermarks(watermarks, |fifo| fifo.set_capacity(high));
        self.flow.start_mark().set((high as f64 * self.start_share) as usize);
        Ok(high)
    }
}
