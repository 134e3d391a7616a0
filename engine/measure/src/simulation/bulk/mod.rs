//! Bulk streams, both ends on a simulated wire.
//!
//! A turn that had something to do takes its time here ([`Setup::turn`]): else a path without
//! latency would carry payload without end at one instant.

mod ending;
mod tcp;
mod udp;

use super::{Door, Idle};
use crate::bandwidth::client::{BulkClient, BulkSpec, BulkTally, StreamAccount};
use crate::server::worker::front::Acceptor;
use crate::server::worker::{SessionLimits, Sessions};
use crate::worker::outcome::Outcome;
use crate::worker::{ClientRole, ProgressSink, SessionSpec, Worker};

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam::channel::unbounded;

use tare_driver::clock::{Clock, SimulatedClock};
use tare_driver::simulation::{SimConfig, SimDriver, SimNet, SimSocket};
use tare_proto::auth::CookieKey;
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{BackendAsked, Direction, Figures, Hello, Test, Transport, WaitMode};
use tare_proto::stream::{Received, Sent, StreamAsk};
use tare_units::control::{Interrupt, Phase};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

const STEPS_MAX: u32 = 500_000;
const DIRECTIONS: [Direction; 3] = [Direction::Up, Direction::Down, Direction::Both];

const fn ms(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

/// What a simulated run is to be. Whatever a test does not set is one TCP stream of 4-KiB messages
/// from the client to the server, a millisecond away, measured for 50 ms after 10.
#[derive(Debug, Clone)]
struct Setup {
    wire: SimConfig,
    transport: Transport,
    direction: Direction,
    streams: u32,
    size_bytes: u32,
    /// Ends the run, where there are any.
    bytes: u64,
    warmup: Nanos,
    duration: Nanos,
    interval: Nanos,
    rate_bits_per_s: u64,
    discard: bool,
    zero_copy: bool,
    zero_copy_auto: bool,
    /// What the server is asked to use.
    congestion: Option<String>,
    timeout: Nanos,
    limits: SessionLimits,
    /// How long a turn takes that brought something.
    turn: Nanos,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            wire: SimConfig { latency: ms(1), ..SimConfig::default() },
            transport: Transport::Tcp,
            direction: Direction::Up,
            streams: 1,
            size_bytes: 4 << 10,
            bytes: 0,
            warmup: ms(10),
            duration: ms(50),
            interval: ms(10),
            rate_bits_per_s: 0,
            discard: false,
            zero_copy: false,
            zero_copy_auto: false,
            congestion: None,
            timeout: Nanos::from_secs(2),
            limits: SessionLimits { idle: Nanos::from_secs(30), duration: Nanos::MAX },
            turn: Nanos::from_micros(100),
        }
    }
}

impl Setup {
    fn ask(&self) -> StreamAsk {
        let by_time = |span: Nanos| if self.bytes > 0 { 0 } else { span.0 };
        let mut ask = StreamAsk {
            warmup_ns: by_time(self.warmup),
            duration_ns: by_time(self.duration),
            bytes: self.bytes,
            interval_ns: self.interval.0,
            rate_bits_per_s: self.rate_bits_per_s,
            streams: self.streams,
            zero_copy: self.zero_copy,
            zero_copy_auto: self.zero_copy_auto,
            discard: self.discard,
            ..StreamAsk::default()
        };
        ask.socket.congestion.clone_from(&self.congestion);
        ask
    }

    fn spec(&self, to: SocketAddr) -> BulkSpec {
        let hello = Hello {
            run_id: Id(7),
            test: Test::Stream,
            transport: self.transport,
            direction: self.direction,
            size_bytes: u64::from(self.size_bytes),
            connect_each: false,
            wait: WaitMode::Block,
            backend: BackendAsked::Auto,
            boot_id: None,
            cpus: Vec::new(),
            server_delay_ns: 0,
            timeout_ns: self.timeout.0,
            stream: Some(self.ask()),
            gap_ns: 0,
            request_follows: false,
            brief: false,
            client_version: String::new(),
        };
        BulkSpec {
            session: SessionSpec::new(to, hello, None, self.timeout, 11),
            options: Default::default(),
            streams: self.streams,
            first: 0,
            wakeup: Nanos::ZERO,
        }
    }

    fn run(&self) -> Results {
        let mut world = World::new(self);
        world.start();
        world.finish()
    }
}

#[derive(Debug, Clone, Default)]
struct Seen(Rc<RefCell<(Vec<Phase>, u32, u32)>>);

impl ProgressSink for Seen {
    fn phase(&mut self, phase: Phase) {
        self.0.borrow_mut().0.push(phase);
    }

    fn counts(&mut self, _: u64, _: u64) {}

    fn measure_begins(&mut self) {
        self.0.borrow_mut().1 += 1;
    }

    fn measure_ends(&mut self) {
        self.0.borrow_mut().2 += 1;
    }
}

type Party<R> = Worker<SimDriver, SimulatedClock, R>;

struct World {
    turn: Nanos,
    clock: SimulatedClock,
    net: SimNet,
    front: Party<Acceptor<Door, SimSocket>>,
    server: Party<Sessions<SimSocket, Rc<()>, Idle>>,
    client: Option<Party<BulkClient<Seen>>>,
    interrupt: Interrupt,
    seen: Seen,
    /// Held by every session, and twice here.
    alive: Rc<()>,
    stop: Rc<Cell<bool>>,
    /// The server takes no turns in between.
    frozen: Option<(Instant, Instant)>,
    started_at: Instant,
    /// Rounds at this instant that brought nothing.
    silent: u32,
    steps: u32,
}

struct Results {
    tally: BulkTally,
    outcome: Outcome,
    took: Nanos,
    /// Sessions that the server kept when the client had ended.
    sessions: usize,
}

impl World {
    fn new(setup: &Setup) -> Self {
        let clock = SimulatedClock::new(Instant(1_000_000_000));
        let net = SimNet::new(setup.wire, clock.clone());
        let datagrams = Arc::new(UdpServerFront::new(CookieKey([5; 32]), None));
        let (inbox, sessions) = unbounded();
        let alive = Rc::new(());
        let door = Door {
            http: None,
            inbox,
            alive: Rc::clone(&alive),
            sessions_max: 100,
            one_go: true,
            asked: 0,
            sessions: 0,
            log: Vec::new(),
        };
        let mut driver = net.driver();
        let mut front = Acceptor::new(door, None, Arc::clone(&datagrams), setup.limits.idle);
        let address = front.listen(&mut driver, "127.0.0.1:7117".parse().unwrap()).unwrap();
        let front = Worker::new(driver, clock.clone(), front);
        let meter = Idle::default();
        let sessions = Sessions::new(sessions, setup.limits, datagrams, meter.clone());
        let server = Worker::new(net.driver(), clock.clone(), sessions);
        let (seen, interrupt) = (Seen::default(), Interrupt::default());
        let mut driver = net.driver();
        let mut client = BulkClient::new(setup.spec(address), seen.clone(), interrupt.clone());
        client.connect(&mut driver, clock.now()).unwrap();
        Self {
            turn: setup.turn,
            front,
            server,
            client: Some(Worker::new(driver, clock.clone(), client)),
            interrupt,
            seen,
            alive,
            stop: meter.stop,
            frozen: None,
            started_at: clock.now(),
            silent: 0,
            steps: 0,
            clock,
            net,
        }
    }

    fn client(&self) -> &BulkClient<Seen> {
        self.client.as_ref().expect("not gone yet").role()
    }

    fn sessions(&self) -> usize {
        Rc::strong_count(&self.alive) - 2
    }

    fn now(&self) -> Nanos {
        self.clock.now().since(self.started_at)
    }

    /// A turn of each party; then the clock moves on.
    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "the run does not end: {:?}", self.client);
        let now = self.clock.now();
        let mut completions = self.front.turn().unwrap();
        let is_frozen = |(from, until): (Instant, Instant)| from <= now && now < until;
        if !self.frozen.is_some_and(is_frozen) {
            completions += self.server.turn().unwrap();
        }
        if let Some(client) = &mut self.client {
            completions += client.turn().unwrap();
        }
        if completions > 0 {
            self.silent = 0;
            self.clock.advance_to(now + self.turn);
            return;
        }
        // What a role pushes on hearing of the time is seen in the next round only.
        self.silent += 1;
        if self.silent < 2 {
            return;
        }
        self.silent = 0;
        let thaw = self.frozen.map(|(_, until)| until).filter(|at| *at > now);
        let next = self.net.next_event().into_iter().chain(thaw).min();
        let most = now + Nanos::from_secs(1);
        self.clock.advance_to(next.map_or(most, |at| at.min(most)));
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.step();
        }
    }

    /// Steps until that long after the start.
    fn run_for(&mut self, length: Nanos) {
        self.run_until(|world| world.now() >= length);
    }

    /// Connects, and starts or gives up as a run does.
    fn start(&mut self) {
        self.run_until(|world| world.client().is_ready());
        let now = self.clock.now();
        let (role, io) = self.client.as_mut().expect("not gone yet").parts_mut();
        if role.is_alive() {
            role.start(now, WaitMode::Block);
        } else {
            role.abandon(io, now).unwrap();
        }
        self.started_at = now;
    }

    /// The server's sessions are gone, and their sockets; its door stands open.
    fn restart_server(&mut self) {
        let (_, sessions) = unbounded();
        let datagrams = Arc::new(UdpServerFront::new(CookieKey([5; 32]), None));
        let limits = SessionLimits { idle: Nanos::from_secs(30), duration: Nanos::MAX };
        let sessions = Sessions::new(sessions, limits, datagrams, Idle::default());
        self.server = Worker::new(self.net.driver(), self.clock.clone(), sessions);
    }

    /// The client is killed: its sockets are closed by its kernel.
    fn kill_client(&mut self) {
        self.client = None;
    }

    fn finish(mut self) -> Results {
        self.run_until(|world| world.client().is_finished_now());
        let took = self.now();
        let client = self.client.take().expect("not gone yet");
        let (driver, client, _) = client.into_parts();
        let (tally, outcome, _) = client.into_results();
        drop(driver);
        let (begins, ends) = (self.seen.0.borrow().1, self.seen.0.borrow().2);
        assert!(begins <= 1 && begins == ends, "{begins} {ends}");
        // Over UDP a session stays for a second, for a client that has to ask again.
        let until = self.now() + ms(1_300);
        self.run_for(until);
        Results { sessions: self.sessions(), tally, outcome, took }
    }
}

/// One direction of a stream: what each end says of it.
#[derive(Debug)]
struct Leg<'a> {
    sent: &'a Sent,
    received: &'a Received,
}

fn theirs(stream: &StreamAccount) -> &Figures {
    stream.theirs.as_ref().expect("the server's figures")
}

fn legs(stream: &StreamAccount) -> Vec<Leg<'_>> {
    let theirs = theirs(stream).stream.as_ref().expect("its account");
    let pairs = [(&stream.own.sent, &theirs.received), (&theirs.sent, &stream.own.received)];
    let leg = |(sent, received): (&'_ Option<Sent>, &'_ Option<Received>)| {
        assert_eq!(sent.is_some(), received.is_some(), "both ends or neither");
        Some((sent.is_some(), ())).filter(|(some, ())| *some)
    };
    pairs
        .into_iter()
        .filter(|pair| leg(*pair).is_some())
        .map(|(sent, received)| Leg {
            sent: sent.as_ref().unwrap(),
            received: received.as_ref().unwrap(),
        })
        .collect()
}

impl Results {
    /// Nothing went wrong, and the server keeps nothing.
    fn check_clean(&self) {
        assert!(self.outcome.failure.is_none(), "{:?}", self.outcome.failure);
        assert_eq!(self.tally.errors.total(), 0, "{:?}", self.tally.errors);
        assert!(!self.outcome.cut_short);
        assert_eq!(self.sessions, 0, "the server keeps sessions");
        for stream in &self.tally.streams {
            assert_eq!(theirs(stream).cut_short, None);
            assert_eq!(theirs(stream).errors, []);
        }
    }

    fn errors(&self, phase: &str, cause: &str) -> u64 {
        let all = self.tally.errors.to_counts();
        let named = all.iter().filter(|e| e.phase == phase && e.cause == cause);
        named.map(|e| e.count).sum()
    }

    fn failure(&self) -> &str {
        self.outcome.failure.as_ref().expect("a reason").message()
    }

    /// All legs of all streams.
    fn legs(&self) -> Vec<Leg<'_>> {
        self.tally.streams.iter().flat_map(legs).collect()
    }
}
