//! What a client worker counts beside its recording.

use crate::worker::errors::Errors;
use tare_stats::histogram::{Recording, SameBin};
use tare_stats::result::Operations;
use tare_units::Instant;

/// Operations and errors of one phase.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Where every operation went.
    pub operations: Operations,
    /// What failed.
    pub errors: Errors,
}

impl Tally {
    /// What was due `overdue` before `now` and is not going to be sent any more.
    pub(crate) fn count_unsent(
        &mut self,
        recording: Option<&mut Recording>,
        overdue: &SameBin,
        now: Instant,
    ) {
        self.operations.due += overdue.count;
        self.operations.unsent_at_end += overdue.count;
        if let Some(recording) = recording {
            recording.record_unsent(now, overdue);
        }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.operations.add(&other.operations);
        self.errors.merge(&other.errors);
    }
}
