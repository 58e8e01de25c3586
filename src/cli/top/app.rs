//! What `top` knows and what keys do to it. There is no terminal here, no clock and no socket.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use pcproxy::control::{ControlError, Request};
use pcproxy::stats::{State, Status};
use pcproxy::units::printable;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::words::{RateOrOff, buffer_size, rate_or_off};

/// How long a run that has ended is still shown.
const FAREWELL: Duration = Duration::from_secs(3);

/// When the runs that were there at the start have answered.
const SETTLED: Duration = Duration::from_millis(300);

/// How far back the history goes.
const MINUTE: Duration = Duration::from_secs(60);

/// The state of the program.
#[derive(Debug)]
pub struct App {
    /// In order of name and pid.
    pub rows: Vec<Row>,
    /// The pid of the row that keys act on.
    pub selected: Option<u32>,
    pub mode: Mode,
    /// What went wrong, until the next key.
    pub notice: Option<String>,
    /// How many rates make a minute.
    pub samples: usize,
}

/// A run.
#[derive(Debug)]
pub struct Row {
    pub pid: u32,
    /// The last that was heard of it.
    pub status: Option<Status>,
    /// Why nothing has been heard of it since.
    pub trouble: Option<ControlError>,
    /// When it was found to have ended.
    pub ended: Option<Duration>,
    pub history: History,
}

/// The rates of the last minute, in bytes a second.
#[derive(Debug)]
pub struct History {
    /// The latest comes last; nothing where the run did not answer.
    pub rates: VecDeque<Option<f64>>,
    /// How many there have been before those.
    pub forgotten: usize,
    /// How many are kept, at least 1.
    pub samples: usize,
}

/// What keys mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each is a command.
    Watch,
    /// They make a new value for the run.
    Edit { pid: u32, setting: Setting, text: String },
    /// 'y' stops the run.
    Confirm { pid: u32 },
}

/// What can be changed of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Limit,
    Buffer,
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    Leave,
    Suspend,
    /// Of the run with this pid.
    Ask(u32, Request),
}

impl App {
    /// Of no runs yet, each of which will be heard of once in `interval`.
    pub fn new(interval: Duration) -> Self {
        let samples = (MINUTE.as_secs_f64() / interval.as_secs_f64()).ceil() as usize;
        App { rows: Vec::new(), selected: None, mode: Mode::Watch, notice: None, samples: samples.max(1) }
    }

    /// What a run answered at `now`.
    pub fn heard(&mut self, now: Duration, pid: u32, request: &Request, answer: Result<Status, ControlError>) {
        let asked_by_user = *request != Request::Stats {};
        if let (Err(error), true) = (&answer, asked_by_user) {
            self.notice = Some(format!("{} {error}", self.label(pid)));
        }
        if matches!(answer, Err(ControlError::Ended)) && self.row(pid).is_none() {
            // A socket that was left behind.
            return;
        }
        let place = self.rows.iter().position(|row| row.pid == pid).unwrap_or_else(|| {
            self.rows.push(Row::new(pid, self.samples));
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        match answer {
            Ok(mut status) => {
                match &row.status {
                    // The rate of so short a time tells nothing.
                    Some(last) if asked_by_user => status.rate = last.rate,
                    Some(_) => row.history.push(Some(status.rate)),
                    // That since the beginning.
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
        self.rows.sort_by(|one, other| one.key().cmp(&other.key()));
        if self.selected.is_none() || now < SETTLED {
            self.selected = self.rows.first().map(|row| row.pid);
        }
    }

    /// Forgets the runs that had ended long before `now`.
    pub fn forget(&mut self, now: Duration) {
        let place = self.place();
        self.rows.retain(|row| row.ended.is_none_or(|ended| now.saturating_sub(ended) < FAREWELL));
        if self.place().is_none() {
            // The one that has come to stand there.
            let place = place.unwrap_or(0).min(self.rows.len().saturating_sub(1));
            self.selected = self.rows.get(place).map(|row| row.pid);
        }
    }

    /// What a key does.
    pub fn pressed(&mut self, key: KeyEvent) -> Option<Deed> {
        self.notice = None;
        match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
            (KeyCode::Char('c'), true) => return Some(Deed::Leave),
            (KeyCode::Char('z'), true) => return Some(Deed::Suspend),
            _ => {}
        }
        match self.mode.clone() {
            Mode::Watch => self.command(key.code),
            Mode::Edit { pid, setting, text } => self.edit(key, pid, setting, text),
            Mode::Confirm { pid } => {
                self.mode = Mode::Watch;
                matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(Deed::Ask(pid, Request::Stop {}))
            }
        }
    }

    fn command(&mut self, key: KeyCode) -> Option<Deed> {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Deed::Leave),
            KeyCode::Up | KeyCode::Char('k') => self.select(|place| place.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|place| place + 1),
            _ => {}
        }
        let row = self.rows.get(self.place()?).filter(|row| row.ended.is_none())?;
        let pid = row.pid;
        let edit = |setting| Mode::Edit { pid, setting, text: String::new() };
        match key {
            KeyCode::Char('l') => self.mode = edit(Setting::Limit),
            KeyCode::Char('b') => self.mode = edit(Setting::Buffer),
            KeyCode::Char('s') => self.mode = Mode::Confirm { pid },
            KeyCode::Char('p') => {
                let paused = row.status.as_ref().is_some_and(|status| status.state == State::Paused);
                return Some(Deed::Ask(pid, if paused { Request::Resume {} } else { Request::Pause {} }));
            }
            _ => {}
        }
        None
    }

    fn edit(&mut self, key: KeyEvent, pid: u32, setting: Setting, mut text: String) -> Option<Deed> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('u') if control => text.clear(),
            KeyCode::Char(sign) if !control => text.push(sign),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Esc => {
                self.mode = Mode::Watch;
                return None;
            }
            KeyCode::Enter => match setting.request(text.trim()) {
                Ok(request) => {
                    self.mode = Mode::Watch;
                    return Some(Deed::Ask(pid, request));
                }
                Err(error) => self.notice = Some(format!("'{text}': {error}")),
            },
            _ => {}
        }
        self.mode = Mode::Edit { pid, setting, text };
        None
    }

    fn select(&mut self, to: impl Fn(usize) -> usize) {
        if let Some(place) = self.place() {
            self.selected = Some(self.rows[to(place).min(self.rows.len() - 1)].pid);
        }
    }

    /// Where the selected row is.
    pub fn place(&self) -> Option<usize> {
        self.rows.iter().position(|row| Some(row.pid) == self.selected)
    }

    pub fn row(&self, pid: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.pid == pid)
    }

    /// What a run is called.
    pub fn label(&self, pid: u32) -> String {
        self.row(pid).map_or_else(|| pid.to_string(), Row::label)
    }
}

impl Row {
    fn new(pid: u32, samples: usize) -> Self {
        let history = History { rates: VecDeque::new(), forgotten: 0, samples };
        Row { pid, status: None, trouble: None, ended: None, history }
    }

    /// What it is called.
    pub fn label(&self) -> String {
        self.name().map_or_else(|| self.pid.to_string(), printable)
    }

    /// Whether what was last heard of it still holds.
    pub fn is_well(&self) -> bool {
        self.trouble.is_none() && self.ended.is_none()
    }

    fn name(&self) -> Option<&str> {
        self.status.as_ref().and_then(|status| status.name.as_deref())
    }

    /// By which rows are ordered: those without a name come last.
    fn key(&self) -> (bool, Option<&str>, u32) {
        (self.name().is_none(), self.name(), self.pid)
    }
}

impl History {
    fn push(&mut self, rate: Option<f64>) {
        if self.rates.len() == self.samples {
            self.rates.pop_front();
            self.forgotten += 1;
        }
        self.rates.push_back(rate);
    }
}

impl Setting {
    fn request(self, text: &str) -> Result<Request> {
        Ok(match self {
            Setting::Limit => {
                let RateOrOff(rate) = rate_or_off(text)?;
                Request::Rate { rate: rate.map(|speed| speed.amount), seconds: rate.map_or(1, |speed| speed.seconds) }
            }
            Setting::Buffer => Request::Buffer { size: buffer_size(text)? as u64 },
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::fixture;

    /// The status of a run that gets 4 MiB/s and holds a quarter of its buffer.
    pub fn status(pid: u32, name: Option<&str>) -> Status {
        Status {
            pid,
            name: name.map(str::to_owned),
            group: Some("site/backup".to_owned()),
            state: State::Limited,
            bytes: 240 << 20,
            rate: 4_194_304.0,
            limit: Some(4 << 20),
            buffered: 256 << 10,
            ..fixture::status(60.0)
        }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An app that has heard of three runs, of which `backup` comes first.
    pub fn app() -> App {
        let mut app = App::new(s(1));
        for (pid, name) in [(11, None), (4711, Some("backup")), (22, Some("db"))] {
            app.heard(s(0), pid, &Request::Stats {}, Ok(status(pid, name)));
        }
        app
    }

    fn press(app: &mut App, code: KeyCode) -> Option<Deed> {
        app.pressed(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn write(app: &mut App, text: &str) -> Option<Deed> {
        text.chars().map(|sign| press(app, KeyCode::Char(sign))).last()?
    }

    fn pids(app: &App) -> Vec<u32> {
        app.rows.iter().map(|row| row.pid).collect()
    }

    #[test]
    fn rows_are_in_order_of_their_names() {
        let app = app();
        assert_eq!(pids(&app), [4711, 22, 11]);
        assert_eq!(app.selected, Some(4711));
    }

    #[test]
    fn the_selection_stays_with_its_run() {
        let mut app = app();
        write(&mut app, "jk");
        press(&mut app, KeyCode::Down);
        app.heard(s(9), 33, &Request::Stats {}, Ok(status(33, Some("aaa"))));
        assert_eq!((app.selected, app.place()), (Some(22), Some(2)));
        write(&mut app, "jjjj");
        assert_eq!(app.selected, Some(11));
        write(&mut app, "kkkkkk");
        assert_eq!(app.selected, Some(33));
    }

    #[test]
    fn one_that_has_ended_is_shown_for_a_while() {
        let mut app = app();
        write(&mut app, "j");
        app.heard(s(10), 22, &Request::Stats {}, Err(ControlError::Ended));
        app.heard(s(11), 22, &Request::Stats {}, Err(ControlError::Ended));
        app.forget(s(12));
        assert_eq!(pids(&app), [4711, 22, 11]);
        assert_eq!(write(&mut app, "p"), None);
        app.forget(s(13));
        assert_eq!((pids(&app), app.selected), (vec![4711, 11], Some(11)));
        app.heard(s(20), 11, &Request::Stats {}, Err(ControlError::Ended));
        app.heard(s(20), 4711, &Request::Stats {}, Err(ControlError::Ended));
        app.forget(s(30));
        assert_eq!((pids(&app), app.selected), (vec![], None));
        assert_eq!(write(&mut app, "jklbsp"), None);
        assert_eq!(app.mode, Mode::Watch);
    }

    #[test]
    fn a_socket_that_was_left_behind_is_no_run() {
        let mut app = app();
        app.heard(s(1), 99, &Request::Stats {}, Err(ControlError::Ended));
        assert_eq!(pids(&app), [4711, 22, 11]);
    }

    #[test]
    fn one_that_hangs_keeps_its_values() {
        let mut app = app();
        app.heard(s(1), 22, &Request::Stats {}, Err(ControlError::Silent));
        let row = app.row(22).unwrap();
        assert_eq!((row.trouble.clone(), row.status.as_ref().unwrap().bytes), (Some(ControlError::Silent), 240 << 20));
        app.heard(s(2), 22, &Request::Stats {}, Ok(status(22, Some("db"))));
        assert!(app.row(22).unwrap().is_well());
        assert_eq!(app.row(22).unwrap().history.rates, [None, Some(4_194_304.0)]);
    }

    #[test]
    fn what_the_user_asks_for_tells_no_rate() {
        let mut app = app();
        let answer = Status { rate: 7.0, state: State::Paused, ..status(22, Some("db")) };
        app.heard(s(1), 22, &Request::Pause {}, Ok(answer));
        let row = app.row(22).unwrap();
        let status = row.status.as_ref().unwrap();
        assert_eq!((status.rate, status.state, row.history.rates.len()), (4_194_304.0, State::Paused, 0));
    }

    #[test]
    fn a_refusal_is_told_until_the_next_key() {
        let mut app = app();
        app.heard(s(1), 22, &Request::Pause {}, Err(ControlError::Refused("no".to_owned())));
        assert_eq!(app.notice.as_deref(), Some("db refused: no"));
        assert!(app.row(22).unwrap().is_well());
        press(&mut app, KeyCode::Tab);
        assert_eq!(app.notice, None);
    }

    #[test]
    fn p_pauses_and_resumes() {
        let mut app = app();
        assert_eq!(write(&mut app, "p"), Some(Deed::Ask(4711, Request::Pause {})));
        let paused = Status { state: State::Paused, ..status(4711, Some("backup")) };
        app.heard(s(1), 4711, &Request::Pause {}, Ok(paused));
        assert_eq!(write(&mut app, "p"), Some(Deed::Ask(4711, Request::Resume {})));
    }

    #[test]
    fn a_limit_is_typed_mended_and_set() {
        let mut app = app();
        assert_eq!(write(&mut app, "l5q"), None);
        assert_eq!(press(&mut app, KeyCode::Enter), None);
        assert!(app.notice.as_ref().unwrap().starts_with("'5q': is not a rate"));
        press(&mut app, KeyCode::Backspace);
        write(&mut app, "M");
        let limit = Request::Rate { rate: Some(5 << 20), seconds: 1 };
        assert_eq!(press(&mut app, KeyCode::Enter), Some(Deed::Ask(4711, limit)));
        write(&mut app, "loff");
        assert_eq!(press(&mut app, KeyCode::Enter), Some(Deed::Ask(4711, Request::Rate { rate: None, seconds: 1 })));
        assert_eq!(app.mode, Mode::Watch);
    }

    #[test]
    fn a_value_is_for_the_run_that_was_selected() {
        let mut app = app();
        write(&mut app, "b1G");
        app.heard(s(9), 4711, &Request::Stats {}, Err(ControlError::Ended));
        app.forget(s(60));
        assert_eq!(press(&mut app, KeyCode::Enter), Some(Deed::Ask(4711, Request::Buffer { size: 1 << 30 })));
    }

    #[test]
    fn stops_only_when_sure() {
        let mut app = app();
        assert_eq!(write(&mut app, "sn"), None);
        assert_eq!(write(&mut app, "sq"), None);
        assert_eq!(write(&mut app, "sy"), Some(Deed::Ask(4711, Request::Stop {})));
    }

    #[test]
    fn ways_to_leave() {
        assert_eq!(write(&mut app(), "q"), Some(Deed::Leave));
        assert_eq!(press(&mut app(), KeyCode::Esc), Some(Deed::Leave));
        let mut app = app();
        write(&mut app, "l");
        assert_eq!(press(&mut app, KeyCode::Esc), None);
        write(&mut app, "l");
        let control = |sign| KeyEvent::new(KeyCode::Char(sign), KeyModifiers::CONTROL);
        assert_eq!(app.pressed(control('z')), Some(Deed::Suspend));
        assert_eq!(app.pressed(control('c')), Some(Deed::Leave));
    }

    #[test]
    fn remembers_a_minute() {
        let mut app = App::new(Duration::from_millis(500));
        for _ in 0..=130 {
            app.heard(s(1), 1, &Request::Stats {}, Ok(status(1, None)));
        }
        let history = &app.row(1).unwrap().history;
        assert_eq!((history.rates.len(), history.forgotten), (120, 10));
    }
}
