//! `pcproxy`: parse, run, report.

#![forbid(unsafe_code)]

mod cli;

use std::io::ErrorKind;
use std::process::ExitCode;

use cli::Order;
use pcproxy::os::die_by;
use pcproxy::report::say;
use pcproxy::transfer::{self, Config, End, Error, Outcome, lost};
use pcproxy::units::show_bytes;
use signal_hook::consts::SIGPIPE;

/// Runs before Rust's runtime opens `/dev/null` over closed descriptors.
#[ctor::ctor]
fn look_at_descriptors() {
    pcproxy::os::closed::look();
}

fn main() -> ExitCode {
    match Order::read() {
        Order::Transfer(config) => move_bytes(&config),
        Order::Command(command) => match command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(format!("{error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

/// Moves bytes.
fn move_bytes(config: &Config) -> ExitCode {
    let Outcome { end, undelivered, arrived } = transfer::run(config);
    match end {
        Ok(End::Delivered) => ExitCode::SUCCESS,
        Ok(End::Exited(exit)) => ExitCode::from(exit.code()),
        Ok(End::Incomplete) => ExitCode::FAILURE,
        // As cat: by the signal, and without a word.
        Ok(End::ConsumerLeft) => ExitCode::from(die_by(SIGPIPE)),
        Ok(End::Interrupted(signal)) => ExitCode::from(die_by(signal)),
        Ok(End::Abandoned(signal, why)) => {
            report(why, undelivered, arrived);
            ExitCode::from(die_by(signal))
        }
        // As a bad command line: nothing was read.
        Err(error @ (Error::Group(_) | Error::Spill(..))) => {
            say(error);
            ExitCode::from(2)
        }
        Err(error) => {
            // As env and timeout have it.
            let code = match &error {
                Error::Command(_, cause) if cause.kind() == ErrorKind::NotFound => 127,
                Error::Command(..) => 126,
                _ if config.command.is_some() => 125,
                _ => 1,
            };
            report(error, undelivered, arrived);
            ExitCode::from(code)
        }
    }
}

fn report(what: impl std::fmt::Display, undelivered: u64, arrived: Option<u64>) {
    let arrived = arrived.map_or(String::new(), |arrived| format!("; {} arrived", show_bytes(arrived)));
    say(format!("{what}{arrived}{}", lost(undelivered)));
}
