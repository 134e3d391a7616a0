//! A client that looks late: what it adds to a latency is told quantile by quantile.

use super::*;
use tare_stats::histogram::Added;

#[test]
fn a_reply_that_was_found_late_is_charged_to_the_quantiles_that_it_can_have_moved() {
    const AWAY: Nanos = Nanos::from_millis(4);
    let mut world = World::new(&Setup {
        wait: WaitMode::Spin,
        duration: Some(Nanos::from_millis(400)),
        step: Nanos::from_micros(10),
        ..Setup::default()
    });
    world.start();
    let mut turns = 0;
    while !world.client().is_finished_now() {
        world.settle();
        world.advance();
        turns += 1;
        // Once in 50 round trips the client is away while its reply comes.
        if turns % 1_000 == 0 {
            let client = world.client.take();
            let back = world.clock.now() + AWAY;
            while world.clock.now() < back {
                world.settle();
                world.advance();
            }
            world.client = client;
        }
    }
    let client = world.client.as_ref().unwrap();
    let gaps = client.counters.gaps().clone();
    let counters = client.counters.gap_p99();
    let added = Added::new(Nanos::ZERO, &gaps, None);
    let results = world.finish();
    let told = results.distribution(Kind::Service);
    assert!(counters >= AWAY, "one figure for all: {counters}");
    for percent in [50.0, 90.0, 95.0, 99.0] {
        let value = told.quantile(percent).unwrap().value_ns;
        let error = added.to_quantile(told, percent).unwrap().0;
        // Every round trip took as long in truth.
        assert!((value - error..=value).contains(&ROUND_TRIP.0), "p{percent}: {value} - {error}");
        let most = if percent < 97.0 { 10_200 } else { AWAY.0 + 10_200 };
        assert!(error <= most, "p{percent}: ± {error}");
    }
    assert!(told.quantile(99.0).unwrap().value_ns >= AWAY.0);
}
