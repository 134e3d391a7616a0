//! What a client worker learned from and about its far ends, whatever it measured.

use crate::error::Error;
use crate::proto::hello::{Accept, Figures};
use crate::units::Nanos;

/// What a client worker brings back beside what it measured.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the servers said, one per accepted session that was not brief.
    pub accepts: Vec<Accept>,
    /// The servers' figures.
    pub figures: Vec<Figures>,
    /// Sessions established; of HTTP connections, those that ever stood, however often each was opened anew.
    pub established: u64,
    /// Sockets that were connected, or tried to.
    pub sockets: u64,
    /// The first failure, in words fit for the user.
    pub failure: Option<Error>,
    /// Cut short: interrupted, or every connection was lost.
    pub cut_short: bool,
    /// Operations answered as expected within the measured phase, whenever they were due.
    pub answered: u64,
    /// The deepest the queue of what was due in the measured phase and not sent has been; open loop.
    pub backlog_max: u64,
    /// Time that operations were due while a connection was free, and the worker had not sent them; summed over them.
    pub worker_away: Nanos,
    /// Operations that were begun while fewer than a quarter of the places for them were taken, in any phase: how many were
    /// answered as expected, and their service times, summed.
    pub unloaded: (u64, Nanos),
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
        self.answered += other.answered;
        self.backlog_max += other.backlog_max;
        self.worker_away = self.worker_away + other.worker_away;
        self.unloaded.0 += other.unloaded.0;
        self.unloaded.1 = self.unloaded.1 + other.unloaded.1;
        self.warmup = self.warmup.max(other.warmup);
        self.measured = self.measured.max(other.measured);
    }
}
