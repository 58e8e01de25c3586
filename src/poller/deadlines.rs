//! Times at which a wait ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use jiff::Timestamp;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The tokens of the two timers.
pub(super) const TIMER: Token = Token(super::OWN + 1);
pub(super) const ALARM: Token = Token(super::OWN + 2);

/// A timer that is set too early wakes the process once, for nothing. To set it anew costs more
/// than that if it happens often. A timer that is due within this time is left alone.
const NEAR: Duration = Duration::from_millis(50);

/// How often the time of day is looked at where no timer can watch it.
const WITHOUT_ALARM: Duration = Duration::from_secs(30);

/// The things to do at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Tokens are due.
    Tokens,
    /// Something is to be shown or recorded.
    Tick,
    /// A side that moves nothing counts as stalled.
    Stall,
    /// Requests over the control socket may be heard again.
    Control,
    /// Bytes that the system holds back are to be sent.
    Flush,
    /// A child may have ended, where the system does not tell.
    Child,
    /// The timetable changes. Set by [`Poller::set_alarm`](super::Poller::set_alarm).
    Timetable,
}

/// How many deadlines there are.
const COUNT: usize = Deadline::Timetable as usize + 1;

/// All deadlines of a process, over one timer for each of two clocks.
///
/// `epoll_wait` takes whole milliseconds, in which a small buffer at a high rate runs dry many
/// times. A timerfd does not round. Each is made when it is first needed, and where the system
/// refuses it, whole milliseconds have to do.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    times: [Option<Duration>; COUNT],
    timer: Timer,
    /// When the timer is going to fire.
    armed: Option<Duration>,
    /// Of the time of day.
    alarm: Timer,
}

impl Deadlines {
    pub(super) fn set(&mut self, deadline: Deadline, time: Option<Duration>) {
        self.times[deadline as usize] = time;
    }

    pub(super) fn take_due(&mut self, deadline: Deadline, now: Duration) -> bool {
        let time = &mut self.times[deadline as usize];
        time.take_if(|time| *time <= now).is_some()
    }

    pub(super) fn set_alarm(&mut self, registry: &Registry, time: Option<Timestamp>, now: Duration) {
        let Some(time) = time else {
            self.set(Deadline::Timetable, None);
            // Should this fail, the alarm is one for nothing.
            let _ = self.alarm.disarm();
            return;
        };
        let alarm = self.alarm.get(registry, ALARM, TimerfdClockId::Realtime);
        let watched = alarm.is_some_and(|fd| arm_at(fd, time).is_ok());
        // A clock that is set is noticed late then, and a time that comes is not.
        let left = Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default();
        self.set(Deadline::Timetable, (!watched).then(|| now.saturating_add(left.min(WITHOUT_ALARM))));
    }

    /// A timer has fired.
    pub(super) fn fired(&mut self, token: Token) {
        if token == ALARM {
            self.set(Deadline::Timetable, Some(Duration::ZERO));
        } else {
            self.armed = None;
        }
    }

    /// Has the poll end at the next deadline. Returns how long it may take at most, `most` and what
    /// the timer cannot do.
    pub(super) fn arm(&mut self, registry: &Registry, most: Option<Duration>, now: Duration) -> Option<Duration> {
        let next = self.times.into_iter().flatten().min();
        let unchanged = match (next, self.armed) {
            (next, armed) if next == armed => true,
            (None, Some(armed)) => armed <= now.saturating_add(NEAR),
            (Some(next), Some(armed)) => armed <= next && next <= now.saturating_add(NEAR) && armed > now,
            (Some(_), None) | (None, None) => false,
        };
        if unchanged {
            return most;
        }
        let Some(next) = next else {
            let _ = self.timer.disarm();
            self.armed = None;
            return most;
        };
        let left = next.saturating_sub(now);
        let timer = self.timer.get(registry, TIMER, TimerfdClockId::Monotonic);
        if timer.is_some_and(|fd| arm_in(fd, left).is_ok()) {
            self.armed = Some(next);
            return most;
        }
        // The poll takes milliseconds: a little late is right, a little early is a turn for nothing.
        Some(most.map_or(left, |most| most.min(left)))
    }
}

/// A timerfd that is made when it is first needed.
#[derive(Debug, Default)]
struct Timer {
    fd: Option<OwnedFd>,
    /// The system has refused to make one.
    refused: bool,
}

impl Timer {
    fn get(&mut self, registry: &Registry, token: Token, clock: TimerfdClockId) -> Option<&OwnedFd> {
        if self.fd.is_none() && !self.refused {
            let make = || -> io::Result<OwnedFd> {
                let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
                registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
                Ok(fd)
            };
            self.fd = make().ok();
            self.refused = self.fd.is_none();
        }
        self.fd.as_ref()
    }

    fn disarm(&self) -> Result<(), Errno> {
        self.fd.as_ref().map_or(Ok(()), |fd| settime(fd, TimerfdTimerFlags::empty(), 0, 0))
    }
}

/// Fires once, after `wait`.
fn arm_in(fd: &OwnedFd, wait: Duration) -> Result<(), Errno> {
    let wait = wait.max(Duration::from_nanos(1));
    settime(fd, TimerfdTimerFlags::empty(), wait.as_secs().try_into().unwrap_or(i64::MAX), wait.subsec_nanos().into())
}

/// Fires once, at a time of day, or when the clock is set.
fn arm_at(fd: &OwnedFd, time: Timestamp) -> Result<(), Errno> {
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    let arm = || settime(fd, flags, time.as_second(), time.subsec_nanosecond().into());
    match arm() {
        // The clock was set since: the timer says so once, unless it is read first.
        Err(Errno::CANCELED) => {
            let _ = rustix::io::read(fd, &mut [0; 8]);
            arm()
        }
        result => result,
    }
}

fn settime(fd: &OwnedFd, flags: TimerfdTimerFlags, tv_sec: i64, tv_nsec: i64) -> Result<(), Errno> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let once = Itimerspec { it_interval: never, it_value: Timespec { tv_sec, tv_nsec } };
    timerfd_settime(fd, flags, &once).map(drop)
}
