//! CSV: a row per step, of a comparison per cell, under a header that stays as it is for each kind of run. Units are the last
//! word of a name, absent figures are empty, and what was asked for beyond the usual follows at the end: further quantiles
//! (`--percentiles`), and what was observed (`--observe`).

mod bulk;
mod compare;
mod http;
mod observed;

use std::borrow::Cow;

use csv::Writer;
use tare_engine::proto::text::visible;
use tare_engine::result::{Cell, Instrument, Report, StepResult, Summary, quantile_name};

use super::Look;
use super::compare::View;
use crate::args::common::PERCENTILES;

/// Distributions whose quantiles' intervals have columns.
const INTERVALS_OF: [&str; 2] = ["response", "service"];

/// One row, as pairs of a column's name and its value.
#[derive(Default)]
pub(super) struct Row(Vec<(String, String)>);

impl Row {
    fn put(&mut self, name: impl Into<String>, value: impl ToString) {
        self.0.push((name.into(), value.to_string()));
    }

    fn put_known<T: ToString>(&mut self, name: impl Into<String>, value: Option<T>) {
        let value = value.map_or_else(String::new, |value| value.to_string());
        self.0.push((name.into(), value));
    }
}

pub(super) fn render(report: &Report, look: &Look) -> String {
    // A report without a step still has its header: a script that reads columns by name finds them.
    let (header, rows) = match super::compare::of(report) {
        Some(view) => {
            let cells = view.comparison().cells.iter();
            let rows = cells.map(|cell| comparison_row(report, view, cell));
            (
                comparison_row(report, view, &Cell::default()),
                rows.collect(),
            )
        }
        None => {
            let rows = report.results.iter().map(|step| row(report, step, look));
            let rows: Vec<Row> = rows.collect();
            (row(report, &StepResult::default(), look), rows)
        }
    };
    let mut writer = Writer::from_writer(Vec::new());
    let names = header.0.iter().map(|(name, _)| cell(name));
    writer
        .write_record(names.map(Cow::into_owned))
        .expect(IN_MEMORY);
    for row in rows {
        let values = row.0.iter().map(|(_, value)| cell(value));
        writer
            .write_record(values.map(Cow::into_owned))
            .expect(IN_MEMORY);
    }
    let bytes = writer.into_inner().expect(IN_MEMORY);
    String::from_utf8(bytes).expect("CSV of strings is UTF-8")
}

/// A cell that a spreadsheet shows, and neither computes nor obeys: what begins like a formula begins with an apostrophe
/// (OWASP, "CSV Injection"). Numbers are numbers.
fn cell(value: &str) -> Cow<'_, str> {
    let shown = visible(value);
    let is_formula = shown.starts_with([
        '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
    ]);
    let digits = |c: char| c.is_ascii_digit() || ".eE+-".contains(c);
    let is_number = shown.chars().all(digits) && shown.parse::<f64>().is_ok();
    // Tabs and line ends, which some programs skip, are written out already.
    if is_formula && !is_number {
        return Cow::Owned(format!("'{shown}"));
    }
    shown
}

/// Why writing to a vector succeeds: it has no I/O, and all rows are made by the same function.
const IN_MEMORY: &str = "rows of one length, written to memory";

fn row(report: &Report, step: &StepResult, look: &Look) -> Row {
    let mut row = Row::default();
    identity(&mut row, report, step);
    match report.kind.as_str() {
        "bw" => bulk::columns(&mut row, step),
        "http" => http::columns(&mut row, step, look),
        _ => latencies(&mut row, step, look),
    }
    observed::columns(&mut row, report, Some(step), "");
    row
}

/// A cell, with the step that it is of as its arm measured it, or where that did not get there, another.
fn comparison_row(report: &Report, view: View<'_>, cell: &Cell) -> Row {
    let none = StepResult::default();
    let own = view.result(&cell.arm, cell.step);
    let step = own.or_else(|| view.step(cell.step)).unwrap_or(&none);
    let mut row = Row::default();
    identity(&mut row, report, step);
    compare::columns(&mut row, view, step, cell);
    observed::columns(&mut row, report, own, "");
    let baseline = view.result(&view.comparison().baseline, cell.step);
    observed::columns(&mut row, report, baseline, "baseline_");
    row
}

/// Which run, and which of its steps.
fn identity(row: &mut Row, report: &Report, step: &StepResult) {
    row.put("schema", &report.schema);
    row.put("kind", &report.kind);
    row.put("tare_version", &report.tool.version);
    row.put("started_at", &report.started_at);
    row.put_known("label", step.label.as_ref());
    row.put("partial", step.partial);
}

fn latencies(row: &mut Row, step: &StepResult, look: &Look) {
    parameters(row, step);
    counts(row, step);
    let latency = &step.latency;
    for (name, summary) in [
        ("response", latency.response.as_ref()),
        ("service", Some(&latency.service)),
        ("lateness", latency.lateness.as_ref()),
        ("path", latency.path.as_ref()),
        ("server_residence", latency.server_residence.as_ref()),
        ("connect", latency.connect.as_ref()),
    ] {
        summarise(row, name, summary);
    }
    row.put("latency_error_ns", step.latency_error_ns);
    instrument(row, "client", Some(&step.instrument.client));
    instrument(row, "server", step.instrument.server.as_ref());
    row.put("instances", step.instances.join(" "));
    row.put_known("under_load", step.params.under_load.as_ref());
    let load = step.bandwidth.as_ref();
    row.put_known("load_bits_per_s", load.and_then(|load| load.bits_per_s));
    more_quantiles(row, step, look);
    trust(row, step);
}

/// What the intervals of the quantiles speak for, and by how much the instrument can have moved each.
fn trust(row: &mut Row, step: &StepResult) {
    let latency = &step.latency;
    row.put("interval_scope", &step.interval_scope);
    for (name, summary) in [
        ("response", latency.response.as_ref()),
        ("service", Some(&latency.service)),
    ] {
        for quantile in PERCENTILES.map(quantile_name) {
            let error = summary.and_then(|s| s.errors_ns.get(&quantile));
            row.put_known(format!("{name}_{quantile}_error_ns"), error);
        }
    }
}

/// Quantiles beyond the usual ones.
fn more_quantiles(row: &mut Row, step: &StepResult, look: &Look) {
    let latency = &step.latency;
    for (name, summary) in [
        ("response", latency.response.as_ref()),
        ("service", Some(&latency.service)),
    ] {
        for percent in look.percentiles.iter().filter(|p| !PERCENTILES.contains(p)) {
            let quantile = summary.and_then(|s| s.quantile_ns(*percent));
            row.put_known(format!("{name}_{}_ns", quantile_name(*percent)), quantile);
        }
    }
}

fn parameters(row: &mut Row, step: &StepResult) {
    let params = &step.params;
    row.put("proto", &params.proto);
    row.put("target", &params.target);
    row.put_known("address", params.address.as_ref());
    row.put("size_bytes", params.size_bytes);
    row.put("connections", params.connections);
    row.put_known("connect_each", params.connect_each);
    row.put_known("server_delay_ns", params.server_delay_ns);
    row.put("timeout_ns", params.timeout_ns);
    row.put("duration_ns", step.duration_ns);
    row.put_known("rate_target_per_s", step.rate.target_per_s);
    row.put("rate_achieved_per_s", step.rate.achieved_per_s);
}

fn counts(row: &mut Row, step: &StepResult) {
    let ops = &step.operations;
    row.put("due", ops.due);
    row.put("sent", ops.sent);
    row.put("completed", ops.completed);
    row.put("failed", ops.failed);
    row.put("timed_out", ops.timed_out);
    row.put("in_flight_at_end", ops.in_flight_at_end);
    row.put("dropped", ops.dropped);
    row.put("unsent_at_end", ops.unsent_at_end);
    errors(row, step);
}

fn errors(row: &mut Row, step: &StepResult) {
    let errors: Vec<String> = step
        .errors
        .iter()
        .map(|e| format!("{}:{}={}", e.phase, e.cause, e.count))
        .collect();
    row.put("errors", errors.join(" "));
    row.put("connections_established", step.connections.established);
    row.put("reconnects", step.connections.reconnects);
}

fn summarise(row: &mut Row, name: &str, summary: Option<&Summary>) {
    row.put_known(format!("{name}_count"), summary.map(|s| s.count));
    row.put_known(format!("{name}_min_ns"), summary.and_then(|s| s.min_ns));
    row.put_known(format!("{name}_mean_ns"), summary.and_then(|s| s.mean_ns));
    row.put_known(format!("{name}_stdev_ns"), summary.and_then(|s| s.stdev_ns));
    for percent in PERCENTILES {
        let quantile = quantile_name(percent);
        let value = summary.and_then(|s| s.quantile_ns(percent));
        row.put_known(format!("{name}_{quantile}_ns"), value);
        if !INTERVALS_OF.contains(&name) {
            continue;
        }
        let interval = summary.and_then(|s| s.intervals_ns.get(&quantile));
        row.put_known(format!("{name}_{quantile}_low_ns"), interval.map(|i| i.0));
        row.put_known(format!("{name}_{quantile}_high_ns"), interval.map(|i| i.1));
    }
    row.put_known(format!("{name}_max_ns"), summary.and_then(|s| s.max_ns));
    row.put_known(format!("{name}_censored"), summary.map(|s| s.censored));
    let bounds = summary.map(|s| s.lower_bounds.join(" "));
    row.put_known(format!("{name}_lower_bounds"), bounds);
}

fn instrument(row: &mut Row, end: &str, found: Option<&Instrument>) {
    row.put_known(format!("{end}_backend"), found.map(|i| &i.backend));
    row.put_known(format!("{end}_wait"), found.map(|i| &i.wait));
    row.put_known(format!("{end}_turn_p99_ns"), found.map(|i| i.turn_p99_ns));
    row.put_known(format!("{end}_turn_max_ns"), found.map(|i| i.turn_max_ns));
    let switches = found.map(|i| i.involuntary_switches);
    row.put_known(format!("{end}_involuntary_switches"), switches);
    row.put_known(format!("{end}_saturated"), found.map(|i| i.saturated));
    row.put_known(format!("{end}_disturbed"), found.map(|i| i.disturbed));
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn a_spreadsheet_computes_no_cell() {
        for (value, shown) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("@SUM(1)", "'@SUM(1)"),
            ("+1+cmd", "'+1+cmd"),
            ("-2+3", "'-2+3"),
            ("-", "'-"),
            ("\t=1", "\\t=1"),
            ("\u{200b}=1", "\\u{200b}=1"),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("-5", "-5"),
            ("-1.5e-7", "-1.5e-7"),
            ("web=1", "web=1"),
            ("", ""),
        ] {
            assert_eq!(cell(value), shown, "{value:?}");
        }
    }
}
