//! CPU time and memory: of both ends, of their machines, and of what was observed.

use crate::number::real;
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
    pub fn with_polling(mut self, polled_ns: Option<u64>) -> Self {
        let used = self.user_ns.saturating_add(self.system_ns);
        let polling = polled_ns.map(|ns| ns.min(used)).filter(|ns| *ns > 0);
        let working = polling.map(|ns| 1.0 - real(ns) / real(used));
        let scaled = |each: Option<f64>| each.zip(working).map(|(each, share)| each * share);
        self.polling_ns = polling;
        self.per_operation_working_ns = scaled(self.per_operation_ns);
        self.per_mib_working_ns = scaled(self.per_mib_ns);
        self
    }
}

/// What a process, or a control group, used during the measured phase of a step. Absent means not
/// known, never zero.
///
/// It is looked at right before the measured phase and right after it, so the figures cover a
/// little more than the phase (a little less where the launching thread woke late): `span_ns`,
/// whose difference from the step's `duration_ns` is the error of the looks, a millisecond or two
/// as a rule. `cpus` is over that same span, so it has no such error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Observed {
    /// The name it was given.
    pub name: String,
    /// What it is: `pid:123`, `comm:nginx`, `cgroup:system.slice/nginx.service`.
    pub what: String,
    /// From the first look to the last, nanoseconds.
    pub span_ns: u64,
    /// CPU time in user mode, nanoseconds. Where the kernel parts it by clock ticks, so is this;
    /// the sum with `system_ns` is exact all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_ns: Option<u64>,
    /// CPU time in the kernel on its behalf, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_ns: Option<u64>,
    /// CPU time over `span_ns`: 0.97 of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory at the end, bytes: resident, or as charged to the group. Of several processes the
    /// sum, in which what they share is counted for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The most memory that was seen, bytes: exactly the peak where the kernel's own mark rose in
    /// the span, else the most of several looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// The CPU limit that held it back, or else the tightest one, in CPUs. It may be that of a
    /// group above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// Enforcement periods of that limit in which there was something to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub periods: Option<u64>,
    /// Those of them in which the limit stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_periods: Option<u64>,
    /// How long it was stopped, nanoseconds, summed over CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_ns: Option<u64>,
    /// Context switches of its threads' own sleeping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voluntary_switches: Option<u64>,
    /// Context switches forced on its threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub involuntary_switches: Option<u64>,
    /// Processes at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Processes that ended in the span. Counted until the last look at each.
    #[serde(skip_serializing_if = "is_zero")]
    pub processes_ended: u64,
    /// Processes that came in the span. Counted from their start.
    #[serde(skip_serializing_if = "is_zero")]
    pub processes_came: u64,
    /// What could not be counted, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Observed {
    /// Adds what the same observation saw in a later span: times and counts are summed, memory is
    /// that of the later one, its peak the higher one. What one of them does not know, the sum does
    /// not.
    pub fn add(&mut self, later: &Self) {
        let sum = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        self.span_ns += later.span_ns;
        self.user_ns = sum(self.user_ns, later.user_ns);
        self.system_ns = sum(self.system_ns, later.system_ns);
        self.cpus = cpus(self.user_ns, self.system_ns, self.span_ns);
        self.memory_bytes = later.memory_bytes;
        self.memory_max_bytes = self.memory_max_bytes.max(later.memory_max_bytes);
        self.cpu_limit = later.cpu_limit.or(self.cpu_limit);
        self.periods = sum(self.periods, later.periods);
        self.throttled_periods = sum(self.throttled_periods, later.throttled_periods);
        self.throttled_ns = sum(self.throttled_ns, later.throttled_ns);
        self.voluntary_switches = sum(self.voluntary_switches, later.voluntary_switches);
        self.involuntary_switches = sum(self.involuntary_switches, later.involuntary_switches);
        self.processes = later.processes;
        self.processes_ended += later.processes_ended;
        self.processes_came += later.processes_came;
        if self.note.is_none() {
            self.note.clone_from(&later.note);
        }
    }
}

/// CPU time over wall time.
pub fn cpus(user_ns: Option<u64>, system_ns: Option<u64>, span_ns: u64) -> Option<f64> {
    let used = user_ns?.saturating_add(system_ns?);
    (span_ns > 0).then(|| real(used) / real(span_ns))
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
        let most = used.with_polling(Some(900));
        assert_eq!(most.polling_ns, Some(900));
        assert!((most.per_operation_working_ns.unwrap() - 1.0).abs() < 1e-9);
        assert!((most.per_mib_working_ns.unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(most.per_mib_ns, Some(100.0), "the whole stays as it was");
        // Off its CPU a worker's clock goes on.
        let preempted = used.with_polling(Some(5_000));
        assert_eq!(preempted.polling_ns, Some(1_000));
        assert_eq!(preempted.per_mib_working_ns, Some(0.0));
        for none in [None, Some(0)] {
            assert_eq!(used.with_polling(none), used, "a worker that sleeps");
        }
    }

    #[test]
    fn spans_add_up_and_what_one_lacks_the_sum_lacks() {
        let one = |user_ns, throttled_ns| Observed {
            name: "web".into(),
            span_ns: 1_000,
            user_ns: Some(user_ns),
            system_ns: Some(100),
            cpus: Some(9.0),
            memory_max_bytes: Some(user_ns),
            throttled_ns,
            ..Observed::default()
        };
        let mut sum = one(500, Some(7));
        sum.add(&one(300, Some(1)));
        assert_eq!((sum.span_ns, sum.user_ns), (2_000, Some(800)));
        assert_eq!((sum.cpus, sum.throttled_ns), (Some(0.5), Some(8)));
        assert_eq!(sum.memory_max_bytes, Some(500));
        sum.add(&one(1, None));
        assert_eq!((sum.throttled_ns, sum.periods), (None, None));
    }
}
