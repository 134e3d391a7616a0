//! What text and Markdown say of an HTTP run.

use tare_engine::result::{HttpParams, Params, Report, StepResult};
use tare_engine::units::Nanos;

use super::figures::{percent, volume};
use super::{Cells, NONE, grouped, headline, longest, mean, per_second, plural, quantile, time};

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

/// The parameters of an HTTP step; of another kind of run, none.
pub(super) fn of(step: &StepResult) -> Option<&HttpParams> {
    step.params.http.as_ref()
}

/// `100 connections, 1,000/s`.
pub(super) fn parameters(params: &Params, http: &HttpParams) -> String {
    let mut text = plural(u64::from(params.connections), "connection");
    if http.pipeline > 1 {
        text.push_str(&format!(
            " with {} requests each",
            grouped(http.pipeline.into())
        ));
    }
    if let Some(rate) = params.rate_per_s {
        text.push_str(&format!(", {}", rates(rate, http)));
    }
    text
}

/// `1,000/s`, of a ramp `1,000 to 5,000/s`.
pub(super) fn rates(from: f64, http: &HttpParams) -> String {
    match http.rate_to_per_s {
        Some(to) => format!(
            "{} to {}",
            per_second(from).trim_end_matches("/s"),
            per_second(to)
        ),
        None => per_second(from),
    }
}

/// What was asked, in a line.
pub(super) fn asked(report: &Report, first: &StepResult, http: &HttpParams) -> String {
    let params = &first.params;
    let mut text = format!("tare http: {} {}", http.method, http.path);
    if http.requests > 1 {
        text.push_str(&format!(
            " and {} more requests",
            grouped(http.requests - 1)
        ));
    }
    let target = match &params.address {
        Some(address) if *address != params.target => format!("{} ({address})", params.target),
        _ => params.target.clone(),
    };
    text.push_str(&format!(" to {target}"));
    match report.results.as_slice() {
        [_] => text.push_str(&format!(", {}", parameters(params, http))),
        steps => text.push_str(&format!(", {} steps", steps.len())),
    }
    match (&http.arrivals, &http.late) {
        (Some(arrivals), late) => {
            text.push_str(&format!(", open loop ({arrivals})"));
            if late.as_deref() == Some("drop") {
                text.push_str(", late ones dropped");
            }
        }
        (None, _) => text.push_str(", closed loop"),
    }
    match http.requests_per_connection {
        Some(1) => text.push_str(", a connection for each request"),
        Some(each) => text.push_str(&format!(", {} per connection", plural(each, "request"))),
        None => {}
    }
    let lasted = report.results.iter().map(|step| step.duration_ns);
    let (least, most) = (lasted.clone().min().unwrap_or(0), lasted.max().unwrap_or(0));
    text.push_str(&format!(", {} ", Nanos(least)));
    if least < most {
        text.push_str(&format!("to {} ", Nanos(most)));
    }
    text.push_str("measured");
    if report.results.len() > 1 {
        text.push_str(" each");
    }
    if let Some(label) = &first.label {
        text.push_str(&format!(" [{label}]"));
    }
    text
}

/// What there is to say of one step, each with its name, but for its tables.
pub(super) fn facts(step: &StepResult, http: &HttpParams) -> Vec<(&'static str, String)> {
    let mut facts = vec![("goodput", goodput(step, http))];
    if let Some(transfer) = &step.transfer {
        let text = format!(
            "{}/s received, {} in all ({} of bodies), {} sent",
            volume(whole(transfer.received_bytes_per_s)),
            volume(transfer.received_bytes),
            volume(transfer.body_bytes),
            volume(transfer.sent_bytes)
        );
        facts.push(("transfer", text));
    }
    facts.push(("requests", super::operations(step)));
    if let Some(depth) = step.rate.backlog_max.filter(|depth| *depth > 0) {
        let text = format!(
            "up to {} waiting for a free connection at once",
            plural(depth, "request")
        );
        facts.push(("queue", text));
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
    let mut text = per_second(rate);
    if let Some(target) = step.rate.target_per_s.filter(|target| *target > 0.0) {
        text.push_str(&format!(
            " of {} asked ({})",
            per_second(target),
            percent(rate / target)
        ));
    }
    let expected = match http.expect_status.as_str() {
        "" => String::new(),
        codes => format!(" ({codes})"),
    };
    let answered = whole(rate * Nanos(step.duration_ns).as_secs_f64());
    text.push_str(&format!(
        ", {} answered as expected{expected}",
        plural(answered, "request")
    ));
    text
}

/// Responses by status code; none where none came.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
pub(super) fn codes(step: &StepResult) -> Option<Cells> {
    let all: u64 = step.status_codes.values().map(|code| code.count).sum();
    if all == 0 {
        return None;
    }
    let mut cells = Cells::new(&[
        "code",
        "count",
        "share",
        "first seen",
        "as",
        "p50",
        "p99",
        "",
    ]);
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
            if seen.expected {
                String::new()
            } else {
                "not expected".to_owned()
            },
        ]);
    }
    Some(cells)
}

/// Sockets, and how many perfect keep-alive would have used.
pub(super) fn connections(step: &StepResult, http: &HttpParams) -> String {
    let found = &step.connections;
    let mut text = format!(
        "{} of {} established",
        grouped(found.established),
        grouped(found.asked)
    );
    text.push_str(&match found.reconnects {
        0 => ", none replaced".to_owned(),
        count => format!(", {} replaced", grouped(count)),
    });
    text.push_str(&format!(
        "; sockets used {}, perfect keep-alive would have used {}",
        grouped(found.sockets_used),
        grouped(found.asked)
    ));
    if let Some(resent) = found.resent.filter(|resent| *resent > 0) {
        text.push_str(&format!("; {} requests sent again", grouped(resent)));
    }
    if http.requests_per_connection.is_some() {
        text.push_str(" (replacing them was asked for)");
    }
    text
}

/// CPU of this end for a request; of the far end where it told.
pub(super) fn cpu(step: &StepResult) -> Option<String> {
    let used = &step.cpu.client;
    let each = used.per_operation_ns?;
    let mut text = format!(
        "{} a request at the client (user {}, kernel {} in all)",
        super::nanos(each),
        Nanos(used.user_ns),
        Nanos(used.system_ns)
    );
    if let Some(working) = used.per_operation_working_ns {
        text.push_str(&format!(
            ", {} without the time in which it polled and found nothing",
            super::nanos(working)
        ));
    }
    if let Some(each) = step
        .cpu
        .server
        .as_ref()
        .and_then(|server| server.per_operation_ns)
    {
        text.push_str(&format!(", {} at the far end", super::nanos(each)));
    }
    if let Some(machine) = super::observed::machine(used) {
        text.push_str(&format!("; this machine {machine}"));
    }
    Some(text)
}

/// The kinds of errors in a few words: `receive ECONNRESET 12, connect timeout 3, 2 other kinds 5`.
fn errors(step: &StepResult) -> String {
    let mut kinds: Vec<_> = step.errors.iter().filter(|e| e.count > 0).collect();
    kinds.sort_by_key(|error| std::cmp::Reverse(error.count));
    let (shown, rest) = kinds.split_at(kinds.len().min(KINDS_SHOWN));
    let mut parts: Vec<String> = shown
        .iter()
        .map(|e| format!("{} {} {}", e.phase, e.cause, grouped(e.count)))
        .collect();
    if !rest.is_empty() {
        let count = rest.iter().map(|error| error.count).sum();
        parts.push(format!(
            "{} {}",
            plural(rest.len() as u64, "other kind"),
            grouped(count)
        ));
    }
    if parts.is_empty() {
        "0".to_owned()
    } else {
        parts.join(", ")
    }
}

/// A sweep: a row per step.
pub(super) fn sweep(report: &Report) -> Cells {
    let differ = |value: &dyn Fn(&StepResult) -> Option<f64>| {
        let mut values = report.results.iter().map(value);
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let open = report
        .results
        .iter()
        .any(|step| step.params.rate_per_s.is_some());
    let conns = !open || differ(&|step| Some(f64::from(step.params.connections)));
    let mut header = Vec::new();
    if conns {
        header.push("conns");
    }
    if open {
        header.push("rate");
    }
    header.extend([
        "goodput",
        "received/s",
        "not expected",
        "timeouts",
        "mean",
        "p50",
        "p99",
        "max",
    ]);
    if open {
        header.push("late p99");
    }
    header.push("errors");
    let mut cells = Cells::new(&header);
    for step in &report.results {
        let Some(http) = of(step) else { continue };
        let main = headline(&step.latency);
        let mut row = Vec::new();
        if conns {
            row.push(grouped(step.params.connections.into()));
        }
        if open {
            row.push(
                step.params
                    .rate_per_s
                    .map_or_else(|| NONE.into(), |rate| rates(rate, http)),
            );
        }
        let transfer = step.transfer.as_ref();
        let unexpected = step
            .status_codes
            .values()
            .filter(|code| !code.expected)
            .map(|code| code.count)
            .sum();
        row.extend([
            per_second(step.rate.achieved_per_s),
            transfer.map_or_else(|| NONE.into(), |t| volume(whole(t.received_bytes_per_s))),
            grouped(unexpected),
            grouped(step.operations.timed_out),
            mean(main),
            quantile(main, 50.0),
            quantile(main, 99.0),
            longest(main),
        ]);
        if open {
            let late = step.latency.lateness.as_ref();
            row.push(late.map_or_else(|| time(None), |summary| quantile(summary, 99.0)));
        }
        row.push(errors(step));
        cells.row(row);
    }
    cells
}
