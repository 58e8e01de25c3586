//! Whether stdin and stdout were open when the program started.
//!
//! Rust's runtime opens `/dev/null` over a closed descriptor before `main` runs, so that
//! `pcproxy >&-` would lose all its input without a word. Looking at the descriptor later
//! does not tell: others hand over a `/dev/null` that looks the same on purpose (Python's
//! `DEVNULL`). So the program calls [`look`] before the runtime does that.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::fcntl_getfd;

static CLOSED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

/// Takes note of which descriptors are closed. To be called before Rust's runtime starts; a
/// program that does not call it takes all of them for open.
pub fn look() {
    for (fd, closed) in [rustix::stdio::stdin(), rustix::stdio::stdout()].into_iter().zip(&CLOSED) {
        closed.store(fcntl_getfd(fd).is_err(), Ordering::Relaxed);
    }
}

/// Whether stdin (0) or stdout (1) was closed when [`look`] was called.
///
/// # Panics
/// If `number` is neither.
pub fn was_closed(number: usize) -> bool {
    CLOSED[number].load(Ordering::Relaxed)
}
