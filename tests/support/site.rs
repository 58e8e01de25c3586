//! Machines that share one limit: folders of their own, with members that move bytes as fast as
//! they may, and the oracle that checks every window of what they moved together.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How deep the bucket of a group is, and how long members may use tokens.
const BURST: Duration = Duration::from_millis(12);
const IN_HAND: Duration = Duration::from_millis(3);

/// What a pipe between a member and the test may hold back, and pass on late.
pub const PIPE: usize = 16 * 1024;

/// Clock ticks per second, as `/proc` counts them on Linux.
const TICKS: f64 = 100.0;

/// When, which machine, how many bytes.
type Log = Arc<Mutex<Vec<(Instant, usize, u64)>>>;

pub struct Machine {
    folder: TempDir,
    members: Vec<Member>,
    number: usize,
    log: Log,
}

struct Member {
    child: Child,
    reader: Option<JoinHandle<()>>,
    stderr: Option<PipeReader>,
    /// The consumer takes nothing.
    blocked: Arc<AtomicBool>,
}

/// All machines.
pub struct Site {
    pub machines: Vec<Machine>,
    log: Log,
    rate: u64,
}

impl Site {
    /// So many machines, whose limit is `rate` together.
    pub fn new(machines: usize, rate: u64) -> Site {
        let log = Log::default();
        let machines = (0..machines).map(|number| Machine {
            folder: tempfile::tempdir().unwrap(),
            members: Vec::new(),
            number,
            log: log.clone(),
        });
        Site { machines: machines.collect(), log, rate }
    }

    /// Binds each machine to the store at its address, and sets the limit.
    pub fn share(&self, addresses: &[String], options: &[&str]) {
        for (machine, address) in self.machines.iter().zip(addresses.iter().cycle()) {
            let words = [&["group", "share", "uplink", "--store", address], options].concat();
            machine.succeeds(&words);
        }
        self.machines[0].succeeds(&["group", "set", "uplink", &self.rate.to_string()]);
    }

    /// Starts so many members on each machine.
    pub fn start(&mut self, members: usize) {
        for machine in &mut self.machines {
            (0..members).for_each(|_| machine.start(&[]));
        }
    }

    /// Bytes per second of each machine in the time that passes now.
    pub fn measure(&self, time: Duration) -> Vec<f64> {
        let start = Instant::now();
        thread::sleep(time);
        self.rates(start, start + time)
    }

    /// Bytes per second of each machine between the two.
    pub fn rates(&self, from: Instant, to: Instant) -> Vec<f64> {
        let mut rates = vec![0.0; self.machines.len()];
        for &(_, machine, bytes) in self.log.lock().unwrap().iter().filter(|(at, ..)| (from..to).contains(at)) {
            rates[machine] += bytes as f64 / (to - from).as_secs_f64();
        }
        rates
    }

    /// The part of the limit that is used in the time that passes now.
    pub fn used(&self, time: Duration) -> f64 {
        self.measure(time).iter().sum::<f64>() / self.rate as f64
    }

    /// How long it takes until `reached` holds for what the machines move in 300 ms.
    #[track_caller]
    pub fn until(&self, what: &str, at_most: Duration, reached: impl Fn(&[f64]) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(20));
            let now = Instant::now();
            let rates = self.rates(now - Duration::from_millis(300), now);
            if reached(&rates) {
                return now - start;
            }
            assert!(now - start < at_most, "{what} did not come within {at_most:?}: {rates:?}");
        }
    }

    /// Bytes that have arrived from all machines.
    pub fn moved(&self) -> u64 {
        self.log.lock().unwrap().iter().map(|(.., bytes)| bytes).sum()
    }

    /// Checks every window since the start: the most that the bytes were ever ahead of the limit,
    /// in milliseconds of it, is no more than the promise and what pipes hold back.
    #[track_caller]
    pub fn check_all_windows(&self) {
        let members: usize = self.machines.iter().map(|machine| machine.members.len()).sum();
        let most = self.rate as f64 * (BURST + IN_HAND).as_secs_f64() + (members * PIPE) as f64;
        let (worst, at) = self.worst_ahead();
        eprintln!("at most {worst:.0} bytes ahead of the limit, {most:.0} may be");
        assert!(worst <= most, "{worst:.0} bytes ahead of the limit after {at:?}, {most:.0} may be");
    }

    /// How many bytes the machines together were ever ahead of the limit, and how long after the
    /// first byte that was.
    pub fn worst_ahead(&self) -> (f64, Duration) {
        let mut log = self.log.lock().unwrap().clone();
        log.sort_by_key(|(at, ..)| *at);
        let rate = self.rate as f64;
        let (mut ahead, mut last, mut worst) = (0.0f64, log[0].0, (0.0f64, log[0].0));
        for &(at, _, bytes) in &log {
            ahead = (ahead - rate * (at - last).as_secs_f64()).max(0.0) + bytes as f64;
            last = at;
            worst = if ahead > worst.0 { (ahead, at) } else { worst };
        }
        (worst.0, worst.1 - log[0].0)
    }

    /// The log, as seconds, machine and bytes.
    pub fn log(&self) -> Vec<(f64, usize, u64)> {
        let log = self.log.lock().unwrap();
        let start = log.iter().map(|(at, ..)| *at).min();
        log.iter().map(|&(at, machine, bytes)| ((at - start.unwrap()).as_secs_f64(), machine, bytes)).collect()
    }
}

impl Machine {
    /// Runs a command of pcproxy on this machine.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command().args(words).output().unwrap()
    }

    pub fn succeeds(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pcproxy"));
        command.env("PCPROXY_DIR", self.folder.path()).env_remove("PCPROXY_STORE").env_remove("PCPROXY_STORE_PASSWORD");
        command
    }

    /// Starts a member that moves bytes as fast as it may.
    pub fn start(&mut self, options: &[&str]) {
        let command = self.command();
        self.start_by(command, options);
    }

    pub fn start_by(&mut self, mut command: Command, options: &[&str]) {
        let (mut bytes, theirs) = pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&bytes, PIPE).unwrap();
        let (stderr, their_stderr) = pipe().unwrap();
        if !options.contains(&"--group") {
            command.args(["--group", "uplink"]);
        }
        command.args(["--quiet", "--no-control", "--pipe-size", "keep"]).args(options);
        command.stdin(std::fs::File::open("/dev/zero").unwrap()).stdout(theirs).stderr(their_stderr);
        let child = command.spawn().unwrap();
        drop(command);
        let (log, number, blocked) = (self.log.clone(), self.number, Arc::new(AtomicBool::new(false)));
        let stops = blocked.clone();
        let reader = thread::spawn(move || {
            let mut piece = [0; PIPE];
            while let Ok(read @ 1..) = bytes.read(&mut piece) {
                log.lock().unwrap().push((Instant::now(), number, read as u64));
                while stops.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        self.members.push(Member { child, reader: Some(reader), stderr: Some(stderr), blocked });
    }

    /// The consumers of its members take nothing, or go on.
    pub fn block(&self, blocked: bool) {
        self.members.iter().for_each(|member| member.blocked.store(blocked, Ordering::Relaxed));
    }

    pub fn pids(&self) -> Vec<rustix::process::Pid> {
        self.members.iter().map(|member| rustix::process::Pid::from_child(&member.child)).collect()
    }

    /// Seconds of processor time that its members have used.
    pub fn cpu(&self) -> f64 {
        let ticks = |pid: rustix::process::Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect::<Vec<_>>();
            [11, 12].map(|field| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0))
        };
        self.pids().into_iter().flat_map(ticks).sum::<f64>() / TICKS
    }

    /// The first line that its first member says.
    pub fn first_line(&mut self) -> String {
        let stderr = self.members[0].stderr.take().unwrap();
        let mut lines = BufReader::new(stderr);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line
    }

    /// Kills its members. Returns what each of them said.
    pub fn stop(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for mut member in self.members.drain(..) {
            let _ = member.child.kill();
            let _ = member.child.wait();
            member.blocked.store(false, Ordering::Relaxed);
            member.reader.take().map(JoinHandle::join);
            let mut text = String::new();
            if let Some(mut stderr) = member.stderr.take() {
                let _ = stderr.read_to_string(&mut text);
            }
            said.push(text);
        }
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
