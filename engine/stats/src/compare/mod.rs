//! What blocks say of the differences between paths: estimates, intervals and verdicts.
//!
//! * In each block, and for each measure, the arm's value less the baseline's, and over it.
//!   Percentiles come from the block's two visits pooled; they are never averaged.
//! * Over the blocks the median of these, with its exact order-statistic interval
//!   ([`blocks::estimate`]), and the sign test ([`blocks::sign_test`]). Both hold for any
//!   distribution, and a bad block counts no more than any other.
//! * Verdicts over several cells are corrected by Holm's procedure over the declared ones, less the
//!   latencies under overload: those say what the queue was and get [`Verdict::Overload`].
//! * A difference must also be larger than what the path shows against itself: the resolution, the
//!   outermost value that the interval of the A/A cell of the same step and measure allows. The
//!   sign test takes care of chance; this takes care of what is owed to the place in the block, to
//!   a fresh connection's luck with CPUs and queues. Without such an interval there are not enough
//!   blocks for a verdict.
//! * To both ends of a latency's intervals comes what the instrument itself may shift a difference
//!   by, which no number of blocks makes smaller (`instrument_error`).
//!
//! `docs/method/comparing.md` has the reasons, with the power and the coverage that simulations
//! show. [`power`] says before a run what it can find, `blocks::shift` compares two that are days
//! apart.

use std::collections::HashMap;

use crate::result::{AA, Cell, CellBlock, Estimate, Verdict};

pub mod blocks;
pub mod metric;
mod overload;
pub mod power;
pub mod table;

/// Judges the cells of a comparison, all of them at once: what it takes for a verdict depends on
/// how many there are.
///
/// The caller has filled what cells are of (the arm [`AA`] among them), `overloaded`, `detectable`,
/// `instrument_error` and `blocks`; the rest is filled here. What is no finite number is taken out,
/// and a ratio is told only where its median is finite: a baseline may have been zero. Each cell is
/// judged by its own blocks: an arm that was given up half-way has fewer.
pub(crate) fn judge(cells: &mut [Cell]) {
    for cell in &mut *cells {
        describe(cell);
    }
    // Of what blocks show: how far the instrument shifts a path against itself is no matter of
    // chance.
    let resolutions = resolutions(cells);
    cells.iter_mut().for_each(widen);
    for cell in &mut *cells {
        let key = (cell.step, cell.measure.clone());
        cell.resolution = resolutions.get(&key).copied();
    }
    let mut tested: Vec<&mut Cell> =
        cells.iter_mut().filter(|cell| is_judged(cell) && !is_queue(cell)).collect();
    // A cell without blocks is a test all the same: it was declared before anything was measured.
    let p: Vec<f64> = tested.iter().map(|cell| cell.p.unwrap_or(1.0)).collect();
    for (cell, adjusted) in tested.iter_mut().zip(blocks::holm(&p)) {
        cell.p_adjusted = cell.p.map(|_| adjusted);
    }
    let needed = power::blocks_needed(tested.len() as u64);
    for cell in cells {
        cell.blocks_needed = needed;
        cell.verdict = verdict(cell);
    }
}

fn describe(cell: &mut Cell) {
    cell.blocks.retain(|block| block.baseline.is_finite() && block.value.is_finite());
    cell.detectable = cell.detectable.filter(|difference| difference.is_finite());
    cell.instrument_error = cell.instrument_error.filter(|error| error.is_finite());
    let of = |value: fn(&CellBlock) -> f64| -> Vec<f64> { cell.blocks.iter().map(value).collect() };
    let differences = of(|block| block.value - block.baseline);
    cell.baseline = blocks::median(&of(|block| block.baseline));
    cell.value = blocks::median(&of(|block| block.value));
    cell.delta = blocks::estimate(&differences);
    cell.ratio = blocks::estimate(&of(|block| block.value / block.baseline));
    cell.p = blocks::sign_test(&differences);
    cell.p_adjusted = None;
}

/// Takes the instrument's own error into the intervals.
fn widen(cell: &mut Cell) {
    let Some(error) = cell.instrument_error else { return };
    let stand_off = |estimate: &mut Option<Estimate>, error: f64| {
        if let Some((low, high)) = estimate.as_mut().and_then(|e| e.interval.as_mut()) {
            *low -= error;
            *high += error;
        }
    };
    stand_off(&mut cell.delta, error);
    let share = cell.baseline.map(|baseline| error / baseline);
    match share.filter(|share| share.is_finite()) {
        Some(share) => stand_off(&mut cell.ratio, share),
        None => cell.ratio = None,
    }
}

/// What each step and measure shows of the baseline's path against itself.
fn resolutions(cells: &[Cell]) -> HashMap<(u64, String), f64> {
    let of = |cell: &Cell| {
        let (low, high) = cell.delta?.interval?;
        let key = (cell.step, cell.measure.clone());
        Some((key, low.abs().max(high.abs())))
    };
    cells.iter().filter(|cell| cell.arm == AA).filter_map(of).collect()
}

fn is_judged(cell: &Cell) -> bool {
    cell.declared && cell.arm != AA
}

/// A latency under overload, which is the queue's.
fn is_queue(cell: &Cell) -> bool {
    cell.overloaded && cell.unit == "ns"
}

fn verdict(cell: &Cell) -> Option<Verdict> {
    if !is_judged(cell) {
        return None;
    }
    if is_queue(cell) {
        return Some(Verdict::Overload);
    }
    let (Some(delta), Some(p), Some(resolution)) = (cell.delta, cell.p_adjusted, cell.resolution)
    else {
        return Some(Verdict::NotEnoughBlocks);
    };
    if (cell.blocks.len() as u64) < cell.blocks_needed {
        return Some(Verdict::NotEnoughBlocks);
    }
    let leaves_zero_out = delta.interval.is_none_or(|(low, high)| low > 0.0 || high < 0.0);
    let is_shown = p <= power::LEVEL && delta.median.abs() > resolution && leaves_zero_out;
    Some(match is_shown {
        true => direction(delta.median, &cell.unit),
        false => Verdict::NoDifferenceShown,
    })
}

/// Longer is slower; less bandwidth and less goodput are.
pub(crate) fn direction(difference: f64, unit: &str) -> Verdict {
    if (difference > 0.0) == (unit == "ns") { Verdict::Slower } else { Verdict::Faster }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
