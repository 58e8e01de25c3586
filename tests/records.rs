//! Limits by record: what holds of a flow that counts records, in simulated time, and what the
//! binary does with lines.

mod support;

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write, pipe};
use std::iter::Cycle;
use std::time::{Duration, Instant};

use pcproxy::buffer::Fifo;
use pcproxy::flow::{Consumer, Downstream, Flow, Watermarks};
use pcproxy::shaping::{Burst, Limit, TOKENS_PER_RECORD, TokenBucket, Unit};
use proptest::prelude::*;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;
use support::{
    Kind, Session, Side, Stream, TakesPassed, cases, connection, read_exactly, read_to_end, start, unread, until,
};

/// A consumer that remembers what each write brought.
struct Writes {
    pieces: Cycle<std::vec::IntoIter<usize>>,
    writes: Vec<Vec<u8>>,
    ready: bool,
    finished: bool,
}

impl TakesPassed for Writes {
    fn take_passed(&mut self, _: u8) {
        unreachable!("a record that nobody sees cannot be counted")
    }
}

impl Consumer<Fifo> for Writes {
    type Error = Infallible;
    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}
    fn write(&mut self, buffer: &mut Fifo, limit: usize) -> Result<usize, Infallible> {
        let taken = self.pieces.next().unwrap().min(limit);
        self.ready = taken == limit;
        let mut write = vec![0; taken];
        assert_eq!(buffer.peek(&mut write), taken);
        if taken > 0 {
            self.writes.push(write);
            buffer.consume(taken);
        }
        Ok(taken)
    }
    fn finish(&mut self) {
        self.finished = true;
    }
}

impl Downstream<Fifo> for Writes {
    fn is_ready(&self, _held: usize) -> bool {
        self.ready
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
    fn delivered(&self) -> u64 {
        self.writes.iter().map(|write| write.len() as u64).sum()
    }
}

/// What came of a flow: the writes, and when how many records had gone out.
struct Run {
    writes: Vec<Vec<u8>>,
    records: Vec<(Duration, u64)>,
}

/// Moves `text` through a buffer of `buffer` bytes, in simulated time.
fn run(text: &[u8], buffer: usize, limit: Option<Limit>, reads: Vec<usize>, takes: Vec<usize>) -> Run {
    // A piece of no bytes was not there yet.
    let text = Stream::of_text(text.to_vec(), reads.into_iter().map(|piece| (piece, piece > 0)).collect());
    let writes = Writes { pieces: takes.into_iter().cycle(), writes: Vec::new(), ready: true, finished: false };
    let fifo = Fifo::new(buffer, false).of_records(b'\n');
    let watermarks = Watermarks::new(buffer, buffer / 2);
    let mut flow = Flow::new(text, true, writes, fifo, watermarks, TokenBucket::empty(limit)).counting(Unit::Records);
    let (mut now, mut records) = (Duration::ZERO, vec![(Duration::ZERO, 0)]);
    for _ in 0..100_000 {
        if flow.is_finished() {
            let writes = flow.take_consumer().unwrap().writes;
            return Run { writes, records };
        }
        let Ok(stepped) = flow.step(now);
        if records.last().unwrap().1 < flow.proxy().records() {
            records.push((now, flow.proxy().records()));
        }
        if !stepped {
            let needs = flow.needs(now);
            if needs.input {
                flow.proxy_mut().producer_mut().unwrap().ready = true;
            } else if needs.output {
                flow.proxy_mut().consumer_mut().unwrap().ready = true;
            } else {
                let due = needs.due.expect("something to wait for");
                assert!(due > now, "it rests although tokens are due");
                now = due;
            }
            // Others take no time at all.
        }
    }
    panic!("no end: {:?}", flow.proxy());
}

/// Lines of up to 30 bytes, of which the last may have no end.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![6 => Just(b'x'), 1 => Just(b'\n')], 0..400)
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..60usize, 0..5).prop_map(|mut pieces| {
        pieces.push(7);
        pieces
    })
}

fn count(text: &[u8]) -> u64 {
    text.split_inclusive(|byte| *byte == b'\n').count() as u64
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_byte_arrives_and_every_record_is_counted_once(
        text in text(), buffer in 1..80usize, rate in prop::option::of(1..100_000u64), reads in pieces(), takes in pieces()
    ) {
        let limit = rate.map(|rate| Limit::paced_in(Unit::Records, rate, None));
        let run = run(&text, buffer, limit, reads, takes);
        prop_assert_eq!(run.writes.concat(), &text[..]);
        prop_assert_eq!(run.records.last().unwrap().1, count(&text));
    }

    #[test]
    fn no_record_that_fits_the_buffer_is_torn(
        text in text(), rate in 1..100_000u64, burst in 1..50u64, reads in pieces()
    ) {
        let longest = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or(1);
        let limit = Limit::paced_in(Unit::Records, rate, Some(Burst::Bytes(burst)));
        let run = run(&text, longest + 1, Some(limit), reads, vec![usize::MAX]);
        let torn = run.writes.iter().rev().skip(1).find(|write| write.last() != Some(&b'\n'));
        prop_assert_eq!(torn, None);
    }

    #[test]
    fn no_interval_has_more_records_than_the_limit_allows(
        text in text(), buffer in 1..80usize, rate in 1..100_000u64, burst in 1..5u64, reads in pieces(), takes in pieces()
    ) {
        let limit = Limit::paced_in(Unit::Records, rate, Some(Burst::Bytes(burst)));
        let records = run(&text, buffer, Some(limit), reads, takes).records;
        for (at, &(from, _)) in records.iter().enumerate().skip(1) {
            for &(to, after) in &records[at..] {
                let tokens = u128::from(after - records[at - 1].1) * u128::from(TOKENS_PER_RECORD) * 1_000_000_000;
                let allowed = u128::from(limit.burst()) * 1_000_000_000 + (to - from).as_nanos() * u128::from(rate);
                prop_assert!(tokens <= allowed, "from {:?} to {:?}", from, to);
            }
        }
    }
}

#[test]
fn records_are_evenly_spaced() {
    for (rate, millis) in [(5 * TOKENS_PER_RECORD, 200), (TOKENS_PER_RECORD / 2, 2000), (1000, 3600)] {
        let limit = Limit::paced_in(Unit::Records, rate, None);
        let run = run(b"one\ntwo\nthree\nfour\n", 65_536, Some(limit), vec![9], vec![usize::MAX]);
        let times: Vec<_> = run.records[1..].iter().map(|(time, _)| time.as_millis()).collect();
        assert_eq!(times, [1, 2, 3, 4].map(|record| record * millis));
        assert_eq!(run.writes, [&b"one\n"[..], b"two\n", b"three\n", b"four\n"]);
    }
}

/// The last record of the statistics in `file`.
fn last_status(file: &mut File) -> Value {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn five_lines_per_second_come_one_by_one() {
    let (theirs, mut ours) = pipe().unwrap();
    let (mut stdout, into) = pipe().unwrap();
    ours.write_all(b"one\ntwo\nthree\nlast").unwrap();
    drop(ours);
    let start_of_run = Instant::now();
    let pcproxy = start(&["-l", "--rate", "5", "--catch-up", "0"], theirs, into);
    for (number, line) in (1..).zip([&b"one\n"[..], b"two\n", b"three\n", b"last"]) {
        let mut bytes = [0; 100];
        let read = stdout.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..read], line);
        assert!(start_of_run.elapsed() >= Duration::from_millis(200 * number), "line {number} is early");
    }
    pcproxy.wait().succeeded("five a second");
}

/// Lines of 1 to 300 bytes, with some of 5000 bytes among them.
fn lines(count: usize) -> Vec<Vec<u8>> {
    let length = |number: usize| if number % 97 == 50 { 5000 } else { number * 7919 % 300 + 1 };
    (0..count).map(|number| [vec![b'a' + (number % 26) as u8; length(number) - 1], vec![b'\n']].concat()).collect()
}

#[test]
fn a_line_that_fits_reaches_a_pipe_in_one_write() {
    let lines = lines(4000);
    for options in [&["-l"][..], &["-l", "--rate", "20k"]] {
        // In packet mode each read gets what one write has brought.
        let (stdout, into) = pipe_with(PipeFlags::DIRECT).unwrap();
        let mut stdout = File::from(stdout);
        let (theirs, mut ours) = pipe().unwrap();
        let text = lines.concat();
        let feeder = std::thread::spawn(move || text.chunks(777).try_for_each(|piece| ours.write_all(piece)).unwrap());
        let pcproxy = start(options, theirs, into);
        let (mut all, mut packet) = (Vec::new(), vec![0; 8192]);
        loop {
            let read = stdout.read(&mut packet).unwrap();
            if read == 0 {
                break;
            }
            let (mut at, mut line) = (0, 0);
            while at + lines[line].len() <= all.len() {
                at += lines[line].len();
                line += 1;
            }
            assert!(at == all.len() || lines[line].len() > 4096, "{options:?}: line {line} is torn");
            all.extend_from_slice(&packet[..read]);
        }
        assert!(all == lines.concat(), "{options:?}: other bytes than were sent");
        feeder.join().unwrap();
        pcproxy.wait().succeeded("packets");
    }
}

#[test]
fn a_line_that_is_longer_than_the_buffer_passes_in_pieces_and_counts_once() {
    let mut stats = tempfile::NamedTempFile::new().unwrap();
    let text = [&vec![b'x'; 200_000][..], b"\nshort\n"].concat();
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let sent = text.clone();
    let feeder = std::thread::spawn(move || ours.write_all(&sent).unwrap());
    let path = stats.path().to_str().unwrap().to_owned();
    let pcproxy = start(&["-l", "--buffer", "1000", "--rate", "10", "--stats", &path], theirs, into);
    assert!(read_to_end(stdout) == text);
    feeder.join().unwrap();
    pcproxy.wait().succeeded("a long line");
    let status = last_status(stats.as_file_mut());
    assert_eq!((&status["records"]["delivered"], &status["bytes"]), (&2.into(), &text.len().into()));
    assert_eq!((&status["records"]["kind"], &status["records"]["limit"]), (&"lines".into(), &10.0.into()));
    assert_eq!((&status["limit"], &status["size"]), (&Value::Null, &Value::Null));
}

#[test]
fn the_input_ends_after_so_many_records_and_the_next_program_finds_the_rest() {
    let text = b"one\0two\nwith a line feed\0three\0four\0";
    for from in [Kind::Pipe, Kind::File, Kind::Unix] {
        let mut input = connection(from, Side::Stdin);
        input.ours.write_all(text).unwrap();
        let mut view = File::from(input.theirs.try_clone().unwrap());
        let (stdout, into) = pipe().unwrap();
        let pcproxy = start(&["-0", "--stop-after", "2"], input.theirs, into);
        assert_eq!(read_to_end(stdout), b"one\0two\nwith a line feed\0");
        pcproxy.wait().succeeded(format!("{from:?}"));
        let mut rest = [0; 11];
        view.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"three\0four\0", "{from:?}");
    }
}

#[test]
fn a_pause_holds_even_a_line_without_end() {
    let session = Session::new();
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = session.start(&["-l", "--buffer", "1000"], theirs, into);
    ours.write_all(&[b'x'; 3000]).unwrap();
    read_exactly(&stdout, 3000);
    drop(session.connect(&pcproxy));
    let ctl = |words: &[&str]| {
        let pid = pcproxy.pid().to_string();
        let output = session.command(&[&["ctl", &pid], words].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    };
    ctl(&["pause"]);
    ours.write_all(&[b'x'; 3000]).unwrap();
    pcproxy.settle();
    assert_eq!(unread(&stdout), 0);
    ctl(&["resume"]);
    read_exactly(&stdout, 3000);
    // A rate over the socket is one of lines, too.
    ctl(&["rate", "30/m"]);
    let status: Value = serde_json::from_slice(&ctl(&["stats", "--json"]).stdout).unwrap();
    assert_eq!((&status["records"]["limit"], &status["records"]["delivered"]), (&0.5.into(), &1.into()));
    ctl(&["rate", "off"]);
    ours.write_all(b"\nsecond\n").unwrap();
    drop(ours);
    assert_eq!(read_to_end(stdout), b"\nsecond\n");
    pcproxy.wait().succeeded("paused");
}

#[test]
fn lines_of_a_file_reach_a_file() {
    let (mut input, mut output) = (connection(Kind::File, Side::Stdin), tempfile::tempfile().unwrap());
    let text = lines(3000).concat();
    input.ours.write_all(&text).unwrap();
    let pcproxy = start(&["-l"], input.theirs, output.try_clone().unwrap());
    pcproxy.wait().succeeded("files");
    until("the file", || output.metadata().unwrap().len() == text.len() as u64);
    output.seek(SeekFrom::Start(0)).unwrap();
    assert!(read_to_end(output) == text);
}
