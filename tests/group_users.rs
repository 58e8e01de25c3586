//! Several users of one machine who share a Unix group share limits through one folder. The test
//! needs root, to be several users.

mod support;

use std::fs::{self, Permissions};
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Signal, geteuid};
use support::running::neutral;
use support::{End, Running, assert_arrived, needs, payload, read_exactly, start_command, unread, until};

/// Users and Unix groups that nobody else has.
const ANN: u32 = 61_001;
const BOB: u32 = 61_002;
const EVE: u32 = 61_003;
const STAFF: u32 = 61_010;
const OTHERS: u32 = 61_011;

/// A folder that the administrator has made for the members of STAFF.
struct Office {
    home: tempfile::TempDir,
}

impl Office {
    /// Nothing, and a word on stderr, where one cannot be several users.
    fn open() -> Option<Office> {
        if !needs("setpriv") {
            return None;
        }
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "the test needs root, to be several users");
            let _ = io::stderr().write_all(b"skipped: a test of several users needs root\n");
            return None;
        }
        let office = Office { home: tempfile::tempdir().unwrap() };
        fs::set_permissions(office.home.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_pcproxy"), office.program()).unwrap();
        fs::create_dir(office.folder()).unwrap();
        chown(office.folder(), None, Some(STAFF)).unwrap();
        fs::set_permissions(office.folder(), Permissions::from_mode(0o2770)).unwrap();
        Some(office)
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("limits")
    }

    fn program(&self) -> PathBuf {
        self.home.path().join("pcproxy")
    }

    /// The command of a user in the Unix group `group`.
    fn command(&self, user: u32, group: u32, words: &[&str]) -> Command {
        let mut command = neutral("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()]);
        command.arg(self.program()).args(words).env("PCPROXY_DIR", self.folder());
        command
    }

    /// Runs it. Returns what it says.
    fn run(&self, user: u32, group: u32, words: &[&str]) -> (String, End) {
        let (mut answer, into) = pipe().unwrap();
        let pcproxy = start_command(self.command(user, group, words), Stdio::null(), into);
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        (text, pcproxy.wait())
    }

    #[track_caller]
    fn group(&self, user: u32, words: &[&str]) -> String {
        let (text, end) = self.run(user, STAFF, &[&["group"], words].concat());
        end.succeeded(words.join(" "));
        text
    }

    /// A member that is fed `data`.
    fn member(&self, user: u32, options: &[&str], data: Vec<u8>) -> (Running, PipeReader) {
        let (stdin, mut feed) = pipe().unwrap();
        let (stdout, into) = pipe().unwrap();
        let member = start_command(self.command(user, STAFF, options), stdin, into);
        thread::spawn(move || feed.write_all(&data));
        (member, stdout)
    }
}

#[test]
fn users_who_share_a_unix_group_share_a_limit_and_nobody_else_does() {
    let Some(office) = Office::open() else { return };
    office.group(ANN, &["set", "uplink", "1"]);
    let file = office.folder().join("uplink.group");
    let found = fs::metadata(&file).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (ANN, STAFF, 0o660));

    // Bob is held back by the limit that Ann has set, and Ann sees him by his name.
    let data = payload(300_000);
    let (bob, stdout) = office.member(BOB, &["--group", "uplink", "--name", "bobs"], data.clone());
    until("Bob to join", || office.group(ANN, &["ls"]).contains("bobs"));
    bob.settle_until_due();
    assert!(unread(&stdout) < 1000, "{} bytes passed", unread(&stdout));
    // Ann may raise it, and it is Bob's limit too. So may Bob lower it.
    office.group(ANN, &["set", "uplink", "64M"]);
    assert_arrived(&read_exactly(&stdout, data.len()), &data, "once Ann has raised the limit");
    drop(stdout);
    bob.signal(Signal::KILL);
    bob.wait();
    assert!(office.group(BOB, &["set", "uplink", "-1M", "for", "1h"]).starts_with("uplink: limit 63 MiB/s"));
    assert!(office.group(ANN, &["ls"]).contains("uplink: limit 63 MiB/s until "));

    // Eve is not one of them.
    for words in [&["group", "ls"][..], &["group", "set", "uplink", "off"], &["group", "rm", "uplink"]] {
        let (text, end) = office.run(EVE, OTHERS, words);
        end.failed(1, &[office.folder().to_str().unwrap(), "Permission denied"]);
        assert_eq!(text, "", "{words:?}");
    }
    office.run(EVE, OTHERS, &["--group", "uplink"]).1.failed(2, &["Permission denied"]);
    assert!(office.group(ANN, &["ls"]).contains("63 MiB/s"));
}

#[test]
fn what_one_user_writes_into_the_file_neither_ends_the_run_of_another_nor_lets_it_go_faster() {
    let Some(office) = Office::open() else { return };
    office.group(ANN, &["set", "uplink", "1"]);
    let (member, stdout) = office.member(ANN, &["--group", "uplink"], payload(300_000));
    until("Ann to join", || office.group(ANN, &["ls"]).matches('\n').count() > 3);
    let file = office.folder().join("uplink.group");
    let before = fs::read(&file).unwrap();
    // Any bytes, without the lock: all of one value, cut short, and a few of them changed.
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..60 {
        let mut content = before.clone();
        match round % 4 {
            0 => content.fill(random() as u8),
            1 => content.truncate(random() % before.len()),
            2 => (0..8).for_each(|_| content[random() % before.len()] = random() as u8),
            _ => content = (0..random() % 5000).map(|_| random() as u8).collect(),
        }
        let script = format!("cat >'{}'", file.display());
        let mut bob = neutral("setpriv");
        bob.args([format!("--reuid={BOB}"), format!("--regid={STAFF}"), "--clear-groups".into()]);
        let mut bob = bob.args(["sh", "-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        bob.stdin.take().unwrap().write_all(&content).unwrap();
        assert!(bob.wait().unwrap().success());
        member.settle_until_due();
    }
    assert!(unread(&stdout) < 1000, "{} bytes passed", unread(&stdout));
    // Once it is mended, she goes on.
    office.group(ANN, &["rm", "uplink"]);
    office.group(ANN, &["set", "uplink", "64M"]);
    assert_arrived(&read_exactly(&stdout, 300_000), &payload(300_000), "once the file is mended");
    drop(stdout);
    member.signal(Signal::KILL);
    member.wait();
}
