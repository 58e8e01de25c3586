//! Files, and everything else that has a path.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Advice, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Flags of every descriptor that is opened here.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOCTTY);

/// Whether opening `path` may wait for another process, as that of a FIFO does.
pub(super) fn may_wait(path: &Path) -> bool {
    let plain = [FileType::RegularFile, FileType::Directory, FileType::BlockDevice];
    rustix::fs::stat(path).is_ok_and(|stat| !plain.contains(&FileType::from_raw_mode(stat.st_mode)))
}

/// Opens `path` to be read.
///
/// # Errors
/// Those of `open`, and `EISDIR` for a directory.
pub(super) fn open_to_read(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::open(path, ALWAYS | OFlags::RDONLY, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    // Read ahead further: it is going to be read once, from its start to its end.
    let _ = rustix::fs::fadvise(&fd, 0, None, Advice::Sequential);
    Ok(fd)
}

/// Opens `path` to be written, and creates it if it is missing. What is in it stays there: it may
/// be an input.
///
/// # Errors
/// Those of `open`.
pub(super) fn open_to_write(path: &Path, append: bool) -> Result<OwnedFd, Errno> {
    let how = ALWAYS | OFlags::WRONLY | OFlags::CREATE;
    let how = if append { how | OFlags::APPEND } else { how };
    rustix::fs::open(path, how, Mode::from_raw_mode(0o666))
}
