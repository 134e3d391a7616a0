//! The HTTP side against clients that are led by hand, byte by byte.

use std::sync::atomic::AtomicBool;

mod hostile;
mod refusals;
mod stalls;

use super::*;
use crate::server::worker::http::{HttpServer, HttpSettings, Stall, StampClock, inbox};
use proptest::prelude::*;
use tare_driver::{
    BufferId, Driver, Op, OpError, Outcome as Done, Segment, SocketId, SocketSpec, Token, Wait,
};

const LISTEN: &str = "127.0.0.1:7117";
const SECOND: Nanos = Nanos::from_secs(1);
const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

type Side = Worker<SimDriver, SimulatedClock, HttpServer<SimSocket>>;

struct Client {
    io: SimDriver,
    socket: SocketId,
    inbox: BufferId,
    outbox: Vec<u8>,
    connected: bool,
    sending: bool,
    receiving: bool,
    deaf: bool,
    /// Bytes that one receive takes at most.
    appetite: u32,
    ended: bool,
    /// With a reset.
    reset: bool,
    got: Vec<u8>,
    /// When each piece of `got` came, and how long it was then.
    times: Vec<(Instant, usize)>,
}

/// The simulated wire stamps by its own clock.
#[derive(Debug)]
pub(super) struct WireClock;

impl StampClock for WireClock {
    fn refresh(&mut self) {}

    fn to_instant(&self, stamp: Nanos) -> Option<Instant> {
        Some(Instant(stamp.0))
    }
}

struct Web {
    /// The HTTP side has its turns at multiples of that only.
    grid: Nanos,
    /// And the front.
    front_grid: Nanos,
    clock: SimulatedClock,
    net: SimNet,
    front: Worker<SimDriver, SimulatedClock, Acceptor<Door, SimSocket>>,
    side: Side,
    clients: Vec<Client>,
    start: Instant,
    steps: u32,
}

fn settings() -> HttpSettings {
    HttpSettings {
        wait: WaitMode::Block,
        idle: Nanos::from_secs(30),
        connections_max: 100,
        seed: 1,
        stalls: Vec::new(),
    }
}

impl Web {
    fn new(wire: SimConfig, settings: HttpSettings) -> Self {
        let clock = SimulatedClock::new(Instant(1_000_000_000));
        let net = SimNet::new(wire, clock.clone());
        let datagrams = Arc::new(UdpServerFront::new(CookieKey([5; 32]), None));
        let (http, arrivals) = inbox(settings.connections_max);
        let door = Door {
            http: Some(http),
            inbox: unbounded().0,
            alive: Rc::new(()),
            sessions_max: 1,
            one_go: true,
            asked: 0,
            sessions: 0,
            log: Vec::new(),
        };
        let mut driver = net.driver();
        let idle = settings.idle;
        let mut front = Acceptor::new(door, None, datagrams, idle).with_http(100, idle);
        front.listen(&mut driver, LISTEN.parse().unwrap()).unwrap();
        let side = HttpServer::new(
            arrivals,
            settings,
            Arc::new(AtomicBool::new(false)),
            Box::new(WireClock),
            clock.now(),
        );
        Self {
            grid: Nanos(1),
            front_grid: Nanos(1),
            front: Worker::new(driver, clock.clone(), front),
            side: Worker::new(net.driver(), clock.clone(), side),
            clients: Vec::new(),
            start: clock.now(),
            steps: 0,
            clock,
            net,
        }
    }

    fn plain() -> Self {
        Self::with(settings())
    }

    fn stalling(stall: &str) -> Self {
        let stalls = vec![stall.parse::<Stall>().unwrap()];
        Self::with(HttpSettings { stalls, ..settings() })
    }

    fn with(settings: HttpSettings) -> Self {
        let latency = LATENCY;
        let wire = SimConfig { latency, ..SimConfig::default() };
        Self::new(wire, settings)
    }

    fn client(&mut self, bytes: impl AsRef<[u8]>) -> usize {
        let mut io = self.net.driver();
        let to = LISTEN.parse().unwrap();
        let socket = io.open(&SocketSpec::stream_to(to)).unwrap();
        io.push(Token(0), Op::Connect { socket, to }).unwrap();
        let inbox = io.allocate(64 << 10).unwrap();
        self.clients.push(Client {
            io,
            socket,
            inbox,
            outbox: bytes.as_ref().to_vec(),
            connected: false,
            sending: false,
            receiving: false,
            deaf: false,
            appetite: 64 << 10,
            ended: false,
            reset: false,
            got: Vec::new(),
            times: Vec::new(),
        });
        self.clients.len() - 1
    }

    fn run_for(&mut self, length: Nanos) {
        let end = self.clock.now() + length;
        loop {
            let mut silent = 0;
            while silent < 2 {
                let mut count = 0;
                if self.clock.now().0.is_multiple_of(self.front_grid.0) {
                    count += self.front.turn().unwrap();
                }
                if self.clock.now().0.is_multiple_of(self.grid.0) {
                    count += self.side.turn().unwrap();
                }
                for client in &mut self.clients {
                    count += client.turn(self.clock.now());
                }
                silent = if count == 0 { silent + 1 } else { 0 };
                self.steps += 1;
                assert!(self.steps < STEPS_MAX, "the run does not end");
            }
            let now = self.clock.now();
            if now >= end {
                return;
            }
            // Where the role spins, the simulation knows nothing of what it waits for.
            let due = self.side.role().next_due(now).filter(|due| *due > now);
            let grids = [self.grid.0, self.front_grid.0];
            let coarse = grids.into_iter().filter(|grid| *grid > 1);
            let on_grids = coarse.map(|grid| Instant((now.0 / grid + 1) * grid));
            let due = due.into_iter().chain(on_grids);
            let nap = now + Nanos::from_millis(20);
            let next = self.net.next_event().into_iter().chain(due).min();
            self.clock.advance_to(next.unwrap_or(nap).min(nap).min(end));
        }
    }

    /// The client is gone: a FIN where it read all that had come, else a reset.
    fn leave(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let socket = client.socket;
        client.io.push(Token(3), Op::Close { socket }).unwrap();
        client.ended = true;
    }

    fn text(&self, client: usize) -> String {
        String::from_utf8_lossy(&self.clients[client].got).into_owned()
    }

    fn since_start(&self, at: Instant) -> Nanos {
        at.since(self.start)
    }
}

impl Client {
    fn turn(&mut self, now: Instant) -> usize {
        let socket = self.socket;
        if self.connected && !self.sending && !self.ended && !self.outbox.is_empty() {
            let len = self.outbox.len();
            let buffer = self.io.allocate(len).unwrap();
            self.io.buffer_mut(buffer).copy_from_slice(&self.outbox);
            let len = u32::try_from(len).unwrap();
            let data = Segment { buffer, start: 0, len };
            let zero_copy = false;
            self.io.push(Token(1), Op::Send { socket, data, zero_copy }).unwrap();
            self.sending = true;
        }
        if self.connected && !self.receiving && !self.deaf && !self.ended {
            let into = Segment { buffer: self.inbox, start: 0, len: self.appetite };
            self.io.push(Token(2), Op::Receive { socket, into }).unwrap();
            self.receiving = true;
        }
        let mut done = Vec::new();
        self.io.turn(now, Wait::Poll, &mut done).unwrap();
        for completion in &done {
            match (completion.token.0, &completion.outcome) {
                (0, Done::Connected) => self.connected = true,
                (1, Done::Sent(n)) => {
                    self.sending = false;
                    self.outbox.drain(..*n as usize);
                }
                (2, Done::Received(n)) if *n > 0 => {
                    self.receiving = false;
                    self.got.extend_from_slice(&self.io.buffer(self.inbox)[..*n as usize]);
                    self.times.push((now, self.got.len()));
                }
                (3, _) => {}
                (_, outcome) => {
                    self.ended = true;
                    self.reset |= *outcome == Done::Failed(OpError::Reset);
                }
            }
        }
        done.len()
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
    let client = web.client(GET);
    web.run_for(Nanos::from_millis(2));
    let expected =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\ntare serves\n";
    assert_eq!(web.text(client), expected);
    // Connect, there and back.
    let at = web.clients[client].times[0].0;
    assert_eq!(web.since_start(at), ROUND_TRIP + ROUND_TRIP);
    // On the same connection, cut into bytes.
    for byte in GET.bytes() {
        web.clients[client].outbox.push(byte);
        web.run_for(Nanos::from_millis(1));
    }
    assert_eq!(web.text(client), expected.repeat(2));
    assert!(!web.clients[client].ended);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut web = Web::plain();
    let mut all = String::new();
    for i in 0..200 {
        let delay = if i % 50 == 7 { "&delay=1ms" } else { "" };
        let line = format!("GET /echo?size={i}{delay} HTTP/1.1\r\nHost: x\r\n\r\n");
        all.push_str(&line);
    }
    let client = web.client(all);
    web.run_for(Nanos::from_millis(50));
    let text = web.text(client);
    let mut rest = text.as_str();
    for i in 0..200 {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {i}\r\n")) || head.ends_with(&format!(": {i}"))
        );
        rest = &body[i..];
    }
    assert!(rest.is_empty());
}

#[test]
fn a_delay_is_exact() {
    for delay in ["200us", "1ms", "20ms", "123456ns"] {
        let mut web = Web::plain();
        let client = web.client(format!("GET /echo?delay={delay} HTTP/1.1\r\nHost: x\r\n\r\n"));
        web.run_for(Nanos::from_millis(30));
        let took = web.since_start(web.clients[client].times[0].0);
        let delay: Nanos = delay.parse().unwrap();
        assert_eq!(took, ROUND_TRIP + ROUND_TRIP + delay);
        assert_eq!(timing(&web.text(client), "residence", 0), delay.0);
    }
}

/// Each delay begins when the one before it is over.
#[test]
fn delays_of_one_connection_add_up() {
    let mut web = Web::plain();
    let request = "GET /echo?delay=10ms HTTP/1.1\r\nHost: x\r\n\r\n";
    let client = web.client(request.repeat(3));
    web.run_for(Nanos::from_millis(40));
    let times = &web.clients[client].times;
    let took: Vec<u64> = times.iter().map(|(at, _)| web.since_start(*at).0).collect();
    let paths = 2 * ROUND_TRIP.0;
    assert_eq!(took, [1, 2, 3].map(|nth| paths + nth * 10_000_000));
    // How long it was there, the wait for its turn and all.
    let text = web.text(client);
    assert_eq!(
        [0, 1, 2].map(|nth| timing(&text, "residence", nth)),
        [1, 2, 3].map(|n| n * 10_000_000)
    );
}

#[test]
fn the_queue_follows_lindley() {
    let mut web = Web::plain();
    let mut arrivals = Vec::new();
    let mut at = Nanos::ZERO;
    for i in 0..40_u64 {
        let gap = Nanos((i * 7_919) % 1_700_000);
        web.run_for(gap);
        at = at + gap;
        arrivals.push(web.client("GET /queue?service=1ms HTTP/1.1\r\nHost: x\r\n\r\n"));
    }
    web.run_for(Nanos::from_millis(100));
    let (mut last, mut waited) = (0, 0);
    for client in arrivals {
        let text = web.text(client);
        let arrival = timing(&text, "arrival", 0);
        let departure = last.max(arrival) + 1_000_000;
        waited += u32::from(last > arrival);
        assert_eq!(timing(&text, "residence", 0), departure - arrival);
        let seen = web.since_start(web.clients[client].times[0].0);
        assert_eq!(seen.0, departure + LATENCY.0);
        last = departure;
    }
    assert!(waited > 5, "some had to wait");
}

/// The queue is in the order of the wire's arrivals, whenever its worker gets to see them.
#[test]
fn the_queue_goes_by_the_stamps_of_arrival() {
    const CLIENTS: usize = 7;
    let request = "GET /queue?service=300us HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut web = Web::plain();
    let clients: Vec<usize> = (0..CLIENTS).map(|_| web.client(request)).collect();
    web.run_for(Nanos::from_millis(10));
    // From here on all connections are stamped, and their worker comes round every 500 us only.
    web.grid = Nanos::from_micros(500);
    let (mut sent, mut arrivals) = ([0; CLIENTS], Vec::new());
    for i in 0..60 {
        // The last first, so that the order of the sockets is not that of the arrivals.
        let chosen = CLIENTS - 1 - (i * 3) % CLIENTS;
        let client = clients[chosen];
        if web.clients[client].times.len() <= sent[chosen] {
            web.run_for(Nanos::from_millis(20));
        }
        sent[chosen] += 1;
        arrivals.push((web.since_start(web.clock.now()) + LATENCY).0);
        web.clients[client].outbox = request.into();
        web.run_for(Nanos((i as u64 * 7_919) % 250_000));
    }
    web.run_for(Nanos::from_millis(100));
    let mut records = Vec::new();
    for client in clients {
        let text = web.text(client);
        for nth in 1..text.matches("Server-Timing").count() {
            records.push((timing(&text, "arrival", nth), timing(&text, "residence", nth)));
        }
    }
    records.sort_unstable();
    arrivals.sort_unstable();
    let told: Vec<u64> = records.iter().map(|(arrival, _)| *arrival).collect();
    assert_eq!(told, arrivals);
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
    web.front_grid = Nanos::from_micros(700);
    let mut clients = Vec::new();
    for i in 0..20_u64 {
        let client = web.client("");
        web.run_for(Nanos::from_millis(3));
        web.run_for(Nanos(i * 37_019));
        web.clients[client].outbox = "GET /queue?service=1us HTTP/1.1\r\nHost: x\r\n\r\n".into();
        clients.push((client, web.since_start(web.clock.now()) + LATENCY));
    }
    web.run_for(Nanos::from_millis(3));
    // The record counts from the start of the HTTP side.
    for (client, arrival) in clients {
        assert_eq!(timing(&web.text(client), "arrival", 0), arrival.0);
    }
}

#[test]
fn a_slow_reader_holds_little_and_not_for_ever() {
    let mut web = Web::plain();
    let client =
        web.client(format!("GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n{}", GET.repeat(2_000)));
    web.clients[client].deaf = true;
    web.run_for(SECOND);
    assert!(web.side.role().memory_bytes() < 1 << 20);
    web.clients[client].deaf = false;
    web.run_for(SECOND);
    let text = web.text(client);
    assert_eq!(text.matches("tare serves").count(), 2_000);
    assert_eq!(text.matches('x').count(), 1_000_000 + 2_000 * "text/plain".matches('x').count());
    let deaf = web.client("GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n");
    web.clients[deaf].deaf = true;
    web.run_for(Nanos::from_secs(64));
    assert!(web.side.role().is_empty());
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
        let client = web.client(request);
        web.run_for(Nanos::from_millis(5));
        assert_eq!(web.clients[client].ended, !keeps, "{request}");
        let text = web.text(client);
        assert_eq!(text.contains("Connection: close"), !keeps, "{text}");
        assert!(text.contains("\r\n\r\n") && text.len() < 200, "{text}");
    }
}

#[test]
fn bodies_come_back() {
    let body = "0123456789".repeat(5_000);
    let chunks: String = body
        .as_bytes()
        .chunks(1_000)
        .map(|c| format!("3e8;x=y\r\n{}\r\n", std::str::from_utf8(c).unwrap()))
        .collect();
    for request in [
        format!(
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 50000\r\n\r\n{body}"
        ),
        format!(
            "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\nT: t\r\n\r\n"
        ),
    ] {
        let mut web = Web::plain();
        let client = web.client(request + GET);
        web.run_for(Nanos::from_millis(50));
        let text = web.text(client);
        assert!(
            text.contains("Content-Type: a/b\r\nContent-Length: 50000\r\n\r\n0123"),
            "{text:.200}"
        );
        assert!(text.contains(&body) && text.ends_with("tare serves\n"));
    }
    let mut web = Web::plain();
    let client = web.client(
        "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    web.run_for(Nanos::from_millis(5));
    assert_eq!(web.text(client), "HTTP/1.1 100 Continue\r\n\r\n");
    web.clients[client].outbox = b"ab".to_vec();
    web.run_for(Nanos::from_millis(5));
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
        let mut web = Web::new(wire, settings());
        let mut all = start.into_bytes();
        all.extend(bytes);
        let client = web.client(all);
        web.run_for(Nanos::from_secs(8));
        let text = web.text(client);
        let refused = text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5");
        prop_assert!(refused || web.clients[client].ended, "{}", text);
    }
}
