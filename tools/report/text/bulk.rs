//! Text of a bulk run.

use tare_engine::result::{Bandwidth, Report, StepResult};

use super::{fact, instruments, machines, put, steps_troubles, troubles};
use crate::report::bulk;

/// One step on one screen.
pub(super) fn one(out: &mut String, report: &Report, step: &StepResult, bandwidth: &Bandwidth) {
    for found in bulk::facts(step, bandwidth) {
        let indent = if found.is_part { "  " } else { "" };
        fact(out, &format!("{indent}{}", found.name), &found.text);
    }
    troubles(out, step);
    if let Some((cells, left_out)) = bulk::series(step) {
        out.push('\n');
        put(out, cells);
        if left_out > 0 {
            out.push_str(&format!(
                "  {left_out} entries in the middle are left out; JSON has them all\n"
            ));
        }
        out.push('\n');
    }
    instruments(out, step);
    machines(out, report);
}

/// A sweep: a row per step, then what is odd in each.
pub(super) fn several(out: &mut String, report: &Report) {
    put(out, bulk::sweep(report));
    out.push('\n');
    for step in &report.results {
        let bound = bulk::of(step)
            .and_then(|bandwidth| bandwidth.link.as_ref())
            .filter(|link| link.bound);
        if let Some(link) = bound {
            let name = crate::report::parameters(&step.params);
            out.push_str(&format!(
                "  {name}: LINK-BOUND by {}; compare CPU, not bandwidth\n",
                link.device
            ));
        }
    }
    steps_troubles(out, report);
    if let Some(last) = report.results.last() {
        out.push_str("Instrument, in the last step:\n");
        instruments(out, last);
    }
    machines(out, report);
}
