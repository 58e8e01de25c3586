//! Figures beside what they are to be.

use anyhow::Result;

use super::Table;
use super::stats::{farthest, greatest, least, median};

/// What a figure is to be.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// No farther from 0 than this.
    Within(f64),
    /// Shown for comparison.
    Open,
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
            Target::Within(most) => value.abs() <= most,
            Target::Open => true,
        }
    }

    fn worst(self, values: &[f64]) -> String {
        let worst = match self {
            Target::AtMost(_) => greatest(values),
            Target::AtLeast(_) => least(values),
            Target::Within(_) => farthest(values),
            Target::Open => return format!("{:.3} to {:.3}", least(values), greatest(values)),
        };
        format!("{worst:.3}")
    }

    fn words(self) -> String {
        match self {
            Target::AtMost(most) => format!("at most {most}"),
            Target::AtLeast(least) => format!("at least {least}"),
            Target::Within(most) => format!("0 ± {most}"),
            Target::Open => String::new(),
        }
    }
}

/// Values of one kind.
pub struct Figure {
    name: String,
    target: Target,
    values: Vec<f64>,
}

impl Figure {
    /// One value a run, or several.
    pub fn new(name: impl Into<String>, target: Target, values: impl IntoIterator<Item = f64>) -> Self {
        Figure { name: name.into(), target, values: values.into_iter().collect() }
    }
}

/// Measures `runs` times, and shows each figure of all runs in a row: which part of its values met
/// the target, too.
pub fn verdicts(title: &str, runs: usize, mut measure: impl FnMut() -> Result<Vec<Figure>>) -> Result<Table> {
    let mut figures = measure()?;
    for _ in 1..runs {
        for (figure, again) in figures.iter_mut().zip(measure()?) {
            figure.values.extend(again.values);
        }
    }
    let mut table = Table::new(title, &["", "median", "worst", "target", "met"]);
    for Figure { name, target, values } in figures {
        let met = match target {
            Target::Open => String::new(),
            _ => format!("{} of {}", values.iter().filter(|&&value| target.is_met(value)).count(), values.len()),
        };
        table.row(vec![name, format!("{:.3}", median(&values)), target.worst(&values), target.words(), met]);
    }
    Ok(table)
}
