//! The ledger of this machine: a budget in a file.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::keeper::Keeper;
use super::record::{Record, Space};
use super::shared::Shared;
use super::{Ask, Budget, Ledger, Name, Reply, Tempo};
use crate::os::clock::{Moment, Origin};
use crate::os::{FolderError, Id, Presence, RuntimeFolder, SharedFile, clock};

/// What the name of a group's file ends with.
const ENDING: &str = ".group";

/// How fast members ask for more.
const TEMPO: Tempo = Tempo::LOCAL;

/// A lock is held for microseconds. If it is taken for this long, something is wrong.
const TOO_LONG: Duration = Duration::from_secs(1);

/// How long to wait for the lock where nothing else is to be done. With hundreds of members on a
/// busy machine it takes a while to get a turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the keeper waits for the lock: a lease runs on meanwhile.
const SHORTLY: Duration = Duration::from_millis(50);

/// How often a file is read again that changes while it is read.
const GLIMPSES: u32 = 20;

/// The budget of a group, in a file that its members lock in turns.
///
/// A record is written in the one of two places that does not hold the latest. If its writer is
/// killed, the torn record shows by its checksum, and the record before it is still there. A lock
/// goes with the process that holds it.
#[derive(Debug)]
pub struct GroupFile {
    name: Name,
    shared: SharedFile,
    origin: Origin,
    /// The latest record that was seen: it comes back if the file is emptied, removed, or replaced
    /// by an older copy.
    seen: Option<Record>,
    space: Box<Space>,
    /// Since when the lock could not be had though nobody wrote a record, and the latest one then.
    locked_since: Option<(Duration, u64)>,
    /// The member that leaves when this is dropped.
    member: Option<Id>,
    folder: RuntimeFolder,
    /// The thread that talks to the store, where other machines share the limit.
    keeper: Option<Arc<Keeper>>,
    /// What the user has to know of that store, or of a quota that is used up.
    notice: Option<String>,
    /// For which look at the plan the quota was put into words, and these words.
    quota: (Option<(i64, i64)>, Option<String>),
}

/// The name of the group, as in the names of files, whose file has this first or second name.
pub(super) fn stem_of(file: &str) -> Option<&str> {
    SharedFile::first_name(file).strip_suffix(ENDING)
}

/// What the file of a group has, without changing anything, not even its time; nothing if there is
/// no such group.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn glimpse(folder: &RuntimeFolder, name: &Name) -> Result<Option<Record>, FolderError> {
    let Some(file) = SharedFile::open_to_read(folder, &(name.stem() + ENDING))? else { return Ok(None) };
    let mut space = Space::default();
    for _ in 0..GLIMPSES {
        if let Some(record) = Record::latest(&file, &mut space) {
            return Ok(Some(record.at(&Moment::now(Origin::own()))));
        }
        if file.metadata().is_ok_and(|found| found.len() == 0) {
            return Ok(None);
        }
        // Both records may have been written while they were read.
        thread::sleep(Duration::from_millis(1));
    }
    Err(FolderError::new(&folder.path_of(&(name.stem() + ENDING)), damaged(name)))
}

fn damaged(name: &Name) -> String {
    format!("is damaged, or not from this version of pcproxy: 'pcproxy group rm {name}' makes room for a new one")
}

impl GroupFile {
    /// The file of the group `name`; made if it is missing and `create`, else nothing.
    ///
    /// # Errors
    /// When it cannot be opened or is open to others.
    pub(super) fn open(folder: &RuntimeFolder, name: Name, create: bool) -> Result<Option<Self>, FolderError> {
        let shared = SharedFile::open(folder.clone(), name.stem() + ENDING, create)?;
        Ok(shared.map(|shared| GroupFile {
            name,
            shared,
            origin: Origin::own(),
            seen: None,
            space: Box::default(),
            locked_since: None,
            member: None,
            folder: folder.clone(),
            keeper: None,
            notice: None,
            quota: (None, None),
        }))
    }

    /// Has `member`, this process, which has joined, leave the group when this is dropped. Until
    /// then the file has a second name, and the space that it needs.
    ///
    /// # Errors
    /// When there is no space.
    pub(super) fn stay(&mut self, member: Id, presence: Arc<Presence>) -> Result<(), FolderError> {
        self.member = Some(member);
        self.shared.keep(presence);
        let Some(seen) = &self.seen else { return Ok(()) };
        for dead in self.shared.keepers().unwrap_or_default() {
            if !seen.budget.members().iter().any(|found| found.id == dead) {
                // A name too many does no harm.
                let _ = self.shared.forget_keeper(dead);
            }
        }
        seen.places().into_iter().try_for_each(|place| self.shared.reserve(place))
    }

    /// Locks the file. False if another process holds the lock.
    fn lock(&mut self) -> Result<bool, FolderError> {
        let (seen, space) = (&mut self.seen, &mut self.space);
        self.shared.lock(|removed| {
            if let Some(record) = Record::latest(removed, space) {
                *seen = Some(record);
            }
        })
    }

    /// Has the group begin anew, with neither limit nor members, whatever is in the file. Members
    /// that run find an empty record in it when they notice that it was removed.
    ///
    /// # Errors
    /// When it cannot be locked or written.
    pub(super) fn reset(&mut self) -> Result<(), FolderError> {
        if retry_for(PATIENCE, || Ok(self.lock()?.then_some(())))?.is_none() {
            return Err(self.shared.error(self.is_locked()));
        }
        self.seen = None;
        let emptied = self.shared.file().set_len(0).map_err(|error| self.shared.error(error));
        let written = emptied.and_then(|()| self.write(Record::next(None, None, &Moment::now(self.origin))));
        self.shared.unlock()?;
        written
    }

    /// Has `change` change the budget. Nothing, without a call, if another process holds the lock.
    ///
    /// # Errors
    /// When the budget can be neither read nor written.
    pub(super) fn update<R>(&mut self, change: impl FnOnce(&mut Budget) -> R) -> Result<Option<R>, FolderError> {
        self.update_record(|record| record.change(change))
    }

    /// Has `change` change the budget and what is beside it where other machines share the limit.
    /// Nothing, without a call, if another process holds the lock for longer than usual.
    ///
    /// # Errors
    /// When they can be neither read nor written.
    pub(super) fn update_shared<R>(
        &mut self,
        change: impl FnOnce(&mut Budget, &mut Option<Shared>) -> R,
    ) -> Result<Option<R>, FolderError> {
        self.update_shortly(|record| {
            let Record { budget, shared, .. } = record;
            change(budget, shared)
        })
    }

    /// Has `change` change all that the file has. Nothing, without a call, if another process holds
    /// the lock for longer than usual.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub(super) fn update_shortly<R>(
        &mut self,
        change: impl FnOnce(&mut Record) -> R,
    ) -> Result<Option<R>, FolderError> {
        if retry_for(SHORTLY, || Ok(self.lock()?.then_some(())))?.is_none() {
            return Ok(None);
        }
        let result = self.update_locked(change);
        self.shared.unlock()?;
        result.map(Some)
    }

    fn update_record<R>(&mut self, change: impl FnOnce(&mut Record) -> R) -> Result<Option<R>, FolderError> {
        if !self.lock()? {
            return Ok(None);
        }
        let result = self.update_locked(change);
        self.shared.unlock()?;
        result.map(Some)
    }

    /// Has `change` change the budget and what is beside it where other machines share the limit.
    /// Waits for the lock for a while.
    ///
    /// # Errors
    /// When they can be neither read nor written.
    pub(super) fn change_shared<R>(
        &mut self,
        mut change: impl FnMut(&mut Budget, &mut Option<Shared>) -> R,
    ) -> Result<R, FolderError> {
        let done = retry_for(PATIENCE, || self.update_shared(&mut change))?;
        done.ok_or_else(|| self.shared.error(self.is_locked()))
    }

    /// Waits until no other process holds the lock, as long as `go_on` says so. False once it does not.
    ///
    /// # Errors
    /// When the file cannot be locked, and when another process holds the lock all the time.
    pub(super) fn await_turn(&mut self, mut go_on: impl FnMut() -> bool) -> Result<bool, FolderError> {
        let goes_on = retry_for(PATIENCE, || {
            if !go_on() {
                return Ok(Some(false));
            }
            let locked = self.lock()?;
            if locked {
                self.shared.unlock()?;
            }
            Ok(locked.then_some(true))
        })?;
        goes_on.ok_or_else(|| self.shared.error(self.is_locked()))
    }

    /// Has `change` change all that the file has. Waits for the lock for a while.
    ///
    /// # Errors
    /// When it can be neither read nor written, and when another process holds the lock all the time.
    pub(super) fn change_record<R>(&mut self, mut change: impl FnMut(&mut Record) -> R) -> Result<R, FolderError> {
        let done = retry_for(PATIENCE, || self.update_record(&mut change))?;
        done.ok_or_else(|| self.shared.error(self.is_locked()))
    }

    /// What the file has now, without the lock; nothing if that cannot be read.
    pub(super) fn peek(&mut self) -> Option<Record> {
        Some(Record::latest(self.shared.file(), &mut self.space)?.at(&Moment::now(self.origin)))
    }

    fn update_locked<R>(&mut self, change: impl FnOnce(&mut Record) -> R) -> Result<R, FolderError> {
        let found = Record::latest(self.shared.file(), &mut self.space);
        if found.is_none() && self.shared.file().metadata().is_ok_and(|found| found.len() > 0) {
            return Err(self.shared.error(damaged(&self.name)));
        }
        let mut record = Record::next(found, self.seen.as_ref(), &Moment::now(self.origin));
        let result = change(&mut record);
        self.write(record)?;
        Ok(result)
    }

    /// Writes the next record to the locked file, and removes a file in which nothing is worth
    /// keeping.
    fn write(&mut self, record: Record) -> Result<(), FolderError> {
        let (bytes, at) = record.encode(&mut self.space).map_err(|reason| self.shared.error(reason))?;
        self.shared.write_at(bytes, at)?;
        let is_used = record.budget.limit().is_some() || !record.budget.members().is_empty();
        let keeps = is_used || record.plan.is_some() || record.shared.is_some();
        if let Some(before) = self.seen.replace(record) {
            self.space.reuse(before);
        }
        if keeps { Ok(()) } else { self.remove() }
    }

    /// Removes the locked file by all its names.
    fn remove(&self) -> Result<(), FolderError> {
        for keeper in self.shared.keepers()? {
            self.shared.forget_keeper(keeper)?;
        }
        self.shared.remove()
    }

    /// Whether the lock has been taken for too long. In a crowd many come and go meanwhile, and each
    /// of them writes a record: then it is only busy.
    fn is_stuck(&mut self, now: Duration) -> bool {
        let (since, _) = *self.locked_since.get_or_insert((now, 0));
        if now.saturating_sub(since) < TOO_LONG {
            return false;
        }
        let latest = Record::latest_sequence(self.shared.file(), &mut self.space);
        let is_stuck = self.locked_since.is_some_and(|(_, known)| known == latest);
        if !is_stuck {
            self.locked_since = Some((now, latest));
        }
        is_stuck
    }

    fn is_locked(&self) -> String {
        match self.shared.holder() {
            Some(holder) => format!("stays locked: {holder} holds the lock"),
            None => "stays locked: another program holds the lock, or a member was stopped just then".to_owned(),
        }
    }
}

impl GroupFile {
    /// Notes what the user has to know. Sees to it that someone talks to the store, where other
    /// machines share the limit.
    fn attend_to_store(&mut self) {
        let Some(record) = &self.seen else { return };
        // To put it into words takes longer than a visit.
        let looked = record.used_up();
        if looked != self.quota.0 {
            self.quota = (looked, record.quota_notice(&self.name));
        }
        self.notice.clone_from(&self.quota.1);
        let Some(shared) = record.shared.as_ref() else {
            self.keeper = None;
            return;
        };
        self.notice = shared.notice(&self.name, shared.written).or(self.notice.take());
        if self.keeper.is_none() {
            self.keeper = Some(Keeper::serve(&self.folder, &self.name));
        }
    }
}

impl Drop for GroupFile {
    fn drop(&mut self) {
        // One that did not get as far as to become a member has used nothing.
        if let Some(id) = self.member {
            self.leave(id, 0);
        }
    }
}

impl Ledger for GroupFile {
    type Error = FolderError;

    fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    fn leave(&mut self, id: Id, used: u64) {
        self.member = None;
        // If this fails, others will notice that the process is gone.
        let _ = retry_for(TOO_LONG, || self.update(|budget| budget.leave(id, used)));
    }

    fn ask(&mut self, ask: &Ask) -> Reply<FolderError> {
        // Machines that share a limit promise it to each other without delays that are made up for.
        let is_shared = self.seen.as_ref().is_some_and(|record| record.shared.is_some());
        let late = if is_shared { Duration::ZERO } else { ask.late };
        let error = match self.update(|budget| budget.answer(&Ask { late, ..*ask }, TEMPO.use_within)) {
            Ok(Some(answer)) => {
                self.locked_since = None;
                self.attend_to_store();
                return Reply::Answer(answer);
            }
            Ok(None) => {
                if !self.is_stuck(ask.now) {
                    let members = self.seen.as_ref().map_or(0, |record| record.budget.members().len());
                    return Reply::Pending { retry_at: ask.now + TEMPO.retry_among(members) };
                }
                self.shared.error(self.is_locked())
            }
            Err(error) => error,
        };
        Reply::Failed { error, retry_at: ask.now + TEMPO.retry_failed }
    }
}

/// Tries again for so long while another process is at it.
fn retry_for<R>(
    patience: Duration,
    mut update: impl FnMut() -> Result<Option<R>, FolderError>,
) -> Result<Option<R>, FolderError> {
    let start = clock::now();
    loop {
        if let Some(result) = update()? {
            return Ok(Some(result));
        }
        // Time counts, not tries: on a busy machine each of them takes long.
        if clock::now().saturating_sub(start) > patience {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::budget::{GroupLimit, Terms};
    use crate::shaping::{TOKENS_PER_BYTE, Unit};

    /// What happens to a group whose members visit a file, at a time that is simulated.
    #[derive(Clone, Debug)]
    enum Act {
        Pass(Duration),
        /// A member takes what it gets, and uses all of it.
        Visit(usize),
        /// A member is killed when it has written so many bytes of its record; another takes its place.
        Kill(usize, usize),
        Leave(usize),
        Set(u64),
        /// Some byte of the file changes.
        Damage(usize, u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0..30_000_000u64).prop_map(|nanos| Act::Pass(Duration::from_nanos(nanos))),
            8 => (0..4usize).prop_map(Act::Visit),
            3 => (0..4usize, 0..700usize).prop_map(|(who, cut)| Act::Kill(who, cut)),
            1 => (0..4usize).prop_map(Act::Leave),
            1 => (1_000..10_000_000u64).prop_map(Act::Set),
        ]
    }

    /// A group in a file, its members, and the most that they may have been granted.
    struct World {
        folder: RuntimeFolder,
        path: std::path::PathBuf,
        members: Vec<(GroupFile, Id)>,
        started: u32,
        now: Duration,
        limit: GroupLimit,
        /// A bucket that was full at first, in billionths of a byte.
        allowed: i128,
        /// From now on, only nothing may crash.
        damaged: bool,
        _temporary: TempDir,
    }

    impl World {
        fn new(rate: u64) -> Self {
            let temporary = tempfile::tempdir().unwrap();
            fs::set_permissions(&temporary, PermissionsExt::from_mode(0o700)).unwrap();
            let folder = RuntimeFolder::at(temporary.path());
            let limit = GroupLimit { rate, unit: Unit::Bytes, burst: None, lasting: true };
            let mut world = World {
                path: folder.path_of("all.group"),
                folder,
                members: Vec::new(),
                started: 0,
                now: clock::now(),
                limit,
                allowed: 0,
                damaged: false,
                _temporary: temporary,
            };
            world.allowed = world.burst();
            world.members = (0..4).map(|_| world.start()).collect();
            world.set(rate);
            world
        }

        fn start(&mut self) -> (GroupFile, Id) {
            self.started += 1;
            let file = GroupFile::open(&self.folder, "all".parse().unwrap(), true).unwrap().unwrap();
            (file, Id { pid: self.started, nonce: 7 })
        }

        fn burst(&self) -> i128 {
            // Each account can hold a byte, those of the killed too.
            i128::from(self.limit.rate) * 12_000_000 + 100 * TOKENS_PER_BYTE as i128
        }

        fn set(&mut self, rate: u64) {
            let (limit, now) = (GroupLimit { rate, ..self.limit }, self.now);
            let set = self.members[0].0.update(|budget| budget.set_limit(Some(limit), now));
            // A damaged file says so, and the limit stays.
            if matches!(set, Ok(Some(Ok(())))) {
                self.limit = limit;
                self.allowed = self.allowed.min(self.burst());
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            let dripped = i128::from(self.limit.rate) * time.as_nanos() as i128;
            self.allowed = (self.allowed + dripped).min(self.burst());
        }

        /// Bytes that a member is granted that wants no end of them.
        fn visit(&mut self, who: usize) -> u64 {
            let (file, id) = &mut self.members[who];
            let terms = Terms::default();
            let ask =
                Ask { id: *id, terms, give_back: 0, used: 0, want: u64::MAX, now: self.now, late: Duration::ZERO };
            match file.ask(&ask) {
                Reply::Answer(answer) => {
                    assert!(self.damaged || answer.rate == Some(self.limit.rate), "the limit is {:?}", answer.rate);
                    answer.bytes
                }
                Reply::Pending { .. } => panic!("nobody else is there"),
                Reply::Failed { .. } => 0,
            }
        }

        fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
            match act {
                Act::Pass(time) => self.pass(time),
                Act::Visit(who) => {
                    let granted = self.visit(who);
                    self.allowed -= i128::from(granted) * TOKENS_PER_BYTE as i128;
                    prop_assert!(self.damaged || self.allowed >= 0, "{granted} bytes, {} too many", -self.allowed);
                }
                Act::Kill(who, written) => {
                    let before = fs::read(&self.path).unwrap();
                    self.visit(who);
                    let mut after = fs::read(&self.path).unwrap();
                    let begin = before.iter().zip(&after).position(|(old, new)| old != new).unwrap_or(before.len());
                    // The record begins a little before: with its magic number, which is the same.
                    let begin = begin.saturating_sub(8);
                    let end = (begin + written).min(after.len());
                    for (at, byte) in after.iter_mut().enumerate().skip(end) {
                        *byte = before.get(at).copied().unwrap_or(0);
                    }
                    fs::write(&self.path, after).unwrap();
                    let other = self.start();
                    self.members[who] = other;
                }
                Act::Leave(who) => {
                    let id = self.members[who].1;
                    let _ = self.members[who].0.update(|budget| budget.retain(|account| account.id != id));
                }
                Act::Set(rate) => self.set(rate),
                Act::Damage(at, bits) => {
                    self.damaged = true;
                    let mut bytes = fs::read(&self.path).unwrap();
                    for place in [at, 256 * 1024 + at] {
                        if let Some(byte) = bytes.get_mut(place) {
                            *byte ^= bits;
                            fs::write(&self.path, bytes).unwrap();
                            break;
                        }
                    }
                }
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

        /// Members that are killed while they write, and that leave: nobody gets more than the limit and
        /// its burst, and nobody forgets the limit. A file that is damaged crashes nobody.
        #[test]
        fn members_that_are_killed_at_any_byte_and_a_damaged_file_break_no_promise(
            rate in 1_000..10_000_000u64,
            acts in prop::collection::vec(act(), 1..80),
            damage in prop::option::weighted(0.3, (0..700usize, 1..255u8)),
            after in prop::collection::vec(act(), 1..20),
        ) {
            let mut world = World::new(rate);
            for act in acts.into_iter().chain(damage.map(|(at, bits)| Act::Damage(at, bits))).chain(after) {
                world.act(act)?;
            }
        }
    }
}
