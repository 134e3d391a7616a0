//! The wall clock against the monotonic one: kernel timestamps are of the former, everything else here of the latter.

use nix::time::{ClockId, clock_gettime};

use crate::clock::{Clock, MonotonicClock};
use tare_units::{Instant, Nanos};

/// Readings of which the one with the narrowest bracket is taken.
const READINGS: usize = 16;

/// How far `CLOCK_REALTIME` is ahead of the monotonic clock, at the time of the reading.
///
/// It changes only where the wall clock is set, leap seconds among that: slewing has both clocks run slower or faster alike
/// (`clock_gettime(2)`). Who maps for long reads anew from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealtimeOffset {
    offset: i128,
    error: Nanos,
}

impl RealtimeOffset {
    /// Reads both clocks, the one between two readings of the other.
    #[must_use]
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

    /// By how much an instant from [`Self::to_instant`] may be off, either way, if the clock was not set since.
    #[must_use]
    pub const fn error(&self) -> Nanos {
        self.error
    }

    /// The instant at which the wall clock told that time since the epoch; `None` for one before the monotonic clock's
    /// start.
    #[must_use]
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
