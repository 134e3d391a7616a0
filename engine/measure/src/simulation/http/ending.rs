//! How a run ends.

use super::scripted::{Do, OK, What, after, ok, say};
use super::*;

#[test]
fn what_is_in_flight_at_the_end_is_a_lower_bound() {
    // Sent at 0 and 40 ms and answered; sent at 80 ms, and not until 50 ms after the end.
    let plan = Plan { timeout: ms(50), ..Plan::default() };
    let results = plan.scripted(|event| match (event.what, event.nth) {
        (What::Request, 0 | 1) => vec![Do::Wait(Nanos(39_800_000)), say(OK)],
        _ => Vec::new(),
    });
    let operations = results.operations();
    assert_eq!((operations.sent, operations.completed), (3, 2));
    // It is 50 ms old before the patience is over: it has timed out.
    assert_eq!((operations.timed_out, operations.in_flight_at_end), (1, 0));
    results.assert_are(Metric::Service, [40_000_000, 40_000_000, 50_000_000]);
    assert_eq!(results.took, ms(130));
}

#[test]
fn an_interrupt_ends_it_and_what_was_measured_stays() {
    for load in [None, Some((Load::steady(1_000.0), Arrivals::Constant))] {
        let plan = Plan { load, connections: 2, warmup: ms(20), ..Plan::default() };
        let plan = Plan { duration: secs(100), ..plan };
        // Each takes 7 ms; the one under way at the interrupt has 200 ms to end.
        let mut world = plan.with_script(after(ms(7) - ROUND_TRIP));
        world.run_to(ms(120));
        world.interrupt.raise();
        let results = world.finish();
        let operations = results.operations();
        assert!(results.outcome.cut_short);
        assert_eq!(results.outcome.measured, ms(100));
        assert_eq!(operations.in_flight_at_end, 0);
        assert_eq!(operations.sent, operations.completed);
        let unsent = if load.is_some() { operations.due - operations.sent } else { 0 };
        assert_eq!(operations.unsent_at_end, unsent);
        // Due from 20 ms to 120 ms; what is due at 120 ms is noticed before the interrupt or not at
        // all.
        assert!(load.is_none() || (100..=101).contains(&operations.due), "{operations:?}");
        assert!(results.took < ms(130));
    }
}

#[test]
fn an_interrupt_during_the_warm_up_leaves_nothing_measured() {
    let plan = Plan { warmup: SECOND, connections: 2, ..Plan::at(1_000.0) };
    let mut world = plan.with_script(ok);
    world.run_to(ms(250));
    world.interrupt.raise();
    let results = world.finish();
    assert_eq!(results.operations(), Operations::default());
    assert_eq!((results.outcome.warmup, results.outcome.measured), (ms(250), Nanos::ZERO));
    assert!((250..=251).contains(&results.warmup().due));
}

#[test]
fn an_interrupt_is_patient_for_200_ms() {
    let plan = Plan { duration: SECOND, ..Plan::default() };
    let mut world = plan.with_script(after(secs(100)));
    world.run_to(ms(100));
    world.interrupt.raise();
    let results = world.finish();
    assert_eq!(results.operations().in_flight_at_end, 1);
    results.assert_all(Metric::Service, 1, ms(300));
    assert_eq!(results.distribution(Metric::Service).censored(), 1);
    assert_eq!(results.took, ms(300));
}

#[test]
fn a_run_by_count_ends_with_its_last_request_however_that_ends() {
    let plan = Plan { timeout: ms(50), ..Plan::counted(2) };
    let results = plan.scripted(|event| if event.of_all == 0 { ok(event) } else { Vec::new() });
    assert_eq!(results.operations().timed_out, 1);
    assert_eq!(results.outcome.measured, ms(50) + ROUND_TRIP);
}

#[test]
fn no_socket_is_left() {
    let mut world = Plan { connections: 8, ..Plan::default() }.with_script(ok);
    world.run_until(World::is_finished);
    world.run_to(SECOND);
    assert_eq!((world.net.sockets(), world.server.open().0), (1, 0), "the listener");
}

#[test]
fn what_happens_behind_the_end_is_no_error_unless_it_ends_a_request() {
    // One connection is idle, and is sent what nobody asked for while the other still waits for its
    // response.
    let plan = Plan { connections: 2, ..Plan::at(11.0) };
    let results = plan.scripted(|event| match (event.what, event.of_all) {
        (What::Request, 0) => vec![say(OK), Do::Wait(ms(110)), say("boo")],
        (What::Request, 1) => vec![Do::Wait(ms(50)), say(OK)],
        _ => Vec::new(),
    });
    assert_eq!(results.operations().completed, 2);
    results.assert_no_errors();
    results.assert_no_failure();
}
