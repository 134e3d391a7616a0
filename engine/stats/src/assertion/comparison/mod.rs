//! What a script demands of a comparison: `kata.p99.delta<30us`, `runc.bandwidth.ratio>0.95`.

use super::asked::{Asked, Kind, check_selectors, refused};
use super::measure::Measured;
use super::{Operator, Selector, Statistic, Wrong, selection, selects, split, step_name, value};
use crate::result::{
    AA, AssertionResult, Cell, Comparison, Estimate, Report, StepResult, quantile_name,
};
use tare_units::error::Result;

/// One demand on a comparison, parsed.
///
/// # Grammar
///
/// `[SELECTOR[,SELECTOR…]:]ARM.MEASURE.delta OP VALUE` and `[SELECTOR[,SELECTOR…]:]ARM.MEASURE.ratio OP VALUE`, with
/// selectors and operators as in the [module](super).
///
/// * `ARM`: the name of one of the arms that are compared with the baseline, or `a/a`.
/// * `MEASURE`: `p50`, `p99.9` (any quantile), `bandwidth`, and of HTTP loads `goodput`.
/// * `delta`: what the arm has more than the baseline, or less: of a latency a time with its unit (`30us`, `-5us`), of the
///   bandwidth a bit rate (`-1Gbit`), of the goodput a rate (`-100` or `-6k/m`).
/// * `ratio`: what it has over what the baseline has, `0.95` or `95%`.
///
/// # Truth
///
/// It holds or fails only if it does for the whole interval of the median over blocks; in between the blocks do not decide,
/// nor do they without an interval. A latency that was measured under overload is the queue's, whatever it is, and decides
/// nothing about the path: demand the goodput besides.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonAssertion {
    expr: String,
    selectors: Vec<Selector>,
    arm: String,
    measure: Measure,
    figure: Figure,
    operator: Operator,
    value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Measure {
    /// Per cent.
    Percentile(f64),
    Bandwidth,
    Goodput,
}

/// What of the arm and the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Delta,
    Ratio,
}

const MEASURES: &str = "comparisons are of p50, p99.9 …, bandwidth and goodput, for example NAME.p99.delta<30us or \
    NAME.bandwidth.ratio>0.95";

impl ComparisonAssertion {
    /// Parses an expression.
    ///
    /// # Errors
    /// A usage error that says which part is wrong, what is allowed there, and shows an example; for one that would suit
    /// a plain run (`p99<2ms`) it says how to name an arm.
    pub fn parse(expr: &str) -> Result<Self> {
        Self::parse_parts(expr)
            .map_err(|(what, allowed)| refused(expr.trim(), &what).remedy(allowed))
    }

    fn parse_parts(expr: &str) -> std::result::Result<Self, Wrong> {
        let (selectors, name, operator, value) = split(expr)?;
        let (arm, measure, figure) = parse_name(name)?;
        Ok(Self {
            expr: expr.trim().to_owned(),
            selectors,
            arm: arm.to_owned(),
            measure,
            figure,
            operator,
            value: parse_value(measure, figure, value)?,
        })
    }

    /// The expression as typed.
    #[must_use]
    pub fn expr(&self) -> &str {
        &self.expr
    }

    /// The arm that it is about.
    #[must_use]
    pub fn arm(&self) -> &str {
        &self.arm
    }

    /// The measure that it is about, as cells have it (`p99_9`, `bandwidth`, `goodput`): there must be cells of it, and since
    /// something is decided by them, they are declared.
    #[must_use]
    pub fn measure(&self) -> String {
        self.measure.name()
    }

    /// The quantile that this is about, per cent: every visit must tell it, even if it is not among the usual ones.
    #[must_use]
    pub const fn percentile(&self) -> Option<f64> {
        match self.measure {
            Measure::Percentile(percent) => Some(percent),
            Measure::Bandwidth | Measure::Goodput => None,
        }
    }

    /// Checks that the comparison has the arm, steps that this selects, and what it is about. `arms` are those that are
    /// compared with `baseline`, without it; that of the A/A arm need not be among them.
    ///
    /// # Errors
    /// A usage error that says which part can never apply.
    pub fn check(&self, asked: &Asked, baseline: &str, arms: &[&str]) -> Result<()> {
        let Self { expr, arm, .. } = self;
        if arm != AA && !arms.contains(&arm.as_str()) {
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
            return Err(refused(expr, &what).remedy(advice));
        }
        check_selectors(expr, &self.selectors, asked)?;
        let (is_there, instead) = match (self.measure, asked.kind) {
            (Measure::Percentile(_), kind) => (kind != Kind::Bw, "write bandwidth"),
            (Measure::Bandwidth, kind) => (kind == Kind::Bw, "compare by bw"),
            (Measure::Goodput, Kind::Bw) => (false, "write bandwidth"),
            (Measure::Goodput, kind) => (kind == Kind::Http, "write p50 or p99"),
        };
        if !is_there {
            let kind = asked.kind.command().trim_start_matches("tare ");
            let what = format!("a comparison by {kind} has no {}", self.measure.title());
            return Err(refused(expr, &what).remedy(instead));
        }
        Ok(())
    }

    /// Holds each assertion against each step that it selects, one result each. One that selects no step gives one result
    /// that is undecided, as does a step that the arm did not come to.
    #[must_use]
    pub fn evaluate(assertions: &[Self], report: &Report) -> Vec<AssertionResult> {
        let steps = report.comparison.as_deref().map(|c| steps(c, report));
        let (numbers, steps): (Vec<u64>, Vec<&StepResult>) = steps.into_iter().flatten().unzip();
        let mut results = Vec::new();
        for assertion in assertions {
            let before = results.len();
            for (number, step) in numbers.iter().zip(&steps) {
                if selects(&assertion.selectors, &step.params) {
                    let name = step_name(&step.params, steps.iter().map(|step| &step.params));
                    results.push(assertion.result(name, assertion.cell(report, *number)));
                }
            }
            if results.len() == before {
                results.push(assertion.result(selection(&assertion.selectors), None));
            }
        }
        results
    }

    fn cell<'a>(&self, report: &'a Report, step: u64) -> Option<&'a Cell> {
        let measure = self.measure.name();
        let cells = &report.comparison.as_ref()?.cells;
        cells
            .iter()
            .find(|cell| cell.arm == self.arm && cell.step == step && cell.measure == measure)
    }

    fn result(&self, step: String, cell: Option<&Cell>) -> AssertionResult {
        let estimate = cell.and_then(|cell| match self.figure {
            Figure::Delta => cell.delta,
            Figure::Ratio => cell.ratio,
        });
        let is_queue = cell.is_some_and(|cell| cell.overloaded) && self.percentile().is_some();
        AssertionResult {
            expr: self.expr.clone(),
            step,
            actual: estimate.map(|estimate| estimate.median),
            interval: estimate.and_then(|estimate| estimate.interval),
            holds: estimate.filter(|_| !is_queue).and_then(|estimate| self.decide(estimate)),
        }
    }

    fn decide(&self, estimate: Estimate) -> Option<bool> {
        let (low, high) = estimate.interval?;
        let measured = Measured { actual: estimate.median, low, high };
        self.operator.holds(measured, self.value)
    }
}

/// The steps of the sweep, each with its number, as the first arm that came to it has it: their parameters are the same in
/// all arms.
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

/// The arm, the measure, and what of it.
fn parse_name(name: &str) -> std::result::Result<(&str, Measure, Figure), Wrong> {
    let is_missing = |arm_or_figure: &str, instead: String| {
        let what = format!("'{name}' does not say {arm_or_figure}");
        Err((what, instead))
    };
    let figure = |name: &'_ str| match name {
        "delta" => Some(Figure::Delta),
        "ratio" => Some(Figure::Ratio),
        _ => None,
    };
    let named = name.rsplit_once('.').and_then(|(rest, last)| Some((rest, figure(last)?)));
    let Some((rest, figure)) = named else {
        if let Some((rest, last @ ("change" | "cost"))) = name.rsplit_once('.') {
            let what = format!("a {last} is between two saved results, with --baseline-file");
            return Err((what, format!("write {rest}.delta<… or {rest}.ratio<… of one")));
        }
        if Measure::parse(name).is_some() {
            let example = format!("name an arm: NAME.{name}.delta<… or NAME.{name}.ratio<…");
            return is_missing("of which arm", example);
        }
        if let Some((_, measure)) = name.split_once('.')
            && Measure::parse(measure).is_some()
        {
            let example = format!("write {name}.delta<… or {name}.ratio<…");
            return is_missing("what of it is compared with the baseline", example);
        }
        return Err((format!("'{name}' is not compared"), MEASURES.to_owned()));
    };
    if Measure::parse(rest).is_some() {
        return is_missing("of which arm", format!("name an arm: NAME.{name}<…"));
    }
    let (arm, measure) = rest.split_once('.').unwrap_or((rest, ""));
    if arm != AA && !is_arm_name(arm) {
        let allowed = "names are of letters, digits, - and _, for example kata.p99.delta<30us";
        return Err((format!("'{arm}' is no arm's name"), allowed.to_owned()));
    }
    let measure = Measure::parse(measure)
        .ok_or_else(|| (format!("'{measure}' is not compared"), MEASURES.to_owned()))?;
    Ok((arm, measure, figure))
}

/// What names of arms must be like, so that no assertion can be read in two ways.
pub(super) fn is_arm_name(name: &str) -> bool {
    let others = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(others)
}

/// Nanoseconds, bits per second, operations per second, or a ratio. Differences have a sign.
fn parse_value(measure: Measure, figure: Figure, text: &str) -> std::result::Result<f64, Wrong> {
    let value = match figure {
        Figure::Ratio => in_unit(text, value::share),
        Figure::Delta => measure.difference(text),
    };
    let allowed = match (figure, measure) {
        (Figure::Ratio, _) => {
            "give a ratio to the baseline, for example NAME.bandwidth.ratio>0.95 or NAME.p99.ratio<110%"
        }
        (Figure::Delta, Measure::Percentile(_)) => {
            "give a time with its unit (ns, us, ms, s, m), for example NAME.p99.delta<30us or NAME.p99.delta<-5us"
        }
        (Figure::Delta, Measure::Bandwidth) => {
            "give bits per second, for example NAME.bandwidth.delta>-1Gbit"
        }
        (Figure::Delta, Measure::Goodput) => {
            "give responses over time, for example NAME.goodput.delta>-100 or NAME.goodput.delta>-6k/m"
        }
    };
    value.ok_or_else(|| (no_value(text), allowed.to_owned()))
}

/// What is wrong with such a value.
pub(super) fn no_value(text: &str) -> String {
    if text.is_empty() {
        "no value in it".to_owned()
    } else {
        format!("'{text}' is no value for it")
    }
}

/// A number without a sign, and its unit.
fn in_unit(text: &str, parse: fn(f64, &str) -> Option<value::Value>) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some(parse(value::decimal(number)?, unit.trim())?.number())
}

impl Measure {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "bandwidth" => Some(Self::Bandwidth),
            "goodput" => Some(Self::Goodput),
            _ => match Statistic::parse(name)? {
                Statistic::Percentile(percent) => Some(Self::Percentile(percent)),
                _ => None,
            },
        }
    }

    /// A difference of two such values, with a sign where it falls: nanoseconds, bits or responses per second.
    pub(super) fn difference(self, text: &str) -> Option<f64> {
        let (sign, magnitude) = match text.strip_prefix('-') {
            Some(magnitude) => (-1.0, magnitude.trim()),
            None => (1.0, text),
        };
        let magnitude = match self {
            Self::Percentile(_) => in_unit(magnitude, value::duration),
            Self::Bandwidth => in_unit(magnitude, value::bits),
            Self::Goodput => value::per_second(magnitude),
        };
        magnitude.map(|magnitude| sign * magnitude)
    }

    /// As cells have it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Percentile(percent) => quantile_name(percent),
            Self::Bandwidth => "bandwidth".to_owned(),
            Self::Goodput => "goodput".to_owned(),
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Percentile(_) => "latencies",
            Self::Bandwidth => "bandwidth",
            Self::Goodput => "goodput",
        }
    }
}

#[cfg(test)]
mod tests;
