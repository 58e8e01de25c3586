//! The reports of a run: the progress line, records, messages.

mod lines;
mod message;
mod numeric;
mod output;
mod progress;
mod progress_line;
mod reporter;
mod terminal;

pub use lines::{Lines, Target};
pub use message::{say, tell};
pub use progress::{Look, Progress};
pub use progress_line::ProgressLine;
pub use reporter::{Reporter, Reports, Show};
