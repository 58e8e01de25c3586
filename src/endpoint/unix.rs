//! Unix sockets of our own.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connects to the socket at `path`.
///
/// # Errors
/// Those of `connect`.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    ours(UnixStream::connect(path)?)
}

/// Makes a connection ready to carry bytes.
fn ours(stream: UnixStream) -> io::Result<OwnedFd> {
    // Nobody else has this description, so its flag is ours to set: then splice does not wait.
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

/// A socket in the file system that waits for one connection. Its name is removed afterwards.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Makes a socket at `path`. A socket there to which nobody listens any more is replaced.
    ///
    /// # Errors
    /// When there is something else, or somebody listens to it, and those of `bind`.
    pub(super) fn bind(path: PathBuf) -> io::Result<Self> {
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(&path) => {
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)
            }
            result => result,
        };
        listener.map(|listener| Listener { listener, path })
    }

    /// Takes the first connection.
    ///
    /// # Errors
    /// Those of `accept`.
    pub(super) fn accept(self) -> io::Result<OwnedFd> {
        ours(self.listener.accept()?.0)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether this is a socket to which nobody listens.
fn is_abandoned(path: &Path) -> bool {
    let socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
