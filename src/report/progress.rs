//! The line that shows a run while it lasts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use rustix::termios::isatty;
use unicode_width::UnicodeWidthChar;

use super::terminal::Terminal;
use crate::stats::{Ending, State, Status};
use crate::units::{show_briefly, show_rate};

/// Cells of the bar: as few as make sense, and as many as are nice to look at.
const BAR: (usize, usize) = (8, 40);

/// Cells of the gauge of the buffer.
const GAUGE: usize = 5;

/// A longer name is cut to so many columns.
const NAME: usize = 20;

/// Colours by their numbers in `ESC [ … m`.
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const BLUE: u8 = 34;
const MAGENTA: u8 = 35;
const CYAN: u8 = 36;

/// The line itself, on stderr: drawn when told to, and at no other time.
///
/// On a terminal it is redrawn in place, below what is printed by others and beside the lines of
/// other pcproxies of the same pipeline. Where that cannot be done, each drawing is a line of its
/// own. Nothing here waits for the terminal: what it does not take at once is not drawn.
#[derive(Debug)]
pub struct Progress {
    line: ProgressLine,
    terminal: Terminal,
}

impl Progress {
    /// On stderr, looking as the environment allows.
    ///
    /// # Errors
    /// When there is no descriptor left to use it with.
    pub fn new() -> io::Result<Self> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(Self::on(stderr, Look::of(|name| std::env::var(name).ok())))
    }

    /// On anything that can be written to, and which others may share. What is no terminal is
    /// neither redrawn nor coloured.
    pub fn on(fd: OwnedFd, look: Look) -> Self {
        let is_terminal = isatty(&fd);
        let look = Look { colour: look.colour && is_terminal, redraws: look.redraws && is_terminal, ..look };
        Progress { line: ProgressLine::new(look), terminal: Terminal::new(fd, is_terminal, look.redraws) }
    }

    /// Shows this status, in what is left of the line if the terminal has become narrower.
    /// Draws nothing if that is on the screen already, if the terminal is stopped or busy, or
    /// if it is another job's turn to use it.
    pub fn draw(&mut self, status: &Status) {
        let text = self.line.render(status, self.terminal.columns());
        self.terminal.draw(&text);
    }

    /// Prints a message of one or more lines above the line.
    pub fn above(&mut self, message: &str) {
        self.terminal.above(message);
    }

    /// Shows the last status, and leaves it on the screen. After that there may be messages, and
    /// no more drawings.
    pub fn finish(&mut self, status: &Status) {
        let text = self.line.render(status, self.terminal.columns());
        self.terminal.end(Some(&text));
    }
}

/// What the line may be made of, and how it may be drawn. The default is the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Bar and gauge are made of Unicode's blocks; else of ASCII.
    pub blocks: bool,
    /// The state has a colour.
    pub colour: bool,
    /// A terminal can draw over what it shows.
    pub redraws: bool,
}

impl Look {
    /// What the variables of an environment allow.
    ///
    /// ```
    /// use pcproxy::report::Look;
    /// let look = Look::of(|name| match name {
    ///     "TERM" => Some("xterm".to_owned()),
    ///     "LANG" => Some("de_DE.UTF-8".to_owned()),
    ///     _ => None,
    /// });
    /// assert_eq!(look, Look { blocks: true, colour: true, redraws: true });
    /// assert_eq!(Look::of(|_| None), Look::default());
    /// ```
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let term = set(&"TERM").unwrap_or_else(|| "dumb".to_owned());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_lowercase();
        let redraws = term != "dumb";
        // The fonts of the console have few blocks.
        let blocks = redraws && term != "linux" && (locale.contains("utf-8") || locale.contains("utf8"));
        Look { blocks, colour: redraws && set(&"NO_COLOR").is_none(), redraws }
    }
}

/// Makes the text of the line. It remembers how fast things went, for the time that is left.
#[derive(Debug)]
pub struct ProgressLine {
    look: Look,
    /// Reckons the time that is left, and makes the bar.
    bar: ProgressBar,
    sheet: Sheet,
}

/// Some columns of the line.
struct Part {
    rank: Rank,
    text: String,
    width: usize,
}

/// What matters most in a line comes first here. In a narrow terminal the last ones go first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Rate,
    Name,
    Percent,
    Eta,
    Bytes,
    State,
    Elapsed,
    Gauge,
    Bar,
    Limit,
    Mean,
    Label,
}

impl Part {
    fn new(rank: Rank, text: String) -> Self {
        let width = text.chars().filter_map(|c| c.width()).sum();
        Part { rank, text, width }
    }
}

impl ProgressLine {
    /// A line of this look, for a run that begins now.
    pub fn new(look: Look) -> Self {
        let sheet = Sheet::default();
        let target = ProgressDrawTarget::term_like(Box::new(sheet.clone()));
        ProgressLine { look, bar: ProgressBar::with_draw_target(None, target), sheet }
    }

    /// The text for a terminal of `width` columns. It leaves the last one free, so that no
    /// terminal wraps it, and numbers stay in their places from one status to the next.
    ///
    /// ```
    /// # use pcproxy::report::{Look, ProgressLine};
    /// # use pcproxy::stats::{Account, Facts, Interval};
    /// # use std::time::Duration;
    /// # let mut account = Account::new(Duration::ZERO, 65_536);
    /// # account.holds(Duration::ZERO, 12 << 20, 40_000, false);
    /// # let status = account.status(Duration::from_secs(83), &mut Interval::default(), &Facts::default());
    /// let line = ProgressLine::new(Look::default());
    /// assert_eq!(line.render(&status, 80), "12.0 MiB 0:01:23 [ 148 KiB/s] (avg  148 KiB/s) buffer [###  ] flowing");
    /// assert_eq!(line.render(&status, 40), "12.0 MiB [ 148 KiB/s] flowing");
    /// ```
    pub fn render(&self, status: &Status, width: usize) -> String {
        let room = width.saturating_sub(1);
        // It draws at once what it drew before: that does not count.
        self.bar.update(|state| {
            state.set_pos(status.bytes);
            state.set_len(status.size.unwrap_or(status.bytes));
        });
        let mut parts = self.parts(status);
        let used = |parts: &[Part]| parts.iter().map(|part| part.width + 1).sum::<usize>() - 1;
        while used(&parts) > room && parts.len() > 1 {
            let last = parts.iter().map(|part| part.rank).max();
            parts.retain(|part| Some(part.rank) != last);
        }
        let used = used(&parts);
        if used > room {
            return cut(&parts[0].text, room);
        }
        let join = |parts: &[Part]| parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(" ");
        match parts.iter().position(|part| part.rank == Rank::Bar) {
            None => self.print("{left}", join(&parts), String::new(), used),
            Some(at) => {
                let (start, end) = self.brackets();
                let left = format!("{} {start}", join(&parts[..at]));
                let right = format!("{end} {}", join(&parts[at + 1..]));
                self.print("{left}{wide_bar}{right}", left, right, room.min(used + BAR.1 - BAR.0))
            }
        }
    }

    /// Has indicatif print a template with these two keys in so many columns.
    fn print(&self, template: &str, left: String, right: String, width: usize) -> String {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let cells = if self.look.blocks { "█▉▊▋▌▍▎▏ " } else { "#- " };
        let key = |text: String| move |_: &ProgressState, out: &mut dyn std::fmt::Write| _ = out.write_str(&text);
        self.bar.set_style(style.progress_chars(cells).with_key("left", key(left)).with_key("right", key(right)));
        *self.sheet.page() = Page { width: width.try_into().unwrap_or(u16::MAX), text: String::new() };
        self.bar.tick();
        self.sheet.page().text.trim_end().to_owned()
    }

    /// Everything there is to show, in the order in which it is shown.
    fn parts(&self, status: &Status) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut add = |rank, text| parts.push(Part::new(rank, text));
        if let Some(name) = &status.name {
            // What has no width of its own changes that of others, or the terminal.
            let name: String = name.chars().filter(|c| c.width() > Some(0)).collect();
            add(Rank::Name, cut(&name, NAME) + ":");
        }
        add(Rank::Bytes, size(status.bytes as f64));
        add(Rank::Elapsed, format!("{:>7}", clock(status.elapsed)));
        if !status.done {
            add(Rank::Rate, format!("[{}/s]", size(status.rate)));
        }
        add(if status.done { Rank::Rate } else { Rank::Mean }, format!("(avg {}/s)", size(status.mean_rate)));
        if let Some(limit) = status.limit {
            add(Rank::Limit, format!("limit {}", show_rate(limit as f64)));
        }
        if let Some(size) = status.size {
            let percent = (u128::from(status.bytes) * 100).checked_div(size.into()).unwrap_or(100).min(100);
            add(Rank::Percent, format!("{percent:>3}%"));
            // To be drawn once its width is known.
            add(Rank::Bar, " ".repeat(BAR.0 + 2));
            if !status.done {
                let left = self.bar.eta().as_secs_f64();
                // Before the first byte nothing is known, and after a long silence no more.
                let known = (left > 0.0 || status.bytes >= size) && left < 3.6e6;
                let left = if known { clock(left) } else { "-:--:--".to_owned() };
                add(Rank::Eta, format!("ETA {left:>7}"));
            }
        }
        if !status.done {
            add(Rank::Label, "buffer".to_owned());
            add(Rank::Gauge, self.gauge(status.buffered, status.buffer));
        }
        parts.push(self.state(status));
        parts
    }

    /// How full the buffer is.
    fn gauge(&self, part: u64, whole: u64) -> String {
        let steps = if self.look.blocks { " ▏▎▍▌▋▊▉█" } else { " -------#" };
        // However little it is, it shows; only what is full looks full.
        let eighths = u128::from(part.min(whole)) * GAUGE as u128 * 8 / u128::from(whole).max(1);
        let eighths = (eighths as usize).max(usize::from(part > 0));
        let cell = |at| steps.chars().nth(eighths.saturating_sub(8 * at).min(8));
        let (start, end) = self.brackets();
        format!("{start}{}{end}", (0..GAUGE).filter_map(cell).collect::<String>())
    }

    /// What bar and gauge are enclosed by.
    fn brackets(&self) -> (char, char) {
        if self.look.blocks { ('▕', '▏') } else { ('[', ']') }
    }

    /// What the run is doing, or how it ended, in its colour. The colours of states are those of
    /// the table of `top`.
    fn state(&self, status: &Status) -> Part {
        let (word, colour) = match (status.ending, status.state) {
            (Some(ending), _) => (
                ending.to_string(),
                match ending {
                    Ending::Done => GREEN,
                    Ending::Interrupted => YELLOW,
                    Ending::Stopped => MAGENTA,
                    Ending::Failed => RED,
                },
            ),
            (None, state) => (
                state.to_string(),
                match state {
                    State::Flowing => GREEN,
                    State::ProducerSlow => CYAN,
                    State::ConsumerSlow => RED,
                    State::Limited => YELLOW,
                    State::MachineBusy => BLUE,
                    State::Paused => MAGENTA,
                },
            ),
        };
        // As wide as the longest state, so that a change of state moves nothing before it.
        let width = if status.done { word.len() } else { 13 };
        let mut part = Part::new(Rank::State, format!("{word:width$}"));
        if self.look.colour {
            part.text = format!("\x1b[{colour}m{word}\x1b[0m{}", &part.text[word.len()..]);
        }
        part
    }
}

/// Bytes in 8 columns.
fn size(bytes: f64) -> String {
    format!("{:>8}", show_briefly(bytes))
}

/// Seconds as `0:01:23`, or in days from 100 hours on.
fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if hours < 100 {
        format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60)
    } else {
        format!("{}d {:02}h", hours / 24, hours % 24)
    }
}

/// As much of a text as `columns` hold. It has no colours.
fn cut(text: &str, columns: usize) -> String {
    let mut width = 0;
    let fits = |c: &char| {
        width += c.width().unwrap_or(0);
        width <= columns
    };
    text.chars().take_while(fits).collect()
}

/// What indicatif draws on instead of a terminal: only the last line that it printed counts.
#[derive(Clone, Debug, Default)]
struct Sheet(Arc<Mutex<Page>>);

#[derive(Debug)]
struct Page {
    width: u16,
    text: String,
}

impl Default for Page {
    fn default() -> Self {
        // indicatif cannot draw on no columns.
        Page { width: 80, text: String::new() }
    }
}

impl Sheet {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TermLike for Sheet {
    fn width(&self) -> u16 {
        self.page().width
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.page().text.push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.page().text.clear();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
