//! A server that misbehaves.

use super::scripted::{Do, OK, What, answer, ok, say};
use super::*;

/// The second request of each connection is answered like this: amid six requests of one connection
/// after the other, which may not be sent again.
fn second(acts: Vec<Do>) -> (Results, Scripted) {
    let plan = Plan { requests: vec![post("/")], ..Plan::counted(6) };
    plan.scripted(move |event| match (event.what, event.nth) {
        (What::Request, 1) => acts.clone(),
        _ => ok(event),
    })
}

#[test]
fn what_is_no_whole_response_fails_and_is_named() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    for (text, phase, cause) in [
        ("", "receive", "early-close"),
        ("HTTP/1.1 200 OK\r\nConte", "receive", "cut-head"),
        (&format!("{head}short"), "receive", "short-body"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "receive", "short-body"),
        ("SMTP ready\r\n\r\n", "parse", "malformed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "parse", "bad-chunk"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "parse",
            "bad-framing",
        ),
        ("HTTP/1.1 101 Up\r\n\r\n", "parse", "upgraded"),
    ] {
        let (results, far) = second(vec![say(text), Do::Close]);
        let operations = results.operations();
        assert_eq!((operations.sent, operations.completed), (6, 3), "{cause}");
        assert_eq!(operations.failed, 3, "{cause}");
        assert_eq!(results.errors(phase, cause), 3, "{cause}: {:?}", results.tally.record.measured);
        assert_eq!(results.error_kinds(), 1, "{cause}");
        assert_eq!(results.tally.codes.responses(), 3, "{cause}");
        results.assert_all(Metric::Service, 3, ROUND_TRIP);
        assert!((3..=4).contains(&far.accepted.len()), "{cause}");
        let failure = results.outcome.failure.unwrap().to_string();
        assert!(failure.contains(cause), "{failure}");
    }
}

#[test]
fn a_body_longer_than_promised_is_an_error_of_the_connection() {
    // The response is whole; what follows it is nobody's.
    let (results, far) = second(vec![say(&format!("{OK}and more"))]);
    let operations = results.operations();
    assert_eq!((operations.completed, operations.failed), (6, 0));
    assert_eq!(results.errors("parse", "long-body"), 3);
    assert_eq!(far.accepted.len(), 3);
    assert_eq!(results.tally.traffic.body_bytes, 12);
}

#[test]
fn bytes_that_nobody_asked_for_end_an_idle_connection() {
    // One request every 50 ms; 1 ms after each response come bytes, or the end.
    for (then, errors) in [(say("boo"), 1), (Do::Close, 0)] {
        let plan = Plan { duration: Some(Nanos::from_millis(500)), ..Plan::at(20.0) };
        let (results, far) = plan.scripted(move |event| match event.what {
            What::Request => vec![say(OK), Do::Wait(MS), then.clone()],
            _ => Vec::new(),
        });
        let operations = results.operations();
        assert_eq!(results.errors("parse", "unsolicited"), 10 * errors);
        assert_eq!(results.tally.record.measured.errors.total(), 10 * errors);
        // No request was lost. After an end the next connection stands at once, after an error it
        // does after 10 ms.
        assert_eq!((operations.completed, operations.failed), (10, 0));
        assert!(far.accepted.len() >= 10);
        if errors == 0 {
            results.assert_all(Metric::Lateness, 10, Nanos::ZERO);
            assert_eq!(results.outcome.failure.map(|e| e.to_string()), None);
        }
    }
}

#[test]
fn a_reset_amid_a_response_fails_what_was_outstanding() {
    let plan = Plan { pipeline: 3, ..Plan::counted(9) };
    // The first connection: half a response, and a reset.
    let (results, far) = plan.scripted(|event| match (event.what, event.connection) {
        (What::Begun, 0) => vec![Do::Deafen, say(&OK[..20]), Do::Wait(MS), Do::Close],
        (_, 0) => Vec::new(),
        _ => ok(event),
    });
    let operations = results.operations();
    assert_eq!((operations.completed, operations.failed), (6, 3));
    assert_eq!(results.errors("receive", "ECONNRESET"), 3, "{:?}", results.tally.record.measured);
    assert_eq!(far.accepted.len(), 2);
}

#[test]
fn everything_is_reset_at_once() {
    let plan = Plan { connections: 4, requests: vec![post("/")], ..Plan::default() };
    let mut world = World::new(&plan, |net, clock| Scripted::new(net, clock, ok));
    world.start();
    world.net.plan_reset(world.started_at + Nanos(50_050_000));
    let (results, far) = world.finish();
    let operations = results.operations();
    assert_eq!(operations.failed, 4);
    assert_eq!(results.errors("receive", "ECONNRESET"), 4);
    assert_eq!(far.accepted.len(), 8);
    assert_eq!(results.tally.traffic.reconnects, 4);
    // Each paused once: for 10 ms, less up to a half by chance.
    let down = results.outcome.down;
    assert!((20 * MS.0 + 4..=40 * MS.0).contains(&down.0), "{down:?}");
    assert_eq!(results.outcome.connecting, Nanos(4 * ROUND_TRIP.0));
}

#[test]
fn a_refusal_to_begin_with_is_told_in_words() {
    struct Nobody;
    impl Far for Nobody {
        fn turn(&mut self, _: Instant) -> usize {
            0
        }

        fn next_due(&self, _: Instant) -> Option<Instant> {
            None
        }
    }
    let plan = Plan { connections: 3, ..Plan::default() };
    let results = World::new(&plan, |_, _| Nobody).run();
    assert_eq!(results.operations(), Operations::default());
    assert_eq!(results.errors("connect", "ECONNREFUSED"), 3);
    assert_eq!(results.outcome.established, 0);
    let failure = results.outcome.failure.unwrap().to_string();
    assert!(failure.contains("refuses connections"), "{failure}");
}

#[test]
fn responses_may_come_in_one_piece_or_byte_by_byte() {
    let plan = Plan { pipeline: 4, ..Plan::counted(12) };
    // All four in one piece, when the last of them has come.
    let (whole, _) = plan.scripted(|event| match (event.what, event.nth % 4) {
        (What::Request, 3) => vec![say(&OK.repeat(4))],
        _ => Vec::new(),
    });
    whole.assert_all(Metric::Service, 12, ROUND_TRIP);
    // Byte by byte, one each microsecond.
    let (bytes, _) = plan.scripted(|event| match event.what {
        What::Request => {
            OK.chars().flat_map(|c| [Do::Wait(Nanos(1_000)), say(&c.to_string())]).collect()
        }
        _ => Vec::new(),
    });
    assert_eq!(bytes.operations().completed, 12);
    let each = OK.len() as u64 * 1_000;
    let first = bytes.distribution(Metric::Service).min_ns();
    assert_eq!(first, Some(ROUND_TRIP.0 + each));
    assert_eq!(bytes.tally.traffic.body_bytes, 24);
    // The wire may do the same.
    let wire = SimConfig { short_reads: 0.7, short_writes: 0.7, seed: 4, ..plan.wire };
    let (cut, _) = Plan { wire, ..plan }.scripted(|event| answer(event, OK));
    assert_eq!(cut.operations().completed, 12);
    assert_eq!(cut.tally.record.measured.errors.total(), 0);
}

#[test]
fn an_answer_may_come_before_the_request_is_wholly_sent() {
    let body = tare_proto::http1::request::Body {
        bytes: vec![b'x'; 200_000],
        framing: tare_proto::http1::request::Framing::Length,
    };
    let post =
        RequestSpec { method: "POST".to_owned(), body: Some(body), ..RequestSpec::get("/", "x") };
    let plan = Plan { requests: vec![(post, 1)], ..Plan::counted(5) };
    let (results, far) = plan.scripted(|event| match event.what {
        What::Begun => vec![say(OK)],
        _ => Vec::new(),
    });
    assert_eq!(results.operations().completed, 5);
    assert_eq!(results.tally.record.measured.errors.total(), 0);
    assert_eq!(far.accepted.len(), 1);
    results.assert_all(Metric::Service, 5, ROUND_TRIP);
}
