//! What holds of the proxy whatever its two neighbours do: random producers, consumers,
//! watermarks and limits, in simulated time.

mod support;

use std::convert::Infallible;
use std::iter::Cycle;
use std::time::Duration;

use pcproxy::buffer::Buffer;
use pcproxy::flow::{Consumer, Downstream, Flow, ProducerConsumerProxy, StartMark, Watermarks};
use pcproxy::shaping::{Limit, TokenBucket};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use support::{Attempt, Deque, Stream, TakesPassed, byte_of_stream, config};

/// Attempts for ever, of which some succeed.
fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let amount = || prop_oneof![2 => 0..4usize, 2 => 1..40usize, 1 => Just(usize::MAX)];
    (prop::collection::vec((amount(), any::<bool>()), 0..6), 1..40usize).prop_map(|(mut attempts, amount)| {
        attempts.push((amount, true));
        attempts
    })
}

/// A consumer that checks that it gets the stream, in order and without gaps.
struct Taker {
    attempts: Cycle<std::vec::IntoIter<Attempt>>,
    taken: usize,
    ready: bool,
    finished: bool,
}

impl Taker {
    fn new(attempts: Vec<Attempt>) -> Self {
        Taker { attempts: attempts.into_iter().cycle(), taken: 0, ready: true, finished: false }
    }

    fn attempt(&mut self, most: usize) -> usize {
        let (amount, ready) = self.attempts.next().expect("for ever");
        self.ready = ready;
        amount.min(most)
    }

    fn take(&mut self, byte: u8) {
        assert_eq!(byte, byte_of_stream(self.taken), "byte {} of the stream", self.taken);
        self.taken += 1;
    }
}

impl TakesPassed for Taker {
    fn take_passed(&mut self, byte: u8) {
        self.take(byte);
    }
}

impl Consumer<Deque> for Taker {
    type Error = Infallible;
    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}

    fn write(&mut self, buffer: &mut Deque, limit: usize) -> Result<usize, Infallible> {
        assert!(limit <= buffer.len(), "{limit} bytes to be taken of {}", buffer.len());
        let taken = self.attempt(limit);
        buffer.0.drain(..taken).for_each(|byte| self.take(byte));
        Ok(taken)
    }

    fn finish(&mut self) {
        assert!(!self.finished, "finished twice");
        self.finished = true;
    }
}

impl Downstream<Deque> for Taker {
    fn is_ready(&self, _held: usize) -> bool {
        self.ready
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
    fn delivered(&self) -> u64 {
        self.taken as u64
    }
}

type Proxy = ProducerConsumerProxy<Stream, Taker, Deque, TokenBucket>;

/// Two neighbours, and the proxy between them.
#[derive(Clone, Debug)]
struct Setup {
    upstream: Vec<Attempt>,
    passes: Vec<Attempt>,
    downstream: Vec<Attempt>,
    streaming: bool,
    end: usize,
    watermarks: Watermarks,
    limit: Option<Limit>,
    /// How much must be held before anything goes out.
    start: usize,
    /// How fast bytes may be read.
    intake: Option<Limit>,
}

impl Setup {
    fn ends(&self) -> (Stream, Taker) {
        let stream = Stream::new(self.upstream.clone(), self.passes.clone(), self.streaming, self.end);
        (stream, Taker::new(self.downstream.clone()))
    }

    fn proxy(&self, i_am_streaming: bool) -> Proxy {
        let (stream, taker) = self.ends();
        let bucket = TokenBucket::empty(self.limit);
        let mut proxy = Proxy::shaped(taker, Deque::default(), self.watermarks, i_am_streaming, bucket);
        proxy.register_producer(stream, self.streaming).expect("the first");
        proxy
    }
}

fn setup() -> impl Strategy<Value = Setup> {
    let watermarks =
        (1..100usize).prop_flat_map(|high| (Just(high), 0..high)).prop_map(|(high, low)| Watermarks::new(high, low));
    let limit = (1..2000u64, 1..100u64)
        .prop_flat_map(|(rate, burst)| (Just(rate), Just(burst), 1..=burst))
        .prop_map(|(rate, burst, quantum)| Limit::new(rate, burst).with_quantum(quantum));
    let (limit, intake) = (prop::option::of(limit.clone()), prop::option::of(limit));
    let start = prop_oneof![Just(0), 0..=100usize];
    (attempts(), attempts(), attempts(), any::<bool>(), 0..400usize, watermarks, limit, start, intake).prop_map(
        |(upstream, passes, downstream, streaming, end, watermarks, limit, start, intake)| Setup {
            upstream,
            passes,
            downstream,
            streaming,
            end,
            watermarks,
            limit,
            start: start.min(watermarks.high()),
            intake,
        },
    )
}

fn taker(proxy: &Proxy) -> &Taker {
    proxy.consumer().expect("not stopped")
}

/// The flow of the program, with neighbours, a clock and a poller that exist only here.
struct Simulation {
    flow: Flow<Stream, Taker, Deque, TokenBucket>,
    now: Duration,
    /// Which of several events comes first.
    luck: Cycle<std::vec::IntoIter<usize>>,
    /// When how many bytes had been delivered.
    deliveries: Vec<(Duration, usize)>,
    /// When how many bytes had been read.
    readings: Vec<(Duration, usize)>,
    /// How much must be held before anything goes out, and whether it has begun to.
    start: usize,
    started: bool,
    steps_left: usize,
}

/// What a flow can be waiting for.
enum Wake {
    Readable,
    Writable,
    Timer(Duration),
}

impl Simulation {
    fn new(setup: &Setup, luck: Vec<usize>) -> Self {
        let ((stream, taker), bucket) = (setup.ends(), TokenBucket::empty(setup.limit));
        Simulation {
            flow: Flow::new(stream, setup.streaming, taker, Deque::default(), setup.watermarks, bucket)
                .starting(StartMark::at(setup.start))
                .sparing(TokenBucket::empty(setup.intake)),
            now: Duration::ZERO,
            luck: luck.into_iter().cycle(),
            deliveries: vec![(Duration::ZERO, 0)],
            readings: vec![(Duration::ZERO, 0)],
            start: setup.start,
            started: setup.start == 0,
            // At least one in seven attempts moves a byte, in or out, and no step has more than
            // two; after each sleep comes a step.
            steps_left: 64 * (setup.end + 2),
        }
    }

    fn proxy(&self) -> &Proxy {
        self.flow.proxy()
    }

    /// Takes a step, or sleeps until there may be one to take.
    fn turn(&mut self) -> TestCaseResult {
        prop_assert!(self.steps_left > 0, "no end: {:?}", self.proxy());
        self.steps_left -= 1;
        let was_paused = self.proxy().producer_paused();
        self.started |= self.proxy().unregistered();
        let Ok(stepped) = self.flow.step(self.now);
        if stepped {
            let (taken, held) = (taker(self.proxy()).taken, self.proxy().buffered());
            if self.deliveries.last().is_none_or(|last| last.1 < taken) {
                prop_assert!(self.started, "{} bytes went out before {} were held", taken, self.start);
                self.deliveries.push((self.now, taken));
            }
            if self.readings.last().is_none_or(|last| last.1 < taken + held) {
                self.readings.push((self.now, taken + held));
            }
            self.started = match held {
                _ if held >= self.start || self.proxy().unregistered() => true,
                0 => false,
                _ => self.started,
            };
        } else {
            self.sleep()?;
        }
        check(self.proxy(), was_paused)
    }

    /// Sleeps until the first of what it waits for; an error if nothing would ever wake it.
    fn sleep(&mut self) -> TestCaseResult {
        let needs = self.flow.needs(self.now);
        let mut wakes = Vec::new();
        if needs.input {
            wakes.push(Wake::Readable);
        }
        if needs.output {
            wakes.push(Wake::Writable);
        }
        if let Some(due) = needs.due {
            prop_assert!(due > self.now, "it rests although tokens are due");
            wakes.push(Wake::Timer(due));
        }
        prop_assert!(!wakes.is_empty(), "asleep for ever: {:?}", self.proxy());
        let luck = self.luck.next().expect("for ever");
        let later = self.now + Duration::from_micros(luck as u64 * 100);
        let proxy = self.flow.proxy_mut();
        match wakes.swap_remove(luck % wakes.len()) {
            Wake::Timer(due) => self.now = due,
            Wake::Readable => {
                self.now = later;
                proxy.producer_mut().into_iter().for_each(|stream| stream.ready = true);
            }
            Wake::Writable => {
                self.now = later;
                proxy.consumer_mut().into_iter().for_each(|taker| taker.ready = true);
            }
        }
        Ok(())
    }
}

/// What holds between any two steps.
fn check(proxy: &Proxy, was_paused: bool) -> TestCaseResult {
    let (held, high, low) = (proxy.buffered(), proxy.watermarks().high(), proxy.watermarks().low());
    prop_assert!(held <= high, "{held} bytes held, {high} allowed");
    if let Some(upstream) = proxy.producer() {
        prop_assert_eq!(upstream.at, taker(proxy).taken + held, "bytes produced, and bytes delivered or held");
    }
    if let Some(upstream) = proxy.producer() {
        prop_assert!(!upstream.wanted || held < high, "bytes are wanted with {} held, {} allowed", held, high);
    }
    let Some(upstream) = proxy.producer().filter(|upstream| upstream.streaming) else { return Ok(()) };
    let paused = proxy.producer_paused();
    prop_assert_eq!(upstream.wanted, !paused, "the producer and the proxy disagree");
    prop_assert!(paused || held < high, "not paused with {} held", held);
    prop_assert!(!paused || held > low, "not resumed with {} held", held);
    prop_assert!(paused == was_paused || if paused { held >= high } else { held <= low }, "{} held", held);
    Ok(())
}

/// In every interval no more bytes than the limit allows. `moved` says when how many had moved.
fn keeps_to(limit: Limit, moved: &[(Duration, usize)]) -> TestCaseResult {
    for (at, &(from, _)) in moved.iter().enumerate().skip(1) {
        let before = moved[at - 1].1;
        for &(to, after) in &moved[at..] {
            let allowed = limit.burst() as u128 * 1_000_000_000 + (to - from).as_nanos() * limit.rate() as u128;
            prop_assert!((after - before) as u128 * 1_000_000_000 <= allowed, "from {:?} to {:?}", from, to);
        }
    }
    Ok(())
}

fn luck() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..100usize, 1..10)
}

/// Something that happens to a proxy, in any order.
#[derive(Clone, Copy, Debug)]
enum Event {
    Write(usize),
    Fill,
    Pass(usize),
    Pause,
    Resume,
    Time(Duration),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => (0..60usize).prop_map(Event::Write),
        3 => Just(Event::Fill),
        1 => (0..60usize).prop_map(Event::Pass),
        1 => Just(Event::Pause),
        4 => Just(Event::Resume),
        1 => (0..1000u64).prop_map(|millis| Event::Time(Duration::from_millis(millis))),
    ];
    prop::collection::vec(event, 1..60)
}

/// Makes `event` happen, whether or not the producer was told to pause.
fn happen(proxy: &mut Proxy, event: Event, now: &mut Duration) {
    match event {
        Event::Write(len) => {
            let data = proxy.producer_mut().map(|upstream| upstream.next(len)).unwrap_or_default();
            let Ok(()) = proxy.write(&data);
        }
        Event::Fill => {
            let Ok(_) = proxy.write_with(Stream::fill);
        }
        Event::Pass(amount) => {
            proxy.pass_through(100, |stream, taker, limit| {
                let moved = amount.min(limit);
                stream.next(moved).into_iter().for_each(|byte| taker.take(byte));
                moved
            });
        }
        Event::Pause => proxy.pause_producing(),
        Event::Resume => {
            let Ok(()) = proxy.resume_producing();
        }
        Event::Time(time) => {
            *now += time;
            proxy.drip(*now);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_flow_delivers_everything_in_order_and_never_waits_for_nothing(
        setup in setup(),
        luck in luck(),
    ) {
        let mut simulation = Simulation::new(&setup, luck);
        while !simulation.flow.is_finished() {
            simulation.turn()?;
        }
        prop_assert_eq!(taker(simulation.proxy()).taken, setup.end);
        prop_assert_eq!(simulation.proxy().buffered(), 0);
    }

    #[test]
    fn a_shaped_flow_keeps_to_the_limit_in_every_interval(
        setup in setup(),
        limit in (1..2000u64, 1..100u64),
        luck in luck(),
    ) {
        let limit = Limit::new(limit.0, limit.1);
        let mut simulation = Simulation::new(&Setup { limit: Some(limit), ..setup }, luck);
        while !simulation.flow.is_finished() {
            simulation.turn()?;
        }
        keeps_to(limit, &simulation.deliveries)?;
    }

    #[test]
    fn bytes_are_read_no_faster_than_the_read_rate_in_any_interval(
        setup in setup(),
        limit in (1..2000u64, 1..100u64),
        luck in luck(),
    ) {
        let limit = Limit::new(limit.0, limit.1);
        let mut simulation = Simulation::new(&Setup { intake: Some(limit), ..setup }, luck);
        while !simulation.flow.is_finished() {
            simulation.turn()?;
        }
        keeps_to(limit, &simulation.readings)?;
        prop_assert_eq!(taker(simulation.proxy()).taken, setup.end);
    }

    #[test]
    fn an_input_that_is_ended_early_is_still_delivered_as_far_as_it_was_read(
        setup in setup(),
        luck in luck(),
        early in 0..200usize,
    ) {
        let mut simulation = Simulation::new(&setup, luck);
        for _ in 0..early {
            if !simulation.flow.is_finished() {
                simulation.turn()?;
            }
        }
        if let Some(read) = simulation.proxy().producer().map(|stream| stream.at) {
            simulation.flow.finish();
            while !simulation.flow.is_finished() {
                simulation.turn()?;
            }
            prop_assert_eq!(taker(simulation.proxy()).taken, read);
        }
    }

    #[test]
    fn any_order_of_events_keeps_the_bytes_and_the_watermarks(
        setup in setup(),
        i_am_streaming: bool,
        events in events(),
    ) {
        let mut proxy = Setup { end: usize::MAX / 2, ..setup }.proxy(i_am_streaming);
        let mut now = Duration::ZERO;
        for event in events {
            let (paused, before) = (proxy.producer_paused(), proxy.buffered());
            happen(&mut proxy, event, &mut now);

            let (held, high, low) = (proxy.buffered(), proxy.watermarks().high(), proxy.watermarks().low());
            prop_assert_eq!(proxy.producer().map(|upstream| upstream.at), Some(taker(&proxy).taken + held));
            let expected = match event {
                Event::Write(_) | Event::Fill => paused || held >= high,
                Event::Resume => paused && held > low,
                Event::Pass(_) | Event::Pause | Event::Time(_) => paused,
            };
            prop_assert_eq!(proxy.producer_paused(), expected, "{} held after {:?}", held, event);
            if !matches!(event, Event::Write(_)) {
                prop_assert!(held <= high.max(before), "{} held after {:?}", held, event);
            }
        }
    }

    #[test]
    fn a_consumer_that_leaves_stops_the_producer_and_what_is_held_stays_counted(
        setup in setup(),
        i_am_streaming: bool,
        events in events(),
    ) {
        let mut proxy = Setup { end: usize::MAX / 2, ..setup }.proxy(i_am_streaming);
        let mut now = Duration::ZERO;
        for event in events {
            happen(&mut proxy, event, &mut now);
        }
        let held = proxy.buffered();

        proxy.stop_producing();

        prop_assert!(proxy.stopped());
        prop_assert!(proxy.consumer().is_none());
        prop_assert!(proxy.producer().is_some_and(|upstream| upstream.stopped && !upstream.wanted));
        prop_assert_eq!(proxy.buffered(), held);
        for event in [Event::Pause, Event::Time(Duration::from_secs(3600)), Event::Resume] {
            happen(&mut proxy, event, &mut now);
            prop_assert_eq!(proxy.buffered(), held);
        }
        proxy.finish();
        prop_assert_eq!(proxy.buffered(), held);
        prop_assert!(proxy.producer().is_none());
    }

    #[test]
    fn the_state_is_what_debug_prints(setup in setup(), i_am_streaming: bool, events in events(), stop: bool) {
        let mut proxy = Setup { end: usize::MAX / 2, ..setup }.proxy(i_am_streaming);
        let mut now = Duration::ZERO;
        for event in events {
            happen(&mut proxy, event, &mut now);
        }
        if stop {
            proxy.stop_producing();
        }
        let printed = format!("{proxy:?}");
        for (name, value) in [
            ("buffered", format!("{:?}", proxy.buffered())),
            ("watermarks", format!("{:?}", proxy.watermarks())),
            ("paused", format!("{:?}", proxy.paused())),
            ("producer_paused", format!("{:?}", proxy.producer_paused())),
            ("unregistered", format!("{:?}", proxy.unregistered())),
            ("outstanding_pull", format!("{:?}", proxy.outstanding_pull())),
            ("producer_is_streaming", format!("{:?}", proxy.producer_is_streaming())),
            ("i_am_streaming", format!("{:?}", proxy.i_am_streaming())),
            ("stopped", format!("{:?}", proxy.stopped())),
        ] {
            prop_assert!(printed.contains(&format!(" {name}: {value},")), "{} is not {} in {}", name, value, printed);
        }
    }
}

#[test]
fn a_push_producer_is_told_to_pause_at_the_high_mark_and_to_resume_at_the_low_one() {
    let setup = Setup {
        upstream: vec![(4, true)],
        passes: vec![(0, true)],
        downstream: vec![(3, true)],
        streaming: true,
        end: 100,
        watermarks: Watermarks::new(10, 5).without_prefetch(),
        limit: None,
        start: 0,
        intake: None,
    };
    let mut proxy = setup.proxy(true);
    proxy.pause_producing();
    let mut rooms = Vec::new();
    while proxy.producer().is_some_and(|stream| stream.wanted && stream.ready) && rooms.len() < 10 {
        let Ok(_) = proxy.write_with(|stream, buffer, room| {
            rooms.push(room);
            stream.fill(buffer, room)
        });
    }
    assert_eq!(rooms, [10, 6, 2], "the last piece is cut to the room that is left");
    assert_eq!((proxy.buffered(), proxy.producer_paused()), (10, true));
    let Ok(()) = proxy.resume_producing();
    assert_eq!((proxy.buffered(), proxy.producer_paused()), (7, true));
    let Ok(()) = proxy.resume_producing();
    assert_eq!((proxy.buffered(), proxy.producer_paused()), (4, false));
}

#[test]
fn tokens_for_bytes_that_did_not_go_out_stay_in_the_bucket() {
    let setup = Setup {
        upstream: vec![(usize::MAX, true)],
        passes: vec![(0, true)],
        downstream: vec![(3, true)],
        streaming: true,
        end: 100,
        watermarks: Watermarks::at(50),
        limit: Some(Limit::new(1, 10)),
        start: 0,
        intake: None,
    };
    let mut proxy = setup.proxy(true);
    let mut now = Duration::ZERO;
    happen(&mut proxy, Event::Time(Duration::from_secs(10)), &mut now);
    happen(&mut proxy, Event::Pass(0), &mut now);
    happen(&mut proxy, Event::Pass(2), &mut now);
    happen(&mut proxy, Event::Fill, &mut now);
    for _ in 0..5 {
        happen(&mut proxy, Event::Resume, &mut now);
    }
    assert_eq!(taker(&proxy).taken, 10, "all of the bucket, and no more");
}
