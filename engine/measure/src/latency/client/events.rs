//! What a slot tells, and what the client makes of it.

use super::slot::Event;
use super::{BACKOFF, Client, ProgressSink};
use crate::worker::ClientRole;
pub(crate) use crate::worker::course::Stand;
use crate::worker::dialogue::{Failure, News};
use crate::worker::errors::Stage;
pub(crate) use crate::worker::pacer::Action;
use tare_driver::{Driver, DriverError};
use tare_proto::frame::HEADER_LEN;
use tare_proto::handshake::hello_in_one_go;
use tare_proto::hello::{Accept, HELLO_BODY_MAX, Transport};
use tare_stats::histogram::Sample;
use tare_units::{Instant, Nanos};

impl<G: ProgressSink> Client<G> {
    pub(super) fn handle_event<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        event: Event,
        now: Instant,
    ) -> Result<(), DriverError> {
        match event {
            Event::Replied { residence } => self.handle_reply(io, index, residence, now),
            Event::Stale => {
                self.tally().errors.count(Stage::Receive, "late-reply");
                Ok(())
            }
            Event::News(news) => self.handle_news(io, index, news, now),
        }
    }

    fn handle_news<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        news: News,
        now: Instant,
    ) -> Result<(), DriverError> {
        match news {
            News::Nothing => {}
            News::Connected(length) => self.handle_connected(index, length, now),
            News::Accepted(accept) => self.handle_accepted(io, index, *accept, now)?,
            News::Figures(figures) => {
                if !self.slots[index as usize].is_brief() {
                    self.course.outcome.figures.push(*figures);
                }
            }
            News::Ended { figures, failure } => {
                self.course.outcome.figures.push(*figures);
                self.handle_failure(io, index, failure, now)?;
            }
            News::Over => self.handle_over(io, index, now)?,
            News::Failed(failure) => self.handle_failure(io, index, failure, now)?,
        }
        Ok(())
    }

    /// A connect belongs to the phase of its operation. Those of connections that stand throughout are recorded
    /// though they precede the measured phase: there is no other sample of them.
    pub(super) fn handle_connected(&mut self, index: u32, length: Nanos, now: Instant) {
        let slot = &self.slots[index as usize];
        if self.spec.dialogue.transport() == Transport::Tcp
            && (slot.is_measured() || !self.spec.dialogue.hello.connect_each)
        {
            self.recording.record_connect(now, length);
        }
        if slot.is_one_go(&self.spec) {
            self.course.outcome.established += 1;
            self.course.pacer.push(index, Action::Request);
        }
    }

    pub(super) fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        accept: Accept,
        now: Instant,
    ) -> Result<(), DriverError> {
        let slot = &mut self.slots[index as usize];
        self.course.outcome.established += 1;
        if !slot.is_brief() {
            let hello = &mut self.spec.dialogue.hello;
            if hello.connect_each && accept.one_go {
                hello.request_follows = true;
                let len = hello_in_one_go(hello).len();
                hello.request_follows = len > 0 && len <= HEADER_LEN + HELLO_BODY_MAX;
            }
            self.course.outcome.accepts.push(accept);
        }
        if slot.has_operation() {
            self.course.pacer.push(index, Action::Request);
        } else if self.spec.dialogue.hello.connect_each {
            slot.end(io, now, &self.spec)?;
        } else {
            self.settle(index);
        }
        Ok(())
    }

    /// The connect before the start has come to its end, one way or the other.
    pub(super) fn settle(&mut self, index: u32) {
        if self.slots[index as usize].settle() {
            self.connecting -= 1;
        }
        self.check_ready();
    }

    pub(super) fn check_ready(&mut self) {
        if self.course.stand == Stand::Connecting && self.connecting == 0 {
            self.course.stand = Stand::Ready;
        }
    }

    pub(super) fn handle_reply<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        residence: Option<Nanos>,
        now: Instant,
    ) -> Result<(), DriverError> {
        let slot = &mut self.slots[index as usize];
        let Some(operation) = slot.take_operation() else {
            return Ok(());
        };
        self.course.outstanding -= 1;
        self.timed += 1;
        self.course.count_answer(now, &mut self.recording);
        let sample = Sample { residence, ..operation.sample(now) };
        if operation.unloaded {
            let (count, sum) = &mut self.course.outcome.unloaded;
            *count += 1;
            *sum = *sum + sample.service;
        }
        slot.useless_since = operation.rest_begins(now);
        if operation.measured {
            self.recording.record(now, sample);
            self.measured.operations.completed += 1;
            self.course.measured_until = now;
            self.course.tell_counts(&self.measured);
        } else {
            self.warmup.operations.completed += 1;
        }
        if self.spec.dialogue.hello.connect_each {
            return self.slots[index as usize].end(io, now, &self.spec);
        }
        self.make_available(index, now);
        Ok(())
    }

    pub(super) fn handle_failure<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        failure: Failure,
        now: Instant,
    ) -> Result<(), DriverError> {
        let Failure { stage, cause, error } = failure;
        let timed_out = cause == Failure::TIMEOUT;
        if let Some(error) = error {
            self.course.outcome.failure.get_or_insert(*error);
        }
        self.count_failure(index, stage, cause, now);
        let running = self.course.is_running();
        let slot = &mut self.slots[index as usize];
        if timed_out && stage == Stage::Receive && slot.forgive() {
            // A lost datagram: the next one goes out.
            self.make_available(index, now);
            return Ok(());
        }
        slot.useless_since = now;
        slot.give_up(io)?;
        if self.spec.dialogue.hello.connect_each && running {
            slot.rest_until(now + BACKOFF);
            return Ok(());
        }
        self.settle(index);
        if self.course.is_running() && !self.is_alive() {
            self.course.outcome.cut_short = true;
            self.drain(io, now)?;
        }
        Ok(())
    }

    pub(super) fn count_failure(
        &mut self,
        index: u32,
        stage: Stage,
        cause: &'static str,
        now: Instant,
    ) {
        let operation = self.slots[index as usize].take_operation();
        let timed_out = cause == Failure::TIMEOUT;
        let tally = match &operation {
            Some(operation) if operation.measured => &mut self.measured,
            None if self.course.stand != Stand::WarmingUp => &mut self.measured,
            _ => &mut self.warmup,
        };
        tally.errors.count(stage, cause);
        let Some(operation) = operation else { return };
        self.course.outstanding -= 1;
        let counter =
            if timed_out { &mut tally.operations.timed_out } else { &mut tally.operations.failed };
        *counter += 1;
        if operation.measured {
            self.recording.record_error(now);
            if timed_out {
                self.recording.record_censored(now, operation.sample(now));
                if stage == Stage::Connect {
                    self.recording.record_connect_censored(now, operation.since_begun(now));
                }
            }
            self.course.tell_counts(&self.measured);
        }
    }

    /// A connection has ended as it should.
    pub(super) fn handle_over<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        if self.course.stand == Stand::Measuring {
            let since = self.slots[index as usize].useless_since;
            let connecting = &mut self.course.outcome.connecting;
            *connecting = *connecting + now.since(since.max(self.course.warmup_end));
        }
        let more = self.course.is_running() || !self.is_ready();
        if self.spec.dialogue.hello.connect_each && more && self.prepare(io, index, now)? {
            self.make_available(index, now);
        }
        self.settle(index);
        Ok(())
    }
}
