//! The picture of `top`.

use pcproxy::stats::{State, Status};
use pcproxy::units::{printable, show_briefly};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Table, TableState};

use super::KEYS;
use super::app::{App, Mode, Setting};
use super::columns::{Column, columns, show_brief_rate};
use super::rows::{Item, Row, total};

/// The keys in one line: the longest that there is room for.
const HINTS: [&str; 4] = [
    "↑↓ select  l limit  p pause  b buffer  s stop  / find  <> sort  g groups  ? help  q quit",
    "l limit  p pause  b buffer  s stop  / find  <> sort  g groups  ? help  q quit",
    "l limit  p pause  s stop  ? help  q quit",
    "? help  q quit",
];

/// How the state of the program is looked at.
#[derive(Debug)]
pub struct View {
    colours: bool,
    /// How far it is scrolled.
    table: TableState,
}

impl View {
    /// From the top of the table.
    pub fn new(colours: bool) -> Self {
        View { colours, table: TableState::default() }
    }
}

/// Draws all of it, and tells the state what there is room for.
pub fn draw(frame: &mut Frame, app: &mut App, view: &mut View) {
    let [totals, body, trouble, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(draw_totals(app), totals);
    app.page = body.height.saturating_sub(1).max(1).into();
    if let Mode::Help { from } = app.mode {
        let text = Text::from_iter(KEYS.lines().skip(from));
        let is_last = text.height() <= body.height.into();
        frame.render_widget(text, body);
        let next = if is_last { "Any key goes back to the table." } else { "Any key shows more, Esc goes back." };
        frame.render_widget(Line::from(next), keys);
        return;
    }
    if app.rows.is_empty() {
        frame.render_widget(Text::from(vec![Line::default(), Line::from("no pcproxy is running")]), body);
    } else {
        let hidden = draw_table(frame, app, view, body);
        for (mark, count, area) in [('▲', hidden.0, totals), ('▼', hidden.1, trouble)] {
            let mark = Line::from(format!("{mark} {count} more")).alignment(Alignment::Right);
            if count > 0 && usize::from(area.width) >= mark.width() {
                frame.render_widget(mark, area);
            }
        }
    }
    let colour = if view.colours { Style::new().red() } else { Style::new() };
    let text = draw_trouble(app);
    // An error covers the mark.
    let width = (text.width() as u16).min(trouble.width);
    frame.render_widget(text.style(colour), Rect { width, ..trouble });
    draw_keys(frame, app, keys);
}

fn draw_totals(app: &App) -> Line<'_> {
    let live = || app.rows.iter().filter(|row| row.ended.is_none());
    let sum =
        |what: fn(&Status) -> u64| live().filter_map(|row| row.status.as_ref()).map(what).fold(0, u64::saturating_add);
    let rate: f64 = live().filter(|row| row.is_well()).filter_map(|row| Some(row.status.as_ref()?.rate)).sum();
    let runs = match live().count() {
        1 => "1 run".to_owned(),
        count => format!("{count} runs"),
    };
    let size = |bytes| show_briefly(bytes as f64);
    let (bytes, held) = (size(sum(|run| run.bytes)), size(sum(|run| run.buffered)));
    Line::from(format!("{runs}, {}, {bytes} delivered, {held} held", show_brief_rate(rate))).bold()
}

/// Returns how many lines there are above and below those that are seen.
fn draw_table(frame: &mut Frame, app: &mut App, view: &mut View, area: Rect) -> (usize, usize) {
    let spacing = if area.width < 100 { 1 } else { 2 };
    let columns = columns(app, area.width, spacing);
    app.columns = columns.iter().map(|(column, _)| *column).collect();
    let cell = |column: Column, text: String| Cell::new(Text::from(text).alignment(column.alignment()));
    let header = columns.iter().map(|(column, _)| cell(*column, column.title(app.order)));
    let lines = app.lines();
    let rows = lines.iter().filter_map(|line| {
        let (texts, colour, style): (Vec<_>, _, _) = match &line.item {
            Item::Run(id) => {
                let row = app.row(*id)?;
                let texts = columns.iter().map(|(column, width)| column.of_run(app, row, line.depth, *width)).collect();
                (texts, state_colour(row), if row.is_well() { Style::new() } else { Style::new().dim() })
            }
            Item::Group(group) => {
                let total = total(&app.rows, group);
                let texts = columns.iter().map(|(column, _)| column.of_group(app, group, line.depth, total)).collect();
                (texts, Style::new(), Style::new().bold())
            }
        };
        let cells = texts.into_iter().zip(&columns).map(|(text, (column, _))| match column {
            Column::State if view.colours => cell(*column, text).style(colour),
            _ => cell(*column, text),
        });
        Some(ratatui::widgets::Row::new(cells).style(style))
    });
    let table = Table::new(rows, columns.iter().map(|(_, width)| Constraint::Length(*width)))
        .header(ratatui::widgets::Row::new(header).style(Style::new().underlined()))
        .column_spacing(spacing)
        .row_highlight_style(Style::new().reversed());
    view.table.select(app.place());
    // A window that has grown shows what was scrolled away.
    let visible = usize::from(area.height.saturating_sub(1));
    *view.table.offset_mut() = view.table.offset().min(lines.len().saturating_sub(visible));
    frame.render_stateful_widget(table, area, &mut view.table);
    let above = view.table.offset();
    (above, lines.len().saturating_sub(above + visible))
}

/// The latest error, or else the trouble of the selected run.
fn draw_trouble(app: &App) -> Line<'_> {
    let selected = match &app.selected {
        Some(Item::Run(id)) => app.row(*id),
        _ => None,
    };
    let wrong = || selected.and_then(|row| Some(format!("{} {}", row.label(), row.trouble.as_ref()?)));
    Line::from(app.notice.clone().or_else(wrong).as_deref().map(printable).unwrap_or_default())
}

fn draw_keys(frame: &mut Frame, app: &App, area: Rect) {
    let hint = || HINTS.into_iter().find(|hint| Line::from(*hint).width() <= area.width.into()).unwrap_or_default();
    let text = match &app.mode {
        Mode::Watch | Mode::Help { .. } => hint().to_owned(),
        Mode::Confirm { id } => format!("stop {}? (y/n) ", app.label(*id)),
        Mode::Edit { id, setting: Setting::Limit, text } => {
            format!("limit of {} (5M, +10%, off, back): {text}", app.label(*id))
        }
        Mode::Edit { id, setting: Setting::Buffer, text } => format!("buffer of {}: {text}", app.label(*id)),
        Mode::Search { text, .. } => format!("find: {text}"),
    };
    let line = Line::from(text);
    let width = line.width().min(usize::from(u16::MAX) - 1) as u16;
    let hidden = match app.mode {
        Mode::Watch | Mode::Help { .. } => 0,
        _ => {
            // The end stays in sight.
            frame.set_cursor_position((area.x + width.min(area.width.saturating_sub(1)), area.y));
            (width + 1).saturating_sub(area.width)
        }
    };
    frame.render_widget(Paragraph::new(line).scroll((0, hidden)), area);
}

fn state_colour(row: &Row) -> Style {
    match row.status.as_ref().filter(|_| row.is_well()).map(|status| status.state) {
        Some(State::Flowing) => Style::new().green(),
        Some(State::ProducerSlow) => Style::new().cyan(),
        Some(State::ConsumerSlow | State::MachineBusy) => Style::new().red(),
        Some(State::Limited) => Style::new().yellow(),
        Some(State::Paused) => Style::new().magenta(),
        None => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::app::tests::{app, id, press, status, write};
    use super::super::keys::Key;
    use super::*;
    use pcproxy::budget::GroupLimit;
    use pcproxy::control::{ControlError, Request};
    use pcproxy::shaping::Unit;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// The lines of a screen.
    fn screen(app: &mut App, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app, &mut View::new(true))).unwrap();
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
        app.heard(now, id(22), &Request::Stats {}, Err(ControlError::Silent));
        app.heard(now, id(11), &Request::Stats {}, Err(ControlError::Ended));
        for (eighths, seconds) in (1..9).zip(1..) {
            let status = Status { rate: 524_288.0 * f64::from(eighths), ..status(4711, Some("backup")) };
            app.heard(Duration::from_secs(seconds), id(4711), &Request::Stats {}, Ok(status));
        }
        assert_eq!(
            screen(&mut app, 80, 8),
            [
                "2 runs, 4.00 MiB/s, 480 MiB delivered, 512 KiB held",
                "NAME▲    STATE               RATE      LIMIT    BYTES HELD        LAST MINUTE",
                "backup   limited       4.00 MiB/s 4.00 MiB/s  240 MiB █▎···  25 %             ▄█",
                "db       no answer                4.00 MiB/s  240 MiB █▎···  25 %",
                "11       ended                                240 MiB",
                "",
                "",
                "l limit  p pause  b buffer  s stop  / find  <> sort  g groups  ? help  q quit",
            ]
        );
    }

    #[test]
    fn says_when_a_run_is_finished_before_all_else() {
        let mut app = app();
        let sized = Status { size: Some(960 << 20), time_left: Some(180.0), ..status(4711, Some("backup")) };
        app.heard(Duration::from_secs(1), id(4711), &Request::Stats {}, Ok(sized));
        assert_eq!(
            screen(&mut app, 80, 6)[1..4],
            [
                "NAME▲    STATE          DONE     LEFT       RATE      LIMIT    BYTES LAST MINUTE",
                "backup   limited        25 %     3:00 4.00 MiB/s 4.00 MiB/s  240 MiB           █",
                "db       limited                      4.00 MiB/s 4.00 MiB/s  240 MiB",
            ]
        );
        assert_eq!(screen(&mut app, 60, 6)[1], "NAME▲    STATE          DONE     LEFT       RATE      LIMIT");
    }

    #[test]
    fn help_on_a_low_terminal_shows_all_keys_page_by_page() {
        let mut app = app();
        let mut seen = String::new();
        app.mode = Mode::Help { from: 0 };
        while matches!(app.mode, Mode::Help { .. }) {
            let lines = screen(&mut app, 80, 8);
            seen += &lines[1..7].join("\n");
            assert!(lines[7].starts_with("Any key"), "{lines:?}");
            press(&mut app, Key::Char(' '));
        }
        assert!(KEYS.lines().all(|key| seen.contains(key.trim_end())), "{seen}");
    }

    #[test]
    fn columns_give_way_in_the_order_of_their_use() {
        let mut app = app();
        assert_eq!(
            screen(&mut app, 40, 6)[1..3],
            ["NAME▲    STATE               RATE", "backup   limited       4.00 MiB/s"]
        );
        // The picture of the last minute stays longer than the pid and the group.
        let titles = screen(&mut app, 100, 6)[1].clone();
        assert!(titles.contains("LAST MINUTE") && !titles.contains("PID") && !titles.contains("GROUP"), "{titles}");
        let wide = screen(&mut app, 200, 6);
        assert!(wide[1].contains("PID  GROUP        STATE") && wide[1].contains("BUFFER  LAST MINUTE"), "{wide:?}");
        assert!(wide[2].contains("4711  site/backup  limited"), "{wide:?}");
    }

    #[test]
    fn groups_show_their_limit_and_how_much_of_it_is_used() {
        let mut app = app();
        let limit = GroupLimit { rate: 16 << 20, unit: Unit::Bytes, burst: None, lasting: true };
        app.limits = [("site/backup".to_owned(), Some(limit))].into();
        write(&mut app, "g");
        assert_eq!(
            screen(&mut app, 80, 8)[1..6],
            [
                "NAME▲          STATE               RATE      LIMIT    BYTES LAST MINUTE",
                "▾ site (3)                   12.0 MiB/s       none  720 MiB",
                "  ▾ backup (3) 75 % used     12.0 MiB/s 16.0 MiB/s  720 MiB",
                "    backup     limited       4.00 MiB/s 4.00 MiB/s  240 MiB",
                "    db         limited       4.00 MiB/s 4.00 MiB/s  240 MiB",
            ]
        );
        press(&mut app, Key::Home);
        press(&mut app, Key::Left);
        assert_eq!(screen(&mut app, 80, 8)[2..4], ["▸ site (3)               12.0 MiB/s       none  720 MiB", ""]);
    }

    #[test]
    fn draws_on_any_screen() {
        let mut app = app();
        for keys in ["l", "s", "b", "/d", "?", "g", "g>>"] {
            write(&mut app, keys);
            for width in [0, 1, 2, 7, 8, 9, 20, 39, 40, 59, 80, 99, 101, 300] {
                (0..7).for_each(|height| drop(screen(&mut app, width, height)));
            }
            press(&mut app, Key::Escape);
        }
        screen(&mut app, u16::MAX, 3);
        screen(&mut app, 3, u16::MAX);
    }

    #[test]
    fn says_that_there_are_none() {
        let lines = screen(&mut App::new(Duration::from_secs(1)), 80, 6);
        assert_eq!((&*lines[0], &*lines[2]), ("0 runs, 0 B/s, 0 B delivered, 0 B held", "no pcproxy is running"));
    }

    #[test]
    fn the_end_of_a_prompt_stays_in_sight() {
        let mut app = app();
        write(&mut app, "l1234567890M");
        assert_eq!(screen(&mut app, 80, 6)[5], "limit of backup (5M, +10%, off, back): 1234567890M");
        assert_eq!(screen(&mut app, 20, 6)[5], ", back): 1234567890M"[1..].to_owned());
    }

    #[test]
    fn the_selected_row_is_in_sight_and_marks_tell_of_others() {
        let mut app = app();
        let mut terminal = Terminal::new(TestBackend::new(60, 5)).unwrap();
        let mut view = View::new(true);
        let mut lines = |app: &mut App, height| {
            terminal.backend_mut().resize(60, height);
            terminal.draw(|frame| draw(frame, app, &mut view)).unwrap();
            let cells = terminal.backend().buffer().content();
            let text = |line: &[ratatui::buffer::Cell]| line.iter().map(|cell| cell.symbol()).collect::<String>();
            cells.chunks(60).map(text).map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
        };
        let shown = lines(&mut app, 5);
        assert!(
            shown[2].starts_with("backup ") && shown[3].ends_with(" ▼ 2 more") && !shown[0].contains('▲'),
            "{shown:#?}"
        );
        press(&mut app, Key::End);
        let shown = lines(&mut app, 5);
        assert!(shown[2].starts_with("11 ") && shown[0].ends_with("▲ 2 more") && !shown[3].contains('▼'), "{shown:#?}");
        let shown = lines(&mut app, 9);
        assert!(shown[2].starts_with("backup ") && !shown[0].contains('▲'), "{shown:#?}");
    }

    #[test]
    fn the_help_names_every_key_of_the_hints() {
        let mut app = app();
        write(&mut app, "?");
        let help = screen(&mut app, 80, 24).join("\n");
        for key in ["l ", "p ", "b ", "s ", "/ ", "<, >", "g ", "? ", "q, Ctrl-C", "Esc", "PgUp", "Home"] {
            assert!(help.contains(&format!("  {key}")) || help.contains(key), "{key} in {help}");
        }
        assert!(help.ends_with("Any key goes back to the table."), "{help}");
        press(&mut app, Key::Char('q'));
        assert_eq!(app.mode, Mode::Watch);
    }

    #[test]
    fn a_name_cannot_move_the_cursor_or_turn_a_line_around() {
        let mut app = app();
        let named = status(1, Some("a\x1b[2J\u{202e}b"));
        app.heard(Duration::from_secs(1), id(1), &Request::Stats {}, Ok(named));
        let shown = screen(&mut app, 80, 8).join("\n");
        assert!(shown.contains("a?[2J?b "), "{shown}");
    }
}
