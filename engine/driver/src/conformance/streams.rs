//! Streams: bytes, ends, resets, connections.

use super::{Bench, CLIENT, Harness, SERVER, accepted, bytes_received, bytes_sent, send};
use crate::{Driver, Op, OpError, Outcome, Segment, SocketSpec, Token};
use tare_units::limits::SEGMENTS_MAX;

pub(super) fn pattern(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(|i| (i ^ (i >> 8)) as u8).collect()
}

pub(super) fn ping_pong<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    for round in 0..50u8 {
        bench.send_all(CLIENT, pair.client, &[round; 64]);
        assert_eq!(bench.receive_exact(SERVER, pair.server, 64), [round; 64]);
        bench.send_all(SERVER, pair.server, &[!round; 64]);
        assert_eq!(bench.receive_exact(CLIENT, pair.client, 64), [!round; 64]);
    }
}

/// A receive is always outstanding, and sends of 64 KiB meet receives of 1,000 bytes.
pub(super) fn big_transfer_in_small_pieces<H: Harness>(bench: &mut Bench<H>) {
    const TOTAL: usize = 1 << 20;
    let pair = bench.pair();
    let out = bench.buffer(CLIENT, 64 << 10);
    let into = bench.buffer(SERVER, 1000);
    let (mut sent, mut received) = (0usize, Vec::<u8>::new());
    let receive = Op::Receive { socket: pair.server, into };
    let mut receiving = bench.push(SERVER, receive.clone());
    let mut sending: Option<Token> = None;
    while received.len() < TOTAL {
        if sending.is_none() && sent < TOTAL {
            let len = (TOTAL - sent).min(out.len as usize);
            let buffer = bench.driver(CLIENT).buffer_mut(out.buffer);
            buffer[..len].copy_from_slice(&pattern(sent, len));
            let data = Segment { len: len as u32, ..out };
            sending = Some(bench.push(CLIENT, send(pair.client, data)));
        }
        bench.round();
        if let Some(done) = sending.and_then(|token| bench.try_take(CLIENT, token)) {
            let n = bytes_sent(&done.outcome);
            assert!(n > 0 && n <= out.len);
            sent += n as usize;
            sending = None;
        }
        if let Some(done) = bench.try_take(SERVER, receiving) {
            let n = bytes_received(&done.outcome);
            assert!(n > 0 && n <= into.len);
            received.extend(&bench.driver(SERVER).buffer(into.buffer)[..n as usize]);
            receiving = bench.push(SERVER, receive.clone());
        }
    }
    assert!(received == pattern(0, TOTAL), "bytes differ");
    assert!(bench.is_outstanding(SERVER, receiving), "nothing is left");
}

pub(super) fn vectored_sends_go_in_order<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let head = bench.buffer_with(CLIENT, b"[head]");
    let body = bench.buffer_with(CLIENT, b"0123456789");
    let range = |segment: Segment, start, len| Some(Segment { start, len, ..segment });
    let mut data = [None; SEGMENTS_MAX];
    data[..3].copy_from_slice(&[range(head, 1, 4), range(body, 5, 5), range(body, 0, 5)]);
    let n = bytes_sent(&bench.perform(CLIENT, Op::SendVectored { socket: pair.client, data }));
    let all = b"head5678901234";
    assert!(n >= 1 && n as usize <= all.len());
    assert_eq!(bench.receive_exact(SERVER, pair.server, n as usize), all[..n as usize]);
}

pub(crate) fn zero_copy_completes_twice<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let bytes = pattern(0, 8192);
    let data = bench.buffer_with(CLIENT, &bytes);
    let token = bench.push(CLIENT, Op::Send { socket: pair.client, data, zero_copy: true });
    let sent = bench.take(CLIENT, token);
    let n = bytes_sent(&sent.outcome);
    assert!(sent.more, "the notification is to come");
    assert_eq!(bench.driver(CLIENT).buffer(data.buffer), bytes, "readable");
    // The kernel may hold the buffer until the peer has taken the bytes.
    let received = bench.receive_exact(SERVER, pair.server, n as usize);
    assert!(received == bytes[..n as usize]);
    let Outcome::Released { copied } = bench.wait_for(CLIENT, token) else {
        panic!("not released");
    };
    let is_offered = bench.driver(CLIENT).capabilities().zero_copy;
    assert!(copied || is_offered, "without the capability it is a copy, and says so");
    bench.driver(CLIENT).buffer_mut(data.buffer)[0] = 1;
}

pub(super) fn zero_length_completes_with_zero<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let nothing = Segment { len: 0, ..bench.buffer(CLIENT, 8) };
    assert_eq!(bench.perform(CLIENT, send(pair.client, nothing)), Outcome::Sent(0));
    let receive = Op::Receive { socket: pair.client, into: nothing };
    assert_eq!(bench.perform(CLIENT, receive.clone()), Outcome::Received(0));
    // With bytes there, it takes none of them.
    bench.send_all(SERVER, pair.server, b"abc");
    bench.settle();
    assert_eq!(bench.perform(CLIENT, receive), Outcome::Received(0));
    assert_eq!(bench.receive_exact(CLIENT, pair.client, 3), b"abc");
}

pub(super) fn half_close_leaves_the_other_way_open<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    bench.send_all(CLIENT, pair.client, b"last words");
    bench.half_close(CLIENT, pair.client);
    assert_eq!(bench.receive_exact(SERVER, pair.server, 10), b"last words");
    assert_eq!(bench.receive(SERVER, pair.server, 10), b"");
    assert_eq!(bench.receive(SERVER, pair.server, 10), b"", "still the end");
    let data = bench.buffer_with(CLIENT, b"more");
    let broken = Outcome::Failed(OpError::BrokenPipe);
    assert_eq!(bench.perform(CLIENT, send(pair.client, data)), broken);

    bench.send_all(SERVER, pair.server, b"figures");
    assert_eq!(bench.receive_exact(CLIENT, pair.client, 7), b"figures");
    bench.half_close(SERVER, pair.server);
    assert_eq!(bench.receive(CLIENT, pair.client, 10), b"");
}

pub(super) fn closing_with_unread_data_resets<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    bench.send_all(CLIENT, pair.client, b"0123456789");
    assert_eq!(bench.receive(SERVER, pair.server, 1), b"0");
    bench.settle();
    bench.close(SERVER, pair.server);
    let (receive, _) = bench.push_receive(CLIENT, pair.client, 10);
    assert_eq!(bench.wait_for(CLIENT, receive), Outcome::Failed(OpError::Reset));
    let data = bench.buffer_with(CLIENT, b"more");
    let broken = Outcome::Failed(OpError::BrokenPipe);
    assert_eq!(bench.perform(CLIENT, send(pair.client, data)), broken);
}

pub(super) fn refused_connect_is_reported<H: Harness>(bench: &mut Bench<H>) {
    let (listener, to) = bench.listen(SERVER, "127.0.0.1:0");
    bench.close(SERVER, listener);
    let socket = bench.open(CLIENT, &SocketSpec::stream_to(to));
    let connected = bench.perform(CLIENT, Op::Connect { socket, to });
    assert_eq!(connected, Outcome::Failed(OpError::Refused));
}

/// More than a spinning driver attempts directly, each with an exchange of its own.
pub(super) fn many_connections_at_once<H: Harness>(bench: &mut Bench<H>) {
    const COUNT: usize = 200;
    let (listener, to) = bench.listen(SERVER, "127.0.0.1:0");
    let accept = bench.push(SERVER, Op::Accept { listener, multishot: true });
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let socket = bench.open(CLIENT, &SocketSpec::stream_to(to));
        clients.push((socket, bench.push(CLIENT, Op::Connect { socket, to })));
    }
    for &(_, connect) in &clients {
        assert_eq!(bench.wait_for(CLIENT, connect), Outcome::Connected);
    }
    let mut servers = Vec::new();
    for _ in 0..COUNT {
        let next = bench.take(SERVER, accept);
        assert!(next.more);
        let socket = accepted(&next.outcome);
        servers.push((socket, bench.push_receive(SERVER, socket, 2)));
    }
    // All wait for their request when the first one comes, and the requests come out of order.
    for i in (0..COUNT).map(|i| i * 7 % COUNT) {
        bench.send_all(CLIENT, clients[i].0, &[i as u8]);
    }
    for (socket, (receive, into)) in servers {
        assert_eq!(bench.wait_for(SERVER, receive), Outcome::Received(1));
        let byte = bench.driver(SERVER).buffer(into.buffer)[0];
        bench.send_all(SERVER, socket, &[byte, !byte]);
    }
    for (i, (socket, _)) in clients.into_iter().enumerate() {
        assert_eq!(bench.receive_exact(CLIENT, socket, 2), [i as u8, !(i as u8)]);
    }
}

pub(super) fn ipv6_and_dual_stack<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair_at("[::1]:0");
    bench.send_all(CLIENT, pair.client, b"six");
    assert_eq!(bench.receive_exact(SERVER, pair.server, 3), b"six");

    let (listener, any) = bench.listen(SERVER, "[::]:0");
    for host in ["127.0.0.1", "::1"] {
        let to = (host.parse::<std::net::IpAddr>().unwrap(), any.port()).into();
        let (socket, accepted) = bench.connect(listener, to);
        let local = bench.driver(CLIENT).local_addr(socket);
        assert_eq!(bench.driver(CLIENT).peer_addr(socket), Some(to));
        assert_eq!(bench.driver(SERVER).local_addr(accepted), Some(to));
        assert_eq!(bench.driver(SERVER).peer_addr(accepted), local);
    }
}

pub(super) fn multishot_accept_goes_on_until_cancelled<H: Harness>(bench: &mut Bench<H>) {
    let (listener, to) = bench.listen(SERVER, "127.0.0.1:0");
    let accept = bench.push(SERVER, Op::Accept { listener, multishot: true });
    let mut ids = std::collections::HashSet::new();
    for _ in 0..5 {
        let socket = bench.open(CLIENT, &SocketSpec::stream_to(to));
        bench.push(CLIENT, Op::Connect { socket, to });
        let next = bench.take(SERVER, accept);
        assert!(next.more);
        assert!(ids.insert(accepted(&next.outcome)), "an id twice");
    }
    bench.cancel(SERVER, accept);
}

pub(super) fn multishot_receive_ends_when_the_pool_is_empty<H: Harness>(bench: &mut Bench<H>) {
    const LEN: usize = 64;
    let pair = bench.pair();
    bench.driver(SERVER).provide_pool(4, LEN as u32).unwrap();
    let all = pattern(0, 20 * LEN);
    bench.send_all(CLIENT, pair.client, &all);
    let receive = || Op::ReceiveMultishot { socket: pair.server };
    let (mut received, mut held, mut ends) = (Vec::<u8>::new(), Vec::new(), 0);
    let mut token = bench.push(SERVER, receive());
    while received.len() < all.len() {
        let completion = bench.take(SERVER, token);
        match completion.outcome {
            Outcome::ReceivedInPool { buffer: Some(buffer), len } => {
                assert!(completion.more || held.len() == 3, "only an empty pool ends it");
                let bytes = bench.driver(SERVER).pool_bytes(&buffer);
                assert_eq!(bytes.len(), len as usize);
                assert!(len as usize <= LEN);
                received.extend(bytes);
                held.push(buffer);
            }
            Outcome::Failed(OpError::NoBuffers) => {
                assert!(!completion.more);
                assert_eq!(held.len(), 4, "it ends when the last buffer is out");
                ends += 1;
                for buffer in held.drain(..) {
                    bench.driver(SERVER).recycle(buffer);
                }
                token = bench.push(SERVER, receive());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(received == all, "bytes differ");
    assert!(ends >= 4, "20 buffers' worth went through 4");
}

pub(super) fn multishot_receive_reports_the_end<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    bench.driver(SERVER).provide_pool(8, 64).unwrap();
    let token = bench.push(SERVER, Op::ReceiveMultishot { socket: pair.server });
    for message in [b"one".as_slice(), b"two", b"three"] {
        bench.send_all(CLIENT, pair.client, message);
        let mut received = Vec::<u8>::new();
        while received.len() < message.len() {
            received.extend(bench.take_pooled(SERVER, token).expect("it has not ended"));
        }
        assert_eq!(received, message);
    }
    bench.close(CLIENT, pair.client);
    assert_eq!(bench.take_pooled(SERVER, token), None);
}

/// The end comes with the data, behind it, between two turns, or while no receive is armed; and the
/// data leaves room in the buffer, fills it, or takes several.
pub(super) fn multishot_receive_misses_no_end<H: Harness>(bench: &mut Bench<H>) {
    bench.driver(SERVER).provide_pool(8, 64).unwrap();
    for len in [1, 63, 64, 65, 128, 200] {
        for when in ["armed after", "at once", "later", "between"] {
            let pair = bench.pair();
            let socket = pair.server;
            let mut armed = None;
            if when != "armed after" {
                armed = Some(bench.push(SERVER, Op::ReceiveMultishot { socket }));
                bench.settle();
            }
            bench.send_one_sided(CLIENT, pair.client, &pattern(0, len));
            match when {
                "later" => bench.settle(),
                "between" => drop(bench.turn(SERVER)),
                _ => {}
            }
            let half_close = bench.push(CLIENT, Op::HalfClose { socket: pair.client });
            while bench.is_outstanding(CLIENT, half_close) {
                bench.turn(CLIENT);
                if !H::SLEEPS {
                    bench.harness.idle();
                }
            }
            let token =
                armed.unwrap_or_else(|| bench.push(SERVER, Op::ReceiveMultishot { socket }));
            let mut received = Vec::<u8>::new();
            while let Some(bytes) = bench.take_pooled(SERVER, token) {
                received.extend(bytes);
            }
            assert_eq!(received, pattern(0, len), "{when}");
            bench.close(CLIENT, pair.client);
            bench.close(SERVER, pair.server);
        }
    }
}

pub(super) fn sockets_move_between_drivers<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let other = bench.add_party();
    bench.send_all(CLIENT, pair.client, b"to the first");
    assert_eq!(bench.receive_exact(SERVER, pair.server, 12), b"to the first");
    let socket = bench.driver(SERVER).release(pair.server).unwrap();
    assert_eq!(bench.driver(SERVER).local_addr(pair.server), None);
    bench.send_all(CLIENT, pair.client, b"to the second");
    let server = bench.driver(other).adopt(socket).unwrap();
    assert_eq!(bench.receive_exact(other, server, 13), b"to the second");
    bench.send_all(other, server, b"back");
    assert_eq!(bench.receive_exact(CLIENT, pair.client, 4), b"back");
}
