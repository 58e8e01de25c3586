//! The sockets of runs in the runtime folder: how they are named, made, reached and removed.
//!
//! Whether a socket is in use is judged by connecting to it: the kernel refuses a connection to a
//! socket that no process listens on. A pid cannot tell, since processes of several pid namespaces
//! may share the folder.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, test_kill_process};

use crate::os::{FolderError, RuntimeFolder};

/// How the file name of a socket ends.
const ENDING: &str = ".sock";

/// How it ends until the socket listens. A connection to it would be refused, and the socket taken
/// for one that was left behind.
const UNFINISHED: &str = ".binding";

/// An unfinished socket that is older than this was left behind by a process that was killed.
const FINISHED_BY_NOW: Duration = Duration::from_secs(60);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 32;

/// Names that a run tries before it goes without a socket. It needs a second one only if a run in
/// another pid namespace has the same pid.
const NAMES: u32 = 100;

/// Sockets that a starting run tests by connecting. Each test wakes the run that listens, so
/// hundreds of runs that start together must not all test each other.
const TESTS: usize = 16;

/// Nothing here waits for a peer.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The file name of a run's socket: `PID.sock`, or `PID-N.sock` if that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SocketName {
    /// The process, as its own pid namespace has it.
    pub(super) pid: u32,
    /// N, or 0 where there is none.
    pub(super) number: u32,
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => write!(f, "{}{ENDING}", self.pid),
            number => write!(f, "{}-{number}{ENDING}", self.pid),
        }
    }
}

impl SocketName {
    /// Reads a name without its ending.
    fn parse(stem: &str) -> Option<Self> {
        let (pid, number) = stem.split_once('-').unwrap_or((stem, "0"));
        Some(SocketName { pid: pid.parse().ok()?, number: number.parse().ok()? })
    }

    /// The sockets in the folder, in order of their pids.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn all(folder: &RuntimeFolder) -> Result<Vec<Self>, FolderError> {
        let mut names: Vec<_> = folder.names_ending(ENDING)?.iter().filter_map(|stem| Self::parse(stem)).collect();
        names.sort();
        Ok(names)
    }
}

/// Connects to the socket of this file name without waiting.
///
/// # Errors
/// CONNREFUSED if no process listens, AGAIN if too many connections wait to be accepted.
pub(super) fn connect(folder: &RuntimeFolder, name: &str) -> Result<UnixStream, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    let address = SocketAddrUnix::new(folder.socket_path(name))?;
    retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket.into())
}

/// Whether the other end of a connection belongs to none of these users. Only one of them can have
/// opened the socket; this is for descriptors that were handed on.
pub(super) fn is_strange(stream: &UnixStream, users: &[u32]) -> bool {
    // The system call does not fail. A peer in another pid namespace has the pid 0 here, which the
    // library takes for an error.
    socket_peercred(stream).is_ok_and(|peer| !users.contains(&peer.uid.as_raw()))
}

/// Makes the socket of this process, and removes some of those that killed processes left behind.
///
/// # Errors
/// When it cannot be made.
pub(super) fn listen(folder: &RuntimeFolder) -> Result<(UnixListener, SocketName), FolderError> {
    remove_left_over(folder)?;
    let unfinished = format!("{}-{}{UNFINISHED}", std::process::id(), nanoseconds());
    let refused = |errno: Errno| FolderError::new(&folder.path_of(&unfinished), io::Error::from(errno));
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None).map_err(refused)?;
    let prepare = || {
        let path = folder.socket_path(&unfinished);
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        // The folder may be open to a Unix group. Nobody can connect before the socket listens.
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&socket, BACKLOG)
    };
    let published = prepare().map_err(refused).and_then(|()| publish(folder, &unfinished));
    if published.is_err() {
        let _ = folder.remove(&unfinished);
    }
    Ok((socket.into(), published?))
}

/// Gives a socket that listens by now its name.
fn publish(folder: &RuntimeFolder, unfinished: &str) -> Result<SocketName, FolderError> {
    let mut name = SocketName { pid: std::process::id(), number: 0 };
    loop {
        let file = name.to_string();
        match rename(folder, unfinished, &file) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) if name.number < NAMES => {
                remove_if_left_over(folder, &file);
                match rename(folder, unfinished, &file) {
                    Ok(()) => return Ok(name),
                    Err(_) => name.number += 1,
                }
            }
            Err(errno) => return Err(FolderError::new(&folder.path_of(&file), io::Error::from(errno))),
        }
    }
}

/// Gives a file another name, unless that is taken.
fn rename(folder: &RuntimeFolder, from: &str, to: &str) -> Result<(), Errno> {
    let (from, to) = (folder.socket_path(from), folder.socket_path(to));
    match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
        // Not every file system and kernel can rename without replacing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
            rustix::fs::link(&from, &to)?;
            rustix::fs::unlink(&from)
        }
        renamed => renamed,
    }
}

/// Removes a socket if no process listens on it.
pub(super) fn remove_if_left_over(folder: &RuntimeFolder, name: &str) {
    // Between the test and the removal nobody else may remove the socket: a new one could take the
    // name. If someone else holds the lock, the socket stays for the next who finds it.
    let Ok(place) = File::open(folder.socket_path(".")) else { return };
    if place.try_lock().is_ok() && connect(folder, name).is_err_and(|errno| errno == Errno::CONNREFUSED) {
        let _ = folder.remove(name);
    }
}

/// Removes some of the sockets on which no process listens.
fn remove_left_over(folder: &RuntimeFolder) -> Result<(), FolderError> {
    let names: Vec<_> = SocketName::all(folder)?.into_iter().filter(|name| !has_process(name.pid)).collect();
    // Sockets of other pid namespaces may be among them, and stay. So others are tested each time.
    let start = if names.is_empty() { 0 } else { nanoseconds() as usize % names.len() };
    for name in names.iter().cycle().skip(start).take(names.len().min(TESTS)) {
        remove_if_left_over(folder, &name.to_string());
    }
    for stem in folder.names_ending(UNFINISHED)? {
        let name = format!("{stem}{UNFINISHED}");
        let made = std::fs::symlink_metadata(folder.socket_path(&name)).and_then(|found| found.modified());
        if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > FINISHED_BY_NOW)) {
            remove_if_left_over(folder, &name);
        }
    }
    Ok(())
}

/// Whether another process has this pid in this namespace. Saves connecting to most runs that live.
fn has_process(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

/// A number that differs from run to run.
fn nanoseconds() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos())
}
