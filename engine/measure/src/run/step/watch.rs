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

/// Watches the workers of a step, and what the machine and what is observed do in the measured
/// phase.
pub(super) struct Supervisor<'a> {
    pub(super) plan: &'a StepPlan<'a>,
    pub(super) params: &'a Params,
    pub(super) lives: &'a [CachePadded<Live>],
    /// Stops the workers of this step.
    pub(super) local: &'a Interrupt,
    pub(super) merger: Option<Merger>,
    /// Tells when the measured phase of all workers has ended.
    pub(super) is_over: Receiver<()>,
    /// Since the measured phase began.
    pub(super) probe: Option<DisturbanceProbe>,
    /// Once it has ended.
    pub(super) disturbance: Option<Disturbance>,
    pub(super) watching: Watching,
    /// Entries of a series in bytes that were shown, and the bytes in them.
    pub(super) shown: u64,
    pub(super) shown_bytes: u64,
    /// Why the step was stopped from outside its workers.
    pub(super) stopped: Option<Error>,
}

impl Supervisor<'_> {
    pub(super) fn run<T>(
        &mut self,
        decision: Go,
        threads: &[ScopedJoinHandle<'_, T>],
        observer: &mut dyn Observer,
    ) {
        let started = MonotonicClock.now();
        let warm_at = match decision {
            Go::Start { t0, .. } => t0 + self.plan.warmup,
            Go::Abandon => started,
        };
        let look_at = Instant(warm_at.0.saturating_sub(self.watching.lead().0));
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            let now = MonotonicClock.now();
            let wants_progress = observer.wants_progress();
            let room = self.plan.guard.as_ref().map(ConntrackGuard::look);
            let look =
                if wants_progress || room == Some(Room::Little) { LOOK } else { LOOK_UNWATCHED };
            if self.probe.is_none() && now >= look_at {
                self.watching.begin();
                self.probe = Some(DisturbanceProbe::start(&self.plan.cpus));
            }
            if self.disturbance.is_none() && self.probe.is_some() {
                self.watching.between(now);
            }
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
                merger.show(self.params, observer);
            }
            if self.plan.counts_bytes && observer.wants_intervals() {
                self.show_bytes(now, warm_at, observer);
            }
            let rest = if self.probe.is_none() {
                look_at.since(now).into()
            } else if self.disturbance.is_some() || self.plan.at.interrupt.is_raised() {
                LOOK_AFTER
            } else {
                look
            };
            match self.is_over.recv_timeout(rest.min(look)) {
                Ok(()) => self.measure_ends(),
                // All workers have come to their end, and their threads will in a moment.
                Err(RecvTimeoutError::Disconnected) => std::thread::yield_now(),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // A worker that failed has not said so.
        self.measure_ends();
        if let Some(merger) = &mut self.merger {
            merger.finish(self.params, observer);
        }
    }

    /// The measured phase has ended. Only the first time counts, and not before it began.
    fn measure_ends(&mut self) {
        if self.disturbance.is_none()
            && let Some(probe) = &self.probe
        {
            self.disturbance = Some(probe.finish());
            self.watching.end();
        }
    }

    pub(super) fn into_seen(self) -> (Disturbance, Vec<Observed>) {
        (self.disturbance.unwrap_or_default(), self.watching.into_observed())
    }

    /// Shows the entries of a series in bytes that are over: what this end has moved. What the peer
    /// got stands in the result.
    fn show_bytes(&mut self, now: Instant, warm_at: Instant, observer: &mut dyn Observer) {
        let interval = self.plan.common.interval;
        let until = self.plan.duration.unwrap_or(Nanos::MAX);
        let over = now.since(warm_at).min(until).0 / interval.0.max(1);
        if over <= self.shown || now < warm_at {
            return;
        }
        let moved = self.sum(|live| &live.completed);
        let span = Nanos(interval.0 * (over - self.shown));
        let bytes = moved - self.shown_bytes.min(moved);
        (self.shown, self.shown_bytes) = (over, moved);
        let entry = Interval {
            at_ns: over * interval.0,
            bits_per_s: Some(bytes as f64 * 8.0 / span.as_secs_f64()),
            ..Interval::default()
        };
        observer.interval(self.params, &entry);
    }

    fn progress(&self, now: Instant, warm_at: Instant) -> Progress {
        let latest = self.lives.iter().map(|live| live.phase.load(Ordering::Relaxed)).min();
        let plan = self.plan;
        let began = Instant(warm_at.0.saturating_sub(plan.warmup.0));
        let (phase, since, total) = match latest.unwrap_or(0) {
            0 => (Phase::Connect, now, None),
            1 => (Phase::WarmUp, began, Some(plan.warmup)),
            2 => (Phase::Measure, warm_at, plan.duration),
            _ => (Phase::Drain, warm_at + plan.duration.unwrap_or_default(), None),
        };
        Progress {
            phase,
            elapsed: now.since(since),
            total,
            completed: self.sum(|live| &live.completed),
            errors: self.sum(|live| &live.errors),
        }
    }

    fn sum(&self, of: fn(&Live) -> &AtomicU64) -> u64 {
        self.lives.iter().map(|live| of(live).load(Ordering::Relaxed)).sum()
    }
}

const _: () = assert!(Phase::Connect as u8 == 0 && Phase::WarmUp as u8 == 1);
const _: () = assert!(Phase::Measure as u8 == 2 && Phase::Drain as u8 == 3);
