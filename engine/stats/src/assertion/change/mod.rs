//! What a script demands of what has changed between two saved results: `tuned.p99.change<0`, `tuned.p50.cost<=5us`.

use super::asked::refused;
use super::comparison::{Measure, is_arm_name, no_value};
use super::measure::Measured;
use super::{Operator, Selector, Wrong, selection, selects, split, step_name};
use crate::later::{Change, Later, Of};
use crate::result::{AA, AssertionResult, Verdict};
use tare_units::error::Result;

/// One demand on a change, parsed.
///
/// # Grammar
///
/// `[SELECTOR[,SELECTOR…]:]ARM.MEASURE.change OP VALUE` and `[SELECTOR[,SELECTOR…]:]ARM.MEASURE.cost OP VALUE`, with
/// selectors and operators as in the [module](super), and arms, measures and values as in a
/// [`ComparisonAssertion`](super::ComparisonAssertion) on a difference.
///
/// * `change`: how far the arm's own value has moved.
/// * `cost`: how far its difference to the baseline has.
///
/// Plain results have no arms: `MEASURE.change`. `delta` and `ratio` are refused, for they are of one comparison, to its
/// baseline.
///
/// # Truth
///
/// It holds or fails only if it does for the whole interval. Plain results have no intervals, so they decide nothing, nor does
/// a latency that was measured under overload.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeAssertion {
    expr: String,
    selectors: Vec<Selector>,
    /// None of plain results.
    arm: Option<String>,
    measure: Measure,
    of: Of,
    operator: Operator,
    value: f64,
}

const FORM: &str = "write NAME.p99.change<5us, NAME.p50.cost<=0 or NAME.bandwidth.change>-100M; of plain results p99.change<5us";

impl ChangeAssertion {
    /// Parses an expression.
    ///
    /// # Errors
    /// A usage error that says which part is wrong and what is allowed there; for one that would suit a comparison
    /// (`kata.p99.delta<30us`) it says what to write instead.
    pub fn parse(expr: &str) -> Result<Self> {
        Self::parse_parts(expr)
            .map_err(|(what, allowed)| refused(expr.trim(), &what).remedy(allowed))
    }

    fn parse_parts(expr: &str) -> std::result::Result<Self, Wrong> {
        let (selectors, name, operator, value) = split(expr)?;
        let (arm, measure, of) = parse_name(name)?;
        let allowed = match measure {
            Measure::Percentile(_) => {
                "give a time with its unit (ns, us, ms, s, m), for example NAME.p99.change<30us or NAME.p99.cost<-5us"
            }
            Measure::Bandwidth => "give bits per second, for example NAME.bandwidth.change>-1Gbit",
            Measure::Goodput => {
                "give responses over time, for example NAME.goodput.change>-100 or NAME.goodput.change>-6k/m"
            }
        };
        Ok(Self {
            expr: expr.trim().to_owned(),
            selectors,
            arm: arm.map(str::to_owned),
            measure,
            of,
            operator,
            value: measure
                .difference(value)
                .ok_or_else(|| (no_value(value), allowed.to_owned()))?,
        })
    }

    /// Holds it against every change that it is about, one result each. Where plain results do not tell the measure (of too
    /// few samples, or not at all) the result is one that is undecided.
    ///
    /// # Errors
    /// A usage error where it can never apply: no change is of such an arm, step or measure; it names those there are.
    pub fn evaluate(&self, later: &Later) -> Result<Vec<AssertionResult>> {
        let mut about = self.of_arm(later)?;
        self.check_selectors(&about)?;
        about.retain(|change| selects(&self.selectors, &change.params));
        let there = unique(about.iter().map(|change| shown(&change.measure)));
        let measure = self.measure.name();
        about.retain(|change| change.measure == measure);
        if about.is_empty() {
            if later.has_blocks {
                let there: Vec<String> =
                    there.into_iter().filter(|measure| Measure::parse(measure).is_some()).collect();
                let what = format!("the two do not both have {}", shown(&measure));
                return Err(
                    refused(&self.expr, &what).remedy(format!("both have {}", there.join(", ")))
                );
            }
            return Ok(vec![AssertionResult {
                expr: self.expr.clone(),
                step: selection(&self.selectors),
                actual: None,
                interval: None,
                holds: None,
            }]);
        }
        let steps = later.changes.iter().map(|change| &change.params);
        let held = about
            .into_iter()
            .map(|change| self.hold(change, step_name(&change.params, steps.clone())));
        Ok(held.collect())
    }

    /// The changes of its arm, of the kind that it asks for.
    fn of_arm<'a>(&self, later: &'a Later) -> Result<Vec<&'a Change>> {
        let refuse = |what: String, advice: String| refused(&self.expr, &what).remedy(advice);
        let measure = shown(&self.measure.name());
        let mut changes: Vec<&Change> = later.changes.iter().collect();
        changes.retain(|change| change.arm == self.arm);
        if changes.is_empty() {
            let arms = unique(later.changes.iter().filter_map(|change| change.arm.clone()));
            let arms = arms.join(", ");
            return Err(match &self.arm {
                Some(_) if !later.has_blocks => refuse(
                    "plain results have no arms".to_owned(),
                    format!("write {measure}.change<…"),
                ),
                Some(arm) => refuse(
                    format!("no change is told of an arm '{arm}'"),
                    format!("there are changes of {arms}"),
                ),
                None => refuse(
                    "it does not say of which arm".to_owned(),
                    format!("name an arm, NAME.{measure}.change<…, of {arms}"),
                ),
            });
        }
        changes.retain(|change| change.of == self.of);
        if let (true, Some(arm)) = (changes.is_empty(), &self.arm) {
            let what = match &later.baseline {
                Some(_) => format!("'{arm}' is the baseline, which costs are relative to"),
                None => "the two have not the same baseline, so no cost can be told".to_owned(),
            };
            return Err(refuse(what, format!("write {arm}.{measure}.change<…")));
        }
        Ok(changes)
    }

    fn check_selectors(&self, changes: &[&Change]) -> Result<()> {
        let none_has = |selectors: &[Selector]| {
            let mut steps = changes.iter();
            !steps.any(|change| selects(selectors, &change.params))
        };
        let refuse = |what: &str, advice: String| {
            let what = format!("no step of both has {what}");
            Err(refused(&self.expr, &what).remedy(advice))
        };
        for selector in &self.selectors {
            if !none_has(&[*selector]) {
                continue;
            }
            let alike = changes.iter().filter_map(|c| selector.like(&c.params));
            let there = unique(alike.map(|selector| selector.name()));
            let name = selector.name();
            return refuse(
                &name,
                if there.is_empty() {
                    format!("leave `{name}` out")
                } else {
                    format!("both have {}", there.join(", "))
                },
            );
        }
        if none_has(&self.selectors) {
            return refuse(&selection(&self.selectors), "leave one of them out".to_owned());
        }
        Ok(())
    }

    fn hold(&self, change: &Change, step: String) -> AssertionResult {
        let actual = change.delta.map(|delta| delta.median);
        let interval = change.delta.and_then(|delta| delta.interval);
        let is_queue = change.verdict == Some(Verdict::Overload);
        let measured = actual.zip(interval).filter(|_| !is_queue);
        let measured = measured.map(|(actual, (low, high))| Measured { actual, low, high });
        AssertionResult {
            expr: self.expr.clone(),
            step,
            actual,
            interval,
            holds: measured.and_then(|measured| self.operator.holds(measured, self.value)),
        }
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

/// The arm, the measure, and what of it.
fn parse_name(name: &str) -> std::result::Result<(Option<&str>, Measure, Of), Wrong> {
    let named = name.rsplit_once('.').and_then(|(rest, last)| {
        let of = match last {
            "change" => Of::Value,
            "cost" => Of::Cost,
            _ => return None,
        };
        Some((rest, of))
    });
    let Some((rest, of)) = named else {
        if let Some((rest, last @ ("delta" | "ratio"))) = name.rsplit_once('.') {
            let what = format!("a {last} is to the baseline, within one comparison");
            let arm = Measure::parse(rest).map_or("", |_| "NAME.");
            let advice = format!(
                "write {rest}.change<… for how far it has moved, or {arm}{rest}.cost<… for how far its difference to the \
                 baseline has"
            );
            return Err((what, advice));
        }
        return Err((
            format!("'{name}' does not say what of it: a change or a cost"),
            FORM.to_owned(),
        ));
    };
    if let Some(measure) = Measure::parse(rest) {
        return match of {
            Of::Value => Ok((None, measure, of)),
            Of::Cost => Err((
                format!("'{name}' does not say of which arm"),
                format!("name an arm: NAME.{name}<…"),
            )),
        };
    }
    let (arm, measure) = rest.split_once('.').unwrap_or((rest, ""));
    if arm != AA && !is_arm_name(arm) {
        return Err((format!("'{arm}' is no arm's name"), FORM.to_owned()));
    }
    let measure = Measure::parse(measure)
        .ok_or_else(|| (format!("'{measure}' is not compared"), FORM.to_owned()))?;
    Ok((Some(arm), measure, of))
}

#[cfg(test)]
mod tests;
