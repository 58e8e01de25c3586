//! Sharing the limit of a group with other machines: what the user asks for.

use std::env;
use std::time::Duration;

use super::keeper::FLOORS;
use super::plan::{Changed, Plan, Settings};
use super::shared::Shared;
use super::site::{OFF, Site, SiteLimit};
use super::valkey::{Address, Binding, Offer, STORE, Store, StoreError};
use super::{Budget, GroupError, GroupFile, GroupLimit, Name, Outcome};
use crate::os::{RuntimeFolder, clock, random};
use crate::shaping::{Burst, Unit};

/// The part of the rate that is lent as floors unless the user says otherwise, in percent.
pub const DEFAULT_FLOORS: u32 = FLOORS;

/// Binds a group of this machine to a store. If the store knows no limit of the group, it gets the
/// limit that the group has here. `floors` is the part of the rate that is lent as floors, in
/// percent; it changes for all machines.
///
/// # Errors
/// When the store or the group's file cannot be used. Nothing has changed then.
pub fn share(name: &Name, binding: Binding, floors: Option<u32>) -> Result<(), GroupError> {
    let failed = |error| GroupError::Store(name.clone(), error);
    let mut store = Store::new(binding.clone()).map_err(failed)?;
    let site = store.look(name).map_err(failed)?;
    let folder = RuntimeFolder::open()?;
    let Some(mut file) = GroupFile::open(&folder, name.clone(), true)? else { return Ok(()) };
    let (limit, known, counts_records) =
        file.change_shared(|budget, shared| (budget.limit(), shared.as_ref().map(known_of), budget.counts_records()))?;
    if counts_records {
        return Err(GroupError::SharesBytes(name.clone()));
    }
    let here = limit.filter(|_| known.is_none());
    let mut whole = site.limit;
    let wished = match (whole.rate, here) {
        (0, Some(here)) => Some(limit_of(Some(here), floors.unwrap_or(FLOORS))),
        (1.., _) if floors.is_some_and(|floors| floors != whole.floors) => {
            Some(SiteLimit { floors: floors.unwrap_or(FLOORS), ..whole })
        }
        _ => None,
    };
    if let Some(wished) = wished {
        whole = store.set(name, wished, whole.generation.max(known.unwrap_or(0))).map_err(failed)?;
    }
    file.change_shared(|budget, shared| {
        let kept = shared.take().filter(|shared| shared.binding.store == binding.store);
        let mut new = kept.unwrap_or_else(|| Shared::new(binding.clone(), random()));
        new.binding = binding.clone();
        if whole.generation > new.lease.limit.generation {
            new.lease.limit = whole;
        }
        apply(&new, budget);
        *shared = Some(new);
    })?;
    let own = file.change_record(|record| record.plan.clone())?;
    if let (None, Some(own)) = (known, own) {
        // The plan that all machines have, or else that of this one.
        let offer = Offer { version: 1, plan: Some(Some(own)), report: None };
        let heard = store.exchange(name, &offer, 0).map_err(failed)?;
        file.change_record(|record| {
            let (now, counted) = (record.now(), record.budget.counted());
            if let Some(shared) = &mut record.shared {
                shared.plan_version = heard.version;
            }
            let plan = heard.plan.clone().map(|plan| plan.adopt(record.plan.as_ref(), now, counted));
            record.follow(plan);
        })?;
    }
    Ok(())
}

/// Ends that. The group keeps the limit that all machines had together, for this machine alone.
/// Returns it.
///
/// # Errors
/// When the group is not shared, or its file cannot be used.
pub fn unshare(name: &Name) -> Result<Option<u64>, GroupError> {
    let folder = RuntimeFolder::open()?;
    let Some(mut file) = GroupFile::open(&folder, name.clone(), false)? else {
        return Err(GroupError::Unknown(name.clone(), folder.path().to_owned()));
    };
    let ended = file.change_shared(|budget, shared| {
        let ended = shared.take()?;
        budget.restore_limit(limit_from(ended.lease.limit), clock::now());
        Some(ended)
    })?;
    let mut ended = ended.ok_or_else(|| GroupError::NotShared(name.clone()))?;
    // If this fails, what was lent ends by itself.
    if let Ok(mut store) = Store::new(ended.binding.clone())
        && let Ok(run) = store.run_id()
    {
        ended.lease.take_over();
        let request = ended.lease.leave(run, clock::boot_time());
        let _ = store.renew(name, &request, ended.lease.limit);
    }
    Ok(Some(ended.lease.limit.rate).filter(|rate| (1..OFF).contains(rate)))
}

/// Changes the limit of a shared group for all machines. `zone` is the time zone of the times of day
/// in the settings.
///
/// # Errors
/// When the store or the group's file cannot be used, or the limit cannot be changed so.
pub(super) fn set(
    name: &Name,
    file: &mut GroupFile,
    shared: &Shared,
    settings: &Settings,
    zone: Option<&str>,
) -> Result<Outcome, GroupError> {
    if settings.unit == Unit::Records {
        return Err(GroupError::SharesBytes(name.clone()));
    }
    let failed = |error| GroupError::Store(name.clone(), error);
    let mut store = Store::new(shared.binding.clone()).map_err(failed)?;
    let machine = shared.lease.machine;
    let (own, counted, now) =
        file.change_record(|record| (record.plan.clone(), record.budget.counted(), record.now()))?;
    let known = (shared.plan_version > 0).then(|| own.clone());
    let offer = Offer { version: shared.plan_version, plan: known, report: None };
    let heard = store.exchange(name, &offer, machine).map_err(failed)?;
    let plan = heard.plan.map(|plan| plan.adopt(own.as_ref(), now, counted));
    let whole = store.look(name).map_err(failed)?.limit;
    let before = if whole.rate > 0 { whole } else { shared.lease.limit };
    let changed = Plan::change(plan.as_ref(), limit_from(before), settings, now, counted, zone)
        .map_err(|error| GroupError::Plan(name.clone(), error))?;
    let (plan, limit) = match changed {
        Changed::Limit(limit) => (None, limit),
        Changed::Plan(mut plan) => {
            let limit = plan.look(now, counted).limit;
            (Some(*plan), limit)
        }
    };
    // A group that has never had a plan needs none to be told.
    let version = if plan.is_some() || heard.version > 0 { heard.version + 1 } else { 0 };
    if version > 0 {
        store.exchange(name, &Offer { version, plan: Some(plan.clone()), report: None }, machine).map_err(failed)?;
    }
    let floors = if before.rate > 0 { before.floors } else { FLOORS };
    // Also where the limit stays: the machines learn by its generation that there is something new.
    let whole = store.set(name, limit_of(limit, floors), before.generation).map_err(failed)?;
    file.change_record(|record| {
        if let Some(shared) = &mut record.shared {
            if shared.lease.limit.generation < whole.generation {
                shared.lease.limit = whole;
            }
            if shared.plan_version < version {
                shared.plan_version = version;
                record.follow(plan.clone());
            }
        }
    })?;
    Ok(Outcome { before: limit_from(before), after: limit, outlook: plan.map(|plan| plan.outlook(now, counted)) })
}

/// What a store has of a shared group: its limit, and who has which part of it.
///
/// # Errors
/// When the store cannot be used.
pub fn look(name: &Name, shared: &Shared) -> Result<Site, StoreError> {
    Store::new(shared.binding.clone())?.look(name)
}

/// Whether the environment names a store.
pub(super) fn is_bound_by_environment() -> bool {
    env::var_os(STORE).is_some_and(|text| !text.is_empty())
}

/// Binds a group to the store that the environment names, if it names one and the group is not
/// bound yet. `proposal` is the limit that the group gets if the store knows none.
///
/// # Errors
/// When the environment names no store but something else, or the file cannot be used.
pub(super) fn bind_by_environment(file: &mut GroupFile, proposal: Option<u64>) -> Result<(), GroupError> {
    let Some(text) = env::var(STORE).ok().filter(|text| !text.is_empty()) else { return Ok(()) };
    let address: Address = text.parse().map_err(|_| GroupError::Environment)?;
    file.change_shared(|budget, shared| {
        if shared.is_none() {
            let binding = Binding { store: address.to_string(), ..Binding::from_environment() };
            let mut new = Shared::new(binding, random());
            new.proposal = budget.limit().map(|limit| limit.rate).or(proposal).unwrap_or(0);
            apply(&new, budget);
            *shared = Some(new);
        } else if let (Some(shared), Some(proposal)) = (shared, proposal) {
            shared.proposal = proposal;
        }
    })?;
    Ok(())
}

fn apply(shared: &Shared, budget: &mut Budget) {
    shared.apply(budget, clock::boot_time(), clock::now());
}

/// The newest generation of the limit that this machine has heard of.
fn known_of(shared: &Shared) -> u32 {
    shared.lease.limit.generation
}

/// The limit of a group, from what the store has; none if it was lifted, or none is known.
fn limit_from(SiteLimit { rate, burst, .. }: SiteLimit) -> Option<GroupLimit> {
    let burst = (burst > 0).then(|| Burst::Time(Duration::from_micros(burst)));
    (1..OFF).contains(&rate).then_some(GroupLimit { rate, unit: Unit::Bytes, burst, lasting: true })
}

/// A limit, as the store has it. A burst is a time there, so that the bursts of all machines add up
/// to that of the group.
pub(super) fn limit_of(limit: Option<GroupLimit>, floors: u32) -> SiteLimit {
    let Some(GroupLimit { rate, burst, .. }) = limit else {
        return SiteLimit { rate: OFF, burst: 0, floors, generation: 0 };
    };
    let burst = match burst {
        None => 0,
        Some(Burst::Time(time)) => time.as_micros().min(1 << 50) as u64,
        Some(Burst::Bytes(bytes)) => (u128::from(bytes) * 1_000_000 / u128::from(rate.max(1))).min(1 << 50) as u64,
    };
    SiteLimit { rate: rate.min(OFF - 1), burst, floors, generation: 0 }
}
