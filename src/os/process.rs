//! Which processes live.
//!
//! A pid says nothing here: processes of several pid namespaces may share a folder, `/proc` may be
//! missing, and pids come round again. So each process keeps a file of its own in the folder
//! locked as long as it lives. The kernel releases the lock, however the process ends.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::{FolderError, RuntimeFolder};

/// The end of the name of the file that shows that a process lives.
const ENDING: &str = ".run";

/// How many such files of others a process looks at when it makes its own, to remove those of
/// processes that were killed.
const SWEEP: usize = 32;

/// The most bytes that are kept of what people call a process.
const LONGEST_NAME: usize = 200;

/// How often making the file is tried: another process may take it for one left behind before it
/// is locked.
const TRIES: u32 = 3;

/// A process, unique among all that share a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// Process id, in the namespace of the process.
    pub pid: u32,
    /// A random number: another namespace may have the same pid, and pids come round again.
    pub nonce: u32,
}

impl fmt::Display for Id {
    /// `PID-NONCE`, as in the names of files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.pid, self.nonce)
    }
}

impl Id {
    /// The process in whose files' names this stands.
    pub(crate) fn parse(text: &str) -> Option<Id> {
        let (pid, nonce) = text.split_once('-')?;
        Some(Id { pid: pid.parse().ok()?, nonce: u32::from_str_radix(nonce, 16).ok()? })
    }
}

/// This process.
pub(crate) fn own_id() -> Id {
    static OWN: OnceLock<Id> = OnceLock::new();
    *OWN.get_or_init(|| Id { pid: std::process::id(), nonce: random() as u32 })
}

/// A random number; the same each time only where the system has none.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Unlike a blocking call, this cannot wait for the first entropy of a machine.
    let _ =
        getrandom(&mut bytes, GetRandomFlags::INSECURE).or_else(|_| getrandom(&mut bytes, GetRandomFlags::NONBLOCK));
    u64::from_le_bytes(bytes)
}

/// Whether a process lives that shares the user's folder.
pub(crate) fn lives(id: Id) -> bool {
    id == own_id() || RuntimeFolder::find().ok().flatten().is_some_and(|folder| folder.lives(id))
}

/// The sign that this process lives, as long as there is one.
#[derive(Debug)]
pub(crate) struct Presence(Mutex<Shown>);

#[derive(Debug)]
struct Shown {
    folder: RuntimeFolder,
    /// Locked. It holds what people call this process.
    file: File,
    name: Option<String>,
}

impl Presence {
    /// Shows in this folder that this process lives, until the last result is dropped.
    ///
    /// # Errors
    /// When no file can be made there.
    pub(crate) fn show(folder: &RuntimeFolder) -> Result<Arc<Presence>, FolderError> {
        static OWN: Mutex<Weak<Presence>> = Mutex::new(Weak::new());
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(presence) = own.upgrade() {
            presence.renew(folder)?;
            return Ok(presence);
        }
        let presence = Arc::new(Presence(Mutex::new(show(folder, None)?)));
        *own = Arc::downgrade(&presence);
        sweep(folder);
        Ok(presence)
    }

    /// Shows it in this folder if it does not show there: the folder may have been made anew.
    ///
    /// # Errors
    /// When no file can be made there.
    pub(crate) fn renew(&self, folder: &RuntimeFolder) -> Result<(), FolderError> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if folder.identity_of(&name(own_id()))?.is_none() {
            *shown = show(folder, shown.name.take())?;
        }
        Ok(())
    }

    /// Shows what people call this process.
    pub(crate) fn call(&self, name: &str) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.name = Some(name.to_owned());
        shown.write_name();
    }
}

impl Shown {
    /// Writes the name into the file. Without space for it, the process has none.
    fn write_name(&self) {
        if let Some(name) = &self.name {
            let bytes = name.as_bytes();
            let _ = self.file.write_all_at(&bytes[..bytes.len().min(LONGEST_NAME)], 0);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let shown = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // If this fails, a process that starts later removes it.
        let _ = shown.folder.remove(&name(own_id()));
    }
}

fn name(id: Id) -> String {
    format!("{id}{ENDING}")
}

/// Makes the file of this process, which people call `label`. It bears its name only once it is
/// locked.
fn show(folder: &RuntimeFolder, label: Option<String>) -> Result<Shown, FolderError> {
    let (name, mut tries) = (name(own_id()), 0);
    let unlocked = format!("{name}.new");
    loop {
        tries += 1;
        if let Some(file) = folder.open_file(&unlocked, true)? {
            file.lock().map_err(|error| FolderError::new(&folder.path_of(&name), error))?;
            match folder.rename(&unlocked, &name) {
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => {}
                Ok(()) => {
                    let shown = Shown { folder: folder.clone(), file, name: label };
                    shown.write_name();
                    return Ok(shown);
                }
            }
        }
    }
}

/// Removes some of the files that processes have left behind, others each time.
fn sweep(folder: &RuntimeFolder) {
    let names = folder.names_ending(ENDING).unwrap_or_default();
    let from = if names.is_empty() { 0 } else { random() as usize % names.len() };
    for found in names.iter().cycle().skip(from).take(names.len().min(SWEEP)) {
        if Id::parse(found).is_some_and(|id| !folder.lives(id)) {
            let _ = folder.remove(&format!("{found}{ENDING}"));
        }
    }
}

impl RuntimeFolder {
    /// The name of a process that shares this folder, if it has one.
    pub(crate) fn name_of(&self, id: Id) -> Option<String> {
        let file = self.open_to_read(&name(id)).ok()??;
        let mut bytes = [0; LONGEST_NAME];
        let read = file.read_at(&mut bytes, 0).ok().filter(|read| *read > 0)?;
        Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
    }

    /// Whether a process lives that shares this folder. One that cannot be told counts as alive.
    pub(crate) fn lives(&self, id: Id) -> bool {
        if id == own_id() {
            return true;
        }
        let Ok(file) = self.open_to_read(&name(id)) else { return true };
        let Some(file) = file else { return false };
        loop {
            // Shared, since others may be looking too.
            match file.try_lock_shared() {
                Ok(()) => return false,
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_from_another_of_the_same_pid() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let folder = RuntimeFolder::at(temporary.path());
        let own = own_id();
        assert!(folder.lives(own));
        let other = Id { nonce: own.nonce ^ 1, ..own };
        assert!(!folder.lives(other));
        // As the other one would.
        let file = folder.open_file(&name(other), true).unwrap().unwrap();
        file.lock().unwrap();
        assert!(folder.lives(other));
        drop(file);
        assert!(!folder.lives(other));
        assert_eq!(Id::parse(&other.to_string()), Some(other));
    }

    #[test]
    fn a_process_is_called_by_its_name_also_after_the_folder_was_made_anew() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let folder = RuntimeFolder::at(temporary.path());
        let presence = Presence(Mutex::new(show(&folder, None).unwrap()));
        assert_eq!(folder.name_of(own_id()), None);
        presence.call("backup");
        assert_eq!(folder.name_of(own_id()), Some("backup".to_owned()));
        folder.remove(&name(own_id())).unwrap();
        presence.renew(&folder).unwrap();
        assert_eq!(folder.name_of(own_id()), Some("backup".to_owned()));
    }

    #[test]
    fn the_dead_are_swept_away_and_the_living_stay() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let folder = RuntimeFolder::at(temporary.path());
        let (dead, alive) = (Id { pid: 1, nonce: 1 }, Id { pid: 1, nonce: 2 });
        let files = [dead, alive].map(|id| folder.open_file(&name(id), true).unwrap().unwrap());
        files[1].lock().unwrap();
        sweep(&folder);
        assert_eq!(folder.names().unwrap(), [name(alive)]);
    }
}
