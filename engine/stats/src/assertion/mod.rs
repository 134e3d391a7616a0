//! What a script demands of the numbers: `p99<2ms`, `size=64:p99<2ms`, `errors==0`, `rate>=0.99`.
//!
//! # Grammar
//!
//! `[SELECTOR[,SELECTOR…]:]METRIC OP VALUE`, blanks allowed anywhere between the parts.
//!
//! * Selectors: `size=64` (bytes; `4K` is 4096), `connections=8` (or `streams=8`), and of a latency run under load
//!   `idle` and `loaded`; of an HTTP load `stage=2` (from 1) and `rate=1000` (as asked for, per second; of a ramp at its
//!   begin). Without one an assertion must hold on every step.
//! * Operators: `<` `<=` `>` `>=` `==` `!=`.
//! * Latencies: `p50`, `p99.9` (any quantile), `min`, `mean`, `max`, `stdev`, of the response time in open loop and the
//!   service time otherwise; of another one with its name before it: `service.`, `response.`, `lateness.`,
//!   `connect.`, `residence.`, `path.`. The value needs a unit: `ns`, `us` (or `µs`), `ms`, `s`, `m`.
//! * `errors`: everything that failed, timeouts and failed connects among it. `timeouts`: operations without an answer in time.
//!   `ops`: operations completed. Values are counts.
//! * `loss`: share of the operations sent, less those in flight at the end, that had no answer in time: `0.001` or `0.1%`.
//! * `rate`: a number alone is the achieved share of the target rate in open loop, since that is what tells
//!   whether the run was what was asked for, and operations per second in closed loop, where there is no target. `99%` is always
//!   the share, `10k/s` or `600/m` always operations over time.
//!   Of a paced bulk run the share is of the bits asked for.
//! * Of HTTP loads: `goodput`: responses as expected per second: `goodput>=1000` or `600/m`. `status.511`, `status.5xx`:
//!   responses of that code or class, a count: `status.5xx==0`. `errors` has unexpected codes among it.
//! * `bandwidth`: `10Gbit`, `200M`, bits per second of payload received, both directions together; `bandwidth.up` and
//!   `bandwidth.down`: one of them. Under load: the load's.
//! * Of bulk runs: `loss` is the share of the datagrams sent, and `lost` their number; `retransmits`: segments sent
//!   again; `cpu`: CPU time of both ends per GiB received, a time: `cpu<800ms`.
//!
//! # Truth
//!
//! Where the value has an interval, an assertion holds or fails only if it does for the whole of it; in between the data
//! do not decide. A value that rests on censored samples may be anything above. What was not measured
//! (no such latency in this run, too few samples for the quantile, no step selected) is undecided, too.
//!
//! # Comparisons
//!
//! A run of `tare compare` has several values of everything, so its assertions are of their own kind: see
//! [`ComparisonAssertion`]. So are those on two saved results: see [`ChangeAssertion`].

use crate::result::{AssertionResult, Params, StepResult};
use tare_units::error::{Error, Result};

mod asked;
mod change;
mod comparison;
mod measure;
mod value;

pub use asked::{Asked, Kind};
pub use change::ChangeAssertion;
pub use comparison::ComparisonAssertion;
use value::Value;

/// One demand, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    expr: String,
    selectors: Vec<Selector>,
    metric: Metric,
    operator: Operator,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Selector {
    Size(u64),
    Connections(u64),
    /// With a load beside it, or without.
    Loaded(bool),
    /// From one.
    Stage(u64),
    Rate(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    Latency(Family, Statistic),
    Errors,
    Timeouts,
    Operations,
    Loss,
    Rate,
    Goodput,
    /// Responses of the codes from the first to the last.
    Status(u16, u16),
    Bandwidth(Way),
    Lost,
    Retransmits,
    Cpu,
}

/// Which direction of a bulk transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Together,
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Headline,
    Service,
    Response,
    Lateness,
    Connect,
    Residence,
    Path,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Statistic {
    Percentile(f64),
    Min,
    Mean,
    Max,
    Stdev,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// What all assertions together come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All hold, or there are none.
    Holds,
    /// At least one fails: exit code 3.
    Failed,
    /// None fails, and the data do not decide at least one: exit code 5.
    Undecided,
}

impl Verdict {
    /// The verdict over results.
    #[must_use]
    pub fn of(results: &[AssertionResult]) -> Self {
        if results.iter().any(|r| r.holds == Some(false)) {
            Self::Failed
        } else if results.iter().any(|r| r.holds.is_none()) {
            Self::Undecided
        } else {
            Self::Holds
        }
    }
}

/// Holds each assertion against each step that it selects, one result each. An assertion that selects no step
/// gives one result that is undecided.
#[must_use]
pub fn evaluate(assertions: &[Assertion], steps: &[StepResult]) -> Vec<AssertionResult> {
    let mut results = Vec::new();
    for assertion in assertions {
        let before = results.len();
        results.extend(
            steps.iter().filter(|step| selects(&assertion.selectors, &step.params)).map(|step| {
                let all = steps.iter().map(|step| &step.params);
                assertion.evaluate(step, step_name(&step.params, all))
            }),
        );
        if results.len() == before {
            results.push(AssertionResult {
                expr: assertion.expr.clone(),
                step: selection(&assertion.selectors),
                actual: None,
                interval: None,
                holds: None,
            });
        }
    }
    results
}

/// What tells a step from all of them, as a selector; empty for the only one.
fn step_name<'a>(step: &Params, all: impl Iterator<Item = &'a Params> + Clone) -> String {
    let any = |differs: &dyn Fn(&Params) -> bool| all.clone().any(differs);
    let mut parts = Vec::new();
    if any(&|s| s.size_bytes != step.size_bytes) {
        parts.push(format!("size={}", step.size_bytes));
    }
    if any(&|s| s.connections != step.connections) {
        parts.push(format!("connections={}", step.connections));
    }
    if let Some(stage) = stage_of(step)
        && any(&|s| stage_of(s) != Some(stage))
    {
        parts.push(format!("stage={stage}"));
    }
    if any(&|s| is_loaded(s) != is_loaded(step)) {
        parts.push(if is_loaded(step) { "loaded" } else { "idle" }.to_owned());
    }
    parts.join(",")
}

fn stage_of(step: &Params) -> Option<u32> {
    step.http.as_ref()?.stage
}

/// Rates are typed in several units, of which one may be a quotient.
fn is_same_rate(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// A latency step beside which the path carried bulk traffic.
const fn is_loaded(step: &Params) -> bool {
    step.under_load.is_some()
}

impl Assertion {
    /// Parses an expression; see the [module](self).
    ///
    /// # Errors
    /// A usage error that says which part is wrong, what is allowed there, and shows an example.
    pub fn parse(expr: &str) -> Result<Self> {
        Self::parse_parts(expr).map_err(|(what, allowed)| {
            Error::usage(format!("--assert '{}': {what}", expr.trim())).remedy(allowed)
        })
    }

    fn parse_parts(expr: &str) -> std::result::Result<Self, Wrong> {
        let (selectors, name, operator, value) = split(expr)?;
        let metric = Metric::parse(name)?;
        let value = value::parse(metric, value)?;
        Ok(Self { expr: expr.trim().to_owned(), selectors, metric, operator, value })
    }

    /// The expression as typed.
    #[must_use]
    pub fn expr(&self) -> &str {
        &self.expr
    }

    /// The quantile that this is about, per cent: a run must tell it, even if it is not among the usual ones.
    #[must_use]
    pub const fn percentile(&self) -> Option<f64> {
        match self.metric {
            Metric::Latency(_, Statistic::Percentile(percent)) => Some(percent),
            _ => None,
        }
    }

    fn evaluate(&self, step: &StepResult, name: String) -> AssertionResult {
        let measured = self.measure(step);
        AssertionResult {
            expr: self.expr.clone(),
            step: name,
            actual: measured.map(|m| m.actual),
            interval: measured
                .filter(|m| m.low < m.high && m.high.is_finite())
                .map(|m| (m.low, m.high)),
            holds: measured.and_then(|m| self.operator.holds(m, self.value.number())),
        }
    }
}

/// What is wrong with an expression, and what is allowed instead.
type Wrong = (String, String);

/// Splits an expression into its selectors, what it is about, and what that is to be.
fn split(expr: &str) -> std::result::Result<(Vec<Selector>, &str, Operator, &str), Wrong> {
    let (selectors, demand) = match expr.split_once(':') {
        Some((selectors, demand)) => (
            selectors.split(',').map(Selector::parse).collect::<std::result::Result<_, _>>()?,
            demand,
        ),
        None => (Vec::new(), expr),
    };
    let at = demand.find(['<', '>', '=', '!']).ok_or_else(|| {
        ("no comparison in it".to_owned(), format!("{OPERATORS}, for example p99<2ms"))
    })?;
    let (name, rest) = demand.split_at(at);
    let (operator, value) = Operator::split(rest)?;
    Ok((selectors, name.trim(), operator, value.trim()))
}

/// Whether all of the selectors select the step.
fn selects(selectors: &[Selector], step: &Params) -> bool {
    selectors.iter().all(|selector| match selector {
        Selector::Size(bytes) => step.size_bytes == *bytes,
        Selector::Connections(n) => u64::from(step.connections) == *n,
        Selector::Loaded(loaded) => is_loaded(step) == *loaded,
        Selector::Stage(stage) => stage_of(step).map(u64::from) == Some(*stage),
        Selector::Rate(rate) => step.rate_per_s.is_some_and(|own| is_same_rate(own, *rate)),
    })
}

/// The selectors as typed.
fn selection(selectors: &[Selector]) -> String {
    let names = selectors.iter().map(Selector::name);
    names.collect::<Vec<_>>().join(",")
}

const OPERATORS: &str = "compare with <, <=, >, >=, == or !=";
const METRICS: &str = "use p50, p99.9 …, min, mean, max or stdev (alone or after service., response., lateness., \
    connect., residence. or path.), errors, timeouts, loss, ops, rate, goodput, status.CODE, bandwidth (alone or with .up or .down), lost, \
    retransmits or cpu; for example lateness.p99<100us";

impl Selector {
    fn name(&self) -> String {
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
    fn like(&self, step: &Params) -> Option<Self> {
        match self {
            Self::Size(_) => Some(Self::Size(step.size_bytes)),
            Self::Connections(_) => Some(Self::Connections(step.connections.into())),
            Self::Loaded(_) => Some(Self::Loaded(is_loaded(step))),
            Self::Stage(_) => stage_of(step).map(|stage| Self::Stage(stage.into())),
            Self::Rate(_) => step.rate_per_s.map(Self::Rate),
        }
    }

    fn parse(text: &str) -> std::result::Result<Self, Wrong> {
        let wrong = || {
            (
                format!("'{}' selects nothing", text.trim()),
                "select steps with size=BYTES, connections=N, stage=N, rate=PER_SECOND, idle and loaded, for example \
                 size=4K,connections=8:p99<2ms"
                    .to_owned(),
            )
        };
        match text.trim() {
            "idle" => return Ok(Self::Loaded(false)),
            "loaded" => return Ok(Self::Loaded(true)),
            _ => {}
        }
        let (name, number) = text.split_once('=').ok_or_else(wrong)?;
        if name.trim() == "rate" {
            return value::per_second(number.trim()).map(Self::Rate).ok_or_else(wrong);
        }
        let number = value::integer(number.trim()).ok_or_else(wrong)?;
        match name.trim() {
            "stage" => Ok(Self::Stage(number)),
            "size" => Ok(Self::Size(number)),
            "connections" | "streams" => Ok(Self::Connections(number)),
            _ => Err(wrong()),
        }
    }
}

impl Metric {
    fn parse(name: &str) -> std::result::Result<Self, Wrong> {
        let plain = match name {
            "errors" => Some(Self::Errors),
            "timeouts" => Some(Self::Timeouts),
            "ops" => Some(Self::Operations),
            "loss" => Some(Self::Loss),
            "rate" => Some(Self::Rate),
            "goodput" => Some(Self::Goodput),
            "bandwidth" => Some(Self::Bandwidth(Way::Together)),
            "bandwidth.up" => Some(Self::Bandwidth(Way::Up)),
            "bandwidth.down" => Some(Self::Bandwidth(Way::Down)),
            "lost" => Some(Self::Lost),
            "retransmits" => Some(Self::Retransmits),
            "cpu" => Some(Self::Cpu),
            _ => None,
        };
        let latency = || {
            let (family, statistic) = name
                .split_once('.')
                .and_then(|(family, rest)| Some((Family::parse(family)?, rest)))
                .unwrap_or((Family::Headline, name));
            Some(Self::Latency(family, Statistic::parse(statistic)?))
        };
        let status = || {
            let (first, last) = value::codes(name.strip_prefix("status.")?)?;
            Some(Self::Status(first, last))
        };
        plain
            .or_else(status)
            .or_else(latency)
            .ok_or_else(|| (format!("'{name}' is not measured"), METRICS.to_owned()))
    }
}

impl Family {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "service" => Self::Service,
            "response" => Self::Response,
            "lateness" => Self::Lateness,
            "connect" => Self::Connect,
            "residence" | "server_residence" => Self::Residence,
            "path" => Self::Path,
            _ => return None,
        })
    }
}

impl Statistic {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "min" => Self::Min,
            "mean" => Self::Mean,
            "max" => Self::Max,
            "stdev" => Self::Stdev,
            _ => {
                let percent = value::decimal(name.strip_prefix('p')?)?;
                if percent <= 0.0 || percent >= 100.0 {
                    return None;
                }
                Self::Percentile(percent)
            }
        })
    }
}

impl Operator {
    /// Splits the operator off the front.
    fn split(text: &str) -> std::result::Result<(Self, &str), Wrong> {
        // The longer ones first: `<=` begins with `<`.
        let operators = [
            ("<=", Self::LessOrEqual),
            (">=", Self::GreaterOrEqual),
            ("==", Self::Equal),
            ("!=", Self::NotEqual),
            ("<", Self::Less),
            (">", Self::Greater),
        ];
        operators
            .into_iter()
            .find_map(|(sign, operator)| Some((operator, text.strip_prefix(sign)?)))
            .ok_or_else(|| {
                let sign: String = text.chars().take(1).collect();
                (
                    format!("'{sign}' is no comparison"),
                    format!("{OPERATORS}, for example errors==0"),
                )
            })
    }
}

#[cfg(test)]
mod tests;
