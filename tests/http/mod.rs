//! `tare http` against servers that others wrote, servers that misbehave, and `tare serve`: every
//! request is accounted for, whatever comes.

mod addresses;
mod broken;
mod deaths;
mod hostile;
mod input;
mod load;
mod open;
mod real;
mod scale;
mod servers;
mod silent;
mod statuses;
mod unix;

use std::thread;

use serde_json::Value;

use crate::util::{Job, Ran, Serve, backends, figure, text};

/// `tare http` with JSON on stdout and, unless the flags say otherwise, no warm-up: the counts are
/// exact.
fn words<'a>(url: &'a str, flags: &'a str) -> Vec<&'a str> {
    let mut words = vec!["http", url];
    if !flags.contains("--format") {
        words.extend(["--format", "json"]);
    }
    if !flags.contains("--warmup") {
        words.extend(["--warmup", "0"]);
    }
    words.extend(flags.split_whitespace());
    words
}

fn start(url: &str, flags: &str) -> Job {
    Job::tare(&words(url, flags))
}

fn http(url: &str, flags: &str) -> Ran {
    start(url, flags).wait()
}

/// Runs a scenario on every backend, one after the other.
fn for_each_backend(scenario: impl Fn(&str)) {
    for backend in backends() {
        scenario(&format!("--backend {backend}"));
    }
}

/// For scenarios that mostly wait: all backends at once.
fn for_each_backend_at_once(scenario: impl Fn(&str) + Sync) {
    let scenario = &scenario;
    thread::scope(|scope| {
        for backend in backends() {
            scope.spawn(move || scenario(&format!("--backend {backend}")));
        }
    });
}

fn url(serve: &Serve, path: &str) -> String {
    format!("http://{}{path}", serve.address())
}

/// Runs a scenario on every backend, one after the other, against the same `tare serve`.
fn with_server(scenario: impl Fn(&dyn Fn(&str) -> String, &str)) {
    let serve = Serve::start("");
    for_each_backend(|backend| scenario(&|path| url(&serve, path), backend));
}

/// The same, with all backends at once.
fn with_server_at_once(scenario: impl Fn(&dyn Fn(&str) -> String, &str) + Sync) {
    let serve = Serve::start("");
    let root = url(&serve, "");
    for_each_backend_at_once(|backend| scenario(&|path| format!("{root}{path}"), backend));
}

/// The one result of a run that went well.
#[track_caller]
fn measured(url: &str, flags: &[&str]) -> Value {
    result(&http(url, &flags.join(" ")).exits(0))
}

/// The one result of a valid report.
#[track_caller]
fn result(ran: &Ran) -> Value {
    let mut report = ran.report();
    assert_eq!(report["kind"], "http");
    let results = report["results"].as_array_mut().unwrap();
    assert_eq!(results.len(), 1, "{ran:#?}");
    holds_together(&results[0]);
    results.remove(0)
}

/// What must be so whatever the server did, beyond the sums that every report is checked for.
#[track_caller]
pub(crate) fn holds_together(result: &Value) {
    let codes = result["status_codes"].as_object().unwrap();
    let sum = |expected: bool| -> u64 {
        let codes = codes.values().filter(|code| code["expected"] == expected);
        codes.map(|code| figure(code, "/count")).sum()
    };
    assert_eq!(sum(true), operations(result, "completed"), "{result:#}");
    assert!(sum(false) <= operations(result, "failed"), "{result:#}");
    // Every failure has its cause. Idle connections fail, too, and connects.
    let causes = result["errors"].as_array().unwrap().iter();
    let causes: u64 = causes.map(|error| figure(error, "/count")).sum();
    let failed = operations(result, "failed") + operations(result, "timed_out");
    assert!(failed <= sum(false) + causes, "{result:#}");
    latencies_hold_together(result);
    let intervals = result["intervals"].as_array().unwrap();
    if !intervals.is_empty() {
        // What was answered within the measured phase, whenever it was due: the goodput.
        let completed: u64 = intervals.iter().map(|i| figure(i, "/completed")).sum();
        let achieved = result["rate"]["achieved_per_s"].as_f64().unwrap();
        let seconds = figure(result, "/duration_ns") as f64 / 1e9;
        assert!((achieved * seconds - completed as f64).abs() < 0.5, "{result:#}");
    }
    let by_status = result["latency"]["by_status"].as_object().unwrap();
    for (code, counted) in codes {
        assert_eq!(by_status[code]["count"], counted["count"], "{code}");
    }
    assert_eq!(by_status.len(), codes.len());
    let connections = &result["connections"];
    let established = figure(connections, "/established");
    assert!(established <= figure(connections, "/sockets_used"), "{connections}");
}

/// What was answered as expected is in each latency, and what had no answer is there as at least so
/// long.
#[track_caller]
fn latencies_hold_together(result: &Value) {
    let unanswered = operations(result, "timed_out") + operations(result, "in_flight_at_end");
    let never_sent = operations(result, "dropped") + operations(result, "unsent_at_end");
    let of = |name: &str, field: &str| figure(result, &format!("/latency/{name}/{field}"));
    let censored = of("service", "censored");
    // Behind a request that timed out, others on its connection have failed without an answer.
    let pipeline = figure(result, "/params/pipeline");
    let exact = pipeline == 1 && censored == unanswered;
    assert!(exact || (pipeline > 1 && censored >= unanswered), "{result:#}");
    assert_eq!(of("service", "count"), operations(result, "completed") + censored);
    if result["params"]["rate_per_s"].is_null() {
        return;
    }
    assert_eq!(of("response", "censored"), censored + never_sent, "{result:#}");
    assert_eq!(of("lateness", "censored"), never_sent, "{result:#}");
    if of("response", "censored") == 0 && of("response", "count") > 0 {
        // Each response time is the service time and the lateness of the same request.
        let mean = |name: &str| result["latency"][name]["mean_ns"].as_f64().unwrap();
        let sum = mean("service") + mean("lateness");
        assert!((mean("response") - sum).abs() <= sum * 1e-9, "{result:#}");
        let least = of("service", "min_ns") + of("lateness", "min_ns");
        assert!(of("response", "min_ns") >= least, "{result:#}");
        let most = of("service", "max_ns") + of("lateness", "max_ns");
        assert!(of("response", "max_ns") <= most, "{result:#}");
    }
    for name in ["response", "lateness"] {
        assert_eq!(of(name, "count"), of("service", "count") + never_sent, "{name}: {result:#}");
    }
}

#[track_caller]
fn operations(result: &Value, name: &str) -> u64 {
    figure(result, &format!("/operations/{name}"))
}

#[track_caller]
fn sockets_used(result: &Value) -> u64 {
    figure(result, "/connections/sockets_used")
}

/// Responses with that status code.
fn code(result: &Value, code: &str) -> u64 {
    result["status_codes"][code]["count"].as_u64().unwrap_or(0)
}

/// The report's warning with that code.
#[track_caller]
fn warning(report: &Value, code: &str) -> Value {
    let mut warnings = report["warnings"].as_array().unwrap().iter();
    let found = warnings.find(|warning| warning["code"] == code);
    found.unwrap_or_else(|| panic!("{report:#}")).clone()
}

/// Errors of a kind.
fn errors(result: &Value, phase: &str, cause: &str) -> u64 {
    let errors = result["errors"].as_array().unwrap().iter();
    let mut errors = errors.filter(|error| error["phase"] == phase && error["cause"] == cause);
    errors.next().map_or(0, |error| figure(error, "/count"))
}

/// Asserts that every request was answered, as expected, and that nothing else went wrong.
#[track_caller]
fn all_went_well(result: &Value, requests: u64) {
    assert_eq!(operations(result, "completed"), requests, "{result:#}");
    assert_eq!(operations(result, "due"), requests, "{result:#}");
    assert_eq!(result["errors"], serde_json::json!([]), "{result:#}");
    assert_eq!(result["partial"], false);
    assert!(!text(result, "/instrument/client/backend").is_empty());
}
