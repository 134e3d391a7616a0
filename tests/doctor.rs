//! `tare doctor`: what it says of this machine, whatever that is, and that it leaves it as it was.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::netns::Netns;
use crate::util::{Job, Ran, program, run, run_line, tare, text, words};

/// Findings of a document that is of its schema, by code.
#[track_caller]
fn findings(ran: &Ran) -> BTreeMap<String, Value> {
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let schema = include_str!("../schema/tare-doctor-1.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    jsonschema::meta::validate(&schema).expect("the schema itself is valid");
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&document).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {document:#}");
    let findings = document["findings"].as_array().unwrap().iter();
    findings.map(|finding| (text(finding, "/code").to_owned(), finding.clone())).collect()
}

/// Runs it in a shell that has set the limit of descriptors.
fn limited(descriptors: u32, words: &str) -> Ran {
    let mut command = program("sh", "-c");
    let limit = format!("ulimit -Sn {descriptors} && ulimit -Hn {descriptors}");
    command.arg(format!("{limit} && exec \"$0\" {words}")).arg(tare().get_program());
    Job::start(command).wait()
}

#[test]
fn findings_are_of_their_schema() {
    let ran = run_line("doctor loopback --look 50ms --format json").exits(0);
    assert_eq!(ran.stderr, "");
    let findings = findings(&ran);
    assert!(findings.len() >= 35, "{}", findings.len());
    assert_eq!(findings["rings"]["level"], "ok");
    let route = findings["route"]["what"].as_str().unwrap();
    assert!(route.starts_with("lo, to loopback (127.0.0.1)"), "{route}");
    // Spinning needs two CPUs' worth of quota, or none; either way something is said.
    assert_ne!(findings["noise"]["what"], "");
    assert_eq!(findings["wake-up"]["unit"], "us");
}

#[test]
fn every_format_has_the_same_findings() {
    let codes = ["governor", "irqs", "cpu-quota", "conntrack", "busy-poll"];
    for format in ["text", "markdown"] {
        let ran = run(&["doctor", "--look", "10ms", "--format", format]).exits(0);
        assert_eq!(ran.stderr, "");
        for code in codes {
            assert!(ran.stdout.contains(code), "{format}: {code}: {}", ran.stdout);
        }
        assert!(ran.stdout.contains("tare doctor: CPU"), "{}", ran.stdout);
        assert!(!ran.stdout.contains('\x1b'));
    }
}

#[test]
fn what_spoils_is_fatal_to_those_who_ask() {
    let words = "doctor loopback --look 10ms --format json";
    let ran = limited(200, &format!("{words} --strict")).exits(4);
    let found = findings(&ran);
    assert_eq!(found["descriptors"]["level"], "spoils");
    assert_eq!(found["descriptors"]["value"], 200.0);
    let mend = found["descriptors"]["mend"].as_str().unwrap();
    assert!(mend.contains("ulimit -n 65536"), "{mend}");
    limited(200, words).exits(0);
}

#[test]
fn cpus_are_those_asked_for() {
    let cpu = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = cpu.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let first = allowed.trim().split(['-', ',']).next().unwrap();
    let line = format!("doctor --cpus {first} --look 10ms --format json");
    let ran = run_line(&line).exits(0);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["cpus"], serde_json::json!([first.parse::<u32>().unwrap()]));
}

/// Every sysctl, interrupt's affinity and CPU setting that it reads, as they stand.
fn settings() -> BTreeMap<String, String> {
    let net = "core/busy_poll core/busy_read core/netdev_budget core/netdev_max_backlog \
               ipv4/ip_local_port_range netfilter/nf_conntrack_max";
    let others = "/proc/sys/kernel/io_uring_disabled /proc/sys/kernel/numa_balancing \
                  /proc/self/limits /sys/kernel/mm/transparent_hugepage/enabled \
                  /sys/devices/system/clocksource/clocksource0/current_clocksource \
                  /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor /dev/cpu_dma_latency";
    let mut files: Vec<String> =
        words(net).iter().map(|name| format!("/proc/sys/net/{name}")).collect();
    files.extend(words(others).into_iter().map(str::to_owned));
    for directory in ["/proc/irq", "/sys/class/net"] {
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        for name in names.map(|entry| entry.path().display().to_string()) {
            let settings = ["smp_affinity_list", "gro_flush_timeout", "mtu"];
            files.extend(settings.map(|setting| format!("{name}/{setting}")));
        }
    }
    // Devices come and go with the namespaces of other tests.
    let files = files.into_iter().filter(|file| !file.contains("/net/t"));
    let read = |file: String| {
        let bytes = fs::read(&file).ok()?;
        Some((file, String::from_utf8_lossy(&bytes).into_owned()))
    };
    files.filter_map(read).collect()
}

#[test]
fn nothing_is_changed() {
    let before = settings();
    assert!(before.len() > 5, "{before:?}");
    run(&["doctor", "--look", "20ms"]).exits(0);
    assert_eq!(settings(), before);
}

#[test]
fn a_place_without_routes_is_examined_all_the_same() {
    let Some(place) = Netns::if_root() else { return };
    let flags = "--look 10ms --format json";
    let examined = |target: &str| {
        let line = format!("doctor {target} {flags}");
        findings(&Job::start(place.tare(&words(&line))).wait().exits(0))
    };
    let found = examined("");
    assert_eq!(found["route"]["level"], "unknown");
    let why = text(&found["route"], "/what");
    assert!(why.contains("no default route"), "{why}");
    // To the other end of its link there is one.
    let found = examined(&place.outer);
    let route = text(&found["route"], "/what");
    assert!(route.starts_with("inner, to "), "{route}");
    assert_eq!(found["path-mtu"]["value"], 1_500.0);
    // A route that takes less says so.
    let narrow = format!("ip route add {}/32 dev inner mtu 1300", place.outer);
    let line = format!("doctor {} {flags}", place.outer);
    let found = findings(&Job::start(place.tare_after(&narrow, &words(&line))).wait().exits(0));
    assert_eq!(found["path-mtu"]["level"], "note");
    assert_eq!(found["path-mtu"]["value"], 1_300.0);
    // And a host that no route leads to is no error: everything else was looked at.
    let found = examined("203.0.113.9");
    let why = text(&found["route"], "/what");
    assert!(why.starts_with("no route to 203.0.113.9"), "{why}");
}
