//! A single server with a queue.

use crate::units::{Instant, Nanos};

/// Serves one request at a time, in order of their arrival (Lindley's recursion, in departures).
#[derive(Debug, Default)]
pub(super) struct Queue {
    last_arrival: Instant,
    last_departure: Instant,
}

impl Queue {
    /// A request joins that arrived at `arrival`. Returns when it joins, which is not before any that has, and departs.
    pub(super) fn join(&mut self, arrival: Instant, service: Nanos) -> (Instant, Instant) {
        self.last_arrival = arrival.max(self.last_arrival);
        (
            self.last_arrival,
            self.departure(self.last_arrival, service),
        )
    }

    /// When the request that arrived at `arrival` departs.
    fn departure(&mut self, arrival: Instant, service: Nanos) -> Instant {
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
