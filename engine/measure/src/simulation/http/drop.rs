//! What becomes of requests that find no free connection.

use super::scripted::{Do, OK, What, say};
use super::*;

/// Every response takes 2.5 ms, the wire included; one request is due each millisecond.
fn run(late: Late, duration: Nanos) -> Results {
    let plan = Plan { late, duration: Some(duration), ..Plan::at(1_000.0) };
    let delay = Nanos(2_500_000 - ROUND_TRIP.0);
    let script = move |event: scripted::Event| match event.what {
        What::Request => vec![Do::Wait(delay), say(OK)],
        _ => Vec::new(),
    };
    plan.scripted(script).0
}

#[test]
fn what_finds_no_connection_is_dropped_at_once() {
    // Sent at 0, 3, 6, ..., 99 ms; two of three are dropped.
    let results = run(Late::Drop, Nanos::from_millis(100));
    let operations = results.operations();
    assert_eq!((operations.due, operations.sent), (100, 34));
    assert_eq!((operations.dropped, operations.completed), (66, 34));
    assert_eq!(operations.unsent_at_end, 0);
    results.assert_are(Metric::Lateness, [0; 100]);
    results.assert_all(Metric::Service, 34, Nanos(2_500_000));
    let responses = (0..100).map(|n| if n < 34 { 2_500_000 } else { 0 });
    results.assert_are(Metric::Response, responses);
    assert_eq!(results.distribution(Metric::Response).censored(), 66);
    assert_eq!(results.outcome.backlog_max, 0);
}

#[test]
fn what_finds_no_connection_waits() {
    // Request k is sent at 2.5·k ms, the last one at the very end, which finds the connection free.
    let results = run(Late::Queue, Nanos::from_millis(100));
    let operations = results.operations();
    assert_eq!((operations.due, operations.sent), (100, 41));
    assert_eq!((operations.dropped, operations.completed), (0, 41));
    assert_eq!(operations.unsent_at_end, 59);
    let sent = (0..41).map(|k| k * 1_500_000);
    let unsent = (41..100).map(|k| (100 - k) * MS.0);
    results.assert_are(Metric::Lateness, sent.chain(unsent));
    results.assert_all(Metric::Service, 41, Nanos(2_500_000));
}

#[test]
fn a_count_is_kept_with_what_is_dropped() {
    let plan = Plan { late: Late::Drop, count: Some(10), duration: None, ..Plan::at(1_000.0) };
    let script = |event: scripted::Event| match event.what {
        What::Request => vec![Do::Wait(Nanos(2_300_000)), say(OK)],
        _ => Vec::new(),
    };
    let operations = plan.scripted(script).0.operations();
    assert_eq!((operations.due, operations.completed), (10, 4));
    assert_eq!(operations.dropped, 6);
}
