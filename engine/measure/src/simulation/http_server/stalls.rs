//! What a stall does to whom.

use super::*;
use tare_units::limits::HTTP_TURNED_AWAY_MAX;

/// Nobody is closed or refused for what could not be seen to in a stall.
#[test]
fn deadlines_begin_again_after_a_stall() {
    let mut web = Web::stalling("10ms:40s");
    let idle = web.hand(GET);
    let [cut, late] = [(); 2].map(|()| web.hand("GET / HTTP/1.1\r\nHo"));
    web.run_for(ms(11));
    // Reaped in the stall.
    let came = web.hand(GET);
    web.run_for(SECOND);
    web.hands[idle].send(GET);
    web.run_for(secs(40));
    assert_eq!(web.text(idle).matches("HTTP/1.1 200 ").count(), 2);
    assert_eq!(web.text(came).matches("HTTP/1.1 200 ").count(), 1);
    assert!(web.hands.iter().all(|hand| !hand.ended));
    web.hands[cut].send("st: x\r\n\r\n");
    web.run_for(secs(6));
    assert!(web.text(cut).starts_with("HTTP/1.1 200 "));
    assert!(web.text(late).starts_with("HTTP/1.1 408 "));
    web.run_for(secs(26));
    assert!(web.side().is_empty(), "then they count again");
}

/// On one connection the order is that of the requests, whatever was sent, held or on its way when
/// it began.
#[test]
fn responses_are_in_order_after_a_stall() {
    let mut web = Web::stalling("10ms:5ms");
    web.hand(GET);
    web.run_for(us(9_500));
    // More than the client takes without reading.
    let mut requests: String =
        (1_000..1_065).map(|size| request(&format!("/echo?size={size}"))).collect();
    requests += &request("/echo?delay=1ms&size=1065");
    requests += &request("/echo?delay=1ms&size=1066");
    requests += &request("/echo?size=1067");
    let client = web.deaf(requests);
    web.run_for(us(2_500));
    // What it reads now makes room; that the rest went out is reaped in the stall.
    web.hands[client].deaf = false;
    web.run_for(MS);
    web.hands[client].send(request("/echo?size=1068"));
    web.run_for(ms(20));
    let text = web.text(client);
    let lengths = text.split("Content-Length: ").skip(1).map(|rest| rest.lines().next().unwrap());
    assert!(lengths.eq((1_000..1_069).map(|size| size.to_string())), "{text}");
    // The first of those that were held was due in the stall, and left at its end.
    let end = Nanos(300_000 + 15_000_000);
    let times = (0..web.hands[client].got.len()).map(|nth| web.at(client, nth));
    assert_eq!(times.filter(|at| *at >= end).min(), Some(end + LATENCY));
}

#[test]
fn a_stall_holds_everything_up_once() {
    let mut web = Web::stalling("10ms:5ms");
    let first = web.hand(GET);
    web.run_for(ms(3));
    let held = web.hand(request("/echo?delay=12ms"));
    web.run_for(ms(8));
    web.hands[first].send(GET);
    web.run_for(ms(20));
    // The first request arrived at 300 us; the stall is from 10.3 ms to 15.3 ms.
    assert_eq!(web.at(first, 1), Nanos(15_300_000) + LATENCY);
    assert!(web.text(held).contains("residence;dur=12."), "{}", web.text(held));
    web.hands[first].send(GET);
    let now = web.now();
    web.run_for(ms(5));
    assert_eq!(web.at(first, 2), now + ROUND_TRIP);
}

/// Whatever is due in a stall, by its arrival or by its delay, leaves at its end, in order.
#[test]
fn what_was_due_in_a_stall_is_answered_at_its_end_in_order() {
    let mut web = Web::stalling("10ms:5ms");
    // Connecting is no request: the stall counts from 2 ms and the 300 us of the first one.
    let silent = web.hand("");
    web.run_for(ms(2));
    let clients = [(); 5].map(|()| web.hand(GET));
    web.run_for(ms(9));
    web.hands[clients[0]].send(request("/echo?delay=3ms"));
    web.hands[clients[1]].send(request("/echo?delay=2ms"));
    web.run_for(ms(2));
    web.hands[silent].send(GET);
    let queued = [clients[4], clients[3], clients[2]];
    for client in queued {
        web.hands[client].send(request("/queue?service=1ms"));
        web.run_for(us(400));
    }
    let end = Nanos(2_300_000 + 15_000_000);
    assert!(web.now() < end, "it is not over yet");
    assert!(clients.iter().all(|client| web.hands[*client].got.len() == 1));
    web.run_for(ms(20));
    assert_eq!(web.at(silent, 0), end + LATENCY);
    // They had all come; the service of the first and the second is over before the stall is, that
    // of the third too.
    for client in clients {
        assert_eq!(web.hands[client].got.len(), 2);
        assert_eq!(web.at(client, 1), end + LATENCY);
    }
    let timings = |name| queued.map(|client| timing(&web.text(client), name, 0));
    let (arrivals, residences) = (timings("arrival"), timings("residence"));
    assert!(arrivals.is_sorted(), "{arrivals:?}");
    assert_eq!(arrivals[0] + residences[0], arrivals[2] + residences[2], "all leave at the end");
}

/// Clients that give up and come again, while nobody can look after them.
#[test]
fn connections_do_not_pile_up_in_a_stall() {
    const CLIENTS: usize = 400;
    const SEATS: usize = 2 + HTTP_TURNED_AWAY_MAX;
    let stalls = vec!["0s:60s".parse::<Stall>().unwrap()];
    let settings = HttpSettings { connections_max: 2, stalls, ..settings() };
    let mut web = Web::on(SimConfig::default(), settings);
    let first = web.hand(GET);
    web.run_for(SECOND);
    for _ in 1..CLIENTS {
        web.hand(GET);
    }
    web.run_for(SECOND);
    let ended = |web: &Web| web.hands[1..].iter().filter(|hand| hand.ended).count();
    assert_eq!(ended(&web), CLIENTS - SEATS);
    web.run_for(secs(62));
    assert_eq!(ended(&web), CLIENTS - 2, "one is served");
    assert!(web.text(first).contains("200 OK"));
    // Whoever comes now finds the seats of those that are gone.
    let client = web.hand(GET);
    web.run_for(SECOND);
    assert!(web.text(client).contains("503 "), "{}", web.text(client));
}
