//! What paired blocks show: a median with its exact interval, and the sign test; and unpaired ones:
//! how far they are shifted.
//!
//! Nothing is assumed of the distribution of the blocks' differences, not even that it is
//! symmetric; blocks must be independent of each other and have the same median difference. That is
//! what the random order of visits within a block and the pairing within it are for: what drifts
//! from block to block falls out of the difference.
//!
//! Blocks of different days have nothing in common that could fall out, so what is unpaired sees
//! less than pairs do, and takes for granted that nothing changed between the two but what is asked
//! about.

use crate::binomial;
use crate::number::real;
use crate::quantile::{Ranks, TAIL, binomial_ranks};
use crate::result::Estimate;
use statrs::distribution::{ContinuousCDF, Normal};

/// Above so many pairs (a hundred blocks against a hundred) the distribution is taken to be normal:
/// by then the two agree within 0.3 % where intervals end, and the exact one would take its time.
const EXACT_PAIRS_MAX: usize = 10_000;

/// The median: of an even number of values the mean of the two in the middle. Absent of no values,
/// and where one is no number or the median is not finite.
pub fn median(values: &[f64]) -> Option<f64> {
    of_sorted(&sorted(values)?)
}

/// The median of values over blocks, with its 95 % interval between two order statistics; absent of
/// no values, and where one is no number.
///
/// The number of blocks below the true median is binomial with one half, so the ranks of the
/// binomial quantiles hold it with at least 95 %, whatever the distribution (Thompson 1936; David &
/// Nagaraja, *Order Statistics*, 3rd ed., §7.1): 96.9 % with 6 blocks (the smallest and the largest
/// value), 96.1 % with 12 (the third of each side). With fewer than six blocks not even the
/// outermost two do, and there is no interval; nor is there one where an end is not finite.
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
pub fn sign_test(differences: &[f64]) -> Option<f64> {
    if differences.is_empty() {
        return None;
    }
    let count = |is: fn(&f64) -> bool| differences.iter().filter(|&d| is(d)).count() as u64;
    let (above, below) = (count(|d| *d > 0.0), count(|d| *d < 0.0));
    let one_side = binomial::at_most(above.min(below), above + below, 0.5);
    Some((2.0 * one_side).min(1.0))
}

/// The p values adjusted by Holm's step-down procedure (Holm 1979), in the order given: the chance
/// that any cell without a difference gets at most 5 % is at most 5 %, however the cells depend on
/// each other. A p that is no number counts as 1.
pub(crate) fn holm(p: &[f64]) -> Vec<f64> {
    let valid = |p: f64| if p.is_nan() { 1.0 } else { p };
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| valid(p[a]).total_cmp(&valid(p[b])));
    let mut adjusted = vec![1.0; p.len()];
    let mut least = 0.0f64;
    for (done, index) in order.into_iter().enumerate() {
        let tests_left = real((p.len() - done) as u64);
        least = least.max(valid(p[index]) * tests_left).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shift {
    /// The median of the differences of all pairs, with its 95 % interval; absent where the samples
    /// are too small for one (below 4 against 4, 3 against 5, 2 against 8).
    pub(crate) estimate: Estimate,
    /// Two-sided.
    pub(crate) p: f64,
}

/// How far `new` is shifted against `old`: positive where it is larger. Absent where one of them is
/// empty or holds what is no finite number.
///
/// The estimate is Hodges & Lehmann's (1963): the median of the differences of all pairs. Its
/// interval lies between two of these differences, chosen by the distribution of the Mann–Whitney
/// statistic (Bauer 1972; Hollander & Wolfe, *Nonparametric Statistical Methods*, §4.3), and p is
/// that of the Mann–Whitney test, from the exact distribution of the statistic for up to 10,000
/// pairs, above from the normal one with a correction for continuity. Both assume independent
/// values, and two distributions that differ by a shift alone. A tie counts half for each side, and
/// where that makes a half of the statistic it is rounded towards "no shift".
pub(crate) fn shift(old: &[f64], new: &[f64]) -> Option<Shift> {
    if ![old, new].into_iter().flatten().all(|v| v.is_finite()) {
        return None;
    }
    let mut differences: Vec<f64> =
        new.iter().flat_map(|new| old.iter().map(move |old| new - old)).collect();
    let median = median(&differences)?;
    differences.sort_by(f64::total_cmp);
    let pairs = differences.len();
    let above = differences.iter().filter(|d| **d > 0.0).count();
    let ties = differences.iter().filter(|d| **d == 0.0).count();
    // Twice the statistic of the side that is less often the larger one.
    let less = (2 * above + ties).min(2 * (pairs - above) - ties);
    let at_most = null(old.len(), new.len());
    // The largest number of differences on either side that may be left out.
    let outside = (0..pairs / 2).take_while(|most| at_most(*most) <= TAIL);
    let interval = outside
        .last()
        .map(|most| (differences[most], differences[pairs - 1 - most]))
        .filter(|(low, high)| low.is_finite() && high.is_finite());
    Some(Shift {
        estimate: Estimate { median, interval },
        p: (2.0 * at_most(less.div_ceil(2))).min(1.0),
    })
}

/// `P(U ≤ u)` of the Mann–Whitney statistic of `m` against `n` values where there is no shift.
fn null(m: usize, n: usize) -> Box<dyn Fn(usize) -> f64> {
    if m * n > EXACT_PAIRS_MAX {
        let (m, n) = (real(m as u64), real(n as u64));
        let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
        let normal = Normal::new(m * n / 2.0, deviation)
            .expect("both have values, so that the deviation is positive");
        return Box::new(move |most| normal.cdf(real(most as u64) + 0.5));
    }
    let mut cumulative = exact(m, n);
    for u in 1..cumulative.len() {
        cumulative[u] += cumulative[u - 1];
    }
    Box::new(move |most| cumulative[most])
}

/// `P(U = u)` of `m` against `n` values, by the recursion of Mann & Whitney (1947): the largest of
/// all is one of the m with the chance m/(m + n), and then larger than all n, else it is one of the
/// n and adds nothing.
fn exact(m: usize, n: usize) -> Vec<f64> {
    // Of i against 0 to n values, from i = 0.
    let mut rows = vec![vec![1.0]; n + 1];
    for i in 1..=m {
        rows[0] = vec![1.0];
        for j in 1..=n {
            let own = real(i as u64) / real((i + j) as u64);
            let mut next = vec![0.0; i * j + 1];
            for (u, p) in rows[j].iter().enumerate() {
                next[u + j] += own * p;
            }
            for (u, p) in rows[j - 1].iter().enumerate() {
                next[u] += (1.0 - own) * p;
            }
            rows[j] = next;
        }
    }
    rows.swap_remove(n)
}
