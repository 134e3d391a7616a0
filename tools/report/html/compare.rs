//! A page's parts of a comparison: what each path costs, and how sure that is.

use tare_engine::result::{Cell, Comparison, Estimate, Params, StepResult, Verdict};
use tare_engine::units::Nanos;

use super::super::compare::{Layout, View, columns, notes};
use super::super::{Cells, NONE, plural};
use super::plain::{percentile_figure, sweep_figure};
use super::plot::{Axis, Line, Plot, Span, rows};
use super::write::{Figures, details, loud, note, paragraph, section, table};
use super::{Part, Sweep, known, measure_name, part, shown, signed, step_name};

/// A comparison with what its cells are about.
struct Whole<'a> {
    view: View<'a>,
    comparison: &'a Comparison,
    /// The names of the steps that some arm got to.
    steps: Vec<String>,
    /// The measures that figures are drawn of.
    measures: Vec<&'a str>,
}

pub(super) fn facts(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let blocks = match (comparison.blocks_done, comparison.blocks_asked) {
        (done, asked) if done == asked => plural(done, "block"),
        (done, asked) => format!("{done} of {}", plural(asked, "block")),
    };
    let why = |what: &str, reason: &str| match reason {
        "" => what.to_owned(),
        reason => format!("{what} ({reason})"),
    };
    vec![
        ("Baseline", comparison.baseline.clone()),
        (
            "Blocks",
            format!(
                "{blocks}, each arm visited twice in each, {} a visit and step",
                Nanos(comparison.block_duration_ns)
            ),
        ),
        (
            "Rest after each hook",
            match comparison.settle_ns {
                0 => String::new(),
                rest => Nanos(rest).to_string(),
            },
        ),
        (
            "Backend of every end",
            why(&comparison.backend, &comparison.backend_reason),
        ),
        (
            "Way of waiting",
            why(&comparison.wait, &comparison.wait_reason),
        ),
    ]
}

pub(super) fn parts(id: &str, view: View<'_>, figures: &mut Figures) -> Vec<Part> {
    let whole = Whole::of(view);
    let mut parts = Vec::new();
    parts.extend(part(id, "verdicts", "Verdicts", whole.verdicts()));
    parts.extend(part(
        id,
        "differences",
        "Differences to the baseline",
        whole.differences(figures),
    ));
    parts.extend(part(id, "sweep", "Over the sweep", whole.sweep(figures)));
    parts.extend(part(
        id,
        "percentiles",
        "Percentiles",
        whole.percentiles(id, figures),
    ));
    parts.extend(part(
        id,
        "blocks",
        "Block by block",
        whole.blocks(id, figures),
    ));
    parts.extend(part(id, "arms", "The arms", arms(whole.comparison)));
    parts
}

impl<'a> Whole<'a> {
    fn of(view: View<'a>) -> Self {
        let comparison = view.comparison();
        let steps = (0..comparison.steps).map_while(|step| {
            let params = &view.step(step)?.params;
            let name = view.step_name(step);
            // The only step differs from no other.
            Some(if name.is_empty() {
                step_name(params)
            } else {
                name
            })
        });
        let mut measures: Vec<&str> = Vec::new();
        let declared = comparison.cells.iter().filter(|cell| cell.declared);
        // Where nothing was declared, there is nothing to leave out.
        let all = comparison
            .cells
            .iter()
            .filter(|_| !comparison.cells.iter().any(|cell| cell.declared));
        for cell in declared.chain(all) {
            if !measures.contains(&cell.measure.as_str()) {
                measures.push(&cell.measure);
            }
        }
        Self {
            view,
            comparison,
            steps: steps.collect(),
            measures,
        }
    }

    fn step_name(&self, step: u64) -> String {
        let at = usize::try_from(step).ok();
        let name = at.and_then(|at| self.steps.get(at)).cloned();
        name.unwrap_or_else(|| format!("step {}", step.saturating_add(1)))
    }

    /// Cells of a measure and a step, in the order of the arms.
    fn cells(&self, measure: &str, step: u64) -> Vec<&'a Cell> {
        let cells = self.comparison.cells.iter();
        cells
            .filter(|cell| cell.measure == measure && cell.step == step)
            .collect()
    }

    /// The steps that there are cells of.
    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.comparison.cells.iter().map(|cell| cell.step).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// An arm's line in all figures.
    fn role(&self, arm: &str) -> usize {
        let arms = &self.comparison.arms;
        arms.iter()
            .position(|other| other.name == arm)
            .unwrap_or(arms.len())
    }

    /// The field's own table, as it is pasted elsewhere: a row for each step and measure, a column for each arm. Below it
    /// what its words mean, and what the figures rest on.
    fn overview(&self) -> String {
        // A page has parts of their own for these.
        const ELSEWHERE: [&str; 3] = ["left out", "arm", "both ends"];
        let (mut cells, left) = columns(self.view, Layout::Markdown);
        if let Some(heading) = left.last().and_then(|at| cells.header.get_mut(*at)) {
            "measure".clone_into(heading);
        }
        let notes = notes(self.view, false);
        let told = notes
            .iter()
            .filter(|(name, _)| !ELSEWHERE.contains(&name.as_str()));
        let told: Vec<(&str, String)> = told
            .map(|(name, text)| (name.as_str(), text.clone()))
            .collect();
        let text = "Each arm's median over the blocks, how it differs from the baseline (of what is carried, the ratio), with \
                    its interval, and what the blocks say of that.";
        let table = table("Every arm beside the baseline", &cells, left.len());
        note(text) + &table + &super::write::facts(&told)
    }

    /// Whose latencies are those of a queue: said wherever they are drawn.
    fn queues(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for cell in self.comparison.cells.iter().filter(|cell| is_queue(cell)) {
            let name = format!("{} at {}", cell.arm, self.step_name(cell.step));
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return String::new();
        }
        loud(&[format!(
            "OVERLOAD: the rate asked for was not reached, or a queue grew, so the latencies are those of a queue and not of the path: {}.",
            names.join("; ")
        )])
    }

    fn verdicts(&self) -> String {
        let header = [
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
        ];
        let mut table_of = Cells::new(&header);
        for cell in &self.comparison.cells {
            let unit = cell.unit.as_str();
            let (delta, ratio) = (of_path(cell, cell.delta), of_path(cell, cell.ratio));
            table_of.row(vec![
                self.step_name(cell.step),
                measure_name(&cell.measure),
                cell.arm.clone(),
                verdict(cell),
                known(cell.baseline, |value| shown(unit, value)),
                known(cell.value, |value| shown(unit, value)),
                known(delta.map(|delta| delta.median), |value| signed(unit, value)),
                interval(delta, |value| signed(unit, value)),
                known(ratio.map(|ratio| ratio.median), |value| shown("", value)),
                interval(ratio, |value| shown("", value)),
                known(of_path(cell, cell.p_adjusted), |p| shown("", p)),
                known(of_path(cell, cell.resolution), |value| {
                    format!("± {}", shown(unit, value))
                }),
                known(of_path(cell, cell.detectable), |value| shown(unit, value)),
                cell.blocks.len().to_string(),
            ]);
        }
        if table_of.rows.is_empty() {
            return paragraph("No block was measured as a whole, so nothing is compared.");
        }
        let text = "Difference and ratio are medians over the blocks, each of the arm to the baseline within one block, with \
                    exact 95 % intervals. The resolution is what the same path shows against itself (a/a): a smaller difference \
                    may be the experiment's own. 'No difference shown' is not 'no difference'.";
        let all = note(text) + &table("Every arm against the baseline", &table_of, 4);
        self.overview() + &details("All figures", &all)
    }

    fn differences(&self, figures: &mut Figures) -> String {
        let mut groups: Vec<(String, String)> = Vec::new();
        let steps = self.numbers();
        for measure in &self.measures {
            let drawn: String = steps
                .iter()
                .map(|step| self.difference(measure, *step, figures))
                .collect();
            match groups.last_mut() {
                // Figures of the only step stand beside each other.
                Some((_, beside)) if steps.len() == 1 => beside.push_str(&drawn),
                _ if drawn.is_empty() => {}
                _ if steps.len() == 1 => groups.push((String::new(), drawn)),
                _ => {
                    let name = super::write::text(&measure_name(measure));
                    groups.push((format!("<h3>{name}</h3>\n"), drawn));
                }
            }
        }
        let groups = groups.into_iter();
        let out: String = groups
            .map(|(heading, drawn)| format!("{heading}<div class=\"grid\">\n{drawn}</div>\n"))
            .collect();
        if out.is_empty() {
            return out;
        }
        let text = "Marks are medians over the blocks, bars their 95 % intervals, the band what the same path shows against itself. \
                    A bar that crosses the line at zero, or a mark within the band, shows no difference.";
        note(text) + &self.queues() + &out
    }

    /// One measure of one step: a row for each arm.
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    fn difference(&self, measure: &str, step: u64, figures: &mut Figures) -> String {
        let cells = self.cells(measure, step);
        let told: Vec<(&Cell, Estimate)> = cells
            .iter()
            .filter_map(|cell| Some((*cell, of_path(cell, cell.delta)?)))
            .collect();
        let Some((first, _)) = told.first() else {
            return String::new();
        };
        let unit = first.unit.clone();
        let resolution = told.iter().find_map(|(cell, _)| cell.resolution);
        let mut table_of = Cells::new(&[
            "arm",
            "difference",
            "95 % interval",
            "resolution",
            "verdict",
        ]);
        let (mut spans, mut values, mut names) = (Vec::new(), vec![0.0], Vec::new());
        // The first arm on top: rows count upwards.
        for (row, (cell, delta)) in told.iter().rev().enumerate() {
            spans.push(Span {
                role: self.role(&cell.arm),
                row: row as f64,
                median: delta.median,
                interval: delta.interval,
            });
            values.push(delta.median);
            values.extend(delta.interval.map(|(low, _)| low));
            values.extend(delta.interval.map(|(_, high)| high));
            names.push(cell.arm.clone());
        }
        for cell in cells {
            let delta = of_path(cell, cell.delta);
            table_of.row(vec![
                cell.arm.clone(),
                known(delta.map(|delta| delta.median), |value| {
                    signed(&unit, value)
                }),
                interval(delta, |value| signed(&unit, value)),
                known(of_path(cell, cell.resolution), |value| {
                    format!("± {}", shown(&unit, value))
                }),
                verdict(cell),
            ]);
        }
        values.extend(resolution.map(|value| -value));
        values.extend(resolution);
        let plot = Plot {
            x: Axis::over("difference to the baseline", &values, &|value| {
                signed(&unit, value)
            }),
            y: Axis::places("", &names),
            lines: Vec::new(),
            size: rows(names.len()),
            spans,
            band: resolution.map(|value| (-value, value)),
            zero: true,
        };
        let title = format!("{}: {}", measure_name(measure), self.step_name(step));
        let about = format!(
            "The difference of each arm to {}, with its interval. The table holds the numbers.",
            self.comparison.baseline
        );
        figures.figure(&title, &about, &plot, &[], &table(&title, &table_of, 1))
    }

    fn sweep(&self, figures: &mut Figures) -> String {
        let steps = (0..self.steps.len() as u64).filter_map(|step| self.view.step(step));
        let params: Vec<&Params> = steps.map(|step| &step.params).collect();
        let Some(sweep) = Sweep::of(&params) else {
            return String::new();
        };
        let mut out = String::new();
        for measure in &self.measures {
            let cells: Vec<Vec<&Cell>> = (0..params.len() as u64)
                .map(|step| self.cells(measure, step))
                .collect();
            let unit = cells
                .iter()
                .flatten()
                .map(|cell| cell.unit.as_str())
                .next()
                .unwrap_or_default();
            let lines = self.comparison.arms.iter().map(|arm| {
                let of_step = |cells: &Vec<&Cell>| {
                    let own = cells.iter().find(|cell| cell.arm == arm.name);
                    match own {
                        Some(cell) => cell.value,
                        None if arm.name == self.comparison.baseline => fullest(cells)?.baseline,
                        None => None,
                    }
                };
                (arm.name.as_str(), cells.iter().map(of_step).collect())
            });
            let lines: Vec<(&str, Vec<Option<f64>>)> = lines.collect();
            out.push_str(&sweep_figure(
                &measure_name(measure),
                unit,
                &sweep,
                &lines,
                figures,
            ));
        }
        self.queues() + &out
    }

    fn percentiles(&self, id: &str, figures: &mut Figures) -> String {
        let mut out = String::new();
        for (step, name) in (0..).zip(&self.steps) {
            let arms = self.comparison.arms.iter().enumerate();
            let of_arms: Vec<(usize, &str, &StepResult)> = arms
                .filter_map(|(role, arm)| {
                    Some((role, arm.name.as_str(), self.view.result(&arm.name, step)?))
                })
                .collect();
            let told = of_arms
                .iter()
                .any(|(_, _, step)| super::super::headline(&step.latency).count > 0);
            if !told {
                continue;
            }
            let drawn = percentile_figure(&of_arms, figures);
            out.push_str(&section(&format!("{id}-p{}", step + 1), 3, name, &drawn));
        }
        if out.is_empty() {
            return out;
        }
        note("All visits of an arm pooled: histograms are merged, quantiles never averaged.")
            + &self.queues()
            + &out
    }

    fn blocks(&self, id: &str, figures: &mut Figures) -> String {
        let mut out = String::new();
        for step in self.numbers() {
            let drawn: String = self
                .measures
                .iter()
                .map(|measure| self.block_figure(measure, step, figures))
                .collect();
            if !drawn.is_empty() {
                let place = format!("{id}-b{}", step.saturating_add(1));
                out.push_str(&section(&place, 3, &self.step_name(step), &drawn));
            }
        }
        if out.is_empty() {
            return out;
        }
        note(
            "The blocks in the order of time: what drifts in all arms together drops out of the differences.",
        ) + &self.queues()
            + &out
    }

    /// One measure of one step, block by block: a line for each arm.
    #[expect(clippy::cast_precision_loss, reason = "numbers of blocks")]
    fn block_figure(&self, measure: &str, step: u64, figures: &mut Figures) -> String {
        let cells = self.cells(measure, step);
        let Some(fullest) = fullest(&cells) else {
            return String::new();
        };
        let unit = fullest.unit.as_str();
        let baseline = fullest
            .blocks
            .iter()
            .map(|block| (block.block as f64, block.baseline))
            .collect();
        let mut arms: Vec<(&str, Vec<(f64, f64)>)> = vec![(&self.comparison.baseline, baseline)];
        for cell in &cells {
            let values = cell
                .blocks
                .iter()
                .map(|block| (block.block as f64, block.value));
            arms.push((&cell.arm, values.collect()));
        }
        let mut numbers: Vec<u64> = cells
            .iter()
            .flat_map(|cell| cell.blocks.iter().map(|block| block.block))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut header = vec!["block".to_owned()];
        header.extend(arms.iter().map(|(name, _)| (*name).to_owned()));
        let mut table_of = Cells {
            header,
            rows: Vec::new(),
        };
        for &number in &numbers {
            let mut row = vec![number.to_string()];
            row.extend(arms.iter().map(|(_, values)| {
                let at = values
                    .iter()
                    .find(|(block, _)| block.total_cmp(&(number as f64)).is_eq());
                known(at.map(|(_, value)| *value), |value| shown(unit, value))
            }));
            table_of.row(row);
        }
        let values: Vec<f64> = arms
            .iter()
            .flat_map(|(_, values)| values.iter().map(|at| at.1))
            .collect();
        let lines = arms.iter().map(|(name, values)| Line {
            role: self.role(name),
            points: values.clone(),
            marks: values.clone(),
        });
        let lines = lines.collect();
        let keys: Vec<(usize, &str)> = arms
            .iter()
            .map(|(name, _)| (self.role(name), *name))
            .collect();
        let ends = (numbers.first(), numbers.last());
        let (from, to) = (
            ends.0.map_or(0.0, |n| *n as f64),
            ends.1.map_or(1.0, |n| *n as f64),
        );
        let name = measure_name(measure);
        let y = Axis::over(&name, &values, &|value| shown(unit, value));
        let plot = Plot::lines(Axis::counts("block", from, to), y, lines);
        let title = format!("{name}: {}", self.step_name(step));
        let about = format!(
            "{name} of each block in the order of time, a line for each arm. The table holds the numbers."
        );
        figures.figure(&title, &about, &plot, &keys, &table(&title, &table_of, 1))
    }
}

/// Each cell knows the baseline's value of the blocks that it rests on: that of an arm which was given up has fewer.
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
    ends.map_or_else(
        || NONE.to_owned(),
        |(low, high)| format!("{} to {}", show(low), show(high)),
    )
}

fn arms(comparison: &Comparison) -> String {
    let header = [
        "arm",
        "target",
        "options of its own",
        "before each visit",
        "after each visit",
        "servers",
        "given up",
        "visits",
    ];
    let mut cells = Cells::new(&header);
    for arm in &comparison.arms {
        let told = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
        cells.row(vec![
            arm.name.clone(),
            arm.target.clone(),
            told(&arm.options),
            told(&arm.before),
            told(&arm.after),
            arm.instances.join(" "),
            told(&arm.failed),
            arm.visits.to_string(),
        ]);
    }
    table("Arms", &cells, 7)
}
