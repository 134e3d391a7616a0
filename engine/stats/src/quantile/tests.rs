use proptest::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use super::*;
use crate::compare::power::normals;
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
    // Ends that the samples cannot give are outside of them.
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

/// How often the interval of a simulated run holds the true quantile, over 400 runs of 32 blocks
/// of 100, and how often that for independent samples would. `draw` makes a standard normal sample
/// of two such draws, however it depends on those before it; its exponential is a latency.
fn coverage(percent: f64, draw: &mut dyn FnMut([f64; 2], usize) -> f64) -> (f64, f64) {
    const RUNS: usize = 400;
    const PER_BLOCK: usize = 100;
    let share = percent / 100.0;
    let truth = Normal::standard().inverse_cdf(share).exp();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2026);
    let (mut clustered, mut independent) = (0, 0);
    for _ in 0..RUNS {
        let samples: Vec<f64> = (0..BLOCKS * PER_BLOCK)
            .map(|i| draw(normals(&mut random), i % PER_BLOCK).exp())
            .collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let quantile = sorted[(share * sorted.len() as f64).ceil() as usize - 1];
        let blocks: Vec<_> = samples
            .chunks(PER_BLOCK)
            .map(|b| (b.len() as u64, b.iter().filter(|x| **x <= quantile).count() as u64))
            .collect();
        let holds = |ranks: Ranks| {
            let at = |rank: u64| sorted[(rank.clamp(1, sorted.len() as u64) - 1) as usize];
            (at(ranks.low)..=at(ranks.high)).contains(&truth)
        };
        let count = samples.len() as u64;
        clustered += usize::from(holds(ranks(count, share, design_effect(&blocks))));
        independent += usize::from(holds(binomial_ranks(count, share)));
    }
    (clustered as f64 / RUNS as f64, independent as f64 / RUNS as f64)
}

#[test]
fn intervals_cover_what_they_should_and_those_for_independent_samples_would_not() {
    for percent in [50.0, 99.0] {
        let (covered, naive) = coverage(percent, &mut |[_, normal], _| normal);
        assert!(covered >= 0.93 && naive >= 0.93, "p{percent}: {covered} {naive}");
        let mut last = 0.0;
        let autocorrelated = coverage(percent, &mut |[_, normal], _| {
            last = 0.8 * last + 0.6 * normal;
            last
        });
        // Each block has a level of its own, with a third of the variance of all samples.
        let mut level = 0.0;
        let drifting = coverage(percent, &mut |[own, normal], in_block| {
            if in_block == 0 {
                level = own;
            }
            level * (1.0f64 / 3.0).sqrt() + normal * (2.0f64 / 3.0).sqrt()
        });
        for (covered, naive) in [autocorrelated, drifting] {
            assert!(covered >= 0.93, "p{percent}: {covered}");
            assert!(naive < 0.90, "p{percent}: {naive}: the case proves nothing");
        }
    }
}

#[test]
fn students_quantiles_are_those_of_scipy() {
    // scipy.stats.t.ppf(0.975, freedom), SciPy 1.17.
    for (freedom, known) in [
        (3.0, 3.182_446),
        (4.0, 2.776_445),
        (5.0, 2.570_582),
        (7.0, 2.364_624),
        (10.0, 2.228_139),
        (15.0, 2.131_45),
        (20.0, 2.085_963),
        (31.0, 2.039_513),
        (40.0, 2.021_075),
        (50.0, 2.008_559),
        (63.0, 1.998_341),
    ] {
        let off = (student(freedom) / known - 1.0).abs();
        assert!(off < 3e-7, "{freedom}: {} off by {off:e}", student(freedom));
    }
}

#[test]
fn the_interval_of_a_mean_rate_is_that_of_the_textbook() {
    // 64 ms blocks; mean 117.5 MB, t of seven degrees of freedom: by SciPy 14.5626 to 14.8124
    // Gbit/s.
    let blocks = [117, 118, 116, 119, 118, 117, 116, 119].map(|n| n * 1_000_000);
    let (low, high) = mean_rate(&blocks, Nanos::from_millis(64)).unwrap();
    assert!((low / 14_562_595_484.6 - 1.0).abs() < 1e-5, "{low}");
    assert!((high / 14_812_404_515.4 - 1.0).abs() < 1e-5, "{high}");
    let width = Nanos::from_millis(1);
    assert_eq!(mean_rate(&[], width), None);
    assert_eq!(mean_rate(&[1, 2, 3], width), None);
    assert_eq!(mean_rate(&[1, 2, 3, 4], Nanos::ZERO), None);
    assert_eq!(mean_rate(&[125; 4], width), Some((1e6, 1e6)));
    // A rate is not below nothing.
    assert_eq!(mean_rate(&[0, 0, 0, 100], width).unwrap().0, 0.0);
}

proptest! {
    #[test]
    fn the_mean_lies_within(blocks in prop::collection::vec(0u64..1 << 40, 4..64)) {
        let (low, high) = mean_rate(&blocks, Nanos::from_millis(100)).unwrap();
        let mean = blocks.iter().sum::<u64>() as f64 / blocks.len() as f64 * 80.0;
        prop_assert!(low <= mean * (1.0 + 1e-12) && mean <= high * (1.0 + 1e-12));
    }
}
