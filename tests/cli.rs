//! The command line as scripts see it: streams, exit codes, one clear line for a mistake.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::util::{run, run_line, tare, words};

#[test]
fn version_and_help_go_to_stdout() {
    let version = run(&["--version"]).exits(0);
    assert_eq!(version.stdout, format!("tare {}\n", env!("CARGO_PKG_VERSION")));
    for line in ["--help", "lat --help", "bw --help", "bw -h", "serve -h"] {
        let help = run_line(line).exits(0);
        assert!(help.stdout.contains("Examples:"), "{line}");
        assert_eq!(help.stderr, "", "{line}");
    }
    // Without a command it comes as the answer to a mistake.
    let ran = run(&[]).exits(2);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("Usage: tare"));
}

#[test]
fn mistakes_are_one_line_and_exit_code_2() {
    // A tilde is a space within a word.
    for (line, says) in [
        ("lta", "lta"),
        ("lat --sise 64", "'--size'"),
        ("lat --size 1:64:*1", "never ends"),
        ("lat --udp --size 8", "header of 16 bytes"),
        ("lat --udp --connect-each", "--connect-each"),
        ("lat --duration 5", "no unit"),
        ("lat http://node", "URL"),
        ("lat --cpus 5-2", "backwards"),
        ("lat --rate 0", "rate"),
        ("lat --format yaml", "markdown"),
        ("lat -o a.xml", ".json .jsonl .csv .md .txt or .html"),
        (
            "lat -o /nonexistent/a.json",
            "--output /nonexistent/a.json: there is no directory /nonexistent; create it (mkdir -p /nonexistent)",
        ),
        ("http http://::1:9/", "write http://[::1]:9/"),
        ("lat --secret-file /nonexistent/secret", "secret file"),
        ("bw --udp --size 8", "header of 16 bytes"),
        ("bw --udp --size 64K", "the largest datagram"),
        ("bw --udp --nodelay", "--nodelay is for TCP"),
        ("bw --udp --connect-each", "'--connect-each'"),
        ("bw --bytes 1G -d 5s", "--duration"),
        ("bw --bytes 1G --rate 0", "above zero"),
        ("bw --bytes 1M -P 16", "each of 16 streams"),
        ("bw --dscp 64", "0 to 63, CS0 to CS7"),
        ("bw --direction left", "up, down, both"),
        ("bw --reverse --bidir", "--bidir"),
        ("bw --bind eth0", "no IP address"),
        ("bw --zerocopy on --backend epoll", "io_uring"),
        ("bw --assert bandwidth>fast", "bandwidth>10Gbit"),
        ("bw --assert p99<1s", "no latency"),
        ("lat --assert size=9:p99<1s", "leave `size=9` out"),
        ("http node --assert stage=2:p99<1s", "no step of this run has stage=2"),
        ("lat --under-load -d~5s", "'-d'"),
        ("lat --under-load -P~1,8", "a list"),
        ("http https://node/", "not built yet"),
        ("http -h2 node", "HTTP/2 is not built"),
        ("http node -L", "leave it out"),
        ("http node/a~b", "write it as %20"),
        ("http node -R 0", "rate"),
        ("http node --late drop", "-R or --stages"),
        ("http node --body-file /nonexistent/body", "cannot be read"),
        ("http a/ b/", "one host and port"),
        ("http -c 200000 node", "--bind"),
        ("bw -o a.hgrm", "bw measures none"),
        ("serve --listen nowhere", "no IP address"),
        ("serve --max-sessions 0", "--max-sessions"),
        ("doctor veth", "leave the target out"),
        ("doctor --cpus 1000", "CPU 1000 does not exist"),
        ("doctor --look 1ms", "10 ms to 60 s"),
        ("doctor --format csv", "text, json, markdown"),
        ("completions fsh", "'fish'"),
    ] {
        let words: Vec<String> = line.split(' ').map(|word| word.replace('~', " ")).collect();
        let ran = run(&words.iter().map(String::as_str).collect::<Vec<_>>()).exits(2);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
        assert!(ran.stderr.starts_with("tare: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{line}: {}", ran.stderr);
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
    let ran = run(&words).exits(2);
    assert!(ran.stderr.contains("chmod 600"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("hunter2") && !ran.stderr.contains("--size"));
    let served = run(&["serve", "--listen", "127.0.0.1:0", "--secret-file", path]).exits(2);
    assert!(served.stderr.contains("chmod 600"), "{}", served.stderr);

    // Where that is allowed, it goes on with a warning.
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
        let ran = run(&["completions", shell]).exits(0);
        for flag in ["connect-each", "under-load", "congestion"] {
            assert!(ran.stdout.contains(flag), "{shell}: {flag}");
        }
    }
    let all = run(&["man"]).exits(0);
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
    let commands = words("bw compare completions doctor http lat man report serve");
    let expected = commands.iter().map(|command| format!("tare-{command}.1"));
    assert!(names.iter().cloned().eq(expected.chain(["tare.1".to_owned()])), "{names:?}");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    for line in ["man", "lat --help", "completions zsh"] {
        let mut child =
            tare().args(words(line)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        let mut pipe = child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{line}: {stderr}");
        assert_eq!(stderr, "", "{line}");
    }
}

#[test]
fn a_full_disk_is_reported() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tare().arg("man").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("stdout cannot be written"), "{stderr}");
}
