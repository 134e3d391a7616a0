//! The binomial distribution, as exactly as doubles hold it.

use crate::number::{real, whole};

/// `P(B ≤ most)` where `B` is the number of successes in `count` independent trials, each with the
/// chance `share`.
///
/// So the sign test's p is right but for the last digit; that of `statrs` is off by some 5e-14,
/// which results would show.
pub(crate) fn at_most(most: u64, count: u64, share: f64) -> f64 {
    if most >= count || share <= 0.0 {
        return 1.0;
    }
    if share >= 1.0 {
        return 0.0;
    }
    let (mut within, mut total) = (0.0, 0.0);
    each_weight(count, share, f64::MIN_POSITIVE, |k, weight| {
        total += weight;
        if k <= most {
            within += weight;
        }
    });
    within / total
}

/// Calls `add` with numbers of successes and their chances relative to that of the mode: first the
/// mode, then outwards below it, then above it, until chances are no more than `least`. So no
/// factorial is computed and no count is too large.
pub(crate) fn each_weight(count: u64, share: f64, least: f64, mut add: impl FnMut(u64, f64)) {
    let mode = mode(count, share);
    add(mode, 1.0);
    let (mut k, mut weight) = (mode, 1.0);
    while k > 0 && weight > least {
        weight /= step(k - 1, count, share);
        k -= 1;
        add(k, weight);
    }
    (k, weight) = (mode, 1.0);
    while k < count && weight > least {
        weight *= step(k, count, share);
        k += 1;
        add(k, weight);
    }
}

/// The chance of `k + 1` successes over that of `k`.
pub(crate) fn step(k: u64, count: u64, share: f64) -> f64 {
    real(count - k) / real(k + 1) * (share / (1.0 - share))
}

fn mode(count: u64, share: f64) -> u64 {
    whole(real(count + 1) * share).min(count)
}
