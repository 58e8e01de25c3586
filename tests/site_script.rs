//! The script that runs in the server gives the same answers as the rule in Rust, and leaves the
//! same data, on the same sequences of requests: numbers are the same to the last bit.

#[path = "support/store.rs"]
mod store;

use std::cell::RefCell;
use std::collections::HashMap;

use pcproxy::budget::Name;
use pcproxy::budget::site::{Introduction, Reply, Request, Site, SiteLimit};
use pcproxy::budget::valkey::{Binding, Store};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use store::Server;

/// Lets the server believe that its clock was `KEYS[1]`'s state, moved: what is at the fourth of
/// the numbers of the state is the wall clock that it saw last.
const MOVE_CLOCK: &str = "local s = redis.call('HGET', KEYS[1], 'state') \
    if s then local w = struct.unpack('<d', s, 25) \
    redis.call('HSET', KEYS[1], 'state', string.sub(s, 1, 24) .. struct.pack('<d', w - ARGV[1]) .. string.sub(s, 33)) end";

fn bound(server: &Server) -> Store {
    Store::new(Binding { store: server.url(), ..Binding::default() }).unwrap()
}

fn limit(rate: u64, floors: u32) -> SiteLimit {
    SiteLimit { rate, burst: 12_000, floors, generation: 0 }
}

/// What happens to the store.
#[derive(Clone, Debug)]
enum Event {
    /// A machine asks: which, with which wants, weights and guarantees.
    Ask {
        who: u64,
        want: u64,
        weight: u32,
        guaranteed: u64,
        acts: u8,
    },
    Set(u64, u32),
    /// So many microseconds pass.
    Pass(i64),
    Flush,
    LoseMachines,
}

fn event() -> impl Strategy<Value = Event> {
    let want = prop_oneof![Just(0u64), 1..100_000_000u64, Just(1u64 << 50)];
    let guaranteed = prop_oneof![3 => Just(0u64), 1 => 1..50_000_000u64];
    prop_oneof![
        20 => (0..12u64, want, 0..5000u32, guaranteed, 0..20u8)
            .prop_map(|(who, want, weight, guaranteed, acts)| Event::Ask { who, want, weight, guaranteed, acts }),
        1 => (1..100_000_000u64, 0..=100u32).prop_map(|(rate, floors)| Event::Set(rate, floors)),
        3 => (-5_000_000..5_000_000i64).prop_map(Event::Pass),
        1 => Just(Event::Flush),
        1 => Just(Event::LoseMachines),
    ]
}

/// What a machine remembers.
#[derive(Clone, Default)]
struct Memory {
    number: u32,
    held: u64,
    floor: u64,
    life: u64,
    answer: u64,
    limit: SiteLimit,
}

#[test]
fn the_script_and_the_rule_give_the_same_answers() {
    let Some(server) = Server::start(&[]) else { return };
    let store = RefCell::new(bound(&server));
    let group: Name = "site/backup".parse().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() });
    let events = prop::collection::vec(event(), 1..80);
    let outcome = runner.run(&events, |events| {
        server.call(&["FLUSHALL"]);
        let mut rule = Site::default();
        let mut memories: HashMap<u64, Memory> = HashMap::new();
        for event in events {
            compare(&server, &mut store.borrow_mut(), &group, &mut rule, &mut memories, event)?;
        }
        Ok(())
    });
    outcome.unwrap();
}

fn compare(
    server: &Server,
    store: &mut Store,
    group: &Name,
    rule: &mut Site,
    memories: &mut HashMap<u64, Memory>,
    event: Event,
) -> Result<(), TestCaseError> {
    let run = store.run_id().unwrap();
    match event {
        Event::Flush => {
            server.call(&["FLUSHALL"]);
            *rule = Site::default();
        }
        Event::LoseMachines => {
            server.call(&["DEL", "pcproxy:1:{site}:site/backup:machines"]);
            rule.lose_machines();
        }
        Event::Pass(micros) => {
            server.call(&["EVAL", MOVE_CLOCK, "1", "pcproxy:1:{site}:site/backup", &micros.to_string()]);
            rule.move_clock(micros as f64);
        }
        Event::Set(rate, floors) => {
            let known = memories.values().map(|memory| memory.limit.generation).max().unwrap_or(0);
            let set = store.set(group, limit(rate, floors), known).unwrap();
            let kept = store.look(group).unwrap();
            prop_assert_eq!(set, rule.set(limit(rate, floors), known, run, kept.wall()));
            prop_assert_eq!(&kept, &*rule);
        }
        Event::Ask { who, want, weight, guaranteed, acts } => {
            let memory = memories.entry(who).or_default();
            memory.number += 1;
            let mut request = Request {
                machine: who,
                // Now and then an old keeper, or an old request.
                order: (u32::from(acts > 2), if acts == 3 { memory.number / 2 } else { memory.number }),
                held: memory.held,
                floor: memory.floor,
                want,
                weight,
                guaranteed,
                moved: want / 2,
                generation: memory.limit.generation,
                life: memory.life,
                answer: memory.answer,
                run,
                introduction: None,
                leaves: acts == 4,
            };
            for _ in 0..2 {
                let reply = store.renew(group, &request, memory.limit).unwrap();
                let kept = store.look(group).unwrap();
                prop_assert_eq!(&reply, &rule.renew(&request, kept.wall()));
                prop_assert_eq!(&kept, &*rule);
                match reply {
                    Reply::Introduce => {
                        let words = Introduction { limit: memory.limit, name: format!("machine-{who}") };
                        request.introduction = Some(words);
                    }
                    // Now and then the answer is lost.
                    Reply::Granted(granted) if acts != 5 => {
                        memory.held = granted.share;
                        memory.floor = granted.floor;
                        (memory.life, memory.answer) = (granted.life, granted.answer);
                        memory.limit = granted.limit;
                        break;
                    }
                    Reply::Granted(_) | Reply::Refused(_) => break,
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_server_that_has_forgotten_the_script_is_told_it_again() {
    let Some(server) = Server::start(&[]) else { return };
    let mut store = bound(&server);
    let group: Name = "uplink".parse().unwrap();
    let set = store.set(&group, limit(1_000_000, 25), 0).unwrap();
    assert_eq!(set, SiteLimit { generation: 1, ..limit(1_000_000, 25) });
    server.call(&["SCRIPT", "FLUSH"]);
    let set = store.set(&group, limit(2_000_000, 25), 1).unwrap();
    assert_eq!((set.rate, set.generation), (2_000_000, 2));
    assert_eq!(store.look(&group).unwrap().limit, set);
}

#[test]
fn what_is_kept_of_machines_expires_and_the_limit_does_not() {
    let Some(server) = Server::start(&[]) else { return };
    let mut store = bound(&server);
    let group: Name = "uplink".parse().unwrap();
    let known = store.set(&group, limit(1_000_000, 25), 0).unwrap();
    let run = store.run_id().unwrap();
    let words = Introduction { limit: known, name: "a machine with a name that is too long".into() };
    let request = Request {
        machine: 1,
        order: (1, 1),
        held: 0,
        floor: 0,
        want: 5,
        weight: 100,
        guaranteed: 0,
        moved: 0,
        generation: 1,
        life: 0,
        answer: 0,
        run,
        introduction: Some(words),
        leaves: false,
    };
    assert!(matches!(store.renew(&group, &request, known), Ok(Reply::Granted(_))));
    assert_eq!(store.look(&group).unwrap().machines()[0].name, "a machine with a name th");
    assert_eq!(server.call(&["TTL", "pcproxy:1:{uplink}:uplink"]), ":-1");
    let left: i64 = server.call(&["TTL", "pcproxy:1:{uplink}:uplink:machines"])[1..].parse().unwrap();
    assert!((60..=120).contains(&left), "{left}");
}
