//! The one language of all assertions: how they are parsed, and which steps they select.

use std::cmp::Ordering::{self, Equal, Greater, Less};

use super::metric::{Metric, Statistic, Unit, integer};
use crate::result::{AA, AssertionResult, Params, StepResult};
use tare_units::error::{Error, Result};

/// One demand, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    pub(super) expr: String,
    pub(super) selectors: Vec<Selector>,
    /// The arm of a comparison.
    pub(super) arm: Option<String>,
    pub(super) metric: Metric,
    pub(super) figure: Figure,
    /// How what was measured may stand to the value.
    allowed: &'static [Ordering],
    value: f64,
    /// What the value is in.
    pub(super) unit: Unit,
}

/// What of a metric is compared with the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Own,
    /// Of a comparison, the arm's value less the baseline's.
    Delta,
    /// Of a comparison, the arm's value over the baseline's.
    Ratio,
    /// Of two saved results, how far the value has moved.
    Change,
    /// Of two saved results, how far the difference to the baseline has moved.
    Cost,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Selector {
    Size(u64),
    Connections(u64),
    /// With a load beside it, or without.
    Loaded(bool),
    /// From one.
    Stage(u64),
    Rate(f64),
}

/// Each operator with what it allows. The longer ones come first: `<=` begins with `<`.
const OPERATORS: [(&str, &[Ordering]); 6] = [
    ("<=", &[Less, Equal]),
    (">=", &[Greater, Equal]),
    ("==", &[Equal]),
    ("!=", &[Less, Greater]),
    ("<", &[Less]),
    (">", &[Greater]),
];

/// Or what is wrong with an expression, and what is allowed instead.
type Parsed<T> = std::result::Result<T, (String, String)>;
/// The left side of an operator: the arm, the metric with its unit, and what of it.
type Subject<'a> = (Option<&'a str>, (Metric, Unit), Figure);

const COMPARE: &str = "compare with <, <=, >, >=, == or !=";
const METRICS: &str = "use p50, p99.9 …, min, mean, max or stdev (alone or after service., response., lateness., \
    connect., residence. or path.), errors, timeouts, loss, ops, rate, goodput, status.CODE, bandwidth (alone or with .up or .down), lost, \
    retransmits or cpu; for example lateness.p99<100us";
const COMPARED: &str = "comparisons are of p50, p99.9 …, bandwidth and goodput, for example NAME.p99.delta<30us or \
    NAME.bandwidth.ratio>0.95";
const ARMS: &str = "names are of letters, digits, - and _, for example kata.p99.delta<30us";
const CHANGES: &str = "write NAME.p99.change<5us, NAME.p50.cost<=0 or NAME.bandwidth.change>-100M; of plain results p99.change<5us";

/// The usage error that an assertion is refused with.
pub(super) fn refused(expr: &str, what: &str, advice: impl Into<String>) -> Error {
    Error::usage(format!("--assert '{expr}': {what}")).remedy(advice)
}

impl Assertion {
    /// Parses a demand on a run; see the [module](super).
    ///
    /// # Errors
    /// A usage error that says which part is wrong, what is allowed there, and shows an example.
    pub fn parse(expr: &str) -> Result<Self> {
        Self::parse_by(expr, |name| {
            let metric = Metric::parse(name)
                .ok_or_else(|| (format!("'{name}' is not measured"), METRICS.to_owned()))?;
            Ok((None, metric, Figure::Own))
        })
    }

    /// Parses a demand on a comparison.
    ///
    /// # Errors
    /// As [`Assertion::parse`]; for one that would suit a plain run (`p99<2ms`) it says how to name
    /// an arm.
    pub fn parse_comparison(expr: &str) -> Result<Self> {
        Self::parse_by(expr, compared)
    }

    /// Parses a demand on the difference of two saved results.
    ///
    /// # Errors
    /// As [`Assertion::parse`]; for one that would suit a comparison (`kata.p99.delta<30us`) it
    /// says what to write.
    pub fn parse_diff(expr: &str) -> Result<Self> {
        Self::parse_by(expr, changed)
    }

    fn parse_by(expr: &str, subject: fn(&str) -> Parsed<Subject<'_>>) -> Result<Self> {
        let typed = expr.trim();
        let parsed = || {
            let (selectors, name, allowed, value) = split(expr)?;
            let (arm, (metric, unit), figure) = subject(name)?;
            let (value, unit) = figure.value(unit, value)?;
            Ok(Self {
                expr: typed.to_owned(),
                selectors,
                arm: arm.map(str::to_owned),
                metric,
                figure,
                allowed,
                value,
                unit,
            })
        };
        parsed().map_err(|(what, allowed)| refused(typed, &what, allowed))
    }

    /// The quantile that this is about, per cent: a run must tell it, even if it is not among the
    /// usual ones.
    pub const fn percentile(&self) -> Option<f64> {
        match self.metric {
            Metric::Latency(_, Statistic::Percentile(percent)) => Some(percent),
            _ => None,
        }
    }

    /// The result where nothing was measured of what is selected.
    pub(super) fn undecided(&self) -> AssertionResult {
        let step = selection(&self.selectors);
        AssertionResult { expr: self.expr.clone(), step, actual: None, interval: None, holds: None }
    }

    /// Whether it is so for all, for none, or for some of the values from `low` to `high`.
    pub(super) fn holds_within(&self, (low, high): (f64, f64)) -> Option<bool> {
        let possible = low.partial_cmp(&self.value)?..=high.partial_cmp(&self.value)?;
        let mut each =
            [Less, Equal, Greater].iter().filter(|ordering| possible.contains(*ordering));
        let holds = self.allowed.contains(each.next()?);
        each.all(|ordering| self.allowed.contains(ordering) == holds).then_some(holds)
    }
}

/// Holds each assertion against each step that it selects, one result each. An assertion that
/// selects no step gives one result that is undecided. `hold` gets a step with its number and its
/// name.
pub(super) fn over_steps(
    assertions: &[Assertion],
    steps: &[(u64, &StepResult)],
    hold: impl Fn(&Assertion, (u64, &StepResult), String) -> AssertionResult,
) -> Vec<AssertionResult> {
    let params = || steps.iter().map(|(_, step)| &step.params);
    let mut results = Vec::new();
    for assertion in assertions {
        let before = results.len();
        let selected = steps.iter().filter(|(_, step)| selects(&assertion.selectors, &step.params));
        results.extend(
            selected.map(|step| hold(assertion, *step, step_name(&step.1.params, params()))),
        );
        if results.len() == before {
            results.push(assertion.undecided());
        }
    }
    results
}

/// What tells a step from all of them, as a selector; empty for the only one.
pub(super) fn step_name<'a>(
    step: &Params,
    all: impl Iterator<Item = &'a Params> + Clone,
) -> String {
    let kinds =
        [Selector::Size(0), Selector::Connections(0), Selector::Stage(0), Selector::Loaded(false)];
    let own = kinds.iter().filter_map(|kind| kind.like(step));
    let differs = |own: &Selector| all.clone().any(|other| own.like(other) != Some(*own));
    selection(&own.filter(differs).collect::<Vec<_>>())
}

/// Splits an expression into its selectors, what it is about, and what that is to be.
fn split(expr: &str) -> Parsed<(Vec<Selector>, &str, &'static [Ordering], &str)> {
    let (selectors, demand) = match expr.split_once(':') {
        Some((selectors, demand)) => {
            (selectors.split(',').map(Selector::parse).collect::<Parsed<_>>()?, demand)
        }
        None => (Vec::new(), expr),
    };
    let at = demand.find(['<', '>', '=', '!']).ok_or_else(|| {
        ("no comparison in it".to_owned(), format!("{COMPARE}, for example p99<2ms"))
    })?;
    let (name, rest) = demand.split_at(at);
    let mut operators = OPERATORS.into_iter();
    let (allowed, value) = operators
        .find_map(|(sign, allowed)| Some((allowed, rest.strip_prefix(sign)?)))
        .ok_or_else(|| {
            let what = format!("'{}' is no comparison", &rest[..1]);
            (what, format!("{COMPARE}, for example errors==0"))
        })?;
    Ok((selectors, name.trim(), allowed, value.trim()))
}

/// The subject of a demand on a comparison.
fn compared(name: &str) -> Parsed<Subject<'_>> {
    let missing =
        |what: &str, instead: String| Err((format!("'{name}' does not say {what}"), instead));
    let is_compared = |name: &str| Metric::parse_compared(name).is_some();
    let (rest, figure) = match name.rsplit_once('.') {
        Some((rest, "delta")) => (rest, Figure::Delta),
        Some((rest, "ratio")) => (rest, Figure::Ratio),
        Some((rest, last @ ("change" | "cost"))) => {
            let what = format!("a {last} is between two saved results, with --baseline-file");
            return Err((what, format!("write {rest}.delta<… or {rest}.ratio<… of one")));
        }
        _ if is_compared(name) => {
            let example = format!("name an arm: NAME.{name}.delta<… or NAME.{name}.ratio<…");
            return missing("of which arm", example);
        }
        _ if name.split_once('.').is_some_and(|(_, metric)| is_compared(metric)) => {
            let example = format!("write {name}.delta<… or {name}.ratio<…");
            return missing("what of it is compared with the baseline", example);
        }
        _ => return Err((format!("'{name}' is not compared"), COMPARED.to_owned())),
    };
    if is_compared(rest) {
        return missing("of which arm", format!("name an arm: NAME.{name}<…"));
    }
    let (arm, metric) = arm_and_metric(rest, [ARMS, COMPARED])?;
    Ok((Some(arm), metric, figure))
}

/// The subject of a demand on the difference of two saved results. Plain ones have no arms.
fn changed(name: &str) -> Parsed<Subject<'_>> {
    let (rest, figure) = match name.rsplit_once('.') {
        Some((rest, "change")) => (rest, Figure::Change),
        Some((rest, "cost")) => (rest, Figure::Cost),
        Some((rest, last @ ("delta" | "ratio"))) => {
            let what = format!("a {last} is to the baseline, within one comparison");
            let arm = Metric::parse_compared(rest).map_or("", |_| "NAME.");
            let advice = format!(
                "write {rest}.change<… for how far it has moved, or {arm}{rest}.cost<… for how far its difference to the \
                 baseline has"
            );
            return Err((what, advice));
        }
        _ => {
            let what = format!("'{name}' does not say what of it: a change or a cost");
            return Err((what, CHANGES.to_owned()));
        }
    };
    match Metric::parse_compared(rest) {
        Some(metric) if figure == Figure::Change => Ok((None, metric, figure)),
        Some(_) => Err((
            format!("'{name}' does not say of which arm"),
            format!("name an arm: NAME.{name}<…"),
        )),
        None => {
            let (arm, metric) = arm_and_metric(rest, [CHANGES, CHANGES])?;
            Ok((Some(arm), metric, figure))
        }
    }
}

/// Splits `ARM.METRIC`; the advice is on arms and on metrics. Names of arms are such that no
/// assertion can be read in two ways.
fn arm_and_metric<'a>(text: &'a str, advice: [&str; 2]) -> Parsed<(&'a str, (Metric, Unit))> {
    let (arm, metric) = text.split_once('.').unwrap_or((text, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_name = arm.starts_with(|c: char| c.is_ascii_alphanumeric()) && arm.chars().all(allowed);
    if arm != AA && !is_name {
        return Err((format!("'{arm}' is no arm's name"), advice[0].to_owned()));
    }
    let metric = Metric::parse_compared(metric)
        .ok_or_else(|| (format!("'{metric}' is not compared"), advice[1].to_owned()))?;
    Ok((arm, metric))
}

impl Figure {
    fn value(self, unit: Unit, text: &str) -> Parsed<(f64, Unit)> {
        let value = match self {
            Self::Own => unit.parse(text),
            Self::Ratio => Unit::Share.parse(text),
            Self::Delta | Self::Change | Self::Cost => unit.parse_difference(text),
        };
        value.ok_or_else(|| {
            let what = if text.is_empty() {
                "no value in it".to_owned()
            } else {
                format!("'{text}' is no value for it")
            };
            let advice = match self {
                Self::Own => unit.advice().to_owned(),
                Self::Ratio => {
                    "give a ratio to the baseline, for example NAME.bandwidth.ratio>0.95 or \
                                NAME.p99.ratio<110%"
                        .to_owned()
                }
                Self::Delta => unit.difference_advice(["delta", "delta"]),
                Self::Change | Self::Cost => unit.difference_advice(["change", "cost"]),
            };
            (what, advice)
        })
    }
}

pub(super) fn selection(selectors: &[Selector]) -> String {
    let names = selectors.iter().map(Selector::name);
    names.collect::<Vec<_>>().join(",")
}

/// Whether all of the selectors select the step.
pub(super) fn selects(selectors: &[Selector], step: &Params) -> bool {
    selectors.iter().all(|selector| match selector {
        Selector::Rate(rate) => step.rate_per_s.is_some_and(|own| is_same_rate(own, *rate)),
        selector => selector.like(step) == Some(*selector),
    })
}

fn stage_of(step: &Params) -> Option<u64> {
    step.http.as_ref()?.stage.map(u64::from)
}

/// A latency step beside which the path carried bulk traffic.
pub(super) fn is_loaded(step: &Params) -> bool {
    step.load().is_some()
}

/// Rates are typed in several units, of which one may be a quotient.
pub(super) fn is_same_rate(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

impl Selector {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Size(bytes) => format!("size={bytes}"),
            Self::Connections(n) => format!("connections={n}"),
            Self::Loaded(true) => "loaded".to_owned(),
            Self::Loaded(false) => "idle".to_owned(),
            Self::Stage(stage) => format!("stage={stage}"),
            Self::Rate(rate) => format!("rate={rate}"),
        }
    }

    /// The selector of the same kind that selects this step, if one does.
    pub(super) fn like(&self, step: &Params) -> Option<Self> {
        match self {
            Self::Size(_) => Some(Self::Size(step.size_bytes)),
            Self::Connections(_) => Some(Self::Connections(step.connections.into())),
            Self::Loaded(_) => Some(Self::Loaded(is_loaded(step))),
            Self::Stage(_) => stage_of(step).map(Self::Stage),
            Self::Rate(_) => step.rate_per_s.map(Self::Rate),
        }
    }

    fn parse(text: &str) -> Parsed<Self> {
        let selector = match text.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            None if text.trim() == "idle" => Some(Self::Loaded(false)),
            None if text.trim() == "loaded" => Some(Self::Loaded(true)),
            Some(("rate", rate)) => Unit::PerSecond.parse(rate).map(|(rate, _)| Self::Rate(rate)),
            Some(("stage", number)) => integer(number).map(Self::Stage),
            Some(("size", number)) => integer(number).map(Self::Size),
            Some(("connections" | "streams", number)) => integer(number).map(Self::Connections),
            _ => None,
        };
        selector.ok_or_else(|| {
            (
                format!("'{}' selects nothing", text.trim()),
                "select steps with size=BYTES, connections=N, stage=N, rate=PER_SECOND, idle and loaded, for example \
                 size=4K,connections=8:p99<2ms"
                    .to_owned(),
            )
        })
    }
}
