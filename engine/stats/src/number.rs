//! Counts, and nanoseconds, as numbers to reckon with.

/// Exact up to 2^53: more than any count of samples, and 104 days.
pub(crate) const fn real(count: u64) -> f64 {
    count as f64
}

/// Without the fraction; what is below zero is zero, and what is too large is the largest.
pub(crate) const fn whole(number: f64) -> u64 {
    number as u64
}
