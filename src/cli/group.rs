//! `pcproxy group`: limits that many transfers share.

use std::collections::HashMap;
use std::fmt;
use std::iter;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use pcproxy::budget::{self, Budget, GroupLimit, Id, Listing, MemberAccount, Name};
use pcproxy::os::FolderError;
use pcproxy::shaping::{Burst, Unit, parse_burst};
use serde::Serialize;

use super::print::print;
use super::share::{self, ListedStore, Share};
use super::words::{self, RateOrOff, rate_or_off};

/// How long to look at a group to see how fast its members are.
const LOOK: Duration = Duration::from_millis(500);

/// Set, show and lift the limits that transfers with --group share
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcproxy group set uplink 10M
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
    /// Running members keep to it within 100 ms.
    Set {
        /// Letters, digits, '.', '_' and '-', or a path of such words
        name: Name,
        /// Bytes per second, such as 10M or 80Mbit; 5 or 30/m with --lines; 'off' lifts the limit
        #[arg(value_parser = rate_or_off)]
        rate: RateOrOff,
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
    },
    /// List groups and their members: pid, rate now, share, weight
    Ls {
        /// For programs: an array of groups, rates in bytes a second
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

impl Group {
    /// What the words say together.
    pub fn check(&self) -> Result<()> {
        if let Action::Set { rate: RateOrOff(None), burst, lines, null, .. } = &self.action {
            for (given, option) in [(burst.is_some(), "--burst"), (*lines, "--lines"), (*null, "--null")] {
                if given {
                    bail!("{option} needs a rate, not 'off'");
                }
            }
        }
        if let Action::Share(share) = &self.action {
            share.check()?;
        }
        Ok(())
    }

    /// Does it.
    pub fn run(&self) -> Result<()> {
        match &self.action {
            Action::Set { name, rate: RateOrOff(rate), burst, lines, null } => {
                let unit = if *lines || *null { Unit::Records } else { Unit::Bytes };
                let rate = rate.map(|speed| speed.in_tokens(unit.tokens())).transpose()?;
                let limit = rate.map(|rate| GroupLimit { rate, unit, burst: *burst, lasting: true });
                Ok(budget::set(name, limit)?)
            }
            Action::Share(share) => share.run(),
            Action::Unshare { name } => share::unshare(name),
            Action::Ls { json } => list(*json),
            Action::Rm { name } => Ok(budget::remove(name)?),
        }
    }
}

/// A group, as `group ls --json` has it. Rates are in bytes or records per second.
#[derive(Serialize)]
struct Listed {
    group: String,
    /// What its limit counts, or its members if it has none.
    unit: Unit,
    /// None, if there is none.
    limit: Option<Rate>,
    /// Of all members together.
    rate: Rate,
    members: Vec<ListedMember>,
    /// Where the limit is shared with other machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<ListedStore>,
}

#[derive(Serialize)]
struct ListedMember {
    pid: u32,
    rate: Rate,
    /// Of what all members move now, from 0 to 1.
    share: f64,
    weight: u32,
    min_rate: Rate,
}

/// A rate in tokens per second of what the group counts.
#[derive(Clone, Copy)]
struct Rate {
    tokens: u64,
    unit: Unit,
}

/// A whole number where it is one.
impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let one = self.unit.tokens();
        match self.tokens % one {
            0 => serializer.serialize_u64(self.tokens / one),
            _ => serializer.serialize_f64(self.tokens as f64 / one as f64),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.unit.show_rate(self.tokens as f64))
    }
}

fn list(json: bool) -> Result<()> {
    let before: HashMap<_, _> = budget::list()?.groups.into_iter().collect();
    if before.values().any(|budget| !budget.members().is_empty()) {
        sleep(LOOK);
    }
    let Listing { folder, groups, failed, shared } = budget::list()?;
    let mut groups: Vec<_> = groups.into_iter().map(|(name, now)| listed(&name, before.get(&name), &now)).collect();
    for (name, shared) in &shared {
        if let Some(group) = groups.iter_mut().find(|group| group.group == name.to_string()) {
            let store = share::listed(name, shared);
            // That of all machines, not what this one may use at the moment.
            group.limit = store.limit().map(|tokens| Rate { tokens, unit: Unit::Bytes });
            group.store = Some(store);
        }
    }
    let folder = folder.display();
    let text = match groups.len() {
        _ if json => serde_json::to_string_pretty(&groups)? + "\n",
        0 if failed.is_empty() => format!("no groups in {folder}\n"),
        0 => String::new(),
        _ => {
            let stores = groups.iter().filter_map(|group| Some(share::table(&group.group, group.store.as_ref()?)));
            format!("{}\nin {folder}\n{}", table(&groups), stores.collect::<String>())
        }
    };
    print(&text)?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!(failed.iter().map(FolderError::to_string).collect::<Vec<_>>().join("\npcproxy: "))
}

fn listed(name: &Name, before: Option<&Budget>, now: &Budget) -> Listed {
    let earlier = |id: Id| before.and_then(|budget| budget.members().iter().find(|account| account.id == id));
    let rates: Vec<_> =
        now.members().iter().map(|account| earlier(account.id).map_or(0.0, |earlier| rate(earlier, account))).collect();
    let sum: f64 = rates.iter().sum();
    let members = now.members().iter().zip(rates);
    let counted = now.limit().map(|limit| limit.unit).or(now.members().first().map(|account| account.terms.unit));
    let unit = counted.unwrap_or_default();
    let in_unit = |tokens| Rate { tokens, unit };
    Listed {
        group: name.to_string(),
        unit,
        limit: now.limit().map(|limit| in_unit(limit.rate)),
        rate: in_unit(sum.round() as u64),
        members: members
            .map(|(account, rate)| ListedMember {
                pid: account.id.pid,
                rate: in_unit(rate.round() as u64),
                share: if sum > 0.0 { rate / sum } else { 0.0 },
                weight: account.terms.weight,
                min_rate: in_unit(account.terms.guaranteed),
            })
            .collect(),
        store: None,
    }
}

/// Tokens per second between two visits of a member to its group; 0 if there was none between.
fn rate(earlier: &MemberAccount, now: &MemberAccount) -> f64 {
    let passed = now.asked.saturating_sub(earlier.asked).as_secs_f64();
    if passed > 0.0 { now.used.saturating_sub(earlier.used) as f64 / passed } else { 0.0 }
}

/// A line for each group, and one for each of its members.
fn table(groups: &[Listed]) -> String {
    let header = ["GROUP", "PID", "RATE", "LIMIT", "SHARE", "WEIGHT", "MIN RATE"];
    let rows = groups.iter().flat_map(|group| {
        let counted = |limit: Rate| match limit.unit {
            Unit::Bytes => limit.to_string(),
            Unit::Records => limit.to_string().replacen('/', " records/", 1),
        };
        let limit = group.limit.map_or("none".to_owned(), counted);
        let all = vec![group.group.clone(), "all".to_owned(), group.rate.to_string(), limit];
        let members = group.members.iter().map(move |member| {
            let least = if member.min_rate.tokens > 0 { member.min_rate.to_string() } else { String::new() };
            let share = format!("{:.1} %", 100.0 * member.share);
            let (pid, weight) = (member.pid.to_string(), member.weight.to_string());
            vec![group.group.clone(), pid, member.rate.to_string(), String::new(), share, weight, least]
        });
        iter::once(all).chain(members)
    });
    words::table(&header, &["GROUP"], rows)
}
