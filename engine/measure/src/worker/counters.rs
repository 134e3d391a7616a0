//! What the loop itself costs: the figures behind `latency_error_ns` and the `instrument` block.

use tare_host::usage::CpuTimes;
use tare_proto::hello::WaitMode;
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
        (self.turn_max, self.elapsed, self.busy, self.polled) = Default::default();
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

    /// The share of its time that the worker was doing something, 0 to 1.
    pub(crate) fn busy_share(&self) -> f64 {
        if self.elapsed.0 == 0 { 0.0 } else { self.busy.0 as f64 / self.elapsed.0 as f64 }
    }

    /// The CPU time that a thread spent on looking for work and finding none, nanoseconds. The
    /// loop's clock goes on while something else has the CPU, so what the thread waited for it is
    /// taken off: all of it, whatever the thread was at, so that no work is taken for polling.
    pub(crate) fn polling_ns(&self, used: &CpuTimes) -> u64 {
        let waited = used.run_queue_ns.unwrap_or(0);
        self.polled.0.saturating_sub(waited)
    }

    /// The share of `elapsed` that a worker's thread was at work, 0 to 1.
    ///
    /// One that spins, now and then or always, is on its CPU while it has nothing to do: its own
    /// loop tells which turns found something. Asleep, the loop cannot tell its system calls from
    /// its sleep: the kernel's account can.
    pub(crate) fn busy_share_of(&self, wait: WaitMode, used: &CpuTimes, elapsed: Nanos) -> f64 {
        if wait != WaitMode::Block {
            return self.busy_share();
        }
        let busy = (used.user_ns + used.system_ns) as f64;
        if elapsed == Nanos::ZERO { 0.0 } else { (busy / elapsed.0 as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_that_found_nothing_and_waits_for_the_cpu_are_no_work() {
        let mut counters = TurnCounters::default();
        for turn in 0..100 {
            let long = Nanos::from_micros(1);
            counters.note(long, long, 0, usize::from(turn % 10 == 0));
        }
        assert_eq!(counters.polled, Nanos::from_micros(90));
        let used = CpuTimes { user_ns: 95_000, ..CpuTimes::default() };
        for (wait, share) in
            [(WaitMode::Hybrid, 0.1), (WaitMode::Spin, 0.1), (WaitMode::Block, 0.95)]
        {
            let found = counters.busy_share_of(wait, &used, Nanos::from_micros(100));
            assert!((found - share).abs() < 1e-9, "{wait:?}");
        }
        let mut counters = TurnCounters::default();
        counters.note(Nanos(900), Nanos(900), 0, 0);
        counters.note(Nanos(100), Nanos(100), 0, 1);
        let waiting = |run_queue_ns| CpuTimes { user_ns: 500, run_queue_ns, ..CpuTimes::default() };
        for (waited, polled) in [(None, 900), (Some(0), 900), (Some(500), 400), (Some(5_000), 0)] {
            assert_eq!(counters.polling_ns(&waiting(waited)), polled, "{waited:?}");
        }
    }
}
