use proptest::prelude::*;

use super::*;

mod lenient;

/// Reads `wire` in pieces of `step` bytes, then its end: the responses, the bytes they took, and
/// the error.
fn read(wire: &[u8], step: usize, head: bool) -> (Vec<Response>, usize, Option<ResponseError>) {
    let (mut reader, mut shared) = (ResponseReader::default(), Shared::new(1, 64));
    reader.expect(head);
    let (mut responses, mut total) = (Vec::new(), 0);
    for piece in wire.chunks(step) {
        let mut piece = piece;
        while !piece.is_empty() {
            match reader.handle_bytes(piece, &mut shared) {
                Ok((taken, response)) => {
                    assert!(response.is_some() || taken == piece.len());
                    responses.extend(response);
                    total += taken;
                    piece = &piece[taken..];
                }
                Err(error) => {
                    reader.reset(&mut shared);
                    let spare = shared.spare.0.len();
                    assert!((1..=2).contains(&spare), "the buffers came back");
                    return (responses, total, Some(error));
                }
            }
        }
    }
    if reader.is_at_start() {
        assert_eq!(reader.handle_end(&mut shared), Err(ResponseError::EarlyClose));
        assert!(shared.spare.0.len() <= 2);
        return (responses, total, None);
    }
    match reader.handle_end(&mut shared) {
        Ok(response) => responses.push(response),
        Err(error) => return (responses, total, Some(error)),
    }
    (responses, total, None)
}

fn one(wire: &str) -> Response {
    for step in [usize::MAX, 1, 2, 3, 7] {
        let (responses, total, error) = read(wire.as_bytes(), step, false);
        assert_eq!((responses.len(), total, error), (1, wire.len(), None), "{wire}");
        if step == 7 {
            return responses[0];
        }
    }
    unreachable!()
}

fn error(wire: &str) -> ResponseError {
    let (_, _, whole) = read(wire.as_bytes(), usize::MAX, false);
    for step in [1, 2, 5] {
        assert_eq!(read(wire.as_bytes(), step, false).2, whole, "{wire:?} by {step}");
    }
    whole.unwrap_or_else(|| panic!("{wire:?} is no error"))
}

const fn ok(status: u16, keep_alive: bool, body_bytes: u64) -> Response {
    Response { status, keep_alive, body_bytes, residence: None, fault: None }
}

#[test]
fn bodies_end_where_their_framing_says() {
    for (wire, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ok(200, true, 5)),
        ("HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", ok(200, true, 0)),
        ("HTTP/1.1 200\r\nContent-Length: 2, 2\r\ncontent-LENGTH: 2\r\n\r\nab", ok(200, true, 2)),
        ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", ok(204, true, 0)),
        ("HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n", ok(304, true, 0)),
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
fn under_another_coding_the_body_lasts_until_the_end() {
    for coding in ["gzip", "identity", "xchunked", "gzip, deflate"] {
        let wire = format!(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: {coding}\r\n\r\n1\r\na\r\n0\r\n\r\n"
        );
        assert_eq!(one(&wire), ok(200, false, 11), "{coding}");
    }
}

#[test]
fn folded_lines_are_unfolded() {
    for fields in [
        "Content-Length:\r\n 3",
        "X: a\r\n\tb\r\nContent-Length: 3\r\n ",
        "Content-Length: 3,\r\n  3\r\nX:\r\n y",
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nabc");
        assert_eq!(one(&wire), ok(200, true, 3), "{fields:?}");
    }
    let closing = "HTTP/1.1 200 OK\r\nConnection: x,\r\n close\r\nTransfer-Encoding: gzip\r\n , chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(one(closing), ok(200, false, 0));
    let parted = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 3\r\n\r\nabc";
    assert_eq!(error(parted), ResponseError::BadFraming);
}

#[test]
fn the_answer_to_head_has_no_body() {
    let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    for step in [1, 9, wire.len()] {
        let (responses, total, error) = read(wire, step, true);
        assert_eq!((responses, total, error), (vec![ok(200, true, 0); 2], wire.len(), None));
    }
}

#[test]
fn connections_persist_as_the_head_says() {
    for (version, connection, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "CONNECTION: upgrade , Close\r\n", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
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
        ("HTTP/2.0 200 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 20 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 099 OK\r\n\r\n", E::Malformed),
        ("SSH-2.0-OpenSSH_9\r\n", E::Malformed),
        ("HTTP/1.1 101 Switching\r\n\r\n", E::Upgraded),
        ("HTTP/1.1 200 OK\r\nContent-Le", E::CutHead),
        ("HTTP/1.1 100 Continue\r\n\r\n", E::CutHead),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", E::ShortBody),
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
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip\r\nContent-Length: 1",
        "Transfer-Encoding:",
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nx");
        assert_eq!(error(&wire), ResponseError::BadFraming, "{fields}");
    }
}

#[test]
fn heads_are_bounded_however_they_come() {
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
    let fill = |len: usize| {
        let mut wire = start.to_owned();
        while wire.len() + 4 < len {
            let line = (len - 4 - wire.len()).min(1_024);
            let line = if len - 4 - wire.len() - line < 5 { len - 4 - wire.len() } else { line };
            wire.push_str(&format!("A:{}\r\n", "b".repeat(line.saturating_sub(2))));
        }
        wire.truncate(len - 4);
        wire + "\r\n\r\n"
    };
    let whole = fill(RESPONSE_HEAD_MAX);
    for step in [usize::MAX, 4_000, 1] {
        let (responses, total, error) = read(whole.as_bytes(), step, false);
        assert_eq!((responses.len(), total, error), (1, RESPONSE_HEAD_MAX, None), "{step}");
    }
    let longer = fill(RESPONSE_HEAD_MAX + 1);
    for step in [usize::MAX, 4_000, 1] {
        let (_, _, error) = read(longer.as_bytes(), step, false);
        assert_eq!(error, Some(ResponseError::HeadTooLong), "{step}");
    }
    let many = |count| format!("{start}{}\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!(one(&many(RESPONSE_HEADERS_MAX)).status, 200);
    assert_eq!(error(&many(RESPONSE_HEADERS_MAX + 1)), ResponseError::TooManyHeaders);
}

#[test]
fn trailers_extensions_and_interim_responses_are_bounded() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let many = |count| format!("{chunked}0\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert_eq!(one(&many(RESPONSE_HEADERS_MAX)).status, 200);
    assert_eq!(error(&many(RESPONSE_HEADERS_MAX + 1)), ResponseError::TooManyHeaders);
    let long = format!("{chunked}0\r\nA: {}", "b".repeat(RESPONSE_HEAD_MAX));
    assert_eq!(error(&long), ResponseError::HeadTooLong);
    let long = format!("{chunked}1;{}", "b".repeat(tare_units::limits::CHUNK_LINE_MAX));
    assert_eq!(error(&long), ResponseError::BadChunk);
}

#[test]
fn interim_responses_are_bounded_in_bytes_alone() {
    let interim = "HTTP/1.1 102 Wait\r\n\r\n";
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nContent-Length: 9\r\n\r\n";
    let last = "HTTP/1.1 204 No\r\n\r\n";
    assert_eq!(one(&format!("{}{last}", interim.repeat(25))).status, 204);
    assert_eq!(one(&format!("{hints}{interim}{last}")).status, 204);
    let most = usize::try_from(INTERIM_BYTES_MAX).unwrap() / interim.len();
    let with = |count: usize| interim.repeat(count) + last;
    let (responses, _, refused) = read(with(most).repeat(2).as_bytes(), 8 << 10, false);
    assert_eq!((responses.len(), refused), (2, None), "each has its own");
    let (responses, _, refused) = read(with(most + 1).as_bytes(), 8 << 10, false);
    assert_eq!((responses.len(), refused), (0, Some(ResponseError::InterimTooLong)));
    let long = format!("{interim}HTTP/1.1 101 Up\r\n\r\n");
    assert_eq!(error(&long), ResponseError::Upgraded);
}

/// A response and what should be read of it.
#[derive(Debug, Clone)]
struct Case {
    wire: Vec<u8>,
    response: Response,
}

fn framed(
    body: Vec<u8>,
    status: u16,
    cuts: Option<Vec<usize>>,
    trailers: &[String],
) -> (String, Vec<u8>, u64) {
    if matches!(status, 204 | 304) {
        return ("Content-Length: 7\r\n".to_owned(), Vec::new(), 0);
    }
    let bytes = body.len() as u64;
    let Some(cuts) = cuts else {
        return (format!("content-Length:{bytes} \r\n"), body, bytes);
    };
    let mut wire = Vec::new();
    let mut rest = &body[..];
    for cut in cuts {
        let (chunk, after) = rest.split_at(cut.min(rest.len()));
        if !chunk.is_empty() {
            wire.extend(format!("{:X};x=\"{cut}\"\r\n", chunk.len()).bytes());
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        rest = after;
    }
    if !rest.is_empty() {
        wire.extend(format!("{:04x}\r\n", rest.len()).bytes());
        wire.extend(rest);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n");
    trailers.iter().for_each(|line| wire.extend(format!("{line}\r\n").bytes()));
    wire.extend(b"\r\n");
    ("Transfer-Encoding: chunked\r\n".to_owned(), wire, bytes)
}

fn case() -> impl Strategy<Value = Case> {
    let field = "[A-Za-z0-9!#~-]{1,12}X:[ \t]{0,2}[!-~é]{0,30}";
    (
        proptest::collection::vec(field, 0..6),
        proptest::collection::vec(field, 0..3),
        proptest::collection::vec(any::<u8>(), 0..300),
        prop_oneof![4 => Just(200u16), 1 => Just(204), 1 => Just(304), 2 => 200..=999u16],
        proptest::option::of(proptest::collection::vec(0..90usize, 0..6)),
        proptest::option::of(0..5_000_000_000u64),
        (any::<bool>(), 0..3usize, "[ -~]{0,10}"),
    )
        .prop_map(
            |(fields, trailers, body, status, cuts, residence, (close, interim, reason))| {
                let (framing, body, body_bytes) = framed(body, status, cuts, &trailers);
                let mut wire = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(interim);
                wire += &format!("HTTP/1.1 {status} {reason}\r\n{framing}");
                fields.iter().for_each(|line| wire += &format!("{line}\r\n"));
                if close {
                    wire += "connection: x, CLOSE\r\n";
                }
                if let Some(ns) = residence {
                    let (ms, below) = (ns / 1_000_000, ns % 1_000_000);
                    wire += &format!("Server-Timing: residence;dur={ms}.{below:06}\r\n");
                }
                wire += "\r\n";
                let response = Response {
                    status,
                    keep_alive: !close,
                    body_bytes,
                    residence: residence.map(Nanos),
                    fault: None,
                };
                Case { wire: [wire.into_bytes(), body].concat(), response }
            },
        )
}

#[test]
fn a_head_that_comes_again_is_read_as_the_first_one_was() {
    let mut shared = Shared::new(1, 64);
    let mut on = |head: bool, wire: &str| {
        let mut reader = ResponseReader::default();
        reader.expect(head);
        let (taken, response) = reader.handle_bytes(wire.as_bytes(), &mut shared).unwrap();
        (taken, response.map(|r| (r.status, r.keep_alive, r.body_bytes)))
    };
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(on(false, sized), (sized.len(), Some((200, true, 5))));
        }
        for _ in 0..2 {
            // The same bytes behind another request: there is no body.
            assert_eq!(on(true, sized), (sized.len() - 5, Some((200, true, 0))));
            assert_eq!(on(false, chunked), (chunked.len(), Some((503, false, 2))));
        }
    }
    // What begins alike and goes on otherwise is another head.
    let longer = sized.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    on(false, sized);
    assert_eq!(on(false, &longer), (longer.len(), Some((200, false, 5))));
}

#[test]
fn a_residence_is_read_anew_each_time() {
    let mut shared = Shared::new(1, 64);
    for millis in ["0.001", "0.002", "0.002"] {
        let wire = format!("HTTP/1.1 204 No\r\nServer-Timing: residence;dur={millis}\r\n\r\n");
        let read = ResponseReader::default().handle_bytes(wire.as_bytes(), &mut shared);
        let response = read.unwrap().1.unwrap();
        let nanos = millis[4..].parse::<u64>().unwrap() * 1_000;
        assert_eq!(response.residence, Some(Nanos(nanos)));
    }
}

/// Hands in `wire`, cut at `cuts`, until the bytes run out or are refused.
fn cut(wire: &[u8], cuts: &[usize]) -> (Vec<Response>, usize, Option<ResponseError>) {
    let (mut reader, mut shared) = (ResponseReader::default(), Shared::new(0, 0));
    let mut points: Vec<_> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    points.push(wire.len());
    points.sort_unstable();
    let (mut responses, mut at) = (Vec::new(), 0);
    for point in points {
        while at < point {
            match reader.handle_bytes(&wire[at..point], &mut shared) {
                Ok((taken, response)) => {
                    assert!(taken <= point - at, "no more than given");
                    assert!(response.is_some() || at + taken == point, "all without a response");
                    assert!(reader.gathered.len() <= RESPONSE_HEAD_MAX);
                    assert!(reader.gathered.is_empty() || reader.body.is_none());
                    responses.extend(response);
                    at += taken;
                }
                Err(error) => return (responses, at, Some(error)),
            }
        }
    }
    let mut error = None;
    match reader.handle_end(&mut shared) {
        Ok(response) => responses.push(response),
        Err(ResponseError::EarlyClose) => {}
        Err(cut) => error = Some(cut),
    }
    assert!(shared.spare.0.len() <= 2);
    (responses, at, error)
}

proptest! {
    #[test]
    fn responses_are_the_same_wherever_they_are_cut(
        cases in proptest::collection::vec(case(), 1..4),
        last in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
        each in any::<bool>(),
        times in 1..4usize,
    ) {
        let cases: Vec<_> = cases.into_iter().flat_map(|case| vec![case; times]).collect();
        let mut wire = cases.iter().flat_map(|case| case.wire.clone()).collect::<Vec<_>>();
        let mut expected: Vec<_> = cases.iter().map(|case| case.response).collect();
        if let Some(body) = last {
            // Until the end of the connection.
            wire.extend(b"HTTP/1.1 299 Last\r\nServer: x\r\n\r\n");
            wire.extend(&body);
            expected.push(ok(299, false, body.len() as u64));
        }
        let cuts = if each { (0..wire.len()).collect() } else { cuts };
        prop_assert_eq!(cut(&wire, &cuts), (expected, wire.len(), None));
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        start in prop_oneof![
            Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA"),
        ],
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let wire = [start.as_bytes(), &bytes].concat();
        cut(&wire, &cuts);
    }

    #[test]
    fn a_damaged_response_is_the_same_wherever_it_is_cut(
        case in case(), place in any::<usize>(), byte in prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b':')],
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let mut wire = case.wire;
        let place = place % wire.len();
        wire[place] = byte;
        // Where it is refused is found out sooner or later; what was read before, and why, is the
        // same.
        let (whole, _, error) = cut(&wire, &[]);
        let (pieces, _, same) = cut(&wire, &cuts);
        prop_assert_eq!((whole, error.is_some()), (pieces, same.is_some()));
    }
}
