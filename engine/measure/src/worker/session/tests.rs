//! A session and a server that says what a test has it say, on a simulated wire. What a server of
//! ours makes of sessions stands in [`crate::simulation`].

use super::*;
use crate::worker::link::{slot_of, token};
use tare_driver::clock::{Clock, SimulatedClock};
use tare_driver::simulation::{SimConfig, SimDriver, SimNet};
use tare_driver::{BufferId, Op, Segment, TcpInfo, Token, Wait};
use tare_proto::hello::Test;

const ADDRESS: &str = "127.0.0.1:7117";
const TIMEOUT: Nanos = Nanos::from_secs(2);
/// More steps than anything here may need.
const STEPS_MAX: u32 = 10_000;
/// What the peer takes unread.
const WINDOW: u32 = 4096;
const SENT: u64 = WINDOW as u64;

const ACCEPT: Token = Token(1);
const RECEIVE: Token = Token(2);
const SEND: Token = Token(3);
const CLOSE: Token = Token(4);

/// The peer: it reads what comes, unless it is deaf, and sends what it is told to.
struct Peer {
    io: SimDriver,
    socket: Option<SocketId>,
    inbox: BufferId,
    receiving: bool,
    deaf: bool,
    /// The client has ended its stream.
    ended: bool,
}

impl Peer {
    fn new(net: &SimNet) -> Self {
        let mut io = net.driver();
        let mut spec = SocketSpec::listener(ADDRESS.parse().unwrap());
        spec.receive_buffer = Some(WINDOW);
        let listener = io.open(&spec).unwrap();
        io.push(ACCEPT, Op::Accept { listener, multishot: false }).unwrap();
        let inbox = io.allocate(WINDOW as usize).unwrap();
        Self { io, inbox, socket: None, receiving: false, deaf: false, ended: false }
    }

    fn say(&mut self, bytes: &[u8]) {
        let buffer = self.io.allocate(bytes.len()).unwrap();
        self.io.buffer_mut(buffer).copy_from_slice(bytes);
        let data = Segment { buffer, start: 0, len: u32::try_from(bytes.len()).unwrap() };
        let send = Op::Send { socket: self.socket.unwrap(), data, zero_copy: false };
        self.io.push(SEND, send).unwrap();
    }

    fn close(&mut self) {
        let socket = self.socket.take().unwrap();
        self.io.push(CLOSE, Op::Close { socket }).unwrap();
    }

    /// One turn; whether anything came of it.
    fn turn(&mut self, now: Instant) -> bool {
        if let Some(socket) = self.socket
            && !(self.receiving || self.deaf || self.ended)
        {
            let into = Segment { buffer: self.inbox, start: 0, len: WINDOW };
            self.io.push(RECEIVE, Op::Receive { socket, into }).unwrap();
            self.receiving = true;
        }
        let mut done = Vec::new();
        self.io.turn(now, Wait::Poll, &mut done).unwrap();
        for completion in &done {
            match (completion.token, &completion.outcome) {
                (ACCEPT, Outcome::Accepted(socket)) => self.socket = Some(*socket),
                (RECEIVE, outcome) => {
                    self.receiving = false;
                    self.ended |= !matches!(outcome, Outcome::Received(1..));
                }
                (SEND | CLOSE, _) => {}
                other => panic!("{other:?}"),
            }
        }
        !done.is_empty()
    }
}

/// Both ends.
struct Pair {
    clock: SimulatedClock,
    net: SimNet,
    io: SimDriver,
    session: ClientSession,
    peer: Peer,
}

impl Pair {
    /// A session that is open.
    fn open() -> Self {
        let clock = SimulatedClock::new(Instant(1_000_000_000));
        let config = SimConfig { latency: Nanos::from_micros(100), ..SimConfig::default() };
        let net = SimNet::new(config, clock.clone());
        let buffers = BufferSizes { receive_bytes: 32 << 10, send_bytes: WINDOW as usize };
        let session = ClientSession::new(0, buffers, Arc::new(spec()));
        let mut pair = Self { peer: Peer::new(&net), io: net.driver(), net, session, clock };
        let now = pair.now();
        assert!(pair.session.socket().is_none());
        pair.session.prepare(&mut pair.io).unwrap();
        assert!(pair.session.socket().is_some());
        pair.session.connect(&mut pair.io, now, Opening::Session).unwrap();
        let heard = pair.settle();
        let [SessionEvent::Connected(length)] = heard[..] else { panic!("{heard:?}") };
        assert_eq!(length, Nanos::from_micros(200));
        assert!(pair.session.link().is_none(), "not the owner's turn yet");
        let heard = pair.say(&Accept::default().encode());
        assert!(matches!(heard[..], [SessionEvent::Accepted(_)]), "{heard:?}");
        assert!(pair.session.is_open());
        pair
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets both ends run until nothing happens by itself any more; what the session reports.
    fn settle(&mut self) -> Vec<SessionEvent> {
        let mut events = Vec::new();
        for _ in 0..STEPS_MAX {
            let now = self.now();
            let mut done = Vec::new();
            self.io.turn(now, Wait::Poll, &mut done).unwrap();
            events.extend(done.iter().map(|completion| self.complete(completion)));
            if self.peer.turn(now) || !done.is_empty() {
                continue;
            }
            let Some(at) = self.net.next_event() else {
                events.retain(|event| !matches!(event, SessionEvent::Nothing));
                return events;
            };
            self.clock.advance_to(at);
        }
        panic!("it does not come to rest");
    }

    fn complete(&mut self, completion: &Completion) -> SessionEvent {
        let (slot, purpose) = slot_of(completion.token);
        assert_eq!(slot, 0);
        let now = self.now();
        self.session.handle_completion(&mut self.io, purpose, completion, now).unwrap()
    }

    fn say(&mut self, bytes: &[u8]) -> Vec<SessionEvent> {
        self.peer.say(bytes);
        self.settle()
    }

    fn send(&mut self, len: u32) {
        self.session.link_mut().unwrap().send(&mut self.io, 0, len).unwrap();
    }

    fn receive(&mut self, len: u32) {
        self.session.link_mut().unwrap().receive(&mut self.io, 0, len).unwrap();
    }

    fn end(&mut self, skips_payload: bool) {
        let now = self.now();
        self.session.end(&mut self.io, now, skips_payload).unwrap();
        let heard = self.settle();
        assert!(heard.is_empty(), "{heard:?}");
        assert!(self.peer.ended, "the peer hears the end of stream");
    }

    fn timers_at(&mut self, now: Instant) -> SessionEvent {
        self.clock.advance_to(now);
        self.session.handle_timers(&mut self.io, now).unwrap()
    }

    /// The peer closes, and all is as it should be at the end.
    fn part(&mut self) {
        self.peer.close();
        let heard = self.settle();
        assert!(matches!(heard[..], [SessionEvent::Closed]), "{heard:?}");
        assert!(self.session.is_quiet() && !self.session.is_dead());
    }
}

/// The hello of 64-byte messages over TCP.
pub(crate) fn hello() -> Hello {
    serde_json::from_value(serde_json::json!({
        "run_id": "0000000000000007", "test": "ping_pong", "transport": "tcp", "size_bytes": 64,
        "wait": "block", "timeout_ns": TIMEOUT.0,
    }))
    .unwrap()
}

fn spec() -> SessionSpec {
    SessionSpec::new(ADDRESS.parse().unwrap(), hello(), None, TIMEOUT, 3)
}

/// Figures with bytes in them that would be payload at their beginning.
fn figures() -> Figures {
    Figures { sent_bytes: 12, cut_short: Some("ö over".to_owned()), ..Figures::default() }
}

fn failure_of(heard: Vec<SessionEvent>) -> (Stage, &'static str, String) {
    let mut heard = heard.into_iter();
    match (heard.next(), heard.next()) {
        (Some(SessionEvent::Failed(failure)), None) => {
            let words = failure.error.map(|error| error.to_string());
            (failure.stage, failure.cause, words.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn figures_may_follow_payload_wherever_the_stream_is_cut() {
    let payload = [0x80, 0xff, 0xf4];
    let bytes = [&payload[..], &figures().encode()].concat();
    for cut in 1..bytes.len() {
        let mut pair = Pair::open();
        pair.end(true);
        assert!(pair.say(&bytes[..cut]).is_empty());
        let early = pair.session.take_skipped();
        assert_eq!(early, cut.min(payload.len()) as u64, "cut at {cut}");
        let heard = pair.say(&bytes[cut..]);
        let [SessionEvent::Figures(got)] = &heard[..] else { panic!("cut at {cut}: {heard:?}") };
        assert_eq!(**got, figures());
        assert_eq!(early + pair.session.take_skipped(), payload.len() as u64);
        assert_eq!(pair.session.take_skipped(), 0, "reported once");
        pair.part();
    }
    // Payload is skipped by whole buffers.
    let mut pair = Pair::open();
    pair.end(true);
    assert!(pair.say(&vec![0x80; 40_000]).is_empty());
    assert_eq!(pair.session.take_skipped(), 40_000);
    let heard = pair.say(&figures().encode());
    assert!(matches!(heard[..], [SessionEvent::Figures(_)]));
    pair.part();
}

#[test]
fn payload_is_an_error_where_none_is_expected_and_so_is_what_is_neither() {
    for (skips_payload, bytes) in [(false, &[0x80u8; 16]), (true, b"\xffHTTP/1.1 400 Ba")] {
        let mut pair = Pair::open();
        pair.end(skips_payload);
        let (stage, cause, words) = failure_of(pair.say(bytes));
        assert_eq!((stage, cause), (Stage::Close, "protocol"));
        assert!(words.starts_with(&format!("{ADDRESS} ")) && words.contains("not"), "{words}");
    }
}

#[test]
fn figures_are_awaited_for_the_timeout_or_as_long_as_the_owner_says() {
    let expected = format!("{ADDRESS} does not answer within {TIMEOUT}");
    for extended in [false, true] {
        let mut pair = Pair::open();
        let began = pair.now();
        pair.end(false);
        let mut deadline = began + TIMEOUT;
        if extended {
            deadline = deadline + TIMEOUT;
            pair.session.extend(deadline);
        }
        let event = pair.timers_at(Instant(deadline.0 - 1));
        assert!(matches!(event, SessionEvent::Nothing), "{event:?}");
        let (stage, cause, words) = failure_of(vec![pair.timers_at(deadline)]);
        assert_eq!((stage, cause), (Stage::Close, Failure::TIMEOUT));
        assert!(words.starts_with(&expected), "{words}");
    }
}

#[test]
fn a_stream_that_ends_in_the_exchange_is_a_failure() {
    let mut pair = Pair::open();
    pair.receive(64);
    pair.peer.close();
    let (stage, cause, words) = failure_of(pair.settle());
    assert_eq!((stage, cause), (Stage::Receive, "closed"));
    let expected = format!("{ADDRESS} closed the connection: the server has died or was ended");
    assert!(words.starts_with(&expected), "{words}");
    pair.session.give_up(&mut pair.io).unwrap();
    assert!(pair.settle().is_empty());
    assert!(pair.session.is_dead() && pair.session.is_quiet());
}

/// A session whose owner's send is stuck, while half of the server's early figures has come.
fn cut_off() -> Pair {
    let mut pair = Pair::open();
    pair.peer.deaf = true;
    // One for the receive that is outstanding, one for the window.
    for _ in 0..2 {
        pair.send(WINDOW);
        let heard = pair.settle();
        assert!(matches!(heard[..], [SessionEvent::Sent { bytes: SENT }]), "{heard:?}");
    }
    pair.send(WINDOW);
    pair.receive(64);
    assert!(pair.settle().is_empty(), "the send is stuck");
    let heard = pair.say(&figures().encode()[..10]);
    assert!(matches!(heard[..], [SessionEvent::Received { len: 10 }]), "{heard:?}");
    let now = pair.now();
    let event = pair.session.handle_figures(&mut pair.io, 0..10, now, true).unwrap();
    assert!(matches!(event, SessionEvent::Nothing));
    assert!(!pair.session.is_open() && pair.session.link_mut().is_none());
    pair
}

#[test]
fn the_servers_early_word_is_heard_whether_a_send_under_way_ends_or_fails() {
    for fails in [false, true] {
        let mut pair = cut_off();
        if fails {
            let (token, outcome) = (token(0, Purpose::Send), Outcome::Failed(OpError::Reset));
            let heard = pair.complete(&Completion { token, outcome, more: false });
            assert!(matches!(heard, SessionEvent::Nothing), "{heard:?}");
        } else {
            pair.peer.deaf = false;
            let heard = pair.settle();
            assert!(matches!(heard[..], [SessionEvent::Sent { bytes: SENT }]), "{heard:?}");
        }
        let heard = pair.say(&figures().encode()[10..]);
        let [SessionEvent::Ended { figures: got, failure }] = &heard[..] else {
            panic!("{heard:?}")
        };
        assert_eq!(**got, figures());
        assert_eq!((failure.stage, failure.cause), (Stage::Receive, "ended"));
        let words = failure.error.as_ref().unwrap().to_string();
        let expected = format!("{ADDRESS} ended the session: ö over");
        assert!(words.starts_with(&expected), "{words}");
    }
}

#[test]
fn a_zero_copy_send_is_outstanding_until_its_buffer_is_free() {
    let mut pair = Pair::open();
    pair.send(64);
    let of_send = |outcome, more| Completion { token: token(0, Purpose::Send), outcome, more };
    let heard = pair.complete(&of_send(Outcome::Sent(64), true));
    assert!(matches!(heard, SessionEvent::Sent { bytes: 64 }), "{heard:?}");
    assert!(!pair.session.link().unwrap().is_quiet());
    let heard = pair.complete(&of_send(Outcome::Released { copied: true }, false));
    assert!(matches!(heard, SessionEvent::Released { copied: true }), "{heard:?}");
    assert!(pair.session.link().unwrap().is_quiet());
}

#[test]
fn large_packets_that_vanish_differ_from_other_silence() {
    let spec = spec();
    // The hello was acknowledged, and the first full segments were sent again and again.
    let hole = TcpInfo {
        retransmits: 4,
        backoff: 3,
        mss_bytes: 1448,
        acked_bytes: 511,
        segments_in: 3,
        ..TcpInfo::default()
    };
    let error = errors::black_hole(&spec, &hole).expect("a black hole");
    let text = error.to_string();
    for part in ["MTU black hole?", "1448 bytes", "above 511 bytes", "tcp_mtu_probing"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let bulk = SessionSpec { hello: Hello { test: Test::Stream, ..hello() }, ..spec.clone() };
    let text = errors::black_hole(&bulk, &hole).unwrap().to_string();
    assert!(text.contains("--mss 500"), "{text}");
    for (what, info) in [
        ("payload arrived", TcpInfo { acked_bytes: 2000, ..hole }),
        ("nothing is sent again", TcpInfo { backoff: 0, ..hole }),
        ("one loss", TcpInfo { retransmits: 1, ..hole }),
        ("nobody was there", TcpInfo { segments_in: 0, ..hole }),
    ] {
        assert!(errors::black_hole(&spec, &info).is_none(), "{what}");
    }
}
