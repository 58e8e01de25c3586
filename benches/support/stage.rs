//! One process of a pipeline, which never outlives the measurement.

use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// How long a process may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process that was started. Dropping it kills it.
pub struct Stage {
    name: String,
    child: Child,
    /// The watchdog sleeps for as long as this lives.
    _watchdog: Sender<()>,
}

impl Stage {
    /// Starts the program `words[0]` with the rest as its arguments. `NAME=VALUE` before it goes to its
    /// environment, as in a shell.
    pub fn start(words: &[String], stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Result<Self> {
        let settings = words.iter().map_while(|word| word.split_once('=').filter(|(name, _)| !name.contains('/')));
        let settings: Vec<_> = settings.collect();
        let (program, arguments) = words[settings.len()..].split_first().context("no program to start")?;
        let child = Command::new(program)
            .args(arguments)
            .envs(settings)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let watchdog = watch(&child)?;
        Ok(Stage { name: words.join(" "), child, _watchdog: watchdog })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it has ended; an error unless it ended well.
    pub fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        bail!("{}: {status} {}", self.name, said.lines().next().unwrap_or_default());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Both do nothing to a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills `child` once it has taken longer than a benchmark may, unless the result is dropped first.
fn watch(child: &Child) -> Result<Sender<()>> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (alive, dropped) = channel();
    thread::spawn(move || {
        if dropped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a process still runs after {} seconds: killed", PATIENCE.as_secs());
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    });
    Ok(alive)
}

/// Runs `source | middle | sink`, or `source | sink` if nothing stands between. Returns how long it
/// took from the start of the first process to the end of the last.
pub fn pipeline(source: &[String], middle: &[String], sink: &[String]) -> Result<Duration> {
    let start = Instant::now();
    let (mut reader, writer) = pipe()?;
    let mut stages = vec![Stage::start(source, Stdio::null(), writer)?];
    if !middle.is_empty() {
        let (next, writer) = pipe()?;
        stages.push(Stage::start(middle, reader, writer)?);
        reader = next;
    }
    stages.push(Stage::start(sink, reader, Stdio::null())?);
    // The sink first: when one fails, those before it die of that.
    stages.into_iter().rev().try_for_each(Stage::finish)?;
    Ok(start.elapsed())
}

/// Runs `source | middle` with `output` as the standard output. Returns how long it took.
pub fn pipeline_to(source: &[String], middle: &[String], output: File) -> Result<Duration> {
    let start = Instant::now();
    let (reader, writer) = pipe()?;
    let source = Stage::start(source, Stdio::null(), writer)?;
    let middle = Stage::start(middle, reader, output)?;
    middle.finish()?;
    source.finish()?;
    Ok(start.elapsed())
}

/// Reads `pipe` until `deadline` and reports each piece with its time. Returns false once the writer
/// has left.
pub fn read_until(
    pipe: &mut (impl Read + AsFd),
    deadline: Instant,
    buffer: &mut [u8],
    mut record: impl FnMut(Instant, usize),
) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(true);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        if poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout))? == 0 {
            return Ok(true);
        }
        match pipe.read(buffer)? {
            0 => return Ok(false),
            count => record(Instant::now(), count),
        }
    }
}

/// Takes `bytes` out of `pipe` without looking at them.
pub fn drain(pipe: &mut PipeReader, mut bytes: u64) -> Result<()> {
    let nowhere = File::options().write(true).open("/dev/null")?;
    while bytes > 0 {
        let most = bytes.min(1 << 20) as usize;
        let count = rustix::pipe::splice(&pipe, None, &nowhere, None, most, rustix::pipe::SpliceFlags::empty())?;
        ensure!(count > 0, "the output ended {bytes} bytes early");
        bytes -= count as u64;
    }
    Ok(())
}
