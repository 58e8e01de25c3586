//! User memory that comes and goes with what is buffered.

use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use memchr::memchr_iter;
use memmap2::MmapMut;

use super::Buffer;

/// Large enough to make the cost of a system call small beside that of the copy, small
/// enough to stay in the second-level cache.
const CHUNK: usize = 128 * 1024;

/// How many emptied chunks are kept: mapping a fresh one costs more than filling it.
const SPARE: usize = 16;

/// How much memory of other sizes is kept.
const EMPTIED: usize = 8;

/// Bytes in user memory, in chunks that are mapped when the buffer reaches them and unmapped
/// when it has passed them.
///
/// Memory is what is buffered, and a few chunks, and not what could be. While
/// the consumer keeps up, the same chunk is filled and emptied from its start and stays in
/// the cache.
///
/// ```
/// use pcproxy::buffer::{Buffer, Chunks};
///
/// let mut chunks = Chunks::new(1 << 30);
/// chunks.append(b"hello, world");
/// assert_eq!(&chunks.readable()[..5], b"hello");
/// chunks.consume(7);
/// assert_eq!(chunks.readable(), b"world");
/// ```
#[derive(Debug)]
pub struct Chunks {
    chunks: VecDeque<Chunk>,
    len: usize,
    /// Size of a new chunk.
    size: usize,
    /// Chunks that were emptied, to be filled again while their pages are there.
    spare: Vec<Chunk>,
    /// Memory of other sizes that was pushed and has been emptied, for whoever pushed it.
    emptied: Vec<MmapMut>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Memory,
    /// The bytes lie from `start` to `end`.
    start: usize,
    end: usize,
}

/// Mapped memory.
#[derive(Debug)]
enum Memory {
    Own(MmapMut),
    /// Somebody else reads it as well, so it is full and stays as it is.
    Shared(Arc<MmapMut>),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Memory::Own(memory) => memory,
            Memory::Shared(memory) => memory,
        }
    }
}

impl Memory {
    /// From `start` on, to be filled; empty if it is shared.
    fn free_from(&mut self, start: usize) -> &mut [u8] {
        match self {
            Memory::Own(memory) => &mut memory[start..],
            Memory::Shared(_) => &mut [],
        }
    }
}

impl Chunks {
    /// An empty buffer, meant for at most `capacity` bytes: no chunk is larger.
    pub fn new(capacity: usize) -> Self {
        let mut chunks =
            Chunks { chunks: VecDeque::new(), len: 0, size: CHUNK, spare: Vec::new(), emptied: Vec::new() };
        chunks.set_capacity(capacity);
        chunks
    }

    /// Is meant for at most `capacity` bytes from now on. Bytes already held stay.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.size = capacity.clamp(1, CHUNK);
        self.spare.clear();
    }

    /// Whether the system would map `capacity` bytes at all; touches none of them.
    ///
    /// # Errors
    /// When it would not.
    pub fn could_hold(capacity: usize) -> io::Result<()> {
        MmapMut::map_anon(capacity).map(drop)
    }

    /// Free space behind what is held, never empty: fill it from its start, then
    /// [`commit`](Self::commit) what was filled.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn writable(&mut self) -> io::Result<&mut [u8]> {
        if self.chunks.back().is_none_or(|last| last.end == last.bytes.len()) {
            let chunk = match self.spare.pop() {
                Some(chunk) => chunk,
                None => Chunk { bytes: Memory::Own(MmapMut::map_anon(self.size)?), start: 0, end: 0 },
            };
            self.chunks.push_back(chunk);
        }
        Ok(self.chunks.back_mut().map_or(&mut [], |last| last.bytes.free_from(last.end)))
    }

    /// Takes memory with `filled` bytes from its start on, behind what is held. More go behind them.
    pub(super) fn push(&mut self, memory: MmapMut, filled: usize) {
        self.len += filled;
        self.chunks.push_back(Chunk { bytes: Memory::Own(memory), start: 0, end: filled });
    }

    /// Takes memory that is full and that somebody else still reads, behind what is held.
    pub(super) fn push_shared(&mut self, memory: Arc<MmapMut>) {
        self.len += memory.len();
        let end = memory.len();
        self.chunks.push_back(Chunk { bytes: Memory::Shared(memory), start: 0, end });
    }

    /// The last bytes that were taken, `length` of them, in one piece.
    pub(super) fn last(&self, length: usize) -> &[u8] {
        self.chunks.back().map_or(&[], |last| &last.bytes[last.end - length..last.end])
    }

    /// Memory that was [pushed](Self::push) and has been emptied, if there is some.
    pub(super) fn take_emptied(&mut self) -> Option<MmapMut> {
        self.emptied.pop()
    }

    /// Counts `filled` bytes of [`writable`](Self::writable) as held. At most its length.
    pub fn commit(&mut self, filled: usize) {
        if let Some(last) = self.chunks.back_mut() {
            debug_assert!(filled <= last.bytes.len() - last.end);
            last.end += filled;
            self.len += filled;
        }
    }

    /// The free space that [`writable`](Self::writable) has made; empty if there is none.
    pub fn free(&self) -> &[u8] {
        self.chunks.back().map_or(&[], |last| &last.bytes[last.end..])
    }

    /// The first `length` bytes of what is held, in pieces.
    pub fn pieces(&self, length: usize) -> impl Iterator<Item = &[u8]> {
        let mut left = length;
        self.chunks.iter().map_while(move |chunk| {
            let piece = &chunk.bytes[chunk.start..chunk.end];
            let piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// Bytes up to the `number`th place of the byte `end`; all that are held if there are fewer.
    pub fn end_of(&self, end: u8, number: u64) -> usize {
        let Some(before) = number.checked_sub(1) else { return 0 };
        let (mut before, mut passed) = (before, 0);
        for piece in self.pieces(self.len) {
            let mut found = memchr_iter(end, piece);
            for at in found.by_ref() {
                if before == 0 {
                    return passed + at + 1;
                }
                before -= 1;
            }
            passed += piece.len();
        }
        passed
    }

    /// Copies bytes from `at` bytes behind the front on, at most as many as `into` holds. Returns how
    /// many.
    pub fn peek(&self, at: usize, into: &mut [u8]) -> usize {
        let (mut passed, mut filled) = (0, 0);
        for piece in self.pieces(at.saturating_add(into.len())) {
            let behind = &piece[at.saturating_sub(passed).min(piece.len())..];
            into[filled..filled + behind.len()].copy_from_slice(behind);
            (passed, filled) = (passed + piece.len(), filled + behind.len());
        }
        filled
    }

    /// The front of what is held, as far as it lies in one piece; empty only if nothing is.
    pub fn readable(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |first| &first.bytes[first.start..first.end])
    }

    /// Bytes from `at` bytes behind the front on, as far as they lie in one piece; empty only if there
    /// are none.
    pub fn readable_from(&self, mut at: usize) -> &[u8] {
        for chunk in &self.chunks {
            let held = &chunk.bytes[chunk.start..chunk.end];
            if at < held.len() {
                return &held[at..];
            }
            at -= held.len();
        }
        &[]
    }

    /// Forgets the first `taken` bytes. At most [`len`](Buffer::len).
    pub fn consume(&mut self, mut taken: usize) {
        debug_assert!(taken <= self.len);
        self.len -= taken;
        while taken > 0
            && let Some(first) = self.chunks.front_mut()
        {
            let here = taken.min(first.end - first.start);
            first.start += here;
            taken -= here;
            if first.start == first.end {
                self.recycle();
            }
        }
    }

    /// The first chunk has been emptied: it is the next to be filled, from its start, or
    /// goes back to the system if enough are waiting already.
    fn recycle(&mut self) {
        let Some(chunk) = self.chunks.pop_front() else { return };
        if chunk.bytes.len() == self.size && self.spare.len() < SPARE {
            self.spare.push(Chunk { start: 0, end: 0, ..chunk });
        } else if let Memory::Own(memory) = chunk.bytes
            && memory.len() > self.size
            && self.emptied.len() < EMPTIED
        {
            self.emptied.push(memory);
        }
    }
}

impl Buffer for Chunks {
    fn len(&self) -> usize {
        self.len
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Consume(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = prop_oneof![0..20usize, 4000..300_000usize];
        prop_oneof![
            4 => size.clone().prop_map(Step::Append),
            4 => size.prop_map(Step::Consume),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn holds_what_a_deque_holds(capacity in 1..1_000_000usize, steps in prop::collection::vec(step(), 1..40)) {
            let (mut chunks, mut model) = (Chunks::new(capacity), VecDeque::new());
            let mut counter = 0u8;
            let mut some = |n: usize| -> Vec<u8> {
                (0..n).map(|_| { counter = counter.wrapping_mul(5).wrapping_add(3); counter }).collect()
            };
            for step in steps {
                match step {
                    Step::Append(n) => {
                        let data = some(n);
                        chunks.append(&data);
                        model.extend(data);
                    }
                    Step::Consume(n) => {
                        let mut left = n.min(model.len());
                        while left > 0 {
                            let front = chunks.readable().to_vec();
                            let taken = left.min(front.len());
                            prop_assert!(taken > 0);
                            prop_assert!(model.drain(..taken).eq(front[..taken].iter().copied()));
                            chunks.consume(taken);
                            left -= taken;
                        }
                    }
                }
                prop_assert_eq!(chunks.len(), model.len());
            }
        }
    }

    #[test]
    fn maps_no_more_than_what_is_held_and_a_few_chunks() {
        let mut chunks = Chunks::new(1 << 40);
        chunks.append(&vec![1; 100 * CHUNK]);
        assert_eq!((chunks.chunks.len(), chunks.spare.len()), (100, 0));
        chunks.consume(100 * CHUNK);
        assert_eq!((chunks.chunks.len(), chunks.spare.len()), (0, SPARE));
        chunks.append(b"x");
        assert_eq!((chunks.chunks.len(), chunks.spare.len()), (1, SPARE - 1));
    }
}
