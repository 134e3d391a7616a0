//! What paired blocks show: a median with its exact interval, and the sign test.
//!
//! Nothing is assumed of the distribution of the blocks' differences, not even that it is
//! symmetric; blocks must be independent of each other and have the same median difference. That is
//! what the random order of visits within a block and the pairing within it are for: what drifts
//! from block to block falls out of the difference.

use crate::binomial;
use crate::quantile::{Ranks, binomial_ranks};
use crate::result::Estimate;

/// The median: of an even number of values the mean of the two in the middle. Absent of no values,
/// and where one is no number or the median is not finite.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    of_sorted(&sorted(values)?)
}

/// The median of values over blocks, with its 95 % interval between two order statistics.
///
/// The number of blocks below the true median is binomial with one half, so the ranks of the
/// binomial quantiles hold it with at least 95 %, whatever the distribution (Thompson 1936; David &
/// Nagaraja, *Order Statistics*, 3rd ed., §7.1): 96.9 % with 6 blocks (the smallest and the largest
/// value), 96.1 % with 12 (the third of each side), 95.7 % with 30 (the tenth). With fewer than six
/// blocks not even the outermost two do, and there is no interval; nor is there one where an end is
/// not finite.
///
/// Absent of no values, and where one is no number.
#[must_use]
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let sorted = sorted(values)?;
    Some(Estimate { median: of_sorted(&sorted)?, interval: interval(&sorted) })
}

fn sorted(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

fn of_sorted(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let median =
        if sorted.len().is_multiple_of(2) { sorted[middle - 1].midpoint(upper) } else { upper };
    median.is_finite().then_some(median)
}

fn interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let Ranks { low, high } = binomial_ranks(sorted.len() as u64, 0.5);
    let at = |rank: u64| {
        let index = usize::try_from(rank).ok()?.checked_sub(1)?;
        sorted.get(index).copied().filter(|end| end.is_finite())
    };
    Some((at(low)?, at(high)?))
}

/// The p of the two-sided exact sign test: how often so many differences of one sign, or more,
/// would come of no difference at all (Dixon & Mood 1946). Blocks without a difference tell nothing
/// of its sign and are dropped, as there; if all are, p is one. Absent of no differences.
///
/// It belongs to the interval of [`estimate`]: unless differences are zero, p is at most 5 % just
/// where the interval of the median difference leaves zero out.
#[must_use]
pub fn sign_test(differences: &[f64]) -> Option<f64> {
    if differences.is_empty() {
        return None;
    }
    let count = |is: fn(&f64) -> bool| differences.iter().filter(|&d| is(d)).count() as u64;
    let (above, below) = (count(|d| *d > 0.0), count(|d| *d < 0.0));
    let one_side = binomial::at_most(above.min(below), above + below, 0.5);
    Some((2.0 * one_side).min(1.0))
}
