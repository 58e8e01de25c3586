//! How long this process had to wait for a processor.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The time that the main thread has spent ready to run without running, as the scheduler counts
/// it (`/proc/self/schedstat`, second field).
///
/// A sleep does not count, nor does a stop by SIGSTOP. Without `/proc`, no delay is seen.
#[derive(Debug, Default)]
pub struct RunDelay {
    file: Option<File>,
    opened: bool,
    /// In nanoseconds, up to the last call.
    seen: u64,
}

impl RunDelay {
    /// The delay since the last call, or since the start of the process.
    pub fn take(&mut self) -> Duration {
        if !self.opened {
            self.opened = true;
            self.file = File::open("/proc/self/schedstat").ok();
        }
        let total = self.file.as_ref().and_then(read).unwrap_or(self.seen);
        let passed = total.saturating_sub(self.seen);
        self.seen = total;
        Duration::from_nanos(passed)
    }
}

fn read(file: &File) -> Option<u64> {
    let mut text = [0; 128];
    let length = file.read_at(&mut text, 0).ok()?;
    second_number(std::str::from_utf8(&text[..length]).ok()?)
}

fn second_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_scheduler_writes() {
        assert_eq!(second_number("502294 572434 1\n"), Some(572_434));
        assert_eq!(second_number(""), None);
    }

    #[test]
    fn a_delay_is_told_once() {
        let mut delay = RunDelay { seen: u64::MAX, ..RunDelay::default() };
        assert_eq!(delay.take(), Duration::ZERO, "a counter that goes back tells nothing");
    }
}
