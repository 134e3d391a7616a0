//! What does not answer, and what does not accept.

use super::scripted::{Do, Event, OK, What, ok, say};
use super::*;

/// How often connections that rest are looked at: they are woken up that late at most.
const LOOK: u64 = 2_000_000;

#[test]
fn a_request_is_given_up_when_its_time_is_over() {
    let timeout = Nanos::from_millis(20);
    let plan = Plan { timeout, ..Plan::counted(5) };
    // The second one has no answer.
    let (results, far) = plan.scripted(|event| match event.of_all {
        1 => Vec::new(),
        _ => ok(event),
    });
    let operations = results.operations();
    assert_eq!((operations.sent, operations.completed), (5, 4));
    assert_eq!(operations.timed_out, 1);
    let service = [1, 1, 1, 1, 100].map(|trips| trips * ROUND_TRIP.0);
    results.assert_are(Metric::Service, service);
    assert_eq!(results.distribution(Metric::Service).censored(), 1);
    assert_eq!(results.errors("receive", "timeout"), 1);
    assert_eq!(results.tally.traffic.reconnects, 1);
    assert_eq!(results.outcome.sockets, 2);
    // Connected again after a pause of 5 to 10 ms.
    let given_up = far.requests[1].0.0 - LATENCY.0 + timeout.0;
    let again = far.accepted[1].0 - LATENCY.0;
    assert!((5_000_000..=10_000_000 + LOOK).contains(&(again - given_up)));
    let failure = results.outcome.failure.unwrap().to_string();
    assert!(failure.contains("did not answer within 20"), "{failure}");
}

#[test]
fn a_timeout_takes_the_pipeline_with_it() {
    let plan = Plan { pipeline: 4, timeout: Nanos::from_millis(20), ..Plan::counted(6) };
    let (results, _) = plan.scripted(|event| match event.of_all {
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
    let plan = Plan { duration: Some(Nanos::from_secs(5)), ..Plan::default() };
    let (results, far) = plan.scripted(|event| match event.what {
        What::Accepted => vec![Do::Close],
        _ => Vec::new(),
    });
    let accepted = far.accepted.iter().map(|at| at.0).collect::<Vec<_>>();
    let pauses: Vec<u64> = accepted.windows(2).map(|w| w[1] - w[0] - ROUND_TRIP.0).collect();
    for (pause, expected) in pauses.iter().zip([10, 20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000])
    {
        let expected = expected * 1_000_000;
        assert!((expected / 2..=expected + LOOK).contains(pause), "{pauses:?}");
    }
    let operations = results.operations();
    assert_eq!(operations.completed, 0);
    let errors = results.tally.record.measured.errors.to_counts();
    assert_eq!(errors.len(), 1, "{errors:?}");
    // The one before the start failed before there was a request to fail.
    let counted = far.accepted.len() as u64;
    assert_eq!(errors[0].count, counted);
    assert_eq!(operations.failed, counted - 1);
    assert_eq!(results.outcome.sockets, counted);
}

#[test]
fn success_ends_the_doubling() {
    // Every second request has no response, and may not be sent again.
    let plan = Plan { requests: vec![post("/")], ..Plan::counted(12) };
    let (results, far) = plan.scripted(|event| match (event.what, event.of_all % 2) {
        (What::Request, 1) => vec![Do::Close],
        _ => ok(event),
    });
    assert_eq!(results.operations().failed, 6);
    assert_eq!(results.operations().completed, 6);
    for pair in far.accepted.windows(2) {
        let pause = pair[1].since(pair[0]).0 - 2 * ROUND_TRIP.0 - ROUND_TRIP.0;
        assert!((5_000_000..=10_000_000 + LOOK).contains(&pause), "{pause}");
    }
}

#[test]
fn a_connect_is_given_up_when_its_time_is_over() {
    let (timeout, connect) = (Nanos::from_millis(30), Nanos::from_millis(50));
    let plan = Plan {
        timeout,
        connect_timeout: connect,
        duration: Some(Nanos::from_millis(400)),
        ..Plan::default()
    };
    let mut world = World::new(&plan, |net, clock| Scripted::new(net, clock, ok));
    world.start();
    world.run_for(Nanos(10_050_000));
    world.net.partition();
    let (results, _) = world.finish();
    // The 51st request was sent at 10 ms and is given up at 40 ms. Four connects of 50 ms are given
    // up in turn, after pauses of 10, 20, 40 and 80 ms or up to a half less; none of them stood.
    let operations = results.operations();
    assert_eq!((operations.completed, operations.timed_out), (50, 1));
    assert_eq!(results.errors("connect", "timeout"), 4);
    assert_eq!(results.error_kinds(), 2);
    assert_eq!(results.tally.traffic.reconnects, 0);
    assert_eq!(results.outcome.sockets, 1 + 4);
    results.assert_are(Metric::Connect, [ROUND_TRIP.0, connect.0, connect.0, connect.0, connect.0]);
    assert_eq!(results.distribution(Metric::Connect).censored(), 4);
}

#[test]
fn connects_are_paced_from_the_first_on() {
    let plan = Plan { connections: 10, connect_gap: Nanos::from_millis(3), ..Plan::default() };
    let (_, far) = plan.scripted(ok);
    let start = far.accepted[0];
    let gaps: Vec<u64> = far.accepted.iter().map(|at| at.since(start).0).collect();
    let expected: Vec<u64> = (0..10).map(|n| n * 3_000_000).collect();
    assert_eq!(gaps, expected);
}

#[test]
fn a_request_that_the_server_does_not_read_is_given_up() {
    // It answers at the first byte and reads no more, so that the send never ends: nor would the
    // next one ever begin.
    let body = tare_proto::http1::request::Body {
        bytes: vec![b'x'; 1 << 20],
        framing: tare_proto::http1::request::Framing::Length,
    };
    let post =
        RequestSpec { method: "POST".to_owned(), body: Some(body), ..RequestSpec::get("/", "x") };
    let plan =
        Plan { requests: vec![(post, 1)], timeout: Nanos::from_millis(50), ..Plan::counted(3) };
    let (results, far) = plan.scripted(|event| match event.what {
        What::Begun => vec![Do::Deafen, say(OK)],
        _ => Vec::new(),
    });
    assert_eq!(results.operations().completed, 3);
    assert_eq!(far.accepted.len(), 3);
    results.assert_all(Metric::Service, 3, ROUND_TRIP);
}

#[test]
fn a_timeout_during_the_warm_up_is_the_warm_ups() {
    let plan = Plan {
        warmup: Nanos::from_millis(100),
        timeout: Nanos::from_millis(50),
        duration: Some(Nanos::from_millis(10)),
        ..Plan::default()
    };
    let (results, _) = plan.scripted(|event: Event| match event.of_all {
        0 => Vec::new(),
        _ => ok(event),
    });
    assert_eq!(results.tally.record.warmup.operations.timed_out, 1);
    assert_eq!(results.tally.record.warmup.errors.total(), 1);
    assert_eq!(results.tally.record.measured.errors.total(), 0);
    assert_eq!(results.operations().timed_out, 0);
    assert_eq!(results.tally.traffic.reconnects, 0);
    results.assert_all(Metric::Service, results.operations().completed, ROUND_TRIP);
}

#[test]
fn every_request_in_a_pipeline_has_a_deadline_of_its_own() {
    let plan = Plan {
        connections: 2,
        pipeline: 2,
        timeout: Nanos::from_millis(20),
        duration: Some(Nanos::from_millis(22)),
        ..Plan::default()
    };
    let after = |ms| vec![Do::Wait(Nanos::from_millis(ms)), say(OK)];
    let (results, _) =
        plan.scripted(move |event| match (event.what, event.connection, event.nth) {
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
    let plan = Plan { wait: WaitMode::Spin, timeout: Nanos::from_millis(20), ..Plan::counted(1) };
    let mut world = World::new(&plan, |net, clock| {
        Scripted::new(net, clock, |event: Event| match event.what {
            What::Request => vec![Do::Wait(Nanos::from_millis(19)), say(OK)],
            _ => Vec::new(),
        })
    });
    world.start();
    // The response is on its way, and comes while nobody looks.
    world.run_for(Nanos(19_150_000));
    world.clock.advance_to(world.started_at + Nanos::from_millis(25));
    let (results, _) = world.finish();
    let operations = results.operations();
    assert_eq!((operations.completed, operations.timed_out), (0, 1));
}
