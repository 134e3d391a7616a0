//! The launching thread while the workers of a step run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::bounded;
use crossbeam::utils::CachePadded;

use super::StepPlan;
use super::live::{Live, Merger};
use super::worker::Go;
use crate::clock::{Clock, MonotonicClock};
use crate::error::Error;
use crate::result::Params;
use crate::run::observe::{Interrupt, Observer, Phase, Progress};
use crate::sys::usage::{Disturbance, DisturbanceProbe};
use crate::units::Instant;

/// How often the launching thread looks up: it forwards an interrupt, and shows progress.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// With nobody watching it looks up less often: each look costs the measured machine a wake-up.
const LOOK_UNWATCHED: Duration = Duration::from_millis(200);

/// The launching thread while the workers run.
pub(super) struct Watch<'a> {
    pub(super) plan: &'a StepPlan,
    pub(super) params: &'a Params,
    pub(super) merger: Option<Merger>,
    pub(super) lives: &'a [Arc<CachePadded<Live>>],
    /// Stops the workers of this step.
    pub(super) local: &'a Interrupt,
    /// Stops the run.
    pub(super) interrupt: &'a Interrupt,
    /// Why the step was stopped from outside its workers.
    pub(super) stopped: Option<Error>,
}

impl Watch<'_> {
    pub(super) fn run<T>(
        &mut self,
        decision: Go,
        threads: &[std::thread::JoinHandle<T>],
        observer: &mut dyn Observer,
    ) -> Disturbance {
        let wants_progress = observer.wants_progress();
        let look = if wants_progress || self.plan.guard.is_some() {
            LOOK
        } else {
            LOOK_UNWATCHED
        };
        // Nothing is ever sent: a receive with a timeout is a sleep that needs no clock.
        let (_hold, pause) = bounded::<()>(0);
        let mut probe: Option<DisturbanceProbe> = None;
        let started = MonotonicClock.now();
        let warm_at = match decision {
            Go::Start { t0, .. } => t0 + self.plan.spec.warmup,
            Go::Abandon => started,
        };
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            let now = MonotonicClock.now();
            if probe.is_none() && now >= warm_at {
                probe = Some(DisturbanceProbe::start(&self.plan.cpus));
            }
            if self.interrupt.is_raised() {
                self.local.raise();
            }
            if let Some(guard) = &self.plan.guard
                && self.stopped.is_none()
                && let Some(fill) = guard.table_nearly_full()
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
            let rest = if probe.is_none() {
                warm_at.since(now).into()
            } else {
                look
            };
            let _ = pause.recv_timeout(rest.clamp(Duration::from_millis(1), look));
        }
        if let Some(merger) = &mut self.merger {
            merger.tell(self.params, observer);
        }
        probe.map(|probe| probe.finish()).unwrap_or_default()
    }

    fn progress(&self, now: Instant, warm_at: Instant) -> Progress {
        let sum = |of: fn(&Live) -> &AtomicU64| {
            self.lives
                .iter()
                .map(|live| of(live).load(Ordering::Relaxed))
                .sum()
        };
        let latest = self
            .lives
            .iter()
            .map(|live| live.phase.load(Ordering::Relaxed))
            .min();
        let spec = &self.plan.spec;
        let began = Instant(warm_at.0.saturating_sub(spec.warmup.0));
        let (phase, since, total) = match latest.unwrap_or(0) {
            0 => (Phase::Connect, now, None),
            1 => (Phase::WarmUp, began, Some(spec.warmup)),
            2 => (Phase::Measure, warm_at, spec.duration),
            _ => (
                Phase::Drain,
                warm_at + spec.duration.unwrap_or_default(),
                None,
            ),
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
