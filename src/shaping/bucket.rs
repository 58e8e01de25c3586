//! The token bucket.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Shaper, Unshaped};
use crate::units::{UnitError, parse_size};

/// Tokens are counted in billionths of a byte: a rate of one byte a second drips exactly
/// one of them each nanosecond, so no division is ever rounded and nothing drifts.
pub(crate) const TOKENS_PER_BYTE: u128 = 1_000_000_000;

/// How long to wait between two grants where more is wanted. Fewer and larger grants cost
/// less, and show as larger bursts: `docs/performance.md` weighs the two.
const QUANTUM: Duration = Duration::from_micros(2500);

/// What a silence earns, where the user does not say otherwise: enough to get up to speed.
const REST: Duration = Duration::from_millis(5);

/// Who has let so much time pass was not late, but had nothing to do or was stopped.
const SILENCE: Duration = Duration::from_millis(50);

/// No grant need be larger than what the neighbours' pipes hold, 1 MiB each: a little less, so
/// that the producer's does not run dry.
pub(crate) const LARGEST_QUANTUM: u64 = 7 << 17;

/// Depth of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Burst {
    /// So many bytes, whatever the rate.
    Bytes(u64),
    /// What the rate yields in this time.
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
        text.parse::<jiff::SignedDuration>().ok().and_then(|time| time.try_into().ok()).map(Burst::Time)
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

/// What a token bucket promises: in every interval of length t at most `burst + rate * t`
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes a second. 0 grants nothing once the bucket is empty.
    pub rate: u64,
    /// Depth of the bucket in bytes, at least 1.
    pub burst: u64,
    /// Bytes worth getting up for: where more is wanted, nothing is granted until so many
    /// are due. 1 to `rest`.
    pub quantum: u64,
    /// Bytes that a silence earns at most, 1 to `burst`: more is only for those who come late
    /// although bytes are waiting.
    pub rest: u64,
}

impl Limit {
    /// A limit that grants every single byte as soon as it is due.
    pub fn new(rate: u64, burst: u64) -> Self {
        Limit { rate, burst, quantum: 1, rest: burst }
    }

    /// A limit for a running program, `rate` bytes a second, with a quantum that costs little.
    /// A `burst` that is given is also what a silence earns; one that is not makes up for
    /// delays of the machine, and little of it can be earned by silence.
    pub fn paced(rate: u64, burst: Option<Burst>) -> Self {
        let rest = burst.unwrap_or(Burst::Time(REST)).of(rate);
        let burst = burst.unwrap_or_default().of(rate);
        let quantum = yielded(rate, QUANTUM).min(LARGEST_QUANTUM).min(burst / 2).min(rest);
        Limit { rate, burst, quantum: quantum.max(1), rest }
    }

    /// The same with the largest quantum that burst and rest allow, twice that of
    /// [`paced`](Self::paced) by default: for those who pay more for each grant.
    pub fn coarse(self) -> Self {
        let quantum = (self.burst / 2).min(self.rest).min(LARGEST_QUANTUM).max(self.quantum);
        Limit { quantum, ..self }
    }
}

impl Burst {
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
    let tokens = u128::from(rate).saturating_mul(time.as_nanos());
    (tokens / TOKENS_PER_BYTE).try_into().unwrap_or(u64::MAX)
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
/// ```
/// use pcproxy::shaping::{Limit, Shaper, TokenBucket};
/// use std::time::Duration;
///
/// let mut bucket = TokenBucket::empty(Limit::new(1000, 50));
/// bucket.drip(Duration::from_millis(20));
/// assert_eq!(bucket.grant(100), 20);
/// assert_eq!(bucket.due(100), Some(Duration::from_millis(21)));
/// bucket.drip(Duration::from_secs(3600)); // an hour of silence earns no more than the burst
/// assert_eq!(bucket.grant(100), 50);
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket<P = Unshaped> {
    limit: Option<Limit>,
    /// At most `burst`, in billionths of a byte.
    tokens: u128,
    /// Up to when tokens have dripped.
    last: Duration,
    parent: P,
}

impl TokenBucket {
    /// A bucket that is full at time zero, as Twisted's is.
    pub fn full(limit: Limit) -> Self {
        TokenBucket { tokens: in_tokens(limit.burst), ..Self::empty(limit) }
    }

    /// A bucket that is empty at time zero, so that the first interval is no exception.
    pub fn empty(limit: impl Into<Option<Limit>>) -> Self {
        TokenBucket { limit: limit.into(), tokens: 0, last: Duration::ZERO, parent: Unshaped }
    }

    /// The same bucket below `parent`.
    pub fn below<P: Shaper>(self, parent: P) -> TokenBucket<P> {
        TokenBucket { limit: self.limit, tokens: self.tokens, last: self.last, parent }
    }
}

impl<P> TokenBucket<P> {
    /// What must have room as well.
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
        if let Some(limit) = self.limit {
            let passed = now.saturating_sub(self.last);
            let dripped = passed.as_nanos().saturating_mul(limit.rate.into());
            // At a slow rate a quantum may take longer than that to come.
            let silent = passed > SILENCE && dripped > in_tokens(limit.quantum).saturating_mul(4);
            let most = if silent { limit.rest } else { limit.burst };
            self.tokens = in_tokens(most).min(self.tokens.saturating_add(dripped));
        }
        self.last = self.last.max(now);
    }

    fn take(&mut self, least: u64, most: u64) -> u64 {
        if self.limit.is_none() {
            return self.parent.take(least, most);
        }
        let most = most.min((self.tokens / TOKENS_PER_BYTE) as u64);
        if most < least {
            return 0;
        }
        let taken = self.parent.take(least, most);
        self.tokens -= in_tokens(taken);
        taken
    }

    fn refund(&mut self, unused: u64) {
        self.parent.refund(unused);
        if let Some(limit) = self.limit {
            self.tokens = in_tokens(limit.burst).min(self.tokens + in_tokens(unused));
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
        self.limit.map_or(u64::MAX, |limit| limit.rest).min(self.parent.depth())
    }

    fn quantum(&self) -> u64 {
        self.limit.map_or(1, |limit| limit.quantum.max(1)).max(self.parent.quantum())
    }
}

/// A whole number of bytes in the unit of the bucket.
pub(crate) fn in_tokens(bytes: u64) -> u128 {
    u128::from(bytes) * TOKENS_PER_BYTE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_nothing_below_the_quantum_unless_less_is_wanted() {
        let mut bucket = TokenBucket::empty(Limit { quantum: 10, ..Limit::new(1000, 100) });
        bucket.drip(Duration::from_millis(9));
        assert_eq!(bucket.grant(50), 0);
        assert_eq!(bucket.due(50), Some(Duration::from_millis(10)));
        assert_eq!(bucket.grant(3), 3);
        assert_eq!(bucket.due(50), Some(Duration::from_millis(13)));
    }

    #[test]
    fn being_late_earns_the_burst_and_silence_only_the_rest() {
        let limit = Limit { quantum: 3, rest: 5, ..Limit::new(1000, 40) };
        let mut bucket = TokenBucket::empty(limit);
        bucket.drip(Duration::from_millis(30));
        assert_eq!(bucket.grant(100), 30);
        bucket.drip(Duration::from_secs(4));
        assert_eq!(bucket.grant(100), 5);
    }

    #[test]
    fn waiting_for_a_slow_rate_is_no_silence() {
        let mut bucket = TokenBucket::empty(Limit { rest: 3, ..Limit::new(10, 9) });
        for late in 1..100 {
            bucket.drip(Duration::from_millis(100 * late + 7));
            assert_eq!(bucket.grant(9), 1);
        }
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
        assert_eq!(bucket.grant(100), 10);
    }

    #[test]
    fn takes_what_both_bucket_and_parent_have_room_for() {
        use std::{cell::RefCell, rc::Rc};
        let parent = Rc::new(RefCell::new(TokenBucket::full(Limit::new(10, 30))));
        let mut one = TokenBucket::full(Limit::new(10, 20)).below(parent.clone());
        let mut other = TokenBucket::full(Limit::new(10, 20)).below(parent.clone());
        assert_eq!(one.grant(100), 20);
        assert_eq!(other.grant(100), 10);
        other.refund(5);
        assert_eq!(one.grant(100), 0);
        assert_eq!(other.grant(100), 5);
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
