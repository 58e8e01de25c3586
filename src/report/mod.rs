//! What a run tells of itself.

use std::io::Write;

mod lines;
mod output;
mod progress;
mod reporter;
mod terminal;

pub use lines::{Lines, Target};
pub use progress::{Look, Progress, ProgressLine};
pub use reporter::{Reporter, Reports};

/// One line on stderr. That stderr may be closed or full changes nothing.
pub fn say(what: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("pcproxy: {what}\n").as_bytes());
}
