//! The session of a user: the runs of one test, which see each other and those of no other test.
//! A test file adds what it needs in an `impl Session` of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::running::{Running, at_home, pcproxy, shell, start_command};
use super::until;

pub struct Session {
    /// The runtime folder, with room for files of the test. Nobody else may enter it, as it is
    /// with temporary folders.
    pub runtime: tempfile::TempDir,
}

impl Session {
    pub fn new() -> Self {
        Session { runtime: tempfile::tempdir().unwrap() }
    }

    /// A file of the test by this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.runtime.path().join(name)
    }

    /// Where the runs of this session keep what they share.
    pub fn folder(&self) -> PathBuf {
        self.path("pcproxy")
    }

    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = pcproxy(options);
        at_home(&mut command, self.runtime.path());
        command
    }

    pub fn start(&self, options: &[&str], stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
        start_command(self.command(options), stdin, stdout)
    }

    /// A [`shell`] of this session.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = shell(script);
        at_home(&mut command, self.runtime.path());
        command
    }

    /// Starts pcproxy from a shell: `script` calls it `"$0"`, and `$1` is `path`.
    pub fn start_in_shell(
        &self,
        script: &str,
        path: &Path,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
    ) -> Running {
        let mut command = self.shell(script);
        command.arg(path);
        start_command(command, stdin, stdout)
    }

    /// Where a run listens.
    pub fn socket(&self, pcproxy: &Running) -> PathBuf {
        self.folder().join(format!("{}.sock", pcproxy.pid()))
    }

    /// The sockets there are, by pid.
    pub fn sockets(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(self.folder()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut pids: Vec<_> = names.filter_map(|name| name.strip_suffix(".sock")?.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// No run has left its socket behind.
    #[track_caller]
    pub fn has_no_socket(&self, what: &str) {
        let sockets = self.sockets();
        assert!(sockets.is_empty(), "{what}: {sockets:?}");
    }

    /// A connection to the socket of a run, which may just have been started.
    #[track_caller]
    pub fn connect(&self, pcproxy: &Running) -> UnixStream {
        let path = self.socket(pcproxy);
        let mut stream = None;
        until("a run to listen", || {
            stream = UnixStream::connect(&path).ok();
            stream.is_some()
        });
        stream.unwrap()
    }
}
