use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::Segment;
use crate::clock::{Clock, MonotonicClock};
use tare_units::bounds::{RELEASE_MAX, UNACKED_MAX};

const LONG: Nanos = Nanos::from_secs(5);

fn now() -> Instant {
    MonotonicClock.now()
}

fn whole(buffer: BufferId, len: usize) -> Segment {
    Segment { buffer, start: 0, len: u32::try_from(len).unwrap() }
}

/// A driver whose completions are collected.
struct Bench {
    driver: UringDriver,
    done: Vec<Completion>,
    /// Turns are spun instead of waited through.
    spin: bool,
}

impl Bench {
    fn new() -> Self {
        Self { driver: UringDriver::new().unwrap(), done: Vec::new(), spin: false }
    }

    fn push(&mut self, token: u64, op: Op) {
        self.driver.push(Token(token), op).unwrap();
    }

    /// Runs turns until a completion of `token` is there, and takes it out.
    fn completion(&mut self, token: u64) -> Completion {
        let deadline = now() + LONG;
        loop {
            let found = self.done.iter().position(|c| c.token == Token(token));
            if let Some(index) = found {
                return self.done.remove(index);
            }
            assert!(now() < deadline, "no completion of {token}: {:?}", self.done);
            let wait = if self.spin { Wait::Poll } else { Wait::Until(deadline) };
            self.driver.turn(now(), wait, &mut self.done).unwrap();
        }
    }

    fn outcome(&mut self, token: u64) -> Outcome {
        self.completion(token).outcome
    }

    fn buffer(&mut self, bytes: &[u8]) -> BufferId {
        let buffer = self.driver.allocate(bytes.len()).unwrap();
        self.driver.buffer_mut(buffer).copy_from_slice(bytes);
        buffer
    }

    fn send(&mut self, token: u64, socket: SocketId, bytes: &[u8]) {
        let buffer = self.buffer(bytes);
        let data = whole(buffer, bytes.len());
        let zero_copy = false;
        self.push(token, Op::Send { socket, data, zero_copy });
        self.driver.free(buffer);
    }

    fn receive(&mut self, token: u64, socket: SocketId, len: usize) -> BufferId {
        let buffer = self.driver.allocate(len).unwrap();
        let into = whole(buffer, len);
        self.push(token, Op::Receive { socket, into });
        buffer
    }

    fn listen(&mut self) -> (SocketId, SocketAddr) {
        let local = "127.0.0.1:0".parse().unwrap();
        let listener = self.driver.open(&SocketSpec::listener(local)).unwrap();
        let address = self.driver.local_addr(listener).unwrap();
        (listener, address)
    }

    /// Two connected TCP sockets.
    fn pair(&mut self) -> (SocketId, SocketId) {
        let (listener, to) = self.listen();
        let socket = self.driver.open(&SocketSpec::stream_to(to)).unwrap();
        let multishot = false;
        self.push(900, Op::Accept { listener, multishot });
        self.push(901, Op::Connect { socket, to });
        assert_eq!(self.outcome(901), Outcome::Connected);
        let Outcome::Accepted(accepted) = self.outcome(900) else { panic!("not accepted") };
        assert_eq!(self.driver.peer_addr(accepted), self.driver.local_addr(socket));
        self.push(902, Op::Close { socket: listener });
        assert_eq!(self.outcome(902), Outcome::Closed);
        (socket, accepted)
    }
}

fn failed(error: OpError) -> Outcome {
    Outcome::Failed(error)
}

#[test]
fn ping_pong_spinning_waiting_and_both_in_turn() {
    let mut bench = Bench::new();
    let (a, b) = bench.pair();
    for round in 0..200u64 {
        bench.spin = round % 3 != 0;
        let there = bench.receive(1, b, 64);
        if round % 5 == 0 {
            // Attempted by spinning first, armed by the waiting turn afterwards.
            let mut done = Vec::new();
            bench.driver.turn(now(), Wait::Poll, &mut done).unwrap();
            assert!(done.is_empty());
            bench.spin = false;
        }
        bench.send(2, a, &round.to_ne_bytes());
        assert_eq!(bench.outcome(2), Outcome::Sent(8));
        assert_eq!(bench.outcome(1), Outcome::Received(8));
        assert_eq!(bench.driver.buffer(there)[..8], round.to_ne_bytes());
        bench.driver.free(there);
    }
    assert_eq!(bench.driver.overflows(), 0);
}

#[test]
fn more_receives_than_are_attempted_still_spin() {
    let mut bench = Bench::new();
    bench.spin = true;
    let pairs: Vec<_> = (0..2 * SPIN_ATTEMPTS_MAX as u64).map(|_| bench.pair()).collect();
    let mut buffers = Vec::new();
    for (token, (_, b)) in (0..).zip(&pairs) {
        buffers.push(bench.receive(token, *b, 8));
        // One pushed at a time: the first are attempted, and armed once there are too many.
        bench.driver.turn(now(), Wait::Poll, &mut bench.done).unwrap();
    }
    assert!(bench.done.is_empty() && bench.driver.spinning.is_empty());
    for (token, (a, _)) in (0u64..).zip(&pairs) {
        bench.send(100 + token, *a, &token.to_ne_bytes());
    }
    for (token, buffer) in (0u64..).zip(buffers) {
        assert_eq!(bench.outcome(token), Outcome::Received(8));
        assert_eq!(bench.driver.buffer(buffer), token.to_ne_bytes());
    }
}

#[test]
fn a_spinning_send_needs_the_ring_only_where_there_is_no_room() {
    let mut bench = Bench::new();
    bench.spin = true;
    let (a, b) = bench.pair();
    let chunk = vec![7; 1 << 16];
    let mut sent = 0;
    loop {
        bench.send(1, a, &chunk);
        let mut done = Vec::new();
        bench.driver.turn(now(), Wait::Poll, &mut done).unwrap();
        match done[..] {
            [] => break,
            [Completion { outcome: Outcome::Sent(n), more: false, .. }] => sent += n,
            _ => panic!("{done:?}"),
        }
    }
    let blocked = bench.driver.flights.find(Token(1), |_| true).unwrap();
    assert!(bench.driver.flights.in_kernel(blocked));
    let mut received = 0;
    while received < sent {
        let into = bench.receive(2, b, 1 << 20);
        let Outcome::Received(n) = bench.outcome(2) else { panic!("not received") };
        received += n;
        bench.driver.free(into);
    }
    assert!(matches!(bench.outcome(1), Outcome::Sent(1..)));
    assert_eq!(bench.driver.release(a).map(drop), Ok(()), "nothing is outstanding");
}

#[test]
fn cancelling_finds_what_is_there_spinning_or_armed() {
    let mut bench = Bench::new();
    let (a, _b) = bench.pair();
    for spin in [false, true] {
        bench.spin = spin;
        let buffer = bench.receive(1, a, 8);
        bench.driver.turn(now(), Wait::Poll, &mut bench.done).unwrap();
        let token = Token(1);
        bench.push(2, Op::Cancel { token });
        assert_eq!(bench.outcome(1), failed(OpError::Canceled));
        assert_eq!(bench.outcome(2), Outcome::CancelDone { found: true });
        let _readable_again = bench.driver.buffer(buffer);
        bench.push(3, Op::Cancel { token });
        assert_eq!(bench.outcome(3), Outcome::CancelDone { found: false });
    }
}

#[test]
fn a_close_completes_after_what_it_cancels_and_the_far_end_sees_it() {
    let mut bench = Bench::new();
    bench.driver.provide_pool(4, 16).unwrap();
    for multishot in [false, true] {
        for spin in [false, true] {
            bench.spin = spin;
            let (a, b) = bench.pair();
            if multishot {
                bench.push(1, Op::ReceiveMultishot { socket: a });
            } else {
                bench.receive(1, a, 8);
            }
            bench.driver.turn(now(), Wait::Poll, &mut bench.done).unwrap();
            bench.send(2, a, b"last");
            bench.push(3, Op::Close { socket: a });
            bench.receive(4, a, 8);
            assert_eq!(bench.outcome(3), Outcome::Closed);
            assert_eq!(bench.outcome(4), failed(OpError::BadSocket));
            // Already there: nothing may follow the close.
            let at = |done: &[Completion], t| done.iter().position(|c| c.token == Token(t));
            let first = at(&bench.done, 1).expect("before the close");
            assert!(at(&bench.done, 2).is_some());
            assert_eq!(
                bench.done[first].outcome,
                failed(OpError::Canceled),
                "multishot {multishot}, spin {spin}"
            );
            assert!(!bench.done[first].more);
            bench.done.clear();
            bench.receive(5, b, 8);
            assert_eq!(bench.outcome(5), Outcome::Received(4));
            bench.receive(6, b, 8);
            assert_eq!(bench.outcome(6), Outcome::Received(0), "the end of the stream");
        }
    }
}

#[test]
fn a_pool_runs_dry_and_is_filled_again() {
    let mut bench = Bench::new();
    assert!(bench.driver.provide_pool(3, 16).is_err(), "no power of two");
    bench.driver.provide_pool(2, 4).unwrap();
    assert!(bench.driver.provide_pool(2, 4).is_err(), "only once");
    let (a, b) = bench.pair();
    bench.push(1, Op::ReceiveMultishot { socket: b });
    bench.send(2, a, b"0123456789ab");
    let mut held = Vec::new();
    loop {
        let completion = bench.completion(1);
        match completion.outcome {
            Outcome::ReceivedInPool { buffer: Some(buffer), len } => {
                assert_eq!(bench.driver.pool_bytes(&buffer).len(), len as usize);
                held.push(buffer);
            }
            outcome => {
                assert_eq!(outcome, failed(OpError::NoBuffers));
                assert!(!completion.more);
                break;
            }
        }
    }
    let bytes: Vec<u8> = held.iter().flat_map(|b| bench.driver.pool_bytes(b).to_vec()).collect();
    assert_eq!(bytes, b"01234567");
    for buffer in held {
        bench.driver.recycle(buffer);
    }
    bench.push(1, Op::ReceiveMultishot { socket: b });
    let Outcome::ReceivedInPool { buffer: Some(buffer), .. } = bench.outcome(1) else {
        panic!("nothing received")
    };
    assert_eq!(bench.driver.pool_bytes(&buffer), b"89ab");
    bench.push(3, Op::HalfClose { socket: a });
    let end = bench.completion(1);
    let buffer = None;
    assert_eq!(end.outcome, Outcome::ReceivedInPool { buffer, len: 0 });
    assert!(!end.more);
}

#[test]
#[should_panic(expected = "is not held")]
fn a_pool_buffer_cannot_be_recycled_twice() {
    let mut bench = Bench::new();
    bench.driver.provide_pool(2, 4).unwrap();
    bench.driver.recycle(PoolBuffer(0));
}

#[test]
fn zero_copy_sends_complete_twice_offered_or_not() {
    let mut bench = Bench::new();
    if !bench.driver.capabilities().zero_copy {
        crate::conformance::left_out("this kernel has no SEND_ZC with usage report");
        return;
    }
    for offered in [true, false] {
        if !offered {
            bench.driver.flights.withhold_zero_copy();
            bench.driver.capabilities.zero_copy = false;
        }
        let (socket, b) = bench.pair();
        let buffer = bench.buffer(&[7; 4096]);
        let data = whole(buffer, 4096);
        let zero_copy = true;
        bench.push(1, Op::Send { socket, data, zero_copy });
        let sent = bench.completion(1);
        assert_eq!((sent.outcome, sent.more), (Outcome::Sent(4096), true));
        bench.receive(2, b, 4096);
        assert_eq!(bench.outcome(2), Outcome::Received(4096));
        let released = bench.completion(1);
        assert!(!released.more);
        let Outcome::Released { copied } = released.outcome else { panic!("{released:?}") };
        assert!(copied || offered);
        bench.driver.buffer_mut(buffer)[0] = 0;
        bench.push(3, Op::Close { socket });
        assert_eq!(bench.outcome(3), Outcome::Closed);
    }
}

/// The peer does not read: the data of a zero-copy send stays the kernel's.
#[test]
fn a_close_sends_the_end_before_the_notification_and_completes_after_it() {
    let mut bench = Bench::new();
    let (socket, b) = bench.pair();
    let buffer = bench.buffer(&vec![7; 1 << 20]);
    let data = whole(buffer, 1 << 20);
    let zero_copy = true;
    bench.push(1, Op::Send { socket, data, zero_copy });
    let Outcome::Sent(sent) = bench.outcome(1) else { panic!("not sent") };
    bench.push(2, Op::Close { socket });
    let mut got = 0;
    loop {
        let into = bench.receive(3, b, 1 << 16);
        let Outcome::Received(count) = bench.outcome(3) else { panic!("not received") };
        bench.driver.free(into);
        got += count;
        if count == 0 {
            break;
        }
    }
    assert_eq!(got, sent);
    assert_eq!(bench.outcome(2), Outcome::Closed);
    assert!(
        matches!(bench.done[..], [Completion { outcome: Outcome::Released { .. }, .. }]),
        "{:?}",
        bench.done
    );
}

/// Zero-copy sends that a peer, which does not read, leaves unacknowledged.
fn unacknowledged(bench: &mut Bench) -> (SocketId, SocketId) {
    let (socket, b) = bench.pair();
    let buffer = bench.buffer(&vec![7; 8 << 20]);
    let data = whole(buffer, 8 << 20);
    let zero_copy = true;
    bench.push(1, Op::Send { socket, data, zero_copy });
    assert!(matches!(bench.outcome(1), Outcome::Sent(_)));
    bench.done.clear();
    (socket, b)
}

#[test]
fn a_close_does_not_wait_for_ever_for_what_nobody_acknowledges() {
    for resets in [false, true] {
        let mut bench = Bench::new();
        let (socket, _b) = unacknowledged(&mut bench);
        if resets {
            let option = crate::SocketOption::ResetOnClose;
            bench.driver.set_option(socket, &option).unwrap();
        }
        let start = now();
        bench.push(2, Op::Close { socket });
        assert_eq!(bench.outcome(2), Outcome::Closed);
        // The kernel's timer is not exact.
        let bound =
            if resets { Nanos::from_millis(900) } else { UNACKED_MAX + UNACKED_MAX + UNACKED_MAX };
        assert!(now().since(start) < bound, "{resets}");
    }
}

#[test]
fn a_drop_takes_back_what_nobody_acknowledges() {
    let mut bench = Bench::new();
    let (socket, _b) = unacknowledged(&mut bench);
    let (closed, _d) = unacknowledged(&mut bench);
    bench.push(2, Op::Close { socket: closed });
    let mut done = Vec::new();
    bench.driver.turn(now(), Wait::Poll, &mut done).unwrap();
    assert!(bench.driver.socket(socket).is_some());
    let start = now();
    drop(bench);
    // Else it would have gone on to the end of its bound.
    assert!(now().since(start) < RELEASE_MAX, "everything is back");
}

#[test]
fn sockets_move_between_drivers_even_non_blocking_ones() {
    let mut bench = Bench::new();
    let (a, b) = bench.pair();
    let socket = bench.driver.release(b).unwrap();
    SockRef::from(&socket).set_nonblocking(true).unwrap();
    let mut other = Bench::new();
    let b = other.driver.adopt(socket).unwrap();
    other.receive(1, b, 8);
    let mut done = Vec::new();
    other.driver.turn(now(), Wait::Until(now() + Nanos::from_millis(1)), &mut done).unwrap();
    assert!(done.is_empty(), "{done:?}");
    bench.send(2, a, b"moved");
    assert_eq!(bench.outcome(2), Outcome::Sent(5));
    assert_eq!(other.outcome(1), Outcome::Received(5));
}

#[test]
fn a_send_does_not_end_a_wait_that_it_shares_a_system_call_with() {
    let mut bench = Bench::new();
    let (a, b) = bench.pair();
    bench.receive(1, b, 8);
    let deadline = now() + Nanos::from_millis(2);
    // Submitting only the receive completes nothing: the kernel then reports what it submitted
    // instead of the timeout.
    let mut done = Vec::new();
    bench.driver.turn(now(), Wait::Until(deadline), &mut done).unwrap();
    assert!(done.is_empty() && now() >= deadline);
    bench.send(2, a, b"x");
    assert_eq!(bench.outcome(1), Outcome::Received(1));
}

#[test]
fn a_batch_gathers_and_is_bounded() {
    let mut bench = Bench::new();
    let sockets: Vec<_> = (0..3).map(|_| bench.pair()).collect();
    for (token, (_, receiver)) in (1..).zip(&sockets) {
        bench.receive(token, *receiver, 8);
    }
    let start = now();
    // The first two are there at once; nothing comes for the third.
    bench.send(11, sockets[0].0, b"one");
    bench.send(12, sockets[1].0, b"two");
    let batch = |within| Wait::Batch { completions: 2, within, deadline: start + LONG };
    let mut done = Vec::new();
    let enough = batch(Nanos::from_millis(100));
    bench.driver.turn(now(), enough, &mut done).unwrap();
    assert!(done.len() >= 2, "a batch, and not waiting for the bound");
    assert!(now().since(start) < Nanos::from_millis(100));

    while done.len() < 4 {
        let deadline = Wait::Until(start + LONG);
        bench.driver.turn(now(), deadline, &mut done).unwrap();
    }

    let at = now();
    bench.push(13, Op::Cancel { token: Token(99) });
    let within = Nanos::from_millis(2);
    done.clear();
    bench.driver.turn(at, batch(within), &mut done).unwrap();
    assert_eq!(done.len(), 1);
    assert!(now().since(at) >= within, "gathers as long as it may");
    assert!(now().since(at) < Nanos::from_millis(150));

    let deadline = now() + Nanos::from_millis(1);
    let none = Wait::Batch { completions: 2, within: LONG, deadline };
    done.clear();
    bench.driver.turn(now(), none, &mut done).unwrap();
    assert!(done.is_empty() && now() >= deadline);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel's wait must be under way, and only time tells"
)]
fn another_thread_wakes_a_wait_and_the_next_one() {
    let mut bench = Bench::new();
    let mut done = Vec::new();
    for _ in 0..3 {
        let waker = bench.driver.waker();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            waker.wake();
        });
        let start = now();
        bench.driver.turn(start, Wait::Until(start + LONG), &mut done).unwrap();
        assert!(now().since(start) < LONG);
        other.join().unwrap();
    }
    // A wake that a spinning turn has seen counts for the next that waits.
    bench.driver.waker().wake();
    bench.driver.turn(now(), Wait::Poll, &mut done).unwrap();
    bench.driver.turn(now(), Wait::Poll, &mut done).unwrap();
    let start = now();
    bench.driver.turn(start, Wait::Until(start + LONG), &mut done).unwrap();
    assert!(now().since(start) < LONG);
    // And only for that one.
    let deadline = now() + Nanos::from_millis(1);
    bench.driver.turn(now(), Wait::Until(deadline), &mut done).unwrap();
    assert!(now() >= deadline && done.is_empty());
}

#[test]
fn more_operations_than_the_ring_has_entries_go_out_in_one_turn() {
    let mut bench = Bench::new();
    // Each socket sends itself a datagram: two operations with an entry of their own.
    let sockets = u64::from(tare_units::limits::RING_ENTRIES) / 2 + 50;
    let count = 2 * sockets;
    for token in 0..sockets {
        let local = "127.0.0.1:0".parse().unwrap();
        let spec = SocketSpec { local: Some(local), ..SocketSpec::datagram_to(local) };
        let socket = bench.driver.open(&spec).unwrap();
        let to = bench.driver.local_addr(socket).unwrap();
        let into = whole(bench.driver.allocate(8).unwrap(), 8);
        bench.push(2 * token, Op::ReceiveFrom { socket, into });
        let data = whole(bench.driver.allocate(8).unwrap(), 8);
        let source = None;
        bench.push(2 * token + 1, Op::SendTo { socket, data, to, source });
    }
    let mut done = Vec::new();
    let mut turns = 0;
    while done.len() < count as usize {
        let before = done.len();
        let deadline = now() + LONG;
        bench.driver.turn(now(), Wait::Until(deadline), &mut done).unwrap();
        assert!(done.len() > before, "the deadline passed");
        assert!(done.len() - before <= COMPLETIONS_PER_TURN);
        turns += 1;
    }
    assert!(turns >= 2);
    let mut tokens: Vec<_> = done.iter().map(|c| c.token.0).collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..count), "each exactly once");
}

#[test]
fn drop_drains_what_is_in_flight() {
    let mut bench = Bench::new();
    bench.driver.provide_pool(8, 64).unwrap();
    let (a, b) = bench.pair();
    let (c, _d) = bench.pair();
    let (listener, _) = bench.listen();
    let local = "127.0.0.1:0".parse().unwrap();
    let spec = SocketSpec { local: Some(local), ..SocketSpec::datagram_to(local) };
    let server = bench.driver.open(&spec).unwrap();
    bench.push(1, Op::ReceiveMultishot { socket: b });
    bench.receive(2, c, 64);
    let multishot = true;
    bench.push(3, Op::Accept { listener, multishot });
    let buffer = bench.driver.allocate(64).unwrap();
    let into = whole(buffer, 64);
    bench.push(4, Op::ReceiveFrom { socket: server, into });
    let mut done = Vec::new();
    let deadline = now() + Nanos::from_micros(10);
    bench.driver.turn(now(), Wait::Until(deadline), &mut done).unwrap();
    assert!(done.is_empty());
    // Bytes on their way to the armed receive, and an operation pushed and never submitted.
    bench.send(6, a, b"on the way");
    bench.driver.turn(now(), Wait::Poll, &mut done).unwrap();
    bench.receive(7, a, 64);
    let start = now();
    drop(bench);
    assert!(now().since(start) < Nanos::from_millis(500), "the drain found everything");
}
