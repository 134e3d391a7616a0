//! How much is sent over what: counts, lists, pipelines, several URLs, connections of a few
//! requests, bodies.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::hostile::{FINE, Hostile};
use super::{
    all_went_well, code, for_each_backend, holds_together, http, measured, operations, result,
    sockets_used, start, url, with_server, words,
};
use crate::util::{Job, Serve, figure, run, tare};

#[test]
fn counts_are_exact_in_closed_and_open_loop() {
    with_server(|url, backend| {
        for flags in [
            "-n 1 -c 1",
            "-n 3 -c 10",
            "-n 1001 -c 7",
            "-n 1001 -c 7 --threads 2",
            "-n 1001 -c 7 --threads 3 --pipeline 4",
            "-n 1000 -c 10 -R 5000",
            "-n 999 -c 10 -R 5000 --threads 2",
            "-n 500 -c 4 -R 2000 --arrivals poisson --threads 3 --pipeline 2",
            "-n 100 -c 10 --warmup 50ms",
            "-n 100 -c 10 --warmup 50ms -R 1000",
        ] {
            let result = measured(&url("/"), &[flags, backend]);
            let count = flags.split(' ').nth(1).unwrap().parse().unwrap();
            all_went_well(&result, count);
            let open = flags.contains("-R");
            for open_only in ["response", "lateness"] {
                let summary = &result["latency"][open_only];
                assert_eq!(summary.is_object(), open, "{flags}");
                assert!(!open || figure(summary, "/count") == count);
            }
            assert_eq!(figure(&result, "/latency/service/count"), count);
            let asked = figure(&result, "/connections/asked");
            assert_eq!(sockets_used(&result), asked, "{flags}");
            assert_eq!(figure(&result, "/connections/established"), asked, "{flags}");
        }
    });
}

#[test]
fn each_number_of_connections_is_a_result() {
    with_server(|url, backend| {
        let flags = format!("-c 1,5,50,200 -n 400 {backend}");
        let report = http(&url("/"), &flags).exits(0).report();
        let results = report["results"].as_array().unwrap();
        let asked = |result: &Value| figure(result, "/params/connections");
        let all: Vec<_> = results.iter().map(asked).collect();
        assert_eq!(all, [1, 5, 50, 200]);
        for result in results {
            holds_together(result);
            all_went_well(result, 400);
            assert_eq!(sockets_used(result), asked(result));
        }
        // Each step is judged by the workers that it had.
        let flags = format!("-c 1,8 --threads 2 -n 400 {backend}");
        let report = http(&url("/"), &flags).exits(0).report();
        let results = report["results"].as_array().unwrap().iter();
        let cpus =
            |result: &Value| result["instrument"]["client"]["cpus"].as_array().unwrap().len();
        assert_eq!(results.map(cpus).collect::<Vec<_>>(), [1, 2]);
    });
}

#[test]
fn time_ends_a_run_too() {
    with_server(|url, backend| {
        let flags = ["-d 300ms -c 4 --wait block --interval 100ms", backend];
        let result = measured(&url("/bytes/1000"), &flags);
        let completed = operations(&result, "completed");
        assert!(completed > 100, "{result:#}");
        assert_eq!(result["errors"], json!([]));
        assert_eq!(figure(&result, "/duration_ns"), 300_000_000);
        let intervals = result["intervals"].as_array().unwrap();
        assert_eq!(intervals.len(), 3);
        let of = |pointer: &str| intervals.iter().map(|i| figure(i, pointer)).sum::<u64>();
        // Those in flight when the measured phase begins are answered in it, and those at its end
        // are not.
        assert!(of("/completed").abs_diff(completed) <= 4, "{result:#}");
        assert_eq!(of("/status_codes/200"), completed);
        let body_bytes = figure(&result, "/transfer/body_bytes");
        assert_eq!(body_bytes, 1000 * completed);
    });
}

#[test]
fn a_pipeline_has_a_sample_for_each_answer() {
    let server = Hostile::start(|mut talk| {
        // Answers only once eight requests are there.
        loop {
            for _ in 0..8 {
                if !talk.hears_a_request() {
                    return;
                }
            }
            talk.says(&FINE.repeat(8));
        }
    });
    for_each_backend(|backend| {
        let result = measured(&server.url(), &["-n 80 -c 1 --pipeline 8", backend]);
        all_went_well(&result, 80);
        assert_eq!(figure(&result, "/latency/service/count"), 80);
        assert_eq!(figure(&result, "/params/pipeline"), 8);
        assert_eq!(sockets_used(&result), 1);
    });
    with_server(|url, backend| {
        let result = measured(&url("/bytes/100"), &["-n 5000 -c 10 --pipeline 8", backend]);
        all_went_well(&result, 5000);
        assert_eq!(figure(&result, "/transfer/body_bytes"), 500_000);
        assert_eq!(sockets_used(&result), 10);
    });
}

#[test]
fn connections_of_a_few_requests_are_replaced() {
    with_server(|url, backend| {
        for (flags, each) in [
            ("--connection close", 1),
            ("--requests-per-connection 1", 1),
            ("--requests-per-connection 5", 5),
            ("--requests-per-connection 5 -R 2000", 5),
            ("--requests-per-connection 8 --pipeline 4", 8),
        ] {
            let flags = format!("-n 200 -c 4 {flags} {backend}");
            let result = measured(&url("/"), &[&flags]);
            all_went_well(&result, 200);
            let used = sockets_used(&result);
            let perfect = 200 / each;
            assert!((perfect..=perfect + 8).contains(&used), "{flags}: {used}");
        }
    });
}

#[test]
fn urls_of_a_file_are_sent_by_their_weights() {
    let serve = Serve::start("");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let lines = format!(
        "# how often, what\n3 {}\n{}\n\n2 GET {}\n",
        url(&serve, "/bytes/1000"),
        url(&serve, "/bytes/10"),
        url(&serve, "/echo?status=404"),
    );
    std::fs::write(path, lines).unwrap();
    for_each_backend(|backend| {
        let flags =
            format!("--urls {path} -n 600 -c 4 --threads 1 --format json --warmup 0 {backend}");
        let words: Vec<_> = ["http"].into_iter().chain(flags.split(' ')).collect();
        let result = result(&run(&words).exits(0));
        assert_eq!(code(&result, "200"), 400, "{result:#}");
        assert_eq!(code(&result, "404"), 200, "{result:#}");
        assert_eq!(figure(&result, "/params/requests"), 3);
        let body_bytes = figure(&result, "/transfer/body_bytes");
        assert_eq!(body_bytes, 300 * 1000 + 100 * 10, "{result:#}");
    });
}

#[test]
fn bodies_come_from_flags_files_and_stdin() {
    let serve = Serve::start("");
    let echo = url(&serve, "/echo");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, "b".repeat(5_000)).unwrap();
    for_each_backend(|backend| {
        for framing in ["", "--chunked"] {
            let flags = format!("-n 20 -c 2 -X POST {framing} {backend}");
            for (body, bytes) in
                [("--body hello".to_owned(), 5), (format!("--body-file {path}"), 5_000)]
            {
                let result = measured(&echo, &[&flags, &body]);
                all_went_well(&result, 20);
                let echoed = figure(&result, "/transfer/body_bytes");
                assert_eq!(echoed, 20 * bytes, "{body} {framing}");
            }
            let flags = format!("{flags} --body-file -");
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec \"$0\" \"$@\" <{path}")]);
            command.arg(tare().get_program()).args(words(&echo, &flags));
            let result = result(&Job::start(command).wait().exits(0));
            all_went_well(&result, 20);
            assert_eq!(figure(&result, "/transfer/body_bytes"), 20 * 5_000);
        }
    });
}

#[test]
fn no_target_measures_a_server_of_its_own() {
    for_each_backend(|backend| {
        let flags = format!("http -n 100 -c 2 --format json --warmup 0 {backend}");
        let words: Vec<_> = flags.split(' ').collect();
        all_went_well(&result(&run(&words).exits(0)), 100);
    });
}

#[test]
fn an_interrupt_ends_a_run_with_what_was_measured() {
    with_server(|url, backend| {
        for load in ["", "-R 3000"] {
            let flags = format!("-d 60s -c 4 --wait block {load} {backend}");
            let job = start(&url("/"), &flags);
            job.is_measuring();
            job.signal(Signal::SIGINT);
            let report = job.wait().exits(130).report();
            assert_eq!(report["partial"], true);
            let result = &report["results"][0];
            holds_together(result);
            assert_eq!(result["partial"], true);
            assert!(operations(result, "completed") > 20, "{result:#}");
            assert_eq!(result["errors"], json!([]));
            assert!(figure(result, "/duration_ns") < 50_000_000_000);
        }
    });
}
