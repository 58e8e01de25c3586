//! How a process ends, and how another one begins.

use nix::sys::signal::{SigSet, Signal, raise};
use signal_hook::low_level::emulate_default_handler;

/// Runs `spawn` while no signal is blocked: a child inherits the mask, and would not hear them.
pub fn with_all_signals<R>(spawn: impl FnOnce() -> R) -> R {
    let before = SigSet::thread_get_mask();
    let unblocked = before.is_ok() && SigSet::empty().thread_set_mask().is_ok();
    let result = spawn();
    if let Ok(mask) = before
        && unblocked
    {
        let _ = mask.thread_set_mask();
    }
    result
}

/// Blocks all signals in this thread: they are for the thread that turns the poller.
pub fn block_all_signals() {
    let _ = SigSet::all().thread_block();
}

/// Ends the process as the signal would have, for the shell to see. Returns the exit status that
/// says the same, 128 and the number, should the process live on.
pub fn die_by(signal: i32) -> u8 {
    if let Ok(signal) = Signal::try_from(signal) {
        let mut set = SigSet::empty();
        set.add(signal);
        let _ = set.thread_unblock();
        let _ = raise(signal);
    }
    // Where it was handled or ignored until now, as Rust's runtime does with SIGPIPE.
    let _ = emulate_default_handler(signal);
    128u8.saturating_add(signal as u8)
}
