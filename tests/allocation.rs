//! In the measured phase neither end allocates: every allocation of a worker's thread is counted.

mod bulk;
mod http;

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use tare_driver::BackendChoice;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::probe;
use tare_driver::uring::UringDriver;
use tare_driver::{Backend, Driver, Waker};
use tare_engine::latency::client::Client;
use tare_engine::schedule::{Schedule, Share};
use tare_engine::server::worker::front::{Acceptor, Arrival, Dispatch};
use tare_engine::server::worker::http::HttpArrival;
use tare_engine::server::worker::{Admitted, Meter, SessionLimits, Sessions};
use tare_engine::worker::{
    ClientRole, LoopPlan, ProgressSink, Role, SessionSpec, TurnCounters, Worker,
};
use tare_proto::auth::CookieKey;
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Accept, BackendAsked, Direction, Hello, Refuse, Test};
use tare_proto::hello::{Transport, WaitMode};
use tare_stats::result::{CpuUse, Instrument};
use tare_units::Nanos;
use tare_units::control::{Interrupt, Phase};
use tare_units::text::Id;

/// Operations of the measured phase before counting starts, and those during which it lasts.
const SETTLED: u64 = 100;
const COUNTED: u64 = 1_000;

/// What both ends see of the run.
#[derive(Debug, Default)]
struct Shared {
    completed: AtomicU64,
    measuring: AtomicBool,
    /// The server has counted, too: until then the client goes on.
    served: AtomicBool,
    over: AtomicBool,
}

impl Shared {
    fn is_settled(&self) -> bool {
        self.measuring.load(Ordering::Relaxed) && self.completed.load(Ordering::Relaxed) >= SETTLED
    }

    fn is_counted(&self) -> bool {
        self.completed.load(Ordering::Relaxed) >= SETTLED + COUNTED
    }
}

/// Shows the client's progress to the server's thread.
struct Progress(Arc<Shared>);

impl ProgressSink for Progress {
    fn phase(&mut self, _: Phase) {}

    fn counts(&mut self, completed: u64, _: u64) {
        self.0.completed.store(completed, Ordering::Relaxed);
    }

    fn measure_begins(&mut self) {
        self.0.measuring.store(true, Ordering::Relaxed);
    }

    fn measure_ends(&mut self) {
        self.0.measuring.store(false, Ordering::Relaxed);
    }
}

/// Lets everyone in.
struct Door {
    shared: Arc<Shared>,
    inbox: Sender<Admitted<OwnedFd, ()>>,
    waker: Waker,
}

impl Dispatch<OwnedFd> for Door {
    type Admission = Accept;

    fn admit(&mut self, hello: &Hello, _: Option<SocketAddr>) -> Result<Accept, Refuse> {
        Ok(Accept { wait: hello.wait, one_go: hello.connect_each, ..Accept::default() })
    }

    fn hand_over(&mut self, mut accept: Accept, arrival: Arrival<OwnedFd>) {
        accept.session = (arrival.hello.transport == Transport::Udp).then_some(Id(77));
        let admitted = Admitted { arrival, accept, permit: () };
        self.inbox.send(admitted).expect("the worker runs");
        self.waker.wake();
    }

    fn hand_over_http(&mut self, _: HttpArrival<OwnedFd>) {}

    fn log(&mut self, _kind: &'static str, line: &str) {
        panic!("the server complains: {line}");
    }

    fn nonce(&mut self) -> [u8; 32] {
        [0; 32]
    }

    fn is_stopping(&self) -> bool {
        self.shared.over.load(Ordering::Relaxed)
    }
}

/// Measures nothing.
struct Idle(Arc<Shared>);

impl Meter for Idle {
    fn reset(&mut self) {}

    fn measure_begins(&mut self) {}

    fn read(&mut self, _: &TurnCounters) -> (Instrument, CpuUse) {
        Default::default()
    }

    fn is_stopping(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }
}

/// One kind of run.
trait Kind: Debug + Copy + Sync {
    /// The role of its client.
    type Client: ClientRole + Send;

    fn client(&self, to: SocketAddr, shared: &Arc<Shared>) -> Self::Client;

    fn wait(&self) -> WaitMode;
}

/// A ping-pong.
#[derive(Debug, Clone, Copy)]
struct Case {
    transport: Transport,
    size_bytes: u32,
    connections: u32,
    rate_per_s: Option<f64>,
    wait: WaitMode,
    connect_each: bool,
}

const CLOSED: Case = Case {
    transport: Transport::Tcp,
    size_bytes: 64,
    connections: 1,
    rate_per_s: None,
    wait: WaitMode::Block,
    connect_each: false,
};

const CASES: &[Case] = &[
    CLOSED,
    Case { wait: WaitMode::Spin, ..CLOSED },
    Case { connections: 8, ..CLOSED },
    Case { size_bytes: 1, ..CLOSED },
    // Larger than a socket's buffer: short reads and writes at both ends.
    Case { size_bytes: 1 << 20, connections: 2, ..CLOSED },
    Case { rate_per_s: Some(5_000.0), connections: 4, ..CLOSED },
    Case { rate_per_s: Some(5_000.0), wait: WaitMode::Hybrid, ..CLOSED },
    // A connection for each operation: neither end allocates for one, nor does the server's front
    // see it.
    Case { connect_each: true, ..CLOSED },
    Case { transport: Transport::Udp, ..CLOSED },
    Case { transport: Transport::Udp, rate_per_s: Some(5_000.0), connections: 4, ..CLOSED },
];

impl Case {
    fn hello(&self) -> Hello {
        Hello {
            run_id: Id(1),
            test: Test::PingPong,
            transport: self.transport,
            direction: Direction::Both,
            size_bytes: u64::from(self.size_bytes),
            connect_each: self.connect_each,
            wait: self.wait,
            backend: BackendAsked::Auto,
            boot_id: None,
            cpus: Vec::new(),
            server_delay_ns: 0,
            timeout_ns: Nanos::from_secs(10).0,
            stream: None,
            gap_ns: 0,
            request_follows: false,
            brief: false,
            client_version: String::new(),
        }
    }
}

impl Kind for Case {
    type Client = Client<Progress>;

    fn wait(&self) -> WaitMode {
        self.wait
    }

    fn client(&self, to: SocketAddr, shared: &Arc<Shared>) -> Client<Progress> {
        let session = SessionSpec::new(to, self.hello(), None, Nanos::from_secs(10), 1);
        let plan = LoopPlan {
            warmup: Nanos::from_millis(50),
            duration: Some(Nanos::from_secs(60)),
            count: None,
            timeout: Nanos::from_secs(10),
            interval: Nanos::from_millis(100),
            wakeup: Nanos::from_micros(50),
            slots: self.connections,
            depth: 1,
        };
        let arrivals = self
            .rate_per_s
            .map(|rate| Schedule::constant(rate, Share::WHOLE).expect("a legal rate"));
        let progress = Progress(Arc::clone(shared));
        Client::new(session, plan, arrivals, progress, Interrupt::default())
    }
}

/// Counts what the thread allocates from the settled to the counted operation.
fn count<D, R>(worker: &mut Worker<D, MonotonicClock, R>, shared: &Shared) -> u64
where
    D: Driver,
    R: Role<D>,
{
    worker.run_until(|_| shared.is_settled()).expect("the driver works");
    let mut end = Ok(());
    let info = allocation_counter::measure(|| {
        end = worker.run_until(|_| shared.is_counted());
    });
    end.expect("the driver works");
    info.count_total
}

/// The session worker's thread; returns how often it allocated.
fn serve<D: Driver<Socket = OwnedFd>>(
    driver: D,
    inbox: Receiver<Admitted<OwnedFd, ()>>,
    waker: &Sender<Waker>,
    datagrams: Arc<UdpServerFront>,
    shared: &Arc<Shared>,
) -> u64 {
    waker.send(driver.waker()).expect("the test waits for it");
    let limits = SessionLimits { idle: Nanos::MAX, duration: Nanos::MAX };
    let sessions = Sessions::new(inbox, limits, datagrams, Idle(Arc::clone(shared)));
    let mut worker = Worker::new(driver, MonotonicClock, sessions);
    let count = count(&mut worker, shared);
    shared.served.store(true, Ordering::Relaxed);
    worker.run_until(|sessions| Role::<D>::is_finished(sessions)).expect("the driver works");
    count
}

/// The client's thread; returns how often it allocated.
fn ask<D, C>(driver: D, client: C, wait: WaitMode, shared: &Shared) -> u64
where
    D: Driver,
    C: ClientRole + Role<D>,
{
    let mut worker = Worker::new(driver, MonotonicClock, client);
    let (client, io) = worker.parts_mut();
    client.connect(io, MonotonicClock.now()).expect("the driver works");
    worker.run_until(C::is_ready).expect("driver works");
    assert!(worker.role().is_alive(), "it is not let in");
    let (client, _) = worker.parts_mut();
    client.start(MonotonicClock.now(), wait);
    let count = count(&mut worker, shared);
    worker.run_until(|_| shared.served.load(Ordering::Relaxed)).expect("the driver works");
    count
}

/// Allocations of the client and of the server.
fn run<D, K>(case: K, open: fn() -> D) -> (u64, u64)
where
    D: Driver<Socket = OwnedFd>,
    K: Kind<Client: Role<D>>,
{
    let shared = Arc::new(Shared::default());
    let datagrams = Arc::new(UdpServerFront::new(CookieKey([1; 32]), None));
    let (inbox, admitted) = unbounded();
    let (waker_tx, waker) = bounded(1);
    let (address_tx, address) = bounded(1);
    thread::scope(|scope| {
        let (ours, theirs) = (Arc::clone(&shared), Arc::clone(&datagrams));
        let server = scope.spawn(move || serve(open(), admitted, &waker_tx, theirs, &ours));
        let door = Door {
            shared: Arc::clone(&shared),
            inbox,
            waker: waker.recv().expect("the worker starts"),
        };
        scope.spawn(move || {
            let mut driver = EpollDriver::new().expect("epoll is there");
            let mut front = Acceptor::new(door, None, datagrams, Nanos::from_secs(30));
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let bound = front.listen(&mut driver, any).expect("a free port");
            address_tx.send(bound).expect("the test waits for it");
            Worker::new(driver, MonotonicClock, front)
                .run_until(<Acceptor<Door> as Role<EpollDriver>>::is_finished)
                .expect("the driver works");
        });
        let to = address.recv().expect("the front listens");
        let client = case.client(to, &shared);
        let client = scope.spawn(|| ask(open(), client, case.wait(), &shared));
        let asked = client.join().expect("no panic");
        shared.over.store(true, Ordering::Relaxed);
        (asked, server.join().expect("no panic"))
    })
}

/// Two runs that spin on the same CPUs would wait for each other's time slices.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check<D, K>(cases: &[K], open: fn() -> D)
where
    D: Driver<Socket = OwnedFd>,
    K: Kind<Client: Role<D>>,
{
    let _alone = alone();
    for &case in cases {
        let (client, server) = run(case, open);
        assert_eq!((client, server), (0, 0), "client, server: {case:?}");
    }
}

fn check_on_epoll<K: Kind<Client: Role<EpollDriver>>>(cases: &[K]) {
    check(cases, || EpollDriver::new().expect("epoll is there"));
}

fn check_on_uring<K: Kind<Client: Role<UringDriver>>>(cases: &[K]) {
    if let Err(error) = probe::choose(BackendChoice::Only(Backend::Uring)) {
        crate::util::left_out(&error.to_string());
        return;
    }
    check(cases, || UringDriver::new().expect("the probe says that it works"));
}

#[test]
fn nothing_is_allocated_while_measuring_on_epoll() {
    check_on_epoll(CASES);
}

#[test]
fn nothing_is_allocated_while_measuring_on_uring() {
    check_on_uring(CASES);
}

#[test]
fn the_counter_counts() {
    let info = allocation_counter::measure(|| drop(std::hint::black_box(vec![1u8])));
    assert_eq!(info.count_total, 1);
}
