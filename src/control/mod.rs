//! Seeing and steering runs from outside: each run has a Unix socket in the user's runtime folder.

mod client;
mod protocol;
mod server;
mod socket;

pub use client::{ControlError, Run, RunId, ask, runs};
pub use protocol::{Reply, Request, VERSION};
pub use server::{Host, Server};
