//! What the benchmark programs share: start processes, watch them, and print tables.

// Each program uses its own part of it.
#![allow(dead_code, unused_imports)]

pub mod contestant;
pub mod curve;
pub mod meter;
pub mod options;
pub mod proc;
pub mod roles;
pub mod stage;
pub mod stats;
pub mod table;
pub mod trips;
pub mod verdict;

pub use contestant::{Contestant, find, found, interleaved};
pub use options::{Options, Set, main_with};
pub use stage::Stage;
pub use table::{Comparison, Table};

/// `1K`, `1M` and `1G` as pcproxy, pv and mbuffer read them.
pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
