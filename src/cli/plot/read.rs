//! Reading a recorded run, and thinning it to what a picture can show.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, Read};
use std::iter::once;
use std::ptr;

use pcproxy::stats::{State, Status, VERSION};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A run with more steps than this is thinned.
const MANY_STEPS: usize = 2000;

/// A thinned run keeps the extremes of each of so many columns, up to five steps per column. A
/// column is about two pixels wide.
const COLUMNS: f64 = 400.0;

/// A step shorter than this share of the median step is joined with the step before it.
const SHORT_STEP: f64 = 0.1;

/// The longest line in bytes. A status has about 500.
const LONGEST_LINE: u64 = 1 << 16;

/// The longest run in seconds: about 300 years.
const LONGEST_RUN: f64 = 1e10;

/// The highest rate in bytes per second. A lower bound is not needed: rates below one byte per second
/// count as 0.
const HIGHEST_RATE: f64 = u64::MAX as f64;

/// The lowest rate in records per second that does not count as 0: one record in eleven days.
const LOWEST_RECORD_RATE: f64 = 1e-6;

/// The latest end of a run, in seconds since the Unix epoch: about the year 9900.
const LATEST: f64 = 2.5e11;

/// Why there is no picture, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlotError {
    /// The reason, for the user.
    pub reason: String,
}

impl fmt::Display for PlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for PlotError {}

/// The statuses of one recorded run, in the order of time.
///
/// A file may hold several runs, one after the other or mixed. The run of the last line is read.
/// Unknown fields and empty lines are skipped, and so are statuses of which only a first part was
/// written: the run was killed, or the disk was full. Numbers beyond all bounds are bounded.
///
/// # Errors
/// When a line cannot be read, is not JSON, or is not a status of a known version, and when there
/// is no status at all.
pub fn read(mut lines: impl BufRead) -> Result<Vec<Status>, PlotError> {
    let mut runs: HashMap<u32, Vec<Status>> = HashMap::new();
    let mut last = None;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        match lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(length) if length as u64 == LONGEST_LINE && !line.ends_with(b"\n") => {
                return Err(PlotError { reason: format!("line {number}: longer than any status") });
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => {}
            Err(error) => return Err(PlotError { reason: error.to_string() }),
        }
        match parse(&line).or_else(|reason| parse_glued(&line).ok_or(reason)) {
            Ok(status) => {
                let run = runs.entry(status.pid).or_default();
                // In a container every run may have the same process number.
                if run.last().is_some_and(|before| before.done || before.elapsed > status.elapsed) {
                    run.clear();
                }
                last = Some(status.pid);
                run.push(status);
            }
            Err(_) if is_incomplete(&line) => {}
            Err(reason) => return Err(PlotError { reason: format!("line {number}: {reason}") }),
        }
    }
    last.and_then(|pid| runs.remove(&pid)).ok_or_else(nothing)
}

/// The error of a recording without a status.
pub fn nothing() -> PlotError {
    PlotError { reason: "no status in it".to_owned() }
}

/// Whether this is an incomplete last line.
fn is_incomplete(line: &[u8]) -> bool {
    !line.ends_with(b"\n") && serde_json::from_slice::<IgnoredAny>(line).is_err()
}

/// The status at the end of a line that begins with the first part of another one. A full disk or a
/// crash leaves such a part, and the next run appends to it.
fn parse_glued(line: &[u8]) -> Option<Status> {
    const BEGIN: &[u8] = b"{\"version\"";
    let at = line.windows(BEGIN.len()).rposition(|window| window == BEGIN).filter(|at| *at > 0)?;
    parse(&line[at..]).ok()
}

/// Parses one line. The error says what is wrong with it.
fn parse(line: &[u8]) -> Result<Status, String> {
    /// The field that every version has.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }

    let reason = |error: serde_json::Error| {
        let text = error.to_string();
        // serde_json sees one line only, and calls it line 1.
        let text = text.split(" at line ").next().unwrap_or_default();
        if error.is_data() {
            format!("not a status: {text}")
        } else {
            format!("not JSON: {text}, column {}", error.column())
        }
    };
    // The version is checked first, since another version may have other fields.
    let Versioned { version } = serde_json::from_slice(line).map_err(reason)?;
    if version != VERSION {
        return Err(format!("a status of version {version}; this pcproxy knows version {VERSION}"));
    }
    serde_json::from_slice(line).map(bounded).map_err(reason)
}

/// The status with all times and rates in bounds that a picture can show. A recording may come from
/// anywhere.
fn bounded(mut status: Status) -> Status {
    let rates = [&mut status.rate, &mut status.mean_rate, &mut status.peak_rate];
    for rate in rates {
        *rate = if *rate < 1.0 { 0.0 } else { rate.min(HIGHEST_RATE) };
    }
    if let Some(records) = &mut status.records {
        for rate in [&mut records.rate, &mut records.mean_rate].into_iter().chain(&mut records.limit) {
            *rate = if *rate < LOWEST_RECORD_RATE { 0.0 } else { rate.min(HIGHEST_RATE) };
        }
    }
    status.elapsed = status.elapsed.clamp(0.0, LONGEST_RUN);
    status.time = status.time.clamp(0.0, LATEST);
    status
}

/// The interval between two statuses. Times are in seconds since the beginning of the run, sizes in
/// bytes, rates in bytes per second, or in records per second where the run counts these.
pub struct Step {
    /// Begin of the interval.
    pub from: f64,
    /// End of the interval.
    pub to: f64,
    /// Mean rate of the interval.
    pub rate: f64,
    /// Mean rate from the beginning of the run to the end of the interval.
    pub mean: f64,
    /// The limit at the end of the interval.
    pub limit: Option<f64>,
    /// Size of the buffer.
    pub buffer: f64,
    /// Bytes in the buffer.
    pub held: f64,
    /// The state of the run for most of the time.
    pub state: State,
}

impl Step {
    /// Length of the interval in seconds.
    pub fn length(&self) -> f64 {
        self.to - self.from
    }

    /// The horizontal line at `value` over this interval.
    pub fn at(&self, value: f64) -> [(f64, f64); 2] {
        [(self.from, value), (self.to, value)]
    }
}

/// The intervals of a run. An interval that is much shorter than the others, such as the last one,
/// is joined with the one before it, because a rate over a moment means nothing.
pub fn steps(run: &[Status]) -> Vec<Step> {
    let starts = || once(0.0).chain(run.iter().map(|status| status.elapsed));
    let mut lengths: Vec<f64> = run.iter().zip(starts()).map(|(status, from)| status.elapsed - from).collect();
    lengths.sort_by(f64::total_cmp);
    let shortest = lengths.get(lengths.len() / 2).map_or(0.0, |median| median * SHORT_STEP);

    let mut steps: Vec<Step> = Vec::with_capacity(run.len());
    for (status, from) in run.iter().zip(starts()) {
        let mut step = Step {
            from,
            to: status.elapsed,
            rate: status.records.map_or(status.rate, |records| records.rate),
            mean: status.records.map_or(status.mean_rate, |records| records.mean_rate),
            limit: status.records.map_or(status.limit.map(|limit| limit as f64), |records| records.limit),
            buffer: status.buffer as f64,
            held: status.buffered as f64,
            state: status.state,
        };
        if step.length() < shortest
            && let Some(before) = steps.pop_if(|before| before.length() > 0.0)
        {
            let bytes = before.rate * before.length() + step.rate * step.length();
            step.from = before.from;
            step.rate = bytes / step.length();
            step.state = before.state;
        }
        steps.push(step);
    }
    steps
}

/// The steps that the picture needs. Of the many steps in one column it needs the first one and the
/// extremes of rate and held bytes.
pub fn thinned(steps: &[Step]) -> Vec<&Step> {
    if steps.len() <= MANY_STEPS {
        return steps.iter().collect();
    }
    let end = highest(steps.iter().map(|step| step.to));
    let column = |step: &Step| (step.to / end * COLUMNS) as u64;
    let mut kept = Vec::new();
    for chunk in steps.chunk_by(|one, other| column(one) == column(other)) {
        kept.extend(chunk.first());
        for value in [|step: &&Step| step.rate, |step: &&Step| step.held] {
            kept.extend(chunk.iter().min_by(|one, other| value(one).total_cmp(&value(other))));
            kept.extend(chunk.iter().max_by(|one, other| value(one).total_cmp(&value(other))));
        }
    }
    // The addresses are in the order of time.
    kept.sort_unstable_by_key(|step| ptr::from_ref::<Step>(step));
    kept.dedup_by_key(|step| ptr::from_ref::<Step>(step));
    kept
}

/// The state of the run over time, as spans that follow each other. A span is at least a column wide,
/// and has the state that most of its time was spent in.
pub fn states(steps: &[Step], end: f64) -> Vec<(f64, f64, State)> {
    let width = end / COLUMNS;
    let mut spans: Vec<(f64, f64, State)> = Vec::new();
    let mut add = |from: f64, to: f64, state| match spans.last_mut() {
        Some((_, before, same)) if *same == state => *before = to,
        _ => spans.push((from, to, state)),
    };
    // The steps that end in this column, and the time in each state.
    let mut column: Vec<(State, f64)> = Vec::new();
    let mut column_begin = 0.0;
    for step in steps {
        match column.iter_mut().find(|(state, _)| *state == step.state) {
            Some((_, time)) => *time += step.length(),
            None => column.push((step.state, step.length())),
        }
        if step.to - column_begin >= width
            && let Some((state, _)) = column.drain(..).max_by(|(_, one), (_, other)| one.total_cmp(other))
        {
            add(column_begin, step.to, state);
            column_begin = step.to;
        }
    }
    if let (Some((state, _)), Some(last)) = (column.first(), steps.last())
        && last.to > column_begin
    {
        add(column_begin, last.to, *state);
    }
    spans
}

/// The rate at which the axis should end: the highest rate, or less if a few intervals would leave
/// all others flat at the bottom.
///
/// A rate counts as an outlier if it is more than three times the rate that is not exceeded for 90 %
/// of the time.
pub fn usual_peak(steps: &[Step]) -> f64 {
    const SHARE: f64 = 0.9;
    const OUTLIER: f64 = 3.0;
    const ROOM: f64 = 1.3;
    let peak = highest(steps.iter().map(|step| step.rate));
    let total: f64 = steps.iter().map(Step::length).sum();
    let mut rates: Vec<_> = steps.iter().map(|step| (step.rate, step.length())).collect();
    rates.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut time = 0.0;
    let usual = rates.into_iter().find_map(|(rate, length)| {
        time += length;
        (time >= total * SHARE * (1.0 - 1e-9)).then_some(rate)
    });
    match usual {
        Some(usual) if usual > 0.0 && peak > usual * OUTLIER => usual * ROOM,
        _ => peak,
    }
}

/// The highest of some values that are not negative, or 0 if there are none.
pub fn highest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, f64::max)
}
