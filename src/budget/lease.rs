//! What a machine holds of a limit that it shares with others, and when it asks for more. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Terms;
use super::site::{FLOOR_LEASE, Granted, Introduction, LEASE, Request, SiteLimit};

/// How long a machine uses a lease, as a part of what the store lends it for: clocks drift.
const DRIFT: f64 = 0.98;

/// How often a machine whose members want something renews its lease. The cost of a machine, 1 KiB
/// per second, allows no shorter one; moving unused rate within half a second allows no longer one.
const RENEW: Duration = Duration::from_millis(300);

/// The same of an idle machine.
const RENEW_IDLE: Duration = Duration::from_secs(1);

/// How soon a machine asks again that is entitled to more than the others have given back yet, and
/// how many times in a row.
const RETRY: Duration = Duration::from_millis(50);
const RETRIES: u32 = 7;

/// A share that changes by less than this part is left to the next renewal.
const NOTABLE: f64 = 0.005;

/// Over how long the use of a share is measured.
const MEASURED: Duration = Duration::from_millis(300);

/// Members that have not moved or wanted anything for this long are idle.
const IDLE_AFTER: Duration = Duration::from_millis(90);

/// Members that wait, and have used this part of the share, are held back by it.
const USED_UP: f64 = 0.8;

/// What a machine wants that is not held back by its share, as a multiple of what it moves: where
/// nobody waits, and where someone does now and then, since bytes come in bursts.
const HEADROOM: f64 = 1.04;
const HEADROOM_FOR_BURSTS: f64 = 1.25;

/// A wish for all there is.
const EVERYTHING: u64 = 1 << 50;

/// What the members of a machine need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes per second that they would use; 0 if they are idle.
    pub want: u64,
    /// Sum of the weights of those that are not idle.
    pub weight: u32,
    /// Sum of the guarantees of those that are not idle, in bytes per second.
    pub guaranteed: u64,
    /// Bytes per second that they moved of late.
    pub moved: u64,
}

/// What a machine holds. It is kept in the group's file, so that a new keeper goes on where the
/// one before ended. All times are of a clock that goes on while the machine is suspended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which machine this is.
    pub machine: u64,
    /// Counts its keepers.
    pub keeper: u32,
    /// Counts the requests of this keeper.
    number: u32,
    share: u64,
    share_until: Duration,
    floor: u64,
    floor_until: Duration,
    /// The share that it gets when others have given back theirs.
    entitled: u64,
    life: u64,
    answer: u64,
    /// The limit of all machines together, as heard last.
    pub limit: SiteLimit,
}

impl Lease {
    /// A machine that holds nothing.
    pub fn new(machine: u64) -> Self {
        Lease { machine, ..Lease::default() }
    }

    /// Another keeper takes over. Answers to the one before count no more.
    pub fn take_over(&mut self) {
        self.keeper += 1;
        self.number = 0;
    }

    /// Bytes per second that the machine may use at `now`; nothing if all that was lent to it has
    /// ended.
    pub fn allowed(&self, now: Duration) -> Option<u64> {
        if now < self.share_until {
            Some(self.share)
        } else if now < self.floor_until {
            Some(self.floor)
        } else {
            None
        }
    }

    /// It lives on its floor at `now`, or on nothing: the store has not answered for too long.
    pub fn is_cut_off(&self, now: Duration) -> bool {
        now >= self.share_until
    }

    /// Which life of the store has answered last; 0 if none has.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    /// The store has answered, and nobody has set a limit.
    pub fn knows_no_limit(&self) -> bool {
        self.life > 0 && self.limit.rate == 0
    }

    /// The times at which [`allowed`](Self::allowed) changes by itself: end of the share, end of
    /// the floor.
    pub fn ends(&self) -> [Duration; 2] {
        [self.share_until, self.floor_until.max(self.share_until)]
    }

    /// The next request, sent at `now` over a connection to this run of the server.
    pub fn ask(&mut self, needs: Needs, run: u64, introduction: Option<Introduction>, now: Duration) -> Request {
        self.number += 1;
        Request {
            machine: self.machine,
            order: (self.keeper, self.number),
            held: self.allowed(now).unwrap_or(0),
            floor: if now < self.floor_until { self.floor } else { 0 },
            want: needs.want,
            weight: needs.weight,
            guaranteed: needs.guaranteed,
            moved: needs.moved,
            generation: self.limit.generation,
            life: self.life,
            answer: self.answer,
            run,
            introduction,
            leaves: false,
        }
    }

    /// Takes what was granted to a request that was sent at `sent`. False if that request is not
    /// the latest one: then nothing changes.
    pub fn hear(&mut self, request: &Request, sent: Duration, granted: &Granted) -> bool {
        if request.order != (self.keeper, self.number) {
            return false;
        }
        self.number += 1;
        self.share = granted.share;
        self.share_until = sent + Duration::from_micros((LEASE * DRIFT) as u64);
        self.floor = granted.floor;
        self.floor_until = sent + Duration::from_micros((FLOOR_LEASE * DRIFT) as u64);
        self.entitled = granted.entitled;
        (self.life, self.answer) = (granted.life, granted.answer);
        self.limit = granted.limit;
        true
    }

    /// The machine uses nothing any more.
    pub fn give_up(&mut self) {
        (self.share_until, self.floor_until) = (Duration::ZERO, Duration::ZERO);
    }

    /// Moves all times so that what was at `from` is at `to`.
    pub(super) fn shift(&mut self, from: Duration, to: Duration) {
        for time in [&mut self.share_until, &mut self.floor_until] {
            *time = time.saturating_add(to).saturating_sub(from);
        }
    }

    /// The next request, sent at `now`, gives everything back. It is used no more from then on.
    pub fn leave(&mut self, run: u64, now: Duration) -> Request {
        self.give_up();
        Request { leaves: true, ..self.ask(Needs::default(), run, None, now) }
    }
}

/// When a machine asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    /// The latest request.
    asked: Option<(Duration, Needs, u64)>,
    /// The share shrank: the store has to know that this machine knows.
    shrank: bool,
    /// How often it has asked in a row for what others have to give back.
    retries: u32,
    behind: bool,
}

impl Rounds {
    /// Notes what was asked at `now`.
    pub fn asks(&mut self, request: &Request, needs: Needs, now: Duration) {
        self.asked = Some((now, needs, request.held));
        self.shrank = false;
        self.behind = false;
    }

    /// Notes what the lease says after an answer.
    pub fn hears(&mut self, granted: &Granted) {
        let Some((_, needs, held)) = self.asked else { return };
        let part = |bytes: u64, of: u64| bytes as f64 / of.max(1) as f64;
        self.shrank = part(held.saturating_sub(granted.share), held) >= NOTABLE;
        let missing = granted.entitled.min(needs.want).saturating_sub(granted.share);
        self.behind = part(missing, granted.entitled) >= NOTABLE;
        self.retries = if self.behind && granted.share <= held { self.retries + 1 } else { 0 };
    }

    /// The store has to be asked again at once.
    pub fn again(&mut self) {
        self.shrank = true;
    }

    /// When to ask next, for members with these needs.
    pub fn due(&self, needs: Needs) -> Duration {
        let Some((asked, before, _)) = self.asked else { return Duration::ZERO };
        let woke = needs.want > 0 && before.want == 0;
        let fell_asleep = needs.want == 0 && before.want > 0;
        let held_back = needs.want == EVERYTHING && before.want < EVERYTHING;
        if self.shrank || woke || fell_asleep || held_back {
            asked
        } else if self.behind && self.retries <= RETRIES {
            asked + RETRY
        } else if needs.want > 0 {
            asked + RENEW
        } else {
            asked + RENEW_IDLE
        }
    }
}

/// What is seen of a member.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which member.
    pub member: u64,
    /// On which terms it shares.
    pub terms: Terms,
    /// Bytes that it has used in all.
    pub used: u64,
    /// It waits for tokens.
    pub waits: bool,
}

/// Measures what the members of a machine need, from what they moved and who waited.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    /// Bytes moved since the first look, by those that have left too.
    moved: u64,
    /// When, bytes moved in all, bytes allowed in all, and whether anyone waited.
    seen: VecDeque<(Duration, u64, f64, bool)>,
    /// Members: on which terms, when they were not idle last, and bytes moved until then.
    active: BTreeMap<u64, (Terms, Duration, u64)>,
    idle: bool,
}

impl Gauge {
    /// Takes a look at `now`. `allowed` is what the machine may use at present, in bytes per second.
    /// Returns what its members need.
    pub fn look(&mut self, now: Duration, allowed: u64, members: impl IntoIterator<Item = Seen>) -> Needs {
        let (mut moved, mut anyone) = (self.moved, false);
        let before = std::mem::take(&mut self.active);
        for Seen { member, terms, used, waits } in members {
            let known = before.get(&member);
            let more = known.map_or(0, |(.., earlier)| used.saturating_sub(*earlier));
            moved += more;
            anyone |= waits;
            let at = if more > 0 || waits { now } else { known.map_or(Duration::ZERO, |(_, at, _)| *at) };
            self.active.insert(member, (terms, at, used));
        }
        self.moved = moved;
        let total = self
            .seen
            .back()
            .map_or(0.0, |&(at, _, total, _)| total + allowed as f64 * now.saturating_sub(at).as_secs_f64());
        if self.idle {
            // What was not used then says nothing of what is used up now.
            self.seen.drain(..self.seen.len().saturating_sub(1));
        }
        self.seen.push_back((now, moved, total, anyone));
        while self.seen.get(1).is_some_and(|(at, ..)| now.saturating_sub(*at) >= MEASURED) {
            self.seen.pop_front();
        }
        let over = |span: Duration| {
            let from = self.seen.iter().rev().find(|(at, ..)| now.saturating_sub(*at) >= span);
            let &(at, used, allowed, _) = from.or(self.seen.front()).unwrap_or(&(now, moved, total, false));
            (now.saturating_sub(at).as_secs_f64(), (moved - used) as f64, total - allowed)
        };
        let waits = |span: Duration| self.seen.iter().any(|(at, .., anyone)| *anyone && now.saturating_sub(*at) < span);
        let (seconds, used, could) = over(MEASURED);
        let (_, used_of_late, _) = over(IDLE_AFTER);
        let rate = if seconds > 0.0 { used / seconds } else { 0.0 };
        let want = if !waits(IDLE_AFTER) && used_of_late == 0.0 {
            0
        } else if waits(IDLE_AFTER) && used >= USED_UP * could {
            EVERYTHING
        } else {
            (rate * if waits(MEASURED) { HEADROOM_FOR_BURSTS } else { HEADROOM }) as u64 + 1
        };
        self.idle = want == 0;
        let active = || self.active.values().filter(|(_, at, _)| !at.is_zero() && now.saturating_sub(*at) <= MEASURED);
        let sum = |count: fn(&Terms) -> u64| active().map(|(terms, ..)| count(terms)).sum::<u64>();
        Needs {
            want,
            weight: sum(|terms| terms.weight.into()).try_into().unwrap_or(u32::MAX),
            guaranteed: sum(|terms| terms.guaranteed).min(EVERYTHING),
            moved: rate as u64,
        }
    }
}
