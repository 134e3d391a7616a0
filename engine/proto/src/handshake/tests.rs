use super::*;
use crate::auth::Secret;
use crate::frame;
use crate::frame::{FrameReader, Kind};
use crate::hello::{Accept, Figures, HELLO_BODY_MAX, Hello, Refuse, RefuseCode};
use crate::tests::{accept, hello, of_0_1_0, pieces};
use proptest::prelude::*;
use tare_stats::result::Environment;
use tare_units::Nanos;
use tare_units::limits::FRAME_BODY_MAX;

const ADDRESS: &str = "127.0.0.1:80";

fn secret(text: &str) -> Option<Secret> {
    Some(Secret(text.as_bytes().to_vec()))
}

fn server(secret: Option<Secret>) -> ServerHandshake {
    ServerHandshake::new(secret, [0x5a; 32])
}

/// The two ends joined, each frame cut at `cuts`; the server accepts what is handed up.
fn meet(
    client: &mut ClientHandshake,
    server: &mut ServerHandshake,
    cuts: &[usize],
) -> (Option<ClientEvent>, Option<ServerEvent>) {
    let mut seen = None;
    for _ in 0..8 {
        while let Some(bytes) = client.poll_transmit() {
            pieces(&bytes, cuts).into_iter().for_each(|piece| server.handle_bytes(piece));
        }
        if let Some(event) = server.poll_event() {
            if matches!(event, ServerEvent::Hello(_)) {
                server.accept(&accept());
            }
            seen = Some(event);
        }
        while let Some(bytes) = server.poll_transmit() {
            pieces(&bytes, cuts).into_iter().for_each(|piece| client.handle_bytes(piece));
        }
    }
    (client.poll_event(), seen)
}

/// The text of a client's failure, as the user reads it.
fn told(event: Option<ClientEvent>) -> String {
    match event {
        Some(ClientEvent::Failed(error)) => of_0_1_0(&error.into_error(ADDRESS).to_string()),
        other => panic!("no failure: {other:?}"),
    }
}

fn logged(event: Option<ServerEvent>) -> String {
    match event {
        Some(ServerEvent::Failed(failure)) => of_0_1_0(&failure.to_string()),
        other => panic!("no failure: {other:?}"),
    }
}

/// What a fresh client makes of `answer`, cut into pieces, and the connection then closed.
fn client_on(answer: &[u8], cuts: &[usize]) -> Option<ClientEvent> {
    let mut client = ClientHandshake::new(&hello(), None);
    pieces(answer, cuts).into_iter().for_each(|piece| client.handle_bytes(piece));
    client.handle_closed();
    client.poll_event()
}

/// What a fresh server makes of `input`, and the refusal it sends.
fn server_on(input: &[u8], cuts: &[usize]) -> (Option<ServerEvent>, Option<Refuse>) {
    let mut server = server(None);
    pieces(input, cuts).into_iter().for_each(|piece| server.handle_bytes(piece));
    let refuse = server.poll_transmit().map(|bytes| {
        let mut reader = FrameReader::new(FRAME_BODY_MAX);
        reader.handle_bytes(&bytes);
        reader.poll_frame().unwrap().unwrap().read().unwrap()
    });
    (server.poll_event(), refuse)
}

fn hello_frame(hello: &Hello) -> Vec<u8> {
    ClientHandshake::new(hello, None).poll_transmit().unwrap()
}

#[test]
fn a_session_without_a_secret() {
    let mut client = ClientHandshake::new(&hello(), None);
    let mut server = server(None);
    let (client_event, server_event) = meet(&mut client, &mut server, &[]);
    assert_eq!(client_event, Some(ClientEvent::Accepted(Box::new(accept()))));
    assert_eq!(server_event, Some(ServerEvent::Hello(Box::new(hello()))));
    assert_eq!((client.was_challenged(), client.note()), (false, None));
    server.handle_bytes(b"\x01request");
    assert_eq!(server.into_rest(), b"\x01request");
}

#[test]
fn the_right_secret() {
    let mut client = ClientHandshake::new(&hello(), secret("swordfish"));
    let (client_event, server_event) = meet(&mut client, &mut server(secret("swordfish")), &[]);
    assert!(matches!(client_event, Some(ClientEvent::Accepted(_))));
    assert_eq!(server_event, Some(ServerEvent::Hello(Box::new(hello()))));
    assert_eq!((client.was_challenged(), client.note()), (true, None));
}

#[test]
fn the_wrong_secret() {
    let mut client = ClientHandshake::new(&hello(), secret("swordfish"));
    let (client_event, server_event) = meet(&mut client, &mut server(secret("sardine")), &[]);
    assert_eq!(
        told(client_event),
        "127.0.0.1:80 has another secret than the one given; give the file that the server was started with to \
         --secret-file"
    );
    assert_eq!(
        logged(server_event),
        "was refused (secret-wrong: the client has another secret than this server)"
    );
}

#[test]
fn no_secret_where_one_is_asked_for() {
    let mut client = ClientHandshake::new(&hello(), None);
    let mut server = server(secret("swordfish"));
    let (client_event, server_event) = meet(&mut client, &mut server, &[]);
    assert_eq!(
        told(client_event),
        "127.0.0.1:80 asks for a secret, and none was given; give the server's secret with --secret-file"
    );
    assert_eq!(server_event, None, "an unknown client's hello is not handed up");
    server.handle_closed();
    assert_eq!(logged(server.poll_event()), "closed in the middle of the handshake");
}

#[test]
fn a_secret_that_nobody_asks_for_is_noted() {
    let mut client = ClientHandshake::new(&hello(), secret("swordfish"));
    let (event, _) = meet(&mut client, &mut server(None), &[]);
    assert!(matches!(event, Some(ClientEvent::Accepted(_))));
    assert_eq!(client.note(), Some("the server did not ask for the secret: it serves anyone"));
}

#[test]
fn a_stranger_learns_nothing_of_what_would_be_refused() {
    let bad = Hello { size_bytes: 0, ..hello() };
    let (event, _) =
        meet(&mut ClientHandshake::new(&bad, secret("wrong")), &mut server(secret("right")), &[]);
    assert!(told(event).contains("has another secret"));
    let (event, server_event) =
        meet(&mut ClientHandshake::new(&bad, secret("right")), &mut server(secret("right")), &[]);
    assert_eq!(
        told(event),
        "127.0.0.1:80 refused: messages of 0 bytes cannot be sent over tcp: 1 to 16777216 can; give a --size from \
         1 to 16777216"
    );
    assert!(logged(server_event).starts_with("was refused (size: "));
}

#[test]
fn versions_that_differ_are_told_at_both_ends() {
    // A client of version 2 at this server.
    let mut frame = hello_frame(&hello());
    frame[4] = 2;
    let (event, refuse) = server_on(&frame, &[]);
    assert_eq!(
        logged(event),
        "speaks version 2 of tare's protocol, this tare (0.1.0) version 1; use the same tare at both ends"
    );
    let refuse = refuse.unwrap();
    assert_eq!(refuse.code, RefuseCode::Version);
    assert_eq!(
        of_0_1_0(&refuse.message),
        "the client speaks version 2 of tare's protocol, this server version 1 (tare 0.1.0)"
    );
    // This client at a server of version 2, which refuses in its own version, with a body of
    // whatever shape.
    assert_eq!(
        told(client_on(b"tare\x02\x05\x00\x04\xff\xff\xff\xff", &[])),
        "127.0.0.1:80 speaks version 2 of tare's protocol, this tare (0.1.0) version 1; use the same tare at both ends"
    );
    // A server that is newer, but kind enough to answer in our version.
    assert_eq!(
        told(client_on(&Refuse::version(1).encode(), &[])),
        "127.0.0.1:80 refused: the client speaks version 1 of tare's protocol, this server version 1 (tare 0.1.0); \
         use the same tare at both ends"
    );
}

#[test]
fn something_else_on_the_port_is_named() {
    for (answer, message) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n"[..],
            "127.0.0.1:80 speaks HTTP, not tare's protocol; start `tare serve` there, or give the port that it \
             listens on (by default 7117)",
        ),
        (
            b"<html>\r\n<head>",
            "127.0.0.1:80 speaks HTTP, not tare's protocol; start `tare serve` there, or give the port that it \
             listens on (by default 7117)",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            "127.0.0.1:80 speaks SSH, not tare's protocol; start `tare serve` there, or give the port that it \
             listens on (by default 7117)",
        ),
        (
            b"-ERR unknown \x1b[31mcommand\r\n",
            "127.0.0.1:80 does not speak tare's protocol: it answered \"-ERR unknown \\x1b[31mcommand\"; start `tare \
             serve` there, or give the port that it listens on (by default 7117)",
        ),
        (
            b"",
            "127.0.0.1:80 closed the connection without an answer; check that `tare serve` runs there: proxies and \
             load balancers close so when there is nothing behind them",
        ),
        (
            b"tare\x01",
            "127.0.0.1:80 closed the connection in the middle of an exchange; see what the server logged",
        ),
    ] {
        assert_eq!(told(client_on(answer, &[])), message);
        let every_byte: Vec<usize> = (0..answer.len()).collect();
        assert_eq!(told(client_on(answer, &every_byte)), message, "a byte at a time");
    }
}

#[test]
fn silence_is_named() {
    let timed_out = |first: &[u8]| {
        let mut client = ClientHandshake::new(&hello(), None);
        client.handle_bytes(first);
        client.handle_timeout();
        told(client.poll_event())
    };
    assert_eq!(
        timed_out(b""),
        "127.0.0.1:80 did not answer the hello within 2 s; check that `tare serve` runs there and that no firewall \
         is between, or give a longer --timeout"
    );
    assert_eq!(
        timed_out(b"tare"),
        "127.0.0.1:80 stopped answering for 2 s; see what the server logged, or give a longer --timeout"
    );
    assert_eq!(timed_out(b"220 mx"), client_message_of_smtp());
}

fn client_message_of_smtp() -> String {
    told(client_on(b"220 mx", &[]))
}

#[test]
fn a_server_that_breaks_the_protocol() {
    let refused = |answer: &[u8]| told(client_on(answer, &[]));
    assert_eq!(
        refused(&frame::encode(Kind::Figures, &Figures::default()).unwrap()),
        "127.0.0.1:80 broke tare's protocol: it sent figures instead of an answer; use the same tare at both ends"
    );
    assert!(refused(b"tare\x01\x63\x00\x00").contains("it sent a frame of unknown kind 99"));
    assert!(
        refused(b"tare\x01\x04\xff\xff")
            .contains("a body of 65535 bytes, at most 61440 are allowed")
    );
    assert!(
        refused(b"tare\x01\x04\x00\x02{}").contains("an accept that cannot be read: missing field")
    );
    let mut early = accept().encode();
    early.push(0);
    assert_eq!(
        refused(&early),
        "127.0.0.1:80 broke tare's protocol: it spoke before it was spoken to; use the same tare at both ends"
    );
}

#[test]
fn refusals_reach_the_user_with_a_remedy_and_control_characters_written_out() {
    let refused = |code, message: &str| told(client_on(&Refuse::new(code, message).encode(), &[]));
    assert_eq!(
        refused(RefuseCode::Busy, "64 sessions are running"),
        "127.0.0.1:80 refused: 64 sessions are running; try again later, or start the server with a larger \
         --max-sessions"
    );
    assert_eq!(
        refused(RefuseCode::Unknown("brand-new".into()), ""),
        "127.0.0.1:80 refused: brand-new"
    );
    let raw = br#"{"code":"internal","message":"a\u001b[2Jb","remedy":"c\nd"}"#;
    assert_eq!(
        told(client_on(&frame::encode_body(Kind::Refuse, raw).unwrap(), &[])),
        "127.0.0.1:80 refused: a\\u{1b}[2Jb; c\\nd"
    );
}

#[test]
fn a_hello_that_names_too_many_cpus_is_not_sent() {
    let mut client = ClientHandshake::new(&Hello { cpus: (0..4096).collect(), ..hello() }, None);
    assert_eq!(client.poll_transmit(), None);
    assert_eq!(
        told(client.poll_event()),
        "the hello names more CPUs than it can hold; give fewer --cpus"
    );
}

#[test]
fn http_is_known_wherever_its_first_bytes_are_cut() {
    for method in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "CONNECT",
        "TRACE",
        "get",
        "PROPFIND",
        "t",
        "tar",
        "tarE",
        "T~!",
        "\r\nGET",
        "\r\n\r\ntare",
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n");
        for cut in 0..request.len() {
            assert_eq!(
                server_on(request.as_bytes(), &[cut]),
                (Some(ServerEvent::Http(request.clone().into_bytes())), None),
                "{method} cut at {cut}"
            );
        }
    }
    let mut server = server(None);
    server.handle_bytes(b"GET");
    assert_eq!(server.poll_event(), None);
    server.handle_bytes(b" ");
    assert_eq!(server.poll_event(), Some(ServerEvent::Http(b"GET ".to_vec())));
    server.handle_bytes(b"/x");
    assert_eq!(server.poll_event(), None);
    assert_eq!(server.into_rest(), b"GET /x");
}

#[test]
fn garbage_costs_little_and_is_not_answered() {
    let log = |bytes: &[u8]| {
        let (event, refuse) = server_on(bytes, &[]);
        assert_eq!(refuse, None);
        logged(event)
    };
    assert_eq!(log(b"\x16\x03\x01\x02\x00\x01"), "speaks TLS, not tare's protocol");
    assert_eq!(log(b"GETX\r\n"), "does not speak tare's protocol: it sent \"GETX\"");
    assert_eq!(log(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), "speaks SSH, not tare's protocol");
    // A long word is not waited for, and a space behind it makes no method of it.
    for end in ["", " / HTTP/1.1"] {
        let word = format!("{}{end}", "A".repeat(33));
        assert!(log(word.as_bytes()).starts_with("does not speak"), "{word}");
    }
    for blank in ["\r\r", "\r\n\r\n\r\n", "\n", "\r\n /", " GET /"] {
        assert!(log(blank.as_bytes()).starts_with("does not speak"), "{blank:?}");
    }
    assert_eq!(log(b"\0\xff"), "does not speak tare's protocol: it sent \"\\x00\\xff\"");
    assert_eq!(log(b"get?/ "), "does not speak tare's protocol: it sent \"get?/\"");
    let mut server = server(None);
    for _ in 0..1000 {
        server.handle_bytes(&[0; 1000]);
    }
    assert_eq!(server.into_rest().len(), 1000);
}

#[test]
fn hellos_that_cannot_be_read_are_refused() {
    let (event, refuse) = server_on(b"tare\x01\x01\x00\x02[]", &[]);
    assert!(
        logged(event).starts_with("broke tare's protocol: it sent a hello that cannot be read: ")
    );
    assert_eq!(refuse.unwrap().code, RefuseCode::Malformed);
    let header =
        [b"tare\x01\x01", &u16::try_from(HELLO_BODY_MAX + 1).unwrap().to_be_bytes()[..]].concat();
    let (event, refuse) = server_on(&header, &[]);
    assert_eq!(
        logged(event),
        "broke tare's protocol: it sent a body of 4097 bytes, at most 4096 are allowed"
    );
    assert_eq!(refuse.unwrap().code, RefuseCode::Malformed);
    let (event, _) = server_on(b"tare\x01\x04\x00\x02{}", &[]);
    assert_eq!(logged(event), "broke tare's protocol: it sent an accept instead of a hello");
    let mut pushy = hello_frame(&hello());
    pushy.push(1);
    let (event, _) = server_on(&pushy, &[]);
    assert_eq!(logged(event), "broke tare's protocol: it sent more before it was accepted");
}

#[test]
fn clients_that_leave_or_dawdle() {
    let mut silent = server(None);
    silent.handle_closed();
    assert_eq!(logged(silent.poll_event()), "closed without a word");
    let mut cut_off = server(None);
    cut_off.handle_bytes(b"tare\x01");
    cut_off.handle_closed();
    assert_eq!(logged(cut_off.poll_event()), "closed in the middle of the handshake");
    let mut dripping = server(None);
    dripping.handle_bytes(b"ta");
    dripping.handle_timeout();
    assert_eq!(logged(dripping.poll_event()), "did not finish its hello in time");
    dripping.handle_bytes(b"re");
    dripping.refuse(Refuse::new(RefuseCode::Busy, ""));
    dripping.accept(&accept());
    assert_eq!((dripping.poll_event(), dripping.poll_transmit()), (None, None));
}

#[test]
fn a_server_may_refuse_before_the_hello() {
    let mut busy = server(None);
    busy.refuse(Refuse::new(RefuseCode::Busy, "4096 sessions are running"));
    let mut client = ClientHandshake::new(&hello(), None);
    client.handle_bytes(&busy.poll_transmit().unwrap());
    assert!(told(client.poll_event()).contains("4096 sessions are running"));
    assert_eq!(client.poll_transmit(), None, "nothing more is sent");
}

#[test]
fn an_environment_that_does_not_fit_is_left_out() {
    let mut full = accept();
    full.environment =
        Some(Environment { hostname: Some("h".repeat(FRAME_BODY_MAX)), ..Environment::default() });
    let mut server = server(None);
    server.handle_bytes(&hello_frame(&hello()));
    server.poll_event();
    server.accept(&full);
    let mut client = ClientHandshake::new(&hello(), None);
    client.handle_bytes(&server.poll_transmit().unwrap());
    assert_eq!(client.poll_event(), Some(ClientEvent::Accepted(Box::new(accept()))));
    let fitting = Accept { environment: Some(Environment::default()), ..accept() };
    let mut client = ClientHandshake::new(&hello(), None);
    client.handle_bytes(&fitting.encode());
    assert_eq!(client.poll_event(), Some(ClientEvent::Accepted(Box::new(fitting))));
}

#[test]
fn figures_arrive_in_pieces_or_not_at_all() {
    let figures =
        Figures { operations: 7, cut_short: Some("shutting down".into()), ..Figures::default() };
    let bytes = figures.encode();
    let mut reader = FiguresReader::default();
    for byte in &bytes[..bytes.len() - 1] {
        assert_eq!(reader.handle_bytes(&[*byte]), Ok(None));
    }
    assert_eq!(reader.handle_bytes(&bytes[bytes.len() - 1..]), Ok(Some(figures)));
    let error = |bytes: &[u8]| {
        let error = FiguresReader::default().handle_bytes(bytes).unwrap_err();
        error.into_error(ADDRESS).to_string()
    };
    assert!(error(&accept().encode()).contains("it sent an accept instead of its figures"));
    assert!(error(b"xyz").contains("it sent something that is not tare's protocol"));
    assert!(error(&Refuse::new(RefuseCode::Internal, "no").encode()).contains("refused: no"));
    assert_eq!(FiguresReader::default().handle_closed().cause(), "closed");
}

#[test]
fn causes_are_stable_words() {
    assert_eq!(HandshakeError::SecretMissing.cause(), "refused");
    assert_eq!(HandshakeError::TimedOut { after: Nanos(1), answered: false }.cause(), "timeout");
    assert_eq!(HandshakeError::Version(9).cause(), "protocol");
}

proptest! {
    #[test]
    fn any_split_leads_to_the_same_session(cuts: Vec<usize>, with_secret: bool) {
        let secret = || with_secret.then(|| secret("swordfish").unwrap());
        let joined = |cuts: &[usize]| {
            meet(&mut ClientHandshake::new(&hello(), secret()), &mut server(secret()), cuts)
        };
        prop_assert_eq!(joined(&cuts), joined(&[]));
    }

    #[test]
    fn clients_survive_any_answer_in_any_split(
        answer in prop_oneof![
            any::<Vec<u8>>(),
            (any::<u8>(), any::<Vec<u8>>()).prop_map(|(kind, tail)| {
                [b"tare\x01", &[kind % 12, 0][..], &tail].concat()
            }),
        ],
        cuts: Vec<usize>,
    ) {
        prop_assert_eq!(client_on(&answer, &cuts), client_on(&answer, &[]));
    }

    #[test]
    fn servers_survive_any_input_in_any_split(
        input in prop_oneof![
            any::<Vec<u8>>(),
            (any::<u8>(), any::<Vec<u8>>()).prop_map(|(kind, tail)| {
                [b"tare\x01", &[kind % 12, 0][..], &tail].concat()
            }),
        ],
        cuts: Vec<usize>,
    ) {
        let verdict = |cuts: &[usize]| match server_on(&input, cuts) {
            // How much of a stranger's first line had arrived when it was known for one is no
            // matter.
            (Some(ServerEvent::Failed(ServerFailure::NotTare(_))), refuse) => (None, refuse),
            other => other,
        };
        prop_assert_eq!(verdict(&cuts), verdict(&[]));
    }
}

#[test]
fn a_request_may_follow_its_hello_at_once_where_the_hello_says_so() {
    let follows = Hello { connect_each: true, request_follows: true, brief: true, ..hello() };
    let bytes = [hello_in_one_go(&follows), vec![1; 64]].concat();
    for cut in 0..=bytes.len() {
        let mut server = ServerHandshake::new(None, [0; 32]);
        server.handle_bytes(&bytes[..cut]);
        server.handle_bytes(&bytes[cut..]);
        assert!(server.request_follows(), "cut at {cut}");
        let event = server.poll_event();
        assert_eq!(event, Some(ServerEvent::Hello(Box::new(follows.clone()))));
        assert_eq!(server.poll_transmit(), None);
        assert_eq!(server.into_rest(), [1; 64]);
    }
    // Elsewhere it is an error as before, and so is the promise on any other connection.
    for hello in [
        Hello { request_follows: false, ..follows.clone() },
        Hello { connect_each: false, ..follows },
    ] {
        let mut server = ServerHandshake::new(None, [0; 32]);
        server.handle_bytes(&[hello_in_one_go(&hello), vec![1; 64]].concat());
        let event = server.poll_event();
        assert!(matches!(event, Some(ServerEvent::Failed(_))), "{event:?}");
        assert!(server.poll_transmit().is_some(), "it is told why");
    }
}
