//! From what the workers brought back to the result that is printed: here what all results have.

pub(crate) mod vet;

use std::collections::BTreeMap;

use super::instrument;
use super::plan::Common;
use super::step::StepOutcome;
use crate::worker::outcome::Outcome;
use tare_driver::probe::Chosen;
use tare_host::usage::Disturbance;
use tare_proto::hello::Figures;
use tare_proto::hello::WaitMode;
use tare_stats::health;
use tare_stats::pool::keep_worse;
use tare_stats::result::{
    Connections, CpuUse, Environments, Flow, Instrument, Params, StepResult, Warning,
};
use tare_units::Nanos;

/// What a step's result is made of.
#[derive(Debug)]
pub(crate) struct Inputs<'a, T> {
    pub(crate) common: &'a Common,
    pub(crate) params: Params,
    pub(crate) connections: u32,
    pub(crate) chosen: &'a Chosen,
    pub(crate) environment: &'a Environments,
    pub(crate) outcome: StepOutcome<T>,
}

/// When the measured phase began, by the wall clock, RFC 3339 to the nanosecond; absent where it never did.
pub(crate) fn began_at<T>(outcome: &StepOutcome<T>) -> Option<String> {
    let measured = outcome.result.outcome.measured > Nanos::ZERO;
    outcome.began.filter(|_| measured).map(|at| format!("{at:.9}"))
}

/// The distinct servers that answered.
pub(crate) fn instances(outcome: &Outcome) -> Vec<String> {
    let accepts = outcome.accepts.iter();
    let mut instances: Vec<String> = accepts.map(|a| a.instance.to_string()).collect();
    instances.sort();
    instances.dedup();
    instances
}

pub(crate) fn connections<T>(inputs: &Inputs<'_, T>) -> Connections {
    let outcome = &inputs.outcome.result.outcome;
    Connections {
        asked: u64::from(inputs.connections),
        established: outcome.established,
        reconnects: 0,
        sockets_used: outcome.sockets,
        ..Connections::default()
    }
}

/// The warnings that a finished step gives rise to.
pub(super) fn warnings(step: &StepResult) -> Vec<Warning> {
    let mut warnings = health::warnings(step);
    warnings.extend(untold(step));
    warnings
}

/// What is said where arrivals that were never sent were too many to be visited.
pub(super) fn spread_unsent(count: u64) -> Option<Warning> {
    (count > 0).then(|| Warning {
        code: "unsent-spread".to_owned(),
        message: format!(
            "{count} requests that were due and never sent are all counted, but their response times and latenesses are taken from evenly spread due times between some that are known"
        ),
        advice: "they are off by microseconds; a lower rate, or equal gaps (--arrivals constant), are exact"
            .to_owned(),
    })
}

/// How the client measured.
pub(crate) fn client_instrument<T>(inputs: &Inputs<'_, T>) -> Instrument {
    let StepOutcome { result, disturbance, cpus, wait, .. } = &inputs.outcome;
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
        client.wakeup_p99_ns = result.wakeups.as_ref().map(|wakeups| wakeups.p99().0);
    }
    if *wait == WaitMode::Block && inputs.common.wait != Some(WaitMode::Block) {
        let refusals = result.outcome.accepts.iter();
        client.wait_reason = refusals.into_iter().find_map(|a| a.wait_reason.clone());
    }
    client.worker_busy_max = result.busy;
    client.cpus.clone_from(cpus);
    client.ring_overflows = result.overflows;
    client
}

/// One block for the far end: where several sessions or servers answered, the worst figures of them all, so
/// that no disturbance hides behind an average. Sessions of one worker tell of the same thread, so that nothing is added.
pub(crate) fn server_instrument(figures: &[Figures]) -> Option<Instrument> {
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

/// The server's CPU time over all its workers. Sessions of one worker tell of the same thread: of each
/// worker, known by its CPUs, the latest figures count.
pub(crate) fn server_cpu(figures: &[Figures]) -> Option<CpuUse> {
    let mut workers: BTreeMap<&[u32], &Figures> = BTreeMap::new();
    for told in figures.iter().filter(|f| f.cpu_operations > 0 || f.cpu_bytes > 0) {
        let latest = workers.entry(&told.instrument.cpus).or_insert(told);
        if (told.cpu_operations, told.cpu_bytes) > (latest.cpu_operations, latest.cpu_bytes) {
            *latest = told;
        }
    }
    let sum =
        |of: fn(&Figures) -> u64| workers.values().map(|&f| of(f)).fold(0, u64::saturating_add);
    let machine = workers.values().map(|f| f.cpu);
    let machine = machine.into_iter().find(|cpu| cpu.machine_busy.is_some());
    let machine = machine.unwrap_or_default();
    (!workers.is_empty()).then(|| CpuUse {
        machine_softirq: machine.machine_softirq,
        machine_softnet_dropped: machine.machine_softnet_dropped,
        machine_softnet_squeezed: machine.machine_softnet_squeezed,
        ..cpu_use(
            sum(|f| f.cpu.user_ns),
            sum(|f| f.cpu.system_ns),
            machine.machine_busy,
            sum(|f| f.cpu_operations),
            sum(|f| f.cpu_bytes),
        )
        .with_polling(Some(sum(|f| f.cpu.polling_ns.unwrap_or(0))))
    })
}

#[expect(clippy::cast_precision_loss, reason = "a quotient of two measured numbers")]
pub(crate) fn cpu_use(
    user_ns: u64,
    system_ns: u64,
    machine_busy: Option<f64>,
    operations: u64,
    bytes: u64,
) -> CpuUse {
    let used = user_ns.saturating_add(system_ns) as f64;
    let mib = bytes as f64 / f64::from(1 << 20);
    CpuUse {
        user_ns,
        system_ns,
        machine_busy,
        per_operation_ns: (operations > 0).then(|| used / operations as f64),
        per_mib_ns: (bytes > 0).then(|| used / mib),
        ..CpuUse::default()
    }
}

/// Adds what the whole machine of that end did meanwhile.
pub(crate) fn tell_machine(used: &mut CpuUse, disturbance: &Disturbance) {
    used.machine_busy = disturbance.machine_busy;
    used.machine_softirq = disturbance.machine_softirq;
    used.machine_softnet_dropped = disturbance.softnet.map(|seen| seen.dropped);
    used.machine_softnet_squeezed = disturbance.softnet.map(|seen| seen.squeezed);
}

/// What a step leaves untold, so that nothing that was not told is taken for nothing.
pub(crate) fn untold(step: &StepResult) -> Vec<Warning> {
    let Some(bandwidth) = &step.bandwidth else {
        return Vec::new();
    };
    let flows = [("up", &bandwidth.up), ("down", &bandwidth.down)];
    let untold = |(way, flow): (&str, &Option<Flow>)| {
        let flow = flow.as_ref().filter(|flow| flow.untold_streams > 0)?;
        let acknowledged = match flow.acknowledged_bytes {
            Some(bytes) => format!("; at least {bytes} bytes of theirs were acknowledged"),
            None => String::new(),
        };
        Some(Warning {
            code: "receiver-untold".to_owned(),
            message: format!(
                "{way}: what the receiving end got of {} stream{} is not known, and not in the figures: {} bytes were \
                 sent in all, {} are known to have been received{acknowledged}",
                flow.untold_streams,
                if flow.untold_streams == 1 { "" } else { "s" },
                flow.sent_bytes,
                flow.received_bytes
            ),
            advice: "see the errors: run again once the far end stays".to_owned(),
        })
    };
    flows.into_iter().filter_map(untold).collect()
}
