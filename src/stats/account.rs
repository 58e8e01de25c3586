//! Where the time of a run goes. There is no clock here: time comes in as an argument.

use std::mem;
use std::time::Duration;

use super::{State, Status, VERSION};

/// What the peak rate is taken from at the least: over less, it would tell the size of a single
/// write.
const STRETCH: Duration = Duration::from_millis(250);

/// What a run waits for while it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The producer: nothing is held, and nothing comes.
    Producer,
    /// The consumer: bytes are due, and it takes none.
    Consumer,
    /// The token bucket: bytes are held, and not yet due.
    Limit,
    /// Whoever told it to pause.
    Paused,
}

/// What a wait for each [`Cause`] is called, in their order.
const STATES: [State; 4] = [State::ProducerSlow, State::ConsumerSlow, State::Limited, State::Paused];

/// Time spent waiting for each [`Cause`], in their order.
type Waits = [Duration; STATES.len()];

/// What a [`Status`] says that is not accounted. A run keeps one and sets what has changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// When: seconds since the Unix epoch.
    pub time: f64,
    /// The process.
    pub pid: u32,
    /// What the user calls the run.
    pub name: Option<String>,
    /// The group on whose budget it draws.
    pub group: Option<String>,
    /// How many bytes there will be, if that is known.
    pub size: Option<u64>,
    /// The limit in force, in bytes a second.
    pub limit: Option<u64>,
    /// It has been told to pause, and not yet to go on.
    pub paused: bool,
    /// It has ended.
    pub done: bool,
}

/// What one asker has been told up to: its next status tells of the time since. Each asker
/// keeps its own, so that none shortens the interval of another. The default is the beginning
/// of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Its beginning, counted from that of the run.
    since: Duration,
    /// Delivered before it.
    bytes: u64,
    /// Waited before it.
    waits: Waits,
}

/// The account of a run. All times are counted from the same moment, any one; a clock that
/// goes back adds nothing.
///
/// ```
/// use pcproxy::stats::{Account, Cause, Facts, Interval, State};
/// use std::time::Duration;
///
/// let mut account = Account::new(Duration::ZERO, 65_536);
/// account.holds(Duration::from_secs(1), 1000, 0, false);
/// account.sleeps(Duration::from_secs(1), Some(Cause::Producer));
/// let status = account.status(Duration::from_secs(4), &mut Interval::default(), &Facts::default());
/// assert_eq!((status.state, status.waited_for_producer), (State::ProducerSlow, 3.0));
/// assert_eq!(status.mean_rate, 250.0);
/// ```
#[derive(Clone, Debug)]
pub struct Account {
    start: Duration,
    /// Up to when time is accounted.
    now: Duration,
    /// What is waited for since then.
    cause: Option<Cause>,
    waits: Waits,
    bytes: u64,
    buffer: usize,
    buffered: usize,
    peak_buffered: usize,
    producer_is_paused: bool,
    producer_pauses: u64,
    producer_paused: Duration,
    /// How long the producer could have been ahead, had the buffer been larger.
    lead: Duration,
    avoidable_wait: Duration,
    /// The highest rate of the stretches before this one.
    peak_rate: f64,
    /// When this stretch began, and the bytes delivered before it.
    stretch: (Duration, u64),
    /// When `bytes` was last seen to grow.
    moved: Duration,
}

impl Account {
    /// The account of a run that begins at `start`, with a buffer of so many bytes.
    pub fn new(start: Duration, buffer: usize) -> Self {
        Account {
            start,
            now: start,
            cause: None,
            waits: Waits::default(),
            bytes: 0,
            buffer,
            buffered: 0,
            peak_buffered: 0,
            producer_is_paused: false,
            producer_pauses: 0,
            producer_paused: Duration::ZERO,
            lead: Duration::ZERO,
            avoidable_wait: Duration::ZERO,
            peak_rate: 0.0,
            stretch: (start, 0),
            moved: start,
        }
    }

    /// The buffer is of another size from now on, in bytes.
    pub fn resize(&mut self, buffer: usize) {
        self.buffer = buffer;
    }

    /// From `now` on the run waits for `cause`; for none, if it only looks up.
    pub fn sleeps(&mut self, now: Duration, cause: Option<Cause>) {
        self.pass(now);
        self.cause = cause;
    }

    /// From `now` on it waits no more.
    pub fn wakes(&mut self, now: Duration) {
        self.sleeps(now, None);
        // A stretch begins at the end of a sleep, so that silence does not thin out what
        // comes after it.
        if self.now - self.stretch.0 >= STRETCH {
            self.peak_rate = self.highest_rate();
            self.stretch = (self.now, self.bytes);
        }
    }

    /// At `now` so many bytes have been delivered in all, so many are held, and the producer
    /// is paused since the buffer was full, or is not. To be told once a look, before
    /// [`sleeps`](Self::sleeps), and before the last [`status`](Self::status).
    pub fn holds(&mut self, now: Duration, delivered: u64, buffered: usize, producer_paused: bool) {
        self.pass(now);
        if delivered > self.bytes {
            self.bytes = delivered;
            self.moved = self.now;
        }
        self.buffered = buffered;
        self.peak_buffered = self.peak_buffered.max(buffered);
        self.producer_pauses += u64::from(producer_paused && !self.producer_is_paused);
        self.producer_is_paused = producer_paused;
    }

    /// The status at `now`, with the rate and the state of the time since `interval`, which
    /// begins anew. A wait that goes on counts up to now; bytes are those of the last
    /// [`holds`](Self::holds).
    pub fn status(&mut self, now: Duration, interval: &mut Interval, facts: &Facts) -> Status {
        self.pass(now);
        let elapsed = self.now - self.start;
        let latest = Interval { since: elapsed, bytes: self.bytes, waits: self.waits };
        let last = mem::replace(interval, latest);
        let length = elapsed.saturating_sub(last.since);
        let mut waits = STATES.into_iter().zip(self.waits).zip(last.waits);
        let waited = waits.find(|((_, wait), before)| wait.saturating_sub(*before) > length / 2);
        let state = waited.map_or(State::Flowing, |((state, _), _)| state);
        let [producer, consumer, limit, _] = self.waits.map(seconds);
        let mean_rate = rate(self.bytes, elapsed);
        Status {
            version: VERSION,
            time: facts.time,
            elapsed: seconds(elapsed),
            pid: facts.pid,
            name: facts.name.clone(),
            group: facts.group.clone(),
            state: if facts.paused { State::Paused } else { state },
            bytes: self.bytes,
            size: facts.size,
            rate: rate(self.bytes.saturating_sub(last.bytes), length),
            mean_rate,
            // The mean is higher when the whole run is shorter than a stretch.
            peak_rate: self.highest_rate().max(mean_rate),
            limit: facts.limit,
            buffer: self.buffer as u64,
            buffered: self.buffered as u64,
            peak_buffered: self.peak_buffered as u64,
            waited_for_producer: producer,
            waited_for_consumer: consumer,
            waited_for_limit: limit,
            producer_pauses: self.producer_pauses,
            producer_paused: seconds(self.producer_paused),
            avoidable_wait: seconds(self.avoidable_wait),
            done: facts.done,
        }
    }

    /// Accounts the time up to `now`.
    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.now += passed;
        if let Some(cause) = self.cause {
            self.waits[cause as usize] += passed;
        }
        if self.producer_is_paused {
            self.producer_paused += passed;
            self.lead += passed;
        } else if self.cause == Some(Cause::Producer) {
            let avoidable = passed.min(self.lead);
            self.avoidable_wait += avoidable;
            self.lead -= avoidable;
        }
    }

    /// The highest rate up to now, in bytes a second. This stretch ends when the last byte was
    /// delivered: a sleep after that is no part of it.
    fn highest_rate(&self) -> f64 {
        let (since, before) = self.stretch;
        let length = self.moved.saturating_sub(since).max(STRETCH);
        self.peak_rate.max(rate(self.bytes - before, length))
    }
}

/// Whole bytes a second. In no time nothing moves.
fn rate(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (bytes as f64 / time.as_secs_f64()).round() }
}

/// To the microsecond: more digits would tell nobody more.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ask(account: &mut Account, millis: u64) -> Status {
        account.status(ms(millis), &mut Interval::default(), &Facts::default())
    }

    #[test]
    fn a_wait_that_goes_on_counts_up_to_now() {
        let mut account = Account::new(ms(500), 10);
        account.sleeps(ms(600), Some(Cause::Consumer));
        assert_eq!(ask(&mut account, 1000).waited_for_consumer, 0.4);
        account.wakes(ms(1600));
        assert_eq!(ask(&mut account, 2500).waited_for_consumer, 1.0);
        assert_eq!(ask(&mut account, 2500).elapsed, 2.0);
    }

    #[test]
    fn a_clock_that_goes_back_adds_nothing() {
        let mut account = Account::new(ms(10), 10);
        account.sleeps(ms(5), Some(Cause::Limit));
        for millis in [15, 12, 15, 20, 0] {
            account.holds(ms(millis), 0, 0, true);
        }
        let status = ask(&mut account, 20);
        assert_eq!((status.elapsed, status.waited_for_limit, status.producer_paused), (0.010, 0.010, 0.005));
    }

    #[test]
    fn counts_pauses_and_the_highest_fill() {
        let mut account = Account::new(ms(0), 10);
        for (millis, buffered, paused) in
            [(0, 3, false), (100, 10, true), (200, 8, true), (300, 5, false), (400, 9, true)]
        {
            account.holds(ms(millis), 0, buffered, paused);
        }
        let status = ask(&mut account, 450);
        assert_eq!((status.producer_pauses, status.producer_paused), (2, 0.25));
        assert_eq!((status.buffer, status.buffered, status.peak_buffered), (10, 9, 10));
    }

    #[test]
    fn an_interval_of_no_length_has_no_rate() {
        let mut account = Account::new(ms(0), 10);
        account.holds(ms(0), 100, 0, false);
        let status = ask(&mut account, 0);
        assert_eq!((status.state, status.rate, status.mean_rate), (State::Flowing, 0.0, 0.0));
    }

    #[test]
    fn the_peak_is_of_a_stretch_and_no_lower_than_the_mean() {
        let mut account = Account::new(ms(0), 10);
        account.holds(ms(10), 1000, 0, false);
        assert_eq!(ask(&mut account, 10).peak_rate, 100_000.0);
        // Asked later, it does not come from the first 10 ms.
        assert_eq!(ask(&mut account, 1000).peak_rate, 4000.0);
    }

    #[test]
    fn silence_does_not_thin_out_a_peak() {
        let mut account = Account::new(ms(0), 10);
        for seconds in 1..5 {
            account.sleeps(ms(1000 * seconds - 900), Some(Cause::Producer));
            account.wakes(ms(1000 * seconds));
            account.holds(ms(1000 * seconds + 100), 1000 * seconds, 0, false);
        }
        assert_eq!(ask(&mut account, 9000).peak_rate, 4000.0);
    }
}
