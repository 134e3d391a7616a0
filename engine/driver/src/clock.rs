//! Where instants come from: the kernel's monotonic clock, or a simulated one.
//!
//! Workers read a clock twice in a turn and hand the instants down; schedules, protocols and statistics
//! take time as an argument and never see a [`Clock`].

use std::cell::Cell;
use std::rc::Rc;

use nix::time::{ClockId, clock_getres, clock_gettime};

use tare_units::{Instant, Nanos};

/// A source of monotonic instants.
pub trait Clock {
    /// The present instant.
    fn now(&self) -> Instant;
}

/// `CLOCK_MONOTONIC`, read through the vDSO.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    #[inline]
    #[expect(clippy::cast_sign_loss, reason = "the monotonic clock starts at boot and counts up")]
    fn now(&self) -> Instant {
        let t =
            clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
        Instant(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
    }
}

/// What reading the clock costs and how finely it ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockQuality {
    /// Median cost of one reading.
    pub cost: Nanos,
    /// Smallest step between two different readings, or what the kernel states, whichever is larger.
    pub granularity: Nanos,
}

impl MonotonicClock {
    /// Measures the clock's own cost: the median over 101 batches of 100 readings.
    #[must_use]
    pub fn quality(self) -> ClockQuality {
        const BATCHES: usize = 101;
        const READS: u64 = 100;
        let mut costs = [0u64; BATCHES];
        let mut step = u64::MAX;
        for cost in &mut costs {
            let start = self.now();
            let mut last = start;
            for _ in 0..READS {
                let t = self.now();
                let d = t.since(last).0;
                if d > 0 {
                    step = step.min(d);
                }
                last = t;
            }
            *cost = last.since(start).0 / READS;
        }
        costs.sort_unstable();
        let stated = clock_getres(ClockId::CLOCK_MONOTONIC)
            .map_or(1, |t| u64::try_from(t.tv_nsec()).unwrap_or(1));
        let cost = costs[BATCHES / 2].max(1);
        // The smallest step ever seen is at most the cost of a reading where the clock is finer than that;
        // then the kernel's stated resolution is the granularity.
        let granularity = if step > 2 * cost { step } else { stated };
        ClockQuality { cost: Nanos(cost), granularity: Nanos(granularity) }
    }
}

/// A clock that stands still until it is told to move. Clones share the same time.
#[derive(Debug, Clone, Default)]
pub struct SimulatedClock(Rc<Cell<u64>>);

impl SimulatedClock {
    /// A clock at `start`.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self(Rc::new(Cell::new(start.0)))
    }

    /// Moves to `to`. Time never runs backwards: an earlier instant changes nothing.
    pub fn advance_to(&self, to: Instant) {
        self.0.set(self.0.get().max(to.0));
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Instant {
        Instant(self.0.get())
    }
}
