//! A request follows the response before it.

use super::scripted::{Do, OK, What, each, ok, say, status};
use super::*;

#[test]
fn a_latency_is_the_round_trip_and_the_servers_delay() {
    for delay in [0, 200_000, 1_000_000, 20_000_000, 123_457] {
        let results = Plan::get(&format!("/echo?delay={delay}ns")).served();
        let each = ROUND_TRIP.0 + delay;
        // Each begins when the one before it is answered, the last before the end.
        let count = ms(100).0.div_ceil(each);
        assert_eq!(results.operations().completed, count);
        results.assert_all(Metric::Service, count, Nanos(each));
        results.assert_all(Metric::Connect, 1, ROUND_TRIP);
        if delay > 0 {
            results.assert_all(Metric::Residence, count, Nanos(delay));
        }
        results.assert_no_errors();
        assert_eq!(results.outcome.measured, ms(100));
        assert_eq!(results.took, Nanos(each * count));
    }
}

#[test]
fn exactly_as_many_requests_as_asked() {
    for (count, connections, pipeline, workers) in [
        (1, 1, 1, 1),
        (77, 1, 8, 1),
        (77, 5, 8, 1),
        (7, 10, 8, 1),
        (1_000, 16, 1, 3),
        (1_001, 7, 8, 4),
        (3, 4, 8, 4),
    ] {
        let plan = Plan { connections, pipeline, workers, warmup: MS, ..Plan::counted(count) };
        let results = plan.scripted(ok);
        let Operations { due, sent, completed, .. } = results.operations();
        assert_eq!((due, sent, completed), (count, count, count), "{plan:?}");
        assert_eq!(results.server.requests.len() as u64, count + results.warmup().completed);
        assert_eq!(results.server.accepted.len(), connections as usize);
        results.assert_all(Metric::Service, count, ROUND_TRIP);
        assert!(results.tally.codes.iter().map(|code| code.count).eq([count]));
    }
}

#[test]
fn each_response_of_a_pipeline_is_a_sample() {
    // Eight in one send, answered one each millisecond.
    let plan = Plan { pipeline: 8, ..Plan::counted(8) };
    let results = plan.scripted(each(vec![Do::Wait(MS), say(OK)]));
    results.assert_are(Metric::Service, (1..=8).map(|n| ROUND_TRIP.0 + n * MS.0));
    let requests = &results.server.requests;
    assert!(requests.iter().all(|(at, _)| *at == requests[0].0));
}

#[test]
fn what_is_asked_for_is_what_is_sent() {
    // Weights 2 and 1, and a HEAD whose response has a length and no body.
    let head = RequestSpec { method: "HEAD".to_owned(), ..RequestSpec::get("/bytes/5000", "x") };
    let requests = vec![(RequestSpec::get("/bytes/100", "x"), 2), (head, 1)];
    for pipeline in [1, 4] {
        let plan = Plan { pipeline, requests: requests.clone(), ..Plan::counted(30) };
        let results = plan.served();
        assert_eq!(results.operations().completed, 30);
        assert_eq!(results.tally.traffic.body_bytes, 20 * 100);
    }
}

#[test]
fn warm_up_is_left_out_of_everything() {
    // Three take 3.2 ms each and fail, then all take 0.2 ms.
    let plan = Plan { warmup: ms(10), duration: ms(2), ..Plan::default() };
    let results = plan.scripted(|event| match (event.what, event.of_all) {
        (What::Request, 0..3) => vec![Do::Wait(ms(3)), status(503)],
        _ => ok(event),
    });
    let (warm, measured) = (results.warmup(), results.operations());
    assert_eq!((warm.sent, warm.failed, warm.completed), (5, 3, 2));
    assert_eq!((measured.sent, measured.completed), (10, 10));
    results.assert_all(Metric::Service, 10, ROUND_TRIP);
    let HttpTally { codes, traffic, .. } = &results.tally;
    assert_eq!(codes.responses(), 10);
    assert_eq!(traffic.sent_bytes, results.server.bytes.len() as u64 / 15 * 10);
    // The response that comes at the very end was read before the phase was over.
    assert_eq!((traffic.received_bytes, traffic.body_bytes), (10 * OK.len() as u64, 20));
    assert_eq!((results.outcome.warmup, results.outcome.measured), (ms(10), ms(2)));
}

#[test]
fn codes_are_reported_with_their_first_time_and_ordinal() {
    for (expect, completed) in [("2xx,3xx", 18), ("200", 17), ("4xx", 2), ("100-599", 20)] {
        let plan = Plan { expect, ..Plan::counted(20) };
        let results = plan.scripted(|event| match (event.what, event.of_all) {
            (What::Request, 9 | 14) => vec![say("HTTP/1.1 409 No\r\nContent-Length: 1\r\n\r\nx")],
            (What::Request, 5) => vec![say("HTTP/1.1 304 Not Modified\r\n\r\n")],
            _ => ok(event),
        });
        let codes = results.tally.codes.iter();
        let codes = codes.map(|c| (c.status, c.count, c.first_at.0, c.first_ordinal));
        let at = |nth: u64| ROUND_TRIP.0 * nth;
        let expected = [(200, 17, at(1), 1), (304, 1, at(6), 6), (409, 2, at(10), 10)];
        assert_eq!(codes.collect::<Vec<_>>(), expected);
        assert_eq!(results.ends(), (completed, 20 - completed), "{expect}");
        // What was not expected has no part in the latencies.
        results.assert_all(Metric::Service, completed, ROUND_TRIP);
    }
}
