//! The finite buffer: what has been read and not yet written.

mod chunks;
mod patience;
mod pipe;

pub use chunks::Chunks;
pub use patience::Patience;
pub use pipe::{KernelPipe, Splice};

use std::io;

use crate::proxy::Buffer;

/// First-in, first-out: a pipe of the kernel's in front, user memory behind it.
///
/// Bytes that are spliced in stay in the kernel and are spliced out again by reference. What
/// the pipe has no slot for, or no permission, is held in [`Chunks`] until these have
/// drained. So a buffer of any size costs no copy as long as the consumer keeps up, and
/// holds every byte of its capacity however small the producer's writes are.
#[derive(Debug)]
pub struct Fifo {
    pipe: Option<KernelPipe>,
    chunks: Chunks,
}

impl Fifo {
    /// A buffer for at most `capacity` bytes, with a pipe in front if one is given.
    pub fn new(capacity: usize, pipe: Option<KernelPipe>) -> Self {
        Fifo { pipe, chunks: Chunks::new(capacity) }
    }

    /// Where spliced bytes may be put now: nowhere while bytes in memory are waiting, which
    /// they must not overtake.
    pub fn splice_end(&mut self) -> Option<&mut KernelPipe> {
        if self.chunks.is_empty() { self.pipe.as_mut() } else { None }
    }

    /// Whether the next byte would be copied to memory that could be spliced once the
    /// consumer has made room.
    pub fn would_copy(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.is_full() || !self.chunks.is_empty())
    }

    /// The front of the buffer.
    pub fn front(&mut self) -> Front<'_> {
        match &mut self.pipe {
            Some(pipe) if !pipe.is_empty() => Front::Pipe(pipe),
            _ => Front::Memory(&mut self.chunks),
        }
    }

    /// Where bytes that are not spliced are put.
    pub fn memory(&mut self) -> &mut Chunks {
        &mut self.chunks
    }

    /// Does without the pipe from now on, since one side refuses to splice. What the pipe
    /// holds goes to memory.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn give_up_splicing(&mut self) -> io::Result<()> {
        if let Some(mut pipe) = self.pipe.take() {
            self.chunks.prepend(&pipe.read_all()?)?;
        }
        Ok(())
    }
}

/// The front of a [`Fifo`]: what the consumer gets next.
#[derive(Debug)]
pub enum Front<'a> {
    /// Bytes in the kernel.
    Pipe(&'a mut KernelPipe),
    /// Bytes in memory, or none.
    Memory(&'a mut Chunks),
}

impl Buffer for Fifo {
    fn len(&self) -> usize {
        self.pipe.as_ref().map_or(0, KernelPipe::len) + self.chunks.len()
    }
    fn append(&mut self, data: &[u8]) {
        self.chunks.append(data);
    }
}
