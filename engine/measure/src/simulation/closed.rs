//! One operation after the other.

use super::*;
use tare_driver::Wait;
use tare_stats::histogram::Added;

#[test]
fn every_round_trip_is_twice_the_latency() {
    for setup in Setup::default().over_both() {
        let results = setup.run();
        // 100 ms hold 500 round trips; the last was sent before the end.
        assert_eq!((results.operations().sent, results.ends()), (500, (500, 0)));
        results.assert_each(Metric::Service, ROUND_TRIP);
        results.assert_each(Metric::Path, ROUND_TRIP);
        results.assert_each(Metric::Residence, Nanos::ZERO);
        results.assert_no_errors();
        let Results { outcome, seen, .. } = results;
        assert!(!outcome.cut_short);
        assert_eq!(outcome.measured, ms(100));
        assert_eq!(outcome.figures.iter().map(|f| f.operations).collect::<Vec<_>>(), [500]);
        assert_eq!(seen.phases, [Phase::Connect, Phase::WarmUp, Phase::Measure, Phase::Drain]);
    }
}

#[test]
fn the_servers_delay_is_measured_to_the_nanosecond_and_parted_from_the_path() {
    const DELAY: Nanos = us(37);
    let setup =
        Setup { server_delay: DELAY, duration: ms(10), step: Nanos(1_000), ..Setup::default() };
    for setup in setup.over_both() {
        let results = setup.run();
        results.assert_each(Metric::Residence, DELAY);
        results.assert_each(Metric::Path, ROUND_TRIP);
        results.assert_each(Metric::Service, ROUND_TRIP + DELAY);
    }
}

#[test]
fn messages_too_short_for_the_residence_get_it_in_the_figures() {
    let results = Setup { size_bytes: 1, count: Some(50), ..Setup::default() }.run();
    results.assert_all(Metric::Service, 50, ROUND_TRIP);
    assert_eq!(results.distribution(Metric::Path).count(), 0);
    let figures = &results.outcome.figures[0];
    assert_eq!(figures.residence_count, 50);
    let residence = Distribution::decode(figures.residence_hdr.as_deref().unwrap()).unwrap();
    assert_eq!(residence.count(), 50);
}

#[test]
fn a_count_is_kept_exactly() {
    for count in [1, 2, 100] {
        let setup = Setup { count: Some(count), connections: 3, warmup: ms(2), ..Setup::default() };
        for setup in setup.over_both() {
            let results = setup.run();
            let operations = results.operations();
            assert_eq!((operations.due, operations.completed), (count, count));
            assert_eq!(results.outcome.measured, Nanos(ROUND_TRIP.0 * count.div_ceil(3)));
            assert!(!results.outcome.cut_short);
        }
    }
}

#[test]
fn the_warm_up_stands_in_its_own_block_alone() {
    let setup = Setup { warmup: ms(10), connections: 2, ..Setup::default() };
    for setup in setup.over_both() {
        let results = setup.run();
        let (outcome, recording) = (&results.outcome, &results.tally.recording);
        assert_eq!(results.warmup().completed, 2 * 50);
        assert_eq!(results.operations().completed, 2 * 500);
        assert_eq!(results.distribution(Metric::Service).count(), 2 * 500);
        assert_eq!(outcome.warmup, ms(10));
        assert_eq!(outcome.figures.iter().map(|f| f.operations).sum::<u64>(), 2 * 550);
        let series = recording.series(outcome.measured).map(|entry| entry.completed);
        assert_eq!(series.sum::<u64>(), 2 * 500);
    }
}

#[test]
fn a_reply_within_the_turn_in_which_measuring_begins_is_in_its_place() {
    // A blocking turn may begin before the end of the warm-up, send after it, and end with the
    // reply.
    let mut world = Setup::default().started();
    let mut client = world.clients.pop().unwrap();
    let (role, io) = client.parts_mut();
    role.poll_submit(io, world.clock.now()).unwrap();
    let mut done = Vec::new();
    while role.phases().progress.counts.0 == 0 {
        let now = world.clock.now();
        io.turn(now, Wait::Poll, &mut done).unwrap();
        for completion in done.drain(..) {
            role.handle_completion(io, completion, now).unwrap();
        }
        world.settle();
        world.advance();
    }
    world.clients.push(client);
    let results = world.finish();
    let mut series = results.tally.recording.series(results.outcome.measured);
    let first = series.next().map(|entry| entry.completed);
    assert_eq!(first, Some(results.operations().completed));
    assert_eq!(series.count(), 0);
}

/// What a client that looks late adds to a latency is known quantile by quantile.
#[test]
fn a_reply_that_was_found_late_is_charged_to_the_quantiles_that_it_can_have_moved() {
    const AWAY: Nanos = ms(4);
    let mut world =
        Setup { wait: WaitMode::Spin, duration: ms(400), step: us(10), ..Setup::default() }
            .started();
    let mut turns = 0;
    while !world.is_finished() {
        world.settle();
        world.advance();
        turns += 1;
        // Once in 50 round trips the client is away while its reply comes.
        if turns % 1_000 == 0 {
            let client = world.clients.pop().unwrap();
            let back = world.clock.now() + AWAY;
            while world.clock.now() < back {
                world.settle();
                world.advance();
            }
            world.clients.push(client);
        }
    }
    let counters = &world.clients[0].counters;
    assert!(counters.gap_p99() >= AWAY, "one figure for all: {}", counters.gap_p99());
    let added = Added::new(Nanos::ZERO, &counters.gaps().clone(), None);
    let results = world.finish();
    let service = results.distribution(Metric::Service);
    for percent in [50.0, 90.0, 95.0, 99.0] {
        let value = service.quantile(percent).unwrap().value_ns;
        let error = added.to_quantile(service, percent).unwrap().0;
        // Every round trip took as long in truth.
        assert!((value - error..=value).contains(&ROUND_TRIP.0), "p{percent}: {value} - {error}");
        let most = if percent < 97.0 { 10_200 } else { AWAY.0 + 10_200 };
        assert!(error <= most, "p{percent}: ± {error}");
    }
    assert!(service.quantile(99.0).unwrap().value_ns >= AWAY.0);
}
