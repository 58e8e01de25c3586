//! A fault campaign: every system call that a run makes fails in every way it may, at its first,
//! second and third time, now and then, and always. Whatever fails, the run does not hang and does
//! not panic, what arrives is what was sent, and if something is missing, the exit status, one line
//! and a count say so.
//!
//! The calls are read from a trace of each run, so new calls are covered by themselves. `cargo
//! test` does a sample of the campaign that is the same each time; with the environment variable
//! `PCPROXY_FAULTS=all` the whole campaign is done, and with `PCPROXY_FAULTS=CALL` all of this
//! call. The faults come from strace.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, Write, pipe};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use support::running::{at_home, neutral};
use support::{Kind, Session, Side, connection, needs, payload, set_nonblocking, unread, unsent};

/// Faults of the sample that `cargo test` injects, besides those of [`KNOWN`].
const SAMPLE: usize = 300;

/// A run takes some 40 ms. One that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(8);

/// What ends the input of a terminal: Ctrl-D.
const END_OF_FILE: u8 = 4;

/// A run into which faults are injected.
struct Scene {
    name: &'static str,
    from: Kind,
    to: Kind,
    options: &'static [&'static str],
}

impl Scene {
    fn has(&self, word: &str) -> bool {
        self.options.contains(&word)
    }

    /// A fault of this call says nothing here. strace does not carry out a call that it lets fail: a
    /// command whose pipe is not closed waits for ever. And a peer that is not told the port does not
    /// come.
    fn is_spared(&self, call: &str) -> bool {
        (self.has("run") && call == "close")
            || (self.listens() && ["poll", "ppoll", "pwritev2", "write"].contains(&call))
    }

    /// It takes what it reads from a peer that connects.
    fn listens(&self) -> bool {
        self.has(LISTEN)
    }
}

/// The address of a scene whose peer is told the port on stderr.
const LISTEN: &str = "tcp-listen://127.0.0.1:0";

/// `STATS` stands for a file in the folder of the run, and so do `IN`, which has the bytes, `OUT` and
/// `OTHER`.
const SCENES: [Scene; 11] = [
    Scene {
        name: "group",
        from: Kind::Pipe,
        to: Kind::Pipe,
        options: &["--group", "site/g=1G", "--rate", "15M", "--stats", "STATS", "--interval", "10ms"],
    },
    Scene { name: "plain", from: Kind::Pipe, to: Kind::Pipe, options: &[] },
    Scene { name: "file-pipe", from: Kind::File, to: Kind::Pipe, options: &["--progress", "always"] },
    Scene { name: "pipe-file", from: Kind::Pipe, to: Kind::File, options: &["--buffer", "8M", "--summary"] },
    Scene {
        name: "sockets",
        from: Kind::Unix,
        to: Kind::Tcp,
        options: &["--buffer", "16K", "--schedule", "00:00,50M 12:00,60M"],
    },
    Scene { name: "pipe-terminal", from: Kind::Pipe, to: Kind::Terminal, options: &["--stats", "STATS"] },
    Scene { name: "terminal-file", from: Kind::Terminal, to: Kind::File, options: &["--group", "g"] },
    Scene { name: "named-files", from: Kind::Pipe, to: Kind::Pipe, options: &["IN", "-o", "OUT", "--sync"] },
    Scene { name: "two-outputs", from: Kind::Pipe, to: Kind::Pipe, options: &["IN", "-o", "OUT", "-o", "OTHER"] },
    Scene { name: "listener", from: Kind::Pipe, to: Kind::Pipe, options: &[LISTEN, "-o", "-", "-o", "OTHER"] },
    Scene { name: "command", from: Kind::Pipe, to: Kind::Pipe, options: &["run", "--", "cat"] },
];

/// Faults that pcproxy does not cope with yet. Who mends one removes its row: a row that no longer
/// breaks fails the test.
struct Known {
    call: &'static str,
    /// How the breach begins.
    breach: &'static str,
    /// Where it comes from.
    why: &'static str,
    /// One case of it: scene, errno, occurrence.
    case: (&'static str, &'static str, &'static str),
}

const KNOWN: &[Known] = &[Known {
    call: "close",
    breach: "panic: ",
    why: "the standard library panics when a folder that was read cannot be closed, here that of the time zones",
    case: ("sockets", "EIO", "always"),
}];

/// Calls that serve looks, control, timers or signals only. Whichever of them fails, all bytes
/// arrive, and the exit status is 0. Where there is a group, its files need some of them.
const AUXILIARY: &[&str] = &[
    "accept4",
    "bind",
    "connect",
    "getdents64",
    "getrandom",
    "ioctl",
    "linkat",
    "listen",
    "mkdirat",
    "prctl",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "signalfd4",
    "socket",
    "statx",
    "sysinfo",
    "timerfd_create",
    "timerfd_settime",
    "uname",
    "unlinkat",
];

/// Those of them that a connection cannot do without.
const NETWORK: &[&str] = &["accept4", "bind", "getrandom", "ioctl", "listen", "socket"];

/// Those of them without which no command starts.
const STARTS: &[&str] = &["rt_sigaction", "rt_sigprocmask"];

/// How a call may be answered that failed. What is left out: EAGAIN where an event said that
/// the descriptor is ready, since no kernel says both.
fn errnos(call: &str) -> &'static [&'static str] {
    match call {
        "read" | "readv" | "pread64" | "recvfrom" | "recvmsg" => &["EINTR", "EIO", "ENOMEM", "ECONNRESET"],
        "preadv2" => &["EINTR", "EIO", "EOPNOTSUPP", "ENOSYS", "EPERM", "EACCES"],
        "write" | "writev" | "pwrite64" | "sendto" | "sendmsg" => {
            &["EINTR", "EIO", "ENOSPC", "EDQUOT", "EFBIG", "EPIPE"]
        }
        "pwritev2" => &["EINTR", "EIO", "ENOSPC", "EPIPE", "EOPNOTSUPP", "ENOSYS", "EPERM", "EACCES"],
        "splice" => &["EINTR", "EINVAL", "ENOMEM", "EIO", "EPERM", "EACCES", "ENOSYS", "ENOSPC", "EPIPE"],
        "epoll_wait" | "epoll_pwait" => &["EINTR"],
        "epoll_ctl" => &["ENOMEM", "ENOSPC", "EPERM"],
        "epoll_create1" | "eventfd2" | "signalfd4" | "timerfd_create" | "pipe2" | "socket" | "socketpair" => {
            &["EMFILE", "ENFILE", "ENOMEM", "EPERM", "ENOSYS"]
        }
        "timerfd_settime" => &["ECANCELED", "EPERM"],
        "flock" => &["EINTR", "EAGAIN", "ENOLCK"],
        "openat" => &["EINTR", "EMFILE", "ENFILE", "ENOENT", "EACCES", "ENOMEM", "EIO"],
        "close" => &["EINTR", "EIO", "EDQUOT"],
        "mmap" | "munmap" | "mprotect" | "mremap" | "madvise" => &["ENOMEM"],
        "poll" | "ppoll" => &["EINTR", "ENOMEM"],
        "fcntl" => &["EINVAL", "EPERM", "EBUSY"],
        "ioctl" => &["ENOTTY", "EINVAL", "EIO", "EINTR"],
        "ftruncate" | "fallocate" => &["EINTR", "ENOSPC", "EFBIG", "EOPNOTSUPP", "EIO"],
        "accept4" => &["EAGAIN", "ECONNABORTED", "EMFILE", "EPERM"],
        // Nothing but a filter of the sandbox refuses these.
        "sysinfo" | "uname" | "getrandom" | "prctl" => &["EPERM", "ENOSYS"],
        // They cannot fail, or the process is over. The kernel's `brk` returns no errno.
        "brk" | "execve" | "exit" | "exit_group" | "getpid" | "gettid" | "getuid" | "geteuid" | "getgid"
        | "getegid" | "rt_sigreturn" | "restart_syscall" => &[],
        _ => &["EIO", "ENOMEM", "EACCES", "EPERM", "EINVAL", "ENOSYS"],
    }
}

/// When a call fails, counted from the start of `main`. Always only where that is no invitation
/// to try again.
const OCCURRENCES: [&str; 5] = ["first", "second", "third", "every third", "always"];

fn when(occurrence: &str, before_main: usize) -> String {
    let first = before_main + 1;
    match occurrence {
        "first" => format!("{first}"),
        "second" => format!("{}", first + 1),
        "third" => format!("{}", first + 2),
        "every third" => format!("{}+3", first + 1),
        _ => format!("{first}+"),
    }
}

/// One fault to inject.
struct Fault {
    scene: &'static Scene,
    call: String,
    errno: &'static str,
    occurrence: &'static str,
    inject: String,
}

impl Fault {
    fn is_auxiliary(&self) -> bool {
        let needed = self.scene.has("--group")
            || (self.scene.listens() && NETWORK.contains(&self.call.as_str()))
            || (self.scene.has("run") && STARTS.contains(&self.call.as_str()));
        AUXILIARY.contains(&self.call.as_str()) && !needed
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Scene { name, from, to, options } = self.scene;
        write!(
            f,
            "{} {} {} ({name}): {from:?} | strace -f -qq -o /dev/null -e inject={} pcproxy {} | {to:?}",
            self.call,
            self.errno,
            self.occurrence,
            self.inject,
            options.join(" ")
        )
    }
}

/// How a run went.
struct Outcome {
    sent: Vec<u8>,
    arrived: Vec<u8>,
    /// Bytes that it took from its input, where that can be seen.
    taken: Option<usize>,
    /// What the outputs that have a name got, by name.
    named: Vec<(String, Vec<u8>)>,
    /// Nothing if it had to be killed.
    status: Option<ExitStatus>,
    stderr: String,
}

impl Outcome {
    /// What is wrong with it after this fault; nothing if it keeps the promise.
    fn breach(&self, fault: Option<&Fault>) -> Option<String> {
        let said = self.stderr.trim_end();
        if said.contains("panicked") || said.contains("memory allocation") || said.contains("fatal runtime") {
            return Some(format!("panic: {said}"));
        }
        let Some(status) = self.status else { return Some(format!("hang: {said}")) };
        if status.code() == Some(101) || matches!(status.signal(), Some(6 | 7 | 11)) {
            return Some(format!("crash: {status}, {said}"));
        }
        if !self.sent.starts_with(&self.arrived) {
            return Some(format!("wrong bytes: {} arrived, {said}", self.arrived.len()));
        }
        let mut missing = self.sent.len() - self.arrived.len();
        for (name, arrived) in &self.named {
            if !self.sent.starts_with(arrived) {
                return Some(format!("wrong bytes: {} in {name}, {said}", arrived.len()));
            }
            missing = missing.max(self.sent.len() - arrived.len());
            // An output that failed is told with its own count.
            let told = said.lines().filter(|line| line.contains(name.as_str())).find_map(arrivals);
            if let Some(told) = told.filter(|told| *told != arrived.len()) {
                return Some(format!("uncounted: {} in {name}, {told} told: {said}", arrived.len()));
            }
        }
        // A command that wants no more ends as it likes.
        let wants_no_more = fault.is_some_and(|fault| fault.scene.has("run") && fault.errno == "EPIPE");
        if status.success() && !wants_no_more {
            return (missing > 0).then(|| format!("status 0 with {missing} bytes missing: {said}"));
        }
        if wants_no_more {
            return None;
        }
        if fault.is_some_and(Fault::is_auxiliary) {
            return Some(format!("ended: {status}, {said}"));
        }
        let reasons: Vec<_> = said.lines().filter(|line| line.starts_with("pcproxy: ")).collect();
        let mut once = BTreeSet::new();
        if let Some(twice) = reasons.iter().find(|line| !once.insert(**line)) {
            return Some(format!("said twice: {twice}"));
        }
        // Like cat: a consumer that has left is news to nobody.
        let consumer_left = status.signal() == Some(Signal::PIPE.as_raw());
        // A message goes out by the same call.
        let mute =
            fault.is_some_and(|fault| fault.call == "write" && ["every third", "always"].contains(&fault.occurrence));
        if reasons.is_empty() && !consumer_left && !mute {
            return Some(format!("silent: {status}, {said}"));
        }
        let told = reasons.last().and_then(|line| line.split("; ").find_map(undelivered)).unwrap_or(0);
        match self.taken {
            Some(taken) if !consumer_left && !mute && taken != self.arrived.len() + told => Some(format!(
                "uncounted: {taken} bytes read, {} delivered, {told} told as not delivered: {said}",
                self.arrived.len()
            )),
            _ => None,
        }
    }
}

/// The number in `12 bytes arrived`.
fn arrivals(line: &str) -> Option<usize> {
    line.split_once(" bytes arrived")?.0.rsplit(' ').next()?.replace(',', "").parse().ok()
}

/// The number in `12 bytes were read and not delivered`.
fn undelivered(words: &str) -> Option<usize> {
    words.contains("not delivered").then(|| words.split(' ').next()?.replace(',', "").parse().ok())?
}

/// `strace` around pcproxy, in a session of its own.
fn traced(scene: &Scene, session: &Session, strace: &[&str]) -> Command {
    let mut command = neutral("strace");
    command.args(["-f", "-qq"]).args(strace);
    if scene.has("run") {
        // A command that pcproxy starts is left alone.
        command.args(["-b", "execve"]);
    } else {
        command.arg("--seccomp-bpf");
    }
    command.arg(env!("CARGO_BIN_EXE_pcproxy"));
    for option in scene.options {
        match *option {
            name @ ("STATS" | "IN" | "OUT" | "OTHER") => command.arg(session.path(name)),
            option => command.arg(option),
        };
    }
    at_home(&mut command, session.runtime.path());
    command
}

/// Runs a scene to its end, with these options of strace.
fn play(scene: &Scene, session: &Session, strace: &[&str]) -> Outcome {
    let terminal = [scene.from, scene.to].contains(&Kind::Terminal);
    let sent = payload(if terminal { 60_000 } else { 300_000 });
    let (mut input, output) = (connection(scene.from, Side::Stdin), connection(scene.to, Side::Stdout));
    let view = input.theirs.try_clone().unwrap();
    let (mut stderr, their_stderr) = pipe().unwrap();

    let mut left = match scene.from {
        Kind::File => {
            input.ours.write_all(&sent).unwrap();
            Vec::new()
        }
        Kind::Terminal => [&sent[..], &[END_OF_FILE]].concat(),
        _ if scene.has("IN") => {
            fs::write(session.path("IN"), &sent).unwrap();
            Vec::new()
        }
        _ if scene.listens() => Vec::new(),
        _ => sent.clone(),
    };
    let mut listens = scene.listens();
    let mut command = traced(scene, session, strace);
    let mut child = command.stdin(input.theirs).stdout(output.theirs).stderr(their_stderr).spawn().unwrap();
    drop(command);
    let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let mut stdin = Some(input.ours);
    let mut stdout = output.ours;
    set_nonblocking(&stdout, true);
    set_nonblocking(&stderr, true);
    set_nonblocking(stdin.as_ref().unwrap(), true);
    if left.is_empty() {
        stdin = None;
    }
    let file = scene.to == Kind::File;
    let (mut arrived, mut said, mut fed) = (Vec::new(), Vec::new(), 0);
    let (mut told_to_end, mut killed) = (false, false);
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let nothing = poll_ready(&end, &stdout, &stderr, stdin.as_ref().filter(|_| !left.is_empty()), deadline);
        collect(&mut stderr, &mut said);
        if !file {
            collect(&mut stdout, &mut arrived);
        }
        if let Some(port) = port(&said).filter(|_| std::mem::take(&mut listens)) {
            // It may have given up meanwhile.
            if let Ok(peer) = TcpStream::connect(("127.0.0.1", port)) {
                peer.set_nonblocking(true).unwrap();
                (stdin, left) = (Some(File::from(OwnedFd::from(peer))), sent.clone());
            }
        }
        if let Some(ours) = &mut stdin {
            while let Ok(written) = ours.write(&left) {
                fed += written;
                left.drain(..written);
                if left.is_empty() {
                    break;
                }
            }
            // The master of a terminal that is closed hangs up.
            if left.is_empty() && scene.from != Kind::Terminal {
                stdin = None;
            }
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        // A run waits for a group that cannot be used, and says so. It must heed signals.
        let waits = String::from_utf8_lossy(&said).contains("waiting until that is repaired");
        if waits && !told_to_end {
            told_to_end = true;
            tracees(child.id()).into_iter().for_each(|pid| _ = kill_process(pid, Signal::TERM));
            tracees(child.id()).into_iter().for_each(|pid| _ = kill_process(pid, Signal::INT));
        }
        if nothing && !killed {
            killed = true;
            tracees(child.id()).into_iter().for_each(|pid| _ = kill_process(pid, Signal::KILL));
            deadline = Instant::now() + PATIENCE;
        } else if nothing {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    collect(&mut stderr, &mut said);
    let taken = match scene.from {
        Kind::File => Some(File::from(view).stream_position().unwrap() as usize),
        Kind::Terminal => None,
        // What is on its way through a command, or in a socket of its own, cannot be seen.
        _ if scene.has("run") || scene.has("IN") || scene.listens() => None,
        Kind::Tcp => Some(fed - unread(&view) - stdin.as_ref().map_or(0, unsent)),
        _ => Some(fed - unread(&view)),
    };
    collect(&mut stdout, &mut arrived);
    let names = ["OUT", "OTHER"].into_iter().filter(|name| scene.has(name));
    let path = |name| session.path(name).to_str().unwrap().to_owned();
    let named: Vec<_> = names.map(|name| (path(name), fs::read(session.path(name)).unwrap_or_default())).collect();
    if scene.has("OUT") {
        // Nothing goes to stdout then.
        assert!(arrived.is_empty(), "{} bytes on stdout", arrived.len());
        arrived.clone_from(&named[0].1);
    }
    Outcome {
        sent,
        arrived,
        taken,
        named,
        status: (!killed).then_some(status),
        stderr: String::from_utf8_lossy(&said).into_owned(),
    }
}

/// The port in the line `listening on 127.0.0.1:PORT`.
fn port(said: &[u8]) -> Option<u16> {
    let said = String::from_utf8_lossy(said);
    let (line, _) = said.split_once("listening on ")?.1.split_once('\n')?;
    line.rsplit_once(':')?.1.parse().ok()
}

/// Waits until something can be done; whether nothing could be until `deadline`.
fn poll_ready(end: &OwnedFd, stdout: &File, stderr: impl AsFd, stdin: Option<&File>, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let stderr = stderr.as_fd();
    let mut fds = vec![PollFd::new(end, PollFlags::IN)];
    // A regular file is always ready, and read once the run has ended.
    if stdout.metadata().is_ok_and(|data| !data.is_file()) {
        fds.push(PollFd::new(stdout, PollFlags::IN));
    }
    fds.push(PollFd::from_borrowed_fd(stderr, PollFlags::IN));
    fds.extend(stdin.map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
    // A side that has hung up stays ready; then only the end is waited for.
    let hung_up = |fd: &PollFd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR);
    poll(&mut fds, Some(&Timespec::default())).unwrap();
    let gone: Vec<_> = fds.iter().map(|fd| hung_up(fd) && !fd.revents().contains(PollFlags::IN)).collect();
    let mut kept: Vec<_> = fds.into_iter().zip(gone).filter(|(_, gone)| !gone).map(|(fd, _)| fd).collect();
    poll(&mut kept, Some(&Timespec::try_from(left).unwrap())).unwrap() == 0
}

/// Takes what there is.
fn collect(from: &mut impl Read, into: &mut Vec<u8>) {
    let mut piece = [0; 65_536];
    while let Ok(read) = from.read(&mut piece) {
        if read == 0 {
            return;
        }
        into.extend_from_slice(&piece[..read]);
    }
}

/// What runs under this strace.
fn tracees(strace: u32) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// The calls of an undisturbed run: how many before `main`, and how many from there on. What
/// comes before belongs to the loader and to Rust's runtime, whose last deed is to look after
/// SIGBUS.
fn calls(scene: &Scene) -> BTreeMap<String, (usize, usize)> {
    let session = Session::new();
    let path = session.path("trace");
    let outcome = play(scene, &session, &["-o", path.to_str().unwrap()]);
    assert_eq!(outcome.breach(None), None, "{}: an undisturbed run", scene.name);
    assert!(outcome.status.is_some_and(|status| status.success()), "{}: {}", scene.name, outcome.stderr);
    let trace = fs::read_to_string(path).unwrap();
    let calls: Vec<_> = trace.lines().filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('(')).collect();
    let main = calls.iter().rposition(|&(name, rest)| name == "rt_sigaction" && rest.starts_with("SIGBUS"));
    let main = main.expect("Rust's runtime") + 1;
    let mut counts = BTreeMap::new();
    for (at, (name, _)) in calls.iter().enumerate() {
        let count: &mut (usize, usize) = counts.entry((*name).to_owned()).or_default();
        *if at < main { &mut count.0 } else { &mut count.1 } += 1;
    }
    counts.retain(|name, count| count.1 > 0 && name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    counts
}

/// The whole campaign.
fn campaign() -> Vec<Fault> {
    let mut faults = Vec::new();
    for scene in &SCENES {
        for (call, (before, after)) in calls(scene) {
            if scene.is_spared(&call) {
                continue;
            }
            for &errno in errnos(&call) {
                for (at, occurrence) in OCCURRENCES.into_iter().enumerate() {
                    // Who is told to try again for ever does so.
                    let again = occurrence == "always" && ["EINTR", "EAGAIN", "ECONNABORTED"].contains(&errno);
                    if again || (at > 0 && at < 4 && after <= at.min(2)) {
                        continue;
                    }
                    let inject = format!("{call}:error={errno}:when={}", when(occurrence, before));
                    faults.push(Fault { scene, call: call.clone(), errno, occurrence, inject });
                }
            }
        }
    }
    faults
}

fn inject(fault: &Fault) -> Option<String> {
    let session = Session::new();
    let trace = format!("trace={}", fault.call);
    let inject = format!("inject={}", fault.inject);
    play(fault.scene, &session, &["-o", "/dev/null", "-e", &trace, "-e", &inject]).breach(Some(fault))
}

/// Injects all of these faults, as many at once as there are processors. Returns the breaches.
fn inject_all(faults: &[&Fault]) -> BTreeMap<usize, String> {
    let (next, breaches) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(breach) = inject(fault) {
                        let at = faults.iter().position(|other| std::ptr::eq(*other, *fault)).unwrap();
                        breaches.lock().unwrap().insert(at, breach);
                    }
                }
            });
        }
    });
    breaches.into_inner().unwrap()
}

fn is_known(fault: &Fault, breach: &str) -> bool {
    KNOWN.iter().any(|known| known.call == fault.call && breach.starts_with(known.breach))
}

#[test]
fn whatever_call_fails_no_byte_is_missing_without_a_word() {
    if !needs("strace") {
        return;
    }
    let faults = campaign();
    let wish = std::env::var("PCPROXY_FAULTS").unwrap_or_default();
    // Every so many, and never in step with the table: 2 and 5 are no divisors of the step.
    let step = (faults.len() / SAMPLE).max(1) / 10 * 10 + 7;
    let chosen: Vec<_> = match wish.as_str() {
        "" => faults.iter().step_by(step).collect(),
        "all" => faults.iter().collect(),
        call => faults.iter().filter(|fault| fault.call == call).collect(),
    };
    let breaches = inject_all(&chosen);
    let all = breaches.iter().map(|(&at, breach)| (chosen[at], breach));
    let (known, news): (Vec<_>, Vec<_>) = all.partition(|(fault, breach)| is_known(fault, breach));
    let list = |found: &[(&Fault, &String)]| -> String {
        found.iter().map(|(fault, breach)| format!("{fault}\n    {breach}\n")).collect()
    };
    println!("{} faults of {} injected, {} known breaches", chosen.len(), faults.len(), known.len());
    if !wish.is_empty() {
        println!("known:\n{}", list(&known));
    }
    assert!(news.is_empty(), "{} breaches:\n{}", news.len(), list(&news));
}

#[test]
fn each_known_breach_still_is_one() {
    if !needs("strace") {
        return;
    }
    let faults = campaign();
    let mut mended = Vec::new();
    for Known { call, breach, why, case } in KNOWN {
        let is_case =
            |fault: &&Fault| (fault.call.as_str(), (fault.scene.name, fault.errno, fault.occurrence)) == (call, *case);
        let fault = faults.iter().find(is_case);
        // Some depend on how fast the two sides are.
        let breaks = |fault| (0..3).any(|_| inject(fault).is_some_and(|found| found.starts_with(breach)));
        if !fault.is_some_and(breaks) {
            mended.push(format!("{call} {case:?}: {breach} ({why})"));
        }
    }
    assert!(mended.is_empty(), "no longer a breach, remove from KNOWN in tests/faults.rs:\n{}", mended.join("\n"));
}

/// What the campaign looks for is found where it is.
#[test]
fn a_breach_is_seen() {
    let outcome = |arrived: &[u8], taken, status, stderr: &str| Outcome {
        sent: b"0123456789".to_vec(),
        arrived: arrived.to_vec(),
        taken: Some(taken),
        named: Vec::new(),
        status,
        stderr: stderr.to_owned(),
    };
    let ended = |code: i32| Some(ExitStatus::from_raw(code << 8));
    let died = |signal: Signal| Some(ExitStatus::from_raw(signal.as_raw()));
    let lost_two = "pcproxy: stdout: Input/output error; 2 bytes were read and not delivered\n";
    for good in [
        outcome(b"0123456789", 10, ended(0), ""),
        outcome(b"0123", 6, ended(1), lost_two),
        outcome(b"0123", 4, ended(1), "pcproxy: stdin: Input/output error\n"),
        outcome(b"", 0, ended(2), "pcproxy: a group that cannot be joined\n"),
        outcome(b"0123", 9, died(Signal::PIPE), ""),
    ] {
        assert_eq!(good.breach(None), None);
    }
    for (breach, bad) in [
        ("hang", outcome(b"0123456789", 10, None, "")),
        ("status 0", outcome(b"012345678", 10, ended(0), "")),
        ("wrong bytes", outcome(b"0124", 10, ended(1), lost_two)),
        ("uncounted", outcome(b"0123", 7, ended(1), lost_two)),
        ("uncounted", outcome(b"0123", 6, died(Signal::TERM), "pcproxy: interrupted\n")),
        ("silent", outcome(b"0123", 4, ended(1), "")),
        ("said twice", outcome(b"0123", 6, ended(1), &lost_two.repeat(2))),
        ("crash", outcome(b"0123", 4, died(Signal::ABORT), "pcproxy: something\n")),
        ("panic", outcome(b"0123", 4, ended(101), "thread 'main' panicked at")),
    ] {
        let found = bad.breach(None).unwrap_or_default();
        assert!(found.starts_with(breach), "{breach}: {found:?}");
    }
}
