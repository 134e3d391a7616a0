use std::net::SocketAddr;

use super::*;
use crate::auth::{CookieKey, Secret};
use crate::handshake::ClientEvent;
use crate::hello::{Accept, Hello, Refuse, RefuseCode, Transport};
use crate::tests::{accept, hello, of_0_1_0};
use proptest::prelude::*;
use tare_units::Instant;
use tare_units::limits::DOCUMENT_MAX;

pub(super) const NOW: Instant = Instant(1_000_000_000_000);
pub(super) const TIMEOUT: Nanos = Nanos::from_secs(2);
const NONCE: u64 = 0xabcd;

pub(super) fn from() -> SocketAddr {
    "192.0.2.7:4000".parse().unwrap()
}

fn udp_hello() -> Hello {
    Hello { transport: Transport::Udp, ..hello() }
}

fn udp_accept() -> Accept {
    Accept { session: Some(Id(77)), ..accept() }
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret(text.as_bytes().to_vec()))
}

pub(super) fn front(secret: Option<Secret>) -> UdpServerFront {
    UdpServerFront::new(CookieKey([9; 32]), secret)
}

fn client(hello: &Hello, secret: Option<Secret>) -> UdpClientHandshake {
    UdpClientHandshake::new(hello, NONCE, secret, NOW, TIMEOUT)
}

fn told(event: Option<ClientEvent>) -> String {
    match event {
        Some(ClientEvent::Failed(error)) => of_0_1_0(&error.into_error("h:7117").to_string()),
        other => panic!("no failure: {other:?}"),
    }
}

fn refusal(action: FrontAction) -> Refuse {
    match action {
        FrontAction::Reply(bytes) => {
            let control = Control::decode(&bytes).unwrap();
            assert_eq!(control.kind, Kind::Refuse);
            frame::read_body(control.kind, control.body).unwrap()
        }
        other => panic!("no refusal: {other:?}"),
    }
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
                FrontAction::Reply(answer) => answer,
                FrontAction::Session(request) => {
                    requests.push(*request);
                    udp_accept().encode_short()
                }
                other => panic!("{other:?}"),
            };
            assert!(answer.len() <= datagram.len());
            if arrives() {
                client.handle_datagram(&answer, now);
            }
        }
        match client.poll_timeout() {
            Some(at) => {
                assert!(at > now, "time goes on");
                now = at;
                client.handle_timeout(now);
            }
            None => break,
        }
    }
    (client.poll_event(), requests, sent)
}

#[test]
fn the_documented_bytes() {
    let header = DataHeader {
        reply: false,
        flags: MEASURED,
        sequence: 0x0102_0304_0506,
        session: Id(0x0a0b),
    };
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
fn only_requests_are_turned_away() {
    let request = DataHeader { reply: false, flags: MEASURED, sequence: 3, session: Id(4) };
    let answer = DataHeader::decode(&request.turned_away(NO_SESSION).unwrap()).unwrap();
    assert_eq!(answer, DataHeader { reply: true, flags: NO_SESSION, ..request });
    assert_eq!(answer.turned_away(ENDED), None);
}

#[test]
fn a_session_takes_two_hellos() {
    let mut client = client(&udp_hello(), None);
    let (event, requests, sent) = meet(&mut client, &front(None), &[]);
    assert_eq!(event, Some(ClientEvent::Accepted(Box::new(udp_accept()))));
    let key = SessionKey { from: from(), nonce: NONCE };
    assert_eq!(requests, [SessionRequest { key, hello: udp_hello() }]);
    assert_eq!((sent, client.poll_timeout(), client.note()), (4, None, None));
}

#[test]
fn a_lost_accept_leads_to_the_same_request_again() {
    let (event, requests, _) = meet(&mut client(&udp_hello(), None), &front(None), &[0, 2, 6]);
    assert!(matches!(event, Some(ClientEvent::Accepted(_))));
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
}

#[test]
fn the_secret_is_asked_for_and_checked() {
    let run = |ours, theirs| {
        let mut client = client(&udp_hello(), ours);
        let (event, requests, _) = meet(&mut client, &front(theirs), &[]);
        (event, requests.len(), client.note())
    };
    let (event, _, note) = run(secret("a"), secret("a"));
    assert!(matches!(event, Some(ClientEvent::Accepted(_))));
    assert_eq!(note, None);
    let (event, requests, _) = run(secret("b"), secret("a"));
    assert_eq!(
        told(event),
        "h:7117 has another secret than the one given; give the file that the server was started with to --secret-file"
    );
    assert_eq!(requests, 0);
    assert_eq!(
        told(run(None, secret("a")).0),
        "h:7117 asks for a secret, and none was given; give the server's secret with --secret-file"
    );
    let (event, _, note) = run(secret("a"), None);
    assert!(matches!(event, Some(ClientEvent::Accepted(_))));
    assert_eq!(note, Some("the server did not ask for the secret: it serves anyone"));
}

#[test]
fn a_client_that_shows_no_secret_at_all_is_refused() {
    // One that ignores what the cookie says: it takes the cookie from a server that asks for
    // nothing.
    let mut client = client(&udp_hello(), None);
    let FrontAction::Reply(cookie) =
        front(None).handle_datagram(&client.poll_transmit().unwrap(), from(), NOW)
    else {
        panic!("no cookie");
    };
    client.handle_datagram(&cookie, NOW);
    let hello = client.poll_transmit().unwrap();
    let refuse = refusal(front(secret("a")).handle_datagram(&hello, from(), NOW));
    assert_eq!(refuse.code, RefuseCode::SecretRequired);
}

#[test]
fn a_cookie_expires_and_is_bound_to_its_address() {
    let front = front(None);
    let mut client = client(&udp_hello(), None);
    let first = client.poll_transmit().unwrap();
    let FrontAction::Reply(cookie) = front.handle_datagram(&first, from(), NOW) else {
        panic!("no cookie");
    };
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
    let FrontAction::Reply(fresh) = front.handle_datagram(&hello, from(), later) else {
        panic!("no new cookie");
    };
    client.handle_datagram(&cookie, later);
    assert_eq!(client.poll_transmit(), None);
    client.handle_datagram(&fresh, later);
    let again = client.poll_transmit().unwrap();
    assert!(matches!(front.handle_datagram(&again, from(), later), FrontAction::Session(_)));
}

#[test]
fn hellos_are_repeated_ever_more_slowly_until_the_timeout() {
    let mut client = client(&udp_hello(), None);
    let (mut sent, mut now) = (Vec::new(), NOW);
    loop {
        if client.poll_transmit().is_some() {
            sent.push(now.since(NOW).0 / 1_000_000);
        }
        let Some(at) = client.poll_timeout() else {
            break;
        };
        client.handle_timeout(now);
        assert_eq!(client.poll_transmit(), None, "not before its time");
        now = at;
        client.handle_timeout(now);
    }
    assert_eq!(sent, [0, 50, 150, 350, 750, 1550]);
    assert_eq!(now.since(NOW), TIMEOUT);
    assert_eq!(
        told(client.poll_event()),
        "h:7117 did not answer the hello within 2 s; check that `tare serve` runs there and that no firewall is \
         between, or give a longer --timeout"
    );
}

#[test]
fn something_else_on_the_port_is_named_in_the_end() {
    let ends_with = |answer: &[u8]| {
        let mut client = client(&udp_hello(), None);
        client.handle_datagram(answer, NOW);
        assert_eq!(client.poll_event(), None, "anyone can send a datagram");
        client.handle_timeout(NOW + TIMEOUT);
        told(client.poll_event())
    };
    assert_eq!(
        ends_with(b"\x12\x34\x80\x01"),
        "h:7117 does not speak tare's protocol: it answered \"\\x124\\x80\\x01\"; start `tare serve` there, or give \
         the port that it listens on (by default 7117)"
    );
    let echo = client(&udp_hello(), None).poll_transmit().unwrap();
    assert!(ends_with(&echo).contains("it answered \"tare\\x01\\x01"));
    // A late reply of an earlier session is no stranger's answer.
    let mut late = [0; 64];
    DataHeader { reply: true, flags: 0, sequence: 1, session: Id(1) }.encode_into(&mut late);
    assert!(ends_with(&late).contains("did not answer the hello"));
}

#[test]
fn servers_that_refuse_or_break_the_protocol() {
    let on = |answer: &[u8]| {
        let mut client = client(&udp_hello(), None);
        client.handle_datagram(answer, NOW);
        assert_eq!((client.poll_transmit(), client.poll_timeout()), (None, None));
        told(client.poll_event())
    };
    assert_eq!(
        on(&Refuse::new(RefuseCode::Busy, "8 sessions are running").encode()),
        "h:7117 refused: 8 sessions are running; try again later, or start the server with a larger --max-sessions"
    );
    assert_eq!(
        on(&accept().encode_short()),
        "h:7117 broke tare's protocol: its accept names no session; use the same tare at both ends"
    );
    assert!(
        on(b"tare\x02\x05\0\0")
            .contains("speaks version 2 of tare's protocol, this tare (0.1.0) version 1")
    );
}

#[test]
fn what_cannot_be_served_is_refused_once_the_address_is_known() {
    let mut small = client(&Hello { size_bytes: 15, ..udp_hello() }, None);
    assert_eq!(
        told(meet(&mut small, &front(None), &[]).0),
        "h:7117 refused: messages of 15 bytes cannot be sent over udp: 16 to 65507 can; give a --size from 16 to 65507"
    );
    let mut over_tcp = client(&hello(), None);
    assert!(
        told(meet(&mut over_tcp, &front(None), &[]).0).contains("a hello for tcp came over udp")
    );
    let mut many = client(&Hello { cpus: (100..400).collect(), ..udp_hello() }, None);
    assert_eq!(many.poll_transmit(), None);
    assert_eq!(
        told(many.poll_event()),
        "the hello names more CPUs than it can hold; give fewer --cpus"
    );
}

#[test]
fn hellos_of_another_version_are_refused_where_the_refusal_fits() {
    let mut hello = client(&udp_hello(), None).poll_transmit().unwrap();
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
fn what_is_no_request_is_not_answered() {
    let front = front(None);
    let mut reply = [0; 16];
    DataHeader { reply: true, flags: 0, sequence: 1, session: Id(1) }.encode_into(&mut reply);
    let hello = client(&udp_hello(), None).poll_transmit().unwrap();
    for datagram in
        [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &reply, &hello[..1199], &padded(accept().encode())]
    {
        assert_eq!(front.handle_datagram(datagram, from(), NOW), FrontAction::Ignore);
    }
    let request = DataHeader { reply: false, flags: 0, sequence: 1, session: Id(1) };
    request.encode_into(&mut reply);
    assert_eq!(front.handle_datagram(&reply, from(), NOW), FrontAction::Data(request));
}

/// Datagrams that get past the first checks: our header, some kind, some JSON, some tail.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![
        any::<Vec<u8>>(),
        Just(
            br#"{"session":"0000000000000005","document":"figures","offset":0,"total":9}"#.to_vec()
        ),
        Just(serde_json::to_vec(&udp_hello()).unwrap()),
    ];
    (0u8..12, 1u8..3, json, any::<Vec<u8>>(), any::<bool>()).prop_map(
        |(kind, version, body, tail, pad)| {
            let mut datagram = [b"tare", &[version, kind][..]].concat();
            datagram.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            datagram.extend(body);
            datagram.extend(tail);
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
        let front = front(with_secret.then(|| Secret(b"x".to_vec())));
        match front.handle_datagram(&datagram, from(), NOW) {
            FrontAction::Reply(answer) => {
                prop_assert!(answer.len() <= datagram.len());
                let kind = Control::decode(&answer).unwrap().kind;
                prop_assert!(matches!(kind, Kind::Cookie | Kind::Refuse), "{:?}", kind);
            }
            FrontAction::Session(_) => prop_assert!(false, "a session without a cookie"),
            FrontAction::Fetch(fetch) => {
                prop_assert_eq!(datagram.len(), CONTROL_DATAGRAM);
                prop_assert!(UdpServerFront::unknown_session().len() <= CONTROL_DATAGRAM);
                let document = vec![0; DOCUMENT_MAX];
                let answer = serve_document(&fetch, &document);
                prop_assert!(answer.is_none_or(|answer| answer.len() <= datagram.len()));
            }
            FrontAction::Data(header) => {
                let answer = header.turned_away(NO_SESSION).unwrap();
                prop_assert!(answer.len() <= datagram.len());
            }
            FrontAction::Ignore => {}
        }
    }

    #[test]
    fn clients_survive_any_datagram(datagrams in prop::collection::vec(plausible(), 0..6), noise: Vec<u8>) {
        let mut handshake = client(&udp_hello(), None);
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
    fn headers_round_trip(reply: bool, flags: u8, sequence in 0u64..1 << 48, session: u64, tail: Vec<u8>) {
        let header = DataHeader { reply, flags, sequence, session: Id(session) };
        let mut datagram = [&[0; DATA_HEADER_LEN][..], &tail].concat();
        header.encode_into(&mut datagram);
        prop_assert_eq!(DataHeader::decode(&datagram), Some(header));
        prop_assert_eq!(&datagram[DATA_HEADER_LEN..], &tail[..]);
    }

    #[test]
    fn handshakes_survive_loss(lost in prop::collection::vec(0usize..8, 0..3)) {
        let (event, requests, _) = meet(&mut client(&udp_hello(), None), &front(None), &lost);
        prop_assert!(matches!(event, Some(ClientEvent::Accepted(_))), "{:?}", event);
        prop_assert!(requests.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_streams_datagrams_are_turned_away_sparsely_and_with_no_more_than_came() {
    use crate::stream::{ANSWERED_EVERY, StreamHeader, StreamKind};
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
