//! An endpoint that another process or the network has to do something for first.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

use super::{Endpoint, EndpointError};
use crate::os::block_all_signals;

/// News of an endpoint that is awaited.
#[derive(Debug)]
pub enum News {
    /// Something for the user to know.
    Says(String),
    /// It is there, or never will be.
    Done(Result<Endpoint, EndpointError>),
}

/// An endpoint that is being opened in a thread of its own. Its descriptor becomes readable when
/// there is news.
///
/// Resolving a name waits in the C library, and opening a FIFO waits in the kernel: neither can be
/// left to a poller. The thread waits, and the process goes on hearing signals and moving bytes.
/// A thread that still waits when the process ends, ends with it.
#[derive(Debug)]
pub struct Awaited {
    label: String,
    news: Receiver<Told>,
    bell: PipeReader,
    /// A name in the file system that is of use only until the endpoint is there.
    name: Option<PathBuf>,
}

#[derive(Debug)]
enum Told {
    Says(String),
    Done(io::Result<OwnedFd>),
}

/// How the opening thread tells of itself.
#[derive(Debug)]
pub(super) struct Teller {
    news: Sender<Told>,
    bell: PipeWriter,
}

impl Teller {
    /// Has the user told something.
    pub(super) fn say(&mut self, what: String) {
        self.tell(Told::Says(what));
    }

    fn tell(&mut self, told: Told) {
        // Nobody listens any more once the run has ended.
        let _ = self.news.send(told);
        let _ = self.bell.write_all(&[0]);
    }
}

impl Awaited {
    /// Runs `open` in a thread. Messages call the endpoint `label`.
    ///
    /// # Errors
    /// When there is no thread or no pipe to be had.
    pub(super) fn start(
        label: &str,
        open: impl FnOnce(&mut Teller) -> io::Result<OwnedFd> + Send + 'static,
    ) -> Result<Self, EndpointError> {
        let failed = |error| EndpointError::new(label, error);
        let (reader, writer) = pipe().map_err(failed)?;
        let (sender, news) = channel();
        let mut teller = Teller { news: sender, bell: writer };
        let body = move || {
            block_all_signals();
            let result = open(&mut teller);
            teller.tell(Told::Done(result));
        };
        thread::Builder::new().spawn(body).map_err(failed)?;
        Ok(Awaited { label: label.to_owned(), news, bell: reader, name: None })
    }

    /// Removes `name` from the file system if the endpoint is given up before it is there.
    pub(super) fn removing(mut self, name: PathBuf) -> Self {
        self.name = Some(name);
        self
    }

    /// The next news, if there is any. After [`News::Done`] there is no more.
    pub fn news(&mut self) -> Option<News> {
        let told = self.news.try_recv().ok()?;
        // The thread rings after it has told: the byte is there, or about to come.
        let _ = self.bell.read(&mut [0]);
        if matches!(told, Told::Done(_)) {
            self.name = None;
        }
        Some(match told {
            Told::Says(what) => News::Says(format!("{}: {what}", self.label)),
            Told::Done(Ok(fd)) => News::Done(Endpoint::new(fd, &self.label, false)),
            Told::Done(Err(error)) => News::Done(Err(EndpointError::new(&self.label, error))),
        })
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
        }
    }
}

impl AsFd for Awaited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
