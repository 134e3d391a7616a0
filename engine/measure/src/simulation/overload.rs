//! A rate that was not reached: what of a run's result tells why, and for ping-pong the cause that
//! is told.

use super::*;
use tare_stats::health;
use tare_stats::result::{Connections, Params, StepResult};
use tare_stats::summary::{PERCENTILES, latencies};

/// What of a run's result tells who was to blame.
pub(super) fn step(
    params: Params,
    rate_per_s: f64,
    outcome: &Outcome,
    recording: &Recording,
    measured: &Tally,
) -> StepResult {
    StepResult {
        duration_ns: outcome.measured.0,
        operations: measured.operations,
        rate: outcome.rate(Some(rate_per_s)),
        latency: latencies(recording, &PERCENTILES, None),
        connections: Connections {
            asked: u64::from(params.connections),
            connecting_ns: Some(outcome.connecting.0),
            down_ns: Some(outcome.down.0),
            ..Connections::default()
        },
        errors: measured.errors.to_counts(),
        partial: outcome.cut_short,
        params,
        ..StepResult::default()
    }
}

/// The cause that is told and no other, if the rate was not reached.
pub(super) fn cause(step: &StepResult) -> Option<String> {
    let warnings = health::warnings(step);
    let busy = warnings.iter().any(|w| w.code == "connections-busy");
    let mut warnings = warnings.iter();
    let found = warnings.find(|warning| warning.code == "rate-not-reached")?;
    assert!(!busy, "{found:?}");
    let cause = found.message.split(" as expected: ").nth(1);
    Some(cause.unwrap_or(&found.message).to_owned())
}

fn cause_of(setup: &Setup, results: &Results) -> Option<String> {
    let params =
        Params { connections: setup.connections, timeout_ns: setup.timeout.0, ..Params::default() };
    let rate = setup.rate_per_s.expect("open loop");
    let Results { outcome, recording, measured, .. } = results;
    cause(&step(params, rate, outcome, recording, measured))
}

#[track_caller]
fn assert_blamed(setup: &Setup, results: &Results, blamed: &str) {
    let cause = cause_of(setup, results);
    let told = cause.as_ref().is_some_and(|told| told.starts_with(blamed));
    assert!(told, "{cause:?}: {setup:?}");
}

#[test]
fn a_far_end_that_holds_each_request_is_told_with_how_long() {
    for mut setup in Setup::both(|setup| {
        setup.rate_per_s = Some(5_000.0);
        setup.server_delay = Nanos::from_millis(1);
        setup.step = Nanos::from_micros(50);
    }) {
        let told = "the server, it held each request for 1 ms of the 1.2 ms that a round trip took";
        assert_blamed(&setup, &setup.run(), told);
        setup.connections = 20;
        assert_eq!(cause_of(&setup, &setup.run()), None);
    }
}

#[test]
fn round_trips_that_take_no_longer_for_many_lack_connections() {
    for connect_each in [false, true] {
        for connections in [1, 4, 20] {
            for warmup in [0, 50] {
                for setup in Setup::both(|setup| {
                    setup.connect_each = connect_each && setup.transport == Transport::Tcp;
                    setup.connections = connections;
                    setup.warmup = Nanos::from_millis(warmup);
                    setup.rate_per_s = Some(f64::from(connections) * 20_000.0);
                }) {
                    assert_blamed(&setup, &setup.run(), "the connections, 100 %");
                }
            }
        }
    }
}

#[test]
fn so_many_connections_as_are_advised_reach_the_rate() {
    for connect_each in [false, true] {
        for setup in Setup::both(|setup| {
            setup.connect_each = connect_each && setup.transport == Transport::Tcp;
            setup.connections = 32;
            setup.rate_per_s = Some(8_000.0);
        }) {
            assert_eq!(cause_of(&setup, &setup.run()), None, "{setup:?}");
        }
    }
}

#[test]
fn what_a_round_trip_takes_alone_is_known() {
    for (rate, alone) in [(1_000.0, 100), (10_000.0, 1)] {
        // At the higher rate there is always another one under way, but for the first.
        for setup in Setup::both(|setup| {
            setup.connections = 4;
            setup.rate_per_s = Some(rate);
        }) {
            let unloaded = setup.run().outcome.unloaded;
            assert_eq!(unloaded, (alone, Nanos(alone * ROUND_TRIP.0)));
        }
    }
}

#[test]
fn what_is_lost_is_to_blame_where_connections_waited_for_it() {
    let lossy = Setup {
        wire: SimConfig { latency: LATENCY, datagram_loss: 0.05, seed: 3, ..SimConfig::default() },
        rate_per_s: Some(2_000.0),
        duration: Some(Nanos::from_secs(2)),
        timeout: Nanos::from_millis(50),
        ..Setup::udp()
    };
    assert_blamed(&lossy, &lossy.run(), "the path or the server, ");
    // Nothing comes back from the middle on.
    for setup in Setup::both(|setup| {
        setup.connect_each = setup.transport == Transport::Tcp;
        setup.connections = 4;
        setup.rate_per_s = Some(1_000.0);
        setup.duration = Some(Nanos::from_secs(1));
        setup.timeout = Nanos::from_millis(100);
    }) {
        let mut world = World::new(&setup);
        world.start();
        world.run_for(Nanos::from_millis(500));
        world.net.partition();
        let results = world.finish();
        assert_blamed(&setup, &results, "the path or the server, ");
    }
}

#[test]
fn connections_that_were_refused_are_to_blame() {
    let setup =
        Setup { connections: 4, sessions_max: 1, rate_per_s: Some(20_000.0), ..Setup::default() };
    let told = "the server, connections to it were down for 75 % of the time: 3 × handshake";
    assert_blamed(&setup, &setup.run(), told);
}

#[test]
fn a_far_end_that_stands_still_and_a_client_that_is_away_are_told_apart() {
    for setup in Setup::both(|setup| {
        setup.connections = 10;
        setup.rate_per_s = Some(1_000.0);
        setup.duration = Some(Nanos::from_secs(5));
        setup.timeout = Nanos::from_secs(10);
    }) {
        let mut world = World::new(&setup);
        world.start();
        let from = world.started_at + Nanos::from_secs(4);
        world.frozen = Some((from, from + Nanos::from_millis(1_500)));
        let results = world.finish();
        assert_blamed(&setup, &results, "the server, for a time all connections");
        // The clock moves by 600 ms at once, and one who spins sees no deadline.
        let setup = Setup {
            wait: WaitMode::Spin,
            step: Nanos::from_millis(600),
            duration: Some(Nanos::from_secs(1)),
            ..setup
        };
        assert_blamed(&setup, &setup.run(), "the generator, ");
    }
}
