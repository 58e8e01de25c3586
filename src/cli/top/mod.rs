//! `pcproxy top`: all transfers of this user in one live table.

mod app;
mod draw;

use std::collections::HashMap;
use std::env;
use std::io::{self, IsTerminal, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use pcproxy::control::{ControlError, Request, Run, ask, runs};
use pcproxy::stats::Status;
use pcproxy::units::parse_interval;
use ratatui::crossterm::{cursor, event, execute, terminal};
use ratatui::widgets::TableState;
use ratatui::{DefaultTerminal, Frame, Terminal, backend::CrosstermBackend};
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, raise};

use app::{App, Deed};
use draw::{View, draw};

/// Watch and steer all transfers that are running, in one live table
#[derive(Debug, Args)]
pub struct Top {
    /// Look every TIME, such as 500ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
}

/// Though nothing is heard, runs that have ended go, and the terminal may be ours again.
const REDRAW: Duration = Duration::from_secs(1);

/// What happens.
enum Event {
    Terminal(io::Result<event::Event>),
    Signal(i32),
    Answer(Box<Answer>),
}

/// What the run with this pid said to a request.
struct Answer {
    pid: u32,
    request: Request,
    answer: Result<Status, ControlError>,
}

/// Why to end.
#[derive(Clone, Copy)]
enum End {
    Wanted,
    Signal(i32),
}

impl Top {
    /// Shows the table until the user or a signal ends it.
    pub fn run(&self) -> Result<()> {
        if !stdout().is_terminal() {
            bail!("top: stdout is not a terminal; 'pcproxy ctl --all stats' tells as much once");
        }
        let (sender, events) = mpsc::channel();
        report_signals(sender.clone())?;
        let screen = Screen::new().context("top: cannot use this terminal")?;
        report_keys(sender.clone());
        let mut watch = Watch {
            screen,
            app: App::new(self.interval),
            start: Instant::now(),
            sender,
            events,
            asked: HashMap::new(),
        };
        let end = watch.run(self.interval).context("top");
        drop(watch);
        if let End::Signal(signal) = end? {
            emulate_default_handler(signal)?;
        }
        Ok(())
    }
}

fn report_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCONT])?;
    thread::spawn(move || signals.forever().try_for_each(|signal| events.send(Event::Signal(signal))));
    Ok(())
}

fn report_keys(events: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let event = match wait_for_key() {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let failed = event.is_err();
            if events.send(Event::Terminal(event)).is_err() || failed {
                return;
            }
        }
    });
}

/// Whether there is a key. Who reads in the background is stopped, and would not even hear that it
/// is to end.
fn wait_for_key() -> io::Result<bool> {
    const A_WHILE: Duration = Duration::from_millis(250);
    if in_front() {
        event::poll(A_WHILE)
    } else {
        thread::sleep(A_WHILE);
        Ok(false)
    }
}

/// The table, and all that it needs.
struct Watch {
    screen: Screen,
    app: App,
    start: Instant,
    /// For those who report to `events`.
    sender: Sender<Event>,
    events: Receiver<Event>,
    asked: HashMap<u32, Asked>,
}

/// A run that is asked by a thread of its own, so that none holds up the table.
struct Asked {
    requests: Sender<Request>,
    /// How many of them are not answered.
    open: usize,
}

impl Watch {
    fn run(&mut self, interval: Duration) -> Result<End> {
        let no_colours = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let mut view = View { colours: !no_colours, table: TableState::default() };
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|looked| looked.elapsed() >= interval) {
                looked = Some(Instant::now());
                self.look();
            }
            self.app.forget(self.start.elapsed());
            self.screen.draw(|frame| draw(frame, &self.app, &mut view))?;
            let left = interval.saturating_sub(looked.map_or(Duration::ZERO, |looked| looked.elapsed()));
            let first = self.events.recv_timeout(left.min(REDRAW));
            let more: Vec<_> = self.events.try_iter().collect();
            for event in first.into_iter().chain(more) {
                if let Some(end) = self.happened(event)? {
                    return Ok(end);
                }
            }
        }
    }

    /// Asks all runs how things are.
    fn look(&mut self) {
        // The folder may be mended.
        let found = runs().unwrap_or_else(|error| {
            self.app.notice = Some(error.to_string());
            Vec::new()
        });
        for run in found {
            let (pid, sender) = (run.id().pid, &self.sender);
            self.asked.entry(pid).or_insert_with(|| Asked { requests: attend(run, sender.clone()), open: 0 });
        }
        let idle: Vec<_> = self.asked.iter().filter(|(_, asked)| asked.open == 0).map(|(pid, _)| *pid).collect();
        idle.into_iter().for_each(|pid| self.ask(pid, Request::Stats {}));
    }

    fn ask(&mut self, pid: u32, request: Request) {
        match self.asked.get_mut(&pid) {
            Some(asked) if asked.requests.send(request.clone()).is_ok() => asked.open += 1,
            _ => self.app.heard(self.start.elapsed(), pid, &request, Err(ControlError::Ended)),
        }
    }

    fn happened(&mut self, event: Event) -> Result<Option<End>> {
        match event {
            Event::Terminal(event) => {
                if let event::Event::Key(key) = event? {
                    match self.app.pressed(key) {
                        Some(Deed::Leave) => return Ok(Some(End::Wanted)),
                        Some(Deed::Suspend) => self.screen.suspend()?,
                        Some(Deed::Ask(pid, request)) => self.ask(pid, request),
                        None => {}
                    }
                }
            }
            Event::Signal(SIGCONT) => self.screen.lost = true,
            Event::Signal(signal) => return Ok(Some(End::Signal(signal))),
            Event::Answer(answer) => {
                let Answer { pid, request, answer } = *answer;
                if answer == Err(ControlError::Ended) {
                    self.asked.remove(&pid);
                } else if let Some(asked) = self.asked.get_mut(&pid) {
                    asked.open -= 1;
                }
                self.app.heard(self.start.elapsed(), pid, &request, answer);
            }
        }
        Ok(None)
    }
}

/// Asks a run what is sent, one after the other, until it has ended.
fn attend(mut run: Run, events: Sender<Event>) -> Sender<Request> {
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for request in requests {
            let answer = ask_one(&mut run, &request);
            let ended = answer == Err(ControlError::Ended);
            if events.send(Event::Answer(Box::new(Answer { pid: run.id().pid, request, answer }))).is_err() || ended {
                return;
            }
        }
    });
    sender
}

fn ask_one(run: &mut Run, request: &Request) -> Result<Status, ControlError> {
    ask(std::slice::from_mut(run), request).remove(0)
}

/// The terminal while it is ours. It is as it was before once this is dropped, or the program
/// panics.
struct Screen {
    terminal: DefaultTerminal,
    /// The program was stopped: the terminal may be in any state since.
    lost: bool,
}

impl Screen {
    fn new() -> io::Result<Self> {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            report(panic);
        }));
        let terminal = enter().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        let terminal = terminal.inspect_err(|_| leave())?;
        Ok(Screen { terminal, lost: false })
    }

    fn draw(&mut self, picture: impl FnOnce(&mut Frame)) -> io::Result<()> {
        if !in_front() {
            return Ok(());
        }
        if self.lost {
            leave();
            enter()?;
            // `clear` would ask the terminal where the cursor is, and the answer would go to the
            // thread that reads keys.
            let size = self.terminal.size()?;
            self.terminal.resize(size.into())?;
            self.lost = false;
        }
        self.terminal.draw(picture)?;
        Ok(())
    }

    /// Stops until the shell goes on with it, before it or behind.
    fn suspend(&mut self) -> io::Result<()> {
        leave();
        self.lost = true;
        raise(SIGTSTP)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether the terminal is ours.
static OURS: AtomicBool = AtomicBool::new(false);

fn enter() -> io::Result<()> {
    OURS.store(true, Ordering::Relaxed);
    terminal::enable_raw_mode()?;
    execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide)
}

/// Does what can be done: that the terminal is gone must not matter. Once: left twice, it would put
/// the cursor where it was.
fn leave() {
    if OURS.swap(false, Ordering::Relaxed) && in_front() {
        let _ = execute!(stdout(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

/// Whether the terminal listens to us. Who is in the background would be stopped if it touched it,
/// though it be to end.
fn in_front() -> bool {
    !tcgetpgrp(stdout()).is_ok_and(|front| front != getpgrp())
}
