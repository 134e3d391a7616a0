//! What does not answer, and what does not accept.

use super::scripted::{Do, OK, What, after, ok, say};
use super::*;

/// How often connections that rest are looked at: they are woken up that late at most.
const LOOK: u64 = 2_000_000;

#[test]
fn a_request_is_given_up_when_its_time_is_over() {
    let timeout = ms(20);
    let plan = Plan { timeout, ..Plan::counted(5) };
    // The second one has no answer.
    let results = plan.scripted(|event| if event.of_all == 1 { Vec::new() } else { ok(event) });
    let operations = results.operations();
    assert_eq!((operations.sent, operations.completed, operations.timed_out), (5, 4, 1));
    results.assert_are(Metric::Service, [1, 1, 1, 1, 100].map(|trips| trips * ROUND_TRIP.0));
    assert_eq!(results.distribution(Metric::Service).censored(), 1);
    assert_eq!(results.errors("receive", "timeout"), 1);
    assert_eq!((results.tally.traffic.reconnects, results.outcome.sockets), (1, 2));
    // Connected again after a pause of 5 to 10 ms.
    let given_up = results.server.requests[1].0.0 - LATENCY.0 + timeout.0;
    let again = results.server.accepted[1].0 - LATENCY.0;
    assert!((5_000_000..=10_000_000 + LOOK).contains(&(again - given_up)));
    results.assert_failure("did not answer within 20");
}

#[test]
fn a_timeout_takes_the_pipeline_with_it() {
    let plan = Plan { pipeline: 4, timeout: ms(20), ..Plan::counted(6) };
    let results = plan.scripted(|event| match event.of_all {
        2 | 3 => Vec::new(),
        _ => ok(event),
    });
    let operations = results.operations();
    // Two of the first four were answered and two more sent in their place; the oldest without an
    // answer times out, and those behind it: they were sent 0.2 ms later.
    assert_eq!(operations.completed + operations.failed + operations.timed_out, 6);
    assert_eq!(operations.timed_out, 2, "{operations:?}");
    assert_eq!(results.errors("receive", "timeout"), operations.failed + 2);
}

#[test]
fn pauses_double_while_it_fails() {
    // Every connection is closed before it answers.
    let plan = Plan { duration: secs(5), ..Plan::default() };
    let results = plan.scripted(|event| match event.what {
        What::Accepted => vec![Do::Close],
        _ => Vec::new(),
    });
    let accepted = &results.server.accepted;
    let pauses: Vec<u64> = accepted.windows(2).map(|w| w[1].since(w[0]).0 - ROUND_TRIP.0).collect();
    for (pause, expected) in pauses.iter().zip([10, 20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000])
    {
        let expected = expected * 1_000_000;
        assert!((expected / 2..=expected + LOOK).contains(pause), "{pauses:?}");
    }
    // The one before the start failed before there was a request to fail.
    let counted = accepted.len() as u64;
    assert_eq!(results.ends(), (0, counted - 1));
    assert_eq!(results.error_kinds(), 1);
    assert_eq!(results.tally.record.measured.errors.total(), counted);
    assert_eq!(results.outcome.sockets, counted);
}

#[test]
fn success_ends_the_doubling() {
    // Every second request has no response, and may not be sent again.
    let plan = Plan { requests: vec![post("/")], ..Plan::counted(12) };
    let results = plan.scripted(|event| match (event.what, event.of_all % 2) {
        (What::Request, 1) => vec![Do::Close],
        _ => ok(event),
    });
    assert_eq!(results.ends(), (6, 6));
    for pair in results.server.accepted.windows(2) {
        let pause = pair[1].since(pair[0]).0 - 2 * ROUND_TRIP.0 - ROUND_TRIP.0;
        assert!((5_000_000..=10_000_000 + LOOK).contains(&pause), "{pause}");
    }
}

#[test]
fn a_connect_is_given_up_when_its_time_is_over() {
    let (timeout, connect_timeout) = (ms(30), ms(50));
    let plan = Plan { timeout, connect_timeout, duration: ms(400), ..Plan::default() };
    let mut world = plan.with_script(ok);
    world.run_to(Nanos(10_050_000));
    world.net.partition();
    let results = world.finish();
    // The 51st request was sent at 10 ms and is given up at 40 ms. Four connects of 50 ms are given
    // up in turn, after pauses of 10, 20, 40 and 80 ms or up to a half less; none of them stood.
    let operations = results.operations();
    assert_eq!((operations.completed, operations.timed_out), (50, 1));
    assert_eq!((results.errors("connect", "timeout"), results.error_kinds()), (4, 2));
    assert_eq!((results.tally.traffic.reconnects, results.outcome.sockets), (0, 1 + 4));
    let connect = connect_timeout.0;
    results.assert_are(Metric::Connect, [ROUND_TRIP.0, connect, connect, connect, connect]);
    assert_eq!(results.distribution(Metric::Connect).censored(), 4);
}

#[test]
fn connects_are_paced_from_the_first_on() {
    let plan = Plan { connections: 10, connect_gap: ms(3), ..Plan::default() };
    let accepted = plan.scripted(ok).server.accepted;
    let gaps = accepted.iter().map(|at| at.since(accepted[0]).0);
    assert!(gaps.eq((0..10).map(|n| n * 3_000_000)), "{accepted:?}");
}

#[test]
fn a_request_that_the_server_does_not_read_is_given_up() {
    // It answers at the first byte and reads no more, so that the send never ends: nor would the
    // next one ever begin.
    let requests = vec![upload(b'x', 1 << 20)];
    let plan = Plan { requests, timeout: ms(50), ..Plan::counted(3) };
    let results = plan.scripted(|event| match event.what {
        What::Begun => vec![Do::Deafen, say(OK)],
        _ => Vec::new(),
    });
    assert_eq!(results.operations().completed, 3);
    assert_eq!(results.server.accepted.len(), 3);
    results.assert_all(Metric::Service, 3, ROUND_TRIP);
}

#[test]
fn a_timeout_during_the_warm_up_is_the_warm_ups() {
    let plan = Plan { warmup: ms(100), timeout: ms(50), duration: ms(10), ..Plan::default() };
    let results = plan.scripted(|event| if event.of_all == 0 { Vec::new() } else { ok(event) });
    let warmup = &results.tally.record.warmup;
    assert_eq!((warmup.operations.timed_out, warmup.errors.total()), (1, 1));
    results.assert_no_errors();
    assert_eq!((results.operations().timed_out, results.tally.traffic.reconnects), (0, 0));
    results.assert_each(Metric::Service, ROUND_TRIP);
}

#[test]
fn every_request_in_a_pipeline_has_a_deadline_of_its_own() {
    let plan = Plan { connections: 2, pipeline: 2, timeout: ms(20), ..Plan::default() };
    let plan = Plan { duration: ms(22), ..plan };
    let after = |length| vec![Do::Wait(ms(length)), say(OK)];
    let results = plan.scripted(move |event| match (event.what, event.connection, event.nth) {
        (What::Request, 0, 0) => after(19),
        // 30 ms after it was sent, together with the first.
        (What::Request, 0, 1) => after(11),
        // Two more are sent here after 18 ms, and have no answer.
        (What::Request, 1, 0) => after(18),
        (What::Request, 1, 1) => vec![say(OK)],
        _ => Vec::new(),
    });
    let operations = results.operations();
    assert_eq!((operations.sent, operations.completed), (7, 3));
    // With the second one on the first connection goes the third.
    assert_eq!((operations.timed_out, operations.failed), (3, 1));
    assert_eq!(results.errors("receive", "timeout"), 4);
    let longest = results.distribution(Metric::Service).max_ns();
    assert_eq!(longest, Some(20_000_000), "none was looked at late");
}

#[test]
fn a_response_that_is_read_too_late_has_timed_out() {
    let plan = Plan { wait: WaitMode::Spin, timeout: ms(20), ..Plan::counted(1) };
    let mut world = plan.with_script(after(ms(19)));
    // The response is on its way, and comes while nobody looks.
    world.run_to(Nanos(19_150_000));
    world.clock.advance_to(world.started_at + ms(25));
    let operations = world.finish().operations();
    assert_eq!((operations.completed, operations.timed_out), (0, 1));
}
