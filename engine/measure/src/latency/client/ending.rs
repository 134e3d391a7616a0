//! The end of a run: what is under way may finish, what was not sent is counted, the figures are fetched.

use super::slot::Slot;
use super::{Client, ProgressSink};
use crate::worker::ClientRole;
pub(crate) use crate::worker::course::Stand;
pub(crate) use crate::worker::pacer::Action;
use tare_driver::{Driver, DriverError};
use tare_units::Instant;

impl<G: ProgressSink> Client<G> {
    pub(super) fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.course.drain(now);
        let end = self.course.warmup_end + self.course.outcome.measured;
        for index in 0..self.spec.connections {
            if self.slots[index as usize].is_dead() {
                self.count_down(index, end);
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
        for slot in &mut self.slots {
            let Some(operation) = slot.take_operation() else {
                continue;
            };
            self.course.outstanding -= 1;
            if operation.measured {
                self.measured.operations.in_flight_at_end += 1;
                self.recording.record_censored(now, operation.sample(now));
            } else {
                self.warmup.operations.in_flight_at_end += 1;
            }
            slot.interrupt(io)?;
        }
        let (measured, warmup) = (&mut self.measured, &mut self.warmup);
        self.course.count_unsent(&mut self.recording, measured, warmup);
        self.finish(io, now)
    }

    pub(super) fn finish<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.course.finish(now, &self.recording);
        // With a connection per operation, one more is opened: for the figures of the worker that served them.
        self.last_report_due = self.spec.dialogue.hello.connect_each && self.is_alive();
        for slot in &mut self.slots {
            slot.end(io, now, &self.spec)?;
        }
        self.check_finished(io, now)
    }

    pub(super) fn check_finished<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        let Some(deadline) = self.course.finish_by() else {
            return Ok(());
        };
        if now >= deadline {
            self.last_report_due = false;
            for slot in &mut self.slots {
                slot.give_up(io)?;
            }
        }
        if self.last_report_due && self.slots[0].is_quiet() {
            self.last_report_due = false;
            if self.prepare(io, 0, now)? {
                self.course.pacer.push(0, Action::Connect);
            }
        }
        let is_quiet = !self.last_report_due && self.slots.iter().all(Slot::is_quiet);
        if is_quiet || self.course.is_forlorn(now) {
            self.course.stand = Stand::Finished;
        }
        Ok(())
    }
}
