//! stdout as the proxy's consumer.

use rustix::io::Errno;

use super::{Descriptor, Kind, StreamError};
use crate::buffer::{Fifo, Front, Splice};
use crate::flow::Consumer;

/// The consumer: writes the front of the buffer to its descriptor.
#[derive(Debug)]
pub struct Sink {
    descriptor: Descriptor,
    ready: bool,
    delivered: u64,
    finished: bool,
}

impl Sink {
    /// A consumer that is ready until it says otherwise.
    pub fn new(descriptor: Descriptor) -> Self {
        Sink { descriptor, ready: true, delivered: 0, finished: false }
    }

    /// The descriptor may take bytes.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The descriptor has become writable.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Where this consumer writes.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Bytes written since the beginning.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Counts bytes that reached the descriptor another way.
    pub fn count(&mut self, moved: usize) {
        self.delivered += moved as u64;
    }

    /// The last byte is out, and no more will come.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Why the descriptor, which has reported an error or a hang-up, takes no more bytes: the
    /// error that a write would get.
    pub fn departure(&self) -> StreamError {
        let error = match self.descriptor.kind() {
            Kind::Terminal => Errno::IO,
            Kind::Socket => match rustix::net::sockopt::socket_error(&self.descriptor) {
                Ok(Err(error)) | Err(error) => error,
                Ok(Ok(())) => Errno::PIPE,
            },
            _ => Errno::PIPE,
        };
        StreamError::new(self.descriptor.side(), error)
    }

    /// Whether splicing to this descriptor never waits for another process.
    pub fn splices(descriptor: &Descriptor) -> bool {
        // A splice to a blocking socket waits for room for all of it.
        descriptor.kind() == Kind::Pipe || (descriptor.is_always_ready() && !descriptor.appends())
    }

    fn write_front(&mut self, buffer: &mut Fifo, limit: usize) -> Result<usize, Errno> {
        match buffer.front() {
            Front::Pipe(pipe) => match pipe.splice_to(&self.descriptor, limit)? {
                Splice::Moved(moved) => Ok(moved),
                Splice::NotReady => Err(Errno::AGAIN),
                Splice::End => Ok(0),
                Splice::Refused => {
                    buffer.give_up_splicing().map_err(|_| Errno::NOMEM)?;
                    self.write_front(buffer, limit)
                }
            },
            Front::Memory(memory) => {
                let held = memory.readable();
                let taken = self.descriptor.write(&held[..held.len().min(limit)])?;
                memory.consume(taken);
                Ok(taken)
            }
        }
    }
}

impl Consumer<Fifo> for Sink {
    type Error = StreamError;

    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}

    fn write(&mut self, buffer: &mut Fifo, limit: usize) -> Result<usize, StreamError> {
        let mut taken = 0;
        while taken < limit {
            match self.write_front(buffer, limit - taken) {
                Ok(0) | Err(Errno::INTR) => break,
                Ok(moved) => {
                    taken += moved;
                    self.count(moved);
                }
                // Of what cannot be waited for, this would be an error like any other.
                Err(Errno::AGAIN) if !self.descriptor.is_always_ready() => {
                    self.ready = false;
                    break;
                }
                Err(error) if taken == 0 => return Err(StreamError::new(self.descriptor.side(), error)),
                // What was taken counts first; the next write will fail again.
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    fn finish(&mut self) {
        self.finished = true;
    }
}
