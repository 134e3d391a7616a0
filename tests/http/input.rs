//! What cannot be meant ends in one line that says what to type, before anything is sent.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::hostile::{FINE, Hostile};
use super::{http, words};
use crate::util::{Job, Ran, run, tare};

/// Said in one line, with what to do, and with nothing on stdout.
#[track_caller]
fn refused(ran: Ran, code: i32, says: &[&str]) {
    let ran = ran.exits(code).complains(says);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    let advice = ran.stderr.split_once("; ").map_or("", |(_, advice)| advice);
    let verbs = ["write ", "give ", "leave ", "keep ", "see ", "check ", "name ", "measure "];
    assert!(verbs.iter().any(|verb| advice.contains(verb)), "{ran:#?}");
    assert!(ran.took < Duration::from_secs(10), "{ran:?}");
}

#[test]
fn urls_that_are_none() {
    for (url, says) in [
        ("http://", "names no host"),
        ("http://:80/", "names no host"),
        ("http://localhost:99999/", "1 to 65535"),
        ("http://localhost:abc/", "1 to 65535"),
        ("http://[::1/", "bracket is not closed"),
        ("http://::1:9/", "write http://[::1]:9/"),
        ("ftp://localhost/", "is no protocol that tare speaks"),
        ("unix:", "path of a socket"),
        ("https://localhost/", "not built yet"),
    ] {
        refused(http(url, "-n 1"), 2, &[says]);
    }
    http("https://localhost/", "-n 1").exits(2).complains(&["https", "http://"]);
    refused(http("http://localhost/a b", "-n 1"), 2, &["/a b", "%20"]);
    refused(http("http://localhost/\r\nX: y", "-n 1"), 2, &[]);
}

#[test]
fn hosts_that_nobody_knows_and_files_that_are_missing() {
    refused(http("http://nowhere.invalid/", "-n 1"), 1, &["nowhere.invalid"]);
    let body = http("http://127.0.0.1:9/", "-n 1 --body-file /nonexistent/body");
    refused(body, 2, &["/nonexistent/body"]);
    let urls = run(&["http", "-n", "1", "--urls", "/nonexistent/urls"]);
    refused(urls, 2, &["/nonexistent/urls"]);
}

#[test]
fn flags_that_do_not_fit() {
    let server = Hostile::answering(FINE);
    let rate = "write it as 1000, 2.5, 10k or 60/m";
    let header = "write it as 'Name: value'";
    for (flags, says) in [
        ("-R 0", rate),
        ("-R -5", rate),
        ("-R nan", rate),
        ("-R inf", rate),
        ("-R 1000 --stages 1000:1s", "keep one of the two"),
        ("--stages 1000:", "write it as 500us, 10ms, 2s or 5m"),
        ("--stages 0:1s", rate),
        ("--stages 1000-:1s", "write stages as 1000:10s"),
        ("-d 1s --stages 1000:1s", "--duration says nothing"),
        ("-d 1s -n 1", "keep one of the two"),
        ("--late drop", "give a rate with -R"),
        ("--late never -R 10", "write one of queue, drop"),
        ("--arrivals poisson", "give a rate with -R"),
        ("--arrivals jitter:200% -R 10", "would overtake each other"),
        ("--arrivals sometimes -R 10", "write constant, poisson or"),
        ("-c 0", "write 1 to 200000"),
        ("-n 0", "must be above zero; write 1 or more"),
        ("--pipeline 0", "0 is out of range; write 1 to 1024"),
        ("--requests-per-connection 0", "must be above zero; write 1 or more"),
        ("--expect-status 2yy", "write them as 200, 2xx"),
        ("--expect-status 1000", "write them as 200, 2xx"),
        ("-X GE(T", "write GET, POST"),
        ("-H NoColon", header),
        ("-H :empty", header),
        ("-H Sp\u{0e4}ce:x", header),
        ("-H Content-Length:5", "tare writes that header itself"),
        ("--body x --body-file /dev/null", "keep one of the two"),
        ("--body @x", "write --body-file x"),
        ("--chunked", "give one with --body"),
        ("--connection sometimes", "write one of keep-alive, close"),
        ("--bind nowhere", "no IP address; write one of this machine's"),
        ("--resolve nonsense", "write HOST:PORT:ADDRESS"),
        ("--resolve shop:1:127.0.0.1", "is for shop:1, and the URL"),
        ("--connect-to nonsense:", "write HOST:PORT"),
        ("--timeout 0", "must be above zero; write it as 2s"),
        ("--connect-timeout 0", "must be above zero; write it as 2s"),
        ("--assert stage=2:p99<1s", "leave `stage=2` out"),
        ("--assert bandwidth>1G", "measures no bandwidth"),
        ("-L", "leave it out"),
        ("--udp", "see --help"),
    ] {
        refused(http(&server.url(), flags), 2, &[says]);
    }
    assert_eq!(server.accepted(), 0, "nothing was sent");
}

#[test]
fn urls_are_read_from_stdin() {
    let server = Hostile::answering(FINE);
    let mut command = Command::new("sh");
    let lines = "printf '# two\\n/a\\n3 /b\\n'";
    command.args(["-c", &format!("{lines} | \"$0\" \"$@\"")]);
    command.arg(tare().get_program());
    command.args(words(&server.url(), "-n 8 --urls -"));
    let report = Job::start(command).wait().exits(0).report();
    let asked = report["plan"]["requests"].as_array().unwrap().iter();
    let asked = asked.map(|request| (&request["path"], &request["weight"]));
    assert_eq!(asked.collect::<Vec<_>>(), [(&json!("/a"), &json!(1)), (&json!("/b"), &json!(3))]);
    assert_eq!(report["results"][0]["params"]["requests"], 2);
    assert_eq!(report["results"][0]["operations"]["completed"], 8);
}

#[test]
fn headers_cannot_be_smuggled() {
    let server = Hostile::answering(FINE);
    let url = server.url();
    for words in [
        ["-H", "X: a\r\nY: b"],
        ["-H", "X: a\nY: b"],
        ["-H", "X: a\rY: b"],
        ["-H", "X: a\x01b"],
        ["-H", "X y: a"],
        ["-H", "X\r\n: a"],
        ["-X", "GET / HTTP/1.1\r\nX:"],
        ["-X", "GET\n"],
        ["-X", "GET "],
        ["-X", ""],
        ["--host", "a\r\nX: y"],
    ] {
        let ran = run(&["http", &url, "-n", "1", words[0], words[1]]).exits(2);
        assert_eq!(ran.stdout, "", "{words:?}");
        assert!(ran.stderr.starts_with("tare: "), "{words:?}: {ran:#?}");
        assert!(ran.stderr.lines().count() <= 2, "{words:?}: {ran:#?}");
        assert!(!ran.stderr.contains(['\r', '\0']), "{words:?}: {ran:#?}");
    }
    assert_eq!(server.accepted(), 0, "nothing was sent");
}
