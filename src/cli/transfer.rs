//! What to move and how: the options of a transfer, turned into a [`Config`].

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum, value_parser};
use pcproxy::budget::{GroupRequest, Name, Terms};
use pcproxy::endpoint::{Address, AddressError};
use pcproxy::report::{Reports, Target};
use pcproxy::shaping::{Burst, Rate, Schedule, parse_burst};
use pcproxy::transfer::Config;
use pcproxy::units::{parse_interval, parse_rate, parse_size, parse_time, show_rate};

use super::words::{buffer_size, command_like};

/// What to read and what to write.
#[derive(Debug, Args)]
pub struct Ends {
    /// What to read, one after the other; stdin if nothing, or where it is -
    ///
    /// A file, or tcp://HOST:PORT, tcp-listen://[ADDR]:PORT, unix:PATH, unix-listen:PATH. A
    /// listener serves one peer, and binds to the loopback address unless ADDR is given. A file
    /// that is called like a command or an address is ./NAME.
    #[arg(value_name = "INPUT", value_parser = OsStringValueParser::new().try_map(address))]
    inputs: Vec<Address>,

    /// Write to OUTPUT instead of stdout
    ///
    /// A file, which is created or emptied, or an address as with INPUT; - is stdout. Success
    /// is reported once the peer of a TCP connection has acknowledged every byte.
    #[arg(short, long, value_name = "OUTPUT", value_parser = OsStringValueParser::new().try_map(address), help_heading = "Output")]
    output: Option<Address>,

    /// Write behind what is in the OUTPUT file
    #[arg(long, requires = "output", help_heading = "Output")]
    append: bool,

    /// Have the system keep the OUTPUT file before success is reported
    #[arg(long, requires = "output", help_heading = "Output")]
    sync: bool,

    /// Give a connection at most TIME to be made
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_interval, help_heading = "Input")]
    connect_timeout: Duration,
}

/// The options of a transfer.
#[derive(Debug, Args)]
pub struct Transfer {
    /// Hold at most SIZE bytes
    ///
    /// From 1 byte to what the memory allows. Memory is taken only as the buffer fills.
    #[arg(short, long, value_name = "SIZE", default_value = "64K", value_parser = buffer_size, help_heading = "Buffer")]
    buffer: usize,

    /// Resume a paused producer once no more than this is held [default: 50%]
    ///
    /// A size below --buffer, or a share of it. 0 waits until the buffer is empty.
    #[arg(long, value_name = "SIZE|N%", default_value = "50%", hide_default_value = true, value_parser = share, help_heading = "Buffer")]
    low_water: Share,

    /// Grow the neighbours' pipes to SIZE, or keep them as they are
    ///
    /// Larger pipes mean fewer and larger steps on both sides. The system may refuse to grow
    /// them beyond /proc/sys/fs/pipe-max-size; they then stay as they are. They are never
    /// shrunk.
    #[arg(long, value_name = "SIZE|keep", default_value = "1M", value_parser = pipe_size, help_heading = "Buffer")]
    pipe_size: PipeSize,

    /// Feed the consumer at most RATE bytes a second
    ///
    /// In every interval of t seconds at most RATE * t bytes pass, and the burst: also after
    /// a silence, which earns no credit.
    #[arg(short, long, value_name = "RATE", value_parser = parse_rate, help_heading = "Rate")]
    rate: Option<u64>,

    /// Let a burst of SIZE, or of TIME at the rate, pass at once [default: 9ms]
    ///
    /// The depth of the token bucket. A deeper one makes up for longer delays of a busy
    /// machine, and feeds the consumer less evenly. Without this option, no more than 5ms of
    /// it can be earned by silence.
    #[arg(long, value_name = "SIZE|TIME", value_parser = parse_burst, help_heading = "Rate")]
    burst: Option<Burst>,

    /// Make up for delays of a busy machine, of at most TIME at once
    ///
    /// Only the machine's own delay is made up for: the time between the moment at which bytes
    /// could have gone on and the moment at which they did. 0 makes up for nothing.
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = parse_time, help_heading = "Rate")]
    catch_up: Duration,

    /// Limit the rate by time of day and day of week
    ///
    /// Entries '[DAY-]HH:MM,RATE', set apart by spaces, in local time; RATE may be 'off'. An
    /// entry without a day stands for every day. Each stays in force until the next.
    #[arg(long, value_name = "TIMETABLE", conflicts_with = "rate", help_heading = "Rate")]
    schedule: Option<Schedule>,

    /// Share one limit with all others that name the same group
    ///
    /// NAME may be a path, such as site/backup: each prefix that has a limit counts too. RATE is
    /// the limit that the group gets if it has none. 'pcproxy group' sets, shows and lifts
    /// limits.
    #[arg(short, long, value_name = "NAME[=RATE]", value_parser = group, help_heading = "Group")]
    group: Option<(Name, Option<u64>)>,

    /// Get a share of the group's limit in proportion to N, from 1 to 1000
    #[arg(long, value_name = "N", default_value = "100", value_parser = value_parser!(u32).range(1..=1000), requires = "group", help_heading = "Group")]
    weight: u32,

    /// Get at least RATE of the group's limit before others get more than theirs
    ///
    /// Refused if the group has less left to guarantee.
    #[arg(long, value_name = "RATE", value_parser = parse_rate, requires = "group", help_heading = "Group")]
    min_rate: Option<u64>,

    /// Stop the producer after SIZE bytes, deliver them, and end
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Input")]
    pub stop_after: Option<u64>,

    /// Call this transfer TEXT, where it is shown and to 'pcproxy ctl'
    #[arg(long, value_name = "TEXT", help_heading = "Reports")]
    name: Option<String>,

    /// Say how many bytes are to come; known without it where stdin is a file
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Reports")]
    pub size: Option<u64>,

    /// Show progress on stderr
    ///
    /// auto: where stderr is a terminal, stdout is not, and it takes longer than half a second.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto", help_heading = "Reports")]
    progress: When,

    /// Show no progress
    #[arg(short, long, conflicts_with = "progress", help_heading = "Reports")]
    quiet: bool,

    /// Say at the end how it went, and who was slow
    ///
    /// The same at any time: kill -USR1 PID.
    #[arg(long, help_heading = "Reports")]
    summary: bool,

    /// Write a JSON object to FILE, or descriptor FD, every --interval and at the end
    ///
    /// 'pcproxy plot' draws such a file. docs/guide.md has the fields.
    #[arg(long, value_name = "FILE|FD", value_parser = stats_target, help_heading = "Reports")]
    stats: Option<Target>,

    /// Draw the progress line, and write statistics, every TIME
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval, help_heading = "Reports")]
    interval: Duration,

    /// Do not listen to 'pcproxy ctl' and 'pcproxy top'
    #[arg(long, help_heading = "Reports")]
    no_control: bool,
}

/// A number of bytes, or a share of the buffer, in the user's words and in ours.
#[derive(Clone, Debug)]
struct Share {
    text: String,
    amount: Amount,
}

#[derive(Clone, Copy, Debug)]
enum Amount {
    Bytes(usize),
    Percent(f64),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    Always,
    Auto,
    Never,
}

#[derive(Clone, Copy, Debug)]
enum PipeSize {
    Keep,
    Grow(usize),
}

impl Ends {
    /// Refuses a first word that is no file, and looks like a command.
    fn check_words(&self) -> Result<()> {
        if let Some(path) = self.inputs.first().and_then(Address::path)
            && fs::symlink_metadata(path).is_err()
            && let Some(command) = path.to_str().and_then(command_like)
        {
            bail!("{}: no such file; did you mean the command '{command}'?", path.display());
        }
        Ok(())
    }

    /// What these and the other options say together.
    pub fn config(&self, options: &Transfer) -> Result<Config> {
        self.check_words()?;
        Ok(Config {
            inputs: if self.inputs.is_empty() { vec![Address::Standard] } else { self.inputs.clone() },
            output: self.output.clone(),
            append: self.append,
            sync: self.sync,
            connect_timeout: self.connect_timeout,
            ..options.config()?
        })
    }
}

impl Transfer {
    /// What the options say together, for stdin and stdout.
    pub fn config(&self) -> Result<Config> {
        let (low_water, low_share) = match self.low_water.amount {
            Amount::Bytes(bytes) => (bytes, bytes as f64 / self.buffer as f64),
            Amount::Percent(percent) => ((self.buffer as f64 * percent / 100.0) as usize, percent / 100.0),
        };
        if low_water >= self.buffer {
            bail!(
                "invalid value '{}' for '--low-water <SIZE|N%>': must be below --buffer, which is {} bytes",
                self.low_water.text,
                self.buffer
            );
        }
        if let (Some(least), Some(most)) = (self.min_rate, self.rate)
            && least > most
        {
            bail!(
                "--min-rate must not be above --rate: {} are above {}",
                show_rate(least as f64),
                show_rate(most as f64)
            );
        }
        Ok(Config {
            inputs: vec![Address::Standard],
            output: None,
            append: false,
            sync: false,
            connect_timeout: Duration::ZERO,
            command: None,
            buffer: self.buffer,
            low_water,
            low_share,
            pipe_size: match self.pipe_size {
                PipeSize::Keep => None,
                PipeSize::Grow(size) => Some(size),
            },
            rate: match (self.rate, &self.schedule) {
                (Some(rate), _) => Rate::Constant(rate),
                (None, Some(schedule)) => Rate::Timetable(schedule.clone()),
                (None, None) => Rate::Free,
            },
            burst: self.burst,
            catch_up: self.catch_up,
            group: self.group.clone().map(|(name, rate)| GroupRequest {
                name,
                rate,
                terms: Terms { weight: self.weight, guaranteed: self.min_rate.unwrap_or(0) },
            }),
            stop_after: self.stop_after,
            reports: Reports {
                name: self.name.clone(),
                size: self.size,
                progress: match self.progress {
                    When::Always => Some(true),
                    When::Auto if !self.quiet => None,
                    When::Auto | When::Never => Some(false),
                },
                summary: self.summary,
                stats: self.stats.clone(),
                interval: self.interval,
            },
            control: !self.no_control,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the parser gives it away")]
fn address(word: OsString) -> Result<Address, AddressError> {
    Address::parse(&word)
}

fn share(text: &str) -> Result<Share> {
    let amount = match text.strip_suffix('%').map(|percent| percent.trim().parse::<f64>()) {
        Some(Ok(percent)) if (0.0..100.0).contains(&percent) => Amount::Percent(percent),
        Some(_) => bail!("is not a share: use 0% to below 100%, such as 25%"),
        None => Amount::Bytes(parse_size(text)?.try_into()?),
    };
    Ok(Share { text: text.to_owned(), amount })
}

fn pipe_size(text: &str) -> Result<PipeSize> {
    if text == "keep" { Ok(PipeSize::Keep) } else { Ok(PipeSize::Grow(parse_size(text)?.try_into()?)) }
}

fn group(text: &str) -> Result<(Name, Option<u64>)> {
    let (name, rate) = match text.split_once('=') {
        Some((name, rate)) => (name, Some(parse_rate(rate).map_err(|error| anyhow!("'{rate}' {error}"))?)),
        None => (text, None),
    };
    Ok((name.parse()?, rate))
}

/// A number is a descriptor.
fn stats_target(text: &str) -> Result<Target> {
    match text.parse::<i32>() {
        Ok(number) if number < 0 => bail!("is neither a file nor a descriptor: a descriptor is at least 0"),
        Ok(number) => Ok(Target::Descriptor(number)),
        Err(_) => Ok(Target::File(text.into())),
    }
}
