//! The terminal while `top` has it. Nothing here waits for the terminal: it may be stopped, or
//! closed at its other end.

use std::cell::RefCell;
use std::io::{self, Write, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use pcproxy::os::SharedFd;
use ratatui::backend::{Backend, ClearType, CrosstermBackend, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::{Frame, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getpgrp, getppid, getsid};
use rustix::termios::{
    Action, OptionalActions, Termios, isatty, tcflow, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};

/// Shows the alternate screen and hides the cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";

/// Undoes that, whatever was being drawn.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?1049l\x1b[?25h";

/// How long the terminal has to take [`LEAVE`] before it is given up.
const PATIENCE: Duration = Duration::from_millis(200);

/// The largest screen that is drawn. Terminals may claim to have 65535 columns and rows.
const LARGEST: Size = Size { width: 1000, height: 500 };

/// A terminal that does not know its size has this.
const USUAL: Size = Size { width: 80, height: 24 };

/// Changes to the terminal that are undone in the end, also after a panic.
struct Entered {
    output: SharedFd,
    modes: Termios,
}

static ENTERED: Mutex<Option<Entered>> = Mutex::new(None);

/// The terminal while it shows the table. It is as it was before once this is dropped, or the
/// program panics.
pub struct Screen {
    terminal: Terminal<Drawing>,
    /// Bytes that the terminal has not taken yet.
    unsent: Unsent,
    output: SharedFd,
    input: SharedFd,
    /// The program was stopped, so the terminal may be in any state.
    lost: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When there is none.
    pub fn new() -> io::Result<Self> {
        static REPORT: Once = Once::new();
        REPORT.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                report(panic);
            }));
        });
        let output = SharedFd::new(stdout().as_fd().try_clone_to_owned()?)?;
        let input = if isatty(stdin()) {
            stdin().as_fd().try_clone_to_owned()?
        } else {
            rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?
        };
        let unsent = Unsent::default();
        let backend = Drawing { to: CrosstermBackend::new(unsent.clone()), size: size(output.as_fd()) };
        let terminal = Terminal::new(backend)?;
        let mut screen = Screen { terminal, unsent, output, input: SharedFd::new(input)?, lost: false };
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&mut self) -> io::Result<()> {
        let modes = tcgetattr(&self.output)?;
        let mut raw = modes.clone();
        raw.make_raw();
        tcsetattr(&self.output, OptionalActions::Now, &raw)?;
        let output = SharedFd::new(self.output.as_fd().try_clone_to_owned()?)?;
        *ENTERED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Entered { output, modes });
        self.unsent.0.borrow_mut().extend_from_slice(ENTER);
        Ok(())
    }

    /// Draws, unless the terminal has yet to take what was drawn before, or belongs to others.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame)) -> io::Result<()> {
        if !self.is_ours() || self.is_writing() {
            return Ok(());
        }
        if self.lost {
            leave();
            self.enter()?;
            self.lost = false;
            self.terminal.backend_mut().size = size(self.output.as_fd());
            let area = self.terminal.backend().size;
            self.terminal.resize(ratatui::layout::Rect::from((Position::ORIGIN, area)))?;
        }
        self.terminal.backend_mut().size = size(self.output.as_fd());
        self.terminal.draw(picture)?;
        self.write()
    }

    /// Whether the terminal has yet to take what was drawn.
    pub fn is_writing(&self) -> bool {
        !self.unsent.0.borrow().is_empty()
    }

    /// Writes what the terminal takes.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn write(&mut self) -> io::Result<()> {
        let mut unsent = self.unsent.0.borrow_mut();
        while !unsent.is_empty() {
            match self.output.write(&unsent) {
                Ok(written) => drop(unsent.drain(..written)),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The bytes that were typed.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; 256];
        match self.input.read(&mut bytes) {
            Ok(0) => Err(Errno::IO.into()),
            Ok(count) => Ok(bytes[..count].to_owned()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Descriptors to poll: the keyboard, and the screen if it has yet to take something.
    pub fn interests(&self) -> (PollFd<'_>, Option<PollFd<'_>>) {
        let output = self.is_writing().then(|| PollFd::new(&self.output, PollFlags::OUT));
        (PollFd::new(&self.input, PollFlags::IN), output)
    }

    /// Whether the terminal listens to this process. A process in the background would be stopped
    /// if it read from the terminal, or changed it.
    pub fn is_ours(&self) -> bool {
        is_in_front(self.output.as_fd())
    }

    /// The program was stopped and goes on: the terminal may be in any state.
    pub fn set_lost(&mut self) {
        self.lost = true;
    }

    /// Gives the terminal back, to be stopped.
    pub fn suspend(&mut self) {
        self.unsent.0.borrow_mut().clear();
        leave();
        self.lost = true;
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether a shell can go on with this process once it is stopped. If its parent is in another
/// session, nobody can.
pub fn has_shell() -> bool {
    let parent = getppid().and_then(|parent| getsid(Some(parent)).ok());
    parent.is_some() && parent == getsid(None).ok()
}

/// Makes the terminal what it was before, as far as that goes. A second call changes nothing.
fn leave() {
    let Ok(mut entered) = ENTERED.try_lock() else { return };
    let Some(Entered { mut output, modes }) = entered.take() else { return };
    if !is_in_front(output.as_fd()) {
        return;
    }
    // After Ctrl-S, or where this was stopped by another program, it would take nothing.
    let _ = tcflow(&output, Action::OOn);
    let (mut rest, end) = (LEAVE, Instant::now() + PATIENCE);
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::AGAIN | Errno::INTR) => {
                let left = end.saturating_duration_since(Instant::now());
                let wait = Timespec::try_from(left).unwrap_or_default();
                if left.is_zero() || poll(&mut [PollFd::new(&output, PollFlags::OUT)], Some(&wait)) == Ok(0) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let _ = tcsetattr(&output, OptionalActions::Now, &modes);
}

fn is_in_front(terminal: BorrowedFd) -> bool {
    !tcgetpgrp(terminal).is_ok_and(|front| front != getpgrp())
}

fn size(terminal: BorrowedFd) -> Size {
    match tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { width: size.ws_col.min(LARGEST.width), height: size.ws_row.min(LARGEST.height) }
        }
        _ => USUAL,
    }
}

/// Bytes for the terminal. Writing to them never fails.
#[derive(Clone, Debug, Default)]
struct Unsent(Rc<RefCell<Vec<u8>>>);

impl Write for Unsent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Draws into [`Unsent`]. It never asks the terminal for anything: the answer would be taken for
/// keys.
struct Drawing {
    to: CrosstermBackend<Unsent>,
    size: Size,
}

impl Backend for Drawing {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> io::Result<()> {
        self.to.draw(content)
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.to.hide_cursor()
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.to.show_cursor()
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.to.set_cursor_position(position)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.to.clear()
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.to.clear_region(region)
    }

    fn size(&self) -> io::Result<Size> {
        Ok(self.size)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
