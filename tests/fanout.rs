//! What holds of several consumers of one buffer, whatever they do: random consumers and limits, in
//! simulated time.

mod support;

use std::iter::Cycle;
use std::time::Duration;

use pcproxy::buffer::Buffer;
use pcproxy::flow::{Branch, Downstream, Fanout, Flow, Watermarks};
use pcproxy::shaping::{Limit, TokenBucket};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use support::{Deque, Stream, TakesPassed, byte_of_stream, config};

/// How a consumer behaves.
#[derive(Clone, Debug)]
struct Habits {
    /// So many bytes at each attempt; after that it is not ready until it is woken.
    attempts: Vec<usize>,
    /// It takes bytes only from the front of the buffer, as a pipe that is teed does.
    only_from_the_front: bool,
    /// It fails once it has taken so many bytes.
    fails_after: Option<usize>,
    /// It takes no more once it has taken so many bytes, and never becomes ready again.
    stalls_after: Option<usize>,
}

/// A consumer that checks that it gets the stream, in order and without gaps.
struct Taker {
    id: usize,
    habits: Habits,
    attempts: Cycle<std::vec::IntoIter<usize>>,
    taken: usize,
    ready: bool,
    finished: bool,
}

impl Taker {
    fn new(id: usize, habits: Habits) -> Self {
        let attempts = habits.attempts.clone().into_iter().cycle();
        Taker { id, habits, attempts, taken: 0, ready: true, finished: false }
    }

    fn stalls(&self) -> bool {
        self.habits.stalls_after.is_some_and(|most| self.taken >= most)
    }
}

impl Branch<Deque> for Taker {
    type Error = usize;

    fn take(&mut self, buffer: &mut Deque, at: usize, limit: usize) -> Result<usize, usize> {
        assert!(limit > 0 && self.ready && !self.finished);
        if self.habits.fails_after.is_some_and(|most| self.taken >= most) {
            return Err(self.taken);
        }
        if at > 0 && self.habits.only_from_the_front {
            return Ok(0);
        }
        let most = self.attempts.next().expect("for ever").min(limit);
        let taken = most.min(buffer.len() - at);
        for byte in buffer.0.range(at..at + taken) {
            assert_eq!(*byte, byte_of_stream(self.taken), "byte {} of the stream", self.taken);
            self.taken += 1;
        }
        self.ready = taken > 0 && taken == limit && !self.stalls();
        Ok(taken)
    }

    fn is_ready(&self) -> bool {
        self.ready
    }
    fn finish(&mut self) {
        assert!(!self.finished, "finished twice");
        self.finished = true;
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
}

#[derive(Clone, Debug)]
struct Setup {
    takers: Vec<Habits>,
    end: usize,
    piece: usize,
    high: usize,
    limit: Option<(u64, u64)>,
    luck: Vec<usize>,
}

fn habits() -> impl Strategy<Value = Habits> {
    let amount = prop_oneof![0..4usize, 1..40usize, Just(usize::MAX)];
    let attempts = (prop::collection::vec(amount, 0..5), 1..40usize).prop_map(|(mut attempts, one)| {
        attempts.push(one);
        attempts
    });
    let sometimes = || prop_oneof![4 => Just(None), 1 => (0..300usize).prop_map(Some)];
    (attempts, any::<bool>(), sometimes()).prop_map(|(attempts, only_from_the_front, fails_after)| Habits {
        attempts,
        only_from_the_front,
        fails_after,
        stalls_after: None,
    })
}

fn setup() -> impl Strategy<Value = Setup> {
    let limit = prop::option::of((1..2000u64, 1..100u64));
    let luck = prop::collection::vec(0..16usize, 1..16);
    (prop::collection::vec(habits(), 2..5), 0..400usize, 1..60usize, 1..100usize, limit, luck)
        .prop_map(|(takers, end, piece, high, limit, luck)| Setup { takers, end, piece, high, limit, luck })
}

type Takers = Fanout<Taker, usize>;

impl TakesPassed for Takers {
    fn take_passed(&mut self, _: u8) {
        unreachable!("several consumers get their bytes from the buffer");
    }
}

struct Simulation {
    flow: Flow<Stream, Takers, Deque, TokenBucket>,
    setup: Setup,
    now: Duration,
    luck: Cycle<std::vec::IntoIter<usize>>,
    /// For each taker the least of `taken - rate * t` so far, in billionths of a byte.
    least: Vec<i128>,
    failed: Vec<(usize, usize)>,
}

/// How a run came to its end.
#[derive(Debug, PartialEq)]
enum End {
    Finished,
    AllFailed,
    /// Only consumers that stall are waited for.
    Stalled,
}

impl Simulation {
    fn new(setup: Setup) -> Self {
        let takers = setup.takers.iter().enumerate().map(|(id, habits)| Taker::new(id, habits.clone()));
        let limit = setup.limit.map(|(rate, burst)| Limit::new(rate, burst));
        // It is always ready, and nothing goes past the buffer.
        let stream = Stream::new(vec![(setup.piece, true)], vec![(0, true)], true, setup.end);
        let watermarks = Watermarks::new(setup.high, setup.high / 2);
        let flow =
            Flow::new(stream, true, Fanout::new(takers), Deque::default(), watermarks, TokenBucket::empty(limit));
        let least = vec![0; setup.takers.len()];
        let luck = setup.luck.clone().into_iter().cycle();
        Simulation { flow, setup, now: Duration::ZERO, luck, least, failed: Vec::new() }
    }

    fn takers(&mut self) -> &mut Takers {
        self.flow.proxy_mut().consumer_mut().expect("not stopped")
    }

    fn run(&mut self) -> Result<End, TestCaseError> {
        // Every other attempt moves a byte, one way or the other.
        let mut steps_left = 40 * (self.setup.end + 10) * self.setup.takers.len();
        loop {
            prop_assert!(steps_left > 0, "it turns without end: {:?}", self.flow.proxy());
            steps_left -= 1;
            let stepped = match self.flow.step(self.now) {
                Ok(stepped) => stepped,
                Err(_) => return Ok(End::AllFailed),
            };
            self.check()?;
            if self.flow.is_finished() {
                return Ok(End::Finished);
            }
            if !stepped && !self.sleep()? {
                return Ok(End::Stalled);
            }
        }
    }

    /// What holds after each step.
    fn check(&mut self) -> TestCaseResult {
        let (now, limit, high) = (self.now, self.setup.limit, self.setup.high);
        let held = self.flow.proxy().buffered();
        prop_assert!(held <= high, "{held} bytes held, {high} allowed");
        let delivered = self.flow.delivered();
        while let Some((taker, error)) = self.takers().take_left_out() {
            prop_assert_eq!(taker.taken, error);
            self.failed.push((taker.id, taker.taken));
        }
        let state: Vec<_> = self.takers().branches().map(|taker| (taker.id, taker.taken)).collect();
        for (id, taken) in state {
            prop_assert!(taken as u64 >= delivered, "what counts as delivered has reached everyone");
            if let Some((rate, burst)) = limit {
                let beyond = taken as i128 * 1_000_000_000 - i128::from(rate) * now.as_nanos() as i128;
                let excess = beyond - self.least[id];
                prop_assert!(excess <= i128::from(burst) * 1_000_000_000, "taker {id} got {excess} too many");
                self.least[id] = self.least[id].min(beyond);
            }
        }
        Ok(())
    }

    /// Waits for one of the things it needs. False, if none of them will ever happen.
    fn sleep(&mut self) -> Result<bool, TestCaseError> {
        let needs = self.flow.needs(self.now);
        let luck = self.luck.next().expect("for ever");
        if let Some(due) = needs.due.filter(|_| !needs.output) {
            prop_assert!(due > self.now, "it rests although tokens are due");
            self.now = due;
            return Ok(true);
        }
        prop_assert!(needs.output, "asleep for ever: {:?}", self.flow.proxy());
        self.now += Duration::from_micros(luck as u64 * 100);
        let waiting = self.takers().branches().filter(|taker| !taker.ready && !taker.stalls());
        let waiting: Vec<_> = waiting.map(|taker| taker.id).collect();
        if waiting.is_empty() {
            prop_assert!(self.takers().branches().any(Taker::stalls), "nothing to wait for");
            return Ok(false);
        }
        let id = waiting[luck % waiting.len()];
        self.takers().try_again();
        self.takers().branches_mut().filter(|taker| taker.id == id).for_each(|taker| taker.ready = true);
        Ok(true)
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn everyone_gets_every_byte_in_order_within_the_limit_and_failures_leave_the_others_alone(setup in setup()) {
        let mut simulation = Simulation::new(setup.clone());
        let end = simulation.run()?;
        if end == End::Finished {
            let taken: Vec<_> = simulation.takers().branches().map(|taker| (taker.id, taker.taken)).collect();
            prop_assert!(!taken.is_empty());
            prop_assert_eq!(taken.len() + simulation.failed.len(), setup.takers.len());
            prop_assert!(taken.iter().all(|(_, taken)| *taken == setup.end), "{:?} of {}", taken, setup.end);
        } else {
            // The last failure is that of the whole.
            prop_assert_eq!(end, End::AllFailed);
            prop_assert_eq!(simulation.failed.len() + 1, setup.takers.len());
        }
    }

    #[test]
    fn a_consumer_that_stalls_stops_the_others_within_a_buffer(setup in setup(), after in 0..300usize, end in 500..900usize) {
        let mut setup = Setup { end, ..setup };
        setup.takers.iter_mut().for_each(|taker| taker.fails_after = None);
        setup.takers[0].stalls_after = Some(after);
        let mut simulation = Simulation::new(setup.clone());
        prop_assert_eq!(simulation.run()?, End::Stalled);
        let taken: Vec<_> = simulation.takers().branches().map(|taker| taker.taken).collect();
        prop_assert!(taken.iter().all(|others| *others <= taken[0] + setup.high), "{:?}", taken);
        // It is left out, and the others go on.
        let left = simulation.takers().leave_out(|taker| taker.id == 0, taken[0]);
        prop_assert_eq!(left, Ok(()));
        prop_assert_eq!(simulation.run()?, End::Finished);
        prop_assert!(simulation.takers().branches().all(|taker| taker.taken == setup.end));
    }
}

#[test]
fn a_witness_sees_what_all_have_taken_and_nothing_else() {
    let habits = |attempts: &[usize], only_from_the_front| Habits {
        attempts: attempts.to_vec(),
        only_from_the_front,
        fails_after: None,
        stalls_after: None,
    };
    let habits = [habits(&[3, 0, 11], false), habits(&[7, 1], true), habits(&[usize::MAX], false)];
    let mut fanout = Fanout::new(habits.into_iter().enumerate().map(|(id, habits)| Taker::new(id, habits)));
    let (mut buffer, mut seen) = (Deque::default(), Vec::new());
    for at in 0..500 {
        buffer.append(&[byte_of_stream(at)]);
        fanout.try_again();
        fanout.branches_mut().for_each(|taker| taker.ready = true);
        let limit = buffer.len();
        fanout.write_before(&mut buffer, limit, Some(&mut |bytes| seen.extend_from_slice(bytes))).unwrap();
        assert_eq!(seen.len(), fanout.delivered() as usize);
        assert!(fanout.branches().all(|taker| taker.taken >= seen.len()));
    }
    let expected: Vec<_> = (0..seen.len()).map(byte_of_stream).collect();
    assert!(seen.len() > 450 && seen == expected, "{} bytes", seen.len());
}

#[test]
fn a_fast_consumer_is_not_kept_from_what_is_held_by_a_slow_one() {
    let habits =
        |most| Habits { attempts: vec![most], only_from_the_front: false, fails_after: None, stalls_after: None };
    let slow = Habits { stalls_after: Some(0), ..habits(0) };
    let setup =
        Setup { takers: vec![slow, habits(usize::MAX)], end: 1000, piece: 7, high: 100, limit: None, luck: vec![1] };
    let mut simulation = Simulation::new(setup);
    assert_eq!(simulation.run().unwrap(), End::Stalled);
    let taken: Vec<_> = simulation.takers().branches().map(|taker| taker.taken).collect();
    assert_eq!(taken, [0, 100]);
    let Some(consumers) = simulation.flow.proxy().consumer() else { unreachable!() };
    assert!(!Downstream::<Deque>::is_ready(consumers, 100));
}
