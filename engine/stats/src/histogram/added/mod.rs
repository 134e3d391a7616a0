//! What the instrument itself can have added to a quantile.
//!
//! # Method
//!
//! A reply that is there is noticed late: by the time in which the worker did not look, and where
//! it slept by the time that waking up takes. So each latency reads `y = x + a`, where `x` is the
//! true one and `a ≥ 0` is what the instrument added. The worker records for every reply how long
//! it had not looked before it found it, which bounds that part of `a`; how long wake-ups take is
//! sampled before the run.
//!
//! Let `k` of `n` replies be those with `a > b`. Of the `r` smallest true latencies at least `r −
//! k` were read as no more than the `r`-th true one and `b`. So for the order statistics
//!
//! ```text
//! y(r − k) − b  ≤  x(r)  ≤  y(r)
//! ```
//!
//! whatever the order in which delays meet latencies, for any `b`. This is the bound of Makarov
//! (1981) on the distribution of a sum whose terms depend on one another in an unknown way
//! (Rüschendorf 1982; Frank, Nelsen & Schweizer 1987 show that it cannot be bettered). The error of
//! a quantile is `y(r)` less the largest of these lower ends over a few `b`: the median is not
//! charged with the one wake-up in a hundred that took a millisecond, since that cannot have moved
//! it further than to the latencies beside it, and p99.9 is.
//!
//! Where a sleep comes after the time not looked, `a` is the sum of two delays, and the shares that
//! exceed either are added, by the same argument. The cost of reading the clock, its granularity
//! and the bound on gathering are added in full. Since the samples of wake-ups are few, no more is
//! read off them than their 99th percentile.

use super::{Coarse, Distribution, rank, whole_share};
use tare_units::Nanos;

/// The shares of the replies that are left out when their delay is bounded.
const SHARES: [f64; 10] = [0.0, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4];
/// How much of such a share goes to the time not looked; the rest to wake-ups.
const SPLITS: [f64; 5] = [0.0, 0.1, 0.25, 0.5, 0.75];
/// The least share of the wake-ups that is left out.
const WAKEUPS_LEAST: f64 = 0.01;

/// Bounds on what was added: for each share of the replies how much at most was added to all the
/// others.
#[derive(Debug, Clone)]
pub struct Added {
    bounds: Vec<(f64, Nanos)>,
}

impl Added {
    /// `fixed` is added to every latency, `gaps` are the times not looked before each reply, and
    /// `wakeups`, in ascending order, the times that waking up took, where the worker sleeps.
    pub fn new(fixed: Nanos, gaps: &Coarse, wakeups: Option<&[Nanos]>) -> Self {
        let wakeups = wakeups.filter(|samples| !samples.is_empty());
        let bound = |share: f64| {
            let Some(wakeups) = wakeups else { return Some(gaps.exceeded_by(share)) };
            let splits = SPLITS.iter().map(|split| (share * split, share * (1.0 - split)));
            let possible = splits.filter(|(_, of_wakeups)| *of_wakeups >= WAKEUPS_LEAST);
            let bounds =
                possible.map(|(gap, wakeup)| gaps.exceeded_by(gap) + exceeded_by(wakeups, wakeup));
            bounds.min()
        };
        let bounds = SHARES.iter().filter_map(|&share| Some((share, fixed + bound(share)?)));
        Self { bounds: bounds.collect() }
    }

    /// By how much at most the quantile `percent` is too long, the width of its bin included.
    pub fn to_quantile(&self, distribution: &Distribution, percent: f64) -> Option<Nanos> {
        let count = distribution.count();
        let rank = rank(count, percent)?;
        let value = Nanos(distribution.at_rank(rank));
        let errors = self.bounds.iter().filter_map(|&(share, bound)| {
            let below = rank.checked_sub(left_out(count, share)).filter(|r| *r > 0)?;
            Some(value - Nanos(distribution.at_rank_low(below)) + bound)
        });
        // Nothing is shorter than nothing.
        errors.min().map(|error| error.min(value))
    }
}

/// How many of `count` replies may have been delayed by more where at most `share` of them were:
/// never too few.
fn left_out(count: u64, share: f64) -> u64 {
    whole_share(count, share) + u64::from(share > 0.0)
}

/// The sample that at most `share` of the samples, which ascend, exceed.
fn exceeded_by(ascending: &[Nanos], share: f64) -> Nanos {
    let beyond = whole_share(ascending.len() as u64, share);
    let index = (ascending.len() as u64 - 1).saturating_sub(beyond);
    ascending[usize::try_from(index).unwrap_or(0)]
}

#[cfg(test)]
mod tests;
