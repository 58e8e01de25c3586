//! An endpoint as the proxy's consumer.

use std::io;

use memchr::{memchr, memrchr};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::PIPE_BUF;

use super::{Endpoint, EndpointError, errno};
use crate::buffer::{Chunks, Fifo, Front, Splice};
use crate::flow::{Consumer, Downstream};
use crate::os::Kind;

/// The consumer: writes the front of the buffer to its endpoint.
#[derive(Debug)]
pub struct Sink {
    endpoint: Endpoint,
    ready: bool,
    delivered: u64,
    /// An error that the system reports only once, and that was met on another way.
    kept: Option<Errno>,
    finished: bool,
    /// The byte that ends a record, where no record may reach the endpoint in two writes that fits
    /// into one.
    whole: Option<u8>,
    /// The system sends full segments only.
    corked: bool,
}

/// From so many bytes in one step on, a connection carries bulk data.
const BULK: usize = 64 * 1024;

impl Sink {
    /// A consumer that is ready until it says otherwise.
    pub fn new(endpoint: Endpoint) -> Self {
        Sink { endpoint, ready: true, delivered: 0, kept: None, finished: false, whole: None, corked: false }
    }

    /// The same, for records that each end with the byte `end`: a pipe gets each in one write if it
    /// fits into `PIPE_BUF` bytes.
    #[must_use]
    pub fn of_records(mut self, end: u8) -> Self {
        self.whole = (self.endpoint.kind() == Kind::Pipe).then_some(end);
        self
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

    /// Bytes that were written, and that the peer of a connection of our own has not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.endpoint.receipt.as_ref().map_or(0, |receipt| receipt.missing(&self.endpoint, self.delivered))
    }

    /// Whether the endpoint, which has reported an error or a hang-up, takes no more bytes and
    /// acknowledges none. A peer that has ended its own side may go on reading.
    pub fn has_gone(&self) -> bool {
        let receipt = self.endpoint.receipt.as_ref();
        receipt.is_none_or(|receipt| receipt.is_closed(&self.endpoint)) && !self.is_finished()
    }

    /// Everything is written, and the peer of a connection has yet to acknowledge it.
    pub fn is_settling(&self) -> bool {
        self.finished && self.unacknowledged() > 0
    }

    /// Takes note of an error of the endpoint: the next write fails with it.
    pub fn keep_error(&mut self, error: Errno) {
        self.kept = Some(error);
    }

    /// Writes what goes of `memory` without waiting, from `at` bytes behind its front on and at most
    /// `limit` bytes, and neither counts nor consumes it. Where records are to stay whole, `limit` must
    /// not end within one that fits into a write.
    pub(super) fn write_some(&mut self, memory: &Chunks, at: usize, limit: usize) -> Result<usize, Errno> {
        let held = memory.readable_from(at);
        let more = held.len() < limit;
        let held = &held[..held.len().min(limit)];
        let mut copy = [0; PIPE_BUF];
        let piece = match self.whole {
            None => held,
            Some(end) => {
                let piece = whole_records(held, end);
                // A record may begin at the end of one chunk and go on in the next.
                let goes_on = more && piece.len() == held.len() && held.len() < PIPE_BUF;
                if goes_on && held.last() != Some(&end) {
                    let held = memory.peek(at, &mut copy[..limit.min(PIPE_BUF)]);
                    whole_records(&copy[..held], end)
                } else {
                    piece
                }
            }
        };
        if piece.is_empty() { Ok(0) } else { self.endpoint.write(piece) }
    }

    /// The meaning of an error of a write: none, if the endpoint only takes no more for now.
    pub(super) fn after(&mut self, error: Errno) -> Option<EndpointError> {
        // Of an endpoint that cannot be waited for, EAGAIN is an error like any other.
        if error == Errno::AGAIN && !self.endpoint.is_always_ready() {
            self.ready = false;
            return None;
        }
        Some(self.failure(error))
    }

    /// Counts bytes that reached the endpoint another way.
    pub fn count(&mut self, moved: usize) {
        self.delivered += moved as u64;
        if moved >= BULK && !self.corked {
            self.corked = self.endpoint.cork(true);
        }
    }

    /// Whether the system holds back bulk data, as far as it does not fill a segment, although the
    /// endpoint could take more.
    ///
    /// Each step would otherwise end in a small segment of its own, and wake up the peer for that.
    pub fn holds_back(&self) -> bool {
        self.corked && self.ready
    }

    /// Has the system send what it [holds back](Self::holds_back).
    pub fn flush(&mut self) {
        if self.holds_back() {
            self.endpoint.cork(false);
            self.corked = false;
        }
    }

    /// Why the endpoint, which has reported an error or a hang-up, takes no more bytes: the
    /// error that a write would get.
    pub fn departure(&self) -> EndpointError {
        let error = match (self.kept, self.endpoint.kind()) {
            (Some(error), _) => error,
            (None, Kind::Terminal) => Errno::IO,
            (None, Kind::Socket) => match rustix::net::sockopt::socket_error(&self.endpoint) {
                Ok(Err(error)) | Err(error) => error,
                Ok(Ok(())) => Errno::PIPE,
            },
            _ => Errno::PIPE,
        };
        self.failure(error)
    }

    /// An error of the endpoint, in words.
    fn failure(&self, error: Errno) -> EndpointError {
        // The end by SIGPIPE is for pipelines. A connection that breaks is an error.
        if error == Errno::PIPE && self.endpoint.is_own_socket() {
            return EndpointError::new(self.endpoint.label(), io::Error::other("the peer has closed the connection"));
        }
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
                let taken = self.write_some(memory, 0, limit)?;
                buffer.consume(taken);
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
        if let Some(error) = self.kept.take() {
            return Err(self.failure(error));
        }
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
                Err(error) if taken == 0 => return Err(self.failure(error)),
                // The bytes that were taken count first; the next write will fail again.
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    /// Passes the end on to the peer of a connection of our own, which may go on sending.
    fn finish(&mut self) {
        if !self.finished && self.endpoint.is_own_socket() {
            // A connection that is broken says so when its bytes are not acknowledged.
            let _ = rustix::net::shutdown(&self.endpoint, Shutdown::Write);
        }
        self.finished = true;
    }
}

impl Downstream<Fifo> for Sink {
    fn is_ready(&self, _held: usize) -> bool {
        self.ready
    }
    fn is_finished(&self) -> bool {
        self.finished && self.unacknowledged() == 0
    }
    fn delivered(&self) -> u64 {
        self.delivered
    }
}

/// The front of `held` for one write that tears no record: as many whole records as a pipe takes at
/// once, or one that is longer, or all if no record ends there.
fn whole_records(held: &[u8], end: u8) -> &[u8] {
    let most = held.len().min(PIPE_BUF);
    match memrchr(end, &held[..most]).or_else(|| memchr(end, &held[most..]).map(|at| most + at)) {
        Some(last) => &held[..=last],
        None => held,
    }
}
