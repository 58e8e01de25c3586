//! Groups of running pcproxies that share one budget, without a daemon. [`Budget`] is the rule,
//! a [`Member`] asks a [`Ledger`], and the ledger of this machine is a file for each group.

mod file;
mod lease;
mod ledger;
mod member;
mod name;
mod resp;
mod rule;
pub mod site;
pub mod valkey;
mod wire;

pub use crate::os::Id;
pub use file::GroupFile;
pub use lease::{Gauge, Lease, Needs, Rounds, Seen};
pub use ledger::{Answer, Ask, Ledger, Reply, Tempo};
pub use member::{Member, Membership};
pub use name::{Name, NameError};
pub use rule::{Budget, GroupLimit, MemberAccount, Overcommitted, Terms};

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::os::{self, FolderError, RuntimeFolder, clock};
use file::retry_for;

/// A request of a transfer to join a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRequest {
    /// Which group.
    pub name: Name,
    /// The limit that the group gets if it has none, in bytes per second.
    pub rate: Option<u64>,
    /// On which terms to share.
    pub terms: Terms,
}

/// Why a group cannot be used or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// Its file cannot be used.
    File(FolderError),
    /// More was to be guaranteed than it has.
    Overcommitted(Name, Overcommitted),
    /// Another process held the lock of its file for too long.
    Locked(Name),
    /// There is none of this name.
    Unknown(Name),
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::File(error) => error.fmt(f),
            GroupError::Overcommitted(name, error) => error.describe(f, &format!("group {name}")),
            GroupError::Locked(name) => {
                write!(
                    f,
                    "group {name}: its file stays locked: another program holds the lock, or a member was stopped just then"
                )
            }
            GroupError::Unknown(name) => {
                write!(f, "there is no group {name}: 'pcproxy group ls' lists the groups")
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
/// result is dropped.
///
/// # Errors
/// When one of them cannot be used, or has less left than is to be guaranteed.
pub fn join(request: &GroupRequest) -> Result<Membership<GroupFile>, GroupError> {
    let folder = Rc::new(RuntimeFolder::open()?);
    let id = os::own_id();
    let mut levels = Vec::new();
    for name in request.name.levels() {
        let Some(mut file) = GroupFile::open(&folder, name.clone(), true)? else { continue };
        let now = clock::now();
        let rate = request.rate.filter(|_| name == request.name);
        let joined = update(&mut file, &name, |budget| {
            budget.retain(|account| os::lives(account.id));
            enter(budget, id, request.terms, rate, now)
        })?;
        joined.map_err(|error| GroupError::Overcommitted(name, error))?;
        file.stay(id);
        levels.push(Member::new(file, id, request.terms));
    }
    Ok(Membership::new(levels))
}

/// Lets a member in, with the limit that it brings along; changes nothing if it is refused.
fn enter(budget: &mut Budget, id: Id, terms: Terms, rate: Option<u64>, now: Duration) -> Result<(), Overcommitted> {
    let mut next = budget.clone();
    if let (None, Some(rate)) = (next.limit(), rate) {
        next.set_limit(Some(GroupLimit { rate, burst: None, lasting: false }), now)?;
    }
    next.join(id, terms)?;
    *budget = next;
    Ok(())
}

/// Puts a limit in force for a group, whether it has members or not; lifts it if nothing.
///
/// # Errors
/// When the group cannot be used, or its members are guaranteed more than that.
pub fn set(name: &Name, limit: Option<GroupLimit>) -> Result<(), GroupError> {
    let folder = Rc::new(RuntimeFolder::open()?);
    let Some(mut file) = GroupFile::open(&folder, name.clone(), true)? else { return Ok(()) };
    let done = update(&mut file, name, |budget| {
        budget.retain(|account| os::lives(account.id));
        budget.set_limit(limit, clock::now())
    })?;
    done.map_err(|error| GroupError::Overcommitted(name.clone(), error))
}

/// Lifts the limit of a group. Its members go on without one, and the group goes with the last of
/// them. A file that cannot be read is emptied.
///
/// # Errors
/// When there is no such group.
pub fn remove(name: &Name) -> Result<(), GroupError> {
    let folder = Rc::new(RuntimeFolder::open()?);
    let Some(mut file) = GroupFile::open(&folder, name.clone(), false)? else {
        return Err(GroupError::Unknown(name.clone()));
    };
    let lifted = update(&mut file, name, |budget| {
        budget.retain(|account| os::lives(account.id));
        // Without a limit, none can be too low.
        let _ = budget.set_limit(None, clock::now());
    });
    // What cannot be read is begun anew, without a limit.
    if let Err(GroupError::File(_)) = lifted { Ok(file.reset()?) } else { lifted }
}

/// All groups of this user and their budgets as they are now, without members that have died.
///
/// # Errors
/// When one of them cannot be read.
pub fn list() -> Result<Vec<(Name, Budget)>, GroupError> {
    let folder = Rc::new(RuntimeFolder::open()?);
    let mut found = Vec::new();
    // A file whose name was removed is found by the second names that members keep.
    let mut stems: Vec<_> = folder.names()?.iter().filter_map(|name| file::stem_of(name)).map(str::to_owned).collect();
    stems.sort();
    stems.dedup();
    for stem in stems {
        let Some(name) = Name::of_stem(&stem) else { continue };
        let Some(mut file) = GroupFile::open(&folder, name.clone(), false)? else { continue };
        let budget = update(&mut file, &name, |budget| {
            budget.retain(|account| os::lives(account.id));
            budget.clone()
        })?;
        if budget.limit().is_some() || !budget.members().is_empty() {
            found.push((name, budget));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

fn update<R>(file: &mut GroupFile, name: &Name, mut change: impl FnMut(&mut Budget) -> R) -> Result<R, GroupError> {
    let done = retry_for(|| file.update(&mut change))?;
    done.ok_or_else(|| GroupError::Locked(name.clone()))
}
