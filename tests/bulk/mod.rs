//! Bandwidth runs, end to end: a real server, a real client, on every backend of this machine.

mod datagrams;
mod options;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::util::{
    Job, Ran, Serve, array, figure, left_out, on_backends, run_line, tare, test_words, text,
};

/// What is measured with the flags and the backend, against a server of its own, and what its
/// figures must be whatever they are.
#[track_caller]
fn measured(flags: &str, backend: &str) -> Value {
    let serve = Serve::start("");
    let report = measured_at(&serve, flags, backend);
    assert_eq!(serve.stops(), "");
    report
}

#[track_caller]
fn measured_at(serve: &Serve, flags: &str, backend: &str) -> Value {
    let flags = format!("{flags} --backend {backend}");
    let report = serve.test("bw", &flags).exits(0).report();
    assert_eq!(report["partial"], false, "{flags}");
    assert_eq!(report["kind"], "bw");
    assert_eq!(array(&report, "/environment/servers").len(), 1);
    for result in array(&report, "/results") {
        assert_eq!(result["partial"], false, "{flags}");
        assert_eq!(result["errors"], json!([]), "{flags}");
        adds_up(result, &flags);
        for end in ["client", "server"] {
            assert_eq!(result["instrument"][end]["backend"], backend, "{flags}: {end}");
            // The kernel brings a thread's time up to date every few milliseconds.
            if figure(result, "/duration_ns") > 50_000_000 {
                let cpu = &result["cpu"][end];
                assert!(figure(cpu, "/user_ns") + figure(cpu, "/system_ns") > 0, "{flags}: {cpu}");
            }
        }
    }
    report
}

/// The directions of a result that were measured.
pub(crate) fn flows(result: &Value) -> Vec<(&'static str, &Value)> {
    let flows = ["up", "down"].map(|way| (way, &result["bandwidth"][way]));
    flows.into_iter().filter(|(_, flow)| flow.is_object()).collect()
}

pub(crate) fn number(value: &Value, name: &str) -> f64 {
    let number = value[name].as_f64();
    number.unwrap_or_else(|| panic!("no number {name} in {value:#}"))
}

#[track_caller]
fn is_near(what: &str, actual: f64, expected: f64, share: f64) {
    let off = (actual - expected).abs();
    assert!(off <= expected * share, "{what}: {actual} and not {expected}");
}

/// Asserts what holds of the figures of every result.
#[track_caller]
pub(crate) fn adds_up(result: &Value, flags: &str) {
    let bandwidth = &result["bandwidth"];
    let params = &result["params"];
    let flows = flows(result);
    let asked: &[&str] = match text(params, "/direction") {
        "both" => &["up", "down"],
        way => &[way],
    };
    assert!(flows.iter().map(|(way, _)| way).eq(asked), "{flags}: {flows:?}");
    let is_udp = params["proto"] == "udp";
    for (_, flow) in &flows {
        let [received, sends] = ["/received_bytes", "/sends"].map(|name| figure(flow, name));
        assert!(received > 0 && sends > 0, "{flags}: {flow:#}");
        // The headline is what the receiver got, in the receiver's time: the longest stream's.
        let streams = array(flow, "/streams_bits_per_s");
        assert_eq!(json!(streams.len()), params["connections"], "{flags}");
        assert_eq!(flow["untold_streams"], 0, "{flags}");
        let seconds = number(flow, "duration_ns").max(1.0) / 1e9;
        let rate = number(flow, "bits_per_s");
        is_near(flags, rate, received as f64 * 8.0 / seconds, 1e-6);
        let sum: f64 = streams.iter().map(|rate| rate.as_f64().unwrap()).sum();
        assert!(sum >= rate * (1.0 - 1e-6), "{flags}: {sum} and {rate}");
        assert_eq!(flow["tcp"].is_object(), !is_udp, "{flags}: {flow:#}");
        assert_eq!(flow["datagrams"].is_object(), is_udp, "{flags}: {flow:#}");
        if is_udp {
            let datagrams = &flow["datagrams"];
            let [sent, received, lost] =
                ["/sent", "/received", "/lost"].map(|name| figure(datagrams, name));
            assert_eq!(sent, received + lost, "{flags}: {datagrams}");
            let size = figure(params, "/size_bytes");
            let bytes = ["/sent_bytes", "/received_bytes"].map(|name| figure(flow, name));
            assert_eq!(bytes, [sent * size, received * size], "{flags}");
        } else {
            for name in ["/tcp/retransmits", "/tcp/segments", "/tcp/busy_ns", "/tcp/mss_bytes"] {
                figure(flow, name);
            }
            assert!(figure(flow, "/tcp/cwnd_bytes") > 0 && figure(flow, "/tcp/rtt_ns") > 0);
            text(flow, "/tcp/congestion");
        }
        assert_eq!(flow["pacing"].is_object(), !params["rate_bits_per_s"].is_null(), "{flags}");
    }
    let sum = |name: &str| flows.iter().map(|(_, flow)| figure(flow, name)).sum::<u64>();
    assert_eq!(figure(bandwidth, "/received_bytes"), sum("/received_bytes"), "{flags}");
    assert_eq!(figure(bandwidth, "/sent_bytes"), sum("/sent_bytes"), "{flags}");
    assert_eq!(figure(result, "/operations/sent"), sum("/sends"), "{flags}");
    let rates = flows.iter().map(|(_, flow)| number(flow, "bits_per_s"));
    is_near(flags, number(bandwidth, "bits_per_s"), rates.sum(), 1e-9);
    assert_eq!(bandwidth["retransmits"].is_u64(), !is_udp, "{flags}");
    assert_eq!(bandwidth["lost_datagrams"].is_u64(), is_udp, "{flags}");
    let is_long = figure(result, "/duration_ns") > 50_000_000;
    let cpu = bandwidth["cpu_s_per_gib"].as_f64();
    assert!(!is_long || cpu > Some(0.0), "{flags}: {cpu:?}");
    series_adds_up(result, flags);
}

/// The series over time holds what was received, no more and no less.
#[track_caller]
fn series_adds_up(result: &Value, flags: &str) {
    let intervals = array(result, "/intervals");
    assert!(!intervals.is_empty(), "{flags}");
    let mut from = 0;
    let mut bytes = 0.0;
    for entry in intervals {
        let until = figure(entry, "/at_ns");
        assert!(until > from, "{flags}: {intervals:#?}");
        bytes += number(entry, "bits_per_s") * (until - from) as f64 / 8e9;
        from = until;
        let has_tcp = entry["tcp_info"].is_object();
        assert_eq!(has_tcp, result["params"]["proto"] == "tcp", "{flags}: {entry}");
    }
    // What came all at once came within a nanosecond.
    assert_eq!(from, figure(result, "/duration_ns").max(1), "{flags}");
    let received = number(&result["bandwidth"], "received_bytes");
    is_near(&format!("{flags}: the series' bytes"), bytes, received, 1e-6);
}

/// Each way of transport, direction and streams, on each backend.
fn every_way() -> impl Iterator<Item = (&'static str, &'static str, &'static str, u32)> {
    on_backends(["tcp", "udp"]).flat_map(|(backend, proto)| {
        let ways = ["up", "down", "both"].into_iter().flat_map(|way| [(way, 1), (way, 4)]);
        ways.map(move |(direction, streams)| (backend, proto, direction, streams))
    })
}

#[test]
fn every_way_by_time() {
    for (backend, proto, direction, streams) in every_way() {
        let flags = format!(
            "-d 150ms --warmup 20ms --interval 40ms --proto {proto} --direction {direction} -P {streams}"
        );
        let report = measured(&flags, backend);
        let result = &report["results"][0];
        // The last ones of what was sent in time may have come a moment later.
        let length = number(result, "duration_ns");
        assert!(length < 200e6, "{flags}: {length}");
        // Datagrams that are sent faster than they are taken may stop to come before that.
        assert!(proto == "udp" || length >= 150e6, "{flags}: {length}");
        assert!(length < 120e6 || array(result, "/intervals").len() >= 3, "{result:#}");
        assert_eq!(figure(result, "/warmup/duration_ns"), 20_000_000);
        assert_eq!(figure(result, "/connections/established"), u64::from(streams));
    }
}

#[test]
fn every_way_by_bytes() {
    for (backend, proto, direction, streams) in every_way() {
        // Over UDP slow enough for a busy machine; whatever it loses, what is sent is what was
        // asked for.
        let rate = if proto == "udp" { "--rate 100M --bytes 1M" } else { "--bytes 10M" };
        let flags = format!("{rate} --proto {proto} --direction {direction} -P {streams}");
        let report = measured(&flags, backend);
        let result = &report["results"][0];
        for (_, flow) in flows(result) {
            let [sent, received] = ["/sent_bytes", "/received_bytes"].map(|n| figure(flow, n));
            if proto == "tcp" {
                assert_eq!((sent, received), (10 << 20, 10 << 20), "{flags}");
            } else {
                // Whole datagrams, of each stream.
                let beyond = sent - (1 << 20);
                assert!(beyond < 1400 * u64::from(streams), "{flags}: {flow:#}");
            }
        }
        assert_eq!(figure(result, "/warmup/duration_ns"), 0);
    }
}

#[test]
fn each_send_is_of_the_size_asked_for() {
    for (backend, direction) in on_backends(["up", "down"]) {
        let flags = format!("--size 1,64,4K,256K -n 1000 --direction {direction}");
        let report = measured(&flags, backend);
        let steps = array(&report, "/results");
        assert_eq!(steps.len(), 4);
        for (step, size) in steps.iter().zip([1, 64, 4096, 262_144]) {
            let (_, flow) = flows(step)[0];
            assert_eq!(figure(flow, "/sends"), 1000, "{flags}: {size}");
            assert_eq!(figure(flow, "/sent_bytes"), 1000 * size);
            assert_eq!(figure(flow, "/received_bytes"), 1000 * size);
            assert_eq!(figure(step, "/operations/completed"), 1000);
        }
    }
}

#[test]
fn counts_are_exact_over_workers_and_streams() {
    for (backend, (asked, flags)) in on_backends([
        (1001, "--size 100 -P 7"),
        (1001, "--size 100 -P 7 --threads 2"),
        (3, "--size 64K -P 2 --threads 2 --direction both"),
        (1001, "--size 1 -P 4 --direction down"),
        (501, "--size 100 -P 3 --udp --rate 20M"),
    ]) {
        let report = measured(&format!("-n {asked} {flags}"), backend);
        for (way, flow) in flows(&report["results"][0]) {
            assert_eq!(figure(flow, "/sends"), asked, "{flags}: {way}");
        }
    }
}

#[test]
fn small_sends_leave_one_by_one_where_asked() {
    for (backend, direction) in on_backends(["up", "down"]) {
        let flags = format!("--nodelay --rate 800k --size 100 -n 300 --direction {direction}");
        let report = measured(&flags, backend);
        let (_, flow) = flows(&report["results"][0])[0];
        // The last one may be on its way when the kernel is asked.
        assert_eq!(figure(flow, "/sends"), 300, "{flags}");
        assert!((299..=300).contains(&figure(flow, "/tcp/segments")), "{flags}: {flow:#}");
        assert_eq!(report["results"][0]["params"]["nodelay"], true);
    }
}

#[test]
fn addresses_of_both_families() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        left_out("there is no IPv6 here");
        return;
    }
    let ways = [("tcp", "up"), ("tcp", "down"), ("udp", "up"), ("udp", "down")];
    for (backend, (proto, direction)) in on_backends(ways) {
        let serve = Serve::start("--listen [::1]:0");
        let flags =
            format!("--bytes 500k --rate 100M -P 2 --proto {proto} --direction {direction}");
        measured_at(&serve, &flags, backend);
        serve.stops();
    }
}

#[test]
fn no_target_is_loopback_within_the_process() {
    for (backend, target) in on_backends(["loopback", ""]) {
        let line = format!("bw {target} --bytes 5M --backend {backend} --format json");
        let report = run_line(&line).exits(0).report();
        assert_eq!(report["plan"]["target"], "loopback");
        assert_eq!(figure(&report, "/results/0/bandwidth/received_bytes"), 5 << 20);
    }
}

#[test]
fn an_interrupted_run_has_the_receivers_figures() {
    for (backend, direction) in on_backends(["up", "down", "both"]) {
        for proto in ["tcp", "udp --rate 50M"] {
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

/// Latency under load: what a path answers in while it carries a bulk transfer.
fn under_load(serve: &Serve, load: &str, flags: &str) -> Ran {
    let mut command = tare();
    command.args(test_words("lat", serve.address(), flags));
    command.args(["--under-load", load]);
    Job::start(command).wait()
}

#[test]
fn each_step_is_measured_idle_and_loaded() {
    for (backend, load) in on_backends(["-P 2", "--direction down", "--udp --rate 50M"]) {
        let serve = Serve::start("");
        let flags = format!("-d 300ms --size 16,64 --wait block --backend {backend}");
        let report = under_load(&serve, load, &flags).exits(0).report();
        let steps = array(&report, "/results");
        assert_eq!(steps.len(), 4);
        for (pair, size) in steps.chunks(2).zip([16, 64]) {
            let [idle, loaded] = pair else { panic!("{load}") };
            for step in pair {
                assert_eq!(figure(step, "/params/size_bytes"), size);
                assert!(figure(step, "/operations/completed") > 50, "{step:#}");
                assert_eq!(step["errors"], json!([]));
            }
            assert_eq!(idle["bandwidth"], Value::Null);
            assert_eq!(idle["params"]["under_load"], Value::Null);
            assert!(number(&loaded["bandwidth"], "bits_per_s") > 1e6, "{loaded:#}");
            assert!(!loaded["params"]["under_load"].is_null(), "{:#}", loaded["params"]);
        }
        serve.serves();
        serve.stops();
    }
}

#[test]
fn a_load_that_cannot_be_is_usage() {
    for load in ["--size", "-P 0", "--nonsense", "--direction sideways", "--bytes 5M"] {
        let serve = Serve::start("");
        let ran = under_load(&serve, load, "-n 10").exits(2);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
        ran.complains(&["--under-load"]);
    }
}
