//! The tables: a row per step and measure with the arms side by side, and where those are too many
//! for a screen, a table per measure with a row per arm. Differences and ratios have as many digits
//! as their intervals leave.

use tare_stats::result::{AA, Cell, Estimate, Verdict};

use super::{View, short};
use crate::report::document::{Block, Table};
use crate::report::numbers::{NONE, decimals, known, measure_name, nanos, percent, shown};

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
        let mut header: Vec<&str> = self.differing().iter().map(|(heading, _)| *heading).collect();
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
                table.rows.push(row);
            }
        }
        table
    }

    fn list(self, measure: &str) -> Table {
        let mut header: Vec<&str> = self.differing().iter().map(|(heading, _)| *heading).collect();
        header.extend(["arm", "value", self.against(&[measure]), "verdict"]);
        let words = header.len() - 3;
        let mut table = Table::new(&header).named(measure_name(measure)).left(words);
        table.left.push(words + 2);
        for step in 0..self.comparison.steps {
            let mut add = |repeated, arm: &str, figures: [String; 3]| {
                let mut row = self.step_cells(step, repeated);
                row.push(arm.to_owned());
                row.extend(figures);
                table.rows.push(row);
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
        differing.map(|(_, of)| result.map_or_else(String::new, of)).collect()
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

    fn resolution(self, step: u64, measure: &str) -> String {
        let aa = self.cell(AA, step, measure);
        let found = aa.and_then(|cell| Some((cell, cell.resolution.filter(|ns| ns.is_finite())?)));
        known(found, |(cell, resolution)| format!("±{}", magnitude(cell, resolution)))
    }

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

/// What a latency is printed in: nanoseconds of it, its name, and the decimals that a nanosecond
/// needs.
const TIMES: [(f64, &str, usize); 4] =
    [(1e9, "s", 9), (1e6, "ms", 6), (1e3, "µs", 3), (1.0, "ns", 0)];
const RATIO_DECIMALS: (usize, usize) = (2, 4);

/// Whether paths are compared by the ratio: what is carried has no zero that a difference could be
/// seen against.
pub(super) fn by_ratio(cell: &Cell) -> bool {
    cell.unit != "ns"
}

pub(super) fn value(cell: &Cell, value: Option<f64>) -> String {
    known(value, |value| shown(&cell.unit, value))
}

/// How the arm differs from the baseline: `+11.2 µs [+10.8, +11.7]`, of what is carried `×0.93
/// [0.91, 0.95]`.
pub(super) fn difference(cell: &Cell) -> String {
    let (estimate, show): (_, fn(&Estimate) -> String) =
        if by_ratio(cell) { (&cell.ratio, ratio) } else { (&cell.delta, latency) };
    known(estimate.as_ref().filter(|estimate| is_finite(estimate)), show)
}

/// A difference without its sign: `310 ns`, of what is carried a share of the baseline's: `0.82 %`.
pub(super) fn magnitude(cell: &Cell, difference: f64) -> String {
    match (by_ratio(cell), cell.baseline) {
        (false, _) => nanos(difference).to_string(),
        (true, Some(baseline)) if baseline > 0.0 => percent(difference / baseline),
        (true, _) => NONE.to_owned(),
    }
}

fn is_finite(estimate: &Estimate) -> bool {
    let (low, high) = estimate.interval.unwrap_or_default();
    estimate.median.is_finite() && low.is_finite() && high.is_finite()
}

fn latency(estimate: &Estimate) -> String {
    let (low, high) = estimate.interval.unwrap_or_default();
    let largest = [estimate.median, low, high].map(f64::abs);
    let largest = largest.into_iter().fold(0.0, f64::max).round();
    let fitting = TIMES.iter().find(|unit| largest >= unit.0);
    let (factor, name, finest) = *fitting.unwrap_or(&TIMES[TIMES.len() - 1]);
    // Three digits of the largest, and more where the interval is narrower than that.
    let decimals =
        decimals(largest / factor, 3).max(decimals((high - low) / 2.0 / factor, 1)).min(finest);
    let shown = |ns: f64| signed(ns / factor, decimals);
    let median = shown(estimate.median);
    match estimate.interval {
        Some(_) => format!("{median} {name} [{}, {}]", shown(low), shown(high)),
        None => format!("{median} {name}"),
    }
}

fn ratio(estimate: &Estimate) -> String {
    let (least, most) = RATIO_DECIMALS;
    let Some((low, high)) = estimate.interval else {
        return format!("×{:.least$}", estimate.median);
    };
    let decimals = decimals((high - low) / 2.0, 1).clamp(least, most);
    format!("×{:.decimals$} [{low:.decimals$}, {high:.decimals$}]", estimate.median)
}

/// With its sign, but for what is printed as zero.
fn signed(number: f64, decimals: usize) -> String {
    let text = format!("{number:+.decimals$}");
    if text.contains(|c: char| matches!(c, '1'..='9')) { text } else { text[1..].to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(median: f64, low: f64, high: f64) -> Estimate {
        let interval = Some((low, high));
        Estimate { median, interval }
    }

    #[test]
    fn differences_have_one_unit_and_the_digits_that_their_interval_leaves() {
        for ((median, low, high), text) in [
            ((11_230.0, 10_790.0, 11_690.0), "+11.2 µs [+10.8, +11.7]"),
            ((-11_230.0, -11_690.0, -10_790.0), "-11.2 µs [-11.7, -10.8]"),
            ((1_000.0, 980.0, 1_030.0), "+1.00 µs [+0.98, +1.03]"),
            ((-50.0, -200.0, 300.0), "-50 ns [-200, +300]"),
            ((0.0, 0.0, 0.0), "0 ns [0, 0]"),
            ((0.3, -0.4, 0.4), "0 ns [0, 0]"),
            ((-4.0, -120.0, 1_240.0), "0.00 µs [-0.12, +1.24]"),
            ((200_130.0, 200_110.0, 200_150.0), "+200.13 µs [+200.11, +200.15]"),
            ((999.6, 999.6, 999.6), "+1.00 µs [+1.00, +1.00]"),
            ((2.5e9, 2.4e9, 2.61e9), "+2.50 s [+2.40, +2.61]"),
        ] {
            assert_eq!(latency(&estimate(median, low, high)), text);
        }
        let median = 11_230.0;
        let interval = None;
        assert_eq!(latency(&Estimate { median, interval }), "+11.2 µs");
    }

    #[test]
    fn ratios_have_two_decimals_or_what_their_interval_leaves() {
        assert_eq!(ratio(&estimate(0.931, 0.908, 0.95)), "×0.93 [0.91, 0.95]");
        let narrow = estimate(0.998, 0.996_1, 1.001);
        assert_eq!(ratio(&narrow), "×0.998 [0.996, 1.001]");
        assert_eq!(ratio(&estimate(1.0, 1.0, 1.0)), "×1.00 [1.00, 1.00]");
        assert_eq!(ratio(&estimate(12.3, 9.0, 15.0)), "×12.30 [9.00, 15.00]");
        let (median, interval) = (0.5, None);
        assert_eq!(ratio(&Estimate { median, interval }), "×0.50");
    }

    #[test]
    fn figures_follow_the_unit_of_their_cell() {
        let of = |unit: &str| Cell {
            unit: unit.into(),
            baseline: Some(20e9),
            delta: Some(estimate(1_500.0, 1_400.0, 1_600.0)),
            ratio: Some(estimate(0.5, 0.4, 0.6)),
            ..Cell::default()
        };
        let (ns, bits, rate) = (of("ns"), of("bit/s"), of("1/s"));
        assert_eq!(value(&ns, Some(12_340.0)), "12.3 µs");
        assert_eq!(value(&bits, Some(22.8e9)), "22.80 Gbit/s");
        assert_eq!(value(&rate, Some(998.0)), "998/s");
        assert_eq!(value(&ns, None), NONE);
        assert_eq!(difference(&ns), "+1.50 µs [+1.40, +1.60]");
        assert_eq!(difference(&bits), "×0.50 [0.40, 0.60]");
        assert_eq!(magnitude(&ns, 310.0), "310 ns");
        assert_eq!(magnitude(&bits, 0.2e9), "1 %");
        let nothing = Cell::default();
        assert_eq!((difference(&nothing), magnitude(&nothing, 1.0)), (NONE.into(), NONE.into()));
        let mut endless = of("1/s");
        endless.ratio = Some(estimate(f64::INFINITY, 1.0, 2.0));
        assert_eq!(difference(&endless), NONE);
    }
}
