use proptest::prelude::*;
use tare_proto::hello::WaitMode;

use super::*;
use crate::command::Command;
use crate::command::measure::Measuring;
use crate::command::tests::{parsed, refuses};

fn plan(flags: &str) -> Result<BwPlan> {
    match parsed(&format!("bw {flags}")) {
        Command::Measure(Measuring::Bw(args)) => args.plan(None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let plan = plan("").unwrap();
    assert_eq!((plan.target, plan.transport), (Target::Loopback, Transport::Tcp));
    assert_eq!((plan.sizes, plan.streams), (vec![128 << 10], vec![1]));
    assert_eq!((plan.direction, plan.rate_bits_per_s, plan.bytes), (Direction::Up, None, None));
    assert_eq!((plan.zero_copy, plan.sink), (ZeroCopy::Auto, Sink::Copy));
    assert_eq!((plan.socket, plan.bind), (SocketOptions::default(), None));
    let Common { stop, warmup, wait, .. } = plan.common;
    assert_eq!(stop, Stop::After(Nanos::from_secs(5)));
    assert_eq!((warmup, wait), (Nanos::from_millis(500), None), "the engine knows better");
    let datagrams = self::plan("--udp").unwrap().sizes;
    assert_eq!(datagrams, [1_400], "what an overlay carries in one piece");
}

#[test]
fn every_flag_reaches_the_plan() {
    let plan = plan(
        "node-2:99 --size 1:256K:*64 -P 1,8 --direction both --rate 1.5G --zerocopy on --sink discard \
         --congestion bbr --mss 1400 --nodelay --dscp EF --sndbuf 4M --rcvbuf 64K --bind 10.0.0.1 \
         --wait block --threads 2 -d 10s --warmup 1s --label x",
    )
    .unwrap();
    assert_eq!(plan.target.to_string(), "node-2:99");
    assert_eq!((plan.sizes, plan.streams), (vec![1, 64, 4_096, 262_144], vec![1, 8]));
    assert_eq!((plan.direction, plan.rate_bits_per_s), (Direction::Both, Some(1.5e9)));
    assert_eq!((plan.zero_copy, plan.sink), (ZeroCopy::On, Sink::Discard));
    let socket = SocketOptions {
        congestion: Some("bbr".into()),
        mss_bytes: Some(1_400),
        nodelay: true,
        dscp: Some(46),
        send_buffer_bytes: Some(4 << 20),
        receive_buffer_bytes: Some(64 << 10),
    };
    assert_eq!((plan.socket, plan.bind), (socket, Some("10.0.0.1:0".parse().unwrap())));
    let Common { stop, warmup, threads, wait, .. } = plan.common;
    assert_eq!(stop, Stop::After(Nanos::from_secs(10)));
    assert_eq!((warmup, threads), (Nanos::from_secs(1), Some(2)));
    assert_eq!(wait, Some(WaitMode::Block));
}

#[test]
fn names_that_other_tools_use() {
    for (flags, direction, streams) in [
        ("--reverse -c 2", Direction::Down, 2),
        ("--bidir --streams 3", Direction::Both, 3),
        ("--direction down --connections 4", Direction::Down, 4),
        ("--direction up -P 5", Direction::Up, 5),
    ] {
        let plan = plan(flags).unwrap();
        assert_eq!((plan.direction, plan.streams), (direction, vec![streams]), "{flags}");
    }
    let udp = plan("--proto udp --size 16,1452,65507 --rate 200M").unwrap();
    assert_eq!((udp.transport, udp.rate_bits_per_s), (Transport::Udp, Some(200e6)));
    assert_eq!(udp.sizes, [16, 1_452, 65_507]);
}

#[test]
fn what_ends_by_bytes_or_sends_has_no_warmup() {
    for (flags, bytes, stop) in [
        ("--bytes 10G", Some(10 << 30), Stop::After(DURATION)),
        ("-n 10k --warmup 0", None, Stop::Count(10_000)),
        // The last send of a stream may be a short one.
        ("--bytes 100", Some(100), Stop::After(DURATION)),
        ("--bytes 1M -P 8", Some(1 << 20), Stop::After(DURATION)),
    ] {
        let plan = plan(flags).unwrap();
        assert_eq!((plan.bytes, plan.common.stop), (bytes, stop), "{flags}");
        assert_eq!(plan.common.warmup, Nanos::ZERO, "{flags}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let cases = [
        ("-o x.hgrm", "bw measures none"),
        ("--size 0", "nothing to send"),
        ("--size 17M", "too large for TCP; the largest message is"),
        ("--udp --size 15", "header of 16 bytes"),
        ("--udp --size 65508", "too large for UDP; the largest datagram carries 65507 bytes"),
        ("-c 0", "1 to 60000"),
        ("--size 1:100:1 -c 1:11:1", "1100 steps"),
        ("--udp --nodelay", "--nodelay is for TCP"),
        ("--udp --mss 1400", "--mss is for TCP"),
        ("--udp --congestion bbr", "--congestion is for TCP"),
        ("--udp --sink discard", "--sink discard is for TCP"),
        ("--udp --zerocopy on", "--zerocopy on is for TCP"),
        ("--zerocopy on --backend epoll", "needs io_uring"),
        ("--congestion a/b", "tcp_available_congestion_control"),
        ("--congestion a-name-too-long-1", "no congestion control"),
        ("--mss 87", "--mss takes 88 to 32767 bytes"),
        ("--mss 32768", "--mss takes 88 to 32767 bytes"),
        ("--sndbuf 0", "--sndbuf takes 1 to"),
        ("--rcvbuf 2G", "--rcvbuf takes 1 to"),
        ("10.0.0.2 --bind ::1", "one is IPv4, the other IPv6"),
        ("[fe80::1%eth0]:80 --bind 10.0.0.1", "one is IPv4"),
        ("--bytes 0", "--bytes must be above zero"),
        ("--bytes 1M -P 9", "less than one send of 128 KiB for each of 9 streams"),
        ("-n 7 -P 1,8", "less than one send of 128 KiB for each of 8 streams"),
        ("--bytes 1G --warmup 1s", "all of it counts"),
        ("-n 100 --warmup 1s", "all of it counts"),
        ("--rate 100k", "a stream sends once in 10.5 s"),
        ("-d 10080m", "longer than a stream lasts"),
        ("--interval 10us", "--interval must be at least"),
    ];
    refuses(plan, &cases);
    for flags in [
        "--udp --zerocopy auto --sink copy",
        "--rate 100k --size 16K",
        "--rate 1M --bytes 1G",
        "node --bind ::1",
        "-d 10079m",
    ] {
        assert!(plan(flags).is_ok(), "{flags}");
    }
}

#[test]
fn differentiated_services_have_names() {
    let values = [0, 63, 46, 46, 1, 0, 56, 10, 22, 38];
    for (text, value) in "0 63 EF ef LE CS0 cs7 AF11 AF23 AF43".split(' ').zip(values) {
        assert_eq!(dscp(text).unwrap(), value, "{text}");
    }
    for text in ["", "64", "-1", "256", "CS8", "AF10", "AF14", "AF51", "AF1", "0x2e", "BE"] {
        let message = dscp(text).expect_err(text).to_string();
        assert!(message.contains("CS0 to CS7"), "{message}");
    }
}

proptest! {
    #[test]
    fn what_is_typed_never_panics(text in "\\PC{0,8}|[A-Za-z0-9:.\\[\\]]{0,12}") {
        let _ = dscp(&text);
        let _ = local(&text);
    }
}
