//! The loop of a client that sends requests and awaits their replies: begun as the pacer says,
//! recorded as they end.

use crate::schedule::Schedule;
use crate::worker::TurnCounters;
use crate::worker::outcome::Outcome;
use crate::worker::pacer::Pacer;
use crate::worker::phases::{PhasePlan, ProgressSink, RunPhase, RunPhases};
use crate::worker::tally::Record;
use tare_driver::Wait;
use tare_proto::hello::WaitMode;
use tare_stats::histogram::{Extent, Recording, RecordingSpec, Sample};
use tare_units::bounds::{DRAIN_INTERRUPTED, FINISH_INTERRUPTED};
use tare_units::control::Interrupt;
use tare_units::{Instant, Nanos};

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Begun {
    /// It belongs to the measured phase.
    pub(crate) measured: bool,
    /// Fewer than a quarter of the places for operations were taken.
    pub(crate) unloaded: bool,
}

/// How much a worker that sends requests is to do.
#[derive(Debug, Clone, Copy)]
pub struct LoopPlan {
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub duration: Option<Nanos>,
    /// Operations of the measured phase, where it ends by count.
    pub count: Option<u64>,
    /// For each operation, from its actual send.
    pub timeout: Nanos,
    /// Length of an entry of the series.
    pub interval: Nanos,
    /// Hybrid waiting stops sleeping that much before a send is due: from the median of the
    /// wake-ups here.
    pub wakeup: Nanos,
    /// Connections of this worker.
    pub slots: u32,
    /// Operations that each of them takes at once.
    pub depth: u32,
}

#[derive(Debug)]
pub(crate) struct OperationLoop<G> {
    pub(crate) phases: RunPhases<G>,
    pub(crate) pacer: Pacer,
    pub(crate) record: Record,
    plan: LoopPlan,
    /// Operations begun that have come to no end.
    pub(crate) outstanding: u64,
    pub(crate) last_sent: Instant,
    timed: u64,
    /// When the last operation of the measured phase ended.
    pub(crate) measured_until: Instant,
    /// When the measured phase ended, once it has.
    measured_end: Instant,
    /// Entries of the series that were told to be complete.
    entries_told: usize,
}

impl<G: ProgressSink> OperationLoop<G> {
    pub(crate) fn new(
        plan: LoopPlan,
        schedule: Option<Schedule>,
        progress: G,
        interrupt: Interrupt,
    ) -> Self {
        let recording = Recording::new(RecordingSpec {
            extent: match plan.count {
                Some(count) => Extent::Count(count),
                None => Extent::Time(plan.duration.unwrap_or(Nanos::from_secs(1))),
            },
            interval: plan.interval,
            open_loop: schedule.is_some(),
        });
        let ending_interrupted = FINISH_INTERRUPTED.min(plan.timeout);
        let phases = PhasePlan {
            warmup: plan.warmup,
            duration: plan.duration,
            ending: plan.timeout,
            ending_interrupted,
            ending_urgent: ending_interrupted,
            wakeup: plan.wakeup,
        };
        Self {
            phases: RunPhases::new(phases, progress, interrupt),
            pacer: Pacer::new(schedule, plan.count, plan.slots as usize, plan.depth as usize),
            record: Record::new(recording),
            plan,
            outstanding: 0,
            last_sent: Instant::default(),
            timed: 0,
            measured_until: Instant::default(),
            measured_end: Instant::default(),
            entries_told: 0,
        }
    }

    pub(crate) fn into_results(self) -> (Record, Outcome, G) {
        let RunPhases { mut outcome, progress, .. } = self.phases;
        outcome.backlog_max = self.pacer.backlog_max;
        outcome.worker_away = self.pacer.worker_away;
        (self.record, outcome, progress)
    }

    /// The warm-up begins at `t0`, and with it the schedule.
    pub(crate) fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.phases.start(t0, wait);
        // Not when the measured phase is noticed to have begun: what is sent in it may be answered
        // before that.
        self.record.recording.begin(self.phases.warmup_end);
        self.pacer.start(t0, self.phases.warmup_end, self.phases.end);
    }

    /// The pacer's orders can be carried out.
    pub(crate) fn has_ready(&self) -> bool {
        self.pacer.has_ready() && !matches!(self.phases.phase, RunPhase::Starting { .. })
    }

    pub(crate) fn take_timed(&mut self) -> u64 {
        std::mem::take(&mut self.timed)
    }

    /// As [`RunPhases::advance`]. Tells of the entries of the series that are over.
    pub(crate) fn advance(&mut self, now: Instant, counters: &mut TurnCounters) -> bool {
        let begins = self.phases.advance(now, counters);
        if self.phases.phase == RunPhase::Measuring {
            let recording = &self.record.recording;
            let interval = recording.interval().0;
            while self.entries_told + 1 < recording.entries()
                && now >= self.phases.warmup_end + Nanos(interval * (self.entries_told as u64 + 1))
            {
                self.phases.progress.entry_ends(recording, self.entries_told);
                self.entries_told += 1;
            }
        }
        begins
    }

    /// How to wait next; `due`: when the next operation is.
    #[inline]
    pub(crate) fn wait(&self, now: Instant, due: Instant, until: Instant) -> Wait {
        let awaited_since = (self.outstanding > 0).then_some(self.last_sent);
        self.phases.wait(now, due, until, awaited_since)
    }

    /// Begins an operation that was due at `due`, or in closed loop is due now, if one may still
    /// begin.
    #[inline]
    pub(crate) fn begin(&mut self, due: Option<Instant>, now: Instant) -> Option<Begun> {
        let measured = self.pacer.is_measured(due.unwrap_or(now));
        if due.is_none() && !self.pacer.may_begin(now, measured) {
            return None;
        }
        self.record.tally(measured).operations.due += 1;
        let places = u64::from(self.plan.slots) * u64::from(self.plan.depth);
        let unloaded = self.outstanding * 4 < places;
        self.outstanding += 1;
        Some(Begun { measured, unloaded })
    }

    /// An operation was answered at `now`, as expected or not.
    #[inline]
    pub(crate) fn complete(&mut self, now: Instant, begun: Begun, sample: Sample, expected: bool) {
        self.outstanding -= 1;
        self.timed += 1;
        let outcome = &mut self.phases.outcome;
        let record = &mut self.record;
        // Within the measured phase an answer counts towards the goodput, whenever it was due: what
        // was under way at the beginning of the phase stands in for what is under way at its end.
        if expected && now > self.phases.warmup_end && now <= self.pacer.end {
            outcome.answered += 1;
            record.recording.count_answer(now);
        }
        if expected && begun.unloaded {
            outcome.unloaded.0 += 1;
            outcome.unloaded.1 = outcome.unloaded.1 + sample.service;
        }
        let operations = &mut record.tally(begun.measured).operations;
        let counter = if expected { &mut operations.completed } else { &mut operations.failed };
        *counter += 1;
        if begun.measured {
            self.measured_until = now;
            if expected {
                record.recording.record(now, sample);
            } else {
                record.recording.record_error(now);
            }
            self.show_counts();
        }
    }

    /// An operation has failed at `now`. Where it took too long, `censored` tells how long it took
    /// at least.
    pub(crate) fn fail(
        &mut self,
        now: Instant,
        measured: bool,
        timed_out: bool,
        censored: Option<Sample>,
    ) {
        self.outstanding -= 1;
        let operations = &mut self.record.tally(measured).operations;
        let counter = if timed_out { &mut operations.timed_out } else { &mut operations.failed };
        *counter += 1;
        if measured {
            self.record.recording.record_error(now);
            if let Some(sample) = censored {
                self.record.recording.record_censored(now, sample);
            }
            self.show_counts();
        }
    }

    /// An operation is under way when the run is over.
    pub(crate) fn leave(&mut self, now: Instant, measured: bool, sample: Sample) {
        self.outstanding -= 1;
        self.record.tally(measured).operations.in_flight_at_end += 1;
        if measured {
            self.record.recording.record_censored(now, sample);
        }
    }

    fn show_counts(&mut self) {
        let operations = &self.record.measured.operations;
        let failed = operations.failed + operations.timed_out;
        self.phases.progress.counts(operations.completed, failed);
    }

    /// Whether a running client has to end now: it was interrupted or cut short otherwise, its time
    /// is over, or all that was asked for is done.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        let cut_short = self.phases.outcome.cut_short | self.phases.interrupt.is_raised();
        self.phases.outcome.cut_short = cut_short;
        let is_done = cut_short || (self.pacer.is_spent() && self.outstanding == 0);
        // Asked in any case: behind the end the pacer gives out nothing more.
        self.pacer.is_over(now) || is_done
    }

    pub(crate) fn drain(&mut self, now: Instant) {
        let cut_short = self.phases.outcome.cut_short;
        self.measured_end = match self.plan.count {
            _ if cut_short => now,
            // Ten at ten per second take a second, though the last is answered sooner.
            Some(_) => self.measured_until.max(self.pacer.last_ends()),
            None => now.min(self.pacer.end),
        };
        self.pacer.finish();
        let timeout = self.plan.timeout;
        let patience = if cut_short { DRAIN_INTERRUPTED.min(timeout) } else { timeout };
        self.phases.drain(now, self.measured_end, now + patience);
    }

    /// Whether a draining client need not wait any longer.
    pub(crate) fn is_drained(&self, now: Instant) -> bool {
        match self.phases.phase {
            RunPhase::Draining { deadline } => self.outstanding == 0 || now >= deadline,
            _ => false,
        }
    }

    /// Counts what was due before the end and was not sent. It may take a fifth of a second, in
    /// which replies under way would not be seen: so this comes when nothing is awaited any more.
    pub(crate) fn count_unsent(&mut self) {
        let (warmup_end, end) = (self.phases.warmup_end, self.measured_end);
        let left_behind = self.pacer.left_behind.unwrap_or(0);
        let record = &mut self.record;
        record.warmup.operations.due += left_behind;
        record.warmup.operations.unsent_at_end += left_behind;
        let spread = self.pacer.take_unsent(end, |due, overdue| {
            record.count_unsent(due >= warmup_end, overdue, end);
        });
        record.recording.spread_unsent += spread;
    }

    /// As [`RunPhases::finish`]. Replies that came while draining stand in the last entry of the
    /// series, so it is complete only now.
    pub(crate) fn finish(&mut self, now: Instant) {
        let drained = matches!(self.phases.phase, RunPhase::Draining { .. });
        if drained && self.phases.outcome.measured > Nanos::ZERO {
            self.phases.progress.entry_ends(&self.record.recording, self.entries_told);
        }
        self.phases.finish(now);
    }
}
