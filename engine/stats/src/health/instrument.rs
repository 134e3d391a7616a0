//! What disturbed an end from outside.

use super::generator::workers;
use crate::number::real;
use crate::result::{Instrument, Warning};
use tare_units::Nanos;

/// Steal beyond this share of the workers' time is a disturbance: what is taken comes in slices of
/// a millisecond and more, and this much of the time lies upon p99.9.
const STEAL_SHARE: f64 = 0.001;
/// Forced context switches, per worker and second, beyond which a run is disturbed. The
/// housekeeping of a quiet kernel forces a few, and where both ends spin on the only two CPUs of a
/// machine 20 to 70: one round trip in several thousand. A competitor for the CPU causes hundreds.
const SWITCHES_PER_S: f64 = 100.0;
/// Fewer forced switches than this are never a disturbance, however short the run.
const SWITCHES_MIN: u64 = 10;
/// A worker that could have run and waited for a CPU for a larger share of the measured phase was
/// disturbed: it was slower than alone by about so much. On an otherwise idle machine of two CPUs
/// workers waited for 0.02 to 6.7 % of the time; beside a process that never sleeps on each, for 31
/// to 67 %. Where operations are few, the client's waits are held against the time that these took.
const RUN_QUEUE_SHARE: f64 = 0.1;
/// A client that waited for a smaller share of the phase than this was not disturbed, however few
/// its operations: at 1,000 a second it is 0.02 to 0.07 %; beside the same spinners 4 % and more.
const RUN_QUEUE_LEAST: f64 = 0.01;
/// A spinning worker's longest turn is a stall if it is longer than a scheduler's slice, ns …
const STALL_NS: u64 = 1_000_000;
/// … and than so many times its p99: a worker whose turns are long by themselves is not accused.
const STALL_FACTOR: u64 = 100;

/// What disturbed an end during a measured phase of `duration`, in which operations took
/// `operating` of it.
pub(super) fn disturbances(end: &Instrument, duration: Nanos, operating: Nanos) -> Vec<Warning> {
    let worker_seconds = duration.as_secs_f64() * workers(end);
    let steal = Nanos(end.steal_ns.unwrap_or(0));
    let steal_share = steal.as_secs_f64() / worker_seconds;
    let steal = (steal > Nanos::ZERO && steal_share > STEAL_SHARE).then(|| {
        let message =
            format!("steal of {steal}, {:.2} % of the workers' time", steal_share * 100.0);
        Warning::new("steal", message, "run again, or on a machine whose CPUs are not shared")
    });
    let periods = end.throttled_periods.unwrap_or(0);
    let throttled = Nanos(end.throttled_ns.unwrap_or(0));
    let throttled = (periods > 0 || throttled > Nanos::ZERO).then(|| {
        let noun = if periods == 1 { "period" } else { "periods" };
        let message =
            format!("the cgroup's CPU limit stopped it for {throttled} in {periods} {noun}");
        let advice = "raise the CPU limit, or use --wait block and fewer --threads";
        Warning::new("throttled", message, advice)
    });
    let switches = end.involuntary_switches;
    let per_s = real(switches) / worker_seconds;
    let preempted = (switches >= SWITCHES_MIN && per_s > SWITCHES_PER_S).then(|| {
        let message = format!(
            "its workers had {switches} involuntary context switches ({per_s:.0} per worker and second)"
        );
        let advice = "give each worker a CPU of its own with --cpus, away from other work and from the server";
        Warning::new("preempted", message, advice)
    });
    let stall = STALL_NS.max(end.turn_p99_ns.saturating_mul(STALL_FACTOR));
    let stalled = (end.wait == "spin" && end.turn_max_ns > stall).then(|| {
        let (longest, p99) = (Nanos(end.turn_max_ns), Nanos(end.turn_p99_ns));
        let message = format!("the polling loop stalled for {longest} in one turn (p99: {p99})");
        let advice = "the maximum is suspect; use CPUs that nothing else uses (--cpus, isolcpus), or run again";
        Warning::new("stalled", message, advice)
    });
    let overflows = end.ring_overflows;
    let overflow = (overflows > 0).then(|| {
        let message = format!("its completion queue overflowed {overflows} times");
        let advice = "use fewer connections per worker, or more --threads";
        Warning::new("ring-overflow", message, advice)
    });
    let waited = waited_for_cpu(end, duration, operating);
    [steal, throttled, preempted, waited, stalled, overflow].into_iter().flatten().collect()
}

fn waited_for_cpu(end: &Instrument, duration: Nanos, operating: Nanos) -> Option<Warning> {
    let waited = Nanos(end.run_queue_ns.unwrap_or(0));
    let [of_phase, of_operations] =
        [duration, operating].map(|whole| waited.as_secs_f64() / whole.as_secs_f64());
    if duration == Nanos::ZERO || of_phase <= RUN_QUEUE_LEAST || of_operations <= RUN_QUEUE_SHARE {
        return None;
    }
    let of_operations = match operating < duration {
        true => format!(", {:.0} % of what operations took", of_operations * 100.0),
        false => String::new(),
    };
    let message = format!(
        "a worker had work and waited for a CPU for {waited} ({:.0} % of the time{of_operations}): something else ran on \
         it, and what was measured is slower for it",
        of_phase * 100.0
    );
    let advice =
        "end what else runs there (top shows it), or give each worker a CPU of its own with --cpus";
    Some(Warning::new("waited-for-cpu", message, advice))
}
