//! `pcproxy group ls`: groups and their members as a tree.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use pcproxy::budget::plan::{Outlook, QuotaOutlook, Then, show_moment};
use pcproxy::budget::{self, Budget, GroupLimit, Id, Listing, MemberAccount, Name, Outcome};
use pcproxy::report::say;
use pcproxy::shaping::Unit;
use pcproxy::units::{printable, show_rate, show_size};
use serde::Serialize;

use super::super::print::print;
use super::super::share::{self, ListedStore};
use super::super::words;

/// How long to look at a group to see how fast its members are.
const LOOK: Duration = Duration::from_millis(500);

/// A group, as `group ls --json` has it. Rates are in bytes or records per second.
#[derive(Serialize)]
struct Listed {
    group: String,
    /// What its limit counts, or its members if it has none.
    unit: Unit,
    /// None, if there is none.
    limit: Option<Rate>,
    /// Of all members together, those of groups below it too.
    rate: Rate,
    /// Of what the group above it moves, from 0 to 1; none if no group above it is listed.
    share: Option<f64>,
    /// Members that are in no group below this one.
    members: Vec<ListedMember>,
    /// Where the limit changes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    passing: Option<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<ListedQuota>,
    /// Where the limit is shared with other machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<ListedStore>,
    #[serde(skip)]
    outlook: Option<Outlook>,
    /// The place of the group above it.
    #[serde(skip)]
    above: Option<usize>,
}

#[derive(Serialize)]
struct ListedMember {
    pid: u32,
    /// What --name called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    rate: Rate,
    /// Of what its group moves, from 0 to 1.
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

impl From<GroupLimit> for Rate {
    fn from(GroupLimit { rate: tokens, unit, .. }: GroupLimit) -> Self {
        Rate { tokens, unit }
    }
}

/// A limit, and until or from when it is in force, in RFC 3339.
#[derive(Serialize)]
struct Change {
    limit: Option<Rate>,
    time: String,
}

#[derive(Serialize)]
struct ListedQuota {
    bytes: u64,
    period: String,
    used: u64,
    left: u64,
    /// When it begins anew, in RFC 3339.
    anew: String,
    /// Bytes per second once it is used up; 0 is a pause.
    then: u64,
}

/// Lists all groups of this user.
pub fn list(json: bool) -> Result<()> {
    let before: HashMap<_, _> = budget::list()?.groups.into_iter().collect();
    if before.values().any(|budget| !budget.members().is_empty()) {
        sleep(LOOK);
    }
    let listing = budget::list()?;
    let groups = tree(&before, &listing);
    let Listing { folder, failed, .. } = listing;
    let folder = folder.display();
    let text = match groups.len() {
        _ if json => serde_json::to_string_pretty(&groups)? + "\n",
        0 if failed.is_empty() => format!("no groups in {folder}\n"),
        0 => String::new(),
        _ => {
            let notes = groups.iter().filter_map(|group| Some(outlook(&group.group, group.outlook.as_ref()?)));
            let stores = groups.iter().filter_map(|group| Some(share::table(&group.group, group.store.as_ref()?)));
            format!("{}\nin {folder}\n{}{}", table(&groups), notes.collect::<String>(), stores.collect::<String>())
        }
    };
    print(&text)?;
    let Some((last, others)) = failed.split_last() else { return Ok(()) };
    // A message is one line.
    others.iter().for_each(say);
    bail!("{last}")
}

/// Groups above the groups below them. Each member is in the innermost of its groups.
fn tree(before: &HashMap<Name, Budget>, listing: &Listing) -> Vec<Listed> {
    let mut groups: Vec<Listed> = Vec::new();
    // In the order of their words, so that groups stand right below the group above them.
    let mut sorted: Vec<_> = listing.groups.iter().collect();
    sorted.sort_by_cached_key(|(name, _)| name.to_string().split('/').map(str::to_owned).collect::<Vec<_>>());
    let mut rates: Vec<f64> = Vec::new();
    for (name, budget) in &sorted {
        let text = name.to_string();
        let members = budget.members().first().map(|account| account.terms.unit);
        let unit = budget.limit().map(|limit| limit.unit).or(members).unwrap_or_default();
        let in_unit = |tokens| Rate { tokens, unit };
        let is_below = |other: &Name| other.to_string().strip_prefix(&text).is_some_and(|rest| rest.starts_with('/'));
        let below = sorted.iter().filter(|(other, _)| is_below(other)).flat_map(|(_, budget)| budget.members());
        let elsewhere: BTreeSet<Id> = below.map(|account| account.id).collect();
        let earlier = |id: Id| before.get(name)?.members().iter().find(|account| account.id == id);
        let own = budget.members().iter().filter(|account| !elsewhere.contains(&account.id));
        let members: Vec<_> = own
            .map(|account| {
                let rate = earlier(account.id).map_or(0.0, |earlier| rate(earlier, account));
                let member = ListedMember {
                    pid: account.id.pid,
                    name: listing.names.get(&account.id).cloned(),
                    rate: in_unit(rate.round() as u64),
                    share: rate,
                    weight: account.terms.weight,
                    min_rate: in_unit(account.terms.guaranteed),
                };
                (member, rate)
            })
            .collect();
        rates.push(members.iter().map(|(_, rate)| rate).sum());
        let outlook = listing.outlooks.iter().find(|(other, _)| other == name).map(|(_, outlook)| outlook.clone());
        let above =
            groups.iter().rposition(|group| text.strip_prefix(&group.group).is_some_and(|rest| rest.starts_with('/')));
        groups.push(Listed {
            group: text,
            unit,
            limit: budget.limit().map(Rate::from),
            rate: in_unit(0),
            share: None,
            members: members.into_iter().map(|(member, _)| member).collect(),
            schedule: outlook.as_ref().and_then(|outlook| outlook.timetable.clone()),
            passing: outlook
                .as_ref()
                .and_then(|outlook| outlook.passing.clone())
                .map(|(limit, until)| change(&until, limit)),
            next: outlook.as_ref().and_then(|outlook| outlook.next.clone()).map(|(from, limit)| change(&from, limit)),
            quota: outlook.as_ref().and_then(|outlook| outlook.quota.as_ref()).map(listed_quota),
            store: None,
            outlook,
            above,
        });
    }
    // Those below stand after those above.
    for place in (0..groups.len()).rev() {
        if let Some(above) = groups[place].above {
            rates[above] += rates[place];
        }
    }
    let part = |rate: f64, whole: f64| if whole > 0.0 { rate / whole } else { 0.0 };
    for (group, rate) in groups.iter_mut().zip(&rates) {
        group.rate.tokens = rate.round() as u64;
        group.share = group.above.map(|above| part(*rate, rates[above]));
        group.members.iter_mut().for_each(|member| member.share = part(member.share, *rate));
    }
    for (name, shared) in &listing.shared {
        if let Some(group) = groups.iter_mut().find(|group| group.group == name.to_string()) {
            let store = share::listed(name, shared);
            // That of all machines, not what this one may use at the moment.
            group.limit = store.limit().map(|tokens| Rate { tokens, unit: Unit::Bytes });
            group.store = Some(store);
        }
    }
    groups
}

fn change(time: &jiff::Zoned, limit: Option<GroupLimit>) -> Change {
    Change { limit: limit.map(Rate::from), time: rfc3339(time) }
}

fn rfc3339(time: &jiff::Zoned) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn listed_quota(quota: &QuotaOutlook) -> ListedQuota {
    ListedQuota {
        bytes: quota.allowance.bytes,
        period: quota.allowance.period.to_string(),
        used: quota.used,
        left: quota.left(),
        anew: rfc3339(&quota.anew),
        then: match quota.then {
            Then::Pause => 0,
            Then::Rate(rate) => rate,
        },
    }
}

/// Tokens per second between two visits of a member to its group; 0 if there was none between.
fn rate(earlier: &MemberAccount, now: &MemberAccount) -> f64 {
    let passed = now.asked.saturating_sub(earlier.asked).as_secs_f64();
    if passed > 0.0 { now.used.saturating_sub(earlier.used) as f64 / passed } else { 0.0 }
}

/// A line for each group, below it one for each of its members, and the groups below it.
fn table(groups: &[Listed]) -> String {
    let header = ["GROUP", "PID", "NAME", "RATE", "LIMIT", "SHARE", "WEIGHT", "MIN RATE"];
    let counted = |limit: Rate| match limit.unit {
        Unit::Bytes => limit.to_string(),
        Unit::Records => limit.to_string().replacen('/', " records/", 1),
    };
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    let depth = |group: &Listed| {
        let mut above = group.above;
        std::iter::from_fn(|| {
            let place = above?;
            above = groups[place].above;
            Some(place)
        })
        .count()
    };
    let rows = groups.iter().flat_map(|group| {
        let depth = depth(group);
        // Below a group that is listed, the rest of the path says enough.
        let name = match group.above {
            Some(above) => &group.group[groups[above].group.len() + 1..],
            None => &group.group,
        };
        let limit = group.limit.map_or("none".to_owned(), counted);
        let part = group.share.map(share).unwrap_or_default();
        let all = vec![
            format!("{}{name}", "  ".repeat(depth)),
            String::new(),
            String::new(),
            group.rate.to_string(),
            limit,
            part,
        ];
        let members = group.members.iter().map(move |member| {
            vec![
                String::new(),
                member.pid.to_string(),
                member.name.as_deref().map(printable).unwrap_or_default(),
                member.rate.to_string(),
                String::new(),
                share(member.share),
                member.weight.to_string(),
                if member.min_rate.tokens > 0 { member.min_rate.to_string() } else { String::new() },
            ]
        });
        std::iter::once(all).chain(members)
    });
    words::table(&header, &["GROUP", "NAME"], rows)
}

fn limit(limit: Option<GroupLimit>) -> String {
    limit.map_or("no limit".to_owned(), |limit| format!("limit {}", Rate::from(limit)))
}

/// What comes by the clock, in lines.
fn outlook(group: &str, outlook: &Outlook) -> String {
    let mut lines = String::new();
    let mut line = |text: String| lines += &format!("{group}: {text}\n");
    match (&outlook.passing, &outlook.timetable, &outlook.next) {
        (Some((rate, until)), timetable, next) => {
            let then = match next {
                Some((time, rate)) if time == until => format!(", then {}", limit(*rate)),
                _ => String::new(),
            };
            let returns = timetable.as_ref().map(|text| format!(" (timetable '{text}')")).unwrap_or_default();
            line(format!("{} until {}{then}{returns}", limit(*rate), show_moment(until)));
        }
        (None, Some(text), Some((time, rate))) => {
            line(format!("timetable '{text}': {} from {}", limit(*rate), show_moment(time)));
        }
        (None, Some(text), None) => line(format!("timetable '{text}'")),
        (None, None, _) => {}
    }
    if let Some(quota) = &outlook.quota {
        let then = match quota.then {
            Then::Pause => "a pause".to_owned(),
            Then::Rate(rate) => show_rate(rate as f64),
        };
        let state = match quota.left() {
            0 => format!("used up, now {then}"),
            left => format!("{} used, {} left, then {then}", show_size(quota.used), show_size(left)),
        };
        line(format!("quota of {}: {state}; begins anew {}", quota.allowance, show_moment(&quota.anew)));
    }
    lines
}

/// What became of the limit of a group, in lines.
pub fn outcome(name: &Name, outcome: &Outcome) -> String {
    let (before, after) = (outcome.before, outcome.after);
    let rate = |limit: Option<GroupLimit>| limit.map(|limit| (limit.rate, limit.unit));
    let was = match rate(before) == rate(after) {
        true => "as before".to_owned(),
        false => format!("was {}", before.map_or("none".to_owned(), |limit| Rate::from(limit).to_string())),
    };
    let comes = outcome.outlook.as_ref().map(|outlook| self::outlook(&name.to_string(), outlook)).unwrap_or_default();
    format!("{name}: {}, {was}\n{comes}", limit(after))
}
