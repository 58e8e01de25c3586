//! Everything that a run tells of itself by itself: the progress line, statistics, the summary.

use std::fmt::Display;
use std::io::{self, IsTerminal, stderr, stdout};
use std::os::fd::AsFd;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::output::Output;
use super::{Lines, Progress, Target};
use crate::stats::{Account, Ending, Facts, Interval, Status, summary};

/// Who is done sooner shows no progress: nobody could read it.
const BRIEF: Duration = Duration::from_millis(500);

/// What a run is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// What the user calls the run.
    pub name: Option<String>,
    /// How many bytes there will be, if the user knows.
    pub size: Option<u64>,
    /// Whether to show progress; where it would be seen, if nothing.
    pub progress: Option<bool>,
    /// Say at the end how it went.
    pub summary: bool,
    /// Where records go.
    pub stats: Option<Target>,
    /// The time between two records, and between two drawings of the progress line.
    pub interval: Duration,
}

/// Keeps the account of a run and tells what the user wants to know of it.
#[derive(Debug)]
pub struct Reporter {
    /// Where the time goes.
    pub account: Account,
    /// What else a status says.
    pub facts: Facts,
    summary: bool,
    progress: Option<(Progress, Interval)>,
    /// Where messages go while there is no progress line.
    messages: Output,
    /// Progress has been shown.
    shown: bool,
    stats: Option<(Lines, Interval)>,
    interval: Duration,
    /// When the next record is due.
    next_record: Duration,
}

impl Reporter {
    /// A reporter of a run that begins at `now`. `group` is what the group is called. To be made
    /// before any other descriptor is opened: see [`Lines::open`].
    ///
    /// # Errors
    /// When the records cannot go where they shall.
    pub fn new(reports: &Reports, now: Duration, buffer: usize, group: Option<String>) -> io::Result<Self> {
        let stats = reports.stats.as_ref().map(Lines::open).transpose()?.map(|lines| (lines, Interval::default()));
        // Where the bytes themselves go to the terminal, the line would be among them.
        let wanted = reports.progress.unwrap_or_else(|| stderr().is_terminal() && !stdout().is_terminal());
        let progress = if wanted { Progress::new().ok().map(|line| (line, Interval::default())) } else { None };
        let name = reports.name.clone();
        Ok(Reporter {
            account: Account::new(now, buffer),
            facts: Facts { pid: process::id(), name, group, size: reports.size, ..Facts::default() },
            summary: reports.summary,
            progress,
            messages: Output::new(stderr().as_fd().try_clone_to_owned()?),
            shown: false,
            stats,
            interval: reports.interval,
            next_record: now.saturating_add(reports.interval),
        })
    }

    /// How things are at `now`.
    pub fn status(&mut self, now: Duration, interval: &mut Interval) -> Status {
        self.facts.time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.account.status(now, interval, &self.facts)
    }

    /// After what time to [`tick`](Self::tick) next, if at all.
    pub fn next_tick(&self, now: Duration) -> Option<Duration> {
        match (&self.progress, &self.stats) {
            (Some(_), _) if self.shown => Some(self.interval),
            (Some(_), _) => Some(self.interval.min(BRIEF)),
            (None, Some(_)) => Some(self.next_record.saturating_sub(now)),
            (None, None) => None,
        }
    }

    /// Tells what is to be told regularly.
    pub fn tick(&mut self, now: Duration) {
        if let Some((mut line, mut interval)) = self.progress.take() {
            line.draw(&self.status(now, &mut interval));
            self.shown = true;
            self.progress = Some((line, interval));
        }
        if self.next_record <= now {
            self.record(now);
            self.next_record = now.saturating_add(self.interval);
        }
    }

    fn record(&mut self, now: Duration) {
        if let Some((mut lines, mut interval)) = self.stats.take() {
            lines.write(&self.status(now, &mut interval));
            self.stats = Some((lines, interval));
        }
    }

    /// Says something, above the progress line.
    pub fn say(&mut self, what: impl Display) {
        match &mut self.progress {
            Some((line, _)) => line.above(&format!("pcproxy: {what}")),
            None => self.messages.queue(format!("pcproxy: {what}\n").as_bytes()),
        }
    }

    /// Says how it goes so far.
    pub fn summarize(&mut self, now: Duration) {
        for line in summary(&self.status(now, &mut Interval::default())) {
            self.say(line);
        }
    }

    /// The run has ended, in this way.
    pub fn finish(&mut self, now: Duration, ending: Ending) {
        self.facts.ending = Some(ending);
        if let Some((mut line, mut interval)) = self.progress.take().filter(|_| self.shown) {
            line.finish(&self.status(now, &mut interval));
        }
        self.record(now);
        if self.summary {
            self.summarize(now);
        }
    }
}
