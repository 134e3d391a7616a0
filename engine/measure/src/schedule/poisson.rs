//! Independent, exponentially distributed gaps: what many independent users amount to.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::{RATE_MAX_PER_S, Share, check_rate};
use tare_units::Nanos;
use tare_units::error::Result;

/// Gaps are rounded to 2^-16 ns and summed as integers, so that all workers compute the same
/// instants.
const FRACTION_BITS: u32 = 16;

/// A Poisson process from a seed. Each worker draws all arrivals and keeps its own, so a step costs
/// one draw for each worker there is (about 10 ns); in return the arrivals do not depend on how
/// many workers share them.
#[derive(Debug, Clone, PartialEq)]
pub struct Poisson {
    random: Xoshiro256PlusPlus,
    /// Mean gap in units of 2^-16 ns.
    mean: f64,
    /// The last arrival drawn, in the same units.
    at: u128,
    /// Arrivals to draw until the next own one.
    ahead: u32,
    workers: u32,
}

impl Poisson {
    /// A worker's arrivals of the process of `rate_per_s` over all workers that `seed` defines.
    pub fn new(rate_per_s: f64, seed: u64, share: Share) -> Result<Self> {
        check_rate(rate_per_s, RATE_MAX_PER_S)?;
        Ok(Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            mean: 1e9 / rate_per_s * f64::from(1u32 << FRACTION_BITS),
            at: 0,
            ahead: share.worker + 1,
            workers: share.workers,
        })
    }

    pub(crate) const fn workers(&self) -> u64 {
        self.workers as u64
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the gap is positive and at most 38 means, below 2^73"
    )]
    fn gap(&mut self) -> u128 {
        (exponential(&mut self.random) * self.mean).round() as u128
    }
}

/// A number between 0 and 1, neither of them: between the multiples of 2^-53.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "53 random bits fill a double")]
pub(super) fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) * (0.5f64).powi(53)
}

/// An exponentially distributed number of mean 1, by inversion. A uniform one is never 0, whose
/// logarithm is not finite.
#[inline]
pub(super) fn exponential(random: &mut Xoshiro256PlusPlus) -> f64 {
    -uniform(random).ln()
}

impl Iterator for Poisson {
    type Item = Nanos;

    #[inline]
    fn next(&mut self) -> Option<Nanos> {
        for _ in 0..self.ahead {
            self.at += self.gap();
        }
        self.ahead = self.workers;
        Some(Nanos(u64::try_from(self.at >> FRACTION_BITS).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential() {
        // Kolmogorov–Smirnov distance of 100,000 gaps from the exponential distribution: the
        // critical value at 0.1 % is 1.949 / sqrt(n) (Stephens 1974 for large n).
        const N: usize = 100_000;
        for (rate, seed) in [(1_000.0, 1), (0.5, 2), (150_000.0, 3)] {
            let due: Vec<u64> =
                Poisson::new(rate, seed, Share::WHOLE).unwrap().take(N).map(|n| n.0).collect();
            let mut gaps: Vec<f64> = std::iter::once(due[0])
                .chain(due.windows(2).map(|w| w[1] - w[0]))
                .map(|ns| ns as f64 * rate / 1e9)
                .collect();
            let mean = gaps.iter().sum::<f64>() / N as f64;
            assert!((mean - 1.0).abs() < 4.0 / (N as f64).sqrt(), "{mean}");
            let lagged: f64 =
                gaps.windows(2).map(|w| (w[0] - 1.0) * (w[1] - 1.0)).sum::<f64>() / N as f64;
            assert!(lagged.abs() < 4.0 / (N as f64).sqrt(), "{lagged}");
            gaps.sort_by(f64::total_cmp);
            let distance = gaps
                .iter()
                .enumerate()
                .map(|(i, &gap)| {
                    let expected = 1.0 - (-gap).exp();
                    (expected - i as f64 / N as f64)
                        .abs()
                        .max((expected - (i + 1) as f64 / N as f64).abs())
                })
                .fold(0.0, f64::max);
            assert!(distance < 1.949 / (N as f64).sqrt(), "{rate}: {distance}");
        }
    }

    #[test]
    fn a_seed_is_a_process_and_the_union_over_workers_is_the_whole() {
        let whole: Vec<_> = Poisson::new(7_777.7, 42, Share::WHOLE).unwrap().take(5_000).collect();
        assert!(whole.is_sorted());
        for workers in [1, 2, 5] {
            let mut shares: Vec<_> = (0..workers)
                .map(|w| Poisson::new(7_777.7, 42, Share::new(w, workers)).unwrap())
                .collect();
            for (k, due) in whole.iter().enumerate() {
                assert_eq!(shares[k % workers as usize].next(), Some(*due));
            }
        }
        let other: Vec<_> = Poisson::new(7_777.7, 43, Share::WHOLE).unwrap().take(5_000).collect();
        assert_ne!(whole, other);
    }
}
