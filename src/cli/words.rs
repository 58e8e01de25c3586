//! Words and tables that several commands have in common.

use std::{env, fmt};

use anyhow::{Result, anyhow, bail};
use clap::CommandFactory;
use clap::builder::{OsStringValueParser, TypedValueParser};
use comfy_table::{CellAlignment, Table, presets};
use jiff::tz::TimeZone;
use pcproxy::buffer::check_spilled_size;
use pcproxy::control::Request;
use pcproxy::report::say;
use pcproxy::units::{RateChange, Speed, parse_size, parse_speed, printable};

/// A limit, or none.
#[derive(Clone, Copy, Debug)]
pub struct RateOrOff(pub Option<Speed>);

/// A rate, or 'off' for no limit.
pub fn rate_or_off(text: &str) -> Result<RateOrOff> {
    match text {
        "off" => Ok(RateOrOff(None)),
        rate => match parse_speed(rate) {
            Ok(rate) => Ok(RateOrOff(Some(rate))),
            Err(error) => bail!("{error}; 'off' is no limit"),
        },
    }
}

/// Why an option refuses a value, in one line: `--rate: '5X' is not a rate: use …`.
pub fn refused(option: &str, value: &str, reason: impl fmt::Display) -> String {
    let reason = reason.to_string();
    let is_about_value = ["is ", "may ", "must "].iter().any(|verb| reason.starts_with(verb));
    let colon = if is_about_value { "" } else { ":" };
    format!("{option}: '{}'{colon} {reason}", printable(value))
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

/// A change of the limit of a transfer.
#[derive(Clone, Debug)]
pub enum NewRate {
    /// This rate, or no limit.
    Set(Option<Speed>),
    /// More or less than now.
    Change(RateChange),
    /// The timetable, or the rate of the start.
    Back,
}

impl NewRate {
    /// The request for it.
    pub fn request(&self) -> Request {
        match *self {
            NewRate::Set(speed) => Request::Rate {
                rate: speed.map(|speed| speed.amount),
                seconds: speed.map_or(1, |speed| speed.seconds),
                unit: speed.map(|speed| speed.unit),
            },
            NewRate::Change(by) => Request::ChangeRate { by },
            NewRate::Back => Request::RateBack {},
        }
    }
}

/// A rate, 'off', 'back', or a change such as '+10%' or '-1M'.
pub fn new_rate(text: &str) -> Result<NewRate> {
    Ok(match text {
        "back" => NewRate::Back,
        text if text.starts_with(['+', '-', '\u{2212}']) => NewRate::Change(text.parse()?),
        text => NewRate::Set(rate_or_off(text)?.0),
    })
}

/// A size for the buffer of a run, which knows whether it can have that.
pub fn buffer_size(text: &str) -> Result<usize> {
    check_spilled_size(parse_size(text)?).map_err(|reason| anyhow!(reason))
}

/// A parser of texts for people, such as names. Bytes that are not UTF-8 become U+FFFD, as records
/// and terminals show them.
pub fn text() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|text| text.to_string_lossy().into_owned())
}

/// Says so if `$TZ` names no time zone. The timetable then follows UTC, as `date` does.
pub fn check_time_zone() {
    if let Some(zone) = env::var_os("TZ").filter(|zone| !zone.is_empty())
        && TimeZone::try_system().is_err()
    {
        say(format!(
            "TZ: '{}' is not a known time zone; the timetable follows UTC",
            printable(&zone.to_string_lossy())
        ));
    }
}

/// A table for people. The columns in `left` are words and begin at the left, the others are numbers
/// and end at the right.
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
