//! The simplest buffer, and a producer whose attempts are given: the neighbours of flows in simulated
//! time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::iter::Cycle;

use pcproxy::buffer::{Buffer, Release, Witness};
use pcproxy::flow::{Fill, Producer, Upstream};

use super::byte_of_stream;

/// The simplest buffer.
#[derive(Default)]
pub struct Deque(pub VecDeque<u8>);

impl Buffer for Deque {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn append(&mut self, data: &[u8]) {
        self.0.extend(data);
    }
}

impl Release for Deque {
    fn release(&mut self, bytes: usize, witness: Option<Witness<'_, '_>>) -> usize {
        let released: Vec<u8> = self.0.drain(..bytes).collect();
        witness.into_iter().for_each(|witness| witness(&released));
        bytes
    }
}

/// How one attempt to read or write goes: so many bytes at most, and whether the side is
/// still ready afterwards. No byte and still ready is an attempt that was interrupted.
pub type Attempt = (usize, bool);

/// A consumer that takes bytes which were never in the buffer.
pub trait TakesPassed {
    fn take_passed(&mut self, byte: u8);
}

/// A producer of the stream up to `end`, or of a text.
pub struct Stream {
    attempts: Cycle<std::vec::IntoIter<Attempt>>,
    /// Bytes straight to the consumer, at each attempt.
    passes: Cycle<std::vec::IntoIter<Attempt>>,
    text: Option<Vec<u8>>,
    pub streaming: bool,
    end: usize,
    /// Where in the stream it is.
    pub at: usize,
    pub wanted: bool,
    pub ready: bool,
    pub stopped: bool,
}

impl Stream {
    /// The stream of [`byte_of_stream`] up to `end`.
    pub fn new(attempts: Vec<Attempt>, passes: Vec<Attempt>, streaming: bool, end: usize) -> Self {
        let (attempts, passes) = (attempts.into_iter().cycle(), passes.into_iter().cycle());
        let text = None;
        Stream { attempts, passes, text, streaming, end, at: 0, wanted: streaming, ready: true, stopped: false }
    }

    /// A push producer of `text`, of which nothing may go past the buffer.
    pub fn of_text(text: Vec<u8>, attempts: Vec<Attempt>) -> Self {
        let end = text.len();
        Stream { text: Some(text), ..Stream::new(attempts, Vec::new(), true, end) }
    }

    /// The next `len` bytes.
    pub fn next(&mut self, len: usize) -> Vec<u8> {
        let from = self.at;
        self.at += len;
        match &self.text {
            Some(text) => text[from..self.at].to_vec(),
            None => (from..self.at).map(byte_of_stream).collect(),
        }
    }

    fn attempt(&mut self, most: usize) -> usize {
        let (amount, ready) = self.attempts.next().expect("for ever");
        let moved = amount.min(most).min(self.end - self.at);
        self.ready = ready;
        // A pull producer has done what it was asked for.
        self.wanted &= self.streaming || moved == 0;
        moved
    }

    /// Puts the bytes of one attempt into the buffer.
    pub fn fill(&mut self, buffer: &mut impl Buffer, room: usize) -> Result<Fill, Infallible> {
        if self.at == self.end {
            return Ok(Fill::End);
        }
        let moved = self.attempt(room);
        buffer.append(&self.next(moved));
        Ok(Fill::Moved(moved))
    }
}

impl Producer for Stream {
    fn pause_producing(&mut self) {
        self.wanted = false;
    }
    fn resume_producing(&mut self) {
        self.wanted = true;
    }
    fn stop_producing(&mut self) {
        self.wanted = false;
        self.stopped = true;
    }
}

impl<C: TakesPassed, B: Buffer> Upstream<C, B> for Stream {
    type Error = Infallible;
    fn is_wanted(&self) -> bool {
        self.wanted
    }
    fn is_ready(&self) -> bool {
        self.ready
    }

    fn fill(&mut self, buffer: &mut B, room: usize) -> Result<Fill, Infallible> {
        Stream::fill(self, buffer, room)
    }

    fn pass(&mut self, consumer: &mut C, limit: usize) -> usize {
        let (amount, _) = self.passes.next().expect("something may go past the buffer");
        let moved = amount.min(limit).min(self.end - self.at);
        self.next(moved).into_iter().for_each(|byte| consumer.take_passed(byte));
        self.wanted &= self.streaming || moved == 0;
        moved
    }
}
