//! The pages keep their word: the commands in them run, and their links lead somewhere.
//!
//! Each block of shell (`sh`) runs in a scratch folder of its own, with the programs of the machine
//! and stand-ins for what would reach other machines, databases and system logs. What is true after
//! it stands in a table here. A block that cannot run stands below
//! `<!-- not run by the test: REASON -->`.
//!
//! A block that shows a dialogue (`console`) runs too, and its output is compared with the page, but
//! for the digits of numbers and checksums. `…` stands for any text.

#[path = "support/store.rs"]
mod store;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use store::{Server, free_port};
use support::running::{at_home, neutral};
use support::{byte_of_stream, needs};

/// What stands before a block that is not run, and its reason.
const NOT_RUN: &str = "<!-- not run by the test: ";

/// All blocks of a page start at the same time, and after so many seconds each has ended.
const SECONDS: &str = "25";

/// Programs that the commands call, as far as they are not those of this machine. They run in the
/// scratch folder, where `host` is the home of another machine.
const STAND_INS: [(&str, &str); 9] = [
    ("cargo", r#"echo "$@" >>"$SCRATCH/cargo""#),
    ("check", r#"echo "$@" >>"$SCRATCH/checked""#),
    ("curl", r#"echo "$@" >>"$SCRATCH/fetched""#),
    ("journalctl", "seq 20"),
    ("nc", r#"cat >"$SCRATCH/host/log""#),
    ("pg_dump", "seq 50000"),
    ("replay", r#"cat >"$SCRATCH/replayed""#),
    ("ssh", SSH),
    ("zstd", "exec cat"),
];

/// Options come before the name of the host. git asks with -G whether this is OpenSSH.
const SSH: &str = r#"while :; do case $1 in -G) exit ;; -o) shift 2 ;; *) break ;; esac; done
shift; cd "$SCRATCH/host"; exec sh -c "$*""#;

/// Folders and devices that the pages name. They are in the scratch folder.
const PLACES: [&str; 8] =
    ["/home", "/photos", "/data", "/dev/sda", "/dev/nst0", "/run/collector.sock", "/var/lib", "/etc/pcproxy/"];

/// Programs that are not everywhere.
const RARE: [&str; 3] = ["git ", "man -l", "rsync "];

/// What the test knows of a block that is run.
struct Row {
    /// Words by which the block is known.
    words: &'static str,
    /// What has to be there before: it runs in the same shell.
    before: &'static str,
    /// What is true after it; `out` and `err` are what it printed. A dialogue is followed by this.
    after: &'static str,
}

const fn row(words: &'static str, after: &'static str) -> Row {
    Row { words, before: "", after }
}

const README: &[Row] = &[
    row("cargo install", "grep -qx 'install --locked --path .' cargo"),
    row("seq 1000000", r#"[ "$(cat out)" = 1000000 ] && grep -qx 'build --release' cargo"#),
    row("-L 10M -N backup", "cmp disk.img disk.zst"),
    row("--buffer 256M", "tar tf host/photos.tar | grep photos/one"),
    row("rsync", "cmp home/photos/one host/backup/photos/one"),
    row("group set uplink 10M", "tar tf host/photos.tar | grep photos/one && tar tf host/music.tar | grep music/two"),
    row("--summary", "pg_dump | cmp - db.zst && grep '^pcproxy: .* delivered in ' err"),
    row("--lines", "journalctl | cmp - host/log"),
    row("--spill", "pg_dump | cmp - host/db.sql"),
    row("tcp-listen://", "cmp disk.img copy.img"),
    row("--schedule", "tar tf host/photos.tar | grep photos/one"),
    Row {
        words: "group share",
        before: "echo secret >~/.store-password",
        after: "tar tf host/photos.tar | grep photos/one && pcproxy group ls | grep '40 MiB/s'",
    },
];

/// A run of the name that the guide speaks of, one of two others, and one that it knows by its pid.
const RUNS: &str = "for name in backup backup-1 backup-2 other; do
  pcproxy --name $name --group site --rate 1M </dev/zero >/dev/null & pid=$!
done
until [ \"$(pcproxy ctl stats --json | grep -o '\"name\"' | wc -l)\" = 4 ]; do :; done";

const GUIDE: &[Row] = &[
    Row {
        words: "header - trailer",
        before: "pcproxy tcp-listen://backup:9000 -o received &
pcproxy tcp-listen://mirror:9000 -o mirrored &
pcproxy unix-listen:/run/collector.sock -o collected &
until [ -S /run/collector.sock ]; do :; done
(until pcproxy home/photos/one -o tcp://0.0.0.0:9000 2>/dev/null; do kill -0 $$; done) &
printf 1 >header; printf 3 >trailer; exec < <(printf 2)",
        after: "cmp received disk.zst && cmp disk.img home/photos/one && cmp home.tar mirrored && [ $(cat collected) = 123 ]",
    },
    Row {
        words: "git clone",
        before: "git init -q host/project && git -C host/project -c user.name=a -c user.email=b commit -q --allow-empty -m c",
        after: "cmp home/photos/one host/backup/photos/one && git -C project log && pg_dump | cmp - dump &&
tar tf host/photos.tar | grep photos/one",
    },
    row("--start-at 80%", "tar tf dev/nst0 | grep photos/one"),
    row("Mon-Fri-08:00-18:00,512K", "tar tf host/home.tar | grep photos/one"),
    Row {
        words: "pcproxy group ls",
        before: "",
        after: "tar tf host/home.tar | grep photos/one && tar tf host/photos.tar && grep uplink out",
    },
    Row {
        words: "ctl backup rate 5M",
        before: RUNS,
        after: "grep 'limit 5 MiB/s, was 1 MiB/s' out && ! pcproxy ctl stats",
    },
    Row {
        words: "pcproxy.prom",
        before: "mkdir var/lib/node_exporter
until [ -e var/lib/node_exporter/pcproxy.prom ]; do :; done | pcproxy &
until pcproxy ctl stats 2>/dev/null; do :; done",
        after: "grep 'EOF' var/lib/node_exporter/pcproxy.prom",
    },
    Row {
        words: "yesterday.log",
        before: "seq 3 >urls; seq 40 >yesterday.log; touch data/one",
        after: "[ $(wc -l <fetched) = 3 ] && cmp yesterday.log replayed && [ $(wc -l <checked) = 2 ]",
    },
    Row {
        words: "--group api",
        before: "seq 3 >urls; seq 4 6 >images",
        after: "[ \"$(sort fetched | tr -dc 0-9)\" = 123456 ]",
    },
    Row { words: "--read-rate", before: "cp disk.img var/lib", after: "cmp disk.img host/disk.img" },
    row("--spill /var/tmp", "pg_dump | cmp - host/db.sql"),
    row("08:00,512K 18:00,10M", "tar tf host/home.tar | grep photos/one"),
    row("set -o pipefail", "pg_dump | cmp - db.zst"),
    Row {
        words: "/dev/sda",
        before: "cp disk.img dev/sda",
        after: "cmp disk.img dev/sda && cmp disk.img host/sda.img",
    },
    row("journalctl", "journalctl | cmp - host/log"),
    row("/dev/urandom", "[ $(stat -c %s sample) = 104857600 ]"),
    row("man -l", "grep -- --rate out && grep group home/.local/share/man/man1/pcproxy-group-set.1"),
    row(
        "completions",
        "ls home/.local/share/bash-completion/completions/pcproxy home/.zfunc/_pcproxy home/.config/fish/completions/pcproxy.fish",
    ),
    Row { words: "disk.img | while", before: "truncate -s 30M disk.img", after: "" },
    Row {
        words: "ctl rate 'backup-*' 5M",
        before: "for run in a:4M b:4M db:7M; do
  pcproxy --name backup-${run%:*} --rate ${run#*:} </dev/zero >/dev/null &
done
until [ \"$(pcproxy ctl stats --json | grep -o '\"name\"' | wc -l)\" = 3 ]; do :; done",
        after: "pcproxy ctl --all stop; wait",
    },
];

const GROUPS: &[Row] = &[
    row(
        "pg_dump db ",
        "pg_dump | cmp - host/db.sql && tar tf host/home.tar | grep photos/one && tar tf host/photos.tar",
    ),
    row(
        "--quota 50G/day",
        "pcproxy group ls >ls && grep 'no limit until' ls && grep 'quota of 50 GiB per day: 0 B used' ls",
    ),
];

const CLUSTER: &[Row] = &[
    row("group share uplink", "pcproxy group ls | grep uplink").after_making(PASSWORD),
    row("--quota 1T/month", "pcproxy group ls | grep 'uplink: quota of 1 TiB per month: 0 B used'")
        .after_making(SHARED),
    row("group set uplink 40M", "pcproxy group ls | grep '40 MiB/s'").after_making(SHARED),
    row("group unshare uplink", "tar tf host/home.tar | grep photos/one && grep '40 MiB/s' out").after_making(SHARED),
    row("PCPROXY_STORE=", "tar tf host/home.tar | grep photos/one"),
];

const PASSWORD: &str = "echo secret >/etc/pcproxy/password";

/// A group that is shared, and has a limit.
const SHARED: &str = "echo secret >/etc/pcproxy/password
pcproxy group share uplink --store valkey://store.example.org --password-file /etc/pcproxy/password
pcproxy group set uplink 40M";

impl Row {
    const fn after_making(self, before: &'static str) -> Self {
        Row { before, ..self }
    }
}

/// A block of a page that is run.
struct Block {
    /// Where in the page it begins.
    line: usize,
    text: String,
    is_dialogue: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of a page that are run.
fn blocks(page: &str) -> Vec<Block> {
    let lines: Vec<_> = page.lines().collect();
    let starts = (0..lines.len()).filter(|&start| ["```sh", "```console"].contains(&lines[start]));
    let blocks = starts.filter_map(|start| {
        let text: Vec<_> = lines[start + 1..].iter().take_while(|line| **line != "```").copied().collect();
        let before = if start == 0 { "" } else { lines[start - 1] };
        let reason = before.strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix(" -->"));
        assert!(reason.is_none_or(|reason| !reason.is_empty()), "line {start}: no reason");
        let is_dialogue = lines[start] == "```console";
        reason.is_none().then(|| Block { line: start + 1, text: text.join("\n"), is_dialogue })
    });
    blocks.collect()
}

/// A receiver whose sender stands in the block after it becomes one block with it. The sender tries
/// until the receiver listens.
fn pairs(blocks: Vec<Block>) -> Vec<Block> {
    let mut joined: Vec<Block> = Vec::new();
    let mut receiver: Option<Block> = None;
    for mut block in blocks {
        if let Some(receiver) = receiver.take() {
            let sender = block.text.replace("backup:9000", "0.0.0.0:9000");
            block.text = format!("{} &\nuntil {sender}; do kill -0 $!; done\nwait $!", receiver.text);
        } else if block.text.contains("tcp-listen://") && !block.text.contains('\n') {
            receiver = Some(block);
            continue;
        }
        joined.push(block);
    }
    assert!(receiver.is_none(), "no block after the receiver");
    joined
}

/// The commands of a dialogue, and what they print.
fn dialogue(text: &str) -> (String, Vec<&str>) {
    let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    (commands.join("\n"), text.lines().filter(|line| !line.starts_with("$ ")).collect())
}

/// A line without what differs from run to run: numbers, and the digits of checksums.
fn shape(line: &str) -> String {
    let is_checksum = |word: &str| word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<_> = line.split(' ').map(|word| if is_checksum(word) { "0" } else { word }).collect();
    let mut shape = String::new();
    for letter in words.join(" ").chars() {
        match letter {
            '0'..='9' if shape.ends_with('#') => (),
            '0'..='9' => shape.push('#'),
            _ => shape.push(letter),
        }
    }
    shape.replace("#.", "#").replace("#,", "#").replace("##", "#").replace("##", "#")
}

/// What the commands of a page find: a folder with files and programs, addresses that nobody uses,
/// and a store of many machines.
struct Scene {
    scratch: tempfile::TempDir,
    /// What stands in the pages, and what stands for it.
    names: Vec<(&'static str, String)>,
}

impl Scene {
    fn new(store: Option<String>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for folder in [
            "bin",
            "data",
            "dev",
            "etc/pcproxy",
            "home/photos",
            "home/music",
            "host",
            "photos",
            "run",
            "target/release",
            "var/lib",
        ] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        let bytes: Vec<u8> = (0..1 << 20).map(byte_of_stream).collect();
        fs::write(path("disk.img"), &bytes).unwrap();
        fs::write(path("home/photos/one"), &bytes[..10_000]).unwrap();
        fs::write(path("home/music/two"), &bytes[..20_000]).unwrap();
        fs::write(path("photos/three"), &bytes[..30_000]).unwrap();
        for program in ["bin/pcproxy", "target/release/pcproxy"] {
            symlink(env!("CARGO_BIN_EXE_pcproxy"), path(program)).unwrap();
        }
        for (name, script) in STAND_INS {
            let file = path("bin").join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for name in ["check", "replay"] {
            symlink(path("bin").join(name), path(name)).unwrap();
        }
        let addresses = (0..3).map(|_| format!("127.0.0.1:{}", free_port()));
        let mut names: Vec<_> = ["backup:9000", "0.0.0.0:9000", "mirror:9000"].into_iter().zip(addresses).collect();
        names.push(("4711", "$pid".to_owned()));
        names.extend(store.map(|store| ("store.example.org", store)));
        Scene { scratch, names }
    }

    /// The script with the names of this scene.
    fn here(&self, script: &str) -> String {
        let mut script = script.to_owned();
        for (name, here) in &self.names {
            script = script.replace(name, here);
        }
        for place in PLACES {
            let here = format!("{}{place}", self.scratch.path().display());
            // Only whole paths: `~/photos` is none of these.
            for before in [" ", ">", "<", ":"] {
                script = script.replace(&format!("{before}{place}"), &format!("{before}{here}"));
            }
        }
        script
    }

    /// Runs a script, with its output in files. Returns whether it succeeded.
    fn run(&self, script: &str, out: fs::File, err: fs::File) -> bool {
        let scratch = self.scratch.path();
        let search = std::env::var("PATH").unwrap_or_default();
        let mut command = neutral("timeout");
        command.args([SECONDS, "bash", "-uo", "pipefail", "-c", &self.here(script)]).current_dir(scratch);
        command.env("SCRATCH", scratch).env("HOME", scratch.join("home"));
        command.env("PATH", format!("{}:{search}", scratch.join("bin").display()));
        at_home(&mut command, scratch);
        command.stdin(Stdio::null()).stdout(out).stderr(err).status().unwrap().success()
    }

    fn file(&self, name: &str) -> fs::File {
        fs::File::create(self.scratch.path().join(name)).unwrap()
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.scratch.path().join(name)).unwrap()).into_owned()
    }
}

/// Runs a block of shell, and checks what is true after it.
fn check_script(scene: &Scene, row: &Row, place: &str, text: &str) {
    // The shell waits for what the block has left in the background.
    let script = format!("set -e\n{}\n{text}\nwait", row.before);
    let succeeded = scene.run(&script, scene.file("out"), scene.file("err"));
    assert!(succeeded, "{place} failed:\n{text}\n{}", scene.read("err"));
    let check = format!("set -e\n{}", row.after);
    let is_true = scene.run(&check, scene.file("check"), scene.file("check.err"));
    let told = || format!("{}{}", scene.read("err"), scene.read("check.err"));
    assert!(is_true, "{place}:\n{text}\nnot so: {}\n{}", row.after, told());
}

/// Runs the commands of a dialogue, and compares what they print. Two programs at the ends of one
/// pipe may print in any order.
fn check_dialogue(scene: &Scene, row: &Row, place: &str, text: &str) {
    let (commands, expected) = dialogue(text);
    let both = scene.file("both");
    let around = |script: &str| format!("{{ :\n{script}\n}} >/dev/null 2>&1");
    scene.run(&format!("{}\n{commands}\n{}", around(row.before), around(row.after)), both.try_clone().unwrap(), both);
    let printed = scene.read("both");
    let mut printed: Vec<_> = printed.lines().map(shape).collect();
    let mut expected: Vec<_> = expected.into_iter().map(shape).collect();
    printed.sort();
    expected.sort();
    assert_eq!(printed, expected, "{place}:\n{commands}");
}

fn check_page(name: &str, rows: &[Row]) {
    if !needs("bash") {
        return;
    }
    let mut blocks = pairs(blocks(&page(name)));
    for row in rows {
        let blocks = blocks.iter().filter(|block| block.text.contains(row.words)).count();
        assert_eq!(blocks, 1, "{name}: blocks with '{}'", row.words);
    }
    for program in RARE {
        blocks.retain(|block| !block.text.contains(program) || needs(program.split(' ').next().unwrap()));
    }
    let with_store = |block: &Block| block.text.contains("store.example.org");
    let store = if blocks.iter().any(with_store) { Server::start(&["--requirepass", "secret"]) } else { None };
    blocks.retain(|block| !with_store(block) || store.is_some());
    thread::scope(|threads| {
        for (number, block) in blocks.iter().enumerate() {
            // Each has a database of its own.
            let store = store.as_ref().map(|store| format!("127.0.0.1:{}/{}", store.port, number % 16));
            threads.spawn(move || {
                let known: Vec<_> = rows.iter().filter(|row| block.text.contains(row.words)).collect();
                let place = format!("{name}:{}", block.line);
                let scene = Scene::new(store);
                match known[..] {
                    [] if block.is_dialogue => check_dialogue(&scene, &row("", ""), &place, &block.text),
                    [row] if block.is_dialogue => check_dialogue(&scene, row, &place, &block.text),
                    [row] => check_script(&scene, row, &place, &block.text),
                    _ => panic!(
                        "{place}: {} rows of the tables above know this block, not one:\n{}",
                        known.len(),
                        block.text
                    ),
                }
            });
        }
    });
}

#[test]
fn every_command_of_the_readme_does_what_it_is_there_for() {
    check_page("README.md", README);
}

#[test]
fn every_command_of_the_guide_does_what_it_is_there_for() {
    check_page("docs/guide.md", GUIDE);
}

#[test]
fn every_command_about_groups_does_what_it_is_there_for() {
    check_page("docs/groups.md", GROUPS);
}

#[test]
fn every_command_about_many_machines_does_what_it_is_there_for() {
    check_page("docs/cluster.md", CLUSTER);
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
