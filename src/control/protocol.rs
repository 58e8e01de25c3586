//! What is said over the socket: a JSON object a line, a request to the run and its reply.

use serde::{Deserialize, Serialize};

use crate::stats::Status;

/// The version of the protocol. It changes when a request changes its meaning or goes; a new
/// request leaves it as it is.
pub const VERSION: u32 = 1;

/// What a run can be asked, as `{"do": "rate", "rate": 5242880}`. Each is answered by a
/// [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Say how things are.
    // With braces: serde would not look for unknown fields otherwise.
    Stats {},
    /// Feed the consumer so many bytes per second from now on, or as fast as it takes them. A run
    /// that counts records takes them for records.
    Rate {
        /// At least 1; `null` is no limit. It must not be left out.
        #[serde(deserialize_with = "Option::deserialize")]
        rate: Option<u64>,
        /// The rate is for so many seconds: 60 for a rate per minute. At least 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        seconds: u64,
    },
    /// Feed the consumer nothing until told to resume. The buffer goes on filling.
    Pause {},
    /// Go on after a pause.
    Resume {},
    /// Hold at most so many bytes from now on. What is held stays, though it be more.
    Buffer {
        /// At least 1.
        size: u64,
    },
    /// End the input, deliver what is held, and end.
    Stop {},
}

fn one() -> u64 {
    1
}

fn is_one(seconds: &u64) -> bool {
    *seconds == 1
}

/// What a run answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// How things are once the request is done. Its rate and state are those of the time since
    /// this client asked before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why the request was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
