//! What the loop itself costs: the figures behind `latency_error_ns` and the `instrument` block.

use hdrhistogram::Histogram;

use crate::units::Nanos;

/// Turns longer than this are counted at this length; the exact maximum is kept beside.
const TURN_MAX_NS: u64 = 10_000_000_000;

/// The loop's own record. Reset at the start of a measured phase.
#[derive(Debug, Clone)]
pub struct TurnCounters {
    /// Time from one reap to the next, less the sleep.
    turns: Histogram<u64>,
    /// The same for turns that brought an arrival which is timed: how long it can have lain unseen.
    gaps: Histogram<u64>,
    turn_max: Nanos,
    elapsed: Nanos,
    busy: Nanos,
    frozen: bool,
}

impl Default for TurnCounters {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, TURN_MAX_NS, 2).expect("the bounds are valid");
        Self {
            turns: histogram(),
            gaps: histogram(),
            turn_max: Nanos::ZERO,
            elapsed: Nanos::ZERO,
            busy: Nanos::ZERO,
            frozen: false,
        }
    }
}

impl TurnCounters {
    /// Notes one turn: the time not spent looking, the whole time, whether a timed arrival was reaped at its
    /// end, and how many completions came. Does not allocate.
    #[inline]
    pub fn note(&mut self, unwatched: Nanos, whole: Nanos, timed: bool, completions: usize) {
        if self.frozen {
            return;
        }
        self.turns.saturating_record(unwatched.0);
        if timed {
            self.gaps.saturating_record(unwatched.0);
        }
        self.turn_max = self.turn_max.max(unwatched);
        self.elapsed = self.elapsed + whole;
        // A spinning turn that found nothing was idle; a sleeping one was busy until it slept.
        if completions > 0 || unwatched < whole {
            self.busy = self.busy + unwatched;
        }
    }

    /// Forgets everything so far.
    pub fn reset(&mut self) {
        self.turns.reset();
        self.gaps.reset();
        self.turn_max = Nanos::ZERO;
        self.elapsed = Nanos::ZERO;
        self.busy = Nanos::ZERO;
        self.frozen = false;
    }

    /// Notes nothing more until the next reset: what is measured is over.
    pub const fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Adds another worker's record; the share of busy time becomes the larger of the two.
    pub fn merge(&mut self, other: &Self) {
        self.turns.add(&other.turns).expect("equal bounds");
        self.gaps.add(&other.gaps).expect("equal bounds");
        self.turn_max = self.turn_max.max(other.turn_max);
        if other.busy_share() > self.busy_share() {
            self.elapsed = other.elapsed;
            self.busy = other.busy;
        }
    }

    /// Median turn.
    #[must_use]
    pub fn turn_p50(&self) -> Nanos {
        Nanos(self.turns.value_at_quantile(0.5)).min(self.turn_max)
    }

    /// 99th percentile of the turns.
    #[must_use]
    pub fn turn_p99(&self) -> Nanos {
        Nanos(self.turns.value_at_quantile(0.99)).min(self.turn_max)
    }

    /// The longest turn.
    #[must_use]
    pub const fn turn_max(&self) -> Nanos {
        self.turn_max
    }

    /// 99th percentile of the time not looking before the reap of a timed arrival.
    #[must_use]
    pub fn gap_p99(&self) -> Nanos {
        Nanos(self.gaps.value_at_quantile(0.99)).min(self.turn_max)
    }

    /// The share of its time that the worker was doing something, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn busy_share(&self) -> f64 {
        if self.elapsed.0 == 0 {
            0.0
        } else {
            self.busy.0 as f64 / self.elapsed.0 as f64
        }
    }
}
