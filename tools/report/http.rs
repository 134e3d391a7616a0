//! Reports of HTTP runs.

use tare_stats::result::{HttpParams, Params, Report, StepResult};
use tare_units::Nanos;

use super::common::{instruments, marks, steps_troubles, troubles};
use super::document::{Block, Document, Fact, Shown, Table, fact, note};
use super::figures::{percent, volume};
use super::{
    Look, NONE, charts, grouped, headline, histogram, latency, longest, mean, per_second, phrases,
    plural, quantile,
};

/// Kinds of errors that a row of a table names; the rest is summed.
const KINDS_SHOWN: usize = 2;

/// What the latencies of a closed loop are.
pub(super) const CLOSED_LOOP: [&str; 2] = [
    "latency   from when a request was sent to the last byte of its response. Closed loop: while the server stalls,",
    "          less is asked of it, so few requests meet the stall; --rate shows what users would have met",
];
/// What the three latencies of an open loop are.
pub(super) const OPEN_LOOP: [&str; 3] = [
    "response  from when a request was due, by the schedule, to the end of its response: what a user waits",
    "service   from when it was really sent to the end of its response: what server and path took",
    "lateness  from when it was due to when it was really sent: no free connection, or a late sender",
];

pub(super) fn build(document: &mut Document, report: &Report, look: &Look) {
    let mut blocks = Vec::new();
    let heading = match report.results.as_slice() {
        [] => return,
        [one] => {
            blocks.extend(step(one, look));
            ""
        }
        steps => {
            blocks.push(Block::Table(sweep(report)));
            let several = steps.iter().filter(|step| step.status_codes.len() > 1);
            let found = several.map(|step| {
                let codes = step.status_codes.iter();
                let codes = codes.map(|(code, seen)| format!("{code} × {}", grouped(seen.count)));
                let codes: Vec<String> = codes.collect();
                fact(super::parameters(&step.params), codes.join(", "))
            });
            let mut found: Vec<Fact> = found.collect();
            found.extend(steps_troubles(report));
            if !found.is_empty() {
                blocks.push(Block::Facts(found));
            }
            "Instrument, in the last step"
        }
    };
    document.add(Shown::Plain, "results", "Results", blocks);
    if let Some(last) = report.results.last() {
        instruments(document, report, last, heading);
    }
    charts::add(document, report, |one| step(one, look));
}

/// One step, with everything that is known of it.
fn step(step: &StepResult, look: &Look) -> Vec<Block> {
    let Some(http) = of(step) else {
        return Vec::new();
    };
    let mut found = facts(step, http);
    found.extend(troubles(step));
    let mut blocks = vec![Block::Facts(found)];
    if headline(&step.latency).count == 0 {
        let text = "Nothing was answered as expected in the measured phase, so there is no latency to tell.";
        blocks.push(note(text));
    } else {
        let mut notes = marks(step, look, "unanswered request");
        let meaning: &[&str] = match step.latency.response {
            Some(_) => &OPEN_LOOP,
            None => &CLOSED_LOOP,
        };
        notes.extend(meaning.iter().map(|line| (*line).to_owned()));
        if step.status_codes.values().any(|code| !code.expected) {
            let text =
                "Responses that were not expected are under their codes, and in no latency here.";
            notes.push(text.to_owned());
        }
        let table = latency::distribution(step, look).named("Latency").noting(notes);
        blocks.push(Block::Table(table));
        let bars = histogram::bars(step);
        if !bars.is_empty() {
            blocks.push(Block::Lines(bars));
        }
        blocks.extend(latency::parts(&step.latency).map(Block::Table));
    }
    blocks.extend(codes(step).map(Block::Table));
    let mut found = vec![fact("connections", connections(step, http))];
    found.extend(cpu(step).map(|text| fact("cpu", text)));
    blocks.push(Block::Facts(found));
    blocks
}

/// The parameters of an HTTP step; of another kind of run, none.
pub(super) fn of(step: &StepResult) -> Option<&HttpParams> {
    step.params.http.as_ref()
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

/// What was asked, in a line.
pub(super) fn asked(report: &Report, first: &StepResult, http: &HttpParams) -> String {
    let more = match http.requests {
        0 | 1 => String::new(),
        several => format!(" and {} more requests", grouped(several - 1)),
    };
    let drops = http.late.as_deref() == Some("drop");
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
        drops.then(|| "late ones dropped".to_owned()),
        http.requests_per_connection.map(|each| match each {
            1 => "a connection for each request".to_owned(),
            each => format!("{} per connection", plural(each, "request")),
        }),
        Some(format!("{} {upto}measured{each}", Nanos(least))),
    ]);
    text + &super::label(first)
}

/// What there is to say of one step, but for its tables.
fn facts(step: &StepResult, http: &HttpParams) -> Vec<Fact> {
    let mut facts = vec![fact("goodput", goodput(step, http))];
    if let Some(transfer) = &step.transfer {
        let text = format!(
            "{}/s received, {} in all ({} of bodies), {} sent",
            volume(whole(transfer.received_bytes_per_s)),
            volume(transfer.received_bytes),
            volume(transfer.body_bytes),
            volume(transfer.sent_bytes)
        );
        facts.push(fact("transfer", text));
    }
    facts.push(fact("requests", super::operations(step)));
    if let Some(depth) = step.rate.backlog_max.filter(|depth| *depth > 0) {
        let text =
            format!("up to {} waiting for a free connection at once", plural(depth, "request"));
        facts.push(fact("queue", text));
    }
    facts
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes per second are positive, and a cast saturates"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// The headline: requests answered as expected.
fn goodput(step: &StepResult, http: &HttpParams) -> String {
    let rate = step.rate.achieved_per_s;
    let target = step.rate.target_per_s.filter(|target| *target > 0.0);
    let target = target.map_or_else(String::new, |target| {
        format!(" of {} asked ({})", per_second(target), percent(rate / target))
    });
    let expected = match http.expect_status.as_str() {
        "" => String::new(),
        codes => format!(" ({codes})"),
    };
    let answered = plural(whole(rate * Nanos(step.duration_ns).as_secs_f64()), "request");
    format!("{}{target}, {answered} answered as expected{expected}", per_second(rate))
}

/// Responses by status code; none where none came.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
fn codes(step: &StepResult) -> Option<Table> {
    let all: u64 = step.status_codes.values().map(|code| code.count).sum();
    if all == 0 {
        return None;
    }
    let mut cells = Table::new(&["code", "count", "share", "first seen", "as", "p50", "p99", ""]);
    for (code, seen) in &step.status_codes {
        let latency = step.latency.by_status.get(code);
        let at =
            |percent| latency.map_or_else(|| NONE.to_owned(), |summary| quantile(summary, percent));
        cells.row(vec![
            code.clone(),
            grouped(seen.count),
            percent(seen.count as f64 / all as f64),
            format!("at {}", Nanos(seen.first_at_ns)),
            format!("response {}", grouped(seen.first_ordinal)),
            at(50.0),
            at(99.0),
            if seen.expected { String::new() } else { "not expected".to_owned() },
        ]);
    }
    Some(cells.named("Status codes"))
}

/// Sockets, and how many perfect keep-alive would have used.
fn connections(step: &StepResult, http: &HttpParams) -> String {
    let found = &step.connections;
    let (asked, used) = (grouped(found.asked), grouped(found.sockets_used));
    let replaced = match found.reconnects {
        0 => "none".to_owned(),
        count => grouped(count),
    };
    let resent = found.resent.filter(|resent| *resent > 0);
    let resent = resent.map(|resent| format!("; {} requests sent again", grouped(resent)));
    let why = http.requests_per_connection.map(|_| " (replacing them was asked for)");
    format!(
        "{} of {asked} established, {replaced} replaced; sockets used {used}, perfect keep-alive would have used {asked}{}{}",
        grouped(found.established),
        resent.unwrap_or_default(),
        why.unwrap_or_default()
    )
}

/// CPU of this end for a request; of the far end where it reported it.
fn cpu(step: &StepResult) -> Option<String> {
    let used = &step.cpu.client;
    let each = super::nanos(used.per_operation_ns?);
    let (user, kernel) = (Nanos(used.user_ns), Nanos(used.system_ns));
    let working = used.per_operation_working_ns.map(super::nanos);
    let server = step.cpu.server.as_ref().and_then(|server| server.per_operation_ns);
    let machine = super::observed::machine(used);
    let text = phrases([
        Some(format!("{each} a request at the client (user {user}, kernel {kernel} in all)")),
        working.map(|ns| format!("{ns} without the time in which it polled and found nothing")),
        server.map(|ns| format!("{} at the far end", super::nanos(ns))),
    ]);
    let machine = machine.map_or_else(String::new, |machine| format!("; this machine {machine}"));
    Some(text + &machine)
}

/// The kinds of errors in a few words: `receive ECONNRESET 12, connect timeout 3, 2 other kinds 5`.
fn errors(step: &StepResult) -> String {
    let mut kinds: Vec<_> = step.errors.iter().filter(|e| e.count > 0).collect();
    kinds.sort_by_key(|error| std::cmp::Reverse(error.count));
    let rest = kinds.split_off(kinds.len().min(KINDS_SHOWN));
    let shown = kinds.iter().map(|e| format!("{} {} {}", e.phase, e.cause, grouped(e.count)));
    let mut parts: Vec<String> = shown.collect();
    if !rest.is_empty() {
        let count = grouped(rest.iter().map(|error| error.count).sum());
        parts.push(format!("{} {count}", plural(rest.len() as u64, "other kind")));
    }
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}

/// A sweep: a row per step.
fn sweep(report: &Report) -> Table {
    let steps = &report.results;
    let open = steps.iter().any(|step| step.params.rate_per_s.is_some());
    let conns = !open || steps.iter().any(|s| s.params.connections != steps[0].params.connections);
    let mut header = Vec::new();
    header.extend(conns.then_some("conns"));
    header.extend(open.then_some("rate"));
    header.extend(["goodput", "received/s", "not expected", "timeouts"]);
    header.extend(["mean", "p50", "p99", "max"]);
    header.extend(open.then_some("late p99"));
    header.push("errors");
    let mut cells = Table::new(&header);
    for step in steps {
        let Some(http) = of(step) else { continue };
        let main = headline(&step.latency);
        let mut row = Vec::new();
        row.extend(conns.then(|| grouped(step.params.connections.into())));
        let rate = step.params.rate_per_s;
        row.extend(open.then(|| rate.map_or_else(|| NONE.into(), |rate| rates(rate, http))));
        let received = step.transfer.as_ref().map(|t| volume(whole(t.received_bytes_per_s)));
        let unexpected = step.status_codes.values().filter(|code| !code.expected);
        row.extend([
            per_second(step.rate.achieved_per_s),
            received.unwrap_or_else(|| NONE.into()),
            grouped(unexpected.map(|code| code.count).sum()),
            grouped(step.operations.timed_out),
            mean(main),
            quantile(main, 50.0),
            quantile(main, 99.0),
            longest(main),
        ]);
        let late = step.latency.lateness.as_ref();
        let late = late.map_or_else(|| NONE.to_owned(), |summary| quantile(summary, 99.0));
        row.extend(open.then_some(late));
        row.push(errors(step));
        cells.row(row);
    }
    cells
}
