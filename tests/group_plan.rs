//! Limits of groups by the clock: timetables, limits for a while, quotas.

mod support;

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write, pipe};
use std::process::Stdio;

use jiff::{ToSpan, Zoned};
use rustix::process::Signal;
use serde_json::Value;
use support::{Kind, Running, Session, Side, assert_arrived, connection, payload, read_exactly, unread, until};

impl Session {
    /// Runs `pcproxy group`, which succeeds. Returns its answer.
    #[track_caller]
    fn group(&self, words: &[&str]) -> String {
        let (mut answer, into) = pipe().unwrap();
        let pcproxy = self.start(&[&["group"], words].concat(), Stdio::null(), into);
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        pcproxy.wait().succeeded(words.join(" "));
        text
    }

    /// The only group there is, as `group ls --json` shows it.
    #[track_caller]
    fn only(&self) -> Value {
        let groups: Value = serde_json::from_str(&self.group(&["ls", "--json"])).unwrap();
        assert_eq!(groups.as_array().map(Vec::len), Some(1), "{groups}");
        groups[0].clone()
    }

    fn limit(&self) -> Option<u64> {
        self.only()["limit"].as_u64()
    }

    fn member(&self, options: &[&str]) -> Member {
        let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let view = input.theirs.try_clone().unwrap().into();
        let pcproxy = self.start(options, input.theirs, output.theirs);
        Member { pcproxy, stdin: Some(input.ours), view, stdout: output.ours }
    }
}

/// A running member whose two ends the test has.
struct Member {
    pcproxy: Running,
    stdin: Option<File>,
    /// Our view of its stdin.
    view: File,
    stdout: File,
}

impl Member {
    fn feed(&self, data: &[u8]) {
        self.stdin.as_ref().unwrap().write_all(data).unwrap();
    }

    /// Takes what comes until it has come to a stop, and nothing more comes.
    fn take_until_held_back(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut quiet = 0;
        until("the member to be held back", || {
            let waiting = unread(&self.stdout);
            all.extend(read_exactly(&self.stdout, waiting));
            self.pcproxy.settle_until_due();
            quiet = if waiting == 0 { quiet + 1 } else { 0 };
            quiet > 20
        });
        all
    }
}

/// A time of day that is so many minutes from now, as a timetable has it.
fn time_of_day(minutes: i64) -> String {
    Zoned::now().checked_add(minutes.minutes()).unwrap().strftime("%H:%M").to_string()
}

#[test]
fn a_timetable_of_a_group_is_in_force_though_nobody_ran_at_its_times_and_its_members_follow() {
    let session = Session::new();
    let table = format!("{},1M {},off", time_of_day(-600), time_of_day(600));
    let said = session.group(&["set", "uplink", "--schedule", &table]);
    assert!(
        said.starts_with("uplink: limit 1 MiB/s, was none\nuplink: timetable '") && said.contains("no limit from"),
        "{said}"
    );
    let group = session.only();
    assert_eq!((group["limit"].as_u64(), group["schedule"].as_str()), (Some(1 << 20), Some(&*table)));
    assert_eq!(group["next"]["limit"], Value::Null);
    assert!(group["next"]["time"].as_str().unwrap().contains(&time_of_day(600)), "{group}");
    assert!(session.group(&["ls"]).contains("\nuplink: timetable '"));
    // A member follows it, and a limit of its own does not replace it.
    let member = session.member(&["--group", "uplink=9M"]);
    member.feed(b"x");
    read_exactly(&member.stdout, 1);
    assert_eq!(session.limit(), Some(1 << 20));
    // The timetable goes when a limit is set for good.
    assert_eq!(session.group(&["set", "uplink", "3M"]), "");
    assert_eq!((session.limit(), &session.only()["schedule"]), (Some(3 << 20), &Value::Null));
}

#[test]
fn a_limit_for_a_while_ends_by_itself_and_running_members_follow() {
    let session = Session::new();
    session.group(&["set", "uplink", "64M"]);
    let member = session.member(&["--group", "uplink"]);
    let said = session.group(&["set", "uplink", "1", "for", "700ms"]);
    assert!(said.starts_with("uplink: limit 1 B/s, was 64 MiB/s\nuplink: limit 1 B/s until "), "{said}");
    assert!(said.contains(", then limit 64 MiB/s\n"), "{said}");
    let data = payload(300_000);
    let feeder = {
        let (data, mut stdin) = (data.clone(), member.stdin.as_ref().unwrap().try_clone().unwrap());
        std::thread::spawn(move || stdin.write_all(&data).unwrap())
    };
    assert_eq!(session.only()["override"]["limit"].as_u64(), Some(1));
    assert_arrived(&read_exactly(&member.stdout, data.len()), &data, "once it has ended");
    feeder.join().unwrap();
    assert_eq!((session.limit(), &session.only()["override"]), (Some(64 << 20), &Value::Null));

    // It is ended early, and what was there before is a timetable.
    let table = format!("{},2M", time_of_day(-60));
    session.group(&["set", "uplink", "--schedule", &table]);
    session.group(&["set", "uplink", "-1M", "--until", &time_of_day(60)]);
    assert_eq!(session.limit(), Some(1 << 20));
    assert!(session.group(&["ls"]).contains(&format!("(timetable '{table}')")));
    assert_eq!(session.group(&["set", "uplink", "back"]).lines().next(), Some("uplink: limit 2 MiB/s, was 1 MiB/s"));
}

#[test]
fn a_limit_is_raised_by_a_part_or_an_amount() {
    let session = Session::new();
    session.group(&["set", "uplink", "10M"]);
    assert_eq!(session.group(&["set", "uplink", "+10%"]), "uplink: limit 11 MiB/s, was 10 MiB/s\n");
    assert_eq!(session.group(&["set", "uplink", "-1M"]), "uplink: limit 10 MiB/s, was 11 MiB/s\n");
    session.group(&["set", "uplink", "off"]);
    assert_eq!(session.group(&["ls"]), format!("no groups in {}\n", session.folder().display()));
}

#[test]
fn a_quota_lets_exactly_so_many_bytes_pass_and_more_once_it_is_raised() {
    for rate in [None, Some("32M")] {
        let session = Session::new();
        rate.iter().for_each(|rate| drop(session.group(&["set", "uplink", rate])));
        session.group(&["set", "uplink", "--quota", "100000/month"]);
        let member = session.member(&["--group", "uplink"]);
        let data = payload(400_000);
        let feeder = {
            let (data, mut stdin) = (data.clone(), member.stdin.as_ref().unwrap().try_clone().unwrap());
            std::thread::spawn(move || stdin.write_all(&data).unwrap())
        };
        let mut arrived = member.take_until_held_back();
        assert_eq!(arrived.len(), 100_000, "{rate:?}");
        let said = member.pcproxy.line();
        assert!(said.contains("group uplink: the quota of 97.66 KiB per month is used up; paused until "), "{said}");
        let group = session.only();
        let quota = &group["quota"];
        assert_eq!((&quota["bytes"], &quota["used"], &quota["left"]), (&100_000.into(), &100_000.into(), &0.into()));
        assert!(session.group(&["ls"]).contains("used up, now a pause; begins anew "));

        session.group(&["set", "uplink", "--quota", "250000/month"]);
        arrived.extend(read_exactly(&member.stdout, 150_000));
        arrived.extend(member.take_until_held_back());
        assert_eq!(arrived.len(), 250_000, "{rate:?}");
        session.group(&["set", "uplink", "--quota", "off"]);
        arrived.extend(read_exactly(&member.stdout, 150_000));
        assert_arrived(&arrived, &data, "without a quota");
        feeder.join().unwrap();
    }
}

#[test]
fn a_quota_counts_all_members_those_that_were_killed_too_and_is_kept_when_nobody_is_left() {
    let session = Session::new();
    session.group(&["set", "uplink", "--quota", "1M/month", "--then", "1"]);
    for len in [200_000, 300_000] {
        let member = session.member(&["--group", "uplink"]);
        let data = payload(len);
        let (mut stdin, fed) = (member.stdin.as_ref().unwrap().try_clone().unwrap(), data.clone());
        let feeder = std::thread::spawn(move || stdin.write_all(&fed).unwrap());
        assert_arrived(&read_exactly(&member.stdout, len), &data, "through a member");
        feeder.join().unwrap();
        drop(member.stdin);
        member.pcproxy.wait().succeeded("a member");
    }
    let used = || session.only()["quota"]["used"].as_u64().unwrap();
    assert_eq!(used(), 500_000);
    let member = session.member(&["--group", "uplink"]);
    member.feed(&[0; 10_000]);
    read_exactly(&member.stdout, 10_000);
    member.pcproxy.signal(Signal::KILL);
    member.pcproxy.wait().died_silently_by(Signal::KILL);
    // The next one finds out that it was killed. It may have used all that it was granted.
    let member = session.member(&["--group", "uplink"]);
    member.feed(&[0; 1000]);
    read_exactly(&member.stdout, 1000);
    assert!((510_000..=1_048_576).contains(&used()), "{}", used());
    assert_eq!(session.only()["limit"], Value::Null);
    let data = payload(700_000);
    let (mut stdin, fed) = (member.stdin.as_ref().unwrap().try_clone().unwrap(), data.clone());
    std::thread::spawn(move || stdin.write_all(&fed));
    member.take_until_held_back();
    assert!(member.pcproxy.line().contains("is used up; going on at 1 B/s until "));
    assert_eq!(session.limit(), Some(1));
    drop(member.stdin);
    drop(member.view);
    session.group(&["rm", "uplink"]);
}

#[test]
fn a_member_that_has_not_moved_a_byte_shows_the_limit_of_its_group() {
    let session = Session::new();
    session.group(&["set", "uplink", "5M"]);
    let member = session.member(&["--group", "uplink"]);
    member.pcproxy.settle();
    let limit = || {
        let (mut answer, into): (PipeReader, _) = pipe().unwrap();
        let pcproxy = session.start(&["ctl", "stats", "--json"], Stdio::null(), into);
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        pcproxy.wait().succeeded("ctl stats");
        serde_json::from_str::<Value>(&text).unwrap()["limit"].as_u64()
    };
    assert_eq!(limit(), Some(5 << 20));
}

#[test]
fn nothing_is_left_of_a_group_once_its_plan_is_lifted() {
    let session = Session::new();
    for words in [["set", "uplink", "--quota", "1G/day"], ["set", "uplink", "--schedule", "00:00,off"]] {
        session.group(&words);
        assert!(fs::read_dir(session.folder()).unwrap().count() > 0);
        session.group(&["rm", "uplink"]);
        assert_eq!(fs::read_dir(session.folder()).unwrap().count(), 0, "{words:?}");
    }
    session.group(&["set", "uplink", "--quota", "1G/day"]);
    session.group(&["set", "uplink", "--quota", "off"]);
    assert_eq!(fs::read_dir(session.folder()).unwrap().count(), 0);
}
