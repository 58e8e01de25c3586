//! The programs that are measured: pcproxy and those it is compared with.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs, thread};

use anyhow::Result;

use super::Options;

/// The programs pcproxy is compared with: under which names each is looked for, and how it tells its
/// version. A newer version put beside that of the system goes first.
const PEERS: &[(&[&str], &str)] = &[
    (&["pv-new", "pv"], "--version"),
    (&["mbuffer-new", "mbuffer"], "--version"),
    (&["cstream"], "-V"),
    (&["cat"], "--version"),
    (&["dd"], "--version"),
    (&["nc"], "-h"),
    (&["socat"], "-V"),
];

/// A program with its arguments.
#[derive(Clone)]
pub struct Contestant {
    /// What the table calls it.
    pub label: String,
    /// The program and its arguments; none where nothing stands between source and sink.
    pub words: Vec<String>,
}

impl Contestant {
    /// `program`, called `name` in the table, with these arguments.
    pub fn new(name: &str, program: &str, arguments: &[&str]) -> Self {
        let label = [&[name], arguments].concat().join(" ");
        let words = [&[program], arguments].concat().into_iter().map(String::from).collect();
        Contestant { label, words }
    }

    /// No program at all.
    pub fn nothing() -> Self {
        Contestant { label: "nothing between".into(), words: Vec::new() }
    }

    /// The same program under another name in the table.
    pub fn called(mut self, label: String) -> Self {
        self.label = label;
        self
    }
}

/// The peer `name` with these arguments, if it is there. Otherwise says that its rows are missing.
pub fn find(name: &str, arguments: &[&str]) -> Option<Contestant> {
    let (names, _) = PEERS.iter().find(|(names, _)| names.last() == Some(&name))?;
    let Some((found, path)) = names.iter().find_map(|name| Some((name, on_path(name)?))) else {
        println!("\n({name} is not on PATH: its rows are missing)");
        return None;
    };
    Some(Contestant::new(found, path.to_str()?, arguments))
}

/// Those that are there.
pub fn found<const N: usize>(contestants: [Option<Contestant>; N]) -> Vec<Contestant> {
    contestants.into_iter().flatten().collect()
}

/// Where PATH leads to `name`.
fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Prints what the figures depend on: the day, the system, the processor and the versions.
pub fn header(options: &Options) {
    let uname = rustix::system::uname();
    let date = first_line("date", "-u +%F").unwrap_or_else(|| "unknown date".into());
    let cpu = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().into()))
        })
        .unwrap_or_else(|| String::from("unknown"));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("- date: {date}");
    println!("- kernel: {} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
    println!("- processor: {cpu}, {cores} cores");
    println!("- pcproxy: {}", first_line(&options.pcproxy, "--version").unwrap_or_else(|| "cannot be started".into()));
    for (names, question) in PEERS {
        let peer = names.iter().find(|name| on_path(name).is_some());
        let version = peer.and_then(|name| first_line(name, question)).unwrap_or_else(|| "not found".into());
        println!("- {}: {version}", peer.or(names.last()).unwrap_or(&""));
    }
    if options.quick {
        println!("- with --quick: the figures mean nothing");
    }
}

/// The first line with a number in it that `program` prints.
fn first_line(program: &str, arguments: &str) -> Option<String> {
    let output = Command::new(program).args(arguments.split(' ')).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().find(|line| line.contains(|c: char| c.is_ascii_digit())).map(String::from)
}

/// What was measured of one contestant: a value a run, or why it failed.
pub struct Samples<T> {
    pub label: String,
    pub runs: Result<Vec<T>, String>,
}

/// Measures the contestants in turn, `runs` times (A B C A B C ...), so that what changes on the
/// machine meets all of them. One that fails is left out from then on.
pub fn interleaved<T>(
    runs: usize,
    contestants: &[Contestant],
    mut measure: impl FnMut(&Contestant) -> Result<T>,
) -> Vec<Samples<T>> {
    let mut all: Vec<_> =
        contestants.iter().map(|one| Samples { label: one.label.clone(), runs: Ok(Vec::new()) }).collect();
    for _ in 0..runs {
        for (contestant, samples) in contestants.iter().zip(&mut all) {
            if let Ok(values) = &mut samples.runs {
                match measure(contestant) {
                    Ok(value) => values.push(value),
                    Err(error) => samples.runs = Err(format!("{error:#}")),
                }
            }
        }
    }
    all
}
