//! What a direction writes: outputs that all get every byte.

use std::collections::VecDeque;

use signal_hook::consts::SIGUSR1;

use super::ends::Notice;
use super::outcome::lost;
use super::{Config, Error, NotStarted};
use crate::buffer::Fifo;
use crate::endpoint::{self, Address, Endpoint, EndpointError, FileId, News, Opening, Outputs, Source};
use crate::flow::{Downstream, Flow};
use crate::os::clock;
use crate::poller::{Interest, Key, Poller, Ready};
use crate::report::Reporter;
use crate::shaping::Shaper;
use crate::units::show_bytes;

/// The outputs of a direction as far as the poller is concerned, and those that were left out.
#[derive(Debug, Default)]
pub(super) struct Outlets {
    /// Those that are not always ready, by number.
    keys: Vec<(usize, Key)>,
    /// The names of outputs that were left out, and how many bytes arrived there.
    left_out: Vec<(String, u64)>,
}

impl Outlets {
    /// Has the poller wait for these outputs, where they are not always ready, and grows the pipes of
    /// consumers.
    pub(super) fn new(outputs: &mut [Endpoint], pipe_size: Option<usize>, poller: &mut Poller) -> Self {
        let mut outlets = Outlets::default();
        for (id, output) in outputs.iter_mut().enumerate() {
            match poller.add(&*output, Interest::Departure) {
                Some(key) => outlets.keys.push((id, key)),
                None => output.set_always_ready(),
            }
            pipe_size.into_iter().for_each(|size| output.grow_pipe(size));
        }
        outlets
    }

    /// Takes note of outputs that were left out.
    pub(super) fn look<S: Shaper>(
        &mut self,
        flow: &mut Flow<Source, Outputs, Fifo, S>,
        poller: &mut Poller,
        notices: &mut VecDeque<Notice>,
    ) {
        while let Some((id, sink, error)) = flow.proxy_mut().consumer_mut().and_then(Outputs::take_left_out) {
            // Before it is closed, since its number may then be another's.
            for (_, key) in self.keys.extract_if(.., |(output, _)| *output == id) {
                poller.set_interest(key, Interest::Nothing);
            }
            self.leave_out(&error, sink.delivered() - sink.unacknowledged());
            notices.push_back(Notice::Failed(error));
        }
    }

    /// An output is fed no longer because of `error`, and `arrived` bytes have arrived there.
    pub(super) fn leave_out(&mut self, error: &EndpointError, arrived: u64) {
        self.left_out.push((error.label.clone(), arrived));
    }

    /// How many of the bytes that were `read` did not arrive at each output that was left out, in
    /// words.
    pub(super) fn missing(&self, read: u64) -> impl Iterator<Item = String> {
        self.left_out.iter().map(move |(label, arrived)| {
            format!("{label}: {} arrived{}", show_bytes(*arrived), lost(read.saturating_sub(*arrived)))
        })
    }

    /// Has the poller wait for the outputs that bytes wait for, if any do, or that have yet to
    /// acknowledge some.
    pub(super) fn rest(&self, bytes_wait: bool, outputs: Option<&Outputs>, poller: &mut Poller) {
        for (id, key) in &self.keys {
            // Without interest in writing, the news that the consumer has left still comes.
            let sink = outputs.and_then(|outputs| outputs.fed(*id));
            let waits = sink.is_some_and(|sink| (bytes_wait && !sink.is_ready(0)) || sink.is_settling());
            poller.set_interest(*key, if waits { Interest::Write } else { Interest::Departure });
        }
    }

    /// Takes note of what happened to one of them.
    ///
    /// # Errors
    /// When the last consumer has left.
    pub(super) fn notice(&self, ready: Ready, outputs: Option<&mut Outputs>) -> Result<(), EndpointError> {
        let output = self.keys.iter().find(|(_, key)| *key == ready.key);
        if let Some((id, _)) = output
            && let Some(outputs) = outputs
            && let Some(sink) = outputs.fed_mut(*id)
        {
            if ready.gone && sink.has_gone() {
                let error = sink.departure();
                return outputs.leave_out(*id, error);
            }
            if ready.writable {
                sink.set_ready();
            }
        }
        Ok(())
    }

    /// Waits no more for any of them: before they are closed.
    pub(super) fn forget(&mut self, poller: &mut Poller) {
        for (_, key) in self.keys.drain(..) {
            poller.set_interest(key, Interest::Nothing);
        }
    }
}

/// Opens all outputs, and waits for those for which something has to happen first. Signals are
/// heard. Outputs that cannot be opened come with the reason, if there are others.
pub(super) fn open(
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
                awaited.push((at, poller.add_pipe(&one, Interest::Read), one));
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
                        poller.set_interest(*key, Interest::Nothing);
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
