//! The phases that every client goes through, and how it waits in them.

use crate::worker::TurnCounters;
use crate::worker::outcome::Outcome;
use tare_driver::Wait;
use tare_proto::hello::WaitMode;
use tare_stats::histogram::Recording;
use tare_units::bounds::{CLOSING_MAX, DRAIN_INTERRUPTED};
use tare_units::control::{Interrupt, Phase};
use tare_units::limits::HYBRID_SPIN;
use tare_units::{Instant, Nanos};

/// Figures that a worker shows while it runs. The real one writes padded atomics.
pub trait ProgressSink {
    /// The phase has changed.
    fn phase(&mut self, phase: Phase);
    /// Operations completed in the measured phase, or bytes moved by streams; and errors.
    fn counts(&mut self, done: u64, errors: u64);
    /// Responses so far in the measured phase, of an HTTP load.
    fn responses(&mut self, _count: u64) {}
    /// The responses of all other workers of the step, as far as they have shown them.
    fn responses_elsewhere(&self) -> u64 {
        0
    }
    /// The measured phase begins: resource usage counts from here.
    fn measure_begins(&mut self);
    /// The measured phase has ended.
    fn measure_ends(&mut self);
    /// Entry `index` of the series is complete.
    fn entry_ends(&mut self, _recording: &Recording, _index: usize) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunPhase {
    Connecting,
    /// It waits for all other workers.
    Ready,
    /// The warm-up begins at `t0`.
    Starting {
        t0: Instant,
    },
    /// What is sent now is in no figure.
    WarmingUp,
    Measuring,
    /// What is under way may still finish.
    Draining {
        deadline: Instant,
    },
    /// Connections are being ended.
    Finishing {
        deadline: Instant,
    },
    Finished,
}

/// How long a run is, and how long its end may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhasePlan {
    pub(crate) warmup: Nanos,
    pub(crate) duration: Option<Nanos>,
    /// How long connections may take to be ended, also after an interrupt, and after an urgent one.
    pub(crate) ending: Nanos,
    pub(crate) ending_interrupted: Nanos,
    pub(crate) ending_urgent: Nanos,
    /// Hybrid waiting stops sleeping that long before a send is due.
    pub(crate) wakeup: Nanos,
}

/// The phases of one client worker, and what it learns of its servers on the way.
#[derive(Debug)]
pub struct RunPhases<G> {
    pub(crate) phase: RunPhase,
    plan: PhasePlan,
    wait: WaitMode,
    pub(crate) interrupt: Interrupt,
    connecting: u32,
    pub(crate) warmup_end: Instant,
    pub(crate) end: Instant,
    pub(crate) progress: G,
    pub(crate) outcome: Outcome,
}

impl<G: ProgressSink> RunPhases<G> {
    pub(crate) fn new(plan: PhasePlan, progress: G, interrupt: Interrupt) -> Self {
        Self {
            phase: RunPhase::Connecting,
            plan,
            wait: WaitMode::Block,
            interrupt,
            connecting: 0,
            warmup_end: Instant::FAR_FUTURE,
            end: Instant::FAR_FUTURE,
            progress,
            outcome: Outcome::default(),
        }
    }

    /// The start waits for so many connections, each of which is to be settled.
    pub(crate) fn connect(&mut self, connections: u32) {
        self.progress.phase(Phase::Connect);
        self.connecting = connections;
        self.check_ready();
    }

    /// A connection stands or has failed; `expected`: the start waits for it.
    pub(crate) fn settle(&mut self, expected: &mut bool) {
        if std::mem::replace(expected, false) {
            self.connecting -= 1;
            self.check_ready();
        }
    }

    fn check_ready(&mut self) {
        if self.phase == RunPhase::Connecting && self.connecting == 0 {
            self.phase = RunPhase::Ready;
        }
    }

    pub(crate) fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.wait = wait;
        self.phase = RunPhase::Starting { t0 };
        self.progress.phase(Phase::WarmUp);
        self.outcome.warmup = self.plan.warmup;
        self.begin(t0);
    }

    /// The warm-up and the measured phase count from `at` on.
    pub(crate) fn begin(&mut self, at: Instant) {
        self.warmup_end = at + self.plan.warmup;
        self.end = self.plan.duration.map_or(Instant::FAR_FUTURE, |d| self.warmup_end + d);
    }

    pub(crate) const fn is_running(&self) -> bool {
        matches!(self.phase, RunPhase::Starting { .. } | RunPhase::WarmingUp | RunPhase::Measuring)
    }

    pub(crate) const fn is_ending(&self) -> bool {
        use RunPhase::{Draining, Finished, Finishing};
        matches!(self.phase, Draining { .. } | Finishing { .. } | Finished)
    }

    /// Goes on to the warm-up and the measured phase in time; returns whether the latter begins.
    pub(crate) fn advance(&mut self, now: Instant, counters: &mut TurnCounters) -> bool {
        if let RunPhase::Starting { t0 } = self.phase
            && now >= t0
        {
            self.phase = RunPhase::WarmingUp;
        }
        let begins = self.phase == RunPhase::WarmingUp && now >= self.warmup_end;
        if begins {
            self.phase = RunPhase::Measuring;
            self.progress.phase(Phase::Measure);
            self.progress.measure_begins();
            counters.reset();
        }
        begins
    }

    /// A connection that had failed did not stand in that time.
    pub(crate) fn count_down(&mut self, from: Instant, until: Instant) {
        self.outcome.down = self.outcome.down + until.since(from.max(self.warmup_end));
    }

    /// A connection has been opened again since then, in time that is in no latency.
    pub(crate) fn count_connecting(&mut self, since: Instant, now: Instant) {
        self.outcome.connecting = self.outcome.connecting + now.since(since.max(self.warmup_end));
    }

    /// Whether a client that has not begun was interrupted, which cuts it short.
    pub(crate) fn is_called_off(&mut self) -> bool {
        let waits = matches!(self.phase, RunPhase::Connecting | RunPhase::Ready);
        let called_off = waits && self.interrupt.is_raised();
        self.outcome.cut_short |= called_off;
        called_off
    }

    /// The present phase has ended at `end`; what is under way may still finish until `deadline`.
    pub(crate) fn drain(&mut self, now: Instant, end: Instant, deadline: Instant) {
        if self.phase == RunPhase::Measuring {
            self.progress.measure_ends();
        } else {
            let began = Instant(self.warmup_end.0 - self.plan.warmup.0);
            self.outcome.warmup = now.since(began).min(self.plan.warmup);
        }
        self.progress.phase(Phase::Drain);
        self.outcome.measured = end.since(self.warmup_end);
        self.phase = RunPhase::Draining { deadline };
    }

    pub(crate) fn finish(&mut self, now: Instant) {
        self.phase = RunPhase::Finishing { deadline: now + self.ending_patience() };
    }

    fn ending_patience(&self) -> Nanos {
        if self.interrupt.is_urgent() {
            self.plan.ending_urgent
        } else if self.interrupt.is_raised() {
            self.plan.ending_interrupted
        } else {
            self.plan.ending
        }
    }

    /// An interrupt that comes while the run ends by itself leaves it less time for that. What ending
    /// costs is no part of what measuring cost.
    pub(crate) fn hurry(&mut self, now: Instant, counters: &mut TurnCounters) {
        if !self.is_ending() {
            return;
        }
        let ending = self.ending_patience();
        if self.finish_by().is_some() {
            counters.freeze();
        }
        let (deadline, patience) = match &mut self.phase {
            RunPhase::Draining { deadline } => (deadline, DRAIN_INTERRUPTED),
            RunPhase::Finishing { deadline } => (deadline, ending),
            _ => return,
        };
        if self.interrupt.is_raised() {
            *deadline = (*deadline).min(now + patience);
        }
    }

    pub(crate) const fn finish_by(&self) -> Option<Instant> {
        match self.phase {
            RunPhase::Finishing { deadline } => Some(deadline),
            _ => None,
        }
    }

    /// Whether even the closes of what was given up have taken too long for them to be awaited.
    pub(crate) fn is_close_overdue(&self, now: Instant) -> bool {
        self.finish_by().is_some_and(|at| now >= at + CLOSING_MAX)
    }

    pub(crate) const fn phase_end(&self) -> Instant {
        match self.phase {
            RunPhase::Starting { t0 } => t0,
            RunPhase::WarmingUp => self.warmup_end,
            RunPhase::Measuring => self.end,
            RunPhase::Draining { deadline } | RunPhase::Finishing { deadline } => deadline,
            _ => Instant::FAR_FUTURE,
        }
    }

    pub(crate) fn is_spinning(&self) -> bool {
        self.wait == WaitMode::Spin && self.is_running()
    }

    /// How to wait next. The next send is due at `due`, anything else is to be seen to at `until`,
    /// and what is awaited, if anything is, was sent at `awaited_since`.
    #[inline]
    pub(crate) fn wait(
        &self,
        now: Instant,
        due: Instant,
        until: Instant,
        awaited_since: Option<Instant>,
    ) -> Wait {
        let is_draining = matches!(self.phase, RunPhase::Draining { .. });
        let mut until = until.min(due);
        if self.is_running() {
            until = until.min(self.phase_end());
        } else if !is_draining || awaited_since.is_none() {
            return Wait::Until(until);
        }
        let is_fresh = awaited_since.is_some_and(|since| now.since(since) < HYBRID_SPIN);
        match self.wait {
            WaitMode::Spin => Wait::Poll,
            WaitMode::Block => Wait::Until(until),
            WaitMode::Hybrid if is_fresh || due.since(now) <= self.plan.wakeup => Wait::Poll,
            WaitMode::Hybrid => {
                Wait::Until(Instant(until.0.saturating_sub(self.plan.wakeup.0)).max(now))
            }
        }
    }

    pub(crate) fn blocks(&self) -> bool {
        self.wait == WaitMode::Block
    }
}
