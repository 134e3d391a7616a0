//! The right side of an assertion: a number in the unit that its metric is told in.

use super::{Metric, Wrong};

/// A value to compare with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    /// In the metric's own unit: nanoseconds, bits per second, a count, or a number alone.
    Number(f64),
    /// A share: 99 % is 0.99.
    Share(f64),
    /// Operations per second.
    PerSecond(f64),
}

impl Value {
    pub(super) const fn number(self) -> f64 {
        match self {
            Self::Number(number) | Self::Share(number) | Self::PerSecond(number) => number,
        }
    }
}

/// A number without sign and exponent.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = plain.then(|| text.parse::<f64>().ok())??;
    number.is_finite().then_some(number)
}

/// A whole number, with a binary suffix or none.
pub(super) fn integer(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |n| (n, 1 << 20)),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Parses the value for `metric`.
pub(super) fn parse(metric: Metric, text: &str) -> Result<Value, Wrong> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let (value, allowed) = match metric {
        Metric::Latency(..) => (
            decimal(number).and_then(|n| duration(n, unit)),
            "give a duration with its unit (ns, us, ms, s, m), for example p99<2ms",
        ),
        Metric::Errors
        | Metric::Timeouts
        | Metric::Operations
        | Metric::Lost
        | Metric::Status(..)
        | Metric::Retransmits => (
            decimal(number).and_then(|n| Some(Value::Number(n * scale(unit)?))),
            "give a count, for example errors==0 or ops>=10k",
        ),
        Metric::Loss => (
            decimal(number).and_then(|n| share(n, unit)),
            "give a share of what was sent, for example loss<0.1% or loss<=0.001",
        ),
        Metric::Rate => (
            decimal(number).and_then(|n| rate(n, unit)),
            "give the share of the target rate, or operations over time, for example rate>=0.99, rate>=99% or \
             rate>10k/s",
        ),
        Metric::Goodput => (
            per_second(text).map(Value::PerSecond),
            "give responses over time, for example goodput>=1000 or goodput>=10k/s",
        ),
        Metric::Cpu => (
            decimal(number).and_then(|n| duration(n, unit)),
            "give the CPU time per GiB with its unit (us, ms, s), for example cpu<800ms",
        ),
        Metric::Bandwidth(_) => (
            decimal(number).and_then(|n| bits(n, unit)),
            "give bits per second, for example bandwidth>10Gbit or bandwidth>200M",
        ),
    };
    value.ok_or_else(|| {
        let what = if text.is_empty() {
            "no value in it".to_owned()
        } else {
            format!("'{text}' is no value for it")
        };
        (what, allowed.to_owned())
    })
}

/// Operations over time: `1000`, `10k/s`, `600/m`.
pub(super) fn per_second(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    match rate(decimal(number)?, unit.trim())? {
        Value::Number(per_second) | Value::PerSecond(per_second) => Some(per_second),
        Value::Share(_) => None,
    }
}

/// The first and the last status code of `511` or `5xx`.
pub(super) fn codes(text: &str) -> Option<(u16, u16)> {
    let code = |text: &str| text.parse().ok().filter(|code| (100..=999).contains(code));
    if text.len() != 3 || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match text.strip_suffix("xx") {
        Some(class) => {
            let first = code(&format!("{class}00"))?;
            Some((first, first + 99))
        }
        None => code(text).map(|code| (code, code)),
    }
}

pub(super) fn duration(number: f64, unit: &str) -> Option<Value> {
    let nanoseconds = match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        // Nothing is no time in any unit.
        "" if number == 0.0 => 1.0,
        _ => return None,
    };
    Some(Value::Number(number * nanoseconds))
}

/// Decimal multiples.
fn scale(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return None,
    })
}

pub(super) fn share(number: f64, unit: &str) -> Option<Value> {
    match unit {
        "" => Some(Value::Share(number)),
        "%" => Some(Value::Share(number / 100.0)),
        _ => None,
    }
}

fn rate(number: f64, unit: &str) -> Option<Value> {
    if unit == "%" {
        return share(number, unit);
    }
    let (multiple, seconds) = match unit.split_once('/') {
        None => return Some(Value::Number(number * scale(unit)?)),
        Some((multiple, "s")) => (multiple, 1.0),
        Some((multiple, "m")) => (multiple, 60.0),
        Some((multiple, "h")) => (multiple, 3_600.0),
        Some(_) => return None,
    };
    Some(Value::PerSecond(number * scale(multiple.trim())? / seconds))
}

pub(super) fn bits(number: f64, unit: &str) -> Option<Value> {
    let multiple = ["bit/s", "bits/s", "bps", "bits", "bit"]
        .into_iter()
        .find_map(|suffix| unit.strip_suffix(suffix))
        .unwrap_or(unit);
    Some(Value::Number(number * scale(multiple)?))
}
