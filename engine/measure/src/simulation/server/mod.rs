//! The server against clients that are led by hand, byte by byte.

mod one_go;

use std::collections::VecDeque;

use super::*;
use tare_driver::{
    BufferId, Driver, Op, Outcome as Done, Segment, SocketId, SocketKind, SocketSpec, Token, Wait,
};
use tare_proto::datagram::{
    DataHeader, Document, DocumentFetch, ENDED, Fetch, FetchEvent, UdpClientHandshake,
};
use tare_proto::frame;
use tare_proto::frame::{FrameReader, Kind as FrameKind};
use tare_proto::handshake::ClientEvent;
use tare_proto::hello::Figures;
use tare_units::limits::FRAME_BODY_MAX;

const NAP: Nanos = Nanos::from_millis(100);
const SECOND: Nanos = Nanos::from_secs(1);
const LISTEN: &str = "127.0.0.1:7117";

/// One socket of a client without a mind of its own.
struct Hand {
    io: SimDriver,
    socket: SocketId,
    inbox: BufferId,
    outbox: VecDeque<Vec<u8>>,
    connected: bool,
    sending: bool,
    receiving: bool,
    /// It does not read.
    deaf: bool,
    /// Datagrams, or what came of the stream at a time.
    got: Vec<Vec<u8>>,
    /// The server has ended the stream, or the socket failed.
    ended: bool,
    /// What it sends once it was answered.
    then: Option<Vec<u8>>,
    /// What its datagrams are handed to.
    handshake: Option<UdpClientHandshake>,
}

impl Hand {
    fn new(world: &World, transport: Transport, change: impl FnOnce(&mut SocketSpec)) -> Self {
        let mut io = world.net.driver();
        let to = LISTEN.parse().unwrap();
        let mut spec = match transport {
            Transport::Tcp => SocketSpec::stream_to(to),
            Transport::Udp => SocketSpec::datagram_to(to),
        };
        change(&mut spec);
        let socket = io.open(&spec).unwrap();
        io.push(Token(0), Op::Connect { socket, to }).unwrap();
        let inbox = io.allocate(64 << 10).unwrap();
        Self {
            io,
            socket,
            inbox,
            outbox: VecDeque::new(),
            connected: false,
            sending: false,
            receiving: false,
            deaf: false,
            got: Vec::new(),
            ended: false,
            then: None,
            handshake: None,
        }
    }

    fn tcp(world: &World) -> Self {
        Self::new(world, Transport::Tcp, |_| ())
    }

    fn udp(world: &World) -> Self {
        Self::new(world, Transport::Udp, |_| ())
    }

    fn send(&mut self, bytes: impl Into<Vec<u8>>) {
        self.outbox.push_back(bytes.into());
    }

    fn half_close(&mut self) {
        let socket = self.socket;
        self.io.push(Token(3), Op::HalfClose { socket }).unwrap();
    }

    /// One turn; whether anything came of it.
    fn turn(&mut self, now: Instant) -> bool {
        let socket = self.socket;
        if self.connected && !self.sending && !self.ended && !self.outbox.is_empty() {
            let len = self.outbox[0].len();
            let buffer = self.io.allocate(len).unwrap();
            self.io.buffer_mut(buffer).copy_from_slice(&self.outbox[0]);
            let len = u32::try_from(len).unwrap();
            let start = 0;
            let data = Segment { buffer, start, len };
            let zero_copy = false;
            let send = Op::Send { socket, data, zero_copy };
            self.io.push(Token(1), send).unwrap();
            self.sending = true;
        }
        if self.connected && !self.receiving && !self.deaf && !self.ended {
            let buffer = self.inbox;
            let (start, len) = (0, 64 << 10);
            let into = Segment { buffer, start, len };
            self.io.push(Token(2), Op::Receive { socket, into }).unwrap();
            self.receiving = true;
        }
        let mut done = Vec::new();
        self.io.turn(now, Wait::Poll, &mut done).unwrap();
        for completion in &done {
            match (completion.token.0, &completion.outcome) {
                (0, Done::Connected) => self.connected = true,
                (1, Done::Sent(n)) => {
                    self.sending = false;
                    let mut sent = self.outbox.pop_front().unwrap();
                    let rest = sent.split_off(*n as usize);
                    if !rest.is_empty() {
                        self.outbox.push_front(rest);
                    }
                }
                (2, Done::Received(n)) if *n > 0 => {
                    self.receiving = false;
                    let bytes = self.io.buffer(self.inbox)[..*n as usize].to_vec();
                    if let Some(handshake) = &mut self.handshake {
                        handshake.handle_datagram(&bytes, now);
                        self.outbox.extend(handshake.poll_transmit());
                    }
                    self.outbox.extend(self.then.take());
                    self.got.push(bytes);
                }
                (3, _) => {}
                _ => self.ended = true,
            }
        }
        !done.is_empty()
    }

    /// All of a stream, as frames, behind `skip` bytes.
    fn frames(&self, skip: usize) -> Vec<frame::Frame> {
        let mut reader = FrameReader::new(FRAME_BODY_MAX);
        reader.handle_bytes(&self.got.concat()[skip..]);
        std::iter::from_fn(|| reader.poll_frame().unwrap()).collect()
    }

    /// The figures behind an accept and `skip` bytes of replies.
    fn figures(&self, skip: usize) -> Figures {
        let all = self.got.concat();
        let accept = frame_len(&all);
        let frames = self.frames(accept + skip);
        assert_eq!(frames.len(), 1, "{frames:?}");
        assert_eq!(frames[0].kind, FrameKind::Figures);
        frames[0].read().unwrap()
    }
}

/// Length of the frame that `bytes` begin with.
fn frame_len(bytes: &[u8]) -> usize {
    assert_eq!(&bytes[..4], b"tare");
    8 + usize::from(u16::from_be_bytes([bytes[6], bytes[7]]))
}

fn hello_frame(setup: &Setup) -> Vec<u8> {
    frame::encode(FrameKind::Hello, &setup.hello()).unwrap()
}

/// A server, and nobody else.
fn alone(setup: &Setup) -> World {
    let mut world = World::new(setup);
    world.client = None;
    world
}

/// Runs everything for `length`.
fn run(world: &mut World, hands: &mut [Hand], length: Nanos) {
    let end = world.clock.now() + length;
    world.setup.step = Nanos::from_millis(20);
    loop {
        world.settle();
        let now = world.clock.now();
        let mut moved = false;
        for hand in &mut *hands {
            moved |= hand.turn(now);
        }
        if moved {
            continue;
        }
        if now >= end {
            return;
        }
        world.advance();
    }
}

/// A TCP session, accepted.
fn session(world: &mut World) -> [Hand; 1] {
    let mut hands = [Hand::tcp(world)];
    hands[0].send(hello_frame(&world.setup));
    run(world, &mut hands, Nanos::from_millis(2));
    assert_eq!(world.sessions(), 1);
    assert_eq!(hands[0].frames(0)[0].kind, FrameKind::Accept);
    hands
}

/// What ends a session, and a word of its reason.
fn endings() -> [(Setup, &'static str); 3] {
    let limits = |idle, duration| SessionLimits { idle, duration };
    let with = |idle, duration| {
        let limits = limits(idle, duration);
        Setup { limits, ..Setup::default() }
    };
    [
        (with(SECOND, Nanos::MAX), "--idle-timeout"),
        (with(Nanos::MAX, SECOND), "--max-duration"),
        (with(Nanos::MAX, Nanos::MAX), "told to stop"),
    ]
}

fn end(world: &mut World, hands: &mut [Hand], word: &str) {
    if word == "told to stop" {
        world.stop.set(true);
        run(world, hands, NAP + NAP);
    } else {
        run(world, hands, SECOND + NAP + NAP);
    }
}

#[test]
fn a_session_that_the_server_ends_says_why() {
    for (setup, word) in endings() {
        let mut world = alone(&setup);
        let mut hands = session(&mut world);
        hands[0].send(vec![1; 64]);
        run(&mut world, &mut hands, Nanos::from_millis(2));
        end(&mut world, &mut hands, word);
        let figures = hands[0].figures(64);
        let why = figures.cut_short.expect("a reason");
        assert!(why.contains(word), "{why}");
        assert_eq!(figures.operations, 1);
        assert!(hands[0].ended, "the stream ends behind the figures");
        // A request that was under way then does not reset the connection, and holds nothing up.
        hands[0].ended = false;
        hands[0].send(vec![1; 64]);
        run(&mut world, &mut hands, Nanos::from_millis(2));
        assert_eq!(world.sessions(), 1);
        hands[0].half_close();
        run(&mut world, &mut hands, Nanos::from_millis(2));
        assert_eq!(world.sessions(), 0, "the client has read it");
    }
}

#[test]
fn a_reply_under_way_is_finished_before_the_reason() {
    const SIZE: u32 = 200_000;
    let mut world = alone(&Setup { size_bytes: SIZE, ..Setup::default() });
    let mut hands = session(&mut world);
    hands[0].deaf = true;
    hands[0].send(vec![1; SIZE as usize]);
    run(&mut world, &mut hands, Nanos::from_millis(20));
    world.stop.set(true);
    run(&mut world, &mut hands, Nanos::from_millis(200));
    assert_eq!(world.sessions(), 1);
    hands[0].deaf = false;
    run(&mut world, &mut hands, Nanos::from_millis(20));
    let figures = hands[0].figures(SIZE as usize);
    assert!(figures.cut_short.is_some());
    assert_eq!((figures.operations, figures.sent_bytes), (1, u64::from(SIZE)));
}

#[test]
fn a_held_reply_gives_way_to_the_reason() {
    let mut world = alone(&Setup { server_delay: SECOND, ..Setup::default() });
    let mut hands = session(&mut world);
    hands[0].send(vec![1; 64]);
    run(&mut world, &mut hands, Nanos::from_millis(2));
    end(&mut world, &mut hands, "told to stop");
    assert!(hands[0].figures(0).cut_short.is_some());
    run(&mut world, &mut hands, SECOND + SECOND);
    assert_eq!(world.sessions(), 0);
    assert_eq!(hands[0].frames(0).len(), 2, "accept, figures, and no reply behind them");
}

#[test]
fn a_client_that_does_not_read_holds_nothing() {
    // Its reply, its figures, or even its accept.
    for (size_bytes, window) in [(200_000, None), (64, Some(300)), (64, Some(16))] {
        for (setup, word) in endings() {
            let setup = Setup { size_bytes, ..setup };
            let mut world = alone(&setup);
            let mut hands = [Hand::new(&world, Transport::Tcp, |spec| {
                spec.receive_buffer = window;
            })];
            hands[0].deaf = true;
            hands[0].send(hello_frame(&setup));
            run(&mut world, &mut hands, Nanos::from_millis(5));
            if window != Some(16) {
                hands[0].send(vec![1; size_bytes as usize]);
            }
            run(&mut world, &mut hands, Nanos::from_millis(5));
            assert_eq!(world.sessions(), 1, "{size_bytes} {window:?} {word}");
            end(&mut world, &mut hands, word);
            run(&mut world, &mut hands, Nanos::from_secs(5) + NAP);
            assert_eq!(world.sessions(), 0, "{size_bytes} {window:?} {word}");
            assert!(world.server.role().is_empty());
        }
    }
}

/// Feeds what has come to a fetch, and sends what it asks for.
fn step_fetch(hand: &mut Hand, fetch: &mut DocumentFetch, now: Instant) -> Option<FetchEvent> {
    for datagram in hand.got.drain(..) {
        fetch.handle_datagram(&datagram, now);
    }
    while let Some(question) = fetch.poll_transmit() {
        hand.send(question);
    }
    fetch.poll_event()
}

/// Says hello over UDP as `nonce`, with a good cookie that many times, and gives the session.
fn greet(world: &mut World, hands: &mut [Hand; 1], nonce: u64, times: usize) -> Id {
    let (hello, now) = (world.setup.hello(), world.clock.now());
    let mut handshake = UdpClientHandshake::new(&hello, nonce, None, now, SECOND);
    hands[0].got.clear();
    hands[0].send(handshake.poll_transmit().expect("begins with a hello"));
    let mut repeats = times;
    for _ in 0..100 {
        run(world, hands, Nanos::from_millis(10));
        let now = world.clock.now();
        for datagram in hands[0].got.drain(..) {
            handshake.handle_datagram(&datagram, now);
        }
        handshake.handle_timeout(now);
        while let Some(hello) = handshake.poll_transmit() {
            for _ in 0..std::mem::replace(&mut repeats, 1) {
                hands[0].send(hello.clone());
            }
        }
        match handshake.poll_event() {
            Some(ClientEvent::Accepted(accept)) => return accept.session.expect("over UDP"),
            Some(ClientEvent::Failed(error)) => panic!("{error:?}"),
            None => {}
        }
    }
    panic!("no answer")
}

fn request(session: Id, sequence: u64) -> Vec<u8> {
    let mut datagram = vec![0; 64];
    let (reply, flags) = (false, 0);
    DataHeader { reply, flags, sequence, session }.encode_into(&mut datagram);
    datagram
}

#[test]
fn a_datagram_session_that_the_server_ends_says_so_and_then_why() {
    for (setup, word) in endings() {
        let setup = Setup { transport: Transport::Udp, ..setup };
        let mut world = alone(&setup);
        let mut hands = [Hand::udp(&world)];
        let id = greet(&mut world, &mut hands, 1, 1);
        end(&mut world, &mut hands, word);
        hands[0].got.clear();
        hands[0].send(request(id, 7));
        run(&mut world, &mut hands, Nanos::from_millis(2));
        let answer = DataHeader::decode(&hands[0].got.concat()).expect("an answer");
        assert_eq!((answer.flags, answer.sequence), (ENDED, 7));
        hands[0].got.clear();
        let now = world.clock.now();
        let mut fetch = DocumentFetch::new(id, Document::Figures, now, SECOND);
        let mut event = None;
        while event.is_none() {
            event = step_fetch(&mut hands[0], &mut fetch, world.clock.now());
            run(&mut world, &mut hands, Nanos::from_millis(2));
        }
        let Some(FetchEvent::Done(json)) = event else {
            panic!("{event:?}");
        };
        let figures: Figures = serde_json::from_slice(&json).unwrap();
        let why = figures.cut_short.expect("a reason");
        assert!(why.contains(word), "{why}");
        assert_eq!(world.sessions(), 1);
        // However long it goes on asking for what it was refused.
        for _ in 0..13 {
            hands[0].send(request(id, 8));
            run(&mut world, &mut hands, NAP);
        }
        assert_eq!(world.sessions(), 0);
    }
}

#[test]
fn figures_are_fetched_for_as_long_as_it_takes() {
    let mut world = alone(&Setup {
        limits: SessionLimits { idle: SECOND + SECOND, duration: Nanos::from_secs(8) },
        ..Setup::udp()
    });
    let mut hands = [Hand::udp(&world)];
    let session = greet(&mut world, &mut hands, 1, 1);
    let fetch = Fetch { session, document: Document::Figures, offset: 0 };
    for _ in 0..9 {
        hands[0].got.clear();
        hands[0].send(fetch.encode());
        run(&mut world, &mut hands, Nanos::from_millis(800));
        assert_eq!(hands[0].got.len(), 1, "at {}", world.clock.now().0);
    }
    // But for no longer than a session may last.
    for _ in 0..2 {
        hands[0].send(fetch.encode());
        run(&mut world, &mut hands, Nanos::from_millis(800));
    }
    assert_eq!(world.sessions(), 0);
}

#[test]
fn a_hello_that_is_repeated_is_admitted_once() {
    let mut world = alone(&Setup::udp());
    let mut hands = [Hand::udp(&world)];
    greet(&mut world, &mut hands, 1, 5);
    run(&mut world, &mut hands, NAP);
    assert_eq!(world.front.role().dispatch().asked, 1);
    assert_eq!((world.sessions(), world.server.role().len()), (1, 1));
    assert_eq!(world.front.role().waiting(), 0);
}

#[test]
fn a_client_that_is_started_anew_on_the_same_port_is_heard() {
    let mut world = alone(&Setup::udp());
    let mut hands = [Hand::udp(&world)];
    let first = greet(&mut world, &mut hands, 1, 1);
    let began = world.clock.now();
    let second = greet(&mut world, &mut hands, 2, 1);
    let took = world.clock.now().since(began);
    assert!(took < Nanos::from_millis(200), "{took}");
    assert_ne!(first, second);
    assert_eq!(world.sessions(), 1, "the first one has ended");
    hands[0].got.clear();
    hands[0].send(request(second, 1));
    run(&mut world, &mut hands, Nanos::from_millis(2));
    let reply = DataHeader::decode(&hands[0].got.concat()).expect("a reply");
    assert_eq!((reply.flags, reply.session), (0, second));
}

#[test]
fn the_meter_is_read_once_for_all_that_end_together() {
    for setup in Setup::both(|setup| setup.connections = 50) {
        let mut world = World::new(&setup);
        world.start();
        world.run_to_end();
        assert!((1..=3).contains(&world.reads.get()), "read {} times", world.reads.get());
        assert_eq!(world.finish().outcome.figures.len(), 50);
    }
}

#[test]
fn figures_say_how_many_requests_their_cpu_time_is_for() {
    let setups = [Setup::default(), Setup::udp(), Setup { connect_each: true, ..Setup::default() }];
    for setup in setups {
        let setup = Setup { warmup: Nanos::from_millis(250), connections: 3, ..setup };
        let results = setup.run();
        let measured = results.measured.operations.completed;
        assert!(measured > 100);
        for figures in &results.outcome.figures {
            if figures.operations > 0 || setup.connect_each {
                // At the border some of the other connections' last requests of the warm-up are
                // still answered.
                let counted = figures.cpu_operations;
                assert!(
                    (measured..=measured + 3).contains(&counted) || counted == 0,
                    "{counted} for {measured}: {setup:?}"
                );
            }
        }
        let most = results.outcome.figures.iter().map(|f| f.cpu_operations);
        assert!(most.max().expect("figures") >= measured);
    }
}

#[test]
fn connections_that_never_finish_their_hello_are_closed_and_named() {
    for (idle, within) in [(Nanos::from_secs(2), 2), (Nanos::from_secs(60), 5)] {
        let mut world = alone(&Setup {
            limits: SessionLimits { idle, duration: Nanos::MAX },
            ..Setup::default()
        });
        let mut hands = [Hand::tcp(&world)];
        let frame = hello_frame(&world.setup);
        let began = world.clock.now();
        for byte in frame {
            hands[0].send([byte]);
            run(&mut world, &mut hands, Nanos::from_millis(50));
            if hands[0].ended {
                break;
            }
        }
        let took = world.clock.now().since(began);
        let bound = Nanos::from_secs(within);
        assert!(took >= bound && took <= bound + NAP + NAP, "{took}");
        assert_eq!(world.front.role().waiting(), 0);
        let log = &world.front.role().dispatch().log;
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains("did not finish its hello in time"), "{log:?}");
        assert!(log[0].starts_with("127.0.0.1:"), "{log:?}");
    }
}

#[test]
fn a_hello_that_breaks_off_is_named_and_a_health_check_is_not() {
    let mut world = alone(&Setup::default());
    let mut hands = [Hand::tcp(&world), Hand::tcp(&world)];
    hands[0].send(*b"tare\x01\x01");
    run(&mut world, &mut hands, Nanos::from_millis(2));
    for hand in &mut hands {
        hand.half_close();
    }
    run(&mut world, &mut hands, Nanos::from_millis(2));
    let log = &world.front.role().dispatch().log;
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("in the middle of the handshake"), "{log:?}");
    assert_eq!(world.front.role().waiting(), 0);
}

#[test]
fn a_port_that_is_taken_for_udp_is_not_chosen() {
    let world = alone(&Setup::default());
    let mut other = world.net.driver();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    // The simulated net gives ports in ascending order.
    let taken: Vec<SocketId> = (0..4)
        .map(|_| {
            let spec = SocketSpec {
                kind: SocketKind::Datagram,
                local: Some(any),
                ..SocketSpec::datagram_to(any)
            };
            other.open(&spec).unwrap()
        })
        .collect();
    let mut ports: Vec<u16> =
        taken.iter().map(|&socket| other.local_addr(socket).unwrap().port()).collect();
    let before = ports.remove(0);
    let mut probe = world.net.driver();
    let mut skipped = 0;
    // Go round to where they begin.
    loop {
        let socket = probe.open(&SocketSpec::listener(any)).unwrap();
        let port = probe.local_addr(socket).unwrap().port();
        probe.push(Token(0), Op::Close { socket }).unwrap();
        probe.turn(world.clock.now(), Wait::Poll, &mut Vec::new()).unwrap();
        if port == before {
            break;
        }
        skipped += 1;
        assert!(skipped < 40_000);
    }
    let (inbox, _sessions) = unbounded();
    let door = Door {
        http: None,
        inbox,
        alive: Rc::new(()),
        sessions_max: 1,
        one_go: true,
        asked: 0,
        sessions: 0,
        log: Vec::new(),
    };
    let datagrams = Arc::new(UdpServerFront::new(CookieKey([5; 32]), None));
    let mut front: Acceptor<Door, SimSocket> = Acceptor::new(door, None, datagrams, SECOND);
    let mut io = world.net.driver();
    let bound = front.listen(&mut io, any).expect("another port");
    assert!(!ports.contains(&bound.port()), "{bound}");
    // A port that was asked for is not exchanged for another.
    let asked = SocketAddr::new(any.ip(), ports[0]);
    assert_eq!(front.listen(&mut io, asked), Err(tare_driver::OpError::AddressInUse));
}

/// How many of a driver's buffers are in use: ids are given out densely, those of freed buffers
/// first.
fn buffers_in_use(io: &mut SimDriver) -> usize {
    const MORE: usize = 20_000;
    let ids: Vec<BufferId> = (0..MORE).map(|_| io.allocate(1).unwrap()).collect();
    let most = ids.iter().map(|id| id.0 as usize).max().unwrap();
    for id in ids {
        io.free(id);
    }
    most + 1 - MORE
}

/// Clients of every kind, by number.
fn client_of_any_kind(world: &World, kind: u32) -> Hand {
    let good = hello_frame(&world.setup);
    let mut bad = world.setup.hello();
    bad.size_bytes = 1 << 40;
    let refused = frame::encode(FrameKind::Hello, &bad).unwrap();
    let mut hand = match kind {
        5 | 6 => Hand::new(world, Transport::Tcp, |spec| spec.receive_buffer = Some(16)),
        10..=13 => Hand::udp(world),
        _ => Hand::tcp(world),
    };
    match kind {
        0 => {}
        1 => hand.send(*b"SSH-2.0-x\r\n"),
        2 => hand.send(*b"GET / HTTP/1.1\r\n\r\n"),
        3 => hand.send(good[..20].to_vec()),
        4 => hand.send(refused),
        // Neither takes its answer.
        5 | 6 => {
            hand.deaf = true;
            hand.send(if kind == 5 { refused } else { good });
        }
        // A session: with a request; with a part of one; with one that is too long.
        7..=9 => {
            hand.send(good);
            hand.then = Some(vec![0; [64, 7, 100][kind as usize - 7]]);
        }
        10 => hand.send(vec![0; 1200]),
        11 => hand.send(request(Id(99), 1)),
        12 => {
            let (hello, now) = (Setup::udp().hello(), world.clock.now());
            let mut handshake = UdpClientHandshake::new(&hello, 3, None, now, SECOND);
            hand.send(handshake.poll_transmit().unwrap());
            hand.handshake = Some(handshake);
        }
        _ => hand.send(*b"x"),
    }
    hand
}

#[test]
fn ten_thousand_clients_of_all_kinds_leave_nothing_behind() {
    let mut world = alone(&Setup {
        limits: SessionLimits { idle: Nanos::from_millis(300), duration: SECOND },
        sessions_max: 40,
        ..Setup::default()
    });
    let idle_buffers = buffers_in_use(world.front.parts_mut().1);
    assert_eq!(buffers_in_use(world.server.parts_mut().1), 0);
    let mut hands: VecDeque<Hand> = VecDeque::new();
    for number in 0..10_000 {
        hands.push_back(client_of_any_kind(&world, number % 14));
        // Some close at once, some in the midst of it, some wait to be closed.
        match number % 11 {
            0 => drop(hands.pop_back()),
            1 if hands.len() > 5 => drop(hands.remove(2)),
            2 => hands.back_mut().unwrap().half_close(),
            _ => {}
        }
        if hands.len() > 60 {
            drop(hands.pop_front());
        }
        if number % 3 == 0 {
            run(&mut world, hands.make_contiguous(), Nanos::from_millis(1));
        }
        world.steps = 0;
    }
    assert!(world.front.role().dispatch().asked > 3_000);
    assert!(world.front.role().dispatch().sessions > 100, "over UDP");
    assert!(!world.server.role().is_empty());
    // Deaf and mute ones among them, that never close.
    run(&mut world, hands.make_contiguous(), Nanos::from_secs(7));
    assert_eq!(world.front.role().waiting(), 0);
    assert_eq!((world.sessions(), world.server.role().len()), (0, 0));
    assert_eq!(buffers_in_use(world.front.parts_mut().1), idle_buffers);
    assert_eq!(buffers_in_use(world.server.parts_mut().1), 0);
}
