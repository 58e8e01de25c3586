//! When bytes come out of many pipes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::PipeReader;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::curve::Curve;

/// How long a first byte may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Empties pipes as they fill, in a single thread, and notes when that was. What comes is thrown
/// away unseen.
pub struct Meter {
    shared: Arc<Shared>,
    reader: JoinHandle<Result<()>>,
}

struct Shared {
    epoll: OwnedFd,
    seen: Mutex<Seen>,
    done: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// None for those that have ended.
    pipes: Vec<Option<PipeReader>>,
    first: Vec<Option<Instant>>,
    arrivals: Vec<Arrival>,
}

/// Bytes that came out of a pipe at once.
#[derive(Clone, Copy)]
struct Arrival {
    at: Instant,
    pipe: usize,
    bytes: usize,
    /// How long the meter had waited for a processor.
    late: Duration,
}

impl Meter {
    /// A meter of no pipes yet.
    pub fn start() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { epoll, seen: Mutex::default(), done: AtomicBool::new(false) });
        let reader = thread::spawn({
            let shared = shared.clone();
            move || shared.read()
        });
        Ok(Meter { shared, reader })
    }

    /// Watches `pipe` too. Returns its number: the first is 0.
    pub fn watch(&self, pipe: PipeReader) -> Result<usize> {
        let mut seen = self.shared.seen();
        let number = seen.pipes.len();
        epoll::add(&self.shared.epoll, &pipe, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        seen.pipes.push(Some(pipe));
        seen.first.push(None);
        Ok(number)
    }

    /// When the first bytes of a pipe came; waits for them.
    pub fn first(&self, pipe: usize) -> Result<Instant> {
        let patient_until = Instant::now() + PATIENCE;
        loop {
            let (first, open) = {
                let seen = self.shared.seen();
                (seen.first[pipe], seen.pipes[pipe].is_some())
            };
            if let Some(first) = first {
                return Ok(first);
            }
            ensure!(
                open && !self.reader.is_finished() && Instant::now() < patient_until,
                "nothing came out of pipe {pipe}"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many pipes have ended.
    pub fn ended(&self) -> usize {
        self.shared.seen().pipes.iter().filter(|pipe| pipe.is_none()).count()
    }

    /// Ends, and tells what came within `span`.
    pub fn stop(self, span: Range<Instant>) -> Result<Log> {
        self.shared.done.store(true, Ordering::Relaxed);
        self.reader.join().ok().context("the meter broke")??;
        let mut arrivals = std::mem::take(&mut self.shared.seen().arrivals);
        arrivals.retain(|arrival| span.contains(&arrival.at));
        Ok(Log { arrivals, span })
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("the meter broke")
    }

    fn read(&self) -> Result<()> {
        go_first();
        let nowhere = File::options().write(true).open("/dev/null")?;
        let schedule = File::open("/proc/thread-self/schedstat").ok();
        let waited = || schedule.as_ref().and_then(waited).unwrap_or_default();
        let mut waited_before = waited();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut events = Vec::with_capacity(128);
        while !self.done.load(Ordering::Relaxed) {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                // A signal that is ignored, such as SIGCHLD, does this too.
                Err(Errno::INTR) => continue,
                result => drop(result?),
            }
            let waited = waited();
            let late = waited - std::mem::replace(&mut waited_before, waited);
            let mut seen = self.seen();
            for event in events.drain(..) {
                let number = event.data.u64() as usize;
                let Some(pipe) = &seen.pipes[number] else { continue };
                match splice(pipe, None, &nowhere, None, 1 << 20, SpliceFlags::NONBLOCK) {
                    // It leaves the epoll as it is closed.
                    Ok(0) => seen.pipes[number] = None,
                    Ok(bytes) => {
                        let at = Instant::now();
                        seen.first[number].get_or_insert(at);
                        seen.arrivals.push(Arrival { at, pipe: number, bytes, late });
                    }
                    Err(Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Asks for this thread to go before all others: should it wait for a processor, what passes
/// meanwhile would look like a burst. If refused, it takes its turn.
fn go_first() {
    let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
    let arguments = ["--fifo", "--pid", "1"].into_iter().map(OsStr::new).chain(thread.file_name());
    let _ = Command::new("chrt").args(arguments).stderr(Stdio::null()).status();
}

/// How long a thread has waited for a processor in all, by its `schedstat`.
fn waited(schedstat: &File) -> Option<Duration> {
    let mut text = [0; 64];
    let count = schedstat.read_at(&mut text, 0).ok()?;
    Some(Duration::from_nanos(str::from_utf8(&text[..count]).ok()?.split(' ').nth(1)?.parse().ok()?))
}

/// What a meter saw in some span of time, or a part of it.
pub struct Log {
    arrivals: Vec<Arrival>,
    span: Range<Instant>,
}

impl Log {
    /// What came out of some of the pipes.
    pub fn of(&self, pipes: Range<usize>) -> Log {
        let arrivals = self.arrivals.iter().filter(|arrival| pipes.contains(&arrival.pipe)).copied().collect();
        Log { arrivals, span: self.span.clone() }
    }

    /// What came in a part of the time.
    pub fn during(&self, span: Range<Instant>) -> Log {
        let arrivals = self.arrivals.iter().filter(|arrival| span.contains(&arrival.at)).copied().collect();
        Log { arrivals, span }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.arrivals.iter().map(|arrival| arrival.bytes as u64).sum()
    }

    /// All together as a stream that is meant to keep a rate.
    pub fn curve(&self, rate: u64) -> Curve {
        let mut curve = Curve::new(rate);
        self.arrivals.iter().for_each(|arrival| curve.record(arrival.at, arrival.bytes));
        curve
    }

    /// The longest that the meter had to wait for a processor: so much may look like a burst.
    pub fn late_ms(&self) -> f64 {
        1e3 * self.arrivals.iter().map(|arrival| arrival.late).max().unwrap_or_default().as_secs_f64()
    }

    /// When the last bytes before `time` came.
    pub fn last_before(&self, time: Instant) -> Option<Instant> {
        let before = self.arrivals.partition_point(|arrival| arrival.at < time);
        Some(self.arrivals[..before].last()?.at)
    }

    /// Bytes that came after one time and before another.
    pub fn between(&self, after: Instant, before: Instant) -> u64 {
        let begin = self.arrivals.partition_point(|arrival| arrival.at <= after);
        let end = self.arrivals.partition_point(|arrival| arrival.at < before);
        self.arrivals[begin..end.max(begin)].iter().map(|arrival| arrival.bytes as u64).sum()
    }

    /// The fewest bytes in any interval of this length.
    pub fn least_within(&self, length: Duration) -> Option<u64> {
        // The least is where one begins just after an arrival.
        let begins = self.arrivals.iter().map(|arrival| arrival.at).chain([self.span.start]);
        begins.filter(|&begin| begin + length <= self.span.end).map(|begin| self.between(begin, begin + length)).min()
    }
}
