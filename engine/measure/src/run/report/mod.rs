//! From what the workers brought back to the result that is printed: here what all results have.

pub(crate) mod vet;

use std::collections::BTreeMap;

use super::instrument;
use super::plan::Common;
use super::setting::Setting;
use super::step::StepOutcome;
use crate::worker::destination::Destination;
use crate::worker::tally::Record;
use tare_proto::hello::{Accept, Figures, WaitMode};
use tare_stats::histogram::Recording;
use tare_stats::link;
use tare_stats::pool::keep_worse;
use tare_stats::result::{
    Connections, Cpu, CpuUse, Environments, Flow, INTERVALS_OF_RUN, Instrument, Instruments,
    Params, StepResult, Warmup, Warning,
};
use tare_stats::{health, summary};
use tare_units::Nanos;
use tare_units::error::Error;

/// What a job hands on of a step that it measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) result: StepResult,
    pub(super) accepts: Vec<Accept>,
    pub(super) failure: Option<Error>,
    /// Why the step was stopped from outside its workers, or by one of them that failed.
    pub(super) stopped: Option<Error>,
    /// Why nothing came of it, or it was cut short; absent where neither is so.
    pub(super) shortfall: Option<Error>,
    /// Further steps are measured although nothing came of this one.
    pub(crate) goes_on: bool,
    /// What its servers reported and cannot be, in words.
    pub(super) impossible: Vec<String>,
    pub(super) warnings: Vec<Warning>,
}

impl Measured {
    /// The step that ended in `result`. `explain` says why nothing came of it, or why it was cut
    /// short, from its first failure, and is asked only where that is so.
    pub(crate) fn new<T>(
        result: StepResult,
        outcome: StepOutcome<T>,
        is_empty: bool,
        impossible: Vec<String>,
        explain: impl FnOnce(&StepResult, Option<Error>) -> Error,
    ) -> Self {
        let sessions = outcome.workers.outcome;
        let is_short = is_empty || result.partial;
        Self {
            shortfall: is_short.then(|| explain(&result, sessions.failure.clone())),
            result,
            accepts: sessions.accepts,
            failure: sessions.failure,
            stopped: outcome.stopped,
            goes_on: false,
            impossible,
            warnings: outcome.overflow.into_iter().collect(),
        }
    }

    /// Adds what is said where `count` arrivals that were never sent were too many to be visited.
    pub(crate) fn with_spread_unsent(mut self, count: u64) -> Self {
        if count > 0 {
            self.warnings.push(Warning::new(
                "unsent-spread",
                format!(
                    "{count} requests that were due and never sent are all counted, but their response times and latenesses are taken from evenly spread due times between some that are known"
                ),
                "they are off by microseconds; a lower rate, or equal gaps (--arrivals constant), are exact",
            ));
        }
        self
    }
}

/// Why nothing came of a step, where no connection says it better.
pub(crate) fn nothing_came(what: &str, address: &Destination, failure: Option<Error>) -> Error {
    failure.unwrap_or_else(|| {
        Error::peer(format!("{what} {address}"))
            .remedy("check the server, the route and the firewall")
    })
}

/// What every result has, whatever was measured. The CPU time is that of so many operations and so
/// many bytes.
pub(crate) fn common_result<T>(
    at: &Setting,
    common: &Common,
    params: Params,
    outcome: &StepOutcome<T>,
    (operations, bytes): (u64, u64),
) -> StepResult {
    let (workers, sessions) = (&outcome.workers, &outcome.workers.outcome);
    let machine = instrument::machine_use(&outcome.disturbance);
    let (user_ns, system_ns) = (workers.usage.user_ns, workers.usage.system_ns);
    let used = CpuUse { user_ns, system_ns, ..machine };
    let measured = sessions.measured > Nanos::ZERO;
    let mut instances: Vec<String> =
        sessions.accepts.iter().map(|accept| accept.instance.to_string()).collect();
    instances.sort();
    instances.dedup();
    StepResult {
        label: common.label.clone(),
        // RFC 3339 to the nanosecond.
        began_at: outcome.began.filter(|_| measured).map(|at| format!("{at:.9}")),
        duration_ns: sessions.measured.0,
        warmup: Warmup { duration_ns: sessions.warmup.0, ..Warmup::default() },
        connections: Connections {
            asked: u64::from(params.connections),
            established: sessions.established,
            sockets_used: sessions.sockets,
            ..Connections::default()
        },
        cpu: Cpu {
            client: per_piece(used, operations, bytes, workers.polling_ns),
            server: server_cpu(&sessions.figures),
        },
        instrument: Instruments {
            client: client_instrument(at, common, outcome),
            server: server_instrument(&sessions.figures),
        },
        instances,
        observed: outcome.observed.clone(),
        interval_scope: INTERVALS_OF_RUN.to_owned(),
        partial: sessions.cut_short || outcome.stopped.is_some(),
        params,
        ..StepResult::default()
    }
}

/// Fills in what a record of requests came to: their latencies, with what the instrument can have
/// added to them, and what became of each.
pub(crate) fn add_requests<T>(
    step: &mut StepResult,
    record: &Record,
    recording: &Recording,
    percentiles: &[f64],
    outcome: &StepOutcome<T>,
) {
    let client = &step.instrument.client;
    let added = instrument::added(client, &outcome.workers);
    let error = instrument::latency_error(client) + summary::resolution(recording);
    step.latency_error_ns = error.0;
    step.latency = summary::latencies(recording, percentiles, Some(&added));
    step.operations = record.measured.operations;
    step.errors = record.measured.errors.to_counts();
    step.warmup.operations = record.warmup.operations;
    step.warmup.errors = record.warmup.errors.to_counts();
}

pub(super) fn judge(step: &mut StepResult, environment: &Environments) {
    if step.params.bulk.is_some()
        && let Some(bandwidth) = &mut step.bandwidth
    {
        bandwidth.link = link::link_use(bandwidth, &step.params, environment);
    }
    health::judge(step);
}

/// Fewer connections than asked for were measured on, or some were lost meanwhile: what is shown is
/// the latency of less load.
pub(super) fn connection_warnings(step: &StepResult, failure: Option<&Error>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if step.params.connects_each() {
        return warnings;
    }
    let (asked, established) = (step.connections.asked, step.connections.established);
    let advice = failure.and_then(Error::advice);
    if established < asked && step.operations.completed > 0 {
        let why = failure.map_or_else(String::new, |error| format!(": {}", error.message()));
        warnings.push(Warning::new(
            "connections-missing",
            format!("{established} of {asked} connections were measured on{why}"),
            advice.unwrap_or("see `errors`, or ask for fewer --connections"),
        ));
    }
    let lost = step.errors.iter().any(|error| {
        matches!(error.phase.as_str(), "send" | "receive")
            && !matches!(error.cause.as_str(), "timeout" | "late-reply")
    });
    // An HTTP load opens them again, and its report names what failed elsewhere.
    if let Some(failure) = failure
        && step.params.http.is_none()
        && !step.partial
        && lost
    {
        warnings.push(Warning::new(
            "connections-lost",
            format!(
                "connections were lost while measuring, and the others measured on: {}",
                failure.message()
            ),
            advice.unwrap_or("see `errors`"),
        ));
    }
    warnings
}

pub(super) fn warnings(step: &StepResult) -> Vec<Warning> {
    let mut warnings = health::warnings(step);
    warnings.extend(unreported(step));
    warnings
}

fn client_instrument<T>(at: &Setting, common: &Common, outcome: &StepOutcome<T>) -> Instrument {
    let StepOutcome { workers, disturbance, cpus, wait, .. } = outcome;
    let mut reason = at.chosen.reason.clone();
    if *wait != WaitMode::Block {
        reason += &format!("; spins by {}", workers.capabilities.spinning);
    }
    for step_down in &workers.capabilities.step_downs {
        reason += &format!("; {step_down}");
    }
    let blocks_by_default = *wait == WaitMode::Block && common.wait != Some(WaitMode::Block);
    let mut accepts = workers.outcome.accepts.iter().filter(|_| blocks_by_default);
    let wakeups = workers.wakeups.as_ref().filter(|_| *wait != WaitMode::Spin);
    Instrument {
        backend: at.chosen.backend.name().to_owned(),
        backend_reason: reason,
        wait: wait.name().to_owned(),
        wait_reason: accepts.find_map(|accept| accept.wait_reason.clone()),
        wakeup_p99_ns: wakeups.map(|wakeups| wakeups.p99().0),
        worker_busy_max: workers.busy,
        cpus: cpus.clone(),
        ring_overflows: workers.overflows,
        ..instrument::of_worker(&workers.counters, workers.clock, &workers.usage, disturbance)
    }
}

/// One block for the server: where several sessions or servers answered, the worst figures of them
/// all, so that no disturbance hides behind an average. Sessions of one worker tell of the same
/// thread, so that nothing is added.
fn server_instrument(figures: &[Figures]) -> Option<Instrument> {
    let mut all = figures.iter().map(|f| &f.instrument).filter(|i| !i.backend.is_empty());
    let mut worst = all.next()?.clone();
    for other in all {
        keep_worse(&mut worst, other);
        worst.involuntary_switches = worst.involuntary_switches.max(other.involuntary_switches);
        worst.voluntary_switches = worst.voluntary_switches.max(other.voluntary_switches);
        worst.run_queue_ns = worst.run_queue_ns.max(other.run_queue_ns);
        worst.steal_ns = worst.steal_ns.max(other.steal_ns);
        worst.throttled_periods = worst.throttled_periods.max(other.throttled_periods);
        worst.throttled_ns = worst.throttled_ns.max(other.throttled_ns);
    }
    Some(worst)
}

/// The server's CPU time over all its workers. Sessions of one worker tell of the same thread: of
/// each worker, known by its CPUs, the latest figures count.
fn server_cpu(figures: &[Figures]) -> Option<CpuUse> {
    let mut workers: BTreeMap<&[u32], &Figures> = BTreeMap::new();
    for reported in figures.iter().filter(|f| f.cpu_operations > 0 || f.cpu_bytes > 0) {
        let latest = workers.entry(&reported.instrument.cpus).or_insert(reported);
        if (reported.cpu_operations, reported.cpu_bytes) > (latest.cpu_operations, latest.cpu_bytes)
        {
            *latest = reported;
        }
    }
    let sum =
        |of: fn(&Figures) -> u64| workers.values().map(|&f| of(f)).fold(0, u64::saturating_add);
    let mut machines = workers.values().map(|f| f.cpu);
    let machine = machines.find(|cpu| cpu.machine_busy.is_some()).unwrap_or_default();
    let used =
        CpuUse { user_ns: sum(|f| f.cpu.user_ns), system_ns: sum(|f| f.cpu.system_ns), ..machine };
    let (operations, bytes) = (sum(|f| f.cpu_operations), sum(|f| f.cpu_bytes));
    let polling_ns = sum(|f| f.cpu.polling_ns.unwrap_or(0));
    (!workers.is_empty()).then(|| per_piece(used, operations, bytes, polling_ns))
}

/// CPU time that was used over so many operations and bytes.
fn per_piece(used: CpuUse, operations: u64, bytes: u64, polling_ns: u64) -> CpuUse {
    let used_ns = used.user_ns.saturating_add(used.system_ns) as f64;
    let mib = bytes as f64 / f64::from(1 << 20);
    CpuUse {
        per_operation_ns: (operations > 0).then(|| used_ns / operations as f64),
        per_mib_ns: (bytes > 0).then(|| used_ns / mib),
        ..used
    }
    .with_polling(Some(polling_ns))
}

/// What a step leaves unreported, so that nothing that was not reported is taken for nothing.
pub(crate) fn unreported(step: &StepResult) -> Vec<Warning> {
    let Some(bandwidth) = &step.bandwidth else { return Vec::new() };
    let flows = [("up", &bandwidth.up), ("down", &bandwidth.down)];
    let unreported = |(way, flow): (&str, &Option<Flow>)| {
        let flow = flow.as_ref().filter(|flow| flow.untold_streams > 0)?;
        let acknowledged = flow.acknowledged_bytes.map_or_else(String::new, |bytes| {
            format!("; at least {bytes} bytes of theirs were acknowledged")
        });
        let message = format!(
            "{way}: what the receiving end got of {} stream{} is not known, and not in the figures: {} bytes were \
             sent in all, {} are known to have been received{acknowledged}",
            flow.untold_streams,
            if flow.untold_streams == 1 { "" } else { "s" },
            flow.sent_bytes,
            flow.received_bytes
        );
        let advice = "see the errors: run again once the server stays";
        Some(Warning::new("receiver-untold", message, advice))
    };
    flows.into_iter().filter_map(unreported).collect()
}
