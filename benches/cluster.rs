//! One limit for many machines.
//!
//! `cargo bench --bench cluster [-- [--runs N] [--quick] [FILTER]...]`; see README.md. It needs
//! `valkey-server` or `redis-server`.

#![forbid(unsafe_code)]

mod support;

#[path = "../tests/support/relay.rs"]
mod relay;
#[path = "../tests/support/site.rs"]
mod site;
#[path = "../tests/support/store.rs"]
mod store;

use std::env;
use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pcproxy::budget::site::{Introduction, OFF, Reply, SiteLimit};
use pcproxy::budget::valkey::{Binding, Store};
use pcproxy::budget::{Lease, Name, Needs, Rounds};
use relay::{Network, Relay};
use rustix::process::Signal;
use site::Site;
use store::Server;
use support::verdict::Target::{AtLeast, AtMost, Open, Within};
use support::verdict::{Figure, verdicts};
use support::{MIB, Options, Set, main_with};

/// The limit of all machines together, in bytes per second.
const LIMIT: u64 = 40 * MIB;

/// Machines, and members on each.
const MACHINES: usize = 4;
const MEMBERS: usize = 4;

/// Over how long a rate is measured that changes.
const WINDOW: Duration = Duration::from_millis(100);

/// How long a column of the picture stands for: a burst is a small part of it.
const COLUMN: Duration = Duration::from_millis(400);

/// What all machines keep when the store is lost, as a part of the limit.
const FLOORS: f64 = 0.25;

fn main() -> ExitCode {
    let sets = [
        Set { name: "sum", run: sum },
        Set { name: "idle", run: idle },
        Set { name: "weights", run: weights },
        Set { name: "faults", run: faults },
        Set { name: "hundred", run: hundred },
        Set { name: "cost", run: cost },
        Set { name: "picture", run: picture },
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// Machines that share a server, each by a relay of its own.
struct Scene {
    server: Server,
    relays: Vec<Relay>,
    site: Site,
}

impl Scene {
    /// Machines without members.
    fn empty() -> Result<Self> {
        let server = Server::start(&[]).context("no server is installed")?;
        let relays: Vec<_> = (0..MACHINES).map(|_| Relay::to(server.port)).collect();
        let site = Site::new(MACHINES, LIMIT);
        site.share(&relays.iter().map(Relay::url).collect::<Vec<_>>(), &[]);
        Ok(Scene { server, relays, site })
    }

    /// Machines whose members use all of the limit.
    fn busy() -> Result<Self> {
        let mut scene = Scene::empty()?;
        scene.site.start(MEMBERS);
        scene.settle();
        Ok(scene)
    }

    fn settle(&self) {
        self.site.until("full use", Duration::from_secs(10), fully_used);
        sleep(Duration::from_secs(1));
    }

    /// How far all machines together were ever ahead of the limit, in milliseconds of it.
    fn ahead(&self) -> Figure {
        let name = "ahead of the limit at most, ms (15 and what the pipes hold)";
        let pipes = 1e3 * (MACHINES * MEMBERS * site::PIPE) as f64 / LIMIT as f64;
        Figure::new(name, AtMost(15.0 + pipes), [1e3 * self.site.worst_ahead().0 / LIMIT as f64])
    }
}

fn fully_used(rates: &[f64]) -> bool {
    rates.iter().sum::<f64>() > 0.95 * LIMIT as f64
}

fn part(options: &Options, seconds: u64) -> Duration {
    Duration::from_millis(if options.quick { seconds * 250 } else { seconds * 1000 })
}

fn runs(options: &Options) -> usize {
    options.runs_up_to(3)
}

/// Jain's index: 1 if all get the same.
fn fairness(shares: &[f64]) -> f64 {
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    shares.iter().sum::<f64>().powi(2) / (shares.len() as f64 * squares)
}

/// Four machines that want more than there is.
fn sum(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("sum: {MACHINES} machines of {MEMBERS} members in 40M, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let scene = Scene::busy()?;
        let rates = scene.site.measure(time);
        Ok(vec![
            Figure::new("used, % of the limit", AtLeast(97.0), [100.0 * rates.iter().sum::<f64>() / LIMIT as f64]),
            Figure::new("fairness among machines", AtLeast(0.99), [fairness(&rates)]),
            scene.ahead(),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// When, after `from`, the first window ends in which a rate is reached. In milliseconds.
fn reached(site: &Site, from: Instant, until: Instant, good: impl Fn(&[f64]) -> bool) -> f64 {
    let steps = (0..).map(|step| from + WINDOW + Duration::from_millis(5 * step)).take_while(|&end| end <= until);
    let mut good = steps.filter(|&end| good(&site.rates(end - WINDOW, end)));
    good.next().map_or(f64::INFINITY, |end| 1e3 * (end - from).as_secs_f64())
}

/// One machine goes idle, and wants again.
fn idle(options: &Options) -> Result<()> {
    let cycles = if options.quick { 2 } else { 8 };
    let title = format!("idle: one of {MACHINES} machines goes idle, and wants again, {cycles} times");
    let table = verdicts(&title, runs(options), || {
        let scene = Scene::busy()?;
        let (mut taken, mut back) = (Vec::new(), Vec::new());
        for _ in 0..cycles {
            let second = Duration::from_millis(1500);
            scene.site.machines[0].block(true);
            let from = Instant::now();
            sleep(second);
            taken.push(reached(&scene.site, from, from + second, |rates| {
                rates[1..].iter().sum::<f64>() > 0.95 * LIMIT as f64
            }));
            scene.site.machines[0].block(false);
            let from = Instant::now();
            sleep(second);
            back.push(reached(&scene.site, from, from + second, |rates| rates[0] > 0.9 * LIMIT as f64 / 4.0));
        }
        Ok(vec![
            Figure::new("the others have 95 % of the limit, ms after it stops", AtMost(600.0), taken),
            Figure::new("it has 90 % of its share, ms after it goes on", AtMost(600.0), back),
            scene.ahead(),
        ])
    })?;
    print!("{table}");
    println!("each includes the {} ms over which a rate is measured", WINDOW.as_millis());
    Ok(())
}

/// Weights and guarantees across machines.
fn weights(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("weights: machines of 100, 200, 300 and 400 in 40M, then one with 20M guaranteed, {:?}", time);
    let table = verdicts(&title, runs(options), || {
        let mut figures = Vec::new();
        let mut scene = Scene::empty()?;
        for (machine, weight) in scene.site.machines.iter_mut().zip(["100", "200", "300", "400"]) {
            machine.start(&["--weight", weight]);
        }
        scene.settle();
        let rates = scene.site.measure(time);
        for (rate, weight) in rates.iter().zip([100.0, 200.0, 300.0, 400.0]) {
            let error = 100.0 * (rate / (LIMIT as f64 * weight / 1000.0) - 1.0);
            figures.push(Figure::new(format!("weight {weight}, error %"), Within(5.0), [error]));
        }
        let mut scene = Scene::empty()?;
        for (number, machine) in scene.site.machines.iter_mut().enumerate() {
            machine.start(if number == 0 { &["--min-rate", "20M"] } else { &[] });
        }
        scene.settle();
        let rates = scene.site.measure(time);
        for (number, rate) in rates.iter().enumerate() {
            let fair = if number == 0 { 25.0 } else { 5.0 } * MIB as f64;
            let name = if number == 0 { "20M guaranteed, error %" } else { "beside it, error %" };
            figures.push(Figure::new(name, Within(5.0), [100.0 * (rate / fair - 1.0)]));
        }
        Ok(figures)
    })?;
    print!("{table}");
    Ok(())
}

/// What befalls the store, and how it ends.
type Fault = (&'static str, fn(&mut Scene), fn(&mut Scene));

fn network(scene: &mut Scene, network: Network) {
    scene.relays.iter().for_each(|relay| relay.set(network));
}

/// Everything that can befall the store.
fn faults(options: &Options) -> Result<()> {
    let faults: [Fault; 5] = [
        ("killed, and back empty", |scene| scene.server.kill(), |scene| scene.server.run_again()),
        ("stopped", |scene| scene.server.signal(Signal::STOP), |scene| scene.server.signal(Signal::CONT)),
        ("cut off", |scene| network(scene, Network::SwallowsAll), |scene| network(scene, Network::Passes)),
        ("replies lost", |scene| network(scene, Network::SwallowsReplies), |scene| network(scene, Network::Passes)),
        ("connections reset", |scene| network(scene, Network::Resets), |scene| network(scene, Network::Passes)),
    ];
    for (name, fault, mend) in faults {
        let table = verdicts(&format!("faults: {name}"), runs(options), || {
            let mut scene = Scene::busy()?;
            let began = Instant::now();
            fault(&mut scene);
            let on_floors = |rates: &[f64]| rates.iter().sum::<f64>() < 1.1 * FLOORS * LIMIT as f64;
            scene.site.until("falling to the floors", Duration::from_secs(5), on_floors);
            sleep(Duration::from_secs(1));
            let mended = Instant::now();
            let fell = reached(&scene.site, began, mended, on_floors);
            mend(&mut scene);
            scene.site.until("full use", Duration::from_secs(6), fully_used);
            let back = reached(&scene.site, mended, Instant::now(), fully_used);
            Ok(vec![
                Figure::new("on the floors, ms after it", AtMost(3000.0), [fell]),
                Figure::new("full use again, ms after its end", AtMost(3000.0), [back]),
                scene.ahead(),
            ])
        })?;
        print!("{table}");
    }
    let table = verdicts("faults: emptied while it runs", runs(options), || {
        let scene = Scene::busy()?;
        scene.server.call(&["FLUSHALL"]);
        let began = Instant::now();
        sleep(Duration::from_millis(3500));
        let least = (0..30).map(|step| {
            let from = began + WINDOW * step;
            scene.site.rates(from, from + WINDOW).iter().sum::<f64>() / LIMIT as f64
        });
        Ok(vec![
            Figure::new("the least used in 100 ms of the 3 s after it, %", Open, [100.0 * least.fold(1.0, f64::min)]),
            Figure::new("used 3 s later, %", AtLeast(95.0), [100.0 * scene.site.used(Duration::from_secs(1))]),
            scene.ahead(),
        ])
    })?;
    print!("{table}");
    let table = verdicts("faults: failed over to a replica", runs(options), || {
        let mut scene = Scene::busy()?;
        let replica = Server::start(&[]).context("no server is installed")?;
        replica.call(&["REPLICAOF", "127.0.0.1", &scene.server.port.to_string()]);
        while !replica.call(&["INFO", "replication"]).contains("master_link_status:up") {
            sleep(Duration::from_millis(10));
        }
        sleep(Duration::from_secs(1));
        let began = Instant::now();
        scene.server.kill();
        scene.relays.iter().for_each(|relay| relay.lead_to(replica.port));
        network(&mut scene, Network::Resets);
        replica.call(&["REPLICAOF", "NO", "ONE"]);
        network(&mut scene, Network::Passes);
        sleep(Duration::from_secs(4));
        let back = reached(&scene.site, began, Instant::now(), fully_used);
        Ok(vec![Figure::new("full use again, ms after it", AtMost(3000.0), [back]), scene.ahead()])
    })?;
    print!("{table}");
    Ok(())
}

/// A hundred machines, played by threads that ask as keepers do.
fn hundred(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("hundred: 100 machines and one server, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let server = Server::start(&[]).context("no server is installed")?;
        let group: Name = "uplink".parse()?;
        let binding = Binding { store: server.url(), ..Binding::default() };
        let limit = SiteLimit { rate: 1000 * MIB, burst: 0, floors: 25, generation: 0 };
        Store::new(binding.clone())?.set(&group, limit, 0)?;
        let over = Arc::new(AtomicBool::new(false));
        let shares = Arc::new(Mutex::new(vec![0.0; 100]));
        let machines: Vec<_> = (0..100)
            .map(|number| {
                let (group, binding, over, shares) = (group.clone(), binding.clone(), over.clone(), shares.clone());
                thread::spawn(move || play(number, &group, binding, &over, &shares))
            })
            .collect();
        sleep(Duration::from_secs(5));
        let before =
            (server.fact("used_cpu_user") + server.fact("used_cpu_sys"), server.fact("total_commands_processed"));
        sleep(time);
        let after =
            (server.fact("used_cpu_user") + server.fact("used_cpu_sys"), server.fact("total_commands_processed"));
        let lent = shares.lock().unwrap().clone();
        over.store(true, Ordering::Relaxed);
        machines
            .into_iter()
            .try_for_each(|machine| machine.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))))?;
        let seconds = time.as_secs_f64();
        Ok(vec![
            Figure::new(
                "processor time of the server, % of a core",
                AtMost(5.0),
                [100.0 * (after.0 - before.0) / seconds],
            ),
            Figure::new("commands per second, those in scripts too", Open, [(after.1 - before.1) / seconds]),
            Figure::new(
                "lent at most, % of the limit",
                AtMost(100.0),
                [100.0 * lent.iter().sum::<f64>() / limit.rate as f64],
            ),
            Figure::new(
                "lent at least, % of the limit",
                AtLeast(97.0),
                [100.0 * lent.iter().sum::<f64>() / limit.rate as f64],
            ),
            Figure::new("fairness", AtLeast(0.99), [fairness(&lent)]),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// Asks as the keeper of a machine does whose members want all there is.
fn play(number: usize, group: &Name, binding: Binding, over: &AtomicBool, shares: &Mutex<Vec<f64>>) -> Result<()> {
    let start = Instant::now();
    let clock = || Duration::from_secs(1000) + start.elapsed();
    let mut store = Store::new(binding)?;
    let run = store.run_id()?;
    let (mut lease, mut rounds) = (Lease::new(number as u64 + 1), Rounds::default());
    let needs = Needs { want: OFF, weight: 100, guaranteed: 0, moved: 1 };
    let mut introduce = false;
    sleep(Duration::from_millis(3 * number as u64));
    while !over.load(Ordering::Relaxed) {
        sleep(rounds.due(needs).saturating_sub(clock()));
        let words = introduce.then(|| Introduction { limit: lease.limit, name: format!("machine-{number}") });
        let sent = clock();
        let known = lease.limit;
        let request = lease.ask(needs, run, words, sent);
        rounds.asks(&request, needs, sent);
        introduce = false;
        match store.renew(group, &request, known)? {
            Reply::Granted(granted) => {
                ensure!(lease.hear(&request, sent, &granted), "an answer to something else");
                rounds.hears(&granted);
                shares.lock().unwrap()[number] = granted.share as f64;
            }
            Reply::Introduce => {
                introduce = true;
                rounds.again();
            }
            Reply::Refused(_) => ensure!(false, "refused"),
        }
    }
    Ok(())
}

/// Seconds of processor time of all threads of these processes that talk to a store.
fn keepers(scene: &Scene) -> f64 {
    let pids = scene.site.machines.iter().flat_map(|machine| machine.pids());
    let threads =
        pids.flat_map(|pid| fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten());
    let keepers = threads
        .flatten()
        .filter(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.trim() == "keeper"));
    let nanos = keepers.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

/// What a machine costs.
fn cost(options: &Options) -> Result<()> {
    let time = part(options, 10);
    let title = format!("cost: of a machine with {MEMBERS} members, {} s", time.as_secs_f64());
    let table = verdicts(&title, runs(options), || {
        let scene = Scene::busy()?;
        let before = (keepers(&scene), scene.relays.iter().map(Relay::bytes).sum::<u64>());
        sleep(time);
        let after = (keepers(&scene), scene.relays.iter().map(Relay::bytes).sum::<u64>());
        let each = MACHINES as f64 * time.as_secs_f64();
        Ok(vec![
            Figure::new(
                "threads that talk to the store, % of a core",
                AtMost(0.3),
                [100.0 * (after.0 - before.0) / each],
            ),
            Figure::new("bytes per second, both ways", AtMost(1024.0), [(after.1 - before.1) as f64 / each]),
        ])
    })?;
    print!("{table}");
    Ok(())
}

/// Draws docs/pictures/cluster.svg from a run: four machines, the store killed and brought back. Only
/// where PCPROXY_PICTURE says where to.
fn picture(_: &Options) -> Result<()> {
    let Ok(path) = env::var("PCPROXY_PICTURE") else { return Ok(()) };
    let mut scene = Scene::busy()?;
    let began = Instant::now();
    sleep(Duration::from_secs(4));
    let killed = began.elapsed();
    scene.server.kill();
    sleep(Duration::from_secs(6));
    scene.server.run_again();
    let back = began.elapsed();
    sleep(Duration::from_secs(6));
    let steps = (began.elapsed().as_millis() / COLUMN.as_millis()) as u32;
    let rates: Vec<_> =
        (0..steps).map(|step| scene.site.rates(began + COLUMN * step, began + COLUMN * (step + 1))).collect();
    fs::write(&path, draw(&rates, killed, back)).with_context(|| path.clone())?;
    println!("{path}: {:.1} ms ahead of the limit at most", 1e3 * scene.site.worst_ahead().0 / LIMIT as f64);
    Ok(())
}

/// What each machine moved in each window, one upon the other, as SVG.
fn draw(rates: &[Vec<f64>], killed: Duration, back: Duration) -> String {
    const COLOURS: [&str; MACHINES] = ["#1F5FA8", "#4C8C4A", "#B8862B", "#7A4E9C"];
    let (left, top, width, height) = (70.0, 60.0, 860.0, 300.0);
    let time = COLUMN.as_secs_f64() * rates.len() as f64;
    let x = |seconds: f64| left + width * seconds / time;
    let y = |rate: f64| top + height * (1.0 - rate / (1.15 * LIMIT as f64));
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"430\" viewBox=\"0 0 960 430\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222222\">\n<rect width=\"960\" height=\"430\" \
         fill=\"#FFFFFF\"/>\n",
    );
    let (from, to) = (x(killed.as_secs_f64()), x(back.as_secs_f64()));
    svg += &format!(
        "<text x=\"{left}\" y=\"24\" font-size=\"19\" font-weight=\"bold\">Four machines, one limit of 40 MiB/s</text>\n\
         <rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{height}\" fill=\"#EEEEEE\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">the store is away</text>\n",
        to - from,
        (from + to) / 2.0,
        top + 20.0,
    );
    let sum = |step: usize, machines: usize| rates[step][..machines].iter().sum::<f64>();
    for machine in (0..MACHINES).rev() {
        let points = (0..rates.len()).flat_map(|step| {
            let height = y(sum(step, machine + 1));
            [step, step + 1].map(|at| format!("{:.1},{height:.1}", x(COLUMN.as_secs_f64() * at as f64)))
        });
        let points: Vec<_> = points.collect();
        svg += &format!(
            "<polygon fill=\"{}\" points=\"{left:.1},{:.1} {} {:.1},{:.1}\"/>\n",
            COLOURS[machine],
            y(0.0),
            points.join(" "),
            x(time),
            y(0.0),
        );
        let at = left + 120.0 * machine as f64;
        svg += &format!(
            "<rect x=\"{at}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"47\">machine {}</text>\n",
            COLOURS[machine],
            at + 18.0,
            machine + 1,
        );
    }
    let limit = y(LIMIT as f64);
    svg += &format!(
        "<line x1=\"{left}\" x2=\"{}\" y1=\"{limit:.1}\" y2=\"{limit:.1}\" stroke=\"#C84614\" stroke-width=\"2\" \
         stroke-dasharray=\"7 4\"/>\n<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#C84614\">limit</text>\n",
        left + width,
        left + width,
        limit - 6.0,
    );
    for step in 0..=4 {
        let rate = step as f64 * 10.0;
        let at = y(rate * MIB as f64);
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate} MiB/s</text>\n", left - 6.0, at + 4.0);
    }
    for second in (0..=time as u32).step_by(2) {
        let at = x(f64::from(second));
        svg += &format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>\n", top + height + 20.0);
    }
    svg + "</svg>\n"
}
