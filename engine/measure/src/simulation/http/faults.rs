//! A server that misbehaves.

use super::scripted::{Do, OK, What, each, ok, say};
use super::*;

/// The second request of each connection is answered like this: amid six requests of one connection
/// after the other, which may not be sent again.
fn second(acts: Vec<Do>) -> Results<Scripted> {
    let plan = Plan { requests: vec![post("/")], ..Plan::counted(6) };
    plan.scripted(move |event| match (event.what, event.nth) {
        (What::Request, 1) => acts.clone(),
        _ => ok(event),
    })
}

#[test]
fn what_is_no_whole_response_fails_and_is_named() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (text, phase, cause) in [
        (String::new(), "receive", "early-close"),
        (format!("{HEAD}Conte"), "receive", "cut-head"),
        (format!("{HEAD}Content-Length: 10\r\n\r\nshort"), "receive", "short-body"),
        (format!("{CHUNKED}5\r\nab"), "receive", "short-body"),
        ("SMTP ready\r\n\r\n".to_owned(), "parse", "malformed"),
        (format!("{CHUNKED}zz\r\n"), "parse", "bad-chunk"),
        (format!("{HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"), "parse", "bad-framing"),
        ("HTTP/1.1 101 Up\r\n\r\n".to_owned(), "parse", "upgraded"),
    ] {
        let results = second(vec![say(&text), Do::Close]);
        assert_eq!((results.operations().sent, results.ends()), (6, (3, 3)), "{cause}");
        assert_eq!(results.errors(phase, cause), 3, "{cause}: {:?}", results.tally.record.measured);
        assert_eq!(results.error_kinds(), 1, "{cause}");
        assert_eq!(results.tally.codes.responses(), 3, "{cause}");
        results.assert_all(Metric::Service, 3, ROUND_TRIP);
        assert!((3..=4).contains(&results.server.accepted.len()), "{cause}");
        results.assert_failure(cause);
    }
}

#[test]
fn a_body_longer_than_promised_is_an_error_of_the_connection() {
    // The response is whole; what follows it is nobody's.
    let results = second(vec![say(&format!("{OK}and more"))]);
    assert_eq!(results.ends(), (6, 0));
    assert_eq!(results.errors("parse", "long-body"), 3);
    assert_eq!(results.server.accepted.len(), 3);
    assert_eq!(results.tally.traffic.body_bytes, 12);
}

#[test]
fn bytes_that_nobody_asked_for_end_an_idle_connection() {
    // One request every 50 ms; 1 ms after each response come bytes, or the end, or words before
    // it that say that nothing was asked for.
    let idle = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for (acts, errors) in [
        (vec![say(OK), Do::Wait(MS), say("boo")], 10),
        (vec![say(OK), Do::Wait(MS), Do::Close], 0),
        (vec![say(OK), say("\r\n"), Do::Wait(MS), say(idle), Do::Close], 0),
    ] {
        let plan = Plan { duration: ms(500), ..Plan::at(20.0) };
        let results = plan.scripted(each(acts));
        assert_eq!(results.errors("parse", "unsolicited"), errors);
        assert_eq!(results.tally.record.measured.errors.total(), errors);
        // No request was lost. After an end the next connection stands at once, after an error it
        // does after 10 ms.
        assert_eq!(results.ends(), (10, 0));
        assert!(results.server.accepted.len() >= 10);
        if errors == 0 {
            results.assert_all(Metric::Lateness, 10, Nanos::ZERO);
            results.assert_no_failure();
        }
    }
}

#[test]
fn a_reset_amid_a_response_fails_what_was_outstanding() {
    // The first connection: half a response, and a reset.
    let plan = Plan { pipeline: 3, ..Plan::counted(9) };
    let results = plan.scripted(|event| match (event.what, event.connection) {
        (What::Begun, 0) => vec![Do::Deafen, say(&OK[..20]), Do::Wait(MS), Do::Close],
        (_, 0) => Vec::new(),
        _ => ok(event),
    });
    assert_eq!(results.ends(), (6, 3));
    assert_eq!(results.errors("receive", "ECONNRESET"), 3, "{:?}", results.tally.record.measured);
    assert_eq!(results.server.accepted.len(), 2);
}

#[test]
fn everything_is_reset_at_once() {
    let plan = Plan { connections: 4, requests: vec![post("/")], ..Plan::default() };
    let world = plan.with_script(ok);
    world.net.plan_reset(world.started_at + Nanos(50_050_000));
    let results = world.finish();
    assert_eq!(results.operations().failed, 4);
    assert_eq!(results.errors("receive", "ECONNRESET"), 4);
    assert_eq!(results.server.accepted.len(), 8);
    assert_eq!(results.tally.traffic.reconnects, 4);
    // Each paused once: for 10 ms, less up to a half by chance.
    let down = results.outcome.down;
    assert!((20 * MS.0 + 4..=40 * MS.0).contains(&down.0), "{down:?}");
    assert_eq!(results.outcome.connecting, Nanos(4 * ROUND_TRIP.0));
}

#[test]
fn a_refusal_to_begin_with_is_reported_in_words() {
    struct Nobody;
    impl Server for Nobody {
        fn turn(&mut self, _: Instant) -> usize {
            0
        }

        fn next_due(&self, _: Instant) -> Option<Instant> {
            None
        }
    }
    let plan = Plan { connections: 3, ..Plan::default() };
    let results = plan.started(|_, _| Nobody).finish();
    assert_eq!(results.operations(), Operations::default());
    assert_eq!(results.errors("connect", "ECONNREFUSED"), 3);
    assert_eq!(results.outcome.established, 0);
    results.assert_failure("refuses connections");
}

#[test]
fn responses_may_come_in_one_piece_or_byte_by_byte() {
    let plan = Plan { pipeline: 4, ..Plan::counted(12) };
    // All four in one piece, when the last of them has come.
    let whole = plan.scripted(|event| match (event.what, event.nth % 4) {
        (What::Request, 3) => vec![say(&OK.repeat(4))],
        _ => Vec::new(),
    });
    whole.assert_all(Metric::Service, 12, ROUND_TRIP);
    // Byte by byte, one each microsecond.
    let byte = |c: char| [Do::Wait(Nanos(1_000)), say(&c.to_string())];
    let bytes = plan.scripted(each(OK.chars().flat_map(byte).collect()));
    assert_eq!(bytes.operations().completed, 12);
    let first = bytes.distribution(Metric::Service).min_ns();
    assert_eq!(first, Some(ROUND_TRIP.0 + OK.len() as u64 * 1_000));
    assert_eq!(bytes.tally.traffic.body_bytes, 24);
    // The wire may do the same.
    let wire = SimConfig { short_reads: 0.7, short_writes: 0.7, seed: 4, ..plan.wire };
    let cut = Plan { wire, ..plan }.scripted(ok);
    assert_eq!(cut.operations().completed, 12);
    cut.assert_no_errors();
}

#[test]
fn an_answer_may_come_before_the_request_is_wholly_sent() {
    let plan = Plan { requests: vec![upload(b'x', 200_000)], ..Plan::counted(5) };
    let results = plan.scripted(|event| match event.what {
        What::Begun => vec![say(OK)],
        _ => Vec::new(),
    });
    assert_eq!(results.operations().completed, 5);
    results.assert_no_errors();
    assert_eq!(results.server.accepted.len(), 1);
    results.assert_all(Metric::Service, 5, ROUND_TRIP);
}
