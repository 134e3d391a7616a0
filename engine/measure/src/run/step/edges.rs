//! What the launching thread reads at both edges of the measured phase: of the machine, and of what is observed.

use tare_host::observed::Watching;
use tare_host::usage::{Disturbance, DisturbanceProbe};
use tare_stats::result::Observed;
use tare_units::{Instant, Nanos};

/// The two looks, as far as they were taken.
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

    /// The first look is yet to be taken.
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

    /// It goes on.
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
