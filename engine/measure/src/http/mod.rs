//! Load on HTTP servers.

pub mod client;
pub(crate) mod job;
pub mod plan;
pub(crate) mod result;
pub(crate) mod run;
pub mod secret;

use tare_units::control::Interrupt;
use tare_units::error::Result;

use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::sweep::{self, Part};
use plan::HttpPlan;

/// Measures an HTTP load, one step per stage and number of connections.
///
/// # Errors
/// As [`latency::measure`](crate::latency::measure).
pub fn measure(
    plan: &HttpPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    sweep::run(&run::HttpRun::new(plan)?, Part::Whole, interrupt, observer)
}
