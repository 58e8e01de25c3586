//! What a member and a ledger say to each other.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use super::{Budget, Terms};
use crate::os::Id;

/// A message from a member to a ledger: what became of the tokens it had, and how many it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which member asks. A ledger that does not know it lets it in.
    pub id: Id,
    /// On which terms it shares.
    pub terms: Terms,
    /// Bytes of earlier answers that it has not used and will not use.
    pub give_back: u64,
    /// Bytes that it has used since it joined.
    pub used: u64,
    /// The most bytes that it has a use for now.
    pub want: u64,
    /// The time of asking.
    pub now: Duration,
    /// How long the machine has kept the member from using tokens since its latest ask. The ledger
    /// makes up for it from tokens that overflowed meanwhile.
    pub late: Duration,
}

/// What a ledger grants, and how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes granted; `u64::MAX` is no limit at all.
    pub bytes: u64,
    /// They may be used before this time. What is left then must be given back.
    pub expires: Duration,
    /// When to ask again, if more is wanted.
    pub ask_again: Duration,
    /// Bytes that asking again is guaranteed to yield eventually.
    pub quantum: u64,
    /// The limit of the group in bytes per second, if it has one.
    pub rate: Option<u64>,
}

/// What comes of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<E> {
    /// The ledger has taken note of the ask and answers it.
    Answer(Answer),
    /// The ledger cannot answer yet: another member is at it, or the answer is under way. It has
    /// taken no note of the ask. The member keeps what it holds and asks anew.
    Pending {
        /// The earliest time to ask anew.
        retry_at: Duration,
    },
    /// The ledger cannot be used. It has taken no note of the ask.
    Failed {
        /// Why, for the user.
        error: E,
        /// The earliest time to ask anew.
        retry_at: Duration,
    },
}

/// How fast the conversation with a ledger goes. Each ledger has its own: memory answers at once,
/// a file may be locked, an answer across a network is under way for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tempo {
    /// How long tokens may be used once they are granted. Later they count as not taken:
    /// otherwise those that idle members keep in hand would add up to a burst beyond the group's.
    /// This is part of the promise: in t seconds at most `burst + rate * (t + use_within)` bytes.
    pub use_within: Duration,
    /// How soon to ask anew where the ledger cannot answer yet.
    pub retry_pending: Duration,
    /// How soon to ask anew where the ledger cannot be used.
    pub retry_failed: Duration,
}

impl Tempo {
    /// The tempo of a ledger on this machine. Where many members are, those that find it busy must
    /// not keep each other from the processor.
    pub const LOCAL: Tempo = Tempo {
        use_within: Duration::from_millis(3),
        retry_pending: Duration::from_millis(1),
        retry_failed: Duration::from_millis(50),
    };

    /// How soon to ask anew where another of so many members is at it. In a crowd, members that came
    /// back at once would keep each other, and the one that is at it, from the processor: a tenth of
    /// the time between two visits costs them little.
    pub fn retry_among(&self, members: usize) -> Duration {
        self.retry_pending.max(AMONG * members.try_into().unwrap_or(u32::MAX))
    }
}

/// The time to leave to each other member before asking anew.
const AMONG: Duration = Duration::from_micros(50);

/// Where members keep the budget they share. It answers one ask at a time, and never waits for
/// long to do so.
pub trait Ledger {
    /// Why the budget could not be read or written.
    type Error: Debug;

    /// Answers an ask, or says when to ask anew.
    fn ask(&mut self, ask: &Ask) -> Reply<Self::Error>;

    /// A member leaves that has used so many bytes since it joined, and will use no more.
    fn leave(&mut self, _id: Id, _used: u64) {}

    /// What the user has to know though members get what they ask for, in a line.
    fn notice(&self) -> Option<&str> {
        None
    }
}

/// A budget in memory, for members in one process.
impl Ledger for Rc<RefCell<Budget>> {
    type Error = Infallible;

    fn ask(&mut self, ask: &Ask) -> Reply<Infallible> {
        Reply::Answer(self.borrow_mut().answer(ask, Tempo::LOCAL.use_within))
    }
}
