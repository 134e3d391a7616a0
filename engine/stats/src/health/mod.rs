//! Whether the numbers can be believed: was the generator the bottleneck, was anything disturbed
//! from outside.
//!
//! Two different faults are told apart. *Saturated*: the generator could not do what was asked of
//! it, so what was measured is the generator; more of it, or less load, helps. *Disturbed*:
//! something else took the CPU away at times, so the same run may come out otherwise; quiet helps,
//! or doing it again. Each threshold is a constant with its reason.

mod bulk;
mod generator;
mod http;
mod instrument;
mod rate;

use crate::number::{real, whole};
use crate::result::{Instrument, Observed, StepResult, Warning};
use generator::{saturation, share, waited_for_connections};
use instrument::disturbances;
use tare_units::Nanos;

/// An error of the instrument of more than this share of the median is worth a warning. On
/// loopback, spinning, the receive call alone is a fifth of a round trip of 6 µs, so a lower bound
/// would warn of every such run.
const ERROR_SHARE: f64 = 0.5;
/// Stopped in a larger share of its periods than that, the middle of the latencies is the limit's
/// doing and not only their tail.
const THROTTLED_SHARE: f64 = 0.1;

/// The time that the operations took together, at most the measured phase; all of it where none is
/// timed.
fn operating(step: &StepResult) -> Nanos {
    let timed = step.latency.service.mean_ns;
    let all = timed.map(|mean| Nanos(whole(mean * real(step.operations.sent))));
    let all = all.filter(|all| *all > Nanos::ZERO).unwrap_or(Nanos::MAX);
    all.min(Nanos(step.duration_ns))
}

/// What disturbed the client, and the server where it told.
fn disturbed(step: &StepResult) -> [Vec<Warning>; 2] {
    let duration = Nanos(step.duration_ns);
    let of = |end: &Instrument, operating| disturbances(end, duration, operating);
    let server = step.instrument.server.as_ref();
    [
        of(&step.instrument.client, operating(step)),
        server.map(|end| of(end, duration)).unwrap_or_default(),
    ]
}

/// Fills in what is to be judged of both ends of a step: `saturated` and why (the client's),
/// `disturbed` and `disturbances`.
pub fn judge(step: &mut StepResult) {
    let reason = saturation(step);
    let disturbed = disturbed(step);
    let ends = &mut step.instrument;
    ends.client.saturated = reason.is_some();
    ends.client.saturation = reason;
    for (end, found) in [Some(&mut ends.client), ends.server.as_mut()].into_iter().zip(disturbed) {
        if let Some(end) = end {
            end.disturbances = found.into_iter().map(|warning| warning.message).collect();
            end.disturbed = !end.disturbances.is_empty();
        }
    }
}

/// What spoils the numbers of a step, the gravest first, with advice.
pub fn warnings(step: &StepResult) -> Vec<Warning> {
    let mut warnings = Vec::from_iter(bottleneck(step));
    for (end, found) in ["client", "server"].into_iter().zip(disturbed(step)) {
        warnings.extend(found.into_iter().map(|Warning { code, message, advice }| Warning {
            code: format!("{end}-{code}"),
            message: format!("the {end} was disturbed: {message}"),
            advice,
        }));
    }
    warnings.extend(step.observed.iter().flat_map(observed).flatten());
    warnings.extend(figures(step).into_iter().flatten());
    warnings.extend(bulk::warnings(step));
    warnings.extend(rate::warnings(step));
    warnings.extend(http::warnings(step));
    warnings
}

/// The generator could not do more, or sends waited for connections.
fn bottleneck(step: &StepResult) -> Option<Warning> {
    if let Some(reason) = saturation(step) {
        let advice = if step.rate.target_per_s.is_some() || step.params.bulk.is_some() {
            "lower --rate, or use more --threads on CPUs of their own"
        } else {
            "use fewer connections (-c), or more --threads on CPUs of their own"
        };
        let message = format!("the generator was the bottleneck: {reason}");
        return Some(Warning::new("generator-saturated", message, advice));
    }
    let is_reported = step.params.bulk.is_some() || rate::tells_why(step);
    let reason = waited_for_connections(step).filter(|_| !is_reported)?;
    let advice = "the response times contain the waiting; use more connections (-c) if that is not meant, or lower --rate";
    Some(Warning::new("connections-busy", reason, advice))
}

/// What was seen of an observed process or group that spoils a result.
fn observed(one: &Observed) -> [Option<Warning>; 2] {
    let name = &one.name;
    let throttled = one.throttled_periods.filter(|count| *count > 0).map(|throttled| {
        let limit = one.cpu_limit.map_or_else(String::new, |cpus| format!(" of {cpus}"));
        // Groups counted since before there were periods to count: never fewer than were throttled.
        let periods = one.periods.unwrap_or(0).max(throttled);
        let time = Nanos(one.throttled_ns.unwrap_or(0));
        let meaning = if share(throttled, periods) > THROTTLED_SHARE {
            "what was measured is the quota, not the network"
        } else {
            "the longest latencies are the quota's, not the network's"
        };
        let message = format!(
            "{name} was throttled by its CPU limit{limit} in {throttled} of {periods} periods ({time}): {meaning}"
        );
        Warning::new("observed-throttled", message, "raise the limit, or lower the rate")
    });
    // A group may well be empty: of that its CPU time is known all the same.
    let is_gone = one.processes == Some(0) && (one.processes_ended > 0 || one.user_ns.is_none());
    let gone = is_gone.then(|| {
        let note = one.note.as_deref().unwrap_or("nothing is left of it");
        let message = format!("{name} ({}) was not there to the end: {note}", one.what);
        let advice = "see whether it crashed or was restarted, and measure again";
        Warning::new("observed-gone", message, advice)
    });
    [throttled, gone]
}

/// What the figures of any step show to be weak.
fn figures(step: &StepResult) -> [Option<Warning>; 4] {
    let operations = &step.operations;
    let service = &step.latency.service;
    let timeouts = (operations.timed_out > 0).then(|| {
        let message = format!(
            "{} of {} operations had no answer within {}; they count as at least that long",
            operations.timed_out,
            operations.sent,
            Nanos(step.params.timeout_ns)
        );
        let advice = "see what is lost on the way, or give --timeout more";
        Warning::new("timeouts", message, advice)
    });
    let is_few = operations.completed > 0 && service.p99_ns.is_none() && step.params.bulk.is_none();
    let few = is_few.then(|| {
        let message = format!("{} samples are too few for a p99, which needs 1000", service.count);
        Warning::new("few-samples", message, "measure longer (-d) or more operations (--count)")
    });
    // Results of before there was an error for each quantile have the one figure.
    let error = service.errors_ns.get("p50").copied().unwrap_or(step.latency_error_ns);
    let median = service.p50_ns.filter(|median| real(error) > ERROR_SHARE * real(*median));
    let coarse = median.map(|median| {
        let message = format!(
            "the instrument's own error of {} is {:.0} % of the median of {}",
            Nanos(error),
            share(error, median) * 100.0,
            Nanos(median)
        );
        let advice = if step.instrument.client.wait == "spin" {
            "use fewer connections per worker, and a CPU that nothing else uses (--cpus)"
        } else {
            "use --wait spin on a CPU of its own (--cpus)"
        };
        Warning::new("coarse-instrument", message, advice)
    });
    let several = (step.instances.len() > 1).then(|| {
        let message = format!(
            "{} servers answered behind this target; the figures are those of all of them together",
            step.instances.len()
        );
        let advice = "target one server's own address to measure one path";
        Warning::new("several-servers", message, advice)
    });
    [timeouts, few, coarse, several]
}

#[cfg(test)]
mod tests;
