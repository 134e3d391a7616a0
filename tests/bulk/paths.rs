//! Where a transfer goes and how it is cut short: families, interrupts, two servers behind one
//! address.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{flows, measured_at, number};
use crate::util::{Job, Serve, backends, figure, left_out, run};

#[test]
fn addresses_of_both_families() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        left_out("there is no IPv6 here");
        return;
    }
    for backend in backends() {
        let serve = Serve::start("--listen [::1]:0");
        for proto in ["tcp", "udp"] {
            for direction in ["up", "down"] {
                let flags = format!(
                    "--bytes 500k --rate 100M -P 2 --proto {proto} --direction {direction}"
                );
                measured_at(&serve, &flags, backend);
            }
        }
        serve.stops();
    }
}

#[test]
fn no_target_is_loopback_within_the_process() {
    for backend in backends() {
        for target in ["loopback", ""] {
            let words = format!("bw {target} --bytes 5M --backend {backend} --format json");
            let words: Vec<_> = words.split_whitespace().collect();
            let report = run(&words).exits(0).report();
            assert_eq!(report["plan"]["target"], "loopback");
            assert_eq!(figure(&report, "/results/0/bandwidth/received_bytes"), 5 << 20);
        }
    }
}

#[test]
fn an_interrupted_run_has_the_receivers_figures() {
    for backend in backends() {
        for proto in ["tcp", "udp --rate 50M"] {
            for direction in ["up", "down", "both"] {
                let serve = Serve::start("");
                let flags = format!(
                    "-d 30s --warmup 0 --wait block -P 2 --direction {direction} --backend {backend} --proto {proto}"
                );
                let client = Job::test("bw", serve.address(), &flags);
                client.is_measuring();
                client.signal(Signal::SIGINT);
                let report = client.wait().exits(130).report();
                assert_eq!(report["partial"], true);
                let result = &report["results"][0];
                assert_eq!(result["errors"], json!([]), "{flags}");
                let length = figure(result, "/duration_ns");
                assert!((1_000_000..20_000_000_000).contains(&length), "{flags}: {length}");
                for (way, flow) in flows(result) {
                    assert!(number(flow, "bits_per_s") > 1e6, "{flags}: {way}: {flow:#}");
                    assert!(figure(flow, "/sent_bytes") > 0, "{flags}: {way}");
                    assert!(figure(flow, "/received_bytes") > 0, "{flags}: {way}");
                }
                assert!(result["instrument"]["server"].is_object(), "{flags}");
                serve.serves();
                serve.stops();
            }
        }
    }
}
