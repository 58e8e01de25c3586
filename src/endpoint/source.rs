//! stdin as the proxy's producer.

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::{Descriptor, Kind, Sink, StreamError};
use crate::buffer::{Fifo, Splice};
use crate::flow::Producer;

/// The producer: reads its descriptor into the buffer when it is ready and wanted.
#[derive(Debug)]
pub struct Source {
    descriptor: Descriptor,
    /// A push producer goes on until it is paused; a pull producer is asked each time.
    streaming: bool,
    wanted: bool,
    ready: bool,
    /// Bytes that may still be read.
    left: u64,
}

/// What an attempt to fill the buffer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes are in the buffer now; 0 if nothing was there.
    Moved(usize),
    /// No more will come.
    End,
}

impl Source {
    /// A producer that pushes (`streaming`), or one that is asked for each piece. It ends by
    /// itself after `stop_after` bytes.
    pub fn new(descriptor: Descriptor, streaming: bool, stop_after: Option<u64>) -> Self {
        // Ready until it says otherwise.
        Source { descriptor, streaming, wanted: streaming, ready: true, left: stop_after.unwrap_or(u64::MAX) }
    }

    /// The proxy wants data, and there may be some.
    pub fn can_produce(&self) -> bool {
        self.wanted && self.ready
    }

    /// The proxy wants data.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// The descriptor has become ready.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Puts at most `room` bytes into `buffer`: by reference while its pipe has slots and the
    /// descriptor splices, else into memory.
    ///
    /// # Errors
    /// When the descriptor cannot be read any more.
    pub fn fill(&mut self, buffer: &mut Fifo, room: usize) -> Result<Fill, StreamError> {
        let room = self.within_limit(room);
        if room == 0 {
            return Ok(Fill::End);
        }
        let fill = self.splice(buffer, room).and_then(|done| done.map_or_else(|| self.read(buffer, room), Ok));
        match fill {
            // Of what cannot be waited for, this would be an error like any other.
            Err(Errno::AGAIN) if self.streaming => {
                self.ready = false;
                Ok(Fill::Moved(0))
            }
            Err(Errno::INTR) => Ok(Fill::Moved(0)),
            Ok(fill) => {
                if let Fill::Moved(moved) = fill {
                    self.count(moved);
                }
                Ok(fill)
            }
            Err(error) => Err(StreamError::new(self.descriptor.side(), error)),
        }
    }

    /// Moves at most `limit` bytes straight to `sink`, where the kernel can: one of the two
    /// must be a pipe. Returns how many; that it is none, for whatever reason, is for
    /// [`fill`](Self::fill) to find out.
    pub fn splice_through(&mut self, sink: &mut Sink, limit: usize) -> usize {
        let (input, output) = (&self.descriptor, sink.descriptor());
        if ![input, output].iter().any(|end| end.kind() == Kind::Pipe)
            || !Sink::splices(output)
            || !Self::splices(input)
        {
            return 0;
        }
        let limit = self.within_limit(limit);
        let moved = rustix::pipe::splice(input, None, output, None, limit, SpliceFlags::NONBLOCK).unwrap_or(0);
        sink.count(moved);
        self.count(moved);
        moved
    }

    /// `bytes`, or what may still be read of them.
    fn within_limit(&self, bytes: usize) -> usize {
        bytes.min(self.left.try_into().unwrap_or(usize::MAX))
    }

    /// So many bytes have been read: what a pull producer was asked for.
    fn count(&mut self, moved: usize) {
        self.left -= moved as u64;
        self.wanted &= self.streaming || moved == 0;
    }

    /// Nothing where the bytes must be read instead.
    fn splice(&self, buffer: &mut Fifo, room: usize) -> Result<Option<Fill>, Errno> {
        match buffer.splice_from(&self.descriptor, room)? {
            None => Ok(None),
            Some(Splice::Moved(moved)) => Ok(Some(Fill::Moved(moved))),
            Some(Splice::End) => Ok(Some(Fill::End)),
            Some(Splice::NotReady) if self.streaming => Err(Errno::AGAIN),
            Some(Splice::NotReady) => Ok(None),
            Some(Splice::Refused) => {
                buffer.give_up_splicing().map_err(errno)?;
                Ok(None)
            }
        }
    }

    fn read(&mut self, buffer: &mut Fifo, room: usize) -> Result<Fill, Errno> {
        let memory = buffer.memory();
        let space = memory.writable().map_err(errno)?;
        let limit = room.min(space.len());
        match self.descriptor.read(&mut space[..limit])? {
            0 => Ok(Fill::End),
            read => {
                memory.commit(read);
                Ok(Fill::Moved(read))
            }
        }
    }

    /// Whether splicing from this descriptor never waits for another process.
    pub fn splices(descriptor: &Descriptor) -> bool {
        // A splice from a blocking TCP socket waits, whatever its flags say.
        descriptor.kind() == Kind::Pipe || descriptor.is_always_ready()
    }
}

impl Producer for Source {
    fn pause_producing(&mut self) {
        self.wanted = false;
    }
    fn resume_producing(&mut self) {
        self.wanted = true;
    }
    fn stop_producing(&mut self) {
        self.wanted = false;
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::NOMEM)
}
