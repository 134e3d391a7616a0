use proptest::prelude::*;

use super::*;
use crate::tests::{each_byte, pieces};

/// Hands in `wire`, cut at `cuts`, and then its end: the responses, the bytes they took, and the
/// error.
fn read_cut(
    wire: &[u8],
    cuts: &[usize],
    head: bool,
) -> (Vec<Response>, usize, Option<ResponseError>) {
    let (mut reader, mut shared) = (ResponseReader::default(), Shared::new(1, 64));
    reader.expect(head);
    let (mut responses, mut total) = (Vec::new(), 0);
    for mut piece in pieces(wire, cuts) {
        while !piece.is_empty() {
            match reader.handle_bytes(piece, &mut shared) {
                Ok((taken, response)) => {
                    assert!(response.is_some() || taken == piece.len(), "all without a response");
                    assert!(reader.gathered.len() <= RESPONSE_HEAD_MAX);
                    assert!(reader.gathered.is_empty() || reader.body.is_none());
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
    let at_start = reader.is_at_start();
    let end = reader.handle_end(&mut shared);
    assert_eq!(at_start, end == Err(ResponseError::EarlyClose));
    assert!(shared.spare.0.len() <= 2);
    responses.extend(end);
    (responses, total, end.err().filter(|_| !at_start))
}

/// The same in pieces of `step` bytes.
fn read(wire: &[u8], step: usize) -> (Vec<Response>, usize, Option<ResponseError>) {
    let cuts: Vec<usize> = (0..wire.len()).step_by(step).collect();
    read_cut(wire, &cuts, false)
}

fn one(wire: &str) -> Response {
    for step in [usize::MAX, 1, 2, 3] {
        let (responses, total, error) = read(wire.as_bytes(), step);
        assert_eq!((responses.len(), total, error), (1, wire.len(), None), "{wire}");
    }
    read(wire.as_bytes(), 7).0[0]
}

fn error(wire: &str) -> ResponseError {
    let (_, _, whole) = read(wire.as_bytes(), usize::MAX);
    for step in [1, 2, 5] {
        assert_eq!(read(wire.as_bytes(), step).2, whole, "{wire:?} by {step}");
    }
    whole.unwrap_or_else(|| panic!("{wire:?} is no error"))
}

const fn ok(status: u16, keep_alive: bool, body_bytes: u64) -> Response {
    Response { status, keep_alive, body_bytes, residence: None, fault: None }
}

const FIVE: Response = ok(200, true, 5);
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What the grammar has, and what real servers, proxies and gateways send beside it, and how it is
/// read.
const WHOLE: &[(&str, Response)] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", ok(200, true, 0)),
    ("HTTP/1.1 200\r\nContent-Length: 2, 2\r\ncontent-LENGTH: 2\r\n\r\nab", ok(200, true, 2)),
    ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", ok(204, true, 0)),
    ("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", ok(205, true, 0)),
    ("HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n", ok(304, true, 0)),
    ("HTTP/1.1 200 OK\r\n\r\nuntil the end", ok(200, false, 13)),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n\
         00a ;x=\"y\";z\r\n0123456789\r\nB;\r\n0123456789a\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\n",
        ok(200, true, 21),
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n\
         HTTP/1.1 500 E\r\nContent-Length: 1\r\n\r\n!",
        ok(500, true, 1),
    ),
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
    // Bodies.
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", ok(200, false, 5)),
];

/// Head fields that leave a body of five bytes what it is.
const SIZED: &[&str] = &[
    "Content-Length:5",
    "Content-Length: \t 5 \t",
    "Content-Length: 5\r\nSet-Cookie: a=dmo\x01OZPF; path=/",
    "Set-Cookie: a=\0b\x7fc\x1b[1m\r\nContent-Length: 5",
    "A: \u{fc}\u{80}\r\nContent-Length: 5",
    "A: b\rc\r\nContent-Length: 5",
    "A: x\x01\r\n y\x02\r\nContent-Length: 5",
    "A : b\r\nContent-Length: 5",
    "A b: c\r\n folded\r\nContent-Length: 5",
    "no colon\r\nContent-Length: 5",
    ": no name\r\nContent-Length: 5",
    "\u{fc}: x\r\nContent-Length: 5",
    " A: b\r\nContent-Length: 5",
    "X-Content-Length: 9\x01\r\nContent-Length: 5",
    "Proxy-Connection: close\r\nContent-Length: 5",
    "Content-Length: 5, 5",
    "Content-Length: 5\r\nContent-Length: 005",
    "Transfer-Encoding: identity\r\nContent-Length: 5",
    // Folded lines are unfolded.
    "Content-Length:\r\n 5",
    "X: a\r\n\tb\r\nContent-Length: 5\r\n ",
    "Content-Length: 5,\r\n  5\r\nX:\r\n y",
];

#[test]
fn responses_are_read_as_real_servers_mean_them() {
    for &(wire, expected) in WHOLE {
        assert_eq!(one(wire), expected, "{wire:?}");
    }
    for fields in SIZED {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello");
        assert_eq!(one(&wire), FIVE, "{fields:?}");
    }
    let twice = Response { fault: Some(Fault::LengthAndChunked), ..FIVE };
    let old = Response { fault: Some(Fault::Http10Chunked), ..ok(200, false, 5) };
    for (head, expected) in [
        ("1.1 200 OK\r\nTransfer-Encoding: Chunked", FIVE),
        ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked", FIVE),
        ("1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked", FIVE),
        ("1.1 200 OK\r\nTransfer-Encoding: gzip\r\n , chunked", FIVE),
        ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1", twice),
        ("1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", twice),
        ("1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive", old),
    ] {
        for body in [
            "5\r\nhello\r\n0\r\n\r\n",
            "005  \r\nhello\r\n000\r\n\r\n",
            "5;a=\"b\"\r\nhello\r\n0\r\nA: \x01\r\n\r\n",
        ] {
            assert_eq!(one(&format!("HTTP/{head}\r\n\r\n{body}")), expected, "{head:?} {body:?}");
        }
    }
    let many = "Set-Cookie: a=b\r\n".repeat(400);
    let long = format!("X: {}\r\n", "y".repeat(50_000));
    for fields in [many.clone(), long.clone(), many + "A: \x01\r\n", long + "A: \x01\r\n"] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5\r\n\r\nhello");
        let (responses, _, refused) = read(wire.as_bytes(), 8 << 10);
        assert_eq!((responses, refused), (vec![FIVE], None));
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
fn the_answer_to_head_has_no_body() {
    let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    for step in [1, 9, wire.len()] {
        let cuts: Vec<usize> = (0..wire.len()).step_by(step).collect();
        let expected = (vec![ok(200, true, 0); 2], wire.len(), None);
        assert_eq!(read_cut(wire, &cuts, true), expected);
    }
}

#[test]
fn connections_persist_as_the_head_says() {
    for (version, connection, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "CONNECTION: upgrade , Close\r\n", false),
        ("1.1", "Connection: x,\r\n close\r\n", false),
        ("1.1", "Connection: close\x01\r\n", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\nKeep-Alive: timeout=5, max=100\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let wire = format!("HTTP/{version} 200 OK\r\n{connection}Content-Length: 1\r\n\r\nx");
        assert_eq!(one(&wire), ok(200, keep_alive, 1), "{wire}");
    }
}

#[test]
fn the_servers_residence_is_read_with_each_response() {
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let timing = |timing| plain.replace("OK\r\n", &format!("OK\r\nServer-Timing: {timing}\r\n"));
    let wire = timing("db;dur=3\r\nServer-Timing: residence;dur=1.234567, x");
    assert_eq!(one(&wire).residence, Some(Nanos(1_234_567)));
    let wire = [&wire, plain, &timing("residence;dur=0.001"), &timing("residence;dur=0.002")]
        .map(|part| part.to_owned())
        .concat();
    let (responses, ..) = read(wire.as_bytes(), usize::MAX);
    let found: Vec<_> = responses.iter().map(|response| response.residence).collect();
    let nanos = |ns| Some(Nanos(ns));
    assert_eq!(found, [nanos(1_234_567), None, nanos(1_000), nanos(2_000)]);
}

#[test]
fn what_is_no_response_is_refused() {
    use ResponseError as E;
    let five = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let short = format!("{five}hell");
    for (wire, expected) in [
        ("HTTP/2.0 200 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 20 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 099 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 2\x01 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1 20 O\x01K\r\n\r\n", E::Malformed),
        ("HTTP/1.1 2000 OK\r\n\r\n", E::Malformed),
        ("HTTP/1.1\r\n\r\n", E::Malformed),
        ("HTTP/1.11 200 OK\r\n\r\n", E::Malformed),
        ("http/1.1 200 OK\r\n\r\n", E::Malformed),
        ("\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", E::Malformed),
        (" HTTP/1.1 200 OK\r\n\r\n", E::Malformed),
        ("ICY 200 OK\r\n\r\n", E::Malformed),
        ("SSH-2.0-OpenSSH_9\r\n", E::Malformed),
        ("HTTP/1.1 101 Switching\r\n\r\n", E::Upgraded),
        ("HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 101 Up\r\n\r\n", E::Upgraded),
        ("HTTP/1.1 200 OK\r\nContent-Le", E::CutHead),
        ("HTTP/1.1 100 Continue\r\n\r\n", E::CutHead),
        (&short, E::ShortBody),
        (five, E::ShortBody),
    ] {
        assert_eq!(error(wire), expected, "{wire:?}");
    }
    for body in ["5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\n\r", "5\r\nhel"] {
        assert_eq!(error(&format!("{CHUNKED}{body}")), E::ShortBody, "{body:?}");
    }
    for body in [
        "\r\n",
        ";x\r\n",
        "5\nhello",
        "5\r\nhelloX",
        "5\r\nhello\rX",
        "5 6\r\n",
        "-5\r\n",
        "0x5\r\n",
        "10000000000000000\r\n",
        "5;\n\r\n",
        "0\r\n: x\r\n",
        "0\r\nA: x\r\n y\r\n",
        "0\r\nA: x\n",
        "0\r\n\rX",
    ] {
        assert_eq!(error(&format!("{CHUNKED}{body}")), E::BadChunk, "{body:?}");
    }
    assert_eq!(read(b"", 1).2, None);
}

/// What two readers could take for different responses is refused: framing that contradicts itself,
/// and leniency that would touch it.
#[test]
fn framing_that_is_not_exactly_right_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 2",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 1 2",
        "Content-Length: 1\r\n 3",
        "Content-Length:",
        "Content-Length: 1,",
        "Content-Length: 18446744073709551616",
        "Content-Length: 0x10",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding:",
        "Transfer-Encoding: gzip\r\nContent-Length: 1",
        "Transfer-Encoding: chunked\r\nContent-Length: x",
        "Content-Length\x01: 5",
        "Content-Length : 5",
        "Content-Length\t: 5",
        "Content-Length\0: 5",
        "\u{fc}Content-Length: 5",
        " Content-Length: 5",
        "A b: c\r\n Content-Length: 5",
        "Content-Length 5",
        "Content-Length: 5\x01",
        "Content-Length: 5\r6",
        "Content-Length: 5\0",
        "A: \x01\r\nContent-Length: 5\r\n \x01",
        "A: \x01\r\nContent-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \x0bchunked",
        "transfer-encoding\x7f: chunked",
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nabc");
        assert_eq!(error(&wire), ResponseError::BadFraming, "{fields:?}");
    }
    let wire = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n";
    assert_eq!(error(wire), ResponseError::ShortBody);
}

#[test]
fn heads_trailers_and_extensions_are_bounded_however_they_come() {
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
    let (whole, longer) = (fill(RESPONSE_HEAD_MAX), fill(RESPONSE_HEAD_MAX + 1));
    for step in [usize::MAX, 4_000, 1] {
        let (responses, total, error) = read(whole.as_bytes(), step);
        assert_eq!((responses.len(), total, error), (1, RESPONSE_HEAD_MAX, None), "{step}");
        let (_, _, error) = read(longer.as_bytes(), step);
        assert_eq!(error, Some(ResponseError::HeadTooLong), "{step}");
    }
    for (start, most) in
        [(start, RESPONSE_HEADERS_MAX - 1), (&format!("{CHUNKED}0\r\n"), RESPONSE_HEADERS_MAX)]
    {
        let many = |count| format!("{start}{}\r\n", "A: b\r\n".repeat(count));
        assert_eq!(one(&many(most)).status, 200);
        assert_eq!(error(&many(most + 1)), ResponseError::TooManyHeaders);
    }
    let long = format!("{CHUNKED}0\r\nA: {}", "b".repeat(RESPONSE_HEAD_MAX));
    assert_eq!(error(&long), ResponseError::HeadTooLong);
    let long = format!("{CHUNKED}1;{}", "b".repeat(tare_units::limits::CHUNK_LINE_MAX));
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
    let (responses, _, refused) = read(with(most).repeat(2).as_bytes(), 8 << 10);
    assert_eq!((responses.len(), refused), (2, None), "each has its own");
    let (responses, _, refused) = read(with(most + 1).as_bytes(), 8 << 10);
    assert_eq!((responses.len(), refused), (0, Some(ResponseError::InterimTooLong)));
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
    let Some(cuts) = cuts else { return (format!("content-Length:{bytes} \r\n"), body, bytes) };
    let (mut wire, mut rest) = (Vec::new(), &body[..]);
    for cut in cuts.into_iter().chain([usize::MAX]) {
        let (chunk, after) = rest.split_at(cut.min(rest.len()));
        let size = match cut {
            usize::MAX => format!("{:04x}", chunk.len()),
            cut => format!("{:X};x=\"{cut}\"", chunk.len()),
        };
        if !chunk.is_empty() {
            wire.extend([size.as_bytes(), b"\r\n", chunk, b"\r\n"].concat());
        }
        rest = after;
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
        let cuts = if each { each_byte(&wire) } else { cuts };
        prop_assert_eq!(read_cut(&wire, &cuts, false), (expected, wire.len(), None));
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
        read_cut(&wire, &cuts, false);
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
        let (whole, _, error) = read_cut(&wire, &[], false);
        let (pieces, _, same) = read_cut(&wire, &cuts, false);
        prop_assert_eq!((whole, error.is_some()), (pieces, same.is_some()));
    }
}
