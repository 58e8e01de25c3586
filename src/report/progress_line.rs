//! The text of the progress line: what it says at which width.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthChar;

use super::Look;
use crate::stats::{Ending, RecordStatus, State, Status};
use crate::units::{printable, show_briefly, show_count, show_of, show_rate_briefly, show_record_rate, show_share};

/// Fewest and most cells of the bar. Fewer show no movement, and more say nothing new.
const BAR: (usize, usize) = (8, 40);

/// Cells of the gauge of the buffer: enough for empty, full and three steps between.
const GAUGE: usize = 5;

/// Fewest and most columns of a name on a terminal. Longer names are shortened in the middle.
const NAME: (usize, usize) = (8, 24);

/// Columns of the longest state, `producer slow`.
const STATE: usize = 13;

/// Seconds. The time of day at which a run ends matters to people from here on.
const LATER: f64 = 3600.0;

/// Colours by their numbers in `ESC [ … m`.
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const BLUE: u8 = 34;
const MAGENTA: u8 = 35;
const CYAN: u8 = 36;

/// Makes the text of the line.
#[derive(Debug)]
pub struct ProgressLine {
    look: Look,
    /// For times of day.
    zone: TimeZone,
}

/// Some columns of the line.
struct Part {
    rank: Rank,
    text: String,
    width: usize,
}

/// The parts, from the most important one to the least. In a narrow terminal the last ones go
/// first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Bytes,
    State,
    Time,
    Name,
    Percent,
    Bar,
    Eta,
    Rate,
    /// Takes the place of `Bytes`.
    Total,
    Limit,
    Elapsed,
    Buffer,
    Mean,
}

impl Part {
    fn new(rank: Rank, text: String) -> Self {
        let width = columns(&text);
        Part { rank, text, width }
    }
}

impl ProgressLine {
    /// A line of this look, for a run that begins now, with times of day in the system's time zone.
    pub fn new(look: Look) -> Self {
        Self::in_zone(look, TimeZone::system())
    }

    /// The same with times of day in `zone`.
    pub fn in_zone(look: Look, zone: TimeZone) -> Self {
        ProgressLine { look, zone }
    }

    /// The text for a terminal of `width` columns, or for none with `usize::MAX`. It leaves the last
    /// column free, so that no terminal wraps it, and numbers stay in their places from one status
    /// to the next.
    ///
    /// ```
    /// # use pcproxy::report::{Look, ProgressLine};
    /// # use pcproxy::stats::{Account, Facts, Interval};
    /// # use std::time::Duration;
    /// # let mut account = Account::new(Duration::ZERO, 65_536);
    /// # account.holds(Duration::ZERO, 12 << 20, 40_000, false);
    /// # let facts = Facts { size: Some(50 << 20), ..Facts::default() };
    /// # let status = account.status(Duration::from_secs(83), &mut Interval::default(), &facts);
    /// let mut line = ProgressLine::new(Look { redraws: true, ..Look::default() });
    /// assert_eq!(line.render(&status, 60), "12.0 MiB  24% [####-              ] ETA  4:23 flowing");
    /// assert_eq!(line.render(&status, 40), "12.0 MiB  24% flowing");
    /// ```
    pub fn render(&mut self, status: &Status, width: usize) -> String {
        let room = width.saturating_sub(1);
        let mut parts = self.parts(status, width);
        let used = |parts: &[Part]| {
            let has_total = parts.iter().any(|part| part.rank == Rank::Total);
            let shown = parts.iter().filter(|part| !(has_total && part.rank == Rank::Bytes));
            shown.map(|part| part.width + 1).sum::<usize>() - 1
        };
        while used(&parts) > room && parts.len() > 1 {
            let last = parts.iter().map(|part| part.rank).max();
            parts.retain(|part| Some(part.rank) != last);
        }
        let spare = room.saturating_sub(used(&parts));
        if parts.iter().any(|part| part.rank == Rank::Total) {
            parts.retain(|part| part.rank != Rank::Bytes);
        }
        for part in parts.iter_mut().filter(|part| part.rank == Rank::Bar) {
            let cells = (part.width - 2 + spare).min(BAR.1);
            part.text = {
                let (done, size) = status.progress();
                self.gauge(done, size.unwrap_or_default(), cells)
            };
        }
        let text = parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(" ");
        let text = text.trim_end();
        // One part alone may still be too wide. It has no colours.
        if parts.len() > 1 { text.to_owned() } else { cut(text.chars(), room) }
    }

    /// Everything there is to show on a terminal of `width` columns, in the order in which it is
    /// shown. The bar is blank and as narrow as it may become.
    fn parts(&self, status: &Status, width: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut add = |rank, text| parts.push(Part::new(rank, text));
        if !self.look.redraws {
            add(Rank::Time, self.time_of_day(status.time, "%H:%M:%S").unwrap_or_default());
        }
        if let Some(name) = &status.name {
            let most = if width == usize::MAX { width } else { (width / 6).clamp(NAME.0, NAME.1) };
            add(Rank::Name, self.shorten(name, most) + ":");
        }
        match status.records {
            None => add(Rank::Bytes, size(status.bytes as f64)),
            Some(records) => {
                add(Rank::Bytes, format!("{:>7} {}", show_count(records.delivered as f64), records.kind));
                add(Rank::Mean, size(status.bytes as f64));
            }
        }
        if let Some(size) = status.size {
            add(Rank::Total, show_of(status.bytes, size));
        }
        add(Rank::Elapsed, format!("{:>7}", clock(status.elapsed)));
        let mean = format!("(avg {})", rate(status, status.mean_rate, |records| records.mean_rate));
        if status.done {
            add(Rank::Rate, mean);
        } else {
            add(Rank::Rate, rate(status, status.rate, |records| records.rate));
            add(Rank::Mean, mean);
        }
        if let Some(limit) = status.show_limit() {
            add(Rank::Limit, format!("limit {limit}"));
        }
        if let (done, Some(size)) = status.progress() {
            let percent = (u128::from(done) * 100).checked_div(size.into()).unwrap_or(100).min(100);
            add(Rank::Percent, format!("{percent:>3}%"));
            if self.look.redraws {
                add(Rank::Bar, " ".repeat((width / 4).clamp(BAR.0, BAR.1 / 2) + 2));
            }
            if !status.done {
                add(Rank::Eta, format!("ETA {}", self.eta(status)));
            }
        }
        if !status.done {
            let fill = match self.look.redraws {
                true => self.gauge(status.buffered, status.buffer, GAUGE),
                false => format!("{:>5}", show_share(status.buffered as f64, status.buffer as f64)),
            };
            add(Rank::Buffer, format!("buffer {fill}"));
        }
        parts.push(self.state(status));
        parts
    }

    /// The time that is left, or the time of day at which the run ends.
    fn eta(&self, status: &Status) -> String {
        let Some(left) = status.time_left else { return " -:--".to_owned() };
        let end = status.time + left;
        let at = |format| self.time_of_day(end, format).filter(|_| self.look.eta_at && left > LATER);
        // A weekday alone would be ambiguous from a week on.
        let at = if left < 6.0 * 86400.0 { at("%a %H:%M") } else { at("%Y-%m-%d") };
        at.unwrap_or_else(|| {
            let left = left.ceil();
            if left < 3600.0 { format!("{:>2}:{:02}", left as u64 / 60, left as u64 % 60) } else { clock(left) }
        })
    }

    /// A time in seconds since the Unix epoch, as `format` has it. None for one beyond all calendars.
    fn time_of_day(&self, time: f64, format: &str) -> Option<String> {
        let time = Timestamp::from_second(time as i64).ok()?.to_zoned(self.zone.clone());
        Some(time.strftime(format).to_string())
    }

    /// How much `part` is of `whole`, in brackets around so many cells.
    fn gauge(&self, part: u64, whole: u64, cells: usize) -> String {
        let steps = if self.look.blocks { " ▏▎▍▌▋▊▉█" } else { " -------#" };
        // However little it is, it shows; only what is full looks full.
        let eighths = u128::from(part.min(whole)) * cells as u128 * 8 / u128::from(whole).max(1);
        let eighths = (eighths as usize).max(usize::from(part > 0));
        let cell = |at| steps.chars().nth(eighths.saturating_sub(8 * at).min(8));
        let (start, end) = if self.look.blocks { ('▕', '▏') } else { ('[', ']') };
        format!("{start}{}{end}", (0..cells).filter_map(cell).collect::<String>())
    }

    /// The state of the run, or its ending, in its colour. The colours of states are those of
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
        // As wide as the longest state, so that a change of state changes nothing else.
        let width = if status.done { word.len() } else { STATE };
        let mut part = Part::new(Rank::State, format!("{word:width$}"));
        if self.look.colour {
            part.text = format!("\x1b[{colour}m{word}\x1b[0m{}", &part.text[word.len()..]);
        }
        part
    }

    /// A name in at most so many columns: its middle gives way.
    fn shorten(&self, name: &str, most: usize) -> String {
        // A character without a width of its own would change that of others.
        let name: String = printable(name).chars().filter(|c| c.width() > Some(0)).collect();
        if columns(&name) <= most {
            return name;
        }
        let gap = if self.look.blocks { "…" } else { ".." };
        let kept = most.saturating_sub(columns(gap));
        let start = cut(name.chars(), kept.div_ceil(2));
        let end = cut(name.chars().rev(), kept / 2);
        format!("{start}{gap}{}", end.chars().rev().collect::<String>())
    }
}

/// A rate in 10 columns: of records where the run counts these, else of bytes.
fn rate(status: &Status, bytes: f64, records: impl Fn(&RecordStatus) -> f64) -> String {
    match &status.records {
        Some(status) => format!("{:>10}", show_record_rate(records(status))),
        None => format!("{:>10}", show_rate_briefly(bytes, status.rate_unit)),
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

/// Columns that a text without control characters takes up.
fn columns(text: &str) -> usize {
    text.chars().filter_map(|c| c.width()).sum()
}

/// As many characters as `columns` hold.
fn cut(text: impl Iterator<Item = char>, columns: usize) -> String {
    let mut width = 0;
    let fits = |c: &char| {
        width += c.width().unwrap_or(0);
        width <= columns
    };
    text.take_while(fits).collect()
}
