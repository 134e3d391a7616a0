//! Results, written down: for people, for scripts, for spreadsheets and for pasting.
//!
//! For people a builder per kind of result makes a [`Document`], which [`mod@print`] puts into a format.
//! Scripts have [`json`] and [`csv`]. What the builders share is here and in [`common`].

mod bulk;
mod charts;
mod common;
mod compare;
mod csv;
pub(crate) mod doctor;
mod document;
mod figures;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod golden;
pub(crate) mod histogram;
mod http;
pub(crate) mod json;
mod latency;
pub(crate) mod later;
mod machines;
mod observed;
#[cfg(test)]
mod page_tests;
mod plot;
mod print;
mod quantity;

use tare_stats::result::{
    ErrorCount, Latencies, Params, Report, StepResult, Summary, Warning, quantile_name,
};
use tare_units::{Nanos, Size};

use crate::args::common::PERCENTILES;
use crate::output::Format;
use document::Document;
use print::{html, markdown, text};

/// Printed where a quantile has too few samples beyond it, or a figure is not known.
const NONE: &str = "–";

/// What the reader asked to see.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Quantiles to print, per cent, ascending.
    pub(crate) percentiles: Vec<f64>,
}

impl Default for Look {
    fn default() -> Self {
        Self { percentiles: PERCENTILES.to_vec() }
    }
}

/// The report in a format, with its last newline.
pub(crate) fn render(format: Format, report: &Report, look: &Look) -> String {
    match format {
        Format::Text => text::print(document(report, look)),
        Format::Json => json::object(report),
        Format::Jsonl => json::lines(report),
        Format::Csv => csv::render(report, look),
        Format::Markdown => markdown::print(document(report, look)),
        Format::Html => page(&[(String::new(), report)], look),
    }
}

/// One or more results as a page.
pub(crate) fn page(reports: &[(String, &Report)], look: &Look) -> String {
    let documents = reports.iter();
    let documents = documents.map(|(name, report)| (name.clone(), document(report, look)));
    html::print(documents.collect())
}

/// What the report says to people.
fn document(report: &Report, look: &Look) -> Document {
    let mut document =
        Document { title: asked(report), alerts: alerts(report), sections: Vec::new() };
    match (compare::of(report), report.kind.as_str()) {
        (Some(view), _) => compare::build(&mut document, view),
        (None, "bw") => bulk::build(&mut document, report),
        (None, "http") => http::build(&mut document, report, look),
        _ => latency::build(&mut document, report, look),
    }
    common::closing(&mut document, report);
    document
}

/// A warning and its advice in a line.
pub(crate) fn warning(warning: &Warning) -> String {
    if warning.advice.is_empty() {
        warning.message.clone()
    } else {
        format!("{}; {}", warning.message, warning.advice)
    }
}

/// A rate in bits per second: `9.412 Gbit/s`.
pub(crate) fn bits(bits_per_s: f64) -> String {
    figures::bits(bits_per_s)
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
        params.under_load.as_ref().map(|_| "under load".to_owned()),
    ])
}

/// What there is to say, parted by commas.
fn phrases<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `1,234 round trips`.
pub(crate) fn round_trips(count: u64) -> String {
    plural(count, "round trip")
}

/// `1,234 requests`.
pub(crate) fn requests(count: u64) -> String {
    plural(count, "request")
}

fn plural(count: u64, what: &str) -> String {
    let s = match (count, what.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {what}{s}", grouped(count))
}

/// A whole number with its thousands set apart: `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Something per second, three digits at least: `108,231/s`, `2.5/s`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates lie between zero and 10^9, and a cast saturates"
)]
fn per_second(rate: f64) -> String {
    if rate >= 100.0 {
        return format!("{}/s", grouped(rate.round() as u64));
    }
    // Two digits that count, however slow: a request in a million seconds is not none.
    let digits = (1.0 - rate.max(1e-9).log10().floor()).max(2.0) as usize;
    let text = format!("{rate:.digits$}");
    format!("{}/s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `part` of `whole` in per cent, to the ten-thousandth.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn share(part: u64, whole: u64) -> String {
    let text = format!("{:.4}", part as f64 / whole.max(1) as f64 * 100.0);
    match text.trim_end_matches('0').trim_end_matches('.') {
        "0" => " (below 0.0001 %)".to_owned(),
        percent => format!(" ({percent} %)"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "latencies are positive, and a cast saturates"
)]
fn nanos(ns: f64) -> Nanos {
    Nanos(ns.round() as u64)
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| NONE.to_owned(), |ns| Nanos(ns).to_string())
}

fn half(ns: Option<u64>) -> String {
    time(ns.map(|ns| ns / 2))
}

/// The mean, which is a lower bound as soon as any sample is.
fn mean(summary: &Summary) -> String {
    let mean = summary.mean_ns.map(|mean| nanos(mean).0);
    bounded(summary, time(mean))
}

/// The standard deviation; `≈` where samples are only known to be at least so long, for it may come out either way.
fn stdev(summary: &Summary) -> String {
    let sign = if summary.censored > 0 { '≈' } else { '±' };
    let stdev = summary.stdev_ns.map(nanos);
    stdev.map_or_else(|| NONE.into(), |stdev| format!("{sign} {stdev}"))
}

/// `p99.9` for 99.9 per cent.
fn heading(percent: f64) -> String {
    format!("p{percent}")
}

/// A quantile; `≥` where it rests on samples that are only known to be at least that long.
fn quantile(summary: &Summary, percent: f64) -> String {
    let name = quantile_name(percent);
    at_least(summary, &name, time(summary.quantile_ns(percent)))
}

/// The longest sample, which is a lower bound as soon as any sample is.
fn longest(summary: &Summary) -> String {
    bounded(summary, time(summary.max_ns))
}

/// Marks what grows with any sample.
fn bounded(summary: &Summary, text: String) -> String {
    if summary.censored > 0 && text != NONE { format!("≥ {text}") } else { text }
}

fn at_least(summary: &Summary, name: &str, text: String) -> String {
    let bounded = summary.lower_bounds.iter().any(|bound| bound == name);
    if bounded && text != NONE { format!("≥ {text}") } else { text }
}

/// The latency that a reader is after: from the intended send where there is a schedule, else the service time.
fn headline(latency: &Latencies) -> &Summary {
    latency.response.as_ref().unwrap_or(&latency.service)
}

/// Errors by phase and cause, in a line.
fn errors(errors: &[ErrorCount]) -> String {
    let parts: Vec<String> = errors
        .iter()
        .map(|e| format!("{} in {} × {}", e.cause, e.phase, grouped(e.count)))
        .collect();
    parts.join(", ")
}

/// What spoils the whole report, a line each.
fn alerts(report: &Report) -> Vec<String> {
    let mut alerts = compare::of(report).map(compare::alerts).unwrap_or_default();
    if report.partial && report.comparison.is_none() {
        let cut = "PARTIAL: the run was cut short; what follows was measured until then.";
        alerts.push(cut.to_owned());
    }
    let warnings = report.warnings.iter();
    alerts.extend(warnings.map(|found| format!("warning: {}", warning(found))));
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
    if let Some(http) = http::of(first) {
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

/// The target as given, with the address that it is.
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
    let mut parts = vec![format!("{} completed", grouped(ops.completed))];
    for (count, what) in [
        (ops.failed, "failed"),
        (ops.timed_out, lost),
        (ops.dropped, "dropped for being late"),
        (ops.unsent_at_end, "due but never sent"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}{}", grouped(count), share(count, ops.due)));
        }
    }
    if ops.in_flight_at_end > 0 {
        parts.push(format!("{} in flight at the end", grouped(ops.in_flight_at_end)));
    }
    // In closed loop a ping is due when it can be sent; the two only part on a schedule.
    let asked = if ops.due == ops.sent { "sent" } else { "due" };
    format!("{} {asked}: {}", grouped(ops.due), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(per_second(108_230.7), "108,231/s");
        assert_eq!(per_second(2.5), "2.5/s");
        assert_eq!(per_second(0.0), "0/s");
        assert_eq!(per_second(0.000_001), "0.000001/s");
        assert_eq!(per_second(1.0 / 300.0), "0.0033/s");
        assert_eq!(per_second(99.999), "100/s");
        assert_eq!(share(1, 1000), " (0.1 %)");
        assert_eq!(share(100, 100), " (100 %)");
        assert_eq!(share(1, 100_000_000), " (below 0.0001 %)");
        assert_eq!(round_trips(1), "1 round trip");
    }

    #[test]
    fn lower_bounds_are_marked() {
        let mut summary = Summary { p99_ns: Some(2_000_000_000), ..Summary::default() };
        assert_eq!(quantile(&summary, 99.0), "2 s");
        summary.lower_bounds.push("p99".into());
        summary.lower_bounds.push("p50".into());
        assert_eq!(quantile(&summary, 99.0), "≥ 2 s");
        assert_eq!(quantile(&summary, 50.0), NONE);
        summary.mean_ns = Some(1_500.0);
        summary.stdev_ns = Some(100.0);
        assert_eq!([mean(&summary), stdev(&summary)], ["1.5 µs", "± 100 ns"]);
        summary.censored = 1;
        assert_eq!([mean(&summary), stdev(&summary)], ["≥ 1.5 µs", "≈ 100 ns"]);
    }
}
