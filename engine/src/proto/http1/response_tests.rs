use super::*;

/// Reads `wire` in pieces of `step` bytes, then its end: the responses, the bytes they took, and the error.
fn read(wire: &[u8], step: usize, head: bool) -> (Vec<Response>, usize, Option<ResponseError>) {
    let (mut reader, mut spare) = (ResponseReader::default(), Spare::new(1, 64));
    reader.expect(head);
    let (mut responses, mut total) = (Vec::new(), 0);
    for piece in wire.chunks(step) {
        let mut piece = piece;
        while !piece.is_empty() {
            match reader.handle_bytes(piece, &mut spare) {
                Ok((taken, response)) => {
                    assert!(response.is_some() || taken == piece.len());
                    responses.extend(response);
                    total += taken;
                    piece = &piece[taken..];
                }
                Err(error) => {
                    reader.reset(&mut spare);
                    assert_eq!(spare.0.len(), 1, "the buffer came back");
                    return (responses, total, Some(error));
                }
            }
        }
    }
    if reader.is_at_start() {
        assert_eq!(
            reader.handle_end(&mut spare),
            Err(ResponseError::EarlyClose)
        );
        assert!(spare.0.len() <= 1);
        return (responses, total, None);
    }
    match reader.handle_end(&mut spare) {
        Ok(response) => responses.push(response),
        Err(error) => return (responses, total, Some(error)),
    }
    (responses, total, None)
}

fn one(wire: &str) -> Response {
    for step in [usize::MAX, 1, 2, 3, 7] {
        let (responses, total, error) = read(wire.as_bytes(), step, false);
        assert_eq!(
            (responses.len(), total, error),
            (1, wire.len(), None),
            "{wire}"
        );
        if step == 7 {
            return responses[0];
        }
    }
    unreachable!()
}

fn error(wire: &str) -> ResponseError {
    let (_, _, whole) = read(wire.as_bytes(), usize::MAX, false);
    for step in [1, 2, 5] {
        assert_eq!(
            read(wire.as_bytes(), step, false).2,
            whole,
            "{wire:?} by {step}"
        );
    }
    whole.unwrap_or_else(|| panic!("{wire:?} is no error"))
}

fn ok(status: u16, keep_alive: bool, body_bytes: u64) -> Response {
    Response {
        status,
        keep_alive,
        body_bytes,
        residence: None,
    }
}

#[test]
fn bodies_end_where_their_framing_says() {
    for (wire, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            ok(200, true, 5),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n",
            ok(200, true, 0),
        ),
        (
            "HTTP/1.1 200\r\nContent-Length: 2, 2\r\ncontent-LENGTH: 2\r\n\r\nab",
            ok(200, true, 2),
        ),
        (
            "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
            ok(204, true, 0),
        ),
        (
            "HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n",
            ok(304, true, 0),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", ok(200, false, 13)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ok(200, true, 5),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n\
             00a ;x=\"y\";z\r\n0123456789\r\nB;\r\n0123456789a\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\n",
            ok(200, true, 21),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 E\r\nContent-Length: 1\r\n\r\n!",
            ok(500, true, 1),
        ),
    ] {
        assert_eq!(one(wire), expected, "{wire}");
    }
}

#[test]
fn the_answer_to_head_has_no_body() {
    let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    for step in [1, 9, wire.len()] {
        let (responses, total, error) = read(wire, step, true);
        assert_eq!(
            (responses, total, error),
            (vec![ok(200, true, 0); 2], wire.len(), None)
        );
    }
}

#[test]
fn connections_persist_as_the_head_says() {
    for (version, connection, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "CONNECTION: upgrade , Close\r\n", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        (
            "1.1",
            "Connection: keep-alive\r\nConnection: close\r\n",
            false,
        ),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let wire = format!("HTTP/{version} 200 OK\r\n{connection}Content-Length: 1\r\n\r\nx");
        assert_eq!(one(&wire).keep_alive, keep_alive, "{wire}");
    }
}

#[test]
fn the_servers_residence_is_told() {
    let wire = "HTTP/1.1 200 OK\r\nServer-Timing: db;dur=3\r\nServer-Timing: residence;dur=1.234567, x\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(one(wire).residence, Some(Nanos(1_234_567)));
    let wire = format!("{wire}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let (responses, ..) = read(wire.as_bytes(), usize::MAX, false);
    assert_eq!(responses[1].residence, None);
}

#[test]
fn what_is_no_response_is_told_apart() {
    use ResponseError as E;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (wire, expected) in [
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", E::Malformed),
        ("HTTP/2.0 200 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 20 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 099 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", E::Malformed),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", E::Malformed),
        ("SSH-2.0-OpenSSH_9\r\n", E::Malformed),
        ("HTTP/1.1 101 Switching\r\n\r\n", E::Upgraded),
        ("HTTP/1.1 200 OK\r\nContent-Le", E::CutHead),
        ("HTTP/1.1 100 Continue\r\n\r\n", E::CutHead),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            E::ShortBody,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", E::ShortBody),
    ] {
        assert_eq!(error(wire), expected, "{wire:?}");
    }
    for (body, expected) in [
        ("5\r\nhello\r\n0\r\n", E::ShortBody),
        ("5\r\nhello\r\n0\r\n\r", E::ShortBody),
        ("5\r\nhel", E::ShortBody),
        ("\r\n", E::BadChunk),
        (";x\r\n", E::BadChunk),
        ("5\nhello", E::BadChunk),
        ("5\r\nhelloX", E::BadChunk),
        ("5\r\nhello\rX", E::BadChunk),
        ("5 6\r\n", E::BadChunk),
        ("-5\r\n", E::BadChunk),
        ("0x5\r\n", E::BadChunk),
        ("10000000000000000\r\n", E::BadChunk),
        ("5;\n\r\n", E::BadChunk),
        ("0\r\n: x\r\n", E::BadChunk),
        ("0\r\nA: x\r\n y\r\n", E::BadChunk),
        ("0\r\nA: x\n", E::BadChunk),
        ("0\r\n\rX", E::BadChunk),
    ] {
        assert_eq!(error(&format!("{chunked}{body}")), expected, "{body:?}");
    }
    assert_eq!(read(b"", 1, false).2, None);
}

#[test]
fn framing_that_contradicts_itself_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 2",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 1 2",
        "Content-Length:",
        "Content-Length: 1,",
        "Content-Length: 18446744073709551616",
        "Content-Length: 0x10",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:",
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nx");
        assert_eq!(error(&wire), ResponseError::BadFraming, "{fields}");
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(error(old), ResponseError::BadFraming);
}
