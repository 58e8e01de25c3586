//! A member of groups: draws on budgets that it shares with others.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use super::{Budget, Terms};
use crate::os::Id;
use crate::shaping::Shaper;

/// When to try again where another member was at the ledger: where many are, they must not keep
/// each other from the processor.
const BUSY: Duration = Duration::from_millis(1);

/// When to try again where the ledger could not be used at all.
const OUT_OF_ORDER: Duration = Duration::from_millis(50);

/// Where members keep the budget they share: one of them at a time can change it.
pub trait Ledger {
    /// Why the budget could not be read or written.
    type Error: Debug;

    /// Has `change` change the budget. Nothing, without a call, if another member is at it: this
    /// never waits for long.
    ///
    /// # Errors
    /// When the budget can be neither read nor written.
    fn update<R>(&mut self, change: impl FnOnce(&mut Budget) -> R) -> Result<Option<R>, Self::Error>;
}

/// A budget in memory, for members in one process.
impl Ledger for Rc<RefCell<Budget>> {
    type Error = Infallible;

    fn update<R>(&mut self, change: impl FnOnce(&mut Budget) -> R) -> Result<Option<R>, Infallible> {
        Ok(Some(change(&mut self.borrow_mut())))
    }
}

/// One member of one group: takes tokens from the budget a quantum at a time and spends them
/// without going there again.
#[derive(Debug)]
pub struct Member<L: Ledger> {
    ledger: L,
    id: Id,
    terms: Terms,
    /// Bytes taken and not yet spent; `u64::MAX` is no end of them.
    held: u64,
    /// Until when they may be spent.
    expires: Duration,
    /// When to go to the ledger again.
    again: Duration,
    /// Until when it need not be tried.
    not_before: Duration,
    /// The most that going there is sure to yield in the end.
    quantum: u64,
    /// The limit of the group in bytes a second, if it has one.
    rate: Option<u64>,
    /// Bytes spent in all.
    used: u64,
    /// Bytes spent of what was taken last.
    spent: u64,
    /// The most worth taking: who did not use up what it had will not use up more.
    enough: u64,
    /// Why the ledger could not be used, the last time.
    trouble: Option<L::Error>,
}

impl<L: Ledger> Member<L> {
    /// A member that joins when it first asks.
    pub fn new(ledger: L, id: Id, terms: Terms) -> Self {
        Member {
            ledger,
            id,
            terms,
            held: 0,
            expires: Duration::ZERO,
            again: Duration::ZERO,
            not_before: Duration::ZERO,
            quantum: u64::MAX,
            rate: None,
            used: 0,
            spent: 0,
            enough: u64::MAX,
            trouble: None,
        }
    }

    /// Bytes that may be spent at `now`.
    fn in_hand(&self, now: Duration) -> u64 {
        if now < self.expires { self.held } else { 0 }
    }

    /// Bytes that may be spent at `now`; goes to the ledger if these are fewer than `least`.
    fn ready(&mut self, least: u64, most: u64, now: Duration) -> u64 {
        if self.in_hand(now) < least && self.due() <= now {
            let (id, terms, used) = (self.id, self.terms, self.used);
            let unused = if self.held == u64::MAX { 0 } else { self.held };
            if self.spent > 0 {
                self.enough = if unused > 0 { self.spent.saturating_mul(2) } else { u64::MAX };
            }
            let most = most.min(self.enough.max(least));
            let grant = self.ledger.update(|budget| {
                // It may have been put out: taken for dead, or the budget is another one.
                budget.admit(id, terms);
                budget.give_back(id, unused, used);
                budget.take(id, most, now)
            });
            match grant {
                Ok(Some(grant)) => {
                    (self.held, self.expires, self.again) = (grant.bytes, grant.expires, grant.again);
                    (self.quantum, self.rate, self.trouble) = (grant.quantum, grant.rate, None);
                    self.spent = 0;
                }
                Ok(None) => self.not_before = now + BUSY,
                Err(error) => {
                    self.trouble = Some(error);
                    self.not_before = now + OUT_OF_ORDER;
                }
            }
        }
        self.in_hand(now)
    }

    /// When to go to the ledger: what it did not spend in time is soon had anew.
    fn due(&self) -> Duration {
        let due = if self.held > 0 { self.again.min(self.expires) } else { self.again };
        due.max(self.not_before)
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

/// A member of a group and of the groups above it: what all of them have room for. Of no group
/// at all, it grants everything.
#[derive(Debug)]
pub struct Group<L: Ledger> {
    levels: Vec<Member<L>>,
    now: Duration,
}

impl<L: Ledger> Default for Group<L> {
    fn default() -> Self {
        Group::new(Vec::new())
    }
}

impl<L: Ledger> Group<L> {
    /// A member of several groups at once, the widest first.
    pub fn new(levels: Vec<Member<L>>) -> Self {
        Group { levels, now: Duration::ZERO }
    }

    /// It is a member of any group at all.
    pub fn is_shared(&self) -> bool {
        !self.levels.is_empty()
    }

    /// The lowest limit of all the groups in bytes a second, as of when it asked last.
    pub fn rate(&self) -> Option<u64> {
        self.levels.iter().filter_map(|level| level.rate).min()
    }

    /// Why a ledger could not be used the last time. It is tried again all the time, and until
    /// then nothing is granted.
    pub fn trouble(&self) -> Option<&L::Error> {
        self.levels.iter().find_map(|level| level.trouble.as_ref())
    }
}

impl<L: Ledger> Shaper for Group<L> {
    fn drip(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn take(&mut self, least: u64, most: u64) -> u64 {
        let (mut common, mut all) = (most, true);
        // The narrowest first: the wider ones are asked only for what it has.
        for level in self.levels.iter_mut().rev() {
            match level.ready(least, common, self.now) {
                bytes if bytes >= least => common = common.min(bytes),
                _ => all = false,
            }
        }
        if !all {
            return 0;
        }
        self.levels.iter_mut().for_each(|level| level.spend(common));
        common
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
