//! The difference between two sets of values that were not measured in turns.
//!
//! The Hodges–Lehmann estimate of a shift (the median of all differences between a value after and one before) with the
//! interval that inverts the exact Mann–Whitney test (Hollander, Wolfe & Chicken, *Nonparametric Statistical Methods*,
//! 3rd ed., §4.2 and §4.3).

/// What is left out of an interval on each side: 95 % remain.
const TAIL: f64 = 0.025;

/// By how much values have moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The Hodges–Lehmann estimate, in the values' own unit.
    pub median: f64,
    /// Its 95 % interval; absent with too few values for one.
    pub interval: Option<(f64, f64)>,
    /// Two-sided p of the exact Mann–Whitney test.
    pub p: f64,
}

/// The shift from `before` to `after`; none where one of them is empty or holds what is no number.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "products of numbers of blocks"
)]
pub fn shift(before: &[f64], after: &[f64]) -> Option<Shift> {
    if before.is_empty() || after.is_empty() || before.iter().chain(after).any(|v| !v.is_finite()) {
        return None;
    }
    let mut differences: Vec<f64> = after
        .iter()
        .flat_map(|a| before.iter().map(move |b| a - b))
        .collect();
    differences.sort_by(f64::total_cmp);
    let count = differences.len();
    let median = f64::midpoint(differences[(count - 1) / 2], differences[count / 2]);
    let below = cumulative(before.len(), after.len());
    // Ties count as a half; rounded towards the middle, which is the cautious side.
    let wins = differences.iter().filter(|d| **d > 0.0).count() as f64
        + differences.iter().filter(|d| **d == 0.0).count() as f64 / 2.0;
    let extreme = wins.min(count as f64 - wins).ceil() as usize;
    let p = (2.0 * below[extreme]).min(1.0);
    // As many of the smallest and of the largest differences lie outside as leave at most a tail.
    let outside = below.iter().take_while(|share| **share <= TAIL).count();
    let interval = (outside > 0).then(|| (differences[outside - 1], differences[count - outside]));
    Some(Shift {
        median,
        interval,
        p,
    })
}

/// The distribution function of the Mann–Whitney statistic of `m` and `n` values without ties: at `u`, the probability
/// of at most `u`. By the number of partitions, one value added at a time (Mann & Whitney 1947).
#[expect(clippy::cast_precision_loss, reason = "numbers of blocks")]
fn cumulative(m: usize, n: usize) -> Vec<f64> {
    let most = m * n;
    // The coefficients of the Gaussian binomial as probabilities: the product over j of (1 - q^(n+j)) / (1 - q^j), each
    // factor divided by (n + j) / j.
    let mut shares = vec![0.0_f64; most + 1];
    shares[0] = 1.0;
    for j in 1..=m {
        for u in (n + j..=most).rev() {
            shares[u] -= shares[u - n - j];
        }
        for u in j..=most {
            shares[u] += shares[u - j];
        }
        let scale = j as f64 / (n + j) as f64;
        shares.iter_mut().for_each(|share| *share *= scale);
    }
    let mut sum = 0.0;
    shares
        .iter()
        .map(|share| {
            sum += share.max(0.0);
            sum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_that_of_the_tables() {
        // Of 5 and 5 values, P(U ≤ 2) = 4/252: the two-sided 5 % point of the usual tables is 2.
        let five = cumulative(5, 5);
        assert!((five[2] - 4.0 / 252.0).abs() < 1e-12, "{five:?}");
        assert!((five[25] - 1.0).abs() < 1e-12);
        assert!((cumulative(12, 12)[0] - 1.0 / 2_704_156.0).abs() < 1e-15);
    }

    #[test]
    fn a_shift_is_found_and_nothing_is_not() {
        let before = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        let after = before.map(|v| v + 100.0);
        let found = shift(&before, &after).unwrap();
        assert!((found.median - 100.0).abs() < 1e-9);
        let (low, high) = found.interval.unwrap();
        assert!((95.0..=100.0).contains(&low) && (100.0..=105.0).contains(&high));
        assert!((found.p - 2.0 / 924.0).abs() < 1e-12);
        let same = shift(&before, &before).unwrap();
        assert!(same.median.abs() < 1e-9 && same.p > 0.9);
        assert_eq!(shift(&[], &after), None);
        assert_eq!(shift(&[f64::NAN], &after), None);
        assert_eq!(shift(&[1.0], &[2.0]).unwrap().interval, None);
    }
}
