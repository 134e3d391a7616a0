//! Two comparisons that were not made together: how far the values over blocks of one are shifted
//! against those of the other, without pairs.
//!
//! Blocks of different days have nothing in common that could fall out, so this sees less than
//! pairs do, and takes for granted what interleaving provides: that nothing changed between the two
//! but what is asked about.

use statrs::distribution::{ContinuousCDF, Normal};

use super::blocks::median;
use crate::binomial::real;
use crate::quantile::TAIL;
use crate::result::Estimate;

/// Above so many pairs (a hundred blocks against a hundred) the distribution is taken to be normal:
/// by then the two agree within 0.3 % where intervals end, and the exact one would take its time.
const EXACT_PAIRS_MAX: usize = 10_000;

/// How far one sample is shifted against another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shift {
    /// The median of the differences of all pairs, with its 95 % interval; absent where the samples
    /// are too small for one (below 4 against 4, 3 against 5, 2 against 8).
    pub(crate) estimate: Estimate,
    /// The two-sided p that there is none.
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
    let distribution = Null::new(old.len(), new.len());
    // The largest number of differences on either side that may be left out.
    let outside = (0..pairs / 2).take_while(|most| distribution.at_most(*most) <= TAIL);
    let interval = outside
        .last()
        .map(|most| (differences[most], differences[pairs - 1 - most]))
        .filter(|(low, high)| low.is_finite() && high.is_finite());
    Some(Shift {
        estimate: Estimate { median, interval },
        p: (2.0 * distribution.at_most(less.div_ceil(2))).min(1.0),
    })
}

/// The distribution of the Mann–Whitney statistic where there is no shift.
enum Null {
    /// `P(U ≤ u)` for each u.
    Exact(Vec<f64>),
    Normal(Normal),
}

impl Null {
    fn new(m: usize, n: usize) -> Self {
        if m * n > EXACT_PAIRS_MAX {
            let (m, n) = (real(m as u64), real(n as u64));
            let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
            let normal = Normal::new(m * n / 2.0, deviation);
            return Self::Normal(
                normal.expect("both have values, so that the deviation is positive"),
            );
        }
        let mut sum = 0.0;
        let cumulative = exact(m, n).into_iter().map(|p| {
            sum += p;
            sum
        });
        Self::Exact(cumulative.collect())
    }

    fn at_most(&self, most: usize) -> f64 {
        match self {
            Self::Exact(cumulative) => cumulative[most],
            Self::Normal(normal) => normal.cdf(real(most as u64) + 0.5),
        }
    }
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
