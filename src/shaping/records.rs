//! The price of bytes and records in tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::{show_rate, show_record_rate};

/// Tokens for one record. Rates in records per second, per minute and per hour are all whole
/// numbers of such tokens per second.
pub const TOKENS_PER_RECORD: u64 = 3600;

/// The unit of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A token buys a byte.
    #[default]
    Bytes,
    /// [`TOKENS_PER_RECORD`] tokens buy a record, however long it is.
    Records,
}

/// The contents of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes.
    pub bytes: usize,
    /// Ends of records among them.
    pub ends: u64,
    /// Part of the first record has left already, and has been paid for.
    pub begun: bool,
    /// Bytes behind the last end.
    pub tail: usize,
    /// No end can come before bytes have left: the input has ended, or a buffer without one is full.
    pub last: bool,
}

/// How far bytes may leave a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// So many bytes.
    Bytes(usize),
    /// All bytes up to the end of so many records.
    Ends(u64),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Bytes => "bytes",
            Unit::Records => "records",
        })
    }
}

impl Unit {
    /// A rate of so many tokens per second, for people: `1 MiB/s`, `5/s`.
    pub fn show_rate(self, tokens: f64) -> String {
        match self {
            Unit::Bytes => show_rate(tokens),
            Unit::Records => show_record_rate(tokens / TOKENS_PER_RECORD as f64),
        }
    }

    /// Tokens for one of what is counted.
    pub const fn tokens(self) -> u64 {
        match self {
            Unit::Bytes => 1,
            Unit::Records => TOKENS_PER_RECORD,
        }
    }

    /// The tokens that it takes for all bytes that may leave; none if no byte may leave at all.
    ///
    /// A record leaves when its end is there. It leaves in pieces, and costs as much as any other,
    /// if it is longer than the buffer. What follows the last end leaves when the input has ended.
    pub fn price(self, held: &Held) -> Option<u64> {
        match self {
            Unit::Bytes => (held.bytes > 0).then_some(held.bytes as u64),
            Unit::Records => match held.pieces() {
                0 => None,
                pieces => Some((pieces - u64::from(held.begun)).saturating_mul(TOKENS_PER_RECORD)),
            },
        }
    }

    /// How far bytes may leave for so many tokens, of which fewer than the price may be used.
    pub fn cut(self, held: &Held, tokens: u64) -> Cut {
        match self {
            Unit::Bytes => Cut::Bytes(held.bytes.min(tokens.try_into().unwrap_or(usize::MAX))),
            Unit::Records => match (tokens / TOKENS_PER_RECORD).saturating_add(u64::from(held.begun)) {
                pieces if pieces < held.pieces() => Cut::Ends(pieces),
                _ if held.tail_may_leave() => Cut::Bytes(held.bytes),
                _ => Cut::Bytes(held.bytes - held.tail),
            },
        }
    }

    /// The tokens that were used while bytes left, and none came.
    pub fn used(self, before: &Held, after: &Held) -> u64 {
        match self {
            Unit::Bytes => (before.bytes - after.bytes) as u64,
            Unit::Records => {
                let ended = before.ends - after.ends;
                (ended + u64::from(after.begun) - u64::from(before.begun)).saturating_mul(TOKENS_PER_RECORD)
            }
        }
    }
}

impl Held {
    /// Records of which bytes may leave.
    fn pieces(&self) -> u64 {
        self.ends + u64::from(self.tail_may_leave())
    }

    /// Whether bytes behind the last end may leave: no end will come, or the record passes in
    /// pieces.
    fn tail_may_leave(&self) -> bool {
        self.tail > 0 && (self.last || (self.begun && self.ends == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bytes: usize, ends: u64, begun: bool, tail: usize, last: bool) -> Held {
        Held { bytes, ends, begun, tail, last }
    }

    const ONE: u64 = TOKENS_PER_RECORD;

    #[test]
    fn a_record_without_its_end_waits_for_it() {
        let record = held(5, 0, false, 5, false);
        assert_eq!(Unit::Records.price(&record), None);
        let ended = Held { last: true, ..record };
        assert_eq!((Unit::Records.price(&ended), Unit::Records.cut(&ended, ONE)), (Some(ONE), Cut::Bytes(5)));
    }

    #[test]
    fn the_rest_of_a_record_that_has_begun_is_free() {
        let rest = held(5, 0, true, 5, false);
        assert_eq!((Unit::Records.price(&rest), Unit::Records.cut(&rest, 0)), (Some(0), Cut::Bytes(5)));
        let and_more = held(50, 3, true, 5, false);
        assert_eq!((Unit::Records.price(&and_more), Unit::Records.cut(&and_more, ONE)), (Some(2 * ONE), Cut::Ends(2)));
        assert_eq!(Unit::Records.cut(&and_more, 2 * ONE), Cut::Bytes(45));
    }

    #[test]
    fn parts_of_a_record_are_not_sold() {
        let three = held(30, 3, false, 0, false);
        assert_eq!(Unit::Records.cut(&three, 2 * ONE - 1), Cut::Ends(1));
        assert_eq!(Unit::Records.used(&three, &held(25, 3, true, 0, false)), ONE);
        assert_eq!(Unit::Records.used(&held(25, 3, true, 0, false), &held(10, 1, false, 0, false)), ONE);
    }
}
