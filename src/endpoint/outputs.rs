//! One output or several, as the proxy's consumer.

use super::{Checksum, Endpoint, EndpointError, Lane, Sink};
use crate::buffer::Fifo;
use crate::flow::{Consumer, Downstream, Fanout};

/// The outputs that are fed: one, or several that all get every byte.
#[derive(Debug)]
pub enum Outputs {
    /// One, with the shortest way.
    One(Box<Sink>),
    /// Several, or one whose bytes are seen.
    Many(Fanout<Lane, EndpointError>, Option<Checksum>),
}

impl Outputs {
    /// All of these outputs, at least one. Their numbers count from 0. They get records that end with
    /// the byte `end` as wholes. A checksum is that of the bytes that all have taken which are still
    /// fed; for its sake no bytes must be spliced.
    pub fn new(mut endpoints: Vec<Endpoint>, end: Option<u8>, checksum: Option<Checksum>) -> Self {
        let sink = |endpoint| end.into_iter().fold(Sink::new(endpoint), Sink::of_records);
        if endpoints.len() == 1
            && checksum.is_none()
            && let Some(endpoint) = endpoints.pop()
        {
            return Outputs::One(Box::new(sink(endpoint)));
        }
        let lanes = endpoints.into_iter().map(sink).enumerate().map(|(id, sink)| Lane::new(id, sink));
        Outputs::Many(Fanout::new(lanes), checksum)
    }

    /// The endpoints that are still fed.
    pub fn endpoints(&self) -> Vec<&Endpoint> {
        match self {
            Outputs::One(sink) => vec![sink.endpoint()],
            Outputs::Many(fanout, _) => fanout.branches().map(|lane| lane.sink().endpoint()).collect(),
        }
    }

    /// The first that takes no more for now; else the first.
    pub fn slowest(&self) -> Option<&Endpoint> {
        match self {
            Outputs::One(sink) => Some(sink.endpoint()),
            Outputs::Many(fanout, _) => {
                let mut sinks = fanout.branches().map(Lane::sink);
                let slow = sinks.find(|sink| !sink.is_ready(0)).or_else(|| fanout.branches().map(Lane::sink).next());
                slow.map(Sink::endpoint)
            }
        }
    }

    /// The output of this number, if it is still fed.
    pub fn fed(&self, id: usize) -> Option<&Sink> {
        match self {
            Outputs::One(sink) => Some(sink),
            Outputs::Many(fanout, _) => fanout.branches().find(|lane| lane.id() == id).map(Lane::sink),
        }
    }

    /// The output of this number, if it is still fed, to tell it of readiness.
    pub fn fed_mut(&mut self, id: usize) -> Option<&mut Sink> {
        match self {
            Outputs::One(sink) => Some(sink),
            Outputs::Many(fanout, _) => {
                fanout.try_again();
                fanout.branches_mut().find(|lane| lane.id() == id).map(Lane::sink_mut)
            }
        }
    }

    /// Whether the system holds back bytes of any: see [`Sink::holds_back`].
    pub fn hold_back(&self) -> bool {
        match self {
            Outputs::One(sink) => sink.holds_back(),
            Outputs::Many(fanout, _) => fanout.branches().any(|lane| lane.sink().holds_back()),
        }
    }

    /// Has the system send what it holds back.
    pub fn flush(&mut self) {
        match self {
            Outputs::One(sink) => sink.flush(),
            Outputs::Many(fanout, _) => fanout.branches_mut().for_each(|lane| lane.sink_mut().flush()),
        }
    }

    /// Whether there is a checksum, so that bytes must not be spliced.
    pub fn is_summing(&self) -> bool {
        matches!(self, Outputs::Many(_, Some(_)))
    }

    /// Takes the checksum out, if there is one.
    pub fn take_checksum(&mut self) -> Option<Checksum> {
        if let Outputs::Many(_, checksum) = self { checksum.take() } else { None }
    }

    /// The only output, if there is but one and nobody has to see its bytes.
    pub fn only(&mut self) -> Option<&mut Sink> {
        match self {
            Outputs::One(sink) => Some(sink),
            Outputs::Many(..) => None,
        }
    }

    /// Feeds the output of this number no longer.
    ///
    /// # Errors
    /// Gives the error back if it is the last one.
    pub fn leave_out(&mut self, id: usize, error: EndpointError) -> Result<(), EndpointError> {
        match self {
            Outputs::One(_) => Err(error),
            Outputs::Many(fanout, _) => fanout.leave_out(|lane| lane.id() == id, error),
        }
    }

    /// The next output that was left out, with its number, and why. The answer is given once.
    pub fn take_left_out(&mut self) -> Option<(usize, Sink, EndpointError)> {
        match self {
            Outputs::One(_) => None,
            Outputs::Many(fanout, _) => {
                fanout.take_left_out().map(|(lane, error)| (lane.id(), lane.into_sink(), error))
            }
        }
    }

    /// Bytes that were written, and that the peer of a connection has not acknowledged: of the
    /// output that lacks most.
    pub fn unacknowledged(&self) -> u64 {
        match self {
            Outputs::One(sink) => sink.unacknowledged(),
            Outputs::Many(fanout, _) => fanout.branches().map(|lane| lane.sink().unacknowledged()).max().unwrap_or(0),
        }
    }

    /// The endpoints of those that are still fed, to close them.
    pub fn into_endpoints(self) -> Vec<Endpoint> {
        match self {
            Outputs::One(sink) => vec![sink.into_endpoint()],
            Outputs::Many(fanout, _) => fanout.into_branches().map(|lane| lane.into_sink().into_endpoint()).collect(),
        }
    }
}

impl Consumer<Fifo> for Outputs {
    type Error = EndpointError;

    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}

    fn write(&mut self, buffer: &mut Fifo, limit: usize) -> Result<usize, EndpointError> {
        match self {
            Outputs::One(sink) => sink.write(buffer, limit),
            Outputs::Many(fanout, Some(checksum)) => {
                fanout.write_before(buffer, limit, Some(&mut |bytes| checksum.see(bytes)))
            }
            Outputs::Many(fanout, None) => fanout.write(buffer, limit),
        }
    }

    fn finish(&mut self) {
        match self {
            Outputs::One(sink) => Consumer::finish(&mut **sink),
            Outputs::Many(fanout, _) => fanout.finish(),
        }
    }
}

impl Downstream<Fifo> for Outputs {
    fn is_ready(&self, held: usize) -> bool {
        match self {
            Outputs::One(sink) => sink.is_ready(held),
            Outputs::Many(fanout, _) => fanout.is_ready(held),
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Outputs::One(sink) => sink.is_finished(),
            Outputs::Many(fanout, _) => fanout.is_finished(),
        }
    }

    fn delivered(&self) -> u64 {
        match self {
            Outputs::One(sink) => sink.delivered(),
            Outputs::Many(fanout, _) => fanout.delivered(),
        }
    }
}
