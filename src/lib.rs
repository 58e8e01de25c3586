//! A finite buffer and a token bucket between a producer and a consumer.
//!
//! [`proxy::ProducerConsumerProxy`] is the rule: when to pause the producer, when to resume
//! it, what goes to the consumer. It knows no clock and no descriptor, and neither does
//! [`shaping`], by which it is slowed down. [`buffer`] holds the bytes, in pipes of the kernel's
//! and in memory. [`stream`] is the outside world, and [`event_loop`] joins them: it is what the
//! `pcproxy` program runs.
//!
//! Linux only: [`stream`] and [`buffer`] rest on splice and epoll.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod buffer;
mod clock;
pub mod config;
pub mod control;
pub mod event_loop;
pub mod group;
mod process;
pub mod proxy;
pub mod report;
pub mod runtime_folder;
pub mod shaping;
mod shared_file;
pub mod stream;
pub mod units;
