//! The words of the user.

mod ctl;
mod generate;
mod group;
mod plot;
mod print;
mod run;
mod share;
mod top;
mod transfer;
mod words;

/// A status for the tests, as those of the library use it.
#[cfg(test)]
#[path = "../../tests/support/status.rs"]
mod fixture;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::process::exit;

use anyhow::{Result, anyhow};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use pcproxy::report::{say, tell};
use pcproxy::transfer::Config;

use print::print;
use words::refused;

const ABOUT: &str = "Moves bytes from inputs to an output, stdin to stdout if none is named, through a finite buffer, at a limited rate if you like";

const LONG_ABOUT: &str = "\
Pass bytes from inputs to outputs through a finite buffer, at a limited rate if you like. \
Without names, they go from stdin to stdout.

When the buffer is full, the producer is paused until the buffer has drained. Bytes move inside \
the kernel wherever both sides allow it.";

const EXAMPLES: &str = "\
Examples:
  cat big | pcproxy --buffer 64K | nc host 9000
      a buffer of 64 KiB between a file and the network
  cat big | pcproxy --rate 10M | nc host 9000
      10 MiB per second, never more, even if the producer stutters
  tar c /home | pcproxy --schedule '08:00,512K 18:00,10M' | ssh host 'cat > home.tar'
      slow by day, faster by night
  pg_dump db | pcproxy --buffer 1G --low-water 25% | zstd > db.zst
      the dump runs ahead of the compressor by up to 1 GiB, and goes on once three
      quarters of that have been worked off
  tar c /home | pcproxy --pipe-size keep | ssh host 'cat > home.tar'
      the pipes on both sides keep their size
  tar c /home | pcproxy --group uplink=10M --rate 4M | ssh host 'cat > home.tar'
      at most 4 MiB/s, and at most 10 MiB/s together with all others of the group uplink

Sizes: 64K and 64KiB are 65,536 bytes, 64kB is 64,000 bytes, a plain number is bytes.
Rates: 10M and 10M/s are bytes per second, 80Mbit is bits per second, 10G/h is bytes per hour.

Exit status: 0 if everything that was read was delivered, 1 after an I/O error, 2 if the command
line was refused. If the consumer leaves first, pcproxy ends by SIGPIPE; if a signal interrupts it,
pcproxy ends by that signal.";

/// The command line.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
// A repeated option overrides the one before it, so that aliases of the shell can have options.
#[command(args_override_self = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    ends: transfer::Ends,
    #[command(flatten)]
    transfer: transfer::Transfer,
}

/// The command line of a plain transfer, as in [`Cli`].
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Plain {
    #[command(flatten)]
    ends: transfer::Ends,
    #[command(flatten)]
    transfer: transfer::Transfer,
}

/// The names of the commands.
const COMMANDS: [&str; 8] = ["run", "ctl", "group", "top", "plot", "man", "completions", "help"];

/// Everything there is to do besides a plain transfer.
#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    #[command(flatten)]
    Tool(Tool),
}

/// The commands that move no bytes.
#[derive(Debug, Subcommand)]
pub enum Tool {
    Ctl(ctl::Ctl),
    Group(group::Group),
    Top(top::Top),
    Plot(plot::Plot),
    Man(generate::Manual),
    Completions(generate::Completions),
}

/// The order of the user.
pub enum Order {
    /// Move bytes.
    Transfer(Box<Config>),
    /// Something else.
    Command(Tool),
}

impl Order {
    /// Reads the command line. Exits with status 2 and says in one line what is wrong with it, or
    /// prints what was asked for, such as `--help`, and exits with status 0.
    pub fn read() -> Order {
        generate::complete();
        let arguments = with_minus_signs(env::args_os());
        if let Some(config) = plain(&arguments) {
            return Order::Transfer(Box::new(config));
        }
        let parsed = Cli::try_parse_from(&arguments).or_else(|error| match joined(&arguments, &error) {
            Some(arguments) => Cli::try_parse_from(arguments).map_err(|second| match second.kind() {
                ErrorKind::UnknownArgument => error,
                _ => second,
            }),
            None => Err(error),
        });
        let cli = parsed.map_err(|error| {
            if !error.use_stderr() {
                show(&error);
            }
            // A usage has many lines.
            if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                tell(&error.render().to_string());
                exit(2);
            }
            let suggestion = suggestion(&error).unwrap_or_default();
            anyhow!(refused_value(&error).unwrap_or_else(|| in_one_line(&error.to_string())) + suggestion)
        });
        cli.and_then(Cli::order).unwrap_or_else(|reason| {
            let reason = reason.to_string();
            // A question is an answer already.
            let help = if reason.ends_with('?') {
                String::new()
            } else {
                format!("; try '{} --help'", command_of(&arguments))
            };
            say(format!("{reason}{help}"));
            exit(2)
        })
    }
}

/// A plain transfer, if these arguments are one and nothing is wrong with them. The table of all
/// commands takes longer to build than that of the transfer, so it is built only where it is needed.
fn plain(arguments: &[OsString]) -> Option<Config> {
    if arguments.iter().skip(1).any(|argument| COMMANDS.iter().any(|command| argument == command)) {
        return None;
    }
    let Plain { ends, transfer } = Plain::try_parse_from(arguments).ok()?;
    ends.config(&transfer).ok()
}

/// The arguments, with a minus sign (U+2212) in place of the hyphen of `ctl NAME rate -1M`: clap
/// would take that for an option. No option of a command is a digit.
fn with_minus_signs(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = arguments.collect();
    if arguments.get(1).is_some_and(|command| command == "ctl" || command == "group") {
        let options = arguments.iter_mut().skip(2).take_while(|argument| *argument != "--");
        for argument in options {
            if let Some(number) = argument.to_str().and_then(|text| text.strip_prefix('-'))
                && number.starts_with(|first: char| first.is_ascii_digit())
            {
                *argument = format!("\u{2212}{number}").into();
            }
        }
    }
    arguments
}

/// Prints the help or the version and exits.
fn show(error: &clap::Error) -> ! {
    let text = error.render();
    let colors = stdout().is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|term| term != "dumb");
    let text = if colors { text.ansi().to_string() } else { text.to_string() };
    exit(match print(&text) {
        Ok(()) => 0,
        Err(error) => {
            say(error);
            1
        }
    })
}

/// The command whose help explains these arguments: `pcproxy`, or such as `pcproxy ctl`.
fn command_of(arguments: &[OsString]) -> String {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(arguments).ok();
    let command = matches.as_ref().and_then(|matches| matches.subcommand_name());
    command.map_or("pcproxy".to_owned(), |command| format!("pcproxy {command}"))
}

impl Cli {
    fn order(self) -> Result<Order> {
        match self.command {
            Some(Command::Run(run)) => Ok(Order::Transfer(Box::new(run.config()?))),
            Some(Command::Tool(tool)) => tool.check().map(|()| Order::Command(tool)),
            None => Ok(Order::Transfer(Box::new(self.ends.config(&self.transfer)?))),
        }
    }
}

impl Tool {
    /// Whether its words make sense together.
    fn check(&self) -> Result<()> {
        match self {
            Tool::Ctl(ctl) => ctl.check(),
            Tool::Group(group) => group.check(),
            Tool::Plot(plot) => plot.check(),
            _ => Ok(()),
        }
    }

    /// Does it.
    pub fn run(&self) -> Result<()> {
        match self {
            Tool::Ctl(ctl) => ctl.run(),
            Tool::Group(group) => group.run(),
            Tool::Top(top) => top.run(),
            Tool::Plot(plot) => plot.run(),
            Tool::Man(manual) => manual.run(),
            Tool::Completions(completions) => completions.run(),
        }
    }
}

/// The arguments with a value that looks like an option, such as in `--rate -5M`, marked as a value, so
/// that clap's error names the option. Nothing if that is not what is wrong.
fn joined(arguments: &[OsString], error: &clap::Error) -> Option<Vec<OsString>> {
    // Of `-5M` clap names the first letter only, and of `-0.5` none, since there is an option `-0`.
    let unknown = unknown_argument(error).unwrap_or("-0.");
    if !unknown.strip_prefix('-')?.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let at = arguments.iter().position(|argument| argument.to_str().is_some_and(|text| text.starts_with(unknown)))?;
    let before = arguments.get(at.checked_sub(1)?)?.to_str()?;
    let mut arguments = arguments.to_vec();
    if before.starts_with('-') && !before.contains('=') {
        let value = arguments.remove(at);
        arguments[at - 1].push("=");
        arguments[at - 1].push(value);
    } else if Cli::command().get_subcommands().any(|command| arguments[1] == command.get_name()) {
        arguments.insert(at, "--".into());
    } else {
        return None;
    }
    Some(arguments)
}

/// A tip, if this is a name of `--rate` in other programs.
fn suggestion(error: &clap::Error) -> Option<&'static str> {
    const KNOWN_ELSEWHERE: [&str; 6] = ["--limit", "--speed", "--bwlimit", "--max-rate", "--throttle", "--bandwidth"];
    KNOWN_ELSEWHERE.contains(&unknown_argument(error)?).then_some("; tip: a similar argument exists: '--rate'")
}

/// The argument that clap does not know, if that is the error.
fn unknown_argument(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) if error.kind() == ErrorKind::UnknownArgument => Some(argument),
        _ => None,
    }
}

/// A value that its option refuses, if that is the error.
fn refused_value(error: &clap::Error) -> Option<String> {
    let reason = error.source().filter(|_| error.kind() == ErrorKind::ValueValidation)?.to_string();
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let option = word(ContextKind::InvalidArg)?.split([' ', '=']).next()?;
    Some(refused(option, &as_typed(word(ContextKind::InvalidValue)?), reason))
}

/// The words of clap about an error, without the usage below it.
fn in_one_line(text: &str) -> String {
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ").replace(":; ", ": ");
    as_typed(line.trim_start_matches("error: "))
}

/// The hyphens that [`with_minus_signs`] has hidden from clap.
fn as_typed(text: &str) -> String {
    text.replace('\u{2212}', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_known_by_its_name() {
        let mut table = Cli::command();
        table.build();
        assert!(table.get_subcommands().map(clap::Command::get_name).eq(COMMANDS));
    }
}
