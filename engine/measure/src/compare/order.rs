//! In which order a block visits its arms.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// The orders of a comparison's blocks: drawn again for each, the same for the same seed.
#[derive(Debug)]
pub(super) struct Orders {
    random: Xoshiro256PlusPlus,
    arms: usize,
}

impl Orders {
    pub(super) fn new(seed: u64, arms: usize) -> Self {
        Self { random: Xoshiro256PlusPlus::seed_from_u64(seed), arms }
    }

    /// The order of the next block's first pass, by arms' indices: each order is as likely as any
    /// other (Fisher and Yates). The second pass goes the other way, so that what drifts steadily
    /// through a block weighs on all arms alike.
    pub(super) fn next_block(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.arms).collect();
        for last in (1..order.len()).rev() {
            let other = self.below(last as u64 + 1);
            order.swap(last, other);
        }
        order
    }

    /// A number below `bound`: the high half of a product (Lemire 2019), with a bias of 2⁻⁶⁰.
    fn below(&mut self, bound: u64) -> usize {
        let wide = u128::from(self.random.next_u64()) * u128::from(bound);
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_order_comes_and_none_is_preferred() {
        let mut orders = Orders::new(7, 3);
        let mut counts: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
        for _ in 0..6_000 {
            *counts.entry(orders.next_block()).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1,000 each, with a standard deviation of 29.
        assert!(counts.values().all(|n| (880..1_120).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_seed_repeats_its_orders() {
        let draw = |seed| {
            let mut orders = Orders::new(seed, 5);
            std::iter::repeat_with(|| orders.next_block()).take(20).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
