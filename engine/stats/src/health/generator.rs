//! Whether the generator could do what was asked of it, and what else sends waited for.

use crate::number::{real, whole};
use crate::result::{Flow, Instrument, StepResult};
use tare_units::Nanos;

/// A worker that is busy for a larger share of its time, on a schedule, is saturated: by then an
/// arrival finds it at other work nine times in ten, and by queueing theory (M/D/1) waits 4.5 times
/// the cost of an operation in the mean.
const BUSY_OPEN_LOOP: f64 = 0.9;
/// In closed loop the same is said of a worker with several connections: load gives way when it is
/// slow. With one connection a worker is never the bottleneck: either it or the path is at work.
const BUSY_CLOSED_LOOP: f64 = 0.95;
/// Lateness (p99) is large if it is beyond the gap between two sends of a worker, for then sends
/// wait for each other, and beyond this, ns: a wake-up takes 50–60 µs on a virtual machine.
const LATENESS_FLOOR_NS: u64 = 100_000;
/// Sending less than this share of what was due is falling behind; the rest is the end of the run.
pub(super) const SENT_SHARE: f64 = 0.99;
/// When connections are in use for a larger share of the time than this, sends wait for a free one.
pub(super) const CONNECTIONS_BUSY: f64 = 0.5;
/// Operations that were late waited for the generator if a connection was free for more than this
/// share of their waiting, and else for a connection.
const AWAY_SHARE: f64 = 0.5;

/// Why the generator, not the path, was the bottleneck of a step; absent if it was not.
pub(super) fn saturation(step: &StepResult) -> Option<String> {
    let client = &step.instrument.client;
    let busy = client.worker_busy_max;
    let busiest = format!("its busiest worker was busy {:.0} % of the time", busy * 100.0);
    if step.params.bulk.is_some() {
        // Of bulk runs only a pace can be kept or not, and it is the client's where it sends.
        let (_, sends, share) = paced_behind(step)
            .filter(|(way, ..)| *way == "up")
            .filter(|_| busy >= BUSY_OPEN_LOOP)?;
        let share = share * 100.0;
        return Some(format!(
            "it made {sends} of the sends that were due ({share:.1} %), and {busiest}"
        ));
    }
    let Some(target_per_s) = step.rate.target_per_s else {
        let several = f64::from(step.params.connections) > workers(client);
        return (several && busy >= BUSY_CLOSED_LOOP).then_some(busiest);
    };
    if busy >= BUSY_OPEN_LOOP {
        return Some(busiest);
    }
    if !waited_for_generator(step) {
        return None;
    }
    let late = late(step, target_per_s).map(|(lateness, gap)| {
        format!("99 % of its sends were up to {lateness} late, with a send due every {gap} on each worker")
    });
    late.or_else(|| {
        let (due, share) = behind(step)?;
        let sent = step.operations.sent;
        Some(format!("it sent {sent} of {due} operations that were due ({:.1} %)", share * 100.0))
    })
}

/// The directions of a bulk step that carried anything; empty of any other step.
pub(super) fn flows(step: &StepResult) -> impl Iterator<Item = (&'static str, &Flow)> {
    let own = step.params.bulk.is_some() && step.params.load().is_none();
    let bandwidth = step.bandwidth.as_ref().filter(|_| own);
    let flows = bandwidth.map(|b| [("up", b.up.as_ref()), ("down", b.down.as_ref())]);
    flows.into_iter().flatten().filter_map(|(way, flow)| Some((way, flow?)))
}

/// The first direction whose sender made too few of the sends that were due: how many it made, and
/// the share.
pub(super) fn paced_behind(step: &StepResult) -> Option<(&'static str, u64, f64)> {
    flows(step).find_map(|(way, flow)| {
        let due = flow.sends + flow.pacing.as_ref()?.unsent;
        let made = share(flow.sends, due);
        (due > 0 && made < SENT_SHARE).then_some((way, flow.sends, made))
    })
}

/// Sends were late for want of a free connection.
pub(super) fn waited_for_connections(step: &StepResult) -> Option<String> {
    let late = late(step, step.rate.target_per_s?).is_some() || behind(step).is_some();
    if !late || waited_for_generator(step) {
        return None;
    }
    let busy = connections_busy(step);
    Some(if busy > CONNECTIONS_BUSY {
        format!(
            "sends waited for a free connection: {:.0} % of the connections were in use in the mean",
            busy.min(1.0) * 100.0
        )
    } else {
        format!(
            "sends waited for a free connection, as many as {} at once: for a time all connections waited for answers or \
             were down",
            step.rate.backlog_max.unwrap_or(0)
        )
    })
}

/// What was late waited for the generator rather than for a connection: most of the lateness,
/// summed over all that was due, was spent while a connection was free.
fn waited_for_generator(step: &StepResult) -> bool {
    let away_ns = real(step.rate.generator_away_ns.unwrap_or(0));
    let lateness = step.latency.lateness.as_ref();
    let late_ns = lateness.and_then(|lateness| Some(lateness.mean_ns? * real(lateness.count)));
    late_ns.is_some_and(|late_ns| away_ns > AWAY_SHARE * late_ns)
}

/// Sends were later than the gap between them: the p99 of lateness, and the gap.
fn late(step: &StepResult, target_per_s: f64) -> Option<(Nanos, Nanos)> {
    let lateness = step.latency.lateness.as_ref()?.p99_ns?;
    let gap = whole(workers(&step.instrument.client) / target_per_s * 1e9);
    (lateness > gap.max(LATENESS_FLOOR_NS)).then_some((Nanos(lateness), Nanos(gap)))
}

/// Fewer operations were sent than were due: how many were due, and the share that was sent.
fn behind(step: &StepResult) -> Option<(u64, f64)> {
    let operations = &step.operations;
    // What found no free connection was not the generator's to send.
    let due = operations.due.saturating_sub(operations.dropped);
    let sent = share(operations.sent, due);
    (due > 0 && sent < SENT_SHARE).then_some((due, sent))
}

/// The share of the connections that had an operation outstanding (by Little's law, the rate of
/// sends times the mean service time, over the connections) or were being reopened, in the mean.
pub(super) fn connections_busy(step: &StepResult) -> f64 {
    let seconds = Nanos(step.duration_ns).as_secs_f64();
    let service_s = step.latency.service.mean_ns.unwrap_or(0.0) / 1e9;
    let each = step.params.http.as_ref().map_or(1, |http| http.pipeline);
    let connections = f64::from(step.params.connections.max(1)) * f64::from(each.max(1));
    if seconds > 0.0 {
        real(step.operations.sent) / seconds * service_s / connections
            + share_of_connections(step, step.connections.connecting_ns)
    } else {
        0.0
    }
}

/// A time that is summed over connections as a share of the measured phase of each, in the mean.
pub(super) fn share_of_connections(step: &StepResult, sum_ns: Option<u64>) -> f64 {
    let all_ns = real(step.duration_ns) * f64::from(step.params.connections.max(1));
    match sum_ns {
        Some(ns) if all_ns > 0.0 => (real(ns) / all_ns).min(1.0),
        _ => 0.0,
    }
}

pub(super) fn share(part: u64, whole: u64) -> f64 {
    real(part) / real(whole.max(1))
}

pub(super) fn workers(end: &Instrument) -> f64 {
    real(end.cpus.len().max(1) as u64)
}
