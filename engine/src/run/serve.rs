//! The far end: one front thread, and a worker thread per CPU and backend that clients ask for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::backend::{self, AnyDriver};
use super::cpus::Cpus;
use super::environment;
use super::plan::{BackendChoice, ServePlan, Transport, WaitMode};
use super::veth::VethNamespace;
use crate::clock::{Clock, ClockQuality, MonotonicClock};
use crate::driver::epoll::EpollDriver;
use crate::driver::probe::Chosen;
use crate::driver::{Backend, Driver, DriverError, OpError, Waker};
use crate::error::{Error, Result};
use crate::limits::PENDING_MAX;
use crate::proto::auth::CookieKey;
use crate::proto::datagram::UdpServerFront;
use crate::proto::hello::{Accept, BackendAsked, Hello, Refuse, RefuseCode};
use crate::proto::text::Id;
use crate::result::{CpuUse, Environment, Instrument};
use crate::sys::usage::{CpuTimes, DisturbanceProbe, boot_id, thread_usage};
use crate::sys::{affinity, random, rlimit, tuning};
use crate::units::{Instant, Nanos};
use crate::worker::server::front::{Arrival, Front, Place};
use crate::worker::server::{Admitted, Meter, SessionLimits, Sessions};
use crate::worker::{Role, TurnCounters, Worker};

/// With `--once`, the server ends when the first client has had no session for this long: between the
/// steps of a sweep it has none for a moment.
const ONCE_GRACE: Nanos = Nanos::from_secs(1);

/// Descriptors beside clients' connections: listeners, rings, wakers, files that are looked into.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Where log lines go.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopping: Arc<AtomicBool>,
    ended: Receiver<()>,
    front: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to listen and to serve. `avoid` are CPUs that session workers keep off where they can; with a
    /// namespace, the server listens inside it.
    ///
    /// # Errors
    /// When an address cannot be listened on, or the machine has no backend.
    pub fn start(
        plan: &ServePlan,
        avoid: &[u32],
        namespace: Option<&VethNamespace>,
        log: Log,
    ) -> Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (ready_tx, ready) = bounded(1);
        let (ended_tx, ended) = bounded(1);
        rlimit::raise_descriptors(
            u64::from(plan.max_sessions) + PENDING_MAX as u64 + DESCRIPTORS_BESIDE,
        );
        let dispatcher = Dispatcher::new(plan, avoid, Arc::clone(&stopping), log)?;
        let plan = plan.clone();
        let run = move || {
            let outcome = Self::run_front(&plan, dispatcher, &ready_tx);
            if let Err(error) = outcome {
                let _ = ready_tx.try_send(Err(error));
            }
            let _ = ended_tx.try_send(());
        };
        let front = std::thread::scope(|scope| {
            // A thread inherits the network namespace of its maker.
            let spawn = move || {
                std::thread::Builder::new()
                    .name("tare-front".to_owned())
                    .spawn(run)
            };
            let in_place = scope.spawn(move || {
                if let Some(namespace) = namespace {
                    namespace.enter_on_this_thread()?;
                }
                spawn().map_err(|e| Error::environment(format!("no thread for the server: {e}")))
            });
            in_place
                .join()
                .unwrap_or_else(|_| Err(Error::bug("starting the server panicked")))
        })?;
        let addresses = match ready.recv() {
            Ok(answer) => answer?,
            Err(_) => return Err(Error::bug("the server's front ended before it was ready")),
        };
        Ok(Self {
            addresses,
            stopping,
            ended,
            front: Some(front),
        })
    }

    fn run_front(
        plan: &ServePlan,
        dispatcher: Dispatcher,
        ready: &Sender<Result<Vec<SocketAddr>>>,
    ) -> Result<()> {
        let unable = |e: DriverError| Error::environment(format!("the server cannot run: {e}"));
        let mut driver = EpollDriver::new().map_err(unable)?;
        let datagrams = Arc::clone(&dispatcher.datagrams);
        let mut front = Front::new(dispatcher, plan.secret.clone(), datagrams);
        let mut addresses = Vec::new();
        for &address in &plan.listen {
            addresses.push(listen(
                &mut front,
                &mut driver,
                address,
                plan.listen_is_default,
            )?);
        }
        let _ = ready.try_send(Ok(addresses));
        let mut worker = Worker::new(driver, MonotonicClock, front);
        let end = worker.run_until(<Front<Dispatcher> as Role<EpollDriver>>::is_finished);
        let (driver, front, _) = worker.into_parts();
        drop(driver);
        front.into_place().join();
        end.map_err(unable)
    }

    /// The addresses served.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the server has ended by itself, or `patience` is over. Returns whether it has ended.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        !matches!(
            self.ended.recv_timeout(patience),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(front) = self.front.take() {
            let _ = front.join();
        }
    }
}

fn listen(
    front: &mut Front<Dispatcher>,
    driver: &mut EpollDriver,
    address: SocketAddr,
    is_default: bool,
) -> Result<SocketAddr> {
    let mut outcome = front.listen(driver, address);
    let no_ipv6 = matches!(
        outcome,
        Err(OpError::FamilyNotSupported | OpError::AddressNotAvailable)
    );
    if is_default && no_ipv6 && address.is_ipv6() {
        outcome = front.listen(
            driver,
            SocketAddr::new(IpAddr::from([0, 0, 0, 0]), address.port()),
        );
    }
    outcome.map_err(|error| {
        let what = Error::environment(format!("cannot listen on {address}: {error}"));
        match error {
            OpError::AddressInUse => what.remedy(format!(
                "another program has the port: see `ss -lntup 'sport = :{}'`, or give another --listen",
                address.port()
            )),
            OpError::AddressNotAvailable => {
                what.remedy("the address is not on this machine: see `ip addr`")
            }
            OpError::NotPermitted | OpError::AccessDenied => {
                what.remedy("ports below 1024 need root or CAP_NET_BIND_SERVICE")
            }
            _ => what,
        }
    })
}

/// Sessions alive, by run.
#[derive(Debug, Default)]
struct Registry(Mutex<Census>);

#[derive(Debug, Default)]
struct Census {
    alive: u32,
    first_run: Option<u64>,
    first_run_alive: u32,
    first_run_left_at: Option<Instant>,
}

impl Registry {
    fn census(&self) -> MutexGuard<'_, Census> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, run: u64) -> Permit {
        let mut census = self.census();
        census.alive += 1;
        if *census.first_run.get_or_insert(run) == run {
            census.first_run_alive += 1;
            census.first_run_left_at = None;
        }
        Permit {
            registry: Arc::clone(self),
            run,
        }
    }
}

/// Counts as one session for as long as it lives.
#[derive(Debug)]
struct Permit {
    registry: Arc<Registry>,
    run: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut census = self.registry.census();
        census.alive -= 1;
        if census.first_run == Some(self.run) {
            census.first_run_alive -= 1;
            if census.first_run_alive == 0 {
                census.first_run_left_at = Some(MonotonicClock.now());
            }
        }
    }
}

/// A session worker's thread, seen from the front.
#[derive(Debug)]
struct WorkerThread {
    inbox: Sender<Admitted<OwnedFd, Permit>>,
    waker: Waker,
    thread: JoinHandle<()>,
}

/// What was decided for a session.
#[derive(Debug)]
struct Ticket {
    accept: Accept,
    backend: Backend,
    cpu: u32,
    permit: Permit,
}

/// Decides who serves what, and keeps the worker threads.
struct Dispatcher {
    plan: ServePlan,
    cpus: Cpus,
    avoid: Vec<u32>,
    instance: u64,
    boot_id: Option<String>,
    environment: Environment,
    chosen: HashMap<BackendAsked, std::result::Result<Chosen, Error>>,
    workers: HashMap<(Backend, u32), WorkerThread>,
    /// Sessions admitted per run: they go round the run's workers.
    turn: (u64, usize),
    registry: Arc<Registry>,
    datagrams: Arc<UdpServerFront>,
    stopping: Arc<AtomicBool>,
    log: Log,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Dispatcher {
    fn new(plan: &ServePlan, avoid: &[u32], stopping: Arc<AtomicBool>, log: Log) -> Result<Self> {
        let mut cpus = Cpus::of_self();
        if let Some(asked) = &plan.cpus {
            cpus.check(asked, 1, &[])?;
            cpus.allowed.clone_from(asked);
        }
        let instance = random::number()?;
        let mut environment = environment::capture(None);
        environment.instance = Some(format!("{instance:016x}"));
        let mut this = Self {
            plan: plan.clone(),
            cpus,
            avoid: avoid.to_vec(),
            instance,
            boot_id: boot_id(),
            environment,
            chosen: HashMap::new(),
            workers: HashMap::new(),
            turn: (0, 0),
            registry: Arc::default(),
            datagrams: Arc::new(UdpServerFront::new(
                CookieKey(random::bytes()?),
                plan.secret.clone(),
            )),
            stopping,
            log,
        };
        // A server that can serve nobody says so at once.
        this.backend(BackendAsked::Auto)?;
        Ok(this)
    }

    /// The backend for a request, probed once.
    fn backend(&mut self, asked: BackendAsked) -> Result<Chosen> {
        let choice = match (asked, self.plan.backend) {
            (BackendAsked::Auto, allowed) => allowed,
            (BackendAsked::Uring, BackendChoice::Only(Backend::Epoll))
            | (BackendAsked::Epoll, BackendChoice::Only(Backend::Uring)) => {
                return Err(Error::usage(format!(
                    "the server was started for another backend than {asked:?}"
                ))
                .remedy("ask for --backend auto, or start the server without --backend"));
            }
            (BackendAsked::Uring, _) => BackendChoice::Only(Backend::Uring),
            (BackendAsked::Epoll, _) => BackendChoice::Only(Backend::Epoll),
        };
        self.chosen
            .entry(asked)
            .or_insert_with(|| backend::choose(choice))
            .clone()
    }

    /// The CPU for the next session of a run, and whether the client measures on it too.
    fn place_session(&mut self, hello: &Hello, same_host: bool) -> (u32, bool) {
        let mut avoid = self.avoid.clone();
        if same_host {
            avoid.extend(&hello.cpus);
        }
        let workers = u32::try_from(hello.cpus.len().clamp(1, self.cpus.allowed.len().max(1)));
        if self.turn.0 != hello.run_id.0 {
            self.turn = (hello.run_id.0, 0);
        }
        let Ok(choice) = self.cpus.choose(workers.unwrap_or(1), &avoid) else {
            return (0, false);
        };
        let apart: Vec<u32> = choice
            .cpus
            .iter()
            .copied()
            .filter(|cpu| !avoid.contains(cpu))
            .collect();
        let candidates = if apart.is_empty() {
            &choice.cpus
        } else {
            &apart
        };
        let cpu = candidates[self.turn.1 % candidates.len()];
        self.turn.1 += 1;
        (cpu, same_host && hello.cpus.contains(&cpu))
    }

    /// What the server grants of the wait mode asked for, and why not all of it.
    fn grant(&self, asked: WaitMode, shares_cpu: bool) -> (WaitMode, Option<String>) {
        if asked == WaitMode::Block {
            return (WaitMode::Block, None);
        }
        if shares_cpu {
            let why = "client and server share a CPU: the server blocks".to_owned();
            return (WaitMode::Block, Some(why));
        }
        if self.cpus.can_spin() || self.plan.allow_spin {
            return (asked, None);
        }
        let why = match self.cpus.quota {
            Some(quota) if quota < 2.0 => format!("the server's cgroup grants {quota} CPUs"),
            _ => format!("the server may use {} CPU only", self.cpus.allowed.len()),
        };
        (
            WaitMode::Block,
            Some(format!("{why}: it blocks (--allow-spin overrules)")),
        )
    }

    fn spawn(&self, backend: Backend, cpu: u32) -> Result<WorkerThread> {
        let (inbox, sessions) = unbounded();
        let (waker_tx, waker) = bounded(1);
        let limits = SessionLimits {
            idle: self.plan.idle_timeout,
            duration: self.plan.max_duration,
        };
        let stopping = Arc::clone(&self.stopping);
        let datagrams = Arc::clone(&self.datagrams);
        let log = Arc::clone(&self.log);
        let body = move || {
            if let Err(error) = affinity::pin_current_thread(cpu) {
                log(&format!(
                    "a worker could not be pinned to CPU {cpu}: {error}"
                ));
            }
            let _ = tuning::set_timer_slack_ns(1);
            let meter = ServerMeter::new(cpu, stopping);
            let roles = Sessions::new(sessions, limits, datagrams, meter);
            let end = match backend::open(backend) {
                Ok(AnyDriver::Uring(driver)) => run_sessions(driver, roles, &waker_tx),
                Ok(AnyDriver::Epoll(driver)) => run_sessions(driver, roles, &waker_tx),
                Err(error) => Err(error),
            };
            if let Err(error) = end {
                log(&format!("a worker has ended: {error}"));
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("tare-serve-{cpu}"))
            .spawn(body)
            .map_err(|e| Error::environment(format!("no thread for a worker: {e}")))?;
        let waker = waker
            .recv()
            .map_err(|_| Error::environment("a session worker could not start: see the log"))?;
        Ok(WorkerThread {
            inbox,
            waker,
            thread,
        })
    }

    fn join(self) {
        for worker in self.workers.into_values() {
            worker.waker.wake();
            drop(worker.inbox);
            let _ = worker.thread.join();
        }
    }
}

fn run_sessions<D: Driver<Socket = OwnedFd>>(
    driver: D,
    roles: Sessions<OwnedFd, Permit, ServerMeter>,
    waker: &Sender<Waker>,
) -> std::result::Result<(), DriverError> {
    let _ = waker.try_send(driver.waker());
    let mut worker = Worker::new(driver, MonotonicClock, roles);
    worker.run_until(<Sessions<OwnedFd, Permit, ServerMeter> as Role<D>>::is_finished)
}

impl Place<OwnedFd> for Dispatcher {
    type Ticket = Ticket;

    fn admit(
        &mut self,
        hello: &Hello,
        _peer: Option<SocketAddr>,
    ) -> std::result::Result<Ticket, Refuse> {
        if self.is_stopping() {
            return Err(Refuse::new(
                RefuseCode::ShuttingDown,
                "the server is shutting down",
            ));
        }
        let alive = self.registry.census().alive;
        if alive >= self.plan.max_sessions {
            let busy = format!("the server has {alive} sessions and takes no more");
            return Err(Refuse::new(RefuseCode::Busy, busy)
                .remedy("try again later, or start the server with a larger --max-sessions"));
        }
        let chosen = self.backend(hello.backend).map_err(|error| {
            let refusal = Refuse::new(RefuseCode::BackendUnavailable, error.message());
            error
                .advice()
                .map_or_else(|| refusal.clone(), |advice| refusal.clone().remedy(advice))
        })?;
        let same_host = self.boot_id.is_some() && self.boot_id == hello.boot_id;
        let (cpu, shares_cpu) = self.place_session(hello, same_host);
        let (wait, wait_reason) = self.grant(hello.wait, shares_cpu);
        let accept = Accept {
            instance: Id(self.instance),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            session: None,
            backend: chosen.backend.name().to_owned(),
            backend_reason: chosen.reason,
            wait,
            wait_reason,
            cpus: vec![cpu],
            same_host,
            shares_cpu,
            environment: (!hello.brief).then(|| self.environment.clone()),
        };
        let permit = self.registry.enter(hello.run_id.0);
        Ok(Ticket {
            accept,
            backend: chosen.backend,
            cpu,
            permit,
        })
    }

    fn hand_over(&mut self, ticket: Ticket, arrival: Arrival<OwnedFd>) {
        let Ticket {
            mut accept,
            backend,
            cpu,
            permit,
        } = ticket;
        if arrival.transport == Transport::Udp {
            match random::number() {
                Ok(number) => accept.session = Some(Id(number)),
                Err(error) => return self.log(&error.to_string()),
            }
        }
        let key = (backend, cpu);
        if self
            .workers
            .get(&key)
            .is_none_or(|worker| worker.thread.is_finished())
        {
            match self.spawn(backend, cpu) {
                Ok(worker) => {
                    self.workers.insert(key, worker);
                }
                Err(error) => return self.log(&error.to_string()),
            }
        }
        if let Some(worker) = self.workers.get(&key)
            && worker
                .inbox
                .send(Admitted {
                    arrival,
                    accept,
                    permit,
                })
                .is_ok()
        {
            worker.waker.wake();
        }
    }

    fn log(&mut self, line: &str) {
        (self.log)(line);
    }

    fn nonce(&mut self) -> [u8; 32] {
        // Without random bytes a nonce of zeros would let a proof be replayed; nobody is then let in.
        random::bytes().unwrap_or_else(|error| {
            self.stopping.store(true, Ordering::Relaxed);
            (self.log)(&error.to_string());
            [0; 32]
        })
    }

    fn is_stopping(&self) -> bool {
        if self.stopping.load(Ordering::Relaxed) {
            return true;
        }
        let over = self.plan.once
            && self
                .registry
                .census()
                .first_run_left_at
                .is_some_and(|at| MonotonicClock.now().since(at) > ONCE_GRACE);
        if over {
            self.stopping.store(true, Ordering::Relaxed);
        }
        over
    }
}

/// Reads how a session worker's thread fared.
#[derive(Debug)]
struct ServerMeter {
    cpu: u32,
    clock: ClockQuality,
    probe: DisturbanceProbe,
    usage: CpuTimes,
    stopping: Arc<AtomicBool>,
}

impl ServerMeter {
    /// For the calling thread.
    fn new(cpu: u32, stopping: Arc<AtomicBool>) -> Self {
        Self {
            cpu,
            clock: MonotonicClock.quality(),
            probe: DisturbanceProbe::start(&[cpu]),
            usage: thread_usage(),
            stopping,
        }
    }
}

impl Meter for ServerMeter {
    fn reset(&mut self) {
        self.probe = DisturbanceProbe::start(&[self.cpu]);
        self.usage = thread_usage();
    }

    fn measure_begins(&mut self) {
        self.usage = thread_usage();
    }

    fn read(&mut self, counters: &TurnCounters) -> (Instrument, CpuUse) {
        let used = thread_usage() - self.usage;
        let disturbance = self.probe.finish();
        let mut instrument = super::instrument::of_worker(counters, self.clock, &used);
        instrument.cpus = vec![self.cpu];
        super::instrument::disturb(&mut instrument, &disturbance);
        let cpu = CpuUse {
            user_ns: used.user_ns,
            system_ns: used.system_ns,
            machine_busy: disturbance.machine_busy,
            ..CpuUse::default()
        };
        (instrument, cpu)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
