//! What /proc tells about a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// The most memory that was resident at one time, in bytes.
pub fn peak_memory(process: u32) -> Result<u64> {
    let status = format!("/proc/{process}/status");
    Ok(1024 * field(Path::new(&status), "VmHWM:").context("no VmHWM")?)
}

/// How often the threads of a process have been switched away from.
pub fn context_switches(process: u32) -> Result<u64> {
    let of_thread = |thread: &PathBuf| {
        let count = |name| field(&thread.join("status"), name).unwrap_or(0);
        count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:")
    };
    Ok(threads(process)?.iter().map(of_thread).sum())
}

/// The processor time, user and system, of the threads that live now. To the nanosecond where the
/// kernel keeps `schedstat`; in hundredths of a second, of the whole process, where it does not.
pub fn processor_time(process: u32) -> Result<Duration> {
    let of_thread = |thread: &PathBuf| -> Option<u64> {
        fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    if let Some(nanos) = threads(process)?.iter().map(of_thread).sum::<Option<u64>>().filter(|&nanos| nanos > 0) {
        return Ok(Duration::from_nanos(nanos));
    }
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold blanks. utime and stime are the 14th and 15th field.
    let fields = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}

/// The folders of the threads of a process.
fn threads(process: u32) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{process}/task"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The number in the line that begins with `name`.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
