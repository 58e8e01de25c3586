//! The words of the user, turned into a [`Config`].

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use pcproxy::buffer::Chunks;
use pcproxy::config::{Config, Pace};
use pcproxy::shaping::{Burst, Schedule};
use pcproxy::units::{parse_burst, parse_rate, parse_size, show_size};

const ABOUT: &str = "Moves stdin to stdout through a finite buffer, at a limited rate if you like";

const LONG_ABOUT: &str = "\
Moves stdin to stdout through a finite buffer, at a limited rate if you like.

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

Sizes: 64K and 64KiB are 65,536 bytes, 64kB is 64,000 bytes, a plain number is bytes.
Rates: a size a second, 10M or 10M/s, or bits a second, 80Mbit.

Exit status: 0 if everything read was delivered, 1 on an I/O error, 2 on a bad command line,
by SIGPIPE if the consumer left first, by the signal if interrupted.";

/// The command line.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub struct Cli {
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

    /// Limit the rate by time of day and day of week
    ///
    /// Entries '[DAY-]HH:MM,RATE', set apart by spaces, in local time; RATE may be 'off'. An
    /// entry without a day stands for every day. Each stays in force until the next.
    #[arg(long, value_name = "TIMETABLE", conflicts_with = "rate", help_heading = "Rate")]
    schedule: Option<Schedule>,

    /// Stop the producer after SIZE bytes, deliver them, and end
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Input")]
    stop_after: Option<u64>,
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

#[derive(Clone, Copy, Debug)]
enum PipeSize {
    Keep,
    Grow(usize),
}

impl Cli {
    /// Reads the command line. Says in one line what is wrong with it and exits with status 2,
    /// or prints what was asked for, such as `--help`, and exits with status 0.
    pub fn read() -> Config {
        let config = Cli::try_parse().map_err(|error| {
            if !error.use_stderr() {
                error.exit();
            }
            anyhow!(in_one_line(&error.to_string()))
        });
        config.and_then(|cli| cli.config()).unwrap_or_else(|reason| {
            crate::say(&format!("{reason}; try 'pcproxy --help'"));
            std::process::exit(2)
        })
    }

    /// What the options say together.
    fn config(&self) -> Result<Config> {
        let low_water = match self.low_water.amount {
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(percent) => (self.buffer as f64 * percent / 100.0) as usize,
        };
        if low_water >= self.buffer {
            bail!(
                "invalid value '{}' for '--low-water <SIZE|N%>': must be below --buffer, which is {} bytes",
                self.low_water.text,
                self.buffer
            );
        }
        Ok(Config {
            buffer: self.buffer,
            low_water,
            pipe_size: match self.pipe_size {
                PipeSize::Keep => None,
                PipeSize::Grow(size) => Some(size),
            },
            pace: match (self.rate, &self.schedule) {
                (Some(rate), _) => Pace::Constant(rate),
                (None, Some(schedule)) => Pace::Timetable(schedule.clone()),
                (None, None) => Pace::Free,
            },
            burst: self.burst,
            stop_after: self.stop_after,
        })
    }
}

/// What clap says of an error, without the usage below it.
fn in_one_line(text: &str) -> String {
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ").trim_start_matches("error: ").to_owned()
}

/// A size from 1 byte to what the memory allows.
fn buffer_size(text: &str) -> Result<usize> {
    let size = usize::try_from(parse_size(text)?).unwrap_or(usize::MAX);
    if size == 0 {
        bail!("nothing could pass: the least is 1");
    }
    let memory = rustix::system::sysinfo();
    let memory = memory.totalram as u64 * u64::from(memory.mem_unit);
    if size as u64 > memory {
        bail!("more than the memory of this machine, which is {}", show_size(memory));
    }
    Chunks::could_hold(size).context("more than the system gives this process")?;
    Ok(size)
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
