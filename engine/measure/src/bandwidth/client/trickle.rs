//! A stream that ends by bytes and hardly moves: no silence ends it, and no clock.

use tare_units::bounds::{BYTES_IN_TIMEOUT_MIN, SLOW_TIMEOUTS};
use tare_units::{Instant, Nanos};

/// Looks at what was moved in one stretch of time after the other.
#[derive(Debug)]
pub(super) struct Trickle {
    began_at: Instant,
    /// Moved by then, bytes.
    moved: u64,
}

impl Trickle {
    pub(super) const fn new(now: Instant) -> Self {
        Self { began_at: now, moved: 0 }
    }

    /// `moved` bytes in all by `now`. `patience` is how long nothing at all may move; a paced
    /// stream is to send `bytes_per_s`. Returns what a stretch brought that was too slow, and how
    /// long it was.
    pub(super) fn look(
        &mut self,
        now: Instant,
        moved: u64,
        patience: Nanos,
        bytes_per_s: Option<u64>,
    ) -> Option<(u64, Nanos)> {
        let took = now.since(self.began_at);
        if took.0 < patience.0.saturating_mul(SLOW_TIMEOUTS) {
            return None;
        }
        // Half of what was asked for is slow, and no trickle.
        let asked = bytes_per_s
            .map_or(u128::MAX, |rate| u128::from(rate) * u128::from(took.0) / 2_000_000_000);
        let least = u128::from(BYTES_IN_TIMEOUT_MIN * SLOW_TIMEOUTS).min(asked);
        let moved_now = moved.saturating_sub(self.moved);
        (self.began_at, self.moved) = (now, moved);
        (u128::from(moved_now) < least).then_some((moved_now, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Nanos = Nanos::from_secs(2);

    const fn s(n: u64) -> Instant {
        Instant(n * 1_000_000_000)
    }

    /// When a stream that moves so many bytes a second is given up, seconds.
    fn given_up(bytes_per_s: u64, asked: Option<u64>) -> Option<u64> {
        let mut trickle = Trickle::new(s(0));
        // What fills the buffers at first counts for the first stretch alone.
        let moved = |at| 1_000_000 + at * bytes_per_s;
        (0..3_600).find(|&at| trickle.look(s(at), moved(at), TIMEOUT, asked).is_some())
    }

    #[test]
    fn a_trickle_ends_and_a_stream_as_slow_as_its_path_or_as_asked_does_not() {
        for (bytes_per_s, asked, ends) in [
            (1, None, Some(20)),
            (500, None, Some(20)),
            (520, None, None),
            (30, Some(30), None),
            (16, Some(30), None),
            (14, Some(30), Some(20)),
        ] {
            assert_eq!(given_up(bytes_per_s, asked), ends, "{bytes_per_s} of {asked:?}");
        }
    }
}
