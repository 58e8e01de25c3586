//! The ends of a pipeline, played by the benchmark program itself under a hidden first argument.

use std::env;
use std::fs::File;
use std::hint::spin_loop;
use std::io::{Write, stdin, stdout};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee};

/// What the ends grow their pipe to, and the most that one step moves.
const PIPE: usize = 1 << 20;

/// The words that make this program a source of `bytes` bytes.
pub fn source(bytes: u64) -> Result<Vec<String>> {
    Ok(vec![own_path()?, "role-source".into(), bytes.to_string()])
}

/// The words that make this program a sink.
pub fn sink() -> Result<Vec<String>> {
    Ok(vec![own_path()?, "role-sink".into()])
}

/// The words that make this program a source of `bytes` bytes each `every` milliseconds.
pub fn drip(bytes: usize, every: u64) -> Result<Vec<String>> {
    Ok(vec![own_path()?, "role-drip".into(), bytes.to_string(), every.to_string()])
}

/// The words that make this program use up a processor until it is killed.
pub fn spin() -> Result<Vec<String>> {
    Ok(vec![own_path()?, "role-spin".into()])
}

/// Where this program lies.
fn own_path() -> Result<String> {
    Ok(env::current_exe()?.to_str().context("the path of the benchmark is not text")?.into())
}

/// Plays the role that the first argument names, if it names one.
pub fn play() -> Option<ExitCode> {
    let words: Vec<_> = env::args().skip(1).collect();
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["role-source", bytes] => bytes.parse().context("no number").and_then(be_source),
        ["role-sink"] => be_sink(),
        ["role-drip", bytes, every] => be_drip(bytes.parse().ok()?, every.parse().ok()?),
        ["role-spin"] => loop {
            spin_loop();
        },
        _ => return None,
    };
    match result {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error:#}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// Writes `bytes` bytes to stdout every `every` milliseconds, until nobody takes them.
fn be_drip(bytes: usize, every: u64) -> Result<()> {
    let (piece, start) = (vec![b'x'; bytes], Instant::now());
    for turn in 1.. {
        if stdout().write_all(&piece).and_then(|()| stdout().flush()).is_err() {
            break;
        }
        sleep((start + Duration::from_millis(every * turn)).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Writes `bytes` bytes to stdout at next to no cost: the same pages of memory over and over, passed
/// by reference.
fn be_source(mut bytes: u64) -> Result<()> {
    let out = stdout();
    // If refused, the pipe stays as it is.
    let _ = fcntl_setpipe_size(&out, PIPE);
    let (stock, fill) = pipe_with(PipeFlags::CLOEXEC)?;
    let size = fcntl_setpipe_size(&fill, PIPE).unwrap_or(64 * 1024);
    let pattern = File::from(memfd_create("pattern", MemfdFlags::CLOEXEC)?);
    let bytes_of_it: Vec<_> = (0..size).map(|place| (place * 7 + (place >> 8)) as u8).collect();
    pattern.write_all_at(&bytes_of_it, 0)?;
    let (mut offset, mut missing) = (0, size);
    while missing > 0 {
        missing -= splice(&pattern, Some(&mut offset), &fill, None, missing, SpliceFlags::empty())?;
    }
    while bytes > 0 {
        let most = bytes.min(size as u64) as usize;
        match tee(&stock, &out, most, SpliceFlags::empty()) {
            Ok(count) => bytes -= count as u64,
            // The consumer has left: no word about it.
            Err(Errno::PIPE) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes stdin and throws it away at next to no cost.
fn be_sink() -> Result<()> {
    let nowhere = File::options().write(true).open("/dev/null")?;
    let _ = fcntl_setpipe_size(stdin(), PIPE);
    while splice(stdin(), None, &nowhere, None, PIPE, SpliceFlags::empty())? > 0 {}
    Ok(())
}
