//! Whether stdin and stdout were open when the program started.
//!
//! Rust's runtime opens `/dev/null` over a closed descriptor before `main` runs, so that
//! `pcproxy >&-` would lose all its input without a word. Looking at the descriptor later
//! does not tell: others hand over a `/dev/null` that looks the same on purpose (Python's
//! `DEVNULL`). So we look before the runtime does.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Side;

static CLOSED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

#[ctor::ctor]
fn look() {
    for (side, closed) in [Side::Stdin, Side::Stdout].into_iter().zip(&CLOSED) {
        closed.store(rustix::io::fcntl_getfd(side.fd()).is_err(), Ordering::Relaxed);
    }
}

/// Whether the descriptor of `side` was closed when the program started.
pub fn was_closed(side: Side) -> bool {
    CLOSED[side as usize].load(Ordering::Relaxed)
}
