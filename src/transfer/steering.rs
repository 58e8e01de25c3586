//! Requests of control clients to a run.

use jiff::Zoned;

use super::direction::Direction;
use super::{apply_pace, describe_flows, observe};
use crate::control::{Host, Request};
use crate::os::clock;
use crate::poller::Poller;
use crate::report::Reporter;
use crate::shaping::{Rate, Schedule, unit_of_schedule};
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
            Request::Rate { rate, seconds, unit } => {
                let speed = rate.map(|amount| Speed { amount, seconds: *seconds, unit: RateUnit::default() });
                let tokens =
                    |direction: &Direction| speed.map(|speed| speed.in_tokens(direction.unit().tokens())).transpose();
                // All of it is known to be good before anything is changed.
                let rates: Result<Vec<_>, _> = each.as_slice().iter().map(tokens).collect();
                for (direction, tokens) in each.zip(rates.map_err(|error| error.to_string())?) {
                    direction.pace_mut().rate = tokens.map_or(Rate::Free, Rate::Constant);
                }
                reporter.facts.rate_unit = unit.unwrap_or(reporter.facts.rate_unit);
            }
            Request::ChangeRate { by } => {
                let own = |direction: &mut Direction| direction.pace_mut().at(Zoned::now).rate;
                let limited: Vec<_> = each.filter_map(|direction| Some((own(direction)?, direction))).collect();
                if limited.is_empty() {
                    return Err("it has no limit of its own to change".to_owned());
                }
                let changed: Option<Vec<_>> =
                    limited.iter().map(|(rate, direction)| by.of(*rate, direction.unit().tokens())).collect();
                let changed = changed.ok_or("nothing would be left of the rate")?;
                for ((_, direction), rate) in limited.into_iter().zip(changed) {
                    direction.pace_mut().rate = Rate::Constant(rate);
                }
            }
            Request::RateBack {} => {
                reporter.facts.rate_unit = reporter.usual_unit;
                each.for_each(|direction| direction.pace_mut().return_to_usual());
            }
            Request::Schedule { timetable } => {
                let schedule = |direction: &Direction| Schedule::parse_in(direction.unit(), timetable);
                let schedules: Result<Vec<_>, _> = each.as_slice().iter().map(schedule).collect();
                for (direction, schedule) in each.zip(schedules.map_err(|error| error.to_string())?) {
                    direction.pace_mut().follow(schedule);
                }
                // 'back' returns to this timetable from now on.
                reporter.usual_unit = unit_of_schedule(timetable).unwrap_or(reporter.usual_unit);
                reporter.facts.rate_unit = reporter.usual_unit;
            }
            Request::Pause {} if each.all(|direction| direction.is_told_to_end()) => {
                return Err("it was told to end, and delivers what it holds".to_owned());
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
