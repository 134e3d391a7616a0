//! Requests on a schedule.

use super::scripted::{CLOSE, Do, OK, after, answer, ok, say};
use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What `connections` that are each free again a service after a send make of the schedule:
/// lateness of each request and its service; `answered` is when a request that is sent at an
/// instant is answered.
fn model(due: &[u64], connections: u32, answered: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
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

/// When each request came to the server, less the path: from the start.
fn sent(results: &Results<Scripted>) -> Vec<u64> {
    let start = results.server.accepted[0] + LATENCY + LATENCY;
    results.server.requests.iter().map(|(at, _)| at.since(start).0).collect()
}

#[test]
fn every_request_leaves_when_it_is_due() {
    let ramp = Load { from_per_s: 200.0, to_per_s: 3_000.0, hold: ms(20), ramp: ms(100) };
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
            let load = Some((load, arrivals));
            let plan = Plan { workers, connections: 40, load, warmup: ms(20), ..Plan::default() };
            let results = plan.scripted(ok);
            let due = plan.due(ms(120));
            let warm = due.iter().filter(|at| **at < 20_000_000).count() as u64;
            let count = due.len() as u64 - warm;
            assert_eq!(results.warmup().completed, warm);
            assert_eq!(results.operations().due, count);
            results.assert_all(Metric::Lateness, count, Nanos::ZERO);
            results.assert_all(Metric::Service, count, ROUND_TRIP);
            results.assert_all(Metric::Response, count, ROUND_TRIP);
            // What the client says of itself is true: that is when they arrive.
            assert_eq!(sent(&results), due, "{arrivals:?}");
        }
    }
}

#[test]
fn five_minutes_pass_in_a_moment() {
    let results = Plan { duration: secs(300), ..Plan::at(20.0) }.served();
    results.assert_all(Metric::Response, 6_000, ROUND_TRIP);
    assert_eq!(results.outcome.measured, secs(300));
    assert_eq!(results.outcome.backlog_max, 0);
}

#[test]
fn exactly_as_many_requests_as_asked() {
    for (count, connections, pipeline, workers) in
        [(1, 1, 1, 1), (77, 1, 8, 1), (1_000, 5, 1, 3), (5, 8, 8, 4)]
    {
        let plan = Plan { connections, pipeline, workers, ..Plan::at(50_000.0) };
        let results = Plan { warmup: ms(2), count: Some(count), ..plan }.scripted(ok);
        assert_eq!((results.operations().due, results.operations().completed), (count, count));
        // What the connections could not carry in the warm-up left with it.
        let warm = results.warmup();
        assert_eq!(warm.completed + warm.unsent_at_end, 100);
        assert_eq!(results.server.requests.len() as u64, count + warm.completed);
    }
}

#[test]
fn too_few_connections_show_in_lateness_alone() {
    // Each carries 5,000 in a second, and 1.5 times as many are due.
    for (connections, rate) in [(1, 7_500.0), (3, 22_500.0)] {
        let plan = Plan { connections, ..Plan::at(rate) };
        let results = plan.served();
        let end = ms(100);
        let due = plan.due(end);
        let all = model(&due, connections, |sent| sent + ROUND_TRIP.0);
        // A connection that is free again at the very end takes one more.
        let sent = due.iter().zip(&all).filter(|(due, late)| *due + late.0 <= end.0).count();
        let unsent = due.len() - sent;
        let operations = results.operations();
        assert_eq!(operations.due, due.len() as u64);
        assert_eq!(operations.completed, sent as u64);
        assert_eq!(operations.unsent_at_end, unsent as u64);
        results.assert_all(Metric::Service, sent as u64, ROUND_TRIP);
        // One more waits at the instant at which the sends of that instant have yet to be dealt
        // out.
        assert!(results.outcome.backlog_max >= unsent as u64);
        let unsent = due[sent..].iter().map(|due| end.0 - due);
        let late = all[..sent].iter().map(|m| m.0);
        results.assert_are(Metric::Lateness, late.clone().chain(unsent.clone()));
        results.assert_are(Metric::Response, late.map(|l| l + ROUND_TRIP.0).chain(unsent));
    }
}

#[test]
fn a_stall_shows_in_full_in_the_response_times() {
    let (at, length) = (secs(2), ms(500));
    for connections in [10, 1_000] {
        let plan = Plan { connections, duration: secs(5), ..Plan::at(1_000.0) };
        let mut world = plan.stalled(vec![Stall { at, length }]);
        // The stall counts from the first request, which is due at once.
        let begin = LATENCY.0 + at.0;
        let end = begin + length.0;
        world.wakes.push(world.started_at + Nanos(end));
        let results = world.finish();
        let served = model(&plan.due(plan.duration), connections, |sent| {
            let arrived = sent + LATENCY.0;
            let stalled = (begin..end).contains(&arrived);
            LATENCY.0 + if stalled { end } else { arrived }
        });
        let Operations { sent, completed, .. } = results.operations();
        assert_eq!((sent, completed), (served.len() as u64, served.len() as u64));
        results.assert_are(Metric::Lateness, served.iter().map(|m| m.0));
        results.assert_are(Metric::Service, served.iter().map(|m| m.1));
        results.assert_are(Metric::Response, served.iter().map(|m| m.0 + m.1));
        let responses = served.iter().filter(|m| m.0 + m.1 > 10_000_000).count();
        let services = served.iter().filter(|m| m.1 > 10_000_000).count();
        let response = results.distribution(Metric::Response);
        assert_eq!(response.max_ns(), Some(500_200_000));
        if connections == 1_000 {
            // 500 requests fall into it, and wait for 500.2 ms, 499.2 ms and so on down to 1.2 ms.
            assert_eq!((responses, services), (491, 491));
            results.assert_are(Metric::Lateness, [0; 5_000]);
            // Of 5,000, the 4,950th is the 51st longest, the 4,750th the 251st longest.
            for (percent, length) in [(99.0, 450_200_000), (95.0, 250_200_000)] {
                let found = response.quantile(percent).expect("5,000 samples").value_ns;
                let bin = response.resolution(Nanos(length)).0;
                assert!((length..=length + bin).contains(&found), "p{percent}: {found}");
            }
        } else {
            // Ten were sent; the others wait for a connection, and then for none but their own
            // round trip.
            assert_eq!((responses, services), (501, 10));
            assert_eq!(served.iter().filter(|m| m.1 == ROUND_TRIP.0).count(), 4_990);
            // Behind the stall ten leave every 0.2 ms: number 2000 + n is late by 500.2 ms, less n
            // ms, and 0.2 ms more for every ten before it. The last one that takes longer than 10
            // ms is number 2500.
            let late = |n: u64| 500_200_000 - n * MS.0 + (n - 10) / 10 * ROUND_TRIP.0;
            assert_eq!(late(500) + ROUND_TRIP.0, 10_200_000);
            assert!(served[2_010..=2_500].iter().map(|m| m.0).eq((10..=500).map(late)));
        }
    }
}

#[test]
fn spinning_is_late_by_a_step_at_most_and_leaves_nothing_out() {
    // The simulation sees no deadline of one who spins: the clock moves in steps of 7 µs, and a
    // send waits for the next.
    let step = Nanos(7_000);
    for wait in [WaitMode::Spin, WaitMode::Hybrid] {
        let plan = Plan { wait, step, duration: ms(50), ..Plan::at(1_000.0) };
        let results = plan.scripted(ok);
        assert_eq!(results.operations().completed, 50);
        let due = plan.due(SECOND);
        let late: Vec<u64> = sent(&results).iter().zip(due).map(|(sent, due)| sent - due).collect();
        assert!(late.iter().all(|late| *late < step.0), "{wait:?} {late:?}");
        results.assert_are(Metric::Lateness, late);
        // One that is due half a microsecond before the end is sent, though the end is noticed
        // first.
        let duration = Nanos(50_000_500);
        let results = Plan { duration, ..plan }.scripted(ok);
        let operations = results.operations();
        assert_eq!((operations.due, operations.sent), (51, 51));
        assert_eq!((operations.completed, operations.unsent_at_end), (51, 0));
        assert_eq!(results.outcome.measured, duration);
    }
}

#[test]
fn so_many_at_a_rate_take_so_long() {
    for (arrivals, workers) in
        [(Arrivals::Constant, 1), (Arrivals::Constant, 3), (Arrivals::Jitter(0.1), 1)]
    {
        let load = Some((Load::steady(10.0), arrivals));
        let plan = Plan { workers, connections: 3, load, ..Plan::counted(10) };
        let took = plan.served().outcome.measured.0;
        match arrivals {
            Arrivals::Constant => assert_eq!(took, 1_000_000_000),
            _ => assert!((1_000_000_000..=1_020_000_000).contains(&took), "{took}"),
        }
    }
    // Exponential gaps each come before their arrival: the last one ends with its response.
    let load = Some((Load::steady(10.0), Arrivals::Poisson));
    let plan = Plan { load, ..Plan::counted(10) };
    let last = plan.schedule().nth(9).unwrap();
    assert_eq!(plan.served().outcome.measured, last + ROUND_TRIP);
}

#[test]
fn no_request_waits_behind_another_while_a_connection_is_idle() {
    // Five are under way at a time. The fiftieth ends its connection, which has all its places
    // again.
    let plan = Plan { connections: 10, pipeline: 4, duration: ms(200), ..Plan::at(1_000.0) };
    let service = ms(5);
    let results = plan.scripted(move |event| {
        let response = if event.of_all == 50 { CLOSE } else { OK };
        answer(event, vec![Do::Wait(service), say(response)])
    });
    assert_eq!(results.server.accepted.len(), 11);
    results.assert_all(Metric::Service, 200, service + ROUND_TRIP);
    results.assert_all(Metric::Lateness, 200, Nanos::ZERO);
}

/// Every response takes 2.5 ms, the wire included; one request is due each millisecond.
fn busy(late: Late) -> Results<Scripted> {
    Plan { late, ..Plan::at(1_000.0) }.scripted(after(Nanos(2_500_000 - ROUND_TRIP.0)))
}

#[test]
fn what_finds_no_connection_is_dropped_at_once_or_waits() {
    // Sent at 0, 3, 6, ..., 99 ms; two of three are dropped.
    let results = busy(Late::Drop);
    let Operations { due, sent, dropped, unsent_at_end, .. } = results.operations();
    assert_eq!((due, sent, dropped, unsent_at_end), (100, 34, 66, 0));
    results.assert_are(Metric::Lateness, [0; 100]);
    results.assert_all(Metric::Service, 34, Nanos(2_500_000));
    let responses = (0..100).map(|n| if n < 34 { 2_500_000 } else { 0 });
    results.assert_are(Metric::Response, responses);
    assert_eq!(results.distribution(Metric::Response).censored(), 66);
    assert_eq!(results.outcome.backlog_max, 0);

    // Request k is sent at 2.5·k ms, the last one at the very end, on a free connection.
    let results = busy(Late::Queue);
    let Operations { due, sent, dropped, unsent_at_end, .. } = results.operations();
    assert_eq!((due, sent, dropped, unsent_at_end), (100, 41, 0, 59));
    let late = (0..41).map(|k| k * 1_500_000);
    results.assert_are(Metric::Lateness, late.chain((41..100).map(|k| (100 - k) * MS.0)));
    results.assert_all(Metric::Service, 41, Nanos(2_500_000));

    // A count is kept with what is dropped.
    let plan = Plan { late: Late::Drop, count: Some(10), ..Plan::at(1_000.0) };
    let operations = plan.scripted(after(Nanos(2_300_000))).operations();
    assert_eq!((operations.due, operations.completed, operations.dropped), (10, 4, 6));
}
