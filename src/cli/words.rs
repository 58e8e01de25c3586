//! Words and tables that several commands have in common.

use anyhow::{Result, anyhow};
use clap::CommandFactory;
use comfy_table::{CellAlignment, Table, presets};
use pcproxy::buffer::check_size;
use pcproxy::units::{parse_rate, parse_size};

/// A limit in bytes a second, or none.
#[derive(Clone, Copy, Debug)]
pub struct RateOrOff(pub Option<u64>);

/// What `--rate` takes, or 'off'.
pub fn rate_or_off(text: &str) -> Result<RateOrOff> {
    if text == "off" { Ok(RateOrOff(None)) } else { Ok(RateOrOff(Some(parse_rate(text)?))) }
}

/// The command that a word was perhaps meant to be.
pub fn command_like(word: &str) -> Option<String> {
    let cli = super::Cli::command();
    let names = cli.get_subcommands().map(|command| command.get_name().to_owned());
    // A slip of the finger or two, of a word that is longer than that.
    let distance = |name: &str| strsim::damerau_levenshtein(word, name);
    let likely = |name: &String| distance(name) <= 2 && distance(name) < name.chars().count() - 1;
    names.filter(likely).min_by_key(|name| distance(name))
}

/// A size for a buffer, from 1 byte to what the memory allows.
pub fn buffer_size(text: &str) -> Result<usize> {
    check_size(parse_size(text)?).map_err(|reason| anyhow!(reason))
}

/// A table for people. Columns of words, `left`, begin at the left, those of numbers end at the
/// right.
pub fn table(header: &[&str], left: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for (column, title) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        if !left.contains(title) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
