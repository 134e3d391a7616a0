//! Figures of latency, bandwidth and HTTP runs, which pages draw; comparisons have some of them too.

use tare_stats::result::{Interval, Params, Report, StepResult, Summary};
use tare_units::Size;

use super::document::{Block, Document, Figure, Shown, Table, note};
use super::histogram::decode;
use super::plot::{Axis, Line, Plot, Points, beyond};
use super::quantity::{known, shown};
use super::{
    NONE, figures, grouped, heading, headline, longest, parameters, per_second, quantile, time,
};
use crate::args::common::PERCENTILES;

/// Lines that one figure holds.
const LINES_MAX: usize = 8;
/// Points of a line over time; of more, the largest of each stretch are drawn.
const POINTS_MAX: usize = 400;
/// Rows of a table over time; of more, those at either end are printed.
const ROWS_MAX: usize = 120;
/// Steps that have a figure over time each.
const SERIES_MAX: usize = 24;
/// Fewer samples than this beyond a quantile, and it is not drawn.
const BEYOND_MIN: f64 = tare_stats::histogram::BEYOND_MIN as f64;

/// Adds the sections of a run over one path that only pages have the room for; `step` says what is
/// known of a step.
pub(super) fn add(
    document: &mut Document,
    report: &Report,
    step: impl Fn(&StepResult) -> Vec<Block>,
) {
    let results = &report.results;
    if results.len() > 1 {
        let all = results.iter().flat_map(|one| {
            let mut blocks = vec![Block::Heading(parameters(&one.params))];
            blocks.extend(step(one));
            blocks
        });
        document.add(Shown::Page, "steps", "Each step", all.collect());
    }
    document.add(Shown::Page, "sweep", "Over the sweep", sweep(report));
    let told = results.iter().filter(|one| headline(&one.latency).count > 0);
    let told: Vec<(String, &StepResult)> = told.map(|one| (parameters(&one.params), one)).collect();
    let curves = told.chunks(LINES_MAX).map(|group| {
        let lines = group.iter().enumerate();
        percentiles(lines.map(|(role, (name, one))| (role, name.as_str(), *one)))
    });
    document.add(Shown::Page, "percentiles", "Percentiles", curves.collect());
    let timed: Vec<&StepResult> = results.iter().filter(|one| one.intervals.len() > 1).collect();
    let mut series: Vec<Block> = timed.iter().take(SERIES_MAX).map(|one| over_time(one)).collect();
    if timed.len() > SERIES_MAX {
        let all = timed.len();
        series.push(note(format!("Of the first {SERIES_MAX} steps; JSON has those of all {all}.")));
    }
    document.add(Shown::Page, "time", "Over time", series);
}

/// The points of a percentile curve, and its marks at the quantiles of the table. As far as there are samples for it.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn curve(summary: &Summary) -> (Points, Points) {
    let told = PERCENTILES.iter().filter_map(|&percent| {
        let ns = summary.quantile_ns(percent)?;
        Some((beyond(percent), ns as f64))
    });
    let marks: Vec<(f64, f64)> = told.collect();
    let Some(histogram) = decode(&summary.hdr) else {
        return (marks.clone(), marks);
    };
    let count = histogram.len() as f64;
    let drawn = (0..=160).map(|step| f64::from(step) / 40.0);
    let drawn = drawn.take_while(|x| count * 10f64.powf(-x) >= BEYOND_MIN);
    let points = drawn.map(|x| (x, histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64));
    let mut line: Vec<(f64, f64)> = Vec::new();
    for point in points {
        // Of a level stretch its ends are enough.
        if let [.., before, last] = line.as_slice()
            && before.1.total_cmp(&point.1).is_eq()
            && last.1.total_cmp(&point.1).is_eq()
        {
            line.pop();
        }
        line.push(point);
    }
    (line, marks)
}

/// A figure with its numbers in a table.
pub(super) fn figure(
    title: impl Into<String>,
    about: impl Into<String>,
    plot: Plot,
    keys: Vec<(usize, String)>,
    table: Table,
) -> Block {
    let (title, about) = (title.into(), about.into());
    let table = if table.caption.is_empty() { table.named(title.clone()) } else { table };
    Block::Figure(Box::new(Figure { title, about, plot, keys, table }))
}

/// Percentile curves: the role of each line, its name, and what it is of.
pub(super) fn percentiles<'a>(
    group: impl Iterator<Item = (usize, &'a str, &'a StepResult)>,
) -> Block {
    let header = PERCENTILES.map(heading).into_iter().chain(["max".into(), "samples".into()]);
    let mut table = Table::new(&std::iter::once(String::new()).chain(header).collect::<Vec<_>>());
    let (mut lines, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut what = "latency";
    for (role, name, step) in group {
        let summary = headline(&step.latency);
        let (points, marks) = curve(summary);
        values.extend(points.iter().chain(&marks).map(|(_, y)| *y));
        lines.push(Line::new(role, points, marks));
        keys.push((role, name.to_owned()));
        let mut row = vec![name.to_owned()];
        row.extend(PERCENTILES.map(|percent| quantile(summary, percent)));
        row.extend([longest(summary), grouped(summary.count)]);
        table.row(row);
        if step.latency.response.is_some() {
            what = "response time";
        }
    }
    let axis = Axis::over(what, &values, &|ns| shown("ns", ns));
    let plot = Plot::lines(Axis::percentiles(), axis, lines);
    let about = "Latency by percentile, each decade beyond the percentile as wide as the one before; as far as ten samples lie beyond it. The table holds the numbers.";
    figure("Latency by percentile", about, plot, keys, table.named("Percentiles"))
}

/// The figures of each step over the parameter that varies.
fn sweep(report: &Report) -> Vec<Block> {
    let params: Vec<&Params> = report.results.iter().map(|step| &step.params).collect();
    let Some(sweep) = Sweep::of(&params) else {
        return Vec::new();
    };
    let all = |of: &dyn Fn(&StepResult) -> Option<f64>| report.results.iter().map(of).collect();
    if report.kind == "bw" {
        let rates = all(&|step| step.bandwidth.as_ref()?.bits_per_s);
        return vec![sweep_figure("Bandwidth", "bit/s", &sweep, &[("", rates)])];
    }
    let quantiles = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
    let at = |step: &StepResult, percent| {
        headline(&step.latency).quantile_ns(percent).map(|ns| ns as f64)
    };
    let latencies = quantiles.map(|(name, percent)| (name, all(&|step| at(step, percent))));
    let rates = all(&|step| Some(step.rate.achieved_per_s));
    vec![
        sweep_figure("Latency", "ns", &sweep, &latencies),
        sweep_figure("Rate", "1/s", &sweep, &[("", rates)]),
    ]
}

/// A figure with a line for each of the named, each of which has a value per step.
pub(super) fn sweep_figure(
    what: &str,
    unit: &str,
    sweep: &Sweep,
    lines: &[(&str, Vec<Option<f64>>)],
) -> Block {
    let values = lines.iter().flat_map(|(_, values)| values.iter().flatten());
    let values: Vec<f64> = values.copied().collect();
    let drawn = lines.iter().enumerate().map(|(role, (_, values))| {
        let points = values.iter().enumerate();
        let points: Points =
            points.filter_map(|(step, value)| Some((sweep.at(step)?, (*value)?))).collect();
        Line::new(role, points.clone(), points)
    });
    let lower = what.to_lowercase();
    let mut header = vec![sweep.name];
    header.extend(lines.iter().map(|(name, _)| if name.is_empty() { &*lower } else { name }));
    let mut table = Table::new(&header);
    for (step, (_, name)) in sweep.steps.iter().enumerate() {
        let mut row = vec![name.clone()];
        let found = lines.iter().map(|(_, values)| values.get(step).copied().flatten());
        row.extend(found.map(|value| known(value, |value| shown(unit, value))));
        table.row(row);
    }
    let named = lines.iter().enumerate().filter(|(_, (name, _))| !name.is_empty());
    let keys = named.map(|(role, (name, _))| (role, (*name).to_owned())).collect();
    let axis = Axis::over(&lower, &values, &|value| shown(unit, value));
    let title = format!("{what} by {}", sweep.name);
    let about = format!("{title}, a line each. The table holds the numbers.");
    figure(title, about, Plot::lines(sweep.axis(), axis, drawn.collect()), keys, table)
}

/// A step's series over time.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
fn over_time(step: &StepResult) -> Block {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let of = |what: &dyn Fn(&Interval) -> Option<f64>| -> Points {
        let entries = step.intervals.iter();
        entries.filter_map(|entry| Some((seconds(entry.at_ns), what(entry)?))).collect()
    };
    let is_bulk = step.intervals.iter().any(|entry| entry.bits_per_s.is_some());
    let (unit, what, lines) = if is_bulk {
        ("bit/s", "bandwidth", vec![("bandwidth", of(&|entry| entry.bits_per_s))])
    } else {
        let median = of(&|entry| Some(entry.p50_ns? as f64));
        let tail = of(&|entry| Some(entry.p99_ns? as f64));
        ("ns", "latency", vec![("p50", median), ("p99", tail)])
    };
    let values = lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let values: Vec<f64> = values.collect();
    let drawn = lines.iter().enumerate().map(|(role, (_, points))| {
        let points = peaks(points);
        let marks = if points.len() > 60 { Vec::new() } else { points.clone() };
        Line::new(role, points, marks)
    });
    let last = step.intervals.last().map_or(1.0, |entry| seconds(entry.at_ns));
    let plot = Plot::lines(
        Axis::linear("seconds since the start", 0.0, last, 8.0, false),
        Axis::over(what, &values, &|value| shown(unit, value)),
        drawn.collect(),
    );
    let keys = lines.iter().enumerate().map(|(role, (name, _))| (role, (*name).to_owned()));
    let title = format!("Over time: {}", parameters(&step.params));
    let about =
        format!("The {what} of each interval of the measured phase. The table holds the numbers.");
    figure(title, about, plot, keys.collect(), series(step, is_bulk))
}

/// At most so many points: of each stretch the largest, so that no peak is lost.
fn peaks(points: &[(f64, f64)]) -> Points {
    let stretch = points.len().div_ceil(POINTS_MAX).max(1);
    let largest =
        |stretch: &[(f64, f64)]| stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(stretch).filter_map(largest).collect()
}

fn series(step: &StepResult, is_bulk: bool) -> Table {
    let figures: &[&str] = if is_bulk { &["bandwidth"] } else { &["p50", "p99", "max"] };
    let mut table = Table::new(&[&["until", "completed", "errors"], figures].concat());
    let all = step.intervals.len();
    let left_out = if all > ROWS_MAX { ROWS_MAX / 2..all - ROWS_MAX / 2 } else { 0..0 };
    for (index, entry) in step.intervals.iter().enumerate() {
        if left_out.contains(&index) {
            continue;
        }
        let until = figures::span(entry.at_ns);
        let mut row = vec![until, grouped(entry.completed), grouped(entry.errors)];
        if is_bulk {
            row.push(entry.bits_per_s.map_or_else(|| NONE.to_owned(), figures::bits));
        } else {
            row.extend([entry.p50_ns, entry.p99_ns, entry.max_ns].map(time));
        }
        table.row(row);
    }
    if !left_out.is_empty() {
        let count = left_out.len();
        table.notes.push(format!("{count} entries in the middle are left out; JSON has them all"));
    }
    table
}

/// What the steps of a sweep differ by.
pub(super) struct Sweep {
    name: &'static str,
    /// Each step's place on the axis, and its name.
    steps: Vec<(f64, String)>,
}

impl Sweep {
    /// None where there is one step only. Where several parameters vary, steps are numbered.
    #[expect(clippy::cast_precision_loss, reason = "sizes and numbers of steps")]
    pub(super) fn of(steps: &[&Params]) -> Option<Self> {
        type Named = (f64, String);
        type Of = fn(&Params) -> Named;
        let by: [(&str, Of); 3] = [
            ("size", |p| (p.size_bytes as f64, Size(p.size_bytes).to_string())),
            ("connections", |p| (p.connections.into(), p.connections.to_string())),
            ("rate", |p| (p.rate_per_s.unwrap_or(0.0), per_second(p.rate_per_s.unwrap_or(0.0)))),
        ];
        let all = by.map(|(name, of)| (name, steps.iter().map(|p| of(p)).collect::<Vec<Named>>()));
        let varies = |(_, values): &(&str, Vec<Named>)| values.iter().any(|v| v.0 != values[0].0);
        let mut varying = all.into_iter().filter(varies);
        let (name, steps) = match (varying.next(), varying.next()) {
            _ if steps.len() < 2 => return None,
            (Some((name, values)), None) if values.iter().all(|v| v.0 > 0.0) => (name, values),
            _ => {
                let names = steps.iter().map(|params| parameters(params));
                ("step", (0u32..).map(f64::from).zip(names).collect())
            }
        };
        Some(Self { name, steps })
    }

    fn axis(&self) -> Axis {
        if self.name == "step" {
            let names: Vec<String> = (1..=self.steps.len()).map(|step| step.to_string()).collect();
            return Axis::places("step", &names);
        }
        Axis::steps(self.name, &self.steps)
    }

    /// Where a step lies.
    fn at(&self, step: usize) -> Option<f64> {
        self.steps.get(step).map(|(at, _)| *at)
    }
}
