//! From what the visits measured to the cells that are judged.

use super::Comparing;
use super::overload::{ends, is_overloaded};
use crate::compare::plan::Measurement;
use tare_stats::compare::judge;
use tare_stats::histogram::Distribution;
use tare_stats::pool::headline;
use tare_stats::result::{AA, Cell, CellBlock, StepResult, Summary, VisitStep, quantile_name};
use tare_units::Nanos;

/// Quantiles whose differences are told without a verdict, per cent.
const UNDECLARED: [f64; 2] = [90.0, 99.9];
/// So many cells with too few samples are named.
const THIN_SHOWN: usize = 3;

/// One figure of a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// A verdict is given over it.
    pub(super) declared: bool,
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    /// Of the headline latency, per cent.
    Quantile(f64),
    Bandwidth,
    Goodput,
    /// Median of the far end's own share.
    Residence,
}

impl Measure {
    fn quantile(percent: f64, declared: bool) -> Self {
        Self { name: quantile_name(percent), unit: "ns", declared, of: Of::Quantile(percent) }
    }

    /// An amount of it, with its unit.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "differences are positive, and a cast saturates"
    )]
    pub(super) fn show(&self, amount: f64) -> String {
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

    /// Its value over the visits of a block, pooled; absent where there are too few samples.
    #[expect(clippy::cast_precision_loss, reason = "values need no more than 53 bits")]
    fn value(&self, visits: &[&StepResult], pooled: &Distribution) -> Option<f64> {
        let residence = |step: &StepResult| step.latency.server_residence.clone();
        let time: f64 = visits.iter().map(|step| step.duration_ns as f64).sum();
        match self.of {
            Of::Quantile(percent) => Some(pooled.quantile(percent)?.value_ns as f64),
            Of::Residence => {
                let own = merged(visits.iter().filter_map(|step| residence(step)));
                Some(own.quantile(50.0)?.value_ns as f64)
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

/// The figures that a comparison is about.
#[derive(Debug)]
pub(super) struct Declared(Vec<Measure>);

impl Declared {
    /// Those of `measurement`, `quantiles` (per cent) declared: of round trips and requests. Of requests the goodput too;
    /// of bulk transfers the bandwidth. Of round trips the far end's share besides, which tells a slower path from a slower
    /// server.
    pub(super) fn of(measurement: &Measurement, quantiles: &[f64]) -> Self {
        let flow =
            |name: &str, unit, of| Measure { name: name.to_owned(), unit, declared: true, of };
        let latencies = || {
            let declared = quantiles.iter().map(|q| Measure::quantile(*q, true));
            let others = UNDECLARED.iter().filter(|q| !quantiles.contains(q));
            declared.chain(others.map(|q| Measure::quantile(*q, false)))
        };
        Self(match measurement {
            Measurement::Lat(_) => latencies()
                .chain([Measure {
                    name: "residence_p50".to_owned(),
                    unit: "ns",
                    declared: false,
                    of: Of::Residence,
                }])
                .collect(),
            Measurement::Bw(_) => vec![flow("bandwidth", "bit/s", Of::Bandwidth)],
            Measurement::Http(_) => {
                latencies().chain([flow("goodput", "1/s", Of::Goodput)]).collect()
            }
        })
    }

    /// Those over which a verdict is given.
    pub(super) fn declared(&self) -> impl Iterator<Item = &Measure> {
        self.0.iter().filter(|measure| measure.declared)
    }

    /// Whether the values of `measure` depend on when the client looks for replies.
    pub(super) fn is_by_looks(&self, measure: &str) -> bool {
        let of = self.0.iter().find(|own| own.name == measure);
        of.is_some_and(|own| matches!(own.of, Of::Quantile(_)))
    }

    /// Each with its value over the visits of one step.
    pub(super) fn values(&self, visits: &[&StepResult]) -> Vec<(String, Option<f64>)> {
        let pooled = pooled(visits);
        let value = |m: &Measure| (m.name.clone(), m.value(visits, &pooled));
        self.0.iter().map(value).collect()
    }
}

/// The headline latencies of several visits.
fn pooled(visits: &[&StepResult]) -> Distribution {
    merged(visits.iter().map(|step| headline(&step.latency).clone()))
}

fn merged(summaries: impl Iterator<Item = Summary>) -> Distribution {
    let mut merged = Distribution::uncensored();
    for summary in summaries.filter(|summary| summary.count > 0) {
        // What this process encoded can be read.
        if let Ok(own) = Distribution::decode(&summary.hdr) {
            merged.merge(&own);
        }
    }
    merged
}

/// Where a difference is to be told to.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "latencies are positive, and a cast saturates"
)]
const fn nanos(value: f64) -> Nanos {
    Nanos(value as u64)
}

/// What a block came to: of each arm that was measured in both passes its values, step by step, in the order of the
/// measures.
#[derive(Debug)]
pub(super) struct BlockValues {
    number: u64,
    arms: Vec<Option<Vec<StepValues>>>,
}

#[derive(Debug)]
struct StepValues {
    values: Vec<Option<f64>>,
    overloaded: bool,
}

impl BlockValues {
    /// Of the block `number`, in which `visits` were made to each arm.
    pub(super) fn of(
        number: u64,
        visits: Vec<Option<Vec<Vec<StepResult>>>>,
        declared: &Declared,
    ) -> Self {
        let of_arm = |visits: Vec<Vec<StepResult>>| -> Vec<StepValues> {
            let steps = visits.first().map_or(0, Vec::len);
            let of_step = |step: usize| {
                let both: Vec<&StepResult> = visits.iter().filter_map(|v| v.get(step)).collect();
                let values = declared.values(&both);
                StepValues {
                    values: values.into_iter().map(|(_, value)| value).collect(),
                    overloaded: both.iter().any(|step| is_overloaded(step)),
                }
            };
            (0..steps).map(of_step).collect()
        };
        Self { number, arms: visits.into_iter().map(|arm| arm.map(of_arm)).collect() }
    }

    fn value(&self, arm: usize, step: usize, measure: usize) -> Option<f64> {
        self.arms[arm].as_ref()?.get(step)?.values[measure]
    }

    pub(super) fn is_overloaded(&self, arm: usize, step: usize) -> Option<bool> {
        Some(self.arms[arm].as_ref()?.get(step)?.overloaded)
    }
}

/// A visit's steps as the result has them.
pub(super) fn visit_steps(steps: &[StepResult]) -> Vec<VisitStep> {
    let of_step = |(index, step): (usize, &StepResult)| {
        let headline = headline(&step.latency);
        let instruments = std::iter::once(&step.instrument.client).chain(&step.instrument.server);
        let responses = ends(step);
        VisitStep {
            step: index as u64,
            duration_ns: step.duration_ns,
            completed: step.operations.completed,
            errors: step.operations.failed + step.operations.timed_out,
            achieved_per_s: step.rate.achieved_per_s,
            bits_per_s: step.bandwidth.as_ref().and_then(|b| b.bits_per_s),
            p50_ns: headline.p50_ns,
            p90_ns: headline.p90_ns,
            p99_ns: headline.p99_ns,
            p99_9_ns: headline.p99_9_ns,
            max_ns: headline.max_ns,
            residence_p50_ns: step.latency.server_residence.as_ref().and_then(|r| r.p50_ns),
            response_first_ns: responses.map(|(first, _)| first),
            response_last_ns: responses.map(|(_, last)| last),
            hdr: (headline.count > 0).then(|| headline.hdr.clone()),
            overloaded: is_overloaded(step),
            disturbed: instruments.into_iter().any(|end| end.disturbed || end.saturated),
        }
    };
    steps.iter().enumerate().map(of_step).collect()
}

impl Comparing<'_> {
    /// The cells, judged.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (arm, running) in self.arms.iter().enumerate().skip(1) {
            for step in 0..running.steps {
                let overloaded = self.is_cell_overloaded(arm, step);
                for (index, measure) in self.declared.0.iter().enumerate() {
                    let blocks = self.cell_blocks(arm, step, index);
                    let instrument_error = self.instrument_error(arm, step, measure, &blocks);
                    cells.push(Cell {
                        instrument_error,
                        arm: running.name.clone(),
                        step: step as u64,
                        measure: measure.name.clone(),
                        unit: measure.unit.to_owned(),
                        declared: measure.declared && running.name != AA,
                        overloaded,
                        detectable: self.detectable(step, &measure.name),
                        blocks,
                        ..Cell::default()
                    });
                }
            }
        }
        judge(&mut cells);
        cells
    }

    /// How far the instrument alone can shift a difference. A spinning client looks for replies once a turn, so a reply lies
    /// unseen for a share of a turn that depends on when it comes: another path may bring it right before a look each time,
    /// or right after. Half a turn either way is what its mean cannot be told from. And each value is that of its bin.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a turn")]
    fn instrument_error(
        &self,
        arm: usize,
        step: usize,
        measure: &Measure,
        blocks: &[CellBlock],
    ) -> Option<f64> {
        if !matches!(measure.of, Of::Quantile(_) | Of::Residence) {
            return None;
        }
        let bins = Distribution::uncensored();
        let width = |value: f64| bins.resolution(nanos(value)).0 as f64;
        let widths = blocks.iter().map(|b| width(b.baseline).max(width(b.value)));
        let width = widths.fold(0.0, f64::max);
        let looks = |arm: usize| {
            let visits = self.arms[arm].measured.get(step)?;
            let turns = visits.iter().map(|(_, step)| &step.instrument.client);
            let mut turns: Vec<u64> = turns
                .filter(|client| client.wait != "block")
                .map(|client| client.turn_p50_ns)
                .collect();
            turns.sort_unstable();
            turns.get(turns.len() / 2).copied()
        };
        let turn = match measure.of {
            Of::Quantile(_) => looks(0).max(looks(arm)).unwrap_or(0) as f64,
            _ => 0.0,
        };
        Some(turn / 2.0 + width)
    }

    /// Declared quantiles for which some whole blocks have too few samples, in words.
    pub(super) fn thin(&self, cells: &[Cell]) -> Option<String> {
        let whole = self.whole_blocks();
        let thin =
            |cell: &&Cell| cell.declared && cell.unit == "ns" && (cell.blocks.len() as u64) < whole;
        let told: Vec<String> = cells
            .iter()
            .filter(thin)
            .map(|cell| {
                let (blocks, measure) = (cell.blocks.len(), cell.measure.replace('_', "."));
                format!("{measure} of {} in {blocks} of {whole}", cell.arm)
            })
            .collect();
        if told.is_empty() {
            return None;
        }
        let more = match told.len().saturating_sub(THIN_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} others"),
        };
        let shown = told[..told.len().min(THIN_SHOWN)].join(", ");
        Some(format!("{shown}{more}"))
    }

    fn cell_blocks(&self, arm: usize, step: usize, measure: usize) -> Vec<CellBlock> {
        let of_block = |block: &BlockValues| {
            Some(CellBlock {
                block: block.number,
                baseline: block.value(0, step, measure)?,
                value: block.value(arm, step, measure)?,
            })
        };
        self.values.iter().filter_map(of_block).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_in_the_unit_that_fits() {
        let bandwidth = Measure {
            name: "bandwidth".to_owned(),
            unit: "bit/s",
            declared: true,
            of: Of::Bandwidth,
        };
        for (amount, shown) in
            [(1.234e9, "1.23 Gbit/s"), (3_141.0, "3.14 kbit/s"), (17.0, "17.00 bit/s")]
        {
            assert_eq!(bandwidth.show(amount), shown);
        }
        assert_eq!(Measure::quantile(50.0, true).show(1_500.4), "1.5 µs");
    }
}
