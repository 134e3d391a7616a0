//! The one thread that serves HTTP.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Log;
use super::thread::WorkerThread;
use crate::server::worker::http::{
    HttpArrival, HttpServer, HttpSettings, Inbox, StampClock, inbox,
};
use tare_driver::Backend;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::sys::realtime::RealtimeOffset;
use tare_units::error::Result;
use tare_units::{Instant, Nanos};

/// What clients that do not read may have the kernel hold is the pressure limit divided by that.
const TCP_MEMORY_SHARE: u64 = 4;
/// The same where the kernel does not tell its limit, as in sandboxes, bytes.
const QUEUED_UNKNOWN: u64 = 64 << 20;
/// The unit of `tcp_mem`, bytes: a page is no smaller on any machine.
const PAGE_BYTES: u64 = 4096;

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

#[derive(Debug)]
pub(super) struct HttpThread {
    inbox: Inbox<OwnedFd>,
    pub(super) worker: WorkerThread,
    pub(super) cpu: u32,
}

impl HttpThread {
    pub(super) fn start(
        backend: Backend,
        cpu: u32,
        settings: HttpSettings,
        stopping: Arc<AtomicBool>,
        log: Log,
    ) -> Result<Self> {
        let (inbox, arrivals) = inbox(settings.connections_max);
        let role = move || {
            let (stamps, now) = (WallClock(RealtimeOffset::read()), MonotonicClock.now());
            let mut role = HttpServer::new(arrivals, settings, stopping, Box::new(stamps), now);
            role.bound_queued(queued_max());
            role
        };
        let name = "tare-http".to_owned();
        let worker = WorkerThread::start("the HTTP worker", name, backend, cpu, log, role)?;
        Ok(Self { inbox, worker, cpu })
    }

    /// Hands it a connection, which is closed if there are too many.
    pub(super) fn serve(&self, arrival: HttpArrival<OwnedFd>) {
        if self.inbox.send(arrival) {
            self.worker.waker.wake();
        }
    }
}

/// The share of the kernel's memory for TCP that clients of HTTP that do not read may hold: a quarter of what it has
/// before it comes under pressure (`net.ipv4.tcp_mem`, tcp(7)), of all namespaces together.
fn queued_max() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
    let pages: Option<u64> = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.map_or(QUEUED_UNKNOWN, |pages| pages.saturating_mul(PAGE_BYTES) / TCP_MEMORY_SHARE)
}
