//! What the file of a group has beside its budget where other machines share the limit.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::site::{OFF, SiteLimit};
use super::valkey::Binding;
use super::{Budget, GroupLimit, Lease, Name};
use crate::os::{Id, clock};
use crate::shaping::{Burst, Unit};
use crate::units::show_rate;

/// What a machine may use that may use nothing, in bytes per second: a limit of 0 is none.
const PAUSED: u64 = 1;

/// A share of a limit that was lifted is no limit if it is at least this, in bytes per second.
const UNLIMITED: u64 = 1 << 32;

/// A keeper that has not shown itself for so long is out of office: it was stopped, or is stuck.
const STUCK: Duration = Duration::from_millis(1100);

/// Where a group is shared, and what this machine has of it. All times are of a clock that goes on
/// while the machine is suspended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// The store.
    pub binding: Binding,
    /// What the store has lent to this machine.
    pub lease: Lease,
    /// The limit that the group gets if the store knows none, in bytes per second; 0 is nothing.
    pub proposal: u64,
    /// Counts the changes of the plan that the group has on all machines; 0 if it has never had one.
    pub(super) plan_version: u64,
    /// Why the store cannot be used, until it can.
    pub trouble: Option<String>,
    /// The process that talks to the store, and when it showed itself last.
    pub(super) keeper: Option<(Id, Duration)>,
    /// When this was written last.
    pub(super) written: Duration,
}

impl Shared {
    /// A group of a machine that has borrowed nothing yet.
    pub fn new(binding: Binding, machine: u64) -> Self {
        Shared {
            binding,
            lease: Lease::new(machine),
            proposal: 0,
            plan_version: 0,
            trouble: None,
            keeper: None,
            written: Duration::ZERO,
        }
    }

    /// The limit of this machine at `now`.
    pub fn limit(&self, now: Duration) -> Option<GroupLimit> {
        let SiteLimit { rate: whole, burst, .. } = self.lease.limit;
        let rate = match self.lease.allowed(now) {
            Some(rate) if whole == OFF && rate >= UNLIMITED => return None,
            Some(rate) => rate,
            None => self.binding.fallback.unwrap_or(0),
        };
        let burst = (burst > 0).then(|| Burst::Time(Duration::from_micros(burst)));
        Some(GroupLimit { rate: rate.max(PAUSED), unit: Unit::Bytes, burst, lasting: true })
    }

    /// Bytes per second that this machine may use now; nothing if nothing is lent to it.
    pub fn allowed_now(&self) -> Option<u64> {
        self.lease.allowed(clock::boot_time())
    }

    /// What the user has to know at `now`, in a line; nothing as long as the store answers, or has
    /// not been silent for long.
    pub fn notice(&self, name: &Name, now: Duration) -> Option<String> {
        if self.lease.knows_no_limit() {
            return Some(format!(
                "group {name}: no limit is known in store {self}: 'pcproxy group set {name} RATE' sets one; paused until then"
            ));
        }
        let trouble = self.trouble.as_ref().filter(|_| self.lease.is_cut_off(now))?;
        let rate = |rate: u64| show_rate(rate as f64);
        let state = match (self.lease.allowed(now), self.binding.fallback) {
            (Some(floor), _) if floor > 0 => format!("going on at the floor of {}", rate(floor)),
            (None, Some(fallback)) => format!("going on at the fallback rate of {}", rate(fallback)),
            _ => "paused until it answers".to_owned(),
        };
        Some(format!("group {name}: {trouble}; {state}"))
    }

    /// Puts the limit of this machine in force that holds at `now`, in a budget whose clock shows
    /// `monotonic`. A lease that has ended since counts up to its end.
    pub(super) fn apply(&self, budget: &mut Budget, now: Duration, monotonic: Duration) {
        if budget.limit() == self.limit(now) {
            return;
        }
        for end in self.lease.ends().into_iter().filter(|end| *end <= now) {
            // A suspend in between stops only the clock of the budget. This is then too early.
            budget.restore_limit(self.limit(end), monotonic.saturating_sub(now - end));
        }
        budget.restore_limit(self.limit(now), monotonic);
    }

    /// The group needs a keeper: it has none, or one that is stuck or has ended.
    pub(super) fn needs_keeper(&self, now: Duration, lives: impl Fn(Id) -> bool) -> bool {
        self.keeper.is_none_or(|(keeper, shown)| now.saturating_sub(shown) > STUCK || shown > now || !lives(keeper))
    }

    /// The machine has been started since: nothing of what was lent is in use. It is another
    /// machine to the store, since its disk may have been copied.
    pub(super) fn begin_anew(&mut self, machine: u64) {
        let limit = self.lease.limit;
        self.lease = Lease::new(machine);
        self.lease.limit = limit;
        self.keeper = None;
    }

    /// Moves all times so that what was at `written` is at `to`.
    pub(super) fn shift(&mut self, to: Duration) {
        let from = self.written;
        self.lease.shift(from, to);
        self.keeper = self.keeper.map(|(keeper, shown)| (keeper, shown.saturating_add(to).saturating_sub(from)));
        self.written = to;
    }
}

/// The store, as people call it.
impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.binding.store)
    }
}
