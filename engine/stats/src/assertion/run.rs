//! Demands on a run: whether it can answer them at all, told before it, and what its steps say to
//! them.

use super::language::{Assertion, Selector, is_loaded, is_same_rate, over_steps, refused};
use super::metric::{Metric, Statistic, Unit, Way};
use crate::histogram::Metric as Latency;
use crate::number::real;
use crate::pool::headline;
use crate::result::{AssertionResult, Bandwidth, Flow, StepResult, Summary, quantile_name};
use crate::summary::summary_of;
use tare_units::error::Result;

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Round trips.
    Lat,
    /// Bulk transfers.
    Bw,
    /// HTTP requests.
    Http,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lat => "lat",
            Self::Bw => "bw",
            Self::Http => "http",
        }
    }
}

/// What a run was asked for, as far as assertions select by it or need it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What is measured.
    pub kind: Kind,
    /// Sizes of messages or sends, bytes; none of HTTP.
    pub sizes: Vec<u64>,
    /// Numbers of connections or streams.
    pub connections: Vec<u64>,
    /// Stages of an HTTP load; none without.
    pub stages: u64,
    /// Operations per second, at the begin of each stage; none in closed loop.
    pub rates_per_s: Vec<f64>,
    /// A latency step is measured beside a load, too.
    pub loaded: bool,
    /// Bulk traffic is of datagrams.
    pub datagrams: bool,
    /// Bulk traffic goes to the server.
    pub up: bool,
    /// Bulk traffic comes from the server.
    pub down: bool,
}

const LOST: &str = "lost datagrams: TCP has none";

/// Holds each assertion against each step that it selects, one result each. An assertion that
/// selects no step gives one result that is undecided.
pub fn evaluate(assertions: &[Assertion], steps: &[StepResult]) -> Vec<AssertionResult> {
    let steps: Vec<_> = (0..).zip(steps).collect();
    over_steps(assertions, &steps, |assertion, (_, step), name| {
        let (actual, ends) = assertion.measure(step).unzip();
        AssertionResult {
            expr: assertion.expr.clone(),
            step: name,
            actual,
            interval: ends.filter(|(low, high)| low < high && high.is_finite()),
            holds: ends.and_then(|ends| assertion.holds_within(ends)),
        }
    })
}

impl Assertion {
    /// Checks that the run has steps that this selects, and that they measure what it is about.
    ///
    /// # Errors
    /// A usage error that says which part can never apply.
    pub fn check(&self, asked: &Asked) -> Result<()> {
        check_selectors(&self.expr, &self.selectors, asked)?;
        if let Some((what, instead)) = self.metric.missing_in(asked) {
            let what = format!("this run of tare {} measures no {what}", asked.kind.name());
            return Err(refused(&self.expr, &what, instead));
        }
        Ok(())
    }
}

pub(super) fn check_selectors(expr: &str, selectors: &[Selector], asked: &Asked) -> Result<()> {
    let Some(selector) = selectors.iter().find(|selector| !selector.selects_in(asked)) else {
        return Ok(());
    };
    let name = selector.name();
    let advice = format!("leave `{name}` out, or ask for such a step");
    Err(refused(expr, &format!("no step of this run has {name}"), advice))
}

impl Selector {
    fn selects_in(&self, asked: &Asked) -> bool {
        match *self {
            Self::Size(bytes) => asked.sizes.contains(&bytes),
            Self::Connections(n) => asked.connections.contains(&n),
            Self::Loaded(loaded) => !loaded || asked.loaded,
            Self::Stage(stage) => (1..=asked.stages).contains(&stage),
            Self::Rate(rate) => asked.rates_per_s.iter().any(|own| is_same_rate(*own, rate)),
        }
    }
}

impl Metric {
    /// What the run does not measure, and what to type where an option would change that.
    fn missing_in(self, asked: &Asked) -> Option<(&'static str, &'static str)> {
        let (lat, bw) = (asked.kind == Kind::Lat, asked.kind == Kind::Bw);
        let moves_bulk = bw || asked.loaded;
        let (is_there, what, instead) = match self {
            Self::Latency(..) if bw => (false, "latency", "take tare lat, or --under-load of it"),
            Self::Latency(Some(Latency::Response | Latency::Lateness), _) => (
                !asked.rates_per_s.is_empty(),
                "lateness, nor response time from when something was due",
                "give a rate with -R, or write service.",
            ),
            Self::Status(..) => (!lat && !bw, "status codes", "leave it out"),
            Self::Bandwidth(Way::Up) if moves_bulk => {
                (asked.up, "bandwidth upwards", "write --direction both")
            }
            Self::Bandwidth(Way::Down) if moves_bulk => {
                (asked.down, "bandwidth downwards", "write --direction both")
            }
            Self::Retransmits if moves_bulk => {
                (!asked.datagrams, "retransmits, which datagrams do not have", "write lost or loss")
            }
            Self::Bandwidth(_) | Self::Retransmits => {
                (moves_bulk, "bandwidth", "leave it out, or take tare bw")
            }
            Self::Loss | Self::Lost if bw => {
                (asked.datagrams, LOST, "write retransmits, or add --udp")
            }
            Self::Lost => (false, "lost datagrams of bulk traffic", "write loss or timeouts"),
            Self::Cpu => (bw, "CPU time per GiB", "leave it out, or take tare bw"),
            _ => return None,
        };
        (!is_there).then_some((what, instead))
    }
}

/// A figure, and the ends between which it may truly lie.
type Measured = (f64, (f64, f64));

/// Responses with codes from `first` to `last`; absent of what is no HTTP load.
fn responses(step: &StepResult, first: u16, last: u16) -> Option<u64> {
    step.params.http.as_ref()?;
    let within = |code: &str| code.parse().is_ok_and(|code| (first..=last).contains(&code));
    let codes = step.status_codes.iter();
    Some(codes.filter(|(code, _)| within(code)).map(|(_, c)| c.count).sum())
}

/// The figures of a bulk step. Those of a load are not the step's own.
fn bulk(step: &StepResult) -> Option<&Bandwidth> {
    let own = step.params.bulk.is_some() && !is_loaded(&step.params);
    step.bandwidth.as_ref().filter(|_| own)
}

impl Assertion {
    /// What the step tells of it; absent where that was not measured.
    fn measure(&self, step: &StepResult) -> Option<Measured> {
        let achieved = step.rate.achieved_per_s;
        let exact = match self.metric {
            Metric::Latency(latency, statistic) => {
                let headline = Some(headline(&step.latency));
                let summary = latency.map_or(headline, |metric| summary_of(&step.latency, metric));
                return statistic.of(summary?);
            }
            Metric::Bandwidth(way) => return bandwidth(step.bandwidth.as_ref()?, way),
            Metric::Errors => real(errors(step)),
            Metric::Timeouts => real(step.operations.timed_out),
            Metric::Operations => real(step.operations.completed),
            Metric::Loss => share_lost(step)?,
            Metric::Rate => match self.unit {
                Unit::PerSecond => achieved,
                Unit::Share => share_of_target(step)?,
                _ => share_of_target(step).unwrap_or(achieved),
            },
            Metric::Goodput => achieved,
            Metric::Status(first, last) => real(responses(step, first, last)?),
            Metric::Lost => real(bulk(step)?.lost_datagrams?),
            Metric::Retransmits => real(step.bandwidth.as_ref()?.retransmits?),
            Metric::Cpu => bulk(step)?.cpu_s_per_gib? * 1e9,
        };
        Some((exact, (exact, exact)))
    }
}

/// Everything that failed. Not every error is an operation's (a connect that failed), and one
/// operation is one error.
fn errors(step: &StepResult) -> u64 {
    let by_cause: u64 = step.errors.iter().map(|e| e.count).sum();
    if step.params.http.is_none() {
        return by_cause.max(step.operations.failed + step.operations.timed_out);
    }
    let unexpected = step.status_codes.values().filter(|code| !code.expected);
    by_cause + unexpected.map(|code| code.count).sum::<u64>()
}

fn bandwidth(bandwidth: &Bandwidth, way: Way) -> Option<Measured> {
    let of = |flow: &Flow| (flow.bits_per_s, flow.interval_bits_per_s);
    let (actual, interval) = match way {
        Way::Together => (bandwidth.bits_per_s, bandwidth.interval_bits_per_s),
        Way::Up => of(bandwidth.up.as_ref()?),
        Way::Down => of(bandwidth.down.as_ref()?),
    };
    let actual = actual?;
    Some((actual, interval.unwrap_or((actual, actual))))
}

/// The share of a bulk run's datagrams that never came; else that of the operations that had no
/// answer in time.
fn share_lost(step: &StepResult) -> Option<f64> {
    if let Some(bandwidth) = bulk(step) {
        let flows = [&bandwidth.up, &bandwidth.down].into_iter().flatten();
        let sent: u64 = flows.filter_map(|flow| Some(flow.datagrams?.sent)).sum();
        let lost = bandwidth.lost_datagrams?;
        return (sent > 0).then(|| real(lost) / real(sent));
    }
    let operations = &step.operations;
    let decided = operations.sent.saturating_sub(operations.in_flight_at_end);
    (decided > 0).then(|| real(operations.timed_out) / real(decided))
}

/// What was achieved of the target rate; of a paced bulk run, of the bits asked for in each of its
/// directions.
fn share_of_target(step: &StepResult) -> Option<f64> {
    let paced = || {
        let bandwidth = bulk(step)?;
        let asked = step.params.bulk.as_ref()?.rate_bits_per_s?;
        let both = bandwidth.up.is_some() && bandwidth.down.is_some();
        let asked = if both { 2.0 * asked } else { asked };
        Some(bandwidth.bits_per_s? / asked)
    };
    paced().or_else(|| Some(step.rate.achieved_per_s / step.rate.target_per_s?))
}

impl Statistic {
    fn of(self, summary: &Summary) -> Option<Measured> {
        let (actual, interval, is_open) = match self {
            Self::Percentile(percent) => {
                let name = quantile_name(percent);
                let interval = summary.intervals_ns.get(&name);
                let interval = interval.map(|&(low, high)| (real(low), real(high)));
                let is_open = summary.lower_bounds.contains(&name);
                (real(summary.quantile_ns(percent)?), interval, is_open)
            }
            // One censored length leaves these open upwards, the smallest too: the true length may
            // be any up to the next.
            Self::Min => (real(summary.min_ns?), None, summary.censored > 0),
            Self::Mean => (summary.mean_ns?, None, summary.censored > 0),
            Self::Max => (real(summary.max_ns?), None, summary.censored > 0),
            // And the deviation both ways.
            Self::Stdev if summary.censored > 0 => (summary.stdev_ns?, Some((0.0, 0.0)), true),
            Self::Stdev => (summary.stdev_ns?, None, false),
        };
        let (low, high) = interval.unwrap_or((actual, actual));
        Some((actual, (low, if is_open { f64::INFINITY } else { high })))
    }
}
