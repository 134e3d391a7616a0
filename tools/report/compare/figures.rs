//! What pages have room for in a comparison: every figure of every cell, drawn and as numbers.

use tare_stats::result::{Cell, Estimate, Params, StepResult, Verdict};

use super::{View, heading};
use crate::report::charts::{self, Sweep, figure};
use crate::report::document::{Block, Document, Shown, Table, note};
use crate::report::plot::{Axis, Line, Plot, Points, Span, rows};
use crate::report::quantity::{known, shown, signed};
use crate::report::{NONE, headline, parameters};

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
    /// A step's name, also where it is the only one.
    fn place(self, step: u64) -> String {
        let name = self.step_name(step);
        match self.step(step) {
            Some(result) if name.is_empty() => parameters(&result.params),
            _ => name,
        }
    }

    /// Cells of a measure and a step, in the order of the arms.
    fn cells(self, measure: &str, step: u64) -> Vec<&'a Cell> {
        let cells = self.comparison.cells.iter();
        cells.filter(|cell| cell.measure == measure && cell.step == step).collect()
    }

    /// The steps that there are cells of.
    fn numbers(self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.comparison.cells.iter().map(|cell| cell.step).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// An arm's line in all figures.
    fn role(self, arm: &str) -> usize {
        let arms = &self.comparison.arms;
        arms.iter().position(|other| other.name == arm).unwrap_or(arms.len())
    }

    /// Whose latencies are those of a queue: it is said wherever they are drawn.
    fn queues(self) -> Option<Block> {
        let mut names: Vec<String> = Vec::new();
        for cell in self.comparison.cells.iter().filter(|cell| is_queue(cell)) {
            let name = format!("{} at {}", cell.arm, self.place(cell.step));
            if !names.contains(&name) {
                names.push(name);
            }
        }
        (!names.is_empty()).then(|| {
            Block::Loud(format!(
                "OVERLOAD: the rate asked for was not reached, or a queue grew, so the latencies are those of a queue and not of the path: {}.",
                names.join("; ")
            ))
        })
    }

    fn all_figures(self) -> Vec<Block> {
        let mut table = Table::new(&[
            "step",
            "measure",
            "arm",
            "verdict",
            "baseline",
            "value",
            "difference",
            "95 % interval",
            "ratio",
            "95 % interval",
            "p, corrected",
            "resolution",
            "detectable",
            "blocks",
        ]);
        for cell in &self.comparison.cells {
            let plain = |value: f64| shown(&cell.unit, value);
            let with_sign = |value: f64| signed(&cell.unit, value);
            let (delta, ratio) = (of_path(cell, cell.delta), of_path(cell, cell.ratio));
            table.row(vec![
                self.place(cell.step),
                heading(&cell.measure),
                cell.arm.clone(),
                verdict(cell),
                known(cell.baseline, plain),
                known(cell.value, plain),
                known(delta.map(|delta| delta.median), with_sign),
                interval(delta, with_sign),
                known(ratio.map(|ratio| ratio.median), |value| shown("", value)),
                interval(ratio, |value| shown("", value)),
                known(of_path(cell, cell.p_adjusted), |p| shown("", p)),
                known(of_path(cell, cell.resolution), |value| format!("± {}", plain(value))),
                known(of_path(cell, cell.detectable), plain),
                cell.blocks.len().to_string(),
            ]);
        }
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
            let drawn: Vec<Block> = drawn.collect();
            if steps.len() > 1 && !drawn.is_empty() {
                blocks.push(Block::Heading(heading(measure)));
            }
            blocks.extend(drawn);
        }
        blocks
    }

    /// One measure of one step: a row for each arm.
    fn difference(self, measure: &str, step: u64) -> Option<Block> {
        let cells = self.cells(measure, step);
        let unit = &cells.first()?.unit;
        let plain = |value: f64| signed(unit, value);
        let mut table =
            Table::new(&["arm", "difference", "95 % interval", "resolution", "verdict"]);
        for cell in &cells {
            let delta = of_path(cell, cell.delta);
            let resolution = of_path(cell, cell.resolution);
            table.row(vec![
                cell.arm.clone(),
                known(delta.map(|delta| delta.median), plain),
                interval(delta, plain),
                known(resolution, |value| format!("± {}", shown(unit, value))),
                verdict(cell),
            ]);
        }
        let drawn = cells.iter().filter_map(|&cell| Some((cell, of_path(cell, cell.delta)?)));
        let drawn: Vec<(&Cell, Estimate)> = drawn.collect();
        let resolution = drawn.iter().find_map(|(cell, _)| cell.resolution);
        let arms =
            drawn.iter().map(|(cell, delta)| (cell.arm.clone(), self.role(&cell.arm), *delta));
        let plot =
            spans("difference to the baseline", unit, &arms.collect::<Vec<_>>(), resolution)?;
        let about = format!(
            "The difference of each arm to {}, with its interval. The table holds the numbers.",
            self.comparison.baseline
        );
        let title = format!("{}: {}", heading(measure), self.place(step));
        Some(figure(title, about, plot, Vec::new(), table))
    }

    fn sweep(self) -> Vec<Block> {
        let steps = (0..self.comparison.steps).map_while(|step| self.step(step));
        let params: Vec<&Params> = steps.map(|step| &step.params).collect();
        let Some(sweep) = Sweep::of(&params) else {
            return Vec::new();
        };
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
            charts::sweep_figure(&heading(measure), unit.unwrap_or_default(), &sweep, &lines)
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
        let mut blocks = Vec::new();
        for step in self.numbers() {
            let measures = self.measures().into_iter();
            let drawn: Vec<Block> =
                measures.filter_map(|measure| self.block_figure(measure, step)).collect();
            if !drawn.is_empty() {
                blocks.push(Block::Heading(self.place(step)));
                blocks.extend(drawn);
            }
        }
        blocks
    }

    /// One measure of one step, block by block: a line for each arm.
    #[expect(clippy::cast_precision_loss, reason = "numbers of blocks")]
    fn block_figure(self, measure: &str, step: u64) -> Option<Block> {
        let cells = self.cells(measure, step);
        let fullest = fullest(&cells)?;
        let baseline = fullest.blocks.iter().map(|block| (block.block, block.baseline)).collect();
        let mut arms: Vec<(&str, Vec<(u64, f64)>)> = vec![(&self.comparison.baseline, baseline)];
        for cell in &cells {
            let values = cell.blocks.iter().map(|block| (block.block, block.value));
            arms.push((&cell.arm, values.collect()));
        }
        let blocks = cells.iter().flat_map(|cell| cell.blocks.iter().map(|block| block.block));
        let mut numbers: Vec<u64> = blocks.collect();
        numbers.sort_unstable();
        numbers.dedup();
        let names = arms.iter().map(|(name, _)| *name);
        let mut table = Table::new(&std::iter::once("block").chain(names).collect::<Vec<_>>());
        let show = |value: f64| shown(&fullest.unit, value);
        for number in &numbers {
            let mut row = vec![number.to_string()];
            row.extend(arms.iter().map(|(_, values)| {
                let at = values.iter().find(|(block, _)| block == number);
                known(at.map(|(_, value)| *value), show)
            }));
            table.row(row);
        }
        let values = arms.iter().flat_map(|(_, values)| values.iter().map(|at| at.1));
        let name = heading(measure);
        let y = Axis::over(&name, &values.collect::<Vec<f64>>(), &show);
        let lines = arms.iter().map(|(name, values)| {
            let points = values.iter().map(|(block, value)| (*block as f64, *value));
            let points: Points = points.collect();
            Line::new(self.role(name), points.clone(), points)
        });
        let ends = [(numbers.first(), 0.0), (numbers.last(), 1.0)];
        let [from, to] = ends.map(|(number, none)| number.map_or(none, |n| *n as f64));
        let plot = Plot::lines(Axis::linear("block", from, to, 12.0, true), y, lines.collect());
        let keys = arms.iter().map(|(name, _)| (self.role(name), (*name).to_owned()));
        let about = format!(
            "{name} of each block in the order of time, a line for each arm. The table holds the numbers."
        );
        let title = format!("{name}: {}", self.place(step));
        Some(figure(title, about, plot, keys.collect(), table))
    }
}

/// Estimates with their intervals, a row each, the first on top: the name, the role, and how much.
#[expect(clippy::cast_precision_loss, reason = "a few rows")]
pub(crate) fn spans(
    what: &str,
    unit: &str,
    named: &[(String, usize, Estimate)],
    resolution: Option<f64>,
) -> Option<Plot> {
    let mut values = vec![0.0];
    values.extend(resolution.into_iter().flat_map(|value| [-value, value]));
    let mut spans = Vec::new();
    // Rows count upwards.
    for (row, (_, role, estimate)) in named.iter().rev().enumerate() {
        let (median, interval) = (estimate.median, estimate.interval);
        spans.push(Span { role: *role, row: row as f64, median, interval });
        values.push(median);
        values.extend(interval.into_iter().flat_map(|(low, high)| [low, high]));
    }
    let names: Vec<String> = named.iter().rev().map(|(name, _, _)| name.clone()).collect();
    (!spans.is_empty()).then(|| Plot {
        x: Axis::over(what, &values, &|value| signed(unit, value)),
        y: Axis::places("", &names),
        lines: Vec::new(),
        size: rows(names.len()),
        spans,
        band: resolution.map(|value| (-value, value)),
        zero: true,
    })
}

/// Each cell knows the baseline's value of the blocks that it rests on: that of an arm which was
/// given up has fewer.
fn fullest<'a>(cells: &[&'a Cell]) -> Option<&'a Cell> {
    cells.iter().copied().max_by_key(|cell| cell.blocks.len())
}

/// A latency under overload, which is the queue's.
fn is_queue(cell: &Cell) -> bool {
    cell.overloaded && cell.unit == "ns"
}

/// What a cell says of the path: the difference of two queues says nothing of it.
fn of_path<T>(cell: &Cell, figure: Option<T>) -> Option<T> {
    figure.filter(|_| !is_queue(cell))
}

fn verdict(cell: &Cell) -> String {
    match cell.verdict {
        _ if is_queue(cell) => Verdict::Overload.name().to_owned(),
        Some(verdict) => verdict.name().to_owned(),
        None => NONE.to_owned(),
    }
}

fn interval(estimate: Option<Estimate>, show: impl Fn(f64) -> String) -> String {
    let ends = estimate.and_then(|estimate| estimate.interval);
    ends.map_or_else(|| NONE.to_owned(), |(low, high)| format!("{} to {}", show(low), show(high)))
}
