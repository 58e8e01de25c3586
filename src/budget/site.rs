//! One limit, divided among many machines. Pure: the wall clock of the store is an argument.
//!
//! [`Site`] is what the store keeps for a group. `site.lua` is the same rule for a server that
//! speaks the protocol of Valkey, and gives the same answers: all numbers are doubles in both, and
//! are added up in the same order. [`Lease`](super::Lease) is the machine's side.

/// How long a machine may use the share of a grant, in microseconds from before it asked.
pub const LEASE: f64 = 1.6e6;

/// How long a machine may use its floor, in microseconds from before it asked.
pub const FLOOR_LEASE: f64 = 60e6;

/// The most that the logical clock advances between two requests, in microseconds: a wall clock
/// that steps forward ends no lease by more than this too early.
const LARGEST_STEP: f64 = LEASE / 4.0;

/// How much longer than the machine the store takes a lease for valid, in microseconds.
const SLACK: f64 = LEASE / 4.0;

/// The rate of a group whose limit was lifted, in bytes per second: no machine reaches it, and
/// sums of it are exact in doubles.
pub const OFF: u64 = 1 << 50;

/// All idle machines together hold at most this part of the rate as their floors.
const IDLE_FLOORS: f64 = 1.0 / 32.0;

/// The limit of a group on all machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct SiteLimit {
    /// Bytes per second, at most [`OFF`]; 0 if nobody has set one.
    pub rate: u64,
    /// Depth of the bucket in microseconds of the rate; 0 is the default of a group.
    pub burst: u64,
    /// The part of the rate that is lent as floors, in percent from 0 to 100.
    pub floors: u32,
    /// Counts the changes of the limit. 0 is a proposal: a limit for a group that has none.
    pub generation: u32,
}

/// What a machine reports when it asks for a share.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which machine.
    pub machine: u64,
    /// Counts the keepers of the machine, and the requests of this keeper.
    pub order: (u32, u32),
    /// Bytes per second that it may use from now on, at most, until it hears an answer to this.
    pub held: u64,
    /// Bytes per second that it may use for as long as its floor is lent.
    pub floor: u64,
    /// Bytes per second that its members would use. 0 is an idle machine.
    pub want: u64,
    /// Sum of the weights of its members that are not idle.
    pub weight: u32,
    /// Sum of the guarantees of its members that are not idle, in bytes per second.
    pub guaranteed: u64,
    /// Bytes per second that its members moved of late.
    pub moved: u64,
    /// Generation of the limit that it knows.
    pub generation: u32,
    /// The newest life of the store that it has heard from; 0 if none.
    pub life: u64,
    /// The newest answer of that life.
    pub answer: u64,
    /// Which run of the server it is connected to.
    pub run: u64,
    /// What a store does not know that has lost its data.
    pub introduction: Option<Introduction>,
    /// It gives everything back.
    pub leaves: bool,
}

/// What a machine tells the store when it is asked to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Introduction {
    /// The limit that it knows.
    pub limit: SiteLimit,
    /// What people call the machine, at most [`LONGEST_NAME`] bytes.
    pub name: String,
}

/// Bytes in the name of a machine.
pub const LONGEST_NAME: usize = 24;

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What the machine may use.
    Granted(Granted),
    /// It must ask again with an introduction. Nothing has changed.
    Introduce,
    /// A newer keeper of the machine, this one, has asked since. Nothing has changed.
    Refused(u32),
}

/// A share of the rate, lent for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Bytes per second for [`LEASE`].
    pub share: u64,
    /// Bytes per second for [`FLOOR_LEASE`], at most the share.
    pub floor: u64,
    /// The share that it will get when the others have given back what is not theirs any more.
    pub entitled: u64,
    /// This life of the store.
    pub life: u64,
    /// Counts the answers of this life.
    pub answer: u64,
    /// The limit in force.
    pub limit: SiteLimit,
}

/// What the store knows of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Which machine.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// The order of its latest request.
    pub order: (u32, u32),
    /// Bytes per second that it may be using, and the logical time until when.
    pub charge: f64,
    pub(super) until: f64,
    /// The same of its floor.
    pub floor: f64,
    pub(super) floor_until: f64,
    /// Bytes per second.
    pub want: f64,
    /// Sum of the weights of its members that are not idle.
    pub weight: f64,
    pub(super) guaranteed: f64,
    /// Bytes per second that it moved of late.
    pub moved: f64,
}

/// The limit of a group, and who has which part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// The limit in force.
    pub limit: SiteLimit,
    /// Tells the lives of the store apart: it begins a new one when it has lost its data, or may
    /// have. 0 if it knows nothing.
    pub life: f64,
    pub(super) answer: f64,
    pub(super) run: u64,
    /// The logical clock in microseconds, and the wall clock that it has followed.
    pub(super) clock: f64,
    pub(super) wall: f64,
    /// Until when it learns, in logical time: no share grows.
    pub(super) learns_until: f64,
    /// Until when machines from an earlier life may be using floors that they have not reported,
    /// and how much of them, in bytes per second.
    pub(super) floors_until: f64,
    pub(super) unreported: f64,
    /// It has learned from an earlier life, or is learning.
    pub(super) learned: bool,
    pub(super) machines: Vec<Machine>,
    /// Records of machines are missing.
    pub(super) lost: bool,
}

impl Site {
    /// A store of which only the limit is known.
    pub fn with_limit(limit: SiteLimit) -> Self {
        Site { limit, ..Site::default() }
    }

    /// Sets the limit, for all machines, at `wall` on the store's clock. `known` is the newest
    /// generation of the limit that the caller has heard of.
    ///
    /// A store that knows no limit of a group of which the caller knows none either takes the
    /// group for new: floors are lent at once, unless a machine then reports an earlier life.
    pub fn set(&mut self, limit: SiteLimit, known: u32, run: u64, wall: f64) -> SiteLimit {
        let founds = self.limit.rate == 0 && known == 0;
        self.pass_time(wall);
        if self.life == 0.0 || run != self.run {
            self.learn(run, wall);
        }
        if founds {
            self.learned = false;
            self.floors_until = 0.0;
        }
        let unknown = self.limit.rate == 0;
        let generation = self.limit.generation.max(known) + 1;
        self.limit = SiteLimit { generation, ..limit };
        if unknown && self.floors_until > self.clock {
            self.unreported += self.pool();
        }
        self.limit
    }

    /// Answers a request at `wall` on the store's clock, in microseconds.
    pub fn renew(&mut self, request: &Request, wall: f64) -> Reply {
        let known = self.machines.iter().any(|machine| machine.id == request.machine);
        let lost = self.life == 0.0
            || request.run != self.run
            || self.lost
            || (request.life as f64 == self.life && request.answer as f64 > self.answer)
            || (!self.learned
                && request.life > 0
                && request.life as f64 != self.life
                && request.held.max(request.floor) > 0);
        if request.introduction.is_none() && (lost || !known || request.generation > self.limit.generation) {
            return Reply::Introduce;
        }
        if let Some(own) = self.machines.iter().find(|machine| machine.id == request.machine)
            && !lost
            && request.order <= own.order
        {
            return Reply::Refused(own.order.0);
        }
        self.pass_time(wall);
        if lost {
            self.learn(request.run, wall);
        }
        if let Some(Introduction { limit, .. }) = request.introduction
            && (limit.generation > self.limit.generation || (self.limit.rate == 0 && limit.rate > 0))
        {
            // What an earlier life lent as floors was part of the larger of the two.
            let before = self.pool();
            self.limit = limit;
            if self.floors_until > self.clock {
                self.unreported += (self.pool() - before).max(0.0);
            }
        }
        self.answer += 1.0;
        let clock = self.clock;
        let stays = |machine: &Machine| machine.until > clock || machine.floor_until > clock;
        self.machines.retain(|machine| machine.id == request.machine || stays(machine));
        if request.leaves {
            self.machines.retain(|machine| machine.id != request.machine);
            return Reply::Granted(self.granted(0.0, 0.0, 0.0));
        }
        let index = self.admit(request);
        let (share, floor, entitled) = self.divide(index, request.held as f64, request.floor as f64);
        let own = &mut self.machines[index];
        own.charge = share.max(request.held as f64);
        own.until = clock + LEASE + SLACK;
        own.floor = floor.max(request.floor as f64);
        own.floor_until = clock + FLOOR_LEASE + SLACK;
        Reply::Granted(self.granted(share, floor, entitled))
    }

    /// The machines that may be using something.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The wall clock of the store, in microseconds, when it was asked last.
    pub fn wall(&self) -> f64 {
        self.wall
    }

    /// The wall clock of the store steps by so many microseconds before it is asked next.
    pub fn move_clock(&mut self, micros: f64) {
        if self.life > 0.0 {
            self.wall -= micros;
        }
    }

    /// The store loses what it knows of the machines, and nothing else: it will learn that anew.
    pub fn lose_machines(&mut self) {
        self.lost |= !self.machines.is_empty();
        self.machines.clear();
    }

    /// The machine has asked within its lease.
    pub fn is_live(&self, machine: &Machine) -> bool {
        machine.until > self.clock
    }

    /// Bytes per second that are lent as floors.
    fn pool(&self) -> f64 {
        (self.limit.rate as f64 * f64::from(self.limit.floors) / 100.0).floor()
    }

    fn pass_time(&mut self, wall: f64) {
        self.clock += (wall - self.wall).clamp(0.0, LARGEST_STEP);
        self.wall = wall;
    }

    /// Begins a new life that learns from what machines remember of the one before.
    fn learn(&mut self, run: u64, wall: f64) {
        self.life = wall.max(self.life + 1.0);
        self.run = run;
        self.machines.clear();
        self.learned = true;
        self.lost = false;
        self.learns_until = self.clock + LEASE + SLACK;
        self.floors_until = self.clock + FLOOR_LEASE + SLACK;
        self.unreported = self.pool();
    }

    /// Notes what a machine reports. Returns its place.
    fn admit(&mut self, request: &Request) -> usize {
        let found = self.machines.iter().position(|machine| machine.id == request.machine);
        let index = found.unwrap_or_else(|| {
            if request.life as f64 != self.life {
                self.unreported = (self.unreported - request.floor as f64).max(0.0);
            }
            let name = request.introduction.as_ref().map_or_else(String::new, |words| words.name.clone());
            self.machines.push(Machine {
                id: request.machine,
                name,
                order: (0, 0),
                charge: 0.0,
                until: 0.0,
                floor: 0.0,
                floor_until: 0.0,
                want: 0.0,
                weight: 0.0,
                guaranteed: 0.0,
                moved: 0.0,
            });
            self.machines.len() - 1
        });
        let own = &mut self.machines[index];
        own.order = request.order;
        own.until = self.clock + LEASE + SLACK;
        own.want = request.want as f64;
        own.weight = f64::from(request.weight);
        own.guaranteed = request.guaranteed as f64;
        own.moved = request.moved as f64;
        index
    }

    /// What the machine at `index` gets: share, floor, and the share it is entitled to.
    fn divide(&self, index: usize, held: f64, held_floor: f64) -> (f64, f64, f64) {
        let (clock, rate, pool) = (self.clock, self.limit.rate as f64, self.pool());
        let (mut idle, mut awake, mut gone_floors) = (0.0, 0.0, 0.0);
        let (mut others, mut other_floors) = (0.0, 0.0);
        for (place, machine) in self.machines.iter().enumerate() {
            let floor = if machine.floor_until > clock { machine.floor } else { 0.0 };
            let live = machine.until > clock;
            if !live {
                gone_floors += floor;
            } else if machine.want > 0.0 {
                awake += 1.0;
            } else {
                idle += 1.0;
            }
            if place != index {
                others += if live { machine.charge.max(floor) } else { floor };
                other_floors += floor;
            }
        }
        let unreported = if self.floors_until > clock { self.unreported } else { 0.0 };
        let left = (pool - gone_floors - unreported).max(0.0);
        let idle_floor = ((left / 4.0).min(rate * IDLE_FLOORS) / f64::max(idle + awake, 1.0)).floor();
        let awake_floor = ((left - idle * idle_floor) / f64::max(awake, 1.0)).floor().max(idle_floor);
        // A floor above what a machine wants would be lost to the others.
        let target = |machine: &Machine| machine.want.max(idle_floor).min(awake_floor);

        let parts: Vec<_> = self
            .machines
            .iter()
            .map(|machine| {
                let live = machine.until > clock;
                let floor = if machine.floor_until > clock { machine.floor } else { 0.0 };
                let want = if live { machine.want.min(rate) } else { 0.0 };
                let least = if live { target(machine) } else { floor };
                Part {
                    base: want.min(machine.guaranteed),
                    weight: if want > 0.0 { machine.weight.max(1.0) } else { 0.0 },
                    least,
                    most: want.max(least),
                }
            })
            .collect();
        let entitled = fill((rate - unreported).max(0.0), &parts)[index].floor();

        let free = (rate - others - unreported).max(0.0);
        let free_floors = (pool - other_floors - unreported).max(0.0);
        let learns = self.learns_until > clock;
        let mut floor = target(&self.machines[index]).min(free_floors).min(free);
        let mut share = entitled.min(free);
        if learns {
            floor = floor.min(held_floor);
            share = share.min(held);
        }
        (share.max(floor), floor, entitled)
    }

    fn granted(&self, share: f64, floor: f64, entitled: f64) -> Granted {
        Granted {
            share: share as u64,
            floor: floor as u64,
            entitled: entitled as u64,
            life: self.life as u64,
            answer: self.answer as u64,
            limit: self.limit,
        }
    }
}

/// What one machine can have of the rate.
struct Part {
    /// Bytes per second that it gets first.
    base: f64,
    /// Its part of the rest.
    weight: f64,
    /// Bounds of the sum, in bytes per second.
    least: f64,
    most: f64,
}

/// Divides `rate`: each part is its base and, by weight, a piece of the rest, within its bounds.
/// Whatever a bound takes or leaves is divided among the others. This is how CSS divides a line
/// among flexible boxes (Flexible Box Layout, section 9.7): water-filling with two bounds.
fn fill(rate: f64, parts: &[Part]) -> Vec<f64> {
    let guaranteed: f64 = parts.iter().fold(0.0, |sum, part| sum + part.base);
    let scale = if guaranteed > rate { rate / guaranteed } else { 1.0 };
    let mut wished = vec![0.0; parts.len()];
    let mut filled = vec![0.0; parts.len()];
    let mut open = vec![true; parts.len()];
    loop {
        let (mut rest, mut weights) = (rate, 0.0);
        for (index, part) in parts.iter().enumerate() {
            if open[index] {
                rest -= part.base * scale;
                weights += part.weight;
            } else {
                rest -= filled[index];
            }
        }
        let (mut excess, mut any) = (0.0, false);
        for (index, part) in parts.iter().enumerate() {
            if open[index] {
                any = true;
                let more = if weights > 0.0 { rest * part.weight / weights } else { 0.0 };
                wished[index] = part.base * scale + more;
                filled[index] = wished[index].min(part.most).max(part.least);
                excess += filled[index] - wished[index];
            }
        }
        if !any {
            return filled;
        }
        for index in 0..parts.len() {
            let above = filled[index] - wished[index];
            if excess == 0.0 || (excess > 0.0 && above > 0.0) || (excess < 0.0 && above < 0.0) {
                open[index] = false;
            }
        }
    }
}
