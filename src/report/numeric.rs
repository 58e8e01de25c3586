//! Progress for programs that draw it themselves, such as `dialog --gauge`.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::output::Output;
use crate::stats::{Ending, Status};

/// Writes the percentage of a run to stderr, a line each time that it changes.
#[derive(Debug)]
pub(super) struct Numeric {
    output: Output,
    percents: Percents,
}

impl Numeric {
    /// # Errors
    /// If no descriptor is left to use stderr with.
    pub(super) fn new() -> io::Result<Self> {
        let output = Output::new(io::stderr().as_fd().try_clone_to_owned()?)?;
        Ok(Numeric { output, percents: Percents::default() })
    }

    /// Writes what is new in this status. The last one is waited for as long as `wait`.
    pub(super) fn write(&mut self, status: &Status, wait: Duration) {
        if let Some(percent) = self.percents.next(status)
            && !self.output.send(format!("{percent}\n").as_bytes(), wait)
        {
            self.percents.written = None;
        }
    }
}

/// Whole percents, each told once.
#[derive(Debug, Default)]
struct Percents {
    written: Option<u64>,
}

impl Percents {
    /// The percentage of this status, if it is known and new. 100 is all of a size, or the end of a
    /// run that is done.
    fn next(&mut self, status: &Status) -> Option<u64> {
        let known = status
            .progress()
            .1
            .map(|size| (u128::from(status.progress().0) * 100 / u128::from(size.max(1))).min(100) as u64);
        let percent = if status.ending == Some(Ending::Done) { Some(100) } else { known }?;
        (self.written.replace(percent) != Some(percent)).then_some(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_percent_is_told_once_and_100_is_the_end() {
        let mut percents = Percents::default();
        let mut next = |bytes, size, ending| percents.next(&Status { bytes, size, ending, ..Status::default() });
        let told = [0, 9, 10, 19, 999].map(|bytes| next(bytes, Some(1000), None));
        assert_eq!(told, [Some(0), None, Some(1), None, Some(99)]);
        assert_eq!(next(1000, Some(1000), None), Some(100));
        assert_eq!(next(1000, Some(1000), Some(Ending::Done)), None);
        // Without a size only the end is known, and only if it is a good one.
        let mut percents = Percents::default();
        let mut next = |ending| percents.next(&Status { bytes: 10, ending, ..Status::default() });
        assert_eq!([None, Some(Ending::Failed), Some(Ending::Done)].map(&mut next), [None, None, Some(100)]);
    }
}
