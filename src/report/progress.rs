//! The line that shows a run while it lasts, and the environment's say in its look.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::isatty;

use super::ProgressLine;
use super::terminal::Terminal;
use crate::stats::Status;

/// The progress line on stderr. It is drawn only when told to.
///
/// On a terminal it is redrawn in place, below what others print and beside the lines of other
/// pcproxies of the same pipeline. Elsewhere each drawing is a line of its own, with a time of day
/// and without a bar. Nothing here waits for the terminal: what it does not take at once is not
/// drawn.
#[derive(Debug)]
pub struct Progress {
    line: ProgressLine,
    terminal: Terminal,
}

impl Progress {
    /// On stderr, with the look that the environment allows. `eta_at`: see [`Look`].
    ///
    /// # Errors
    /// If no descriptor is left to use it with.
    pub fn new(eta_at: bool) -> io::Result<Self> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        Self::on(stderr, Look { eta_at, ..Look::of(|name| std::env::var(name).ok()) })
    }

    /// On anything that can be written to, and that others may share. Without a terminal nothing is
    /// redrawn or coloured.
    ///
    /// # Errors
    /// If the system does not tell what `fd` is.
    pub fn on(fd: OwnedFd, look: Look) -> io::Result<Self> {
        let is_terminal = isatty(&fd);
        let look = Look { colour: look.colour && is_terminal, redraws: look.redraws && is_terminal, ..look };
        Ok(Progress { line: ProgressLine::new(look), terminal: Terminal::new(fd, is_terminal, look.redraws)? })
    }

    /// Shows this status. Draws nothing if the screen shows it already, if the terminal is stopped
    /// or busy, if another job uses it, or if a program such as `less` or a password prompt has it.
    pub fn draw(&mut self, status: &Status) {
        let text = self.line.render(status, self.terminal.columns());
        self.terminal.draw(&text);
    }

    /// Prints a message of one or more lines above the line.
    pub fn above(&mut self, message: &str) {
        self.terminal.above(message);
    }

    /// Shows the last status, and leaves it on the screen. Messages may follow, and no more
    /// drawings.
    pub fn finish(&mut self, status: &Status) {
        let text = self.line.render(status, self.terminal.columns());
        self.terminal.end(Some(&text));
    }
}

/// The signs and colours that the line may use, and how it may be drawn. The default is the plainest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Bar and gauge are made of Unicode's blocks; else of ASCII.
    pub blocks: bool,
    /// The state has a colour.
    pub colour: bool,
    /// The line is redrawn in place. Else each drawing is a line below the one before, with a time
    /// of day and without a bar.
    pub redraws: bool,
    /// The time of day at which the run ends takes the place of the time that is left, as long as
    /// that is more than an hour.
    pub eta_at: bool,
}

impl Look {
    /// The look that the variables of an environment allow, without `eta_at`.
    ///
    /// ```
    /// use pcproxy::report::Look;
    /// let look = Look::of(|name| match name {
    ///     "TERM" => Some("xterm".to_owned()),
    ///     "LANG" => Some("de_DE.UTF-8".to_owned()),
    ///     _ => None,
    /// });
    /// assert_eq!(look, Look { blocks: true, colour: true, redraws: true, eta_at: false });
    /// assert_eq!(Look::of(|_| None), Look::default());
    /// ```
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let term = set(&"TERM").unwrap_or_else(|| "dumb".to_owned());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_lowercase();
        let redraws = term != "dumb";
        // The fonts of Linux's console have few blocks.
        let blocks = redraws && term != "linux" && (locale.contains("utf-8") || locale.contains("utf8"));
        Look { blocks, colour: redraws && set(&"NO_COLOR").is_none(), redraws, eta_at: false }
    }
}
