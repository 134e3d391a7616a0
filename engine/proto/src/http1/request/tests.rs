use proptest::prelude::*;

use super::*;
use tare_units::error::Fault;

const AGENT: &str = concat!("User-Agent: tare/", env!("CARGO_PKG_VERSION"), "\r\n");

fn get() -> RequestSpec {
    RequestSpec::get("/", "h:80")
}

fn with(headers: &[(&str, &str)]) -> RequestSpec {
    let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    RequestSpec { headers: headers.collect(), ..get() }
}

fn post(body: &[u8], framing: Framing) -> RequestSpec {
    RequestSpec {
        method: "POST".to_owned(),
        body: Some(Body { bytes: body.to_vec(), framing }),
        ..get()
    }
}

fn written(spec: &RequestSpec) -> String {
    let requests = Requests::new(&[(spec.clone(), 1)], 1, 0).unwrap();
    String::from_utf8(requests.bytes().to_vec()).unwrap()
}

fn refused(specs: &[(RequestSpec, u32)]) -> String {
    let error = Requests::new(specs, 1, 0).expect_err("it is refused");
    assert_eq!(error.fault(), Fault::Usage);
    assert!(error.advice().is_some(), "{error}");
    error.to_string()
}

#[test]
fn requests_are_written_to_the_byte() {
    let start = "/ HTTP/1.1\r\nHost: h:80\r\n";
    let own = with(&[("X-a", " b "), ("host", "other"), ("USER-AGENT", "me")]);
    for (spec, expected) in [
        (get(), format!("GET {start}{AGENT}\r\n")),
        (
            RequestSpec { close: true, ..own },
            "GET / HTTP/1.1\r\nHost: other\r\nX-a: b\r\nUSER-AGENT: me\r\nConnection: close\r\n\r\n"
                .to_owned(),
        ),
        (
            RequestSpec { close: true, ..with(&[("Connection", "keep-alive")]) },
            format!("GET {start}{AGENT}Connection: keep-alive\r\n\r\n"),
        ),
        (
            post(b"abc", Framing::Length),
            format!("POST {start}{AGENT}Content-Length: 3\r\n\r\nabc"),
        ),
        (
            post(b"abc", Framing::Chunked),
            format!(
                "POST {start}{AGENT}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
        ),
        (
            RequestSpec { body: None, ..post(b"", Framing::Length) },
            format!("POST {start}{AGENT}Content-Length: 0\r\n\r\n"),
        ),
    ] {
        assert_eq!(written(&spec), expected);
    }
    let long = written(&post(&[b'x'; 8193], Framing::Chunked));
    assert!(long.contains("\r\n\r\n2000\r\nxx") && long.ends_with("x\r\n1\r\nx\r\n0\r\n\r\n"));
}

#[test]
fn given_framing_takes_the_place_of_ours() {
    let mut spec = post(b"abc", Framing::Length);
    spec.headers = vec![("content-length".to_owned(), "3".to_owned())];
    assert_eq!(written(&spec).to_ascii_lowercase().matches("content-length").count(), 1);
    spec.headers = vec![("transfer-encoding".to_owned(), "Chunked".to_owned())];
    let text = written(&spec);
    assert!(text.ends_with("transfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{text}");
    for (headers, why) in [
        (vec![("Content-Length", "4")], "is 4, and its body has 3 bytes"),
        (vec![("Content-Length", "x")], "is none"),
        (vec![("Content-Length", "3"), ("Content-length", "3")], "several"),
        (vec![("Content-Length", "3"), ("Transfer-Encoding", "chunked")], "is chunked"),
        (vec![("Transfer-Encoding", "gzip")], "does not end in chunked"),
        (vec![("Host", "a"), ("host", "a")], "several"),
    ] {
        spec.headers = with(&headers).headers;
        let message = refused(&[(spec.clone(), 1)]);
        assert!(message.contains(why), "{message}");
    }
}

fn method(method: &str) -> RequestSpec {
    RequestSpec { method: method.to_owned(), ..get() }
}

#[test]
fn nothing_typed_becomes_another_line() {
    for evil in ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "a\u{7f}b"] {
        for spec in [
            with(&[("A", evil)]),
            with(&[(evil, "b")]),
            with(&[("Host", evil)]),
            RequestSpec::get(&format!("/{evil}"), "h"),
            RequestSpec::get("/", evil),
            method(evil),
        ] {
            refused(&[(spec, 1)]);
        }
    }
}

#[test]
fn what_cannot_be_sent_says_what_to_type() {
    for (target, advice) in [
        ("/a b", "%20"),
        ("/é", "%C3%A9"),
        ("/a#b", "%23"),
        ("/a\tb", "percent-encode"),
        ("a", "/path"),
        ("", "/path"),
    ] {
        let message = refused(&[(RequestSpec::get(target, "h"), 1)]);
        assert!(message.contains(advice), "{message}");
    }
    for name in ["", "G ET", "CONNECT", "GÉT"] {
        refused(&[(method(name), 1)]);
    }
    let second = refused(&[(get(), 1), (RequestSpec::get("/x y", "h"), 1)]);
    assert!(second.contains("request 2 (GET /x y)"), "{second}");
}

#[test]
fn what_is_too_much_is_refused() {
    refused(&[]);
    refused(&vec![(get(), 1); REQUESTS_MAX + 1]);
    assert!(refused(&[(get(), 0)]).contains("never sent"));
    assert!(refused(&[(get(), 65_536), (get(), 1)]).contains("65537"));
    let large = post(&vec![0; 1 << 20], Framing::Length);
    let error = Requests::new(&[(large, 1)], 64, 0).unwrap_err().to_string();
    assert!(error.contains("64 MiB") && error.contains("--pipeline"), "{error}");
    let all = Requests::new(&vec![(get(), 1); REQUESTS_MAX], 1, 0).unwrap();
    assert_eq!(all.order().len(), REQUESTS_MAX);
}

#[test]
fn entries_are_repeated_in_a_row() {
    let requests = Requests::new(&[(get(), 2), (method("HEAD"), 4)], 3, 7).unwrap();
    let mut expected = 0;
    for (entry, method) in requests.entries().iter().zip(["GET", "HEAD"]) {
        let (start, len) = (entry.start as usize, entry.len as usize);
        assert_eq!((start, entry.head), (expected, method == "HEAD"));
        for repeat in requests.bytes()[start..start + 3 * len].chunks(len) {
            assert!(repeat.starts_with(method.as_bytes()) && repeat.ends_with(b"\r\n\r\n"));
        }
        expected += 3 * len;
    }
    assert_eq!((requests.bytes().len(), requests.repeats()), (expected, 3));
    assert_eq!(requests.order().len(), 3);
}

#[test]
fn the_seed_decides_where_the_order_begins() {
    let specs: Vec<_> = (1..=40).map(|weight| (get(), weight)).collect();
    let order = |seed| Requests::new(&specs, 1, seed).unwrap().order().to_vec();
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    let mut doubled = order(1);
    doubled.extend(order(1));
    assert!(doubled.windows(820).any(|window| window == order(2)));
}

proptest! {
    #[test]
    fn orders_hold_each_weight_and_stay_within_one_of_it(
        weights in prop_oneof![
            proptest::collection::vec(1..200u32, 1..30),
            (1..400usize).prop_map(|n| std::iter::once(u32::try_from(n).unwrap()).chain(std::iter::repeat_n(1, n)).collect()),
        ],
        factor in 1..1_000u32,
    ) {
        let scaled: Vec<u32> = weights.iter().map(|w| w * factor).collect();
        let order = interleaved(&scaled).unwrap();
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, b));
        let places = weights.iter().sum::<u32>() / divisor;
        prop_assert_eq!(order.len(), places as usize);
        let mut counts = vec![0i64; weights.len()];
        for (place, index) in (1i64..).zip(&order) {
            counts[usize::from(*index)] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                // In units of one occurrence divided by the places.
                let off = count * i64::from(places) - place * i64::from(weight / divisor);
                prop_assert!(off.abs() < i64::from(places));
            }
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert_eq!(*count, i64::from(weight / divisor));
        }
    }

    #[test]
    fn what_is_written_parses_back(
        method in "[A-Z]{1,8}",
        target in "/[!-\"$-~]{0,40}",
        headers in proptest::collection::vec(("X-[A-Za-z0-9_-]{1,12}", "[!-~é]([ -~]{0,20}[!-~])?"), 0..12),
        body in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20_000)),
        chunked in any::<bool>(),
        close in any::<bool>(),
    ) {
        prop_assume!(method != "CONNECT");
        let framing = if chunked { Framing::Chunked } else { Framing::Length };
        let spec = RequestSpec {
            method: method.clone(),
            target: target.clone(),
            host: "example.org".to_owned(),
            headers: headers.clone(),
            body: body.clone().map(|bytes| Body { bytes, framing }),
            close,
        };
        let requests = Requests::new(&[(spec, 1)], 1, 0).unwrap();
        let mut slots = [httparse::EMPTY_HEADER; 20];
        let mut parsed = httparse::Request::new(&mut slots);
        let status = parsed.parse(requests.bytes()).unwrap();
        prop_assert!(status.is_complete());
        prop_assert_eq!(parsed.method, Some(method.as_str()));
        prop_assert_eq!(parsed.path, Some(target.as_str()));
        let read: Vec<_> = parsed.headers.iter().filter(|h| h.name.starts_with("X-"))
            .map(|h| (h.name.to_owned(), String::from_utf8(h.value.to_vec()).unwrap())).collect();
        prop_assert_eq!(read, headers);
        let has = |name: &str| parsed.headers.iter().any(|h| h.name == name);
        prop_assert_eq!(has("Connection"), close);
        prop_assert_eq!(has("Transfer-Encoding"), body.is_some() && chunked);
        if let Some(body) = body.filter(|_| !chunked) {
            prop_assert!(requests.bytes()[status.unwrap()..] == body[..]);
        }
    }

    #[test]
    fn whatever_is_typed_is_written_or_refused(
        method in "\\PC{0,6}|GET", target in "/\\PC{0,9}|[\\x00-\\xff]{0,9}", name in "\\PC{0,6}|[A-Za-z-]{1,16}", value in "[\\x00-\\xff]{0,12}",
    ) {
        let spec = RequestSpec { method, target, headers: vec![(name, value)], ..get() };
        if let Ok(requests) = Requests::new(&[(spec, 1)], 1, 0) {
            let ends = requests.bytes().windows(2).filter(|pair| pair == b"\r\n").count();
            prop_assert!((4..=6).contains(&ends), "{:?}", requests.bytes());
        }
    }
}
