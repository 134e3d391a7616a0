//! What scripts read: every format on stdout and in files, nothing else on stdout, no progress in a
//! pipe.

use std::fs;

use serde_json::{Value, json};

use crate::util::{Serve, array, figure, is_valid, report, run_line};

#[test]
fn files_of_every_format_are_written_at_once() {
    let serve = Serve::start("");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let names = ["a.json", "a.jsonl", "a.csv", "a.md", "a.txt"];
    let mut flags = "-n 100 --size 16,64 --wait block --label night-run".to_owned();
    for name in names {
        flags.push_str(&format!(" -o {}", path(name)));
    }
    let ran = serve.lat(&flags).exits(0);
    let text = |name: &str| fs::read_to_string(path(name)).unwrap();
    assert_eq!(text("a.json"), ran.stdout, "stdout and file hold the same");
    let whole = ran.report();
    for result in array(&whole, "/results") {
        assert_eq!(result["label"], "night-run");
    }

    assert_eq!(rejoined(&text("a.jsonl")), whole);
    let csv: Vec<Vec<String>> =
        text("a.csv").lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
    assert_eq!(csv.len(), 3, "a header and two steps");
    let column = |row: usize, name: &str| {
        let at = csv[0].iter().position(|n| n == name).unwrap_or_else(|| panic!("{name}"));
        csv[row][at].clone()
    };
    for (row, size) in [(1, "16"), (2, "64")] {
        assert_eq!(column(row, "size_bytes"), size);
        assert_eq!(column(row, "completed"), "100");
        assert_eq!(column(row, "label"), "night-run");
        let p50 = figure(&whole, &format!("/results/{}/latency/service/p50_ns", row - 1));
        assert_eq!(column(row, "service_p50_ns"), p50.to_string());
    }
    assert!(text("a.md").contains("| ") && text("a.md").contains("night-run"));
    assert!(text("a.txt").contains("round trip") && text("a.txt").contains("night-run"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len(), "and nothing beside");
}

/// The report that a stream of lines amounts to.
#[track_caller]
fn rejoined(lines: &str) -> Value {
    let (mut results, mut blocks) = (Vec::new(), Vec::new());
    let mut whole = None;
    for line in lines.lines() {
        assert_eq!(whole, None, "something follows the last line");
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        match fields.shift_remove("type").unwrap().as_str().unwrap() {
            "interval" => assert_eq!(fields["step"], results.len()),
            "block" => blocks.push(line),
            "result" => {
                assert_eq!(fields.shift_remove("step"), Some(json!(results.len())));
                results.push(line);
            }
            "report" => whole = Some(line),
            other => panic!("a line of type {other}"),
        }
    }
    let mut whole = whole.expect("the report comes last");
    whole["results"] = results.into();
    if whole["kind"] == "compare" {
        whole["comparison"]["blocks"] = blocks.into();
    }
    is_valid(&whole);
    whole
}

#[test]
fn a_stream_holds_every_interval_and_result() {
    let serve = Serve::start("");
    let flags = "-d 350ms --warmup 10ms --interval 100ms --size 16,64 --wait block --format jsonl";
    let ran = run_line(&format!("lat {} {flags}", serve.address())).exits(0);
    let report = rejoined(&ran.stdout);
    assert_eq!(array(&report, "/results").len(), 2);
    for (step, result) in array(&report, "/results").iter().enumerate() {
        let intervals = array(result, "/intervals");
        let ends: Vec<_> = intervals.iter().map(|i| figure(i, "/at_ns") / 1_000_000).collect();
        assert_eq!(ends, [100, 200, 300, 350]);
        let sum: u64 = intervals.iter().map(|i| figure(i, "/completed")).sum();
        // What was answered within the measured phase: all but what was under way at its end.
        let completed = figure(result, "/operations/completed");
        let connections = figure(result, "/params/connections");
        assert!(sum.abs_diff(completed) <= connections, "step {step}: {sum}");
    }
}

#[test]
fn percentiles_are_those_asked_for() {
    let serve = Serve::start("");
    let flags = "-n 3000 --wait block --percentiles 50,97.5";
    let report = serve.lat(flags).exits(0).report();
    let service = &report["results"][0]["latency"]["service"];
    assert_eq!(report["plan"]["percentiles"], json!([50.0, 97.5]));
    let extra = figure(service, "/extra_ns/p97_5");
    assert!(extra >= figure(service, "/p95_ns") && extra <= figure(service, "/p99_ns"));
    // Nine samples would lie beyond it.
    assert_eq!(service["p99_9_ns"], Value::Null);

    let text = serve.lat("-n 3000 --percentiles 50,97.5 --format text").exits(0);
    assert!(text.stdout.contains("p97.5") && !text.stdout.contains("p95 "), "{}", text.stdout);
}

#[test]
fn stdout_is_the_result_and_stderr_no_progress() {
    let serve = Serve::start("");
    for format in ["text", "json", "jsonl", "csv", "markdown"] {
        let flags = format!("-d 300ms --wait block --format {format}");
        let ran = serve.lat(&flags).exits(0);
        for line in ran.stderr.lines() {
            assert!(line.starts_with("tare: warning: "), "{format}: {line:?}");
        }
        // In text the report begins with its warnings.
        assert!(format != "text" || ran.stderr.is_empty(), "{}", ran.stderr);
        assert!(!ran.stdout.contains('\x1b') && !ran.stdout.contains('\r'), "{format}");
        if format == "json" {
            report(&ran.stdout);
        }
        let quiet = serve.lat(&format!("{flags} --quiet")).exits(0);
        assert_eq!(quiet.stderr, "", "{format}");
        assert!(!quiet.stdout.is_empty());
    }
}

#[test]
fn a_seed_and_the_plan_are_reported() {
    let serve = Serve::start("");
    let flags = "-n 20 --wait block --seed 77 --timeout 3s --interval 20ms";
    let report = serve.lat(flags).exits(0).report();
    assert_eq!(report["seed"], 77);
    let plan = &report["plan"];
    assert_eq!(figure(plan, "/timeout_ns"), 3_000_000_000);
    assert_eq!(figure(plan, "/interval_ns"), 20_000_000);
    assert_eq!(figure(plan, "/count"), 20);
    assert_eq!(plan["duration_ns"], Value::Null);
    for end in ["/environment/client", "/environment/servers/0"] {
        let environment = report.pointer(end).unwrap();
        for known in ["tare_version", "kernel", "cpus_allowed", "cpus_online"] {
            assert_ne!(environment[known], Value::Null, "{end}: {known}");
        }
    }
}

#[test]
fn a_bulk_run_is_of_the_schema_and_its_parts_add_up() {
    let serve = Serve::start("");
    let flags = "-d 300ms --warmup 10ms --interval 100ms --size 4K,64K --direction both -P 2";
    let ran = run_line(&format!("bw {} {flags} --format jsonl", serve.address())).exits(0);
    let report = rejoined(&ran.stdout);
    assert_eq!(report["kind"], "bw");
    let results = array(&report, "/results");
    assert_eq!(results.len(), 2);
    for (result, size) in results.iter().zip([4_096, 65_536]) {
        assert_eq!(figure(result, "/params/size_bytes"), size);
        assert_eq!(result["params"]["direction"], "both");
        let received = figure(result, "/bandwidth/received_bytes");
        let flows = ["up", "down"].map(|way| &result["bandwidth"][way]);
        let of_flows: u64 = flows.map(|flow| figure(flow, "/received_bytes")).iter().sum();
        assert!(received > 0 && received == of_flows, "{received} {of_flows}");
        for flow in flows {
            assert_eq!(array(flow, "/streams_bits_per_s").len(), 2);
            assert_ne!(flow["tcp"], Value::Null);
        }
        assert_eq!(array(result, "/intervals").len(), 3);
    }
}
