//! The finite buffer: what has been read and not yet written.

mod chunks;
mod patience;
mod pipe;
mod records;
mod spill;

pub use chunks::Chunks;
pub use patience::Patience;
pub use pipe::{KernelPipe, Splice};
pub use records::{RecordIndex, Records};
pub use spill::{BLOCK, LEAST_MEMORY, Order, Report, Spill};

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::os::memory_limit;
use crate::units::show_size;

/// A first-in, first-out store of bytes.
pub trait Buffer {
    /// How many bytes are held.
    fn len(&self) -> usize;
    /// Whether no byte is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// How many bytes from the front on can be had now. The others are on a disk.
    fn available(&self) -> usize {
        self.len()
    }
    /// Whether more bytes can be taken in now: a disk may have to take some first.
    fn has_room(&self) -> bool {
        true
    }
    /// Whether no more bytes become available before some have left.
    fn is_choked(&self) -> bool {
        false
    }
    /// Brings up to date what is available. Nothing else changes that but bytes that leave.
    fn tend(&mut self) {}
    /// Takes all of `data`, behind what is held.
    fn append(&mut self, data: &[u8]);
    /// The records that are available, where the buffer looks for them.
    fn records(&self) -> Records {
        Records::default()
    }
    /// Bytes up to the end of the first `ends` records, of which so many must be held.
    fn end_of(&self, _ends: u64) -> usize {
        self.len()
    }
    /// Whether taking in the next byte now costs a copy that is spared once the consumer has
    /// taken some.
    fn would_copy(&self) -> bool {
        false
    }
}

/// A buffer whose front can be dropped once everyone has taken it.
pub trait Release: Buffer {
    /// Drops the first `bytes` bytes, at most [`len`](Buffer::len), and shows them to `witness` if there
    /// is one. Returns how many it dropped: fewer only if the system fails, and the rest may be dropped
    /// later.
    fn release(&mut self, bytes: usize, witness: Option<Witness<'_, '_>>) -> usize;
}

/// Every process may have so many bytes. The system is asked only about larger buffers: the answer
/// takes a tenth of the time in which an empty run starts and ends.
const MODEST: u64 = 1 << 20;

/// Something that sees the bytes that leave a buffer, piece by piece and in order.
pub type Witness<'a, 'b> = &'a mut (dyn FnMut(&[u8]) + 'b);

/// Whether a buffer may have `size` bytes: from 1 to what the memory allows.
///
/// # Errors
/// Why it may not.
pub fn check_size(size: u64) -> Result<usize, String> {
    if size == 0 {
        return Err("must be at least 1 byte".to_owned());
    }
    if size > MODEST
        && let Some(memory) = memory_limit().filter(|memory| size > memory.bytes)
    {
        let whose = if memory.of_group { "this control group (container)" } else { "this machine" };
        return Err(format!("is more than the memory of {whose}, which is {}", show_size(memory.bytes)));
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    Chunks::could_hold(size).map_err(|error| format!("is more than the system gives this process: {error}"))?;
    Ok(size)
}

/// Whether a buffer that spills may have `size` bytes: from 1 to what files may have.
///
/// # Errors
/// Why it may not.
pub fn check_spilled_size(size: u64) -> Result<usize, String> {
    match size {
        0 => Err("must be at least 1 byte".to_owned()),
        size if size > LARGEST_FILE => Err("is more than a file can hold, which is 8 EiB".to_owned()),
        size => Ok(usize::try_from(size).unwrap_or(usize::MAX)),
    }
}

/// The most bytes that any file system has in a file.
const LARGEST_FILE: u64 = i64::MAX as u64;

/// First-in, first-out: pipes of the kernel's in front, user memory behind them.
///
/// Bytes that are spliced in stay in the kernel and are spliced out again by reference. What
/// the pipes have no slot for, or no permission, is held in [`Chunks`] until these have
/// drained. So a buffer of any size costs no copy as long as the consumer keeps up, and
/// holds every byte of its capacity however small the producer's writes are.
///
/// A refusal to splice moves nothing: bytes in the pipes stay there, and are copied out piece by
/// piece. So they stay held and counted even where memory runs out meanwhile.
#[derive(Debug)]
pub struct Fifo {
    /// Bytes that were copied out of the first pipe, in front of it.
    staged: Chunks,
    /// Filled one after the other; the first that is not full is the last there is.
    pipes: VecDeque<KernelPipe>,
    /// How many pipes there may be: none if one side does not splice.
    most_pipes: usize,
    /// The consumer does not splice: the pipes are read.
    reads_pipes: bool,
    /// Bytes to each.
    pipe_size: usize,
    chunks: Chunks,
    /// Where records end among the available bytes, which are all in memory then.
    index: Option<RecordIndex>,
    /// Ends of records that have entered so far, where these are looked for.
    entered: u64,
    /// What does not fit in memory.
    spill: Option<Box<Spill>>,
    /// The space that was asked for last is that of the spill.
    fills_spill: bool,
}

impl Fifo {
    /// The largest pipe that the system grants everyone, unless it was told otherwise.
    const PIPE: usize = 1 << 20;
    /// Enough for 16 MiB, with the first and the last partly filled. All pipes of a user share
    /// a quota of 64 MiB: leave the neighbours theirs.
    const PIPES: usize = 18;
    /// Bytes that are copied out of a pipe at once.
    const STAGE: usize = 64 * 1024;

    /// A buffer for at most `capacity` bytes, which may hold them in pipes if `splices`.
    pub fn new(capacity: usize, splices: bool) -> Self {
        Fifo {
            staged: Chunks::new(Self::STAGE),
            pipes: VecDeque::new(),
            most_pipes: if splices { Self::PIPES } else { 0 },
            reads_pipes: false,
            pipe_size: Self::pipe_size(capacity),
            chunks: Chunks::new(capacity),
            index: None,
            entered: 0,
            spill: None,
            fills_spill: false,
        }
    }

    /// Holds at most `memory` bytes in memory from now on. The others go to a disk: see
    /// [`take_order`](Self::take_order).
    pub fn spill_beyond(&mut self, memory: usize) {
        self.spill = Some(Box::new(Spill::new(memory)));
        self.most_pipes = self.most_pipes.min(self.pipes_wanted());
    }

    /// The next thing that the disk has to do.
    pub fn take_order(&mut self) -> Option<Order> {
        self.spill.as_mut()?.take_order()
    }

    /// The disk has done something.
    pub fn hear(&mut self, report: Report) {
        if let Some(spill) = &mut self.spill {
            spill.hear(report);
        }
    }

    /// What cannot be held in memory, if there may be such bytes.
    pub fn spill(&self) -> Option<&Spill> {
        self.spill.as_deref()
    }

    /// What cannot be held in memory, to ask it for news.
    pub fn spill_mut(&mut self) -> Option<&mut Spill> {
        self.spill.as_deref_mut()
    }

    /// Ends of records that have entered since the beginning, where these are looked for.
    pub fn ends_entered(&self) -> u64 {
        self.entered
    }

    /// How many pipes there may be: what is in them is memory too.
    fn pipes_wanted(&self) -> usize {
        self.spill.as_ref().map_or(Self::PIPES, |spill| Self::PIPES.min(spill.front() / Self::PIPE))
    }

    /// Whether bytes go behind those on the disk, or there would be too many of them in memory.
    fn is_spilling(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| !spill.is_empty() || self.available() >= spill.front())
    }

    /// The same buffer, which must not splice, for records that each end with the byte `end`.
    #[must_use]
    pub fn of_records(mut self, end: u8) -> Self {
        self.index = Some(RecordIndex::new(end));
        self
    }

    fn pipe_size(capacity: usize) -> usize {
        // Twice the slots: a grant cuts pages, and the pieces of a page take one each.
        capacity.saturating_mul(2).min(Self::PIPE)
    }

    /// Holds at most `capacity` bytes from now on. Bytes already held stay, even if they exceed it.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.pipe_size = Self::pipe_size(capacity);
        self.chunks.set_capacity(capacity);
    }

    /// Takes at most `limit` bytes, at least 1, from `fd` by reference: from the place `at`, which
    /// then moves on, or from where `fd` stands. Nothing, where they have to be read to
    /// memory instead.
    ///
    /// # Errors
    /// Those of reading `fd`.
    pub fn splice_from(
        &mut self,
        fd: impl AsFd,
        mut at: Option<&mut u64>,
        limit: usize,
    ) -> rustix::io::Result<Option<Splice>> {
        while let Some(pipe) = self.splice_end() {
            match pipe.splice_from(&fd, at.as_deref_mut(), limit)? {
                Splice::NotReady if !pipe.has_slot() => {
                    if !pipe.is_dense() {
                        // Small pieces have taken up the slots: memory holds them closer together.
                        return Ok(None);
                    }
                    pipe.set_full();
                }
                splice => return Ok(Some(splice)),
            }
        }
        Ok(None)
    }

    /// The pipe that is being filled: none while bytes in memory are waiting, which spliced
    /// ones must not overtake.
    fn splice_end(&mut self) -> Option<&mut KernelPipe> {
        if !self.chunks.is_empty() || self.most_pipes == 0 || self.is_spilling() {
            return None;
        }
        if self.pipes.back().is_none_or(KernelPipe::is_full) && self.pipes.len() < self.most_pipes {
            match KernelPipe::new(self.pipe_size) {
                // A small one is better than none, but not worth having twice.
                Ok(pipe) if pipe.capacity() >= self.pipe_size || self.pipes.is_empty() => self.pipes.push_back(pipe),
                _ => self.most_pipes = self.pipes.len(),
            }
        }
        self.pipes.back_mut().filter(|last| !last.is_full())
    }

    /// The front of the buffer.
    ///
    /// # Errors
    /// When memory is needed to read a pipe and none is left. The bytes stay where they are.
    pub fn front(&mut self) -> io::Result<Front<'_>> {
        if !self.staged.is_empty() {
            return Ok(Front::Memory(&mut self.staged));
        }
        while self.pipes.len() > 1 && self.pipes[0].is_empty() {
            self.pipes.pop_front();
        }
        match self.pipes.front_mut() {
            Some(pipe) if !pipe.is_empty() && self.reads_pipes => {
                let read = pipe.read(self.staged.writable()?)?;
                self.staged.commit(read);
                Ok(Front::Memory(&mut self.staged))
            }
            Some(pipe) if !pipe.is_empty() => Ok(Front::Pipe(pipe)),
            _ => Ok(Front::Memory(&mut self.chunks)),
        }
    }

    /// The bytes from `at` behind the front on, to be looked at in place.
    ///
    /// # Errors
    /// When memory is needed to read a pipe and none is left. The bytes stay where they are.
    pub fn piece(&mut self, mut at: usize) -> io::Result<Piece<'_>> {
        if at == self.staged.len() && self.reads_pipes {
            while self.pipes.len() > 1 && self.pipes[0].is_empty() {
                self.pipes.pop_front();
            }
            if let Some(pipe) = self.pipes.front_mut().filter(|pipe| !pipe.is_empty()) {
                let read = pipe.read(self.staged.writable()?)?;
                self.staged.commit(read);
            }
        }
        if at < self.staged.len() {
            return Ok(Piece::Memory(&self.staged, at));
        }
        at -= self.staged.len();
        for pipe in &self.pipes {
            if at < pipe.len() {
                return Ok(if at == 0 { Piece::Pipe(pipe) } else { Piece::Buried });
            }
            at -= pipe.len();
        }
        Ok(Piece::Memory(&self.chunks, at))
    }

    /// Free space for bytes that are not spliced, never empty: fill it from its start, then
    /// [`commit`](Self::commit) what was filled.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn writable(&mut self) -> io::Result<&mut [u8]> {
        self.fills_spill = self.is_spilling();
        match &mut self.spill {
            Some(spill) if self.fills_spill => spill.writable(),
            _ => self.chunks.writable(),
        }
    }

    /// Counts `filled` bytes of [`writable`](Self::writable) as held. At most its length.
    pub fn commit(&mut self, filled: usize) {
        if let Some(spill) = self.spill.as_mut().filter(|_| self.fills_spill) {
            if let Some(index) = &self.index {
                self.entered += index.ends_in(&spill.free()[..filled]);
            }
            return spill.commit(filled);
        }
        if let Some(index) = &mut self.index {
            self.entered += index.enter(&self.chunks.free()[..filled]);
        }
        self.chunks.commit(filled);
    }

    /// Copies the first bytes held in memory, at most as many as `into` holds. Returns how many.
    pub fn peek(&self, into: &mut [u8]) -> usize {
        self.chunks.peek(0, into)
    }

    /// Forgets the first `taken` bytes of the [`front`](Self::front), which was in memory.
    pub fn consume(&mut self, taken: usize) {
        if !self.staged.is_empty() {
            return self.staged.consume(taken);
        }
        if let Some(index) = &mut self.index {
            self.chunks.pieces(taken).for_each(|piece| index.leave(piece));
        }
        self.chunks.consume(taken);
    }

    /// Takes in bytes by reference from now on if `splices`, as far as the consumer splices.
    pub fn splice_in(&mut self, splices: bool) {
        self.most_pipes = if splices && !self.reads_pipes { self.pipes_wanted() } else { 0 };
    }

    /// Takes in nothing by reference from now on, since the producer does not splice. Bytes in
    /// pipes stay there.
    pub fn refuse_to_splice_in(&mut self) {
        self.most_pipes = 0;
    }

    /// Hands out nothing by reference from now on, since the consumer does not splice. Bytes in
    /// pipes stay there until they are copied out.
    pub fn refuse_to_splice_out(&mut self) {
        self.most_pipes = 0;
        self.reads_pipes = true;
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

/// A part of a [`Fifo`], seen from a place in it.
#[derive(Debug)]
pub enum Piece<'a> {
    /// All that is in a pipe.
    Pipe(&'a KernelPipe),
    /// The place is within a pipe: what is there cannot be had before what is in front of it has
    /// been released.
    Buried,
    /// Bytes in memory, so many behind its front, or none.
    Memory(&'a Chunks, usize),
}

impl Release for Fifo {
    fn release(&mut self, bytes: usize, mut witness: Option<Witness<'_, '_>>) -> usize {
        let staged = bytes.min(self.staged.len());
        if let Some(witness) = &mut witness {
            self.staged.pieces(staged).for_each(&mut *witness);
        }
        self.staged.consume(staged);
        let mut left = bytes - staged;
        while left > 0
            && let Some(pipe) = self.pipes.front_mut()
        {
            if pipe.is_empty() {
                if self.pipes.len() == 1 {
                    break;
                }
                self.pipes.pop_front();
                continue;
            }
            match pipe.discard(left.min(pipe.len()), witness.as_deref_mut()) {
                Ok(dropped @ 1..) => left -= dropped,
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return bytes - left,
            }
        }
        let rest = left.min(self.chunks.len());
        if let Some(witness) = &mut witness {
            self.chunks.pieces(rest).for_each(&mut *witness);
        }
        self.consume(rest);
        bytes - left + rest
    }
}

impl Buffer for Fifo {
    fn len(&self) -> usize {
        self.available() + self.spill.as_ref().map_or(0, |spill| spill.len())
    }
    fn available(&self) -> usize {
        self.staged.len() + self.pipes.iter().map(KernelPipe::len).sum::<usize>() + self.chunks.len()
    }
    fn has_room(&self) -> bool {
        !self.is_spilling() || self.spill.as_ref().is_some_and(|spill| spill.has_room())
    }
    fn is_choked(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| self.available() + BLOCK > spill.front())
    }
    fn tend(&mut self) {
        let available = self.available();
        let Some(spill) = &mut self.spill else { return };
        let index = &mut self.index;
        let passed = |chunks: &Chunks, length| {
            if let Some(index) = index {
                index.enter(chunks.last(length));
            }
        };
        if let Err(error) = spill.advance(&mut self.chunks, available, passed)
            && available == 0
        {
            spill.lose(error);
        }
    }
    /// # Panics
    /// When the system has no memory left, as `Vec` does.
    fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let space = self.writable().expect("memory for what is written");
            let filled = data.len().min(space.len());
            space[..filled].copy_from_slice(&data[..filled]);
            self.commit(filled);
            data = &data[filled..];
        }
    }
    fn records(&self) -> Records {
        self.index.map_or(Records::default(), |index| index.records())
    }
    fn end_of(&self, ends: u64) -> usize {
        self.index.map_or(self.len(), |index| self.chunks.end_of(index.end(), ends))
    }
    fn would_copy(&self) -> bool {
        let full = self.pipes.len() == self.most_pipes && self.pipes.back().is_some_and(KernelPipe::is_full);
        self.most_pipes > 0 && (full || !self.chunks.is_empty() || self.is_spilling())
    }
}
