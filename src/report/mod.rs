//! What a run tells of itself.

mod status;

pub use status::{State, Status, VERSION};
