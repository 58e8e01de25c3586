//! Everything that a run reports without being asked: progress, records, the summary, messages.

use std::fmt::Display;
use std::io::{self, IsTerminal, stderr, stdout};
use std::os::fd::AsFd;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::message::{message, say};
use super::numeric::Numeric;
use super::output::{Output, allow_writes_from_background};
use super::{Lines, Progress, Target};
use crate::stats::{Account, Ending, Facts, Interval, Status, summary};
use crate::units::RateUnit;

/// How long the end of `--progress numeric` waits for a reader that is behind.
const LAST_WAIT: Duration = Duration::from_millis(100);

/// A run that is over sooner shows no progress, since nobody could read it.
const BRIEF: Duration = Duration::from_millis(500);

/// Whether and how progress is shown on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// A line where stderr is a terminal and stdout is none.
    #[default]
    Auto,
    /// A line, wherever stderr goes.
    Always,
    /// Nothing.
    Never,
    /// Whole percents, a line each, for `dialog --gauge`.
    Numeric,
}

/// The reports of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// The name of the run.
    pub name: Option<String>,
    /// The total in bytes that the user expects.
    pub size: Option<u64>,
    /// Whether and how to show progress.
    pub progress: Show,
    /// Show the time of day at which the run ends, once that is more than an hour away.
    pub eta_at: bool,
    /// Print a summary at the end.
    pub summary: bool,
    /// Where records go.
    pub stats: Option<Target>,
    /// The unit in which the user gave the rate, and in which rates are shown.
    pub rate_unit: RateUnit,
    /// The time between two records, and between two drawings of the progress line.
    pub interval: Duration,
}

/// Progress, as it is shown.
#[derive(Debug)]
enum Shown {
    Line(Box<Progress>),
    Numeric(Numeric),
}

/// Keeps the account of a run, and reports what the user wants to know of it.
#[derive(Debug)]
pub struct Reporter {
    /// Where the time goes.
    pub account: Account,
    /// The rest of a status.
    pub facts: Facts,
    /// The unit in which rates are shown when the limit is back to that of the start.
    pub usual_unit: RateUnit,
    /// The user wants to see nothing that can be left out.
    quiet: bool,
    summary: bool,
    progress: Option<(Shown, Interval)>,
    /// Where messages go while there is no progress line.
    messages: Option<Output>,
    /// A first tick has come.
    ticked: bool,
    /// Progress has been shown.
    shown: bool,
    stats: Option<(Lines, Interval)>,
    interval: Duration,
    /// When the next record is due.
    next_record: Duration,
}

impl Reporter {
    /// A reporter of a run that begins at `now`, with a buffer of `buffer` bytes. `group` is the
    /// name of the group. Must be called before any other descriptor is opened: see
    /// [`Lines::open`].
    ///
    /// # Errors
    /// If the records cannot go to their target. A stderr that cannot be used is no error.
    pub fn new(reports: &Reports, now: Duration, buffer: usize, group: Option<String>) -> io::Result<Self> {
        allow_writes_from_background();
        let stats = reports.stats.as_ref().map(Lines::open).transpose()?.map(|lines| (lines, Interval::default()));
        let line = || Progress::new(reports.eta_at).ok().map(|line| Shown::Line(Box::new(line)));
        let shown = match reports.progress {
            // Where the bytes themselves go to the terminal, the line would be among them.
            Show::Auto if stderr().is_terminal() && !stdout().is_terminal() => line(),
            Show::Always => line(),
            Show::Numeric => Numeric::new().ok().map(Shown::Numeric),
            Show::Auto | Show::Never => None,
        };
        let name = reports.name.clone();
        Ok(Reporter {
            account: Account::new(now, buffer),
            facts: Facts {
                pid: process::id(),
                name,
                group,
                size: reports.size,
                rate_unit: reports.rate_unit,
                ..Facts::default()
            },
            usual_unit: reports.rate_unit,
            quiet: reports.progress == Show::Never,
            summary: reports.summary,
            progress: shown.map(|shown| (shown, Interval::default())),
            // Messages are worth no transfer: without a descriptor for them there are none.
            messages: stderr().as_fd().try_clone_to_owned().and_then(Output::new).ok(),
            ticked: false,
            shown: false,
            stats,
            interval: reports.interval,
            next_record: now.saturating_add(reports.interval),
        })
    }

    /// The run begins: nothing can refuse it any more. `ends` are device and inode of what it reads
    /// from and writes to.
    ///
    /// # Errors
    /// If records would go into one of the ends.
    pub fn begin(&mut self, ends: &[(u64, u64)]) -> io::Result<()> {
        self.stats.as_mut().map_or(Ok(()), |(lines, _)| lines.begin(ends))
    }

    /// The run reads what someone types. If that is not plain to see, it says so.
    pub fn reads_from_terminal(&mut self) {
        if stderr().is_terminal() && !self.quiet {
            self.say("waiting for bytes from the terminal; Ctrl-D ends them, and 'pcproxy --help' shows examples");
        }
    }

    /// The status at `now`.
    pub fn status(&mut self, now: Duration, interval: &mut Interval) -> Status {
        self.facts.time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.account.status(now, interval, &self.facts)
    }

    /// The time until the next [`tick`](Self::tick); none if there is nothing to report.
    pub fn next_tick(&self, now: Duration) -> Option<Duration> {
        match (&self.progress, &self.stats) {
            (Some((Shown::Line(_), _)), _) if !self.ticked => Some(self.interval.min(BRIEF)),
            (Some(_), _) => Some(self.interval),
            (None, Some(_)) => Some(self.next_record.saturating_sub(now)),
            (None, None) => None,
        }
    }

    /// Reports what is due.
    pub fn tick(&mut self, now: Duration) {
        self.ticked = true;
        if let Some((mut shown, mut interval)) = self.progress.take() {
            let status = self.status(now, &mut interval);
            match &mut shown {
                Shown::Numeric(numeric) => numeric.write(&status, Duration::ZERO),
                // Before the first byte, a neighbour may be asking for a password.
                Shown::Line(line) if status.bytes > 0 => {
                    line.draw(&status);
                    self.shown = true;
                }
                Shown::Line(_) => {}
            }
            self.progress = Some((shown, interval));
        }
        if self.next_record <= now {
            self.record(now);
            self.next_record = now.saturating_add(self.interval);
        }
    }

    fn record(&mut self, now: Duration) {
        if let Some((mut lines, mut interval)) = self.stats.take() {
            let failed = lines.write(&self.status(now, &mut interval));
            self.stats = Some((lines, interval));
            if let Err(error) = failed {
                self.say(format!("--stats: {error}; there may be gaps in the records"));
            }
        }
    }

    /// Prints a message, above the progress line.
    pub fn say(&mut self, what: impl Display) {
        match (&mut self.progress, &mut self.messages) {
            (Some((Shown::Line(line), _)), _) => line.above(&message(what)),
            (_, Some(output)) => output.queue(message(what).as_bytes()),
            // No descriptor was left for it. What is said all the same may wait for a moment.
            (_, None) => say(what),
        }
    }

    /// Prints the summary of the run so far.
    pub fn summarize(&mut self, now: Duration) {
        for line in summary(&self.status(now, &mut Interval::default())) {
            self.say(line);
        }
    }

    /// The run has ended, in this way.
    pub fn finish(&mut self, now: Duration, ending: Ending) {
        self.facts.ending = Some(ending);
        if let Some((mut shown, mut interval)) = self.progress.take() {
            let status = self.status(now, &mut interval);
            match &mut shown {
                Shown::Line(line) if self.shown => line.finish(&status),
                Shown::Line(_) => {}
                Shown::Numeric(numeric) => numeric.write(&status, LAST_WAIT),
            }
        }
        self.record(now);
        if self.summary {
            self.summarize(now);
        }
    }
}
