//! As many connections as a machine can have.

use std::process::Command;

use super::{all_went_well, operations, result, sockets_used, words};
use crate::util::{Job, Serve, is_root, tare};

const MANY: u64 = 20_000;

#[test]
fn twenty_thousand_connections_take_one_command() {
    if !is_root("raising the limit of descriptors") {
        return;
    }
    // The tests may have been given fewer descriptors.
    let raise = format!("ulimit -n {}", MANY + 10_000);
    if !Command::new("sh")
        .args(["-c", &raise])
        .status()
        .unwrap()
        .success()
    {
        eprintln!("skipped: a process may not have {MANY} descriptors here");
        return;
    }
    let limited = |words: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{raise} && exec \"$0\" \"$@\"")]);
        command.arg(tare().get_program()).args(words);
        command
    };
    let serve = Serve::started(limited(&Serve::words("")));
    let url = format!("http://{}/", serve.address());
    // One backend will do: what is many here is connections, not the ways to wait for them.
    let flags = "-c 20000 -R 1000 -d 3s --connect-timeout 10s --timeout 5s";
    let ran = Job::start(limited(&words(&url, flags))).wait().exits(0);
    let result = result(&ran);
    assert_eq!(sockets_used(&result), MANY, "{result:#}");
    assert_eq!(result["connections"]["established"], MANY);
    let due = operations(&result, "due");
    assert!((2_999..=3_001).contains(&due), "{result:#}");
    all_went_well(&result, due);
}

#[test]
fn a_limit_that_was_raised_is_told() {
    let serve = Serve::start("");
    let url = format!("http://{}/", serve.address());
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
