//! What the tests share: descriptors of every kind, bytes whose place shows, a producer and a buffer in
//! simulated time, a `pcproxy` that is
//! watched while it runs, the session of a user, and a terminal.
//!
//! Nothing here waits for time to pass. A test waits for the thing itself: for bytes, for the
//! end of the process, or with [`Running::settle`] for the process to have nothing left to do.
//! Nothing depends on how the tests were started either: see [`running::pcproxy`].

// Each test file uses its own part of this.
#![allow(dead_code, unused_imports)]

pub mod descriptors;
pub mod flow;
pub mod running;
pub mod session;
pub mod status;
pub mod stream;
pub mod terminal;

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use proptest::test_runner::Config;

pub use descriptors::{Ends, Kind, Side, connection, input_pipe, set_nonblocking, unread, unsent};
pub use flow::{Attempt, Deque, Stream, TakesPassed};
pub use running::{End, Running, pcproxy, shell, start, start_command, start_in_shell};
pub use session::Session;
pub use stream::{assert_arrived, byte_of_stream, feed, payload, read_exactly, read_to_end};
pub use terminal::Screen;

pub const KIB: usize = 1024;

/// After this a test that waits has failed. No test gets near it unless something hangs.
const WATCHDOG: Duration = Duration::from_secs(30);

/// So many random cases for each property. A case that fails is printed, and stored nowhere.
pub fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// As many random cases for each property as proptest thinks right.
pub fn config() -> Config {
    cases(Config::default().cases)
}

/// Whether this machine has a program that the test at hand cannot do without. Where it is
/// missing, that is said even if the output of tests is captured; with the environment variable
/// CI set, the test fails.
#[track_caller]
pub fn needs(program: &str) -> bool {
    // Servers are often not in the search path of users.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    if folders.map(|folder| folder.join(program)).any(|file| file.is_file()) {
        return true;
    }
    let test = thread::current().name().unwrap_or_default().to_owned();
    assert!(std::env::var_os("CI").is_none(), "{test} needs {program}, which is missing");
    // `eprintln!` would be captured.
    let _ = io::stderr().write_all(format!("skipped: {test} needs {program}, which is missing\n").as_bytes());
    false
}

/// Asks again and again whether `done`, and lets others run in between.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WATCHDOG, "waited too long for {what}");
        thread::yield_now();
    }
}
