//! The status of a run, made as a run makes it. The tests of the binary use this file as well.

use std::time::Duration;

use pcproxy::stats::{Account, Facts, Interval, State, Status};

const MIB: u64 = 1 << 20;

/// The status of a run with a buffer of 1 MiB and without a limit, that for so many seconds has
/// moved 10 MiB per second.
pub fn status(elapsed: f64) -> Status {
    let elapsed = Duration::from_secs_f64(elapsed);
    let facts = Facts::default();
    let status = Account::new(Duration::ZERO, 1 << 20).status(elapsed, &mut Interval::default(), &facts);
    let rate = 10.0 * MIB as f64;
    Status {
        state: State::Flowing,
        bytes: (rate * elapsed.as_secs_f64()) as u64,
        rate,
        mean_rate: rate,
        peak_rate: rate,
        buffered: 32 << 10,
        peak_buffered: 48 << 10,
        ..status
    }
}
