//! `pcproxy plot`: a picture of a recorded run.

mod axis;
mod draw;
mod read;
mod svg;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{BufReader, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use draw::{Style, draw};
use pcproxy::stats::Status;
use pcproxy::units::printable;
use read::read;
use svg::Theme;

use super::print::print;

/// Draw rate, limit and buffer of a run that was recorded with --stats
///
/// The picture is an SVG. If a recording holds several runs, the run of its last line is drawn. Two
/// recordings in one picture can be compared.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcproxy plot run.jsonl -o run.svg
  pcproxy plot --theme light --time-of-day run.jsonl -o run.svg
  pcproxy plot before.jsonl after.jsonl -o both.svg")]
pub struct Plot {
    /// Files that --stats wrote; '-' is stdin
    #[arg(required = true, num_args = 1..=2)]
    recording: Vec<PathBuf>,
    /// Write the picture to FILE instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Colours of the picture
    #[arg(long, value_enum, default_value = "auto", value_name = "THEME")]
    theme: Theme,
    /// Label the axis with the time of day, in local time
    #[arg(long)]
    time_of_day: bool,
}

impl Plot {
    /// Checks the file names.
    ///
    /// # Errors
    /// If the picture is to have a format other than SVG.
    pub fn check(&self) -> Result<()> {
        let format = self.output.as_ref().and_then(|path| path.extension()).map(|format| format.to_ascii_lowercase());
        if let (Some(path), Some(format)) = (&self.output, format)
            && ["png", "jpg", "jpeg", "gif", "webp", "pdf", "ps", "eps"].iter().any(|other| format == *other)
        {
            let (path, svg) = (show(path), show(&path.with_extension("svg")));
            bail!("plot writes SVG only: write {svg}, and convert it: rsvg-convert -o {path} {svg}");
        }
        Ok(())
    }

    /// Draws the picture.
    ///
    /// # Errors
    /// When a recording cannot be read, or the picture cannot be written.
    pub fn run(&self) -> Result<()> {
        let runs: Result<Vec<_>> = self.recording.iter().map(|path| read_file(path)).collect();
        let runs = runs?;
        let runs: Vec<_> = runs.iter().map(Vec::as_slice).collect();
        let picture = draw(&runs, Style { theme: self.theme, time_of_day: self.time_of_day })?;
        match &self.output {
            Some(path) => fs::write(path, picture).with_context(|| show(path)),
            None => Ok(print(&picture)?),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<Status>> {
    let run = if path.as_os_str() == "-" {
        read(stdin().lock())
    } else {
        read(BufReader::new(File::open(path).with_context(|| show(path))?))
    };
    run.with_context(|| show(path))
}

/// A path, harmless on a terminal.
fn show(path: &Path) -> String {
    printable(&path.to_string_lossy())
}
