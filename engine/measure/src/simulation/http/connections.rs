//! Connections that end as they were meant to.

use super::scripted::{Do, OK, What, answer, ok, say};
use super::*;

#[test]
fn a_connection_is_closed_when_the_server_says_so() {
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let until_close = "HTTP/1.0 200 OK\r\n\r\nok";
    for (text, ends) in [(close, false), (close, true), (until_close, true)] {
        let plan = Plan::counted(10);
        let (results, far) = plan.scripted(move |event| {
            let mut acts = answer(event, text);
            acts.extend((ends && event.what == What::Request).then_some(Do::Close));
            acts
        });
        assert_eq!(results.operations().completed, 10);
        assert_eq!(results.tally.record.measured.errors.total(), 0);
        assert_eq!(results.tally.traffic.body_bytes, 20);
        results.assert_all(Metric::Service, 10, ROUND_TRIP);
        // None was opened for a request that was not to come.
        assert_eq!(far.accepted.len(), 10);
        assert_eq!(results.tally.traffic.reconnects, 9);
        assert_eq!(results.outcome.connecting, Nanos(9 * ROUND_TRIP.0));
        assert_eq!(results.outcome.down, Nanos::ZERO);
        // One connection, of which nine stood in its place.
        assert_eq!(results.outcome.established, 1);
        results.assert_all(Metric::Connect, 10, ROUND_TRIP);
        assert_eq!(results.took, Nanos(10 * ROUND_TRIP.0 + 9 * ROUND_TRIP.0));
    }
}

#[test]
fn a_connection_serves_as_many_requests_as_allowed() {
    for (most, pipeline, connections) in [(1, 1, 1), (3, 1, 2), (3, 8, 1), (8, 3, 2), (5, 5, 3)] {
        let plan = Plan {
            requests_per_connection: Some(most),
            pipeline,
            connections,
            ..Plan::counted(60)
        };
        let (results, far) = plan.scripted(ok);
        assert_eq!(results.operations().completed, 60);
        assert_eq!(results.tally.record.measured.errors.total(), 0);
        let mut served = vec![0; far.accepted.len()];
        far.requests.iter().for_each(|(_, on)| served[*on] += 1);
        assert!(served.iter().all(|n| *n <= most), "{served:?}");
        let full = served.iter().filter(|n| **n == most).count();
        assert!(full + connections as usize >= served.len(), "{served:?}");
        results.assert_all(Metric::Service, 60, ROUND_TRIP);
    }
}

#[test]
fn a_connection_is_replaced_after_an_error_where_asked() {
    for (reconnect_on_error, sockets) in [(false, 1), (true, 4)] {
        let plan = Plan { reconnect_on_error, ..Plan::counted(10) };
        let (results, far) = plan.scripted(|event| match event.of_all % 3 {
            2 => answer(event, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
            _ => ok(event),
        });
        let operations = results.operations();
        assert_eq!((operations.completed, operations.failed), (7, 3));
        assert_eq!(far.accepted.len(), sockets);
        assert_eq!(results.tally.record.measured.errors.total(), 0);
    }
}

#[test]
fn an_idle_end_is_no_failure() {
    // The server closes after every fifth response, without a word.
    let plan = Plan::counted(50);
    let (results, far) = plan.scripted(|event| match (event.what, event.nth) {
        (What::Request, 4) => vec![say(OK), Do::Close],
        _ => ok(event),
    });
    // The next request is on its way when the end comes, or the end comes with the response.
    let operations = results.operations();
    let closes = far.accepted.len() as u64 - 1;
    assert_eq!((operations.completed, operations.failed), (50, 0));
    assert_eq!(results.tally.record.measured.errors.total(), 0);
    assert!(closes >= 8);
    // With a second of rest between, nobody notices but the count of connections.
    let plan = Plan { duration: Some(Nanos::from_secs(20)), ..Plan::at(1.0) };
    let (results, far) = plan.scripted(|event| match event.what {
        What::Request => vec![say(OK), Do::Wait(MS), Do::Close],
        _ => Vec::new(),
    });
    results.assert_all(Metric::Response, 20, ROUND_TRIP);
    assert_eq!(results.tally.record.measured.errors.total(), 0);
    assert_eq!(far.accepted.len(), 21);
}

#[test]
fn a_count_is_reached_though_connections_end_amid_it() {
    // Open loop, 8 requests in a pipeline: each connection answers three and ends.
    for count in [1, 40, 41] {
        let plan = Plan {
            connections: 2,
            pipeline: 8,
            count: Some(count),
            duration: None,
            ..Plan::at(20_000.0)
        };
        let (results, _) = plan.scripted(|event| match (event.what, event.nth) {
            (What::Request, 2) => vec![say(OK), Do::Close],
            (_, 3..) => Vec::new(),
            _ => ok(event),
        });
        let operations = results.operations();
        assert_eq!((operations.due, operations.sent), (count, count));
        assert_eq!(operations.completed + operations.failed, count);
    }
}

#[test]
fn what_was_given_back_by_a_lost_connection_is_sent_on_the_next() {
    // The first request is too long to be sent at once, the second one waits behind it, and then
    // the connection is lost with nothing else under way: the count is not reached by that.
    let body = tare_proto::http1::request::Body {
        bytes: vec![b'x'; 200_000],
        framing: tare_proto::http1::request::Framing::Length,
    };
    let post =
        RequestSpec { method: "POST".to_owned(), body: Some(body), ..RequestSpec::get("/", "x") };
    let plan = Plan {
        requests: vec![(post, 1)],
        pipeline: 4,
        count: Some(2),
        duration: None,
        ..Plan::at(20_000.0)
    };
    let (results, far) = plan.scripted(|event| match (event.what, event.connection) {
        (What::Begun, 0) => vec![Do::Deafen, Do::Wait(MS), Do::Close],
        (_, 0) => Vec::new(),
        _ => ok(event),
    });
    let operations = results.operations();
    assert_eq!((operations.sent, operations.completed), (2, 1));
    assert_eq!((operations.failed, operations.unsent_at_end), (1, 0));
    assert_eq!(far.accepted.len(), 2);
}

#[test]
fn connects_take_turns_at_all_times() {
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let plan = Plan { connections: 9, connects_at_once: 4, ..Plan::default() };
    // All are to be replaced at once.
    let (results, far) = plan.scripted(move |event| match event.connection {
        0..9 => answer(event, close),
        _ => ok(event),
    });
    assert_eq!(results.tally.record.measured.errors.total(), 0);
    assert_eq!(results.tally.traffic.reconnects, 9);
    let since = |from: usize| {
        let base = far.accepted[from];
        let trips = move |at: &Instant| at.since(base).0 / ROUND_TRIP.0;
        far.accepted[from..from + 9].iter().map(trips)
    };
    for from in [0, 9] {
        assert!(since(from).eq([0, 0, 0, 0, 1, 1, 1, 1, 2]), "{far:?}", far = far.accepted);
    }
}

#[test]
fn a_pipeline_is_answered_before_its_connection_is_replaced() {
    let plan = Plan { pipeline: 4, reconnect_on_error: true, ..Plan::counted(20) };
    // The rest of the pipeline is answered a microsecond later, in a piece of its own.
    let (results, far) = plan.scripted(|event| match (event.what, event.of_all) {
        (What::Request, 0 | 9) => {
            let no = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
            vec![say(no), Do::Wait(Nanos(1_000))]
        }
        _ => ok(event),
    });
    let operations = results.operations();
    assert_eq!((operations.completed, operations.failed), (18, 2));
    assert_eq!(results.tally.record.measured.errors.total(), 0);
    assert_eq!(far.accepted.len(), 3);
    // Nobody rests: two replacements take a round trip each.
    assert!(results.took < Nanos::from_millis(5), "{:?}", results.took);
}

#[test]
fn what_a_lost_connection_did_not_send_is_sent_on_another() {
    // The first connection has begun two requests, of which the first is too long to be sent at
    // once, and dies when the other one has done the rest of the count and found nothing more to
    // do. No further one lives.
    let post = |byte| {
        let body = tare_proto::http1::request::Body {
            bytes: vec![byte; 200_000],
            framing: tare_proto::http1::request::Framing::Length,
        };
        RequestSpec { method: "POST".to_owned(), body: Some(body), ..RequestSpec::get("/", "x") }
    };
    let plan = Plan {
        requests: vec![(post(b'x'), 1), (post(b'y'), 1)],
        connections: 2,
        pipeline: 2,
        ..Plan::counted(6)
    };
    let (results, far) = plan.scripted(|event| match (event.what, event.connection) {
        (What::Begun, 0) => vec![Do::Deafen, Do::Wait(Nanos::from_millis(100)), Do::Close],
        (What::Accepted, 2..) => vec![Do::Close],
        (_, 0) => Vec::new(),
        _ => ok(event),
    });
    let operations = results.operations();
    assert_eq!(operations.completed, 5, "{operations:?}");
    assert_eq!((operations.failed, operations.unsent_at_end), (1, 0));
    assert!(far.requests.iter().all(|(_, on)| *on == 1));
}
