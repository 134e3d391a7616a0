//! How streams end when nobody meant them to, and figures behind payload.

use super::*;
use crate::worker::stream::Receiver;
use tare_proto::stream::PAYLOAD_BIT;

fn endless(direction: Direction) -> Setup {
    Setup { direction, duration: secs(3_600), warmup: ms(5), ..Setup::default() }
}

#[track_caller]
fn assert_partial(results: &Results) {
    assert!(results.outcome.cut_short);
    assert_eq!(results.outcome.established, results.tally.streams.len() as u64);
}

#[test]
fn a_server_that_ends_the_session_says_why_and_both_accounts_are_there() {
    let reasons = [
        (true, "the server was told to stop"),
        (false, "the session had lasted 150 ms (--max-duration)"),
    ];
    for direction in DIRECTIONS {
        for (stops, why) in reasons {
            for (size_bytes, latency) in [(64, MS), (64, ms(30)), (100_000, MS), (100_000, ms(30))]
            {
                let turn = us(400);
                let mut setup = Setup { size_bytes, streams: 2, turn, ..endless(direction) };
                setup.wire.latency = latency;
                if !stops {
                    setup.limits.duration = ms(150);
                }
                let mut world = setup.started();
                world.run_to(ms(120));
                if stops {
                    world.server.stop();
                }
                let results = world.finish();
                let what = format!("{direction:?} {why} {size_bytes} {latency}");
                assert!(results.failure().contains(why), "{what}: {}", results.failure());
                assert_eq!(times(&results.tally.errors, "receive", "ended"), 2, "{what}");
                assert_partial(&results);
                for leg in results.legs() {
                    assert!(leg.sent.bytes > 0 && leg.received.bytes > 0, "{what}");
                    // When it learnt of the end, the one had sent, and the other had not received,
                    // what was on its way.
                    let behind = leg.sent.bytes.saturating_sub(leg.received.bytes);
                    assert!(behind <= 4 * (100_000 + (64 << 10)), "{what}: {behind}");
                    assert!(leg.received.duration_ns < SECOND.0, "{what}");
                }
                assert!(results.took < SECOND, "{what}: {}", results.took);
                assert_eq!(results.server.sessions(), 0, "{what}");
            }
        }
    }
}

#[test]
fn figures_are_found_behind_payload_wherever_they_are_cut() {
    // Receives of every length, the server's end at every phase of a message.
    for seed in 0..40 {
        let mut setup = endless(Direction::Down);
        setup.wire = SimConfig { seed, short_reads: 0.9, short_writes: 0.5, ..setup.wire };
        setup.size_bytes = 100 + seed as u32;
        let mut world = setup.started();
        world.run_to(ms(50 + seed));
        world.server.stop();
        let results = world.finish();
        results.assert_failure("told to stop");
        assert_eq!(results.legs().len(), 1, "seed {seed}");
    }
}

#[test]
fn a_frame_is_seen_in_what_came_last_wherever_it_is_cut() {
    let receiver = Receiver::new(&Setup::default().spec().session.hello);
    let frame = |reason: usize| {
        Figures { cut_short: Some("x".repeat(reason)), ..Figures::default() }.encode()
    };
    // Of a length that has its top bit set in the header.
    let top = |frame: &Vec<u8>| frame[..8].iter().any(|byte| *byte >= PAYLOAD_BIT);
    let frame = (1..200).map(frame).find(top).unwrap();
    for payload in [0, 1, 31, 32, 33, 500] {
        let mut bytes = vec![PAYLOAD_BIT | 0x41; payload];
        for cut in 0..=frame.len() {
            bytes.truncate(payload);
            bytes.extend(&frame[..cut]);
            assert_eq!(receiver.payload_of(&bytes), payload, "{payload} {cut}");
        }
    }
}

#[test]
fn an_interrupt_ends_in_order_with_what_was_measured() {
    for (direction, discard) in pairs(DIRECTIONS, [false, true]) {
        let mut world = Setup { discard, streams: 2, ..endless(direction) }.started();
        world.run_to(ms(105));
        world.interrupt.raise();
        let results = world.finish();
        assert_partial(&results);
        assert!(results.outcome.failure.is_none(), "{:?}", results.outcome.failure);
        assert!(results.took < ms(200), "{}", results.took);
        assert!((ms(95)..ms(120)).contains(&results.outcome.measured));
        for leg in results.legs() {
            assert!(leg.received.bytes > 0);
            assert!((80_000_000..130_000_000).contains(&leg.received.duration_ns));
        }
        assert_eq!(results.server.sessions(), 0);
    }
}

#[test]
fn a_killed_client_frees_its_session_at_once() {
    for direction in DIRECTIONS {
        let mut world = endless(direction).started();
        world.run_to(ms(50));
        assert_eq!(world.server.sessions(), 1);
        world.clients.clear();
        world.run_for(ms(50));
        assert_eq!(world.server.sessions(), 0, "{direction:?}");
    }
}

#[test]
fn a_vanished_client_frees_its_session_after_the_idle_timeout() {
    for (transport, direction) in pairs([Transport::Tcp, Transport::Udp], DIRECTIONS) {
        let mut setup = Setup { transport, size_bytes: 1_000, ..endless(direction) };
        setup.limits.idle = ms(500);
        // Else a simulated path carries datagrams without end.
        setup.rate_bits_per_s = 8_000_000;
        let mut world = setup.started();
        world.run_to(ms(50));
        world.net.partition();
        world.clients.clear();
        world.run_to(ms(450));
        assert_eq!(world.server.sessions(), 1, "{transport:?} {direction:?}");
        // A sender of datagrams is not stopped by their not arriving, but by hearing nothing.
        world.run_to(secs(4));
        assert_eq!(world.server.sessions(), 0, "{transport:?} {direction:?}");
    }
}

#[test]
fn a_vanished_server_fails_the_run_within_its_timeout_with_what_was_measured() {
    for direction in DIRECTIONS {
        let mut world = Setup { streams: 2, timeout: ms(500), ..endless(direction) }.started();
        world.run_to(ms(100));
        world.net.partition();
        let results = world.finish();
        results.assert_failure("does not answer within 500 ms");
        assert_partial(&results);
        assert!(results.took < ms(640), "{}", results.took);
        results.assert_own(direction);
        for StreamAccount { own, theirs, .. } in &results.tally.streams {
            assert!(theirs.is_none());
            assert!(own.sent.as_ref().is_none_or(|sent| sent.bytes > 100_000));
            assert!(own.received.as_ref().is_none_or(|r| r.bytes > 100_000));
        }
    }
}

#[test]
fn a_stall_that_is_shorter_than_the_timeout_is_survived() {
    let transports = [(Transport::Tcp, 0), (Transport::Udp, 8_000_000)];
    for ((transport, rate_bits_per_s), direction) in pairs(transports, DIRECTIONS) {
        for at in [20, 195] {
            let (duration, timeout) = (ms(200), ms(500));
            let setup = Setup { transport, direction, duration, timeout, ..Setup::default() };
            let mut world = Setup { size_bytes: 1_000, rate_bits_per_s, ..setup }.started();
            let from = world.started_at + ms(at);
            world.server.frozen = Some((from, from + ms(400)));
            let results = world.finish();
            results.check_clean();
            let received = |leg: &Leg<'_>| leg.received.bytes > 0;
            assert!(results.legs().iter().all(received), "{transport:?} {direction:?}");
        }
    }
}

#[test]
fn a_reset_ends_the_run_with_its_name() {
    for direction in DIRECTIONS {
        let world = Setup { streams: 2, ..endless(direction) }.started();
        world.net.plan_reset(world.started_at + ms(50));
        let results = world.finish();
        assert_partial(&results);
        assert_eq!(results.tally.errors.total(), 2, "{:?}", results.tally.errors);
        results.assert_failure("reset the connection");
        assert!(results.took < ms(100));
        assert_eq!(results.server.sessions(), 0);
    }
}

#[test]
fn where_one_stream_dies_the_others_go_on() {
    for direction in DIRECTIONS {
        let mut mixed = 0;
        for seed in 0..30 {
            let wire = SimConfig { seed, latency: MS, reset: 0.003, ..SimConfig::default() };
            let setup = Setup { wire, direction, ..Setup::default() };
            let results = Setup { size_bytes: 32 << 10, streams: 3, ..setup }.run();
            let died = results.tally.errors.total();
            let whole: Vec<_> =
                results.tally.streams.iter().filter(|s| s.theirs.is_some()).collect();
            let established = results.outcome.established;
            // One may die behind its figures, where that is nobody's loss.
            assert!(whole.len() as u64 + died >= established, "{direction:?} {seed}");
            if died > 0 && !whole.is_empty() && established == 3 {
                mixed += 1;
                assert!(results.outcome.cut_short && results.outcome.failure.is_some());
                for stream in whole {
                    let theirs = &theirs(stream).stream.as_ref().unwrap().received;
                    for received in [&stream.own.received, theirs].into_iter().flatten() {
                        assert_eq!(received.duration_ns, ms(50).0, "{direction:?} {seed}");
                    }
                }
            }
            assert_eq!(results.server.sessions(), 0);
        }
        assert!(mixed >= 3, "{direction:?}: {mixed}");
    }
}

#[test]
fn figures_behind_a_long_queue_are_waited_for() {
    let mut longest = Nanos::ZERO;
    let timeout = ms(450);
    for seed in 0..10 {
        let mut setup = Setup { direction: Direction::Down, timeout, ..Setup::default() };
        setup.wire = SimConfig { seed, short_reads: 1.0, ..setup.wire };
        let mut world = setup.started();
        world.run_to(ms(50));
        // From now on the client is slow to take what is on its way.
        world.turn = ms(35);
        let results = world.finish();
        results.check_clean();
        assert!(results.legs()[0].received.bytes > 0);
        longest = longest.max(results.took);
    }
    assert!(longest > ms(60) + timeout + ms(100), "{longest}");
}
