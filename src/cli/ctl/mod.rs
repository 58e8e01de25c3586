//! `pcproxy ctl`: seeing and steering transfers from outside.

mod metrics;
mod show;
mod target;

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use pcproxy::budget::Name;
use pcproxy::control::{ControlError, Request, Run, ask, runs};
use pcproxy::report::say;
use pcproxy::shaping::{Schedule, Unit};
use pcproxy::stats::Status;

use super::print::print;
use super::words::{NewRate, buffer_size, new_rate, text};
use target::{Target, label};

/// How long to watch the runs to see how fast they are.
const WATCH: Duration = Duration::from_millis(500);

/// See and steer transfers that are running
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = false,
    override_usage = "\
pcproxy ctl <PID|NAME|--all|--group NAME> <COMMAND> [VALUE]
       pcproxy ctl <COMMAND> <PID|NAME|--all|--group NAME> [VALUE]",
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands",
    after_help = "\
A NAME may have wildcards: 'backup-*' means all names that begin with backup-. The quotes keep it
from the shell.
Without a target, 'stats' and 'metrics' show all transfers of this user.

Examples:
  pcproxy ctl backup rate 5M
  pcproxy ctl rate 'backup-*' +10%
  pcproxy ctl backup schedule '08:00,2M 18:00,off'
  pcproxy ctl 4711 pause
  pcproxy ctl --group site stop
  pcproxy ctl stats
  pcproxy ctl --all metrics >/var/lib/node_exporter/pcproxy.prom"
)]
pub struct Ctl {
    /// The transfer with this pid, or else all transfers that were started with this --name
    #[arg(value_name = "PID|NAME", value_parser = text())]
    target: Option<String>,
    /// All transfers of this user; of all users, for root
    #[arg(short, long, global = true)]
    all: bool,
    /// The members of this group and of the groups below it
    // A global option must not share its id with an option of the transfer.
    #[arg(short = 'g', long = "group", value_name = "NAME", global = true)]
    members: Option<Name>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Change the limit to RATE, such as 5M or 80Mbit, or by so much, such as +10% or -1M
    ///
    /// 'off' lifts the limit. 'back' returns to the timetable, or to the --rate of the start.
    #[command(allow_missing_positional = true)]
    Rate {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
        /// At least 1 byte per second. For transfers that count records: such as 5 or 30/m
        #[arg(value_name = "RATE|+N%|-SIZE|off|back", value_parser = new_rate)]
        rate: NewRate,
    },
    /// Change the limit by time of day, such as '08:00,2M 18:00,off', as with --schedule
    #[command(allow_missing_positional = true)]
    Schedule {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
        /// Entries [DAY-]HH:MM,RATE, separated by spaces
        #[arg(value_parser = timetable)]
        timetable: Timetable,
    },
    /// Feed the consumer nothing until 'resume'; the buffer goes on filling
    Pause {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
    },
    /// Go on after a pause
    Resume {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
    },
    /// Hold at most SIZE bytes from now on; bytes already in the buffer stay
    #[command(allow_missing_positional = true)]
    Buffer {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
        /// From 1 byte to what the memory allows
        #[arg(value_parser = buffer_size)]
        size: usize,
    },
    /// Show the state of the transfers, their rate, and the time left
    Stats {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
        /// Print a JSON object for each, on a line of its own, as --stats writes them
        #[arg(long)]
        json: bool,
    },
    /// Print OpenMetrics text, for a scraper or a textfile collector
    Metrics {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
    },
    /// End the input, deliver what is held, and end
    Stop {
        /// The transfers, unless they are named before the command
        #[arg(value_name = "PID|NAME", value_parser = text())]
        which: Option<String>,
    },
}

/// A timetable that can be read, as typed.
#[derive(Clone, Debug)]
struct Timetable(String);

fn timetable(text: &str) -> Result<Timetable, pcproxy::shaping::ScheduleError> {
    // Each run takes the rates for what it counts; records may be slower than a byte per second.
    Schedule::parse_in(Unit::Records, text).map(|_| Timetable(text.to_owned()))
}

impl Ctl {
    /// Whether the words make sense together.
    pub fn check(&self) -> Result<()> {
        Target::new(&self.words(), self.all, self.members.as_ref(), self.action.shows()).map(|_| ())
    }

    /// Does it.
    pub fn run(&self) -> Result<()> {
        let words = self.words();
        let target = Target::new(&words, self.all, self.members.as_ref(), self.action.shows())?;
        let mut failures = Vec::new();
        let (found, doubts) = target.find(runs()?);
        failures.extend(doubts);
        if !found.is_empty() {
            self.act(found, &target, &mut failures)?;
        }
        let last = failures.pop();
        failures.into_iter().for_each(|failure| say(format!("ctl: {failure}")));
        last.map_or(Ok(()), |failure| Err(anyhow!("ctl: {failure}")))
    }

    /// The targets that were named, before and after the command.
    fn words(&self) -> Vec<&str> {
        self.target.iter().chain(self.action.which()).map(String::as_str).collect()
    }

    /// Has all runs that were found do it.
    fn act(&self, found: Vec<(Run, Status)>, target: &Target, failures: &mut Vec<String>) -> Result<()> {
        let (mut runs, before): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let users: Vec<_> = runs.iter().map(|run| run.id().user).collect();
        if self.action.shows() {
            thread::sleep(WATCH);
        }
        let mut done = Vec::new();
        let answers = ask(&mut runs, &self.action.request());
        for ((answer, before), user) in answers.into_iter().zip(before).zip(users) {
            match answer {
                Ok(after) => done.push(show::Done { user, before, after }),
                Err(ControlError::Ended) if self.action.shows() => {}
                // A run that holds nothing has ended before it could answer.
                Err(ControlError::Ended) if matches!(self.action, Action::Stop { .. }) => {
                    let after = Status { buffered: 0, ..before.clone() };
                    done.push(show::Done { user, before, after });
                }
                Err(error) => failures.push(format!("{} {error}", label(&before))),
            }
        }
        if done.is_empty() {
            if self.action.shows() {
                failures.push(target.miss(""));
            }
            return Ok(());
        }
        let text = match &self.action {
            Action::Stats { json: true, .. } => show::lines(&done)?,
            Action::Stats { .. } => show::table(&done),
            Action::Metrics { .. } => metrics::text(done.iter().map(|run| &run.after)),
            Action::Rate { .. } => show::changes(&done, show::limit),
            Action::Schedule { .. } => show::changes(&done, show::schedule),
            Action::Buffer { .. } => show::changes(&done, show::buffer),
            Action::Pause { .. } => show::changes(&done, |_| "paused".to_owned()),
            Action::Resume { .. } => show::changes(&done, |_| "resumed".to_owned()),
            Action::Stop { .. } => show::changes(&done, show::stop),
        };
        Ok(print(&text)?)
    }
}

impl Action {
    /// Whether it only shows something.
    fn shows(&self) -> bool {
        matches!(self, Action::Stats { .. } | Action::Metrics { .. })
    }

    /// The target that was named after the command.
    fn which(&self) -> Option<&String> {
        match self {
            Action::Rate { which, .. }
            | Action::Schedule { which, .. }
            | Action::Pause { which }
            | Action::Resume { which }
            | Action::Buffer { which, .. }
            | Action::Stats { which, .. }
            | Action::Metrics { which }
            | Action::Stop { which } => which.as_ref(),
        }
    }

    fn request(&self) -> Request {
        match self {
            Action::Rate { rate, .. } => rate.request(),
            Action::Schedule { timetable: Timetable(text), .. } => Request::Schedule { timetable: text.clone() },
            Action::Pause { .. } => Request::Pause {},
            Action::Resume { .. } => Request::Resume {},
            Action::Buffer { size, .. } => Request::Buffer { size: *size as u64 },
            Action::Stats { .. } | Action::Metrics { .. } => Request::Stats {},
            Action::Stop { .. } => Request::Stop {},
        }
    }
}
