//! What is above and below the tables: what was compared and how, what spoils it, and what the
//! words mean.

use std::collections::BTreeMap;

use tare_stats::result::{
    AA, Arm, Cell, Comparison, Params, StepResult, Verdict, Visit, VisitStep,
};
use tare_units::{Nanos, Size};

use super::table::magnitude;
use super::{View, short};
use crate::report::common::because;
use crate::report::document::{Field, field, fields};
use crate::report::numbers::{measure_name, per_second, shown};
use crate::report::{
    bulk, errors, grouped, label, list, parameters, phrases, plural, target as target_of,
};

/// Instances of an arm that are named; of more only their number is printed.
const INSTANCES_NAMED: usize = 4;

/// Which paths were compared, and by what load, in a line.
pub(crate) fn asked(view: View<'_>) -> String {
    let comparison = view.comparison;
    let others: Vec<&str> = view.others().map(|arm| arm.name.as_str()).collect();
    let others = match others.as_slice() {
        [] => " against itself".to_owned(),
        [one] => format!(" (baseline) against {one}"),
        [all @ .., last] => format!(" (baseline) against {} and {last}", all.join(", ")),
    };
    let load = view.step(0).map(|first| format!(": {}{}", load(view, first), label(first)));
    let load = load.unwrap_or_default();
    format!("tare compare of {}: {}{others}{load}", comparison.measured, comparison.baseline)
}

/// What every visit measured, as far as it is the same in all steps.
fn load(view: View<'_>, first: &StepResult) -> String {
    let params = &first.params;
    let http = params.http.as_ref();
    let differing = view.differing();
    let same = |what: &str| !differing.iter().any(|(name, _)| *name == what);
    let flows = match (&params.bulk, params.proto.as_str()) {
        (Some(_), _) => "stream",
        (None, "udp") => "flow",
        _ => "connection",
    };
    let steps = if differing.is_empty() {
        parameters(params)
    } else {
        phrases([
            http.is_none().then(|| params.proto.clone()),
            (http.is_none() && same("size")).then(|| Size(params.size_bytes).to_string()),
            same("conns").then(|| plural(params.connections.into(), flows)),
            Some(plural(view.comparison.steps, "step")),
        ])
    };
    let loop_of = match (&params.bulk, http, params.rate_per_s) {
        (Some(asked), _, _) => bulk::options(asked),
        (None, Some(http), Some(_)) => {
            format!("open loop ({})", http.arrivals.as_deref().unwrap_or("constant"))
        }
        (None, None, Some(rate)) if same("rate") => {
            format!("open loop at {}", per_second(rate))
        }
        (None, None, Some(_)) => "open loop".to_owned(),
        (None, _, None) => "closed loop".to_owned(),
    };
    phrases([http.map(|http| format!("{} {}", http.method, http.path)), Some(steps), Some(loop_of)])
}

pub(super) fn how(view: View<'_>) -> String {
    let comparison = view.comparison;
    let (blocks, lasting) =
        (plural(comparison.blocks_asked, "block"), Nanos(comparison.block_duration_ns));
    let each = if comparison.steps > 1 { " and step" } else { "" };
    let visits = format!("{blocks} of 2 visits × {lasting} to each arm{each}");
    let settle = Some(comparison.settle_ns).filter(|ns| *ns > 0);
    phrases([
        Some(visits),
        settle.map(|ns| format!("{} to settle after each hook", Nanos(ns))),
        Some(format!("seed {}", view.report.seed)),
        Some(comparison.backend.clone()),
        Some(format!("wait {}", comparison.wait)),
    ])
}

pub(crate) fn alerts(view: View<'_>) -> Vec<String> {
    let comparison = view.comparison;
    let [done, asked] = [comparison.blocks_done, comparison.blocks_asked].map(grouped);
    let partial = view.report.partial.then(|| {
        format!(
            "PARTIAL: {done} of {asked} blocks were measured in every arm; what follows rests on what there is."
        )
    });
    let failed = comparison.arms.iter().filter_map(|arm| {
        let reason = arm.failed.as_ref()?.replace('\n', " ");
        let visits = plural(arm.visits, "visit");
        let name = &arm.name;
        Some(format!("FAILED: {name} was given up: {reason}; its {visits} until then are kept."))
    });
    partial.into_iter().chain(failed).collect()
}

pub(super) fn notes(view: View<'_>) -> Vec<Field> {
    let comparison = view.comparison;
    let shown = view.measures();
    let all = view.all_measures(false).into_iter();
    let left_out = list(all.filter(|m| !shown.contains(m)).map(measure_name));
    let left_out = (!left_out.is_empty())
        .then(|| format!("{left_out}: no verdict was asked for; --format json and csv have them"));
    let mut notes = verdicts(view);
    notes.extend(resolution(view));
    notes.extend(fields([("left out", left_out), ("blocks", Some(blocks(view)))]));
    let arms = comparison.arms.iter().filter(|arm| arm.name != AA);
    notes.extend(arms.map(|arm| field("arm", describe(view, arm))));
    notes.extend(fields([("servers", shared(view))]));
    let failures = view.results().filter(|(_, result)| !result.errors.is_empty());
    notes.extend(
        failures.map(|(name, r)| field("errors", format!("{name}: {}", errors(&r.errors)))),
    );
    let Comparison { backend, backend_reason, wait, wait_reason, .. } = comparison;
    let (why_backend, why_wait) = (because(backend_reason), because(wait_reason));
    notes.push(field("both ends", format!("{backend}{why_backend}, wait {wait}{why_wait}")));
    notes
}

fn verdicts(view: View<'_>) -> Vec<Field> {
    let declared: Vec<&Cell> = view.comparison.cells.iter().filter(|cell| cell.declared).collect();
    if declared.is_empty() {
        return Vec::new();
    }
    let carried = |more| if declared.iter().any(|cell| cell.unit != "ns") { more } else { "" };
    let overload = match declared.iter().any(|cell| cell.unit == "1/s") {
        true => "compare the goodput",
        false => "a lower --rate shows the path",
    };
    let none = "no difference shown: there may be one all the same, within the interval";
    let overload = format!(
        "the rate asked for was not reached, or a queue grew: latencies are those of a queue; {overload}"
    );
    let slower = format!("longer latencies than the baseline's{}", carried(", or less carried"));
    let faster = format!("shorter latencies than the baseline's{}", carried(", or more carried"));
    let few = format!("not enough blocks: {}", more_blocks(view, &declared));
    let meanings = [
        (Verdict::Slower, slower),
        (Verdict::Faster, faster),
        (Verdict::NoDifferenceShown, none.to_owned()),
        (Verdict::NotEnoughBlocks, few),
        (Verdict::Overload, overload),
    ];
    let given = |verdict| declared.iter().any(|cell| cell.verdict == Some(verdict));
    let meanings = meanings.into_iter().filter(|(verdict, _)| given(*verdict));
    let mut notes: Vec<Field> =
        meanings.map(|(verdict, text)| field(short(verdict), text)).collect();
    let count = declared.len();
    let cells =
        if count == 1 { "the one cell".into() } else { format!("all {count} cells together") };
    let text = format!("hold for {cells} at 95 % (sign test over the blocks, Holm's correction)");
    notes.push(field("verdicts", text));
    let shift = declared.iter().filter_map(|cell| cell.instrument_error).fold(0.0, f64::max);
    let shift =
        (shift > 0.0).then(|| format!(", and {} more for the instrument", shown("ns", shift)));
    let text = "in brackets, 95 % for the median over the blocks, each for itself";
    notes.push(field("intervals", format!("{text}{}", shift.unwrap_or_default())));
    notes
}

fn more_blocks(view: View<'_>, declared: &[&Cell]) -> String {
    let lacking = declared.iter().filter(|cell| cell.verdict == Some(Verdict::NotEnoughBlocks));
    let needed = lacking.clone().map(|cell| cell.blocks_needed).max().unwrap_or_default();
    let there = lacking.map(|cell| cell.blocks.len() as u64).min().unwrap_or_default();
    let count = declared.len();
    let verdicts = if count == 1 {
        "a verdict takes".into()
    } else {
        format!("verdicts over {count} cells take")
    };
    let comparison = view.comparison;
    if needed > comparison.blocks_asked {
        let more = plural(needed - comparison.blocks_asked, "more block");
        format!("{verdicts} {needed}; {more}: --blocks {needed}")
    } else if comparison.blocks_done < needed {
        format!("{verdicts} {needed}, and not all that were asked for were measured")
    } else {
        let few = "had samples enough; a longer --block-duration gives more";
        format!("{verdicts} {needed}, and {there} {few}")
    }
}

fn resolution(view: View<'_>) -> Vec<Field> {
    let range = |find: &dyn Fn(&Cell) -> Option<f64>, aa: bool| {
        let parts = view.measures().into_iter().filter_map(|measure| {
            let cells = view.comparison.cells.iter();
            let cells = cells.filter(|cell| cell.measure == measure && (cell.arm == AA) == aa);
            let known =
                cells.filter_map(|cell| Some((cell, find(cell).filter(|f| f.is_finite())?)));
            let mut known: Vec<(&Cell, f64)> = known.collect();
            known.sort_by(|a, b| a.1.total_cmp(&b.1));
            let shown = |(cell, found): &(&Cell, f64)| magnitude(cell, *found);
            let (least, most) = (shown(known.first()?), shown(known.last()?));
            let range = if least == most { most } else { format!("{least} to {most}") };
            Some(format!("{} {range}", measure_name(measure)))
        });
        Some(list(parts)).filter(|text| !text.is_empty())
    };
    let detectable = range(&|cell| cell.detectable, false);
    let detectable = detectable.map(|found| {
        format!(
            "before the run, so many blocks were expected to find, in four runs of five: {found}"
        )
    });
    let resolution = range(&|cell| cell.resolution, true);
    let resolution = resolution.map(|found| {
        format!(
            "the baseline's path visited as an arm of its own, which may differ from itself by {found}"
        )
    });
    fields([("detectable", detectable), (AA, resolution), ("", unlike_itself(view))])
}

/// The cells of [`AA`] whose interval leaves out zero. Some do by chance; many mean that the order
/// of visits matters.
fn unlike_itself(view: View<'_>) -> Option<String> {
    let measures = view.measures();
    let is_shown = |cell: &&Cell| cell.arm == AA && measures.contains(&cell.measure.as_str());
    let of_aa = view.comparison.cells.iter().filter(is_shown);
    let intervals = of_aa.filter_map(|cell| Some((cell, cell.delta?.interval?)));
    let leave_out = intervals.clone().filter(|(_, (low, high))| *low > 0.0 || *high < 0.0);
    let names = leave_out.map(|(cell, _)| {
        format!("{} {}", measure_name(&cell.measure), view.step_name(cell.step)).trim().to_owned()
    });
    let names: Vec<String> = names.collect();
    let intervals = plural(intervals.count() as u64, "interval");
    (!names.is_empty()).then(|| {
        format!(
            "{} of its {intervals} leave out zero, where one in twenty does by chance: {}",
            names.len(),
            names.join(", ")
        )
    })
}

fn blocks(view: View<'_>) -> String {
    let comparison = view.comparison;
    let visits = comparison.blocks.iter().flat_map(|block| &block.visits);
    let counted = |what: &str, is: &dyn Fn(&Visit) -> bool| {
        let count =
            |arm: &Arm| visits.clone().filter(|v| v.arm == arm.name && is(v)).count() as u64;
        let arms = comparison.arms.iter().map(|arm| (&arm.name, count(arm)));
        let arms: Vec<(&String, u64)> = arms.filter(|(_, count)| *count > 0).collect();
        let each = list(arms.iter().map(|(arm, count)| format!("{arm} {}", grouped(*count))));
        let all = grouped(arms.iter().map(|(_, count)| count).sum());
        (!arms.is_empty()).then(|| format!("{all} {what} ({each})"))
    };
    let any = |is: fn(&VisitStep) -> bool| move |visit: &Visit| visit.steps.iter().any(is);
    let spoiled = phrases([
        counted("failed", &|visit| visit.error.is_some()),
        counted("disturbed", &any(|step| step.disturbed)),
        counted("overloaded", &any(|step| step.overloaded)),
        counted("with errors", &any(|step| step.errors > 0)),
    ]);
    let spoiled = if spoiled.is_empty() { spoiled } else { format!(", of which {spoiled}") };
    let [done, asked] = [comparison.blocks_done, comparison.blocks_asked].map(grouped);
    let visits = plural(visits.clone().count() as u64, "visit");
    format!("{done} of {asked} whole, {visits}{spoiled}")
}

fn describe(view: View<'_>, arm: &Arm) -> String {
    let baseline = if arm.name == view.comparison.baseline { " (baseline)" } else { "" };
    let result = view.result(&arm.name, 0);
    let params = result.map_or_else(Params::default, |result| result.params.clone());
    let target = target_of(&Params { target: arm.target.clone(), ..params });
    let given = |what: &str, text: &Option<String>| text.as_ref().map(|t| format!("{what} '{t}'"));
    phrases([
        Some(format!("{}{baseline}: {target}", arm.name)),
        Some(plural(arm.visits, "visit")),
        given("with", &arm.options),
        given("before each", &arm.before),
        given("after each", &arm.after),
        (arm.instances.len() > 1).then(|| {
            let few = Some(&arm.instances).filter(|some| some.len() <= INSTANCES_NAMED);
            let named = few.map_or_else(String::new, |some| format!(": {}", some.join(" ")));
            format!("answered by {} servers{named}", arm.instances.len())
        }),
    ])
}

/// The servers that answered several arms: these differ in the path alone.
fn shared(view: View<'_>) -> Option<String> {
    let mut by_instance: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for arm in view.comparison.arms.iter().filter(|arm| arm.name != AA) {
        for instance in &arm.instances {
            by_instance.entry(instance).or_default().push(&arm.name);
        }
    }
    let shared = by_instance.into_iter().filter(|(_, arms)| arms.len() > 1);
    let parts = shared.map(|(instance, arms)| {
        format!("{} were answered by the same one, {instance}", arms.join(" and "))
    });
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
