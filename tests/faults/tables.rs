//! What the machine shares among all: ephemeral ports and the connection-tracking table. A test
//! takes namespaces of its own for it.

use std::fs;

use serde_json::Value;

use crate::netns::Netns;
use crate::util::{Job, backends, figure, is_root, lat_words, test_words, text, warnings};

/// A report's warning with this code: message and advice.
#[track_caller]
fn warning<'a>(report: &'a Value, code: &str) -> (&'a str, &'a str) {
    let all = report["warnings"].as_array().unwrap();
    let found = all.iter().find(|warning| warning["code"] == code);
    let found = found.unwrap_or_else(|| panic!("no {code} in {all:#?}"));
    (text(found, "/message"), text(found, "/advice"))
}

#[test]
fn ports_that_run_out_are_reported_and_with_none_left_nothing_is_measured() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        let address = serve.address();
        netns.sysctl("ipv4/ip_local_port_range", "61000 61019");
        let flags = format!("-n 1000 -c 64 --wait block --backend {backend}");
        // What can be measured is; and that it is less than was asked for is said, with what to
        // type.
        let ran = Job::start(netns.tare(&lat_words(address, &flags))).wait().exits(0);
        let report = ran.report();
        for (code, messages, to_type) in [
            (
                "ephemeral-ports",
                ["64 connections at once", "20 ephemeral ports (61000-61019)"],
                "sysctl -w net.ipv4.ip_local_port_range=",
            ),
            (
                "connections-missing",
                ["of 64 connections were measured on", ": no ephemeral port is left towards"],
                "net.ipv4.ip_local_port_range",
            ),
        ] {
            let (message, advice) = warning(&report, code);
            assert!(messages.iter().all(|words| message.contains(words)), "{message}");
            assert!(advice.contains(to_type), "{advice}");
        }
        let result = &report["results"][0];
        assert_eq!(figure(result, "/operations/completed"), 1000);
        assert_eq!(text(result, "/errors/0/cause"), "EADDRNOTAVAIL");
        assert_eq!(text(result, "/errors/0/phase"), "connect");
        ran.complains(&["no ephemeral port is left towards", address]);
        serve.stops();

        let netns = Netns::make();
        let serve = netns.serve();
        let address = serve.address();
        // Another program of the namespace has the only ones.
        netns.sysctl("ipv4/ip_local_port_range", "61000 61001");
        let flags = format!("-d 60s -c 2 --warmup 0 --wait block --backend {backend}");
        let holder = Job::start(netns.tare(&lat_words(address, &flags)));
        holder.is_measuring();
        for test in ["lat", "bw"] {
            let words = test_words(test, address, "-n 100 --wait block");
            let ran = Job::start(netns.tare(&words)).wait().exits(1);
            let to_type = "net.ipv4.ip_local_port_range";
            let ran = ran.complains(&["no ephemeral port is left towards", address, to_type]);
            assert_eq!(ran.report()["partial"], true);
        }
        drop(holder);
        serve.stops();
    }
}

#[test]
fn a_run_stops_by_itself_before_the_conntrack_table_is_full() {
    const MAX: u64 = 6000;
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        netns.nft(
            "table inet t {\nchain c {\ntype filter hook output priority 0;\nct state new counter\n}\n}\n",
        );
        // The limit is the whole machine's, and nothing here would come near it: the client alone
        // is shown less.
        let shown = tempfile::NamedTempFile::new().unwrap();
        fs::write(shown.path(), format!("{MAX}\n")).unwrap();
        let show = format!(
            "mount --bind {} /proc/sys/net/netfilter/nf_conntrack_max",
            shown.path().display()
        );
        let flags =
            format!("-d 60s --warmup 0 -c 4 --connect-each --wait block --backend {backend}");
        let words = lat_words(serve.address(), &flags);
        let ran = Job::start(netns.tare_after(&show, &words)).wait().exits(1);
        let report = ran.report();
        assert_eq!(report["partial"], true);
        let result = &report["results"][0];
        assert_eq!(result["partial"], true);
        assert!(figure(result, "/operations/completed") > 1000, "{result:#}");
        assert_eq!(figure(result, "/operations/failed"), 0);
        let (message, advice) = warning(&report, "conntrack-budget");
        assert!(message.contains(&format!("of {MAX}; the run stops at 90 %")), "{message}");
        assert!(advice.contains("sysctl -w net.netfilter.nf_conntrack_max="), "{advice}");
        let ran = ran.complains(&[
            "stopped: the connection-tracking table holds",
            &format!("of {MAX} entries"),
            "raise net.netfilter.nf_conntrack_max, or use --rate or --count",
        ]);
        // It was in time: what it left there is less than the table holds.
        let mut count = netns.command("cat");
        count.arg("/proc/sys/net/netfilter/nf_conntrack_count");
        let left: u64 = Job::start(count).wait().exits(0).stdout.trim().parse().unwrap();
        assert!((MAX / 10 * 9..MAX).contains(&left), "{left}: {ran:?}");
        assert!(!warnings(&report).contains(&"conntrack-full"));
        // Who opens no connections for each ping is not stopped.
        let words = lat_words(serve.address(), "-n 500 --wait block");
        Job::start(netns.tare_after(&show, &words)).wait().exits(0);
        serve.serves();
        serve.stops();
    }
}
