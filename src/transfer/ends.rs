//! What a run reads, one after the other, and what it writes.

use std::collections::VecDeque;
use std::time::Duration;

use signal_hook::consts::SIGUSR1;

use super::{Config, Error, NotStarted};
use crate::endpoint::{self, Address, Endpoint, EndpointError, FileId, News, Opening};
use crate::os::clock;
use crate::poller::{Interest, Poller};
use crate::report::Reporter;

/// The inputs of a direction that are yet to be read, in order.
#[derive(Debug)]
pub(super) struct Inputs {
    queue: VecDeque<Input>,
    connect_timeout: Duration,
}

#[derive(Debug)]
enum Input {
    /// Opened when it is reached: there may be more files than descriptors.
    Closed(Address),
    /// Opened early: a peer may connect while the inputs before it are read.
    Opened(Result<Opening, EndpointError>),
}

impl Inputs {
    /// All inputs that the user named. Connections are begun at once.
    pub(super) fn new(config: &Config) -> Self {
        let open = |address: &Address| {
            if address.is_socket() {
                Input::Opened(endpoint::open_input(address, config.connect_timeout))
            } else {
                Input::Closed(address.clone())
            }
        };
        Inputs { queue: config.inputs.iter().map(open).collect(), connect_timeout: config.connect_timeout }
    }

    /// Opens the next input. Nothing, if there is none left.
    pub(super) fn next(&mut self) -> Option<Result<Opening, EndpointError>> {
        self.queue.pop_front().map(|input| match input {
            Input::Closed(address) => endpoint::open_input(&address, self.connect_timeout),
            Input::Opened(opening) => opening,
        })
    }

    /// Whether there is none left.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl From<Endpoint> for Inputs {
    fn from(endpoint: Endpoint) -> Self {
        let input = Input::Opened(Ok(Opening::There(endpoint)));
        Inputs { queue: [input].into(), connect_timeout: Duration::ZERO }
    }
}

/// How many bytes all inputs together have; none unless that is known of each.
pub(super) fn size_of_all(inputs: &[Address]) -> Option<u64> {
    inputs.iter().map(endpoint::size_of).sum()
}

/// Device and inode of the output and of all inputs that have them.
pub(super) fn identities(config: &Config, output: &Endpoint) -> Vec<(u64, u64)> {
    let inputs = config.inputs.iter().filter_map(|address| match address {
        Address::File(path) => rustix::fs::stat(path).ok(),
        Address::Standard => rustix::fs::fstat(rustix::stdio::stdin()).ok(),
        _ => None,
    });
    rustix::fs::fstat(output).ok().into_iter().chain(inputs).map(|stat| (stat.st_dev, stat.st_ino)).collect()
}

/// Opens the output, and waits for it if something has to happen first. Signals are heard.
pub(super) fn open_output(
    config: &Config,
    poller: &mut Poller,
    reporter: &mut Reporter,
) -> Result<Endpoint, NotStarted> {
    let output = wait_for(begin(config)?, poller, reporter)?;
    if let Some(file) = output.file().filter(|_| !output.is_shared()) {
        let is_input = |address: &Address| match address {
            Address::File(path) => FileId::at(path) == Some(file),
            Address::Standard => endpoint::stdin().is_ok_and(|stdin| stdin.file() == Some(file)),
            _ => false,
        };
        if config.inputs.iter().any(is_input) {
            return Err(Error::FeedsItself(output.label().to_owned()).into());
        }
        if !config.append {
            output.empty()?;
        }
    }
    Ok(output)
}

fn begin(config: &Config) -> Result<Opening, EndpointError> {
    match &config.output {
        None => endpoint::stdout().map(Opening::There),
        Some(address) => endpoint::open_output(address, config.append, config.connect_timeout),
    }
}

fn wait_for(opening: Opening, poller: &mut Poller, reporter: &mut Reporter) -> Result<Endpoint, NotStarted> {
    let mut awaited = match opening {
        Opening::There(endpoint) => return Ok(endpoint),
        Opening::Awaited(awaited) => awaited,
    };
    let key = poller.add(&awaited, Interest::Read);
    loop {
        while let Some(news) = awaited.news() {
            match news {
                News::Says(what) => reporter.say(what),
                News::Done(result) => {
                    key.into_iter().for_each(|key| poller.set_interest(key, Interest::Nothing));
                    return Ok(result?);
                }
            }
        }
        let now = clock::now();
        poller.wait(None, now);
        while let Some(received) = poller.signals().take() {
            if received.signal != SIGUSR1 {
                return Err(NotStarted::Interrupted(received.signal));
            }
            reporter.summarize(now);
        }
    }
}
