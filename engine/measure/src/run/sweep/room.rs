//! Descriptors for a run: the limit raised as far as it takes, or a table for each worker.

use super::Measure;
use tare_driver::sys::rlimit;
use tare_units::error::Result;
use tare_units::target::Target;

/// Descriptors beside the connections: rings, wakers, files, the embedded server.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Workers that there are at most for the sake of their descriptors: beyond that the limit is better raised.
const WORKERS_ADDED_MAX: u32 = 16;

/// Descriptors for all connections.
#[derive(Debug)]
pub(super) struct Room {
    /// As many as asked for, or more where each has a table of its own to fill.
    pub(super) workers: u32,
    /// Each worker has a table of descriptors of its own.
    pub(super) separate: bool,
    before: Option<u64>,
    limit: u64,
}

impl Room {
    /// Raises the limit on descriptors as far as `measure` needs it. Where the limit cannot be raised so far, each worker
    /// gets a table of descriptors of its own, and there are as many of them as that takes.
    ///
    /// # Errors
    /// An environment error where there is no way to have so many.
    pub(super) fn make<M: Measure>(measure: &M, workers: u32) -> Result<Self> {
        let most = u64::from(measure.most_connections().max(1));
        // Both ends of an embedded run draw on the same limit.
        let embedded = matches!(measure.target(), Target::Loopback | Target::Veth);
        let far_end = if embedded { most } else { 0 };
        let before = rlimit::descriptors_limit();
        let shared = rlimit::ensure_descriptors(most + far_end + DESCRIPTORS_BESIDE);
        let error = match shared {
            Ok(limit) => {
                return Ok(Self { workers, separate: false, before, limit });
            }
            Err(error) => error,
        };
        let hard = rlimit::descriptors_limit_hard().unwrap_or(0);
        let each = hard.saturating_sub(DESCRIPTORS_BESIDE);
        let needed = u32::try_from(most.div_ceil(each.max(1))).unwrap_or(u32::MAX);
        let fixed = measure.common().threads.is_some() || measure.common().cpus.is_some();
        let workers = if fixed { workers } else { workers.max(needed) };
        if !M::SEPARATE || workers < needed || needed > WORKERS_ADDED_MAX || far_end > each {
            return Err(error);
        }
        let limit = rlimit::ensure_descriptors(hard)?;
        Ok(Self { workers, separate: true, before, limit })
    }

    /// As the plan carries it, where the limit was not enough as it stood.
    pub(super) fn describe(&self) -> Option<serde_json::Value> {
        let before = self.before?;
        (before < self.limit || self.separate).then(|| {
            serde_json::json!({
                "limit": self.limit,
                "raised_from": before,
                "per_worker": self.separate,
            })
        })
    }
}
