//! The command line as scripts see it: streams, exit codes, one clear line for a mistake.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::util::{run, tare};

#[test]
fn version_and_help_go_to_stdout() {
    let version = run(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout, format!("tare {}\n", env!("CARGO_PKG_VERSION")));
    for words in
        [&["--help"][..], &["lat", "--help"], &["bw", "--help"], &["bw", "-h"], &["serve", "-h"]]
    {
        let help = run(words);
        assert_eq!(help.code, Some(0), "{words:?}");
        assert!(help.stdout.contains("Examples:"), "{words:?}");
        assert_eq!(help.stderr, "", "{words:?}");
    }
}

#[test]
fn no_command_is_answered_with_the_help() {
    let ran = run(&[]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("Usage: tare"));
}

#[test]
fn mistakes_are_one_line_and_exit_code_2() {
    for (words, says) in [
        (&["lta"][..], "lta"),
        (&["lat", "--sise", "64"], "'--size'"),
        (&["lat", "--size", "1:64:*1"], "never ends"),
        (&["lat", "--udp", "--size", "8"], "header of 16 bytes"),
        (&["lat", "--udp", "--connect-each"], "--connect-each"),
        (&["lat", "--duration", "5"], "no unit"),
        (&["lat", "http://node"], "URL"),
        (&["lat", "--cpus", "5-2"], "backwards"),
        (&["lat", "--rate", "0"], "rate"),
        (&["lat", "--format", "yaml"], "markdown"),
        (&["lat", "-o", "a.xml"], ".json .jsonl .csv .md .txt or .html"),
        (
            &["lat", "-o", "/nonexistent/a.json"],
            "--output /nonexistent/a.json: there is no directory /nonexistent; create it (mkdir -p /nonexistent)",
        ),
        (&["http", "http://::1:9/"], "write http://[::1]:9/"),
        (&["lat", "--secret-file", "/nonexistent/secret"], "secret file"),
        (&["bw", "--udp", "--size", "8"], "header of 16 bytes"),
        (&["bw", "--udp", "--size", "64K"], "the largest datagram"),
        (&["bw", "--udp", "--nodelay"], "--nodelay is for TCP"),
        (&["bw", "--udp", "--connect-each"], "'--connect-each'"),
        (&["bw", "--bytes", "1G", "-d", "5s"], "--duration"),
        (&["bw", "--bytes", "1G", "--rate", "0"], "above zero"),
        (&["bw", "--bytes", "1M", "-P", "16"], "each of 16 streams"),
        (&["bw", "--dscp", "64"], "0 to 63, CS0 to CS7"),
        (&["bw", "--direction", "left"], "up, down, both"),
        (&["bw", "--reverse", "--bidir"], "--bidir"),
        (&["bw", "--bind", "eth0"], "no IP address"),
        (&["bw", "--zerocopy", "on", "--backend", "epoll"], "io_uring"),
        (&["bw", "--assert", "bandwidth>fast"], "bandwidth>10Gbit"),
        (&["bw", "--assert", "p99<1s"], "no latency"),
        (&["lat", "--assert", "size=9:p99<1s"], "leave `size=9` out"),
        (&["http", "node", "--assert", "stage=2:p99<1s"], "no step of this run has stage=2"),
        (&["lat", "--under-load", "-d 5s"], "'-d'"),
        (&["lat", "--under-load", "-P 1,8"], "a list"),
        (&["http", "https://node/"], "not built yet"),
        (&["http", "-h2", "node"], "HTTP/2 is not built"),
        (&["http", "node", "-L"], "leave it out"),
        (&["http", "node/a b"], "write it as %20"),
        (&["http", "node", "-R", "0"], "rate"),
        (&["http", "node", "--late", "drop"], "-R or --stages"),
        (&["http", "node", "--body-file", "/nonexistent/body"], "cannot be read"),
        (&["http", "a/", "b/"], "one host and port"),
        (&["http", "-c", "200000", "node"], "--bind"),
        (&["bw", "-o", "a.hgrm"], "bw measures none"),
        (&["serve", "--listen", "nowhere"], "no IP address"),
        (&["serve", "--max-sessions", "0"], "--max-sessions"),
        (&["doctor", "veth"], "leave the target out"),
        (&["doctor", "--cpus", "1000"], "CPU 1000 does not exist"),
        (&["doctor", "--look", "1ms"], "10 ms to 60 s"),
        (&["doctor", "--format", "csv"], "text, json, markdown"),
        (&["completions", "fsh"], "'fish'"),
    ] {
        let ran = run(words);
        assert_eq!(ran.code, Some(2), "{words:?}");
        assert_eq!(ran.stdout, "", "{words:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.starts_with("tare: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{words:?}: {}", ran.stderr);
    }
}

#[test]
fn a_readable_secret_is_refused_and_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, "hunter2\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let path = path.to_str().unwrap();
    // The size ends the command before it would measure.
    let words = ["lat", "--udp", "--size", "8", "--secret-file", path];
    let ran = run(&words);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("chmod 600"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("hunter2") && !ran.stderr.contains("--size"));
    let served = run(&["serve", "--listen", "127.0.0.1:0", "--secret-file", path]);
    assert_eq!(served.code, Some(2));
    assert!(served.stderr.contains("chmod 600"), "{}", served.stderr);

    // Told otherwise, it goes on with a warning.
    let words = [&words[..], &["--insecure-secret-file"]].concat();
    let ran = run(&words);
    assert!(ran.stderr.contains("warning: the secret file") && ran.stderr.contains("--size"));
    assert!(!ran.stderr.contains("hunter2"));
    let quiet = run(&[&words[..], &["--quiet"]].concat());
    assert_eq!(quiet.stderr.lines().count(), 1, "{}", quiet.stderr);

    fs::write(path, "\n").unwrap();
    assert!(run(&words).stderr.contains("is empty"));
}

#[test]
fn completions_and_manual_come_from_the_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell]);
        assert_eq!(ran.code, Some(0));
        for flag in ["connect-each", "under-load", "congestion"] {
            assert!(ran.stdout.contains(flag), "{shell}: {flag}");
        }
    }
    let all = run(&["man"]);
    assert_eq!(all.code, Some(0));
    for flag in ["\\-\\-server\\-delay", "\\-\\-under\\-load", "\\-\\-zerocopy"] {
        assert!(all.stdout.contains(flag), "{flag}");
    }

    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let ran = run(&["man", "--dir", pages.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    let mut names: Vec<_> = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "tare-bw.1",
            "tare-compare.1",
            "tare-completions.1",
            "tare-doctor.1",
            "tare-http.1",
            "tare-lat.1",
            "tare-man.1",
            "tare-report.1",
            "tare-serve.1",
            "tare.1"
        ]
    );
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    for words in [&["man"][..], &["lat", "--help"], &["completions", "zsh"]] {
        let mut child =
            tare().args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        let mut pipe = child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{words:?}: {stderr}");
        assert_eq!(stderr, "", "{words:?}");
    }
}

#[test]
fn a_full_disk_is_told() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tare().arg("man").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("stdout cannot be written"), "{stderr}");
}
