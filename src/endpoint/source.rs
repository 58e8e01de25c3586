//! An endpoint as the proxy's producer.

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::claim::{Claim, shares_place};
use super::{Endpoint, EndpointError, Outputs, Splicing, Straight, errno};
use crate::buffer::{Fifo, Splice};
use crate::flow::{Fill, Producer, Upstream};
use crate::os::{Kind, is_refusal};
use crate::shaping::Unit;

/// The producer: reads its endpoint into the buffer when it is ready and wanted. Several endpoints
/// may follow each other.
#[derive(Debug)]
pub struct Source {
    /// None while it is waited for the next.
    endpoint: Option<Endpoint>,
    /// A push producer goes on until it is paused; a pull producer is asked each time.
    streaming: bool,
    wanted: bool,
    ready: bool,
    /// Another endpoint follows this one.
    another: bool,
    /// Why this endpoint ended, once it has and another follows.
    ended: Option<Result<(), EndpointError>>,
    /// How bytes may go to the consumer without a copy.
    splicing: Splicing,
    /// The buffer has yet to be told of it.
    splicing_is_new: bool,
    /// An error that a straight pass met, and that the system reports only once.
    kept: Option<Errno>,
    /// Bytes, or records, that may still be read.
    left: u64,
    /// The unit of `left`.
    unit: Unit,
    /// The part of a shared file that is yet to be read.
    claim: Claim,
}

impl Source {
    /// A producer that pushes (`streaming`), or one that is asked for each piece. It has nothing to
    /// read yet. It ends by itself after `stop_after` bytes, or as many
    /// records.
    pub fn new(streaming: bool, stop_after: Option<u64>, unit: Unit) -> Self {
        Source {
            endpoint: None,
            streaming,
            wanted: streaming,
            ready: false,
            another: true,
            ended: None,
            splicing: Splicing::NONE,
            splicing_is_new: false,
            kept: None,
            left: stop_after.unwrap_or(u64::MAX),
            unit,
            claim: Claim::default(),
        }
    }

    /// Reads `endpoint` from now on. `another` says that its end is not the end of all.
    pub fn take_up(&mut self, endpoint: Endpoint, splicing: Splicing, another: bool) {
        self.give_back();
        self.endpoint = Some(endpoint);
        (self.splicing, self.splicing_is_new) = (splicing, true);
        // Ready until it says otherwise.
        (self.ready, self.another, self.ended) = (true, another, None);
    }

    /// How the endpoint ended, if it has and another is to follow. The answer is given once.
    pub fn take_end(&mut self) -> Option<Result<(), EndpointError>> {
        self.ended.take()
    }

    /// The endpoint has become ready.
    pub fn set_ready(&mut self) {
        self.ready = self.endpoint.is_some();
    }

    /// The endpoint that it reads; none while it is waited for.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// Passes over to the next endpoint.
    fn end(&mut self, how: Result<(), EndpointError>) -> Fill {
        self.give_back();
        (self.ready, self.ended) = (false, Some(how));
        Fill::Moved(0)
    }

    /// `bytes`, or what may still be read of them. A record has at least one byte, so no byte
    /// behind the last record is read.
    fn within_limit(&self, bytes: usize) -> usize {
        bytes.min(self.left.try_into().unwrap_or(usize::MAX))
    }

    /// So many bytes have been read, with so many of what `left` counts: what a pull producer was
    /// asked for.
    fn count(&mut self, moved: usize, counted: u64) {
        self.left = self.left.saturating_sub(counted);
        self.wanted &= self.streaming || moved == 0;
    }

    /// Gives back what was claimed and not read.
    fn give_back(&mut self) {
        self.endpoint.iter().for_each(|endpoint| self.claim.give_back(endpoint));
    }

    /// By reference while the buffer's pipe has slots and the endpoint splices, else into memory.
    fn take_in(&mut self, buffer: &mut Fifo, room: usize) -> Result<Fill, Errno> {
        let Source { endpoint: Some(endpoint), splicing, claim, .. } = self else { return Ok(Fill::Moved(0)) };
        match splice(endpoint, splicing, claim, buffer, room)? {
            Some(fill) => Ok(fill),
            None => read(endpoint, claim, buffer, room),
        }
    }
}

/// Puts bytes into the buffer by reference. Nothing where they must be read instead.
fn splice(
    endpoint: &Endpoint,
    splicing: &mut Splicing,
    claim: &mut Claim,
    buffer: &mut Fifo,
    room: usize,
) -> Result<Option<Fill>, Errno> {
    if !splicing.by_pipe {
        return Ok(None);
    }
    let spliced = if shares_place(endpoint) {
        let Some((mut at, length)) = claim.make(endpoint, room)? else { return Ok(None) };
        let spliced = buffer.splice_from(endpoint, Some(&mut at), length)?;
        match spliced {
            Some(Splice::Moved(moved)) => claim.use_up(moved),
            Some(Splice::End) => claim.forget(),
            _ => {}
        }
        spliced
    } else {
        buffer.splice_from(endpoint, None, room)?
    };
    match spliced {
        None => Ok(None),
        Some(Splice::Moved(moved)) => Ok(Some(Fill::Moved(moved))),
        // A file that was cut, or one of the system's that has no size: a read will tell.
        Some(Splice::End) if endpoint.kind() == Kind::File => Ok(None),
        Some(Splice::End) => Ok(Some(Fill::End)),
        Some(Splice::NotReady) if !endpoint.is_always_ready() => Err(Errno::AGAIN),
        Some(Splice::NotReady) => Ok(None),
        Some(Splice::Refused) => {
            *splicing = Splicing::NONE;
            buffer.refuse_to_splice_in();
            Ok(None)
        }
    }
}

fn read(endpoint: &mut Endpoint, claim: &mut Claim, buffer: &mut Fifo, room: usize) -> Result<Fill, Errno> {
    let space = buffer.writable().map_err(errno)?;
    let limit = room.min(space.len());
    let read = match claim.read(endpoint, &mut space[..limit])? {
        Some(read) => read,
        None => endpoint.read(&mut space[..limit])?,
    };
    match read {
        0 => Ok(Fill::End),
        read => {
            buffer.commit(read);
            Ok(Fill::Moved(read))
        }
    }
}

impl Producer for Source {
    fn pause_producing(&mut self) {
        self.wanted = false;
    }
    fn resume_producing(&mut self) {
        self.wanted = true;
    }
    fn stop_producing(&mut self) {
        self.wanted = false;
    }
}

impl Upstream<Outputs, Fifo> for Source {
    type Error = EndpointError;

    fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn fill(&mut self, buffer: &mut Fifo, room: usize) -> Result<Fill, EndpointError> {
        let room = self.within_limit(room);
        if room == 0 {
            return Ok(Fill::End);
        }
        let ends = buffer.ends_entered();
        if std::mem::take(&mut self.splicing_is_new) {
            buffer.splice_in(self.splicing.by_pipe);
        }
        let taken = self.kept.take().map_or_else(|| self.take_in(buffer, room), Err);
        match (taken, &self.endpoint) {
            // Of an endpoint that cannot be waited for, this would be an error like any other.
            (Err(Errno::AGAIN), Some(endpoint)) if !endpoint.is_always_ready() => {
                self.ready = false;
                Ok(Fill::Moved(0))
            }
            (Err(Errno::INTR), _) => Ok(Fill::Moved(0)),
            (Ok(Fill::End), _) if self.another => Ok(self.end(Ok(()))),
            (Ok(fill), _) => {
                if let Fill::Moved(moved) = fill {
                    let counted = match self.unit {
                        Unit::Bytes => moved as u64,
                        Unit::Records => buffer.ends_entered() - ends,
                    };
                    self.count(moved, counted);
                }
                Ok(fill)
            }
            (Err(error), endpoint) => {
                let label = endpoint.as_ref().map_or("", Endpoint::label);
                let error = EndpointError::new(label, error);
                if self.another { Ok(self.end(Err(error))) } else { Err(error) }
            }
        }
    }

    fn pass(&mut self, outputs: &mut Outputs, limit: usize) -> usize {
        let Some(sink) = outputs.only() else { return 0 };
        let Some(endpoint) = self.endpoint.as_ref().filter(|_| self.splicing.straight != Straight::No) else {
            return 0;
        };
        let limit = self.within_limit(limit).min(self.splicing.largest);
        let to = sink.endpoint();
        let moved = match self.splicing.straight {
            Straight::SendFile => rustix::fs::sendfile(to, endpoint, None, limit),
            _ if shares_place(endpoint) => {
                let Some((mut at, length)) = self.claim.make(endpoint, limit).unwrap_or(None) else { return 0 };
                let moved = rustix::pipe::splice(endpoint, Some(&mut at), to, None, length, SpliceFlags::NONBLOCK);
                self.claim.use_up(moved.unwrap_or(0));
                moved
            }
            _ => rustix::pipe::splice(endpoint, None, to, None, limit, SpliceFlags::NONBLOCK),
        };
        if let Err(error) = moved {
            // A socket says once that it was reset: to whom it belongs hears of it next.
            match () {
                () if matches!(error, Errno::AGAIN | Errno::INTR) || is_refusal(error) => {}
                () if endpoint.kind() == Kind::Socket && error != Errno::PIPE => self.kept = Some(error),
                () => sink.keep_error(error),
            }
        }
        let moved = moved.unwrap_or(0);
        sink.count(moved);
        self.count(moved, moved as u64);
        moved
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.give_back();
    }
}
