//! The end of a run: what is under way may finish, what was not sent is counted, the figures are fetched.

use super::slot::Slot;
use super::{Client, Gauge, State};
use crate::driver::{Driver, DriverError};
use crate::units::{Instant, Nanos};
use crate::worker::ClientRole;
use crate::worker::control::Phase;
use crate::worker::pacer::Action;

/// When interrupted, replies under way are awaited for at most this long.
const DRAIN_INTERRUPTED: Nanos = Nanos::from_millis(300);

impl<G: Gauge> Client<G> {
    pub(super) fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.state == State::Measuring {
            self.gauge.measure_ends();
        } else {
            // It never came to measuring.
            let began = Instant(self.warmup_end.0 - self.spec.warmup.0);
            self.outcome.warmup = now.since(began).min(self.spec.warmup);
        }
        self.gauge.phase(Phase::Drain);
        let end = match self.spec.count {
            _ if self.outcome.cut_short => now,
            // Ten at ten per second take a second, though the last is answered sooner.
            Some(_) => self.measured_until.max(self.pacer.last_ends()),
            None => now.min(self.pacer.end()),
        };
        self.outcome.measured = end.since(self.warmup_end);
        let (recording, warmup_end) = (&mut self.recording, self.warmup_end);
        let (measured, warmup) = (&mut self.measured, &mut self.warmup);
        self.pacer.finish(end, |due| {
            if due >= warmup_end {
                measured.count_unsent(Some(&mut *recording), due, end);
            } else {
                warmup.count_unsent(None, due, end);
            }
        });
        let patience = if self.outcome.cut_short {
            DRAIN_INTERRUPTED
        } else {
            self.spec.dialogue.timeout
        };
        self.state = State::Draining {
            deadline: now + patience.min(self.spec.dialogue.timeout),
        };
        self.check_drained(io, now)
    }

    pub(super) fn check_drained<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        let State::Draining { deadline } = self.state else {
            return Ok(());
        };
        if self.outstanding > 0 && now < deadline {
            return Ok(());
        }
        for slot in &mut self.slots {
            let Some(operation) = slot.take_operation() else {
                continue;
            };
            self.outstanding -= 1;
            if operation.measured {
                self.measured.operations.in_flight_at_end += 1;
                self.recording.record_censored(now, operation.sample(now));
            } else {
                self.warmup.operations.in_flight_at_end += 1;
            }
            slot.interrupt(io)?;
        }
        // Replies that came while draining stand in the last entry, so it is complete only now.
        if self.outcome.measured > Nanos::ZERO {
            self.gauge.entry_ends(&self.recording, self.entries_told);
        }
        self.finish(io, now)
    }

    pub(super) fn finish<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.state = State::Finishing {
            deadline: now + self.spec.dialogue.timeout,
        };
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
        let State::Finishing { deadline } = self.state else {
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
                self.pacer.push(0, Action::Connect);
            }
        }
        if !self.last_report_due && self.slots.iter().all(Slot::is_quiet) {
            self.state = State::Finished;
        }
        Ok(())
    }
}
