//! The end of a run: what is under way may finish, what was not sent is counted, connections are closed.

use super::connection::{Connection, State};
use super::{Blamed, HttpClient, ProgressSink, blame};
pub(crate) use crate::worker::course::Stand;
use crate::worker::errors::Stage;
use tare_driver::{Driver, DriverError};
use tare_units::Instant;

impl<G: ProgressSink> HttpClient<G> {
    pub(super) fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.course.drain(now);
        for index in 0..self.spec.connections {
            self.unsend(index);
            // What was to be sent again on a connection that does not stand yet is not awaited.
            if !self.connections[index as usize].is_open() {
                self.leave_requests(index, now);
            }
        }
        self.check_drained(io, now)
    }

    pub(super) fn check_drained<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        if !self.course.is_drained(now) {
            return Ok(());
        }
        for index in 0..self.spec.connections {
            let connection = &self.connections[index as usize];
            if connection.reader.lasts_until_close() && self.course.outcome.failure.is_none() {
                let words = blame::words(&self.spec, Stage::Receive, Blamed::NoLength);
                self.course.outcome.failure = Some(words);
            }
            self.leave_requests(index, now);
        }
        let tally = &mut self.tally;
        let (measured, warmup) = (&mut tally.measured, &mut tally.warmup);
        self.course.count_unsent(&mut tally.recording, measured, warmup);
        self.finish(io, now)
    }

    /// Requests of a connection that are under way when the run is over.
    pub(super) fn leave_requests(&mut self, index: u32, now: Instant) {
        let open_loop = self.course.pacer.is_open_loop();
        let connection = &mut self.connections[index as usize];
        while connection.in_flight > 0 {
            let request = self.requests.take_first(index, connection);
            self.course.outstanding -= 1;
            if request.measured {
                self.tally.measured.operations.in_flight_at_end += 1;
                let sample = request.sample(now, open_loop);
                self.tally.recording.record_censored(now, sample);
            } else {
                self.tally.warmup.operations.in_flight_at_end += 1;
            }
        }
    }

    pub(super) fn finish<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.course.finish(now, &self.tally.recording);
        for index in 0..self.spec.connections {
            match self.connections[index as usize].state {
                State::Open | State::Connecting { .. } => self.close(io, index, false)?,
                State::Queued | State::Resting { .. } => {
                    self.connections[index as usize].state = State::Vacant;
                }
                State::Vacant | State::Closing { .. } => {}
            }
        }
        self.check_finished(now);
        Ok(())
    }

    pub(super) fn check_finished(&mut self, now: Instant) {
        let Some(deadline) = self.course.finish_by() else {
            return;
        };
        if now >= deadline || self.connections.iter().all(Connection::is_quiet) {
            self.course.stand = Stand::Finished;
        }
    }
}
