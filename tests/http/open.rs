//! Open loop: the schedule is kept, stages and ramps follow each other, and what cannot be reached
//! is said.

use serde_json::{Value, json};

use super::{
    all_went_well, for_each_backend_at_once, holds_together, http, measured, operations, result,
    url, warning, with_server, with_server_at_once,
};
use crate::util::{Quiet, Serve, backends, figure, text};

fn achieved(result: &Value) -> f64 {
    result["rate"]["achieved_per_s"].as_f64().unwrap()
}

#[test]
fn the_rate_is_achieved() {
    let _quiet = Quiet::begin();
    with_server(|url, backend| {
        // So many connections that some are free, though nothing here may run for a tenth of a
        // second.
        let result = measured(&url("/"), &["-R 1000 -d 2s -c 200", backend]);
        let due = operations(&result, "due");
        assert!((1_999..=2_001).contains(&due), "{result:#}");
        assert_eq!(result["errors"], json!([]));
        // Whatever is due finds a free connection, to the end.
        assert_eq!(operations(&result, "completed"), due, "{result:#}");
        assert_eq!(result["rate"]["target_per_s"], 1000.0);
        // What is answered after the end is no part of it: one request on each of the 200
        // connections at most, in 2 s.
        assert!((achieved(&result) - 1000.0).abs() <= 100.0, "{result:#}");
        assert_eq!(result["params"]["arrivals"], "constant");
        assert_eq!(result["params"]["late"], "queue");
    });
}

#[test]
fn random_arrivals_keep_the_mean() {
    with_server(|url, backend| {
        // So many in two seconds, within six standard deviations.
        for (arrivals, slack) in [("poisson", 270), ("jitter:10%", 2)] {
            let flags = ["-R 1000 -d 2s -c 20 --seed 7 --arrivals", arrivals, backend];
            let result = measured(&url("/"), &flags);
            let due = operations(&result, "due");
            assert!(due.abs_diff(2_000) <= slack, "{arrivals}: {due}");
            assert_eq!(result["params"]["arrivals"], arrivals);
        }
    });
}

#[test]
fn rates_are_fractional_and_by_the_minute() {
    with_server_at_once(|url, backend| {
        for (rate, per_s) in [("12.5", 12.5), ("600/m", 10.0), ("0.1k", 100.0)] {
            let result = measured(&url("/"), &["-R", rate, "-n 10 -c 2 --warmup 0", backend]);
            all_went_well(&result, 10);
            assert_eq!(result["rate"]["target_per_s"], per_s);
            // Ten at ten a second take a second: the last one has a gap behind it.
            assert!(achieved(&result) <= per_s * 1.000_001, "{result:#}");
        }
    });
}

#[test]
fn stages_are_a_result_each() {
    each_stage_is_a_result("200:300ms,1000:300ms,20", &[60, 300, 10], "-d 500ms");
}

#[test]
fn ramps_are_a_result_each() {
    let results = each_stage_is_a_result("1000:200ms,1000-3000:400ms", &[200, 800], "");
    for results in results {
        let params = |stage: usize| &results[stage]["params"];
        assert_eq!(params(0)["rate_to_per_s"], Value::Null);
        assert_eq!(params(1)["rate_per_s"], 1000.0);
        assert_eq!(params(1)["rate_to_per_s"], 3000.0);
        // A later quarter of a ramp has more in it than an earlier one.
        let intervals = results[1]["intervals"].as_array().unwrap();
        let completed: Vec<_> = intervals.iter().map(|i| figure(i, "/completed")).collect();
        assert!(completed[3] > completed[0], "{completed:?}");
    }
}

/// Runs these stages on each backend; so many requests are due in each.
fn each_stage_is_a_result(stages: &str, due: &[u64], flags: &str) -> Vec<Vec<Value>> {
    let serve = Serve::start("");
    let run = |backend: &&str| {
        let flags =
            format!("--stages {stages} -c 300 --interval 100ms {flags} --backend {backend}");
        let mut report = http(&url(&serve, "/"), &flags).exits(0).report();
        let results = std::mem::take(report["results"].as_array_mut().unwrap());
        assert_eq!(results.len(), due.len());
        for (number, (result, due)) in (1..).zip(results.iter().zip(due)) {
            holds_together(result);
            assert_eq!(result["params"]["stage"], number);
            let found = operations(result, "due");
            assert!(found.abs_diff(*due) <= 1, "stage {number}: {found}");
            all_went_well(result, found);
        }
        results
    };
    backends().iter().map(run).collect()
}

#[test]
fn what_is_late_is_dropped_where_asked() {
    with_server_at_once(|url, backend| {
        // Two connections of 50 ms a request carry 40 a second.
        let result =
            measured(&url("/echo?delay=50ms"), &["-R 400 -d 1s -c 2 --late drop", backend]);
        assert!(operations(&result, "due").abs_diff(400) <= 1, "{result:#}");
        assert!(operations(&result, "dropped") >= 350, "{result:#}");
        assert!((20..=44).contains(&operations(&result, "sent")), "{result:#}");
        assert_eq!(operations(&result, "unsent_at_end"), 0, "{result:#}");
        assert_eq!(result["params"]["late"], "drop");
    });
}

#[test]
fn a_rate_beyond_the_connections_is_reported_with_its_cause() {
    with_server_at_once(|url, backend| {
        let flags = format!("-R 400 -d 1s -c 2 {backend}");
        let ran = http(&url("/echo?delay=50ms"), &flags).exits(0);
        let result = result(&ran);
        assert_eq!(result["rate"]["target_per_s"], 400.0);
        assert!(achieved(&result) <= 45.0, "{result:#}");
        assert!(operations(&result, "unsent_at_end") >= 350, "{result:#}");
        assert!(figure(&result, "/rate/backlog_max") >= 350, "{result:#}");
        // What was never sent counts in the response time and not in the service time.
        let service = &result["latency"]["service"];
        assert!(figure(service, "/max_ns") < 900_000_000, "{result:#}");
        let response = &result["latency"]["response"];
        assert!(figure(response, "/p50_ns") > 300_000_000, "{response:#}");
        let warning = warning(&ran.report(), "rate-not-reached");
        let message = text(&warning, "/message");
        assert!(message.contains("40") && message.contains("the connections"), "{message}");
        assert!(text(&warning, "/advice").contains("-c "), "{warning:#}");
    });
}

#[test]
fn a_server_asked_for_more_than_it_can_do_answers_what_it_can() {
    // One after the other: they would share the queue.
    with_server(|url, backend| {
        // It answers 1,000 a second. What becomes due in the warm-up would keep it for four times
        // as long as the run.
        let flags = format!("-R 5000 --warmup 1s -d 1s -c 4 {backend}");
        let ran = http(&url("/queue?service=1ms"), &flags).exits(0);
        let result = result(&ran);
        holds_together(&result);
        assert!(operations(&result, "due").abs_diff(5_000) <= 1);
        let answered = achieved(&result);
        // It never answers more than it can. How little it answers depends on the CPU that it gets:
        // scripts/overload has the figure, in 19 of 20 runs.
        assert!((100.0..=1_010.0).contains(&answered), "{result:#}");
        let warmup = &result["warmup"]["operations"];
        assert!(figure(warmup, "/due").abs_diff(5_000) <= 1, "{result:#}");
        assert!(figure(warmup, "/unsent_at_end") >= 3_900, "{result:#}");
        // The first that was due in the measured phase did not wait for them.
        let response = &result["latency"]["response"];
        assert!(figure(response, "/min_ns") < 500_000_000, "{result:#}");
    });
}

#[test]
fn a_server_that_answers_little_is_slow_and_not_silent() {
    with_server_at_once(|url, backend| {
        // The first is answered in the warm-up, and the second behind the end: nothing that was due
        // between had a connection.
        let result =
            measured(&url("/echo?delay=1s"), &["-R 100 --warmup 1500ms -d 300ms -c 1", backend]);
        assert_eq!(figure(&result, "/warmup/operations/completed"), 2);
        assert_eq!(operations(&result, "completed"), 0, "{result:#}");
        assert!(operations(&result, "unsent_at_end") >= 29, "{result:#}");
        let lower = &result["latency"]["response"]["lower_bounds"];
        assert!(lower.as_array().is_some_and(|names| names.contains(&json!("p50"))));
    });
}

#[test]
fn a_stall_counts_for_all_that_were_due_meanwhile() {
    for_each_backend_at_once(|backend| {
        let serve = Serve::start("--stall 300ms:300ms");
        let result = measured(&url(&serve, "/"), &["-R 1000 -d 1s -c 40", backend]);
        let due = operations(&result, "due");
        all_went_well(&result, due);
        // Forty could be sent into the stall; the others waited here, and it is no fault of the
        // service.
        let response = &result["latency"]["response"];
        assert!(figure(response, "/p75_ns") > 20_000_000, "{response:#}");
        assert!(figure(response, "/max_ns") > 250_000_000, "{response:#}");
        assert!(figure(&result, "/latency/service/p95_ns") < 100_000_000, "{result:#}");
        assert!(figure(&result, "/latency/lateness/max_ns") > 200_000_000, "{result:#}");
    });
}
