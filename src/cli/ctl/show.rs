//! The output of `ctl` about the runs.

use pcproxy::stats::Status;
use pcproxy::units::{printable, show_share, show_size, show_time};
use rustix::process::geteuid;

use super::super::words;
use super::target::label;

/// A run that did what was asked.
#[derive(Debug)]
pub struct Done {
    /// The user whose run it is.
    pub user: u32,
    /// Its status before.
    pub before: Status,
    /// Its status once it was done.
    pub after: Status,
}

/// The statuses as JSON, a line each.
pub fn lines(runs: &[Done]) -> serde_json::Result<String> {
    runs.iter().map(|run| Ok(serde_json::to_string(&run.after)? + "\n")).collect()
}

/// The statuses as a table for people.
pub fn table(runs: &[Done]) -> String {
    let mut header =
        vec!["PID", "NAME", "GROUP", "STATE", "TIME", "DONE", "LEFT", "DELIVERED", "RATE", "LIMIT", "BUFFER", "HELD"];
    // Root sees the runs of others.
    let of_others = runs.iter().any(|run| run.user != geteuid().as_raw());
    if of_others {
        header.insert(1, "USER");
    }
    let rows = runs.iter().map(|run| {
        let status = &run.after;
        let mut row = vec![
            status.pid.to_string(),
            status.name.as_deref().map(printable).unwrap_or_default(),
            status.group.as_deref().map(printable).unwrap_or_default(),
            status.state.to_string(),
            show_time(status.elapsed),
            share_done(status).unwrap_or_default(),
            status.time_left.map(show_time).unwrap_or_default(),
            show_size(status.bytes),
            status.show_rate(),
            show_limit(status),
            show_size(status.buffer),
            show_share(status.buffered as f64, status.buffer as f64),
        ];
        if of_others {
            row.insert(1, run.user.to_string());
        }
        row
    });
    words::table(&header, &["NAME", "GROUP", "STATE"], rows) + "\n"
}

/// The share of the expected total that is delivered, where that is known.
fn share_done(status: &Status) -> Option<String> {
    let (delivered, size) = status.progress();
    Some(show_share(delivered as f64, size? as f64))
}

/// A line for each kind of change, in order of names: of one run with its name, of several with
/// their number.
pub fn changes(runs: &[Done], change: impl Fn(&Done) -> String) -> String {
    let mut runs: Vec<_> = runs.iter().collect();
    runs.sort_by_cached_key(|run| label(&run.after));
    let mut kinds: Vec<(String, Vec<&Done>)> = Vec::new();
    for run in runs {
        let change = change(run);
        match kinds.iter_mut().find(|(kind, _)| *kind == change) {
            Some((_, runs)) => runs.push(run),
            None => kinds.push((change, vec![run])),
        }
    }
    let line = |(change, runs): (String, Vec<&Done>)| match &*runs {
        [run] => format!("{}: {change}\n", label(&run.after)),
        runs => format!("{} runs: {change}\n", runs.len()),
    };
    kinds.into_iter().map(line).collect()
}

pub fn limit(run: &Done) -> String {
    changed("limit", show_limit(&run.before), show_limit(&run.after))
}

pub fn schedule(run: &Done) -> String {
    format!("follows the timetable, {}", changed("limit", show_limit(&run.before), show_limit(&run.after)))
}

pub fn buffer(run: &Done) -> String {
    changed("buffer", show_size(run.before.buffer), show_size(run.after.buffer))
}

pub fn stop(run: &Done) -> String {
    match run.after.buffered {
        0 => "stopped".to_owned(),
        held => format!("reads no more, and delivers the {} it holds", show_size(held)),
    }
}

fn changed(what: &str, before: String, after: String) -> String {
    if before == after { format!("{what} {after}, as before") } else { format!("{what} {after}, was {before}") }
}

fn show_limit(status: &Status) -> String {
    status.show_limit().unwrap_or_else(|| "none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(pid: u32, before: u64, after: u64) -> Done {
        let status = |limit| Status { pid, limit: Some(limit), buffer: 1, ..Status::default() };
        Done { user: geteuid().as_raw(), before: status(before), after: status(after) }
    }

    #[test]
    fn says_what_changed_in_how_many_runs() {
        let runs = [done(1, 4 << 20, 5 << 20), done(2, 4 << 20, 5 << 20), done(3, 1 << 20, 5 << 20), done(4, 7, 7)];
        assert_eq!(
            changes(&runs, limit),
            "2 runs: limit 5 MiB/s, was 4 MiB/s\n3: limit 5 MiB/s, was 1 MiB/s\n4: limit 7 B/s, as before\n"
        );
    }

    #[test]
    fn shows_how_much_is_done_and_how_much_time_is_left() {
        let mut run = done(1, 5, 5);
        run.after = Status {
            bytes: 30 << 20,
            size: Some(100 << 20),
            rate: 1_048_576.0,
            time_left: Some(10.0),
            name: Some("a\x1b[2J\u{202e}b".to_owned()),
            ..run.after
        };
        let text = table(&[run]);
        assert!(text.contains("  30 %  10.0 s     30 MiB") && text.contains("a?[2J?b"), "{text}");
    }
}
