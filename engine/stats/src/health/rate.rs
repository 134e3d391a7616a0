//! Why a rate that was asked for was not reached: the model that `lat` and `http` share.

use super::generator::{
    CONNECTIONS_BUSY, SENT_SHARE, connections_busy, saturation, share, share_of_connections,
};
use super::http::{kinds_of, most};
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
    peer: &'static str,
    /// Where an answer can have got lost, or have waited.
    path: &'static str,
    look: &'static str,
    /// What a connection is busy with beside operations.
    connect: &'static str,
}

impl Words {
    const fn of(step: &StepResult) -> Self {
        match &step.params.http {
            Some(_) => Self {
                operation: "request",
                peer: "the server",
                path: "the server",
                look: "`status_codes` and `errors`",
                connect: "to connect",
            },
            None => Self {
                operation: "round trip",
                peer: "the server",
                path: "the path or the server",
                look: "`errors`",
                connect: "to open and close it",
            },
        }
    }
}

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
    let words = Words::of(step);
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

/// Why fewer operations were answered as expected than were asked for, and what to do. A server is
/// the server of `lat`, and a request its round trip.
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
    let Words { operation, peer, .. } = words;
    let Some(mean_ns) = step.latency.service.mean_ns else {
        return (
            format!("{peer}, all connections waited for it throughout"),
            format!("measure longer (-d), lower --rate, or see what keeps {peer}"),
        );
    };
    let operations = &step.operations;
    let dropped = share(operations.dropped, operations.due);
    if connections_busy(step) > CONNECTIONS_BUSY || dropped > 1.0 - SENT_SHARE {
        return all_in_use(step, target, mean_ns, words);
    }
    (
        format!(
            "{peer}, for a time all connections waited for it, and as many as {} {operation}s for a connection",
            step.rate.backlog_max.unwrap_or(0)
        ),
        format!("see what keeps {peer} at times, or use more connections (-c)"),
    )
}

/// The second of the causes: what was not answered, if that explains what is missing.
fn unanswered(step: &StepResult, words: &Words) -> Option<(String, String)> {
    let Words { operation, peer, path, look, .. } = words;
    let operations = &step.operations;
    let missing = operations.due.saturating_sub(operations.completed);
    let explains = |part: f64| part > 0.0 && part >= DOWN_SHARE * share(missing, operations.due);
    let down = share_of_connections(step, step.connections.down_ns);
    if explains(down) {
        let (_, kinds) = most(kinds_of(step.errors.iter())).unwrap_or_default();
        return Some((
            format!(
                "{peer}, connections to it were down for {:.0} % of the time: {kinds}",
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
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a small positive number; the cast saturates"
)]
fn all_in_use(step: &StepResult, target: f64, mean_ns: f64, words: &Words) -> (String, String) {
    let Words { operation, peer, path, .. } = words;
    let held = held(step, mean_ns);
    if let Some((loaded, unloaded)) = queues_at_server(step) {
        let answered = figure(step.rate.achieved_per_s);
        let whose = if held.is_some() { peer } else { path };
        return (
            format!(
                "{whose}, it answered {answered}/s and no more; a {operation} took {loaded} with all connections in use, \
                 and {unloaded} with few of them"
            ),
            format!(
                "lower --rate, or give {peer} more to work with: on more connections {operation}s only wait for longer"
            ),
        );
    }
    let sent = step.operations.sent.max(1) as f64;
    let connect_ns = step.connections.connecting_ns.unwrap_or(0) as f64 / sent;
    let each_ns = mean_ns + connect_ns;
    let each = Nanos(each_ns as u64);
    // By Little's law, with each connection in use half of the time.
    let needed = (target * each_ns / 1e9 / CONNECTIONS_BUSY).ceil() as u64;
    let needed = needed.max(u64::from(step.params.connections).saturating_mul(2));
    let in_use = connections_busy(step).min(1.0) * 100.0;
    if let Some(held) = held {
        return (
            format!(
                "{peer}, it held each request for {held} of the {each} that a {operation} took, with {in_use:.0} % of the \
                 connections in use in the mean"
            ),
            format!(
                "have it answer sooner, or several at once on more connections (-c {needed}); or lower --rate"
            ),
        );
    }
    let of_it = match Nanos(connect_ns as u64) {
        Nanos::ZERO => String::new(),
        connect => format!(", {connect} of it {}", words.connect),
    };
    (
        format!(
            "the connections, {in_use:.0} % of them were in use in the mean, for {each} by each {operation}{of_it}"
        ),
        format!(
            "use more of them (-c {needed}); where {operation}s then only take longer, {peer} is at its limit: lower --rate"
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
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "nanoseconds and counts stay below 2^52"
)]
fn queues_at_server(step: &StepResult) -> Option<(Nanos, Nanos)> {
    let unloaded = step.rate.unloaded?;
    let service = &step.latency.service;
    let loaded = service.p50_ns.map(|ns| ns as f64).or(service.mean_ns)?;
    // Not the standard deviation, where it can be helped: a single stall would decide it.
    let spread = match service.p90_ns {
        Some(p90) => (p90 as f64 - loaded) / P90_DEVIATIONS,
        None => service.stdev_ns.unwrap_or(0.0),
    };
    let error = 2.0 * spread / (unloaded.count.max(1) as f64).sqrt();
    let queues = loaded > QUEUEING * (unloaded.mean_ns + error);
    queues.then_some((Nanos(loaded as u64), Nanos(unloaded.mean_ns as u64)))
}

/// How long the server held a request, if that was most of what an operation took in the mean.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive mean of nanoseconds"
)]
fn held(step: &StepResult, mean_ns: f64) -> Option<Nanos> {
    let held_ns = step.latency.server_residence.as_ref()?.mean_ns?;
    (held_ns > HELD_SHARE * mean_ns).then_some(Nanos(held_ns as u64))
}

#[cfg(test)]
mod tests {
    use crate::health;
    use crate::result::{ErrorCount, StepResult, Summary, Unloaded};

    /// A second of `lat` at 1,000 per second over `connections`, of which so many are completed, in
    /// `mean_us` each.
    fn lat(connections: u32, completed: u64, mean_us: u32) -> StepResult {
        let mut step = StepResult { duration_ns: 1_000_000_000, ..StepResult::default() };
        step.params.connections = connections;
        step.params.timeout_ns = 20_000_000;
        step.operations.due = 1_000;
        step.operations.sent = completed;
        step.operations.completed = completed;
        step.operations.unsent_at_end = 1_000 - completed;
        step.rate.target_per_s = Some(1_000.0);
        step.rate.achieved_per_s = completed as f64;
        step.rate.backlog_max = Some(1_000 - completed);
        step.latency.service = Summary {
            count: completed,
            mean_ns: Some(f64::from(mean_us) * 1e3),
            p50_ns: Some(u64::from(mean_us) * 1_000),
            p99_ns: Some(u64::from(mean_us) * 1_000),
            ..Summary::default()
        };
        step
    }

    #[track_caller]
    fn assert_blamed(step: &StepResult, told: &str, advice: &str) {
        let warnings = health::warnings(step);
        assert!(warnings.iter().all(|w| w.code != "connections-busy"));
        let mut warnings = warnings.iter();
        let found = warnings.find(|warning| warning.code == "rate-not-reached");
        let found = found.expect("the rate was not reached");
        let cause = found.message.split(" as expected: ").nth(1);
        assert!(cause.is_some_and(|cause| cause.starts_with(told)), "{found:?}");
        assert!(found.advice.contains(advice), "{found:?}");
    }

    #[test]
    fn round_trips_that_are_all_completed_have_no_cause() {
        let step = lat(2, 1_000, 100);
        assert_eq!(health::warnings(&step), []);
        let mut cut_short = lat(1, 250, 4_000);
        cut_short.partial = true;
        assert!(health::warnings(&cut_short).iter().all(|w| w.code != "rate-not-reached"));
    }

    #[test]
    fn a_round_trip_has_the_causes_of_a_request_in_its_own_words() {
        let few = lat(1, 250, 4_000);
        let told =
            "the connections, 100 % of them were in use in the mean, for 4 ms by each round trip";
        assert_blamed(&few, told, "-c 8); where round trips");
        let mut queueing = lat(8, 250, 32_000);
        queueing.rate.unloaded = Some(Unloaded { count: 4, mean_ns: 5e6 });
        let told = "the path or the server, it answered 250/s and no more; a round trip took 32 ms";
        assert_blamed(&queueing, told, "lower --rate");
        let mut generator = few;
        generator.instrument.client.worker_busy_max = 0.95;
        assert_blamed(&generator, "the generator, since its busiest worker", "lower --rate");
        let still = lat(4, 700, 1_000);
        assert_blamed(&still, "the server, for a time all", "keeps the server");
        let mut failing = lat(4, 900, 100);
        failing.operations.failed = 100;
        failing.operations.sent += 100;
        failing.operations.unsent_at_end = 0;
        assert_blamed(&failing, "the path or the server, 100 of 1000", "see `errors`");
    }

    #[test]
    fn a_far_end_that_holds_each_request_is_told_with_how_long() {
        let mut holding = lat(1, 900, 1_100);
        let residence = holding.latency.server_residence.get_or_insert_default();
        residence.mean_ns = Some(1e6);
        let told = "the server, it held each request for 1 ms of the 1.1 ms that a round trip took";
        assert_blamed(&holding, told, "-c 3)");
        // Its queue is its own, if requests wait there.
        holding.rate.unloaded = Some(Unloaded { count: 100, mean_ns: 3e5 });
        assert_blamed(&holding, "the server, it answered 900/s", "lower --rate");
        holding.rate.unloaded = None;
        holding.latency.server_residence =
            Some(Summary { mean_ns: Some(5e5), ..Summary::default() });
        assert_blamed(&holding, "the connections, ", "-c 3)");
    }

    #[test]
    fn what_is_lost_is_the_cause_where_connections_waited_for_it() {
        // 30 times 20 ms are 60 % of a second.
        let mut lossy = lat(1, 370, 1_000);
        lossy.operations.timed_out = 30;
        lossy.operations.sent += 30;
        lossy.operations.unsent_at_end -= 30;
        let told = "the path or the server, 30 of 400 round trips had no answer within 20 ms, and \
                    connections waited for these for 60 % of the time";
        assert_blamed(&lossy, told, "--timeout");
        // Three do not explain that 63 % are missing.
        lossy.operations.timed_out = 3;
        lossy.latency.service.mean_ns = Some(2.4e6);
        assert_blamed(&lossy, "the connections, ", "-c ");
        let mut refused = lossy;
        refused.connections.down_ns = Some(990_000_000);
        refused.errors = vec![ErrorCount {
            phase: "connect".to_owned(),
            cause: "ECONNREFUSED".to_owned(),
            count: 99,
        }];
        let told = "the server, connections to it were down for 99 % of the time: 99 × connect";
        assert_blamed(&refused, told, "died");
    }

    #[test]
    fn a_connection_for_each_round_trip_is_busy_with_its_ends_too() {
        let mut step = lat(1, 500, 400);
        step.connections.connecting_ns = Some(800_000_000);
        let told = "the connections, 100 % of them were in use in the mean, for 2 ms by each round \
                    trip, 1.6 ms of it to open and close it";
        assert_blamed(&step, told, "-c 4)");
    }
}
