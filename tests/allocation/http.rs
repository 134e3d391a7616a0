//! The same of HTTP: at the client, and at the HTTP side of a server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{Sender, bounded};
use tare_driver::BackendChoice;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::probe;
use tare_driver::uring::UringDriver;
use tare_driver::{Backend, Driver, Waker};
use tare_engine::http::client::{HttpClient, HttpSpec};
use tare_engine::http::plan::HttpPlan;
use tare_engine::schedule::{Schedule, Share};
use tare_engine::server::worker::http::{
    Arrivals, HttpArrival, HttpServer, HttpSettings, StampClock, inbox,
};
use tare_engine::worker::destination::Destination;
use tare_engine::worker::{LoopPlan, Role, Worker};
use tare_proto::hello::WaitMode;
use tare_proto::http1::request::{RequestSpec, Requests};
use tare_units::control::Interrupt;
use tare_units::target::Target;
use tare_units::{Instant, Nanos};

use super::{Progress, Shared, alone, ask, count};

const INTERVAL: Nanos = Nanos::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Case {
    path: &'static str,
    connections: u32,
    pipeline: u32,
    rate_per_s: Option<f64>,
    wait: WaitMode,
    /// The server is held to it, too.
    both: bool,
}

const CLOSED: Case = Case {
    path: "/",
    connections: 1,
    pipeline: 1,
    rate_per_s: None,
    wait: WaitMode::Block,
    both: true,
};

const CASES: &[Case] = &[
    CLOSED,
    Case { wait: WaitMode::Spin, ..CLOSED },
    Case { path: "/echo", connections: 4, ..CLOSED },
    // So many that responses are gathered.
    Case { connections: 64, ..CLOSED },
    Case { connections: 4, pipeline: 8, ..CLOSED },
    Case { connections: 10, rate_per_s: Some(5_000.0), wait: WaitMode::Hybrid, ..CLOSED },
    // In many pieces.
    Case { path: "/bytes/200000", connections: 2, ..CLOSED },
    // Whose grammar is parsed for every request.
    Case { path: "/echo?status=511:50", connections: 2, both: false, ..CLOSED },
];

impl Case {
    fn client(&self, to: SocketAddr, shared: &Arc<Shared>) -> HttpClient<Progress> {
        let request = RequestSpec::get(self.path, &to.to_string());
        let requests = Requests::new(&[(request, 1)], self.pipeline, 1);
        let plan =
            HttpPlan { connect_timeout: Nanos::from_secs(10), ..HttpPlan::to(Target::Loopback) };
        let spec = HttpSpec {
            plan: Arc::new(plan),
            to: Destination::Tcp(to),
            first: 0,
            requests: Arc::new(requests.expect("a request that can be written")),
            requests_per_connection: None,
            connects_at_once: 256,
            connect_gap: Nanos::ZERO,
            run: LoopPlan {
                warmup: Nanos::from_millis(50),
                duration: Some(Nanos::from_secs(60)),
                count: None,
                timeout: Nanos::from_secs(10),
                interval: INTERVAL,
                wakeup: Nanos::from_micros(50),
                slots: self.connections,
                depth: self.pipeline,
            },
        };
        let schedule = self
            .rate_per_s
            .map(|rate| Schedule::constant(rate, Share::WHOLE).expect("a legal rate"));
        let progress = Progress(Arc::clone(shared));
        HttpClient::new(spec, schedule, 0, progress, Interrupt::default())
    }
}

/// Nothing here asks for stamps.
#[derive(Debug)]
struct Unstamped;

impl StampClock for Unstamped {
    fn refresh(&mut self) {}

    fn to_instant(&self, _: Nanos) -> Option<Instant> {
        None
    }
}

/// The HTTP thread of a server; returns how often it allocated.
fn serve<D: Driver<Socket = OwnedFd>>(
    driver: D,
    arrivals: Arrivals<OwnedFd>,
    waker: &Sender<Waker>,
    stopping: &Arc<AtomicBool>,
    shared: &Shared,
) -> u64 {
    waker.send(driver.waker()).expect("the test waits for it");
    let settings = HttpSettings {
        wait: WaitMode::Block,
        idle: Nanos::from_secs(60),
        connections_max: 1_000,
        seed: 1,
        stalls: Vec::new(),
    };
    let (stopping, now) = (Arc::clone(stopping), MonotonicClock.now());
    let side = HttpServer::new(arrivals, settings, stopping, Box::new(Unstamped), now);
    let mut worker = Worker::new(driver, MonotonicClock, side);
    let count = count(&mut worker, shared);
    shared.served.store(true, Ordering::Relaxed);
    worker.run_until(<HttpServer<OwnedFd> as Role<D>>::is_finished).expect("the driver works");
    count
}

/// Allocations of the client and of the server.
fn run<D>(case: Case, open: fn() -> D) -> (u64, u64)
where
    D: Driver<Socket = OwnedFd>,
{
    let shared = Arc::new(Shared::default());
    let stopping = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = listener.local_addr().expect("it is bound");
    let (inbox, arrivals) = inbox(1_000);
    let (waker_tx, waker) = bounded(1);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(open(), arrivals, &waker_tx, &stopping, &shared));
        let waker = waker.recv().expect("the worker starts");
        let front = waker.clone();
        let accepted = listener.try_clone().expect("a descriptor is left");
        scope.spawn(move || {
            for _ in 0..case.connections {
                let (stream, _) = accepted.accept().expect("the client connects");
                stream.set_nonblocking(true).expect("it is a socket");
                let arrival = HttpArrival {
                    socket: stream.into(),
                    bytes: Vec::new(),
                    at: MonotonicClock.now(),
                    stamp: None,
                };
                assert!(inbox.send(arrival), "the worker runs");
                front.wake();
            }
        });
        let client = case.client(to, &shared);
        let client = scope.spawn(|| ask(open(), client, case.wait, &shared));
        let asked = client.join();
        stopping.store(true, Ordering::Relaxed);
        waker.wake();
        // Should the client have ended before it had connected them all.
        drop(TcpStream::connect(to));
        (asked.expect("no panic"), server.join().expect("no panic"))
    })
}

fn check<D: Driver<Socket = OwnedFd>>(open: fn() -> D) {
    let _alone = alone();
    for &case in CASES {
        let (client, server) = run(case, open);
        assert_eq!(client, 0, "{case:?}");
        // A page is made when more connections than ever before are answered at once, and kept from
        // then on; the table of buffers may grow for it. Of thousands of requests, none has
        // another.
        let pages = 2 * u64::from(case.connections - 1);
        assert!(!case.both || server <= pages, "server: {server}, {case:?}");
    }
}

#[test]
fn nothing_is_allocated_by_http_on_epoll() {
    check(|| EpollDriver::new().expect("epoll is there"));
}

#[test]
fn nothing_is_allocated_by_http_on_uring() {
    if let Err(error) = probe::choose(BackendChoice::Only(Backend::Uring)) {
        crate::util::left_out(&error.to_string());
        return;
    }
    check(|| UringDriver::new().expect("the probe says that it works"));
}
