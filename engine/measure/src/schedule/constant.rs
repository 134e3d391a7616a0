//! Equal gaps, exact for ever.

use super::{RATE_MAX_PER_S, Share, check_rate};
use tare_units::Nanos;
use tare_units::error::Result;

const SECOND: u128 = 1_000_000_000;

/// Arrival *k* is due at exactly floor(*k* · 10⁹ / rate) ns: the rate, a double, is taken as the
/// fraction that it is, and nothing is ever rounded but the instant itself. Each step is two
/// additions, as in Bresenham's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// The next arrival is due at `due + fraction / denominator` nanoseconds.
    due: u64,
    fraction: u64,
    denominator: u64,
    /// From one arrival of this worker to its next.
    pub(crate) step: u64,
    step_fraction: u64,
    /// Between two arrivals of all workers, rounded down.
    pub(super) gap: Nanos,
}

impl Constant {
    /// A worker's arrivals at `rate_per_s` over all workers.
    pub fn new(rate_per_s: f64, share: Share) -> Result<Self> {
        check_rate(rate_per_s, RATE_MAX_PER_S)?;
        let (numerator, denominator) = gap(rate_per_s);
        let wide = u128::from(denominator);
        let split = |arrivals: u32| {
            let arrivals = u128::from(arrivals);
            let parts = numerator % wide * arrivals;
            let whole = numerator / wide * arrivals + parts / wide;
            let fraction = u64::try_from(parts % wide).expect("less than the denominator");
            (u64::try_from(whole).unwrap_or(u64::MAX), fraction)
        };
        let (due, fraction) = split(share.worker);
        let (step, step_fraction) = split(share.workers);
        let gap = Nanos(u64::try_from(numerator / wide).unwrap_or(u64::MAX));
        Ok(Self { due, fraction, denominator, step, step_fraction, gap })
    }

    /// `count` arrivals evenly spread over the time from `first` on, of which that one is the
    /// first, to before `behind`.
    pub(crate) fn spread(first: Nanos, behind: Nanos, count: u64) -> Self {
        let (length, count) = (behind.0.saturating_sub(first.0), count.max(1));
        Self {
            due: first.0,
            fraction: 0,
            denominator: count,
            step: length / count,
            step_fraction: length % count,
            gap: Nanos(length / count),
        }
    }

    /// Passes over the arrivals that are due before `until`, and returns how many they were. It
    /// takes as long for a thousand million as for one.
    pub fn pass(&mut self, until: Nanos) -> u64 {
        self.pass_most(until, u64::MAX).count
    }

    /// The same, over `most` arrivals at most; returns when they were due as well.
    pub(crate) fn pass_most(&mut self, until: Nanos, most: u64) -> Passed {
        let (due, fraction, denominator) = (self.due, self.fraction, self.denominator);
        let wide = u128::from(denominator);
        let step = u128::from(self.step) * wide + u128::from(self.step_fraction);
        let ahead = u128::from(until.0.saturating_sub(due)) * wide;
        let count = ahead.saturating_sub(fraction.into()).div_ceil(step.max(1));
        let count = count.min(most.into());
        // At most a step beyond `until`: less than 2^128 parts.
        let at = |arrivals: u128| {
            let passed = arrivals * step + u128::from(fraction);
            let whole = u64::try_from(passed / wide).unwrap_or(u64::MAX);
            (due.saturating_add(whole), (passed % wide) as u64)
        };
        (self.due, self.fraction) = at(count);
        let Some(before) = count.checked_sub(1) else { return Passed::default() };
        let whole_steps = u128::from(self.step) * (count * before / 2);
        let fractions = floor_sum(count, wide, self.step_fraction.into(), fraction.into());
        Passed {
            count: u64::try_from(count).unwrap_or(u64::MAX),
            last: Nanos(at(before).0),
            sum_ns: count * u128::from(due) + whole_steps + fractions,
        }
    }
}

impl Iterator for Constant {
    type Item = Nanos;

    #[inline]
    fn next(&mut self) -> Option<Nanos> {
        let due = Nanos(self.due);
        // Both fractions are below the denominator, which is below 2^63.
        self.fraction += self.step_fraction;
        let carry = self.fraction >= self.denominator;
        if carry {
            self.fraction -= self.denominator;
        }
        self.due = self.due.saturating_add(self.step).saturating_add(u64::from(carry));
        Some(due)
    }
}

/// Arrivals that were passed over together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Passed {
    pub(crate) count: u64,
    pub(crate) last: Nanos,
    /// The sum of the offsets at which they were due.
    pub(crate) sum_ns: u128,
}

/// The sum of floor((a·i + b) / m) over all i below n, by Euclid's algorithm, in a number of steps
/// that grows as the logarithm of n (Graham, Knuth & Patashnik, Concrete Mathematics, 3.5). The sum
/// itself must be below 2^128.
fn floor_sum(mut n: u128, mut m: u128, mut a: u128, mut b: u128) -> u128 {
    let mut sum = 0;
    loop {
        if n > 0 && a >= m {
            sum += n * (n - 1) / 2 * (a / m);
            a %= m;
        }
        sum += n * (b / m);
        b %= m;
        let most = a * n + b;
        if most < m {
            return sum;
        }
        n = most / m;
        b = most % m;
        std::mem::swap(&mut m, &mut a);
    }
}

/// The gap between two arrivals in nanoseconds, as an exact fraction.
fn gap(rate_per_s: f64) -> (u128, u64) {
    // A normal double is mantissa · 2^exponent with 2^52 ≤ mantissa < 2^53. The range of rates
    // leaves -72 ≤ exponent ≤ -23.
    let bits = rate_per_s.to_bits();
    let mantissa = (bits & ((1 << 52) - 1)) | (1 << 52);
    let exponent = i32::try_from(bits >> 52).expect("eleven bits; the sign is plus") - 1075;
    // Common powers of two go first, so that the numerator, 10⁹ · 2^shift, stays below 2^102.
    let twos = mantissa.trailing_zeros();
    let shift = -exponent - i32::try_from(twos).expect("at most 52");
    let denominator = mantissa >> twos;
    match u32::try_from(shift) {
        Ok(shift) => (SECOND << shift, denominator),
        Err(_) => (SECOND, denominator << shift.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RATE_MIN_PER_S;
    use super::*;
    use proptest::prelude::*;

    /// floor(k · 10⁹ / rate) for a rate given as a fraction.
    fn truth(k: u64, numerator: u64, denominator: u64) -> u64 {
        u64::try_from(u128::from(k) * SECOND * u128::from(denominator) / u128::from(numerator))
            .unwrap()
    }

    #[test]
    fn a_million_arrivals_are_exact() {
        let whole = [1, 3, 7, 333, 1_000, 333_333, 999_999_937, 1_000_000_000];
        let whole = whole.map(|rate| (rate as f64, rate, 1));
        for (rate, numerator, denominator) in whole.into_iter().chain([(2.5, 5, 2), (0.375, 3, 8)])
        {
            let mut last = 0;
            for (k, due) in (0..1_000_000).zip(Constant::new(rate, Share::WHOLE).unwrap()) {
                assert_eq!(due.0, truth(k, numerator, denominator), "{rate} {k}");
                let gap = due.0 - last;
                let mean = SECOND as f64 / rate;
                assert!(k == 0 || (gap as f64 - mean).abs() <= 1.0, "{rate} {k}");
                last = due.0;
            }
        }
    }

    #[test]
    fn slow_rates_do_not_drift_for_many_workers_either() {
        // One per hour, as a double: after k arrivals the offset is right to the double's own
        // precision.
        let due = Constant::new(1.0 / 3_600.0, Share::WHOLE).unwrap().nth(1_000_000).unwrap();
        assert!((due.0 as f64 / (1e6 * 3_600.0 * 1e9) - 1.0).abs() < 1e-15, "{}", due.0);
        let mut slowest = Constant::new(RATE_MIN_PER_S, Share::new(4095, 4096)).unwrap();
        for expected in [4095e15, 8191e15] {
            assert!((slowest.next().unwrap().0 as f64 / expected - 1.0).abs() < 1e-15);
        }
    }

    proptest! {
        #[test]
        fn passing_over_arrivals_counts_what_walking_along_them_counts(
            rate in 1e-6f64..1e9,
            worker in 0u32..9,
            walked in 0usize..20,
            until in 0u64..2_000_000,
        ) {
            let mut walking = Constant::new(rate, Share::new(worker, 9)).unwrap();
            walking.by_ref().take(walked).for_each(drop);
            let mut passing = walking.clone();
            let passed = passing.pass(Nanos(until));
            let mut count = 0;
            while walking.clone().next().is_some_and(|due| due.0 < until) {
                walking.next();
                count += 1;
            }
            prop_assert_eq!((passed, passing), (count, walking));
        }

        #[test]
        fn passing_over_most_of_them_tells_when_they_were_due(
            rate in 1e3f64..1e9,
            worker in 0u32..9,
            until in 0u64..2_000_000,
            most in 0u64..3_000,
        ) {
            let mut walking = Constant::new(rate, Share::new(worker, 9)).unwrap();
            let mut passing = walking.clone();
            let passed = passing.pass_most(Nanos(until), most);
            let mut walked = Passed::default();
            while walked.count < most && walking.clone().next().is_some_and(|due| due.0 < until) {
                walked.last = walking.next().unwrap();
                walked.count += 1;
                walked.sum_ns += u128::from(walked.last.0);
            }
            prop_assert_eq!((passed, passing), (walked, walking));
        }

        #[test]
        fn arrivals_are_spread_evenly(first in 0u64..1_000, length in 0u64..5_000, count in 1u64..2_000) {
            let behind = Nanos(first + length);
            let mut spread = Constant::spread(Nanos(first), behind, count);
            let dues: Vec<u64> = spread.clone().take(count as usize).map(|due| due.0).collect();
            let truth = |i: u64| first + length * i / count;
            prop_assert_eq!(&dues, &(0..count).map(truth).collect::<Vec<_>>());
            let passed = spread.pass_most(Nanos(behind.0 + 1), count);
            let sum = dues.iter().map(|due| u128::from(*due)).sum();
            prop_assert_eq!(passed, Passed { count, last: Nanos(truth(count - 1)), sum_ns: sum });
        }

        #[test]
        fn the_union_over_workers_is_the_whole(rate in 1e-6f64..1e9, workers in 1u32..9) {
            let whole: Vec<_> = Constant::new(rate, Share::WHOLE).unwrap().take(200).collect();
            let mut shares: Vec<_> = (0..workers)
                .map(|w| Constant::new(rate, Share::new(w, workers)).unwrap())
                .collect();
            for (k, due) in whole.iter().enumerate() {
                prop_assert_eq!(shares[k % workers as usize].next(), Some(*due));
            }
        }
    }
}
