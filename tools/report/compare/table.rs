//! The tables: a row per step and measure with the arms side by side, and where those are too many
//! for a screen, a table per measure with a row per arm.

use tare_stats::result::{AA, Cell, Verdict};

use super::differences::{by_ratio, difference, magnitude, value};
use super::{View, short};
use crate::report::document::{Block, Table};
use crate::report::numbers::{NONE, known, measure_name};

/// What a table of text may be wide, characters: three arms beside the baseline fit.
const NARROW: usize = 130;

impl View<'_> {
    /// The arms side by side where that is narrow enough, else a table per measure with the arms
    /// below each other.
    pub(super) fn tables(self) -> Vec<Block> {
        if self.comparison.cells.is_empty() {
            return Vec::new();
        }
        let table = self.columns();
        if width(&table) <= NARROW {
            return vec![Block::Table(table)];
        }
        let list =
            |measure| [Block::Heading(measure_name(measure)), Block::Table(self.list(measure))];
        self.measures().into_iter().flat_map(list).collect()
    }

    /// A row per step and measure; what is as in the row above is left out.
    fn columns(self) -> Table {
        let measures = self.measures();
        let mut header: Vec<&str> = self.differing().iter().map(|by| by.heading()).collect();
        header.push("");
        let mut left: Vec<usize> = (0..header.len()).collect();
        header.push(&self.comparison.baseline);
        for arm in self.others() {
            header.extend([arm.name.as_str(), self.against(&measures)]);
            left.push(header.len());
            header.push("verdict");
        }
        header.push(AA);
        let mut table = Table::new(&header).named("Every arm beside the baseline");
        table.left = left;
        for step in 0..self.comparison.steps {
            for (index, measure) in measures.iter().enumerate() {
                let mut row = self.step_cells(step, index > 0);
                row.extend([measure_name(measure), self.baseline(step, measure)]);
                for arm in self.others() {
                    row.extend(self.side(&arm.name, step, measure));
                }
                row.push(self.resolution(step, measure));
                table.row(row);
            }
        }
        table
    }

    fn list(self, measure: &str) -> Table {
        let mut header: Vec<&str> = self.differing().iter().map(|by| by.heading()).collect();
        header.extend(["arm", "value", self.against(&[measure]), "verdict"]);
        let words = header.len() - 3;
        let mut table = Table::new(&header).named(measure_name(measure)).left(words);
        table.left.push(words + 2);
        for step in 0..self.comparison.steps {
            let mut add = |repeated, arm: &str, figures: [String; 3]| {
                let mut row = self.step_cells(step, repeated);
                row.push(arm.to_owned());
                row.extend(figures);
                table.row(row);
            };
            let baseline = [self.baseline(step, measure), String::new(), "baseline".into()];
            add(false, &self.comparison.baseline, baseline);
            for arm in self.others() {
                add(true, &arm.name, self.side(&arm.name, step, measure));
            }
            let [value, _, _] = self.side(AA, step, measure);
            add(true, AA, [value, self.resolution(step, measure), "resolution".into()]);
        }
        table
    }

    /// What tells a step from the others, one to a column; blank where the row above has said it.
    fn step_cells(self, step: u64, repeated: bool) -> Vec<String> {
        let result = self.step(step).filter(|_| !repeated);
        let differing = self.differing().into_iter();
        differing.map(|by| result.map_or_else(String::new, |result| by.value(result))).collect()
    }

    /// What an arm's columns say: its value, its difference, and the verdict in a word or two,
    /// blank where none was asked for.
    fn side(self, arm: &str, step: u64, measure: &str) -> [String; 3] {
        let Some(cell) = self.cell(arm, step, measure) else {
            return [NONE.to_owned(), String::new(), String::new()];
        };
        let difference = match cell.verdict {
            // The difference of two queues says nothing of the paths.
            Some(Verdict::Overload) => String::new(),
            _ => difference(cell),
        };
        let verdict = cell.verdict.map_or_else(String::new, |v| short(v).to_owned());
        [value(cell, cell.value), difference, verdict]
    }

    /// Each cell knows the baseline's value of the blocks that it rests on; most have all.
    fn baseline(self, step: u64, measure: &str) -> String {
        let arms = self.others().map(|arm| arm.name.as_str()).chain([AA]);
        let cells = arms.filter_map(|arm| self.cell(arm, step, measure));
        let known_by = cells.filter(|cell| cell.baseline.is_some());
        known(known_by.max_by_key(|cell| cell.blocks.len()), |cell| value(cell, cell.baseline))
    }

    /// What the same path shows against itself.
    fn resolution(self, step: u64, measure: &str) -> String {
        let aa = self.cell(AA, step, measure);
        let found = aa.and_then(|cell| Some((cell, cell.resolution.filter(|ns| ns.is_finite())?)));
        known(found, |(cell, resolution)| format!("±{}", magnitude(cell, resolution)))
    }

    /// The heading of the differences of these measures.
    fn against(self, measures: &[&str]) -> &'static str {
        let cells = self.comparison.cells.iter();
        let shown = cells.filter(|cell| measures.contains(&cell.measure.as_str()));
        let (ratios, differences): (Vec<&Cell>, Vec<&Cell>) =
            shown.partition(|cell| by_ratio(cell));
        match (differences.is_empty(), ratios.is_empty()) {
            (true, false) => "ratio",
            (false, false) => "difference, ratio",
            _ => "difference",
        }
    }
}

/// How wide a table is as text: two spaces are between its columns.
fn width(table: &Table) -> usize {
    let columns = 0..table.header.len();
    let widest = columns.map(|column| {
        let cells = table.rows.iter().chain([&table.header]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0) + 2
    });
    widest.sum()
}
