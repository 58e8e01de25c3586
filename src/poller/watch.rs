//! One side's place in the poll.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

use crate::endpoint::Descriptor;

/// What the poll waits for on one side.
pub(crate) struct Watch {
    fd: RawFd,
    token: Token,
    /// What the poll waits for now.
    interest: Option<Interest>,
    /// False where epoll refuses the descriptor: it is always ready.
    waits: bool,
}

impl Watch {
    /// Tries whether `descriptor` can be waited for, and tells it if not.
    pub(crate) fn new(
        registry: &Registry,
        descriptor: &mut Descriptor,
        token: Token,
        interest: Interest,
    ) -> io::Result<Self> {
        let mut watch = Watch { fd: descriptor.fd().as_raw_fd(), token, interest: None, waits: true };
        match watch.set(registry, Some(interest)) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                watch.waits = false;
                descriptor.set_always_ready();
                Ok(watch)
            }
            result => result.map(|()| watch),
        }
    }

    /// Whether the descriptor can be waited for; if not, it is always ready.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// Waits for `interest` from now on. What is ready already is reported anew.
    pub(crate) fn set(&mut self, registry: &Registry, interest: Option<Interest>) -> io::Result<()> {
        if !self.waits || self.interest == interest {
            return Ok(());
        }
        let fd = &mut SourceFd(&self.fd);
        match (self.interest, interest) {
            (None, Some(interest)) => registry.register(fd, self.token, interest)?,
            (Some(_), Some(interest)) => registry.reregister(fd, self.token, interest)?,
            (_, None) => registry.deregister(fd)?,
        }
        self.interest = interest;
        Ok(())
    }
}
