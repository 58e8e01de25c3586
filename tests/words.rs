//! The README keeps its word: its commands run, and the links of all pages lead somewhere.
//!
//! Each block of shell runs in a scratch folder of its own, with the programs of the machine and
//! stand-ins for what would reach other machines, databases and system logs. A block that cannot
//! run here stands below `<!-- not run by the test: REASON -->`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use support::running::{at_home, neutral};
use support::{byte_of_stream, needs};

/// What stands before a block that is not run, and its reason.
const NOT_RUN: &str = "<!-- not run by the test: ";

/// All blocks start at the same time, and after so many seconds each has ended.
const SECONDS: &str = "10";

/// Programs that the README's commands call, as far as they are not those of this machine. They
/// run in the scratch folder, where `host` is the home of another machine.
const STAND_INS: [(&str, &str); 6] = [
    ("cargo", r#"echo "$@" >>"$SCRATCH/cargo""#),
    ("journalctl", "seq 20"),
    ("nc", r#"cat >"$SCRATCH/host/log""#),
    ("pg_dump", "seq 50000"),
    ("ssh", r#"shift; cd "$SCRATCH/host"; exec sh -c "$*""#),
    ("zstd", "exec cat"),
];

/// For each block that is run: words by which it is known, and what is true after it. `out` and
/// `err` are what it printed.
const OUTCOMES: [(&str, &str); 11] = [
    ("cargo install", "grep -qx 'install --locked --path .' cargo"),
    ("seq 1000000", r#"[ "$(cat out)" = 1000000 ] && grep -qx 'build --release' cargo"#),
    ("-L 10M -N backup", "cmp disk.img disk.zst"),
    ("--buffer 256M", "tar tf host/photos.tar | grep photos/one"),
    ("rsync", "cmp home/photos/one host/backup/photos/one"),
    ("group set uplink 10M", "tar tf host/photos.tar | grep photos/one && tar tf host/music.tar | grep music/two"),
    ("--summary", "pg_dump | cmp - db.zst && grep '^pcproxy: .* delivered in ' err"),
    ("--lines", "journalctl | cmp - host/log"),
    ("--low-water", "pg_dump | cmp - db.zst"),
    ("tcp-listen://", "cmp disk.img copy.img"),
    ("--schedule", "tar tf host/photos.tar | grep photos/one"),
];

struct Block {
    /// Where in the page it begins.
    line: usize,
    script: String,
    runs: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of shell of a page.
fn blocks(page: &str) -> Vec<Block> {
    let lines: Vec<_> = page.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| **line == "```sh");
    starts
        .map(|(start, _)| {
            let script: Vec<_> = lines[start + 1..].iter().take_while(|line| **line != "```").copied().collect();
            let before = if start == 0 { "" } else { lines[start - 1] };
            let reason = before.strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix(" -->"));
            assert!(reason.is_none_or(|reason| !reason.is_empty()), "line {start}: no reason");
            Block { line: start + 1, script: script.join("\n"), runs: reason.is_none() }
        })
        .collect()
}

/// The receiver runs beside the sender, which tries until the receiver listens. Both are on this
/// machine, and on a port that nobody uses.
fn pair(receiver: &str, sender: &str) -> String {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let here = free.local_addr().unwrap().to_string();
    let (receiver, sender) = (receiver.replace("0.0.0.0:9000", &here), sender.replace("backup:9000", &here));
    assert!(receiver.contains(&here) && sender.contains(&here), "other addresses:\n{receiver}\n{sender}");
    format!("{receiver} &\nuntil {sender}; do kill -0 $!; done\nwait $!")
}

/// A folder with the files and programs that the commands find.
fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for folder in ["bin", "home/photos", "home/music", "host", "target/release"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    let bytes: Vec<u8> = (0..1 << 20).map(byte_of_stream).collect();
    fs::write(path("disk.img"), &bytes).unwrap();
    fs::write(path("home/photos/one"), &bytes[..10_000]).unwrap();
    fs::write(path("home/music/two"), &bytes[..20_000]).unwrap();
    for program in ["bin/pcproxy", "target/release/pcproxy"] {
        symlink(env!("CARGO_BIN_EXE_pcproxy"), path(program)).unwrap();
    }
    for (name, script) in STAND_INS {
        let file = path("bin").join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    scratch
}

/// Runs a script in `scratch`, with its output in files there. Returns whether it succeeded.
fn run(script: &str, scratch: &Path, out: &str, err: &str) -> bool {
    let file = |name: &str| Stdio::from(fs::File::create(scratch.join(name)).unwrap());
    let search = std::env::var("PATH").unwrap_or_default();
    let mut command = neutral("timeout");
    command.args([SECONDS, "bash", "-euo", "pipefail", "-c", script]).current_dir(scratch);
    command.env("SCRATCH", scratch).env("HOME", scratch.join("home"));
    command.env("PATH", format!("{}:{search}", scratch.join("bin").display()));
    at_home(&mut command, scratch);
    command.stdin(Stdio::null()).stdout(file(out)).stderr(file(err)).status().unwrap().success()
}

#[test]
fn every_command_of_the_readme_does_what_it_is_there_for() {
    if !needs("bash") {
        return;
    }
    let mut scripts: Vec<(usize, String)> = Vec::new();
    let mut receiver: Option<String> = None;
    for block in blocks(&page("README.md")).into_iter().filter(|block| block.runs) {
        match receiver.take() {
            Some(receiver) => scripts.push((block.line, pair(&receiver, &block.script))),
            None if block.script.contains("tcp-listen://") => receiver = Some(block.script),
            None => scripts.push((block.line, block.script)),
        }
    }
    assert!(receiver.is_none(), "no block after the receiver");
    assert_eq!(scripts.len(), OUTCOMES.len(), "a block without an outcome, or the other way round");
    scripts.retain(|(_, script)| !script.contains("rsync") || needs("rsync"));

    thread::scope(|threads| {
        for (line, script) in scripts {
            threads.spawn(move || {
                let known: Vec<_> = OUTCOMES.iter().filter(|(words, _)| script.contains(words)).collect();
                let [(_, outcome)] = known[..] else { panic!("{} outcomes for line {line}:\n{script}", known.len()) };
                let scratch = scratch();
                let read =
                    |name: &str| String::from_utf8_lossy(&fs::read(scratch.path().join(name)).unwrap()).into_owned();
                let succeeded = run(&script, scratch.path(), "out", "err");
                assert!(succeeded, "README.md:{line} failed:\n{script}\n{}", read("err"));
                let true_after = run(outcome, scratch.path(), "check", "check.err");
                assert!(
                    true_after,
                    "README.md:{line}:\n{script}\n{}\nnot so: {outcome}\n{}",
                    read("err"),
                    read("check.err")
                );
            });
        }
    });
}

#[test]
fn the_readme_can_be_read_in_one_go() {
    let lines = page("README.md").lines().count();
    assert!(lines <= 150, "{lines} lines, of 150 at most");
}

/// What a heading is called in links: lower case, with hyphens for blanks, and without signs.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
}

/// The text of a page without its blocks of code.
fn prose(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        })
        .collect()
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    prose(&text)
        .iter()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// All pages of the project.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "benches", "packaging"].map(|folder| root().join(folder));
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in prose(&text) {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for target in targets.filter(|target| !target.contains("://")) {
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
                if !file.exists() || !heading.is_empty() && !anchors(&file).contains(heading) {
                    broken.push(format!("{}: {target}", page.strip_prefix(root()).unwrap().display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
