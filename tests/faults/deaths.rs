//! A process at either end dies, or is told to end.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{drain, for_each_way, for_each_way_at_once, measuring, partial, stranger};
use crate::util::{Job, Serve, eventually, figure, lat, lat_words, run, tare};

#[test]
fn the_server_dies_in_the_middle() {
    for_each_way_at_once(|way| {
        let flags = &way.flags;
        let mut serve = Serve::start("");
        let client = way.measuring(&serve, "--timeout 1s");
        let died = Instant::now();
        serve.job.signal(Signal::SIGKILL);
        let ran = client.wait().exits(1);
        assert!(died.elapsed() < Duration::from_secs(5), "{flags}: {:?}", died.elapsed());
        eventually("it has ended", || !serve.job.is_running());
        let report = partial(&ran);
        let result = &report["results"][0];
        assert!(figure(result, "/operations/failed") <= 1, "{flags}");
        assert_eq!(report["environment"]["servers"].as_array().unwrap().len(), 1);
        ran.complains(&[serve.address(), "the server has died or was ended", "start it again"]);
        // What it is told to do helps: the port is free at once.
        let again = Serve::start(&format!("--listen {}", serve.address()));
        again.serves();
        again.stops();
    });
}

#[test]
fn the_server_is_ended_in_the_middle() {
    for_each_way(|way| {
        let serve = Serve::start("");
        let client = way.measuring(&serve, "--timeout 1s");
        let address = serve.address().to_owned();
        serve.stops();
        let ran = client.wait().exits(1);
        partial(&ran);
        ran.complains(&[&address, "ended the session: the server was told to stop"]);
    });
}

#[test]
fn the_client_dies_in_the_middle() {
    for_each_way_at_once(|way| {
        let flags = &way.flags;
        // Over UDP nobody tells the server; its place is free when it has been idle for long
        // enough.
        let serve = Serve::start("--max-sessions 1 --idle-timeout 1s");
        let client = way.measuring(&serve, "");
        client.signal(Signal::SIGKILL);
        let died = Instant::now();
        assert_eq!(client.wait().signal, Some(Signal::SIGKILL as i32));
        let words = format!("-n 5 --warmup 0 --wait block {flags}");
        eventually("the next client is served", || {
            let ran = lat(serve.address(), &words);
            assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
            ran.code == Some(0)
        });
        let patience = if way.proto == "tcp" { 2 } else { 5 };
        assert!(died.elapsed() < Duration::from_secs(patience), "{flags}: {:?}", died.elapsed());
        eventually("its last session is over", || lat(serve.address(), &words).code == Some(0));
        serve.stops();
    });
}

#[test]
fn an_interrupted_client_prints_what_it_has() {
    for_each_way_at_once(|way| {
        let flags = &way.flags;
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let serve = Serve::start("");
            let client = way.measuring(&serve, "-c 3 --threads 2");
            client.signal(signal);
            let asked = Instant::now();
            let ran = client.wait().exits(130);
            assert!(asked.elapsed() < Duration::from_secs(3), "{flags}: {:?}", asked.elapsed());
            let report = partial(&ran);
            let result = &report["results"][0];
            assert!(figure(result, "/duration_ns") < 40_000_000_000);
            assert_eq!(result["operations"]["failed"], 0);
            assert_eq!(result["errors"], serde_json::json!([]), "{flags}");
            // It took its leave: the server's figures are there.
            assert!(result["instrument"]["server"].is_object(), "{flags}: {result:#}");
            serve.serves();
            serve.stops();
        }
    });
}

#[test]
fn a_client_is_interrupted_before_it_measures() {
    let flags = "-d 20s --timeout 20s";
    let address = stranger(drain);
    let client = Job::lat(&address, flags);
    // It has got as far as waiting for an answer when the stranger's end of the connection is
    // there.
    let port = address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let local = format!("0100007F:{port:04X}");
    eventually("it is connected", || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (from, _, state) = (words.next(), words.next(), words.next());
            from == Some(local.as_str()) && state == Some("01")
        })
    });
    client.signal(Signal::SIGINT);
    let ran = client.wait().exits(130);
    assert!(ran.took < Duration::from_secs(10), "{ran:?}");
    assert_eq!(ran.report()["partial"], true);
}

#[test]
fn a_server_ends_when_asked_whatever_is_connected() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let serve = Serve::start("");
        let _silent = TcpStream::connect(serve.address()).unwrap();
        let client = measuring(&serve, "-c 2");
        serve.job.signal(signal);
        let ran = serve.job.wait().exits(0);
        assert!(ran.stdout.starts_with("tare: serving on ") && ran.stdout.lines().count() == 1);
        client.wait().exits(1);
    }
}

#[test]
fn output_that_cannot_be_written() {
    // Not even root makes files there.
    let ran = run(&["lat", "-n", "5", "-o", "/sys/tare.json"]).exits(2);
    assert_eq!(ran.stdout, "");
    ran.complains(&["--output /sys/tare.json cannot be written", "name a file in a directory"]);

    // What becomes impossible later costs the file alone.
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("a.json");
    let serve = Serve::start("");
    let client = measuring(&serve, &format!("-o {}", file.display()));
    fs::remove_dir_all(&inner).unwrap();
    client.signal(Signal::SIGINT);
    let ran = client.wait().exits(130);
    partial(&ran);
    ran.complains(&["a.json cannot be written"]);

    let full =
        fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_CLOEXEC).open("/dev/full");
    let output =
        tare().args(lat_words(serve.address(), "-n 5 --wait block")).stdout(full.unwrap()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout cannot be written"));
}
