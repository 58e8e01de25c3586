//! The one state machine that pauses and resumes: Twisted's `ProducerConsumerProxy`.
//!
//! The rules are those of `twisted.protocols.pcp`, replayed call by call in
//! `tests/contract.rs`. What Twisted leaves as a TODO is finished here: separate high
//! and low watermarks, and prefetching from a pull producer.

use std::fmt;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::shaping::{Cut, Held, Shaper, Unit, Unshaped};

/// A producer: it feeds a proxy, which tells it when to stop and when to go on.
///
/// A push producer starts unpaused and goes on until it is paused. A pull producer writes
/// once for each [`resume_producing`](Producer::resume_producing).
pub trait Producer {
    /// The buffer is full: produce no more until resumed.
    fn pause_producing(&mut self);
    /// There is room again (push), or data is required (pull).
    fn resume_producing(&mut self);
    /// Nobody wants data any more: stop for good.
    fn stop_producing(&mut self);
}

/// A consumer: a proxy feeds it from the front of a buffer `B`.
pub trait Consumer<B> {
    /// Why a write can fail for good. That it would block is no error: nothing is taken.
    type Error;
    /// The proxy will write here: by itself if `streaming`, else when it is asked.
    fn register_producer(&mut self, streaming: bool);
    /// The proxy will write no more for now.
    fn unregister_producer(&mut self);
    /// Takes at most `limit` bytes from the front of `buffer` without blocking and returns
    /// how many it took. A consumer that was fed by itself (`streaming`) and takes fewer
    /// than `limit` has thereby asked the proxy to pause.
    ///
    /// # Errors
    /// When no byte can be written any more, now or later.
    fn write(&mut self, buffer: &mut B, limit: usize) -> Result<usize, Self::Error>;
    /// The last byte has been written.
    fn finish(&mut self);
}

/// Where the producer is paused and resumed, in buffered bytes: `low < high`, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    high: usize,
    low: usize,
    prefetch: bool,
}

impl Watermarks {
    /// A push producer is paused once `high` bytes are held, and resumed once no more than `low`
    /// are. A high mark of 0 is taken for 1, and a low mark that is not below the high one for
    /// the next below it.
    ///
    /// A pull producer is asked for more until it has filled the buffer to `high`, and again from
    /// `low` on, without waiting for the consumer to ask.
    pub fn new(high: usize, low: usize) -> Self {
        let high = high.max(1);
        Watermarks { high, low: low.min(high - 1), prefetch: true }
    }

    /// Twisted's rule: paused at `size` bytes, resumed below it, no prefetching. A pull producer
    /// is asked when the consumer asks, and by a proxy that streams only once.
    pub fn at(size: usize) -> Self {
        Watermarks::new(size, size).without_prefetch()
    }

    /// The same marks, with a pull producer that is asked only when the consumer asks.
    pub fn without_prefetch(self) -> Self {
        Watermarks { prefetch: false, ..self }
    }

    /// A push producer is paused once this many bytes are held. At least 1.
    pub fn high(&self) -> usize {
        self.high
    }

    /// A paused producer is resumed once no more than this many bytes are held. Below
    /// [`high`](Self::high).
    pub fn low(&self) -> usize {
        self.low
    }
}

/// A producer is registered already; it stays registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerRegistered;

impl fmt::Display for ProducerRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a producer is already registered")
    }
}

impl std::error::Error for ProducerRegistered {}

/// Stands between a producer and a consumer with a finite buffer: "When my buffer fills
/// up, I have my parent Producer pause until my buffer has room in it again."
///
/// It owns no clock and no descriptor. Time comes in through [`drip`](Self::drip), and
/// when to come back goes out through [`due`](Self::due). The shaper `S` cuts on the way
/// to the consumer, as `_writeSomeData` does in Twisted's `ShapedConsumer`.
///
/// ```
/// use pcproxy::buffer::Chunks;
/// use pcproxy::flow::{Consumer, ProducerConsumerProxy, Producer, Watermarks};
///
/// struct Upstream;
/// impl Producer for Upstream {
///     fn pause_producing(&mut self) { println!("enough for now") }
///     fn resume_producing(&mut self) {}
///     fn stop_producing(&mut self) {}
/// }
/// struct TwoAtATime;
/// impl Consumer<Chunks> for TwoAtATime {
///     type Error = std::convert::Infallible;
///     fn register_producer(&mut self, _streaming: bool) {}
///     fn unregister_producer(&mut self) {}
///     fn write(&mut self, buffer: &mut Chunks, limit: usize) -> Result<usize, Self::Error> {
///         let taken = limit.min(2);
///         buffer.consume(taken);
///         Ok(taken)
///     }
///     fn finish(&mut self) {}
/// }
///
/// let mut proxy = ProducerConsumerProxy::new(TwoAtATime, Chunks::new(4), Watermarks::at(4), true);
/// proxy.register_producer(Upstream, true)?;
/// proxy.write(b"abcdefg")?; // two are taken, five are held: "enough for now"
/// assert_eq!(proxy.buffered(), 5);
/// assert!(proxy.producer_paused());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ProducerConsumerProxy<P, C, B, S = Unshaped> {
    producer: Option<P>,
    producer_is_streaming: bool,
    consumer: Option<C>,
    buffer: B,
    watermarks: Watermarks,
    shaper: S,
    /// The unit of the shaper.
    unit: Unit,
    /// Records that have left the buffer, or begun to.
    records: u64,
    i_am_streaming: bool,
    paused: bool,
    producer_paused: bool,
    unregistered: bool,
    outstanding_pull: bool,
    stopped: bool,
    finishing: bool,
}

impl<P, C, B> ProducerConsumerProxy<P, C, B>
where
    P: Producer,
    C: Consumer<B>,
    B: Buffer,
{
    /// A proxy that feeds `consumer` as fast as it takes the bytes. It registers itself
    /// there, as a push producer if `i_am_streaming`, else as a pull producer.
    pub fn new(consumer: C, buffer: B, watermarks: Watermarks, i_am_streaming: bool) -> Self {
        Self::shaped(consumer, buffer, watermarks, i_am_streaming, Unshaped)
    }
}

impl<P, C, B, S> ProducerConsumerProxy<P, C, B, S>
where
    P: Producer,
    C: Consumer<B>,
    B: Buffer,
    S: Shaper,
{
    /// A proxy that feeds `consumer` what `shaper` grants: Twisted's `ShapedConsumer`.
    pub fn shaped(mut consumer: C, buffer: B, watermarks: Watermarks, i_am_streaming: bool, shaper: S) -> Self {
        consumer.register_producer(i_am_streaming);
        ProducerConsumerProxy {
            producer: None,
            producer_is_streaming: false,
            consumer: Some(consumer),
            buffer,
            watermarks,
            shaper,
            unit: Unit::Bytes,
            records: 0,
            i_am_streaming,
            paused: false,
            producer_paused: false,
            unregistered: false,
            outstanding_pull: false,
            stopped: false,
            finishing: false,
        }
    }

    /// Has the shaper count `unit` from now on. For records, the buffer must know where they end.
    pub fn count(&mut self, unit: Unit) {
        self.unit = unit;
    }

    /// Registers what feeds this proxy: a push producer if `streaming`, else a pull
    /// producer, which is asked for data at once.
    ///
    /// # Errors
    /// If a producer is registered, which then stays as it was.
    pub fn register_producer(&mut self, producer: P, streaming: bool) -> Result<(), ProducerRegistered> {
        if self.producer.is_some() {
            return Err(ProducerRegistered);
        }
        self.unregistered = false;
        self.producer_is_streaming = streaming;
        let producer = self.producer.insert(producer);
        if !streaming {
            producer.resume_producing();
        }
        Ok(())
    }

    /// No more data will come from the producer; what is buffered still goes out.
    pub fn unregister_producer(&mut self) {
        self.producer = None;
        self.unregistered = true;
        if self.buffer.is_empty() {
            self.release_consumer();
        }
    }

    /// No more data will come, and the consumer is to know when it has the last byte. Its
    /// `finish` is called once the buffer is empty, never before.
    pub fn finish(&mut self) {
        self.finishing = true;
        self.unregister_producer();
    }

    /// Takes all of `data`: on to the consumer what it takes, into the buffer the rest.
    /// Never blocks. Pauses a push producer once the buffer is at its high watermark.
    ///
    /// # Errors
    /// The consumer's, when it can take no byte any more.
    pub fn write(&mut self, data: &[u8]) -> Result<(), C::Error> {
        // As in Twisted: for a consumer that has stopped nothing is kept.
        if self.consumer.is_some() || !self.passes_on() {
            self.buffer.append(data);
        }
        self.written()
    }

    /// [`write`](Self::write) for data that need not pass through memory of ours: `fill`
    /// has the producer put at most the given number of bytes, the room up to the high
    /// watermark, into the buffer. Returns what `fill` returned, or nothing, without a call,
    /// if no producer is registered.
    ///
    /// # Errors
    /// The consumer's, as with [`write`](Self::write).
    pub fn write_with<R>(&mut self, fill: impl FnOnce(&mut P, &mut B, usize) -> R) -> Result<Option<R>, C::Error> {
        let room = self.watermarks.high.saturating_sub(self.buffer.len());
        let Some(producer) = &mut self.producer else { return Ok(None) };
        let result = fill(producer, &mut self.buffer, room);
        self.written()?;
        Ok(Some(result))
    }

    /// Moves bytes past the buffer: while nothing is held and the consumer wants data, `transfer`
    /// moves at most `most` bytes from the producer straight to the consumer. Returns how many it
    /// moved.
    ///
    /// Only tokens that are in hand are spent: nobody is asked for tokens before it is known how
    /// many bytes the producer has.
    ///
    /// A result of 0 says nothing about either side; [`write_with`](Self::write_with) will tell.
    pub fn pass_through(&mut self, most: usize, transfer: impl FnOnce(&mut P, &mut C, usize) -> usize) -> usize {
        if !self.buffer.is_empty() || !self.passes_on() || self.unit != Unit::Bytes {
            return 0;
        }
        let (Some(producer), Some(consumer)) = (&mut self.producer, &mut self.consumer) else { return 0 };
        // Fewer bytes than the buffer takes anyway are not worth a step of their own.
        let least = most.min(self.watermarks.high) as u64;
        let in_hand = self.shaper.in_hand().min(most as u64);
        if least == 0 || in_hand < least {
            return 0;
        }
        let Ok(granted) = self.shaper.take(least, in_hand) else { return 0 };
        let moved = transfer(producer, consumer, granted as usize);
        self.shaper.refund(granted - moved as u64);
        if moved > 0 {
            self.outstanding_pull = false;
            self.prefetch();
        }
        moved
    }

    /// Called by the consumer: it wants nothing for now. The producer goes on until the
    /// buffer is full.
    pub fn pause_producing(&mut self) {
        self.paused = true;
    }

    /// Called by the consumer: it wants data. What is buffered goes out, and a producer
    /// that was paused is resumed if the buffer has drained to its low watermark.
    ///
    /// # Errors
    /// The consumer's, when it can take no byte any more.
    pub fn resume_producing(&mut self) -> Result<(), C::Error> {
        self.paused = false;
        let sent = if self.buffer.is_empty() { 0 } else { self.write_some_data()? };
        if self.unregistered && sent > 0 && self.buffer.is_empty() {
            self.release_consumer();
        }
        if !self.i_am_streaming {
            self.outstanding_pull = sent == 0;
        }
        let drained = self.is_drained();
        if let Some(producer) = &mut self.producer {
            if self.producer_paused && drained {
                self.producer_paused = false;
                producer.resume_producing();
            } else if self.outstanding_pull {
                producer.resume_producing();
            } else {
                self.prefetch();
            }
        }
        Ok(())
    }

    /// Called by the consumer: it is gone, and so is the need for the producer. What is
    /// buffered stays countable, but goes nowhere.
    pub fn stop_producing(&mut self) {
        if let Some(producer) = &mut self.producer {
            producer.stop_producing();
        }
        self.consumer = None;
        self.stopped = true;
    }

    /// Takes the consumer out, to close it: this proxy is of no more use.
    pub fn take_consumer(&mut self) -> Option<C> {
        self.stopped = true;
        self.consumer.take()
    }

    /// Pauses and resumes the producer at other marks from now on. Bytes already in the buffer
    /// stay, even if they exceed the new high watermark. `resize` tells the buffer.
    pub fn set_watermarks(&mut self, watermarks: Watermarks, resize: impl FnOnce(&mut B)) {
        self.watermarks = watermarks;
        resize(&mut self.buffer);
        let (full, drained) = (self.buffer.len() >= watermarks.high, self.is_drained());
        let Some(producer) = &mut self.producer else { return };
        if full && !self.producer_paused {
            self.producer_paused = true;
            producer.pause_producing();
        } else if self.producer_paused && drained {
            self.producer_paused = false;
            producer.resume_producing();
        }
    }

    /// Lets tokens drip into the shaper up to `now`, a time on any clock that never goes
    /// back. All that follows happens at that time.
    pub fn drip(&mut self, now: Duration) {
        self.shaper.drip(now);
    }

    /// When the shaper lets the next buffered bytes go; the past if it does so already,
    /// nothing while the buffer is empty or the shaper grants no more at all.
    pub fn due(&self) -> Option<Duration> {
        match self.wanted()? {
            // Free of charge, unless nothing may pass at all.
            0 => self.shaper.due(1).map(|_| Duration::ZERO),
            wanted => self.shaper.due(wanted),
        }
    }

    /// Whether bytes are held that may go out as soon as the shaper grants them.
    pub fn offers(&self) -> bool {
        self.wanted().is_some()
    }

    /// Whether a paused producer is to go on: the buffer has drained to its low watermark, or holds
    /// nothing but the beginning of a record whose end is yet to come.
    fn is_drained(&self) -> bool {
        let held = self.buffer.len();
        let waits_for_end = !self.is_behind() && !self.offers();
        held <= self.watermarks.low || (held < self.watermarks.high && waits_for_end)
    }

    /// The bytes or records in the buffer that a limit counts.
    fn held(&self) -> Held {
        let (bytes, records) = (self.buffer.available(), self.buffer.records());
        let is_full = || bytes >= self.watermarks.high && records.ends == 0;
        let last = match self.is_behind() {
            true => self.buffer.is_choked() && records.ends == 0,
            false => self.unregistered || is_full(),
        };
        Held { bytes, ends: records.ends, begun: records.begun, tail: records.tail, last }
    }

    /// Whether bytes are held that are not available yet.
    fn is_behind(&self) -> bool {
        self.buffer.available() < self.buffer.len()
    }

    /// Brings up to date what the buffer has available.
    pub fn tend_buffer(&mut self) {
        self.buffer.tend();
    }

    /// How many tokens the shaper is asked for: those for the bytes held, or without end where the
    /// producer has more waiting. Otherwise a small buffer would cause small grants. None if no byte
    /// may go out.
    fn wanted(&self) -> Option<u64> {
        let has_more = (self.producer.is_some() && self.producer_paused) || self.is_behind();
        let price = self.unit.price(&self.held())?;
        Some(if has_more && price > 0 { u64::MAX } else { price })
    }

    /// The single way to the consumer. Returns how many bytes it took: at most what the
    /// shaper grants.
    fn write_some_data(&mut self) -> Result<usize, C::Error> {
        let (Some(wanted), before) = (self.wanted(), self.held()) else { return Ok(0) };
        let Some(consumer) = &mut self.consumer else { return Ok(0) };
        let granted = match wanted {
            0 if self.shaper.due(1).is_none() => return Ok(0),
            0 => 0,
            wanted => match self.shaper.grant(wanted) {
                Ok(granted) => granted,
                Err(_) => return Ok(0),
            },
        };
        let offered = match self.unit.cut(&before, granted) {
            Cut::Bytes(bytes) => bytes,
            Cut::Ends(ends) => self.buffer.end_of(ends),
        };
        let result = consumer.write(&mut self.buffer, offered);
        let taken = *result.as_ref().unwrap_or(&0);
        let used = self.unit.used(&before, &self.held());
        self.shaper.refund(granted.saturating_sub(used));
        if self.unit == Unit::Records {
            self.records += used / Unit::Records.tokens();
        }
        if self.i_am_streaming && taken < offered {
            self.pause_producing();
        }
        result
    }

    /// Runs after every write: forwards, pauses, prefetches.
    fn written(&mut self) -> Result<(), C::Error> {
        if self.passes_on() && self.consumer.is_some() && !self.buffer.is_empty() {
            self.write_some_data()?;
            self.outstanding_pull = false;
        }
        if let Some(producer) = &mut self.producer {
            if !self.producer_is_streaming {
                self.prefetch();
            } else if self.buffer.len() >= self.watermarks.high {
                producer.pause_producing();
                self.producer_paused = true;
            }
        }
        Ok(())
    }

    /// Whether data that comes in goes on to the consumer at once.
    fn passes_on(&self) -> bool {
        !self.paused && (self.i_am_streaming || self.outstanding_pull)
    }

    /// Asks a pull producer for more, until the buffer is full.
    fn prefetch(&mut self) {
        if let Some(producer) = &mut self.producer
            && !self.producer_is_streaming
            && self.watermarks.prefetch
        {
            self.producer_paused = self.producer_paused || self.buffer.len() >= self.watermarks.high;
            if !self.producer_paused {
                producer.resume_producing();
            }
        }
    }

    /// Tells the consumer that nothing is left to come.
    fn release_consumer(&mut self) {
        if let Some(consumer) = &mut self.consumer {
            if std::mem::take(&mut self.finishing) {
                consumer.finish();
            }
            consumer.unregister_producer();
        }
    }
}

/// The state, readable.
impl<P, C, B: Buffer, S> ProducerConsumerProxy<P, C, B, S> {
    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }
    /// Records that have gone out, or begun to, where they are counted.
    pub fn records(&self) -> u64 {
        self.records
    }
    /// The contents of the buffer.
    pub fn buffer(&self) -> &B {
        &self.buffer
    }
    /// What is held, to tell it of news from a disk.
    pub fn buffer_mut(&mut self) -> &mut B {
        &mut self.buffer
    }
    /// Where the producer is paused and resumed.
    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }
    /// The consumer wants nothing for now.
    pub fn paused(&self) -> bool {
        self.paused
    }
    /// The buffer was full, and has not yet drained to the low watermark: a push producer was
    /// told to pause, and a pull producer is not asked.
    pub fn producer_paused(&self) -> bool {
        self.producer_paused
    }
    /// No more data is to come: `unregister_producer` or `finish` was the latest word.
    pub fn unregistered(&self) -> bool {
        self.unregistered
    }
    /// The consumer has asked for data and has not had any yet.
    pub fn outstanding_pull(&self) -> bool {
        self.outstanding_pull
    }
    /// The producer pushes; nothing while none is registered.
    pub fn producer_is_streaming(&self) -> Option<bool> {
        self.producer.as_ref().map(|_| self.producer_is_streaming)
    }
    /// This proxy pushes: it writes to its consumer without being asked.
    pub fn i_am_streaming(&self) -> bool {
        self.i_am_streaming
    }
    /// The consumer has left.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
    /// The producer of this proxy.
    pub fn producer(&self) -> Option<&P> {
        self.producer.as_ref()
    }
    /// The producer of this proxy, to tell it of readiness.
    pub fn producer_mut(&mut self) -> Option<&mut P> {
        self.producer.as_mut()
    }
    /// The consumer of this proxy; none once it has stopped.
    pub fn consumer(&self) -> Option<&C> {
        self.consumer.as_ref()
    }
    /// The consumer of this proxy, to tell it of readiness.
    pub fn consumer_mut(&mut self) -> Option<&mut C> {
        self.consumer.as_mut()
    }
    /// The shaper on the way to the consumer.
    pub fn shaper(&self) -> &S {
        &self.shaper
    }
    /// The shaper on the way to the consumer, to change its rate.
    pub fn shaper_mut(&mut self) -> &mut S {
        &mut self.shaper
    }
}

impl<P, C, B: Buffer, S> fmt::Debug for ProducerConsumerProxy<P, C, B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerConsumerProxy")
            .field("buffered", &self.buffered())
            .field("watermarks", &self.watermarks)
            .field("paused", &self.paused)
            .field("producer_paused", &self.producer_paused)
            .field("unregistered", &self.unregistered)
            .field("outstanding_pull", &self.outstanding_pull)
            .field("producer_is_streaming", &self.producer_is_streaming())
            .field("i_am_streaming", &self.i_am_streaming)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}
