//! Answers that are none: each is an error of its own kind, and nothing of the rest is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::hostile::{FINE, Hostile, Talk};
use super::{
    all_went_well, code, errors, for_each_backend, for_each_backend_at_once, http, measured,
    operations, result, sockets_used,
};
use crate::util::figure;

/// Every answer is bad: six requests fail, each with this cause in this phase; stderr says this of
/// the server.
#[track_caller]
fn all_fail(server: &Hostile, phase: &str, cause: &str, says: &str) {
    for_each_backend(|backend| {
        let ran = http(&server.url(), &format!("-n 6 -c 2 {backend}")).exits(1);
        let ran = ran.complains(&[&server.address, says]);
        assert!(ran.took < Duration::from_secs(10), "{ran:?}");
        let controls = ran.stderr.contains(|c: char| c.is_control() && c != '\n');
        assert!(!controls, "what it sent cannot spoil a terminal: {ran:?}");
        let result = result(&ran);
        assert_eq!(operations(&result, "failed"), 6, "{cause}: {result:#}");
        assert_eq!(errors(&result, phase, cause), 6, "{cause}: {result:#}");
        assert_eq!(result["rate"]["achieved_per_s"], 0.0);
        assert!(sockets_used(&result) >= 6, "{cause}: {result:#}");
    });
}

#[test]
fn answers_that_are_cut() {
    let short = "closed a connection before the body was as long as promised";
    for (answer, cause, says) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "short-body", short),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "short-body", short),
        ("", "early-close", "closed a connection before it answered"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "cut-head", "closed a connection amid the head"),
    ] {
        all_fail(&Hostile::answering_once(answer), "receive", cause, says);
    }
    let server = Hostile::start(|mut talk| {
        talk.hears_a_request();
        talk.resets();
    });
    all_fail(&server, "receive", "ECONNRESET", "reset a connection");
}

#[test]
fn what_is_no_http() {
    let says = "sent what is no HTTP/1.1 response";
    let ok = "HTTP/1.1 200 OK\r\n";
    for (answer, cause) in [
        (b"\xff\x00 gibberish \x07\x1b[31m\r\n\r\n".to_vec(), "malformed"),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "malformed"),
        (b"HTTP/2 200\r\n\r\n".to_vec(), "malformed"),
        (b"tare\x01\x05\x00\x02{}".to_vec(), "malformed"),
        (format!("{ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nok").into(), "bad-framing"),
        (format!("{ok}Content-Length: -2\r\n\r\nok").into(), "bad-framing"),
        (format!("{ok}Content-Length: 99999999999999999999999\r\n\r\nok").into(), "bad-framing"),
        (
            format!("{ok}Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n").into(),
            "bad-chunk",
        ),
    ] {
        all_fail(&Hostile::answering(answer), "parse", cause, says);
    }
}

#[test]
fn a_head_beyond_the_limits() {
    let says = "sent a response head beyond the limits";
    let long =
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(1 << 20));
    all_fail(&Hostile::answering(long), "parse", "head-too-long", says);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000));
    all_fail(&Hostile::answering(many), "parse", "too-many-headers", says);
    let endless = Hostile::start(|mut talk| {
        talk.hears_a_request();
        talk.says(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..100_000 {
            talk.says(b"X-Endless: yes\r\n");
        }
    });
    for_each_backend(|backend| {
        let ran = http(&endless.url(), &format!("-n 4 -c 2 {backend}")).exits(1);
        let result = result(&ran.complains(&[says]));
        assert_eq!(operations(&result, "failed"), 4, "{result:#}");
    });
}

#[test]
fn a_body_longer_than_promised() {
    let server = Hostile::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay, and more");
    for_each_backend(|backend| {
        let ran = http(&server.url(), &format!("-n 6 -c 2 {backend}")).exits(0);
        let result = result(&ran);
        // Each was answered in full before that; the connection is of no use after it.
        let reported = errors(&result, "parse", "long-body");
        assert_eq!(reported, 6, "{result:#}");
        assert_eq!(operations(&result, "completed"), 6, "{result:#}");
        assert!(sockets_used(&result) >= 6, "{result:#}");
    });
}

#[test]
fn bytes_that_nobody_asked_for() {
    let server = Hostile::start(|mut talk| {
        while talk.hears_a_request() {
            talk.says(FINE);
            talk.pauses(Duration::from_millis(10));
            talk.says(b"by the way");
        }
    });
    for_each_backend_at_once(|backend| {
        // Four a second for each connection: far apart enough for the bytes to come in between.
        let ran = http(&server.url(), &format!("-n 12 -R 16 -c 4 {backend}")).exits(0);
        let result = result(&ran);
        let completed = operations(&result, "completed");
        assert!(completed >= 8, "{result:#}");
        assert!(errors(&result, "parse", "unsolicited") >= 8, "{result:#}");
        assert!(sockets_used(&result) > 8, "{result:#}");
    });
}

#[test]
fn interim_responses_are_no_answers() {
    let server = Hostile::answering(
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", FINE]
            .concat(),
    );
    for_each_backend(|backend| {
        let result = measured(&server.url(), &["-n 100 -c 2", backend]);
        all_went_well(&result, 100);
        assert_eq!(code(&result, "200"), 100, "{result:#}");
        assert_eq!(sockets_used(&result), 2);
    });
}

#[test]
fn answers_that_drip_are_answers() {
    let server = Hostile::start(|mut talk| {
        while talk.hears_a_request() {
            for byte in FINE {
                talk.says(&[*byte]);
                std::thread::yield_now();
            }
        }
    });
    for_each_backend(|backend| {
        let result = measured(&server.url(), &["-n 20 -c 2", backend]);
        all_went_well(&result, 20);
    });
}

#[test]
fn good_answers_among_bad_ones_count() {
    let requests = Arc::new(AtomicU64::new(0));
    let server = Hostile::start(move |mut talk: Talk| {
        while talk.hears_a_request() {
            if requests.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                return talk.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut");
            }
            talk.says(FINE);
        }
    });
    for_each_backend(|backend| {
        let result = measured(&server.url(), &["-n 30 -c 1", backend]);
        assert_eq!(operations(&result, "completed"), 20, "{result:#}");
        assert_eq!(errors(&result, "receive", "short-body"), 10, "{result:#}");
        assert_eq!(figure(&result, "/latency/service/count"), 20);
        let used = sockets_used(&result);
        assert!((10..=11).contains(&used), "{result:#}");
    });
}
