//! A pipe of our own: bytes that stay in the kernel.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::Witness;
use crate::os::is_refusal;

/// Bytes held in a pipe, moved in and out by reference.
///
/// A pipe's capacity is counted in slots, one a page at the most, however few bytes a piece
/// has: it can be full with far fewer bytes than its size.
#[derive(Debug)]
pub struct KernelPipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
    capacity: usize,
    len: usize,
    /// All slots were taken when we last tried to fill one.
    out_of_slots: bool,
}

/// The result of a splice between a descriptor and our pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splice {
    /// So many bytes were moved.
    Moved(usize),
    /// The input has ended.
    End,
    /// One of the two sides was not ready, and the kernel does not say which.
    NotReady,
    /// The descriptor does not splice at all.
    Refused,
}

impl KernelPipe {
    /// A pipe with slots for `size` bytes, or for what the system grants.
    ///
    /// # Errors
    /// When no more descriptors are to be had.
    pub fn new(size: usize) -> Result<Self> {
        let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A refusal leaves what there is: the chunks behind hold the rest.
        let _ = rustix::pipe::fcntl_setpipe_size(&write_end, size);
        let capacity = rustix::pipe::fcntl_getpipe_size(&write_end)?;
        Ok(KernelPipe { read_end, write_end, capacity, len: 0, out_of_slots: false })
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes there can be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether no more bytes can be held, as far as we know.
    pub fn is_full(&self) -> bool {
        self.out_of_slots || self.len >= self.capacity
    }

    /// All slots were found taken.
    pub fn set_full(&mut self) {
        self.out_of_slots = true;
    }

    /// Whether at least half of the bytes are held that there can be.
    pub fn is_dense(&self) -> bool {
        self.len >= self.capacity / 2
    }

    /// Whether another piece would find a slot.
    pub fn has_slot(&self) -> bool {
        let mut ends = [PollFd::new(&self.write_end, PollFlags::OUT)];
        self.len == 0 || rustix::event::poll(&mut ends, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Takes at most `limit` bytes, at least 1, from `fd`: from the place `at`, which then moves on,
    /// or from where `fd` stands.
    ///
    /// # Errors
    /// Those of reading `fd`.
    pub fn splice_from(&mut self, fd: impl AsFd, at: Option<&mut u64>, limit: usize) -> Result<Splice> {
        let result =
            rustix::pipe::splice(fd, at, &self.write_end, None, limit, SpliceFlags::NONBLOCK | SpliceFlags::MOVE);
        match result {
            Ok(0) => Ok(Splice::End),
            Ok(moved) => {
                self.len += moved;
                Ok(Splice::Moved(moved))
            }
            Err(error) => refusal(error),
        }
    }

    /// Hands at most `limit` bytes, at least 1, to `fd`. Where bytes are held, `NotReady`
    /// means `fd`.
    ///
    /// # Errors
    /// Those of writing to `fd`.
    pub fn splice_to(&mut self, fd: impl AsFd, limit: usize) -> Result<Splice> {
        let result =
            rustix::pipe::splice(&self.read_end, None, fd, None, limit, SpliceFlags::NONBLOCK | SpliceFlags::MOVE);
        match result {
            Ok(moved) => {
                self.len -= moved;
                self.out_of_slots = false;
                Ok(Splice::Moved(moved))
            }
            Err(error) => refusal(error),
        }
    }

    /// Hands references to at most `limit` bytes, at least 1, to the pipe `fd`, and keeps the bytes.
    /// Where bytes are held, `NotReady` means `fd`.
    ///
    /// # Errors
    /// Those of writing to `fd`.
    pub fn tee_to(&self, fd: impl AsFd, limit: usize) -> Result<Splice> {
        match rustix::pipe::tee(&self.read_end, fd, limit, SpliceFlags::NONBLOCK) {
            Ok(0) => Ok(Splice::NotReady),
            Ok(moved) => Ok(Splice::Moved(moved)),
            Err(error) => refusal(error),
        }
    }

    /// The same for another pipe of our own.
    ///
    /// # Errors
    /// None that is known.
    pub fn tee_into(&self, other: &mut KernelPipe, limit: usize) -> Result<Splice> {
        let spliced = self.tee_to(&other.write_end, limit)?;
        if let Splice::Moved(moved) = spliced {
            other.len += moved;
        }
        Ok(spliced)
    }

    /// Drops at most `bytes` bytes, and shows them to `witness` if there is one. Returns how many.
    ///
    /// # Errors
    /// Those of reading a pipe.
    pub fn discard(&mut self, bytes: usize, witness: Option<Witness<'_, '_>>) -> Result<usize> {
        static NULL: LazyLock<Option<OwnedFd>> =
            LazyLock::new(|| rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).ok());
        if witness.is_none()
            && let Some(null) = &*NULL
            && let Ok(Splice::Moved(moved @ 1..)) = self.splice_to(null, bytes)
        {
            return Ok(moved);
        }
        let mut space = vec![0; bytes.min(64 * 1024)];
        let read = self.read(&mut space)?;
        if let Some(witness) = witness {
            witness(&space[..read]);
        }
        Ok(read)
    }

    /// Copies bytes out, at most as many as `into` holds.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let read = rustix::io::read(&self.read_end, into)?;
        self.len -= read;
        self.out_of_slots = false;
        Ok(read)
    }
}

fn refusal(error: Errno) -> Result<Splice> {
    match error {
        Errno::AGAIN => Ok(Splice::NotReady),
        Errno::INTR => Ok(Splice::Moved(0)),
        error if is_refusal(error) => Ok(Splice::Refused),
        error => Err(error),
    }
}
