//! Limits that many transfers share.
//!
//! `cargo bench --bench group [-- [--runs N] [--quick] [--pcproxy PATH] [FILTER]...]`; see README.md.

#![forbid(unsafe_code)]

mod support;

use std::fs::Permissions;
use std::io::{PipeReader, pipe};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use support::meter::{Log, Meter};
use support::stage::pipeline;
use support::verdict::Target::{AtLeast, AtMost, Open, Within};
use support::verdict::{Figure, verdicts};
use support::{GIB, MIB, Options, Set, Stage, find, main_with, proc, roles};
use tempfile::{Builder, TempDir};

/// More than any member moves.
const ENDLESS: u64 = 1024 * GIB;

/// The limit of most sets, in bytes a second.
const LIMIT: u64 = 40 * MIB;

/// Where members who have just joined are not yet measured.
const SETTLE: Duration = Duration::from_millis(500);

/// What a rate is taken over where one changes.
const WINDOW: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let sets = [
        Set { name: "sum-8", run: sum_8 },
        Set { name: "weights", run: weights },
        Set { name: "idle", run: idle },
        Set { name: "min-rate", run: min_rate },
        Set { name: "kill", run: kill },
        Set { name: "levels", run: levels },
        Set { name: "borrow", run: borrow },
        Set { name: "cost", run: cost },
        Set { name: "join-64", run: join_64 },
        Set { name: "alone", run: alone },
        Set { name: "change", run: change },
        Set { name: "trickle", run: trickle },
        Set { name: "busy", run: busy },
        Set { name: "many", run: many },
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// Groups that nobody else knows of, and pipelines `source | pcproxy | meter` that share them.
struct Scene {
    pcproxy: Vec<String>,
    meter: Meter,
    members: Vec<Member>,
    /// How many were made to end.
    dismissed: usize,
    _folder: TempDir,
}

/// One of the pipelines.
struct Member {
    source: Stage,
    /// What the source fills: whoever takes the place of pcproxy gets it.
    input: PipeReader,
    pcproxy: Stage,
    /// The number of its output.
    pipe: usize,
}

/// A folder for the files of groups, in memory where there is a place for that, as there is on most
/// systems.
fn runtime_folder() -> Result<TempDir> {
    let mut folder = Builder::new();
    let folder = folder.permissions(Permissions::from_mode(0o700));
    Ok(folder.tempdir_in("/dev/shm").or_else(|_| folder.tempdir())?)
}

/// pcproxy with these arguments, its groups in `folder`.
fn pcproxy(options: &Options, folder: &Path, arguments: &[&str]) -> Vec<String> {
    let setting = format!("PCPROXY_DIR={}/pcproxy", folder.display());
    [vec![setting], options.pcproxy(arguments).words].concat()
}

/// A source of all that is taken, and its end.
fn source() -> Result<(Stage, PipeReader)> {
    let (input, writer) = pipe()?;
    Ok((Stage::start(&roles::source(ENDLESS)?, Stdio::null(), writer)?, input))
}

impl Scene {
    /// No members yet, and groups with these limits.
    fn new(options: &Options, limits: &[(&str, &str)]) -> Result<Self> {
        let folder = runtime_folder()?;
        let pcproxy = pcproxy(options, folder.path(), &[]);
        let scene = Scene { pcproxy, meter: Meter::start()?, members: Vec::new(), dismissed: 0, _folder: folder };
        limits.iter().try_for_each(|(group, rate)| scene.set(group, rate))?;
        Ok(scene)
    }

    /// Limits a group.
    fn set(&self, group: &str, rate: &str) -> Result<()> {
        Stage::start(&self.words(&["group", "set", group, rate]), Stdio::null(), Stdio::null())?.finish()
    }

    fn words(&self, arguments: &[&str]) -> Vec<String> {
        self.pcproxy.iter().cloned().chain(arguments.iter().map(|&word| word.into())).collect()
    }

    /// Starts pcproxy between `input` and the meter. Returns the number of its output, too.
    fn start(&self, input: &PipeReader, arguments: &[&str]) -> Result<(Stage, usize)> {
        let (output, stdout) = pipe()?;
        let pipe = self.meter.watch(output)?;
        Ok((Stage::start(&self.words(arguments), input.try_clone()?, stdout)?, pipe))
    }

    /// Adds `count` pipelines whose pcproxy has these arguments.
    fn add(&mut self, count: usize, arguments: &[&str]) -> Result<()> {
        for _ in 0..count {
            let (source, input) = source()?;
            let (pcproxy, pipe) = self.start(&input, arguments)?;
            self.members.push(Member { source, input, pcproxy, pipe });
        }
        Ok(())
    }

    /// The same with a source that these words start.
    fn add_from(&mut self, count: usize, words: &[String], arguments: &[&str]) -> Result<()> {
        for _ in 0..count {
            let (input, writer) = pipe()?;
            let source = Stage::start(words, Stdio::null(), writer)?;
            let (pcproxy, pipe) = self.start(&input, arguments)?;
            self.members.push(Member { source, input, pcproxy, pipe });
        }
        Ok(())
    }

    /// Kills a pcproxy, and puts another in its place.
    fn replace(&mut self, index: usize, arguments: &[&str]) -> Result<()> {
        self.members[index].pcproxy.signal(Signal::KILL)?;
        self.dismissed += 1;
        let (pcproxy, pipe) = self.start(&self.members[index].input, arguments)?;
        let member = &mut self.members[index];
        (member.pcproxy, member.pipe) = (pcproxy, pipe);
        Ok(())
    }

    /// Waits until all have begun, and a little longer.
    fn settle(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if let Err(error) = self.meter.first(self.members[index].pipe) {
                // If it has ended, it can tell why.
                let pcproxy = self.members.swap_remove(index).pcproxy;
                pcproxy.signal(Signal::KILL)?;
                return pcproxy.finish().context(error);
            }
        }
        sleep(SETTLE);
        Ok(())
    }

    /// What came from then until now.
    fn end(mut self, from: Instant) -> Result<Log> {
        let ended = self.meter.ended().saturating_sub(self.dismissed);
        ensure!(ended == 0, "{ended} of the pipelines ended early");
        let log = self.meter.stop(from..Instant::now());
        self.members.clear();
        log
    }

    /// What comes in this time, once all have begun.
    fn run(mut self, time: Duration) -> Result<Log> {
        self.settle()?;
        let from = Instant::now();
        sleep(time);
        self.end(from)
    }
}

/// How long a part of a set lasts.
fn part(options: &Options, seconds: u64) -> Duration {
    Duration::from_millis(if options.quick { seconds * 250 } else { seconds * 1000 })
}

fn runs(options: &Options) -> usize {
    options.runs_up_to(3)
}

/// How evenly something is divided among those that came out of these pipes (Jain): 1 if all get the
/// same, 1/n if one of n gets all.
fn fairness(log: &Log, pipes: impl IntoIterator<Item = usize>) -> Figure {
    let shares: Vec<_> = pipes.into_iter().map(|pipe| log.of(pipe..pipe + 1).total() as f64).collect();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let index = shares.iter().sum::<f64>().powi(2) / (shares.len() as f64 * squares);
    Figure::new(format!("fairness among {}", shares.len()), AtLeast(0.99), [index])
}

/// How late the meter came at most: so much of a burst may be its own.
fn lateness(log: &Log) -> Figure {
    Figure::new("the meter itself late by, ms", Open, [log.late_ms()])
}

/// Eight that always want more.
fn sum_8(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("sum-8: 8 members in 40M, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let mut scene = Scene::new(options, &[("all", "40M")])?;
        scene.add(8, &["--group", "all"])?;
        let log = scene.run(time)?;
        let sum = log.curve(LIMIT);
        let bursts = (0..8).map(|member| log.of(member..member + 1).curve(LIMIT / 8).sigma_ms());
        Ok(vec![
            Figure::new("sum, error %", Within(0.2), [sum.error()]),
            Figure::new("sum, burst ms", AtMost(15.0), [sum.sigma_ms()]),
            fairness(&log, 0..8),
            Figure::new("a member, burst ms of its share", Open, bursts),
            lateness(&log),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// One that always wants more beside many that pass on a little now and then.
fn trickle(options: &Options) -> Result<()> {
    let time = part(options, 5);
    for bytes in [100, 6000, 40_000] {
        for count in [5, 20, 60] {
            let title = format!("trickle: 1 member and {count} with {bytes} bytes every 20 ms in 10M");
            let table = verdicts(&title, runs(options), || {
                let mut scene = Scene::new(options, &[("all", "10M")])?;
                scene.add(1, &["--group", "all"])?;
                scene.add_from(count, &roles::drip(bytes, 20)?, &["--group", "all"])?;
                let log = scene.run(time)?;
                let sum = log.curve(10 * MIB);
                Ok(vec![
                    Figure::new("sum, % of the limit", AtLeast(97.0), [100.0 + sum.error()]),
                    Figure::new("sum, burst ms", AtMost(15.0), [sum.sigma_ms()]),
                    lateness(&log),
                ])
            })?;
            print!("{table}");
        }
    }
    Ok(())
}

/// Four members beside programs that use up the processors.
fn busy(options: &Options) -> Result<()> {
    let time = part(options, 5);
    for loops in [0, 4, 12] {
        let title = format!("busy: 4 members in 40M beside {loops} busy loops");
        let table = verdicts(&title, runs(options), || {
            let spinning: Result<Vec<_>> =
                (0..loops).map(|_| Stage::start(&roles::spin()?, Stdio::null(), Stdio::null())).collect();
            let spinning = spinning?;
            let mut scene = Scene::new(options, &[("all", "40M")])?;
            scene.add(4, &["--group", "all"])?;
            let log = scene.run(time);
            for stage in spinning {
                stage.signal(Signal::KILL)?;
            }
            let (log, most) = (log?, if loops > 4 { 1.0 } else { 0.3 });
            let sum = log.curve(LIMIT);
            Ok(vec![
                Figure::new("sum, error %", Within(most), [sum.error()]),
                Figure::new("sum, burst ms", Open, [sum.sigma_ms()]),
                fairness(&log, 0..4),
                lateness(&log),
            ])
        })?;
        print!("{table}");
    }
    Ok(())
}

/// Hundreds that start at once, all of them from one source.
fn many(options: &Options) -> Result<()> {
    let (time, second) = (part(options, 5), Duration::from_secs(1));
    // A pipe for each.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    for count in [300, 900] {
        let title = format!("many: {count} members that start at once in 4M, {} s", time.as_secs_f64());
        let table = verdicts(&title, runs(options), || {
            let scene = Scene::new(options, &[("all", "4M")])?;
            let (source, input) = source()?;
            let began = Instant::now();
            let members: Vec<_> =
                (0..count).map(|_| scene.start(&input, &["--group", "all"])).collect::<Result<_>>()?;
            let firsts: Vec<_> = members.iter().map(|(_, pipe)| scene.meter.first(*pipe)).collect::<Result<_>>()?;
            let last = firsts.into_iter().max().unwrap_or(began);
            sleep(SETTLE);
            let from = Instant::now();
            let processor_time =
                || -> Result<Duration> { members.iter().map(|(pcproxy, _)| proc::processor_time(pcproxy.id())).sum() };
            let before = processor_time()?;
            sleep(time);
            let (until, used) = (Instant::now(), processor_time()?.saturating_sub(before));
            scene.set("all", "1M")?;
            let told = Instant::now();
            sleep(second);
            let log = scene.end(began)?;
            for stage in members.into_iter().map(|(pcproxy, _)| pcproxy).chain([source]) {
                stage.signal(Signal::KILL)?;
            }
            let sum = log.during(from..until);
            let followed = reached(&log, told, told + second, MIB, 0.9..1.1);
            Ok(vec![
                Figure::new(
                    "sum, % of the limit",
                    AtLeast(if count > 300 { 90.0 } else { 97.0 }),
                    [100.0 + sum.curve(4 * MIB).error()],
                ),
                Figure::new("sum, burst ms", AtMost(15.0), [sum.curve(4 * MIB).sigma_ms()]),
                fairness(&sum, 0..count),
                Figure::new("the last has its first byte after, ms", Open, [1e3 * (last - began).as_secs_f64()]),
                Figure::new("1M from 4M, ms after the command", AtMost(100.0), [followed]),
                Figure::new(
                    "all of them, % of a core",
                    Open,
                    [100.0 * used.as_secs_f64() / (until - from).as_secs_f64()],
                ),
                lateness(&log),
            ])
        })?;
        print!("{table}");
    }
    Ok(())
}

/// Shares in proportion to weights.
fn weights(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("weights: 100, 200 and 400 in 40M, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let weights = [100, 200, 400];
        let mut scene = Scene::new(options, &[("all", "40M")])?;
        for weight in weights {
            scene.add(1, &["--group", "all", "--weight", &weight.to_string()])?;
        }
        let log = scene.run(time)?;
        let mut figures = vec![Figure::new("sum, error %", Within(0.2), [log.curve(LIMIT).error()])];
        for (member, weight) in weights.into_iter().enumerate() {
            let fair = log.total() as f64 * f64::from(weight) / 700.0;
            let error = 100.0 * (log.of(member..member + 1).total() as f64 / fair - 1.0);
            figures.push(Figure::new(format!("share of {weight}, error %"), Within(5.0), [error]));
        }
        Ok(figures)
    })?;
    print!("{table}");
    Ok(())
}

/// How long after `from` the first window ends, of those that began since then, in which a share of
/// what `rate` yields came that is in `wanted`. In milliseconds.
fn reached(log: &Log, from: Instant, until: Instant, rate: u64, wanted: Range<f64>) -> f64 {
    let fair = rate as f64 * WINDOW.as_secs_f64();
    let ends = (0..).map(|step| from + WINDOW + Duration::from_millis(step)).take_while(|&end| end <= until);
    let mut good = ends.filter(|&end| wanted.contains(&(log.between(end - WINDOW, end) as f64 / fair)));
    good.next().map_or(f64::INFINITY, |end| 1e3 * (end - from).as_secs_f64())
}

/// One of four that stops and goes on: how soon the others have its share, and it has it back.
fn idle(options: &Options) -> Result<()> {
    let cycles = if options.quick { 1 } else { 8 };
    let title = format!("idle: one of 4 in 40M stops, and goes on, {cycles} times");
    let table = verdicts(&title, runs(options), || {
        let mut scene = Scene::new(options, &[("all", "40M")])?;
        scene.add(4, &["--group", "all"])?;
        scene.settle()?;
        let began = Instant::now();
        let mut turns = Vec::new();
        for _ in 0..cycles {
            // What its buffers hold lasts for 0.1 s more.
            scene.members[0].source.signal(Signal::STOP)?;
            sleep(Duration::from_secs(1));
            turns.push(Instant::now());
            scene.members[0].source.signal(Signal::CONT)?;
            sleep(Duration::from_secs(1));
        }
        let log = scene.end(began)?;
        let (one, others) = (log.of(0..1), log.of(1..4));
        let silences = turns.iter().map(|&turn| one.last_before(turn).unwrap_or(turn));
        let taken = silences.zip(&turns).map(|(silent, &turn)| reached(&others, silent, turn, LIMIT, 0.97..9.0));
        let second = Duration::from_secs(1);
        let back = turns.iter().map(|&turn| reached(&one, turn, turn + second, LIMIT / 4, 0.9..9.0));
        Ok(vec![
            Figure::new("the others have 97 % of the limit, ms after its last byte", AtMost(200.0), taken),
            Figure::new("it has 90 % of its share, ms after more came in", AtMost(200.0), back),
            Figure::new("sum, burst ms", Open, [log.curve(LIMIT).sigma_ms()]),
            lateness(&log),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// A guarantee against seven others.
fn min_rate(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("min-rate: one with 6M of 10M, 7 without, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let mut scene = Scene::new(options, &[("all", "10M")])?;
        scene.add(1, &["--group", "all", "--min-rate", "6M"])?;
        scene.add(7, &["--group", "all"])?;
        let log = scene.run(time)?;
        let one = log.of(0..1);
        let least = one.least_within(Duration::from_secs(1)).map_or(f64::NAN, |bytes| bytes as f64 / MIB as f64);
        let sum = log.curve(10 * MIB);
        Ok(vec![
            Figure::new("its least second, MiB", AtLeast(5.9), [least]),
            Figure::new("its mean, MiB/s", Open, [one.curve(6 * MIB).mean() / MIB as f64]),
            Figure::new("sum, error %", Within(0.2), [sum.error()]),
            Figure::new("sum, burst ms", AtMost(15.0), [sum.sigma_ms()]),
            lateness(&log),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// Members that die where they stand, and others that take their place.
fn kill(options: &Options) -> Result<()> {
    let (time, pause) = (part(options, 10), Duration::from_millis(50));
    let title = format!("kill: one of 8 in 40M killed and replaced each 50 ms, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let arguments = ["--group", "all"];
        let mut scene = Scene::new(options, &[("all", "40M")])?;
        scene.add(8, &arguments)?;
        scene.settle()?;
        let began = Instant::now();
        let mut random = 1u64;
        while began.elapsed() < time {
            sleep(pause);
            // Knuth's MMIX generator, whose high bits are good enough here.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            scene.replace((random >> 61) as usize, &arguments)?;
        }
        let killed = scene.dismissed as f64;
        let log = scene.end(began)?;
        let sum = log.curve(LIMIT);
        Ok(vec![
            Figure::new("sum, burst ms", AtMost(15.0), [sum.sigma_ms()]),
            Figure::new("sum, error %", Within(1.0), [sum.error()]),
            Figure::new("largest gap, ms", Open, [sum.largest_gap_ms()]),
            Figure::new("killed", Open, [killed]),
            lateness(&log),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// Groups in groups.
fn levels(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!(
        "levels: site 40M, site/a 30M, site/a/1 20M, site/b 20M; 10 members in site/a/1, 4 in site/a/2, 2 in site/b, {} s",
        time.as_secs_f64()
    );
    let table = verdicts(&title, runs(options), || {
        let limits = [("site", "40M"), ("site/a", "30M"), ("site/a/1", "20M"), ("site/b", "20M")];
        let mut scene = Scene::new(options, &limits)?;
        scene.add(10, &["--group", "site/a/1"])?;
        scene.add(4, &["--group", "site/a/2"])?;
        scene.add(2, &["--group", "site/b"])?;
        let log = scene.run(time)?;
        let mut figures = Vec::new();
        // With its limit, and what is left for it, in MiB/s.
        for (name, pipes, limit, due) in [
            ("site", 0..16, 40, 40),
            ("site/a", 0..14, 30, 30),
            ("site/a/1", 0..10, 20, 20),
            ("site/b", 14..16, 20, 10),
        ] {
            let log = log.of(pipes);
            let (error, burst) = (log.curve(due * MIB).error(), log.curve(limit * MIB).sigma_ms());
            figures.push(Figure::new(format!("{name}, error % of {due}M"), Within(0.5), [error]));
            figures.push(Figure::new(format!("{name}, burst ms of {limit}M"), AtMost(15.0), [burst]));
        }
        figures.extend([fairness(&log, 0..10), fairness(&log, 10..14), fairness(&log, 14..16), lateness(&log)]);
        Ok(figures)
    })?;
    print!("{table}");
    Ok(())
}

/// What members whose own group holds them back leave to one other.
fn borrow(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("borrow: site 40M, site/a 1M; 15 members in site/a, one in site/b, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let mut scene = Scene::new(options, &[("site", "40M"), ("site/a", "1M")])?;
        scene.add(15, &["--group", "site/a"])?;
        scene.add(1, &["--group", "site/b"])?;
        let log = scene.run(time)?;
        let (site, a) = (log.curve(LIMIT), log.of(0..15).curve(MIB));
        Ok(vec![
            Figure::new("site, error %", Within(0.5), [site.error()]),
            Figure::new("site, burst ms", AtMost(15.0), [site.sigma_ms()]),
            Figure::new("site/a, error %", Within(0.5), [a.error()]),
            Figure::new("site/a, burst ms", AtMost(15.0), [a.sigma_ms()]),
            lateness(&log),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// The processor time of sharing, beside that of a rate of one's own.
fn cost(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("cost: 16 at 1M each, {} s, in % of a core", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let mut figures = Vec::new();
        for (name, limit, arguments) in [
            ("--rate 1M", None, &["--rate", "1M"][..]),
            ("--group all, of 16M", Some(("all", "16M")), &["--group", "all"]),
            ("--group all --rate 1M, of 32M", Some(("all", "32M")), &["--group", "all", "--rate", "1M"]),
        ] {
            let mut scene = Scene::new(options, limit.as_slice())?;
            scene.add(16, arguments)?;
            scene.settle()?;
            let used = || -> Result<Vec<_>> {
                scene.members.iter().map(|member| proc::processor_time(member.pcproxy.id())).collect()
            };
            let (began, before) = (Instant::now(), used()?);
            sleep(time);
            let (after, passed) = (used()?, began.elapsed());
            let percent = |(before, after): (&Duration, &Duration)| {
                100.0 * after.saturating_sub(*before).as_secs_f64() / passed.as_secs_f64()
            };
            let target = if limit.is_some() { AtMost(1.0) } else { Open };
            figures.push(Figure::new(format!("`{name}`"), target, before.iter().zip(&after).map(percent)));
            let error = scene.end(began)?.curve(16 * MIB).error();
            figures.push(Figure::new(format!("`{name}`: sum, error %"), Open, [error]));
        }
        Ok(figures)
    })?;
    print!("{table}");
    Ok(())
}

/// How long the last of 64 waits for its first byte, and how 64 share.
fn join_64(options: &Options) -> Result<()> {
    let (time, joins) = (part(options, 5), if options.quick { 2 } else { 10 });
    let title = format!("join-64: 64 members in 64M; the last joins {joins} times, then {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let mut scene = Scene::new(options, &[("all", "64M")])?;
        scene.add(63, &["--group", "all"])?;
        scene.settle()?;
        let (_source, input) = source()?;
        // It finds the input ready.
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        ensure!(poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&patience))? > 0, "the source does not start");
        let (mut grouped, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..joins {
            for (arguments, times) in [(["--group", "all"], &mut grouped), (["--rate", "1M"], &mut alone)] {
                let began = Instant::now();
                let (pcproxy, pipe) = scene.start(&input, &arguments)?;
                times.push(1e3 * (scene.meter.first(pipe)? - began).as_secs_f64());
                // It leaves when it has delivered what it holds, by the signal.
                pcproxy.signal(Signal::TERM)?;
                let _ = pcproxy.finish();
                scene.dismissed += 1;
            }
        }
        let longer: Vec<_> = grouped.iter().zip(&alone).map(|(grouped, alone)| grouped - alone).collect();
        scene.add(1, &["--group", "all"])?;
        let pipes: Vec<_> = scene.members.iter().map(|member| member.pipe).collect();
        let log = scene.run(time)?;
        let sum = log.curve(64 * MIB);
        Ok(vec![
            Figure::new("first byte of the 64th, ms", Open, grouped),
            Figure::new("the same with --rate 1M instead, ms", Open, alone),
            Figure::new("longer by, ms", AtMost(20.0), longer),
            fairness(&log, pipes),
            Figure::new("sum, error %", Within(0.5), [sum.error()]),
            Figure::new("sum, burst ms", Open, [sum.sigma_ms()]),
            lateness(&log),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// What being in a group without a limit costs.
fn alone(options: &Options) -> Result<()> {
    let bytes = options.amount(8 * GIB);
    let (source, sink) = (roles::source(bytes)?, roles::sink()?);
    let folder = runtime_folder()?;
    let grouped = pcproxy(options, folder.path(), &["--group", "all"]);
    let ungrouped = pcproxy(options, folder.path(), &[]);
    let cat = find("cat", &[]).map(|cat| cat.words);
    let title = format!("alone: source | X | sink, {} MiB, in GiB/s", bytes / MIB);
    let table = verdicts(&title, options.runs, || {
        let speed = |words: &[String]| -> Result<f64> {
            Ok(bytes as f64 / GIB as f64 / pipeline(&source, words, &sink)?.as_secs_f64())
        };
        let (grouped, ungrouped) = (speed(&grouped)?, speed(&ungrouped)?);
        let mut figures = vec![
            Figure::new("`pcproxy --group all`, without a limit", Open, [grouped]),
            Figure::new("`pcproxy`", Open, [ungrouped]),
            Figure::new("`pcproxy --group all` is as fast as `pcproxy` ×", AtLeast(0.9), [grouped / ungrouped]),
        ];
        if let Some(cat) = &cat {
            let cat = speed(cat)?;
            figures.push(Figure::new("`cat`", Open, [cat]));
            figures.push(Figure::new("`pcproxy --group all` is as fast as `cat` ×", Open, [grouped / cat]));
        }
        Ok(figures)
    })?;
    print!("{table}");
    Ok(())
}

/// How soon members keep to another limit.
fn change(options: &Options) -> Result<()> {
    let cycles = if options.quick { 1 } else { 8 };
    let title = format!("change: 8 members from 40M to 20M and back, {cycles} times");
    let table = verdicts(&title, runs(options), || {
        let mut scene = Scene::new(options, &[("all", "40M")])?;
        scene.add(8, &["--group", "all"])?;
        scene.settle()?;
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let change_to = |rate| -> Result<_> {
            let told = Instant::now();
            scene.set("all", rate)?;
            sleep(second);
            Ok(told)
        };
        let turns = (0..cycles).map(|_| Ok((change_to("20M")?, change_to("40M")?))).collect::<Result<Vec<_>>>()?;
        let log = scene.end(began)?;
        let kept = |told, rate| reached(&log, told, told + second, rate, 0.95..1.05);
        let down = turns.iter().map(|&(down, _)| kept(down, LIMIT / 2));
        let up = turns.iter().map(|&(_, up)| kept(up, LIMIT));
        Ok(vec![
            Figure::new("20M from 40M, ms after the command began", AtMost(100.0), down),
            Figure::new("40M from 20M, ms after the command began", AtMost(100.0), up),
        ])
    })?;
    print!("{table}");
    Ok(())
}
