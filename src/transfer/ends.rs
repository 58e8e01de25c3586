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

/// Device and inode of all outputs and inputs that have them.
pub(super) fn identities(config: &Config, outputs: &[Endpoint]) -> Vec<(u64, u64)> {
    let inputs = config.inputs.iter().filter_map(|address| match address {
        Address::File(path) => rustix::fs::stat(path).ok(),
        Address::Standard => rustix::fs::fstat(rustix::stdio::stdin()).ok(),
        _ => None,
    });
    let outputs = outputs.iter().filter_map(|output| rustix::fs::fstat(output).ok());
    outputs.chain(inputs).map(|stat| (stat.st_dev, stat.st_ino)).collect()
}

/// Opens all outputs, and waits for those for which something has to happen first. Signals are
/// heard. Outputs that cannot be opened come with the reason, if there are others.
pub(super) fn open_outputs(
    config: &Config,
    poller: &mut Poller,
    reporter: &mut Reporter,
) -> Result<(Vec<Endpoint>, Vec<EndpointError>), NotStarted> {
    let begin = |address| endpoint::open_output(address, config.append, config.connect_timeout);
    let openings = match &config.outputs[..] {
        [] => vec![endpoint::stdout().map(Opening::There)],
        addresses => addresses.iter().map(begin).collect(),
    };
    let opened = wait_for(openings, poller, reporter)?;
    let (mut outputs, mut failures) = (Vec::new(), Vec::new());
    for result in opened {
        match result {
            Ok(endpoint) => outputs.push(endpoint),
            Err(error) => failures.push(error),
        }
    }
    if outputs.is_empty()
        && let Some(last) = failures.pop()
    {
        failures.into_iter().for_each(|error| reporter.say(error));
        return Err(last.into());
    }
    check(config, &outputs)?;
    if !config.append {
        outputs.iter().try_for_each(Endpoint::empty)?;
    }
    Ok((outputs, failures))
}

/// Refuses outputs that are an input, or the same file twice.
fn check(config: &Config, outputs: &[Endpoint]) -> Result<(), Error> {
    let files: Vec<_> = outputs.iter().map(|output| output.file().filter(|_| !output.is_shared())).collect();
    for (at, (output, file)) in outputs.iter().zip(&files).enumerate() {
        let Some(file) = file else { continue };
        let is_input = |address: &Address| match address {
            Address::File(path) => FileId::at(path) == Some(*file),
            Address::Standard => endpoint::stdin().is_ok_and(|stdin| stdin.file() == Some(*file)),
            _ => false,
        };
        if config.inputs.iter().any(is_input) {
            return Err(Error::FeedsItself(output.label().to_owned()));
        }
        if files[..at].contains(&Some(*file)) {
            return Err(Error::Doubled(output.label().to_owned()));
        }
    }
    Ok(())
}

/// Waits until all of them are there, or never will be.
fn wait_for(
    openings: Vec<Result<Opening, EndpointError>>,
    poller: &mut Poller,
    reporter: &mut Reporter,
) -> Result<Vec<Result<Endpoint, EndpointError>>, NotStarted> {
    let mut there = Vec::new();
    let mut awaited = Vec::new();
    for (at, opening) in openings.into_iter().enumerate() {
        there.push(match opening {
            Ok(Opening::There(endpoint)) => Some(Ok(endpoint)),
            Err(error) => Some(Err(error)),
            Ok(Opening::Awaited(one)) => {
                awaited.push((at, poller.add(&one, Interest::Read), one));
                None
            }
        });
    }
    loop {
        for (at, key, one) in &mut awaited {
            while let Some(news) = one.news() {
                match news {
                    News::Says(what) => reporter.say(what),
                    News::Done(result) => {
                        key.iter().for_each(|key| poller.set_interest(*key, Interest::Nothing));
                        there[*at] = Some(result);
                    }
                }
            }
        }
        if there.iter().all(Option::is_some) {
            return Ok(there.into_iter().flatten().collect());
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
