//! The only room that knows mio.

pub(crate) mod signals;
pub(crate) mod timer;
pub(crate) mod watch;
