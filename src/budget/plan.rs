//! The limit of a group by the clock: a timetable, a limit for a while, and a quota. Pure: the wall
//! clock is an argument.

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

pub use super::quota::{Allowance, Period, QuotaOutlook, Then};
use super::quota::{Quota, zoned};
use super::{GroupLimit, Watch};
use crate::shaping::{Burst, Schedule, Unit};
use crate::units::RateChange;

/// How soon to look again where a timetable or a time zone cannot be read.
const UNREADABLE: i64 = 60_000;

/// The longest text of a timetable in bytes: each visit to the group reads it.
pub const LONGEST_TIMETABLE: usize = 1000;

/// What is to become of a group's limit over time. It lies in the group's file, and whichever member
/// visits the file puts it in force. All times are of the wall clock, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    usual: Usual,
    passing: Option<Passing>,
    quota: Option<Quota>,
    /// The time zone of all times of day, by its IANA name; that of the process that looks if nothing.
    zone: Option<String>,
    /// What was found out at the latest look holds from here on,
    since: i64,
    /// until here,
    until: i64,
    /// and while the group has used less than this in all.
    below: u64,
}

/// The limit where no other one is in force for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Usual {
    /// This limit; none is no limit.
    Constant(Option<GroupLimit>),
    /// The text of a timetable, what it counts, and the depth of the bucket; the default if nothing.
    Timetable(String, Unit, Option<Burst>),
}

/// A limit that ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Passing {
    /// None is no limit.
    limit: Option<GroupLimit>,
    since: i64,
    until: i64,
    /// It was asked for so long, not until a time of day.
    lasts: bool,
}

/// What a plan comes to at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit in force; none if there is no limit.
    pub limit: Option<GroupLimit>,
    /// What happens once the group has used so many bytes in all.
    pub watch: Option<Watch>,
}

/// What a user wants to change about a group. What is nothing stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The limit.
    pub limit: Option<NewLimit>,
    /// What a new limit counts.
    pub unit: Unit,
    /// Depth of the bucket; the default if nothing and there is a new limit.
    pub burst: Option<Burst>,
    /// When the new limit ends by itself.
    pub end: Option<End>,
    /// The quota; none lifts it.
    pub quota: Option<Option<Allowance>>,
    /// What happens when the quota is used up. [`Then::Pause`] if nothing and there is a new quota.
    pub then: Option<Then>,
}

/// What the limit of a group is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLimit {
    /// Tokens per second, at least 1; none is no limit.
    Rate(Option<u64>),
    /// More or less than now.
    Change(RateChange),
    /// A timetable, as [`Schedule`] reads it.
    Timetable(String),
    /// What it was before the limit that would end by itself.
    Back,
}

/// When a limit ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After this time.
    After(Duration),
    /// At this time.
    At(Timestamp),
}

/// Why a plan cannot be changed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// There is no limit that could become higher or lower.
    NoLimit,
    /// Nothing would be left of the limit.
    NothingLeft,
    /// A change for good is of a limit that a timetable changes.
    Timetable,
    /// The end is not in the future.
    Past,
    /// `--then` without a quota.
    NoQuota,
    /// A quota of a group that counts records.
    QuotaOfRecords,
    /// Limits of bytes and of records in turns.
    Units,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlanError::NoLimit => "has no limit now that could be raised or lowered",
            PlanError::NothingLeft => "would have nothing left of its limit",
            PlanError::Timetable => "follows a timetable: say for how long, such as '+10% for 2h', or give a rate",
            PlanError::Past => "cannot have a limit until a time that has passed",
            PlanError::NoQuota => "has no quota: --then needs --quota, such as --quota 50G/day",
            PlanError::QuotaOfRecords => "counts records, and a quota counts bytes",
            PlanError::Units => "cannot count bytes and records in turns",
        })
    }
}

impl Plan {
    /// A plan that keeps a group at this limit, in the time zone of this name.
    fn of(limit: Option<GroupLimit>, zone: Option<String>) -> Plan {
        Plan { usual: Usual::Constant(limit), passing: None, quota: None, zone, since: 0, until: 0, below: 0 }
    }

    /// What a plan becomes, and the limit of the group if it needs no plan. `limit` is in force now if
    /// there is no plan yet, `counted` the bytes that the group has used in all, and `zone` the time
    /// zone of the times of day in the settings.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn change(
        plan: Option<&Plan>,
        limit: Option<GroupLimit>,
        settings: &Settings,
        now: Timestamp,
        counted: u64,
        zone: Option<&str>,
    ) -> Result<Changed, PlanError> {
        let mut plan = plan.cloned().unwrap_or_else(|| Plan::of(limit, None));
        let at = now.as_millisecond();
        plan.pass(at, counted);
        let of_rate = |rate| GroupLimit { rate, unit: settings.unit, burst: settings.burst, lasting: true };
        let limit = match &settings.limit {
            Some(NewLimit::Rate(rate)) => Some(rate.map(of_rate)),
            Some(NewLimit::Change(by)) => {
                if settings.end.is_none() && matches!(plan.usual, Usual::Timetable(..)) {
                    return Err(PlanError::Timetable);
                }
                let before = plan.timed(at).0.ok_or(PlanError::NoLimit)?;
                let rate = by.of(before.rate, before.unit.tokens()).ok_or(PlanError::NothingLeft)?;
                Some(Some(GroupLimit { unit: before.unit, burst: settings.burst.or(before.burst), ..of_rate(rate) }))
            }
            Some(NewLimit::Timetable(text)) => {
                plan.usual = Usual::Timetable(text.clone(), settings.unit, settings.burst);
                plan.passing = None;
                plan.zone = zone.map(str::to_owned);
                None
            }
            Some(NewLimit::Back) => {
                plan.passing = None;
                None
            }
            None => None,
        };
        match (limit, settings.end) {
            (Some(limit), Some(end)) => {
                let (until, lasts) = match end {
                    End::After(time) => (at.saturating_add(time.as_millis().try_into().unwrap_or(i64::MAX)), true),
                    End::At(time) => (time.as_millisecond(), false),
                };
                if until <= at {
                    return Err(PlanError::Past);
                }
                plan.passing = Some(Passing { limit, since: at, until, lasts });
            }
            (Some(limit), None) => (plan.usual, plan.passing) = (Usual::Constant(limit), None),
            _ => {}
        }
        match settings.quota {
            Some(None) => plan.quota = None,
            Some(Some(allowance)) => {
                let then = settings.then.unwrap_or(Then::Pause);
                if !matches!(plan.usual, Usual::Timetable(..)) {
                    plan.zone = zone.map(str::to_owned);
                }
                let begun = allowance.period.begin(at, &plan.time_zone()).unwrap_or(at);
                let used = plan.quota.as_ref().map_or(0, |quota| quota.used(counted));
                let kept = plan.quota.take().filter(|quota| quota.allowance.period == allowance.period);
                plan.quota = Some(match kept {
                    Some(quota) => Quota { allowance, then, ..quota },
                    // What was used in a shorter period was used in the longer one, too.
                    None => Quota { used, ..Quota::new(allowance, then, begun, counted) },
                });
            }
            None => {
                if let Some(then) = settings.then {
                    plan.quota.as_mut().ok_or(PlanError::NoQuota)?.then = then;
                }
            }
        }
        plan.forget_look();
        let units: Vec<_> = plan.limits().into_iter().map(|limit| limit.unit).collect();
        if units.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(PlanError::Units);
        }
        if plan.quota.is_some() && units.contains(&Unit::Records) {
            return Err(PlanError::QuotaOfRecords);
        }
        Ok(match plan.constant() {
            Some(limit) => Changed::Limit(limit),
            None => Changed::Plan(Box::new(plan)),
        })
    }

    /// The limit, if it does not change by itself any more.
    pub fn constant(&self) -> Option<Option<GroupLimit>> {
        match self {
            Plan { usual: Usual::Constant(limit), passing: None, quota: None, .. } => Some(*limit),
            _ => None,
        }
    }

    /// Whether something may have changed at `now` since the latest look, where the group has used
    /// `counted` bytes in all.
    pub fn is_due(&self, now: Timestamp, counted: u64) -> bool {
        let now = now.as_millisecond();
        now < self.since || now >= self.until || counted >= self.below
    }

    /// What is in force at `now`, where the group has used `counted` bytes in all. What has ended is
    /// forgotten.
    pub fn look(&mut self, now: Timestamp, counted: u64) -> Standing {
        let now = now.as_millisecond();
        self.pass(now, counted);
        let (mut limit, mut until) = self.timed(now);
        let mut watch = None;
        self.below = u64::MAX;
        if let Some(quota) = &self.quota {
            let zone = self.time_zone();
            let end = quota.allowance.period.end(now.max(quota.begun), &zone);
            until = until.min(end.unwrap_or(now.saturating_add(UNREADABLE)));
            let left = quota.allowance.bytes.saturating_sub(quota.used(quota.counted));
            let used_up_at = quota.counted.saturating_add(left);
            match quota.then {
                Then::Pause => watch = Some(Watch { at: used_up_at, stops: true }),
                Then::Rate(then) if counted >= used_up_at => {
                    let most =
                        limit.unwrap_or(GroupLimit { rate: then, unit: Unit::Bytes, burst: None, lasting: true });
                    limit = Some(GroupLimit { rate: most.rate.min(then), ..most });
                }
                Then::Rate(_) => {
                    watch = Some(Watch { at: used_up_at, stops: false });
                    self.below = used_up_at;
                }
            }
        }
        (self.since, self.until) = (now, until.max(now.saturating_add(1)));
        Standing { limit, watch }
    }

    /// When the latest look was, and until when it holds, in milliseconds since 1970.
    pub fn looked(&self) -> (i64, i64) {
        (self.since, self.until)
    }

    /// Whether the quota is used up, where the group has used `counted` bytes in all.
    pub fn is_used_up(&self, counted: u64) -> bool {
        self.quota.as_ref().is_some_and(|quota| quota.used(counted) >= quota.allowance.bytes)
    }

    /// Lets time pass.
    fn pass(&mut self, now: i64, counted: u64) {
        if let Some(passing) = &mut self.passing {
            if now < passing.since && passing.lasts {
                // The clock was set back. It does not last longer for that.
                passing.until = now.saturating_add(passing.until.saturating_sub(passing.since));
                passing.since = now;
            }
            if now >= passing.until {
                self.passing = None;
            }
        }
        let zone = self.time_zone();
        if let Some(quota) = &mut self.quota {
            quota.pass(now, counted, &zone);
        }
    }

    /// The limit by the clock alone, and until when it holds.
    fn timed(&self, now: i64) -> (Option<GroupLimit>, i64) {
        if let Some(Passing { limit, until, .. }) = self.passing {
            return (limit, until);
        }
        match &self.usual {
            Usual::Constant(limit) => (*limit, i64::MAX),
            Usual::Timetable(text, unit, burst) => {
                let limit = |rate| GroupLimit { rate, unit: *unit, burst: *burst, lasting: true };
                match (Schedule::parse_in(*unit, text), zoned(now, &self.time_zone())) {
                    (Ok(schedule), Some(now)) => {
                        let found = schedule.at(&now);
                        (found.rate.map(limit), found.until.as_millisecond())
                    }
                    // Nobody but one who writes the file by hand gets here. No limit would be worse.
                    _ => (Some(limit(1)), now.saturating_add(UNREADABLE)),
                }
            }
        }
    }

    fn time_zone(&self) -> TimeZone {
        match &self.zone {
            Some(name) => TimeZone::get(name).unwrap_or(TimeZone::UTC),
            None => TimeZone::system(),
        }
    }

    /// The limits that may be in force: the lowest one of the timetable, or the one that is always in
    /// force, and the one for a while.
    pub fn limits(&self) -> Vec<GroupLimit> {
        let usual = match &self.usual {
            Usual::Constant(limit) => *limit,
            Usual::Timetable(text, unit, burst) => {
                let lowest = Schedule::parse_in(*unit, text).ok().and_then(|schedule| schedule.lowest());
                lowest.map(|rate| GroupLimit { rate, unit: *unit, burst: *burst, lasting: true })
            }
        };
        let passing = self.passing.as_ref().and_then(|passing| passing.limit);
        usual.into_iter().chain(passing).collect()
    }

    /// Whether there is a quota.
    pub fn has_quota(&self) -> bool {
        self.quota.is_some()
    }

    /// What its members have to count; nothing if that is up to them.
    pub fn unit(&self) -> Option<Unit> {
        let quota = self.quota.as_ref().map(|_| Unit::Bytes);
        self.limits().first().map(|limit| limit.unit).or(quota)
    }
}

/// What a machine has used of a quota that it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// When the period began, in milliseconds since 1970.
    pub begun: i64,
    /// Bytes that the machine has used in it.
    pub used: u64,
    /// Bytes that all machines have used in it, as heard last.
    pub heard: u64,
}

impl Plan {
    /// What this machine has to report of the quota.
    pub fn report(&mut self, now: Timestamp, counted: u64) -> Option<Report> {
        self.pass(now.as_millisecond(), counted);
        self.quota.as_ref().map(|quota| Report { begun: quota.begun, used: quota.used, heard: quota.heard })
    }

    /// Takes what all machines have used, as the store has answered to a report.
    pub fn hear(&mut self, report: &Report, total: u64) {
        if let Some(quota) = self.quota.as_mut().filter(|quota| quota.begun == report.begun) {
            (quota.elsewhere, quota.heard) = (total.saturating_sub(report.used), total);
        }
        self.forget_look();
    }

    /// Has the next look find out everything anew.
    pub fn forget_look(&mut self) {
        (self.since, self.until) = (0, 0);
    }

    /// A plan that another machine has made, with what this one has used by `own`, its plan before.
    #[must_use]
    pub fn adopt(mut self, own: Option<&Plan>, now: Timestamp, counted: u64) -> Plan {
        self.forget_look();
        let zone = self.time_zone();
        if let Some(quota) = &mut self.quota {
            let (allowance, then) = (quota.allowance, quota.then);
            let kept = own.and_then(|plan| plan.quota.clone());
            *quota = match kept.filter(|kept| kept.allowance.period == allowance.period) {
                Some(kept) => Quota { allowance, then, ..kept },
                None => {
                    let at = now.as_millisecond();
                    Quota::new(allowance, then, allowance.period.begin(at, &zone).unwrap_or(at), counted)
                }
            };
        }
        self
    }
}

/// What [`Plan::change`] comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The group has this limit, and nothing changes by itself.
    Limit(Option<GroupLimit>),
    /// The group needs a plan.
    Plan(Box<Plan>),
}

/// What a plan is at a moment, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The timetable, as typed.
    pub timetable: Option<String>,
    /// The limit that ends by itself, no limit if nothing, and when.
    pub passing: Option<(Option<GroupLimit>, Zoned)>,
    /// When the limit changes next, and what it is then.
    pub next: Option<(Zoned, Option<GroupLimit>)>,
    /// The quota.
    pub quota: Option<QuotaOutlook>,
}

impl Plan {
    /// What is to be seen of it at `now`, where the group has used `counted` bytes in all.
    pub fn outlook(&self, now: Timestamp, counted: u64) -> Outlook {
        let (mut plan, at) = (self.clone(), now.as_millisecond());
        let zone = plan.time_zone();
        let limit = plan.look(now, counted).limit;
        // Where a quota begins anew, the limit may stay as it is.
        let mut next = None;
        let mut later = plan.clone();
        for _ in 0..32 {
            let Some(change) = zoned(later.until, &zone).filter(|_| later.until < i64::MAX) else { break };
            let after = later.look(change.timestamp(), counted).limit;
            if after != limit {
                next = Some((change, after));
                break;
            }
        }
        let quota = plan.quota.as_ref().and_then(|quota| {
            let anew = zoned(quota.allowance.period.end(at.max(quota.begun), &zone)?, &zone)?;
            Some(QuotaOutlook { allowance: quota.allowance, then: quota.then, used: quota.used(counted), anew })
        });
        Outlook {
            timetable: match &plan.usual {
                Usual::Timetable(text, ..) => Some(text.clone()),
                Usual::Constant(_) => None,
            },
            passing: plan.passing.as_ref().and_then(|passing| Some((passing.limit, zoned(passing.until, &zone)?))),
            next,
            quota,
        }
    }
}

/// A moment as people write it, in its own time zone: `Fri 2026-11-27 00:00`.
pub fn show_moment(moment: &Zoned) -> String {
    moment.strftime("%a %Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BERLIN: Option<&str> = Some("Europe/Berlin");

    fn at(text: &str) -> Timestamp {
        text.parse::<Zoned>()
            .map(|zoned| zoned.timestamp())
            .or_else(|_| format!("{text}[Europe/Berlin]").parse::<Zoned>().map(|zoned| zoned.timestamp()))
            .unwrap()
    }

    fn limit(rate: u64) -> Option<GroupLimit> {
        Some(GroupLimit { rate, unit: Unit::Bytes, burst: None, lasting: true })
    }

    /// A plan after a change of it, which needs a plan.
    fn changed(plan: Option<&Plan>, before: Option<GroupLimit>, settings: &Settings, now: &str, counted: u64) -> Plan {
        match Plan::change(plan, before, settings, at(now), counted, BERLIN).unwrap() {
            Changed::Plan(plan) => *plan,
            Changed::Limit(limit) => panic!("{limit:?}"),
        }
    }

    fn rate_for(rate: u64, end: End) -> Settings {
        Settings { limit: Some(NewLimit::Rate(Some(rate))), end: Some(end), ..Settings::default() }
    }

    fn timetable(text: &str) -> Settings {
        Settings { limit: Some(NewLimit::Timetable(text.into())), ..Settings::default() }
    }

    fn quota(text: &str, then: Then) -> Settings {
        Settings { quota: Some(Some(text.parse().unwrap())), then: Some(then), ..Settings::default() }
    }

    /// The rate in force.
    fn rate(plan: &mut Plan, now: &str, counted: u64) -> Option<u64> {
        plan.look(at(now), counted).limit.map(|limit| limit.rate)
    }

    /// Bytes left of the quota.
    fn left(plan: &mut Plan, now: Timestamp, counted: u64) -> u64 {
        plan.look(now, counted);
        plan.outlook(now, counted).quota.unwrap().left()
    }

    #[test]
    fn a_timetable_is_followed_also_by_one_who_comes_days_later() {
        let mut plan = changed(None, limit(7), &timetable("08:00,2M 18:00,off"), "2026-11-25T07:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T07:00", 0), None);
        assert!(!plan.is_due(at("2026-11-25T07:59:59.999"), 0) && plan.is_due(at("2026-11-25T08:00"), 0));
        assert_eq!(rate(&mut plan, "2026-11-25T08:00", 0), Some(2 << 20));
        assert_eq!(rate(&mut plan, "2026-11-27T12:00", 0), Some(2 << 20));
        assert_eq!(rate(&mut plan, "2026-11-28T18:00", 0), None);
        let next = plan.outlook(at("2026-11-28T19:00"), 0).next.unwrap();
        assert_eq!((show_moment(&next.0), next.1), ("Sun 2026-11-29 08:00".to_owned(), limit(2 << 20)));
    }

    #[test]
    fn a_timetable_holds_in_the_zone_of_the_one_who_set_it() {
        let mut plan = changed(None, None, &timetable("08:00,2M 18:00,off"), "2026-06-25T07:00", 0);
        assert_eq!(rate(&mut plan, "2026-06-25T06:00[UTC]", 0), Some(2 << 20));
        assert_eq!(rate(&mut plan, "2026-06-25T05:59[UTC]", 0), None);
    }

    #[test]
    fn a_limit_for_a_time_ends_by_itself_and_what_was_before_comes_back() {
        let two_hours = End::After(Duration::from_secs(7200));
        let mut plan = changed(None, limit(7), &rate_for(5, two_hours), "2026-11-25T12:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T13:59:59", 0), Some(5));
        assert_eq!(plan.constant(), None);
        assert_eq!(rate(&mut plan, "2026-11-25T14:00", 0), Some(7));
        assert_eq!(plan.constant(), Some(limit(7)), "nothing is left of it");

        let day = changed(None, limit(7), &timetable("08:00,2M 18:00,off"), "2026-11-25T12:00", 0);
        let mut plan = changed(Some(&day), None, &rate_for(5, End::At(at("2026-11-25T18:30"))), "2026-11-25T12:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T18:29", 0), Some(5));
        assert_eq!(rate(&mut plan, "2026-11-25T18:30", 0), None);
        let back = Settings { limit: Some(NewLimit::Back), ..Settings::default() };
        let mut plan = changed(Some(&day), None, &rate_for(5, two_hours), "2026-11-25T12:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T12:30", 0), Some(5));
        let mut plan = changed(Some(&plan), None, &back, "2026-11-25T12:30", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T12:30", 0), Some(2 << 20));
    }

    #[test]
    fn a_limit_that_goes_with_the_last_member_still_does_after_another_one_for_a_time() {
        let before = Some(GroupLimit { rate: 7, unit: Unit::Bytes, burst: None, lasting: false });
        let mut plan = changed(None, before, &rate_for(5, End::At(at("2026-11-25T18:00"))), "2026-11-25T12:00", 0);
        plan.look(at("2026-11-25T18:00"), 0);
        assert_eq!(plan.constant(), Some(before));
    }

    #[test]
    fn a_limit_for_a_time_does_not_last_longer_when_the_clock_is_set_back() {
        let mut plan =
            changed(None, limit(7), &rate_for(5, End::After(Duration::from_secs(3600))), "2026-11-25T12:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T12:30", 0), Some(5));
        assert!(plan.is_due(at("2026-11-01T12:00"), 0));
        assert_eq!(rate(&mut plan, "2026-11-01T12:00", 0), Some(5));
        assert_eq!(rate(&mut plan, "2026-11-01T13:00", 0), Some(7));
    }

    #[test]
    fn a_limit_is_raised_and_lowered_by_so_much() {
        let by = |text: &str| Settings { limit: Some(NewLimit::Change(text.parse().unwrap())), ..Settings::default() };
        let change =
            |plan, before, settings: &Settings| Plan::change(plan, before, settings, at("2026-11-25T12:00"), 0, BERLIN);
        let burst = GroupLimit { rate: 1000, unit: Unit::Bytes, burst: Some(Burst::Bytes(99)), lasting: true };
        let raised = Some(GroupLimit { rate: 1100, ..burst });
        assert_eq!(change(None, Some(burst), &by("+10%")), Ok(Changed::Limit(raised)));
        assert_eq!(change(None, limit(1000), &by("-999")), Ok(Changed::Limit(limit(1))));
        assert_eq!(change(None, limit(1000), &by("-1000")), Err(PlanError::NothingLeft));
        assert_eq!(change(None, None, &by("+10%")), Err(PlanError::NoLimit));
        let day = changed(None, None, &timetable("08:00,2M 18:00,off"), "2026-11-25T12:00", 0);
        assert_eq!(change(Some(&day), None, &by("+1M")), Err(PlanError::Timetable));
        let for_an_hour = Settings { end: Some(End::After(Duration::from_secs(3600))), ..by("+1M") };
        let mut plan = changed(Some(&day), None, &for_an_hour, "2026-11-25T12:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T12:00", 0), Some(3 << 20));
        let past = rate_for(1, End::At(at("2026-11-25T11:00")));
        assert_eq!(change(None, None, &past), Err(PlanError::Past));
        let then = Settings { then: Some(Then::Pause), ..Settings::default() };
        assert_eq!(change(None, limit(5), &then), Err(PlanError::NoQuota));
    }

    #[test]
    fn a_quota_stops_at_its_last_byte_or_goes_on_slowly_and_begins_anew_at_midnight() {
        let mut plan = changed(None, limit(1 << 20), &quota("1M/day", Then::Pause), "2026-11-25T12:00", 500);
        assert_eq!(
            plan.look(at("2026-11-25T12:00"), 500),
            Standing { limit: limit(1 << 20), watch: Some(Watch { at: 500 + (1 << 20), stops: true }) }
        );
        assert_eq!(plan.look(at("2026-11-25T23:59"), 1 << 20).watch.unwrap().at, 500 + (1 << 20));
        assert_eq!(plan.look(at("2026-11-26T00:00"), 1 << 20).watch.unwrap().at, 2 << 20);

        let mut plan = changed(None, limit(1 << 20), &quota("1M/day", Then::Rate(1000)), "2026-11-25T12:00", 500);
        assert_eq!(rate(&mut plan, "2026-11-25T12:00", 500), Some(1 << 20));
        assert!(
            !plan.is_due(at("2026-11-25T12:01"), 499 + (1 << 20))
                && plan.is_due(at("2026-11-25T12:01"), 500 + (1 << 20))
        );
        assert_eq!(rate(&mut plan, "2026-11-25T12:01", 500 + (1 << 20)), Some(1000));
        let outlook = plan.outlook(at("2026-11-25T12:01"), 2 << 20);
        assert_eq!(
            outlook.next.map(|(time, rate)| (show_moment(&time), rate)),
            Some(("Thu 2026-11-26 00:00".into(), limit(1 << 20)))
        );
        assert_eq!(rate(&mut plan, "2026-11-26T00:00", 2 << 20), Some(1 << 20));
    }

    #[test]
    fn a_group_without_a_limit_has_one_once_its_quota_is_used_up() {
        let mut plan = changed(None, None, &quota("1M/day", Then::Rate(1000)), "2026-11-25T12:00", 0);
        assert_eq!(rate(&mut plan, "2026-11-25T12:00", 0), None);
        assert_eq!(rate(&mut plan, "2026-11-25T12:01", 1 << 20), Some(1000));
        assert!(plan.is_used_up(1 << 20));
    }

    #[test]
    fn a_larger_quota_counts_what_was_used_and_a_limit_that_is_set_keeps_the_quota() {
        let now = at("2026-11-25T12:00");
        let plan = changed(None, limit(9), &quota("1M/day", Then::Pause), "2026-11-25T12:00", 0);
        let mut more = changed(Some(&plan), None, &quota("3M/day", Then::Pause), "2026-11-25T12:00", 1 << 20);
        assert_eq!(left(&mut more, now, 1 << 20), 2 << 20);
        let mut longer = changed(Some(&more), None, &quota("5M/month", Then::Pause), "2026-11-25T12:00", 1 << 20);
        assert_eq!(left(&mut longer, now, 1 << 20), 4 << 20);
        let slower = Settings { limit: Some(NewLimit::Rate(Some(3))), ..Settings::default() };
        let mut slower = changed(Some(&longer), None, &slower, "2026-11-25T12:00", 1 << 20);
        assert_eq!(
            (rate(&mut slower, "2026-11-25T12:00", 1 << 20), left(&mut slower, now, 1 << 20)),
            (Some(3), 4 << 20)
        );
        let none = Settings { quota: Some(None), ..Settings::default() };
        assert_eq!(Plan::change(Some(&slower), None, &none, now, 0, BERLIN), Ok(Changed::Limit(limit(3))));
    }

    #[test]
    fn a_clock_that_steps_over_midnight_and_back_gives_the_quota_once() {
        let mut plan = changed(None, None, &quota("1M/day", Then::Pause), "2026-11-25T23:59:59", 0);
        assert_eq!(left(&mut plan, at("2026-11-26T00:00:01"), 1000), 1 << 20);
        assert_eq!(left(&mut plan, at("2026-11-25T23:59:58"), 2000), (1 << 20) - 1000);
        assert_eq!(left(&mut plan, at("2026-11-26T00:00:01"), 3000), (1 << 20) - 2000);
    }

    #[test]
    fn a_machine_that_starts_with_its_clock_in_1970_gives_the_quota_once() {
        let mut plan = changed(None, None, &quota("1M/month", Then::Pause), "2026-11-25T12:00", 0);
        assert_eq!(left(&mut plan, at("2026-11-25T13:00"), 1000), (1 << 20) - 1000);
        assert_eq!(left(&mut plan, at("1970-01-01T02:00"), 1500), (1 << 20) - 1500);
        assert_eq!(left(&mut plan, at("2026-11-25T14:00"), 2000), (1 << 20) - 2000);
        // One month later it begins anew, although the clock was wrong in between.
        assert_eq!(left(&mut plan, at("1970-01-01T02:00"), 2500), (1 << 20) - 2500);
        assert_eq!(left(&mut plan, at("2026-12-01T00:00"), 2500), 1 << 20);
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_hold_the_quota_up_for_years() {
        let mut plan = changed(None, None, &quota("1M/day", Then::Pause), "2099-01-01T12:00", 0);
        assert_eq!(left(&mut plan, at("2099-01-01T12:00"), 1 << 20), 0);
        assert_eq!(left(&mut plan, at("2026-11-25T12:00"), 1 << 20), 0);
        assert_eq!(left(&mut plan, at("2026-11-26T00:00"), 1 << 20), 1 << 20);
    }

    proptest! {
        /// The clock steps back, also far, and is right again some time later: in no day that really
        /// passes is more used than the quota, and each day begins with all of it.
        #[test]
        fn a_clock_that_steps_back_never_gives_more_than_the_quota_in_a_day(
            period in prop::sample::select(vec![("1000/day", 86_400_i64), ("1000/week", 7 * 86_400)]),
            // Seconds that pass, how far the clock is set back for them, and bytes that are wanted.
            steps in prop::collection::vec((0..200_000_i64, prop_oneof![4 => Just(0), 1 => 0..4_000_000_i64, 1 => 0..10_000_i64], 0..1500_u64), 1..40),
        ) {
            // A Monday.
            let start = at("2026-11-23T00:00[UTC]").as_second();
            let change = Plan::change(None, None, &quota(period.0, Then::Pause), Timestamp::from_second(start).unwrap(), 0, Some("UTC"));
            let Ok(Changed::Plan(mut plan)) = change else { panic!("{change:?}") };
            let (mut now, mut counted) = (start, 0);
            let mut used: std::collections::BTreeMap<i64, u64> = Default::default();
            for (passes, back, wanted) in steps {
                // While it is wrong, it is before the period that began last in truth.
                now += passes;
                let wall = Timestamp::from_second(now - back).unwrap();
                let Some(watch) = plan.look(wall, counted).watch else { panic!() };
                let granted = wanted.min(watch.at.saturating_sub(counted));
                counted += granted;
                if back == 0 {
                    // What was used while the clock was wrong belongs to some day as well.
                    *used.entry((now - start) / period.1).or_default() += granted;
                }
            }
            for (day, used) in used {
                prop_assert!(used <= 1000, "{} in {}", used, day);
            }
        }

        /// Any bytes at all make for a plan that can be looked at, or for none.
        #[test]
        fn no_content_of_a_file_makes_a_plan_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            now in any::<i64>(),
            counted in any::<u64>(),
        ) {
            if let Ok(mut plan) = postcard::from_bytes::<Plan>(&bytes) {
                let now = Timestamp::from_millisecond(now).unwrap_or(Timestamp::MAX);
                plan.is_due(now, counted);
                plan.look(now, counted);
                plan.outlook(now, counted);
                let _ = (plan.limits(), plan.unit(), plan.constant());
                let _ = Plan::change(Some(&plan), None, &quota("1M/day", Then::Pause), now, counted, BERLIN);
                prop_assert!(postcard::to_stdvec(&plan).is_ok());
            }
        }

        #[test]
        fn what_is_no_quota_is_refused(text in ".{0,20}") {
            let _ = text.parse::<Allowance>();
        }
    }

    #[test]
    fn reads_quotas() {
        let read = |text: &str| text.parse::<Allowance>().map(|allowance| (allowance.bytes, allowance.period));
        assert_eq!(read("50G/day"), Ok((50 << 30, Period::Day)));
        assert_eq!(read("1TB/month"), Ok((1_000_000_000_000, Period::Month)));
        assert_eq!(read("200M/week"), Ok((200 << 20, Period::Week)));
        for text in ["", "50G", "/day", "50G/", "50G/hour", "50G/m", "x/day", "-1G/day", "50G/day/day"] {
            assert!(read(text).unwrap_err().to_string().contains("is not a quota"), "{text}");
        }
        assert!(read("0/day").unwrap_err().to_string().contains("allows nothing"));
    }
}
