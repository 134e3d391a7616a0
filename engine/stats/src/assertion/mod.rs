//! What a script demands of the numbers: `p99<2ms`, `size=64:p99<2ms`, `errors==0`, `rate>=0.99`;
//! of a comparison `kata.p99.delta<30us`, of two saved results `kata.p99.change<5us`.
//! `docs/reference/assertions.md` has the grammar.
//!
//! Where the value has an interval, an assertion holds or fails only if it does for the whole of
//! it; in between the data do not decide. A value that rests on censored samples may be anything
//! above. What was not measured (no such latency in this run, too few samples for the quantile, no
//! step selected) is undecided, too. So is a latency under overload, which is the queue's.

use crate::result::AssertionResult;

mod compared;
mod language;
mod metric;
mod run;
#[cfg(test)]
mod tests;

pub use compared::evaluate_comparison;
pub use language::Assertion;
pub use run::{Asked, Kind, evaluate};

/// What assertions come to together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All hold, or there are none.
    Holds,
    /// At least one fails: exit code 3.
    Failed,
    /// None fails, and the data do not decide at least one: exit code 5.
    Undecided,
}

impl Verdict {
    /// The verdict over results.
    pub fn of(results: &[AssertionResult]) -> Self {
        if results.iter().any(|r| r.holds == Some(false)) {
            Self::Failed
        } else if results.iter().any(|r| r.holds.is_none()) {
            Self::Undecided
        } else {
            Self::Holds
        }
    }
}
