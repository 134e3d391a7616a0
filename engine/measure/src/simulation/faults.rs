//! What goes wrong on the wire, at either end, and at the door.

use super::*;
use crate::worker::ClientRole;
use tare_units::bounds::{CLOSING_MAX, DRAIN_INTERRUPTED, FINISH_INTERRUPTED};

#[test]
fn a_vanished_server_ends_a_tcp_run_within_its_timeout() {
    let timeout = Nanos::from_millis(500);
    let mut world = World::new(&Setup {
        duration: Some(Nanos::from_secs(3_600)),
        connections: 2,
        timeout,
        ..Setup::default()
    });
    world.start();
    world.run_for(Nanos::from_millis(50));
    world.net.partition();
    let results = world.finish();
    let operations = results.measured.operations;
    assert_eq!(operations.timed_out, 2);
    assert_eq!(results.errors("receive", "timeout"), 2);
    assert!(operations.completed >= 490);
    assert!(results.outcome.cut_short);
    let failure = results.outcome.failure.expect("a reason");
    assert!(failure.message().contains("does not answer within 500 ms"));
    let bound = Nanos::from_millis(50) + timeout + Nanos::from_millis(20);
    assert!(results.took <= bound, "took {}", results.took);
}

#[test]
fn lost_datagrams_are_timeouts_and_never_hang() {
    for connections in [1, 4] {
        let results = Setup {
            wire: SimConfig {
                latency: LATENCY,
                datagram_loss: 0.05,
                seed: 3,
                ..SimConfig::default()
            },
            duration: Some(Nanos::from_secs(10)),
            timeout: Nanos::from_millis(20),
            connections,
            ..Setup::udp()
        }
        .run();
        let operations = results.measured.operations;
        let lost = operations.timed_out as f64 / operations.sent as f64;
        assert!((0.06..0.14).contains(&lost), "1 − 0.95² is 0.0975: {lost}");
        assert_eq!(results.errors("receive", "timeout"), operations.timed_out);
        assert!(!results.outcome.cut_short, "{:?}", results.outcome.failure);
        assert!(results.took < Nanos::from_millis(10_200));
        let service = results.distribution(Metric::Service);
        assert_eq!(service.min_ns(), Some(ROUND_TRIP.0));
        assert!(service.quantile(95.0).is_some_and(|q| q.lower_bound));
        assert!(service.quantile(50.0).is_some_and(|q| !q.lower_bound));
    }
}

#[test]
fn late_replies_are_counted_and_not_taken_for_others() {
    const STALLS: u64 = 3;
    let mut world = World::new(&Setup {
        duration: Some(Nanos::from_secs(2)),
        timeout: Nanos::from_millis(100),
        ..Setup::udp()
    });
    world.start();
    for stall in 0..STALLS {
        // Long enough for one request to be given up and a second one to be sent.
        let from = world.started_at + Nanos(stall * 500_000_000 + 50_050_000);
        world.frozen = Some((from, from + Nanos::from_millis(150)));
        world.run_for(Nanos::from_millis((stall + 1) * 500));
    }
    let results = world.finish();
    assert_eq!(results.measured.operations.timed_out, STALLS);
    assert_eq!(results.errors("receive", "late-reply"), STALLS);
    assert_eq!(
        results.distribution(Metric::Service).min_ns(),
        Some(ROUND_TRIP.0),
        "a late reply was taken for the answer to a later request"
    );
}

#[test]
fn a_reset_is_an_error_with_its_name_and_ends_the_run() {
    for rate_per_s in [None, Some(10_000.0)] {
        let mut world = World::new(&Setup {
            duration: Some(Nanos::from_secs(60)),
            connections: 2,
            rate_per_s,
            ..Setup::default()
        });
        world.start();
        let at = world.started_at + Nanos(20_050_000);
        world.net.plan_reset(at);
        let results = world.finish();
        let operations = results.measured.operations;
        assert!(operations.failed >= 1 && operations.failed <= 2, "{operations:?}");
        assert!(results.errors("receive", "ECONNRESET") >= 1);
        assert!(results.outcome.cut_short);
        let failure = results.outcome.failure.expect("a reason");
        assert!(failure.message().contains("reset the connection"));
        assert!(results.took < Nanos::from_millis(30), "{}", results.took);
    }
}

#[test]
fn an_interrupt_drains_and_leaves_a_partial_result() {
    for rate_per_s in [None, Some(20_000.0)] {
        for setup in Setup::both(|setup| {
            setup.duration = Some(Nanos::from_secs(60));
            setup.connections = 2;
            setup.rate_per_s = rate_per_s;
        }) {
            let mut world = World::new(&setup);
            world.start();
            world.run_for(Nanos(10_050_000));
            world.interrupt.raise();
            let results = world.finish();
            let operations = results.measured.operations;
            assert!(results.outcome.cut_short);
            assert!(operations.completed >= 100);
            assert_eq!(operations.in_flight_at_end, 0, "what is under way may finish");
            assert_eq!(results.outcome.figures.len(), 2);
            assert!(results.took < Nanos::from_millis(30), "{}", results.took);
            assert!(results.outcome.measured >= Nanos(10_050_000));
            assert!(results.outcome.measured < Nanos::from_millis(20));
        }
    }
}

#[test]
fn an_interrupt_of_a_stalled_run_does_not_wait_for_the_timeout() {
    for setup in Setup::both(|setup| setup.timeout = Nanos::from_secs(20)) {
        let mut world = World::new(&setup);
        world.start();
        let from = world.started_at + Nanos(10_050_000);
        world.frozen = Some((from, Instant::FAR_FUTURE));
        world.run_for(Nanos::from_millis(11));
        world.interrupt.raise();
        world.run_for(Nanos::from_millis(500));
        // From here on the server answers: the figures may be told.
        world.frozen = None;
        let results = world.finish();
        assert_eq!(results.measured.operations.in_flight_at_end, 1);
        assert_eq!(results.distribution(Metric::Service).censored(), 1);
        assert!(results.took < Nanos::from_secs(1), "{}", results.took);
    }
}

#[test]
fn an_interrupt_of_the_warm_up_measures_nothing() {
    for setup in Setup::both(|setup| setup.warmup = Nanos::from_secs(1)) {
        let mut world = World::new(&setup);
        world.start();
        world.run_for(Nanos::from_millis(10));
        world.interrupt.raise();
        let results = world.finish();
        assert_eq!(results.measured.operations, tare_stats::result::Operations::default());
        assert!(results.warmup.operations.completed >= 50);
        assert_eq!(results.outcome.measured, Nanos::ZERO);
        assert!(results.outcome.warmup < Nanos::from_millis(20));
    }
}

#[test]
fn short_reads_and_writes_of_large_messages_change_nothing_but_the_time() {
    for seed in 0..5 {
        let results = Setup {
            wire: SimConfig {
                seed,
                latency: LATENCY,
                jitter: Nanos::from_micros(20),
                short_reads: 0.5,
                short_writes: 0.5,
                ..SimConfig::default()
            },
            size_bytes: 64 << 10,
            connections: 2,
            duration: Some(Nanos::from_millis(20)),
            ..Setup::default()
        }
        .run();
        let operations = results.measured.operations;
        assert!(operations.completed > 50, "{operations:?}");
        assert_eq!(operations.completed, operations.sent);
        assert_eq!(results.measured.errors.total(), 0);
        let served: u64 = results.outcome.figures.iter().map(|f| f.operations).sum();
        assert_eq!(served, operations.completed);
        let bytes: u64 = results.outcome.figures.iter().map(|f| f.sent_bytes).sum();
        assert_eq!(bytes, operations.completed * (64 << 10));
    }
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let setup = |seed| Setup {
        wire: SimConfig {
            seed,
            latency: LATENCY,
            jitter: Nanos::from_micros(50),
            datagram_loss: 0.05,
            datagram_reorder: 0.05,
            ..SimConfig::default()
        },
        connections: 3,
        timeout: Nanos::from_millis(10),
        ..Setup::udp()
    };
    let first = setup(1).run().fingerprint();
    assert_eq!(first, setup(1).run().fingerprint());
    assert_ne!(first, setup(2).run().fingerprint());
}

#[test]
fn a_connection_for_each_operation() {
    // Ends of the warm-up at every stage of an operation.
    for quarter_round in 0..16 {
        let results = Setup {
            connect_each: true,
            connections: 1 + quarter_round % 3,
            warmup: Nanos(5_000_000 + u64::from(quarter_round) * ROUND_TRIP.0 / 4),
            duration: Some(Nanos(100_000_000 + u64::from(quarter_round) * 30_000)),
            ..Setup::default()
        }
        .run();
        let operations = results.measured.operations;
        assert!(operations.completed > 100, "{operations:?}");
        assert_eq!(operations.completed, operations.sent);
        assert_eq!(results.measured.errors.total(), 0);
        // A connect and a request; hello and close lie outside.
        assert_eq!(results.spread(Metric::Service), [2 * ROUND_TRIP.0; 3]);
        assert_eq!(results.spread(Metric::Connect), [ROUND_TRIP.0; 3]);
        assert_eq!(
            results.distribution(Metric::Connect).count(),
            operations.completed,
            "the warm-up's connections are not measured"
        );
        let all = operations.sent + results.warmup.operations.sent;
        // Two more: one to learn whom we talk to, one for the figures.
        assert_eq!(results.outcome.sockets, all + 2);
        assert_eq!(results.outcome.established, all + 2);
    }
}

#[test]
fn a_connection_for_each_operation_ends_in_time_when_the_far_end_vanishes() {
    let timeout = Nanos::from_millis(100);
    let mut world = World::new(&Setup {
        connect_each: true,
        connections: 3,
        timeout,
        duration: Some(Nanos::from_millis(400)),
        ..Setup::default()
    });
    world.start();
    world.run_for(Nanos::from_millis(50));
    world.net.partition();
    let results = world.finish();
    assert!(results.measured.operations.timed_out >= 3);
    let bound = Nanos::from_millis(400) + timeout + timeout + Nanos::from_millis(20);
    assert!(results.took <= bound, "{}", results.took);
}

#[test]
fn a_refusal_names_its_reason_and_measures_nothing() {
    for setup in Setup::both(|setup| setup.sessions_max = 0) {
        let results = setup.run();
        assert_eq!(results.measured.operations.sent, 0);
        assert_eq!(results.errors("handshake", "refused"), 1, "{:?}", results.measured.errors);
        let failure = results.outcome.failure.expect("a reason");
        assert!(failure.message().contains("no room"), "{failure}");
        assert_eq!(failure.advice(), Some("come again"));
        assert!(results.took < Nanos::from_millis(10));
    }
}

#[test]
fn nobody_there_is_told_apart_from_nobody_answering() {
    for (transport, stage) in [(Transport::Tcp, "connect"), (Transport::Udp, "handshake")] {
        let setup = Setup { transport, ..Setup::default() };
        let mut world = World::new(&setup);
        let mut elsewhere = world.net.driver();
        let mut client = setup.client(
            "127.0.0.1:9".parse().unwrap(),
            world.interrupt.clone(),
            world.seen.clone(),
        );
        client.connect(&mut elsewhere, world.clock.now()).unwrap();
        world.client = Some(Worker::new(elsewhere, world.clock.clone(), client));
        world.start();
        let results = world.finish();
        assert_eq!(results.errors(stage, "ECONNREFUSED"), 1);
        assert!(results.took < Nanos::from_millis(10));

        let mut world = World::new(&setup);
        world.net.partition();
        world.start();
        let waited = world.started_at.since(Instant(1_000_000_000));
        let results = world.finish();
        assert_eq!(results.errors(stage, "timeout"), 1, "{:?}", results.measured.errors);
        assert!(waited <= setup.timeout + Nanos::from_millis(100), "{waited}");
    }
}

/// The server answers nothing while the run ends by itself, and would be waited for much longer.
#[test]
fn an_interrupt_that_comes_while_a_run_ends_shortens_that() {
    let second = Nanos::from_secs(1);
    for setup in Setup::both(|setup| {
        setup.duration = Some(Nanos::from_millis(20));
        setup.timeout = Nanos::from_secs(20);
    }) {
        for drains in [true, false] {
            let mut world = World::new(&setup);
            world.start();
            // Else the last reply comes, and the figures do not.
            world.run_for(Nanos(if drains { 10_000_000 } else { 20_200_000 }));
            let now = world.clock.now();
            world.frozen = Some((now, Instant::FAR_FUTURE));
            world.run_for(second);
            let raised_at = world.clock.now().since(world.started_at);
            world.interrupt.raise();
            let results = world.finish();
            let took = results.took.0 - raised_at.0;
            let bound = DRAIN_INTERRUPTED.0 + FINISH_INTERRUPTED.0 + CLOSING_MAX.0;
            assert!(took <= bound + setup.step.0, "{drains}: {took} ns");
            assert!(results.measured.operations.completed > 0 || drains);
        }
    }
}
