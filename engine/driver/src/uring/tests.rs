//! What the conformance suite does not ask: what the ring is left out of, batches, unacknowledged
//! data, and the bounds of the ring itself.

use super::*;
use crate::conformance::{Bench, CLIENT, KernelHarness, Mode, SERVER, left_out, send, streams};
use crate::{Segment, SocketOption};
use tare_units::bounds::{RELEASE_MAX, UNACKED_MAX};

type UringBench = Bench<KernelHarness<UringDriver>>;

const LONG: Nanos = Nanos::from_secs(5);

fn now() -> Instant {
    MonotonicClock.now()
}

fn bench(mode: Mode) -> UringBench {
    UringBench::new(mode).unwrap()
}

/// One turn of the client.
fn turn(bench: &mut UringBench, wait: Wait) -> Vec<Completion> {
    let mut done = Vec::new();
    bench.driver(CLIENT).turn(now(), wait, &mut done).unwrap();
    done
}

#[test]
fn a_receive_is_attempted_by_spinning_and_armed_by_waiting() {
    let mut bench = bench(Mode::Mixed);
    let pair = bench.pair();
    for round in 0..200u64 {
        let (receive, into) = bench.push_receive(CLIENT, pair.client, 64);
        if round % 5 == 0 {
            assert!(turn(&mut bench, Wait::Poll).is_empty());
            assert_eq!(bench.driver(CLIENT).spinning.len(), 1);
            assert!(turn(&mut bench, Wait::Until(now() + Nanos(1))).is_empty());
            assert!(bench.driver(CLIENT).spinning.is_empty());
        }
        bench.send_all(SERVER, pair.server, &round.to_ne_bytes());
        assert_eq!(bench.wait_for(CLIENT, receive), Outcome::Received(8));
        assert_eq!(bench.driver(CLIENT).buffer(into.buffer)[..8], round.to_ne_bytes());
    }
    assert_eq!(bench.driver(CLIENT).overflows(), 0);
}

#[test]
fn more_receives_than_are_attempted_still_spin() {
    let mut bench = bench(Mode::Poll);
    let pairs: Vec<_> = (0..2 * SPIN_ATTEMPTS_MAX).map(|_| bench.pair()).collect();
    let receives: Vec<_> = pairs
        .iter()
        .map(|pair| {
            let receive = bench.push_receive(CLIENT, pair.client, 8);
            // One pushed at a time: the first are attempted, and armed once there are too many.
            bench.turn(CLIENT);
            receive
        })
        .collect();
    assert!(bench.driver(CLIENT).spinning.is_empty());
    for (number, pair) in (0u64..).zip(&pairs) {
        bench.send_all(SERVER, pair.server, &number.to_ne_bytes());
    }
    for (number, (receive, into)) in (0u64..).zip(receives) {
        assert_eq!(bench.wait_for(CLIENT, receive), Outcome::Received(8));
        assert_eq!(bench.driver(CLIENT).buffer(into.buffer), number.to_ne_bytes());
    }
}

#[test]
fn a_spinning_send_needs_the_ring_only_where_there_is_no_room() {
    let mut bench = bench(Mode::Poll);
    let pair = bench.pair();
    let data = bench.buffer(CLIENT, 1 << 16);
    let mut sent = 0;
    let blocked = loop {
        let token = bench.push(CLIENT, send(pair.client, data));
        bench.turn(CLIENT);
        match bench.try_take(CLIENT, token) {
            None => break token,
            Some(Completion { outcome: Outcome::Sent(n), more: false, .. }) => sent += n,
            Some(other) => panic!("{other:?}"),
        }
    };
    let flights = &bench.driver(CLIENT).flights;
    assert!(flights.in_kernel(flights.find(blocked, |_| true).unwrap()));
    bench.receive_exact(SERVER, pair.server, sent as usize);
    assert!(matches!(bench.wait_for(CLIENT, blocked), Outcome::Sent(1..)));
    let released = bench.driver(CLIENT).release(pair.client);
    assert_eq!(released.map(drop), Ok(()), "nothing is outstanding");
}

#[test]
fn a_pool_is_provided_once_and_its_buffers_are_recycled_once() {
    let mut driver = UringDriver::new().unwrap();
    assert!(driver.provide_pool(3, 16).is_err(), "no power of two");
    driver.provide_pool(2, 4).unwrap();
    assert!(driver.provide_pool(2, 4).is_err(), "only once");
    let recycle = std::panic::AssertUnwindSafe(|| driver.recycle(PoolBuffer(0)));
    let panic = std::panic::catch_unwind(recycle).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("is not held"));
}

#[test]
fn zero_copy_sends_complete_twice_where_they_are_not_offered() {
    let mut bench = bench(Mode::Until);
    if !bench.driver(CLIENT).capabilities().zero_copy {
        left_out("this kernel has no SEND_ZC with usage report");
        return;
    }
    bench.driver(CLIENT).flights.withhold_zero_copy();
    bench.driver(CLIENT).capabilities.zero_copy = false;
    streams::zero_copy_completes_twice(&mut bench);
}

/// A zero-copy send of so many bytes that a peer, which does not read, leaves unacknowledged; and
/// how many bytes of it the kernel took.
fn unacknowledged(bench: &mut UringBench, socket: SocketId, len: usize) -> (Token, u32) {
    let data = bench.buffer(CLIENT, len);
    let token = bench.push(CLIENT, Op::Send { socket, data, zero_copy: true });
    let Outcome::Sent(sent) = bench.take(CLIENT, token).outcome else { panic!("not sent") };
    (token, sent)
}

#[test]
fn a_close_sends_the_end_before_the_notification_and_completes_after_it() {
    let mut bench = bench(Mode::Until);
    let pair = bench.pair();
    let (token, sent) = unacknowledged(&mut bench, pair.client, 1 << 20);
    let close = bench.push(CLIENT, Op::Close { socket: pair.client });
    bench.receive_exact(SERVER, pair.server, sent as usize);
    assert_eq!(bench.receive(SERVER, pair.server, 1), b"", "the end");
    while bench.is_outstanding(CLIENT, close) {
        bench.round();
    }
    assert!(!bench.is_outstanding(CLIENT, token));
    assert!(matches!(bench.wait_for(CLIENT, token), Outcome::Released { .. }));
    assert_eq!(bench.wait_for(CLIENT, close), Outcome::Closed);
}

#[test]
fn a_close_does_not_wait_for_ever_for_what_nobody_acknowledges() {
    // The kernel's timer is not exact.
    let patient = UNACKED_MAX + UNACKED_MAX + UNACKED_MAX;
    for (resets, bound) in [(false, patient), (true, Nanos::from_millis(900))] {
        let mut bench = bench(Mode::Until);
        let socket = bench.pair().client;
        unacknowledged(&mut bench, socket, 8 << 20);
        if resets {
            bench.driver(CLIENT).set_option(socket, &SocketOption::ResetOnClose).unwrap();
        }
        let start = now();
        bench.close(CLIENT, socket);
        assert!(now().since(start) < bound, "{resets}");
    }
}

#[test]
fn a_drop_takes_back_what_nobody_acknowledges() {
    let mut bench = bench(Mode::Until);
    let (socket, closed) = (bench.pair().client, bench.pair().client);
    for socket in [socket, closed] {
        unacknowledged(&mut bench, socket, 8 << 20);
    }
    bench.push(CLIENT, Op::Close { socket: closed });
    turn(&mut bench, Wait::Poll);
    assert!(bench.driver(CLIENT).socket(socket).is_some());
    let start = now();
    bench.drop_party(CLIENT);
    // Else it would have gone on to the end of its bound.
    assert!(now().since(start) < RELEASE_MAX, "everything is back");
}

#[test]
fn a_non_blocking_socket_is_made_to_wait() {
    let mut bench = bench(Mode::Until);
    let pair = bench.pair();
    let socket = bench.driver(SERVER).release(pair.server).unwrap();
    SockRef::from(&socket).set_nonblocking(true).unwrap();
    let server = bench.driver(SERVER).adopt(socket).unwrap();
    let (receive, _) = bench.push_receive(SERVER, server, 8);
    bench.settle();
    assert!(bench.is_outstanding(SERVER, receive));
    bench.send_all(CLIENT, pair.client, b"moved");
    assert_eq!(bench.wait_for(SERVER, receive), Outcome::Received(5));
}

#[test]
fn a_submission_does_not_end_the_wait_that_it_shares_a_system_call_with() {
    let mut bench = bench(Mode::Until);
    let pair = bench.pair();
    let (receive, _) = bench.push_receive(CLIENT, pair.client, 8);
    let deadline = now() + Nanos::from_millis(2);
    // Submitting only the receive completes nothing: the kernel then reports what it submitted
    // instead of the timeout.
    assert!(turn(&mut bench, Wait::Until(deadline)).is_empty() && now() >= deadline);
    bench.send_all(SERVER, pair.server, b"x");
    assert_eq!(bench.wait_for(CLIENT, receive), Outcome::Received(1));
}

#[test]
fn a_batch_gathers_and_is_bounded() {
    let mut bench = bench(Mode::Until);
    let pairs = [(); 3].map(|()| bench.pair());
    for pair in pairs {
        bench.push_receive(CLIENT, pair.client, 8);
    }
    let start = now();
    // The first two are there at once; nothing comes for the third.
    for pair in &pairs[..2] {
        bench.send_one_sided(SERVER, pair.server, b"one");
    }
    let batch = |within| Wait::Batch { completions: 2, within, deadline: start + LONG };
    let done = turn(&mut bench, batch(Nanos::from_millis(100)));
    assert!(done.len() >= 2, "a batch, and not waiting for the bound");
    assert!(now().since(start) < Nanos::from_millis(100));

    let at = now();
    let within = Nanos::from_millis(2);
    bench.push(CLIENT, Op::Cancel { token: Token(99) });
    assert_eq!(turn(&mut bench, batch(within)).len(), 1);
    assert!(now().since(at) >= within, "gathers as long as it may");
    assert!(now().since(at) < Nanos::from_millis(150));

    let deadline = now() + Nanos::from_millis(1);
    let none = Wait::Batch { completions: 2, within: LONG, deadline };
    assert!(turn(&mut bench, none).is_empty() && now() >= deadline);
}

#[test]
fn more_operations_than_the_ring_has_entries_go_out_in_one_turn() {
    let mut driver = UringDriver::new().unwrap();
    let mut buffer = || Segment { buffer: driver.allocate(8).unwrap(), start: 0, len: 8 };
    // Each socket sends itself a datagram: two operations with an entry of their own.
    let sockets = tare_units::limits::RING_ENTRIES / 2 + 50;
    let buffers: Vec<_> = (0..sockets).map(|_| (buffer(), buffer())).collect();
    let count = 2 * u64::from(sockets);
    for (number, (into, data)) in (0..).zip(buffers) {
        let local = "127.0.0.1:0".parse().unwrap();
        let spec = SocketSpec { local: Some(local), ..SocketSpec::datagram_to(local) };
        let socket = driver.open(&spec).unwrap();
        let to = driver.local_addr(socket).unwrap();
        driver.push(Token(2 * number), Op::ReceiveFrom { socket, into }).unwrap();
        let send = Op::SendTo { socket, data, to, source: None };
        driver.push(Token(2 * number + 1), send).unwrap();
    }
    let (mut done, mut turns) = (Vec::new(), 0);
    while done.len() < count as usize {
        let before = done.len();
        driver.turn(now(), Wait::Until(now() + LONG), &mut done).unwrap();
        assert!(done.len() > before, "the deadline passed");
        assert!(done.len() - before <= COMPLETIONS_PER_TURN);
        turns += 1;
    }
    assert!(turns >= 2);
    let mut tokens: Vec<_> = done.iter().map(|c| c.token.0).collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..count), "each exactly once");
}
