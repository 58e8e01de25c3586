//! One buffer, several consumers: each gets every byte, and the slowest sets the pace.

use super::{Consumer, Downstream};
use crate::buffer::{Release, Witness};

/// One of several consumers of the same buffer.
pub trait Branch<B> {
    /// Why it can take no byte any more.
    type Error;
    /// Takes at most `limit` bytes, at least 1, that begin `at` bytes behind the front of `buffer`,
    /// without waiting, and returns how many it took. They stay in the buffer for the others.
    ///
    /// A result of 0 for bytes at the front says that it is not ready. For bytes behind the front
    /// it may also mean that they cannot be had before those in front of them are released.
    ///
    /// # Errors
    /// When it can take no byte any more.
    fn take(&mut self, buffer: &mut B, at: usize, limit: usize) -> Result<usize, Self::Error>;
    /// It may take bytes.
    fn is_ready(&self) -> bool;
    /// The last byte has been taken.
    fn finish(&mut self);
    /// The last byte is out, and no more will come.
    fn is_finished(&self) -> bool;
}

/// Several consumers as one. Bytes count as taken once all of them have them.
///
/// A consumer that is ahead of the slowest is never further ahead than the tokens in hand allow:
/// each of them is fed within `rate * t + burst`. One that fails is left out, and the others go
/// on.
#[derive(Debug)]
pub struct Fanout<C, E> {
    branches: Vec<Place<C>>,
    left_out: Vec<(C, E)>,
    /// Bytes that all have taken since the beginning.
    delivered: u64,
    /// Nothing could go on when so many bytes were held. It is tried again when the number has
    /// changed, or a consumer has become ready.
    stuck_at: Option<usize>,
    /// The last one failed, with bytes taken before that in the same write.
    error: Option<E>,
}

#[derive(Debug)]
struct Place<C> {
    consumer: C,
    /// Bytes of the buffer that it has taken, and that others have not.
    ahead: usize,
}

impl<C, E> Fanout<C, E> {
    /// These consumers, at least one, as one.
    pub fn new(consumers: impl IntoIterator<Item = C>) -> Self {
        let branches = consumers.into_iter().map(|consumer| Place { consumer, ahead: 0 }).collect();
        Fanout { branches, left_out: Vec::new(), delivered: 0, stuck_at: None, error: None }
    }

    /// The consumers that are still fed.
    pub fn branches(&self) -> impl Iterator<Item = &C> {
        self.branches.iter().map(|place| &place.consumer)
    }

    /// One of the consumers is told of readiness: even if none could go on, it is tried again.
    pub fn try_again(&mut self) {
        self.stuck_at = None;
    }

    /// The consumers that are still fed. If one is told of readiness, see [`try_again`](Self::try_again).
    pub fn branches_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.branches.iter_mut().map(|place| &mut place.consumer)
    }

    /// Takes out the consumers that are still fed, to close them.
    pub fn into_branches(self) -> impl Iterator<Item = C> {
        self.branches.into_iter().map(|place| place.consumer)
    }

    /// The next consumer that has been left out, and why. The last of all is none of them: its
    /// error is that of the whole.
    pub fn take_left_out(&mut self) -> Option<(C, E)> {
        if self.left_out.is_empty() { None } else { Some(self.left_out.remove(0)) }
    }

    /// Feeds those no longer for which this is true, because of `error`.
    ///
    /// # Errors
    /// Gives the error back if it is the last one: it then stays.
    pub fn leave_out(&mut self, mut which: impl FnMut(&C) -> bool, error: E) -> Result<(), E> {
        let Some(at) = self.branches.iter().position(|place| which(&place.consumer)) else { return Ok(()) };
        self.leave_out_at(at, error)
    }

    /// Bytes at the front of the buffer that all have taken.
    fn least(&self) -> usize {
        self.branches.iter().map(|place| place.ahead).min().unwrap_or(0)
    }

    fn leave_out_at(&mut self, at: usize, error: E) -> Result<(), E> {
        if self.branches.len() == 1 {
            return Err(error);
        }
        self.stuck_at = None;
        self.left_out.push((self.branches.remove(at).consumer, error));
        Ok(())
    }
}

impl<C, E> Fanout<C, E> {
    /// Does what [`write`](Consumer::write) does, and shows `witness` the bytes that all consumers have
    /// taken, in order.
    ///
    /// # Errors
    /// That of the last consumer.
    pub fn write_before<B>(
        &mut self,
        buffer: &mut B,
        limit: usize,
        mut witness: Option<Witness<'_, '_>>,
    ) -> Result<usize, E>
    where
        B: Release,
        C: Branch<B, Error = E>,
    {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let (mut released, mut moved) = (0, false);
        loop {
            let most = limit - released;
            let mut went_on = false;
            let mut at = 0;
            while let Some(place) = self.branches.get_mut(at) {
                if place.ahead >= most || !place.consumer.is_ready() {
                    at += 1;
                    continue;
                }
                match place.consumer.take(buffer, place.ahead, most - place.ahead) {
                    Ok(taken) => {
                        place.ahead += taken;
                        went_on |= taken > 0;
                        at += 1;
                    }
                    Err(error) => {
                        went_on = true;
                        if let Err(error) = self.leave_out_at(at, error) {
                            if released == 0 {
                                return Err(error);
                            }
                            self.error = Some(error);
                            self.delivered += released as u64;
                            return Ok(released);
                        }
                    }
                }
            }
            // More than that is there to be dropped once the slowest was left out.
            let least = self.least().min(most);
            if least > 0 {
                let dropped = buffer.release(least, witness.as_deref_mut());
                self.branches.iter_mut().for_each(|place| place.ahead -= dropped);
                released += dropped;
                // Those that had to wait for that may go on.
                went_on |= dropped > 0;
            }
            moved |= went_on;
            if !went_on || released == limit {
                break;
            }
        }
        self.delivered += released as u64;
        self.stuck_at = (!moved).then(|| buffer.available());
        Ok(released)
    }
}

impl<B: Release, C: Branch<B>> Consumer<B> for Fanout<C, C::Error> {
    type Error = C::Error;

    fn register_producer(&mut self, _streaming: bool) {}
    fn unregister_producer(&mut self) {}

    fn write(&mut self, buffer: &mut B, limit: usize) -> Result<usize, C::Error> {
        self.write_before(buffer, limit, None)
    }

    fn finish(&mut self) {
        self.branches.iter_mut().for_each(|place| place.consumer.finish());
    }
}

impl<B: Release, C: Branch<B>> Downstream<B> for Fanout<C, C::Error> {
    fn is_ready(&self, held: usize) -> bool {
        let could = |place: &Place<C>| place.consumer.is_ready() && (place.ahead < held || held == 0);
        self.error.is_some() || self.least() > 0 || (self.stuck_at != Some(held) && self.branches.iter().any(could))
    }

    fn is_finished(&self) -> bool {
        self.branches.iter().all(|place| place.consumer.is_finished())
    }

    fn delivered(&self) -> u64 {
        self.delivered
    }
}
