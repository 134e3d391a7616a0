//! Two saved results, from before a change and from after it, and what they say of each other.

use serde::Serialize;
use tare_stats::diff::{Change, Diff, Of};
use tare_stats::result::{AA, AssertionResult, Comparison, Report, Verdict};
use tare_units::Nanos;

use super::common::assertions;
use super::compare::figures::spans;
use super::document::{Block, Document, Fact, Shown, Table, fact, note};
use super::quantity::{known, measure_name, shown, signed};
use super::{NONE, charts, machines, print};
use crate::output::Format;

/// Two results by the names of their files, and what they say of each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between<'a> {
    pub(crate) before: (&'a str, &'a Report),
    pub(crate) after: (&'a str, &'a Report),
    pub(crate) later: &'a Diff,
    pub(crate) assertions: &'a [AssertionResult],
}

impl Between<'_> {
    /// One of the two, in a line.
    fn described(&self, (name, report): (&str, &Report)) -> String {
        let blocks = report.comparison.as_ref().map(|comparison| comparison.blocks_done);
        let blocks = blocks
            .map_or_else(String::new, |blocks| format!(", {}", super::plural(blocks, "block")));
        let partial = if report.partial { ", PARTIAL" } else { "" };
        format!("{name}, of {}{blocks}{partial}", report.started_at)
    }
}

/// In a format, with its last newline.
pub(crate) fn render(format: Format, between: &Between<'_>) -> String {
    match format {
        Format::Text => print::text::print(document(between)),
        Format::Markdown => print::markdown::print(document(between)),
        Format::Csv => super::csv::changes(between.later),
        Format::Json => super::json::pretty(&Written::of(between)),
        Format::Jsonl => super::json::line(&Written::of(between)),
        Format::Html => print::html::print(vec![(String::new(), document(between))]),
    }
}

fn document(between: &Between<'_>) -> Document {
    let later = between.later;
    let mut document = Document {
        title: format!("tare compare: {}, before and after", later.measured),
        alerts: vec![format!("warning: {}", caution(later))],
        sections: Vec::new(),
    };
    let left_out = later.left_out.iter();
    document.alerts.extend(left_out.map(|what| format!("not compared: {what}")));
    let sides = vec![
        fact("before", between.described(between.before)),
        fact("after", between.described(between.after)),
    ];
    let blocks = vec![Block::Facts(sides), Block::Table(changes(later))];
    document.add(Shown::Plain, "changes", "What has changed", blocks);
    let rest = surroundings(between);
    let rest = if rest.rows.is_empty() {
        note("Nothing else that both have figures of is different.")
    } else {
        Block::Table(rest)
    };
    document.add(Shown::Headed, "surroundings", "What else has changed", vec![rest]);
    assertions(&mut document, "Assertions", "95 % interval", between.assertions);
    document.add(Shown::Page, "moved", "How far, and how sure", moved(later));
    let sides = [("Before", between.before.1), ("After", between.after.1)];
    let commands = sides
        .into_iter()
        .filter_map(|(side, report)| Some(fact(side, report.plan["command_line"].as_str()?)));
    let commands: Vec<Fact> = commands.collect();
    if !commands.is_empty() {
        let blocks = vec![Block::Facts(commands)];
        document.add(Shown::Page, "command", "The commands", blocks);
    }
    document
}

/// The intervals of the changes, a figure for each step and measure.
fn moved(later: &Diff) -> Vec<Block> {
    let mut groups: Vec<(String, Vec<&Change>)> = Vec::new();
    for change in later.changes.iter().filter(|_| later.has_blocks) {
        let title = format!("{}: {}", measure(change), super::parameters(&change.params));
        match groups.iter_mut().find(|(name, _)| *name == title) {
            Some((_, changes)) => changes.push(change),
            None => groups.push((title, vec![change])),
        }
    }
    let figure = |(title, changes): (String, Vec<&Change>)| {
        let unit = &changes.first()?.unit;
        let mut table = Table::new(&["", "change", "95 % interval", "verdict"]);
        for change in &changes {
            let delta = change.delta.filter(|_| !is_queue(change));
            table.row(vec![
                subject(change),
                known(delta.map(|delta| delta.median), |value| signed(unit, value)),
                delta.map_or_else(|| NONE.to_owned(), |_| interval(change)),
                verdict(change),
            ]);
        }
        let drawn = changes.iter().filter(|change| !is_queue(change)).enumerate();
        let drawn = drawn.filter_map(|(role, change)| Some((subject(change), role, change.delta?)));
        let plot = spans("change", unit, &drawn.collect::<Vec<_>>(), None)?;
        let about = "How far each value has moved, with its interval. The table holds the numbers.";
        Some(charts::figure(title, about, plot, Vec::new(), table))
    };
    groups.into_iter().filter_map(figure).collect()
}

/// How far any of it can be trusted.
pub(crate) fn caution(later: &Diff) -> String {
    if later.has_blocks {
        "The two were not measured in turns: whatever else changed between them is in the differences. To settle it, measure \
         both states in one `tare compare`, with --before and --after for the change."
            .to_owned()
    } else {
        "Plain results have no blocks: the figures stand side by side, and nothing is said of the difference. To learn whether \
         there is one, use `tare compare`."
            .to_owned()
    }
}

/// Which value: an arm's own, or its cost.
fn subject(change: &Change) -> String {
    match (&change.arm, change.of) {
        (Some(arm), Of::Value) => arm.clone(),
        (Some(arm), Of::Cost) => format!("{arm}, its cost"),
        (None, _) => String::new(),
    }
}

fn measure(change: &Change) -> String {
    measure_name(&change.measure)
}

fn verdict(change: &Change) -> String {
    change.verdict.map_or_else(|| NONE.to_owned(), |verdict| verdict.name().to_owned())
}

/// Latencies under overload, whose change says nothing of the path.
fn is_queue(change: &Change) -> bool {
    change.verdict == Some(Verdict::Overload)
}

fn interval(change: &Change) -> String {
    let ends = change.delta.and_then(|delta| delta.interval);
    let show = |value| signed(&change.unit, value);
    ends.map_or_else(|| NONE.to_owned(), |(low, high)| format!("{} to {}", show(low), show(high)))
}

/// A row for each change; of plain results without what they cannot have.
fn changes(later: &Diff) -> Table {
    let blocks = later.has_blocks;
    let header: &[&str] = if blocks {
        &[
            "step",
            "of",
            "measure",
            "verdict",
            "before",
            "after",
            "change",
            "95 % interval",
            "p, corrected",
        ]
    } else {
        &["step", "measure", "before", "after", "difference"]
    };
    let mut cells = Table::new(header).left(if blocks { 4 } else { 2 }).named("Before and after");
    for change in &later.changes {
        let cost = change.of == Of::Cost;
        let show = |value| {
            if cost { signed(&change.unit, value) } else { shown(&change.unit, value) }
        };
        let mut row = vec![super::parameters(&change.params)];
        if blocks {
            row.push(subject(change));
        }
        row.push(measure(change));
        if blocks {
            row.push(verdict(change));
        }
        row.push(known(change.before, show));
        row.push(known(change.after, show));
        let queue = is_queue(change);
        let moved = change.delta.filter(|_| !queue).map(|delta| delta.median);
        row.push(known(moved, |value| signed(&change.unit, value)));
        if blocks {
            row.push(if queue { NONE.to_owned() } else { interval(change) });
            row.push(known(change.p_adjusted, |p| shown("", p)));
        }
        cells.row(row);
    }
    cells
}

/// What else is not as it was: of the machines, and of the way of measuring.
fn surroundings(between: &Between<'_>) -> Table {
    let mut cells = Table::new(&["where", "what", "before", "after"]).left(4);
    let (before, after) = (between.before.1, between.after.1);
    let mut differing = |place: &str, what: &str, old: String, new: String| {
        if old != new {
            cells.row(vec![place.to_owned(), what.to_owned(), old, new]);
        }
    };
    differing("tare", "version", before.tool.version.clone(), after.tool.version.clone());
    if let (Some(old), Some(new)) = (&before.comparison, &after.comparison) {
        for [place, what, old, new] in asked_for(old, new) {
            differing(&place, &what, old, new);
        }
    }
    let servers = (before.environment.servers.len(), after.environment.servers.len());
    differing("servers", "number", servers.0.to_string(), servers.1.to_string());
    let mut pairs =
        vec![("client".to_owned(), &before.environment.client, &after.environment.client)];
    let told = before.environment.servers.iter().zip(&after.environment.servers);
    for (index, (old, new)) in told.enumerate() {
        pairs.push((format!("server {}", index + 1), old, new));
    }
    for (place, old, new) in pairs {
        for [what, old, new] in machines::changes(old, new) {
            differing(&place, &what, old, new);
        }
        if let (Some(a), Some(b)) = (&old.hostname, &new.hostname) {
            differing(&place, "hostname", a.clone(), b.clone());
        }
    }
    cells
}

/// How both comparisons were to be measured, and over which arms: where, what, before, after.
fn asked_for(old: &Comparison, new: &Comparison) -> Vec<[String; 4]> {
    let length = |ns: u64| Nanos(ns).to_string();
    let of_both = |place: &str, what: &str, of: &dyn Fn(&Comparison) -> String| {
        [place.to_owned(), what.to_owned(), of(old), of(new)]
    };
    let mut asked = vec![
        of_both("every end", "backend", &|c| c.backend.clone()),
        of_both("every end", "wait", &|c| c.wait.clone()),
        of_both("the blocks", "blocks asked for", &|c| c.blocks_asked.to_string()),
        of_both("a visit", "duration", &|c| length(c.block_duration_ns)),
        of_both("a visit", "settle", &|c| length(c.settle_ns)),
    ];
    // The A/A arm is the baseline's path again.
    for arm in new.arms.iter().filter(|arm| arm.name != AA) {
        let Some(earlier) = old.arms.iter().find(|earlier| earlier.name == arm.name) else {
            continue;
        };
        let given = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
        for (what, before, after) in [
            ("target", earlier.target.clone(), arm.target.clone()),
            ("options", given(&earlier.options), given(&arm.options)),
            ("--before", given(&earlier.before), given(&arm.before)),
            ("--after", given(&earlier.after), given(&arm.after)),
        ] {
            let place = format!("arm {}", arm.name);
            asked.push([place, what.to_owned(), before, after]);
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
    caution: String,
    /// What else is not as it was: `[where, what, before, after]` each.
    #[cfg_attr(test, schemars(inner(length(min = 4, max = 4))))]
    surroundings: Vec<Vec<String>>,
    assertions: &'a [AssertionResult],
}

impl<'a> Written<'a> {
    fn of(between: &Between<'a>) -> Self {
        Self {
            later: between.later,
            before: Side::of(between.before),
            after: Side::of(between.after),
            caution: caution(between.later),
            surroundings: surroundings(between).rows,
            assertions: between.assertions,
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

impl<'a> Side<'a> {
    fn of((file, report): (&'a str, &'a Report)) -> Self {
        Self { file, started_at: &report.started_at, partial: report.partial }
    }
}

#[cfg(test)]
mod tests {
    use tare_stats::diff::compare;

    use super::*;
    use crate::report::fixtures::page::{Shape, comparison};

    #[test]
    fn how_far_a_queue_has_moved_is_not_drawn() {
        let old = comparison(Shape { arms: 3, sizes: 2, blocks: 8 });
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
        let cells = changes(&later);
        let told = |row: &&Vec<String>| row.contains(&"overload".to_owned());
        let row = cells.rows.iter().find(told).expect("of arm-1");
        assert_eq!(row[6..8], [NONE, NONE], "no change, no interval: {row:?}");
    }
}
