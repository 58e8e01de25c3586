//! Figures that a run keeps about itself. Pure: time comes in as an argument.

mod account;
mod eta;
mod status;
mod verdict;

pub use account::{Account, Cause, Facts, Interval, RecordFacts};
pub use status::{Ending, FlowStatus, Hash, RecordKind, RecordStatus, State, Status, VERSION};
pub use verdict::{summary, verdict};
