//! What `--stats` may never do: hold up a run, mix records with its bytes, or spoil the records of
//! another.

mod support;

use std::fs::{self, File};
use std::io::{Write, pipe};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use support::{Session, needs, payload, read_exactly, read_to_end, start_command, until};

fn zeros() -> File {
    File::open("/dev/zero").unwrap()
}

fn null() -> File {
    File::create("/dev/null").unwrap()
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_fifo_that_nobody_reads_does_not_hold_up_the_first_byte() {
    let session = Session::new();
    let fifo = session.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let options = ["--stats", fifo.to_str().unwrap(), "--interval", "10ms"];
    let end = session.start(&[&options[..], &["--stop-after", "1M"]].concat(), zeros(), null()).wait();
    end.succeeded("a FIFO without a reader");

    // A reader that comes later has the records from the beginning.
    let (stdin, mut ours) = pipe().unwrap();
    let run = session.start(&options, stdin, null());
    ours.write_all(b"some").unwrap();
    run.wait_heeding(rustix::process::Signal::USR1);
    let reader = File::open(&fifo).unwrap();
    let first = read_exactly(&reader, 20);
    drop(ours);
    run.wait().succeeded("a FIFO with a late reader");
    let text = String::from_utf8([first, read_to_end(reader)].concat()).unwrap();
    let records = records(&text);
    assert_eq!(records.last().unwrap()["bytes"], 4, "{text}");
}

#[test]
fn records_never_go_among_the_bytes() {
    let session = Session::new();
    for number in ["0", "1"] {
        let end = session.start(&["--stats", number], zeros(), null()).wait();
        end.failed(2, &["--stats", &format!("'{number}'"), "mix"]);
    }
    for (script, kept) in [
        (r#"cd "$1"; exec "$0" --stats in <in"#, "in"),
        (r#"cd "$1"; exec "$0" --stats out <in >out"#, "out"),
        (r#"cd "$1"; exec "$0" --stats out <in >>out"#, "out"),
        (r#"cd "$1"; exec "$0" --stats 3 <in 3>&1"#, "in"),
        (r#"cd "$1"; exec "$0" --stats /dev/stdout <in"#, "in"),
        (r#"cd "$1"; exec "$0" --stats 2 <in 2>&1"#, "in"),
    ] {
        fs::write(session.path("in"), "what was there").unwrap();
        fs::write(session.path("out"), "what was there").unwrap();
        let (stdout, into) = pipe().unwrap();
        let end = session.start_in_shell(script, session.runtime.path(), Stdio::null(), into).wait();
        assert_eq!(end.status.code(), Some(1), "{script}: {end:?}");
        let said = end.stderr + &String::from_utf8(read_to_end(stdout)).unwrap();
        assert!(said.contains("--stats: records would go where the bytes"), "{script}: {said}");
        let left = fs::read_to_string(session.path(kept)).unwrap();
        // The shell has emptied its output before it started pcproxy.
        assert!(left == "what was there" || script.ends_with(" >out"), "{script}: {left}");
    }
    // These are shared on purpose.
    session.start(&["--stats", "/dev/null", "--stop-after", "1K"], zeros(), null()).wait().succeeded("/dev/null");
}

#[test]
fn a_number_that_is_no_descriptor_makes_no_file() {
    let session = Session::new();
    let mut command = session.command(&["--stats", "99999999999"]);
    command.current_dir(session.runtime.path());
    let end = start_command(command, zeros(), null()).wait();
    end.failed(2, &["--stats", "'99999999999'", "./99999999999"]);
    assert!(!session.path("99999999999").exists());
}

#[test]
fn a_file_of_records_is_not_emptied_by_a_run_that_is_refused() {
    let session = Session::new();
    let file = session.path("records");
    fs::write(&file, "of yesterday\n").unwrap();
    let options = ["--stats", file.to_str().unwrap(), "--group", "uplink=1M", "--min-rate", "5M"];
    session.start(&options, zeros(), null()).wait().failed(2, &["uplink"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "of yesterday\n");
}

#[test]
fn a_full_disk_behind_the_records_is_told_once_and_changes_nothing_else() {
    let session = Session::new();
    let options = ["--stats", "/dev/full", "--interval", "10ms", "--rate", "1M", "--stop-after", "200K"];
    let end = session.start(&options, zeros(), null()).wait();
    assert!(end.status.success(), "{end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
    assert!(end.stderr.starts_with("pcproxy: --stats: No space left on device"), "{end:?}");
}

#[test]
fn after_half_a_record_the_next_one_has_a_line_of_its_own() {
    let session = Session::new();
    let file = session.path("records");
    // The limit on the size of files stands for a disk that becomes full in the middle of a record.
    let script = r#"ulimit -f 4; exec "$0" --stats "$1" --interval 10ms"#;
    let (stdin, ours) = pipe().unwrap();
    let run = session.start_in_shell(script, &file, stdin, null());
    let text = || fs::read_to_string(&file).unwrap_or_default();
    until("half a record", || text().len() >= 1024 && !text().ends_with('\n'));
    // There is room again, for two records.
    File::options().write(true).open(&file).unwrap().set_len(5).unwrap();
    until("a whole record", || text().lines().nth(1).is_some_and(|line| line.ends_with('}')));
    drop(ours);
    assert!(run.wait().status.success());
    let text = text();
    let damaged = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err());
    let damaged: Vec<_> = damaged.collect();
    // The rest of the half record may still follow it, but never the beginning of the next one.
    let is_half = |line: &str| line.starts_with("{\"ver") && !line[1..].contains("{\"version\"");
    assert!(damaged.iter().all(|line| is_half(line) || *line == text.lines().next_back().unwrap()), "{text}");
    assert!(damaged.first().is_some_and(|line| is_half(line)), "{text}");
}

#[test]
fn several_runs_with_one_file_of_records_keep_each_others() {
    let session = Session::new();
    let file = session.path("records");
    fs::write(&file, "of yesterday\n").unwrap();
    let options = ["--stats", file.to_str().unwrap(), "--interval", "10ms"];
    let (stdin, mut ours) = pipe().unwrap();
    let (reader, writer) = pipe().unwrap();
    let first = session.start(&options, stdin, writer);
    until("a record", || fs::read_to_string(&file).is_ok_and(|text| text.starts_with('{') && text.ends_with('\n')));
    let begun = fs::read_to_string(&file).unwrap();
    let second = session.start(&options, reader, null());
    let pid = format!("\"pid\":{}", second.pid());
    until("a record of the second", || fs::read_to_string(&file).is_ok_and(|text| text.contains(&pid)));
    ours.write_all(&payload(1000)).unwrap();
    drop(ours);
    let pids = [first.pid(), second.pid()];
    first.wait().succeeded("the first");
    second.wait().succeeded("the second");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(&begun), "the second has emptied the file of the first");
    for pid in pids {
        let last = records(&text).into_iter().rfind(|record| record["pid"] == pid).expect("a record");
        assert_eq!((&last["done"], &last["bytes"]), (&true.into(), &1000.into()), "{last}");
    }
    // The next run has it to itself.
    session.start(&["--stats", file.to_str().unwrap()], Stdio::null(), null()).wait().succeeded("the third");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
}

#[test]
fn records_go_to_a_descriptor_without_proc() {
    let mut works = Command::new("unshare");
    works.args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/proc"]);
    if !needs("unshare") || !works.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces here");
        return;
    }
    let session = Session::new();
    let file = session.path("records");
    let script =
        r#"exec unshare --map-root-user --mount sh -c 'mount -t tmpfs none /proc; exec "$0" --stats 3' "$0" 3>"$1""#;
    let end = session.start_in_shell(script, &file, Stdio::null(), null()).wait();
    assert!(end.status.success(), "{end:?}");
    assert_eq!(records(&fs::read_to_string(&file).unwrap()).len(), 1, "{end:?}");
}

#[test]
fn progress_in_numbers_is_for_a_gauge() {
    let session = Session::new();
    let options = ["--progress", "numeric", "--interval", "10ms", "--rate", "1M"];
    fs::write(session.path("input"), payload(300_000)).unwrap();
    let end = session.start(&options, File::open(session.path("input")).unwrap(), null()).wait();
    assert!(end.status.success(), "{end:?}");
    let percents: Vec<u32> = end.stderr.lines().map(|line| line.parse().unwrap()).collect();
    assert!(percents.len() > 3 && percents.windows(2).all(|pair| pair[0] < pair[1]), "{percents:?}");
    assert_eq!(percents.last(), Some(&100));
}

#[test]
fn names_and_paths_cannot_harm_the_terminal_that_shows_them() {
    let session = Session::new();
    let name = "a\x1b[2J\u{202e}b\r\n\u{9b}31mc";
    let harmless = |text: &str| {
        let text = text.replace('\n', "");
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        text
    };
    let records = session.path("records");
    let (stdin, mut ours) = pipe().unwrap();
    let run = session.start(&["--name", name, "--stats", records.to_str().unwrap()], stdin, null());
    ours.write_all(b"some").unwrap();
    let answer = |words: &[&str]| {
        let (answer, into) = pipe().unwrap();
        let end = session.start(words, Stdio::null(), into).wait();
        (String::from_utf8(read_to_end(answer)).unwrap(), end.stderr)
    };
    until("a socket", || session.socket(&run).exists());
    let (table, _) = answer(&["ctl", "--all", "stats"]);
    assert!(harmless(&table).contains("a?[2J?b???31mc"), "{table}");
    let (_, error) = answer(&["ctl", name, "buffer", "99999T"]);
    assert!(harmless(&error).contains("ctl"), "{error}");
    drop(ours);
    run.wait().succeeded("a run");
    let (picture, _) = answer(&["plot", records.to_str().unwrap()]);
    assert!(!picture.contains('\u{202e}') && picture.contains("a?[2J?b"), "{picture}");
    for words in [&["--stats", "/nowhere/\x1b[2J\u{202e}"][..], &["plot", "/nowhere/\x1b[2J"]] {
        let (_, error) = answer(words);
        assert!(harmless(&error).contains("?[2J"), "{error:?}");
    }
    let (_, error) = answer(&["--rate", "\x1b[2J"]);
    assert!(harmless(&error).contains("--rate"), "{error:?}");
}
