//! Status codes: counted, timed, and first seen each; what counts as success is for the user to
//! say.

use serde_json::{Value, json};

use super::{
    all_went_well, code, http, measured, operations, result, sockets_used, with_server,
    with_server_at_once,
};
use crate::util::figure;

#[test]
fn a_fifth_of_the_answers_is_an_error() {
    with_server_at_once(|url, backend| {
        let run = |flags: &str| {
            let load = "-c 10 -n 1000 -R 500 --threads 1 --timeout 10s";
            measured(&url("/echo?status=511:20"), &[load, backend, flags])
        };
        let result = run("");
        let (fine, bad) = (code(&result, "200"), code(&result, "511"));
        assert_eq!(fine + bad, 1000, "{result:#}");
        // Within six standard deviations of a fifth.
        assert!((124..=276).contains(&bad), "{bad}");
        assert_eq!((operations(&result, "completed"), operations(&result, "failed")), (fine, bad));
        let codes = &result["status_codes"];
        assert_eq!(codes["200"]["expected"], true);
        assert_eq!(codes["511"]["expected"], false);
        let first = |code: &str| figure(codes, &format!("/{code}/first_ordinal"));
        assert_eq!(first("200").min(first("511")), 1);
        assert!((2..=100).contains(&first("200").max(first("511"))), "{codes:#}");
        let at = |code: &str| figure(codes, &format!("/{code}/first_at_ns"));
        assert!(at("200").max(at("511")) < figure(&result, "/duration_ns"));
        let earlier = if first("200") == 1 { "200" } else { "511" };
        assert!(at(earlier) <= at("200").max(at("511")));
        for status in ["200", "511"] {
            let summary = &result["latency"]["by_status"][status];
            assert_eq!(figure(summary, "/count"), code(&result, status));
            assert!(figure(summary, "/p50_ns") > 0);
        }
        assert_eq!(sockets_used(&result), 10, "{result:#}");
        assert_eq!(figure(&result, "/connections/reconnects"), 0);

        // fortio opens another connection after each error.
        let result = run("--reconnect-on-error");
        let bad = code(&result, "511");
        assert_eq!(code(&result, "200") + bad, 1000);
        let used = sockets_used(&result);
        assert!((bad..=10 + bad).contains(&used), "{bad} errors: {result:#}");
        assert_eq!(figure(&result, "/connections/reconnects"), used - 10);
    });
}

/// A worker that first sees a code asks what the others have counted.
#[test]
fn which_response_was_the_first_of_its_code_is_reported_of_several_workers() {
    with_server(|url, backend| {
        let flags = ["-c 8 -n 1000 -R 1000 --threads 2 --timeout 10s", backend];
        let result = measured(&url("/echo?status=511:5"), &flags);
        let codes = &result["status_codes"];
        let first = |code: &str| figure(codes, &format!("/{code}/first_ordinal"));
        assert_eq!(first("200").min(first("511")), 1, "{codes:#}");
        let later = first("200").max(first("511"));
        // Two workers whose first responses differ may each take its own for the first.
        assert!((1..=1000).contains(&later), "{codes:#}");
    });
}

#[test]
fn a_fifth_of_the_answers_is_slow() {
    with_server_at_once(|url, backend| {
        let result = measured(&url("/echo?delay=100ms:20"), &["-c 50 -n 400 -R 400", backend]);
        all_went_well(&result, 400);
        let service = &result["latency"]["service"];
        assert!(figure(service, "/p50_ns") < 100_000_000, "{service:#}");
        assert!(figure(service, "/p95_ns") >= 100_000_000, "{service:#}");
    });
}

#[test]
fn what_is_expected_is_for_the_user_to_say() {
    with_server(|url, backend| {
        let run =
            |path: &str, flags: &str| http(&url(path), &format!("-n 50 -c 5 {flags} {backend}"));
        for (path, expect) in [
            ("/echo?status=404", "404"),
            ("/echo?status=404", "2xx,4xx"),
            ("/echo?status=503", "500-599"),
            ("/", "200"),
        ] {
            let result = result(&run(path, &format!("--expect-status {expect}")).exits(0));
            all_went_well(&result, 50);
            assert_eq!(result["params"]["expect_status"], expect);
        }
        // Nothing succeeded: not measured, however many answers came.
        for (path, flags) in [("/echo?status=404", ""), ("/", "--expect-status 204")] {
            let ran = run(path, flags).exits(1);
            let report = ran.report();
            let result = &report["results"][0];
            assert_eq!(operations(result, "failed"), 50);
            assert_eq!(operations(result, "completed"), 0);
            assert_eq!(result["rate"]["achieved_per_s"], 0.0);
            ran.complains(&["--expect-status"]);
        }
    });
}

#[test]
fn every_interval_tells_its_codes() {
    with_server(|url, backend| {
        let flags = ["-R 500 -d 600ms -c 5 --interval 100ms", backend];
        let result = measured(&url("/echo?status=503:50"), &flags);
        let intervals = result["intervals"].as_array().unwrap();
        assert_eq!(intervals.len(), 6);
        for status in ["200", "503"] {
            let of = |interval: &Value| interval["status_codes"][status].as_u64().unwrap_or(0);
            let sum: u64 = intervals.iter().map(of).sum();
            assert_eq!(sum, code(&result, status), "{result:#}");
        }
        assert_ne!(result["status_codes"], json!({}));
    });
}
