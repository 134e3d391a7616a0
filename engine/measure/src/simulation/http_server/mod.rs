//! The HTTP side against clients that are led by hand, byte by byte.

mod hostile;
mod refusals;
mod stalls;

use super::servers::HttpSide;
use super::*;
use crate::http::client::HttpClient;
use crate::server::worker::http::{HttpServer, HttpSettings, Stall};
use proptest::prelude::*;
use tare_driver::OpError;

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

type Web = World<HttpClient<Seen>, HttpSide>;

fn settings() -> HttpSettings {
    HttpSettings {
        wait: WaitMode::Block,
        idle: secs(30),
        connections_max: 100,
        seed: 1,
        stalls: Vec::new(),
    }
}

/// A whole request.
fn request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
}

impl Web {
    /// A server on a wire; its clients are led by hand, and look every 20 ms.
    fn on(wire: SimConfig, settings: HttpSettings) -> Self {
        let web = Self::new(wire, |net, clock| HttpSide::new(net, clock, settings));
        Self { step: ms(20), ..web }
    }

    fn with(settings: HttpSettings) -> Self {
        Self::on(wire(), settings)
    }

    fn plain() -> Self {
        Self::with(settings())
    }

    fn stalling(stall: &str) -> Self {
        let stalls = vec![stall.parse::<Stall>().unwrap()];
        Self::with(HttpSettings { stalls, ..settings() })
    }

    fn text(&self, client: usize) -> String {
        self.hands[client].text()
    }

    /// When a client got something for the n-th time, from the start.
    fn at(&self, client: usize, nth: usize) -> Nanos {
        self.hands[client].got[nth].0.since(self.started_at)
    }

    /// A client that does not read.
    fn deaf(&mut self, bytes: impl Into<Vec<u8>>) -> usize {
        let client = self.hand(bytes);
        self.hands[client].deaf = true;
        client
    }

    fn side(&self) -> &HttpServer<SimSocket> {
        self.server.side.role()
    }
}

/// The milliseconds that `name` has in the n-th `Server-Timing`, as nanoseconds.
fn timing(text: &str, name: &str, nth: usize) -> u64 {
    let line = text.split("Server-Timing: ").nth(nth + 1).unwrap();
    let line = line.lines().next().unwrap();
    let value = line.split(&format!("{name};dur=")).nth(1).unwrap();
    let value = value.split(',').next().unwrap();
    let (whole, part) = value.split_once('.').unwrap();
    assert_eq!(part.len(), 6, "{line}");
    whole.parse::<u64>().unwrap() * 1_000_000 + part.parse::<u64>().unwrap()
}

#[test]
fn a_request_is_answered_in_the_turn_it_arrives() {
    let mut web = Web::plain();
    let client = web.hand(GET);
    web.run_for(ms(2));
    let expected =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\ntare serves\n";
    assert_eq!(web.text(client), expected);
    // Connect, there and back.
    assert_eq!(web.at(client, 0), ROUND_TRIP + ROUND_TRIP);
    // On the same connection, cut into bytes.
    for byte in GET.bytes() {
        web.hands[client].send([byte]);
        web.run_for(MS);
    }
    assert_eq!(web.text(client), expected.repeat(2));
    assert!(!web.hands[client].ended);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut web = Web::plain();
    let one = |i: usize| {
        let delay = if i % 50 == 7 { "&delay=1ms" } else { "" };
        request(&format!("/echo?size={i}{delay}"))
    };
    let client = web.hand((0..200).map(one).collect::<String>());
    web.run_for(ms(50));
    let text = web.text(client);
    let mut rest = text.as_str();
    for i in 0..200 {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        assert!(format!("{head}\r\n").contains(&format!("Content-Length: {i}\r\n")), "{head}");
        rest = &body[i..];
    }
    assert!(rest.is_empty());
}

#[test]
fn a_delay_is_exact() {
    for delay in ["200us", "1ms", "20ms", "123456ns"] {
        let mut web = Web::plain();
        let client = web.hand(request(&format!("/echo?delay={delay}")));
        web.run_for(ms(30));
        let delay: Nanos = delay.parse().unwrap();
        assert_eq!(web.at(client, 0), ROUND_TRIP + ROUND_TRIP + delay);
        assert_eq!(timing(&web.text(client), "residence", 0), delay.0);
    }
}

/// Each delay begins when the one before it is over.
#[test]
fn delays_of_one_connection_add_up() {
    let mut web = Web::plain();
    let client = web.hand(request("/echo?delay=10ms").repeat(3));
    web.run_for(ms(40));
    assert_eq!(web.hands[client].got.len(), 3);
    let text = web.text(client);
    for nth in 0..3 {
        let delays = 10_000_000 * (nth as u64 + 1);
        assert_eq!(web.at(client, nth).0, 2 * ROUND_TRIP.0 + delays);
        // How long it was there, the wait for its turn and all.
        assert_eq!(timing(&text, "residence", nth), delays);
    }
}

#[test]
fn the_queue_follows_lindley() {
    let mut web = Web::plain();
    for i in 0..40 {
        web.run_for(Nanos((i * 7_919) % 1_700_000));
        web.hand(request("/queue?service=1ms"));
    }
    web.run_for(ms(100));
    let (mut last, mut waited) = (0, 0);
    for client in 0..40 {
        let text = web.text(client);
        let arrival = timing(&text, "arrival", 0);
        let departure = last.max(arrival) + 1_000_000;
        waited += u32::from(last > arrival);
        assert_eq!(timing(&text, "residence", 0), departure - arrival);
        assert_eq!(web.at(client, 0).0, departure + LATENCY.0);
        last = departure;
    }
    assert!(waited > 5, "some had to wait");
}

/// The queue is in the order of the wire's arrivals, whenever its worker gets to see them.
#[test]
fn the_queue_goes_by_the_stamps_of_arrival() {
    const CLIENTS: usize = 7;
    let mut web = Web::plain();
    for _ in 0..CLIENTS {
        web.hand(request("/queue?service=300us"));
    }
    web.run_for(ms(10));
    // From here on all connections are stamped, and their worker comes round every 500 us only.
    web.server.grid = us(500);
    let (mut sent, mut arrivals) = ([0; CLIENTS], Vec::new());
    for i in 0..60 {
        // The last first, so that the order of the sockets is not that of the arrivals.
        let client = CLIENTS - 1 - (i * 3) % CLIENTS;
        if web.hands[client].got.len() <= sent[client] {
            web.run_for(ms(20));
        }
        sent[client] += 1;
        arrivals.push((web.now() + LATENCY).0);
        web.hands[client].send(request("/queue?service=300us"));
        web.run_for(Nanos((i as u64 * 7_919) % 250_000));
    }
    web.run_for(ms(100));
    let mut records = Vec::new();
    for client in 0..CLIENTS {
        let text = web.text(client);
        for nth in 1..text.matches("Server-Timing").count() {
            records.push((timing(&text, "arrival", nth), timing(&text, "residence", nth)));
        }
    }
    records.sort_unstable();
    arrivals.sort_unstable();
    assert!(records.iter().map(|(arrival, _)| arrival).eq(&arrivals), "{records:?} {arrivals:?}");
    let (mut last, mut off_grid) = (0, 0);
    for (arrival, residence) in records {
        last = last.max(arrival) + 300_000;
        let left = arrival + residence;
        // It leaves with the first turn after its service.
        assert!(left >= last && left < last + 500_000, "{arrival} {residence}, not {last}");
        off_grid += u32::from(arrival % 500_000 != 0);
    }
    assert!(off_grid > 30, "the reaping would be on it");
}

/// Also of the first request of a connection, which the front reads, however late it comes round to
/// it.
#[test]
fn the_queue_goes_by_the_stamps_of_first_requests_too() {
    let mut web = Web::plain();
    web.server.front_grid = us(700);
    let mut arrivals = Vec::new();
    for i in 0..20 {
        let client = web.hand("");
        web.run_for(Nanos(3_000_000 + i * 37_019));
        web.hands[client].send(request("/queue?service=1us"));
        arrivals.push((web.now() + LATENCY).0);
    }
    web.run_for(ms(3));
    // The record counts from the start of the HTTP side.
    for (client, arrival) in arrivals.into_iter().enumerate() {
        assert_eq!(timing(&web.text(client), "arrival", 0), arrival);
    }
}

#[test]
fn a_slow_reader_holds_little_and_not_for_ever() {
    let mut web = Web::plain();
    let client = web.deaf(request("/bytes/1000000") + &GET.repeat(2_000));
    web.run_for(SECOND);
    assert!(web.side().memory_bytes() < 1 << 20);
    web.hands[client].deaf = false;
    web.run_for(SECOND);
    let text = web.text(client);
    assert_eq!(text.matches("tare serves").count(), 2_000);
    assert_eq!(text.matches('x').count(), 1_000_000 + 2_000 * "text/plain".matches('x').count());
    web.deaf(request("/bytes/1000000"));
    web.run_for(secs(64));
    assert!(web.side().is_empty());
}

#[test]
fn connections_end_as_asked() {
    for (request, keeps) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ("HEAD /bytes/5000 HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET /echo?close=true HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ("GET /echo?status=304 HTTP/1.1\r\nHost: x\r\n\r\n", true),
    ] {
        let mut web = Web::plain();
        let client = web.hand(request);
        web.run_for(ms(5));
        assert_eq!(web.hands[client].ended, !keeps, "{request}");
        let text = web.text(client);
        assert_eq!(text.contains("Connection: close"), !keeps, "{text}");
        assert!(text.contains("\r\n\r\n") && text.len() < 200, "{text}");
    }
}

#[test]
fn bodies_come_back() {
    let body = "0123456789".repeat(5_000);
    let chunks = format!("3e8;x=y\r\n{}\r\n", &body[..1_000]).repeat(50);
    for (method, framed) in [
        ("POST", format!("Content-Length: 50000\r\n\r\n{body}")),
        ("PUT", format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\nT: t\r\n\r\n")),
    ] {
        let mut web = Web::plain();
        let head = format!("{method} /echo HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\n");
        let client = web.hand(head + &framed + GET);
        web.run_for(ms(50));
        let text = web.text(client);
        let head = "Content-Type: a/b\r\nContent-Length: 50000\r\n\r\n0123";
        assert!(text.contains(head), "{text:.200}");
        assert!(text.contains(&body) && text.ends_with("tare serves\n"));
    }
    let mut web = Web::plain();
    let client = web.hand(
        "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    web.run_for(ms(5));
    assert_eq!(web.text(client), "HTTP/1.1 100 Continue\r\n\r\n");
    web.hands[client].send("ab");
    web.run_for(ms(5));
    assert!(web.text(client).ends_with("\r\n\r\nab"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_refused_or_closed(
        start in prop_oneof!["GET ", "POST /echo HTTP/1.1\r\nHost: x\r\n", "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"],
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        seed: u64,
    ) {
        let wire = SimConfig { seed, short_reads: 0.5, short_writes: 0.3, ..SimConfig::default() };
        let mut web = Web::on(wire, settings());
        let client = web.hand([start.into_bytes(), bytes].concat());
        web.run_for(secs(8));
        let text = web.text(client);
        let refused = text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5");
        prop_assert!(refused || web.hands[client].ended, "{}", text);
    }
}
