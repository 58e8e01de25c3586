//! The words of the user, turned into a [`Config`].

use clap::{CommandFactory, Parser, error::ErrorKind};
use pcproxy::buffer::Chunks;
use pcproxy::config::Config;
use pcproxy::units::{parse_size, show_size};

const ABOUT: &str = "Moves stdin to stdout through a finite buffer";

const LONG_ABOUT: &str = "\
Moves stdin to stdout through a finite buffer.

When the buffer fills up, the producer is paused until the buffer has room in it again. Bytes \
move inside the kernel wherever the two sides allow it.";

const EXAMPLES: &str = "\
Examples:
  cat big | pcproxy --buffer 64K | nc host 9000
      a buffer of 64 KiB between a file and the network
  pg_dump db | pcproxy --buffer 1G --low-water 25% | zstd > db.zst
      let the dump run ahead of the compressor by up to 1 GiB, and go on only when
      three quarters of that have been worked off
  tar c /home | pcproxy --pipe-size keep | ssh host 'cat > home.tar'
      leave the pipes of the neighbours at the size they have

Sizes: 64K and 64KiB are 65,536 bytes, 64kB is 64,000 bytes, a plain number is bytes.

Exit status: 0 if everything read was delivered, 1 on an I/O error, 2 on a bad command line,
by SIGPIPE if the consumer left first, by the signal if interrupted.";

/// The command line.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub struct Cli {
    /// Hold at most SIZE bytes
    ///
    /// From 1 byte to what the memory allows. Memory is taken only as the buffer fills.
    #[arg(short, long, value_name = "SIZE", default_value = "64K", value_parser = size, help_heading = "Buffer")]
    buffer: u64,

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
    #[arg(long, value_name = "SIZE|keep", default_value = "256K", value_parser = pipe_size, help_heading = "Buffer")]
    pipe_size: PipeSize,
}

/// A number of bytes, or a share of the buffer.
#[derive(Clone, Copy, Debug)]
enum Share {
    Bytes(u64),
    Percent(f64),
}

#[derive(Clone, Copy, Debug)]
enum PipeSize {
    Keep,
    Grow(u64),
}

impl Cli {
    /// Reads the command line. Prints what is wrong with it and exits with status 2, or
    /// prints what was asked for, such as `--help`, and exits with status 0.
    pub fn read() -> Config {
        let cli = Cli::parse();
        cli.config().unwrap_or_else(|reason| Cli::command().error(ErrorKind::ValueValidation, reason).exit())
    }

    /// What the options say together.
    fn config(&self) -> Result<Config, String> {
        let buffer = usize::try_from(self.buffer).unwrap_or(usize::MAX);
        if buffer == 0 {
            return Err("invalid value '0' for '--buffer <SIZE>': nothing could pass; the least is 1".into());
        }
        let memory = rustix::system::sysinfo().totalram;
        if self.buffer > memory as u64 || Chunks::could_hold(buffer).is_err() {
            return Err(format!(
                "invalid value '{}' for '--buffer <SIZE>': more than the memory allows, which is {} in all",
                show_size(self.buffer),
                show_size(memory as u64),
            ));
        }
        let low_water = match self.low_water {
            Share::Bytes(bytes) => bytes,
            Share::Percent(percent) => (self.buffer as f64 * percent / 100.0) as u64,
        };
        if low_water >= self.buffer {
            return Err(format!(
                "invalid value '{low_water}' for '--low-water <SIZE|N%>': must be below --buffer, which is {} bytes",
                self.buffer
            ));
        }
        Ok(Config {
            buffer,
            low_water: low_water as usize,
            pipe_size: match self.pipe_size {
                PipeSize::Keep => None,
                PipeSize::Grow(size) => Some(size.try_into().unwrap_or(usize::MAX)),
            },
            limit: None,
        })
    }
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

fn share(text: &str) -> Result<Share, String> {
    match text.strip_suffix('%') {
        None => size(text).map(Share::Bytes),
        Some(percent) => match percent.trim().parse::<f64>() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Share::Percent(percent)),
            _ => Err("is not a share: use 0% to below 100%, such as 25%".into()),
        },
    }
}

fn pipe_size(text: &str) -> Result<PipeSize, String> {
    match text {
        "keep" => Ok(PipeSize::Keep),
        text => size(text).map(PipeSize::Grow).map_err(|reason| format!("{reason}; or 'keep'")),
    }
}
