//! What was measured of a comparison, from the visits to the cells that are judged.

use super::judge;
use super::metric::{self, Metric};
use super::overload::{self, ends, is_overloaded};
use crate::histogram::Distribution;
use crate::number::{real, whole};
use crate::pool::{headline, pool};
use crate::result::{AA, Block, Cell, CellBlock, Params, StepResult, VisitStep, Warning};
use tare_units::Nanos;

/// So many cells with too few samples, or steps of an arm, are named in a warning.
const SHOWN: usize = 3;

/// The steps of a visit to an arm.
pub type Visited = Vec<StepResult>;

/// What was measured of a comparison so far.
#[derive(Debug)]
pub struct Table {
    /// The figures that it is about.
    pub metrics: Vec<Metric>,
    /// The baseline first, the A/A arm last.
    arms: Vec<Arm>,
    /// Its blocks so far.
    pub blocks: Vec<Block>,
    /// Per block and arm: what both passes over the arm came to, step by step; absent where not
    /// both were measured.
    values: Vec<Vec<Option<Vec<StepValues>>>>,
}

#[derive(Debug)]
struct Arm {
    name: String,
    /// By step: all its measurements, with when each began, nanoseconds after the comparison did.
    steps: Vec<Vec<(u64, StepResult)>>,
}

/// What both passes of a block came to in one step of an arm.
#[derive(Debug)]
struct StepValues {
    /// In the order of the metrics.
    values: Vec<Option<f64>>,
    overloaded: bool,
}

impl Table {
    /// An empty one: the baseline is the first of `arms`, the A/A arm the last, and each has so
    /// many steps.
    pub fn new(metrics: Vec<Metric>, arms: Vec<String>, steps: usize) -> Self {
        let arm = |name| Arm { name, steps: vec![Vec::new(); steps] };
        let arms = arms.into_iter().map(arm).collect();
        Self { metrics, arms, blocks: Vec::new(), values: Vec::new() }
    }

    /// Blocks in which every arm was measured in both passes.
    pub fn whole_blocks(&self) -> u64 {
        self.blocks.iter().filter(|block| block.whole).count() as u64
    }

    /// Keeps the steps of a visit that began so long after the comparison; those of one that failed
    /// half-way too.
    pub fn keep(&mut self, arm: usize, at_ns: u64, steps: &[StepResult]) {
        let mut began = at_ns;
        for (kept, step) in self.arms[arm].steps.iter_mut().zip(steps) {
            let mut own = step.clone();
            // The series of the whole comparison has an entry per visit, and there may be many.
            own.intervals = Vec::new();
            began += step.warmup.duration_ns;
            kept.push((began, own));
            began += step.duration_ns;
        }
    }

    /// Adds a block, in which each arm was visited as in `visits`.
    pub fn add_block(&mut self, mut block: Block, visits: &[Vec<Visited>]) {
        let steps = self.steps();
        let of_step = |visits: &[Visited], step: usize| {
            let both: Vec<&StepResult> = visits.iter().map(|visit| &visit[step]).collect();
            StepValues {
                values: metric::values(&self.metrics, &both),
                overloaded: both.iter().any(|step| is_overloaded(step)),
            }
        };
        let of_arm = |visits: &Vec<Visited>| {
            let whole = visits.len() == 2 && visits.iter().all(|visit| visit.len() == steps);
            whole.then(|| (0..steps).map(|step| of_step(visits, step)).collect())
        };
        let values: Vec<_> = visits.iter().map(of_arm).collect();
        block.whole = values.iter().all(Option::is_some);
        self.values.push(values);
        self.blocks.push(block);
    }

    /// How many steps each visit has.
    pub fn steps(&self) -> usize {
        self.arms[0].steps.len()
    }

    /// All visits to an arm pooled, arm by arm and step by step.
    pub fn results(&self) -> Vec<StepResult> {
        let of_step = |arm: &Arm, measured: &[(u64, StepResult)]| {
            let steps: Vec<_> = measured.iter().map(|(at, step)| (*at, step)).collect();
            Some(StepResult { arm: Some(arm.name.clone()), ..pool(&steps)? })
        };
        let arms = self.arms.iter();
        arms.flat_map(|arm| arm.steps.iter().filter_map(move |step| of_step(arm, step))).collect()
    }

    /// The distinct servers that answered for an arm.
    pub fn instances(&self, arm: usize) -> Vec<String> {
        let steps = self.arms[arm].steps.iter().flatten();
        let mut instances: Vec<String> =
            steps.flat_map(|(_, step)| step.instances.iter().cloned()).collect();
        instances.sort_unstable();
        instances.dedup();
        instances
    }

    /// The cells, judged. `detectable` says which difference in a metric of a step the blocks will
    /// find.
    pub fn cells(&self, detectable: impl Fn(usize, &Metric) -> Option<f64>) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (arm, running) in self.arms.iter().enumerate().skip(1) {
            for step in 0..self.steps() {
                let overloaded = self.is_cell_overloaded(arm, step);
                for (index, metric) in self.metrics.iter().enumerate() {
                    let blocks = self.cell_blocks(arm, step, index);
                    cells.push(Cell {
                        instrument_error: self.instrument_error(arm, step, metric, &blocks),
                        arm: running.name.clone(),
                        step: step as u64,
                        measure: metric.name.clone(),
                        unit: metric.unit.to_owned(),
                        declared: metric.declared && running.name != AA,
                        overloaded,
                        detectable: detectable(step, metric),
                        blocks,
                        ..Cell::default()
                    });
                }
            }
        }
        judge(&mut cells);
        cells
    }

    fn values_of(&self, block: usize, arm: usize, step: usize) -> Option<&StepValues> {
        self.values[block][arm].as_ref()?.get(step)
    }

    fn cell_blocks(&self, arm: usize, step: usize, metric: usize) -> Vec<CellBlock> {
        let of_block = |(index, block): (usize, &Block)| {
            Some(CellBlock {
                block: block.number,
                baseline: self.values_of(index, 0, step)?.values[metric]?,
                value: self.values_of(index, arm, step)?.values[metric]?,
            })
        };
        self.blocks.iter().enumerate().filter_map(of_block).collect()
    }

    /// How far the instrument alone can shift a difference. A spinning client looks for replies
    /// once a turn, so a reply lies unseen for a share of a turn that depends on when it comes:
    /// another path may bring it right before a look each time, or right after. Half a turn either
    /// way is what its mean cannot be told from. And each value is that of its bin.
    fn instrument_error(
        &self,
        arm: usize,
        step: usize,
        metric: &Metric,
        blocks: &[CellBlock],
    ) -> Option<f64> {
        if metric.unit != "ns" {
            return None;
        }
        let bins = Distribution::uncensored();
        let width = |value: f64| real(bins.resolution(Nanos(whole(value))).0);
        let widths = blocks.iter().map(|b| width(b.baseline).max(width(b.value)));
        let turn = match metric.depends_on_polling() {
            true => real(self.turn(0, step).max(self.turn(arm, step)).unwrap_or(0)),
            false => 0.0,
        };
        Some(turn / 2.0 + widths.fold(0.0, f64::max))
    }

    /// The middle one of the turns of a spinning client over an arm's visits, nanoseconds.
    fn turn(&self, arm: usize, step: usize) -> Option<u64> {
        let clients = self.arms[arm].steps[step].iter().map(|(_, step)| &step.instrument.client);
        let spinning = clients.filter(|client| client.wait != "block");
        let mut turns: Vec<u64> = spinning.map(|client| client.turn_p50_ns).collect();
        turns.sort_unstable();
        turns.get(turns.len() / 2).copied()
    }

    /// In most of the blocks one of the two was overloaded; or the queue of one of them grows.
    fn is_cell_overloaded(&self, arm: usize, step: usize) -> bool {
        let of_block = |block: usize| {
            let baseline = self.values_of(block, 0, step)?.overloaded;
            Some(baseline || self.values_of(block, arm, step)?.overloaded)
        };
        let known: Vec<bool> = (0..self.blocks.len()).filter_map(of_block).collect();
        let overloaded = known.iter().filter(|overloaded| **overloaded).count();
        let grows = |arm: usize| self.growth(arm, step).is_some();
        overloaded * 2 > known.len() || grows(0) || grows(arm)
    }

    fn growth(&self, arm: usize, step: usize) -> Option<(u64, u64)> {
        let arm = &self.arms[arm];
        let measured = &arm.steps[step];
        let target = measured.first()?.1.rate.target_per_s?;
        let fastest = measured.iter().filter_map(|(_, step)| step.latency.service.min_ns);
        let of_block = |block: &Block| {
            let visits = block.visits.iter();
            let steps = visits
                .filter(|visit| visit.arm == arm.name && visit.error.is_none())
                .filter_map(|visit| visit.steps.get(step));
            let ends = steps.filter_map(|step| step.response_first_ns.zip(step.response_last_ns));
            // The visits of a block are one draw, with the same random arrivals: the one in which
            // it grew least.
            ends.min_by_key(|&(first, last)| i128::from(last) - i128::from(first))
        };
        let ends: Vec<(u64, u64)> = self.blocks.iter().filter_map(of_block).collect();
        overload::growth(target, fastest.min().unwrap_or(0), &ends)
    }

    /// Of arms whose queue grows, and of blocks with too few samples.
    pub fn warnings(&self, cells: &[Cell]) -> Vec<Warning> {
        let arms = 0..self.arms.len();
        arms.filter_map(|arm| self.growing(arm)).chain(self.thin(cells)).collect()
    }

    fn growing(&self, index: usize) -> Option<Warning> {
        let arm = &self.arms[index];
        let show = |step: usize| {
            let (first, last) = self.growth(index, step)?;
            let measured = arm.steps[step].first().filter(|_| self.steps() > 1);
            let at = measured.map(|(_, step)| format!("{}: ", step_name(&step.params)));
            let (first, last) = (Nanos(first), Nanos(last));
            Some(format!("{}from {first} to {last}", at.unwrap_or_default()))
        };
        let shown = first_ones((0..self.steps()).filter_map(show), ", and in # other steps")?;
        let has_goodput = self.metrics.iter().any(|metric| metric.name == "goodput");
        let message = format!(
            "{}: its queue grows while it is measured; between the first and the last third of a visit the median response goes \
             {shown}",
            arm.name
        );
        let advice = if has_goodput {
            "its latencies are those of a queue: ask for a lower rate, or compare the goodput"
        } else {
            "its latencies are those of a queue: ask for a lower --rate"
        };
        Some(Warning::new("queue-grows", message, advice))
    }

    /// Of declared quantiles for which some whole blocks have too few samples.
    fn thin(&self, cells: &[Cell]) -> Option<Warning> {
        let whole = self.whole_blocks();
        let is_thin =
            |cell: &&Cell| cell.declared && cell.unit == "ns" && (cell.blocks.len() as u64) < whole;
        let show = |cell: &Cell| {
            let (blocks, measure) = (cell.blocks.len(), cell.measure.replace('_', "."));
            format!("{measure} of {} in {blocks} of {whole}", cell.arm)
        };
        let shown = first_ones(cells.iter().filter(is_thin).map(show), " and # others")?;
        let message = format!("blocks with samples enough: {shown}; the others have no part in it");
        let advice = "raise --block-duration, so that every block has a thousand samples for a p99";
        Some(Warning::new("few-samples", message, advice))
    }
}

/// The first ones of a list, and how many more there are in the words of `more`; absent of none.
fn first_ones(all: impl Iterator<Item = String>, more: &str) -> Option<String> {
    let all: Vec<String> = all.collect();
    let shown = all.get(..SHOWN).unwrap_or(&all).join(", ");
    match all.len() {
        0 => None,
        count if count > SHOWN => Some(shown + &more.replace('#', &(count - SHOWN).to_string())),
        _ => Some(shown),
    }
}

/// The step in front of a warning about it.
pub fn step_name(params: &Params) -> String {
    let connections = params.connections;
    if let Some(http) = &params.http {
        let stage = http.stage.map(|stage| format!("stage={stage} "));
        return format!("{}connections={connections}", stage.unwrap_or_default());
    }
    let load = params.load().map_or("", |_| " under load");
    format!("size={} connections={connections}{load}", params.size_bytes)
}

/// A visit's steps as the result has them.
pub fn visit_steps(steps: &[StepResult]) -> Vec<VisitStep> {
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
