//! Both ends of a test on a simulated wire: a server, its clients, and clients that are led by
//! hand, stepped on one clock.
//!
//! Whatever happens between them happens at instants that can be worked out beforehand, so the
//! tests here ask for exact figures, with no tolerance. Every run has a bound on its steps, and in
//! every run the operations add up.

mod bulk;
mod closed;
mod faults;
mod hand;
mod http;
mod http_server;
mod open;
mod overload;
mod server;
mod servers;
mod sessions;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::latency::client::Client;
use crate::schedule::{Schedule, Share};
use crate::server::worker::SessionLimits;
use crate::worker::outcome::Outcome;
use crate::worker::tally::{Errors, Record};
use crate::worker::{ClientRole, LoopPlan, ProgressSink, Role, SessionSpec, Worker};
use hand::Hand;
use servers::{Server, SessionServer};
use tare_driver::Driver;
use tare_driver::clock::{Clock, SimulatedClock};
use tare_driver::simulation::{SimConfig, SimDriver, SimNet, SimSocket};
use tare_proto::hello::{BackendAsked, Direction, Hello, Test, Transport, WaitMode};
use tare_stats::histogram::{Distribution, Metric, Recording};
use tare_stats::result::Operations;
use tare_units::control::{Interrupt, Phase};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

const LISTEN: &str = "127.0.0.1:7117";
/// One way on the wire.
const LATENCY: Nanos = us(100);
const ROUND_TRIP: Nanos = us(200);
const MS: Nanos = ms(1);
const SECOND: Nanos = secs(1);
const STEPS_MAX: u32 = 500_000;
const FOR_EVER: SessionLimits = SessionLimits { idle: secs(30), duration: Nanos::MAX };

const fn us(n: u64) -> Nanos {
    Nanos::from_micros(n)
}

const fn ms(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

const fn secs(n: u64) -> Nanos {
    Nanos::from_secs(n)
}

/// Each of these with each of those.
fn pairs<A: Copy, B>(
    these: impl IntoIterator<Item = A>,
    those: impl IntoIterator<Item = B> + Clone,
) -> impl Iterator<Item = (A, B)> {
    these.into_iter().flat_map(move |a| those.clone().into_iter().map(move |b| (a, b)))
}

fn listen() -> SocketAddr {
    LISTEN.parse().unwrap()
}

fn wire() -> SimConfig {
    SimConfig { latency: LATENCY, ..SimConfig::default() }
}

/// What a client says first, in its plainest form.
fn hello(test: Test, transport: Transport, size_bytes: u32, timeout: Nanos) -> Hello {
    Hello {
        run_id: Id(7),
        test,
        transport,
        direction: Direction::Both,
        size_bytes: u64::from(size_bytes),
        connect_each: false,
        wait: WaitMode::Block,
        backend: BackendAsked::Auto,
        boot_id: None,
        cpus: Vec::new(),
        server_delay_ns: 0,
        timeout_ns: timeout.0,
        stream: None,
        gap_ns: 0,
        request_follows: false,
        brief: false,
        client_version: String::new(),
    }
}

/// A ping-pong run. Whatever a test does not set is TCP, one connection, 64 bytes, no warm-up.
#[derive(Debug, Clone)]
struct Setup {
    wire: SimConfig,
    transport: Transport,
    connections: u32,
    size_bytes: u32,
    connect_each: bool,
    duration: Nanos,
    /// Ends the run instead of the duration.
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
    step: Nanos,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            wire: wire(),
            transport: Transport::Tcp,
            connections: 1,
            size_bytes: 64,
            connect_each: false,
            duration: ms(100),
            count: None,
            warmup: Nanos::ZERO,
            timeout: secs(2),
            rate_per_s: None,
            server_delay: Nanos::ZERO,
            wait: WaitMode::Block,
            limits: FOR_EVER,
            sessions_max: 100,
            one_go: true,
            step: SECOND,
        }
    }
}

impl Setup {
    fn udp() -> Self {
        Self { transport: Transport::Udp, ..Self::default() }
    }

    /// Open loop, equal gaps.
    fn at(rate_per_s: f64) -> Self {
        Self { rate_per_s: Some(rate_per_s), ..Self::default() }
    }

    /// The same over both transports, for what holds on either. Over UDP there are no connections
    /// that could be made for each operation.
    fn over_both(self) -> [Self; 2] {
        let udp = Self { transport: Transport::Udp, connect_each: false, ..self };
        [self, udp]
    }

    fn hello(&self) -> Hello {
        Hello {
            connect_each: self.connect_each,
            wait: self.wait,
            server_delay_ns: self.server_delay.0,
            ..hello(Test::PingPong, self.transport, self.size_bytes, self.timeout)
        }
    }

    fn client(&self, to: SocketAddr, interrupt: Interrupt) -> Client<Seen> {
        let session = SessionSpec::new(to, self.hello(), None, self.timeout, 11);
        let plan = LoopPlan {
            warmup: self.warmup,
            duration: self.count.is_none().then_some(self.duration),
            count: self.count,
            timeout: self.timeout,
            interval: Nanos::from_secs(1),
            wakeup: Nanos::ZERO,
            slots: self.connections,
            depth: 1,
        };
        let arrivals = self.rate_per_s.map(|rate| Schedule::constant(rate, Share::WHOLE).unwrap());
        Client::new(session, plan, arrivals, Seen::default(), interrupt)
    }

    /// The server, and nobody else.
    fn alone(&self) -> World {
        let mut world = World::new(self.wire, |net, clock| {
            SessionServer::new(net, clock, self.limits, self.sessions_max, self.one_go)
        });
        (world.wait, world.step) = (self.wait, self.step);
        world
    }

    fn world(&self) -> World {
        let mut world = self.alone();
        world.add(|interrupt| self.client(listen(), interrupt));
        world
    }

    fn started(&self) -> World {
        self.world().started()
    }

    /// From the first connection to the last close.
    fn run(&self) -> Results {
        self.started().finish()
    }
}

/// What a client has shown while it ran.
#[derive(Debug, Clone, Default)]
struct Seen {
    phases: Vec<Phase>,
    counts: (u64, u64),
    begins: u32,
    ends: u32,
}

impl ProgressSink for Seen {
    fn phase(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    fn counts(&mut self, completed: u64, errors: u64) {
        self.counts = (completed, errors);
    }

    fn measure_begins(&mut self) {
        self.begins += 1;
    }

    fn measure_ends(&mut self) {
        self.ends += 1;
    }
}

/// A client as the simulation runs it.
trait Party: ClientRole<Progress = Seen> + Role<SimDriver> + Debug {
    type Tally;
    /// How long the server is watched after the clients have ended.
    const WATCHED: Nanos = Nanos::ZERO;

    fn results(self) -> (Self::Tally, Outcome, Seen);
    fn merge(all: &mut Self::Tally, other: Self::Tally);
    /// What holds for every client of every run.
    fn check(tally: &Self::Tally, seen: &Seen);
}

impl Party for Client<Seen> {
    type Tally = Record;

    fn results(self) -> (Record, Outcome, Seen) {
        self.into_results()
    }

    fn merge(all: &mut Record, other: Record) {
        all.merge(&other);
    }

    fn check(record: &Record, seen: &Seen) {
        check_record(record, seen, 0);
    }
}

/// Recording, tally and what was shown say the same. So many of the failed operations may be in
/// the recording, as lower bounds.
fn check_record(record: &Record, seen: &Seen, failed_censored: u64) {
    for (phase, tally) in [("measured", &record.measured), ("warm-up", &record.warmup)] {
        assert!(tally.operations.adds_up(), "{phase}: {:?}", tally.operations);
    }
    let operations = record.measured.operations;
    let metric = record.recording.headline_metric();
    let headline = record.recording.distribution(metric).unwrap();
    let unsent = operations.unsent_at_end + operations.dropped;
    let unsent = if metric == Metric::Response { unsent } else { 0 };
    let least = operations.timed_out + operations.in_flight_at_end + unsent;
    let censored = headline.censored();
    assert!((least..=least + failed_censored).contains(&censored), "{censored}: {operations:?}");
    assert_eq!(headline.count(), operations.completed + censored, "{operations:?}");
    assert_eq!(seen.counts, (operations.completed, operations.failed + operations.timed_out));
}

type SimWorker<R> = Worker<SimDriver, SimulatedClock, R>;

/// A server and its clients on one wire.
struct World<C = Client<Seen>, S = SessionServer> {
    clock: SimulatedClock,
    net: SimNet,
    server: S,
    clients: Vec<SimWorker<C>>,
    hands: Vec<Hand>,
    interrupt: Interrupt,
    wait: WaitMode,
    /// The clock moves at most this far in one step: what is polled for happens that late.
    step: Nanos,
    /// How long a turn takes that brought something.
    turn: Nanos,
    /// Instants at which something happens of which the simulation knows nothing.
    wakes: Vec<Instant>,
    started_at: Instant,
    steps: u32,
    steps_max: u32,
}

impl<C: Party, S: Server> World<C, S> {
    fn new(wire: SimConfig, server: impl FnOnce(&SimNet, &SimulatedClock) -> S) -> Self {
        let clock = SimulatedClock::new(Instant(1_000_000_000));
        let net = SimNet::new(wire, clock.clone());
        Self {
            server: server(&net, &clock),
            clients: Vec::new(),
            hands: Vec::new(),
            interrupt: Interrupt::default(),
            wait: WaitMode::Block,
            step: SECOND,
            turn: Nanos::ZERO,
            wakes: Vec::new(),
            started_at: clock.now(),
            steps: 0,
            steps_max: STEPS_MAX,
            clock,
            net,
        }
    }

    /// Adds a client, which begins to connect.
    fn add(&mut self, client: impl FnOnce(Interrupt) -> C) {
        let mut client = client(self.interrupt.clone());
        let mut driver = self.net.driver();
        client.connect(&mut driver, self.clock.now()).unwrap();
        self.clients.push(Worker::new(driver, self.clock.clone(), client));
    }

    /// Adds a TCP client that is led by hand, and sends this at first. Returns its index.
    fn hand(&mut self, bytes: impl Into<Vec<u8>>) -> usize {
        let mut hand = Hand::tcp(&self.net);
        hand.send(bytes);
        self.hands.push(hand);
        self.hands.len() - 1
    }

    fn client(&self) -> &C {
        self.clients[0].role()
    }

    /// Time since the start.
    fn now(&self) -> Nanos {
        self.clock.now().since(self.started_at)
    }

    /// Everything that happens at the present instant; where turns take time, one of each party.
    /// Returns whether that took time.
    fn settle(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < self.steps_max, "the run does not end: {:?}", self.clients);
        // What is pushed once the completions of a round are handled is seen in the next one only.
        let mut silent = 0;
        while silent < 2 {
            let now = self.clock.now();
            let mut completions = self.server.turn(now);
            for client in &mut self.clients {
                completions += client.turn().unwrap();
            }
            completions += self.hands.iter_mut().map(|hand| hand.turn(now)).sum::<usize>();
            silent = if completions == 0 { silent + 1 } else { 0 };
            if completions > 0 && self.turn > Nanos::ZERO {
                self.clock.advance_to(now + self.turn);
                return true;
            }
        }
        false
    }

    /// Moves the clock to where something happens next.
    fn advance(&self) {
        let now = self.clock.now();
        let due = self.server.next_due(now).into_iter();
        let own = due.chain(self.wakes.iter().copied()).filter(|at| *at > now);
        let next = own.chain(self.net.next_event()).min();
        let most = now + self.step;
        self.clock.advance_to(next.map_or(most, |at| at.min(most)));
    }

    /// Runs to the first instant at which, when all has happened, `done` says so.
    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        loop {
            let took_time = self.settle();
            if done(self) {
                return;
            }
            if !took_time {
                self.advance();
            }
        }
    }

    /// Runs until exactly that long after the start.
    fn run_to(&mut self, length: Nanos) {
        let end = self.started_at + length;
        self.wakes.push(end);
        self.run_until(|world| world.clock.now() >= end);
        self.wakes.pop();
    }

    /// Runs for that long from now on.
    fn run_for(&mut self, length: Nanos) {
        self.run_to(self.now() + length);
    }

    /// Connects, and starts or gives up as a run does.
    fn started(mut self) -> Self {
        self.run_until(|world| world.clients.iter().all(|client| client.role().is_ready()));
        let now = self.clock.now();
        let is_alive = self.clients.iter().all(|client| client.role().is_alive());
        for client in &mut self.clients {
            let (role, io) = client.parts_mut();
            if is_alive {
                role.start(now, self.wait);
            } else {
                role.abandon(io, now).unwrap();
            }
        }
        self.started_at = now;
        self
    }

    fn is_finished(&self) -> bool {
        self.clients.iter().all(|client| client.role().is_finished_now())
    }

    fn finish(mut self) -> Results<C::Tally, S> {
        self.run_until(Self::is_finished);
        let took = self.now();
        let mut all: Option<(C::Tally, Outcome, Seen)> = None;
        for client in self.clients.drain(..) {
            let (_, client, _) = client.into_parts();
            let (tally, outcome, seen) = client.results();
            assert!(seen.begins <= 1 && seen.begins == seen.ends, "{seen:?}");
            C::check(&tally, &seen);
            match &mut all {
                Some(all) => {
                    C::merge(&mut all.0, tally);
                    all.1.merge(outcome);
                }
                None => all = Some((tally, outcome, seen)),
            }
        }
        if C::WATCHED > Nanos::ZERO {
            self.run_for(C::WATCHED);
        }
        let (tally, outcome, seen) = all.expect("at least one client");
        Results { tally, outcome, seen, took, server: self.server }
    }
}

/// What a run has come to.
struct Results<T = Record, S = SessionServer> {
    tally: T,
    outcome: Outcome,
    /// By the first client.
    seen: Seen,
    /// From the start of the warm-up to the last close.
    took: Nanos,
    server: S,
}

impl<T, S> Results<T, S> {
    fn failure(&self) -> &str {
        self.outcome.failure.as_ref().expect("a reason").message()
    }

    #[track_caller]
    fn assert_failure(&self, words: &str) {
        assert!(self.failure().contains(words), "{}", self.failure());
    }
}

/// A tally of operations.
trait Recorded {
    fn record(&self) -> &Record;
}

impl Recorded for Record {
    fn record(&self) -> &Record {
        self
    }
}

impl<T: Recorded, S> Results<T, S> {
    fn operations(&self) -> Operations {
        self.tally.record().measured.operations
    }

    fn warmup(&self) -> Operations {
        self.tally.record().warmup.operations
    }

    fn distribution(&self, metric: Metric) -> &Distribution {
        self.tally.record().recording.distribution(metric).expect("this loop has it")
    }

    /// How many operations were completed in the measured phase, and how many failed.
    fn ends(&self) -> (u64, u64) {
        let operations = self.operations();
        (operations.completed, operations.failed)
    }

    /// How often something went wrong in the measured phase.
    fn errors(&self, phase: &str, cause: &str) -> u64 {
        times(&self.tally.record().measured.errors, phase, cause)
    }

    #[track_caller]
    fn assert_no_errors(&self) {
        let errors = &self.tally.record().measured.errors;
        assert_eq!(errors.total(), 0, "{errors:?}");
    }

    /// All samples of a metric are that long, and there are that many.
    #[track_caller]
    fn assert_all(&self, metric: Metric, count: u64, length: Nanos) {
        let lengths = self.distribution(metric);
        assert_eq!(lengths.count(), count, "{metric:?}");
        // A sample that is a lower bound only says nothing of the least one.
        let least = (lengths.censored() < count).then_some(length.0);
        let bounds = (lengths.min_ns(), lengths.max_ns());
        assert_eq!(bounds, (least, Some(length.0)), "{metric:?}");
    }

    /// Every completed operation has a sample of a metric, and all are that long.
    #[track_caller]
    fn assert_each(&self, metric: Metric, length: Nanos) {
        self.assert_all(metric, self.operations().completed, length);
    }

    /// The samples of a metric are these: bin by bin, and in sum, least (unless some are lower
    /// bounds) and most to the nanosecond.
    #[track_caller]
    fn assert_are(&self, metric: Metric, samples: impl IntoIterator<Item = u64>) {
        let mut expected = Distribution::new();
        samples.into_iter().for_each(|s| expected.record(Nanos(s)));
        let found = self.distribution(metric);
        let known = found.censored() == 0;
        let least = |d: &Distribution| d.min_ns().filter(|_| known);
        let figures = |d: &Distribution| (d.count(), least(d), d.max_ns(), d.mean_ns());
        assert_eq!(figures(found), figures(&expected), "{metric:?}");
        assert_eq!(found.encode(), expected.encode(), "{metric:?}");
    }
}

fn times(errors: &Errors, phase: &str, cause: &str) -> u64 {
    let counts = errors.to_counts();
    counts.iter().filter(|e| e.phase == phase && e.cause == cause).map(|e| e.count).sum()
}
