//! A budget that many members share: processes that ask, sleep, come late, use some of what they
//! get, leave and are killed. All time is simulated. `-- --nocapture` shows the figures.

mod support;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use std::time::Duration;

use pcproxy::budget::{Answer, Ask, Budget, Denied, GroupLimit, Id, Ledger, Member, Membership, Reply, Tempo, Terms};
use pcproxy::buffer::{Buffer, Records};
use pcproxy::flow::{Consumer, Downstream, Fill, Flow, Producer, Upstream, Watermarks};
use pcproxy::shaping::{Burst, Limit, Shaper, TOKENS_PER_RECORD, TokenBucket, Unit};
use proptest::prelude::*;

/// Billionths of a byte in a byte, nanoseconds in a second.
const BILLION: i128 = 1_000_000_000;

/// Ten million bytes a second.
const RATE: u64 = 10_000_000;

/// How deep a group's bucket is where the user does not say otherwise.
const BURST: Burst = Burst::Time(Duration::from_millis(12));

/// How long tokens may be used once they are granted.
const USE_WITHIN: Duration = Tempo::LOCAL.use_within;

/// How soon a changed limit is in force for everyone.
const IN_FORCE: Duration = Duration::from_millis(50);

/// What a process writes at once, and what its consumer's pipe holds, at most.
const PIECE: u64 = 1 << 20;
const PIPE: u64 = 1 << 16;

/// How long a process takes for that.
const STEP: Duration = Duration::from_micros(10);

/// A member that counts records.
const OF_RECORDS: Terms = Terms { weight: 100, guaranteed: 0, unit: Unit::Records };

const PLAIN: Terms = Terms { weight: 100, guaranteed: 0, unit: Unit::Bytes };

type Shared = Rc<RefCell<Budget>>;

/// A budget in memory that notes when it is asked.
struct Watched {
    budget: Shared,
    asks: Rc<RefCell<Vec<Duration>>>,
    /// How long a visit takes, and until when the latest one does: nobody else gets in meanwhile.
    visit: Duration,
    busy_until: Rc<Cell<Duration>>,
}

impl Ledger for Watched {
    type Error = Infallible;

    fn ask(&mut self, ask: &Ask) -> Reply<Infallible> {
        self.asks.borrow_mut().push(ask.now);
        if ask.now < self.busy_until.get() {
            let members = self.budget.borrow().members().len();
            return Reply::Pending { retry_at: ask.now + Tempo::LOCAL.retry_among(members) };
        }
        self.busy_until.set(ask.now + self.visit);
        self.budget.ask(ask)
    }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn id(who: usize) -> Id {
    Id { pid: who as u32, nonce: 0 }
}

fn limit(rate: u64) -> GroupLimit {
    GroupLimit { rate, unit: Unit::Bytes, burst: None, lasting: true }
}

/// A limit of so many records per second.
fn records(rate: u64) -> GroupLimit {
    GroupLimit { unit: Unit::Records, ..limit(rate * TOKENS_PER_RECORD) }
}

/// What a member is answered that gives back and wants so many bytes.
fn ask(budget: &mut Budget, who: usize, terms: Terms, give_back: u64, want: u64, now: Duration) -> Answer {
    budget.answer(&Ask { id: id(who), terms, give_back, used: 0, want, now, late: Duration::ZERO }, USE_WITHIN)
}

fn guaranteed(guaranteed: u64) -> Terms {
    Terms { guaranteed, ..PLAIN }
}

/// What a process has to do.
#[derive(Clone, Copy, Debug)]
enum Demand {
    Nothing,
    /// No end of bytes to pass on.
    Endless,
    /// So many bytes come every so often.
    Source(u64, Duration),
    /// No end of bytes, but the consumer takes so many every so often.
    Sink(u64, Duration),
}

/// Bytes in a buffer of which nobody looks at the contents. Each of them is a record, where these
/// are counted.
#[derive(Default)]
struct Held(usize);

impl Buffer for Held {
    fn len(&self) -> usize {
        self.0
    }
    fn append(&mut self, data: &[u8]) {
        self.0 += data.len();
    }
    fn records(&self) -> Records {
        Records { ends: self.0 as u64, ..Records::default() }
    }
    fn end_of(&self, ends: u64) -> usize {
        ends as usize
    }
}

/// What a process reads: a pipe with so many bytes in it.
struct Input {
    bytes: u64,
    ready: bool,
    wanted: bool,
}

/// What a process writes to: a pipe with room for so many bytes.
struct Output {
    room: u64,
    ready: bool,
    taken: u64,
}

impl Producer for Input {
    fn pause_producing(&mut self) {
        self.wanted = false;
    }
    fn resume_producing(&mut self) {
        self.wanted = true;
    }
    fn stop_producing(&mut self) {}
}

impl Upstream<Output, Held> for Input {
    type Error = Infallible;
    fn is_wanted(&self) -> bool {
        self.wanted
    }
    fn is_ready(&self) -> bool {
        self.ready
    }
    fn fill(&mut self, buffer: &mut Held, room: usize) -> Result<Fill, Infallible> {
        let moved = self.bytes.min(room as u64);
        self.ready = moved > 0;
        self.bytes -= moved;
        buffer.0 += moved as usize;
        Ok(Fill::Moved(moved as usize))
    }
    fn pass(&mut self, output: &mut Output, limit: usize) -> usize {
        let moved = self.bytes.min(output.room).min(limit as u64);
        self.bytes -= moved;
        output.take(moved);
        moved as usize
    }
}

impl Output {
    fn take(&mut self, bytes: u64) {
        self.room -= bytes;
        self.taken += bytes;
    }
}

impl Consumer<Held> for Output {
    type Error = Infallible;
    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}
    fn write(&mut self, buffer: &mut Held, limit: usize) -> Result<usize, Infallible> {
        let taken = self.room.min(limit as u64);
        self.ready = taken == limit as u64;
        self.take(taken);
        buffer.0 -= taken as usize;
        Ok(taken as usize)
    }
    fn finish(&mut self) {}
}

impl Downstream<Held> for Output {
    fn is_ready(&self, _held: usize) -> bool {
        self.ready
    }
    fn is_finished(&self) -> bool {
        false
    }
    fn delivered(&self) -> u64 {
        self.taken
    }
}

/// A process: the flow of the program, between two pipes.
struct Process {
    groups: Vec<usize>,
    flow: Flow<Input, Output, Held, TokenBucket<Membership<Watched>>>,
    demand: Demand,
    /// When more bytes or more room come.
    more: Duration,
    /// When it wakes up.
    wakes: Duration,
}

impl Process {
    fn new(groups: &[usize], unit: Unit, shaper: TokenBucket<Membership<Watched>>) -> Self {
        let input = Input { bytes: 0, ready: false, wanted: true };
        let output = Output { room: 0, ready: false, taken: 0 };
        let watermarks = Watermarks::new(PIPE as usize, PIPE as usize / 2);
        let flow = Flow::new(input, true, output, Held::default(), watermarks, shaper).counting(unit);
        let (more, wakes) = (Duration::MAX, Duration::MAX);
        Process { groups: groups.to_vec(), flow, demand: Demand::Nothing, more, wakes }
    }

    /// Lets bytes and room come up to `now`, as many as a pipe has room for.
    fn supply(&mut self, now: Duration) {
        let mut came = 0;
        if let Demand::Source(bytes, every) | Demand::Sink(bytes, every) = self.demand {
            while self.more <= now {
                came += bytes;
                self.more += every;
            }
        }
        let proxy = self.flow.proxy_mut();
        if let Some(input) = proxy.producer_mut() {
            input.bytes = match self.demand {
                Demand::Nothing => 0,
                Demand::Endless | Demand::Sink(..) => PIECE,
                Demand::Source(..) => (input.bytes + came).min(PIECE),
            };
            input.ready |= input.bytes > 0;
        }
        if let Some(output) = proxy.consumer_mut() {
            output.room = match self.demand {
                Demand::Nothing | Demand::Endless | Demand::Source(..) => PIECE,
                Demand::Sink(..) => (output.room + came).min(PIPE),
            };
            output.ready |= output.room > 0;
        }
    }

    /// Takes the next step at `now`. Returns how many bytes went out, and when to go on.
    fn work(&mut self, now: Duration) -> (u64, Duration) {
        self.supply(now);
        let before = self.flow.delivered();
        let Ok(stepped) = self.flow.step(now);
        let moved = self.flow.delivered() - before;
        if stepped {
            return (moved, now + STEP);
        }
        let needs = self.flow.needs(now);
        let more = if needs.input || needs.output { self.more } else { Duration::MAX };
        (moved, more.min(needs.due.unwrap_or(Duration::MAX)))
    }
}

/// What was used when.
struct Use {
    at: Duration,
    who: usize,
    bytes: u64,
}

/// Processes, the groups they are in, and what happened.
struct World {
    now: Duration,
    groups: Vec<Shared>,
    /// The limits of each group, and since when.
    limits: Vec<Vec<(Duration, Option<GroupLimit>)>>,
    processes: Vec<Process>,
    queue: BinaryHeap<Reverse<(Duration, usize)>>,
    log: Vec<Use>,
    /// When any of the groups was asked.
    asks: Rc<RefCell<Vec<Duration>>>,
    /// How much delay of the machine members make up for.
    catch_up: Duration,
    /// How long a process may have to wait for a processor; zero on a quiet machine.
    busy: Duration,
    /// How long a visit to a group takes, and until when the latest one to each does.
    visit: Duration,
    locks: Vec<Rc<Cell<Duration>>>,
    dice: u64,
}

impl World {
    fn new(limits: &[GroupLimit]) -> Self {
        let mut world = World {
            now: Duration::ZERO,
            groups: limits.iter().map(|_| Shared::default()).collect(),
            limits: limits.iter().map(|_| Vec::new()).collect(),
            processes: Vec::new(),
            queue: BinaryHeap::new(),
            log: Vec::new(),
            asks: Rc::default(),
            dice: 1,
            catch_up: Duration::ZERO,
            busy: Duration::ZERO,
            visit: Duration::ZERO,
            locks: limits.iter().map(|_| Rc::default()).collect(),
        };
        limits.iter().enumerate().for_each(|(group, limit)| world.set_limit(group, Some(*limit)));
        world
    }

    /// A group of this rate with `count` members that want no end of bytes.
    fn crowd(rate: u64, count: usize) -> Self {
        let mut world = World::new(&[limit(rate)]);
        world.start_many(count, &[0], Demand::Endless);
        world
    }

    /// A group of so many records per second, with a member for each weight that has no end of them.
    fn of_records(rate: u64, weights: &[u32]) -> Self {
        let mut world = World::new(&[records(rate)]);
        for &weight in weights {
            world.start(&[0], Terms { weight, ..OF_RECORDS }, None, Demand::Endless);
        }
        world
    }

    fn set_limit(&mut self, group: usize, limit: Option<GroupLimit>) {
        self.groups[group].borrow_mut().set_limit(limit, self.now).unwrap();
        self.limits[group].push((self.now, limit));
    }

    /// Starts a process in all these groups, the widest first, with a limit of its own.
    fn start(&mut self, groups: &[usize], terms: Terms, own: Option<u64>, demand: Demand) -> usize {
        let who = self.processes.len();
        let ledger = |group: usize| Watched {
            budget: self.groups[group].clone(),
            asks: self.asks.clone(),
            visit: self.visit,
            busy_until: self.locks[group].clone(),
        };
        let levels = groups.iter().map(|&group| Member::new(ledger(group), id(who), terms)).collect();
        let mut own = TokenBucket::empty(own.map(|rate| Limit::of_member(terms.unit, rate, None)));
        own.drip(self.now);
        let shaper = own.below(Membership::new(levels).with_catch_up(self.catch_up));
        self.processes.push(Process::new(groups, terms.unit, shaper));
        self.set_demand(who, demand);
        who
    }

    fn start_many(&mut self, count: usize, groups: &[usize], demand: Demand) {
        for _ in 0..count {
            self.start(groups, PLAIN, None, demand);
        }
    }

    fn set_demand(&mut self, who: usize, demand: Demand) {
        let process = &mut self.processes[who];
        process.demand = demand;
        if let (Demand::Sink(..), Some(output)) = (demand, process.flow.proxy_mut().consumer_mut()) {
            output.room = 0;
        }
        process.more = match demand {
            Demand::Nothing | Demand::Endless => Duration::MAX,
            Demand::Source(..) | Demand::Sink(..) => self.now,
        };
        self.wake(who, self.now);
    }

    /// It sleeps until then, or for ever: so is one that is stopped, or killed.
    fn wake(&mut self, who: usize, at: Duration) {
        self.processes[who].wakes = at;
        if at < Duration::MAX {
            self.queue.push(Reverse((at, who)));
        }
    }

    fn stop(&mut self, who: usize) {
        self.wake(who, Duration::MAX);
    }

    /// It is gone, and the others notice.
    fn leave(&mut self, who: usize) {
        self.stop(who);
        for group in &self.groups {
            group.borrow_mut().retain(|account| account.id != id(who));
        }
    }

    /// Any number below `below`.
    fn roll(&mut self, below: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % below
    }

    /// How late a process wakes up: a little as a rule, by milliseconds now and then.
    fn lateness(&mut self) -> Duration {
        if !self.busy.is_zero() {
            return micros(self.roll(self.busy.as_micros() as u64));
        }
        let most = if self.roll(100) == 0 { 5000 } else { 200 };
        micros(self.roll(most))
    }

    fn run(&mut self, until: Duration) {
        while let Some(&Reverse((at, who))) = self.queue.peek()
            && at < until
        {
            self.queue.pop();
            if self.processes[who].wakes != at {
                continue;
            }
            self.now = at;
            let (bytes, next) = self.processes[who].work(at);
            // While there is more to do, it does not sleep.
            let late = if next == at + STEP { Duration::ZERO } else { self.lateness() };
            if bytes > 0 {
                self.log.push(Use { at, who, bytes });
            }
            self.wake(who, next.saturating_add(late));
        }
        self.now = until;
    }

    /// Bytes a second that these have used in `span`.
    fn rate(&self, who: Range<usize>, span: Range<Duration>) -> f64 {
        let begin = self.log.partition_point(|entry| entry.at < span.start);
        let entries = self.log[begin..].iter().take_while(|entry| entry.at < span.end);
        let bytes: u64 = entries.filter(|entry| who.contains(&entry.who)).map(|entry| entry.bytes).sum();
        bytes as f64 / (span.end - span.start).as_secs_f64()
    }

    fn sum(&self, span: Range<Duration>) -> f64 {
        self.rate(0..self.processes.len(), span)
    }

    /// How evenly these share: 1 at best (Jain, Chiu and Hawe, 1984).
    fn fairness(&self, who: Range<usize>, span: Range<Duration>) -> f64 {
        let shares: Vec<f64> = who.map(|one| self.rate(one..one + 1, span.clone())).collect();
        let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        sum * sum / (shares.len() as f64 * squares)
    }

    /// Checks the promise of each group.
    fn check(&self) -> Result<(), String> {
        for (group, limits) in self.limits.iter().enumerate() {
            let is_member = |who: usize| self.processes[who].groups.contains(&group);
            let mut curve = Curve::new(limits, (0..self.processes.len()).filter(|&who| is_member(who)).count());
            if let (Some((_, Some(limit))), true) = (limits.last(), self.limits.len() > 1) {
                // A record in hand waits for the tokens of another group.
                curve.use_within = limit.use_within(USE_WITHIN);
            }
            for entry in self.log.iter().filter(|entry| is_member(entry.who)) {
                curve.uses(entry.bytes, entry.at).map_err(|what| format!("group {group}: {what}"))?;
            }
        }
        Ok(())
    }
}

/// The model: what may have been used since the beginning.
///
/// What is used in an interval was taken in it or in the 3 ms before. With A(t) used and R(t) the
/// integral of the rate, each use at s thereby bounds all later A(t) by
/// `R(t) + burst(s - 3 ms) + A(s) - R(s - 3 ms)`; the least of these bounds is all that need be kept.
struct Curve<'a> {
    limits: &'a [(Duration, Option<GroupLimit>)],
    /// Each account can hold a byte.
    members: u64,
    /// How long what was granted may be used.
    use_within: Duration,
    used: i128,
    least: i128,
}

impl<'a> Curve<'a> {
    fn new(limits: &'a [(Duration, Option<GroupLimit>)], members: usize) -> Self {
        Curve { limits, members: members as u64, use_within: USE_WITHIN, used: 0, least: i128::MAX }
    }

    /// R(t).
    fn integral(&self, at: Duration) -> i128 {
        let ends = self.limits[1..].iter().map(|&(since, _)| since).chain([Duration::MAX]);
        let parts = self.limits.iter().zip(ends).map(|(&(since, limit), end)| {
            let passed = end.min(at).saturating_sub(since).as_nanos() as i128;
            passed * limit.map_or(0, |limit| i128::from(limit.rate))
        });
        parts.sum()
    }

    fn burst(&self, limit: GroupLimit) -> i128 {
        let one = i128::from(limit.unit.tokens()) * BILLION;
        let yields = |time: Duration| i128::from(limit.rate) * time.as_nanos() as i128;
        let tokens = match limit.burst.unwrap_or(BURST) {
            Burst::Bytes(count) => i128::from(count) * one,
            Burst::Time(time) => yields(time),
        };
        match limit.unit {
            Unit::Bytes => tokens + i128::from(self.members) * BILLION,
            Unit::Records => tokens.max(one) + yields(IN_FORCE).min(one),
        }
    }

    fn uses(&mut self, bytes: u64, at: Duration) -> Result<(), String> {
        let taken = at.saturating_sub(self.use_within);
        let index = |time| self.limits.partition_point(|&(since, _)| since <= time).saturating_sub(1);
        let (_, limit) = self.limits[index(taken)];
        // What was taken without a limit may be used for a while yet.
        let lately = &self.limits[index(at.saturating_sub(IN_FORCE))..=index(at)];
        let Some(limit) = limit.filter(|_| lately.iter().all(|(_, limit)| limit.is_some())) else {
            self.least = i128::MAX;
            return Ok(());
        };
        self.least = self.least.min(self.burst(limit) + self.used - self.integral(taken));
        self.used += i128::from(bytes) * i128::from(limit.unit.tokens()) * BILLION;
        match self.used - self.integral(at) - self.least {
            ..=0 => Ok(()),
            excess => Err(format!("{bytes} bytes at {at:?}: {excess} billionths of a byte too many")),
        }
    }
}

/// Shows a figure and checks it.
#[track_caller]
fn expect(what: &str, figure: f64, range: RangeInclusive<f64>) {
    println!("{what}: {figure:.6}");
    assert!(range.contains(&figure), "{what}: {figure}, not in {range:?}");
}

/// The same for how much `figure` is off.
#[track_caller]
fn expect_near(what: &str, figure: f64, wanted: f64, tolerance: f64) {
    expect(&format!("{what}, of {wanted} and off by"), figure / wanted - 1.0, -tolerance..=tolerance);
}

/// A span without the first second.
fn until(millis: u64) -> Range<Duration> {
    at(1000)..at(millis)
}

#[test]
fn a_group_beside_a_busy_machine_reaches_its_limit_and_makes_up_for_nothing_else() {
    for (count, busy) in [(4, 20), (4, 60), (16, 40)] {
        let mut world = World::new(&[limit(RATE)]);
        (world.catch_up, world.busy) = (at(250), at(busy));
        world.start_many(count, &[0], Demand::Endless);
        world.run(at(11_000));
        expect_near(&format!("sum of {count} that wait up to {busy} ms"), world.sum(until(11_000)), 1e7, 0.01);
        // Nobody ever gets more than the limit and what was made up for, over any second.
        let most = (100..1000).map(|bin| world.sum(at(10 * bin)..at(10 * bin + 1000))).fold(0.0, f64::max);
        expect("the most in a second", most, 0.0..=1e7 * (1.0 + 0.25 + 0.012));
    }
    // Without delays there is nothing to make up for: after a silence comes the burst.
    let mut world = World::new(&[limit(RATE)]);
    world.catch_up = at(250);
    world.start_many(2, &[0], Demand::Nothing);
    world.run(at(2000));
    (0..2).for_each(|who| world.set_demand(who, Demand::Endless));
    world.run(at(2020));
    expect("after a silence", world.sum(at(2000)..at(2020)) * 0.02, 0.0..=1e7 * (0.012 + 0.020 + 0.006));
}

#[test]
fn saturated_members_share_the_whole_limit_evenly() {
    let mut world = World::crowd(RATE, 8);
    world.run(at(11_000));
    world.check().unwrap();
    expect_near("sum", world.sum(until(11_000)), 1e7, 0.002);
    expect("fairness", world.fairness(0..8, until(11_000)), 0.999..=1.0);
}

#[test]
fn shares_are_in_proportion_to_weights() {
    let mut world = World::new(&[limit(7_000_000)]);
    for weight in [100, 200, 400] {
        world.start(&[0], Terms { weight, ..PLAIN }, None, Demand::Endless);
    }
    world.run(at(11_000));
    world.check().unwrap();
    for (who, wanted) in [1e6, 2e6, 4e6].into_iter().enumerate() {
        expect_near("share", world.rate(who..who + 1, until(11_000)), wanted, 0.01);
    }
}

#[test]
fn the_share_of_an_idle_member_is_handed_over_and_back_within_100_ms() {
    let mut world = World::crowd(RATE, 4);
    let phases = [(0, 2.5e6), (2000, 0.0), (4000, 2.5e6), (6000, 0.0)];
    for (since, wanted) in phases {
        world.run(at(since));
        world.set_demand(0, if wanted > 0.0 { Demand::Endless } else { Demand::Nothing });
    }
    world.run(at(8000));
    world.check().unwrap();
    for (since, wanted) in phases {
        let bins = (since..since + 2000).step_by(50).map(|bin| at(bin)..at(bin + 50));
        let is_off = |bin: &Range<Duration>| {
            let (one, others) = (world.rate(0..1, bin.clone()), world.rate(1..4, bin.clone()));
            (one - wanted).abs() > wanted * 0.2 || (others / (1e7 - wanted) - 1.0).abs() > 0.12
        };
        let settled = bins.filter(is_off).last().map_or(0, |bin| bin.end.as_millis() as u64 - since);
        expect("bins of 50 ms are as they should be after ms", settled as f64, 0.0..=100.0);
    }
}

#[test]
fn a_guarantee_holds_in_every_second() {
    let mut world = World::new(&[limit(RATE)]);
    world.start(&[0], guaranteed(6_000_000), None, Demand::Endless);
    world.start_many(7, &[0], Demand::Endless);
    world.run(at(11_000));
    world.check().unwrap();
    let seconds = (100..1000).map(|bin| world.rate(0..1, at(10 * bin)..at(10 * bin + 1000)));
    expect("least second", seconds.fold(f64::MAX, f64::min), 5.9e6..=6.7e6);
    expect_near("sum", world.sum(until(11_000)), 1e7, 0.002);
    expect("fairness of the rest", world.fairness(1..8, until(11_000)), 0.999..=1.0);
}

#[test]
fn what_a_member_leaves_of_its_guarantee_the_others_use() {
    let slow =
        [(None, Demand::Source(2000, at(1))), (None, Demand::Sink(2000, at(1))), (Some(2_000_000), Demand::Endless)];
    // Also of all there is.
    for ((own, demand), sure) in slow.into_iter().flat_map(|slow| [(slow, 6_000_000), (slow, RATE)]) {
        let mut world = World::new(&[limit(RATE)]);
        world.start(&[0], guaranteed(sure), own, demand);
        world.start_many(3, &[0], Demand::Endless);
        world.run(at(6000));
        world.check().unwrap();
        expect_near(&format!("{demand:?} of {sure}"), world.rate(0..1, until(6000)), 2e6, 0.01);
        expect_near("sum", world.sum(until(6000)), 1e7, 0.005);
        expect("fairness of the rest", world.fairness(1..4, until(6000)), 0.999..=1.0);
    }
}

#[test]
fn a_member_gets_the_lesser_of_its_own_limit_and_its_share() {
    for own in [100_000, 1_000_000, 2_400_000, 2_500_000, 2_600_000, 5_000_000] {
        let mut world = World::crowd(RATE, 3);
        world.start(&[0], PLAIN, Some(own), Demand::Endless);
        world.run(at(6000));
        world.check().unwrap();
        expect_near("own", world.rate(3..4, until(6000)), own.min(2_500_000) as f64, 0.01);
        expect_near("sum", world.sum(until(6000)), 1e7, 0.005);
    }
}

#[test]
fn what_slow_consumers_leave_the_others_use() {
    for (count, bytes, every) in [(1, 10_000, 10), (4, 2000, 2), (4, 10_000, 10), (20, 300, 1), (60, 100, 20)] {
        let mut world = World::crowd(RATE, 1);
        world.start_many(count, &[0], Demand::Sink(bytes, at(every)));
        world.run(at(4000));
        world.check().unwrap();
        let slow = (count as u64 * bytes * 1000 / every) as f64;
        expect_near(&format!("{count} slow"), world.rate(1..count + 1, until(4000)), slow, 0.01);
        expect_near("sum", world.sum(until(4000)), 1e7, 0.025);
    }
}

#[test]
fn consumers_that_pause_cost_the_others_little() {
    for (count, bytes, every) in [(3, 40_000, 100), (4, 20_000, 40)] {
        let mut world = World::crowd(RATE, 1);
        world.start_many(count, &[0], Demand::Sink(bytes, at(every)));
        world.run(at(4000));
        world.check().unwrap();
        expect_near("sum", world.sum(until(4000)), 1e7, 0.005);
    }
}

#[test]
fn the_killed_cost_the_others_nothing() {
    let mut world = World::crowd(RATE, 8);
    let mut alive: Vec<usize> = (0..8).collect();
    for round in 1..220 {
        world.run(at(50 * round));
        let index = world.roll(8) as usize;
        let who = alive.swap_remove(index);
        if round % 3 > 0 {
            world.stop(who)
        } else {
            world.leave(who)
        }
        alive.push(world.start(&[0], PLAIN, None, Demand::Endless));
    }
    world.check().unwrap();
    expect_near("sum", world.sum(until(11_000)), 1e7, 0.01);
}

#[test]
fn one_that_was_stopped_gets_no_credit_for_it() {
    let mut world = World::crowd(RATE, 4);
    world.run(at(2000));
    world.stop(0);
    world.run(at(12_000));
    world.wake(0, at(12_000));
    world.run(at(14_000));
    world.check().unwrap();
    expect_near("sum of the others", world.rate(1..4, at(2200)..at(12_000)), 1e7, 0.002);
    expect(
        "bytes in the first 100 ms",
        world.rate(0..1, at(12_000)..at(12_100)) / 10.0,
        200_000.0..=250_000.0 + 120_000.0,
    );
    expect_near("its share then", world.rate(0..1, at(12_200)..at(14_000)), 2.5e6, 0.02);
}

#[test]
fn limits_hold_at_all_levels_and_nothing_of_the_widest_is_lost() {
    // site, site/a, site/b, site/c, site/a/x, site/a/y, site/b/x, site/b/y
    let mut world = World::new(&[20, 5, 4, 30, 1, 8, 1, 1].map(|millions| limit(millions * 1_000_000)));
    let paths: [&[usize]; 8] = [&[0], &[0, 1], &[0, 2], &[0, 3], &[0, 1, 4], &[0, 1, 5], &[0, 2, 6], &[0, 2, 7]];
    paths.iter().for_each(|path| world.start_many(2, path, Demand::Endless));
    world.run(at(6000));
    world.check().unwrap();
    expect_near("sum", world.sum(until(6000)), 2e7, 0.002);
    for (path, wanted) in [5.5e6, 2e6, 2e6, 5.5e6, 1e6, 2e6, 1e6, 1e6].into_iter().enumerate() {
        expect_near(&format!("{:?}", paths[path]), world.rate(2 * path..2 * path + 2, until(6000)), wanted, 0.02);
    }
}

#[test]
fn a_group_in_a_group_gets_its_limit_or_its_share_and_leaves_the_rest() {
    // Limit of the inner group, members beside it, and what the inner one's four get.
    let cases = [
        (RATE, 0, 1e7),
        (RATE, 4, 5e6),
        (5_000_000, 4, 5e6),
        (5_000_000, 1, 5e6),
        (9_900_000, 0, 9.9e6),
        (2_000_000, 4, 2e6),
        (2_000_000, 1, 2e6),
    ];
    for (inner, beside, wanted) in cases {
        let mut world = World::new(&[limit(RATE), limit(inner)]);
        world.start_many(4, &[0, 1], Demand::Endless);
        world.start_many(beside, &[0], Demand::Endless);
        world.run(at(4000));
        world.check().unwrap();
        let sum = if beside == 0 { wanted } else { 1e7 };
        expect_near(&format!("{inner} with {beside} beside"), world.rate(0..4, until(4000)), wanted, 0.01);
        expect_near("sum", world.sum(until(4000)), sum, 0.005);
        expect("fairness", world.fairness(0..4, until(4000)), 0.999..=1.0);
    }
}

/// They take turns: there is no visit for less than half a millisecond of the rate.
#[test]
fn hundreds_of_members_share_fairly_and_visit_rarely() {
    for (rate, count) in [(RATE, 13), (RATE, 60), (4 << 20, 300), (4 << 20, 900)] {
        let mut world = World::crowd(rate, count);
        world.run(at(3000));
        world.check().unwrap();
        let span = at(1000)..at(3000);
        expect_near(&format!("sum of {count}"), world.sum(span.clone()), rate as f64, 0.01);
        // Over two seconds, each of 900 has some four turns: one more or less is a lot.
        expect("fairness", world.fairness(0..count, span.clone()), 0.985..=1.0);
        let asks = world.asks.borrow().iter().filter(|at| span.contains(at)).count();
        expect("visits per second", asks as f64 / 2.0, 0.0..=5000.0);
    }
}

/// A visit takes twice as long as one to a file does, and nobody else gets in meanwhile.
#[test]
fn hundreds_of_members_that_keep_each_other_out_use_the_rate_and_follow_its_changes() {
    for count in [300, 900] {
        let mut world = World::new(&[limit(4 << 20)]);
        world.visit = micros(60 + count / 5);
        world.start_many(count as usize, &[0], Demand::Endless);
        let changes = [(3000, 4 << 20), (4000, 1 << 20), (5000, 16 << 20), (6000, 4 << 20)];
        for (until, rate) in changes {
            world.set_limit(0, Some(limit(rate)));
            world.run(at(until));
        }
        world.check().unwrap();
        let first = world.sum(at(1000)..at(3000));
        expect_near(&format!("sum of {count}"), first, f64::from(4 << 20), 0.01);
        expect("fairness", world.fairness(0..count as usize, at(1000)..at(3000)), 0.98..=1.0);
        for (until, rate) in &changes[1..] {
            let span = at(until - 900)..at(until - 700);
            expect_near(&format!("{rate} after 100 ms, {count}"), world.sum(span), *rate as f64, 0.05);
        }
        let span = at(1000)..at(3000);
        let asks = world.asks.borrow().iter().filter(|at| span.contains(at)).count();
        expect("asks per second, with those that found the group busy", asks as f64 / 2.0, 0.0..=8000.0);
    }
}

#[test]
fn hundreds_of_members_at_a_low_rate_keep_no_processor_busy() {
    for (rate, count) in [(100, 60), (1000, 300), (100_000, 300)] {
        let mut world = World::crowd(rate, count);
        world.run(at(6000));
        world.check().unwrap();
        let span = at(1000)..at(6000);
        expect_near(&format!("sum of {count}"), world.sum(span.clone()), rate as f64, 0.02);
        let visits = world.asks.borrow().iter().filter(|at| span.contains(at)).count();
        expect("visits per second", visits as f64 / 5.0, 0.0..=5000.0);
    }
}

#[test]
fn nobody_starves_at_a_few_bytes_a_second() {
    let mut world = World::crowd(10, 8);
    world.run(at(201_000));
    world.check().unwrap();
    expect_near("sum", world.sum(until(201_000)), 10.0, 0.005);
    expect("fairness", world.fairness(0..8, until(201_000)), 0.999..=1.0);
}

#[test]
fn trickles_are_served_at_once_and_bulk_gets_the_rest() {
    let started = |who: usize| micros(311 * who as u64);
    let mut world = World::crowd(RATE, 1);
    for who in 1..=60 {
        world.run(started(who));
        world.start(&[0], PLAIN, None, Demand::Source(100, at(20)));
    }
    world.run(at(6000));
    world.check().unwrap();
    expect_near("trickles", world.rate(1..61, until(6000)), 300_000.0, 0.001);
    expect_near("sum", world.sum(until(6000)), 1e7, 0.005);
    let mut passed_on = [0; 61];
    let mut delays = Vec::new();
    for entry in world.log.iter().filter(|entry| entry.who > 0) {
        let came = started(entry.who) + at(20) * (passed_on[entry.who] / 100);
        delays.push((entry.at - came).as_secs_f64() * 1000.0);
        passed_on[entry.who] += entry.bytes as u32;
    }
    delays.sort_by(f64::total_cmp);
    expect("99 % of them within ms", delays[delays.len() * 99 / 100], 0.0..=5.0);
    expect("all of them within ms", delays[delays.len() - 1], 0.0..=12.0);
}

/// One that wants all there is beside many that want little, or as much: the rate is used up.
#[test]
fn bulk_beside_many_small_members_uses_the_whole_rate() {
    let mut short = Vec::new();
    let small = [100, 6000, 40_000].map(|bytes| (bytes, 20)).into_iter().chain([(6000, 30)]);
    let demands = small.flat_map(|(bytes, every)| [Demand::Source(bytes, at(every)), Demand::Sink(bytes, at(every))]);
    for (demand, count) in demands.flat_map(|demand| [5, 20, 35, 60].map(|count| (demand, count))) {
        let mut world = World::crowd(RATE, 1);
        for who in 1..=count {
            world.run(micros(311 * who));
            world.start(&[0], PLAIN, None, demand);
        }
        world.run(at(2000));
        world.check().unwrap();
        let used = world.sum(until(2000)) / 1e7;
        println!("{count} members with {demand:?}: {:.2} %", 100.0 * used);
        if used < 0.97 {
            short.push((count, demand, used));
        }
    }
    assert!(short.is_empty(), "{short:?}");
}

#[test]
fn a_changed_limit_is_in_force_within_50_ms() {
    let mut world = World::crowd(100, 4);
    for (since, rate) in
        [(1000, Some(RATE)), (2000, Some(100_000)), (3000, None), (3100, Some(RATE)), (4000, Some(2 * RATE))]
    {
        world.run(at(since));
        world.set_limit(0, rate.map(limit));
    }
    world.run(at(5000));
    world.check().unwrap();
    // They wake up a little late.
    expect_near("raised", world.sum(at(1060)..at(2000)), 1e7, 0.01);
    expect_near("lowered", world.sum(at(2060)..at(3000)), 1e5, 0.02);
    expect("lifted", world.sum(at(3060)..at(3100)), 1e9..=f64::MAX);
    expect_near("back", world.sum(at(3160)..at(4000)), 1e7, 0.01);
    expect_near("doubled", world.sum(at(4060)..at(5000)), 2e7, 0.01);
}

#[test]
fn five_scripts_share_five_requests_per_second_and_are_fair() {
    for busy in [0, 30] {
        let mut world = World::of_records(5, &[100; 5]);
        (world.busy, world.catch_up) = (at(busy), at(250));
        world.run(at(61_000));
        if busy == 0 {
            world.check().unwrap();
        }
        expect("the first of them after ms", world.log[0].at.as_secs_f64() * 1e3, 200.0..=251.0);
        expect_near("sum", world.sum(until(61_000)), 5.0, 0.01);
        for start in (1..51).map(|second| at(1000 * second)) {
            for who in 0..5 {
                let figure = 10.0 * world.rate(who..who + 1, start..start + at(10_000));
                assert!((9.0..=11.0).contains(&figure), "{figure} requests of script {who} in ten seconds");
            }
        }
        let shortest = world.log.windows(2).map(|pair| pair[1].at - pair[0].at).min().unwrap();
        expect("ms between two requests, at least", shortest.as_secs_f64() * 1e3, 149.0..=200.0);
        assert!(world.log.iter().all(|entry| entry.bytes == 1), "one request at a time");
    }
}

#[test]
fn slow_records_are_divided_by_weight_and_what_one_leaves_the_others_get() {
    let mut world = World::of_records(10, &[100, 300, 100]);
    world.run(at(61_000));
    for (who, wanted) in [2.0, 6.0, 2.0].into_iter().enumerate() {
        expect_near("rate", world.rate(who..who + 1, until(61_000)), wanted, 0.02);
    }
    world.stop(1);
    world.run(at(122_000));
    let alone = at(62_000)..at(122_000);
    expect_near("half", world.rate(0..1, alone.clone()), 5.0, 0.02);
    expect_near("the other half", world.rate(2..3, alone), 5.0, 0.02);
    // One that is killed while it is its turn costs the others no more than a turn.
    world.stop(0);
    world.run(at(183_000));
    expect_near("all", world.rate(2..3, at(123_000)..at(183_000)), 10.0, 0.02);
    world.check().unwrap();
}

#[test]
fn records_are_divided_at_any_rate() {
    for (rate, count, tolerance) in
        [(1, 3, 0.02), (30, 2, 0.01), (100, 20, 0.01), (2000, 5, 0.01), (1_000_000, 4, 0.01)]
    {
        let mut world = World::of_records(rate, &vec![100; count]);
        world.run(at(31_000));
        world.check().unwrap();
        expect_near(&format!("sum of {count} at {rate}/s"), world.sum(until(31_000)), rate as f64, tolerance);
        expect("fairness", world.fairness(0..count, until(31_000)), 0.98..=1.0);
    }
}

#[test]
fn a_path_of_groups_gives_a_slow_record_time_to_pass_all_of_them() {
    let mut world = World::new(&[records(10), records(4)]);
    for path in [&[0][..], &[0, 1], &[0, 1]] {
        world.start(path, OF_RECORDS, None, Demand::Endless);
    }
    world.run(at(61_000));
    world.check().unwrap();
    expect_near("the outer one", world.sum(until(61_000)), 10.0, 0.03);
    expect_near("the inner one", world.rate(1..3, until(61_000)), 4.0, 0.05);
}

#[test]
fn a_member_that_counts_something_else_is_refused() {
    let mut budget = Budget::default();
    budget.join(id(1), PLAIN).unwrap();
    let mixed = Denied::MembersCount { limit: Unit::Records, members: Unit::Bytes };
    assert_eq!(budget.set_limit(Some(records(5)), at(0)), Err(mixed));
    budget.set_limit(Some(limit(100)), at(0)).unwrap();
    let other = Denied::Counts { limit: Unit::Bytes, member: Unit::Records };
    assert_eq!(budget.join(id(2), OF_RECORDS), Err(other));
    budget.retain(|_| false);
    budget.set_limit(Some(records(5)), at(0)).unwrap();
    budget.join(id(2), OF_RECORDS).unwrap();
    let other = Denied::Counts { limit: Unit::Records, member: Unit::Bytes };
    assert_eq!(budget.join(id(1), PLAIN), Err(other));
}

/// More is guaranteed than there is.
fn over(rate: u64, asked: Option<u64>, guaranteed: u64) -> Denied {
    Denied::Overcommitted { rate, unit: Unit::Bytes, asked, guaranteed }
}

#[test]
fn more_than_there_is_cannot_be_guaranteed() {
    let mut budget = Budget::default();
    let short = GroupLimit { lasting: false, ..limit(100) };
    budget.set_limit(Some(short), at(0)).unwrap();
    budget.join(id(1), guaranteed(60)).unwrap();
    let before = budget.clone();
    assert_eq!(budget.join(id(2), guaranteed(41)), Err(over(100, Some(41), 60)));
    assert_eq!(budget.join(id(1), guaranteed(101)), Err(over(100, Some(101), 0)));
    assert_eq!(budget.set_limit(Some(limit(59)), at(9)), Err(over(59, None, 60)));
    assert_eq!(budget, before, "and nothing has changed");
    budget.join(id(2), guaranteed(40)).unwrap();
    budget.join(id(1), guaranteed(50)).unwrap();
    budget.set_limit(Some(GroupLimit { rate: 90, ..short }), at(9)).unwrap();
}

/// Nothing is left to divide by weight, and the one who has it all does not come for it.
#[test]
fn where_all_is_guaranteed_to_one_the_others_wait_and_get_what_it_leaves() {
    let mut budget = Budget::default();
    budget.set_limit(Some(limit(1_000_000)), at(0)).unwrap();
    budget.join(id(0), guaranteed(1_000_000)).unwrap();
    budget.join(id(1), PLAIN).unwrap();
    for (who, terms) in [(0, guaranteed(1_000_000)), (1, PLAIN)] {
        assert_eq!(ask(&mut budget, who, terms, 0, u64::MAX, at(0)).bytes, 0);
    }
    // The account of the other has room yet.
    assert_eq!(ask(&mut budget, 1, PLAIN, 0, u64::MAX, at(5)).bytes, 0);
    // It is full by now.
    assert!(ask(&mut budget, 1, PLAIN, 0, u64::MAX, at(40)).bytes > 1000);
}

#[test]
fn a_limit_that_does_not_last_goes_with_the_last_member() {
    for lasting in [false, true] {
        let mut budget = Budget::default();
        budget.set_limit(Some(GroupLimit { lasting, ..limit(100) }), at(0)).unwrap();
        budget.join(id(1), PLAIN).unwrap();
        budget.join(id(2), PLAIN).unwrap();
        budget.retain(|account| account.id != id(1));
        assert!(budget.limit().is_some());
        budget.retain(|_| false);
        assert_eq!(budget.limit().is_some(), lasting);
    }
}

#[test]
fn the_highest_rates_are_divided_without_overflow() {
    let terms = [PLAIN, Terms { weight: u32::MAX, guaranteed: u64::MAX / 4, ..PLAIN }, Terms { weight: 1, ..PLAIN }];
    for (rate, burst) in
        [(1 << 63, None), (u64::MAX, Some(Burst::Bytes(u64::MAX))), (u64::MAX, Some(Burst::Time(Duration::MAX)))]
    {
        let mut budget = Budget::default();
        budget.set_limit(Some(GroupLimit { burst, ..limit(rate) }), at(0)).unwrap();
        terms.iter().enumerate().for_each(|(who, &terms)| budget.join(id(who), terms).unwrap());
        for now in [at(0), at(1), at(7), at(7), Duration::from_secs(1 << 40), Duration::from_secs(u64::MAX)] {
            for (who, terms) in terms.into_iter().enumerate() {
                let now = now.min(Duration::from_secs(u64::MAX - 1));
                let unused = ask(&mut budget, who, terms, 0, u64::MAX, now).bytes / 3;
                ask(&mut budget, who, terms, unused, u64::MAX, now);
            }
        }
    }
}

#[test]
fn what_idle_members_give_back_late_is_no_more_than_the_burst() {
    let mut budget = Budget::default();
    budget.set_limit(Some(limit(1_000_000)), at(0)).unwrap();
    let mut granted = Vec::new();
    for who in 0..20 {
        granted.push(ask(&mut budget, who, PLAIN, 0, 12_000, at(100 + 100 * who as u64)).bytes);
    }
    assert_eq!(granted, [12_000; 20], "each got all there was");
    let mut used = 0;
    for (who, unused) in granted.into_iter().enumerate() {
        used += ask(&mut budget, who, PLAIN, unused, 12_000, at(5000)).bytes;
    }
    assert_eq!(used, 12_000, "and all of them together no more, at one time");
}

/// A ledger that can answer only now and then, at a tempo of its own.
struct Distant {
    budget: Shared,
    tempo: Tempo,
    /// When the next ask is answered.
    reachable: Duration,
    asked: Rc<RefCell<Vec<Ask>>>,
}

impl Ledger for Distant {
    type Error = &'static str;

    fn ask(&mut self, ask: &Ask) -> Reply<&'static str> {
        self.asked.borrow_mut().push(*ask);
        if ask.now < self.reachable / 2 {
            Reply::Failed { error: "cut off", retry_at: ask.now + self.tempo.retry_failed }
        } else if ask.now < self.reachable {
            Reply::Pending { retry_at: ask.now + self.tempo.retry_pending }
        } else {
            Reply::Answer(self.budget.borrow_mut().answer(ask, self.tempo.use_within))
        }
    }
}

#[test]
fn a_member_keeps_to_the_tempo_of_its_ledger() {
    let tempo = Tempo { use_within: at(40), retry_pending: at(7), retry_failed: at(30) };
    let (budget, asked) = (Shared::default(), Rc::new(RefCell::new(Vec::new())));
    budget.borrow_mut().set_limit(Some(limit(1_000_000)), at(0)).unwrap();
    let ledger = Distant { budget, tempo, reachable: at(130), asked: asked.clone() };
    let mut membership = Membership::new(vec![Member::new(ledger, id(0), PLAIN)]);
    let mut now = at(0);
    let mut granted = 0;
    while granted == 0 {
        membership.drip(now);
        granted = membership.grant(1000).unwrap_or(0);
        assert_eq!(membership.failure().is_some(), now < at(130), "at {now:?}");
        if granted == 0 {
            now = membership.due(1000).unwrap();
        }
    }
    let times: Vec<_> = asked.borrow().iter().map(|ask| ask.now.as_millis()).collect();
    assert_eq!(times, [0, 30, 60, 90, 97, 104, 111, 118, 125, 132]);
    assert_eq!(granted, 1000);
    // It may use what it holds for as long as the ledger said, and gives the rest back then.
    membership.refund(400);
    membership.drip(now + at(39));
    assert_eq!(membership.grant(100), Ok(100));
    membership.drip(now + at(41));
    let _ = membership.grant(100);
    let last = *asked.borrow().last().unwrap();
    assert_eq!((last.give_back, last.used), (300, 700));
}

/// What happens to a group and the group in it.
#[derive(Clone, Debug)]
enum Event {
    /// A process starts, in the inner group as well or not, with a limit of its own or none.
    Start {
        inner: bool,
        weight: u32,
        own: Option<u64>,
        demand: Demand,
    },
    Change(usize, Demand),
    /// It is stopped for ever, or goes on if it was.
    Stop(usize),
    GoOn(usize),
    Leave(usize),
    SetLimit(usize, Option<GroupLimit>),
}

fn demand() -> impl Strategy<Value = Demand> + Clone {
    let some = || (1..60_000u64, (1..30u64).prop_map(at));
    prop_oneof![
        1 => Just(Demand::Nothing),
        3 => Just(Demand::Endless),
        2 => some().prop_map(|(bytes, every)| Demand::Source(bytes, every)),
        4 => some().prop_map(|(bytes, every)| Demand::Sink(bytes, every)),
    ]
}

fn group_limit() -> impl Strategy<Value = GroupLimit> + Clone {
    let burst = prop_oneof![
        2 => Just(None),
        1 => (1..100_000u64).prop_map(|bytes| Some(Burst::Bytes(bytes))),
        1 => (1..100u64).prop_map(|millis| Some(Burst::Time(at(millis)))),
    ];
    let rate = (0..8u32).prop_flat_map(|digits| 10u64.pow(digits)..10 * 10u64.pow(digits));
    (rate, burst).prop_map(|(rate, burst)| GroupLimit { burst, ..limit(rate) })
}

fn event() -> impl Strategy<Value = Event> {
    let any_limit = prop_oneof![4 => group_limit().prop_map(Some), 1 => Just(None)];
    let own = prop_oneof![2 => Just(None), 1 => (1..RATE).prop_map(Some)];
    prop_oneof![
        4 => (any::<bool>(), 1..1000u32, own, demand())
            .prop_map(|(inner, weight, own, demand)| Event::Start { inner, weight, own, demand }),
        3 => (0..100usize, demand()).prop_map(|(who, demand)| Event::Change(who, demand)),
        1 => (0..100usize).prop_map(Event::Stop),
        1 => (0..100usize).prop_map(Event::GoOn),
        1 => (0..100usize).prop_map(Event::Leave),
        1 => (0..2usize, any_limit).prop_map(|(group, limit)| Event::SetLimit(group, limit)),
    ]
}

/// What one member does with the budget itself.
#[derive(Clone, Debug)]
enum Act {
    Pass(Duration),
    /// It gives back what it has and takes anew, on a clock that it read some time before.
    Take {
        most: u64,
        lag: Duration,
    },
    Use(u64),
    Leave,
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = || prop_oneof![Just(u64::MAX), 0..20_000u64];
    let pass = |most: u64| (0..=most).prop_map(|nanos| Act::Pass(Duration::from_nanos(nanos)));
    prop_oneof![
        2 => pass(4_000_000),
        1 => pass(200_000_000),
        3 => (bytes(), 0..100_000u64).prop_map(|(most, lag)| Act::Take { most, lag: Duration::from_nanos(lag) }),
        3 => bytes().prop_map(Act::Use),
        1 => Just(Act::Leave),
    ]
}

proptest! {
    #![proptest_config(support::cases(128))]

    #[test]
    fn no_interval_gets_more_than_burst_and_rate_allow(
        dice: u64,
        limits in (group_limit(), group_limit()),
        events in prop::collection::vec((0..40u64, event()), 1..40),
    ) {
        let mut world = World::new(&[limits.0, limits.1]);
        world.dice = dice;
        world.start(&[0, 1], PLAIN, None, Demand::Endless);
        for (pause, event) in events {
            world.run(world.now + at(pause));
            let count = world.processes.len();
            match event {
                Event::Start { inner, weight, own, demand } => {
                    let path = if inner { &[0, 1][..] } else { &[0] };
                    world.start(path, Terms { weight, ..PLAIN }, own, demand);
                }
                Event::Change(who, demand) => world.set_demand(who % count, demand),
                Event::Stop(who) => world.stop(who % count),
                Event::GoOn(who) => world.wake(who % count, world.now),
                Event::Leave(who) => world.leave(who % count),
                Event::SetLimit(group, limit) => world.set_limit(group, limit),
            }
        }
        world.run(world.now + at(50));
        prop_assert_eq!(world.check(), Ok(()));
    }

    #[test]
    fn no_interval_gets_more_records(
        dice: u64,
        rate in (0..5u32).prop_flat_map(|digits| 10u64.pow(digits)..10 * 10u64.pow(digits)),
        burst in prop_oneof![Just(None), (1..30u64).prop_map(|count| Some(Burst::Bytes(count)))],
        starts in prop::collection::vec((0..400u64, 1..1000u32, demand()), 1..12),
    ) {
        let mut world = World::new(&[GroupLimit { burst, ..records(rate) }]);
        world.dice = dice;
        for (pause, weight, demand) in starts {
            world.run(world.now + at(pause));
            world.start(&[0], Terms { weight, ..OF_RECORDS }, None, demand);
        }
        world.run(world.now + at(3000));
        prop_assert_eq!(world.check(), Ok(()));
    }

    #[test]
    fn no_interval_gets_more_whatever_is_given_back_when(
        rate in 200_000..5_000_000u64,
        acts in prop::collection::vec((0..6usize, act()), 1..80),
    ) {
        let limits = [(at(0), Some(limit(rate)))];
        let mut curve = Curve::new(&limits, 6);
        let mut budget = Budget::default();
        budget.set_limit(Some(limit(rate)), at(0)).unwrap();
        let mut now = at(0);
        let mut held = [(0, at(0)); 6];
        for (who, act) in acts {
            let (bytes, expires) = &mut held[who];
            match act {
                Act::Pass(time) => now += time,
                Act::Take { most, lag } => {
                    let answer = ask(&mut budget, who, PLAIN, *bytes, most, now.saturating_sub(lag));
                    prop_assert!(answer.bytes <= most);
                    (*bytes, *expires) = (answer.bytes, answer.expires);
                }
                Act::Use(most) if now < *expires => {
                    let used = most.min(*bytes);
                    *bytes -= used;
                    prop_assert_eq!(curve.uses(used, now), Ok(()));
                }
                Act::Use(_) => {}
                Act::Leave => {
                    budget.retain(|account| account.id != id(who));
                    *bytes = 0;
                }
            }
        }
    }
}
