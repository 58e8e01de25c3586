//! Messages on stderr from outside of a run: each is one line.

use std::fmt::Display;
use std::io::{Write, stderr};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::output::Output;
use crate::units::printable;

/// How long this process waits, all its messages together, for a stderr that takes nothing. A
/// terminal or reader that works takes a message at once. One that is stopped (Ctrl-S) or full must
/// not hold up the end of the process.
const PATIENCE: Duration = Duration::from_millis(500);

/// The rest of [`PATIENCE`].
static LEFT: Mutex<Duration> = Mutex::new(PATIENCE);

/// A message as it is printed: one line, whatever the names and paths in it hold.
pub(super) fn message(what: impl Display) -> String {
    format!("pcproxy: {}\n", printable(&what.to_string()))
}

/// Writes `pcproxy: `, the message and a line feed to stderr. If stderr is closed, full or stopped,
/// the message is lost after a short wait, and nothing else changes.
pub fn say(what: impl Display) {
    tell(&message(what));
}

/// The same for a text of several lines, such as a usage.
pub fn tell(text: &str) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    let start = Instant::now();
    match stderr().as_fd().try_clone_to_owned().and_then(Output::new) {
        Ok(mut output) => output.write_within(text.as_bytes(), *left),
        // No descriptor is left, or stderr is closed. A terminal with room for a few bytes may
        // take longer than `poll` promises.
        Err(_) => {
            let wait = Timespec::try_from(*left).unwrap_or_default();
            if poll(&mut [PollFd::new(&stderr(), PollFlags::OUT)], Some(&wait)) == Ok(1) {
                let _ = stderr().write_all(text.as_bytes());
            }
        }
    }
    *left = left.saturating_sub(start.elapsed());
}
