//! A bandwidth run: the far end found or started, the sweep's steps one after the other, the report.

use super::Finished;
use super::observe::{Interrupt, Observer};
use super::plan::BwPlan;
use crate::error::{Error, Result};

/// See [`bw()`](super::bw()).
pub(super) fn run(
    _plan: &BwPlan,
    _interrupt: &Interrupt,
    _observer: &mut dyn Observer,
) -> Result<Finished> {
    Err(Error::bug("not built yet"))
}
