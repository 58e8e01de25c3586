//! Services of the operating system, in our words. Nothing here knows what it is used for.

mod access;
pub mod clock;
pub mod closed;
mod ending;
mod memory;
mod process;
mod run_delay;
mod runtime_folder;
mod shared_file;
mod unnamed_file;

pub use access::{Access, Kind, SharedFd, is_refusal};
pub use ending::{block_all_signals, die_by, with_all_signals};
pub use memory::{MemoryLimit, memory_limit};
pub use process::Id;
pub(crate) use process::{Presence, lives, own_id, random};
pub use run_delay::RunDelay;
pub use runtime_folder::{FolderError, RuntimeFolder};
pub(crate) use shared_file::SharedFile;
pub use unnamed_file::{punch_hole, unnamed_file};
