//! What a run tells of itself.

use std::io::Write;

mod account;
mod lines;
mod output;
pub mod plot;
mod progress;
mod reporter;
mod show;
mod status;
mod terminal;
mod verdict;

pub use account::{Account, Cause, Facts, Interval};
pub use lines::{Lines, Target};
pub use progress::{Look, Progress, ProgressLine};
pub use reporter::{Reporter, Reports};
pub use show::{show_briefly, show_bytes, show_share, show_time};
pub use status::{State, Status, VERSION};
pub use verdict::{summary, verdict};

/// One line on stderr. That stderr may be closed or full changes nothing.
pub fn say(what: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("pcproxy: {what}\n").as_bytes());
}
