//! An endpoint as the proxy's consumer.

use rustix::io::Errno;

use super::{Endpoint, EndpointError, errno};
use crate::buffer::{Fifo, Front, Splice};
use crate::flow::{Consumer, Downstream};
use crate::os::Kind;

/// The consumer: writes the front of the buffer to its endpoint.
#[derive(Debug)]
pub struct Sink {
    endpoint: Endpoint,
    ready: bool,
    delivered: u64,
    finished: bool,
}

impl Sink {
    /// A consumer that is ready until it says otherwise.
    pub fn new(endpoint: Endpoint) -> Self {
        Sink { endpoint, ready: true, delivered: 0, finished: false }
    }

    /// The endpoint has become writable.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Where this consumer writes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Gives the endpoint back, to close it.
    pub fn into_endpoint(self) -> Endpoint {
        self.endpoint
    }

    /// Counts bytes that reached the endpoint another way.
    pub fn count(&mut self, moved: usize) {
        self.delivered += moved as u64;
    }

    /// Why the endpoint, which has reported an error or a hang-up, takes no more bytes: the
    /// error that a write would get.
    pub fn departure(&self) -> EndpointError {
        let error = match self.endpoint.kind() {
            Kind::Terminal => Errno::IO,
            Kind::Socket => match rustix::net::sockopt::socket_error(&self.endpoint) {
                Ok(Err(error)) | Err(error) => error,
                Ok(Ok(())) => Errno::PIPE,
            },
            _ => Errno::PIPE,
        };
        EndpointError::new(self.endpoint.label(), error)
    }

    fn write_front(&mut self, buffer: &mut Fifo, limit: usize) -> Result<usize, Errno> {
        match buffer.front().map_err(errno)? {
            Front::Pipe(pipe) => match pipe.splice_to(&self.endpoint, limit)? {
                Splice::Moved(moved) => Ok(moved),
                Splice::NotReady => Err(Errno::AGAIN),
                Splice::End => Ok(0),
                Splice::Refused => {
                    buffer.refuse_to_splice_out();
                    self.write_front(buffer, limit)
                }
            },
            Front::Memory(memory) => {
                let held = memory.readable();
                let taken = self.endpoint.write(&held[..held.len().min(limit)])?;
                memory.consume(taken);
                Ok(taken)
            }
        }
    }
}

impl Consumer<Fifo> for Sink {
    type Error = EndpointError;

    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}

    fn write(&mut self, buffer: &mut Fifo, limit: usize) -> Result<usize, EndpointError> {
        let mut taken = 0;
        while taken < limit {
            match self.write_front(buffer, limit - taken) {
                Ok(0) | Err(Errno::INTR) => break,
                Ok(moved) => {
                    taken += moved;
                    self.count(moved);
                }
                // Of an endpoint that cannot be waited for, this would be an error like any other.
                Err(Errno::AGAIN) if !self.endpoint.is_always_ready() => {
                    self.ready = false;
                    break;
                }
                Err(error) if taken == 0 => return Err(EndpointError::new(self.endpoint.label(), error)),
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

impl Downstream<Fifo> for Sink {
    fn is_ready(&self) -> bool {
        self.ready
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
    fn delivered(&self) -> u64 {
        self.delivered
    }
}
