//! The result of a latency step.

use crate::run::plan::Common;
use crate::run::report::{common_result, tell_latencies};
use crate::run::step::StepOutcome;
use crate::run::sweep::Setting;
use crate::worker::tally::Record;
use tare_proto::hello::Figures;
use tare_stats::histogram::Distribution;
use tare_stats::result::{Params, StepResult};
use tare_stats::summary;

pub(super) fn of_step(
    at: &Setting,
    common: &Common,
    params: Params,
    outcome: &StepOutcome<Record>,
) -> StepResult {
    let (tally, sessions) = (&outcome.workers.tally, &outcome.workers.outcome);
    let mut recording = tally.recording.clone();
    for residence in sessions.figures.iter().filter_map(residence_of) {
        recording.merge_residence(&residence);
    }
    let mut step = common_result(at, common, params, outcome, (sessions.answered, 0));
    tell_latencies(&mut step, &recording, &common.percentiles, outcome);
    step.operations = tally.measured.operations;
    step.errors = tally.measured.errors.to_counts();
    step.warmup.operations = tally.warmup.operations;
    step.warmup.errors = tally.warmup.errors.to_counts();
    step.rate = sessions.rate(step.params.rate_per_s);
    if step.params.rate_per_s.is_some() {
        step.connections.connecting_ns = Some(sessions.connecting.0);
        step.connections.down_ns = Some(sessions.down.0);
    }
    step.intervals = summary::series(&recording, sessions.measured);
    step
}

fn residence_of(figures: &Figures) -> Option<Distribution> {
    Distribution::decode(figures.residence_hdr.as_deref()?).ok()
}
