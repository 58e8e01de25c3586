//! What Twisted's `ProducerConsumerProxy` and `ShapedConsumer` did, replayed call by call and
//! state by state; then the two differences that were decided on.
//!
//! The environment variable `PCPROXY_TRACES` names another file of traces to replay.

mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use pcproxy::buffer::Chunks;
use pcproxy::flow::{Consumer, Producer, ProducerConsumerProxy, ProducerRegistered, Watermarks};
use pcproxy::shaping::{Limit, TokenBucket};
use serde::Deserialize;
use support::byte_of_stream;

/// One recorded sequence of operations.
#[derive(Deserialize)]
struct Trace {
    name: String,
    proxy: Setup,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Setup {
    kind: Kind,
    buffer_size: usize,
    bucket: Option<Bucket>,
    /// The consumer takes at most so many bytes each time.
    write_limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Push,
    Pull,
    Shaped,
}

#[derive(Deserialize)]
struct Bucket {
    rate: u64,
    burst: u64,
}

/// An operation, the calls that it caused, and the state after it.
#[derive(Deserialize)]
struct Step {
    #[serde(flatten)]
    operation: Operation,
    calls: Vec<String>,
    state: State,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    New,
    Register { streaming: bool },
    Unregister,
    Write { len: usize },
    Pause,
    Resume,
    Stop,
    Finish,
    Advance { seconds: f64 },
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct State {
    paused: bool,
    producer_paused: bool,
    unregistered: bool,
    outstanding_pull: bool,
    buffered: usize,
    has_producer: bool,
}

/// A call that the proxy made.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Told(&'static str),
    Wrote(usize),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Told(what) => f.write_str(what),
            Call::Wrote(len) => write!(f, "consumer.write:{len}"),
        }
    }
}

/// What the producer and the consumer of one proxy have seen.
#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    delivered: Vec<u8>,
}

type Log = Rc<RefCell<Seen>>;

struct RecordingProducer(Log);

impl Producer for RecordingProducer {
    fn pause_producing(&mut self) {
        self.0.borrow_mut().calls.push(Call::Told("producer.pause"));
    }
    fn resume_producing(&mut self) {
        self.0.borrow_mut().calls.push(Call::Told("producer.resume"));
    }
    fn stop_producing(&mut self) {
        self.0.borrow_mut().calls.push(Call::Told("producer.stop"));
    }
}

struct RecordingConsumer {
    log: Log,
    write_limit: usize,
}

impl Consumer<Chunks> for RecordingConsumer {
    type Error = Infallible;

    fn register_producer(&mut self, streaming: bool) {
        let kind = if streaming { "consumer.register:push" } else { "consumer.register:pull" };
        self.log.borrow_mut().calls.push(Call::Told(kind));
    }

    fn unregister_producer(&mut self) {
        self.log.borrow_mut().calls.push(Call::Told("consumer.unregister"));
    }

    fn write(&mut self, buffer: &mut Chunks, limit: usize) -> Result<usize, Infallible> {
        let mut log = self.log.borrow_mut();
        let taken = limit.min(self.write_limit);
        let mut left = taken;
        while left > 0 {
            let front = buffer.readable();
            let piece = front.len().min(left);
            log.delivered.extend_from_slice(&front[..piece]);
            buffer.consume(piece);
            left -= piece;
        }
        // Neighbouring writes are recorded as one, writes of nothing as none.
        match log.calls.last_mut() {
            _ if taken == 0 => {}
            Some(Call::Wrote(len)) => *len += taken,
            _ => log.calls.push(Call::Wrote(taken)),
        }
        Ok(taken)
    }

    fn finish(&mut self) {
        self.log.borrow_mut().calls.push(Call::Told("consumer.finish"));
    }
}

/// A proxy between a producer and a consumer that record, in simulated time.
struct Bench {
    proxy: ProducerConsumerProxy<RecordingProducer, RecordingConsumer, Chunks, TokenBucket>,
    log: Log,
    now: Duration,
    /// Bytes of the stream that have been written to the proxy.
    written: usize,
}

impl Bench {
    fn new(setup: &Setup) -> Self {
        let log = Log::default();
        let consumer = RecordingConsumer { log: log.clone(), write_limit: setup.write_limit.unwrap_or(usize::MAX) };
        let bucket = match setup.bucket {
            Some(Bucket { rate, burst }) => TokenBucket::full(Limit::new(rate, burst)),
            None => TokenBucket::empty(None),
        };
        let proxy = ProducerConsumerProxy::shaped(
            consumer,
            Chunks::new(setup.buffer_size),
            Watermarks::at(setup.buffer_size),
            setup.kind == Kind::Push,
            bucket,
        );
        Bench { proxy, log, now: Duration::ZERO, written: 0 }
    }

    fn push(buffer_size: usize) -> Self {
        Self::new(&Setup { kind: Kind::Push, buffer_size, bucket: None, write_limit: None })
    }

    fn pull(buffer_size: usize) -> Self {
        Self::new(&Setup { kind: Kind::Pull, buffer_size, bucket: None, write_limit: None })
    }

    fn shaped(buffer_size: usize, rate: u64, burst: u64) -> Self {
        let bucket = Some(Bucket { rate, burst });
        Self::new(&Setup { kind: Kind::Shaped, buffer_size, bucket, write_limit: None })
    }

    fn register(&mut self, streaming: bool) -> Result<(), ProducerRegistered> {
        self.proxy.register_producer(RecordingProducer(self.log.clone()), streaming)
    }

    fn perform(&mut self, operation: &Operation) {
        match *operation {
            Operation::New => {}
            Operation::Register { streaming } => self.register(streaming).expect("no producer is registered"),
            Operation::Unregister => self.proxy.unregister_producer(),
            Operation::Write { len } => {
                let data: Vec<u8> = (self.written..self.written + len).map(byte_of_stream).collect();
                self.written += len;
                let Ok(()) = self.proxy.write(&data);
            }
            Operation::Pause => self.proxy.pause_producing(),
            Operation::Resume => {
                let Ok(()) = self.proxy.resume_producing();
            }
            Operation::Stop => self.proxy.stop_producing(),
            Operation::Finish => self.proxy.finish(),
            Operation::Advance { seconds } => {
                self.now += Duration::from_secs_f64(seconds);
                self.proxy.drip(self.now);
            }
        }
    }

    /// Performs `operation` and returns the calls that it caused.
    fn calls_of(&mut self, operation: Operation) -> Vec<String> {
        self.perform(&operation);
        self.calls()
    }

    /// The calls since the last time this was asked.
    fn calls(&mut self) -> Vec<String> {
        self.log.borrow_mut().calls.drain(..).map(|call| call.to_string()).collect()
    }

    fn state(&self) -> State {
        State {
            paused: self.proxy.paused(),
            producer_paused: self.proxy.producer_paused(),
            unregistered: self.proxy.unregistered(),
            outstanding_pull: self.proxy.outstanding_pull(),
            buffered: self.proxy.buffered(),
            has_producer: self.proxy.producer().is_some(),
        }
    }

    /// What is wrong with the bytes that have come through, if anything.
    fn stream_error(&self) -> Option<String> {
        let seen = self.log.borrow();
        let wrong = (0..).zip(&seen.delivered).find(|&(at, &byte)| byte != byte_of_stream(at));
        if let Some((at, &byte)) = wrong {
            return Some(format!("byte {at} is {:?}, not {:?}", byte as char, byte_of_stream(at) as char));
        }
        let accounted = seen.delivered.len() + self.proxy.buffered();
        (!self.proxy.stopped() && accounted != self.written)
            .then(|| format!("{} bytes written, {accounted} delivered or held", self.written))
    }
}

/// Does what `trace` says, as far as the proxy does what Twisted did.
fn replay(trace: &Trace) -> Result<(), String> {
    let mut bench = Bench::new(&trace.proxy);
    for (at, step) in trace.steps.iter().enumerate() {
        let different = |what: String| Err(format!("{} step {at} {:?}: {what}", trace.name, step.operation));
        bench.perform(&step.operation);
        let (calls, state) = (bench.calls(), bench.state());
        if calls != step.calls {
            return different(format!("calls {calls:?}, Twisted's {:?}", step.calls));
        }
        if state != step.state {
            return different(format!("{state:?}, Twisted's {:?}", step.state));
        }
        if let Some(error) = bench.stream_error() {
            return different(error);
        }
    }
    Ok(())
}

fn recorded_traces() -> Vec<Trace> {
    let path = match std::env::var_os("PCPROXY_TRACES") {
        Some(named) => PathBuf::from(named),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/pcp_traces.jsonl"),
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parse =
        |(at, line)| serde_json::from_str(line).unwrap_or_else(|error| panic!("{} line {at}: {error}", path.display()));
    lines.map(parse).collect()
}

#[test]
fn every_call_and_every_state_is_twisteds() {
    let traces = recorded_traces();
    let mut replayed = HashMap::new();
    let mut differences = Vec::new();
    for trace in &traces {
        *replayed.entry(trace.proxy.kind).or_insert(0) += 1;
        differences.extend(replay(trace).err());
    }
    for kind in [Kind::Push, Kind::Pull, Kind::Shaped] {
        assert!(replayed.contains_key(&kind), "no trace of kind {kind:?}");
    }
    assert_eq!(replayed.values().sum::<usize>(), traces.len(), "not all were replayed");
    assert!(
        differences.is_empty(),
        "{} of {} traces differ:\n{}",
        differences.len(),
        traces.len(),
        differences.join("\n")
    );
}

#[test]
fn registering_over_a_registered_producer_is_an_error_and_leaves_the_first_in_place() {
    for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut bench = Bench::push(10);
        let other = Log::default();
        bench.register(first).unwrap();
        bench.calls();
        let before = bench.state();

        let refused = bench.proxy.register_producer(RecordingProducer(other.clone()), second);

        assert_eq!(refused, Err(ProducerRegistered));
        assert_eq!(refused.unwrap_err().to_string(), "a producer is already registered");
        assert_eq!(bench.state(), before);
        assert_eq!(bench.proxy.producer_is_streaming(), Some(first));
        assert_eq!(bench.calls(), [""; 0], "nobody is told");
        assert_eq!(other.borrow().calls, [], "the refused one is not asked for anything");
        assert_eq!(bench.calls_of(Operation::Stop), ["producer.stop"], "the first is still the one that is told");
    }
}

#[test]
fn a_producer_can_be_registered_once_the_first_is_unregistered() {
    let mut bench = Bench::push(10);
    bench.register(true).unwrap();
    bench.proxy.unregister_producer();
    bench.calls();
    assert_eq!(bench.register(false), Ok(()));
    assert_eq!(bench.calls(), ["producer.resume"]);
    assert!(!bench.proxy.unregistered());
}

#[test]
fn finish_with_nothing_buffered_finishes_the_consumer_at_once() {
    for mut bench in [Bench::push(10), Bench::pull(10), Bench::shaped(10, 1, 1)] {
        bench.register(true).unwrap();
        bench.calls();
        assert_eq!(bench.calls_of(Operation::Finish), ["consumer.finish", "consumer.unregister"]);
    }
}

#[test]
fn finish_waits_until_a_paused_consumer_has_taken_the_last_byte() {
    let mut bench = Bench::push(10);
    bench.register(true).unwrap();
    bench.perform(&Operation::Pause);
    bench.perform(&Operation::Write { len: 7 });
    bench.calls();
    assert_eq!(bench.calls_of(Operation::Finish), [""; 0]);
    assert_eq!(bench.proxy.buffered(), 7);
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:7", "consumer.finish", "consumer.unregister"]);
    assert_eq!(bench.stream_error(), None);
}

#[test]
fn finish_waits_until_a_pulling_consumer_has_taken_the_last_byte() {
    let mut bench = Bench::new(&Setup { kind: Kind::Pull, buffer_size: 10, bucket: None, write_limit: Some(3) });
    bench.register(false).unwrap();
    bench.perform(&Operation::Write { len: 7 });
    bench.calls();
    assert_eq!(bench.calls_of(Operation::Finish), [""; 0]);
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:3"]);
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:3"]);
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:1", "consumer.finish", "consumer.unregister"]);
    assert_eq!(bench.calls_of(Operation::Resume), [""; 0], "once is enough");
    assert_eq!(bench.stream_error(), None);
}

#[test]
fn finish_waits_until_the_bucket_has_let_the_last_byte_go() {
    let mut bench = Bench::shaped(10, 2, 4);
    bench.register(true).unwrap();
    bench.perform(&Operation::Write { len: 7 });
    bench.calls();
    assert_eq!(bench.calls_of(Operation::Finish), [""; 0]);
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:4"]);
    assert_eq!(bench.calls_of(Operation::Resume), [""; 0], "no token is left");
    bench.perform(&Operation::Advance { seconds: 1.0 });
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:2"]);
    bench.perform(&Operation::Advance { seconds: 0.5 });
    assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:1", "consumer.finish", "consumer.unregister"]);
    assert_eq!(bench.stream_error(), None);
}

#[test]
fn finish_waits_also_for_bytes_that_no_registered_producer_wrote() {
    for mut bench in [Bench::push(10), Bench::pull(10), Bench::shaped(10, 1, 10)] {
        bench.perform(&Operation::Pause);
        bench.perform(&Operation::Write { len: 7 });
        bench.calls();
        assert_eq!(bench.calls_of(Operation::Finish), [""; 0]);
        assert_eq!(bench.calls_of(Operation::Resume), ["consumer.write:7", "consumer.finish", "consumer.unregister"]);
    }
}

#[test]
fn unregistering_does_not_finish_the_consumer() {
    let mut bench = Bench::push(10);
    bench.register(true).unwrap();
    bench.calls();
    assert_eq!(bench.calls_of(Operation::Unregister), ["consumer.unregister"]);
}
