//! Demands on a comparison: whether it can answer them, and what its cells say to them.

use super::language::{Assertion, Figure, over_steps, refused};
use super::metric::Metric;
use super::run::{Asked, Kind, check_selectors};
use crate::result::{AA, AssertionResult, Cell, Comparison, Estimate, Report, StepResult};
use tare_units::error::Result;

impl Assertion {
    /// Checks that the comparison has the arm, steps that this selects, and what it is about.
    /// `arms` are those that are compared with `baseline`, without it; that of the A/A arm need not
    /// be among them.
    ///
    /// # Errors
    /// A usage error that says which part can never apply.
    pub fn check_comparison(&self, asked: &Asked, baseline: &str, arms: &[&str]) -> Result<()> {
        let expr = &self.expr;
        let arm = self.arm.as_deref().unwrap_or_default();
        if arm != AA && !arms.contains(&arm) {
            let what = if arm == baseline {
                format!("'{arm}' is the baseline, which the others are compared with")
            } else {
                format!("no arm is called '{arm}'")
            };
            let others: Vec<&str> = arms.iter().copied().filter(|arm| *arm != AA).collect();
            let advice = if others.is_empty() {
                format!("only {AA} is compared with {baseline}")
            } else {
                format!("compared are {} and {AA}", others.join(", "))
            };
            return Err(refused(expr, &what, advice));
        }
        check_selectors(expr, &self.selectors, asked)?;
        let (what, is_there, instead) = match (self.metric, asked.kind) {
            (Metric::Latency(..), kind) => ("latencies", kind != Kind::Bw, "write bandwidth"),
            (Metric::Goodput, Kind::Bw) => ("goodput", false, "write bandwidth"),
            (Metric::Goodput, kind) => ("goodput", kind == Kind::Http, "write p50 or p99"),
            (_, kind) => ("bandwidth", kind == Kind::Bw, "compare by bw"),
        };
        if !is_there {
            let kind = asked.kind.command().trim_start_matches("tare ");
            return Err(refused(expr, &format!("a comparison by {kind} has no {what}"), instead));
        }
        Ok(())
    }

    fn cell<'a>(&self, comparison: &'a Comparison, step: u64) -> Option<&'a Cell> {
        let (arm, measure) = (self.arm.as_deref()?, self.metric.measure());
        let mut cells = comparison.cells.iter();
        cells.find(|cell| cell.arm == arm && cell.step == step && cell.measure == measure)
    }

    /// What an estimate over blocks says to it. A latency under overload is the queue's, and
    /// without an interval nothing is decided.
    pub(super) fn hold_estimate(
        &self,
        step: String,
        estimate: Option<Estimate>,
        overloaded: bool,
    ) -> AssertionResult {
        let interval = estimate.and_then(|estimate| estimate.interval);
        let decides = interval.filter(|_| !(overloaded && self.percentile().is_some()));
        let holds = decides.and_then(|ends| self.operator.holds(ends, self.value.number()));
        self.result(Some(step), estimate.map(|estimate| estimate.median), interval, holds)
    }
}

/// Holds each assertion against each step that it selects, one result each. One that selects no
/// step gives one result that is undecided, as does a step that the arm did not come to.
#[must_use]
pub fn evaluate_comparison(assertions: &[Assertion], report: &Report) -> Vec<AssertionResult> {
    let comparison = report.comparison.as_deref();
    let steps = comparison.map(|comparison| steps(comparison, report)).unwrap_or_default();
    over_steps(assertions, &steps, |assertion, (number, _), name| {
        let cell = comparison.and_then(|comparison| assertion.cell(comparison, number));
        let estimate = cell.and_then(|cell| match assertion.figure {
            Figure::Ratio => cell.ratio,
            _ => cell.delta,
        });
        assertion.hold_estimate(name, estimate, cell.is_some_and(|cell| cell.overloaded))
    })
}

/// The steps of the sweep, each with its number, as the first arm that came to it has it: their
/// parameters are the same in all arms.
fn steps<'a>(comparison: &Comparison, report: &'a Report) -> Vec<(u64, &'a StepResult)> {
    let of_arm = |arm: &str, number: u64| {
        let own = |step: &&StepResult| step.arm.as_deref() == Some(arm);
        let number = usize::try_from(number).ok()?;
        report.results.iter().filter(own).nth(number)
    };
    (0..comparison.steps)
        .filter_map(|number| {
            let mut arms = comparison.arms.iter();
            Some((number, arms.find_map(|arm| of_arm(&arm.name, number))?))
        })
        .collect()
}
