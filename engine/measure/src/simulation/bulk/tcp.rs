//! TCP, on a good day.

use super::*;

const fn ways(direction: Direction) -> usize {
    if matches!(direction, Direction::Both) { 2 } else { 1 }
}

/// Bytes of each stream's share: whole sends, and the rest for one.
fn shares(bytes: u64, streams: u64, size: u64) -> Vec<u64> {
    let mut shares = vec![0; streams as usize];
    for send in 0..bytes.div_ceil(size) {
        shares[(send % streams) as usize] += size.min(bytes - send * size);
    }
    shares
}

#[test]
fn bytes_are_exact_at_both_ends_and_messages_counted() {
    for direction in DIRECTIONS {
        for (bytes, streams, size_bytes) in [
            (1_000_000, 1, 4096),
            (1_000_003, 3, 1000),
            (999, 2, 64),
            (1, 1, 65_536),
            (4096, 1, 4096),
        ] {
            let setup = Setup { direction, bytes, streams, size_bytes, ..Setup::default() };
            let results = setup.run_clean();
            let what = format!("{direction:?} {bytes} bytes, {streams} streams, {size_bytes}");
            let (ways, size) = (ways(direction), u64::from(size_bytes));
            let shares = shares(bytes, u64::from(streams), size);
            let legs = results.legs();
            assert_eq!(legs.len(), ways * shares.len(), "{what}");
            for (leg, share) in legs.iter().zip(shares.into_iter().flat_map(|s| vec![s; ways])) {
                assert_eq!((leg.sent.bytes, leg.received.bytes), (share, share), "{what}");
                assert_eq!(leg.sent.sends, share.div_ceil(size), "{what}");
                assert_eq!(leg.received.blocks.bytes.iter().sum::<u64>(), share);
                assert_eq!(leg.received.series.iter().sum::<u64>(), share);
            }
        }
        // Fewer bytes than streams leave the other streams out.
        let setup = Setup { direction, bytes: 3, size_bytes: 1, streams: 5, ..Setup::default() };
        let results = setup.run_clean();
        assert_eq!(results.tally.streams.len(), 3);
        assert!(results.legs().iter().all(|leg| leg.received.bytes == 1));
    }
}

#[test]
fn short_writes_and_reads_change_no_count() {
    for (direction, seed) in pairs(DIRECTIONS, 0..4) {
        let mut setup = Setup { direction, streams: 2, ..Setup::default() };
        setup.wire = SimConfig { seed, short_reads: 0.4, short_writes: 0.4, ..setup.wire };
        let results = Setup { size_bytes: 3_000, bytes: 1_000_001, ..setup }.run_clean();
        for leg in results.legs() {
            assert_eq!(leg.sent.bytes, leg.received.bytes);
            assert_eq!(leg.sent.sends, leg.sent.bytes.div_ceil(3_000));
        }
        let received: u64 = results.legs().iter().map(|l| l.received.bytes).sum();
        assert_eq!(received, 1_000_001 * ways(direction) as u64);
    }
}

#[test]
fn the_receivers_own_window_is_measured_whatever_the_path_takes() {
    let paths = [(Nanos::ZERO, ms(20)), (MS, ms(50)), (ms(200), ms(2_000))];
    for (direction, (latency, duration)) in pairs(DIRECTIONS, paths) {
        for discard in [false, true] {
            let results = Setup {
                wire: SimConfig { latency, ..SimConfig::default() },
                direction,
                streams: 2,
                duration,
                discard,
                timeout: secs(3),
                turn: us(400),
                ..Setup::default()
            }
            .run_clean();
            let what = format!("{direction:?} over {latency}, discard {discard}");
            for leg in results.legs() {
                assert_eq!(leg.received.duration_ns, duration.0, "{what}");
                assert_eq!(leg.sent.duration_ns, duration.0, "{what}");
                assert!(leg.received.bytes > 0, "{what}");
                // A window of 64 KiB is all that the two ends can differ by, at either end.
                let off = leg.sent.bytes.abs_diff(leg.received.bytes);
                assert!(off <= 4 * (64 << 10), "{what}: {off}");
                let blocks: u64 = leg.received.blocks.bytes.iter().sum();
                assert_eq!(blocks, leg.received.bytes, "{what}");
            }
        }
    }
}

#[test]
fn the_rate_is_that_of_the_path() {
    // The wire holds 64 KiB, which take two milliseconds to come; then there is room for the next.
    for direction in [Direction::Up, Direction::Down] {
        let results = Setup {
            wire: SimConfig { latency: ms(2), ..SimConfig::default() },
            direction,
            duration: ms(400),
            turn: us(1),
            ..Setup::default()
        }
        .run_clean();
        let received = results.legs()[0].received;
        let rate = received.bytes as f64 / (received.duration_ns as f64 / 1e9);
        let expected = f64::from(64 << 10) / 0.002;
        assert!((rate / expected - 1.0).abs() < 0.01, "{rate} {expected}");
        assert_eq!(received.series.len(), 40);
    }
}

#[test]
fn what_the_warm_up_moved_is_left_out() {
    let run = |warmup| Setup { warmup, duration: ms(100), ..Setup::default() }.run();
    let (without, with) = (run(Nanos::ZERO), run(ms(300)));
    let bytes = |results: &Results| results.legs()[0].received.bytes as f64;
    assert!((bytes(&with) / bytes(&without) - 1.0).abs() < 0.05);
    assert!(theirs(&with.tally.streams[0]).received_bytes as f64 > 3.5 * bytes(&with));
    assert_eq!((with.outcome.warmup, with.outcome.measured), (ms(300), ms(100)));
}

#[test]
fn paced_streams_keep_to_their_rate_and_gaps() {
    for (direction, streams) in pairs(DIRECTIONS, [1, 3]) {
        let results = Setup {
            direction,
            streams,
            size_bytes: 1_000,
            // A message each millisecond, over all streams.
            rate_bits_per_s: 8_000_000,
            duration: ms(300),
            turn: us(10),
            ..Setup::default()
        }
        .run_clean();
        let sends: u64 = results.legs().iter().map(|leg| leg.sent.sends).sum();
        assert_eq!(sends, 300 * ways(direction) as u64, "{direction:?} {streams}");
        for Leg { sent, .. } in results.legs() {
            assert_eq!((sent.gap_ns, sent.unsent), (u64::from(streams) * 1_000_000, 0));
            assert!(sent.lateness_hdr.is_some() && sent.gap_deviation_hdr.is_some());
        }
    }
}

#[test]
fn zero_copy_is_given_up_where_the_kernel_copies_and_kept_where_asked_for() {
    let wire = SimConfig { latency: MS, zero_copy: true, ..SimConfig::default() };
    for direction in DIRECTIONS {
        let setup = Setup { wire, direction, size_bytes: 16 << 10, ..Setup::default() };
        let results = Setup { zero_copy_auto: true, ..setup.clone() }.run_clean();
        for Leg { sent, .. } in results.legs() {
            let zero_copy = sent.zero_copy.as_ref().unwrap();
            assert_eq!((zero_copy.sends, zero_copy.copied_share), (0, 1.0), "in the warm-up");
            assert!(zero_copy.reason.as_ref().unwrap().contains("copied all the same"));
            assert!(sent.sends > 10);
        }
        let results = Setup { zero_copy: true, ..setup.clone() }.run_clean();
        for Leg { sent, .. } in results.legs() {
            let zero_copy = sent.zero_copy.as_ref().unwrap();
            assert!(zero_copy.sends >= sent.sends - 5, "{zero_copy:?}");
            assert_eq!((zero_copy.copied_share, &zero_copy.reason), (1.0, &None));
        }
        // By bytes, with a last message that is shorter.
        let results = Setup { zero_copy: true, bytes: 1_000_000, ..setup }.run_clean();
        for Leg { sent, received } in results.legs() {
            assert_eq!((sent.bytes, received.bytes, sent.sends), (1_000_000, 1_000_000, 62));
        }
    }
    // Short writes cut no message short.
    let wire = SimConfig { seed: 5, short_writes: 0.5, ..wire };
    let setup = Setup { wire, zero_copy: true, ..Setup::default() };
    let results = Setup { size_bytes: 10_000, bytes: 500_000, ..setup }.run_clean();
    let leg = &results.legs()[0];
    assert_eq!((leg.sent.sends, leg.received.bytes), (50, 500_000));
}

#[test]
fn a_server_without_the_congestion_control_refuses_in_words() {
    for streams in [1, 2] {
        let congestion = Some("bbr".to_owned());
        let results = Setup { congestion, streams, ..Setup::default() }.run();
        assert_eq!(times(&results.tally.errors, "handshake", "refused"), u64::from(streams));
        results.assert_failure("does not offer congestion control 'bbr'");
        let advice = results.outcome.failure.as_ref().unwrap().advice().unwrap();
        assert!(advice.contains("tcp_available_congestion_control"));
        assert_eq!(results.server.sessions(), 0);
    }
}
