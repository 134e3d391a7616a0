//! The figures that a comparison is about.

use crate::histogram::Distribution;
use crate::number::{real, whole};
use crate::pool::headline;
use crate::result::{StepResult, quantile_name};
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

/// The figures of what is measured (`lat`, `bw` or `http`): `quantiles` (per cent) of latencies and
/// the last figure are declared, but for the server's share of round trips: it tells a slower path
/// from a slower server.
pub fn of(measured: &str, quantiles: &[f64]) -> Vec<Metric> {
    let metric =
        |name: &str, unit, declared, of| Metric { name: name.to_owned(), unit, declared, of };
    let quantile = |q: f64, declared| metric(&quantile_name(q), "ns", declared, Of::Quantile(q));
    let declared = quantiles.iter().map(|q| quantile(*q, true));
    let others = UNDECLARED.iter().filter(|q| !quantiles.contains(q));
    let latencies = declared.chain(others.map(|q| quantile(*q, false)));
    let last = match measured {
        "lat" => metric("residence_p50", "ns", false, Of::Residence),
        "bw" => return vec![metric("bandwidth", "bit/s", true, Of::Bandwidth)],
        _ => metric("goodput", "1/s", true, Of::Goodput),
    };
    latencies.chain([last]).collect()
}

impl Metric {
    /// Whether its values depend on when the client looks for replies.
    pub const fn depends_on_polling(&self) -> bool {
        matches!(self.of, Of::Quantile(_))
    }

    /// An amount of it, with its unit.
    pub fn show(&self, amount: f64) -> String {
        match self.of {
            Of::Quantile(_) | Of::Residence => Nanos(whole(amount.round())).to_string(),
            Of::Bandwidth => {
                let units = [("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)];
                let fitting = units.into_iter().find(|(_, unit)| amount >= *unit);
                let (name, unit) = fitting.unwrap_or(("bit/s", 1.0));
                format!("{:.2} {name}", amount / unit)
            }
            Of::Goodput => format!("{amount:.1}/s"),
        }
    }

    fn value(&self, visits: &[&StepResult], latencies: &Distribution) -> Option<f64> {
        let time: f64 = visits.iter().map(|step| real(step.duration_ns)).sum();
        match self.of {
            Of::Quantile(percent) => Some(real(latencies.quantile(percent)?.value_ns)),
            Of::Residence => {
                let own = visits.iter().filter_map(|step| step.latency.server_residence.as_ref());
                let own = Distribution::merged(own.map(|summary| summary.hdr.as_str()));
                Some(real(own.quantile(50.0)?.value_ns))
            }
            Of::Goodput => {
                let completed: u64 = visits.iter().map(|step| step.operations.completed).sum();
                (time > 0.0).then(|| real(completed) * 1e9 / time)
            }
            Of::Bandwidth => {
                let mut bits = 0.0;
                for step in visits {
                    let rate = step.bandwidth.as_ref()?.bits_per_s?;
                    bits += rate * real(step.duration_ns);
                }
                (time > 0.0).then(|| bits / time)
            }
        }
    }
}

/// The value of each of `metrics` over `visits` to one step, pooled; absent where there are too few
/// samples.
pub fn values(metrics: &[Metric], visits: &[&StepResult]) -> Vec<Option<f64>> {
    let own = visits.iter().map(|step| headline(&step.latency).hdr.as_str());
    let latencies = Distribution::merged(own);
    metrics.iter().map(|metric| metric.value(visits, &latencies)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_in_the_unit_that_fits() {
        let bandwidth = &of("bw", &[])[0];
        for (amount, shown) in
            [(1.234e9, "1.23 Gbit/s"), (3_141.0, "3.14 kbit/s"), (17.0, "17.00 bit/s")]
        {
            assert_eq!(bandwidth.show(amount), shown);
        }
        assert_eq!(of("http", &[50.0])[0].show(1_500.4), "1.5 µs");
    }
}
