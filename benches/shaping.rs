//! How well a rate is kept, beside other programs.
//!
//! `cargo bench --bench shaping [-- [--runs N] [--quick] [--pcproxy PATH] [FILTER]...]`; see README.md.

#![forbid(unsafe_code)]

mod support;

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use support::curve::Curve;
use support::stage::read_until;
use support::stats::{farthest, greatest, least, median};
use support::{
    Comparison, Contestant, GIB, KIB, MIB, Options, Set, Stage, Table, find, found, interleaved, main_with, proc, roles,
};

/// More than any row moves.
const ENDLESS: u64 = 1024 * GIB;

/// The most that is read at once.
const READ: usize = 1 << 20;

fn main() -> ExitCode {
    let sets = [
        Set { name: "rate-100K", run: |options| rate(options, "100K", 100 * KIB) },
        Set { name: "rate-10M", run: |options| rate(options, "10M", 10 * MIB) },
        Set { name: "rate-500M", run: |options| rate(options, "500M", 500 * MIB) },
        Set { name: "busy", run: busy },
        Set { name: "after-idle", run: after_idle },
        Set { name: "after-suspend", run: after_suspend },
        Set { name: "small-buffer", run: small_buffer },
        Set { name: "cost", run: cost },
        Set { name: "slow", run: slow },
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// A rate, and how to write it: the options' units differ from program to program.
type Rate<'a> = (&'a str, u64);

/// pcproxy with a rate and other arguments.
fn pcproxy(options: &Options, (name, rate): Rate, others: &[&str]) -> Contestant {
    let label = [&["pcproxy --rate", name], others].concat().join(" ");
    options.pcproxy(&[&["--rate", &rate.to_string()], others].concat()).called(label)
}

/// A peer whose last option takes a rate.
fn peer(program: &str, arguments: &[&str], (name, rate): Rate) -> Option<Contestant> {
    let rate = rate.to_string();
    let contestant = find(program, &[arguments, &[rate.as_str()]].concat())?;
    let label = contestant.label.replace(&rate, name);
    Some(contestant.called(label))
}

/// pcproxy and its peers at a rate.
fn shapers(options: &Options, rate: Rate) -> Vec<Contestant> {
    found([
        Some(pcproxy(options, rate, &[])),
        peer("pv", &["-q", "-L"], rate),
        peer("mbuffer", &["-q", "-R"], rate),
        peer("cstream", &["-t"], rate),
    ])
}

/// How long a row lasts.
fn window(options: &Options, seconds: u64) -> Duration {
    Duration::from_millis(if options.quick { seconds * 250 } else { seconds * 1000 })
}

/// A process that stands between a source and this program.
struct Between {
    stage: Stage,
    output: PipeReader,
    buffer: Vec<u8>,
}

impl Between {
    /// Starts it, with an input that is written to by hand.
    fn start(contestant: &Contestant) -> Result<(Self, PipeWriter)> {
        let (stdin, input) = pipe()?;
        let (output, stdout) = pipe()?;
        let stage = Stage::start(&contestant.words, stdin, stdout)?;
        Ok((Between { stage, output, buffer: vec![0; READ] }, input))
    }

    /// Starts it behind a source that offers all that is taken.
    fn start_with_source(contestant: &Contestant) -> Result<(Self, Stage)> {
        let (between, input) = Self::start(contestant)?;
        Ok((between, Stage::start(&roles::source(ENDLESS)?, Stdio::null(), input)?))
    }

    /// Reads for this long, or to the end if that comes first. Returns whether more may come.
    fn read(&mut self, time: Duration, record: impl FnMut(Instant, usize)) -> Result<bool> {
        read_until(&mut self.output, Instant::now() + time, &mut self.buffer, record)
    }
}

/// The rate kept by `contestant` for some time, its source offering more, and the processor time used.
fn keep(contestant: &Contestant, rate: u64, time: Duration) -> Result<(Curve, Duration)> {
    let (mut between, _source) = Between::start_with_source(contestant)?;
    let mut curve = Curve::new(rate);
    let more = between.read(time, |now, count| curve.record(now, count))?;
    ensure!(more, "ended early: {:#}", between.stage.finish().err().unwrap_or_else(|| anyhow::anyhow!("status 0")));
    curve.end(Instant::now());
    Ok((curve, proc::processor_time(between.stage.id())?))
}

/// The figures of curves, a row a contestant.
fn curves(options: &Options, title: String, contestants: &[Contestant], rate: u64, time: Duration) -> Table {
    let samples = interleaved(options.runs, contestants, |contestant| Ok(keep(contestant, rate, time)?.0));
    let columns = ["", "mean MiB/s", "error %", "min", "max", "burst ms", "worst", "largest gap ms", "worst"];
    let mut table = Table::new(title, &columns);
    table.rows(&samples, |runs| {
        let of = |figure: fn(&Curve) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let (mean, error) = (of(|curve| curve.mean() / MIB as f64), of(Curve::error));
        let (burst, gap) = (of(Curve::sigma_ms), of(Curve::largest_gap_ms));
        vec![
            format!("{:.4}", median(&mean)),
            format!("{:+.3}", median(&error)),
            format!("{:+.3}", least(&error)),
            format!("{:+.3}", greatest(&error)),
            format!("{:.2}", median(&burst)),
            format!("{:.2}", greatest(&burst)),
            format!("{:.2}", median(&gap)),
            format!("{:.2}", greatest(&gap)),
        ]
    });
    table
}

/// How a rate is kept for 5 seconds.
fn rate(options: &Options, name: &str, rate: u64) -> Result<()> {
    let time = window(options, 5);
    let contestants = shapers(options, (name, rate));
    let title = format!("rate-{name}: {} s of a source that offers more", time.as_secs_f64());
    print!("{}", curves(options, title, &contestants, rate, time));
    Ok(())
}

/// How rates are kept beside programs that use up the processors.
fn busy(options: &Options) -> Result<()> {
    let time = window(options, 5);
    for loops in [0, 4, 12] {
        let spinning: Result<Vec<_>> =
            (0..loops).map(|_| Stage::start(&roles::spin()?, Stdio::null(), Stdio::null())).collect();
        let spinning = spinning?;
        for rate in [("100K", 100 * KIB), ("10M", 10 * MIB), ("100M", 100 * MIB), ("500M", 500 * MIB)] {
            let contestants = found([
                Some(pcproxy(options, rate, &[])),
                Some(pcproxy(options, rate, &["--catch-up", "0"])),
                peer("pv", &["-q", "-L"], rate),
                peer("cstream", &["-t"], rate),
            ]);
            let title = format!("busy: {} beside {loops} busy loops, {} s", rate.0, time.as_secs_f64());
            print!("{}", curves(options, title, &contestants, rate.1, time));
        }
        for stage in spinning {
            stage.signal(Signal::KILL)?;
        }
    }
    Ok(())
}

/// How pcproxy keeps a high rate with buffers of several sizes.
fn small_buffer(options: &Options) -> Result<()> {
    let (name, rate) = ("500M", 500 * MIB);
    let time = window(options, 5);
    let contestants = ["64K", "1M", "16M"].map(|size| pcproxy(options, (name, rate), &["--buffer", size]));
    let title = format!("small-buffer: {} s at {name}", time.as_secs_f64());
    print!("{}", curves(options, title, &contestants, rate, time));
    Ok(())
}

/// What a pause does to the rate: all that was read, what followed the pause, and the bytes of the
/// first second after it.
struct Pause {
    whole: Curve,
    after: Curve,
    first_second: u64,
}

impl Pause {
    /// Nothing has been read yet.
    fn new(rate: u64) -> Self {
        Pause { whole: Curve::new(rate), after: Curve::new(rate), first_second: 0 }
    }

    /// Reads on for `time` after the pause, which is over now.
    fn end(&mut self, between: &mut Between, time: Duration) -> Result<()> {
        let resumed = Instant::now();
        between.read(time, |now, count| {
            self.whole.record(now, count);
            self.after.record(now, count);
            if now - resumed <= Duration::from_secs(1) {
                self.first_second += count as u64;
            }
        })?;
        Ok(())
    }
}

/// The figures of pauses, a row a contestant.
fn pauses(
    title: String,
    runs: usize,
    contestants: &[Contestant],
    measure: impl Fn(&Contestant) -> Result<Pause>,
) -> Table {
    let samples = interleaved(runs, contestants, measure);
    let columns = ["", "MiB in the first s after it", "worst", "burst ms", "worst", "error % after it", "farthest off"];
    let mut table = Table::new(title, &columns);
    table.rows(&samples, |runs| {
        let of = |figure: fn(&Pause) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let first = of(|pause| pause.first_second as f64 / MIB as f64);
        let (burst, error) = (of(|pause| pause.whole.sigma_ms()), of(|pause| pause.after.error()));
        vec![
            format!("{:.2}", median(&first)),
            format!("{:.2}", greatest(&first)),
            format!("{:.1}", median(&burst)),
            format!("{:.1}", greatest(&burst)),
            format!("{:+.2}", median(&error)),
            format!("{:+.2}", farthest(&error)),
        ]
    });
    table
}

/// One byte, silence, then 60 MB at once: does the silence become credit?
fn after_idle(options: &Options) -> Result<()> {
    let (name, rate) = ("10M", 10 * MIB);
    let silence = window(options, 4);
    let bytes = options.amount(60_000_000);
    let title = format!(
        "after-idle: 1 byte, {} s of silence, then {} MB offered at {name}",
        silence.as_secs_f64(),
        bytes / 1_000_000
    );
    let table = pauses(title, options.runs_up_to(3), &shapers(options, (name, rate)), |contestant| {
        let (mut between, mut input) = Between::start(contestant)?;
        let mut pause = Pause::new(rate);
        input.write_all(b"x")?;
        between.read(silence, |now, count| pause.whole.record(now, count))?;
        let _source = Stage::start(&roles::source(bytes)?, Stdio::null(), input)?;
        pause.end(&mut between, Duration::from_secs(bytes / rate + 10))?;
        let arrived = pause.whole.total();
        ensure!(arrived == bytes + 1, "{arrived} of {} bytes arrived", bytes + 1);
        between.stage.finish()?;
        Ok(pause)
    });
    print!("{table}");
    Ok(())
}

/// Stopped by a signal and continued, as by Ctrl-Z and `fg`: is the lost time caught up with?
fn after_suspend(options: &Options) -> Result<()> {
    let (name, rate) = ("10M", 10 * MIB);
    let suspended = window(options, 3);
    let time = Duration::from_secs(3);
    let title = format!("after-suspend: {} s stopped by SIGSTOP, at {name}", suspended.as_secs_f64());
    let table = pauses(title, options.runs_up_to(3), &shapers(options, (name, rate)), |contestant| {
        let (mut between, _source) = Between::start_with_source(contestant)?;
        let mut pause = Pause::new(rate);
        let more = between.read(window(options, 2), |now, count| pause.whole.record(now, count))?;
        ensure!(more, "ended early");
        between.stage.signal(Signal::STOP)?;
        between.read(suspended, |now, count| pause.whole.record(now, count))?;
        between.stage.signal(Signal::CONT)?;
        pause.end(&mut between, time)?;
        Ok(pause)
    });
    print!("{table}");
    Ok(())
}

/// The processor time of shaping.
fn cost(options: &Options) -> Result<()> {
    let time = window(options, 5);
    for (name, rate) in [("10M", 10 * MIB), ("500M", 500 * MIB)] {
        let contestants = found([Some(pcproxy(options, (name, rate), &[])), peer("pv", &["-q", "-L"], (name, rate))]);
        let samples = interleaved(options.runs, &contestants, |contestant| {
            Ok(1e3 * keep(contestant, rate, time)?.1.as_secs_f64())
        });
        let title = format!("cost: processor time in {} s at {name}", time.as_secs_f64());
        print!("{}", Comparison { title, figure: "ms", places: 1, ratio: "pcproxy needs ×" }.table(&samples));
    }
    Ok(())
}

/// A rate so low that each byte can be seen.
fn slow(options: &Options) -> Result<()> {
    let time = window(options, 5);
    let contestants = found([Some(pcproxy(options, ("10", 10), &[])), peer("pv", &["-q", "-L"], ("10", 10))]);
    let samples = interleaved(1, &contestants, |contestant| {
        let (mut between, _source) = Between::start_with_source(contestant)?;
        let mut reads = Vec::new();
        between.read(time, |now, count| reads.push((now, count)))?;
        Ok(reads)
    });
    let title = format!("slow: {} s at 10 bytes a second", time.as_secs_f64());
    let mut table = Table::new(title, &["", "bytes", "reads", "least gap ms", "median", "largest"]);
    table.rows(&samples, |runs| {
        let reads = &runs[0];
        let gaps: Vec<_> = reads.windows(2).map(|pair| 1e3 * (pair[1].0 - pair[0].0).as_secs_f64()).collect();
        let bytes: usize = reads.iter().map(|&(_, count)| count).sum();
        let mut cells = vec![bytes.to_string(), reads.len().to_string()];
        cells.extend([least(&gaps), median(&gaps), greatest(&gaps)].map(|gap| format!("{gap:.1}")));
        cells
    });
    print!("{table}");
    Ok(())
}
