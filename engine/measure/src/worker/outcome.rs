//! What a client worker learned about its servers and its run, whatever it measured.

use tare_proto::hello::{Accept, Figures};
use tare_stats::result::{Rate, Unloaded};
use tare_units::Nanos;
use tare_units::error::Error;

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the servers said, one per accepted session that was not brief.
    pub(crate) accepts: Vec<Accept>,
    pub(crate) figures: Vec<Figures>,
    /// Sessions established; of HTTP connections, those that ever stood, reopened or not.
    pub(crate) established: u64,
    pub(crate) sockets: u64,
    /// The first failure, in words fit for the user.
    pub(crate) failure: Option<Error>,
    /// Cut short: interrupted, or every connection was lost.
    pub(crate) cut_short: bool,
    /// Operations answered as expected within the measured phase, whenever they were due.
    pub(crate) answered: u64,
    /// Open loop: the deepest queue of what was due in the measured phase and not sent.
    pub(crate) backlog_max: u64,
    /// Time that operations were due while a connection was free, and not sent; summed.
    pub(crate) worker_away: Nanos,
    /// Operations that were begun while fewer than a quarter of the places for them were taken, in
    /// any phase: how many were answered as expected, and their service times, summed.
    pub(crate) unloaded: (u64, Nanos),
    /// Time in the measured phase that connections took to be reopened, and of those of one
    /// operation also to be closed, as far as it is in no latency; summed over them.
    pub(crate) connecting: Nanos,
    /// Time in the measured phase in which connections that had failed did not stand; summed.
    pub(crate) down: Nanos,
    pub(crate) warmup: Nanos,
    pub(crate) measured: Nanos,
}

impl Outcome {
    pub(crate) fn merge(&mut self, other: Self) {
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
        self.connecting = self.connecting + other.connecting;
        self.down = self.down + other.down;
        self.warmup = self.warmup.max(other.warmup);
        self.measured = self.measured.max(other.measured);
    }

    /// What was done of what was asked for, and why no more; in closed loop just the former.
    pub(crate) fn rate(&self, target_per_s: Option<f64>) -> Rate {
        let seconds = self.measured.as_secs_f64();
        let (count, Nanos(sum_ns)) = self.unloaded;
        let unloaded = || Unloaded { count, mean_ns: sum_ns as f64 / count as f64 };
        Rate {
            target_per_s,
            achieved_per_s: match seconds > 0.0 {
                true => self.answered as f64 / seconds,
                false => 0.0,
            },
            backlog_max: target_per_s.map(|_| self.backlog_max),
            generator_away_ns: target_per_s.map(|_| self.worker_away.0),
            unloaded: target_per_s.filter(|_| count > 0).map(|_| unloaded()),
        }
    }
}
