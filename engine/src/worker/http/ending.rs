//! The end of a run: what is under way may finish, what was not sent is counted, connections are closed.

use super::connection::{Connection, State};
use super::{Gauge, HttpClient, Stand};
use crate::driver::{Driver, DriverError};
use crate::units::{Instant, Nanos};
use crate::worker::control::Phase;

/// When interrupted, responses under way are awaited for at most this long.
const DRAIN_INTERRUPTED: Nanos = Nanos::from_millis(300);

impl<G: Gauge> HttpClient<G> {
    pub(super) fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.stand == Stand::Measuring {
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
        for index in 0..self.spec.connections {
            self.unsend(index);
        }
        let (tally, warmup_end) = (&mut self.tally, self.warmup_end);
        self.pacer.finish(end, |due| {
            if due >= warmup_end {
                let recording = Some(&mut tally.recording);
                tally.measured.count_unsent(recording, due, end);
            } else {
                tally.warmup.count_unsent(None, due, end);
            }
        });
        let patience = if self.outcome.cut_short {
            DRAIN_INTERRUPTED
        } else {
            self.spec.timeout
        };
        self.stand = Stand::Draining {
            deadline: now + patience.min(self.spec.timeout),
        };
        self.check_drained(io, now)
    }

    pub(super) fn check_drained<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        let Stand::Draining { deadline } = self.stand else {
            return Ok(());
        };
        if self.outstanding > 0 && now < deadline {
            return Ok(());
        }
        let open_loop = self.pacer.is_open_loop();
        for index in 0..self.spec.connections {
            let connection = &mut self.connections[index as usize];
            while connection.in_flight > 0 {
                let request = self.requests.take_first(index, connection);
                self.outstanding -= 1;
                if request.measured {
                    self.tally.measured.operations.in_flight_at_end += 1;
                    let sample = request.sample(now, open_loop);
                    self.tally.recording.record_censored(now, sample);
                } else {
                    self.tally.warmup.operations.in_flight_at_end += 1;
                }
            }
        }
        // Responses that came while draining stand in the last entry, so it is complete only now.
        if self.outcome.measured > Nanos::ZERO {
            self.gauge
                .entry_ends(&self.tally.recording, self.entries_told);
        }
        self.finish(io, now)
    }

    pub(super) fn finish<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.stand = Stand::Finishing {
            deadline: now + self.spec.timeout,
        };
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
        let Stand::Finishing { deadline } = self.stand else {
            return;
        };
        if now >= deadline || self.connections.iter().all(Connection::is_quiet) {
            self.stand = Stand::Finished;
        }
    }
}
