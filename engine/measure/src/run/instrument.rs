//! The `instrument` block: what the loop counted, and what the kernel saw happen to it.

use super::step::WorkerResult;
use crate::worker::TurnCounters;
use tare_driver::clock::ClockQuality;
use tare_host::tuning::Wakeups;
use tare_host::usage::{CpuTimes, Disturbance};
use tare_stats::histogram::Added;
use tare_stats::result::{CpuUse, Instrument};
use tare_units::Nanos;

/// What a worker's own loop and thread tell, and what the kernel counted beside.
pub(crate) fn of_worker(
    counters: &TurnCounters,
    clock: ClockQuality,
    used: &CpuTimes,
    disturbance: &Disturbance,
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
        steal_ns: disturbance.steal_ns,
        throttled_periods: disturbance.throttled_periods,
        throttled_ns: disturbance.throttled_ns,
        ..Instrument::default()
    }
}

/// What the whole machine of that end did meanwhile.
pub(crate) fn machine_use(disturbance: &Disturbance) -> CpuUse {
    CpuUse {
        machine_busy: disturbance.machine_busy,
        machine_softirq: disturbance.machine_softirq,
        machine_softnet_dropped: disturbance.softnet.map(|seen| seen.dropped),
        machine_softnet_squeezed: disturbance.softnet.map(|seen| seen.squeezed),
        ..CpuUse::default()
    }
}

/// `latency_error_ns`, as its definition in [`tare_stats::result::StepResult`] says. A spinning
/// worker's wake-up is not part of it; a sleeping one's is.
pub(crate) fn latency_error(instrument: &Instrument) -> Nanos {
    let wakeup = instrument.wakeup_p99_ns.unwrap_or(0);
    Nanos(fixed_error(instrument) + instrument.gap_p99_ns + wakeup)
}

/// What of it every latency has alike, nanoseconds.
const fn fixed_error(instrument: &Instrument) -> u64 {
    instrument.clock_ns + instrument.clock_granularity_ns + instrument.batch_bound_ns
}

/// What the instrument can have added to the latencies of a step, by share of them.
pub(crate) fn added<T>(instrument: &Instrument, result: &WorkerResult<T>) -> Added {
    let wakeups = result.wakeups.as_ref().map(Wakeups::ascending);
    // As in `latency_error`: awake all the time, a worker has none.
    let wakeups = wakeups.filter(|_| instrument.wakeup_p99_ns.is_some());
    Added::new(Nanos(fixed_error(instrument)), result.counters.gaps(), wakeups)
}

#[cfg(test)]
mod tests {
    use super::*;

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
