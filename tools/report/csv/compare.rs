//! The columns of a comparison: a row per cell. Differences are in the cell's unit.

use tare_engine::result::{Cell, StepResult};

use super::Row;
use crate::report::compare::View;

pub(super) fn columns(row: &mut Row, view: View<'_>, step: &StepResult, cell: &Cell) {
    let comparison = view.comparison();
    let arm = comparison.arms.iter().find(|arm| arm.name == cell.arm);
    row.put("measured", &comparison.measured);
    row.put("baseline_arm", &comparison.baseline);
    row.put("arm", &cell.arm);
    row.put_known("target", arm.map(|arm| &arm.target));
    row.put_known("options", arm.and_then(|arm| arm.options.as_ref()));
    row.put("backend", &comparison.backend);
    row.put("wait", &comparison.wait);
    row.put("step", cell.step);
    let params = &step.params;
    row.put("proto", &params.proto);
    row.put("size_bytes", params.size_bytes);
    row.put("connections", params.connections);
    row.put_known("rate_target_per_s", params.rate_per_s);
    let http = params.http.as_ref();
    row.put_known("stage", http.and_then(|http| http.stage));
    row.put_known("under_load", params.under_load.as_ref());
    row.put("measure", &cell.measure);
    row.put("unit", &cell.unit);
    row.put("declared", cell.declared);
    row.put("overloaded", cell.overloaded);
    row.put_known("baseline", cell.baseline);
    row.put_known("value", cell.value);
    for (name, estimate) in [("delta", cell.delta), ("ratio", cell.ratio)] {
        let interval = estimate.and_then(|estimate| estimate.interval);
        row.put_known(name, estimate.map(|estimate| estimate.median));
        row.put_known(format!("{name}_low"), interval.map(|ends| ends.0));
        row.put_known(format!("{name}_high"), interval.map(|ends| ends.1));
    }
    row.put_known("p", cell.p);
    row.put_known("p_adjusted", cell.p_adjusted);
    row.put_known("resolution", cell.resolution);
    row.put_known("detectable", cell.detectable);
    row.put("blocks", cell.blocks.len());
    row.put("blocks_needed", cell.blocks_needed);
    row.put_known("verdict", cell.verdict.map(|verdict| verdict.name()));
    row.put_known("failed", arm.and_then(|arm| arm.failed.as_ref()));
}
