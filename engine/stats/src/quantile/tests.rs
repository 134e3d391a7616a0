use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;
use tare_units::limits::BLOCKS;

#[test]
fn ranks_agree_with_scipy() {
    // binom.ppf(0.025, n, q) and binom.ppf(0.975, n, q) + 1 of scipy 1.17.
    for (count, share, low, high) in [
        (20, 0.5, 6, 15),
        (100, 0.5, 40, 61),
        (1_000, 0.99, 983, 997),
        (1_000, 0.5, 469, 532),
        (10_000, 0.999, 9_983, 9_997),
        (6_400, 0.99, 6_320, 6_352),
        (100_000, 0.9999, 99_983, 99_997),
        (37, 0.75, 22, 34),
        (5, 0.5, 0, 6),
        (64, 0.95, 57, 65),
        (1_000_000, 0.99, 989_805, 990_196),
        (2_500_000_000, 0.999, 2_497_496_902, 2_497_503_098),
    ] {
        assert_eq!(binomial_ranks(count, share), Ranks { low, high }, "{count} {share}");
    }
}

#[test]
fn ends_that_the_samples_cannot_give_are_outside_of_them() {
    assert_eq!(binomial_ranks(0, 0.5), Ranks { low: 0, high: 1 });
    assert_eq!(binomial_ranks(3, 1.0), Ranks { low: 0, high: 4 });
    assert_eq!(ranks(100, 0.9, 1e9), Ranks { low: 0, high: 101 });
    assert_eq!(ranks(1_000, 0.5, 1.0), binomial_ranks(1_000, 0.5));
}

#[test]
fn the_design_effect_is_what_blocks_differ_by() {
    // As alike as can be: worth no more than independent samples.
    assert_eq!(design_effect(&[(100, 50); 32]), 1.0);
    // Blocks of 100 that are wholly below or wholly above: 32 samples' worth, the variance of 32
    // coin tosses.
    let mut blocks = [(100, 0); 32];
    blocks[..16].fill((100, 100));
    // The 97.5 % points of Student's distribution with 31 degrees of freedom and of the normal one.
    let widened = 2.039_513_446_396_4_f64 / 1.959_963_984_540_054;
    let expected = 100.0 * 32.0 / 31.0 * widened.powi(2);
    assert!((design_effect(&blocks) - expected).abs() < 1e-9);
    // Too few blocks, or nothing on one side.
    assert_eq!(design_effect(&blocks[13..20]), 1.0);
    assert_eq!(design_effect(&[(100, 100); 32]), 1.0);
    assert_eq!(design_effect(&[]), 1.0);
}

/// A standard normal draw (Box and Muller 1958).
fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    let mut uniform = || ((random.next_u64() >> 11) as f64 + 0.5) * (0.5f64).powi(53);
    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
}

/// How often the interval of a simulated run holds the true quantile, over 400 runs of 32 blocks
/// of 100. `draw` gives a standard normal sample, however it depends on those before it; its
/// exponential is a latency. Also whether the interval for independent samples would have.
fn coverage(
    percent: f64,
    z: f64,
    draw: &mut dyn FnMut(&mut Xoshiro256PlusPlus, usize) -> f64,
) -> (f64, f64) {
    const RUNS: usize = 400;
    const PER_BLOCK: usize = 100;
    let share = percent / 100.0;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2026);
    let (mut clustered, mut independent) = (0, 0);
    for _ in 0..RUNS {
        let samples: Vec<f64> =
            (0..BLOCKS * PER_BLOCK).map(|i| draw(&mut random, i % PER_BLOCK).exp()).collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let quantile = sorted[(share * sorted.len() as f64).ceil() as usize - 1];
        let blocks: Vec<_> = samples
            .chunks(PER_BLOCK)
            .map(|b| (b.len() as u64, b.iter().filter(|x| **x <= quantile).count() as u64))
            .collect();
        let holds = |ranks: Ranks| {
            let at = |rank: u64| sorted[(rank.clamp(1, sorted.len() as u64) - 1) as usize];
            (at(ranks.low)..=at(ranks.high)).contains(&z.exp())
        };
        let count = samples.len() as u64;
        clustered += usize::from(holds(ranks(count, share, design_effect(&blocks))));
        independent += usize::from(holds(binomial_ranks(count, share)));
    }
    (clustered as f64 / RUNS as f64, independent as f64 / RUNS as f64)
}

const Z50: f64 = 0.0;
const Z99: f64 = 2.326_347_874;

#[test]
fn covers_independent_samples() {
    for (percent, z) in [(50.0, Z50), (99.0, Z99)] {
        let (covered, independent) = coverage(percent, z, &mut |random, _| normal(random));
        assert!(covered >= 0.93 && independent >= 0.93, "p{percent}: {covered} {independent}");
    }
}

#[test]
fn covers_autocorrelated_samples_where_independence_would_not() {
    for (percent, z) in [(50.0, Z50), (99.0, Z99)] {
        let mut last = 0.0;
        let (covered, independent) = coverage(percent, z, &mut |random, _| {
            last = 0.8 * last + 0.6 * normal(random);
            last
        });
        assert!(covered >= 0.93, "p{percent}: {covered}");
        assert!(independent < 0.90, "p{percent}: {independent}: the case proves nothing");
    }
}

#[test]
fn covers_blocks_that_drift() {
    // Each block has a level of its own, with a third of the variance of all samples.
    for (percent, z) in [(50.0, Z50), (99.0, Z99)] {
        let mut level = 0.0;
        let (covered, independent) = coverage(percent, z, &mut |random, in_block| {
            if in_block == 0 {
                level = normal(random) * (1.0f64 / 3.0).sqrt();
            }
            level + normal(random) * (2.0f64 / 3.0).sqrt()
        });
        assert!(covered >= 0.93, "p{percent}: {covered}");
        assert!(independent < 0.90, "p{percent}: {independent}: the case proves nothing");
    }
}
