//! What pages have room for in a comparison: every figure of every cell, drawn and as numbers.

use tare_stats::result::{Cell, CellBlock, Estimate, Params, StepResult, Verdict};

use super::View;
use super::table::value;
use crate::report::charts::{self, Sweep, figure};
use crate::report::document::{Block, Document, Shown, Table, note};
use crate::report::numbers::{interval, known, measure_name, shown, signed};
use crate::report::plot::{Axis, Plot, Span};
use crate::report::{headline, parameters, unique};

pub(super) fn add(document: &mut Document, view: View<'_>) {
    let mut add = |id, heading: &str, why: &str, blocks: Vec<Block>| {
        if !blocks.is_empty() {
            let mut all = vec![note(why)];
            all.extend(view.queues().filter(|_| id != "figures"));
            all.extend(blocks);
            document.add(Shown::Page, id, heading, all);
        }
    };
    add(
        "figures",
        "All figures",
        "Difference and ratio are medians over the blocks, each of the arm to the baseline within one block, with exact 95 % intervals. The resolution is what the same path shows against itself (a/a): a smaller difference may be the experiment's own. 'No difference shown' is not 'no difference'.",
        view.all_figures(),
    );
    add(
        "differences",
        "Differences to the baseline",
        "Marks are medians over the blocks, bars their 95 % intervals, the band what the same path shows against itself. A bar that crosses the line at zero, or a mark within the band, shows no difference.",
        view.differences(),
    );
    add("sweep", "Over the sweep", "Each arm's median over the blocks.", view.sweep());
    add(
        "percentiles",
        "Percentiles",
        "All visits of an arm pooled: histograms are merged, quantiles never averaged.",
        view.percentiles(),
    );
    add(
        "blocks",
        "Block by block",
        "The blocks in the order of time: what drifts in all arms together drops out of the differences.",
        view.by_block(),
    );
}

impl<'a> View<'a> {
    fn place(self, step: u64) -> String {
        let name = self.step_name(step);
        match self.step(step) {
            Some(result) if name.is_empty() => parameters(&result.params),
            _ => name,
        }
    }

    fn cells(self, measure: &str, step: u64) -> Vec<&'a Cell> {
        let cells = self.comparison.cells.iter();
        cells.filter(|cell| cell.measure == measure && cell.step == step).collect()
    }

    fn numbers(self) -> Vec<u64> {
        sorted(self.comparison.cells.iter().map(|cell| cell.step))
    }

    fn role(self, arm: &str) -> usize {
        let arms = &self.comparison.arms;
        arms.iter().position(|other| other.name == arm).unwrap_or(arms.len())
    }

    /// Whose latencies are those of a queue: it is said wherever they are drawn.
    fn queues(self) -> Option<Block> {
        let queues = self.comparison.cells.iter().filter(|cell| is_queue(cell));
        let names = unique(queues.map(|c| format!("{} at {}", c.arm, self.place(c.step))));
        (!names.is_empty()).then(|| {
            Block::Loud(format!(
                "OVERLOAD: the rate asked for was not reached, or a queue grew, so the latencies are those of a queue and not of the path: {}.",
                names.join("; ")
            ))
        })
    }

    fn all_figures(self) -> Vec<Block> {
        let ratio = |value| shown("", value);
        let table = Table::of(
            &self.comparison.cells,
            &[
                ("step", &|cell| self.place(cell.step)),
                ("measure", &|cell| measure_name(&cell.measure)),
                ("arm", &|cell| cell.arm.clone()),
                ("verdict", &|cell| verdict(cell)),
                ("baseline", &|cell| value(cell, cell.baseline)),
                ("value", &|cell| value(cell, cell.value)),
                ("difference", &|cell| median(cell)),
                ("95 % interval", &|cell| ends(cell)),
                ("ratio", &|cell| known(of_path(cell, cell.ratio).map(|r| r.median), ratio)),
                ("95 % interval", &|cell| interval(of_path(cell, cell.ratio), ratio)),
                ("p, corrected", &|cell| known(of_path(cell, cell.p_adjusted), ratio)),
                ("resolution", &|cell| resolution(cell)),
                ("detectable", &|cell| value(cell, of_path(cell, cell.detectable))),
                ("blocks", &|cell| cell.blocks.len().to_string()),
            ],
        );
        if table.rows.is_empty() {
            return vec![note("No block was measured as a whole, so nothing is compared.")];
        }
        let table = table.left(4).named("Every arm against the baseline");
        vec![Block::Table(Table { folded: true, ..table })]
    }

    fn differences(self) -> Vec<Block> {
        let steps = self.numbers();
        let mut blocks = Vec::new();
        for measure in self.measures() {
            let drawn = steps.iter().filter_map(|step| self.difference(measure, *step));
            let heading = (steps.len() > 1).then(|| Block::Heading(measure_name(measure)));
            blocks.extend(headed(heading, drawn.collect()));
        }
        blocks
    }

    fn difference(self, measure: &str, step: u64) -> Option<Block> {
        let cells = self.cells(measure, step);
        let unit = &cells.first()?.unit;
        let table = Table::of(
            cells.iter().copied(),
            &[
                ("arm", &|cell| cell.arm.clone()),
                ("difference", &|cell| median(cell)),
                ("95 % interval", &|cell| ends(cell)),
                ("resolution", &|cell| resolution(cell)),
                ("verdict", &|cell| verdict(cell)),
            ],
        );
        let drawn = cells.iter().filter_map(|&cell| Some((cell, of_path(cell, cell.delta)?)));
        let band = drawn.clone().find_map(|(cell, _)| cell.resolution);
        let arms = drawn.map(|(cell, delta)| (cell.arm.clone(), self.role(&cell.arm), delta));
        let plot = spans("difference to the baseline", unit, &arms.collect::<Vec<_>>(), band)?;
        let baseline = &self.comparison.baseline;
        let about = format!("The difference of each arm to {baseline}, with its interval.");
        let title = format!("{}: {}", measure_name(measure), self.place(step));
        Some(figure(title, &about, plot, table))
    }

    fn sweep(self) -> Vec<Block> {
        let steps = (0..self.comparison.steps).map_while(|step| self.step(step));
        let params: Vec<&Params> = steps.map(|step| &step.params).collect();
        let Some(sweep) = Sweep::of(&params) else { return Vec::new() };
        let of_measure = |measure| {
            let cells: Vec<Vec<&Cell>> =
                (0..params.len() as u64).map(|step| self.cells(measure, step)).collect();
            let unit = cells.iter().flatten().map(|cell| cell.unit.as_str()).next();
            let lines = self.comparison.arms.iter().map(|arm| {
                let values = cells.iter().map(|cells| {
                    match cells.iter().find(|cell| cell.arm == arm.name) {
                        Some(cell) => cell.value,
                        None if arm.name == self.comparison.baseline => fullest(cells)?.baseline,
                        None => None,
                    }
                });
                (arm.name.as_str(), values.collect())
            });
            let lines: Vec<(&str, Vec<Option<f64>>)> = lines.collect();
            charts::sweep_figure(&measure_name(measure), unit.unwrap_or_default(), &sweep, lines)
        };
        self.measures().into_iter().map(of_measure).collect()
    }

    fn percentiles(self) -> Vec<Block> {
        let mut blocks = Vec::new();
        for step in 0..self.comparison.steps {
            let arms = self.comparison.arms.iter().enumerate();
            let arms = arms.filter_map(|(role, arm)| {
                Some((role, arm.name.as_str(), self.result(&arm.name, step)?))
            });
            let arms: Vec<(usize, &str, &StepResult)> = arms.collect();
            if arms.iter().any(|(_, _, step)| headline(&step.latency).count > 0) {
                blocks.push(Block::Heading(self.place(step)));
                blocks.push(charts::percentiles(arms.into_iter()));
            }
        }
        blocks
    }

    fn by_block(self) -> Vec<Block> {
        let of_step = |step| {
            let measures = self.measures().into_iter();
            let drawn = measures.filter_map(|measure| self.block_figure(measure, step)).collect();
            headed(Some(Block::Heading(self.place(step))), drawn)
        };
        self.numbers().into_iter().flat_map(of_step).collect()
    }

    fn block_figure(self, measure: &str, step: u64) -> Option<Block> {
        let cells = self.cells(measure, step);
        let fullest = fullest(&cells)?;
        let numbers = sorted(cells.iter().flat_map(|c| c.blocks.iter().map(|block| block.block)));
        let values = |cell: &Cell, of: fn(&CellBlock) -> f64| -> Vec<Option<f64>> {
            let at = |number| cell.blocks.iter().find(|block| block.block == number).map(of);
            numbers.iter().map(|number| at(*number)).collect()
        };
        let baseline = self.comparison.baseline.as_str();
        let mut arms = vec![(self.role(baseline), baseline, values(fullest, |b| b.baseline))];
        arms.extend(
            cells.iter().map(|c| (self.role(&c.arm), c.arm.as_str(), values(c, |b| b.value))),
        );
        let steps: Vec<(f64, String)> =
            numbers.iter().map(|n| (*n as f64, n.to_string())).collect();
        let ends = [(numbers.first(), 0.0), (numbers.last(), 1.0)];
        let [from, to] = ends.map(|(number, none)| number.map_or(none, |n| *n as f64));
        let x = Axis::linear("block", from, to, 12.0, true);
        let name = measure_name(measure);
        let title = format!("{name}: {}", self.place(step));
        let about = format!("{name} of each block in the order of time, a line for each arm.");
        let over = ("block", x, steps.as_slice());
        Some(charts::series(title, &about, over, (&name, &fullest.unit), arms))
    }
}

/// Nothing, where there is nothing below the heading.
fn headed(heading: Option<Block>, blocks: Vec<Block>) -> impl Iterator<Item = Block> {
    heading.filter(|_| !blocks.is_empty()).into_iter().chain(blocks)
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    numbers.collect::<std::collections::BTreeSet<u64>>().into_iter().collect()
}

/// Estimates with their intervals, a row each, the first on top: the name, the role, and how much.
pub(crate) fn spans(
    what: &str,
    unit: &str,
    named: &[(String, usize, Estimate)],
    resolution: Option<f64>,
) -> Option<Plot> {
    let mut values = vec![0.0];
    values.extend(resolution.into_iter().flat_map(|value| [-value, value]));
    let (mut spans, mut names) = (Vec::new(), Vec::new());
    // Rows count upwards.
    for (row, (name, role, Estimate { median, interval })) in named.iter().rev().enumerate() {
        spans.push(Span { role: *role, row: row as f64, median: *median, interval: *interval });
        names.push(name.clone());
        values.push(*median);
        values.extend(interval.iter().flat_map(|(low, high)| [*low, *high]));
    }
    let x = Axis::over(what, &values, &|value| signed(unit, value));
    (!spans.is_empty()).then(|| Plot::spans(x, &names, spans, resolution))
}

/// Each cell knows the baseline's value of the blocks that it rests on: that of an arm which was
/// given up has fewer.
fn fullest<'a>(cells: &[&'a Cell]) -> Option<&'a Cell> {
    cells.iter().copied().max_by_key(|cell| cell.blocks.len())
}

fn is_queue(cell: &Cell) -> bool {
    cell.overloaded && cell.unit == "ns"
}

/// What a cell says of the path: the difference of two queues says nothing of it.
fn of_path<T>(cell: &Cell, figure: Option<T>) -> Option<T> {
    figure.filter(|_| !is_queue(cell))
}

fn median(cell: &Cell) -> String {
    known(of_path(cell, cell.delta), |delta| signed(&cell.unit, delta.median))
}

fn ends(cell: &Cell) -> String {
    interval(of_path(cell, cell.delta), |value| signed(&cell.unit, value))
}

fn resolution(cell: &Cell) -> String {
    known(of_path(cell, cell.resolution), |value| format!("± {}", shown(&cell.unit, value)))
}

fn verdict(cell: &Cell) -> String {
    let verdict = if is_queue(cell) { Some(Verdict::Overload) } else { cell.verdict };
    known(verdict, |verdict| verdict.name().to_owned())
}
