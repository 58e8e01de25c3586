//! The time, for all processes that share a folder.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine was started. It never goes back, and does not run while the machine is
/// suspended. In a time namespace it may count from another origin.
pub fn now() -> Duration {
    read(ClockId::Monotonic)
}

/// The same, but it goes on while the machine is suspended.
pub(crate) fn boot_time() -> Duration {
    read(ClockId::Boottime)
}

/// Time since 1970. All time namespaces share it, but people set it.
pub(crate) fn wall() -> Duration {
    read(ClockId::Realtime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The origin of [`now`]. Unknown parts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The start of the machine.
    pub(crate) boot: u128,
    /// The time namespace.
    pub(crate) namespace: u64,
}

impl Origin {
    /// The origin of this process.
    pub(crate) fn own() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // An older kernel has no time namespaces, so all processes are in the same one.
        let namespace = match rustix::fs::stat("/proc/self/ns/time") {
            Ok(found) => found.st_ino,
            Err(_) if rustix::fs::stat("/proc/self/ns").is_ok() => 1,
            Err(_) => 0,
        };
        Origin { boot: u128::from_str_radix(&boot.trim().replace('-', ""), 16).unwrap_or_default(), namespace }
    }
}

/// A moment as a process saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) origin: Origin,
    /// [`now`]
    pub(crate) monotonic: Duration,
    /// [`wall`]
    pub(crate) wall: Duration,
}

/// How the times of an earlier moment are to be read at a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// They count from the same origin.
    Comparable,
    /// They count from another origin. The earlier moment is this time here.
    Foreign(Duration),
    /// The machine has been started since.
    LongAgo,
}

impl Moment {
    /// This moment, for a process whose times count from `origin`.
    pub(crate) fn now(origin: Origin) -> Self {
        Moment { origin, monotonic: now(), wall: wall() }
    }

    /// How to read the times of an `earlier` moment at this one. Times from different origins are
    /// compared by the wall clock: if that was set in between, a time may be off by as much, but
    /// never lies in the future.
    pub(crate) fn reads(&self, earlier: &Moment) -> Earlier {
        let known = |origin: Origin| origin.boot != 0 && origin.namespace != 0;
        if self.origin == earlier.origin && known(self.origin) {
            Earlier::Comparable
        } else if self.origin.boot != earlier.origin.boot && self.origin.boot != 0 && earlier.origin.boot != 0 {
            Earlier::LongAgo
        } else {
            Earlier::Foreign(self.monotonic.saturating_sub(self.wall.saturating_sub(earlier.wall)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_another_namespace_are_recognized_and_compared_by_the_wall_clock() {
        let at = Duration::from_secs;
        let moment = |boot, namespace, monotonic, wall| Moment {
            origin: Origin { boot, namespace },
            monotonic: at(monotonic),
            wall: at(wall),
        };
        let here = moment(1, 2, 100, 1000);
        assert_eq!(here.reads(&moment(1, 2, 90, 990)), Earlier::Comparable);
        assert_eq!(here.reads(&moment(1, 3, 5090, 990)), Earlier::Foreign(at(90)));
        assert_eq!(here.reads(&moment(7, 2, 90, 990)), Earlier::LongAgo);
        // Without /proc neither is known.
        assert_eq!(here.reads(&moment(0, 0, 5090, 990)), Earlier::Foreign(at(90)));
        assert_eq!(moment(0, 0, 100, 1000).reads(&moment(0, 0, 90, 990)), Earlier::Foreign(at(90)));
        // The wall clock was set back, or forward by years.
        assert_eq!(here.reads(&moment(1, 3, 5090, 4000)), Earlier::Foreign(at(100)));
        assert_eq!(here.reads(&moment(1, 3, 5090, 0)), Earlier::Foreign(at(0)));
    }
}
