//! The launching thread while the workers of a step run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use crossbeam::utils::CachePadded;

use super::StepPlan;
use super::live::{Live, Merger};
use super::worker::Go;
use crate::run::observe::{Observer, Progress};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_host::guard::{ConntrackGuard, Room};
use tare_host::observed::Watching;
use tare_host::usage::{Disturbance, DisturbanceProbe};
use tare_stats::result::{Interval, Observed, Params};
use tare_units::control::{Interrupt, Phase};
use tare_units::error::Error;
use tare_units::{Instant, Nanos};

/// How often the launching thread looks up: it forwards an interrupt, and shows progress.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// With nobody watching it looks up less often: each look costs the measured machine a wake-up.
const LOOK_UNWATCHED: Duration = Duration::from_millis(200);
/// Behind the measured phase nobody minds, and the next step waits for the end of this one.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// What the launching thread reads at both edges of the measured phase, of the machine and of what
/// is observed.
#[derive(Debug)]
pub(super) struct PhaseProbe {
    probe: Option<DisturbanceProbe>,
    disturbance: Option<Disturbance>,
    watching: Watching,
}

impl PhaseProbe {
    pub(super) const fn new(watching: Watching) -> Self {
        Self { probe: None, disturbance: None, watching }
    }

    /// How long before the measured phase the first look is to begin.
    pub(super) fn lead(&self) -> Nanos {
        self.watching.lead()
    }

    pub(super) const fn is_before(&self) -> bool {
        self.probe.is_none()
    }

    /// The last one was.
    pub(super) const fn is_after(&self) -> bool {
        self.disturbance.is_some()
    }

    /// The measured phase is about to begin on these CPUs.
    pub(super) fn begin(&mut self, cpus: &[u32]) {
        self.watching.begin();
        self.probe = Some(DisturbanceProbe::start(cpus));
    }

    pub(super) fn between(&mut self, now: Instant) {
        if self.disturbance.is_none() && self.probe.is_some() {
            self.watching.between(now);
        }
    }

    /// It has ended. Only the first time counts, and not before it began.
    pub(super) fn end(&mut self) {
        if self.disturbance.is_none()
            && let Some(probe) = &self.probe
        {
            self.disturbance = Some(probe.finish());
            self.watching.end();
        }
    }

    /// What was seen between the two.
    pub(super) fn into_seen(self) -> (Disturbance, Vec<Observed>) {
        (self.disturbance.unwrap_or_default(), self.watching.into_observed())
    }
}

pub(super) struct Supervisor<'a> {
    pub(super) plan: &'a StepPlan,
    pub(super) params: &'a Params,
    pub(super) merger: Option<Merger>,
    pub(super) lives: &'a [CachePadded<Live>],
    /// Tells when the measured phase of all workers has ended.
    pub(super) is_over: Receiver<()>,
    /// Stops the workers of this step.
    pub(super) local: &'a Interrupt,
    /// Entries of a series in bytes that were told, and the bytes in them.
    pub(super) told: u64,
    pub(super) told_bytes: u64,
    /// Why the step was stopped from outside its workers.
    pub(super) stopped: Option<Error>,
}

impl Supervisor<'_> {
    pub(super) fn run<T>(
        &mut self,
        decision: Go,
        threads: &[ScopedJoinHandle<'_, T>],
        edges: &mut PhaseProbe,
        observer: &mut dyn Observer,
    ) {
        let started = MonotonicClock.now();
        let warm_at = match decision {
            Go::Start { t0, .. } => t0 + self.plan.warmup,
            Go::Abandon => started,
        };
        let look_at = Instant(warm_at.0.saturating_sub(edges.lead().0));
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            let now = MonotonicClock.now();
            let wants_progress = observer.wants_progress();
            let room = self.plan.guard.as_ref().map(ConntrackGuard::look);
            let look =
                if wants_progress || room == Some(Room::Little) { LOOK } else { LOOK_UNWATCHED };
            if edges.is_before() && now >= look_at {
                edges.begin(&self.plan.cpus);
            }
            edges.between(now);
            if let Some(Room::None(fill)) = room
                && self.stopped.is_none()
            {
                let message = format!(
                    "stopped: the connection-tracking table holds {} of {} entries",
                    fill.used, fill.max
                );
                let remedy = "raise net.netfilter.nf_conntrack_max, or use --rate or --count";
                self.stopped = Some(Error::environment(message).remedy(remedy));
                self.local.raise();
            }
            if wants_progress {
                observer.progress(self.progress(now, warm_at));
            }
            if let Some(merger) = &mut self.merger {
                merger.tell(self.params, observer);
            }
            if self.plan.counts_bytes && observer.wants_intervals() {
                self.tell_bytes(now, warm_at, observer);
            }
            let rest = if edges.is_before() {
                look_at.since(now).into()
            } else if edges.is_after() || self.plan.interrupt.is_raised() {
                LOOK_AFTER
            } else {
                look
            };
            match self.is_over.recv_timeout(rest.min(look)) {
                Ok(()) => edges.end(),
                // All workers have come to their end, and their threads will in a moment.
                Err(RecvTimeoutError::Disconnected) => std::thread::yield_now(),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // By a worker that failed it is not told.
        edges.end();
        if let Some(merger) = &mut self.merger {
            merger.finish(self.params, observer);
        }
    }

    /// Tells of the entries of a series in bytes that are over: what this end has moved. What the
    /// peer got stands in the result.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn tell_bytes(&mut self, now: Instant, warm_at: Instant, observer: &mut dyn Observer) {
        let interval = self.plan.interval;
        let until = self.plan.duration.unwrap_or(Nanos::MAX);
        let over = now.since(warm_at).min(until).0 / interval.0.max(1);
        if over <= self.told || now < warm_at {
            return;
        }
        let moved = self.lives.iter().map(|live| live.completed.load(Ordering::Relaxed));
        let moved: u64 = moved.sum();
        let span = Nanos(interval.0 * (over - self.told));
        let bytes = moved - self.told_bytes.min(moved);
        (self.told, self.told_bytes) = (over, moved);
        let entry = Interval {
            at_ns: over * interval.0,
            completed: 0,
            bits_per_s: Some(bytes as f64 * 8.0 / span.as_secs_f64()),
            ..Interval::default()
        };
        observer.interval(self.params, &entry);
    }

    fn progress(&self, now: Instant, warm_at: Instant) -> Progress {
        let sum = |of: fn(&Live) -> &AtomicU64| {
            self.lives.iter().map(|live| of(live).load(Ordering::Relaxed)).sum()
        };
        let latest = self.lives.iter().map(|live| live.phase.load(Ordering::Relaxed)).min();
        let spec = self.plan;
        let began = Instant(warm_at.0.saturating_sub(spec.warmup.0));
        let (phase, since, total) = match latest.unwrap_or(0) {
            0 => (Phase::Connect, now, None),
            1 => (Phase::WarmUp, began, Some(spec.warmup)),
            2 => (Phase::Measure, warm_at, spec.duration),
            _ => (Phase::Drain, warm_at + spec.duration.unwrap_or_default(), None),
        };
        Progress {
            phase,
            elapsed: now.since(since),
            total,
            completed: sum(|live| &live.completed),
            errors: sum(|live| &live.errors),
        }
    }
}

const _: () = assert!(Phase::Connect as u8 == 0 && Phase::WarmUp as u8 == 1);
const _: () = assert!(Phase::Measure as u8 == 2 && Phase::Drain as u8 == 3);
