//! The user's own folder, where running pcproxies find each other.

use std::env;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// A folder that belongs to this user, and that nobody else can enter: what lies in it can be
/// trusted as far as the user can.
#[derive(Debug)]
pub struct RuntimeFolder {
    fd: OwnedFd,
    path: PathBuf,
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
    /// The folder of this user, made if it is missing: `pcproxy` in `$XDG_RUNTIME_DIR` or in
    /// `/run/user/UID`, else `pcproxy-UID` among the temporary files.
    ///
    /// # Errors
    /// When it can be neither found nor made, or is not the user's alone.
    pub fn open() -> Result<Self, FolderError> {
        let path = path();
        let refused = |errno: Errno| FolderError::new(&path, io::Error::from(errno));
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(refused(errno)),
        }
        // A link would lead to wherever someone else likes.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(refused)?;
        let found = rustix::fs::fstat(&fd).map_err(refused)?;
        check_ours(&found).map_err(|reason| FolderError::new(&path, reason))?;
        Ok(RuntimeFolder { fd, path })
    }

    /// Where something of this name lies in the folder.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a socket of this name lies: the way by the descriptor is short enough for the address
    /// of a socket, wherever the folder is.
    pub(crate) fn socket_path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()).into()
    }

    /// Opens a file of this user's to read and write; makes it if it is missing and `create`.
    ///
    /// # Errors
    /// When that fails, or it is no file of the user's alone. With `create` unset, nothing if it is
    /// missing.
    pub fn open_file(&self, name: &str, create: bool) -> Result<Option<File>, FolderError> {
        let refused = |reason: String| FolderError::new(&self.path_of(name), reason);
        let mode = Mode::RUSR | Mode::WUSR;
        let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        flags.set(OFlags::CREATE, create);
        // The file of a group is read hundreds of times a second: nobody cares when last.
        let quietly = rustix::fs::openat(&self.fd, name, flags | OFlags::NOATIME, mode);
        let opened = match quietly {
            Err(Errno::PERM) => rustix::fs::openat(&self.fd, name, flags, mode),
            opened => opened,
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::LOOP) => return Err(refused("is a link, and links are not followed".into())),
            Err(errno) => return Err(refused(io::Error::from(errno).to_string())),
        };
        let found = rustix::fs::fstat(&fd).map_err(|errno| refused(errno.to_string()))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(refused("is not a regular file".into()));
        }
        check_ours(&found).map_err(refused)?;
        Ok(Some(fd.into()))
    }

    /// Removes a file; that it is missing is no error.
    ///
    /// # Errors
    /// When the system refuses to.
    pub fn remove(&self, name: &str) -> Result<(), FolderError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FolderError::new(&self.path_of(name), io::Error::from(errno))),
        }
    }

    /// Gives a file a second name in the folder.
    ///
    /// # Errors
    /// When there is no such file, the second name is taken, or the file system has none.
    pub(crate) fn link(&self, name: &str, second: &str) -> Result<(), FolderError> {
        rustix::fs::linkat(&self.fd, name, &self.fd, second, AtFlags::empty())
            .map_err(|errno| FolderError::new(&self.path_of(second), io::Error::from(errno)))
    }

    /// Device and inode of the file that bears this name; nothing if there is none.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(crate) fn identity_of(&self, name: &str) -> Result<Option<(u64, u64)>, FolderError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FolderError::new(&self.path_of(name), io::Error::from(errno))),
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
        let refused = |errno: Errno| FolderError::new(&self.path, io::Error::from(errno));
        let mut names = Vec::new();
        for entry in Dir::read_from(self.fd.as_fd()).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

/// Where the folder of this user is, or is to be.
fn path() -> PathBuf {
    let user = geteuid();
    let session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    // That of another user, as sudo may hand it on, must not be littered. Cron sets none.
    let runtime = [session, Some(format!("/run/user/{}", user.as_raw()).into())].into_iter().flatten().find(|path| {
        rustix::fs::stat(path)
            .is_ok_and(|found| found.st_uid == user.as_raw() && FileType::from_raw_mode(found.st_mode).is_dir())
    });
    match runtime {
        Some(runtime) => runtime.join("pcproxy"),
        None => env::temp_dir().join(format!("pcproxy-{}", user.as_raw())),
    }
}

/// Why what was found cannot be trusted.
fn check_ours(found: &Stat) -> Result<(), String> {
    let user = geteuid().as_raw();
    if found.st_uid != user {
        return Err(format!("belongs to user {}, not to this one ({user})", found.st_uid));
    }
    match Mode::from_raw_mode(found.st_mode) & (Mode::RWXG | Mode::RWXO) {
        others if others.is_empty() => Ok(()),
        others => Err(format!("is open to other users (mode {:03o}): 'chmod go=' would do", others.bits())),
    }
}
