//! Every way of measuring, end to end: a real server, a real client, on every backend of this
//! machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::util::{Job, Quiet, Ran, Serve, backends, figure, lat, left_out, run, text, warnings};

/// What is measured with the flags and the backend, against a server of its own.
fn measured(flags: &str, backend: &str) -> Value {
    let serve = Serve::start("");
    let flags = format!("{flags} --backend {backend}");
    let ran = lat(serve.address(), &flags).exits(0);
    let report = ran.report();
    assert_eq!(report["partial"], false, "{flags}");
    assert_eq!(report["plan"]["target"], serve.address());
    for result in report["results"].as_array().unwrap() {
        assert_eq!(result["partial"], false, "{flags}");
        assert_eq!(result["errors"], json!([]), "{flags}");
        for end in ["client", "server"] {
            let instrument = &result["instrument"][end];
            assert_eq!(instrument["backend"], backend, "{flags}: {end}");
            assert_ne!(instrument["backend_reason"], "", "{flags}: {end}");
        }
        assert_eq!(result["instances"].as_array().unwrap().len(), 1);
    }
    assert_eq!(report["environment"]["servers"].as_array().unwrap().len(), 1);
    assert_eq!(serve.stops(), "");
    report
}

fn completed(report: &Value, step: usize) -> u64 {
    figure(report, &format!("/results/{step}/operations/completed"))
}

#[test]
fn tcp_and_udp_by_time() {
    for backend in backends() {
        for proto in ["tcp", "udp"] {
            let flags = format!("--proto {proto} -d 100ms --wait block");
            let report = measured(&flags, backend);
            let result = &report["results"][0];
            assert_eq!(result["params"]["proto"], proto);
            assert!(completed(&report, 0) > 100, "{result:#}");
            assert_eq!(figure(result, "/duration_ns"), 100_000_000);
            assert_eq!(result["latency"]["response"], Value::Null);
            assert_eq!(result["latency"]["lateness"], Value::Null);
            let at = |name: &str| figure(result, &format!("/latency/{name}_ns"));
            assert!(at("service/p50") >= at("server_residence/p50"));
            assert!(
                at("service/min") <= at("service/p50") && at("service/p50") <= at("service/p75")
            );
            assert!(at("service/max") < 40_000_000_000);
            let figures = figure(result, "/latency/server_residence/count");
            assert_eq!(figures, completed(&report, 0), "each reply told its residence");
            if proto == "tcp" {
                assert_eq!(figure(result, "/latency/connect/count"), 1);
            } else {
                assert_eq!(result["latency"]["connect"], Value::Null);
            }
        }
    }
}

#[test]
fn sizes_and_connections_make_a_step_each() {
    for backend in backends() {
        let report = measured("--size 1,64K,1:16:*4 -c 1,3 -n 60 --wait block", backend);
        let steps: Vec<_> = report["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| {
                assert_eq!(result["operations"]["completed"], 60);
                assert_eq!(result["connections"]["established"], result["params"]["connections"]);
                // Of messages too short to carry it the residence comes as a whole, at the end.
                assert_eq!(result["latency"]["server_residence"]["count"], 60);
                let params = &result["params"];
                (figure(params, "/size_bytes"), figure(params, "/connections"))
            })
            .collect();
        let sizes = [1, 65_536, 1, 4, 16];
        let expected: Vec<_> = sizes.iter().flat_map(|&size| [(size, 1), (size, 3)]).collect();
        assert_eq!(steps, expected);

        let report = measured("--udp --size 16,1400,60000 -c 2 -n 60 --wait block", backend);
        assert_eq!(report["results"].as_array().unwrap().len(), 3);
        for result in report["results"].as_array().unwrap() {
            assert_eq!(result["operations"]["completed"], 60, "{result:#}");
            assert_eq!(result["latency"]["server_residence"]["count"], 60);
        }
    }
}

#[test]
fn counts_are_exact_over_workers_and_connections() {
    for backend in backends() {
        for flags in [
            "-n 1001 -c 7 --wait block",
            "-n 1001 -c 7 --threads 2 --wait block",
            "-n 3 -c 7 --threads 2 --wait block",
            "-n 501 -c 3 --threads 2 --wait block --udp",
            "-n 101 -c 3 --threads 2 --rate 2000",
        ] {
            let report = measured(flags, backend);
            let asked = flags.split_whitespace().nth(1).unwrap();
            assert_eq!(completed(&report, 0).to_string(), asked, "{flags}");
            assert_eq!(figure(&report, "/results/0/operations/due").to_string(), asked);
        }
    }
}

#[test]
fn a_connection_for_every_ping() {
    for backend in backends() {
        let report = measured("--connect-each -n 200 -c 4 --wait block", backend);
        let result = &report["results"][0];
        assert_eq!(completed(&report, 0), 200);
        assert_eq!(figure(result, "/latency/connect/count"), 200);
        assert!(figure(result, "/connections/sockets_used") > 200, "and those of the warm-up");
        let at = |name: &str| figure(result, &format!("/latency/{name}_ns"));
        assert!(at("service/p50") > at("connect/p50"), "the service time holds the connect");

        let report = measured("--connect-each -n 50 -c 4 --threads 2 --rate 500", backend);
        assert_eq!(completed(&report, 0), 50);
        assert_eq!(figure(&report, "/results/0/latency/response/count"), 50);
    }
}

#[test]
fn an_open_loop_tells_response_service_and_lateness() {
    for backend in backends() {
        for proto in ["--tcp", "--udp"] {
            let flags = format!("{proto} --rate 1000 -d 200ms -c 2 --wait block");
            let report = measured(&flags, backend);
            let result = &report["results"][0];
            assert_eq!(result["rate"]["target_per_s"], 1000.0);
            // Constant arrivals: as many as the time holds, whatever happens to them.
            assert_eq!(figure(result, "/operations/due"), 200, "{flags}");
            let latency = &result["latency"];
            for name in ["response", "service", "lateness"] {
                let count = figure(latency, &format!("/{name}/count"));
                assert!(count >= completed(&report, 0), "{flags}: {name}");
            }
            let at = |name: &str| figure(latency, &format!("/{name}_ns"));
            assert!(at("response/min") >= at("service/min"));
            assert!(at("response/max") <= at("service/max") + at("lateness/max") + 1_000_000);
        }
    }
}

#[test]
fn an_open_loop_beyond_what_the_server_can_do_loses_nothing() {
    for backend in backends() {
        let serve = Serve::start("");
        let flags = format!(
            "--rate 1000 -d 200ms --warmup 0 --server-delay 5ms --wait block --backend {backend}"
        );
        let report = lat(serve.address(), &flags).exits(0).report();
        let operations = &report["results"][0]["operations"];
        assert_eq!(figure(operations, "/due"), 200);
        assert!(figure(operations, "/unsent_at_end") > 100, "{operations}");
        let response = &report["results"][0]["latency"]["response"];
        assert_eq!(figure(response, "/count"), 200, "each that was due has its sample");
        assert!(figure(response, "/censored") >= figure(operations, "/unsent_at_end"));
        assert!(figure(response, "/p50_ns") > 50_000_000, "{response}");
        let warnings = report["warnings"].as_array().unwrap();
        let told = |code: &str| warnings.iter().find(|warning| warning["code"] == code);
        let message = text(told("rate-not-reached").unwrap(), "/message");
        let cause = "as expected: the server, it held each request for 5";
        assert!(message.contains(cause), "{message}");
        assert_eq!(told("connections-busy"), None);
    }
}

#[test]
fn both_ends_wait_as_asked() {
    for backend in backends() {
        for wait in ["block", "spin", "hybrid"] {
            let report = measured(&format!("-n 200 --wait {wait}"), backend);
            let instrument = &report["results"][0]["instrument"];
            assert_eq!(instrument["client"]["wait"], wait);
            let server = &instrument["server"];
            // A server without a CPU to spare blocks, and says why.
            if server["wait"] != wait {
                assert_eq!(server["wait"], "block");
                assert_ne!(text(server, "/wait_reason"), "");
            }
            let sleeps = wait != "spin";
            assert_eq!(instrument["client"]["wakeup_p99_ns"].is_u64(), sleeps, "{wait}");
            let service = &report["results"][0]["latency"]["service"];
            let [value, error] = ["/p50_ns", "/errors_ns/p50"]
                .map(|at| service.pointer(at).and_then(Value::as_u64).unwrap());
            assert!(0 < error && error <= value, "{wait}: {value} ± {error}");
            assert_eq!(report["results"][0]["interval_scope"], "run");
        }
    }
}

#[test]
fn a_delay_of_the_far_end_is_its_residence() {
    for backend in backends() {
        for (proto, size) in [("tcp", 64), ("tcp", 4), ("udp", 64), ("udp", 16)] {
            let flags =
                format!("--proto {proto} --size {size} --server-delay 300us -n 50 --wait block");
            let report = measured(&flags, backend);
            let latency = &report["results"][0]["latency"];
            assert_eq!(figure(latency, "/server_residence/count"), 50);
            for name in ["server_residence/min", "service/min"] {
                // The histogram of three digits rounds down within a bin.
                assert!(figure(latency, &format!("/{name}_ns")) >= 299_500, "{flags}: {latency:#}");
            }
        }
    }
}

#[test]
fn no_target_is_loopback_within_the_process() {
    for backend in backends() {
        for target in ["loopback", ""] {
            let words = format!(
                "lat {target} -n 300 --warmup 10ms --wait block --backend {backend} --format json"
            );
            let words: Vec<_> = words.split_whitespace().collect();
            let report = run(&words).exits(0).report();
            assert_eq!(report["plan"]["target"], "loopback");
            assert_eq!(completed(&report, 0), 300);
            let instrument = &report["results"][0]["instrument"];
            assert_eq!(instrument["server"]["backend"], *backend);
        }
    }
}

#[test]
fn addresses_of_both_families() {
    let is_there = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !is_there {
        left_out("there is no IPv6 here");
        return;
    }
    for backend in backends() {
        let serve = Serve::start("--listen [::]:0 --listen 127.0.0.1:0 --listen [::1]:0");
        let [dual, v4, v6] = &serve.addresses[..] else {
            panic!("{:?}", serve.addresses);
        };
        let port = dual.strip_prefix("[::]:").expect("the free port");
        let targets = [
            format!("[::1]:{port}"),
            format!("127.0.0.1:{port}"),
            format!("localhost:{port}"),
            v4.clone(),
            v6.clone(),
        ];
        for target in &targets {
            for proto in ["tcp", "udp"] {
                let flags = format!("-n 20 --wait block --proto {proto} --backend {backend}");
                let report = lat(target, &flags).exits(0).report();
                assert_eq!(completed(&report, 0), 20, "{target} {proto}");
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
    let right = secret_file(dir.path(), "right", "hunter2\n");
    let wrong = secret_file(dir.path(), "wrong", "*******\n");
    let open = Serve::start("");
    let closed = Serve::start(&format!("--secret-file {right}"));
    for proto in ["tcp", "udp"] {
        let with = |serve: &Serve, secret: &str| -> Ran {
            let flags = format!("-n 20 --wait block -c 2 --proto {proto} {secret}");
            lat(serve.address(), &flags)
        };
        let given = format!("--secret-file {right}");
        let ran = with(&closed, &given).exits(0);
        assert_eq!(ran.report()["plan"]["secret"], true);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"));
        // A server without a secret asks for none.
        with(&open, &given).exits(0);
        let unsaid = with(&closed, "").exits(1);
        unsaid.complains(&["asks for a secret, and none was given", "--secret-file"]);
        let other = with(&closed, &format!("--secret-file {wrong}")).exits(1);
        other.complains(&["has another secret than the one given", "--secret-file"]);
        // And by the environment.
        let mut command = crate::util::tare();
        let words = crate::util::lat_words(closed.address(), "-n 5 --wait block");
        command.args(words).env("TARE_SECRET", "hunter2");
        Job::start(command).wait().exits(0);
    }
    let log = closed.stops();
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_server_for_one_client_ends_with_it() {
    for proto in ["tcp", "udp"] {
        let serve = Serve::start("--once");
        let flags = format!("-n 30 --size 16,64 -c 2 --wait block --proto {proto}");
        let report = lat(serve.address(), &flags).exits(0).report();
        assert_eq!(report["results"].as_array().unwrap().len(), 2);
        serve.job.wait().exits(0);
    }
}

#[test]
fn a_full_server_says_so() {
    for proto in ["tcp", "udp"] {
        let serve = Serve::start("--max-sessions 2");
        let flags = format!("-d 20s --warmup 0 --wait block -c 2 --proto {proto}");
        let first = Job::lat(serve.address(), &flags);
        first.is_measuring();
        let flags = format!("-n 5 --wait block --proto {proto}");
        let words = ["refused: the server has 2 sessions and takes no more", "--max-sessions"];
        lat(serve.address(), &flags).exits(1).complains(&words);
        drop(first);
    }
}

#[test]
fn sessions_that_live_too_long_are_ended() {
    for proto in ["tcp", "udp"] {
        let serve = Serve::start("--max-duration 300ms");
        let flags = format!("-d 20s --warmup 0 --wait block --proto {proto}");
        let ran = lat(serve.address(), &flags).exits(1);
        let report = ran.report();
        assert_eq!(report["partial"], true);
        assert!(completed(&report, 0) > 100);
        ran.complains(&["ended the session: the session had lasted 300 ms (--max-duration)"]);
        serve.serves();
    }
}

#[test]
fn sessions_that_fall_silent_are_ended() {
    for proto in ["tcp", "udp"] {
        let serve = Serve::start("--idle-timeout 200ms");
        // The next ping is due after two seconds.
        let flags = format!("--rate 30/m -d 10s --warmup 0 --proto {proto}");
        let ran = lat(serve.address(), &flags).exits(1);
        assert_eq!(ran.report()["partial"], true);
        let says = match proto {
            "tcp" => "ended the session: no request came for 200 ms (--idle-timeout)",
            // A second later nothing remembers the session any more.
            _ => "it was restarted, or has ended the session",
        };
        ran.complains(&[says]);
        serve.serves();
    }
}

#[test]
fn a_backend_that_the_server_does_not_offer_is_refused() {
    for backend in backends() {
        let other = if *backend == "uring" { "epoll" } else { "uring" };
        let serve = Serve::start(&format!("--backend {backend}"));
        let report = lat(serve.address(), "-n 5 --wait block").exits(0).report();
        assert_eq!(report["results"][0]["instrument"]["server"]["backend"], *backend);
        if backends().contains(&other) {
            let flags = format!("-n 5 --wait block --backend {other}");
            let ran = lat(serve.address(), &flags).exits(1);
            ran.complains(&["refused: the server was started for another backend"]);
        }
    }
}

#[test]
fn cpus_are_those_asked_for() {
    let serve = Serve::start("--cpus 0");
    let report = lat(serve.address(), "-n 20 --wait block --cpus 0").exits(0).report();
    let result = &report["results"][0];
    assert_eq!(result["instrument"]["client"]["cpus"], json!([0]));
    assert_eq!(result["instrument"]["server"]["cpus"], json!([0]));
    let ran = lat(serve.address(), "-n 20 --cpus 8191").exits(2);
    ran.complains(&["CPU 8191 does not exist or is offline"]);
}

#[test]
fn assertions_decide_the_exit_code() {
    let serve = Serve::start("");
    let with = |flags: &str| lat(serve.address(), &format!("-n 1200 --wait block {flags}"));
    let ran = with("--assert p50<10s --assert errors==0 --assert ops==1200").exits(0);
    let report = ran.report();
    let verdicts = report["assertions"].as_array().unwrap();
    assert_eq!(verdicts.len(), 3);
    assert!(verdicts.iter().all(|verdict| verdict["holds"] == true));

    let ran = with("--assert p50<1ns --assert p50<10s").exits(3);
    let ran = ran.complains(&["assertion 'p50<1ns' does not hold"]);
    assert_eq!(ran.report()["assertions"][0]["holds"], false);
    assert_eq!(ran.report()["assertions"][1]["holds"], true);

    // Ten samples beyond p99.99 take 100,000 operations.
    let ran = with("--assert p99.99<10s").exits(5);
    let ran = ran.complains(&["p99.99<10s", "cannot be told from this data"]);
    assert_eq!(ran.report()["assertions"][0]["holds"], Value::Null);
    // What no data would decide is told before there are any: lateness needs a schedule.
    for (never, says) in
        [("lateness.p50<10s", "give a rate with -R"), ("size=65:p50<10s", "leave `size=65` out")]
    {
        let ran = with(&format!("--assert {never}")).exits(2);
        assert_eq!(ran.stdout, "");
        ran.complains(&[never, says]);
    }
    // Failing comes before undecided.
    with("--assert p99.99<10s --assert p50<1ns").exits(3);
    let ran = with("--assert p99").exits(2);
    assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1));
}

#[test]
fn a_disturbed_run_is_fatal_when_strict() {
    // A client that spins on the only CPU that its server may use is forced off it for every
    // answer.
    let serve = Serve::start("--cpus 0");
    let flags = "-d 300ms --wait spin --cpus 0";
    let report = lat(serve.address(), flags).exits(0).report();
    let client = &report["results"][0]["instrument"]["client"];
    assert_eq!(client["disturbed"], true, "{client:#}");
    assert_ne!(client["disturbances"], json!([]));
    let told = warnings(&report);
    assert!(told.contains(&"client-preempted") && told.contains(&"shares-cpu"), "{told:?}");
    lat(serve.address(), &format!("{flags} --strict")).exits(4);
    // It comes before an assertion that fails.
    lat(serve.address(), &format!("{flags} --strict --assert p50<1ns")).exits(4);
}

#[test]
fn both_ends_name_the_device_of_their_route() {
    for proto in ["tcp", "udp"] {
        let serve = Serve::start("");
        let flags = format!("-d 50ms --warmup 0 --proto {proto}");
        let report = lat(serve.address(), &flags).exits(0).report();
        let environment = &report["environment"];
        assert_eq!(environment["client"]["device"]["name"], "lo");
        assert_eq!(environment["servers"][0]["device"]["name"], "lo");
        assert!(environment["servers"][0]["device"]["mtu_bytes"].as_u64() > Some(0));
    }
}

/// Processes that never sleep, two for each CPU.
fn spinners() -> Vec<Job> {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let spin = |_| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        Job::start(command)
    };
    (0..2 * cpus).map(spin).collect()
}

#[test]
fn a_machine_without_a_cpu_to_spare_is_told_and_fatal_when_strict() {
    let _quiet = Quiet::begin();
    let _spinners = spinners();
    for backend in backends() {
        for test in ["lat", "bw", "http"] {
            // Workers that have work whenever they get a CPU.
            let more = match test {
                "lat" => "--wait spin",
                "http" => "--wait block -c 8",
                _ => "--wait block",
            };
            let flags = format!("-d 1s --strict --backend {backend} {more}");
            let serve = Serve::start("--allow-spin");
            let target = match test {
                "http" => format!("http://{}/", serve.address()),
                _ => serve.address().to_owned(),
            };
            let ran = Job::test(test, &target, &flags).wait().exits(4);
            let report = ran.report();
            let client = &report["results"][0]["instrument"]["client"];
            // Two spinners are there for each CPU: an end has a third of one.
            let server = &report["results"][0]["instrument"]["server"];
            let waited = [client, server].map(|end| end["run_queue_ns"].as_u64());
            assert!(waited.iter().max() > Some(&Some(150_000_000)), "{flags}: {waited:?}");
            assert!(client["disturbed"] == true || server["disturbed"] == true, "{flags}");
            let codes = warnings(&report);
            let is_told = |end| codes.contains(&format!("{end}-waited-for-cpu").as_str());
            assert!(is_told("client") || is_told("server"), "{flags}: {codes:?}");
            serve.stops();
        }
    }
}
