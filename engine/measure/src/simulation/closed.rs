//! One operation after the other.

use super::*;
use tare_driver::{Driver, Wait};

#[test]
fn every_round_trip_is_twice_the_latency() {
    for setup in Setup::both(|_| {}) {
        let results = setup.run();
        assert_eq!(results.spread(Metric::Service), [ROUND_TRIP.0; 3]);
        assert_eq!(results.spread(Metric::Path), [ROUND_TRIP.0; 3]);
        assert_eq!(results.spread(Metric::Residence), [0; 3]);
        // 100 ms hold 500 round trips; the last was sent before the end.
        assert_eq!(results.measured.operations.completed, 500);
        assert_eq!(results.measured.operations.sent, 500);
        assert_eq!(results.measured.errors.total(), 0);
        assert!(!results.outcome.cut_short);
        assert_eq!(results.outcome.measured, Nanos::from_millis(100));
        assert_eq!(results.outcome.figures.len(), 1);
        assert_eq!(results.outcome.figures[0].operations, 500);
        assert_eq!(
            results.seen.phases,
            [Phase::Connect, Phase::WarmUp, Phase::Measure, Phase::Drain]
        );
    }
}

#[test]
fn the_servers_delay_is_measured_to_the_nanosecond_and_told_apart() {
    const DELAY: Nanos = Nanos::from_micros(37);
    for setup in Setup::both(|setup| {
        setup.server_delay = DELAY;
        setup.duration = Some(Nanos::from_millis(10));
        setup.step = Nanos(1_000);
    }) {
        let results = setup.run();
        assert_eq!(results.spread(Metric::Residence), [DELAY.0; 3]);
        assert_eq!(results.spread(Metric::Path), [ROUND_TRIP.0; 3]);
        assert_eq!(results.spread(Metric::Service), [ROUND_TRIP.0 + DELAY.0; 3]);
    }
}

#[test]
fn messages_too_short_for_the_residence_get_it_in_the_figures() {
    let results = Setup { size_bytes: 1, count: Some(50), ..Setup::default() }.run();
    assert_eq!(results.spread(Metric::Service), [ROUND_TRIP.0; 3]);
    assert_eq!(results.distribution(Metric::Path).count(), 0);
    let figures = &results.outcome.figures[0];
    assert_eq!(figures.residence_count, 50);
    let told = Distribution::decode(figures.residence_hdr.as_deref().unwrap()).unwrap();
    assert_eq!(told.count(), 50);
}

#[test]
fn a_count_is_kept_exactly() {
    for count in [1, 2, 100] {
        for setup in Setup::both(|setup| {
            setup.count = Some(count);
            setup.connections = 3;
            setup.warmup = Nanos::from_millis(2);
        }) {
            let results = setup.run();
            let operations = results.measured.operations;
            assert_eq!((operations.due, operations.completed), (count, count));
            let rounds = count.div_ceil(3);
            assert_eq!(results.outcome.measured, Nanos(ROUND_TRIP.0 * rounds));
            assert!(!results.outcome.cut_short);
        }
    }
}

#[test]
fn the_warm_up_stands_in_its_own_block_alone() {
    for setup in Setup::both(|setup| {
        setup.warmup = Nanos::from_millis(10);
        setup.connections = 2;
    }) {
        let results = setup.run();
        assert_eq!(results.warmup.operations.completed, 2 * 50);
        assert_eq!(results.measured.operations.completed, 2 * 500);
        let measured = results.distribution(Metric::Service).count();
        assert_eq!(measured, 2 * 500);
        assert_eq!(results.outcome.warmup, Nanos::from_millis(10));
        let served: u64 = results.outcome.figures.iter().map(|f| f.operations).sum();
        assert_eq!(served, 2 * 550);
        let in_series: u64 =
            results.recording.series(results.outcome.measured).map(|entry| entry.completed).sum();
        assert_eq!(in_series, 2 * 500);
    }
}

#[test]
fn a_reply_within_the_turn_in_which_measuring_begins_is_in_its_place() {
    // A blocking turn may begin before the end of the warm-up, send after it, and end with the
    // reply.
    let setup = Setup { connections: 1, ..Setup::default() };
    let mut world = World::new(&setup);
    world.start();
    let mut client = world.client.take().unwrap();
    let (role, io) = client.parts_mut();
    role.poll_submit(io, world.clock.now()).unwrap();
    let mut done = Vec::new();
    while world.seen.0.borrow().counts.0 == 0 {
        let now = world.clock.now();
        io.turn(now, Wait::Poll, &mut done).unwrap();
        for completion in done.drain(..) {
            role.handle_completion(io, completion, now).unwrap();
        }
        world.settle();
        world.advance();
    }
    world.client = Some(client);
    let results = world.finish();
    let mut series = results.recording.series(results.outcome.measured);
    let first = series.next().map(|entry| entry.completed);
    assert_eq!(first, Some(results.measured.operations.completed));
    assert_eq!(series.count(), 0);
}
