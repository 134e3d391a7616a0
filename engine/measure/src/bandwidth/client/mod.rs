//! The client's side of a bulk test: its phases. What happens on one connection is the `slot`'s business.
//!
//! Phases: *connect*, *ready* (until every worker is), *run* (warm-up and measured phase: the streams know by
//! themselves), *end* (streams stop as they are through, their figures are fetched, connections closed).

mod slot;
mod spec;

use crate::worker::dialogue::{Failure, News};
use crate::worker::errors::{Errors, Stage};
use crate::worker::link::slot_of;
use crate::worker::outcome::Outcome;
use crate::worker::{ClientRole, Role, TurnCounters};
use tare_driver::{Completion, Driver, DriverError, Wait};
use tare_proto::hello::{Accept, Figures, WaitMode};
use tare_units::bounds::{CLOSING_MAX, ENDING_INTERRUPTED, ENDING_MAX, ENDING_WOUND_UP};
use tare_units::control::{Interrupt, Phase};
use tare_units::limits::HYBRID_SPIN;
use tare_units::{Instant, Nanos};

use crate::worker::gauge::BulkGauge;
pub use spec::{BulkSpec, BulkTally, StreamAccount};

use slot::Slot;

/// How often every stream is looked at: for one that moves nothing, for a signal that is due, for an end.
const SCAN: Nanos = Nanos::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Ready,
    Starting { t0: Instant },
    Running,
    Ending { deadline: Instant },
    Finished,
}

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct BulkClient<G> {
    spec: BulkSpec,
    state: State,
    slots: Vec<Slot>,
    connecting: u32,
    t0: Instant,
    measuring: bool,
    scanned_at: Instant,
    active_at: Instant,
    /// Payload moved in the measured phase of this worker, both ways.
    moved: u64,
    errors: Errors,
    gauge: G,
    interrupt: Interrupt,
    outcome: Outcome,
}

impl<G: BulkGauge> BulkClient<G> {
    /// A client that has not opened anything yet.
    #[must_use]
    pub fn new(mut spec: BulkSpec, gauge: G, interrupt: Interrupt) -> Self {
        spec.streams = spec.streams_with_a_share();
        Self {
            state: State::Connecting,
            slots: (0..spec.streams).map(|index| Slot::new(index, &spec)).collect(),
            connecting: 0,
            t0: Instant::default(),
            measuring: false,
            scanned_at: Instant::default(),
            active_at: Instant::default(),
            moved: 0,
            errors: Errors::default(),
            gauge,
            interrupt,
            outcome: Outcome::default(),
            spec,
        }
    }

    /// What came of it.
    #[must_use]
    pub fn into_results(self) -> (BulkTally, Outcome, G) {
        let tally = BulkTally {
            streams: self.slots.into_iter().filter_map(Slot::into_account).collect(),
            moved_bytes: self.moved,
            errors: self.errors,
        };
        (tally, self.outcome, self.gauge)
    }

    const fn is_running(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Running)
    }

    fn check_ready(&mut self) {
        if self.state == State::Connecting && self.connecting == 0 {
            self.state = State::Ready;
        }
    }

    fn settle(&mut self, index: u32) {
        if self.slots[index as usize].settle() {
            self.connecting -= 1;
        }
        self.check_ready();
    }

    fn handle_news<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        news: News,
        now: Instant,
    ) -> Result<(), DriverError> {
        match news {
            News::Nothing | News::Connected(_) => {}
            News::Accepted(accept) => {
                self.outcome.established += 1;
                self.slots[index as usize].handle_accepted(io, &accept, &self.spec);
                self.outcome.accepts.push(*accept);
                self.settle(index);
            }
            News::Figures(figures) => {
                self.handle_figures(index, *figures);
            }
            News::Ended { figures, failure } => {
                self.handle_figures(index, *figures);
                self.handle_failure(io, index, failure, now)?;
            }
            News::Over => self.settle(index),
            News::Failed(failure) => self.handle_failure(io, index, failure, now)?,
        }
        Ok(())
    }

    fn handle_figures(&mut self, index: u32, figures: Figures) {
        self.slots[index as usize].handle_figures(figures.clone());
        self.outcome.figures.push(figures);
    }

    fn handle_failure<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        failure: Failure,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.errors.count(failure.stage, failure.cause);
        if let Some(error) = failure.error {
            self.outcome.failure.get_or_insert(*error);
        }
        let lost = self.is_running() || matches!(self.state, State::Ending { .. });
        self.outcome.cut_short |= lost;
        self.slots[index as usize].give_up(io, now)?;
        self.settle(index);
        if self.is_running() && !self.is_alive() {
            self.end_all(io, now)?;
        }
        Ok(())
    }

    /// All streams begin.
    fn begin<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.state = State::Running;
        self.t0 = now;
        for slot in &mut self.slots {
            slot.begin(io, now)?;
        }
        Ok(())
    }

    /// Ends what is not ending yet.
    fn end_all<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.close_measure(now);
        self.gauge.phase(Phase::Drain);
        self.state = State::Ending { deadline: now + self.ending_patience() };
        for slot in &mut self.slots {
            slot.stop(io, now)?;
        }
        Ok(())
    }

    fn ending_patience(&self) -> Nanos {
        if self.interrupt.is_urgent() {
            ENDING_INTERRUPTED
        } else if self.interrupt.is_raised() {
            ENDING_WOUND_UP
        } else {
            ENDING_MAX
        }
    }

    fn close_measure(&mut self, now: Instant) {
        let began = self.t0 + self.spec.warmup;
        self.outcome.warmup = now.since(self.t0).min(self.spec.warmup);
        if std::mem::replace(&mut self.measuring, false) {
            self.outcome.measured = now.since(began);
            self.gauge.measure_ends();
        }
    }

    fn advance<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        if let State::Starting { t0 } = self.state
            && now >= t0
        {
            self.begin(io, now)?;
        }
        if self.state != State::Running {
            return Ok(());
        }
        let began = self.t0 + self.spec.warmup;
        let ends = self.spec.duration.map_or(Instant::FAR_FUTURE, |d| began + d);
        if !self.measuring && now >= began && now < ends && self.outcome.measured == Nanos::ZERO {
            self.measuring = true;
            self.moved = 0;
            self.gauge.phase(Phase::Measure);
            self.gauge.measure_begins();
            counters.reset();
        }
        if self.measuring && now >= ends {
            self.close_measure(ends);
        }
        if self.interrupt.is_raised() {
            self.outcome.cut_short = true;
            return self.end_all(io, now);
        }
        Ok(())
    }

    /// Looks at every stream.
    fn scan<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.scanned_at = now;
        for index in 0..self.spec.streams {
            let slot = &mut self.slots[index as usize];
            let news = slot.handle_timers(io, now, &self.spec)?;
            self.handle_news(io, index, news, now)?;
        }
        Ok(())
    }

    fn check_ended<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.state == State::Running && self.slots.iter().all(Slot::is_ending) {
            self.end_all(io, now)?;
        }
        let patience = self.ending_patience();
        let State::Ending { deadline } = &mut self.state else {
            return Ok(());
        };
        if self.interrupt.is_raised() {
            *deadline = (*deadline).min(now + patience);
        }
        let deadline = *deadline;
        if now >= deadline {
            for index in 0..self.spec.streams {
                if self.slots[index as usize].is_unfinished() {
                    let failure = self.slots[index as usize].silence(io, Stage::Close);
                    self.handle_failure(io, index, failure, now)?;
                }
            }
        }
        // The closes of what was given up are left to the driver where the kernel takes its time over them.
        if now >= deadline + CLOSING_MAX || self.slots.iter().all(Slot::is_quiet) {
            self.state = State::Finished;
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        if !self.spec.is_paced() {
            return Instant::FAR_FUTURE;
        }
        let due = self.slots.iter().filter_map(Slot::due).min();
        due.unwrap_or(Instant::FAR_FUTURE)
    }
}

impl<G: BulkGauge> ClientRole for BulkClient<G> {
    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.gauge.phase(Phase::Connect);
        for index in 0..self.spec.streams {
            let slot = &mut self.slots[index as usize];
            match slot.connect(io, now, &self.spec)? {
                Ok(()) => {
                    self.connecting += 1;
                    self.outcome.sockets += 1;
                }
                Err(failure) => self.handle_failure(io, index, failure, now)?,
            }
        }
        self.check_ready();
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.state != State::Connecting
    }

    fn is_alive(&self) -> bool {
        // A worker without a stream has nothing that could fail.
        self.slots.is_empty() || self.slots.iter().any(|slot| !slot.is_dead())
    }

    fn accepts(&self) -> &[Accept] {
        &self.outcome.accepts
    }

    fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.spec.wait = wait;
        self.t0 = t0;
        self.state = State::Starting { t0 };
        self.gauge.phase(Phase::WarmUp);
    }

    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.end_all(io, now)
    }

    fn is_finished_now(&self) -> bool {
        self.state == State::Finished
    }
}

impl<D: Driver, G: BulkGauge> Role<D> for BulkClient<G> {
    fn handle_completion(
        &mut self,
        io: &mut D,
        completion: Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (index, purpose) = slot_of(completion.token);
        self.active_at = now;
        let slot = &mut self.slots[index as usize];
        let (news, moved) = slot.handle_completion(io, purpose, &completion, now)?;
        if self.measuring {
            self.moved += moved;
        }
        if matches!(news, News::Nothing) {
            return Ok(());
        }
        self.handle_news(io, index, news, now)
    }

    fn handle_time(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        if self.is_running() {
            self.advance(io, now, counters)?;
            self.gauge.moved(self.moved, self.errors.total());
        } else if self.interrupt.is_raised()
            && matches!(self.state, State::Connecting | State::Ready)
        {
            self.outcome.cut_short = true;
            self.end_all(io, now)?;
        }
        if matches!(self.state, State::Ending { .. }) {
            // What ending costs is no part of what measuring cost.
            counters.freeze();
        }
        if now.since(self.scanned_at) >= SCAN {
            self.scan(io, now)?;
        }
        self.check_ended(io, now)
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        for slot in &mut self.slots {
            slot.poll_submit(io, now)?;
        }
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        let until = now + SCAN;
        if let State::Starting { t0 } = self.state {
            return Wait::Until(t0.min(until));
        }
        if self.state != State::Running {
            return Wait::Until(until);
        }
        let began = self.t0 + self.spec.warmup;
        let ends = self.spec.duration.map_or(Instant::FAR_FUTURE, |d| began + d);
        let due = self.due();
        match self.spec.wait {
            WaitMode::Spin => return Wait::Poll,
            WaitMode::Hybrid => {
                let near = due != Instant::FAR_FUTURE && due.since(now) < self.spec.wakeup;
                if near || (due == Instant::FAR_FUTURE && now.since(self.active_at) < HYBRID_SPIN) {
                    return Wait::Poll;
                }
            }
            WaitMode::Block => {}
        }
        let next = [began, ends].into_iter().filter(|at| *at > now).min();
        let early = if self.spec.wait == WaitMode::Hybrid { self.spec.wakeup } else { Nanos::ZERO };
        let due = Instant(due.0.saturating_sub(early.0)).max(now);
        Wait::Until(until.min(due).min(next.unwrap_or(Instant::FAR_FUTURE)))
    }

    fn has_ready(&self) -> bool {
        self.spec.is_paced() && self.state == State::Running
    }

    fn take_timed(&mut self) -> u64 {
        0
    }

    fn is_finished(&self) -> bool {
        self.is_finished_now()
    }
}
