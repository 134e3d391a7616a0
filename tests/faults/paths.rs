//! The path between the ends is cut, for good or for a while.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{in_namespaces, partial};
use crate::netns::{Netns, ip};
use crate::util::{Job, Serve, backends, eventually, figure, is_root, lat, test_words};

#[test]
fn a_peer_that_vanishes_without_a_word_is_given_up_in_time() {
    // What only connections suffer.
    in_namespaces(&["tcp"], |way, netns| {
        let serve = netns.serve();
        let client = way.measuring(&serve, "--timeout 600ms -c 2");
        netns.cut();
        let gone = Instant::now();
        let ran = client.wait().exits(1);
        assert!(gone.elapsed() < Duration::from_secs(4), "{:?}", gone.elapsed());
        let report = partial(&ran);
        let result = &report["results"][0];
        let errors = result["errors"].as_array().unwrap();
        let lost: u64 = errors.iter().map(|error| figure(error, "/count")).sum();
        assert_eq!(lost, 2, "{errors:?}");
        if way.test == "lat" {
            let failed =
                figure(result, "/operations/timed_out") + figure(result, "/operations/failed");
            assert_eq!(failed, 2, "{result:#}");
        }
        ran.complains(&[
            &format!("{} does not answer within 600 ms", serve.address()),
            "check the address, the route and the firewall, or raise --timeout",
        ]);
        netns.restore();
        serve.serves();
        serve.stops();
    });
}

/// A transfer over a path that was away: TCP sends again what was lost, and datagrams are counted.
#[track_caller]
fn carries_on(result: &Value, proto: &str) {
    let errors = result["errors"].as_array().unwrap();
    let bandwidth = &result["bandwidth"];
    let received = figure(bandwidth, "/received_bytes");
    if proto == "tcp" {
        assert_eq!(errors.len(), 0, "{errors:?}");
        // What its own kernel has no route for, the server has not sent, and does not send again.
        let is_up = bandwidth["up"].is_object();
        assert!(!is_up || figure(bandwidth, "/retransmits") > 0, "{bandwidth:#}");
        assert!(received > 1 << 20, "{bandwidth:#}");
    } else {
        // The kernel may say that there is no route.
        assert!(errors.iter().all(|error| error["phase"] == "send"), "{errors:?}");
        let sent = figure(bandwidth, "/sent_bytes");
        // Lost on the way, or refused by the sender's own kernel.
        let lost = figure(bandwidth, "/lost_datagrams");
        let unsent = figure(result, "/operations/unsent_at_end");
        assert!(lost + unsent > 0, "{bandwidth:#}");
        // It was away for less than half of the time.
        assert!(received > sent / 2, "{bandwidth:#}");
    }
}

#[test]
fn a_path_that_comes_back_in_time_is_a_stall_and_no_failure() {
    const AWAY: Duration = Duration::from_millis(400);
    in_namespaces(&["tcp", "udp"], |way, netns| {
        let serve = netns.serve();
        // Over UDP what is lost stays lost; the next goes through.
        let timeout = if way.proto == "tcp" || way.test == "bw" { "10s" } else { "100ms" };
        let flags = format!("-d 4s --warmup 0 --wait block --timeout {timeout}");
        let client = way.start(serve.address(), &flags);
        client.is_measuring();
        netns.cut();
        // The length of the fault; nothing is waited for.
        thread::sleep(AWAY);
        netns.restore();
        let ran = client.wait().exits(0);
        let report = ran.report();
        assert_eq!(report["partial"], false);
        let result = &report["results"][0];
        assert_eq!(figure(result, "/operations/failed"), 0);
        let lost = figure(result, "/operations/timed_out");
        if way.test == "bw" {
            carries_on(result, way.proto);
        } else if way.proto == "tcp" {
            assert_eq!(lost, 0);
            assert_eq!(result["errors"], json!([]));
            assert!(figure(result, "/latency/service/max_ns") >= 400_000_000, "{result:#}");
        } else {
            let timeouts = json!({"phase": "receive", "cause": "timeout", "count": lost});
            assert!(lost >= 1, "{result:#}");
            let errors = result["errors"].as_array().unwrap();
            assert!(errors.contains(&timeouts), "{errors:?}");
            // Some were held back until the neighbour was found again, and came late.
            let known = [json!("timeout"), json!("late-reply")];
            let known = |error: &Value| known.contains(&error["cause"]);
            assert!(errors.iter().all(known), "{errors:?}");
            // "At least this long", by all the time that they were waited for.
            assert!(figure(result, "/latency/service/censored") >= lost);
            assert!(figure(result, "/latency/service/max_ns") >= 100_000_000, "{result:#}");
        }
        // It went on after.
        assert!(figure(result, "/duration_ns") >= 3_800_000_000, "{result:#}");
        assert!(result["instrument"]["server"].is_object());
        serve.serves();
        serve.stops();
    });
}

#[test]
fn a_client_whose_host_vanished_frees_its_place() {
    in_namespaces(&["tcp", "udp"], |way, netns| {
        let flags = format!("--listen {}:0 --max-sessions 1 --idle-timeout 1s", netns.outer);
        let serve = Serve::start(&flags);
        let flags = format!("-d 60s --warmup 0 --wait block {}", way.all_flags());
        let words = test_words(way.test, serve.address(), &flags);
        let client = Job::start(netns.tare(&words));
        client.is_measuring();
        // Nothing that its kernel says of its end arrives.
        netns.cut();
        let gone = Instant::now();
        client.signal(Signal::SIGKILL);
        client.wait();
        let next = format!("-n 5 --warmup 0 --wait block {}", way.flags);
        let busy = lat(serve.address(), &next).exits(1);
        busy.complains(&["the server has 1 sessions", "--max-sessions"]);
        eventually("its place is free", || lat(serve.address(), &next).code == Some(0));
        let took = gone.elapsed();
        assert!(took < Duration::from_secs(5), "{}: {took:?}", way.flags);
        assert!(took > Duration::from_millis(900), "{}: {took:?}", way.flags);
        serve.stops();
    });
}

#[test]
fn datagrams_that_are_lost_are_counted_and_never_waited_for_beyond_their_timeout() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        let flags =
            format!("-d 1500ms --warmup 0 --wait block --timeout 100ms --udp --backend {backend}");
        let client = Job::lat(serve.address(), &flags);
        client.is_measuring();
        // Dropped on the way in, so that neither end hears of it: the hole of a route.
        ip(&format!("-n {} route add blackhole {}/32", netns.name, netns.outer)).exits(0);
        let ran = client.wait();
        assert!(ran.took < Duration::from_secs(8), "{ran:?}");
        let ran = ran.exits(0);
        let report = ran.report();
        let result = &report["results"][0];
        let lost = figure(result, "/operations/timed_out");
        assert!((2..=15).contains(&lost), "{result:#}");
        let censored = figure(result, "/latency/service/censored");
        assert!(censored >= lost);
        let timeouts = json!({"phase": "receive", "cause": "timeout", "count": lost});
        assert!(result["errors"].as_array().unwrap().contains(&timeouts), "{}", result["errors"]);
        serve.stops();
    }
}
