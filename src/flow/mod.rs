//! One direction of bytes: the state machine that pauses and resumes, and what it does next.
//! There is no clock and no descriptor here.

mod fanout;
mod proxy;
mod stall;
mod start;
mod step;

pub use fanout::{Branch, Fanout};
pub use proxy::{Consumer, Producer, ProducerConsumerProxy, ProducerRegistered, Watermarks};
pub use stall::{Side, StallClock, Watch};
pub use start::StartMark;
pub use step::{Downstream, Fill, Flow, Needs, Upstream};
