//! Demands on a comparison and on the difference of two saved results.

use super::language::{
    Assertion, Figure, Selector, over_steps, refused, selection, selects, step_name,
};
use super::metric::Metric;
use super::run::{Asked, Kind, check_selectors};
use crate::diff::{Change, Diff, Of};
use crate::result::{AA, AssertionResult, Comparison, Estimate, Report, StepResult, Verdict};
use tare_units::error::Result;

impl Assertion {
    /// Checks that the comparison has the arm, steps that this selects, and what it is about.
    /// `arms` are those that are compared with `baseline`, without it; that of the A/A arm need not
    /// be among them.
    ///
    /// # Errors
    /// A usage error that says which part can never apply.
    pub fn check_comparison(&self, asked: &Asked, baseline: &str, arms: &[&str]) -> Result<()> {
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
            return Err(refused(&self.expr, &what, advice));
        }
        check_selectors(&self.expr, &self.selectors, asked)?;
        let (what, is_there, instead) = match (self.metric, asked.kind) {
            (Metric::Latency(..), kind) => ("latencies", kind != Kind::Bw, "write bandwidth"),
            (Metric::Goodput, Kind::Bw) => ("goodput", false, "write bandwidth"),
            (Metric::Goodput, kind) => ("goodput", kind == Kind::Http, "write p50 or p99"),
            (_, kind) => ("bandwidth", kind == Kind::Bw, "compare by bw"),
        };
        if !is_there {
            let kind = asked.kind.name();
            let what = format!("a comparison by {kind} has no {what}");
            return Err(refused(&self.expr, &what, instead));
        }
        Ok(())
    }

    /// What an estimate over blocks says to it. A latency under overload is the queue's, and
    /// without an interval nothing is decided.
    fn hold_estimate(
        &self,
        step: String,
        estimate: Option<Estimate>,
        overloaded: bool,
    ) -> AssertionResult {
        let interval = estimate.and_then(|estimate| estimate.interval);
        let decides = interval.filter(|_| !(overloaded && self.percentile().is_some()));
        AssertionResult {
            expr: self.expr.clone(),
            step,
            actual: estimate.map(|estimate| estimate.median),
            interval,
            holds: decides.and_then(|ends| self.holds_within(ends)),
        }
    }

    /// Holds it against every change that it is about, one result each. Where plain results do not
    /// tell the measure (of too few samples, or not at all) the result is one that is undecided.
    ///
    /// # Errors
    /// A usage error where it can never apply: no change is of such an arm, step or measure; it
    /// names those there are.
    pub fn evaluate_diff(&self, diff: &Diff) -> Result<Vec<AssertionResult>> {
        let mut about = self.of_arm(diff)?;
        self.check_steps(&about)?;
        about.retain(|change| selects(&self.selectors, &change.params));
        let mut there = about.clone();
        let measure = self.metric.measure();
        about.retain(|change| change.measure == measure);
        if about.is_empty() && diff.has_blocks {
            there.retain(|change| Metric::parse_compared(&shown(&change.measure)).is_some());
            let there = unique(there.iter().map(|change| shown(&change.measure)));
            let what = format!("the two do not both have {}", shown(&measure));
            return Err(refused(&self.expr, &what, format!("both have {there}")));
        }
        if about.is_empty() {
            return Ok(vec![self.undecided()]);
        }
        let steps = diff.changes.iter().map(|change| &change.params);
        let held = about.into_iter().map(|change| {
            let overloaded = change.verdict == Some(Verdict::Overload);
            self.hold_estimate(step_name(&change.params, steps.clone()), change.delta, overloaded)
        });
        Ok(held.collect())
    }

    /// The changes of its arm, of the kind that it asks for.
    fn of_arm<'a>(&self, diff: &'a Diff) -> Result<Vec<&'a Change>> {
        let measure = shown(&self.metric.measure());
        let of = if self.figure == Figure::Cost { Of::Cost } else { Of::Value };
        let mut changes: Vec<&Change> = diff.changes.iter().collect();
        changes.retain(|change| change.arm == self.arm);
        let is_known = !changes.is_empty();
        changes.retain(|change| change.of == of);
        let arms = || unique(diff.changes.iter().filter_map(|change| change.arm.clone()));
        let (what, advice) = match &self.arm {
            _ if !changes.is_empty() => return Ok(changes),
            None => (
                "it does not say of which arm".to_owned(),
                format!("name an arm, NAME.{measure}.change<…, of {}", arms()),
            ),
            Some(arm) if is_known => {
                let what = match &diff.baseline {
                    Some(_) => format!("'{arm}' is the baseline, which costs are relative to"),
                    None => "the two have not the same baseline, so no cost can be told".to_owned(),
                };
                (what, format!("write {arm}.{measure}.change<…"))
            }
            Some(_) if !diff.has_blocks => {
                ("plain results have no arms".to_owned(), format!("write {measure}.change<…"))
            }
            Some(arm) => (
                format!("no change is told of an arm '{arm}'"),
                format!("there are changes of {}", arms()),
            ),
        };
        Err(refused(&self.expr, &what, advice))
    }

    fn check_steps(&self, changes: &[&Change]) -> Result<()> {
        let none_has = |selectors: &[Selector]| {
            !changes.iter().any(|change| selects(selectors, &change.params))
        };
        let missing = self.selectors.iter().find(|selector| none_has(&[**selector]));
        let (what, advice) = if let Some(selector) = missing {
            let alike = changes.iter().filter_map(|change| selector.like(&change.params));
            let there = unique(alike.map(|selector| selector.name()));
            let advice = match there.as_str() {
                "" => format!("leave `{}` out", selector.name()),
                there => format!("both have {there}"),
            };
            (selector.name(), advice)
        } else if none_has(&self.selectors) {
            (selection(&self.selectors), "leave one of them out".to_owned())
        } else {
            return Ok(());
        };
        Err(refused(&self.expr, &format!("no step of both has {what}"), advice))
    }
}

/// Holds each assertion against each step that it selects, one result each. One that selects no
/// step gives one result that is undecided, as does a step that the arm did not come to.
pub fn evaluate_comparison(assertions: &[Assertion], report: &Report) -> Vec<AssertionResult> {
    let comparison = report.comparison.as_deref();
    let steps = comparison.map(|comparison| steps(comparison, report)).unwrap_or_default();
    over_steps(assertions, &steps, |assertion, (number, _), name| {
        let measure = assertion.metric.measure();
        let mut cells = comparison.iter().flat_map(|comparison| &comparison.cells);
        let cell = cells.find(|cell| {
            Some(&cell.arm) == assertion.arm.as_ref()
                && (cell.step, &cell.measure) == (number, &measure)
        });
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
        report.results.iter().filter(own).nth(usize::try_from(number).ok()?)
    };
    let first = |number| comparison.arms.iter().find_map(|arm| of_arm(&arm.name, number));
    (0..comparison.steps).filter_map(|number| Some((number, first(number)?))).collect()
}

/// A measure as it is typed: `p99.9`.
fn shown(measure: &str) -> String {
    measure.replace('_', ".")
}

/// A list of each once, in the order of their first appearance.
fn unique(names: impl Iterator<Item = String>) -> String {
    let mut unique = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique.join(", ")
}
