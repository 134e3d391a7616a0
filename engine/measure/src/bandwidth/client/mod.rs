//! The client's side of a bulk test. What happens on one connection is the `slot`'s business.
//!
//! The streams know the warm-up and the measured phase by themselves. While draining, that is over
//! and streams are not; then figures are fetched.

mod slot;

use crate::worker::link::slot_of;
use crate::worker::outcome::Outcome;
use crate::worker::phases::{PhasePlan, RunPhase};
use crate::worker::session::{Failure, Opening, SessionEvent, SessionSpec};
use crate::worker::tally::{Errors, Stage};
use crate::worker::{ClientRole, ProgressSink, Result, Role, RunPhases, TurnCounters};
use slot::Slot;
use tare_driver::{Completion, Driver, Wait};
use tare_proto::hello::{Figures, WaitMode};
use tare_proto::stream::{SocketOptions, StreamAsk, StreamFigures};
use tare_units::bounds::{ENDING_INTERRUPTED, ENDING_MAX, ENDING_WOUND_UP};
use tare_units::control::Interrupt;
use tare_units::{Instant, Nanos};

/// How often every stream is looked at: it may move nothing, owe a signal, or have ended.
const SCAN: Nanos = Nanos::from_millis(10);

/// What one bulk client worker is to do.
#[derive(Debug, Clone)]
pub struct BulkSpec {
    /// With whom each stream's connection talks, and what it says: of how much is asked for in all
    /// streams, each takes its share. No progress for longer than the timeout is a failure.
    pub session: SessionSpec,
    /// Options of this end's sockets.
    pub options: SocketOptions,
    /// Streams of this worker.
    pub streams: u32,
    /// The number of the first of them among those of all workers.
    pub first: u32,
    /// Hybrid waiting stops sleeping that long before a send is due.
    pub wakeup: Nanos,
}

impl BulkSpec {
    /// What is asked for in all streams.
    fn ask(&self) -> StreamAsk {
        self.session.hello.stream.clone().unwrap_or_default()
    }

    /// The share of that stream of the run's, bytes; zero where time ends it. Whole sends are dealt
    /// out, and what is left goes to one stream: no more than one send is shorter than the others.
    pub(crate) fn share_of(&self, stream: u32) -> u64 {
        let StreamAsk { bytes, streams, .. } = self.ask();
        let (streams, stream) = (u64::from(streams.max(1)), u64::from(stream));
        let size = self.session.hello.size_bytes.max(1);
        let (sends, rest) = (bytes / size, bytes % size);
        let own = sends / streams + u64::from(stream < sends % streams);
        let takes_rest = stream == sends % streams;
        own * size + if takes_rest { rest } else { 0 }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct StreamAccount {
    pub(crate) own: StreamFigures,
    pub(crate) theirs: Option<Figures>,
}

#[derive(Debug, Default)]
pub(crate) struct BulkTally {
    pub(crate) streams: Vec<StreamAccount>,
    /// Payload that this worker moved in the time that its CPU time was taken over, both ways,
    /// bytes.
    pub(crate) moved_bytes: u64,
    pub(crate) errors: Errors,
}

impl BulkTally {
    pub(crate) fn merge(&mut self, other: Self) {
        self.streams.extend(other.streams);
        self.moved_bytes += other.moved_bytes;
        self.errors.merge(&other.errors);
    }
}

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct BulkClient<G> {
    options: SocketOptions,
    /// Sends leave on a schedule.
    is_paced: bool,
    phases: RunPhases<G>,
    slots: Vec<Slot>,
    scanned_at: Instant,
    active_at: Instant,
    /// Payload moved in the measured phase of this worker, both ways, bytes.
    moved: u64,
    errors: Errors,
}

impl<G: ProgressSink> BulkClient<G> {
    /// A client that has not opened anything yet.
    #[must_use]
    pub fn new(spec: BulkSpec, progress: G, interrupt: Interrupt) -> Self {
        let ask = spec.ask();
        // With fewer bytes than streams, only the first ones have something to do.
        let has_share = |index: &u32| ask.bytes == 0 || spec.share_of(spec.first + index) > 0;
        let slots = (0..spec.streams).filter(has_share).map(|index| Slot::new(index, &spec));
        let plan = PhasePlan {
            warmup: Nanos(ask.warmup_ns),
            duration: (ask.duration_ns > 0).then_some(Nanos(ask.duration_ns)),
            ending: ENDING_MAX,
            ending_interrupted: ENDING_WOUND_UP,
            ending_urgent: ENDING_INTERRUPTED,
            wakeup: spec.wakeup,
        };
        Self {
            phases: RunPhases::new(plan, progress, interrupt),
            slots: slots.collect(),
            is_paced: ask.rate_bits_per_s > 0 && spec.session.hello.direction.is_up(),
            scanned_at: Instant::default(),
            active_at: Instant::default(),
            moved: 0,
            errors: Errors::default(),
            options: spec.options,
        }
    }

    fn indices(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.slots.len()).expect("made of so many")
    }

    pub(crate) fn into_results(self) -> (BulkTally, Outcome, G) {
        let tally = BulkTally {
            streams: self.slots.into_iter().filter_map(Slot::into_account).collect(),
            moved_bytes: self.moved,
            errors: self.errors,
        };
        (tally, self.phases.outcome, self.phases.progress)
    }

    /// Streams have begun, or will at `t0`, and are not asked to end yet.
    const fn is_running(&self) -> bool {
        self.phases.is_running() || matches!(self.phases.phase, RunPhase::Draining { .. })
    }

    fn has_begun(&self) -> bool {
        self.is_running() && !matches!(self.phases.phase, RunPhase::Starting { .. })
    }

    fn handle_event<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        event: SessionEvent,
        now: Instant,
    ) -> Result {
        let slot = &mut self.slots[index as usize];
        match event {
            SessionEvent::Accepted(accept) => {
                self.phases.outcome.established += 1;
                slot.handle_accepted(io, &accept);
                self.phases.outcome.accepts.push(*accept);
                self.phases.settle(&mut slot.expected);
            }
            SessionEvent::Figures(figures) => self.handle_figures(index, *figures),
            SessionEvent::Ended { figures, failure } => {
                self.handle_figures(index, *figures);
                self.handle_failure(io, index, failure, now)?;
            }
            SessionEvent::Closed => self.phases.settle(&mut slot.expected),
            SessionEvent::Failed(failure) => self.handle_failure(io, index, failure, now)?,
            _ => {}
        }
        Ok(())
    }

    fn handle_figures(&mut self, index: u32, figures: Figures) {
        self.slots[index as usize].account.theirs = Some(figures.clone());
        self.phases.outcome.figures.push(figures);
    }

    fn handle_failure<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        failure: Failure,
        now: Instant,
    ) -> Result {
        self.errors.count(failure.stage, failure.cause);
        if let Some(error) = failure.error {
            self.phases.outcome.failure.get_or_insert(*error);
        }
        let has_started = !matches!(self.phases.phase, RunPhase::Connecting | RunPhase::Ready);
        self.phases.outcome.cut_short |= has_started;
        let slot = &mut self.slots[index as usize];
        slot.give_up(io, now)?;
        self.phases.settle(&mut slot.expected);
        if self.is_running() && !self.is_alive() {
            self.end_all(io, now)?;
        }
        Ok(())
    }

    fn end_all<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if self.phases.is_running() {
            self.phases.drain(now, now, now);
        }
        self.phases.finish(now);
        self.slots.iter_mut().try_for_each(|slot| slot.stop(io, now))
    }

    fn scan<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.scanned_at = now;
        for index in self.indices() {
            let event = self.slots[index as usize].handle_timers(io, now)?;
            self.handle_event(io, index, event, now)?;
        }
        Ok(())
    }

    fn check_ended<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if self.has_begun() && self.slots.iter().all(Slot::is_ending) {
            self.end_all(io, now)?;
        }
        let Some(deadline) = self.phases.finish_by() else { return Ok(()) };
        if now >= deadline {
            for index in self.indices() {
                if self.slots[index as usize].is_unfinished() {
                    let failure = self.slots[index as usize].session.silence(io, Stage::Close);
                    self.handle_failure(io, index, failure, now)?;
                }
            }
        }
        // The closes of what was given up are left to the driver where the kernel takes its time
        // over them.
        if self.phases.is_close_overdue(now)
            || self.slots.iter().all(|slot| slot.session.is_quiet())
        {
            self.phases.phase = RunPhase::Finished;
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        if !self.is_paced {
            return Instant::FAR_FUTURE;
        }
        let due = self.slots.iter().filter_map(Slot::due).min();
        due.unwrap_or(Instant::FAR_FUTURE)
    }
}

impl<G: ProgressSink> ClientRole for BulkClient<G> {
    type Progress = G;

    fn phases(&self) -> &RunPhases<G> {
        &self.phases
    }

    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.phases.connect(self.indices().end);
        for index in self.indices() {
            let slot = &mut self.slots[index as usize];
            slot.expected = true;
            match slot.prepare(io, &self.options) {
                Ok(()) => {
                    self.phases.outcome.sockets += 1;
                    slot.session.connect(io, now, Opening::Session)?;
                }
                Err(failure) => self.handle_failure(io, index, failure, now)?,
            }
        }
        Ok(())
    }

    fn is_alive(&self) -> bool {
        // A worker without a stream has nothing that could fail.
        self.slots.is_empty() || self.slots.iter().any(|slot| !slot.session.is_dead())
    }

    fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.phases.start(t0, wait);
    }

    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.end_all(io, now)
    }
}

impl<D: Driver, G: ProgressSink> Role<D> for BulkClient<G> {
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result {
        let (index, purpose) = slot_of(completion.token);
        self.active_at = now;
        let slot = &mut self.slots[index as usize];
        let before = slot.moved();
        let event = slot.handle_completion(io, purpose, &completion, now)?;
        if self.phases.phase == RunPhase::Measuring {
            self.moved += slot.moved() - before;
        }
        if matches!(event, SessionEvent::Nothing) {
            return Ok(());
        }
        self.handle_event(io, index, event, now)
    }

    fn handle_time(&mut self, io: &mut D, now: Instant, counters: &mut TurnCounters) -> Result {
        if self.is_running() {
            if let RunPhase::Starting { t0 } = self.phases.phase
                && now >= t0
            {
                self.phases.begin(now);
                self.slots.iter_mut().try_for_each(|slot| slot.begin(io, now))?;
            }
            if self.phases.advance(now, counters) {
                self.moved = 0;
            }
            if self.phases.phase == RunPhase::Measuring && now >= self.phases.end {
                self.phases.drain(now, self.phases.end, Instant::FAR_FUTURE);
            }
            if self.phases.interrupt.is_raised() {
                self.phases.outcome.cut_short = true;
                self.end_all(io, now)?;
            }
            self.phases.progress.counts(self.moved, self.errors.total());
        } else if self.phases.is_called_off() {
            self.end_all(io, now)?;
        }
        self.phases.hurry(now, counters);
        if now.since(self.scanned_at) >= SCAN {
            self.scan(io, now)?;
        }
        self.check_ended(io, now)
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result {
        self.slots.iter_mut().try_for_each(|slot| slot.poll_submit(io, now))
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        let due = self.due();
        // Without a schedule, what is awaited follows what came last.
        let awaited_since = (due == Instant::FAR_FUTURE).then_some(self.active_at);
        self.phases.wait(now, due, now + SCAN, awaited_since)
    }

    fn has_ready(&self) -> bool {
        self.is_paced && self.has_begun()
    }

    fn is_finished(&self) -> bool {
        self.is_finished_now()
    }
}
