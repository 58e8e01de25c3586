//! The part of a buffer that is on a disk, or on its way there or back. Pure: a disk is told what to
//! do by [`Order`]s, and answers with [`Report`]s, late and in any order.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use memmap2::MmapMut;

use super::{Buffer, Chunks};

/// Bytes that go to the disk and come back at once: large enough to make the cost of an order small,
/// and a multiple of every page.
pub const BLOCK: usize = 1 << 20;

/// The least memory for a buffer that spills: two blocks in front, and two behind.
pub const LEAST_MEMORY: usize = 4 * BLOCK;

/// What the disk is to do. Blocks are numbered in the order of their bytes, slots from the beginning
/// of the file.
#[derive(Debug)]
pub enum Order {
    /// Write a block to a slot. An order that fails is tried again until it is done or withdrawn.
    Write {
        /// The number of the block.
        block: u64,
        /// Where it goes.
        slot: u64,
        /// Its bytes.
        bytes: Arc<MmapMut>,
    },
    /// Read a block from a slot.
    Read {
        /// The number of the block.
        block: u64,
        /// Where it is.
        slot: u64,
        /// Memory for its bytes.
        into: MmapMut,
    },
    /// The order to write this block is withdrawn, if it has not been begun.
    Withdraw {
        /// The number of the block.
        block: u64,
    },
    /// Give the space of this slot back to the file system.
    Free {
        /// Which slot.
        slot: u64,
    },
}

/// What the disk has done.
#[derive(Debug)]
pub enum Report {
    /// A block is written.
    Written {
        /// The number of the block.
        block: u64,
    },
    /// An order to write was withdrawn, and nothing has been written.
    Withdrawn {
        /// The number of the block.
        block: u64,
    },
    /// A block has been read.
    Read {
        /// The number of the block.
        block: u64,
        /// Its bytes.
        bytes: MmapMut,
    },
    /// A block cannot be read: its bytes are lost.
    Lost {
        /// Why.
        error: io::Error,
    },
    /// The space of a slot was given back.
    Freed {
        /// Which slot.
        slot: u64,
    },
    /// A block cannot be written for now. The disk goes on trying.
    Trouble {
        /// Why.
        error: io::Error,
    },
}

#[derive(Debug)]
enum Block {
    /// In memory, and on its way to a slot.
    Leaving { bytes: Arc<MmapMut>, slot: u64 },
    /// In a slot, and nowhere else.
    Away { slot: u64 },
    /// On its way back from a slot.
    Returning { slot: u64 },
    /// In memory again.
    Back { bytes: MmapMut },
}

/// Blocks behind the bytes in memory, in order, and the bytes behind them that make no block yet.
///
/// Memory has two parts. What is in front holds the bytes that the consumer gets next, and blocks are
/// read in advance as far as there is room. What is behind holds blocks that wait to be written, and
/// the youngest bytes. Neither takes room from the other: blocks that cannot be written never keep
/// others from being read. A block that the consumer needs before it is written does not make the
/// detour.
#[derive(Debug)]
pub struct Spill {
    blocks: VecDeque<Block>,
    /// The number of the first of them.
    first: u64,
    /// The youngest bytes.
    filling: Option<(MmapMut, usize)>,
    /// Bytes that may be in front, in memory.
    front: usize,
    /// Blocks that may be in memory behind, with the one that is being filled.
    behind: usize,
    /// Slots that are not in use, below the first that never was.
    free: BTreeSet<u64>,
    fresh: u64,
    /// Slots of blocks that went to the consumer before the disk had written them.
    detours: HashMap<u64, u64>,
    orders: VecDeque<Order>,
    spare: Vec<MmapMut>,
    trouble: Option<io::Error>,
    lost: Option<io::Error>,
}

impl Spill {
    /// Nothing spilled yet, where at most `memory` bytes are to be in memory. [`LEAST_MEMORY`] at
    /// least are taken.
    pub fn new(memory: usize) -> Self {
        let blocks = memory.max(LEAST_MEMORY) / BLOCK;
        let behind = (blocks / 4).max(2);
        Spill {
            blocks: VecDeque::new(),
            first: 0,
            filling: None,
            front: (blocks - behind) * BLOCK,
            behind,
            free: BTreeSet::new(),
            fresh: 0,
            detours: HashMap::new(),
            orders: VecDeque::new(),
            spare: Vec::new(),
            trouble: None,
            lost: None,
        }
    }

    /// Bytes that may be in memory in front of this.
    pub fn front(&self) -> usize {
        self.front
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.blocks.len() * BLOCK + self.filling.as_ref().map_or(0, |(_, filled)| *filled)
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are on the disk and not in memory.
    pub fn on_disk(&self) -> usize {
        let away = |block: &&Block| matches!(block, Block::Away { .. } | Block::Returning { .. });
        self.blocks.iter().filter(away).count() * BLOCK
    }

    /// Whether there is memory for more bytes now.
    pub fn has_room(&self) -> bool {
        let leaving = self.blocks.iter().filter(|block| matches!(block, Block::Leaving { .. })).count();
        match &self.filling {
            Some((_, filled)) => *filled < BLOCK || leaving + 1 < self.behind,
            None => leaving < self.behind,
        }
    }

    /// Free space behind what is held, never empty.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn writable(&mut self) -> io::Result<&mut [u8]> {
        if self.filling.as_ref().is_none_or(|(_, filled)| *filled == BLOCK) {
            let memory = self.memory()?;
            self.close_block();
            self.filling = Some((memory, 0));
        }
        Ok(self.filling.as_mut().map_or(&mut [], |(memory, filled)| &mut memory[*filled..]))
    }

    /// Counts `filled` bytes of [`writable`](Self::writable) as held. At most its length.
    pub fn commit(&mut self, filled: usize) {
        if let Some((_, all)) = &mut self.filling {
            *all += filled;
        }
    }

    /// The free space that [`writable`](Self::writable) has made; empty if there is none.
    pub fn free(&self) -> &[u8] {
        self.filling.as_ref().map_or(&[], |(memory, filled)| &memory[*filled..])
    }

    /// Passes to `chunks` the blocks that come next, as far as there is room in front of them, of
    /// which `used` bytes are in use. Says of each piece that passed how long it is. Then orders what
    /// the disk has to do.
    ///
    /// # Errors
    /// When the system has no memory left for blocks that are to be read.
    pub fn advance(
        &mut self,
        chunks: &mut Chunks,
        used: usize,
        mut passed: impl FnMut(&Chunks, usize),
    ) -> io::Result<()> {
        while let Some(memory) = chunks.take_emptied() {
            self.keep(memory);
        }
        if self.filling.as_ref().is_some_and(|(_, filled)| *filled == BLOCK) {
            self.close_block();
        }
        let before = chunks.len();
        let front = self.front;
        let room = |chunks: &Chunks| front.saturating_sub(used + chunks.len() - before);
        while room(chunks) >= BLOCK {
            let first = self.first;
            match self.blocks.front() {
                Some(Block::Leaving { .. } | Block::Back { .. }) => {}
                _ => break,
            }
            match self.blocks.pop_front() {
                Some(Block::Leaving { bytes, slot }) => {
                    self.withdraw(first, slot);
                    chunks.push_shared(bytes);
                }
                Some(Block::Back { bytes }) => chunks.push(bytes, BLOCK),
                _ => {}
            }
            self.first += 1;
            passed(chunks, BLOCK);
        }
        if self.blocks.is_empty()
            && room(chunks) > 0
            && let Some((memory, filled)) = self.filling.take_if(|(_, filled)| *filled > 0)
        {
            chunks.push(memory, filled);
            passed(chunks, filled);
        }
        let mut room = room(chunks);
        for at in 0..self.blocks.len() {
            match self.blocks[at] {
                _ if room < BLOCK => break,
                Block::Leaving { .. } => {}
                Block::Returning { .. } | Block::Back { .. } => room -= BLOCK,
                Block::Away { slot } => {
                    let into = self.memory()?;
                    self.blocks[at] = Block::Returning { slot };
                    self.orders.push_back(Order::Read { block: self.first + at as u64, slot, into });
                    room -= BLOCK;
                }
            }
        }
        Ok(())
    }

    /// The next thing that the disk has to do.
    pub fn take_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Whether the disk has been asked for something that changes what can be done here.
    pub fn is_waiting(&self) -> bool {
        let waits = |block: &Block| matches!(block, Block::Leaving { .. } | Block::Returning { .. });
        self.blocks.iter().any(waits) || !self.detours.is_empty()
    }

    /// The disk has done something.
    pub fn hear(&mut self, report: Report) {
        match report {
            Report::Written { block } | Report::Withdrawn { block } if self.detours.contains_key(&block) => {
                let slot = self.detours.remove(&block).unwrap_or_default();
                match report {
                    Report::Written { .. } => self.orders.push_back(Order::Free { slot }),
                    _ => drop(self.free.insert(slot)),
                }
            }
            Report::Written { block } => {
                if let Some(state) = self.block_mut(block)
                    && let Block::Leaving { slot, .. } = *state
                    && let Block::Leaving { bytes, .. } = std::mem::replace(state, Block::Away { slot })
                    && let Some(memory) = Arc::into_inner(bytes)
                {
                    self.keep(memory);
                }
            }
            Report::Withdrawn { .. } => {}
            Report::Read { block, bytes } => {
                if let Some(state) = self.block_mut(block)
                    && let Block::Returning { slot } = *state
                {
                    *state = Block::Back { bytes };
                    self.orders.push_back(Order::Free { slot });
                }
            }
            Report::Lost { error } => self.lost = Some(error),
            Report::Freed { slot } => _ = self.free.insert(slot),
            Report::Trouble { error } => self.trouble = Some(error),
        }
    }

    /// Why blocks cannot be written for now. Said once for each report.
    pub fn take_trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    /// Bytes cannot be had back.
    pub fn lose(&mut self, error: io::Error) {
        self.lost = Some(error);
    }

    /// Why bytes are lost. Said once.
    pub fn take_lost(&mut self) -> Option<io::Error> {
        self.lost.take()
    }

    fn block_mut(&mut self, block: u64) -> Option<&mut Block> {
        let at = block.checked_sub(self.first)?;
        self.blocks.get_mut(usize::try_from(at).ok()?)
    }

    /// The block that was being filled is full: it is to be written.
    fn close_block(&mut self) {
        let Some((memory, _)) = self.filling.take_if(|(_, filled)| *filled == BLOCK) else { return };
        let bytes = Arc::new(memory);
        let slot = self.free.pop_first().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        let block = self.first + self.blocks.len() as u64;
        self.orders.push_back(Order::Write { block, slot, bytes: bytes.clone() });
        self.blocks.push_back(Block::Leaving { bytes, slot });
    }

    /// A block that was to be written goes to the consumer.
    fn withdraw(&mut self, number: u64, slot: u64) {
        let orders = self.orders.len();
        self.orders.retain(|order| !matches!(order, Order::Write { block, .. } if *block == number));
        if self.orders.len() < orders {
            // The disk has not even heard of it.
            self.free.insert(slot);
        } else {
            self.detours.insert(number, slot);
            self.orders.push_back(Order::Withdraw { block: number });
        }
    }

    fn memory(&mut self) -> io::Result<MmapMut> {
        self.spare.pop().map_or_else(|| MmapMut::map_anon(BLOCK), Ok)
    }

    fn keep(&mut self, memory: MmapMut) {
        if memory.len() == BLOCK && self.spare.len() < self.behind {
            self.spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Fifo, Front};
    use proptest::prelude::*;

    const PAGE: usize = 4096;

    /// A disk that does what it was told when the test lets it, and not in order.
    #[derive(Default)]
    struct Disk {
        slots: HashMap<u64, Vec<u8>>,
        orders: Vec<Order>,
        is_full: bool,
        /// The most slots that were ever in use.
        most: usize,
    }

    impl Disk {
        /// Does one of the orders that wait, unless it cannot.
        fn work(&mut self, fifo: &mut Fifo, which: usize) {
            if self.orders.is_empty() {
                return;
            }
            let at = which % self.orders.len();
            let report = match self.orders.swap_remove(at) {
                order @ Order::Write { .. } if self.is_full => {
                    self.orders.push(order);
                    Report::Trouble { error: io::ErrorKind::StorageFull.into() }
                }
                Order::Write { block, slot, bytes } => {
                    assert!(self.slots.insert(slot, bytes.to_vec()).is_none(), "slot {slot} is in use");
                    self.most = self.most.max(self.slots.len());
                    Report::Written { block }
                }
                Order::Read { block, slot, mut into } => {
                    into.copy_from_slice(&self.slots[&slot]);
                    Report::Read { block, bytes: into }
                }
                Order::Free { slot } => {
                    assert!(self.slots.remove(&slot).is_some(), "slot {slot} is free");
                    Report::Freed { slot }
                }
                Order::Withdraw { .. } => unreachable!("it is heard at once"),
            };
            fifo.hear(report);
        }

        fn collect(&mut self, fifo: &mut Fifo) {
            while let Some(order) = fifo.take_order() {
                let Order::Withdraw { block: withdrawn } = order else {
                    self.orders.push(order);
                    continue;
                };
                let before = self.orders.len();
                self.orders.retain(|order| !matches!(order, Order::Write { block, .. } if *block == withdrawn));
                if self.orders.len() < before {
                    fifo.hear(Report::Withdrawn { block: withdrawn });
                }
            }
        }
    }

    /// The byte at this place of the stream.
    fn byte_at(at: usize) -> u8 {
        (at / PAGE % 251) as u8
    }

    /// Puts bytes into the buffer as far as it has room, at most so many.
    fn fill(fifo: &mut Fifo, mut at: usize, pages: usize) -> usize {
        let end = at + pages * PAGE;
        while at < end && fifo.has_room() {
            let space = fifo.writable().unwrap();
            let filled = space.len().min(end - at).min(PAGE - at % PAGE);
            space[..filled].fill(byte_at(at));
            fifo.commit(filled);
            at += filled;
        }
        at
    }

    /// Takes at most so many pages out, as far as they are available.
    fn drain(fifo: &mut Fifo, mut at: usize, pages: usize) -> usize {
        let end = at + (pages * PAGE).min(fifo.available());
        while at < end {
            let Front::Memory(memory) = fifo.front().unwrap() else { unreachable!("nothing is spliced") };
            let taken = memory.readable().len().min(end - at);
            for (index, byte) in memory.readable()[..taken].iter().enumerate().step_by(PAGE / 4) {
                assert_eq!(*byte, byte_at(at + index), "the byte at {}", at + index);
            }
            fifo.consume(taken);
            at += taken;
        }
        at
    }

    #[derive(Clone, Debug)]
    enum Step {
        Fill(usize),
        Drain(usize),
        Work(Vec<usize>),
        Full(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = || prop_oneof![1..20usize, 200..1500usize];
        prop_oneof![
            4 => pages().prop_map(Step::Fill),
            3 => pages().prop_map(Step::Drain),
            3 => prop::collection::vec(any::<usize>(), 1..8).prop_map(Step::Work),
            1 => any::<bool>().prop_map(Step::Full),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the disk does when: bytes come out in order, memory and file are no larger than
        /// they may be, and once the disk works again everything comes out.
        #[test]
        fn every_byte_comes_back_in_order_however_late_the_disk_is(
            blocks in 4..9usize,
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let (mut fifo, mut disk) = (Fifo::new(1 << 40, true), Disk::default());
            fifo.spill_beyond(blocks * BLOCK);
            let (mut written, mut read, mut most) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Fill(pages) => written = fill(&mut fifo, written, pages),
                    Step::Drain(pages) => read = drain(&mut fifo, read, pages),
                    Step::Work(which) => which.into_iter().for_each(|which| disk.work(&mut fifo, which)),
                    Step::Full(full) => disk.is_full = full,
                }
                fifo.tend();
                disk.collect(&mut fifo);
                let spill = fifo.spill().unwrap();
                most = most.max(fifo.len());
                prop_assert_eq!(fifo.len(), written - read);
                prop_assert!(fifo.available() <= spill.front() + BLOCK);
                prop_assert!(fifo.len() - spill.on_disk() <= blocks * BLOCK + BLOCK, "too much in memory");
                prop_assert!(fifo.available() > 0 || fifo.is_empty() || spill.is_waiting(), "nothing would go on");
            }
            prop_assert!(disk.most <= most / BLOCK + blocks, "{} slots for {most} bytes", disk.most);
            disk.is_full = false;
            for _ in 0..10_000 {
                disk.work(&mut fifo, 0);
                read = drain(&mut fifo, read, usize::MAX / PAGE);
                fifo.tend();
                disk.collect(&mut fifo);
            }
            prop_assert_eq!((read, fifo.len()), (written, 0));
            prop_assert!(disk.slots.is_empty() && disk.orders.is_empty(), "{} slots are left", disk.slots.len());
        }
    }

    #[test]
    fn a_full_disk_keeps_nothing_from_passing_through_memory() {
        let (mut fifo, mut disk) = (Fifo::new(1 << 40, true), Disk { is_full: true, ..Disk::default() });
        fifo.spill_beyond(LEAST_MEMORY);
        let (mut written, mut read) = (0, 0);
        for _ in 0..40 {
            written = fill(&mut fifo, written, 4 * BLOCK / PAGE);
            assert!(!fifo.has_room(), "the producer waits");
            fifo.tend();
            disk.collect(&mut fifo);
            disk.work(&mut fifo, 0);
            assert!(
                fifo.spill_mut().unwrap().take_trouble().is_none_or(|error| error.kind() == io::ErrorKind::StorageFull)
            );
            read = drain(&mut fifo, read, BLOCK / PAGE);
            fifo.tend();
            disk.collect(&mut fifo);
            assert!(fifo.has_room(), "a block has left, so another can come");
        }
        assert!(written - read <= LEAST_MEMORY && read == 40 * BLOCK);
        assert!(disk.slots.is_empty());
    }

    #[test]
    fn what_fits_in_memory_never_asks_the_disk() {
        let mut fifo = Fifo::new(1 << 40, true);
        fifo.spill_beyond(64 * BLOCK);
        let (mut written, mut read) = (0, 0);
        for _ in 0..100 {
            written = fill(&mut fifo, written, 40 * BLOCK / PAGE);
            fifo.tend();
            read = drain(&mut fifo, read, 40 * BLOCK / PAGE);
            assert!(fifo.take_order().is_none());
        }
        assert_eq!(written, read);
    }
}
