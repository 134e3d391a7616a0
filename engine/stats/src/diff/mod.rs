//! Two saved results, one from before a change and one from after it.
//!
//! Two comparisons were not measured in turns: whatever else changed in between stands in the
//! difference, and no statistics take it out. So each arm is reported with how far its blocks have
//! moved (unpaired), and each but the baseline also with how far its *cost* has: its difference to
//! the baseline of the same block, from which what both arms share drops out. Verdicts are
//! corrected over all declared changes by Holm's procedure. Plain results have no blocks: they are
//! set side by side, and nothing is said of the difference.

use serde::Serialize;

use super::compare::power::LEVEL;
use super::compare::{blocks, direction};
use super::pool::headline;
use crate::number::real;
use crate::result::{
    AA, Cell, CellBlock, Comparison, Estimate, Params, Report, StepResult, Verdict,
};
use tare_units::error::{Error, Result};

/// The name and version of what [`Diff`] serialises to.
pub const SCHEMA: &str = "tare-later/1";

/// What has changed between two results of one kind.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diff {
    /// [`SCHEMA`].
    #[cfg_attr(feature = "schema", schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// What was measured: `lat`, `bw` or `http`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["lat", "bw", "http"])))]
    pub measured: String,
    /// The arm that costs are relative to; absent of plain results, and where the two have not the
    /// same.
    pub baseline: Option<String>,
    /// Both have blocks, so that there are intervals and verdicts.
    pub has_blocks: bool,
    /// The changes: arm by arm and step by step, as in the later result.
    pub changes: Vec<Change>,
    /// In words: what only one of the two has.
    pub left_out: Vec<String>,
}

/// One figure, before and after.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// The arm's name; absent of plain results.
    pub arm: Option<String>,
    /// The step, with the target of the later result.
    pub params: Params,
    /// `p50`, `p99_9`, …, `bandwidth`, `goodput`.
    pub measure: String,
    /// `ns`, `bit/s` or `1/s`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["ns", "bit/s", "1/s"])))]
    pub unit: String,
    /// What of it.
    pub of: Of,
    /// Before: the median over the blocks.
    pub before: Option<f64>,
    /// After: the same.
    pub after: Option<f64>,
    /// Blocks before.
    pub blocks_before: u64,
    /// Blocks after.
    pub blocks_after: u64,
    /// By how much it has moved: the Hodges–Lehmann shift with its 95 % interval. Of plain results
    /// the mere difference, without one.
    pub delta: Option<Estimate>,
    /// Two-sided p of the Mann–Whitney test.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub p: Option<f64>,
    /// The same after Holm's correction over the declared changes.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub p_adjusted: Option<f64>,
    /// The verdict; absent of plain results and of measures that were not declared.
    pub verdict: Option<Verdict>,
}

/// What of a measure has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// The arm's own value.
    #[default]
    Value,
    /// Its difference to the baseline: the cost itself.
    Cost,
}

/// What has changed from `before` to `after`.
///
/// # Errors
/// A usage error where the two are of different kinds, or have no step in common.
pub fn compare(before: &Report, after: &Report) -> Result<Diff> {
    let kind = |report: &Report| match &report.comparison {
        Some(comparison) => format!("a comparison of {}", comparison.measured),
        None => report.kind.clone(),
    };
    let (was, is) = (kind(before), kind(after));
    if was != is {
        let what = format!("the two results are of different kinds: before {was}, after {is}");
        return Err(
            Error::usage(what).remedy("compare two of one kind, made with the same command")
        );
    }
    match (before.comparison.as_deref(), after.comparison.as_deref()) {
        (Some(old), Some(new)) => comparisons((before, old), (after, new)),
        _ => plain(before, after),
    }
}

/// What tells a step from the others, whichever way it was reached.
fn identity(params: &Params) -> Params {
    Params { target: String::new(), address: None, timeout_ns: 0, ..params.clone() }
}

fn nothing_in_common(what: &str) -> Error {
    Error::usage(format!("the two results have no {what} in common, so nothing can be compared"))
        .remedy("measure after the change with the command from before it")
}

/// A comparison with what its cells are of.
type Saved<'a> = (&'a Report, &'a Comparison);

fn params_of<'a>((report, _): Saved<'a>, arm: &str, step: u64) -> Option<&'a Params> {
    let own = report.results.iter().filter(|result| result.arm.as_deref() == Some(arm));
    own.map(|result| &result.params).nth(usize::try_from(step).ok()?)
}

fn comparisons(before: Saved<'_>, after: Saved<'_>) -> Result<Diff> {
    let ((_, old), (_, new)) = (before, after);
    let baseline = (old.baseline == new.baseline).then(|| new.baseline.clone());
    let mut left_out = missing_arms(old, new);
    if baseline.is_none() {
        left_out.push(format!(
            "how the costs changed: the baseline was '{}' before, and is '{}' after",
            old.baseline, new.baseline
        ));
    }
    let mut changes = Vec::new();
    let mut unmatched = 0;
    let mut baselines: Vec<(u64, &str)> = Vec::new();
    for cell in &new.cells {
        let Some((params, earlier)) = pair(before, after, cell) else {
            let is_shared = old.arms.iter().any(|arm| arm.name == cell.arm);
            unmatched += usize::from(is_shared && cell.arm != AA);
            continue;
        };
        let figures = (earlier, cell);
        if baseline.is_some() && !baselines.contains(&(cell.step, cell.measure.as_str())) {
            baselines.push((cell.step, &cell.measure));
            // An arm that died has fewer blocks than the baseline, and one that was overloaded says
            // nothing of it.
            let same = |other: &&Cell| other.step == cell.step && other.measure == cell.measure;
            let again = new.cells.iter().filter(same).find(|cell| cell.arm == AA);
            let again = again.and_then(|again| Some((pair(before, after, again)?.1, again)));
            let figures = again.unwrap_or(figures);
            let mut own = change(&new.baseline, params, figures, Of::Value, |b| b.baseline);
            if !new.cells.iter().filter(same).any(|cell| cell.declared) {
                own.verdict = None;
            }
            changes.push(own);
        }
        // The A/A arm is the baseline's path again: it costs nothing.
        if cell.arm != AA {
            changes.push(change(&cell.arm, params, figures, Of::Value, |b| b.value));
            if baseline.is_some() {
                changes
                    .push(change(&cell.arm, params, figures, Of::Cost, |b| b.value - b.baseline));
            }
        }
    }
    if changes.is_empty() {
        return Err(nothing_in_common("arm and step"));
    }
    if unmatched > 0 {
        left_out.push(format!("{unmatched} figures of steps that were not measured before"));
    }
    judge(&mut changes);
    let (schema, measured) = (SCHEMA.to_owned(), new.measured.clone());
    Ok(Diff { schema, measured, baseline, has_blocks: true, changes, left_out })
}

/// The parameters of a cell's step, and the cell of the earlier comparison that is of the same arm,
/// step and measure.
fn pair<'a>(before: Saved<'a>, after: Saved<'a>, cell: &Cell) -> Option<(&'a Params, &'a Cell)> {
    let params = params_of(after, &cell.arm, cell.step)?;
    let wanted = identity(params);
    let earlier = before.1.cells.iter().find(|earlier| {
        (&earlier.arm, &earlier.measure, &earlier.unit) == (&cell.arm, &cell.measure, &cell.unit)
            && params_of(before, &earlier.arm, earlier.step)
                .is_some_and(|params| identity(params) == wanted)
    })?;
    Some((params, earlier))
}

fn missing_arms(old: &Comparison, new: &Comparison) -> Vec<String> {
    let mut missing = Vec::new();
    for (from, other, when) in [(old, new, "before"), (new, old, "after")] {
        let arms = from.arms.iter().map(|arm| &arm.name);
        let alone = arms.filter(|name| !other.arms.iter().any(|arm| arm.name == **name));
        let note = |name| format!("the arm '{name}', which is only in the result from {when}");
        missing.extend(alone.map(note));
    }
    missing
}

/// A figure over the blocks of both; the verdict is given once all are known.
fn change(
    arm: &str,
    params: &Params,
    (old, new): (&Cell, &Cell),
    of: Of,
    figure: impl Fn(&CellBlock) -> f64,
) -> Change {
    let [before, after] =
        [old, new].map(|cell| cell.blocks.iter().map(&figure).collect::<Vec<_>>());
    let moved = blocks::shift(&before, &after);
    let overloaded = (old.overloaded || new.overloaded) && new.unit == "ns";
    let declared = new.declared || new.arm == AA;
    Change {
        arm: Some(arm.to_owned()),
        params: params.clone(),
        measure: new.measure.clone(),
        unit: new.unit.clone(),
        of,
        before: blocks::median(&before),
        after: blocks::median(&after),
        blocks_before: before.len() as u64,
        blocks_after: after.len() as u64,
        delta: moved.map(|moved| moved.estimate),
        p: moved.map(|moved| moved.p),
        p_adjusted: None,
        verdict: declared.then_some(match overloaded {
            true => Verdict::Overload,
            false => Verdict::NoDifferenceShown,
        }),
    }
}

/// Corrects the p of the changes that get a verdict, and gives it.
fn judge(changes: &mut [Change]) {
    let mut family: Vec<&mut Change> = changes
        .iter_mut()
        .filter(|change| change.verdict == Some(Verdict::NoDifferenceShown))
        .collect();
    let p: Vec<f64> = family.iter().map(|change| change.p.unwrap_or(1.0)).collect();
    for (change, adjusted) in family.iter_mut().zip(blocks::holm(&p)) {
        change.p_adjusted = change.p.map(|_| adjusted);
        let smallest = smallest_p(change.blocks_before, change.blocks_after);
        change.verdict = Some(match change.delta {
            Some(delta) if adjusted <= LEVEL && delta.median != 0.0 => {
                direction(delta.median, &change.unit)
            }
            _ if smallest * real(p.len() as u64) > LEVEL => Verdict::NotEnoughBlocks,
            _ => Verdict::NoDifferenceShown,
        });
    }
}

/// The p of so many blocks all of which have moved the same way: two orders of all that there are.
fn smallest_p(before: u64, after: u64) -> f64 {
    let orders = (1..=before.min(after))
        .fold(1.0, |orders, k| orders * real(before.max(after) + k) / real(k));
    (2.0 / orders).min(1.0)
}

fn plain(before: &Report, after: &Report) -> Result<Diff> {
    fn twin<'a>(step: &StepResult, steps: &'a [StepResult]) -> Option<&'a StepResult> {
        let wanted = identity(&step.params);
        steps.iter().find(|other| identity(&other.params) == wanted)
    }
    let mut changes = Vec::new();
    for step in &after.results {
        let Some(earlier) = twin(step, &before.results) else { continue };
        let pairs = figures(earlier).into_iter().zip(figures(step));
        for ((measure, unit, old), (_, _, new)) in pairs {
            if old.is_none() && new.is_none() {
                continue;
            }
            let moved = |(old, new)| Estimate { median: new - old, interval: None };
            changes.push(Change {
                params: step.params.clone(),
                measure: measure.to_owned(),
                unit: unit.to_owned(),
                before: old,
                after: new,
                delta: old.zip(new).map(moved),
                ..Change::default()
            });
        }
    }
    if changes.is_empty() {
        return Err(nothing_in_common("step"));
    }
    let (old, new) = (&before.results, &after.results);
    let mut left_out = Vec::new();
    for (steps, others, when) in [(old, new, "before"), (new, old, "after")] {
        let alone = steps.iter().filter(|step| twin(step, others).is_none()).count();
        if alone > 0 {
            left_out.push(format!("{alone} steps that are only in the result from {when}"));
        }
    }
    let (schema, measured) = (SCHEMA.to_owned(), after.kind.clone());
    Ok(Diff { schema, measured, baseline: None, has_blocks: false, changes, left_out })
}

/// The figures of a step that stand side by side, each with its unit.
fn figures(step: &StepResult) -> Vec<(&'static str, &'static str, Option<f64>)> {
    let latency = headline(&step.latency);
    let time = |ns: Option<u64>| ns.map(real);
    let mut figures = vec![
        ("p50", "ns", time(latency.p50_ns)),
        ("p90", "ns", time(latency.p90_ns)),
        ("p99", "ns", time(latency.p99_ns)),
        ("p99_9", "ns", time(latency.p99_9_ns)),
    ];
    if step.params.http.is_some() {
        figures.push(("goodput", "1/s", Some(step.rate.achieved_per_s)));
    }
    figures.push(("bandwidth", "bit/s", step.bandwidth.as_ref().and_then(|b| b.bits_per_s)));
    figures
}

#[cfg(test)]
mod tests;
