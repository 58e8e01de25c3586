//! What holds of inputs and outputs alike.

use std::fmt;

use super::Config;
use crate::endpoint::{Address, Endpoint, EndpointError};

/// News of the ends of a direction, for the user.
#[derive(Debug)]
pub(super) enum Notice {
    /// An input could not be read to its end. The others go on.
    Failed(EndpointError),
    /// Something that went as it should.
    Says(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Failed(error) => error.fmt(f),
            Notice::Says(what) => f.write_str(what),
        }
    }
}

/// Device and inode of all outputs and inputs that have them.
pub(super) fn identities(config: &Config, outputs: &[Endpoint]) -> Vec<(u64, u64)> {
    let inputs = config.inputs.iter().filter_map(|address| match address {
        Address::File(path) => rustix::fs::stat(path).ok(),
        Address::Standard => rustix::fs::fstat(rustix::stdio::stdin()).ok(),
        _ => None,
    });
    let outputs = outputs.iter().filter_map(|output| rustix::fs::fstat(output).ok());
    outputs.chain(inputs).map(|stat| (stat.st_dev, stat.st_ino)).collect()
}
