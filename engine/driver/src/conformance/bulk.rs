//! Repeated sends, discarding receives, several zero-copy sends.

use super::{
    BUSY, Bench, CANCELED, CLIENT, FOUND, Harness, SERVER, bytes_received, bytes_sent, datagrams,
    send,
};
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

pub(super) fn repeated_sends_arrive_one_by_one<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let mut sender = Sender::new(bench, 100);
    let mut left = 40;
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
}

pub(super) fn repeated_sends_do_not_let_their_turn_sleep<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let sender = Sender::new(bench, 100);
    let began = bench.harness.now();
    let deadline = began + Nanos::from_secs(10);
    let batch = Wait::Batch { completions: 1, within: Nanos::from_secs(10), deadline };
    for wait in [Wait::Until(deadline), batch] {
        let mut done = Vec::new();
        let driver = bench.driver(CLIENT);
        driver.push(Token(0), sender.op(pair.client, 10)).unwrap();
        driver.turn(began, wait, &mut done).unwrap();
        assert_eq!(done.len(), 1, "{done:?}");
    }
    assert!(bench.harness.now() < deadline, "it slept");
}

/// Nobody reads: it stops, and then waits; the peer reads, and it goes on.
pub(super) fn repeated_sends_stop_at_a_full_buffer<H: Harness>(bench: &mut Bench<H>) {
    const COUNT: u32 = 10_000;
    let pair = bench.pair();
    let mut sender = Sender::new(bench, 10_000);
    let waiting = sender.fill(bench, pair.client, COUNT);
    // The buffer is lent meanwhile, to be read.
    assert_eq!(bench.driver(CLIENT).buffer(sender.data.buffer), sender.message);
    assert_eq!(bench.perform(CLIENT, sender.op(pair.client, COUNT)), BUSY);

    let mut received = Vec::new();
    while bench.is_outstanding(CLIENT, waiting) {
        received.extend(bench.receive(SERVER, pair.server, 64 << 10));
    }
    sender.sent(&bench.wait_for(CLIENT, waiting), COUNT);
    let rest = sender.expected.len() - received.len();
    received.extend(bench.receive_exact(SERVER, pair.server, rest));
    assert!(received == sender.expected, "bytes differ");
}

pub(super) fn repeated_sends_are_datagrams_of_their_own<H: Harness>(bench: &mut Bench<H>) {
    let (server, client) = connected_datagrams(bench);
    let sender = Sender::new(bench, 100);
    let sent = bench.perform(CLIENT, sender.op(client, 5));
    assert_eq!(sent, Outcome::SentRepeated { sends: 5, bytes: 500 });
    for _ in 0..5 {
        assert_eq!(bench.receive(SERVER, server, 4096), sender.message);
    }
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
pub(super) fn an_error_after_sends_comes_with_the_next<H: Harness>(bench: &mut Bench<H>) {
    let (server, socket) = connected_datagrams(bench);
    bench.close(SERVER, server);
    let mut sender = Sender::new(bench, 100);
    let outcome = bench.perform(CLIENT, sender.op(socket, 3));
    assert!(sender.sent(&outcome, 3) >= 1, "what was sent is reported");
    bench.settle();
    let refused = Outcome::Failed(OpError::Refused);
    assert_eq!(bench.perform(CLIENT, sender.op(socket, 3)), refused);
    // It is reported once.
    let outcome = bench.perform(CLIENT, sender.op(socket, 1));
    assert_eq!(sender.sent(&outcome, 1), 1);
}

pub(super) fn repeated_sends_are_cancelled_and_reset<H: Harness>(bench: &mut Bench<H>) {
    const COUNT: u32 = 10_000;
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
}

pub(super) fn repeated_sends_of_nothing<H: Harness>(bench: &mut Bench<H>) {
    let socket = bench.pair().client;
    let all = bench.buffer(CLIENT, 8);
    for (len, count, sends) in [(8, 0, 0), (0, 3, 3)] {
        let data = Segment { len, ..all };
        let sent = bench.perform(CLIENT, Op::SendRepeated { socket, data, count });
        assert_eq!(sent, Outcome::SentRepeated { sends, bytes: 0 });
    }
}

pub(super) fn what_is_discarded_is_gone<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let socket = pair.server;
    let discard = |bench: &mut Bench<H>, len: u32| {
        let n = bytes_received(&bench.perform(SERVER, Op::Discard { socket, len }));
        assert!(n > 0 && n <= len);
        n
    };
    bench.send_all(CLIENT, pair.client, b"never seenseen");
    let mut left = 10;
    while left > 0 {
        left -= discard(bench, left);
    }
    assert_eq!(bench.receive_exact(SERVER, socket, 4), b"seen");

    // More than a buffer's worth, and the sender gets its room back.
    let mut data = bench.buffer(CLIENT, 3 << 20);
    let (all, mut discarded) = (data.len, 0);
    let mut sending = None;
    while discarded < all {
        if sending.is_none() && data.len > 0 {
            sending = Some(bench.push(CLIENT, send(pair.client, data)));
        }
        discarded += discard(bench, 128 << 10);
        if let Some(done) = sending.and_then(|token| bench.try_take(CLIENT, token)) {
            let n = bytes_sent(&done.outcome);
            (data.start, data.len) = (data.start + n, data.len - n);
            sending = None;
        }
    }
    assert_eq!(discarded, all);
    bench.send_all(CLIENT, pair.client, b"end");
    assert_eq!(bench.receive_exact(SERVER, socket, 3), b"end");
}

pub(super) fn discarding_waits_and_ends_as_a_receive<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let op = |socket| Op::Discard { socket, len: 8 };
    let waiting = bench.push(SERVER, op(pair.server));
    bench.settle();
    assert!(bench.is_outstanding(SERVER, waiting));
    bench.send_all(CLIENT, pair.client, b"x");
    assert_eq!(bench.wait_for(SERVER, waiting), Outcome::Received(1));
    bench.half_close(CLIENT, pair.client);
    for _ in 0..2 {
        assert_eq!(bench.perform(SERVER, op(pair.server)), Outcome::Received(0));
    }

    // The server's end is closed with data unread, which resets.
    let pair = bench.pair();
    bench.send_all(CLIENT, pair.client, b"unread");
    bench.settle();
    let waiting = bench.push(CLIENT, op(pair.client));
    bench.close(SERVER, pair.server);
    assert_eq!(bench.wait_for(CLIENT, waiting), Outcome::Failed(OpError::Reset));
}

pub(super) fn discarding_takes_the_receives_place<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let socket = pair.server;
    let op = |len| Op::Discard { socket, len };
    let waiting = bench.push(SERVER, op(8));
    let (receive, _) = bench.push_receive(SERVER, socket, 8);
    assert_eq!(bench.wait_for(SERVER, receive), BUSY);
    assert_eq!(bench.perform(SERVER, op(1)), BUSY);
    bench.settle();
    bench.cancel(SERVER, waiting);

    bench.send_all(CLIENT, pair.client, b"abc");
    bench.settle();
    assert_eq!(bench.perform(SERVER, op(0)), Outcome::Received(0));
    assert_eq!(bench.receive_exact(SERVER, socket, 3), b"abc");

    let waiting = bench.push(SERVER, op(8));
    bench.settle();
    bench.close(SERVER, socket);
    assert_eq!(bench.wait_for(SERVER, waiting), CANCELED);
    assert_eq!(bench.perform(SERVER, op(8)), Outcome::Failed(OpError::BadSocket));
}

/// More than a spinning driver attempts directly.
pub(super) fn discarding_works_on_many_sockets_at_once<H: Harness>(bench: &mut Bench<H>) {
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
}

/// While nobody reads, the kernel keeps the data of zero-copy sends, and with it their
/// notifications.
pub(super) fn zero_copy_sends_follow_each_other_unreleased<H: Harness>(bench: &mut Bench<H>) {
    let pair = bench.pair();
    let socket = pair.client;
    let data = bench.buffer(CLIENT, 16 << 10);
    let (mut tokens, mut sent) = (Vec::new(), 0u64);
    let last = loop {
        let token = bench.push(CLIENT, Op::Send { socket, data, zero_copy: true });
        bench.settle();
        let Some(completion) = bench.try_take(CLIENT, token) else {
            break token;
        };
        assert!(completion.more, "the notification is to come");
        sent += u64::from(bytes_sent(&completion.outcome));
        tokens.push(token);
    };
    let unreleased = tokens.iter().filter(|token| bench.is_outstanding(CLIENT, **token)).count();
    if bench.driver(CLIENT).capabilities().zero_copy {
        assert!(unreleased >= 2, "{unreleased} of {sent}");
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
    for token in tokens.into_iter().chain([last]) {
        assert!(matches!(bench.wait_for(CLIENT, token), Outcome::Released { .. }));
    }
    bench.driver(CLIENT).buffer_mut(data.buffer)[0] = 1;
}
