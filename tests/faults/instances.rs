//! Two servers behind one address, as a Service or a load balancer makes them.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Way, for_each_way_at_once};
use crate::netns::Netns;
use crate::util::{Serve, figure, is_root, lat, warnings};

/// A port that two servers answer in turn, flow by flow.
struct Balanced {
    servers: [Serve; 2],
    address: String,
    _netns: Netns,
}

impl Balanced {
    fn make() -> Self {
        let netns = Netns::make();
        let servers = [netns.serve(), netns.serve()];
        let [a, b] = servers.each_ref().map(|serve| serve.address().rsplit_once(':').unwrap().1);
        let rules = ["tcp", "udp"].map(|proto| {
            format!("{proto} dport 7117 redirect to :numgen inc mod 2 map {{ 0 : {a}, 1 : {b} }}\n")
        });
        let hook = "type nat hook prerouting priority dstnat;";
        netns.nft(&format!("table ip balance {{\nchain in {{\n{hook}\n{}}}\n}}\n", rules.concat()));
        Self { servers, address: format!("{}:7117", netns.inner), _netns: netns }
    }

    fn run(&self, way: &Way, flags: &str) -> Value {
        let flags = format!("--wait block --warmup 0 {flags}");
        way.start(&self.address, &flags).wait().exits(0).report()
    }

    fn stop(self) {
        for serve in self.servers {
            serve.serves();
            serve.stops();
        }
    }
}

/// Asserts that two servers are named by a step, and described.
#[track_caller]
fn names_two(report: &Value, step: usize) {
    let step = &report["results"][step];
    let instances = step["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2, "{report:#}");
    let servers = report["environment"]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    for server in servers {
        assert!(instances.contains(&server["instance"]), "{server}");
    }
    assert_eq!(step["errors"], serde_json::json!([]));
    assert!(warnings(report).contains(&"several-servers"));
}

#[test]
fn two_servers_behind_one_address_are_both_named() {
    if !is_root("ip netns") {
        return;
    }
    // A run that opens a connection for each ping shares them, too.
    let balanced = Balanced::make();
    let flags = "-n 200 -c 2 --connect-each --wait block --warmup 0";
    let report = lat(&balanced.address, flags).exits(0).report();
    assert_eq!(figure(&report, "/results/0/operations/completed"), 200);
    let instances = report["results"][0]["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2, "{instances:?}");
    balanced.stop();
    for_each_way_at_once(|way| {
        let balanced = Balanced::make();
        let report = balanced.run(way, "-n 400 -c 4");
        names_two(&report, 0);
        assert_eq!(figure(&report, "/results/0/operations/completed"), 400);
        assert_eq!(figure(&report, "/results/0/connections/established"), 4);
        // Each step of a sweep, with workers of its own, finds both.
        let report = balanced.run(way, "-n 400 --size 64,256 -c 2,4 --threads 2");
        for step in 0..4 {
            names_two(&report, step);
        }
        // And one connection talks to one at a time.
        let report = balanced.run(way, "-n 400 --size 64,256");
        let steps = report["results"].as_array().unwrap();
        let named = steps.iter().map(|step| step["instances"].as_array().unwrap());
        let named: Vec<_> = named.flatten().collect();
        assert!(named.len() == 2 && named[0] != named[1], "{named:?}");
        assert!(!warnings(&report).contains(&"several-servers"));
        balanced.stop();
    });
}

#[test]
fn one_of_two_servers_dies_and_the_other_is_measured_on() {
    if !is_root("ip netns") {
        return;
    }
    for_each_way_at_once(|way| {
        let Balanced { servers: [dies, lives], address, _netns } = Balanced::make();
        let flags = "-d 4s --warmup 0 --wait block -c 4 --timeout 500ms";
        let client = way.start(&address, flags);
        client.is_measuring();
        dies.job.signal(Signal::SIGKILL);
        let ran = client.wait();
        let report = ran.report();
        let result = &report["results"][0];
        assert_eq!(result["instances"].as_array().unwrap().len(), 2);
        let errors = result["errors"].as_array().unwrap();
        assert!(!errors.is_empty(), "{}: {result:#}", way.all_flags());
        assert!(ran.took > Duration::from_secs(4), "{ran:?}");
        if way.test == "lat" {
            assert!(figure(result, "/operations/completed") > 1000);
            ran.exits(0).complains(&["connections were lost while measuring", &address]);
        } else {
            // Half of the streams is not what was asked for.
            let moved = ["sent", "received"];
            let moved = moved.map(|way| figure(result, &format!("/bandwidth/{way}_bytes")));
            assert!(moved.iter().all(|bytes| *bytes > 1 << 20), "{result:#}");
            assert_eq!(report["partial"], true);
            ran.exits(1).complains(&[&address]);
        }
        lives.serves();
        lives.stops();
    });
}
