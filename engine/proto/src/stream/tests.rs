use proptest::prelude::*;

use super::*;
use tare_units::Instant;
use tare_units::limits::INTERVALS_MAX;
use tare_units::text::Id;

const MS: u64 = 1_000_000;

#[test]
fn a_header_survives_the_wire_and_carries_its_time() {
    let header = StreamHeader {
        kind: StreamKind::Payload,
        measured: true,
        sequence: 0x0102_0304_0506,
        session: Id(0xfeed),
    };
    let mut datagram = [0; 24];
    header.encode_into(&mut datagram, Instant(7));
    assert_eq!(datagram[..8], [0xd3, 1, 1, 2, 3, 4, 5, 6]);
    assert_eq!(StreamHeader::decode(&datagram), Some(header));
    assert_eq!(sent_at(&datagram), Some(Instant(7)));
    assert_eq!(sent_at(&datagram[..23]), None);
    assert_eq!(StreamHeader::decode(&datagram[..15]), None);
    let signal = StreamHeader { kind: StreamKind::Signal, measured: false, ..header };
    let mut bare = [0; 16];
    signal.encode_into(&mut bare, Instant(7));
    assert_eq!(StreamHeader::decode(&bare), Some(signal));
    bare[0] = 0xd1;
    assert_eq!(StreamHeader::decode(&bare), None);
}

#[test]
fn arrivals_tell_late_from_double() {
    let mut arrivals = Arrivals::default();
    for sequence in [0, 1, 4, 3, 4, 2, 3, 5] {
        arrivals.handle(sequence);
    }
    let counts = |a: &Arrivals| (a.received(), a.reordered(), a.duplicated());
    assert_eq!(counts(&arrivals), (6, 2, 2));
    // The phase's counts start again, what came before is still known.
    arrivals.restart_counts();
    assert!(!arrivals.handle(5) && arrivals.handle(6));
    assert_eq!(counts(&arrivals), (1, 0, 1));
    // Far ahead: nothing that was seen before is mistaken for what takes its place.
    assert!(arrivals.handle((1 << 16) + 6));
    assert!(arrivals.handle((1 << 16) + 5));
    assert_eq!(counts(&arrivals), (3, 1, 1));
    // Older than is remembered: late.
    assert!(arrivals.handle(3));
    assert_eq!(counts(&arrivals), (4, 2, 1));
}

#[test]
fn jitter_is_that_of_rfc_3550() {
    let mut arrivals = Arrivals::default();
    assert_eq!(arrivals.jitter(), None);
    // The clocks are a day apart; the transit times differ by 1600, then by 0.
    let ahead = 86_400_000_000_000;
    arrivals.handle_transit(Instant(ahead), Instant(1_000));
    assert_eq!(arrivals.jitter(), None);
    arrivals.handle_transit(Instant(ahead + 500), Instant(3_100));
    assert_eq!(arrivals.jitter(), Some(Nanos(100)));
    arrivals.handle_transit(Instant(ahead + 1_000), Instant(3_600));
    // 100 + (0 − 100)/16 = 93.75
    assert_eq!(arrivals.jitter(), Some(Nanos(94)));
}

#[test]
fn the_window_leaves_out_the_warm_up_and_what_follows() {
    let mut window = Window::new(Nanos(10 * MS), Nanos(100 * MS), Nanos(30 * MS));
    assert!(!window.has_begun());
    let t = |ms| Instant(5 * MS + ms * MS);
    for (at, counts) in [(0, false), (9, false), (10, true), (60, true), (109, true), (110, false)]
    {
        assert_eq!(window.add(t(at), 1000 + at), counts, "{at} ms");
    }
    assert_eq!(window.bytes(), 3000 + 10 + 60 + 109);
    assert_eq!(window.length(t(300)), Nanos(100 * MS));
    assert_eq!(window.length(t(40)), Nanos(30 * MS));
    assert_eq!(window.entry(t(60)), 1);
    let (blocks, series) = window.into_parts();
    assert_eq!(series, [1010, 1060, 0, 1109]);
    assert_eq!(blocks.width_ns, 2 * MS);
    assert_eq!(blocks.bytes.iter().sum::<u64>(), 3179);
}

#[test]
fn without_a_duration_the_last_byte_ends_the_window() {
    let mut window = Window::new(Nanos::ZERO, Nanos::ZERO, Nanos(MS));
    window.add(Instant(100 * MS), 10);
    window.add(Instant(400 * MS), 20);
    assert_eq!(window.bytes(), 30);
    assert_eq!(window.length(Instant(900 * MS)), Nanos(300 * MS));
    assert_eq!(window.into_parts().1.len(), 301);
}

#[test]
fn a_series_that_is_too_long_ends_in_one_last_entry() {
    let mut window = Window::new(Nanos::ZERO, Nanos::ZERO, Nanos(1));
    for (at, bytes) in [(0, 0), (5, 1), (u64::MAX - 1, 2)] {
        window.add(Instant(at), bytes);
    }
    let (_, series) = window.into_parts();
    assert_eq!(series.len(), INTERVALS_MAX);
    assert_eq!((series[5], series[INTERVALS_MAX - 1]), (1, 2));
}

#[test]
fn an_ask_that_makes_no_sense_is_refused() {
    let good = StreamAsk { duration_ns: 1, ..StreamAsk::default() };
    assert!(good.check().is_ok());
    let with = |change: fn(&mut StreamAsk)| {
        let mut ask = good.clone();
        change(&mut ask);
        ask.check().unwrap_err().message
    };
    assert!(with(|a| a.duration_ns = 0).contains("neither by time"));
    assert!(with(|a| a.warmup_ns = u64::MAX).contains("at most"));
    assert!(
        with(|a| a.socket.congestion = Some("a-name-too-long-for-it".into()))
            .contains("no congestion")
    );
    assert!(with(|a| a.socket.dscp = Some(64)).contains("0 to 63"));
}

proptest! {
    #[test]
    fn headers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = (StreamHeader::decode(&bytes), sent_at(&bytes));
    }

    #[test]
    fn blocks_lose_no_byte(adds in prop::collection::vec((0..10_000_u64, 0..1_000_u64), 1..200)) {
        let mut blocks = Blocks::default();
        for (at, bytes) in &adds {
            blocks.add(Nanos(at * MS / 3), *bytes);
        }
        prop_assert_eq!(blocks.bytes.iter().sum::<u64>(), adds.iter().map(|a| a.1).sum::<u64>());
        prop_assert!(blocks.bytes.len() <= 64);
    }

    #[test]
    fn arrivals_agree_with_a_set(sequences in prop::collection::vec(0..300_u64, 1..400)) {
        let mut arrivals = Arrivals::default();
        let mut seen = std::collections::HashSet::new();
        let (mut late, mut double, mut highest) = (0, 0, None);
        for sequence in sequences {
            if !seen.insert(sequence) {
                double += 1;
            } else if highest.is_some_and(|h| sequence < h) {
                late += 1;
            }
            highest = highest.max(Some(sequence));
            arrivals.handle(sequence);
        }
        prop_assert_eq!(arrivals.received(), seen.len() as u64);
        prop_assert_eq!((arrivals.reordered(), arrivals.duplicated()), (late, double));
    }
}
