//! The columns of the table: what they are called, how wide they are, and what they show.

use std::collections::BTreeSet;

use pcproxy::budget::GroupLimit;
use pcproxy::control::ControlError;
use pcproxy::shaping::Unit;
use pcproxy::units::{RateUnit, printable, show_briefly, show_rate_briefly, show_share};
use ratatui::layout::Alignment;
use ratatui::text::Line;

use super::app::App;
use super::rows::{History, Item, Order, Row, Total};

/// Eighths of a cell, from the left.
const BARS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Eighths of a cell, from below. Even a rate of 0 is seen.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// From left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Name,
    Pid,
    User,
    Group,
    State,
    Done,
    Left,
    Rate,
    Limit,
    Bytes,
    Time,
    Held,
    Buffer,
    Minute,
}

/// In the order of their use: where there is no room for all, the last ones give way.
const BY_USE: [Column; 14] = [
    Column::Name,
    Column::Rate,
    Column::State,
    Column::Left,
    Column::Done,
    Column::Limit,
    Column::Minute,
    Column::Bytes,
    Column::Held,
    Column::Time,
    Column::User,
    Column::Group,
    Column::Pid,
    Column::Buffer,
];

/// The columns that there is room for in `width` cells, and how wide they are.
pub fn columns(app: &App, width: u16, spacing: u16) -> Vec<(Column, u16)> {
    let wide = |text: String| Line::from(text).width().min(u16::MAX.into()) as u16;
    let longest = |texts: &mut dyn Iterator<Item = String>| texts.map(wide).max().unwrap_or(0);
    let lines = app.lines();
    let name = longest(&mut lines.iter().map(|line| name(app, &line.item, line.depth))).min(32);
    let group = longest(&mut app.rows.iter().filter_map(Row::group).map(printable)).min(24);
    let users: BTreeSet<_> = app.rows.iter().map(|row| row.id.user).collect();
    let has_bits = app.rows.iter().filter_map(|row| row.status.as_ref()).any(|run| run.rate_unit == RateUnit::Bits);
    let has_size = app.rows.iter().any(|row| row.share_done().is_some());
    let least = |column| match column {
        Column::Name => name.clamp(8, 14),
        Column::Pid => 7,
        // '4294967294', which is rare.
        Column::User => 6,
        Column::Group => group.clamp(6, 10),
        // 'producer slow'.
        Column::State => 13,
        // '100 %'.
        Column::Done => 5,
        // '99:59:59'.
        Column::Left | Column::Time => 8,
        // '1000 MiB/s' or '8.00 Mbit/s'.
        Column::Rate | Column::Limit => 10 + u16::from(has_bits),
        // '1000 MiB'.
        Column::Bytes | Column::Buffer => 8,
        // A bar and '100 %'.
        Column::Held => 11,
        // 'LAST MINUTE'.
        Column::Minute => 11,
    };
    let is_of_use = |column: &Column| match column {
        Column::Group => group > 0,
        // Root sees the runs of others.
        Column::User => users.len() > 1,
        Column::Done | Column::Left => has_size,
        _ => true,
    };
    let mut room = width.saturating_add(spacing);
    let mut chosen: Vec<_> = BY_USE
        .into_iter()
        .filter(is_of_use)
        .map_while(|column| {
            room = room.checked_sub(least(column) + spacing)?;
            Some((column, least(column)))
        })
        .collect();
    for (column, most) in [
        (Column::Name, name),
        (Column::Group, group),
        (Column::Minute, app.samples.clamp(11, 60) as u16),
        (Column::Held, 26),
    ] {
        if let Some((_, width)) = chosen.iter_mut().find(|(chosen, _)| *chosen == column) {
            let more = most.saturating_sub(*width).min(room);
            *width += more;
            room -= more;
        }
    }
    chosen.sort();
    chosen
}

/// The letters that sort by a column: the first one of its title, or of what it shows.
const LETTERS: [(char, Column); 12] = [
    ('A', Column::Name),
    ('P', Column::Pid),
    ('U', Column::User),
    ('G', Column::Group),
    ('S', Column::State),
    ('D', Column::Done),
    ('L', Column::Left),
    ('R', Column::Rate),
    ('M', Column::Limit),
    ('B', Column::Bytes),
    ('T', Column::Time),
    ('H', Column::Held),
];

impl Column {
    /// The column that this letter sorts by.
    pub fn of_letter(letter: char) -> Option<Self> {
        LETTERS.iter().find(|(own, _)| *own == letter).map(|(_, column)| *column)
    }

    /// The title, with a mark if the rows are in the order of this column.
    pub fn title(self, order: Order) -> String {
        let title = match self {
            Column::Name => "NAME",
            Column::Pid => "PID",
            Column::User => "USER",
            Column::Group => "GROUP",
            Column::State => "STATE",
            Column::Done => "DONE",
            Column::Left => "LEFT",
            Column::Rate => "RATE",
            Column::Limit => "LIMIT",
            Column::Bytes => "BYTES",
            Column::Time => "TIME",
            Column::Held => "HELD",
            Column::Buffer => "BUFFER",
            Column::Minute => "LAST MINUTE",
        };
        let grows =
            matches!(self, Column::Name | Column::Pid | Column::User | Column::Group | Column::State | Column::Left);
        match (self == order.column, grows != order.reversed) {
            (false, _) => title.to_owned(),
            (true, true) => format!("{title}▲"),
            (true, false) => format!("{title}▼"),
        }
    }

    /// On which side its cells begin.
    pub fn alignment(self) -> Alignment {
        match self {
            Column::Name | Column::Group | Column::State | Column::Held | Column::Minute => Alignment::Left,
            _ => Alignment::Right,
        }
    }

    /// The cell of a run in this column, in `width` cells.
    pub fn of_run(self, app: &App, row: &Row, depth: usize, width: u16) -> String {
        match (self, &row.status) {
            (Column::Name, _) => name(app, &Item::Run(row.id), depth),
            (Column::Pid, _) => row.id.pid.to_string(),
            (Column::User, _) => row.id.user.to_string(),
            (Column::State, status) => match (&row.trouble, status) {
                _ if row.ended.is_some() => status
                    .as_ref()
                    .and_then(|status| status.ending)
                    .map_or("ended".to_owned(), |ending| ending.to_string()),
                (Some(ControlError::Silent), _) => "no answer".to_owned(),
                (Some(_), _) => "unknown".to_owned(),
                (None, status) => status.as_ref().map(|status| status.state.to_string()).unwrap_or_default(),
            },
            (Column::Minute, _) => sparks(&row.history, width.into()),
            (_, None) => String::new(),
            (Column::Limit | Column::Held, _) if row.ended.is_some() => String::new(),
            (Column::Group, _) => row.group().map(printable).unwrap_or_default(),
            (Column::Done, _) => row.share_done().map(|share| show_share(share, 1.0)).unwrap_or_default(),
            (Column::Left, _) => row.time_left().map(show_clock).unwrap_or_default(),
            (Column::Rate, Some(status)) if row.is_well() => match status.records {
                Some(_) => status.show_rate(),
                None => show_rate_briefly(status.rate, status.rate_unit),
            },
            (Column::Rate, Some(_)) => String::new(),
            (Column::Limit, Some(status)) => match status.records {
                Some(_) => status.show_limit().unwrap_or_else(|| "none".to_owned()),
                None => {
                    let limit = status.limit.map(|limit| show_rate_briefly(limit as f64, status.rate_unit));
                    limit.unwrap_or_else(|| "none".to_owned())
                }
            },
            (Column::Bytes, Some(status)) => show_briefly(status.bytes as f64),
            (Column::Time, Some(status)) => show_clock(status.elapsed),
            (Column::Buffer, Some(status)) => show_briefly(status.buffer as f64),
            (Column::Held, Some(status)) => {
                let (held, buffer) = (status.buffered as f64, status.buffer as f64);
                let share = show_share(held, buffer);
                format!("{} {share:>5}", bar(held / buffer.max(1.0), usize::from(width).saturating_sub(6)))
            }
        }
    }

    /// The cell of a group in this column; its members come to `total`.
    pub fn of_group(self, app: &App, group: &str, depth: usize, total: Total) -> String {
        let limit = app.limits.get(group).copied().flatten();
        let rate = match limit {
            Some(GroupLimit { unit: unit @ Unit::Records, .. }) => total.records * unit.tokens() as f64,
            _ => total.rate,
        };
        match self {
            Column::Name => name(app, &Item::Group(group.to_owned()), depth),
            Column::Group => printable(group),
            Column::State => limit.map(|limit| show_share(rate, limit.rate as f64) + " used").unwrap_or_default(),
            Column::Rate => show_brief_rate_in(limit.map_or(Unit::Bytes, |limit| limit.unit), rate),
            Column::Limit => limit.map_or("none".to_owned(), |limit| show_brief_rate_in(limit.unit, limit.rate as f64)),
            Column::Bytes => show_briefly(total.bytes as f64),
            _ => String::new(),
        }
    }
}

/// The name of a line, below the groups that it belongs to.
fn name(app: &App, item: &Item, depth: usize) -> String {
    let name = match item {
        Item::Run(id) => app.label(*id),
        Item::Group(group) => {
            let mark = if app.folded.contains(group) { '▸' } else { '▾' };
            let last = group.rsplit('/').next().unwrap_or(group);
            format!("{mark} {} ({})", printable(last), super::rows::total(&app.rows, group).runs)
        }
    };
    format!("{}{name}", "  ".repeat(depth))
}

/// A rate in tokens of a limit that counts `unit`.
fn show_brief_rate_in(unit: Unit, tokens: f64) -> String {
    match unit {
        Unit::Bytes => show_brief_rate(tokens),
        Unit::Records => unit.show_rate(tokens),
    }
}

/// A rate in at most ten columns.
pub fn show_brief_rate(rate: f64) -> String {
    format!("{}/s", show_briefly(rate))
}

/// A time in seconds in at most eight columns: `4:05`, `1:02:03`, `12d 07h`.
fn show_clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (hours, days) {
        (0, _) => format!("{minutes}:{:02}", seconds % 60),
        (1..100, _) => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        (_, ..1000) => format!("{days}d {:02}h", hours % 24),
        _ => "> 1000d".to_owned(),
    }
}

/// A bar of `width` cells, `share` of which are full.
fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let cell = |place: usize| match eighths.saturating_sub(8 * place) {
        0 => '·',
        part @ 1..8 => BARS[part - 1],
        _ => '█',
    };
    (0..width).map(cell).collect()
}

/// The history in `width` cells, the latest on the right. Rates that share a cell go on sharing one
/// while they wander to the left.
fn sparks(history: &History, width: usize) -> String {
    let a_cell = history.samples.div_ceil(width.max(1));
    let cell_of = |place: usize| (history.forgotten + place) / a_cell;
    let Some(last) = history.rates.len().checked_sub(1).map(cell_of) else { return String::new() };
    let first = (last + 1).saturating_sub(width);
    // Sum and number of the rates of each cell.
    let mut cells = vec![(0.0, 0); last + 1 - first];
    for (place, rate) in history.rates.iter().enumerate() {
        if let (Some((sum, count)), Some(rate)) = (cell_of(place).checked_sub(first).map(|cell| &mut cells[cell]), rate)
        {
            *sum += rate;
            *count += 1;
        }
    }
    let means: Vec<_> = cells.iter().map(|(sum, count)| (*count > 0).then(|| sum / f64::from(*count))).collect();
    let highest = means.iter().flatten().copied().fold(0.0, f64::max);
    let spark = |mean: Option<f64>| match mean {
        Some(mean) if highest > 0.0 => SPARKS[(mean / highest * 7.0).round().clamp(0.0, 7.0) as usize],
        Some(_) => SPARKS[0],
        None => ' ',
    };
    format!("{:>width$}", means.into_iter().map(spark).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_wanders_to_the_left() {
        let mut history = History { rates: [4.0, 8.0, 0.0].map(Some).into(), forgotten: 0, samples: 4 };
        history.rates.push_back(None);
        assert_eq!(sparks(&history, 6), "  ▅█▁ ");
        assert_eq!(sparks(&history, 2), "█▁");
        assert_eq!(sparks(&history, 1), "█");
        history.forgotten = 1;
        assert_eq!(sparks(&history, 2), "█ ");
        assert_eq!(sparks(&history, 0), "");
    }

    #[test]
    fn bars_grow_by_eighths() {
        for (share, shown) in
            [(0.0, "··"), (0.07, "▏·"), (0.5, "█·"), (0.9, "█▊"), (1.0, "██"), (7.0, "██"), (f64::NAN, "··")]
        {
            assert_eq!(bar(share, 2), shown, "{share}");
        }
    }

    #[test]
    fn times_take_up_eight_columns_at_most() {
        for (seconds, shown) in [
            (0.4, "0:00"),
            (245.0, "4:05"),
            (3723.0, "1:02:03"),
            (359_999.0, "99:59:59"),
            (1_062_000.0, "12d 07h"),
            (1e12, "> 1000d"),
            (f64::INFINITY, "> 1000d"),
        ] {
            assert_eq!(show_clock(seconds), shown, "{seconds}");
            assert!(shown.len() <= 8);
        }
    }
}
