//! What takes network namespaces: `tare lat veth`, servers behind a pair of devices, links that go down and ports
//! that run out. All of it takes root.

use std::fs;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::util::{Job, Ran, Serve, backends, eventually, figure, is_root, lat, lat_words, tare};

fn ip(words: &str) -> Ran {
    let mut command = Command::new("ip");
    command.args(words.split_whitespace());
    Job::start(command).wait()
}

/// A namespace behind a veth pair, made with `ip` and removed when dropped.
struct Netns {
    name: String,
    /// Its address, and that of this end.
    inner: String,
    outer: String,
}

impl Netns {
    fn make() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // 198.51.100.0/24 is for documentation (RFC 5737): /30s of it, apart from those of other runs by chance.
        let pair = (process::id() + number) % 64 * 4;
        let made = Self {
            name: format!("tt-{}-{number}", process::id()),
            inner: format!("198.51.100.{}", pair + 2),
            outer: format!("198.51.100.{}", pair + 1),
        };
        let Self { name, inner, outer } = &made;
        for words in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name inner netns {name}"),
            format!("addr add {outer}/30 dev {name}"),
            format!("-n {name} addr add {inner}/30 dev inner"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set inner up"),
            format!("link set {name} up"),
        ] {
            ip(&words).exits(0);
        }
        made
    }

    /// A command that runs `tare` inside.
    fn tare(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.env_remove("TARE_SECRET");
        command.args(["netns", "exec", &self.name]);
        command.arg(tare().get_program()).args(words);
        command
    }

    fn serve(&self) -> Serve {
        let flags = format!("--listen {}:0", self.inner);
        Serve::started(self.tare(&Serve::words(&flags)))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The link first: the namespace may live on for as long as a socket of it does.
        for words in [
            format!("link del {}", self.name),
            format!("netns del {}", self.name),
        ] {
            let _ = Command::new("ip").args(words.split_whitespace()).status();
        }
    }
}

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
    let server = fs::read_dir(format!("/proc/{}/task", client.id()))
        .unwrap()
        .flatten();
    let namespaces = server.map(|task| fs::File::open(task.path().join("ns/net")).unwrap());
    let held: Vec<_> = namespaces.collect();
    client.signal(Signal::SIGKILL);
    client.wait();
    let undo = format!("ip link del {link}");
    let ran = lat("loopback", "-n 50 --wait block").exits(0);
    ran.complains(&[
        "an earlier run was killed and left the veth device",
        link,
        &undo,
    ]);
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

/// The links among those that a process made: its journal names them. None is left when it has ended in order.
fn journal_of(pid: u32) -> Vec<String> {
    let entries = fs::read_dir("/run/tare").into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let entries = texts.filter_map(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let own = entries.filter(|entry| entry["pid"] == json!(pid));
    own.map(|entry| entry["link"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn veth_is_made_for_the_run_and_undone() {
    if !is_root("tare lat veth") {
        return;
    }
    for backend in backends() {
        for proto in ["tcp", "udp"] {
            let flags =
                format!("-d 20s --warmup 0 --wait block --proto {proto} --backend {backend}");
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
            assert_eq!(result["instrument"]["server"]["backend"], *backend);
            assert_eq!(report["plan"]["target"], "veth");
            assert_eq!(report["environment"]["client"]["device"]["name"], *link);
            assert!(!links_of_tare().contains(link), "{link} is left");
            assert_eq!(journal_of(pid), [""; 0]);
        }
        let flags = format!("-n 200 --wait block --backend {backend}");
        lat("veth", &flags).exits(0);
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
    eventually("the pair goes with its namespace", || {
        !links_of_tare().contains(&links[0])
    });
    // That run, or the next, finds the entry settled.
    lat("veth", "-n 50 --wait block").exits(0);
    assert_eq!(
        journal_of(pid),
        [""; 0],
        "the next start clears the journal"
    );
}

#[test]
fn a_server_inside_a_namespace_is_measured_from_outside() {
    if !is_root("ip netns") {
        return;
    }
    let netns = Netns::make();
    let serve = netns.serve();
    for backend in backends() {
        for proto in ["tcp", "udp"] {
            let flags = format!("-n 200 -c 2 --wait block --proto {proto} --backend {backend}");
            let report = lat(serve.address(), &flags).exits(0).report();
            assert_eq!(figure(&report, "/results/0/operations/completed"), 200);
            assert_eq!(
                report["environment"]["client"]["device"]["name"],
                netns.name
            );
            // One machine, whatever the namespace: its CPUs are shared out.
            assert_eq!(
                report["environment"]["servers"].as_array().unwrap().len(),
                1
            );
        }
    }
    serve.stops();
}

#[test]
fn a_peer_that_vanishes_without_a_word_is_given_up_in_time() {
    if !is_root("ip netns") {
        return;
    }
    for backend in backends() {
        let netns = Netns::make();
        let serve = netns.serve();
        let flags =
            format!("-d 60s --warmup 0 --wait block --timeout 600ms -c 2 --backend {backend}");
        let client = Job::lat(serve.address(), &flags);
        client.is_measuring();
        ip(&format!("-n {} link set inner down", netns.name)).exits(0);
        let gone = Instant::now();
        let ran = client.wait().exits(1);
        assert!(
            gone.elapsed() < Duration::from_secs(4),
            "{:?}",
            gone.elapsed()
        );
        let report = ran.report();
        assert_eq!(report["partial"], true);
        let operations = &report["results"][0]["operations"];
        assert!(figure(operations, "/completed") > 100);
        assert_eq!(
            figure(operations, "/timed_out") + figure(operations, "/failed"),
            2,
            "{operations}"
        );
        ran.complains(&[serve.address()]);
        // The server that nobody tells anything either ends when it is asked to.
        serve.stops();
    }
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
        ip(&format!(
            "-n {} route add blackhole {}/32",
            netns.name, netns.outer
        ))
        .exits(0);
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
        assert!(
            result["errors"].as_array().unwrap().contains(&timeouts),
            "{}",
            result["errors"]
        );
        serve.stops();
    }
}

#[test]
fn ports_that_run_out_are_told() {
    if !is_root("ip netns") {
        return;
    }
    let netns = Netns::make();
    let serve = netns.serve();
    // Ten ports, and one that listens.
    let words = lat_words(serve.address(), "-n 100 -c 50 --wait block");
    let script = "echo 61000 61009 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"";
    for backend in backends() {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &netns.name, "sh", "-c", script]);
        command
            .arg(tare().get_program())
            .args(&words)
            .args(["--backend", backend]);
        let ran = Job::start(command).wait();
        let said = [
            "no ephemeral port is left towards",
            "net.ipv4.ip_local_port_range",
        ];
        ran.complains(&said);
    }
    serve.stops();
}
