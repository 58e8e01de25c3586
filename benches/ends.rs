//! How fast bytes pass between ends that have a name: files, TCP connections, and several outputs.
//!
//! `cargo bench --bench ends [-- [--runs N] [--quick] [--pcproxy PATH] [FILTER]...]`; see README.md.

#![forbid(unsafe_code)]

mod support;

use std::fs::File;
use std::io::{Read, Write, copy, pipe, sink};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::{RecvFlags, recv, sockopt};
use support::curve::Curve;
use support::stage::{pipeline, read_until};
use support::stats::{farthest, greatest, median};
use support::{
    Comparison, Contestant, GIB, MIB, Options, Set, Stage, Table, found, interleaved, main_with, proc, roles, trips,
};
use tempfile::{NamedTempFile, TempDir};

/// Above 1, pcproxy is faster.
const TIMES_AS_FAST: &str = "pcproxy is × as fast";

/// How long a listener may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let sets = [
        Set { name: "file-to-tcp", run: file_to_tcp },
        Set { name: "tcp-to-file", run: tcp_to_file },
        Set { name: "tcp-to-pipe", run: tcp_to_pipe },
        Set { name: "pipe-to-tcp", run: pipe_to_tcp },
        Set { name: "file-to-pipe", run: file_to_pipe },
        Set { name: "file-to-file", run: file_to_file },
        Set { name: "two-pipes", run: two_pipes },
        Set { name: "two-connections", run: two_connections },
        Set { name: "command", run: command },
        Set { name: "rates-10M", run: |options| rates(options, "10M", 10 * MIB) },
        Set { name: "rates-500M", run: |options| rates(options, "500M", 500 * MIB) },
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// A contestant that is a script of the shell, called `label`. `X` in it is pcproxy.
fn script(options: &Options, label: &str, script: &str) -> Option<Contestant> {
    let script = script.replace("X ", &format!("{} ", options.pcproxy));
    // A part of a pipeline that fails must not count as quick.
    let script = format!("set -o pipefail; {script}");
    Some(Contestant::new("bash", "bash", &["-c", &script]).called(label.to_owned()))
}

/// Prints a table of GiB per second.
fn compare(
    options: &Options,
    title: &str,
    bytes: u64,
    contestants: &[Contestant],
    mut measure: impl FnMut(&Contestant) -> Result<Duration>,
) {
    let samples = interleaved(options.runs, contestants, |contestant| {
        Ok(bytes as f64 / GIB as f64 / measure(contestant)?.as_secs_f64())
    });
    let title = format!("{title}, {} MiB", bytes / MIB);
    print!("{}", Comparison { title, figure: "GiB/s", places: 2, ratio: TIMES_AS_FAST }.table(&samples));
}

/// A port of this machine whose peer's bytes are thrown away without a copy.
struct Sink {
    port: u16,
    taken: JoinHandle<Result<u64>>,
}

impl Sink {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let taken = thread::spawn(move || {
            let (peer, _) = listener.accept()?;
            let (mut taken, mut space) = (0, vec![0; 1 << 20]);
            loop {
                match recv(&peer, &mut space[..], RecvFlags::TRUNC)?.1 {
                    0 => return Ok(taken),
                    more => taken += more as u64,
                }
            }
        });
        Ok(Sink { port, taken })
    }

    /// Waits for the end; an error unless `bytes` bytes came.
    fn finish(self, bytes: u64) -> Result<()> {
        let taken = self.taken.join().map_err(|_| anyhow!("the sink failed"))??;
        ensure!(taken == bytes, "{taken} of {bytes} bytes arrived");
        Ok(())
    }
}

/// A file of `bytes` zeros in the page cache, in `folder`.
fn cached_file(bytes: u64, folder: &TempDir) -> Result<NamedTempFile> {
    let file = NamedTempFile::new_in(folder)?;
    copy(&mut File::open("/dev/zero")?.take(bytes), &mut file.as_file())?;
    copy(&mut File::open(file.path())?, &mut sink())?;
    Ok(file)
}

/// A folder on tmpfs, or for temporary files.
fn folder() -> Result<TempDir> {
    Ok(TempDir::new_in("/dev/shm").or_else(|_| TempDir::new())?)
}

fn path(file: &NamedTempFile) -> Result<&str> {
    file.path().to_str().context("the path of the temporary file is not text")
}

fn file_to_tcp(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let file = path(&file)?;
    let contestants = found([
        script(options, "pcproxy FILE -o tcp://…", &format!("exec X {file} -o tcp://127.0.0.1:$PORT")),
        script(options, "cat FILE >/dev/tcp/…", &format!("exec cat {file} >/dev/tcp/127.0.0.1/$PORT")),
        script(options, "cat FILE | nc -N", &format!("cat {file} | nc -N 127.0.0.1 $PORT")),
        script(options, "nc -N <FILE", &format!("exec nc -N 127.0.0.1 $PORT <{file}")),
        script(options, "mbuffer -i FILE -O", &format!("exec mbuffer -q -i {file} -O 127.0.0.1:$PORT")),
        script(options, "socat -b 262144", &format!("exec socat -u -b 262144 {file} TCP:127.0.0.1:$PORT")),
    ]);
    compare(options, "file-to-tcp: X FILE to a TCP sink that discards", bytes, &contestants, |contestant| {
        let sink = Sink::new()?;
        let start = Instant::now();
        Stage::start(&with_port(contestant, sink.port), Stdio::null(), Stdio::null())?.finish()?;
        sink.finish(bytes)?;
        Ok(start.elapsed())
    });
    Ok(())
}

/// The words of a contestant, with a port in its environment.
fn with_port(contestant: &Contestant, port: u16) -> Vec<String> {
    [vec![format!("PORT={port}")], contestant.words.clone()].concat()
}

/// A port that is free at the moment.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts `contestant` as a listener and sends it a file. Returns how long it took from the
/// connection to its end.
fn send_to(contestant: &Contestant, file: &str, bytes: u64, stdout: impl Into<Stdio>) -> Result<Duration> {
    let port = free_port()?;
    let stage = Stage::start(&with_port(contestant, port), Stdio::null(), stdout)?;
    let deadline = Instant::now() + PATIENCE;
    let peer = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(peer) => break peer,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    };
    // Otherwise this end would be the slower one: see `LOCAL_SEND_BUFFER` and `flush` of pcproxy.
    sockopt::set_socket_send_buffer_size(&peer, 512 << 10)?;
    sockopt::set_tcp_cork(&peer, true)?;
    let start = Instant::now();
    let (file, mut sent) = (File::open(file)?, 0);
    while sent < bytes {
        let more = rustix::fs::sendfile(&peer, &file, None, 1 << 30)?;
        ensure!(more > 0, "the file is too short");
        sent += more as u64;
    }
    peer.shutdown(Shutdown::Write)?;
    stage.finish()?;
    Ok(start.elapsed())
}

fn tcp_to_file(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let out = folder.path().join("out");
    let to = out.to_str().context("the path is not text")?;
    let contestants = found([
        script(options, "pcproxy tcp-listen://… -o FILE", &format!("exec X tcp-listen://:$PORT -o {to}")),
        script(options, "nc -l >FILE", &format!("exec nc -l 127.0.0.1 $PORT >{to}")),
        script(
            options,
            "socat -u -b 262144",
            &format!("exec socat -u -b 262144 TCP-LISTEN:$PORT,bind=127.0.0.1 CREATE:{to}"),
        ),
        script(options, "mbuffer -I", &format!("exec mbuffer -q -I 127.0.0.1:$PORT -o {to}")),
    ]);
    compare(options, "tcp-to-file: sendfile to X, which writes to tmpfs", bytes, &contestants, |contestant| {
        let _ = std::fs::remove_file(&out);
        let time = send_to(contestant, path(&file)?, bytes, Stdio::null())?;
        ensure!(out.metadata()?.len() == bytes, "not everything arrived");
        Ok(time)
    });
    Ok(())
}

fn tcp_to_pipe(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let contestants = found([
        script(options, "pcproxy tcp-listen://…", "exec X tcp-listen://:$PORT"),
        script(options, "nc -l", "exec nc -l 127.0.0.1 $PORT"),
        script(options, "socat -u -b 262144", "exec socat -u -b 262144 TCP-LISTEN:$PORT,bind=127.0.0.1 STDOUT"),
    ]);
    compare(options, "tcp-to-pipe: sendfile to X | sink", bytes, &contestants, |contestant| {
        let (reader, writer) = std::io::pipe()?;
        let sink = Stage::start(&roles::sink()?, reader, Stdio::null())?;
        let time = send_to(contestant, path(&file)?, bytes, writer)?;
        sink.finish()?;
        Ok(time)
    });
    Ok(())
}

fn pipe_to_tcp(options: &Options) -> Result<()> {
    let bytes = options.amount(4 * GIB);
    let contestants = found([
        script(options, "pcproxy -o tcp://…", "exec X -o tcp://127.0.0.1:$PORT"),
        script(options, "nc -N", "exec nc -N 127.0.0.1 $PORT"),
        script(options, "socat -u -b 262144", "exec socat -u -b 262144 STDIN TCP:127.0.0.1:$PORT"),
    ]);
    compare(options, "pipe-to-tcp: source | X to a TCP sink that discards", bytes, &contestants, |contestant| {
        let (sink, start) = (Sink::new()?, Instant::now());
        let (reader, writer) = std::io::pipe()?;
        let source = Stage::start(&roles::source(bytes)?, Stdio::null(), writer)?;
        Stage::start(&with_port(contestant, sink.port), reader, Stdio::null())?.finish()?;
        source.finish()?;
        sink.finish(bytes)?;
        Ok(start.elapsed())
    });
    Ok(())
}

/// Runs a script that does everything by itself.
fn alone(contestant: &Contestant) -> Result<Duration> {
    let start = Instant::now();
    Stage::start(&contestant.words, Stdio::null(), Stdio::null())?.finish()?;
    Ok(start.elapsed())
}

fn file_to_pipe(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(2 * GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let file = path(&file)?;
    let pv = "$(command -v pv-new || echo pv)";
    let contestants = found([
        script(options, "pcproxy FILE", &format!("X {file} | cat >/dev/null")),
        script(options, "pv -q FILE", &format!("{pv} -q {file} | cat >/dev/null")),
        script(options, "cat FILE", &format!("cat {file} | cat >/dev/null")),
    ]);
    compare(options, "file-to-pipe: X FILE | cat >/dev/null", bytes, &contestants, alone);
    Ok(())
}

fn file_to_file(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let (file, to) = (path(&file)?, folder.path().join("out"));
    let out = to.to_str().context("the path is not text")?;
    let contestants = found([
        script(options, "pcproxy FILE -o FILE2", &format!("exec X {file} -o {out}")),
        script(options, "cp FILE FILE2", &format!("exec cp {file} {out}")),
        script(options, "cat FILE >FILE2", &format!("exec cat {file} >{out}")),
    ]);
    compare(options, "file-to-file: on tmpfs", bytes, &contestants, |contestant| {
        let _ = std::fs::remove_file(&to);
        alone(contestant)
    });
    Ok(())
}

fn two_pipes(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let file = path(&file)?;
    let contestants = found([
        script(options, "pcproxy", &format!("X {file} -o >(cat >/dev/null) -o >(cat >/dev/null)")),
        script(
            options,
            "pcproxy --buffer 1M",
            &format!("X {file} --buffer 1M -o >(cat >/dev/null) -o >(cat >/dev/null)"),
        ),
        script(options, "tee", &format!("tee <{file} >(cat >/dev/null) > >(cat >/dev/null)")),
    ]);
    compare(options, "two-pipes: X FILE to two of cat >/dev/null", bytes, &contestants, alone);
    Ok(())
}

fn two_connections(options: &Options) -> Result<()> {
    let (bytes, folder) = (options.amount(GIB), folder()?);
    let file = cached_file(bytes, &folder)?;
    let file = path(&file)?;
    let contestants = found([
        script(options, "pcproxy", &format!("exec X {file} -o tcp://127.0.0.1:$PORT -o tcp://127.0.0.1:$OTHER")),
        script(
            options,
            "pcproxy --buffer 1M",
            &format!("exec X {file} --buffer 1M -o tcp://127.0.0.1:$PORT -o tcp://127.0.0.1:$OTHER"),
        ),
        script(options, "tee and nc", &format!("tee <{file} >(nc -N 127.0.0.1 $PORT) | nc -N 127.0.0.1 $OTHER")),
    ]);
    compare(options, "two-connections: X FILE to two TCP sinks that discard", bytes, &contestants, |contestant| {
        let (one, other) = (Sink::new()?, Sink::new()?);
        let words = [vec![format!("OTHER={}", other.port)], with_port(contestant, one.port)].concat();
        let start = Instant::now();
        Stage::start(&words, Stdio::null(), Stdio::null())?.finish()?;
        one.finish(bytes)?;
        other.finish(bytes)?;
        Ok(start.elapsed())
    });
    Ok(())
}

/// `pcproxy run -- cat` beside the pipes that a shell would make.
fn command(options: &Options) -> Result<()> {
    let ours = || script(options, "pcproxy run -- cat", "exec X run -- cat");
    let trips = options.amount(20_000);
    let contestants = found([ours(), script(options, "cat | cat", "cat | cat")]);
    let samples = interleaved(options.runs, &contestants, |contestant| trips::run(contestant, trips));
    let title = format!("command: one byte in, the same byte out, {trips} times a run, µs");
    print!("{}", trips::table(title, &samples));

    let bytes = options.amount(4 * GIB);
    let (source, sink) = (roles::source(bytes)?, roles::sink()?);
    let contestants = found([ours(), script(options, "cat | cat | cat", "cat | cat | cat")]);
    compare(options, "command: source | X | sink", bytes, &contestants, |contestant| {
        pipeline(&source, &contestant.words, &sink)
    });

    let (silence, contestant) = (Duration::from_secs(3), options.pcproxy(&["run", "--", "cat"]));
    let samples = interleaved(options.runs_up_to(3), &[contestant], |contestant| {
        let (stdin, mut input) = pipe()?;
        let (mut output, stdout) = pipe()?;
        let stage = Stage::start(&contestant.words, stdin, stdout)?;
        // One byte passes, so that what is idle has worked before.
        input.write_all(b"x")?;
        output.read_exact(&mut [0])?;
        thread::sleep(Duration::from_millis(500));
        let before = proc::context_switches(stage.id())?;
        thread::sleep(silence);
        Ok((proc::context_switches(stage.id())? - before) as f64 / silence.as_secs_f64())
    });
    let title = "command: context switches a second in 3 s of silence".to_owned();
    print!("{}", Comparison { title, figure: "per s", places: 2, ratio: "" }.table(&samples));
    Ok(())
}

/// What bytes come from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    File,
    Pipe,
    Tcp,
    Unix,
}

/// What bytes go to.
#[derive(Clone, Copy, PartialEq)]
enum To {
    File,
    Pipe,
    Tcp,
    Unix,
    TwoFifos,
}

const FROM: [(From, &str); 4] = [(From::File, "file"), (From::Pipe, "pipe"), (From::Tcp, "TCP"), (From::Unix, "Unix")];
const TO: [(To, &str); 5] =
    [(To::File, "file"), (To::Pipe, "pipe"), (To::Tcp, "TCP"), (To::Unix, "Unix"), (To::TwoFifos, "two FIFOs")];

/// More than any row moves.
const ENDLESS: u64 = 64 * GIB;

/// The most that is read at once.
const READ: usize = 1 << 20;

/// How a rate is kept between each pair of ends.
fn rates(options: &Options, name: &str, rate: u64) -> Result<()> {
    let time = if options.quick { Duration::from_millis(500) } else { Duration::from_secs(3) };
    let runs = options.runs_up_to(3);
    let title = format!("rates-{name}: {} s from each end to each, {runs} runs", time.as_secs_f64());
    let mut table = Table::new(title, &["", "error %", "farthest off", "burst ms", "worst"]);
    for (from, from_name) in FROM {
        for (to, to_name) in TO {
            let curves: Result<Vec<_>> = (0..runs).map(|_| keep(options, from, to, rate, time)).collect();
            let mut row = vec![format!("{from_name} to {to_name}")];
            row.extend(match curves {
                Ok(curves) => {
                    let of = |figure: fn(&Curve) -> f64| curves.iter().map(figure).collect::<Vec<_>>();
                    let (error, burst) = (of(Curve::error), of(Curve::sigma_ms));
                    vec![
                        format!("{:+.3}", median(&error)),
                        format!("{:+.3}", farthest(&error)),
                        format!("{:.2}", median(&burst)),
                        format!("{:.2}", greatest(&burst)),
                    ]
                }
                Err(error) => vec![format!("failed: {error:#}")],
            });
            table.row(row);
        }
    }
    print!("{table}");
    Ok(())
}

/// One run: what came out of `to` while `from` offered more than the rate.
fn keep(options: &Options, from: From, to: To, rate: u64, time: Duration) -> Result<Curve> {
    let folder = folder()?;
    let path = |name: &str| Ok::<_, anyhow::Error>(folder.path().join(name).to_str().context("no text")?.to_owned());
    let mut words = vec!["--rate".to_owned(), rate.to_string()];
    let endless = File::create_new(path("endless")?)?;
    endless.set_len(ENDLESS)?;
    let (mut stdin, mut source): (Stdio, _) = (Stdio::null(), None);
    match from {
        From::File => words.push(path("endless")?),
        From::Pipe => {
            let (reader, writer) = pipe()?;
            source = Some(Stage::start(&roles::source(ENDLESS)?, Stdio::null(), writer)?);
            stdin = reader.into();
        }
        From::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            words.push(format!("tcp://{}", listener.local_addr()?));
            offer(File::open(path("endless")?)?, move || Ok(listener.accept()?.0));
        }
        From::Unix => {
            let listener = UnixListener::bind(path("from")?)?;
            words.push(format!("unix:{}", path("from")?));
            offer(File::open(path("endless")?)?, move || Ok(listener.accept()?.0));
        }
    }
    let output = |word: String| ["-o".to_owned(), word];
    let mut curve = Curve::new(rate);
    let start = |words: &[String], stdin: Stdio, stdout: Stdio| {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Stage::start(&options.pcproxy(&words).words, stdin, stdout)
    };
    match to {
        To::Pipe => {
            let (reader, writer) = pipe()?;
            let _stage = start(&words, stdin, writer.into())?;
            arrivals(reader, time, &mut curve)?;
        }
        To::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            words.extend(output(format!("tcp://{}", listener.local_addr()?)));
            let _stage = start(&words, stdin, Stdio::null())?;
            wait_for_peer(&listener)?;
            arrivals(listener.accept()?.0, time, &mut curve)?;
        }
        To::Unix => {
            let listener = UnixListener::bind(path("to")?)?;
            words.extend(output(format!("unix:{}", path("to")?)));
            let _stage = start(&words, stdin, Stdio::null())?;
            wait_for_peer(&listener)?;
            arrivals(listener.accept()?.0, time, &mut curve)?;
        }
        To::File => {
            words.extend(output(path("out")?));
            let _stage = start(&words, stdin, Stdio::null())?;
            growth(&folder.path().join("out"), time, &mut curve)?;
        }
        To::TwoFifos => {
            for name in ["one", "two"] {
                mknodat(CWD, path(name)?, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                words.extend(output(path(name)?));
            }
            let _stage = start(&words, stdin, Stdio::null())?;
            let (one, mut two) = (File::open(path("one")?)?, File::open(path("two")?)?);
            thread::spawn(move || copy(&mut two, &mut sink()));
            arrivals(one, time, &mut curve)?;
        }
    }
    drop(source);
    Ok(curve)
}

/// Sends `file` to the peer that comes, until it leaves.
fn offer<S: AsFd>(file: File, accept: impl FnOnce() -> Result<S> + Send + 'static) {
    thread::spawn(move || {
        let peer = accept()?;
        while rustix::fs::sendfile(&peer, &file, None, READ)? > 0 {}
        Ok::<_, anyhow::Error>(())
    });
}

/// Waits until somebody has connected.
fn wait_for_peer(listener: impl AsFd) -> Result<()> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    ensure!(poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&patience))? > 0, "nobody connected");
    Ok(())
}

/// Notes what comes out of `from` for some time.
fn arrivals(mut from: impl Read + AsFd, time: Duration, curve: &mut Curve) -> Result<()> {
    let mut space = vec![0; READ];
    let more = read_until(&mut from, Instant::now() + time, &mut space, |now, count| curve.record(now, count))?;
    ensure!(more, "it ended early");
    Ok(())
}

/// Notes how a file grows for some time, by looking at it again and again.
fn growth(file: &Path, time: Duration, curve: &mut Curve) -> Result<()> {
    let (deadline, mut size) = (Instant::now() + time, 0);
    while Instant::now() < deadline {
        let now_there = file.metadata().map_or(0, |data| data.len());
        if now_there > size {
            curve.record(Instant::now(), (now_there - size) as usize);
            size = now_there;
        }
        thread::sleep(Duration::from_micros(200));
    }
    ensure!(size > 0, "nothing arrived");
    Ok(())
}
