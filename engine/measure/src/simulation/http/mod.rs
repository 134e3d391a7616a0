//! HTTP clients and a server on a simulated wire, stepped on one clock.
//!
//! Whatever happens between them happens at instants that can be worked out beforehand: the tests
//! ask for exact figures, with no tolerance. Every run has a bound on its steps, and in every run
//! the operations add up.

mod closed;
mod connections;
mod drop;
mod ending;
mod faults;
mod open;
mod overload;
mod property;
mod queue;
mod resend;
mod scripted;
mod served;
mod timeouts;

use super::*;
use crate::http::client::{HttpClient, HttpSpec, HttpTally};
use crate::http::plan::{HttpPlan, Late, OpenLoop};
use crate::schedule::{Arrivals, Load};
use crate::worker::destination::Destination;
use scripted::Scripted;
use served::Served;
use tare_driver::simulation::SimConfig;
use tare_proto::http1::request::{RequestSpec, Requests};
use tare_stats::result::Operations;
use tare_units::limits::CONNECTS_AT_ONCE;
use tare_units::target::Target;

const LISTEN: &str = "127.0.0.1:7117";
const MS: Nanos = Nanos::from_millis(1);
const SECOND: Nanos = Nanos::from_secs(1);

/// The server.
trait Far {
    /// One turn; how many completions it brought.
    fn turn(&mut self, now: Instant) -> usize;
    /// When it does something by itself.
    fn next_due(&self, now: Instant) -> Option<Instant>;
}

/// What is asked of the clients. Whatever a test does not set: one worker, one connection, closed
/// loop, 100 ms.
#[derive(Debug, Clone)]
struct Plan {
    wire: SimConfig,
    workers: u32,
    connections: u32,
    pipeline: u32,
    requests: Vec<(RequestSpec, u32)>,
    requests_per_connection: Option<u64>,
    reconnect_on_error: bool,
    expect: &'static str,
    late: Late,
    timeout: Nanos,
    connect_timeout: Nanos,
    connects_at_once: u32,
    connect_gap: Nanos,
    warmup: Nanos,
    duration: Option<Nanos>,
    count: Option<u64>,
    load: Option<(Load, Arrivals)>,
    wait: WaitMode,
    /// The clock moves at most this far in one step.
    step: Nanos,
    steps_max: u32,
}

fn get(target: &str) -> (RequestSpec, u32) {
    (RequestSpec::get(target, "x"), 1)
}

/// A request that must not be sent again when it may have been begun.
fn post(target: &str) -> (RequestSpec, u32) {
    let method = "POST".to_owned();
    let spec = RequestSpec { method, ..RequestSpec::get(target, "x") };
    (spec, 1)
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            wire: SimConfig { latency: LATENCY, ..SimConfig::default() },
            workers: 1,
            connections: 1,
            pipeline: 1,
            requests: vec![get("/")],
            requests_per_connection: None,
            reconnect_on_error: false,
            expect: "2xx,3xx",
            late: Late::Queue,
            timeout: Nanos::from_secs(2),
            connect_timeout: Nanos::from_secs(2),
            connects_at_once: CONNECTS_AT_ONCE,
            connect_gap: Nanos::ZERO,
            warmup: Nanos::ZERO,
            duration: Some(Nanos::from_millis(100)),
            count: None,
            load: None,
            wait: WaitMode::Block,
            step: SECOND,
            steps_max: STEPS_MAX,
        }
    }
}

impl Plan {
    fn get(target: &str) -> Self {
        Self { requests: vec![get(target)], ..Self::default() }
    }

    /// That many requests, however long it takes.
    fn counted(count: u64) -> Self {
        Self { count: Some(count), duration: None, ..Self::default() }
    }

    /// Open loop, equal gaps.
    fn at(rate_per_s: f64) -> Self {
        Self { load: Some((Load::steady(rate_per_s), Arrivals::Constant)), ..Self::default() }
    }

    fn share(&self, worker: u32) -> Share {
        Share::new(worker, self.workers)
    }

    /// The intended sends of all workers before the end, from the start of the run, in order.
    fn due(&self, until: Nanos) -> Vec<u64> {
        let (load, arrivals) = self.load.expect("open loop");
        Schedule::new(&load, arrivals, 5, Share::WHOLE)
            .unwrap()
            .map(|at| at.0)
            .take_while(|at| *at < until.0)
            .collect()
    }

    /// A worker, after connections of others.
    fn client(
        &self,
        worker: u32,
        first: u32,
        gauge: Seen,
        interrupt: Interrupt,
    ) -> HttpClient<Seen> {
        let share = self.share(worker);
        let count = self.count.map(|count| share.of(count));
        let requests = Requests::new(&self.requests, self.pipeline, 3).unwrap();
        let plan = HttpPlan {
            reconnect_on_error: self.reconnect_on_error,
            expect: self.expect.parse().unwrap(),
            connect_timeout: self.connect_timeout,
            open: self.load.map(|(_, arrivals)| OpenLoop {
                stages: Vec::new(),
                arrivals,
                late: self.late,
            }),
            ..HttpPlan::to(Target::Loopback)
        };
        let spec = HttpSpec {
            plan: Arc::new(plan),
            to: Destination::Tcp(LISTEN.parse().unwrap()),
            first,
            requests: Arc::new(requests),
            requests_per_connection: self.requests_per_connection,
            connects_at_once: self.connects_at_once,
            connect_gap: self.connect_gap,
            run: LoopPlan {
                warmup: self.warmup,
                duration: self.duration,
                count,
                timeout: self.timeout,
                interval: SECOND,
                wakeup: Nanos::ZERO,
                slots: u32::try_from(share.of(u64::from(self.connections))).unwrap(),
                depth: self.pipeline,
            },
        };
        let schedule =
            self.load.map(|(load, arrivals)| Schedule::new(&load, arrivals, 5, share).unwrap());
        HttpClient::new(spec, schedule, 0, gauge, interrupt)
    }

    /// Against what `tare serve` answers with.
    fn served(&self) -> Results {
        World::new(self, Served::new).run()
    }

    /// Against a server that keeps to a script.
    fn scripted(
        &self,
        script: impl FnMut(scripted::Event) -> scripted::Acts + 'static,
    ) -> (Results, Scripted) {
        let world = World::new(self, |net, clock| Scripted::new(net, clock, script));
        world.run_with_far()
    }
}

type Client = Worker<SimDriver, SimulatedClock, HttpClient<Seen>>;

/// Clients and a server on one wire.
struct World<F> {
    plan: Plan,
    clock: SimulatedClock,
    net: SimNet,
    far: F,
    clients: Vec<Client>,
    seen: Vec<Seen>,
    interrupt: Interrupt,
    /// Instants at which something happens of which the simulation knows nothing.
    wakes: Vec<Instant>,
    started_at: Instant,
    steps: u32,
}

/// What a run has come to.
struct Results {
    tally: HttpTally,
    outcome: Outcome,
    /// From the start of the warm-up to the last close.
    took: Nanos,
}

impl<F: Far> World<F> {
    fn new(plan: &Plan, far: impl FnOnce(&SimNet, &SimulatedClock) -> F) -> Self {
        let clock = SimulatedClock::new(Instant(1_000_000_000));
        let net = SimNet::new(plan.wire, clock.clone());
        let far = far(&net, &clock);
        let interrupt = Interrupt::default();
        let seen: Vec<Seen> = (0..plan.workers).map(|_| Seen::default()).collect();
        let mut first = 0;
        let client = |(worker, seen): (u32, &Seen)| {
            let mut driver = net.driver();
            let mut client = plan.client(worker, first, seen.clone(), interrupt.clone());
            first += u32::try_from(plan.share(worker).of(u64::from(plan.connections))).unwrap();
            client.connect(&mut driver, clock.now()).unwrap();
            Worker::new(driver, clock.clone(), client)
        };
        let clients = (0..plan.workers).zip(&seen).map(client).collect();
        Self {
            plan: plan.clone(),
            far,
            clients,
            seen,
            interrupt,
            wakes: Vec::new(),
            started_at: clock.now(),
            steps: 0,
            clock,
            net,
        }
    }

    /// Everything that happens at the present instant.
    fn settle(&mut self) {
        self.steps += 1;
        assert!(self.steps < self.plan.steps_max, "the run does not end");
        let mut silent = 0;
        while silent < 2 {
            let mut completions = self.far.turn(self.clock.now());
            for client in &mut self.clients {
                completions += client.turn().unwrap();
            }
            silent = if completions == 0 { silent + 1 } else { 0 };
        }
    }

    /// Moves the clock to where something happens next.
    fn advance(&self) {
        let now = self.clock.now();
        let due = self.far.next_due(now).into_iter();
        let own = due.chain(self.wakes.iter().copied()).filter(|at| *at > now);
        let next = own.chain(self.net.next_event()).min();
        let most = now + self.plan.step;
        self.clock.advance_to(next.map_or(most, |at| at.min(most)));
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        self.settle();
        while !done(self) {
            self.advance();
            self.settle();
        }
    }

    /// Steps until exactly that long after the start.
    fn run_for(&mut self, length: Nanos) {
        let end = self.started_at + length;
        self.wakes.push(end);
        self.run_until(|world| world.clock.now() >= end);
        self.wakes.pop();
    }

    /// Connects, and starts or gives up as a run does.
    fn start(&mut self) {
        self.run_until(|world| world.clients.iter().all(|client| client.role().is_ready()));
        let now = self.clock.now();
        let is_alive = self.clients.iter().all(|client| client.role().is_alive());
        for client in &mut self.clients {
            let (role, io) = client.parts_mut();
            if is_alive {
                role.start(now, self.plan.wait);
            } else {
                role.abandon(io, now).unwrap();
            }
        }
        self.started_at = now;
    }

    fn run(self) -> Results {
        self.run_with_far().0
    }

    fn run_with_far(mut self) -> (Results, F) {
        self.start();
        self.finish()
    }

    fn finish(mut self) -> (Results, F) {
        self.run_until(|world| {
            let mut clients = world.clients.iter();
            clients.all(|client| client.role().is_finished_now())
        });
        let took = self.clock.now().since(self.started_at);
        let mut merged: Option<(HttpTally, Outcome)> = None;
        let mut seen = (0, 0);
        for (client, gauge) in self.clients.drain(..).zip(&self.seen) {
            let (_, client, _) = client.into_parts();
            let (tally, outcome, _) = client.into_results();
            check(&tally, self.plan.load.is_some());
            let gauge = gauge.0.borrow();
            assert!(gauge.begins <= 1 && gauge.begins == gauge.ends);
            seen = (seen.0 + gauge.counts.0, seen.1 + gauge.counts.1);
            match &mut merged {
                Some((all, outcomes)) => {
                    all.merge(&tally);
                    outcomes.merge(outcome);
                }
                None => merged = Some((tally, outcome)),
            }
        }
        let (tally, outcome) = merged.expect("at least one worker");
        let operations = tally.record.measured.operations;
        assert_eq!(seen, (operations.completed, operations.failed + operations.timed_out));
        let results = Results { tally, outcome, took };
        (results, self.far)
    }
}

/// What holds for every worker of every run.
fn check(tally: &HttpTally, open_loop: bool) {
    for (phase, of) in [("measured", &tally.record.measured), ("warm-up", &tally.record.warmup)] {
        assert!(of.operations.adds_up(), "{phase}: {:?}", of.operations);
    }
    let operations = tally.record.measured.operations;
    let codes = &tally.codes;
    let counted: u64 = codes.iter().map(|code| code.count).sum();
    assert_eq!(counted, codes.responses());
    assert!(codes.responses() >= operations.completed, "{operations:?}");
    assert!(codes.responses() <= operations.completed + operations.failed);
    // Requests that failed without a response have a cause each.
    let answered = operations.completed + operations.failed - codes.responses();
    assert!(answered + operations.timed_out <= tally.record.measured.errors.total());
    let headline = tally.record.recording.headline_metric();
    let headline = tally.record.recording.distribution(headline).unwrap();
    let unanswered = operations.timed_out + operations.in_flight_at_end;
    let unsent = operations.unsent_at_end + operations.dropped;
    let censored = unanswered + if open_loop { unsent } else { 0 };
    // Those behind one that timed out have failed, and are lower bounds as well.
    assert!(headline.censored() >= censored, "{operations:?}");
    assert!(headline.censored() <= censored + operations.failed);
    assert_eq!(
        headline.count(),
        operations.completed + headline.censored(),
        "one sample per response"
    );
}

impl Results {
    fn operations(&self) -> Operations {
        self.tally.record.measured.operations
    }

    fn distribution(&self, metric: Metric) -> &Distribution {
        let recording = &self.tally.record.recording;
        recording.distribution(metric).expect("this loop has it")
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

    /// How often something went wrong in the measured phase.
    fn errors(&self, phase: &str, cause: &str) -> u64 {
        let counts = self.tally.record.measured.errors.to_counts();
        let mut counts = counts.iter();
        counts.find(|e| e.phase == phase && e.cause == cause).map_or(0, |e| e.count)
    }

    fn error_kinds(&self) -> usize {
        self.tally.record.measured.errors.to_counts().len()
    }
}
