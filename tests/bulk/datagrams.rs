//! Datagrams: lost, duplicated, out of order.

use serde_json::{Value, json};

use super::{adds_up, flows, measured, number};
use crate::netns::{Netns, ip};
use crate::util::{
    Job, Ran, Serve, backends, figure, is_root, left_out, on_backends, program, test_words,
    warnings,
};

/// Drops one in ten of what arrives with 1000 bytes of payload, and counts both.
const DROP_ONE_IN_TEN: &str = "table inet t {\n\
    counter came { }\ncounter dropped { }\n\
    chain c {\ntype filter hook input priority 0;\nmeta l4proto udp meta length 1028 jump d\n}\n\
    chain d {\ncounter name came\nnumgen inc mod 10 == 0 counter name dropped drop\n}\n}\n";

#[test]
fn what_is_dropped_on_the_way_is_lost_to_the_datagram() {
    if !is_root("ip netns") {
        return;
    }
    let ways = [("up", 1), ("up", 3), ("down", 1), ("down", 3)];
    for (backend, (direction, streams)) in on_backends(ways) {
        let netns = Netns::make();
        netns.nft(DROP_ONE_IN_TEN);
        let flags = format!(
            "--udp --size 1000 --rate 20M -n 2000 -P {streams} --direction {direction} --backend {backend}"
        );
        // The receiver is inside.
        let report = if direction == "up" {
            netns.serve().test("bw", &flags).exits(0).report()
        } else {
            measured_inside(&netns, &flags)
        };
        let result = &report["results"][0];
        adds_up(result, &flags);
        let datagrams = &flows(result)[0].1["datagrams"];
        let counters = netns.counters();
        assert_eq!(datagrams["sent"], 2000, "{flags}");
        assert_eq!(counters["came"], 2000, "{flags}: {counters}");
        assert_eq!(counters["dropped"], 200, "{flags}: {counters}");
        assert_eq!(datagrams["lost"], counters["dropped"], "{flags}");
        assert_eq!((&datagrams["duplicated"], &datagrams["reordered"]), (&json!(0), &json!(0)));
    }
}

/// What a client in a namespace measures to a server outside.
fn measured_inside(netns: &Netns, flags: &str) -> Value {
    let serve = Serve::start(&format!("--listen {}:0", netns.outer));
    let words = test_words("bw", serve.address(), flags);
    let report = Job::start(netns.tare(&words)).wait().exits(0).report();
    serve.stops();
    report
}

/// Lets the path into a namespace be as netem makes it.
fn disturb(netns: &Netns, verb: &str, how: &str) -> Ran {
    let words = format!("qdisc {verb} dev {} root netem {how}", netns.name);
    Job::start(program("tc", &words)).wait()
}

#[test]
fn datagrams_that_come_twice_or_out_of_order_are_counted() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        let ran = disturb(&netns, "add", "duplicate 10%");
        if ran.code != Some(0) {
            left_out(&format!("this kernel has no netem: {}", ran.stderr.trim_end()));
            return;
        }
        let flags = format!("--udp --size 1000 --rate 10M -n 2000 --backend {backend}");
        let report = serve.test("bw", &flags).exits(0).report();
        let bandwidth = &report["results"][0]["bandwidth"];
        assert!((100..300).contains(&figure(bandwidth, "/duplicated_datagrams")), "{bandwidth:#}");
        assert_eq!(figure(bandwidth, "/lost_datagrams"), 0);
        disturb(&netns, "change", "delay 5ms reorder 90% duplicate 0%").exits(0);
        let report = serve.test("bw", &flags).exits(0).report();
        let bandwidth = &report["results"][0]["bandwidth"];
        assert!(figure(bandwidth, "/reordered_datagrams") > 50, "{bandwidth:#}");
        assert_eq!(figure(bandwidth, "/lost_datagrams"), 0);
        serve.stops();
    }
}

#[test]
fn datagrams_that_a_device_sends_twice_are_counted_once_and_as_duplicates() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        netns.nft(
            "table netdev t {\ncounter doubled { }\nchain c {\n\
             type filter hook egress device inner priority 0;\n\
             meta l4proto udp meta length 1042 meta mark != 7 numgen inc mod 10 == 0 \
             counter name doubled meta mark set 7 dup to \"inner\"\n}\n}\n",
        );
        let flags = format!("--udp --size 1000 --rate 10M -n 1000 --backend {backend}");
        let report = measured_inside(&netns, &flags);
        let result = &report["results"][0];
        adds_up(result, &flags);
        let doubled = &netns.counters()["doubled"];
        let bandwidth = &result["bandwidth"];
        assert_eq!(bandwidth["duplicated_datagrams"], *doubled, "{bandwidth:#}");
        assert_eq!(*doubled, 100);
        assert_eq!(bandwidth["lost_datagrams"], 0);
        assert_eq!(bandwidth["received_bytes"], 1_000_000);
    }
}

#[test]
fn a_rate_above_what_the_path_carries_is_said_to_be() {
    let cases = ["--rate 2T", "--rate 2T --direction down", "--udp --rate 2T"];
    for (backend, flags) in on_backends(cases) {
        let report = measured(&format!("{flags} -d 200ms --wait block"), backend);
        let result = &report["results"][0];
        let (_, flow) = flows(result)[0];
        assert!(number(flow, "bits_per_s") < 1e12, "{flow:#}");
        assert!(figure(flow, "/pacing/unsent") > 100, "{flow:#}");
        assert_eq!(result["operations"]["unsent_at_end"], flow["pacing"]["unsent"]);
        // Whoever is to blame: the path, or a client without CPU to spare.
        let codes = warnings(&report);
        let named = ["rate-not-reached", "generator-saturated"];
        assert!(named.iter().any(|code| codes.contains(code)), "{codes:?}");
    }
}

#[test]
fn a_load_within_a_namespace_by_its_own_address() {
    // IPv6, over a link of its own.
    let Some(netns) = Netns::if_root() else { return };
    ip(&format!("-n {} addr add 2001:db8:7::2/64 dev inner nodad", netns.name)).exits(0);
    ip(&format!("addr add 2001:db8:7::1/64 dev {} nodad", netns.name)).exits(0);
    let serve = Serve::started(netns.tare(&Serve::words("--listen [2001:db8:7::2]:0")));
    let ways = [("tcp", "up"), ("tcp", "down"), ("udp", "up"), ("udp", "down")];
    for (backend, (proto, direction)) in on_backends(ways) {
        let flags = format!(
            "--bytes 200k --rate 50M --bind 2001:db8:7::1 --proto {proto} --direction {direction} --backend {backend}"
        );
        let report = serve.test("bw", &flags).exits(0).report();
        let result = &report["results"][0];
        adds_up(result, &flags);
        let bandwidth = &result["bandwidth"];
        assert_eq!(bandwidth["received_bytes"], bandwidth["sent_bytes"], "{flags}");
    }
    serve.stops();
}

/// `FragCreates` of the namespace's kernel (RFC 4293, `ipSystemStatsOutFragCreates`).
fn fragments_created(netns: &Netns) -> u64 {
    let text = netns.run("cat", "/proc/net/snmp").stdout;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, created) = both.find(|(name, _)| *name == "FragCreates").unwrap();
    created.parse().unwrap()
}

#[test]
fn datagrams_share_sends_up_to_the_paths_mtu_and_beyond_it_are_fragments() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        for direction in ["up", "down"] {
            for (size, per_send, fragments) in [(1453, 45, 1), (1472, 44, 1), (1473, 1, 2)] {
                let flags = format!(
                    "--udp --size {size} -d 100ms --direction {direction} --backend {backend}"
                );
                let report = serve.test("bw", &flags).exits(0).report();
                let (_, flow) = flows(&report["results"][0])[0];
                let datagrams = &flow["datagrams"];
                assert_eq!(datagrams["per_send"], per_send, "{flags}: {flow:#}");
                assert_eq!(datagrams["fragments"], fragments, "{flags}: {flow:#}");
                assert_eq!(datagrams["path_mtu_bytes"], 1500, "{flags}");
                let is_warned = warnings(&report).contains(&"fragmented");
                assert_eq!(is_warned, fragments > 1, "{flags}");
                assert_eq!(flow["per_send_reason"].is_string(), per_send == 1, "{flags}");
            }
        }
        // The kernel that cuts them is the judge.
        let before = fragments_created(&netns);
        let flags =
            format!("--udp --size 20K --rate 20M -n 50 --direction down --backend {backend}");
        let report = serve.test("bw", &flags).exits(0).report();
        let (_, flow) = flows(&report["results"][0])[0];
        assert_eq!(figure(flow, "/datagrams/fragments"), 14, "{flow:#}");
        assert_eq!(fragments_created(&netns) - before, 50 * 14, "{flow:#}");
        let flags = format!("--udp --size 4000 -n 20 --backend {backend}");
        let report = serve.lat(&flags).exits(0).report();
        assert_eq!(report["results"][0]["params"]["fragments_per_datagram"], 3);
        assert!(warnings(&report).contains(&"fragmented"));
        serve.stops();
    }
}

#[test]
fn a_path_that_turns_out_to_be_narrower_is_sent_on_one_datagram_at_a_time() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        let flags = format!("--udp --size 1400 -d 1s --warmup 0 --backend {backend}");
        let client = Job::test("bw", serve.address(), &flags);
        client.is_measuring();
        ip(&format!("route add {}/32 dev {} mtu 1000", netns.inner, netns.name)).exits(0);
        let report = client.wait().exits(0).report();
        let result = &report["results"][0];
        let (_, flow) = flows(result)[0];
        assert_eq!(result["partial"], false, "{result:#}");
        assert_eq!(flow["datagrams"]["fragments"], 2, "{flow:#}");
        assert!(warnings(&report).contains(&"fragmented"));
        serve.stops();
    }
}

#[test]
fn what_had_no_room_in_the_receive_buffer_is_reported_with_its_size() {
    for backend in backends() {
        // Nobody empties so small a buffer as fast as it is filled.
        let flags = "--udp --size 1400 --rcvbuf 4K -d 200ms";
        let report = measured(flags, backend);
        let (_, flow) = flows(&report["results"][0])[0];
        let datagrams = &flow["datagrams"];
        assert_eq!(figure(datagrams, "/receive_buffer_bytes"), 8 << 10, "{datagrams}");
        assert!(figure(datagrams, "/receive_buffer_overflows") > 0, "{datagrams}");
        assert!(figure(datagrams, "/lost") > 0, "{datagrams}");
        let flags = "--udp --rcvbuf 512M --rate 10M -d 100ms";
        let report = measured(flags, backend);
        assert!(warnings(&report).contains(&"buffer-capped"));
    }
}
