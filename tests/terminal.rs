//! What is seen in a real terminal: the progress line in all that happens to it, and `top`. The
//! terminal is tmux's; without tmux these tests are skipped.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::ops::RangeInclusive;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use support::terminal::{PROMPT, STARTED};
use support::{KIB, Kind, Screen, Side, connection, start, until};

/// A job of two pcproxies that takes half a second, with a line each.
const PIPELINE: &str = "head -c 512K /dev/zero | pcproxy --name src --rate 1M --interval 20ms \
    | pcproxy --name dst --interval 30ms >/dev/null";

/// The same without an end.
const ENDLESS: &str =
    "pcproxy --name src --rate 1M --interval 20ms </dev/zero | pcproxy --name dst --interval 30ms >/dev/null";

/// A transfer without an end.
const DUMP: &str = "pcproxy --name dump --rate 1M --interval 20ms </dev/zero >/dev/null";

/// How the lines of a summary begin, whose last one is the verdict.
const SUMMARY: [&str; 4] =
    ["pcproxy: ", "pcproxy: the producer was ", "pcproxy: the buffer held at most ", "pcproxy: "];

/// What `seq` prints.
fn numbers(range: RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Fails unless what a job left on the screen are lines that begin so, and no others.
#[track_caller]
fn assert_lines(lines: &[String], starts: &[impl AsRef<str>]) {
    let alike = lines.iter().zip(starts).all(|(line, start)| line.starts_with(start.as_ref()));
    assert!(lines.len() == starts.len() && alike, "{lines:#?}");
}

/// Whether there are these two lines of [`PIPELINE`] and [`ENDLESS`], and whole.
fn has_both_lines(lines: &[String]) -> bool {
    ["src: ", "dst: "].iter().all(|name| lines.iter().any(|line| line.starts_with(name) && line.contains("/s ")))
}

#[test]
fn a_line_says_how_it_goes_at_any_width() {
    for (columns, words) in [
        (40, &["B ", "iB/s limited"][..]),
        (80, &["B 0:00:", "iB/s limit 1 MiB/s buffer ▕", "▏ limited"]),
        (200, &["B 0:00:", "iB/s (avg ", "iB/s) limit 1 MiB/s buffer ▕", "▏ limited"]),
    ] {
        let Some(screen) = Screen::new(columns, 24) else { return };
        screen.run(DUMP);
        let line = screen.wait_line("dump: ", words);
        assert!(line.chars().count() < columns, "{line}");
        assert_eq!(screen.lines().len(), 2);
        screen.ctl(&["dump", "stop"]);
        let lines = screen.wait_done();
        assert_lines(&lines, &["dump: "]);
        assert!(lines[0].chars().count() < columns && lines[0].ends_with("stopped"), "{lines:?}");
    }
}

#[test]
fn where_the_size_is_known_there_is_what_is_left() {
    let Some(screen) = Screen::new(140, 24) else { return };
    File::create(screen.path("input")).unwrap().set_len(1 << 20).unwrap();
    screen.run("pcproxy --name dump --rate 64K --interval 20ms <input >/dev/null");
    screen.wait_line("dump: ", &[" of 1.00 MiB 0:00:", "iB/s ", "% ▕█", "▏ ETA  0:", " buffer ▕", "▏ limited"]);
    screen.ctl(&["dump", "rate", "off"]);
    let lines = screen.wait_done();
    assert_lines(&lines, &["dump: 1.00 of 1.00 MiB"]);
    assert!(lines[0].contains(" 100% ▕██████") && lines[0].ends_with("█▏ done"), "{lines:?}");
    // As good as one that is found is one that is said.
    screen.run("head -c 256K /dev/zero | pcproxy --name part --size 1M --rate 1M --interval 20ms >/dev/null");
    screen.wait_line("part: 0.25 of 1.00 MiB", &["  25% ▕██", "  ▏ done"]);
}

#[test]
fn who_is_done_at_once_shows_nothing() {
    // On a machine that is stuck, half a second may be over.
    loop {
        let Some(screen) = Screen::new(80, 24) else { return };
        screen.run("seq 1000 | pcproxy --stats one | pcproxy --stats other >/dev/null");
        let lines = screen.wait_done();
        let took = |name| {
            let stats: Value = serde_json::from_str(screen.read(name).lines().last().unwrap()).unwrap();
            stats["elapsed"].as_f64().unwrap()
        };
        if took("one").max(took("other")) < 0.5 {
            assert!(lines.is_empty(), "{lines:?}");
            break;
        }
    }
}

#[test]
fn who_is_to_be_quiet_is_quiet() {
    let Some(screen) = Screen::new(80, 24) else { return };
    let run = "--rate 1M --interval 10ms --stop-after 128K </dev/zero";
    let runs = [("-q", ""), ("--progress never", ""), ("", "2>log"), ("--name loud", "")];
    screen.run(&runs.map(|(options, log)| format!("pcproxy {options} {run} >/dev/null {log}")).join("; "));
    assert_lines(&screen.wait_done(), &["loud: "]);
    assert_eq!(screen.read("log"), "");
}

#[test]
fn where_the_bytes_go_to_the_terminal_there_is_no_line_among_them() {
    let Some(screen) = Screen::new(80, 24) else { return };
    screen.run("seq 200 210 | pcproxy --rate 200 --interval 10ms");
    assert_eq!(screen.wait_done(), numbers(200..=210));
}

#[test]
fn a_file_gets_whole_lines() {
    let Some(screen) = Screen::new(40, 24) else { return };
    screen.run(
        "pcproxy --name dump --progress always --rate 1M --interval 20ms --stop-after 256K </dev/zero >/dev/null 2>log",
    );
    assert_eq!(screen.wait_done(), [""; 0]);
    let log = screen.read("log");
    let lines: Vec<_> = log.lines().collect();
    let (last, before) = lines.split_last().unwrap();
    assert!(log.ends_with('\n') && !log.contains(['\r', '\x1b']) && !before.is_empty(), "{log}");
    // A time of day, and no bar.
    let timed = |line: &str| {
        let (time, rest) = line.split_at(8);
        time.split(':').all(|part| part.len() == 2 && part.parse::<u8>().is_ok()) && rest.starts_with(" dump: ")
    };
    assert!(lines.iter().all(|line| timed(line)), "{log}");
    assert!(before.iter().all(|line| line.contains("iB/s (avg ") && line.contains(" buffer ")), "{log}");
    assert!(last.contains(" dump:  256 KiB 0:00:") && last.ends_with("limit 1 MiB/s done"), "{log}");
    assert!(!log.contains(['▕', '[']), "{log}");
}

#[test]
fn each_of_a_pipeline_has_a_line() {
    let Some(screen) = Screen::new(100, 24) else { return };
    screen.run(PIPELINE);
    screen.wait("the end", |lines| {
        let lines: Vec<_> = lines.iter().map(String::as_str).filter(|line| ![STARTED, PROMPT].contains(line)).collect();
        let starts: Vec<_> = lines.iter().map(|line| line.get(..5).unwrap_or(line)).collect();
        assert!(["", "src: ", "dst: ", "src: dst: "].contains(&&*starts.concat()), "{lines:#?}");
        lines.len() == 2 && lines.iter().all(|line| line.ends_with("done"))
    });
    assert_lines(&screen.wait_done(), &["src:  512 KiB", "dst:  512 KiB"]);
}

#[test]
fn at_the_bottom_of_the_screen_nothing_is_lost() {
    let Some(screen) = Screen::new(80, 6) else { return };
    screen.run(&format!("seq 20; {PIPELINE}; {PIPELINE}; seq 21 30"));
    let mut expected = numbers(1..=20);
    expected.extend(["src:  512 KiB", "dst:  512 KiB"].repeat(2).into_iter().map(str::to_owned));
    expected.extend(numbers(21..=30));
    let lines = screen.wait_done();
    assert_lines(&lines, &expected);
    assert!(lines[20..24].iter().all(|line| line.ends_with("done")), "{lines:#?}");
}

#[test]
fn a_terminal_that_is_resized_keeps_no_remains() {
    let Some(screen) = Screen::new(120, 12) else { return };
    screen.run(&format!("seq 20; {ENDLESS}"));
    screen.wait("both lines", has_both_lines);
    for (columns, rows) in [(70, 12), (41, 8), (200, 12), (60, 5)] {
        screen.resize(columns, rows);
        screen.wait("both lines, drawn anew", |lines| {
            let widths: Vec<_> = lines.iter().skip(21).map(|line| line.chars().count()).collect();
            // Nothing else is there, and there is as much of both as there is room for.
            let fit = widths.iter().all(|width| *width < columns.into() && (columns < 200 || *width > 70));
            has_both_lines(lines) && lines.len() == 23 && fit
        });
    }
    screen.press(&["C-c"]);
    let mut lines = screen.wait_done();
    // Who ends first stands above.
    lines[20..].sort();
    assert_lines(&lines, &[numbers(1..=20), ["dst: ", "src: "].map(str::to_owned).to_vec()].concat());
}

#[test]
fn without_colours_there_are_none() {
    let Some(screen) = Screen::new(80, 24) else { return };
    let coloured = |name: &str| {
        let text = screen.tmux(&["capture-pane", "-p", "-e"]);
        text.lines().any(|line| line.starts_with(name) && line.contains('\x1b'))
    };
    screen.run(DUMP);
    screen.wait_line("dump: ", &["limited"]);
    assert!(coloured("dump: "));
    screen.press(&["C-c"]);
    screen.wait_done();
    assert!(coloured("dump: "), "how it ended");
    screen.run(&format!("NO_COLOR=1 {}", DUMP.replace("dump", "grey")));
    screen.wait_line("grey: ", &["limited"]);
    assert!(!coloured("grey: "));
}

#[test]
fn a_dumb_terminal_gets_line_below_line() {
    let Some(screen) = Screen::new(80, 24) else { return };
    screen.run("TERM=dumb pcproxy --name dump --rate 1M --interval 50ms --stop-after 256K </dev/zero >/dev/null");
    let lines = screen.wait_done();
    let (last, before) = lines.split_last().unwrap();
    assert!(last.contains(" dump:  256 KiB 0:00:") && last.ends_with("done"), "{lines:#?}");
    let whole = |line: &String| line.contains(" dump: ") && line.contains("iB/s limit 1 MiB/s ") && line.is_ascii();
    assert!(!before.is_empty() && before.iter().all(whole), "{lines:#?}");
    assert!(!screen.tmux(&["capture-pane", "-p", "-e"]).contains('\x1b'));
}

#[test]
fn messages_stand_above_the_lines() {
    let Some(screen) = Screen::new(140, 8) else { return };
    screen.run("seq 10; pcproxy --name dump --rate 1M --interval 20ms --summary </dev/zero >/dev/null");
    let pcproxy = screen.pcproxy();
    let mut expected = numbers(1..=10);
    expected.push("dump: ".to_owned());
    let mut shows = |message: bool| {
        if message {
            let above = expected.len() - 1;
            expected.splice(above..above, SUMMARY.map(str::to_owned));
        }
        screen.wait("the messages above the line", |lines| {
            let alike = lines[1..].iter().zip(&expected).all(|(line, start)| line.starts_with(start));
            lines.len() == 1 + expected.len() && alike && lines.last().is_some_and(|line| line.ends_with("limited"))
        });
    };
    shows(false);
    for _ in 0..2 {
        kill_process(pcproxy, Signal::USR1).unwrap();
        shows(true);
    }
    screen.press(&["C-c"]);
    let lines = screen.wait_done();
    expected.extend(SUMMARY.map(str::to_owned));
    assert_lines(&lines, &expected);
    assert!(lines[expected.len() - 5].ends_with("interrupted"), "{lines:#?}");
}

#[test]
fn a_terminal_that_is_stopped_holds_up_nothing() {
    let Some(screen) = Screen::new(80, 24) else { return };
    let fifo = screen.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    screen.run("pcproxy --name dump --interval 10ms <fifo >output");
    // Who only writes would wait for the reader.
    let mut input = File::options().read(true).write(true).open(&fifo).unwrap();
    let output = || fs::metadata(screen.path("output")).map_or(0, |found| found.len() as usize);
    input.write_all(&[b'x'; KIB]).unwrap();
    screen.wait_line("dump: 1.00 KiB", &["/s "]);
    screen.press(&["C-s"]);
    let terminal = screen.terminal();
    until("the terminal to stop", || {
        poll(&mut [PollFd::new(&terminal, PollFlags::OUT)], Some(&Timespec::default())) == Ok(0)
    });
    let before = screen.lines();
    // Drawings all the time, and messages.
    let pcproxy = screen.pcproxy();
    for sent in 1..=200 {
        kill_process(pcproxy, Signal::USR1).unwrap();
        input.write_all(&[b'x'; 10 * KIB]).unwrap();
        until("the bytes", || output() == KIB + sent * 10 * KIB);
    }
    drop(input);
    until("the end", || !screen.path(&format!("pcproxy/{}.sock", pcproxy.as_raw_nonzero())).exists());
    assert_eq!(screen.lines(), before);
    screen.press(&["C-q"]);
    screen.wait("the prompt", |lines| lines.last().is_some_and(|line| line.starts_with("$ ") && line != STARTED));
}

#[test]
fn a_job_that_is_stopped_and_goes_on_has_its_line_again() {
    let Some(screen) = Screen::new(80, 24) else { return };
    screen.run(DUMP);
    screen.wait_line("dump: ", &["limited"]);
    screen.press(&["C-z"]);
    screen.wait("the prompt", |lines| lines.ends_with(&[PROMPT.to_owned()]));
    screen.press(&["fg", "Enter"]);
    screen.wait("the line", |lines| lines.last().is_some_and(|line| line.starts_with("dump: ")));
    screen.press(&["C-c"]);
    let lines = screen.wait_done();
    assert!(lines.last().is_some_and(|line| line.starts_with("dump: ") && line.ends_with("interrupted")), "{lines:#?}");
}

#[test]
fn top_shows_and_steers() {
    let Some(screen) = Screen::new(100, 24) else { return };
    let _dump = screen.transfer("dump");
    let other = screen.transfer("other");
    screen.run("echo before; pcproxy top --interval 50ms");
    screen.wait_line("2 runs, ", &["iB/s, ", " delivered, ", " held"]);
    let is_it = |line: &String| line.starts_with("dump ") && line.contains(" limited ");
    // The rate and the limit.
    screen.wait("the rate", |lines| lines.iter().any(|line| is_it(line) && line.matches("iB/s").count() == 2));
    screen.press(&["l"]);
    screen.wait_line("limit of dump (5M, +10%, off, back):", &[]);
    screen.press(&["2M", "Enter"]);
    screen.wait_line("dump ", &["limited", "2.00 MiB/s"]);
    assert_eq!(screen.stats("dump")["limit"], 2 << 20);
    screen.press(&["l", "land", "Enter"]);
    screen.wait_line("'land': ", &[]);
    // At once with the next key, it would make another key of that.
    screen.press(&["Escape"]);
    screen.wait_line("↑↓ select ", &[]);
    screen.press(&["p"]);
    screen.wait_line("dump ", &["paused"]);
    assert_eq!(screen.stats("dump")["state"], "paused");
    screen.press(&["p"]);
    screen.wait_line("dump ", &["limited"]);
    screen.press(&["Down", "s"]);
    screen.wait_line("stop other? (y/n)", &[]);
    screen.press(&["y"]);
    screen.wait_line("1 run, ", &[]);
    screen.press(&["q"]);
    assert_eq!(screen.wait_done(), ["before"]);
    other.wait().succeeded("stopped by top");
}

#[test]
fn top_leaves_the_terminal_as_it_was() {
    let killed = |signal: Signal| ("", Some(signal), format!("{}\n", 128 + signal.as_raw()));
    let signals = [Signal::TERM, Signal::QUIT, Signal::USR1, Signal::ALARM, Signal::ABORT, Signal::POWER];
    let keys = ["q", "C-c"].map(|key| (key, None, "0\n".to_owned()));
    for (key, signal, status) in keys.into_iter().chain(signals.map(killed)) {
        let leave = format!("{key}{signal:?}");
        let Some(screen) = Screen::new(120, 10) else { return };
        let _dump = screen.transfer("dump");
        // The inner shell says nothing of the signal.
        screen.run(
            "seq 20; stty -g >before; sh -c 'pcproxy top; echo $? >status' 2>/dev/null; stty -g | tee after; seq 3",
        );
        screen.wait_line("dump ", &["limited"]);
        let modes = || screen.tell("alternate_on") + &screen.tell("cursor_flag");
        assert_eq!(modes(), "10");
        match signal {
            Some(signal) => kill_process(screen.pcproxy(), signal).unwrap(),
            None => screen.press(&[key]),
        }
        let lines = screen.wait_done();
        let [before, after] = ["before", "after"].map(|name| screen.read(name));
        assert_eq!((screen.read("status"), &*modes(), &before), (status, "01", &after), "{leave}");
        let mut expected = numbers(1..=20);
        expected.push(before.trim_end().to_owned());
        expected.extend(numbers(1..=3));
        assert_eq!(lines, expected, "{leave}");
    }
}

#[test]
fn top_can_be_put_aside() {
    let Some(screen) = Screen::new(80, 24) else { return };
    let _dump = screen.transfer("dump");
    screen.run("pcproxy top --interval 50ms");
    screen.wait_line("dump ", &["limited"]);
    screen.press(&["C-z"]);
    let lines = screen.wait("the prompt", |lines| lines.ends_with(&[PROMPT.to_owned()]));
    assert!(lines[0] == STARTED && screen.tell("alternate_on") == "0", "{lines:#?}");
    screen.press(&["fg", "Enter"]);
    screen.wait_line("dump ", &["limited"]);
    screen.press(&["p"]);
    screen.wait_line("dump ", &["paused"]);
    screen.press(&["q"]);
    let after = screen.wait("the prompt", |lines| lines.len() > 1 && lines.ends_with(&[PROMPT.to_owned()]));
    assert_eq!(after[..lines.len() - 1], lines[..lines.len() - 1]);
}

#[test]
fn without_a_terminal_top_says_so_in_a_line() {
    let null = || connection(Kind::Null, Side::Stdout).theirs;
    start(&["top"], null(), null()).wait().failed(1, &["pcproxy: top: ", "terminal"]);
}
