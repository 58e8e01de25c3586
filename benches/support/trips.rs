//! How long a byte takes through a program and back.

use std::io::{Read, Write, pipe};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::contestant::Samples;
use super::stats::{greatest, least, median, quantile};
use super::table::ratio;
use super::{Contestant, Stage, Table};

/// Microseconds of the round trips of one run.
pub struct Latency {
    p50: f64,
    p99: f64,
    worst: f64,
}

/// Sends a byte through `contestant` and waits for it, `trips` times after 200 that do not count.
pub fn run(contestant: &Contestant, trips: u64) -> Result<Latency> {
    let (stdin, mut input) = pipe()?;
    let (mut output, stdout) = pipe()?;
    let stage = Stage::start(&contestant.words, stdin, stdout)?;
    let mut times = Vec::with_capacity(trips as usize);
    for trip in 0..trips + 200 {
        let mut byte = [trip as u8];
        let start = Instant::now();
        input.write_all(&byte)?;
        output.read_exact(&mut byte).context("a byte got lost")?;
        let time = start.elapsed();
        ensure!(byte == [trip as u8], "another byte came out");
        if trip >= 200 {
            times.push(1e6 * time.as_secs_f64());
        }
    }
    drop(input);
    stage.finish()?;
    Ok(Latency { p50: median(&times), p99: quantile(&times, 0.99), worst: greatest(&times) })
}

/// The figures of all contestants. The ratio is that of the p50s: below 1, pcproxy needs less.
pub fn table(title: String, samples: &[Samples<Latency>]) -> Table {
    let columns = ["", "median p50", "min p50", "max p50", "median p99", "worst", "pcproxy needs ×"];
    let mut table = Table::new(title, &columns);
    let ours = samples.iter().find_map(|one| one.runs.as_ref().ok().filter(|_| one.label.starts_with("pcproxy")));
    table.rows(samples, |runs| {
        let of = |part: fn(&Latency) -> f64| runs.iter().map(part).collect::<Vec<_>>();
        let (p50, p99, worst) = (of(|run| run.p50), of(|run| run.p99), of(|run| run.worst));
        let mut cells: Vec<_> = [median(&p50), least(&p50), greatest(&p50), median(&p99), greatest(&worst)]
            .map(|figure| format!("{figure:.1}"))
            .into();
        cells.extend(ours.map(|ours| ratio(&ours.iter().map(|run| run.p50).collect::<Vec<_>>(), &p50)));
        cells
    });
    table
}
