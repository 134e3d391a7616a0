//! The client's side of ping-pong: phases and the record. Who sends when is the pacer's business, what happens on
//! one connection the `slot`'s.
//!
//! Phases: *connect* (all connections up, hellos answered), *ready* (until every worker is), *warm up*,
//! *measure*, *drain* (what is under way may still finish), *finish* (figures fetched, connections
//! closed). An operation belongs to the phase in which it was sent (closed loop) or due (open loop).

mod ending;
mod events;
mod slot;
mod spec;

use crate::schedule::Schedule;
use crate::worker::course::{Length, RunPhases, Stand};
use crate::worker::gauge::ProgressSink;
use crate::worker::link::slot_of;
pub(crate) use crate::worker::pacer::{Action, Pacer};
use crate::worker::tally::Tally;
use crate::worker::{ClientRole, Role, TurnCounters};
use tare_driver::{Completion, Driver, DriverError, Wait};
use tare_proto::hello::{Accept, WaitMode};
use tare_stats::histogram::{Recording, SameBin};
use tare_units::bounds::NAP;
use tare_units::control::{Interrupt, Phase};
use tare_units::limits::HYBRID_SPIN;
use tare_units::{Instant, Nanos};

pub use crate::worker::outcome::Outcome;
pub use spec::ClientSpec;

use slot::{Event, Slot};

/// After a failure, a slot that connects for each operation tries again this much later: a refusing server
/// is not hammered.
const BACKOFF: Nanos = Nanos::from_millis(10);

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct Client<G> {
    spec: ClientSpec,
    course: RunPhases<G>,
    slots: Vec<Slot>,
    /// Slots that were told to connect before the start, and have not come to an end with it.
    connecting: u32,
    /// Replies among the completions of this turn.
    timed: u64,
    last_sent: Instant,
    last_report_due: bool,
    recording: Recording,
    /// Of the warm-up.
    warmup: Tally,
    /// Of the measured phase, and of what precedes and follows it.
    measured: Tally,
    scanned_at: Instant,
    scan_step: Nanos,
}

impl<G: ProgressSink> Client<G> {
    /// A client that has not opened anything yet.
    #[must_use]
    pub fn new(
        spec: ClientSpec,
        recording: Recording,
        schedule: Option<Schedule>,
        gauge: G,
        interrupt: Interrupt,
    ) -> Self {
        let pacer = Pacer::new(schedule, spec.count, spec.connections as usize, 1);
        let length = Length {
            warmup: spec.warmup,
            duration: spec.duration,
            count: spec.count,
            timeout: spec.dialogue.timeout,
        };
        Self {
            course: RunPhases::new(length, pacer, gauge, interrupt),
            slots: (0..spec.connections).map(|index| Slot::new(index, &spec)).collect(),
            connecting: 0,
            timed: 0,
            last_sent: Instant::default(),
            last_report_due: false,
            recording,
            warmup: Tally::default(),
            measured: Tally::default(),
            scanned_at: Instant::default(),
            scan_step: Nanos((spec.dialogue.timeout.0 / 64).clamp(1_000_000, 50_000_000)),
            spec,
        }
    }

    /// What came of it: the recording, the warm-up's tally, the measured phase's tally, and the rest.
    #[must_use]
    pub fn into_results(self) -> (Recording, Tally, Tally, Outcome, G) {
        let (outcome, gauge) = self.course.into_results();
        (self.recording, self.warmup, self.measured, outcome, gauge)
    }

    /// Opens a slot's socket, so that a connect takes nothing but the connect. Returns whether it could.
    fn prepare<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<bool, DriverError> {
        match self.slots[index as usize].prepare(io, &self.spec) {
            Ok(()) => Ok(true),
            Err(failure) => {
                self.handle_failure(io, index, failure, now)?;
                Ok(false)
            }
        }
    }

    /// The tally that an event outside any operation belongs to.
    fn tally(&mut self) -> &mut Tally {
        if self.course.stand == Stand::WarmingUp { &mut self.warmup } else { &mut self.measured }
    }

    /// The slot can take its next operation.
    fn make_available(&mut self, index: u32, now: Instant) {
        if self.course.is_running() {
            self.course.pacer.make_available(index, 0);
            self.dispatch(now);
        }
    }

    fn dispatch(&mut self, now: Instant) {
        let (slots, connect_each) = (&self.slots, self.spec.dialogue.hello.connect_each);
        self.course.pacer.dispatch(now, |slot| connect_each || !slots[slot as usize].is_dead());
    }

    /// Looks after deadlines of single connections. Every slot is looked at, so this is done seldom: a timeout is
    /// noticed late by at most `scan_step`, a 64th of it where that is 1 to 50 ms.
    fn scan<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.scanned_at = now;
        for index in 0..self.spec.connections {
            let slot = &mut self.slots[index as usize];
            if slot.has_rested(now) && self.course.is_running() {
                self.count_down(index, now);
                if self.prepare(io, index, now)? {
                    self.make_available(index, now);
                }
                continue;
            }
            let news = self.slots[index as usize].handle_timers(io, now, &self.spec)?;
            self.handle_event(io, index, Event::News(news), now)?;
        }
        Ok(())
    }

    /// A slot has been down until now.
    fn count_down(&mut self, index: u32, now: Instant) {
        let since = self.slots[index as usize].useless_since;
        let down = &mut self.course.outcome.down;
        *down = *down + now.since(since.max(self.course.warmup_end));
    }

    /// Moves through the phases of a running worker.
    fn advance<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        self.course.advance(now, &self.recording, counters);
        self.dispatch(now);
        if self.course.is_over(now) {
            self.drain(io, now)?;
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
    ) -> Result<(), DriverError> {
        let connect_each = self.spec.dialogue.hello.connect_each;
        let slot = &mut self.slots[index as usize];
        let due = match action {
            Action::Connect => {
                self.course.outcome.sockets += 1;
                return slot.connect(io, now, &self.spec, false);
            }
            Action::Request => return slot.send(io, now, &self.spec),
            Action::Begin { due } => due,
        };
        let measured = self.course.pacer.is_measured(due.unwrap_or(now));
        if slot.is_dead() {
            // It died in the turn in which it was chosen.
            if let Some(due) = due {
                let tally = if measured { &mut self.measured } else { &mut self.warmup };
                let overdue = SameBin::one(now.since(due));
                tally.count_unsent(measured.then_some(&mut self.recording), &overdue, now);
            }
            return Ok(());
        }
        if due.is_none() && !self.course.pacer.may_begin(now, measured) {
            return Ok(());
        }
        let tally = if measured { &mut self.measured } else { &mut self.warmup };
        tally.operations.due += 1;
        tally.operations.sent += 1;
        let unloaded = self.course.outstanding * 4 < u64::from(self.spec.connections);
        self.course.outstanding += 1;
        self.last_sent = now;
        slot.start_operation(now, due, measured, unloaded);
        if connect_each {
            self.course.outcome.sockets += 1;
            slot.connect(io, now, &self.spec, true)
        } else {
            slot.send(io, now, &self.spec)
        }
    }
}

impl<G: ProgressSink> ClientRole for Client<G> {
    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.course.gauge.phase(Phase::Connect);
        for index in 0..self.spec.connections {
            let is_open = self.prepare(io, index, now)?;
            if is_open && (index == 0 || !self.spec.dialogue.hello.connect_each) {
                self.connecting += 1;
                self.slots[index as usize].expect_accept();
                self.course.pacer.push(index, Action::Connect);
            }
        }
        self.check_ready();
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.course.stand != Stand::Connecting
    }

    fn is_alive(&self) -> bool {
        if self.spec.dialogue.hello.connect_each {
            return self.course.outcome.established > 0;
        }
        self.slots.iter().any(|slot| !slot.is_dead())
    }

    fn accepts(&self) -> &[Accept] {
        &self.course.outcome.accepts
    }

    fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.spec.wait = wait;
        self.course.start(t0, &mut self.recording);
        for (index, slot) in (0..self.spec.connections).zip(&mut self.slots) {
            if !slot.is_dead() {
                self.course.pacer.make_available(index, 0);
            } else if self.spec.dialogue.hello.connect_each {
                slot.rest_until(t0);
            }
        }
    }

    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.finish(io, now)
    }

    fn is_finished_now(&self) -> bool {
        self.course.stand == Stand::Finished
    }
}

impl<D: Driver, G: ProgressSink> Role<D> for Client<G> {
    fn handle_completion(
        &mut self,
        io: &mut D,
        completion: Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (index, purpose) = slot_of(completion.token);
        let slot = &mut self.slots[index as usize];
        let event = slot.handle_completion(io, purpose, &completion, now, &self.spec)?;
        self.handle_event(io, index, event, now)
    }

    fn handle_time(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        if self.course.is_running() {
            self.advance(io, now, counters)?;
        } else if self.course.is_called_off() {
            self.finish(io, now)?;
        }
        if now.since(self.scanned_at) >= self.scan_step {
            self.scan(io, now)?;
        }
        self.course.hurry(now);
        match self.course.stand {
            Stand::Draining { .. } => self.check_drained(io, now)?,
            Stand::Finishing { .. } => {
                // What ending costs is no part of what measuring cost.
                counters.freeze();
                self.check_finished(io, now)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let mut ready = self.course.pacer.take_ready();
        for (index, action) in ready.drain(..) {
            self.carry_out(io, index, action, now)?;
        }
        self.course.pacer.put_back(ready);
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        if self.spec.wait == WaitMode::Spin && self.course.is_running() {
            return Wait::Poll;
        }
        let due = self.course.pacer.wake_at().unwrap_or(Instant::FAR_FUTURE);
        let phase_end = if self.course.is_running() {
            self.course.phase_end()
        } else {
            // Connections are looked at anew with each scan.
            Instant::FAR_FUTURE
        };
        let nap = if self.course.outstanding > 0 || !self.course.is_running() {
            self.scan_step
        } else {
            NAP
        };
        let until = (now + nap).min(due).min(phase_end);
        let draining =
            matches!(self.course.stand, Stand::Draining { .. }) && self.course.outstanding > 0;
        if !self.course.is_running() && !draining {
            return Wait::Until(until);
        }
        match self.spec.wait {
            WaitMode::Spin => Wait::Poll,
            WaitMode::Block => Wait::Until(until),
            WaitMode::Hybrid => {
                let fresh = self.course.outstanding > 0 && now.since(self.last_sent) < HYBRID_SPIN;
                if fresh || due.since(now) <= self.spec.wakeup {
                    Wait::Poll
                } else {
                    Wait::Until(Instant(until.0.saturating_sub(self.spec.wakeup.0).max(now.0)))
                }
            }
        }
    }

    fn has_ready(&self) -> bool {
        self.course.has_ready()
    }

    fn take_timed(&mut self) -> u64 {
        std::mem::take(&mut self.timed)
    }

    fn is_finished(&self) -> bool {
        self.course.stand == Stand::Finished
    }
}
