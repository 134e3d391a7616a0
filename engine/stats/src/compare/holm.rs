//! Several tests at once: p values adjusted so that the chance of any false alarm stays at the
//! level.

/// The p values adjusted by Holm's step-down procedure (Holm 1979), in the order given. What is at
/// most 5 % may be called a difference, and the chance that any cell without one is called so is at
/// most 5 %, however the cells depend on each other: p50 and p99 of an arm do, and all arms have
/// the baseline in common.
///
/// The smallest p is multiplied by the number of tests, the next by one less, and so on; none
/// becomes smaller than one before it, nor larger than 1. A p that is no number counts as 1.
pub(crate) fn adjusted(p: &[f64]) -> Vec<f64> {
    let valid = |p: f64| if p.is_nan() { 1.0 } else { p };
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| valid(p[a]).total_cmp(&valid(p[b])));
    let mut adjusted = vec![1.0; p.len()];
    let mut least = 0.0f64;
    for (done, index) in order.into_iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "cells are few")]
        let tests_left = (p.len() - done) as f64;
        least = least.max(valid(p[index]) * tests_left).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}
