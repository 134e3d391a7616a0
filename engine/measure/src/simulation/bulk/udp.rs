//! UDP: every datagram is accounted for.

use super::*;
use tare_stats::histogram::Distribution;

/// Datagrams of 1,000 bytes, 2,000 in each second of each direction.
fn paced(direction: Direction) -> Setup {
    Setup {
        transport: Transport::Udp,
        direction,
        size_bytes: 1_000,
        rate_bits_per_s: 16_000_000,
        duration: ms(500),
        turn: Nanos::from_micros(20),
        ..Setup::default()
    }
}

fn lost(leg: &Leg<'_>) -> u64 {
    assert!(leg.received.datagrams <= leg.sent.datagrams, "one too many");
    leg.sent.datagrams - leg.received.datagrams
}

#[test]
fn a_paced_stream_loses_nothing_on_a_good_path_however_long_it_is() {
    for direction in DIRECTIONS {
        for latency in [Nanos::ZERO, ms(1), ms(200)] {
            for streams in [1, 2] {
                let mut setup = paced(direction);
                setup.wire.latency = latency;
                setup.streams = streams;
                let results = setup.run();
                results.check_clean();
                let what = format!("{direction:?} {latency} {streams}");
                for leg in results.legs() {
                    assert_eq!(lost(&leg), 0, "{what}");
                    assert_eq!(leg.sent.datagrams, 1_000 / u64::from(streams), "{what}");
                    assert_eq!(leg.sent.bytes, leg.received.bytes, "{what}");
                    assert_eq!((leg.received.reordered, leg.received.duplicated), (0, 0));
                    let rate = leg.received.bytes as f64 * 8e9 / leg.received.duration_ns as f64;
                    let asked = 16e6 / f64::from(streams);
                    assert!((rate / asked - 1.0).abs() < 0.005, "{what}: {rate}");
                    assert!(leg.received.jitter_ns.unwrap() < 40_000, "{what}");
                }
            }
        }
    }
}

#[test]
fn loss_doubles_and_disorder_are_counted_to_the_datagram() {
    for direction in DIRECTIONS {
        for seed in 0..3 {
            let mut setup = paced(direction);
            setup.wire = SimConfig {
                seed,
                latency: ms(1),
                jitter: Nanos::from_micros(50),
                datagram_loss: 0.02,
                datagram_reorder: 0.05,
                datagram_duplicate: 0.03,
                ..SimConfig::default()
            };
            setup.duration = Nanos::from_secs(2);
            let results = setup.run();
            results.check_clean();
            for leg in results.legs() {
                let sent = leg.sent.datagrams;
                assert_eq!(sent, 4_000);
                let share = |n: u64| n as f64 / sent as f64;
                assert!((0.01..0.03).contains(&share(lost(&leg))), "{}", lost(&leg));
                assert!((0.015..0.045).contains(&share(leg.received.duplicated)));
                assert!((0.02..0.08).contains(&share(leg.received.reordered)));
                assert_eq!(leg.received.bytes, leg.received.datagrams * 1_000);
                assert_eq!(leg.received.series.iter().sum::<u64>(), leg.received.bytes);
            }
        }
    }
}

#[test]
fn by_bytes_every_datagram_is_whole_and_none_is_waited_for_in_vain() {
    for direction in DIRECTIONS {
        for loss in [0.0, 0.1] {
            let mut setup = paced(direction);
            setup.wire.datagram_loss = loss;
            setup.wire.seed = 3;
            setup.bytes = 99_500;
            let results = setup.run();
            results.check_clean();
            for leg in results.legs() {
                assert_eq!(leg.sent.datagrams, 100, "{direction:?}");
                assert_eq!(leg.sent.unsent, 0);
                assert_eq!(lost(&leg) > 0, loss > 0.0, "{direction:?}");
            }
            assert!(results.took < ms(50 + 1_000), "{}", results.took);
        }
    }
}

#[test]
fn gaps_longer_than_any_wait_are_the_schedules_doing() {
    for direction in DIRECTIONS {
        // A datagram every three seconds: rarer than signals, than the timeout, and than a server's
        // patience.
        let mut setup = paced(direction);
        setup.rate_bits_per_s = 8_000 / 3;
        setup.bytes = 4_000;
        let results = setup.run();
        results.check_clean();
        for leg in results.legs() {
            assert_eq!((leg.sent.datagrams, lost(&leg)), (4, 0), "{direction:?}");
        }
    }
}

#[test]
fn what_was_not_measured_never_counts() {
    // Datagrams of the warm-up that overtake, or are overtaken, at the boundary.
    for seed in 0..10 {
        let mut setup = paced(Direction::Both);
        setup.wire.seed = seed;
        setup.wire.jitter = ms(20);
        setup.duration = ms(100);
        let results = setup.run();
        results.check_clean();
        for leg in results.legs() {
            assert_eq!((leg.sent.datagrams, lost(&leg)), (200, 0), "seed {seed}");
        }
    }
}

#[test]
fn signals_keep_a_sender_going_and_their_absence_stops_it() {
    let mut setup = paced(Direction::Down);
    setup.duration = Nanos::from_secs(20);
    setup.run().check_clean();
    // Nobody is left to signal; without that, the session would be kept for hours.
    setup.duration = Nanos::from_secs(3_600);
    let mut world = World::new(&setup);
    world.start();
    world.run_for(ms(500));
    world.net.partition();
    world.run_for(ms(2_300));
    assert_eq!(world.sessions(), 1);
    world.client = None;
    world.run_for(ms(2_800 + 1_200));
    assert_eq!(world.sessions(), 0);
}

#[test]
fn a_session_that_the_server_has_ended_is_told_with_its_figures() {
    for direction in DIRECTIONS {
        // Unpaced too: then a send is under way whenever the server's word comes.
        for rate_bits_per_s in [16_000_000, 0] {
            for stops in [true, false] {
                let mut setup = paced(direction);
                setup.duration = Nanos::from_secs(3_600);
                setup.rate_bits_per_s = rate_bits_per_s;
                setup.turn = Nanos::from_micros(200);
                if !stops {
                    setup.limits.duration = ms(300);
                }
                let mut world = World::new(&setup);
                world.start();
                world.run_for(ms(300));
                world.stop.set(stops);
                let results = world.finish();
                let what = format!("{direction:?} {rate_bits_per_s} {stops}");
                let why = if stops { "told to stop" } else { "--max-duration" };
                assert!(results.failure().contains(why), "{what}: {}", results.failure());
                assert!(results.outcome.cut_short);
                assert!(results.took < Nanos::from_secs(1), "{what}: {}", results.took);
                for leg in results.legs() {
                    assert!(leg.received.datagrams > 200, "{what}");
                    assert!(leg.sent.datagrams >= leg.received.datagrams, "{what}");
                }
            }
        }
    }
}

#[test]
fn figures_are_fetched_over_a_path_that_loses_every_fourth_datagram() {
    for seed in 0..5 {
        let mut setup = paced(Direction::Both);
        setup.wire.datagram_loss = 0.25;
        setup.wire.seed = seed;
        setup.interval = ms(1);
        setup.timeout = Nanos::from_secs(5);
        let results = setup.run();
        results.check_clean();
        for leg in results.legs() {
            assert!(lost(&leg) > 100 && leg.received.datagrams > 500);
            assert!(leg.received.series.len() > 400);
        }
    }
}

#[test]
fn an_interrupt_keeps_what_was_measured() {
    for direction in DIRECTIONS {
        for rate_bits_per_s in [16_000_000, 0] {
            let mut setup = paced(direction);
            setup.rate_bits_per_s = rate_bits_per_s;
            setup.duration = Nanos::from_secs(3_600);
            let mut world = World::new(&setup);
            world.start();
            world.run_for(ms(300));
            world.interrupt.raise();
            let results = world.finish();
            assert!(results.outcome.cut_short && results.outcome.failure.is_none());
            assert!(results.took < ms(400));
            for leg in results.legs() {
                assert!(
                    leg.received.datagrams > 200 && leg.sent.datagrams >= leg.received.datagrams
                );
            }
        }
    }
}

#[test]
fn a_vanished_server_is_noticed_where_it_should_be_heard() {
    for direction in DIRECTIONS {
        let mut setup = paced(direction);
        setup.duration = Nanos::from_secs(3);
        setup.timeout = ms(500);
        let mut world = World::new(&setup);
        world.start();
        world.run_for(ms(200));
        world.net.partition();
        let results = world.finish();
        let failure = results.failure();
        assert!(failure.contains("500 ms"), "{failure}");
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
    for direction in DIRECTIONS {
        for rate_bits_per_s in [16_000_000, 0] {
            let mut setup = paced(direction);
            setup.duration = Nanos::from_secs(3_600);
            setup.rate_bits_per_s = rate_bits_per_s;
            let mut world = World::new(&setup);
            world.start();
            world.run_for(ms(200));
            world.restart_server();
            let results = world.finish();
            let failure = results.failure();
            assert!(failure.contains("does not know the session"), "{failure}");
            assert_eq!(results.errors("receive", "ended"), 1);
            // One datagram in so many is answered.
            assert!(results.took < ms(900), "{direction:?}: {}", results.took);
            let own = &results.tally.streams[0].own;
            assert!(own.sent.is_some() == direction.is_up());
            assert!(own.received.is_some() == direction.is_down());
        }
    }
}

#[test]
fn what_the_warm_up_did_not_send_is_neither_late_nor_unsent_in_the_measured_phase() {
    for transport in [Transport::Udp, Transport::Tcp] {
        // The sender stands still until shortly after the warm-up, or until shortly before the end.
        for (until, least) in [(210, 950), (690, 10)] {
            let setup = Setup { transport, warmup: ms(200), ..paced(Direction::Down) };
            let mut world = World::new(&setup);
            world.start();
            let start = world.started_at;
            world.frozen = Some((start + ms(10), start + ms(until)));
            let results = world.finish();
            let legs = results.legs();
            let sent = legs[0].sent;
            let late = Distribution::decode(sent.lateness_hdr.as_ref().unwrap()).unwrap();
            let what = format!("{transport:?} {until}: {} of {}", sent.sends, sent.unsent);
            let most = Nanos::from_millis(until - 200 + 2);
            assert!(late.max_ns().unwrap() <= most.0, "{what}: {:?}", late.max_ns());
            assert!(sent.sends >= least, "{what}");
            // 2,000 a second in half a second.
            assert!((999..=1_000).contains(&(sent.sends + sent.unsent)), "{what}");
        }
    }
}
