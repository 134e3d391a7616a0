//! The result of a latency step.

use crate::latency::job::LatTally;
use crate::run::instrument;
use crate::run::report::{
    Inputs, began_at, client_instrument, connections, cpu_use, instances, server_cpu,
    server_instrument,
};
use tare_proto::hello::Figures;
use tare_stats::histogram::Distribution;
use tare_stats::result::{Connections, Cpu, Instruments, StepResult, Warmup};
use tare_stats::{health, summary};

/// The step's result.
pub(crate) fn step(inputs: &Inputs<'_, LatTally>) -> StepResult {
    let tally = &inputs.outcome.result.tally;
    let outcome = &inputs.outcome.result;
    let disturbance = &inputs.outcome.disturbance;
    let mut recording = tally.recording.clone();
    for figures in &outcome.outcome.figures {
        if let Some(residence) = residence_of(figures) {
            recording.merge_residence(&residence);
        }
    }
    let duration = outcome.outcome.measured;
    let operations = tally.measured.operations;
    let client = client_instrument(inputs);
    let server = server_instrument(&outcome.outcome.figures);
    let mut latency = summary::latencies(&recording, &inputs.common.percentiles);
    let added = instrument::added(&client, outcome);
    summary::tell_errors(&mut latency, &recording, &inputs.common.percentiles, &added);
    let is_open = inputs.params.rate_per_s.is_some();
    let mut step = StepResult {
        label: inputs.common.label.clone(),
        params: inputs.params.clone(),
        began_at: began_at(&inputs.outcome),
        duration_ns: duration.0,
        operations,
        warmup: Warmup {
            duration_ns: outcome.outcome.warmup.0,
            operations: tally.warmup.operations,
            errors: tally.warmup.errors.to_counts(),
        },
        rate: outcome.outcome.rate(inputs.params.rate_per_s),
        latency,
        errors: tally.measured.errors.to_counts(),
        connections: Connections {
            connecting_ns: is_open.then_some(outcome.outcome.connecting.0),
            down_ns: is_open.then_some(outcome.outcome.down.0),
            ..connections(inputs)
        },
        cpu: Cpu {
            client: cpu_use(
                outcome.usage.user_ns,
                outcome.usage.system_ns,
                disturbance.machine_busy,
                outcome.outcome.answered,
                0,
            )
            .with_polling(Some(outcome.polling_ns)),
            server: server_cpu(&outcome.outcome.figures),
        },
        latency_error_ns: (instrument::latency_error(&client) + summary::resolution(&recording)).0,
        instrument: Instruments { client, server },
        intervals: summary::series(&recording, duration),
        instances: instances(&outcome.outcome),
        partial: outcome.outcome.cut_short || inputs.outcome.stopped.is_some(),
        ..StepResult::default()
    };
    health::judge(&mut step);
    step
}

fn residence_of(figures: &Figures) -> Option<Distribution> {
    Distribution::decode(figures.residence_hdr.as_deref()?).ok()
}
