//! A finite buffer and a token bucket between a producer and a consumer.
//!
//! [`flow::ProducerConsumerProxy`] is the rule: when to pause the producer, when to resume
//! it, what goes to the consumer. It knows no clock and no descriptor, and neither does
//! [`shaping`], by which it is slowed down. [`buffer`] holds the bytes, in pipes of the kernel's
//! and in memory. [`endpoint`] is the outside world, and [`transfer`] joins them: it is what the
//! `pcproxy` program runs.
//!
//! Linux only: [`endpoint`] and [`buffer`] rest on splice and epoll.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod budget;
pub mod buffer;
pub mod control;
pub mod endpoint;
pub mod flow;
pub mod os;
mod poller;
pub mod report;
pub mod shaping;
pub mod stats;
pub mod transfer;
pub mod units;
