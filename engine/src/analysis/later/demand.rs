//! What a script demands of a change: `tuned.p99.delta<0`, `tuned.p50.cost<=5us`, `size=64:tuned.p50.delta<1us`.
//!
//! `[size=N:]ARM.MEASURE.WHAT OP VALUE`: `delta` is how far the arm's own value has moved, `cost` how far its difference to
//! the baseline has. Of plain results, which have no arms, `MEASURE.delta`; these never decide it. `OP` is `<` `<=` `>`
//! `>=`; the value is a time with its unit, bits per second, or requests per second, with a sign where it falls.

use super::{Change, Later, Of};
use crate::error::{Error, Result};
use crate::result::AssertionResult;

const FORM: &str = "write it as 'ARM.p99.delta<5us', 'ARM.p50.cost<=0', 'ARM.bandwidth.delta>-100M', with size=N: before it for \
                    one step";

/// One demand, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    expr: String,
    size_bytes: Option<u64>,
    pub(super) arm: Option<String>,
    pub(super) measure: String,
    of: Of,
    operator: Operator,
    value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Demand {
    /// Parses an expression.
    ///
    /// # Errors
    /// A usage error that says what is wrong with it.
    pub fn parse(expr: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let shown: String = expr.chars().take(80).collect();
            Error::usage(format!("assertion '{}': {why}", shown.escape_debug())).remedy(FORM)
        };
        let (selector, rest) = match expr.split_once(':') {
            Some((selector, rest)) => (Some(selector.trim()), rest),
            None => (None, expr),
        };
        let size_bytes = selector
            .map(|selector| {
                let size = selector.strip_prefix("size=").and_then(size);
                size.ok_or_else(|| wrong("only size=N selects a step of a change"))
            })
            .transpose()?;
        let at = rest
            .find(['<', '>'])
            .ok_or_else(|| wrong("it compares nothing"))?;
        let (name, demand) = (rest[..at].trim(), &rest[at..]);
        let operators = [
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let told = operators
            .into_iter()
            .find_map(|(sign, operator)| Some((operator, demand.strip_prefix(sign)?.trim())));
        let (operator, value) = told.ok_or_else(|| wrong("it compares nothing"))?;
        let (name, of) = if let Some(name) = name.strip_suffix(".delta") {
            (name, Of::Value)
        } else if let Some(name) = name.strip_suffix(".cost") {
            (name, Of::Cost)
        } else {
            return Err(wrong("a change is a delta or a cost"));
        };
        // p99.9 has a dot of its own; arms may have, too.
        let fraction = name.rsplit_once('.').is_some_and(|(before, digits)| {
            let last = before.rsplit('.').next().unwrap_or(before);
            digits.bytes().all(|b| b.is_ascii_digit()) && is_percentile(last)
        });
        let dots = if fraction { 2 } else { 1 };
        let cut = name.rmatch_indices('.').nth(dots - 1).map(|(at, _)| at);
        let (arm, measure) = match cut {
            Some(at) => (Some(name[..at].to_owned()), &name[at + 1..]),
            None => (None, name),
        };
        let measure = measure.replace('.', "_");
        let latency = is_percentile(&measure.replace('_', ""));
        if !latency && measure != "bandwidth" && measure != "goodput" {
            return Err(wrong("the measures are p50, p99, …, bandwidth and goodput"));
        }
        let value = signed(value, latency).ok_or_else(|| wrong("its value has no such unit"))?;
        Ok(Self {
            expr: expr.to_owned(),
            size_bytes,
            arm,
            measure,
            of,
            operator,
            value,
        })
    }

    /// Holds it against every change that it is about. Where none is, and where there is no interval to decide it, it is
    /// undecided.
    #[must_use]
    pub fn evaluate(&self, later: &Later) -> Vec<AssertionResult> {
        let asked = later.changes.iter().filter(|change| self.is_about(change));
        let mut results: Vec<AssertionResult> = asked.map(|change| self.hold(change)).collect();
        if results.is_empty() {
            results.push(AssertionResult {
                expr: self.expr.clone(),
                step: String::new(),
                actual: None,
                interval: None,
                holds: None,
            });
        }
        results
    }

    fn is_about(&self, change: &Change) -> bool {
        change.arm == self.arm
            && change.measure == self.measure
            && change.of == self.of
            && self
                .size_bytes
                .is_none_or(|size| size == change.params.size_bytes)
    }

    fn hold(&self, change: &Change) -> AssertionResult {
        let interval = change.delta.and_then(|delta| delta.interval);
        let holds = interval.and_then(|(low, high)| {
            let [low, high] = [low, high].map(|end| self.operator.holds(end, self.value));
            (low == high).then_some(low)
        });
        AssertionResult {
            expr: self.expr.clone(),
            step: format!("size={}", change.params.size_bytes),
            actual: change.delta.map(|delta| delta.median),
            interval,
            holds,
        }
    }
}

fn is_percentile(name: &str) -> bool {
    let digits = name.strip_prefix('p').unwrap_or("");
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn size(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |n| (n, 1 << 20)),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number with a sign and a unit, in nanoseconds or per second.
fn signed(text: &str, is_time: bool) -> Option<f64> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, unit) = rest.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim();
    let factor = match (is_time, unit) {
        (true, "") if number == 0.0 => 1.0,
        (true, "ns") => 1.0,
        (true, "us" | "µs" | "μs") => 1e3,
        (true, "ms") => 1e6,
        (true, "s") => 1e9,
        (false, "" | "bit" | "bit/s" | "/s") => 1.0,
        (false, "k" | "kbit" | "kbit/s" | "k/s") => 1e3,
        (false, "M" | "Mbit" | "Mbit/s") => 1e6,
        (false, "G" | "Gbit" | "Gbit/s") => 1e9,
        _ => return None,
    };
    Some(sign * number * factor)
}
