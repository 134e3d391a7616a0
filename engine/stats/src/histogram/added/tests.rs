use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;

const SAMPLES: usize = 100_000;
const PERCENTILES: [f64; 6] = [25.0, 50.0, 90.0, 99.0, 99.9, 99.99];

fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) * (0.5f64).powi(53)
}

/// True latencies around 97 µs, a tenth of them in a tail that reaches some milliseconds.
fn latencies(random: &mut Xoshiro256PlusPlus) -> Vec<u64> {
    (0..SAMPLES)
        .map(|_| {
            let tail = if uniform(random) < 0.1 { 40.0 } else { 2.0 };
            97_000 - (3_000.0 * tail * uniform(random).ln()) as u64
        })
        .collect()
}

/// Delays of some hundred nanoseconds, in one of fifty up to a millisecond.
fn delays(random: &mut Xoshiro256PlusPlus) -> Vec<u64> {
    (0..SAMPLES)
        .map(|_| {
            let most = if uniform(random) < 0.02 { 1_000_000.0 } else { 500.0 };
            (most * uniform(random)) as u64
        })
        .collect()
}

/// The delays in the order in which they are to meet the latencies.
fn meet(latencies: &[u64], mut delays: Vec<u64>, order: &str) -> Vec<u64> {
    let mut by_latency: Vec<usize> = (0..latencies.len()).collect();
    by_latency.sort_by_key(|&index| latencies[index]);
    match order {
        "the longest meet the longest" => delays.sort_unstable(),
        "the longest meet the shortest" => delays.sort_unstable_by(|a, b| b.cmp(a)),
        _ => return delays,
    }
    let mut met = vec![0; delays.len()];
    for (index, delay) in by_latency.into_iter().zip(delays) {
        met[index] = delay;
    }
    met
}

/// Checks for each quantile that the true one lies between what is told less the error and what is
/// told, and returns the errors.
fn errors(latencies: &[u64], delays: &[u64], added: &Added, order: &str) -> Vec<u64> {
    let mut told = Distribution::uncensored();
    for (latency, delay) in latencies.iter().zip(delays) {
        told.record(Nanos(latency + delay));
    }
    let mut ascending = latencies.to_vec();
    ascending.sort_unstable();
    let error_of = |percent: f64| {
        let value = told.quantile(percent).unwrap().value_ns;
        let error = added.to_quantile(&told, percent).unwrap().0;
        let place = rank(SAMPLES as u64, percent).unwrap();
        let truth = ascending[usize::try_from(place).unwrap() - 1];
        assert!(
            (value - error..=value).contains(&truth),
            "p{percent}, {order}: {truth} is not in {value} - {error}"
        );
        error
    };
    PERCENTILES.map(error_of).to_vec()
}

const ORDERS: [&str; 3] =
    ["as it comes", "the longest meet the longest", "the longest meet the shortest"];

#[test]
fn the_truth_lies_within_the_error_however_delays_meet_latencies() {
    for order in ORDERS {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(30);
        let latencies = latencies(&mut random);
        let delays = meet(&latencies, delays(&mut random), order);
        let mut gaps = Coarse::default();
        delays.iter().for_each(|&delay| gaps.record(Nanos(delay)));
        // One figure for all would be five times the median and more.
        assert!(gaps.quantile(99) > Nanos(480_000));
        let errors = errors(&latencies, &delays, &Added::new(Nanos(25), &gaps, None), order);
        let p50 = errors[1];
        assert!(p50 < 2_000, "{order}: p50 ± {p50}");
        // The tail can be the instrument's own: it is charged with it.
        assert!(errors[4] > 100_000, "{order}: p99.9 ± {}", errors[4]);
    }
}

#[test]
fn wake_ups_come_on_top_of_the_time_not_looked() {
    for order in ORDERS {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(31);
        let latencies = latencies(&mut random);
        let gap = delays(&mut random);
        // Sleeps: 40 to 60 µs, one of a hundred 600 µs.
        let wakeup: Vec<u64> = (0..SAMPLES)
            .map(|i| match i % 100 {
                99 => 600_000,
                i => 40_000 + 200 * i as u64,
            })
            .collect();
        let delays: Vec<u64> = gap.iter().zip(&wakeup).map(|(gap, wakeup)| gap + wakeup).collect();
        let delays = meet(&latencies, delays, order);
        let mut gaps = Coarse::default();
        gap.iter().for_each(|&gap| gaps.record(Nanos(gap)));
        let mut sampled: Vec<Nanos> = wakeup[..200].iter().map(|&ns| Nanos(ns)).collect();
        sampled.sort_unstable();
        let added = Added::new(Nanos(25), &gaps, Some(&sampled));
        let p50 = errors(&latencies, &delays, &added, order)[1];
        assert!((40_000..66_000).contains(&p50), "{order}: p50 ± {p50}");
    }
}

#[test]
fn what_is_added_to_all_counts_in_full_and_nothing_is_shorter_than_nothing() {
    let mut told = Distribution::uncensored();
    (0..1_000).for_each(|_| told.record(Nanos(9_000)));
    let mut gaps = Coarse::default();
    gaps.record_n(Nanos(100), 1_000);
    let error = |fixed| Added::new(Nanos(fixed), &gaps, None).to_quantile(&told, 50.0);
    assert_eq!(error(0), Some(Nanos(100)));
    assert_eq!(error(50_000), Some(Nanos(9_000)));
    assert_eq!(Added::new(Nanos(0), &gaps, None).to_quantile(&told, 99.9), None);
    // With nothing to bound it, as where no reply was found, only the clock's part is known.
    let nothing = Added::new(Nanos(20), &Coarse::default(), None);
    assert_eq!(nothing.to_quantile(&told, 50.0), Some(Nanos(20)));
}
