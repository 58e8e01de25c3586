//! What a run tells of itself.

mod lines;
mod message;
mod output;
mod progress;
mod reporter;
mod terminal;

pub use lines::{Lines, Target};
pub use message::{say, tell};
pub use progress::{Look, Progress, ProgressLine};
pub use reporter::{Reporter, Reports};
