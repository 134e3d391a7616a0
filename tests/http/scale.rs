//! As many connections as a machine can have, and more than one address, or one table of
//! descriptors, would let it.

use std::process::Command;

use super::{
    all_went_well, figure, for_each_backend, operations, result, sockets_used, url, words,
};
use crate::netns::Netns;
use crate::util::{Job, Ran, Serve, is_root, tare, warnings};

/// A field report's case.
const MANY: u64 = 20_000;
/// Descriptors that an end has beside its connections.
const BESIDE: u64 = 1_000;

/// How many descriptors a process may have here, asked for so many.
fn descriptors(wanted: u64) -> u64 {
    let raise = format!("ulimit -n {wanted} 2>/dev/null || ulimit -n $(ulimit -Hn); ulimit -n");
    let output = Command::new("sh").args(["-c", &raise]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output.trim().parse().unwrap_or(wanted)
}

/// A command that runs `tare` with so many descriptors as the most it may have, even as root.
fn limited(descriptors: u64, words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let held = "setpriv --bounding-set -sys_resource";
    let script = format!("ulimit -n {descriptors} && {held} true && exec {held} \"$0\" \"$@\"");
    // Whoever cannot give up the right to raise it does not have it.
    let script = format!("{script}; ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]);
    command.arg(tare().get_program()).args(words);
    command
}

#[test]
fn twenty_thousand_connections_take_one_command() {
    // The server is one process, and needs a descriptor for each.
    let may = descriptors(MANY + BESIDE);
    let many = MANY.min(may.saturating_sub(BESIDE));
    if many < MANY {
        eprintln!("{many} connections instead of {MANY}: {may} descriptors are allowed here");
    }
    let serve = Serve::started(limited(may, &Serve::words("")));
    let url = url(&serve, "/");
    // One backend will do: what is many here is connections, not the ways to wait for them.
    let flags = format!("-c {many} -R 1000 -d 3s --connect-timeout 10s --timeout 5s");
    let ran = Job::start(limited(may, &words(&url, &flags))).wait();
    let result = result(&ran.exits(0));
    assert_eq!(sockets_used(&result), many, "{result:#}");
    assert_eq!(result["connections"]["established"], many);
    let due = operations(&result, "due");
    assert!((2_999..=3_001).contains(&due), "{result:#}");
    all_went_well(&result, due);
}

#[test]
fn a_limit_that_was_raised_is_reported() {
    let serve = Serve::start("");
    let url = url(&serve, "/");
    let run = |limit: &str, format: &str| {
        let flags = format!("-c 100 -n 100 --format {format}");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -Sn {limit} && exec \"$0\" \"$@\"")]);
        command.arg(tare().get_program()).args(words(&url, &flags));
        Job::start(command).wait().exits(0)
    };
    let text = run("60", "text").stdout;
    assert!(text.contains("limit raised from 60 to "), "{text}");
    let report = run("60", "json").report();
    assert_eq!(report["plan"]["descriptors"]["raised_from"], 60);
    let text = run("500", "text").stdout;
    assert!(!text.contains("limit raised"), "{text}");
}

/// Where the limit cannot be raised, each worker has a table of descriptors of its own.
#[test]
fn connections_may_be_more_than_descriptors() {
    const LIMIT: u64 = 400;
    let serve = Serve::start("");
    let url = url(&serve, "/");
    for_each_backend(|backend| {
        let run = |flags: &str| {
            let flags = format!("-n 5000 --connect-timeout 10s {flags} {backend}");
            Job::start(limited(LIMIT, &words(&url, &flags))).wait()
        };
        let ran = run("-c 1000").exits(0);
        let descriptors = &ran.report()["plan"]["descriptors"];
        assert_eq!(descriptors["per_worker"], true, "{ran:#?}");
        assert_eq!(descriptors["limit"], LIMIT);
        let result = result(&ran);
        assert_eq!(sockets_used(&result), 1_000, "{result:#}");
        all_went_well(&result, 5_000);
        // Workers that are too few are not made more where their number was asked for.
        let ran = run("-c 1000 --threads 2").exits(1);
        ran.complains(&["only 400 are allowed", "ulimit -Hn", "fewer connections"]);
    });
}

/// A client and its server within a namespace of 100 ephemeral ports.
fn with_a_hundred_ports(flags: &str) -> Ran {
    let netns = Netns::make();
    netns.sysctl("ipv4/ip_local_port_range", "61000 61099");
    let listen = "--listen 127.0.0.1:7117";
    let serve = Serve::started(netns.tare(&Serve::words(listen)));
    let url = url(&serve, "/");
    Job::start(netns.tare(&words(&url, flags))).wait()
}

#[test]
fn each_local_address_has_ports_of_its_own_and_what_to_type_is_said_where_they_run_out() {
    if !is_root("ip netns") {
        return;
    }
    for_each_backend(|backend| {
        let flags = format!("-n 2000 -c 250 --bind 127.0.0.1-127.0.0.3 {backend}");
        let all = result(&with_a_hundred_ports(&flags).exits(0));
        assert_eq!(all["connections"]["established"], 250, "{all:#}");
        assert_eq!(sockets_used(&all), 250, "{all:#}");
        all_went_well(&all, 2_000);
        for (bind, says) in [
            ("", "connect from more addresses (--bind)"),
            ("--bind 127.0.0.1", "name more addresses"),
        ] {
            let flags = format!("-n 2000 -c 250 {bind} {backend}");
            let ran = with_a_hundred_ports(&flags).exits(0);
            let report = ran.report();
            assert!(warnings(&report).contains(&"ephemeral-ports"), "{report:#}");
            let ran = ran.complains(&["250 connections at once", "100 ephemeral ports", "--bind"]);
            let ran = ran.complains(&["left towards 127.0.0.1:7117", says]);
            let result = &report["results"][0];
            assert_eq!(figure(result, "/connections/established"), 100, "{ran:#?}");
            assert_eq!(operations(result, "completed"), 2_000);
        }
    });
}
