//! Where the time of a run goes. There is no clock here: time comes in as an argument.

use std::mem;
use std::time::Duration;

use super::eta::Eta;
use super::{Ending, FlowStatus, Hash, RecordKind, RecordStatus, State, Status, VERSION};
use crate::units::RateUnit;

/// The shortest time that a peak rate is measured over. Over a shorter one, the size of a single
/// write (up to 1 MiB) would look like a rate.
const PEAK_WINDOW: Duration = Duration::from_millis(250);

/// A reason why a run moves no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The producer: the buffer is empty, and nothing comes.
    Producer,
    /// The consumer: bytes are due, and it takes none.
    Consumer,
    /// The token bucket: bytes are held, and not yet due.
    Limit,
    /// The machine: bytes could have moved, and the process did not get a processor.
    Machine,
    /// A request to pause.
    Paused,
}

/// The state of an interval that went mostly into each [`Cause`], in their order.
const STATES: [State; 5] =
    [State::ProducerSlow, State::ConsumerSlow, State::Limited, State::MachineBusy, State::Paused];

/// Time spent waiting for each [`Cause`], in their order.
type Waits = [Duration; STATES.len()];

/// The fields of a [`Status`] that the account does not know. A run keeps one and sets what has
/// changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The time of day, in seconds since the Unix epoch.
    pub time: f64,
    /// The process.
    pub pid: u32,
    /// The name of the run.
    pub name: Option<String>,
    /// The group whose budget it draws on.
    pub group: Option<String>,
    /// The expected total in bytes, from the user or from the input. A status leaves it out once
    /// the run contradicts it.
    pub size: Option<u64>,
    /// The limit in force, in bytes per second.
    pub limit: Option<u64>,
    /// The flows of the run, where there are several.
    pub flows: Vec<FlowStatus>,
    /// The unit in which the user gave the rate.
    pub rate_unit: RateUnit,
    /// It has been told to pause, and not yet to go on.
    pub paused: bool,
    /// How it ended; none while it lasts.
    pub ending: Option<Ending>,
    /// The checksum of what was delivered, once it is known.
    pub hash: Option<Hash>,
    /// Bytes held that are on a disk, where there may be some.
    pub spilled: Option<u64>,
    /// The same of records, where these are counted.
    pub records: Option<RecordFacts>,
}

/// Facts about the records of a run that the account does not know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordFacts {
    /// The kind of record.
    pub kind: RecordKind,
    /// The expected total, from the user.
    pub size: Option<u64>,
    /// The limit in force, in records per second.
    pub limit: Option<f64>,
}

/// The end of the time that one reader of the account has been told of; its next status covers
/// the time since. Each reader keeps its own, so that none shortens the interval of another. The
/// default is the beginning of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Its beginning, counted from that of the run.
    since: Duration,
    /// Delivered before it.
    bytes: u64,
    records: u64,
    /// Waited before it.
    waits: Waits,
}

/// The account of a run. All times are counted from the same moment, whichever that is. A clock
/// that goes back adds nothing.
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
    /// Time is accounted up to here.
    now: Duration,
    /// The cause of the wait since then.
    cause: Option<Cause>,
    /// The latest wait.
    latest: Option<Wait>,
    /// Delays of the machine are accounted up to here.
    late_until: Duration,
    waits: Waits,
    bytes: u64,
    records: u64,
    buffer: usize,
    buffered: usize,
    peak_buffered: usize,
    producer_is_paused: bool,
    producer_pauses: u64,
    producer_paused: Duration,
    /// How far ahead the producer could have been, had the buffer been larger.
    lead: Duration,
    avoidable_wait: Duration,
    /// The highest rate of the windows before this one.
    peak_rate: f64,
    /// The beginning of this window, and the bytes delivered before it.
    window: (Duration, u64),
    /// The time at which `bytes` last grew.
    moved: Duration,
    /// How fast the run was of late.
    eta: Eta,
}

/// A wait that is over, or goes on.
#[derive(Clone, Copy, Debug)]
struct Wait {
    cause: Cause,
    /// How much of it is charged to its cause.
    charged: Duration,
    /// Its end so far.
    end: Duration,
}

impl Account {
    /// The account of a run that begins at `start`, with a buffer of `buffer` bytes.
    pub fn new(start: Duration, buffer: usize) -> Self {
        Account {
            start,
            now: start,
            cause: None,
            latest: None,
            late_until: start,
            waits: Waits::default(),
            bytes: 0,
            records: 0,
            buffer,
            buffered: 0,
            peak_buffered: 0,
            producer_is_paused: false,
            producer_pauses: 0,
            producer_paused: Duration::ZERO,
            lead: Duration::ZERO,
            avoidable_wait: Duration::ZERO,
            peak_rate: 0.0,
            window: (start, 0),
            moved: start,
            eta: Eta::default(),
        }
    }

    /// From now on the buffer holds at most `buffer` bytes.
    pub fn resize(&mut self, buffer: usize) {
        self.buffer = buffer;
    }

    /// From `now` on the run waits for `cause`; none if it only checks what is ready.
    pub fn sleeps(&mut self, now: Duration, cause: Option<Cause>) {
        self.pass(now);
        if let Some(cause) = cause {
            self.latest = Some(Wait { cause, charged: Duration::ZERO, end: self.now });
        }
        self.cause = cause;
    }

    /// From `now` on it waits no more.
    pub fn wakes(&mut self, now: Duration) {
        self.sleeps(now, None);
        // A window begins at the end of a wait, so that silence does not thin out the rate of
        // what follows it.
        if self.now - self.window.0 >= PEAK_WINDOW {
            self.peak_rate = self.highest_rate();
            self.window = (self.now, self.bytes);
        }
    }

    /// For the last `delay` up to `now`, bytes could have moved and the machine did not let the
    /// process run. This time is charged to [`Cause::Machine`]. Where the delay reaches back into
    /// the latest wait (the process was due and not woken), it is taken off the cause of that wait,
    /// so no time is charged twice.
    ///
    /// ```
    /// # use pcproxy::stats::{Account, Cause, Facts, Interval};
    /// # use std::time::Duration;
    /// # let ms = Duration::from_millis;
    /// let mut account = Account::new(ms(0), 65_536);
    /// account.sleeps(ms(0), Some(Cause::Limit));
    /// // The tokens were due after 30 ms; the process ran after 90 ms, and wrote at 100 ms.
    /// account.wakes(ms(90));
    /// account.late(ms(100), ms(70));
    /// let status = account.status(ms(100), &mut Interval::default(), &Facts::default());
    /// assert_eq!((status.waited_for_limit, status.waited_for_machine), (0.03, 0.07));
    /// ```
    pub fn late(&mut self, now: Duration, delay: Duration) {
        self.pass(now);
        let since = self.now.saturating_sub(delay).max(self.late_until);
        let mut late = self.now.saturating_sub(since);
        if let Some(wait) = &mut self.latest {
            // The rest of the delay, before the latest wait, belongs to an earlier cause.
            let asleep = wait.end.saturating_sub(since);
            let taken = asleep.min(wait.charged);
            late -= asleep - taken;
            wait.charged -= taken;
            self.waits[wait.cause as usize] -= taken;
        }
        self.waits[Cause::Machine as usize] += late;
        self.late_until = self.now;
    }

    /// At `now`, `delivered` bytes have been delivered in all, `buffered` bytes are held, and the
    /// producer is paused because the buffer was full, or is not. Must be called before each
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

    /// So many records have been delivered in all. To be called with [`holds`](Self::holds), where
    /// records are counted.
    pub fn counts(&mut self, records: u64) {
        self.records = records;
    }

    /// The status at `now`, with rate and state of the time since `interval`, which begins anew.
    /// A wait that goes on counts up to `now`. Bytes are those of the last [`holds`](Self::holds).
    ///
    /// A size of 0 (files in `/proc` report it) and a size below the bytes that have come are
    /// contradicted, and left out.
    pub fn status(&mut self, now: Duration, interval: &mut Interval, facts: &Facts) -> Status {
        self.pass(now);
        let elapsed = self.now - self.start;
        let latest = Interval { since: elapsed, bytes: self.bytes, records: self.records, waits: self.waits };
        let last = mem::replace(interval, latest);
        let length = elapsed.saturating_sub(last.since);
        let mut waits = STATES.into_iter().zip(self.waits).zip(last.waits);
        let waited = waits.find(|((_, wait), before)| wait.saturating_sub(*before) > length / 2);
        let state = waited.map_or(State::Flowing, |((state, _), _)| state);
        // A delay may have been taken off a wait that was reported before. What a reader sees never
        // becomes less.
        for (wait, before) in interval.waits.iter_mut().zip(last.waits) {
            *wait = before.max(*wait);
        }
        let [producer, consumer, limit, machine, _] = interval.waits.map(seconds);
        let come = self.bytes.saturating_add(self.buffered as u64);
        let mean_rate = rate(self.bytes, elapsed);
        let mut status = Status {
            version: VERSION,
            time: facts.time,
            elapsed: seconds(elapsed),
            pid: facts.pid,
            name: facts.name.clone(),
            group: facts.group.clone(),
            state: if facts.paused { State::Paused } else { state },
            bytes: self.bytes,
            size: facts.size.filter(|size| *size > 0 && come <= *size),
            rate: rate(self.bytes.saturating_sub(last.bytes), length),
            mean_rate,
            // The mean is higher if the whole run is shorter than a window.
            peak_rate: self.highest_rate().max(mean_rate),
            limit: facts.limit,
            rate_unit: facts.rate_unit,
            buffer: self.buffer as u64,
            buffered: self.buffered as u64,
            peak_buffered: self.peak_buffered as u64,
            waited_for_producer: producer,
            waited_for_consumer: consumer,
            waited_for_limit: limit,
            waited_for_machine: machine,
            producer_pauses: self.producer_pauses,
            producer_paused: seconds(self.producer_paused),
            avoidable_wait: seconds(self.avoidable_wait),
            records: facts.records.map(|facts| RecordStatus {
                kind: facts.kind,
                delivered: self.records,
                size: facts.size.filter(|size| *size > 0 && self.records <= *size),
                rate: exact_rate(self.records.saturating_sub(last.records), length),
                mean_rate: exact_rate(self.records, elapsed),
                limit: facts.limit,
            }),
            hash: facts.hash.clone(),
            spilled: facts.spilled,
            done: facts.ending.is_some(),
            ending: facts.ending,
            flows: facts.flows.clone(),
            time_left: None,
        };
        self.eta.observe(&status);
        status.time_left = self.eta.left(&status);
        status
    }

    /// Accounts the time up to `now`.
    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.now += passed;
        if let Some(cause) = self.cause {
            self.waits[cause as usize] += passed;
            if let Some(wait) = &mut self.latest {
                (wait.charged, wait.end) = (wait.charged + passed, self.now);
            }
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

    /// The highest rate up to now, in bytes per second. The present window ends with the last byte
    /// that was delivered: a wait after that is not part of it.
    fn highest_rate(&self) -> f64 {
        let (since, before) = self.window;
        let length = self.moved.saturating_sub(since).max(PEAK_WINDOW);
        self.peak_rate.max(rate(self.bytes - before, length))
    }
}

/// Whole bytes per second; 0 over no time.
fn rate(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (bytes as f64 / time.as_secs_f64()).round() }
}

/// Records per second, to a thousandth; 0 over no time.
fn exact_rate(records: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (records as f64 / time.as_secs_f64() * 1000.0).round() / 1000.0 }
}

/// Seconds, to the microsecond: finer than any use of them.
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
    fn a_delay_of_the_machine_is_charged_once_and_to_no_other_cause() {
        let mut account = Account::new(ms(0), 10);
        account.sleeps(ms(0), Some(Cause::Limit));
        account.wakes(ms(100));
        // Due at 60, woken at 100, moved at 110.
        account.late(ms(110), ms(50));
        let waits = |account: &mut Account, millis| {
            let status = ask(account, millis);
            (status.waited_for_producer, status.waited_for_limit, status.waited_for_machine)
        };
        assert_eq!(waits(&mut account, 110), (0.0, 0.06, 0.05));
        // A second delay, while awake, does not reach back beyond the first.
        account.late(ms(130), ms(500));
        assert_eq!(waits(&mut account, 130), (0.0, 0.06, 0.07));
        // A delay is no longer than the wait that it reaches back into.
        account.sleeps(ms(200), Some(Cause::Producer));
        account.wakes(ms(210));
        account.late(ms(210), ms(50));
        assert_eq!(waits(&mut account, 210), (0.0, 0.06, 0.08));
        // It only checked what is ready: the wait before that is still the latest.
        account.sleeps(ms(210), Some(Cause::Limit));
        account.wakes(ms(220));
        account.sleeps(ms(220), None);
        account.wakes(ms(225));
        account.late(ms(225), ms(10));
        assert_eq!(waits(&mut account, 225), (0.0, 0.065, 0.09));
    }

    #[test]
    fn what_was_reported_as_waited_never_becomes_less() {
        let mut account = Account::new(ms(0), 10);
        let mut interval = Interval::default();
        account.sleeps(ms(0), Some(Cause::Limit));
        account.wakes(ms(100));
        assert_eq!(account.status(ms(100), &mut interval, &Facts::default()).waited_for_limit, 0.1);
        account.late(ms(100), ms(60));
        let status = account.status(ms(100), &mut interval, &Facts::default());
        assert_eq!((status.waited_for_limit, status.waited_for_machine), (0.1, 0.06));
        assert_eq!(ask(&mut account, 100).waited_for_limit, 0.04);
    }

    #[test]
    fn an_interval_that_went_mostly_to_the_machine_is_called_busy() {
        let mut account = Account::new(ms(0), 10);
        account.sleeps(ms(0), Some(Cause::Limit));
        account.wakes(ms(100));
        account.late(ms(100), ms(60));
        assert_eq!(ask(&mut account, 100).state, State::MachineBusy);
    }

    #[test]
    fn a_size_that_is_contradicted_is_no_longer_believed() {
        let mut account = Account::new(ms(0), 10);
        let mut size = |delivered, held, size| {
            account.holds(ms(1), delivered, held, false);
            account.status(ms(1), &mut Interval::default(), &Facts { size: Some(size), ..Facts::default() }).size
        };
        // Files in /proc report size 0.
        assert_eq!(size(0, 0, 0), None);
        assert_eq!(size(90, 10, 100), Some(100));
        // A file that grows: the byte beyond is known before it is delivered.
        assert_eq!(size(90, 11, 100), None);
        assert_eq!(size(101, 0, 100), None);
        assert_eq!(size(101, 0, 200), Some(200));
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
