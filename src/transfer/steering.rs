//! What control clients may ask of a run.

use super::direction::Direction;
use super::observe;
use crate::control::{Host, Request};
use crate::os::clock;
use crate::poller::Poller;
use crate::report::Reporter;
use crate::shaping::Rate;
use crate::stats::{Interval, Status};

/// The parts of a transfer that can be steered.
pub(super) struct Steering<'a> {
    pub poller: &'a mut Poller,
    pub direction: &'a mut Direction,
    pub reporter: &'a mut Reporter,
    /// A client has ended the input.
    pub stopped: &'a mut bool,
}

impl Host for Steering<'_> {
    fn obey(&mut self, request: &Request) -> Result<(), String> {
        let Steering { poller, direction, reporter, stopped } = self;
        match request {
            Request::Stats {} => return Ok(()),
            Request::Rate { rate: Some(0) } => return Err("the rate must be at least 1 byte per second".to_owned()),
            Request::Rate { rate } => direction.pace_mut().rate = rate.map_or(Rate::Free, Rate::Constant),
            Request::Pause {} if direction.flow().proxy().unregistered() => {
                return Err("its input has ended, and it only delivers what it holds".to_owned());
            }
            Request::Pause {} => direction.pace_mut().paused = true,
            Request::Resume {} => direction.pace_mut().paused = false,
            Request::Buffer { size } => reporter.account.resize(direction.resize(*size)?),
            Request::Stop {} => {
                **stopped = true;
                direction.finish(poller);
            }
        }
        direction.apply_pace(poller);
        Ok(())
    }

    fn status(&mut self, interval: &mut Interval) -> Status {
        let now = clock::now();
        observe(self.direction, self.reporter, now);
        self.reporter.status(now, interval)
    }
}
