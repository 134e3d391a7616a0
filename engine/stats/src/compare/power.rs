//! Before a comparison: how many blocks its cells need, and what difference so many blocks would
//! find.
//!
//! The difference that is found with a chance of 80 % is the [`spread`] of three or more visits of
//! one path (of a quantile, or of the bandwidth), times [`detectable_in_spreads`]: a block's
//! difference of two visits of each arm, pooled, scatters as single visits do
//! (`docs/method/comparing.md`). From three visits it is an order of magnitude, not a measurement.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::blocks::{estimate, median};
use crate::binomial;
use crate::number::real;
use statrs::statistics::Statistics as _;

/// The chance of any false alarm over all declared cells: a verdict takes a p, corrected, of no
/// more than this.
pub(crate) const LEVEL: f64 = 1.0 / real(TESTS_PER_ERROR);
/// 5 %: one false alarm in so many comparisons.
const TESTS_PER_ERROR: u64 = 20;
/// Experiments drawn to learn what they would find, and in how many of them it must be found: four
/// of five.
const EXPERIMENTS: usize = 2_000;
const EXPERIMENTS_FOUND: usize = EXPERIMENTS / 5 * 4;
/// Fewer visits than this tell nothing of how visits differ.
const PILOTS_MIN: usize = 3;
/// What makes the median absolute deviation of normal values their standard deviation.
const NORMAL_MAD: f64 = 1.482_602_218_505_602;
/// What it must be multiplied by besides with 3 to 9 values (Croux & Rousseeuw 1992; these from
/// 400,000 draws each).
const FEW_MAD: [f64; 7] = [1.487, 1.360, 1.214, 1.191, 1.138, 1.128, 1.102];

/// The blocks that it takes for a verdict on any of `cells` tested at once: the smallest p that the
/// two-sided sign test can give is 2/2ⁿ, when all n blocks agree, and Holm's procedure multiplies
/// the smallest p by the number of cells. So `n ≥ 1 + log₂(cells / 0.05)`: 6 for one cell, 7 for
/// three, 12 for a hundred.
pub(crate) fn blocks_needed(cells: u64) -> u64 {
    let halvings = u128::from(cells.max(1)) * u128::from(TESTS_PER_ERROR);
    1 + u64::from(halvings.next_power_of_two().trailing_zeros())
}

/// The standard deviation of the values, estimated so that less than half of them cannot spoil it;
/// the ordinary one where more than half are equal, since figures are rounded to their bins. Absent
/// of fewer than three values, or where none differs.
pub fn spread(values: &[f64]) -> Option<f64> {
    if values.len() < PILOTS_MIN {
        return None;
    }
    let middle = median(values)?;
    let deviations: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    let few = FEW_MAD.get(values.len() - PILOTS_MIN).copied();
    let count = real(values.len() as u64);
    let robust = median(&deviations)? * NORMAL_MAD * few.unwrap_or(count / (count - 0.8));
    let spread = if robust > 0.0 { robust } else { values.std_dev() };
    (spread > 0.0 && spread.is_finite()).then_some(spread)
}

/// The difference that is found, in standard deviations of a block's difference: 1.5 with 12 blocks
/// and one cell, 0.9 with 30 blocks and up to three cells. Absent where so few blocks can find
/// nothing.
///
/// It is what `judge` asks of a cell, with Holm's procedure at its strictest (no other cell shows a
/// difference), over experiments whose block values are normal, from a seed of their own, which
/// gives it to 2 %. Without the A/A arm's resolution it would follow from the binomial distribution
/// alone, and be too small by up to a third.
pub fn detectable_in_spreads(blocks: u64, cells: u64) -> Option<f64> {
    let most = usize::try_from(dissenters(blocks, cells)?).ok()?;
    let blocks = usize::try_from(blocks).ok()?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(0);
    let mut found_from: Vec<f64> = (0..EXPERIMENTS)
        .map(|_| smallest_found(&mut random, blocks, most))
        .collect::<Option<_>>()?;
    let (_, found, _) = found_from.select_nth_unstable_by(EXPERIMENTS_FOUND, f64::total_cmp);
    Some(*found)
}

/// Draws an experiment in which arms don't differ, and says by how much the arm would have to: so
/// that no more than `most` blocks dissent, and its median is above the resolution.
fn smallest_found(random: &mut Xoshiro256PlusPlus, blocks: usize, most: usize) -> Option<f64> {
    let (mut arm, mut same) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
    for _ in 0..blocks {
        // Both are held against the same baseline. Two values of variance ½ differ by one of
        // variance 1.
        let [[baseline, a], [b, _]] = [(); 2].map(|()| normals(random).map(|z| z * FRAC_1_SQRT_2));
        arm.push(a - baseline);
        same.push(b - baseline);
    }
    let (low, high) = estimate(&same)?.interval?;
    let resolution = low.abs().max(high.abs());
    let middle = median(&arm)?;
    let (_, dissenter, _) = arm.select_nth_unstable_by(most, f64::total_cmp);
    Some((resolution - middle).max(-*dissenter))
}

/// Two independent standard normal draws (Box & Muller 1958).
pub(crate) fn normals(random: &mut Xoshiro256PlusPlus) -> [f64; 2] {
    let mut uniform = || (real(random.next_u64() >> 11) + 0.5) * 0.5f64.powi(53);
    let radius = (-2.0 * uniform().ln()).sqrt();
    let (sin, cos) = (TAU * uniform()).sin_cos();
    [radius * sin, radius * cos]
}

/// So many blocks may have the other sign, and the rest still shows a difference; absent where not
/// even all that agree do.
pub(super) fn dissenters(blocks: u64, cells: u64) -> Option<u64> {
    let level = LEVEL / real(cells.max(1)) / 2.0;
    let shows = |most: &u64| binomial::at_most(*most, blocks, 0.5) <= level;
    (0..blocks / 2).take_while(shows).last()
}
