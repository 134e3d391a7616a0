//! CSV: the result flattened, a row per step, of a comparison per cell, under a header that stays
//! as it is for each kind of run. Units are the last word of a name, absent figures are empty, and
//! what was asked for beyond the usual follows at the end: further quantiles (`--percentiles`), and
//! what was observed (`--observe`).

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};
use tare_stats::diff::Diff;
use tare_stats::result::{Cell, Report, StepResult, quantile_name};
use tare_stats::summary::PERCENTILES;
use tare_units::text::visible;

use super::compare::{self, View};
use super::{bulk, unique};

/// What every row of a result begins with. A line names where columns come from, then the fields
/// there; a column that is called otherwise is before a `=`. What is before a `|` replaces each
/// `{}`, and begins the names of the line's columns.
const IDENTITY: &str = "
/run schema kind
/run/tool tare_version=version
/run started_at
/ label partial";
const LATENCY: &str = "
/params proto target address size_bytes connections connect_each server_delay_ns timeout_ns
/ duration_ns
/rate rate_target_per_s=target_per_s rate_achieved_per_s=achieved_per_s
/operations due sent completed failed timed_out in_flight_at_end dropped unsent_at_end
/ errors
/connections connections_established=established reconnects
summary response service lateness path server_residence connect
/ latency_error_ns
client,server | /instrument/{} backend wait turn_p99_ns turn_max_ns involuntary_switches saturated disturbed
/ instances
/params under_load
/bandwidth load_bits_per_s=bits_per_s
quantiles
/ interval_scope
errors";
const BULK: &str = "
/params proto target address size_bytes streams=connections direction rate_target_bits_per_s=rate_bits_per_s
/params target_bytes=bytes zero_copy sink congestion_asked=congestion mss_asked_bytes=mss_bytes nodelay dscp
/params send_buffer_asked_bytes=send_buffer_bytes receive_buffer_asked_bytes=receive_buffer_bytes bind
/ duration_ns
/bandwidth bits_per_s low_bits_per_s=interval_bits_per_s/0 high_bits_per_s=interval_bits_per_s/1 sent_bytes
/bandwidth received_bytes lost_datagrams reordered_datagrams duplicated_datagrams jitter_ns retransmits cpu_s_per_gib
/bandwidth/link link_device=device link_ceiling_bits_per_s=ceiling_bits_per_s link_share=share link_bound=bound
up,down | /bandwidth/{} bits_per_s low_bits_per_s=interval_bits_per_s/0 high_bits_per_s=interval_bits_per_s/1 sent_bits_per_s sent_bytes received_bytes sends stream_min_bits_per_s=spread/0 stream_median_bits_per_s=spread/1 stream_max_bits_per_s=spread/2 retransmits=tcp/retransmits segments=tcp/segments cwnd_bytes=tcp/cwnd_bytes rtt_ns=tcp/rtt_ns min_rtt_ns=tcp/min_rtt_ns mss_bytes=tcp/mss_bytes busy_ns=tcp/busy_ns rwnd_limited_ns=tcp/rwnd_limited_ns sndbuf_limited_ns=tcp/sndbuf_limited_ns congestion=tcp/congestion datagrams_sent=datagrams/sent datagrams_received=datagrams/received datagrams_lost=datagrams/lost datagrams_reordered=datagrams/reordered datagrams_duplicated=datagrams/duplicated datagrams_per_send=datagrams/per_send jitter_ns=datagrams/jitter_ns gap_ns=pacing/gap_ns gap_deviation_p50_ns=pacing/gap_deviation/p50_ns lateness_p50_ns=pacing/lateness/p50_ns gap_deviation_p99_ns=pacing/gap_deviation/p99_ns lateness_p99_ns=pacing/lateness/p99_ns gap_deviation_max_ns=pacing/gap_deviation/max_ns lateness_max_ns=pacing/lateness/max_ns unsent=pacing/unsent zero_copy_sends=zero_copy/sends zero_copy_copied_share=zero_copy/copied_share
client,server | /cpu/{} user_ns system_ns machine_busy per_mib_ns
/ errors
/connections connections_established=established reconnects
client,server | /instrument/{} backend wait turn_p99_ns turn_max_ns involuntary_switches saturated disturbed
/ instances";
const HTTP: &str = "
/params target address method path requests request_bytes connections pipeline requests_per_connection stage
/params arrivals late rate_asked_per_s=rate_per_s rate_to_per_s expect_status timeout_ns
/ duration_ns
/rate rate_target_per_s=target_per_s rate_achieved_per_s=achieved_per_s
/operations due sent completed failed timed_out in_flight_at_end dropped unsent_at_end
/ errors
/connections connections_established=established reconnects connections_asked=asked sockets_used
/rate backlog_max
/ codes unexpected
/transfer sent_bytes received_bytes body_bytes received_bytes_per_s
summary response service lateness connect
/ latency_error_ns
client,server | /cpu/{} user_ns system_ns cpu_per_request_ns=per_operation_ns
client,server | /instrument/{} backend wait turn_p99_ns turn_max_ns involuntary_switches saturated disturbed
/ instances began_at
quantiles
/ interval_scope
errors";
const COMPARISON: &str = "
/comparison measured baseline_arm=baseline
/cell arm
/own target options
/comparison backend wait
/cell step
/params proto size_bytes connections rate_target_per_s=rate_per_s stage under_load
/cell measure unit declared overloaded baseline value delta=delta/median delta_low=delta/interval/0
/cell delta_high=delta/interval/1 ratio=ratio/median ratio_low=ratio/interval/0 ratio_high=ratio/interval/1
/cell p p_adjusted resolution detectable
/ blocks
/cell blocks_needed verdict
/own failed";
const CHANGES: &str = "
/ measured arm
/params proto size_bytes connections rate_per_s
/ of measure unit before after blocks_before blocks_after
/ delta=delta/median delta_low=delta/interval/0 delta_high=delta/interval/1 p p_adjusted verdict";
const OBSERVED: &str = "user_ns system_ns memory_bytes memory_max_bytes periods throttled_periods throttled_ns \
    voluntary_switches involuntary_switches cpus cpu_limit";

type Column = (String, String);

pub(super) fn render(report: &Report, percentiles: &[f64]) -> String {
    let kind = match (&report.comparison, report.kind.as_str()) {
        (Some(_), _) => COMPARISON,
        (None, "bw") => BULK,
        (None, "http") => HTTP,
        (None, _) => LATENCY,
    };
    // A report without a step still has its header: a script that reads columns by name finds them.
    let mut columns = parsed(IDENTITY, percentiles);
    columns.extend(parsed(kind, percentiles));
    let observed = report.results.iter().flat_map(|step| &step.observed);
    let names = unique(observed.map(|one| one.name.as_str()));
    let sides: &[&str] = if report.comparison.is_some() { &["", "baseline_"] } else { &[""] };
    for (side, name) in sides.iter().flat_map(|side| names.iter().map(move |name| (side, name))) {
        let key = name.replace('~', "~0").replace('/', "~1");
        columns.extend(OBSERVED.split_whitespace().map(|figure| {
            (format!("{side}observed_{name}_{figure}"), format!("/{side}observed/{key}/{figure}"))
        }));
    }
    let run = json!({
        "schema": report.schema,
        "kind": report.kind,
        "tool": value(&report.tool),
        "started_at": report.started_at,
    });
    let mut rows: Vec<Value> = match compare::of(report) {
        Some(view) => cells(view),
        None => report.results.iter().map(flattened).collect(),
    };
    rows.iter_mut().for_each(|row| row["run"] = run.clone());
    written(&columns, rows)
}

/// A row for each cell of a comparison: the step as its arm measured it, or where that did not get
/// there, another.
fn cells(view: View<'_>) -> Vec<Value> {
    let comparison = view.comparison;
    let observed = |step: Option<&StepResult>| {
        step.map_or(Value::Null, |step| flattened(step)["observed"].take())
    };
    let row = |cell: &Cell| {
        let own = view.result(&cell.arm, cell.step);
        let step = own.or_else(|| view.step(cell.step)).cloned().unwrap_or_default();
        let mut row = flattened(&step);
        row["observed"] = observed(own);
        row["baseline_observed"] = observed(view.result(&comparison.baseline, cell.step));
        row["comparison"] = json!({
            "measured": comparison.measured,
            "baseline": comparison.baseline,
            "backend": comparison.backend,
            "wait": comparison.wait,
        });
        row["own"] = value(&comparison.arms.iter().find(|arm| arm.name == cell.arm));
        row["cell"] = value(cell);
        row["blocks"] = cell.blocks.len().into();
        row
    };
    comparison.cells.iter().map(row).collect()
}

pub(super) fn changes(later: &Diff) -> String {
    let rows = later.changes.iter().map(|change| {
        let mut row = value(change);
        row["measured"] = later.measured.clone().into();
        row
    });
    written(&parsed(CHANGES, &PERCENTILES), rows)
}

fn parsed(list: &str, percentiles: &[f64]) -> Vec<Column> {
    let main = ["response", "service"];
    let further = percentiles.iter().filter(|p| !PERCENTILES.contains(p));
    let further: Vec<String> = further.map(|p| quantile_name(*p)).collect();
    let usual = PERCENTILES.map(quantile_name);
    let of_main = |quantiles: &[String], field: &str, unit: &str| -> Vec<Column> {
        let each = main.iter().flat_map(|name| quantiles.iter().map(move |q| (name, q)));
        each.map(|(name, q)| (format!("{name}_{q}_{unit}"), format!("/latency/{name}/{field}/{q}")))
            .collect()
    };
    let mut columns: Vec<Column> = Vec::new();
    for line in list.lines() {
        let (each, line) = line.split_once(" | ").unwrap_or(("", line));
        let mut words = line.split_whitespace();
        match words.next() {
            None => {}
            Some("summary") => {
                columns.extend(words.flat_map(|name| summary(name, main.contains(&name))));
            }
            Some("quantiles") => columns.extend(of_main(&further, "extra_ns", "ns")),
            Some("errors") => columns.extend(of_main(&usual, "errors_ns", "error_ns")),
            Some(from) => {
                for one in each.split(',') {
                    let from = from.replace("{}", one);
                    let from = from.trim_end_matches('/');
                    let prefix = if one.is_empty() { String::new() } else { format!("{one}_") };
                    columns.extend(words.clone().map(|word| {
                        let (name, field) = word.split_once('=').unwrap_or((word, word));
                        (format!("{prefix}{name}"), format!("{from}/{field}"))
                    }));
                }
            }
        }
    }
    columns
}

fn summary(name: &str, has_intervals: bool) -> Vec<Column> {
    let column =
        |field: &str, place: &str| (format!("{name}_{field}"), format!("/latency/{name}/{place}"));
    let same = |field: &str| column(field, field);
    let mut columns: Vec<Column> = ["count", "min_ns", "mean_ns", "stdev_ns"].map(same).into();
    for quantile in PERCENTILES.map(quantile_name) {
        columns.push(same(&format!("{quantile}_ns")));
        if has_intervals {
            for (end, place) in [("low", 0), ("high", 1)] {
                let place = format!("intervals_ns/{quantile}/{place}");
                columns.push(column(&format!("{quantile}_{end}_ns"), &place));
            }
        }
    }
    columns.extend(["max_ns", "censored", "lower_bounds"].map(same));
    columns
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("results have string keys only")
}

/// A step as rows have it: lists that a cell could not hold are summed up.
fn flattened(step: &StepResult) -> Value {
    let mut row = value(step);
    let errors = step.errors.iter().map(|e| format!("{}:{}={}", e.phase, e.cause, e.count));
    row["errors"] = errors.collect::<Vec<_>>().join(" ").into();
    let codes = step.status_codes.iter().map(|(code, seen)| format!("{code}:{}", seen.count));
    row["codes"] = codes.collect::<Vec<_>>().join(";").into();
    let unexpected = step.status_codes.values().filter(|code| !code.expected);
    row["unexpected"] = unexpected.map(|code| code.count).sum::<u64>().into();
    let flows = step.bandwidth.iter().flat_map(|b| [("up", &b.up), ("down", &b.down)]);
    for (way, flow) in flows.filter_map(|(way, flow)| Some((way, flow.as_ref()?))) {
        row["bandwidth"][way]["spread"] = value(&bulk::spread(&flow.streams_bits_per_s));
    }
    row["observed"] = step.observed.iter().map(|one| (one.name.clone(), value(one))).collect();
    row
}

fn written(columns: &[Column], rows: impl IntoIterator<Item = Value>) -> String {
    const IN_MEMORY: &str = "rows of one length, written to memory";
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = columns.iter().map(|(name, _)| cell(name).into_owned());
    writer.write_record(header).expect(IN_MEMORY);
    for row in rows {
        let values =
            columns.iter().map(|(_, place)| row.pointer(place).map_or_else(String::new, text));
        writer.write_record(values.map(|text| cell(&text).into_owned())).expect(IN_MEMORY);
    }
    let bytes = writer.into_inner().expect(IN_MEMORY);
    String::from_utf8(bytes).expect("CSV of strings is UTF-8")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        // Whole numbers are printed without a fraction, whatever their type.
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |number| number.to_string())
        }
        other => other.to_string(),
    }
}

/// A cell that a spreadsheet shows, and neither computes nor obeys: what begins like a formula
/// begins with an apostrophe (OWASP, "CSV Injection"). Numbers are numbers.
fn cell(value: &str) -> Cow<'_, str> {
    let shown = visible(value);
    let is_formula =
        shown.starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
    let digits = |c: char| c.is_ascii_digit() || ".eE+-".contains(c);
    let is_number = shown.chars().all(digits) && shown.parse::<f64>().is_ok();
    // Tabs and line ends, which some programs skip, are written out already.
    if is_formula && !is_number {
        return Cow::Owned(format!("'{shown}"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::cell;
    use crate::report::fixtures;
    use crate::report::golden::rows;

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

    #[test]
    fn a_cell_tells_what_its_arm_and_the_baseline_cost() {
        let mut report = fixtures::compare::failed_arm();
        let seen = fixtures::observed().results.remove(0).observed;
        for (arm, cpus) in [("loopback", 0.5), ("veth", 0.75)] {
            let mut results = report.results.iter_mut();
            let result = results.find(|result| result.arm.as_deref() == Some(arm));
            let result = result.expect("it was measured");
            result.observed.clone_from(&seen);
            result.observed[0].cpus = Some(cpus);
        }
        // It died before its first visit was over: what others cost is not its own.
        report.results.retain(|result| result.arm.as_deref() != Some("kata"));
        let rows = rows(&report);
        for (arm, own) in [("veth", "0.75"), ("kata", ""), ("a/a", "")] {
            let of_arm = rows.iter().filter(|row| row["arm"] == arm);
            let costs = ["observed_nginx_cpus", "baseline_observed_nginx_cpus"];
            let found: Vec<_> = of_arm.map(|row| costs.map(|name| row[name].as_str())).collect();
            assert_eq!(found, [[own, "0.5"]; 2], "{arm}");
        }
    }
}
