//! What the loop itself costs: the figures behind `latency_error_ns` and the `instrument` block.

use tare_stats::histogram::Coarse;
use tare_units::Nanos;

/// The loop's own record, to 2 significant figures. Reset at the start of a measured phase.
///
/// Coarse bins and no HdrHistogram: this is counted in every turn, and the turn is what bounds the
/// resolution of a spinning worker.
#[derive(Debug, Clone, Default)]
pub struct TurnCounters {
    /// Time from one reap to the next, less the sleep.
    turns: Coarse,
    /// The same for each arrival that is timed: how long it can have lain unseen.
    gaps: Coarse,
    turn_max: Nanos,
    elapsed: Nanos,
    busy: Nanos,
    /// Time in turns that looked without sleeping and found nothing; one worker's.
    polled: Nanos,
    frozen: bool,
}

impl TurnCounters {
    /// Notes one turn: the time not spent looking, the whole time, how many timed arrivals were
    /// reaped at its end, and how many completions came. Does not allocate.
    #[inline]
    pub fn note(&mut self, unwatched: Nanos, whole: Nanos, timed: u64, completions: usize) {
        if self.frozen {
            return;
        }
        self.turns.record(unwatched);
        if timed > 0 {
            self.gaps.record_n(unwatched, timed);
        }
        self.turn_max = self.turn_max.max(unwatched);
        self.elapsed = self.elapsed + whole;
        // A spinning turn that found nothing was idle; a sleeping one was busy until it slept.
        if completions > 0 || unwatched < whole {
            self.busy = self.busy + unwatched;
        } else {
            self.polled = self.polled + whole;
        }
    }

    pub(crate) fn reset(&mut self) {
        self.turns.reset();
        self.gaps.reset();
        self.turn_max = Nanos::ZERO;
        self.elapsed = Nanos::ZERO;
        self.busy = Nanos::ZERO;
        self.polled = Nanos::ZERO;
        self.frozen = false;
    }

    /// Notes nothing more until the next reset: what is measured is over.
    pub(crate) const fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Adds another worker's record; the share of busy time becomes the larger of the two.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.turns.merge(&other.turns);
        self.gaps.merge(&other.gaps);
        self.turn_max = self.turn_max.max(other.turn_max);
        if other.busy_share() > self.busy_share() {
            self.elapsed = other.elapsed;
            self.busy = other.busy;
        }
    }

    pub(crate) fn turn_p50(&self) -> Nanos {
        self.turns.quantile(50).min(self.turn_max)
    }

    pub(crate) fn turn_p99(&self) -> Nanos {
        self.turns.quantile(99).min(self.turn_max)
    }

    pub(crate) const fn turn_max(&self) -> Nanos {
        self.turn_max
    }

    pub(crate) const fn gaps(&self) -> &Coarse {
        &self.gaps
    }

    pub(crate) fn gap_p99(&self) -> Nanos {
        self.gaps.quantile(99).min(self.turn_max)
    }

    pub(crate) const fn polled(&self) -> Nanos {
        self.polled
    }

    /// The share of its time that the worker was doing something, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn busy_share(&self) -> f64 {
        if self.elapsed.0 == 0 { 0.0 } else { self.busy.0 as f64 / self.elapsed.0 as f64 }
    }
}
