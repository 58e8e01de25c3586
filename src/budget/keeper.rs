//! The keeper: one thread of one process of a machine that talks to the store of many machines.
//!
//! Every process that is a member of a shared group has such a thread, since the event loop cannot
//! wait for names to be found and servers to answer. The file of the group says which of them is in
//! office. The others only look now and then whether it still is: a lock alone would leave a
//! stopped keeper in office.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::plan::Plan;
use super::record::{Record, timestamp};
use super::shared::Shared;
use super::sharing::limit_of;
use super::site::{Introduction, Reply, SiteLimit};
use super::valkey::{Binding, Offer, Store, StoreError};
use super::{Budget, Gauge, GroupFile, Lease, Name, Needs, Rounds, Seen};
use crate::os::clock;
use crate::os::{RuntimeFolder, own_id};

/// How often the keeper looks at what members need, and shows itself in the file.
const LOOK: Duration = Duration::from_millis(50);
const SHOW: Duration = Duration::from_millis(250);

/// How often a thread that is not in office looks whether another one is.
const WATCH: Duration = Duration::from_millis(250);

/// How often a machine that moves bytes reports what it has used of a quota, and how often a machine
/// asks for the time of the store and a plan that it may have missed.
const REPORT: Duration = Duration::from_secs(1);
const LISTEN: Duration = Duration::from_secs(60);

/// How soon a store is tried again that could not be used: at first, and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_AT_MOST: Duration = Duration::from_millis(300);

/// The stack of the thread in bytes: reading a time zone takes most of it. Only what is used takes up
/// memory.
const STACK: usize = 2 << 20;

/// How long a process waits at its end for its keeper to give back what the machine has borrowed.
const FAREWELL: Duration = Duration::from_millis(150);

/// The part of the rate of a proposed limit that is lent as floors, in percent.
pub(super) const FLOORS: u32 = 25;

/// The thread of this process. It ends with the last of these.
#[derive(Debug)]
pub(super) struct Keeper {
    orders: Mutex<Option<Sender<Name>>>,
    ended: Mutex<Receiver<()>>,
}

impl Keeper {
    /// The thread of this process, which then serves this group too.
    pub(super) fn serve(folder: &RuntimeFolder, group: &Name) -> Arc<Keeper> {
        static OWN: Mutex<Weak<Keeper>> = Mutex::new(Weak::new());
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = own.upgrade().unwrap_or_else(|| {
            let (orders, received) = mpsc::channel();
            let (ending, ended) = mpsc::channel();
            let folder = folder.clone();
            // Without a thread nothing is borrowed, and the members wait.
            let _ = thread::Builder::new().name("keeper".to_owned()).stack_size(STACK).spawn(move || {
                Office { folder, desks: Vec::new(), stores: Vec::new() }.run(&received);
                let _ = ending.send(());
            });
            Arc::new(Keeper { orders: Mutex::new(Some(orders)), ended: Mutex::new(ended) })
        });
        *own = Arc::downgrade(&keeper);
        if let Some(orders) = &*keeper.orders.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = orders.send(group.clone());
        }
        keeper
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(FAREWELL);
    }
}

/// What the thread has to do.
struct Office {
    folder: RuntimeFolder,
    desks: Vec<Desk>,
    /// One connection for all groups in a store.
    stores: Vec<(Binding, Store)>,
}

/// What it has to do for a group.
struct Desk {
    group: Name,
    file: GroupFile,
    gauge: Gauge,
    rounds: Rounds,
    needs: Needs,
    /// What the machine has borrowed, while this thread is in office.
    lease: Option<Lease>,
    shown: Duration,
    /// When to try the store again, and how often it has failed in a row.
    retry_at: Duration,
    failures: u32,
    introduce: bool,
    minds: Minds,
}

/// What a desk knows of the plan of its group.
#[derive(Default)]
struct Minds {
    /// The generation of the limit and the life of the store when it was heard of last.
    state: Option<(u32, u64)>,
    /// When that was, and when to ask again if that failed.
    heard_at: Duration,
    retry_at: Duration,
    /// The wall clock of the store then, in milliseconds since 1970.
    time: i64,
    /// The plan, to find out what limit all machines have.
    steps: Option<Plan>,
}

impl Office {
    fn run(mut self, orders: &Receiver<Name>) {
        let mut wait = Duration::ZERO;
        loop {
            match orders.recv_timeout(wait) {
                Ok(group) => self.open(&group),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let mut next = WATCH;
            for desk in &mut self.desks {
                next = next.min(desk.turn(&self.folder, &mut self.stores));
            }
            wait = next.max(Duration::from_millis(1));
        }
        self.desks.iter_mut().for_each(|desk| desk.close(&mut self.stores));
    }

    fn open(&mut self, group: &Name) {
        if self.desks.iter().any(|desk| desk.group == *group) {
            return;
        }
        if let Ok(Some(file)) = GroupFile::open(&self.folder, group.clone(), false) {
            self.desks.push(Desk {
                group: group.clone(),
                file,
                gauge: Gauge::default(),
                rounds: Rounds::default(),
                needs: Needs::default(),
                lease: None,
                shown: Duration::ZERO,
                retry_at: Duration::ZERO,
                failures: 0,
                introduce: false,
                minds: Minds::default(),
            });
        }
    }
}

impl Desk {
    /// Does what is to be done now. Returns after how long to come again.
    fn turn(&mut self, folder: &RuntimeFolder, stores: &mut Vec<(Binding, Store)>) -> Duration {
        let now = clock::boot_time();
        let Some(Record { budget, plan, shared, .. }) = self.file.peek() else { return WATCH };
        let Some(shared) = shared else {
            // It is shared no more.
            self.lease = None;
            return WATCH;
        };
        if !self.holds(&shared) {
            self.lease = None;
            if !shared.needs_keeper(now, |id| folder.lives(id)) || !self.take_office(folder, now) {
                return WATCH;
            }
        }
        let Some(lease) = &self.lease else { return WATCH };
        let allowed = lease.allowed(now).or(shared.binding.fallback).unwrap_or(0);
        self.needs = self.gauge.look(now, allowed, seen(&budget, clock::now()));
        if now.saturating_sub(self.shown) >= SHOW {
            self.show(now);
        }
        let mut due = self.rounds.due(self.needs).max(self.retry_at);
        // An answer may ask for the next request at once.
        for _ in 0..3 {
            if due > now {
                break;
            }
            self.renew(&shared, stores);
            due = self.rounds.due(self.needs).max(self.retry_at);
        }
        self.mind_plan(&budget, plan, &shared, stores);
        due.saturating_sub(clock::boot_time()).min(LOOK)
    }

    /// This thread is in office, as far as the file says.
    fn holds(&self, shared: &Shared) -> bool {
        let keeper = shared.keeper.map(|(keeper, _)| keeper);
        keeper == Some(own_id()) && self.lease.as_ref().is_some_and(|lease| lease.keeper == shared.lease.keeper)
    }

    fn take_office(&mut self, folder: &RuntimeFolder, now: Duration) -> bool {
        let taken = self.file.update_shared(|_, shared| {
            let shared = shared.as_mut()?;
            if !shared.needs_keeper(now, |id| folder.lives(id)) {
                return None;
            }
            shared.lease.take_over();
            shared.keeper = Some((own_id(), now));
            Some(shared.lease.clone())
        });
        self.lease = taken.ok().flatten().flatten();
        self.minds = Minds::default();
        (self.rounds, self.shown, self.retry_at, self.failures) = (Rounds::default(), now, Duration::ZERO, 0);
        self.lease.is_some()
    }

    /// Shows in the file that this thread is not stuck.
    fn show(&mut self, now: Duration) {
        if self.change(|_, shared| shared.keeper = Some((own_id(), now))) == Some(true) {
            self.shown = now;
        }
    }

    /// Has `change` change the file if this thread is still in office. Nothing if the file cannot
    /// be had.
    fn change(&mut self, change: impl FnOnce(&mut Budget, &mut Shared)) -> Option<bool> {
        let keeper = self.lease.as_ref()?.keeper;
        let done = self.file.update_shared(|budget, shared| match shared {
            Some(shared) if shared.lease.keeper == keeper => {
                change(budget, shared);
                true
            }
            _ => false,
        });
        done.ok().flatten()
    }

    /// Learns of the plan that the group has on all machines, tells what this one has used of its
    /// quota, and sets the limit when the plan says so. All machines do so by the clock of the store,
    /// and to set what is in force already is left out.
    fn mind_plan(
        &mut self,
        budget: &Budget,
        mut plan: Option<Plan>,
        shared: &Shared,
        stores: &mut Vec<(Binding, Store)>,
    ) {
        let Some(lease) = self.lease.clone().filter(|lease| lease.life() > 0) else { return };
        let (now, counted) = (clock::boot_time(), budget.counted());
        let state = (lease.limit.generation, lease.life());
        let every = match &plan {
            Some(plan) if plan.has_quota() && self.needs.want > 0 => REPORT,
            _ => LISTEN,
        };
        let is_news = self.minds.state != Some(state) && now >= self.minds.retry_at;
        if is_news || now >= self.minds.heard_at + every {
            self.minds.retry_at = now + REPORT;
            let Ok(store) = store_of(stores, &shared.binding) else { return };
            let report = plan.as_mut().and_then(|plan| plan.report(timestamp(clock::wall()), counted));
            let known = (shared.plan_version > 0).then(|| plan.clone());
            let offer = Offer { version: shared.plan_version, plan: known, report };
            // What is wrong with the store is told where shares are asked for.
            let Ok(heard) = store.exchange(&self.group, &offer, lease.machine) else { return };
            let keeper = lease.keeper;
            let taken = self.file.update_shortly(|record| {
                let (now, counted) = (record.now(), record.budget.counted());
                let shared = record.shared.as_mut().filter(|shared| shared.lease.keeper == keeper)?;
                let mut plan = record.plan.take();
                if heard.version > shared.plan_version {
                    shared.plan_version = heard.version;
                    plan = heard.plan.clone().map(|new| new.adopt(plan.as_ref(), now, counted));
                }
                if let (Some(plan), Some(report)) = (&mut plan, &report) {
                    plan.hear(report, heard.total);
                }
                record.follow(plan.clone());
                Some(plan)
            });
            let Ok(Some(Some(new))) = taken else { return };
            self.minds = Minds { state: Some(state), heard_at: now, retry_at: now, time: heard.time, steps: new };
            if let Some(steps) = &mut self.minds.steps {
                steps.forget_look();
            }
        }
        let passed = i64::try_from((now - self.minds.heard_at).as_millis()).unwrap_or(i64::MAX);
        let there = Timestamp::from_millisecond(self.minds.time.saturating_add(passed)).unwrap_or(Timestamp::MAX);
        let Some(steps) = self.minds.steps.as_mut().filter(|steps| steps.is_due(there, counted)) else { return };
        let limit = limit_of(steps.look(there, counted).limit, lease.limit.floors);
        if (limit.rate, limit.burst) == (lease.limit.rate, lease.limit.burst) {
            return;
        }
        let set = store_of(stores, &shared.binding).map(|store| store.set(&self.group, limit, lease.limit.generation));
        match set {
            Ok(Ok(whole)) => {
                let _ = self.change(|_, shared| {
                    if shared.lease.limit.generation < whole.generation {
                        shared.lease.limit = whole;
                    }
                });
                if let Some(lease) = &mut self.lease {
                    lease.limit = whole;
                }
                self.minds.state = Some((whole.generation, lease.life()));
                self.rounds.again();
            }
            // It is tried again at once.
            _ => steps_again(&mut self.minds),
        }
    }

    /// Asks the store for a share.
    fn renew(&mut self, shared: &Shared, stores: &mut Vec<(Binding, Store)>) {
        let Some(mut lease) = self.lease.clone() else { return };
        let store = match store_of(stores, &shared.binding) {
            Ok(store) => store,
            Err(error) => return self.failed(error.to_string()),
        };
        let run = match store.run_id() {
            Ok(run) => run,
            Err(error) => return self.failed(error.to_string()),
        };
        let introduce = std::mem::take(&mut self.introduce) || lease.limit.rate == 0 && shared.proposal > 0;
        let proposal = SiteLimit { rate: shared.proposal, burst: 0, floors: FLOORS, generation: 0 };
        let limit = if lease.limit.rate > 0 { lease.limit } else { proposal };
        let words = introduce.then(|| Introduction { limit, name: host_name() });
        // The lease counts from before the request was sent.
        let sent = clock::boot_time();
        let request = lease.ask(self.needs, run, words, sent);
        self.rounds.asks(&request, self.needs, sent);
        let known = lease.limit;
        self.lease = Some(lease.clone());
        match store.renew(&self.group, &request, known) {
            Ok(Reply::Granted(granted)) if lease.hear(&request, sent, &granted) => {
                let now = clock::boot_time();
                let written = self.change(|budget, shared| {
                    shared.lease = lease.clone();
                    shared.keeper = Some((own_id(), now));
                    shared.trouble = None;
                    shared.apply(budget, now, clock::now());
                });
                match written {
                    // Only now may the store be told.
                    Some(true) => {
                        (self.lease, self.shown, self.failures) = (Some(lease), now, 0);
                        self.rounds.hears(&granted);
                    }
                    Some(false) => self.lease = None,
                    None => self.retry_at = now + RETRY,
                }
            }
            Ok(Reply::Granted(_)) => {}
            Ok(Reply::Introduce) => {
                self.introduce = true;
                self.rounds.again();
            }
            Ok(Reply::Refused(keeper)) => {
                // The file knows less than the store: an older copy of it was put back.
                let _ = self.change(|_, shared| {
                    shared.lease.keeper = keeper;
                    shared.keeper = None;
                });
                self.lease = None;
            }
            Err(error) => self.failed(error.to_string()),
        }
    }

    fn failed(&mut self, why: String) {
        self.failures += 1;
        self.retry_at = clock::boot_time() + (RETRY * self.failures.min(16)).min(RETRY_AT_MOST);
        let now = clock::boot_time();
        let _ = self.change(|_, shared| {
            shared.keeper = Some((own_id(), now));
            shared.trouble = Some(why);
        });
        self.shown = now;
    }

    /// Hands over to another member, or gives back what was borrowed if there is none.
    fn close(&mut self, stores: &mut Vec<(Binding, Store)>) {
        let mut parting = None;
        let _ = self.change(|budget, shared| {
            shared.keeper = None;
            if budget.members().is_empty() && shared.lease.limit.rate > 0 {
                let now = clock::boot_time();
                parting = Some((shared.binding.clone(), shared.lease.clone()));
                shared.lease.give_up();
                shared.apply(budget, now, clock::now());
            }
        });
        if let Some((binding, _)) = parting
            && let Some(mut lease) = self.lease.take()
            && let Ok(store) = store_of(stores, &binding)
            && let Some(run) = store.connected_run()
        {
            let request = lease.leave(run, clock::boot_time());
            let _ = store.renew(&self.group, &request, lease.limit);
        }
    }
}

/// Has the next look at the plan find out everything anew.
fn steps_again(minds: &mut Minds) {
    minds.steps.iter_mut().for_each(Plan::forget_look);
}

/// The connection to this store.
fn store_of<'a>(stores: &'a mut Vec<(Binding, Store)>, binding: &Binding) -> Result<&'a mut Store, StoreError> {
    let place = match stores.iter().position(|(found, _)| found == binding) {
        Some(place) => place,
        None => {
            stores.push((binding.clone(), Store::new(binding.clone())?));
            stores.len() - 1
        }
    };
    Ok(&mut stores[place].1)
}

/// What is seen of the members at `now`.
fn seen(budget: &Budget, now: Duration) -> impl Iterator<Item = Seen> {
    budget.members().iter().map(move |account| Seen {
        member: (u64::from(account.id.pid) << 32) | u64::from(account.id.nonce),
        terms: account.terms,
        used: account.used,
        waits: account.waits(now),
    })
}

/// What people call this machine.
pub(super) fn host_name() -> String {
    let name = nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |uname| uname.nodename().to_string_lossy().into_owned());
    name.chars().filter(|sign| !sign.is_control()).collect()
}
