//! CPU time, of both ends and of their machines.

use serde::{Deserialize, Serialize};

/// CPU time of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cpu {
    /// The client's.
    pub client: CpuUse,
    /// The server's, for the sessions of this step.
    pub server: Option<CpuUse>,
}

/// CPU time of one end over the measured phase.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuUse {
    /// In user mode, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub system_ns: u64,
    /// Share of the whole machine that was busy, 0 to 1, where `/proc/stat` tells.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub machine_busy: Option<f64>,
    /// Share of the whole machine that was in soft interrupts, where received packets are worked
    /// off, 0 to 1; within `machine_busy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub machine_softirq: Option<f64>,
    /// Received packets that the machine dropped since a CPU's backlog was full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_softnet_dropped: Option<u64>,
    /// Times that the machine ended a round of receiving with packets left over, its budget or its
    /// time being spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_softnet_squeezed: Option<u64>,
    /// User and system time per completed operation, nanoseconds.
    pub per_operation_ns: Option<f64>,
    /// User and system time per MiB moved, nanoseconds.
    pub per_mib_ns: Option<f64>,
    /// Of user and system time, what went into looking for work without sleeping and finding none
    /// (`--wait spin`, `hybrid`), nanoseconds; absent where there was no such time, or it is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polling_ns: Option<u64>,
    /// `per_operation_ns` without `polling_ns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_operation_working_ns: Option<f64>,
    /// `per_mib_ns` without `polling_ns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_mib_working_ns: Option<f64>,
}

impl CpuUse {
    /// Tells how much of it was polling that found nothing: as much as the loop's clock says, and
    /// no more than was used.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share of measured time")]
    pub fn with_polling(mut self, polled_ns: Option<u64>) -> Self {
        let used = self.user_ns.saturating_add(self.system_ns);
        let polling = polled_ns.map(|ns| ns.min(used)).filter(|ns| *ns > 0);
        let working = polling.map(|ns| 1.0 - ns as f64 / used as f64);
        let scaled = |each: Option<f64>| each.zip(working).map(|(each, share)| each * share);
        self.polling_ns = polling;
        self.per_operation_working_ns = scaled(self.per_operation_ns);
        self.per_mib_working_ns = scaled(self.per_mib_ns);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_is_taken_off_and_is_never_more_than_was_used() {
        let used = CpuUse {
            user_ns: 600,
            system_ns: 400,
            per_operation_ns: Some(10.0),
            per_mib_ns: Some(100.0),
            ..CpuUse::default()
        };
        let told = used.with_polling(Some(900));
        assert_eq!(told.polling_ns, Some(900));
        assert!((told.per_operation_working_ns.unwrap() - 1.0).abs() < 1e-9);
        assert!((told.per_mib_working_ns.unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(told.per_mib_ns, Some(100.0), "the whole stays as it was");
        // Off its CPU a worker's clock goes on.
        let preempted = used.with_polling(Some(5_000));
        assert_eq!(preempted.polling_ns, Some(1_000));
        assert_eq!(preempted.per_mib_working_ns, Some(0.0));
        for none in [None, Some(0)] {
            assert_eq!(used.with_polling(none), used, "a worker that sleeps");
        }
    }
}
