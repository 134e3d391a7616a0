//! Requests that are sent again, responses that have no end, and those that announce themselves.

use super::scripted::{CLOSE, Do, OK, What, answer, each, ok, say};
use super::*;

/// Answers `most` requests of each connection, the last of them with `Connection: close`, and
/// begins none behind it.
fn limited(most: usize) -> impl FnMut(Event) -> Acts + 'static {
    move |event| match (event.what, event.nth + 1) {
        (What::Request, nth) if nth == most => vec![say(CLOSE), Do::Close],
        (What::Request, nth) if nth > most => Vec::new(),
        _ => ok(event),
    }
}

/// Answers `most` requests of each connection, and closes it without a word when the next one has
/// come.
fn silent(most: usize) -> impl FnMut(Event) -> Acts + 'static {
    move |event| match (event.what, event.nth) {
        (What::Request, nth) if nth >= most => vec![Do::Close],
        _ => ok(event),
    }
}

#[test]
fn a_pipeline_behind_a_close_is_sent_on_the_next_connection() {
    for requests in [vec![get("/")], vec![post("/")], vec![get("/"), post("/x")]] {
        let plan = Plan { pipeline: 8, connections: 2, requests, ..Plan::counted(100) };
        let results = plan.scripted(limited(10));
        let operations = results.operations();
        assert_eq!((operations.due, operations.sent, results.ends()), (100, 100, (100, 0)));
        results.assert_no_errors();
        results.assert_no_failure();
        let resent = results.tally.traffic.resent;
        assert!(resent > 0);
        // Each of them went out once more.
        let bytes = &results.server.bytes;
        let written = bytes.windows(8).filter(|w| w == b"HTTP/1.1").count() as u64;
        assert_eq!(written, 100 + resent);
        // Nobody rests: connections are replaced within a round trip.
        assert!(results.took < ms(20), "{:?}", results.took);
    }
}

#[test]
fn what_is_sent_again_keeps_its_first_due_time() {
    // The first is answered with a close, and the second one on the next connection.
    let plan = Plan { pipeline: 2, count: Some(2), ..Plan::at(1e6) };
    let results = plan.scripted(limited(1));
    let (trip, apart) = (ROUND_TRIP.0, 1_000);
    assert_eq!(results.operations().completed, 2);
    assert_eq!(results.tally.traffic.resent, 1);
    // A microsecond after the first: it has waited for the answer to that one, and for a connect.
    results.assert_are(Metric::Response, [trip, 3 * trip - apart]);
    results.assert_are(Metric::Lateness, [0, 2 * trip - apart]);
    results.assert_are(Metric::Service, [trip, trip]);
    // In closed loop there is the service time alone, and it counts from the first send.
    let plan = Plan { pipeline: 2, ..Plan::counted(2) };
    plan.scripted(limited(1)).assert_are(Metric::Service, [trip, 3 * trip]);
}

#[test]
fn a_request_that_crosses_the_end_of_a_keep_alive_is_retried() {
    let results = Plan::counted(50).scripted(silent(5));
    assert_eq!((results.operations().sent, results.ends()), (50, (50, 0)));
    results.assert_no_errors();
    assert_eq!(results.tally.traffic.resent as usize, results.server.accepted.len() - 1);
    assert!(results.took < ms(30), "{:?}", results.took);
    // A reset does the same: what the server left unread makes one.
    let results = Plan::counted(20).scripted(|event| match (event.what, event.nth) {
        (What::Begun, 5) => vec![Do::Deafen, Do::Close],
        _ => ok(event),
    });
    assert_eq!(results.operations().completed, 20);
    assert!(results.tally.traffic.resent >= 3);
    // Of a POST nobody knows whether it was begun.
    let plan = Plan { requests: vec![post("/")], ..Plan::counted(12) };
    let results = plan.scripted(silent(5));
    assert_eq!((results.ends(), results.tally.traffic.resent), ((10, 2), 0));
    assert_eq!(results.errors("receive", "early-close"), 2);
}

#[test]
fn a_retry_is_not_pipelined_and_not_retried() {
    // Three are under way when the connection is lost behind its first answer.
    let plan = Plan { pipeline: 4, ..Plan::counted(4) };
    let results = plan.scripted(|event| match (event.connection, event.what, event.nth) {
        (0, What::Request, 1) => vec![Do::Close],
        (0, What::Request, 2..) => Vec::new(),
        _ => ok(event),
    });
    assert_eq!((results.operations().completed, results.tally.traffic.resent), (4, 3));
    let requests = &results.server.requests;
    let on_second = requests.iter().filter(|(_, on)| *on == 1);
    let after = on_second.map(|(at, _)| at.since(requests[4].0));
    assert!(after.eq([Nanos::ZERO, ROUND_TRIP, ROUND_TRIP]), "{requests:?}");
    // A server that closes each connection behind its first answer: what was retried once fails the
    // next time.
    let plan = Plan { pipeline: 4, ..Plan::counted(9) };
    let results = plan.scripted(silent(1));
    let (completed, failed) = results.ends();
    assert!(completed + failed == 9 && failed > 0, "{failed}");
    assert_eq!(results.errors("receive", "early-close"), failed);
}

#[test]
fn a_server_that_is_gone_fails_what_was_to_be_sent_again() {
    // The second request is lost with its connection, and with the next one.
    let results = Plan::counted(4).scripted(|event| match (event.connection, event.what) {
        (0, What::Request) if event.nth == 1 => vec![Do::Close],
        (1, What::Accepted) => vec![Do::Close],
        _ => ok(event),
    });
    assert_eq!((results.ends(), results.tally.traffic.resent), ((3, 1), 1));
    assert_eq!(results.errors("receive", "early-close"), 1);
    assert_eq!(results.server.accepted.len(), 3);
}

#[test]
fn nothing_is_sent_again_behind_the_end() {
    // The pipeline is full at the end, and its server closes then.
    let plan = Plan { pipeline: 4, duration: ms(10), ..Plan::default() };
    let results = plan.scripted(|event| match (event.what, event.nth) {
        (What::Request, 0) => vec![Do::Wait(ms(15)), say(CLOSE), Do::Close],
        _ => Vec::new(),
    });
    let operations = results.operations();
    assert_eq!((operations.sent, results.ends()), (4, (1, 0)));
    assert_eq!(operations.in_flight_at_end, 3);
    assert_eq!(results.server.accepted.len(), 1);
    assert!(results.took < ms(17), "{:?}", results.took);
}

#[test]
fn a_response_without_length_on_a_kept_connection_is_named() {
    let endless = || each(vec![say("HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\nhello")]);
    let plan = Plan { timeout: ms(20), duration: ms(10), ..Plan::default() };
    let results = Plan { count: Some(3), ..plan.clone() }.scripted(endless());
    let operations = results.operations();
    assert_eq!((operations.completed, operations.timed_out), (0, 3));
    assert_eq!(results.errors("receive", "no-length"), 3);
    results.assert_all(Metric::Service, 3, ms(20));
    results.assert_failure("gave no length");
    // The run may be over before the timeout.
    let mut world = plan.with_script(endless());
    world.run_to(ms(5));
    world.interrupt.raise();
    world.finish().assert_failure("gave no length");
}

#[test]
fn interim_responses_do_not_extend_the_time_of_a_request() {
    // The first request has its answer behind thirty of them, a millisecond apart; the second one
    // has no other.
    let plan = Plan { timeout: ms(40), ..Plan::counted(2) };
    let results = plan.scripted(|event| {
        let interim = [say("HTTP/1.1 102 Processing\r\n\r\n"), Do::Wait(MS)];
        let count = if event.of_all == 0 { 30 } else { 100 };
        answer(event, interim.iter().cycle().take(2 * count).cloned().chain([say(OK)]).collect())
    });
    let operations = results.operations();
    assert_eq!((operations.completed, operations.timed_out), (1, 1));
    assert_eq!(results.errors("receive", "timeout"), 1);
    results.assert_are(Metric::Service, [30 * MS.0 + ROUND_TRIP.0, 40 * MS.0]);
}

#[test]
fn http_1_0_in_chunks_is_taken_and_counted() {
    let chunked = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let results = Plan::counted(5).scripted(each(vec![say(chunked), Do::Close]));
    assert_eq!(results.operations().completed, 5);
    let traffic = results.tally.traffic;
    assert_eq!((traffic.body_bytes, traffic.faults), (10, [5, 0]));
    assert_eq!(results.server.accepted.len(), 5);
}
