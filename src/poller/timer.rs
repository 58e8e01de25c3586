//! Deadlines.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use jiff::Timestamp;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// One deadline. `epoll_wait` would round it to whole milliseconds, in which a small buffer
/// at a high rate runs dry many times.
pub(crate) struct Timer {
    fd: OwnedFd,
}

impl Timer {
    /// A timer of `clock` that is never due.
    pub(crate) fn new(registry: &Registry, token: Token, clock: TimerfdClockId) -> io::Result<Self> {
        let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { fd })
    }

    /// Wakes the poll once, after `wait`.
    pub(crate) fn set(&self, wait: Duration) -> io::Result<()> {
        let wait = wait.max(Duration::from_nanos(1));
        let seconds = wait.as_secs().try_into().unwrap_or(i64::MAX);
        self.arm(TimerfdTimerFlags::empty(), seconds, wait.subsec_nanos().into())
    }

    /// Wakes the poll once, at a time of day, or when the clock is set.
    pub(crate) fn set_at(&self, time: Timestamp) -> io::Result<()> {
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        self.arm(flags, time.as_second(), time.subsec_nanosecond().into())
    }

    fn arm(&self, flags: TimerfdTimerFlags, tv_sec: i64, tv_nsec: i64) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: Timespec { tv_sec, tv_nsec } };
        timerfd_settime(&self.fd, flags, &once)?;
        Ok(())
    }
}
