//! CPU time, of both ends and of their machines.

use serde::{Deserialize, Serialize};

/// CPU time of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// The client's.
    pub client: CpuUse,
    /// The server's, for the sessions of this step.
    pub server: Option<CpuUse>,
}

/// CPU time of one end over the measured phase.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CpuUse {
    /// In user mode, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub system_ns: u64,
    /// Share of the whole machine that was busy, 0 to 1, where `/proc/stat` tells.
    pub machine_busy: Option<f64>,
    /// Share of the whole machine that was in soft interrupts, where received packets are worked off, 0 to 1; within
    /// `machine_busy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_softirq: Option<f64>,
    /// Received packets that the machine dropped since a CPU's backlog was full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_softnet_dropped: Option<u64>,
    /// Times that the machine ended a round of receiving with packets left over, its budget or its time being spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_softnet_squeezed: Option<u64>,
    /// User and system time per completed operation, nanoseconds.
    pub per_operation_ns: Option<f64>,
    /// User and system time per MiB moved, nanoseconds.
    pub per_mib_ns: Option<f64>,
}
