//! HTTP clients, against what `tare serve` answers with and against a scripted server.

mod closed;
mod connections;
mod ending;
mod faults;
mod open;
mod overload;
mod property;
mod queue;
mod resend;
mod scripted;
mod timeouts;

use super::servers::HttpSide;
use super::*;
use crate::http::client::{HttpClient, HttpSpec, HttpTally};
use crate::http::plan::{HttpPlan, Late, OpenLoop};
use crate::schedule::{Arrivals, Load};
use crate::server::worker::http::{HttpSettings, Stall};
use crate::worker::destination::Destination;
use scripted::{Acts, Event, Scripted};
use std::sync::Arc;
use tare_proto::http1::request::{Body, Framing, RequestSpec, Requests};
use tare_units::limits::CONNECTS_AT_ONCE;
use tare_units::target::Target;

type World<S> = super::World<HttpClient<Seen>, S>;
type Results<S> = super::Results<HttpTally, S>;

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
    duration: Nanos,
    /// Ends the run instead of the duration.
    count: Option<u64>,
    load: Option<(Load, Arrivals)>,
    wait: WaitMode,
    step: Nanos,
    steps_max: u32,
}

fn get(target: &str) -> (RequestSpec, u32) {
    (RequestSpec::get(target, "x"), 1)
}

/// A request that must not be sent again when it may have been begun.
fn post(target: &str) -> (RequestSpec, u32) {
    (RequestSpec { method: "POST".to_owned(), ..RequestSpec::get(target, "x") }, 1)
}

/// The same, with a body of so many times one byte.
fn upload(byte: u8, length: usize) -> (RequestSpec, u32) {
    let (spec, weight) = post("/");
    let body = Some(Body { bytes: vec![byte; length], framing: Framing::Length });
    (RequestSpec { body, ..spec }, weight)
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            wire: wire(),
            workers: 1,
            connections: 1,
            pipeline: 1,
            requests: vec![get("/")],
            requests_per_connection: None,
            reconnect_on_error: false,
            expect: "2xx,3xx",
            late: Late::Queue,
            timeout: secs(2),
            connect_timeout: secs(2),
            connects_at_once: CONNECTS_AT_ONCE,
            connect_gap: Nanos::ZERO,
            warmup: Nanos::ZERO,
            duration: ms(100),
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
        Self { count: Some(count), ..Self::default() }
    }

    /// Open loop, equal gaps.
    fn at(rate_per_s: f64) -> Self {
        Self { load: Some((Load::steady(rate_per_s), Arrivals::Constant)), ..Self::default() }
    }

    /// The intended sends of all workers, from the start of the run, in order.
    fn schedule(&self) -> impl Iterator<Item = Nanos> + use<> {
        let (load, arrivals) = self.load.expect("open loop");
        Schedule::new(&load, arrivals, 5, Share::WHOLE).unwrap()
    }

    /// Those of them before the end.
    fn due(&self, until: Nanos) -> Vec<u64> {
        self.schedule().map(|at| at.0).take_while(|at| *at < until.0).collect()
    }

    /// A worker, after connections of others.
    fn client(
        &self,
        share: Share,
        first: u32,
        connections: u32,
        interrupt: Interrupt,
    ) -> HttpClient<Seen> {
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
            to: Destination::Tcp(listen()),
            first,
            requests: Arc::new(requests),
            requests_per_connection: self.requests_per_connection,
            connects_at_once: self.connects_at_once,
            connect_gap: self.connect_gap,
            run: LoopPlan {
                warmup: self.warmup,
                duration: self.count.is_none().then_some(self.duration),
                count,
                timeout: self.timeout,
                interval: SECOND,
                wakeup: Nanos::ZERO,
                slots: connections,
                depth: self.pipeline,
            },
        };
        let schedule =
            self.load.map(|(load, arrivals)| Schedule::new(&load, arrivals, 5, share).unwrap());
        HttpClient::new(spec, schedule, 0, Seen::default(), interrupt)
    }

    fn started<S: Server>(&self, server: impl FnOnce(&SimNet, &SimulatedClock) -> S) -> World<S> {
        let mut world = World::new(self.wire, server);
        (world.wait, world.step, world.steps_max) = (self.wait, self.step, self.steps_max);
        let mut first = 0;
        for worker in 0..self.workers {
            let share = Share::new(worker, self.workers);
            let connections = u32::try_from(share.of(u64::from(self.connections))).unwrap();
            world.add(|interrupt| self.client(share, first, connections, interrupt));
            first += connections;
        }
        world.started()
    }

    /// Against what `tare serve` answers with, and it stands still at times.
    fn stalled(&self, stalls: Vec<Stall>) -> World<HttpSide> {
        let settings = HttpSettings {
            wait: WaitMode::Block,
            idle: secs(3_600),
            connections_max: 10_000,
            seed: 1,
            stalls,
        };
        self.started(|net, clock| HttpSide::new(net, clock, settings))
    }

    fn served(&self) -> Results<HttpSide> {
        self.stalled(Vec::new()).finish()
    }

    /// Against a server that keeps to a script.
    fn with_script(&self, script: impl FnMut(Event) -> Acts + 'static) -> World<Scripted> {
        self.started(|net, _| Scripted::new(net, script))
    }

    fn scripted(&self, script: impl FnMut(Event) -> Acts + 'static) -> Results<Scripted> {
        self.with_script(script).finish()
    }
}

impl Party for HttpClient<Seen> {
    type Tally = HttpTally;

    fn results(self) -> (HttpTally, Outcome, Seen) {
        self.into_results()
    }

    fn merge(all: &mut HttpTally, other: HttpTally) {
        all.merge(&other);
    }

    fn check(tally: &HttpTally, seen: &Seen) {
        let measured = &tally.record.measured;
        let operations = measured.operations;
        // Those behind one that timed out have failed, and are lower bounds as well.
        check_record(&tally.record, seen, operations.failed);
        let responses = tally.codes.responses();
        assert_eq!(tally.codes.iter().map(|code| code.count).sum::<u64>(), responses);
        let ended = operations.completed + operations.failed;
        assert!((operations.completed..=ended).contains(&responses), "{operations:?}");
        // Requests that failed without a response have a cause each.
        assert!(ended - responses + operations.timed_out <= measured.errors.total());
    }
}

impl Recorded for HttpTally {
    fn record(&self) -> &Record {
        &self.record
    }
}

impl<S> Results<S> {
    fn error_kinds(&self) -> usize {
        self.tally.record.measured.errors.to_counts().len()
    }

    #[track_caller]
    fn assert_no_failure(&self) {
        assert_eq!(self.outcome.failure.as_ref().map(ToString::to_string), None);
    }
}
