//! The binomial distribution, as exactly as doubles hold it.

/// `P(B ≤ most)` where `B` is the number of successes in `count` independent trials, each with the chance `share`.
///
/// The terms are summed relative to that of the mode, so that no factorial is computed and no count is too large; one
/// that is smaller than 10^-300 of it counts as nothing.
/// So the sign test's p is right but for the last digit; that of `statrs` is off by some 5e-14, which results would show.
pub(super) fn at_most(most: u64, count: u64, share: f64) -> f64 {
    if most >= count || share <= 0.0 {
        return 1.0;
    }
    if share >= 1.0 {
        return 0.0;
    }
    let odds = share / (1.0 - share);
    // The chance of `k + 1` successes over that of `k`.
    let up = |k: u64| real(count - k) / real(k + 1) * odds;
    let mode = mode(count, share);
    let (mut within, mut total) = (0.0, 0.0);
    let mut add = |k: u64, weight: f64| {
        total += weight;
        if k <= most {
            within += weight;
        }
    };
    add(mode, 1.0);
    let (mut k, mut weight) = (mode, 1.0);
    while k > 0 && weight > f64::MIN_POSITIVE {
        weight /= up(k - 1);
        k -= 1;
        add(k, weight);
    }
    (k, weight) = (mode, 1.0);
    while k < count && weight > f64::MIN_POSITIVE {
        weight *= up(k);
        k += 1;
        add(k, weight);
    }
    within / total
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts stay below 2^52; where the sums start need not be exact"
)]
fn mode(count: u64, share: f64) -> u64 {
    ((real(count + 1) * share) as u64).min(count)
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
pub(super) const fn real(count: u64) -> f64 {
    count as f64
}
