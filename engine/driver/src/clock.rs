//! Where instants come from: the kernel's monotonic clock, or a simulated one; and the wall clock
//! beside it, which kernel timestamps are of.
//!
//! Workers read a clock twice in a turn and hand the instants down; schedules, protocols and
//! statistics take time as an argument and never see a [`Clock`].

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
    /// Smallest step between two different readings, or what the kernel states, whichever is
    /// larger.
    pub granularity: Nanos,
}

impl MonotonicClock {
    /// Measures the clock's own cost: the median over 101 batches of 100 readings.
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
                if t > last {
                    step = step.min(t.since(last).0);
                }
                last = t;
            }
            *cost = last.since(start).0 / READS;
        }
        costs.sort_unstable();
        let stated = clock_getres(ClockId::CLOCK_MONOTONIC)
            .map_or(1, |t| u64::try_from(t.tv_nsec()).unwrap_or(1));
        let cost = costs[BATCHES / 2].max(1);
        // The smallest step ever seen is at most the cost of a reading where the clock is finer
        // than that; then the kernel's stated resolution is the granularity.
        let granularity = if step > 2 * cost { step } else { stated };
        ClockQuality { cost: Nanos(cost), granularity: Nanos(granularity) }
    }
}

/// A clock that stands still until it is told to move. Clones share the same time.
#[derive(Debug, Clone, Default)]
pub struct SimulatedClock(Rc<Cell<u64>>);

impl SimulatedClock {
    /// A clock at `start`.
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

/// Readings of which the one with the narrowest bracket is taken.
const READINGS: usize = 16;

/// How far `CLOCK_REALTIME` is ahead of the monotonic clock, at the time of the reading.
///
/// It changes only where the wall clock is set, leap seconds among that: slewing has both clocks
/// run slower or faster alike (`clock_gettime(2)`). Who maps for long reads again from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealtimeOffset {
    offset: i128,
    error: Nanos,
}

impl RealtimeOffset {
    /// Reads both clocks, the one between two readings of the other.
    pub fn read() -> Self {
        let readings = (0..READINGS).map(|_| {
            let before = MonotonicClock.now();
            let wall = clock_gettime(ClockId::CLOCK_REALTIME)
                .expect("CLOCK_REALTIME exists on every Linux");
            let after = MonotonicClock.now();
            let wall = i128::from(wall.tv_sec()) * 1_000_000_000 + i128::from(wall.tv_nsec());
            Self::of(before, wall, after)
        });
        let narrowest = readings.min_by_key(|reading| reading.error);
        narrowest.expect("there is more than one reading")
    }

    /// The wall clock read `wall` at some instant between `before` and `after`.
    fn of(before: Instant, wall: i128, after: Instant) -> Self {
        let width = after.since(before).0;
        Self { offset: wall - i128::from(before.0 + width / 2), error: Nanos(width.div_ceil(2)) }
    }

    /// By how much an instant from [`Self::to_instant`] may be off, either way, if the clock was
    /// not set since.
    pub const fn error(&self) -> Nanos {
        self.error
    }

    /// The instant at which the wall clock told that time since the epoch; `None` for one before
    /// the monotonic clock's start.
    pub fn to_instant(&self, wall: Nanos) -> Option<Instant> {
        let instant = i128::from(wall.0) - self.offset;
        u64::try_from(instant).ok().map(Instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_half_the_bracket() {
        let offset = RealtimeOffset::of(Instant(100), 1_000_055, Instant(111));
        assert_eq!(offset.error(), Nanos(6));
        assert_eq!(offset.to_instant(Nanos(1_000_055)), Some(Instant(105)));
        assert_eq!(offset.to_instant(Nanos(10)), None, "before the start");
    }

    #[test]
    fn what_is_mapped_lies_between_two_readings() {
        let offset = RealtimeOffset::read();
        let before = MonotonicClock.now();
        let wall = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
        let after = MonotonicClock.now();
        let wall = Nanos(wall.tv_sec() as u64 * 1_000_000_000 + wall.tv_nsec() as u64);
        let mapped = offset.to_instant(wall).unwrap();
        // Both clocks are rounded down to the nanosecond.
        let slack = offset.error() + Nanos(2);
        assert!(mapped + slack >= before && mapped <= after + slack);
        assert!(offset.error() < Nanos::from_millis(1));
    }
}
