//! A flow between two endpoints, in a poller.

use std::time::Duration;

use jiff::Zoned;

use crate::budget::{GroupFile, Membership};
use crate::buffer::{self, Fifo};
use crate::endpoint::{Endpoint, EndpointError, Sink, Source, Splicing};
use crate::flow::{Flow, Needs, Watermarks};
use crate::os::{RunDelay, clock};
use crate::poller::{Interest, Key, Poller, Ready};
use crate::shaping::{Pace, TokenBucket};

use super::Config;

/// How many steps are taken before the poller is asked: signals must be heard even when both
/// sides are always ready.
const STEPS_PER_TURN: u32 = 64;

/// A shorter delay than this may be anything. A longer one is worth asking whether the process
/// was stopped, and worth a word in the account.
const NOTABLE_DELAY: Duration = Duration::from_millis(1);

/// Bytes in one direction: a flow, what the poller knows of its ends, and how fast it may go.
#[derive(Debug)]
pub(super) struct Direction {
    flow: Flow<Source, Sink, Fifo, TokenBucket<Membership<GroupFile>>>,
    /// Of the two ends in the poller; none of an end that is always ready.
    input: Option<Key>,
    output: Option<Key>,
    pace: Pace,
    /// The limit in force, in bytes per second, without a pause.
    rate: Option<u64>,
    /// The share of the buffer that is its low watermark.
    low_share: f64,
    run_delay: RunDelay,
    /// How much of the waits for neighbours may still be blamed on the machine.
    excuses: Duration,
}

impl Direction {
    /// A direction from `input` to `output` that draws on `group`.
    pub(super) fn new(
        config: &Config,
        mut input: Endpoint,
        mut output: Endpoint,
        group: Membership<GroupFile>,
        poller: &mut Poller,
    ) -> Self {
        let keys = [(&mut input, Interest::Read), (&mut output, Interest::Departure)].map(|(end, interest)| {
            let key = poller.add(&*end, interest);
            if key.is_none() {
                end.set_always_ready();
            }
            key
        });
        let splicing = Splicing::between(&input, &output);
        let pace = Pace::new(config.rate.clone(), config.burst, config.catch_up, group.is_shared());
        // A producer that cannot be waited for is asked for each piece.
        let streaming = keys[0].is_some();
        let flow = Flow::new(
            Source::new(input, streaming, splicing, config.stop_after),
            streaming,
            Sink::new(output),
            Fifo::new(config.buffer, splicing.by_pipe),
            Watermarks::new(config.buffer, config.low_water),
            TokenBucket::empty(None).below(group),
        );
        let [input, output] = keys;
        Direction {
            flow,
            input,
            output,
            pace,
            rate: None,
            low_share: config.low_share,
            run_delay: RunDelay::default(),
            excuses: Duration::ZERO,
        }
    }

    /// The flow itself.
    pub(super) fn flow(&self) -> &Flow<Source, Sink, Fifo, TokenBucket<Membership<GroupFile>>> {
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

    /// The lowest limit in bytes per second: its own, or that of its groups.
    pub(super) fn limit(&self) -> Option<u64> {
        self.rate.into_iter().chain(self.group().rate()).min()
    }

    /// The group that it draws on.
    pub(super) fn group(&self) -> &Membership<GroupFile> {
        self.flow.proxy().shaper().parent()
    }

    /// Puts the limit in force that the pace asks for now, and has the poller tell when it changes.
    pub(super) fn apply_pace(&mut self, poller: &mut Poller) {
        let now = clock::now();
        let in_force = self.pace.at(Zoned::now);
        self.rate = in_force.rate;
        poller.set_alarm(in_force.until, now);
        self.flow.proxy_mut().drip(now);
        let bucket = self.flow.proxy_mut().shaper_mut();
        if self.pace.paused {
            // Without a limit a bucket holds nothing: a pause keeps no tokens.
            bucket.set_limit(None);
        }
        bucket.set_limit(in_force.limit);
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
            let now = clock::now();
            if self.flow.delay(now).max(self.flow.kept_waiting(now)) >= NOTABLE_DELAY {
                if poller.signals().was_continued() {
                    self.flow.continued();
                }
                self.blame_the_machine(now, &mut late);
            }
            if !self.flow.step(now)? {
                return Ok(false);
            }
        }
        Ok(true)
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
        let needs = self.flow.needs(now);
        if let Some(key) = self.input {
            poller.set_interest(key, if needs.input { Interest::Read } else { Interest::Nothing });
        }
        if let Some(key) = self.output {
            // Without interest in writing, the news that the consumer has left still comes.
            poller.set_interest(key, if needs.output { Interest::Write } else { Interest::Departure });
        }
        needs
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
        if self.input == Some(ready.key) {
            proxy.producer_mut().into_iter().for_each(Source::set_ready);
        }
        if self.output == Some(ready.key)
            && let Some(sink) = proxy.consumer_mut()
        {
            if ready.gone {
                return Err(sink.departure());
            }
            if ready.writable {
                sink.set_ready();
            }
        }
        Ok(())
    }

    /// Ends the input. Bytes that are held go out, also where they were to wait.
    pub(super) fn finish(&mut self, poller: &mut Poller) {
        self.pace.paused = false;
        self.flow.finish();
        self.apply_pace(poller);
    }

    /// Closes the output, if it is still there.
    ///
    /// # Errors
    /// When the system could not keep what was written to it.
    pub(super) fn close(&mut self) -> Result<(), EndpointError> {
        self.flow.take_consumer().map_or(Ok(()), |sink| sink.into_endpoint().close())
    }

    /// The consumer takes no more bytes.
    pub(super) fn stop(&mut self) {
        self.flow.proxy_mut().stop_producing();
    }

    /// Holds at most `size` bytes from now on, with the same share of them for the low watermark.
    /// Returns the size.
    ///
    /// # Errors
    /// Why a buffer cannot have this size.
    pub(super) fn resize(&mut self, size: u64) -> Result<usize, String> {
        let high = buffer::check_size(size)?;
        let watermarks = Watermarks::new(high, (high as f64 * self.low_share) as usize);
        self.flow.proxy_mut().set_watermarks(watermarks, |fifo| fifo.set_capacity(high));
        Ok(high)
    }
}
