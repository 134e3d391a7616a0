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
    let Some(http) = &step.params.http else { return Vec::new() };
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
    let is_reported = |count| step.operations.completed == 0 && count > responses;
    let failures = failures.filter(|(count, _)| !is_reported(*count)).map(|(count, kinds)| {
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
    let shown: Vec<String> =
        kinds.iter().take(KINDS).map(|(kind, n)| format!("{n} × {kind}")).collect();
    let more = if kinds.len() > KINDS { ", …" } else { "" };
    (count > 0).then(|| (count, shown.join(", ") + more))
}
