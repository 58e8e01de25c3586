//! The token bucket.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Refusal, Shaper, TOKENS_PER_RECORD, Unit, Unshaped};
use crate::units::{UnitError, parse_size, parse_time};

/// Tokens are counted in billionths of a byte: a rate of one byte a second drips exactly
/// one of them each nanosecond, so no division is ever rounded and nothing drifts.
pub(crate) const TOKENS_PER_BYTE: u128 = 1_000_000_000;

/// Time between two grants where more is wanted. Fewer and larger grants cost less, and show as
/// larger bursts: `docs/performance.md` weighs the two.
const QUANTUM: Duration = Duration::from_micros(4000);

/// Depth of the bucket of a member of a group, unless the user says otherwise.
const MEMBER_BURST: Duration = Duration::from_millis(12);

/// Tokens for a delay that were not used within this time are forgotten: whoever does not use
/// them has nothing to make up for.
const CREDIT_LASTS: Duration = Duration::from_millis(50);

/// No grant need be larger than what the neighbours' pipes hold, 1 MiB each: a little less, so
/// that the producer's does not run dry.
pub(crate) const LARGEST_QUANTUM: u64 = 7 << 17;

/// Depth of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Burst {
    /// So many bytes, whatever the rate.
    Bytes(u64),
    /// The bytes of this time at the rate.
    Time(Duration),
}

impl Default for Burst {
    /// The smallest that holds the mean rate on a busy two-core machine: see
    /// `docs/performance.md`.
    fn default() -> Self {
        Burst::Time(Duration::from_millis(9))
    }
}

/// The depth of a bucket: a size (`64K`), or a time in which the rate yields it (`20ms`).
///
/// # Errors
/// When the text is neither, or nothing at all.
///
/// ```
/// use pcproxy::shaping::{Burst, parse_burst};
/// use std::time::Duration;
/// assert_eq!(parse_burst("64K"), Ok(Burst::Bytes(65_536)));
/// assert_eq!(parse_burst("20ms"), Ok(Burst::Time(Duration::from_millis(20))));
/// assert!(parse_burst("0").is_err());
/// ```
pub fn parse_burst(text: &str) -> Result<Burst, UnitError> {
    let parsed = if text.ends_with('s') {
        parse_time(text).ok().map(Burst::Time)
    } else {
        parse_size(text).ok().map(Burst::Bytes)
    };
    match parsed {
        Some(Burst::Bytes(0) | Burst::Time(Duration::ZERO)) => {
            Err(UnitError { reason: "would let nothing pass: the least is 1 byte".into() })
        }
        Some(burst) => Ok(burst),
        None => Err(UnitError { reason: "is neither a size such as 64K nor a time such as 20ms".into() }),
    }
}

/// The promise of a token bucket: in every interval of length t at most `burst + rate * t`
/// bytes, and `rate` times the delays that the machine imposed in it, up to `catch_up`.
///
/// Its numbers are always in order: `1 <= quantum <= burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    rate: u64,
    burst: u64,
    quantum: u64,
    catch_up: Duration,
}

impl Limit {
    /// A limit of `rate` bytes per second and `burst` bytes that grants every single byte as soon
    /// as it is due. A rate of 0 grants nothing once the bucket is empty. A burst of 0 is taken
    /// for 1.
    pub const fn new(rate: u64, burst: u64) -> Self {
        Limit { rate, burst: if burst > 0 { burst } else { 1 }, quantum: 1, catch_up: Duration::ZERO }
    }

    /// A limit for a running program, `rate` bytes per second, with a quantum that costs little.
    pub fn paced(rate: u64, burst: Option<Burst>) -> Self {
        let burst = burst.unwrap_or_default().of(rate);
        Limit::new(rate, burst).with_quantum(yielded(rate, QUANTUM).min(burst / 2).min(LARGEST_QUANTUM))
    }

    /// A limit for a running program that counts `unit`: `rate` tokens of it per second, and a burst
    /// in whole ones. For records the default is one record, or what the default for bytes yields
    /// where that is more, and no quantum is smaller than a record.
    pub fn paced_in(unit: Unit, rate: u64, burst: Option<Burst>) -> Self {
        if unit == Unit::Bytes {
            return Limit::paced(rate, burst);
        }
        let burst = burst.unwrap_or_default().tokens(unit, rate);
        Limit::new(rate, burst).with_quantum(yielded(rate, QUANTUM).min(burst / 2).max(TOKENS_PER_RECORD))
    }

    /// A limit for a member of a group, `rate` tokens of `unit` per second. Its bucket is a little
    /// deeper by default: it fills up while the member waits for the tokens of the group.
    pub fn of_member(unit: Unit, rate: u64, burst: Option<Burst>) -> Self {
        Limit::paced_in(unit, rate, Some(burst.unwrap_or(Burst::Time(MEMBER_BURST))))
    }

    /// The same with another quantum, in bytes. At least 1 and at most the burst are taken.
    pub const fn with_quantum(self, quantum: u64) -> Self {
        let quantum = if quantum < self.burst { quantum } else { self.burst };
        Limit { quantum: if quantum > 0 { quantum } else { 1 }, ..self }
    }

    /// The same with another rate, in bytes per second.
    pub const fn with_rate(self, rate: u64) -> Self {
        Limit { rate, ..self }
    }

    /// The same, making up for delays of the machine of at most `catch_up` at a time.
    pub const fn with_catch_up(self, catch_up: Duration) -> Self {
        Limit { catch_up, ..self }
    }

    /// Bytes per second.
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// Depth of the bucket in bytes, at least 1.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Bytes worth waking up for, from 1 to `burst`: where more is wanted, nothing is granted
    /// until so many are due.
    pub const fn quantum(&self) -> u64 {
        self.quantum
    }

    /// How much delay of the machine is made up for at most.
    pub const fn catch_up(&self) -> Duration {
        self.catch_up
    }
}

impl Burst {
    /// In tokens of a limit that counts `unit`: enough for one of what is counted, at least.
    pub(crate) fn tokens(self, unit: Unit, rate: u64) -> u64 {
        let tokens = match self {
            Burst::Bytes(count) => count.saturating_mul(unit.tokens()),
            time => time.of(rate),
        };
        tokens.max(unit.tokens())
    }

    /// In bytes, at least 1.
    pub(crate) fn of(self, rate: u64) -> u64 {
        let bytes = match self {
            Burst::Bytes(bytes) => bytes,
            Burst::Time(time) => yielded(rate, time),
        };
        bytes.max(1)
    }
}

/// Whole bytes that `rate` bytes a second yield in `time`.
fn yielded(rate: u64, time: Duration) -> u64 {
    whole_bytes(yielded_tokens(rate, time))
}

/// The tokens of `time` at `rate` bytes per second, in the unit of the bucket.
fn yielded_tokens(rate: u64, time: Duration) -> u128 {
    u128::from(rate).saturating_mul(time.as_nanos())
}

/// A token bucket with an optional parent, which must have room as well: Twisted's
/// `htb.Bucket`. Without a limit it grants whatever its parent does.
///
/// This is the continuous-state leaky bucket, one of the two equivalent forms of the
/// generic cell rate algorithm (ITU-T I.371, annex A; ATM Forum Traffic Management 4.0,
/// 4.4.2), with `burst - tokens` as its counter and `last` as its last conformance time.
/// The other form, a single theoretical arrival time, would have to round it to its unit
/// of time at each grant. Here the arithmetic is exact at every rate: tokens are counted in
/// billionths of a byte and time in nanoseconds; only a product beyond 2^128, which is more
/// than any burst, is cut.
///
/// A delay that the machine imposes is not silence: [`late`](Shaper::late) says that bytes and
/// tokens were there and the process did not run. For such a time the bucket may hold more than
/// the burst, by what the rate yields in it, up to [`Limit::catch_up`].
///
/// ```
/// use pcproxy::shaping::{Limit, Refusal, Shaper, TokenBucket};
/// use std::time::Duration;
///
/// let mut bucket = TokenBucket::empty(Limit::new(1000, 50));
/// bucket.drip(Duration::from_millis(20));
/// assert_eq!(bucket.grant(100), Ok(20));
/// assert_eq!(bucket.grant(100), Err(Refusal { again: Some(Duration::from_millis(21)) }));
/// bucket.drip(Duration::from_secs(3600)); // an hour of silence earns no more than the burst
/// assert_eq!(bucket.grant(100), Ok(50));
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket<P = Unshaped> {
    limit: Option<Limit>,
    /// In billionths of a byte. At most `burst`, and what the rate yields in `catch_up`.
    tokens: u128,
    /// Up to when tokens have dripped.
    last: Duration,
    /// The delay that the machine has imposed since then.
    delay: Duration,
    parent: P,
}

impl TokenBucket {
    /// A bucket that is full at time zero, as Twisted's is.
    pub fn full(limit: Limit) -> Self {
        TokenBucket { tokens: in_tokens(limit.burst), ..Self::empty(limit) }
    }

    /// A bucket that is empty at time zero, so that the first interval is no exception.
    pub fn empty(limit: impl Into<Option<Limit>>) -> Self {
        TokenBucket { limit: limit.into(), tokens: 0, last: Duration::ZERO, delay: Duration::ZERO, parent: Unshaped }
    }

    /// The same bucket below `parent`.
    pub fn below<P: Shaper>(self, parent: P) -> TokenBucket<P> {
        TokenBucket { limit: self.limit, tokens: self.tokens, last: self.last, delay: self.delay, parent }
    }
}

impl<P> TokenBucket<P> {
    /// A bucket that must have room as well.
    pub fn parent(&self) -> &P {
        &self.parent
    }

    /// The limit in force.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// Puts another limit in force from the time of the last [`drip`](Shaper::drip) on.
    /// Tokens already in the bucket stay, as far as the new burst holds them: no credit
    /// comes from the change and no debt outlives it.
    pub fn set_limit(&mut self, limit: impl Into<Option<Limit>>) {
        self.limit = limit.into();
        self.tokens = self.tokens.min(self.limit.map_or(0, |limit| in_tokens(limit.burst)));
    }
}

impl<P: Shaper> Shaper for TokenBucket<P> {
    fn drip(&mut self, now: Duration) {
        self.parent.drip(now);
        let delay = std::mem::take(&mut self.delay);
        if let Some(limit) = self.limit {
            let passed = now.saturating_sub(self.last);
            let burst = in_tokens(limit.burst);
            let credit = |time| yielded_tokens(limit.rate, time);
            // Credit that was earned before stays, unless it was left unused.
            let kept = if passed > CREDIT_LASTS { burst } else { burst.max(self.tokens) };
            let most = kept.saturating_add(credit(delay)).min(burst.saturating_add(credit(limit.catch_up)));
            self.tokens = most.min(self.tokens.saturating_add(credit(passed)));
        }
        self.last = self.last.max(now);
    }

    fn late(&mut self, delay: Duration) {
        self.parent.late(delay);
        self.delay = self.delay.saturating_add(delay);
    }

    fn take(&mut self, least: u64, most: u64) -> Result<u64, Refusal> {
        if self.limit.is_none() {
            return self.parent.take(least, most);
        }
        let most = most.min(whole_bytes(self.tokens));
        if most < least {
            return Err(Refusal { again: self.due_for(least) });
        }
        let taken = self.parent.take(least, most)?;
        self.tokens -= in_tokens(taken);
        Ok(taken)
    }

    fn rest(&mut self) -> Option<Duration> {
        self.parent.rest()
    }

    fn in_hand(&self) -> u64 {
        self.limit.map_or(u64::MAX, |_| whole_bytes(self.tokens)).min(self.parent.in_hand())
    }

    fn refund(&mut self, unused: u64) {
        self.parent.refund(unused);
        if let Some(limit) = self.limit {
            let most = in_tokens(limit.burst).saturating_add(yielded_tokens(limit.rate, limit.catch_up));
            self.tokens = most.min(self.tokens + in_tokens(unused));
        }
    }

    fn due_for(&self, bytes: u64) -> Option<Duration> {
        let Some(limit) = self.limit else { return self.parent.due_for(bytes) };
        let missing = in_tokens(bytes).saturating_sub(self.tokens);
        let own = match missing {
            0 => Duration::ZERO,
            _ if limit.rate == 0 => return None,
            _ => {
                let nanos = missing.div_ceil(limit.rate.into());
                // At most u64::MAX seconds, since no more bytes than that are missing.
                self.last.saturating_add(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32))
            }
        };
        Some(own.max(self.parent.due_for(bytes)?))
    }

    fn depth(&self) -> u64 {
        self.limit.map_or(u64::MAX, |limit| limit.burst).min(self.parent.depth())
    }

    fn quantum(&self) -> u64 {
        self.limit.map_or(1, |limit| limit.quantum).max(self.parent.quantum())
    }
}

/// The whole bytes in a number of tokens.
pub(crate) fn whole_bytes(tokens: u128) -> u64 {
    u64::try_from(tokens / TOKENS_PER_BYTE).unwrap_or(u64::MAX)
}

/// A whole number of bytes in the unit of the bucket.
pub(crate) fn in_tokens(bytes: u64) -> u128 {
    u128::from(bytes) * TOKENS_PER_BYTE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(millis: u64) -> Result<u64, Refusal> {
        Err(Refusal { again: Some(Duration::from_millis(millis)) })
    }

    #[test]
    fn grants_nothing_below_the_quantum_unless_less_is_wanted() {
        let mut bucket = TokenBucket::empty(Limit::new(1000, 100).with_quantum(10));
        bucket.drip(Duration::from_millis(9));
        assert_eq!(bucket.grant(50), refused(10));
        assert_eq!(bucket.grant(3), Ok(3));
        assert_eq!(bucket.grant(50), refused(13));
    }

    #[test]
    fn a_delay_of_the_machine_is_made_up_for_and_silence_is_not() {
        let limit = Limit::new(1000, 5).with_catch_up(Duration::from_millis(40));
        let mut bucket = TokenBucket::empty(limit);
        bucket.late(Duration::from_millis(28));
        bucket.drip(Duration::from_millis(30));
        assert_eq!(bucket.grant(100), Ok(30));
        bucket.drip(Duration::from_secs(4));
        assert_eq!(bucket.grant(100), Ok(5));
        bucket.late(Duration::from_millis(500));
        bucket.drip(Duration::from_secs(5));
        assert_eq!(bucket.grant(100), Ok(45), "the burst and the catch-up");
    }

    #[test]
    fn delays_add_up_until_they_are_made_up_for() {
        let limit = Limit::new(1000, 5).with_catch_up(Duration::from_millis(40));
        let mut bucket = TokenBucket::empty(limit);
        for turn in 1..=4 {
            bucket.late(Duration::from_millis(10));
            bucket.drip(Duration::from_millis(10 * turn));
        }
        assert_eq!(bucket.grant(100), Ok(40));
    }

    #[test]
    fn credit_for_a_delay_that_is_not_used_is_forgotten() {
        let limit = Limit::new(1000, 5).with_catch_up(Duration::from_millis(40));
        let mut bucket = TokenBucket::empty(limit);
        bucket.late(Duration::from_millis(30));
        bucket.drip(Duration::from_millis(30));
        bucket.drip(Duration::from_millis(90));
        assert_eq!(bucket.grant(100), Ok(5));
    }

    #[test]
    fn a_limit_of_records_never_grants_a_part_of_one() {
        let limit = Limit::paced_in(Unit::Records, 5 * TOKENS_PER_RECORD, None);
        assert_eq!((limit.burst(), limit.quantum()), (TOKENS_PER_RECORD, TOKENS_PER_RECORD));
        let limit = Limit::paced_in(Unit::Records, 1, Some(Burst::Time(Duration::from_millis(1))));
        assert_eq!(limit.quantum(), TOKENS_PER_RECORD, "one an hour");
        let limit = Limit::paced_in(Unit::Records, 1_000_000 * TOKENS_PER_RECORD, None);
        assert_eq!((limit.burst() / 3600, limit.quantum() / 3600), (9000, 4000), "9 ms and 4 ms");
        let limit = Limit::paced_in(Unit::Records, 5 * TOKENS_PER_RECORD, Some(Burst::Bytes(10)));
        assert_eq!(limit.burst() / 3600, 10);
    }

    #[test]
    fn the_numbers_of_a_limit_are_in_order() {
        assert_eq!(Limit::new(10, 0).burst(), 1);
        assert_eq!(Limit::new(10, 5).with_quantum(9).quantum(), 5);
        assert_eq!(Limit::new(10, 5).with_quantum(0).quantum(), 1);
        let slow = Limit::paced(21_845, Some(Burst::Bytes(1 << 20)));
        assert_eq!(slow.quantum(), 87, "4 ms, whatever the burst");
    }

    #[test]
    fn a_rate_of_zero_is_never_due() {
        let bucket = TokenBucket::empty(Limit::new(0, 100));
        assert_eq!(bucket.due(1), None);
    }

    #[test]
    fn a_clock_that_goes_back_neither_gives_nor_takes() {
        let mut bucket = TokenBucket::empty(Limit::new(1000, 100));
        bucket.drip(Duration::from_millis(10));
        bucket.drip(Duration::from_millis(5));
        bucket.drip(Duration::from_millis(10));
        assert_eq!(bucket.grant(100), Ok(10));
    }

    #[test]
    fn takes_what_both_bucket_and_parent_have_room_for() {
        use std::{cell::RefCell, rc::Rc};
        let parent = Rc::new(RefCell::new(TokenBucket::full(Limit::new(10, 30))));
        let mut one = TokenBucket::full(Limit::new(10, 20)).below(parent.clone());
        let mut other = TokenBucket::full(Limit::new(10, 20)).below(parent.clone());
        assert_eq!(one.grant(100), Ok(20));
        assert_eq!((other.in_hand(), other.grant(100)), (10, Ok(10)));
        other.refund(5);
        assert_eq!(one.grant(100), refused(100));
        assert_eq!(other.grant(100), Ok(5));
    }

    #[test]
    fn reads_a_burst_as_size_or_time() {
        assert_eq!(parse_burst("1s"), Ok(Burst::Time(Duration::from_secs(1))));
        assert_eq!(parse_burst("100us"), Ok(Burst::Time(Duration::from_micros(100))));
        for text in ["", "0", "0ms", "-5ms", "x", "5 parsecs"] {
            assert!(parse_burst(text).is_err(), "{text}");
        }
    }
}
