//! What the user asked for.

use crate::shaping::Limit;

/// Everything a run needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes held at most, at least 1.
    pub buffer: usize,
    /// A paused producer is resumed once no more than this many bytes are held. Below
    /// `buffer`.
    pub low_water: usize,
    /// To how many bytes the pipes of the neighbours are grown; nothing leaves them.
    pub pipe_size: Option<usize>,
    /// How fast the consumer is fed; nothing feeds it as fast as it takes the bytes.
    pub limit: Option<Limit>,
}
