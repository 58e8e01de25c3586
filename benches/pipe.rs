//! How fast, how soon and with how much memory bytes pass through, beside other programs.
//!
//! `cargo bench --bench pipe [-- [--runs N] [--quick] [--pcproxy PATH] [FILTER]...]`; see README.md.

#![forbid(unsafe_code)]

mod support;

use std::fs::File;
use std::io::{Read, Write, copy, pipe, sink};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::contestant::Samples;
use support::stage::{drain, pipeline, pipeline_to};
use support::stats::{greatest, least, median};
use support::{
    Comparison, Contestant, GIB, MIB, Options, Set, Stage, Table, find, found, interleaved, main_with, proc, roles,
    trips,
};
use tempfile::{NamedTempFile, TempDir};

/// Above 1, pcproxy is faster.
const TIMES_AS_FAST: &str = "pcproxy is × as fast";
/// Below 1, pcproxy needs less.
const TIMES_AS_MUCH: &str = "pcproxy needs ×";

fn main() -> ExitCode {
    let sets = [
        Set { name: "zero-copy", run: zero_copy },
        Set { name: "file", run: file },
        Set { name: "large-buffer", run: large_buffer },
        Set { name: "append", run: append },
        Set { name: "lines", run: lines },
        Set { name: "checksum", run: checksum },
        Set { name: "latency", run: latency },
        Set { name: "idle", run: idle },
        Set { name: "start", run: start },
        Set { name: "memory", run: memory },
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// Bytes in a time, as GiB a second.
fn gib_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / GIB as f64 / time.as_secs_f64()
}

/// `source | X | sink`, where source and sink cost next to nothing.
fn zero_copy(options: &Options) -> Result<()> {
    let bytes = options.amount(20 * GIB);
    let (source, sink) = (roles::source(bytes)?, roles::sink()?);
    let contestants =
        found([Some(options.pcproxy(&[])), Some(Contestant::nothing()), find("pv", &["-q"]), find("cat", &[])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        Ok(gib_per_second(bytes, pipeline(&source, &contestant.words, &sink)?))
    });
    let title = format!("zero-copy: source | X | sink, {}", size(bytes));
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));
    Ok(())
}

/// `cat FILE | X | cat >/dev/null`.
fn file(options: &Options) -> Result<()> {
    let bytes = options.amount(2 * GIB);
    let file = cached_file(bytes)?;
    let (source, sink) = (cat(Some(file.path()))?, cat(None)?);
    let contestants = found([Some(options.pcproxy(&[])), find("pv", &["-q"]), find("cat", &[])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        Ok(gib_per_second(bytes, pipeline(&source, &contestant.words, &sink)?))
    });
    let title = format!("file: cat FILE | X | cat >/dev/null, {} in the page cache", size(bytes));
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));
    Ok(())
}

/// A buffer of 1 GiB: `source | X | sink`, and the memory it needs.
fn large_buffer(options: &Options) -> Result<()> {
    let bytes = options.amount(4 * GIB);
    let (source, sink) = (roles::source(bytes)?, roles::sink()?);
    let contestants = found([Some(options.pcproxy(&["--buffer", "1G"])), find("mbuffer", &["-q", "-m", "1G"])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        Ok(gib_per_second(bytes, pipeline(&source, &contestant.words, &sink)?))
    });
    let title = format!("large-buffer: source | X | sink, {}", size(bytes));
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));

    let samples = interleaved(options.runs_up_to(3), &contestants, |contestant| peak_after(contestant, bytes));
    let title = format!("large-buffer: most memory resident, {} moved to a consumer that keeps up", size(bytes));
    print!("{}", Comparison { title, figure: "MiB", places: 1, ratio: TIMES_AS_MUCH }.table(&samples));
    Ok(())
}

/// `cat FILE | X >>OUT`, which no program can splice to.
fn append(options: &Options) -> Result<()> {
    let bytes = options.amount(GIB);
    let file = cached_file(bytes)?;
    let source = cat(Some(file.path()))?;
    let (folder, place) = match TempDir::new_in("/dev/shm") {
        Ok(folder) => (folder, "on tmpfs"),
        Err(_) => (TempDir::new()?, "in the folder for temporary files"),
    };
    let contestants = found([Some(options.pcproxy(&[])), find("dd", &["bs=128k", "status=none"])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        let file = NamedTempFile::new_in(&folder)?;
        let output = File::options().append(true).open(file.path())?;
        let time = pipeline_to(&source, &contestant.words, output)?;
        let written = file.as_file().metadata()?.len();
        ensure!(written == bytes, "{written} of {bytes} bytes arrived");
        Ok(gib_per_second(bytes, time))
    });
    let title = format!("append: cat FILE | X >>OUT {place}, {}", size(bytes));
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));
    Ok(())
}

/// `cat FILE | X | cat >/dev/null` for lines of 80 bytes: counted, and limited to 1M lines per second.
fn lines(options: &Options) -> Result<()> {
    const LINE: u64 = 80;
    let lines = options.amount(8 << 20);
    let file = NamedTempFile::new()?;
    let line = [&[b'x'; LINE as usize - 1][..], b"\n"].concat();
    (0..lines / 1024).try_for_each(|_| file.as_file().write_all(&line.repeat(1024)))?;
    let bytes = lines / 1024 * 1024 * LINE;
    let (source, sink) = (cat(Some(file.path()))?, cat(None)?);
    let contestants = found([Some(options.pcproxy(&["-q", "-l"])), find("pv", &["-q", "-l"])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        Ok(gib_per_second(bytes, pipeline(&source, &contestant.words, &sink)?))
    });
    let title = format!("lines: cat FILE | X | cat >/dev/null, lines of {LINE} bytes, {}", size(bytes));
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));

    let limited = [Some(options.pcproxy(&["-q", "-l", "--rate", "1M"])), find("pv", &["-q", "-l", "-L", "1M"])];
    let samples = interleaved(options.runs_up_to(3), &found(limited), |contestant| {
        let time = pipeline(&source, &contestant.words, &sink)?;
        Ok((bytes / LINE) as f64 / 1024.0 / 1024.0 / time.as_secs_f64())
    });
    let title = "lines: the same at 1M lines per second".to_owned();
    print!("{}", Comparison { title, figure: "M lines/s", places: 3, ratio: TIMES_AS_FAST }.table(&samples));
    Ok(())
}

/// `cat FILE | X | cat >/dev/null`, with a checksum of what passes.
fn checksum(options: &Options) -> Result<()> {
    let bytes = options.amount(2 * GIB);
    let file = cached_file(bytes)?;
    let (source, sink) = (cat(Some(file.path()))?, cat(None)?);
    let tee = Contestant::new("bash", "bash", &["-c", "tee >(sha256sum >/dev/null)"]);
    let contestants = found([
        Some(options.pcproxy(&["-q", "--hash", "sha256"])),
        Some(tee.called("tee >(sha256sum)".to_owned())),
        Some(options.pcproxy(&["-q", "--hash", "blake3"])),
    ]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        Ok(gib_per_second(bytes, pipeline(&source, &contestant.words, &sink)?))
    });
    let title = format!("checksum: cat FILE | X | cat >/dev/null, {}", size(bytes));
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));
    Ok(())
}

/// One byte in, the same byte out.
fn latency(options: &Options) -> Result<()> {
    let trips = options.amount(20_000);
    let contestants = found([Some(options.pcproxy(&[])), find("cat", &[]), find("pv", &["-q"])]);
    let samples = interleaved(options.runs, &contestants, |contestant| trips::run(contestant, trips));
    let title = format!("latency: one byte in, the same byte out, {trips} times a run, µs");
    print!("{}", trips::table(title, &samples));
    Ok(())
}

/// Wakeups while nothing happens. As nobody works, all are measured at the same time.
fn idle(options: &Options) -> Result<()> {
    let silence = Duration::from_secs(3);
    let contestants =
        found([Some(options.pcproxy(&[])), find("cat", &[]), find("pv", &["-q"]), find("mbuffer", &["-q"])]);
    let mut samples: Vec<_> =
        contestants.iter().map(|one| Samples { label: one.label.clone(), runs: Ok(Vec::new()) }).collect();
    for _ in 0..options.runs_up_to(3) {
        let mut running = Vec::new();
        for contestant in &contestants {
            let (stdin, mut input) = pipe()?;
            let (output, stdout) = pipe()?;
            let stage = Stage::start(&contestant.words, stdin, stdout)?;
            // One byte passes, so that what is idle has worked before.
            input.write_all(b"x")?;
            running.push((stage, input, output));
        }
        sleep(Duration::from_millis(500));
        let count = |(stage, ..): &(Stage, _, _)| proc::context_switches(stage.id());
        let before: Vec<_> = running.iter().map(count).collect();
        sleep(silence);
        for ((running, before), samples) in running.iter().zip(before).zip(&mut samples) {
            let rate = before.and_then(|before| Ok((count(running)? - before) as f64 / silence.as_secs_f64()));
            match (&mut samples.runs, rate) {
                (Ok(runs), Ok(rate)) => runs.push(rate),
                (runs, Err(error)) => *runs = Err(format!("{error:#}")),
                (Err(_), Ok(_)) => {}
            }
        }
    }
    let mut table =
        Table::new("idle: context switches a second in 3 s of silence", &["", "median per s", "min", "max"]);
    table.rows(&samples, |runs| [median(runs), least(runs), greatest(runs)].map(|rate| format!("{rate:.2}")).into());
    print!("{table}");
    Ok(())
}

/// From the start of a process to its end, with nothing to do.
fn start(options: &Options) -> Result<()> {
    let times = options.amount(200);
    let contestants = found([Some(options.pcproxy(&[])), find("cat", &[])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        let start = Instant::now();
        for _ in 0..times {
            let (program, arguments) = contestant.words.split_first().context("no program")?;
            let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{status}");
        }
        Ok(1e3 * start.elapsed().as_secs_f64())
    });
    let title = format!("start: X </dev/null, {times} times, one after another");
    print!("{}", Comparison { title, figure: "ms in all", places: 0, ratio: TIMES_AS_MUCH }.table(&samples));
    Ok(())
}

/// The memory that the default buffer needs.
fn memory(options: &Options) -> Result<()> {
    let bytes = options.amount(GIB);
    let contestants =
        found([Some(options.pcproxy(&[])), find("cat", &[]), find("pv", &["-q"]), find("mbuffer", &["-q"])]);
    let samples = interleaved(options.runs_up_to(3), &contestants, |contestant| peak_after(contestant, bytes));
    let title = format!("memory: most memory resident, {} moved with the default buffer", size(bytes));
    print!("{}", Comparison { title, figure: "MiB", places: 1, ratio: TIMES_AS_MUCH }.table(&samples));
    Ok(())
}

/// The most memory, in MiB, that was resident in `contestant` by the time it had moved `bytes`.
fn peak_after(contestant: &Contestant, bytes: u64) -> Result<f64> {
    let (stdin, input) = pipe()?;
    let (mut output, stdout) = pipe()?;
    let stage = Stage::start(&contestant.words, stdin, stdout)?;
    // Both its neighbours stay until it has been looked at: it would end with them.
    let source = Stage::start(&roles::source(bytes)?, Stdio::null(), input.try_clone()?)?;
    drain(&mut output, bytes)?;
    let peak = proc::peak_memory(stage.id())?;
    drop(input);
    source.finish()?;
    stage.finish()?;
    Ok(peak as f64 / MIB as f64)
}

/// A file of `bytes` zeros that has been read once, and is removed when dropped.
fn cached_file(bytes: u64) -> Result<NamedTempFile> {
    let file = NamedTempFile::with_prefix("pcproxy-bench-")?;
    file.as_file().set_len(bytes)?;
    copy(&mut File::open(file.path())?.take(bytes), &mut sink())?;
    Ok(file)
}

/// `cat`, of `file` or of stdin.
fn cat(file: Option<&Path>) -> Result<Vec<String>> {
    let file = file.map(|path| path.to_str().context("the path of the temporary file is not text")).transpose()?;
    Ok(["cat"].into_iter().chain(file).map(String::from).collect())
}

/// A size in the largest unit that fits.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(GIB) { format!("{} GiB", bytes / GIB) } else { format!("{} MiB", bytes / MIB) }
}
