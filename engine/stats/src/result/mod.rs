//! The one versioned, serialisable result: schema `tare/1`.
//!
//! `schema/tare-1.schema.json` is generated from these types and their comments; every emitted
//! document is validated against it in the tests. Readers ignore fields they don't know. Units are
//! the last word of a name; latencies are nanoseconds and full round trips.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod bandwidth;
mod compare;
mod doctor;
mod http;
mod usage;

pub use bandwidth::{
    Bandwidth, BulkParams, Datagrams, Flow, LinkUse, Pacing, TcpFigures, TcpInterval, ZeroCopyUse,
};
pub use compare::{
    AA, Arm, Block, Cell, CellBlock, Comparison, Estimate, Verdict, Visit, VisitStep,
};
pub use doctor::{Diagnosis, Finding, Level};
pub use http::{HttpParams, StatusCount, Transfer};
pub use usage::{Cpu, CpuUse, Observed, cpus};

/// The schema's name and version.
pub const SCHEMA: &str = "tare/1";

#[cfg(feature = "schema")]
mod patterns {
    pub(crate) const TIME: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$";
    pub(crate) const INSTANCE: &str = "^[0-9a-f]{16}$";
    pub(crate) const CODE: &str = "^[0-9]{3}$";
    pub(crate) const QUANTILE: &str = "^p[0-9]+(_[0-9]+)?$";
    pub(crate) const BOUND: &str = "^(p[0-9]+(_[0-9]+)?|mean|max)$";
    pub(crate) const MEASURE: &str = "^(p[0-9]+(_[0-9]+)?|[a-z][a-z0-9_]*)$";
    pub(crate) const KEBAB: &str = "^[a-z0-9]+(-[a-z0-9]+)*$";
}
#[cfg(feature = "schema")]
use patterns::*;

/// A whole run: what was asked, where, and what came out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(
    feature = "schema",
    schemars(extend(
        "if" = {"properties": {"kind": {"const": "compare"}}},
        "then" = {
            "required": ["comparison"],
            "properties": {"results": {"items": {"required": ["arm"]}}}
        }
    ))
)]
pub struct Report {
    /// [`SCHEMA`].
    #[cfg_attr(feature = "schema", schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// Which tare wrote it.
    pub tool: Tool,
    /// `lat`, `bw`, `http`, `compare`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["lat", "bw", "http", "compare"])))]
    pub kind: String,
    /// When the run began, RFC 3339, by the wall clock.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = TIME)))]
    pub started_at: String,
    /// The run was cut short, or a failure ended it: what is here was measured, and there is less
    /// of it than asked.
    pub partial: bool,
    /// The seed of everything random in the run.
    pub seed: u64,
    /// The plan as resolved: defaults filled in, names resolved, secrets redacted.
    #[cfg_attr(feature = "schema", schemars(extend("type" = "object")))]
    pub plan: serde_json::Value,
    /// The machines at both ends.
    pub environment: Environments,
    /// One entry per step of the sweep.
    pub results: Vec<StepResult>,
    /// Comparisons only: the blocks, and what they show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Box<Comparison>>,
    /// The assertions and what became of them.
    pub assertions: Vec<AssertionResult>,
    /// What is known to spoil the numbers, with advice.
    pub warnings: Vec<Warning>,
}

/// Which tare.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tool {
    /// Always `tare`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "tare")))]
    pub name: String,
    /// Its version.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub version: String,
}

/// The machines at both ends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Environments {
    /// The client's.
    pub client: Environment,
    /// One per distinct server instance that answered, in order of appearance.
    pub servers: Vec<Environment>,
}

/// What is known of one machine. Absent means not known there, never zero.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Environment {
    /// The server's instance id, 16 hexadecimal digits; absent for the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = INSTANCE)))]
    pub instance: Option<String>,
    /// Which tare runs there.
    pub tare_version: String,
    /// The host's name.
    pub hostname: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// CPU model.
    pub cpu_model: Option<String>,
    /// CPUs online.
    pub cpus_online: Option<u32>,
    /// CPUs this process may run on, as a list (`0-3,6`).
    pub cpus_allowed: Option<String>,
    /// CPUs the kernel keeps free of other work (`isolcpus`), as a list.
    pub cpus_isolated: Option<String>,
    /// Frequency governor of the first allowed CPU.
    pub governor: Option<String>,
    /// Turbo or boost is on.
    pub turbo: Option<bool>,
    /// Idle states of the first allowed CPU with their exit latency.
    pub idle_states: Vec<IdleState>,
    /// Simultaneous multithreading is on.
    pub smt: Option<bool>,
    /// The kernel's clock source.
    pub clock_source: Option<String>,
    /// The hypervisor, where one can be told.
    pub hypervisor: Option<String>,
    /// `docker`, `podman`, `kubernetes`, `containerd`, `lxc`, `gvisor`, where one can be told.
    pub container: Option<String>,
    /// The seccomp mode of the process: `off`, `strict`, `filter`.
    pub seccomp: Option<String>,
    /// The CPU limit of the cgroup, in CPUs (1.5 is one and a half), v1 or v2; absent without a
    /// limit.
    pub cgroup_cpu_limit: Option<f64>,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_version: Option<String>,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    pub io_uring_disabled: Option<u32>,
    /// Default TCP congestion control.
    pub congestion_control: Option<String>,
    /// `net.core.busy_poll`, microseconds.
    pub busy_poll_us: Option<u64>,
    /// `net.core.busy_read`, microseconds.
    pub busy_read_us: Option<u64>,
    /// Entries in the conntrack table, and its size, where conntrack is loaded.
    pub conntrack: Option<Fill>,
    /// The ephemeral port range.
    pub ephemeral_ports: Option<(u16, u16)>,
    /// `RLIMIT_NOFILE`, soft.
    pub descriptors_limit: Option<u64>,
    /// `RLIMIT_MEMLOCK`, soft, bytes.
    pub memlock_limit_bytes: Option<u64>,
    /// The device of the route to the other end.
    pub device: Option<Device>,
}

/// An idle state of a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IdleState {
    /// Its name.
    pub name: String,
    /// Time to leave it, microseconds, as the driver states.
    pub exit_latency_us: u64,
    /// Switched off.
    pub disabled: bool,
}

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fill {
    /// Entries in use.
    pub used: u64,
    /// Entries there can be.
    pub max: u64,
}

/// The network device that a route leaves through.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu_bytes: Option<u32>,
    /// Its link speed, Mbit/s, where the driver states one.
    pub speed_mbit_per_s: Option<u64>,
    /// The NUMA node it hangs on.
    pub numa_node: Option<i32>,
    /// Offloads that are on: `tso`, `gso`, `gro`, `rx-checksum`, `tx-checksum`, `sg`.
    pub offloads: Vec<String>,
    /// The driver behind it.
    pub driver: Option<String>,
}

/// One step of a sweep: one set of parameters, measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StepResult {
    /// The user's label.
    pub label: Option<String>,
    /// Comparisons only: the arm, all of whose visits are pooled here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The parameters of this step.
    pub params: Params,
    /// When the measured phase began, by this machine's wall clock, RFC 3339 to the nanosecond: to
    /// find the step in the logs of servers. Absent where it never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = TIME)))]
    pub began_at: Option<String>,
    /// Length of the measured phase, nanoseconds.
    pub duration_ns: u64,
    /// What was due, sent and answered in the measured phase.
    pub operations: Operations,
    /// What happened before it.
    pub warmup: Warmup,
    /// Operations per second.
    pub rate: Rate,
    /// Round-trip latencies.
    pub latency: Latencies,
    /// Bulk figures; absent from latency runs.
    pub bandwidth: Option<Bandwidth>,
    /// Status codes; HTTP only.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"pattern": CODE})))]
    pub status_codes: BTreeMap<String, StatusCount>,
    /// What went over the connections; HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// Responses whose framing is faulty by RFC 9112 and was taken as it was meant, by fault:
    /// `http10-chunked`, `length-and-chunked`; HTTP only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub framing_faults: BTreeMap<String, u64>,
    /// What failed, by phase and cause.
    pub errors: Vec<ErrorCount>,
    /// Connections.
    pub connections: Connections,
    /// CPU time spent.
    pub cpu: Cpu,
    /// What the load cost the processes and control groups that `--observe` names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed: Vec<Observed>,
    /// How far a single latency here can be wrong through the instrument itself, 99 of 100 of them:
    /// what reading the clock costs plus its granularity, plus the p99 of how long a reply can have
    /// lain unseen by the client's worker (spinning: from the reap before to the one that found it;
    /// sleeping: from the reap before to the sleep, and the p99 of a wake-up), plus the bound on
    /// batching where batches are gathered, plus the width of the histogram's bin at the median (a
    /// thousandth of it at most). What that does to a quantile is told with each
    /// ([`Summary::errors_ns`]).
    pub latency_error_ns: u64,
    /// What the 95 % intervals of this step speak for: [`INTERVALS_OF_RUN`] or
    /// [`INTERVALS_OF_VISITS`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["run", "visits"])))]
    pub interval_scope: String,
    /// How each end measured.
    pub instrument: Instruments,
    /// The series over time.
    pub intervals: Vec<Interval>,
    /// The distinct server instances that answered.
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = INSTANCE))))]
    pub instances: Vec<String>,
    /// This step was cut short, or failed.
    pub partial: bool,
}

/// The intervals speak for this one run, on its connections and in its moments. Where the next run
/// of the same lies, they do not tell.
pub const INTERVALS_OF_RUN: &str = "run";
/// The intervals speak for several visits on fresh connections, spread over the time that they
/// took.
pub const INTERVALS_OF_VISITS: &str = "visits";

/// The parameters of a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Params {
    /// `tcp`, `udp` or `http`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["tcp", "udp", "http"])))]
    pub proto: String,
    /// Message size in each direction, bytes.
    pub size_bytes: u64,
    /// Concurrent connections.
    pub connections: u32,
    /// Latency runs only: a connection per operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_each: Option<bool>,
    /// Operations per second asked for; absent in closed loop.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub rate_per_s: Option<f64>,
    /// Latency runs only: the server held each reply that long, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_delay_ns: Option<u64>,
    /// Per-operation timeout, nanoseconds.
    pub timeout_ns: u64,
    /// The target as given.
    pub target: String,
    /// The address measured.
    pub address: Option<String>,
    /// Latency runs over UDP: the path's MTU, as the client's kernel knew it before the step,
    /// bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu_bytes: Option<u32>,
    /// Latency runs over UDP: IP packets that each datagram leaves the client in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub fragments_per_datagram: Option<u32>,
    /// The options of the bulk transfer that the same path carried meanwhile (`--under-load`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_load: Option<String>,
    /// Bulk runs only; its fields stand among the others.
    #[serde(flatten)]
    pub bulk: Option<BulkParams>,
    /// HTTP runs only; its fields stand among the others.
    #[serde(flatten)]
    pub http: Option<HttpParams>,
}

impl Params {
    /// Whether there is a connection per operation.
    pub fn connects_each(&self) -> bool {
        self.connect_each == Some(true)
    }

    /// The options of the load that the path carried besides, if it did.
    #[must_use]
    pub fn load(&self) -> Option<&str> {
        self.under_load.as_deref()
    }
}

impl StepResult {
    /// Whether something was answered as expected. A server that answered in the warm-up, and is
    /// only too slow for what was due since to have had its turn, counts: it is known that this
    /// takes at least so long. One that failed since does not.
    pub fn has_answers(&self) -> bool {
        let operations = &self.operations;
        let has_failed = operations.failed + operations.timed_out > 0 || !self.errors.is_empty();
        let answered = self.rate.achieved_per_s > 0.0 || self.warmup.operations.completed > 0;
        operations.completed > 0 || (answered && operations.due > 0 && !has_failed)
    }
}

/// Where every operation went: `due = sent + dropped + unsent_at_end` and
/// `sent = completed + failed + timed_out + in_flight_at_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Operations {
    /// Intended to be sent in the measured phase.
    pub due: u64,
    /// Sent.
    pub sent: u64,
    /// Answered as expected.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// No answer within the timeout.
    pub timed_out: u64,
    /// Neither answered nor timed out when the run ended.
    pub in_flight_at_end: u64,
    /// Not sent because too late (`--late drop`).
    pub dropped: u64,
    /// Due but not sent when the run ended.
    pub unsent_at_end: u64,
}

impl Operations {
    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.completed += other.completed;
        self.failed += other.failed;
        self.timed_out += other.timed_out;
        self.in_flight_at_end += other.in_flight_at_end;
        self.dropped += other.dropped;
        self.unsent_at_end += other.unsent_at_end;
    }

    /// Whether both sums of the type's doc hold.
    pub const fn adds_up(&self) -> bool {
        self.due == self.sent + self.dropped + self.unsent_at_end
            && self.sent == self.completed + self.failed + self.timed_out + self.in_flight_at_end
    }
}

/// What happened during warm-up, and stands in no other counter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Warmup {
    /// Its length, nanoseconds.
    pub duration_ns: u64,
    /// Its operations.
    pub operations: Operations,
    /// Its errors.
    pub errors: Vec<ErrorCount>,
}

/// Operations per second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rate {
    /// Asked for; absent in closed loop.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub target_per_s: Option<f64>,
    /// Answered as expected within the measured phase, whenever they were due, over its length.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub achieved_per_s: f64,
    /// The most operations that were due in the measured phase and waited for a free connection at
    /// once; open loop only.
    #[serde(default)]
    pub backlog_max: Option<u64>,
    /// Time that operations were due while a connection was free and the generator had not sent
    /// them, summed over them, nanoseconds; open loop only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_away_ns: Option<u64>,
    /// What requests took that were sent while fewer than a quarter of the places for them
    /// (connections, times `--pipeline`) were taken, those of the warm-up among them; `lat` and
    /// `http` in open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unloaded: Option<Unloaded>,
}

/// Requests that were sent while few others were in flight.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Unloaded {
    /// How many.
    pub count: u64,
    /// Their mean service time.
    pub mean_ns: f64,
}

/// The latencies of a step, full round trips in nanoseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Latencies {
    /// From the intended send; open loop only.
    pub response: Option<Summary>,
    /// From the actual send.
    pub service: Summary,
    /// Actual send after intended send; open loop only.
    pub lateness: Option<Summary>,
    /// TCP connect.
    pub connect: Option<Summary>,
    /// The server's share: from its receive to its send.
    pub server_residence: Option<Summary>,
    /// Service time less the server's residence, request by request: the path and both kernels.
    pub path: Option<Summary>,
    /// By status code; HTTP only.
    #[serde(default)]
    pub by_status: BTreeMap<String, Summary>,
}

/// A distribution. A quantile is null where fewer than ten samples lie beyond it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Summary {
    /// Samples, the censored ones among them.
    pub count: u64,
    /// Smallest, exact.
    pub min_ns: Option<u64>,
    /// Mean, exact; with censored samples a lower bound.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub mean_ns: Option<f64>,
    /// Standard deviation; with censored samples it may be more or less.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub stdev_ns: Option<f64>,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 75th percentile.
    pub p75_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 95th percentile.
    pub p95_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p99_9_ns: Option<u64>,
    /// 99.99th percentile.
    pub p99_99_ns: Option<u64>,
    /// Largest, exact.
    pub max_ns: Option<u64>,
    /// Further quantiles that were asked for with `--percentiles`, by name (`p99_5`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"pattern": QUANTILE})))]
    pub extra_ns: BTreeMap<String, u64>,
    /// 95 % intervals of the quantiles, by name: `p50`, `p99_9`. What they speak for tells
    /// [`StepResult::interval_scope`].
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"pattern": QUANTILE})))]
    pub intervals_ns: BTreeMap<String, (u64, u64)>,
    /// By how much at most each quantile is too long through the instrument itself, by name,
    /// nanoseconds: of round trips only (`service`, `response`).
    /// `engine/stats/src/histogram/added/mod.rs` derives it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"pattern": QUANTILE})))]
    pub errors_ns: BTreeMap<String, u64>,
    /// Samples that are only known to be at least this long (timed out, or in flight at the end).
    pub censored: u64,
    /// What rests on censored samples, so is a lower bound (`≥` in text), by name: quantiles,
    /// `mean`, `max`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = BOUND))))]
    pub lower_bounds: Vec<String>,
    /// The whole histogram: base64 of the HdrHistogram V2 compressed encoding.
    pub hdr: String,
}

impl Summary {
    /// The quantile `percent` (50, 99.9), where it is among the printed ones.
    pub fn quantile_ns(&self, percent: f64) -> Option<u64> {
        match quantile_name(percent).as_str() {
            "p50" => self.p50_ns,
            "p75" => self.p75_ns,
            "p90" => self.p90_ns,
            "p95" => self.p95_ns,
            "p99" => self.p99_ns,
            "p99_9" => self.p99_9_ns,
            "p99_99" => self.p99_99_ns,
            name => self.extra_ns.get(name).copied(),
        }
    }
}

/// The field name of a quantile: 50 is `p50`, 99.9 is `p99_9`.
pub fn quantile_name(percent: f64) -> String {
    format!("p{percent}").replace('.', "_")
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorCount {
    /// `resolve`, `connect`, `handshake`, `send`, `receive`, `parse`, `close`.
    pub phase: String,
    /// The errno's name, or `timeout`, `closed`, `protocol`, …
    pub cause: String,
    /// How often.
    pub count: u64,
}

/// Connections of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connections {
    /// Asked for.
    pub asked: u64,
    /// Established.
    pub established: u64,
    /// Reopened in the measured phase, in place of one that failed or was closed; those of the
    /// warm-up are not counted.
    pub reconnects: u64,
    /// Sockets used in all: those of the start, and those of the measured phase, whether they came
    /// to stand or not.
    pub sockets_used: u64,
    /// Time in the measured phase that it took to reopen connections, summed over them,
    /// nanoseconds. Of `lat`, in open loop: what opening and closing took beside the operation of
    /// each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connecting_ns: Option<u64>,
    /// Time in the measured phase in which connections did not stand since they had failed, summed
    /// over them, nanoseconds; HTTP, and `lat` in open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_ns: Option<u64>,
    /// Times that a request of the measured phase was sent again, since its connection ended before
    /// the response; HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resent: Option<u64>,
}

/// How both ends measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Instruments {
    /// The client.
    pub client: Instrument,
    /// The server, as it told in-band; absent if it could not.
    pub server: Option<Instrument>,
}

/// How one end measured, and what disturbed it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Instrument {
    /// `uring`, `epoll` or `sim`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["uring", "epoll", "sim"])))]
    pub backend: String,
    /// Why that one, in words.
    pub backend_reason: String,
    /// `spin`, `block` or `hybrid`: what was done, not what was asked.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["spin", "block", "hybrid"])))]
    pub wait: String,
    /// Why not what was asked, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_reason: Option<String>,
    /// CPUs its workers were pinned to.
    pub cpus: Vec<u32>,
    /// Cost of one reading of the clock.
    pub clock_ns: u64,
    /// Granularity of the clock.
    pub clock_granularity_ns: u64,
    /// Median of a turn of the loop that found nothing to wait for.
    pub turn_p50_ns: u64,
    /// 99th percentile of the same.
    pub turn_p99_ns: u64,
    /// The longest.
    pub turn_max_ns: u64,
    /// 99th percentile of how long what was timed can have lain unseen: the time not looking before
    /// its reap.
    pub gap_p99_ns: u64,
    /// 99th percentile of the wake-up from a sleep of 100 µs, measured before the run; only where
    /// it sleeps.
    pub wakeup_p99_ns: Option<u64>,
    /// The bound on gathering completions, where batches are gathered.
    pub batch_bound_ns: u64,
    /// The busiest worker's share of its time outside waiting, 0 to 1 (a spinning worker: with
    /// something to do).
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub worker_busy_max: f64,
    /// Context switches forced on the workers.
    pub involuntary_switches: u64,
    /// Context switches of the workers' own sleeping.
    pub voluntary_switches: u64,
    /// Time that a worker had something to do and waited for a CPU on which something else ran,
    /// nanoseconds, of the worker that waited the longest (the kernel's `schedstat`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_queue_ns: Option<u64>,
    /// Time the hypervisor took from the workers' CPUs, nanoseconds.
    pub steal_ns: Option<u64>,
    /// Periods in which the cgroup was throttled.
    pub throttled_periods: Option<u64>,
    /// Time throttled, nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Completion-queue overflows.
    pub ring_overflows: u64,
    /// The generator, not the path, was the bottleneck.
    pub saturated: bool,
    /// Why that is said, in words with its figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation: Option<String>,
    /// The numbers were disturbed from outside; `disturbances` says how.
    pub disturbed: bool,
    /// In words, each with its figure.
    pub disturbances: Vec<String>,
}

/// One entry of the series over time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interval {
    /// End of the interval, from the start of the measured phase.
    pub at_ns: u64,
    /// Operations completed in it.
    pub completed: u64,
    /// Operations failed or timed out in it.
    pub errors: u64,
    /// Median service time in it (response time in open loop).
    pub p50_ns: Option<u64>,
    /// 99th percentile in it.
    pub p99_ns: Option<u64>,
    /// Largest in it.
    pub max_ns: Option<u64>,
    /// Bulk runs: payload received in it, bits per second, both directions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_s: Option<f64>,
    /// Bulk runs over TCP: what the senders' kernels say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_info: Option<TcpInterval>,
    /// Responses in it by status code; HTTP only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"pattern": CODE})))]
    pub status_codes: BTreeMap<String, u64>,
    /// Its headline latencies as a histogram (HdrHistogram V2, base64, two significant figures),
    /// for the log formats.
    #[serde(skip)]
    pub hdr: Option<String>,
}

/// What became of an assertion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AssertionResult {
    /// As typed.
    pub expr: String,
    /// Which step it was held against (`size=64`), empty for the only one.
    pub step: String,
    /// The value found, in the unit of the metric (nanoseconds, per second, ratio); null where
    /// there is none.
    pub actual: Option<f64>,
    /// Its interval, where it has one.
    pub interval: Option<(f64, f64)>,
    /// True, false, or null where the data does not decide.
    pub holds: Option<bool>,
}

/// Something known to spoil the numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Warning {
    /// Stable name, `kebab-case`.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = KEBAB)))]
    pub code: String,
    /// What is so.
    pub message: String,
    /// What to do or to type.
    pub advice: String,
}

impl Warning {
    /// A warning.
    pub fn new(code: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), advice: advice.into() }
    }
}
