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

use super::shared::Shared;
use super::site::{Introduction, Reply, SiteLimit};
use super::valkey::{Binding, Store, StoreError};
use super::{Budget, Gauge, GroupFile, Lease, Name, Needs, Rounds, Seen};
use crate::os::clock;
use crate::os::{RuntimeFolder, own_id};

/// How often the keeper looks at what members need, and shows itself in the file.
const LOOK: Duration = Duration::from_millis(50);
const SHOW: Duration = Duration::from_millis(250);

/// How often a thread that is not in office looks whether another one is.
const WATCH: Duration = Duration::from_millis(250);

/// How soon a store is tried again that could not be used: at first, and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_AT_MOST: Duration = Duration::from_millis(300);

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
            let _ = thread::Builder::new().name("keeper".to_owned()).stack_size(256 * 1024).spawn(move || {
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
            });
        }
    }
}

impl Desk {
    /// Does what is to be done now. Returns after how long to come again.
    fn turn(&mut self, folder: &RuntimeFolder, stores: &mut Vec<(Binding, Store)>) -> Duration {
        let now = clock::boot_time();
        let Some((budget, shared)) = self.file.peek() else { return WATCH };
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
