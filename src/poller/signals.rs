//! Which signals to listen to.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// The signals that end a run, and SIGUSR1, which asks how it goes, but for those that whoever started us has us ignore: `nohup`
/// does so with SIGHUP, a shell with SIGINT for a job in the background.
pub(crate) fn heeded_signals() -> impl Iterator<Item = i32> {
    let ignored = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        })
        .unwrap_or(0);
    [SIGHUP, SIGINT, SIGTERM, SIGUSR1].into_iter().filter(move |signal| ignored & (1 << (signal - 1)) == 0)
}
