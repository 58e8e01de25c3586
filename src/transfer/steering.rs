//! What control clients may ask of a run.

use super::direction::Direction;
use super::{apply_pace, describe_flows, observe};
use crate::control::{Host, Request};
use crate::os::clock;
use crate::poller::Poller;
use crate::report::Reporter;
use crate::shaping::Rate;
use crate::stats::{Interval, Status};
use crate::units::{RateUnit, Speed};

/// The parts of a transfer that can be steered.
pub(super) struct Steering<'a> {
    pub poller: &'a mut Poller,
    pub directions: &'a mut [Direction],
    pub reporter: &'a mut Reporter,
    /// A client has ended the input.
    pub stopped: &'a mut bool,
}

impl Host for Steering<'_> {
    fn obey(&mut self, request: &Request) -> Result<(), String> {
        let Steering { poller, directions, reporter, stopped } = self;
        let mut each = directions.iter_mut();
        match request {
            Request::Stats {} => return Ok(()),
            Request::Rate { rate: Some(0), .. } => {
                return Err("the rate must be at least 1 byte per second".to_owned());
            }
            Request::Rate { rate, seconds } => {
                for direction in each {
                    let rate = rate.map(|amount| Speed { amount, seconds: *seconds, unit: RateUnit::default() });
                    let tokens = rate.map(|speed| speed.in_tokens(direction.unit().tokens())).transpose();
                    let tokens = tokens.map_err(|error| error.to_string())?;
                    direction.pace_mut().rate = tokens.map_or(Rate::Free, Rate::Constant);
                }
            }
            Request::Pause {} if each.all(|direction| direction.flow().proxy().unregistered()) => {
                return Err("its input has ended, and it only delivers what it holds".to_owned());
            }
            Request::Pause {} => directions.iter_mut().for_each(|direction| direction.pace_mut().paused = true),
            Request::Resume {} => each.for_each(|direction| {
                direction.pace_mut().paused = false;
                direction.start();
            }),
            Request::Buffer { size } => {
                let mut sum = 0;
                for direction in each {
                    sum += direction.resize(*size)?;
                }
                reporter.account.resize(sum);
            }
            Request::Stop {} => {
                **stopped = true;
                each.for_each(|direction| direction.finish(poller));
            }
        }
        apply_pace(directions, poller, clock::now());
        Ok(())
    }

    fn status(&mut self, interval: &mut Interval) -> Status {
        let now = clock::now();
        observe(self.directions, self.reporter, now);
        describe_flows(self.directions, self.reporter);
        self.reporter.status(now, interval)
    }
}
