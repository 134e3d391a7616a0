//! What is above and below the tables: what was compared and how, what spoils it, and what the words mean.

use std::collections::BTreeMap;

use tare_stats::result::{AA, Arm, Cell, Params, StepResult, Verdict, Visit, VisitStep};
use tare_units::Nanos;

use super::differences::magnitude;
use super::{Dimension, View, heading, short};
use crate::report::document::{Fact, fact};
use crate::report::target as target_of;
use crate::report::{
    bulk, errors, grouped, label, parameters, per_second, phrases, plural, quantity,
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
    let same = |by: Dimension| !differing.contains(&by);
    let steps = if differing.is_empty() {
        parameters(params)
    } else {
        let flows = match (&params.bulk, params.proto.as_str()) {
            (Some(_), _) => "stream",
            (None, "udp") => "flow",
            _ => "connection",
        };
        let size = http.is_none() && same(Dimension::Size);
        phrases([
            http.is_none().then(|| params.proto.clone()),
            size.then(|| Dimension::Size.value(first)),
            same(Dimension::Connections).then(|| plural(params.connections.into(), flows)),
            Some(plural(view.comparison.steps, "step")),
        ])
    };
    let loop_of = match (&params.bulk, http, params.rate_per_s) {
        (Some(asked), _, _) => bulk::options(asked),
        (None, Some(http), Some(_)) => {
            format!("open loop ({})", http.arrivals.as_deref().unwrap_or("constant"))
        }
        (None, None, Some(rate)) if same(Dimension::Rate) => {
            format!("open loop at {}", per_second(rate))
        }
        (None, None, Some(_)) => "open loop".to_owned(),
        (None, _, None) => "closed loop".to_owned(),
    };
    phrases([http.map(|http| format!("{} {}", http.method, http.path)), Some(steps), Some(loop_of)])
}

/// How they were compared, in a line.
pub(super) fn how(view: View<'_>) -> String {
    let comparison = view.comparison;
    let visits = format!(
        "{} of 2 visits × {} to each arm{}",
        plural(comparison.blocks_asked, "block"),
        Nanos(comparison.block_duration_ns),
        if comparison.steps > 1 { " and step" } else { "" }
    );
    let settle = Some(comparison.settle_ns).filter(|ns| *ns > 0);
    phrases([
        Some(visits),
        settle.map(|ns| format!("{} to settle after each hook", Nanos(ns))),
        Some(format!("seed {}", view.report.seed)),
        Some(comparison.backend.clone()),
        Some(format!("wait {}", comparison.wait)),
    ])
}

/// What spoils the comparison, a line each, but for the warnings.
pub(crate) fn alerts(view: View<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if view.report.partial {
        lines.push(format!(
            "PARTIAL: {} of {} blocks were measured in every arm; what follows rests on what there is.",
            grouped(view.comparison.blocks_done),
            grouped(view.comparison.blocks_asked)
        ));
    }
    for arm in &view.comparison.arms {
        if let Some(reason) = &arm.failed {
            lines.push(format!(
                "FAILED: {} was given up: {}; its {} until then are kept.",
                arm.name,
                reason.replace('\n', " "),
                plural(arm.visits, "visit")
            ));
        }
    }
    lines
}

/// What the table's words and figures mean, then what was done.
pub(super) fn notes(view: View<'_>) -> Vec<Fact> {
    let mut notes = verdicts(view);
    notes.extend(resolution(view));
    let mut add = |name: &str, text: String| notes.push(fact(name, text));
    let shown = view.measures();
    let all = view.all_measures(false).into_iter();
    let left_out: Vec<String> = all.filter(|m| !shown.contains(m)).map(heading).collect();
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        add(
            "left out",
            format!("{names}: no verdict was asked for; --format json and csv have them"),
        );
    }
    add("blocks", blocks(view));
    for arm in &view.comparison.arms {
        if arm.name != AA {
            add("arm", describe(view, arm));
        }
    }
    if let Some(text) = shared(view) {
        add("servers", text);
    }
    for arm in &view.comparison.arms {
        for step in 0..view.comparison.steps {
            let Some(result) = view.result(&arm.name, step) else {
                continue;
            };
            if !result.errors.is_empty() {
                let name = view.name(&arm.name, step);
                add("errors", format!("{name}: {}", errors(&result.errors)));
            }
        }
    }
    let comparison = view.comparison;
    let because = |reason: &str| match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    add(
        "both ends",
        format!(
            "{}{}, wait {}{}",
            comparison.backend,
            because(&comparison.backend_reason),
            comparison.wait,
            because(&comparison.wait_reason)
        ),
    );
    notes
}

/// What each verdict that was given means, and over how many cells they hold.
fn verdicts(view: View<'_>) -> Vec<Fact> {
    let declared: Vec<&Cell> = view.comparison.cells.iter().filter(|cell| cell.declared).collect();
    if declared.is_empty() {
        return Vec::new();
    }
    let carried = declared.iter().any(|cell| cell.unit != "ns");
    let mut notes = Vec::new();
    for verdict in [
        Verdict::Slower,
        Verdict::Faster,
        Verdict::NoDifferenceShown,
        Verdict::NotEnoughBlocks,
        Verdict::Overload,
    ] {
        if !declared.iter().any(|cell| cell.verdict == Some(verdict)) {
            continue;
        }
        let less = if carried { ", or less carried" } else { "" };
        let more = if carried { ", or more carried" } else { "" };
        let text = match verdict {
            Verdict::Slower => format!("longer latencies than the baseline's{less}"),
            Verdict::Faster => format!("shorter latencies than the baseline's{more}"),
            Verdict::NoDifferenceShown => {
                "no difference shown: there may be one all the same, within the interval".to_owned()
            }
            Verdict::NotEnoughBlocks => {
                format!("not enough blocks: {}", more_blocks(view, &declared))
            }
            Verdict::Overload => {
                let has_goodput = declared.iter().any(|cell| cell.unit == "1/s");
                format!(
                    "the rate asked for was not reached, or a queue grew: latencies are those of a queue; {}",
                    if has_goodput {
                        "compare the goodput"
                    } else {
                        "a lower --rate shows the path"
                    }
                )
            }
        };
        notes.push(fact(short(verdict), text));
    }
    let cells = match declared.len() {
        1 => "the one cell".to_owned(),
        count => format!("all {count} cells together"),
    };
    let text = format!("hold for {cells} at 95 % (sign test over the blocks, Holm's correction)");
    notes.push(fact("verdicts", text));
    let mut text = "in brackets, 95 % for the median over the blocks, each for itself".to_owned();
    let errors = declared.iter().filter_map(|cell| cell.instrument_error);
    let shift = errors.fold(0.0, f64::max);
    if shift > 0.0 {
        let shift = quantity::shown("ns", shift);
        text += &format!(", and {shift} more for the instrument");
    }
    notes.push(fact("intervals", text));
    notes
}

/// How many blocks are missing for a verdict, and what to type.
fn more_blocks(view: View<'_>, declared: &[&Cell]) -> String {
    let lacking = declared.iter().filter(|cell| cell.verdict == Some(Verdict::NotEnoughBlocks));
    let needed = lacking.clone().map(|cell| cell.blocks_needed).max().unwrap_or_default();
    let there = lacking.map(|cell| cell.blocks.len() as u64).min().unwrap_or_default();
    let verdicts = match declared.len() {
        1 => "a verdict takes".to_owned(),
        cells => format!("verdicts over {cells} cells take"),
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

/// What could be found by so many blocks, and what the same path shows against itself.
fn resolution(view: View<'_>) -> Vec<Fact> {
    let mut notes = Vec::new();
    let range = |find: &dyn Fn(&Cell) -> Option<f64>, aa: bool| {
        let measures = view.measures().into_iter();
        let parts = measures.filter_map(|measure| {
            let cells = view.comparison.cells.iter();
            let cells = cells.filter(|cell| cell.measure == measure && (cell.arm == AA) == aa);
            let known =
                cells.filter_map(|cell| Some((cell, find(cell).filter(|f| f.is_finite())?)));
            let mut known: Vec<(&Cell, f64)> = known.collect();
            known.sort_by(|a, b| a.1.total_cmp(&b.1));
            let shown = |(cell, found): &(&Cell, f64)| magnitude(cell, *found);
            let (least, most) = (shown(known.first()?), shown(known.last()?));
            let range = if least == most { most } else { format!("{least} to {most}") };
            Some(format!("{} {range}", heading(measure)))
        });
        parts.collect::<Vec<_>>().join(", ")
    };
    let detectable = range(&|cell| cell.detectable, false);
    if !detectable.is_empty() {
        let text = format!(
            "before the run, so many blocks were expected to find, in four runs of five: {detectable}"
        );
        notes.push(fact("detectable", text));
    }
    let resolution = range(&|cell| cell.resolution, true);
    if !resolution.is_empty() {
        let text = format!(
            "the baseline's path visited as an arm of its own, which may differ from itself by {resolution}"
        );
        notes.push(fact(AA, text));
    }
    notes.extend(astray(view).map(|text| fact("", text)));
    notes
}

/// The cells of [`AA`] whose interval leaves out zero. Some do by chance; many mean that the order of visits matters.
fn astray(view: View<'_>) -> Option<String> {
    let shown = view.measures();
    let is_shown = |cell: &&Cell| cell.arm == AA && shown.contains(&cell.measure.as_str());
    let of_aa = view.comparison.cells.iter().filter(is_shown);
    let intervals = of_aa.filter_map(|cell| Some((cell, cell.delta?.interval?)));
    let intervals: Vec<(&Cell, (f64, f64))> = intervals.collect();
    let leave_out = intervals.iter().filter(|(_, (low, high))| *low > 0.0 || *high < 0.0);
    let names: Vec<String> = leave_out
        .map(|(cell, _)| {
            let step = view.step_name(cell.step);
            format!("{} {step}", heading(&cell.measure)).trim().to_owned()
        })
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} of its {} leave out zero, where one in twenty does by chance: {}",
            names.len(),
            plural(intervals.len() as u64, "interval"),
            names.join(", ")
        )
    })
}

/// How many there were, and what of them was disturbed or failed.
fn blocks(view: View<'_>) -> String {
    let comparison = view.comparison;
    let visits = comparison.blocks.iter().flat_map(|block| &block.visits);
    let arms_of = |is: &dyn Fn(&Visit) -> bool| {
        let mut by_arm: BTreeMap<&str, u64> = BTreeMap::new();
        for visit in visits.clone().filter(|visit| is(visit)) {
            *by_arm.entry(&visit.arm).or_default() += 1;
        }
        by_arm
    };
    let any = |is: fn(&VisitStep) -> bool| move |visit: &Visit| visit.steps.iter().any(is);
    let mut parts = Vec::new();
    for (by_arm, what) in [
        (arms_of(&|visit| visit.error.is_some()), "failed"),
        (arms_of(&any(|step| step.disturbed)), "disturbed"),
        (arms_of(&any(|step| step.overloaded)), "overloaded"),
        (arms_of(&any(|step| step.errors > 0)), "with errors"),
    ] {
        let arms = comparison.arms.iter().map(|arm| arm.name.as_str());
        let told = arms.filter_map(|arm| Some(format!("{arm} {}", grouped(*by_arm.get(arm)?))));
        let told: Vec<String> = told.collect();
        if !told.is_empty() {
            let count = by_arm.values().sum();
            parts.push(format!("{} {what} ({})", grouped(count), told.join(", ")));
        }
    }
    let mut text = format!(
        "{} of {} whole, {}",
        grouped(comparison.blocks_done),
        grouped(comparison.blocks_asked),
        plural(visits.count() as u64, "visit")
    );
    if !parts.is_empty() {
        text.push_str(&format!(", of which {}", parts.join(", ")));
    }
    text
}

/// Where an arm leads, and what is its own.
fn describe(view: View<'_>, arm: &Arm) -> String {
    let is_baseline = arm.name == view.comparison.baseline;
    let target = view
        .result(&arm.name, 0)
        .map(|result| Params { target: arm.target.clone(), ..result.params.clone() });
    let target = target.map_or_else(|| arm.target.clone(), |params| target_of(&params));
    let given = |what: &str, text: &Option<String>| text.as_ref().map(|t| format!("{what} '{t}'"));
    phrases([
        Some(format!("{}{}: {target}", arm.name, if is_baseline { " (baseline)" } else { "" })),
        Some(plural(arm.visits, "visit")),
        given("with", &arm.options),
        given("before each", &arm.before),
        given("after each", &arm.after),
        match arm.instances.as_slice() {
            [] | [_] => None,
            some if some.len() <= INSTANCES_NAMED => {
                Some(format!("answered by {} servers: {}", some.len(), some.join(" ")))
            }
            many => Some(format!("answered by {} servers", many.len())),
        },
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
    let parts: Vec<String> = shared
        .map(|(instance, arms)| {
            format!("{} were answered by the same one, {instance}", arms.join(" and "))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
