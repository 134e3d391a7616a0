//! A page's parts of a plain result: what one run over one path came to.

use tare_engine::result::{Report, StepResult, Summary};

use super::super::histogram::decode;
use super::super::{
    Cells, NONE, distribution, heading, headline, http, longest, observed, operations, quantile,
    time,
};
use super::plot::{Axis, Line, Plot, Points, beyond};
use super::write::{Figures, facts, note, section, table};
use super::{Look, Part, Sweep, figures, part, shown, step_name};
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
const BEYOND_MIN: f64 = tare_engine::histogram::BEYOND_MIN as f64;

pub(super) fn parts(id: &str, report: &Report, look: &Look, figures: &mut Figures) -> Vec<Part> {
    let steps: Vec<(String, &StepResult)> = report
        .results
        .iter()
        .map(|step| (step_name(&step.params), step))
        .collect();
    let mut parts = Vec::new();
    parts.extend(part(id, "steps", "Results", results(id, report, look)));
    parts.extend(part(id, "sweep", "Over the sweep", sweep(report, figures)));
    parts.extend(part(
        id,
        "percentiles",
        "Percentiles",
        percentiles(&steps, figures),
    ));
    parts.extend(part(id, "time", "Over time", over_time(report, figures)));
    parts
}

/// Each step in numbers.
fn results(id: &str, report: &Report, look: &Look) -> String {
    let mut out = String::new();
    for (index, step) in report.results.iter().enumerate() {
        let mut body = facts(&step_facts(step));
        if headline(&step.latency).count > 0 {
            body.push_str(&table("Latency", &distribution(step, look), 1));
        }
        if let Some(parts) = super::super::parts(&step.latency) {
            body.push_str(&table("What it is made of", &parts, 1));
        }
        if let Some(codes) = http::codes(step) {
            body.push_str(&table("Status codes", &codes, 1));
        }
        out.push_str(&section(
            &format!("{id}-s{}", index + 1),
            3,
            &step_name(&step.params),
            &body,
        ));
    }
    out
}

fn step_facts(step: &StepResult) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if step.partial {
        facts.push(("Partial", "this step was cut short, or failed".to_owned()));
    }
    if let Some(bandwidth) = &step.bandwidth {
        let rate = figures::bits_within(bandwidth.bits_per_s, bandwidth.interval_bits_per_s);
        facts.push(("Bandwidth", rate));
        facts.push(("Received", figures::volume(bandwidth.received_bytes)));
        if let Some(again) = bandwidth.retransmits {
            facts.push(("Sent again", super::super::grouped(again)));
        }
        if let Some(lost) = bandwidth.lost_datagrams {
            facts.push(("Lost datagrams", super::super::grouped(lost)));
        }
    } else {
        facts.push(("Rate", super::super::per_second(step.rate.achieved_per_s)));
        facts.push(("Operations", operations(step)));
    }
    facts.push(("Errors", super::super::errors(&step.errors)));
    if let Some(machine) = observed::machine(&step.cpu.client) {
        facts.push(("This machine", machine));
    }
    if step.instances.len() > 1 {
        facts.push(("Servers that answered", step.instances.join(" ")));
    }
    facts
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

/// Percentile curves of things that are compared, with their table.
pub(super) fn percentiles(named: &[(String, &StepResult)], figures: &mut Figures) -> String {
    let told = named
        .iter()
        .filter(|(_, step)| headline(&step.latency).count > 0);
    let told: Vec<&(String, &StepResult)> = told.collect();
    let groups = told.chunks(LINES_MAX);
    groups
        .map(|group| {
            let lines = group.iter().enumerate();
            let lines: Vec<(usize, &str, &StepResult)> = lines
                .map(|(role, (name, step))| (role, name.as_str(), *step))
                .collect();
            percentile_figure(&lines, figures)
        })
        .collect()
}

/// One figure of them: the line of each, its name, and what it is of.
pub(super) fn percentile_figure(
    group: &[(usize, &str, &StepResult)],
    figures: &mut Figures,
) -> String {
    let mut header = vec![String::new()];
    header.extend(PERCENTILES.map(heading));
    header.push("max".to_owned());
    header.push("samples".to_owned());
    let mut cells = Cells {
        header,
        rows: Vec::new(),
    };
    let (mut lines, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for &(role, name, step) in group {
        let summary = headline(&step.latency);
        let (points, marks) = curve(summary);
        values.extend(points.iter().chain(&marks).map(|(_, y)| *y));
        lines.push(Line {
            role,
            points,
            marks,
        });
        keys.push((role, name));
        let mut row = vec![name.to_owned()];
        row.extend(PERCENTILES.map(|percent| quantile(summary, percent)));
        row.push(longest(summary));
        row.push(super::super::grouped(summary.count));
        cells.row(row);
    }
    let open_loop = group
        .iter()
        .any(|(_, _, step)| step.latency.response.is_some());
    let what = if open_loop {
        "response time"
    } else {
        "latency"
    };
    let axis = Axis::over(what, &values, &|ns| shown("ns", ns));
    let plot = Plot::lines(Axis::percentiles(), axis, lines);
    let about = "Latency by percentile, each decade beyond the percentile as wide as the one before; as far as ten samples \
                 lie beyond it. The table holds the numbers.";
    figures.figure(
        "Latency by percentile",
        about,
        &plot,
        &keys,
        &table("Percentiles", &cells, 1),
    )
}

/// The figures of each step over the parameter that varies.
fn sweep(report: &Report, figures: &mut Figures) -> String {
    let params: Vec<_> = report.results.iter().map(|step| &step.params).collect();
    let Some(sweep) = Sweep::of(&params) else {
        return String::new();
    };
    let quantiles = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
    let latency = |step: &StepResult, percent| {
        headline(&step.latency)
            .quantile_ns(percent)
            .map(|ns| ns as f64)
    };
    let rate = |step: &StepResult| match &step.bandwidth {
        Some(bandwidth) => bandwidth.bits_per_s,
        None => Some(step.rate.achieved_per_s),
    };
    let is_bulk = report.kind == "bw";
    let unit = if is_bulk { "bit/s" } else { "1/s" };
    let mut out = String::new();
    if !is_bulk {
        let of = |percent| {
            report
                .results
                .iter()
                .map(|step| latency(step, percent))
                .collect()
        };
        let lines: Vec<(&str, Vec<Option<f64>>)> = quantiles
            .iter()
            .map(|&(name, percent)| (name, of(percent)))
            .collect();
        out.push_str(&sweep_figure("Latency", "ns", &sweep, &lines, figures));
    }
    let rates = report.results.iter().map(rate).collect();
    let what = if is_bulk { "Bandwidth" } else { "Rate" };
    out + &sweep_figure(what, unit, &sweep, &[("", rates)], figures)
}

/// A figure with a line for each of the named, each of which has a value per step.
pub(super) fn sweep_figure(
    what: &str,
    unit: &str,
    sweep: &Sweep,
    lines: &[(&str, Vec<Option<f64>>)],
    figures: &mut Figures,
) -> String {
    let values: Vec<f64> = lines
        .iter()
        .flat_map(|(_, values)| values.iter().flatten())
        .copied()
        .collect();
    let drawn = lines.iter().enumerate().map(|(role, (_, values))| {
        let points = values.iter().enumerate();
        let points: Vec<(f64, f64)> = points
            .filter_map(|(step, value)| Some((sweep.at(step)?, (*value)?)))
            .collect();
        Line {
            role,
            marks: points.clone(),
            points,
        }
    });
    let drawn = drawn.collect();
    let mut header = vec![sweep.name.to_owned()];
    let name_of = |name: &&str| {
        if name.is_empty() {
            what.to_lowercase()
        } else {
            (*name).to_owned()
        }
    };
    header.extend(lines.iter().map(|(name, _)| name_of(name)));
    let mut cells = Cells {
        header,
        rows: Vec::new(),
    };
    for (step, (_, name)) in sweep.steps.iter().enumerate() {
        let mut row = vec![name.clone()];
        let told = lines
            .iter()
            .map(|(_, values)| values.get(step).copied().flatten());
        row.extend(told.map(|value| super::known(value, |value| shown(unit, value))));
        cells.row(row);
    }
    let keys: Vec<(usize, &str)> = match lines {
        [("", _)] => Vec::new(),
        lines => lines
            .iter()
            .enumerate()
            .map(|(role, (name, _))| (role, *name))
            .collect(),
    };
    let axis = Axis::over(&what.to_lowercase(), &values, &|value| shown(unit, value));
    let title = format!("{what} by {}", sweep.name);
    let about = format!("{title}, a line each. The table holds the numbers.");
    let plot = Plot::lines(sweep.axis(), axis, drawn);
    figures.figure(&title, &about, &plot, &keys, &table(&title, &cells, 1))
}

/// Each step's series over time.
fn over_time(report: &Report, figures: &mut Figures) -> String {
    let steps = report
        .results
        .iter()
        .filter(|step| step.intervals.len() > 1);
    let steps: Vec<&StepResult> = steps.collect();
    let mut out: String = steps
        .iter()
        .take(SERIES_MAX)
        .map(|step| series(step, figures))
        .collect();
    if steps.len() > SERIES_MAX {
        let text = format!(
            "Of the first {SERIES_MAX} steps; those of all {} are in the JSON.",
            steps.len()
        );
        out.push_str(&note(&text));
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
fn series(step: &StepResult, figures: &mut Figures) -> String {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let is_bulk = step
        .intervals
        .iter()
        .any(|entry| entry.bits_per_s.is_some());
    let of = |what: &dyn Fn(&tare_engine::result::Interval) -> Option<f64>| -> Vec<(f64, f64)> {
        let entries = step.intervals.iter();
        entries
            .filter_map(|entry| Some((seconds(entry.at_ns), what(entry)?)))
            .collect()
    };
    let time_of = |ns: Option<u64>| ns.map(|ns| ns as f64);
    let (unit, what, told) = if is_bulk {
        (
            "bit/s",
            "bandwidth",
            vec![("bandwidth", of(&|entry| entry.bits_per_s))],
        )
    } else {
        let median = of(&|entry| time_of(entry.p50_ns));
        let tail = of(&|entry| time_of(entry.p99_ns));
        ("ns", "latency", vec![("p50", median), ("p99", tail)])
    };
    let values: Vec<f64> = told
        .iter()
        .flat_map(|(_, points)| points.iter().map(|point| point.1))
        .collect();
    let last = step
        .intervals
        .last()
        .map_or(1.0, |entry| seconds(entry.at_ns));
    let lines = told.iter().enumerate().map(|(role, (_, points))| {
        let points = peaks(points);
        let marks = if points.len() > 60 {
            Vec::new()
        } else {
            points.clone()
        };
        Line {
            role,
            points,
            marks,
        }
    });
    let lines = lines.collect();
    let x = Axis::linear("seconds since the start", 0.0, last);
    let plot = Plot::lines(
        x,
        Axis::over(what, &values, &|value| shown(unit, value)),
        lines,
    );
    let keys: Vec<(usize, &str)> = told
        .iter()
        .enumerate()
        .map(|(role, (name, _))| (role, *name))
        .collect();
    let title = format!("Over time: {}", step_name(&step.params));
    let about =
        format!("The {what} of each interval of the measured phase. The table holds the numbers.");
    figures.figure(&title, &about, &plot, &keys, &series_table(step, is_bulk))
}

/// At most so many points: of each stretch the largest, so that no peak is lost.
fn peaks(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(POINTS_MAX).max(1);
    let largest =
        |stretch: &[(f64, f64)]| stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(stretch).filter_map(largest).collect()
}

fn series_table(step: &StepResult, is_bulk: bool) -> String {
    let mut header = vec!["until", "completed", "errors"];
    header.extend(if is_bulk {
        &["bandwidth"][..]
    } else {
        &["p50", "p99", "max"][..]
    });
    let mut cells = Cells::new(&header);
    let entries = step.intervals.len();
    let mut left_out = 0;
    for (index, entry) in step.intervals.iter().enumerate() {
        if entries > ROWS_MAX && (ROWS_MAX / 2..entries - ROWS_MAX / 2).contains(&index) {
            left_out += 1;
            continue;
        }
        let mut row = vec![
            figures::span(entry.at_ns),
            super::super::grouped(entry.completed),
            super::super::grouped(entry.errors),
        ];
        if is_bulk {
            row.push(
                entry
                    .bits_per_s
                    .map_or_else(|| NONE.to_owned(), figures::bits),
            );
        } else {
            row.extend([entry.p50_ns, entry.p99_ns, entry.max_ns].map(time));
        }
        cells.row(row);
    }
    let mut out = table("Each interval", &cells, 1);
    if left_out > 0 {
        out.push_str(&note(&format!(
            "{left_out} intervals in the middle are left out; the JSON holds them."
        )));
    }
    out
}
