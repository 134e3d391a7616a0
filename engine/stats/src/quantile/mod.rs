//! How far a quantile can be trusted: intervals for quantiles of samples that are not independent.
//!
//! Of independent samples the number below the true quantile is binomial, so two order statistics
//! bound it whatever the distribution (David & Nagaraja, *Order Statistics*, 3rd ed., §7.1).
//! Latencies come in clusters. So the measured phase is cut into blocks, the *design effect* (Kish
//! 1965) says how much more the blocks differ than independent samples would, and the interval is
//! that of the effective number of samples, with its ranks scaled back: Woodruff's (1952) for
//! clustered samples, with the exact binomial, and corrected for the blocks' degrees of freedom as
//! by Korn & Graubard (1998). It is never narrower than that of independent samples.
//!
//! `docs/method/quantile-intervals.md` has the reasons, the alternatives, the measured coverage,
//! and what such an interval does not speak for: the next run.

use crate::binomial::{each_weight, step};
use crate::number::{real, whole};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};
use statrs::statistics::Statistics as _;
use tare_units::Nanos;

/// Fewer blocks than this tell nothing of how blocks differ.
pub(crate) const BLOCKS_MIN: usize = 8;
/// Fewer blocks than this say nothing of how a mean rate varies.
const RATES_MIN: usize = 4;

/// What is left out of an interval on each side: 95 % remain.
pub(crate) const TAIL: f64 = 0.025;

/// The quantile of Student's distribution with `freedom` degrees of freedom (Student, "The Probable
/// Error of a Mean", Biometrika 6, 1908) that the interval ends at.
fn student(freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).expect("there are two blocks or more").inverse_cdf(1.0 - TAIL)
}

/// The ranks of two order statistics (1 is the smallest sample).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranks {
    /// The lower end; 0 where not even the smallest sample is surely below the quantile.
    pub(crate) low: u64,
    /// The upper end; one more than there are samples where not even the largest is surely above.
    pub(crate) high: u64,
}

/// The ranks between which the quantile `share` (0 to 1) of the distribution that `count`
/// independent samples were drawn from lies, with 95 % confidence and at most 2.5 % missed on
/// either side.
///
/// The terms are summed here. The distribution function of `statrs` gives the same ranks, but it
/// takes 0.1 ms at a million samples, and the ranks 40 values of it: too long for each quantile of
/// each visit. Terms are summed until they no longer matter: a thousand million samples take some
/// 10^5 of them.
pub(crate) fn binomial_ranks(count: u64, share: f64) -> Ranks {
    if count == 0 || share <= 0.0 || share >= 1.0 {
        return Ranks { low: 0, high: count + 1 };
    }
    let (mut first, mut first_weight, mut last, mut total) = (count, 1.0, 0, 0.0);
    each_weight(count, share, 1e-18, |k, weight| {
        total += weight;
        last = last.max(k);
        if k <= first {
            (first, first_weight) = (k, weight);
        }
    });
    // The smallest k at which the cumulative probability reaches a tail's end.
    let (mut low, mut high) = (None, last);
    let (mut cumulative, mut weight) = (0.0, first_weight);
    for k in first..=last {
        cumulative += weight / total;
        if low.is_none() && cumulative >= TAIL {
            low = Some(k);
        }
        if cumulative >= 1.0 - TAIL {
            high = k;
            break;
        }
        weight *= step(k, count, share);
    }
    Ranks { low: low.unwrap_or(first), high: high + 1 }
}

/// The factor by which the samples of a run are worth less than independent ones would be, for one
/// quantile: at least 1. `blocks` holds, for each block, its samples and how many of them are below
/// the quantile.
pub fn design_effect(blocks: &[(u64, u64)]) -> f64 {
    let count: u64 = blocks.iter().map(|(n, _)| n).sum();
    let below: u64 = blocks.iter().map(|(_, s)| s).sum();
    if blocks.len() < BLOCKS_MIN || below == 0 || below >= count {
        return 1.0;
    }
    let (total, blocks_len) = (real(count), real(blocks.len() as u64));
    let share = real(below) / total;
    let squares: f64 = blocks.iter().map(|&(n, s)| (real(s) - share * real(n)).powi(2)).sum();
    let clustered = blocks_len / (blocks_len - 1.0) * squares / (total * total);
    let independent = share * (1.0 - share) / total;
    let widened = student(blocks_len - 1.0) / Normal::standard().inverse_cdf(1.0 - TAIL);
    (clustered / independent * widened.powi(2)).max(1.0)
}

/// The ranks between which the quantile `share` lies, with 95 % confidence, when `count` samples
/// are worth `1 / design_effect` of as many independent ones. Ends outside the samples are as in
/// [`Ranks`].
pub(crate) fn ranks(count: u64, share: f64, design_effect: f64) -> Ranks {
    if design_effect <= 1.0 {
        return binomial_ranks(count, share);
    }
    let effective = whole(real(count) / design_effect).max(1);
    let Ranks { low, high } = binomial_ranks(effective, share);
    let scale = real(count) / real(effective);
    let high = match high > effective {
        true => count + 1,
        false => whole((real(high) * scale).ceil()).min(count),
    };
    Ranks { low: whole((real(low) * scale).floor()), high }
}

/// The 95 % interval of the mean rate, bits per second, over blocks of `width` in each of which so
/// many bytes came: mean ± t · s/√n, with s the sample standard deviation and t the 97.5 % quantile
/// of Student's distribution with n − 1 degrees of freedom. None below four blocks.
///
/// Blocks are taken as independent: they are to be longer than what makes the rate vary, which the
/// 1/64 of a run that they are at least is for round trips and scheduling, and is not for what
/// changes once in a run.
pub fn mean_rate(block_bytes: &[u64], width: Nanos) -> Option<(f64, f64)> {
    if block_bytes.len() < RATES_MIN || width == Nanos::ZERO {
        return None;
    }
    let count = real(block_bytes.len() as u64);
    let rates = || block_bytes.iter().map(|bytes| real(*bytes) * 8.0 / width.as_secs_f64());
    let mean = rates().mean();
    let half = student(count - 1.0) * rates().std_dev() / count.sqrt();
    Some(((mean - half).max(0.0), mean + half))
}

#[cfg(test)]
mod tests;
