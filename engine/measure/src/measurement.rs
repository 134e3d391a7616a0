//! What a run measures, whichever of the jobs it is.

use crate::bandwidth::plan::BwPlan;
use crate::http::plan::HttpPlan;
use crate::latency::plan::LatPlan;
use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::plan::Common;
use crate::run::sweep::{self, Job};
use tare_host::observed;
use tare_units::control::Interrupt;
use tare_units::error::Result;

/// The plan of a measurement.
#[derive(Debug, Clone)]
pub enum Measurement {
    /// Round trips.
    Lat(LatPlan),
    /// Bulk transfers.
    Bw(BwPlan),
    /// An HTTP load.
    Http(Box<HttpPlan>),
}

impl Measurement {
    /// Carries it out, step by step.
    ///
    /// # Errors
    /// Only when not even a report can be made: the plan cannot be carried out at all (usage), or
    /// this machine does not allow it. Whatever fails later ends in [`Finished::error`], beside what
    /// was measured.
    pub fn measure(&self, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished> {
        self.job().check()?;
        observed::check(&self.common().observe)?;
        sweep::carry_out(self.job(), None, interrupt, observer)
    }

    pub(crate) fn job(&self) -> &dyn Job {
        match self {
            Self::Lat(plan) => plan,
            Self::Bw(plan) => plan,
            Self::Http(plan) => &**plan,
        }
    }

    /// What all plans have.
    #[must_use]
    pub fn common(&self) -> &Common {
        self.job().common()
    }

    /// What all plans have.
    #[must_use]
    pub const fn common_mut(&mut self) -> &mut Common {
        match self {
            Self::Lat(plan) => &mut plan.common,
            Self::Bw(plan) => &mut plan.common,
            Self::Http(plan) => &mut plan.common,
        }
    }
}
