//! The columns of an HTTP run.

use tare_engine::result::{CpuUse, HttpParams, StepResult};

use super::{Row, counts, instrument, more_quantiles, summarise, trust};
use crate::report::Look;

pub(super) fn columns(row: &mut Row, step: &StepResult, look: &Look) {
    parameters(row, step);
    counts(row, step);
    row.put("connections_asked", step.connections.asked);
    row.put("sockets_used", step.connections.sockets_used);
    row.put_known("backlog_max", step.rate.backlog_max);
    row.put("codes", codes(step));
    let unexpected = step.status_codes.values().filter(|code| !code.expected);
    row.put("unexpected", unexpected.map(|code| code.count).sum::<u64>());
    let transfer = step.transfer.as_ref();
    row.put_known("sent_bytes", transfer.map(|t| t.sent_bytes));
    row.put_known("received_bytes", transfer.map(|t| t.received_bytes));
    row.put_known("body_bytes", transfer.map(|t| t.body_bytes));
    row.put_known(
        "received_bytes_per_s",
        transfer.map(|t| t.received_bytes_per_s),
    );
    let latency = &step.latency;
    for (name, summary) in [
        ("response", latency.response.as_ref()),
        ("service", Some(&latency.service)),
        ("lateness", latency.lateness.as_ref()),
        ("connect", latency.connect.as_ref()),
    ] {
        summarise(row, name, summary);
    }
    row.put("latency_error_ns", step.latency_error_ns);
    cpu(row, "client", Some(&step.cpu.client));
    cpu(row, "server", step.cpu.server.as_ref());
    instrument(row, "client", Some(&step.instrument.client));
    instrument(row, "server", step.instrument.server.as_ref());
    row.put("instances", step.instances.join(" "));
    row.put_known("began_at", step.began_at.as_ref());
    more_quantiles(row, step, look);
    trust(row, step);
}

fn parameters(row: &mut Row, step: &StepResult) {
    let params = &step.params;
    let none = HttpParams::default();
    let http = params.http.as_ref().unwrap_or(&none);
    row.put("target", &params.target);
    row.put_known("address", params.address.as_ref());
    row.put("method", &http.method);
    row.put("path", &http.path);
    row.put("requests", http.requests);
    row.put("request_bytes", http.request_bytes);
    row.put("connections", params.connections);
    row.put("pipeline", http.pipeline);
    row.put_known("requests_per_connection", http.requests_per_connection);
    row.put_known("stage", http.stage);
    row.put_known("arrivals", http.arrivals.as_ref());
    row.put_known("late", http.late.as_ref());
    row.put_known("rate_asked_per_s", params.rate_per_s);
    row.put_known("rate_to_per_s", http.rate_to_per_s);
    row.put("expect_status", &http.expect_status);
    row.put("timeout_ns", params.timeout_ns);
    row.put("duration_ns", step.duration_ns);
    row.put_known("rate_target_per_s", step.rate.target_per_s);
    row.put("rate_achieved_per_s", step.rate.achieved_per_s);
}

/// `200:9000;511:100`, ascending: one column, whatever codes a server thinks of.
fn codes(step: &StepResult) -> String {
    let codes = step.status_codes.iter();
    let codes: Vec<String> = codes
        .map(|(code, seen)| format!("{code}:{}", seen.count))
        .collect();
    codes.join(";")
}

fn cpu(row: &mut Row, end: &str, used: Option<&CpuUse>) {
    row.put_known(format!("{end}_user_ns"), used.map(|u| u.user_ns));
    row.put_known(format!("{end}_system_ns"), used.map(|u| u.system_ns));
    let each = used.and_then(|u| u.per_operation_ns);
    row.put_known(format!("{end}_cpu_per_request_ns"), each);
}
