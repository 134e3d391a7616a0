use super::*;
use proptest::prelude::*;
use rand_xoshiro::rand_core::SeedableRng;

fn dice() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(1)
}

fn echo(query: &str) -> Echo {
    Echo::parse(query, &mut dice())
}

/// How often of 10,000 a query has what is looked for.
fn share(query: &str, has: impl Fn(&Echo) -> bool) -> f64 {
    let mut dice = dice();
    let hits = (0..10_000).filter(|_| has(&Echo::parse(query, &mut dice)));
    f64::from(u32::try_from(hits.count()).unwrap()) / 10_000.0
}

#[test]
fn a_status_is_a_number_or_a_table() {
    for (query, status) in [
        ("", None),
        ("status=", None),
        ("status=%zz", None),
        ("a;status=503", None),
        ("status=503", Some(503)),
        ("status=511&status=200", Some(511)),
        ("status=503:100", Some(503)),
        ("status=503:100%25", Some(503)),
        ("status=503:0.0", Some(200)),
    ] {
        assert_eq!(echo(query).status, status, "{query}");
    }
    let refused = "x 503:x 503:20:30 503:20,404 503:60,404:60 503:101 503:-1 99 503,404";
    for text in refused.split(' ') {
        assert_eq!(echo(&format!("status={text}")).status, Some(400), "{text}");
    }
    let tens: Vec<String> = (0..10).map(|i| format!("{}:10", 500 + i)).collect();
    let all = format!("status={}", tens.join(","));
    assert!(share(&all, |e| e.status == Some(200)) < 1e-9);
    assert!((share(&all, |e| e.status == Some(509)) - 0.1).abs() < 0.02);
    let some = "status=511:20,404:10.5%25";
    assert!((share(some, |e| e.status == Some(511)) - 0.2).abs() < 0.02);
    assert!((share(some, |e| e.status == Some(404)) - 0.105).abs() < 0.02);
}

#[test]
fn a_delay_is_a_go_duration_and_is_cut() {
    let ms = Nanos::from_millis;
    for (text, delay) in [
        ("200ms", Some(ms(200))),
        ("200us", Some(Nanos::from_micros(200))),
        ("%C2%B5s", None),
        ("5%C2%B5s", Some(Nanos::from_micros(5))),
        ("1.25ms", Some(Nanos::from_micros(1_250))),
        ("1ms500us", Some(Nanos::from_micros(1_500))),
        ("0", Some(Nanos::ZERO)),
        ("10s", Some(ms(1_500))),
        ("-1s", Some(Nanos::ZERO)),
        ("200", None),
        ("ms", None),
        ("1x", None),
        ("1ms:100", Some(ms(1))),
        ("1ms:x", None),
        ("", None),
    ] {
        assert_eq!(echo(&format!("delay={text}")).delay, delay, "{text}");
    }
    let query = "delay=200ms:20,10s:10";
    assert!((share(query, |e| e.delay == Some(ms(200))) - 0.2).abs() < 0.02);
    assert!((share(query, |e| e.delay == Some(ms(1_500))) - 0.1).abs() < 0.02);
    assert!((share(query, |e| e.delay == Some(Nanos::ZERO)) - 0.7).abs() < 0.02);
}

#[test]
fn a_size_is_clamped_and_a_bad_one_echoes() {
    for (text, size) in [
        ("0", Some(0)),
        ("512", Some(512)),
        ("-3", Some(0)),
        ("999999999", Some(REQUEST_BODY_MAX as u64)),
        ("x", None),
        ("", None),
        ("512:x", None),
        ("512:60,1:60", None),
        ("512:100", Some(512)),
    ] {
        assert_eq!(echo(&format!("size={text}")).size, size, "{text}");
    }
    assert!((share("size=7:30", |e| e.size == Some(7)) - 0.3).abs() < 0.02);
    assert!((share("size=7:30", |e| e.size.is_none()) - 0.7).abs() < 0.02);
}

#[test]
fn close_is_a_word_or_a_share() {
    for (text, close) in [
        ("", false),
        ("false", false),
        ("true", true),
        ("yes", true),
        ("true:10", true),
        ("10%25", true),
        ("100", true),
    ] {
        assert_eq!(echo(&format!("close={text}")).close, close, "{text}");
    }
    assert!((share("close=12.5", |e| e.close) - 0.125).abs() < 0.02);
}

#[test]
fn headers_stay_headers() {
    let lines = |query: &str| String::from_utf8(echo(query).headers).unwrap();
    assert_eq!(lines("header=a:b&header=c:+d:e"), "a: b\r\nc: d:e\r\n");
    assert_eq!(lines("header=a&header=:b&header=a%20b:c"), "");
    assert_eq!(lines("header=a:b%0d%0aevil:1"), "a: b  evil:1\r\n");
    assert_eq!(lines("header=a%0d%0aevil:1"), "");
    assert_eq!(lines("header=a:%00"), "");
    assert_eq!(lines("header=Content-Length:7&header=transfer-encoding:x"), "");
    assert!(echo("header=content-type:text/html").names_type);
}

proptest! {
    #[test]
    fn no_query_makes_a_line_of_its_own(query in "[ -~]{0,200}") {
        let echo = echo(&query);
        for line in echo.headers.split_inclusive(|b| *b == b'\n') {
            prop_assert!(line.ends_with(b"\r\n"));
            let within = &line[..line.len() - 2];
            prop_assert!(within.iter().all(|b| *b == b'\t' || !b.is_ascii_control()));
        }
        prop_assert!(echo.status.is_none_or(|s| (200..=999).contains(&s)));
        prop_assert!(echo.delay.is_none_or(|d| d <= DELAY_MAX));
        // What is written is no longer than what was asked: the head of a response has a bound.
        prop_assert!(echo.headers.len() <= query.len());
    }
}
