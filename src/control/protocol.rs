//! Requests to a run and its replies: JSON objects, one per line.

use serde::{Deserialize, Serialize};

use crate::stats::Status;
use crate::units::{RateChange, RateUnit};

/// The version of the protocol. It changes when a request changes its meaning or goes; a new
/// request leaves it as it is.
pub const VERSION: u32 = 1;

/// A request to a run, such as `{"do": "rate", "rate": 5242880}`. Each is answered by a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Reply with the status.
    // With braces: serde would not look for unknown fields otherwise.
    Stats {},
    /// Feed the consumer at this rate from now on, or as fast as it takes the bytes. A run that counts
    /// records takes the rate for records.
    Rate {
        /// Bytes, at least 1; `null` is no limit. It must not be left out.
        #[serde(deserialize_with = "Option::deserialize")]
        rate: Option<u64>,
        /// The rate is for so many seconds: 60 for a rate per minute. At least 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        seconds: u64,
        /// The unit in which rates are shown from now on; as before, if it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<RateUnit>,
    },
    /// Feed the consumer at a rate that is higher or lower by so much.
    ChangeRate {
        /// `{"percent": 10}`, or `{"amount": -1048576}` in bytes or records per second.
        by: RateChange,
    },
    /// Return to the latest timetable, or to the rate of the start if there was none.
    RateBack {},
    /// Feed the consumer as the time of day has it.
    Schedule {
        /// As with `--schedule`.
        timetable: String,
    },
    /// Feed the consumer nothing until told to resume. The buffer goes on filling.
    Pause {},
    /// Go on after a pause.
    Resume {},
    /// Hold at most so many bytes from now on. Bytes already in the buffer stay, even if they exceed
    /// the new size.
    Buffer {
        /// Bytes, at least 1.
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

/// The answer of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// The status once the request is done. Its rate and state are those of the time since this
    /// client asked before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why the request was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
