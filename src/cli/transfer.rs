//! The options of a transfer, turned into a [`Config`].

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum, value_parser};
use pcproxy::budget::{GroupRequest, Name, Terms};
use pcproxy::buffer::{LEAST_MEMORY, check_size, check_spilled_size};
use pcproxy::endpoint::{Address, AddressError, Algorithm};
use pcproxy::report::{Reports, Show, Target};
use pcproxy::shaping::{Burst, Rate, Schedule, Unit, parse_burst, unit_of_schedule};
use pcproxy::stats::RecordKind;
use pcproxy::transfer::{Config, SpillTo};
use pcproxy::units::{RateUnit, Speed, parse_interval, parse_rate, parse_size, parse_speed, parse_time, show_size};

use super::words::{self, RateOrOff, command_like, rate_or_off, refused, text};

/// Inputs and outputs.
#[derive(Debug, Args)]
pub struct Ends {
    /// Files or addresses to read, one after the other; without any, or for '-', stdin
    ///
    /// An address is tcp://HOST:PORT, tcp-listen://[ADDR]:PORT, unix:PATH or unix-listen:PATH. A
    /// listener serves one peer, and binds to the loopback address unless ADDR is given. Write
    /// ./NAME for a file that has the name of a command or an address.
    #[arg(value_name = "INPUT", value_parser = OsStringValueParser::new().try_map(address))]
    inputs: Vec<Address>,

    /// Write to OUTPUT instead of stdout; may be given several times
    ///
    /// A file is created or emptied. An address is written as with INPUT, and '-' is stdout. Every
    /// output gets every byte, and the slowest one sets the pace. Success over TCP means that the
    /// peer's system has acknowledged every byte.
    #[arg(short, long = "output", value_name = "OUTPUT", value_parser = OsStringValueParser::new().try_map(address), help_heading = "Output")]
    outputs: Vec<Address>,

    /// Append to the OUTPUT file instead of emptying it
    #[arg(long, requires = "outputs", help_heading = "Output")]
    append: bool,

    /// Report success only once the OUTPUT file is on the disk
    #[arg(long, requires = "outputs", help_heading = "Output")]
    sync: bool,

    /// Give up if a connection is not made within TIME
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_interval, help_heading = "Input")]
    connect_timeout: Duration,
}

/// The options of a transfer.
#[derive(Debug, Args)]
pub struct Transfer {
    /// Hold at most SIZE bytes [default: 64K, and 1M where an INPUT has a name]
    ///
    /// From 1 byte to the memory of the machine, or more with --spill. Memory is taken only as the
    /// buffer fills.
    #[arg(short, long, short_alias = 'B', alias = "buffer-size", value_name = "SIZE", value_parser = BufferSize::parse, help_heading = "Buffer")]
    buffer: Option<BufferSize>,

    /// Keep what does not fit in memory in a file in DIR
    ///
    /// The file has no name and goes with the run, however that ends. Parts that were delivered go
    /// back to the file system. When the disk is full the producer waits.
    #[arg(long, value_name = "DIR", help_heading = "Buffer")]
    spill: Option<PathBuf>,

    /// With --spill, keep at most SIZE bytes in memory
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = memory_size, requires = "spill", help_heading = "Buffer")]
    memory: u64,

    /// Resume a paused producer once the buffer has drained to this size [default: 50%]
    ///
    /// A size below --buffer, or a share of it. 0 waits until the buffer is empty.
    #[arg(long, value_name = "SIZE|N%", default_value = "50%", hide_default_value = true, value_parser = share, help_heading = "Buffer")]
    low_water: Share,

    /// Hold the output back until this much is in the buffer [default: 0]
    ///
    /// A size up to --buffer, or a share of it. The output is held back again each time the buffer
    /// has run empty. The end of the input and 'pcproxy ctl resume' release it.
    #[arg(long, value_name = "SIZE|N%", default_value = "0", hide_default_value = true, value_parser = whole_share, help_heading = "Buffer")]
    start_at: Share,

    /// End with status 1 when one side has moved nothing for TIME
    ///
    /// Time spent waiting for the limit, a timetable or the end of a pause does not count.
    #[arg(long, value_name = "TIME", value_parser = timeout, help_heading = "Input")]
    stall_timeout: Option<Duration>,

    /// Read at most RATE bytes per second
    ///
    /// This spares a source that others need too. It is independent of --rate, which limits the
    /// output.
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = "Input")]
    read_rate: Option<u64>,

    /// Grow the pipes on both sides to SIZE; 'keep' leaves them as they are
    ///
    /// Larger pipes mean fewer and larger steps on both sides. Pipes are never shrunk, and
    /// keep their size where the system refuses to grow them: /proc/sys/fs/pipe-max-size is the
    /// largest size.
    #[arg(long, value_name = "SIZE|keep", default_value = "1M", value_parser = pipe_size, help_heading = "Buffer")]
    pipe_size: PipeSize,

    /// Count lines instead of bytes: in --rate, --burst, --size and --stop-after
    ///
    /// A line is never torn, and reaches a pipe in one write if it fits into 4,096 bytes. A line that
    /// is longer than the buffer passes in pieces and counts once.
    #[arg(short, long, alias = "line-mode", conflicts_with = "null", help_heading = "Records")]
    lines: bool,

    /// Count records that end with a null byte, such as those of 'find -print0', instead of bytes
    #[arg(short = '0', long, help_heading = "Records")]
    null: bool,

    /// Feed the consumer at most RATE bytes per second, or lines with --lines
    ///
    /// RATE may be per second (5, 10M), per minute (30/m) or per hour (10G/h).
    /// In any t seconds at most RATE * t bytes pass, plus the burst and what --catch-up makes up for.
    /// Idle time builds up no credit. 'off' is no limit.
    #[arg(short, long, visible_short_alias = 'L', alias = "rate-limit", value_name = "RATE", value_parser = rate_or_off, help_heading = "Rate")]
    rate: Option<RateOrOff>,

    /// Allow bursts of up to SIZE bytes, or TIME worth of the rate [default: 9ms]
    ///
    /// With --lines, SIZE counts lines, and the default is at least one line.
    ///
    /// This is the depth of the token bucket. A deeper bucket feeds the consumer less evenly.
    #[arg(long, value_name = "SIZE|TIME", value_parser = parse_burst, help_heading = "Rate")]
    burst: Option<Burst>,

    /// Make up for delays of a busy machine, up to TIME at once
    ///
    /// Only the machine's own delay counts: the time from the moment at which bytes could have moved
    /// to the moment at which they did. 0 makes up for nothing.
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = parse_time, help_heading = "Rate")]
    catch_up: Duration,

    /// Limit the rate by time of day and day of week
    ///
    /// Each entry is '[DAY[-DAY]-]HH:MM[-HH:MM],RATE' in local time; spaces separate entries. RATE may
    /// be 'off'. An entry without a day is for every day. An entry with one time is in force until
    /// the next one begins, an entry with two times from the first to the second.
    #[arg(long, value_name = "TIMETABLE", conflicts_with = "rate", value_parser = timetable, help_heading = "Rate")]
    schedule: Option<String>,

    /// Share one limit with all transfers that name the same group
    ///
    /// NAME may be a path: the limit of site holds for members of site/backup too. RATE is the limit
    /// that the group gets if it has none. 'pcproxy group' sets, shows and lifts limits.
    #[arg(short, long, value_name = "NAME[=RATE]", value_parser = group, help_heading = "Group")]
    group: Option<(Name, Option<Speed>)>,

    /// Weight of this transfer's share of the group's limit, from 1 to 1000
    #[arg(long, value_name = "N", default_value = "100", value_parser = value_parser!(u32).range(1..=1000), requires = "group", help_heading = "Group")]
    weight: u32,

    /// Guaranteed minimum share of the group's limit
    ///
    /// The transfer is refused if the group has less left to guarantee.
    #[arg(long, value_name = "RATE", value_parser = parse_speed, requires = "group", help_heading = "Group")]
    min_rate: Option<Speed>,

    /// Read SIZE bytes, or lines with --lines, deliver them, and end
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Input")]
    pub stop_after: Option<u64>,

    /// Stop after as many bytes as --size says
    #[arg(short = 'S', long, requires = "size", conflicts_with = "stop_after", help_heading = "Input")]
    stop_at_size: bool,

    /// Print a checksum of the delivered bytes on stderr at the end, in the format of 'sha256sum'
    ///
    /// The last record of --stats has it as well.
    #[arg(long, value_name = "ALGORITHM", value_enum, help_heading = "Reports")]
    hash: Option<Hash>,

    /// Name of this transfer, for reports, 'pcproxy ctl' and 'pcproxy top'
    #[arg(long, short_alias = 'N', value_name = "TEXT", value_parser = text(), help_heading = "Reports")]
    name: Option<String>,

    /// Expected total, for percentage and ETA (detected if the input is a file)
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size, help_heading = "Reports")]
    pub size: Option<u64>,

    /// Show progress on stderr
    ///
    /// auto: a line if stderr is a terminal, stdout is not, and the transfer takes longer than half a
    /// second. always: the same line; if stderr is not a terminal, a new one every --interval, with
    /// the time of day. numeric: whole percents, a line each, for 'dialog --gauge'.
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        overrides_with_all = ["quiet", "numeric"],
        help_heading = "Reports"
    )]
    progress: When,

    /// Write progress as whole percents, a line each: the same as --progress numeric
    #[arg(short, long, overrides_with_all = ["progress", "quiet"], help_heading = "Reports")]
    numeric: bool,

    /// Show the time of day of the end instead of an ETA of more than an hour
    #[arg(long, help_heading = "Reports")]
    eta_at: bool,

    /// Show no progress
    #[arg(short, long, overrides_with_all = ["progress", "numeric"], help_heading = "Reports")]
    quiet: bool,

    /// pv's habit: the progress line waits for the first byte anyway
    #[arg(short = 'W', long, hide = true)]
    wait: bool,

    /// Print a summary at the end: how many bytes, how fast, and which side was slow
    ///
    /// 'kill -USR1 PID' prints it at any time.
    #[arg(long, help_heading = "Reports")]
    summary: bool,

    /// Write a JSON object to FILE, or descriptor FD, every --interval and at the end
    ///
    /// 'pcproxy plot' draws such a file. docs/protocol.md lists the fields.
    #[arg(long, value_name = "FILE|FD", value_parser = OsStringValueParser::new().try_map(stats_target), help_heading = "Reports")]
    stats: Option<Target>,

    /// Time between two updates of the progress line, and between two records
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = parse_interval, help_heading = "Reports")]
    interval: Duration,

    /// Do not answer 'pcproxy ctl' and 'pcproxy top'
    #[arg(long, help_heading = "Reports")]
    no_control: bool,
}

/// How much a buffer is to hold, with the text it was given as.
#[derive(Clone, Debug)]
struct BufferSize {
    text: String,
    bytes: u64,
}

impl BufferSize {
    fn parse(text: &str) -> Result<Self> {
        Ok(BufferSize { text: text.to_owned(), bytes: parse_size(text)? })
    }

    /// The size, if a buffer can have it that `spills` or does not.
    fn checked(&self, spills: bool) -> Result<usize> {
        let checked = if spills { check_spilled_size(self.bytes) } else { check_size(self.bytes) };
        checked.map_err(|reason| anyhow!(refused("--buffer", &self.text, reason)))
    }
}

/// How much of a buffer that spills stays in memory.
fn memory_size(text: &str) -> Result<u64> {
    let size = parse_size(text)?;
    if size < LEAST_MEMORY as u64 {
        bail!("must be at least {}", show_size(LEAST_MEMORY as u64));
    }
    Ok(size)
}

/// A number of bytes, or a share of the buffer, with the text it was given as.
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
    Auto,
    Always,
    Never,
    Numeric,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Hash {
    Sha256,
    Blake3,
    Md5,
    Xxh3,
}

impl Hash {
    fn algorithm(self) -> Algorithm {
        match self {
            Hash::Sha256 => Algorithm::Sha256,
            Hash::Blake3 => Algorithm::Blake3,
            Hash::Md5 => Algorithm::Md5,
            Hash::Xxh3 => Algorithm::Xxh3,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum PipeSize {
    Keep,
    Grow(usize),
}

/// The default size of the buffer.
pub const BUFFER: usize = 64 * 1024;

/// The default size where an input has a name: no pipe of a producer, which holds as much, stands in
/// front of it.
const NAMED_BUFFER: usize = 1 << 20;

impl Ends {
    /// Refuses a first word that is no file, and looks like a command.
    fn check_words(&self) -> Result<()> {
        if let Some(path) = self.inputs.first().and_then(Address::path)
            && fs::symlink_metadata(path).is_err()
            && let Some(command) = path.to_str().and_then(command_like)
        {
            let word = path.display();
            if command == word.to_string() {
                bail!("{word}: no such file; the command '{command}' comes before all options: pcproxy {command} ...");
            }
            bail!("{word}: no such file; did you mean the command '{command}'?");
        }
        Ok(())
    }

    /// Puts these and the other options together.
    ///
    /// # Errors
    /// One line for the user, if the options contradict each other.
    pub fn config(&self, options: &Transfer) -> Result<Config> {
        self.check_words()?;
        Ok(Config {
            inputs: if self.inputs.is_empty() { vec![Address::Standard] } else { self.inputs.clone() },
            outputs: self.outputs.clone(),
            append: self.append,
            sync: self.sync,
            connect_timeout: self.connect_timeout,
            ..options.config(if self.inputs.iter().all(|input| *input == Address::Standard) {
                BUFFER
            } else {
                NAMED_BUFFER
            })?
        })
    }
}

impl Transfer {
    /// Checks the options against each other, and puts them together, for stdin and stdout.
    /// `buffer` is the size of the buffer, unless they say otherwise.
    ///
    /// # Errors
    /// One line for the user, if the options contradict each other.
    pub fn config(&self, buffer: usize) -> Result<Config> {
        let given = self.buffer.as_ref().map(|size| size.checked(self.spill.is_some())).transpose()?;
        let buffer = given.unwrap_or(buffer);
        let (low_water, low_share) = self.low_water.of(buffer);
        let (start_at, _) = self.start_at.of(buffer);
        if start_at > buffer {
            let reason = format!("must not be above --buffer, which is {}", show_size(buffer as u64));
            bail!(refused("--start-at", &self.start_at.text, reason));
        }
        if low_water >= buffer {
            let reason = format!("must be below --buffer, which is {}", show_size(buffer as u64));
            bail!(refused("--low-water", &self.low_water.text, reason));
        }
        let unit = if self.lines || self.null { Unit::Records } else { Unit::Bytes };
        let [rate, min_rate, group_rate] = [
            ("--rate", self.rate.and_then(|RateOrOff(rate)| rate)),
            ("--min-rate", self.min_rate),
            ("--group", self.group.as_ref().and_then(|(_, rate)| *rate)),
        ]
        .map(|(option, speed)| {
            speed
                .map(|speed| speed.in_tokens(unit.tokens()))
                .transpose()
                .map_err(|error| anyhow!("{option}: the rate {error}"))
        });
        let (rate, min_rate, group_rate) = (rate?, min_rate?, group_rate?);
        if let (Some(least), Some(most)) = (min_rate, rate)
            && least > most
        {
            bail!(
                "--min-rate must not be above --rate: {} is above {}",
                unit.show_rate(least as f64),
                unit.show_rate(most as f64)
            );
        }
        if self.schedule.is_some() {
            words::check_time_zone();
        }
        // Only a run that spills asks: the default is more than some processes may have.
        let memory = self.spill.as_ref().map(|_| check_size(self.memory)).transpose();
        let memory = memory.map_err(|reason| anyhow!(refused("--memory", &show_size(self.memory), reason)))?;
        Ok(Config {
            inputs: vec![Address::Standard],
            outputs: Vec::new(),
            append: false,
            sync: false,
            connect_timeout: Duration::ZERO,
            command: None,
            buffer,
            spill: self.spill.clone().zip(memory).map(|(folder, memory)| SpillTo { folder, memory }),
            low_water,
            low_share,
            start_at,
            stall_timeout: self.stall_timeout,
            read_rate: self.read_rate,
            pipe_size: match self.pipe_size {
                PipeSize::Keep => None,
                PipeSize::Grow(size) => Some(size),
            },
            records: match (self.lines, self.null) {
                (true, _) => Some(RecordKind::Lines),
                (_, true) => Some(RecordKind::Null),
                _ => None,
            },
            rate: match (rate, &self.schedule) {
                (Some(rate), _) => Rate::Constant(rate),
                (None, Some(schedule)) => {
                    Rate::Timetable(Schedule::parse_in(unit, schedule).map_err(|error| anyhow!("--schedule: {error}"))?)
                }
                (None, None) => Rate::Free,
            },
            burst: self.burst,
            catch_up: self.catch_up,
            group: self.group.clone().map(|(name, _)| GroupRequest {
                name,
                rate: group_rate,
                terms: Terms { weight: self.weight, guaranteed: min_rate.unwrap_or(0), unit },
            }),
            stop_after: if self.stop_at_size { self.size } else { self.stop_after },
            hash: self.hash.map(Hash::algorithm),
            reports: Reports {
                name: self.name.clone(),
                size: self.size,
                progress: match self.progress {
                    _ if self.numeric => Show::Numeric,
                    When::Auto if self.quiet => Show::Never,
                    When::Auto => Show::Auto,
                    When::Always => Show::Always,
                    When::Never => Show::Never,
                    When::Numeric => Show::Numeric,
                },
                eta_at: self.eta_at,
                summary: self.summary,
                stats: self.stats.clone(),
                rate_unit: self.rate_unit(),
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

impl Share {
    /// It in bytes, and as a share from 0 to 1, of a buffer of `whole` bytes.
    fn of(&self, whole: usize) -> (usize, f64) {
        match self.amount {
            Amount::Bytes(bytes) => (bytes, bytes as f64 / whole as f64),
            Amount::Percent(percent) => ((whole as f64 * percent / 100.0) as usize, percent / 100.0),
        }
    }
}

fn share(text: &str) -> Result<Share> {
    match whole_share(text)? {
        Share { amount: Amount::Percent(percent), .. } if percent >= 100.0 => {
            bail!("is not a share: use 0% to below 100%, such as 25%")
        }
        share => Ok(share),
    }
}

/// A share that may be all of it.
fn whole_share(text: &str) -> Result<Share> {
    let amount = match text.strip_suffix('%').map(|percent| percent.trim().parse::<f64>()) {
        Some(Ok(percent)) if (0.0..=100.0).contains(&percent) => Amount::Percent(percent),
        Some(_) => bail!("is not a share: use 0% to 100%, such as 25%"),
        None => Amount::Bytes(parse_size(text)?.try_into()?),
    };
    Ok(Share { text: text.to_owned(), amount })
}

/// A time that is longer than nothing.
fn timeout(text: &str) -> Result<Duration> {
    match parse_time(text)? {
        Duration::ZERO => bail!("must be longer than 0"),
        time => Ok(time),
    }
}

fn pipe_size(text: &str) -> Result<PipeSize> {
    match parse_size(text) {
        _ if text == "keep" => Ok(PipeSize::Keep),
        Ok(size) => Ok(PipeSize::Grow(size.try_into()?)),
        Err(error) => bail!("{error}; 'keep' leaves pipes as they are"),
    }
}

impl Transfer {
    /// The unit in which to show rates: that of the limit that the user gave.
    fn rate_unit(&self) -> RateUnit {
        let own = self.rate.and_then(|RateOrOff(rate)| rate).map(|speed| speed.unit);
        let timetable = || unit_of_schedule(self.schedule.as_ref()?);
        let group = || self.group.as_ref().and_then(|(_, rate)| *rate).map(|speed| speed.unit);
        own.or_else(timetable).or_else(group).unwrap_or_default()
    }
}

/// A timetable, whatever its rates count.
fn timetable(text: &str) -> Result<String> {
    Schedule::parse_in(Unit::Records, text)?;
    Ok(text.to_owned())
}

fn group(text: &str) -> Result<(Name, Option<Speed>)> {
    let (name, rate) = match text.split_once('=') {
        Some((name, rate)) => {
            let RateOrOff(parsed) = rate_or_off(rate).map_err(|error| anyhow!("'{rate}' {error}"))?;
            (name, parsed)
        }
        None => (text, None),
    };
    Ok((name.parse()?, rate))
}

/// A number is a descriptor, everything else a file.
fn stats_target(given: OsString) -> Result<Target> {
    let number = given.to_str().filter(|text| {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    match number.map(str::parse::<i32>) {
        None => Ok(Target::File(given.into())),
        Some(Ok(number @ (0 | 1))) => {
            bail!("would mix records with the bytes: use descriptor 3; for a file of that name write ./{number}")
        }
        Some(Ok(number)) if number >= 0 => Ok(Target::Descriptor(number)),
        Some(_) => bail!("is no descriptor; for a file of that name write ./{}", given.display()),
    }
}
