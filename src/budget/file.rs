//! The ledger of this machine: a budget in a file.

use std::cmp::Reverse;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::{Ask, Budget, Ledger, Name, Reply, Tempo};
use crate::os::{FolderError, Id, KEPT, RuntimeFolder, SharedFile, clock};

/// What the name of a group's file ends with.
const ENDING: &str = ".group";

/// What each record begins with. The last byte is the version of what follows.
const MAGIC: &[u8; 8] = b"pcgroup\x01";

/// Magic, checksum of what follows it, sequence number, start of the machine, length of the rest.
const HEAD: usize = 8 + 4 + 8 + 16 + 4;

/// Where what the checksum is of begins.
const CHECKED: usize = 8 + 4;

/// Where the second of the two places for a record begins.
const SECOND_PLACE: usize = 64 * 1024;

/// Bytes that are read of a place at once: enough for the records of some 80 members.
const GLANCE: usize = 4096;

/// How fast members ask for more.
const TEMPO: Tempo = Tempo::LOCAL;

/// The budget of a group, in a file that its members lock in turns.
///
/// A record is written in the one of two places that does not hold the latest. So one that is
/// torn, since its writer was killed, shows by its checksum, and the one before it is still
/// there. A lock goes with the process that holds it.
#[derive(Debug)]
pub struct GroupFile {
    name: Name,
    shared: SharedFile,
    boot: u128,
    /// Sequence number of the latest record.
    sequence: u64,
    /// The budget as it was seen last: it comes back if the file was emptied or removed.
    seen: Option<Budget>,
    /// What was read of the two places: kept, since it is read so often.
    glances: Box<[[u8; GLANCE]; 2]>,
    /// The member that leaves when this is dropped.
    member: Option<Id>,
}

impl GroupFile {
    /// The file of the group `name`; made if it is missing and `create`, else nothing.
    ///
    /// # Errors
    /// When it cannot be opened or is not the user's alone.
    pub(super) fn open(folder: &Rc<RuntimeFolder>, name: Name, create: bool) -> Result<Option<Self>, FolderError> {
        let shared = SharedFile::open(folder.clone(), name.stem() + ENDING, create)?;
        Ok(shared.map(|shared| GroupFile {
            name,
            shared,
            boot: clock::boot(),
            sequence: 0,
            seen: None,
            glances: Box::new([[0; GLANCE]; 2]),
            member: None,
        }))
    }

    /// Keeps the file by a second name for `member`, which has joined, and has it leave the group
    /// when this is dropped. Second names for members that are in the budget no longer go.
    pub(super) fn stay(&mut self, member: Id) {
        self.member = Some(member);
        self.shared.keep(&keeper(member));
        // A name too many does no harm.
        let members: Vec<_> = self.seen.iter().flat_map(Budget::members).map(|account| keeper(account.id)).collect();
        for dead in self.shared.keepers().unwrap_or_default().iter().filter(|name| !members.contains(name)) {
            let _ = self.shared.forget_keeper(dead);
        }
    }

    /// Locks the file. False if another holds the lock.
    fn lock(&mut self) -> Result<bool, FolderError> {
        let (seen, glances) = (&mut self.seen, &mut self.glances);
        // Whoever comes first makes one that was removed anew, from what it said last.
        self.shared.lock(|removed| *seen = latest(removed, glances).map(|record| record.budget).or(seen.take()))
    }

    /// The budget in the locked file.
    fn read(&mut self) -> Result<Budget, FolderError> {
        match latest(self.shared.file(), &mut self.glances) {
            Some(Record { sequence, boot, mut budget }) => {
                self.sequence = sequence;
                if boot != self.boot {
                    // None of its members can be alive.
                    budget.forget_time(clock::now());
                    budget.retain(|_| false);
                }
                Ok(budget)
            }
            None if self.shared.file().metadata().is_ok_and(|found| found.len() == 0) => {
                let mut budget = self.seen.clone().unwrap_or_default();
                budget.forget_time(clock::now());
                Ok(budget)
            }
            None => Err(self.shared.error(format!(
                "is damaged, or not from this version of pcproxy: 'pcproxy group rm {}' makes room for a new one",
                self.name
            ))),
        }
    }

    /// Has the group begin anew, with neither limit nor members, whatever is in the file.
    ///
    /// # Errors
    /// When it cannot be locked or written.
    pub(super) fn reset(&mut self) -> Result<(), FolderError> {
        if retry_for(|| Ok(self.lock()?.then_some(())))?.is_none() {
            return Err(self.shared.error("is locked by a process that was stopped"));
        }
        self.shared.file().set_len(0).map_err(|error| self.shared.error(error))?;
        let written = self.write_or_remove(Budget::default());
        self.shared.unlock()?;
        written
    }

    /// Writes the next record to the locked file.
    fn write(&mut self, budget: Budget) -> Result<(), FolderError> {
        let sequence = self.sequence + 1;
        let body = postcard::to_stdvec(&budget).map_err(|error| self.shared.error(error))?;
        if HEAD + body.len() > SECOND_PLACE {
            return Err(self.shared.error("has no room for more members"));
        }
        let mut checked = Vec::with_capacity(HEAD - CHECKED + body.len());
        checked.extend_from_slice(&sequence.to_le_bytes());
        checked.extend_from_slice(&self.boot.to_le_bytes());
        checked.extend_from_slice(&(body.len() as u32).to_le_bytes());
        checked.extend_from_slice(&body);
        let bytes = [MAGIC, &crc32fast::hash(&checked).to_le_bytes()[..], &checked].concat();
        let at = if sequence.is_multiple_of(2) { 0 } else { SECOND_PLACE };
        self.shared.file().write_all_at(&bytes, at as u64).map_err(|error| self.shared.error(error))?;
        self.sequence = sequence;
        self.seen = Some(budget);
        Ok(())
    }

    /// Writes the next record to the locked file, and removes a file in which nothing is worth
    /// keeping.
    fn write_or_remove(&mut self, budget: Budget) -> Result<(), FolderError> {
        let keeps = budget.limit().is_some() || !budget.members().is_empty();
        self.write(budget)?;
        if keeps {
            return Ok(());
        }
        for dead in self.shared.keepers()? {
            self.shared.forget_keeper(&dead)?;
        }
        self.shared.remove()
    }

    /// Has `change` change the budget. Nothing, without a call, if another process holds the lock.
    ///
    /// # Errors
    /// When the budget can be neither read nor written.
    pub(super) fn update<R>(&mut self, change: impl FnOnce(&mut Budget) -> R) -> Result<Option<R>, FolderError> {
        if !self.lock()? {
            return Ok(None);
        }
        let result = self.update_locked(change);
        self.shared.unlock()?;
        result.map(Some)
    }

    fn update_locked<R>(&mut self, change: impl FnOnce(&mut Budget) -> R) -> Result<R, FolderError> {
        let mut budget = self.read()?;
        let result = change(&mut budget);
        self.write_or_remove(budget)?;
        Ok(result)
    }
}

/// The name of the group, as in the name of its file, whose file has this first or second name.
pub(super) fn stem_of(file: &str) -> Option<&str> {
    let first = file.split_once(KEPT).map_or(file, |(first, _)| first);
    first.strip_suffix(ENDING)
}

/// What the second name of a group's file ends with that a member keeps.
fn keeper(member: Id) -> String {
    format!("{}-{}", member.pid, member.started)
}

/// A record that is whole.
struct Record {
    sequence: u64,
    /// The start of the machine that the times in the budget count from.
    boot: u128,
    budget: Budget,
}

/// The latest record in a file, unless that is torn: then the one before it.
fn latest(file: &File, [first, second]: &mut [[u8; GLANCE]; 2]) -> Option<Record> {
    let mut places = [(0, first), (SECOND_PLACE, second)].map(|(at, glance)| Place::look(file, at, glance));
    places.sort_by_key(|place| Reverse(place.as_ref().map_or(0, |place| place.sequence)));
    places.into_iter().flatten().find_map(|place| {
        let Place { sequence, boot, .. } = place;
        Some(Record { sequence, boot, budget: place.budget(file)? })
    })
}

/// A record that is yet to be checked.
struct Place<'a> {
    at: usize,
    checksum: u32,
    sequence: u64,
    boot: u128,
    length: usize,
    /// Its beginning: mostly all of it.
    bytes: &'a [u8],
}

impl<'a> Place<'a> {
    /// Looks what is in this place of a file.
    fn look(file: &File, at: usize, glance: &'a mut [u8; GLANCE]) -> Option<Place<'a>> {
        let read = file.read_at(glance, at as u64).ok().filter(|read| *read >= HEAD)?;
        let bytes = &glance[..read];
        let (checksum, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (boot, rest) = rest.split_first_chunk()?;
        Some(Place {
            at,
            checksum: u32::from_le_bytes(*checksum),
            sequence: u64::from_le_bytes(*sequence),
            boot: u128::from_le_bytes(*boot),
            length: u32::from_le_bytes(*rest.first_chunk()?) as usize,
            bytes,
        })
    }

    /// The budget in this record; nothing if it is torn or damaged.
    fn budget(&self, file: &File) -> Option<Budget> {
        let end = HEAD.checked_add(self.length).filter(|end| *end <= SECOND_PLACE)?;
        if let Some(bytes) = self.bytes.get(..end) {
            return self.decode(bytes);
        }
        let mut bytes = vec![0; end];
        file.read_exact_at(&mut bytes, self.at as u64).ok()?;
        self.decode(&bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Option<Budget> {
        let intact = crc32fast::hash(&bytes[CHECKED..]) == self.checksum;
        if intact { postcard::from_bytes(&bytes[HEAD..]).ok() } else { None }
    }
}

impl Drop for GroupFile {
    fn drop(&mut self) {
        if let Some(id) = self.member {
            // Should this fail, others will notice that the process is gone.
            let _ = retry_for(|| self.update(|budget| budget.retain(|account| account.id != id)));
        }
    }
}

impl Ledger for GroupFile {
    type Error = FolderError;

    fn ask(&mut self, ask: &Ask) -> Reply<FolderError> {
        match self.update(|budget| budget.answer(ask, TEMPO.use_within)) {
            Ok(Some(answer)) => Reply::Answer(answer),
            Ok(None) => Reply::Pending { retry_at: ask.now + TEMPO.retry_pending },
            Err(error) => Reply::Failed { error, retry_at: ask.now + TEMPO.retry_failed },
        }
    }
}

/// Tries again while another is at it, for a second.
pub(super) fn retry_for<R>(
    mut update: impl FnMut() -> Result<Option<R>, FolderError>,
) -> Result<Option<R>, FolderError> {
    let start = clock::now();
    loop {
        if let Some(result) = update()? {
            return Ok(Some(result));
        }
        // Not so many tries: on a busy machine each takes long.
        if clock::now().saturating_sub(start) > Duration::from_secs(1) {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
