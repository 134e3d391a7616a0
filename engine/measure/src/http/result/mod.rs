//! The result of an HTTP step.

use std::collections::BTreeMap;

use super::plan::HttpPlan;
use crate::http::client::{BATCH_BOUND, BATCH_CONNECTIONS, Code, Codes, HttpTally, Traffic};
use crate::run::report::{add_requests, common_result};
use crate::run::setting::Setting;
use crate::run::step::StepOutcome;
use crate::worker::destination::Destination;
use tare_proto::hello::WaitMode;
use tare_proto::http1::response::Fault;
use tare_proto::http1::status::StatusSet;
use tare_stats::histogram::{Recording, SeriesEntry};
use tare_stats::quantile::design_effect;
use tare_stats::result::{
    Interval, Operations, Params, StatusCount, StepResult, Summary, Transfer,
};
use tare_stats::summary;
use tare_units::Nanos;
use tare_units::error::Error;

pub(super) fn of_step(
    at: &Setting,
    plan: &HttpPlan,
    params: Params,
    outcome: &StepOutcome<HttpTally>,
) -> StepResult {
    let (tally, sessions) = (&outcome.workers.tally, &outcome.workers.outcome);
    let recording = &tally.record.recording;
    let percentiles = &plan.common.percentiles;
    let duration = sessions.measured;
    let served = sessions.answered + tally.record.measured.operations.failed;
    let mut step = common_result(at, &plan.common, params, outcome, (served, 0));
    if gathers(&step.params, outcome) {
        step.instrument.client.batch_bound_ns = BATCH_BOUND.0;
    }
    add_requests(&mut step, &tally.record, recording, percentiles, outcome);
    step.latency.by_status = by_status(&tally.codes, recording, percentiles);
    step.rate = sessions.rate(target_per_s(&step.params));
    step.status_codes = status_codes(&tally.codes, &plan.expect);
    let Traffic { sent_bytes, received_bytes, body_bytes, resent, reconnects, .. } = tally.traffic;
    let received_bytes_per_s = per_second(received_bytes, duration);
    step.transfer = Some(Transfer { sent_bytes, received_bytes, body_bytes, received_bytes_per_s });
    step.framing_faults = framing_faults(tally);
    step.connections.reconnects = reconnects;
    step.connections.connecting_ns = Some(sessions.connecting.0);
    step.connections.down_ns = Some(sessions.down.0);
    step.connections.resent = Some(resent);
    step.intervals = intervals(recording, &tally.codes, duration);
    step
}

/// Whether a worker gathered responses before it looked at them, which bounds how long each lay
/// unseen.
fn gathers(params: &Params, outcome: &StepOutcome<HttpTally>) -> bool {
    let most = (params.connections as usize).div_ceil(outcome.cpus.len().max(1));
    outcome.workers.capabilities.batch_wait
        && outcome.wait == WaitMode::Block
        && params.rate_per_s.is_none()
        && most >= BATCH_CONNECTIONS as usize
}

/// What was asked for in the mean: of a ramp, which is linear in time, the middle.
fn target_per_s(params: &Params) -> Option<f64> {
    let from = params.rate_per_s?;
    let to = params.http.as_ref().and_then(|http| http.rate_to_per_s);
    Some(to.map_or(from, |to| f64::midpoint(from, to)))
}

fn per_second(count: u64, duration: Nanos) -> f64 {
    if duration > Nanos::ZERO { count as f64 / duration.as_secs_f64() } else { 0.0 }
}

fn framing_faults(tally: &HttpTally) -> BTreeMap<String, u64> {
    let counted = Fault::ALL.iter().zip(tally.traffic.faults);
    let counted = counted.filter(|(_, count)| *count > 0);
    counted.map(|(fault, count)| (fault.name().to_owned(), count)).collect()
}

fn status_codes(codes: &Codes, expect: &StatusSet) -> BTreeMap<String, StatusCount> {
    let count = |code: &Code| StatusCount {
        count: code.count,
        first_at_ns: code.first_at.0,
        first_ordinal: code.first_ordinal,
        expected: expect.contains(code.status),
    };
    codes.iter().map(|code| (code.status.to_string(), count(code))).collect()
}

/// The latencies of each status code. They are in no blocks of their own, so the design effect of
/// all responses as expected stands for theirs.
fn by_status(
    codes: &Codes,
    recording: &Recording,
    percentiles: &[f64],
) -> BTreeMap<String, Summary> {
    let metric = recording.headline_metric();
    let effect = |share| design_effect(&recording.block_counts(metric, share));
    let summary = |latency| summary::summarise(latency, percentiles, &effect);
    codes.iter().map(|code| (code.status.to_string(), summary(&code.latency))).collect()
}

fn intervals(recording: &Recording, codes: &Codes, duration: Nanos) -> Vec<Interval> {
    let with_codes = |(index, entry): (usize, SeriesEntry<'_>)| {
        let counts = codes.iter().filter_map(|code| {
            let count = code.intervals.get(index).copied().filter(|n| *n > 0)?;
            Some((code.status.to_string(), u64::from(count)))
        });
        Interval {
            status_codes: counts.collect(),
            hdr: entry.encode(),
            ..summary::interval(&entry)
        }
    };
    recording.series(duration).enumerate().map(with_codes).collect()
}

/// Why nothing came of a step, or it was cut short: what happened most.
pub(crate) fn explain(step: &StepResult, failure: Option<Error>, address: &Destination) -> Error {
    let responses: u64 = step.status_codes.values().map(|code| code.count).sum();
    let errors: u64 = step.errors.iter().map(|error| error.count).sum();
    if step.operations.completed == 0 && responses > 0 && responses >= errors {
        return unexpected(step, responses);
    }
    if let Some(failure) = failure {
        return failure;
    }
    let Operations { due, sent, in_flight_at_end, .. } = step.operations;
    if sent > 0 && in_flight_at_end > 0 {
        let what = format!("{address} answered none of {sent} requests before the run was over");
        return Error::peer(what).remedy("measure longer (-d), or see what keeps the server");
    }
    match (due, step.params.rate_per_s) {
        (0, None) => waits_since_warmup(step),
        (0, Some(_)) => Error::usage("no request was due in the measured phase")
            .remedy("measure longer (-d), or raise the rate (-R)"),
        _ => Error::peer(format!("no response as expected came from {address}"))
            .remedy("check the server, the route and the firewall"),
    }
}

/// Closed loop, and no connection was free to begin a request in the measured phase.
fn waits_since_warmup(step: &StepResult) -> Error {
    let warmup = &step.warmup.operations;
    let mut message = "no response came within the measured phase".to_owned();
    match warmup.sent.saturating_sub(warmup.completed + warmup.failed + warmup.timed_out) {
        0 => {}
        n => message += &format!(" ({n} requests of the warm-up were still unanswered)"),
    }
    Error::peer(message).remedy(
        "measure longer (-d), without a warm-up (--warmup 0), or with fewer connections (-c)",
    )
}

fn unexpected(step: &StepResult, responses: u64) -> Error {
    let mut codes: Vec<(&str, u64)> =
        step.status_codes.iter().map(|(code, count)| (code.as_str(), count.count)).collect();
    codes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let (most, _) = codes[0];
    let were = match codes.as_slice() {
        [(code, _)] => format!("all were {code}"),
        several => {
            let most = several.iter().take(4).map(|(code, n)| format!("{n} × {code}"));
            let more = several.get(4).map(|_| "…".to_owned());
            most.chain(more).collect::<Vec<_>>().join(", ")
        }
    };
    let check = match most.as_bytes() {
        b"401" | b"403" | b"407" => "check the credentials (-H)",
        b"400" | b"421" => "check the request and its Host (--host)",
        b"404" | b"410" => "check the path",
        b"405" => "check the method (-X)",
        b"429" => "the server limits the rate: lower it (-R)",
        [b'5', ..] => "see the server's log",
        _ => "check the URL",
    };
    Error::peer(format!("none of {responses} responses was as expected: {were}"))
        .remedy(format!("{check}, or say --expect-status {most}"))
}

#[cfg(test)]
mod tests;
