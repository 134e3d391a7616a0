//! Arms that die, and what cannot be compared.

use nix::sys::signal::Signal;

use super::{arm, blocks, cell, visited};
use crate::util::{Job, Serve, array, eventually, figure, run, words};

#[test]
fn an_arm_that_dies_leaves_the_blocks_of_the_others() {
    let [a, b, c] = [(); 3].map(|()| Serve::start(""));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("so-far.json");
    let line = format!(
        "compare {} {} {} --blocks 12 --block-duration 40ms -o {} --format json -- \
         lat --warmup 1ms --wait block --timeout 500ms",
        arm(("a", &a)),
        arm(("b", &b)),
        arm(("c", &c)),
        file.display()
    );
    let job = Job::tare(&words(&line));
    // The file is rewritten after each block.
    eventually("three blocks", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let report = serde_json::from_str::<serde_json::Value>(&text);
        report.is_ok_and(|report| figure(&report, "/comparison/blocks_done") >= 3)
    });
    b.job.signal(Signal::SIGKILL);
    let ran = job.wait().exits(1);
    let report = ran.report();
    ran.complains(&["arm b"]);
    assert_eq!(report["partial"], true);
    let comparison = &report["comparison"];
    assert!(comparison["arms"][1]["failed"].is_string(), "{:#}", comparison["arms"]);
    assert_eq!(comparison["arms"][2].get("failed"), None);
    // It was given up, and the others were visited until the end.
    assert_eq!(blocks(&report).len(), 12);
    assert_eq!(visited(&blocks(&report)[11]).len(), 6);
    let of = |arm: &str| array(cell(&report, arm, "p50"), "/blocks").len();
    assert_eq!(of("c"), 12);
    assert!((3..12).contains(&of("b")), "{}", of("b"));
    a.stops();
    c.stops();
}

#[test]
fn an_arm_that_is_not_there_is_named_before_the_first_block() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let arm = format!("gone={address}");
    let ran = run(&["compare", "loopback", &arm, "--", "lat", "--wait", "block"]).exits(1);
    ran.complains(&["arm gone", "refuses connections"]);
}

#[test]
fn what_makes_no_sense_is_refused_in_a_line() {
    for (words, parts) in [
        (&["--blocks", "5"][..], ["--blocks 5", "write --blocks 6 to 1000"]),
        (&["--block-duration", "0"], ["--block-duration", "above zero"]),
        (&["a=loopback"], ["a alone", "name a second path"]),
        (&["a=loopback", "a=veth"], ["two arms are called a", "NAME=TARGET"]),
        (
            &["a=loopback", "b=loopback", "--arm-options", "b=--size 1K"],
            ["other steps than a", "behind --"],
        ),
        (&["a=loopback", "b=loopback", "--", "ping"], ["'ping'", "-- lat"]),
        (
            &["a=loopback", "b=loopback", "--", "lat", "-d", "1s"],
            ["--duration", "--block-duration"],
        ),
        (
            &["a=loopback", "b=loopback", "--", "lat", "--interval", "1s"],
            ["an entry for each visit", "leave it out"],
        ),
    ] {
        let words = [&["compare"], words].concat();
        run(&words).exits(2).complains(&parts);
    }
}
