use super::*;
use crate::frame::{FrameReader, HEADER_LEN};
use crate::tests::{accept, hello};
use proptest::prelude::*;
use tare_units::limits::{CONTROL_DATAGRAM, FRAME_BODY_MAX};
use tare_units::text::visible;

#[test]
fn unknown_fields_are_ignored_and_defaults_hold() {
    let text = r#"{"run_id":"00000000000000ff","test":"ping_pong","transport":"tcp","size_bytes":64,
        "wait":"spin","timeout_ns":1,"from_the_future":[1,{"a":null}]}"#;
    let hello: Hello = serde_json::from_str(text).unwrap();
    assert_eq!(hello.run_id, Id(255));
    assert_eq!(hello.backend, BackendAsked::Auto);
    assert_eq!(hello.check(Transport::Tcp), Ok(()));
    let refuse: Refuse = serde_json::from_str(r#"{"code":"new-one","x":1}"#).unwrap();
    assert_eq!(refuse.code, RefuseCode::Unknown("new-one".into()));
    assert_eq!(serde_json::from_str::<Figures>("{}").unwrap(), Figures::default());
}

#[test]
fn names_on_the_wire() {
    let json = serde_json::to_value(Hello { cpus: vec![3], ..hello() }).unwrap();
    assert_eq!(json["test"], "ping_pong");
    assert_eq!(json["transport"], "tcp");
    assert_eq!(json["direction"], "both");
    assert_eq!(json["wait"], "spin");
    assert_eq!(json["backend"], "auto");
    assert_eq!(json["run_id"], "0123456789abcdef");
    let codes = [RefuseCode::SecretWrong, RefuseCode::UnsupportedTest, RefuseCode::ShuttingDown];
    assert_eq!(
        serde_json::to_string(&codes).unwrap(),
        r#"["secret-wrong","unsupported-test","shutting-down"]"#
    );
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    for (transport, least, most) in
        [(Transport::Tcp, 1, u64::from(MESSAGE_MAX)), (Transport::Udp, 16, u64::from(DATAGRAM_MAX))]
    {
        let check = |size_bytes| Hello { transport, size_bytes, ..hello() }.check(transport);
        assert_eq!((check(least), check(most)), (Ok(()), Ok(())));
        let own = transport.name();
        for size in [least - 1, most + 1] {
            let refuse = check(size).unwrap_err();
            let message = format!(
                "size: messages of {size} bytes cannot be sent over {own}: {least} to {most} can"
            );
            assert_eq!(refuse.to_string(), message);
            assert_eq!(refuse.remedy, Some(format!("give a --size from {least} to {most}")));
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let over_udp = Hello { transport: Transport::Udp, connect_each: true, ..hello() };
    let slow = |server_delay_ns| Hello { server_delay_ns, ..hello() };
    assert_eq!(slow(SERVER_DELAY_MAX_NS).check(Transport::Tcp), Ok(()));
    let mut json = serde_json::to_value(hello()).unwrap();
    json["test"] = "teleport".into();
    let unknown: Hello = serde_json::from_value(json).unwrap();
    let streaming = Hello { test: Test::Stream, ..hello() };
    let one_way = Hello { direction: Direction::Up, ..hello() };
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    for (hello, transport, reason) in [
        (&over_udp, tcp, "malformed: a hello for udp came over tcp"),
        (&over_udp, udp, "unsupported-test: UDP has no connection to open for each request"),
        (&slow(1_000_000_001), tcp, "limit: a server holds a reply for at most 1 s"),
        (&unknown, tcp, "unsupported-test: this server does not know the test that was asked for"),
        (&streaming, tcp, "malformed: a hello for a stream without a word on how"),
        (&one_way, tcp, "malformed: a ping-pong goes both ways"),
    ] {
        assert_eq!(hello.check(transport).unwrap_err().to_string(), reason);
    }
}

#[test]
fn answers_stay_within_their_bounds() {
    let nasty = "\u{1F980}\"\\\n".repeat(60_000);
    let refuse =
        Refuse::new(RefuseCode::Unknown(nasty.clone()), nasty.clone()).remedy(nasty.clone());
    assert!(refuse.encode().len() <= CONTROL_DATAGRAM);
    let long = Accept {
        backend_reason: nasty.clone(),
        wait_reason: Some(nasty.clone()),
        version: nasty.clone(),
        backend: nasty.clone(),
        cpus: (u32::MAX - 1000..u32::MAX).collect(),
        session: Some(Id(u64::MAX)),
        ..accept()
    };
    assert!(long.encode().len() <= FRAME_BODY_MAX);
    assert!(long.encode_short().len() <= CONTROL_DATAGRAM);
    let figures = Figures {
        operations: 5,
        residence_hdr: Some("A".repeat(FRAME_BODY_MAX)),
        residence_count: 4,
        cut_short: Some("shutting down".into()),
        errors: vec![ErrorCount { phase: "send".into(), cause: "EPIPE".into(), count: 1 }],
        ..Figures::default()
    };
    let mut reader = FrameReader::new(FRAME_BODY_MAX);
    reader.handle_bytes(&figures.encode());
    let read: Figures = reader.poll_frame().unwrap().unwrap().read().unwrap();
    assert_eq!(read, Figures { residence_hdr: None, ..figures.clone() });
    let hopeless = Figures {
        errors: vec![ErrorCount { phase: nasty.clone(), cause: nasty, count: 1 }],
        ..figures
    };
    let read = Figures::decode(&hopeless.encode()[HEADER_LEN..]).unwrap();
    assert_eq!((read.operations, read.errors.len()), (5, 0));
}

proptest! {
    #[test]
    fn no_body_makes_a_reader_panic(body: Vec<u8>) {
        let _ = frame::read_body::<Hello>(Kind::Hello, &body);
        let _ = frame::read_body::<Accept>(Kind::Accept, &body);
        let _ = frame::read_body::<Refuse>(Kind::Refuse, &body);
        let _ = Figures::decode(&body);
    }

    #[test]
    fn hellos_round_trip(
        ids: (u64, u64, u64, u64), brief: bool, each: bool, boot in ".*", cpus: Vec<u32>,
    ) {
        let sent = Hello {
            run_id: Id(ids.0), size_bytes: ids.1, server_delay_ns: ids.2, timeout_ns: ids.3, gap_ns: ids.1, brief,
            connect_each: each, boot_id: Some(boot.clone()), cpus, client_version: boot, ..hello()
        };
        let body = serde_json::to_vec(&sent).unwrap();
        let come = Hello {
            boot_id: sent.boot_id.as_deref().map(|text| visible(text).into_owned()),
            client_version: visible(&sent.client_version).into_owned(),
            ..sent
        };
        prop_assert_eq!(frame::read_body::<Hello>(Kind::Hello, &body).unwrap(), come);
    }

    #[test]
    fn refusals_round_trip(code in "[a-z-]{1,20}", message in "[ -~]{0,200}") {
        let refuse = Refuse::new(RefuseCode::from(code), message);
        let frame = refuse.encode();
        prop_assert_eq!(frame::read_body::<Refuse>(Kind::Refuse, &frame[HEADER_LEN..]).unwrap(), refuse);
    }
}
