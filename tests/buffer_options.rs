//! What the buffer waits for: enough bytes to start, a source that must be spared, a side that has
//! stalled.

mod support;

use std::fs::File;
use std::io::{Write, pipe};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    Kind, Running, Session, Side, assert_arrived, connection, input_pipe, payload, read_exactly, read_to_end, start,
    unread, until,
};

/// Asks a run for something over its socket.
fn ctl(session: &Session, what: &str, pcproxy: &Running) {
    drop(session.connect(pcproxy));
    let output = session.command(&["ctl", &pcproxy.pid().to_string(), what]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Lets time pass, which is what these tests are about.
fn pass(time: Duration) {
    let start = Instant::now();
    until("time to pass", || start.elapsed() >= time);
}

#[test]
fn nothing_goes_out_before_the_start_mark_and_again_after_the_buffer_ran_empty() {
    for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::Unix, Kind::Pipe), (Kind::Pipe, Kind::Unix)] {
        let (mut input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let pcproxy = start(&["--buffer", "4000", "--start-at", "2000"], input.theirs, output.theirs);
        let data = payload(8000);
        let mut sent = 0;
        for _ in 0..3 {
            input.ours.write_all(&data[sent..sent + 1500]).unwrap();
            pcproxy.settle();
            assert_eq!(unread(&output.ours), 0, "{from:?} to {to:?}");
            input.ours.write_all(&data[sent + 1500..sent + 2500]).unwrap();
            assert_arrived(&read_exactly(&output.ours, 2500), &data[sent..sent + 2500], "after the mark");
            sent += 2500;
            pcproxy.settle();
        }
        input.ours.write_all(&data[sent..]).unwrap();
        drop(input.ours);
        assert_arrived(&read_to_end(output.ours), &data[sent..], "the end of the input starts it");
        pcproxy.wait().succeeded(format!("{from:?} to {to:?}"));
    }
}

#[test]
fn a_start_mark_of_the_whole_buffer_is_reached_with_small_writes_and_with_files() {
    let data = payload(300_000);
    let (theirs, ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(&["--buffer", "100000", "--start-at", "100%", "--pipe-size", "keep"], theirs, into);
    let sent = data.clone();
    let feeder = std::thread::spawn(move || sent.chunks(7).all(|piece| (&ours).write_all(piece).is_ok()));
    assert_arrived(&read_to_end(stdout), &data, "small writes");
    assert!(feeder.join().unwrap());
    pcproxy.wait().succeeded("small writes");
    let mut file = connection(Kind::File, Side::Stdin);
    file.ours.write_all(&data).unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(&["--buffer", "100000", "--start-at", "100%"], file.theirs, into);
    assert_arrived(&read_to_end(stdout), &data, "a file");
    pcproxy.wait().succeeded("a file");
}

#[test]
fn resume_sends_what_is_held_before_the_start_mark() {
    let session = Session::new();
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = session.start(&["--start-at", "100%"], theirs, into);
    ours.write_all(b"early").unwrap();
    pcproxy.settle();
    assert_eq!(unread(&stdout), 0);
    ctl(&session, "resume", &pcproxy);
    assert_eq!(read_exactly(&stdout, 5), b"early");
    drop(ours);
    pcproxy.wait().succeeded("resumed");
}

#[test]
fn a_producer_that_never_starts_has_stalled() {
    for kind in [Kind::Pipe, Kind::Unix, Kind::Terminal] {
        let (input, output) = (connection(kind, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let pcproxy = start(&["--stall-timeout", "50ms"], input.theirs, output.theirs);
        pcproxy.wait().failed(1, &["stdin gave nothing for 0.05 s"]);
    }
}

#[test]
fn a_consumer_that_takes_nothing_has_stalled_and_the_bytes_that_it_missed_are_counted() {
    let (theirs, ours, stdin) = input_pipe();
    let (stdout, into) = pipe().unwrap();
    let data = payload(6 << 20);
    let pcproxy = start(&["--stall-timeout", "300ms"], theirs, into);
    let mut sent = 0;
    until("the end", || {
        sent += (&ours).write(&data[sent..]).unwrap_or(0);
        pcproxy.status("State").starts_with('Z')
    });
    let lost = sent - unread(&stdin) - unread(&stdout);
    assert_eq!(lost, 65_536, "the buffer");
    pcproxy.wait().failed(1, &["stdout took nothing for 0.3 s; 65,536 bytes were read and not delivered"]);
    assert_arrived(&read_to_end(stdout), &data[..sent - unread(&stdin) - lost], "what went out");
}

#[test]
fn the_limit_and_a_pause_are_no_stall() {
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    ours.write_all(b"abc").unwrap();
    drop(ours);
    // Half a second for each byte.
    let pcproxy = start(&["--rate", "2", "--stall-timeout", "100ms"], theirs, into);
    assert_eq!(read_to_end(stdout), b"abc");
    pcproxy.wait().succeeded("limited");

    let session = Session::new();
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = session.start(&["--stall-timeout", "2s"], theirs, into);
    ctl(&session, "pause", &pcproxy);
    pass(Duration::from_millis(2500));
    ours.write_all(b"abc").unwrap();
    ctl(&session, "resume", &pcproxy);
    assert_eq!(read_exactly(&stdout, 3), b"abc");
    drop(ours);
    pcproxy.wait().succeeded("paused");
}

#[test]
fn a_process_that_was_stopped_has_not_stalled() {
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(&["--stall-timeout", "1s"], theirs, into);
    pcproxy.wait_heeding(Signal::TERM);
    pcproxy.signal(Signal::STOP);
    pcproxy.wait_stopped();
    pass(Duration::from_millis(1200));
    pcproxy.signal(Signal::CONT);
    pcproxy.settle_until_due();
    ours.write_all(b"abc").unwrap();
    assert_eq!(read_exactly(&stdout, 3), b"abc");
    drop(ours);
    pcproxy.wait().succeeded("stopped");
}

#[test]
fn a_source_is_read_at_the_read_rate_and_the_rest_stays_in_it() {
    let data = payload(400_000);
    for from in [Kind::Pipe, Kind::File, Kind::Unix] {
        let mut input = connection(from, Side::Stdin);
        let sent = data.clone();
        let feeder = if from == Kind::File {
            input.ours.write_all(&sent).unwrap();
            None
        } else {
            Some(std::thread::spawn(move || input.ours.write_all(&sent).unwrap()))
        };
        let (stdout, into) = pipe().unwrap();
        let start_of_run = Instant::now();
        let pcproxy = start(&["--read-rate", "1M", "--catch-up", "0"], input.theirs, into);
        assert_arrived(&read_to_end(stdout), &data, "at the read rate");
        pcproxy.wait().succeeded(format!("{from:?}"));
        // All but the burst of 9 ms.
        let least = Duration::from_secs_f64((400_000.0 - 9_500.0) / 1_048_576.0);
        assert!(start_of_run.elapsed() >= least, "{from:?} in {:?}", start_of_run.elapsed());
        feeder.into_iter().for_each(|feeder| feeder.join().unwrap());
    }
}

#[test]
fn the_read_rate_holds_beside_a_higher_limit_of_the_output() {
    let (mut input, mut named) = (connection(Kind::File, Side::Stdin), tempfile::NamedTempFile::new().unwrap());
    let data = payload(200_000);
    input.ours.write_all(&data).unwrap();
    let out = File::options().write(true).open(named.path()).unwrap();
    let start_of_run = Instant::now();
    let pcproxy = start(&["--read-rate", "1M", "--rate", "100M", "--catch-up", "0"], input.theirs, out);
    pcproxy.wait().succeeded("both");
    assert!(start_of_run.elapsed() >= Duration::from_secs_f64(190_000.0 / 1_048_576.0));
    assert_arrived(&read_to_end(named.as_file_mut()), &data, "both");
}

#[test]
fn a_command_that_moves_nothing_is_ended_with_the_run() {
    let (stdout, into) = pipe().unwrap();
    let (theirs, _ours) = pipe().unwrap();
    let pcproxy = start(&["run", "--stall-timeout", "200ms", "--", "sleep", "1000"], theirs, into);
    // The command holds the write end of its stdout, and no other process does.
    assert_eq!(read_to_end(stdout), b"");
    let end = pcproxy.wait();
    assert_eq!(end.status.code(), Some(125), "{end:?}");
    assert!(end.stderr.contains("gave nothing for 0.2 s"), "{end:?}");
}
