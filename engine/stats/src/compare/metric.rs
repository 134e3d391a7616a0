//! The figures that a comparison is about.

use crate::histogram::Distribution;
use crate::pool::headline;
use crate::result::{StepResult, Summary, quantile_name};
use tare_units::Nanos;

/// Quantiles whose differences are told without a verdict, per cent.
const UNDECLARED: [f64; 2] = [90.0, 99.9];

/// One figure of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name in results.
    pub name: String,
    /// Its unit in results.
    pub unit: &'static str,
    /// A verdict is given over it.
    pub declared: bool,
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    /// Of the headline latency, per cent.
    Quantile(f64),
    Bandwidth,
    Goodput,
    /// Median of the server's own share.
    Residence,
}

/// The figures of round trips: `quantiles` (per cent) are declared. The server's share besides
/// tells a slower path from a slower server.
#[must_use]
pub fn of_round_trips(quantiles: &[f64]) -> Vec<Metric> {
    let mut metrics = latencies(quantiles);
    metrics.push(Metric::new("residence_p50", "ns", false, Of::Residence));
    metrics
}

/// The figures of bulk transfers: the bandwidth.
#[must_use]
pub fn of_bulk() -> Vec<Metric> {
    vec![Metric::new("bandwidth", "bit/s", true, Of::Bandwidth)]
}

/// The figures of requests: `quantiles` (per cent) and the goodput are declared.
#[must_use]
pub fn of_requests(quantiles: &[f64]) -> Vec<Metric> {
    let mut metrics = latencies(quantiles);
    metrics.push(Metric::new("goodput", "1/s", true, Of::Goodput));
    metrics
}

fn latencies(quantiles: &[f64]) -> Vec<Metric> {
    let of = |q: f64, declared| Metric::new(&quantile_name(q), "ns", declared, Of::Quantile(q));
    let declared = quantiles.iter().map(|q| of(*q, true));
    let others = UNDECLARED.iter().filter(|q| !quantiles.contains(q));
    declared.chain(others.map(|q| of(*q, false))).collect()
}

impl Metric {
    fn new(name: &str, unit: &'static str, declared: bool, of: Of) -> Self {
        Self { name: name.to_owned(), unit, declared, of }
    }

    /// Whether it is a time that the client's clock gave.
    pub(super) const fn is_time(&self) -> bool {
        matches!(self.of, Of::Quantile(_) | Of::Residence)
    }

    /// Whether its values depend on when the client looks for replies.
    #[must_use]
    pub const fn depends_on_polling(&self) -> bool {
        matches!(self.of, Of::Quantile(_))
    }

    /// An amount of it, with its unit.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "differences are positive, and a cast saturates"
    )]
    #[must_use]
    pub fn show(&self, amount: f64) -> String {
        match self.of {
            Of::Quantile(_) | Of::Residence => Nanos(amount.round() as u64).to_string(),
            Of::Bandwidth => {
                let units = [("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)];
                let fitting = units.into_iter().find(|(_, unit)| amount >= *unit);
                let (name, unit) = fitting.unwrap_or(("bit/s", 1.0));
                format!("{:.2} {name}", amount / unit)
            }
            Of::Goodput => format!("{amount:.1}/s"),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "values need no more than 53 bits")]
    fn value(&self, visits: &[&StepResult], latencies: &Distribution) -> Option<f64> {
        let time: f64 = visits.iter().map(|step| step.duration_ns as f64).sum();
        match self.of {
            Of::Quantile(percent) => Some(latencies.quantile(percent)?.value_ns as f64),
            Of::Residence => {
                let own = visits.iter().filter_map(|step| step.latency.server_residence.as_ref());
                Some(merged(own).quantile(50.0)?.value_ns as f64)
            }
            Of::Goodput => {
                let completed: u64 = visits.iter().map(|step| step.operations.completed).sum();
                (time > 0.0).then(|| completed as f64 * 1e9 / time)
            }
            Of::Bandwidth => {
                let mut bits = 0.0;
                for step in visits {
                    let rate = step.bandwidth.as_ref()?.bits_per_s?;
                    bits += rate * step.duration_ns as f64;
                }
                (time > 0.0).then(|| bits / time)
            }
        }
    }
}

/// The value of each of `metrics` over `visits` to one step, pooled; absent where there are too few
/// samples.
#[must_use]
pub fn values(metrics: &[Metric], visits: &[&StepResult]) -> Vec<Option<f64>> {
    let latencies = merged(visits.iter().map(|step| headline(&step.latency)));
    metrics.iter().map(|metric| metric.value(visits, &latencies)).collect()
}

fn merged<'a>(summaries: impl Iterator<Item = &'a Summary>) -> Distribution {
    let mut merged = Distribution::uncensored();
    for summary in summaries.filter(|summary| summary.count > 0) {
        // What this process encoded can be read.
        if let Ok(own) = Distribution::decode(&summary.hdr) {
            merged.merge(&own);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_in_the_unit_that_fits() {
        let bandwidth = &of_bulk()[0];
        for (amount, shown) in
            [(1.234e9, "1.23 Gbit/s"), (3_141.0, "3.14 kbit/s"), (17.0, "17.00 bit/s")]
        {
            assert_eq!(bandwidth.show(amount), shown);
        }
        assert_eq!(of_requests(&[50.0])[0].show(1_500.4), "1.5 µs");
    }
}
