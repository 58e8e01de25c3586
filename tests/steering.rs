//! A run that is seen and steered from outside: what its control socket does to it, and what the
//! socket must not do, whoever is at the other end.

mod support;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Seek, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, getrlimit, prlimit};
use serde_json::Value;
use support::{
    KIB, Kind, Running, Session, Side, assert_arrived, connection, feed, payload, read_exactly, read_to_end,
    start_command, unread, until,
};

/// More than passes at a byte a second while a test runs.
const A_FEW: usize = 1000;

/// The longest line, with its end.
const LINE: usize = 4096;

/// Clients that a run has at the most.
const MOST_CLIENTS: usize = 32;

/// The low watermark of a buffer of the usual size.
const LOW_WATER: usize = 32 * KIB;

const STATS: &[u8] = b"{\"do\":\"stats\"}\n";

impl Session {
    /// A new client of a run, which may just have been started.
    fn client(&self, pcproxy: &Running) -> Client {
        Client::new(self.connect(pcproxy))
    }

    /// A run between two ends of the test's, and a client of it.
    fn run(&self, options: &[&str], from: Kind, to: Kind) -> Run {
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let view = input.theirs.try_clone().unwrap();
        let pcproxy = self.start(options, input.theirs, output.theirs);
        let client = self.client(&pcproxy);
        Run { pcproxy, stdin: input.ours, view, stdout: output.ours, client }
    }
}

/// A connection to the socket of a run.
struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        Client { stream: BufReader::new(stream) }
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("a run that listens");
    }

    /// The next reply; nothing if the run has hung up.
    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            result => {
                result.unwrap();
                let reply: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(reply["version"], 1, "{reply}");
                Some(reply)
            }
        }
    }

    /// The next reply, which is a status.
    #[track_caller]
    fn status(&mut self) -> Value {
        let mut reply = self.hear().expect("a reply");
        assert!(reply["status"].is_object() && reply.get("error").is_none(), "{reply}");
        reply["status"].take()
    }

    /// The next reply, which is a reason.
    #[track_caller]
    fn reason(&mut self) -> String {
        let reply = self.hear().expect("a reply");
        assert!(reply.get("status").is_none(), "{reply}");
        let reason = reply["error"].as_str().unwrap_or_default().to_owned();
        assert!(!reason.is_empty() && reason.lines().count() == 1, "{reply}");
        reason
    }

    #[track_caller]
    fn ask(&mut self, request: &str) -> Value {
        self.say(format!("{request}\n"));
        self.status()
    }

    #[track_caller]
    fn stats(&mut self) -> Value {
        self.ask(r#"{"do":"stats"}"#)
    }

    /// How the run is, unless it has hung up.
    fn try_stats(&mut self) -> Option<Value> {
        self.stream.get_mut().write_all(STATS).ok()?;
        self.hear()
    }

    #[track_caller]
    fn rate(&mut self, rate: impl Into<Option<u64>>) {
        let rate = Value::from(rate.into());
        let status = self.ask(&format!(r#"{{"do":"rate","rate":{rate}}}"#));
        assert_eq!(status["limit"], rate, "{status}");
    }

    #[track_caller]
    fn buffer(&mut self, size: usize) -> Value {
        let status = self.ask(&format!(r#"{{"do":"buffer","size":{size}}}"#));
        assert_eq!(status["buffer"], size, "{status}");
        status
    }

    #[track_caller]
    fn pause(&mut self) {
        let status = self.ask(r#"{"do":"pause"}"#);
        assert_eq!(status["state"], "paused", "{status}");
    }

    fn resume(&mut self) {
        self.ask(r#"{"do":"resume"}"#);
    }

    fn stop(&mut self) {
        self.ask(r#"{"do":"stop"}"#);
    }

    /// Waits until this field of the status is at least `least`.
    #[track_caller]
    fn wait_for(&mut self, field: &str, least: usize) {
        until(field, || self.stats()[field].as_u64() >= Some(least as u64));
    }
}

/// A running pcproxy whose two ends the test has.
struct Run {
    pcproxy: Running,
    stdin: File,
    /// Our view of pcproxy's end.
    view: OwnedFd,
    stdout: File,
    client: Client,
}

impl Run {
    /// Sends `data` to it, and waits until pcproxy has read all of that.
    #[track_caller]
    fn takes(&self, data: &[u8]) {
        (&self.stdin).write_all(data).unwrap();
        until("pcproxy to read", || unread(&self.view) == 0);
        self.pcproxy.settle();
    }

    /// Sends `len` bytes through it.
    #[track_caller]
    fn passes(&self, len: usize) {
        let data = payload(len);
        thread::scope(|scope| {
            scope.spawn(|| (&self.stdin).write_all(&data).unwrap());
            assert_arrived(&read_exactly(&self.stdout, len), &data, "through a run");
        });
    }

    /// Ends its input. All of `rest` arrives, and then it ends without a word.
    #[track_caller]
    fn delivers(self, rest: &[u8], what: impl std::fmt::Display) {
        drop(self.stdin);
        assert_arrived(&read_to_end(self.stdout), rest, &what);
        self.pcproxy.wait().succeeded(what);
    }
}

#[test]
fn a_run_says_how_it_is() {
    let session = Session::new();
    let mut run = session.run(&["--name", "the dump", "--buffer", "100K", "--rate", "64M"], Kind::Pipe, Kind::Pipe);
    run.passes(1000);
    let status = run.client.stats();
    for (field, value) in [
        ("version", Value::from(1)),
        ("pid", run.pcproxy.pid().into()),
        ("name", "the dump".into()),
        ("group", Value::Null),
        ("bytes", 1000.into()),
        ("size", Value::Null),
        ("limit", (64 << 20).into()),
        ("buffer", (100 * KIB).into()),
        ("buffered", 0.into()),
        ("done", false.into()),
    ] {
        assert_eq!(status[field], value, "{field} of {status}");
    }
    run.passes(234);
    assert_eq!(run.client.stats()["bytes"], 1234);
    run.delivers(b"", "a run that was looked at");
}

#[test]
fn requests_are_answered_in_their_order_however_they_are_cut() {
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let requests = "{\"do\":\"buffer\",\"size\":1}\n{\"do\":\"land\"}\r\n {\"size\":2, \"do\":\"buffer\"}\n";
    let mut answered = |cut: usize| {
        for piece in requests.as_bytes().chunks(cut) {
            run.client.say(piece);
        }
        assert_eq!(run.client.status()["buffer"], 1);
        assert!(run.client.reason().contains("land"));
        assert_eq!(run.client.status()["buffer"], 2);
    };
    [1, 7, requests.len()].into_iter().for_each(&mut answered);
    run.delivers(b"", "a run");
}

#[test]
fn half_a_request_of_a_client_keeps_nobody_waiting() {
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let mut half = session.client(&run.pcproxy);
    half.say(b"{\"do\":");
    for _ in 0..3 {
        run.client.stats();
        run.passes(1000);
    }
    half.say(b"\"stats\"}\n");
    assert_eq!(half.status()["bytes"], 3000);
    half.say(b"{\"do\":\"sta");
    run.delivers(b"", "with half a request left");
}

#[test]
fn a_client_that_says_no_more_still_gets_its_replies() {
    let session = Session::new();
    let run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let mut client = session.client(&run.pcproxy);
    client.say([STATS, STATS].concat());
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    client.status();
    client.status();
    assert_eq!(client.hear(), None);
    run.delivers(b"", "a run");
}

#[test]
fn a_run_that_is_stuck_flows_when_its_limit_is_lifted_or_raised() {
    let data = payload(700_000);
    for options in [&["--rate", "1"][..], &["--schedule", "Mon-00:00,1"], &["--rate", "1", "--buffer", "1"]] {
        for (limit, rest) in [(None, None), (Some(64 << 20), None), (Some(u64::MAX), None), (Some(2), Some(1 << 30))] {
            let session = Session::new();
            let mut run = session.run(options, Kind::Pipe, Kind::Pipe);
            let feeder = feed(Kind::Pipe, run.stdin.try_clone().unwrap(), data.clone());
            drop(run.stdin);
            run.client.wait_for("producer_pauses", 1);
            assert!(unread(&run.stdout) < A_FEW);
            run.client.rate(limit);
            rest.into_iter().for_each(|limit| run.client.rate(limit));
            assert_arrived(&read_to_end(run.stdout), &data, format!("{options:?}, then {limit:?}"));
            feeder.join().unwrap();
            run.pcproxy.wait().succeeded("a run that was stuck");
        }
    }
}

#[test]
fn a_limit_is_put_on_a_run_that_flows() {
    let data = payload(6 << 20);
    for options in [&[][..], &["--rate", "1G"], &["--schedule", "Mon-00:00,off"]] {
        let session = Session::new();
        let mut run = session.run(options, Kind::Pipe, Kind::Pipe);
        let feeder = feed(Kind::Pipe, run.stdin.try_clone().unwrap(), data.clone());
        drop(run.stdin);
        let mut arrived = read_exactly(&run.stdout, 2 << 20);
        run.client.rate(1);
        // What it had written by then, and hardly a byte more.
        let written = arrived.len() + unread(&run.stdout);
        run.client.wait_for("buffered", LOW_WATER + 1);
        arrived.extend(read_exactly(&run.stdout, written - arrived.len()));
        run.pcproxy.settle_until_due();
        let more = unread(&run.stdout);
        assert!(more < A_FEW, "{more} bytes passed");
        run.client.rate(None);
        arrived.extend(read_to_end(run.stdout));
        assert_arrived(&arrived, &data, format!("{options:?}"));
        feeder.join().unwrap();
        run.pcproxy.wait().succeeded("a run that was held back");
    }
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_changes_nothing() {
    let session = Session::new();
    let mut run = session.run(&["--rate", "1G", "--buffer", "70000"], Kind::Pipe, Kind::Pipe);
    for (request, words) in [
        (r#"{"do":"rate","rate":0}"#, &["least", "1 byte"][..]),
        (r#"{"do":"rate"}"#, &["rate"]),
        (r#"{"do":"rate","rate":-1}"#, &["-1"]),
        (r#"{"do":"rate","rate":1.5}"#, &["1.5"]),
        (r#"{"do":"rate","rate":"10M"}"#, &["10M"]),
        (r#"{"do":"rate","rate":18446744073709551616}"#, &["u64"]),
        (r#"{"do":"rate","rate":5,"burst":5}"#, &["burst"]),
        (r#"{"do":"rate","rate":1,"seconds":3600,"unit":"bits"}"#, &[]),
        (r#"{"do":"buffer","size":0}"#, &["least", "1"]),
        (r#"{"do":"buffer"}"#, &["size"]),
        (r#"{"do":"buffer","size":null}"#, &["null"]),
        (r#"{"do":"buffer","size":4611686018427387904}"#, &["memory"]),
        (r#"{"do":"fly"}"#, &["fly", "stats", "rate", "pause", "resume", "buffer", "stop"]),
        (r#"{"do":"Stop"}"#, &["Stop"]),
        (r#"{"Do":"stop"}"#, &["do"]),
        (r#"{"do":["stop"]}"#, &[]),
        (r#"{"do":"stop"} {"do":"stop"}"#, &["trailing"]),
        (r#"{"do":"stop"}x"#, &["trailing"]),
        (r#"{"do":"stop""#, &[]),
        ("{}", &["do"]),
        ("[]", &[]),
        ("null", &[]),
        ("7", &[]),
        ("stop", &[]),
        ("", &[]),
        ("   \t", &[]),
        ("GET / HTTP/1.1", &[]),
    ] {
        run.client.say(format!("{request}\n"));
        let reason = run.client.reason();
        for word in words {
            assert!(reason.contains(word), "{word} is missing in what was said to {request}: {reason}");
        }
    }
    for bytes in [&b"\0\n"[..], b"\xff\xfe\x00{\n", b"{\"do\":\"st\xffop\"}\n", &[0x80; 200], b"\n"] {
        run.client.say(bytes);
        if bytes.ends_with(b"\n") {
            run.client.reason();
        }
    }
    let status = run.client.stats();
    assert_eq!((&status["limit"], &status["buffer"]), (&(1 << 30).into(), &70_000.into()), "{status}");
    assert_eq!(status["rate_unit"], "binary", "{status}");
    run.passes(100_000);
    run.delivers(b"", "after much nonsense");
}

#[test]
fn a_request_that_says_more_than_it_can_mean_is_refused() {
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    for request in [r#"{"do":"pause","for":"1h"}"#, r#"{"do":"stop","when":"empty"}"#] {
        run.client.say(format!("{request}\n"));
        run.client.reason();
    }
    run.passes(1000);
    run.delivers(b"", "a run");
}

#[test]
fn a_line_without_an_end_is_hung_up_on() {
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let padded = |len: usize| [vec![b' '; len - STATS.len()], STATS.to_vec()].concat();
    run.client.say(padded(LINE));
    run.client.status();
    for line in [padded(LINE + 1), vec![b'x'; LINE], vec![0; 100_000], vec![b'['; 2 * LINE]] {
        let mut client = session.client(&run.pcproxy);
        // It may be gone before all is said.
        let _ = client.stream.get_mut().write_all(&line);
        assert_eq!(client.hear(), None, "a line of {} bytes", line.len());
    }
    run.client.stats();
    run.passes(1000);
    run.delivers(b"", "after long lines");
}

#[test]
fn a_paused_run_delivers_nothing_until_it_is_resumed() {
    let data = payload(20_000);
    for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::Unix, Kind::Unix), (Kind::Fifo, Kind::Unix)] {
        for options in [&[][..], &["--buffer", "30000", "--low-water", "0"]] {
            let session = Session::new();
            let mut run = session.run(options, from, to);
            for _ in 0..3 {
                run.client.pause();
                run.takes(&data);
                assert_eq!(unread(&run.stdout), 0, "{from:?} to {to:?}, {options:?}");
                // It is still so for who asks later, and for another.
                run.client.pause();
                let status = session.client(&run.pcproxy).stats();
                assert_eq!(
                    (&status["state"], &status["buffered"], &status["limit"]),
                    (&"paused".into(), &data.len().into(), &Value::Null)
                );
                run.client.resume();
                assert_arrived(&read_exactly(&run.stdout, data.len()), &data, "once it is resumed");
                run.client.stats();
                assert_ne!(run.client.stats()["state"], "paused");
            }
            run.delivers(b"", "a run that was paused");
        }
    }
}

#[test]
fn a_limit_leaves_no_byte_to_pass_in_a_pause() {
    let data = payload(20_000);
    for options in [["--rate", "100M", "--burst", "9ms"], ["--rate", "100M", "--burst", "64K"]] {
        let session = Session::new();
        let mut run = session.run(&options, Kind::Pipe, Kind::Pipe);
        run.passes(1000);
        run.pcproxy.settle();
        run.client.pause();
        run.takes(&data);
        assert_eq!(unread(&run.stdout), 0, "{options:?}");
        run.client.rate(None);
        run.pcproxy.settle();
        assert_eq!(unread(&run.stdout), 0, "without a limit");
        run.client.resume();
        run.delivers(&data, "a run that was paused");
    }
}

#[test]
fn a_pause_in_mid_stream_loses_nothing() {
    let data = payload(8 << 20);
    for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::Tcp, Kind::Unix), (Kind::File, Kind::Pipe)] {
        let session = Session::new();
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let feeder = feed(from, input.ours, data.clone());
        let pcproxy = session.start(&[], input.theirs, output.theirs);
        let mut client = session.client(&pcproxy);
        let mut arrived = Vec::new();
        for _ in 0..4 {
            arrived.extend(read_exactly(&output.ours, 500_000));
            client.pause();
            // All that it had written is there by now, and nothing follows.
            arrived.extend(read_exactly(&output.ours, unread(&output.ours)));
            client.wait_for("buffered", LOW_WATER + 1);
            assert_eq!(unread(&output.ours), 0, "{from:?} to {to:?}");
            client.resume();
        }
        arrived.extend(read_to_end(output.ours));
        assert_arrived(&arrived, &data, format!("{from:?} to {to:?}"));
        feeder.join().unwrap();
        pcproxy.wait().succeeded("after four pauses");
    }
}

#[test]
fn a_consumer_that_leaves_ends_a_paused_run() {
    for to in [Kind::Pipe, Kind::Fifo, Kind::Unix] {
        for held in [0, 1000] {
            let session = Session::new();
            let mut run = session.run(&[], Kind::Pipe, to);
            run.client.pause();
            run.takes(&payload(held));
            drop(run.stdout);
            run.pcproxy.wait().died_silently_by(Signal::PIPE);
            assert_eq!(run.client.hear(), None);
        }
    }
}

#[test]
fn a_paused_run_whose_producer_leaves_delivers_all_once_it_is_resumed() {
    let data = payload(50_000);
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    run.client.pause();
    run.takes(&data);
    drop(run.stdin);
    run.pcproxy.settle();
    assert_eq!(unread(&run.stdout), 0);
    run.client.resume();
    assert_arrived(&read_to_end(run.stdout), &data, "after a pause");
    run.pcproxy.wait().succeeded("after a pause");
}

/// Whoever ends it does not want it to wait for someone who may not come again.
#[test]
fn a_paused_run_that_is_told_to_end_delivers_what_it_holds() {
    let data = payload(50_000);
    for signal in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let session = Session::new();
        let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
        run.client.pause();
        run.takes(&data);
        match signal {
            None => run.client.stop(),
            Some(signal) => run.pcproxy.signal(signal),
        }
        assert_arrived(&read_to_end(run.stdout), &data, format!("{signal:?}"));
        let end = run.pcproxy.wait();
        match signal {
            None => end.succeeded("stop"),
            Some(signal) => end.died_silently_by(signal),
        }
    }
}

#[test]
fn the_buffer_grows_and_shrinks_around_what_it_holds() {
    let data = payload(900_000);
    for (from, to) in [
        (Kind::Pipe, Kind::Pipe),
        (Kind::Unix, Kind::Unix),
        (Kind::Pipe, Kind::Tcp),
        (Kind::Unix, Kind::Pipe),
        (Kind::File, Kind::Pipe),
        (Kind::Pipe, Kind::File),
        (Kind::File, Kind::File),
    ] {
        let session = Session::new();
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let feeder = feed(from, input.ours, data.clone());
        let pcproxy = session.start(&["--buffer", "10000", "--rate", "1"], input.theirs, output.theirs);
        let mut client = session.client(&pcproxy);
        client.wait_for("peak_buffered", 10_000);
        for size in [30_000, 100_000, 400_000] {
            client.buffer(size);
            client.wait_for("peak_buffered", size);
        }
        // What is held stays, and nothing is added to it.
        for size in [399_999, 1000, 1] {
            client.buffer(size);
            pcproxy.settle_until_due();
            let held = client.stats()["buffered"].as_u64().unwrap();
            assert!((399_000..=400_000).contains(&held), "{held} bytes are held");
        }
        client.buffer(500_000);
        client.rate(None);
        let arrived = if to == Kind::File {
            pcproxy.wait().succeeded("a run");
            read_to_end(output.ours)
        } else {
            let arrived = read_to_end(output.ours);
            pcproxy.wait().succeeded("a run");
            arrived
        };
        assert_arrived(&arrived, &data, format!("{from:?} to {to:?}"));
        feeder.join().unwrap();
    }
}

#[test]
fn the_buffer_changes_in_mid_stream_without_losing_a_byte() {
    let data = payload(2 << 20);
    for (from, to) in [
        (Kind::Pipe, Kind::Pipe),
        (Kind::Unix, Kind::Unix),
        (Kind::Tcp, Kind::Pipe),
        (Kind::Pipe, Kind::Unix),
        (Kind::File, Kind::Pipe),
        (Kind::File, Kind::Unix),
    ] {
        let session = Session::new();
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let feeder = feed(from, input.ours, data.clone());
        let pcproxy = session.start(&["--buffer", "1"], input.theirs, output.theirs);
        let mut client = session.client(&pcproxy);
        let mut arrived = Vec::new();
        for size in [300_000, 7, 1 << 20, 1, 4096, 65_537, 3 << 20, 100, 20_000, 1, 200_000, 2, 1 << 20] {
            client.buffer(size);
            arrived.extend(read_exactly(&output.ours, 50_000));
        }
        arrived.extend(read_to_end(output.ours));
        assert_arrived(&arrived, &data, format!("{from:?} to {to:?}"));
        feeder.join().unwrap();
        pcproxy.wait().succeeded("after many sizes");
    }
}

#[test]
fn a_buffer_of_one_byte_that_grows_is_filled_at_once() {
    for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::Unix, Kind::Unix)] {
        let session = Session::new();
        let mut run = session.run(&["--buffer", "1"], from, to);
        let data = payload(5000);
        run.client.pause();
        (&run.stdin).write_all(&data).unwrap();
        run.client.wait_for("buffered", 1);
        run.client.buffer(100_000);
        run.takes(b"");
        assert_eq!(run.client.stats()["buffered"], 5000);
        run.client.resume();
        run.delivers(&data, "a buffer that has grown");
    }
}

#[test]
fn a_buffer_that_has_shrunk_to_a_byte_is_what_it_was_once_it_grows_again() {
    let session = Session::new();
    let run = session.run(&["--buffer", "100K", "--low-water", "25%"], Kind::Unix, Kind::Unix);
    let Run { pcproxy, stdin, stdout, mut client, .. } = run;
    client.pause();
    let data = payload(1 << 20);
    let feeder = feed(Kind::Unix, stdin, data.clone());
    client.wait_for("buffered", 100 * KIB);
    client.buffer(1);
    client.buffer(400 * KIB);
    client.wait_for("buffered", 400 * KIB);
    client.resume();
    assert_arrived(&read_to_end(stdout), &data, "after all");
    feeder.join().unwrap();
    pcproxy.wait().succeeded("after all");
}

#[test]
fn stop_ends_the_input_and_delivers_what_is_held() {
    for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::Unix, Kind::Unix), (Kind::Fifo, Kind::Pipe)] {
        for buffer in ["1", "64K", "2M"] {
            let session = Session::new();
            let mut run = session.run(&["--buffer", buffer, "--rate", "1"], from, to);
            let data = payload(100_000);
            // The rest finds no reader any more.
            let feeder = thread::spawn({
                let (mut stdin, data) = (run.stdin, data.clone());
                move || while stdin.write_all(&data).is_ok() {}
            });
            run.client.wait_for("producer_pauses", 1);
            run.client.stop();
            let status = run.client.stats();
            let taken = [&status["bytes"], &status["buffered"]].map(|part| part.as_u64().unwrap() as usize);
            // It is answered until it ends, and reads no more whatever it is asked.
            run.client.buffer(3 << 20);
            run.client.rate(None);
            let arrived = read_to_end(run.stdout);
            let all: Vec<_> = data.iter().cycle().take(taken.iter().sum()).copied().collect();
            assert_arrived(&arrived, &all, format!("{from:?} to {to:?}, {buffer}"));
            run.pcproxy.wait().succeeded("a run that was stopped");
            drop(run.view);
            feeder.join().unwrap();
        }
    }
}

#[test]
fn stop_ends_a_run_at_once_that_has_nothing_to_deliver() {
    let session = Session::new();
    for pause in [false, true] {
        let mut run = session.run(&[], Kind::Unix, Kind::Pipe);
        run.passes(1000);
        if pause {
            run.client.pause();
        }
        run.client.stop();
        assert_eq!(read_to_end(run.stdout), b"");
        run.pcproxy.wait().succeeded("a run that was stopped");
        assert_eq!(run.client.hear(), None);
    }
}

#[test]
fn stop_is_heard_while_both_sides_are_always_ready() {
    let session = Session::new();
    let (zeros, null) = (File::open("/dev/zero").unwrap(), File::create("/dev/null").unwrap());
    let pcproxy = session.start(&[], zeros, null);
    session.client(&pcproxy).stop();
    pcproxy.wait().succeeded("a run that was stopped");
}

#[test]
fn stop_takes_no_byte_of_a_file_that_it_does_not_deliver() {
    let session = Session::new();
    let data = payload(8 << 20);
    for options in [&[][..], &["--buffer", "1M"], &["--rate", "1G"]] {
        let (input, output) = (connection(Kind::File, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        feed(Kind::File, input.ours, data.clone());
        let mut position = File::from(input.theirs.try_clone().unwrap());
        let pcproxy = session.start(options, input.theirs, output.theirs);
        let mut arrived = read_exactly(&output.ours, 1 << 20);
        session.client(&pcproxy).stop();
        arrived.extend(read_to_end(output.ours));
        let read = position.stream_position().unwrap() as usize;
        assert!(read < data.len());
        assert_arrived(&arrived, &data[..read], format!("{options:?}"));
        pcproxy.wait().succeeded("a run that was stopped");
    }
}

/// A hostile client. It goes on until the run is gone or `over`.
type Hostile = fn(&Path, &AtomicBool);

/// Does `what` with one connection after another.
fn again_and_again(path: &Path, over: &AtomicBool, mut what: impl FnMut(UnixStream)) {
    while !over.load(Ordering::Relaxed) {
        let Ok(stream) = UnixStream::connect(path) else { return };
        what(stream);
    }
}

/// Says `bytes` for as long as anyone listens, and never reads a reply.
fn says_for_ever(path: &Path, over: &AtomicBool, bytes: &[u8]) {
    again_and_again(path, over, |mut stream| while !over.load(Ordering::Relaxed) && stream.write_all(bytes).is_ok() {});
}

const HOSTILES: [(&str, Hostile); 10] = [
    ("floods it and never reads", |path, over| says_for_ever(path, over, &STATS.repeat(100))),
    ("floods it with garbage", |path, over| says_for_ever(path, over, b"\xff\n{{{{\n\0\n\n\n\n")),
    ("says a line that does not end", |path, over| says_for_ever(path, over, &[b'x'; 5000])),
    ("says binary", |path, over| says_for_ever(path, over, &payload(5000))),
    ("floods it and reads", |path, over| {
        again_and_again(path, over, |stream| {
            let mut client = Client::new(stream);
            while !over.load(Ordering::Relaxed)
                && client.stream.get_mut().write_all(&STATS.repeat(10)).is_ok()
                && (0..10).all(|_| client.hear().is_some())
            {}
        });
    }),
    ("comes and goes", |path, over| again_and_again(path, over, drop)),
    ("asks and goes", |path, over| {
        again_and_again(path, over, |mut stream| _ = stream.write_all(&STATS.repeat(30)));
    }),
    ("says half and goes", |path, over| again_and_again(path, over, |mut stream| _ = stream.write_all(b"{\"do"))),
    ("comes with a crowd", |path, _| {
        let crowd: Vec<_> = (0..3 * MOST_CLIENTS).map_while(|_| UnixStream::connect(path).ok()).collect();
        // They stay until they are dropped, or the run ends.
        crowd.into_iter().for_each(|stream| _ = Client::new(stream).hear());
    }),
    ("changes everything all the time", |path, over| {
        let words = [r#""pause""#, r#""resume""#, r#""buffer","size":1"#, r#""buffer","size":1000000"#];
        let words = words.map(|word| format!("{{\"do\":{word}}}\n")).concat();
        let words = words + "{\"do\":\"rate\",\"rate\":1000000000}\n{\"do\":\"rate\",\"rate\":null}\n";
        again_and_again(path, over, |mut stream| {
            // As long as a run ends by itself nobody may be told to leave it paused.
            while !over.load(Ordering::Relaxed) && stream.write_all(words.as_bytes()).is_ok() {
                let mut replies = BufReader::new(&stream);
                let mut line = String::new();
                if !(0..6).all(|_| replies.read_line(&mut line).is_ok_and(|read| read > 0)) {
                    return;
                }
            }
        });
    }),
];

/// Starts these hostiles. They end with the run, or once they are over.
fn beset(path: &Path, hostiles: &[(&str, Hostile)]) -> (Arc<AtomicBool>, Vec<thread::JoinHandle<()>>) {
    let over = Arc::new(AtomicBool::new(false));
    let threads = hostiles.iter().map(|(_, hostile)| {
        let (hostile, path, over) = (*hostile, path.to_owned(), over.clone());
        thread::spawn(move || hostile(&path, &over))
    });
    (over.clone(), threads.collect())
}

#[test]
fn every_byte_arrives_and_every_client_is_answered_beside_a_hostile_one() {
    for (who, hostile) in HOSTILES {
        let session = Session::new();
        let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
        let (over, threads) = beset(&session.socket(&run.pcproxy), &[(who, hostile)]);
        for _ in 0..10 {
            // In a crowd it may have had to leave, and comes back.
            while run.client.try_stats().is_none() {
                run.client = session.client(&run.pcproxy);
            }
            run.passes(100_000);
        }
        run.delivers(b"", who);
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        session.has_no_socket(who);
    }
}

#[test]
fn all_hostile_clients_together_lose_no_byte_of_any_stream() {
    let data = payload(3 << 20);
    for (from, to, options) in [
        (Kind::Pipe, Kind::Pipe, &[][..]),
        (Kind::Unix, Kind::Unix, &[]),
        (Kind::File, Kind::Pipe, &["--buffer", "1M"]),
        (Kind::Pipe, Kind::Unix, &["--rate", "32M"]),
    ] {
        let session = Session::new();
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let feeder = feed(from, input.ours, data.clone());
        let pcproxy = session.start(options, input.theirs, output.theirs);
        drop(session.client(&pcproxy));
        let (over, threads) = beset(&session.socket(&pcproxy), &HOSTILES);
        let mut arrived = read_exactly(&output.ours, 1 << 20);
        arrived.extend(read_to_end(output.ours));
        assert_arrived(&arrived, &data, format!("{from:?} to {to:?}"));
        pcproxy.wait().succeeded("beset by all");
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        feeder.join().unwrap();
    }
}

#[test]
fn when_too_many_clients_come_the_one_that_was_silent_for_longest_has_to_leave() {
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let mut others: Vec<_> = (1..MOST_CLIENTS).map(|_| session.client(&run.pcproxy)).collect();
    // Now the first is the one that spoke last.
    for client in others.iter_mut().chain([&mut run.client]) {
        client.stats();
    }
    for number in 0..3 {
        let mut newcomer = session.client(&run.pcproxy);
        newcomer.stats();
        assert_eq!(others[number].hear(), None, "number {number}");
        others.push(newcomer);
    }
    for client in others[3..].iter_mut().chain([&mut run.client]) {
        client.stats();
    }
    run.passes(1000);
    run.delivers(b"", "with many clients");
}

#[test]
fn a_run_with_silent_clients_sleeps() {
    let session = Session::new();
    for options in [&[][..], &["--rate", "10M"]] {
        let mut idle = session.run(options, Kind::Pipe, Kind::Pipe);
        let mut half = session.client(&idle.pcproxy);
        half.say(b"{\"do\":");
        let _silent = session.client(&idle.pcproxy);
        idle.passes(100_000);
        idle.client.stats();
        // They have all been heard by the time that one who comes later is.
        session.client(&idle.pcproxy).stats();
        idle.pcproxy.settle();
        let mut other = session.run(&["--rate", "10M"], Kind::Pipe, Kind::Pipe);
        until("it to sleep through an exchange with another", || {
            let before = idle.pcproxy.status("voluntary_ctxt_switches");
            for _ in 0..20 {
                other.passes(50_000);
                other.client.stats();
            }
            before == idle.pcproxy.status("voluntary_ctxt_switches")
        });
        other.delivers(b"", "the other");
        idle.delivers(b"", "the idle one");
    }
}

#[test]
fn the_socket_goes_with_the_run_however_it_ends() {
    let session = Session::new();
    let run = || {
        let run = session.run(&[], Kind::Pipe, Kind::Pipe);
        assert_eq!(session.sockets(), [run.pcproxy.pid()]);
        run
    };

    run().delivers(b"", "a run");
    session.has_no_socket("the end of the input");

    let mut stopped = run();
    stopped.client.stop();
    stopped.pcproxy.wait().succeeded("a run");
    session.has_no_socket("stop");

    let left = run();
    drop(left.stdout);
    left.pcproxy.wait().died_silently_by(Signal::PIPE);
    session.has_no_socket("the consumer left");

    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        let run = run();
        run.pcproxy.signal(signal);
        run.pcproxy.wait().died_silently_by(signal);
        session.has_no_socket("a signal");
    }

    let mut held = run();
    held.client.pause();
    held.takes(b"held");
    held.pcproxy.signal(Signal::TERM);
    held.pcproxy.settle();
    held.pcproxy.signal(Signal::TERM);
    held.pcproxy.wait().died_by(Signal::TERM);
    session.has_no_socket("two signals");

    let (input, full) = (connection(Kind::Pipe, Side::Stdin), File::create("/dev/full").unwrap());
    let failing = session.start(&[], input.theirs, full);
    drop(session.client(&failing));
    (&input.ours).write_all(b"x").unwrap();
    failing.wait().failed(1, &["stdout"]);
    session.has_no_socket("an error");
}

#[test]
fn the_next_run_removes_the_socket_that_a_killed_one_left_behind() {
    let session = Session::new();
    let [killed, living] = [(); 2].map(|()| session.run(&[], Kind::Pipe, Kind::Pipe));
    let (dead, alive) = (killed.pcproxy.pid(), living.pcproxy.pid());
    killed.pcproxy.signal(Signal::KILL);
    killed.pcproxy.wait().died_silently_by(Signal::KILL);
    assert!(session.sockets().contains(&dead));
    // What is none of its business stays.
    let notes = session.folder().join("notes.txt");
    fs::write(&notes, "mine").unwrap();
    let next = session.run(&[], Kind::Pipe, Kind::Pipe);
    let mut expected = [alive, next.pcproxy.pid()];
    expected.sort_unstable();
    assert_eq!(session.sockets(), expected);
    assert!(notes.exists());
    for mut run in [living, next] {
        run.client.stats();
        run.passes(1000);
        run.delivers(b"", "a run");
    }
}

/// The start of a command line that runs a command as the first process of a new pid namespace.
/// Nothing if this machine does not let the test make one.
fn in_a_pid_namespace() -> Option<Vec<String>> {
    let as_user = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let as_root = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let words = if geteuid().is_root() { &as_root[..] } else { &as_user[..] };
    let tried = Command::new(words[0]).args(&words[1..]).arg("true").output();
    if tried.is_ok_and(|tried| tried.status.success()) {
        return Some(words.iter().map(|word| (*word).to_owned()).collect());
    }
    assert!(std::env::var_os("CI").is_none(), "unshare must be able to make a pid namespace here");
    eprintln!("skipped: unshare cannot make a pid namespace here");
    None
}

#[test]
fn a_run_in_another_pid_namespace_leaves_the_sockets_of_others_alone() {
    let Some(words) = in_a_pid_namespace() else { return };
    let session = Session::new();
    let mut outside = session.run(&["--name", "outside"], Kind::Pipe, Kind::Pipe);
    let inside: Vec<_> = (0..2)
        .map(|_| {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg(env!("CARGO_BIN_EXE_pcproxy")).args(["--name", "inside"]);
            command.env("PCPROXY_DIR", session.folder());
            let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
            (start_command(command, input.theirs, output.theirs), input.ours, output.ours)
        })
        .collect();
    // Both have pid 1. A run that is found by its socket answers.
    let stats = || session.command(&["ctl", "inside", "stats", "--json"]).output().unwrap();
    until("both to be seen from outside", || String::from_utf8(stats().stdout).unwrap().lines().count() == 2);
    assert!(session.sockets().contains(&outside.pcproxy.pid()));
    outside.client.stats();
    let stop = session.command(&["ctl", "inside", "stop"]).output().unwrap();
    assert!(stop.status.success(), "{stop:?}");
    for (pcproxy, ..) in inside {
        pcproxy.wait().succeeded("a run in a namespace");
    }
    outside.delivers(b"", "the run outside");
    session.has_no_socket("after all");
}

#[test]
fn a_socket_that_nobody_listens_on_goes_though_a_process_has_its_pid() {
    let session = Session::new();
    let run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let left_over = session.folder().join(format!("{}.sock", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&left_over).unwrap());
    let stats = session.command(&["ctl", "--all", "stats", "--json"]).output().unwrap();
    assert_eq!(String::from_utf8(stats.stdout).unwrap().lines().count(), 1);
    assert_eq!(session.sockets(), [run.pcproxy.pid()]);
    run.delivers(b"", "a run");
}

#[test]
fn a_run_that_just_starts_is_not_taken_for_one_that_was_killed() {
    let session = Session::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                session.command(&["ctl", "--all", "stats"]).output().unwrap();
            }
        });
        for _ in 0..10 {
            let runs: Vec<_> = (0..4).map(|_| session.run(&[], Kind::Pipe, Kind::Pipe)).collect();
            for run in runs {
                assert!(session.sockets().contains(&run.pcproxy.pid()));
                run.delivers(b"", "a run");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_client_for_which_there_is_no_descriptor_wakes_nobody_and_is_answered_later() {
    let session = Session::new();
    let run = session.run(&[], Kind::Pipe, Kind::Pipe);
    let pid = Pid::from_raw(run.pcproxy.pid() as i32);
    drop(run.client);
    run.pcproxy.settle();
    let open = (0..).find(|fd| !Path::new(&format!("/proc/{}/fd/{fd}", run.pcproxy.pid())).exists());
    let plenty = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: open, maximum: plenty.maximum }).unwrap();
    let mut client = session.client(&run.pcproxy);
    client.say(STATS);
    let mut other = session.run(&["--rate", "10M"], Kind::Pipe, Kind::Pipe);
    until("it to sleep through an exchange with another", || {
        let before = run.pcproxy.status("voluntary_ctxt_switches");
        for _ in 0..20 {
            other.passes(50_000);
            other.client.stats();
        }
        before == run.pcproxy.status("voluntary_ctxt_switches")
    });
    other.delivers(b"", "the other");
    prlimit(pid, Resource::Nofile, plenty).unwrap();
    client.status();
    // With a client that is silent, there is a descriptor for the next.
    let open = (0..).find(|fd| !Path::new(&format!("/proc/{}/fd/{fd}", run.pcproxy.pid())).exists());
    prlimit(pid, Resource::Nofile, Rlimit { current: open, maximum: plenty.maximum }).unwrap();
    let mut next = session.client(&run.pcproxy);
    next.say(STATS);
    // It was disconnected, and its place taken by the one that comes next.
    assert_eq!(client.hear(), None);
    next.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    next.status();
    drop(run.stdin);
    run.pcproxy.wait().succeeded("a run without descriptors");
}

#[test]
fn thirty_runs_are_asked_with_little_memory() {
    let session = Session::new();
    let runs: Vec<_> = (0..30).map(|_| session.run(&[], Kind::Pipe, Kind::Pipe)).collect();
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v 20000 && exec "$0" ctl --all stats --json"#, env!("CARGO_BIN_EXE_pcproxy")]);
    let answer = command.env("PCPROXY_DIR", session.folder()).output().unwrap();
    assert!(answer.status.success() && answer.stderr.is_empty(), "{answer:?}");
    assert_eq!(String::from_utf8(answer.stdout).unwrap().lines().count(), 30);
    runs.into_iter().for_each(|run| run.delivers(b"", "a run"));
}

#[test]
fn a_run_that_hangs_holds_up_no_other() {
    let session = Session::new();
    let (hung, mut well) = (session.run(&[], Kind::Pipe, Kind::Pipe), session.run(&[], Kind::Pipe, Kind::Pipe));
    hung.pcproxy.signal(Signal::STOP);
    hung.pcproxy.wait_stopped();
    // More than can wait to be accepted.
    let _crowd: Vec<_> = (0..2 * MOST_CLIENTS)
        .map_while(|_| {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
            let address = SocketAddrUnix::new(session.socket(&hung.pcproxy)).unwrap();
            connect(&socket, &address).is_ok().then_some(socket)
        })
        .collect();
    let answer = session.command(&["ctl", "--all", "rate", "5M"]).output().unwrap();
    let said = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("{} does not answer", hung.pcproxy.pid())) && said.lines().count() == 1, "{said}");
    assert_eq!(well.client.stats()["limit"], 5 << 20);
    hung.pcproxy.signal(Signal::CONT);
    well.delivers(b"", "the one that was well");
    hung.delivers(b"", "the one that hung");
}

#[test]
fn the_folder_is_closed_to_others() {
    for umask in ["0", "022", "027", "077"] {
        let session = Session::new();
        let command = session.shell(&format!(r#"umask {umask}; exec "$0""#));
        let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let pcproxy = start_command(command, input.theirs, output.theirs);
        session.client(&pcproxy).stats();
        let mode = fs::metadata(session.folder()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "umask {umask}");
        drop(input.ours);
        pcproxy.wait().succeeded("a run");
    }
}

#[test]
fn a_run_that_is_to_be_left_alone_has_no_socket() {
    let session = Session::new();
    let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
    let pcproxy = session.start(&["--no-control"], input.theirs, output.theirs);
    (&input.ours).write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&output.ours, 5), b"hello");
    assert!(!session.folder().exists());
    drop(input.ours);
    pcproxy.wait().succeeded("--no-control");
}

#[test]
fn a_run_whose_folder_is_lost_goes_on() {
    let session = Session::new();
    let mut run = session.run(&[], Kind::Pipe, Kind::Pipe);
    fs::remove_dir_all(session.folder()).unwrap();
    run.client.stats();
    run.passes(100_000);
    run.delivers(b"", "without a folder");
}

#[test]
fn without_a_folder_of_its_own_it_moves_what_there_is_to_move() {
    type Obstacle = fn(&Path);
    let obstacles: [(&str, Obstacle); 4] = [
        ("a file in its place", |folder| fs::write(folder, "").unwrap()),
        ("a link in its place", |folder| symlink("/tmp", folder).unwrap()),
        ("a link to nowhere", |folder| symlink("/nonexistent/folder", folder).unwrap()),
        ("a folder that is open to others", |folder| {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
        }),
    ];
    let passes = |command: Command, what: &str| {
        let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let pcproxy = start_command(command, input.theirs, output.theirs);
        let data = payload(300_000);
        let feeder = feed(Kind::Pipe, input.ours, data.clone());
        assert_arrived(&read_to_end(output.ours), &data, what);
        feeder.join().unwrap();
        pcproxy.wait().succeeded(what);
    };
    for (what, obstacle) in obstacles {
        let session = Session::new();
        obstacle(&session.folder());
        passes(session.command(&[]), what);
        session.has_no_socket(what);
    }
    for folder in ["relative", "/nonexistent/parent/folder", "/dev/null"] {
        let mut command = Session::new().command(&[]);
        command.env("PCPROXY_DIR", folder);
        passes(command, folder);
    }
}
