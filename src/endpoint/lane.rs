//! An endpoint as one of several consumers of a buffer.

use rustix::io::Errno;

use super::{EndpointError, Sink, errno};
use crate::buffer::{Fifo, KernelPipe, Piece, Splice};
use crate::flow::{Branch, Downstream};
use crate::os::Kind;

/// One of several outputs. Bytes that are held in pipes go to it by reference, as to the others
/// (`tee`): straight to a pipe, and to everything else by way of a pipe of its own.
#[derive(Debug)]
pub struct Lane {
    id: usize,
    sink: Sink,
    splices: bool,
    /// References to bytes of the buffer, from where this output stands in it. The bytes are
    /// still in the buffer: nothing is lost if this pipe is.
    pipe: Option<KernelPipe>,
}

impl Lane {
    /// Room for as many bytes by reference as a pipe of the buffer may hold.
    const PIPE: usize = 1 << 20;

    /// One of several outputs, the `id`-th.
    pub fn new(id: usize, sink: Sink) -> Self {
        Lane { id, sink, splices: true, pipe: None }
    }

    /// Which of the outputs this is.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Its endpoint as a consumer.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Its endpoint as a consumer, to tell it of readiness.
    pub fn sink_mut(&mut self) -> &mut Sink {
        &mut self.sink
    }

    /// Gives its endpoint back.
    pub fn into_sink(self) -> Sink {
        self.sink
    }

    /// Takes one piece.
    fn take_piece(&mut self, buffer: &mut Fifo, at: usize, limit: usize) -> Result<usize, Errno> {
        if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            let spliced = pipe.splice_to(self.sink.endpoint(), limit.min(pipe.len()))?;
            return self.came_to(spliced, buffer, at, limit);
        }
        match buffer.piece(at).map_err(errno)? {
            Piece::Buried => Ok(0),
            Piece::Memory(memory, at) => self.sink.write_some(memory, at, limit),
            Piece::Pipe(_) if !self.splices => self.copy(buffer, at, limit),
            Piece::Pipe(pipe) if self.sink.endpoint().kind() == Kind::Pipe => {
                let spliced = pipe.tee_to(self.sink.endpoint(), limit)?;
                self.came_to(spliced, buffer, at, limit)
            }
            Piece::Pipe(pipe) => {
                if self.pipe.is_none() {
                    self.pipe = KernelPipe::new(Self::PIPE).ok();
                }
                let teed = self.pipe.as_mut().map(|own| pipe.tee_into(own, limit)).transpose()?;
                match teed {
                    Some(Splice::Moved(1..)) => self.take_piece(buffer, at, limit),
                    _ => self.copy(buffer, at, limit),
                }
            }
        }
    }

    /// An attempt to hand on bytes by reference came to this.
    fn came_to(&mut self, spliced: Splice, buffer: &mut Fifo, at: usize, limit: usize) -> Result<usize, Errno> {
        match spliced {
            Splice::Moved(moved) => Ok(moved),
            Splice::NotReady => Err(Errno::AGAIN),
            Splice::End => Ok(0),
            Splice::Refused => self.copy(buffer, at, limit),
        }
    }

    /// Takes a piece by copying it, now and from now on.
    fn copy(&mut self, buffer: &mut Fifo, at: usize, limit: usize) -> Result<usize, Errno> {
        (self.splices, self.pipe) = (false, None);
        buffer.refuse_to_splice_out();
        match buffer.piece(at).map_err(errno)? {
            Piece::Memory(memory, at) => self.sink.write_some(memory, at, limit),
            _ => Ok(0),
        }
    }
}

impl Branch<Fifo> for Lane {
    type Error = EndpointError;

    fn take(&mut self, buffer: &mut Fifo, at: usize, limit: usize) -> Result<usize, EndpointError> {
        let mut taken = 0;
        while taken < limit {
            match self.take_piece(buffer, at + taken, limit - taken) {
                Ok(0) => break,
                Ok(moved) => {
                    taken += moved;
                    self.sink.count(moved);
                }
                Err(Errno::INTR) => {}
                Err(error) => match self.sink.after(error) {
                    None => break,
                    // The bytes that were taken count first; the next attempt will fail again.
                    Some(_) if taken > 0 => break,
                    Some(error) => return Err(error),
                },
            }
        }
        Ok(taken)
    }

    fn is_ready(&self) -> bool {
        Downstream::is_ready(&self.sink, 0)
    }

    fn finish(&mut self) {
        crate::flow::Consumer::finish(&mut self.sink);
    }

    fn is_finished(&self) -> bool {
        Downstream::is_finished(&self.sink)
    }
}
