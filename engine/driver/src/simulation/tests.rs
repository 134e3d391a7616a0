//! What the conformance suite cannot ask of a kernel: chance, loss, planned faults, the clock.

use std::net::SocketAddr;

use super::{SimConfig, SimDriver, SimNet};
use crate::clock::{Clock, SimulatedClock};
use crate::{Completion, Driver, Op, OpError, Outcome, Segment, SocketId, SocketSpec, Token, Wait};
use tare_units::{Instant, Nanos};

const LATENCY: Nanos = Nanos::from_micros(10);

/// A net with two parties, and everything that completed, in order: when, whose, what.
struct Sim {
    clock: SimulatedClock,
    net: SimNet,
    parties: [SimDriver; 2],
    log: Vec<(Instant, usize, Completion)>,
}

impl Sim {
    fn new(config: SimConfig) -> Self {
        let clock = SimulatedClock::new(Instant(0));
        let net = SimNet::new(config, clock.clone());
        Self { parties: [net.driver(), net.driver()], net, clock, log: Vec::new() }
    }

    /// Steps until nothing is left to happen, or the instant.
    fn run_until(&mut self, end: Instant) {
        loop {
            let mut progressed = false;
            for (i, party) in self.parties.iter_mut().enumerate() {
                let (now, mut done) = (self.clock.now(), Vec::new());
                let wait = Wait::Until(Instant::FAR_FUTURE);
                party.turn(now, wait, &mut done).unwrap();
                progressed |= !done.is_empty();
                self.log.extend(done.into_iter().map(|c| (now, i, c)));
            }
            if !progressed {
                match self.net.next_event() {
                    Some(next) if next <= end => self.clock.advance_to(next),
                    _ => return self.clock.advance_to(end),
                }
            }
        }
    }

    fn run(&mut self) {
        let end = self.clock.now() + Nanos::from_secs(1);
        self.run_until(end);
    }

    fn push(&mut self, party: usize, token: u64, op: Op) {
        self.parties[party].push(Token(token), op).unwrap();
    }

    fn outcomes(&self, token: u64) -> Vec<&Outcome> {
        let of = self.log.iter().filter(|(.., c)| c.token == Token(token));
        of.map(|(.., c)| &c.outcome).collect()
    }

    fn buffer(&mut self, party: usize, len: u32) -> Segment {
        let buffer = self.parties[party].allocate(len as usize).unwrap();
        Segment { buffer, start: 0, len }
    }

    fn receive(&mut self, party: usize, token: u64, socket: SocketId) {
        let into = self.buffer(party, 64);
        self.push(party, token, Op::Receive { socket, into });
    }

    fn connect(&mut self) -> [SocketId; 2] {
        let to: SocketAddr = "127.0.0.1:7117".parse().unwrap();
        let listener = self.parties[1].open(&SocketSpec::listener(to)).unwrap();
        self.push(1, 1000, Op::Accept { listener, multishot: false });
        let socket = self.parties[0].open(&SocketSpec::stream_to(to)).unwrap();
        self.push(0, 1001, Op::Connect { socket, to });
        self.run();
        let Some(&&Outcome::Accepted(accepted)) = self.outcomes(1000).first() else {
            panic!("not accepted");
        };
        assert_eq!(self.outcomes(1001), [&Outcome::Connected]);
        [socket, accepted]
    }

    fn send(&mut self, token: u64, socket: SocketId, len: u32) {
        let data = self.buffer(0, len);
        self.push(0, token, Op::Send { socket, data, zero_copy: false });
    }

    fn datagrams(&mut self, party: usize, local: &str) -> (SocketId, SocketAddr) {
        let local: SocketAddr = local.parse().unwrap();
        let spec = SocketSpec { local: Some(local), ..SocketSpec::datagram_to(local) };
        let socket = self.parties[party].open(&spec).unwrap();
        (socket, self.parties[party].local_addr(socket).unwrap())
    }
}

/// 300 numbered datagrams, one each microsecond; the numbers that arrive, in order.
fn flood(config: SimConfig) -> Vec<u16> {
    let mut sim = Sim::new(config);
    let (server, to) = sim.datagrams(1, "127.0.0.1:0");
    let (client, _) = sim.datagrams(0, "127.0.0.1:0");
    sim.parties[1].provide_pool(512, 2).unwrap();
    sim.push(1, 5000, Op::ReceiveMultishot { socket: server });
    for n in 0..300u16 {
        let data = sim.buffer(0, 2);
        sim.parties[0].buffer_mut(data.buffer).copy_from_slice(&n.to_be_bytes());
        sim.push(0, u64::from(n), Op::SendTo { socket: client, data, to, source: None });
        sim.run_until(Instant(u64::from(n) * 1_000));
    }
    sim.run();
    let numbers = sim.log.iter().filter_map(|(.., c)| match &c.outcome {
        Outcome::ReceivedInPool { buffer: Some(buffer), .. } => {
            let bytes = sim.parties[1].pool_bytes(buffer);
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        }
        _ => None,
    });
    numbers.collect()
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let config = |seed| SimConfig {
        seed,
        latency: LATENCY,
        jitter: LATENCY,
        datagram_loss: 0.1,
        datagram_reorder: 0.1,
        ..SimConfig::default()
    };
    let first = flood(config(1));
    assert_eq!(first, flood(config(1)));
    assert_ne!(first, flood(config(2)));
}

#[test]
fn datagrams_are_lost_and_overtake_as_often_as_asked() {
    let clean = SimConfig { latency: LATENCY, ..SimConfig::default() };
    let all: Vec<u16> = (0..300).collect();
    assert_eq!(flood(clean), all);

    let lossy = flood(SimConfig { datagram_loss: 0.2, ..clean });
    assert!((200..280).contains(&lossy.len()), "{} of 300", lossy.len());
    assert!(lossy.is_sorted());

    let mut reordered = flood(SimConfig { datagram_reorder: 0.2, ..clean });
    assert!(!reordered.is_sorted());
    reordered.sort_unstable();
    assert_eq!(reordered, all, "late, and not lost");
}

#[test]
fn a_message_takes_the_latency() {
    let mut sim = Sim::new(SimConfig { latency: LATENCY, ..SimConfig::default() });
    let [client, server] = sim.connect();
    sim.receive(1, 2, server);
    sim.send(1, client, 64);
    let start = sim.clock.now();
    sim.run();
    let (at, ..) = sim.log.iter().find(|(.., c)| c.token == Token(2)).unwrap();
    assert_eq!(at.since(start), LATENCY);
}

#[test]
fn a_partitioned_peer_vanishes_without_a_word() {
    let mut sim = Sim::new(SimConfig { latency: LATENCY, ..SimConfig::default() });
    let [client, server] = sim.connect();
    sim.receive(0, 1, client);
    sim.push(1, 2, Op::Close { socket: server });
    sim.parties[1].turn(sim.clock.now(), Wait::Poll, &mut Vec::new()).unwrap();
    // The FIN is on its way already.
    sim.net.partition();
    sim.send(3, client, 64);
    sim.run();
    assert!(sim.outcomes(1).is_empty());
    assert_eq!(sim.outcomes(3), [&Outcome::Sent(64)], "into the void");
    assert_eq!(sim.net.next_event(), None);
}

#[test]
fn resets_come_as_planned_and_by_chance() {
    let mut sim = Sim::new(SimConfig::default());
    let [client, server] = sim.connect();
    let at = sim.clock.now() + Nanos::from_millis(3);
    sim.net.plan_reset(at);
    for (party, socket) in [client, server].into_iter().enumerate() {
        sim.receive(party, party as u64, socket);
    }
    sim.run();
    let reset = Outcome::Failed(OpError::Reset);
    for party in 0..2 {
        let token = Token(party as u64);
        let (when, _, completion) =
            sim.log.iter().find(|(_, p, c)| (*p, c.token) == (party, token)).unwrap();
        assert_eq!((*when, &completion.outcome), (at, &reset));
    }

    let mut sim = Sim::new(SimConfig { reset: 1.0, ..SimConfig::default() });
    let [client, server] = sim.connect();
    sim.receive(1, 1, server);
    sim.send(2, client, 8);
    sim.run();
    assert_eq!((sim.outcomes(1), sim.outcomes(2)), (vec![&reset], vec![&reset]));
}

#[test]
fn a_datagram_that_nobody_takes_is_refused_to_a_connected_sender() {
    let mut sim = Sim::new(SimConfig::default());
    let (socket, _) = sim.datagrams(0, "127.0.0.1:0");
    let to = "127.0.0.1:9".parse().unwrap();
    sim.push(0, 1, Op::Connect { socket, to });
    sim.run();
    sim.receive(0, 2, socket);
    sim.send(3, socket, 8);
    sim.run();
    assert_eq!(sim.outcomes(3), [&Outcome::Sent(8)]);
    assert_eq!(sim.outcomes(2), [&Outcome::Failed(OpError::Refused)]);
}

#[test]
fn the_next_event_is_the_nearer_of_arrival_and_deadline() {
    let mut sim = Sim::new(SimConfig { latency: LATENCY, ..SimConfig::default() });
    let mut done = Vec::new();
    let mut turn = |sim: &mut Sim, wait| {
        let now = sim.clock.now();
        sim.parties[0].turn(now, wait, &mut done).unwrap();
        sim.net.next_event()
    };
    assert_eq!(turn(&mut sim, Wait::Until(Instant::FAR_FUTURE)), None);
    assert_eq!(turn(&mut sim, Wait::Until(Instant(50_000))), Some(Instant(50_000)));
    let (socket, to) = sim.datagrams(0, "127.0.0.1:0");
    sim.push(0, 2, Op::Connect { socket, to });
    turn(&mut sim, Wait::Poll);
    sim.send(3, socket, 1);
    assert_eq!(turn(&mut sim, Wait::Poll), Some(Instant(10_000)));
    for (deadline, next) in [(5_000, 5_000), (50_000, 10_000)] {
        let wait = Wait::Until(Instant(deadline));
        assert_eq!(turn(&mut sim, wait), Some(Instant(next)));
    }
}

#[test]
fn a_reset_after_sends_comes_with_the_next() {
    let mut sim = Sim::new(SimConfig { seed: 3, reset: 0.02, ..SimConfig::default() });
    let [socket, _] = sim.connect();
    let data = sim.buffer(0, 10);
    let count = 1_000;
    for token in 0..3 {
        sim.push(0, token, Op::SendRepeated { socket, data, count });
        sim.run();
    }
    let first = sim.outcomes(0);
    let [&Outcome::SentRepeated { sends, bytes }] = first[..] else {
        panic!("{first:?}");
    };
    assert!((1..count).contains(&sends) && bytes == u64::from(sends) * 10);
    assert_eq!(sim.outcomes(1), [&Outcome::Failed(OpError::Reset)]);
    assert_eq!(sim.outcomes(2), [&Outcome::Failed(OpError::BrokenPipe)]);
}
