//! Two saved results, from before a change and from after it, and what they say of each other.

use serde::Serialize;
use tare_stats::diff::{Change, Diff, Of};
use tare_stats::result::{
    AA, Arm, AssertionResult, Comparison, Environment, Estimate, Report, Verdict,
};

use super::common::{assertions, commands};
use super::compare::figures::spans;
use super::document::{Block, Document, Shown, Table, field, note};
use super::numbers::{known, measure_name, shown, signed, time};
use super::{charts, machines, numbers, parameters, plural, print};
use crate::report::Format;

#[derive(Debug, Clone, Copy)]
pub(crate) struct DiffReport<'a> {
    pub(crate) before: (&'a str, &'a Report),
    pub(crate) after: (&'a str, &'a Report),
    pub(crate) changes: &'a Diff,
    pub(crate) assertions: &'a [AssertionResult],
}

pub(crate) fn render(format: Format, diff: &DiffReport<'_>) -> String {
    match format {
        Format::Text => print::text(document(diff)),
        Format::Markdown => print::markdown(document(diff)),
        Format::Csv => super::csv::changes(diff.changes),
        Format::Json => super::json::pretty(&Written::of(diff)),
        Format::Jsonl => super::json::line(&Written::of(diff)),
        Format::Html => print::html::print(vec![(String::new(), document(diff))]),
    }
}

fn document(diff: &DiffReport<'_>) -> Document {
    let changes = diff.changes;
    let warning = format!("warning: {}", caution(changes));
    let left_out = changes.left_out.iter().map(|what| format!("not compared: {what}"));
    let mut document = Document {
        title: format!("tare compare: {}, before and after", changes.measured),
        alerts: std::iter::once(warning).chain(left_out).collect(),
        sections: Vec::new(),
    };
    let sides = [("before", diff.before), ("after", diff.after)];
    let sides = sides.map(|(side, result)| field(side, described(result)));
    let blocks = vec![Block::Fields(sides.into()), Block::Table(table(changes))];
    document.add(Shown::Plain, "changes", "What has changed", blocks);
    let rest = surroundings(diff);
    let rest = if rest.rows.is_empty() {
        note("Nothing else that both have figures of is different.")
    } else {
        Block::Table(rest)
    };
    document.add(Shown::Headed, "surroundings", "What else has changed", vec![rest]);
    assertions(&mut document, "Assertions", "95 % interval", diff.assertions);
    document.add(Shown::Page, "moved", "How far, and how sure", moved(changes));
    let sides = [("Before", diff.before.1), ("After", diff.after.1)];
    commands(&mut document, "The commands", sides);
    document
}

fn described((name, report): (&str, &Report)) -> String {
    let blocks = report.comparison.as_ref().map(|comparison| comparison.blocks_done);
    let blocks = blocks.map_or_else(String::new, |n| format!(", {}", plural(n, "block")));
    let partial = if report.partial { ", PARTIAL" } else { "" };
    format!("{name}, of {}{blocks}{partial}", report.started_at)
}

fn moved(later: &Diff) -> Vec<Block> {
    let mut groups: Vec<(String, Vec<&Change>)> = Vec::new();
    for change in later.changes.iter().filter(|_| later.has_blocks) {
        let title = format!("{}: {}", measure_name(&change.measure), parameters(&change.params));
        match groups.iter_mut().find(|(name, _)| *name == title) {
            Some((_, changes)) => changes.push(change),
            None => groups.push((title, vec![change])),
        }
    }
    let figure = |(title, changes): (String, Vec<&Change>)| {
        let table = Table::of(
            changes.iter().copied(),
            &[
                ("", &|change| subject(change)),
                ("change", &|change| median(change)),
                ("95 % interval", &|change| interval(change)),
                ("verdict", &|change| verdict(change)),
            ],
        );
        let drawn = changes.iter().filter_map(|change| Some((subject(change), delta(change)?)));
        let drawn = (0..).zip(drawn).map(|(role, (subject, delta))| (subject, role, delta));
        let unit = &changes.first()?.unit;
        let plot = spans("change", unit, &drawn.collect::<Vec<_>>(), None)?;
        let about = "How far each value has moved, with its interval.";
        Some(charts::figure(title, about, plot, table))
    };
    groups.into_iter().filter_map(figure).collect()
}

pub(crate) const fn caution(later: &Diff) -> &'static str {
    if later.has_blocks {
        "The two were not measured in turns: whatever else changed between them is in the differences. To settle it, measure \
         both states in one `tare compare`, with --before and --after for the change."
    } else {
        "Plain results have no blocks: the figures stand side by side, and nothing is said of the difference. To learn whether \
         there is one, use `tare compare`."
    }
}

fn subject(change: &Change) -> String {
    match (&change.arm, change.of) {
        (Some(arm), Of::Value) => arm.clone(),
        (Some(arm), Of::Cost) => format!("{arm}, its cost"),
        (None, _) => String::new(),
    }
}

fn verdict(change: &Change) -> String {
    known(change.verdict, |verdict| verdict.name().to_owned())
}

fn value(change: &Change, value: Option<f64>) -> String {
    let show = if change.of == Of::Cost { signed } else { shown };
    known(value, |value| show(&change.unit, value))
}

/// How far a value has moved; a queue's says nothing of the path.
fn delta(change: &Change) -> Option<Estimate> {
    change.delta.filter(|_| change.verdict != Some(Verdict::Overload))
}

fn median(change: &Change) -> String {
    known(delta(change), |delta| signed(&change.unit, delta.median))
}

fn interval(change: &Change) -> String {
    numbers::interval(delta(change), |value| signed(&change.unit, value))
}

fn table(later: &Diff) -> Table {
    let blocks = later.has_blocks;
    let moved = if blocks { "change" } else { "difference" };
    let table = Table::of(
        &later.changes,
        &[
            ("step", &|change| parameters(&change.params)),
            ("of", &|change| subject(change)),
            ("measure", &|change| measure_name(&change.measure)),
            ("verdict", &|change| verdict(change)),
            ("before", &|change| value(change, change.before)),
            ("after", &|change| value(change, change.after)),
            (moved, &|change| median(change)),
            ("95 % interval", &|change| interval(change)),
            ("p, corrected", &|change| known(change.p_adjusted, |p| shown("", p))),
        ],
    );
    let table = table.only_if(blocks, &["of", "verdict", "95 % interval", "p, corrected"]);
    table.left(if blocks { 4 } else { 2 }).named("Before and after")
}

fn surroundings(diff: &DiffReport<'_>) -> Table {
    let (before, after) = (diff.before.1, diff.after.1);
    let row = |place: &str, what: &str, old: &str, new: &str| {
        [place, what, old, new].map(str::to_owned).to_vec()
    };
    let mut rows = vec![row("tare", "version", &before.tool.version, &after.tool.version)];
    if let (Some(old), Some(new)) = (&before.comparison, &after.comparison) {
        rows.extend(asked_for(old, new));
    }
    let (old, new) = (&before.environment, &after.environment);
    let [servers, now] = [old, new].map(|environment| environment.servers.len().to_string());
    rows.push(row("servers", "number", &servers, &now));
    let mut of_machine = |place: &str, old: &Environment, new: &Environment| {
        let changed = machines::changes(old, new).into_iter();
        rows.extend(changed.map(|[what, old, new]| row(place, &what, &old, &new)));
        if let (Some(a), Some(b)) = (&old.hostname, &new.hostname) {
            rows.push(row(place, "hostname", a, b));
        }
    };
    of_machine("client", &old.client, &new.client);
    for (index, (old, new)) in old.servers.iter().zip(&new.servers).enumerate() {
        of_machine(&format!("server {}", index + 1), old, new);
    }
    rows.retain(|row| row[2] != row[3]);
    Table { rows, ..Table::new(&["where", "what", "before", "after"]).left(4) }
}

/// How both comparisons were to be measured, and over which arms: where, what, before, after.
fn asked_for(old: &Comparison, new: &Comparison) -> Vec<Vec<String>> {
    let of_both = |place: &str, what: &str, of: &dyn Fn(&Comparison) -> String| {
        vec![place.to_owned(), what.to_owned(), of(old), of(new)]
    };
    let mut asked = vec![
        of_both("every end", "backend", &|c| c.backend.clone()),
        of_both("every end", "wait", &|c| c.wait.clone()),
        of_both("the blocks", "blocks asked for", &|c| c.blocks_asked.to_string()),
        of_both("a visit", "duration", &|c| time(c.block_duration_ns)),
        of_both("a visit", "settle", &|c| time(c.settle_ns)),
    ];
    // The A/A arm is the baseline's path again.
    for arm in new.arms.iter().filter(|arm| arm.name != AA) {
        let Some(earlier) = old.arms.iter().find(|earlier| earlier.name == arm.name) else {
            continue;
        };
        let given = |text: &Option<String>| known(text.clone(), |text| text);
        let [before, after] = [earlier, arm].map(|arm| {
            let Arm { target, options, before, after, .. } = arm;
            [target.clone(), given(options), given(before), given(after)]
        });
        let what = ["target", "options", "--before", "--after"].map(str::to_owned);
        for (what, (before, after)) in what.into_iter().zip(before.into_iter().zip(after)) {
            asked.push(vec![format!("arm {}", arm.name), what, before, after]);
        }
    }
    asked
}

/// What the JSON holds.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Written<'a> {
    #[serde(flatten)]
    later: &'a Diff,
    before: Side<'a>,
    after: Side<'a>,
    /// In words: how far any of it can be trusted.
    caution: &'static str,
    /// What else is not as it was: `[where, what, before, after]` each.
    #[cfg_attr(test, schemars(inner(length(min = 4, max = 4))))]
    surroundings: Vec<Vec<String>>,
    assertions: &'a [AssertionResult],
}

impl<'a> Written<'a> {
    fn of(diff: &DiffReport<'a>) -> Self {
        let side = |(file, report): (&'a str, &'a Report)| Side {
            file,
            started_at: &report.started_at,
            partial: report.partial,
        };
        Self {
            later: diff.changes,
            before: side(diff.before),
            after: side(diff.after),
            caution: caution(diff.changes),
            surroundings: surroundings(diff).rows,
            assertions: diff.assertions,
        }
    }
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Side<'a> {
    file: &'a str,
    started_at: &'a str,
    partial: bool,
}

#[cfg(test)]
mod tests {
    use tare_stats::diff::compare;

    use super::*;
    use crate::report::fixtures::compare::large;
    use crate::report::numbers::NONE;

    #[test]
    fn how_far_a_queue_has_moved_is_not_drawn() {
        let old = large(3, 2, 8);
        let mut new = old.clone();
        let cells = &mut new.comparison.as_mut().unwrap().cells;
        let mut cells = cells.iter_mut();
        let cell = cells.find(|cell| cell.arm == "arm-1" && cell.step == 1);
        cell.expect("it is compared").overloaded = true;
        let later = compare(&old, &new).unwrap();
        let mut document = Document::default();
        document.add(Shown::Page, "moved", "", moved(&later));
        let page = print::html::print(vec![(String::new(), document)]);
        let at = |size: &str| {
            let mut figures = page.split("<figure ");
            let figure = figures.find(|figure| figure.contains("p50: ") && figure.contains(size));
            let figure = figure.expect(size).split("</figure>").next().unwrap();
            figure.split_once("</svg>").expect("it is drawn")
        };
        let ((path, _), (queue, numbers)) = (at("64 B"), at("128 B"));
        assert!(path.contains("arm-1"), "{path}");
        // The drawing leaves it out, the numbers say why.
        assert!(!queue.contains("arm-1") && queue.contains("arm-2"), "{queue}");
        assert!(numbers.contains(">arm-1<") && numbers.contains(">overload<"), "{numbers}");
        let cells = table(&later);
        let is_overload = |row: &&Vec<String>| row.contains(&"overload".to_owned());
        let row = cells.rows.iter().find(is_overload).expect("of arm-1");
        assert_eq!(row[6..8], [NONE, NONE], "no change, no interval: {row:?}");
    }
}
