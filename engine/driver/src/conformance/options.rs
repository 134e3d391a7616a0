//! Options, and the kernel's figures.

use super::{Bench, CLIENT, Harness, PATIENCE, SERVER};
use crate::clock::RealtimeOffset;
use crate::{Driver, Op, OpError, Outcome, SocketId, SocketOption, SocketSpec};
use tare_units::{Instant, Nanos};

fn datagrams<H: Harness>(bench: &mut Bench<H>) -> SocketId {
    bench.open(CLIENT, &SocketSpec::datagram_to("127.0.0.1:1".parse().unwrap()))
}

pub(super) fn options_are_taken_or_refused<H: Harness>(bench: &mut Bench<H>) {
    let socket = bench.pair().client;
    let datagrams = datagrams(bench);
    let is_simulated = bench.is_simulated();
    let driver = bench.driver(CLIENT);
    for option in [
        SocketOption::NoDelay(true),
        SocketOption::Congestion("reno".to_owned()),
        SocketOption::TrafficClass(0x20),
        SocketOption::SendBuffer(100_000),
        SocketOption::ReceiveBuffer(100_000),
        SocketOption::ReceiveLowWater(1),
        SocketOption::UnsentLowWater(100_000),
    ] {
        assert_eq!(driver.set_option(socket, &option), Ok(()), "{option:?}");
    }
    for option in [SocketOption::Segmentation(1200), SocketOption::Coalescing(true)] {
        let expected = if is_simulated { Err(OpError::NotSupported) } else { Ok(()) };
        assert_eq!(driver.set_option(datagrams, &option), expected);
    }
    if !is_simulated {
        let unknown = SocketOption::Congestion("nosuchthing".to_owned());
        assert_eq!(driver.set_option(socket, &unknown), Err(OpError::NotFound));
        let cut = SocketOption::Segmentation(1200);
        assert_eq!(driver.set_option(socket, &cut), Err(OpError::NoSuchOption));
        assert_eq!(driver.congestion_control(socket).as_deref(), Some("reno"));
        assert_eq!(driver.socket_buffers(socket), Some((200_000, 200_000)));
    }
    bench.close(CLIENT, socket);
    let dead = bench.driver(CLIENT).set_option(socket, &SocketOption::NoDelay(true));
    assert_eq!(dead, Err(OpError::BadSocket));
}

pub(super) fn figures_are_those_of_a_kernel<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    bench.send_all(CLIENT, pair.client, &[1; 1000]);
    bench.receive_exact(SERVER, pair.server, 1000);
    bench.settle();
    let datagrams = datagrams(bench);
    let is_simulated = bench.is_simulated();
    let driver = bench.driver(CLIENT);
    let socket = pair.client;
    if is_simulated {
        assert!(driver.descriptor(socket).is_none());
        assert_eq!(driver.tcp_info(socket), None);
        assert_eq!(driver.socket_buffers(socket), None);
        assert_eq!(driver.congestion_control(socket), None);
        assert_eq!(driver.send_queue_bytes(socket), None);
    } else {
        let info = driver.tcp_info(socket).unwrap();
        assert!(info.data_segments_out >= 1 && info.rtt > Nanos::ZERO);
        assert!(driver.send_queue_bytes(socket).is_some());
        assert!(driver.congestion_control(socket).is_some());
        assert_eq!(driver.tcp_info(datagrams), None);
        assert_eq!(driver.congestion_control(datagrams), None);
        assert!(driver.socket_buffers(datagrams).is_some());
    }
}

/// The kernel begins to stamp a little after it was asked to, so the first may come without.
pub(super) fn stamps_lie_between_the_send_and_the_reaping<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let socket = pair.server;
    let stamps = SocketOption::ReceiveTimestamps(true);
    assert_eq!(bench.driver(SERVER).set_option(socket, &stamps), Ok(()));
    let is_simulated = bench.is_simulated();
    let wall = RealtimeOffset::read();
    let into = bench.buffer(SERVER, 64);
    let mut stamped = 0;
    let patience = bench.harness.now() + PATIENCE;
    let mut rounds = (0..=u8::MAX).cycle();
    while stamped < 20 {
        let round = rounds.next().expect("a cycle");
        let sent_at = bench.harness.now();
        assert!(sent_at < patience, "the kernel does not stamp");
        let receiving = bench.push(SERVER, Op::ReceiveStamped { socket, into });
        bench.send_all(CLIENT, pair.client, &[round]);
        let outcome = bench.wait_for(SERVER, receiving);
        let reaped_at = bench.harness.now();
        let Outcome::ReceivedStamped { len: 1, at } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(bench.driver(SERVER).buffer(into.buffer)[0], round);
        let Some(at) = at else { continue };
        let (at, slack) = if is_simulated {
            (Instant(at.0), Nanos::ZERO)
        } else {
            // The error, and what both clocks are rounded down by.
            (wall.to_instant(at).unwrap(), wall.error() + Nanos(2))
        };
        let is_between = at + slack >= sent_at && at <= reaped_at + slack;
        assert!(is_between, "{sent_at:?} {at:?} {reaped_at:?}");
        stamped += 1;
    }
    let receiving = bench.push(SERVER, Op::ReceiveStamped { socket, into });
    bench.half_close(CLIENT, pair.client);
    let end = Outcome::ReceivedStamped { len: 0, at: None };
    assert_eq!(bench.wait_for(SERVER, receiving), end);
}
