//! When the next operation is due: arithmetic over a rate or a seed, without a clock.
//!
//! One generator defines all arrivals of a run; arrival *k* belongs to worker *k mod n*. A
//! [`Schedule`] yields the intended send times of one worker's arrivals, as offsets from the common
//! start `t0`, in order, and without end: the run ends it. In closed loop there is no schedule: an
//! operation is due when the one before it on its connection is done.

use std::fmt;
use std::str::FromStr;

use tare_units::Nanos;
use tare_units::error::{Error, Result};

mod constant;
mod drawn;

pub(crate) use constant::Constant;
use drawn::{Poisson, Shaped};

/// Slowest rate of a schedule, per second: one in eleven days; and the fastest: one in each
/// nanosecond, the unit of time here.
const RATE_MIN_PER_S: f64 = 1e-6;
const RATE_MAX_PER_S: f64 = 1e9;
/// Fastest rate of requests, per second. Workers walk along their arrivals twice, at 2 to 20 ns
/// each: at a rate far beyond this one they would fall behind the clock.
pub(crate) const ARRIVALS_MAX_PER_S: f64 = 2e7;

/// Jittered arrivals are off by at most this share of the gap: else they overtake each other.
const JITTER_MAX: f64 = 0.5;

/// Where only `jitter` is typed.
const JITTER_DEFAULT: f64 = 0.1;

/// How the gaps between arrivals are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Arrivals {
    /// All alike.
    #[default]
    Constant,
    /// Exponentially: what many independent users amount to.
    Poisson,
    /// Alike, but each evenly distributed up to this share of the gap off its place, 0 to 0.5.
    Jitter(f64),
}

impl Arrivals {
    /// The name in flags and results, without the share of jitter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
            Self::Jitter(_) => "jitter",
        }
    }
}

impl fmt::Display for Arrivals {
    /// Prints as it parses: `constant`, `poisson`, `jitter:10%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Jitter(share) = self else { return f.pad(self.name()) };
        // 0.07 · 100 is a little more than 7.
        let percent = (share * 1e11).round() / 1e9;
        f.pad(&format!("jitter:{percent}%"))
    }
}

impl FromStr for Arrivals {
    type Err = Error;

    /// Parses `constant`, `poisson`, `jitter:10%` and `jitter`, which is 10 %.
    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(40).collect();
        let refuse = |why: &str| {
            Error::usage(format!("arrivals '{}' {why}", shown.escape_debug()))
                .remedy("write constant, poisson or jitter:10%")
        };
        let percent = match text.trim() {
            "constant" => return Ok(Self::Constant),
            "poisson" => return Ok(Self::Poisson),
            "jitter" => return Ok(Self::Jitter(JITTER_DEFAULT)),
            text => text.strip_prefix("jitter:").ok_or_else(|| refuse("are unknown"))?,
        };
        let number = percent.strip_suffix('%').map(str::trim).filter(|number| {
            // No sign, no exponent, and no `inf`.
            number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        });
        let share = number.and_then(|number| number.parse::<f64>().ok());
        let share = share.ok_or_else(|| refuse("have no share in percent"))? / 100.0;
        if share > JITTER_MAX {
            return Err(refuse("would overtake each other: half of the gap, 50 %, is the most"));
        }
        Ok(Self::Jitter(share))
    }
}

/// How many arrivals there are per second over all workers: a rate that is held, and then changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Per second, from the start on.
    pub from_per_s: f64,
    /// Per second at the end of the ramp, and from there on.
    pub to_per_s: f64,
    /// So long the first rate is held: the warm-up.
    pub hold: Nanos,
    /// So long the rate then takes from the first to the last, linear in time.
    pub ramp: Nanos,
}

impl Load {
    /// The same rate for ever.
    pub const fn steady(rate_per_s: f64) -> Self {
        Self { from_per_s: rate_per_s, to_per_s: rate_per_s, hold: Nanos::ZERO, ramp: Nanos::ZERO }
    }
}

/// Which of the arrivals are a worker's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    worker: u32,
    workers: u32,
}

impl Share {
    /// All arrivals: the share of a worker that is alone.
    pub const WHOLE: Self = Self { worker: 0, workers: 1 };

    /// The share of worker `worker` (from 0) of `workers`.
    ///
    /// # Panics
    /// When there is no such worker.
    pub const fn new(worker: u32, workers: u32) -> Self {
        assert!(worker < workers, "worker numbers are below their count");
        Self { worker, workers }
    }

    /// How many of the first `count` arrivals (or operations, or connections) are this worker's.
    pub const fn of(self, count: u64) -> u64 {
        let (worker, workers) = (self.worker as u64, self.workers as u64);
        count / workers + (worker < count % workers) as u64
    }
}

/// The intended send times of one worker, as offsets from the start of the phase.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// Equal gaps.
    Constant(Constant),
    /// Independent, exponentially distributed gaps.
    Poisson(Poisson),
    /// A rate that changes, or arrivals off their places.
    Shaped(Shaped),
}

impl Schedule {
    /// The arrivals of `load`, the same for all workers with the same `seed`; the first of equal
    /// gaps is due at once. Jittered ones have their places so much later that none is before the
    /// start.
    pub fn new(load: &Load, arrivals: Arrivals, seed: u64, share: Share) -> Result<Self> {
        check_rate(load.from_per_s, ARRIVALS_MAX_PER_S)?;
        check_rate(load.to_per_s, ARRIVALS_MAX_PER_S)?;
        let is_steady = load.from_per_s.to_bits() == load.to_per_s.to_bits();
        match arrivals {
            Arrivals::Constant if is_steady => Self::constant(load.from_per_s, share),
            Arrivals::Poisson if is_steady => Self::poisson(load.from_per_s, seed, share),
            _ => Shaped::new(load, arrivals, seed, share).map(Self::Shaped),
        }
    }

    /// Equal gaps, with a first arrival at once.
    pub fn constant(rate_per_s: f64, share: Share) -> Result<Self> {
        Constant::new(rate_per_s, share).map(Self::Constant)
    }

    /// The Poisson process that `seed` defines.
    pub fn poisson(rate_per_s: f64, seed: u64, share: Share) -> Result<Self> {
        Poisson::new(rate_per_s, seed, share).map(Self::Poisson)
    }

    /// How many arrivals are drawn for one of this worker, at 10 ns each; none if just counted.
    pub(crate) const fn draws(&self) -> u64 {
        match self {
            Self::Constant(_) => 0,
            Self::Poisson(poisson) => poisson.workers as u64,
            Self::Shaped(shaped) => shaped.workers as u64,
        }
    }

    /// What belongs to an arrival behind it, so that *n* arrivals take *n* gaps on average: a mean
    /// gap where the first is due at once, nothing where each comes after a gap.
    pub(crate) const fn gap_behind(&self) -> Nanos {
        match self {
            Self::Constant(constant) => constant.gap,
            Self::Poisson(_) => Nanos::ZERO,
            Self::Shaped(shaped) => shaped.gap_behind,
        }
    }
}

impl Iterator for Schedule {
    type Item = Nanos;

    #[inline]
    fn next(&mut self) -> Option<Nanos> {
        match self {
            Self::Constant(constant) => constant.next(),
            Self::Poisson(poisson) => poisson.next(),
            Self::Shaped(shaped) => shaped.next(),
        }
    }
}

fn check_rate(rate_per_s: f64, most_per_s: f64) -> Result<()> {
    if (RATE_MIN_PER_S..=most_per_s).contains(&rate_per_s) {
        return Ok(());
    }
    Err(Error::usage(format!("a rate of {rate_per_s} per second cannot be scheduled")).remedy(
        format!("give a rate between 0.000001 and {most_per_s} per second, for example 1000"),
    ))
}

#[cfg(test)]
mod tests;
