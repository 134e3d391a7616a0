//! What lies beside the grammar: which of it is taken, and which is not.

use super::*;

const FIVE: Response = ok(200, true, 5);

/// What real servers, proxies and gateways send, and how it is read.
const TAKEN: &[(&str, Response)] = &[
    // Status lines.
    ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1  200  OK\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 O\x01K\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.7 200 OK\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.0 200\r\n\r\nhello", ok(200, false, 5)),
    ("HTTP/1.1 999 x\r\nContent-Length: 5\r\n\r\nhello", ok(999, true, 5)),
    ("HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n", ok(600, true, 0)),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    // Line ends (RFC 9112 section 2.2).
    ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    // Values.
    ("HTTP/1.1 200 OK\r\nContent-Length:5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nContent-Length: \t 5 \t\r\n\r\nhello", FIVE),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=dmo\x01OZPF; path=/\r\n\r\nhello",
        FIVE,
    ),
    ("HTTP/1.1 200 OK\r\nSet-Cookie: a=\0b\x7fc\x1b[1m\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nA: \u{fc}\u{80}\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nA: x\x01\r\n y\x02\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    // Names.
    ("HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nA b: c\r\n folded\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\n: no name\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\n\u{fc}: x\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\n A: b\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nX-Content-Length: 9\x01\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    // Persistence.
    (
        "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 5\r\n\r\nhello",
        FIVE,
    ),
    ("HTTP/1.1 200 OK\r\nProxy-Connection: close\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    (
        "HTTP/1.1 200 OK\r\nConnection: close\x01\r\nContent-Length: 5\r\n\r\nhello",
        ok(200, false, 5),
    ),
    // Bodies.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 005\r\n\r\nhello", FIVE),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        FIVE,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n005  \r\nhello\r\n000\r\n\r\n",
        FIVE,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nA: \x01\r\n\r\n",
        FIVE,
    ),
    ("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", ok(205, true, 0)),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", ok(200, false, 5)),
    (
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Response { fault: Some(Fault::Http10Chunked), ..ok(200, false, 5) },
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Response { fault: Some(Fault::LengthAndChunked), ..FIVE },
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Response { fault: Some(Fault::LengthAndChunked), ..FIVE },
    ),
];

#[test]
fn what_real_servers_send_is_taken() {
    for &(wire, expected) in TAKEN {
        assert_eq!(one(wire), expected, "{wire:?}");
    }
    let many = "Set-Cookie: a=b\r\n".repeat(400);
    let long = format!("X: {}\r\n", "y".repeat(50_000));
    for fields in [many.clone(), long.clone(), many + "A: \x01\r\n", long + "A: \x01\r\n"] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5\r\n\r\nhello");
        let (responses, _, refused) = read(wire.as_bytes(), 8 << 10, false);
        assert_eq!((responses, refused), (vec![FIVE], None));
    }
}

/// What two readers could take for different responses is refused, and so is what is none.
#[test]
fn no_leniency_touches_the_framing() {
    use ResponseError as E;
    for (fields, expected) in [
        ("Content-Length\x01: 5", E::BadFraming),
        ("Content-Length : 5", E::BadFraming),
        ("Content-Length\t: 5", E::BadFraming),
        ("Content-Length\0: 5", E::BadFraming),
        ("\u{fc}Content-Length: 5", E::BadFraming),
        (" Content-Length: 5", E::BadFraming),
        ("A b: c\r\n Content-Length: 5", E::BadFraming),
        ("Content-Length 5", E::BadFraming),
        ("Content-Length: 5\x01", E::BadFraming),
        ("Content-Length: 5\r6", E::BadFraming),
        ("Content-Length: 5\0", E::BadFraming),
        ("A: \x01\r\nContent-Length: 5\r\n \x01", E::BadFraming),
        ("Transfer-Encoding : chunked", E::BadFraming),
        ("Transfer-Encoding: chunked\x0b", E::BadFraming),
        ("Transfer-Encoding: \x0bchunked", E::BadFraming),
        ("transfer-encoding\x7f: chunked", E::BadFraming),
        ("Transfer-Encoding: chunked, identity", E::ShortBody),
        ("Transfer-Encoding: gzip\r\nContent-Length: 1", E::BadFraming),
        ("Transfer-Encoding: chunked\r\nContent-Length: x", E::BadFraming),
        ("A: \x01\r\nContent-Length: 5\r\nContent-Length: 6", E::BadFraming),
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        assert_eq!(error(&wire), expected, "{fields:?}");
    }
    for wire in [
        "HTTP/1.1 2\x01 OK\r\n\r\n",
        "HTTP/1.1 20 O\x01K\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.11 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert_eq!(error(wire), E::Malformed, "{wire:?}");
    }
}

#[test]
fn a_line_end_behind_a_body_is_passed_over() {
    let (mut reader, mut shared) = (ResponseReader::default(), Shared::new(1, 64));
    let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for _ in 0..3 {
        assert!(reader.handle_bytes(wire, &mut shared).unwrap().1.is_some());
        assert!(reader.passes_over(b"\r\n") && reader.is_at_start());
        assert!(reader.passes_over(b"\r\n") && !reader.passes_over(b"\r"));
        reader.reset(&mut shared);
    }
    assert!(!reader.passes_over(b"x"));
}
