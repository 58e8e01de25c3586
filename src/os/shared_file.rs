//! A file that processes change in turns.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::thread;

use super::{FolderError, RuntimeFolder};

/// How often a lock that is taken is tried at once. It is held for microseconds, unless its
/// holder was preempted or stopped.
const TRIES: u32 = 4;

/// A file in the user's own folder, which whoever reads or changes it locks: whichever file bears
/// the name, should it be removed.
#[derive(Debug)]
pub(crate) struct SharedFile {
    folder: Rc<RuntimeFolder>,
    name: String,
    file: File,
}

impl SharedFile {
    /// The file of this name; made if it is missing and `create`, else nothing.
    ///
    /// # Errors
    /// When it cannot be opened or is not the user's alone.
    pub(crate) fn open(folder: Rc<RuntimeFolder>, name: String, create: bool) -> Result<Option<Self>, FolderError> {
        let file = folder.open_file(&name, create)?;
        Ok(file.map(|file| SharedFile { folder, name, file }))
    }

    /// Locks it. False if another holds the lock. If the file was removed, it is made anew, after
    /// `removed` has been told of the one that there was.
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
                    // Whoever holds it may wait for this very processor.
                    thread::yield_now();
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(self.trouble(error)),
            }
            if self.file.metadata().map_err(|error| self.trouble(error))?.nlink() > 0 {
                return Ok(true);
            }
            removed(&self.file);
            // Perhaps with its folder.
            self.folder = Rc::new(RuntimeFolder::open()?);
            if let Some(file) = self.folder.open_file(&self.name, true)? {
                self.file = file;
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
        self.file.unlock().map_err(|error| self.trouble(error))
    }

    /// Removes the locked file.
    ///
    /// # Errors
    /// When the system refuses to.
    pub(crate) fn remove(&self) -> Result<(), FolderError> {
        self.folder.remove(&self.name)
    }

    /// What is wrong with it.
    pub(crate) fn trouble(&self, reason: impl std::fmt::Display) -> FolderError {
        FolderError::new(&self.folder.path_of(&self.name), reason)
    }
}
