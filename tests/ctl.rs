//! `pcproxy ctl`: how transfers are named, what is said of them, and what is said of mistakes.

mod support;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use rustix::process::geteuid;
use serde_json::Value;
use support::{End, Kind, Running, Session, Side, connection, feed, payload, read_exactly, start_command, until};

/// Runs that deliver nothing by themselves.
struct Runs {
    session: Session,
    runs: Vec<(Running, File)>,
}

impl Runs {
    /// A run for each of these options, which are words separated by blanks.
    fn new(options: &[&str]) -> Self {
        let session = Session::new();
        let start = |options: &&str| {
            let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
            let words: Vec<_> = options.split_whitespace().collect();
            let run = session.start(&words, input.theirs, output.theirs);
            session.connect(&run);
            // The consumer stays until the run ends.
            std::thread::spawn(move || std::io::copy(&mut { output.ours }, &mut std::io::sink()));
            (run, input.ours)
        };
        let runs = options.iter().map(start).collect();
        Runs { session, runs }
    }

    fn output(&self, words: &str) -> Output {
        let words: Vec<_> = ["ctl"].into_iter().chain(words.split_whitespace()).collect();
        self.session.command(&words).output().unwrap()
    }

    /// What `ctl` with these words prints, which succeeds.
    #[track_caller]
    fn ctl(&self, words: &str) -> String {
        let Output { status, stdout, stderr } = self.output(words);
        assert!(status.success() && stderr.is_empty(), "{words}: {}", String::from_utf8_lossy(&stderr));
        // The pids are different each time.
        self.runs.iter().fold(String::from_utf8(stdout).unwrap(), |text, (run, _)| {
            text.replace(&format!("({})", run.pid()), "(PID)")
        })
    }

    /// It fails with this status, in one line that has all of `parts` in it.
    #[track_caller]
    fn fails(&self, words: &str, status: i32, parts: &[&str]) {
        let Output { status: got, stderr, .. } = self.output(words);
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!((got.code(), said.lines().count()), (Some(status), 1), "{words}: {said}");
        for part in parts {
            assert!(said.contains(part), "{words}: no '{part}' in {said}");
        }
    }

    fn limit(&self, name: &str) -> Value {
        let line = self.ctl(&format!("{name} stats --json"));
        serde_json::from_str::<Value>(&line).unwrap()["limit"].take()
    }
}

#[test]
fn a_limit_is_shown_in_the_unit_it_was_given_in_until_it_is_back() {
    let runs = Runs::new(&["--name db --rate 1M"]);
    assert_eq!(runs.ctl("db rate 8Mbit"), "db (PID): limit 8 Mbit/s, was 1 MiB/s\n");
    assert_eq!(runs.ctl("db rate +50%"), "db (PID): limit 12 Mbit/s, was 8 Mbit/s\n");
    assert!(runs.ctl("stats").contains("12 Mbit/s"));
    assert_eq!(runs.ctl("db rate back"), "db (PID): limit 1 MiB/s, was 12 Mbit/s\n");
    let timetable = ["ctl", "db", "schedule", "00:00,500kB"];
    assert!(runs.session.command(&timetable).output().unwrap().status.success());
    assert_eq!(runs.ctl("db rate 2M"), "db (PID): limit 2 MiB/s, was 500 kB/s\n");
    assert_eq!(runs.ctl("db rate back"), "db (PID): limit 500 kB/s, was 2 MiB/s\n");
}

#[test]
fn a_name_that_is_not_utf8_is_found_by_the_same_bytes() {
    let session = Session::new();
    let name = std::ffi::OsStr::from_bytes(b"dump-\xff");
    let mut command = session.command(&[]);
    let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
    command.arg("--name").arg(name);
    let run = start_command(command, input.theirs, output.theirs);
    session.connect(&run);
    for words in [["ctl", "pause"], ["ctl", "resume"]] {
        let done = session.command(&words).arg(name).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_name_may_stand_before_the_command_or_after_it() {
    let runs = Runs::new(&["--name db --rate 1M", "--name rate"]);
    assert_eq!(runs.ctl("db rate 5M"), "db (PID): limit 5 MiB/s, was 1 MiB/s\n");
    assert_eq!(runs.ctl("rate db 4M"), "db (PID): limit 4 MiB/s, was 5 MiB/s\n");
    assert_eq!(runs.ctl("rate rate 3M"), "rate (PID): limit 3 MiB/s, was none\n");
    assert_eq!(runs.ctl("pause db"), "db (PID): paused\n");
    assert_eq!(runs.ctl("db resume"), "db (PID): resumed\n");
    assert_eq!(runs.ctl("buffer db 1M"), "db (PID): buffer 1 MiB, was 64 KiB\n");
    assert_eq!(runs.ctl("db buffer 1M"), "db (PID): buffer 1 MiB, as before\n");
    assert_eq!(runs.ctl("stats db --json").lines().count(), 1);
    assert_eq!(
        runs.ctl("--all rate 3M"),
        "db (PID): limit 3 MiB/s, was 4 MiB/s\nrate (PID): limit 3 MiB/s, as before\n"
    );
    assert_eq!(runs.ctl("rate 2M --all"), "2 runs: limit 2 MiB/s, was 3 MiB/s\n");
    let pid = runs.runs[0].0.pid();
    assert_eq!(runs.ctl(&format!("rate {pid} off")), "db (PID): limit none, was 2 MiB/s\n");
    assert_eq!(runs.ctl("stop db"), "db (PID): stopped\n");
}

#[test]
fn a_pattern_names_several_and_it_is_said_how_many() {
    let runs = Runs::new(&["--name backup-home", "--name backup-db --rate 7M", "--name other --rate 9M"]);
    assert_eq!(
        runs.ctl("rate backup-* 5M"),
        "backup-db (PID): limit 5 MiB/s, was 7 MiB/s\nbackup-home (PID): limit 5 MiB/s, was none\n"
    );
    assert_eq!(runs.ctl("backup-?? pause"), "backup-db (PID): paused\n");
    assert_eq!(runs.ctl("b* rate 6M"), "2 runs: limit 6 MiB/s, was 5 MiB/s\n");
    assert_eq!(runs.limit("other"), 9 << 20);
    runs.fails("c* rate 1M", 1, &["ctl: no running pcproxy is named 'c*'"]);
}

#[test]
fn a_limit_is_changed_by_so_much_and_never_to_nothing() {
    let runs = Runs::new(&["--name one --rate 10M", "--name two --rate 20M", "--name free"]);
    runs.ctl("rate one +10%");
    assert_eq!(runs.limit("one"), 11 << 20);
    runs.ctl("one rate -1M");
    assert_eq!(runs.limit("one"), 10 << 20);
    runs.ctl("rate one -50%");
    runs.fails("rate one -6M", 1, &["one", "refused: nothing would be left of the rate"]);
    runs.fails("rate free +10%", 1, &["free", "refused: it has no limit of its own"]);
    assert_eq!(
        runs.ctl("rate *o* +1M"),
        "one (PID): limit 6 MiB/s, was 5 MiB/s\ntwo (PID): limit 21 MiB/s, was 20 MiB/s\n"
    );
    runs.fails("rate one -100%", 2, &["nothing of the rate", "try 'pcproxy ctl --help'"]);
    runs.fails("rate one +x", 2, &["'+x'", "+10%"]);
}

#[test]
fn a_limit_in_records_is_changed_and_shown_in_records() {
    let runs = Runs::new(&["-l --rate 5 --size 100 --name lines"]);
    assert_eq!(runs.ctl("rate lines +5"), "lines (PID): limit 10/s, was 5/s\n");
    assert_eq!(runs.ctl("rate lines 30/m"), "lines (PID): limit 30/min, was 10/s\n");
    assert_eq!(runs.ctl("rate lines +100%"), "lines (PID): limit 1/s, was 30/min\n");
    runs.fails("rate lines -1", 1, &["nothing would be left"]);
    (&runs.runs[0].1).write_all(b"one\n").unwrap();
    until("a line", || runs.ctl("lines stats").contains("  1 %  "));
    let metrics = runs.ctl("metrics");
    for sample in ["pcproxy_delivered_records_total{", "pcproxy_limit_records_per_second{"] {
        assert!(metrics.lines().any(|line| line.starts_with(sample) && line.ends_with(" 1")), "{sample}: {metrics}");
    }
}

#[test]
fn a_timetable_is_followed_and_returned_to() {
    let runs = Runs::new(&["--name day --rate 3M", "--name night --schedule 00:00,4M"]);
    let set = runs.session.command(&["ctl", "day", "schedule", "00:00,1M 12:00,1M"]).output().unwrap();
    assert!(String::from_utf8(set.stdout).unwrap().contains("follows the timetable, limit 1 MiB/s, was 3 MiB/s"));
    runs.ctl("day rate 9M");
    runs.ctl("night rate off");
    assert_eq!((runs.limit("day"), runs.limit("night")), (Value::from(9 << 20), Value::Null));
    runs.ctl("--all rate back");
    assert_eq!((runs.limit("day"), runs.limit("night")), (Value::from(1 << 20), Value::from(4 << 20)));
    runs.fails("day schedule 8:00", 2, &["entry 1", "try 'pcproxy ctl --help'"]);
}

#[test]
fn without_a_target_stats_shows_all_and_nothing_else_is_done_to_all() {
    let runs = Runs::new(&["--name sized --rate 1M --size 10M", "--name open"]);
    (&runs.runs[0].1).write_all(&payload(60_000)).unwrap();
    until("some of it", || !runs.ctl("sized stats").contains(" 0 B "));
    let table = runs.ctl("stats");
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("DONE") && lines[0].contains("LEFT"), "{table}");
    let sized = lines.iter().find(|line| line.contains("sized")).unwrap();
    assert!(sized.contains(" % ") && (sized.contains(" s ") || sized.contains(" min ")), "{table}");
    for command in ["rate 5M", "pause", "resume", "stop", "buffer 1M"] {
        runs.fails(command, 2, &["which transfer?", "a name", "--all", "try 'pcproxy ctl --help'"]);
    }
    runs.fails("-a open stats", 2, &["give one of these"]);
    runs.fails("open stats sized", 2, &["give one of these"]);
}

#[test]
fn a_name_can_do_no_harm_to_a_terminal() {
    let session = Session::new();
    let name = "a\x1b[2Jb\u{202e}c\n";
    let input = connection(Kind::Pipe, Side::Stdin);
    let run = session.start(&["--name", name], input.theirs, Stdio::null());
    session.connect(&run);
    for words in [&["stats"][..], &["metrics"], &["rate", "a*", "5M"], &["pause", name]] {
        let Output { stdout, status, .. } = session.command(&["ctl"]).args(words).output().unwrap();
        let shown = String::from_utf8(stdout).unwrap();
        assert!(status.success() && shown.contains("a?[2Jb?c?"), "{words:?}: {shown:?}");
    }
    let missing = session.command(&["ctl", "stop", "x\x1b[2J\u{202e}"]).output().unwrap();
    assert!(String::from_utf8(missing.stderr).unwrap().contains("'x?[2J?'"));
}

#[test]
fn after_it_was_told_to_end_a_run_does_not_pause() {
    let session = Session::new();
    let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
    let run = session.start(&["--name", "x", "--rate", "1", "--buffer", "1K"], input.theirs, output.theirs);
    (&input.ours).write_all(&payload(1000)).unwrap();
    let ctl = |words: &[&str]| session.command(&["ctl", "x"]).args(words).output().unwrap();
    session.connect(&run);
    until("it to read", || String::from_utf8(ctl(&["stats"]).stdout).unwrap().contains(" 9"));
    let stop = ctl(&["stop"]);
    assert!(String::from_utf8(stop.stdout).unwrap().contains("reads no more, and delivers the "));
    let pause = ctl(&["pause"]);
    assert!(String::from_utf8(pause.stderr).unwrap().contains("refused: it was told to end"));
    ctl(&["rate", "off"]);
    assert_eq!(read_exactly(&output.ours, 1000), payload(1000));
    run.wait().succeeded("a run that was stopped");
}

#[test]
fn a_run_whose_input_has_ended_can_be_paused() {
    let session = Session::new();
    let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
    let run = session.start(&["--name", "x", "--rate", "1"], input.theirs, output.theirs);
    let data = payload(1000);
    feed(Kind::Pipe, input.ours, data.clone()).join().unwrap();
    session.connect(&run);
    let ctl = |words: &[&str]| session.command(&["ctl", "x"]).args(words).output().unwrap();
    assert!(ctl(&["pause"]).status.success());
    assert!(ctl(&["rate", "off"]).status.success());
    assert!(String::from_utf8(ctl(&["stats"]).stdout).unwrap().contains("paused"));
    assert!(ctl(&["resume"]).status.success());
    assert_eq!(read_exactly(&output.ours, 1000), data);
    run.wait().succeeded("a run that was paused");
}

#[test]
fn root_sees_and_steers_the_runs_of_other_users() {
    /// A user that nobody is.
    const OTHER: u32 = 65_432;
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be two users");
        return;
    }
    // Where the other user can read it.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = place.path().join("pcproxy");
    fs::copy(env!("CARGO_BIN_EXE_pcproxy"), &binary).unwrap();
    let name = format!("of-another-user-{}", std::process::id());
    let mut command = Command::new(&binary);
    command.args(["--name", &name]).uid(OTHER).env_remove("PCPROXY_DIR");
    let input = connection(Kind::Pipe, Side::Stdin);
    let run = start_command(command, input.theirs, Stdio::null());
    let ctl = |words: &[&str], own_folder: bool| {
        let mut command = support::pcproxy(&["ctl", &name]);
        if !own_folder {
            command.env_remove("PCPROXY_DIR");
        }
        command.args(words).output().unwrap()
    };
    until("root to see it", || ctl(&["stats"], false).status.success());
    let table = String::from_utf8(ctl(&["stats"], false).stdout).unwrap();
    assert!(table.contains("  USER  ") && table.contains(&OTHER.to_string()), "{table}");
    assert!(ctl(&["rate", "5M"], false).status.success());
    // A folder that was chosen is the only one.
    assert_eq!(ctl(&["stats"], true).status.code(), Some(1));
    assert!(ctl(&["stop"], false).status.success());
    run.wait().succeeded("the run of another user");
    drop(input.ours);
    for place in ["/run/lock", "/tmp"] {
        // It is empty now, and nobody's.
        let _ = fs::remove_dir(format!("{place}/pcproxy-{OTHER}"));
    }
}

/// Reads the text with the reference parser and prints a line for each sample.
const PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        labels = ' '.join(f'{key}={value}' for key, value in sorted(sample.labels.items()) if key != 'pid')
        print(family.type, sample.name, labels, float(sample.value))
";

#[test]
fn metrics_are_what_the_reference_parser_reads() {
    let known = Command::new("python3").args(["-c", "import prometheus_client.openmetrics.parser"]).output();
    if !known.is_ok_and(|known| known.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "python3 and prometheus_client must be here");
        eprintln!("skipped: there is no python3 with prometheus_client");
        return;
    }
    let runs = Runs::new(&["--name a\"b\\c --rate 5M --size 9M", "--group site/db=2M", "--name ü"]);
    (&runs.runs[0].1).write_all(&payload(5)).unwrap();
    // A member asks for the limit of its group once it has bytes.
    (&runs.runs[1].1).write_all(&payload(6)).unwrap();
    until("the bytes to be delivered", || {
        let text = runs.ctl("metrics");
        text.contains("} 5\n") && text.contains("} 6\n")
    });
    let text = runs.ctl("--all metrics");
    let mut parser = Command::new("python3");
    parser.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = parser.spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = parser.wait_with_output().unwrap();
    assert!(status.success(), "{}\n{text}", String::from_utf8_lossy(&stderr));
    let samples = String::from_utf8(stdout).unwrap();
    for sample in [
        "counter pcproxy_delivered_bytes_total group= name=a\"b\\c 5.0",
        "gauge pcproxy_expected_bytes group= name=a\"b\\c 9437184.0",
        "gauge pcproxy_limit_bytes_per_second group= name=a\"b\\c 5242880.0",
        "gauge pcproxy_limit_bytes_per_second group=site/db name= 2097152.0",
        "gauge pcproxy_buffer_bytes group= name=ü 65536.0",
        "counter pcproxy_waited_seconds_total cause=limit group= name=ü 0.0",
    ] {
        assert!(samples.lines().any(|line| line == sample), "{sample} is missing in\n{samples}");
    }
    assert_eq!(samples.matches(" pcproxy_waited_seconds_total ").count(), 3 * 4);
    let end: End = {
        let (run, input) = runs.runs.into_iter().next().unwrap();
        drop(input);
        run.wait()
    };
    end.succeeded("a run that was measured");
}
