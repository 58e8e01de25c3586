//! The command line of a benchmark program, and the sets of rows it can run.

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{Contestant, contestant, roles};

/// One table or more that belong together.
pub struct Set {
    /// What FILTER is compared with.
    pub name: &'static str,
    /// Runs it and prints it.
    pub run: fn(&Options) -> Result<()>,
}

/// The words of the user.
pub struct Options {
    /// Runs of each row.
    pub runs: usize,
    /// Small amounts, to see that the program works; its figures mean nothing.
    pub quick: bool,
    /// The program measured: the one built with the benchmark, or another one.
    pub pcproxy: String,
    filters: Vec<String>,
}

impl Options {
    /// Reads what follows `--bench`, which cargo adds. `None` without it: `cargo test` came by.
    fn read(pcproxy: &str) -> Result<Option<Self>> {
        let mut options = Options { runs: 7, quick: false, pcproxy: pcproxy.into(), filters: Vec::new() };
        let mut by_cargo = false;
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bench" => by_cargo = true,
                "--quick" => options.quick = true,
                "--runs" => {
                    let runs = words.next().context("--runs needs a number")?;
                    options.runs = runs.parse().ok().filter(|&runs| runs > 0).context("--runs needs a number")?;
                }
                "--pcproxy" => options.pcproxy = words.next().context("--pcproxy needs a path")?,
                option if option.starts_with('-') => bail!("unknown option {option}"),
                filter => options.filters.push(filter.into()),
            }
        }
        Ok(by_cargo.then_some(options))
    }

    /// Whether the set of this name is asked for.
    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// `amount`, or so little that a run with `--quick` is over soon.
    pub fn amount(&self, amount: u64) -> u64 {
        if self.quick { (amount / 32).max(1) } else { amount }
    }

    /// pcproxy with these arguments.
    pub fn pcproxy(&self, arguments: &[&str]) -> Contestant {
        Contestant::new("pcproxy", &self.pcproxy, arguments)
    }

    /// As many runs as asked for, but no more than `most`: for rows that take long and do not vary.
    pub fn runs_up_to(&self, most: usize) -> usize {
        self.runs.min(most)
    }
}

/// The `main` of a benchmark program: plays a role in a pipeline if the arguments name one, else runs
/// the sets asked for. `pcproxy` is the path of the program that cargo built.
pub fn main_with(pcproxy: &str, sets: &[Set]) -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    let names = || sets.iter().map(|set| set.name).collect::<Vec<_>>().join(", ");
    let options = match Options::read(pcproxy) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("a benchmark, not a test: run it with `cargo bench`");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\nusage: [--runs N] [--quick] [--pcproxy PATH] [FILTER]...\nsets: {}", names());
            return ExitCode::from(2);
        }
    };
    let wanted: Vec<_> = sets.iter().filter(|set| options.wants(set.name)).collect();
    if wanted.is_empty() {
        eprintln!("no such set; there are: {}", names());
        return ExitCode::from(2);
    }
    contestant::header(&options);
    let mut code = ExitCode::SUCCESS;
    for set in wanted {
        if let Err(error) = (set.run)(&options) {
            println!("\n{} could not be measured: {error:#}", set.name);
            code = ExitCode::FAILURE;
        }
    }
    code
}
