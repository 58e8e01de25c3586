//! A `pcproxy` that is watched while it runs.

use std::ffi::OsStr;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::stream::read_exactly;
use super::{WATCHDOG, until};

/// A running pcproxy. Killed by a watchdog should it hang, and when it goes out of scope.
pub struct Running {
    child: Child,
    stderr: PipeReader,
}

/// A command that does not depend on how the tests were started: every signal has its default
/// effect, although `nohup` and `&` make the tests ignore some; the environment says nothing of
/// time zones, languages or colours; and the runtime folder is none that anybody else uses.
pub fn neutral(program: impl AsRef<OsStr>) -> Command {
    let mut command = if ignores_signals() {
        // Only a program of its own can do this here, where no code is unsafe.
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(program);
        command
    } else {
        Command::new(program)
    };
    let foreign = |name: &str| {
        ["PCPROXY_", "XDG_", "LC_", "CLICOLOR"].iter().any(|start| name.starts_with(start))
            || ["LANG", "LANGUAGE", "TZ", "TZDIR", "NO_COLOR", "COLUMNS", "LINES", "ENV", "TMUX"].contains(&name)
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(foreign)) {
        command.env_remove(name);
    }
    command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    at_home(&mut command, shared_home());
    command
}

/// Has `command` use this folder for what runs of one user share.
pub fn at_home<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    command.env("PCPROXY_DIR", folder.join("pcproxy"))
}

/// The runtime folder of all runs that do nothing in it that could disturb others.
fn shared_home() -> &'static Path {
    static HOME: LazyLock<PathBuf> = LazyLock::new(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime");
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&home).unwrap();
        home
    });
    &HOME
}

/// Whether the tests ignore a signal that a child would go on to ignore. SIGPIPE is one that
/// Rust ignores, and resets for its children.
fn ignores_signals() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a line of signals");
    u64::from_str_radix(ignored.trim(), 16).unwrap() & !(1 << (Signal::PIPE.as_raw() - 1)) != 0
}

/// The command `pcproxy` with these options.
pub fn pcproxy(options: &[&str]) -> Command {
    let mut command = neutral(env!("CARGO_BIN_EXE_pcproxy"));
    command.args(options);
    command
}

/// A shell that does `script`, which calls pcproxy `"$0"`, and ought to `exec` it.
pub fn shell(script: &str) -> Command {
    let mut command = neutral("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_pcproxy")]);
    command
}

/// Starts pcproxy between two descriptors. None of them stays open in the test.
pub fn start(options: &[&str], stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    Running::spawn(pcproxy(options), stdin, stdout)
}

/// The same from a [`shell`].
pub fn start_in_shell(script: &str, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    Running::spawn(shell(script), stdin, stdout)
}

/// Starts a pcproxy that the test has prepared, such as with an environment of its own.
pub fn start_command(command: Command, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    Running::spawn(command, stdin, stdout)
}

impl Running {
    fn spawn(mut command: Command, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Self {
        let (stderr, theirs) = pipe().unwrap();
        let child = command.stdin(stdin).stdout(stdout).stderr(theirs).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        thread::spawn(move || {
            let patience = Timespec::try_from(WATCHDOG).unwrap();
            if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)) == Ok(0) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        });
        Running { child, stderr }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// A line of `/proc/PID/status`.
    pub fn status(&self, name: &str) -> String {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Waits until pcproxy sleeps in its event loop with no deadline, neither there nor in a
    /// timer: it has done all that there was to do, and only one of its descriptors or a signal
    /// will wake it. A process that has ended has nothing to do either.
    #[track_caller]
    pub fn settle(&self) {
        until("pcproxy to have nothing to do", || self.sleeps(false));
    }

    /// The same of a pcproxy that still has something to do later: tokens will fall due, or a
    /// record, or a new limit.
    #[track_caller]
    pub fn settle_until_due(&self) {
        until("pcproxy to have nothing to do now", || self.sleeps(true));
    }

    /// Whether pcproxy sleeps in its event loop, or has ended. What is seen of it in several
    /// looks is true of one moment, as it was not awake in between.
    fn sleeps(&self, timers_may_be_armed: bool) -> bool {
        let before = self.switches();
        if self.status("State").starts_with('Z') {
            return true;
        }
        self.waits_for_events()
            && (timers_may_be_armed || self.armed_timers().is_empty())
            && self.waits_for_events()
            && self.switches() == before
    }

    /// Whether it is in `epoll_wait(epfd, events, maxevents, timeout)` with a timeout of -1, which
    /// is for ever. The state comes first: a process that has just been woken still shows the
    /// call it is in.
    fn waits_for_events(&self) -> bool {
        const CALLS: &[&str] = if cfg!(target_arch = "x86_64") { &["232", "281"] } else { &["22"] };
        self.status("State").starts_with('S') && {
            let call = self.proc("syscall");
            let words: Vec<_> = call.split(' ').collect();
            CALLS.contains(&words[0]) && words.get(4).is_some_and(|timeout| timeout.ends_with("ffffffff"))
        }
    }

    /// How often it went to sleep or was put aside.
    fn switches(&self) -> (String, String) {
        (self.status("voluntary_ctxt_switches"), self.status("nonvoluntary_ctxt_switches"))
    }

    /// What `/proc` says of its timers that will still fire.
    fn armed_timers(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())) else { return Vec::new() };
        // One that is closed meanwhile is no timer that will fire.
        let infos = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        let is_armed = |info: &String| {
            info.lines().find_map(|line| line.strip_prefix("it_value:")).is_some_and(|left| left.trim() != "(0, 0)")
        };
        infos.filter(is_armed).collect()
    }

    /// Waits until pcproxy has been stopped by SIGSTOP.
    #[track_caller]
    pub fn wait_stopped(&self) {
        until("pcproxy to stop", || self.status("State").starts_with('T'));
    }

    /// Waits until pcproxy heeds `signal` itself, instead of dying of it.
    #[track_caller]
    pub fn wait_heeding(&self, signal: Signal) {
        let bit = 1 << (signal.as_raw() - 1);
        let set = |name| u64::from_str_radix(&self.status(name), 16).unwrap();
        // It blocks them and reads them from a descriptor.
        until("pcproxy to heed a signal", || (set("SigCgt") | set("SigBlk")) & bit != 0);
    }

    /// Writes `data` to pcproxy's stdin in pieces of `piece` bytes, until not even the pipe
    /// takes any more while pcproxy does nothing. Returns how many bytes were accepted.
    #[track_caller]
    pub fn feed_until_paused(&self, mut stdin: &PipeWriter, data: &[u8], piece: usize) -> usize {
        let (mut accepted, mut refused) = (0, false);
        loop {
            let rest = &data[accepted..];
            assert!(!rest.is_empty(), "pcproxy took all of {} bytes", data.len());
            match stdin.write(&rest[..rest.len().min(piece)]) {
                Ok(written) => {
                    accepted += written;
                    refused = false;
                }
                Err(error) => {
                    assert_eq!(Errno::from_io_error(&error), Some(Errno::AGAIN));
                    if refused {
                        return accepted;
                    }
                    self.settle_until_due();
                    refused = true;
                }
            }
        }
    }

    /// Waits for the end of the process.
    pub fn wait(mut self) -> End {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        End { status: self.child.wait().unwrap(), stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says on stderr, without its end.
    pub fn line(&self) -> String {
        let mut line = Vec::new();
        // No byte more: the rest is for whoever waits for the end.
        while !line.ends_with(b"\n") {
            line.extend(read_exactly(&self.stderr, 1));
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How pcproxy ended, and what it said.
#[derive(Debug)]
pub struct End {
    pub status: ExitStatus,
    pub stderr: String,
}

impl End {
    /// It ended well, and without a word.
    #[track_caller]
    pub fn succeeded(&self, what: impl std::fmt::Display) {
        assert!(self.status.success() && self.stderr.is_empty(), "{what}: {self:?}");
    }

    /// It ended with this exit status, in one line that has all of `words` in it.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word} is missing in {self:?}");
        }
    }

    /// It was ended by this signal.
    #[track_caller]
    pub fn died_by(&self, signal: Signal) {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self:?}");
    }

    /// It was ended by this signal, and without a word.
    #[track_caller]
    pub fn died_silently_by(&self, signal: Signal) {
        self.died_by(signal);
        assert_eq!(self.stderr, "");
    }
}
