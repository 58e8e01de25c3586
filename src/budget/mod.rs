//! Groups of running pcproxies that share one budget, without a daemon. [`Budget`] is the rule,
//! a [`Member`] asks a [`Ledger`], and the ledger of this machine is a file for each group.

mod file;
mod keeper;
mod lease;
mod ledger;
mod member;
mod name;
pub mod plan;
mod quota;
mod record;
mod resp;
mod rule;
mod shared;
mod sharing;
pub mod site;
#[cfg(feature = "tls")]
mod tls;
pub mod usage;
pub mod valkey;
mod version3;
mod wire;

pub use crate::os::Id;
pub use file::GroupFile;
pub use lease::{Gauge, Lease, Needs, Rounds, Seen};
pub use ledger::{Answer, Ask, Ledger, Reply, Tempo};
pub use member::{Member, Membership};
pub use name::{Name, NameError};
pub use rule::{Budget, Denied, GroupLimit, MemberAccount, Terms, Watch};
pub use shared::Shared;
pub use sharing::{DEFAULT_FLOORS, look, share, unshare};

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::os::{self, FolderError, Presence, RuntimeFolder, clock};
use crate::shaping::Unit;
use plan::{Changed, Outlook, Plan, PlanError, Settings};
use record::Record;

/// How many members a newcomer looks at to see whether they live.
const SWEEP: usize = 8;

/// A request of a transfer to join a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRequest {
    /// Which group.
    pub name: Name,
    /// The limit that the group gets if it has none, in tokens per second of what `terms` count.
    pub rate: Option<u64>,
    /// On which terms to share.
    pub terms: Terms,
}

/// Why a group cannot be used or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// Its file cannot be used.
    File(FolderError),
    /// It does not have what was to be guaranteed, or counts something else.
    Denied(Name, Denied),
    /// Its limit cannot be changed so.
    Plan(Name, PlanError),
    /// There is none of this name in this folder.
    Unknown(Name, PathBuf),
    /// The store cannot be used that it shares with other machines.
    Store(Name, valkey::StoreError),
    /// It is not shared with other machines.
    NotShared(Name),
    /// It counts records, and machines share limits of bytes.
    SharesBytes(Name),
    /// The environment names no store but something else.
    Environment,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::File(error) => error.fmt(f),
            GroupError::Denied(name, error) => error.describe(f, &format!("group {name}")),
            GroupError::Plan(name, error) => write!(f, "group {name} {error}"),
            GroupError::Store(name, error) => write!(f, "group {name}: {error}"),
            GroupError::SharesBytes(name) => {
                write!(f, "group {name}: machines can share a limit of bytes, but not one of records (--lines, --null)")
            }
            GroupError::NotShared(name) => write!(f, "group {name} is not shared with other machines"),
            GroupError::Environment => write!(f, "{} {}", valkey::STORE, valkey::AddressError),
            GroupError::Unknown(name, folder) => {
                write!(f, "there is no group {name} in {}: 'pcproxy group ls' lists the groups", folder.display())
            }
        }
    }
}

impl std::error::Error for GroupError {}

impl From<FolderError> for GroupError {
    fn from(error: FolderError) -> Self {
        GroupError::File(error)
    }
}

/// Joins the group that is named in the request, and the groups above it. Leaves them when the
/// result is dropped. `label` is what people call this process. While another process keeps this one
/// waiting, `go_on` says whether to wait on; nothing if it does not.
///
/// # Errors
/// When one of them cannot be used, or has less left than is to be guaranteed.
pub fn join(
    request: &GroupRequest,
    label: Option<&str>,
    mut go_on: impl FnMut() -> bool,
) -> Result<Option<Membership<GroupFile>>, GroupError> {
    let folder = RuntimeFolder::open()?;
    let presence = Presence::show(&folder)?;
    label.iter().for_each(|label| presence.call(label));
    let id = os::own_id();
    let mut levels = Vec::new();
    for name in request.name.levels() {
        let Some(mut file) = GroupFile::open(&folder, name.clone(), true)? else { continue };
        if !file.await_turn(&mut go_on)? {
            return Ok(None);
        }
        let now = clock::now();
        let rate = request.rate.filter(|_| name == request.name);
        let counts_records = request.terms.unit == Unit::Records;
        if name == request.name && !(counts_records && sharing::is_bound_by_environment()) {
            sharing::bind_by_environment(&mut file, rate)?;
        }
        let shared = file.peek().is_some_and(|record| record.shared.is_some());
        if counts_records && (shared || (name == request.name && sharing::is_bound_by_environment())) {
            return Err(GroupError::SharesBytes(name));
        }
        let joined = file.change_record(|record| {
            // A plan is a limit, though it may be none at this moment.
            let rate = rate.filter(|_| record.plan.is_none());
            let unit = record.plan.as_ref().and_then(Plan::unit).unwrap_or(request.terms.unit);
            if unit != request.terms.unit {
                return Err(Denied::Counts { limit: unit, member: request.terms.unit });
            }
            record.change(|budget| {
                bury(budget, &folder, SWEEP);
                if shared {
                    // What is guaranteed to it counts among all machines.
                    budget.admit(id, request.terms);
                } else {
                    enter(budget, id, request.terms, rate, now).or_else(|_| {
                        // What was guaranteed to members that were killed is free.
                        bury(budget, &folder, usize::MAX);
                        enter(budget, id, request.terms, rate, now)
                    })?;
                }
                Ok(budget.limit().map(|limit| limit.rate))
            })
        })?;
        let rate = joined.map_err(|error| GroupError::Denied(name, error))?;
        file.stay(id, presence.clone())?;
        levels.push(Member::new(file, id, request.terms).with_rate(rate));
    }
    Ok(Some(Membership::new(levels)))
}

/// Puts out members that have died: of those that have been silent for longest, so many are
/// looked at. To look at hundreds would hold up the others while the file is locked.
fn bury(budget: &mut Budget, folder: &RuntimeFolder, most: usize) {
    let mut silent: Vec<_> = budget.members().iter().map(|account| (account.asked, account.id)).collect();
    silent.sort();
    let dead: Vec<_> = silent.into_iter().take(most).map(|(_, id)| id).filter(|id| !folder.lives(*id)).collect();
    if !dead.is_empty() {
        budget.retain(|account| !dead.contains(&account.id));
    }
}

/// Lets a member in, with the limit that it brings along; changes nothing if it is refused.
fn enter(budget: &mut Budget, id: Id, terms: Terms, rate: Option<u64>, now: Duration) -> Result<(), Denied> {
    let mut next = budget.clone();
    if let (None, Some(rate)) = (next.limit(), rate) {
        next.set_limit(Some(GroupLimit { rate, unit: terms.unit, burst: None, lasting: false }), now)?;
    }
    next.join(id, terms)?;
    *budget = next;
    Ok(())
}

/// What became of the limit of a group.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The limit that was in force before.
    pub before: Option<GroupLimit>,
    /// The limit that is in force now.
    pub after: Option<GroupLimit>,
    /// What comes by the clock.
    pub outlook: Option<Outlook>,
}

/// Changes the limit of a group, whether it has members or not.
///
/// # Errors
/// When the group cannot be used, its members are guaranteed more than that, or it cannot be changed
/// so. Nothing has changed then.
pub fn set(name: &Name, settings: &Settings) -> Result<Outcome, GroupError> {
    let folder = RuntimeFolder::open()?;
    let Some(mut file) = GroupFile::open(&folder, name.clone(), true)? else {
        return Err(GroupError::Unknown(name.clone(), folder.path().to_owned()));
    };
    let zone = TimeZone::system();
    if let Some(Record { shared: Some(shared), .. }) = file.peek() {
        return sharing::set(name, &mut file, &shared, settings, zone.iana_name());
    }
    file.change_record(|record| {
        record.change(|budget| bury(budget, &folder, SWEEP));
        arrange(record, settings, zone.iana_name()).or_else(|error| match error {
            // What was guaranteed to members that were killed is free.
            Refusal::Denied(Denied::Overcommitted { .. }) => {
                record.change(|budget| bury(budget, &folder, usize::MAX));
                arrange(record, settings, zone.iana_name())
            }
            error => Err(error),
        })
    })?
    .map_err(|refusal| match refusal {
        Refusal::Denied(error) => GroupError::Denied(name.clone(), error),
        Refusal::Plan(error) => GroupError::Plan(name.clone(), error),
    })
}

enum Refusal {
    Denied(Denied),
    Plan(PlanError),
}

/// Changes the limit in a record; nothing if that is refused.
fn arrange(record: &mut Record, settings: &Settings, zone: Option<&str>) -> Result<Outcome, Refusal> {
    let (before, now, counted) = (record.budget.limit(), record.now(), record.budget.counted());
    let changed = Plan::change(record.plan.as_ref(), before, settings, now, counted, zone).map_err(Refusal::Plan)?;
    let limits = match &changed {
        Changed::Limit(limit) => limit.iter().copied().collect(),
        Changed::Plan(plan) => plan.limits(),
    };
    limits.into_iter().try_for_each(|limit| record.budget.accepts(limit)).map_err(Refusal::Denied)?;
    if matches!(&changed, Changed::Plan(plan) if plan.has_quota()) && record.budget.counts_records() {
        return Err(Refusal::Plan(PlanError::QuotaOfRecords));
    }
    let outlook = match changed {
        Changed::Limit(limit) => {
            record.follow(None);
            let written = record.written();
            record.change(|budget| budget.restore_limit(limit, written));
            None
        }
        Changed::Plan(plan) => {
            let outlook = plan.outlook(now, counted);
            record.follow(Some(*plan));
            Some(outlook)
        }
    };
    Ok(Outcome { before, after: record.budget.limit(), outlook })
}

/// Lifts the limit of a group. Its members go on without one, and the group goes with the last of
/// them. A file that cannot be read is begun anew, without a limit.
///
/// # Errors
/// When there is no such group.
pub fn remove(name: &Name) -> Result<(), GroupError> {
    let folder = RuntimeFolder::open()?;
    let Some(mut file) = GroupFile::open(&folder, name.clone(), false)? else {
        return Err(GroupError::Unknown(name.clone(), folder.path().to_owned()));
    };
    if file.peek().is_some_and(|record| record.shared.is_some()) {
        sharing::unshare(name)?;
    }
    let lifted = file.change_record(|record| {
        record.follow(None);
        record.change(|budget| {
            bury(budget, &folder, usize::MAX);
            budget.restore_limit(None, clock::now());
        });
    });
    match lifted {
        // What cannot be read is begun anew.
        Err(_) if file.peek().is_none() => Ok(file.reset()?),
        lifted => Ok(lifted?),
    }
}

/// What a folder has of groups.
#[derive(Debug)]
pub struct Listing {
    /// The folder that was looked at.
    pub folder: PathBuf,
    /// All groups and their budgets, without members that have died.
    pub groups: Vec<(Name, Budget)>,
    /// What people call their members that have a name.
    pub names: HashMap<Id, String>,
    /// What comes by the clock, of those of them whose limit changes by itself.
    pub outlooks: Vec<(Name, Outlook)>,
    /// Those of them that are shared with other machines.
    pub shared: Vec<(Name, Shared)>,
    /// The groups that cannot be read, and why.
    pub failed: Vec<FolderError>,
}

/// All groups of this user and their budgets as they are now. Nothing is changed, locked or made.
///
/// # Errors
/// When the folder cannot be read.
pub fn list() -> Result<Listing, GroupError> {
    let mut listing = Listing {
        folder: RuntimeFolder::place()?,
        groups: Vec::new(),
        names: HashMap::new(),
        outlooks: Vec::new(),
        shared: Vec::new(),
        failed: Vec::new(),
    };
    let Some(folder) = RuntimeFolder::find()? else { return Ok(listing) };
    // A file whose name was removed is found by the second names that members keep.
    let found: Vec<_> = folder.names()?;
    let names: BTreeSet<_> = found.iter().filter_map(|name| Name::of_stem(file::stem_of(name)?)).collect();
    for name in names {
        match file::glimpse(&folder, &name) {
            Ok(Some(record)) => {
                let outlook = record.outlook();
                let Record { mut budget, shared, .. } = record;
                budget.retain(|account| folder.lives(account.id));
                for account in budget.members() {
                    if !listing.names.contains_key(&account.id)
                        && let Some(label) = folder.name_of(account.id)
                    {
                        listing.names.insert(account.id, label);
                    }
                }
                if budget.limit().is_some() || !budget.members().is_empty() || outlook.is_some() {
                    listing.groups.push((name.clone(), budget));
                }
                listing.outlooks.extend(outlook.map(|outlook| (name.clone(), outlook)));
                listing.shared.extend(shared.map(|shared| (name, shared)));
            }
            Ok(None) => {}
            Err(error) => listing.failed.push(error),
        }
    }
    Ok(listing)
}
