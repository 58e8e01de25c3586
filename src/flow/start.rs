//! The start mark: how much must be held before anything goes out.

/// Holds the consumer back until the buffer holds enough, and again each time after the buffer ran
/// empty. The rule is that of `mbuffer -P`: a tape, a player or a disk then gets long runs.
///
/// ```
/// use pcproxy::flow::StartMark;
/// let mut start = StartMark::at(100);
/// assert!(!start.admits(99));
/// assert!(start.admits(100));
/// assert!(start.admits(1), "a run goes on until the buffer is empty");
/// assert!(!start.admits(0));
/// assert!(!start.admits(99));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StartMark {
    mark: usize,
    open: bool,
    /// No more bytes will come, so there is nothing to wait for.
    ended: bool,
}

impl StartMark {
    /// Waits until `mark` bytes are held. A mark of 0 never waits.
    pub fn at(mark: usize) -> Self {
        StartMark { mark, open: mark == 0, ended: false }
    }

    /// Moves the mark, in bytes. A run that has started goes on.
    pub fn set(&mut self, mark: usize) {
        self.mark = mark;
    }

    /// Whether bytes may go to the consumer while `held` bytes are held.
    pub fn admits(&mut self, held: usize) -> bool {
        if held >= self.mark || self.ended {
            self.open = true;
        } else if held == 0 {
            self.open = false;
        }
        self.open
    }

    /// Whether bytes may go to the consumer, by the last answer of [`admits`](Self::admits).
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The bytes that are held go out now, whether there are enough of them or not.
    pub fn start(&mut self) {
        self.open = true;
    }

    /// The input has ended: what is held goes out from now on.
    pub fn end(&mut self) {
        self.ended = true;
        self.open = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_nothing_never_waits() {
        let mut start = StartMark::at(0);
        assert!(start.is_open() && start.admits(0) && start.admits(1));
    }

    #[test]
    fn the_end_of_the_input_and_a_request_start_it() {
        let mut start = StartMark::at(10);
        assert!(!start.admits(3));
        start.start();
        assert!(start.is_open() && start.admits(3));
        assert!(!start.admits(0), "a request starts one run");
        start.end();
        assert!(start.admits(0) && start.admits(1), "after the end nothing waits");
    }
}
