//! A single server with a queue.

use crate::units::{Instant, Nanos};

/// Serves one request at a time, in order of their arrival (Lindley's recursion, in departures).
#[derive(Debug, Default)]
pub(super) struct Queue {
    last_departure: Instant,
}

impl Queue {
    /// When the request that arrived at `arrival` departs.
    pub(super) fn departure(&mut self, arrival: Instant, service: Nanos) -> Instant {
        self.last_departure = arrival.max(self.last_departure) + service;
        self.last_departure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waiting_times_are_lindleys(gaps in proptest::collection::vec((0_u64..3_000, 0_u64..2_000), 1..200)) {
            let (mut queue, mut arrival, mut waiting) = (Queue::default(), 5_000_u64, 0_u64);
            for (gap, service) in gaps {
                arrival += gap;
                waiting = waiting.saturating_sub(gap);
                let departure = queue.departure(Instant(arrival), Nanos(service));
                prop_assert_eq!(departure.0, arrival + waiting + service);
                waiting += service;
            }
        }
    }
}
