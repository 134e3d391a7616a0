//! What is refused, and how.

use super::*;

#[test]
fn what_is_not_served_is_refused_in_its_own_words() {
    let long = "a".repeat(9_000);
    let post = |rest: &str| format!("POST /echo HTTP/1.1\r\nHost: x\r\n{rest}");
    for (request, status) in [
        (request("/none"), 404),
        ("POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        (request("/bytes/x"), 400),
        (request("/queue"), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("get / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("\r\nPROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("EHLO x\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: x\n\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n".to_owned(), 505),
        (post("Content-Length: 262145\r\n\r\n"), 413),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400),
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (post("Transfer-Encoding: gzip\r\n\r\n"), 501),
        (post("Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400),
        (request(&format!("/{long}")), 414),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nA: {long}\r\nB: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(100)), 431),
    ] {
        let mut web = Web::plain();
        let client = web.hand(request.as_str());
        web.run_for(ms(5));
        let text = web.text(client);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.80}: {text}");
    }
}

#[test]
fn what_clients_and_proxies_send_is_served() {
    for (line, fields) in [
        ("GET http://x/healthz HTTP/1.1", "Host: x"),
        ("GET HTTP://x HTTP/1.1", "Host: x"),
        ("GET http://x?a=/b HTTP/1.1", "Host: x"),
        ("OPTIONS * HTTP/1.1", "Host: x"),
        ("\r\nGET / HTTP/1.1", "Host:"),
        ("GET / HTTP/1.0", "Connection: Keep-Alive"),
        ("GET / HTTP/1.1", "Host: x\r\nExpect: something"),
        ("GET / HTTP/1.1", "Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"),
    ] {
        let mut web = Web::plain();
        let client = web.hand(format!("{line}\r\n{fields}\r\n\r\n").repeat(2));
        web.run_for(ms(5));
        let text = web.text(client);
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{line}: {text}");
    }
}

#[test]
fn one_connection_too_many_is_refused_in_words() {
    let mut web = Web::on(SimConfig::default(), HttpSettings { connections_max: 2, ..settings() });
    let clients: Vec<usize> = (0..3).map(|_| web.hand(GET)).collect();
    web.run_for(SECOND);
    let answered = |status| clients.iter().filter(|c| web.text(**c).contains(status)).count();
    assert_eq!((answered("200 OK"), answered("503 ")), (2, 1));
}

/// The client of a `HEAD` takes a body for the next response, whatever it says (RFC 9110 section
/// 9.3.2).
#[test]
fn what_has_no_body_is_sent_none() {
    for (pieces, status) in [
        (["HEAD / HTTP/1.1\r\n", "\r\n"], 400),
        (["HEAD / HTTP/1.1\r\nHost: x\r\n", "A\r\n\r\n"], 400),
        (["HEAD / HTTP/1.1\r\nHost: x\r\n", ""], 408),
        (["HEAD /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "x\r\n"], 400),
        (["HEAD /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "x"], 408),
        (["HEAD /none HTTP/1.1\r\n", "Host: x\r\n\r\n"], 404),
        (["GET /echo?status=205&size=10 HTTP/1.1\r\n", "Host: x\r\n\r\n"], 205),
        (["GET /echo?status=204&size=10 HTTP/1.1\r\n", "Host: x\r\n\r\n"], 204),
    ] {
        let whole = pieces.concat();
        for [first, second] in [[whole.as_str(), ""], pieces] {
            let mut web = Web::plain();
            let client = web.hand(first);
            web.run_for(ms(5));
            web.hands[client].send(second);
            web.run_for(secs(6));
            let text = web.text(client);
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{pieces:?}: {text}");
            assert!(text.ends_with("\r\n\r\n"), "{pieces:?}: {text}");
            assert_eq!(status == 205, text.contains("Content-Length: 0\r\n"), "{text}");
        }
    }
}

#[test]
fn what_is_not_whole_or_silent_is_ended() {
    let mut web = Web::plain();
    let cut = web.hand("GET / HTTP/1.1\r\nHo");
    let idle = web.hand(GET);
    web.run_for(secs(7));
    assert!(web.text(cut).starts_with("HTTP/1.1 408 "), "{}", web.text(cut));
    assert!(web.hands[cut].ended && !web.hands[idle].ended);
    web.run_for(secs(25));
    assert!(web.hands[idle].ended);
    web.run_for(SECOND);
    assert!(web.side().is_empty());
    assert_eq!(web.side().memory_bytes(), 0);
}
