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
    if text.len() != 3 || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let class = text.strip_suffix("xx");
    let first: u16 = match class {
        Some(class) => format!("{class}00").parse(),
        None => text.parse(),
    }
    .ok()?;
    (first >= 100).then_some((first, if class.is_some() { first + 99 } else { first }))
}

/// Units of time, in nanoseconds.
const TIMES: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9)];
/// What a rate can be over, in seconds.
const PERIODS: [(&str, f64); 3] = [("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
const MULTIPLES: [(&str, f64); 6] =
    [("", 1.0), ("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)];

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
    /// A value without a sign, and what it is in: a rate may be given as a share or over time.
    pub(super) fn parse(self, text: &str) -> Option<(f64, Self)> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let (number, unit) = (decimal(number)?, unit.trim());
        let own = match self {
            Self::Rate if unit == "%" => Self::Share,
            Self::Rate if unit.contains('/') => Self::PerSecond,
            other => other,
        };
        let value = match own {
            // Nothing is no time in any unit, so zero needs none.
            Self::Time | Self::CpuTime if number == 0.0 && unit.is_empty() => 0.0,
            Self::Time | Self::CpuTime => number * factor(&TIMES, unit)?,
            Self::Count | Self::Rate => number * factor(&MULTIPLES, unit)?,
            Self::Share if unit == "%" => number / 100.0,
            Self::Share => unit.is_empty().then_some(number)?,
            Self::PerSecond => {
                let (suffix, per) = unit.split_once('/').unwrap_or((unit, "s"));
                number * factor(&MULTIPLES, suffix.trim())? / factor(&PERIODS, per)?
            }
            Self::Bits => {
                let mut names = ["bit/s", "bits/s", "bps", "bits", "bit"].into_iter();
                let suffix = names.find_map(|name| unit.strip_suffix(name)).unwrap_or(unit);
                number * factor(&MULTIPLES, suffix)?
            }
        };
        Some((value, own))
    }

    /// A difference of two such values, with a sign where it falls.
    pub(super) fn parse_difference(self, text: &str) -> Option<(f64, Self)> {
        let Some(magnitude) = text.strip_prefix('-') else { return self.parse(text) };
        let (value, own) = self.parse(magnitude.trim())?;
        Some((-value, own))
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
fn decimal(text: &str) -> Option<f64> {
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

fn factor(units: &[(&str, f64)], name: &str) -> Option<f64> {
    units.iter().find_map(|(known, factor)| (*known == name).then_some(*factor))
}
