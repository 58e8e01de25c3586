//! Words and tables that several commands have in common.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use pcproxy::units::parse_rate;

/// A limit in bytes a second, or none.
#[derive(Clone, Copy, Debug)]
pub struct RateOrOff(pub Option<u64>);

/// What `--rate` takes, or 'off'.
pub fn rate_or_off(text: &str) -> Result<RateOrOff> {
    if text == "off" { Ok(RateOrOff(None)) } else { Ok(RateOrOff(Some(parse_rate(text)?))) }
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
