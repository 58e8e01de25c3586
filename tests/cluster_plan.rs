//! Timetables, limits for a while and quotas that machines share, against a real server.

#[path = "support/site.rs"]
mod site;
#[path = "support/store.rs"]
mod store;

use std::thread;
use std::time::{Duration, Instant};

use pcproxy::budget::Name;
use pcproxy::budget::plan::Report;
use pcproxy::budget::usage::Usage;
use pcproxy::budget::valkey::{Binding, Offer, Store};
use site::Site;
use store::Server;

/// Bytes per second of all machines together.
const RATE: u64 = 4_000_000;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn close(rate: f64, expected: u64) -> bool {
    (rate / expected as f64 - 1.0).abs() < 0.1
}

fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < millis(20_000), "waited too long for {what}");
        thread::sleep(millis(10));
    }
}

fn ls(site: &Site, machine: usize) -> serde_json::Value {
    let groups: serde_json::Value =
        serde_json::from_str(&site.machines[machine].succeeds(&["group", "ls", "--json"])).unwrap();
    groups[0].clone()
}

#[test]
fn a_limit_for_a_while_holds_on_all_machines_and_ends_by_itself() {
    let Some(server) = Server::start(&[]) else { return };
    let mut site = Site::new(2, RATE);
    site.share(&[server.url()], &[]);
    site.start(1);
    site.until("full use", millis(8000), |rates| close(rates.iter().sum(), RATE));
    let said = site.machines[1].succeeds(&["group", "set", "uplink", "-50%", "for", "3s"]);
    assert!(said.contains("uplink: limit 1.91 MiB/s until "), "{said}");
    let start = Instant::now();
    site.until("half of it", millis(2500), |rates| close(rates.iter().sum(), RATE / 2));
    site.until("all of it again", millis(6000), |rates| close(rates.iter().sum(), RATE));
    assert!(start.elapsed() > millis(2500), "{:?}", start.elapsed());
    assert_eq!(ls(&site, 0)["limit"].as_u64(), Some(RATE));
    site.check_all_windows();
}

#[test]
fn a_timetable_is_known_to_machines_that_come_later_also_when_the_store_comes_back_empty() {
    let Some(mut server) = Server::start(&[]) else { return };
    let mut site = Site::new(2, RATE);
    // It is made before the group is shared.
    site.machines[0].succeeds(&["group", "set", "uplink", "--schedule", &format!("00:00,{}", RATE / 2)]);
    site.machines[0].succeeds(&["group", "share", "uplink", "--store", &server.url()]);
    site.machines[1].succeeds(&["group", "share", "uplink", "--store", &server.url()]);
    site.start(1);
    site.until("the timetable", millis(8000), |rates| rates[1] > 0.0 && close(rates.iter().sum(), RATE / 2));
    wait_until("the other machine to know the timetable", || ls(&site, 1)["schedule"].is_string());
    server.kill();
    server.run_again();
    wait_until("the store to know the timetable again", || {
        server.call(&["HEXISTS", "pcproxy:1:{uplink}:uplink", "plan"]) == ":1"
    });
    site.machines[1].succeeds(&["group", "set", "uplink", &RATE.to_string()]);
    site.until("the limit that takes its place", millis(8000), |rates| close(rates.iter().sum(), RATE));
    wait_until("the timetable to be gone", || ls(&site, 0)["schedule"].is_null());
}

#[test]
fn a_quota_is_for_all_machines_together_and_pauses_all_of_them() {
    let Some(server) = Server::start(&[]) else { return };
    let mut site = Site::new(2, RATE);
    site.share(&[server.url()], &[]);
    let quota = 3 * RATE;
    site.machines[0].succeeds(&["group", "set", "uplink", "--quota", &format!("{quota}/month")]);
    site.start(1);
    wait_until("the quota to be used up", || site.moved() >= quota);
    site.until("a pause", millis(5000), |rates| rates.iter().all(|rate| *rate == 0.0));
    // What machines move between two reports comes on top.
    let moved = site.moved();
    assert!((quota..quota + 3 * RATE / 2).contains(&moved), "{moved} of {quota}");
    for machine in 0..2 {
        wait_until("it to be told", || ls(&site, machine)["quota"]["left"].as_u64() == Some(0));
    }
    assert!(site.machines[1].first_line().contains("the quota of 11.44 MiB per month is used up; paused until "));
    // Bytes that were too many count too.
    site.machines[1].succeeds(&[
        "group",
        "set",
        "uplink",
        "--quota",
        &format!("{}/month", 5 * RATE),
        "--then",
        "100000",
    ]);
    wait_until("the larger one to be used up", || site.moved() >= 5 * RATE);
    site.until("the rate that comes then", millis(8000), |rates| rates.iter().sum::<f64>() < 200_000.0);
    assert_eq!(ls(&site, 0)["quota"]["then"].as_u64(), Some(100_000));
    site.machines[0].succeeds(&["group", "set", "uplink", "--quota", "off"]);
    site.until("no quota any more", millis(8000), |rates| close(rates.iter().sum(), RATE));
}

#[test]
fn the_script_counts_what_machines_have_used_as_the_rule_does() {
    let Some(server) = Server::start(&[]) else { return };
    let mut store = Store::new(Binding { store: server.url(), ..Binding::default() }).unwrap();
    let group: Name = "site/backup".parse().unwrap();
    let mut rule = Usage::default();
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut used, mut heard) = ([0_u64; 8], [0_u64; 8]);
    for _ in 0..600 {
        let who = random(8) as usize;
        used[who] += random(1 << 40);
        if random(40) == 0 {
            server.call(&["FLUSHALL"]);
            rule = Usage::default();
        }
        // Now and then an old report.
        let old = random(10) == 0;
        let report = Report { begun: 5, used: if old { used[who] / 2 } else { used[who] }, heard: heard[who] };
        let answer = store.exchange(&group, &Offer { version: 0, plan: None, report: Some(report) }, who as u64 + 1);
        let total = answer.unwrap().total;
        assert_eq!(total, rule.report(who as u64 + 1, report.used, report.heard));
        heard[who] = total;
    }
    let left: i64 = server.call(&["TTL", "pcproxy:1:{site}:site/backup:used:5"])[1..].parse().unwrap();
    assert!(left > 31 * 86_400, "it lasts for a month: {left} s");
}
