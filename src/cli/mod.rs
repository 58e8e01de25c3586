//! The words of the user.

mod ctl;
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
use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::process::exit;

use anyhow::{Result, anyhow};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use pcproxy::report::{say, tell};
use pcproxy::transfer::Config;

use print::print;

const ABOUT: &str = "Moves bytes from inputs to an output, stdin to stdout if none is named, through a finite buffer, at a limited rate if you like";

const LONG_ABOUT: &str = "\
Moves bytes from inputs to an output, stdin to stdout if none is named, through a finite buffer, \
at a limited rate if you like.

When the buffer fills up, the producer is paused until the buffer has room in it again. Bytes \
move inside the kernel wherever the two sides allow it.";

const EXAMPLES: &str = "\
Examples:
  cat big | pcproxy --buffer 64K | nc host 9000
      a buffer of 64 KiB between a file and the network
  cat big | pcproxy --rate 10M | nc host 9000
      10 MiB a second in every interval, however the producer stutters
  tar c /home | pcproxy --schedule '08:00,512K 18:00,10M' | ssh host 'cat > home.tar'
      slow by day, faster by night
  pg_dump db | pcproxy --buffer 1G --low-water 25% | zstd > db.zst
      let the dump run ahead of the compressor by up to 1 GiB, and go on only when
      three quarters of that have been worked off
  tar c /home | pcproxy --pipe-size keep | ssh host 'cat > home.tar'
      leave the pipes of the neighbours at the size they have
  tar c /home | pcproxy --group uplink=10M --rate 4M | ssh host 'cat > home.tar'
      at most 4 MiB/s, and 10 MiB/s together with all others of the group uplink

Sizes: 64K and 64KiB are 65,536 bytes, 64kB is 64,000 bytes, a plain number is bytes.
Rates: a size a second, 10M or 10M/s, or bits a second, 80Mbit.

Exit status: 0 if everything read was delivered, 1 on an I/O error, 2 on a bad command line,
by SIGPIPE if the consumer left first, by the signal if interrupted.";

/// The command line.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    ends: transfer::Ends,
    #[command(flatten)]
    transfer: transfer::Transfer,
}

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
}

/// What the user wants.
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
        let arguments: Vec<_> = env::args_os().collect();
        let cli = Cli::try_parse_from(&arguments).map_err(|error| {
            if !error.use_stderr() {
                show(&error);
            }
            // A usage has many lines.
            if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                tell(&error.render().to_string());
                exit(2);
            }
            anyhow!(in_one_line(&error.to_string()))
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
            Tool::Group(group) => group.check(),
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
        }
    }
}

/// What clap says of an error, without the usage below it.
fn in_one_line(text: &str) -> String {
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(":; ", ": ").trim_start_matches("error: ").to_owned()
}
