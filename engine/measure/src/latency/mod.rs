//! Round-trip latency.

pub mod client;
pub(crate) mod job;
pub mod plan;
pub(crate) mod result;
mod run;

use tare_units::control::Interrupt;
use tare_units::error::Result;

use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::sweep::{self, Part};
use plan::LatPlan;

/// Measures ping-pong latency, one step per size and number of connections.
///
/// # Errors
/// Only when not even a report can be made: the plan cannot be carried out at all (usage), or this machine
/// does not allow it. Whatever fails later ends in [`Finished::error`], beside what was measured.
pub fn measure(
    plan: &LatPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    sweep::run(plan, Part::Whole, interrupt, observer)
}
