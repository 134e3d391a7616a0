//! Commands around visits: how often they run, and that what they change is undone on every exit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{BRIEF, SAME, blocks, brief, compare, visited, visits_to};
use crate::netns::Netns;
use crate::util::{Job, Ran, eventually, figure, lat, program, run, run_line, text, words};

const MEASURED: &str = "lat --warmup 1ms --wait block";

/// A file that hooks write a line to.
struct Trace {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Trace {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        fs::write(&path, "").unwrap();
        Self { _directory: directory, path }
    }

    /// `--before b=…`, `--after b=…`, each writing its name and the arm's.
    fn hooks(&self) -> [String; 4] {
        let say = |word: &str| format!("b=echo {word} $TARE_ARM >> {}", self.path.display());
        ["--before".into(), say("before"), "--after".into(), say("after")]
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn hooked(trace: &Trace, flags: &[&str]) -> Job {
    let hooks = trace.hooks();
    let hooks = hooks.each_ref().map(String::as_str);
    let json = ["--format", "json", "--"];
    Job::tare(&[&["compare"], &SAME[..], &hooks, flags, &json, &words(MEASURED)].concat())
}

/// Runs a command as one who reads it in a message would.
#[track_caller]
fn typed(command: &str) {
    let mut shell = program("sh", "-c");
    assert!(shell.arg(command).status().unwrap().success(), "{command}");
}

#[test]
fn they_run_around_each_visit_of_their_arm() {
    let trace = Trace::new();
    let flags = [&BRIEF[..], &["--settle", "1ms", "--record-hooks"]].concat();
    let report = hooked(&trace, &flags).wait().exits(0).report();
    let (lines, visits) = (trace.lines(), visits_to(&report, "b").len());
    // Once more for the trial before the first block.
    assert_eq!(lines.len(), 2 * (visits + 1));
    assert!(visits >= 14);
    for pair in lines.chunks(2) {
        assert_eq!(pair, ["before b", "after b"]);
    }
    let arm = &report["comparison"]["arms"][1];
    assert!(text(arm, "/before").starts_with("echo before"));
    assert!(text(arm, "/after").starts_with("echo after"));
}

#[test]
fn a_before_command_that_fails_is_shown_and_its_after_command_runs() {
    let trace = Trace::new();
    let after = format!("b=echo after >> {}", trace.path.display());
    let before = "b=echo no such knob >&2; exit 3";
    let arms = [&SAME[..], &["--before", before, "--after", &after]].concat();
    compare(&arms, MEASURED).exits(1).complains(&[
        "arm b",
        "--before b",
        "exit code 3",
        "no such knob",
    ]);
    assert_eq!(trace.lines(), ["after"]);
}

#[test]
fn what_they_changed_is_undone_when_the_run_is_interrupted() {
    let trace = Trace::new();
    let flags = ["--blocks", "500", "--block-duration", "50ms"];
    let job = hooked(&trace, &flags);
    eventually("some visits", || trace.lines().len() > 12);
    job.signal(Signal::SIGINT);
    let report = job.wait().exits(130).report();
    assert_eq!(report["partial"], true);
    let lines = trace.lines();
    let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!(count("before"), count("after"), "{lines:?}");
    // What was measured until then is there.
    let done = figure(&report, "/comparison/blocks_done");
    assert!(done >= 1);
    assert!(blocks(&report).len() as u64 - done <= 1);
}

/// Removes what is left in the journal of a trace's hooks, whatever becomes of the test: other runs
/// would name it.
struct Cleared(PathBuf);

impl Drop for Cleared {
    fn drop(&mut self) {
        let own = self.0.to_string_lossy().into_owned();
        for entry in fs::read_dir("/run/tare").into_iter().flatten().flatten() {
            let path = entry.path();
            if fs::read_to_string(&path).is_ok_and(|text| text.contains(&own)) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[test]
fn what_a_killed_run_left_is_named_at_the_next_start() {
    let trace = Trace::new();
    let _cleared = Cleared(trace.path.clone());
    let flags = ["--blocks", "500", "--block-duration", "2s"];
    let job = hooked(&trace, &flags);
    let is_within = || trace.lines().last().is_some_and(|line| line == "before b");
    eventually("a visit to b", || trace.lines().len() > 2 && is_within());
    job.signal(Signal::SIGKILL);
    job.wait();
    assert_eq!(trace.lines().last().map(String::as_str), Some("before b"));
    let mut undo = String::new();
    for format in ["json", "text"] {
        let line = format!("lat loopback -n 50 --wait block --format {format}");
        let ran = run_line(&line).exits(0);
        let mut lines = ran.stderr.lines();
        let (_, said) = lines.find_map(|l| l.split_once("--before b changed; ")).unwrap();
        undo = said.to_owned();
        // The command may hold a secret: the report, which is handed on, says where it stands.
        let path = trace.path.to_str().unwrap();
        assert!(undo.contains(path) && !ran.stdout.contains(path), "{ran:#?}");
        assert!(ran.stdout.contains("--before b changed"), "{ran:#?}");
    }
    typed(&undo);
    assert_eq!(trace.lines().last().map(String::as_str), Some("after b"));
    let ran = lat("loopback", "-n 50 --wait block").exits(0);
    assert!(!ran.stderr.contains("--before b changed"), "{}", ran.stderr);
}

/// Does what the error of a failing `--after b` says, and asserts that nothing is left then.
/// Returns what was typed.
#[track_caller]
fn undoes(ran: &Ran, code: u8) -> String {
    let code = format!("exit code {code}");
    let is_it = |line: &&str| line.contains("--after b=") && line.contains(&code);
    let mut lines = ran.stderr.lines().filter(is_it);
    let line = lines.next().unwrap_or_else(|| panic!("not said: {ran:#?}"));
    assert_eq!(lines.next(), None, "said once");
    let (_, undo) = line.split_once("to undo it: ").unwrap();
    let (_, entry) = undo.rsplit_once("&& rm ").unwrap();
    let entry = PathBuf::from(entry.trim_matches('\''));
    assert!(entry.exists(), "{entry:?}");
    // As after whatever was in its way is mended: the command is not what is tested.
    typed(&format!("true {}", &undo[undo.find("&& rm ").unwrap()..]));
    assert!(!entry.exists(), "{entry:?}");
    undo.to_owned()
}

#[test]
fn an_after_command_that_fails_ends_the_comparison() {
    let arms = [&SAME[..], &["--after", "b=exit 7"]].concat();
    undoes(&compare(&arms, "lat --wait block").exits(1), 7);
}

#[test]
fn nothing_is_measured_on_a_host_that_was_left_half_changed() {
    let trace = Trace::new();
    // The commands fail only in the blocks, both of them: the trial before has left a file.
    let tried = trace.path.with_extension("tried");
    let tried = tried.display();
    let before = format!("b=echo before >> {}; test ! -e {tried}", trace.path.display());
    let after = format!("b=TOKEN=hunter2; test ! -e {tried} || exit 8; touch {tried}");
    let arms = [&SAME[..], &["--before", &before, "--after", &after]].concat();
    let ran = compare(&arms, "lat --wait block").exits(1);
    // Only who typed the command sees it again.
    assert!(undoes(&ran, 8).contains("hunter2"));
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    let report = ran.report();
    assert_eq!(trace.lines(), ["before", "before"]);
    let last = visited(blocks(&report).last().unwrap());
    assert_eq!((blocks(&report).len(), last.last()), (1, Some(&"b")));
    let visit = &blocks(&report)[0]["visits"][last.len() - 1];
    assert!(text(visit, "/error").contains("--before b="), "the report says why: {visit}");
    assert_eq!(report["partial"], true);
}

/// A server that is not there is tried again, and not where the after-command has failed.
#[test]
fn an_arm_is_not_tried_again_on_a_host_that_was_left_changed() {
    let trace = Trace::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = format!("b={}", nobody.local_addr().unwrap());
    drop(nobody);
    let before = format!("b=echo before >> {}", trace.path.display());
    for (after, tries) in [("b=exit 6", 1), ("b=true", 3)] {
        fs::write(&trace.path, "").unwrap();
        let words = ["compare", "a=loopback", &gone, "--before", &before, "--after", after];
        let ran = run(&[&words[..], &["--", "lat", "--wait", "block"]].concat()).exits(1);
        assert_eq!(trace.lines().len(), tries, "{after}: {}", ran.stderr);
        if tries == 1 {
            undoes(&ran, 6);
        } else {
            ran.complains(&["arm b", "refuses connections"]);
        }
    }
}

/// In the trials before the first block, too.
#[test]
fn what_an_interrupted_trial_left_is_named() {
    let trace = Trace::new();
    let before = format!("b=echo under way >> {}; sleep 600", trace.path.display());
    let arms = [&SAME[..], &["--before", &before, "--after", "b=exit 9"]].concat();
    let job = Job::tare(&brief(&arms, "lat --wait block"));
    eventually("the before-command", || !trace.lines().is_empty());
    job.signal(Signal::SIGINT);
    undoes(&job.wait().exits(130), 9);
}

/// `scripts/tune-example` over a knob of a namespace's own, with a `tare` whose comparison is this
/// one.
fn tuned(netns: &Netns, cells: &Value) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let result = directory.path().join("result.json");
    fs::write(&result, json!({"comparison": {"cells": cells}}).to_string()).unwrap();
    let fake = directory.path().join("tare");
    fs::write(&fake, format!("#!/bin/sh\necho \"$@\" >&2\ncat {}\n", result.display())).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = netns.command("bash");
    command.env("TARE", &fake);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/tune-example"));
    command.args(["--apply", "far:7117", "net.ipv4.ip_default_ttl", "65", "66"]);
    Job::start(command).wait().exits(0)
}

#[test]
fn the_tuning_example_keeps_a_knob_that_is_not_shown_to_matter() {
    let Some(netns) = Netns::if_root() else { return };
    netns.sysctl("ipv4/ip_default_ttl", "64");
    let cell = |arm: &str, verdict: &str, low: f64, high: f64| {
        let ratio = json!({"median": (low + high) / 2.0, "interval": [low, high]});
        json!({"arm": arm, "measure": "p50", "verdict": verdict, "ratio": ratio})
    };
    let none = "no difference shown";
    // What is lower by chance, and what is lower by too little, is not taken; nor is the baseline's
    // own repetition.
    let by_chance = [
        cell("v0", none, 0.90, 1.01),
        cell("v1", "faster", 0.96, 0.985),
        cell("a/a", "faster", 0.5, 0.6),
    ];
    let ran = tuned(&netns, &json!(by_chance));
    assert_eq!(ran.stdout, "64\n");
    let set = |arm: &str, value: u32| format!("{arm}=sysctl -qw net.ipv4.ip_default_ttl={value}");
    let hooks = [
        format!("--before {}", set("now", 64)),
        format!("--before {} --after {}", set("v0", 65), set("v0", 64)),
        format!("--before {} --after {}", set("v1", 66), set("v1", 64)),
    ];
    let said = ["65: no difference shown", "keep net.ipv4.ip_default_ttl=64"].map(str::to_owned);
    for part in hooks.iter().chain(&said) {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let shown = [cell("v0", none, 0.90, 1.01), cell("v1", "faster", 0.90, 0.95)];
    let ran = tuned(&netns, &json!(shown));
    assert_eq!(ran.stdout, "66\n");
    for part in ["66: faster: p50 -7.5 % (-10.0 to -5.0 %)", "sysctl -w net.ipv4.ip_default_ttl=66"]
    {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}
