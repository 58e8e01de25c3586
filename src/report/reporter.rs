//! Everything that a run tells of itself by itself: statistics and the summary.

use std::io;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Account, Facts, Interval, Lines, Status, Target, say, summary};

/// What a run is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// What the user calls the run.
    pub name: Option<String>,
    /// How many bytes there will be, if the user knows.
    pub size: Option<u64>,
    /// Say at the end how it went.
    pub summary: bool,
    /// Where records go.
    pub stats: Option<Target>,
    /// The time between two records.
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
    stats: Option<(Lines, Interval)>,
    interval: Duration,
}

impl Reporter {
    /// A reporter of a run that begins at `now`. `group` is what the group is called.
    ///
    /// # Errors
    /// When the records cannot go where they shall.
    pub fn new(reports: &Reports, now: Duration, buffer: usize, group: Option<String>) -> io::Result<Self> {
        let stats = reports.stats.as_ref().map(Lines::open).transpose()?.map(|lines| (lines, Interval::default()));
        let name = reports.name.clone();
        Ok(Reporter {
            account: Account::new(now, buffer),
            facts: Facts { pid: process::id(), name, group, size: reports.size, ..Facts::default() },
            summary: reports.summary,
            stats,
            interval: reports.interval,
        })
    }

    /// How things are at `now`.
    pub fn status(&mut self, now: Duration, interval: &mut Interval) -> Status {
        self.facts.time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.account.status(now, interval, &self.facts)
    }

    /// After what time to [`tick`](Self::tick) first, if at all.
    pub fn first_tick(&self) -> Option<Duration> {
        self.stats.as_ref().map(|_| self.interval)
    }

    /// Tells what is to be told regularly. Returns after what time to tick again, if at all.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        self.record(now);
        self.first_tick()
    }

    fn record(&mut self, now: Duration) {
        if let Some((mut lines, mut interval)) = self.stats.take() {
            lines.write(&self.status(now, &mut interval));
            self.stats = Some((lines, interval));
        }
    }

    /// Says how it goes so far.
    pub fn summarize(&mut self, now: Duration) {
        for line in summary(&self.status(now, &mut Interval::default())) {
            say(line);
        }
    }

    /// The run has ended.
    pub fn finish(&mut self, now: Duration) {
        self.facts.done = true;
        self.record(now);
        if self.summary {
            self.summarize(now);
        }
    }
}
