//! Figures of latency, bandwidth and HTTP runs, which pages draw; comparisons have some of them
//! too.

use tare_stats::result::{Interval, Params, Report, StepResult, Summary};
use tare_stats::summary::PERCENTILES;
use tare_units::Size;

use super::document::{Block, Document, Figure, Shown, Table, note};
use super::histogram::decode;
use super::numbers::{bits, grouped, heading, known, longest, per_second, quantile, shown, time};
use super::plot::{Axis, Line, Plot, Points, beyond};
use super::{headline, parameters};

const LINES_MAX: usize = 8;
/// Points of a line over time; of more, the largest of each stretch are drawn.
const POINTS_MAX: usize = 400;
const MARKS_MAX: usize = 60;
/// Rows of a table over time; of more, those at either end are printed.
const ROWS_MAX: usize = 120;
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
        let named = |one: &StepResult| Block::Heading(parameters(&one.params));
        let all = results.iter().flat_map(|one| std::iter::once(named(one)).chain(step(one)));
        document.add(Shown::Page, "steps", "Each step", all.collect());
    }
    document.add(Shown::Page, "sweep", "Over the sweep", sweep(report));
    let found = results.iter().filter(|one| headline(&one.latency).count > 0);
    let found: Vec<(String, &StepResult)> =
        found.map(|one| (parameters(&one.params), one)).collect();
    let curves = found.chunks(LINES_MAX).map(|group| {
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

/// The points of a percentile curve, and its marks at the quantiles of the table. As far as there
/// are samples for it.
fn curve(summary: &Summary) -> (Points, Points) {
    let found = PERCENTILES.iter().filter_map(|&percent| {
        let ns = summary.quantile_ns(percent)?;
        Some((beyond(percent), ns as f64))
    });
    let marks: Points = found.collect();
    let Some(histogram) = decode(&summary.hdr) else { return (marks.clone(), marks) };
    let count = histogram.len() as f64;
    let drawn = (0..=160).map(|step| f64::from(step) / 40.0);
    let drawn = drawn.take_while(|x| count * 10f64.powf(-x) >= BEYOND_MIN);
    let mut line: Points = Vec::new();
    for point in drawn.map(|x| (x, histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64)) {
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

pub(super) fn figure(title: impl Into<String>, about: &str, plot: Plot, table: Table) -> Block {
    let (title, about) = (title.into(), format!("{about} The table holds the numbers."));
    let table = if table.caption.is_empty() { table.named(title.clone()) } else { table };
    Block::Figure(Box::new(Figure { title, about, plot, table }))
}

pub(super) fn lines(
    title: impl Into<String>,
    about: &str,
    x: Axis,
    (what, unit): (&str, &str),
    lines: Vec<Line>,
    table: Table,
) -> Block {
    let points = lines.iter().flat_map(|line| line.points.iter().chain(&line.marks));
    let values: Vec<f64> = points.map(|(_, y)| *y).collect();
    let y = Axis::over(what, &values, &|value| shown(unit, value));
    figure(title, about, Plot::lines(x, y, lines), table)
}

pub(super) fn percentiles<'a>(
    group: impl Iterator<Item = (usize, &'a str, &'a StepResult)>,
) -> Block {
    let mut header = vec![String::new()];
    header.extend(PERCENTILES.map(heading));
    header.extend(["max", "samples"].map(str::to_owned));
    let mut table = Table::new(&header).named("Percentiles");
    let (mut drawn, mut what) = (Vec::new(), "latency");
    for (role, name, step) in group {
        let summary = headline(&step.latency);
        let (points, marks) = curve(summary);
        drawn.push(Line { role, name: name.to_owned(), points, marks });
        let mut row = vec![name.to_owned()];
        row.extend(PERCENTILES.map(|percent| quantile(summary, percent)));
        row.extend([longest(summary), grouped(summary.count)]);
        table.rows.push(row);
        if step.latency.response.is_some() {
            what = "response time";
        }
    }
    let about = "Latency by percentile, each decade beyond the percentile as wide as the one before; as far as ten samples lie beyond it.";
    lines("Latency by percentile", about, Axis::percentiles(), (what, "ns"), drawn, table)
}

fn sweep(report: &Report) -> Vec<Block> {
    let params: Vec<&Params> = report.results.iter().map(|step| &step.params).collect();
    let Some(sweep) = Sweep::of(&params) else { return Vec::new() };
    let all = |of: &dyn Fn(&StepResult) -> Option<f64>| report.results.iter().map(of).collect();
    if report.kind == "bw" {
        let rates = all(&|step| step.bandwidth.as_ref()?.bits_per_s);
        return vec![sweep_figure("Bandwidth", "bit/s", &sweep, vec![("", rates)])];
    }
    let at =
        |percent| all(&|step| headline(&step.latency).quantile_ns(percent).map(|ns| ns as f64));
    let latencies = vec![("p50", at(50.0)), ("p99", at(99.0)), ("p99.9", at(99.9))];
    let rates = all(&|step| Some(step.rate.achieved_per_s));
    vec![
        sweep_figure("Latency", "ns", &sweep, latencies),
        sweep_figure("Rate", "1/s", &sweep, vec![("", rates)]),
    ]
}

pub(super) fn sweep_figure(
    what: &str,
    unit: &str,
    sweep: &Sweep,
    named: Vec<(&str, Vec<Option<f64>>)>,
) -> Block {
    let title = format!("{what} by {}", sweep.name);
    let about = format!("{title}, a line each.");
    let named = (0..).zip(named).map(|(role, (name, values))| (role, name, values)).collect();
    let over = (sweep.name, sweep.axis(), sweep.steps.as_slice());
    series(title, &about, over, (&what.to_lowercase(), unit), named)
}

/// A figure with a line for each of the named, by its role, which has a value for each step: these
/// have a place on the axis and a name.
pub(super) fn series(
    title: String,
    about: &str,
    (over, x, steps): (&str, Axis, &[(f64, String)]),
    (what, unit): (&str, &str),
    named: Vec<(usize, &str, Vec<Option<f64>>)>,
) -> Block {
    let mut header = vec![over];
    header.extend(named.iter().map(|(_, name, _)| if name.is_empty() { what } else { *name }));
    let mut table = Table::new(&header);
    for (step, (_, name)) in steps.iter().enumerate() {
        let found = named.iter().map(|(_, _, values)| values.get(step).copied().flatten());
        let found = found.map(|value| known(value, |value| shown(unit, value)));
        table.rows.push(std::iter::once(name.clone()).chain(found).collect());
    }
    let drawn = named.into_iter().map(|(role, name, values)| {
        let points = steps.iter().zip(values);
        let points = points.filter_map(|((at, _), value)| Some((*at, value?)));
        Line::marked(role, name, points.collect())
    });
    lines(title, about, x, (what, unit), drawn.collect(), table)
}

fn over_time(step: &StepResult) -> Block {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let line = |role, name: &str, of: &dyn Fn(&Interval) -> Option<f64>| {
        let entries = step.intervals.iter();
        let points = entries.filter_map(|entry| Some((seconds(entry.at_ns), of(entry)?)));
        let points = peaks(&points.collect::<Points>());
        let marks = if points.len() > MARKS_MAX { Vec::new() } else { points.clone() };
        Line { role, name: name.to_owned(), points, marks }
    };
    let is_bulk = step.intervals.iter().any(|entry| entry.bits_per_s.is_some());
    let (what, unit, drawn) = if is_bulk {
        ("bandwidth", "bit/s", vec![line(0, "bandwidth", &|entry| entry.bits_per_s)])
    } else {
        let median = line(0, "p50", &|entry| Some(entry.p50_ns? as f64));
        ("latency", "ns", vec![median, line(1, "p99", &|entry| Some(entry.p99_ns? as f64))])
    };
    let table = Table::of(
        &step.intervals,
        &[
            ("until", &|entry| time(entry.at_ns)),
            ("completed", &|entry| grouped(entry.completed)),
            ("errors", &|entry| grouped(entry.errors)),
            ("bandwidth", &|entry| known(entry.bits_per_s, bits)),
            ("p50", &|entry| time(entry.p50_ns)),
            ("p99", &|entry| time(entry.p99_ns)),
            ("max", &|entry| time(entry.max_ns)),
        ],
    );
    let table = table.only_if(is_bulk, &["bandwidth"]).only_if(!is_bulk, &["p50", "p99", "max"]);
    let last = step.intervals.last().map_or(1.0, |entry| seconds(entry.at_ns));
    let x = Axis::linear("seconds since the start", 0.0, last, 8.0, false);
    let title = format!("Over time: {}", parameters(&step.params));
    let about = format!("The {what} of each interval of the measured phase.");
    lines(title, &about, x, (what, unit), drawn, table.shortened(ROWS_MAX))
}

/// At most so many points: of each stretch the largest, so that no peak is lost.
fn peaks(points: &[(f64, f64)]) -> Points {
    let stretch = points.len().div_ceil(POINTS_MAX).max(1);
    let largest =
        |stretch: &[(f64, f64)]| stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(stretch).filter_map(largest).collect()
}

pub(super) struct Sweep {
    name: &'static str,
    steps: Vec<(f64, String)>,
}

impl Sweep {
    /// None where there is one step only. Where several parameters vary, steps are numbered.
    pub(super) fn of(steps: &[&Params]) -> Option<Self> {
        type Named = (f64, String);
        let rate = |p: &Params| p.rate_per_s.unwrap_or(0.0);
        type Of<'a> = &'a dyn Fn(&Params) -> Named;
        let by: [(&str, Of<'_>); 3] = [
            ("size", &|p| (p.size_bytes as f64, Size(p.size_bytes).to_string())),
            ("connections", &|p| (p.connections.into(), p.connections.to_string())),
            ("rate", &|p| (rate(p), per_second(rate(p)))),
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
}
