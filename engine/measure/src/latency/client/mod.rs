//! The client's side of ping-pong: who sends when is the pacer's business, what happens on one
//! connection the `slot`'s.
//!
//! An operation belongs to the phase (`RunPhase`) in which it was sent (closed loop) or due (open
//! loop). In the last one figures are fetched and connections closed.

mod slot;

use std::sync::Arc;

use crate::schedule::Schedule;
use crate::worker::link::slot_of;
use crate::worker::operations::{LoopPlan, OperationLoop};
use crate::worker::outcome::Outcome;
use crate::worker::pacer::Action;
use crate::worker::phases::RunPhase;
use crate::worker::session::{Failure, Opening, SessionEvent, SessionSpec};
use crate::worker::tally::{Record, Stage};
use crate::worker::{ClientRole, ProgressSink, Result, Role, RunPhases, TurnCounters};
use slot::{Event, Slot};
use tare_driver::{Completion, Driver, Wait};
use tare_proto::frame::HEADER_LEN;
use tare_proto::handshake::hello_in_one_go;
use tare_proto::hello::{Accept, HELLO_BODY_MAX, Hello, Transport, WaitMode};
use tare_stats::histogram::{SameBin, Sample};
use tare_units::bounds::NAP;
use tare_units::control::Interrupt;
use tare_units::{Instant, Nanos};

/// After a failure a connection per operation is tried again that much later.
const BACKOFF: Nanos = Nanos::from_millis(10);

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct Client<G> {
    run: OperationLoop<G>,
    slots: Vec<Slot>,
    transport: Transport,
    /// Each operation has a connection of its own.
    connect_each: bool,
    opening: Opening,
    last_report_due: bool,
    scanned_at: Instant,
    scan_step: Nanos,
}

impl<G: ProgressSink> Client<G> {
    /// A client that has not opened anything yet. Each connection talks with whom `session` says;
    /// the session's timeout holds for each operation, too.
    #[must_use]
    pub fn new(
        session: SessionSpec,
        plan: LoopPlan,
        schedule: Option<Schedule>,
        progress: G,
        interrupt: Interrupt,
    ) -> Self {
        let session = Arc::new(session);
        Self {
            slots: (0..plan.slots).map(|index| Slot::new(index, Arc::clone(&session))).collect(),
            run: OperationLoop::new(plan, schedule, progress, interrupt),
            transport: session.transport(),
            connect_each: session.hello.connect_each,
            opening: Opening::Brief,
            last_report_due: false,
            scanned_at: Instant::default(),
            scan_step: Nanos((session.timeout.0 / 64).clamp(1_000_000, 50_000_000)),
        }
    }

    pub(crate) fn into_results(self) -> (Record, Outcome, G) {
        self.run.into_results()
    }

    fn indices(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.slots.len()).expect("made of so many")
    }

    /// Opens a slot's socket, so that a connect takes nothing else. Returns whether it could.
    fn prepare<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result<bool> {
        match self.slots[index as usize].prepare(io) {
            Ok(()) => Ok(true),
            Err(failure) => self.handle_failure(io, index, failure, now).map(|()| false),
        }
    }

    fn make_available(&mut self, index: u32, now: Instant) {
        if self.run.phases.is_running() {
            self.run.pacer.make_available(index, 0);
            self.dispatch(now);
        }
    }

    fn dispatch(&mut self, now: Instant) {
        let (slots, connect_each) = (&self.slots, self.connect_each);
        self.run
            .pacer
            .dispatch(now, |slot| connect_each || !slots[slot as usize].session.is_dead());
    }

    /// Looks after deadlines of single connections. Every slot is looked at, so this is done
    /// seldom: a timeout is noticed late by at most `scan_step`, a 64th of it where that is 1 to 50
    /// ms.
    fn scan<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.scanned_at = now;
        for index in self.indices() {
            let slot = &mut self.slots[index as usize];
            if slot.has_rested(now) && self.run.phases.is_running() {
                self.run.phases.count_down(slot.down_since, now);
                if self.prepare(io, index, now)? {
                    self.make_available(index, now);
                }
                continue;
            }
            let event = slot.handle_timers(io, now)?;
            self.handle_session_event(io, index, event, now)?;
        }
        Ok(())
    }

    /// Carries out what the pacer dealt out; `now` is the instant of the submission.
    fn carry_out<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        action: Action,
        now: Instant,
    ) -> Result {
        let slot = &mut self.slots[index as usize];
        let due = match action {
            Action::Connect => {
                self.run.phases.outcome.sockets += 1;
                return slot.connect(io, now, Opening::Session);
            }
            Action::Request => return slot.send(io, now),
            Action::Begin { due } => due,
        };
        if slot.session.is_dead() {
            // It died in the turn in which it was chosen.
            if let Some(due) = due {
                let measured = self.run.pacer.is_measured(due);
                let overdue = SameBin::one(now.since(due));
                self.run.record.count_unsent(measured, &overdue, now);
            }
            return Ok(());
        }
        let Some(begun) = self.run.begin(due, now) else { return Ok(()) };
        self.run.record.tally(begun.measured).operations.sent += 1;
        self.run.last_sent = now;
        slot.begin(now, due, begun);
        if self.connect_each {
            self.run.phases.outcome.sockets += 1;
            slot.connect(io, now, self.opening)
        } else {
            slot.send(io, now)
        }
    }

    fn handle_session_event<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        event: SessionEvent,
        now: Instant,
    ) -> Result {
        match event {
            SessionEvent::Connected(length) => self.handle_connected(index, length, now),
            SessionEvent::Accepted(accept) => self.handle_accepted(io, index, *accept, now)?,
            SessionEvent::Figures(figures) if !self.slots[index as usize].session.is_brief() => {
                self.run.phases.outcome.figures.push(*figures);
            }
            SessionEvent::Ended { figures, failure } => {
                self.run.phases.outcome.figures.push(*figures);
                self.handle_failure(io, index, failure, now)?;
            }
            SessionEvent::Closed => self.handle_closed(io, index, now)?,
            SessionEvent::Failed(failure) => self.handle_failure(io, index, failure, now)?,
            _ => {}
        }
        Ok(())
    }

    /// A connect belongs to the phase of its operation. Those of connections that stand throughout
    /// are recorded though they precede the measured phase: there is no other sample of them.
    fn handle_connected(&mut self, index: u32, length: Nanos, now: Instant) {
        let slot = &self.slots[index as usize];
        if self.transport == Transport::Tcp && (slot.is_measured() || !self.connect_each) {
            self.run.record.recording.record_connect(now, length);
        }
        if slot.session.is_one_go() {
            self.run.phases.outcome.established += 1;
            self.run.pacer.push(index, Action::Request);
        }
    }

    fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        accept: Accept,
        now: Instant,
    ) -> Result {
        let slot = &mut self.slots[index as usize];
        self.run.phases.outcome.established += 1;
        if !slot.session.is_brief() {
            if self.connect_each && accept.one_go {
                let hello = Hello { request_follows: true, ..slot.session.spec().hello.clone() };
                let len = hello_in_one_go(&hello).len();
                let fits = len > 0 && len <= HEADER_LEN + HELLO_BODY_MAX;
                self.opening = if fits { Opening::OneGo } else { Opening::Brief };
            }
            self.run.phases.outcome.accepts.push(accept);
        }
        if slot.operation.is_some() {
            self.run.pacer.push(index, Action::Request);
        } else if self.connect_each {
            slot.end(io, now)?;
        } else {
            self.run.phases.settle(&mut slot.expected);
        }
        Ok(())
    }

    fn handle_reply<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        residence: Option<Nanos>,
        now: Instant,
    ) -> Result {
        let slot = &mut self.slots[index as usize];
        let Some(operation) = slot.operation.take() else { return Ok(()) };
        let sample = Sample { residence, ..operation.sample(now) };
        slot.down_since = operation.rest_begins(now);
        self.run.complete(now, operation.begun, sample, true);
        if self.connect_each {
            return slot.end(io, now);
        }
        self.make_available(index, now);
        Ok(())
    }

    fn handle_failure<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        failure: Failure,
        now: Instant,
    ) -> Result {
        let Failure { stage, cause, error } = failure;
        let timed_out = cause == Failure::TIMEOUT;
        if let Some(error) = error {
            self.run.phases.outcome.failure.get_or_insert(*error);
        }
        self.count_failure(index, stage, cause, now);
        let running = self.run.phases.is_running();
        let slot = &mut self.slots[index as usize];
        if timed_out && stage == Stage::Receive && slot.forgive() {
            // A lost datagram: the next one goes out.
            self.make_available(index, now);
            return Ok(());
        }
        slot.down_since = now;
        slot.session.give_up(io)?;
        if self.connect_each && running {
            slot.resting_until = Some(now + BACKOFF);
            return Ok(());
        }
        self.run.phases.settle(&mut slot.expected);
        if running && !self.is_alive() {
            self.run.phases.outcome.cut_short = true;
            self.drain(io, now)?;
        }
        Ok(())
    }

    fn count_failure(&mut self, index: u32, stage: Stage, cause: &'static str, now: Instant) {
        let operation = self.slots[index as usize].operation.take();
        let Some(operation) = operation else {
            self.present_errors().count(stage, cause);
            return;
        };
        let measured = operation.begun.measured;
        self.run.record.tally(measured).errors.count(stage, cause);
        let timed_out = cause == Failure::TIMEOUT;
        if measured && timed_out && stage == Stage::Connect {
            let took = now.since(operation.begun_at);
            self.run.record.recording.record_connect_censored(now, took);
        }
        let censored = timed_out.then(|| operation.sample(now));
        self.run.fail(now, measured, timed_out, censored);
    }

    fn present_errors(&mut self) -> &mut crate::worker::tally::Errors {
        let measured = self.run.phases.phase != RunPhase::WarmingUp;
        &mut self.run.record.tally(measured).errors
    }

    fn handle_closed<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result {
        let phases = &mut self.run.phases;
        if phases.phase == RunPhase::Measuring {
            phases.count_connecting(self.slots[index as usize].down_since, now);
        }
        let more = phases.is_running() || phases.phase == RunPhase::Connecting;
        if self.connect_each && more && self.prepare(io, index, now)? {
            self.make_available(index, now);
        }
        self.run.phases.settle(&mut self.slots[index as usize].expected);
        Ok(())
    }

    fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.run.drain(now);
        let end = self.run.phases.warmup_end + self.run.phases.outcome.measured;
        for slot in self.slots.iter().filter(|slot| slot.session.is_dead()) {
            self.run.phases.count_down(slot.down_since, end);
        }
        self.check_drained(io, now)
    }

    fn check_drained<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if !self.run.is_drained(now) {
            return Ok(());
        }
        for slot in &mut self.slots {
            if let Some(operation) = slot.operation.take() {
                self.run.leave(now, operation.begun.measured, operation.sample(now));
                slot.interrupt(io)?;
            }
        }
        self.run.count_unsent();
        self.finish(io, now)
    }

    fn finish<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.run.finish(now);
        // With a connection per operation, one more is opened: for the figures of the worker that
        // served them.
        self.last_report_due = self.connect_each && self.is_alive();
        for slot in &mut self.slots {
            slot.end(io, now)?;
        }
        self.check_finished(io, now)
    }

    fn check_finished<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        let Some(deadline) = self.run.phases.finish_by() else { return Ok(()) };
        if now >= deadline {
            self.last_report_due = false;
            for slot in &mut self.slots {
                slot.session.give_up(io)?;
            }
        }
        if self.last_report_due && self.slots[0].session.is_quiet() {
            self.last_report_due = false;
            if self.prepare(io, 0, now)? {
                self.run.pacer.push(0, Action::Connect);
            }
        }
        let is_quiet =
            !self.last_report_due && self.slots.iter().all(|slot| slot.session.is_quiet());
        if is_quiet || self.run.phases.is_close_overdue(now) {
            self.run.phases.phase = RunPhase::Finished;
        }
        Ok(())
    }
}

impl<G: ProgressSink> ClientRole for Client<G> {
    type Progress = G;

    fn phases(&self) -> &RunPhases<G> {
        &self.run.phases
    }

    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        let connections = self.indices().end;
        let expected = if self.connect_each { connections.min(1) } else { connections };
        self.run.phases.connect(expected);
        for index in self.indices() {
            let is_expected = index < expected;
            self.slots[index as usize].expected = is_expected;
            if self.prepare(io, index, now)? && is_expected {
                self.run.pacer.push(index, Action::Connect);
            }
        }
        Ok(())
    }

    fn is_alive(&self) -> bool {
        if self.connect_each {
            return self.run.phases.outcome.established > 0;
        }
        self.slots.iter().any(|slot| !slot.session.is_dead())
    }

    fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.run.start(t0, wait);
        for (index, slot) in (0..).zip(&mut self.slots) {
            if !slot.session.is_dead() {
                self.run.pacer.make_available(index, 0);
            } else if self.connect_each {
                slot.resting_until = Some(t0);
            }
        }
    }

    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.finish(io, now)
    }
}

impl<D: Driver, G: ProgressSink> Role<D> for Client<G> {
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result {
        let (index, purpose) = slot_of(completion.token);
        match self.slots[index as usize].handle_completion(io, purpose, &completion, now)? {
            Event::Replied { residence } => self.handle_reply(io, index, residence, now),
            Event::Stale => {
                self.present_errors().count(Stage::Receive, "late-reply");
                Ok(())
            }
            Event::Session(event) => self.handle_session_event(io, index, event, now),
        }
    }

    fn handle_time(&mut self, io: &mut D, now: Instant, counters: &mut TurnCounters) -> Result {
        if self.run.phases.is_running() {
            self.run.advance(now, counters);
            self.dispatch(now);
            if self.run.is_over(now) {
                self.drain(io, now)?;
            }
        } else if self.run.phases.is_called_off() {
            self.finish(io, now)?;
        }
        if now.since(self.scanned_at) >= self.scan_step {
            self.scan(io, now)?;
        }
        if self.run.phases.is_ending() {
            self.run.phases.hurry(now, counters);
            self.check_drained(io, now)?;
            self.check_finished(io, now)?;
        }
        Ok(())
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result {
        let mut ready = self.run.pacer.take_ready();
        for (index, action) in ready.drain(..) {
            self.carry_out(io, index, action, now)?;
        }
        self.run.pacer.put_back(ready);
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        let phases = &self.run.phases;
        if phases.is_spinning() {
            return Wait::Poll;
        }
        let is_idle = phases.is_running() && self.run.outstanding == 0;
        let nap = if is_idle { NAP } else { self.scan_step };
        let due = self.run.pacer.wake_at().unwrap_or(Instant::FAR_FUTURE);
        self.run.wait(now, due, now + nap)
    }

    fn has_ready(&self) -> bool {
        self.run.has_ready()
    }

    fn take_timed(&mut self) -> u64 {
        self.run.take_timed()
    }

    fn is_finished(&self) -> bool {
        self.is_finished_now()
    }
}
