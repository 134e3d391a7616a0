use proptest::prelude::*;

use super::*;
use crate::http1::request::{Body, Framing, RequestSpec, Requests};
use crate::tests::{each_byte, pieces};
use tare_units::limits::CHUNK_LINE_MAX;

/// A request as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Read {
    method: String,
    target: String,
    content_type: Option<String>,
    keep_alive: bool,
    expects_continue: bool,
    body: Vec<u8>,
    whole: bool,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Hands in `wire`, cut at `cuts`: the requests, the last of which may be unfinished, and the
/// error.
fn read(wire: &[u8], cuts: &[usize]) -> (Vec<Read>, Option<RequestError>) {
    let (mut reader, mut spare) = (RequestReader::default(), Spare::default());
    let (mut requests, mut at) = (Vec::<Read>::new(), 0);
    for mut piece in pieces(wire, cuts) {
        while !piece.is_empty() {
            let (taken, event) = match reader.handle_bytes(piece, &mut spare) {
                Ok(read) => read,
                Err(error) => {
                    reader.reset(&mut spare);
                    assert!(spare.0.len() <= 1 && reader.is_at_start());
                    return (requests, Some(error));
                }
            };
            assert!(taken > 0 && taken <= piece.len());
            assert!(event.is_some() || taken == piece.len());
            match event {
                None => {}
                Some(Event::Head(head)) => requests.push(Read {
                    method: text(head.method),
                    target: text(head.target),
                    content_type: head.content_type.map(text),
                    keep_alive: head.keep_alive,
                    expects_continue: head.expects_continue,
                    body: Vec::new(),
                    whole: head.last,
                }),
                Some(Event::Body { bytes, last }) => {
                    let request = requests.last_mut().unwrap();
                    assert!(!request.whole && (last || !bytes.is_empty()));
                    request.body.extend(bytes);
                    request.whole = last;
                    assert!(request.body.len() <= REQUEST_BODY_MAX);
                }
            }
            assert!(reader.gathered.len() <= REQUEST_HEAD_MAX);
            (at, piece) = (at + taken, &piece[taken..]);
            if at % 2 == 0 {
                reader.release(&mut spare);
            }
        }
    }
    assert!(!reader.is_at_start() || requests.last().is_none_or(|request| request.whole));
    (requests, None)
}

fn status(wire: &str) -> u16 {
    let (_, whole) = read(wire.as_bytes(), &[]);
    let (_, pieces) = read(wire.as_bytes(), &each_byte(wire.as_bytes()));
    let whole = whole.unwrap_or_else(|| panic!("{wire:?} is accepted"));
    assert_eq!(Some(whole.status), pieces.map(|e| e.status), "{wire:?}");
    assert!(!whole.reason.is_empty() && !whole.reason.contains('\n'));
    whole.status
}

fn one(wire: &str) -> Read {
    let (mut whole, error) = read(wire.as_bytes(), &[]);
    assert_eq!((whole.len(), error), (1, None), "{wire:?}");
    assert_eq!(read(wire.as_bytes(), &each_byte(wire.as_bytes())), (whole.clone(), None));
    whole.remove(0)
}

#[test]
fn requests_are_read() {
    let base = Read { method: "GET".into(), target: "/".into(), whole: true, ..Read::default() };
    let kept = Read { keep_alive: true, ..base.clone() };
    let get = Read { target: "/a?b=c".into(), ..kept.clone() };
    let post = Read {
        method: "POST".into(),
        content_type: Some("a/b".into()),
        expects_continue: true,
        body: b"abc".to_vec(),
        ..kept.clone()
    };
    let put = Read { method: "PUT".into(), body: b"abcde".to_vec(), ..kept.clone() };
    for (wire, expected) in [
        ("GET /a?b=c HTTP/1.1\r\nHost: x:7\r\nAccept: */*\r\n\r\n", &get),
        (
            "POST / HTTP/1.1\r\nHOST:x\r\nContent-Type: a/b\r\ncontent-length: 3\r\n\
             Expect: 100-Continue\r\n\r\nabc",
            &post,
        ),
        (
            "PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n2;x\r\n\
             de\r\n0\r\nA: b\r\n\r\n",
            &put,
        ),
        ("\r\n\r\nGET / HTTP/1.0\r\n\r\n", &base),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &kept),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, close\r\n\r\n", &base),
    ] {
        assert_eq!(one(wire), *expected);
    }
    assert!(!one("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabc").whole);
}

#[test]
fn what_another_server_could_read_otherwise_is_refused() {
    for (fields, expected) in [
        ("Accept: x", 400),
        ("Host: a b", 400),
        ("Host: a/b", 400),
        ("Host: x\r\nContent-Length: 262145", 413),
    ] {
        assert_eq!(status(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")), expected, "{fields:?}");
    }
    for coding in ["gzip, chunked", "identity", "xchunked"] {
        let wire = format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n");
        assert_eq!(status(&wire), 501, "{coding}");
    }
    for field in [
        "Host: x",
        "A : b",
        "A: b\r\n c",
        "A: b\rc",
        "A: b\0c",
        "A: b\nC: d",
        "A",
        ": b",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Content-Length:",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:",
    ] {
        let wire = format!("POST / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
        assert_eq!(status(&wire), 400, "{field:?}");
    }
    let good = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for before in ["\r\n\r\n\r\n", "\r", "\r\r\n", "\n", "\r\n\n"] {
        assert_eq!(status(&format!("{before}{good}")), 400, "{before:?}");
    }
    for (wire, expected) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        ("GET / HTTP/3\r\n\r\n", 505),
        ("GET / HTTP/0.9\r\n\r\n", 505),
        ("GET / ICY/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("G@T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
        ("GET / HTTP/1.1\nHost: x\n\n", 400),
        ("GET /é HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0", 400),
    ] {
        assert_eq!(status(wire), expected, "{wire:?}");
    }
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn what_is_too_large_is_refused() {
    let start = "GET / HTTP/1.1\r\nHost: x\r\n";
    let of = |len: usize| format!("{start}A: {}\r\n\r\n", "b".repeat(len - start.len() - 7));
    assert!(one(&of(REQUEST_HEAD_MAX)).whole);
    assert_eq!(status(&of(REQUEST_HEAD_MAX + 1)), 431);
    assert_eq!(status(&format!("{start}{}", "a".repeat(REQUEST_HEAD_MAX))), 431);
    let many = |count| format!("{start}{}\r\n", "A: b\r\n".repeat(count - 1));
    assert!(one(&many(REQUEST_HEADERS_MAX)).whole);
    assert_eq!(status(&many(REQUEST_HEADERS_MAX + 1)), 431);
    let target = |len| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(len - 1));
    assert!(one(&target(REQUEST_TARGET_MAX)).whole);
    assert_eq!(status(&target(REQUEST_TARGET_MAX + 1)), 414);
    assert_eq!(status(&target(REQUEST_HEAD_MAX * 2)), 414);

    let body = |bytes: usize| {
        format!("{CHUNKED}1\r\na\r\n{:x}\r\n{}\r\n0\r\n\r\n", bytes - 1, "b".repeat(bytes - 1))
    };
    let (requests, error) = read(body(REQUEST_BODY_MAX).as_bytes(), &[]);
    assert_eq!((requests[0].body.len(), error), (REQUEST_BODY_MAX, None));
    let (_, error) = read(body(REQUEST_BODY_MAX + 1).as_bytes(), &[7, 1_000, 200_000]);
    assert_eq!(error.unwrap().status, 413);
    for (trailers, expected) in [
        (format!("0\r\nA: {}", "b".repeat(REQUEST_HEAD_MAX)), 431),
        (format!("0\r\n{}", "A: b\r\n".repeat(REQUEST_HEADERS_MAX + 1)), 431),
        (format!("1;{}", "b".repeat(CHUNK_LINE_MAX)), 400),
        ("1\r\nab".to_owned(), 400),
    ] {
        assert_eq!(status(&format!("{CHUNKED}{trailers}")), expected);
    }
}

#[test]
fn the_line_of_a_chunks_size_is_bounded_and_not_padded() {
    let with = |line: &str| format!("{CHUNKED}{line}\r\na\r\n{line}\r\nb\r\n0\r\n\r\n");
    let long = |line: usize| format!("1;{}", "x".repeat(line - 4));
    for line in ["1;x", "1 ;x", "1 \t; x=y ", "01", &long(CHUNK_LINE_MAX)] {
        assert_eq!(one(&with(line)).body, b"ab", "{line:?}");
    }
    for line in ["1 ", "1\t", " 1", "1 1", "1; x\n", &long(CHUNK_LINE_MAX + 1)] {
        assert_eq!(status(&with(line)), 400, "{line:?}");
    }
}

fn spec() -> impl Strategy<Value = RequestSpec> {
    (
        "GET|POST|PURGE",
        "/[a-z%?=&]{0,30}",
        proptest::collection::vec(("X-[A-Za-z]{1,9}", "[!-~]([ -~é]{0,20}[!-~])?"), 0..5),
        proptest::option::of((proptest::collection::vec(any::<u8>(), 0..20_000), any::<bool>())),
        any::<bool>(),
    )
        .prop_map(|(method, target, headers, body, close)| RequestSpec {
            method,
            target,
            host: "[::1]:7117".to_owned(),
            headers,
            body: body.map(|(bytes, chunked)| Body {
                bytes,
                framing: if chunked { Framing::Chunked } else { Framing::Length },
            }),
            close,
        })
}

proptest! {
    #[test]
    fn what_the_client_writes_is_read_wherever_it_is_cut(
        specs in proptest::collection::vec(spec(), 1..4),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
        head_cuts in proptest::collection::vec(0..400usize, 0..40),
    ) {
        let weighted: Vec<_> = specs.iter().map(|spec| (spec.clone(), 1)).collect();
        let requests = Requests::new(&weighted, 1, 0).unwrap();
        let expected: Vec<_> = specs.into_iter().map(|spec| Read {
            method: spec.method,
            target: spec.target,
            keep_alive: !spec.close,
            body: spec.body.map(|body| body.bytes).unwrap_or_default(),
            whole: true,
            ..Read::default()
        }).collect();
        let cuts = [cuts, head_cuts].concat();
        prop_assert_eq!(read(requests.bytes(), &cuts), (expected, None));
    }

    #[test]
    fn arbitrary_bytes_end_in_an_event_an_error_or_more(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        start in prop_oneof![
            Just(""), Just("GET / HTTP/1.1\r\n"), Just("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Just("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), Just("GET "),
        ],
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        read(&[start.as_bytes(), &bytes].concat(), &cuts);
    }

    #[test]
    fn a_damaged_request_is_refused_alike_wherever_it_is_cut(
        spec in spec(), place in any::<usize>(), byte in prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b':')],
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let mut wire = Requests::new(&[(spec, 1)], 1, 0).unwrap().bytes().to_vec();
        let place = place % wire.len();
        wire[place] = byte;
        // The next line feed shows what is wrong, if nothing did before.
        wire.extend(b"\r\n\r\n\n\n\n\n\n\n");
        let (whole, error) = read(&wire, &[]);
        let (pieces, same) = read(&wire, &cuts);
        prop_assert_eq!((whole, error.map(|e| e.status)), (pieces, same.map(|e| e.status)));
    }
}
