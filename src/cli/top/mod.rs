//! `pcproxy top`: all transfers of this user in one live table.

mod app;
mod columns;
mod draw;
mod keys;
mod rows;
mod screen;

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::io::{self, IsTerminal, stdout};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use pcproxy::budget;
use pcproxy::control::{ControlError, Request, Run, RunId, runs};
use pcproxy::os::die_by;
use pcproxy::units::parse_interval;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::emulate_default_handler;

use app::{Action, App};
use draw::{View, draw};
use keys::{Key, Keys};
use screen::{Screen, has_shell};

/// Watch and steer all transfers that are running, in one live table
#[derive(Debug, Args)]
#[command(after_help = format!("{KEYS}\n\nExamples:\n  pcproxy top --interval 500ms"))]
pub struct Top {
    /// Ask the transfers every TIME
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
}

/// The keys, for the help of the command and for that on the screen.
const KEYS: &str = "\
Keys:
  Up, Down, k, j          select the transfer above or below
  PgUp, PgDn, Home, End   select a transfer further away
  l                       change the limit: 5M, +10%, -1M, off, back
  p                       pause the transfer, or resume it
  b                       change the size of the buffer
  s                       stop: end the input, and deliver what is held
  /                       find by name, group or pid; n, N: next, previous
  <, >                    sort by the column to the left or right
  A, S, D, L, R, M        sort by name, state, done, time left, rate, limit
  B, T, H, P, G, U        sort by bytes, time, held, pid, group, user
  r                       reverse the order; so does the same letter once more
  g                       show groups with their limits, or hide them
  Space, Left, Right      fold or unfold a group
  Esc                     cancel
  ?                       help
  q, Ctrl-C               leave";

/// Though nothing is heard, runs that have ended go.
const REDRAW: Duration = Duration::from_secs(1);

/// How often a program in the background looks whether it has the terminal again.
const BACKGROUND: Duration = Duration::from_millis(250);

/// How long the key Escape may still become another key.
const ESCAPE: Duration = Duration::from_millis(50);

/// Why it ends.
#[derive(Clone, Copy)]
enum End {
    Wanted,
    Signal(i32),
}

impl Top {
    /// Shows the table until the user or a signal ends it.
    pub fn run(&self) -> Result<()> {
        if !stdout().is_terminal() {
            bail!("top: stdout is not a terminal; 'pcproxy ctl stats' shows the same once");
        }
        let signals = signals().context("top")?;
        let screen = match Screen::new() {
            Ok(screen) => screen,
            // It was one a moment ago: it has been closed since.
            Err(_) if !stdout().is_terminal() => std::process::exit(die_by(SIGHUP).into()),
            Err(error) => return Err(error).context("top: cannot use this terminal"),
        };
        let mut watch = Watch {
            screen,
            signals,
            keys: Keys::default(),
            typed: Instant::now(),
            app: App::new(self.interval),
            start: Instant::now(),
            asked: BTreeMap::new(),
        };
        // Without its terminal it ends as a program that never heard of the signal does.
        let end = watch.run(self.interval).unwrap_or(End::Signal(SIGHUP));
        drop(watch);
        if let End::Signal(signal) = end {
            std::process::exit(die_by(signal).into());
        }
        Ok(())
    }
}

/// Reports signals: those that would end the program and leave the terminal as it is, and those
/// that change what is to be drawn.
fn signals() -> io::Result<SignalDelivery<UnixStream, SignalOnly>> {
    // Not among them: KILL and STOP, which nobody hears, and SEGV, BUS, ILL and FPE, whose cause
    // would come again as soon as their handler returns.
    let deadly = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::ABORT,
        Signal::VTALARM,
        Signal::PROF,
        Signal::XCPU,
        Signal::XFSZ,
        Signal::TRAP,
        Signal::SYS,
        Signal::IO,
        Signal::STKFLT,
        Signal::POWER,
    ];
    // The real-time signals that the C library leaves to programs.
    let all = deadly.into_iter().map(Signal::as_raw).chain(34..=64).chain([SIGCONT, SIGTSTP, SIGWINCH]);
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    SignalDelivery::with_pipe(read, write, SignalOnly, all)
}

/// The table, and all that it needs.
struct Watch {
    screen: Screen,
    signals: SignalDelivery<UnixStream, SignalOnly>,
    keys: Keys,
    /// When something was typed last.
    typed: Instant,
    app: App,
    start: Instant,
    asked: BTreeMap<RunId, Asked>,
}

/// A run that is asked.
struct Asked {
    run: Run,
    /// The request that it has yet to answer.
    request: Option<Request>,
    /// Those to come.
    waiting: VecDeque<Request>,
}

/// The things to do.
#[derive(Default)]
struct Ready {
    input: bool,
    output: bool,
}

impl Watch {
    /// # Errors
    /// When the terminal is gone.
    fn run(&mut self, interval: Duration) -> io::Result<End> {
        let no_colours = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let mut view = View::new(!no_colours);
        let mut looked: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if looked.is_none_or(|looked| now.saturating_duration_since(looked) >= interval) {
                looked = Some(now);
                self.look();
            }
            self.advance();
            self.app.forget(self.start.elapsed());
            self.screen.draw(|frame| draw(frame, &mut self.app, &mut view))?;
            let left = looked.map_or(Duration::ZERO, |looked| (looked + interval).saturating_duration_since(now));
            let ready = self.sleep(left.min(REDRAW));
            // Before the terminal is touched: it may be gone, and a signal says so.
            let signals: Vec<_> = self.signals.pending().collect();
            for signal in signals {
                match signal {
                    SIGCONT => self.screen.set_lost(),
                    SIGWINCH => {}
                    SIGTSTP => self.suspend()?,
                    signal => return Ok(End::Signal(signal)),
                }
            }
            if ready.output {
                self.screen.write()?;
            }
            let keys = if ready.input {
                self.typed = Instant::now();
                self.keys.feed(&self.screen.read()?)
            } else if self.typed.elapsed() >= ESCAPE {
                self.keys.close()
            } else {
                Vec::new()
            };
            for key in keys {
                if let Some(end) = self.pressed(key)? {
                    return Ok(end);
                }
            }
        }
    }

    /// Sleeps until something happens, for `most` at the longest.
    fn sleep(&self, mut most: Duration) -> Ready {
        let now = Instant::now();
        let open: Vec<_> = self.asked.values().filter(|asked| asked.request.is_some()).collect();
        for due in open.iter().filter_map(|asked| asked.run.due()) {
            most = most.min(due.saturating_duration_since(now));
        }
        if self.keys.is_open() {
            most = most.min(ESCAPE);
        }
        let (input, output) = self.screen.interests();
        let mut descriptors = vec![PollFd::new(self.signals.get_read(), PollFlags::IN)];
        let (in_front, is_writing) = (self.screen.is_ours(), output.is_some());
        if in_front {
            descriptors.push(input);
            descriptors.extend(output);
        } else {
            most = most.min(BACKGROUND);
        }
        descriptors.extend(open.iter().filter_map(|asked| asked.run.interest()));
        let wait = Timespec::try_from(most).unwrap_or_default();
        if poll(&mut descriptors, Some(&wait)).is_err() || !in_front {
            return Ready::default();
        }
        let is_ready = |place: usize| !descriptors[place].revents().is_empty();
        Ready { input: is_ready(1), output: is_writing && is_ready(2) }
    }

    /// Asks all runs how they are.
    fn look(&mut self) {
        // The folder may be mended.
        let found = runs().unwrap_or_else(|error| {
            self.app.notice = Some(error.to_string());
            Vec::new()
        });
        for run in found {
            let asked = Asked { run, request: None, waiting: VecDeque::new() };
            self.asked.entry(asked.run.id()).or_insert(asked);
        }
        for asked in self.asked.values_mut().filter(|asked| asked.request.is_none()) {
            asked.waiting.push_back(Request::Stats {});
        }
        if self.app.wants_limits() {
            // A group that cannot be read has no limit to show.
            let groups = budget::list().map(|listing| listing.groups).unwrap_or_default();
            self.app.limits = groups.into_iter().map(|(name, budget)| (name.to_string(), budget.limit())).collect();
        }
    }

    /// Goes on with the requests of all runs.
    fn advance(&mut self) {
        let now = Instant::now();
        let mut ended = Vec::new();
        for (id, asked) in &mut self.asked {
            loop {
                if asked.request.is_none() {
                    let Some(request) = asked.waiting.pop_front() else { break };
                    asked.run.begin(&request, now);
                    asked.request = Some(request);
                }
                let Some(answer) = asked.run.advance(now) else { break };
                let Some(request) = asked.request.take() else { break };
                if answer == Err(ControlError::Ended) {
                    ended.push(*id);
                    asked.waiting.clear();
                }
                self.app.heard(self.start.elapsed(), *id, &request, answer);
            }
        }
        ended.iter().for_each(|id| drop(self.asked.remove(id)));
    }

    fn pressed(&mut self, key: Key) -> io::Result<Option<End>> {
        match self.app.pressed(key) {
            Some(Action::Leave) => return Ok(Some(End::Wanted)),
            Some(Action::Suspend) => self.suspend()?,
            Some(Action::Ask(id, request)) => match self.asked.get_mut(&id) {
                Some(asked) => asked.waiting.push_back(request),
                None => self.app.heard(self.start.elapsed(), id, &request, Err(ControlError::Ended)),
            },
            None => {}
        }
        Ok(None)
    }

    /// Stops until the shell goes on with it, in front or in the background.
    fn suspend(&mut self) -> io::Result<()> {
        if has_shell() {
            self.screen.suspend();
            emulate_default_handler(SIGTSTP)?;
        }
        Ok(())
    }
}
