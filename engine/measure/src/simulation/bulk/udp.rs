//! UDP: every datagram is accounted for.

use super::*;

/// Datagrams of 1,000 bytes, 2,000 in each second of each direction.
fn paced(direction: Direction) -> Setup {
    Setup {
        transport: Transport::Udp,
        direction,
        size_bytes: 1_000,
        rate_bits_per_s: 16_000_000,
        duration: ms(500),
        turn: us(20),
        ..Setup::default()
    }
}

/// The same for hours; and unpaced: then a send is under way whenever something happens.
fn endless() -> impl Iterator<Item = Setup> {
    let duration = secs(3_600);
    DIRECTIONS.into_iter().flat_map(move |direction| {
        [16_000_000, 0].map(|rate_bits_per_s| Setup {
            rate_bits_per_s,
            duration,
            ..paced(direction)
        })
    })
}

fn lost(leg: &Leg<'_>) -> u64 {
    assert!(leg.received.datagrams <= leg.sent.datagrams, "one too many");
    leg.sent.datagrams - leg.received.datagrams
}

#[test]
fn a_paced_stream_loses_nothing_on_a_good_path_however_long_it_is() {
    for (direction, latency) in pairs(DIRECTIONS, [Nanos::ZERO, MS, ms(200)]) {
        for streams in [1, 2] {
            let mut setup = Setup { streams, ..paced(direction) };
            setup.wire.latency = latency;
            let results = setup.run_clean();
            let what = format!("{direction:?} {latency} {streams}");
            for leg in results.legs() {
                let Leg { sent, received } = leg;
                assert_eq!(lost(&leg), 0, "{what}");
                assert_eq!(sent.datagrams, 1_000 / u64::from(streams), "{what}");
                assert_eq!(sent.bytes, received.bytes, "{what}");
                assert_eq!((received.reordered, received.duplicated), (0, 0));
                let rate = received.bytes as f64 * 8e9 / received.duration_ns as f64;
                let asked = 16e6 / f64::from(streams);
                assert!((rate / asked - 1.0).abs() < 0.005, "{what}: {rate}");
                assert!(received.jitter_ns.unwrap() < 40_000, "{what}");
            }
        }
    }
}

#[test]
fn loss_doubles_and_disorder_are_counted_to_the_datagram() {
    for (direction, seed) in pairs(DIRECTIONS, 0..3) {
        let wire = SimConfig {
            seed,
            latency: MS,
            jitter: us(50),
            datagram_loss: 0.02,
            datagram_reorder: 0.05,
            datagram_duplicate: 0.03,
            ..SimConfig::default()
        };
        let results = Setup { wire, duration: secs(2), ..paced(direction) }.run_clean();
        for leg in results.legs() {
            assert_eq!(leg.sent.datagrams, 4_000);
            let share = |n: u64| n as f64 / 4_000.0;
            assert!((0.01..0.03).contains(&share(lost(&leg))), "{}", lost(&leg));
            assert!((0.015..0.045).contains(&share(leg.received.duplicated)));
            assert!((0.02..0.08).contains(&share(leg.received.reordered)));
            assert_eq!(leg.received.bytes, leg.received.datagrams * 1_000);
            assert_eq!(leg.received.series.iter().sum::<u64>(), leg.received.bytes);
        }
    }
}

#[test]
fn by_bytes_every_datagram_is_whole_and_none_is_waited_for_in_vain() {
    for direction in DIRECTIONS {
        for datagram_loss in [0.0, 0.1] {
            let mut setup = Setup { bytes: 99_500, ..paced(direction) };
            setup.wire = SimConfig { datagram_loss, seed: 3, ..setup.wire };
            let results = setup.run_clean();
            for leg in results.legs() {
                assert_eq!((leg.sent.datagrams, leg.sent.unsent), (100, 0), "{direction:?}");
                assert_eq!(lost(&leg) > 0, datagram_loss > 0.0, "{direction:?}");
            }
            assert!(results.took < ms(50 + 1_000), "{}", results.took);
        }
        // Gaps longer than any wait are the schedule's doing: a datagram every three seconds is
        // rarer than signals, than the timeout, and than a server's patience.
        let setup = Setup { rate_bits_per_s: 8_000 / 3, bytes: 4_000, ..paced(direction) };
        for leg in setup.run_clean().legs() {
            assert_eq!((leg.sent.datagrams, lost(&leg)), (4, 0), "{direction:?}");
        }
    }
}

#[test]
fn what_was_not_measured_never_counts() {
    // Datagrams of the warm-up that overtake, or are overtaken, at the boundary.
    for seed in 0..10 {
        let mut setup = Setup { duration: ms(100), ..paced(Direction::Both) };
        setup.wire = SimConfig { seed, jitter: ms(20), ..setup.wire };
        for leg in setup.run_clean().legs() {
            assert_eq!((leg.sent.datagrams, lost(&leg)), (200, 0), "seed {seed}");
        }
    }
}

#[test]
fn signals_keep_a_sender_going_and_their_absence_stops_it() {
    let setup = paced(Direction::Down);
    Setup { duration: secs(20), ..setup.clone() }.run_clean();
    // Nobody is left to signal; without that, the session would be kept for hours.
    let mut world = Setup { duration: secs(3_600), ..setup }.started();
    world.run_to(ms(500));
    world.net.partition();
    world.run_to(ms(2_300));
    assert_eq!(world.server.sessions(), 1);
    world.clients.clear();
    world.run_to(ms(2_800 + 1_200));
    assert_eq!(world.server.sessions(), 0);
}

#[test]
fn a_session_that_the_server_has_ended_leaves_its_figures_and_says_why() {
    for setup in endless() {
        for stops in [true, false] {
            let mut setup = Setup { turn: us(200), ..setup.clone() };
            if !stops {
                setup.limits.duration = ms(300);
            }
            let mut world = setup.started();
            world.run_to(ms(300));
            if stops {
                world.server.stop();
            }
            let results = world.finish();
            let what = format!("{:?} {} {stops}", setup.direction, setup.rate_bits_per_s);
            let why = if stops { "told to stop" } else { "--max-duration" };
            assert!(results.failure().contains(why), "{what}: {}", results.failure());
            assert!(results.outcome.cut_short);
            assert!(results.took < SECOND, "{what}: {}", results.took);
            for leg in results.legs() {
                assert!(leg.received.datagrams > 200, "{what}");
                assert!(leg.sent.datagrams >= leg.received.datagrams, "{what}");
            }
        }
    }
}

#[test]
fn figures_are_fetched_over_a_path_that_loses_every_fourth_datagram() {
    for seed in 0..5 {
        let (interval, timeout) = (MS, secs(5));
        let mut setup = Setup { interval, timeout, ..paced(Direction::Both) };
        setup.wire = SimConfig { seed, datagram_loss: 0.25, ..setup.wire };
        for leg in setup.run_clean().legs() {
            assert!(lost(&leg) > 100 && leg.received.datagrams > 500);
            assert!(leg.received.series.len() > 400);
        }
    }
}

#[test]
fn an_interrupt_keeps_what_was_measured() {
    for setup in endless() {
        let mut world = setup.started();
        world.run_to(ms(300));
        world.interrupt.raise();
        let results = world.finish();
        assert!(results.outcome.cut_short && results.outcome.failure.is_none());
        assert!(results.took < ms(400));
        for leg in results.legs() {
            assert!(leg.received.datagrams > 200);
            assert!(leg.sent.datagrams >= leg.received.datagrams);
        }
    }
}

#[test]
fn a_vanished_server_is_noticed_where_it_should_be_heard() {
    for direction in DIRECTIONS {
        let (duration, timeout) = (secs(3), ms(500));
        let mut world = Setup { duration, timeout, ..paced(direction) }.started();
        world.run_to(ms(200));
        world.net.partition();
        let results = world.finish();
        results.assert_failure("500 ms");
        // Who sends alone hears nothing before it asks for the figures.
        let most = if direction.is_down() { ms(750) } else { ms(3_010 + 100 + 600) };
        assert!(results.took < most, "{direction:?}: {}", results.took);
        let own = &results.tally.streams[0].own;
        assert!(own.sent.as_ref().is_none_or(|sent| sent.datagrams > 300));
        assert!(own.received.as_ref().is_none_or(|r| r.datagrams > 300));
    }
}

#[test]
fn a_server_that_does_not_know_the_session_says_so() {
    for setup in endless() {
        let mut world = setup.started();
        world.run_to(ms(200));
        world.server.restart(&world.net, &world.clock);
        let results = world.finish();
        results.assert_failure("does not know the session");
        assert_eq!(times(&results.tally.errors, "receive", "ended"), 1);
        // One datagram in so many is answered.
        assert!(results.took < ms(900), "{:?}: {}", setup.direction, results.took);
        results.assert_own(setup.direction);
    }
}

#[test]
fn what_the_warm_up_did_not_send_is_neither_late_nor_unsent_in_the_measured_phase() {
    for transport in [Transport::Udp, Transport::Tcp] {
        // The sender stands still until shortly after the warm-up, or until shortly before the end.
        for (until, least) in [(210, 950), (690, 10)] {
            let setup = Setup { transport, warmup: ms(200), ..paced(Direction::Down) };
            let mut world = setup.started();
            let start = world.started_at;
            world.server.frozen = Some((start + ms(10), start + ms(until)));
            let results = world.finish();
            let sent = results.legs()[0].sent;
            let late = Distribution::decode(sent.lateness_hdr.as_ref().unwrap()).unwrap();
            let what = format!("{transport:?} {until}: {} of {}", sent.sends, sent.unsent);
            let most = ms(until - 200 + 2);
            assert!(late.max_ns().unwrap() <= most.0, "{what}: {:?}", late.max_ns());
            assert!(sent.sends >= least, "{what}");
            // 2,000 a second in half a second.
            assert!((999..=1_000).contains(&(sent.sends + sent.unsent)), "{what}");
        }
    }
}
