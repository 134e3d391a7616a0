//! The plan of a comparison.

use crate::measurement::Measurement;
use crate::run::plan::Stop;
use tare_driver::{Backend, BackendChoice};
use tare_host::hooks::HookSpec;
use tare_proto::hello::WaitMode;
use tare_stats::compare::metric::{self, Metric};
use tare_units::Nanos;
use tare_units::target::Target;

impl Measurement {
    /// The figures that are compared; `quantiles` are those of latencies that are declared, per
    /// cent.
    pub(crate) fn metrics(&self, quantiles: &[f64]) -> Vec<Metric> {
        metric::of(self.job().kind(), quantiles)
    }

    /// The length of an entry of a visit's series, where it is at a rate: a third of its shortest
    /// step. An entry of fewer than 20 samples has no median.
    pub(crate) fn interval(&self) -> Option<Nanos> {
        let duration = self.common().stop.parts().0?;
        let shortest = match self {
            Self::Http(plan) => {
                let stages = plan.open.as_ref()?.stages.iter();
                stages.map(|stage| stage.duration.unwrap_or(duration)).min()
            }
            Self::Lat(plan) => plan.rate_per_s.map(|_| duration),
            Self::Bw(_) => None,
        };
        Some(Nanos(shortest?.0.div_ceil(3).max(1)))
    }

    /// Forces on it what was agreed on, and on the load that goes beside it.
    pub(crate) fn force(&mut self, backend: Backend, wait: WaitMode) {
        if let Self::Lat(plan) = self
            && let Some(load) = plan.load_mut()
        {
            load.plan.common.backend = BackendChoice::Only(backend);
        }
        let common = self.common_mut();
        common.backend = BackendChoice::Only(backend);
        common.wait = Some(wait);
    }

    /// No step of it measures for longer than that.
    pub(crate) fn shorten(&mut self, longest: Nanos) {
        if let Self::Http(plan) = self
            && let Some(open) = &mut plan.open
        {
            for stage in &mut open.stages {
                stage.duration = stage.duration.map(|own| own.min(longest));
            }
        }
        let common = self.common_mut();
        if let Stop::After(duration) = common.stop {
            common.stop = Stop::After(duration.min(longest));
        }
    }

    /// What a visit takes, nanoseconds, where stages have lengths of their own; `step` is what
    /// others take, and `beside` what each takes besides its measured phase.
    pub(crate) fn stages_duration(&self, step: Nanos, beside: Nanos) -> Option<u64> {
        let Self::Http(plan) = self else { return None };
        let stages = plan.open.as_ref()?.stages.iter();
        let once: u64 = stages
            .map(|stage| stage.duration.map_or(step, |own| own + beside).0)
            .fold(0, u64::saturating_add);
        Some(once.saturating_mul(plan.connections.len() as u64))
    }

    pub(crate) fn at(&self, target: &Target) -> Self {
        let mut moved = self.clone();
        match &mut moved {
            Self::Lat(plan) => plan.target.clone_from(target),
            Self::Bw(plan) => plan.target.clone_from(target),
            Self::Http(plan) => plan.target.clone_from(target),
        }
        moved
    }

    /// As little of it as tells whether it can be measured at all, and what the server answers.
    pub(crate) fn negotiation(&self) -> Self {
        const OPERATIONS: u64 = 20;
        const TRANSFER: Nanos = Nanos::from_millis(50);
        let mut least = self.clone();
        least.common_mut().warmup = Nanos::ZERO;
        match &mut least {
            Self::Lat(plan) => {
                plan.common.stop = Stop::Count(OPERATIONS);
                plan.sizes.truncate(1);
                plan.connections.truncate(1);
                plan.rate_per_s = None;
                *plan.load_mut() = None;
            }
            Self::Bw(plan) => {
                plan.common.stop = Stop::After(TRANSFER);
                plan.sizes.truncate(1);
                plan.streams.truncate(1);
                plan.bytes = None;
                plan.rate_bits_per_s = None;
            }
            Self::Http(plan) => {
                plan.common.stop = Stop::Count(OPERATIONS);
                plan.connections = vec![1];
                plan.open = None;
            }
        }
        least
    }
}

/// A path that is compared.
#[derive(Debug, Clone)]
pub struct ArmPlan {
    /// Its name.
    pub name: String,
    /// What is measured over it, and against what.
    pub measurement: Measurement,
    /// Options that it alone has as the result shows them, secrets redacted; `measurement` has them
    /// already.
    pub options: Option<String>,
    /// What is run before and after each visit.
    pub hooks: HookSpec,
    /// The same as the result shows it.
    pub shown: HookSpec,
}

/// A comparison of paths by blocks.
#[derive(Debug, Clone)]
pub struct ComparePlan {
    /// The paths, the baseline first. All measure the same steps.
    pub arms: Vec<ArmPlan>,
    /// Nobody said which paths: where the second one cannot be had for want of privileges, the
    /// first one is compared with itself.
    pub by_default: bool,
    /// How often all arms are visited, twice each time.
    pub blocks: u32,
    /// Length of a step's measured phase within a visit: what the arms' plans say, unless a stage
    /// says otherwise.
    pub block_duration: Nanos,
    /// Rest after each hook.
    pub settle: Nanos,
    /// Quantiles over which a verdict is given, per cent.
    pub quantiles: Vec<f64>,
    /// Seeds the order of the visits.
    pub seed: u64,
}
