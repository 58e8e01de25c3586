//! A terminal with a shell in it. The terminal is tmux's.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::tcgetwinsize;
use serde_json::Value;

use super::descriptors::{Kind, Side, connection};
use super::running::{Running, at_home, neutral, start_command};
use super::{needs, until};

/// What the shell shows once a job has been started, and when it waits for the next.
pub const STARTED: &str = "$ . ./job";
pub const PROMPT: &str = "$";

/// A shell in a terminal, with a folder and a runtime folder of its own.
pub struct Screen {
    pub folder: tempfile::TempDir,
    /// The shell, which leads the session of all that runs in the terminal.
    shell: Pid,
}

impl Screen {
    /// Nothing without tmux; the test is to be left then.
    #[track_caller]
    pub fn new(columns: usize, rows: usize) -> Option<Self> {
        if !needs("tmux") {
            return None;
        }
        let mut screen = Screen { folder: tempfile::tempdir().unwrap(), shell: Pid::INIT };
        let size = ["-x", &columns.to_string(), "-y", &rows.to_string()];
        screen.tmux(&[&["new-session", "-d"], &size[..], &["env", "PS1=$ ", "sh"]].concat());
        screen.shell = Pid::from_raw(screen.tell("pane_pid").parse().unwrap()).unwrap();
        screen.wait("the shell", |lines| lines == [PROMPT]);
        Some(screen)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A command for the user of this terminal.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_pcproxy")).parent().unwrap().display();
        let mut command = neutral(program.as_ref());
        at_home(&mut command, self.folder.path()).current_dir(&self.folder);
        command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap_or_default()));
        command
    }

    /// Has the server of this terminal do something.
    pub fn ask(&self, words: &[&str]) -> Output {
        let mut command = self.command("tmux");
        command.args(["-u", "-f", "/dev/null", "-L", "pcproxy"]).args(words);
        command.env("TMUX_TMPDIR", self.folder.path()).output().unwrap()
    }

    /// The same of something that works. Returns the answer.
    #[track_caller]
    pub fn tmux(&self, words: &[&str]) -> String {
        let answer = self.ask(words);
        assert!(answer.status.success(), "{words:?}: {answer:?}");
        String::from_utf8(answer.stdout).unwrap()
    }

    /// What tmux knows of the terminal by this name.
    #[track_caller]
    pub fn tell(&self, variable: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{variable}}}")]).trim_end().to_owned()
    }

    /// Has the shell do `script`. It stands in a file, to be a short line on the narrowest screen.
    #[track_caller]
    pub fn run(&self, script: &str) {
        fs::write(self.path("job"), script).unwrap();
        self.press(&[". ./job"]);
        self.wait("the shell to listen", |lines| lines.last().is_some_and(|line| line == STARTED));
        self.press(&["Enter"]);
    }

    #[track_caller]
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The terminal itself.
    #[track_caller]
    pub fn terminal(&self) -> OwnedFd {
        open(self.tell("pane_tty"), OFlags::WRONLY | OFlags::NOCTTY, Mode::empty()).unwrap()
    }

    /// Gives the terminal so many columns and rows, while nobody draws on it: for a while it has
    /// them and does not say so.
    #[track_caller]
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut files = fs::read_dir(self.path("pcproxy")).unwrap().map(|entry| entry.unwrap().path());
        let block = File::open(files.find(|path| path.extension() == Some("rows".as_ref())).unwrap()).unwrap();
        block.lock().unwrap();
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
        let terminal = self.terminal();
        until("the terminal to say how large it is", || {
            let size = tcgetwinsize(&terminal).unwrap();
            (size.ws_col, size.ws_row) == (columns, rows)
        });
    }

    /// All that is and was on the screen, without what is blank.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        let text = self.tmux(&["capture-pane", "-p", "-S", "-"]);
        text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// Waits until `seen` of what is on the screen, and returns that.
    #[track_caller]
    pub fn wait(&self, what: &str, mut seen: impl FnMut(&[String]) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        until(what, || {
            lines = self.lines();
            seen(&lines)
        });
        lines
    }

    /// Waits until a line begins with `start` and has all of `words` in it; returns that line.
    #[track_caller]
    pub fn wait_line(&self, start: &str, words: &[&str]) -> String {
        let is_it = |line: &&String| line.starts_with(start) && words.iter().all(|word| line.contains(word));
        let lines = self.wait(start, |lines| lines.iter().any(|line| is_it(&line)));
        lines.iter().find(is_it).unwrap().clone()
    }

    /// Waits until the job is done. Returns what it has left on the screen.
    #[track_caller]
    pub fn wait_done(&self) -> Vec<String> {
        let mut lines = self.wait("the prompt", |lines| lines.len() > 1 && lines.ends_with(&[PROMPT.to_owned()]));
        assert_eq!(lines.remove(0), STARTED, "{lines:?}");
        lines.pop();
        lines
    }

    /// All that runs in the terminal.
    pub fn processes(&self) -> Vec<Pid> {
        let session = self.shell.as_raw_nonzero().to_string();
        // `pid (name) state ppid pgrp session`, where the name may hold anything.
        let is_ours = |pid: &Pid| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3)) == Some(&session)
        };
        let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?)).filter(is_ours).collect()
    }

    /// The only pcproxy in the terminal, once it is there.
    #[track_caller]
    pub fn pcproxy(&self) -> Pid {
        let named = |pid: &Pid| {
            let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            name.is_ok_and(|name| name == "pcproxy\n")
        };
        let mut found = Vec::new();
        until("a pcproxy", || {
            found = self.processes().into_iter().filter(named).collect();
            found.len() == 1
        });
        found[0]
    }

    /// A transfer behind the terminal, of this name and 1 MiB/s, that has begun.
    pub fn transfer(&self, name: &str) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_pcproxy"));
        command.args(["--name", name, "--rate", "1M"]);
        let (zeros, null) = (File::open("/dev/zero").unwrap(), connection(Kind::Null, Side::Stdout).theirs);
        let pcproxy = start_command(command, zeros, null);
        let socket = self.path("pcproxy").join(format!("{}.sock", pcproxy.pid()));
        until("a socket", || socket.exists());
        pcproxy
    }

    /// What `pcproxy ctl` says.
    #[track_caller]
    pub fn ctl(&self, words: &[&str]) -> String {
        let answer = self.command(env!("CARGO_BIN_EXE_pcproxy")).arg("ctl").args(words).output().unwrap();
        assert!(answer.status.success(), "{words:?}: {answer:?}");
        String::from_utf8(answer.stdout).unwrap()
    }

    /// How the transfer of this name is.
    #[track_caller]
    pub fn stats(&self, name: &str) -> Value {
        serde_json::from_str(&self.ctl(&[name, "stats", "--json"])).unwrap()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if thread::panicking() {
            let seen = self.ask(&["capture-pane", "-p", "-S", "-"]).stdout;
            eprintln!("on the screen:\n{}", String::from_utf8_lossy(&seen).trim_end());
        }
        // One that delivers what it holds would outlive the terminal by far.
        if self.shell != Pid::INIT {
            self.processes().into_iter().for_each(|pid| _ = kill_process(pid, Signal::KILL));
        }
        self.ask(&["kill-server"]);
    }
}
