//! `pcproxy group`: limits that many transfers share.

mod list;

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use pcproxy::budget::plan::{Allowance, End, LONGEST_TIMETABLE, NewLimit, Settings, Then};
use pcproxy::budget::{self, Name};
use pcproxy::shaping::{Burst, Schedule, Unit, parse_burst};
use pcproxy::units::{parse_rate, parse_time};

use super::print::print;
use super::share::{self, Share};
use super::words::{self, NewRate, new_rate};

/// Set, show and lift the limits that transfers with --group share
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcproxy group set uplink 10M
  pcproxy group set uplink 5M for 2h
  pcproxy group set uplink --schedule '08:00,2M 18:00,off'
  pcproxy group set uplink --quota 50G/day --then 256K
  pcproxy group set api 5/s --lines
  pcproxy group ls
  pcproxy group rm uplink")]
pub struct Group {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Limit all members of a group together, whether there are any yet or not
    ///
    /// Running members follow within 100 ms, and nobody has to run at the times that are named here.
    #[command(override_usage = "\
pcproxy group set <NAME> <RATE|+N%|-SIZE|off> [for <TIME>] [--until <TIME>] [--lines] [--burst <SIZE|TIME>]
       pcproxy group set <NAME> back
       pcproxy group set <NAME> --schedule <TIMETABLE>
       pcproxy group set <NAME> --quota <SIZE/PERIOD|off> [--then <RATE|pause>]")]
    Set(Box<Set>),
    /// List groups and their members as a tree: rate now, limit, share, weight, guarantee
    Ls {
        /// For programs: an array of groups, rates in bytes per second
        #[arg(long)]
        json: bool,
    },
    /// Share the limit of a group with other machines, by way of Valkey or Redis
    ///
    /// From then on 'group set' and 'group ls' speak of all machines that share it.
    Share(Box<Share>),
    /// End that: the group keeps the limit, on this machine alone
    Unshare {
        /// The group
        name: Name,
    },
    /// Lift the limit of a group, and forget it
    ///
    /// Members that are running go on without a limit.
    Rm {
        /// The group
        name: Name,
    },
}

/// The words of `group set`.
#[derive(Debug, Args)]
struct Set {
    /// Letters, digits, '.', '_' and '-', or a path of such words
    name: Name,
    /// Bytes per second, such as 10M or 80Mbit, or so much more or less than now, such as +10% or -1M
    ///
    /// 5 or 30/m with --lines. 'off' lifts the limit. 'back' ends a limit that was set for a time.
    #[arg(value_name = "RATE|+N%|-SIZE|off|back", value_parser = new_rate)]
    rate: Option<NewRate>,
    /// 'for' and how long, such as 'for 2h': then the limit is again what it was before
    #[arg(value_name = "for TIME", num_args = 1..=2)]
    span: Vec<String>,
    /// The limit ends at TIME, such as 18:00, Fri-18:00 or '2026-12-24 18:00'
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Change the limit by time of day, such as '08:00,2M 18:00,off', as --schedule does for a transfer
    #[arg(long, value_name = "TIMETABLE", conflicts_with_all = ["rate", "until"])]
    schedule: Option<String>,
    /// Let SIZE pass per PERIOD, such as 50G/day (week, month), in local time; 'off' lifts the quota
    #[arg(long, value_name = "SIZE/PERIOD|off", value_parser = quota)]
    quota: Option<Quota>,
    /// Go on at RATE when the quota is used up [default: pause]
    #[arg(long, value_name = "RATE|pause", value_parser = then)]
    then: Option<Then>,
    /// Count records in place of bytes: for members with --lines or --null
    #[arg(short, long, conflicts_with = "null")]
    lines: bool,
    /// The same as --lines: a record is what a member counts
    #[arg(short = '0', long)]
    null: bool,
    /// Let a burst of SIZE, or of TIME at the rate, pass at once [default: 12ms]
    ///
    /// With --lines SIZE counts records, and the burst is at least one of them.
    #[arg(long, value_name = "SIZE|TIME", value_parser = parse_burst)]
    burst: Option<Burst>,
}

/// A quota, or none.
#[derive(Clone, Copy, Debug)]
struct Quota(Option<Allowance>);

fn quota(text: &str) -> Result<Quota> {
    if text == "off" {
        return Ok(Quota(None));
    }
    Ok(Quota(Some(text.parse().map_err(|error| anyhow!("{error}; 'off' is no quota"))?)))
}

fn then(text: &str) -> Result<Then> {
    match text {
        "pause" => Ok(Then::Pause),
        rate => match parse_rate(rate) {
            Ok(rate) => Ok(Then::Rate(rate)),
            Err(error) => bail!("{error}, or 'pause'"),
        },
    }
}

/// A timetable of rates that count `unit`.
fn timetable(unit: Unit, text: &str) -> Result<String> {
    let refuse = |reason: String| anyhow!("invalid value '{text}' for '--schedule <TIMETABLE>': {reason}");
    Schedule::parse_in(unit, text).map_err(|error| refuse(error.to_string()))?;
    if text.len() > LONGEST_TIMETABLE {
        return Err(refuse(format!("is too long: a group's timetable has at most {LONGEST_TIMETABLE} bytes")));
    }
    Ok(text.to_owned())
}

/// A moment in local time: the next one at a time of day, also of a day of the week, or a date.
fn moment(text: &str) -> Result<Timestamp> {
    let now = Zoned::now();
    // A time of day is an entry of a timetable.
    if let Ok(next) = format!("{text},off").parse::<Schedule>()
        && !text.contains(',')
    {
        return Ok(next.at(&now).until);
    }
    let wrong = || anyhow!("is not a time: use 18:00, Fri-18:00 or '2026-12-24 18:00'");
    let moment = text.parse::<DateTime>().map_err(|_| wrong())?.to_zoned(TimeZone::system())?;
    if moment <= now {
        bail!("has passed");
    }
    Ok(moment.timestamp())
}

/// How long, of 'for TIME'.
fn span(words: &[String]) -> Result<Option<Duration>> {
    let time = match words {
        [] => return Ok(None),
        [word, time] if word == "for" => time,
        [word] if word == "for" => bail!("for how long? Such as 'for 2h'"),
        [word, ..] => bail!("unexpected argument '{word}': a limit for a time is such as '5M for 2h'"),
    };
    let days = time.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let parsed = match days {
        Some(days) => parse_time(&(u64::from(days) * 86_400).to_string()),
        None => parse_time(time),
    };
    match parsed {
        Ok(time) if time > Duration::ZERO => Ok(Some(time)),
        Ok(_) => bail!("invalid value '{time}' for 'for TIME': must be longer than that"),
        Err(error) => bail!("invalid value '{time}' for 'for TIME': {error}"),
    }
}

impl Set {
    /// What the words say together.
    fn settings(&self) -> Result<Settings> {
        let span = span(&self.span)?;
        let unit = if self.lines || self.null { Unit::Records } else { Unit::Bytes };
        let limit = match (&self.rate, &self.schedule) {
            (Some(NewRate::Set(speed)), _) => {
                Some(NewLimit::Rate(speed.map(|speed| speed.in_tokens(unit.tokens())).transpose()?))
            }
            (Some(NewRate::Change(by)), _) => Some(NewLimit::Change(*by)),
            (Some(NewRate::Back), _) => Some(NewLimit::Back),
            (None, Some(text)) => Some(NewLimit::Timetable(timetable(unit, text)?)),
            (None, None) => None,
        };
        let end = match (span, self.until) {
            (Some(_), Some(_)) => bail!("give 'for TIME' or --until, not both"),
            (Some(time), None) => Some(End::After(time)),
            (None, until) => until.map(End::At),
        };
        let is_rate = matches!(limit, Some(NewLimit::Rate(_) | NewLimit::Change(_)));
        if end.is_some() && !is_rate {
            bail!("a limit for a time needs a rate, such as '5M for 2h'");
        }
        let has_rate = matches!(limit, Some(NewLimit::Rate(Some(_)) | NewLimit::Timetable(_)));
        let changes = matches!(limit, Some(NewLimit::Change(_)));
        for (given, fits, option) in [
            (self.burst.is_some(), has_rate || changes, "--burst"),
            (self.lines, has_rate, "--lines"),
            (self.null, has_rate, "--null"),
        ] {
            if given && !fits {
                bail!("{option} needs a rate, not 'off'");
            }
        }
        let quota = self.quota.map(|Quota(quota)| quota);
        if quota == Some(None) && self.then.is_some() {
            bail!("--then needs a quota, not 'off'");
        }
        if limit.is_none() && quota.is_none() && self.then.is_none() {
            bail!("what is to change? Give a rate, 'off', --schedule or --quota");
        }
        Ok(Settings { limit, unit, burst: self.burst, end, quota, then: self.then })
    }

    /// Does it. Says what came of it, unless that is just what was typed.
    fn run(&self) -> Result<()> {
        if self.schedule.is_some() || self.quota.is_some() || self.until.is_some() {
            words::check_time_zone();
        }
        let settings = self.settings()?;
        let outcome = budget::set(&self.name, &settings)?;
        let is_plain =
            matches!(settings, Settings { limit: Some(NewLimit::Rate(_)), end: None, quota: None, then: None, .. });
        if is_plain { Ok(()) } else { Ok(print(&list::outcome(&self.name, &outcome))?) }
    }
}

impl Group {
    /// What the words say together.
    pub fn check(&self) -> Result<()> {
        match &self.action {
            Action::Set(set) => set.settings().map(|_| ()),
            Action::Share(share) => share.check(),
            _ => Ok(()),
        }
    }

    /// Does it.
    pub fn run(&self) -> Result<()> {
        match &self.action {
            Action::Set(set) => set.run(),
            Action::Share(share) => share.run(),
            Action::Unshare { name } => share::unshare(name),
            Action::Ls { json } => list::list(*json),
            Action::Rm { name } => Ok(budget::remove(name)?),
        }
    }
}
