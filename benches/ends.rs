//! How fast bytes pass between ends that have a name: files, TCP connections, and several outputs.
//!
//! `cargo bench --bench ends [-- [--runs N] [--quick] [--pcproxy PATH] [FILTER]...]`; see README.md.

#![forbid(unsafe_code)]

mod support;

use std::fs::File;
use std::io::{Read, copy, sink};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{ExitCode, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::net::{RecvFlags, recv};
use support::{Comparison, Contestant, GIB, MIB, Options, Set, Stage, found, interleaved, main_with, roles};
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
    ];
    main_with(env!("CARGO_BIN_EXE_pcproxy"), &sets)
}

/// A contestant that is a script of the shell, called `label`. `X` in it is pcproxy.
fn script(options: &Options, label: &str, script: &str) -> Option<Contestant> {
    let script = script.replace("X ", &format!("{} ", options.pcproxy));
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
