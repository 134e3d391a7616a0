//! The interval of a mean rate, from equal blocks of time.

use statrs::statistics::Statistics as _;

use super::binomial::real;
use super::quantile::student;
use tare_units::Nanos;

/// Fewer blocks than this say nothing of how the rate varies.
const BLOCKS_MIN: usize = 4;

/// The 95 % interval of the mean rate, bits per second, over blocks of `width` in each of which so
/// many bytes came: mean ± t · s/√n, with s the sample standard deviation and t the 97.5 % quantile
/// of Student's distribution with n − 1 degrees of freedom. None below four blocks.
///
/// Blocks are taken as independent: they are to be longer than what makes the rate vary, which the
/// 1/64 of a run that they are at least is for round trips and scheduling, and is not for what
/// changes once in a run.
#[must_use]
pub fn interval(block_bytes: &[u64], width: Nanos) -> Option<(f64, f64)> {
    if block_bytes.len() < BLOCKS_MIN || width == Nanos::ZERO {
        return None;
    }
    let count = real(block_bytes.len() as u64);
    let rates = || block_bytes.iter().map(|bytes| real(*bytes) * 8.0 / width.as_secs_f64());
    let mean = rates().mean();
    let half = student(count - 1.0) * rates().std_dev() / count.sqrt();
    Some(((mean - half).max(0.0), mean + half))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `scipy.stats.t.ppf(0.975, ν)`, SciPy 1.17.
    const KNOWN: [(f64, f64); 11] = [
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
    ];

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, known) in KNOWN {
            let off = (student(freedom) / known - 1.0).abs();
            let allowed = 3e-7;
            assert!(off < allowed, "{freedom}: {} off by {off:e}", student(freedom));
        }
    }

    #[test]
    fn an_interval_is_that_of_the_textbook() {
        // 64 ms blocks; mean 117.5 MB, t of seven degrees of freedom: by SciPy 14.5626 to 14.8124
        // Gbit/s.
        let blocks = [117, 118, 116, 119, 118, 117, 116, 119].map(|n| n * 1_000_000);
        let (low, high) = interval(&blocks, Nanos::from_millis(64)).unwrap();
        assert!((low / 14_562_595_484.6 - 1.0).abs() < 1e-5, "{low}");
        assert!((high / 14_812_404_515.4 - 1.0).abs() < 1e-5, "{high}");
    }

    #[test]
    fn few_blocks_and_none_have_no_interval() {
        let width = Nanos::from_millis(1);
        assert_eq!(interval(&[], width), None);
        assert_eq!(interval(&[1, 2, 3], width), None);
        assert_eq!(interval(&[1, 2, 3, 4], Nanos::ZERO), None);
        assert_eq!(interval(&[125; 4], width), Some((1e6, 1e6)));
        // A rate is not below nothing.
        assert_eq!(interval(&[0, 0, 0, 100], width).unwrap().0, 0.0);
    }

    proptest! {
        #[test]
        fn the_mean_lies_within(blocks in prop::collection::vec(0u64..1 << 40, 4..64)) {
            let (low, high) = interval(&blocks, Nanos::from_millis(100)).unwrap();
            let mean = blocks.iter().sum::<u64>() as f64 / blocks.len() as f64 * 80.0;
            prop_assert!(low <= mean * (1.0 + 1e-12) && mean <= high * (1.0 + 1e-12));
        }
    }
}
