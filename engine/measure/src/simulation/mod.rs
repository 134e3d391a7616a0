//! Both ends of a test on a simulated wire: a front, a session worker and a client, stepped on one
//! clock.
//!
//! Whatever happens between them happens at instants that can be worked out beforehand, so the
//! tests here ask for exact figures. Every run has a bound on its steps.

mod bulk;
mod closed;
mod faults;
mod http;
mod http_server;
mod late;
mod open;
mod overload;
mod server;
mod sessions;

use crate::worker::ClientRole;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam::channel::{Sender, unbounded};

use crate::latency::client::Client;
use crate::schedule::{Schedule, Share};
use crate::server::worker::front::{Acceptor, Arrival, Dispatch};
use crate::server::worker::http::{HttpArrival, Inbox};
use crate::server::worker::{Admitted, Meter, SessionLimits, Sessions};
use crate::worker::outcome::Outcome;
use crate::worker::tally::{Record, Tally};
use crate::worker::{LoopPlan, ProgressSink, Role, SessionSpec, TurnCounters, Worker};
use tare_driver::clock::{Clock, SimulatedClock};
use tare_driver::simulation::{SimConfig, SimDriver, SimNet, SimSocket};
use tare_proto::auth::CookieKey;
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Accept, BackendAsked, Direction, Hello, Refuse, RefuseCode, Test};
use tare_proto::hello::{Transport, WaitMode};
use tare_stats::histogram::{Distribution, Metric, Recording};
use tare_stats::result::{CpuUse, Instrument};
use tare_units::control::{Interrupt, Phase};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// One way on the wire.
const LATENCY: Nanos = Nanos::from_micros(100);
/// There and back.
const ROUND_TRIP: Nanos = Nanos::from_micros(200);
/// More steps than any run here may need.
const STEPS_MAX: u32 = 200_000;

/// What a simulated run is to be. Whatever a test does not set is TCP, one connection, 64 bytes, no
/// warm-up.
#[derive(Debug, Clone)]
struct Setup {
    wire: SimConfig,
    transport: Transport,
    connections: u32,
    size_bytes: u32,
    connect_each: bool,
    duration: Option<Nanos>,
    count: Option<u64>,
    warmup: Nanos,
    timeout: Nanos,
    rate_per_s: Option<f64>,
    server_delay: Nanos,
    wait: WaitMode,
    limits: SessionLimits,
    sessions_max: usize,
    /// The server takes a request right behind its hello.
    one_go: bool,
    /// The clock moves at most this far in one step: what is polled for happens that late.
    step: Nanos,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            wire: SimConfig { latency: LATENCY, ..SimConfig::default() },
            transport: Transport::Tcp,
            connections: 1,
            size_bytes: 64,
            connect_each: false,
            duration: Some(Nanos::from_millis(100)),
            count: None,
            warmup: Nanos::ZERO,
            timeout: Nanos::from_secs(2),
            rate_per_s: None,
            server_delay: Nanos::ZERO,
            wait: WaitMode::Block,
            limits: SessionLimits { idle: Nanos::from_secs(30), duration: Nanos::MAX },
            sessions_max: 100,
            one_go: true,
            step: Nanos::from_secs(1),
        }
    }
}

impl Setup {
    fn udp() -> Self {
        Self { transport: Transport::Udp, ..Self::default() }
    }

    /// Both transports, for what holds on either.
    fn both(change: impl Fn(&mut Self)) -> [Self; 2] {
        [Self::default(), Self::udp()].map(|mut setup| {
            change(&mut setup);
            setup
        })
    }

    fn hello(&self) -> Hello {
        Hello {
            run_id: Id(7),
            test: Test::PingPong,
            transport: self.transport,
            direction: Direction::Both,
            size_bytes: u64::from(self.size_bytes),
            connect_each: self.connect_each,
            wait: self.wait,
            backend: BackendAsked::Auto,
            boot_id: None,
            cpus: Vec::new(),
            server_delay_ns: self.server_delay.0,
            timeout_ns: self.timeout.0,
            stream: None,
            gap_ns: 0,
            request_follows: false,
            brief: false,
            client_version: String::new(),
        }
    }

    fn client(&self, to: SocketAddr, interrupt: Interrupt, gauge: Seen) -> Client<Seen> {
        let session = SessionSpec::new(to, self.hello(), None, self.timeout, 11);
        let plan = LoopPlan {
            warmup: self.warmup,
            duration: self.duration.filter(|_| self.count.is_none()),
            count: self.count,
            timeout: self.timeout,
            interval: Nanos::from_secs(1),
            wakeup: Nanos::ZERO,
            slots: self.connections,
            depth: 1,
        };
        let arrivals = self.rate_per_s.map(|rate| Schedule::constant(rate, Share::WHOLE).unwrap());
        Client::new(session, plan, arrivals, gauge, interrupt)
    }

    /// From the first connection to the last close.
    fn run(&self) -> Results {
        let mut world = World::new(self);
        world.start();
        world.finish()
    }
}

/// What the client has shown while it ran.
#[derive(Debug, Clone, Default)]
struct Seen(Rc<RefCell<SeenState>>);

#[derive(Debug, Default)]
struct SeenState {
    phases: Vec<Phase>,
    counts: (u64, u64),
    begins: u32,
    ends: u32,
}

impl ProgressSink for Seen {
    fn phase(&mut self, phase: Phase) {
        self.0.borrow_mut().phases.push(phase);
    }

    fn counts(&mut self, completed: u64, errors: u64) {
        self.0.borrow_mut().counts = (completed, errors);
    }

    fn measure_begins(&mut self) {
        self.0.borrow_mut().begins += 1;
    }

    fn measure_ends(&mut self) {
        self.0.borrow_mut().ends += 1;
    }
}

/// Admits up to a number of sessions, and sends them to the one session worker.
#[derive(Debug)]
struct Door {
    /// Where HTTP is served.
    http: Option<Inbox<SimSocket>>,
    inbox: Sender<Admitted<SimSocket, Rc<()>>>,
    /// Each session holds one.
    alive: Rc<()>,
    sessions_max: usize,
    one_go: bool,
    /// How often it was asked for a session.
    asked: u64,
    sessions: u64,
    log: Vec<String>,
}

impl Dispatch<SimSocket> for Door {
    type Admission = Accept;

    fn admit(&mut self, hello: &Hello, _peer: Option<SocketAddr>) -> Result<Accept, Refuse> {
        self.asked += 1;
        if Rc::strong_count(&self.alive) > self.sessions_max {
            return Err(Refuse::new(RefuseCode::Busy, "no room").remedy("come again"));
        }
        Ok(Accept {
            backend: "sim".to_owned(),
            wait: hello.wait,
            one_go: self.one_go && hello.connect_each,
            ..Accept::default()
        })
    }

    fn hand_over(&mut self, mut accept: Accept, arrival: Arrival<SimSocket>) {
        if arrival.hello.transport == Transport::Udp {
            self.sessions += 1;
            accept.session = Some(Id(self.sessions));
        }
        let permit = Rc::clone(&self.alive);
        self.inbox
            .send(Admitted { arrival, accept, permit })
            .expect("the session worker lives as long");
    }

    fn hand_over_http(&mut self, arrival: HttpArrival<SimSocket>) {
        if let Some(http) = &self.http {
            http.send(arrival);
        }
    }

    fn log(&mut self, _kind: &'static str, line: &str) {
        self.log.push(line.to_owned());
    }

    fn nonce(&mut self) -> [u8; 32] {
        [3; 32]
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

/// Measures nothing, and stops when told.
#[derive(Debug, Default, Clone)]
struct Idle {
    stop: Rc<Cell<bool>>,
    /// How often it was read.
    reads: Rc<Cell<u32>>,
}

impl Meter for Idle {
    fn reset(&mut self) {}

    fn measure_begins(&mut self) {}

    fn read(&mut self, _: &TurnCounters) -> (Instrument, CpuUse) {
        self.reads.set(self.reads.get() + 1);
        (Instrument::default(), CpuUse::default())
    }

    fn is_stopping(&self) -> bool {
        self.stop.get()
    }
}

type Server = Worker<SimDriver, SimulatedClock, Sessions<SimSocket, Rc<()>, Idle>>;

/// A server and a client on one wire.
struct World {
    setup: Setup,
    clock: SimulatedClock,
    net: SimNet,
    front: Worker<SimDriver, SimulatedClock, Acceptor<Door, SimSocket>>,
    server: Server,
    client: Option<Worker<SimDriver, SimulatedClock, Client<Seen>>>,
    seen: Seen,
    interrupt: Interrupt,
    /// Held by every session, and here.
    alive: Rc<()>,
    stop: Rc<Cell<bool>>,
    reads: Rc<Cell<u32>>,
    /// The server takes no turns in between.
    frozen: Option<(Instant, Instant)>,
    started_at: Instant,
    steps: u32,
}

/// What a run has come to.
struct Results {
    recording: Recording,
    warmup: Tally,
    measured: Tally,
    outcome: Outcome,
    seen: SeenState,
    /// From the start of the warm-up to the last close.
    took: Nanos,
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
            // The door's own share and ours do not count.
            sessions_max: setup.sessions_max + 1,
            one_go: setup.one_go,
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
        let mut client = setup.client(address, interrupt.clone(), seen.clone());
        client.connect(&mut driver, clock.now()).unwrap();
        Self {
            setup: setup.clone(),
            front,
            server,
            client: Some(Worker::new(driver, clock.clone(), client)),
            seen,
            interrupt,
            alive,
            stop: meter.stop,
            reads: meter.reads,
            frozen: None,
            started_at: clock.now(),
            clock,
            net,
            steps: 0,
        }
    }

    fn client(&self) -> &Client<Seen> {
        self.client.as_ref().expect("not gone yet").role()
    }

    /// Sessions that the server keeps.
    fn sessions(&self) -> usize {
        Rc::strong_count(&self.alive) - 2
    }

    fn is_frozen(&self) -> bool {
        let now = self.clock.now();
        self.frozen.is_some_and(|(from, until)| from <= now && now < until)
    }

    /// Everything that happens at the present instant.
    fn settle(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "the run does not end: {:?}", self.client);
        // What is pushed once the completions of a round are handled is seen in the next one only.
        let mut silent = 0;
        while silent < 2 {
            let mut completions = self.front.turn().unwrap();
            if !self.is_frozen() {
                completions += self.server.turn().unwrap();
            }
            if let Some(client) = &mut self.client {
                completions += client.turn().unwrap();
            }
            silent = if completions == 0 { silent + 1 } else { 0 };
        }
    }

    /// Moves the clock to where something happens next.
    fn advance(&self) {
        let now = self.clock.now();
        let thaw = self.frozen.map(|(_, until)| until).filter(|at| *at > now);
        let next = self.net.next_event().into_iter().chain(thaw).min();
        let most = now + self.setup.step;
        self.clock.advance_to(next.map_or(most, |at| at.min(most)));
    }

    /// Runs to the first instant at which, when all has happened, `done` says so.
    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        self.settle();
        while !done(self) {
            self.advance();
            self.settle();
        }
    }

    /// Steps until that long after the start.
    fn run_for(&mut self, length: Nanos) {
        let end = self.started_at + length;
        self.run_until(|world| world.clock.now() >= end);
    }

    /// Connects, and starts or gives up as a run does.
    fn start(&mut self) {
        self.run_until(|world| world.client().is_ready());
        let (clock, wait) = (self.clock.clone(), self.setup.wait);
        let client = self.client.as_mut().expect("not gone yet");
        let (role, io) = client.parts_mut();
        if role.is_alive() {
            role.start(clock.now(), wait);
        } else {
            role.abandon(io, clock.now()).unwrap();
        }
        self.started_at = clock.now();
    }

    fn run_to_end(&mut self) {
        self.run_until(|world| world.client().is_finished_now());
    }

    fn finish(mut self) -> Results {
        self.run_to_end();
        let took = self.clock.now().since(self.started_at);
        let client = self.client.take().expect("not gone yet");
        let (driver, client, _) = client.into_parts();
        let (record, outcome, _) = client.into_results();
        let Record { recording, warmup, measured } = record;
        drop(driver);
        assert!(measured.operations.adds_up(), "measured: {:?}", measured.operations);
        assert!(warmup.operations.adds_up(), "warm-up: {:?}", warmup.operations);
        let results =
            Results { recording, warmup, measured, outcome, seen: self.seen.0.take(), took };
        results.check_counts();
        results
    }
}

impl Results {
    fn distribution(&self, metric: Metric) -> &Distribution {
        self.recording.distribution(metric).expect("this loop has it")
    }

    /// Least, median and most of a metric: the same where every sample is.
    fn spread(&self, metric: Metric) -> [u64; 3] {
        let lengths = self.distribution(metric);
        [
            lengths.min_ns().expect("samples"),
            lengths.quantile(50.0).expect("enough samples").value_ns,
            lengths.max_ns().expect("samples"),
        ]
    }

    /// Recording, tally and gauge tell the same story.
    fn check_counts(&self) {
        let operations = self.measured.operations;
        let headline = self.distribution(self.recording.headline_metric());
        let censored =
            operations.timed_out + operations.in_flight_at_end + operations.unsent_at_end;
        assert_eq!(headline.censored(), censored, "{operations:?}");
        assert_eq!(headline.count(), operations.completed + censored, "{operations:?}");
        let (completed, errors) = self.seen.counts;
        assert_eq!(completed, operations.completed);
        assert_eq!(errors, operations.failed + operations.timed_out);
        assert!(self.seen.begins <= 1 && self.seen.begins == self.seen.ends);
    }

    /// How often something went wrong, in either phase.
    fn errors(&self, phase: &str, cause: &str) -> u64 {
        let all = [&self.warmup, &self.measured].map(|tally| tally.errors.to_counts());
        all.iter().flatten().filter(|e| e.phase == phase && e.cause == cause).map(|e| e.count).sum()
    }

    /// Everything that a second run of the same seed must repeat.
    fn fingerprint(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} {}",
            self.warmup,
            self.measured,
            self.outcome,
            self.took,
            self.distribution(Metric::Service).encode()
        )
    }
}
