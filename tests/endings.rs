//! How a run ends: by its input, by its consumer, by an error, by a signal. Every byte that was
//! read arrives, or is counted among the undelivered.

mod support;

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write, pipe};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use pcproxy::units::show_number;
use rustix::process::Signal;
use support::{
    KIB, Kind, Running, Side, assert_arrived, connection, feed, input_pipe, payload, read_exactly, read_to_end, start,
    start_in_shell, unread,
};

const ENDING_SIGNALS: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];

/// A pcproxy that has paused its producer, since its consumer does not read.
struct Full {
    pcproxy: Running,
    stdin: PipeReader,
    ours: PipeWriter,
    stdout: PipeReader,
    /// What was written to stdin.
    sent: Vec<u8>,
}

impl Full {
    fn new(start: impl FnOnce(PipeReader, PipeWriter) -> Running) -> Self {
        let (theirs, ours, stdin) = input_pipe();
        let (stdout, into) = pipe().unwrap();
        let pcproxy = start(theirs, into);
        let mut sent = payload(6 << 20);
        sent.truncate(pcproxy.feed_until_paused(&ours, &sent, 5000));
        Full { pcproxy, stdin, ours, stdout, sent }
    }

    /// Bytes that pcproxy has read.
    fn taken(&self) -> usize {
        self.sent.len() - unread(&self.stdin)
    }
}

#[test]
fn a_consumer_that_leaves_while_the_producer_is_silent_ends_it_at_once() {
    for to in [Kind::Pipe, Kind::Fifo, Kind::Unix] {
        for from in [Kind::Pipe, Kind::Tcp, Kind::Terminal] {
            let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
            let pcproxy = start(&[], input.theirs, output.theirs);
            pcproxy.settle();
            drop(output.ours);
            pcproxy.wait().died_silently_by(Signal::PIPE);
        }
    }
}

#[test]
fn a_consumer_that_leaves_while_the_buffer_is_full_ends_it_at_once() {
    let full = Full::new(|stdin, stdout| start(&["--buffer", "1M"], stdin, stdout));
    drop(full.stdout);
    full.pcproxy.wait().died_silently_by(Signal::PIPE);
}

#[test]
fn a_consumer_that_leaves_in_mid_stream_ends_it_at_once() {
    let data = payload(8 << 20);
    for from in [Kind::Pipe, Kind::File, Kind::Unix] {
        for (to, buffer) in [(Kind::Pipe, "64K"), (Kind::Pipe, "16M"), (Kind::Fifo, "1"), (Kind::Unix, "64K")] {
            let (mut input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
            let sent = data.clone();
            let is_file = from == Kind::File;
            if is_file {
                input.ours.write_all(&sent).unwrap();
            }
            // It has no reader any more once pcproxy has ended.
            let feeder = thread::spawn(move || is_file || input.ours.write_all(&sent).is_ok());
            let pcproxy = start(&["--buffer", buffer], input.theirs, output.theirs);
            assert_arrived(&read_exactly(&output.ours, 100_000), &data[..100_000], "before it left");
            drop(output.ours);
            let end = pcproxy.wait();
            match to {
                // A socket says whether it was closed with bytes unread.
                Kind::Unix if !end.stderr.is_empty() => end.failed(1, &["stdout", "Connection reset"]),
                _ => end.died_silently_by(Signal::PIPE),
            }
            feeder.join().unwrap();
        }
    }
}

#[test]
fn a_full_device_is_an_error_that_counts_what_a_pipe_gave() {
    for (len, buffer) in [(1, "64K"), (1000, "64K"), (1000, "10"), (60_000, "64K"), (60_000, "1M")] {
        let (theirs, mut ours, stdin) = input_pipe();
        ours.write_all(&payload(len)).unwrap();
        drop(ours);
        let full = File::create("/dev/full").unwrap();
        let end = start(&["--buffer", buffer], theirs, full).wait();
        let read = len - unread(stdin);
        assert!(read > 0);
        end.failed(
            1,
            &["stdout", "No space left on device", &format!(" {} byte", show_number(read as u64)), "not delivered"],
        );
    }
}

#[test]
fn a_full_device_is_an_error_that_counts_what_a_file_gave() {
    for (len, buffer) in [(1, "64K"), (1000, "64K"), (1 << 20, "4096"), (1 << 20, "64K"), (1 << 20, "1M")] {
        let mut input = connection(Kind::File, Side::Stdin);
        input.ours.write_all(&payload(len)).unwrap();
        let mut position = File::from(input.theirs.try_clone().unwrap());
        let full = File::create("/dev/full").unwrap();
        let end = start(&["--buffer", buffer], input.theirs, full).wait();
        let read = position.stream_position().unwrap();
        assert!(read > 0);
        end.failed(1, &["stdout", "No space left on device", &format!(" {} byte", show_number(read)), "not delivered"]);
    }
}

#[test]
fn a_directory_as_stdin_is_an_error() {
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(&[], File::open("/").unwrap(), into);
    assert_eq!(read_to_end(stdout), b"");
    pcproxy.wait().failed(1, &["stdin", "Is a directory"]);
}

#[test]
fn what_was_read_before_a_read_error_is_delivered() {
    for held in [0, 1, 50_000] {
        let input = connection(Kind::Tcp, Side::Stdin);
        let stdin = input.theirs.try_clone().unwrap();
        let (stdout, into) = pipe().unwrap();
        let data = payload(64 * KIB + held);
        let pcproxy = start(&["--pipe-size", "keep"], input.theirs, into);
        (&input.ours).write_all(&data).unwrap();
        support::until("all to arrive", || support::unsent(&input.ours) == 0);
        // How much of it stdout's pipe holds depends on the pieces it came in.
        support::until("all to be read", || unread(&stdin) == 0);
        pcproxy.settle();
        // Closed like this, it sends a reset.
        rustix::net::sockopt::set_socket_linger(&input.ours, Some(Duration::ZERO)).unwrap();
        drop(input.ours);
        assert_arrived(&read_to_end(stdout), &data, "before the reset");
        let end = pcproxy.wait();
        end.failed(1, &["stdin", "Connection reset"]);
        assert!(!end.stderr.contains("delivered"), "{end:?}");
    }
}

#[test]
fn the_end_of_the_input_leaves_nothing_behind_for_a_slow_consumer() {
    for buffer in ["64K", "2M"] {
        let Full { pcproxy, stdin, ours, mut stdout, sent } =
            Full::new(|stdin, stdout| start(&["--buffer", buffer], stdin, stdout));
        drop((ours, stdin));
        let mut arrived = Vec::new();
        // Until the rest is in the pipe, pcproxy has to wait for each of these reads.
        while arrived.len() + unread(&stdout) < sent.len() {
            pcproxy.settle();
            arrived.extend(read_exactly(&mut stdout, 7_777));
        }
        arrived.extend(read_to_end(stdout));
        assert_arrived(&arrived, &sent, buffer);
        pcproxy.wait().succeeded(buffer);
    }
}

#[test]
fn the_first_signal_stops_reading_and_what_was_read_is_delivered() {
    for signal in ENDING_SIGNALS {
        for buffer in ["1", "64K", "2M"] {
            let full = Full::new(|stdin, stdout| start(&["--buffer", buffer], stdin, stdout));
            let taken = full.taken();
            full.pcproxy.signal(signal);
            full.pcproxy.settle_until_due();
            assert_arrived(&read_to_end(&full.stdout), &full.sent[..taken], buffer);
            assert_eq!(full.taken(), taken);
            let end = full.pcproxy.wait();
            end.died_by(signal);
            assert!(end.stderr.lines().all(is_still_delivering), "{end:?}");
        }
    }
}

/// What is said when that takes long: on a busy machine it may.
fn is_still_delivering(line: &str) -> bool {
    line.starts_with("pcproxy: interrupted: still delivering ")
}

#[test]
fn an_interrupted_run_that_takes_long_to_deliver_says_so() {
    let full = Full::new(|stdin, stdout| start(&["--rate", "1"], stdin, stdout));
    full.pcproxy.signal(Signal::INT);
    assert!(is_still_delivering(&full.pcproxy.line()));
    full.pcproxy.signal(Signal::INT);
    full.pcproxy.wait().died_by(Signal::INT);
}

#[test]
fn a_signal_ends_at_once_what_has_nothing_to_deliver() {
    for signal in ENDING_SIGNALS {
        let (input, output) = (connection(Kind::Unix, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let pcproxy = start(&[], input.theirs, output.theirs);
        pcproxy.settle();
        pcproxy.signal(signal);
        pcproxy.wait().died_silently_by(signal);
    }
}

#[test]
fn ctrl_c_as_the_second_signal_ends_it_at_once_and_counts_what_was_not_delivered() {
    for first in [Signal::INT, Signal::TERM, Signal::HUP] {
        let second = Signal::INT;
        for buffer in ["1", "64K", "2M"] {
            let mut full = Full::new(|stdin, stdout| start(&["--buffer", buffer], stdin, stdout));
            full.pcproxy.signal(first);
            full.pcproxy.settle_until_due();
            // A part is still delivered in between, unless that would be all.
            let part = if buffer == "1" { 0 } else { 10_000 };
            read_exactly(&mut full.stdout, part);
            full.pcproxy.settle_until_due();
            let lost = full.taken() - part - unread(&full.stdout);
            assert!(lost > 0);
            full.pcproxy.signal(second);
            let end = full.pcproxy.wait();
            end.died_by(second);
            let told = end.stderr.lines().filter(|line| !is_still_delivering(line)).count();
            assert_eq!(told, 1, "{end:?}");
            assert!(
                end.stderr.contains(&format!(" {} byte", show_number(lost as u64))),
                "{lost} bytes are lost: {end:?}"
            );
            assert!(end.stderr.contains("not delivered"), "{end:?}");
        }
    }
}

#[test]
fn two_signals_at_once_with_nothing_held_tell_of_no_loss() {
    let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
    let pcproxy = start(&[], input.theirs, output.theirs);
    pcproxy.settle();
    pcproxy.signal(Signal::STOP);
    pcproxy.wait_stopped();
    for signal in [Signal::TERM, Signal::INT, Signal::CONT] {
        pcproxy.signal(signal);
    }
    let end = pcproxy.wait();
    assert!(!end.stderr.contains("delivered"), "{end:?}");
    assert!(end.status.code().is_none(), "{end:?}");
}

#[test]
fn signals_that_the_parent_ignores_stay_ignored() {
    for (name, signal) in [("HUP", Signal::HUP), ("INT", Signal::INT), ("TERM", Signal::TERM)] {
        let (mut input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let pcproxy = start_in_shell(&format!(r#"trap '' {name}; exec "$0""#), input.theirs, output.theirs);
        for _ in 0..2 {
            input.ours.write_all(b"still here").unwrap();
            assert_eq!(read_exactly(&output.ours, 10), b"still here");
            pcproxy.signal(signal);
        }
        drop(input.ours);
        pcproxy.wait().succeeded(name);
    }
}

#[test]
fn a_stop_in_mid_stream_loses_nothing() {
    let data = payload(4 << 20);
    for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::Tcp, Kind::Unix), (Kind::File, Kind::Pipe)] {
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let feeder = feed(from, input.ours, data.clone());
        let pcproxy = start(&[], input.theirs, output.theirs);
        let mut arrived = Vec::new();
        for _ in 0..10 {
            arrived.extend(read_exactly(&output.ours, 200_000));
            pcproxy.signal(Signal::STOP);
            pcproxy.wait_stopped();
            pcproxy.signal(Signal::CONT);
        }
        arrived.extend(read_to_end(output.ours));
        feeder.join().unwrap();
        assert_arrived(&arrived, &data, format!("{from:?} to {to:?}"));
        pcproxy.wait().succeeded("after ten stops");
    }
}

#[test]
fn signals_are_heard_while_both_sides_are_always_ready() {
    for signal in ENDING_SIGNALS {
        let pcproxy = start(&[], File::open("/dev/zero").unwrap(), File::create("/dev/null").unwrap());
        pcproxy.wait_heeding(signal);
        pcproxy.signal(signal);
        pcproxy.wait().died_silently_by(signal);
    }
}

#[test]
fn signals_are_heard_while_a_consumer_takes_all_that_comes() {
    let (mut stdout, into) = pipe().unwrap();
    let pcproxy = start(&[], File::open("/dev/zero").unwrap(), into);
    let consumer = thread::spawn(move || {
        let mut buffer = vec![0; 256 * KIB];
        while stdout.read(&mut buffer).unwrap() > 0 {}
    });
    pcproxy.wait_heeding(Signal::TERM);
    pcproxy.signal(Signal::TERM);
    pcproxy.wait().died_silently_by(Signal::TERM);
    consumer.join().unwrap();
}

#[test]
fn a_stderr_that_takes_nothing_changes_no_ending() {
    for stderr in ["&-", "/dev/full"] {
        let run = |options: &str| format!(r#"exec "$0" {options} 2>{stderr}"#);
        let null = || Stdio::from(File::create("/dev/null").unwrap());

        let end = start_in_shell(&run(""), File::open("/").unwrap(), null()).wait();
        assert_eq!(end.status.code(), Some(1), "{stderr}: {end:?}");

        let end = start_in_shell(&run("--buffer 0"), Stdio::null(), null()).wait();
        assert_eq!(end.status.code(), Some(2), "{stderr}: {end:?}");

        let full = Full::new(|stdin, stdout| start_in_shell(&run(""), stdin, stdout));
        full.pcproxy.signal(Signal::TERM);
        full.pcproxy.settle_until_due();
        full.pcproxy.signal(Signal::INT);
        full.pcproxy.wait().died_by(Signal::INT);
    }
}

#[test]
fn a_terminal_that_closes_sends_sighup_twice_and_nothing_is_lost() {
    let mut full = Full::new(|stdin, stdout| start(&["--buffer", "64K"], stdin, stdout));
    full.pcproxy.signal(Signal::HUP);
    full.pcproxy.settle_until_due();
    full.pcproxy.signal(Signal::HUP);
    full.pcproxy.settle_until_due();
    let taken = full.taken();
    read_exactly(&mut full.stdout, taken);
    full.pcproxy.wait().died_by(Signal::HUP);
}

#[test]
fn signals_that_ask_for_an_end_in_other_words_lose_nothing() {
    for signal in [Signal::ALARM, Signal::USR2, Signal::XCPU, Signal::VTALARM, Signal::PROF, Signal::IO, Signal::POWER]
    {
        let mut full = Full::new(|stdin, stdout| start(&["--buffer", "64K"], stdin, stdout));
        full.pcproxy.signal(signal);
        full.pcproxy.settle_until_due();
        let taken = full.taken();
        read_exactly(&mut full.stdout, taken);
        full.pcproxy.wait().died_by(signal);
    }
}
