//! Options of sockets and of the instrument, at both ends.

use serde_json::{Value, json};

use super::{flows, measured};
use crate::netns::Netns;
use crate::util::{
    Job, Serve, backends, eventually, figure, is_root, left_out, on_backends, program, run, tare,
    test_words, text, warnings,
};

#[test]
fn what_the_receiver_discards_is_counted_all_the_same() {
    for (backend, direction) in on_backends(["up", "down", "both"]) {
        let flags = format!("--sink discard --bytes 10M -P 2 --direction {direction}");
        let report = measured(&flags, backend);
        let result = &report["results"][0];
        for (way, flow) in flows(result) {
            assert_eq!(figure(flow, "/received_bytes"), 10 << 20, "{flags}: {way}");
        }
        assert_eq!(result["params"]["sink"], "discard");
    }
}

#[test]
fn zero_copy_says_what_the_kernel_copied() {
    for backend in backends() {
        for direction in ["up", "down"] {
            let flags = format!("--zerocopy on --bytes 8M --direction {direction}");
            if *backend == "epoll" {
                let serve = Serve::start("");
                let ran = serve.test("bw", &format!("{flags} --backend epoll")).exits(2);
                assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1));
                ran.complains(&["--zerocopy on needs io_uring"]);
                continue;
            }
            let report = measured(&flags, backend);
            let (_, flow) = flows(&report["results"][0])[0];
            assert_eq!(flow["zero_copy"]["sends"], flow["sends"], "{flow:#}");
            // Over loopback what is received was copied.
            assert_eq!(flow["zero_copy"]["copied_share"], 1.0, "{flow:#}");
        }
        // Left to it, it finds that out and copies, and says why.
        let report = measured("-d 300ms --zerocopy auto", backend);
        let (_, flow) = flows(&report["results"][0])[0];
        let used = &flow["zero_copy"];
        assert!(figure(used, "/sends") < figure(flow, "/sends") / 2, "{flow:#}");
        let why = match *backend {
            "epoll" => "epoll does not offer it",
            _ => "the kernel copied all the same",
        };
        assert!(text(used, "/reason").contains(why), "{used}");
        let report = measured("--bytes 1M --zerocopy off", backend);
        let (_, flow) = flows(&report["results"][0])[0];
        assert_eq!(flow["zero_copy"], Value::Null);
    }
}

#[test]
fn options_of_sockets_hold_at_the_end_that_sends() {
    for (backend, direction) in on_backends(["up", "down"]) {
        let flags = format!(
            "--congestion reno --mss 1000 --sndbuf 64K --rcvbuf 96K --bytes 1M --direction {direction}"
        );
        let report = measured(&flags, backend);
        let result = &report["results"][0];
        let (tcp, params) = (&flows(result)[0].1["tcp"], &result["params"]);
        // Options of each segment (timestamps) are within the segment.
        assert!((900..=1000).contains(&figure(tcp, "/mss_bytes")), "{flags}: {tcp}");
        assert_eq!(figure(params, "/mss_bytes"), 1000);
        // The kernel doubles what is asked for, to account for its own (socket(7)).
        for (end, times) in [(tcp, 2), (params, 1)] {
            assert_eq!(end["congestion"], "reno", "{flags}");
            assert_eq!(figure(end, "/send_buffer_bytes"), times * (64 << 10), "{flags}");
            assert_eq!(figure(end, "/receive_buffer_bytes"), times * (96 << 10), "{flags}");
        }
    }
}

#[test]
fn an_unknown_congestion_control_is_named_with_the_sysctl_that_lists_the_known() {
    let serve = Serve::start("");
    for (backend, direction) in on_backends(["up", "down", "both"]) {
        let flags =
            format!("--congestion nonsense -d 5s --direction {direction} --backend {backend}");
        let ran = serve.test("bw", &flags).exits(1);
        ran.complains(&["'nonsense'", "net.ipv4.tcp_available_congestion_control"]);
    }
    serve.stops();
}

/// A namespace may use fewer than the machine offers, where it lacks the right to set any.
#[test]
fn a_congestion_control_that_only_the_server_lacks_is_the_servers_to_name() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        // What is not on the list of those for all takes CAP_NET_ADMIN.
        let words = format!("--listen {}:0", netns.inner);
        let mut command = netns.command("setpriv");
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        command.arg(env!("CARGO_BIN_EXE_tare")).args(Serve::words(&words));
        let serve = Serve::started(command);
        let [available, allowed] = ["available", "allowed"].map(|which| {
            let file = format!("/proc/sys/net/ipv4/tcp_{which}_congestion_control");
            std::fs::read_to_string(file).unwrap()
        });
        let is_allowed = |name: &&str| allowed.split_whitespace().any(|allowed| allowed == *name);
        let restricted = available.split_whitespace().find(|name| !is_allowed(name));
        let Some(restricted) = restricted else {
            left_out(&format!("this kernel lets everyone use each of {available:?}"));
            return;
        };
        let flags = format!("--congestion {restricted} -d 5s --direction down --backend {backend}");
        let ran = serve.test("bw", &flags).exits(1);
        ran.complains(&[serve.address(), restricted, "tcp_a"]);
        serve.serves();
        serve.stops();
    }
}

#[test]
fn packets_are_marked_at_both_ends() {
    if !is_root("ip netns") {
        return;
    }
    for (backend, proto) in on_backends(["tcp", "udp"]) {
        let netns = Netns::make();
        let serve = netns.serve();
        netns.nft(
            "table inet t {\n\
             counter in { }\ncounter out { }\ncounter in_all { }\ncounter out_all { }\n\
             chain i {\ntype filter hook input priority 0;\n\
             meta length > 500 counter name in_all\nmeta length > 500 ip dscp ef counter name in\n}\n\
             chain o {\ntype filter hook output priority 0;\n\
             meta length > 500 counter name out_all\nmeta length > 500 ip dscp ef counter name out\n}\n}\n",
        );
        let flags = format!(
            "--dscp EF --direction both --rate 20M --bytes 200k --proto {proto} --backend {backend}"
        );
        let report = serve.test("bw", &flags).exits(0).report();
        assert_eq!(figure(&report, "/results/0/params/dscp"), 46);
        let counters = netns.counters();
        // All that carries payload, at least; the hello went before the server knew of the mark.
        for (way, most) in [("in", 3), ("out", 6)] {
            let marked = figure(&counters, &format!("/{way}"));
            let unmarked = figure(&counters, &format!("/{way}_all")) - marked;
            assert!(marked > 0 && unmarked <= most, "{flags}: {counters}");
        }
        serve.stops();
    }
}

#[test]
fn the_address_to_send_from_is_the_one_asked_for() {
    for (backend, (proto, flag)) in on_backends([("tcp", "-tnp"), ("udp", "-unp")]) {
        let serve = Serve::start("");
        let flags = format!(
            "--bind 127.0.0.2 -d 20s --warmup 0 --wait block --rate 10M --proto {proto} --backend {backend}"
        );
        let client = Job::test("bw", serve.address(), &flags);
        eventually("its socket is bound there", || {
            let sockets = program("ss", &format!("{flag} src 127.0.0.2"));
            let sockets = Job::start(sockets).wait().exits(0).stdout;
            sockets.contains(&format!("pid={},", client.id()))
        });
        drop(client);
        let report = measured(&format!("--bind 127.0.0.2 --bytes 1M --proto {proto}"), backend);
        assert_eq!(report["results"][0]["params"]["bind"], "127.0.0.2");
    }
}

#[test]
fn an_address_that_is_not_here_is_named() {
    let serve = Serve::start("");
    for (backend, proto) in on_backends(["tcp", "udp"]) {
        let flags = format!("--bind 192.0.2.77 -d 5s --proto {proto} --backend {backend}");
        let words = ["192.0.2.77 is no address of this machine to send from", "`ip address`"];
        serve.test("bw", &flags).exits(1).complains(&words);
    }
    // Of the other family.
    let ran = serve.test("bw", "--bind ::1 -d 5s").exits(2);
    ran.complains(&["--bind ::1", "one is IPv4, the other IPv6"]);
    serve.stops();
}

#[test]
fn what_cannot_be_meant_is_usage() {
    for (flags, words) in [
        ("--udp --size 70000", &["--size 70000", "65507"][..]),
        ("--udp --size 15", &["--size 15"]),
        ("--udp --sink discard", &["--sink discard"]),
        ("--udp --nodelay", &["--nodelay"]),
        ("--dscp 64", &["64", "--dscp"]),
        ("--bytes 1M -d 1s", &["--bytes"]),
        ("--bytes 1M -n 5", &["--bytes"]),
    ] {
        let ran = run(&test_words("bw", "127.0.0.1:1", flags)).exits(2);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
        ran.complains(words);
    }
}

#[test]
fn assertions_on_bandwidth_decide_the_exit_code() {
    let serve = Serve::start("");
    let with = |flags| serve.test("bw", &format!("-d 400ms --interval 50ms {flags}"));
    let report = with("--assert bandwidth>1M --assert errors==0").exits(0).report();
    assert_eq!(report["assertions"][0]["holds"], true, "{report:#}");
    assert!(!warnings(&report).contains(&"few-samples"), "no quantile was asked for");
    let ran = with("--assert bandwidth>100T").exits(3);
    let ran = ran.complains(&["assertion 'bandwidth>100T' does not hold"]);
    assert_eq!(ran.report()["assertions"][0]["holds"], false);
    serve.stops();
}

#[test]
fn a_disturbed_run_is_fatal_when_strict() {
    // Both ends on one CPU are in each other's way.
    let serve = Serve::start("--cpus 0");
    let flags = "-d 400ms --cpus 0 --wait spin --rate 20M";
    let report = serve.test("bw", flags).exits(0).report();
    assert_eq!(report["results"][0]["instrument"]["client"]["disturbed"], true);
    serve.test("bw", &format!("{flags} --strict")).exits(4);
    serve.stops();
}

#[test]
fn secrets_and_servers_for_one_client() {
    for proto in ["tcp", "udp"] {
        let mut command = tare();
        command.args(Serve::words("--once")).env("TARE_SECRET", "hunter2");
        let serve = Serve::started(command);
        let flags = format!("-n 300 --size 1000 -P 2 --rate 50M --direction both --proto {proto}");
        let ran = serve.test("bw", &flags).exits(1);
        ran.complains(&["asks for a secret, and none was given", "--secret-file"]);
        let mut command = tare();
        command.args(test_words("bw", serve.address(), &flags)).env("TARE_SECRET", "hunter2");
        let ran = Job::start(command).wait().exits(0);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"));
        assert_eq!(ran.report()["plan"]["secret"], true);
        assert_eq!(ran.report()["results"][0]["errors"], json!([]));
        serve.job.wait().exits(0);
    }
}
