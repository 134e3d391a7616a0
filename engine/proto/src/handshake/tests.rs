use super::*;
use crate::tests::{accept, each_byte, hello, noise, of_0_1_0, pieces, reported, secret};
use proptest::prelude::*;
use tare_stats::result::Environment;

fn server(text: Option<&str>) -> ServerHandshake {
    ServerHandshake::new(secret(text), [0x5a; 32])
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
fn a_session_needs_the_secret_where_there_is_one() {
    for (ours, theirs) in [(None, None), (Some("a"), Some("a")), (Some("a"), None)] {
        let mut server = server(theirs);
        let (client_event, server_event) =
            meet(&mut ClientHandshake::new(&hello(), secret(ours)), &mut server, &[]);
        assert_eq!(client_event, Some(ClientEvent::Accepted(Box::new(accept()))));
        assert_eq!(server_event, Some(ServerEvent::Hello(Box::new(hello()))));
        server.handle_bytes(b"\x01request");
        assert_eq!(server.into_rest(), b"\x01request");
    }
    let mut server = server(Some("a"));
    let (event, seen) = meet(&mut ClientHandshake::new(&hello(), None), &mut server, &[]);
    assert_eq!(
        reported(event),
        "h:80 asks for a secret, and none was given; give the server's secret with --secret-file"
    );
    assert_eq!(seen, None, "an unknown client's hello is not handed up");
    server.handle_closed();
    assert_eq!(logged(server.poll_event()), "closed in the middle of the handshake");
}

#[test]
fn a_stranger_learns_nothing_of_what_would_be_refused() {
    let bad = Hello { size_bytes: 0, ..hello() };
    for (ours, reason, log) in [
        (
            "wrong",
            "h:80 has another secret than the one given; give the file that the server was started \
             with to --secret-file",
            "was refused (secret-wrong: the client has another secret than this server)",
        ),
        (
            "right",
            "h:80 refused: messages of 0 bytes cannot be sent over tcp: 1 to 16777216 can; give a \
             --size from 1 to 16777216",
            "was refused (size: messages of 0 bytes cannot be sent over tcp: 1 to 16777216 can)",
        ),
    ] {
        let mut client = ClientHandshake::new(&bad, secret(Some(ours)));
        let (event, seen) = meet(&mut client, &mut server(Some("right")), &[]);
        assert_eq!((&*reported(event), &*logged(seen)), (reason, log));
    }
}

#[test]
fn versions_that_differ_are_reported_at_both_ends() {
    // A client of version 2 at this server.
    let mut frame = hello_frame(&hello());
    frame[4] = 2;
    let (event, refuse) = server_on(&frame, &[]);
    let differ = "speaks version 2 of tare's protocol, this tare (0.1.0) version 1; use the same \
                  tare at both ends";
    assert_eq!(logged(event), differ);
    let refuse = refuse.unwrap();
    assert_eq!(refuse.code, RefuseCode::Version);
    assert_eq!(
        of_0_1_0(&refuse.message),
        "the client speaks version 2 of tare's protocol, this server version 1 (tare 0.1.0)"
    );
    // This client at a server of version 2, which refuses in its own version, with a body of
    // whatever shape.
    let answer = client_on(b"tare\x02\x05\x00\x04\xff\xff\xff\xff", &[]);
    assert_eq!(reported(answer), format!("h:80 {differ}"));
    // A server that is newer, but kind enough to answer in our version.
    assert_eq!(
        reported(client_on(&Refuse::version(1).encode(), &[])),
        "h:80 refused: the client speaks version 1 of tare's protocol, this server version 1 \
         (tare 0.1.0); use the same tare at both ends"
    );
}

#[test]
fn something_else_on_the_port_is_named() {
    let start = "start `tare serve` there, or give the port that it listens on (by default 7117)";
    for (answer, message) in [
        (&b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n"[..], "speaks HTTP, not tare's protocol"),
        (b"<html>\r\n<head>", "speaks HTTP, not tare's protocol"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "speaks SSH, not tare's protocol"),
        (b"220 mx", "does not speak tare's protocol: it answered \"220 mx\""),
        (
            b"-ERR unknown \x1b[31mcommand\r\n",
            "does not speak tare's protocol: it answered \"-ERR unknown \\x1b[31mcommand\"",
        ),
    ] {
        let message = format!("h:80 {message}; {start}");
        assert_eq!(reported(client_on(answer, &[])), message);
        assert_eq!(reported(client_on(answer, &each_byte(answer))), message, "a byte at a time");
        assert_eq!(timed_out(answer), message);
    }
}

/// What a client says that has heard `answer` when its time is over.
fn timed_out(answer: &[u8]) -> String {
    let mut client = ClientHandshake::new(&hello(), None);
    client.handle_bytes(answer);
    client.handle_timeout();
    reported(client.poll_event())
}

#[test]
fn silence_and_an_early_end_are_named() {
    assert_eq!(
        timed_out(b""),
        "h:80 did not answer the hello within 2 s; check that `tare serve` runs there and that no \
         firewall is between, or give a longer --timeout"
    );
    assert_eq!(
        timed_out(b"tare"),
        "h:80 stopped answering for 2 s; see what the server logged, or give a longer --timeout"
    );
    assert_eq!(
        reported(client_on(b"", &[])),
        "h:80 closed the connection without an answer; check that `tare serve` runs there: proxies \
         and load balancers close so when there is nothing behind them"
    );
    assert_eq!(
        reported(client_on(b"tare\x01", &[0, 1, 2, 3, 4])),
        "h:80 closed the connection in the middle of an exchange; see what the server logged"
    );
}

#[test]
fn a_server_that_breaks_the_protocol() {
    let figures = Figures::default().encode();
    let early = [accept().encode(), vec![0]].concat();
    for (answer, what) in [
        (&figures[..], "it sent figures instead of an answer; use the same tare at both ends"),
        (b"tare\x01\x63\x00\x00", "it sent a frame of unknown kind 99"),
        (b"tare\x01\x04\xff\xff", "it sent a body of 65535 bytes, at most 61440 are allowed"),
        (b"tare\x01\x04\x00\x02{}", "it sent an accept that cannot be read: missing field"),
        (&early, "it spoke before it was spoken to; use the same tare at both ends"),
    ] {
        let message = reported(client_on(answer, &[]));
        assert!(message.starts_with(&format!("h:80 broke tare's protocol: {what}")), "{message}");
    }
}

#[test]
fn refusals_reach_the_user_with_a_remedy_and_control_characters_written_out() {
    let refused =
        |code, message: &str| reported(client_on(&Refuse::new(code, message).encode(), &[]));
    assert_eq!(
        refused(RefuseCode::Busy, "64 sessions are running"),
        "h:80 refused: 64 sessions are running; try again later, or start the server with a larger \
         --max-sessions"
    );
    let unknown = RefuseCode::Unknown("brand-new".into());
    assert_eq!(refused(unknown, ""), "h:80 refused: brand-new");
    let raw = br#"{"code":"internal","message":"a\u001b[2Jb","remedy":"c\nd"}"#;
    let answer = client_on(&frame::encode_body(Kind::Refuse, raw).unwrap(), &[]);
    assert_eq!(reported(answer), "h:80 refused: a\\u{1b}[2Jb; c\\nd");
}

#[test]
fn a_hello_that_names_too_many_cpus_is_not_sent() {
    let mut client = ClientHandshake::new(&Hello { cpus: (0..4096).collect(), ..hello() }, None);
    assert_eq!(client.poll_transmit(), None);
    assert_eq!(
        reported(client.poll_event()),
        "the hello names more CPUs than it can hold; give fewer --cpus"
    );
}

#[test]
fn http_is_known_wherever_its_first_bytes_are_cut() {
    let methods = "GET HEAD POST PUT DELETE OPTIONS PATCH CONNECT TRACE get PROPFIND t tar tarE \
                   T~! \r\nGET \r\n\r\ntare";
    for method in methods.split(' ') {
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
    // A long word is not waited for, and a space behind it makes no method of it.
    let long = "A".repeat(33);
    let longer = format!("{long} / HTTP/1.1");
    for (bytes, log) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "speaks TLS, not tare's protocol"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "speaks SSH, not tare's protocol"),
        (b"GETX\r\n", "does not speak tare's protocol: it sent \"GETX\""),
        (b"\0\xff", "does not speak tare's protocol: it sent \"\\x00\\xff\""),
        (b"get?/ ", "does not speak tare's protocol: it sent \"get?/\""),
        (long.as_bytes(), "does not speak"),
        (longer.as_bytes(), "does not speak"),
        (b"\r\r", "does not speak"),
        (b"\r\n\r\n\r\n", "does not speak"),
        (b"\n", "does not speak"),
        (b"\r\n /", "does not speak"),
        (b" GET /", "does not speak"),
    ] {
        let (event, refuse) = server_on(bytes, &[]);
        let found = logged(event);
        assert!(found.starts_with(log) && refuse.is_none(), "{bytes:?}: {found}");
    }
    let mut server = server(None);
    for _ in 0..1000 {
        server.handle_bytes(&[0; 1000]);
    }
    assert_eq!(server.into_rest().len(), 1000);
}

#[test]
fn hellos_that_cannot_be_read_are_refused() {
    let long = u16::try_from(HELLO_BODY_MAX + 1).unwrap().to_be_bytes();
    let long = [b"tare\x01\x01", &long[..]].concat();
    let pushy = [hello_frame(&hello()), vec![1]].concat();
    for (bytes, what) in [
        (&b"tare\x01\x01\x00\x02[]"[..], "it sent a hello that cannot be read: "),
        (&long, "it sent a body of 4097 bytes, at most 4096 are allowed"),
        (b"tare\x01\x04\x00\x02{}", "it sent an accept instead of a hello"),
        (&pushy, "it sent more before it was accepted"),
    ] {
        let (event, refuse) = server_on(bytes, &[]);
        let log = logged(event);
        assert!(log.starts_with(&format!("broke tare's protocol: {what}")), "{log}");
        assert_eq!(refuse.unwrap().code, RefuseCode::Malformed);
    }
}

#[test]
fn clients_that_leave_or_dawdle() {
    let after = |bytes: &[u8], end: fn(&mut ServerHandshake)| {
        let mut server = server(None);
        server.handle_bytes(bytes);
        end(&mut server);
        (logged(server.poll_event()), server)
    };
    assert_eq!(after(b"", ServerHandshake::handle_closed).0, "closed without a word");
    let (log, _) = after(b"tare\x01", ServerHandshake::handle_closed);
    assert_eq!(log, "closed in the middle of the handshake");
    let (log, mut dripping) = after(b"ta", ServerHandshake::handle_timeout);
    assert_eq!(log, "did not finish its hello in time");
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
    assert!(reported(client.poll_event()).contains("4096 sessions are running"));
    assert_eq!(client.poll_transmit(), None, "nothing more is sent");
}

#[test]
fn an_environment_that_does_not_fit_is_left_out() {
    let with = |environment| Accept { environment: Some(environment), ..accept() };
    let fitting = with(Environment::default());
    let hostname = Some("h".repeat(FRAME_BODY_MAX));
    let full = with(Environment { hostname, ..Environment::default() });
    for (sent, arrives) in [(full, accept()), (fitting.clone(), fitting)] {
        let mut server = server(None);
        server.handle_bytes(&hello_frame(&hello()));
        server.poll_event();
        server.accept(&sent);
        let event = client_on(&server.poll_transmit().unwrap(), &[]);
        assert_eq!(event, Some(ClientEvent::Accepted(Box::new(arrives))));
    }
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
    for (bytes, what) in [
        (accept().encode(), "it sent an accept instead of its figures"),
        (b"xyz".to_vec(), "it sent something that is not tare's protocol"),
        (Refuse::new(RefuseCode::Internal, "no").encode(), "refused: no"),
    ] {
        let error = FiguresReader::default().handle_bytes(&bytes).unwrap_err();
        let error = error.into_error("h:80").to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn causes_are_stable_words() {
    let timed_out = HandshakeError::TimedOut { after: Nanos(1), answered: false };
    for (error, cause) in [
        (HandshakeError::SecretMissing, "refused"),
        (timed_out, "timeout"),
        (HandshakeError::Version(9), "protocol"),
        (HandshakeError::Closed, "closed"),
    ] {
        assert_eq!(error.cause(), cause);
    }
}

#[test]
fn a_request_may_follow_its_hello_at_once_where_the_hello_says_so() {
    let follows = Hello { connect_each: true, request_follows: true, brief: true, ..hello() };
    let bytes = [hello_in_one_go(&follows), vec![1; 64]].concat();
    for cut in 0..=bytes.len() {
        let mut server = server(None);
        server.handle_bytes(&bytes[..cut]);
        server.handle_bytes(&bytes[cut..]);
        assert!(server.request_follows(), "cut at {cut}");
        let event = server.poll_event();
        assert_eq!(event, Some(ServerEvent::Hello(Box::new(follows.clone()))));
        assert_eq!(server.poll_transmit(), None);
        assert_eq!(server.into_rest(), [1; 64]);
    }
    // Elsewhere it is an error, and so is the promise on any other connection.
    for hello in [
        Hello { request_follows: false, ..follows.clone() },
        Hello { connect_each: false, ..follows },
    ] {
        let (event, refuse) = server_on(&[hello_in_one_go(&hello), vec![1; 64]].concat(), &[]);
        assert!(matches!(event, Some(ServerEvent::Failed(_))), "{event:?}");
        assert!(refuse.is_some(), "the client learns why");
    }
}

proptest! {
    #[test]
    fn any_split_leads_to_the_same_session(cuts: Vec<usize>, with_secret: bool) {
        let text = with_secret.then_some("swordfish");
        let joined = |cuts: &[usize]| {
            meet(&mut ClientHandshake::new(&hello(), secret(text)), &mut server(text), cuts)
        };
        prop_assert_eq!(joined(&cuts), joined(&[]));
    }

    #[test]
    fn both_ends_survive_anything_in_any_split(input in noise(), cuts: Vec<usize>) {
        prop_assert_eq!(client_on(&input, &cuts), client_on(&input, &[]));
        let verdict = |cuts: &[usize]| match server_on(&input, cuts) {
            // How much of a stranger's first line had arrived when it was known for one is no
            // matter.
            (Some(ServerEvent::Failed(ServerFailure::NotTare(_))), refuse) => (None, refuse),
            other => other,
        };
        prop_assert_eq!(verdict(&cuts), verdict(&[]));
    }
}
