//! The disk behind a buffer that spills: files without a name, and a thread that reads and writes them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::event::EventfdFlags;

use crate::buffer::{BLOCK, Order, Report};
use crate::os::{block_all_signals, punch_hole, unnamed_file};

/// How soon a write that failed is tried again. It is tried at once when space was given back.
const RETRY: Duration = Duration::from_secs(1);

/// Slots of a file, at least.
const SLOTS: u64 = 64;

/// Files for a full buffer, at most: fewer than a process may have open.
const FILES: u64 = 128;

/// A hole is not punched sooner after the slot was written. By then the system has written its pages
/// to the disk. File systems write them out before they punch, so an earlier hole would cause writes
/// of bytes that nobody wants any more.
const SETTLED: Duration = Duration::from_secs(60);

/// Files without a name, and a thread that does with them what it is told. Nobody waits for the
/// thread: a disk that does not answer holds up nothing but the bytes that are on it. What it has
/// done makes its descriptor readable.
#[derive(Debug)]
pub struct Disk {
    desk: Arc<Desk>,
    reports: Receiver<Report>,
    bell: Arc<OwnedFd>,
}

/// Where orders wait.
#[derive(Debug, Default)]
struct Desk {
    orders: Mutex<Orders>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    /// A consumer waits for these, so they come first.
    reads: VecDeque<(u64, u64, MmapMut)>,
    /// These make room for the ones below.
    frees: VecDeque<u64>,
    writes: VecDeque<(u64, u64, Arc<MmapMut>)>,
    withdrawn: Vec<u64>,
    /// The block that is being written, and whether it is to be written no more if that fails.
    current: Option<(u64, bool)>,
    closed: bool,
}

enum Job {
    Read(u64, u64, MmapMut),
    Free(u64),
    Write(u64, u64, Arc<MmapMut>),
    Withdrawn(u64),
    Punch,
}

impl Disk {
    /// A disk in `folder` for up to `size` bytes, and the thread for it. Signals that others are to
    /// hear must be blocked.
    ///
    /// # Errors
    /// When there can be no file in the folder, or no thread.
    pub fn open(folder: &Path, size: usize) -> io::Result<Self> {
        let slots = SLOTS.max((size / BLOCK) as u64 / FILES);
        let files = Files { folder: folder.to_owned(), slots, open: BTreeMap::from([(0, unnamed_file(folder)?)]) };
        let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let desk = Arc::new(Desk::default());
        let (sender, reports) = channel();
        let clerk = Clerk {
            files,
            used: BTreeMap::new(),
            holes: BTreeMap::new(),
            desk: desk.clone(),
            reports: sender,
            bell: bell.clone(),
            retry: None,
            told: false,
        };
        thread::Builder::new().name("spill".to_owned()).spawn(move || {
            block_all_signals();
            clerk.work();
        })?;
        Ok(Disk { desk, reports, bell })
    }

    /// Has the thread do this.
    pub fn order(&self, order: Order) {
        let mut orders = self.desk.lock();
        match order {
            Order::Write { block, slot, bytes } => orders.writes.push_back((block, slot, bytes)),
            Order::Read { block, slot, into } => orders.reads.push_back((block, slot, into)),
            Order::Free { slot } => orders.frees.push_back(slot),
            Order::Withdraw { block } => {
                let before = orders.writes.len();
                orders.writes.retain(|(waiting, ..)| *waiting != block);
                if orders.writes.len() < before {
                    orders.withdrawn.push(block);
                } else if let Some((current, withdrawn)) = &mut orders.current {
                    *withdrawn |= *current == block;
                }
            }
        }
        drop(orders);
        self.desk.news.notify_one();
    }

    /// The next thing that the thread has done, if there is one.
    pub fn report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

impl Drop for Disk {
    /// The thread ends when it is done with what it is at; the process does not wait for it.
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.news.notify_one();
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files, each with the same number of slots. Space that is not in use any more goes back to the
/// file system with a whole file: that costs nothing, and no byte is written for it.
struct Files {
    folder: PathBuf,
    slots: u64,
    open: BTreeMap<u64, File>,
}

impl Files {
    /// The file with this slot, and where in it the slot is.
    fn place(&mut self, slot: u64) -> io::Result<(&File, u64)> {
        let file = match self.open.entry(slot / self.slots) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(unnamed_file(&self.folder)?),
        };
        Ok((file, slot % self.slots * BLOCK as u64))
    }

    fn write(&mut self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = self.place(slot)?;
        file.write_all_at(bytes, at)
    }

    fn read(&mut self, slot: u64, into: &mut [u8]) -> io::Result<()> {
        let (file, at) = self.place(slot)?;
        file.read_exact_at(into, at)
    }

    /// The slots that are in the same file as this one.
    fn beside(&self, slot: u64) -> Range<u64> {
        let first = slot - slot % self.slots;
        first..first + self.slots
    }

    /// Nothing in the file with this slot is in use.
    fn drop_file(&mut self, slot: u64) {
        self.open.remove(&(slot / self.slots));
    }
}

/// The thread.
struct Clerk {
    files: Files,
    /// Slots that are in use, and when they were written.
    used: BTreeMap<u64, Instant>,
    /// Slots that are not in use and still take space, and when they were written.
    holes: BTreeMap<u64, Instant>,
    desk: Arc<Desk>,
    reports: Sender<Report>,
    bell: Arc<OwnedFd>,
    /// When to try again to write.
    retry: Option<Instant>,
    /// The others know that the disk takes no more.
    told: bool,
}

impl Clerk {
    fn work(mut self) {
        while let Some(job) = self.next() {
            match job {
                Job::Withdrawn(block) => self.tell(Report::Withdrawn { block }),
                Job::Read(block, slot, mut into) => {
                    let report = match self.files.read(slot, &mut into) {
                        Ok(()) => Report::Read { block, bytes: into },
                        Err(error) => Report::Lost { error },
                    };
                    self.tell(report);
                }
                Job::Free(slot) => {
                    self.free(slot);
                    self.retry = None;
                    self.tell(Report::Freed { slot });
                }
                Job::Punch => _ = Instant::now().checked_sub(SETTLED).map(|then| self.punch(then)),
                Job::Write(block, slot, bytes) => match self.files.write(slot, &bytes) {
                    Ok(()) => {
                        drop(bytes);
                        self.holes.remove(&slot);
                        self.used.insert(slot, Instant::now());
                        (self.retry, self.told) = (None, false);
                        self.tell(Report::Written { block });
                    }
                    Err(error) => {
                        let now = Instant::now();
                        // A full disk needs the space of the holes at once.
                        self.retry = (!self.punch(now)).then_some(now + RETRY);
                        let mut orders = self.desk.lock();
                        match orders.current.take() {
                            Some((_, true)) => orders.withdrawn.push(block),
                            _ => orders.writes.push_front((block, slot, bytes)),
                        }
                        drop(orders);
                        if !std::mem::replace(&mut self.told, true) {
                            self.tell(Report::Trouble { error });
                        }
                    }
                },
            }
        }
    }

    /// The slot is not in use any more.
    fn free(&mut self, slot: u64) {
        let Some(written) = self.used.remove(&slot) else { return };
        self.holes.insert(slot, written);
        let beside = self.files.beside(slot);
        if self.used.range(beside.clone()).next().is_none() {
            self.files.drop_file(slot);
            self.holes.retain(|hole, _| !beside.contains(hole));
        }
    }

    /// When the next hole is worth punching.
    fn next_hole(&self) -> Option<Instant> {
        self.holes.values().min().map(|written| *written + SETTLED)
    }

    /// Gives the space of slots back that are not in use and that were written by `then`. Whether
    /// there were any.
    fn punch(&mut self, then: Instant) -> bool {
        let settled: Vec<u64> =
            self.holes.iter().filter(|(_, written)| **written <= then).map(|(slot, _)| *slot).collect();
        self.holes.retain(|_, written| *written > then);
        for slot in &settled {
            // A file system that cannot do it gives the space back with the file.
            if let Ok((file, at)) = self.files.place(*slot) {
                let _ = punch_hole(file, at, BLOCK as u64);
            }
        }
        !settled.is_empty()
    }

    /// Waits for the next job. None, once nobody wants anything more.
    fn next(&self) -> Option<Job> {
        let mut orders = self.desk.lock();
        loop {
            if orders.closed {
                return None;
            }
            if let Some(block) = orders.withdrawn.pop() {
                return Some(Job::Withdrawn(block));
            }
            if let Some((block, slot, into)) = orders.reads.pop_front() {
                return Some(Job::Read(block, slot, into));
            }
            if let Some(slot) = orders.frees.pop_front() {
                return Some(Job::Free(slot));
            }
            let now = Instant::now();
            if self.retry.is_none_or(|retry| retry <= now)
                && let Some((block, slot, bytes)) = orders.writes.pop_front()
            {
                orders.current = Some((block, false));
                return Some(Job::Write(block, slot, bytes));
            }
            let hole = self.next_hole();
            if hole.is_some_and(|hole| hole <= now) {
                return Some(Job::Punch);
            }
            let retry = self.retry.filter(|_| !orders.writes.is_empty());
            orders = match retry.into_iter().chain(hole).min() {
                None => self.desk.news.wait(orders).unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    let waited = self.desk.news.wait_timeout(orders, time.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn tell(&self, report: Report) {
        // Nobody listens any more once the run has ended.
        let _ = self.reports.send(report);
        // A counter that is full has rung already.
        while rustix::io::write(&*self.bell, &1u64.to_ne_bytes()) == Err(rustix::io::Errno::INTR) {}
    }
}
