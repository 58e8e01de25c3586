//! `pcproxy ctl`: seeing and steering transfers from outside.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use pcproxy::budget::Name;
use pcproxy::control::{ControlError, Request, Run, ask, runs};
use pcproxy::os::RuntimeFolder;
use pcproxy::report::say;
use pcproxy::stats::Status;
use pcproxy::units::{printable, show_share, show_size, show_time};

use super::print::print;
use super::words::{self, RateOrOff, buffer_size, rate_or_off};

/// How long to look at a run to see how fast it is.
const LOOK: Duration = Duration::from_millis(500);

/// See and steer transfers that are running
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = false,
    override_usage = "pcproxy ctl <PID|NAME|--all|--group NAME> <COMMAND> [ARG]",
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands",
    after_help = "\
Examples:
  pcproxy ctl 4711 rate 5M
  pcproxy ctl backup pause
  pcproxy ctl --group site stop
  pcproxy ctl --all stats --json"
)]
pub struct Ctl {
    /// The one with this pid, or else all that were started with this --name
    #[arg(value_name = "PID|NAME")]
    target: Option<String>,
    /// All of this user
    #[arg(short, long, global = true)]
    all: bool,
    /// The members of this group and of those below it
    // A global option must not share its id with an option of the transfer.
    #[arg(short = 'g', long = "group", value_name = "NAME", global = true)]
    members: Option<Name>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Change the limit: bytes a second, such as 5M or 80Mbit, or 'off'
    Rate {
        /// At least 1 byte a second
        #[arg(value_name = "RATE|off", value_parser = rate_or_off)]
        rate: RateOrOff,
    },
    /// Feed the consumer nothing until told to resume; the buffer goes on filling
    Pause,
    /// Go on after a pause
    Resume,
    /// Hold at most SIZE bytes from now on; what is held stays
    Buffer {
        /// From 1 byte to what the memory allows
        #[arg(value_parser = buffer_size)]
        size: usize,
    },
    /// Show what they are doing, and how fast
    Stats {
        /// For programs: an object for each, on a line of its own, as --stats writes them
        #[arg(long)]
        json: bool,
    },
    /// End the input, deliver what is held, and end
    Stop,
}

/// Which runs are meant.
#[derive(Debug)]
enum Target<'a> {
    Pid(u32),
    Name(&'a str),
    Group(&'a Name),
    All,
}

impl Ctl {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        let runs = runs()?;
        let target = self.target(&runs)?;
        let mut failures = Vec::new();
        let found = target.find(runs, &mut failures);
        if !found.is_empty() {
            self.act(found, &target, &mut failures)?;
        }
        let last = failures.pop();
        failures.into_iter().for_each(|failure| say(format!("ctl: {failure}")));
        last.map_or(Ok(()), |failure| Err(anyhow!("ctl: {failure}")))
    }

    /// Has all that were found do it.
    fn act(&self, found: Vec<(Run, Status)>, target: &Target, failures: &mut Vec<String>) -> Result<()> {
        let (mut runs, before): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let json = match self.action {
            Action::Stats { json } => Some(json),
            _ => None,
        };
        if json.is_some() {
            thread::sleep(LOOK);
        }
        let mut after = Vec::new();
        for (answer, before) in ask(&mut runs, &self.action.request()).into_iter().zip(before) {
            match answer {
                Ok(status) => after.push(status),
                // As it was to, or as it happens.
                Err(ControlError::Ended) if json.is_some() || matches!(self.action, Action::Stop) => {}
                Err(error) => failures.push(format!("{} {error}", label(&before))),
            }
        }
        match json {
            Some(_) if after.is_empty() => failures.push(target.miss("")),
            Some(json) => {
                let text = if json { lines(&after)? } else { table(&after) };
                print(&(text + "\n"))?;
            }
            None => {}
        }
        Ok(())
    }

    fn target<'a>(&'a self, runs: &[Run]) -> Result<Target<'a>> {
        match (&self.target, self.all, &self.members) {
            (Some(target), false, None) => {
                let pid = target.parse().ok().filter(|pid| runs.iter().any(|run| run.id().pid == *pid));
                Ok(pid.map_or(Target::Name(target), Target::Pid))
            }
            (None, true, None) => Ok(Target::All),
            (None, false, Some(group)) => Ok(Target::Group(group)),
            _ => bail!("ctl: say which: one of PID, NAME, --all and --group NAME; try 'pcproxy ctl --help'"),
        }
    }
}

impl Action {
    fn request(&self) -> Request {
        match *self {
            Action::Rate { rate: RateOrOff(speed) } => {
                Request::Rate { rate: speed.map(|speed| speed.amount), seconds: speed.map_or(1, |speed| speed.seconds) }
            }
            Action::Pause => Request::Pause {},
            Action::Resume => Request::Resume {},
            Action::Buffer { size } => Request::Buffer { size: size as u64 },
            Action::Stats { .. } => Request::Stats {},
            Action::Stop => Request::Stop {},
        }
    }
}

impl Target<'_> {
    /// The runs that are meant, and how they are: the interval that `stats` shows begins here.
    fn find(&self, mut runs: Vec<Run>, failures: &mut Vec<String>) -> Vec<(Run, Status)> {
        runs.retain(|run| !matches!(self, Target::Pid(pid) if *pid != run.id().pid));
        let mut found = Vec::new();
        for (answer, run) in ask(&mut runs, &Request::Stats {}).into_iter().zip(runs) {
            match answer {
                Ok(status) if self.means(&status) => found.push((run, status)),
                Ok(_) | Err(ControlError::Ended) => {}
                Err(error) => failures.push(format!("{} {error}{}", run.id().pid, self.doubt())),
            }
        }
        if found.is_empty() && failures.is_empty() {
            failures.push(self.miss(""));
        } else if found.is_empty() && !self.doubt().is_empty() {
            failures.push(self.miss(" other"));
        }
        found
    }

    /// Whether this run is meant.
    fn means(&self, status: &Status) -> bool {
        match self {
            Target::Pid(_) | Target::All => true,
            Target::Name(name) => status.name.as_deref() == Some(name),
            Target::Group(group) => {
                let own = status.group.as_ref().and_then(|own| own.parse::<Name>().ok());
                own.is_some_and(|own| own.levels().any(|level| level == **group))
            }
        }
    }

    /// What to add of a run that could not say who it is.
    fn doubt(&self) -> &str {
        if matches!(self, Target::Name(_) | Target::Group(_)) { ", and may be meant" } else { "" }
    }

    /// That there is none, or no other.
    fn miss(&self, other: &str) -> String {
        let which = match self {
            Target::Pid(pid) => format!(" has pid {pid}"),
            Target::Name(name) if name.parse::<u32>().is_ok() => format!(" has pid {name}, or is named so"),
            Target::Name(name) => format!(" is named '{name}'"),
            Target::Group(group) => format!(" is in group {group}"),
            Target::All => String::new(),
        };
        let folder = RuntimeFolder::place().map_or(String::new(), |folder| format!(" in {}", folder.display()));
        format!("no{other} running pcproxy{which}{folder}")
    }
}

/// What a run is called.
fn label(status: &Status) -> String {
    match &status.name {
        Some(name) => format!("{} ({})", printable(name), status.pid),
        None => status.pid.to_string(),
    }
}

fn lines(runs: &[Status]) -> Result<String> {
    let lines: Result<Vec<_>, _> = runs.iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}

fn table(runs: &[Status]) -> String {
    let header = ["PID", "NAME", "GROUP", "STATE", "TIME", "DELIVERED", "RATE", "LIMIT", "BUFFER", "HELD"];
    let rows = runs.iter().map(|run| {
        vec![
            run.pid.to_string(),
            run.name.as_deref().map(printable).unwrap_or_default(),
            run.group.as_deref().map(printable).unwrap_or_default(),
            run.state.to_string(),
            show_time(run.elapsed),
            show_size(run.bytes),
            run.show_rate(),
            run.show_limit().unwrap_or_else(|| "none".to_owned()),
            show_size(run.buffer),
            show_share(run.buffered as f64, run.buffer as f64),
        ]
    });
    words::table(&header, &["NAME", "GROUP", "STATE"], rows)
}
