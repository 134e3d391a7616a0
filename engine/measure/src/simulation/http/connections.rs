//! Connections that end as they were meant to.

use super::scripted::{CLOSE, Do, OK, What, answer, each, ok, say, status};
use super::*;

#[test]
fn a_connection_is_closed_when_the_server_says_so() {
    let until_close = "HTTP/1.0 200 OK\r\n\r\nok";
    for acts in [vec![say(CLOSE)], vec![say(CLOSE), Do::Close], vec![say(until_close), Do::Close]] {
        let results = Plan::counted(10).scripted(each(acts));
        assert_eq!(results.operations().completed, 10);
        results.assert_no_errors();
        results.assert_all(Metric::Service, 10, ROUND_TRIP);
        results.assert_all(Metric::Connect, 10, ROUND_TRIP);
        // None was opened for a request that was not to come.
        assert_eq!(results.server.accepted.len(), 10);
        let (traffic, outcome) = (results.tally.traffic, &results.outcome);
        assert_eq!((traffic.body_bytes, traffic.reconnects), (20, 9));
        assert_eq!((outcome.connecting, outcome.down), (Nanos(9 * ROUND_TRIP.0), Nanos::ZERO));
        // One connection, of which nine stood in its place.
        assert_eq!(outcome.established, 1);
        assert_eq!(results.took, Nanos(10 * ROUND_TRIP.0 + 9 * ROUND_TRIP.0));
    }
}

#[test]
fn a_connection_serves_as_many_requests_as_allowed() {
    for (most, pipeline, connections) in [(1, 1, 1), (3, 1, 2), (3, 8, 1), (8, 3, 2), (5, 5, 3)] {
        let plan = Plan { pipeline, connections, ..Plan::counted(60) };
        let results = Plan { requests_per_connection: Some(most), ..plan }.scripted(ok);
        assert_eq!(results.operations().completed, 60);
        results.assert_no_errors();
        let mut served = vec![0; results.server.accepted.len()];
        results.server.requests.iter().for_each(|(_, on)| served[*on] += 1);
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
        let results = plan.scripted(|event| match event.of_all % 3 {
            2 => answer(event, vec![status(500)]),
            _ => ok(event),
        });
        assert_eq!(results.ends(), (7, 3));
        assert_eq!(results.server.accepted.len(), sockets);
        results.assert_no_errors();
    }
}

#[test]
fn an_idle_end_is_no_failure() {
    // The server closes after every fifth response, without a word.
    let results = Plan::counted(50).scripted(|event| match (event.what, event.nth) {
        (What::Request, 4) => vec![say(OK), Do::Close],
        _ => ok(event),
    });
    // The next request is on its way when the end comes, or the end comes with the response.
    assert_eq!(results.ends(), (50, 0));
    results.assert_no_errors();
    assert!(results.server.accepted.len() > 8);
    // With a second of rest between, nobody notices but the count of connections.
    let plan = Plan { duration: secs(20), ..Plan::at(1.0) };
    let results = plan.scripted(each(vec![say(OK), Do::Wait(MS), Do::Close]));
    results.assert_all(Metric::Response, 20, ROUND_TRIP);
    results.assert_no_errors();
    assert_eq!(results.server.accepted.len(), 21);
}

#[test]
fn a_count_is_reached_though_connections_end_amid_it() {
    // Open loop, 8 requests in a pipeline: each connection answers three and ends.
    for count in [1, 40, 41] {
        let plan = Plan { connections: 2, pipeline: 8, ..Plan::at(20_000.0) };
        let plan = Plan { count: Some(count), ..plan };
        let results = plan.scripted(|event| match (event.what, event.nth) {
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
    let requests = vec![upload(b'x', 200_000)];
    let plan = Plan { requests, pipeline: 4, count: Some(2), ..Plan::at(20_000.0) };
    let results = plan.scripted(|event| match (event.what, event.connection) {
        (What::Begun, 0) => vec![Do::Deafen, Do::Wait(MS), Do::Close],
        (_, 0) => Vec::new(),
        _ => ok(event),
    });
    assert_eq!((results.operations().sent, results.ends()), (2, (1, 1)));
    assert_eq!(results.operations().unsent_at_end, 0);
    assert_eq!(results.server.accepted.len(), 2);
}

#[test]
fn connects_take_turns_at_all_times() {
    let plan = Plan { connections: 9, connects_at_once: 4, ..Plan::default() };
    // All are to be replaced at once.
    let results = plan.scripted(|event| match event.connection {
        0..9 => answer(event, vec![say(CLOSE)]),
        _ => ok(event),
    });
    results.assert_no_errors();
    assert_eq!(results.tally.traffic.reconnects, 9);
    let accepted = &results.server.accepted;
    for nine in [&accepted[..9], &accepted[9..18]] {
        let trips = nine.iter().map(|at| at.since(nine[0]).0 / ROUND_TRIP.0);
        assert!(trips.eq([0, 0, 0, 0, 1, 1, 1, 1, 2]), "{accepted:?}");
    }
}

#[test]
fn a_pipeline_is_answered_before_its_connection_is_replaced() {
    let plan = Plan { pipeline: 4, reconnect_on_error: true, ..Plan::counted(20) };
    // The rest of the pipeline is answered a microsecond later, in a piece of its own.
    let results = plan.scripted(|event| match (event.what, event.of_all) {
        (What::Request, 0 | 9) => vec![status(503), Do::Wait(Nanos(1_000))],
        _ => ok(event),
    });
    assert_eq!(results.ends(), (18, 2));
    results.assert_no_errors();
    assert_eq!(results.server.accepted.len(), 3);
    // Nobody rests: two replacements take a round trip each.
    assert!(results.took < ms(5), "{:?}", results.took);
}

#[test]
fn what_a_lost_connection_did_not_send_is_sent_on_another() {
    // The first connection has begun two requests, of which the first is too long to be sent at
    // once, and dies when the other one has done the rest of the count and found nothing more to
    // do. No further one lives.
    let requests = vec![upload(b'x', 200_000), upload(b'y', 200_000)];
    let plan = Plan { requests, connections: 2, pipeline: 2, ..Plan::counted(6) };
    let results = plan.scripted(|event| match (event.what, event.connection) {
        (What::Begun, 0) => vec![Do::Deafen, Do::Wait(ms(100)), Do::Close],
        (What::Accepted, 2..) => vec![Do::Close],
        (_, 0) => Vec::new(),
        _ => ok(event),
    });
    assert_eq!((results.ends(), results.operations().unsent_at_end), ((5, 1), 0));
    assert!(results.server.requests.iter().all(|(_, on)| *on == 1));
}
