//! The promise of a token bucket, `burst + rate * t` in every interval, checked against an
//! independent model in exact integers. All time is simulated.

mod support;

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use pcproxy::shaping::{Limit, Refusal, Shaper, TokenBucket, Unshaped};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use support::config;

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// Billionths of a byte in a byte, nanoseconds in a second.
const BILLION: u128 = 1_000_000_000;

/// The model: what may have been used, in billionths of a byte since the beginning.
///
/// From any one grant to any later one at most `burst + integral of the rate` may be used,
/// with the burst that was in force when the interval began (so never more than the largest
/// in force). An interval that begins or ends between grants is longer and uses no more.
/// With A(t) used and R(t) the integral, each grant at s thereby bounds all later A(t) by
/// R(t) + burst(s) + A(s) - R(s); the least of these bounds is all that need be kept.
struct Curve {
    limit: Option<Limit>,
    now: Duration,
    integral: u128,
    used: u128,
    /// The least `burst(s) + A(s) - R(s)` of all grants.
    least: i128,
}

impl Curve {
    fn new(limit: Limit) -> Self {
        Curve { limit: Some(limit), now: Duration::ZERO, integral: 0, used: 0, least: i128::MAX }
    }

    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.integral += passed.as_nanos() * self.limit.map_or(0, |limit| u128::from(limit.rate()));
        self.now = self.now.max(now);
    }

    /// Without a limit nothing is promised, and every interval begins anew.
    fn change(&mut self, limit: Option<Limit>) {
        self.limit = limit;
        if limit.is_none() {
            self.least = i128::MAX;
        }
    }

    fn uses(&mut self, bytes: u64) -> TestCaseResult {
        let (Some(limit), true) = (self.limit, bytes > 0) else { return Ok(()) };
        let ahead = |used: u128| used as i128 - self.integral as i128;
        let from_now = (u128::from(limit.burst()) * BILLION) as i128 + ahead(self.used);
        self.least = self.least.min(from_now);
        self.used += u128::from(bytes) * BILLION;
        let excess = ahead(self.used) - self.least;
        prop_assert!(excess <= 0, "{bytes} bytes at {:?}: {excess} billionths of a byte too many", self.now);
        Ok(())
    }
}

/// How much is granted: nothing, where it is refused.
trait Granted: Shaper {
    fn granted(&mut self, want: u64) -> u64 {
        self.grant(want).unwrap_or(0)
    }
}

impl<S: Shaper + ?Sized> Granted for S {}

/// What happens to a bucket.
#[derive(Clone, Debug)]
enum Event {
    /// The clock goes on.
    Pass(Duration),
    /// The clock is set back, and goes on from there.
    Back(Duration),
    /// So many bytes are offered; of what is granted, at most so many are given back, at once
    /// or after a while.
    Offer { want: u64, unused: u64, after: Duration },
    /// So many bytes are offered when they are due, and a nanosecond before.
    WhenDue(u64),
    /// Another limit, or none.
    Change(Option<Limit>),
}

/// A number of any order of magnitude in `range`.
fn magnitude(range: RangeInclusive<u64>) -> impl Strategy<Value = u64> + Clone {
    let (low, high) = range.into_inner();
    (low.max(1).ilog2()..=high.ilog2()).prop_flat_map(move |bits| {
        let from = if low == 0 && bits == 0 { 0 } else { 1 << bits };
        let to = (u128::from(from.max(1)) * 2 - 1) as u64;
        from.max(low)..=to.min(high)
    })
}

fn limit() -> impl Strategy<Value = Limit> + Clone {
    let rate = magnitude(1..=10_000_000_000_000);
    (rate, magnitude(1..=10_000_000_000_000), magnitude(1..=1 << 40)).prop_map(|(rate, burst, quantum)| {
        // A quantum that takes centuries is no quantum.
        let quantum = quantum.min(burst).min(rate.saturating_mul(3600));
        Limit::new(rate, burst).with_quantum(quantum)
    })
}

/// From no time at all to a year.
fn time() -> impl Strategy<Value = Duration> + Clone {
    magnitude(0..=YEAR.as_nanos() as u64).prop_map(Duration::from_nanos)
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = || magnitude(0..=1 << 45);
    let brief = || magnitude(0..=1_000_000_000).prop_map(Duration::from_nanos);
    let changed = prop_oneof![
        6 => limit().prop_map(Some),
        1 => limit().prop_map(|limit| Some(limit.with_rate(0))),
        1 => Just(None),
    ];
    prop_oneof![
        3 => brief().prop_map(Event::Pass),
        2 => time().prop_map(Event::Pass),
        1 => time().prop_map(Event::Back),
        6 => (bytes(), bytes(), brief()).prop_map(|(want, unused, after)| Event::Offer { want, unused, after }),
        2 => Just(Event::Offer { want: u64::MAX, unused: 0, after: Duration::ZERO }),
        4 => bytes().prop_map(Event::WhenDue),
        1 => changed.prop_map(Event::Change),
    ]
}

fn full_or_empty(full: bool, limit: Limit) -> TokenBucket {
    if full { TokenBucket::full(limit) } else { TokenBucket::empty(limit) }
}

/// Offers `want` bytes at the time when they are due, and a nanosecond before. Returns the
/// time, and what was granted.
fn offer_when_due(bucket: &mut impl Shaper, now: Duration, want: u64) -> Result<(Duration, u64), TestCaseError> {
    let Some(due) = bucket.due(want) else {
        bucket.drip(now + YEAR);
        prop_assert_eq!(bucket.granted(want), 0, "never due, but granted");
        return Ok((now + YEAR, 0));
    };
    if due > now {
        bucket.drip(due - NANOSECOND);
        prop_assert_eq!(bucket.granted(want), 0, "due at {:?}, but granted before", due);
        bucket.drip(due);
    }
    let granted = bucket.granted(want);
    let refused = bucket.grant(u64::MAX);
    prop_assert!(
        refused.is_ok() || refused == Err(Refusal { again: bucket.due(u64::MAX) }),
        "a refusal says when to try again"
    );
    bucket.refund(refused.unwrap_or(0));
    prop_assert!(granted > 0 || want == 0, "due at {due:?} with {want} wanted, but not granted at {:?}", due.max(now));
    Ok((due.max(now), granted))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_interval_gets_more_than_burst_and_rate_allow(
        full: bool,
        limit in limit(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut bucket = full_or_empty(full, limit);
        let mut curve = Curve::new(limit);
        let mut now = Duration::ZERO;
        for event in events {
            match event {
                Event::Pass(time) => now += time,
                Event::Back(time) => now = now.saturating_sub(time),
                Event::Offer { want, unused, after } => {
                    let granted = bucket.granted(want);
                    prop_assert!(granted <= want);
                    let unused = unused.min(granted);
                    curve.uses(granted - unused)?;
                    now += after;
                    bucket.drip(now);
                    bucket.refund(unused);
                }
                Event::WhenDue(want) => {
                    let granted;
                    (now, granted) = offer_when_due(&mut bucket, now.max(curve.now), want)?;
                    curve.pass(now);
                    curve.uses(granted)?;
                }
                Event::Change(limit) => {
                    bucket.set_limit(limit);
                    curve.change(limit);
                }
            }
            bucket.drip(now);
            curve.pass(now);
        }
    }

    #[test]
    fn no_interval_gets_more_than_parents_allow_either(
        full: bool,
        limits in prop::collection::vec(limit(), 4),
        events in prop::collection::vec((0..4usize, event()), 1..60),
    ) {
        // Two below one, and a third beside it, below the same root.
        let mut family = Family::new(full, &limits);
        let mut curves: Vec<_> = limits.iter().copied().map(Curve::new).collect();
        let mut now = Duration::ZERO;
        for (who, event) in events {
            let (leaf, line) = family.leaf(who);
            match event {
                Event::Pass(time) => now += time,
                Event::Back(time) => now = now.saturating_sub(time),
                Event::Offer { want, unused, .. } => {
                    leaf.drip(now);
                    let granted = leaf.granted(want);
                    let unused = unused.min(granted);
                    leaf.refund(unused);
                    for &bucket in line {
                        curves[bucket].pass(now);
                        curves[bucket].uses(granted - unused)?;
                    }
                }
                Event::WhenDue(want) => {
                    now = now.max(leaf.due(want).unwrap_or(now));
                    leaf.drip(now);
                    let granted = leaf.granted(want);
                    for &bucket in line {
                        curves[bucket].pass(now);
                        curves[bucket].uses(granted)?;
                    }
                }
                Event::Change(limit) => {
                    // All that is above a bucket drips with it.
                    leaf.drip(now);
                    line.iter().for_each(|&bucket| curves[bucket].pass(now));
                    family.set_limit(who, limit);
                    curves[who].change(limit);
                }
            }
        }
    }

    #[test]
    fn a_child_is_due_exactly_when_it_and_its_parent_can_grant(
        full: (bool, bool),
        limits in (limit(), limit()),
        offers in prop::collection::vec((time(), magnitude(1..=1 << 45)), 1..20),
    ) {
        let each_byte = |limit: Limit| limit.with_quantum(1);
        let parent = Rc::new(RefCell::new(full_or_empty(full.1, each_byte(limits.1))));
        let mut child = full_or_empty(full.0, each_byte(limits.0)).below(parent);
        let mut now = Duration::ZERO;
        for (time, want) in offers {
            (now, _) = offer_when_due(&mut child, now, want)?;
            now += time;
            child.drip(now);
        }
    }

    #[test]
    fn a_child_is_due_exactly_when_it_and_its_parent_can_grant_their_quanta(
        full: (bool, bool),
        limits in (limit(), limit()),
        offers in prop::collection::vec((time(), magnitude(1..=1 << 45)), 1..20),
    ) {
        let parent = Rc::new(RefCell::new(full_or_empty(full.1, limits.1)));
        let mut child = full_or_empty(full.0, limits.0).below(parent);
        let mut now = Duration::ZERO;
        for (time, want) in offers {
            (now, _) = offer_when_due(&mut child, now, want)?;
            now += time;
            child.drip(now);
        }
    }

    #[test]
    fn a_child_gets_no_less_than_its_quantum_where_more_is_wanted(
        limits in (limit(), limit()),
        offers in prop::collection::vec((time(), magnitude(1..=1 << 45)), 1..20),
    ) {
        let (own, above) = limits;
        let parent = Rc::new(RefCell::new(TokenBucket::empty(above)));
        let mut child = TokenBucket::empty(own).below(parent);
        let mut now = Duration::ZERO;
        for (time, want) in offers {
            now += time;
            child.drip(now);
            let granted = child.granted(want);
            // What neither could ever hold is not waited for.
            let least = want.min(own.quantum()).min(above.burst());
            prop_assert!(granted == 0 || granted >= least, "{granted} of {want} granted, worth it from {least}");
        }
    }

    #[test]
    fn with_enough_on_offer_nothing_but_less_than_a_quantum_is_missing(
        limit in limit(),
        times in prop::collection::vec(magnitude(0..=HOUR.as_nanos() as u64).prop_map(Duration::from_nanos), 1..300),
    ) {
        // As long as the bucket never fills, nothing is lost.
        let longest = (u128::from(limit.burst() - limit.quantum()) * BILLION / u128::from(limit.rate())) as u64;
        let mut bucket = TokenBucket::empty(limit);
        let (mut now, mut granted) = (Duration::ZERO, 0);
        for time in times {
            now += time.min(Duration::from_nanos(longest));
            bucket.drip(now);
            granted += u128::from(bucket.granted(u64::MAX)) * BILLION;
            let earned = now.as_nanos() * u128::from(limit.rate());
            prop_assert!(granted <= earned);
            prop_assert!(earned - granted < u128::from(limit.quantum()) * BILLION);
        }
    }

    #[test]
    fn a_parent_hands_all_that_it_has_to_its_children(
        limit in limit(),
        shares in prop::collection::vec((any::<bool>(), magnitude(1..=1 << 45), 1..=1_000_000_000u64), 1..200),
    ) {
        let limit = Limit::new(limit.rate(), limit.burst().max(limit.rate() + 1));
        let parent = Rc::new(RefCell::new(TokenBucket::empty(limit)));
        let mut children = [0, 1].map(|_| TokenBucket::full(Limit::new(u64::MAX, u64::MAX)).below(parent.clone()));
        let (mut now, mut granted) = (Duration::ZERO, 0);
        for (first, want, nanos) in shares {
            now += Duration::from_nanos(nanos);
            for (child, want) in [(usize::from(!first), want), (usize::from(first), u64::MAX)] {
                children[child].drip(now);
                granted += u128::from(children[child].granted(want));
            }
            prop_assert_eq!(granted, now.as_nanos() * u128::from(limit.rate()) / BILLION);
        }
    }

    #[test]
    fn extreme_numbers_do_not_overflow(
        full: bool,
        limit in extreme_limit(),
        events in prop::collection::vec((extreme(), extreme(), 0..1_000_000_000u32, extreme_limit()), 1..20),
    ) {
        let mut bucket = full_or_empty(full, limit).below(full_or_empty(!full, limit));
        for (bytes, seconds, nanos, limit) in events {
            let now = Duration::new(seconds, nanos);
            bucket.drip(now);
            let burst = bucket.limit().map_or(u64::MAX, |limit| limit.burst());
            let granted = bucket.granted(bytes);
            prop_assert!(granted <= bytes.min(burst));
            let _ = bucket.due(bytes);
            bucket.refund(granted);
            bucket.refund(bytes);
            bucket.set_limit(limit);
            prop_assert!(bucket.granted(u64::MAX) <= limit.burst());
        }
    }
}

fn extreme() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![Just(0), Just(1), Just(u64::MAX - 1), Just(u64::MAX), any::<u64>(), magnitude(0..=u64::MAX)]
}

fn extreme_limit() -> impl Strategy<Value = Limit> {
    let at_least_1 = || extreme().prop_map(|number| number.max(1));
    (extreme(), at_least_1(), at_least_1())
        .prop_map(|(rate, burst, quantum)| Limit::new(rate, burst).with_quantum(quantum))
}

type Shared<P> = Rc<RefCell<TokenBucket<P>>>;

/// Four buckets: 0 is above 1 and 3, and 1 is above 2.
struct Family {
    root: Shared<Unshaped>,
    middle: Shared<Shared<Unshaped>>,
    leaf: TokenBucket<Shared<Shared<Unshaped>>>,
    beside: TokenBucket<Shared<Unshaped>>,
}

impl Family {
    fn new(full: bool, limits: &[Limit]) -> Self {
        let bucket = |at: usize| full_or_empty(full, limits[at]);
        let root = Rc::new(RefCell::new(bucket(0)));
        let middle = Rc::new(RefCell::new(bucket(1).below(root.clone())));
        let leaf = bucket(2).below(middle.clone());
        let beside = bucket(3).below(root.clone());
        Family { root, middle, leaf, beside }
    }

    /// The bucket `who`, and which buckets what it grants goes through.
    fn leaf(&mut self, who: usize) -> (&mut dyn Shaper, &'static [usize]) {
        match who {
            0 => (&mut self.root, &[0]),
            1 => (&mut self.middle, &[1, 0]),
            2 => (&mut self.leaf, &[2, 1, 0]),
            _ => (&mut self.beside, &[3, 0]),
        }
    }

    fn set_limit(&mut self, who: usize, limit: Option<Limit>) {
        match who {
            0 => self.root.borrow_mut().set_limit(limit),
            1 => self.middle.borrow_mut().set_limit(limit),
            2 => self.leaf.set_limit(limit),
            _ => self.beside.set_limit(limit),
        }
    }
}

/// Takes what `limit` grants every `step` for a time of `total`, and returns how much it was.
fn taken_over(total: Duration, step: Duration, limit: Limit) -> u128 {
    let mut bucket = TokenBucket::empty(limit);
    let (mut now, mut taken) = (Duration::ZERO, 0);
    while now < total {
        now = total.min(now + step);
        bucket.drip(now);
        taken += u128::from(bucket.granted(u64::MAX));
    }
    taken
}

#[test]
fn a_year_at_one_byte_a_second_is_exact() {
    let limit = Limit::new(1, 3600);
    // Steps that are no multiple of what a byte takes.
    assert_eq!(taken_over(YEAR, Duration::from_nanos(2_345_678_901_234), limit), u128::from(YEAR.as_secs()));
}

#[test]
fn a_year_at_a_million_million_bytes_a_second_is_exact() {
    let rate = 1_000_000_000_000;
    let limit = Limit::new(rate, rate * 3600);
    let expected = u128::from(YEAR.as_secs()) * u128::from(rate);
    assert_eq!(taken_over(YEAR, Duration::from_nanos(2_345_678_901_237), limit), expected);
}

#[test]
fn an_hour_in_quanta_falls_short_by_less_than_one() {
    for rate in [1, 7, 1000, 10_000_019, 999_999_999_989, 10_000_000_000_000] {
        let limit = Limit::new(rate, rate * 3).with_quantum(rate);
        let mut bucket = TokenBucket::empty(limit);
        let mut taken = 0;
        while let Some(due) = bucket.due(u64::MAX)
            && due <= HOUR
        {
            bucket.drip(due);
            taken += bucket.granted(u64::MAX);
        }
        assert_eq!(taken, 3600 * rate, "at {rate} bytes a second");
    }
}

#[test]
fn an_hour_of_silence_is_worth_one_burst() {
    for rate in [1, 1_000_000, 10_000_000_000_000] {
        let mut bucket = TokenBucket::empty(Limit::new(rate, 100));
        bucket.drip(HOUR);
        assert_eq!(bucket.granted(u64::MAX), 100);
        assert_eq!(bucket.granted(u64::MAX), 0);
    }
}

#[test]
fn nothing_is_granted_where_nothing_is_wanted() {
    let parent = Rc::new(RefCell::new(TokenBucket::full(Limit::new(10, 10))));
    let mut child = TokenBucket::full(Limit::new(10, 10)).below(parent);
    assert_eq!(child.granted(0), 0);
    assert_eq!(TokenBucket::empty(None).granted(0), 0);
    assert_eq!(child.granted(10), 10, "and nothing was taken");
}

#[test]
fn what_is_given_back_is_granted_again_and_no_more() {
    let mut bucket = TokenBucket::full(Limit::new(10, 10));
    assert_eq!(bucket.granted(8), 8);
    bucket.refund(5);
    assert_eq!(bucket.granted(u64::MAX), 7);
    bucket.refund(7);
    bucket.drip(HOUR);
    assert_eq!(bucket.granted(u64::MAX), 10);
}

#[test]
fn a_change_of_limit_brings_no_credit() {
    let mut bucket = TokenBucket::full(Limit::new(10, 10));
    bucket.set_limit(Limit::new(1_000_000, 1_000_000));
    assert_eq!(bucket.granted(u64::MAX), 10, "a deeper bucket starts with what was there");
    bucket.drip(Duration::from_secs(1));
    bucket.set_limit(Limit::new(10, 10));
    assert_eq!(bucket.granted(u64::MAX), 10, "a shallower one spills");
    bucket.set_limit(None);
    bucket.drip(HOUR);
    bucket.set_limit(Limit::new(10, 10));
    assert_eq!(bucket.granted(u64::MAX), 0, "no limit earns nothing for the next");
}

#[test]
fn the_largest_bucket_at_the_highest_rate_is_refilled_within_a_second() {
    let mut bucket = TokenBucket::full(Limit::new(u64::MAX, u64::MAX).with_quantum(u64::MAX));
    assert_eq!(bucket.granted(u64::MAX), u64::MAX);
    assert_eq!(bucket.due(u64::MAX), Some(Duration::from_secs(1)));
    bucket.drip(Duration::from_secs(1) - NANOSECOND);
    assert_eq!(bucket.granted(u64::MAX), 0);
    bucket.drip(Duration::from_secs(1));
    assert_eq!(bucket.granted(u64::MAX), u64::MAX);
    bucket.drip(Duration::MAX);
    assert_eq!(bucket.granted(u64::MAX), u64::MAX);
    assert_eq!(bucket.due(1), Some(Duration::MAX));
}

#[test]
fn a_wait_of_more_than_centuries_is_exact_too() {
    let mut bucket = TokenBucket::empty(Limit::new(1, u64::MAX).with_quantum(u64::MAX));
    let due = Duration::from_secs(u64::MAX);
    assert_eq!(bucket.due(u64::MAX), Some(due));
    bucket.drip(due - NANOSECOND);
    assert_eq!(bucket.granted(u64::MAX), 0);
    bucket.drip(due);
    assert_eq!(bucket.granted(u64::MAX), u64::MAX);
}
