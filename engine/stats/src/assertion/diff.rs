//! Demands on the difference of two saved results, and what its changes say to them.

use super::language::{Assertion, Figure, Selector, refused, selection, selects, step_name};
use super::metric::Metric;
use crate::diff::{Change, Diff, Of};
use crate::result::{AssertionResult, Verdict};
use tare_units::error::Result;

impl Assertion {
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
        let there = unique(about.iter().map(|change| shown(&change.measure)));
        let measure = self.metric.measure();
        about.retain(|change| change.measure == measure);
        if about.is_empty() && diff.has_blocks {
            let there = there.into_iter().filter(|name| Metric::parse_compared(name).is_some());
            let what = format!("the two do not both have {}", shown(&measure));
            let advice = format!("both have {}", there.collect::<Vec<_>>().join(", "));
            return Err(refused(&self.expr, &what, advice));
        }
        if about.is_empty() {
            return Ok(vec![self.result(None, None, None, None)]);
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
        let refuse = |what: &str, advice: String| Err(refused(&self.expr, what, advice));
        let measure = shown(&self.metric.measure());
        let of = if self.figure == Figure::Cost { Of::Cost } else { Of::Value };
        let mut changes: Vec<&Change> = diff.changes.iter().collect();
        changes.retain(|change| change.arm == self.arm);
        if changes.is_empty() {
            let arms = unique(diff.changes.iter().filter_map(|change| change.arm.clone()));
            let arms = arms.join(", ");
            return match &self.arm {
                Some(_) if !diff.has_blocks => {
                    refuse("plain results have no arms", format!("write {measure}.change<…"))
                }
                Some(arm) => refuse(
                    &format!("no change is told of an arm '{arm}'"),
                    format!("there are changes of {arms}"),
                ),
                None => refuse(
                    "it does not say of which arm",
                    format!("name an arm, NAME.{measure}.change<…, of {arms}"),
                ),
            };
        }
        changes.retain(|change| change.of == of);
        if let (true, Some(arm)) = (changes.is_empty(), &self.arm) {
            let what = match &diff.baseline {
                Some(_) => &*format!("'{arm}' is the baseline, which costs are relative to"),
                None => "the two have not the same baseline, so no cost can be told",
            };
            return refuse(what, format!("write {arm}.{measure}.change<…"));
        }
        Ok(changes)
    }

    fn check_steps(&self, changes: &[&Change]) -> Result<()> {
        let none_has = |selectors: &[Selector]| {
            !changes.iter().any(|change| selects(selectors, &change.params))
        };
        let missing = self.selectors.iter().find(|selector| none_has(&[**selector]));
        let (what, advice) = if let Some(selector) = missing {
            let alike = changes.iter().filter_map(|change| selector.like(&change.params));
            let there = unique(alike.map(|selector| selector.name()));
            let advice = match there.as_slice() {
                [] => format!("leave `{}` out", selector.name()),
                there => format!("both have {}", there.join(", ")),
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

/// A measure as it is typed: `p99.9`.
fn shown(measure: &str) -> String {
    measure.replace('_', ".")
}

/// Each once, in the order of their first appearance.
fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut unique = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}
