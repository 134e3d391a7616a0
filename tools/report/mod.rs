//! Results, written down: for people, for scripts, for spreadsheets and for pasting.
//!
//! For people a builder per kind of result makes a [`Document`], which [`mod@print`] puts into a
//! format. Scripts have [`json`] and [`csv`]. What the builders share is here, in [`common`] and in
//! [`numbers`].

mod bulk;
mod charts;
mod common;
mod compare;
mod csv;
pub(crate) mod diff;
pub(crate) mod doctor;
mod document;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
pub(crate) mod golden;
pub(crate) mod histogram;
mod http;
pub(crate) mod json;
mod latency;
mod machines;
mod numbers;
#[cfg(test)]
mod page_tests;
mod plot;
mod print;

use clap::ValueEnum;
use tare_stats::result::{ErrorCount, Latencies, Params, Report, StepResult, Summary, Warning};
pub(crate) use tare_stats::summary::PERCENTILES;
use tare_units::{Nanos, Size};

pub(crate) use common::assertion;
use document::Document;
pub(crate) use numbers::{bits, grouped, plural};
use numbers::{per_second, share};
use print::html;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One object, schema tare/1
    Json,
    /// A line per interval, per block of a comparison and per result as they come, the rest at the
    /// end
    Jsonl,
    /// A row per step
    Csv,
    /// Tables to paste
    Markdown,
    /// One page that stands alone
    Html,
}

/// `percentiles` are those to print, ascending.
pub(crate) fn render(format: Format, report: &Report, percentiles: &[f64]) -> String {
    match format {
        Format::Text => print::text(document(report, percentiles)),
        Format::Json => json::pretty(report),
        Format::Jsonl => json::lines(report),
        Format::Csv => csv::render(report, percentiles),
        Format::Markdown => print::markdown(document(report, percentiles)),
        Format::Html => page(&[(String::new(), report)], percentiles),
    }
}

/// One or more results as a page.
pub(crate) fn page(reports: &[(String, &Report)], percentiles: &[f64]) -> String {
    let of = |(name, report): &(String, &Report)| (name.clone(), document(report, percentiles));
    html::print(reports.iter().map(of).collect())
}

fn document(report: &Report, percentiles: &[f64]) -> Document {
    let mut document =
        Document { title: asked(report), alerts: alerts(report), sections: Vec::new() };
    match (compare::of(report), report.kind.as_str()) {
        (Some(view), _) => compare::build(&mut document, view),
        (None, "bw") => bulk::build(&mut document, report),
        (None, "http") => http::build(&mut document, report, percentiles),
        _ => latency::build(&mut document, report, percentiles),
    }
    common::closing(&mut document, report);
    document
}

pub(crate) fn warning(Warning { message, advice, .. }: &Warning) -> String {
    if advice.is_empty() { message.clone() } else { format!("{message}; {advice}") }
}

/// A step's parameters, shortly: `tcp, 64 B, 1 connection`.
pub(crate) fn parameters(params: &Params) -> String {
    if let Some(bulk) = &params.bulk {
        return bulk::parameters(params, bulk);
    }
    if let Some(http) = &params.http {
        return http::parameters(params, http);
    }
    let flows = if params.proto == "udp" { "flow" } else { "connection" };
    phrases([
        Some(params.proto.clone()),
        Some(Size(params.size_bytes).to_string()),
        Some(plural(u64::from(params.connections), flows)),
        params.connects_each().then(|| "each reopened for every ping".to_owned()),
        params.load().map(|_| "under load".to_owned()),
    ])
}

/// What there is to say, parted by commas.
fn phrases(parts: impl IntoIterator<Item = Option<String>>) -> String {
    list(parts.into_iter().flatten())
}

fn list(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

/// Each once, in the order in which they come first.
fn unique<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for one in all {
        if !unique.contains(&one) {
            unique.push(one);
        }
    }
    unique
}

/// The latency that a reader is after: from the intended send where there is a schedule, else the
/// service time.
fn headline(latency: &Latencies) -> &Summary {
    latency.response.as_ref().unwrap_or(&latency.service)
}

fn errors(errors: &[ErrorCount]) -> String {
    list(errors.iter().map(|e| format!("{} in {} × {}", e.cause, e.phase, grouped(e.count))))
}

fn alerts(report: &Report) -> Vec<String> {
    let mut alerts = compare::of(report).map(compare::alerts).unwrap_or_default();
    if report.partial && report.comparison.is_none() {
        let cut = "PARTIAL: the run was cut short; what follows was measured until then.";
        alerts.push(cut.to_owned());
    }
    alerts.extend(report.warnings.iter().map(|found| format!("warning: {}", warning(found))));
    alerts
}

/// What was asked, in a line, from what all steps share.
fn asked(report: &Report) -> String {
    if let Some(view) = compare::of(report) {
        return compare::asked(view);
    }
    let Some(first) = report.results.first() else {
        return format!("tare {}: nothing was measured", report.kind);
    };
    let params = &first.params;
    if let Some(http) = &params.http {
        return http::asked(report, first, http);
    }
    let load = latency::load(report);
    let measured = if load.is_some() { 2 } else { 1 };
    let steps = match report.results.len() {
        few if few <= measured => parameters(params),
        steps => format!("{}, {steps} steps", params.proto),
    };
    let delay = params.server_delay_ns.filter(|ns| *ns > 0);
    let each = if report.results.len() > 1 { " each" } else { "" };
    let text = phrases([
        Some(format!("tare {}: {steps}", report.kind)),
        load.map(|load| format!("idle and beside '{load}'")),
        Some(format!("to {}", target(params))),
        Some(match (&params.bulk, params.rate_per_s) {
            (Some(bulk), _) => bulk::options(bulk),
            (None, Some(rate)) => format!("open loop at {}", per_second(rate)),
            (None, None) => "closed loop".to_owned(),
        }),
        delay.map(|ns| format!("each answer held for {}", Nanos(ns))),
        Some(format!("{} measured{each}", Nanos(first.duration_ns))),
    ]);
    text + &label(first)
}

fn target(params: &Params) -> String {
    match &params.address {
        Some(address) if *address != params.target => format!("{} ({address})", params.target),
        _ => params.target.clone(),
    }
}

fn label(step: &StepResult) -> String {
    step.label.as_ref().map_or_else(String::new, |label| format!(" [{label}]"))
}

/// Where the operations of a step went, the kinds that did not happen left out.
fn operations(step: &StepResult) -> String {
    let ops = &step.operations;
    let lost = match step.params.proto.as_str() {
        "udp" => "lost (no answer in time)",
        _ => "timed out",
    };
    let counted = |count: u64, what: &str| {
        (count > 0).then(|| format!("{} {what}{}", grouped(count), share(count, ops.due)))
    };
    // In closed loop a ping is due when it can be sent; the two only part on a schedule.
    let asked = if ops.due == ops.sent { "sent" } else { "due" };
    let in_flight = ops.in_flight_at_end;
    let parts = phrases([
        Some(format!("{} completed", grouped(ops.completed))),
        counted(ops.failed, "failed"),
        counted(ops.timed_out, lost),
        counted(ops.dropped, "dropped for being late"),
        counted(ops.unsent_at_end, "due but never sent"),
        (in_flight > 0).then(|| format!("{} in flight at the end", grouped(in_flight))),
    ]);
    format!("{} {asked}: {parts}", grouped(ops.due))
}
