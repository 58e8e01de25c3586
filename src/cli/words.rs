//! Words and tables that several commands have in common.

use anyhow::{Result, anyhow};
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
