//! Tails of the binomial distribution.

use statrs::distribution::{Binomial, DiscreteCDF};

/// `P(B ≤ most)` where `B` is the number of successes in `count` independent trials, each with the chance `share`.
pub(super) fn at_most(most: u64, count: u64, share: f64) -> f64 {
    Binomial::new(share, count)
        .expect("a share lies between 0 and 1")
        .cdf(most)
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
pub(super) const fn real(count: u64) -> f64 {
    count as f64
}
