//! What goes wrong on the wire, at either end, and at the front.

use super::*;
use tare_units::bounds::{CLOSING_MAX, DRAIN_INTERRUPTED, FINISH_INTERRUPTED};

#[test]
fn a_vanished_server_ends_a_tcp_run_within_its_timeout() {
    for (connect_each, duration, timeout) in
        [(false, secs(3_600), ms(500)), (true, ms(400), ms(100))]
    {
        let setup = Setup { connect_each, timeout, duration, ..Setup::default() };
        let mut world = Setup { connections: 3, ..setup }.started();
        world.run_to(ms(50));
        world.net.partition();
        let results = world.finish();
        let operations = results.operations();
        if connect_each {
            assert!(operations.timed_out >= 3);
            assert!(results.took <= duration + timeout + timeout + ms(20), "{}", results.took);
            continue;
        }
        assert_eq!((operations.timed_out, results.errors("receive", "timeout")), (3, 3));
        assert!(operations.completed >= 735);
        assert!(results.outcome.cut_short);
        results.assert_failure("does not answer within 500 ms");
        assert!(results.took <= ms(50) + timeout + ms(20), "{}", results.took);
    }
}

#[test]
fn lost_datagrams_are_timeouts_and_never_hang() {
    for connections in [1, 4] {
        let results = Setup {
            wire: SimConfig { datagram_loss: 0.05, seed: 3, ..wire() },
            duration: secs(10),
            timeout: ms(20),
            connections,
            ..Setup::udp()
        }
        .run();
        let operations = results.operations();
        let lost = operations.timed_out as f64 / operations.sent as f64;
        assert!((0.06..0.14).contains(&lost), "1 − 0.95² is 0.0975: {lost}");
        assert_eq!(results.errors("receive", "timeout"), operations.timed_out);
        assert!(!results.outcome.cut_short, "{:?}", results.outcome.failure);
        assert!(results.took < ms(10_200));
        let service = results.distribution(Metric::Service);
        assert_eq!(service.min_ns(), Some(ROUND_TRIP.0));
        assert!(service.quantile(95.0).is_some_and(|q| q.lower_bound));
        assert!(service.quantile(50.0).is_some_and(|q| !q.lower_bound));
    }
}

#[test]
fn late_replies_are_counted_and_not_taken_for_others() {
    const STALLS: u64 = 3;
    let setup = Setup { duration: secs(2), timeout: ms(100), ..Setup::udp() };
    let mut world = setup.started();
    for stall in 0..STALLS {
        // Long enough for one request to be given up and a second one to be sent.
        let from = world.started_at + Nanos(stall * 500_000_000 + 50_050_000);
        world.server.frozen = Some((from, from + ms(150)));
        world.run_to(ms((stall + 1) * 500));
    }
    let results = world.finish();
    assert_eq!(results.operations().timed_out, STALLS);
    assert_eq!(results.errors("receive", "late-reply"), STALLS);
    let least = results.distribution(Metric::Service).min_ns();
    assert_eq!(least, Some(ROUND_TRIP.0), "a late reply was taken for that of a later request");
}

#[test]
fn a_reset_is_an_error_with_its_name_and_ends_the_run() {
    for rate_per_s in [None, Some(10_000.0)] {
        let setup = Setup { connections: 2, rate_per_s, ..Setup::default() };
        let world = Setup { duration: secs(60), ..setup }.started();
        world.net.plan_reset(world.started_at + Nanos(20_050_000));
        let results = world.finish();
        assert!((1..=2).contains(&results.operations().failed), "{:?}", results.operations());
        assert!(results.errors("receive", "ECONNRESET") >= 1);
        assert!(results.outcome.cut_short);
        results.assert_failure("reset the connection");
        assert!(results.took < ms(30), "{}", results.took);
    }
}

#[test]
fn an_interrupt_drains_and_leaves_a_partial_result() {
    for rate_per_s in [None, Some(20_000.0)] {
        let setup = Setup { duration: secs(60), connections: 2, rate_per_s, ..Setup::default() };
        for setup in setup.over_both() {
            let mut world = setup.started();
            world.run_to(Nanos(10_050_000));
            world.interrupt.raise();
            let results = world.finish();
            let (operations, outcome) = (results.operations(), &results.outcome);
            assert!(outcome.cut_short);
            assert!(operations.completed >= 100);
            assert_eq!(operations.in_flight_at_end, 0, "what is under way may finish");
            assert_eq!(outcome.figures.len(), 2);
            assert!(results.took < ms(30), "{}", results.took);
            assert!((Nanos(10_050_000)..ms(20)).contains(&outcome.measured));
        }
    }
}

#[test]
fn an_interrupt_of_a_stalled_run_does_not_wait_for_the_timeout() {
    for setup in (Setup { timeout: secs(20), ..Setup::default() }).over_both() {
        let mut world = setup.started();
        let from = world.started_at + Nanos(10_050_000);
        world.server.frozen = Some((from, Instant::FAR_FUTURE));
        world.run_to(ms(11));
        world.interrupt.raise();
        world.run_to(ms(500));
        // From here on the server answers, and can send the figures.
        world.server.frozen = None;
        let results = world.finish();
        assert_eq!(results.operations().in_flight_at_end, 1);
        assert_eq!(results.distribution(Metric::Service).censored(), 1);
        assert!(results.took < SECOND, "{}", results.took);
    }
}

#[test]
fn an_interrupt_of_the_warm_up_measures_nothing() {
    for setup in (Setup { warmup: SECOND, ..Setup::default() }).over_both() {
        let mut world = setup.started();
        world.run_to(ms(10));
        world.interrupt.raise();
        let results = world.finish();
        assert_eq!(results.operations(), Operations::default());
        assert!(results.warmup().completed >= 50);
        assert_eq!(results.outcome.measured, Nanos::ZERO);
        assert!(results.outcome.warmup < ms(20));
    }
}

#[test]
fn short_reads_and_writes_of_large_messages_change_nothing_but_the_time() {
    let jitter = us(20);
    for seed in 0..5 {
        let results = Setup {
            wire: SimConfig { seed, jitter, short_reads: 0.5, short_writes: 0.5, ..wire() },
            size_bytes: 64 << 10,
            connections: 2,
            duration: ms(20),
            ..Setup::default()
        }
        .run();
        let operations = results.operations();
        assert!(operations.completed > 50, "{operations:?}");
        assert_eq!(operations.completed, operations.sent);
        results.assert_no_errors();
        let figures = &results.outcome.figures;
        assert_eq!(figures.iter().map(|f| f.operations).sum::<u64>(), operations.completed);
        let bytes: u64 = figures.iter().map(|f| f.sent_bytes).sum();
        assert_eq!(bytes, operations.completed * (64 << 10));
    }
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let fingerprint = |seed| {
        let jitter = us(50);
        let (datagram_loss, datagram_reorder) = (0.05, 0.05);
        let wire = SimConfig { seed, jitter, datagram_loss, datagram_reorder, ..wire() };
        let results = Setup { wire, connections: 3, timeout: ms(10), ..Setup::udp() }.run();
        let service = results.distribution(Metric::Service).encode();
        let Record { warmup, measured, .. } = &results.tally;
        format!("{warmup:?} {measured:?} {:?} {:?} {service}", results.outcome, results.took)
    };
    let first = fingerprint(1);
    assert_eq!(first, fingerprint(1));
    assert_ne!(first, fingerprint(2));
}

#[test]
fn a_connection_for_each_operation() {
    // Ends of the warm-up at every stage of an operation.
    for quarter_round in 0..16 {
        let results = Setup {
            connect_each: true,
            connections: 1 + quarter_round % 3,
            warmup: Nanos(5_000_000 + u64::from(quarter_round) * ROUND_TRIP.0 / 4),
            duration: Nanos(100_000_000 + u64::from(quarter_round) * 30_000),
            ..Setup::default()
        }
        .run();
        let operations = results.operations();
        assert!(operations.completed > 100, "{operations:?}");
        assert_eq!(operations.completed, operations.sent);
        results.assert_no_errors();
        // A connect and a request; hello and close lie outside, and so do the warm-up's connects.
        results.assert_each(Metric::Service, ROUND_TRIP + ROUND_TRIP);
        results.assert_each(Metric::Connect, ROUND_TRIP);
        // Two more: one to learn whom we talk to, one for the figures.
        let sockets = operations.sent + results.warmup().sent + 2;
        assert_eq!((results.outcome.sockets, results.outcome.established), (sockets, sockets));
    }
}

#[test]
fn a_refusal_names_its_reason_and_measures_nothing() {
    for setup in (Setup { sessions_max: 0, ..Setup::default() }).over_both() {
        let results = setup.run();
        assert_eq!(results.operations().sent, 0);
        assert_eq!(results.errors("handshake", "refused"), 1);
        results.assert_failure("no room");
        let failure = results.outcome.failure.expect("a reason");
        assert_eq!(failure.advice(), Some("come again"));
        assert!(results.took < ms(10));
    }
}

#[test]
fn nobody_there_and_nobody_answering_are_distinguished() {
    for (transport, stage) in [(Transport::Tcp, "connect"), (Transport::Udp, "handshake")] {
        let setup = Setup { transport, ..Setup::default() };
        let mut world = setup.alone();
        world.add(|interrupt| setup.client("127.0.0.1:9".parse().unwrap(), interrupt));
        let results = world.started().finish();
        assert_eq!(results.errors(stage, "ECONNREFUSED"), 1);
        assert!(results.took < ms(10));

        let world = setup.world();
        world.net.partition();
        let connected_at = world.started_at;
        let world = world.started();
        let waited = world.started_at.since(connected_at);
        assert!(waited <= setup.timeout + ms(100), "{waited}");
        assert_eq!(world.finish().errors(stage, "timeout"), 1);
    }
}

/// The server answers nothing while the run ends by itself, and would be waited for much longer.
#[test]
fn an_interrupt_that_comes_while_a_run_ends_shortens_that() {
    let setup = Setup { duration: ms(20), timeout: secs(20), ..Setup::default() };
    for setup in setup.over_both() {
        for drains in [true, false] {
            let mut world = setup.started();
            // Else the last reply comes, and the figures do not.
            world.run_to(Nanos(if drains { 10_000_000 } else { 20_200_000 }));
            world.server.frozen = Some((world.clock.now(), Instant::FAR_FUTURE));
            world.run_to(SECOND);
            let raised_at = world.now();
            world.interrupt.raise();
            let results = world.finish();
            let took = results.took.0 - raised_at.0;
            let bound = DRAIN_INTERRUPTED.0 + FINISH_INTERRUPTED.0 + CLOSING_MAX.0;
            assert!(took <= bound + setup.step.0, "{drains}: {took} ns");
            assert!(results.operations().completed > 0 || drains);
        }
    }
}
