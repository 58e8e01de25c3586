//! One limit on many machines: keepers that ask a store over a network that loses, doubles, delays
//! and reorders messages, while the store is emptied, fails over to a replica that lags, and its
//! clock steps. All time is simulated. `-- --nocapture` shows the figures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use pcproxy::budget::site::{Introduction, Reply, Request, Site, SiteLimit};
use pcproxy::budget::{Gauge, Lease, Needs, Rounds, Seen, Terms};
use proptest::prelude::*;

/// Forty million bytes per second.
const RATE: u64 = 40_000_000;

/// How deep the bucket of a machine is, in seconds of its share.
const BURST: f64 = 0.012;

/// Tokens in the hands of members, in seconds of the rate.
const IN_HAND: f64 = 0.003;

/// How often machines move bytes, and how often their keepers look at the group's file.
const STEP: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(50);

/// A keeper that has no answer by then asks again.
const TIMEOUT: Duration = Duration::from_millis(400);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What the members of a machine have to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Demand {
    Nothing,
    Endless,
    /// Bytes per second that come, whatever goes.
    Source(f64),
}

struct Machine {
    lease: Lease,
    rounds: Rounds,
    gauge: Gauge,
    needs: Needs,
    terms: Terms,
    demand: Demand,
    /// How much faster its clock runs than it should.
    drift: f64,
    /// Bytes that it may move at once.
    tokens: f64,
    settled: Duration,
    /// Bytes that came and could not go yet.
    pending: f64,
    moved: f64,
    outstanding: Option<(Request, Duration)>,
    /// Which connection it is on: answers over an earlier one are lost.
    connection: u64,
    /// Messages get through.
    connected: bool,
    alive: bool,
}

impl Machine {
    fn clock(&self, now: Duration) -> Duration {
        // Some time after it was started.
        Duration::from_secs(1000) + now.mul_f64(1.0 + self.drift)
    }

    fn allowed(&self, now: Duration) -> f64 {
        self.lease.allowed(self.clock(now)).unwrap_or(0) as f64
    }

    /// Lets tokens drip up to `now`; a lease that ends in between counts up to its end.
    fn settle(&mut self, now: Duration) {
        let ends = self
            .lease
            .ends()
            .map(|end| Duration::from_secs_f64((end.as_secs_f64() - 1000.0).max(0.0) / (1.0 + self.drift)).min(now));
        for end in ends.into_iter().chain([now]) {
            if end > self.settled {
                let rate = self.allowed(self.settled.max(end.saturating_sub(Duration::from_nanos(1000))));
                let passed = (end - self.settled).as_secs_f64();
                self.tokens = (self.tokens + rate * passed).min(rate * BURST);
                self.settled = end;
            }
        }
        self.tokens = self.tokens.min(self.allowed(now) * BURST);
    }

    /// Moves what may be moved at `now`. Returns how many bytes that was.
    fn work(&mut self, now: Duration) -> f64 {
        let passed = STEP.as_secs_f64();
        self.settle(now);
        self.pending = match self.demand {
            Demand::Nothing => 0.0,
            Demand::Endless => f64::MAX,
            Demand::Source(rate) => (if self.pending == f64::MAX { 0.0 } else { self.pending }) + rate * passed,
        };
        let goes = if self.alive { self.tokens.min(self.pending) } else { 0.0 };
        self.tokens -= goes;
        self.pending -= goes;
        self.moved += goes;
        goes
    }

    fn look(&mut self, now: Duration) {
        let clock = self.clock(now);
        let allowed = self.lease.allowed(clock).unwrap_or(0);
        let member = Seen { member: 1, terms: self.terms, used: self.moved as u64, waits: self.pending > 1.0 };
        self.needs = self.gauge.look(clock, allowed, [member]);
    }
}

enum Message {
    Ask(usize, u64, Request, Duration),
    Answer(usize, u64, Request, Duration, Reply),
}

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Messages that are lost, that come twice, and that come late, of a thousand.
    lost: u64,
    doubled: u64,
    late: u64,
}

const FAIR: Weather = Weather { lost: 0, doubled: 0, late: 0 };
const FOUL: Weather = Weather { lost: 100, doubled: 100, late: 100 };

struct World {
    now: Duration,
    site: Site,
    /// Copies of the store's data, the newest last: what a replica may have.
    copies: Vec<(Duration, Site)>,
    run: u64,
    up: bool,
    /// Microseconds that the store's wall clock is ahead.
    stepped: f64,
    machines: Vec<Machine>,
    weather: Weather,
    messages: BinaryHeap<Reverse<(Duration, u64)>>,
    contents: std::collections::HashMap<u64, Message>,
    sent: u64,
    dice: u64,
    /// What the oracle allows, and by how much the bytes that went are ahead of it.
    rate: f64,
    ahead: f64,
    requests: u64,
}

impl World {
    fn new(machines: usize, seed: u64) -> Self {
        let mut world = World {
            now: Duration::ZERO,
            site: Site::default(),
            copies: Vec::new(),
            run: 1,
            up: true,
            stepped: 0.0,
            machines: Vec::new(),
            weather: FAIR,
            messages: BinaryHeap::new(),
            contents: Default::default(),
            sent: 0,
            dice: seed | 1,
            rate: RATE as f64,
            ahead: 0.0,
            requests: 0,
        };
        world.site.set(SiteLimit { rate: RATE, burst: 0, floors: 25, generation: 0 }, 0, 1, world.wall());
        for _ in 0..machines {
            world.add();
        }
        world
    }

    fn add(&mut self) -> usize {
        let id = self.machines.len() as u64 + 1;
        let drift = (self.roll(200) as f64 - 100.0) / 10_000.0;
        let start = Duration::from_secs_f64(self.now.as_secs_f64());
        self.machines.push(Machine {
            lease: Lease::new(id),
            rounds: Rounds::default(),
            gauge: Gauge::default(),
            needs: Needs::default(),
            terms: Terms::default(),
            demand: Demand::Nothing,
            drift,
            tokens: 0.0,
            settled: start,
            pending: 0.0,
            moved: 0.0,
            outstanding: None,
            connection: 0,
            connected: true,
            alive: true,
        });
        self.machines.len() - 1
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % below
    }

    /// The store's wall clock in microseconds.
    fn wall(&self) -> f64 {
        1.7e15 + self.stepped + (self.now.as_nanos() / 1000) as f64
    }

    fn send(&mut self, message: Message) {
        let copies = match self.roll(1000) {
            dice if dice < self.weather.lost => 0,
            dice if dice < self.weather.lost + self.weather.doubled => 2,
            _ => 1,
        };
        let (ask, answer) = match message {
            Message::Ask(who, connection, request, sent) => (Some((who, connection, request, sent)), None),
            Message::Answer(who, connection, request, sent, reply) => {
                (None, Some((who, connection, request, sent, reply)))
            }
        };
        for _ in 0..copies {
            let late = self.roll(1000) < self.weather.late;
            let micros = 200 + self.roll(if late { 2_000_000 } else { 2000 });
            self.sent += 1;
            self.messages.push(Reverse((self.now + Duration::from_micros(micros), self.sent)));
            let copy = match (&ask, &answer) {
                (Some((who, connection, request, sent)), _) => Message::Ask(*who, *connection, request.clone(), *sent),
                (_, Some((who, connection, request, sent, reply))) => {
                    Message::Answer(*who, *connection, request.clone(), *sent, reply.clone())
                }
                _ => unreachable!(),
            };
            self.contents.insert(self.sent, copy);
        }
    }

    fn ask(&mut self, who: usize, introduces: bool) {
        let now = self.now;
        let run = self.run;
        let machine = &mut self.machines[who];
        machine.settle(now);
        let clock = machine.clock(now);
        let words = Introduction { limit: machine.lease.limit, name: String::new() };
        let request = machine.lease.ask(machine.needs, run, introduces.then_some(words), clock);
        machine.rounds.asks(&request, machine.needs, clock);
        machine.outstanding = Some((request.clone(), now));
        self.requests += 1;
        if machine.connected && self.up {
            let connection = self.run;
            machine.connection = connection;
            self.send(Message::Ask(who, connection, request, now));
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ask(who, connection, request, sent) => {
                // A connection ends with the run of the server that it was made to.
                if connection != self.run || !self.up {
                    return;
                }
                let wall = self.wall();
                let reply = self.site.renew(&request, wall);
                if self.machines[who].connected {
                    self.send(Message::Answer(who, connection, request, sent, reply));
                }
            }
            Message::Answer(who, connection, request, sent, reply) => {
                let now = self.now;
                let machine = &mut self.machines[who];
                if connection != machine.connection || !machine.alive {
                    return;
                }
                machine.settle(now);
                match reply {
                    Reply::Granted(granted) => {
                        let clock = machine.clock(sent);
                        if machine.lease.hear(&request, clock, &granted) {
                            machine.outstanding = None;
                            machine.rounds.hears(&granted);
                            let needs = machine.needs;
                            if machine.rounds.due(needs) <= machine.clock(now) {
                                self.ask(who, false);
                            }
                        }
                    }
                    Reply::Introduce => {
                        machine.outstanding = None;
                        self.ask(who, true);
                    }
                    Reply::Refused(_) => machine.outstanding = None,
                }
            }
        }
    }

    /// Lets time pass. Checks all windows: the bytes that went are never further ahead of the rate
    /// than the burst and what members hold in hand.
    #[track_caller]
    fn pass(&mut self, time: Duration) -> Vec<f64> {
        let before: Vec<_> = self.machines.iter().map(|machine| machine.moved).collect();
        let end = self.now + time;
        while self.now < end {
            let step = self.now + STEP;
            while let Some(&Reverse((at, message))) = self.messages.peek()
                && at <= step
            {
                self.messages.pop();
                self.now = at.max(self.now);
                if let Some(message) = self.contents.remove(&message) {
                    self.deliver(message);
                }
            }
            self.now = step;
            if step.as_millis().is_multiple_of(LOOK.as_millis()) {
                for who in 0..self.machines.len() {
                    self.machines[who].look(step);
                }
                self.copies.push((step, self.site.clone()));
                if self.copies.len() > 100 {
                    self.copies.remove(0);
                }
            }
            let mut went = 0.0;
            for who in 0..self.machines.len() {
                let machine = &mut self.machines[who];
                went += machine.work(step);
                let late = machine.outstanding.as_ref().is_some_and(|(_, sent)| step - *sent > TIMEOUT);
                let free = machine.outstanding.is_none();
                if machine.alive && (late || free && machine.rounds.due(machine.needs) <= machine.clock(step)) {
                    self.ask(who, false);
                }
            }
            self.ahead = (self.ahead - self.rate * STEP.as_secs_f64()).max(0.0) + went;
            let most = self.rate * (BURST + IN_HAND) + self.machines.len() as f64;
            if self.ahead > most {
                let now = self.now;
                let shares: Vec<_> = self.machines.iter().map(|machine| machine.allowed(now)).collect();
                panic!(
                    "at {now:?} {} bytes are ahead, {most} may be: shares {shares:?}, sum {}",
                    self.ahead,
                    shares.iter().sum::<f64>()
                );
            }
        }
        self.machines.iter().zip(before).map(|(machine, before)| machine.moved - before).collect()
    }

    fn all(&mut self, demand: Demand) {
        self.machines.iter_mut().for_each(|machine| machine.demand = demand);
    }

    /// The store comes back after a crash without its data.
    fn restart_empty(&mut self) {
        self.run += 1;
        self.up = true;
        self.site = Site::default();
        self.outstanding_fail();
    }

    /// The store's data is gone, and nobody's connection.
    fn flush(&mut self) {
        self.site = Site::default();
    }

    /// A replica takes over that has not heard what happened of late.
    fn fail_over(&mut self, lag: Duration) {
        let as_of = self.now.saturating_sub(lag);
        if let Some((_, copy)) = self.copies.iter().rev().find(|(at, _)| *at <= as_of) {
            self.site = copy.clone();
        }
        self.run += 1;
        self.up = true;
        self.outstanding_fail();
    }

    /// Keepers see that their connections are gone.
    fn outstanding_fail(&mut self) {
        self.machines.iter_mut().for_each(|machine| machine.outstanding = None);
    }
}

fn used(moved: &[f64], time: Duration) -> f64 {
    moved.iter().sum::<f64>() / (RATE as f64 * time.as_secs_f64())
}

/// Jain's index of fairness: 1 if all are equal.
fn jain(moved: &[f64]) -> f64 {
    let sum: f64 = moved.iter().sum();
    sum * sum / (moved.len() as f64 * moved.iter().map(|bytes| bytes * bytes).sum::<f64>())
}

#[test]
fn four_machines_use_up_the_limit_and_share_it_evenly() {
    let mut world = World::new(4, 7);
    world.all(Demand::Endless);
    world.pass(millis(4000));
    let moved = world.pass(millis(10_000));
    let (used, jain) = (used(&moved, millis(10_000)), jain(&moved));
    println!("used {:.2} %, Jain {jain:.4}", 100.0 * used);
    assert!(used > 0.97 && jain > 0.99);
}

#[test]
fn hundreds_of_machines_share_in_the_same_way() {
    let mut world = World::new(200, 7);
    world.all(Demand::Endless);
    world.pass(millis(5000));
    world.requests = 0;
    let moved = world.pass(millis(3000));
    let (used, jain) = (used(&moved, millis(3000)), jain(&moved));
    let requests = world.requests as f64 / 3.0 / 200.0;
    println!("used {:.2} %, Jain {jain:.4}, {requests:.1} requests per second and machine", 100.0 * used);
    assert!(used > 0.97 && jain > 0.99 && requests < 3.6);
}

#[test]
fn weights_count_across_machines() {
    let mut world = World::new(3, 7);
    world.all(Demand::Endless);
    for (machine, weight) in world.machines.iter_mut().zip([100, 200, 700]) {
        machine.terms.weight = weight;
    }
    world.pass(millis(4000));
    let moved = world.pass(millis(5000));
    for (moved, part) in moved.iter().zip([0.1, 0.2, 0.7]) {
        let share = moved / (RATE as f64 * 5.0);
        assert!((share / part - 1.0).abs() < 0.05, "{share} instead of {part}");
    }
}

#[test]
fn guarantees_come_before_weights() {
    let mut world = World::new(3, 7);
    world.all(Demand::Endless);
    world.machines[0].terms.guaranteed = 20_000_000;
    world.pass(millis(4000));
    let moved = world.pass(millis(5000));
    for (moved, part) in moved.iter().zip([20.0 + 20.0 / 3.0, 20.0 / 3.0, 20.0 / 3.0]) {
        let share = moved / 5e6;
        assert!((share / part - 1.0).abs() < 0.05, "{share} instead of {part}");
    }
}

#[test]
fn what_a_machine_leaves_unused_is_with_the_others_within_half_a_second_and_back_within_another() {
    for seed in 1..20 {
        let mut world = World::new(4, seed);
        world.all(Demand::Endless);
        let jitter = world.roll(300);
        world.pass(millis(4000 + jitter / 5 * 5));
        world.machines[0].demand = Demand::Nothing;
        world.pass(millis(500));
        let moved = world.pass(millis(100));
        assert!(
            used(&moved, millis(100)) > 0.95,
            "seed {seed}: {:.3} used after it went idle",
            used(&moved, millis(100))
        );
        world.pass(millis(2000 + jitter / 5 * 5));
        world.machines[0].demand = Demand::Endless;
        world.pass(millis(500));
        let moved = world.pass(millis(200));
        let share = moved[0] / (RATE as f64 / 4.0 * 0.2);
        assert!(share > 0.95, "seed {seed}: {share:.3} of its share when it wants again: {moved:?}");
    }
}

#[test]
fn a_machine_beside_idle_ones_has_nearly_everything() {
    let mut world = World::new(20, 7);
    world.machines[3].demand = Demand::Endless;
    world.pass(millis(4000));
    let used = used(&world.pass(millis(5000)), millis(5000));
    println!("used {:.2} %", 100.0 * used);
    assert!(used > 0.95);
}

#[test]
fn machines_that_want_less_than_their_share_leave_the_rest_to_those_that_want_more() {
    let mut world = World::new(4, 7);
    world.all(Demand::Endless);
    world.machines[0].demand = Demand::Source(1e6);
    world.machines[1].demand = Demand::Source(5e6);
    world.pass(millis(4000));
    let moved = world.pass(millis(5000));
    let used = used(&moved, millis(5000));
    println!("used {:.2} %", 100.0 * used);
    assert!(used > 0.95);
    assert!((moved[0] / 5e6 - 1.0).abs() < 0.05 && (moved[1] / 25e6 - 1.0).abs() < 0.05, "{moved:?}");
}

#[test]
fn a_machine_that_is_cut_off_falls_to_its_floor_and_later_pauses() {
    let mut world = World::new(4, 7);
    world.all(Demand::Endless);
    world.pass(millis(4000));
    world.machines[2].connected = false;
    world.pass(millis(3000));
    let moved = world.pass(millis(10_000));
    let floor = moved[2] / (RATE as f64 / 16.0 * 10.0);
    assert!((floor - 1.0).abs() < 0.02, "{floor} of its floor");
    assert!(used(&moved, millis(10_000)) > 0.99, "its floor is its own, the rest is the others'");
    world.pass(millis(60_000));
    let moved = world.pass(millis(5000));
    assert_eq!(moved[2], 0.0, "its floor has ended");
    assert!(used(&moved, millis(5000)) > 0.97);
}

#[test]
fn the_share_of_a_machine_that_dies_is_with_the_others_within_three_seconds() {
    let mut world = World::new(4, 7);
    world.all(Demand::Endless);
    world.pass(millis(4000));
    world.machines[2].alive = false;
    world.pass(millis(2500));
    let used = used(&world.pass(millis(1000)), millis(1000));
    assert!(used > 0.93, "{used}: all but its floor");
}

#[test]
fn an_engine_that_was_away_is_fully_used_again_three_seconds_after_its_return() {
    for how in ["emptied", "restarted", "cut off", "failed over"] {
        let mut world = World::new(4, 7);
        world.all(Demand::Endless);
        world.pass(millis(4000));
        if how != "emptied" {
            world.up = false;
            world.pass(millis(3000));
            let floors = used(&world.pass(millis(3000)), millis(3000));
            assert!((floors - 0.25).abs() < 0.01, "{how}: floors only: {floors}");
        }
        match how {
            "emptied" => world.flush(),
            "restarted" => world.restart_empty(),
            "cut off" => world.up = true,
            _ => world.fail_over(millis(1000)),
        }
        world.pass(millis(3000));
        let used = used(&world.pass(millis(1000)), millis(1000));
        assert!(used > 0.97, "{how}: {used}");
    }
}

#[test]
fn a_lower_limit_holds_for_all_machines_within_a_second() {
    let mut world = World::new(10, 7);
    world.all(Demand::Endless);
    world.pass(millis(4000));
    let (run, wall) = (world.run, world.wall());
    world.site.set(SiteLimit { rate: RATE / 8, burst: 0, floors: 25, generation: 0 }, 0, run, wall);
    world.pass(millis(1000));
    world.rate = RATE as f64 / 8.0;
    world.ahead = 0.0;
    let moved = world.pass(millis(3000));
    assert!(used(&moved, millis(3000)) > 0.97 / 8.0);
}

#[test]
fn a_store_that_knows_no_limit_lends_nothing() {
    let mut world = World::new(3, 7);
    world.flush();
    world.all(Demand::Endless);
    let moved = world.pass(millis(6000));
    assert_eq!(moved.iter().sum::<f64>(), 0.0);
}

#[test]
fn a_clock_that_stands_still_a_while_frees_nothing_early_and_blocks_nobody() {
    let mut world = World::new(4, 7);
    world.all(Demand::Endless);
    world.pass(millis(4000));
    world.stepped -= 3600e6;
    world.machines[0].alive = false;
    world.pass(millis(3000));
    assert!(used(&world.pass(millis(1000)), millis(1000)) > 0.93);
    world.stepped += 7200e6;
    world.machines[1].connected = false;
    world.pass(millis(3000));
    assert!(used(&world.pass(millis(1000)), millis(1000)) > 0.90);
}

/// A store and machines that ask it one after the other, without a network.
struct Desk {
    site: Site,
    leases: Vec<Lease>,
    now: Duration,
}

impl Desk {
    fn new(machines: u64, floors: u32) -> Desk {
        let mut desk = Desk {
            site: Site::default(),
            leases: (1..=machines).map(Lease::new).collect(),
            now: Duration::from_secs(1000),
        };
        desk.site.set(SiteLimit { rate: RATE, burst: 0, floors, generation: 0 }, 0, 1, desk.wall());
        // A new store learns first.
        for _ in 0..12 {
            desk.now += millis(250);
            for machine in 0..desk.leases.len() {
                desk.renew(machine, if floors > 0 { RATE / 4 } else { 1 }, 1);
            }
        }
        desk
    }

    fn wall(&self) -> f64 {
        self.now.as_micros() as f64
    }

    fn request(&mut self, machine: usize, want: u64, run: u64) -> Request {
        let lease = &mut self.leases[machine];
        let words = Introduction { limit: lease.limit, name: String::new() };
        let needs = Needs { want, weight: 100, guaranteed: 0, moved: 0 };
        lease.ask(needs, run, Some(words), self.now)
    }

    fn answer(&mut self, machine: usize, request: &Request) -> Reply {
        let reply = self.site.renew(request, self.wall());
        if let Reply::Granted(granted) = &reply {
            self.leases[machine].hear(request, self.now, granted);
        }
        reply
    }

    fn renew(&mut self, machine: usize, want: u64, run: u64) -> u64 {
        let request = self.request(machine, want, run);
        self.answer(machine, &request);
        self.allowed(machine)
    }

    /// What is left to a machine when its share has ended.
    fn floor(&self, machine: usize) -> u64 {
        self.leases[machine].allowed(self.now + millis(5000)).unwrap_or(0)
    }

    fn allowed(&self, machine: usize) -> u64 {
        self.leases[machine].allowed(self.now).unwrap_or(0)
    }
}

#[test]
fn a_request_that_was_overtaken_by_a_later_one_changes_nothing() {
    let mut desk = Desk::new(2, 0);
    let old = desk.request(0, 1, 1);
    assert_eq!(desk.renew(0, RATE, 1), RATE - 1, "all but what the other wants");
    assert!(matches!(desk.answer(0, &old), Reply::Refused(0)));
    desk.renew(1, RATE, 1);
    assert!(desk.allowed(0) + desk.allowed(1) <= RATE);
    // The same from a keeper that is out of office.
    let old = desk.request(0, 1, 1);
    desk.leases[0].take_over();
    desk.renew(0, RATE, 1);
    assert!(matches!(desk.answer(0, &old), Reply::Refused(1)));
}

#[test]
fn a_replica_that_missed_a_grant_does_not_lend_it_again() {
    let mut desk = Desk::new(2, 0);
    let replica = desk.site.clone();
    let big = desk.renew(0, RATE, 1);
    assert_eq!(big, RATE - 1);
    desk.site = replica;
    // Another run of a server. The one that asks first knows nothing that the replica does not.
    assert_eq!(desk.renew(1, RATE, 2), 1, "it keeps what it has until all have reported");
    desk.now += millis(250);
    assert_eq!(desk.renew(0, RATE, 2), RATE / 2);
    assert!(desk.allowed(0) + desk.allowed(1) <= RATE);
}

#[test]
fn a_floor_whose_shrinking_a_machine_has_not_heard_of_is_lent_to_nobody_else() {
    let mut desk = Desk::new(2, 20);
    desk.leases.push(Lease::new(3));
    let two = RATE / 10;
    assert_eq!([desk.floor(0), desk.floor(1)], [two; 2]);
    desk.renew(2, RATE / 4, 1);
    // Their floors shrink to a third of the pool, and the answers are lost.
    for machine in [0, 1] {
        let request = desk.request(machine, RATE / 4, 1);
        desk.site.renew(&request, desk.wall());
    }
    desk.renew(2, RATE / 4, 1);
    assert_eq!(desk.floor(2), 0);
    for _ in 0..2 {
        for machine in 0..3 {
            desk.renew(machine, RATE / 4, 1);
        }
    }
    assert_eq!([0, 1, 2].map(|machine| desk.floor(machine)), [RATE / 15; 3]);
}

#[test]
fn an_answer_that_comes_after_the_next_request_was_sent_is_not_used() {
    let mut desk = Desk::new(2, 0);
    let (old, sent) = (desk.request(0, RATE, 1), desk.now);
    let Reply::Granted(late) = desk.site.renew(&old, desk.wall()) else { panic!("refused") };
    // It was taken for lost.
    desk.now += millis(400);
    desk.request(0, RATE, 1);
    assert!(!desk.leases[0].hear(&old, sent, &late));
    assert_eq!(desk.allowed(0), 1, "the next request says that it has this much");
}

/// Something that goes wrong, or is asked for.
#[derive(Clone, Copy, Debug)]
enum Event {
    Demand(usize, u8),
    Cut(usize),
    Mend(usize),
    TakeOver(usize),
    Die(usize),
    Join,
    Down,
    Up,
    Restart,
    Flush,
    FailOver(u64),
    Step(i64),
    Weather(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..1000usize;
    prop_oneof![
        6 => (who.clone(), 0..4u8).prop_map(|(who, demand)| Event::Demand(who, demand)),
        2 => who.clone().prop_map(Event::Cut),
        3 => who.clone().prop_map(Event::Mend),
        2 => who.clone().prop_map(Event::TakeOver),
        1 => who.prop_map(Event::Die),
        1 => Just(Event::Join),
        1 => Just(Event::Down),
        2 => Just(Event::Up),
        1 => Just(Event::Restart),
        1 => Just(Event::Flush),
        1 => (0..4000u64).prop_map(Event::FailOver),
        1 => (-7_200_000_000..7_200_000_000i64).prop_map(Event::Step),
        2 => any::<bool>().prop_map(Event::Weather),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_window_has_more_than_the_limit_whatever_is_lost_doubled_late_emptied_or_stepped(
        seed in 1..u64::MAX,
        machines in 1..24usize,
        events in prop::collection::vec((event(), 0..1500u64), 1..60),
    ) {
        let mut world = World::new(machines, seed);
        world.all(Demand::Endless);
        let mut stepped = None;
        for (event, pause) in events {
            let count = world.machines.len();
            match event {
                Event::Demand(who, demand) => world.machines[who % count].demand = match demand {
                    0 => Demand::Nothing,
                    1 => Demand::Source(2e6),
                    _ => Demand::Endless,
                },
                Event::Cut(who) => world.machines[who % count].connected = false,
                Event::Mend(who) => world.machines[who % count].connected = true,
                Event::TakeOver(who) => {
                    let machine = &mut world.machines[who % count];
                    machine.lease.take_over();
                    (machine.outstanding, machine.rounds) = (None, Rounds::default());
                }
                Event::Die(who) => world.machines[who % count].alive = false,
                Event::Join => {
                    let who = world.add();
                    world.machines[who].demand = Demand::Endless;
                }
                Event::Down => world.up = false,
                Event::Up => world.up = true,
                Event::Restart => world.restart_empty(),
                Event::Flush => world.flush(),
                Event::FailOver(lag) => world.fail_over(millis(lag)),
                // Time servers step a clock now and then, not twice within a lease.
                Event::Step(micros) if stepped.is_none_or(|at| world.now - at > millis(2500)) => {
                    stepped = Some(world.now);
                    world.stepped += micros as f64;
                }
                Event::Step(_) => {}
                Event::Weather(foul) => world.weather = if foul { FOUL } else { FAIR },
            }
            world.pass(millis(pause / 5 * 5));
        }
        // All that still live get everything in the end, but for floors of the others.
        world.weather = FAIR;
        world.up = true;
        world.machines.iter_mut().for_each(|machine| machine.connected = true);
        if world.machines.iter().any(|machine| machine.alive && machine.lease.limit.rate > 0) {
            world.machines.iter_mut().for_each(|machine| machine.demand = Demand::Endless);
            world.pass(millis(5000));
            prop_assert!(used(&world.pass(millis(1000)), millis(1000)) > 0.74);
            world.pass(millis(62_000));
            prop_assert!(used(&world.pass(millis(1000)), millis(1000)) > 0.97);
        }
    }
}
