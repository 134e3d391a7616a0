//! Repeated sends, discarding receives, several zero-copy sends.

use super::{BUSY, Bench, CANCELED, CLIENT, FOUND, Harness, SERVER, bytes_sent, datagrams, send};
use crate::{Driver, Op, OpError, Outcome, Segment, SocketId, SocketSpec, Token, Wait};
use tare_units::Nanos;

/// The message of repeated sends, and what of it must arrive.
struct Sender {
    message: Vec<u8>,
    data: Segment,
    expected: Vec<u8>,
}

impl Sender {
    fn new<H: Harness>(bench: &mut Bench<H>, len: usize) -> Self {
        // A prime, so that no cut falls on the same byte twice.
        let message: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        Self { data: bench.buffer_with(CLIENT, &message), message, expected: Vec::new() }
    }

    const fn op(&self, socket: SocketId, count: u32) -> Op {
        Op::SendRepeated { socket, data: self.data, count }
    }

    /// Notes what a repeated send says it has sent, which must have been something and not too
    /// much.
    fn sent(&mut self, outcome: &Outcome, count: u32) -> u32 {
        let &Outcome::SentRepeated { sends, bytes } = outcome else {
            panic!("{outcome:?}");
        };
        assert!(sends <= count && bytes > 0, "{outcome:?} of {count}");
        let cut = bytes - u64::from(sends) * self.message.len() as u64;
        assert!((cut as usize) < self.message.len(), "{outcome:?}");
        for _ in 0..sends {
            self.expected.extend(&self.message);
        }
        self.expected.extend(&self.message[..cut as usize]);
        sends
    }

    /// Sends until a send stays outstanding, and returns that one.
    fn fill<H: Harness>(&mut self, bench: &mut Bench<H>, socket: SocketId, count: u32) -> Token {
        loop {
            let token = bench.push(CLIENT, self.op(socket, count));
            bench.settle();
            match bench.try_take(CLIENT, token) {
                Some(sent) => assert!(self.sent(&sent.outcome, count) < count),
                None => return token,
            }
        }
    }
}

pub(super) fn repeated_sends_arrive_one_by_one<H: Harness>() {
    const COUNT: u32 = 40;
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let mut sender = Sender::new(bench, 100);
        let mut left = COUNT;
        while left > 0 {
            let token = bench.push(CLIENT, sender.op(pair.client, left));
            // It has completed when its first turn is over, since there is room.
            bench.turn(CLIENT);
            let completion = bench.try_take(CLIENT, token).expect("not in its turn");
            assert!(!completion.more);
            left -= sender.sent(&completion.outcome, left).max(1);
        }
        let received = bench.receive_exact(SERVER, pair.server, sender.expected.len());
        assert!(received == sender.expected, "bytes differ");
        // The buffer is back.
        bench.driver(CLIENT).buffer_mut(sender.data.buffer)[0] = 1;
    });
}

pub(super) fn repeated_sends_do_not_let_their_turn_sleep<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let sender = Sender::new(bench, 100);
        let began = bench.harness.now();
        let deadline = began + Nanos::from_secs(10);
        for wait in [
            Wait::Until(deadline),
            Wait::Batch { completions: 1, within: Nanos::from_secs(10), deadline },
        ] {
            let mut done = Vec::new();
            let driver = bench.driver(CLIENT);
            driver.push(Token(0), sender.op(pair.client, 10)).unwrap();
            driver.turn(began, wait, &mut done).unwrap();
            assert_eq!(done.len(), 1, "{done:?}");
        }
        assert!(bench.harness.now() < deadline, "it slept");
    });
}

/// Nobody reads: it stops, and then waits; the peer reads, and it goes on.
pub(super) fn repeated_sends_stop_at_a_full_buffer<H: Harness>() {
    const COUNT: u32 = 10_000;
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let mut sender = Sender::new(bench, 10_000);
        let waiting = sender.fill(bench, pair.client, COUNT);
        // The buffer is lent meanwhile, to be read.
        let buffer = sender.data.buffer;
        assert_eq!(bench.driver(CLIENT).buffer(buffer), sender.message);
        let again = sender.op(pair.client, COUNT);
        assert_eq!(bench.perform(CLIENT, again), BUSY);

        let mut received = Vec::new();
        let mut sent = None;
        while sent.is_none() {
            received.extend(bench.receive(SERVER, pair.server, 64 << 10));
            sent = bench.try_take(CLIENT, waiting);
        }
        sender.sent(&sent.unwrap().outcome, COUNT);
        let rest = sender.expected.len() - received.len();
        received.extend(bench.receive_exact(SERVER, pair.server, rest));
        assert!(received == sender.expected, "bytes differ");
    });
}

pub(super) fn repeated_sends_are_datagrams_of_their_own<H: Harness>() {
    Bench::<H>::run(|bench| {
        let (server, client) = connected_datagrams(bench);
        let sender = Sender::new(bench, 100);
        let sent = bench.perform(CLIENT, sender.op(client, 5));
        let all = Outcome::SentRepeated { sends: 5, bytes: 500 };
        assert_eq!(sent, all);
        for _ in 0..5 {
            assert_eq!(bench.receive(SERVER, server, 4096), sender.message);
        }
    });
}

/// A datagram socket, and one that is connected to it.
fn connected_datagrams<H: Harness>(bench: &mut Bench<H>) -> (SocketId, SocketId) {
    let (server, to) = datagrams::open(bench, SERVER, "127.0.0.1:0", false);
    let socket = bench.open(CLIENT, &SocketSpec::datagram_to(to));
    assert_eq!(bench.perform(CLIENT, Op::Connect { socket, to }), Outcome::Connected);
    (server, socket)
}

/// The port is closed, which the first datagram finds out: on a kernel's loopback before the second
/// one is sent.
pub(super) fn an_error_after_sends_comes_with_the_next<H: Harness>() {
    Bench::<H>::run(|bench| {
        let (server, socket) = connected_datagrams(bench);
        bench.close(SERVER, server);
        let mut sender = Sender::new(bench, 100);
        let outcome = bench.perform(CLIENT, sender.op(socket, 3));
        let sends = sender.sent(&outcome, 3);
        assert!(sends >= 1, "what was sent is told");
        bench.settle();
        let refused = Outcome::Failed(OpError::Refused);
        assert_eq!(bench.perform(CLIENT, sender.op(socket, 3)), refused);
        // Told once.
        let outcome = bench.perform(CLIENT, sender.op(socket, 1));
        assert_eq!(sender.sent(&outcome, 1), 1);
    });
}

pub(super) fn repeated_sends_are_cancelled_and_reset<H: Harness>() {
    const COUNT: u32 = 10_000;
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let socket = pair.client;
        let mut sender = Sender::new(bench, 10_000);
        // The kernel may still make room for one that waits: then that one was sent.
        loop {
            let waiting = sender.fill(bench, socket, COUNT);
            let found = bench.perform(CLIENT, Op::Cancel { token: waiting });
            let outcome = bench.wait_for(CLIENT, waiting);
            if found == FOUND {
                assert_eq!(outcome, CANCELED);
                break;
            }
            sender.sent(&outcome, COUNT);
        }

        let waiting = sender.fill(bench, socket, COUNT);
        bench.close(SERVER, pair.server);
        let mut outcome = bench.wait_for(CLIENT, waiting);
        while matches!(outcome, Outcome::SentRepeated { .. }) {
            sender.sent(&outcome, COUNT);
            outcome = bench.perform(CLIENT, sender.op(socket, COUNT));
        }
        assert_eq!(outcome, Outcome::Failed(OpError::Reset), "data was unread");
        let outcome = bench.perform(CLIENT, sender.op(socket, COUNT));
        assert_eq!(outcome, Outcome::Failed(OpError::BrokenPipe));

        let pair = bench.pair();
        let waiting = sender.fill(bench, pair.client, COUNT);
        bench.close(CLIENT, pair.client);
        assert_eq!(bench.wait_for(CLIENT, waiting), CANCELED);
        let dead = bench.perform(CLIENT, sender.op(pair.client, COUNT));
        assert_eq!(dead, Outcome::Failed(OpError::BadSocket));
        bench.driver(CLIENT).buffer_mut(sender.data.buffer)[0] = 1;
    });
}

pub(super) fn repeated_sends_of_nothing<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let mut data = bench.buffer(CLIENT, 8);
        let socket = pair.client;
        let none = bench.perform(CLIENT, Op::SendRepeated { socket, data, count: 0 });
        assert_eq!(none, Outcome::SentRepeated { sends: 0, bytes: 0 });
        data.len = 0;
        let empty = bench.perform(CLIENT, Op::SendRepeated { socket, data, count: 3 });
        assert_eq!(empty, Outcome::SentRepeated { sends: 3, bytes: 0 });
    });
}

pub(super) fn what_is_discarded_is_gone<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let socket = pair.server;
        bench.send_all(CLIENT, pair.client, b"never seenseen");
        discard(bench, socket, 10);
        assert_eq!(bench.receive_exact(SERVER, socket, 4), b"seen");

        // More than a buffer's worth, and the sender gets its room back.
        let zeros = vec![0; 3 << 20];
        let all = bench.buffer_with(CLIENT, &zeros);
        let (mut sent, mut discarded) = (0, 0);
        let mut sending = None;
        while discarded < all.len {
            if sending.is_none() && sent < all.len {
                let data = Segment { start: sent, len: all.len - sent, ..all };
                let socket = pair.client;
                sending = Some(bench.push(CLIENT, send(socket, data)));
            }
            let op = Op::Discard { socket, len: 128 << 10 };
            match bench.perform(SERVER, op) {
                Outcome::Received(n @ 1..=131_072) => discarded += n,
                other => panic!("{other:?}"),
            }
            if let Some(done) = sending.and_then(|token| bench.try_take(CLIENT, token)) {
                let n = bytes_sent(&done.outcome);
                sent += n;
                sending = None;
            }
        }
        assert_eq!(discarded, all.len);
        bench.send_all(CLIENT, pair.client, b"end");
        assert_eq!(bench.receive_exact(SERVER, socket, 3), b"end");
    });
}

/// Discards exactly `len` bytes, however short the receives come out.
fn discard<H: Harness>(bench: &mut Bench<H>, socket: SocketId, len: u32) {
    let mut left = len;
    while left > 0 {
        match bench.perform(SERVER, Op::Discard { socket, len: left }) {
            Outcome::Received(n) if n > 0 && n <= left => left -= n,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn discarding_waits_and_ends_as_a_receive<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let op = |socket| Op::Discard { socket, len: 8 };
        let waiting = bench.push(SERVER, op(pair.server));
        bench.settle();
        assert!(bench.is_outstanding(SERVER, waiting));
        bench.send_all(CLIENT, pair.client, b"x");
        assert_eq!(bench.wait_for(SERVER, waiting), Outcome::Received(1));
        let socket = pair.client;
        let half_close = bench.perform(CLIENT, Op::HalfClose { socket });
        assert_eq!(half_close, Outcome::HalfClosed);
        for _ in 0..2 {
            let end = bench.perform(SERVER, op(pair.server));
            assert_eq!(end, Outcome::Received(0));
        }

        // The server's end is closed with data unread, which resets.
        let pair = bench.pair();
        bench.send_all(CLIENT, pair.client, b"unread");
        bench.settle();
        let waiting = bench.push(CLIENT, op(pair.client));
        let socket = pair.server;
        bench.close(SERVER, socket);
        let reset = Outcome::Failed(OpError::Reset);
        assert_eq!(bench.wait_for(CLIENT, waiting), reset);
    });
}

pub(super) fn discarding_takes_the_receives_place<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let socket = pair.server;
        let op = |len| Op::Discard { socket, len };
        let waiting = bench.push(SERVER, op(8));
        let into = bench.buffer(SERVER, 8);
        assert_eq!(bench.perform(SERVER, Op::Receive { socket, into }), BUSY);
        assert_eq!(bench.perform(SERVER, op(1)), BUSY);
        bench.settle();
        assert_eq!(bench.perform(SERVER, Op::Cancel { token: waiting }), FOUND);
        assert_eq!(bench.wait_for(SERVER, waiting), CANCELED);

        bench.send_all(CLIENT, pair.client, b"abc");
        bench.settle();
        assert_eq!(bench.perform(SERVER, op(0)), Outcome::Received(0));
        assert_eq!(bench.receive_exact(SERVER, socket, 3), b"abc");

        let waiting = bench.push(SERVER, op(8));
        bench.settle();
        bench.close(SERVER, socket);
        assert_eq!(bench.wait_for(SERVER, waiting), CANCELED);
        let dead = bench.perform(SERVER, op(8));
        assert_eq!(dead, Outcome::Failed(OpError::BadSocket));
    });
}

/// More than a spinning driver attempts directly.
pub(super) fn discarding_works_on_many_sockets_at_once<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pairs: Vec<_> = (0..2 * tare_units::limits::SPIN_ATTEMPTS_MAX)
            .map(|_| {
                let pair = bench.pair();
                let op = Op::Discard { socket: pair.server, len: 64 };
                (pair, bench.push(SERVER, op))
            })
            .collect();
        bench.settle();
        for (pair, waiting) in pairs {
            bench.send_all(CLIENT, pair.client, b"1");
            assert_eq!(bench.wait_for(SERVER, waiting), Outcome::Received(1));
        }
    });
}

/// While nobody reads, the kernel keeps the data of zero-copy sends, and with it their
/// notifications.
pub(super) fn zero_copy_sends_follow_each_other_unreleased<H: Harness>() {
    Bench::<H>::run(|bench| {
        let pair = bench.pair();
        let socket = pair.client;
        let data = bench.buffer(CLIENT, 16 << 10);
        let send = || Op::Send { socket, data, zero_copy: true };
        let (mut tokens, mut sent) = (Vec::new(), 0u64);
        let last = loop {
            let token = bench.push(CLIENT, send());
            bench.settle();
            let Some(completion) = bench.try_take(CLIENT, token) else {
                break token;
            };
            let n = bytes_sent(&completion.outcome);
            assert!(completion.more, "the notification is to come");
            sent += u64::from(n);
            tokens.push(token);
        };
        let unreleased = |bench: &mut Bench<H>| {
            let tokens = tokens.iter();
            tokens.filter(|&&token| bench.is_outstanding(CLIENT, token)).count()
        };
        if bench.driver(CLIENT).capabilities().zero_copy {
            assert!(unreleased(bench) >= 2, "{} of {sent}", unreleased(bench));
        }
        bench.perform(CLIENT, Op::Cancel { token: last });
        match bench.take(CLIENT, last).outcome {
            Outcome::Sent(n) => sent += u64::from(n),
            outcome => assert_eq!(outcome, CANCELED),
        }
        let mut left = sent;
        while left > 0 {
            left -= bench.receive(SERVER, pair.server, 64 << 10).len() as u64;
        }
        for &token in tokens.iter().chain([&last]) {
            let released = bench.take(CLIENT, token);
            assert!(matches!(released.outcome, Outcome::Released { .. }), "{released:?}");
            assert!(!released.more);
        }
        bench.driver(CLIENT).buffer_mut(data.buffer)[0] = 1;
    });
}
