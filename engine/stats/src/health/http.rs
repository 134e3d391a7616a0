//! The same judgement of HTTP loads: what was answered, and how.

use super::generator::share;
use crate::result::{ErrorCount, StepResult, Warning};

/// Connections reopened, for each one asked for, beyond which it is told: keep-alive would have
/// done with none.
const RECONNECTS_SHARE: f64 = 0.1;
/// Kinds that a list names before it is cut.
const KINDS: usize = 4;

/// What the figures themselves show to be weak.
pub(super) fn warnings(step: &StepResult) -> Vec<Warning> {
    let Some(http) = &step.params.http else {
        return Vec::new();
    };
    let mut warnings = Vec::from_iter(answers(step, &http.expect_status).into_iter().flatten());
    warnings.extend(framing(step));
    let (asked, reopened) = (step.connections.asked, step.connections.reconnects);
    if !http.renews_connections && share(reopened, asked) > RECONNECTS_SHARE {
        let used = step.connections.sockets_used;
        let message = format!(
            "{reopened} connections were reopened; with keep-alive throughout, {asked} sockets do, and {used} were used"
        );
        let advice = "see the server's keep-alive limits (requests per connection, idle timeout) and `errors`; each new \
                      connection costs a handshake";
        warnings.push(Warning::new("reconnects", message, advice));
    }
    let due = step.operations.due;
    if !step.partial && due > 0 && due < asked {
        let message = format!("{due} requests on {asked} connections: some of them carried none");
        let advice = "ask for more requests, or fewer connections (-c)";
        warnings.push(Warning::new("idle-connections", message, advice));
    }
    warnings
}

/// Responses that were not as expected, and requests that had none.
fn answers(step: &StepResult, expected: &str) -> [Option<Warning>; 2] {
    let codes = step.status_codes.iter();
    let responses: u64 = step.status_codes.values().map(|code| code.count).sum();
    let unexpected =
        codes.filter(|(_, code)| !code.expected).map(|(status, code)| (status.clone(), code.count));
    let unexpected = most(unexpected).map(|(count, kinds)| {
        let message = format!(
            "{count} of {responses} responses ({:.2} %) were not as expected ({expected}): {kinds}",
            share(count, responses) * 100.0
        );
        let advice = "they are no part of the service and response times, but of `by_status`; --expect-status tells what is \
                      expected";
        Warning::new("unexpected-status", message, advice)
    });
    let is_timeout = |error: &&ErrorCount| error.cause == "timeout" || is_no_length(error);
    let failures = most(kinds_of(step.errors.iter().filter(|error| !is_timeout(error))));
    // Where nothing came of the step and errors are why, the run's own error says so.
    let is_told = |count| step.operations.completed == 0 && count > responses;
    let failures = failures.filter(|(count, _)| !is_told(*count)).map(|(count, kinds)| {
        let message = format!("{count} connections or requests failed: {kinds}");
        let advice = "see the server's log and its limits; each has an entry in `errors`";
        Warning::new("failures", message, advice)
    });
    [unexpected, failures]
}

/// Responses whose framing is faulty, or missing.
fn framing(step: &StepResult) -> impl Iterator<Item = Warning> {
    let faults = step.framing_faults.iter().map(|(fault, count)| {
        let (what, advice) = if fault == "http10-chunked" {
            (
                "were HTTP/1.0 in chunks, which that version does not have; they were read as chunked, and each \
                 connection was closed behind its response",
                "have the server answer in HTTP/1.1, or without chunks: other clients may refuse it",
            )
        } else {
            (
                "had both Content-Length and Transfer-Encoding: chunked; they were read as chunked",
                "have the server, or the proxy before it, leave one of them out: others may read it otherwise",
            )
        };
        Warning::new(fault, format!("{count} responses {what}"), advice)
    });
    let endless = step.errors.iter().filter(|error| is_no_length(error));
    let endless: u64 = endless.map(|error| error.count).sum();
    faults.chain((endless > 0).then(|| {
        let message = format!(
            "{endless} requests timed out, since the server gave no length for a response (neither Content-Length nor \
             chunks) and kept the connection open: no client can measure that"
        );
        let advice = "have the server give a length or close the connection; --connection close asks it to close after each \
                      response";
        Warning::new("no-length", message, advice)
    }))
}

fn is_no_length(error: &ErrorCount) -> bool {
    error.cause == "no-length"
}

/// Errors by phase and cause, each with how many there were.
pub(super) fn kinds_of<'a>(
    errors: impl Iterator<Item = &'a ErrorCount>,
) -> impl Iterator<Item = (String, u64)> {
    errors.map(|error| (format!("{} {}", error.phase, error.cause), error.count))
}

/// How many there are of all kinds, and the most frequent kinds first, as `9 × 503, 2 × 500`;
/// absent where there are none.
pub(super) fn most(kinds: impl Iterator<Item = (String, u64)>) -> Option<(u64, String)> {
    let mut kinds: Vec<(String, u64)> = kinds.collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.1));
    let count = kinds.iter().map(|(_, count)| count).sum();
    let told: Vec<String> =
        kinds.iter().take(KINDS).map(|(kind, n)| format!("{n} × {kind}")).collect();
    let more = if kinds.len() > KINDS { ", …" } else { "" };
    (count > 0).then(|| (count, told.join(", ") + more))
}

#[cfg(test)]
mod tests {
    use crate::health;
    use crate::health::generator::saturation;
    use crate::result::{ErrorCount, HttpParams, StatusCount, StepResult, Summary, Unloaded};

    /// A second of open loop at 1,000 per second over 10 connections, all answered within 100 µs.
    fn quiet() -> StepResult {
        let mut step = StepResult { duration_ns: 1_000_000_000, ..StepResult::default() };
        step.params.connections = 10;
        step.params.http = Some(HttpParams {
            pipeline: 1,
            expect_status: "2xx".to_owned(),
            ..HttpParams::default()
        });
        step.connections.asked = 10;
        step.connections.sockets_used = 10;
        step.operations.due = 1_000;
        step.operations.sent = 1_000;
        step.operations.completed = 1_000;
        step.rate.target_per_s = Some(1_000.0);
        step.rate.achieved_per_s = 1_000.0;
        step.latency.service = Summary {
            count: 1_000,
            mean_ns: Some(100_000.0),
            p50_ns: Some(100_000),
            p99_ns: Some(200_000),
            ..Summary::default()
        };
        answered(&mut step, "200", 1_000, true);
        step
    }

    fn answered(step: &mut StepResult, status: &str, count: u64, expected: bool) {
        let count = StatusCount { count, expected, ..StatusCount::default() };
        step.status_codes.insert(status.to_owned(), count);
    }

    fn codes(step: &StepResult) -> Vec<String> {
        let warnings = health::warnings(step).into_iter();
        warnings.map(|warning| warning.code).collect()
    }

    fn message(step: &StepResult, code: &str) -> String {
        let warnings = health::warnings(step);
        let found = warnings.into_iter().find(|warning| warning.code == code);
        found.map(|w| format!("{}; {}", w.message, w.advice)).unwrap()
    }

    /// A thousand were due in a second, and the others never sent.
    fn only_answered(completed: u64) -> StepResult {
        let mut step = quiet();
        step.operations.sent = completed;
        step.operations.completed = completed;
        step.operations.unsent_at_end = 1_000 - completed;
        step.rate.achieved_per_s = completed as f64;
        step.rate.backlog_max = Some(1_000 - completed);
        step
    }

    #[test]
    fn a_quiet_load_is_not_accused() {
        assert_eq!(codes(&quiet()), [""; 0]);
    }

    #[test]
    fn a_rate_that_is_not_reached_has_a_cause() {
        // Each request takes 40 ms: ten connections are always busy, at 250 per second.
        let mut slow = only_answered(250);
        slow.latency.service.mean_ns = Some(40e6);
        assert_eq!(codes(&slow), ["unsent", "rate-not-reached"]);
        let text = message(&slow, "rate-not-reached");
        assert!(text.contains("the connections, 100 %") && text.contains("-c 80"), "{text}");

        let mut generator = slow.clone();
        generator.latency.service.mean_ns = Some(100_000.0);
        // It was away while they became due, and connections were free.
        generator.latency.lateness =
            Some(Summary { count: 1_000, mean_ns: Some(281e6), ..Summary::default() });
        generator.rate.generator_away_ns = Some(280_000_000_000);
        assert_eq!(codes(&generator), ["generator-saturated", "unsent", "rate-not-reached"]);
        assert!(message(&generator, "rate-not-reached").contains("the generator"));

        let mut server = quiet();
        server.operations.completed = 900;
        server.operations.failed = 100;
        server.rate.achieved_per_s = 900.0;
        answered(&mut server, "503", 100, false);
        assert_eq!(codes(&server), ["rate-not-reached", "unexpected-status"]);
        assert!(message(&server, "rate-not-reached").contains("the server, 100 of 1000"));

        let mut dropped = slow;
        dropped.operations.dropped = 750;
        dropped.operations.unsent_at_end = 0;
        assert_eq!(codes(&dropped), ["dropped", "rate-not-reached"]);
    }

    #[test]
    fn a_server_that_went_away_is_the_cause_whatever_became_of_the_late() {
        // Killed halfway: one request on each connection failed, and the others had nothing to be
        // sent on.
        let mut killed = only_answered(500);
        killed.operations.sent += 10;
        killed.operations.failed = 10;
        killed.operations.unsent_at_end -= 10;
        killed.connections.down_ns = Some(4_990_000_000);
        killed.errors = vec![ErrorCount {
            phase: "connect".to_owned(),
            cause: "ECONNREFUSED".to_owned(),
            count: 60,
        }];
        let away = "the server, connections to it were down for 50 % of the time: 60 × connect \
                    ECONNREFUSED; see whether it died";
        let text = message(&killed, "rate-not-reached");
        assert!(text.contains(away), "{text}");
        let mut dropped = killed.clone();
        dropped.operations.dropped = 490;
        dropped.operations.unsent_at_end = 0;
        dropped.rate.backlog_max = Some(0);
        assert_eq!(saturation(&dropped), None);
        let text = message(&dropped, "rate-not-reached");
        assert!(text.contains(away), "{text}");
        // One connection of ten that failed does not explain that half of the requests are missing.
        killed.connections.down_ns = Some(1_000_000_000);
        killed.latency.service.mean_ns = Some(17e6);
        let text = message(&killed, "rate-not-reached");
        assert!(text.contains("the connections, 87 %"), "{text}");
    }

    #[test]
    fn connecting_takes_a_connection_up() {
        // A connection for each request, over a path of 10 ms: all of them are taken up, half of
        // the time to connect.
        let mut step = only_answered(500);
        step.latency.service.mean_ns = Some(10e6);
        step.connections.connecting_ns = Some(5_000_000_000);
        let text = message(&step, "rate-not-reached");
        assert!(
            text.contains("the connections, 100 %")
                && text.contains("for 20 ms by each request, 10 ms of it to connect")
                && text.contains("-c 40"),
            "{text}"
        );
    }

    #[test]
    fn a_stall_of_the_server_is_not_the_generators_doing() {
        // Silent for 500 ms: ten are under way, and all that become due meanwhile wait.
        let mut step = quiet();
        step.latency.service.mean_ns = Some(5e6);
        step.latency.lateness = Some(Summary {
            count: 1_000,
            mean_ns: Some(120e6),
            p99_ns: Some(454_000_000),
            ..Summary::default()
        });
        step.rate.backlog_max = Some(490);
        step.rate.generator_away_ns = Some(1_000 * 50_000);
        assert_eq!(saturation(&step), None);
        assert_eq!(codes(&step), ["connections-busy"]);
        assert!(message(&step, "connections-busy").contains("as many as 490"));

        // The same, but it was the worker that was away.
        step.rate.generator_away_ns = Some(1_000 * 119_000_000);
        assert_eq!(codes(&step), ["generator-saturated"]);
        step.rate.generator_away_ns = Some(0);
        step.instrument.client.worker_busy_max = 0.95;
        assert_eq!(codes(&step), ["generator-saturated"]);
    }

    /// `/queue?service=1ms` at four times what it can do, and more connections than it serves at
    /// once.
    fn queueing(connections: u32, unloaded_ms: f64) -> StepResult {
        let mut step = only_answered(250);
        let loaded_ns = u64::from(connections) * 1_000_000;
        step.params.connections = connections;
        step.latency.service.mean_ns = Some(loaded_ns as f64);
        step.latency.service.p50_ns = Some(loaded_ns);
        step.latency.service.p90_ns = Some(loaded_ns + 200_000);
        step.rate.unloaded = Some(Unloaded {
            count: u64::from(connections).div_ceil(2),
            mean_ns: unloaded_ms * 1e6,
        });
        step.operations.sent = 1_000;
        step
    }

    #[test]
    fn requests_that_wait_for_each_other_wait_at_the_server() {
        for (connections, unloaded_ms) in [(100, 25.5), (100, 40.0), (4, 1.5), (4, 2.2)] {
            let text = message(&queueing(connections, unloaded_ms), "rate-not-reached");
            assert!(text.contains("the server, it answered 250/s and no more"), "{text}");
        }
        let text = message(&queueing(4, 1.5), "rate-not-reached");
        let told = "a request took 4 ms with all connections in use, and 1.5 ms with few of them";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn requests_that_take_as_long_alone_lack_connections() {
        // Each takes a connection as long as ever; or it is not known, or not with so few samples.
        let mut unknown = queueing(4, 1.5);
        unknown.rate.unloaded = None;
        let mut random = queueing(4, 1.5);
        random.latency.service.p90_ns = Some(10_000_000);
        for step in [queueing(100, 99.0), queueing(4, 4.0), queueing(1, 1.0), unknown, random] {
            let text = message(&step, "rate-not-reached");
            assert!(text.contains("the connections, 100 %"), "{text}");
        }
    }

    #[test]
    fn a_server_that_stands_still_at_times_is_told_from_few_connections() {
        let mut step = only_answered(700);
        step.latency.service.mean_ns = Some(5e6);
        let text = message(&step, "rate-not-reached");
        assert!(text.contains("the server, for a time all connections waited"), "{text}");
        // None of what was due in the measured phase was sent.
        let mut silent = only_answered(0);
        silent.latency.service = Summary::default();
        let text = message(&silent, "rate-not-reached");
        assert!(text.contains("waited for it throughout"), "{text}");
    }

    #[test]
    fn rates_are_told_without_stray_decimals() {
        let told =
            [37_263.04, 50_000.0, 0.5, 33.333].map(|rate| health::rate::figure(rate).to_string());
        assert_eq!(told, ["37263", "50000", "0.5", "33.33"]);
    }

    #[test]
    fn answers_not_as_expected_are_told_by_code() {
        let mut step = quiet();
        step.rate.target_per_s = None;
        answered(&mut step, "503", 3, false);
        answered(&mut step, "500", 7, false);
        step.errors = vec![
            ErrorCount { phase: "receive".to_owned(), cause: "ECONNRESET".to_owned(), count: 2 },
            ErrorCount { phase: "receive".to_owned(), cause: "timeout".to_owned(), count: 1 },
        ];
        assert_eq!(codes(&step), ["unexpected-status", "failures"]);
        let text = message(&step, "unexpected-status");
        assert!(text.contains("10 of 1010") && text.contains("7 × 500, 3 × 503"), "{text}");
        assert!(message(&step, "failures").starts_with("2 connections or requests"));
    }

    #[test]
    fn a_server_that_was_never_reached_is_told_once_by_the_runs_error() {
        let mut step = quiet();
        step.rate.target_per_s = None;
        step.operations.due = 0;
        step.operations.completed = 0;
        step.status_codes.clear();
        step.errors = vec![ErrorCount {
            phase: "connect".to_owned(),
            cause: "ECONNREFUSED".to_owned(),
            count: 10,
        }];
        assert_eq!(codes(&step), [""; 0]);
        // The error then tells of the codes.
        answered(&mut step, "503", 11, false);
        assert_eq!(codes(&step), ["unexpected-status", "failures"]);
    }

    #[test]
    fn connections_opened_anew_are_told_unless_they_were_asked_for() {
        let mut step = quiet();
        step.connections.reconnects = 1;
        assert_eq!(codes(&step), [""; 0]);
        step.connections.reconnects = 2;
        step.connections.sockets_used = 12;
        assert_eq!(codes(&step), ["reconnects"]);
        if let Some(http) = &mut step.params.http {
            http.renews_connections = true;
        }
        assert_eq!(codes(&step), [""; 0]);
    }

    #[test]
    fn connections_without_a_request_are_told() {
        let mut step = quiet();
        step.connections.asked = 1_001;
        assert_eq!(codes(&step), ["idle-connections"]);
    }

    #[test]
    fn a_pipeline_has_more_places_than_connections() {
        let mut step = quiet();
        step.latency.service.mean_ns = Some(8e6);
        assert!(health::generator::connections_busy(&step) > 0.7);
        if let Some(http) = &mut step.params.http {
            http.pipeline = 4;
        }
        assert!(health::generator::connections_busy(&step) < 0.3);
    }

    #[test]
    fn faulty_framing_is_named_once() {
        let mut step = quiet();
        step.framing_faults.insert("http10-chunked".to_owned(), 20);
        assert_eq!(codes(&step), ["http10-chunked"]);
        assert!(message(&step, "http10-chunked").contains("20 responses were HTTP/1.0 in chunks"));
        step.framing_faults.insert("length-and-chunked".to_owned(), 3);
        assert_eq!(codes(&step), ["http10-chunked", "length-and-chunked"]);

        let mut endless = quiet();
        endless.errors = vec![ErrorCount {
            phase: "receive".to_owned(),
            cause: "no-length".to_owned(),
            count: 7,
        }];
        assert_eq!(codes(&endless), ["no-length"]);
        let text = message(&endless, "no-length");
        assert!(text.contains("7 requests") && text.contains("--connection close"), "{text}");
    }
}
