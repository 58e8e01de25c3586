//! What `top` looks like.

use pcproxy::control::ControlError;
use pcproxy::stats::{State, Status};
use pcproxy::units::{printable, show_briefly, show_share};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Table, TableState};

use super::app::{App, History, Mode, Row, Setting};

/// Eighths of a cell, from the left.
const BARS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Eighths of a cell, from below. Even no rate at all is seen.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// From left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    Name,
    Pid,
    Group,
    State,
    Rate,
    Limit,
    Bytes,
    Held,
    Buffer,
    Minute,
}

/// Those that are left out last come first.
const PREFERENCE: [Column; 10] = [
    Column::Name,
    Column::Rate,
    Column::State,
    Column::Limit,
    Column::Held,
    Column::Bytes,
    Column::Minute,
    Column::Pid,
    Column::Group,
    Column::Buffer,
];

/// How it is looked at.
#[derive(Debug)]
pub struct View {
    pub colours: bool,
    /// How far it is scrolled.
    pub table: TableState,
}

/// Draws all of it.
pub fn draw(frame: &mut Frame, app: &App, view: &mut View) {
    let [totals, body, trouble, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(draw_totals(app), totals);
    if app.rows.is_empty() {
        frame.render_widget(Text::from(vec![Line::default(), Line::from("no pcproxy is running")]), body);
    } else {
        draw_table(frame, app, view, body);
    }
    let colour = if view.colours { Style::new().red() } else { Style::new() };
    frame.render_widget(draw_trouble(app).style(colour), trouble);
    draw_keys(frame, app, keys);
}

fn draw_totals(app: &App) -> Line<'_> {
    let live = || app.rows.iter().filter(|row| row.ended.is_none());
    let sum = |what: fn(&Status) -> u64| live().filter_map(|row| row.status.as_ref()).map(what).sum::<u64>();
    let rate: f64 = live().filter(|row| row.is_well()).filter_map(|row| Some(row.status.as_ref()?.rate)).sum();
    let runs = match live().count() {
        1 => "1 run".to_owned(),
        count => format!("{count} runs"),
    };
    let (bytes, held) = (brief(sum(|run| run.bytes)), brief(sum(|run| run.buffered)));
    Line::from(format!("{runs}, {}, {bytes} delivered, {held} held", brief_rate(rate))).bold()
}

fn draw_table(frame: &mut Frame, app: &App, view: &mut View, area: Rect) {
    let spacing = if area.width < 100 { 1 } else { 2 };
    let columns = columns(app, area.width, spacing);
    let header = columns.iter().map(|(column, _)| column.cell(column.title().into()));
    let rows = app.rows.iter().map(|row| {
        let cells = columns.iter().map(|(column, width)| column.cell(column.text(row, *width).into()));
        let colour = if view.colours { state_colour(row) } else { Style::new() };
        let cells = cells.zip(&columns).map(|(cell, (column, _))| match column {
            Column::State => cell.style(colour),
            _ => cell,
        });
        ratatui::widgets::Row::new(cells).style(if row.is_well() { Style::new() } else { Style::new().dim() })
    });
    let table = Table::new(rows, columns.iter().map(|(_, width)| Constraint::Length(*width)))
        .header(ratatui::widgets::Row::new(header).style(Style::new().underlined()))
        .column_spacing(spacing)
        .row_highlight_style(Style::new().reversed());
    view.table.select(app.place());
    // A window that has grown shows what was scrolled away.
    let visible = usize::from(area.height.saturating_sub(1));
    *view.table.offset_mut() = view.table.offset().min(app.rows.len().saturating_sub(visible));
    frame.render_stateful_widget(table, area, &mut view.table);
}

/// What went wrong last, or else what is wrong with the selected run.
fn draw_trouble(app: &App) -> Line<'_> {
    let selected = app.selected.and_then(|pid| app.row(pid));
    let wrong = || selected.and_then(|row| Some(format!("{} {}", row.label(), row.trouble.as_ref()?)));
    Line::from(app.notice.clone().or_else(wrong).unwrap_or_default())
}

fn draw_keys(frame: &mut Frame, app: &App, area: Rect) {
    let text = match &app.mode {
        Mode::Watch if area.width < 60 => "l limit p pause b buffer s stop q quit".to_owned(),
        Mode::Watch => "↑↓ select   l limit   p pause/resume   b buffer   s stop   q quit".to_owned(),
        Mode::Confirm { pid } => format!("stop {}? (y/n) ", app.label(*pid)),
        Mode::Edit { pid, setting: Setting::Limit, text } => format!("limit of {} (or off): {text}", app.label(*pid)),
        Mode::Edit { pid, setting: Setting::Buffer, text } => format!("buffer of {}: {text}", app.label(*pid)),
    };
    let line = Line::from(text);
    if app.mode != Mode::Watch {
        // The end stays in sight.
        let end = (line.width() as u16).min(area.width.saturating_sub(1));
        frame.set_cursor_position((area.x + end, area.y));
    }
    let hidden = (line.width() as u16 + 1).saturating_sub(area.width);
    let hidden = if app.mode == Mode::Watch { 0 } else { hidden };
    frame.render_widget(Paragraph::new(line).scroll((0, hidden)), area);
}

/// The columns that there is room for, and how wide they are.
fn columns(app: &App, width: u16, spacing: u16) -> Vec<(Column, u16)> {
    let longest = |text: fn(&Row) -> String| {
        let widths = app.rows.iter().map(|row| Line::from(text(row)).width());
        widths.max().unwrap_or(0) as u16
    };
    let name = longest(Row::label).min(32);
    let group = longest(|row| Column::Group.text(row, 0)).min(24);
    let least = |column| match column {
        Column::Name => name.clamp(8, 14),
        Column::Pid => 7,
        Column::Group => group.clamp(5, 10),
        // 'producer slow'.
        Column::State => 13,
        // '1000 MiB/s'.
        Column::Rate | Column::Limit => 10,
        // '1000 MiB'.
        Column::Bytes | Column::Buffer => 8,
        Column::Held => 11,
        // 'LAST MINUTE'.
        Column::Minute => 11,
    };
    let mut room = width + spacing;
    let mut chosen: Vec<_> = PREFERENCE
        .into_iter()
        .filter(|column| *column != Column::Group || group > 0)
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

impl Column {
    fn title(self) -> &'static str {
        match self {
            Column::Name => "NAME",
            Column::Pid => "PID",
            Column::Group => "GROUP",
            Column::State => "STATE",
            Column::Rate => "RATE",
            Column::Limit => "LIMIT",
            Column::Bytes => "BYTES",
            Column::Held => "HELD",
            Column::Buffer => "BUFFER",
            Column::Minute => "LAST MINUTE",
        }
    }

    fn cell(self, text: Text<'_>) -> Cell<'_> {
        let right = matches!(self, Column::Pid | Column::Rate | Column::Limit | Column::Bytes | Column::Buffer);
        Cell::new(text.alignment(if right { Alignment::Right } else { Alignment::Left }))
    }

    fn text(self, row: &Row, width: u16) -> String {
        match (self, &row.status) {
            (Column::Name, _) => row.label(),
            (Column::Pid, _) => row.pid.to_string(),
            (Column::State, status) => match (&row.trouble, status) {
                _ if row.ended.is_some() => "ended".to_owned(),
                (Some(ControlError::Silent), _) => "no answer".to_owned(),
                (Some(_), _) => "unknown".to_owned(),
                (None, status) => status.as_ref().map(|status| status.state.to_string()).unwrap_or_default(),
            },
            (Column::Minute, _) => sparks(&row.history, width.into()),
            (_, None) => String::new(),
            (Column::Limit | Column::Held, _) if row.ended.is_some() => String::new(),
            (Column::Group, Some(status)) => status.group.as_deref().map(printable).unwrap_or_default(),
            (Column::Rate, Some(status)) if row.is_well() => match status.records {
                Some(_) => status.show_rate(),
                None => brief_rate(status.rate),
            },
            (Column::Rate, Some(_)) => String::new(),
            (Column::Limit, Some(status)) => match (status.records, status.limit) {
                (None, Some(limit)) => brief_rate(limit as f64),
                _ => status.show_limit().unwrap_or_else(|| "none".to_owned()),
            },
            (Column::Bytes, Some(status)) => brief(status.bytes),
            (Column::Buffer, Some(status)) => brief(status.buffer),
            (Column::Held, Some(status)) => {
                let (held, buffer) = (status.buffered as f64, status.buffer as f64);
                let share = show_share(held, buffer);
                format!("{} {share:>5}", bar(held / buffer.max(1.0), usize::from(width).saturating_sub(6)))
            }
        }
    }
}

fn state_colour(row: &Row) -> Style {
    match row.status.as_ref().filter(|_| row.is_well()).map(|status| status.state) {
        Some(State::Flowing) => Style::new().green(),
        Some(State::ProducerSlow) => Style::new().cyan(),
        Some(State::ConsumerSlow) => Style::new().red(),
        Some(State::Limited) => Style::new().yellow(),
        Some(State::MachineBusy) => Style::new().blue(),
        Some(State::Paused) => Style::new().magenta(),
        None => Style::new(),
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

/// The history in `width` cells, the latest on the right. Which rates share a cell stays as it is
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

/// A rate in at most ten characters.
fn brief_rate(rate: f64) -> String {
    show_briefly(rate) + "/s"
}

/// A number of bytes in at most eight characters.
fn brief(bytes: u64) -> String {
    show_briefly(bytes as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcproxy::control::Request;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::super::app::tests::{app, status};
    use super::*;

    fn view() -> View {
        View { colours: true, table: TableState::default() }
    }

    /// The lines on a screen of this size.
    fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app, &mut view())).unwrap();
        let cells = terminal.backend().buffer().content();
        let lines = cells
            .chunks(usize::from(width).max(1))
            .map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn fits_eighty_columns() {
        let mut app = app();
        let now = Duration::from_secs(1);
        app.heard(now, 22, &Request::Stats {}, Err(ControlError::Silent));
        app.heard(now, 11, &Request::Stats {}, Err(ControlError::Ended));
        for (eighths, seconds) in (1..9).zip(1..) {
            let status = Status { rate: 524_288.0 * f64::from(eighths), ..status(4711, Some("backup")) };
            app.heard(Duration::from_secs(seconds), 4711, &Request::Stats {}, Ok(status));
        }
        assert_eq!(
            screen(&app, 80, 8),
            [
                "2 runs, 4.00 MiB/s, 480 MiB delivered, 512 KiB held",
                "NAME     STATE               RATE      LIMIT    BYTES HELD        LAST MINUTE",
                "backup   limited       4.00 MiB/s 4.00 MiB/s  240 MiB █▎···  25 %             ▄█",
                "db       no answer                4.00 MiB/s  240 MiB █▎···  25 %",
                "11       ended                                240 MiB",
                "",
                "",
                "↑↓ select   l limit   p pause/resume   b buffer   s stop   q quit",
            ]
        );
    }

    #[test]
    fn leaves_columns_out_when_narrow() {
        let app = app();
        assert_eq!(
            screen(&app, 40, 6)[1..3],
            ["NAME     STATE               RATE", "backup   limited       4.00 MiB/s"]
        );
        let wide = screen(&app, 200, 6);
        assert!(wide[1].contains("PID  GROUP        STATE") && wide[1].contains("BUFFER  LAST MINUTE"), "{wide:?}");
        assert!(wide[2].contains("4711  site/backup  limited"), "{wide:?}");
    }

    #[test]
    fn draws_on_any_screen() {
        let mut app = app();
        for key in "lsb".chars() {
            app.pressed(KeyEvent::from(KeyCode::Char(key)));
            for width in [0, 1, 2, 7, 8, 9, 20, 39, 40, 59, 80, 99, 101, 300] {
                (0..7).for_each(|height| drop(screen(&app, width, height)));
            }
            app.pressed(KeyEvent::from(KeyCode::Esc));
        }
    }

    #[test]
    fn says_that_there_are_none() {
        let lines = screen(&App::new(Duration::from_secs(1)), 80, 6);
        assert_eq!((&*lines[0], &*lines[2]), ("0 runs, 0 B/s, 0 B delivered, 0 B held", "no pcproxy is running"));
    }

    #[test]
    fn the_end_of_a_prompt_stays_in_sight() {
        let mut app = app();
        for sign in "l1234567890M".chars() {
            app.pressed(KeyEvent::from(KeyCode::Char(sign)));
        }
        assert_eq!(screen(&app, 80, 6)[5], "limit of backup (or off): 1234567890M");
        assert_eq!(screen(&app, 20, 6)[5], "r off): 1234567890M");
    }

    #[test]
    fn the_selected_row_is_in_sight() {
        let mut app = app();
        let mut terminal = Terminal::new(TestBackend::new(40, 5)).unwrap();
        let mut view = view();
        let mut first_row = |app: &App, height| {
            terminal.backend_mut().resize(40, height);
            terminal.draw(|frame| draw(frame, app, &mut view)).unwrap();
            let cells = terminal.backend().buffer().content();
            cells[80..88].iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
        };
        assert_eq!(first_row(&app, 5), "backup");
        app.pressed(KeyEvent::from(KeyCode::Down));
        app.pressed(KeyEvent::from(KeyCode::Down));
        assert_eq!(first_row(&app, 5), "11");
        assert_eq!(first_row(&app, 9), "backup");
    }

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
    fn is_brief() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_230, "9.99 KiB"),
            (10_235, "10.0 KiB"),
            (1_048_000, "1023 KiB"),
            (1_048_570, "1.00 MiB"),
            (5 << 20, "5.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(brief(bytes), shown, "{bytes}");
        }
    }
}
