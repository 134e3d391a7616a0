//! Every way of measuring, end to end: a real server, a real client, on every backend of this
//! machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::util::{
    Job, Quiet, Serve, array, backends, figure, lat, lat_words, left_out, on_backends, program,
    run_line, tare, text, warnings,
};

const PROTOS: [&str; 2] = ["tcp", "udp"];

/// What is measured with the flags and the backend, against a server of its own.
fn measured(flags: &str, backend: &str) -> Value {
    let serve = Serve::start("");
    let report = serve.lat(&format!("{flags} --backend {backend}")).exits(0).report();
    assert_eq!(report["partial"], false, "{flags}");
    assert_eq!(report["plan"]["target"], serve.address());
    for result in array(&report, "/results") {
        assert_eq!(result["partial"], false, "{flags}");
        assert_eq!(result["errors"], json!([]), "{flags}");
        for end in ["client", "server"] {
            let instrument = &result["instrument"][end];
            assert_eq!(instrument["backend"], backend, "{flags}: {end}");
            assert_ne!(instrument["backend_reason"], "", "{flags}: {end}");
        }
        assert_eq!(array(result, "/instances").len(), 1);
    }
    assert_eq!(array(&report, "/environment/servers").len(), 1);
    assert_eq!(serve.stops(), "");
    report
}

fn completed(report: &Value) -> u64 {
    figure(report, "/results/0/operations/completed")
}

#[test]
fn tcp_and_udp_by_time() {
    for (backend, proto) in on_backends(PROTOS) {
        let report = measured(&format!("--proto {proto} -d 100ms --wait block"), backend);
        let result = &report["results"][0];
        assert_eq!(result["params"]["proto"], proto);
        assert!(completed(&report) > 100, "{result:#}");
        assert_eq!(figure(result, "/duration_ns"), 100_000_000);
        let latency = &result["latency"];
        assert_eq!((&latency["response"], &latency["lateness"]), (&Value::Null, &Value::Null));
        let at = |name: &str| figure(latency, &format!("/{name}_ns"));
        assert!(at("service/p50") >= at("server_residence/p50"));
        let quantiles = ["service/min", "service/p50", "service/p75"].map(at);
        assert!(quantiles.is_sorted(), "{quantiles:?}");
        assert!(at("service/max") < 40_000_000_000);
        let residences = figure(latency, "/server_residence/count");
        assert_eq!(residences, completed(&report), "each reply has its residence");
        let connects = if proto == "tcp" { json!(1) } else { Value::Null };
        assert_eq!(latency["connect"]["count"], connects);
        // Both ends name the device of their route.
        let environment = &report["environment"];
        for end in [&environment["client"], &environment["servers"][0]] {
            assert_eq!(end["device"]["name"], "lo");
        }
        assert!(figure(environment, "/servers/0/device/mtu_bytes") > 0);
    }
}

#[test]
fn sizes_and_connections_make_a_step_each() {
    for backend in backends() {
        let report = measured("--size 1,64K,1:16:*4 -c 1,3 -n 60 --wait block", backend);
        let steps = array(&report, "/results").iter().map(|result| {
            assert_eq!(result["operations"]["completed"], 60);
            assert_eq!(result["connections"]["established"], result["params"]["connections"]);
            // Of messages too short to carry it the residence comes as a whole, at the end.
            assert_eq!(result["latency"]["server_residence"]["count"], 60);
            ["/params/size_bytes", "/params/connections"].map(|name| figure(result, name))
        });
        let expected = [1, 65_536, 1, 4, 16].map(|size| [[size, 1], [size, 3]]);
        assert_eq!(steps.collect::<Vec<_>>(), expected.concat());

        let report = measured("--udp --size 16,1400,60000 -c 2 -n 60 --wait block", backend);
        assert_eq!(array(&report, "/results").len(), 3);
        for result in array(&report, "/results") {
            assert_eq!(result["operations"]["completed"], 60, "{result:#}");
            assert_eq!(result["latency"]["server_residence"]["count"], 60);
        }
    }
}

#[test]
fn counts_are_exact_over_workers_and_connections() {
    for (backend, (asked, flags)) in on_backends([
        (1001, "-c 7 --wait block"),
        (1001, "-c 7 --threads 2 --wait block"),
        (3, "-c 7 --threads 2 --wait block"),
        (501, "-c 3 --threads 2 --wait block --udp"),
        (101, "-c 3 --threads 2 --rate 2000"),
    ]) {
        let report = measured(&format!("-n {asked} {flags}"), backend);
        assert_eq!(completed(&report), asked, "{flags}");
        assert_eq!(figure(&report, "/results/0/operations/due"), asked);
    }
}

#[test]
fn a_connection_for_every_ping() {
    for backend in backends() {
        let report = measured("--connect-each -n 200 -c 4 --wait block", backend);
        let result = &report["results"][0];
        assert_eq!(completed(&report), 200);
        assert_eq!(figure(result, "/latency/connect/count"), 200);
        assert!(figure(result, "/connections/sockets_used") > 200, "and those of the warm-up");
        let [service, connect] =
            ["service", "connect"].map(|name| figure(result, &format!("/latency/{name}/p50_ns")));
        assert!(service > connect, "the service time holds the connect");

        let report = measured("--connect-each -n 50 -c 4 --threads 2 --rate 500", backend);
        assert_eq!(completed(&report), 50);
        assert_eq!(figure(&report, "/results/0/latency/response/count"), 50);
    }
}

#[test]
fn an_open_loop_reports_response_service_and_lateness() {
    for (backend, proto) in on_backends(PROTOS) {
        let flags = format!("--proto {proto} --rate 1000 -d 200ms -c 2 --wait block");
        let report = measured(&flags, backend);
        let result = &report["results"][0];
        assert_eq!(result["rate"]["target_per_s"], 1000.0);
        // Constant arrivals: as many as the time holds, whatever happens to them.
        assert_eq!(figure(result, "/operations/due"), 200, "{flags}");
        let latency = &result["latency"];
        for name in ["response", "service", "lateness"] {
            let count = figure(latency, &format!("/{name}/count"));
            assert!(count >= completed(&report), "{flags}: {name}");
        }
        let at = |name: &str| figure(latency, &format!("/{name}_ns"));
        assert!(at("response/min") >= at("service/min"));
        assert!(at("response/max") <= at("service/max") + at("lateness/max") + 1_000_000);
    }
}

#[test]
fn an_open_loop_beyond_what_the_server_can_do_loses_nothing() {
    for backend in backends() {
        let serve = Serve::start("");
        let flags = "--rate 1000 -d 200ms --warmup 0 --server-delay 5ms --wait block --backend";
        let report = serve.lat(&format!("{flags} {backend}")).exits(0).report();
        let operations = &report["results"][0]["operations"];
        assert_eq!(figure(operations, "/due"), 200);
        assert!(figure(operations, "/unsent_at_end") > 100, "{operations}");
        let response = &report["results"][0]["latency"]["response"];
        assert_eq!(figure(response, "/count"), 200, "each that was due has its sample");
        assert!(figure(response, "/censored") >= figure(operations, "/unsent_at_end"));
        assert!(figure(response, "/p50_ns") > 50_000_000, "{response}");
        let mut all = array(&report, "/warnings").iter();
        let warning = all.find(|warning| warning["code"] == "rate-not-reached").unwrap();
        let cause = "as expected: the server, it held each request for 5";
        assert!(text(warning, "/message").contains(cause), "{warning}");
        assert!(!warnings(&report).contains(&"connections-busy"));
    }
}

#[test]
fn both_ends_wait_as_asked() {
    for (backend, wait) in on_backends(["block", "spin", "hybrid"]) {
        let report = measured(&format!("-n 200 --wait {wait}"), backend);
        let result = &report["results"][0];
        let (client, server) = (&result["instrument"]["client"], &result["instrument"]["server"]);
        assert_eq!(client["wait"], wait);
        // A server without a CPU to spare blocks, and says why.
        if server["wait"] != wait {
            assert_eq!(server["wait"], "block");
            assert_ne!(text(server, "/wait_reason"), "");
        }
        assert_eq!(client["wakeup_p99_ns"].is_u64(), wait != "spin", "{wait}");
        let [value, error] =
            ["p50_ns", "errors_ns/p50"].map(|at| figure(result, &format!("/latency/service/{at}")));
        assert!(0 < error && error <= value, "{wait}: {value} ± {error}");
        assert_eq!(result["interval_scope"], "run");
    }
}

#[test]
fn a_delay_of_the_server_is_its_residence() {
    let cases = [("tcp", 64), ("tcp", 4), ("udp", 64), ("udp", 16)];
    for (backend, (proto, size)) in on_backends(cases) {
        let flags =
            format!("--proto {proto} --size {size} --server-delay 300us -n 50 --wait block");
        let report = measured(&flags, backend);
        let latency = &report["results"][0]["latency"];
        assert_eq!(figure(latency, "/server_residence/count"), 50);
        for name in ["server_residence", "service"] {
            // The histogram of three digits rounds down within a bin.
            assert!(figure(latency, &format!("/{name}/min_ns")) >= 299_500, "{flags}: {latency:#}");
        }
    }
}

#[test]
fn no_target_is_loopback_within_the_process() {
    for (backend, target) in on_backends(["loopback", ""]) {
        let flags = "-n 300 --warmup 10ms --wait block --format json --backend";
        let report = run_line(&format!("lat {target} {flags} {backend}")).exits(0).report();
        assert_eq!(report["plan"]["target"], "loopback");
        assert_eq!(completed(&report), 300);
        assert_eq!(report["results"][0]["instrument"]["server"]["backend"], backend);
    }
}

#[test]
fn addresses_of_both_families() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        left_out("there is no IPv6 here");
        return;
    }
    for backend in backends() {
        let serve = Serve::start("--listen [::]:0 --listen 127.0.0.1:0 --listen [::1]:0");
        let [dual, v4, v6] = &serve.addresses[..] else {
            panic!("{:?}", serve.addresses);
        };
        let port = dual.strip_prefix("[::]:").expect("the free port");
        let hosts = ["[::1]", "127.0.0.1", "localhost"].map(|host| format!("{host}:{port}"));
        for target in hosts.iter().chain([v4, v6]) {
            for proto in PROTOS {
                let flags = format!("-n 20 --wait block --proto {proto} --backend {backend}");
                let report = lat(target, &flags).exits(0).report();
                assert_eq!(completed(&report), 20, "{target} {proto}");
            }
        }
        serve.stops();
    }
}

fn secret_file(dir: &Path, name: &str, secret: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, secret).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn secrets_that_match_and_secrets_that_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let right = format!("--secret-file {}", secret_file(dir.path(), "right", "hunter2\n"));
    let wrong = format!("--secret-file {}", secret_file(dir.path(), "wrong", "*******\n"));
    let open = Serve::start("");
    let closed = Serve::start(&right);
    for proto in PROTOS {
        let with = |serve: &Serve, secret: &str| {
            serve.lat(&format!("-n 20 --wait block -c 2 --proto {proto} {secret}"))
        };
        let ran = with(&closed, &right).exits(0);
        assert_eq!(ran.report()["plan"]["secret"], true);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"));
        // A server without a secret asks for none.
        with(&open, &right).exits(0);
        let none = "asks for a secret, and none was given";
        with(&closed, "").exits(1).complains(&[none, "--secret-file"]);
        let other = "has another secret than the one given";
        with(&closed, &wrong).exits(1).complains(&[other, "--secret-file"]);
        // And by the environment.
        let mut command = tare();
        command.args(lat_words(closed.address(), "-n 5 --wait block"));
        command.env("TARE_SECRET", "hunter2");
        Job::start(command).wait().exits(0);
    }
    let log = closed.stops();
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_server_for_one_client_ends_with_it() {
    for proto in PROTOS {
        let serve = Serve::start("--once");
        let flags = format!("-n 30 --size 16,64 -c 2 --wait block --proto {proto}");
        let report = serve.lat(&flags).exits(0).report();
        assert_eq!(array(&report, "/results").len(), 2);
        serve.job.wait().exits(0);
    }
}

#[test]
fn a_full_server_says_so() {
    for proto in PROTOS {
        let serve = Serve::start("--max-sessions 2");
        let flags = format!("-d 20s --warmup 0 --wait block -c 2 --proto {proto}");
        let first = Job::lat(serve.address(), &flags);
        first.is_measuring();
        let words = ["refused: the server has 2 sessions and takes no more", "--max-sessions"];
        serve.lat(&format!("-n 5 --wait block --proto {proto}")).exits(1).complains(&words);
        drop(first);
    }
}

#[test]
fn sessions_that_live_too_long_or_fall_silent_are_ended() {
    let old = ["ended the session: the session had lasted 300 ms (--max-duration)"; 2];
    let silent = [
        "ended the session: no request came for 200 ms (--idle-timeout)",
        // A second later nothing remembers the session any more.
        "it was restarted, or has ended the session",
    ];
    for (limit, flags, says) in [
        ("--max-duration 300ms", "-d 20s --wait block", old),
        // The next ping is due after two seconds.
        ("--idle-timeout 200ms", "--rate 30/m -d 10s", silent),
    ] {
        for (proto, says) in PROTOS.into_iter().zip(says) {
            let serve = Serve::start(limit);
            let ran = serve.lat(&format!("{flags} --warmup 0 --proto {proto}")).exits(1);
            let report = ran.report();
            assert_eq!(report["partial"], true);
            assert!(completed(&report) > 100 || limit.starts_with("--idle"), "{limit}");
            ran.complains(&[says]);
            serve.serves();
        }
    }
}

#[test]
fn a_backend_that_the_server_does_not_offer_is_refused() {
    for backend in backends() {
        let serve = Serve::start(&format!("--backend {backend}"));
        let report = serve.lat("-n 5 --wait block").exits(0).report();
        assert_eq!(report["results"][0]["instrument"]["server"]["backend"], *backend);
        for other in backends().iter().filter(|other| *other != backend) {
            let ran = serve.lat(&format!("-n 5 --wait block --backend {other}")).exits(1);
            ran.complains(&["refused: the server was started for another backend"]);
        }
    }
}

#[test]
fn cpus_are_those_asked_for() {
    let serve = Serve::start("--cpus 0");
    let report = serve.lat("-n 20 --wait block --cpus 0").exits(0).report();
    for end in ["client", "server"] {
        assert_eq!(report["results"][0]["instrument"][end]["cpus"], json!([0]));
    }
    let ran = serve.lat("-n 20 --cpus 8191").exits(2);
    ran.complains(&["CPU 8191 does not exist or is offline"]);
}

#[test]
fn assertions_decide_the_exit_code() {
    let serve = Serve::start("");
    for (asserted, code, verdicts, says) in [
        ("p50<10s errors==0 ops==1200", 0, json!([true, true, true]), &[][..]),
        ("p50<1ns p50<10s", 3, json!([false, true]), &["assertion 'p50<1ns' does not hold"]),
        // Ten samples beyond p99.99 take 100,000 operations.
        ("p99.99<10s", 5, json!([null]), &["p99.99<10s", "cannot be told from this data"]),
        // Failing comes before undecided.
        ("p99.99<10s p50<1ns", 3, json!([null, false]), &[]),
        // What no data would decide is said before there are any: lateness needs a schedule.
        ("lateness.p50<10s", 2, Value::Null, &["lateness.p50<10s", "give a rate with -R"]),
        ("size=65:p50<10s", 2, Value::Null, &["size=65:p50<10s", "leave `size=65` out"]),
        ("p99", 2, Value::Null, &[]),
    ] {
        let flags: String = asserted.split(' ').map(|a| format!(" --assert {a}")).collect();
        let ran = serve.lat(&format!("-n 1200 --wait block {flags}")).exits(code);
        let ran = if says.is_empty() { ran } else { ran.complains(says) };
        if code == 2 {
            assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{asserted}");
            continue;
        }
        let report = ran.report();
        let holds = array(&report, "/assertions").iter().map(|verdict| verdict["holds"].clone());
        assert_eq!(Value::Array(holds.collect()), verdicts, "{asserted}");
    }
}

#[test]
fn a_disturbed_run_is_fatal_when_strict() {
    // A client that spins on the only CPU that its server may use is forced off it for every
    // answer.
    let serve = Serve::start("--cpus 0");
    let flags = "-d 300ms --wait spin --cpus 0";
    let report = serve.lat(flags).exits(0).report();
    let client = &report["results"][0]["instrument"]["client"];
    assert_eq!(client["disturbed"], true, "{client:#}");
    assert_ne!(client["disturbances"], json!([]));
    let codes = warnings(&report);
    assert!(codes.contains(&"client-preempted") && codes.contains(&"shares-cpu"), "{codes:?}");
    serve.lat(&format!("{flags} --strict")).exits(4);
    // It comes before an assertion that fails.
    serve.lat(&format!("{flags} --strict --assert p50<1ns")).exits(4);
}

#[test]
fn a_machine_without_a_cpu_to_spare_is_reported_and_fatal_when_strict() {
    let _quiet = Quiet::begin();
    // Processes that never sleep, two for each CPU.
    let cpus = std::thread::available_parallelism().unwrap().get();
    let _spinners: Vec<Job> = (0..2 * cpus)
        .map(|_| {
            let mut command = program("sh", "-c");
            command.arg("while :; do :; done");
            Job::start(command)
        })
        .collect();
    // Workers that have work whenever they get a CPU.
    let tests = [("lat", "--wait spin"), ("bw", "--wait block"), ("http", "--wait block -c 8")];
    for (backend, (test, more)) in on_backends(tests) {
        let flags = format!("-d 1s --strict --backend {backend} {more}");
        let serve = Serve::start("--allow-spin");
        let report = serve.test(test, &flags).exits(4).report();
        let instrument = &report["results"][0]["instrument"];
        let ends = ["client", "server"].map(|end| &instrument[end]);
        // Two spinners are there for each CPU: an end has a third of one.
        let waited = ends.map(|end| end["run_queue_ns"].as_u64());
        assert!(waited.iter().max() > Some(&Some(150_000_000)), "{flags}: {waited:?}");
        assert!(ends.iter().any(|end| end["disturbed"] == true), "{flags}");
        let codes = warnings(&report);
        let is_waiting = |code: &&str| code.ends_with("-waited-for-cpu");
        assert!(codes.iter().any(is_waiting), "{flags}: {codes:?}");
        serve.stops();
    }
}
