//! The `instrument` block: what the loop counted, and what the kernel saw happen to it.

use super::step::WorkerResult;
use crate::worker::TurnCounters;
use tare_driver::clock::ClockQuality;
use tare_host::tuning::Wakeups;
use tare_host::usage::{CpuTimes, Disturbance};
use tare_proto::hello::WaitMode;
use tare_stats::histogram::Added;
use tare_stats::result::Instrument;
use tare_units::Nanos;

/// What a worker's own loop and thread tell.
pub(crate) fn of_worker(
    counters: &TurnCounters,
    clock: ClockQuality,
    used: &CpuTimes,
) -> Instrument {
    Instrument {
        clock_ns: clock.cost.0,
        clock_granularity_ns: clock.granularity.0,
        turn_p50_ns: counters.turn_p50().0,
        turn_p99_ns: counters.turn_p99().0,
        turn_max_ns: counters.turn_max().0,
        gap_p99_ns: counters.gap_p99().0,
        worker_busy_max: counters.busy_share(),
        involuntary_switches: used.involuntary_switches,
        voluntary_switches: used.voluntary_switches,
        run_queue_ns: used.run_queue_ns,
        ..Instrument::default()
    }
}

/// The CPU time that a thread spent on looking for work and finding none, nanoseconds. The loop's
/// clock goes on while something else has the CPU, so what the thread waited for it is taken off:
/// all of it, whatever the thread was at, so that no work is taken for polling.
pub(crate) fn polling_ns(counters: &TurnCounters, used: &CpuTimes) -> u64 {
    let waited = used.run_queue_ns.unwrap_or(0);
    counters.polled().0.saturating_sub(waited)
}

/// Adds what the kernel counted beside.
pub(crate) fn disturb(instrument: &mut Instrument, disturbance: &Disturbance) {
    instrument.steal_ns = disturbance.steal_ns;
    instrument.throttled_periods = disturbance.throttled_periods;
    instrument.throttled_ns = disturbance.throttled_ns;
}

/// The share of `elapsed` that a worker's thread was at work, 0 to 1.
///
/// One that spins, now and then or always, is on its CPU while it has nothing to do: its own loop
/// tells which turns found something. Asleep, the loop cannot tell its system calls from its sleep:
/// the kernel's account can.
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(super) fn busy_share(
    wait: WaitMode,
    counters: &TurnCounters,
    used: &CpuTimes,
    elapsed: Nanos,
) -> f64 {
    if wait != WaitMode::Block {
        return counters.busy_share();
    }
    let busy = (used.user_ns + used.system_ns) as f64;
    if elapsed == Nanos::ZERO { 0.0 } else { (busy / elapsed.0 as f64).min(1.0) }
}

/// `latency_error_ns`, as its definition in [`tare_stats::result::StepResult`] says. A spinning
/// worker's wake-up is not part of it; a sleeping one's is.
pub(crate) const fn latency_error(instrument: &Instrument) -> Nanos {
    let wakeup = match instrument.wakeup_p99_ns {
        Some(ns) => ns,
        None => 0,
    };
    Nanos(
        instrument.clock_ns
            + instrument.clock_granularity_ns
            + instrument.gap_p99_ns
            + wakeup
            + instrument.batch_bound_ns,
    )
}

/// What the instrument can have added to the latencies of a step, by share of them.
pub(crate) fn added<T>(instrument: &Instrument, result: &WorkerResult<T>) -> Added {
    let fixed = instrument.clock_ns + instrument.clock_granularity_ns + instrument.batch_bound_ns;
    let wakeups = result.wakeups.as_ref().map(Wakeups::ascending);
    // As in `latency_error`: awake all the time, a worker has none.
    let wakeups = wakeups.filter(|_| instrument.wakeup_p99_ns.is_some());
    Added::new(Nanos(fixed), result.counters.gaps(), wakeups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_that_found_nothing_are_no_work() {
        let mut counters = TurnCounters::default();
        for turn in 0..100 {
            let long = Nanos::from_micros(1);
            counters.note(long, long, 0, usize::from(turn % 10 == 0));
        }
        assert_eq!(counters.polled(), Nanos::from_micros(90));
        let used = CpuTimes { user_ns: 95_000, ..CpuTimes::default() };
        let share = |wait| busy_share(wait, &counters, &used, Nanos::from_micros(100));
        assert!((share(WaitMode::Hybrid) - 0.1).abs() < 1e-9);
        assert!((share(WaitMode::Spin) - 0.1).abs() < 1e-9);
        assert!((share(WaitMode::Block) - 0.95).abs() < 1e-9);
    }

    #[test]
    fn a_cpu_that_was_waited_for_was_not_polled_on() {
        let mut counters = TurnCounters::default();
        counters.note(Nanos(900), Nanos(900), 0, 0);
        counters.note(Nanos(100), Nanos(100), 0, 1);
        let waiting = |run_queue_ns| CpuTimes { user_ns: 500, run_queue_ns, ..CpuTimes::default() };
        assert_eq!(polling_ns(&counters, &waiting(None)), 900);
        assert_eq!(polling_ns(&counters, &waiting(Some(0))), 900);
        assert_eq!(polling_ns(&counters, &waiting(Some(500))), 400);
        assert_eq!(polling_ns(&counters, &waiting(Some(5_000))), 0);
    }

    #[test]
    fn the_error_is_the_sum_of_its_parts() {
        let spinning = Instrument {
            clock_ns: 20,
            clock_granularity_ns: 1,
            gap_p99_ns: 400,
            ..Instrument::default()
        };
        assert_eq!(latency_error(&spinning), Nanos(421));
        let sleeping = Instrument { wakeup_p99_ns: Some(50_000), ..spinning };
        assert_eq!(latency_error(&sleeping), Nanos(50_421));
    }
}
