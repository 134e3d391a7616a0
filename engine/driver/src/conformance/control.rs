//! Cancelling, closing, refusing, dropping.

use super::{BUSY, Bench, CANCELED, CLIENT, FOUND, Harness, NOT_FOUND, SERVER, bytes_sent, send};
use crate::io::OPERATIONS_MAX;
use crate::{Driver, DriverError, Op, OpError, Outcome, Segment, SocketId, SocketSpec, Token};
use tare_units::Nanos;

/// Sends until a send stays outstanding, and returns that one.
fn fill<H: Harness>(bench: &mut Bench<H>, socket: SocketId, zero_copy: bool) -> Token {
    loop {
        let data = bench.buffer(CLIENT, 256 << 10);
        let token = bench.push(CLIENT, Op::Send { socket, data, zero_copy });
        bench.settle();
        match bench.try_take(CLIENT, token) {
            Some(sent) => bytes_sent(&sent.outcome),
            None => return token,
        };
    }
}

/// What the kernel took before a cancel counts as sent.
#[track_caller]
fn assert_cancelled_or_sent(outcome: &Outcome) {
    assert!(matches!(*outcome, CANCELED | Outcome::Sent(1..)), "{outcome:?}");
}

pub(super) fn cancel_of_what_waits<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let (receive, into) = bench.push_receive(SERVER, pair.server, 8);
    let accept = bench.push(SERVER, Op::Accept { listener: pair.listener, multishot: false });
    bench.settle();
    bench.cancel(SERVER, receive);
    bench.cancel(SERVER, accept);
    // The buffer is back, and the stream is whole.
    bench.driver(SERVER).buffer_mut(into.buffer)[0] = 1;
    bench.send_all(CLIENT, pair.client, b"whole");
    assert_eq!(bench.receive_exact(SERVER, pair.server, 5), b"whole");
}

pub(super) fn cancel_of_a_blocked_send<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let send = fill(bench, pair.client, false);
    assert_eq!(bench.perform(CLIENT, Op::Cancel { token: send }), FOUND);
    assert_cancelled_or_sent(&bench.wait_for(CLIENT, send));

    let send = fill(bench, pair.client, true);
    assert_eq!(bench.perform(CLIENT, Op::Cancel { token: send }), FOUND);
    let sent = bench.take(CLIENT, send);
    assert_cancelled_or_sent(&sent.outcome);
    assert!(sent.more, "the notification comes all the same");
    assert!(matches!(bench.wait_for(CLIENT, send), Outcome::Released { .. }));
}

pub(super) fn cancel_of_multishots<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    bench.driver(SERVER).provide_pool(4, 16).unwrap();
    let token = bench.push(SERVER, Op::ReceiveMultishot { socket: pair.server });
    bench.send_all(CLIENT, pair.client, b"x");
    assert!(bench.take(SERVER, token).more);
    bench.cancel(SERVER, token);
    bench.send_all(CLIENT, pair.client, b"y");
    assert_eq!(bench.receive(SERVER, pair.server, 4), b"y");
}

pub(super) fn cancel_finds_nothing<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let never = Token(u64::MAX / 2);
    assert_eq!(bench.perform(CLIENT, Op::Cancel { token: never }), NOT_FOUND);
    let data = bench.buffer(CLIENT, 1);
    let send = bench.push(CLIENT, send(pair.client, data));
    assert_eq!(bench.wait_for(CLIENT, send), Outcome::Sent(1));
    assert_eq!(bench.perform(CLIENT, Op::Cancel { token: send }), NOT_FOUND);
}

/// Pushed together with its target, a cancel may find it or come too late; both complete.
pub(super) fn cancel_in_the_turn_of_its_target<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    bench.send_all(SERVER, pair.server, b"z");
    bench.settle();
    for _ in 0..2 {
        let (receive, _) = bench.push_receive(CLIENT, pair.client, 1);
        let cancel = bench.push(CLIENT, Op::Cancel { token: receive });
        match (bench.wait_for(CLIENT, receive), bench.wait_for(CLIENT, cancel)) {
            (Outcome::Received(1), FOUND | NOT_FOUND) | (CANCELED, FOUND) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn close_cancels_what_is_outstanding<H: Harness>(bench: &mut Bench<H>) {
    bench.driver(CLIENT).provide_pool(4, 16).unwrap();
    for multishot in [false, true] {
        let pair = bench.pair();
        let socket = pair.client;
        let send = fill(bench, socket, false);
        let receive = if multishot {
            bench.push(CLIENT, Op::ReceiveMultishot { socket })
        } else {
            bench.push_receive(CLIENT, socket, 8).0
        };
        bench.settle();
        let close = bench.push(CLIENT, Op::Close { socket });
        while bench.is_outstanding(CLIENT, close) {
            bench.turn(CLIENT);
        }
        assert!(!bench.is_outstanding(CLIENT, receive), "before, or in the turn of, the close");
        assert!(!bench.is_outstanding(CLIENT, send), "before, or in the turn of, the close");
        assert_eq!(bench.wait_for(CLIENT, receive), CANCELED);
        assert_cancelled_or_sent(&bench.wait_for(CLIENT, send));
        assert_eq!(bench.wait_for(CLIENT, close), Outcome::Closed);
        assert_eq!(bench.driver(CLIENT).local_addr(socket), None);
        let mut rest = 0;
        while let n @ 1.. = bench.receive(SERVER, pair.server, 64 << 10).len() {
            rest += n;
        }
        assert!(rest > 0, "what was sent before the close arrives, and the end behind it");
    }
}

pub(super) fn a_direction_takes_one_operation<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let socket = pair.server;
    let (first, _) = bench.push_receive(SERVER, socket, 8);
    let (second, into) = bench.push_receive(SERVER, socket, 8);
    assert_eq!(bench.wait_for(SERVER, second), BUSY);
    assert_eq!(bench.perform(SERVER, Op::ReceiveMultishot { socket }), BUSY);
    // The refused receive's buffer is free, and the other direction too.
    bench.driver(SERVER).buffer_mut(into.buffer)[0] = 1;
    bench.send_all(SERVER, socket, b"other way");
    assert_eq!(bench.receive_exact(CLIENT, pair.client, 9), b"other way");
    bench.send_all(CLIENT, pair.client, b"a");
    assert_eq!(bench.wait_for(SERVER, first), Outcome::Received(1));

    let accept = |multishot| Op::Accept { listener: pair.listener, multishot };
    bench.push(SERVER, accept(true));
    assert_eq!(bench.perform(SERVER, accept(false)), BUSY);

    fill(bench, pair.client, false);
    assert_eq!(bench.perform(CLIENT, Op::HalfClose { socket: pair.client }), BUSY);
}

pub(super) fn dead_ids_are_reported<H: Harness>(bench: &mut Bench<H>) {
    const BAD: Outcome = Outcome::Failed(OpError::BadSocket);
    let socket = bench.pair().client;
    let close = bench.push(CLIENT, Op::Close { socket });
    // Dead from the push on, not only when the close has completed.
    let (receive, _) = bench.push_receive(CLIENT, socket, 1);
    assert_eq!(bench.driver(CLIENT).release(socket).err(), Some(OpError::BadSocket));
    assert_eq!(bench.wait_for(CLIENT, receive), BAD);
    assert_eq!(bench.wait_for(CLIENT, close), Outcome::Closed);
    assert_eq!(bench.perform(CLIENT, Op::Close { socket }), BAD);
    let socket = SocketId(60_000);
    assert_eq!(bench.perform(CLIENT, Op::HalfClose { socket }), BAD);
}

pub(super) fn release_waits_for_its_operations<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let socket = pair.server;
    let (receive, _) = bench.push_receive(SERVER, socket, 4);
    assert_eq!(bench.driver(SERVER).release(socket).err(), Some(OpError::Busy));
    bench.settle();
    assert_eq!(bench.driver(SERVER).release(socket).err(), Some(OpError::Busy));
    bench.send_all(CLIENT, pair.client, b"go");
    assert!(matches!(bench.wait_for(SERVER, receive), Outcome::Received(1..)));
    assert!(bench.driver(SERVER).release(socket).is_ok());
}

/// Every kind of operation is under way, some pushed and not yet submitted, when the driver is
/// dropped.
pub(super) fn drop_with_operations_in_flight<H: Harness>(bench: &mut Bench<H>) {
    let (pair, idle) = (bench.pair(), bench.pair());
    let doomed = bench.add_party();
    let [socket, idle] = [pair.server, idle.server].map(|socket| {
        let socket = bench.driver(SERVER).release(socket).unwrap();
        bench.driver(doomed).adopt(socket).unwrap()
    });
    bench.push_receive(doomed, idle, 64);
    bench.driver(doomed).provide_pool(8, 256).unwrap();
    let multishot = bench.push(doomed, Op::ReceiveMultishot { socket });
    let (listener, _) = bench.listen(doomed, "127.0.0.1:0");
    bench.push(doomed, Op::Accept { listener, multishot: true });
    let (datagrams, _) = super::datagrams::open(bench, doomed, "127.0.0.1:0", false);
    let into = bench.buffer(doomed, 64);
    bench.push(doomed, Op::ReceiveFrom { socket: datagrams, into });
    bench.send_all(CLIENT, pair.client, &[1; 64]);
    assert!(bench.take(doomed, multishot).more);
    let data = bench.buffer(doomed, 4096);
    bench.push(doomed, Op::Send { socket, data, zero_copy: true });
    let unread = bench.buffer_with(CLIENT, &[2; 64]);
    bench.push(CLIENT, send(pair.client, unread));
    bench.turn(CLIENT);
    let start = bench.harness.now();
    bench.drop_party(doomed);
    let took = bench.harness.now().since(start);
    assert!(took < Nanos::from_millis(500), "the drain found everything");
    // The peer is told, in whatever way: its next receives come to an end.
    loop {
        let (receive, _) = bench.push_receive(CLIENT, pair.client, 8192);
        match bench.wait_for(CLIENT, receive) {
            Outcome::Received(1..) => {}
            Outcome::Received(0) | Outcome::Failed(OpError::Reset) => break,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn a_freed_buffer_stays_until_its_receive_completes<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let (receive, into) = bench.push_receive(SERVER, pair.server, 8);
    bench.settle();
    bench.driver(SERVER).free(into.buffer);
    let other = bench.buffer(SERVER, 8);
    assert_ne!(other.buffer, into.buffer, "still lent");
    bench.send_all(CLIENT, pair.client, b"12345678");
    assert!(matches!(bench.wait_for(SERVER, receive), Outcome::Received(1..)));
    assert_eq!(bench.driver(SERVER).buffer(other.buffer), [0; 8], "untouched");
}

pub(super) fn too_many_operations_are_refused<H: Harness>(bench: &mut Bench<H>) {
    // Cancellations of nothing: they need no socket, and none ends before the turn.
    let cancel = || Op::Cancel { token: Token(u64::MAX) };
    let tokens: Vec<_> = (0..OPERATIONS_MAX).map(|_| bench.push(CLIENT, cancel())).collect();
    let one_more = bench.driver(CLIENT).push(Token(u64::MAX), cancel());
    assert!(matches!(one_more, Err(DriverError::Full)), "{one_more:?}");
    for token in tokens {
        assert_eq!(bench.wait_for(CLIENT, token), NOT_FOUND);
    }
    assert_eq!(bench.perform(CLIENT, cancel()), NOT_FOUND);
}

pub(super) fn ids_are_reused_after_the_close<H: Harness>(bench: &mut Bench<H>) {
    let spec = SocketSpec::datagram_to("127.0.0.1:1".parse().unwrap());
    for _ in 0..100 {
        let socket = bench.open(CLIENT, &spec);
        assert!(socket.0 < 10, "ids grow without bound");
        bench.close(CLIENT, socket);
    }
    // The parts of a segment that lie outside its buffer are a defect of the caller.
    let data = Segment { len: 9, ..bench.buffer(CLIENT, 8) };
    let send = send(bench.open(CLIENT, &spec), data);
    let driver = bench.driver(CLIENT);
    let push = std::panic::AssertUnwindSafe(|| driver.push(Token(u64::MAX), send));
    assert!(std::panic::catch_unwind(push).is_err());
}
