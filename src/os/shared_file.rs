//! A file that processes change in turns.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::thread;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::{FolderError, Id, Presence, RuntimeFolder, own_id};

/// How often a lock that is taken is tried at once. It is held for microseconds, unless its
/// holder was preempted or stopped.
const TRIES: u32 = 4;

/// How often the system's list of locks is read to find the holder of one.
const LISTINGS: u32 = 4;

/// The sign between the name of a file and the rest of its second names.
const KEPT: char = '~';

/// A file in the user's own folder that processes lock before they read or change it. Processes
/// that keep it give it second names, and if the first one is removed it comes back from them: the
/// same file, so that nothing in it is lost.
#[derive(Debug)]
pub(crate) struct SharedFile {
    folder: RuntimeFolder,
    name: String,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// The second name by which this process keeps it, and the sign that it lives.
    kept: Option<(String, Arc<Presence>)>,
}

impl SharedFile {
    /// The file of this name. If it is missing, it comes back from one of its second names; if it
    /// has none, it is made, or the result is nothing unless `create`.
    ///
    /// # Errors
    /// When it cannot be opened or is not the user's alone.
    pub(crate) fn open(folder: RuntimeFolder, name: String, create: bool) -> Result<Option<Self>, FolderError> {
        let file = match folder.open_file(&name, false)? {
            Some(file) => Some(file),
            None => {
                let second = folder.names()?.into_iter().filter(|found| keeper(found, &name).is_some());
                // Another process may be doing the same.
                let _ = second.map(|second| folder.link(&second, &name)).find(Result::is_ok);
                folder.open_file(&name, create)?
            }
        };
        let Some(file) = file else { return Ok(None) };
        let identity = identity(&file).map_err(|error| FolderError::new(&folder.path_of(&name), error))?;
        Ok(Some(SharedFile { folder, name, file, identity, kept: None }))
    }

    /// Keeps the file by a second name, and the sign that this process lives beside it, until this
    /// is dropped. Where the file system has no second names, there is none.
    pub(crate) fn keep(&mut self, presence: Arc<Presence>) {
        let second = format!("{}{KEPT}{}", self.name, own_id());
        let _ = self.folder.link(&self.name, &second);
        self.kept = Some((second, presence));
    }

    /// The processes that keep the file, or did when they were killed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn keepers(&self) -> Result<Vec<Id>, FolderError> {
        Ok(self.folder.names()?.iter().filter_map(|found| keeper(found, &self.name)).collect())
    }

    /// Removes the second name of a keeper.
    ///
    /// # Errors
    /// When the system refuses to.
    pub(crate) fn forget_keeper(&self, keeper: Id) -> Result<(), FolderError> {
        self.folder.remove(&format!("{}{KEPT}{keeper}", self.name))
    }

    /// The first name of a file that has this first or second name.
    pub(crate) fn first_name(found: &str) -> &str {
        found.split_once(KEPT).map_or(found, |(first, _)| first)
    }

    /// Opens the file of this name, or one of its second names, only to read it.
    ///
    /// # Errors
    /// When that fails, or the file is open to others.
    pub(crate) fn open_to_read(folder: &RuntimeFolder, name: &str) -> Result<Option<File>, FolderError> {
        if let Some(file) = folder.open_to_read(name)? {
            return Ok(Some(file));
        }
        let second = folder.names()?.into_iter().find(|found| keeper(found, name).is_some());
        second.map_or(Ok(None), |second| folder.open_to_read(&second))
    }

    /// Reserves space for these bytes, so that writing them cannot fail for want of it. Where the
    /// file system cannot reserve, nothing happens.
    ///
    /// # Errors
    /// When there is no space.
    pub(crate) fn reserve(&self, bytes: Range<u64>) -> Result<(), FolderError> {
        let length = bytes.end - bytes.start;
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, bytes.start, length)) {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(self.error(io::Error::from(errno))),
            _ => Ok(()),
        }
    }

    /// Writes to the locked file.
    ///
    /// # Errors
    /// When the system refuses to.
    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), FolderError> {
        self.file.write_all_at(bytes, at).map_err(|error| self.error(error))
    }

    /// The process that holds the lock, for the user; nothing if the system does not tell.
    pub(crate) fn holder(&self) -> Option<String> {
        let (device, inode) = self.identity;
        let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
        // The kernel gives the list in parts, and counts its lines anew for each: where locks come
        // and go meanwhile, a line is left out now and then.
        let pid = (0..LISTINGS).find_map(|_| {
            let locks = fs::read_to_string("/proc/locks").ok()?;
            locks.lines().find_map(|line| {
                let words: Vec<_> = line.split_ascii_whitespace().collect();
                let is_held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str());
                if is_held { words[4].parse::<u32>().ok().filter(|pid| *pid > 0) } else { None }
            })
        })?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("process {pid} ({})", name.trim().escape_debug()))
    }

    /// Locks it. False if another process holds the lock. If the name was removed, it comes back.
    /// If another file bears the name, or the second name was removed too, `removed` is told of the
    /// file that there was, and the file that bears the name now, or a new one, takes its place.
    ///
    /// # Errors
    /// When it cannot be locked or made.
    pub(crate) fn lock(&mut self, mut removed: impl FnMut(&File)) -> Result<bool, FolderError> {
        let mut tries = 0;
        loop {
            match self.file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if tries < TRIES => {
                    tries += 1;
                    // The holder of the lock may wait for this very processor.
                    thread::yield_now();
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(error)) => return Err(self.error(error)),
            }
            match self.folder.identity_of(&self.name)? {
                Some(found) if found == self.identity => return Ok(true),
                None if self.kept.as_ref().is_some_and(|(second, _)| self.folder.link(second, &self.name).is_ok()) => {}
                _ => {
                    removed(&self.file);
                    // Perhaps with its folder.
                    self.folder = RuntimeFolder::open()?;
                    if let Some(file) = self.folder.open_file(&self.name, true)? {
                        self.identity = identity(&file).map_err(|error| self.error(error))?;
                        self.file = file;
                        if let Some((second, presence)) = &self.kept {
                            presence.renew(&self.folder)?;
                            let _ = self.folder.remove(second);
                            let _ = self.folder.link(&self.name, second);
                        }
                    }
                }
            }
        }
    }

    /// The file, to read it and write to it while it is locked.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives up the lock.
    ///
    /// # Errors
    /// When the system refuses to.
    pub(crate) fn unlock(&self) -> Result<(), FolderError> {
        self.file.unlock().map_err(|error| self.error(error))
    }

    /// Removes the locked file.
    ///
    /// # Errors
    /// When the system refuses to.
    pub(crate) fn remove(&self) -> Result<(), FolderError> {
        self.folder.remove(&self.name)
    }

    /// An error that names the file.
    pub(crate) fn error(&self, reason: impl std::fmt::Display) -> FolderError {
        FolderError::new(&self.folder.path_of(&self.name), reason)
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        if let Some((second, _)) = &self.kept {
            // If this fails, the next process that joins forgets it.
            let _ = self.folder.remove(second);
        }
    }
}

/// The process that keeps `name` by a second name that was found.
fn keeper(found: &str, name: &str) -> Option<Id> {
    Id::parse(found.strip_prefix(name)?.strip_prefix(KEPT)?)
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|found| (found.dev(), found.ino()))
}
