//! What a client worker is given, and what it brings back.

use std::net::SocketAddr;

use crate::error::Error;
use crate::histogram::Recording;
use crate::proto::auth::Secret;
use crate::proto::hello::{Accept, Figures, Hello, Transport, WaitMode};
use crate::units::Nanos;
use crate::worker::control::Phase;

/// What one client worker is to do.
#[derive(Debug, Clone)]
pub struct ClientSpec {
    /// The far end.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// What each connection says.
    pub hello: Hello,
    /// The shared secret.
    pub secret: Option<Secret>,
    /// Connections of this worker.
    pub connections: u32,
    /// Message size, bytes.
    pub size_bytes: u32,
    /// Per operation, and for connecting and the handshake.
    pub timeout: Nanos,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub duration: Option<Nanos>,
    /// Operations of this worker, where it ends by count.
    pub count: Option<u64>,
    /// Random: the sessions' nonces are made from it.
    pub nonce: u64,
    /// How to wait once the run has started.
    pub wait: WaitMode,
    /// The 99th percentile of a wake-up here: hybrid waiting stops sleeping that much before a send is due.
    pub wakeup: Nanos,
}

/// Figures that the worker's thread shows while it runs. The real one writes padded atomics.
pub trait Gauge {
    /// The phase has changed.
    fn phase(&mut self, phase: Phase);
    /// Operations completed and failed so far in the measured phase.
    fn counts(&mut self, completed: u64, errors: u64);
    /// The measured phase begins: resource usage counts from here.
    fn measure_begins(&mut self);
    /// The measured phase has ended.
    fn measure_ends(&mut self);
    /// Entry `index` of the series is complete.
    fn entry_ends(&mut self, recording: &Recording, index: usize);
}

/// What a client worker brings back beside its recording and tallies.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the servers said, one per accepted session that was not brief.
    pub accepts: Vec<Accept>,
    /// The servers' figures.
    pub figures: Vec<Figures>,
    /// Sessions established.
    pub established: u64,
    /// Sockets that were connected, or tried to.
    pub sockets: u64,
    /// The first failure, in words fit for the user.
    pub failure: Option<Error>,
    /// Cut short: interrupted, or every connection was lost.
    pub cut_short: bool,
    /// The deepest the queue of due and unsent operations has been; open loop.
    pub backlog_max: u64,
    /// Length of the warm-up as it was.
    pub warmup: Nanos,
    /// Length of the measured phase as it was.
    pub measured: Nanos,
}

impl Outcome {
    /// Adds another worker's.
    pub fn merge(&mut self, other: Self) {
        self.accepts.extend(other.accepts);
        self.figures.extend(other.figures);
        self.established += other.established;
        self.sockets += other.sockets;
        self.failure = self.failure.take().or(other.failure);
        self.cut_short |= other.cut_short;
        self.backlog_max += other.backlog_max;
        self.warmup = self.warmup.max(other.warmup);
        self.measured = self.measured.max(other.measured);
    }
}
