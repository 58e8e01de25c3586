//! Markdown tables.

use std::fmt;

use super::contestant::Samples;
use super::stats::{greatest, least, median};

/// A table under a heading.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with no rows yet.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Table { title: title.into(), rows: vec![columns.iter().map(|&column| column.into()).collect()] }
    }

    /// Adds a row. Columns not given stay empty.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.rows[0].len(), String::new());
        self.rows.push(cells);
    }

    /// Adds a row for each contestant: its name and what `cells` makes of its runs, or why it failed.
    pub fn rows<T>(&mut self, samples: &[Samples<T>], cells: impl Fn(&[T]) -> Vec<String>) {
        for Samples { label, runs } in samples {
            let mut row = vec![format!("`{label}`")];
            match runs {
                Ok(runs) => row.extend(cells(runs)),
                Err(reason) => row.push(format!("failed: {}", reason.replace('|', "/"))),
            }
            self.row(row);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.rows[0].len()).map(width).collect();
        writeln!(f, "\n### {}\n", self.title)?;
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 { write!(f, "| {cell:width$} |")? } else { write!(f, " {cell:>width$} |")? }
            }
            writeln!(f)?;
            if number == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width);
                    if column == 0 { write!(f, "| {dashes} |")? } else { write!(f, " {}: |", &dashes[1..])? }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// One figure a run, compared with pcproxy's.
pub struct Comparison {
    /// The heading.
    pub title: String,
    /// What is measured, with its unit.
    pub figure: &'static str,
    /// Decimal places shown.
    pub places: usize,
    /// The heading of the last column, in which pcproxy's figure is divided by the row's.
    pub ratio: &'static str,
}

impl Comparison {
    /// The table of all contestants. The ratio is the median of those within one round, as what
    /// disturbs the machine for longer disturbs neighbours alike.
    pub fn table(self, samples: &[Samples<f64>]) -> Table {
        let median_of = format!("median {}", self.figure);
        let mut table = Table::new(self.title, &["", &median_of, "min", "max", self.ratio]);
        let ours = samples.iter().find(|one| one.label.starts_with("pcproxy")).and_then(|one| one.runs.as_ref().ok());
        table.rows(samples, |runs| {
            let show = |value: f64| format!("{value:.*}", self.places);
            let ratio = ours.map_or(String::new(), |ours| ratio(ours, runs));
            vec![show(median(runs)), show(least(runs)), show(greatest(runs)), ratio]
        });
        table
    }
}

/// The median of our figures divided by theirs, run by run.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let ratio = median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>());
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}
