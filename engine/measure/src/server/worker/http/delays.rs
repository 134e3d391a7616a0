//! What holds responses up on purpose: planned stalls, and a single server with a queue.

use std::str::FromStr;

use tare_units::error::{Error, Result};
use tare_units::limits::QUEUE_WAIT_MAX;
use tare_units::{Instant, Nanos};

/// A planned stall, counted from the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// When it begins.
    pub at: Nanos,
    /// How long it lasts.
    pub length: Nanos,
}

impl FromStr for Stall {
    type Err = Error;

    /// Parses `2s:500ms`.
    ///
    /// # Errors
    /// A usage error for anything else, and for a stall of no length.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once(':').and_then(|(at, length)| {
            let (at, length) = (at.parse().ok()?, length.parse().ok()?);
            (length > Nanos::ZERO).then_some(Self { at, length })
        });
        parsed.ok_or_else(|| {
            let shown = text.escape_debug();
            Error::usage(format!("'{shown}' is no stall"))
                .remedy("write when it begins, and how long it lasts: 2s:500ms")
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Stalls {
    planned: Vec<Stall>,
    first_request: Option<Instant>,
}

impl Stalls {
    pub(super) const fn new(planned: Vec<Stall>) -> Self {
        Self { planned, first_request: None }
    }

    #[inline]
    pub(super) const fn handle_request(&mut self, now: Instant) {
        if self.first_request.is_none() {
            self.first_request = Some(now);
        }
    }

    /// When the stall of that instant ends, if there is one.
    #[inline]
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        let first = self.first_request?;
        let mut until = now;
        // One may begin before another has ended.
        loop {
            let covers = |stall: &&Stall| {
                first + stall.at <= until && until < first + stall.at + stall.length
            };
            match self.planned.iter().find(covers) {
                Some(stall) => until = first + stall.at + stall.length,
                None => return (until > now).then_some(until),
            }
        }
    }
}

/// Serves one request at a time, in order of their arrival (Lindley's recursion, in departures).
#[derive(Debug, Default)]
pub(super) struct Queue {
    last_arrival: Instant,
    last_departure: Instant,
}

impl Queue {
    /// A request joins that arrived at `arrival`. Returns when it joins, which is not before any
    /// other that has, and when it departs; `None` where it would have to wait for too long. A
    /// client that leaves is served all the same, so this bound alone keeps one client from filling
    /// the queue for hours.
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
    fn stalls_count_from_the_first_request_and_join() {
        let stall = |text: &str| text.parse::<Stall>().unwrap();
        let mut stalls = Stalls::new(vec![stall("2s:500ms"), stall("2.4s:200ms"), stall("9s:1s")]);
        let at = |ms: u64| Instant(1_000_000_000) + Nanos::from_millis(ms);
        assert_eq!(stalls.until(at(2_100)), None, "nobody came yet");
        stalls.handle_request(at(0));
        stalls.handle_request(at(1_000));
        assert_eq!(stalls.until(at(1_999)), None);
        assert_eq!(stalls.until(at(2_000)), Some(at(2_600)));
        assert_eq!(stalls.until(at(2_599)), Some(at(2_600)));
        assert_eq!(stalls.until(at(2_600)), None);
        assert_eq!(stalls.until(at(9_500)), Some(at(10_000)));
    }

    #[test]
    fn what_is_no_stall_is_refused_with_advice() {
        for text in ["", "2s", "2s:", ":1s", "2s:0", "2s:1s:1s", "x:1s"] {
            let error = text.parse::<Stall>().expect_err(text);
            assert!(error.advice().is_some(), "{text}");
        }
    }

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
