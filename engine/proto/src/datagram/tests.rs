use std::net::SocketAddr;

use super::*;
use crate::auth::CookieKey;
use crate::handshake::{ClientEvent, HandshakeError};
use crate::hello::{Accept, Hello, Refuse, RefuseCode, Transport};
use crate::stream::{ANSWERED_EVERY, StreamHeader, StreamKind};
use crate::tests::{accept, hello, of_0_1_0, reported, secret};
use proptest::prelude::*;
use tare_units::Instant;
use tare_units::limits::DOCUMENT_MAX;

const NOW: Instant = Instant(1_000_000_000_000);
const TIMEOUT: Nanos = Nanos::from_secs(2);
const NONCE: u64 = 0xabcd;
const REQUEST: DataHeader =
    DataHeader { reply: false, flags: MEASURED, sequence: 1, session: Id(1) };
const REPLY: DataHeader = DataHeader { reply: true, flags: 0, ..REQUEST };
const FIGURES: Fetch = Fetch { session: Id(5), document: Document::Figures, offset: 0 };

fn from() -> SocketAddr {
    "192.0.2.7:4000".parse().unwrap()
}

fn udp_hello() -> Hello {
    Hello { transport: Transport::Udp, ..hello() }
}

fn udp_accept() -> Accept {
    Accept { session: Some(Id(77)), ..accept() }
}

fn front(text: Option<&str>) -> UdpServerFront {
    UdpServerFront::new(CookieKey([9; 32]), secret(text))
}

fn client_of(hello: &Hello, text: Option<&str>) -> UdpClientHandshake {
    UdpClientHandshake::new(hello, NONCE, secret(text), NOW, TIMEOUT)
}

fn client() -> UdpClientHandshake {
    client_of(&udp_hello(), None)
}

fn reply(action: FrontAction) -> Vec<u8> {
    match action {
        FrontAction::Reply(bytes) => bytes,
        other => panic!("no reply: {other:?}"),
    }
}

fn refusal(action: FrontAction) -> Refuse {
    let bytes = reply(action);
    let control = Control::decode(&bytes).unwrap();
    assert_eq!(control.kind, Kind::Refuse);
    frame::read_body(control.kind, control.body).unwrap()
}

fn data(header: DataHeader) -> Vec<u8> {
    let mut datagram = vec![0; 64];
    header.encode_into(&mut datagram);
    datagram
}

/// The two ends joined over a wire that loses every datagram whose number `lost` holds, either way.
/// The session layer keeps its accept. Gives how the client ended, the requests handed up, and the
/// datagrams sent.
fn meet(
    client: &mut UdpClientHandshake,
    front: &UdpServerFront,
    lost: &[usize],
) -> (Option<ClientEvent>, Vec<SessionRequest>, usize) {
    let (mut now, mut sent, mut requests) = (NOW, 0, Vec::new());
    let mut arrives = || {
        sent += 1;
        !lost.contains(&(sent - 1))
    };
    for _ in 0..100 {
        while let Some(datagram) = client.poll_transmit() {
            assert_eq!(datagram.len(), CONTROL_DATAGRAM);
            if !arrives() {
                continue;
            }
            let answer = match front.handle_datagram(&datagram, from(), now) {
                FrontAction::Session(request) => {
                    requests.push(*request);
                    udp_accept().encode_short()
                }
                other => reply(other),
            };
            assert!(answer.len() <= datagram.len());
            if arrives() {
                client.handle_datagram(&answer, now);
            }
        }
        let Some(at) = client.poll_timeout() else { break };
        assert!(at > now, "time goes on");
        now = at;
        client.handle_timeout(now);
    }
    (client.poll_event(), requests, sent)
}

#[test]
fn the_documented_bytes() {
    let header = DataHeader { sequence: 0x0102_0304_0506, session: Id(0x0a0b), ..REQUEST };
    let mut datagram = [7; 25];
    header.encode_into(&mut datagram);
    put_residence(&mut datagram, Nanos(0x99));
    assert_eq!(
        datagram,
        [0xd1, 1, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0x99, 7]
    );
    assert_eq!(DataHeader::decode(&datagram), Some(header));
    assert_eq!(residence(&datagram), Some(Nanos(0x99)));
    assert_eq!(residence(&datagram[..23]), None);
    let mut short = [3; 23];
    put_residence(&mut short, Nanos(1));
    assert_eq!(short, [3; 23]);
}

#[test]
fn a_session_takes_two_hellos_and_a_lost_accept_leads_to_the_same_request_again() {
    let mut client = client();
    let (event, requests, sent) = meet(&mut client, &front(None), &[]);
    assert_eq!(event, Some(ClientEvent::Accepted(Box::new(udp_accept()))));
    let key = SessionKey { from: from(), nonce: NONCE };
    assert_eq!(requests, [SessionRequest { key, hello: udp_hello() }]);
    assert_eq!((sent, client.poll_timeout()), (4, None));
    let (event, requests, _) = meet(&mut client_of(&udp_hello(), None), &front(None), &[0, 2, 6]);
    assert!(matches!(event, Some(ClientEvent::Accepted(_))));
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
}

#[test]
fn the_secret_is_asked_for_and_checked() {
    for (ours, theirs, message) in [
        (Some("a"), Some("a"), ""),
        (Some("a"), None, ""),
        (
            Some("b"),
            Some("a"),
            "h:80 has another secret than the one given; give the file that the server was started \
             with to --secret-file",
        ),
        (
            None,
            Some("a"),
            "h:80 asks for a secret, and none was given; give the server's secret with \
             --secret-file",
        ),
    ] {
        let (event, requests, _) = meet(&mut client_of(&udp_hello(), ours), &front(theirs), &[]);
        assert_eq!(reported(event), message);
        assert_eq!(requests.is_empty(), !message.is_empty());
    }
    // A client that ignores what the cookie says: it takes the cookie from a server that asks for
    // nothing.
    let mut client = client();
    let hello = client.poll_transmit().unwrap();
    client.handle_datagram(&reply(front(None).handle_datagram(&hello, from(), NOW)), NOW);
    let hello = client.poll_transmit().unwrap();
    let refuse = refusal(front(Some("a")).handle_datagram(&hello, from(), NOW));
    assert_eq!(refuse.code, RefuseCode::SecretRequired);
}

#[test]
fn a_cookie_expires_and_is_bound_to_its_address() {
    let (front, mut client) = (front(None), client());
    let first = client.poll_transmit().unwrap();
    let cookie = reply(front.handle_datagram(&first, from(), NOW));
    client.handle_datagram(&cookie, NOW);
    let hello = client.poll_transmit().unwrap();
    let is_session =
        |from, now| matches!(front.handle_datagram(&hello, from, now), FrontAction::Session(_));
    assert!(is_session(from(), NOW));
    assert!(is_session(from(), NOW + COOKIE_SLOT));
    assert!(!is_session(from(), NOW + COOKIE_SLOT + COOKIE_SLOT));
    assert!(!is_session("192.0.2.7:4001".parse().unwrap(), NOW));
    // An expired cookie is answered with a new one, with which the client goes on; the old one
    // again changes nothing.
    let later = NOW + Nanos::from_secs(90);
    let fresh = reply(front.handle_datagram(&hello, from(), later));
    client.handle_datagram(&cookie, later);
    assert_eq!(client.poll_transmit(), None);
    client.handle_datagram(&fresh, later);
    let again = client.poll_transmit().unwrap();
    assert!(matches!(front.handle_datagram(&again, from(), later), FrontAction::Session(_)));
}

#[test]
fn hellos_are_repeated_ever_more_slowly_until_the_timeout() {
    let (mut client, mut sent, mut now) = (client(), Vec::new(), NOW);
    loop {
        if client.poll_transmit().is_some() {
            sent.push(now.since(NOW).0 / 1_000_000);
        }
        let Some(at) = client.poll_timeout() else { break };
        client.handle_timeout(now);
        assert_eq!(client.poll_transmit(), None, "not before its time");
        now = at;
        client.handle_timeout(now);
    }
    assert_eq!(sent, [0, 50, 150, 350, 750, 1550]);
    assert_eq!(now.since(NOW), TIMEOUT);
    assert_eq!(
        reported(client.poll_event()),
        "h:80 did not answer the hello within 2 s; check that `tare serve` runs there and that no \
         firewall is between, or give a longer --timeout"
    );
}

#[test]
fn something_else_on_the_port_is_named_in_the_end() {
    let echo = client().poll_transmit().unwrap();
    for (answer, message) in [
        (
            &b"\x12\x34\x80\x01"[..],
            "h:80 does not speak tare's protocol: it answered \"\\x124\\x80\\x01\"; start `tare \
             serve` there, or give the port that it listens on (by default 7117)",
        ),
        (&echo, "it answered \"tare\\x01\\x01"),
        // A late reply of an earlier session is no stranger's answer.
        (&data(REPLY), "did not answer the hello"),
    ] {
        let mut client = client();
        client.handle_datagram(answer, NOW);
        assert_eq!(client.poll_event(), None, "anyone can send a datagram");
        client.handle_timeout(NOW + TIMEOUT);
        let found = reported(client.poll_event());
        assert!(found.contains(message), "{found}");
    }
}

#[test]
fn servers_that_refuse_or_break_the_protocol() {
    for (answer, message) in [
        (
            Refuse::new(RefuseCode::Busy, "8 sessions are running").encode(),
            "refused: 8 sessions are running; try again later, or start the server with a larger \
             --max-sessions",
        ),
        (
            accept().encode_short(),
            "broke tare's protocol: its accept names no session; use the same tare at both ends",
        ),
        (
            b"tare\x02\x05\0\0".to_vec(),
            "speaks version 2 of tare's protocol, this tare (0.1.0) version 1; use the same tare \
             at both ends",
        ),
    ] {
        let mut client = client();
        client.handle_datagram(&answer, NOW);
        assert_eq!((client.poll_transmit(), client.poll_timeout()), (None, None));
        assert_eq!(reported(client.poll_event()), format!("h:80 {message}"));
    }
}

#[test]
fn what_cannot_be_served_is_refused_once_the_address_is_known() {
    for (hello, message) in [
        (
            Hello { size_bytes: 15, ..udp_hello() },
            "h:80 refused: messages of 15 bytes cannot be sent over udp: 16 to 65507 can; give a \
             --size from 16 to 65507",
        ),
        (hello(), "h:80 refused: a hello for tcp came over udp"),
    ] {
        assert_eq!(reported(meet(&mut client_of(&hello, None), &front(None), &[]).0), message);
    }
    let mut many = client_of(&Hello { cpus: (100..400).collect(), ..udp_hello() }, None);
    assert_eq!(many.poll_transmit(), None);
    assert_eq!(
        reported(many.poll_event()),
        "the hello names more CPUs than it can hold; give fewer --cpus"
    );
}

#[test]
fn hellos_of_another_version_are_refused_where_the_refusal_fits() {
    let mut hello = client().poll_transmit().unwrap();
    hello[4] = 2;
    let refuse = refusal(front(None).handle_datagram(&hello, from(), NOW));
    assert_eq!(refuse.code, RefuseCode::Version);
    assert_eq!(
        of_0_1_0(&refuse.message),
        "the client speaks version 2 of tare's protocol, this server version 1 (tare 0.1.0)"
    );
    assert_eq!(front(None).handle_datagram(&hello[..64], from(), NOW), FrontAction::Ignore);
    hello[5] = Kind::Refuse as u8;
    assert_eq!(front(None).handle_datagram(&hello, from(), NOW), FrontAction::Ignore);
}

#[test]
fn only_requests_are_answered_or_turned_away() {
    let front = front(None);
    let hello = client().poll_transmit().unwrap();
    let mut accept = accept().encode();
    accept.resize(CONTROL_DATAGRAM, 0);
    for datagram in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &data(REPLY), &hello[..1199], &accept] {
        assert_eq!(front.handle_datagram(datagram, from(), NOW), FrontAction::Ignore);
    }
    let action = front.handle_datagram(&data(REQUEST), from(), NOW);
    assert_eq!(action, FrontAction::Data(REQUEST));
    let answer = DataHeader::decode(&REQUEST.turned_away(NO_SESSION).unwrap()).unwrap();
    assert_eq!(answer, DataHeader { flags: NO_SESSION, ..REPLY });
    assert_eq!(answer.turned_away(ENDED), None);
}

#[test]
fn a_streams_datagrams_are_turned_away_sparsely_and_with_no_more_than_came() {
    let mut answered = 0;
    for sequence in 0..3 * ANSWERED_EVERY {
        for kind in [StreamKind::Payload, StreamKind::Signal] {
            let mut datagram = [0; DATA_HEADER_LEN];
            let header = StreamHeader { kind, measured: true, sequence, session: Id(5) };
            header.encode_into(&mut datagram, NOW);
            match front(None).handle_datagram(&datagram, from(), NOW) {
                FrontAction::Data(request) => {
                    let answer = request.turned_away(NO_SESSION).unwrap();
                    assert!(answer.len() <= datagram.len());
                    let answer = DataHeader::decode(&answer).unwrap();
                    assert_eq!((answer.flags, answer.session), (NO_SESSION, Id(5)));
                    answered += u64::from(kind == StreamKind::Payload);
                }
                FrontAction::Ignore => assert_eq!(kind, StreamKind::Payload),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(answered, 3);
}

/// Fetches `document` over a wire that loses and doubles datagrams as told; gives how it ended and
/// how long it took.
fn fetch(document: &[u8], lost: &[usize], twice: bool) -> (Option<FetchEvent>, Nanos) {
    let front = front(None);
    let mut machine = DocumentFetch::new(Id(5), Document::Figures, NOW, TIMEOUT);
    let (mut now, mut sent) = (NOW, 0);
    for _ in 0..10_000 {
        let mut answers = Vec::new();
        while let Some(datagram) = machine.poll_transmit() {
            let FrontAction::Fetch(wanted) = front.handle_datagram(&datagram, from(), now) else {
                panic!("no fetch");
            };
            let answer = serve_document(&wanted, document).unwrap();
            assert!(answer.len() <= datagram.len());
            if !lost.contains(&sent) {
                answers.extend(vec![answer; 1 + usize::from(twice)]);
            }
            sent += 1;
        }
        // Answers overtake each other.
        answers.iter().rev().for_each(|answer| machine.handle_datagram(answer, now));
        match (machine.poll_timeout(), answers.is_empty()) {
            (None, _) => break,
            (Some(at), true) => {
                now = at;
                machine.handle_timeout(now);
            }
            _ => {}
        }
    }
    (machine.poll_event(), now.since(NOW))
}

#[test]
fn documents_of_every_length_arrive() {
    for len in [0, 1, 1023, 1024, 1025, 9 * 1024, 60_001, DOCUMENT_MAX] {
        let document: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let fetched = fetch(&document, &[], true);
        assert_eq!(fetched, (Some(FetchEvent::Done(document)), Nanos(0)), "{len}");
    }
}

#[test]
fn a_fetch_gives_up_only_when_nothing_comes() {
    let all: Vec<usize> = (0..100).collect();
    let timed_out = HandshakeError::TimedOut { after: TIMEOUT, answered: true };
    assert_eq!(fetch(b"{}", &all, false), (Some(FetchEvent::Failed(timed_out)), TIMEOUT));
}

#[test]
fn chunks_that_do_not_fit_together_end_the_fetch() {
    let fetched = |datagrams: &[Vec<u8>]| {
        let mut machine = DocumentFetch::new(Id(5), Document::Figures, NOW, TIMEOUT);
        datagrams.iter().for_each(|datagram| machine.handle_datagram(datagram, NOW));
        machine.poll_event()
    };
    let chunk = |fetch: Fetch, len| serve_document(&fetch, &vec![b'x'; len]).unwrap();
    let second = Fetch { offset: 1024, ..FIGURES };
    let mut cut = chunk(FIGURES, 3000);
    cut.pop();
    let huge = Chunk { session: Id(5), document: Document::Figures, offset: 0, total: 1 << 40 };
    let huge = frame::encode(Kind::Chunk, &huge).unwrap();
    for (datagrams, message) in [
        (
            vec![chunk(FIGURES, 3000), chunk(second, 4000)],
            "h broke tare's protocol: its document changed while it was fetched; use the same tare \
             at both ends",
        ),
        (
            vec![cut],
            "h broke tare's protocol: it sent a chunk of the wrong length; use the same tare at \
             both ends",
        ),
        (
            vec![huge],
            "h broke tare's protocol: it offers a document that is too long; use the same tare at \
             both ends",
        ),
        (
            vec![UdpServerFront::unknown_session()],
            "h refused: the server does not know this session: it was restarted, or the session \
             expired; run the measurement again; behind a load balancer, give a server's own \
             address",
        ),
    ] {
        match fetched(&datagrams) {
            Some(FetchEvent::Failed(error)) => {
                assert_eq!(error.into_error("h").to_string(), message);
            }
            other => panic!("{other:?}"),
        }
    }
    // Of another session, of another document, and never asked for: ignored.
    let other = Fetch { session: Id(6), ..FIGURES };
    let environment = Fetch { document: Document::Environment, ..FIGURES };
    assert_eq!(fetched(&[chunk(other, 10), chunk(environment, 10), chunk(second, 3000)]), None);
}

#[test]
fn fetches_out_of_bounds_are_not_answered() {
    for (offset, len, answered) in [
        (1, 4096, false),
        (8192, 4096, false),
        (u64::MAX, 4096, false),
        (0, DOCUMENT_MAX + 1, false),
        (4096, 4096, true),
    ] {
        let answer = serve_document(&Fetch { offset, ..FIGURES }, &vec![0; len]);
        assert_eq!(answer.is_some(), answered, "{offset} of {len}");
    }
}

/// Datagrams that get past the first checks: our header, some kind, some JSON, some tail.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let chunk = br#"{"session":"0000000000000005","document":"figures","offset":0,"total":9}"#;
    let json = prop_oneof![
        any::<Vec<u8>>(),
        Just(chunk.to_vec()),
        Just(serde_json::to_vec(&udp_hello()).unwrap()),
    ];
    (0u8..12, 1u8..3, json, any::<Vec<u8>>(), any::<bool>()).prop_map(
        |(kind, version, body, tail, pad)| {
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            let mut datagram = [b"tare", &[version, kind][..], &len, &body, &tail].concat();
            if pad {
                datagram.resize(CONTROL_DATAGRAM, 0);
            }
            datagram
        },
    )
}

proptest! {
    #[test]
    fn an_unverified_address_never_gets_more_than_it_sent(
        datagram in prop_oneof![any::<Vec<u8>>(), plausible()], with_secret: bool,
    ) {
        match front(with_secret.then_some("x")).handle_datagram(&datagram, from(), NOW) {
            FrontAction::Reply(answer) => {
                prop_assert!(answer.len() <= datagram.len());
                let kind = Control::decode(&answer).unwrap().kind;
                prop_assert!(matches!(kind, Kind::Cookie | Kind::Refuse), "{:?}", kind);
            }
            FrontAction::Session(_) => prop_assert!(false, "a session without a cookie"),
            FrontAction::Fetch(fetch) => {
                prop_assert_eq!(datagram.len(), CONTROL_DATAGRAM);
                prop_assert!(UdpServerFront::unknown_session().len() <= CONTROL_DATAGRAM);
                let answer = serve_document(&fetch, &vec![0; DOCUMENT_MAX]);
                prop_assert!(answer.is_none_or(|answer| answer.len() <= datagram.len()));
            }
            FrontAction::Data(header) => {
                prop_assert!(header.turned_away(NO_SESSION).unwrap().len() <= datagram.len());
            }
            FrontAction::Ignore => {}
        }
    }

    #[test]
    fn clients_survive_any_datagram(
        datagrams in prop::collection::vec(plausible(), 0..6), noise: Vec<u8>,
    ) {
        let mut handshake = client();
        let mut fetch = DocumentFetch::new(Id(5), Document::Figures, NOW, TIMEOUT);
        for datagram in datagrams.iter().chain([&noise]) {
            handshake.handle_datagram(datagram, NOW);
            fetch.handle_datagram(datagram, NOW);
            let _ = residence(datagram);
        }
        handshake.handle_timeout(NOW + TIMEOUT);
        fetch.handle_timeout(NOW + TIMEOUT);
        prop_assert!(handshake.poll_event().is_some());
        prop_assert!(fetch.poll_event().is_some());
    }

    #[test]
    fn headers_round_trip(
        reply: bool, flags: u8, sequence in 0u64..1 << 48, session: u64, tail: Vec<u8>,
    ) {
        let header = DataHeader { reply, flags, sequence, session: Id(session) };
        let mut datagram = [&[0; DATA_HEADER_LEN][..], &tail].concat();
        header.encode_into(&mut datagram);
        prop_assert_eq!(DataHeader::decode(&datagram), Some(header));
        prop_assert_eq!(&datagram[DATA_HEADER_LEN..], &tail[..]);
    }

    #[test]
    fn handshakes_survive_loss(lost in prop::collection::vec(0usize..8, 0..3)) {
        let (event, requests, _) = meet(&mut client(), &front(None), &lost);
        prop_assert!(matches!(event, Some(ClientEvent::Accepted(_))), "{:?}", event);
        prop_assert!(requests.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn fetches_survive_loss(len in 0usize..20_000, lost in prop::collection::vec(0usize..30, 0..6)) {
        // A chunk is asked for six times within the timeout, so five losses never end a fetch.
        let document = vec![b'd'; len];
        let (event, _) = fetch(&document, &lost, false);
        prop_assert_eq!(event, Some(FetchEvent::Done(document)));
    }
}
