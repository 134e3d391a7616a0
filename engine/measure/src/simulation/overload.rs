//! A rate that was not reached: what of a run's result says why, and for ping-pong the cause that
//! is named.

use super::*;
use crate::worker::tally::Tally;
use tare_stats::health;
use tare_stats::result::{Connections, Params, StepResult};
use tare_stats::summary::{PERCENTILES, latencies};

/// What of a run's result says who was to blame.
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

/// The cause that is named and no other, if the rate was not reached.
pub(super) fn cause(step: &StepResult) -> Option<String> {
    let warnings = health::warnings(step);
    let found = warnings.iter().find(|warning| warning.code == "rate-not-reached")?;
    assert!(warnings.iter().all(|w| w.code != "connections-busy"), "{found:?}");
    let cause = found.message.split(" as expected: ").nth(1);
    Some(cause.unwrap_or(&found.message).to_owned())
}

fn cause_of(setup: &Setup, results: &Results) -> Option<String> {
    let params =
        Params { connections: setup.connections, timeout_ns: setup.timeout.0, ..Params::default() };
    let rate = setup.rate_per_s.expect("open loop");
    let Record { recording, measured, .. } = &results.tally;
    cause(&step(params, rate, &results.outcome, recording, measured))
}

#[track_caller]
fn assert_blamed(setup: &Setup, results: &Results, blamed: &str) {
    let cause = cause_of(setup, results);
    let is_blamed = cause.as_ref().is_some_and(|cause| cause.starts_with(blamed));
    assert!(is_blamed, "{cause:?}: {setup:?}");
}

#[test]
fn a_server_that_holds_each_request_is_named_with_how_long() {
    let setup = Setup { server_delay: MS, step: us(50), ..Setup::at(5_000.0) };
    for mut setup in setup.over_both() {
        let cause =
            "the server, it held each request for 1 ms of the 1.2 ms that a round trip took";
        assert_blamed(&setup, &setup.run(), cause);
        setup.connections = 20;
        assert_eq!(cause_of(&setup, &setup.run()), None);
    }
}

#[test]
fn round_trips_that_take_no_longer_for_many_lack_connections() {
    for connect_each in [false, true] {
        for (connections, warmup) in pairs([1, 4, 20], [0, 50]) {
            let setup = Setup { connect_each, connections, warmup: ms(warmup), ..Setup::default() };
            let rate_per_s = Some(f64::from(connections) * 20_000.0);
            for setup in (Setup { rate_per_s, ..setup }).over_both() {
                assert_blamed(&setup, &setup.run(), "the connections, 100 %");
            }
        }
        // So many as are advised reach the rate.
        let setup = Setup { connect_each, connections: 32, ..Setup::at(8_000.0) };
        for setup in setup.over_both() {
            assert_eq!(cause_of(&setup, &setup.run()), None, "{setup:?}");
        }
    }
}

#[test]
fn what_a_round_trip_takes_alone_is_known() {
    for (rate, alone) in [(1_000.0, 100), (10_000.0, 1)] {
        // At the higher rate there is always another one under way, but for the first.
        let setup = Setup { connections: 4, ..Setup::at(rate) };
        for setup in setup.over_both() {
            let unloaded = setup.run().outcome.unloaded;
            assert_eq!(unloaded, (alone, Nanos(alone * ROUND_TRIP.0)));
        }
    }
}

#[test]
fn what_is_lost_is_to_blame_where_connections_waited_for_it() {
    let lossy = Setup {
        wire: SimConfig { datagram_loss: 0.05, seed: 3, ..wire() },
        rate_per_s: Some(2_000.0),
        duration: secs(2),
        timeout: ms(50),
        ..Setup::udp()
    };
    assert_blamed(&lossy, &lossy.run(), "the path or the server, ");
    // Nothing comes back from the middle on.
    let setup = Setup { connect_each: true, connections: 4, ..Setup::at(1_000.0) };
    let setup = Setup { duration: SECOND, timeout: ms(100), ..setup };
    for setup in setup.over_both() {
        let mut world = setup.started();
        world.run_to(ms(500));
        world.net.partition();
        assert_blamed(&setup, &world.finish(), "the path or the server, ");
    }
}

#[test]
fn connections_that_were_refused_are_to_blame() {
    let setup = Setup { connections: 4, sessions_max: 1, ..Setup::at(20_000.0) };
    let cause = "the server, connections to it were down for 75 % of the time: 3 × handshake";
    assert_blamed(&setup, &setup.run(), cause);
}

#[test]
fn a_server_that_stands_still_and_a_client_that_is_away_are_distinguished() {
    let setup =
        Setup { connections: 10, duration: secs(5), timeout: secs(10), ..Setup::at(1_000.0) };
    for setup in setup.over_both() {
        let mut world = setup.started();
        let from = world.started_at + secs(4);
        world.server.frozen = Some((from, from + ms(1_500)));
        assert_blamed(&setup, &world.finish(), "the server, for a time all connections");
        // The clock moves by 600 ms at once, and one who spins sees no deadline.
        let (wait, step, duration) = (WaitMode::Spin, ms(600), SECOND);
        let setup = Setup { wait, step, duration, ..setup };
        assert_blamed(&setup, &setup.run(), "the generator, ");
    }
}
