//! Seeing and steering runs from outside: a Unix socket for each, in the user's own folder.

mod client;
mod protocol;
mod server;

pub use client::{ControlError, Run, runs};
pub use protocol::{Reply, Request, VERSION};
pub use server::{Host, Server};

/// What the socket of a run is called after its pid.
pub(crate) const ENDING: &str = ".sock";
