//! A file that processes change in turns.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::thread;

use super::{FolderError, RuntimeFolder};

/// How often a lock that is taken is tried at once. It is held for microseconds, unless its
/// holder was preempted or stopped.
const TRIES: u32 = 4;

/// What stands between the name of a file and the rest of its second names.
pub(crate) const KEPT: char = '~';

/// A file in the user's own folder that processes lock before they read or change it. Processes
/// that keep it give it second names, and if the first one is removed it comes back from them: the
/// same file, so that nothing in it is lost.
#[derive(Debug)]
pub(crate) struct SharedFile {
    folder: Rc<RuntimeFolder>,
    name: String,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// The second name by which this process keeps it.
    kept_as: Option<String>,
}

impl SharedFile {
    /// The file of this name. If it is missing, it comes back from one of its second names; if it
    /// has none, it is made, or the result is nothing unless `create`.
    ///
    /// # Errors
    /// When it cannot be opened or is not the user's alone.
    pub(crate) fn open(folder: Rc<RuntimeFolder>, name: String, create: bool) -> Result<Option<Self>, FolderError> {
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
        Ok(Some(SharedFile { folder, name, file, identity, kept_as: None }))
    }

    /// Keeps the file by a second name that ends with `keeper`, until this is dropped. Where the
    /// file system has no second names, there is none.
    pub(crate) fn keep(&mut self, keeper: &str) {
        let second = format!("{}{KEPT}{keeper}", self.name);
        if self.folder.link(&self.name, &second).is_ok() {
            self.kept_as = Some(second);
        }
    }

    /// The ends of the second names by which processes keep the file.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn keepers(&self) -> Result<Vec<String>, FolderError> {
        Ok(self.folder.names()?.iter().filter_map(|found| keeper(found, &self.name)).map(str::to_owned).collect())
    }

    /// Removes the second name of a keeper that has died.
    ///
    /// # Errors
    /// When the system refuses to.
    pub(crate) fn forget_keeper(&self, keeper: &str) -> Result<(), FolderError> {
        self.folder.remove(&format!("{}{KEPT}{keeper}", self.name))
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
                None if self.kept_as.as_ref().is_some_and(|second| self.folder.link(second, &self.name).is_ok()) => {}
                _ => {
                    removed(&self.file);
                    // Perhaps with its folder.
                    self.folder = Rc::new(RuntimeFolder::open()?);
                    if let Some(file) = self.folder.open_file(&self.name, true)? {
                        self.identity = identity(&file).map_err(|error| self.error(error))?;
                        self.file = file;
                        if let Some(second) = &self.kept_as {
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
        if let Some(second) = &self.kept_as {
            // If this fails, the next process that joins forgets it.
            let _ = self.folder.remove(second);
        }
    }
}

/// The end of a second name of `name`.
fn keeper<'a>(found: &'a str, name: &str) -> Option<&'a str> {
    found.strip_prefix(name)?.strip_prefix(KEPT)
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|found| (found.dev(), found.ino()))
}
