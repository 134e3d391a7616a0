//! What a step tells of what an assertion is about, and whether that decides it.

use super::value::Value;
use super::{Assertion, Family, Metric, Operator, Statistic, Way, is_loaded};
use crate::result::{Bandwidth, Flow, StepResult, Summary, quantile_name};

/// A figure, and between what it may truly lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) actual: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Measured {
    const fn exact(actual: f64) -> Self {
        Self { actual, low: actual, high: actual }
    }
}

/// Responses with codes from `first` to `last`; absent of what is no HTTP load.
fn responses(step: &StepResult, first: u16, last: u16) -> Option<u64> {
    step.params.http.as_ref()?;
    let within = |code: &str| code.parse().is_ok_and(|code| (first..=last).contains(&code));
    let codes = step.status_codes.iter();
    Some(codes.filter(|(code, _)| within(code)).map(|(_, c)| c.count).sum())
}

/// Responses that were not as expected.
fn unexpected(step: &StepResult) -> u64 {
    let codes = step.status_codes.values();
    codes.filter(|code| !code.expected).map(|code| code.count).sum()
}

/// The figures of a bulk step. Those of a load are not the step's own.
fn bulk(step: &StepResult) -> Option<&Bandwidth> {
    let own = step.params.bulk.is_some() && !is_loaded(&step.params);
    step.bandwidth.as_ref().filter(|_| own)
}

impl Assertion {
    /// What the step tells of it; absent where that was not measured.
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
    pub(super) fn measure(&self, step: &StepResult) -> Option<Measured> {
        let operations = &step.operations;
        match self.metric {
            Metric::Latency(family, statistic) => statistic.of(family.of(step)?),
            Metric::Errors => {
                // Not every error is an operation's (a connect that failed), and one operation is one error.
                let by_cause: u64 = step.errors.iter().map(|e| e.count).sum();
                let errors = match step.params.http {
                    Some(_) => by_cause + unexpected(step),
                    None => by_cause.max(operations.failed + operations.timed_out),
                };
                Some(Measured::exact(errors as f64))
            }
            Metric::Timeouts => Some(Measured::exact(operations.timed_out as f64)),
            Metric::Operations => Some(Measured::exact(operations.completed as f64)),
            Metric::Loss => share_lost(step).map(Measured::exact),
            Metric::Rate => {
                let achieved = step.rate.achieved_per_s;
                let share = || {
                    let target = step.rate.target_per_s;
                    paced_share(step).or_else(|| target.map(|target| achieved / target))
                };
                match self.value {
                    Value::PerSecond(_) => Some(achieved),
                    Value::Share(_) => share(),
                    Value::Number(_) => share().or(Some(achieved)),
                }
                .map(Measured::exact)
            }
            Metric::Goodput => Some(Measured::exact(step.rate.achieved_per_s)),
            Metric::Status(first, last) => {
                let count = responses(step, first, last)?;
                Some(Measured::exact(count as f64))
            }
            Metric::Bandwidth(way) => {
                let bandwidth = step.bandwidth.as_ref()?;
                let of = |flow: &Flow| (flow.bits_per_s, flow.interval_bits_per_s);
                let (actual, interval) = match way {
                    Way::Together => (bandwidth.bits_per_s, bandwidth.interval_bits_per_s),
                    Way::Up => of(bandwidth.up.as_ref()?),
                    Way::Down => of(bandwidth.down.as_ref()?),
                };
                let actual = actual?;
                let (low, high) = interval.unwrap_or((actual, actual));
                Some(Measured { actual, low, high })
            }
            Metric::Lost => {
                let lost = bulk(step)?.lost_datagrams?;
                Some(Measured::exact(lost as f64))
            }
            Metric::Retransmits => {
                let retransmits = step.bandwidth.as_ref()?.retransmits?;
                Some(Measured::exact(retransmits as f64))
            }
            Metric::Cpu => Some(Measured::exact(bulk(step)?.cpu_s_per_gib? * 1e9)),
        }
    }
}

/// The share of a bulk run's datagrams that never came; else that of the operations that had no answer in time.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
fn share_lost(step: &StepResult) -> Option<f64> {
    if let Some(bandwidth) = bulk(step) {
        let flows = [&bandwidth.up, &bandwidth.down].into_iter().flatten();
        let sent: u64 = flows.filter_map(|flow| Some(flow.datagrams?.sent)).sum();
        let lost = bandwidth.lost_datagrams?;
        return (sent > 0).then(|| lost as f64 / sent as f64);
    }
    let operations = &step.operations;
    let decided = operations.sent.saturating_sub(operations.in_flight_at_end);
    (decided > 0).then(|| operations.timed_out as f64 / decided as f64)
}

/// What a paced bulk run carried of what was asked for, in each of its directions.
fn paced_share(step: &StepResult) -> Option<f64> {
    let bandwidth = bulk(step)?;
    let asked = step.params.bulk.as_ref()?.rate_bits_per_s?;
    let both = bandwidth.up.is_some() && bandwidth.down.is_some();
    let asked = if both { 2.0 * asked } else { asked };
    Some(bandwidth.bits_per_s? / asked)
}

impl Family {
    const fn of(self, step: &StepResult) -> Option<&Summary> {
        let latency = &step.latency;
        match self {
            Self::Headline => match &latency.response {
                Some(response) => Some(response),
                None => Some(&latency.service),
            },
            Self::Service => Some(&latency.service),
            Self::Response => latency.response.as_ref(),
            Self::Lateness => latency.lateness.as_ref(),
            Self::Connect => latency.connect.as_ref(),
            Self::Residence => latency.server_residence.as_ref(),
            Self::Path => latency.path.as_ref(),
        }
    }
}

impl Statistic {
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
    fn of(self, summary: &Summary) -> Option<Measured> {
        // One length that is only known to be at least so long leaves these open upwards, and the deviation both ways.
        let censored = summary.censored > 0;
        let up_from = |low: f64, open: bool, actual: f64| Measured {
            actual,
            low,
            high: if open { f64::INFINITY } else { actual },
        };
        match self {
            Self::Percentile(percent) => {
                let name = quantile_name(percent);
                let actual = summary.quantile_ns(percent)?;
                let (low, high) =
                    summary.intervals_ns.get(&name).copied().unwrap_or((actual, actual));
                Some(Measured {
                    actual: actual as f64,
                    low: low as f64,
                    high: if summary.lower_bounds.contains(&name) {
                        f64::INFINITY
                    } else {
                        high as f64
                    },
                })
            }
            // Lengths only grow when their censoring is undone, so the smallest one may be any up to the next.
            Self::Min => summary.min_ns.map(|ns| up_from(ns as f64, censored, ns as f64)),
            Self::Mean => summary.mean_ns.map(|ns| up_from(ns, censored, ns)),
            Self::Max => summary.max_ns.map(|ns| up_from(ns as f64, censored, ns as f64)),
            Self::Stdev => {
                summary.stdev_ns.map(|ns| up_from(if censored { 0.0 } else { ns }, censored, ns))
            }
        }
    }
}

impl Operator {
    /// Whether it is so for all, for none, or for some of what the figure may be.
    #[expect(clippy::float_cmp, reason = "equality is what was asked for")]
    pub(super) fn holds(self, measured: Measured, value: f64) -> Option<bool> {
        let Measured { low, high, .. } = measured;
        let (always, never) = match self {
            Self::Less => (high < value, low >= value),
            Self::LessOrEqual => (high <= value, low > value),
            Self::Greater => (low > value, high <= value),
            Self::GreaterOrEqual => (low >= value, high < value),
            Self::Equal => (low == value && high == value, value < low || value > high),
            Self::NotEqual => (value < low || value > high, low == value && high == value),
        };
        match (always, never) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}
