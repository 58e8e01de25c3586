//! Many pipes, one limit: what the members of a group do to each other, and what becomes of the
//! group whatever happens to them or to its file.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Signal, geteuid};
use serde::Deserialize;
use support::{
    End, KIB, Kind, Running, Session, Side, assert_arrived, connection, feed, input_pipe, payload, pcproxy,
    read_exactly, read_to_end, start_command, unread, until,
};

/// More than passes at a byte a second while a test runs.
const A_FEW: usize = 1000;

/// Where the file of a group has its two records.
const PLACES: [usize; 2] = [0, 256 * KIB];

/// What a place has before the budget: magic, checksum, sequence number, start of the machine, times, length.
const HEAD: usize = 8 + 4 + 8 + 16 + 5 * 8 + 4;

/// What `group ls --json` says of a group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    group: String,
    unit: String,
    limit: Option<f64>,
    rate: u64,
    share: Option<f64>,
    members: Vec<ListedMember>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedMember {
    pid: u32,
    name: Option<String>,
    rate: u64,
    share: f64,
    weight: u32,
    min_rate: u64,
}

impl Listed {
    #[track_caller]
    fn has(&self, expected_limit: impl Into<Option<u64>>, members: &[&Running]) {
        let mut pids: Vec<_> = self.members.iter().map(|member| member.pid).collect();
        let mut expected: Vec<_> = members.iter().map(|member| member.pid()).collect();
        pids.sort_unstable();
        expected.sort_unstable();
        let limit = self.limit.map(|limit| limit as u64);
        assert_eq!((limit, pids), (expected_limit.into(), expected), "{}", self.group);
    }
}

impl Session {
    fn file(&self, group: &str) -> PathBuf {
        self.folder().join(group.replace('/', "+") + ".group")
    }

    /// Starts `pcproxy group`.
    fn ask(&self, words: &[&str]) -> Asked {
        let (answer, into) = pipe().unwrap();
        Asked { pcproxy: self.start(&[&["group"], words].concat(), Stdio::null(), into), answer }
    }

    /// Runs `pcproxy group`, which succeeds. Returns its answer.
    #[track_caller]
    fn group(&self, words: &[&str]) -> String {
        let (answer, end) = self.ask(words).end();
        end.succeeded(words.join(" "));
        answer
    }

    #[track_caller]
    fn set(&self, group: &str, rate: &str) {
        assert_eq!(self.group(&["set", group, rate]), "");
    }

    #[track_caller]
    fn ls(&self) -> Vec<Listed> {
        serde_json::from_str(&self.group(&["ls", "--json"])).unwrap()
    }

    /// The only group there is.
    #[track_caller]
    fn only(&self) -> Listed {
        let mut groups = self.ls();
        assert_eq!(groups.len(), 1, "{groups:?}");
        groups.remove(0)
    }

    /// The group of this name.
    #[track_caller]
    fn only_named(&self, name: &str) -> Listed {
        self.ls().into_iter().find(|group| group.group == name).unwrap()
    }

    /// Starts a transfer with 1000 bytes on its stdin.
    fn attempt(&self, options: &[&str]) -> Attempt {
        let (theirs, mut ours, stdin) = input_pipe();
        ours.write_all(&[b'x'; 1000]).unwrap();
        let (answer, into) = pipe().unwrap();
        Attempt { asked: Asked { pcproxy: self.start(options, theirs, into), answer }, stdin }
    }

    /// A member that has joined, and has nothing to do.
    fn join(&self, options: &[&str]) -> Member {
        let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let pcproxy = self.start(options, input.theirs, output.theirs);
        pcproxy.settle();
        Member { pcproxy, stdin: input.ours, stdout: output.ours }
    }

    /// A member that is fed `data` from now on, and whose consumer takes all that comes.
    fn carry(&self, options: &[&str], data: Vec<u8>) -> Carrier {
        let (input, output) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Pipe, Side::Stdout));
        let stdin = input.theirs.try_clone().unwrap().into();
        let pcproxy = self.start(options, input.theirs, output.theirs);
        let feeder = feed(Kind::Pipe, input.ours, data.clone());
        let count = Arc::new(AtomicUsize::new(0));
        let consumer = {
            let (mut stdout, count) = (output.ours, count.clone());
            thread::spawn(move || {
                let (mut all, mut piece) = (Vec::new(), vec![0; 64 * KIB]);
                loop {
                    let read = stdout.read(&mut piece).unwrap();
                    all.extend_from_slice(&piece[..read]);
                    count.store(all.len(), Ordering::Relaxed);
                    if read == 0 {
                        return all;
                    }
                }
            })
        };
        Carrier { pcproxy, data, stdin, count, feeder, consumer }
    }
}

/// A `pcproxy` that answers on stdout.
struct Asked {
    pcproxy: Running,
    answer: PipeReader,
}

impl Asked {
    fn end(self) -> (String, End) {
        (String::from_utf8(read_to_end(self.answer)).unwrap(), self.pcproxy.wait())
    }

    /// It says nothing but one line on stderr, with all of `words` in it.
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) {
        let (answer, end) = self.end();
        end.failed(code, words);
        assert!(end.stderr.starts_with("pcproxy: "), "{end:?}");
        assert_eq!(answer, "", "{words:?}");
    }
}

/// A transfer that may be refused.
struct Attempt {
    asked: Asked,
    stdin: PipeReader,
}

impl Attempt {
    /// It is refused in one line with all of `words` in it, before it touches its stdin.
    #[track_caller]
    fn refused(self, words: &[&str]) {
        self.asked.fails(2, words);
        assert_eq!(unread(self.stdin), 1000, "{words:?}");
    }
}

/// A running member whose two ends the test has.
struct Member {
    pcproxy: Running,
    stdin: File,
    stdout: File,
}

impl Member {
    /// Sends `len` bytes through it. It has nothing more to do then, not with the group either.
    #[track_caller]
    fn passes(&self, len: usize) {
        let data = payload(len);
        (&self.stdin).write_all(&data).unwrap();
        assert_arrived(&read_exactly(&self.stdout, len), &data, "through a member");
        self.pcproxy.settle();
    }

    /// Ends its input.
    #[track_caller]
    fn leave(self) {
        drop(self.stdin);
        assert_eq!(read_to_end(self.stdout), b"");
        self.pcproxy.wait().succeeded("a member that leaves");
    }

    /// Returns when it is gone for good.
    #[track_caller]
    fn kill(self) {
        self.pcproxy.signal(Signal::KILL);
        self.pcproxy.wait().died_silently_by(Signal::KILL);
    }
}

/// A running member with a producer and a consumer.
struct Carrier {
    pcproxy: Running,
    data: Vec<u8>,
    /// Our view of its stdin.
    stdin: File,
    /// How many bytes have arrived.
    count: Arc<AtomicUsize>,
    feeder: JoinHandle<Option<File>>,
    consumer: JoinHandle<Vec<u8>>,
}

impl Carrier {
    fn arrived(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// It has no room for more, and a limit of a byte a second lets none of it go.
    #[track_caller]
    fn is_held_back(&self) {
        until("the buffer to be full", || {
            self.pcproxy.settle_until_due();
            unread(&self.stdin) > 0
        });
        assert!(self.arrived() < A_FEW, "{} bytes passed", self.arrived());
    }

    /// Every byte arrives, and then it ends without a word.
    #[track_caller]
    fn delivers(self, what: impl std::fmt::Display) {
        let arrived = self.consumer.join().unwrap();
        assert_arrived(&arrived, &self.data, &what);
        self.feeder.join().unwrap();
        self.pcproxy.wait().succeeded(what);
    }
}

/// Writes all of the file anew while no member has it.
fn overwrite(file: &Path, content: &[u8]) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.lock().unwrap();
    file.set_len(content.len() as u64).unwrap();
    file.write_all_at(content, 0).unwrap();
}

/// Whether anyone holds the lock of the file.
fn is_locked(file: &Path) -> bool {
    File::open(file).unwrap().try_lock().is_err()
}

/// Which record this place of the file has.
fn sequence(content: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(content[place + 12..place + 20].try_into().unwrap())
}

/// Where the record in this place ends.
fn end_of(content: &[u8], place: usize) -> usize {
    let length = u32::from_le_bytes(content[place + HEAD - 4..place + HEAD].try_into().unwrap());
    place + HEAD + length as usize
}

/// The place that has the latest record, and the one before it.
fn latest_first(content: &[u8]) -> [usize; 2] {
    let mut places = PLACES;
    places.sort_by_key(|place| std::cmp::Reverse(sequence(content, *place)));
    places
}

#[test]
fn every_byte_arrives_through_members_that_share_a_limit() {
    let session = Session::new();
    session.set("uplink", "16M");
    let carriers: Vec<_> = [&["--buffer", "1"][..], &[], &["--rate", "32M"], &["--weight", "7", "--min-rate", "1M"]]
        .into_iter()
        .zip([20_000, 700_000, 800_001, 900_003])
        .map(|(options, len)| session.carry(&[&["--group", "uplink"], options].concat(), payload(len)))
        .collect();
    for carrier in carriers {
        carrier.delivers("through a group");
    }
    session.only().has(16 << 20, &[]);
}

#[test]
fn a_member_belongs_to_each_group_on_its_path_until_it_leaves() {
    let session = Session::new();
    session.set("site", "5M");
    let db = session.join(&["--group", "site/backup/db", "--weight", "300", "--min-rate", "1M", "--name", "dump"]);
    db.passes(1000);
    let other = session.join(&["--group", "site/backup=2M"]);
    let listed = session.ls();
    let names: Vec<_> = listed.iter().map(|group| group.group.as_str()).collect();
    assert_eq!(names, ["site", "site/backup", "site/backup/db"]);
    // Each member is in the innermost of its groups.
    listed[0].has(5 << 20, &[]);
    listed[1].has(2 << 20, &[&other.pcproxy]);
    listed[2].has(None, &[&db.pcproxy]);
    let member = &listed[2].members[0];
    assert_eq!((member.name.as_deref(), member.weight, member.min_rate), (Some("dump"), 300, 1 << 20));
    // Nothing moves any more.
    assert_eq!((listed[0].rate, listed[0].share, member.rate, member.share), (0, None, 0, 0.0), "{listed:?}");
    assert_eq!((listed[1].share, listed[2].share), (Some(0.0), Some(0.0)), "{listed:?}");
    let table = session.group(&["ls"]);
    for word in
        ["GROUP", "\n  backup ", "\n    db ", "dump", "5 MiB/s", "1 MiB/s", "300", "100", &db.pcproxy.pid().to_string()]
    {
        assert!(table.contains(word), "{word} is missing in {table}");
    }
    db.leave();
    other.leave();
    session.only().has(5 << 20, &[]);
    assert!(!session.file("site/backup").exists() && !session.file("site/backup/db").exists());
}

#[test]
fn a_limit_anywhere_on_the_path_holds() {
    let session = Session::new();
    for level in ["site", "site/backup", "site/backup/db"] {
        session.set(level, "1");
        let carrier = session.carry(&["--group", "site/backup/db"], payload(300_000));
        carrier.is_held_back();
        session.set(level, "off");
        carrier.delivers(level);
    }
    assert!(session.ls().is_empty());
}

#[test]
fn limits_on_every_level_of_the_path_are_kept_together() {
    let session = Session::new();
    for (level, rate) in [("site", "24M"), ("site/backup", "20M"), ("site/backup/db", "16M")] {
        session.set(level, rate);
    }
    let names = ["site", "site/backup", "site/backup/db", "site/backup/db"];
    let carriers = names.map(|name| session.carry(&["--group", name], payload(700_000)));
    names.iter().zip(carriers).for_each(|(name, carrier)| carrier.delivers(name));
}

#[test]
fn what_is_lifted_or_raised_reaches_members_that_wait() {
    let session = Session::new();
    for words in [&["set", "uplink", "off"][..], &["rm", "uplink"], &["set", "uplink", "64M", "--burst", "20ms"]] {
        let carriers = [(); 2].map(|()| session.carry(&["--group", "uplink=1"], payload(500_000)));
        carriers.iter().for_each(Carrier::is_held_back);
        session.group(words);
        carriers.into_iter().for_each(|carrier| carrier.delivers(words.join(" ")));
    }
}

#[test]
fn a_limit_reaches_a_member_that_runs_without_one() {
    let session = Session::new();
    let (theirs, ours, stdin) = input_pipe();
    let (mut stdout, into) = pipe().unwrap();
    let pcproxy = session.start(&["--group", "uplink"], theirs, into);
    (&ours).write_all(b"it has joined").unwrap();
    assert_eq!(read_exactly(&stdout, 13), b"it has joined");
    session.set("uplink", "1");

    let consumer = thread::spawn(move || {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).unwrap();
        all
    });
    // More than it can have been granted for the short time until it visits the group again.
    let data = payload(8 << 20);
    let accepted = pcproxy.feed_until_paused(&ours, &data, 10_000);
    until("the limit to hold it back", || {
        pcproxy.settle_until_due();
        unread(&stdin) > 0
    });
    session.set("uplink", "off");
    drop(ours);
    assert_arrived(&consumer.join().unwrap(), &data[..accepted], "once the limit is off again");
    pcproxy.wait().succeeded("without a limit");
}

#[test]
fn the_limit_of_a_member_is_for_a_group_that_has_none_and_goes_with_the_last_member() {
    let session = Session::new();
    let (one, other) = (session.join(&["--group", "uplink=1M"]), session.join(&["--group", "uplink=2M"]));
    one.leave();
    session.only().has(1 << 20, &[&other.pcproxy]);
    other.leave();
    assert!(!session.file("uplink").exists());
    let next = session.join(&["--group", "uplink=3M"]);
    session.only().has(3 << 20, &[&next.pcproxy]);
}

#[test]
fn a_limit_that_was_set_stays_until_it_is_lifted() {
    let session = Session::new();
    for words in [["set", "uplink", "off"].as_slice(), &["rm", "uplink"]] {
        session.set("uplink", "4M");
        session.join(&["--group", "uplink=1M"]).leave();
        session.only().has(4 << 20, &[]);
        // What a member brought along stays as well, once it was set.
        session.set("uplink", "off");
        let member = session.join(&["--group", "uplink=1M"]);
        session.set("uplink", "5M");
        member.leave();
        session.only().has(5 << 20, &[]);
        session.group(words);
        assert!(!session.file("uplink").exists());
    }
    assert_eq!(session.group(&["ls"]), format!("no groups in {}\n", session.folder().display()));
}

#[test]
fn members_leave_however_they_end() {
    let session = Session::new();
    let options = ["--group", "site/uplink=1M"];
    let gone = || !session.file("site").exists() && !session.file("site/uplink").exists();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let member = session.join(&options);
        assert!(!gone());
        member.pcproxy.signal(signal);
        member.pcproxy.wait().died_silently_by(signal);
        assert!(gone(), "{signal:?}");
    }
    let Member { pcproxy, stdin: _stdin, stdout } = session.join(&options);
    drop(stdout);
    pcproxy.wait().died_silently_by(Signal::PIPE);
    assert!(gone(), "its consumer left");

    session.start(&options, File::open("/").unwrap(), Stdio::null()).wait().failed(1, &["stdin", "Is a directory"]);
    assert!(gone(), "its input was none");

    let carrier = session.carry(&["--group", "site/uplink=1"], payload(300_000));
    carrier.is_held_back();
    carrier.pcproxy.signal(Signal::TERM);
    carrier.pcproxy.settle_until_due();
    carrier.pcproxy.signal(Signal::INT);
    let end = carrier.pcproxy.wait();
    end.died_by(Signal::INT);
    assert!(gone(), "interrupted twice");
}

#[test]
fn the_heavier_of_two_members_gets_the_larger_share() {
    let session = Session::new();
    session.set("uplink", "1");
    let light = session.carry(&["--group", "uplink", "--weight", "1"], payload(1 << 20));
    let heavy = session.carry(&["--group", "uplink", "--weight", "1000"], payload(2 << 20));
    // Both wait before either may go on.
    light.is_held_back();
    heavy.is_held_back();
    session.set("uplink", "4M");
    heavy.delivers("the heavier one");
    // By halves it would be done by now.
    assert!(light.arrived() < light.data.len(), "{} bytes of the lighter one arrived", light.arrived());
    session.set("uplink", "off");
    light.delivers("the lighter one");
}

#[test]
fn what_is_guaranteed_comes_before_any_weight() {
    let session = Session::new();
    session.set("uplink", "4M");
    let heavy = session.carry(&["--group", "uplink", "--weight", "1000"], payload(8 << 20));
    session
        .carry(&["--group", "uplink", "--weight", "1", "--min-rate", "3800K"], payload(1 << 20))
        .delivers("what is guaranteed");
    // By weights alone it would be done by now.
    assert!(heavy.arrived() < heavy.data.len(), "{} bytes of the heavy one arrived", heavy.arrived());
    session.set("uplink", "off");
    heavy.delivers("the heavy one");
}

#[test]
fn more_than_there_is_cannot_be_guaranteed() {
    let session = Session::new();
    session.set("site/uplink", "1000kB");
    let member = session.join(&["--group", "site/uplink", "--min-rate", "600kB"]);
    for rate in ["500kB", "2M"] {
        let options = ["--group", "site/uplink/db", "--min-rate", rate];
        session.attempt(&options).refused(&[
            "cannot guarantee ",
            "group site/uplink has 390.62 KiB/s left",
            "of 976.56 KiB/s",
        ]);
    }
    // Where it was refused, it did not join the groups above either.
    assert!(!session.file("site/uplink/db").exists());
    let listed = session.ls();
    assert_eq!(listed.len(), 2, "{listed:?}");
    listed[1].has(listed[1].limit.map(|limit| limit as u64), &[&member.pcproxy]);
    session.join(&["--group", "site/uplink", "--min-rate", "400kB"]).leave();

    session.ask(&["set", "site/uplink", "500kB"]).fails(1, &["cannot limit group site/uplink to ", "guaranteed"]);
    session.ask(&["set", "site", "500kB"]).fails(1, &["cannot limit group site to ", "guaranteed"]);
    session.set("site", "600kB");
    session.set("site/uplink", "600kB");
    member.kill();
    session.set("site/uplink", "500kB");
    session.join(&["--group", "site/uplink", "--min-rate", "500kB"]).leave();
}

#[test]
fn what_was_guaranteed_to_one_who_was_killed_can_be_guaranteed_again() {
    let session = Session::new();
    session.set("uplink", "1M");
    let options = ["--group", "uplink", "--min-rate", "1M"];
    for _ in 0..5 {
        let member = session.join(&options);
        member.passes(10_000);
        member.kill();
    }
    session.join(&options).leave();
}

#[test]
fn one_who_is_refused_brings_no_limit_along() {
    let session = Session::new();
    let member = session.join(&["--group", "uplink"]);
    session
        .attempt(&["--group", "uplink=1M", "--min-rate", "2M"])
        .refused(&["cannot guarantee 2 MiB/s: group uplink has 1 MiB/s left to guarantee, of 1 MiB/s"]);
    session.only().has(None, &[&member.pcproxy]);
}

#[test]
fn a_group_that_refused_its_first_member_leaves_nothing_behind() {
    let session = Session::new();
    session
        .attempt(&["--group", "site/uplink=1M", "--min-rate", "2M"])
        .refused(&["cannot guarantee 2 MiB/s: group site/uplink has"]);
    assert!(!session.file("site").exists() && !session.file("site/uplink").exists());
}

#[test]
fn members_that_are_killed_at_any_moment_leave_the_group_in_order() {
    let session = Session::new();
    session.set("uplink", "16M");
    let options = ["--group", "uplink"];
    let (mut stdout, into) = pipe().unwrap();
    let steady = session.start(&options, File::open("/dev/zero").unwrap(), into);
    let consumer = thread::spawn(move || {
        let mut piece = vec![0; 64 * KIB];
        while stdout.read(&mut piece).unwrap() > 0 {}
    });
    let witness = session.join(&options);
    for round in 0..120 {
        let (stdout, into) = pipe().unwrap();
        let victim = session.start(&options, File::open("/dev/zero").unwrap(), into);
        // Some are still about to join, or about to leave.
        match round % 4 {
            0 => until("a victim", || round % 8 == 0 || session.file("uplink").exists()),
            1 => drop(stdout),
            _ => drop(read_exactly(&stdout, 1 + 997 * round % 50_000)),
        }
        victim.signal(Signal::KILL);
        if round % 10 == 0 {
            witness.passes(5000);
        }
    }
    session.only().has(16 << 20, &[&steady, &witness.pcproxy]);
    until("the lock to be free", || !is_locked(&session.file("uplink")));
    session.join(&options).leave();
    witness.leave();
    steady.signal(Signal::TERM);
    steady.wait().died_silently_by(Signal::TERM);
    consumer.join().unwrap();
    session.only().has(16 << 20, &[]);
}

#[test]
fn what_is_not_the_users_own_file_is_refused() {
    type Put = fn(&Path);
    let cases: [(Put, &str); 6] = [
        (|file| symlink(file.with_file_name("elsewhere"), file).unwrap(), "is a link"),
        (|file| symlink("/dev/null", file).unwrap(), "is a link"),
        (|file| mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(), "not a regular file"),
        (|file| fs::create_dir(file).unwrap(), "directory"),
        (|file| fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap(), "open to other users"),
        (|file| fs::set_permissions(file, Permissions::from_mode(0o602)).unwrap(), "open to other users"),
    ];
    for (put, word) in cases {
        let session = Session::new();
        let file = session.file("uplink");
        session.set("uplink", "1M");
        fs::copy(&file, file.with_file_name("elsewhere")).unwrap();
        if !word.starts_with("open") {
            fs::remove_file(&file).unwrap();
        }
        put(&file);
        let words = ["uplink.group", word];
        session.attempt(&["--group", "uplink"]).refused(&words);
        session.attempt(&["--group", "uplink/db"]).refused(&words);
        session.ask(&["set", "uplink", "2M"]).fails(1, &words);
        session.ask(&["ls"]).fails(1, &words);
        session.ask(&["rm", "uplink"]).fails(1, &words);
        // Others are not affected.
        session.set("downlink", "1M");
        let elsewhere = fs::read(file.with_file_name("elsewhere")).unwrap();
        assert_eq!(sequence(&elsewhere, PLACES[1]), 1, "{word}: it was followed");
    }
}

#[test]
fn a_link_that_leads_nowhere_makes_no_file() {
    let session = Session::new();
    session.set("uplink", "1M");
    let elsewhere = session.runtime.path().join("elsewhere");
    fs::remove_file(session.file("uplink")).unwrap();
    symlink(&elsewhere, session.file("uplink")).unwrap();
    session.attempt(&["--group", "uplink"]).refused(&["uplink.group", "is a link"]);
    assert!(!elsewhere.exists());
}

#[test]
fn what_is_not_the_users_own_folder_is_refused() {
    type Put = fn(&Path);
    let cases: [(Put, &str); 4] = [
        (|folder| fs::create_dir(folder).unwrap(), "open to other users"),
        (|folder| fs::write(folder, "").unwrap(), "Not a directory"),
        (|folder| symlink(".", folder).unwrap(), "Not a directory"),
        (|folder| symlink("nowhere", folder).unwrap(), "Not a directory"),
    ];
    for (put, word) in cases {
        let session = Session::new();
        put(&session.folder());
        if session.folder().is_dir() {
            fs::set_permissions(session.folder(), Permissions::from_mode(0o775)).unwrap();
        }
        let words = [session.folder().to_str().unwrap().to_owned() + ":", word.to_owned()];
        let words = words.each_ref().map(String::as_str);
        session.attempt(&["--group", "uplink"]).refused(&words);
        for asked in [&["set", "uplink", "1M"][..], &["ls"], &["rm", "uplink"]] {
            session.ask(asked).fails(1, &words);
        }
    }
}

#[test]
fn a_damaged_file_is_refused_until_it_is_removed() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 9] = [
        ("random bytes", |content| *content = payload(content.len())),
        ("a few random bytes", |content| *content = payload(100)),
        ("one byte", |content| content.truncate(1)),
        ("cut off in the head", |content| content.truncate(HEAD - 3)),
        ("cut off in the record", |content| content.truncate(HEAD + 5)),
        ("zeros", |content| content.fill(0)),
        ("another version", |content| PLACES.into_iter().for_each(|place| content[place + 7] += 1)),
        ("a bit in each record", |content| PLACES.into_iter().for_each(|place| content[place + HEAD + 5] ^= 1)),
        ("a bit in each checksum", |content| {
            for place in PLACES {
                let end = end_of(content, place);
                content[end - 1] ^= 0x80;
            }
        }),
    ];
    let session = Session::new();
    for (what, damage) in cases {
        session.set("uplink", "1000");
        session.set("uplink", "2000");
        let mut content = fs::read(session.file("uplink")).unwrap();
        damage(&mut content);
        overwrite(&session.file("uplink"), &content);
        let words = ["uplink.group", "is damaged", "'pcproxy group rm uplink'"];
        session.attempt(&["--group", "uplink=3000"]).refused(&words);
        session.attempt(&["--group", "uplink/db"]).refused(&words);
        session.ask(&["set", "uplink", "3000"]).fails(1, &words);
        session.ask(&["ls"]).fails(1, &words);
        assert_eq!(fs::read(session.file("uplink")).unwrap(), content, "{what}: it was touched");
        session.group(&["rm", "uplink"]);
        assert!(!session.file("uplink").exists(), "{what}");
        session.join(&["--group", "uplink"]).leave();
    }
}

#[test]
fn a_torn_record_is_as_good_as_not_written() {
    let session = Session::new();
    let file = session.file("uplink");
    for rates in [["1000", "2000"].as_slice(), &["1000", "2000", "3000"]] {
        rates.iter().for_each(|rate| session.set("uplink", rate));
        let content = fs::read(&file).unwrap();
        let [latest, earlier] = latest_first(&content);
        let end = end_of(&content, latest);
        let before: u64 = rates[rates.len() - 2].parse().unwrap();
        for from in [latest, latest + 12, latest + HEAD, (latest + HEAD).midpoint(end), end - 1] {
            let mut torn = content.clone();
            torn[from..end].iter_mut().for_each(|byte| *byte = !*byte);
            overwrite(&file, &torn);
            session.only().has(before, &[]);
            overwrite(&file, &torn);
            session.set("uplink", "4000");
            session.only().has(4000, &[]);
        }
        // Nor does it matter that the file ends in it.
        if latest > earlier {
            overwrite(&file, &content[..end - 7]);
            session.only().has(before, &[]);
        }
        session.group(&["rm", "uplink"]);
    }
}

#[test]
fn a_bit_that_flips_in_one_record_leaves_the_other() {
    let session = Session::new();
    let file = session.file("uplink");
    session.set("uplink", "1000");
    session.set("uplink", "2000");
    let content = fs::read(&file).unwrap();
    for (place, limits) in latest_first(&content).into_iter().zip([&[1000, 2000][..], &[2000]]) {
        for bit in (8 * place..8 * end_of(&content, place)).step_by(29) {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            overwrite(&file, &flipped);
            let limit = session.only().limit.unwrap() as u64;
            assert!(limits.contains(&limit), "bit {bit}: {limit}");
        }
    }
}

/// Changes the head of each record: all that tells of the start of the machine, or of another
/// time namespace, is there.
fn rewrite(file: &Path, change: impl Fn(&mut [u8])) {
    let mut content = fs::read(file).unwrap();
    for place in PLACES {
        let end = end_of(&content, place);
        change(&mut content[place + 12..place + HEAD]);
        let checksum = crc32fast::hash(&content[place + 12..end]);
        content[place + 8..place + 12].copy_from_slice(&checksum.to_le_bytes());
    }
    overwrite(file, &content);
}

#[test]
fn after_a_new_start_of_the_machine_nobody_is_a_member_and_the_limit_that_was_set_holds() {
    let session = Session::new();
    session.set("uplink", "1M");
    let member = session.join(&["--group", "uplink"]);
    member.passes(1000);
    member.kill();
    rewrite(&session.file("uplink"), |head| head[8] ^= 1);
    session.only().has(1 << 20, &[]);
    let member = session.join(&["--group", "uplink"]);
    member.passes(1000);
    session.only().has(1 << 20, &[&member.pcproxy]);
    member.leave();
}

#[test]
fn a_record_from_another_time_namespace_holds_nobody_up() {
    let session = Session::new();
    session.set("uplink", "16M");
    let member = session.join(&["--group", "uplink"]);
    member.passes(100_000);
    // Written there, where it is 5000 s later: the same instant by the wall clock.
    rewrite(&session.file("uplink"), |head| {
        head[24] ^= 1;
        let there = u64::from_le_bytes(head[32..40].try_into().unwrap()) + 5_000_000_000_000;
        head[32..40].copy_from_slice(&there.to_le_bytes());
    });
    session.only().has(16 << 20, &[&member.pcproxy]);
    for _ in 0..10 {
        member.passes(50_000);
    }
    member.leave();
}

/// Removes something while two members wait for tokens: they go on as if nothing had happened.
#[track_caller]
fn survives_removal(what: impl Fn(&Session)) {
    let session = Session::new();
    let file = session.file("uplink");
    let carriers = [(); 2].map(|()| session.carry(&["--group", "uplink=1"], payload(500_000)));
    carriers.iter().for_each(Carrier::is_held_back);
    what(&session);
    until("the file to come back", || file.exists());
    until("all members to come back", || {
        let groups = session.ls();
        groups.iter().any(|group| group.limit == Some(1.0) && group.members.len() == 2)
    });
    let groups = session.only();
    groups.has(1, &carriers.each_ref().map(|carrier| &carrier.pcproxy));
    carriers.iter().for_each(Carrier::is_held_back);
    session.set("uplink", "off");
    carriers.into_iter().for_each(|carrier| carrier.delivers("after the removal"));
    assert!(!file.exists(), "the last member removes what nobody needs");
}

#[test]
fn members_survive_the_removal_of_the_file() {
    survives_removal(|session| fs::remove_file(session.file("uplink")).unwrap());
}

/// Idle members do not notice, and a newcomer that knows no limit is the first to look.
#[test]
fn the_limit_stays_when_the_file_is_removed_and_a_newcomer_is_first() {
    for (words, lasting) in [(&["--group", "uplink=1"][..], false), (&["--group", "uplink"], true)] {
        let session = Session::new();
        if lasting {
            session.set("uplink", "1");
        }
        let idle = [(); 3].map(|()| session.join(words));
        for comes_first in ["newcomer", "listing", "setting"] {
            // A listing does not put it back.
            let _ = fs::remove_file(session.file("uplink"));
            match comes_first {
                "newcomer" => {
                    let carrier = session.carry(&["--group", "uplink"], payload(500_000));
                    carrier.is_held_back();
                    carrier.pcproxy.signal(Signal::KILL);
                    carrier.pcproxy.wait().died_silently_by(Signal::KILL);
                }
                "listing" => session.only().has(1, &idle.each_ref().map(|member| &member.pcproxy)),
                _ => {
                    session.set("uplink", "16M");
                    session.only().has(16 << 20, &idle.each_ref().map(|member| &member.pcproxy));
                }
            }
        }
        session.set("uplink", "off");
        idle.into_iter().for_each(Member::leave);
        let mut left = fs::read_dir(session.folder()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.find(|name| name.to_str().unwrap().contains(".group")), None);
    }
}

#[test]
fn members_survive_the_removal_of_the_folder() {
    survives_removal(|session| {
        // A member may be about to make the file anew.
        until("the folder to be removed", || fs::remove_dir_all(session.folder()).is_ok());
    });
}

#[test]
fn members_wait_while_the_file_is_damaged_and_say_so_once() {
    let session = Session::new();
    let carriers = [(); 2].map(|()| session.carry(&["--group", "uplink=1"], payload(500_000)));
    carriers.iter().for_each(Carrier::is_held_back);
    overwrite(&session.file("uplink"), &payload(270 * KIB));
    for carrier in &carriers {
        let line = carrier.pcproxy.line();
        for word in ["pcproxy: ", "uplink.group", "is damaged", "'pcproxy group rm uplink'", "waiting"] {
            assert!(line.contains(word), "{word} is missing in {line}");
        }
    }
    session.ask(&["ls"]).fails(1, &["is damaged"]);
    carriers.iter().for_each(Carrier::is_held_back);
    // The group begins anew without a limit, so that both may be done in no time.
    session.group(&["rm", "uplink"]);
    carriers.into_iter().for_each(|carrier| carrier.delivers("after it was mended"));
}

#[test]
fn a_member_goes_on_by_itself_when_a_damaged_file_is_removed() {
    let session = Session::new();
    let member = session.join(&["--group", "uplink=16M"]);
    member.passes(1000);
    overwrite(&session.file("uplink"), &payload(270 * KIB));
    let data = payload(1 << 20);
    let feeder = feed(Kind::Pipe, member.stdin.try_clone().unwrap(), data.clone());
    assert!(member.pcproxy.line().contains("is damaged"));
    session.group(&["rm", "uplink"]);
    assert_arrived(&read_exactly(&member.stdout, data.len()), &data, "after it was mended");
    feeder.join().unwrap();
    member.leave();
}

#[test]
fn a_member_that_is_stopped_keeps_nobody_from_moving() {
    let session = Session::new();
    session.set("uplink", "1");
    let stopped = session.carry(&["--group", "uplink", "--min-rate", "1"], payload(500_000));
    stopped.is_held_back();
    until("a stop while it does not have the file", || {
        stopped.pcproxy.signal(Signal::STOP);
        stopped.pcproxy.wait_stopped();
        let locked = is_locked(&session.file("uplink"));
        if locked {
            stopped.pcproxy.signal(Signal::CONT);
        }
        !locked
    });
    session.set("uplink", "8M");
    for len in [300_000, 900_000] {
        session.carry(&["--group", "uplink"], payload(len)).delivers("past the one that is stopped");
    }
    session.only().has(8 << 20, &[&stopped.pcproxy]);
    assert!(stopped.arrived() < A_FEW);
    stopped.pcproxy.signal(Signal::CONT);
    stopped.delivers("after the stop");
}

#[test]
fn nobody_waits_for_ever_for_a_file_that_is_locked() {
    let session = Session::new();
    let carrier = session.carry(&["--group", "uplink=1"], payload(500_000));
    carrier.is_held_back();
    // As a member would that was stopped just then.
    let file = File::open(session.file("uplink")).unwrap();
    file.lock().unwrap();
    let holder = format!("process {} (", std::process::id());
    let words = ["uplink.group", "locked", &holder];
    let attempt = session.attempt(&["--group", "uplink"]);
    let asked = [&["set", "uplink", "2"][..], &["rm", "uplink"]].map(|words| session.ask(words));
    // One that waits for tokens says who is in its way.
    let line = carrier.pcproxy.line();
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    // To look, nothing is locked.
    session.only().has(1, &[&carrier.pcproxy]);
    attempt.refused(&words);
    asked.into_iter().for_each(|asked| asked.fails(1, &words));
    drop(file);
    session.set("uplink", "off");
    carrier.delivers("once the lock is free");
}

#[test]
fn a_signal_ends_a_run_that_waits_to_join_a_group_at_once() {
    let session = Session::new();
    session.set("site", "1M");
    let file = File::open(session.file("site")).unwrap();
    file.lock().unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let attempt = session.attempt(&["--group", "site/backup"]);
        attempt.asked.pcproxy.wait_heeding(signal);
        let began = Instant::now();
        // Progress is all that this one asks for.
        attempt.asked.pcproxy.signal(Signal::USR1);
        attempt.asked.pcproxy.line();
        attempt.asked.pcproxy.signal(signal);
        attempt.asked.pcproxy.wait().died_by(signal);
        assert!(began.elapsed() < Duration::from_secs(5), "{signal:?} was heard after {:?}", began.elapsed());
        assert_eq!(unread(attempt.stdin), 1000, "{signal:?}");
    }
    drop(file);
    session.only().has(1 << 20, &[]);
}

#[test]
fn an_idle_member_sleeps_while_others_move() {
    let session = Session::new();
    let idle = session.join(&["--group", "uplink=16M"]);
    idle.passes(100_000);
    let zeros = File::open("/dev/zero").unwrap();
    let busy = session.start(&["--group", "uplink"], zeros, File::create("/dev/null").unwrap());
    until("it to sleep through a listing", || {
        let before = idle.pcproxy.status("voluntary_ctxt_switches");
        session.only().has(16 << 20, &[&idle.pcproxy, &busy]);
        before == idle.pcproxy.status("voluntary_ctxt_switches")
    });
    idle.passes(100_000);
}

#[test]
fn a_listing_skips_what_is_no_group() {
    let session = Session::new();
    assert_eq!(session.group(&["ls"]), format!("no groups in {}\n", session.folder().display()));
    assert!(session.ls().is_empty());
    session.set("uplink", "1M");
    for name in [".group", "a b.group", "..group", "++.group", "notes.txt", "uplink.group~"] {
        fs::write(session.folder().join(name), "mine").unwrap();
    }
    session.only().has(1 << 20, &[]);
    assert_eq!(session.group(&["ls"]).lines().count(), 3);
}

#[test]
fn what_no_group_can_do_is_refused() {
    let session = Session::new();
    for (options, words) in [
        (&["--group", "uplink", "--weight", "0"][..], &["--weight", "'0'", "1..=1000"][..]),
        (&["--group", "uplink", "--weight", "1001"], &["--weight", "'1001'", "1..=1000"]),
        (&["--group", "uplink", "--weight", "half"], &["--weight", "'half'"]),
        (&["--weight", "5"], &["--group"]),
        (&["--min-rate", "1M"], &["--group"]),
        (&["--group", "uplink", "--min-rate", "0"], &["--min-rate", "'0'", "1 byte per second"]),
        (&["--group", "uplink", "--min-rate", "5X"], &["--min-rate", "'5X'", "80Mbit"]),
        (&["--group", "uplink", "--min-rate", "2M", "--rate", "1M"], &["--min-rate", "--rate", "2 MiB/s", "1 MiB/s"]),
        (&["--group", "uplink=0"], &["--group", "'uplink=0'", "1 byte per second"]),
        (&["--group", "uplink="], &["--group", "'uplink='", "80Mbit"]),
        (&["--group", "uplink=5X"], &["--group", "'uplink=5X'", "'5X' is not a rate", "80Mbit"]),
        (&["--group", "=5M"], &["--group", "'=5M'", "such as uplink"]),
        (&["--group"], &["--group", "NAME"]),
    ] {
        session.attempt(options).refused(words);
    }
    assert!(!session.folder().exists());
}

#[test]
fn what_is_no_name_is_refused() {
    let session = Session::new();
    let long = "a".repeat(201);
    for name in ["", "/", ".", "..", "a/../b", "/etc/passwd", "a/", "a//b", ".a", "a/.b", "a b", "a+b", "ü", &long] {
        let words = [&format!("'{name}'"), "letters, digits", "such as uplink"];
        session.attempt(&["--group", name]).refused(&[words[0], words[1], words[2], "--group"]);
        session.ask(&["set", name, "1M"]).fails(2, &words);
        session.ask(&["rm", name]).fails(2, &words);
    }
    assert!(!session.folder().exists());
    session.join(&["--group", &long[1..]]).leave();
    session.join(&["--group", "Site-1/back_up.2/-"]).leave();
}

#[test]
fn what_cannot_be_set_is_refused() {
    let session = Session::new();
    for (words, said) in [
        (&["set", "uplink", "0"][..], &["[RATE|", "'0'", "1 byte per second"][..]),
        (&["set", "uplink", "5X"], &["[RATE|", "'5X'", "80Mbit"]),
        (&["set", "uplink", "1M", "--burst", "0"], &["--burst", "'0'", "1 byte"]),
        (&["set", "uplink", "1M", "--burst", "x"], &["--burst", "'x'", "64K", "20ms"]),
        (&["set", "uplink"], &["what is to change?", "--schedule", "--quota"]),
        (&["set", "uplink", "5M", "for"], &["for how long?"]),
        (&["set", "uplink", "5M", "four", "2h"], &["'four'", "'5M for 2h'"]),
        (&["set", "uplink", "5M", "for", "2x"], &["'2x'", "for TIME"]),
        (&["set", "uplink", "5M", "for", "0"], &["'0'", "longer"]),
        (&["set", "uplink", "back", "for", "2h"], &["needs a rate"]),
        (&["set", "uplink", "--until", "18:00"], &["needs a rate"]),
        (&["set", "uplink", "5M", "for", "2h", "--until", "18:00"], &["--until", "not both"]),
        (&["set", "uplink", "5M", "--until", "25:00"], &["--until", "'25:00'", "Fri-18:00"]),
        (&["set", "uplink", "5M", "--until", "2020-01-01 18:00"], &["--until", "has passed"]),
        (&["set", "uplink", "5M", "--schedule", "08:00,2M"], &["--schedule", "cannot be used"]),
        (&["set", "uplink", "--schedule", "25:00,2M"], &["--schedule", "no time of day in '25:00'"]),
        (&["set", "uplink", "--quota", "50G"], &["--quota", "'50G'", "50G/day", "'off'"]),
        (&["set", "uplink", "--quota", "0/day"], &["--quota", "allows nothing"]),
        (&["set", "uplink", "--quota", "50G/day", "--then", "stop"], &["--then", "'stop'", "'pause'"]),
        (&["set", "uplink", "--quota", "off", "--then", "pause"], &["--then", "'off'"]),
        (&["set"], &["<NAME>"]),
        (&["rm"], &["<NAME>"]),
        (&["ls", "--jsom"], &["--jsom", "--json"]),
        (&["list"], &["'list'"]),
    ] {
        session.ask(words).fails(2, said);
    }
    session.ask(&["rm", "uplink"]).fails(1, &["uplink", "'pcproxy group ls'"]);
    session.ask(&["set", "uplink", "+10%"]).fails(1, &["group uplink has no limit now"]);
    session.ask(&["set", "uplink", "--then", "1M"]).fails(1, &["group uplink has no quota", "--quota"]);
    assert!(!session.file("uplink").exists());
}

#[test]
fn a_burst_and_a_unit_need_a_rate() {
    let session = Session::new();
    session.ask(&["set", "uplink", "off", "--burst", "64K"]).fails(2, &["--burst", "'off'"]);
    session.ask(&["set", "uplink", "off", "--lines"]).fails(2, &["--lines", "'off'"]);
    session.ask(&["set", "uplink", "off", "--null"]).fails(2, &["--null", "'off'"]);
}

#[test]
fn scripts_share_a_limit_of_requests() {
    let session = Session::new();
    session.group(&["set", "api", "100/s", "--lines"]);
    let lines: Vec<u8> = (0..20).flat_map(|line| format!("https://example.org/{line}\n").into_bytes()).collect();
    let start = Instant::now();
    let options = ["--lines", "--group", "api"];
    let scripts: Vec<_> = (0..3).map(|_| session.carry(&options, lines.clone())).collect();
    scripts.into_iter().for_each(|script| script.delivers("a script"));
    // The bucket starts empty, and holds two records at most.
    let least = Duration::from_millis(10 * (60 - 2));
    assert!(start.elapsed() >= least, "60 requests at 100 per second took {:?}", start.elapsed());
}

#[test]
fn a_member_that_counts_something_else_is_refused_and_told_what_would_do() {
    let session = Session::new();
    session.group(&["set", "site/api", "30/m", "--null"]);
    session.set("uplink", "10M");
    let listed = session.only_named("site/api");
    assert_eq!((listed.unit.as_str(), listed.limit), ("records", Some(0.5)));
    assert_eq!(session.only_named("uplink").unit, "bytes");
    assert!(session.group(&["ls"]).contains(" 30 records/min"), "{}", session.group(&["ls"]));
    session.attempt(&["--group", "site/api/one"]).refused(&[
        "group site/api has a limit of records",
        "this transfer counts bytes",
        "add --lines or --null",
    ]);
    session.attempt(&["-l", "--group", "uplink"]).refused(&[
        "group uplink has a limit of bytes",
        "this transfer counts records",
        "leave out --lines and --null",
    ]);
    session
        .attempt(&["-0", "--min-rate", "40/m", "-g", "site/api"])
        .refused(&["cannot guarantee 40/min: group site/api has 30/min left"]);
    let member = session.join(&["--null", "--group", "site/api"]);
    session
        .ask(&["set", "site/api", "5M"])
        .fails(1, &["cannot limit group site/api in bytes: it has members that count records"]);
    session.ask(&["share", "site/api", "--store", "valkey://127.0.0.1:1"]).fails(1, &["site/api"]);
    session.group(&["set", "site", "5/s", "-l"]);
    member.leave();
    // A limit that comes with its first member counts what that member counts.
    let member = session.join(&["-l", "--group", "mine=7/s"]);
    session.attempt(&["--group", "mine"]).refused(&["group mine has a limit of records"]);
    member.leave();
}

#[test]
fn a_limit_from_the_version_before_holds() {
    let session = Session::new();
    session.set("uplink", "10M");
    // A record of version 3: a limit of 10M with a burst of 64K, and no member.
    let body = b"\x01\x80\x80\x80\x05\x01\x00\x80\x80\x04\x01\x00\x00\x00\x00\x00\x00";
    let mut content = fs::read(session.file("uplink")).unwrap();
    let [place, _] = latest_first(&content);
    content[place + 7] = 3;
    content[place + HEAD - 4..place + HEAD].copy_from_slice(&(body.len() as u32).to_le_bytes());
    content[place + HEAD..place + HEAD + body.len()].copy_from_slice(body);
    let checksum = crc32fast::hash(&content[place + 12..place + HEAD + body.len()]);
    content[place + 8..place + 12].copy_from_slice(&checksum.to_le_bytes());
    overwrite(&session.file("uplink"), &content);
    session.only().has(10 << 20, &[]);
    assert_eq!(session.only().unit, "bytes");
    session.attempt(&["-l", "--group", "uplink"]).refused(&["group uplink has a limit of bytes"]);
    session.join(&["--group", "uplink"]).leave();
    session.only().has(10 << 20, &[]);
}

/// Runs `pcproxy group` with this environment and no other. Returns what it says.
fn group_with(environment: &[(&str, &str)], words: &[&str]) -> (String, End) {
    let mut command = pcproxy(&[&["group"], words].concat());
    command.env_clear().envs(environment.iter().copied());
    let (answer, into) = pipe().unwrap();
    Asked { pcproxy: start_command(command, Stdio::null(), into), answer }.end()
}

#[test]
fn a_login_a_cron_job_and_a_session_that_has_ended_find_the_same_folder() {
    let gone = tempfile::tempdir().unwrap();
    let gone = gone.path().to_str().unwrap();
    let (name, mut folders) = (format!("test-{}", std::process::id()), Vec::new());
    group_with(&[], &["set", &name, "1M"]).1.succeeded("cron");
    for environment in [
        &[][..],
        &[("HOME", "/nonexistent"), ("TMPDIR", gone)],
        &[("XDG_RUNTIME_DIR", gone), ("XDG_STATE_HOME", gone), ("HOME", gone)],
        &[("XDG_RUNTIME_DIR", "/nonexistent"), ("PCPROXY_DIR", "")],
    ] {
        // What else is in this folder is none of the test's business.
        let (table, _) = group_with(environment, &["ls"]);
        assert!(table.contains(&name), "{environment:?}: {table}");
        folders.push(table.lines().last().unwrap().to_owned());
    }
    group_with(&[], &["rm", &name]).1.succeeded("rm");
    assert!(folders.iter().all(|folder| *folder == folders[0]), "{folders:?}");
    let folder = Path::new(folders[0].strip_prefix("in ").unwrap());
    assert!(folder.ends_with(format!("pcproxy-{}", geteuid().as_raw())));
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn the_folder_can_be_chosen_and_every_answer_names_it() {
    let session = Session::new();
    let folder = session.folder();
    let folder = folder.to_str().unwrap();
    assert_eq!(session.group(&["ls"]), format!("no groups in {folder}\n"));
    assert!(!session.folder().exists(), "to look, nothing is made");
    session.ask(&["rm", "uplink"]).fails(1, &["uplink", folder]);
    session.set("uplink", "1M");
    assert!(session.group(&["ls"]).ends_with(&format!("\nin {folder}\n")));
    let (_, end) = group_with(&[("PCPROXY_DIR", "relative/folder")], &["ls"]);
    end.failed(1, &["relative/folder", "PCPROXY_DIR must be an absolute path"]);
    let (_, end) = group_with(&[("PCPROXY_DIR", "/nonexistent/folder")], &["set", "uplink", "1M"]);
    end.failed(1, &["/nonexistent/folder"]);
}

#[test]
fn a_folder_that_a_unix_group_shares_on_purpose_is_used_and_one_that_is_open_to_all_is_not() {
    let session = Session::new();
    fs::create_dir(session.folder()).unwrap();
    fs::set_permissions(session.folder(), Permissions::from_mode(0o2770)).unwrap();
    session.set("uplink", "1M");
    let member = session.join(&["--group", "uplink"]);
    member.passes(1000);
    for entry in fs::read_dir(session.folder()).unwrap() {
        let entry = entry.unwrap();
        let mode = fs::symlink_metadata(entry.path()).unwrap().permissions().mode();
        let is_file = entry.file_type().unwrap().is_file();
        assert!(!is_file || mode & 0o777 == 0o660, "{:?} has mode {mode:o}", entry.file_name());
    }
    member.leave();
    fs::set_permissions(session.folder(), Permissions::from_mode(0o2777)).unwrap();
    session.attempt(&["--group", "uplink"]).refused(&["is open to other users", "chmod o-w"]);
}

/// Whether `unshare` can do this; if not, says so, and fails where everything must be there.
fn can_unshare(options: &[&str]) -> bool {
    let tried = Command::new("unshare").args(options).arg("true").stderr(Stdio::null()).status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: 'unshare {}' is not possible here", options.join(" "));
        assert!(std::env::var_os("CI").is_none(), "unshare is missing, or needs root");
    }
    can
}

#[test]
fn a_look_or_a_visit_from_another_namespace_lifts_no_limit_and_removes_no_socket() {
    let no_proc: &[&str] = &["--mount", "sh", "-c", r#"mount -t tmpfs none /proc; exec "$0" "$@""#];
    let pids: &[&str] = &["--pid", "--fork", "--mount-proc"];
    let times: &[&str] = &["--time", "--fork", "--monotonic", "5000"];
    for space in [pids, times, no_proc] {
        if !can_unshare(space) {
            continue;
        }
        let session = Session::new();
        let there = |words: &[&str], stdin: Stdio| {
            let (output, into) = pipe().unwrap();
            let mut command = Command::new("unshare");
            command.args(space).arg(env!("CARGO_BIN_EXE_pcproxy")).args(words).env("PCPROXY_DIR", session.folder());
            let run = start_command(command, stdin, into);
            let output = String::from_utf8(read_to_end(output)).unwrap();
            run.wait().succeeded(format!("{words:?} in {space:?}"));
            output
        };
        let carrier = session.carry(&["--group", "uplink=100"], payload(300_000));
        let pid = carrier.pcproxy.pid().to_string();
        carrier.is_held_back();
        let table = there(&["group", "ls"], Stdio::null());
        assert!(table.contains(&pid) && table.contains("100 B/s"), "{table}");
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(b"twenty bytes to move").unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let moved = there(&["--group", "uplink"], input.into());
        assert_eq!(moved, "twenty bytes to move");
        carrier.is_held_back();
        session.only().has(100, &[&carrier.pcproxy]);
        assert!(session.folder().join(format!("{pid}.sock")).exists(), "{space:?}");
        // Its time has not been moved either: it goes on at once.
        session.set("uplink", "16M");
        carrier.delivers(format!("{space:?}"));
    }
}

#[test]
fn an_older_copy_of_the_file_that_is_put_back_brings_no_tokens_and_no_limit_back() {
    let session = Session::new();
    session.set("uplink", "64M");
    let old = fs::read(session.file("uplink")).unwrap();
    let member = session.join(&["--group", "uplink"]);
    member.passes(1000);
    session.set("uplink", "1");
    let carrier = session.carry(&["--group", "uplink"], payload(300_000));
    carrier.is_held_back();
    for _ in 0..20 {
        overwrite(&session.file("uplink"), &old);
        until("a member to notice", || session.only().limit == Some(1.0));
    }
    assert!(carrier.arrived() < A_FEW, "{} bytes", carrier.arrived());
    session.set("uplink", "16M");
    carrier.delivers("after all");
    member.leave();
}

#[test]
fn one_damaged_file_does_not_hide_the_other_groups() {
    let session = Session::new();
    session.set("uplink", "1M");
    session.set("downlink", "2M");
    overwrite(&session.file("uplink"), &payload(270 * KIB));
    for words in [&["ls"][..], &["ls", "--json"]] {
        let (answer, end) = session.ask(words).end();
        end.failed(1, &["uplink.group", "is damaged"]);
        assert!(answer.contains("downlink") && !answer.contains("uplink "), "{answer}");
    }
}

#[test]
fn each_of_two_damaged_files_is_told_of_in_a_line_of_its_own() {
    let session = Session::new();
    for group in ["uplink", "downlink"] {
        session.set(group, "1M");
        overwrite(&session.file(group), &payload(270 * KIB));
    }
    let (_, end) = session.ask(&["ls"]).end();
    let lines: Vec<_> = end.stderr.lines().collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("pcproxy: ")), "{end:?}");
    assert!(lines[0].contains("downlink.group") && lines[1].contains("uplink.group"), "{end:?}");
}

#[test]
fn a_large_burst_of_a_group_is_no_lump() {
    let session = Session::new();
    session.group(&["set", "uplink", "21845", "--burst", "1M"]);
    let carrier = session.carry(&["--group", "uplink"], payload(300_000));
    // Half of the burst would take 24 s to come.
    let start = std::time::Instant::now();
    until("the first bytes", || carrier.arrived() > 0);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    session.set("uplink", "off");
    carrier.delivers("after all");
}

/// How fast they are together depends on the machine: `cargo bench --bench group -- many` shows it.
#[test]
fn three_hundred_that_start_at_once_are_all_let_in_and_share_the_limit() {
    const EACH: usize = 16 * KIB;
    let session = Session::new();
    session.set("all", "16M");
    let outputs = tempfile::tempdir().unwrap();
    // Nothing moves before all are there: each of them gets a line. Delays of a busy machine are not made up for.
    let script = format!(
        "exec 3<&0; for i in $(seq 300); do {{ read _ <&3; head -c {EACH} /dev/zero; }} | \"$0\" -q --catch-up 0 --group all >\"$1\"/$i & done; wait"
    );
    let (gate, mut opens) = pipe().unwrap();
    let all = session.start_in_shell(&script, outputs.path(), gate, Stdio::null());
    until("300 members to be in the group", || session.only().members.len() == 300);
    let began = Instant::now();
    opens.write_all(&[b'\n'; 300]).unwrap();
    all.wait().succeeded("300 members");
    let (took, total) = (began.elapsed().as_secs_f64(), (300 * EACH) as f64);
    let most = f64::from(16 << 20) * (took + 0.015);
    assert!(total <= most, "{total} bytes in {took} s, where at most {most} may pass");
    for output in fs::read_dir(&outputs).unwrap() {
        let output = output.unwrap();
        assert_eq!(output.metadata().unwrap().len(), EACH as u64, "{output:?}");
    }
}

#[test]
fn a_full_folder_is_refused_before_the_first_byte() {
    let script = r#"
        mount -t tmpfs -o size=64k none "$1" && mkdir -m 700 "$1/pcproxy" && export PCPROXY_DIR="$1/pcproxy" &&
        "$0" group set uplink 1M && { head -c 1M /dev/zero >"$1/full" || true; } 2>/dev/null
        printf 12345 | "$0" --group uplink; echo "status $?""#;
    if !can_unshare(&["--mount"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_pcproxy")])
        .arg(folder.path())
        .output()
        .unwrap();
    let (said, answer) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(said.contains("No space left on device") && said.contains("uplink.group"), "{said}");
    assert_eq!(answer, "status 2\n");
}
