//! The user's own folder, where running pcproxies find each other.

use std::env;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Names the folder where the user wants another one.
const VARIABLE: &str = "PCPROXY_DIR";

/// Where the folder of a user may be, the best place first. All of them outlive a login, and do
/// not depend on the environment, so that a login, a cron job and `su` find the same folder.
/// `/run/lock` is in memory: a visit to a group never waits for a disk there.
const PLACES: [&str; 2] = ["/run/lock", "/tmp"];

/// A folder that belongs to this user and that nobody else can change, or a folder that the members
/// of a Unix group share on purpose. What lies in it can be trusted as far as these can.
#[derive(Clone, Debug)]
pub struct RuntimeFolder(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    trust: Trust,
}

/// Whose files a folder may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Those of this user only, closed to others.
    User,
    /// Those of any member of this Unix group, closed to others.
    Group(u32),
}

/// Something in the folder, or the folder itself, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderError {
    /// What.
    pub path: PathBuf,
    /// Why, and what would help.
    pub reason: String,
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for FolderError {}

impl FolderError {
    /// `path` cannot be used for this reason.
    pub fn new(path: &Path, reason: impl fmt::Display) -> Self {
        FolderError { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl RuntimeFolder {
    /// The folder that `$PCPROXY_DIR` names, else `pcproxy-UID` in `/run/lock`, or in `/tmp` where
    /// users may not write there. Made if it is missing.
    ///
    /// # Errors
    /// When it can be neither found nor made, or is open to others.
    pub fn open() -> Result<Self, FolderError> {
        let place = Place::choose()?;
        match rustix::fs::mkdir(&place.path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(refused(&place.path, errno)),
        }
        let path = place.path.clone();
        Self::existing(place)?.ok_or_else(|| refused(&path, Errno::NOENT))
    }

    /// The same folder; nothing if it is missing.
    ///
    /// # Errors
    /// When it cannot be opened, or is open to others.
    pub fn find() -> Result<Option<Self>, FolderError> {
        Self::existing(Place::choose()?)
    }

    /// Where the folder is, or would be.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn place() -> Result<PathBuf, FolderError> {
        Place::choose().map(|place| place.path)
    }

    /// A folder for a test.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Self {
        Self::existing(Place { path: path.to_owned(), may_be_shared: true }).unwrap().unwrap()
    }

    fn existing(Place { path, may_be_shared }: Place) -> Result<Option<Self>, FolderError> {
        // A link would lead to wherever someone else likes.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(refused(&path, errno)),
        };
        let found = rustix::fs::fstat(&fd).map_err(|errno| refused(&path, errno))?;
        let trust = Trust::of_folder(&found, may_be_shared).map_err(|reason| FolderError::new(&path, reason))?;
        Ok(Some(RuntimeFolder(Arc::new(Folder { fd, path, trust }))))
    }

    /// The folders of other users, for root; none for anyone else. A folder that is not its user's
    /// alone is left out, and so are all of them where `$PCPROXY_DIR` names one.
    pub fn of_others() -> Vec<Self> {
        if !geteuid().is_root() || env::var_os(VARIABLE).is_some_and(|chosen| !chosen.is_empty()) {
            return Vec::new();
        }
        let entries = PLACES.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
        entries.filter_map(|entry| Self::of_other(&entry.path())).collect()
    }

    /// The folder at `path`, if its name says that it is another user's, and it is that user's alone.
    fn of_other(path: &Path) -> Option<Self> {
        let user: u32 = path.file_name()?.to_str()?.strip_prefix("pcproxy-")?.parse().ok()?;
        let fd = rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .ok()?;
        let found = rustix::fs::fstat(&fd).ok()?;
        let closed = check_others(Mode::from_raw_mode(found.st_mode), Mode::WGRP | Mode::WOTH).is_ok();
        let is_theirs = user != geteuid().as_raw() && found.st_uid == user && closed;
        is_theirs.then(|| RuntimeFolder(Arc::new(Folder { fd, path: path.to_owned(), trust: Trust::User })))
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where something of this name lies in the folder.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.0.path.join(name)
    }

    /// Where a socket of this name lies. The way by the descriptor is short enough for the address
    /// of a socket, wherever the folder is; without `/proc` there is only the real path.
    pub(crate) fn socket_path(&self, name: &str) -> PathBuf {
        let short = PathBuf::from(format!("/proc/self/fd/{}", self.0.fd.as_raw_fd()));
        if rustix::fs::stat(&short).is_ok() { short.join(name) } else { self.path_of(name) }
    }

    /// Opens a file to read and write; makes it if it is missing and `create`.
    ///
    /// # Errors
    /// When that fails, or the file is open to others. With `create` unset, nothing if it is
    /// missing.
    pub fn open_file(&self, name: &str, create: bool) -> Result<Option<File>, FolderError> {
        let mut flags = OFlags::RDWR;
        flags.set(OFlags::CREATE, create);
        self.open_with(name, flags)
    }

    /// Opens a file to read it; nothing if it is missing.
    ///
    /// # Errors
    /// When that fails, or the file is open to others.
    pub(crate) fn open_to_read(&self, name: &str) -> Result<Option<File>, FolderError> {
        self.open_with(name, OFlags::RDONLY)
    }

    fn open_with(&self, name: &str, flags: OFlags) -> Result<Option<File>, FolderError> {
        let path = self.path_of(name);
        let mode = self.0.trust.file_mode();
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // The file of a group is read hundreds of times a second: nobody cares when last.
        let quietly = rustix::fs::openat(&self.0.fd, name, flags | OFlags::NOATIME, mode);
        let opened = match quietly {
            Err(Errno::PERM) => rustix::fs::openat(&self.0.fd, name, flags, mode),
            opened => opened,
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT) if !flags.contains(OFlags::CREATE) => return Ok(None),
            Err(Errno::LOOP) => return Err(FolderError::new(&path, "is a link, and links are not followed")),
            Err(errno) => return Err(refused(&path, errno)),
        };
        let mut found = rustix::fs::fstat(&fd).map_err(|errno| refused(&path, errno))?;
        if flags.contains(OFlags::CREATE) && found.st_uid == geteuid().as_raw() && found.st_size == 0 {
            // The umask may have closed it to the group, or dropped the bit that keeps it.
            let _ = rustix::fs::fchmod(&fd, mode);
            found = rustix::fs::fstat(&fd).map_err(|errno| refused(&path, errno))?;
        }
        self.0.trust.check_file(&found).map_err(|reason| FolderError::new(&path, reason))?;
        Ok(Some(fd.into()))
    }

    /// Removes a file; that it is missing is no error.
    ///
    /// # Errors
    /// When the system refuses to.
    pub fn remove(&self, name: &str) -> Result<(), FolderError> {
        match rustix::fs::unlinkat(&self.0.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(refused(&self.path_of(name), errno)),
        }
    }

    /// Gives a file a second name in the folder.
    ///
    /// # Errors
    /// When there is no such file, the second name is taken, or the file system has none.
    pub(crate) fn link(&self, name: &str, second: &str) -> Result<(), FolderError> {
        rustix::fs::linkat(&self.0.fd, name, &self.0.fd, second, AtFlags::empty())
            .map_err(|errno| refused(&self.path_of(second), errno))
    }

    /// Gives a file another name; a file that has that name is replaced.
    ///
    /// # Errors
    /// When there is no such file, or the system refuses to.
    pub(crate) fn rename(&self, name: &str, other: &str) -> Result<(), FolderError> {
        rustix::fs::renameat(&self.0.fd, name, &self.0.fd, other).map_err(|errno| refused(&self.path_of(name), errno))
    }

    /// Device and inode of the file that bears this name; nothing if there is none.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(crate) fn identity_of(&self, name: &str) -> Result<Option<(u64, u64)>, FolderError> {
        match rustix::fs::statat(&self.0.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused(&self.path_of(name), errno)),
        }
    }

    /// The names of the files that end with `ending`, without it, in order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names_ending(&self, ending: &str) -> Result<Vec<String>, FolderError> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(ending)).map(str::to_owned).collect())
    }

    /// The names of all files in the folder, in order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<String>, FolderError> {
        let refused = |errno: Errno| refused(&self.0.path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(self.0.fd.as_fd()).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            names
                .extend(entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | "..")).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

fn refused(path: &Path, errno: Errno) -> FolderError {
    FolderError::new(path, io::Error::from(errno))
}

/// Where the folder is, or is to be.
struct Place {
    path: PathBuf,
    /// The user named it, so it may belong to others.
    may_be_shared: bool,
}

impl Place {
    fn choose() -> Result<Place, FolderError> {
        if let Some(chosen) = env::var_os(VARIABLE).filter(|chosen| !chosen.is_empty()) {
            let path = PathBuf::from(chosen);
            if path.is_absolute() {
                return Ok(Place { path, may_be_shared: true });
            }
            return Err(FolderError::new(&path, format!("{VARIABLE} must be an absolute path")));
        }
        let is_for_all = |place: &&&str| {
            rustix::fs::stat(**place).is_ok_and(|found| {
                let mode = Mode::from_raw_mode(found.st_mode);
                FileType::from_raw_mode(found.st_mode).is_dir() && mode.contains(Mode::RWXO | Mode::SVTX)
            })
        };
        let place = PLACES.iter().find(is_for_all).ok_or_else(|| {
            let reason = format!("is no place for files of users: set {VARIABLE} to an absolute path");
            FolderError::new(Path::new(PLACES[PLACES.len() - 1]), reason)
        })?;
        let path = Path::new(place).join(format!("pcproxy-{}", geteuid().as_raw()));
        Ok(Place { path, may_be_shared: false })
    }
}

impl Trust {
    /// Whose files a folder that was found may hold, or why it cannot be trusted. A folder that is
    /// open to a Unix group and has the setgid bit is shared on purpose.
    fn of_folder(found: &Stat, may_be_shared: bool) -> Result<Trust, String> {
        let mode = Mode::from_raw_mode(found.st_mode);
        if may_be_shared && mode.contains(Mode::SGID | Mode::RWXG) {
            check_others(mode, Mode::WOTH)?;
            return Ok(Trust::Group(found.st_gid));
        }
        check_user(found)?;
        check_others(mode, Mode::WGRP | Mode::WOTH)?;
        Ok(Trust::User)
    }

    /// Why a file that was found in the folder cannot be trusted.
    fn check_file(self, found: &Stat) -> Result<(), String> {
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err("is a directory".into()),
            _ => return Err("is not a regular file".into()),
        }
        let mode = Mode::from_raw_mode(found.st_mode);
        match self {
            Trust::User => {
                check_user(found)?;
                check_others(mode, Mode::RWXG | Mode::RWXO)
            }
            Trust::Group(group) if found.st_gid != group => {
                Err(format!("belongs to group {}, not to that of the folder ({group})", found.st_gid))
            }
            Trust::Group(_) => check_others(mode, Mode::RWXO),
        }
    }

    /// The mode of a file that is made in the folder. The sticky bit keeps programs that clean up
    /// temporary files from removing it, as the XDG base directory specification has it.
    fn file_mode(self) -> Mode {
        let owner = Mode::RUSR | Mode::WUSR | Mode::SVTX;
        match self {
            Trust::User => owner,
            Trust::Group(_) => owner | Mode::RGRP | Mode::WGRP,
        }
    }
}

fn check_user(found: &Stat) -> Result<(), String> {
    let user = geteuid().as_raw();
    if found.st_uid == user {
        Ok(())
    } else {
        Err(format!("belongs to user {}, not to this one ({user})", found.st_uid))
    }
}

fn check_others(mode: Mode, closed: Mode) -> Result<(), String> {
    match mode & closed {
        others if others.is_empty() => Ok(()),
        _ => {
            let which = if closed.intersects(Mode::RWXG) { "go" } else { "o" };
            let what = if closed.intersects(Mode::ROTH) { "=" } else { "-w" };
            Err(format!("is open to other users (mode {:03o}): 'chmod {which}{what}' would do", mode.bits() & 0o777))
        }
    }
}
