//! Where the time of a run goes, and what is said of it: timelines in simulated time.

mod support;

use std::time::Duration;

use pcproxy::stats::{Account, Cause, Facts, Interval, State, Status, summary, verdict};
use proptest::prelude::*;
use support::config;

const BUFFER: usize = 65_536;
const RATE: u64 = 10 << 20;

/// A run whose account is kept as the event loop keeps it.
struct Run {
    account: Account,
    now: Duration,
    bytes: u64,
    buffered: usize,
    producer_paused: bool,
    facts: Facts,
}

impl Run {
    fn new() -> Self {
        // Any moment is as good as another.
        let start = Duration::from_secs(77);
        Run {
            account: Account::new(start, BUFFER),
            now: start,
            bytes: 0,
            buffered: 0,
            producer_paused: false,
            facts: Facts::default(),
        }
    }

    fn limited() -> Self {
        Run { facts: Facts { limit: Some(RATE), ..Facts::default() }, ..Run::new() }
    }

    /// Bytes move for so long.
    fn moves(&mut self, millis: u64, bytes: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.bytes += bytes;
        self.tells()
    }

    /// From now on so much is held.
    fn holds(&mut self, buffered: usize, producer_paused: bool) -> &mut Self {
        (self.buffered, self.producer_paused) = (buffered, producer_paused);
        self.tells()
    }

    /// What the event loop tells once a look.
    fn tells(&mut self) -> &mut Self {
        self.account.holds(self.now, self.bytes, self.buffered, self.producer_paused);
        self
    }

    /// It waits for so long.
    fn sleeps(&mut self, millis: u64, cause: impl Into<Option<Cause>>) -> &mut Self {
        self.account.sleeps(self.now, cause.into());
        self.now += Duration::from_millis(millis);
        self.account.wakes(self.now);
        self
    }

    /// The machine was in the way for the last so many milliseconds.
    fn late(&mut self, millis: u64) -> &mut Self {
        self.account.late(self.now, Duration::from_millis(millis));
        self
    }

    /// The same steps so many times.
    fn repeats(&mut self, times: usize, steps: impl Fn(&mut Self) -> &mut Self) -> &mut Self {
        (0..times).for_each(|_| _ = steps(self));
        self
    }

    fn asked(&mut self, interval: &mut Interval) -> Status {
        self.account.status(self.now, interval, &self.facts)
    }

    fn status(&mut self) -> Status {
        self.asked(&mut Interval::default())
    }

    fn verdict(&mut self) -> String {
        verdict(&self.status())
    }
}

#[test]
fn a_slow_producer() {
    let verdict = Run::new().repeats(100, |run| run.moves(8, 1000).sleeps(92, Cause::Producer)).verdict();
    assert_eq!(verdict, "producer-bound: stdin was empty 92 % of the time; a larger --buffer would not help");
}

#[test]
fn a_slow_consumer() {
    let mut run = Run::new();
    run.repeats(100, |run| run.moves(17, 1000).holds(BUFFER, true).sleeps(83, Cause::Consumer));
    let status = run.status();
    assert_eq!(verdict(&status), "consumer-bound: stdout was full 83 % of the time; a larger --buffer would not help");
    assert_eq!((status.producer_pauses, status.state), (1, State::ConsumerSlow));
}

/// What comes late once was not kept from coming earlier.
#[test]
fn a_producer_that_starts_late() {
    let mut run = Run::new();
    run.sleeps(4000, Cause::Producer);
    run.repeats(100, |run| run.moves(10, 1000).holds(BUFFER, true).sleeps(50, Cause::Consumer));
    assert!(run.verdict().starts_with("consumer-bound: "), "{}", run.verdict());
}

/// The two take turns in being slow: what the producer could not get rid of is missing later.
#[test]
fn two_sides_in_bursts() {
    let mut run = Run::new();
    run.repeats(10, |run| {
        run.moves(50, 1000).holds(BUFFER, true).sleeps(450, Cause::Consumer);
        run.moves(100, 1000).holds(0, false).sleeps(400, Cause::Producer)
    });
    assert_eq!(
        run.verdict(),
        "bursty: stdin was empty 40 % of the time and stdout was full 45 %; the buffer of 64 KiB is too small for \
         that, a larger --buffer would help"
    );
}

/// Bursts that do not fit into the buffer cost a part of the limit.
#[test]
fn a_producer_in_bursts_and_a_limit() {
    let mut run = Run::limited();
    run.repeats(10, |run| {
        run.moves(10, 1000).holds(BUFFER, true).sleeps(490, Cause::Limit);
        run.holds(0, false).sleeps(500, Cause::Producer)
    });
    assert_eq!(
        run.verdict(),
        "bursty: stdin was empty 50 % of the time and held back by the 10 MiB/s limit 49 %; the buffer of 64 KiB is \
         too small for that, a larger --buffer would help"
    );
}

/// Both sides wait for each other's answer, and the buffer is never full.
#[test]
fn latency() {
    let mut run = Run::new();
    run.repeats(100, |run| {
        run.moves(1, 10).holds(10, false).sleeps(5, Cause::Consumer);
        run.holds(0, false).sleeps(4, Cause::Producer)
    });
    assert_eq!(
        run.verdict(),
        "consumer-bound: stdout was full 50 % of the time and stdin was empty 40 %; the buffer was seldom full, a \
         larger --buffer would not help"
    );
}

#[test]
fn a_limit() {
    let mut run = Run::limited();
    run.repeats(1000, |run| run.moves(1, 1000).holds(BUFFER, true).sleeps(9, Cause::Limit));
    assert_eq!(run.verdict(), "limited: held back by the 10 MiB/s limit 90 % of the time");
    run.facts.limit = None;
    assert_eq!(run.verdict(), "limited: held back by the limit 90 % of the time");
}

#[test]
fn a_limit_and_a_neighbour_that_is_too_slow_for_it() {
    let mix = |limit, other, cause| {
        let mut run = Run::limited();
        run.moves(100, 1000).holds(10, false).sleeps(limit, Cause::Limit).sleeps(other, cause).verdict()
    };
    assert_eq!(
        mix(600, 300, Cause::Producer),
        "limited: held back by the 10 MiB/s limit 60 % of the time and stdin was empty 30 %; the producer was too \
         slow for the limit part of the time"
    );
    assert_eq!(
        mix(300, 600, Cause::Producer),
        "producer-bound: stdin was empty 60 % of the time and held back by the 10 MiB/s limit 30 %; the producer was \
         too slow for the limit part of the time"
    );
    assert_eq!(
        mix(600, 300, Cause::Consumer),
        "limited: held back by the 10 MiB/s limit 60 % of the time and stdout was full 30 %; the consumer was too \
         slow for the limit part of the time"
    );
}

#[test]
fn a_busy_machine() {
    let late = |delay| {
        let mut run = Run::limited();
        run.repeats(100, |run| run.moves(1, 1000).holds(BUFFER, true).sleeps(9, Cause::Limit).late(delay)).verdict()
    };
    assert_eq!(
        late(2),
        "limited: held back by the 10 MiB/s limit 70 % of the time and held back by a busy machine 20 %"
    );
    assert_eq!(
        late(7),
        "machine-bound: held back by a busy machine 70 % of the time and held back by the 10 MiB/s limit 20 %; fewer \
         or less urgent programs beside it would help"
    );
    // It is named beside two other causes, too.
    let mut run = Run::limited();
    run.repeats(100, |run| {
        run.moves(1, 1000).sleeps(3, Cause::Producer).holds(BUFFER, true).sleeps(6, Cause::Limit).late(2)
    });
    assert_eq!(
        run.verdict(),
        "limited: held back by the 10 MiB/s limit 40 % of the time and stdin was empty 30 % and held back by a busy \
         machine 20 %; the producer was too slow for the limit part of the time"
    );
    // Nothing arrived, and it is plain why.
    let mut run = Run::limited();
    assert!(run.holds(10, false).sleeps(900, Cause::Limit).late(900).verdict().starts_with("machine-bound: "));
}

#[test]
fn nobody_is_slow() {
    let mut run = Run::new();
    run.moves(850, 1000).sleeps(70, Cause::Producer).sleeps(80, Cause::Consumer).sleeps(0, None);
    assert_eq!(run.verdict(), "flowing: no bottleneck");
}

#[test]
fn a_run_that_was_told_to_pause() {
    let mut run = Run::new();
    run.moves(100, 1000).sleeps(200, Cause::Consumer).sleeps(700, Cause::Paused);
    assert_eq!(run.verdict(), "paused: pcproxy was told to pause");
    // It is told for the moment; who was slow stays true.
    run.sleeps(2000, Cause::Consumer);
    run.facts.paused = true;
    let status = run.status();
    assert_eq!(status.state, State::Paused);
    assert!(verdict(&status).starts_with("consumer-bound: stdout was full 73 % of the time;"));
}

#[test]
fn runs_of_which_there_is_little_to_say() {
    assert_eq!(Run::new().verdict(), "idle: nothing was delivered");
    assert_eq!(Run::new().sleeps(5000, Cause::Producer).verdict(), "idle: nothing was delivered");
    let brief = "brief: the run was too short to find a bottleneck";
    assert_eq!(Run::new().moves(0, 10).verdict(), brief);
    assert_eq!(Run::new().moves(9, 10).sleeps(90, Cause::Producer).verdict(), brief);
    // Not a byte arrived, and it is plain why.
    let verdict = Run::new().holds(10, false).sleeps(5000, Cause::Consumer).verdict();
    assert!(verdict.starts_with("consumer-bound: stdout was full 100 % of the time;"), "{verdict}");
}

/// A record from elsewhere may claim what it likes.
#[test]
fn no_share_is_more_than_all() {
    let mut status = Run::new().moves(1000, 10).status();
    (status.waited_for_consumer, status.peak_buffered) = (3.0, 1 << 20);
    assert!(verdict(&status).starts_with("consumer-bound: stdout was full 100 % of the time;"));
    assert!(summary(&status)[2].ends_with(", 100 % of 64 KiB"));
}

#[test]
fn a_summary() {
    let mut run = Run::new();
    run.repeats(10, |run| {
        run.moves(50, 2 << 20).holds(BUFFER, true).sleeps(100, Cause::Consumer);
        run.holds(BUFFER / 2, false).sleeps(50, Cause::Consumer)
    });
    assert_eq!(
        summary(&run.status()),
        [
            "20,971,520 bytes (20 MiB) delivered in 2.00 s: 10 MiB/s on average, 16 MiB/s at the peak",
            "the producer was paused 10 times, for 1.00 s in all",
            "the buffer held at most 65,536 bytes, 100 % of 64 KiB",
            "consumer-bound: stdout was full 75 % of the time; a larger --buffer would not help",
        ]
    );
}

#[test]
fn a_summary_of_little() {
    let mut run = Run::new();
    run.moves(1000, 1).holds(1, true).sleeps(250, None).holds(0, false);
    assert_eq!(
        summary(&run.status())[..3],
        [
            "1 byte delivered in 1.25 s: 1 B/s on average, 1 B/s at the peak",
            "the producer was paused once, for 0.25 s",
            "the buffer held at most 1 byte, 0 % of 64 KiB",
        ]
    );
    let nothing = summary(&Run::new().status());
    assert_eq!(
        nothing[..2],
        ["0 bytes delivered in 0.000 s: 0 B/s on average, 0 B/s at the peak", "the producer was never paused"]
    );
}

#[test]
fn the_state_and_the_rate_are_those_of_the_interval() {
    let mut run = Run::new();
    let (mut often, mut once) = (Interval::default(), Interval::default());
    run.moves(1000, 4000).sleeps(3000, Cause::Producer);
    let status = run.asked(&mut often);
    assert_eq!((status.state, status.rate), (State::ProducerSlow, 1000.0));
    run.moves(1000, 4000).sleeps(1000, Cause::Limit);
    let status = run.asked(&mut often);
    assert_eq!((status.state, status.rate), (State::Flowing, 2000.0), "half of the time is not more than half");
    run.moves(1000, 0).sleeps(1001, Cause::Limit);
    let status = run.asked(&mut often);
    assert_eq!((status.state, status.rate), (State::Limited, 0.0));
    let status = run.asked(&mut once);
    assert_eq!((status.state, status.mean_rate), (State::Flowing, status.rate));
}

/// What happens to a run.
#[derive(Clone, Debug)]
enum Event {
    Moves(u64, u64),
    Holds(usize, bool),
    Sleeps(u64, Option<Cause>),
    /// The machine was in the way for so many milliseconds.
    Late(u64),
    /// The neighbour of the asker at hand asks.
    OtherAsks,
    Asks,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let cause = prop::sample::select(vec![Cause::Producer, Cause::Consumer, Cause::Limit, Cause::Paused]);
    let event = prop_oneof![
        (1..400u64, 0..100_000u64).prop_map(|(millis, bytes)| Event::Moves(millis, bytes)),
        (0..=BUFFER, any::<bool>()).prop_map(|(buffered, paused)| Event::Holds(buffered, paused)),
        (0..2000u64, prop::option::weighted(0.9, cause)).prop_map(|(millis, cause)| Event::Sleeps(millis, cause)),
        (0..500u64).prop_map(Event::Late),
        Just(Event::OtherAsks),
        Just(Event::Asks),
    ];
    prop::collection::vec(event, 0..60)
}

/// What the asker and the other one are told, and what someone is told who asks for the first time.
fn replay(events: &[Event]) -> (Vec<Status>, Vec<Status>, Status) {
    let mut run = Run::new();
    let (mut mine, mut others) = (Interval::default(), Interval::default());
    let mut told = (vec![], vec![]);
    for event in events {
        match *event {
            Event::Moves(millis, bytes) => _ = run.moves(millis, bytes),
            Event::Holds(buffered, paused) => _ = run.holds(buffered, paused),
            Event::Sleeps(millis, cause) => _ = run.sleeps(millis, cause),
            Event::Late(millis) => _ = run.late(millis),
            Event::Asks => told.0.push(run.asked(&mut mine)),
            Event::OtherAsks => told.1.push(run.asked(&mut others)),
        }
    }
    told.0.push(run.asked(&mut mine));
    (told.0, told.1, run.status())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_time_is_accounted_twice(events in events()) {
        let slept = |wanted: fn(&Option<Cause>) -> bool| -> f64 {
            let slept = events.iter().map(|event| match event {
                Event::Sleeps(millis, cause) if wanted(cause) => *millis,
                Event::Moves(millis, _) if wanted(&None) => *millis,
                _ => 0,
            });
            slept.sum::<u64>() as f64 / 1000.0
        };
        let (told, _, status) = replay(&events);
        for status in &told {
            prop_assert!(status.producer_paused <= status.elapsed);
            prop_assert!(status.buffered <= status.peak_buffered);
            prop_assert!(status.peak_rate >= status.mean_rate);
        }
        for pair in told.windows(2) {
            prop_assert!(pair[0].waited_for_limit <= pair[1].waited_for_limit);
            prop_assert!(pair[0].waited_for_machine <= pair[1].waited_for_machine);
        }
        let waited = status.waited_for_producer + status.waited_for_consumer + status.waited_for_limit;
        let machine = status.waited_for_machine;
        let moving = slept(|cause| matches!(cause, None | Some(Cause::Paused)));
        prop_assert!(waited + machine <= status.elapsed + 1e-9);
        // The machine takes from time that moved bytes, and from the three causes.
        prop_assert!(waited + machine + moving >= status.elapsed - 1e-9);
        prop_assert!(waited + moving <= status.elapsed + 1e-9);
        prop_assert!(slept(|cause| *cause == Some(Cause::Limit)) >= status.waited_for_limit - 1e-9);
        if machine == 0.0 {
            prop_assert!((waited + moving - status.elapsed).abs() < 1e-9);
            prop_assert!((slept(|cause| *cause == Some(Cause::Limit)) - status.waited_for_limit).abs() < 1e-9);
        }
    }

    #[test]
    fn who_asks_does_not_disturb_the_others(events in events()) {
        let alone: Vec<_> = events.iter().filter(|event| !matches!(event, Event::OtherAsks)).cloned().collect();
        prop_assert_eq!(replay(&events).0, replay(&alone).0);
    }

    /// The intervals of one asker are the whole run: none is left out, none is told twice.
    #[test]
    fn intervals_add_up(events in events()) {
        let mut before = 0.0;
        let mut bytes = 0.0;
        for status in replay(&events).0 {
            bytes += status.rate * (status.elapsed - before);
            before = status.elapsed;
            // Each rate is rounded to a whole byte a second.
            prop_assert!(before == 0.0 || (bytes - status.bytes as f64).abs() <= before + 1e-3);
        }
    }

    #[test]
    fn there_is_always_a_verdict(events in events()) {
        for status in replay(&events).0 {
            let verdict = verdict(&status);
            prop_assert!(verdict.contains(": ") && !verdict.contains('\n') && !verdict.contains("NaN"), "{}", verdict);
        }
    }
}
