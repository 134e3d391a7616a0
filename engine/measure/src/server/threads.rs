//! The threads beside the front: each runs a role on a CPU.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};

use super::Log;
use crate::run::backend::{self, AnyDriver};
use crate::run::instrument;
use crate::server::worker::Meter;
use crate::server::worker::http::StampClock;
use crate::worker::{Role, TurnCounters, Worker};
use tare_driver::clock::{ClockQuality, MonotonicClock, RealtimeOffset};
use tare_driver::epoll::EpollDriver;
use tare_driver::sys::affinity;
use tare_driver::uring::UringDriver;
use tare_driver::{Backend, Driver, DriverError, Waker};
use tare_host::tuning;
use tare_host::usage::{CpuTimes, DisturbanceProbe, RunQueue};
use tare_stats::result::{CpuUse, Instrument};
use tare_units::error::{Error, Result};
use tare_units::{Instant, Nanos};

/// What clients that do not read may have the kernel hold is the pressure limit divided by that.
const TCP_MEMORY_SHARE: u64 = 4;
/// The same where the kernel does not tell its limit, as in sandboxes, bytes.
const QUEUED_UNKNOWN: u64 = 64 << 20;
/// The unit of `tcp_mem`, bytes: a page is no smaller on any machine.
const PAGE_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct WorkerThread<I> {
    pub(super) cpu: u32,
    pub(super) inbox: I,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl<I> WorkerThread<I> {
    /// Starts it, and waits until it runs. Errors name it as `who`; `role` is made on the thread,
    /// and takes from the other end of `inbox`.
    pub(super) fn start<R: Role<UringDriver> + Role<EpollDriver>>(
        (who, name): (&'static str, String),
        backend: Backend,
        cpu: u32,
        log: &Log,
        inbox: I,
        role: impl FnOnce() -> R + Send + 'static,
    ) -> Result<Self> {
        let (started_tx, started) = bounded(1);
        let log = Arc::clone(log);
        let body = move || {
            if let Err(error) = affinity::pin_current_thread(cpu) {
                log("worker", &format!("{who} could not be pinned to CPU {cpu}: {error}"));
            }
            let _ = tuning::set_timer_slack_ns(1);
            let role = role();
            let end = match backend::open(backend) {
                Ok(AnyDriver::Uring(driver)) => run(driver, role, &started_tx),
                Ok(AnyDriver::Epoll(driver)) => run(driver, role, &started_tx),
                Err(error) => {
                    let _ = started_tx.try_send(Err(error));
                    return;
                }
            };
            if let Err(error) = end {
                log("worker", &format!("{who} has ended: {error}"));
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|e| Error::environment(format!("no thread for {who}: {e}")))?;
        match started.recv() {
            Ok(Ok(waker)) => Ok(Self { cpu, inbox, waker, thread }),
            Ok(Err(error)) => Err(backend::unopened(backend, &error)),
            Err(_) => Err(Error::bug(format!("{who} ended before it had started"))),
        }
    }

    /// Has it look into its inbox.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for its end, once the server is stopping.
    pub(super) fn join(self) {
        drop(self.inbox);
        self.waker.wake();
        let _ = self.thread.join();
    }
}

type Started = Sender<std::result::Result<Waker, DriverError>>;

fn run<D, R>(driver: D, role: R, started: &Started) -> std::result::Result<(), DriverError>
where
    D: Driver<Socket = OwnedFd>,
    R: Role<D>,
{
    let _ = started.try_send(Ok(driver.waker()));
    Worker::new(driver, MonotonicClock, role).run_until(R::is_finished)
}

/// Reads how the thread of a session worker fared.
#[derive(Debug)]
pub(super) struct ServerMeter {
    cpu: u32,
    clock: ClockQuality,
    probe: DisturbanceProbe,
    queue: RunQueue,
    usage: CpuTimes,
    stopping: Arc<AtomicBool>,
}

impl ServerMeter {
    pub(super) fn new(cpu: u32, stopping: Arc<AtomicBool>) -> Self {
        let queue = RunQueue::of_this_thread();
        Self {
            cpu,
            clock: MonotonicClock.quality(),
            probe: DisturbanceProbe::start(&[cpu]),
            usage: queue.usage(),
            queue,
            stopping,
        }
    }
}

impl Meter for ServerMeter {
    fn reset(&mut self) {
        self.probe = DisturbanceProbe::start(&[self.cpu]);
        self.usage = self.queue.usage();
    }

    fn measure_begins(&mut self) {
        self.usage = self.queue.usage();
    }

    fn read(&mut self, counters: &TurnCounters) -> (Instrument, CpuUse) {
        let used = self.queue.usage() - self.usage;
        let disturbance = self.probe.finish();
        let instrument = instrument::of_worker(counters, self.clock, &used, &disturbance);
        let machine = instrument::machine_use(&disturbance);
        let cpu = CpuUse { user_ns: used.user_ns, system_ns: used.system_ns, ..machine }
            .with_polling(Some(counters.polling_ns(&used)));
        (Instrument { cpus: vec![self.cpu], ..instrument }, cpu)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl StampClock for RealtimeOffset {
    fn refresh(&mut self) {
        *self = Self::read();
    }

    fn to_instant(&self, stamp: Nanos) -> Option<Instant> {
        Self::to_instant(self, stamp)
    }
}

/// HTTP clients that do not read may hold a quarter of the memory that TCP has before it comes
/// under pressure (`net.ipv4.tcp_mem`, tcp(7)), of all namespaces together.
pub(super) fn queued_max() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
    let pages: Option<u64> = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.map_or(QUEUED_UNKNOWN, |pages| pages.saturating_mul(PAGE_BYTES) / TCP_MEMORY_SHARE)
}
