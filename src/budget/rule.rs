//! One budget, divided among many members.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::os::Id;
use crate::shaping::{Burst, LARGEST_QUANTUM, TOKENS_A_BYTE, in_tokens};
use crate::units::show_rate;

/// How deep the bucket of a group is unless the user says otherwise: each member has as much
/// of its share in hand, so it covers a quantum of half of that, and delays as long again.
const BURST: Burst = Burst::Time(Duration::from_millis(12));

/// Nobody stays away for longer than this while it waits for tokens: so soon does a changed
/// limit, or the share of one who has left, reach everyone.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Who waits for tokens and has not asked again for so long does not wait any more.
const FORGOTTEN: Duration = Duration::from_millis(100);

/// However full the bucket, nobody is called sooner than that to empty it.
const SHORTEST_WAIT: Duration = Duration::from_micros(500);

/// How long tokens that were taken may be used. Later they count as not taken: otherwise those
/// that idle members keep in hand would add up to a burst beyond the group's.
const USE_WITHIN: Duration = Duration::from_millis(3);

/// The limit of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLimit {
    /// Bytes a second, at least 1.
    pub rate: u64,
    /// Depth of the group's bucket; the default if nothing.
    pub burst: Option<Burst>,
    /// The limit stays when the last member leaves.
    pub lasting: bool,
}

/// On which terms a member shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Of what nobody is guaranteed, members that wait get parts in proportion to this. At
    /// least 1.
    pub weight: u32,
    /// Bytes a second that it gets before others get more than theirs, while it waits for
    /// tokens.
    pub guaranteed: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { weight: 100, guaranteed: 0 }
    }
}

/// What a member got, and how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// So many bytes; `u64::MAX` is no limit at all.
    pub bytes: u64,
    /// Until when they may be used. What is left then must be given back.
    pub expires: Duration,
    /// When to ask again, if more is wanted.
    pub again: Duration,
    /// The most that asking again is sure to yield in the end.
    pub quantum: u64,
    /// The limit of the group in bytes a second, if it has one.
    pub rate: Option<u64>,
}

/// More is guaranteed to members than the group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overcommitted {
    /// Bytes a second of the group.
    pub rate: u64,
    /// Bytes a second that are guaranteed to others.
    pub guaranteed: u64,
}

impl fmt::Display for Overcommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overcommitted { rate, guaranteed } = *self;
        let show = |rate| show_rate(rate as f64);
        if guaranteed > rate {
            write!(f, "its members are guaranteed {}, which is more than {}", show(guaranteed), show(rate))
        } else {
            write!(f, "only {} of its {} are not guaranteed to others", show(rate - guaranteed), show(rate))
        }
    }
}

impl std::error::Error for Overcommitted {}

/// The bucket of a group, and an account in it for each member: the rule by which HTB and
/// weighted fair queueing divide a link, for members that come and ask.
///
/// Tokens drip into the bucket at the rate of the group and are divided at once among those
/// who wait for some. Each of them has a share of the rate: what it is guaranteed, and of the
/// rest a part in proportion to its weight. Its account holds that share of three quarters of
/// the burst, and of the last quarter a part by its weight alone. What would overflow goes to the accounts that have room, in proportion to the shares
/// (water-filling), and what nobody has room for stays in a pool for who comes next. Who gets
/// all it asked for waits no more, and its account goes to the pool. So what one leaves unused
/// the others get in the same moment, without anyone having to notice that it is idle.
///
/// All accounts and the pool together never hold more than the burst, so in every interval of
/// length t at most `burst + rate * t` bytes are granted, whoever comes, goes or is killed.
/// Tokens are counted in billionths of a byte, as in a [`TokenBucket`](crate::shaping::TokenBucket):
/// nothing is rounded away, nothing drifts.
///
/// The shares are those of the hierarchical token bucket (Devera, HTB, 2002: a class gets its
/// `rate`, and borrows up to its `ceil`), with weights instead of quanta. The `ceil` is a bucket
/// of the member's own.
///
/// ```
/// use pcproxy::budget::{Budget, GroupLimit, Id, Terms};
/// use std::time::Duration;
///
/// let at = Duration::from_millis;
/// let (one, other) = (Id { pid: 1, started: 0 }, Id { pid: 2, started: 0 });
/// let mut budget = Budget::default();
/// budget.join(one, Terms { weight: 100, guaranteed: 0 })?;
/// budget.join(other, Terms { weight: 300, guaranteed: 0 })?;
/// budget.set_limit(Some(GroupLimit { rate: 1_000_000, burst: None, lasting: true }), at(0))?;
/// assert_eq!(budget.take(one, u64::MAX, at(0)).bytes, 0);
/// assert_eq!(budget.take(other, u64::MAX, at(0)).bytes, 0);
/// assert_eq!(budget.take(one, u64::MAX, at(8)).bytes, 2000);
/// assert_eq!(budget.take(other, u64::MAX, at(8)).bytes, 6000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    limit: Option<GroupLimit>,
    /// Up to when tokens have dripped.
    last: Duration,
    /// Tokens that are in nobody's account, in billionths of a byte.
    pool: u128,
    members: Vec<Account>,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Which process it is.
    pub id: Id,
    /// On which terms it shares.
    pub terms: Terms,
    /// Bytes that it has used in all, as of when it asked last.
    pub used: u64,
    /// When it asked last.
    pub asked: Duration,
    /// In billionths of a byte; 0 while it does not wait.
    tokens: u128,
    /// The least room in the bucket since it took some last: had it not taken them, no more
    /// than that would be there still.
    room: u128,
    /// It waits for tokens, unless it has not asked again by then.
    waits_until: Duration,
}

/// The part of the group that one who waits has.
struct Share {
    /// Which member.
    index: usize,
    /// The part, as a fraction with [`Shares::whole`] below it.
    part: u128,
    /// What its account holds, in billionths of a byte.
    depth: u128,
}

struct Shares {
    of: Vec<Share>,
    whole: u128,
    /// What all accounts and the pool hold, in billionths of a byte.
    depth: u128,
}

impl Budget {
    /// The limit in force.
    pub fn limit(&self) -> Option<GroupLimit> {
        self.limit
    }

    /// Everyone who has joined and not left.
    pub fn members(&self) -> &[Account] {
        &self.members
    }

    /// Puts another limit in force from `now` on. Tokens stay, as far as the new burst holds
    /// them: no credit comes from the change.
    ///
    /// # Errors
    /// When more is guaranteed to the members than the new limit has. The old one then stays.
    pub fn set_limit(&mut self, limit: Option<GroupLimit>, now: Duration) -> Result<(), Overcommitted> {
        let guaranteed = self.guaranteed(|_| true);
        if let Some(GroupLimit { rate, .. }) = limit
            && rate < guaranteed
        {
            return Err(Overcommitted { rate, guaranteed });
        }
        self.settle(now);
        self.limit = limit;
        self.settle(now);
        Ok(())
    }

    /// Lets a member in, or changes its terms.
    ///
    /// # Errors
    /// When the group has less left than the terms guarantee.
    pub fn join(&mut self, id: Id, terms: Terms) -> Result<(), Overcommitted> {
        let guaranteed = self.guaranteed(|account| account.id != id);
        if let Some(GroupLimit { rate, .. }) = self.limit
            && terms.guaranteed > rate.saturating_sub(guaranteed)
            && terms.guaranteed > 0
        {
            return Err(Overcommitted { rate, guaranteed });
        }
        self.admit(id, terms);
        Ok(())
    }

    /// Lets a member in whatever it is guaranteed: one that was in before.
    pub fn admit(&mut self, id: Id, terms: Terms) {
        match self.members.iter_mut().find(|account| account.id == id) {
            Some(account) => account.terms = terms,
            None => self.members.push(Account {
                id,
                terms,
                used: 0,
                asked: Duration::ZERO,
                tokens: 0,
                room: 0,
                waits_until: Duration::ZERO,
            }),
        }
    }

    /// Keeps only the members for which `stays` holds. What the others had goes to the rest. A
    /// limit that is not lasting goes with the last of them.
    pub fn retain(&mut self, stays: impl Fn(&Account) -> bool) {
        for account in self.members.iter().filter(|account| !stays(account)) {
            self.pool += account.tokens;
        }
        self.members.retain(stays);
        if self.members.is_empty() {
            self.limit = self.limit.filter(|limit| limit.lasting);
        }
    }

    /// Forgets all tokens, and what time it is: the start of another clock.
    pub fn forget_time(&mut self, now: Duration) {
        self.last = now;
        self.pool = 0;
        for account in &mut self.members {
            (account.tokens, account.room, account.waits_until, account.asked) = (0, 0, Duration::ZERO, now);
        }
    }

    /// Takes tokens for at most `most` bytes; none until a quantum is there, or all that is
    /// wanted. Without a limit, everything is granted. Who is not a member gets nothing.
    pub fn take(&mut self, id: Id, most: u64, now: Duration) -> Grant {
        self.settle(now);
        let soon = now + LONGEST_WAIT;
        let nothing = Grant { bytes: 0, expires: now, again: soon, quantum: 1, rate: None };
        let Some(index) = self.members.iter().position(|account| account.id == id) else { return nothing };
        let member = &mut self.members[index];
        member.asked = now;
        let Some(limit) = self.limit else {
            return Grant { bytes: u64::MAX, expires: soon, again: now, quantum: u64::MAX, rate: None };
        };
        let waited = member.waits_until > now;
        member.waits_until = now + FORGOTTEN;
        if !waited {
            // What was in the pool is for whoever comes next.
            self.settle(now);
        }
        let shares = self.shares(limit);
        let Some(share) = shares.of.iter().find(|share| share.index == index) else { return nothing };
        // Comes for half of what the account holds, and takes no less than two fifths.
        let quantum = whole_bytes(share.depth / 5 * 2).clamp(1, LARGEST_QUANTUM);
        let aim = whole_bytes(share.depth / 2).clamp(1, LARGEST_QUANTUM);
        let held: u128 = shares.of.iter().map(|share| self.members[share.index].tokens).sum();
        let room = shares.depth.saturating_sub(held + self.pool);
        let member = &mut self.members[index];
        // No end of bytes is what no limit grants.
        let has = whole_bytes(member.tokens).min(u64::MAX - 1);
        let bytes = if has >= quantum.min(most) { has.min(most) } else { 0 };
        member.tokens -= in_tokens(bytes);
        member.room = u128::MAX;
        let mut again = now;
        if bytes == most {
            self.pool += std::mem::take(&mut member.tokens);
            member.waits_until = Duration::ZERO;
        } else {
            // An estimate: who comes too early waits once more. If nobody else comes, all
            // accounts are full before long.
            let missing = in_tokens(aim.min(most)).saturating_sub(member.tokens) as f64;
            let drips = limit.rate as f64 * (share.part as f64 / shares.whole as f64);
            let full = 0.75 * (room + in_tokens(bytes)) as f64 / limit.rate as f64;
            let wait = (missing / drips).min(full.max(SHORTEST_WAIT.as_nanos() as f64));
            again += Duration::from_nanos(wait.ceil() as u64).min(LONGEST_WAIT);
        }
        Grant { bytes, expires: now + USE_WITHIN, again, quantum, rate: Some(limit.rate) }
    }

    /// Takes back tokens that a member did not use, as far as there is room for them, and notes
    /// how many it has used in all.
    pub fn give_back(&mut self, id: Id, unused: u64, used: u64) {
        let Some(account) = self.members.iter_mut().find(|account| account.id == id) else { return };
        account.used = used;
        // As if they had been there all the time: what would have overflowed is lost.
        let tokens = in_tokens(unused).min(account.room);
        if account.waits_until.is_zero() {
            self.pool += tokens;
        } else {
            account.tokens += tokens;
        }
        for account in &mut self.members {
            account.room = account.room.saturating_sub(tokens);
        }
    }

    /// Bytes a second that are guaranteed to those for whom `counts` holds.
    fn guaranteed(&self, counts: impl Fn(&Account) -> bool) -> u64 {
        let counted = self.members.iter().filter(|account| counts(account));
        counted.fold(0u64, |sum, account| sum.saturating_add(account.terms.guaranteed))
    }

    /// Lets tokens drip up to `now` and divides what is to be divided.
    fn settle(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.last).as_nanos();
        self.last = self.last.max(now);
        let limited = self.limit.is_some();
        for account in &mut self.members {
            if account.waits_until <= now || !limited {
                self.pool += std::mem::take(&mut account.tokens);
                account.waits_until = Duration::ZERO;
            }
        }
        let Some(limit) = self.limit else {
            self.pool = 0;
            self.members.iter_mut().for_each(|account| account.room = 0);
            return;
        };
        let mut shares = self.shares(limit);
        let mut held = 0;
        for share in &shares.of {
            let tokens = &mut self.members[share.index].tokens;
            self.pool += tokens.saturating_sub(share.depth);
            *tokens = share.depth.min(*tokens);
            held += *tokens;
        }
        let dripped = passed.saturating_mul(limit.rate.into());
        self.pool = self.pool.saturating_add(dripped).min(shares.depth.saturating_sub(held));
        let room = shares.depth.saturating_sub(held + self.pool);
        for account in &mut self.members {
            account.room = account.room.min(room);
        }
        // Each round fills an account or divides all there is.
        loop {
            let (dividend, before) = (self.pool, shares.of.len());
            let whole = shares.of.iter().map(|share| share.part).sum();
            shares.of.retain(|share| {
                let tokens = &mut self.members[share.index].tokens;
                let given = fraction(dividend, share.part, whole).min(share.depth - *tokens);
                *tokens += given;
                self.pool -= given;
                *tokens < share.depth
            });
            if shares.of.is_empty() || shares.of.len() == before {
                break;
            }
        }
    }

    /// The shares of those who wait.
    fn shares(&self, limit: GroupLimit) -> Shares {
        let waiting = || self.members.iter().enumerate().filter(|(_, account)| !account.waits_until.is_zero());
        let weights: u128 = waiting().map(|(_, account)| u128::from(account.terms.weight)).sum();
        let guaranteed: u128 = waiting().map(|(_, account)| u128::from(account.terms.guaranteed)).sum();
        let rate = u128::from(limit.rate).max(guaranteed);
        let burst = in_tokens(limit.burst.unwrap_or(BURST).of(limit.rate));
        let whole = rate * weights;
        let of: Vec<_> = waiting()
            .map(|(index, Account { terms, .. })| {
                let weight = u128::from(terms.weight);
                let part = u128::from(terms.guaranteed) * weights + (rate - guaranteed) * weight;
                // A quarter of the burst goes by weight alone: where most is guaranteed to one, the
                // others must have room for what it leaves.
                let depth = fraction(burst, part, whole) / 4 * 3 + fraction(burst, weight, weights) / 4;
                // A part of nothing could not be divided by, and less than a byte not be taken.
                Share { index, part: part.max(1), depth: depth.max(TOKENS_A_BYTE) }
            })
            .collect();
        let depth = of.iter().map(|share| share.depth).sum::<u128>().max(burst);
        Shares { of, whole, depth }
    }
}

/// `amount * part / whole`, rounded down; where the product is beyond 2^128, a little less.
fn fraction(amount: u128, part: u128, whole: u128) -> u128 {
    amount.checked_mul(part).map_or_else(|| amount / whole * part, |product| product / whole)
}

fn whole_bytes(tokens: u128) -> u64 {
    u64::try_from(tokens / TOKENS_A_BYTE).unwrap_or(u64::MAX)
}
