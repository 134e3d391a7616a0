//! Requests on a schedule.

use super::scripted::{Do, OK, What, ok, say};
use super::*;
use crate::server::worker::http::Stall;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What `connections` that are each free again a service after a send make of the schedule:
/// lateness of each request and its service; `answered` is when a request that is sent at an
/// instant is answered.
fn model(due: &[u64], connections: usize, answered: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
    let mut free: BinaryHeap<Reverse<u64>> = (0..connections).map(|_| Reverse(0)).collect();
    due.iter()
        .map(|&due| {
            let Reverse(free_at) = free.pop().expect("as many as connections");
            let sent = due.max(free_at);
            let end = answered(sent);
            free.push(Reverse(end));
            (sent - due, end - sent)
        })
        .collect()
}

fn assert_model(results: &Results, model: &[(u64, u64)]) {
    assert_eq!(results.operations().completed, model.len() as u64);
    assert_eq!(results.operations().sent, model.len() as u64);
    results.assert_are(Metric::Lateness, model.iter().map(|m| m.0));
    results.assert_are(Metric::Service, model.iter().map(|m| m.1));
    results.assert_are(Metric::Response, model.iter().map(|m| m.0 + m.1));
}

#[test]
fn every_request_leaves_when_it_is_due() {
    let ramp = Load {
        from_per_s: 200.0,
        to_per_s: 3_000.0,
        hold: Nanos::from_millis(20),
        ramp: Nanos::from_millis(100),
    };
    for (load, arrivals) in [
        (Load::steady(1_000.0), Arrivals::Constant),
        (Load::steady(333.3), Arrivals::Constant),
        (Load::steady(1_000.0), Arrivals::Poisson),
        (Load::steady(1_000.0), Arrivals::Jitter(0.1)),
        (Load::steady(1_000.0), Arrivals::Jitter(0.5)),
        (ramp, Arrivals::Constant),
        (ramp, Arrivals::Poisson),
    ] {
        for workers in [1, 3] {
            let plan = Plan {
                workers,
                connections: 40,
                load: Some((load, arrivals)),
                warmup: Nanos::from_millis(20),
                ..Plan::default()
            };
            let (results, far) = plan.scripted(ok);
            let due = plan.due(Nanos::from_millis(120));
            let warm = due.iter().filter(|at| **at < 20_000_000).count() as u64;
            let count = due.len() as u64 - warm;
            assert_eq!(results.tally.record.warmup.operations.completed, warm);
            assert_eq!(results.operations().due, count);
            results.assert_all(Metric::Lateness, count, Nanos::ZERO);
            results.assert_all(Metric::Service, count, ROUND_TRIP);
            results.assert_all(Metric::Response, count, ROUND_TRIP);
            // What the client says of itself is true: that is when they arrive.
            let start = far.accepted[0] + LATENCY;
            let arrived = far.requests.iter().map(|(at, _)| at.since(start + LATENCY).0);
            assert_eq!(arrived.collect::<Vec<_>>(), due, "{arrivals:?}");
        }
    }
}

#[test]
fn five_minutes_pass_in_a_moment() {
    let results = Plan { duration: Some(Nanos::from_secs(300)), ..Plan::at(20.0) }.served();
    results.assert_all(Metric::Response, 6_000, ROUND_TRIP);
    assert_eq!(results.outcome.measured, Nanos::from_secs(300));
    assert_eq!(results.outcome.backlog_max, 0);
}

#[test]
fn exactly_as_many_requests_as_asked() {
    for (count, connections, pipeline, workers) in
        [(1, 1, 1, 1), (77, 1, 8, 1), (1_000, 5, 1, 3), (5, 8, 8, 4)]
    {
        let plan = Plan {
            connections,
            pipeline,
            workers,
            warmup: Nanos::from_millis(2),
            count: Some(count),
            duration: None,
            ..Plan::at(50_000.0)
        };
        let (results, far) = plan.scripted(ok);
        assert_eq!(results.operations().due, count);
        assert_eq!(results.operations().completed, count);
        // What the connections could not carry in the warm-up left with it.
        let warm = results.tally.record.warmup.operations;
        assert_eq!(warm.completed + warm.unsent_at_end, 100);
        assert_eq!(far.requests.len() as u64, count + warm.completed);
    }
}

#[test]
fn too_few_connections_show_in_lateness_alone() {
    // Each carries 5,000 in a second, and 1.5 times as many are due.
    for (connections, rate) in [(1, 7_500.0), (3, 22_500.0)] {
        let plan = Plan { connections, ..Plan::at(rate) };
        let results = plan.served();
        let end = Nanos::from_millis(100);
        let all = model(&plan.due(end), connections as usize, |sent| sent + ROUND_TRIP.0);
        let due = plan.due(end);
        // A connection that is free again at the very end takes one more.
        let is_sent = |(due, late): (&u64, &(u64, u64))| due + late.0 <= end.0;
        let sent = due.iter().zip(&all).filter(|both| is_sent(*both)).count();
        let operations = results.operations();
        assert_eq!(operations.due, due.len() as u64);
        assert_eq!(operations.completed, sent as u64);
        assert_eq!(operations.unsent_at_end, (due.len() - sent) as u64);
        results.assert_all(Metric::Service, sent as u64, ROUND_TRIP);
        let unsent = due[sent..].iter().map(|due| end.0 - due);
        let late = all[..sent].iter().map(|m| m.0);
        results.assert_are(Metric::Lateness, late.clone().chain(unsent.clone()));
        results.assert_are(Metric::Response, late.map(|l| l + ROUND_TRIP.0).chain(unsent));
        // One more waits at the instant at which the sends of that instant have yet to be dealt
        // out.
        assert!(results.outcome.backlog_max >= (due.len() - sent) as u64);
    }
}

#[test]
fn a_stall_shows_in_full_in_the_response_times() {
    let (at, length) = (Nanos::from_secs(2), Nanos::from_millis(500));
    for connections in [10, 1_000] {
        let plan = Plan { connections, duration: Some(Nanos::from_secs(5)), ..Plan::at(1_000.0) };
        let mut world = World::new(&plan, |net, clock| {
            Served::stalling(net, clock, vec![Stall { at, length }])
        });
        world.start();
        // The stall counts from the first request, which is due at once.
        let begin = LATENCY.0 + at.0;
        let end = begin + length.0;
        world.wakes.push(world.started_at + Nanos(end));
        let (results, _) = world.finish();
        let due = plan.due(Nanos::from_secs(5));
        let served = model(&due, connections as usize, |sent| {
            let arrived = sent + LATENCY.0;
            let stalled = (begin..end).contains(&arrived);
            LATENCY.0 + if stalled { end } else { arrived }
        });
        assert_model(&results, &served);
        let over = |lengths: &mut dyn Iterator<Item = u64>| {
            lengths.filter(|length| *length > 10_000_000).count()
        };
        let responses = over(&mut served.iter().map(|m| m.0 + m.1));
        let services = over(&mut served.iter().map(|m| m.1));
        let response = |percent| results.distribution(Metric::Response).quantile(percent);
        let told = |percent| response(percent).expect("5,000 samples").value_ns;
        let bin = |ns| ns + results.distribution(Metric::Response).resolution(Nanos(ns)).0;
        assert_eq!(results.distribution(Metric::Response).max_ns(), Some(500_200_000));
        if connections == 1_000 {
            // 500 requests fall into it, and wait for 500.2 ms, 499.2 ms and so on down to 1.2 ms.
            assert_eq!((responses, services), (491, 491));
            results.assert_are(Metric::Lateness, [0; 5_000]);
            // Of 5,000, the 4,950th is the 51st longest, the 4,750th the 251st longest.
            assert!((450_200_000..=bin(450_200_000)).contains(&told(99.0)));
            assert!((250_200_000..=bin(250_200_000)).contains(&told(95.0)));
        } else {
            // Ten were sent; the others wait for a connection, and then for none but their own
            // round trip.
            assert_eq!(services, 10);
            let untouched = served.iter().filter(|m| m.1 == ROUND_TRIP.0).count();
            assert_eq!(untouched, 4_990);
            // Behind the stall ten leave every 0.2 ms: number 2000 + n is late by 500.2 ms, less n
            // ms, and 0.2 ms more for every ten before it. The last one that takes longer than 10
            // ms is number 2500.
            let late = |n: u64| 500_200_000 - n * MS.0 + (n - 10) / 10 * ROUND_TRIP.0;
            assert_eq!(late(500) + ROUND_TRIP.0, 10_200_000);
            let late = (10..=500).map(late);
            let found = served[2_010..=2_500].iter().map(|m| m.0);
            assert_eq!(found.collect::<Vec<_>>(), late.collect::<Vec<_>>());
            assert_eq!(responses, 501);
        }
    }
}

#[test]
fn spinning_is_late_by_a_step_at_most() {
    // The simulation sees no deadline of one who spins: the clock moves in steps of 7 µs, and a
    // send waits for the next.
    for wait in [WaitMode::Spin, WaitMode::Hybrid] {
        let step = Nanos(7_000);
        let plan = Plan { wait, step, duration: Some(Nanos::from_millis(50)), ..Plan::at(1_000.0) };
        let (results, far) = plan.scripted(ok);
        assert_eq!(results.operations().completed, 50);
        let start = far.accepted[0] + LATENCY;
        let sent = far.requests.iter().map(|(at, _)| at.since(start + LATENCY).0);
        let late: Vec<u64> = sent.zip(plan.due(MS + SECOND)).map(|(s, due)| s - due).collect();
        assert!(late.iter().all(|late| *late < step.0), "{wait:?} {late:?}");
        results.assert_are(Metric::Lateness, late);
    }
}

#[test]
fn what_is_due_before_the_end_is_sent_though_the_end_is_noticed_first() {
    for wait in [WaitMode::Spin, WaitMode::Hybrid] {
        // The last is due half a microsecond before the end, and the clock moves by seven.
        let plan = Plan {
            wait,
            step: Nanos(7_000),
            duration: Some(Nanos(50_000_500)),
            ..Plan::at(1_000.0)
        };
        let results = plan.scripted(ok).0;
        let operations = results.operations();
        assert_eq!((operations.due, operations.sent), (51, 51));
        assert_eq!((operations.completed, operations.unsent_at_end), (51, 0));
        assert_eq!(results.outcome.measured, Nanos(50_000_500));
    }
}

#[test]
fn so_many_at_a_rate_take_so_long() {
    for (arrivals, workers) in
        [(Arrivals::Constant, 1), (Arrivals::Constant, 3), (Arrivals::Jitter(0.1), 1)]
    {
        let plan = Plan {
            workers,
            connections: 3,
            count: Some(10),
            duration: None,
            load: Some((Load::steady(10.0), arrivals)),
            ..Plan::default()
        };
        let took = plan.served().outcome.measured.0;
        match arrivals {
            Arrivals::Constant => assert_eq!(took, 1_000_000_000),
            _ => assert!((1_000_000_000..=1_020_000_000).contains(&took), "{took}"),
        }
    }
    // Exponential gaps each come before their arrival: the last one ends with its response.
    let plan = Plan {
        count: Some(10),
        duration: None,
        load: Some((Load::steady(10.0), Arrivals::Poisson)),
        ..Plan::default()
    };
    let due = plan.due(Nanos::from_secs(100));
    assert_eq!(plan.served().outcome.measured.0, due[9] + ROUND_TRIP.0);
}

#[test]
fn no_request_waits_behind_another_while_a_connection_is_idle() {
    // Five are under way at a time. The fiftieth ends its connection, which has all its places
    // again.
    let plan = Plan {
        connections: 10,
        pipeline: 4,
        duration: Some(Nanos::from_millis(200)),
        ..Plan::at(1_000.0)
    };
    let service = Nanos::from_millis(5);
    let (results, far) = plan.scripted(move |event| match event.what {
        What::Request if event.of_all == 50 => {
            let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
            vec![Do::Wait(service), say(close)]
        }
        What::Request => vec![Do::Wait(service), say(OK)],
        _ => Vec::new(),
    });
    assert_eq!(far.accepted.len(), 11);
    results.assert_all(Metric::Service, 200, service + ROUND_TRIP);
    results.assert_all(Metric::Lateness, 200, Nanos::ZERO);
}
