//! A comparison: the same measurement over several paths, in blocks. Each visit is a run of its
//! own, on fresh connections; what the ends can do is found out before, and forced on all.

mod arms;
mod negotiate;
mod notes;
mod order;
pub mod plan;
mod visit;

use std::collections::BTreeMap;

use crate::compare::plan::ComparePlan;
use crate::run::Finished;
use crate::run::observe::Observer;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_host::hooks::Hooks;
use tare_host::journal::Journal;
use tare_stats::compare::table::{self, Table, Visited};
use tare_stats::result::{Block, Visit};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::limits::{ARMS_MAX, COMPARE_BLOCKS_MAX, COMPARE_BLOCKS_MIN, VISIT_STEPS_MAX};
use tare_units::{Instant, Nanos};

use arms::RunningArm;
use notes::ReportNotes;
use order::Orders;
use visit::VisitEnd;

/// An arm that could not be measured so many times in a row is given up: both passes of two blocks.
/// The last visit of a pass may be the first of the next one, and whoever restarts is back a moment
/// later.
const FAILURES_MAX: u32 = 4;
/// What is measured so far is handed on that often at most: it is made again from all blocks each
/// time.
const REPORT_EVERY: Nanos = Nanos::from_secs(2);

/// Compares paths by blocks.
///
/// # Errors
/// As [`Measurement::measure`](crate::measurement::Measurement::measure); also where an arm cannot
/// be measured at all, which is tried before the first block.
pub fn run(
    plan: &ComparePlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    check(plan)?;
    let mut comparing = Comparing::start(plan, interrupt, observer)?;
    let prepared = comparing.negotiate().and_then(|()| comparing.pilot());
    let error = match prepared {
        Ok(()) => comparing.blocks(),
        // What was begun was ended by the interrupt, and not by the arm; what it left behind is
        // left all the same.
        Err(_) if interrupt.is_raised() => comparing.unclean.take(),
        Err(error) => return Err(comparing.unclean.take().unwrap_or(error)),
    };
    Ok(comparing.finish(error))
}

fn check(plan: &ComparePlan) -> Result<()> {
    if !(COMPARE_BLOCKS_MIN..=COMPARE_BLOCKS_MAX).contains(&plan.blocks) {
        let why = match plan.blocks < COMPARE_BLOCKS_MIN {
            true => "fewer blocks give no interval of 95 %",
            false => "more of them are no result that can be kept",
        };
        return Err(Error::usage(format!("--blocks {}: {why}", plan.blocks))
            .remedy(format!("write --blocks {COMPARE_BLOCKS_MIN} to {COMPARE_BLOCKS_MAX}")));
    }
    if !(2..=ARMS_MAX).contains(&plan.arms.len()) {
        let message = format!("2 to {ARMS_MAX} arms can be compared, not {}", plan.arms.len());
        return Err(Error::usage(message).remedy("name them: tare compare a=HOST b=HOST -- lat"));
    }
    for (index, arm) in plan.arms.iter().enumerate() {
        if plan.arms[..index].iter().any(|other| other.name == arm.name) {
            let message = format!("two arms are called {}", arm.name);
            return Err(Error::usage(message).remedy("give each a name of its own: NAME=TARGET"));
        }
    }
    Ok(())
}

/// Checks that all of it can be kept: a result that holds every block is bounded by its blocks.
fn check_amount(visits: usize, steps: usize) -> Result<()> {
    if visits.saturating_mul(steps) <= VISIT_STEPS_MAX {
        return Ok(());
    }
    let most = VISIT_STEPS_MAX;
    Err(Error::usage(format!("{visits} visits of {steps} steps each are more than {most} in all"))
        .remedy("ask for fewer --blocks, arms or steps"))
}

/// The seed of what is left to chance within the visits of a block: another one in each block, so
/// that blocks are independent, and the same for all its arms.
const fn seed_of_block(seed: u64, number: u64) -> u64 {
    // Weyl's sequence by the golden ratio, as SplitMix64 has it; below 2^53, as every seed.
    seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 11
}

struct Comparing<'a> {
    plan: &'a ComparePlan,
    interrupt: &'a Interrupt,
    observer: &'a mut dyn Observer,
    hooks: Hooks,
    /// The baseline first, the A/A arm last.
    arms: Vec<RunningArm>,
    table: Table,
    notes: ReportNotes,
    began: Instant,
    /// When what is measured so far was last handed on.
    reported: Instant,
    /// Steps begun, of all that there will be, for the progress.
    steps_done: usize,
    steps_total: usize,
    /// What an arm's commands changed and could not undo: whatever is measured next would be
    /// measured with it. Its advice holds the after-command, and so it gets into no report.
    unclean: Option<Error>,
    /// What the pilot found: by step and metric, a value per visit.
    pilot: BTreeMap<(usize, String), Vec<f64>>,
    /// By step: the client's median turn that found nothing, nanoseconds, where it spins.
    pilot_turns: Vec<f64>,
    /// The difference that so many blocks find in four runs of five, in standard deviations of a
    /// visit.
    detectable_spreads: Option<f64>,
}

impl<'a> Comparing<'a> {
    fn start(
        plan: &'a ComparePlan,
        interrupt: &'a Interrupt,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let mut notes = ReportNotes::new(plan)?;
        notes.name_leftovers(observer);
        let named = notes.warnings().len();
        let (arms, steps) = arms::set_up(plan, &mut notes)?;
        let visits = plan.blocks as usize * 2 * arms.len() + negotiate::PILOT_VISITS;
        check_amount(visits, steps)?;
        for warning in &notes.warnings()[named..] {
            observer.warning(warning);
        }
        Ok(Self {
            plan,
            interrupt,
            observer,
            hooks: Hooks::new(Journal::of_machine(), interrupt),
            table: Table::new(
                arms[0].plan.measurement.metrics(&plan.quantiles),
                arms.iter().map(|arm| arm.plan.name.clone()).collect(),
                steps,
            ),
            arms,
            notes,
            began: MonotonicClock.now(),
            reported: MonotonicClock.now(),
            steps_done: 0,
            steps_total: visits * steps,
            unclean: None,
            pilot: BTreeMap::new(),
            pilot_turns: vec![0.0; steps],
            detectable_spreads: None,
        })
    }

    /// The blocks, one after the other. Returns what ended them early, or why an arm was given up.
    fn blocks(&mut self) -> Option<Error> {
        let mut orders = Orders::new(self.plan.seed, self.arms.len());
        let mut number = 0;
        while self.needs_block(number) {
            number += 1;
            if let Err(error) = self.block(number, orders.next_block()) {
                return Some(error);
            }
            let now = MonotonicClock.now();
            if self.observer.wants_reports() && now.since(self.reported) >= REPORT_EVERY {
                let report = self.report(true);
                self.observer.step_finished(&report);
                self.reported = MonotonicClock.now();
            }
        }
        let failed = |arm: &RunningArm| Some(arm.blame(arm.failed.as_ref()?));
        let given_up = self.arms.iter().find_map(failed);
        given_up.or_else(|| self.missing_blocks())
    }

    /// Blocks are missing although no arm was given up and nobody ended the run.
    fn missing_blocks(&self) -> Option<Error> {
        let (whole, asked) = (self.table.whole_blocks(), u64::from(self.plan.blocks));
        if self.interrupt.is_raised() || whole >= asked {
            return None;
        }
        let message = format!("in {whole} of {asked} blocks every arm could be measured");
        Some(Error::peer(message).remedy("see `comparison.blocks` for what failed, and when"))
    }

    /// Whether a block follows the first `number` ones. Blocks in which a visit failed are made up
    /// for, as long as every arm can be measured and they are not too many.
    fn needs_block(&self, number: u64) -> bool {
        let asked = u64::from(self.plan.blocks);
        if self.interrupt.is_raised() || self.arms[0].failed.is_some() {
            return false;
        }
        let compared = &self.arms[1..self.arms.len() - 1];
        if compared.iter().all(|arm| arm.failed.is_some()) {
            return false;
        }
        let all_there = self.arms.iter().all(|arm| arm.failed.is_none());
        let missing = asked > self.table.whole_blocks() && number < asked + asked / 2;
        number < asked || (all_there && missing)
    }

    /// One block. It fails where going on would measure something else than was asked for: what a
    /// hook changed could not be undone.
    fn block(&mut self, number: u64, order: Vec<usize>) -> Result<()> {
        let passes = order.iter().chain(order.iter().rev());
        let mut block = Block { number, ..Block::default() };
        let mut measured: Vec<Vec<Visited>> = vec![Vec::new(); self.arms.len()];
        for &arm in passes {
            if self.interrupt.is_raised() || self.arms[0].failed.is_some() {
                break;
            }
            if self.arms[arm].failed.is_some() {
                continue;
            }
            let began_at = jiff::Timestamp::now().to_string();
            let at = MonotonicClock.now().since(self.began);
            let mut measurement = self.arms[arm].plan.measurement.clone();
            let interval = measurement.interval();
            let common = measurement.common_mut();
            common.seed = seed_of_block(self.plan.seed, number);
            common.interval = interval.unwrap_or(common.interval);
            let visited = self.visit(arm, &measurement);
            block.visits.push(Visit {
                arm: self.arms[arm].plan.name.clone(),
                began_at,
                steps: table::visit_steps(&visited.steps),
                error: visited.error.as_ref().map(ToString::to_string),
            });
            self.table.keep(arm, at.0, &visited.steps);
            measured[arm].extend(self.take(arm, visited));
            if self.unclean.is_some() {
                break;
            }
        }
        self.table.add_block(block, &measured);
        self.unclean.clone().map_or(Ok(()), Err)
    }

    /// Counts a visit, or its failure. Returns the steps of one that was measured in full.
    fn take(&mut self, index: usize, VisitEnd { steps, error }: VisitEnd) -> Option<Visited> {
        let arm = &mut self.arms[index];
        if let Some(what) = negotiate::differs(&self.notes.comparison, &steps) {
            self.notes.differed(&arm.plan.name, &what);
        }
        match error {
            None => {
                arm.failures = 0;
                arm.visits += 1;
                return Some(steps);
            }
            Some(_) if self.interrupt.is_raised() => {}
            Some(error) => {
                arm.failures += 1;
                let blamed = arm.blame(&error);
                self.notes.failed(&arm.plan.name, &blamed);
                if arm.failures >= FAILURES_MAX {
                    arm.failed = Some(error);
                }
            }
        }
        None
    }

    fn finish(self, error: Option<Error>) -> Finished {
        let interrupted = self.interrupt.is_raised();
        let report = self.report(interrupted || error.is_some());
        for warning in &report.warnings {
            if !self.notes.warnings().contains(warning) {
                self.observer.warning(warning);
            }
        }
        Finished { report, error, interrupted }
    }
}
