//! Who serves what: admits sessions, places them on CPUs, and keeps the worker threads.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Sender, unbounded};

use super::Log;
use super::sessions::{SessionPermit, SessionTable};
use super::threads::{ServerMeter, WorkerThread, queued_max};
use crate::server::plan::{HttpSettings, ServePlan};
use crate::server::worker::front::{Arrival, Dispatch};
use crate::server::worker::http::{HttpArrival, HttpServer, Inbox, inbox};
use crate::server::worker::{Admitted, SessionLimits, Sessions, memory_bytes};
use tare_driver::clock::{Clock, MonotonicClock, RealtimeOffset};
use tare_driver::probe::Chosen;
use tare_driver::sys::random;
use tare_driver::{Backend, BackendChoice};
use tare_host::cpus::Cpus;
use tare_host::environment;
use tare_host::usage::boot_id;
use tare_proto::auth::CookieKey;
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Accept, BackendAsked, Hello, Refuse, RefuseCode, Transport, WaitMode};
use tare_stats::result::Environment;
use tare_units::error::{Error, Result};
use tare_units::limits::ONE_GO_MAX;
use tare_units::text::Id;

#[derive(Debug)]
pub(super) struct Admission {
    accept: Accept,
    backend: Backend,
    cpu: u32,
    permit: SessionPermit,
}

pub(super) struct Dispatcher {
    plan: ServePlan,
    cpus: Cpus,
    avoid: Vec<u32>,
    instance: u64,
    boot_id: Option<String>,
    environment: Environment,
    /// The client that `environment` names the device towards.
    routed_to: Option<IpAddr>,
    chosen: HashMap<BackendAsked, std::result::Result<Chosen, Error>>,
    workers: HashMap<(Backend, u32), WorkerThread<Sender<Admitted<OwnedFd, SessionPermit>>>>,
    http: Option<WorkerThread<Inbox<OwnedFd>>>,
    /// The log says already that HTTP clients are not served.
    http_denied: bool,
    sessions: Arc<SessionTable>,
    pub(super) datagrams: Arc<UdpServerFront>,
    stopping: Arc<AtomicBool>,
    log: Log,
}

impl Dispatcher {
    pub(super) fn new(
        plan: &ServePlan,
        avoid: &[u32],
        stopping: Arc<AtomicBool>,
        log: Log,
    ) -> Result<Self> {
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
            routed_to: None,
            chosen: HashMap::new(),
            workers: HashMap::new(),
            http: None,
            http_denied: false,
            sessions: Arc::default(),
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
        self.chosen.entry(asked).or_insert_with(|| tare_driver::probe::choose(choice)).clone()
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
        (WaitMode::Block, Some(format!("{why}: it blocks (--allow-spin overrules)")))
    }

    /// This machine, with the device of the route to the client, which is looked up when it
    /// changes.
    fn environment_towards(&mut self, peer: Option<SocketAddr>) -> Environment {
        let to = peer.map(|peer| peer.ip());
        if to != self.routed_to {
            self.routed_to = to;
            self.environment.device = to.and_then(environment::route_device);
        }
        self.environment.clone()
    }

    fn ensure_worker(&mut self, backend: Backend, cpu: u32) -> Result<()> {
        let key = (backend, cpu);
        if self.workers.get(&key).is_some_and(WorkerThread::is_running) {
            return Ok(());
        }
        let (inbox, admitted) = unbounded();
        let limits =
            SessionLimits { idle: self.plan.idle_timeout, duration: self.plan.max_duration };
        let (stopping, datagrams) = (Arc::clone(&self.stopping), Arc::clone(&self.datagrams));
        let role =
            move || Sessions::new(admitted, limits, datagrams, ServerMeter::new(cpu, stopping));
        let name = ("a worker", format!("tare-serve-{cpu}"));
        let worker = WorkerThread::start(name, backend, cpu, &self.log, inbox, role)?;
        self.workers.insert(key, worker);
        Ok(())
    }

    /// The backend for a request, with a worker on it. That one ring worked does not mean that
    /// there is memory to lock for another, which other processes of this user may hold: then the
    /// request is seen to as if none worked.
    fn backend_with_worker(&mut self, asked: BackendAsked, cpu: u32) -> Result<Chosen> {
        let chosen = self.backend(asked)?;
        let Err(error) = self.ensure_worker(chosen.backend, cpu) else {
            return Ok(chosen);
        };
        if chosen.backend != Backend::Uring {
            return Err(error);
        }
        if asked != BackendAsked::Auto || self.plan.backend != BackendChoice::Auto {
            return Err(error.remedy("ask for --backend epoll"));
        }
        let fallen = Chosen {
            backend: Backend::Epoll,
            reason: format!("{}; using epoll", error.message()),
            advice: None,
        };
        self.ensure_worker(fallen.backend, cpu)?;
        self.chosen.insert(asked, Ok(fallen.clone()));
        Ok(fallen)
    }

    fn ensure_http(&mut self) -> Result<()> {
        if self.http.as_ref().is_some_and(WorkerThread::is_running) {
            return Ok(());
        }
        let Some(plan) = &self.plan.http else {
            return Err(Error::usage("an HTTP client connected: HTTP is switched off (--no-http)"));
        };
        let (wait, reason) = self.grant(plan.wait, false);
        let settings = HttpSettings { wait, ..plan.clone() };
        if let Some(reason) = reason {
            (self.log)("server", &format!("HTTP: {reason}"));
        }
        let load = |cpu| self.sessions.others_on(cpu, 0);
        // HTTP clients do not name their CPUs; `tare http` on this machine takes the highest ones.
        let mut avoid = self.avoid.clone();
        avoid.extend(self.cpus.allowed.iter().max());
        let choice = self.cpus.choose_idle(1, &avoid, load)?;
        let cpu = choice.cpus.first().copied().unwrap_or(0);
        let chosen = self.backend(BackendAsked::Auto)?.backend;
        let start = |backend| {
            let (settings, stopping) = (settings.clone(), Arc::clone(&self.stopping));
            let (inbox, arrivals) = inbox(settings.connections_max);
            let role = move || {
                let (stamps, now) = (Box::new(RealtimeOffset::read()), MonotonicClock.now());
                let mut role = HttpServer::new(arrivals, settings, stopping, stamps, now);
                role.bound_queued(queued_max());
                role
            };
            let name = ("the HTTP worker", "tare-http".to_owned());
            WorkerThread::start(name, backend, cpu, &self.log, inbox, role)
        };
        let may_fall_back = chosen == Backend::Uring && self.plan.backend == BackendChoice::Auto;
        let thread = match start(chosen) {
            Err(error) if may_fall_back => {
                (self.log)("server", &format!("HTTP: {}; using epoll", error.message()));
                start(Backend::Epoll)?
            }
            other => other?,
        };
        let (wait, seed) = (wait.name(), settings.seed);
        let line = format!("HTTP is served on CPU {cpu}, --http-wait {wait}, --seed {seed}");
        (self.log)("server", &line);
        self.http = Some(thread);
        Ok(())
    }

    pub(super) fn join(self) {
        // They end on nothing else, and where the front has failed nobody has said so yet.
        self.stopping.store(true, Ordering::Relaxed);
        self.http.into_iter().for_each(WorkerThread::join);
        self.workers.into_values().for_each(WorkerThread::join);
    }
}

impl Dispatch<OwnedFd> for Dispatcher {
    type Admission = Admission;

    fn admit(
        &mut self,
        hello: &Hello,
        peer: Option<SocketAddr>,
    ) -> std::result::Result<Admission, Refuse> {
        if self.is_stopping() {
            return Err(Refuse::new(RefuseCode::ShuttingDown, "the server is shutting down"));
        }
        let bytes = memory_bytes(hello);
        self.sessions.check(self.plan.max_sessions, bytes)?;
        let same_host = self.boot_id.is_some() && self.boot_id == hello.boot_id;
        let mut avoid = self.avoid.clone();
        if same_host {
            avoid.extend(&hello.cpus);
        }
        let http = self.http.as_ref().map(|http| http.cpu);
        let cpu = self.sessions.place(hello, &self.cpus, &avoid, http);
        let chosen = self.backend_with_worker(hello.backend, cpu).map_err(|error| {
            let refusal = Refuse::new(RefuseCode::BackendUnavailable, error.message());
            match error.advice() {
                Some(advice) => refusal.remedy(advice),
                None => refusal,
            }
        })?;
        let shares_cpu = same_host && hello.cpus.contains(&cpu);
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
            one_go: hello.connect_each
                && self.plan.secret.is_none()
                && hello.size_bytes <= u64::from(ONE_GO_MAX),
            environment: (!hello.brief).then(|| self.environment_towards(peer)),
        };
        let permit = self.sessions.enter(hello, cpu, bytes);
        Ok(Admission { accept, backend: chosen.backend, cpu, permit })
    }

    fn hand_over(&mut self, admission: Admission, arrival: Arrival<OwnedFd>) {
        let Admission { mut accept, backend, cpu, permit } = admission;
        if arrival.hello.transport == Transport::Udp {
            match random::number() {
                Ok(number) => accept.session = Some(Id(number)),
                Err(error) => return self.log("session", &error.to_string()),
            }
        }
        if let Err(error) = self.ensure_worker(backend, cpu) {
            return self.log("session", &error.to_string());
        }
        if let Some(worker) = self.workers.get(&(backend, cpu))
            && worker.inbox.send(Admitted { arrival, accept, permit }).is_ok()
        {
            worker.wake();
        }
    }

    fn hand_over_http(&mut self, arrival: HttpArrival<OwnedFd>) {
        if let Err(error) = self.ensure_http() {
            if !std::mem::replace(&mut self.http_denied, true) {
                (self.log)("server", &error.to_string());
            }
        } else if let Some(http) = &self.http
            && http.inbox.send(arrival)
        {
            http.wake();
        }
    }

    fn log(&mut self, kind: &'static str, line: &str) {
        (self.log)(kind, line);
    }

    fn nonce(&mut self) -> [u8; 32] {
        // With a nonce of zeros a proof could be replayed: without random bytes nobody is let in.
        random::bytes().unwrap_or_else(|error| {
            self.stopping.store(true, Ordering::Relaxed);
            (self.log)("server", &error.to_string());
            [0; 32]
        })
    }

    fn is_stopping(&self) -> bool {
        if self.stopping.load(Ordering::Relaxed) {
            return true;
        }
        let now = MonotonicClock.now();
        let over = self.plan.once && self.sessions.is_over(now, self.plan.max_duration);
        if over {
            self.stopping.store(true, Ordering::Relaxed);
        }
        over
    }
}

#[cfg(test)]
mod tests;
