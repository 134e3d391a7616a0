//! The server: one front thread, and a worker thread per CPU and backend that clients ask for.

mod dispatch;
pub mod plan;
mod sessions;
mod threads;
pub mod worker;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tare_units::control::Interrupt;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::server::plan::ServePlan;
use crate::server::worker::front::{Acceptor, pending_room};
use crate::worker::{Role, Worker};
use tare_driver::clock::MonotonicClock;
use tare_driver::epoll::EpollDriver;
use tare_driver::sys::rlimit;
use tare_driver::{DriverError, OpError};
use tare_host::veth::VethNamespace;
use tare_units::error::{Error, Result};
use tare_units::limits::HTTP_TURNED_AWAY_MAX;

use dispatch::Dispatcher;

/// Descriptors beside clients' connections: listeners, rings, wakers, files that are looked into.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Where log lines go, each with its kind, by which it may be summed up with others. It is called
/// on threads that serve, and must not block.
pub type Log = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopping: Arc<AtomicBool>,
    ended: Receiver<Result<()>>,
    front: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to listen and to serve. `avoid` are CPUs that session workers keep off where they
    /// can; with a namespace, the server listens inside it.
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
        let http = plan.http.as_ref().map_or(0, |http| http.connections_max);
        let waiting = pending_room(http) + HTTP_TURNED_AWAY_MAX;
        rlimit::raise_descriptors(
            u64::from(plan.max_sessions) + u64::from(http) + waiting as u64 + DESCRIPTORS_BESIDE,
        );
        let dispatcher = Dispatcher::new(plan, avoid, Arc::clone(&stopping), log)?;
        let plan = plan.clone();
        let run = move || {
            let outcome = Self::run_front(&plan, dispatcher, &ready_tx);
            if let Err(error) = &outcome {
                let _ = ready_tx.try_send(Err(error.clone()));
            }
            let _ = ended_tx.try_send(outcome);
        };
        let front = std::thread::scope(|scope| {
            // A thread inherits the network namespace of its maker.
            let spawn =
                move || std::thread::Builder::new().name("tare-front".to_owned()).spawn(run);
            let in_place = scope.spawn(move || {
                if let Some(namespace) = namespace {
                    namespace.enter_on_this_thread()?;
                }
                spawn().map_err(|e| Error::environment(format!("no thread for the server: {e}")))
            });
            in_place.join().unwrap_or_else(|_| Err(Error::bug("starting the server panicked")))
        })?;
        let addresses = match ready.recv() {
            Ok(answer) => answer?,
            Err(_) => return Err(Error::bug("the server's front ended before it was ready")),
        };
        Ok(Self { addresses, stopping, ended, front: Some(front) })
    }

    fn run_front(
        plan: &ServePlan,
        dispatcher: Dispatcher,
        ready: &Sender<Result<Vec<SocketAddr>>>,
    ) -> Result<()> {
        let unable = |e: DriverError| Error::environment(format!("the server cannot run: {e}"));
        let mut driver = EpollDriver::new().map_err(unable)?;
        let datagrams = Arc::clone(&dispatcher.datagrams);
        let mut front =
            Acceptor::new(dispatcher, plan.secret.clone(), datagrams, plan.idle_timeout);
        if let Some(http) = &plan.http {
            front = front.with_http(http.connections_max, plan.idle_timeout);
        }
        let mut addresses = Vec::new();
        for &address in &plan.listen {
            addresses.push(listen(&mut front, &mut driver, address, plan.listen_is_default)?);
        }
        let _ = ready.try_send(Ok(addresses));
        let mut worker = Worker::new(driver, MonotonicClock, front);
        let end = worker.run_until(<Acceptor<Dispatcher> as Role<EpollDriver>>::is_finished);
        let (driver, front, _) = worker.into_parts();
        drop(driver);
        front.into_dispatch().join();
        end.map_err(unable)
    }

    /// The addresses served.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the server has ended by itself, or `patience` is over: `None`, if it is still
    /// there. What it ended with is told once.
    ///
    /// # Errors
    /// What it ended by.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<Result<()>> {
        match self.ended.recv_timeout(patience) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(Error::bug("the server's front has ended without a word")))
            }
        }
    }

    /// Ends its sessions, which takes a few seconds at most, and waits for that.
    ///
    /// # Errors
    /// As [`Server::wait`].
    pub fn stop(mut self) -> Result<()> {
        self.halt();
        self.wait(Duration::ZERO).unwrap_or(Ok(()))
    }

    fn halt(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(front) = self.front.take() {
            let _ = front.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt();
    }
}

fn listen(
    front: &mut Acceptor<Dispatcher>,
    driver: &mut EpollDriver,
    address: SocketAddr,
    is_default: bool,
) -> Result<SocketAddr> {
    let mut outcome = front.listen(driver, address);
    let no_ipv6 =
        matches!(outcome, Err(OpError::FamilyNotSupported | OpError::AddressNotAvailable));
    if is_default && no_ipv6 && address.is_ipv6() {
        outcome = front.listen(driver, SocketAddr::new(IpAddr::from([0, 0, 0, 0]), address.port()));
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

/// How often a serving command looks whether it was interrupted.
const SERVE_LOOK: Duration = Duration::from_millis(50);

/// Serves until `interrupt` is raised (or, with `once`, until the first client is done). `ready` is
/// called with the addresses served, once clients can connect.
///
/// # Errors
/// When an address cannot be listened on, no backend works here, or the server fails.
pub fn serve(
    plan: &ServePlan,
    interrupt: &Interrupt,
    ready: &mut dyn FnMut(&[SocketAddr]),
    log: Log,
) -> Result<()> {
    let server = Server::start(plan, &[], None, log)?;
    ready(server.addresses());
    while !interrupt.is_raised() {
        if let Some(end) = server.wait(SERVE_LOOK) {
            return end;
        }
    }
    server.stop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(ended: Receiver<Result<()>>) -> Server {
        Server { addresses: Vec::new(), stopping: Arc::default(), ended, front: None }
    }

    #[test]
    fn a_server_that_dies_says_so() {
        let (tx, ended) = bounded(1);
        let running = server(ended);
        assert!(running.wait(Duration::ZERO).is_none());
        tx.send(Err(Error::environment("the ring broke"))).unwrap();
        let end = running.wait(Duration::ZERO).expect("it has ended");
        assert_eq!(end.unwrap_err().message(), "the ring broke");
        // And one that panics cannot say it itself.
        drop(tx);
        let end = running.wait(Duration::ZERO).expect("it has ended");
        assert_eq!(end.unwrap_err().fault(), tare_units::error::Fault::Bug);
        let end = running.stop();
        assert_eq!(end.unwrap_err().fault(), tare_units::error::Fault::Bug);
    }
}
