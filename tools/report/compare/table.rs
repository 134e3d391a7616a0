//! The tables: a row per step and measure with the arms side by side, and where those are too many for a screen, a
//! table per measure with a row per arm.

use comfy_table::{CellAlignment, Table, TableStyle};
use tare_engine::result::{AA, Cell, Verdict};

use super::differences::{by_ratio, difference, magnitude, value};
use super::{View, heading, short};
use crate::report::{Cells, NONE};

/// What a table of text may be wide, characters: three arms beside the baseline fit.
pub(in crate::report) const NARROW: usize = 130;

/// How an arm stands beside the baseline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::report) struct Side {
    pub(in crate::report) value: String,
    pub(in crate::report) difference: String,
    pub(in crate::report) verdict: Option<Verdict>,
}

impl Side {
    fn of(cell: Option<&Cell>) -> Self {
        let Some(cell) = cell else {
            return Self {
                value: NONE.to_owned(),
                difference: String::new(),
                verdict: None,
            };
        };
        let difference = match cell.verdict {
            // The difference of two queues says nothing of the paths.
            Some(Verdict::Overload) => String::new(),
            _ => difference(cell),
        };
        Self {
            value: value(cell, cell.value),
            difference,
            verdict: cell.verdict,
        }
    }
}

/// The step and the measure of a row, then what each arm says of them.
struct Line<'a> {
    step: u64,
    measure: &'a str,
    baseline: String,
    sides: Vec<Side>,
    /// What the same path shows against itself.
    resolution: String,
}

fn line<'a>(view: View<'_>, step: u64, measure: &'a str) -> Line<'a> {
    let aa = view.cell(AA, step, measure);
    let cells = view.others().map(|arm| view.cell(&arm.name, step, measure));
    let cells: Vec<Option<&Cell>> = cells.collect();
    // Each cell knows the baseline's value of the blocks that it rests on; most have all.
    let known = cells.iter().copied().flatten().chain(aa);
    let known = known.filter(|cell| cell.baseline.is_some());
    let baseline = known.max_by_key(|cell| cell.blocks.len());
    let resolution = aa.and_then(|cell| {
        let resolution = cell.resolution.filter(|ns| ns.is_finite())?;
        Some(format!("±{}", magnitude(cell, resolution)))
    });
    Line {
        step,
        measure,
        baseline: baseline.map_or_else(|| NONE.into(), |cell| value(cell, cell.baseline)),
        sides: cells.into_iter().map(Side::of).collect(),
        resolution: resolution.unwrap_or_else(|| NONE.into()),
    }
}

/// What stands above the differences of these measures.
fn against(view: View<'_>, measures: &[&str]) -> &'static str {
    let cells = view.comparison.cells.iter();
    let shown = cells.filter(|cell| measures.contains(&cell.measure.as_str()));
    let (ratios, differences): (Vec<_>, Vec<_>) = shown.partition(|cell| by_ratio(cell));
    match (differences.is_empty(), ratios.is_empty()) {
        (true, false) => "ratio",
        (false, false) => "difference, ratio",
        _ => "difference",
    }
}

/// How a table of all arms side by side is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::report) enum Layout {
    /// What an arm says in columns of their own; what is as in the row above is left out.
    Text,
    /// What an arm says in one cell: pasted tables get no wider than their readers.
    Markdown,
}

/// The arms side by side, a row per step and measure; which columns are set to the left.
pub(in crate::report) fn columns(view: View<'_>, layout: Layout) -> (Cells, Vec<usize>) {
    let measures = view.measures();
    let differing = view.differing();
    let mut header: Vec<String> = differing.iter().map(|by| by.heading().into()).collect();
    header.push(String::new());
    let mut left: Vec<usize> = (0..header.len()).collect();
    let baseline = &view.comparison.baseline;
    match layout {
        Layout::Text => header.push(baseline.clone()),
        Layout::Markdown => header.push(format!("{baseline} (baseline)")),
    }
    for arm in view.others() {
        header.push(arm.name.clone());
        if layout == Layout::Text {
            header.push(against(view, &measures).to_owned());
            left.push(header.len());
            header.push("verdict".to_owned());
        }
    }
    header.push(match layout {
        Layout::Text => AA.to_owned(),
        Layout::Markdown => format!("{AA} (resolution)"),
    });
    let mut rows = Vec::new();
    for step in 0..view.comparison.steps {
        for (index, measure) in measures.iter().enumerate() {
            let line = line(view, step, measure);
            let repeated = layout == Layout::Text && index > 0;
            let mut row = step_cells(view, step, repeated);
            row.extend([heading(line.measure), line.baseline]);
            for side in line.sides {
                match layout {
                    Layout::Text => row.extend([
                        side.value,
                        side.difference,
                        side.verdict
                            .map_or_else(String::new, |v| short(v).to_owned()),
                    ]),
                    Layout::Markdown => row.push(joined(side)),
                }
            }
            row.push(line.resolution);
            rows.push(row);
        }
    }
    (Cells { header, rows }, left)
}

/// What tells a step from the others, one to a column; blank where the row above has said it.
fn step_cells(view: View<'_>, step: u64, repeated: bool) -> Vec<String> {
    let differing = view.differing().into_iter();
    let result = view.step(step).filter(|_| !repeated);
    differing
        .map(|by| result.map_or_else(String::new, |result| by.value(result)))
        .collect()
}

/// `23.9 µs, +11.2 µs [+10.8, +11.7], slower`.
fn joined(side: Side) -> String {
    let verdict = side.verdict.map(|verdict| verdict.name().to_owned());
    let parts = [Some(side.value), Some(side.difference), verdict];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// A table per measure, with its name: a row per step and arm.
pub(in crate::report) fn lists(view: View<'_>) -> Vec<(String, Cells, Vec<usize>)> {
    view.measures()
        .into_iter()
        .map(|measure| {
            let (cells, left) = list(view, measure);
            (heading(measure), cells, left)
        })
        .collect()
}

fn list(view: View<'_>, measure: &str) -> (Cells, Vec<usize>) {
    let differing = view.differing();
    let mut header: Vec<String> = differing.iter().map(|by| by.heading().into()).collect();
    header.push("arm".to_owned());
    let left = [(0..header.len()).collect(), vec![header.len() + 2]].concat();
    let difference = against(view, &[measure]);
    header.extend(["value", difference, "verdict"].map(str::to_owned));
    let mut rows = Vec::new();
    for step in 0..view.comparison.steps {
        let line = line(view, step, measure);
        let mut row = step_cells(view, line.step, false);
        let baseline = view.comparison.baseline.clone();
        row.extend([baseline, line.baseline, String::new(), "baseline".into()]);
        rows.push(row);
        for (arm, side) in view.others().zip(line.sides) {
            let mut row = step_cells(view, step, true);
            let verdict = side
                .verdict
                .map_or_else(String::new, |v| short(v).to_owned());
            row.extend([arm.name.clone(), side.value, side.difference, verdict]);
            rows.push(row);
        }
        let mut row = step_cells(view, step, true);
        let aa = Side::of(view.cell(AA, step, measure)).value;
        row.extend([AA.to_owned(), aa, line.resolution, "resolution".into()]);
        rows.push(row);
    }
    (Cells { header, rows }, left)
}

/// The table, the columns named `left` set to the left.
pub(in crate::report) fn set(cells: Cells, style: TableStyle, left: &[usize]) -> Table {
    let mut table = cells.table(style, 0);
    for index in left {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Left);
        }
    }
    table
}
