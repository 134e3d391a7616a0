//! The tables: a row per step and measure with the arms side by side, and where those are too many for a screen, a
//! table per measure with a row per arm.

use tare_stats::result::{AA, Cell, Verdict};

use super::differences::{by_ratio, difference, magnitude, value};
use super::{View, heading, short};
use crate::report::NONE;
use crate::report::document::{Block, Table};

/// What a table of text may be wide, characters: three arms beside the baseline fit.
const NARROW: usize = 130;

/// What an arm's columns say.
struct Side {
    value: String,
    difference: String,
    /// In a word or two; blank where none was asked for.
    verdict: String,
}

impl Side {
    fn of(cell: Option<&Cell>) -> Self {
        let Some(cell) = cell else {
            return Self {
                value: NONE.to_owned(),
                difference: String::new(),
                verdict: String::new(),
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
            verdict: cell.verdict.map_or_else(String::new, |v| short(v).to_owned()),
        }
    }
}

/// The step and the measure of a row, then what each arm says of them.
struct Line<'a> {
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
        measure,
        baseline: baseline.map_or_else(|| NONE.into(), |cell| value(cell, cell.baseline)),
        sides: cells.into_iter().map(Side::of).collect(),
        resolution: resolution.unwrap_or_else(|| NONE.into()),
    }
}

/// The heading of the differences of these measures.
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

/// The arms side by side where that is narrow enough, else a table per measure with the arms below
/// each other.
pub(super) fn tables(view: View<'_>) -> Vec<Block> {
    if view.comparison.cells.is_empty() {
        return Vec::new();
    }
    let table = columns(view);
    if width(&table) <= NARROW {
        return vec![Block::Table(table)];
    }
    let measures = view.measures().into_iter();
    let lists = measures
        .flat_map(|measure| [Block::Heading(heading(measure)), Block::Table(list(view, measure))]);
    lists.collect()
}

/// How wide a table is as text: two spaces are between its columns.
fn width(table: &Table) -> usize {
    let columns = 0..table.header.len();
    let widest = columns.map(|column| {
        let cells = table.rows.iter().map(|row| &row[column]).chain([&table.header[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + 2
    });
    widest.sum()
}

/// A row per step and measure; what is as in the row above is left out.
fn columns(view: View<'_>) -> Table {
    let measures = view.measures();
    let mut header: Vec<&str> = view.differing().iter().map(|by| by.heading()).collect();
    header.push("");
    let mut left: Vec<usize> = (0..header.len()).collect();
    header.push(&view.comparison.baseline);
    for arm in view.others() {
        header.extend([arm.name.as_str(), against(view, &measures)]);
        left.push(header.len());
        header.push("verdict");
    }
    header.push(AA);
    let mut table = Table::new(&header).named("Every arm beside the baseline");
    table.left = left;
    for step in 0..view.comparison.steps {
        for (index, measure) in measures.iter().enumerate() {
            let line = line(view, step, measure);
            let mut row = step_cells(view, step, index > 0);
            row.extend([heading(line.measure), line.baseline]);
            for side in line.sides {
                row.extend([side.value, side.difference, side.verdict]);
            }
            row.push(line.resolution);
            table.row(row);
        }
    }
    table
}

/// What tells a step from the others, one to a column; blank where the row above has said it.
fn step_cells(view: View<'_>, step: u64, repeated: bool) -> Vec<String> {
    let differing = view.differing().into_iter();
    let result = view.step(step).filter(|_| !repeated);
    differing.map(|by| result.map_or_else(String::new, |result| by.value(result))).collect()
}

fn list(view: View<'_>, measure: &str) -> Table {
    let differing = view.differing();
    let mut header: Vec<String> = differing.iter().map(|by| by.heading().into()).collect();
    header.push("arm".to_owned());
    let left = [(0..header.len()).collect(), vec![header.len() + 2]].concat();
    let difference = against(view, &[measure]);
    header.extend(["value", difference, "verdict"].map(str::to_owned));
    let mut table = Table::new(&header).named(heading(measure));
    table.left = left;
    for step in 0..view.comparison.steps {
        let line = line(view, step, measure);
        let mut row = step_cells(view, step, false);
        let baseline = view.comparison.baseline.clone();
        row.extend([baseline, line.baseline, String::new(), "baseline".into()]);
        table.row(row);
        for (arm, side) in view.others().zip(line.sides) {
            let mut row = step_cells(view, step, true);
            row.extend([arm.name.clone(), side.value, side.difference, side.verdict]);
            table.row(row);
        }
        let mut row = step_cells(view, step, true);
        let aa = Side::of(view.cell(AA, step, measure)).value;
        row.extend([AA.to_owned(), aa, line.resolution, "resolution".into()]);
        table.row(row);
    }
    table
}
