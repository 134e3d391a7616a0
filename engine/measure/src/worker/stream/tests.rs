use super::*;
use crate::worker::link::Link;
use crate::worker::session;
use tare_driver::SocketSpec;
use tare_driver::clock::SimulatedClock;
use tare_driver::simulation::SimNet;
use tare_proto::hello::{Direction, Test};
use tare_proto::stream::{StreamAsk, StreamHeader, StreamKind};
use tare_units::Instant;
use tare_units::limits::INTERVALS_MAX;
use tare_units::text::Id;

const SESSION: Id = Id(9);

fn hello(transport: Transport, direction: Direction, size_bytes: u64) -> Hello {
    let (duration_ns, interval_ns, streams) = (1_000_000_000, 1, 1);
    let ask = StreamAsk { duration_ns, interval_ns, streams, ..StreamAsk::default() };
    let (test, stream) = (Test::Stream, Some(ask));
    Hello { test, transport, direction, size_bytes, stream, ..session::tests::hello() }
}

fn payload(sequence: u64, size: usize, session: Id) -> Vec<u8> {
    let mut datagram = vec![0xff; size];
    let header = StreamHeader { kind: StreamKind::Payload, measured: true, sequence, session };
    header.encode_into(&mut datagram, Instant(0));
    datagram
}

fn receiver(size: usize) -> Receiver {
    Receiver::new(&hello(Transport::Udp, Direction::Up, size as u64))
}

const SIZES: [usize; 7] = [16, 100, 1_199, 1_200, 1_201, 1_400, 9_000];

#[test]
fn several_datagrams_are_taken_apart() {
    for size in SIZES {
        let mut receiver = receiver(size);
        let all: Vec<u8> = (0..5).flat_map(|n| payload(n, size, SESSION)).collect();
        assert_eq!(receiver.handle_datagrams(&all, SESSION, Instant(5)), None);
        assert_eq!(receiver.total(), 5 * size as u64, "{size}");
        // The kernel puts a last one that is shorter behind them: it is none of this stream's.
        let mut all: Vec<u8> = (5..7).flat_map(|n| payload(n, size, SESSION)).collect();
        all.extend(payload(7, size, SESSION)[..size - 1].iter());
        receiver.handle_datagrams(&all, SESSION, Instant(6));
        assert_eq!(receiver.total(), 7 * size as u64, "{size}");
        // Twice the same is once.
        receiver.handle_datagrams(&payload(3, size, SESSION), SESSION, Instant(7));
        assert_eq!(receiver.total(), 7 * size as u64, "{size}");
        // What is another session's is not counted.
        let rest = receiver.handle_datagrams(&payload(7, size, Id(8)), SESSION, Instant(8));
        assert_eq!((rest, receiver.total()), (Some((0, size)), 7 * size as u64), "{size}");
    }
}

#[test]
fn control_datagrams_are_found_behind_payload() {
    let control = [b't'; CONTROL_DATAGRAM];
    for size in SIZES {
        for before in [0, 1, 3] {
            // Shorter payload is not put together with longer control datagrams, and they not with
            // each other then.
            let controls = if before > 0 && size > CONTROL_DATAGRAM { 1 } else { 2 };
            if before > 0 && size < CONTROL_DATAGRAM {
                continue;
            }
            let mut all: Vec<u8> = (0..before).flat_map(|n| payload(n, size, SESSION)).collect();
            all.extend((0..controls).flat_map(|_| control));
            let mut receiver = receiver(size);
            let rest = receiver.handle_datagrams(&all, SESSION, Instant(5));
            let begins = before as usize * size;
            assert_eq!(rest, Some((begins, all.len())), "{size} {before}");
            assert_eq!(receiver.total(), begins as u64);
        }
    }
}

#[test]
fn more_payload_than_was_agreed_does_no_harm() {
    let mut hello = hello(Transport::Tcp, Direction::Up, 100);
    hello.stream.as_mut().unwrap().bytes = 1_000;
    let net = SimNet::new(Default::default(), SimulatedClock::new(Instant(0)));
    let mut io = net.driver();
    let socket = io.open(&SocketSpec::stream_to("127.0.0.1:1".parse().unwrap())).unwrap();
    let mut link = Link::new(&mut io, (0, socket), (1 << 17, 0)).unwrap();
    let mut receiver = Receiver::new(&hello);
    for at in [1, 20_000_000, 40_000_000] {
        receiver.handle_received(&mut io, &link, 600, Instant(at));
    }
    assert!(receiver.is_complete(Instant(50_000_000)));
    receiver.receive(&mut io, &mut link, Instant(50_000_000)).unwrap();
}

#[test]
fn the_servers_memory_covers_what_its_streams_hold() {
    let of = |direction| state_bytes(&hello(Transport::Udp, direction, 1_000));
    let (series, infos) = (8 * INTERVALS_MAX, size_of::<TcpInterval>() * INTERVALS_MAX);
    assert!(of(Direction::Up) >= series + Arrivals::BYTES);
    assert!(of(Direction::Down) >= series + infos);
    assert_eq!(of(Direction::Both), of(Direction::Up) + of(Direction::Down));
}

#[test]
fn what_fits_the_path_shares_a_send_up_to_the_last_byte() {
    let path = |bytes, is_ipv6| Some(PathMtu { bytes, is_ipv6 });
    let (four, six) = (path(1500, false), path(1500, true));
    for (size, path, expected) in [
        (1_452, four, 45),
        (1_453, four, 45),
        (1_472, four, 44),
        (1_473, four, 1),
        (1_452, six, 45),
        (1_453, six, 1),
        (1_372, path(1400, false), 47),
        (1_373, path(1400, false), 1),
        (8_972, path(9000, false), 7),
        (32_753, path(65_536, false), 2),
        (32_754, path(65_536, false), 1),
        (16, four, 64),
        // Where the kernel tells no MTU, the usual one over IPv6 is taken for it.
        (1_452, None, 45),
        (1_453, None, 1),
    ] {
        assert_eq!(datagrams_per_send(size, path), expected, "{size} {path:?}");
        let hello = hello(Transport::Udp, Direction::Up, u64::from(size));
        let room = send_bytes(&hello);
        assert!(room >= (expected * size) as usize, "{size}: {room}");
    }
}

#[test]
fn each_transport_has_its_own() {
    let asked = SocketOptions {
        congestion: Some("reno".to_owned()),
        mss_bytes: Some(1_000),
        nodelay: true,
        dscp: Some(46),
        send_buffer_bytes: Some(1),
        receive_buffer_bytes: Some(2),
    };
    let common = [
        SocketOption::TrafficClass(46 << 2),
        SocketOption::SendBuffer(1),
        SocketOption::ReceiveBuffer(2),
    ];
    assert_eq!(options_of(&asked, Transport::Udp).collect::<Vec<_>>(), common);
    let tcp: Vec<_> = options_of(&asked, Transport::Tcp).collect();
    assert_eq!(tcp[2], SocketOption::NoDelay(true));
    assert_eq!(tcp[3..], common);
    assert_eq!(tcp.len(), 6);
    // Nagle's algorithm is as the kernel has it, whatever this program sets elsewhere.
    let none = SocketOptions::default();
    assert_eq!(
        options_of(&none, Transport::Tcp).collect::<Vec<_>>(),
        [SocketOption::NoDelay(false)]
    );
}

#[test]
fn a_refusal_says_whose_kernel_and_what_to_do() {
    let refused = RefusedOption { option: SocketOption::MaxSegment(1), error: OpError::Invalid };
    let message = refused.message("the server's kernel");
    assert!(message.starts_with("the server's kernel refuses MaxSegment(1): "));
    assert_eq!(refused.remedy(), "leave that option out");
}
