//! What a stall does to whom.

use super::*;

/// Nobody is closed or refused for what could not be seen to in a stall.
#[test]
fn deadlines_begin_anew_after_a_stall() {
    let mut web = Web::stalling("10ms:40s");
    let idle = web.client(GET);
    let cut = web.client("GET / HTTP/1.1\r\nHo");
    let late = web.client("GET / HTTP/1.1\r\nHo");
    web.run_for(Nanos::from_millis(11));
    // Reaped in the stall.
    let came = web.client(GET);
    web.run_for(SECOND);
    web.clients[idle].outbox = GET.into();
    web.run_for(Nanos::from_millis(39_000));
    web.run_for(SECOND);
    assert_eq!(web.text(idle).matches("HTTP/1.1 200 ").count(), 2);
    assert_eq!(web.text(came).matches("HTTP/1.1 200 ").count(), 1);
    for client in [idle, cut, late, came] {
        assert!(!web.clients[client].ended, "{client}");
    }
    web.clients[cut].outbox = "st: x\r\n\r\n".into();
    web.run_for(Nanos::from_secs(6));
    assert!(web.text(cut).starts_with("HTTP/1.1 200 "));
    assert!(web.text(late).starts_with("HTTP/1.1 408 "));
    web.run_for(Nanos::from_secs(26));
    assert!(web.side.role().is_empty(), "then they count again");
}

/// On one connection the order is that of the requests, whatever was sent, held or on its way when it began.
#[test]
fn responses_are_in_order_after_a_stall() {
    let mut web = Web::stalling("10ms:5ms");
    web.client(GET);
    web.run_for(Nanos::from_micros(9_500));
    let mut requests = String::new();
    // More than the client takes without reading.
    for size in 1_000..1_065 {
        requests += &format!("GET /echo?size={size} HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    requests += "GET /echo?delay=1ms&size=1065 HTTP/1.1\r\nHost: x\r\n\r\n";
    requests += "GET /echo?delay=1ms&size=1066 HTTP/1.1\r\nHost: x\r\n\r\n";
    requests += "GET /echo?size=1067 HTTP/1.1\r\nHost: x\r\n\r\n";
    let client = web.client(requests);
    web.clients[client].deaf = true;
    web.run_for(Nanos::from_micros(2_500));
    // What it reads now makes room; that the rest went out is reaped in the stall.
    web.clients[client].deaf = false;
    web.run_for(Nanos::from_micros(1_000));
    web.clients[client]
        .outbox
        .extend("GET /echo?size=1068 HTTP/1.1\r\nHost: x\r\n\r\n".bytes());
    web.run_for(Nanos::from_millis(20));
    let text = web.text(client);
    let lengths: Vec<&str> = text
        .split("Content-Length: ")
        .skip(1)
        .filter_map(|rest| rest.split("\r\n").next())
        .collect();
    let expected: Vec<String> = (1_000..1_069).map(|size| size.to_string()).collect();
    assert_eq!(lengths, expected);
    // The first of those that were held was due in the stall, and left at its end.
    let end = Nanos(300_000 + 15_000_000);
    let first = web.clients[client]
        .times
        .iter()
        .find(|(at, _)| web.since_start(*at) >= end);
    let first = first.map(|(at, _)| web.since_start(*at));
    assert_eq!(first, Some(end + LATENCY));
}
