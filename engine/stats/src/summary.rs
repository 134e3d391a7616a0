//! From what was recorded to what is reported.

use std::collections::BTreeMap;

use super::quantile::{design_effect, ranks};
use crate::histogram::{Added, Distribution, Metric, Recording, SeriesEntry};
use crate::result::{Interval, Latencies, Summary, quantile_name};
use tare_units::Nanos;

/// The quantiles that every summary has, per cent.
pub const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// The latencies of a step from the recording of all its workers, merged. `percentiles` (per cent)
/// that are not among [`PERCENTILES`] are told besides; and by how much those of round trips can be
/// too long, from what the instrument `added`.
pub fn latencies(recording: &Recording, percentiles: &[f64], added: Option<&Added>) -> Latencies {
    let summary = |metric| {
        let distribution = recording.distribution(metric)?;
        let effect = |share| design_effect(&recording.block_counts(metric, share));
        let mut summary = summarise(distribution, percentiles, &effect);
        let added = added.filter(|_| matches!(metric, Metric::Response | Metric::Service));
        for &percent in PERCENTILES.iter().chain(percentiles) {
            if let Some(error) = added.and_then(|added| added.to_quantile(distribution, percent)) {
                summary.errors_ns.insert(quantile_name(percent), error.0);
            }
        }
        Some(summary)
    };
    let if_any = |metric| summary(metric).filter(|s| s.count > 0);
    Latencies {
        response: summary(Metric::Response),
        service: summary(Metric::Service).unwrap_or_default(),
        lateness: summary(Metric::Lateness),
        connect: if_any(Metric::Connect),
        server_residence: if_any(Metric::Residence),
        path: if_any(Metric::Path),
        by_status: BTreeMap::new(),
    }
}

/// The summary of one latency, where it was measured.
pub(crate) const fn summary_of(latency: &Latencies, metric: Metric) -> Option<&Summary> {
    match metric {
        Metric::Service => Some(&latency.service),
        Metric::Response => latency.response.as_ref(),
        Metric::Lateness => latency.lateness.as_ref(),
        Metric::Connect => latency.connect.as_ref(),
        Metric::Residence => latency.server_residence.as_ref(),
        Metric::Path => latency.path.as_ref(),
    }
}

/// How finely the median of the service times is told.
pub fn resolution(recording: &Recording) -> Nanos {
    let service = recording.distribution(Metric::Service);
    service.map_or(Nanos::ZERO, |service| {
        let median = service.quantile(50.0).map_or(0, |q| q.value_ns);
        service.resolution(Nanos(median))
    })
}

/// The series over time of a step whose measured phase took `duration`.
pub fn series(recording: &Recording, duration: Nanos) -> Vec<Interval> {
    recording.series(duration).map(|entry| interval(&entry)).collect()
}

/// One entry of it.
pub fn interval(entry: &SeriesEntry<'_>) -> Interval {
    Interval {
        at_ns: entry.end.0,
        completed: entry.completed,
        errors: entry.errors,
        p50_ns: entry.quantile(50.0).map(|q| q.0),
        p99_ns: entry.quantile(99.0).map(|q| q.0),
        max_ns: (entry.max > Nanos::ZERO).then_some(entry.max.0),
        ..Interval::default()
    }
}

/// A distribution's summary. `effect` gives the design effect at a share (0 to 1): constantly 1 for
/// samples that are independent, or of which nothing else is known.
///
/// An end of an interval that the samples cannot give is told as the smallest or the largest of
/// them.
pub fn summarise(
    distribution: &Distribution,
    percentiles: &[f64],
    effect: &dyn Fn(f64) -> f64,
) -> Summary {
    let mut summary = Summary {
        count: distribution.count(),
        min_ns: distribution.min_ns(),
        mean_ns: distribution.mean_ns(),
        stdev_ns: distribution.stdev_ns(),
        max_ns: distribution.max_ns(),
        censored: distribution.censored(),
        hdr: distribution.encode(),
        ..Summary::default()
    };
    let extra = percentiles.iter().filter(|p| !PERCENTILES.contains(p));
    if summary.censored > 0 {
        summary.lower_bounds = vec!["mean".to_owned(), "max".to_owned()];
    }
    for &percent in PERCENTILES.iter().chain(extra) {
        let Some(quantile) = distribution.quantile(percent) else { continue };
        let name = quantile_name(percent);
        let share = percent / 100.0;
        let ends = ranks(distribution.count(), share, effect(share));
        // The ranks bracket the quantile's own, up to the rounding of a design effect.
        let low = distribution.at_rank_low(ends.low.max(1)).min(quantile.value_ns);
        let high = distribution.at_rank(ends.high).max(quantile.value_ns);
        summary.intervals_ns.insert(name.clone(), (low, high));
        if quantile.lower_bound {
            summary.lower_bounds.push(name.clone());
        }
        let value = quantile.value_ns;
        match name.as_str() {
            "p50" => summary.p50_ns = Some(value),
            "p75" => summary.p75_ns = Some(value),
            "p90" => summary.p90_ns = Some(value),
            "p95" => summary.p95_ns = Some(value),
            "p99" => summary.p99_ns = Some(value),
            "p99_9" => summary.p99_9_ns = Some(value),
            "p99_99" => summary.p99_99_ns = Some(value),
            _ => {
                summary.extra_ns.insert(name, value);
            }
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::SeedableRng as _;

    use super::*;
    use crate::fixtures::uniform;
    use crate::histogram::{Extent, Recording, RecordingSpec, Sample};
    use tare_units::Instant;

    fn recording(open_loop: bool) -> Recording {
        Recording::new(RecordingSpec {
            extent: Extent::Time(Nanos::from_secs(1)),
            interval: Nanos::from_millis(250),
            open_loop,
        })
    }

    #[test]
    fn a_step_is_summarised() {
        let mut r = recording(true);
        for i in 0..2_000u64 {
            r.count_answer(Instant(i * 500_000));
            let (lateness, residence) = (Some(Nanos(100)), Some(Nanos(2_000)));
            let sample = Sample { service: Nanos(10_000 + i), lateness, residence };
            r.record(Instant(i * 500_000), sample);
        }
        let l = latencies(&r, &[99.5, 99.0, 99.9], None);
        let service = &l.service;
        assert_eq!((service.count, service.mean_ns), (2_000, Some(10_999.5)));
        assert_eq!((service.min_ns, service.max_ns), (Some(10_000), Some(11_999)));
        let p50 = service.p50_ns.unwrap();
        assert!((10_990..=11_010).contains(&p50), "{p50}");
        let p995 = service.extra_ns["p99_5"];
        assert!((11_985..=11_999).contains(&p995), "{p995}");
        assert!(service.p99_9_ns.is_none(), "two samples lie beyond");
        assert_eq!(service.extra_ns.len(), 1);
        // The lengths climb through the run, so each block lies wholly on one side of the median:
        // it is known no better than from 32 samples.
        let (low, high) = service.intervals_ns["p50"];
        assert!(low < 10_700 && high > 11_300, "{low} {high}");
        assert_eq!(l.response.unwrap().min_ns, Some(10_100));
        assert_eq!(l.lateness.unwrap().max_ns, Some(100));
        assert_eq!(l.path.unwrap().max_ns, Some(9_999));
        assert_eq!(l.server_residence.unwrap().count, 2_000);
        assert!(l.connect.is_none());
        let intervals = series(&r, Nanos::from_secs(1));
        assert_eq!(intervals.iter().map(|i| i.completed).collect::<Vec<_>>(), [500; 4]);
        assert_eq!(intervals[3].max_ns, Some(12_099));
        assert!(intervals[0].p50_ns < intervals[1].p50_ns && intervals[0].p99_ns.is_none());
    }

    #[test]
    fn correlation_shows_through_coarse_bins() {
        // A spinning ping-pong: all of it within 2 %, so in some four coarse bins, and
        // autocorrelated.
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let (mut correlated, mut independent) = (recording(false), recording(false));
        let mut last = 0.0;
        for i in 0..32_000u64 {
            let toss = uniform(&mut random) - 0.5;
            last = 0.9 * last + (1.0f64 - 0.81).sqrt() * toss;
            for (recording, x) in [(&mut correlated, last), (&mut independent, toss)] {
                let service = Nanos((9_000.0 * (1.0 + 0.01 * x)) as u64);
                let sample = Sample { service, ..Sample::default() };
                recording.record(Instant(i * 31_250), sample);
            }
        }
        let effect = |recording: &Recording| {
            let edges = recording.block_counts(Metric::Service, 0.5);
            assert_eq!(edges.len(), 32);
            design_effect(&edges)
        };
        // In theory (1 + 0.9) / (1 - 0.9) = 19 for the mean, and somewhat less for the median.
        let (some, none) = (effect(&correlated), effect(&independent));
        assert!((7.0..30.0).contains(&some), "{some}");
        assert!(none < 2.0, "{none}");
    }

    #[test]
    fn the_minimum_is_of_what_was_known_in_full() {
        let mut d = Distribution::new();
        d.record_censored(Nanos(5));
        let summary = summarise(&d, &[], &|_| 1.0);
        assert_eq!((summary.min_ns, summary.max_ns), (None, Some(5)));
        d.record(Nanos(1_000));
        let mut other = Distribution::new();
        other.record_censored(Nanos(7));
        d.merge(&other);
        let summary = summarise(&d, &[], &|_| 1.0);
        assert_eq!((summary.min_ns, summary.max_ns), (Some(1_000), Some(1_000)));
        assert_eq!((d.at_rank(1), d.at_rank_low(1), d.at_rank(2)), (5, 5, 7));
    }

    #[test]
    fn lower_bounds_are_named_and_nothing_recorded_is_a_summary_of_nothing() {
        let mut d = Distribution::new();
        (1..=1_000).for_each(|i| d.record(Nanos(i * 100)));
        (0..30).for_each(|_| d.record_censored(Nanos(200_000)));
        let summary = summarise(&d, &[98.0], &|_| 1.0);
        assert_eq!(summary.lower_bounds, ["mean", "max", "p99", "p98"]);
        assert_eq!((summary.censored, summary.count), (30, 1_030));
        let l = latencies(&recording(false), &[], None);
        assert!(l.response.is_none() && l.path.is_none());
        assert_eq!((l.service.count, l.service.min_ns, l.service.mean_ns), (0, None, None));
        assert!(Distribution::decode(&l.service.hdr).is_ok());
    }
}
