//! What the user can say, and what pcproxy answers.

mod support;

use std::fs::OpenOptions;
use std::io::{Write, pipe};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use support::{End, KIB, Kind, Session, Side, connection, input_pipe, read_to_end, set_nonblocking, start, unread};

/// Runs pcproxy with 1000 bytes on its stdin. Returns what it wrote to stdout, how it ended,
/// and how many bytes it has left in stdin.
fn run(options: &[&str]) -> (String, End, usize) {
    let (theirs, mut ours, stdin) = input_pipe();
    ours.write_all(&[b'x'; 1000]).unwrap();
    drop(ours);
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(options, theirs, into);
    let answer = String::from_utf8(read_to_end(stdout)).unwrap();
    (answer, pcproxy.wait(), unread(stdin))
}

/// Runs pcproxy with `options`, which it refuses in one line with all of `words` in it, before
/// it touches its stdin.
#[track_caller]
fn refuses(options: &[&str], words: &[&str]) {
    let (answer, end, left) = run(options);
    end.failed(2, words);
    assert!(end.stderr.starts_with("pcproxy: "), "{end:?}");
    assert_eq!((answer.as_str(), left), ("", 1000), "{options:?}");
}

#[test]
fn a_buffer_that_holds_nothing_is_refused() {
    refuses(&["--buffer", "0"], &["--buffer", "'0'", "must be at least 1 byte"]);
}

#[test]
fn a_buffer_that_is_no_size_is_refused() {
    for size in ["5X", "", "ten", "1.2.3", "64 quatloos"] {
        refuses(&["--buffer", size], &["--buffer", &format!("'{size}'"), "64K", "64kB"]);
    }
    refuses(&["--buffer=-5"], &["--buffer", "'-5'", "64K"]);
    refuses(&["--buffer"], &["--buffer", "SIZE"]);
}

#[test]
fn a_buffer_beyond_the_memory_is_refused() {
    refuses(&["--buffer", "1E"], &["--buffer", "'1E'", "memory"]);
    refuses(&["--buffer", "99E"], &["--buffer", "'99E'", "below 16E"]);
}

#[test]
fn a_low_water_mark_that_is_not_below_the_buffer_is_refused() {
    for mark in ["64K", "65536", "1M"] {
        refuses(&["--low-water", mark], &["--low-water", &format!("'{mark}'"), "below --buffer"]);
    }
    refuses(&["--buffer", "1", "--low-water", "1"], &["--low-water", "'1'", "below --buffer"]);
}

#[test]
fn a_low_water_mark_that_is_no_share_is_refused() {
    for mark in ["100%", "-1%", "ten%", "%", "NaN%", "101%"] {
        refuses(&[&format!("--low-water={mark}")], &["--low-water", &format!("'{mark}'"), "25%"]);
    }
    refuses(&["--low-water", "foo"], &["--low-water", "'foo'", "64K"]);
}

#[test]
fn a_start_mark_above_the_buffer_or_that_is_no_share_is_refused() {
    refuses(&["--start-at", "65K"], &["--start-at", "'65K'", "above --buffer"]);
    for mark in ["101%", "-1%", "ten%", "NaN%"] {
        refuses(&[&format!("--start-at={mark}")], &["--start-at", &format!("'{mark}'"), "25%"]);
    }
}

#[test]
fn a_stall_timeout_that_is_no_time_is_refused() {
    refuses(&["--stall-timeout", "0"], &["--stall-timeout", "'0'", "longer than 0"]);
    refuses(&["--stall-timeout", "soon"], &["--stall-timeout", "'soon'", "500ms"]);
}

#[test]
fn a_read_rate_that_is_no_rate_is_refused() {
    for rate in ["0", "5X", ""] {
        refuses(&["--read-rate", rate], &["--read-rate", &format!("'{rate}'")]);
    }
}

#[test]
fn a_pipe_size_that_is_no_size_is_refused() {
    refuses(&["--pipe-size", "foo"], &["--pipe-size", "'foo'", "64K", "keep"]);
}

#[test]
fn what_is_no_option_is_refused() {
    refuses(&["--bufer", "64K"], &["--bufer", "--buffer"]);
    refuses(&["--no-such-option"], &["--no-such-option", "--help"]);
    refuses(&["-Z"], &["-Z", "--help"]);
}

#[test]
fn every_way_to_write_a_size_is_accepted() {
    for size in ["1", "4096", "64K", "64KiB", "64kB", "1.5M", "2m", "1G"] {
        let (answer, end, left) = run(&["--buffer", size]);
        end.succeeded(size);
        assert_eq!((answer.len(), left), (1000, 0), "{size}");
    }
    for mark in ["0", "0%", "50%", "99.9%", "65535"] {
        run(&["--low-water", mark]).1.succeeded(mark);
    }
}

#[test]
fn the_short_help_names_the_options() {
    let (answer, end, left) = run(&["-h"]);
    end.succeeded("-h");
    assert_eq!(left, 1000);
    for word in ["Usage: pcproxy", "--buffer", "--low-water", "--pipe-size", "--help", "--version"] {
        assert!(answer.contains(word), "{word} is missing in {answer}");
    }
}

#[test]
fn the_help_has_headings_and_ends_with_examples() {
    let (answer, end, left) = run(&["--help"]);
    end.succeeded("--help");
    assert_eq!(left, 1000);
    let mut rest = answer.as_str();
    for heading in ["Usage: pcproxy", "\nOptions:\n", "\nBuffer:\n", "\nExamples:\n", "\nExit status:"] {
        let at = rest.find(heading).unwrap_or_else(|| panic!("{heading} is missing, or in another place, in {answer}"));
        rest = &rest[at..];
    }
    assert!(rest.len() < 1000, "too much behind the examples: {rest}");
}

#[test]
fn the_version_is_that_of_the_package() {
    for option in ["-V", "--version"] {
        let (answer, end, left) = run(&[option]);
        end.succeeded(option);
        assert_eq!(answer, concat!("pcproxy ", env!("CARGO_PKG_VERSION"), "\n"));
        assert_eq!(left, 1000);
    }
}

#[test]
fn the_neighbours_pipes_are_grown_or_kept_but_never_shrunk() {
    let (small, large) = (64 * KIB, 1024 * KIB);
    for (option, before, after) in [
        ("keep", [small, small], [small, small]),
        ("keep", [large, 4 * KIB], [large, 4 * KIB]),
        ("512K", [small, small], [512 * KIB, 512 * KIB]),
        ("512K", [large, small], [large, 512 * KIB]),
        ("512K", [small, large], [512 * KIB, large]),
        ("1", [small, large], [small, large]),
        // More than the system allows: they stay, and the bytes pass.
        ("1T", [small, large], [small, large]),
    ] {
        let (theirs, mut ours, stdin) = input_pipe();
        let (stdout, into) = pipe().unwrap();
        fcntl_setpipe_size(&ours, before[0]).unwrap();
        fcntl_setpipe_size(&into, before[1]).unwrap();
        let pcproxy = start(&["--pipe-size", option], theirs, into);
        ours.write_all(b"hello").unwrap();
        assert_eq!(support::read_exactly(&stdout, 5), b"hello");
        let sizes = [fcntl_getpipe_size(&stdin).unwrap(), fcntl_getpipe_size(&stdout).unwrap()];
        assert_eq!(sizes, after, "--pipe-size {option}, before: {before:?}");
        drop(ours);
        pcproxy.wait().succeeded(option);
    }
}

/// Everything that prints to stdout and needs no running transfer.
const PRINTING: [&[&str]; 8] = [
    &["--help"],
    &["-h"],
    &["--version"],
    &["ctl", "--help"],
    &["group", "ls"],
    &["plot", "tests/data/run.jsonl"],
    &["man"],
    &["completions", "bash"],
];

#[test]
fn a_full_disk_behind_stdout_is_an_error_of_every_command() {
    for options in PRINTING {
        let session = Session::new();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = session.command(options).stdin(Stdio::null()).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{options:?}: {said}");
        assert!(said.starts_with("pcproxy: stdout: No space left on device") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error_of_any_command() {
    for options in PRINTING {
        let session = Session::new();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = session.command(options).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{options:?}: {output:?}");
    }
}

#[test]
fn a_closed_stdout_is_an_error_of_every_command() {
    for options in PRINTING {
        let session = Session::new();
        let output = session.shell("exec \"$0\" \"$@\" >&-").args(options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{options:?}: {said}");
        assert!(said.starts_with("pcproxy: stdout: Bad file descriptor"), "{said}");
    }
}

/// The end of a connection that takes no more bytes, and the end that nobody reads.
fn stuck(kind: Kind) -> support::Ends {
    let ends = connection(kind, Side::Stdout);
    let mut filling = std::fs::File::from(ends.theirs.try_clone().unwrap());
    set_nonblocking(&filling, true);
    while filling.write(&[b'x'; 4096]).is_ok() || filling.write(b"x").is_ok() {}
    set_nonblocking(&filling, false);
    ends
}

#[test]
fn a_stderr_that_takes_nothing_does_not_hold_up_the_end() {
    let refused: [(&[&str], i32); 4] =
        [(&["--buffer", "5X"], 2), (&["ctl", "--all", "pause"], 1), (&["group"], 2), (&["plot", "/nonexistent"], 1)];
    let check = |kind: Kind, options: &[&str], status: i32| {
        let ends = stuck(kind);
        let session = Session::new();
        let mut command = session.command(options);
        command.stdin(Stdio::null());
        let start = Instant::now();
        let ended = command.stderr(ends.theirs).stdout(Stdio::null()).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{kind:?} {options:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{kind:?} {options:?}");
    };
    std::thread::scope(|scope| {
        for kind in [Kind::Fifo, Kind::Pipe, Kind::Unix, Kind::Terminal] {
            for (options, status) in refused {
                scope.spawn(move || check(kind, options, status));
            }
        }
    });
}

#[test]
fn a_message_reaches_every_kind_of_stderr_that_works() {
    for kind in Kind::STREAMS {
        let ends = connection(kind, Side::Stdout);
        let session = Session::new();
        let mut command = session.command(&["--buffer", "5X"]);
        command.stdin(Stdio::null());
        let ended = command.stderr(ends.theirs).stdout(Stdio::null()).status();
        drop(command);
        assert_eq!(ended.unwrap().code(), Some(2));
        let said = String::from_utf8(read_to_end(ends.ours)).unwrap();
        assert!(said.contains("--buffer") && said.ends_with("try 'pcproxy --help'\n"), "{kind:?}: {said}");
    }
}

#[test]
fn an_error_names_the_help_of_its_command() {
    for (options, help) in [
        (&["ctl", "x", "rate", "5X"][..], "try 'pcproxy ctl --help'"),
        (&["ctl", "--no-such-option"], "try 'pcproxy ctl --help'"),
        (&["group", "set", "x"], "try 'pcproxy group --help'"),
        (&["top", "--interval", "0"], "try 'pcproxy top --help'"),
        (&["plot"], "try 'pcproxy plot --help'"),
        (&["--name", "top", "--rate", "5X"], "try 'pcproxy --help'"),
    ] {
        refuses(options, &[help]);
    }
}

#[test]
fn a_rate_that_may_mean_bits_or_bytes_is_refused_with_both_spellings() {
    refuses(&["--rate", "10Mb"], &["--rate", "'10Mb'", "10Mbit", "10MB"]);
    refuses(&["--group", "x=10Mb"], &["--group", "'10Mb'", "10Mbit", "10MB"]);
    refuses(&["--schedule", "08:00,10Mb"], &["--schedule", "'10Mb'", "10Mbit", "10MB"]);
    refuses(&["--group", "x", "--min-rate", "10Mbps"], &["--min-rate", "'10Mbps'", "10Mbit", "10MB"]);
}

#[test]
fn half_a_byte_is_refused_everywhere() {
    for option in ["--buffer", "--size", "--stop-after", "--pipe-size", "--low-water"] {
        refuses(&[option, "0.5"], &[option, "'0.5'", "whole number"]);
    }
    refuses(&["--rate", "0.5"], &["--rate", "'0.5'", "at least 1 byte per second"]);
    refuses(&["--rate", "1.5"], &["--rate", "'1.5'", "whole number"]);
}

#[test]
fn a_negative_number_is_refused_with_the_name_of_its_option() {
    for option in ["--rate", "-r", "-L", "--buffer", "--size", "--interval", "--burst", "--catch-up", "--stop-after"] {
        for value in ["-1", "-5M", "-0.5"] {
            refuses(&[option, value], &[&format!(": '{value}' is ")]);
        }
    }
    refuses(&["-q", "-5"], &["'-5'"]);
    refuses(&["ctl", "x", "buffer", "-5"], &["'-5'", "<SIZE>"]);
}

#[test]
fn the_largest_size_is_not_offered_by_the_error_that_refuses_it() {
    refuses(&["--size", "16E"], &["--size", "'16E'", "must be below 16E"]);
    refuses(&["--rate", "16E"], &["--rate", "'16E'", "must be below 16E"]);
}

#[test]
fn no_limit_is_written_off_as_elsewhere() {
    for options in [&["--rate", "off"][..], &["--group", "command-line-off=off"], &["--schedule", "08:00,off"]] {
        let (answer, end, left) = run(options);
        end.succeeded(format!("{options:?}"));
        assert_eq!((answer.len(), left), (1000, 0));
    }
}

#[test]
fn an_unknown_time_zone_is_said_in_one_line() {
    let session = Session::new();
    let mut command = session.command(&["--schedule", "08:00,1M"]);
    command.stdin(Stdio::null());
    for (zone, said) in [
        ("Europe/Berlni", "pcproxy: TZ: 'Europe/Berlni' is not a known time zone; the timetable follows UTC\n"),
        ("UTC0", ""),
        ("", ""),
    ] {
        let output = command.env("TZ", zone).output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
            (Some(0), said),
            "{zone}"
        );
    }
}

#[test]
fn what_people_write_in_a_timetable_is_accepted() {
    for timetable in ["Mon-Fri-08:00,1G", "08:00-18:00,1G", "Sat-Sun-22:00-06:00,1G Mon-00:00,off", "00:00-24:00,1G"] {
        let (answer, end, left) = run(&["--schedule", timetable]);
        end.succeeded(timetable);
        assert_eq!((answer.len(), left), (1000, 0));
    }
}

#[test]
fn a_name_that_is_not_utf_8_is_accepted_and_shown_with_replacements() {
    use std::os::unix::ffi::OsStrExt;
    let session = Session::new();
    let mut command = session.command(&["--stats"]);
    let path = session.runtime.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.jsonl"));
    command.arg(&path).arg("--name").arg(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    assert!(command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success());
    let record = std::fs::read_to_string(path).unwrap();
    assert!(record.contains("\"name\":\"caf\u{fffd}\""), "{record}");
}

#[test]
fn a_repeated_option_overrides_so_that_an_alias_can_have_options() {
    for options in [
        &["-q", "-q"][..],
        &["--rate", "1", "--rate", "1G"],
        &["--buffer", "1", "-b", "64K", "--low-water", "0", "--low-water", "50%"],
        &["--summary", "--summary", "-q", "--progress", "never"],
        &["--schedule", "08:00,1", "--schedule", "08:00,off"],
    ] {
        let (answer, end, _) = run(options);
        assert!(end.status.success(), "{options:?}: {end:?}");
        assert_eq!(answer.len(), 1000);
    }
    let (_, end, _) = run(&["-q", "--rate", "5K", "--interval", "10ms", "--progress", "always"]);
    assert!(!end.stderr.is_empty(), "the later --progress counts");
    run(&["--progress", "always", "--rate", "5K", "--interval", "10ms", "--quiet"])
        .1
        .succeeded("the later --quiet counts");
}

#[test]
fn what_other_programs_call_a_rate_is_suggested() {
    for option in ["--limit", "--speed", "--bwlimit"] {
        refuses(&[option, "5M"], &[option, "'--rate'"]);
        refuses(&[&format!("{option}=5M")], &[option, "'--rate'"]);
    }
}

#[test]
fn the_options_of_pv_that_mean_the_same_are_accepted() {
    for options in [
        &["-L", "1G"][..],
        &["--rate-limit", "1G"],
        &["-N", "name"],
        &["-s", "1000"],
        &["-i", "2"],
        &["-B", "64K"],
        &["--buffer-size", "64K"],
        &["-W"],
        &["--wait"],
        &["--line-mode"],
    ] {
        let (answer, end, left) = run(options);
        end.succeeded(format!("{options:?}"));
        assert_eq!((answer.len(), left), (1000, 0), "{options:?}");
    }
    for stop in ["-S", "--stop-at-size"] {
        let (answer, end, left) = run(&[stop, "-s", "400"]);
        end.succeeded(stop);
        assert_eq!((answer.len(), left), (400, 600));
    }
    refuses(&["-S"], &["--size"]);
}

#[test]
fn an_interval_beyond_the_clock_is_refused() {
    for time in ["18446744073709549568", "1e19", "99999999h"] {
        refuses(&["--interval", time], &["--interval", time]);
        refuses(&["--burst", &format!("{time}s")], &["--burst", time]);
    }
}

#[test]
fn a_descriptor_that_cannot_be_is_no_file() {
    let session = Session::new();
    let mut command = session.command(&["--stats", "99999999999"]);
    let output = command.stdin(Stdio::null()).current_dir(session.runtime.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(std::fs::read_dir(session.runtime.path()).unwrap().count(), 0, "nothing was made");
    refuses(&["--stats=-1"], &["--stats", "'-1'", "./-1"]);
}

#[test]
fn the_names_of_groups_are_completed() {
    let session = Session::new();
    assert!(session.command(&["group", "set", "uplink", "10M"]).status().unwrap().success());
    for (words, completed) in [
        (&["group", "rm", "up"][..], "uplink"),
        (&["group", "se"], "set"),
        (&["--group", ""], "uplink"),
        (&["--rate", "80"], "80Mbit"),
        (&["--low-wat"], "--low-water"),
    ] {
        let mut command = session.command(&[&["--", "pcproxy"], words].concat());
        command.env("PCPROXY_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        let output = command.env("_CLAP_IFS", "\n").stdin(Stdio::null()).output().unwrap();
        let candidates = String::from_utf8(output.stdout).unwrap();
        assert!(candidates.lines().any(|line| line == completed), "{words:?}: {candidates}");
    }
}

#[test]
fn the_manual_page_of_a_command_that_is_none_is_refused() {
    let (answer, end, _) = run(&["man", "quux"]);
    end.failed(1, &["'quux'", "ctl", "plot"]);
    assert_eq!(answer, "");
}

#[test]
fn the_manual_pages_of_all_commands_are_written() {
    let session = Session::new();
    let folder = session.runtime.path().to_str().unwrap();
    run(&["man", "--dir", folder]).1.succeeded("man --dir");
    for page in ["pcproxy.1", "pcproxy-ctl.1", "pcproxy-group-set.1", "pcproxy-run.1"] {
        let text = std::fs::read_to_string(session.path(page)).unwrap();
        assert!(text.contains(".SH \"EXIT STATUS\""), "{page}");
    }
}

#[test]
fn rates_are_shown_in_the_unit_they_were_given_in() {
    for (options, shown) in [
        (&["--rate", "16kbit"][..], "16 kbit/s limit"),
        (&["--rate", "2kB"], "2 kB/s limit"),
        (&["--rate", "2K"], "2 KiB/s limit"),
        (&["--schedule", "00:00,16kbit"], "16 kbit/s limit"),
    ] {
        let (_, end, _) = run(&[options, &["--summary", "--burst", "1"]].concat());
        let unit = shown.split(' ').nth(1).unwrap();
        assert!(end.status.success() && end.stderr.contains(shown), "{options:?}: {end:?}");
        assert!(end.stderr.contains(&format!("{unit} on average")), "{end:?}");
    }
}

#[test]
fn a_plain_run_with_little_memory_is_not_refused_for_a_buffer_it_does_not_use() {
    let script = r#"ulimit -v 20000 && printf bytes | "$0""#;
    let run = std::process::Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_pcproxy")]).output().unwrap();
    assert_eq!((run.status.code(), &run.stdout[..], &run.stderr[..]), (Some(0), &b"bytes"[..], &b""[..]));
}
