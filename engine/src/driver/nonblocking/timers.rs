//! Timer operations by due time: a binary heap from which any entry can be taken out again.
//!
//! A cancelled timer leaves at once, so a worker that sets and cancels a timeout per request does not pile
//! up dead entries, as it would with lazy deletion.

use crate::units::Instant;

const ABSENT: u32 = u32::MAX;

/// Operations by the instant they are due; those due at the same instant in the order of insertion.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// A binary min-heap: instant, order of insertion, operation.
    heap: Vec<(Instant, u64, u32)>,
    /// Where each operation stands in the heap, by operation.
    places: Vec<u32>,
    inserted: u64,
}

impl Timers {
    pub(super) fn with_capacity(operations: usize) -> Self {
        Self {
            heap: Vec::with_capacity(operations),
            places: Vec::with_capacity(operations),
            inserted: 0,
        }
    }

    /// When the earliest is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, ..)| at)
    }

    pub(super) fn insert(&mut self, at: Instant, operation: u32) {
        if self.places.len() <= operation as usize {
            self.places.resize(operation as usize + 1, ABSENT);
        }
        self.heap.push((at, self.inserted, operation));
        self.inserted += 1;
        self.sift_up(self.heap.len() - 1);
    }

    /// Takes out the earliest, if it is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, _, operation) = self.heap.first()?;
        (at <= now).then(|| {
            self.remove(operation);
            operation
        })
    }

    /// Takes out an operation that was inserted, and not yet taken out.
    pub(super) fn remove(&mut self, operation: u32) {
        let place = std::mem::replace(&mut self.places[operation as usize], ABSENT) as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.sift_down(place);
            self.sift_up(place);
        }
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.heap.swap(place, (place - 1) / 2);
            self.settle(place);
            place = (place - 1) / 2;
        }
        self.settle(place);
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let Some(smaller) = (left..self.heap.len().min(left + 2)).min_by_key(|&i| self.heap[i])
            else {
                break;
            };
            if self.heap[place] <= self.heap[smaller] {
                break;
            }
            self.heap.swap(place, smaller);
            self.settle(place);
            place = smaller;
        }
        self.settle(place);
    }

    fn settle(&mut self, place: usize) {
        let operation = self.heap[place].2;
        self.places[operation as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_orders_like_a_sorted_list(
            steps in proptest::collection::vec((0u64..50, any::<bool>()), 1..200),
        ) {
            let mut timers = Timers::default();
            let mut model: Vec<(u64, u64, u32)> = Vec::new();
            for (n, (at, removes)) in steps.iter().enumerate() {
                if *removes && !model.is_empty() {
                    let (.., operation) = model.remove(*at as usize % model.len());
                    timers.remove(operation);
                } else {
                    timers.insert(Instant(*at), n as u32);
                    model.push((*at, n as u64, n as u32));
                }
                let next = model.iter().min().map(|&(at, ..)| Instant(at));
                prop_assert_eq!(timers.next(), next);
            }
            model.sort_unstable();
            for (.., operation) in model {
                prop_assert_eq!(timers.pop_due(Instant::FAR_FUTURE), Some(operation));
            }
            prop_assert_eq!(timers.pop_due(Instant::FAR_FUTURE), None);
        }
    }
}
