//! One limit for many machines, end to end: machines are folders of their own, the store is a real
//! server, and the network between them is a relay that can be broken. Every window of what all
//! machines move together is checked.
//!
//! The faults that take longest are run only where PCPROXY_SLOW_TESTS is set; `.ci/run` sets it.

#[path = "support/relay.rs"]
mod relay;
#[path = "support/site.rs"]
mod site;
#[path = "support/store.rs"]
mod store;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use relay::{Network, Relay};
use rustix::process::Signal;
use site::Site;
use store::{Server, free_port};

/// Four million bytes per second, so that the test does not keep a busy machine from its work.
const RATE: u64 = 4_000_000;

/// What all machines keep when the store is lost.
const FLOORS: f64 = 0.25;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Whether the slow tests are to be run. Says so if not.
fn slow_tests() -> bool {
    let run = std::env::var_os("PCPROXY_SLOW_TESTS").is_some();
    if !run {
        eprintln!("SKIPPED: takes long; set PCPROXY_SLOW_TESTS to run it");
    }
    run
}

/// Four machines with two members each that share a store, all of the limit in use; each machine
/// reaches the store by a relay of its own.
fn four_machines(server: &Server) -> (Site, Vec<Relay>) {
    let relays: Vec<_> = (0..4).map(|_| Relay::to(server.port)).collect();
    let mut site = Site::new(4, RATE);
    let addresses: Vec<_> = relays.iter().map(Relay::url).collect();
    site.share(&addresses, &[]);
    site.start(2);
    site.until("full use", millis(8000), |rates| rates.iter().sum::<f64>() > 0.93 * RATE as f64);
    (site, relays)
}

/// All machines are on their floors.
fn on_floors(rates: &[f64]) -> bool {
    rates.iter().all(|rate| (rate / (RATE as f64 * FLOORS / 4.0) - 1.0).abs() < 0.15)
}

fn fully_used(rates: &[f64]) -> bool {
    rates.iter().sum::<f64>() > 0.93 * RATE as f64
}

/// A fault of the store befalls four machines and ends: all fall to their floors within 3 s, use
/// the limit again within 3 s of its return, and never exceed it.
fn survives(name: &str, mut fault: impl FnMut(&mut Server, &[Relay]), mut mend: impl FnMut(&mut Server, &[Relay])) {
    let Some(mut server) = Server::start(&[]) else { return };
    let (site, relays) = four_machines(&server);
    fault(&mut server, &relays);
    let fell = site.until("falling to the floors", millis(3000), on_floors);
    thread::sleep(millis(500));
    mend(&mut server, &relays);
    // Of that, 300 ms are the window in which the rate is measured.
    let back = site.until("full use", millis(3300), fully_used);
    eprintln!("{name}: on the floors after {fell:?}, full use after {back:?}");
    thread::sleep(millis(500));
    site.check_all_windows();
}

#[test]
fn a_store_that_is_killed_and_comes_back_empty_never_lets_the_sum_exceed_the_limit() {
    survives("killed", |server, _| server.kill(), |server, _| server.run_again());
}

#[test]
fn a_machine_whose_replies_are_lost_falls_to_its_floor_and_the_others_get_the_rest() {
    let Some(server) = Server::start(&[]) else { return };
    let (mut site, relays) = four_machines(&server);
    relays[2].set(Network::SwallowsReplies);
    site.until("falling to the floor", millis(3000), |rates| rates[2] < 0.3 * RATE as f64 / 4.0);
    site.until("the others to have the rest", millis(3500), fully_used);
    relays[2].set(Network::Passes);
    site.until("an even share", millis(2500), |rates| rates[2] > 0.85 * RATE as f64 / 4.0);
    site.check_all_windows();
    for said in site.machines[2].stop() {
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&relays[2].url()) && said.contains("does not answer"), "{said}");
        assert!(said.contains("going on at the floor of"), "{said}");
    }
    assert!(site.machines[0].stop().iter().all(String::is_empty));
}

#[test]
fn a_store_that_is_stopped_and_goes_on() {
    if slow_tests() {
        survives("SIGSTOP", |server, _| server.signal(Signal::STOP), |server, _| server.signal(Signal::CONT));
    }
}

#[test]
fn a_store_whose_clients_are_paused() {
    if slow_tests() {
        let pause = |server: &mut Server, _: &[Relay]| drop(server.call(&["CLIENT", "PAUSE", "3500", "ALL"]));
        // The answer comes when the pause ends.
        survives("CLIENT PAUSE", pause, |server, _| drop(server.call(&["PING"])));
    }
}

#[test]
fn a_network_that_loses_everything_and_comes_back() {
    if slow_tests() {
        for network in [Network::SwallowsAll, Network::SwallowsReplies, Network::Resets] {
            let all =
                |network| move |_: &mut Server, relays: &[Relay]| relays.iter().for_each(|relay| relay.set(network));
            survives(&format!("{network:?}"), all(network), all(Network::Passes));
        }
    }
}

#[test]
fn a_store_that_is_emptied_or_forgets_its_scripts_while_it_runs() {
    if slow_tests() {
        let Some(server) = Server::start(&[]) else { return };
        let (site, _relays) = four_machines(&server);
        server.call(&["SCRIPT", "FLUSH"]);
        thread::sleep(millis(500));
        assert!(site.used(millis(1000)) > 0.93, "nobody notices that the script is gone");
        server.call(&["FLUSHALL"]);
        site.until("full use", millis(3300), fully_used);
        assert!(site.used(millis(1000)) > 0.93);
        site.check_all_windows();
        let listed = site.machines[1].succeeds(&["group", "ls", "--json"]);
        assert!(listed.contains(&format!("\"limit\": {RATE}")), "the limit came back from the machines: {listed}");
    }
}

#[test]
fn a_replica_that_takes_over() {
    if slow_tests() {
        let (Some(primary), Some(replica)) = (Server::start(&[]), Server::start(&[])) else { return };
        replica.call(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
        let start = Instant::now();
        while !replica.call(&["INFO", "replication"]).contains("master_link_status:up") {
            assert!(start.elapsed() < millis(20_000), "the replica does not follow");
            thread::sleep(millis(20));
        }
        let mut primary = primary;
        // One address that leads to whichever of the two is in charge.
        let front = Relay::to(primary.port);
        let mut site = Site::new(4, RATE);
        site.share(&[front.url()], &[]);
        site.start(2);
        site.until("full use", millis(8000), fully_used);
        primary.kill();
        front.lead_to(replica.port);
        front.set(Network::Resets);
        site.until("falling to the floors", millis(3000), on_floors);
        replica.call(&["REPLICAOF", "NO", "ONE"]);
        front.set(Network::Passes);
        site.until("full use", millis(3300), fully_used);
        thread::sleep(millis(500));
        site.check_all_windows();
    }
}

#[test]
fn a_slow_network_does_no_harm() {
    if slow_tests() {
        let Some(server) = Server::start(&[]) else { return };
        let (site, relays) = four_machines(&server);
        relays.iter().for_each(|relay| relay.set(Network::Delays(60)));
        thread::sleep(millis(1000));
        assert!(site.used(millis(2000)) > 0.93);
        site.check_all_windows();
    }
}

#[test]
fn a_keeper_that_is_killed_or_stopped_is_replaced() {
    if slow_tests() {
        let Some(server) = Server::start(&[]) else { return };
        let (site, _relays) = four_machines(&server);
        // The first member is the first to come to the store.
        let pids = site.machines[0].pids();
        rustix::process::kill_process(pids[0], Signal::STOP).unwrap();
        thread::sleep(millis(2500));
        let rates = site.measure(millis(1000));
        // One member of seven that are left, and more than the floor.
        assert!(rates[0] > 0.85 * RATE as f64 / 7.0, "{rates:?}");
        rustix::process::kill_process(pids[0], Signal::CONT).unwrap();
        thread::sleep(millis(500));
        rustix::process::kill_process(pids[1], Signal::KILL).unwrap();
        thread::sleep(millis(1500));
        let rates = site.measure(millis(1000));
        assert!(rates[0] > 0.85 * RATE as f64 / 7.0, "{rates:?}");
        site.check_all_windows();
    }
}

/// Starts a member on a machine of its own, and returns what it says first.
fn says(site: &mut Site, store: &str, setup: impl FnOnce(&mut std::process::Command)) -> String {
    let machine = &mut site.machines[0];
    let mut command = machine.command();
    command.env("PCPROXY_STORE", store);
    setup(&mut command);
    machine.start_by(command, &[]);
    let said = machine.first_line();
    machine.stop();
    said
}

#[test]
fn a_store_that_cannot_be_used_is_named_in_one_line_without_its_password() {
    let Some(server) = Server::start(&["--requirepass", "sesame"]) else { return };
    let port = server.port;
    let mut raw = store::Raw::connect(port).unwrap();
    let mut call = |words: &[&str]| raw.try_call(words).unwrap();
    call(&["AUTH", "sesame"]);
    call(&["ACL", "SETUSER", "reader", "on", ">open", "~*", "+@all", "-evalsha"]);
    let refusals: [(String, &str, &str); 5] = [
        (format!("valkey://:wrong-secret@127.0.0.1:{port}"), "valkey://127.0.0.1", "wrong user or password"),
        (format!("valkey://127.0.0.1:{port}"), "valkey://127.0.0.1", "asks for a password"),
        (format!("valkey://reader:open@127.0.0.1:{port}"), "valkey://reader@127.0.0.1", "denied: "),
        ("valkey://no-such-host.invalid".to_owned(), "valkey://no-such-host.invalid", "cannot be found"),
        ("valkey://127.0.0.1:1".to_owned(), "valkey://127.0.0.1:1", "refuses connections"),
    ];
    for (store, name, why) in refusals {
        let mut site = Site::new(1, RATE);
        let said = says(&mut site, &store, |_| {});
        assert!(said.contains(name) && said.contains(why) && said.contains("paused"), "{said}");
        assert!(!said.contains("secret") && !said.contains("open"), "{said}");
    }
    call(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut site = Site::new(1, RATE);
    let said = says(&mut site, &format!("valkey://:sesame@127.0.0.1:{port}"), |_| {});
    assert!(said.contains("is full (maxmemory)") && !said.contains("sesame"), "{said}");
}

#[test]
fn bytes_go_on_at_the_floor_when_the_password_changes_or_the_store_is_full() {
    let Some(server) = Server::start(&[]) else { return };
    let mut site = Site::new(1, RATE);
    site.share(&[server.url()], &[]);
    site.start(1);
    site.until("full use", millis(8000), fully_used);
    server.call(&["CONFIG", "SET", "maxmemory", "1"]);
    let floor = RATE as f64 * FLOORS;
    site.until("falling to the floor", millis(3000), |rates| (rates[0] / floor - 1.0).abs() < 0.15);
    let said = site.machines[0].first_line();
    assert!(said.contains(&server.url()) && said.contains("is full") && said.contains("at the floor of"), "{said}");
    server.call(&["CONFIG", "SET", "maxmemory", "0"]);
    site.until("full use", millis(3300), fully_used);
    site.check_all_windows();
}

#[test]
fn secrets_come_from_a_file_or_the_environment_and_never_from_the_command_line() {
    let Some(server) = Server::start(&["--requirepass", "sesame"]) else { return };
    let site = Site::new(1, RATE);
    let machine = &site.machines[0];
    let with_password = format!("valkey://:sesame@127.0.0.1:{}", server.port);
    let refused = machine.run(&["group", "share", "uplink", "--store", &with_password]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("--password-file") && !said.contains("sesame"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, "sesame\n").unwrap();
    machine.succeeds(&[
        "group",
        "share",
        "uplink",
        "--store",
        &server.url(),
        "--password-file",
        path.to_str().unwrap(),
    ]);
    machine.succeeds(&["group", "set", "uplink", "5M"]);
    let listed = machine.succeeds(&["group", "ls", "--json"]);
    assert!(listed.contains("\"limit\": 5242880") && !listed.contains("sesame"), "{listed}");
    machine.succeeds(&["group", "unshare", "uplink"]);
    let listed = machine.succeeds(&["group", "ls", "--json"]);
    assert!(listed.contains("\"limit\": 5242880") && !listed.contains("store"), "{listed}");
}

#[test]
fn a_machine_that_leaves_gives_back_what_it_has_and_a_fallback_is_used_when_all_is_lost() {
    let Some(mut server) = Server::start(&[]) else { return };
    let mut site = Site::new(1, RATE);
    site.share(&[server.url()], &["--fallback", "500000", "--floor", "0%"]);
    site.start(1);
    site.until("full use", millis(8000), fully_used);
    let listed = site.machines[0].succeeds(&["group", "ls"]);
    assert!(listed.contains("uplink on all machines") && listed.contains("LENT"), "{listed}");
    rustix::process::kill_process(site.machines[0].pids()[0], Signal::TERM).unwrap();
    let start = Instant::now();
    let machines = "pcproxy:1:{uplink}:uplink:machines";
    while server.call(&["EXISTS", machines]) != ":0" {
        assert!(start.elapsed() < millis(2000), "its record is still there");
        thread::sleep(millis(10));
    }
    site.machines[0].stop();
    server.kill();
    site.start(1);
    site.until("the fallback rate", millis(4000), |rates| (rates[0] / 500e3 - 1.0).abs() < 0.15);
}

#[cfg(feature = "tls")]
#[test]
fn tls_with_certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let openssl = |words: &[&str]| {
        let done = std::process::Command::new("openssl").args(words).output();
        let done = done.expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let (ca, ca_key) = (at("ca.pem"), at("ca.key"));
    openssl(&[&["req", "-x509", "-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca], &key[..]].concat());
    for name in ["server", "client"] {
        let (own_key, own) = (at(&format!("{name}.key")), at(&format!("{name}.pem")));
        let words = ["req", "-x509", "-CA", &ca, "-CAkey", &ca_key, "-subj", "/CN=localhost", "-keyout", &own_key];
        let names = ["-out", &own, "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"];
        openssl(&[&words[..], &names, &key].concat());
    }
    let port = free_port();
    let (server_cert, server_key) = (at("server.pem"), at("server.key"));
    let options = ["--tls-port", &port.to_string(), "--tls-ca-cert-file", &ca];
    let options = [&options[..], &["--tls-cert-file", &server_cert, "--tls-key-file", &server_key]].concat();
    let Some(_server) = Server::start(&options) else { return };
    let site = Site::new(1, RATE);
    let url = format!("rediss://localhost:{port}");
    let (client_cert, client_key) = (at("client.pem"), at("client.key"));
    let share = ["group", "share", "uplink", "--store", &url, "--ca", &ca];
    site.machines[0].succeeds(&[&share[..], &["--cert", &client_cert, "--key", &client_key]].concat());
    site.machines[0].succeeds(&["group", "set", "uplink", "5M"]);
    // Without a certificate of its own, or one that vouches for the server, it is refused in a line.
    for words in [&share[..], &share[..5]] {
        let refused = site.machines[0].run(words);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.lines().count() == 1 && said.contains(&url), "{said}");
    }
}

/// Waits until this is so.
fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < millis(20_000), "waited too long for {what}");
        thread::sleep(millis(10));
    }
}

#[test]
fn sentinels_tell_where_the_store_is() {
    let Some(server) = Server::start(&[]) else { return };
    let sentinel = server.sentinel("");
    let site = Site::new(1, RATE);
    // The first of them does not run.
    let url = format!("valkey+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    site.machines[0].succeeds(&["group", "share", "uplink", "--store", &url]);
    site.machines[0].succeeds(&["group", "set", "uplink", "5M"]);
    assert_eq!(server.call(&["HGET", "pcproxy:1:{uplink}:uplink", "rate"]), "5242880");
    let wrong = url.replace("main", "other");
    let refused = site.machines[0].run(&["group", "share", "uplink", "--store", &wrong]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&wrong) && said.contains("know no 'other'") && said.lines().count() == 1, "{said}");
}

#[test]
fn sentinels_that_ask_for_a_password_get_that_of_the_store() {
    let Some(server) = Server::start(&["--requirepass", "sesame"]) else { return };
    let lines = "requirepass sesame\nsentinel auth-pass main sesame\n";
    let sentinel = server.sentinel(lines);
    let site = Site::new(1, RATE);
    let url = format!("valkey+sentinel://127.0.0.1:{}/main", sentinel.port);
    let share = |password: &str| {
        let mut command = site.machines[0].command();
        command.args(["group", "share", "uplink", "--store", &url]).env("PCPROXY_STORE_PASSWORD", password);
        command.output().unwrap()
    };
    let refused = share("wrong");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("wrong user or password") && !said.contains("sesame") && said.lines().count() == 1, "{said}");
    let taken = share("sesame");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}

#[test]
fn sentinels_that_choose_another_server_are_followed() {
    if !slow_tests() {
        return;
    }
    let (Some(mut primary), Some(replica)) = (Server::start(&[]), Server::start(&[])) else { return };
    replica.call(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    wait_until("the replica to follow", || replica.call(&["INFO", "replication"]).contains("master_link_status:up"));
    let sentinel =
        primary.sentinel("sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n");
    wait_until("the sentinel to know the replica", || {
        sentinel.call(&["SENTINEL", "replicas", "main"]).contains(&replica.port.to_string())
    });
    let mut site = Site::new(4, RATE);
    site.share(&[format!("valkey+sentinel://127.0.0.1:{}/main", sentinel.port)], &[]);
    site.start(2);
    site.until("full use", millis(8000), fully_used);
    primary.kill();
    wait_until("the sentinel to choose the replica", || replica.call(&["ROLE"]).starts_with("master"));
    // By then every share that the primary lent has ended.
    thread::sleep(millis(2000));
    site.until("full use", millis(6000), fully_used);
    thread::sleep(millis(500));
    site.check_all_windows();
}

/// Two nodes of a cluster, of which each has half of the keys.
fn cluster() -> Option<[Server; 2]> {
    let start = || Server::start(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
    let (one, other) = (start()?, start()?);
    one.call(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    other.call(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    let bus = other.call(&["CONFIG", "GET", "cluster-port"]);
    let bus = bus.lines().last().unwrap();
    one.call(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), bus]);
    for node in [&one, &other] {
        wait_until("the cluster", || node.call(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    }
    Some([one, other])
}

#[test]
fn keys_that_are_under_way_to_another_node_of_a_cluster_are_found_there() {
    let Some([one, other]) = cluster() else { return };
    let mut site = Site::new(2, RATE);
    site.share(&[one.url(), other.url()], &[]);
    site.start(1);
    site.until("full use", millis(8000), fully_used);
    let keys = ["pcproxy:1:{uplink}:uplink", "pcproxy:1:{uplink}:uplink:machines"];
    let slot = one.call(&["CLUSTER", "KEYSLOT", keys[0]])[1..].to_owned();
    let (from, to) = if one.call(&["DBSIZE"]) == ":2" { (&one, &other) } else { (&other, &one) };
    let id = |node: &Server| node.call(&["CLUSTER", "MYID"]);
    to.call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    let port = to.port.to_string();
    let moved = from.call(&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS", keys[0], keys[1]]);
    assert_eq!(moved, "+OK");
    assert!(from.call(&["GET", keys[1]]).starts_with("-ASK "));
    // Without the store, shares would end within 2 s. To the new node the machines are new, so it
    // learns before shares grow.
    thread::sleep(millis(2500));
    site.until("full use by way of the new node", millis(3000), fully_used);
    site.machines[0].succeeds(&["group", "set", "uplink", &(RATE - 1).to_string()]);
    let listed = site.machines[1].succeeds(&["group", "ls", "--json"]);
    assert!(listed.contains(&format!("\"limit\": {}", RATE - 1)) && !listed.contains("error"), "{listed}");
    for node in [to, from] {
        node.call(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    thread::sleep(millis(2500));
    site.until("full use once the keys are there", millis(3000), fully_used);
    site.check_all_windows();
}

#[test]
fn the_node_of_a_cluster_that_has_the_group_is_found_from_any_other() {
    let Some([one, other]) = cluster() else { return };
    let mut site = Site::new(2, RATE);
    site.share(&[one.url(), other.url()], &[]);
    site.start(1);
    site.until("full use", millis(8000), fully_used);
    let kept = [&one, &other].map(|node| node.call(&["DBSIZE"]));
    assert!(kept.contains(&":0".to_owned()) && kept.contains(&":2".to_owned()), "{kept:?}");
}

#[test]
fn groups_within_groups_are_shared_over_one_connection_and_both_limits_hold() {
    let Some(server) = Server::start(&[]) else { return };
    let mut site = Site::new(2, RATE);
    for machine in &site.machines {
        machine.succeeds(&["group", "share", "site", "--store", &server.url()]);
        machine.succeeds(&["group", "share", "site/backup", "--store", &server.url()]);
    }
    site.machines[0].succeeds(&["group", "set", "site", &RATE.to_string()]);
    site.machines[0].succeeds(&["group", "set", "site/backup", &(RATE / 4).to_string()]);
    site.machines[0].start(&["--group", "site/backup"]);
    site.machines[1].start(&["--group", "site/backup"]);
    site.machines[1].start(&["--group", "site"]);
    site.until("the limit of the wider group", millis(8000), fully_used);
    site.until("the limit of the narrower one", millis(3000), |rates| {
        let expected = [RATE as f64 / 8.0, RATE as f64 * 7.0 / 8.0];
        rates.iter().zip(expected).all(|(rate, expected)| (rate / expected - 1.0).abs() < 0.1)
    });
    let clients = server.fact("connected_clients");
    assert!(clients <= 4.0, "one connection of each process, and this one: {clients}");
    site.check_all_windows();
}

#[test]
fn a_group_whose_limit_nobody_has_set_waits_and_says_so_until_someone_sets_it() {
    let Some(server) = Server::start(&[]) else { return };
    let mut site = Site::new(1, RATE);
    site.machines[0].succeeds(&["group", "share", "uplink", "--store", &server.url()]);
    site.start(1);
    let said = site.machines[0].first_line();
    assert!(said.contains("no limit is known") && said.contains("group set uplink RATE"), "{said}");
    site.machines[0].succeeds(&["group", "set", "uplink", &RATE.to_string()]);
    site.until("full use", millis(5000), fully_used);
    site.check_all_windows();
}

#[test]
fn a_shared_group_that_is_removed_is_gone_from_this_machine_only() {
    let Some(server) = Server::start(&[]) else { return };
    let site = Site::new(2, RATE);
    site.share(&[server.url()], &[]);
    site.machines[0].succeeds(&["group", "rm", "uplink"]);
    assert!(site.machines[0].succeeds(&["group", "ls"]).starts_with("no groups"));
    let listed = site.machines[1].succeeds(&["group", "ls", "--json"]);
    assert!(listed.contains(&format!("\"limit\": {RATE}")), "{listed}");
}

#[test]
fn the_rights_that_the_page_lists_are_enough() {
    let Some(server) = Server::start(&[]) else { return };
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md")).unwrap();
    let rights = page.split_once("ACL SETUSER pcproxy on >PASSWORD").unwrap().1.split_once("```").unwrap().0;
    let words = [vec!["ACL", "SETUSER", "pcproxy", "reset", "on", ">sesame"], rights.split_whitespace().collect()];
    assert_eq!(server.call(&words.concat()), "+OK");
    let mut site = Site::new(1, RATE);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, "sesame\n").unwrap();
    let url = format!("valkey://pcproxy@127.0.0.1:{}", server.port);
    site.share(&[url], &["--password-file", path.to_str().unwrap()]);
    site.start(1);
    site.until("full use", millis(8000), fully_used);
    let listed = site.machines[0].succeeds(&["group", "ls", "--json"]);
    assert!(!listed.contains("error"), "{listed}");
}
