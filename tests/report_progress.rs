//! The progress line: what it says at which width, and that nobody waits for it.

mod support;

use std::fs::{self, File};
use std::io::{Read, pipe};
use std::os::fd::OwnedFd;

use pcproxy::report::{Look, Progress, ProgressLine};
use pcproxy::stats::{Ending, RecordKind, RecordStatus, State, Status};
use proptest::prelude::*;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use support::cases;
use unicode_width::UnicodeWidthStr;

const BLOCKS: Look = Look { blocks: true, colour: false, redraws: true, eta_at: false };

/// What is no terminal.
const PLAIN: Look = Look { redraws: false, ..BLOCKS };

fn status() -> Status {
    Status {
        state: State::Limited,
        bytes: 1_320_702_444,
        rate: 10_475_274.2,
        mean_rate: 15_835_760.7,
        buffered: 700_000,
        limit: Some(10 << 20),
        ..support::status::status(83.4)
    }
}

/// The status of a run that has ended.
fn ended(ending: Ending) -> Status {
    Status { done: true, ending: Some(ending), ..status() }
}

fn render(look: Look, status: &Status, width: usize) -> String {
    ProgressLine::new(look).render(status, width)
}

/// A text without its colours.
fn plain(text: &str) -> String {
    text.split('\x1b')
        .enumerate()
        .map(|(at, part)| if at > 0 { part.split_once('m').unwrap().1 } else { part })
        .collect()
}

#[test]
fn records_are_shown_with_their_bytes_beside_them() {
    let records = RecordStatus {
        kind: RecordKind::Lines,
        delivered: 12_345,
        size: None,
        rate: 5.0,
        mean_rate: 0.5,
        limit: Some(5.0),
    };
    let status = Status { records: Some(records), limit: None, ..status() };
    let wide = render(Look::default(), &status, 120);
    assert!(wide.contains(" 12.3 k lines 1.23 GiB 0:01:23        5/s (avg     30/min) limit 5/s "), "{wide}");
    let sized = Status { records: Some(RecordStatus { size: Some(50_000), ..records }), ..status };
    assert!(render(Look::default(), &sized, 120).contains(" 24% "));
}

#[test]
fn the_least_important_goes_first() {
    let named = Status { name: Some("src".to_owned()), ..status() };
    for (width, text) in [
        (200, "src: 1.23 GiB 0:01:23 9.99 MiB/s (avg 15.1 MiB/s) limit 10 MiB/s buffer ▕███▎ ▏ limited"),
        (95, "src: 1.23 GiB 0:01:23 9.99 MiB/s (avg 15.1 MiB/s) limit 10 MiB/s buffer ▕███▎ ▏ limited"),
        (80, "src: 1.23 GiB 0:01:23 9.99 MiB/s limit 10 MiB/s buffer ▕███▎ ▏ limited"),
        (70, "src: 1.23 GiB 0:01:23 9.99 MiB/s limit 10 MiB/s limited"),
        (60, "src: 1.23 GiB 9.99 MiB/s limit 10 MiB/s limited"),
        (40, "src: 1.23 GiB 9.99 MiB/s limited"),
        (30, "src: 1.23 GiB limited"),
        (20, "1.23 GiB"),
        (5, "1.23"),
        (1, ""),
        (0, ""),
    ] {
        assert_eq!(render(BLOCKS, &named, width), text, "{width}");
    }
}

#[test]
fn with_a_size_there_are_percent_and_bar() {
    let half = Status { size: Some(2 * status().bytes), time_left: Some(83.5), ..status() };
    for (width, text) in [
        (
            150,
            "1.23 of 2.46 GiB 0:01:23 9.99 MiB/s (avg 15.1 MiB/s) limit 10 MiB/s  50% ▕█████████████████▌                 ▏ \
             ETA  1:24 buffer ▕███▎ ▏ limited",
        ),
        (80, "1.23 of 2.46 GiB 9.99 MiB/s  50% ▕██████████          ▏ ETA  1:24 limited"),
        (60, "1.23 GiB  50% ▕█████████▌         ▏ ETA  1:24 limited"),
        (41, "1.23 GiB  50% ▕█████     ▏ limited"),
        (29, "1.23 GiB  50% limited"),
    ] {
        assert_eq!(render(BLOCKS, &half, width), text, "{width}");
    }
    for (bytes, size, shown) in [(0, 10, "  0%"), (999, 1000, " 99%"), (1000, 1000, "100%")] {
        let text = render(BLOCKS, &Status { bytes, size: Some(size), ..status() }, 80);
        assert!(text.contains(shown), "{shown} of {text}");
    }
    let nothing_yet = render(BLOCKS, &Status { bytes: 0, size: Some(10), ..status() }, 80);
    assert!(nothing_yet.contains("ETA  -:--"), "{nothing_yet}");
}

#[test]
fn the_bar_gets_the_room_first() {
    for width in 80..200 {
        let status = Status {
            name: Some("a-name-of-any-length-there-is".to_owned()),
            size: Some(300 << 20),
            bytes: 70 << 20,
            ..status()
        };
        let text = render(Look { blocks: false, ..BLOCKS }, &status, width);
        let bar = text.split(['[', ']']).nth(1).unwrap_or_default();
        assert!(bar.len() >= 20 && text.contains(" 23%") && text.contains(" ETA "), "{width}: {text}");
    }
}

#[test]
fn state_and_bytes_stay_on_a_terminal_of_40_columns() {
    for (size, ending) in
        [(None, None), (Some(2 << 30), None), (None, Some(Ending::Interrupted)), (Some(2 << 30), Some(Ending::Failed))]
    {
        let name = Some("backup-of-the-database-server".to_owned());
        let text = render(BLOCKS, &Status { name, size, ending, done: ending.is_some(), ..status() }, 40);
        let state = ending.map_or("limited".to_owned(), |ending| ending.to_string());
        assert!(text.contains("1.23 GiB") && text.ends_with(&state), "{text}");
    }
}

#[test]
fn a_long_name_is_shortened_in_the_middle() {
    let named = |name: &str, look, width| {
        let text = render(look, &Status { name: Some(name.to_owned()), ..status() }, width);
        text.split_once(": ").map(|(name, _)| name.to_owned())
    };
    let ascii = Look { blocks: false, ..BLOCKS };
    for (name, look, width, shown) in [
        ("backup-of-the-database", BLOCKS, 80, "backup…tabase"),
        ("backup-of-the-database", ascii, 80, "backup..abase"),
        ("backup-of-the-database", BLOCKS, usize::MAX, "backup-of-the-database"),
        ("日本語のとても長い名前です", BLOCKS, 80, "日本語…前です"),
        ("a\x1b[2J\u{202e}b", BLOCKS, 80, "a?[2J?b"),
    ] {
        assert_eq!(named(name, look, width).as_deref(), Some(shown), "{name} at {width}");
    }
}

#[test]
fn no_eta_counts_while_paused() {
    let paused = Status { size: Some(2 * status().bytes), state: State::Paused, ..status() };
    let text = render(BLOCKS, &paused, 80);
    assert!(text.contains("ETA  -:--") && text.ends_with("paused"), "{text}");
}

#[test]
fn the_time_of_day_of_the_end_is_shown_if_it_is_wanted_and_an_hour_away() {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
    let eta = |look, times: u64| {
        // 2026-11-25 12:00 UTC, a Wednesday.
        let left = 1000.0 * (times - 1) as f64;
        let size = Some(status().bytes * times);
        let status = Status { time: 1_795_608_000.0, time_left: Some(left), size, ..status() };
        let text = ProgressLine::in_zone(look, zone.clone()).render(&status, 200);
        text.split_once("ETA ").unwrap().1.split_once(" buffer").unwrap().0.to_owned()
    };
    let at = Look { eta_at: true, ..BLOCKS };
    assert_eq!(eta(at, 3), "33:20");
    assert_eq!(eta(at, 8), "Wed 15:56");
    assert_eq!(eta(at, 101), "Thu 17:46");
    assert_eq!(eta(at, 1001), "2026-12-07");
    assert_eq!(eta(BLOCKS, 8), "1:56:40");
}

#[test]
fn the_last_line_tells_of_the_whole_run() {
    let done = Status { size: Some(status().bytes), ..ended(Ending::Done) };
    let text = "1.23 of 1.23 GiB (avg 15.1 MiB/s) 100% ▕█████████████████████████████████▏ done";
    assert_eq!(render(BLOCKS, &done, 80), text);
    assert_eq!(render(BLOCKS, &done, 40), "1.23 GiB 100% ▕██████████████████▏ done");
}

#[test]
fn the_last_line_says_how_the_run_ended_each_in_its_colour() {
    let mut seen = Vec::new();
    for ending in [Ending::Done, Ending::Interrupted, Ending::Stopped, Ending::Failed] {
        let text = render(Look { colour: true, ..BLOCKS }, &ended(ending), 80);
        let (before, coloured) = text.split_once('\x1b').unwrap();
        let (colour, word) = coloured.split_once('m').unwrap();
        assert_eq!(word, format!("{ending}\x1b[0m"));
        assert_eq!(format!("{before}{ending}"), render(BLOCKS, &ended(ending), 80));
        assert!(!seen.contains(&colour.to_owned()), "{seen:?} {colour}");
        seen.push(colour.to_owned());
    }
}

#[test]
fn a_buffer_that_is_not_full_does_not_look_so() {
    for (buffered, blocks, ascii) in [
        (0, "▕     ▏", "[     ]"),
        (1, "▕▏    ▏", "[-    ]"),
        (500, "▕██▌  ▏", "[##-  ]"),
        (999, "▕████▉▏", "[####-]"),
        (1000, "▕█████▏", "[#####]"),
        (2000, "▕█████▏", "[#####]"),
    ] {
        let status = Status { buffered, buffer: 1000, ..status() };
        for (look, gauge) in [(BLOCKS, blocks), (Look { blocks: false, ..BLOCKS }, ascii)] {
            let text = render(look, &status, 90);
            assert!(text.contains(gauge), "{gauge} for {buffered} in {text}");
        }
    }
}

#[test]
fn only_the_state_is_coloured() {
    for state in
        [State::Flowing, State::ProducerSlow, State::ConsumerSlow, State::Limited, State::MachineBusy, State::Paused]
    {
        let status = Status { state, ..status() };
        let text = render(Look { colour: true, ..BLOCKS }, &status, 80);
        let (before, coloured) = text.split_once('\x1b').unwrap();
        assert_eq!(coloured.split_once('m').unwrap().1, format!("{state}\x1b[0m"));
        assert_eq!(format!("{before}{state}"), render(BLOCKS, &status, 80));
    }
}

#[test]
fn looks_as_the_environment_allows() {
    let look = |variables: &[(&str, &str)]| {
        Look::of(|name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()))
    };
    let xterm = ("TERM", "xterm");
    let all = Look { blocks: true, colour: true, redraws: true, eta_at: false };
    for (variables, expected) in [
        (&[xterm, ("LANG", "C.utf8")][..], all),
        (&[xterm, ("LANG", "C"), ("LC_CTYPE", "de_DE.UTF-8")], all),
        (&[xterm, ("LANG", "C.UTF-8"), ("NO_COLOR", "")], all),
        (&[xterm, ("LANG", "C.UTF-8"), ("NO_COLOR", "1")], Look { colour: false, ..all }),
        (&[xterm, ("LANG", "C.UTF-8"), ("LC_ALL", "C")], Look { blocks: false, ..all }),
        (&[xterm], Look { blocks: false, ..all }),
        (&[("TERM", "linux"), ("LANG", "C.UTF-8")], Look { blocks: false, ..all }),
        (&[("TERM", "dumb"), ("LANG", "C.UTF-8")], Look::default()),
        (&[("TERM", ""), ("LANG", "C.UTF-8")], Look::default()),
        (&[("LANG", "C.UTF-8")], Look::default()),
    ] {
        assert_eq!(look(variables), expected, "{variables:?}");
    }
}

/// Numbers of every magnitude.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..2000u64,
        any::<u64>(),
        (0..64u32).prop_map(|bits| 1 << bits),
        (0..64u32).prop_map(|bits| (1 << bits) - 1)
    ]
}

fn times() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..400.0, 0.0..1e7, any::<f64>()]
}

prop_compose! {
    fn statuses()(
        name in proptest::option::of(prop_oneof![".{0,30}", "[a-z]{1,8}"]),
        state in prop::sample::select(vec![State::Flowing, State::ProducerSlow, State::ConsumerSlow, State::Limited, State::MachineBusy, State::Paused]),
        (bytes, buffer, buffered) in (numbers(), numbers(), numbers()),
        (size, limit) in (proptest::option::of(numbers()), proptest::option::of(numbers())),
        (elapsed, rate, mean_rate) in (times(), times(), times()),
        ending in prop::sample::select(vec![None, Some(Ending::Done), Some(Ending::Interrupted), Some(Ending::Stopped), Some(Ending::Failed)]),
    ) -> Status {
        let done = ending.is_some();
        Status { name, state, bytes, buffer, buffered, size, limit, elapsed, rate, mean_rate, done, ending, ..status() }
    }
}

fn looks() -> impl Strategy<Value = Look> {
    any::<[bool; 4]>().prop_map(|[blocks, colour, redraws, eta_at]| Look { blocks, colour, redraws, eta_at })
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn is_never_wider_than_the_terminal(statuses in prop::collection::vec(statuses(), 1..4), look in looks()) {
        let mut line = ProgressLine::new(look);
        for width in 1..=250 {
            for status in &statuses {
                let text = plain(&line.render(status, width));
                prop_assert!(text.width() < width, "{} of {width}: {text:?}", text.width());
                prop_assert!(!text.contains(char::is_control), "{text:?}");
                prop_assert!(look.blocks || status.name.is_some() || text.is_ascii(), "{text:?}");
            }
        }
    }

}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn numbers_stay_in_their_places(one in statuses(), other in statuses(), width in 1..250usize) {
        let place = |status: &Status| {
            // What the user sees throughout a run that is shorter than ten hours.
            let status = Status { name: None, size: None, limit: None, elapsed: status.elapsed.abs() % 36e3, done: false, ending: None, ..status.clone() };
            let text = render(BLOCKS, &status, width);
            let text = text.strip_suffix(&status.state.to_string()).map(str::to_owned).unwrap_or(text);
            (text.width(), text.find("/s"), text.find("(avg"), text.find("buffer"))
        };
        prop_assert_eq!(place(&one), place(&other));
    }

    #[test]
    fn a_wider_terminal_shows_no_less(status in statuses(), width in 14..250usize) {
        // Neither cells of the bar nor the name, which may hold anything.
        let is_word = |word: &&str| !word.is_empty() && !word.contains(['#', '-', '[', ']']);
        // The remaining time comes from a clock: two lines may not agree on it.
        let status = Status { name: None, size: status.size.filter(|_| status.done), ..status };
        let words = |width| render(Look::default(), &status, width).split(' ').filter(is_word).count();
        prop_assert!(words(width) <= words(width + 1));
    }
}

/// The terminal and its other end.
fn terminal(columns: u16) -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    resize(&slave, columns);
    (master, slave)
}

fn resize(slave: &OwnedFd, columns: u16) {
    tcsetwinsize(slave, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// What comes next on the terminal. It may come in pieces.
fn assert_shown(master: &OwnedFd, expected: &str) {
    let mut bytes = Vec::new();
    while bytes.len() < expected.len() {
        let mut piece = vec![0; expected.len() - bytes.len()];
        let read = rustix::io::read(master, &mut piece).unwrap();
        bytes.extend_from_slice(&piece[..read]);
        assert!(expected.as_bytes().starts_with(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_line_of_its_own_is_redrawn_in_place() {
    let (master, slave) = terminal(40);
    let mut progress = Progress::on(slave.try_clone().unwrap(), BLOCKS).unwrap();
    progress.draw(&status());
    assert_shown(&master, "\r1.23 GiB 9.99 MiB/s limited\x1b[K\r");
    // What is there is not drawn again.
    progress.draw(&status());
    progress.draw(&Status { state: State::Paused, ..status() });
    assert_shown(&master, "\r1.23 GiB 9.99 MiB/s paused\x1b[K\r");
    resize(&slave, 30);
    progress.draw(&status());
    assert_shown(&master, "\r\x1b[J\r1.23 GiB limited\x1b[K\r");
    progress.above("pcproxy: a message\n");
    assert_shown(&master, "\r\x1b[Jpcproxy: a message\r\n\r1.23 GiB limited\x1b[K\r");
    progress.finish(&ended(Ending::Done));
    assert_shown(&master, "\r1.23 GiB done\x1b[K\r\n");
    progress.above("pcproxy: the end");
    assert_shown(&master, "pcproxy: the end\r\n");
}

#[test]
fn what_a_failed_run_showed_stays() {
    let (master, slave) = terminal(40);
    let mut progress = Progress::on(slave, BLOCKS).unwrap();
    progress.draw(&status());
    assert_shown(&master, "\r1.23 GiB 9.99 MiB/s limited\x1b[K\r");
    drop(progress);
    assert_shown(&master, "\r1.23 GiB 9.99 MiB/s limited\x1b[K\r\n");
}

#[test]
fn nobody_waits_for_a_terminal_that_takes_nothing() {
    let (master, slave) = terminal(200);
    let mut progress = Progress::on(slave.try_clone().unwrap(), BLOCKS).unwrap();
    for bytes in 0..2000 {
        progress.draw(&Status { bytes, ..status() });
        progress.above("a message");
    }
    progress.finish(&ended(Ending::Done));
    let flags = rustix::fs::fcntl_getfl(&slave).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "that would be others' matter, too");
    drop(master);
}

#[test]
fn nobody_waits_for_a_pipe_and_what_it_takes_are_whole_lines() {
    let (mut reader, writer) = pipe().unwrap();
    let mut progress = Progress::on(writer.into(), Look { colour: true, ..BLOCKS }).unwrap();
    for bytes in 0..2000 {
        progress.draw(&Status { bytes, ..status() });
    }
    drop(progress);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.ends_with(" limited\n"), "{text}");
    for (bytes, line) in text.lines().enumerate() {
        assert_eq!(line, render(PLAIN, &Status { bytes: bytes as u64, ..status() }, usize::MAX));
    }
}

#[test]
fn a_file_gets_line_below_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut progress = Progress::on(File::create(&path).unwrap().into(), BLOCKS).unwrap();
    progress.draw(&status());
    progress.above("a message");
    progress.finish(&ended(Ending::Done));
    let [line, last] = [status(), ended(Ending::Done)].map(|status| render(PLAIN, &status, usize::MAX));
    assert_eq!(fs::read_to_string(path).unwrap(), format!("{line}\na message\n{last}\n"));
}
