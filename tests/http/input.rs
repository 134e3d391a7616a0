//! What cannot be meant ends in one line that says what to type, before anything is sent.

use std::time::Duration;

use super::hostile::{FINE, Hostile};
use super::http;
use crate::util::{Ran, run};

/// Said in one line, with nothing on stdout.
#[track_caller]
fn refused(ran: Ran, code: i32, says: &[&str]) {
    let ran = ran.exits(code).complains(says);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    assert!(ran.took < Duration::from_secs(10), "{ran:?}");
}

#[test]
fn urls_that_are_none() {
    for (url, says) in [
        ("http://", "host"),
        ("http://:80/", "host"),
        ("http://localhost:99999/", "port"),
        ("http://localhost:abc/", "port"),
        ("http://[::1/", "["),
        ("ftp://localhost/", "ftp"),
        ("unix:", "path"),
        ("https://localhost/", "https"),
    ] {
        refused(http(url, "-n 1"), 2, &[says]);
    }
    refused(http("http://localhost/a b", "-n 1"), 2, &["/a b", "%20"]);
    refused(http("http://localhost/\r\nX: y", "-n 1"), 2, &[]);
}

#[test]
fn https_is_said_to_be_missing() {
    let ran = http("https://localhost/", "-n 1").exits(2);
    ran.complains(&["https", "http://"]);
}

#[test]
fn hosts_that_nobody_knows() {
    refused(
        http("http://nowhere.invalid/", "-n 1"),
        1,
        &["nowhere.invalid"],
    );
}

#[test]
fn files_that_are_missing() {
    let url = "http://127.0.0.1:9/";
    for flags in ["--body-file /nonexistent/body", "--urls /nonexistent/urls"] {
        let name = flags.split(' ').nth(1).unwrap();
        let flags = format!("-n 1 {flags}");
        let ran = if flags.contains("--urls") {
            let words: Vec<_> = ["http"].into_iter().chain(flags.split(' ')).collect();
            run(&words)
        } else {
            http(url, &flags)
        };
        refused(ran, 2, &[name]);
    }
}

#[test]
fn flags_that_do_not_fit() {
    let server = Hostile::answering(FINE);
    for (flags, says) in [
        ("-R 0", "0"),
        ("-R -5", "-5"),
        ("-R nan", "nan"),
        ("-R inf", "inf"),
        ("-R 1000 --stages 1000:1s", "--stages"),
        ("--stages 1000:", "1000:"),
        ("--stages 0:1s", "0"),
        ("--stages 1000-:1s", "1000-"),
        ("-d 1s --stages 1000:1s", "--duration"),
        ("--late drop", "-R"),
        ("--late never -R 10", "never"),
        ("--arrivals poisson", "-R"),
        ("--arrivals jitter:200% -R 10", "200%"),
        ("--arrivals sometimes -R 10", "sometimes"),
        ("-c 0", "--connections"),
        ("-n 0", "--count must be above zero"),
        ("--pipeline 0", "0"),
        (
            "--requests-per-connection 0",
            "--requests-per-connection must be above zero",
        ),
        ("--expect-status 2yy", "2yy"),
        ("--expect-status 1000", "1000"),
        ("-X GE(T", "GE(T"),
        ("-H NoColon", "NoColon"),
        ("-H :empty", ":empty"),
        ("-H Sp\u{0e4}ce:x", "no name has"),
        ("--body x --body-file /dev/null", "--body"),
        ("--chunked", "--chunked"),
        ("--connection sometimes", "sometimes"),
        ("--bind nowhere", "nowhere"),
        ("--resolve nonsense", "nonsense"),
        ("--connect-to nonsense:", "nonsense"),
        ("--timeout 0", "--timeout must be above zero"),
        ("--udp", "--udp"),
    ] {
        let ran = http(&server.url(), flags).exits(2);
        assert_eq!(ran.stdout, "", "{flags}");
        let said = ran.stderr.contains(says);
        assert!(said, "{flags}: {ran:#?}");
    }
    assert_eq!(server.accepted(), 0, "nothing was sent");
}

/// What would end one header and begin another, or a second request.
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
