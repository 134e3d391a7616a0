//! A single server with a queue.

use tare_units::limits::QUEUE_WAIT_MAX;
use tare_units::{Instant, Nanos};

/// Serves one request at a time, in order of their arrival (Lindley's recursion, in departures).
#[derive(Debug, Default)]
pub(super) struct Queue {
    last_arrival: Instant,
    last_departure: Instant,
}

impl Queue {
    /// A request joins that arrived at `arrival`. Returns when it joins, which is not before any that has, and departs;
    /// `None` where it would have to wait for too long. Who leaves the queue is served all the same, so the bound is all
    /// that keeps one client from filling it up for hours.
    pub(super) fn join(&mut self, arrival: Instant, service: Nanos) -> Option<(Instant, Instant)> {
        let arrival = arrival.max(self.last_arrival);
        if self.last_departure.since(arrival) > QUEUE_WAIT_MAX {
            return None;
        }
        self.last_arrival = arrival;
        Some((arrival, self.departure(arrival, service)))
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

    #[test]
    fn who_would_wait_too_long_does_not_join() {
        let (mut queue, service) = (Queue::default(), Nanos::from_secs(10));
        let at = Instant(1_000_000_000);
        let joined = (0..1_000).filter(|_| queue.join(at, service).is_some());
        assert_eq!(joined.count(), 7, "the last of them waits for 60 s");
        assert_eq!(
            queue.join(at + service, service).map(|(_, leaves)| leaves.since(at)),
            Some(Nanos::from_secs(80))
        );
    }

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
