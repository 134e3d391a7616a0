//! Whether the numbers can be believed: was the generator the bottleneck, was anything disturbed from outside.
//!
//! Two different faults are told apart. *Saturated*: the generator could not do what was asked of it, so what
//! was measured is the generator; more of it, or less load, helps. *Disturbed*: something else took the CPU
//! away at times, so the same run may come out otherwise; quiet helps, or doing it again. Each threshold is a constant below
//! with its reason.

mod bulk;
mod http;
mod observed;
mod rate;

use crate::result::{Instrument, StepResult, Warning};
use tare_units::Nanos;

/// A worker that is busy for a larger share of its time, on a schedule, is saturated: by then an arrival finds it
/// at other work nine times in ten, and by queueing theory (M/D/1) waits 4.5 times the cost of an operation in
/// the mean.
pub const BUSY_OPEN_LOOP: f64 = 0.9;
/// In closed loop the same is said of a worker with several connections. The limit is higher, since there load
/// gives way when the worker is slow and nothing queues without bound. With one connection a worker is
/// never the bottleneck: either it or the path is at work.
pub const BUSY_CLOSED_LOOP: f64 = 0.95;
/// Lateness (p99) is large if it is beyond the gap between two sends of a worker, for then sends wait for
/// each other, and beyond this, ns: the wake-up of a sleeping worker, which is lateness without being saturation, takes
/// 50–60 µs on a virtual machine.
pub const LATENESS_FLOOR_NS: u64 = 100_000;
/// Sending less than this share of what was due is falling behind; the rest is the end of the run.
pub const SENT_SHARE: f64 = 0.99;
/// When connections are in use for a larger share of the time than this, sends wait for a free one, and being late is
/// the path's or the server's doing rather than the worker's.
pub const CONNECTIONS_BUSY: f64 = 0.5;
/// Operations that were late waited for the generator if a connection was free for more than this share of their waiting, and
/// else for a connection.
pub const AWAY_SHARE: f64 = 0.5;
/// Steal beyond this share of the workers' time is a disturbance: what is taken comes in slices of a
/// millisecond and more, and this much of the time lies upon p99.9.
pub const STEAL_SHARE: f64 = 0.001;
/// Forced context switches, per worker and second, beyond which a run is disturbed. The housekeeping of a quiet
/// kernel (per-CPU threads, RCU, timers) forces a few, and where both ends spin on the only two CPUs of a machine
/// 20 to 70, since it has nowhere else to go: one round trip in several thousand. A competitor for the CPU
/// causes hundreds.
pub const SWITCHES_PER_S: f64 = 100.0;
/// Fewer forced switches than this are never a disturbance, however short the run.
pub const SWITCHES_MIN: u64 = 10;
/// A worker that could have run and waited for a CPU for a larger share of the measured phase was disturbed: it was slower
/// than alone by about so much. With both ends on the two CPUs of an otherwise idle virtual machine, workers waited for
/// 0.02 to 6.7 % of the time, whatever they measured; beside a process that never sleeps on each CPU, for 31 to 67 %.
/// Where operations are few, the client's waits are held against the time that these took together, for they stand in it.
pub const RUN_QUEUE_SHARE: f64 = 0.1;
/// A client that waited for a smaller share of the measured phase than this was not disturbed, however few its operations:
/// on an idle machine, at 1,000 requests a second, it is 0.02 to 0.07 %; beside the same spinners 4 % and more.
pub const RUN_QUEUE_LEAST: f64 = 0.01;
/// A spinning worker's longest turn is a stall if it is longer than this, ns: a millisecond is a scheduler's slice or
/// a hypervisor's, and a thousand times what a turn does.
pub const STALL_NS: u64 = 1_000_000;
/// … and longer than that many times its p99, so that a worker whose turns are long by themselves is not accused.
pub const STALL_FACTOR: u64 = 100;
/// An error of the instrument of more than this share of the median is worth a warning. On loopback, spinning, the
/// receive call alone is a fifth of a round trip of 6 µs, so a lower bound would warn of every such run.
pub const ERROR_SHARE: f64 = 0.5;

/// Something from outside that disturbed an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disturbance {
    /// Stable name: `steal`, `throttled`, `preempted`, `waited-for-cpu`, `stalled`, `ring-overflow`.
    pub code: &'static str,
    /// What happened, with its figure.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// What disturbed an end during a measured phase of `duration`, in which operations took `operating` of it.
#[must_use]
pub fn disturbances(end: &Instrument, duration: Nanos, operating: Nanos) -> Vec<Disturbance> {
    let workers = workers(end);
    let seconds = duration.as_secs_f64();
    let mut found = Vec::new();
    let steal = Nanos(end.steal_ns.unwrap_or(0));
    let steal_share = steal.as_secs_f64() / (seconds * workers);
    if steal > Nanos::ZERO && steal_share > STEAL_SHARE {
        found.push(Disturbance {
            code: "steal",
            message: format!(
                "the hypervisor took {steal} ({:.2} %) of the workers' time",
                steal_share * 100.0
            ),
            advice: "run again, or on a machine whose CPUs are not shared",
        });
    }
    let periods = end.throttled_periods.unwrap_or(0);
    let throttled = Nanos(end.throttled_ns.unwrap_or(0));
    if periods > 0 || throttled > Nanos::ZERO {
        found.push(Disturbance {
            code: "throttled",
            message: format!(
                "the cgroup's CPU limit stopped it for {throttled} in {periods} {}",
                if periods == 1 { "period" } else { "periods" }
            ),
            advice: "raise the CPU limit, or use --wait block and fewer --threads",
        });
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of switches")]
    let switches_per_s = end.involuntary_switches as f64 / (seconds * workers);
    if end.involuntary_switches >= SWITCHES_MIN && switches_per_s > SWITCHES_PER_S {
        found.push(Disturbance {
            code: "preempted",
            message: format!(
                "its workers were forced off their CPUs {} times ({switches_per_s:.0} per worker and second)",
                end.involuntary_switches
            ),
            advice: "give each worker a CPU of its own with --cpus, away from other work and from the far end",
        });
    }
    let waited = Nanos(end.run_queue_ns.unwrap_or(0));
    let [of_phase, of_operations] =
        [duration, operating].map(|whole| waited.as_secs_f64() / whole.as_secs_f64());
    if duration > Nanos::ZERO && of_phase > RUN_QUEUE_LEAST && of_operations > RUN_QUEUE_SHARE {
        found.push(Disturbance {
            code: "waited-for-cpu",
            message: format!(
                "a worker had work and waited for a CPU for {waited} ({:.0} % of the time{}): something else ran on it, and \
                 what was measured is slower for it",
                of_phase * 100.0,
                match operating < duration {
                    true => format!(", {:.0} % of what operations took", of_operations * 100.0),
                    false => String::new(),
                }
            ),
            advice: "end what else runs there (top shows it), or give each worker a CPU of its own with --cpus",
        });
    }
    let stall = STALL_NS.max(end.turn_p99_ns.saturating_mul(STALL_FACTOR));
    if end.wait == "spin" && end.turn_max_ns > stall {
        found.push(Disturbance {
            code: "stalled",
            message: format!(
                "a spinning worker was away for {} in one turn (p99: {})",
                Nanos(end.turn_max_ns),
                Nanos(end.turn_p99_ns)
            ),
            advice: "the maximum is suspect; use CPUs that nothing else uses (--cpus, isolcpus), or run again",
        });
    }
    if end.ring_overflows > 0 {
        found.push(Disturbance {
            code: "ring-overflow",
            message: format!("its completion queue overflowed {} times", end.ring_overflows),
            advice: "use fewer connections per worker, or more --threads",
        });
    }
    found
}

/// Why the generator, not the path, was the bottleneck of a step; absent if it was not.
#[must_use]
pub fn saturation(step: &StepResult) -> Option<String> {
    if step.params.bulk.is_some() {
        return bulk::saturation(step);
    }
    let client = &step.instrument.client;
    let busy = client.worker_busy_max;
    let busy_words = || format!("its busiest worker was busy {:.0} % of the time", busy * 100.0);
    let Some(target_per_s) = step.rate.target_per_s else {
        let several = f64::from(step.params.connections) > workers(client);
        return (several && busy >= BUSY_CLOSED_LOOP).then(busy_words);
    };
    if busy >= BUSY_OPEN_LOOP {
        return Some(busy_words());
    }
    if !waited_for_generator(step) {
        return None;
    }
    let late = late(step, target_per_s).map(|(lateness, gap)| {
        format!("99 % of its sends were up to {lateness} late, with a send due every {gap} on each worker")
    });
    late.or_else(|| behind(step))
}

/// What was late waited for the generator rather than for a connection: most of the lateness, summed over all that was due,
/// was spent while a connection was free.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
fn waited_for_generator(step: &StepResult) -> bool {
    let away_ns = step.rate.generator_away_ns.unwrap_or(0) as f64;
    let lateness = step.latency.lateness.as_ref();
    let late_ns = lateness.and_then(|lateness| Some(lateness.mean_ns? * lateness.count as f64));
    late_ns.is_some_and(|late_ns| away_ns > AWAY_SHARE * late_ns)
}

/// Sends were later than the gap between them: the p99 of lateness, and the gap.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gap between sends in nanoseconds, positive; the cast saturates"
)]
fn late(step: &StepResult, target_per_s: f64) -> Option<(Nanos, Nanos)> {
    let lateness = step.latency.lateness.as_ref()?.p99_ns?;
    let gap = (workers(&step.instrument.client) / target_per_s * 1e9) as u64;
    (lateness > gap.max(LATENESS_FLOOR_NS)).then_some((Nanos(lateness), Nanos(gap)))
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
fn behind(step: &StepResult) -> Option<String> {
    let operations = &step.operations;
    // What found no free connection was not the generator's to send.
    let due = operations.due.saturating_sub(operations.dropped);
    let share = operations.sent as f64 / due.max(1) as f64;
    (due > 0 && share < SENT_SHARE).then(|| {
        format!(
            "it sent {} of {due} operations that were due ({:.1} %)",
            operations.sent,
            share * 100.0
        )
    })
}

/// The share of the connections that had an operation outstanding or were being opened anew, in the mean: by Little's
/// law, the rate of sends times the mean service time, over the connections; and the time that connecting took.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
fn connections_busy(step: &StepResult) -> f64 {
    let seconds = Nanos(step.duration_ns).as_secs_f64();
    let service_s = step.latency.service.mean_ns.unwrap_or(0.0) / 1e9;
    let each = step.params.http.as_ref().map_or(1, |http| http.pipeline);
    let connections = f64::from(step.params.connections.max(1)) * f64::from(each.max(1));
    if seconds > 0.0 {
        step.operations.sent as f64 / seconds * service_s / connections + rate::connecting(step)
    } else {
        0.0
    }
}

/// The time that the operations took together, at most the measured phase; all of it where none is timed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a positive sum of nanoseconds; the cast saturates"
)]
fn operating(step: &StepResult) -> Nanos {
    let timed = step.latency.service.mean_ns;
    let all = timed.map(|mean| Nanos((mean * step.operations.sent as f64) as u64));
    let all = all.filter(|all| *all > Nanos::ZERO).unwrap_or(Nanos::MAX);
    all.min(Nanos(step.duration_ns))
}

fn workers(end: &Instrument) -> f64 {
    u32::try_from(end.cpus.len().max(1)).map_or(f64::MAX, f64::from)
}

/// Fills in what is to be judged of both ends of a step: `saturated` and why (the client's), `disturbed` and
/// `disturbances`.
pub fn judge(step: &mut StepResult) {
    let duration = Nanos(step.duration_ns);
    let reason = saturation(step);
    step.instrument.client.saturated = reason.is_some();
    step.instrument.client.saturation = reason;
    let client = (operating(step), &mut step.instrument.client);
    let server = step.instrument.server.as_mut().map(|end| (duration, end));
    for (operating, end) in std::iter::once(client).chain(server) {
        end.disturbances =
            disturbances(end, duration, operating).into_iter().map(|d| d.message).collect();
        end.disturbed = !end.disturbances.is_empty();
    }
}

/// What spoils the numbers of a step, the gravest first, with advice.
#[must_use]
pub fn warnings(step: &StepResult) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code: &str, message: String, advice: &str| {
        warnings.push(Warning { code: code.to_owned(), message, advice: advice.to_owned() });
    };
    if let Some(reason) = saturation(step) {
        warn(
            "generator-saturated",
            format!("the generator was the bottleneck: {reason}"),
            if step.rate.target_per_s.is_some() || step.params.bulk.is_some() {
                "lower --rate, or use more --threads on CPUs of their own"
            } else {
                "use fewer connections (-c), or more --threads on CPUs of their own"
            },
        );
    } else if let Some(reason) = waited_for_connections(step)
        .filter(|_| step.params.bulk.is_none() && !rate::tells_why(step))
    {
        warn(
            "connections-busy",
            reason,
            "the response times contain the waiting; use more connections (-c) if that is not meant, or lower --rate",
        );
    }
    let duration = Nanos(step.duration_ns);
    let ends = [
        ("client", operating(step), Some(&step.instrument.client)),
        ("server", duration, step.instrument.server.as_ref()),
    ];
    for (name, operating, end) in ends {
        let found = end.map(|end| disturbances(end, duration, operating));
        for disturbance in found.into_iter().flatten() {
            warn(
                &format!("{name}-{}", disturbance.code),
                format!("the {name} was disturbed: {}", disturbance.message),
                disturbance.advice,
            );
        }
    }
    for found in observed::warnings(step) {
        warn(&found.code, found.message, &found.advice);
    }
    result_warnings(step, &mut warn);
    bulk::warnings(step, &mut warn);
    rate::warnings(step, &mut warn);
    http::warnings(step, &mut warn);
    warnings
}

/// Sends were late for want of a free connection.
fn waited_for_connections(step: &StepResult) -> Option<String> {
    let busy = connections_busy(step);
    let target_per_s = step.rate.target_per_s?;
    let late = late(step, target_per_s).is_some() || behind(step).is_some();
    if !late || waited_for_generator(step) {
        return None;
    }
    if busy > CONNECTIONS_BUSY {
        return Some(format!(
            "sends waited for a free connection: {:.0} % of the connections were in use in the mean",
            busy.min(1.0) * 100.0
        ));
    }
    Some(format!(
        "sends waited for a free connection, as many as {} at once: for a time all connections waited for answers or were down",
        step.rate.backlog_max.unwrap_or(0)
    ))
}

/// What the figures themselves show to be weak.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a latency")]
fn result_warnings(step: &StepResult, warn: &mut dyn FnMut(&str, String, &str)) {
    let operations = &step.operations;
    let service = &step.latency.service;
    if operations.timed_out > 0 {
        warn(
            "timeouts",
            format!(
                "{} of {} operations had no answer within {}; they count as at least that long",
                operations.timed_out,
                operations.sent,
                Nanos(step.params.timeout_ns)
            ),
            "see what is lost on the way, or give --timeout more",
        );
    }
    if operations.completed > 0 && service.p99_ns.is_none() && step.params.bulk.is_none() {
        warn(
            "few-samples",
            format!("{} samples are too few for a p99, which needs 1000", service.count),
            "measure longer (-d) or more operations (--count)",
        );
    }
    // Results of before there was an error for each quantile have the one figure.
    let error = service.errors_ns.get("p50");
    let error = error.copied().unwrap_or(step.latency_error_ns);
    if let Some(median) = service.p50_ns
        && error as f64 > ERROR_SHARE * median as f64
    {
        warn(
            "coarse-instrument",
            format!(
                "the instrument's own error of {} is {:.0} % of the median of {}",
                Nanos(error),
                error as f64 / median.max(1) as f64 * 100.0,
                Nanos(median)
            ),
            if step.instrument.client.wait == "spin" {
                "use fewer connections per worker, and a CPU that nothing else uses (--cpus)"
            } else {
                "use --wait spin on a CPU of its own (--cpus)"
            },
        );
    }
    if step.instances.len() > 1 {
        warn(
            "several-servers",
            format!(
                "{} servers answered behind this target; the figures are those of all of them together",
                step.instances.len()
            ),
            "target one server's own address to measure one path",
        );
    }
}

#[cfg(test)]
mod tests;
