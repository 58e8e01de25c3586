//! A member of groups: draws on budgets that it shares with others.

use std::time::Duration;

use super::{Ask, Ledger, Reply, Terms};
use crate::os::Id;
use crate::shaping::{Refusal, Shaper};

/// One member of one group: asks the ledger for a quantum of tokens at a time, and spends them
/// without asking again.
#[derive(Debug)]
pub struct Member<L: Ledger> {
    ledger: L,
    id: Id,
    terms: Terms,
    /// Bytes granted and not yet spent; `u64::MAX` is no end of them.
    held: u64,
    /// They may be spent before this time.
    expires: Duration,
    /// When to ask the ledger again, as it said.
    ask_again: Duration,
    /// Earliest time of the next attempt, where the ledger could not answer.
    retry_at: Duration,
    /// Bytes that asking is guaranteed to yield eventually.
    quantum: u64,
    /// The limit of the group in bytes per second, if it has one.
    rate: Option<u64>,
    /// Bytes spent since it joined.
    used: u64,
    /// Bytes spent of the latest grant.
    spent: u64,
    /// The most worth asking for: a member that did not use up its grant will not use up more.
    enough: u64,
    /// Why the ledger cannot be used, until it answers again.
    failure: Option<L::Error>,
    /// Delays of the machine that are yet to be made up for.
    late: Duration,
}

impl<L: Ledger> Member<L> {
    /// A member that is let in when it first asks.
    pub fn new(ledger: L, id: Id, terms: Terms) -> Self {
        Member {
            ledger,
            id,
            terms,
            held: 0,
            expires: Duration::ZERO,
            ask_again: Duration::ZERO,
            retry_at: Duration::ZERO,
            quantum: u64::MAX,
            rate: None,
            used: 0,
            spent: 0,
            enough: u64::MAX,
            failure: None,
            late: Duration::ZERO,
        }
    }

    /// The same, of a group with this limit in bytes per second.
    #[must_use]
    pub fn with_rate(mut self, rate: Option<u64>) -> Self {
        self.rate = rate;
        self
    }

    /// Bytes that may be spent at `now`.
    fn in_hand(&self, now: Duration) -> u64 {
        if now < self.expires { self.held } else { 0 }
    }

    /// Bytes that may be spent at `now`. Asks the ledger if these are fewer than `least`.
    fn ready(&mut self, least: u64, most: u64, now: Duration) -> u64 {
        if self.in_hand(now) < least && self.due() <= now {
            self.learn();
            self.ask(most.min(self.enough.max(least)), now);
        }
        self.in_hand(now)
    }

    /// Learns from what became of the latest grant.
    fn learn(&mut self) {
        if self.spent > 0 {
            let left = self.held > 0 && self.held < u64::MAX;
            self.enough = if left { self.spent.saturating_mul(2) } else { u64::MAX };
        }
    }

    /// Gives back what it holds, and asks for `want` bytes.
    fn ask(&mut self, want: u64, now: Duration) {
        let give_back = if self.held == u64::MAX { 0 } else { self.held };
        let late = if want > 0 { self.late } else { Duration::ZERO };
        let ask = Ask { id: self.id, terms: self.terms, give_back, used: self.used, want, now, late };
        match self.ledger.ask(&ask) {
            Reply::Answer(answer) => {
                (self.held, self.expires, self.ask_again) = (answer.bytes, answer.expires, answer.ask_again);
                (self.quantum, self.rate, self.failure) = (answer.quantum, answer.rate, None);
                self.spent = 0;
                if answer.bytes > 0 && want > 0 {
                    self.late = Duration::ZERO;
                }
            }
            Reply::Pending { retry_at } => self.retry_at = retry_at,
            Reply::Failed { error, retry_at } => {
                self.failure = Some(error);
                self.retry_at = retry_at;
            }
        }
    }

    /// Gives back tokens that have expired. Returns when that is to be done, or done anew.
    fn rest(&mut self, now: Duration) -> Option<Duration> {
        if self.held == 0 || self.held == u64::MAX {
            return None;
        }
        let due = self.expires.max(self.retry_at);
        if now < due {
            return Some(due);
        }
        self.learn();
        self.ask(0, now);
        (self.held > 0).then_some(self.retry_at)
    }

    /// When to ask the ledger. Tokens that have expired can be replaced at once.
    fn due(&self) -> Duration {
        let due = if self.held > 0 { self.ask_again.min(self.expires) } else { self.ask_again };
        due.max(self.retry_at)
    }

    fn spend(&mut self, bytes: u64) {
        self.used = self.used.wrapping_add(bytes);
        self.spent = self.spent.saturating_add(bytes);
        if self.held != u64::MAX {
            self.held -= bytes;
        }
    }

    fn refund(&mut self, unused: u64) {
        self.used = self.used.wrapping_sub(unused);
        self.spent = self.spent.saturating_sub(unused);
        if self.held != u64::MAX {
            self.held += unused;
        }
    }
}

impl<L: Ledger> Drop for Member<L> {
    fn drop(&mut self) {
        self.ledger.leave(self.id, self.used);
    }
}

/// The membership of a transfer in a group and in the groups above it: grants what all of them
/// grant. In no group at all, it grants everything.
#[derive(Debug)]
pub struct Membership<L: Ledger> {
    levels: Vec<Member<L>>,
    now: Duration,
    /// How much delay of the machine is made up for at most.
    catch_up: Duration,
}

impl<L: Ledger> Default for Membership<L> {
    fn default() -> Self {
        Membership::new(Vec::new())
    }
}

impl<L: Ledger> Membership<L> {
    /// A membership in several groups at once, the widest first.
    pub fn new(levels: Vec<Member<L>>) -> Self {
        Membership { levels, now: Duration::ZERO, catch_up: Duration::ZERO }
    }

    /// The same, making up for delays of the machine of at most `catch_up` at a time.
    pub fn with_catch_up(self, catch_up: Duration) -> Self {
        Membership { catch_up, ..self }
    }

    /// Whether there is any group at all.
    pub fn is_shared(&self) -> bool {
        !self.levels.is_empty()
    }

    /// The lowest limit of all the groups in bytes per second, as of the latest answers.
    pub fn rate(&self) -> Option<u64> {
        self.levels.iter().filter_map(|level| level.rate).min()
    }

    /// Why a ledger cannot be used, until it answers again. Attempts go on, and until one of
    /// them succeeds nothing is granted.
    pub fn failure(&self) -> Option<&L::Error> {
        self.levels.iter().find_map(|level| level.failure.as_ref())
    }
}

impl<L: Ledger> Membership<L> {
    /// What the user has to know of a ledger that can be used, in a line.
    pub fn notice(&self) -> Option<&str> {
        self.levels.iter().find_map(|level| level.ledger.notice())
    }
}

impl<L: Ledger> Shaper for Membership<L> {
    fn drip(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn late(&mut self, delay: Duration) {
        for level in &mut self.levels {
            level.late = self.catch_up.min(level.late.saturating_add(delay));
        }
    }

    fn take(&mut self, least: u64, most: u64) -> Result<u64, Refusal> {
        let (mut common, mut all) = (most, true);
        // The narrowest first: the wider ones are asked only for what it has.
        for level in self.levels.iter_mut().rev() {
            match level.ready(least, common, self.now) {
                bytes if bytes >= least => common = common.min(bytes),
                _ => all = false,
            }
        }
        if !all {
            return Err(Refusal { again: self.due_for(least) });
        }
        self.levels.iter_mut().for_each(|level| level.spend(common));
        Ok(common)
    }

    fn rest(&mut self) -> Option<Duration> {
        let now = self.now;
        self.levels.iter_mut().filter_map(|level| level.rest(now)).min()
    }

    fn in_hand(&self) -> u64 {
        self.levels.iter().map(|level| level.in_hand(self.now)).min().unwrap_or(u64::MAX)
    }

    fn refund(&mut self, unused: u64) {
        self.levels.iter_mut().for_each(|level| level.refund(unused));
    }

    fn due_for(&self, bytes: u64) -> Option<Duration> {
        let missing = self.levels.iter().filter(|level| level.in_hand(self.now) < bytes);
        Some(missing.map(Member::due).max().unwrap_or_default())
    }

    fn depth(&self) -> u64 {
        self.levels.iter().map(|level| level.quantum).min().unwrap_or(u64::MAX)
    }

    fn quantum(&self) -> u64 {
        1
    }
}
