//! One budget, divided among many members.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, Ask};
use crate::os::Id;
use crate::shaping::{Burst, LARGEST_QUANTUM, TOKENS_PER_BYTE, Unit, in_tokens};

/// How deep the bucket of a group is unless the user says otherwise. Each account holds this much
/// of its member's share: a quantum of half of that, and as much again for delays.
const BURST: Burst = Burst::Time(Duration::from_millis(12));

/// The longest time between two visits of a member that waits for tokens. A changed limit, or the
/// share of a member that has left, reaches everyone this soon. Where hundreds of members wait, it
/// takes [`TURN`] for each of them.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// The least worth a visit is what the rate yields in this time: however many members wait, there
/// are no more than two thousand visits per second that yield something. Longer would be a longer
/// time without a grant for each of many, shorter would take more of the processor.
const TURN: Duration = Duration::from_micros(500);

/// Where no more members than this wait, a part of the bucket for each of them is worth a visit.
const FEW: u128 = 12;

/// The longest quantum of a member, as the time in which its share yields half of an account,
/// whatever the burst: a longer one would show as a lump.
const SPAN: Duration = Duration::from_millis(12);

/// However full the bucket, no member is called sooner than this to empty it.
const SHORTEST_WAIT: Duration = Duration::from_micros(500);

/// Members read the clock before they get their turn, so times may lie this far in the future.
const FUTURE: Duration = Duration::from_secs(2);

/// Tokens for records may be used for as long as the group yields so many, at most
/// [`MOST_USE_WITHIN`]: a record that needs the tokens of several groups waits for its turn in each
/// of them.
const USE_WITHIN_RECORDS: u128 = 4;

/// See [`USE_WITHIN_RECORDS`].
const MOST_USE_WITHIN: Duration = Duration::from_secs(1);

/// The longest delay of the machine that a group makes up for at once, in all its members together.
const MOST_LATE: Duration = Duration::from_millis(250);

/// A member of a group that has a quota and no limit is granted at most, and at least, so many bytes
/// at once: enough for 6 ms at 10 GiB/s, and for a splice.
const LARGEST_PART: u64 = 64 << 20;
const SMALLEST_PART: u64 = 1 << 20;

/// The limit of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLimit {
    /// Tokens per second, at least 1: what they buy is up to `unit`.
    pub rate: u64,
    /// What the limit counts. All members count the same.
    pub unit: Unit,
    /// Depth of the group's bucket; the default if nothing.
    pub burst: Option<Burst>,
    /// The limit stays when the last member leaves.
    pub lasting: bool,
}

impl GroupLimit {
    /// How long granted tokens may be used, where those for bytes may be used for `bytes`.
    pub fn use_within(&self, bytes: Duration) -> Duration {
        match self.unit {
            Unit::Bytes => bytes,
            Unit::Records => {
                let nanos = in_tokens(self.unit.tokens()) * USE_WITHIN_RECORDS / u128::from(self.rate.max(1));
                bytes.max(MOST_USE_WITHIN.min(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
            }
        }
    }
}

/// On which terms a member shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Members that wait divide what nobody is guaranteed in proportion to this. At least 1.
    pub weight: u32,
    /// Tokens per second that it gets before others get more than theirs, while it waits for
    /// tokens.
    pub guaranteed: u64,
    /// What the member counts.
    pub unit: Unit,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { weight: 100, guaranteed: 0, unit: Unit::Bytes }
    }
}

/// Why a member is not let in, or a limit not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// More would be guaranteed to members than the group has.
    Overcommitted {
        /// The limit of the group in tokens per second.
        rate: u64,
        /// What it counts.
        unit: Unit,
        /// Tokens per second that were to be guaranteed to one member; nothing if the limit was to
        /// be lowered.
        asked: Option<u64>,
        /// Tokens per second that are guaranteed to the other members.
        guaranteed: u64,
    },
    /// The limit of the group counts `limit`, and the member that wants to join `member`.
    Counts {
        /// What the limit counts.
        limit: Unit,
        /// What the member counts.
        member: Unit,
    },
    /// The limit was to count `limit`, and the group has members that count `members`.
    MembersCount {
        /// What the limit was to count.
        limit: Unit,
        /// What members count.
        members: Unit,
    },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f, "the group")
    }
}

impl Denied {
    /// Says what cannot be had of `group`.
    pub(super) fn describe(&self, f: &mut fmt::Formatter<'_>, group: &str) -> fmt::Result {
        match *self {
            Denied::Overcommitted { rate, unit, asked, guaranteed } => {
                let show = |rate: u64| unit.show_rate(rate as f64);
                let limit = show(rate);
                match asked {
                    Some(asked) => {
                        let left = show(rate.saturating_sub(guaranteed));
                        write!(f, "cannot guarantee {}: {group} has {left} left to guarantee, of {limit}", show(asked))
                    }
                    None => {
                        let guaranteed = show(guaranteed);
                        write!(f, "cannot limit {group} to {limit}: its members are guaranteed {guaranteed}")
                    }
                }
            }
            Denied::Counts { limit, member } => {
                let mend = match member {
                    Unit::Bytes => "add --lines or --null",
                    Unit::Records => "leave out --lines and --null, or set the limit of the group with --lines",
                };
                write!(f, "{group} has a limit of {limit}, and this transfer counts {member}: {mend}")
            }
            Denied::MembersCount { limit, members } => {
                write!(f, "cannot limit {group} in {limit}: it has members that count {members}")
            }
        }
    }
}

impl std::error::Error for Denied {}

/// The bucket of a group, and an account in it for each member: the rule by which HTB and
/// weighted fair queueing divide a link, for members that come and ask.
///
/// Tokens drip into the bucket at the rate of the group and are divided at once among the
/// members that wait. Each of them has a share of the rate: its guarantee, and a part of the rest
/// in proportion to its weight. Its account holds that share of three quarters of the burst, and
/// a part of the last quarter by its weight alone. Tokens that would overflow go to the accounts
/// that have room, in proportion to the shares (water-filling). Tokens that no account has room
/// for stay in a pool for the next member that asks. A member that gets all it asked for waits no
/// more, and its account goes to the pool. So the others get what one leaves unused in the same
/// moment, and nobody has to notice that it is idle.
///
/// Accounts and pool say who may take tokens. The bucket says how many there are: never more than
/// the burst, so in every interval of length t at most `burst + rate * t` bytes are granted, whoever
/// comes, goes or is killed. Where few members wait, the accounts together hold as much as the
/// bucket. Where many do, a part of the bucket for each would be too little to be worth a visit:
/// then each account grows until it is, and the members take turns. What is in the bucket above
/// half of the burst is then for any member that comes: those whose accounts it is in do not.
///
/// Tokens are counted in billionths of a byte, as in a [`TokenBucket`](crate::shaping::TokenBucket):
/// nothing is rounded away, nothing drifts.
///
/// The shares are those of the hierarchical token bucket (Devera, HTB, 2002: a class gets its
/// `rate`, and borrows up to its `ceil`), with weights instead of quanta. The `ceil` is a bucket
/// of the member's own.
///
/// A limit may count records, of which each costs many tokens, and a part of one is of no use. Where
/// the bucket holds fewer than two records for each member that waits, the members take turns: the
/// next record goes to the member with the most tokens in its account. That is the order of weighted
/// round robin. The bucket then holds one record at least, and what drips while the member whose
/// turn it is may be away.
///
/// ```
/// use pcproxy::budget::{Ask, Budget, GroupLimit, Id, Tempo, Terms};
/// use pcproxy::shaping::Unit;
/// use std::time::Duration;
///
/// let at = Duration::from_millis;
/// let mut budget = Budget::default();
/// budget.set_limit(Some(GroupLimit { rate: 1_000_000, unit: Unit::Bytes, burst: None, lasting: true }), at(0))?;
/// let mut granted = |pid, weight, now| {
///     let (id, terms) = (Id { pid, nonce: 0 }, Terms { weight, ..Terms::default() });
///     let ask = Ask { id, terms, give_back: 0, used: 0, want: u64::MAX, now, late: Duration::ZERO };
///     budget.answer(&ask, Tempo::LOCAL.use_within).bytes
/// };
/// assert_eq!([granted(1, 100, at(0)), granted(2, 300, at(0))], [0, 0]);
/// assert_eq!([granted(1, 100, at(8)), granted(2, 300, at(8))], [2000, 6000]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    limit: Option<GroupLimit>,
    /// Up to when tokens have dripped.
    last: Duration,
    /// Tokens in the bucket, in billionths of a byte. At most those in accounts and pool together.
    bucket: u128,
    /// Tokens that are in nobody's account, in billionths of a byte.
    pool: u128,
    /// Tokens that have overflowed, in billionths of a byte, at most what the rate yields in
    /// [`MOST_LATE`]: delays of the machine are made up for from these, and from nothing else.
    lost: u128,
    /// Bytes that all members have used in all, those that have left too.
    counted: u64,
    /// Something changes once so many bytes are used in all.
    watches: Option<Watch>,
    /// A file keeps them by itself: see [`MemberAccount::BYTES`].
    #[serde(skip)]
    members: Vec<MemberAccount>,
}

/// A count of bytes that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Bytes that the group has used in all.
    pub at: u64,
    /// Nothing more is granted then. Otherwise members only come often enough, so that another limit
    /// can be put in force.
    pub stops: bool,
}

/// What a budget knows of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAccount {
    /// Which process it is.
    pub id: Id,
    /// On which terms it shares.
    pub terms: Terms,
    /// Bytes that it has used since it joined, as of its latest ask.
    pub used: u64,
    /// The time of its latest ask.
    pub asked: Duration,
    /// Bytes that it was granted and may not have used yet.
    in_hand: u64,
    /// In billionths of a byte; 0 while it does not wait.
    tokens: u128,
    /// The least room that the bucket has had since the member took its tokens. No more than this
    /// would still be there if it had not taken them.
    room: u128,
    /// The member waits for tokens until this time, unless it asks again.
    waits_until: Duration,
}

/// The part of the group that a member has while it waits.
#[derive(Clone, Copy)]
struct Share {
    /// The part, as a fraction with [`Shares::whole`] below it.
    part: u128,
    /// What its account holds, in billionths of a byte.
    depth: u128,
    /// Twice what it comes for, in billionths of a byte.
    span: u128,
}

/// What the shares of the members that wait are made of. Nothing here takes more space where more
/// members wait: a visit to a group of hundreds goes through its accounts, and through nothing else.
struct Shares {
    /// Sums over the members that wait, and how many they are.
    weights: u128,
    guaranteed: u128,
    count: u128,
    /// The limit in bytes per second, or what is guaranteed if that is more.
    rate: u128,
    whole: u128,
    /// What all accounts hold, and what a visit is worth, before they are divided.
    divided: (u128, u128),
    /// The least that an account holds, in billionths of a byte.
    least: u128,
    /// Most members have the terms of the one before, and divisions of 128 bits are slow.
    last: Option<(Terms, Share)>,
    /// What all accounts and the pool hold, in billionths of a byte.
    depth: u128,
    /// What the bucket holds, in billionths of a byte.
    burst: u128,
    /// What is in the bucket above this is for any member that comes, in billionths of a byte.
    free_above: u128,
    /// A record at a time goes to the member with the most in its account.
    in_turn: bool,
}

impl MemberAccount {
    /// Size of an account in a file: a group of hundreds is read and written at each visit, so that
    /// each account is a few numbers in fixed places.
    pub(super) const BYTES: usize = 88;

    /// A member that has just come.
    fn new(id: Id, terms: Terms) -> Self {
        MemberAccount {
            id,
            terms,
            used: 0,
            asked: Duration::ZERO,
            in_hand: 0,
            tokens: 0,
            room: 0,
            waits_until: Duration::ZERO,
        }
    }

    /// The member waits for tokens at `now`.
    pub(super) fn waits(&self, now: Duration) -> bool {
        self.waits_until > now
    }

    /// It did when the budget was settled last.
    fn is_waiting(&self) -> bool {
        !self.waits_until.is_zero()
    }

    /// The account, as a file has it.
    pub(super) fn to_bytes(&self) -> [u8; Self::BYTES] {
        let Self { id, terms, used, asked, in_hand, tokens, room, waits_until } = self;
        let mut bytes = [0; Self::BYTES];
        for (at, number) in
            [(0, id.pid), (4, id.nonce), (8, terms.weight), (12, u32::from(terms.unit == Unit::Records))]
        {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let (asked, waits_until) = (nanos(*asked), nanos(*waits_until));
        let long = [(16, terms.guaranteed), (24, *used), (32, asked), (40, waits_until), (80, *in_hand)];
        for (at, number) in long {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        for (at, number) in [(48, tokens), (64, room)] {
            bytes[at..at + 16].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The account that a file has in these bytes.
    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let short = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(short(at)) | u64::from(short(at + 4)) << 32;
        let longest = |at: usize| u128::from(long(at)) | u128::from(long(at + 8)) << 64;
        MemberAccount {
            id: Id { pid: short(0), nonce: short(4) },
            terms: Terms {
                weight: short(8),
                guaranteed: long(16),
                unit: if short(12) == 1 { Unit::Records } else { Unit::Bytes },
            },
            used: long(24),
            asked: Duration::from_nanos(long(32)),
            waits_until: Duration::from_nanos(long(40)),
            tokens: longest(48),
            room: longest(64),
            in_hand: long(80),
        }
    }
}

/// A time as a file has it, in nanoseconds.
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

impl Budget {
    /// A budget of which this is known: its limit, the time, and the members with their terms, what
    /// they have used, and the time of their latest asks. It has no tokens.
    pub(super) fn restored(
        limit: Option<GroupLimit>,
        last: Duration,
        members: impl Iterator<Item = (Id, Terms, u64, Duration)>,
    ) -> Budget {
        let members =
            members.map(|(id, terms, used, asked)| MemberAccount { used, asked, ..MemberAccount::new(id, terms) });
        Budget { limit, last, members: members.collect(), ..Budget::default() }
    }

    /// The limit in force.
    pub fn limit(&self) -> Option<GroupLimit> {
        self.limit
    }

    /// Whether its limit or one of its members counts records.
    pub(super) fn counts_records(&self) -> bool {
        let members = self.members.iter().map(|account| account.terms.unit);
        members.chain(self.limit.map(|limit| limit.unit)).any(|unit| unit == Unit::Records)
    }

    /// The members that have joined and not left.
    pub fn members(&self) -> &[MemberAccount] {
        &self.members
    }

    /// Bytes that all members have used since the group was made, as of their latest asks.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Has members come often enough to see when [`counted`](Self::counted) gets there, also where
    /// there is no limit, and has nothing more granted then if it `stops`.
    pub fn watch(&mut self, watch: Option<Watch>) {
        self.watches = watch;
    }

    /// The same, for a file that keeps them by itself.
    pub(super) fn members_mut(&mut self) -> &mut Vec<MemberAccount> {
        &mut self.members
    }

    /// Puts another limit in force from `now` on. Tokens stay, as far as the new burst holds
    /// them: no credit comes from the change.
    ///
    /// # Errors
    /// When more is guaranteed to the members than the new limit has, or when they count something
    /// else. The old one then stays.
    pub fn set_limit(&mut self, limit: Option<GroupLimit>, now: Duration) -> Result<(), Denied> {
        limit.map_or(Ok(()), |limit| self.accepts(limit))?;
        self.restore_limit(limit, now);
        Ok(())
    }

    /// Whether this could be the limit.
    ///
    /// # Errors
    /// When more is guaranteed to the members than that, or when they count something else.
    pub(super) fn accepts(&self, GroupLimit { rate, unit, .. }: GroupLimit) -> Result<(), Denied> {
        if let Some(other) = self.members.iter().map(|account| account.terms.unit).find(|counts| *counts != unit) {
            return Err(Denied::MembersCount { limit: unit, members: other });
        }
        match self.guaranteed(|_| true) {
            guaranteed if rate < guaranteed => Err(Denied::Overcommitted { rate, unit, asked: None, guaranteed }),
            _ => Ok(()),
        }
    }

    /// Lets a member in, or changes its terms.
    ///
    /// # Errors
    /// When the group has less left than the terms guarantee, or a limit that counts something else.
    pub fn join(&mut self, id: Id, terms: Terms) -> Result<(), Denied> {
        let guaranteed = self.guaranteed(|account| account.id != id);
        if let Some(GroupLimit { rate, unit, .. }) = self.limit {
            if terms.unit != unit {
                return Err(Denied::Counts { limit: unit, member: terms.unit });
            }
            if terms.guaranteed > rate.saturating_sub(guaranteed) && terms.guaranteed > 0 {
                return Err(Denied::Overcommitted { rate, unit, asked: Some(terms.guaranteed), guaranteed });
            }
        }
        self.admit(id, terms);
        Ok(())
    }

    /// Lets a member in, whatever it is guaranteed: it has been in before.
    pub(super) fn admit(&mut self, id: Id, terms: Terms) {
        match self.members.iter_mut().find(|account| account.id == id) {
            Some(account) => account.terms = terms,
            None => self.members.push(MemberAccount::new(id, terms)),
        }
    }

    /// Keeps only the members for which `stays` holds. What the others had goes to the rest. A
    /// limit that is not lasting goes with the last of them.
    pub fn retain(&mut self, stays: impl Fn(&MemberAccount) -> bool) {
        for account in self.members.iter().filter(|account| !stays(account)) {
            self.pool += account.tokens;
            // It may have used them before it was killed.
            self.counted = self.counted.saturating_add(account.in_hand);
        }
        self.members.retain(stays);
        if self.members.is_empty() {
            self.limit = self.limit.filter(|limit| limit.lasting);
        }
    }

    /// A member leaves. It has used so many bytes since it joined, and no more of what it was granted.
    pub fn leave(&mut self, id: Id, used: u64) {
        self.count(id, used, true);
        self.retain(|account| account.id != id);
    }

    /// Forgets all tokens, and what time it is: the start of another clock.
    pub fn forget_time(&mut self, now: Duration) {
        self.last = now;
        (self.bucket, self.pool) = (0, 0);
        for account in &mut self.members {
            (account.tokens, account.room, account.waits_until, account.asked) = (0, 0, Duration::ZERO, now);
        }
    }

    /// Puts a limit in force, whatever is guaranteed.
    pub(super) fn restore_limit(&mut self, limit: Option<GroupLimit>, now: Duration) {
        self.settle(now);
        self.limit = limit;
        self.settle(now);
    }

    /// Moves all times so that what was at `from` is at `to`.
    pub(super) fn shift(&mut self, from: Duration, to: Duration) {
        let shifted = |time: Duration| time.saturating_add(to).saturating_sub(from);
        self.last = shifted(self.last);
        for account in &mut self.members {
            account.asked = shifted(account.asked);
            if !account.waits_until.is_zero() {
                account.waits_until = shifted(account.waits_until).max(Duration::from_nanos(1));
            }
        }
    }

    /// Bounds all numbers, so that none of them can overflow later: it may come from anyone who
    /// can write the file.
    pub(super) fn bound(&mut self) {
        let most = in_tokens(u64::MAX);
        self.pool = self.pool.min(most);
        self.bucket = self.bucket.min(most);
        self.lost = self.lost.min(most);
        if let Some(limit) = &mut self.limit {
            limit.rate = limit.rate.max(1);
        }
        for account in &mut self.members {
            account.terms.weight = account.terms.weight.max(1);
            account.tokens = account.tokens.min(most);
        }
    }

    /// Answers a member: takes note of what it has used, takes back what it gives back, and grants
    /// tokens for at most `ask.want` bytes; none until a quantum is there, or all that is wanted.
    /// They may be used for `use_within`. Without a limit, everything is granted. A member that
    /// was put out, since it was taken for dead, is let in again.
    pub fn answer(&mut self, ask: &Ask, use_within: Duration) -> Answer {
        let is_known = self.members.iter().any(|account| account.id == ask.id);
        self.admit(ask.id, ask.terms);
        self.count(ask.id, ask.used, is_known);
        self.give_back(ask.id, ask.give_back);
        self.take(ask.id, ask.want, ask.now, ask.late, use_within)
    }

    /// Counts what a member has used since its latest ask. What it had in hand when it was put out
    /// is counted already.
    fn count(&mut self, id: Id, used: u64, is_known: bool) {
        let Some(account) = self.members.iter_mut().find(|account| account.id == id) else { return };
        if is_known {
            self.counted = self.counted.saturating_add(used.saturating_sub(account.used));
        }
        (account.used, account.in_hand) = (used, 0);
    }

    /// Bytes that may yet be granted to a member that has none in hand; nothing if there is no end.
    fn left(&self) -> Option<u64> {
        let watch = self.watches?;
        let in_hand = self.members.iter().fold(0, |sum: u64, account| sum.saturating_add(account.in_hand));
        Some(watch.at.saturating_sub(self.counted).saturating_sub(in_hand))
    }

    fn take(&mut self, id: Id, most: u64, now: Duration, late: Duration, use_within: Duration) -> Answer {
        self.settle(now);
        let soon = now + LONGEST_WAIT;
        let nothing = Answer { bytes: 0, expires: now, ask_again: soon, quantum: 1, rate: None };
        let Some(index) = self.members.iter().position(|account| account.id == id) else { return nothing };
        let (left, stops) = (self.left(), self.watches.is_some_and(|watch| watch.stops));
        let count = self.members.len() as u64;
        let member = &mut self.members[index];
        member.asked = now;
        if left == Some(0) && stops && most > 0 {
            member.waits_until = Duration::ZERO;
            return Answer { rate: self.limit.map(|limit| limit.rate), ..nothing };
        }
        let Some(limit) = self.limit else {
            let free = Answer { bytes: u64::MAX, expires: soon, ask_again: now, quantum: u64::MAX, rate: None };
            let Some(left) = left else { return free };
            // A part of what is left, so that nobody keeps it from the others.
            let part = LARGEST_PART.min(left / (8 * count)).max(SMALLEST_PART);
            let bytes = most.min(if stops { part.min(left) } else { part });
            member.in_hand = bytes;
            let ask_again = if stops && bytes == left { soon } else { now };
            return Answer { bytes, ask_again, quantum: SMALLEST_PART, ..free };
        };
        let wanted = most;
        let most = most.min(left.filter(|_| stops).unwrap_or(most));
        let waited = member.waits_until > now;
        // Set for good below, once it is known how many wait.
        member.waits_until = now + LONGEST_WAIT;
        if !waited {
            // What was in the pool is for the next member that asks.
            self.settle(now);
        }
        let mut shares = self.shares(limit);
        let share = shares.of(self.members[index].terms);
        let waiting = shares.count as u32;
        let longest = LONGEST_WAIT.max(TURN * waiting);
        // No part of a record is of use.
        let one = self.members[index].terms.unit.tokens();
        let whole = |tokens: u64| tokens - tokens % one;
        // A member comes for half of its span, and takes no less than two fifths.
        let sized = |tokens| whole(whole_bytes(tokens)).clamp(one, LARGEST_QUANTUM.saturating_mul(one));
        let (quantum, aim) = (sized(share.span / 5 * 2), sized(share.span / 2));
        let room = shares.burst.saturating_sub(self.bucket);
        let (in_turn, turns_ahead) = (shares.in_turn, self.members_ahead(index));
        let ahead = if in_turn { in_tokens(one) * turns_ahead } else { self.claims_ahead(index) };
        let member = &mut self.members[index];
        member.waits_until = now + 2 * longest;
        // No end of bytes is what no limit grants.
        let claim = match in_turn {
            true => whole_bytes(self.bucket.saturating_sub(ahead)),
            false => whole_bytes(member.tokens.min(self.bucket)),
        };
        let has = claim.max(whole_bytes(self.bucket.saturating_sub(shares.free_above))).min(u64::MAX - 1);
        let made_up = self.lost.min(u128::from(limit.rate).saturating_mul(late.min(MOST_LATE).as_nanos()));
        let could = has.saturating_add(whole_bytes(made_up)).min(u64::MAX - 1);
        let most = whole(most);
        let bytes = if could >= quantum.min(most) { whole(could.min(most)) } else { 0 };
        member.in_hand = bytes;
        let from_bucket = in_tokens(bytes.min(has));
        member.tokens = member.tokens.saturating_sub(from_bucket);
        self.bucket -= from_bucket;
        self.lost -= in_tokens(bytes) - from_bucket;
        member.room = u128::MAX;
        let mut ask_again = now;
        if bytes == most {
            self.pool += std::mem::take(&mut member.tokens);
            member.waits_until = Duration::ZERO;
            if most < wanted {
                // There will be no more soon.
                ask_again = soon;
            }
        } else {
            // Estimates: a member that comes too early waits once more. Its account fills up, and
            // the bucket when those with more in their accounts have taken it. If no others come,
            // the bucket is full before long. The more wait, the less it is up to this one, unless
            // it has just found that the others do not come.
            let rate = limit.rate as f64;
            let goal = in_tokens(aim.min(most));
            let missing = goal.saturating_sub(member.tokens) as f64;
            let drips = rate * (share.part as f64 / shares.whole as f64);
            let free = in_tokens(bytes.saturating_sub(claim));
            let alone = waiting as u128 <= 2 * FEW || free > shares.burst / 8;
            let queue = (goal + ahead).saturating_sub(self.bucket) as f64 / rate;
            // In a crowd, those ahead do not come in order.
            let queue = queue.max(if alone { 0.0 } else { (TURN * (waiting / 64)).as_nanos() as f64 });
            let others = if alone { 1 } else { waiting.div_ceil(8) };
            let full = 0.75 * (room + in_tokens(bytes)) as f64 / rate * f64::from(others);
            // Where a byte takes long, many members would come for parts of it.
            let byte = TOKENS_PER_BYTE as f64 / rate * f64::from(waiting.div_ceil(8));
            let wait = match in_turn {
                true => queue,
                false => (missing / drips)
                    .max(if missing > 0.0 { 0.0 } else { queue })
                    .min(full.max(SHORTEST_WAIT.as_nanos() as f64))
                    .max(byte),
            };
            ask_again += Duration::from_nanos(wait.ceil() as u64).min(longest);
        }
        let expires = now + limit.use_within(use_within);
        Answer { bytes, expires, ask_again, quantum, rate: Some(limit.rate) }
    }

    /// Tokens in accounts of members that wait and have more than this one.
    fn claims_ahead(&self, index: usize) -> u128 {
        let own = self.members[index].tokens;
        self.members.iter().map(|account| account.tokens).filter(|tokens| *tokens > own).sum()
    }

    /// How many members that wait have more in their accounts than this one.
    fn members_ahead(&self, index: usize) -> u128 {
        let own = self.members[index].tokens;
        self.members.iter().filter(|account| account.tokens > own).count() as u128
    }

    /// Takes back tokens that a member did not use, as far as there is room for them.
    fn give_back(&mut self, id: Id, unused: u64) {
        let Some(account) = self.members.iter_mut().find(|account| account.id == id) else { return };
        // As if they had been there all the time: what would have overflowed is lost.
        let tokens = in_tokens(unused).min(account.room);
        if account.waits_until.is_zero() {
            self.pool += tokens;
        } else {
            account.tokens += tokens;
        }
        if tokens == 0 {
            return;
        }
        self.bucket += tokens;
        for account in &mut self.members {
            account.room = account.room.saturating_sub(tokens);
        }
    }

    /// Bytes per second that are guaranteed to the members for which `counts` holds.
    fn guaranteed(&self, counts: impl Fn(&MemberAccount) -> bool) -> u64 {
        let counted = self.members.iter().filter(|account| counts(account));
        counted.fold(0u64, |sum, account| sum.saturating_add(account.terms.guaranteed))
    }

    /// Lets tokens drip up to `now` and divides what is to be divided.
    fn settle(&mut self, now: Duration) {
        if self.last > now.saturating_add(FUTURE) {
            // Of another clock. Nobody may have to wait until this one gets there.
            self.forget_time(now);
        }
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
            (self.bucket, self.pool, self.lost) = (0, 0, 0);
            self.members.iter_mut().for_each(|account| account.room = 0);
            return;
        };
        let mut shares = self.shares(limit);
        let mut held = 0;
        for account in self.members.iter_mut().filter(|account| account.is_waiting()) {
            let depth = shares.of(account.terms).depth;
            self.pool += account.tokens.saturating_sub(depth);
            account.tokens = depth.min(account.tokens);
            held += account.tokens;
        }
        let dripped = passed.saturating_mul(limit.rate.into());
        self.pool = self.pool.saturating_add(dripped).min(shares.depth.saturating_sub(held));
        let full = self.bucket.saturating_add(dripped);
        self.bucket = full.min(shares.burst).min(held + self.pool);
        let most_lost = u128::from(limit.rate).saturating_mul(MOST_LATE.as_nanos());
        self.lost = self.lost.saturating_add(full - self.bucket).min(most_lost);
        let room = shares.burst.saturating_sub(self.bucket);
        // The parts of the accounts that have room.
        let mut parts = 0;
        for account in &mut self.members {
            account.room = account.room.min(room);
            if account.is_waiting() {
                let share = shares.of(account.terms);
                parts += if account.tokens < share.depth { share.part } else { 0 };
            }
        }
        // Each round fills an account or divides all there is.
        while parts > 0 {
            let (dividend, whole) = (self.pool, parts);
            let mut last = (0, 0);
            for account in self.members.iter_mut().filter(|account| account.is_waiting()) {
                let share = shares.of(account.terms);
                if account.tokens < share.depth {
                    if last.0 != share.part {
                        last = (share.part, fraction(dividend, share.part, whole));
                    }
                    let given = last.1.min(share.depth - account.tokens);
                    account.tokens += given;
                    self.pool -= given;
                    parts -= if account.tokens < share.depth { 0 } else { share.part };
                }
            }
            if parts == whole {
                break;
            }
        }
    }

    /// The shares of the members that wait.
    fn shares(&self, limit: GroupLimit) -> Shares {
        let (mut weights, mut guaranteed, mut count) = (0, 0, 0u128);
        for account in self.members.iter().filter(|account| account.is_waiting()) {
            weights += u128::from(account.terms.weight);
            guaranteed += u128::from(account.terms.guaranteed);
            count += 1;
        }
        let rate = u128::from(limit.rate).max(guaranteed);
        let yields = |time: Duration| u128::from(limit.rate).saturating_mul(time.as_nanos());
        let one = in_tokens(limit.unit.tokens());
        let burst = in_tokens(limit.burst.unwrap_or(BURST).tokens(limit.unit, limit.rate));
        let in_turn = limit.unit != Unit::Bytes && burst < (2 * one).saturating_mul(count);
        // Nothing is lost while the member whose turn it is sleeps for as long as it may.
        let burst = if in_turn { burst.saturating_add(yields(LONGEST_WAIT).min(one)) } else { burst };
        let turns = (2 * yields(TURN)).saturating_mul(count.saturating_sub(FEW));
        let (depth, span) = (burst.max(turns), burst.min(yields(SPAN)).max(turns));
        // Each member that waits can have a byte.
        let bytes = count * TOKENS_PER_BYTE;
        let least = if in_turn { 2 * one } else { one };
        Shares {
            weights,
            guaranteed,
            count,
            rate,
            whole: rate * weights,
            divided: (depth, span),
            least,
            last: None,
            depth: depth.saturating_add(least.saturating_mul(count)),
            burst: burst.max(bytes),
            // Accounts that hold more than the bucket may be those of members that do not come.
            free_above: if turns > burst || in_turn { burst / 2 } else { u128::MAX },
            in_turn,
        }
    }
}

impl Shares {
    /// The share of a member that waits on these terms.
    fn of(&mut self, terms: Terms) -> Share {
        if let Some((_, share)) = self.last.filter(|(last, _)| *last == terms) {
            return share;
        }
        let weight = u128::from(terms.weight);
        let part = u128::from(terms.guaranteed) * self.weights + (self.rate - self.guaranteed) * weight;
        // A quarter goes by weight alone: where most is guaranteed to one member, the others must
        // have room for what it leaves.
        let shared = |tokens| fraction(tokens, part, self.whole) / 4 * 3 + fraction(tokens, weight, self.weights) / 4;
        let (depth, span) = (shared(self.divided.0), shared(self.divided.1));
        // A part of nothing could not be divided by, and less than a byte not be taken.
        let share = Share { part: part.max(1), depth: depth.max(self.least), span };
        self.last = Some((terms, share));
        share
    }
}

/// `amount * part / whole`, rounded down; where the product is beyond 2^128, a little less.
fn fraction(amount: u128, part: u128, whole: u128) -> u128 {
    amount.checked_mul(part).map_or_else(|| amount / whole * part, |product| product / whole)
}

fn whole_bytes(tokens: u128) -> u64 {
    u64::try_from(tokens / TOKENS_PER_BYTE).unwrap_or(u64::MAX)
}
