//! From what the workers brought back to the result that is printed.

use std::collections::BTreeMap;

use super::instrument;
use super::plan::{LatPlan, WaitMode};
use super::step::StepOutcome;
use crate::analysis::{health, summary};
use crate::driver::probe::Chosen;
use crate::histogram::{Distribution, Kind, Recording};
use crate::proto::hello::Figures;
use crate::result::{
    Connections, Cpu, CpuUse, Instrument, Instruments, Params, Rate, StepResult, Warmup, Warning,
};
use crate::units::Nanos;

/// What a step's result is made of.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) plan: &'a LatPlan,
    pub(super) params: Params,
    pub(super) connections: u32,
    pub(super) cpus: &'a [u32],
    pub(super) chosen: &'a Chosen,
    pub(super) outcome: StepOutcome,
}

/// The step's result.
#[expect(
    clippy::cast_precision_loss,
    reason = "rates are printed with less than 53 bits"
)]
pub(super) fn step(inputs: &Inputs<'_>) -> StepResult {
    let outcome = &inputs.outcome.result;
    let disturbance = &inputs.outcome.disturbance;
    let mut recording = outcome.recording.clone();
    for figures in &outcome.outcome.figures {
        if let Some(residence) = residence_of(figures) {
            recording.merge_residence(&residence);
        }
    }
    let duration = outcome.outcome.measured;
    let operations = outcome.measured.operations;
    let client = client_instrument(inputs);
    let server = server_instrument(&outcome.outcome.figures);
    let seconds = duration.as_secs_f64();
    let achieved_per_s = if seconds > 0.0 {
        operations.completed as f64 / seconds
    } else {
        0.0
    };
    let mut instances: Vec<String> = outcome
        .outcome
        .accepts
        .iter()
        .map(|accept| accept.instance.to_string())
        .collect();
    instances.sort();
    instances.dedup();
    let mut step = StepResult {
        label: inputs.plan.common.label.clone(),
        params: inputs.params.clone(),
        duration_ns: duration.0,
        operations,
        warmup: Warmup {
            duration_ns: outcome.outcome.warmup.0,
            operations: outcome.warmup.operations,
            errors: outcome.warmup.errors.to_counts(),
        },
        rate: Rate {
            target_per_s: inputs.plan.rate_per_s,
            achieved_per_s,
            backlog_max: inputs.plan.rate_per_s.map(|_| outcome.outcome.backlog_max),
        },
        latency: summary::latencies(&recording, &inputs.plan.common.percentiles),
        errors: outcome.measured.errors.to_counts(),
        connections: Connections {
            asked: u64::from(inputs.connections),
            established: outcome.outcome.established,
            reconnects: 0,
            sockets_used: outcome.outcome.sockets,
        },
        cpu: Cpu {
            client: cpu_use(
                outcome.usage.user_ns,
                outcome.usage.system_ns,
                disturbance.machine_busy,
                operations.completed,
            ),
            server: server_cpu(&outcome.outcome.figures),
        },
        latency_error_ns: (instrument::latency_error(&client) + resolution(&recording)).0,
        instrument: Instruments { client, server },
        intervals: summary::series(&recording, duration),
        instances,
        partial: outcome.outcome.cut_short || inputs.outcome.stopped.is_some(),
        ..StepResult::default()
    };
    health::judge(&mut step);
    step
}

/// How finely the median is told.
fn resolution(recording: &Recording) -> Nanos {
    let service = recording.distribution(Kind::Service);
    service.map_or(Nanos::ZERO, |service| {
        let median = service.quantile(50.0).map_or(0, |q| q.value_ns);
        service.resolution(Nanos(median))
    })
}

/// The warnings that a finished step gives rise to.
pub(super) fn warnings(step: &StepResult) -> Vec<Warning> {
    health::warnings(step)
}

fn residence_of(figures: &Figures) -> Option<Distribution> {
    Distribution::decode(figures.residence_hdr.as_deref()?).ok()
}

fn client_instrument(inputs: &Inputs<'_>) -> Instrument {
    let StepOutcome {
        result,
        disturbance,
        wait,
        ..
    } = &inputs.outcome;
    let mut client = instrument::of_worker(&result.counters, result.clock, &result.usage);
    instrument::disturb(&mut client, disturbance);
    inputs.chosen.backend.name().clone_into(&mut client.backend);
    client.backend_reason.clone_from(&inputs.chosen.reason);
    if *wait != WaitMode::Block {
        client.backend_reason += &format!("; spins by {}", result.capabilities.spinning);
    }
    for step_down in &result.capabilities.step_downs {
        client.backend_reason += &format!("; {step_down}");
    }
    wait.name().clone_into(&mut client.wait);
    if *wait != WaitMode::Spin {
        // Asleep, the loop cannot tell its system calls from its sleep: the kernel's account can.
        let workers = inputs.cpus.len().max(1) as u64;
        client.worker_busy_max =
            instrument::busy_share(&result.usage, Nanos(result.outcome.measured.0 * workers));
        client.wakeup_p99_ns = result.wakeup.map(|n| n.0);
    }
    if *wait == WaitMode::Block && inputs.plan.common.wait != Some(WaitMode::Block) {
        let refusals = result.outcome.accepts.iter();
        client.wait_reason = refusals.into_iter().find_map(|a| a.wait_reason.clone());
    }
    client.cpus = inputs.cpus.to_vec();
    client.ring_overflows = result.overflows;
    client
}

/// One block for the far end: where several sessions or servers answered, the worst figures of them all, so
/// that no disturbance hides behind an average.
fn server_instrument(figures: &[Figures]) -> Option<Instrument> {
    let mut all = figures
        .iter()
        .map(|f| &f.instrument)
        .filter(|i| !i.backend.is_empty());
    let mut worst = all.next()?.clone();
    for other in all {
        worst.turn_p50_ns = worst.turn_p50_ns.max(other.turn_p50_ns);
        worst.turn_p99_ns = worst.turn_p99_ns.max(other.turn_p99_ns);
        worst.turn_max_ns = worst.turn_max_ns.max(other.turn_max_ns);
        worst.gap_p99_ns = worst.gap_p99_ns.max(other.gap_p99_ns);
        worst.involuntary_switches = worst.involuntary_switches.max(other.involuntary_switches);
        worst.voluntary_switches = worst.voluntary_switches.max(other.voluntary_switches);
        worst.steal_ns = worst.steal_ns.max(other.steal_ns);
        worst.throttled_periods = worst.throttled_periods.max(other.throttled_periods);
        worst.throttled_ns = worst.throttled_ns.max(other.throttled_ns);
        worst.cpus.extend(&other.cpus);
    }
    worst.cpus.sort_unstable();
    worst.cpus.dedup();
    Some(worst)
}

/// The server's CPU time over all its workers. Sessions of one worker tell of the same thread: of each
/// worker, known by its CPUs, the latest figures count.
fn server_cpu(figures: &[Figures]) -> Option<CpuUse> {
    let mut workers: BTreeMap<&[u32], &Figures> = BTreeMap::new();
    for told in figures.iter().filter(|f| f.cpu_operations > 0) {
        let latest = workers.entry(&told.instrument.cpus).or_insert(told);
        if told.cpu_operations > latest.cpu_operations {
            *latest = told;
        }
    }
    let sum = |of: fn(&Figures) -> u64| workers.values().map(|&f| of(f)).sum();
    let machine_busy = workers.values().find_map(|f| f.cpu.machine_busy);
    (!workers.is_empty()).then(|| {
        cpu_use(
            sum(|f| f.cpu.user_ns),
            sum(|f| f.cpu.system_ns),
            machine_busy,
            sum(|f| f.cpu_operations),
        )
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a quotient of two measured numbers"
)]
fn cpu_use(user_ns: u64, system_ns: u64, machine_busy: Option<f64>, operations: u64) -> CpuUse {
    let per_operation = (operations > 0).then(|| (user_ns + system_ns) as f64 / operations as f64);
    CpuUse {
        user_ns,
        system_ns,
        machine_busy,
        per_operation_ns: per_operation,
        per_mib_ns: None,
    }
}
