//! Why a rate that was asked for was not reached: the model that `lat` and `http` share.

use super::generator::{
    CONNECTIONS_BUSY, SENT_SHARE, connections_busy, saturation, share, share_of_connections,
};
use super::http::{kinds_of, most};
use crate::number::{real, whole};
use crate::result::{StepResult, Warning};
use tare_units::Nanos;

/// A share of what was due that was never sent, beyond which it is told: below it is the end of the
/// run.
const UNSENT_SHARE: f64 = 0.001;
/// Connections that were down for this share of what is missing of the rate, or more, are its
/// cause.
const DOWN_SHARE: f64 = 0.5;
/// Requests that take so many times as long with all connections in use as with few wait for each
/// other at the server. One server with a queue, all of whose `n` connections are in use, answers
/// in `n` times what it takes for a request, and in a quarter of that on average while the first
/// half of them comes into use: four times is a queue, and one is none.
const QUEUEING: f64 = 1.5;
/// From the median to the 90th percentile of a normal distribution, in standard deviations.
const P90_DEVIATIONS: f64 = 1.28;
/// The server held requests, if it had them for more than this share of the time that operations
/// took.
const HELD_SHARE: f64 = 0.5;

/// What things are called.
struct Words {
    operation: &'static str,
    /// Where an answer can have got lost, or have waited.
    path: &'static str,
    look: &'static str,
    /// What a connection is busy with beside operations.
    connect: &'static str,
}

const OF_HTTP: Words = Words {
    operation: "request",
    path: "the server",
    look: "`status_codes` and `errors`",
    connect: "to connect",
};
const OF_LAT: Words = Words {
    operation: "round trip",
    path: "the path or the server",
    look: "`errors`",
    connect: "to open and close it",
};

/// The rate was not reached, and the reason is told with that.
pub(super) fn tells_why(step: &StepResult) -> bool {
    let operations = &step.operations;
    // Held against what was due, not against the rate: so many Poisson arrivals as asked for there
    // are in the mean alone. A single request is the end of the run.
    let missing = operations.due.saturating_sub(operations.completed);
    let is_short = missing > 1 && share(missing, operations.due) > 1.0 - SENT_SHARE;
    let is_open = step.params.bulk.is_none() && step.rate.target_per_s.is_some();
    is_open && !step.partial && is_short
}

/// The rate that was asked for was not reached, and why.
pub(super) fn warnings(step: &StepResult) -> impl Iterator<Item = Warning> {
    let words = if step.params.http.is_some() { OF_HTTP } else { OF_LAT };
    let operation = words.operation;
    let operations = &step.operations;
    let (due, dropped, unsent) = (operations.due, operations.dropped, operations.unsent_at_end);
    let target = step.rate.target_per_s;
    let is_dropped = (dropped > 0).then(|| {
        let message = format!(
            "{dropped} of {due} {operation}s that were due were dropped: no connection was free (--late drop)"
        );
        Warning::new("dropped", message, "use more connections (-c), or lower --rate")
    });
    let is_unsent = (share(unsent, due) > UNSENT_SHARE && target.is_some()).then(|| {
        let backlog = step.rate.backlog_max.unwrap_or(0);
        let message = format!(
            "{unsent} of {due} {operation}s that were due were never sent; as many as {backlog} waited at once, and their \
             waiting is in the response times"
        );
        Warning::new("unsent", message, "lower --rate, or use more connections (-c)")
    });
    let is_short = target.filter(|_| tells_why(step)).map(|target| {
        let (cause, advice) = cause(step, target, &words);
        let (achieved, target) = (figure(step.rate.achieved_per_s), figure(target));
        let message = format!(
            "{achieved} of {target} {operation}s per second were answered as expected: {cause}"
        );
        Warning::new("rate-not-reached", message, advice)
    });
    let own = step.params.bulk.is_none();
    [is_dropped, is_unsent, is_short].into_iter().flatten().filter(move |_| own)
}

/// A rate without decimals that say nothing.
pub(super) fn figure(rate: f64) -> f64 {
    if rate >= 100.0 { rate.round() } else { (rate * 100.0).round() / 100.0 }
}

/// Why fewer operations were answered as expected than were asked for, and what to do.
///
/// What is due waits either for the generator or for a connection, and a connection that is not
/// free waits for the server, or is down. So, in this order:
///
/// 1. *The generator*, if its busiest worker had no time left, or if most of the lateness was spent
///    while a connection was free (see [`saturation`]).
/// 2. *The server, connections to it were down*, if that explains half of what is missing; or *the
///    server* (of `lat`, the path or the server: datagrams are lost on either), since requests
///    failed, or since connections waited in vain for answers until the timeout, if that explains
///    half of it.
/// 3. Otherwise all connections were in use. By Little's law they then carry `n / r` requests a
///    second, where `n` is their number (times `--pipeline`) and `r` what a request takes. If `r`
///    is what it also takes while few connections are in use, more of them carry more: *the
///    connections*, or *the server* where it held each request for most of `r`. If `r` has grown
///    with the number in use, requests wait for each other at *the server* (of `lat`, perhaps on
///    the path), and what it answered is what it can do; see [`queues_at_server`].
/// 4. *The server*, if connections were in use for a small part of the time and nevertheless all of
///    them at once: it stood still for a time.
fn cause(step: &StepResult, target: f64, words: &Words) -> (String, String) {
    if let Some(reason) = saturation(step) {
        let advice = "lower --rate, or use more --threads on CPUs of their own";
        return (format!("the generator, since {reason}"), advice.to_owned());
    }
    if let Some(cause) = unanswered(step, words) {
        return cause;
    }
    let Some(mean_ns) = step.latency.service.mean_ns else {
        return (
            "the server, all connections waited for it throughout".to_owned(),
            "measure longer (-d), lower --rate, or see what keeps the server".to_owned(),
        );
    };
    let operations = &step.operations;
    let dropped = share(operations.dropped, operations.due);
    if connections_busy(step) > CONNECTIONS_BUSY || dropped > 1.0 - SENT_SHARE {
        return all_in_use(step, target, mean_ns, words);
    }
    (
        format!(
            "the server, for a time all connections waited for it, and as many as {} {}s for a connection",
            step.rate.backlog_max.unwrap_or(0),
            words.operation
        ),
        "see what keeps the server at times, or use more connections (-c)".to_owned(),
    )
}

/// The second of the causes: what was not answered, if that explains what is missing.
fn unanswered(step: &StepResult, words: &Words) -> Option<(String, String)> {
    let Words { operation, path, look, .. } = words;
    let operations = &step.operations;
    let missing = operations.due.saturating_sub(operations.completed);
    let explains = |part: f64| part > 0.0 && part >= DOWN_SHARE * share(missing, operations.due);
    let down = share_of_connections(step, step.connections.down_ns);
    if explains(down) {
        let (_, kinds) = most(kinds_of(step.errors.iter())).unwrap_or_default();
        return Some((
            format!(
                "the server, connections to it were down for {:.0} % of the time: {kinds}",
                down * 100.0
            ),
            "see whether it died or was restarted, and its limits on connections".to_owned(),
        ));
    }
    let timeout_ns = step.params.timeout_ns;
    let in_vain = share_of_connections(step, operations.timed_out.checked_mul(timeout_ns));
    if explains(in_vain) {
        return Some((
            format!(
                "{path}, {} of {} {operation}s had no answer within {}, and connections waited for these for {:.0} % of the \
                 time",
                operations.timed_out,
                operations.sent,
                Nanos(timeout_ns),
                in_vain * 100.0
            ),
            "see what is lost on the way; a shorter --timeout frees the connections sooner"
                .to_owned(),
        ));
    }
    let unsuccessful = operations.failed + operations.timed_out;
    (share(unsuccessful, operations.due) > 1.0 - SENT_SHARE).then(|| {
        (
            format!(
                "{path}, {unsuccessful} of {} {operation}s failed or had no answer in time",
                operations.sent
            ),
            format!("see {look}, and the server's log"),
        )
    })
}

/// The third of the causes: all connections were in use, each for `mean_ns` by a request.
fn all_in_use(step: &StepResult, target: f64, mean_ns: f64, words: &Words) -> (String, String) {
    let Words { operation, path, connect, .. } = words;
    let held = held(step, mean_ns);
    if let Some((loaded, unloaded)) = queues_at_server(step) {
        let answered = figure(step.rate.achieved_per_s);
        let whose = if held.is_some() { "the server" } else { path };
        return (
            format!(
                "{whose}, it answered {answered}/s and no more; a {operation} took {loaded} with all connections in use, \
                 and {unloaded} with few of them"
            ),
            format!(
                "lower --rate, or give the server more to work with: on more connections {operation}s only wait for longer"
            ),
        );
    }
    let sent = real(step.operations.sent.max(1));
    let connect_ns = real(step.connections.connecting_ns.unwrap_or(0)) / sent;
    let each_ns = mean_ns + connect_ns;
    let each = Nanos(whole(each_ns));
    // By Little's law, with each connection in use half of the time.
    let needed = whole((target * each_ns / 1e9 / CONNECTIONS_BUSY).ceil());
    let needed = needed.max(u64::from(step.params.connections).saturating_mul(2));
    let in_use = connections_busy(step).min(1.0) * 100.0;
    if let Some(held) = held {
        return (
            format!(
                "the server, it held each request for {held} of the {each} that a {operation} took, with {in_use:.0} % of the \
                 connections in use in the mean"
            ),
            format!(
                "have it answer sooner, or several at once on more connections (-c {needed}); or lower --rate"
            ),
        );
    }
    let of_it = match Nanos(whole(connect_ns)) {
        Nanos::ZERO => String::new(),
        time => format!(", {time} of it {connect}"),
    };
    (
        format!(
            "the connections, {in_use:.0} % of them were in use in the mean, for {each} by each {operation}{of_it}"
        ),
        format!(
            "use more of them (-c {needed}); where {operation}s then only take longer, the server is at its limit: lower --rate"
        ),
    )
}

/// Whether requests waited for each other at the server: what one took with all connections in use,
/// and with few of them.
///
/// The median of all stands for the former, since under a rate that is not reached the connections
/// are nearly always in use. The latter is the mean of those that were begun while fewer than a
/// quarter of the places were taken; there may be few of them, so they count as taking longer by
/// twice their standard error. Where that leaves it open, nothing is claimed of the server.
fn queues_at_server(step: &StepResult) -> Option<(Nanos, Nanos)> {
    let unloaded = step.rate.unloaded?;
    let service = &step.latency.service;
    let loaded = service.p50_ns.map(real).or(service.mean_ns)?;
    // Not the standard deviation, where it can be helped: a single stall would decide it.
    let spread = match service.p90_ns {
        Some(p90) => (real(p90) - loaded) / P90_DEVIATIONS,
        None => service.stdev_ns.unwrap_or(0.0),
    };
    let error = 2.0 * spread / real(unloaded.count.max(1)).sqrt();
    let queues = loaded > QUEUEING * (unloaded.mean_ns + error);
    queues.then_some((Nanos(whole(loaded)), Nanos(whole(unloaded.mean_ns))))
}

/// How long the server held a request, if that was most of what an operation took in the mean.
fn held(step: &StepResult, mean_ns: f64) -> Option<Nanos> {
    let held_ns = step.latency.server_residence.as_ref()?.mean_ns?;
    (held_ns > HELD_SHARE * mean_ns).then_some(Nanos(whole(held_ns)))
}
