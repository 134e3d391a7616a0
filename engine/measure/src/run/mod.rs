//! Runs: the validated plan, its launch over workers, and what comes back.

pub(crate) mod backend;
pub(crate) mod instrument;
pub mod observe;
pub(crate) mod peer;
pub mod plan;
pub(crate) mod report;
pub(crate) mod setting;
pub(crate) mod step;
pub(crate) mod sweep;

use tare_stats::result::Report;
use tare_units::error::Error;

/// What a measuring run came to.
#[derive(Debug)]
pub struct Finished {
    /// All that was measured, however the run ended.
    pub report: Report,
    /// What ended it early, if anything did.
    pub error: Option<Error>,
    /// It was interrupted.
    pub interrupted: bool,
}
