//! What a stall does to whom.

use super::*;
use tare_units::limits::HTTP_TURNED_AWAY_MAX;

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

/// On one connection the order is that of the requests, whatever was sent, held or on its way when
/// it began.
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
    web.clients[client].outbox.extend("GET /echo?size=1068 HTTP/1.1\r\nHost: x\r\n\r\n".bytes());
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
    let first = web.clients[client].times.iter().find(|(at, _)| web.since_start(*at) >= end);
    let first = first.map(|(at, _)| web.since_start(*at));
    assert_eq!(first, Some(end + LATENCY));
}

#[test]
fn a_stall_holds_everything_up_once() {
    let mut web = Web::stalling("10ms:5ms");
    let first = web.client(GET);
    web.run_for(Nanos::from_millis(3));
    let held = web.client("GET /echo?delay=12ms HTTP/1.1\r\nHost: x\r\n\r\n");
    web.run_for(Nanos::from_millis(8));
    web.clients[first].outbox = GET.into();
    web.run_for(Nanos::from_millis(20));
    // The first request arrived at 300 us; the stall is from 10.3 ms to 15.3 ms.
    let seen = web.since_start(web.clients[first].times[1].0);
    assert_eq!(seen, Nanos(15_300_000) + LATENCY);
    assert!(web.text(held).contains("residence;dur=12."), "{}", web.text(held));
    web.clients[first].outbox = GET.into();
    let now = web.clock.now();
    web.run_for(Nanos::from_millis(5));
    assert_eq!(web.clients[first].times[2].0.since(now), ROUND_TRIP);
}

/// Whatever is due in a stall, by its arrival or by its delay, leaves at its end, in order.
#[test]
fn what_was_due_in_a_stall_is_answered_at_its_end_in_order() {
    let mut web = Web::stalling("10ms:5ms");
    // Connecting is no request: the stall counts from 2 ms and the 300 us of the first one.
    let silent = web.client("");
    web.run_for(Nanos::from_millis(2));
    let clients: Vec<usize> = (0..5).map(|_| web.client(GET)).collect();
    web.run_for(Nanos::from_millis(9));
    web.clients[clients[0]].outbox = "GET /echo?delay=3ms HTTP/1.1\r\nHost: x\r\n\r\n".into();
    web.clients[clients[1]].outbox = "GET /echo?delay=2ms HTTP/1.1\r\nHost: x\r\n\r\n".into();
    web.run_for(Nanos::from_millis(2));
    web.clients[silent].outbox = GET.into();
    for queued in [4, 3, 2] {
        let request = "GET /queue?service=1ms HTTP/1.1\r\nHost: x\r\n\r\n";
        web.clients[clients[queued]].outbox = request.into();
        web.run_for(Nanos::from_micros(400));
    }
    let end = Nanos(2_300_000 + 15_000_000);
    assert!(web.since_start(web.clock.now()) < end, "it is not over yet");
    assert!(clients.iter().all(|c| web.clients[*c].times.len() == 1));
    web.run_for(Nanos::from_millis(20));
    let seen = |client: usize, nth: usize| {
        let at = web.clients[client].times[nth].0;
        web.since_start(at).0 - end.0 - LATENCY.0
    };
    for client in [silent, clients[0], clients[1]] {
        let nth = web.clients[client].times.len() - 1;
        assert_eq!(seen(client, nth), 0);
    }
    // They had all come; the service of the first and the second is over before the stall is, that
    // of the third too.
    assert_eq!([4, 3, 2].map(|queued| seen(clients[queued], 1)), [0, 0, 0]);
    let arrivals = [4, 3, 2].map(|c| timing(&web.text(clients[c]), "arrival", 0));
    assert!(arrivals.is_sorted(), "{arrivals:?}");
    let departures: Vec<u64> = [4, 3, 2]
        .iter()
        .map(|c| timing(&web.text(clients[*c]), "residence", 0))
        .zip(arrivals)
        .map(|(residence, arrival)| residence + arrival)
        .collect();
    assert_eq!(departures[0], departures[2], "at the end, all of them");
}

/// Clients that give up and come again, while nobody can look after them.
#[test]
fn connections_do_not_pile_up_in_a_stall() {
    const CLIENTS: usize = 400;
    const SEATS: usize = 2 + HTTP_TURNED_AWAY_MAX;
    let stalls = vec!["0s:60s".parse::<Stall>().unwrap()];
    let mut web =
        Web::new(SimConfig::default(), HttpSettings { connections_max: 2, stalls, ..settings() });
    let first = web.client(GET);
    web.run_for(SECOND);
    let clients: Vec<usize> = (1..CLIENTS).map(|_| web.client(GET)).collect();
    web.run_for(SECOND);
    let ended = |web: &Web| {
        let all = clients.iter().filter(|client| web.clients[**client].ended);
        all.count()
    };
    assert_eq!(ended(&web), CLIENTS - SEATS);
    web.run_for(Nanos::from_secs(62));
    assert_eq!(ended(&web), clients.len() - 1, "one is served");
    assert!(web.text(first).contains("200 OK"));
    // Whoever comes now finds the seats of those that are gone.
    let client = web.client(GET);
    web.run_for(SECOND);
    assert!(web.text(client).contains("503 "), "{}", web.text(client));
}
