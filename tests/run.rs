//! `pcproxy run`: a command between two limited flows, as in a shell's pipe.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::*;

/// `pcproxy run` with these words.
fn run(words: &[&str], stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    start(&[&["run"], words].concat(), stdin, stdout)
}

/// The exit status of `pcproxy run` with these words, and what it says.
fn exit(words: &[&str]) -> (Option<i32>, String) {
    let end = run(words, Stdio::null(), Stdio::null()).wait();
    (end.status.code(), end.stderr)
}

#[test]
fn bytes_go_to_the_command_and_come_back() {
    let sent = payload(3 << 20);
    let ((input, mut into), (out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = run(&["--", "cat"], input, output);
    let feeder = std::thread::spawn({
        let sent = sent.clone();
        move || into.write_all(&sent).unwrap()
    });
    assert_arrived(&read_to_end(out), &sent, "through cat");
    feeder.join().unwrap();
    pcproxy.wait().succeeded("cat");
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    assert_eq!(exit(&["true"]), (Some(0), String::new()));
    assert_eq!(exit(&["sh", "-c", "exit 7"]), (Some(7), String::new()));
    assert_eq!(exit(&["sh", "-c", "kill -TERM $$"]), (Some(143), String::new()));
    assert_eq!(exit(&["sh", "-c", "kill -KILL $$"]), (Some(137), String::new()));
    assert_eq!(exit(&["--", "sh", "-c", "exit 3"]), (Some(3), String::new()));
}

#[test]
fn a_command_that_cannot_be_started_is_127_or_126_in_one_line() {
    for (program, code) in [("no-such-program", 127), ("./no/such/program", 127), ("/", 126), ("/etc/passwd", 126)] {
        let (status, stderr) = exit(&[program]);
        assert_eq!(status, Some(code), "{program}: {stderr}");
        assert!(stderr.starts_with(&format!("pcproxy: {program}: ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_failure_of_pcproxy_itself_is_125() {
    let (input, output) = (Stdio::null(), File::create("/dev/full").unwrap());
    run(&["echo", "hello"], input, output).wait().failed(125, &["stdout", "No space left", "6 bytes"]);
    run(&["cat"], File::open("/").unwrap(), Stdio::null()).wait().failed(125, &["stdin", "Is a directory"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_the_command_starts() {
    for words in [&["--stop-after", "5", "true"][..], &["--size", "5", "true"], &[], &["--up", "0", "true"]] {
        let end = run(words, Stdio::null(), Stdio::null()).wait();
        assert_eq!(end.status.code(), Some(2), "{words:?}: {end:?}");
    }
    let end = run(&["-o", "x", "--", "cat"], Stdio::null(), Stdio::null()).wait();
    end.failed(2, &["'-o' is no option of 'run'", "./-o"]);
}

#[test]
fn a_command_that_takes_only_some_of_its_input_ends_the_producer_as_in_a_shell() {
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let (out, output) = pipe().unwrap();
    let pcproxy = run(&["head", "-n", "2"], yes.stdout.take().unwrap(), output);
    assert_eq!(read_to_end(out), b"y\ny\n");
    pcproxy.wait().succeeded("head");
    // It ends only if nobody holds the other end of its pipe any more.
    assert!(!yes.wait().unwrap().success());
}

#[test]
fn a_command_that_closes_its_input_at_once_goes_on() {
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, output) = pipe().unwrap();
    let go_on = tempfile::NamedTempFile::new().unwrap();
    let path = go_on.path().display();
    let script = format!("exec <&-; echo closed; while [ -e {path} ]; do sleep 0.01; done; echo end");
    let pcproxy = run(&["sh", "-c", &script], yes.stdout.take().unwrap(), output);
    assert_eq!(read_exactly(&mut out, 7), b"closed\n");
    assert!(!yes.wait().unwrap().success(), "the producer has been told");
    drop(go_on);
    assert_eq!(read_to_end(out), b"end\n");
    pcproxy.wait().succeeded("the rest");
}

#[test]
fn a_consumer_that_leaves_ends_the_command_by_sigpipe_as_in_a_shell() {
    let (mut out, output) = pipe().unwrap();
    let pcproxy = run(&["yes"], Stdio::null(), output);
    read_exactly(&mut out, 4);
    drop(out);
    let end = pcproxy.wait();
    assert_eq!((end.status.code(), end.stderr.as_str()), (Some(141), ""));
}

/// The pid that a command says in its first line.
fn pid_in(out: &mut impl Read) -> Pid {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.extend(read_exactly(&mut *out, 1));
    }
    Pid::from_raw(String::from_utf8(line).unwrap().trim().parse().unwrap()).unwrap()
}

#[test]
fn a_command_that_is_killed_in_the_middle_is_told_by_its_status_and_its_producer_ends() {
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, output) = pipe().unwrap();
    let pcproxy = run(&["sh", "-c", "echo $$; exec cat"], yes.stdout.take().unwrap(), output);
    kill_process(pid_in(&mut out), Signal::KILL).unwrap();
    let rest = read_to_end(out);
    assert!(rest.chunks(2).all(|line| line == b"y\n" || line == b"y"), "{} bytes", rest.len());
    let end = pcproxy.wait();
    assert_eq!((end.status.code(), end.stderr.as_str()), (Some(137), ""));
    assert!(!yes.wait().unwrap().success());
}

#[test]
fn a_command_that_is_stopped_is_waited_for_and_loses_nothing() {
    let sent = payload(2 << 20);
    let ((input, mut into), (mut out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = run(&["sh", "-c", "echo $$; exec cat"], input, output);
    let command = pid_in(&mut out);
    kill_process(command, Signal::STOP).unwrap();
    let feeder = std::thread::spawn({
        let sent = sent.clone();
        move || into.write_all(&sent).unwrap()
    });
    // It does not turn in circles meanwhile.
    pcproxy.settle();
    kill_process(command, Signal::CONT).unwrap();
    assert_arrived(&read_to_end(out), &sent, "after the stop");
    feeder.join().unwrap();
    pcproxy.wait().succeeded("stopped and continued");
}

#[test]
fn a_grandchild_that_holds_the_output_is_waited_for_as_in_a_shell() {
    let ((hold, release), (out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = run(&["sh", "-c", "(cat; echo late) & exec echo early"], hold, output);
    drop(release);
    let all = read_to_end(out);
    assert!(all.windows(4).any(|word| word == b"late"), "{all:?}");
    pcproxy.wait().succeeded("both");
}

#[test]
fn a_signal_to_pcproxy_reaches_the_command_and_its_status_comes_back() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::ALARM, Signal::USR2] {
        let (mut out, output) = pipe().unwrap();
        let name = format!("{signal:?}");
        let script = "trap 'echo got; exit 9' TERM INT HUP ALRM USR2; echo ready; while :; do sleep 0.01; done";
        let pcproxy = run(&["sh", "-c", script], Stdio::null(), output);
        assert_eq!(read_exactly(&mut out, 6), b"ready\n");
        pcproxy.signal(signal);
        assert_eq!(read_to_end(out), b"got\n", "{name}: once");
        assert_eq!(pcproxy.wait().status.code(), Some(9), "{name}");
    }
}

#[test]
fn a_pcproxy_that_is_killed_leaves_no_orphan_that_waits() {
    let ((input, _into), (mut out, output)) = (pipe().unwrap(), pipe().unwrap());
    let (mark, done) = pipe().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    drop(mark);
    drop(done);
    let script = format!("echo ready; cat; echo ended >{}", file.path().display());
    let pcproxy = run(&["sh", "-c", &script], input, output);
    assert_eq!(read_exactly(&mut out, 6), b"ready\n");
    pcproxy.signal(Signal::KILL);
    pcproxy.wait().died_by(Signal::KILL);
    until("the command to see the end of its input", || fs::read(file.path()).unwrap() == b"ended\n");
    assert_eq!(read_to_end(out), b"");
}

#[test]
fn rates_hold_for_each_direction() {
    let sent = payload(300_000);
    for (options, least) in [(["--up", "1M"], 0.25), (["--down", "1M"], 0.25), (["--rate", "1M"], 0.25)] {
        let ((input, mut into), (out, output)) = (pipe().unwrap(), pipe().unwrap());
        let begun = Instant::now();
        let pcproxy = run(&[&options[..], &["cat"]].concat(), input, output);
        into.write_all(&sent[..60_000]).unwrap();
        let feeder = std::thread::spawn({
            let sent = sent.clone();
            move || into.write_all(&sent[60_000..]).unwrap()
        });
        assert_arrived(&read_to_end(out), &sent, options[0]);
        feeder.join().unwrap();
        assert!(begun.elapsed() >= Duration::from_secs_f64(least), "{options:?}: {:?}", begun.elapsed());
        pcproxy.wait().succeeded(options[0]);
    }
}

#[test]
fn the_record_tells_the_two_flows_apart() {
    let folder = tempfile::tempdir().unwrap();
    let stats = folder.path().join("stats");
    let words = ["--up", "9M", "--stats", stats.to_str().unwrap(), "--", "sh", "-c", "cat; printf 12345"];
    let (input, mut into) = pipe().unwrap();
    let pcproxy = run(&words, input, Stdio::null());
    into.write_all(b"123").unwrap();
    drop(into);
    pcproxy.wait().succeeded("records");
    let text = fs::read_to_string(&stats).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["bytes"], 3 + 8);
    assert_eq!((&last["flows"][0]["flow"], &last["flows"][0]["bytes"]), (&"up".into(), &3.into()));
    assert_eq!((&last["flows"][1]["flow"], &last["flows"][1]["bytes"]), (&"down".into(), &8.into()));
    assert_eq!((&last["flows"][0]["limit"], &last["flows"][1]["limit"]), (&(9 << 20).into(), &Value::Null));
    assert_eq!(last["ending"], "done");
}

#[test]
fn nothing_wakes_a_run_whose_command_is_silent() {
    let ((input, _into), (_out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = run(&["--rate", "1M", "cat"], input, output);
    pcproxy.settle();
}

/// A stand-in for ssh: it forgets about the host and runs the command here.
fn stand_in(folder: &std::path::Path) -> String {
    let path = folder.join("ssh");
    fs::write(&path, "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do case $1 in -[lop]) shift;; esac; shift; done\nshift\nexec sh -c \"$*\"\n")
        .unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn rsync_works_through_a_limited_ssh() {
    if !needs("rsync") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir(&from).unwrap();
    for at in 0..5 {
        fs::write(from.join(at.to_string()), payload(50_000 * at)).unwrap();
    }
    let shell = format!("{} run --rate 50M -- {}", env!("CARGO_BIN_EXE_pcproxy"), stand_in(folder.path()));
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "-e", &shell]).arg(format!("{}/", from.display())).arg(format!("host:{}", to.display()));
    let output = rsync.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for at in 0..5 {
        assert_arrived(&fs::read(to.join(at.to_string())).unwrap(), &payload(50_000 * at), at);
    }
}

#[test]
fn git_clones_through_a_limited_ssh() {
    if !needs("git") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let git = |words: &[&str], within: &std::path::Path| {
        let mut git = Command::new("git");
        git.current_dir(within).args(["-c", "user.name=A", "-c", "user.email=a@example.org"]).args(words);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        git.env(
            "GIT_SSH_COMMAND",
            format!("{} run --rate 50M -- {}", env!("CARGO_BIN_EXE_pcproxy"), stand_in(folder.path())),
        );
        let output = git.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    let origin = folder.path().join("origin");
    fs::create_dir(&origin).unwrap();
    git(&["init", "-q"], &origin);
    fs::write(origin.join("file"), payload(300_000)).unwrap();
    git(&["add", "file"], &origin);
    git(&["commit", "-qm", "one"], &origin);
    git(&["clone", "-q", &format!("host:{}", origin.display()), "copy"], folder.path());
    assert_arrived(&fs::read(folder.path().join("copy/file")).unwrap(), &payload(300_000), "the clone");
}

#[test]
fn a_command_on_a_terminal_has_the_terminal_itself() {
    let Some(screen) = Screen::new(80, 24) else { return };
    screen.run("pcproxy run -- tty | cat");
    screen.wait("the name of the terminal", |lines| lines.iter().any(|line| line.starts_with("/dev/pts/")));
    // Ctrl-C reaches the command once, from the terminal.
    screen.run("pcproxy run -- sh -c 'trap \"echo caught\" INT; echo ready; sleep 30; echo over'");
    screen.wait("the command to be ready", |lines| lines.iter().any(|line| line == "ready"));
    screen.press(&["C-c"]);
    let lines = screen.wait("the command to end", |lines| lines.iter().any(|line| line == "over"));
    assert_eq!(lines.iter().filter(|line| line.ends_with("caught")).count(), 1, "{lines:?}");
}

#[test]
fn sshd_works_behind_a_limited_proxy_command() {
    if !needs("sshd") || !needs("ssh") || !needs("ssh-keygen") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for key in ["host", "user"] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).status();
        assert!(made.unwrap().success());
    }
    fs::copy(path("user.pub"), path("authorized")).unwrap();
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\n",
        path("host"),
        path("authorized")
    );
    fs::write(path("sshd_config"), config).unwrap();
    // sshd wants this folder, and to be called by its whole path.
    let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"].into_iter().find(|path| fs::metadata(path).is_ok());
    let _ = fs::create_dir_all("/run/sshd");
    let proxy = format!(
        "ProxyCommand={} run --rate 20M -- {} -i -f {}",
        env!("CARGO_BIN_EXE_pcproxy"),
        sshd.unwrap(),
        path("sshd_config")
    );
    let sent = payload(400_000);
    let (input, mut into) = pipe().unwrap();
    let mut ssh = Command::new("ssh")
        .args(["-F", "/dev/null", "-o", &proxy, "-i", &path("user"), "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "localhost", "cat"])
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let feeder = std::thread::spawn({
        let sent = sent.clone();
        move || into.write_all(&sent)
    });
    let arrived = read_to_end(ssh.stdout.take().unwrap());
    let mut said = String::new();
    ssh.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = ssh.wait().unwrap();
    let _ = feeder.join().unwrap();
    assert!(status.success(), "{status:?}: {said}");
    assert_arrived(&arrived, &sent, "over ssh");
}
