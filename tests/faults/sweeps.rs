//! The server changes under a sweep.

use std::fs;
use std::io::{Read, pipe};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Way, for_each_way_at_once};
use crate::util::{Job, Ran, Serve, eventually, figure, report, tare, test_words, text};

/// A sweep of three steps that streams its results into a pipe with no room for the first of them:
/// it stands between two steps until the pipe is read. Its server is killed then, and perhaps
/// started again. Gives the server, how the sweep ended, and the report in its file.
fn killed_between_steps(way: &Way, again: bool) -> (Serve, Ran, Value) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sweep.json");
    let mut serve = Serve::start("");
    let (mut results, stdout) = pipe().unwrap();
    // Rounded up to a page.
    fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(1)).unwrap();
    // Each result takes more than fits.
    let label = "x".repeat(if way.test == "bw" { 199 } else { 1 });
    let streams = match (way.test, way.proto) {
        ("bw", "tcp") => "-P 48",
        ("bw", _) => "-P 4",
        _ => "",
    };
    let flags = format!(
        "--label {label} {streams} --size 64,128,256 -n 2000 --interval 20s --wait block --warmup 0 --timeout 1s --format jsonl -o {} {}",
        file.display(),
        way.all_flags()
    );
    let mut command = tare();
    let address = serve.address().to_owned();
    command.args(test_words(way.test, &address, &flags));
    let client = Job::start_into(command, stdout);
    // The step is over when its line begins; that of its only interval comes before it has its
    // server's figures.
    let mut read = Vec::new();
    while !read.ends_with(br#"{"type":"result""#) {
        let mut byte = [0];
        results.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
    serve.job.signal(Signal::SIGKILL);
    eventually("it has ended", || !serve.job.is_running());
    if again {
        serve = Serve::start(&format!("--listen {address}"));
    }
    let mut lines = String::new();
    results.read_to_string(&mut lines).unwrap();
    assert!(!again || lines.len() > 4096, "the client never stood still: {lines}");
    let ran = client.wait();
    (serve, ran, report(&fs::read_to_string(&file).unwrap()))
}

#[test]
fn a_server_that_is_restarted_between_steps_is_measured_on() {
    for_each_way_at_once(|way| {
        let (serve, ran, report) = killed_between_steps(way, true);
        ran.exits(0);
        assert_eq!(report["partial"], false);
        let steps = report["results"].as_array().unwrap();
        assert_eq!(steps.len(), 3);
        let instances: Vec<_> = steps.iter().map(|step| &step["instances"]).collect();
        assert_ne!(instances[0], instances[1]);
        assert_eq!(instances[1], instances[2]);
        for step in steps {
            assert_eq!(figure(step, "/operations/completed"), 2000, "{}", way.all_flags());
            assert_eq!(step["errors"], json!([]), "{}: {step:#}", way.all_flags());
        }
        let servers = report["environment"]["servers"].as_array().unwrap();
        let names: Vec<_> = servers.iter().map(|s| json!([s["instance"]])).collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), instances[..2]);
        serve.serves();
        serve.stops();
    });
}

#[test]
fn a_server_that_is_gone_between_steps_ends_the_sweep_with_what_it_had() {
    for_each_way_at_once(|way| {
        let (serve, ran, report) = killed_between_steps(way, false);
        let start = format!("start `tare serve --listen {}` there", serve.address());
        ran.exits(1).complains(&[serve.address(), &start]);
        assert_eq!(report["partial"], true);
        let [whole, failed] = &report["results"].as_array().unwrap()[..] else {
            panic!("{report:#}");
        };
        assert_eq!(whole["partial"], false);
        assert_eq!(figure(whole, "/operations/completed"), 2000);
        assert_eq!(figure(failed, "/operations/completed"), 0);
        assert_eq!(text(failed, "/errors/0/cause"), "ECONNREFUSED");
    });
}

#[test]
fn a_sweep_keeps_what_it_had_when_the_server_dies() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sweep.json");
    let serve = Serve::start("");
    let flags = format!(
        "-d 300ms --size 1:1K:*2 --wait block --timeout 1s --warmup 0 -o {}",
        file.display()
    );
    let client = Job::lat(serve.address(), &flags);
    eventually("a step is in the file", || {
        fs::read_to_string(&file).is_ok_and(|text| !text.is_empty())
    });
    serve.job.signal(Signal::SIGKILL);
    let ran = client.wait().exits(1);
    let on_disk = report(&fs::read_to_string(&file).unwrap());
    assert_eq!(ran.report(), on_disk);
    assert_eq!(on_disk["partial"], true);
    let steps = on_disk["results"].as_array().unwrap();
    assert!((1..11).contains(&steps.len()), "{}", steps.len());
    assert_eq!(steps[0]["partial"], false, "the first was whole");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no scratch file is left");
}
