//! A row on a terminal, among those of the other pcproxies of a pipeline.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{fstat, makedev};
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp, tcgetwinsize};
use serde::{Deserialize, Serialize};

use super::output::Output;
use crate::os::{FolderError, Id, Presence, RuntimeFolder, SharedFile, lives, own_id};

/// Columns and rows that are assumed for a terminal that does not report its size.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// How often a lock that is taken is tried again, a millisecond apart, at the beginning and at the
/// end of a run. A drawing in between tries once, since another one follows.
const LAST_TRIES: u32 = 50;

/// How long the last line waits for a busy terminal.
const LAST_WAIT: Duration = Duration::from_millis(100);

/// Bytes of messages that are kept while another program has the terminal: a dozen messages.
const BACKLOG: usize = 4096;

/// Bytes of the longest file of rows that is believed: rows for thousands of processes.
const LONGEST: u64 = 64 * 1024;

/// Draws one row, over what it shows, or line below line.
#[derive(Debug)]
pub(super) struct Terminal {
    output: Output,
    is_terminal: bool,
    redraws: bool,
    id: Id,
    /// Nothing if it cannot be used: then this process is alone.
    registry: Option<Registry>,
    /// The block as it was last seen.
    block: Block,
    /// The text of the row, and the version of the block that has it.
    shown: Option<(String, u32)>,
    /// Messages for the time when the terminal is given back.
    kept: String,
    ended: bool,
}

/// The programs that may use a terminal at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// This job.
    Ours,
    /// Another job, or a shell at its prompt.
    OtherJob,
    /// A program beside us that reads keys (`less`) or a password (`ssh`, `sudo`): it has switched
    /// off the echo, or reading line by line.
    Keys,
}

/// The rows of a job, which is a pipeline: one for each process that has not ended.
///
/// Between drawings the cursor is at the beginning of the first row. So what another program
/// prints pushes the rows down instead of being drawn over, and what a narrower terminal wraps
/// is below the cursor, where it can be erased.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Block {
    /// The process group of the job. Only one job at a time uses a terminal.
    job: i32,
    /// Width of the terminal when it was last drawn on; 0 if it has not been yet.
    columns: usize,
    /// How often all rows have been erased: each process draws its own anew.
    erased: u32,
    /// Whose rows they are. Only the last to go removes those that were killed.
    rows: Vec<Id>,
}

impl Block {
    /// Which row is that of `id`: a new one at the bottom if it has none.
    fn row(&mut self, id: Id) -> usize {
        if !self.rows.contains(&id) {
            self.rows.push(id);
            if !self.is_drawn() {
                // Shells start a pipeline from left to right.
                self.rows.sort();
            }
        }
        self.rows.iter().position(|row| *row == id).unwrap_or_default()
    }

    fn is_drawn(&self) -> bool {
        self.columns > 0
    }

    /// The text that erases all rows.
    fn erase(&mut self) -> String {
        self.erased = self.erased.wrapping_add(1);
        "\r\x1b[J".to_owned()
    }

    /// The text that goes before any other on a terminal of so many columns.
    fn adapt(&mut self, columns: usize) -> String {
        let narrower = columns < self.columns;
        self.columns = columns;
        if narrower { self.erase() } else { String::new() }
    }

    /// Gives up the row of `id` on a terminal of so many columns and rows. `text` is left above
    /// the rows of those that go on.
    fn close(&mut self, id: Id, text: Option<&str>, (columns, rows): (usize, usize)) -> String {
        let row = self.row(id);
        self.rows.remove(row);
        let was_drawn = self.is_drawn();
        let mut out = String::new();
        if was_drawn || text.is_some() {
            out += &self.adapt(columns);
        }
        if was_drawn && row < rows && (row > 0 || text.is_none()) {
            out += &format!("{}\x1b[M{}", "\n".repeat(row), up(row));
        }
        if let Some(text) = text {
            out += if row > 0 { "\x1b[L" } else { "" };
            out += &last(text);
        }
        if !self.rows.iter().any(|id| lives(*id)) {
            // Below the rows of those that were killed.
            out += &"\n".repeat(if was_drawn { self.rows.len() } else { 0 });
            self.rows.clear();
        }
        out
    }
}

/// The text that leaves a row on the screen.
fn last(text: &str) -> String {
    format!("\r{text}\x1b[K\n")
}

/// Draws a row so many below the cursor, which comes back.
fn drawn(row: usize, text: &str) -> String {
    // Unlike a movement of the cursor, a line feed makes room at the bottom of the screen.
    format!("{}\r{text}\x1b[K{}\r", "\n".repeat(row), up(row))
}

fn up(rows: usize) -> String {
    if rows > 0 { format!("\x1b[{rows}A") } else { String::new() }
}

impl Terminal {
    /// # Errors
    /// If the system does not tell what `fd` is.
    pub(super) fn new(fd: OwnedFd, is_terminal: bool, redraws: bool) -> io::Result<Self> {
        let registry = if redraws { Registry::open(&fd) } else { None };
        let mut terminal = Terminal {
            output: Output::new(fd)?,
            is_terminal,
            redraws,
            id: own_id(),
            registry,
            block: Block::default(),
            shown: None,
            kept: String::new(),
            ended: false,
        };
        if redraws {
            terminal.change(LAST_TRIES, |terminal, block| {
                block.row(terminal.id);
                true
            });
        }
        Ok(terminal)
    }

    /// Its width; without a terminal there is no bound.
    pub(super) fn columns(&self) -> usize {
        if self.is_terminal { self.size().0 } else { usize::MAX }
    }

    /// Columns and rows.
    fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.output) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => DEFAULT_SIZE,
        }
    }

    /// Shows `text` in the row of this process.
    pub(super) fn draw(&mut self, text: &str) {
        if self.ended || self.current_use() != Use::Ours {
            // The screen may show anything by the time it is our turn again.
            self.shown = None;
            return;
        }
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            self.above(&kept);
        }
        if !self.redraws {
            if self.shows(text, 0) || self.output.send(format!("{text}\n").as_bytes(), Duration::ZERO) {
                self.shown = Some((text.to_owned(), 0));
            }
        } else {
            let (columns, rows) = self.size();
            self.change(0, |terminal, block| {
                let row = block.row(terminal.id);
                let mut out = block.adapt(columns);
                if row < rows && !terminal.shows(text, block.erased) {
                    out += &drawn(row, text);
                }
                let sent = out.is_empty() || terminal.output.send(out.as_bytes(), Duration::ZERO);
                if sent {
                    terminal.shown = Some((text.to_owned(), block.erased));
                }
                sent
            });
        }
    }

    /// Prints a message of one or more lines above all rows. While a program beside us reads keys or
    /// a password, the message is kept until the next drawing, or until the end.
    pub(super) fn above(&mut self, message: &str) {
        let message = message.strip_suffix('\n').unwrap_or(message);
        let mut out = format!("{message}\n");
        let used = self.current_use();
        if used == Use::Keys && !self.ended {
            if self.kept.len() < BACKLOG {
                self.kept += &out;
            }
            return;
        }
        if self.redraws && used == Use::Ours {
            let columns = self.size().0;
            let row = |block: &Block, id| block.rows.iter().position(|row| *row == id);
            let changed = self.change(0, |terminal, block| {
                block.adapt(columns);
                if !block.rows.is_empty() {
                    out = block.erase() + &out;
                }
                if let (Some(row), Some((text, erased))) = (row(block, terminal.id), &mut terminal.shown) {
                    out += &drawn(row, text);
                    *erased = block.erased;
                }
                true
            });
            if !changed {
                out = format!("\r\x1b[K{out}");
            }
        }
        self.output.queue(out.as_bytes());
    }

    /// Gives up the row. `text` is left on the screen, above the rows of those that go on.
    pub(super) fn end(&mut self, text: Option<&str>) {
        (self.ended, self.shown) = (true, None);
        let (ours, size) = (self.current_use() == Use::Ours, self.size());
        let closed = self.redraws
            && self.change(LAST_TRIES, |terminal, block| {
                let out = block.close(terminal.id, text, size);
                if ours {
                    terminal.output.send(out.as_bytes(), LAST_WAIT);
                }
                true
            });
        if let Some(text) = text.filter(|_| !closed && ours) {
            let last = if self.redraws { last(text) } else { format!("{text}\n") };
            self.output.send(last.as_bytes(), LAST_WAIT);
        }
        // Nobody will draw again, so they cannot wait for a better moment.
        let kept = std::mem::take(&mut self.kept);
        self.output.queue(kept.as_bytes());
    }

    fn shows(&self, text: &str, erased: u32) -> bool {
        self.shown.as_ref().is_some_and(|shown| (shown.0.as_str(), shown.1) == (text, erased))
    }

    /// The programs that may use the terminal now.
    fn current_use(&self) -> Use {
        // A terminal that does not control this process has no foreground job to tell.
        if self.is_terminal && tcgetpgrp(&self.output).is_ok_and(|group| group != getpgrp()) {
            return Use::OtherJob;
        }
        let by_line = LocalModes::ECHO | LocalModes::ICANON;
        let keys = |output| tcgetattr(output).is_ok_and(|modes| !modes.local_modes.contains(by_line));
        if self.is_terminal && keys(&self.output) { Use::Keys } else { Use::Ours }
    }

    /// Changes the block under its lock, if `change` says so. False if another process holds the
    /// lock, or `change` says no.
    fn change(&mut self, retries: u32, change: impl FnOnce(&mut Self, &mut Block) -> bool) -> bool {
        let mut block = self.block.clone();
        if let Some(registry) = &mut self.registry {
            match registry.lock(retries) {
                Ok(true) => block = registry.read(),
                Ok(false) => return false,
                Err(_) => self.registry = None,
            }
        }
        let before = block.clone();
        let job = getpgrp().as_raw_nonzero().get();
        let is_left = !block.rows.contains(&self.id) && !block.rows.iter().any(|id| lives(*id));
        if block.job != job || is_left {
            // Of another job, or of processes that were killed.
            block = Block { job, ..Block::default() };
        }
        // A job in the background leaves the rows of another job alone.
        let changed = (before.job == job || self.current_use() != Use::OtherJob) && change(self, &mut block);
        if let Some(registry) = &self.registry {
            if changed && block != before {
                registry.write(&block);
            }
            registry.unlock();
        }
        if changed {
            self.block = block;
        }
        changed
    }
}

impl Drop for Terminal {
    /// The line of a run that fails stays on the screen.
    fn drop(&mut self) {
        if self.redraws && !self.ended {
            let shown = self.shown.take();
            self.end(shown.as_ref().map(|(text, _)| text.as_str()));
        }
    }
}

/// Where the processes of a pipeline find each other's rows: a file for each terminal.
#[derive(Debug)]
struct Registry {
    file: SharedFile,
    /// While it lasts, nobody takes the row for that of a process that was killed.
    _presence: Arc<Presence>,
}

impl Registry {
    /// The block of the terminal `fd`; none where there can be none.
    fn open(fd: &OwnedFd) -> Option<Self> {
        let device = fstat(fd).ok()?.st_rdev;
        if device == makedev(5, 0) {
            // `/dev/tty` is another terminal for each process.
            return None;
        }
        let folder = RuntimeFolder::open().ok()?;
        let presence = Presence::show(&folder).ok()?;
        let file = SharedFile::open(folder, format!("terminal-{device}.rows"), true).ok()??;
        Some(Registry { file, _presence: presence })
    }

    /// Locks the file; tries so often again, a millisecond apart. False if another process held the
    /// lock each time.
    fn lock(&mut self, retries: u32) -> Result<bool, FolderError> {
        for _ in 0..retries {
            if self.file.lock(|_| ())? {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.file.lock(|_| ())
    }

    fn unlock(&self) {
        let _ = self.file.unlock();
    }

    /// The block in the locked file; a new one if the file is damaged.
    fn read(&self) -> Block {
        let length = self.file.file().metadata().map_or(0, |found| found.len());
        if length > LONGEST {
            return Block::default();
        }
        let mut bytes = vec![0; length as usize];
        let read = self.file.file().read_exact_at(&mut bytes, 0);
        read.ok().and_then(|()| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes the block to the locked file; removes it with its last row.
    fn write(&self, block: &Block) {
        // Should this fail, rows are drawn over each other: no harm to the data.
        if block.rows.is_empty() {
            let _ = self.file.remove();
        } else if let Ok(bytes) = serde_json::to_vec(block) {
            let file = self.file.file();
            let _ = file.write_all_at(&bytes, 0).and_then(|()| file.set_len(bytes.len() as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_pipeline_until_they_are_drawn() {
        let id = |pid| Id { pid, nonce: 0 };
        let mut block = Block::default();
        assert_eq!([3, 1, 2, 1].map(|pid| block.row(id(pid))), [0, 0, 1, 0]);
        assert_eq!(block.adapt(80), "");
        assert_eq!([0, 3, 0].map(|pid| block.row(id(pid))), [3, 2, 3]);
    }

    #[test]
    fn what_a_narrower_terminal_wraps_is_erased_and_drawn_anew_by_all() {
        let mut block = Block::default();
        let erasures = [80, 100, 99, 99, 120].map(|columns| (block.adapt(columns), block.erased));
        assert_eq!(
            erasures.map(|(out, erased)| (out.is_empty(), erased)),
            [(true, 0), (true, 0), (false, 1), (true, 1), (true, 1)]
        );
    }

    #[test]
    fn a_row_that_is_left_goes_above_those_that_go_on() {
        let (own, size) = (own_id(), (80, 24));
        let dead = Id { nonce: own.nonce ^ 1, ..own };
        let with = |rows: &[Id]| Block { columns: 80, rows: rows.to_vec(), ..Block::default() };
        // Alone: no movement of the cursor.
        assert_eq!(with(&[own]).close(own, Some("x"), size), "\rx\x1b[K\n");
        // Below one that was killed: beyond that one's row at the end.
        assert_eq!(with(&[dead, own]).close(own, Some("x"), size), "\n\x1b[M\x1b[1A\x1b[L\rx\x1b[K\n\n");
        // One that goes on stays.
        let mut block = with(&[own, dead]);
        assert_eq!(block.close(dead, Some("x"), size), "\n\x1b[M\x1b[1A\x1b[L\rx\x1b[K\n");
        assert_eq!(block.rows, [own]);
        // Without a word.
        assert_eq!(with(&[own, dead]).close(dead, None, size), "\n\x1b[M\x1b[1A");
        assert_eq!(Block { rows: vec![own], ..Block::default() }.close(own, None, size), "");
    }
}
