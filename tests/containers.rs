//! `scripts/container-lab` and `scripts/lab compare`: servers in real containers and behind
//! translations, found for what they are. All of it takes root; the containers also Docker and a
//! static binary, as `.ci/run` has them.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{UNAVAILABLE, script, unless_unavailable};
use crate::util::{Job, array, eventually, figure, is_root};

fn container_lab(line: &str) -> Command {
    let mut command = script("container-lab", line);
    // A daemon that runs anyway is somebody's: containers of a test do not belong into it.
    command.env("TARE_LAB_DOCKER", "own");
    command
}

/// The lab of that script is gone: its state, its cgroups, its directory.
#[track_caller]
fn leaves_nothing(pid: u32) {
    let name = format!("tare-containers-{pid}");
    let found = Command::new("find")
        .args(["/run", "/tmp", "/sys/fs/cgroup", "-maxdepth", "3", "-name"])
        .arg(format!("{name}*"))
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found, "", "left of {name}");
}

#[test]
fn each_container_is_found_for_what_it_is() {
    if !is_root("scripts/container-lab") {
        return;
    }
    // The others, and throttling, take longer than a test may: `.ci/run` checks all.
    let job = Job::start(container_lab("check --arms host,runc,published,seccomp,gvisor?"));
    let pid = job.id();
    let ran = job.wait();
    leaves_nothing(pid);
    let Some(ran) = unless_unavailable(ran) else { return };
    let ran = ran.exits(0);
    for words in ["host ", "runc ", "published ", "uring/epoll", "EPERM"] {
        assert!(ran.stdout.contains(words), "{words:?} not in {ran:#?}");
    }
}

#[test]
fn a_container_lab_that_is_ended_goes_with_its_command() {
    if !is_root("scripts/container-lab") {
        return;
    }
    let job = Job::start(container_lab("run --arms hostnet -- sleep 60"));
    let pid = job.id();
    let pids = format!("/run/tare-containers/tare-containers-{pid}/pids");
    eventually("its command runs, or it cannot", || {
        let ended = fs::read_link(format!("/proc/{pid}/exe")).is_err();
        ended || fs::read_to_string(&pids).is_ok_and(|text| !text.is_empty())
    });
    job.signal(Signal::SIGTERM);
    let ran = job.wait();
    leaves_nothing(pid);
    if let Some(ran) = unless_unavailable(ran) {
        ran.exits(128 + Signal::SIGTERM as i32);
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_a_line() {
    for (words, said) in [
        ("up --arms ring", "unknown arm 'ring'"),
        ("run --arms runc", "run takes -- and a command"),
        ("check all", "check takes --arms alone"),
        ("", "what to do?"),
    ] {
        let ran = Job::start(container_lab(words)).wait().exits(2);
        assert!(ran.stderr.contains(said), "{said:?} not in {ran:#?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    }
    let mut without = container_lab("check");
    without.env("TARE_STATIC", "/nowhere/tare");
    let ran = Job::start(without).wait().exits(UNAVAILABLE);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
}

#[test]
fn a_comparison_names_the_instances_behind_a_balancer_and_a_translated_port() {
    if !is_root("scripts/lab") {
        return;
    }
    for family in ["", "-6"] {
        let flags = "--brief --quiet --format json -- lat --wait block --warmup 10ms";
        let ran = Job::start(script("lab", &format!("compare {family} {flags}"))).wait();
        let Some(ran) = unless_unavailable(ran) else { continue };
        // So few blocks decide nothing.
        assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
        let report: Value = ran.report();
        let arms = array(&report, "/comparison/arms");
        let instances = |name: &str| -> Vec<String> {
            let arm = arms.iter().find(|arm| arm["name"] == name).unwrap();
            serde_json::from_value(arm["instances"].clone()).unwrap()
        };
        let direct = instances("direct");
        assert_eq!(direct.len(), 1, "{direct:?}");
        assert_eq!(instances("dnat"), direct, "the same server");
        let balanced = instances("balanced");
        assert_eq!(balanced.len(), 2, "{balanced:?}");
        assert!(balanced.contains(&direct[0]), "{balanced:?}, {direct:?}");
        assert_eq!(figure(&report, "/comparison/blocks_done"), 6);
    }
}
