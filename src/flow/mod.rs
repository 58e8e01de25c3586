//! One direction of bytes: the state machine that pauses and resumes, and what it does next.

mod proxy;

pub use proxy::{Consumer, Producer, ProducerConsumerProxy, ProducerRegistered, Watermarks};
