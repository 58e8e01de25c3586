//! `pcproxy plot`: a picture of a recorded run.

mod axis;
mod draw;
mod read;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{BufReader, stdin};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use draw::draw;
use read::read;

use super::print::print;

/// Draw rate, limit and buffer of a run that was recorded with --stats
///
/// An SVG. Of several runs in one file, the one that the last line belongs to.
#[derive(Debug, Args)]
pub struct Plot {
    /// What --stats wrote; '-' is stdin
    recording: PathBuf,
    /// Where the picture goes; stdout without this
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Plot {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        let name = self.recording.display();
        let run = if self.recording.as_os_str() == "-" {
            read(stdin().lock())
        } else {
            read(BufReader::new(File::open(&self.recording).with_context(|| name.to_string())?))
        };
        let picture = run.and_then(|run| draw(&run)).with_context(|| name.to_string())?;
        match &self.output {
            Some(path) => fs::write(path, picture).with_context(|| path.display().to_string()),
            None => Ok(print(&picture)?),
        }
    }
}
