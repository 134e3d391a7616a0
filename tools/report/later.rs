//! What two saved results, from before a change and from after it, say of each other: as text, Markdown, CSV and JSON.

use comfy_table::presets::NOTHING;
use serde::Serialize;
use tare_engine::analysis::later::{Change, Later, Of};
use tare_engine::result::{AA, AssertionResult, Comparison, Report, Verdict};
use tare_engine::units::Nanos;

use super::quantity::{known, measure_name, shown, signed};
use super::{Cells, NONE, machines, markdown};
use crate::output::Format;

/// Two results by the names of their files, and what they say of each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between<'a> {
    pub(crate) before: (&'a str, &'a Report),
    pub(crate) after: (&'a str, &'a Report),
    pub(crate) later: &'a Later,
    pub(crate) assertions: &'a [AssertionResult],
}

impl Between<'_> {
    /// One of the two, in a line.
    pub(super) fn told_of(&self, (name, report): (&str, &Report)) -> String {
        let blocks = report
            .comparison
            .as_ref()
            .map(|comparison| comparison.blocks_done);
        let blocks = blocks.map_or_else(String::new, |blocks| {
            format!(", {}", super::plural(blocks, "block"))
        });
        let partial = if report.partial { ", PARTIAL" } else { "" };
        format!("{name}, of {}{blocks}{partial}", report.started_at)
    }
}

/// In a format, with its last newline.
pub(crate) fn render(format: Format, between: &Between<'_>) -> String {
    match format {
        Format::Text => text(between),
        Format::Markdown => in_markdown(between),
        Format::Csv => csv(between),
        Format::Json => json(between, true),
        Format::Jsonl => json(between, false),
        Format::Html => super::html::later_page(between),
    }
}

/// How far any of it can be trusted.
pub(crate) fn caution(later: &Later) -> String {
    if later.has_blocks {
        "The two were not measured in turns: whatever else changed between them stands in the differences. To settle it, measure \
         both states in one `tare compare`, with --before and --after for the change."
            .to_owned()
    } else {
        "Plain results have no blocks: the figures stand side by side, and nothing is said of the difference. To learn whether \
         there is one, use `tare compare`."
            .to_owned()
    }
}

/// Which value: an arm's own, or its cost.
pub(super) fn subject(change: &Change) -> String {
    match (&change.arm, change.of) {
        (Some(arm), Of::Value) => arm.clone(),
        (Some(arm), Of::Cost) => format!("{arm}, its cost"),
        (None, _) => String::new(),
    }
}

pub(super) fn measure(change: &Change) -> String {
    measure_name(&change.measure)
}

pub(super) fn verdict(change: &Change) -> String {
    change
        .verdict
        .map_or_else(|| NONE.to_owned(), |verdict| verdict.name().to_owned())
}

/// Latencies under overload, whose change says nothing of the path.
pub(super) fn is_queue(change: &Change) -> bool {
    change.verdict == Some(Verdict::Overload)
}

pub(super) fn interval(change: &Change) -> String {
    let ends = change.delta.and_then(|delta| delta.interval);
    let show = |value| signed(&change.unit, value);
    ends.map_or_else(
        || NONE.to_owned(),
        |(low, high)| format!("{} to {}", show(low), show(high)),
    )
}

/// A row for each change; of plain results without what they cannot have.
pub(super) fn changes(later: &Later) -> Cells {
    let blocks = later.has_blocks;
    let mut cells = Cells::new(if blocks {
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
    });
    for change in &later.changes {
        let cost = change.of == Of::Cost;
        let show = |value| {
            if cost {
                signed(&change.unit, value)
            } else {
                shown(&change.unit, value)
            }
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
            row.push(if queue {
                NONE.to_owned()
            } else {
                interval(change)
            });
            row.push(known(change.p_adjusted, |p| shown("", p)));
        }
        cells.row(row);
    }
    cells
}

/// What else is not as it was: of the machines, and of the way of measuring.
pub(super) fn surroundings(between: &Between<'_>) -> Cells {
    let mut cells = Cells::new(&["where", "what", "before", "after"]);
    let (before, after) = (between.before.1, between.after.1);
    let mut differing = |place: &str, what: &str, old: String, new: String| {
        if old != new {
            cells.row(vec![place.to_owned(), what.to_owned(), old, new]);
        }
    };
    differing(
        "tare",
        "version",
        before.tool.version.clone(),
        after.tool.version.clone(),
    );
    if let (Some(old), Some(new)) = (&before.comparison, &after.comparison) {
        for [place, what, old, new] in asked_for(old, new) {
            differing(&place, &what, old, new);
        }
    }
    let servers = (
        before.environment.servers.len(),
        after.environment.servers.len(),
    );
    differing(
        "servers",
        "number",
        servers.0.to_string(),
        servers.1.to_string(),
    );
    let mut pairs = vec![(
        "client".to_owned(),
        &before.environment.client,
        &after.environment.client,
    )];
    let told = before
        .environment
        .servers
        .iter()
        .zip(&after.environment.servers);
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
        of_both("the blocks", "blocks asked for", &|c| {
            c.blocks_asked.to_string()
        }),
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

fn holds(assertion: &AssertionResult) -> &'static str {
    match assertion.holds {
        Some(true) => "holds",
        Some(false) => "FAILS",
        None => "cannot tell",
    }
}

fn indented(table: &comfy_table::Table) -> String {
    let lines = table.trim_fmt();
    lines.lines().map(|line| format!(" {line}\n")).collect()
}

fn text(between: &Between<'_>) -> String {
    let later = between.later;
    let mut out = format!("tare compare: {}, before and after\n", later.measured);
    out.push_str(&format!("before  {}\n", between.told_of(between.before)));
    out.push_str(&format!("after   {}\n", between.told_of(between.after)));
    out.push_str(&format!("warning: {}\n", caution(later)));
    for left_out in &later.left_out {
        out.push_str(&format!("not compared: {left_out}\n"));
    }
    out.push('\n');
    let left = if later.has_blocks { 4 } else { 2 };
    out.push_str(&indented(&changes(later).table(NOTHING, left)));
    let surroundings = surroundings(between);
    if surroundings.rows.is_empty() {
        out.push_str("\nNothing else that both tell of is different.\n");
    } else {
        out.push_str("\nNot as before, besides:\n");
        out.push_str(&indented(&surroundings.table(NOTHING, 4)));
    }
    if !between.assertions.is_empty() {
        out.push_str("\nAssertions:\n");
        for assertion in between.assertions {
            let step = match assertion.step.as_str() {
                "" => String::new(),
                step => format!(" [{step}]"),
            };
            out.push_str(&format!(
                "  {:<12}{}{step}\n",
                holds(assertion),
                assertion.expr
            ));
        }
    }
    super::printable(&out)
}

fn in_markdown(between: &Between<'_>) -> String {
    let later = between.later;
    let escape = markdown::escape;
    let mut blocks = vec![
        format!(
            "**tare compare: {}, before and after**",
            escape(&later.measured)
        ),
        format!(
            "- before: {}\n- after: {}",
            escape(&between.told_of(between.before)),
            escape(&between.told_of(between.after))
        ),
        escape(&caution(later)),
    ];
    if !later.left_out.is_empty() {
        blocks.push(format!(
            "Not compared: {}.",
            escape(&later.left_out.join("; "))
        ));
    }
    let left = if later.has_blocks { 4 } else { 2 };
    blocks.push(markdown::table(changes(later), left));
    let surroundings = surroundings(between);
    if !surroundings.rows.is_empty() {
        blocks.push(markdown::table(surroundings, 4));
    }
    for assertion in between.assertions {
        blocks.push(format!(
            "- {}: {}",
            escape(&assertion.expr),
            holds(assertion)
        ));
    }
    blocks.join("\n\n") + "\n"
}

fn csv(between: &Between<'_>) -> String {
    const IN_MEMORY: &str = "rows of one length, written to memory";
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = [
        "measured",
        "arm",
        "proto",
        "size_bytes",
        "connections",
        "rate_per_s",
        "of",
        "measure",
        "unit",
        "before",
        "after",
        "blocks_before",
        "blocks_after",
        "delta",
        "delta_low",
        "delta_high",
        "p",
        "p_adjusted",
        "verdict",
    ];
    writer.write_record(header).expect(IN_MEMORY);
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for change in &between.later.changes {
        let interval = change.delta.and_then(|delta| delta.interval);
        let params = &change.params;
        let row = [
            between.later.measured.clone(),
            change.arm.clone().unwrap_or_default(),
            params.proto.clone(),
            params.size_bytes.to_string(),
            params.connections.to_string(),
            number(params.rate_per_s),
            change.of.name().to_owned(),
            change.measure.clone(),
            change.unit.clone(),
            number(change.before),
            number(change.after),
            change.blocks_before.to_string(),
            change.blocks_after.to_string(),
            number(change.delta.map(|delta| delta.median)),
            number(interval.map(|ends| ends.0)),
            number(interval.map(|ends| ends.1)),
            number(change.p),
            number(change.p_adjusted),
            change
                .verdict
                .map_or("", |verdict| verdict.name())
                .to_owned(),
        ];
        writer.write_record(row).expect(IN_MEMORY);
    }
    let bytes = writer.into_inner().expect(IN_MEMORY);
    String::from_utf8(bytes).expect("CSV of strings is UTF-8")
}

/// What the JSON holds.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    later: &'a Later,
    before: Side<'a>,
    after: Side<'a>,
    caution: String,
    /// `[where, what, before, after]` each.
    surroundings: Vec<Vec<String>>,
    assertions: &'a [AssertionResult],
}

#[derive(Serialize)]
struct Side<'a> {
    file: &'a str,
    started_at: &'a str,
    partial: bool,
}

impl<'a> Side<'a> {
    fn of((file, report): (&'a str, &'a Report)) -> Self {
        Self {
            file,
            started_at: &report.started_at,
            partial: report.partial,
        }
    }
}

fn json(between: &Between<'_>, pretty: bool) -> String {
    const SERIALISES: &str = "its keys are strings";
    let document = Document {
        later: between.later,
        before: Side::of(between.before),
        after: Side::of(between.after),
        caution: caution(between.later),
        surroundings: surroundings(between).rows,
        assertions: between.assertions,
    };
    let text = if pretty {
        serde_json::to_string_pretty(&document)
    } else {
        serde_json::to_string(&document)
    };
    text.expect(SERIALISES) + "\n"
}
