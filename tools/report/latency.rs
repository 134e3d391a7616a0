//! Reports of latency runs, idle and under load.

use tare_stats::result::{INTERVALS_OF_RUN, Latencies, Report, StepResult, Summary, quantile_name};
use tare_units::{Nanos, Size};

use super::common::{instruments, marks, steps_troubles, troubles};
use super::document::{Block, Document, Fact, Shown, Table, fact, note};
use super::figures::{bits_within, cpu_per_gib, significant, volume};
use super::{
    Look, NONE, at_least, bounded, charts, grouped, half, heading, headline, longest, mean, nanos,
    operations, per_second, plural, quantile, stdev, time,
};

const HALVES: &str =
    "Latencies are full round trips; ½ is for comparing with qperf and sockperf, which halve them.";
pub(super) const FULL: &str = "Latencies are full round trips.";
const OPEN_LOOP: [&str; 3] = [
    "response  from when a ping was due, by the schedule, to its answer: what a user would have waited",
    "service   from when it was really sent to its answer: what the path took",
    "lateness  from when it was due to when it was really sent: what the sender added",
];

pub(super) fn build(document: &mut Document, report: &Report, look: &Look) {
    let pairs = pairs(report);
    let Some(last) = report.results.last() else {
        return;
    };
    let is_one = report.results.len() == 1;
    let mut blocks = vec![note(if pairs.is_empty() { HALVES } else { FULL })];
    match pairs.as_slice() {
        [] if is_one => blocks.extend(step(last, look)),
        [] => blocks.push(Block::Table(sweep(report))),
        [pair] => {
            blocks.push(Block::Table(states(*pair, look)));
            blocks.push(Block::Facts(vec![fact("load", carried(*pair))]));
        }
        pairs => blocks.push(Block::Table(states_sweep(pairs))),
    }
    let found = steps_troubles(report);
    if !is_one && !found.is_empty() {
        blocks.push(Block::Facts(found));
    }
    document.add(Shown::Plain, "results", "Results", blocks);
    let heading = match (is_one, pairs.is_empty()) {
        (true, _) => "",
        (_, true) => "Instrument, in the last step",
        (_, false) => "Instrument, under load",
    };
    instruments(document, report, last, heading);
    charts::add(document, report, |one| step(one, look));
}

/// One step, with everything that is known of it.
fn step(step: &StepResult, look: &Look) -> Vec<Block> {
    let mut blocks = Vec::new();
    if headline(&step.latency).count == 0 {
        blocks.push(note("Nothing was answered in the measured phase."));
    } else {
        let mut notes = marks(step, look, "unanswered ping");
        if step.latency.response.is_some() {
            notes.extend(OPEN_LOOP.map(str::to_owned));
        }
        let table = distribution(step, look).named("Latency").noting(notes);
        blocks.push(Block::Table(table));
        blocks.extend(parts(&step.latency).map(Block::Table));
    }
    blocks.push(Block::Facts(facts(step)));
    blocks
}

fn facts(step: &StepResult) -> Vec<Fact> {
    let mut rate = per_second(step.rate.achieved_per_s);
    if let Some(target) = step.rate.target_per_s {
        rate.push_str(&format!(" of {} asked", per_second(target)));
        if let Some(depth) = step.rate.backlog_max.filter(|depth| *depth > 0) {
            let waiting = plural(depth, "ping");
            rate.push_str(&format!(", up to {waiting} waiting for a free connection"));
        }
    }
    let mut facts = vec![fact("rate", rate), fact("operations", operations(step))];
    facts.extend(troubles(step));
    facts
}

/// Over the intervals of a step's quantiles, what they speak for.
fn interval_heading(step: &StepResult) -> &'static str {
    match step.interval_scope.as_str() {
        INTERVALS_OF_RUN => "95 % in this run",
        _ => "95 % interval",
    }
}

/// By how much a quantile can be off through the instrument; blank where that is not known.
fn error_at(summary: &Summary, percent: f64) -> String {
    let error = summary.errors_ns.get(&quantile_name(percent));
    error.map_or_else(String::new, |ns| format!("± {}", Nanos(*ns)))
}

/// The figures of one step: a row per quantile, with its interval, its half (of round trips only), and what it is
/// made of.
pub(super) fn distribution(step: &StepResult, look: &Look) -> Table {
    let latency = &step.latency;
    let main = headline(latency);
    let open_loop = latency.response.is_some();
    let halves = step.params.http.is_none();
    let name = match (open_loop, halves) {
        (true, _) => "response",
        (false, true) => "round trip",
        (false, false) => "latency",
    };
    let mut cells = Table::new(&["", name, interval_heading(step)]);
    let has_errors = !main.errors_ns.is_empty();
    if has_errors {
        cells.header.push("error".into());
    }
    if halves {
        cells.header.push("½ RTT".into());
    }
    if open_loop {
        cells.header.extend(["service".into(), "lateness".into()]);
    }
    let mut add =
        |name: String, shown: &dyn Fn(&Summary) -> String, [interval, error, half]: [String; 3]| {
            let mut row = vec![name, shown(main), interval];
            if has_errors {
                row.push(error);
            }
            if halves {
                row.push(half);
            }
            if open_loop {
                row.push(shown(&latency.service));
                let lateness = latency.lateness.as_ref();
                row.push(lateness.map_or_else(|| NONE.into(), shown));
            }
            cells.row(row);
        };
    let whole = |ns: Option<f64>| ns.map(|ns| nanos(ns).0);
    let blank = String::new;
    add("min".into(), &|s| time(s.min_ns), [blank(), blank(), half(main.min_ns)]);
    let half_mean = bounded(main, half(whole(main.mean_ns)));
    add("mean".into(), &mean, [blank(), blank(), half_mean]);
    add("stdev".into(), &stdev, [blank(), blank(), blank()]);
    for &percent in &look.percentiles {
        let interval = main.intervals_ns.get(&quantile_name(percent));
        let interval = interval.filter(|_| main.quantile_ns(percent).is_some());
        let interval = interval.map(|(low, high)| format!("{} to {}", Nanos(*low), Nanos(*high)));
        add(
            heading(percent),
            &|s| quantile(s, percent),
            [
                interval.unwrap_or_default(),
                error_at(main, percent),
                at_least(main, &quantile_name(percent), half(main.quantile_ns(percent))),
            ],
        );
    }
    add("max".into(), &longest, [blank(), blank(), bounded(main, half(main.max_ns))]);
    cells
}

/// What a round trip is made of, and what came before it. None where neither is known.
pub(super) fn parts(latency: &Latencies) -> Option<Table> {
    let mut cells = Table::new(&["", "p50", "p99", "p99.9", "max", "mean"]);
    for (name, summary) in [
        ("path and both kernels", &latency.path),
        ("inside the far end", &latency.server_residence),
        ("TCP connect", &latency.connect),
    ] {
        let Some(summary) = summary else { continue };
        let mut row = vec![name.to_owned()];
        row.extend([50.0, 99.0, 99.9].map(|percent| quantile(summary, percent)));
        row.extend([longest(summary), mean(summary)]);
        cells.row(row);
    }
    (!cells.rows.is_empty()).then_some(cells.named("What it is made of"))
}

/// A sweep: a row per step.
fn sweep(report: &Report) -> Table {
    let mut cells = Table::new(&[
        "size",
        "conns",
        "p50",
        "p99",
        "p99.9",
        "max",
        "mean",
        "½ p50",
        "rate",
        "p50 error",
        "p99 error",
        "lost",
    ]);
    for step in &report.results {
        let main = headline(&step.latency);
        let mut row =
            vec![Size(step.params.size_bytes).to_string(), step.params.connections.to_string()];
        row.extend([50.0, 99.0, 99.9].map(|percent| quantile(main, percent)));
        let lost = step.operations.failed + step.operations.timed_out;
        row.extend([
            longest(main),
            mean(main),
            at_least(main, "p50", half(main.p50_ns)),
            per_second(step.rate.achieved_per_s),
            error_at(main, 50.0),
            error_at(main, 99.0),
            grouped(lost),
        ]);
        cells.row(row);
    }
    cells
}

/// A step measured twice.
#[derive(Debug, Clone, Copy)]
struct Pair<'a> {
    idle: &'a StepResult,
    loaded: &'a StepResult,
}

/// The report's steps, two and two; none unless there is one that was measured twice.
fn pairs(report: &Report) -> Vec<Pair<'_>> {
    let steps = report.results.windows(2);
    steps
        .filter_map(|two| {
            let [idle, loaded] = two else { return None };
            let pair = idle.params.under_load.is_none() && loaded.params.under_load.is_some();
            pair.then_some(Pair { idle, loaded })
        })
        .collect()
}

/// The load's options, where there is a load.
pub(super) fn load(report: &Report) -> Option<String> {
    let mut steps = report.results.iter();
    let options = steps.find_map(|step| step.params.under_load.as_deref())?;
    Some(match options {
        "" => "tare bw".to_owned(),
        options => format!("tare bw {options}"),
    })
}

/// How many times as long; nothing where a figure is missing, or is but a lower bound.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
fn ratio(idle: Option<u64>, loaded: Option<u64>) -> String {
    match (idle, loaded) {
        (Some(idle), Some(loaded)) if idle > 0 => {
            format!("× {}", significant(loaded as f64 / idle as f64, 3))
        }
        _ => NONE.to_owned(),
    }
}

fn ratio_at(pair: Pair<'_>, percent: f64) -> String {
    let at = |step: &StepResult| headline(&step.latency).quantile_ns(percent);
    ratio(at(pair.idle), at(pair.loaded))
}

/// One step in both states: a row per quantile.
fn states(pair: Pair<'_>, look: &Look) -> Table {
    let (idle, loaded) = (headline(&pair.idle.latency), headline(&pair.loaded.latency));
    let mut cells = Table::new(&["round trip", "idle", "under load", "ratio"]);
    let mut add = |name: String, shown: &dyn Fn(&Summary) -> String, ratio: String| {
        cells.row(vec![name, shown(idle), shown(loaded), ratio]);
    };
    add("min".into(), &|s| time(s.min_ns), ratio(idle.min_ns, loaded.min_ns));
    let whole = |summary: &Summary| summary.mean_ns.map(|ns| nanos(ns).0);
    add("mean".into(), &mean, ratio(whole(idle), whole(loaded)));
    for &percent in &look.percentiles {
        add(heading(percent), &|s| quantile(s, percent), ratio_at(pair, percent));
    }
    add("max".into(), &longest, ratio(idle.max_ns, loaded.max_ns));
    cells
}

/// Several steps in both states: a row each.
fn states_sweep(pairs: &[Pair<'_>]) -> Table {
    let mut cells = Table::new(&[
        "size", "conns", "p50 idle", "loaded", "ratio", "p99 idle", "loaded", "ratio", "load",
    ]);
    for &pair in pairs {
        let params = &pair.idle.params;
        let mut row = vec![Size(params.size_bytes).to_string(), params.connections.to_string()];
        for percent in [50.0, 99.0] {
            row.push(quantile(headline(&pair.idle.latency), percent));
            row.push(quantile(headline(&pair.loaded.latency), percent));
            row.push(ratio_at(pair, percent));
        }
        let carried = pair.loaded.bandwidth.as_ref();
        row.push(
            carried
                .map_or_else(|| NONE.into(), |b| bits_within(b.bits_per_s, b.interval_bits_per_s)),
        );
        cells.row(row);
    }
    cells
}

/// What the load carried meanwhile, in a line.
fn carried(pair: Pair<'_>) -> String {
    let Some(load) = &pair.loaded.bandwidth else {
        return "the load did not report what it carried".to_owned();
    };
    let mut text = format!(
        "{} carried meanwhile, {} received",
        bits_within(load.bits_per_s, load.interval_bits_per_s),
        volume(load.received_bytes)
    );
    if let Some(retransmits) = load.retransmits {
        text.push_str(&format!(", {}", plural(retransmits, "retransmit")));
    }
    if let Some(lost) = load.lost_datagrams {
        text.push_str(&format!(", {} lost", plural(lost, "datagram")));
    }
    if load.cpu_s_per_gib.is_some() {
        text.push_str(&format!(", {}", cpu_per_gib(load.cpu_s_per_gib)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::ratio;

    #[test]
    fn ratios_need_both_ends() {
        assert_eq!(ratio(Some(9_000), Some(180_000)), "× 20.0");
        assert_eq!(ratio(Some(0), Some(1)), "–");
        assert_eq!(ratio(None, Some(1)), "–");
        assert_eq!(ratio(Some(1), None), "–");
    }
}
