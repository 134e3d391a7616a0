//! The server against clients that are led by hand, byte by byte.

mod one_go;

use super::servers::{Admissions, Front, datagrams};
use super::*;
use crate::server::worker::front::Acceptor;
use crossbeam::channel::unbounded;
use tare_driver::{BufferId, Op, OpError, SocketSpec, Token, Wait};
use tare_proto::datagram::{
    DataHeader, Document, DocumentFetch, ENDED, Fetch, FetchEvent, UdpClientHandshake,
};
use tare_proto::frame;
use tare_proto::frame::{Frame, FrameReader, Kind as FrameKind};
use tare_proto::handshake::ClientEvent;
use tare_proto::hello::Figures;
use tare_units::limits::FRAME_BODY_MAX;

const NAP: Nanos = ms(100);

/// All of a stream, as frames, behind `skip` bytes.
fn frames(hand: &Hand, skip: usize) -> Vec<Frame> {
    let mut reader = FrameReader::new(FRAME_BODY_MAX);
    reader.handle_bytes(&hand.bytes()[skip..]);
    std::iter::from_fn(|| reader.poll_frame().unwrap()).collect()
}

/// The figures behind an accept and `skip` bytes of replies.
fn figures(hand: &Hand, skip: usize) -> Figures {
    let all = hand.bytes();
    assert_eq!(&all[..4], b"tare");
    let accept = 8 + usize::from(u16::from_be_bytes([all[6], all[7]]));
    let frames = frames(hand, accept + skip);
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].kind, FrameKind::Figures);
    frames[0].read().unwrap()
}

fn hello_frame(setup: &Setup) -> Vec<u8> {
    frame::encode(FrameKind::Hello, &setup.hello()).unwrap()
}

/// A server whose clients are led by hand. These have no clock: they look every 20 ms.
fn alone(setup: &Setup) -> World {
    World { step: ms(20), ..setup.alone() }
}

fn alone_over_udp(setup: &Setup) -> World {
    let mut world = alone(setup);
    world.hands.push(Hand::udp(&world.net));
    world
}

/// Over TCP, with a session that is accepted.
fn with_session(setup: &Setup) -> World {
    let mut world = alone(setup);
    begin_session(&mut world, setup);
    world
}

fn begin_session(world: &mut World, setup: &Setup) {
    world.hands.clear();
    world.hand(hello_frame(setup));
    world.run_for(ms(2));
    assert_eq!(world.server.sessions(), 1);
    assert_eq!(frames(&world.hands[0], 0)[0].kind, FrameKind::Accept);
}

/// What ends a session, and a word of its reason.
fn endings() -> [(Setup, &'static str); 3] {
    [
        (SECOND, Nanos::MAX, "--idle-timeout"),
        (Nanos::MAX, SECOND, "--max-duration"),
        (Nanos::MAX, Nanos::MAX, "told to stop"),
    ]
    .map(|(idle, duration, word)| {
        (Setup { limits: SessionLimits { idle, duration }, ..Setup::default() }, word)
    })
}

fn end(world: &mut World, word: &str) {
    if word == "told to stop" {
        world.server.stop();
        world.run_for(NAP + NAP);
    } else {
        world.run_for(SECOND + NAP + NAP);
    }
}

#[track_caller]
fn assert_nothing_kept(world: &World) {
    assert_eq!((world.server.sessions(), world.server.worker.role().len()), (0, 0));
}

/// The front has logged one line, which holds these words.
#[track_caller]
fn assert_logged(world: &World, words: &str) {
    let log = &world.server.admissions().log;
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains(words), "{log:?}");
}

fn waiting(world: &World) -> usize {
    world.server.front.role().waiting()
}

#[test]
fn a_session_that_the_server_ends_says_why() {
    for (setup, word) in endings() {
        let mut world = with_session(&setup);
        world.hands[0].send([1; 64]);
        world.run_for(ms(2));
        end(&mut world, word);
        let figures = figures(&world.hands[0], 64);
        let why = figures.cut_short.expect("a reason");
        assert!(why.contains(word), "{why}");
        assert_eq!(figures.operations, 1);
        assert!(world.hands[0].ended, "the stream ends behind the figures");
        // A request that was under way then does not reset the connection, and holds nothing up.
        world.hands[0].ended = false;
        world.hands[0].send([1; 64]);
        world.run_for(ms(2));
        assert_eq!(world.server.sessions(), 1);
        world.hands[0].half_close();
        world.run_for(ms(2));
        assert_eq!(world.server.sessions(), 0, "the client has read it");
    }
}

#[test]
fn a_reply_under_way_is_finished_before_the_reason() {
    const SIZE: u32 = 200_000;
    let mut world = with_session(&Setup { size_bytes: SIZE, ..Setup::default() });
    world.hands[0].deaf = true;
    world.hands[0].send(vec![1; SIZE as usize]);
    world.run_for(ms(20));
    world.server.stop();
    world.run_for(ms(200));
    assert_eq!(world.server.sessions(), 1);
    world.hands[0].deaf = false;
    world.run_for(ms(20));
    let figures = figures(&world.hands[0], SIZE as usize);
    assert!(figures.cut_short.is_some());
    assert_eq!((figures.operations, figures.sent_bytes), (1, u64::from(SIZE)));
}

#[test]
fn a_held_reply_gives_way_to_the_reason() {
    let mut world = with_session(&Setup { server_delay: SECOND, ..Setup::default() });
    world.hands[0].send([1; 64]);
    world.run_for(ms(2));
    end(&mut world, "told to stop");
    assert!(figures(&world.hands[0], 0).cut_short.is_some());
    world.run_for(SECOND + SECOND);
    assert_eq!(world.server.sessions(), 0);
    let frames = frames(&world.hands[0], 0);
    assert_eq!(frames.len(), 2, "accept, figures, and no reply behind them");
}

fn hand_with_window(world: &World, receive_buffer: Option<u32>) -> Hand {
    Hand::new(&world.net, &SocketSpec { receive_buffer, ..SocketSpec::stream_to(listen()) })
}

#[test]
fn a_client_that_does_not_read_holds_nothing() {
    // Its reply, its figures, or even its accept.
    for (size_bytes, window) in [(200_000, None), (64, Some(300)), (64, Some(16))] {
        for (setup, word) in endings() {
            let setup = Setup { size_bytes, ..setup };
            let mut world = alone(&setup);
            let mut hand = hand_with_window(&world, window);
            hand.deaf = true;
            hand.send(hello_frame(&setup));
            world.hands.push(hand);
            world.run_for(ms(5));
            if window != Some(16) {
                world.hands[0].send(vec![1; size_bytes as usize]);
            }
            world.run_for(ms(5));
            assert_eq!(world.server.sessions(), 1, "{size_bytes} {window:?} {word}");
            end(&mut world, word);
            world.run_for(secs(5) + NAP);
            assert_eq!(world.server.sessions(), 0, "{size_bytes} {window:?} {word}");
            assert!(world.server.worker.role().is_empty());
        }
    }
}

/// Says hello over UDP as `nonce`, with a good cookie that many times, and gives the session.
fn greet(world: &mut World, setup: &Setup, nonce: u64, times: usize) -> Id {
    let now = world.clock.now();
    let mut handshake = UdpClientHandshake::new(&setup.hello(), nonce, None, now, SECOND);
    world.hands[0].got.clear();
    world.hands[0].send(handshake.poll_transmit().expect("begins with a hello"));
    let mut repeats = times;
    for _ in 0..100 {
        world.run_for(ms(10));
        let now = world.clock.now();
        for (_, datagram) in world.hands[0].got.drain(..) {
            handshake.handle_datagram(&datagram, now);
        }
        handshake.handle_timeout(now);
        while let Some(hello) = handshake.poll_transmit() {
            for _ in 0..std::mem::replace(&mut repeats, 1) {
                world.hands[0].send(hello.clone());
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
    DataHeader { reply: false, flags: 0, sequence, session }.encode_into(&mut datagram);
    datagram
}

/// Sends a request, and gives the header of the answer.
fn exchange(world: &mut World, session: Id, sequence: u64) -> DataHeader {
    world.hands[0].got.clear();
    world.hands[0].send(request(session, sequence));
    world.run_for(ms(2));
    DataHeader::decode(&world.hands[0].bytes()).expect("an answer")
}

#[test]
fn a_datagram_session_that_the_server_ends_says_so_and_then_why() {
    for (setup, word) in endings() {
        let setup = Setup { transport: Transport::Udp, ..setup };
        let mut world = alone_over_udp(&setup);
        let id = greet(&mut world, &setup, 1, 1);
        end(&mut world, word);
        let answer = exchange(&mut world, id, 7);
        assert_eq!((answer.flags, answer.sequence), (ENDED, 7));
        world.hands[0].got.clear();
        let mut fetch = DocumentFetch::new(id, Document::Figures, world.clock.now(), SECOND);
        let event = loop {
            let (hand, now) = (&mut world.hands[0], world.clock.now());
            for (_, datagram) in hand.got.drain(..) {
                fetch.handle_datagram(&datagram, now);
            }
            while let Some(question) = fetch.poll_transmit() {
                hand.send(question);
            }
            if let Some(event) = fetch.poll_event() {
                break event;
            }
            world.run_for(ms(2));
        };
        let FetchEvent::Done(json) = event else {
            panic!("{event:?}");
        };
        let figures: Figures = serde_json::from_slice(&json).unwrap();
        let why = figures.cut_short.expect("a reason");
        assert!(why.contains(word), "{why}");
        assert_eq!(world.server.sessions(), 1);
        // However long it goes on asking for what it was refused.
        for _ in 0..13 {
            world.hands[0].send(request(id, 8));
            world.run_for(NAP);
        }
        assert_eq!(world.server.sessions(), 0);
    }
}

#[test]
fn figures_are_fetched_for_as_long_as_it_takes() {
    let limits = SessionLimits { idle: SECOND + SECOND, duration: secs(8) };
    let setup = Setup { limits, ..Setup::udp() };
    let mut world = alone_over_udp(&setup);
    let session = greet(&mut world, &setup, 1, 1);
    let fetch = Fetch { session, document: Document::Figures, offset: 0 };
    for _ in 0..9 {
        world.hands[0].got.clear();
        world.hands[0].send(fetch.encode());
        world.run_for(ms(800));
        assert_eq!(world.hands[0].got.len(), 1, "at {}", world.now());
    }
    // But for no longer than a session may last.
    for _ in 0..2 {
        world.hands[0].send(fetch.encode());
        world.run_for(ms(800));
    }
    assert_eq!(world.server.sessions(), 0);
}

#[test]
fn a_hello_that_is_repeated_is_admitted_once() {
    let setup = Setup::udp();
    let mut world = alone_over_udp(&setup);
    greet(&mut world, &setup, 1, 5);
    world.run_for(NAP);
    assert_eq!(world.server.admissions().asked, 1);
    assert_eq!((world.server.sessions(), world.server.worker.role().len()), (1, 1));
    assert_eq!(waiting(&world), 0);
}

#[test]
fn a_client_that_is_restarted_on_the_same_port_is_heard() {
    let setup = Setup::udp();
    let mut world = alone_over_udp(&setup);
    let first = greet(&mut world, &setup, 1, 1);
    let began = world.now();
    let second = greet(&mut world, &setup, 2, 1);
    let took = world.now().0 - began.0;
    assert!(took < ms(200).0, "{took}");
    assert_ne!(first, second);
    assert_eq!(world.server.sessions(), 1, "the first one has ended");
    let reply = exchange(&mut world, second, 1);
    assert_eq!((reply.flags, reply.session), (0, second));
}

#[test]
fn the_meter_is_read_once_for_all_that_end_together() {
    let setup = Setup { connections: 50, ..Setup::default() };
    for setup in setup.over_both() {
        let mut world = setup.started();
        world.run_until(World::is_finished);
        assert!((1..=3).contains(&world.server.reads()), "read {} times", world.server.reads());
        assert_eq!(world.finish().outcome.figures.len(), 50);
    }
}

#[test]
fn figures_say_how_many_requests_their_cpu_time_is_for() {
    let setups = [Setup::default(), Setup::udp(), Setup { connect_each: true, ..Setup::default() }];
    for setup in setups {
        let setup = Setup { warmup: ms(250), connections: 3, ..setup };
        let results = setup.run();
        let measured = results.operations().completed;
        assert!(measured > 100);
        for figures in &results.outcome.figures {
            if figures.operations > 0 || setup.connect_each {
                // At the border some of the other connections' last requests of the warm-up are
                // still answered.
                let counted = figures.cpu_operations;
                let is_right = (measured..=measured + 3).contains(&counted) || counted == 0;
                assert!(is_right, "{counted} for {measured}: {setup:?}");
            }
        }
        let most = results.outcome.figures.iter().map(|f| f.cpu_operations).max();
        assert!(most.expect("figures") >= measured);
    }
}

#[test]
fn connections_that_never_finish_their_hello_are_closed_and_named() {
    for (idle, within) in [(2, 2), (60, 5)].map(|(a, b)| (secs(a), secs(b))) {
        let limits = SessionLimits { idle, duration: Nanos::MAX };
        let setup = Setup { limits, ..Setup::default() };
        let mut world = alone(&setup);
        world.hand("");
        for byte in hello_frame(&setup) {
            world.hands[0].send([byte]);
            world.run_for(ms(50));
            if world.hands[0].ended {
                break;
            }
        }
        let took = world.now();
        assert!(took >= within && took <= within + NAP + NAP, "{took}");
        assert_eq!(waiting(&world), 0);
        assert_logged(&world, "did not finish its hello in time");
        assert!(world.server.admissions().log[0].starts_with("127.0.0.1:"));
    }
}

#[test]
fn a_hello_that_breaks_off_is_named_and_a_health_check_is_not() {
    let mut world = alone(&Setup::default());
    world.hand(*b"tare\x01\x01");
    world.hand("");
    world.run_for(ms(2));
    world.hands.iter_mut().for_each(Hand::half_close);
    world.run_for(ms(2));
    assert_logged(&world, "in the middle of the handshake");
    assert_eq!(waiting(&world), 0);
}

#[test]
fn a_port_that_is_taken_for_udp_is_not_chosen() {
    let world = alone(&Setup::default());
    let mut other = world.net.driver();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    // The simulated net gives ports in ascending order.
    let mut taken = || {
        let spec = SocketSpec { local: Some(any), ..SocketSpec::datagram_to(any) };
        let socket = other.open(&spec).unwrap();
        other.local_addr(socket).unwrap().port()
    };
    let before = taken();
    let ports = [taken(), taken(), taken()];
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
    let mut front: Front = Acceptor::new(Admissions::new(inbox, None), None, datagrams(), SECOND);
    let mut io = world.net.driver();
    let bound = front.listen(&mut io, any).expect("another port");
    assert!(!ports.contains(&bound.port()), "{bound}");
    // A port that was asked for is not exchanged for another.
    let asked = SocketAddr::new(any.ip(), ports[0]);
    assert_eq!(front.listen(&mut io, asked), Err(OpError::AddressInUse));
}

/// How many buffers of the front and of the worker are in use: ids are given out densely, those of
/// freed buffers first.
fn buffers_in_use(world: &mut World) -> [usize; 2] {
    const MORE: usize = 20_000;
    let (front, worker) = (&mut world.server.front, &mut world.server.worker);
    [front.parts_mut().1, worker.parts_mut().1].map(|io| {
        let ids: Vec<BufferId> = (0..MORE).map(|_| io.allocate(1).unwrap()).collect();
        let most = ids.iter().map(|id| id.0 as usize).max().unwrap();
        ids.into_iter().for_each(|id| io.free(id));
        most + 1 - MORE
    })
}

/// Clients of every kind, by number.
fn client_of_any_kind(world: &World, setup: &Setup, kind: u32) -> Hand {
    let good = hello_frame(setup);
    let bad = Hello { size_bytes: 1 << 40, ..setup.hello() };
    let refused = frame::encode(FrameKind::Hello, &bad).unwrap();
    let mut hand = match kind {
        5 | 6 => hand_with_window(world, Some(16)),
        10..=13 => Hand::udp(&world.net),
        _ => Hand::tcp(&world.net),
    };
    match kind {
        0 => {}
        1 => hand.send("SSH-2.0-x\r\n"),
        2 => hand.send("GET / HTTP/1.1\r\n\r\n"),
        3 => hand.send(&good[..20]),
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
        10 => hand.send([0; 1200]),
        11 => hand.send(request(Id(99), 1)),
        12 => {
            let (hello, now) = (Setup::udp().hello(), world.clock.now());
            let mut handshake = UdpClientHandshake::new(&hello, 3, None, now, SECOND);
            hand.send(handshake.poll_transmit().unwrap());
            hand.handshake = Some(handshake);
        }
        _ => hand.send("x"),
    }
    hand
}

#[test]
fn ten_thousand_clients_of_all_kinds_leave_nothing_behind() {
    let limits = SessionLimits { idle: ms(300), duration: SECOND };
    let setup = Setup { limits, sessions_max: 40, ..Setup::default() };
    let mut world = alone(&setup);
    let idle_buffers = buffers_in_use(&mut world);
    assert_eq!(idle_buffers[1], 0);
    for number in 0..10_000 {
        let hand = client_of_any_kind(&world, &setup, number % 14);
        world.hands.push(hand);
        // Some close at once, some in the midst of it, some wait to be closed.
        match number % 11 {
            0 => drop(world.hands.pop()),
            1 if world.hands.len() > 5 => drop(world.hands.remove(2)),
            2 => world.hands.last_mut().unwrap().half_close(),
            _ => {}
        }
        if world.hands.len() > 60 {
            world.hands.remove(0);
        }
        if number % 3 == 0 {
            world.run_for(ms(5));
        }
    }
    assert!(world.server.admissions().asked > 3_000);
    assert!(world.server.admissions().sessions > 100, "over UDP");
    assert!(!world.server.worker.role().is_empty());
    // Deaf and mute ones among them, that never close.
    world.run_for(secs(7));
    assert_eq!(waiting(&world), 0);
    assert_nothing_kept(&world);
    assert_eq!(buffers_in_use(&mut world), idle_buffers);
}
