//! Bulk bandwidth, by itself or beside a latency measurement.

pub mod client;
pub(crate) mod job;
pub(crate) mod load;
pub mod plan;
pub(crate) mod result;
pub(crate) mod run;

use tare_units::control::Interrupt;
use tare_units::error::Result;

use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::sweep::{self, Part};
use plan::BwPlan;

/// Measures bulk bandwidth, one step per size and number of streams.
///
/// # Errors
/// As [`latency::measure`](crate::latency::measure).
pub fn measure(
    plan: &BwPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    sweep::run(plan, Part::Whole, interrupt, observer)
}
