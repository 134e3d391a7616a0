//! Reports of HTTP runs.

use tare_stats::result::{HttpParams, Params, Report, StepResult};
use tare_units::Nanos;

use super::common::{marks, results, troubles};
use super::document::{Block, Document, Field, Table, field, fields, note};
use super::numbers::{known, longest, mean, nanos, per_second, percent, quantile, volume, whole};
use super::{
    grouped, headline, histogram, latency, list, machines, operations, parameters as parameters_of,
    phrases, plural,
};

const KINDS_SHOWN: usize = 2;

pub(super) const CLOSED_LOOP: [&str; 2] = [
    "latency   from when a request was sent to the last byte of its response. Closed loop: while the server stalls,",
    "          less is asked of it, so few requests meet the stall; --rate shows what users would have met",
];
pub(super) const OPEN_LOOP: [&str; 3] = [
    "response  from when a request was due, by the schedule, to the end of its response: what a user waits",
    "service   from when it was really sent to the end of its response: what server and path took",
    "lateness  from when it was due to when it was really sent: no free connection, or a late sender",
];

pub(super) fn build(document: &mut Document, report: &Report, percentiles: &[f64]) {
    let sweep = || {
        let several = report.results.iter().filter(|step| step.status_codes.len() > 1);
        let codes = several.map(|step| {
            let codes = step.status_codes.iter();
            let codes = codes.map(|(code, seen)| format!("{code} × {}", grouped(seen.count)));
            field(parameters_of(&step.params), list(codes))
        });
        (vec![Block::Table(sweep(report))], codes.collect())
    };
    let heading = "Instrument, in the last step";
    results(document, report, Vec::new(), sweep, heading, |one| step(one, percentiles));
}

fn step(step: &StepResult, percentiles: &[f64]) -> Vec<Block> {
    let Some(http) = &step.params.http else { return Vec::new() };
    let mut found = facts(step, http);
    found.extend(troubles(step));
    let mut blocks = vec![Block::Fields(found)];
    if headline(&step.latency).count == 0 {
        let text = "Nothing was answered as expected in the measured phase, so there is no latency to tell.";
        blocks.push(note(text));
    } else {
        let mut notes = marks(step, percentiles, "unanswered request");
        let meaning: &[&str] =
            if step.latency.response.is_some() { &OPEN_LOOP } else { &CLOSED_LOOP };
        notes.extend(meaning.iter().map(|line| (*line).to_owned()));
        if step.status_codes.values().any(|code| !code.expected) {
            let text =
                "Responses that were not expected are under their codes, and in no latency here.";
            notes.push(text.to_owned());
        }
        blocks.push(Block::Table(latency::distribution(step, percentiles).noting(notes)));
        let bars = histogram::bars(step);
        blocks.extend((!bars.is_empty()).then_some(Block::Lines(bars)));
        blocks.extend(latency::parts(&step.latency).map(Block::Table));
    }
    blocks.extend(codes(step).map(Block::Table));
    let connections = Some(connections(step, http));
    blocks.push(Block::Fields(fields([("connections", connections), ("cpu", cpu(step))])));
    blocks
}

/// `100 connections, 1,000/s`.
pub(super) fn parameters(params: &Params, http: &HttpParams) -> String {
    let mut connections = plural(u64::from(params.connections), "connection");
    if http.pipeline > 1 {
        connections += &format!(" with {} requests each", grouped(http.pipeline.into()));
    }
    phrases([Some(connections), params.rate_per_s.map(|rate| rates(rate, http))])
}

/// `1,000/s`, of a ramp `1,000 to 5,000/s`.
pub(super) fn rates(from: f64, http: &HttpParams) -> String {
    let from = per_second(from);
    match http.rate_to_per_s {
        Some(to) => format!("{} to {}", from.trim_end_matches("/s"), per_second(to)),
        None => from,
    }
}

pub(super) fn asked(report: &Report, first: &StepResult, http: &HttpParams) -> String {
    let more = match http.requests {
        0 | 1 => String::new(),
        several => format!(" and {} more requests", grouped(several - 1)),
    };
    let lasted = report.results.iter().map(|step| step.duration_ns);
    let (least, most) = (lasted.clone().min().unwrap_or(0), lasted.max().unwrap_or(0));
    let upto = if least < most { format!("to {} ", Nanos(most)) } else { String::new() };
    let (load, each) = match report.results.as_slice() {
        [_] => (parameters(&first.params, http), ""),
        steps => (format!("{} steps", steps.len()), " each"),
    };
    let target = super::target(&first.params);
    let text = phrases([
        Some(format!("tare http: {} {}{more} to {target}", http.method, http.path)),
        Some(load),
        Some(match &http.arrivals {
            Some(arrivals) => format!("open loop ({arrivals})"),
            None => "closed loop".to_owned(),
        }),
        (http.late.as_deref() == Some("drop")).then(|| "late ones dropped".to_owned()),
        http.requests_per_connection.map(|each| match each {
            1 => "a connection for each request".to_owned(),
            each => format!("{} per connection", plural(each, "request")),
        }),
        Some(format!("{} {upto}measured{each}", Nanos(least))),
    ]);
    text + &super::label(first)
}

fn facts(step: &StepResult, http: &HttpParams) -> Vec<Field> {
    let transfer = step.transfer.as_ref().map(|transfer| {
        let [all, bodies, sent] =
            [transfer.received_bytes, transfer.body_bytes, transfer.sent_bytes].map(volume);
        let rate = volume(whole(transfer.received_bytes_per_s));
        format!("{rate}/s received, {all} in all ({bodies} of bodies), {sent} sent")
    });
    let depth = step.rate.backlog_max.filter(|depth| *depth > 0);
    let queue = depth.map(|depth| {
        format!("up to {} waiting for a free connection at once", plural(depth, "request"))
    });
    fields([
        ("goodput", Some(goodput(step, http))),
        ("transfer", transfer),
        ("requests", Some(operations(step))),
        ("queue", queue),
    ])
}

fn goodput(step: &StepResult, http: &HttpParams) -> String {
    let rate = step.rate.achieved_per_s;
    let target = step.rate.target_per_s.filter(|target| *target > 0.0);
    let target = target.map_or_else(String::new, |target| {
        format!(" of {} asked ({})", per_second(target), percent(rate / target))
    });
    let expected = super::common::because(&http.expect_status);
    let answered = plural(whole(rate * Nanos(step.duration_ns).as_secs_f64()), "request");
    format!("{}{target}, {answered} answered as expected{expected}", per_second(rate))
}

fn codes(step: &StepResult) -> Option<Table> {
    let all: u64 = step.status_codes.values().map(|code| code.count).sum();
    let at = |code, percent| {
        known(step.latency.by_status.get(code), |summary| quantile(summary, percent))
    };
    let table = Table::of(
        &step.status_codes,
        &[
            ("code", &|(code, _)| (*code).clone()),
            ("count", &|(_, seen)| grouped(seen.count)),
            ("share", &|(_, seen)| percent(seen.count as f64 / all as f64)),
            ("first seen", &|(_, seen)| format!("at {}", Nanos(seen.first_at_ns))),
            ("as", &|(_, seen)| format!("response {}", grouped(seen.first_ordinal))),
            ("p50", &|(code, _)| at(*code, 50.0)),
            ("p99", &|(code, _)| at(*code, 99.0)),
            ("", &|(_, seen)| if seen.expected { "" } else { "not expected" }.to_owned()),
        ],
    );
    (all > 0).then_some(table.named("Status codes"))
}

/// Sockets, and how many perfect keep-alive would have used.
fn connections(step: &StepResult, http: &HttpParams) -> String {
    let found = &step.connections;
    let [made, asked, used] = [found.established, found.asked, found.sockets_used].map(grouped);
    let replaced = match found.reconnects {
        0 => "none".to_owned(),
        count => grouped(count),
    };
    let resent = found.resent.filter(|resent| *resent > 0);
    let resent = resent.map(|resent| format!("; {} requests sent again", grouped(resent)));
    let resent = resent.unwrap_or_default();
    let why = http.requests_per_connection.map_or("", |_| " (replacing them was asked for)");
    format!(
        "{made} of {asked} established, {replaced} replaced; sockets used {used}, perfect keep-alive would have used {asked}{resent}{why}"
    )
}

/// CPU of this end for a request; of the server where it reported it.
fn cpu(step: &StepResult) -> Option<String> {
    let used = &step.cpu.client;
    let each = nanos(used.per_operation_ns?);
    let (user, kernel) = (Nanos(used.user_ns), Nanos(used.system_ns));
    let working = used.per_operation_working_ns.map(nanos);
    let server = step.cpu.server.as_ref().and_then(|server| server.per_operation_ns);
    let text = phrases([
        Some(format!("{each} a request at the client (user {user}, kernel {kernel} in all)")),
        working.map(|ns| format!("{ns} without the time in which it polled and found nothing")),
        server.map(|ns| format!("{} at the server", nanos(ns))),
    ]);
    let machine = machines::machine(used);
    Some(text + &machine.map_or_else(String::new, |machine| format!("; this machine {machine}")))
}

/// The kinds of errors in a few words: `receive ECONNRESET 12, connect timeout 3, 2 other kinds 5`.
fn errors(step: &StepResult) -> String {
    let mut kinds: Vec<_> = step.errors.iter().filter(|e| e.count > 0).collect();
    kinds.sort_by_key(|error| std::cmp::Reverse(error.count));
    let rest = kinds.split_off(kinds.len().min(KINDS_SHOWN));
    let shown = kinds.iter().map(|e| format!("{} {} {}", e.phase, e.cause, grouped(e.count)));
    let count = grouped(rest.iter().map(|error| error.count).sum());
    let rest =
        (!rest.is_empty()).then(|| format!("{} {count}", plural(rest.len() as u64, "other kind")));
    if kinds.is_empty() { "0".to_owned() } else { list(shown.chain(rest)) }
}

fn sweep(report: &Report) -> Table {
    let steps = &report.results;
    let open = steps.iter().any(|step| step.params.rate_per_s.is_some());
    let conns = !open || steps.iter().any(|s| s.params.connections != steps[0].params.connections);
    let steps = steps.iter().filter_map(|step| Some((step, step.params.http.as_ref()?)));
    let unexpected = |step: &StepResult| -> u64 {
        step.status_codes.values().filter(|code| !code.expected).map(|code| code.count).sum()
    };
    let table = Table::of(
        steps,
        &[
            ("conns", &|(step, _): &(&StepResult, &HttpParams)| {
                grouped(step.params.connections.into())
            }),
            ("rate", &|(step, http)| known(step.params.rate_per_s, |rate| rates(rate, http))),
            ("goodput", &|(step, _)| per_second(step.rate.achieved_per_s)),
            ("received/s", &|(step, _)| {
                known(step.transfer.as_ref(), |t| volume(whole(t.received_bytes_per_s)))
            }),
            ("not expected", &|(step, _)| grouped(unexpected(step))),
            ("timeouts", &|(step, _)| grouped(step.operations.timed_out)),
            ("mean", &|(step, _)| mean(headline(&step.latency))),
            ("p50", &|(step, _)| quantile(headline(&step.latency), 50.0)),
            ("p99", &|(step, _)| quantile(headline(&step.latency), 99.0)),
            ("max", &|(step, _)| longest(headline(&step.latency))),
            ("late p99", &|(step, _)| {
                known(step.latency.lateness.as_ref(), |late| quantile(late, 99.0))
            }),
            ("errors", &|(step, _)| errors(step)),
        ],
    );
    table.only_if(conns, &["conns"]).only_if(open, &["rate", "late p99"])
}
