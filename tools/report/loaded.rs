//! What text and Markdown say of a latency run under load: each step idle, and beside it under the load.

use tare_engine::result::{Report, StepResult, Summary};
use tare_engine::units::Size;

use super::figures::{bits_within, cpu_per_gib, significant, volume};
use super::{Cells, Look, NONE, heading, headline, longest, mean, quantile, time};

/// A step measured twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    idle: &'a StepResult,
    loaded: &'a StepResult,
}

/// The report's steps, two and two; none unless there is one that was measured twice.
pub(super) fn pairs(report: &Report) -> Vec<Pair<'_>> {
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
pub(super) fn options(report: &Report) -> Option<String> {
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
pub(super) fn distribution(pair: Pair<'_>, look: &Look) -> Cells {
    let (idle, loaded) = (headline(&pair.idle.latency), headline(&pair.loaded.latency));
    let mut cells = Cells::new(&["round trip", "idle", "under load", "ratio"]);
    let mut add = |name: String, shown: &dyn Fn(&Summary) -> String, ratio: String| {
        cells.row(vec![name, shown(idle), shown(loaded), ratio]);
    };
    add(
        "min".into(),
        &|s| time(s.min_ns),
        ratio(idle.min_ns, loaded.min_ns),
    );
    let whole = |summary: &Summary| summary.mean_ns.map(|ns| super::nanos(ns).0);
    add("mean".into(), &mean, ratio(whole(idle), whole(loaded)));
    for &percent in &look.percentiles {
        add(
            heading(percent),
            &|s| quantile(s, percent),
            ratio_at(pair, percent),
        );
    }
    add("max".into(), &longest, ratio(idle.max_ns, loaded.max_ns));
    cells
}

/// Several steps in both states: a row each.
pub(super) fn sweep(pairs: &[Pair<'_>]) -> Cells {
    let mut cells = Cells::new(&[
        "size", "conns", "p50 idle", "loaded", "ratio", "p99 idle", "loaded", "ratio", "load",
    ]);
    for &pair in pairs {
        let params = &pair.idle.params;
        let mut row = vec![
            Size(params.size_bytes).to_string(),
            params.connections.to_string(),
        ];
        for percent in [50.0, 99.0] {
            row.push(quantile(headline(&pair.idle.latency), percent));
            row.push(quantile(headline(&pair.loaded.latency), percent));
            row.push(ratio_at(pair, percent));
        }
        let carried = pair.loaded.bandwidth.as_ref();
        row.push(carried.map_or_else(
            || NONE.into(),
            |b| bits_within(b.bits_per_s, b.interval_bits_per_s),
        ));
        cells.row(row);
    }
    cells
}

/// What the load carried meanwhile, in a line.
pub(super) fn carried(pair: Pair<'_>) -> String {
    let Some(load) = &pair.loaded.bandwidth else {
        return "the load did not tell what it carried".to_owned();
    };
    let mut text = format!(
        "{} carried meanwhile, {} received",
        bits_within(load.bits_per_s, load.interval_bits_per_s),
        volume(load.received_bytes)
    );
    if let Some(retransmits) = load.retransmits {
        text.push_str(&format!(
            ", {} sent again",
            super::plural(retransmits, "segment")
        ));
    }
    if let Some(lost) = load.lost_datagrams {
        text.push_str(&format!(", {} lost", super::plural(lost, "datagram")));
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
