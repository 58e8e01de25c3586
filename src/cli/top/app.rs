//! The state of `top`, and how keys change it. There is no terminal here, no clock and no socket.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use pcproxy::budget::GroupLimit;
use pcproxy::control::{ControlError, Request, RunId};
use pcproxy::stats::{State, Status};

use super::super::words::{buffer_size, new_rate};
use super::KEYS;
use super::columns::Column;
use super::keys::Key;
use super::rows::{Item, Line, Order, Row, find, lines, rate_of, sort};

/// How long a run that has ended is still shown.
const FAREWELL: Duration = Duration::from_secs(3);

/// By then the runs that were there at the start have answered.
const SETTLED: Duration = Duration::from_millis(300);

/// How far back the history goes.
const MINUTE: Duration = Duration::from_secs(60);

/// The state of the program.
#[derive(Debug)]
pub struct App {
    /// In the order in which they are shown.
    pub rows: Vec<Row>,
    /// The line that keys act on.
    pub selected: Option<Item>,
    pub mode: Mode,
    /// The latest error, until the next key.
    pub notice: Option<String>,
    /// How many rates make a minute.
    pub samples: usize,
    pub order: Order,
    /// The columns that are shown, from left to right. Set by who draws.
    pub columns: Vec<Column>,
    /// How many lines the table has room for. Set by who draws.
    pub page: usize,
    /// Groups are shown above their members.
    pub by_group: bool,
    pub folded: BTreeSet<String>,
    /// The limits of groups.
    pub limits: BTreeMap<String, Option<GroupLimit>>,
    /// The latest search.
    sought: String,
}

/// The meaning of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each is a command.
    Watch,
    /// They make a new value for the run.
    Edit { id: RunId, setting: Setting, text: String },
    /// 'y' stops the run.
    Confirm { id: RunId },
    /// They make what to look for. `from` was selected before.
    Search { from: Option<Item>, text: String },
    /// The help is shown, from this line on.
    Help { from: usize },
}

/// The settings of a run that can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Limit,
    Buffer,
}

/// The action that a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Leave,
    Suspend,
    /// Asks this run.
    Ask(RunId, Request),
}

impl App {
    /// Knows of no runs yet. Each of them will answer once in `interval`.
    pub fn new(interval: Duration) -> Self {
        let samples = (MINUTE.as_secs_f64() / interval.as_secs_f64()).ceil() as usize;
        App {
            rows: Vec::new(),
            selected: None,
            mode: Mode::Watch,
            notice: None,
            samples: samples.max(1),
            order: Order { column: Column::Name, reversed: false },
            columns: Vec::new(),
            page: 1,
            by_group: false,
            folded: BTreeSet::new(),
            limits: BTreeMap::new(),
            sought: String::new(),
        }
    }

    /// Takes what a run answered at `now`.
    pub fn heard(&mut self, now: Duration, id: RunId, request: &Request, answer: Result<Status, ControlError>) {
        let asked_by_user = *request != Request::Stats {};
        if let (Err(error), true) = (&answer, asked_by_user) {
            self.notice = Some(format!("{} {error}", self.label(id)));
        }
        if matches!(answer, Err(ControlError::Ended)) && self.row(id).is_none() {
            // A socket that was left behind.
            return;
        }
        let place = self.rows.iter().position(|row| row.id == id).unwrap_or_else(|| {
            self.rows.push(Row::new(id, self.samples));
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        match answer {
            Ok(mut status) => {
                match &row.status {
                    // The time since the status before was too short for a rate.
                    Some(last) if asked_by_user => {
                        status.rate = last.rate;
                        if let (Some(records), Some(last)) = (&mut status.records, last.records) {
                            records.rate = last.rate;
                        }
                    }
                    Some(_) => row.history.push(Some(rate_of(&status))),
                    // The rate since the beginning.
                    None => {}
                }
                row.trouble = None;
                row.ended = if status.done { row.ended.or(Some(now)) } else { None };
                row.status = Some(status);
            }
            Err(ControlError::Ended) => row.ended = row.ended.or(Some(now)),
            Err(ControlError::Refused(_)) if asked_by_user => {}
            Err(error) => {
                row.history.push(None);
                row.trouble = Some(error);
            }
        }
        sort(&mut self.rows, self.order);
        if self.selected.is_none() || (now < SETTLED && self.mode == Mode::Watch) {
            self.selected = self.lines().into_iter().next().map(|line| line.item);
        }
    }

    /// Forgets the runs that had ended long before `now`.
    pub fn forget(&mut self, now: Duration) {
        let place = self.place();
        self.rows.retain(|row| row.ended.is_none_or(|ended| now.saturating_sub(ended) < FAREWELL));
        self.keep_selection(place);
    }

    /// Selects what has come to stand at `place` if the selected line is gone.
    fn keep_selection(&mut self, place: Option<usize>) {
        if self.place().is_none() {
            let lines = self.lines();
            let place = place.unwrap_or(0).min(lines.len().saturating_sub(1));
            self.selected = lines.into_iter().nth(place).map(|line| line.item);
        }
    }

    /// Whether the limits of groups are shown.
    pub fn wants_limits(&self) -> bool {
        self.by_group
    }

    /// Does what a key means.
    pub fn pressed(&mut self, key: Key) -> Option<Action> {
        self.notice = None;
        match key {
            Key::Control('c') => return Some(Action::Leave),
            Key::Control('z') => return Some(Action::Suspend),
            _ => {}
        }
        match self.mode.clone() {
            Mode::Watch => return self.command(key),
            Mode::Edit { id, setting, text } => return self.edit(key, id, setting, text),
            Mode::Search { from, text } => self.search(key, from, text),
            // The table has a line of titles, which the help has not.
            Mode::Help { from } if key != Key::Escape && from + self.page + 1 < KEYS.lines().count() => {
                self.mode = Mode::Help { from: from + self.page + 1 };
            }
            Mode::Help { .. } => self.mode = Mode::Watch,
            Mode::Confirm { id } => {
                self.mode = Mode::Watch;
                return (key == Key::Char('y') || key == Key::Char('Y')).then_some(Action::Ask(id, Request::Stop {}));
            }
        }
        None
    }

    fn command(&mut self, key: Key) -> Option<Action> {
        let page = self.page.max(2) - 1;
        match key {
            Key::Char('q') => return Some(Action::Leave),
            Key::Char('?' | 'h') => self.mode = Mode::Help { from: 0 },
            Key::Up | Key::Char('k') => self.select(|place| place.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(|place| place + 1),
            Key::PageUp => self.select(|place| place.saturating_sub(page)),
            Key::PageDown => self.select(|place| place + page),
            Key::Home => self.select(|_| 0),
            Key::End => self.select(|_| usize::MAX),
            Key::Char('/') => self.mode = Mode::Search { from: self.selected.clone(), text: String::new() },
            Key::Char('n') => self.find_next(false),
            Key::Char('N') => self.find_next(true),
            Key::Char('<') => self.sort_by(-1),
            Key::Char('>') => self.sort_by(1),
            Key::Char('r') => {
                self.order.reversed = !self.order.reversed;
                sort(&mut self.rows, self.order);
            }
            Key::Char(letter) if let Some(column) = Column::of_letter(letter) => {
                self.order = Order { column, reversed: column == self.order.column && !self.order.reversed };
                sort(&mut self.rows, self.order);
            }
            Key::Char('g') => {
                self.by_group = !self.by_group;
                self.keep_selection(None);
            }
            Key::Char(' ') | Key::Enter | Key::Left | Key::Right => self.fold(key),
            key => return self.steer(key),
        }
        None
    }

    /// Changes the selected run.
    fn steer(&mut self, key: Key) -> Option<Action> {
        if !matches!(key, Key::Char('l' | 'b' | 's' | 'p')) {
            return None;
        }
        let id = match &self.selected {
            Some(Item::Run(id)) => *id,
            Some(Item::Group(group)) => {
                self.notice = Some(format!("a group is set with 'pcproxy group set {group} RATE'"));
                return None;
            }
            None => return None,
        };
        let row = self.row(id).filter(|row| row.ended.is_none())?;
        let paused = row.status.as_ref().is_some_and(|status| status.state == State::Paused);
        let edit = |setting| Mode::Edit { id, setting, text: String::new() };
        match key {
            Key::Char('l') => self.mode = edit(Setting::Limit),
            Key::Char('b') => self.mode = edit(Setting::Buffer),
            Key::Char('s') => self.mode = Mode::Confirm { id },
            _ => return Some(Action::Ask(id, if paused { Request::Resume {} } else { Request::Pause {} })),
        }
        None
    }

    fn edit(&mut self, key: Key, id: RunId, setting: Setting, mut text: String) -> Option<Action> {
        match key {
            Key::Escape => {
                self.mode = Mode::Watch;
                return None;
            }
            Key::Enter => match setting.request(text.trim()) {
                Ok(request) => {
                    self.mode = Mode::Watch;
                    return Some(Action::Ask(id, request));
                }
                Err(error) => self.notice = Some(format!("'{text}': {error}")),
            },
            key => write(&mut text, key),
        }
        self.mode = Mode::Edit { id, setting, text };
        None
    }

    /// Selects what is looked for while it is being typed.
    fn search(&mut self, key: Key, from: Option<Item>, mut text: String) {
        match key {
            Key::Escape => {
                self.selected = from;
                self.keep_selection(None);
                self.mode = Mode::Watch;
                return;
            }
            Key::Enter => {
                self.mode = Mode::Watch;
                self.sought = text;
                return;
            }
            key => write(&mut text, key),
        }
        let lines = self.lines();
        let start = lines.iter().position(|line| Some(&line.item) == from.as_ref()).unwrap_or(0);
        match find(&self.rows, &lines, start, &text, false) {
            Some(place) => self.selected = Some(lines[place].item.clone()),
            None => self.notice = Some(format!("nothing has '{text}' in its name, group or pid")),
        }
        self.mode = Mode::Search { from, text };
    }

    fn find_next(&mut self, back: bool) {
        let lines = self.lines();
        let (sought, place) = (self.sought.clone(), self.place().unwrap_or(0));
        if sought.is_empty() {
            self.notice = Some("nothing was looked for yet: '/' does".to_owned());
        } else if let Some(place) = find(&self.rows, &lines, if back { place } else { place + 1 }, &sought, back) {
            self.selected = Some(lines[place].item.clone());
        } else {
            self.notice = Some(format!("nothing has '{sought}' in its name, group or pid"));
        }
    }

    /// Sorts by the next column to the left or to the right.
    fn sort_by(&mut self, step: isize) {
        let columns: Vec<_> = self.columns.iter().filter(|column| **column != Column::Minute).collect();
        let at = columns.iter().position(|column| **column == self.order.column).unwrap_or(0);
        let next = at.saturating_add_signed(step).min(columns.len().saturating_sub(1));
        if let Some(column) = columns.get(next) {
            self.order = Order { column: **column, reversed: false };
            sort(&mut self.rows, self.order);
        }
    }

    /// Folds or unfolds the selected group, or the group of the selected run.
    fn fold(&mut self, key: Key) {
        if !self.by_group {
            return;
        }
        match self.selected.clone() {
            Some(Item::Group(group)) => {
                let fold = match key {
                    Key::Left => true,
                    Key::Right => false,
                    _ => !self.folded.contains(&group),
                };
                if fold {
                    self.folded.insert(group)
                } else {
                    self.folded.remove(&group)
                };
            }
            Some(Item::Run(id)) if key == Key::Left => {
                if let Some(group) = self.row(id).and_then(Row::group) {
                    self.selected = Some(Item::Group(group.to_owned()));
                }
            }
            _ => {}
        }
    }

    fn select(&mut self, to: impl Fn(usize) -> usize) {
        let lines = self.lines();
        if let Some(place) = self.place() {
            self.selected = Some(lines[to(place).min(lines.len() - 1)].item.clone());
        }
    }

    /// The lines of the table.
    pub fn lines(&self) -> Vec<Line> {
        lines(&self.rows, self.by_group, &self.folded)
    }

    /// The place of the selected line.
    pub fn place(&self) -> Option<usize> {
        self.lines().iter().position(|line| Some(&line.item) == self.selected.as_ref())
    }

    pub fn row(&self, id: RunId) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// How a run is called.
    pub fn label(&self, id: RunId) -> String {
        self.row(id).map_or_else(|| id.pid.to_string(), Row::label)
    }
}

/// Writes a key to the end of a text.
fn write(text: &mut String, key: Key) {
    match key {
        Key::Control('u') => text.clear(),
        Key::Char(sign) => text.push(sign),
        Key::Backspace => drop(text.pop()),
        _ => {}
    }
}

impl Setting {
    fn request(self, text: &str) -> Result<Request> {
        Ok(match self {
            Setting::Limit => new_rate(text)?.request(),
            Setting::Buffer => Request::Buffer { size: buffer_size(text)? as u64 },
        })
    }
}

#[cfg(test)]
pub mod tests {
    use pcproxy::units::RateUnit;

    use super::*;

    /// The run with this pid.
    pub const fn id(pid: u32) -> RunId {
        RunId { user: 0, pid, number: 0 }
    }

    /// The status of a run that gets 4 MiB/s and holds a quarter of its buffer.
    pub fn status(pid: u32, name: Option<&str>) -> Status {
        Status {
            elapsed: 60.0,
            pid,
            name: name.map(str::to_owned),
            group: Some("site/backup".to_owned()),
            state: State::Limited,
            bytes: 240 << 20,
            rate: 4_194_304.0,
            mean_rate: 4_194_304.0,
            peak_rate: 4_194_304.0,
            limit: Some(4 << 20),
            buffer: 1 << 20,
            buffered: 256 << 10,
            peak_buffered: 1 << 20,
            waited_for_limit: 59.0,
            ..Status::default()
        }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An app that has heard of three runs, of which `backup` comes first.
    pub fn app() -> App {
        let mut app = App::new(s(1));
        for (pid, name) in [(11, None), (4711, Some("backup")), (22, Some("db"))] {
            app.heard(s(0), id(pid), &Request::Stats {}, Ok(status(pid, name)));
        }
        app
    }

    pub fn press(app: &mut App, key: Key) -> Option<Action> {
        app.pressed(key)
    }

    pub fn write(app: &mut App, text: &str) -> Option<Action> {
        text.chars().map(|sign| press(app, Key::Char(sign))).last()?
    }

    fn pids(app: &App) -> Vec<u32> {
        app.rows.iter().map(|row| row.id.pid).collect()
    }

    fn selected(app: &App) -> Option<u32> {
        match &app.selected {
            Some(Item::Run(id)) => Some(id.pid),
            _ => None,
        }
    }

    fn asks(pid: u32, request: Request) -> Option<Action> {
        Some(Action::Ask(id(pid), request))
    }

    #[test]
    fn rows_are_in_order_of_their_names() {
        let app = app();
        assert_eq!(pids(&app), [4711, 22, 11]);
        assert_eq!(selected(&app), Some(4711));
    }

    #[test]
    fn the_selection_stays_with_its_run() {
        let mut app = app();
        write(&mut app, "jk");
        press(&mut app, Key::Down);
        app.heard(s(9), id(33), &Request::Stats {}, Ok(status(33, Some("aaa"))));
        assert_eq!((selected(&app), app.place()), (Some(22), Some(2)));
        write(&mut app, "jjjj");
        assert_eq!(selected(&app), Some(11));
        write(&mut app, "kkkkkk");
        assert_eq!(selected(&app), Some(33));
    }

    #[test]
    fn a_page_is_as_long_as_the_table() {
        let mut app = App::new(s(1));
        for pid in 1..=50 {
            app.heard(s(1), id(pid), &Request::Stats {}, Ok(status(pid, None)));
        }
        app.page = 11;
        let mut after = |key| {
            press(&mut app, key);
            selected(&app).unwrap()
        };
        assert_eq!([Key::PageDown, Key::PageDown, Key::PageUp, Key::End].map(&mut after), [11, 21, 11, 50]);
        assert_eq!([Key::PageDown, Key::Home, Key::PageUp].map(after), [50, 1, 1]);
    }

    #[test]
    fn a_run_that_has_ended_is_shown_for_a_while() {
        let mut app = app();
        write(&mut app, "j");
        app.heard(s(10), id(22), &Request::Stats {}, Err(ControlError::Ended));
        app.heard(s(11), id(22), &Request::Stats {}, Err(ControlError::Ended));
        app.forget(s(12));
        assert_eq!(pids(&app), [4711, 22, 11]);
        assert_eq!(write(&mut app, "p"), None);
        app.forget(s(13));
        assert_eq!((pids(&app), selected(&app)), (vec![4711, 11], Some(11)));
        app.heard(s(20), id(11), &Request::Stats {}, Err(ControlError::Ended));
        app.heard(s(20), id(4711), &Request::Stats {}, Err(ControlError::Ended));
        app.forget(s(30));
        assert_eq!((pids(&app), selected(&app)), (vec![], None));
        assert_eq!(write(&mut app, "jklbsp<>rgn "), None);
        assert_eq!(app.mode, Mode::Watch);
    }

    #[test]
    fn a_socket_that_was_left_behind_is_no_run() {
        let mut app = app();
        app.heard(s(1), id(99), &Request::Stats {}, Err(ControlError::Ended));
        assert_eq!(pids(&app), [4711, 22, 11]);
    }

    #[test]
    fn a_run_that_hangs_keeps_its_values() {
        let mut app = app();
        app.heard(s(1), id(22), &Request::Stats {}, Err(ControlError::Silent));
        let row = app.row(id(22)).unwrap();
        assert_eq!((row.trouble.clone(), row.status.as_ref().unwrap().bytes), (Some(ControlError::Silent), 240 << 20));
        app.heard(s(2), id(22), &Request::Stats {}, Ok(status(22, Some("db"))));
        assert!(app.row(id(22)).unwrap().is_well());
        assert_eq!(app.row(id(22)).unwrap().history.rates, [None, Some(4_194_304.0)]);
    }

    #[test]
    fn an_answer_to_the_user_tells_no_rate() {
        let mut app = app();
        let answer = Status { rate: 7.0, state: State::Paused, ..status(22, Some("db")) };
        app.heard(s(1), id(22), &Request::Pause {}, Ok(answer));
        let row = app.row(id(22)).unwrap();
        let status = row.status.as_ref().unwrap();
        assert_eq!((status.rate, status.state, row.history.rates.len()), (4_194_304.0, State::Paused, 0));
    }

    #[test]
    fn a_refusal_is_shown_until_the_next_key() {
        let mut app = app();
        app.heard(s(1), id(22), &Request::Pause {}, Err(ControlError::Refused("no".to_owned())));
        assert_eq!(app.notice.as_deref(), Some("db refused: no"));
        assert!(app.row(id(22)).unwrap().is_well());
        press(&mut app, Key::Other);
        assert_eq!(app.notice, None);
    }

    #[test]
    fn p_pauses_and_resumes() {
        let mut app = app();
        assert_eq!(write(&mut app, "p"), asks(4711, Request::Pause {}));
        let paused = Status { state: State::Paused, ..status(4711, Some("backup")) };
        app.heard(s(1), id(4711), &Request::Pause {}, Ok(paused));
        assert_eq!(write(&mut app, "p"), asks(4711, Request::Resume {}));
    }

    #[test]
    fn a_limit_is_typed_mended_and_set() {
        let mut app = app();
        assert_eq!(write(&mut app, "l5q"), None);
        assert_eq!(press(&mut app, Key::Enter), None);
        assert!(app.notice.as_ref().unwrap().starts_with("'5q': is not a rate"));
        press(&mut app, Key::Backspace);
        write(&mut app, "M");
        assert_eq!(
            press(&mut app, Key::Enter),
            asks(4711, Request::Rate { rate: Some(5 << 20), seconds: 1, unit: Some(RateUnit::Binary) })
        );
        write(&mut app, "loff");
        assert_eq!(press(&mut app, Key::Enter), asks(4711, Request::Rate { rate: None, seconds: 1, unit: None }));
        write(&mut app, "lback");
        assert_eq!(press(&mut app, Key::Enter), asks(4711, Request::RateBack {}));
        assert_eq!(app.mode, Mode::Watch);
    }

    #[test]
    fn a_value_is_for_the_run_that_was_selected() {
        let mut app = app();
        write(&mut app, "b1G");
        app.heard(s(9), id(4711), &Request::Stats {}, Err(ControlError::Ended));
        app.forget(s(60));
        assert_eq!(press(&mut app, Key::Enter), asks(4711, Request::Buffer { size: 1 << 30 }));
    }

    #[test]
    fn stops_only_when_sure() {
        let mut app = app();
        assert_eq!(write(&mut app, "sn"), None);
        assert_eq!(write(&mut app, "sq"), None);
        assert_eq!(write(&mut app, "sy"), asks(4711, Request::Stop {}));
    }

    #[test]
    fn escape_cancels_and_does_not_quit() {
        let mut app = app();
        for keys in ["", "l5", "b", "s", "/x", "?"] {
            write(&mut app, keys);
            assert_eq!(press(&mut app, Key::Escape), None, "{keys}");
            assert_eq!((&app.mode, selected(&app)), (&Mode::Watch, Some(4711)), "{keys}");
        }
    }

    #[test]
    fn ways_to_leave() {
        assert_eq!(write(&mut app(), "q"), Some(Action::Leave));
        let mut app = app();
        write(&mut app, "l");
        assert_eq!(press(&mut app, Key::Control('z')), Some(Action::Suspend));
        assert_eq!(press(&mut app, Key::Control('c')), Some(Action::Leave));
    }

    #[test]
    fn a_search_selects_while_it_is_typed() {
        let mut app = app();
        write(&mut app, "/d");
        assert_eq!(selected(&app), Some(22));
        write(&mut app, "x");
        assert!(app.notice.is_some());
        press(&mut app, Key::Backspace);
        press(&mut app, Key::Enter);
        assert_eq!((selected(&app), &app.mode), (Some(22), &Mode::Watch));
        write(&mut app, "/site");
        press(&mut app, Key::Enter);
        let mut next = |key: &str| {
            write(&mut app, key);
            selected(&app).unwrap()
        };
        assert_eq!(["n", "n", "N"].map(&mut next), [11, 4711, 11]);
    }

    #[test]
    fn groups_fold_and_the_selection_stays_in_sight() {
        let mut app = app();
        write(&mut app, "g");
        assert_eq!((selected(&app), app.place(), app.lines().len()), (Some(4711), Some(2), 5));
        press(&mut app, Key::Left);
        assert_eq!(app.selected, Some(Item::Group("site/backup".to_owned())));
        write(&mut app, " ");
        assert_eq!(app.lines().len(), 2);
        press(&mut app, Key::Right);
        assert_eq!(app.lines().len(), 5);
        press(&mut app, Key::Home);
        press(&mut app, Key::Enter);
        assert_eq!(app.lines().len(), 1);
        assert_eq!(write(&mut app, "l"), None);
        assert!(app.notice.as_ref().unwrap().contains("group set site RATE"));
        write(&mut app, "g");
        assert_eq!(app.place(), Some(0));
    }

    #[test]
    fn the_order_goes_from_column_to_column() {
        let mut app = app();
        app.columns = vec![Column::Name, Column::Pid, Column::Rate];
        app.heard(s(9), id(5), &Request::Stats {}, Ok(Status { rate: 9e9, ..status(5, Some("x")) }));
        let mut after = |keys| {
            write(&mut app, keys);
            pids(&app)
        };
        assert_eq!(after(">"), [5, 11, 22, 4711]);
        assert_eq!(after("r"), [4711, 22, 11, 5]);
        assert_eq!(after(">>>")[0], 5);
        assert_eq!(after("<<<"), [4711, 22, 5, 11]);
        assert_eq!(selected(&app), Some(4711));
    }

    #[test]
    fn remembers_a_minute() {
        let mut app = App::new(Duration::from_millis(500));
        for _ in 0..=130 {
            app.heard(s(1), id(1), &Request::Stats {}, Ok(status(1, None)));
        }
        let history = &app.row(id(1)).unwrap().history;
        assert_eq!((history.rates.len(), history.forgotten), (120, 10));
    }

    #[test]
    fn a_letter_sorts_by_its_column_and_once_more_the_other_way_round() {
        let mut app = app();
        let order = |app: &mut App, letter| {
            press(app, Key::Char(letter));
            (app.order.column, app.order.reversed)
        };
        assert_eq!(order(&mut app, 'R'), (Column::Rate, false));
        assert_eq!(order(&mut app, 'R'), (Column::Rate, true));
        assert_eq!(order(&mut app, 'R'), (Column::Rate, false));
        assert_eq!(order(&mut app, 'L'), (Column::Left, false));
        // Small letters and `N` have other uses.
        assert_eq!(order(&mut app, 'N'), (Column::Left, false));
    }
}
