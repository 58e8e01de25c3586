//! What time it is, for all processes of this machine alike.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine was started. It never goes back, and stands still while the machine
/// is suspended.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Which start of the machine [`now`] counts from. All the same where that cannot be told.
pub fn boot() -> u128 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&id.trim().replace('-', ""), 16).unwrap_or_default()
}
