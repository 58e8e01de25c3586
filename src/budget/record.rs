//! What the file of a group holds: a budget, and what is needed to make sense of it later.

use std::cmp::Reverse;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use jiff::Timestamp;

use super::plan::{LONGEST_TIMETABLE, Outlook, Plan, Standing, Then, show_moment};
use super::rule::nanos;
use super::shared::Shared;
use super::version3;
use super::{Budget, MemberAccount, Name};
use crate::os::clock::{self, Earlier, Moment, Origin};
use crate::os::random;
use crate::units::show_rate;

/// What each record begins with. The last byte is the version of what follows: 3 is read as well.
const MAGIC: &[u8; 8] = b"pcgroup\x05";

/// How long the part of it is that all versions have in common.
const ANY_VERSION: usize = MAGIC.len() - 1;

/// Where the bytes begin that the checksum covers.
const CHECKED: usize = MAGIC.len() + 4;

/// Magic, checksum, sequence number, start of the machine, time namespace, monotonic and wall clock
/// time, number of the file, time of the limit, length of what follows: the number of accounts, the
/// accounts, and what is the same for all members.
const HEAD: usize = CHECKED + 8 + 16 + 5 * 8 + 4;

/// Size of each of the two places for a record in bytes: enough for some 2900 members.
const PLACE: usize = 256 * 1024;

/// The most bytes that a record is expected to take up beside its accounts: more where other
/// machines have to do with the group.
const BESIDE: usize = 512;
const SHARED: usize = 2048;

/// The most bytes that a plan takes up beside the text of its timetable.
const PLANNED: usize = 512;

/// Bytes that are read of a place at once: enough for the records of some 40 members.
const GLANCE: usize = 4096;

/// Space for what is read and written. It is kept, since it is used so often: where hundreds of
/// members visit, asking the system for it anew each time would take longer than all the rest.
#[derive(Debug)]
pub(super) struct Space {
    /// The beginnings of the two places.
    glances: [[u8; GLANCE]; 2],
    /// A whole record.
    bytes: Vec<u8>,
    /// Accounts of a record that is no longer needed.
    accounts: Vec<MemberAccount>,
}

impl Default for Space {
    fn default() -> Self {
        Space { glances: [[0; GLANCE]; 2], bytes: Vec::new(), accounts: Vec::new() }
    }
}

impl Space {
    /// Keeps the space of a record that is no longer needed.
    pub(super) fn reuse(&mut self, mut record: Record) {
        self.accounts = std::mem::take(record.budget.members_mut());
    }
}

/// A record that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Counts the records of a file.
    sequence: u64,
    /// When it was written. The times in the budget count from the same origin.
    written: Moment,
    /// A random number that the file has had since it was made: an older copy of it has the same.
    file: u64,
    /// When the limit was changed, on the wall clock; 0 if there has never been one.
    limited: Duration,
    /// What it is all about.
    pub(super) budget: Budget,
    /// What the limit is by the clock, if it changes by itself.
    pub(super) plan: Option<Plan>,
    /// What else there is where other machines share the limit.
    pub(super) shared: Option<Shared>,
}

impl Record {
    /// The next record at `now` where this one was `found` in the file, and that one was the latest
    /// `seen` of it. Tokens are counted at most once, and the latest known limit holds.
    pub(super) fn next(found: Option<Record>, seen: Option<&Record>, now: &Moment) -> Record {
        let empty = || Record {
            sequence: 0,
            written: *now,
            file: random(),
            limited: Duration::ZERO,
            budget: Budget::default(),
            plan: None,
            shared: None,
        };
        let mut next = match (found, seen) {
            // An older copy was put back, or the file was emptied or removed.
            (Some(found), Some(seen)) if found.file == seen.file && found.sequence < seen.sequence => {
                seen.without_tokens(now)
            }
            (None, Some(seen)) => Record { file: random(), ..seen.without_tokens(now) },
            // Another process has made the file anew, and may not know the limit.
            (Some(mut found), Some(seen)) if found.file != seen.file && found.limited < seen.limited => {
                found.translate(now);
                found.limited = seen.limited;
                found.shared = found.shared.or_else(|| seen.shared.clone());
                found.plan.clone_from(&seen.plan);
                found.budget.restore_limit(seen.budget.limit(), now.monotonic);
                found
            }
            (Some(mut found), _) => {
                found.translate(now);
                found
            }
            (None, None) => empty(),
        };
        next.sequence += 1;
        next.written = *now;
        next.apply_lease();
        next.apply_plan();
        next
    }

    fn without_tokens(&self, now: &Moment) -> Record {
        let mut record = self.clone();
        record.budget.forget_time(now.monotonic);
        record
    }

    /// Reads the times in the budget as times of `now`.
    pub(super) fn translate(&mut self, now: &Moment) {
        match now.reads(&self.written) {
            Earlier::Comparable => {}
            Earlier::Foreign(here) => {
                self.budget.shift(self.written.monotonic, here);
                let ago = now.monotonic.saturating_sub(here);
                self.shared.iter_mut().for_each(|shared| shared.shift(clock::boot_time().saturating_sub(ago)));
            }
            Earlier::LongAgo => {
                self.budget.forget_time(now.monotonic);
                self.shared.iter_mut().for_each(|shared| shared.begin_anew(random()));
            }
        }
    }

    /// What the record comes to at `now`, for one who only looks.
    pub(super) fn at(mut self, now: &Moment) -> Record {
        self.translate(now);
        let written = std::mem::replace(&mut self.written, *now);
        self.apply_plan();
        if self.shared.is_some() {
            self.written = written;
        }
        self
    }

    /// Puts the limit in force that the store of many machines lends to this one now.
    fn apply_lease(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.written = clock::boot_time();
            shared.apply(&mut self.budget, shared.written, self.written.monotonic);
        }
    }

    /// Puts the limit in force that the plan has now.
    fn apply_plan(&mut self) {
        let (now, counted) = (self.now(), self.budget.counted());
        if let Some(plan) = self.plan.as_mut().filter(|plan| plan.is_due(now, counted)) {
            let Standing { limit, watch } = plan.look(now, counted);
            self.budget.watch(watch);
            if self.shared.is_some() {
                // The limit of all machines is what the store has lent, and the keeper sees to it.
                return;
            }
            self.budget.restore_limit(limit, self.written.monotonic);
            if plan.constant().is_some() {
                self.plan = None;
            }
        }
    }

    /// The wall clock when it was written.
    pub(super) fn now(&self) -> Timestamp {
        timestamp(self.written.wall)
    }

    /// The monotonic clock when it was written.
    pub(super) fn written(&self) -> Duration {
        self.written.monotonic
    }

    /// What comes by the clock.
    pub(super) fn outlook(&self) -> Option<Outlook> {
        Some(self.plan.as_ref()?.outlook(self.now(), self.budget.counted()))
    }

    /// If the quota is used up: since when, and until when, that is known.
    pub(super) fn used_up(&self) -> Option<(i64, i64)> {
        let plan = self.plan.as_ref().filter(|plan| plan.is_used_up(self.budget.counted()))?;
        Some(plan.looked())
    }

    /// What the user has to know of the quota of the group, in a line: that it is used up.
    pub(super) fn quota_notice(&self, name: &Name) -> Option<String> {
        self.plan.as_ref().filter(|plan| plan.is_used_up(self.budget.counted()))?;
        let quota = self.outlook()?.quota?;
        let then = match quota.then {
            Then::Pause => "paused".to_owned(),
            Then::Rate(rate) => format!("going on at {}", show_rate(rate as f64)),
        };
        Some(format!(
            "group {name}: the quota of {} is used up; {then} until {}",
            quota.allowance,
            show_moment(&quota.anew)
        ))
    }

    /// Has the limit follow this plan from now on, or none, which leaves the limit as it is.
    pub(super) fn follow(&mut self, plan: Option<Plan>) {
        if plan.is_none() {
            self.budget.watch(None);
        }
        self.limited = self.written.wall;
        self.plan = plan;
        self.apply_plan();
    }

    /// Has `change` change the budget.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut Budget) -> R) -> R {
        let limit = self.budget.limit();
        let result = change(&mut self.budget);
        if self.budget.limit() != limit {
            self.limited = self.written.wall;
        }
        result
    }

    /// The record in bytes, and where in the file it belongs: in the one of the two places that
    /// does not hold the record before it.
    ///
    /// # Errors
    /// When it has too many members.
    pub(super) fn encode<'a>(&self, space: &'a mut Space) -> Result<(&'a [u8], u64), String> {
        let mut bytes = std::mem::take(&mut space.bytes);
        bytes.clear();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.written.origin.boot.to_le_bytes());
        let Moment { origin, monotonic, wall } = self.written;
        for word in [origin.namespace, nanos(monotonic), nanos(wall), self.file, nanos(self.limited)] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(self.budget.members().len() as u32).to_le_bytes());
        for account in self.budget.members() {
            bytes.extend_from_slice(&account.to_bytes());
        }
        bytes = postcard::to_extend(&self.budget, bytes).map_err(|error| error.to_string())?;
        bytes = postcard::to_extend(&self.plan, bytes).map_err(|error| error.to_string())?;
        if let Some(shared) = &self.shared {
            bytes = postcard::to_extend(shared, bytes).map_err(|error| error.to_string())?;
        }
        if bytes.len() > PLACE {
            return Err("has no room for more members".to_owned());
        }
        let length = (bytes.len() - HEAD) as u32;
        bytes[HEAD - 4..HEAD].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[CHECKED..]);
        bytes[MAGIC.len()..CHECKED].copy_from_slice(&checksum.to_le_bytes());
        space.bytes = bytes;
        Ok((&space.bytes, if self.sequence.is_multiple_of(2) { 0 } else { PLACE as u64 }))
    }

    /// The bytes of the file that records need with these members and half as many again.
    pub(super) fn places(&self) -> [Range<u64>; 2] {
        let members = self.budget.members().len();
        let planned = if self.plan.is_some() { LONGEST_TIMETABLE + PLANNED } else { 0 };
        let beside = BESIDE + planned + if self.shared.is_some() { SHARED } else { 0 };
        let length = (HEAD + beside + MemberAccount::BYTES * (1 + members + members / 2)).min(PLACE) as u64;
        [0, PLACE as u64].map(|at| at..at + length)
    }

    /// The number of the latest record that a file has or is about to get.
    pub(super) fn latest_sequence(file: &File, space: &mut Space) -> u64 {
        let [first, second] = &mut space.glances;
        let places = [(0, first), (PLACE, second)].map(|(at, glance)| Place::look(file, at, glance));
        places.iter().flatten().map(Place::sequence).max().unwrap_or(0)
    }

    /// The latest record in a file, unless that is torn: then the one before it.
    pub(super) fn latest(file: &File, space: &mut Space) -> Option<Record> {
        let Space { glances: [first, second], bytes, accounts } = space;
        let mut places = [(0, first), (PLACE, second)].map(|(at, glance)| Place::look(file, at, glance));
        places.sort_by_key(|place| Reverse(place.as_ref().map_or(0, |place| place.sequence())));
        places.into_iter().flatten().find_map(|place| place.record(file, bytes, accounts))
    }
}

/// A record that is yet to be checked.
struct Place<'a> {
    at: usize,
    /// Its beginning: mostly all of it. At least the head.
    bytes: &'a [u8],
}

impl<'a> Place<'a> {
    /// Looks at what is in this place of a file.
    fn look(file: &File, at: usize, glance: &'a mut [u8; GLANCE]) -> Option<Place<'a>> {
        let read = file.read_at(glance, at as u64).ok().filter(|read| *read >= HEAD)?;
        let bytes = &glance[..read];
        let known = bytes.starts_with(&MAGIC[..ANY_VERSION]) && [3, MAGIC[ANY_VERSION]].contains(&bytes[ANY_VERSION]);
        known.then_some(Place { at, bytes })
    }

    fn sequence(&self) -> u64 {
        word(self.bytes, CHECKED)
    }

    /// The record; nothing if it is torn or damaged.
    fn record(&self, file: &File, space: &mut Vec<u8>, accounts: &mut Vec<MemberAccount>) -> Option<Record> {
        let length = u32::from_le_bytes(*self.bytes[HEAD - 4..].first_chunk()?) as usize;
        let end = HEAD.checked_add(length).filter(|end| *end <= PLACE)?;
        if let Some(bytes) = self.bytes.get(..end) {
            return decode(bytes, accounts);
        }
        if space.len() < end {
            space.resize(end, 0);
        }
        file.read_exact_at(&mut space[..end], self.at as u64).ok()?;
        decode(&space[..end], accounts)
    }
}

/// The record in these bytes, which begin with a head; nothing if they are torn or damaged. Takes
/// the space for its accounts.
fn decode(bytes: &[u8], space: &mut Vec<MemberAccount>) -> Option<Record> {
    let checksum = u32::from_le_bytes(*bytes[MAGIC.len()..].first_chunk()?);
    if crc32fast::hash(&bytes[CHECKED..]) != checksum {
        return None;
    }
    let (mut budget, rest) = match bytes[ANY_VERSION] {
        3 => version3::budget(&bytes[HEAD..])?,
        _ => {
            let (count, rest) = bytes[HEAD..].split_first_chunk()?;
            let length = (u32::from_le_bytes(*count) as usize).checked_mul(MemberAccount::BYTES)?;
            let (accounts, rest) = rest.split_at_checked(length)?;
            let (mut budget, rest): (Budget, &[u8]) = postcard::take_from_bytes(rest).ok()?;
            space.clear();
            space.extend(accounts.as_chunks().0.iter().map(MemberAccount::from_bytes));
            *budget.members_mut() = std::mem::take(space);
            (budget, rest)
        }
    };
    let (plan, rest): (Option<Plan>, &[u8]) = match bytes[ANY_VERSION] {
        3 => (None, rest),
        _ => postcard::take_from_bytes(rest).ok()?,
    };
    let shared = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest).ok()?) };
    // Whoever can write the file can also write a checksum.
    budget.bound();
    let boot = u128::from_le_bytes(*bytes[CHECKED + 8..].first_chunk()?);
    let [namespace, monotonic, wall, file, limited] =
        [0, 1, 2, 3, 4].map(|index| word(bytes, CHECKED + 8 + 16 + 8 * index));
    let [monotonic, wall, limited] = [monotonic, wall, limited].map(Duration::from_nanos);
    let written = Moment { origin: Origin { boot, namespace }, monotonic, wall };
    Some(Record { sequence: word(bytes, CHECKED).min(u64::MAX / 2), written, file, limited, budget, plan, shared })
}

/// The number that begins there.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

/// A time since 1970; the last one there is, beyond that.
pub(super) fn timestamp(wall: Duration) -> Timestamp {
    let millis = i64::try_from(wall.as_millis()).ok();
    millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::plan::{Changed, End, NewLimit, Settings};
    use crate::budget::{Ask, GroupLimit, Id, Tempo, Terms};
    use crate::shaping::Unit;

    fn moment(millis: u64) -> Moment {
        let monotonic = Duration::from_millis(millis);
        Moment { origin: Origin { boot: 1, namespace: 1 }, monotonic, wall: monotonic }
    }

    fn limit(rate: u64) -> Option<GroupLimit> {
        Some(GroupLimit { rate, unit: Unit::Bytes, burst: None, lasting: true })
    }

    /// What a member gets that wants no end of bytes.
    fn grant(record: &mut Record, pid: u32, millis: u64) -> u64 {
        let ask = Ask {
            id: Id { pid, nonce: 0 },
            terms: Terms::default(),
            give_back: 0,
            used: 0,
            want: u64::MAX,
            now: Duration::from_millis(millis),
            late: Duration::ZERO,
        };
        record.change(|budget| budget.answer(&ask, Tempo::LOCAL.use_within).bytes)
    }

    /// The same of a group with all that a plan has.
    fn planned() -> Record {
        let mut record = record();
        let lasting = Some(GroupLimit { burst: Some(crate::shaping::Burst::Bytes(9000)), ..limit(1_000_000).unwrap() });
        let wishes = [
            Settings { limit: Some(NewLimit::Timetable("08:00,2M 18:00,off".into())), ..Settings::default() },
            Settings {
                limit: Some(NewLimit::Rate(Some(7))),
                end: Some(End::After(Duration::from_secs(5))),
                quota: Some("1M/week".parse().ok()),
                then: Some(Then::Rate(99)),
                ..Settings::default()
            },
        ];
        for settings in &wishes {
            let changed = Plan::change(record.plan.as_ref(), lasting, settings, record.now(), 9, Some("Asia/Beirut"));
            let Ok(Changed::Plan(plan)) = changed else { panic!("{changed:?}") };
            record.follow(Some(*plan));
        }
        record
    }

    /// A record of a group with a limit, in which a member has waited for tokens.
    fn record() -> Record {
        let mut record = Record::next(None, None, &moment(1000));
        record.change(|budget| budget.set_limit(limit(1_000_000), Duration::from_millis(1000))).unwrap();
        grant(&mut record, 1, 1000);
        record
    }

    #[test]
    fn an_older_copy_that_is_put_back_brings_no_tokens() {
        let old = record();
        let mut new = Record::next(Some(old.clone()), None, &moment(1008));
        assert!(grant(&mut new, 1, 1008) > 0);
        let mut next = Record::next(Some(old), Some(&new), &moment(1008));
        assert_eq!(next.sequence, new.sequence + 1);
        assert_eq!(grant(&mut next, 1, 1008), 0);
    }

    #[test]
    fn of_two_limits_the_later_one_holds() {
        let known = record();
        let newcomer = |at, rate| {
            let mut record = Record::next(None, None, &moment(at));
            record.change(|budget| budget.set_limit(rate, Duration::from_millis(at))).unwrap();
            record
        };
        let merged = |found| Record::next(Some(found), Some(&known), &moment(3000)).budget.limit();
        assert_eq!(merged(newcomer(2000, None)), limit(1_000_000), "the newcomer knows none");
        assert_eq!(merged(newcomer(2000, limit(7))), limit(7));
        assert_eq!(merged(newcomer(500, limit(7))), limit(1_000_000));
    }

    #[test]
    fn a_visit_from_a_clock_that_is_ahead_holds_nobody_up() {
        let mut there = moment(1008);
        there.origin.namespace = 2;
        there.monotonic += Duration::from_secs(5000);
        let mut visited = Record::next(Some(record()), None, &there);
        assert!(grant(&mut visited, 2, 5_001_008) > 0 || grant(&mut visited, 1, 5_001_008) > 0);
        let mut back = Record::next(Some(visited), None, &moment(1030));
        assert!(grant(&mut back, 1, 1030) > 0);
    }

    /// What one visit reads and writes: two beginnings, and a record of so many bytes.
    #[test]
    fn a_visit_carries_88_bytes_of_each_member_and_little_else() {
        let mut space = Space::default();
        for members in [1, 10, 300, 900, 2900] {
            let mut record = Record::next(None, None, &moment(1000));
            record.change(|budget| budget.set_limit(limit(u64::MAX), Duration::from_millis(1000))).unwrap();
            for pid in 1..=members {
                // Numbers as large as they get.
                grant(&mut record, u32::MAX - pid, 1 << 40);
                grant(&mut record, u32::MAX - pid, (1 << 40) + 20);
            }
            let places = record.places();
            let (bytes, at) = record.encode(&mut space).unwrap();
            assert!(bytes.len() <= HEAD + BESIDE + 88 * members as usize, "{members} members: {} bytes", bytes.len());
            let (own, end) = (places.iter().find(|place| place.start == at).unwrap(), at + bytes.len() as u64);
            assert!(end <= own.end, "{members} members: space was reserved up to {}, and {end} is needed", own.end);
            let decoded = decode(bytes, &mut Vec::new()).unwrap();
            assert!(decoded == record, "{members} members");
        }
    }

    proptest! {
        /// A file may be torn, damaged, or made by somebody else: whatever it holds, it is refused or
        /// makes for a budget that can be used.
        #[test]
        fn any_bytes_are_refused_or_can_be_used(
            changes in prop::collection::vec((0..400usize, any::<u8>()), 0..12),
            length in prop_oneof![Just(400usize), 0..400usize],
            seals: bool,
            has_plan: bool,
        ) {
            let found = if has_plan { planned() } else { record() };
            let mut bytes = found.encode(&mut Space::default()).unwrap().0.to_vec();
            for (at, byte) in changes {
                if let Some(old) = bytes.get_mut(CHECKED + at) {
                    *old = byte;
                }
            }
            bytes.truncate(HEAD + length);
            if seals {
                let checksum = crc32fast::hash(&bytes[CHECKED..]);
                bytes[MAGIC.len()..CHECKED].copy_from_slice(&checksum.to_le_bytes());
            }
            if let Some(found) = decode(&bytes, &mut Vec::new()) {
                let mut next = Record::next(Some(found), None, &moment(2000));
                let _ = (next.outlook(), next.quota_notice(&"any".parse().unwrap()));
                for millis in [2000, 2001, 2010, 2500] {
                    for pid in [1, 2] {
                        grant(&mut next, pid, millis);
                    }
                }
                prop_assert!(next.encode(&mut Space::default()).is_ok());
            }
        }
    }
}
