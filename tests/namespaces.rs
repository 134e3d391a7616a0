//! What takes network namespaces: `tare lat veth`, and servers behind a pair of devices. All of it
//! takes root.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::netns::{Netns, ip};
use crate::util::{Job, array, backends, eventually, figure, is_root, lat, on_backends};

#[test]
fn what_a_killed_run_left_behind_is_named_at_the_next_start() {
    if !is_root("tare lat veth") {
        return;
    }
    let client = Job::lat("veth", "-d 20s --warmup 0 --wait block");
    client.is_measuring();
    let [link] = &journal_of(client.id())[..] else {
        panic!("no entry of {}", client.id());
    };
    // Something else keeps the namespace alive.
    let server = fs::read_dir(format!("/proc/{}/task", client.id())).unwrap().flatten();
    let namespaces = server.map(|task| fs::File::open(task.path().join("ns/net")).unwrap());
    let held: Vec<_> = namespaces.collect();
    client.signal(Signal::SIGKILL);
    client.wait();
    let undo = format!("ip link del {link}");
    let ran = lat("loopback", "-n 50 --wait block").exits(0);
    ran.complains(&["an earlier run left the veth device", link, &undo]);
    ip(&undo["ip ".len()..]).exits(0);
    drop(held);
    let ran = lat("loopback", "-n 50 --wait block").exits(0);
    assert!(!ran.stderr.contains(link.as_str()), "{}", ran.stderr);
}

/// The network devices that `tare` made and that are there.
fn links_of_tare() -> Vec<String> {
    let names = fs::read_dir("/sys/class/net").unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tare-")).collect()
}

/// The links among those that a process made: its journal names them. None is left when it has
/// ended in order.
fn journal_of(pid: u32) -> Vec<String> {
    let entries = fs::read_dir("/run/tare").into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let entries = texts.filter_map(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let own = entries.filter(|entry| entry["pid"] == json!(pid));
    own.filter_map(|entry| Some(entry["link"].as_str()?.to_owned())).collect()
}

#[test]
fn veth_is_made_for_the_run_and_undone() {
    if !is_root("tare lat veth") {
        return;
    }
    for (backend, proto) in on_backends(["tcp", "udp"]) {
        let flags = format!("-d 20s --warmup 0 --wait block --proto {proto} --backend {backend}");
        let client = Job::lat("veth", &flags);
        client.is_measuring();
        let pid = client.id();
        let [link] = &journal_of(pid)[..] else {
            panic!("{:?} of {:?}", journal_of(pid), links_of_tare());
        };
        assert!(links_of_tare().contains(link));
        client.signal(Signal::SIGINT);
        let report = client.wait().exits(130).report();
        assert!(figure(&report, "/results/0/operations/completed") > 100);
        let result = &report["results"][0];
        assert_eq!(result["instrument"]["server"]["backend"], backend);
        assert_eq!(report["plan"]["target"], "veth");
        assert_eq!(report["environment"]["client"]["device"]["name"], *link);
        assert!(!links_of_tare().contains(link), "{link} is left");
        assert_eq!(journal_of(pid), [""; 0]);
    }
    for backend in backends() {
        lat("veth", &format!("-n 200 --wait block --backend {backend}")).exits(0);
    }
}

#[test]
fn veth_goes_with_a_run_that_is_killed() {
    if !is_root("tare lat veth") {
        return;
    }
    let client = Job::lat("veth", "-d 20s --warmup 0 --wait block");
    client.is_measuring();
    let pid = client.id();
    let links = journal_of(pid);
    assert_eq!(links.len(), 1);
    client.signal(Signal::SIGKILL);
    client.wait();
    // The kernel takes the namespace down by itself, in a moment; and another run works meanwhile.
    lat("veth", "-n 50 --wait block").exits(0);
    eventually("the pair goes with its namespace", || !links_of_tare().contains(&links[0]));
    // That run, or the next, finds the entry settled.
    lat("veth", "-n 50 --wait block").exits(0);
    assert_eq!(journal_of(pid), [""; 0], "the next start clears the journal");
}

#[test]
fn a_server_inside_a_namespace_is_measured_from_outside() {
    let Some(netns) = Netns::if_root() else { return };
    let serve = netns.serve();
    for (backend, proto) in on_backends(["tcp", "udp"]) {
        let flags = format!("-n 200 -c 2 --wait block --proto {proto} --backend {backend}");
        let report = serve.lat(&flags).exits(0).report();
        assert_eq!(figure(&report, "/results/0/operations/completed"), 200);
        assert_eq!(report["environment"]["client"]["device"]["name"], netns.name);
        // One machine, whatever the namespace: its CPUs are shared out.
        assert_eq!(array(&report, "/environment/servers").len(), 1);
    }
    serve.stops();
}
