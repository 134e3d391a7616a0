//! Servers that die amid the run, and come back or not.

use nix::sys::signal::Signal;

use super::{for_each_backend_at_once, operations, result, sockets_used, start, url, warning};
use crate::util::{Job, Serve, figure, text, warnings};

/// A run, and the address of its server, which was killed while that measured.
fn orphaned(flags: &str) -> (Job, String) {
    let serve = Serve::start("");
    let job = start(&url(&serve, "/"), flags);
    job.is_measuring();
    serve.job.signal(Signal::SIGKILL);
    (job, serve.address().to_owned())
}

#[test]
fn a_server_that_comes_back_is_found_again() {
    for_each_backend_at_once(|backend| {
        let flags = format!("-d 2s -c 4 --wait block --interval 100ms {backend}");
        let (job, address) = orphaned(&flags);
        let _again = Serve::start(&format!("--listen {address}"));
        let result = result(&job.wait().exits(0));
        assert_eq!(operations(&result, "timed_out"), 0, "{result:#}");
        let failed = operations(&result, "failed");
        assert!(failed <= 4, "what was under way: {result:#}");
        let resent = figure(&result, "/connections/resent");
        assert!((1..=4).contains(&(failed + resent)), "{result:#}");
        assert!(sockets_used(&result) >= 8, "{result:#}");
        assert!(figure(&result, "/connections/reconnects") >= 4, "{result:#}");
        let last = result["intervals"].as_array().unwrap().last().unwrap();
        assert!(figure(last, "/completed") > 0, "{result:#}");
    });
}

#[test]
fn a_server_that_stays_away_ends_nothing_early_and_is_reported() {
    for_each_backend_at_once(|backend| {
        let (job, _) = orphaned(&format!("-d 1500ms -R 2000 -c 4 --wait block {backend}"));
        let ran = job.wait().exits(0).complains(&["warning: ", "connect ECONNREFUSED", "`errors`"]);
        let report = ran.report();
        for code in ["failures", "unsent", "rate-not-reached"] {
            assert!(warnings(&report).contains(&code), "{code}: {report:#}");
        }
        let result = result(&ran);
        assert!(operations(&result, "completed") > 0, "{ran:#?}");
        // The schedule went on without it, and nothing of it vanished.
        // And that it was away is why.
        let why = warning(&report, "rate-not-reached");
        let why = text(&why, "/message");
        assert!(why.contains("the server, connections to it were down"), "{why}");
        let due = operations(&result, "due");
        assert!((2_990..=3_010).contains(&due), "{result:#}");
        assert!(operations(&result, "unsent_at_end") > 0, "{result:#}");
        let response = &result["latency"]["response"];
        assert!(figure(response, "/censored") >= operations(&result, "unsent_at_end"));
        let refused = super::errors(&result, "connect", "ECONNREFUSED");
        assert!((4..=60).contains(&refused), "{result:#}");
    });
}

#[test]
fn by_count_a_server_that_stays_away_ends_the_run() {
    for_each_backend_at_once(|backend| {
        let (job, address) = orphaned(&format!(
            "-n 100000000 -c 4 --wait block --timeout 300ms --connect-timeout 300ms {backend}"
        ));
        // Whichever of its connections was noticed first, and how.
        let ran = job.wait().exits(1).complains(&[&address]);
        let report = ran.report();
        assert_eq!(report["partial"], true);
        assert!(figure(&report["results"][0], "/operations/completed") > 0);
    });
}
