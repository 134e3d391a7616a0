use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;

use super::*;

fn of(lengths: impl IntoIterator<Item = u64>) -> Distribution {
    let mut d = Distribution::new();
    lengths.into_iter().for_each(|ns| d.record(Nanos(ns)));
    d
}

#[test]
fn exact_figures_are_exact_beyond_the_range_too() {
    let hours = 5 * 3_600_000_000_000;
    let d = of([1_234_567, 0, hours]);
    assert_eq!((d.count(), d.min_ns(), d.max_ns()), (3, Some(0), Some(hours)));
    assert_eq!(d.mean_ns(), Some((1_234_567 + hours) as f64 / 3.0));
    assert!(Distribution::new().min_ns().is_none() && Distribution::new().stdev_ns().is_none());
}

#[test]
fn quantiles_have_three_figures_and_ten_samples_beyond() {
    let d = of((1..=1_000).map(|i| i * 10_000));
    let p99 = d.quantile(99.0).unwrap();
    assert!(!p99.lower_bound);
    assert!((9_900_000..=9_910_000).contains(&p99.value_ns), "{}", p99.value_ns);
    assert_eq!(d.quantile(99.1), None, "nine lie beyond");
    assert_eq!(of((1..=19).map(|i| i * 10)).quantile(50.0), None, "nine lie beyond");
    assert_eq!(of((1..=20).map(|i| i * 10)).quantile(50.0).unwrap().value_ns, 100);
    assert_eq!(rank(10_000, 99.9), Some(9_990));
    assert_eq!(rank(0, 50.0), None);
    assert_eq!(rank(1_000, 0.5), None, "four lie beyond, which is below");
}

#[test]
fn a_quantile_is_a_lower_bound_only_where_it_rests_on_censored_samples() {
    let mut d = of((1..=1_000).map(|i| i * 100));
    // In flight at the end, far below the median: the uncensored samples in the median's bin still
    // suffice only if one more than the rank is there.
    d.record_censored(Nanos(300));
    assert!(d.quantile(50.0).unwrap().lower_bound, "bins hold one sample each here");
    // With many samples in a bin it makes no difference.
    let mut dense = of((0..10_000).map(|i| 50_000 + i % 10));
    dense.record_censored(Nanos(300));
    assert!(!dense.quantile(50.0).unwrap().lower_bound);
    // Timed out above every quantile that is asked for.
    let mut slow = of((1..=1_000).map(|i| i * 100));
    (0..15).for_each(|_| slow.record_censored(Nanos(2_000_000_000)));
    assert!(!slow.quantile(98.0).unwrap().lower_bound);
    let p99 = slow.quantile(99.0).unwrap();
    assert_eq!(p99, Quantile { value_ns: 2_000_000_000, lower_bound: true });
    assert_eq!((slow.censored(), slow.count()), (15, 1_015));
    // A distribution without censoring takes it all the same.
    let mut plain = Distribution::uncensored();
    (0..100).for_each(|_| plain.record(Nanos(1_000)));
    assert_eq!((plain.censored(), plain.quantile(50.0).unwrap().lower_bound), (0, false));
    let mut censored = Distribution::new();
    (0..100).for_each(|_| censored.record_censored(Nanos(500)));
    plain.merge(&censored);
    assert_eq!((plain.censored(), plain.quantile(50.0).unwrap().lower_bound), (100, true));
}

#[test]
fn merging_is_recording_together() {
    let mut a = of([5, 70_000]);
    let mut b = of([9_000_000]);
    b.record_censored(Nanos(3));
    a.merge(&b);
    let mut both = of([5, 70_000, 9_000_000]);
    both.record_censored(Nanos(3));
    assert_eq!(a.encode(), both.encode());
    assert_eq!(
        (a.min_ns(), a.max_ns(), a.mean_ns(), a.censored()),
        (both.min_ns(), both.max_ns(), both.mean_ns(), 1)
    );
}

#[test]
fn the_encoding_survives_and_garbage_is_refused() {
    let d = of((1..=10_000).map(|i| i * i));
    let read = Distribution::decode(&d.encode()).unwrap();
    assert_eq!(read.encode(), d.encode());
    for p in [50.0, 99.0, 99.9] {
        assert_eq!(d.quantile(p).unwrap(), read.quantile(p).unwrap());
    }
    let (mean, exact) = (read.mean_ns().unwrap(), d.mean_ns().unwrap());
    assert!((mean - exact).abs() < exact / 1_000.0, "{mean} {exact}");
    for garbage in ["", "no base64 at all", "AAAA", "HISTFAAAACJ42pNpmSzMwMDAxQABzFCaEUoz"] {
        assert!(Distribution::decode(garbage).is_err(), "{garbage}");
    }
    assert_eq!(Distribution::decode(&Distribution::new().encode()).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn decoding_never_panics(text in "[A-Za-z0-9+/]{0,200}", cut in 0usize..400) {
        let _ = Distribution::decode(&text);
        let good = of([1, 2_000, 3_000_000]).encode();
        let _ = Distribution::decode(&good[..cut.min(good.len())]);
    }

    #[test]
    fn a_hostile_encoding_neither_panics_nor_allocates_what_it_claims(
        changes in prop::collection::vec((0usize..60, any::<u8>()), 1..6),
        ones in prop::option::of(40usize..50),
    ) {
        let good = of((1..200).map(|i| i * 977));
        let mut plain = inflate(&STANDARD.decode(good.encode()).unwrap()).unwrap();
        for (at, byte) in changes {
            plain[at] = byte;
        }
        if let Some(at) = ones {
            plain[at..at + 9].fill(0xff);
        }
        let mut deflated = ZlibEncoder::new(Vec::new(), Compression::fast());
        deflated.write_all(&plain).unwrap();
        let deflated = deflated.finish().unwrap();
        let mut bytes = 0x1c84_9314_u32.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(deflated.len()).unwrap().to_be_bytes());
        bytes.extend(deflated);
        if let Ok(mut d) = Distribution::decode(&STANDARD.encode(bytes)) {
            let _ = (d.quantile(50.0), d.quantile(99.0), d.mean_ns(), d.stdev_ns(), d.at_rank_low(1));
            d.merge(&good);
            d.merge(&d.clone());
            let _ = d.encode();
        }
    }

    #[test]
    fn ranks_agree_with_sorting(mut lengths in prop::collection::vec(0u64..10_000_000_000, 1..300), at in 0.0f64..1.0) {
        let d = of(lengths.iter().copied());
        lengths.sort_unstable();
        let rank = 1 + (at * (lengths.len() - 1) as f64) as usize;
        let truth = lengths[rank - 1];
        let (low, high) = (d.at_rank_low(rank as u64), d.at_rank(rank as u64));
        prop_assert!(low <= truth && truth <= high, "{low} {truth} {high}");
        prop_assert!(high - low <= truth / 1_000 + 1);
    }
}

#[test]
fn the_resolution_is_by_what_a_quantile_is_too_long() {
    for length in [1, 900, 2047, 2048, 6_900, 500_300, 5_009_600] {
        // Some are longer, so that the exact maximum does not correct the quantile.
        let distribution = of((0..120).map(|i| if i < 100 { length } else { length * 2 }));
        let value = distribution.quantile(50.0).unwrap().value_ns;
        let resolution = distribution.resolution(Nanos(value)).0;
        assert!(value >= length && value - length <= resolution, "{length}: {value}, {resolution}");
        assert!(resolution <= length / 1000, "{length}: {resolution}");
    }
}

#[test]
fn a_bin_begins_where_the_histogram_has_it_begin() {
    let distribution = Distribution::uncensored();
    let near = (0..=42).flat_map(|bit| (-2..=2).map(move |off| (1i64 << bit) + off));
    let all = near.chain((0..5_000).map(|n| n * n * 17));
    for length in all.filter_map(|ns| u64::try_from(ns).ok()) {
        let clamped = length.min(LENGTH_MAX.0);
        let start = distribution.lengths.lowest_equivalent(clamped);
        assert_eq!(bin_start(Nanos(length)), Nanos(start), "{length}");
    }
}
