//! Reports of latency runs, idle and under load.

use tare_stats::result::{INTERVALS_OF_RUN, Latencies, Report, StepResult, Summary, quantile_name};
use tare_units::{Nanos, Size};

use super::common::{marks, results, troubles};
use super::document::{Block, Document, Table, field, note};
use super::numbers::{
    Statistic, bits_within, cpu_per_gib, known, longest, mean, per_second, quantile, significant,
    volume,
};
use super::{grouped, headline, operations, phrases, plural};

const HALVES: &str =
    "Latencies are full round trips; ½ is for comparing with qperf and sockperf, which halve them.";
pub(super) const FULL: &str = "Latencies are full round trips.";
const OPEN_LOOP: [&str; 3] = [
    "response  from when a ping was due, by the schedule, to its answer: what a user would have waited",
    "service   from when it was really sent to its answer: what the path took",
    "lateness  from when it was due to when it was really sent: what the sender added",
];

pub(super) fn build(document: &mut Document, report: &Report, percentiles: &[f64]) {
    let pairs = pairs(report);
    let (intro, heading) = match pairs.is_empty() {
        true => (HALVES, "Instrument, in the last step"),
        false => (FULL, "Instrument, under load"),
    };
    let sweep = || {
        let blocks = match pairs.as_slice() {
            [] => vec![Block::Table(sweep(report))],
            [pair] => {
                let load = Block::Fields(vec![field("load", carried(*pair))]);
                vec![Block::Table(states(*pair, percentiles)), load]
            }
            pairs => vec![Block::Table(states_sweep(pairs))],
        };
        (blocks, Vec::new())
    };
    results(document, report, vec![note(intro)], sweep, heading, |one| step(one, percentiles));
}

fn step(step: &StepResult, percentiles: &[f64]) -> Vec<Block> {
    let mut blocks = Vec::new();
    if headline(&step.latency).count == 0 {
        blocks.push(note("Nothing was answered in the measured phase."));
    } else {
        let mut notes = marks(step, percentiles, "unanswered ping");
        if step.latency.response.is_some() {
            notes.extend(OPEN_LOOP.map(str::to_owned));
        }
        blocks.push(Block::Table(distribution(step, percentiles).noting(notes)));
        blocks.extend(parts(&step.latency).map(Block::Table));
    }
    let mut found = vec![field("rate", rate(step)), field("operations", operations(step))];
    found.extend(troubles(step));
    blocks.push(Block::Fields(found));
    blocks
}

fn rate(step: &StepResult) -> String {
    let mut text = per_second(step.rate.achieved_per_s);
    if let Some(target) = step.rate.target_per_s {
        text.push_str(&format!(" of {} asked", per_second(target)));
        if let Some(depth) = step.rate.backlog_max.filter(|depth| *depth > 0) {
            let waiting = plural(depth, "ping");
            text.push_str(&format!(", up to {waiting} waiting for a free connection"));
        }
    }
    text
}

/// By how much a quantile can be off through the instrument; blank where that is not known.
fn error_at(summary: &Summary, percent: f64) -> String {
    let error = summary.errors_ns.get(&quantile_name(percent));
    error.map_or_else(String::new, |ns| format!("± {}", Nanos(*ns)))
}

fn interval_at(summary: &Summary, percent: f64) -> String {
    let interval = summary.intervals_ns.get(&quantile_name(percent));
    let interval = interval.filter(|_| summary.quantile_ns(percent).is_some());
    interval.map_or_else(String::new, |(low, high)| format!("{} to {}", Nanos(*low), Nanos(*high)))
}

pub(super) fn distribution(step: &StepResult, percentiles: &[f64]) -> Table {
    let latency = &step.latency;
    let main = headline(latency);
    let open_loop = latency.response.is_some();
    let halves = step.params.http.is_none();
    let name = match (open_loop, halves) {
        (true, _) => "response",
        (false, true) => "round trip",
        (false, false) => "latency",
    };
    let interval = match step.interval_scope.as_str() {
        INTERVALS_OF_RUN => "95 % in this run",
        _ => "95 % interval",
    };
    let mut rows = vec![Statistic::Min, Statistic::Mean, Statistic::Stdev];
    rows.extend(percentiles.iter().copied().map(Statistic::Quantile));
    rows.push(Statistic::Max);
    let table = Table::of(
        rows,
        &[
            ("", &|row| row.name()),
            (name, &|row| row.shown(main)),
            (interval, &|row| row.if_quantile(|percent| interval_at(main, percent))),
            ("error", &|row| row.if_quantile(|percent| error_at(main, percent))),
            ("½ RTT", &|row| row.half(main)),
            ("service", &|row| row.shown(&latency.service)),
            ("lateness", &|row| known(latency.lateness.as_ref(), |lateness| row.shown(lateness))),
        ],
    );
    let table = table.only_if(!main.errors_ns.is_empty(), &["error"]).only_if(halves, &["½ RTT"]);
    table.only_if(open_loop, &["service", "lateness"]).named("Latency")
}

pub(super) fn parts(latency: &Latencies) -> Option<Table> {
    let parts = [
        ("path and both kernels", &latency.path),
        ("inside the server", &latency.server_residence),
        ("TCP connect", &latency.connect),
    ];
    let parts = parts.into_iter().filter_map(|(name, summary)| Some((name, summary.as_ref()?)));
    let table = Table::of(
        parts,
        &[
            ("", &|(name, _): &(&str, &Summary)| (*name).to_owned()),
            ("p50", &|(_, summary)| quantile(summary, 50.0)),
            ("p99", &|(_, summary)| quantile(summary, 99.0)),
            ("p99.9", &|(_, summary)| quantile(summary, 99.9)),
            ("max", &|(_, summary)| longest(summary)),
            ("mean", &|(_, summary)| mean(summary)),
        ],
    );
    (!table.rows.is_empty()).then_some(table.named("What it is made of"))
}

fn sweep(report: &Report) -> Table {
    let steps = report.results.iter().map(|step| (step, headline(&step.latency)));
    let half_median = Statistic::Quantile(50.0);
    Table::of(
        steps,
        &[
            ("size", &|(step, _): &(&StepResult, &Summary)| size(step)),
            ("conns", &|(step, _)| step.params.connections.to_string()),
            ("p50", &|(_, main)| quantile(main, 50.0)),
            ("p99", &|(_, main)| quantile(main, 99.0)),
            ("p99.9", &|(_, main)| quantile(main, 99.9)),
            ("max", &|(_, main)| longest(main)),
            ("mean", &|(_, main)| mean(main)),
            ("½ p50", &|(_, main)| half_median.half(main)),
            ("rate", &|(step, _)| per_second(step.rate.achieved_per_s)),
            ("p50 error", &|(_, main)| error_at(main, 50.0)),
            ("p99 error", &|(_, main)| error_at(main, 99.0)),
            ("lost", &|(step, _)| grouped(step.operations.failed + step.operations.timed_out)),
        ],
    )
}

fn size(step: &StepResult) -> String {
    Size(step.params.size_bytes).to_string()
}

/// A step that was measured twice: idle, and under load.
type Pair<'a> = (&'a StepResult, &'a StepResult);

fn latencies<'a>((idle, loaded): Pair<'a>) -> (&'a Summary, &'a Summary) {
    (headline(&idle.latency), headline(&loaded.latency))
}

fn ratio_of(pair: Pair<'_>, of: Statistic) -> String {
    let (idle, loaded) = latencies(pair);
    ratio(of.ns(idle), of.ns(loaded))
}

/// The report's steps, two and two; none unless there is one that was measured twice.
fn pairs(report: &Report) -> Vec<Pair<'_>> {
    let is_pair =
        |(idle, loaded): &Pair<'_>| idle.params.load().is_none() && loaded.params.load().is_some();
    report.results.iter().zip(report.results.iter().skip(1)).filter(is_pair).collect()
}

pub(super) fn load(report: &Report) -> Option<String> {
    let mut steps = report.results.iter();
    let options = steps.find_map(|step| step.params.load())?;
    Some(format!("tare bw {options}").trim_end().to_owned())
}

/// How many times as long; nothing where a figure is missing, or is but a lower bound.
fn ratio(idle: Option<u64>, loaded: Option<u64>) -> String {
    let both = idle.filter(|idle| *idle > 0).zip(loaded);
    known(both, |(idle, loaded)| format!("× {}", significant(loaded as f64 / idle as f64, 3)))
}

fn states(pair: Pair<'_>, percentiles: &[f64]) -> Table {
    let (idle, loaded) = latencies(pair);
    let mut rows = vec![Statistic::Min, Statistic::Mean];
    rows.extend(percentiles.iter().copied().map(Statistic::Quantile));
    rows.push(Statistic::Max);
    Table::of(
        rows,
        &[
            ("round trip", &|row| row.name()),
            ("idle", &|row| row.shown(idle)),
            ("under load", &|row| row.shown(loaded)),
            ("ratio", &|row| ratio_of(pair, *row)),
        ],
    )
}

fn states_sweep(pairs: &[Pair<'_>]) -> Table {
    let idle = |pair: &Pair<'_>, percent| quantile(latencies(*pair).0, percent);
    let loaded = |pair: &Pair<'_>, percent| quantile(latencies(*pair).1, percent);
    Table::of(
        pairs.iter().copied(),
        &[
            ("size", &|(idle, _)| size(idle)),
            ("conns", &|(idle, _)| idle.params.connections.to_string()),
            ("p50 idle", &|pair| idle(pair, 50.0)),
            ("loaded", &|pair| loaded(pair, 50.0)),
            ("ratio", &|pair| ratio_of(*pair, Statistic::Quantile(50.0))),
            ("p99 idle", &|pair| idle(pair, 99.0)),
            ("loaded", &|pair| loaded(pair, 99.0)),
            ("ratio", &|pair| ratio_of(*pair, Statistic::Quantile(99.0))),
            ("load", &|(_, loaded)| {
                let load = loaded.bandwidth.as_ref();
                known(load, |load| bits_within(load.bits_per_s, load.interval_bits_per_s))
            }),
        ],
    )
}

fn carried((_, loaded): Pair<'_>) -> String {
    let Some(load) = &loaded.bandwidth else {
        return "the load did not report what it carried".to_owned();
    };
    let rate = bits_within(load.bits_per_s, load.interval_bits_per_s);
    phrases([
        Some(format!("{rate} carried meanwhile")),
        Some(format!("{} received", volume(load.received_bytes))),
        load.retransmits.map(|count| plural(count, "retransmit")),
        load.lost_datagrams.map(|lost| format!("{} lost", plural(lost, "datagram"))),
        load.cpu_s_per_gib.map(|seconds| cpu_per_gib(Some(seconds))),
    ])
}

#[cfg(test)]
mod tests {
    use super::ratio;

    #[test]
    fn ratios_need_both_ends() {
        assert_eq!(ratio(Some(9_000), Some(180_000)), "× 20.0");
        for (idle, loaded) in [(Some(0), Some(1)), (None, Some(1)), (Some(1), None)] {
            assert_eq!(ratio(idle, loaded), "–");
        }
    }
}
