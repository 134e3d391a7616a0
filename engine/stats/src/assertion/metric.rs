//! What an assertion can be about, and the values that it can be compared with.

use crate::histogram::Metric as Latency;
use crate::result::quantile_name;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Metric {
    /// Of one latency, or of the one that heads the report.
    Latency(Option<Latency>, Statistic),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Together,
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Statistic {
    Percentile(f64),
    Min,
    Mean,
    Max,
    Stdev,
}

const METRICS: [(&str, Metric, Unit); 12] = [
    ("errors", Metric::Errors, Unit::Count),
    ("timeouts", Metric::Timeouts, Unit::Count),
    ("ops", Metric::Operations, Unit::Count),
    ("loss", Metric::Loss, Unit::Share),
    ("rate", Metric::Rate, Unit::Rate),
    ("goodput", Metric::Goodput, Unit::PerSecond),
    ("bandwidth", Metric::Bandwidth(Way::Together), Unit::Bits),
    ("bandwidth.up", Metric::Bandwidth(Way::Up), Unit::Bits),
    ("bandwidth.down", Metric::Bandwidth(Way::Down), Unit::Bits),
    ("lost", Metric::Lost, Unit::Count),
    ("retransmits", Metric::Retransmits, Unit::Count),
    ("cpu", Metric::Cpu, Unit::CpuTime),
];

const LATENCIES: [(&str, Latency); 7] = [
    ("service", Latency::Service),
    ("response", Latency::Response),
    ("lateness", Latency::Lateness),
    ("connect", Latency::Connect),
    ("residence", Latency::Residence),
    ("server_residence", Latency::Residence),
    ("path", Latency::Path),
];

impl Metric {
    /// The metric of that name, with the unit of its values.
    pub(super) fn parse(name: &str) -> Option<(Self, Unit)> {
        if let Some((_, metric, unit)) = METRICS.iter().find(|(known, ..)| *known == name) {
            return Some((*metric, *unit));
        }
        if let Some(status) = name.strip_prefix("status.") {
            let (first, last) = codes(status)?;
            return Some((Self::Status(first, last), Unit::Count));
        }
        let named = name.split_once('.').and_then(|(latency, statistic)| {
            let (_, latency) = LATENCIES.iter().find(|(known, _)| *known == latency)?;
            Some((Some(*latency), statistic))
        });
        let (latency, statistic) = named.unwrap_or((None, name));
        Some((Self::Latency(latency, Statistic::parse(statistic)?), Unit::Time))
    }

    /// The metric of that name, if comparisons have cells of it.
    pub(super) fn parse_compared(name: &str) -> Option<(Self, Unit)> {
        Self::parse(name).filter(|(metric, _)| {
            matches!(
                metric,
                Self::Latency(None, Statistic::Percentile(_))
                    | Self::Bandwidth(Way::Together)
                    | Self::Goodput
            )
        })
    }

    /// The quantile that this is, per cent.
    pub(super) const fn percentile(self) -> Option<f64> {
        match self {
            Self::Latency(_, Statistic::Percentile(percent)) => Some(percent),
            _ => None,
        }
    }

    /// The name that cells have for it.
    pub(super) fn measure(self) -> String {
        match self {
            Self::Latency(_, Statistic::Percentile(percent)) => quantile_name(percent),
            Self::Goodput => "goodput".to_owned(),
            _ => "bandwidth".to_owned(),
        }
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
                let percent = decimal(name.strip_prefix('p')?)?;
                return (percent > 0.0 && percent < 100.0).then_some(Self::Percentile(percent));
            }
        })
    }
}

/// The first and the last status code of `511` or `5xx`.
fn codes(text: &str) -> Option<(u16, u16)> {
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

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    /// In the metric's own unit: nanoseconds, bits per second, a count, or a number alone.
    Number(f64),
    /// A share: 99 % is 0.99.
    Share(f64),
    PerSecond(f64),
}

impl Value {
    pub(super) const fn number(self) -> f64 {
        match self {
            Self::Number(number) | Self::Share(number) | Self::PerSecond(number) => number,
        }
    }
}

/// What the values of a metric are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Time,
    CpuTime,
    Count,
    Share,
    Rate,
    PerSecond,
    Bits,
}

impl Unit {
    /// A value without a sign.
    pub(super) fn parse(self, text: &str) -> Option<Value> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let (number, unit) = (decimal(number)?, unit.trim());
        Some(match self {
            Self::Time | Self::CpuTime => Value::Number(number * nanoseconds(number, unit)?),
            Self::Count => Value::Number(number * multiple(unit)?),
            Self::Share => Value::Share(match unit {
                "" => number,
                "%" => number / 100.0,
                _ => return None,
            }),
            Self::Rate if unit == "%" => Value::Share(number / 100.0),
            Self::Rate | Self::PerSecond => {
                let Some((suffix, per)) = unit.split_once('/') else {
                    let number = number * multiple(unit)?;
                    return Some(match self {
                        Self::Rate => Value::Number(number),
                        _ => Value::PerSecond(number),
                    });
                };
                let seconds = match per {
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3_600.0,
                    _ => return None,
                };
                Value::PerSecond(number * multiple(suffix.trim())? / seconds)
            }
            Self::Bits => {
                let mut names = ["bit/s", "bits/s", "bps", "bits", "bit"].into_iter();
                let suffix = names.find_map(|name| unit.strip_suffix(name)).unwrap_or(unit);
                Value::Number(number * multiple(suffix)?)
            }
        })
    }

    /// A difference of two such values, with a sign where it falls.
    pub(super) fn parse_difference(self, text: &str) -> Option<Value> {
        match text.strip_prefix('-') {
            Some(magnitude) => Some(Value::Number(-self.parse(magnitude.trim())?.number())),
            None => Some(Value::Number(self.parse(text)?.number())),
        }
    }

    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::Time => "give a duration with its unit (ns, us, ms, s, m), for example p99<2ms",
            Self::CpuTime => {
                "give the CPU time per GiB with its unit (us, ms, s), for example cpu<800ms"
            }
            Self::Count => "give a count, for example errors==0 or ops>=10k",
            Self::Share => "give a share of what was sent, for example loss<0.1% or loss<=0.001",
            Self::Rate => {
                "give the share of the target rate, or operations over time, for example rate>=0.99, rate>=99% or \
                 rate>10k/s"
            }
            Self::PerSecond => {
                "give responses over time, for example goodput>=1000 or goodput>=10k/s"
            }
            Self::Bits => "give bits per second, for example bandwidth>10Gbit or bandwidth>200M",
        }
    }

    /// The advice on a difference; `figures` are the two words that examples end in.
    pub(super) fn difference_advice(self, [one, other]: [&str; 2]) -> String {
        match self {
            Self::Bits => {
                format!("give bits per second, for example NAME.bandwidth.{one}>-1Gbit")
            }
            Self::PerSecond => format!(
                "give responses over time, for example NAME.goodput.{one}>-100 or NAME.goodput.{one}>-6k/m"
            ),
            _ => format!(
                "give a time with its unit (ns, us, ms, s, m), for example NAME.p99.{one}<30us or NAME.p99.{other}<-5us"
            ),
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

/// The length of a unit of time. Nothing is no time in any unit, so zero needs none.
fn nanoseconds(number: f64, unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "" if number == 0.0 => 1.0,
        _ => return None,
    })
}

fn multiple(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return None,
    })
}
