//! When the next operation is due: arithmetic over a rate or a seed, without a clock.
//!
//! One generator defines all arrivals of a run; arrival *k* belongs to worker *k mod n*. A [`Schedule`] yields
//! the intended send times of one worker's arrivals, as offsets from the common start `t0`, in order, and without
//! end: the run ends it. In closed loop there is no schedule: an operation is due when the one before it on its
//! connection is done.

use std::fmt;

use crate::error::{Error, Result};
use crate::units::Nanos;

mod constant;
mod poisson;

pub use constant::Constant;
pub use poisson::Poisson;

/// Slowest rate of a schedule, per second: one in eleven days.
pub const RATE_MIN_PER_S: f64 = 1e-6;
/// Fastest rate of a schedule, per second: one in each nanosecond, the unit of time here.
pub const RATE_MAX_PER_S: f64 = 1e9;

/// How the gaps between arrivals are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Arrivals {
    /// All alike.
    #[default]
    Constant,
    /// Exponentially: what many independent users amount to.
    Poisson,
    /// Alike, but each arrival off its place, evenly distributed, by up to this share of the gap either way, 0 to 0.5.
    Jitter(f64),
}

/// Which of the arrivals are a worker's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    worker: u32,
    workers: u32,
}

impl Share {
    /// All arrivals: the share of a worker that is alone.
    pub const WHOLE: Self = Self {
        worker: 0,
        workers: 1,
    };

    /// The share of worker `worker` (from 0) of `workers`.
    ///
    /// # Panics
    /// When there is no such worker.
    #[must_use]
    pub const fn new(worker: u32, workers: u32) -> Self {
        assert!(worker < workers, "worker numbers are below their count");
        Self { worker, workers }
    }

    /// How many of the first `count` arrivals (or operations, or connections) are this worker's.
    #[must_use]
    pub const fn of(self, count: u64) -> u64 {
        let (worker, workers) = (self.worker as u64, self.workers as u64);
        count / workers + (worker < count % workers) as u64
    }
}

/// The intended send times of one worker, as offsets from the start of the phase.
#[derive(Clone, PartialEq)]
pub enum Schedule {
    /// Equal gaps.
    Constant(Constant),
    /// Independent, exponentially distributed gaps.
    Poisson(Poisson),
}

impl Schedule {
    /// Equal gaps at `rate_per_s` over all workers.
    ///
    /// # Errors
    /// A usage error when the rate is outside [`RATE_MIN_PER_S`] to [`RATE_MAX_PER_S`].
    pub fn constant(rate_per_s: f64, share: Share) -> Result<Self> {
        Constant::new(rate_per_s, share).map(Self::Constant)
    }

    /// A Poisson process of `rate_per_s` over all workers, the same for all workers with the same `seed`.
    ///
    /// # Errors
    /// A usage error when the rate is outside [`RATE_MIN_PER_S`] to [`RATE_MAX_PER_S`].
    pub fn poisson(rate_per_s: f64, seed: u64, share: Share) -> Result<Self> {
        Poisson::new(rate_per_s, seed, share).map(Self::Poisson)
    }
}

impl Iterator for Schedule {
    type Item = Nanos;

    #[inline]
    fn next(&mut self) -> Option<Nanos> {
        match self {
            Self::Constant(constant) => constant.next(),
            Self::Poisson(poisson) => poisson.next(),
        }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(constant) => constant.fmt(f),
            Self::Poisson(poisson) => poisson.fmt(f),
        }
    }
}

fn check_rate(rate_per_s: f64) -> Result<()> {
    if (RATE_MIN_PER_S..=RATE_MAX_PER_S).contains(&rate_per_s) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "a rate of {rate_per_s} per second cannot be scheduled"
    ))
    .remedy("give a rate between 0.000001 and 1000000000 per second, for example 1000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        for (count, workers) in [(0, 1), (1, 4), (7, 3), (64, 64), (1_000_003, 7)] {
            let sum: u64 = (0..workers).map(|w| Share::new(w, workers).of(count)).sum();
            assert_eq!(sum, count);
        }
        assert_eq!(Share::new(1, 3).of(2), 1);
        assert_eq!(Share::new(2, 3).of(2), 0);
    }

    #[test]
    fn rates_that_make_no_sense_are_refused_with_advice() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-7, 1.1e9] {
            for schedule in [
                Schedule::constant(rate, Share::WHOLE),
                Schedule::poisson(rate, 1, Share::WHOLE),
            ] {
                let error = schedule.unwrap_err();
                assert_eq!(error.fault(), crate::error::Fault::Usage);
                assert!(error.advice().is_some_and(|a| a.contains("for example")));
            }
        }
    }
}
