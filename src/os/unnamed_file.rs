//! A file without a name, which goes with the process however that ends.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::random;

/// A file in `folder` that nobody else can open.
///
/// Where the file system has no such files, it is created by a name that is removed at once.
///
/// # Errors
/// When there is no such folder, or no file can be made in it.
pub fn unnamed_file(folder: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags | OFlags::TMPFILE, mode) {
        Ok(file) => Ok(file.into()),
        // What a file system or a sandbox says that does not know the flag.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS | Errno::NOENT) => named_for_a_moment(folder),
        Err(error) => Err(error.into()),
    }
}

fn named_for_a_moment(folder: &Path) -> io::Result<File> {
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = format!(".pcproxy-spill-{:016x}", random());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlinkat(&folder, &name, AtFlags::empty())?;
    Ok(file.into())
}

/// Gives `length` bytes of a file, from `at` on, back to the file system. They read as zeros then.
///
/// # Errors
/// Where the file system cannot do that.
pub fn punch_hole(file: &File, at: u64, length: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_file_has_no_name_and_gives_space_back() {
        let folder = tempfile::tempdir().unwrap();
        for file in [unnamed_file(folder.path()).unwrap(), named_for_a_moment(folder.path()).unwrap()] {
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            file.write_all_at(&[1; 1 << 20], 1 << 20).unwrap();
            let before = file.metadata().unwrap().blocks();
            if punch_hole(&file, 1 << 20, 1 << 20).is_ok() {
                assert!(file.metadata().unwrap().blocks() < before);
            }
        }
        assert!(unnamed_file(&folder.path().join("missing")).is_err());
    }
}
