//! What it costs to be asked and steered, above all by those who do not mean well.
//!
//! `cargo bench --bench control [-- [--runs N] [--quick] [--pcproxy PATH] [FILTER]...]`; see README.md.

#![forbid(unsafe_code)]

mod support;

use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::stage::drain;
use support::stats::{greatest, least, median};
use support::table::ratio;
use support::{
    Comparison, Contestant, GIB, Options, Set, Stage, Table, find, found, interleaved, main_with, proc, roles,
};
use tempfile::TempDir;

/// A client that has had no answer by then gives up, as 'pcproxy ctl' does.
const PATIENCE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] = b"{\"do\":\"stats\"}\n";

fn main() -> ExitCode {
    let sets = [
        Set { name: "throughput", run: throughput },
        Set { name: "idle", run: idle },
        Set { name: "answer", run: answer },
        Set { name: "start", run: start },
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// What a client does until the run is gone, or it is told to end. Counts what it achieves.
type Deed = fn(&Path, &Orders);

/// Who else is there while a run is measured: the label, the options of pcproxy, and the client.
const GUESTS: &[(&str, &[&str], Option<Deed>)] = &[
    ("nobody attached", &[], None),
    ("--no-control", &["--no-control"], None),
    ("one that hangs", &[], Some(hang)),
    ("one that asks once a second", &[], Some(watch)),
    ("one that floods and reads", &[], Some(|path, orders| flood(path, orders, &REQUEST.repeat(100), true))),
    ("one that floods and never reads", &[], Some(|path, orders| flood(path, orders, &REQUEST.repeat(100), false))),
    ("one that floods with empty lines and reads", &[], Some(|path, orders| flood(path, orders, &[b'\n'; 1000], true))),
    ("one that sends binary", &[], Some(|path, orders| flood(path, orders, &[0xff; 1000], true))),
    ("100 that come and go", &[], Some(come_and_go)),
    ("32 that flood and read", &[], Some(crowd)),
];

/// What the guests of one run share.
#[derive(Default)]
struct Orders {
    over: AtomicBool,
    /// Replies, or connections where there are none.
    achieved: AtomicU64,
}

impl Orders {
    fn go_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn count(&self, more: usize) {
        self.achieved.fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// Connects and says nothing.
fn hang(path: &Path, orders: &Orders) {
    let Ok(mut stream) = UnixStream::connect(path) else { return };
    orders.count(1);
    // Until the run ends.
    let _ = stream.read(&mut [0]);
}

/// Asks as someone who looks on does.
fn watch(path: &Path, orders: &Orders) {
    let Ok(mut stream) = UnixStream::connect(path) else { return };
    while orders.go_on() && stream.write_all(REQUEST).is_ok() {
        orders.count(stream.read(&mut [0; 4096]).map_or(0, |_| 1));
        for _ in 0..10 {
            if orders.go_on() {
                sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Says `bytes` over and over without waiting for replies, and comes back when hung up on.
fn flood(path: &Path, orders: &Orders, bytes: &[u8], reads: bool) {
    while orders.go_on() {
        let Ok(stream) = UnixStream::connect(path) else { return };
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut piece = vec![0; 64 * 1024];
                while reads && let Ok(count @ 1..) = (&stream).read(&mut piece) {
                    orders.count(piece[..count].iter().filter(|byte| **byte == b'\n').count());
                }
            });
            while orders.go_on() && (&stream).write_all(bytes).is_ok() {}
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
    }
}

/// A hundred connections at once, over and over.
fn come_and_go(path: &Path, orders: &Orders) {
    while orders.go_on() {
        let streams: Vec<_> = (0..100).map_while(|_| UnixStream::connect(path).ok()).collect();
        if streams.is_empty() {
            return;
        }
        orders.count(streams.len());
    }
}

/// As many as a run has at the most.
fn crowd(path: &Path, orders: &Orders) {
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| flood(path, orders, &REQUEST.repeat(100), true));
        }
    });
}

/// A pcproxy between two pipes of ours, with its guests.
struct Run {
    stage: Stage,
    input: std::io::PipeWriter,
    output: std::io::PipeReader,
    socket: PathBuf,
    orders: Arc<Orders>,
    guests: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Run {
    /// Starts it, and waits until the guests are at work.
    fn start(options: &Options, label: &str) -> Result<Self> {
        let (_, arguments, deed) = GUESTS.iter().find(|(name, ..)| *name == label).context("no such guest")?;
        let folder = TempDir::new()?;
        let mut words = options.pcproxy(arguments).words;
        words.insert(0, format!("PCPROXY_DIR={}/pcproxy", folder.path().display()));
        let (stdin, mut input) = pipe()?;
        let (mut output, stdout) = pipe()?;
        let stage = Stage::start(&words, stdin, stdout)?;
        // Once a byte has passed it listens.
        input.write_all(b"x")?;
        output.read_exact(&mut [0])?;
        let socket = folder.path().join(format!("pcproxy/{}.sock", stage.id()));
        let orders = Arc::new(Orders::default());
        let guests = deed.map(|deed| {
            let (socket, orders) = (socket.clone(), orders.clone());
            thread::spawn(move || deed(&socket, &orders))
        });
        if guests.is_some() {
            sleep(Duration::from_millis(200));
        }
        Ok(Run { stage, input, output, socket, orders, guests, _folder: folder })
    }

    /// What it has used so far.
    fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            at: Instant::now(),
            processor: proc::processor_time(self.stage.id())?,
            switches: proc::context_switches(self.stage.id())?,
            achieved: self.orders.achieved.load(Ordering::Relaxed),
        })
    }

    /// Ends it, and its guests with it.
    fn finish(self) -> Result<()> {
        self.orders.over.store(true, Ordering::Relaxed);
        drop(self.input);
        self.stage.finish()?;
        if let Some(guests) = self.guests {
            guests.join().ok().context("a guest broke")?;
        }
        Ok(())
    }
}

/// A look at what a run has used since its start.
struct Usage {
    at: Instant,
    processor: Duration,
    switches: u64,
    achieved: u64,
}

/// What was used between two looks.
struct Used {
    /// Seconds.
    time: f64,
    /// Milliseconds of processor time.
    processor: f64,
    switches: f64,
    achieved: f64,
}

impl Usage {
    fn until(self, later: &Usage) -> Used {
        Used {
            time: later.at.duration_since(self.at).as_secs_f64(),
            processor: 1e3 * later.processor.saturating_sub(self.processor).as_secs_f64(),
            switches: later.switches.saturating_sub(self.switches) as f64,
            achieved: (later.achieved - self.achieved) as f64,
        }
    }
}

/// All guests, as contestants.
fn guests() -> Vec<Contestant> {
    GUESTS.iter().map(|(label, ..)| Contestant::nothing().called((*label).into())).collect()
}

/// `source | pcproxy | sink` with guests: what passes, and what pcproxy itself needs for it.
fn throughput(options: &Options) -> Result<()> {
    let bytes = options.amount(16 * GIB);
    let source = roles::source(bytes)?;
    let samples = interleaved(options.runs, &guests(), |guest| {
        let mut run = Run::start(options, &guest.label)?;
        let before = run.usage()?;
        let source = Stage::start(&source, Stdio::null(), run.input.try_clone()?)?;
        drain(&mut run.output, bytes)?;
        let used = before.until(&run.usage()?);
        source.finish()?;
        run.finish()?;
        Ok(used)
    });
    let gib = bytes as f64 / GIB as f64;
    let title = format!("throughput: source | pcproxy | sink, {gib} GiB, with clients of its control socket");
    let columns =
        ["", "pcproxy's CPU ms/GiB", "min", "max", "× nobody", "GiB/s", "× nobody", "replies or connections/s"];
    let mut table = Table::new(title, &columns);
    let processor = |runs: &[Used]| runs.iter().map(|run| run.processor / gib).collect::<Vec<_>>();
    let speed = |runs: &[Used]| runs.iter().map(|run| gib / run.time).collect::<Vec<_>>();
    let alone = samples[0].runs.as_ref().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    table.rows(&samples, |runs| {
        let (cost, pace) = (processor(runs), speed(runs));
        let mut cells: Vec<_> =
            [median(&cost), least(&cost), greatest(&cost)].map(|value| format!("{value:.1}")).into();
        cells.push(ratio(&cost, &processor(alone)));
        cells.push(format!("{:.2}", median(&pace)));
        cells.push(ratio(&pace, &speed(alone)));
        cells.push(format!("{:.0}", median(&runs.iter().map(|run| run.achieved / run.time).collect::<Vec<_>>())));
        cells
    });
    print!("{table}");
    Ok(())
}

/// What guests cost a run that has nothing else to do.
fn idle(options: &Options) -> Result<()> {
    let silence = Duration::from_millis(options.amount(3000));
    let samples = interleaved(options.runs_up_to(3), &guests(), |guest| {
        let run = Run::start(options, &guest.label)?;
        let before = run.usage()?;
        sleep(silence);
        let used = before.until(&run.usage()?);
        run.finish()?;
        Ok(used)
    });
    let title = format!("idle: {silence:?} of silence on both pipes, with clients of its control socket");
    let columns =
        ["", "pcproxy's CPU ms a second", "min", "max", "context switches a second", "replies or connections/s"];
    let mut table = Table::new(title, &columns);
    table.rows(&samples, |runs| {
        let of = |part: fn(&Used) -> f64| runs.iter().map(|run| part(run) / run.time).collect::<Vec<_>>();
        let cost = of(|run| run.processor);
        let mut cells: Vec<_> =
            [median(&cost), least(&cost), greatest(&cost)].map(|value| format!("{value:.2}")).into();
        cells.push(format!("{:.1}", median(&of(|run| run.switches))));
        cells.push(format!("{:.0}", median(&of(|run| run.achieved))));
        cells
    });
    print!("{table}");
    Ok(())
}

/// How soon someone who comes and asks is answered.
fn answer(options: &Options) -> Result<()> {
    let times = options.amount(32).max(2) as usize;
    let guests: Vec<_> = guests().into_iter().filter(|guest| guest.label != "--no-control").collect();
    let samples = interleaved(options.runs_up_to(3), &guests, |guest| {
        let run = Run::start(options, &guest.label)?;
        let mut waits = Waits::default();
        for _ in 0..times {
            // Its own questions are not to be what it waits for.
            sleep(Duration::from_millis(100));
            waits.asked += 1;
            match ask(&run.socket) {
                Some(wait) => waits.answered.push(1e3 * wait.as_secs_f64()),
                // One is enough to know.
                None => break,
            }
        }
        run.finish()?;
        Ok(waits)
    });
    let title = format!("answer: connect, ask and be answered, {times} times, ms");
    let mut table = Table::new(title, &["", "median", "worst", "no answer within 2 s"]);
    table.rows(&samples, |runs| {
        let all: Vec<_> = runs.iter().flat_map(|run| run.answered.iter().copied()).collect();
        let asked: usize = runs.iter().map(|run| run.asked).sum();
        let missed = format!("{} of {asked}", asked - all.len());
        let show = |time: f64| if all.is_empty() { "never".into() } else { format!("{time:.1}") };
        vec![show(median(&all)), show(greatest(&all)), missed]
    });
    print!("{table}");
    Ok(())
}

#[derive(Default)]
struct Waits {
    asked: usize,
    /// Milliseconds.
    answered: Vec<f64>,
}

/// How long a new client waits for its answer.
fn ask(socket: &Path) -> Option<Duration> {
    let start = Instant::now();
    let (answered, answer) = std::sync::mpsc::channel();
    let socket = socket.to_owned();
    // Even to connect may take for ever.
    thread::spawn(move || {
        let mut line = String::new();
        let asked = UnixStream::connect(socket).and_then(|stream| {
            (&stream).write_all(REQUEST)?;
            BufReader::new(stream).read_line(&mut line)
        });
        if asked.is_ok_and(|read| read > 0) {
            let _ = answered.send(start.elapsed());
        }
    });
    answer.recv_timeout(PATIENCE).ok()
}

/// From the start of a process to its end, with nothing to do.
fn start(options: &Options) -> Result<()> {
    let times = options.amount(200);
    let folder = TempDir::new()?;
    let contestants = found([Some(options.pcproxy(&[])), Some(options.pcproxy(&["--no-control"])), find("cat", &[])]);
    let samples = interleaved(options.runs, &contestants, |contestant| {
        let begin = Instant::now();
        for _ in 0..times {
            let (program, arguments) = contestant.words.split_first().context("no program")?;
            let mut command = Command::new(program);
            command.args(arguments).env("PCPROXY_DIR", folder.path().join("pcproxy"));
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{status}");
        }
        Ok(1e3 * begin.elapsed().as_secs_f64() / times as f64)
    });
    let title = format!("start: X </dev/null, {times} times, one after another");
    print!("{}", Comparison { title, figure: "ms each", places: 3, ratio: "pcproxy needs ×" }.table(&samples));
    Ok(())
}
