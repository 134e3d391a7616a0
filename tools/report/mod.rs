//! Results, written down: for people, for scripts, for spreadsheets and for pasting.
//!
//! What the tables of text and Markdown have in common stands here; each format has a file of its own.

mod bulk;
mod compare;
mod csv;
pub(crate) mod doctor;
mod figures;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod golden;
pub(crate) mod histogram;
pub(crate) mod html;
mod http;
pub(crate) mod json;
pub(crate) mod later;
mod loaded;
mod machines;
mod markdown;
mod observed;
mod quantity;
mod text;

use comfy_table::{CellAlignment, Table, TableStyle};
use tare_engine::proto::text::visible;
use tare_engine::result::{
    ErrorCount, INTERVALS_OF_RUN, Latencies, Params, Report, StepResult, Summary, Warning,
    quantile_name,
};
use tare_engine::units::{Nanos, Size};

use crate::args::common::PERCENTILES;
use crate::output::Format;

/// What stands where a quantile has too few samples beyond it, or a figure is not known.
const NONE: &str = "–";

/// What the reader asked to see.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Quantiles to print, per cent, ascending.
    pub(crate) percentiles: Vec<f64>,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            percentiles: PERCENTILES.to_vec(),
        }
    }
}

/// The report in a format, with its last newline.
pub(crate) fn render(format: Format, report: &Report, look: &Look) -> String {
    match format {
        Format::Text => text::render(report, look),
        Format::Json => json::object(report),
        Format::Jsonl => json::lines(report),
        Format::Csv => csv::render(report, look),
        Format::Markdown => markdown::render(report, look),
        Format::Html => html::page(&[(String::new(), report)], look),
    }
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

/// The far end's words are the far end's: none of them drives a terminal.
fn printable(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(visible).collect();
    lines.join("\n")
}

/// A step's parameters, shortly: `tcp, 64 B, 1 connection`.
pub(crate) fn parameters(params: &Params) -> String {
    if let Some(bulk) = &params.bulk {
        return bulk::parameters(params, bulk);
    }
    if let Some(http) = &params.http {
        return http::parameters(params, http);
    }
    let flows = match params.proto.as_str() {
        "udp" => "flow",
        _ => "connection",
    };
    let mut text = format!(
        "{}, {}, {}",
        params.proto,
        Size(params.size_bytes),
        plural(u64::from(params.connections), flows)
    );
    if params.connects_each() {
        text.push_str(", each anew for every ping");
    }
    if params.under_load.is_some() {
        text.push_str(", under load");
    }
    text
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
    let s = if count == 1 { "" } else { "s" };
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
    if summary.censored > 0 && text != NONE {
        format!("≥ {text}")
    } else {
        text
    }
}

fn at_least(summary: &Summary, name: &str, text: String) -> String {
    let bounded = summary.lower_bounds.iter().any(|bound| bound == name);
    if bounded && text != NONE {
        format!("≥ {text}")
    } else {
        text
    }
}

/// What was done for descriptors enough, if anything was.
fn descriptors(report: &Report) -> Option<String> {
    let told = report.plan.get("descriptors")?;
    let limit = told["limit"].as_u64()?;
    let mut text = match told["raised_from"].as_u64() {
        Some(before) if before < limit => {
            format!(
                "limit raised from {} to {}",
                grouped(before),
                grouped(limit)
            )
        }
        _ => format!("limit {}", grouped(limit)),
    };
    if told["per_worker"] == true {
        text.push_str(", for each worker in a table of its own");
    }
    Some(text)
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

/// What spoils the whole report, a line each, but for the warnings.
fn spoiled(report: &Report) -> Vec<String> {
    if let Some(view) = compare::of(report) {
        return compare::spoiled(view);
    }
    let cut = "PARTIAL: the run was cut short; what follows was measured until then.";
    report.partial.then(|| cut.to_owned()).into_iter().collect()
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
    let mut text = format!("tare {}: ", report.kind);
    let load = loaded::options(report);
    let measured = if load.is_some() { 2 } else { 1 };
    if report.results.len() <= measured {
        text.push_str(&parameters(params));
    } else {
        text.push_str(&format!("{}, {} steps", params.proto, report.results.len()));
    }
    if let Some(load) = load {
        text.push_str(&format!(", idle and beside '{load}'"));
    }
    let target = match &params.address {
        Some(address) if *address != params.target => format!("{} ({address})", params.target),
        _ => params.target.clone(),
    };
    text.push_str(&format!(", to {target}"));
    match (&params.bulk, params.rate_per_s) {
        (Some(bulk), _) => text.push_str(&format!(", {}", bulk::options(bulk))),
        (None, Some(rate)) => text.push_str(&format!(", open loop at {}", per_second(rate))),
        (None, None) => text.push_str(", closed loop"),
    }
    if let Some(delay) = params.server_delay_ns.filter(|ns| *ns > 0) {
        let delay = Nanos(delay);
        text.push_str(&format!(", each answer held for {delay}"));
    }
    text.push_str(&format!(", {} measured", Nanos(first.duration_ns)));
    if report.results.len() > 1 {
        text.push_str(" each");
    }
    if let Some(label) = &first.label {
        text.push_str(&format!(" [{label}]"));
    }
    text
}

/// A table's header and its rows.
struct Cells {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Cells {
    fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|&cell| cell.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The table, its first `left` columns set to the left and the numbers to the right.
    fn table(self, style: TableStyle, left: usize) -> Table {
        let mut table = Table::new();
        table.load_style(style).set_header(self.header);
        table.add_rows(self.rows);
        for column in table.column_iter_mut().skip(left) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Over the intervals of a step's quantiles, what they speak for.
fn interval_heading(step: &StepResult) -> &'static str {
    match step.interval_scope.as_str() {
        INTERVALS_OF_RUN => "95 % in this run",
        _ => "95 % interval",
    }
}

/// By how much a quantile can be off through the instrument; blank where that is not known.
fn error_at(summary: &Summary, percent: f64) -> String {
    let error = summary.errors_ns.get(&quantile_name(percent));
    error.map_or_else(String::new, |ns| format!("± {}", Nanos(*ns)))
}

/// The figures of one step: a row per quantile, with its interval, its half (of round trips only), and what it is
/// made of.
fn distribution(step: &StepResult, look: &Look) -> Cells {
    let latency = &step.latency;
    let main = headline(latency);
    let open_loop = latency.response.is_some();
    let halves = step.params.http.is_none();
    let name = match (open_loop, halves) {
        (true, _) => "response",
        (false, true) => "round trip",
        (false, false) => "latency",
    };
    let mut cells = Cells::new(&["", name, interval_heading(step)]);
    let has_errors = !main.errors_ns.is_empty();
    if has_errors {
        cells.header.push("error".into());
    }
    if halves {
        cells.header.push("½ RTT".into());
    }
    if open_loop {
        cells.header.extend(["service".into(), "lateness".into()]);
    }
    let mut add =
        |name: String, shown: &dyn Fn(&Summary) -> String, [interval, error, half]: [String; 3]| {
            let mut row = vec![name, shown(main), interval];
            if has_errors {
                row.push(error);
            }
            if halves {
                row.push(half);
            }
            if open_loop {
                row.push(shown(&latency.service));
                let lateness = latency.lateness.as_ref();
                row.push(lateness.map_or_else(|| NONE.into(), shown));
            }
            cells.row(row);
        };
    let whole = |ns: Option<f64>| ns.map(|ns| nanos(ns).0);
    let blank = String::new;
    add(
        "min".into(),
        &|s| time(s.min_ns),
        [blank(), blank(), half(main.min_ns)],
    );
    let half_mean = bounded(main, half(whole(main.mean_ns)));
    add("mean".into(), &mean, [blank(), blank(), half_mean]);
    add("stdev".into(), &stdev, [blank(), blank(), blank()]);
    for &percent in &look.percentiles {
        let interval = main.intervals_ns.get(&quantile_name(percent));
        let interval = interval.filter(|_| main.quantile_ns(percent).is_some());
        let interval = interval.map(|(low, high)| format!("{} to {}", Nanos(*low), Nanos(*high)));
        add(
            heading(percent),
            &|s| quantile(s, percent),
            [
                interval.unwrap_or_default(),
                error_at(main, percent),
                at_least(
                    main,
                    &quantile_name(percent),
                    half(main.quantile_ns(percent)),
                ),
            ],
        );
    }
    add(
        "max".into(),
        &longest,
        [blank(), blank(), bounded(main, half(main.max_ns))],
    );
    cells
}

/// What a round trip is made of, and what came before it. None where neither is known.
fn parts(latency: &Latencies) -> Option<Cells> {
    let mut cells = Cells::new(&["", "p50", "p99", "p99.9", "max", "mean"]);
    for (name, summary) in [
        ("path and both kernels", &latency.path),
        ("inside the far end", &latency.server_residence),
        ("TCP connect", &latency.connect),
    ] {
        let Some(summary) = summary else { continue };
        let mut row = vec![name.to_owned()];
        row.extend([50.0, 99.0, 99.9].map(|percent| quantile(summary, percent)));
        row.extend([longest(summary), mean(summary)]);
        cells.row(row);
    }
    (!cells.rows.is_empty()).then_some(cells)
}

/// A sweep: a row per step.
fn sweep(report: &Report) -> Cells {
    let mut cells = Cells::new(&[
        "size",
        "conns",
        "p50",
        "p99",
        "p99.9",
        "max",
        "mean",
        "½ p50",
        "rate",
        "p50 error",
        "p99 error",
        "lost",
    ]);
    for step in &report.results {
        let main = headline(&step.latency);
        let mut row = vec![
            Size(step.params.size_bytes).to_string(),
            step.params.connections.to_string(),
        ];
        row.extend([50.0, 99.0, 99.9].map(|percent| quantile(main, percent)));
        let lost = step.operations.failed + step.operations.timed_out;
        row.extend([
            longest(main),
            mean(main),
            at_least(main, "p50", half(main.p50_ns)),
            per_second(step.rate.achieved_per_s),
            error_at(main, 50.0),
            error_at(main, 99.0),
            grouped(lost),
        ]);
        cells.row(row);
    }
    cells
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
            parts.push(format!(
                "{} {what}{}",
                grouped(count),
                share(count, ops.due)
            ));
        }
    }
    if ops.in_flight_at_end > 0 {
        parts.push(format!(
            "{} in flight at the end",
            grouped(ops.in_flight_at_end)
        ));
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
        let mut summary = Summary {
            p99_ns: Some(2_000_000_000),
            ..Summary::default()
        };
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

    #[test]
    fn a_raised_limit_of_descriptors_is_told() {
        let mut report = fixtures::one_step();
        assert_eq!(descriptors(&report), None);
        let raised =
            serde_json::json!({"limit": 20_100, "raised_from": 1_024, "per_worker": false});
        report.plan["descriptors"] = raised;
        let told = |report: &Report| descriptors(report).unwrap();
        assert_eq!(told(&report), "limit raised from 1,024 to 20,100");
        report.plan["descriptors"]["per_worker"] = true.into();
        assert_eq!(
            told(&report),
            "limit raised from 1,024 to 20,100, for each worker in a table of its own"
        );
        report.plan["descriptors"]["limit"] = 1_024.into();
        assert_eq!(
            told(&report),
            "limit 1,024, for each worker in a table of its own"
        );
    }
}
