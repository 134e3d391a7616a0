//! The one thread that serves HTTP.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};

use super::Log;
use crate::run::backend::{self, AnyDriver};
use crate::server::worker::http::{
    Arrivals, HttpArrival, HttpServer, HttpSettings, Inbox, StampClock, inbox,
};
use crate::worker::{Role, Worker};
use tare_driver::clock::RealtimeOffset;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::sys::affinity;
use tare_driver::{Backend, Driver, DriverError, Waker};
use tare_host::tuning;
use tare_units::error::{Error, Result};
use tare_units::{Instant, Nanos};

/// What clients that do not read may have the kernel hold is the pressure limit divided by that.
const TCP_MEMORY_SHARE: u64 = 4;
/// The same where the kernel does not tell its limit, as in sandboxes, bytes.
const QUEUED_UNKNOWN: u64 = 64 << 20;
/// The unit of `tcp_mem`, bytes: a page is no smaller on any machine.
const PAGE_BYTES: u64 = 4096;

/// What the thread tells once it runs.
type Started = Sender<std::result::Result<Waker, DriverError>>;

/// The wall clock as it was when last compared.
#[derive(Debug)]
struct WallClock(RealtimeOffset);

impl StampClock for WallClock {
    fn refresh(&mut self) {
        self.0 = RealtimeOffset::read();
    }

    fn to_instant(&self, stamp: Nanos) -> Option<Instant> {
        self.0.to_instant(stamp)
    }
}

/// The HTTP thread, seen from the front.
#[derive(Debug)]
pub(super) struct HttpThread {
    inbox: Inbox<OwnedFd>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl HttpThread {
    /// Starts it on a CPU.
    ///
    /// # Errors
    /// When there is no thread, or no driver for it.
    pub(super) fn start(
        backend: Backend,
        cpu: u32,
        settings: HttpSettings,
        stopping: Arc<AtomicBool>,
        log: Log,
    ) -> Result<Self> {
        let (inbox, arrivals) = inbox(settings.connections_max);
        let (started_tx, started) = bounded(1);
        let body = move || {
            if let Err(error) = affinity::pin_current_thread(cpu) {
                log(
                    "worker",
                    &format!("the HTTP worker could not be pinned to CPU {cpu}: {error}"),
                );
            }
            let _ = tuning::set_timer_slack_ns(1);
            let end = match backend::open(backend) {
                Ok(AnyDriver::Uring(driver)) => {
                    run(driver, arrivals, settings, stopping, &started_tx)
                }
                Ok(AnyDriver::Epoll(driver)) => {
                    run(driver, arrivals, settings, stopping, &started_tx)
                }
                Err(error) => {
                    let _ = started_tx.try_send(Err(error));
                    return;
                }
            };
            if let Err(error) = end {
                log("worker", &format!("the HTTP worker has ended: {error}"));
            }
        };
        let thread = std::thread::Builder::new()
            .name("tare-http".to_owned())
            .spawn(body)
            .map_err(|e| Error::environment(format!("no thread for HTTP: {e}")))?;
        let waker = match started.recv() {
            Ok(Ok(waker)) => waker,
            Ok(Err(error)) => return Err(backend::unopened(backend, &error)),
            Err(_) => return Err(Error::bug("the HTTP worker ended before it had started")),
        };
        Ok(Self { inbox, waker, thread })
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Hands it a connection, which is closed if there are too many.
    pub(super) fn serve(&self, arrival: HttpArrival<OwnedFd>) {
        if self.inbox.send(arrival) {
            self.waker.wake();
        }
    }

    /// Waits for its end, once the server is stopping.
    pub(super) fn join(self) {
        self.waker.wake();
        let _ = self.thread.join();
    }
}

fn run<D: Driver<Socket = OwnedFd>>(
    driver: D,
    arrivals: Arrivals<OwnedFd>,
    settings: HttpSettings,
    stopping: Arc<AtomicBool>,
    started: &Started,
) -> std::result::Result<(), DriverError> {
    let _ = started.try_send(Ok(driver.waker()));
    let stamps = Box::new(WallClock(RealtimeOffset::read()));
    let now = MonotonicClock.now();
    let mut role = HttpServer::new(arrivals, settings, stopping, stamps, now);
    role.bound_queued(queued_max());
    let mut worker = Worker::new(driver, MonotonicClock, role);
    let end = worker.run_until(<HttpServer<OwnedFd> as Role<D>>::is_finished);
    let (role, io) = worker.parts_mut();
    role.leave(io);
    end
}

/// The share of the kernel's memory for TCP that clients of HTTP that do not read may hold: a quarter of what it has
/// before it comes under pressure (`net.ipv4.tcp_mem`, tcp(7)), of all namespaces together.
fn queued_max() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
    let pages: Option<u64> = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.map_or(QUEUED_UNKNOWN, |pages| pages.saturating_mul(PAGE_BYTES) / TCP_MEMORY_SHARE)
}
