//! Whatever stdin and stdout are, the bytes arrive, the buffer holds what it may and no more,
//! and the descriptors stay as they were.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write, pipe};

use rustix::event::{Timespec, poll};
use rustix::fs::fcntl_getfl;
use rustix::process::Signal;
use rustix::termios::tcgetattr;
use support::{
    KIB, Kind, Side, assert_arrived, connection, feed, input_pipe, payload, read_exactly, read_to_end, set_nonblocking,
    start, start_in_shell, unread,
};

/// What is in a file before pcproxy appends to it.
const BEFORE: &[u8] = b"what was there before\n";

/// Sends `data` through pcproxy between two descriptors of these kinds.
fn passes(data: &[u8], from: Kind, to: Kind, options: &[&str], nonblocking: bool) {
    let what = format!("{from:?} to {to:?}, {options:?}, {nonblocking}");
    let (input, mut output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
    let before = if to == Kind::Append { BEFORE } else { &[] };
    File::from(output.theirs.try_clone().unwrap()).write_all(before).unwrap();
    for theirs in [&input.theirs, &output.theirs] {
        set_nonblocking(theirs, nonblocking);
    }

    let feeder = feed(from, input.ours, data.to_vec());
    // What a terminal has taken and not yet passed on can be lost when its last user closes it.
    let user = (to == Kind::Terminal).then(|| output.theirs.try_clone().unwrap());
    let pcproxy = start(options, input.theirs, output.theirs);
    let mut arrived = Vec::new();
    if user.is_some() {
        arrived = read_exactly(&output.ours, data.len());
    }
    drop(user);
    if to.is_stream() {
        arrived.extend(read_to_end(&output.ours));
    }
    pcproxy.wait().succeeded(&what);
    feeder.join().expect(&what);
    if !to.is_stream() {
        output.ours.read_to_end(&mut arrived).unwrap();
    }
    let sent = if to == Kind::Null { &[] } else { data };
    assert_arrived(&arrived, &[before, sent].concat(), what);
}

/// From this kind to every kind: with every buffer, on blocking and nonblocking descriptors.
fn passes_to_every_kind(from: Kind) {
    let buffers: [(&[&str], usize); 5] = [
        (&["--buffer", "1"], 3_000),
        (&["--buffer", "7"], 15_000),
        (&["--buffer", "4096", "--pipe-size", "keep"], 200_000),
        (&[], 1_500_000),
        (&["--buffer", "8M", "--pipe-size", "keep"], 700_000),
    ];
    for to in [Kind::File, Kind::Append, Kind::Null].into_iter().chain(Kind::STREAMS) {
        for (options, len) in buffers {
            let terminal = [from, to].contains(&Kind::Terminal);
            let data = payload(if terminal { len.min(50_000) } else { len });
            for nonblocking in [false, true] {
                passes(&data, from, to, options, nonblocking);
            }
        }
    }
}

#[test]
fn what_a_pipe_gives_arrives() {
    passes_to_every_kind(Kind::Pipe);
}

#[test]
fn what_a_fifo_gives_arrives() {
    passes_to_every_kind(Kind::Fifo);
}

#[test]
fn what_a_regular_file_gives_arrives() {
    passes_to_every_kind(Kind::File);
}

#[test]
fn what_a_tcp_socket_gives_arrives() {
    passes_to_every_kind(Kind::Tcp);
}

#[test]
fn what_a_unix_socket_gives_arrives() {
    passes_to_every_kind(Kind::Unix);
}

#[test]
fn what_a_terminal_gives_arrives() {
    passes_to_every_kind(Kind::Terminal);
}

#[test]
fn an_empty_input_of_any_kind_is_delivered() {
    for from in [Kind::Null, Kind::File].into_iter().chain(Kind::STREAMS) {
        for to in [Kind::Null, Kind::File, Kind::Append].into_iter().chain(Kind::STREAMS) {
            passes(b"", from, to, &[], false);
        }
    }
}

#[test]
fn zeros_without_end_go_to_any_consumer_until_it_leaves() {
    for to in Kind::STREAMS {
        for nonblocking in [false, true] {
            let zeros = File::open("/dev/zero").unwrap();
            let output = connection(to, Side::Stdout);
            set_nonblocking(&zeros, nonblocking);
            set_nonblocking(&output.theirs, nonblocking);
            let pcproxy = start(&[], zeros, output.theirs);
            assert_arrived(&read_exactly(&output.ours, 300_000), &[0; 300_000], format!("{to:?}"));
            drop(output.ours);
            let end = pcproxy.wait();
            match to {
                Kind::Pipe | Kind::Fifo => end.died_silently_by(Signal::PIPE),
                Kind::Terminal => end.failed(1, &["stdout", "Input/output error"]),
                // A socket says whether it was closed with bytes unread.
                _ if end.stderr.is_empty() => end.died_by(Signal::PIPE),
                _ => end.failed(1, &["stdout", "Connection reset"]),
            }
        }
    }
}

#[test]
fn a_large_buffer_delivers_to_a_consumer_that_starts_late() {
    let data = payload(30 << 20);
    // A pipe takes what is spliced, a socket what is written.
    for (to, size, buffer) in [(Kind::Pipe, "8M", 8 << 20), (Kind::Fifo, "24M", 24 << 20), (Kind::Unix, "8M", 8 << 20)]
    {
        for nonblocking in [false, true] {
            let (theirs, ours, _view) = input_pipe();
            let output = connection(to, Side::Stdout);
            set_nonblocking(&theirs, nonblocking);
            set_nonblocking(&output.theirs, nonblocking);
            let pcproxy = start(&["--buffer", size], theirs, output.theirs);
            let accepted = pcproxy.feed_until_paused(&ours, &data, 50_000);
            drop(ours);
            assert!(accepted >= buffer, "{accepted} bytes on the way to {to:?}");
            assert_arrived(&read_to_end(output.ours), &data[..accepted], format!("{to:?}, {size}"));
            pcproxy.wait().succeeded(size);
        }
    }
}

#[test]
fn the_buffer_holds_what_it_may_and_no_more_whatever_the_size_of_the_writes() {
    for (size, buffer) in [("1", 1), ("7", 7), ("4096", 4 * KIB), ("64K", 64 * KIB), ("3M", 3 * KIB * KIB)] {
        for piece in [1, 100, 5000] {
            if piece == 1 && buffer > 64 * KIB {
                continue;
            }
            let data = payload(buffer + 600 * KIB);
            let (theirs, ours, stdin) = input_pipe();
            let (stdout, into) = pipe().unwrap();
            let pcproxy = start(&["--buffer", size, "--pipe-size", "keep"], theirs, into);
            let accepted = pcproxy.feed_until_paused(&ours, &data, piece);
            let held = accepted - unread(&stdin) - unread(&stdout);
            assert!(held <= buffer, "{held} bytes in a buffer of {buffer}, pieces of {piece}");
            assert!(held >= (buffer * 9).div_ceil(10), "only {held} bytes in a buffer of {buffer}, pieces of {piece}");
            drop((ours, stdin));
            assert_arrived(&read_to_end(stdout), &data[..accepted], format!("buffer {size}, pieces of {piece}"));
            pcproxy.wait().succeeded("all was read");
        }
    }
}

#[test]
fn the_buffer_never_holds_more_than_it_may_while_bytes_move() {
    let data = payload(2 << 20);
    for (to, piece) in [(Kind::Pipe, 500), (Kind::Pipe, 5000), (Kind::Unix, 5000)] {
        let (theirs, ours, stdin) = input_pipe();
        let output = connection(to, Side::Stdout);
        let pcproxy = start(&["--buffer", "10000"], theirs, output.theirs);
        let (mut accepted, mut arrived) = (0, Vec::new());
        while accepted < data.len() {
            match (&ours).write(&data[accepted..data.len().min(accepted + piece)]) {
                Ok(written) => accepted += written,
                // The pipe is full, so there is something to read, or there will be.
                Err(_) => arrived.extend(read_exactly(&output.ours, 3000)),
            }
            // Whatever moves between the two looks makes this too small, never too large.
            let behind = accepted - unread(&stdin);
            let held = behind.saturating_sub(unread(&output.ours) + arrived.len());
            assert!(held <= 10_000, "{held} bytes are held on the way to {to:?}");
        }
        drop((ours, stdin));
        arrived.extend(read_to_end(&output.ours));
        assert_arrived(&arrived, &data, format!("{to:?}"));
        pcproxy.wait().succeeded("all was read");
    }
}

#[test]
fn a_paused_producer_is_resumed_once_the_buffer_has_drained_to_the_mark() {
    let data = payload(600 * KIB);
    for (mark, low) in [("0", 0), ("10%", 6553), ("50%", 32 * KIB), ("65535", 65_535)] {
        let (theirs, ours, stdin) = input_pipe();
        let (mut stdout, into) = pipe().unwrap();
        let pcproxy = start(&["--buffer", "64K", "--low-water", mark, "--pipe-size", "keep"], theirs, into);
        let accepted = pcproxy.feed_until_paused(&ours, &data, 4096);
        let waiting = unread(&stdin);
        let taken = accepted - waiting;
        let mut arrived = Vec::new();
        loop {
            arrived.extend(read_exactly(&mut stdout, 1000));
            pcproxy.settle();
            let held = taken.saturating_sub(arrived.len() + unread(&stdout));
            let resumed = unread(&stdin) < waiting;
            assert_eq!(resumed, held <= low, "{held} bytes are held, the mark is {mark}");
            if resumed {
                break;
            }
        }
        drop((ours, stdin));
        arrived.extend(read_to_end(stdout));
        assert_arrived(&arrived, &data[..accepted], mark);
        pcproxy.wait().succeeded(mark);
    }
}

#[test]
fn the_descriptors_stay_as_they_were_even_after_a_kill() {
    for from in Kind::STREAMS {
        for to in Kind::STREAMS {
            for nonblocking in [false, true] {
                let (mut input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
                let views = [input.theirs.try_clone().unwrap(), output.theirs.try_clone().unwrap()];
                views.iter().for_each(|view| set_nonblocking(view, nonblocking));
                let state = || {
                    let termios = |view| tcgetattr(view).ok().map(|termios| format!("{termios:?}"));
                    views.each_ref().map(|view| (fcntl_getfl(view).unwrap(), termios(view)))
                };
                let before = state();
                let pcproxy = start(&[], input.theirs, output.theirs);
                input.ours.write_all(b"hello\n").unwrap();
                assert_eq!(read_exactly(&output.ours, 6), b"hello\n");
                assert_eq!(state(), before, "{from:?} to {to:?} during the run");
                pcproxy.signal(Signal::KILL);
                pcproxy.wait().died_silently_by(Signal::KILL);
                assert_eq!(state(), before, "{from:?} to {to:?} after the kill");
            }
        }
    }
}

#[test]
fn a_closed_stdin_is_an_error() {
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start_in_shell(r#"exec "$0" <&-"#, File::open("/dev/null").unwrap(), into);
    assert_eq!(read_to_end(stdout), b"");
    pcproxy.wait().failed(1, &["stdin", "Bad file descriptor"]);
}

#[test]
fn a_closed_stdout_is_an_error_and_nothing_is_read() {
    let (theirs, mut ours, stdin) = input_pipe();
    ours.write_all(b"hello").unwrap();
    let pcproxy = start_in_shell(r#"exec "$0" >&-"#, theirs, File::open("/dev/null").unwrap());
    pcproxy.wait().failed(1, &["stdout", "Bad file descriptor"]);
    assert_eq!(unread(stdin), 5);
}

#[test]
fn dev_null_opened_to_read_and_write_is_no_closed_descriptor() {
    let null = || OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(&[], null(), into);
    assert_eq!(read_to_end(stdout), b"");
    pcproxy.wait().succeeded("from /dev/null");

    let (theirs, mut ours, stdin) = input_pipe();
    ours.write_all(b"hello").unwrap();
    drop(ours);
    start(&[], theirs, null()).wait().succeeded("to /dev/null");
    assert_eq!(unread(stdin), 0);
    start(&[], null(), null()).wait().succeeded("from /dev/null to /dev/null");
}

#[test]
fn a_file_is_not_appended_to_itself() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "hello\n").unwrap();
    let output = OpenOptions::new().append(true).open(&file).unwrap();
    let pcproxy = start(&[], File::open(&file).unwrap(), output);
    pcproxy.wait().failed(1, &["input and output are the same file"]);
    assert_eq!(fs::read(&file).unwrap(), b"hello\n");
}

#[test]
fn nothing_wakes_a_process_with_nothing_to_do() {
    let data = payload(600 * KIB);
    for full in [false, true] {
        let (theirs, ours, _view) = input_pipe();
        let (stdout, into) = pipe().unwrap();
        let pcproxy = start(&["--pipe-size", "keep"], theirs, into);
        if full {
            pcproxy.feed_until_paused(&ours, &data, 4096);
        } else {
            (&ours).write_all(b"hello").unwrap();
            assert_eq!(read_exactly(&stdout, 5), b"hello");
            pcproxy.settle();
        }
        let switches = || pcproxy.status("voluntary_ctxt_switches");
        let before = switches();
        // The thing to be seen is that nothing happens: the only wait for time in these tests.
        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 })).unwrap();
        assert_eq!(switches(), before, "full: {full}");
    }
}
