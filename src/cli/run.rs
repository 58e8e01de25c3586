//! `pcproxy run`: a command between two limited flows.

use std::ffi::OsString;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use pcproxy::report::Show;
use pcproxy::shaping::Rate;
use pcproxy::transfer::{CommandLine, Config};
use pcproxy::units::{Speed, parse_speed};

use super::transfer::{BUFFER, Transfer};

/// Run a command with limits on what goes to it and what comes from it
///
/// The command reads what pcproxy reads, and pcproxy writes what the command writes: stdin and stdout
/// each pass through a buffer and a token bucket of their own; stderr is left alone. --rate limits each
/// direction, --up and --down limit one of them. A terminal on stdin is handed to the command as it is.
///
/// The exit status is that of the command. It is 128 plus the number of the signal if a signal ended
/// the command, 125 if pcproxy failed, 126 if the command cannot be run, and 127 if it was not found.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rsync -a -e 'pcproxy run --rate 5M -- ssh' /home host:backup
  pcproxy run --rate 10M -- pg_dump db > db.sql
  tar c /home | pcproxy run --up 1M -- ssh host 'cat > home.tar'")]
pub struct Run {
    /// Limit what goes to the command, in place of --rate
    #[arg(long, value_name = "RATE", value_parser = parse_speed, help_heading = "Rate")]
    up: Option<Speed>,

    /// Limit what comes from the command, in place of --rate
    #[arg(long, value_name = "RATE", value_parser = parse_speed, help_heading = "Rate")]
    down: Option<Speed>,

    #[command(flatten)]
    options: Transfer,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// The configuration that the words make together.
    pub fn config(&self) -> Result<Config> {
        if self.options.stop_after.is_some() {
            bail!("--stop-after does not go with 'run': the command decides when it has had enough");
        }
        if self.options.size.is_some() {
            bail!("--size does not go with 'run': there are two directions");
        }
        let [program, arguments @ ..] = &self.command[..] else { bail!("there is no command to run") };
        if let Some(option) = program.to_str().filter(|program| program.starts_with('-')) {
            bail!("'{option}' is no option of 'run'; a command of that name is ./{option}");
        }
        let mut config = self.options.config(BUFFER)?;
        // The command may ask for a password, or draw on the terminal itself.
        if config.reports.progress == Show::Auto {
            config.reports.progress = Show::Never;
        }
        let unit = config.unit();
        let rate = |option: &str, own: Option<Speed>| match own.map(|speed| speed.in_tokens(unit.tokens())) {
            None => Ok(config.rate.clone()),
            Some(Ok(tokens)) => Ok(Rate::Constant(tokens)),
            Some(Err(error)) => Err(anyhow!("{option}: the rate {error}")),
        };
        let (up, down) = (rate("--up", self.up)?, rate("--down", self.down)?);
        config.command = Some(CommandLine { program: program.clone(), arguments: arguments.to_vec(), up, down });
        Ok(config)
    }
}
