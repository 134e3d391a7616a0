use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use super::*;
use crate::fixtures::uniform;

const SAMPLES: usize = 100_000;
const PERCENTILES: [f64; 6] = [25.0, 50.0, 90.0, 99.0, 99.9, 99.99];

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

/// Checks for each quantile that the true one lies between what is read less the error and what is
/// read, and returns the errors.
fn errors(latencies: &[u64], delays: &[u64], added: &Added, order: &str) -> Vec<u64> {
    let mut read = Distribution::uncensored();
    for (latency, delay) in latencies.iter().zip(delays) {
        read.record(Nanos(latency + delay));
    }
    let mut ascending = latencies.to_vec();
    ascending.sort_unstable();
    let error_of = |percent: f64| {
        let value = read.quantile(percent).unwrap().value_ns;
        let error = added.to_quantile(&read, percent).unwrap().0;
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

#[test]
fn the_truth_lies_within_the_error_however_delays_meet_latencies() {
    let orders = ["as it comes", "the longest meet the longest", "the longest meet the shortest"];
    for (order, sleeps) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(30 + u64::from(sleeps));
        let latencies = latencies(&mut random);
        let gap = delays(&mut random);
        let mut gaps = Coarse::default();
        gap.iter().for_each(|&gap| gaps.record(Nanos(gap)));
        // One figure for all would be five times the median and more.
        assert!(gaps.quantile(99) > Nanos(480_000));
        // Wake-ups come on top of the time not looked: 40 to 60 µs, one of a hundred 600 µs.
        let wakeup = |i: usize| match (sleeps, i % 100) {
            (false, _) => 0,
            (true, 99) => 600_000,
            (true, i) => 40_000 + 200 * i as u64,
        };
        let delays = gap.iter().enumerate().map(|(i, gap)| gap + wakeup(i)).collect();
        let delays = meet(&latencies, delays, order);
        let mut sampled: Vec<Nanos> = (0..200).map(|i| Nanos(wakeup(i))).collect();
        sampled.sort_unstable();
        let added = Added::new(Nanos(25), &gaps, sleeps.then_some(&sampled));
        let errors = errors(&latencies, &delays, &added, order);
        let most = if sleeps { 40_000..66_000 } else { 0..2_000 };
        assert!(most.contains(&errors[1]), "{order}: p50 ± {}", errors[1]);
        // The tail can be the instrument's own: it is charged with it.
        assert!(errors[4] > 100_000, "{order}: p99.9 ± {}", errors[4]);
    }
}

#[test]
fn what_is_added_to_all_counts_in_full_and_nothing_is_shorter_than_nothing() {
    let mut read = Distribution::uncensored();
    (0..1_000).for_each(|_| read.record(Nanos(9_000)));
    let mut gaps = Coarse::default();
    gaps.record_n(Nanos(100), 1_000);
    let error = |fixed| Added::new(Nanos(fixed), &gaps, None).to_quantile(&read, 50.0);
    assert_eq!(error(0), Some(Nanos(100)));
    assert_eq!(error(50_000), Some(Nanos(9_000)));
    assert_eq!(Added::new(Nanos(0), &gaps, None).to_quantile(&read, 99.9), None);
    // With nothing to bound it, as where no reply was found, only the clock's part is known.
    let nothing = Added::new(Nanos(20), &Coarse::default(), None);
    assert_eq!(nothing.to_quantile(&read, 50.0), Some(Nanos(20)));
}
