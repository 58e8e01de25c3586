//! Signals as readiness.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that are heard. All but SIGUSR1, SIGCONT and SIGXFSZ ask a run to end.
const HEARD: [Signal; 15] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGCONT,
    // Blocked, it does not end the process. The write that caused it says what is wrong.
    Signal::SIGXFSZ,
    Signal::SIGALRM,
    Signal::SIGUSR2,
    Signal::SIGXCPU,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
];

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The kernel sent it, as it does for a key of the terminal: all processes of the job have it.
    pub by_kernel: bool,
}

/// The signals that have come, and a descriptor that becomes readable when one does.
///
/// Signals are blocked and read from a signalfd, so no handler interrupts a call. Where the system
/// has no signalfd, handlers set flags instead: those interrupt a wait.
#[derive(Debug)]
pub struct Signals {
    from: From,
    came: VecDeque<Received>,
    continued: bool,
}

#[derive(Debug)]
enum From {
    Descriptor(SignalFd),
    Flags(Vec<(Signal, Arc<AtomicBool>)>),
}

impl Signals {
    /// Listens from now on, except to signals that were ignored at the start: `nohup` ignores
    /// SIGHUP, and a shell ignores SIGINT for a job in the background.
    pub(super) fn new() -> Self {
        let ignored = ignored();
        let heard = || HEARD.into_iter().filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0);
        let set: SigSet = heard().collect();
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let from = match fd.and_then(|fd| set.thread_block().map(|()| fd)) {
            Ok(fd) => From::Descriptor(fd),
            Err(_) => From::Flags(heard().filter_map(flag).collect()),
        };
        Signals { from, came: VecDeque::new(), continued: false }
    }

    /// The descriptor that becomes readable when a signal comes, if there is one.
    pub(super) fn fd(&self) -> Option<RawFd> {
        match &self.from {
            From::Descriptor(fd) => Some(fd.as_raw_fd()),
            From::Flags(_) => None,
        }
    }

    /// Sees which signals have come.
    pub fn look(&mut self) {
        let mut came = |signal: i32, by_kernel| match signal {
            _ if signal == Signal::SIGCONT as i32 => self.continued = true,
            _ if signal == Signal::SIGXFSZ as i32 => {}
            _ => self.came.push_back(Received { signal, by_kernel }),
        };
        match &self.from {
            From::Descriptor(fd) => {
                while let Ok(Some(info)) = fd.read_signal() {
                    // SI_USER is 0, and all codes of calls are below it.
                    came(info.ssi_signo as i32, info.ssi_code > 0);
                }
            }
            From::Flags(flags) => {
                for (signal, _) in flags.iter().filter(|(_, flag)| flag.swap(false, Ordering::Relaxed)) {
                    came(*signal as i32, false);
                }
            }
        }
    }

    /// The next signal that has come, but for SIGCONT.
    pub fn take(&mut self) -> Option<Received> {
        self.came.pop_front()
    }

    /// Whether [`take`](Self::take) has one.
    pub(super) fn has_some(&self) -> bool {
        !self.came.is_empty()
    }

    /// Whether the process was stopped since the last call, and goes on.
    pub fn was_continued(&mut self) -> bool {
        self.look();
        std::mem::take(&mut self.continued)
    }
}

/// A flag that is set when the signal comes. A signal that cannot be heard does what it would
/// without us.
fn flag(signal: Signal) -> Option<(Signal, Arc<AtomicBool>)> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal as i32, flag.clone()).ok().map(|_| (signal, flag))
}

/// The signals that this process ignores, as a set of bits.
fn ignored() -> u64 {
    // All of it comes with one read, which costs less than reads that grow.
    let mut status = [0; 8192];
    let length = File::open("/proc/self/status").and_then(|mut file| file.read(&mut status)).unwrap_or(0);
    let status = String::from_utf8_lossy(&status[..length]);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::clock;
    use crate::poller::Poller;
    use std::time::Duration;

    /// On a busy machine the loop asks whether the process was stopped, and reads all signals then.
    #[test]
    fn a_run_that_reads_its_signal_before_it_sleeps_does_not_sleep_over_it() {
        let mut poller = Poller::new().unwrap();
        poller.signals.came.push_back(Received { signal: Signal::SIGTERM as i32, by_kernel: false });
        let start = clock::now();
        poller.wait(Some(Duration::from_secs(60)), start);
        assert!(clock::now() - start < Duration::from_secs(30));
        assert_eq!(poller.signals().take().map(|received| received.signal), Some(Signal::SIGTERM as i32));
    }
}
