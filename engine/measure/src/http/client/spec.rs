//! What one worker of an HTTP load is to do.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::worker::destination::Destination;
use tare_proto::hello::WaitMode;
use tare_proto::http1::request::Requests;
use tare_proto::http1::status::StatusSet;
use tare_units::Nanos;

/// What becomes of a request that is due and finds no free connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Late {
    /// It waits for one.
    #[default]
    Queue,
    /// It is dropped, and counted.
    Drop,
}

impl Late {
    /// The name in flags and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Drop => "drop",
        }
    }
}

/// What one client worker is to do.
#[derive(Debug, Clone)]
pub struct HttpSpec {
    /// Where connections go.
    pub to: Destination,
    /// Local addresses to connect from, in turn; the first connection of this worker takes number `first`.
    pub bind: Vec<SocketAddr>,
    /// Connections of all workers before this one.
    pub first: u32,
    /// Connections of this worker.
    pub connections: u32,
    /// What is sent.
    pub requests: Arc<Requests>,
    /// Requests that a connection may have outstanding.
    pub pipeline: u32,
    /// A connection is closed and replaced after so many.
    pub requests_per_connection: Option<u64>,
    /// A connection whose response was not as expected is closed and replaced.
    pub reconnect_on_error: bool,
    /// What counts as success.
    pub expect: StatusSet,
    /// What becomes of a request that finds no free connection; open loop.
    pub late: Late,
    /// For each request, from its actual send.
    pub timeout: Nanos,
    /// For each connect.
    pub connect_timeout: Nanos,
    /// Connects of this worker that may be under way at once; at least one.
    pub connects_at_once: u32,
    /// The gap between two connects of this worker before the start; zero: some at a time, as fast as it goes.
    pub connect_gap: Nanos,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub duration: Option<Nanos>,
    /// Requests of this worker, where it ends by count.
    pub count: Option<u64>,
    /// It is the only worker: its responses have an order.
    pub alone: bool,
    /// How to wait once the run has started.
    pub wait: WaitMode,
    /// Hybrid waiting stops sleeping that long before a send is due: from the median of the wake-ups here.
    pub wakeup: Nanos,
}
