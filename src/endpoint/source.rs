//! An endpoint as the proxy's producer.

use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::{Endpoint, EndpointError, Sink, Splicing, errno};
use crate::buffer::{Fifo, Splice};
use crate::flow::{Fill, Producer, Upstream};
use crate::os::Kind;

/// The producer: reads its endpoint into the buffer when it is ready and wanted.
#[derive(Debug)]
pub struct Source {
    endpoint: Endpoint,
    /// A push producer goes on until it is paused; a pull producer is asked each time.
    streaming: bool,
    wanted: bool,
    ready: bool,
    /// How bytes may go to the consumer without a copy.
    splicing: Splicing,
    /// Bytes that may still be read.
    left: u64,
    /// The part of a file that was claimed and is yet to be read.
    claimed: Range<u64>,
}

impl Source {
    /// A producer that pushes (`streaming`), or one that is asked for each piece. It ends by
    /// itself after `stop_after` bytes.
    pub fn new(endpoint: Endpoint, streaming: bool, splicing: Splicing, stop_after: Option<u64>) -> Self {
        let left = stop_after.unwrap_or(u64::MAX);
        // Ready until it says otherwise.
        Source { endpoint, streaming, wanted: streaming, ready: true, splicing, left, claimed: 0..0 }
    }

    /// The endpoint has become ready.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// What it reads.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `bytes`, or what may still be read of them.
    fn within_limit(&self, bytes: usize) -> usize {
        bytes.min(self.left.try_into().unwrap_or(usize::MAX))
    }

    /// So many bytes have been read: what a pull producer was asked for.
    fn count(&mut self, moved: usize) {
        self.left -= moved as u64;
        self.wanted &= self.streaming || moved == 0;
    }

    /// Claims at most `limit` bytes of a file whose place other processes share: from then on they
    /// are ours to read, and the others go on behind them. `lseek` takes the lock that a read
    /// takes; a splice that moves the place itself does not, and bytes would be lost or doubled.
    ///
    /// No part is claimed beyond the end of the file: what is appended later is for whoever reads
    /// next.
    fn claim(&mut self, limit: usize) -> Result<Option<(u64, usize)>, Errno> {
        if self.claimed.is_empty() {
            let size = rustix::fs::fstat(&self.endpoint)?.st_size as u64;
            let at = rustix::fs::tell(&self.endpoint)?;
            let wanted = size.saturating_sub(at).min(limit as u64);
            if wanted == 0 {
                return Ok(None);
            }
            let end = rustix::fs::seek(&self.endpoint, SeekFrom::Current(wanted as i64))?;
            self.claimed = end - wanted..end;
        }
        let length = (self.claimed.end - self.claimed.start).min(limit as u64);
        Ok(Some((self.claimed.start, length as usize)))
    }

    /// Gives back what was claimed and not read, unless another process went on behind it.
    fn give_back(&mut self) {
        let unread = (self.claimed.end - self.claimed.start) as i64;
        if unread > 0 && rustix::fs::tell(&self.endpoint) == Ok(self.claimed.end) {
            let _ = rustix::fs::seek(&self.endpoint, SeekFrom::Current(-unread));
        }
        self.claimed = 0..0;
    }

    /// Puts bytes into the buffer by reference. Nothing where they must be read instead.
    fn splice(&mut self, buffer: &mut Fifo, room: usize) -> Result<Option<Fill>, Errno> {
        if !self.splicing.by_pipe {
            return Ok(None);
        }
        let spliced = if self.endpoint.kind() == Kind::File {
            let Some((mut at, length)) = self.claim(room)? else { return Ok(None) };
            let spliced = buffer.splice_from(&self.endpoint, Some(&mut at), length)?;
            self.went_on(spliced);
            spliced
        } else {
            buffer.splice_from(&self.endpoint, None, room)?
        };
        match spliced {
            None => Ok(None),
            Some(Splice::Moved(moved)) => Ok(Some(Fill::Moved(moved))),
            // A file that was cut: a read will tell.
            Some(Splice::End) if self.endpoint.kind() == Kind::File => Ok(None),
            Some(Splice::End) => Ok(Some(Fill::End)),
            Some(Splice::NotReady) if self.streaming => Err(Errno::AGAIN),
            Some(Splice::NotReady) => Ok(None),
            Some(Splice::Refused) => {
                self.splicing = Splicing { by_pipe: false, straight: false };
                buffer.refuse_to_splice_in();
                Ok(None)
            }
        }
    }

    /// A splice from the claimed part came to this.
    fn went_on(&mut self, spliced: Option<Splice>) {
        match spliced {
            Some(Splice::Moved(moved)) => self.claimed.start += moved as u64,
            Some(Splice::End) => self.claimed = 0..0,
            _ => {}
        }
    }

    fn read(&mut self, buffer: &mut Fifo, room: usize) -> Result<Fill, Errno> {
        let memory = buffer.memory();
        let space = memory.writable().map_err(errno)?;
        let limit = room.min(space.len());
        let read = if self.claimed.is_empty() {
            self.endpoint.read(&mut space[..limit])?
        } else {
            let limit = limit.min((self.claimed.end - self.claimed.start) as usize);
            let read = rustix::io::pread(&self.endpoint, &mut space[..limit], self.claimed.start)?;
            self.claimed = if read == 0 { 0..0 } else { self.claimed.start + read as u64..self.claimed.end };
            read
        };
        match read {
            0 => Ok(Fill::End),
            read => {
                memory.commit(read);
                Ok(Fill::Moved(read))
            }
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

impl Upstream<Sink, Fifo> for Source {
    type Error = EndpointError;

    fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    /// By reference while the buffer's pipe has slots and the endpoint splices, else into memory.
    fn fill(&mut self, buffer: &mut Fifo, room: usize) -> Result<Fill, EndpointError> {
        let room = self.within_limit(room);
        if room == 0 {
            return Ok(Fill::End);
        }
        let fill = self.splice(buffer, room).and_then(|done| done.map_or_else(|| self.read(buffer, room), Ok));
        match fill {
            // Of an endpoint that cannot be waited for, this would be an error like any other.
            Err(Errno::AGAIN) if self.streaming => {
                self.ready = false;
                Ok(Fill::Moved(0))
            }
            Err(Errno::INTR) => Ok(Fill::Moved(0)),
            Ok(fill) => {
                if let Fill::Moved(moved) = fill {
                    self.count(moved);
                }
                Ok(fill)
            }
            Err(error) => Err(EndpointError::new(self.endpoint.label(), error)),
        }
    }

    fn pass(&mut self, sink: &mut Sink, limit: usize) -> usize {
        if !self.splicing.straight {
            return 0;
        }
        let limit = self.within_limit(limit);
        let file = self.endpoint.kind() == Kind::File;
        let claim = if file { self.claim(limit).unwrap_or(None) } else { None };
        let (at, limit) = match claim {
            Some((at, length)) => (Some(at), length),
            None if file => return 0,
            None => (None, limit),
        };
        let (from, to) = (&self.endpoint, sink.endpoint());
        let moved =
            rustix::pipe::splice(from, at.clone().as_mut(), to, None, limit, SpliceFlags::NONBLOCK).unwrap_or(0);
        if file {
            self.claimed.start += moved as u64;
        }
        sink.count(moved);
        self.count(moved);
        moved
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.give_back();
    }
}
