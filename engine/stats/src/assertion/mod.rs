//! What a script demands of the numbers: `p99<2ms`, `size=64:p99<2ms`, `errors==0`, `rate>=0.99`.
//!
//! # Grammar
//!
//! `[SELECTOR[,SELECTOR…]:]METRIC OP VALUE`, blanks allowed anywhere between the parts.
//!
//! * Selectors: `size=64` (bytes; `4K` is 4096), `connections=8` (or `streams=8`), and of a latency
//!   run under load `idle` and `loaded`; of an HTTP load `stage=2` (from 1) and `rate=1000` (as
//!   asked for, per second; of a ramp at its begin). Without one an assertion must hold on every
//!   step.
//! * Operators: `<` `<=` `>` `>=` `==` `!=`.
//! * Latencies: `p50`, `p99.9` (any quantile), `min`, `mean`, `max`, `stdev`, of the response time
//!   in open loop and the service time otherwise; of another one with its name before it:
//!   `service.`, `response.`, `lateness.`, `connect.`, `residence.`, `path.`. The value needs a
//!   unit: `ns`, `us` (or `µs`), `ms`, `s`, `m`.
//! * `errors`: everything that failed, timeouts and failed connects among it. `timeouts`:
//!   operations without an answer in time. `ops`: operations completed. Values are counts.
//! * `loss`: share of the operations sent, less those in flight at the end, that had no answer in
//!   time: `0.001` or `0.1%`.
//! * `rate`: a number alone is the achieved share of the target rate in open loop, since that is
//!   what tells whether the run was what was asked for, and operations per second in closed loop,
//!   where there is no target. `99%` is always the share, `10k/s` or `600/m` always operations over
//!   time. Of a paced bulk run the share is of the bits asked for.
//! * Of HTTP loads: `goodput`: responses as expected per second: `goodput>=1000` or `600/m`.
//!   `status.511`, `status.5xx`: responses of that code or class, a count: `status.5xx==0`.
//!   `errors` has unexpected codes among it.
//! * `bandwidth`: `10Gbit`, `200M`, bits per second of payload received, both directions together;
//!   `bandwidth.up` and `bandwidth.down`: one of them. Under load: the load's.
//! * Of bulk runs: `loss` is the share of the datagrams sent, and `lost` their number;
//!   `retransmits`: segments sent again; `cpu`: CPU time of both ends per GiB received, a time:
//!   `cpu<800ms`.
//!
//! # Truth
//!
//! Where the value has an interval, an assertion holds or fails only if it does for the whole of
//! it; in between the data do not decide. A value that rests on censored samples may be anything
//! above. What was not measured (no such latency in this run, too few samples for the quantile, no
//! step selected) is undecided, too.
//!
//! # Comparisons
//!
//! A run of `tare compare` has several values of everything, so its assertions are of differences:
//! `[SELECTOR[,SELECTOR…]:]ARM.MEASURE.delta OP VALUE` and
//! `[SELECTOR[,SELECTOR…]:]ARM.MEASURE.ratio OP VALUE`.
//!
//! * `ARM`: the name of one of the arms that are compared with the baseline, or `a/a`.
//! * `MEASURE`: `p50`, `p99.9` (any quantile), `bandwidth`, and of HTTP loads `goodput`.
//! * `delta`: what the arm has more than the baseline, or less: of a latency a time with its unit
//!   (`30us`, `-5us`), of the bandwidth a bit rate (`-1Gbit`), of the goodput a rate (`-100` or
//!   `-6k/m`).
//! * `ratio`: what it has over what the baseline has, `0.95` or `95%`.
//!
//! The interval is that of the median over blocks; without one nothing is decided. A latency that
//! was measured under overload is the queue's, whatever it is, and decides nothing about the path:
//! demand the goodput besides.
//!
//! # Two saved results
//!
//! Likewise `ARM.MEASURE.change`, how far the arm's own value has moved, and `ARM.MEASURE.cost`,
//! how far its difference to the baseline has. Plain results have no arms: `MEASURE.change`; and no
//! intervals, so that they decide nothing. `delta` and `ratio` are refused, for they are of one
//! comparison, to its baseline.

use crate::result::AssertionResult;

mod comparison;
mod diff;
mod language;
mod metric;
mod run;
#[cfg(test)]
mod tests;

pub use comparison::evaluate_comparison;
pub use language::Assertion;
pub use run::{Asked, Kind, evaluate};

/// What all assertions together come to.
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
    #[must_use]
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
