//! What a direction reads: inputs, one after the other.

use std::collections::VecDeque;
use std::time::Duration;

use super::Config;
use super::ends::Notice;
use crate::buffer::Fifo;
use crate::endpoint::{self, Address, Awaited, Endpoint, EndpointError, News, Opening, Outputs, Source, Splicing};
use crate::flow::Flow;
use crate::poller::{Interest, Key, Poller};
use crate::shaping::{Shaper, Unit};

/// The inputs of a direction: the one that is read, as far as the poller is concerned, and those
/// that are yet to be read, in order.
#[derive(Debug)]
pub(super) struct Inputs {
    queue: VecDeque<Input>,
    connect_timeout: Duration,
    /// Of the input that is read, or waited for; none if it is always ready.
    key: Option<Key>,
    /// The next input, while it is being opened.
    awaited: Option<Awaited>,
    /// The size to which the pipes of producers are grown.
    pipe_size: Option<usize>,
    /// What limits count: records must be seen, so they must not be spliced.
    unit: Unit,
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
        Inputs::of(config, config.inputs.iter().map(open).collect())
    }

    /// A single input.
    pub(super) fn one(config: &Config, endpoint: Endpoint) -> Self {
        Inputs::of(config, [Input::Opened(Ok(Opening::There(endpoint)))].into())
    }

    fn of(config: &Config, queue: VecDeque<Input>) -> Self {
        let (connect_timeout, pipe_size, unit) = (config.connect_timeout, config.pipe_size, config.unit());
        Inputs { queue, connect_timeout, key: None, awaited: None, pipe_size, unit }
    }

    /// Opens the first input. Returns whether the producer pushes: a single input that cannot be
    /// waited for is asked for each piece.
    pub(super) fn open_first(&mut self, poller: &mut Poller) -> bool {
        let mut streams = true;
        if let Some(mut first) = self.open_next() {
            if let Ok(Opening::There(endpoint)) = &mut first
                && self.queue.is_empty()
            {
                self.key = add(endpoint, poller);
                streams = self.key.is_some();
            }
            self.queue.push_front(Input::Opened(first));
        }
        streams
    }

    /// Opens the next input. Nothing, if there is none left.
    fn open_next(&mut self) -> Option<Result<Opening, EndpointError>> {
        self.queue.pop_front().map(|input| match input {
            Input::Closed(address) => endpoint::open_input(&address, self.connect_timeout),
            Input::Opened(opening) => opening,
        })
    }

    /// Has `flow` go on with the next input that there is, or ends its input.
    pub(super) fn go_on<S: Shaper>(
        &mut self,
        flow: &mut Flow<Source, Outputs, Fifo, S>,
        poller: &mut Poller,
        notices: &mut VecDeque<Notice>,
    ) {
        while let Some(opening) = self.open_next() {
            match opening.and_then(|opening| self.take_up(opening, flow, poller)) {
                Ok(()) => return,
                Err(error) => notices.push_back(Notice::Failed(error)),
            }
        }
        self.forget(poller);
        flow.finish();
    }

    /// Has `flow` read this input from now on, or waits for it first.
    fn take_up<S: Shaper>(
        &mut self,
        opening: Opening,
        flow: &mut Flow<Source, Outputs, Fifo, S>,
        poller: &mut Poller,
    ) -> Result<(), EndpointError> {
        let mut endpoint = match opening {
            Opening::There(endpoint) => endpoint,
            Opening::Awaited(awaited) => {
                self.key = Some(poller.add_pipe(&awaited, Interest::Read));
                self.awaited = Some(awaited);
                return Ok(());
            }
        };
        let outputs = flow.proxy().consumer().map_or(Vec::new(), Outputs::endpoints);
        outputs.iter().try_for_each(|output| endpoint::check_feeding(&endpoint, output))?;
        if self.key.is_none() {
            self.key = add(&mut endpoint, poller);
        }
        self.pipe_size.into_iter().for_each(|size| endpoint.grow_pipe(size));
        let seen = self.unit == Unit::Records || flow.proxy().consumer().is_some_and(Outputs::is_summing);
        let splicing = if seen { Splicing::NONE } else { Splicing::between(&endpoint, &outputs) };
        let another = !self.queue.is_empty();
        if let Some(source) = flow.proxy_mut().producer_mut() {
            source.take_up(endpoint, splicing, another);
        }
        Ok(())
    }

    /// Passes over to the next input if this one has ended, or if the next one is there at last.
    pub(super) fn look<S: Shaper>(
        &mut self,
        flow: &mut Flow<Source, Outputs, Fifo, S>,
        poller: &mut Poller,
        notices: &mut VecDeque<Notice>,
    ) {
        while let Some(news) = self.awaited.as_mut().and_then(Awaited::news) {
            match news {
                News::Says(what) => notices.push_back(Notice::Says(what)),
                News::Done(result) => {
                    self.forget(poller);
                    self.queue.push_front(Input::Opened(result.map(Opening::There)));
                    self.go_on(flow, poller, notices);
                }
            }
        }
        if let Some(end) = flow.proxy_mut().producer_mut().and_then(Source::take_end) {
            notices.extend(end.err().map(Notice::Failed));
            self.forget(poller);
            self.go_on(flow, poller, notices);
        }
    }

    /// Waits no more for the input: before it is closed, since its number may then be another's.
    pub(super) fn forget(&mut self, poller: &mut Poller) {
        self.awaited = None;
        if let Some(key) = self.key.take() {
            poller.set_interest(key, Interest::Nothing);
        }
    }

    /// Has the poller wait for bytes, if they are `wanted`.
    pub(super) fn rest(&self, wanted: bool, poller: &mut Poller) {
        if let Some(key) = self.key.filter(|_| self.awaited.is_none()) {
            poller.set_interest(key, if wanted { Interest::Read } else { Interest::Nothing });
        }
    }

    /// Whether this is the key of the input that is read, or waited for.
    pub(super) fn has(&self, key: Key) -> bool {
        self.key == Some(key)
    }
}

/// Has the poller wait for an input. Nothing, if it is always ready.
fn add(endpoint: &mut Endpoint, poller: &mut Poller) -> Option<Key> {
    let key = poller.add(&*endpoint, Interest::Read);
    if key.is_none() {
        endpoint.set_always_ready();
    }
    key
}

/// How many bytes all inputs together have; none unless that is known of each.
pub(super) fn size_of_all(inputs: &[Address]) -> Option<u64> {
    inputs.iter().map(endpoint::size_of).sum()
}
