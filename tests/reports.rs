//! What a run tells of itself: records for programs, a summary for people, and the picture that
//! `pcproxy plot` makes of the records.

mod support;

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Signal;
use rustix::termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr};
use serde_json::Value;
use support::{
    End, KIB, Kind, Running, Session, Side, assert_arrived, connection, feed, input_pipe, payload, read_exactly,
    read_to_end, set_nonblocking, unread, until,
};

/// The fields of a record.
const FIELDS: [&str; 27] = [
    "version",
    "time",
    "elapsed",
    "pid",
    "name",
    "group",
    "state",
    "bytes",
    "size",
    "rate",
    "rate_unit",
    "mean_rate",
    "peak_rate",
    "limit",
    "buffer",
    "buffered",
    "peak_buffered",
    "waited_for_producer",
    "waited_for_consumer",
    "waited_for_limit",
    "waited_for_machine",
    "producer_pauses",
    "producer_paused",
    "avoidable_wait",
    "done",
    "ending",
    "time_left",
];

/// Those that never become less in a run.
const GROWING: [&str; 9] = [
    "elapsed",
    "bytes",
    "peak_buffered",
    "waited_for_producer",
    "waited_for_consumer",
    "waited_for_limit",
    "waited_for_machine",
    "producer_pauses",
    "producer_paused",
];

const STATES: [&str; 6] = ["flowing", "producer-slow", "consumer-slow", "limited", "machine-busy", "paused"];

/// Lines of a summary.
const SUMMARY: usize = 4;

impl Session {
    /// A run between two pipes of the test's.
    fn run(&self, options: &[&str]) -> Run {
        Run::new(|stdin, stdout| self.start(options, stdin, stdout))
    }

    /// Lets as much time pass as another pcproxy takes for so many bytes at 1 MiB/s.
    fn let_pass(&self, bytes: &str) {
        let options = ["--no-control", "--rate", "1M", "--stop-after", bytes];
        self.start(&options, zeros(), null()).wait().succeeded("a clock");
    }

    /// Runs `pcproxy plot`. Returns its answer.
    fn plot(&self, words: &[&str], stdin: impl Into<Stdio>) -> (String, End) {
        let (answer, into) = pipe().unwrap();
        let pcproxy = self.start(&[&["plot"], words].concat(), stdin, into);
        (String::from_utf8(read_to_end(answer)).unwrap(), pcproxy.wait())
    }
}

/// A running pcproxy whose two ends the test has.
struct Run {
    pcproxy: Running,
    stdin: File,
    stdout: File,
}

impl Run {
    fn new(start: impl FnOnce(std::os::fd::OwnedFd, std::os::fd::OwnedFd) -> Running) -> Self {
        let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        Run { pcproxy: start(input.theirs, output.theirs), stdin: input.ours, stdout: output.ours }
    }

    /// Sends `len` bytes through it.
    #[track_caller]
    fn passes(&self, len: usize) {
        let data = payload(len);
        let feeder = feed(Kind::Pipe, self.stdin.try_clone().unwrap(), data.clone());
        assert_arrived(&read_exactly(&self.stdout, len), &data, "through a run");
        feeder.join().unwrap();
    }

    /// Ends its input, and waits for its end.
    fn finish(self) -> End {
        drop(self.stdin);
        assert_eq!(read_to_end(self.stdout), b"");
        self.pcproxy.wait()
    }
}

fn zeros() -> File {
    File::open("/dev/zero").unwrap()
}

fn null() -> File {
    File::create("/dev/null").unwrap()
}

/// The records in `text`, each with exactly the fields that it is to have.
#[track_caller]
fn records(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "half a record: {text}");
    let record = |line| {
        let record: Value = serde_json::from_str(line).unwrap();
        let mut fields: Vec<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = FIELDS;
        fields.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fields, expected);
        assert_eq!(record["version"], 1);
        assert!(STATES.iter().any(|state| record["state"] == *state), "{record}");
        record
    };
    text.lines().map(record).collect()
}

/// The records of a run that has ended and delivered so many bytes. Returns them.
#[track_caller]
fn check(text: &str, bytes: usize) -> Vec<Value> {
    let records = records(text);
    let last = records.last().expect("a record");
    assert_eq!((&last["done"], &last["bytes"], &last["buffered"]), (&true.into(), &bytes.into(), &0.into()), "{last}");
    for pair in records.windows(2) {
        let [before, after] = pair else { unreachable!() };
        assert_eq!((&before["done"], &before["pid"]), (&false.into(), &after["pid"]));
        for field in GROWING.iter().chain(&["time"]) {
            assert!(before[field].as_f64() <= after[field].as_f64(), "{field}: {before} and {after}");
        }
    }
    records
}

/// Waits until this file has so many records.
#[track_caller]
fn wait_for_records(path: &Path, count: usize) {
    until("records", || fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= count));
}

/// The summary in what a run said, line by line.
#[track_caller]
fn summary(stderr: &str) -> Vec<&str> {
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), SUMMARY, "{stderr}");
    for (line, word) in lines.iter().zip([" delivered in ", "the producer was ", "the buffer held at most ", ": "]) {
        assert!(line.starts_with("pcproxy: ") && line["pcproxy: ".len()..].contains(word), "{word} in {stderr}");
    }
    lines
}

/// It has this word for who was slow. On a machine that is busy it may be the machine, which is
/// true then: `report_account.rs` has the same runs in simulated time.
#[track_caller]
fn assert_verdict(stderr: &str, verdict: &str) {
    let told = summary(stderr)[SUMMARY - 1];
    assert!(is_verdict(told, verdict) || is_verdict(told, "machine-bound"), "not {verdict}: {stderr}");
}

fn is_verdict(line: &str, verdict: &str) -> bool {
    line.starts_with(&format!("pcproxy: {verdict}: "))
}

#[test]
fn records_go_to_a_file_which_is_emptied_first() {
    let session = Session::new();
    let file = session.path("records");
    fs::write(&file, "what was there before\n".repeat(1000)).unwrap();
    let run = session.run(&["--stats", file.to_str().unwrap(), "--interval", "10ms", "--name", "dump"]);
    run.passes(1000);
    wait_for_records(&file, 3);
    run.passes(300_000);
    let pid = run.pcproxy.pid();
    run.finish().succeeded("a run with records");
    let records = check(&fs::read_to_string(file).unwrap(), 301_000);
    assert!(records.len() > 3);
    for (field, value) in [
        ("pid", Value::from(pid)),
        ("name", "dump".into()),
        ("group", Value::Null),
        ("size", Value::Null),
        ("limit", Value::Null),
        ("buffer", (64 * KIB).into()),
    ] {
        assert_eq!(records[0][field], value, "{field}");
    }
}

#[test]
fn records_go_to_a_descriptor() {
    let session = Session::new();
    let file = session.path("records");
    for (redirection, before) in [("3>", ""), ("3>>", "mine\n")] {
        fs::write(&file, "mine\n").unwrap();
        let script = format!(r#"exec "$0" --stats 3 --interval 10ms {redirection}"$1""#);
        let run = Run::new(|stdin, stdout| session.start_in_shell(&script, &file, stdin, stdout));
        run.passes(100_000);
        wait_for_records(&file, 4);
        run.finish().succeeded(redirection);
        let text = fs::read_to_string(&file).unwrap();
        check(text.strip_prefix(before).unwrap(), 100_000);
    }

    // On stderr, where errors go as well.
    let run = session.run(&["--stats", "2", "--interval", "10ms"]);
    run.passes(100_000);
    let first = run.pcproxy.line() + "\n";
    check(&(first + &run.finish().stderr), 100_000);
}

/// Opens a pipe of the test's in a shell below it, as descriptor 3.
const FROM_TEST: &str = r#"3>"$1""#;

/// Where a shell below this process finds a descriptor of it.
fn own(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

#[test]
fn records_go_to_a_pipe_as_they_are_made() {
    let session = Session::new();
    let (mut reader, writer) = pipe().unwrap();
    let script = format!(r#"exec "$0" --stats 3 --interval 10ms {FROM_TEST}"#);
    let run = Run::new(|stdin, stdout| session.start_in_shell(&script, &own(&writer), stdin, stdout));
    let mut text = String::new();
    let mut line = |reader: &mut PipeReader| {
        let start = text.len();
        while !text[start..].ends_with('\n') {
            text.push(read_exactly(&mut *reader, 1)[0].into());
        }
    };
    line(&mut reader);
    drop(writer);
    run.passes(1000);
    line(&mut reader);
    run.finish().succeeded("a run with records");
    text.push_str(&String::from_utf8(read_to_end(reader)).unwrap());
    check(&text, 1000);
}

#[test]
fn a_run_that_is_over_at_once_has_one_record() {
    let session = Session::new();
    let file = session.path("records");
    session.start(&["--stats", file.to_str().unwrap()], Stdio::null(), null()).wait().succeeded("a run");
    assert_eq!(check(&fs::read_to_string(file).unwrap(), 0).len(), 1);
}

#[test]
fn every_state_is_recorded() {
    let session = Session::new();
    let file = session.path("records");
    let options = ["--stats", file.to_str().unwrap(), "--interval", "10ms"];
    let comes = |state: &str| {
        until(state, || {
            // The last line may be half written.
            let text = fs::read_to_string(&file).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            records(whole).iter().any(|record| record["state"] == state)
        });
    };
    let silent = session.run(&options);
    comes("producer-slow");
    silent.finish().succeeded("a run");

    let limited = session.run(&[&options[..], &["--rate", "1"]].concat());
    (&limited.stdin).write_all(b"0123456789").unwrap();
    comes("limited");
    drop(limited);

    let mut unheeded = Run::new(|stdin, stdout| {
        drop(stdin);
        session.start(&options, zeros(), stdout)
    });
    comes("consumer-slow");
    unheeded.stdout = null();
    unheeded.pcproxy.wait().died_silently_by(Signal::PIPE);

    let busy = session.start(&options, zeros(), null());
    comes("flowing");
    drop(busy);
}

#[test]
fn a_reader_that_never_reads_holds_nothing_up() {
    let session = Session::new();
    for is_full in [true, false] {
        let (reader, writer) = pipe().unwrap();
        fcntl_setpipe_size(&writer, 4 * KIB).unwrap();
        if is_full {
            (&writer).write_all(&[b'x'; 4 * KIB]).unwrap();
        }
        let script = format!(r#"exec "$0" --stats 3 --interval 10ms {FROM_TEST}"#);
        let run = Run::new(|stdin, stdout| session.start_in_shell(&script, &own(&writer), stdin, stdout));
        until("the pipe to be full", || {
            poll(&mut [PollFd::new(&writer, PollFlags::OUT)], Some(&Timespec::default())).unwrap() == 0
        });
        // Not even what comes between two records.
        for _ in 0..20 {
            run.passes(100_000);
            session.let_pass("20K");
        }
        run.finish().succeeded("a reader that never reads");
        drop(reader);
    }
}

#[test]
fn a_reader_that_never_reads_long_records_holds_nothing_up() {
    let session = Session::new();
    let (reader, writer) = pipe().unwrap();
    let name = "n".repeat(8000);
    let script = format!(r#"exec "$0" --stats 3 --interval 10ms --name {name} {FROM_TEST}"#);
    let run = Run::new(|stdin, stdout| session.start_in_shell(&script, &own(&writer), stdin, stdout));
    // The rest has no room for another.
    until("the pipe to be nearly full", || unread(&reader) > 48 * KIB);
    for _ in 0..20 {
        run.passes(1000);
        session.let_pass("20K");
    }
    run.finish().succeeded("a reader that never reads");
}

#[test]
fn a_terminal_that_is_not_read_holds_nothing_up() {
    let session = Session::new();
    let terminal = connection(Kind::Terminal, Side::Stdout);
    // As terminals are: each end of a line becomes two characters.
    let mut termios = tcgetattr(&terminal.theirs).unwrap();
    termios.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    tcsetattr(&terminal.theirs, OptionalActions::Now, &termios).unwrap();
    let script = format!(r#"exec "$0" --stats 3 --interval 10ms {FROM_TEST}"#);
    let run = Run::new(|stdin, stdout| session.start_in_shell(&script, &own(&terminal.theirs), stdin, stdout));
    until("it to be full", || {
        poll(&mut [PollFd::new(&terminal.theirs, PollFlags::OUT)], Some(&Timespec::default())).unwrap() == 0
    });
    for _ in 0..20 {
        run.passes(1000);
        session.let_pass("20K");
    }
    run.finish().succeeded("a terminal that is not read");
}

#[test]
fn a_reader_that_leaves_is_not_missed() {
    let session = Session::new();
    let (reader, writer) = pipe().unwrap();
    let script = format!(r#"exec "$0" --stats 3 --interval 10ms {FROM_TEST}"#);
    let run = Run::new(|stdin, stdout| session.start_in_shell(&script, &own(&writer), stdin, stdout));
    read_exactly(&reader, 10);
    drop((reader, writer));
    for _ in 0..5 {
        run.passes(1000);
        session.let_pass("20K");
    }
    run.finish().succeeded("a reader that has left");

    let run = session.run(&["--stats", "/dev/full", "--interval", "10ms"]);
    run.passes(300_000);
    let end = run.finish();
    assert!(end.status.success() && end.stderr.lines().count() == 1, "{end:?}");
    assert!(end.stderr.starts_with("pcproxy: --stats: No space left"), "{end:?}");
}

/// Runs pcproxy with 1000 bytes on its stdin. It ends with status `code`, in one line that has all
/// of `words` in it, before it touches its stdin.
#[track_caller]
fn refuses(options: &[&str], code: i32, words: &[&str]) {
    refused(|session, stdin, stdout| session.start(options, stdin, stdout), code, words);
}

#[track_caller]
fn refused(start: impl FnOnce(&Session, PipeReader, PipeWriter) -> Running, code: i32, words: &[&str]) {
    let (theirs, mut ours, stdin) = input_pipe();
    ours.write_all(&[b'x'; 1000]).unwrap();
    let (stdout, into) = pipe().unwrap();
    let session = Session::new();
    let pcproxy = start(&session, theirs, into);
    let passed = read_to_end(stdout).len();
    let end = pcproxy.wait();
    end.failed(code, words);
    assert!(end.stderr.starts_with("pcproxy: "), "{end:?}");
    assert_eq!((passed, unread(stdin)), (0, 1000), "{words:?}");
}

#[test]
fn records_that_have_nowhere_to_go_are_an_error_before_a_byte_is_read() {
    refuses(&["--stats", "99"], 1, &["--stats", "Bad file descriptor"]);
    refuses(&["--stats", "/"], 1, &["--stats", "Is a directory"]);
    refuses(&["--stats", "/nonexistent/records"], 1, &["--stats", "No such file"]);
    refuses(&["--stats", ""], 1, &["--stats", "No such file"]);
    refuses(&["--stats=-1"], 2, &["--stats", "'-1'", "descriptor"]);
    for (interval, word) in [("9ms", "10ms"), ("0", "10ms"), ("-1s", "500ms"), ("soon", "500ms"), ("", "500ms")] {
        refuses(&[&format!("--interval={interval}")], 2, &["--interval", &format!("'{interval}'"), word]);
    }
}

#[test]
fn a_closed_descriptor_is_refused_whatever_its_number() {
    // Whoever runs the test may have left it open.
    for number in 3..10 {
        let script = format!(r#"exec "$0" --stats {number} {number}>&-"#);
        refused(
            |session, stdin, stdout| session.start_in_shell(&script, Path::new(""), stdin, stdout),
            1,
            &["--stats", "Bad file descriptor"],
        );
    }
}

#[test]
fn a_size_that_is_known_is_recorded() {
    let session = Session::new();
    let file = session.path("input");
    fs::write(&file, payload(1000)).unwrap();
    // The shell has read 10 bytes of it.
    for (options, size, bytes) in [
        ("", 990, 990),
        ("--stop-after 100", 100, 100),
        ("--stop-after 5000", 990, 990),
        ("--size 1M --stop-after 20", 1 << 20, 20),
    ] {
        let script = format!(r#"dd bs=1 count=10 of=/dev/null 2>&-; exec "$0" --stats "$1" {options}"#);
        let records = session.path("records");
        let pcproxy = session.start_in_shell(&script, &records, File::open(&file).unwrap(), null());
        pcproxy.wait().succeeded(options);
        let records = check(&fs::read_to_string(records).unwrap(), bytes);
        assert_eq!(records[0]["size"], size, "{options}");
    }

    // Of a pipe it is known from the user only.
    for (options, size) in [(&[][..], Value::Null), (&["--size", "64K"], (64 * KIB).into())] {
        let run = session.run(&[&["--stats", "2", "--name", "a \"dump\"\n"], options].concat());
        run.passes(1000);
        let records = check(&run.finish().stderr, 1000);
        assert_eq!((&records[0]["size"], &records[0]["name"]), (&size, &"a \"dump\"\n".into()));
    }
}

#[test]
fn a_size_that_is_contradicted_is_null() {
    let session = Session::new();
    let run = session.run(&["--stats", "2", "--size", "999"]);
    run.passes(1000);
    assert_eq!(check(&run.finish().stderr, 1000).last().unwrap()["size"], Value::Null, "too small a --size");

    // The file reports 0, and has more.
    let records = session.path("records");
    let options = ["--stats", records.to_str().unwrap()];
    session.start(&options, File::open("/proc/self/status").unwrap(), null()).wait().succeeded("a file in /proc");
    let text = fs::read_to_string(&records).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["bytes"].as_u64() > Some(0) && last["size"].is_null(), "{last}");
}

#[test]
fn the_last_record_says_how_the_run_ended() {
    let session = Session::new();
    let last = |stderr: &str| {
        let record = stderr.lines().rfind(|line| line.starts_with('{')).expect("a record");
        serde_json::from_str::<Value>(record).unwrap()["ending"].as_str().map(str::to_owned)
    };
    let options = ["--stats", "2"];
    let run = session.run(&options);
    run.passes(1000);
    assert_eq!(last(&run.finish().stderr).as_deref(), Some("done"));

    let run = session.run(&options);
    run.passes(1000);
    run.pcproxy.signal(Signal::TERM);
    let end = run.pcproxy.wait();
    end.died_by(Signal::TERM);
    assert_eq!(last(&end.stderr).as_deref(), Some("interrupted"));

    let run = session.run(&options);
    run.passes(1000);
    session.start(&["ctl", &run.pcproxy.pid().to_string(), "stop"], Stdio::null(), null()).wait().succeeded("stop");
    assert_eq!(last(&run.pcproxy.wait().stderr).as_deref(), Some("stopped"));

    let run = session.run(&options);
    run.passes(1000);
    drop(run.stdout);
    assert_eq!(last(&run.pcproxy.wait().stderr).as_deref(), Some("stopped"), "the consumer left");

    let end = session.start(&options, zeros(), File::create("/dev/full").unwrap()).wait();
    assert_eq!(last(&end.stderr).as_deref(), Some("failed"));
}

#[test]
fn the_summary_is_four_lines_at_the_end() {
    let session = Session::new();
    let run = session.run(&["--summary"]);
    run.passes(1 << 20);
    let end = run.finish();
    assert!(end.status.success(), "{end:?}");
    let lines = summary(&end.stderr);
    assert!(lines[0].starts_with("pcproxy: 1,048,576 bytes (1 MiB) delivered in "), "{end:?}");
    assert!(lines[2].ends_with(" of 64 KiB"), "{end:?}");
}

#[test]
fn the_summary_is_told_however_the_run_ends() {
    let session = Session::new();
    let options = ["--summary", "--stats", "/dev/null"];
    let run = session.run(&options);
    run.passes(5000);
    run.pcproxy.settle_until_due();
    run.pcproxy.signal(Signal::TERM);
    let end = run.pcproxy.wait();
    end.died_by(Signal::TERM);
    assert!(summary(&end.stderr)[0].contains(" 5,000 bytes "), "{end:?}");

    let run = session.run(&options);
    run.passes(5000);
    drop(run.stdout);
    let end = run.pcproxy.wait();
    end.died_by(Signal::PIPE);
    summary(&end.stderr);

    let (input, full) = (connection(Kind::Pipe, Side::Stdin), File::create("/dev/full").unwrap());
    (&input.ours).write_all(b"x").unwrap();
    let end = session.start(&options, input.theirs, full).wait();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    let error: Vec<_> = end.stderr.lines().filter(|line| line.contains("No space left")).collect();
    assert_eq!(error.len(), 1, "{end:?}");
    summary(&end.stderr.replace(&format!("{}\n", error[0]), ""));
}

#[test]
fn a_run_that_is_asked_by_a_signal_says_how_it_goes_and_goes_on() {
    let session = Session::new();
    let run = session.run(&["--buffer", "10000"]);
    run.pcproxy.wait_heeding(Signal::USR1);
    for asked in 0..50 {
        run.pcproxy.signal(Signal::USR1);
        let said: String = (0..SUMMARY).map(|_| run.pcproxy.line() + "\n").collect();
        let lines = summary(&said);
        if asked > 0 {
            assert!(lines[0].contains(&format!("{} bytes", asked * 7)), "{said}");
        } else {
            assert_verdict(&said, "idle");
        }
        run.passes(7);
    }
    run.finish().succeeded("a run that was asked");
}

#[test]
fn a_run_that_is_asked_all_the_time_loses_nothing() {
    let session = Session::new();
    let data = payload(4 << 20);
    for (from, to, options) in [
        (Kind::Pipe, Kind::Pipe, &[][..]),
        (Kind::Unix, Kind::Unix, &["--buffer", "1000"]),
        (Kind::File, Kind::Pipe, &["--rate", "64M"]),
        (Kind::Pipe, Kind::Unix, &["--buffer", "1M"]),
    ] {
        let (input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
        let feeder = feed(from, input.ours, data.clone());
        let pcproxy = session.start(options, input.theirs, output.theirs);
        pcproxy.wait_heeding(Signal::USR1);
        let mut arrived = Vec::new();
        for _ in 0..50 {
            pcproxy.signal(Signal::USR1);
            arrived.extend(read_exactly(&output.ours, 50_000));
        }
        arrived.extend(read_to_end(output.ours));
        assert_arrived(&arrived, &data, format!("{from:?} to {to:?}"));
        feeder.join().unwrap();
        let end = pcproxy.wait();
        assert!(end.status.success(), "{end:?}");
        // Signals that come faster than they are heard are one, and at the end it hears none.
        let lines: Vec<_> = end.stderr.split_inclusive('\n').collect();
        assert!(lines.len() <= 50 * SUMMARY, "{from:?} to {to:?}: {} lines", lines.len());
        lines.chunks(SUMMARY).for_each(|lines| _ = summary(&lines.concat()));
    }
}

#[test]
fn a_signal_that_the_parent_ignores_asks_nothing() {
    let session = Session::new();
    let run =
        Run::new(|stdin, stdout| session.start_in_shell(r#"trap '' USR1; exec "$0""#, Path::new(""), stdin, stdout));
    run.passes(10);
    run.pcproxy.signal(Signal::USR1);
    run.passes(10);
    run.finish().succeeded("a signal that is ignored");
}

#[test]
fn a_summary_that_nobody_reads_holds_nothing_up() {
    let session = Session::new();
    let (reader, writer) = pipe().unwrap();
    set_nonblocking(&writer, true);
    while (&writer).write(&[b'x'; 100]).is_ok() {}
    set_nonblocking(&writer, false);
    let script = r#"exec "$0" --summary 2>"$1""#;
    let run = Run::new(|stdin, stdout| session.start_in_shell(script, &own(&writer), stdin, stdout));
    run.pcproxy.wait_heeding(Signal::USR1);
    for _ in 0..5 {
        run.pcproxy.signal(Signal::USR1);
        run.passes(100_000);
    }
    assert!(run.finish().status.success());
    drop(reader);
}

#[test]
fn who_had_nothing_to_do_is_called_idle() {
    let end = Session::new().start(&["--summary"], Stdio::null(), null()).wait();
    assert_verdict(&end.stderr, "idle");
}

#[test]
fn who_waited_for_the_limit_is_called_limited() {
    let session = Session::new();
    for rate in [&["--rate", "1M"][..], &["--group", "uplink=1M"]] {
        let options = [rate, &["--summary", "--stop-after", "300K"]].concat();
        let end = session.start(&options, zeros(), null()).wait();
        assert_verdict(&end.stderr, "limited");
    }
}

#[test]
fn a_slow_producer_is_named() {
    let session = Session::new();
    let (reader, writer) = pipe().unwrap();
    let slow = session.start(&["--rate", "200K", "--stop-after", "60K"], zeros(), writer);
    // The whole of it has room in the consumer's pipe.
    let (stdout, into) = pipe().unwrap();
    let end = session.start(&["--summary"], reader, into).wait();
    assert_verdict(&end.stderr, "producer-bound");
    assert_eq!(unread(stdout), 60 * KIB);
    slow.wait().succeeded("the producer");
}

#[test]
fn a_slow_consumer_is_named() {
    let session = Session::new();
    let (reader, writer) = pipe().unwrap();
    let slow = session.start(&["--rate", "400K", "--buffer", "4K", "--pipe-size", "keep"], reader, null());
    let options = ["--summary", "--pipe-size", "keep", "--stop-after", "300K"];
    let end = session.start(&options, zeros(), writer).wait();
    assert_verdict(&end.stderr, "consumer-bound");
    slow.wait().succeeded("the consumer");
}

#[test]
fn bursts_that_a_larger_buffer_would_bridge_are_named() {
    let session = Session::new();
    let (theirs, ours, _view) = input_pipe();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = session.start(&["--summary", "--buffer", "4K", "--pipe-size", "keep"], theirs, into);
    let data = payload(1 << 20);
    let (mut sent, mut arrived) = (0, Vec::new());
    for _ in 0..3 {
        // The producer has more than there is room for, while the consumer does nothing;
        sent += pcproxy.feed_until_paused(&ours, &data[sent..], 5000);
        session.let_pass("100K");
        // then the other way round.
        arrived.extend(read_exactly(&stdout, sent - arrived.len()));
        session.let_pass("100K");
    }
    drop(ours);
    assert_eq!(read_to_end(stdout), b"");
    assert_arrived(&arrived, &data[..sent], "in bursts");
    assert_verdict(&pcproxy.wait().stderr, "bursty");
}

#[test]
fn who_waited_for_nobody_is_called_flowing() {
    let session = Session::new();
    let pcproxy = session.start(&[], zeros(), null());
    pcproxy.wait_heeding(Signal::USR1);
    // At first it is too early to tell.
    until("a verdict", || {
        pcproxy.signal(Signal::USR1);
        let said: String = (0..SUMMARY).map(|_| pcproxy.line() + "\n").collect();
        let told = summary(&said)[SUMMARY - 1];
        is_verdict(told, "flowing") || is_verdict(told, "machine-bound")
    });
}

#[test]
fn a_recorded_run_becomes_a_picture() {
    let session = Session::new();
    let (file, picture) = (session.path("records"), session.path("picture.svg"));
    let (file, picture) = (file.to_str().unwrap(), picture.to_str().unwrap());
    let options = ["--stats", file, "--interval", "10ms", "--name", "the <dump>", "--rate", "100M"];
    let run = session.run(&options);
    run.passes(1000);
    wait_for_records(Path::new(file), 5);
    run.finish().succeeded("a recorded run");

    let (answer, end) = session.plot(&[file, "--output", picture], Stdio::null());
    end.succeeded("plot");
    assert_eq!(answer, "");
    let svg = fs::read_to_string(picture).unwrap();
    assert!(svg.trim().starts_with("<svg") && svg.trim().ends_with("</svg>"), "{svg}");
    for word in ["the &lt;dump&gt;", "limit", "rate", "buffer"] {
        assert!(svg.contains(word), "{word} is missing in {svg}");
    }

    for (name, stdin) in [(file, Stdio::null()), ("-", File::open(file).unwrap().into())] {
        let (answer, end) = session.plot(&[name], stdin);
        end.succeeded(name);
        assert_eq!(answer, svg, "{name}");
    }

    // As a run leaves it that was killed while it wrote.
    let records = fs::read(file).unwrap();
    fs::write(file, &records[..records.len() - 20]).unwrap();
    let (answer, end) = session.plot(&[file], Stdio::null());
    end.succeeded("half a record");
    assert!(answer.contains("the &lt;dump&gt;"));
}

#[test]
fn what_is_no_record_becomes_no_picture() {
    let session = Session::new();
    let run = session.run(&["--stats", session.path("good").to_str().unwrap()]);
    run.passes(1000);
    run.finish().succeeded("a recorded run");
    let good = fs::read_to_string(session.path("good")).unwrap();
    let file = session.path("records");
    let file = file.to_str().unwrap();
    for (text, words) in [
        (String::new(), &["no status"][..]),
        ("\n\n".into(), &["no status"]),
        ("hello\n".into(), &["line 1", "not JSON"]),
        (format!("{good}hello\n{good}"), &["line 2", "not JSON"]),
        (format!("{good}{{}}\n"), &["line 2", "version"]),
        (format!("{good}[1]\n"), &["line 2", "not a status"]),
        (format!("{good}\n{}", good.replace("\"version\":1", "\"version\":2")), &["line 3", "version 2"]),
        (good.replace("\"bytes\":1000", "\"bytes\":\"many\""), &["line 1", "many"]),
    ] {
        fs::write(file, &text).unwrap();
        let (answer, end) = session.plot(&[file], Stdio::null());
        end.failed(1, words);
        assert!(end.stderr.starts_with(&format!("pcproxy: {file}: ")), "{end:?}");
        assert_eq!(answer, "", "{text}");
    }
    fs::write(file, b"\xff\xff\n").unwrap();
    session.plot(&[file], Stdio::null()).1.failed(1, &[file, "line 1"]);

    let picture = session.path("nowhere/picture.svg");
    let (good, picture) = (session.path("good"), picture.to_str().unwrap());
    let good = good.to_str().unwrap();
    session.plot(&["/nonexistent/records"], Stdio::null()).1.failed(1, &["/nonexistent/records", "No such file"]);
    session.plot(&["/"], Stdio::null()).1.failed(1, &["/", "Is a directory"]);
    session.plot(&[good, "-o", picture], Stdio::null()).1.failed(1, &[picture, "No such file"]);
    session.plot(&[], Stdio::null()).1.failed(2, &["<RECORDING>"]);
    session.plot(&[good, good, good], Stdio::null()).1.failed(2, &[good]);
    let full = File::create("/dev/full").unwrap();
    session.start(&["plot", good], Stdio::null(), full).wait().failed(1, &["stdout", "No space left"]);
}
