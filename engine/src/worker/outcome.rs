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
    /// The deepest the queue of what was due and not sent has been; open loop.
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
