//! Arrivals that are drawn: of independent users, off their places, or at a rate that changes.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::{Arrivals, JITTER_MAX, Load, RATE_MAX_PER_S, Share, check_rate};
use tare_units::Nanos;
use tare_units::error::{Error, Result};

/// Gaps are rounded to 2^-16 ns and summed as integers, so that all workers agree.
const FRACTION_BITS: u32 = 16;

/// A Poisson process from a seed. Each worker draws all arrivals and keeps its own, so a step costs
/// one draw for each worker there is (about 10 ns); arrivals do not depend on their number.
#[derive(Debug, Clone, PartialEq)]
pub struct Poisson {
    random: Xoshiro256PlusPlus,
    /// The mean gap and the last arrival drawn, in units of 2^-16 ns.
    mean: f64,
    at: u128,
    /// Arrivals to draw until the next own one.
    ahead: u32,
    pub(super) workers: u32,
}

impl Poisson {
    pub fn new(rate_per_s: f64, seed: u64, share: Share) -> Result<Self> {
        check_rate(rate_per_s, RATE_MAX_PER_S)?;
        Ok(Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            mean: 1e9 / rate_per_s * f64::from(1u32 << FRACTION_BITS),
            at: 0,
            ahead: share.worker + 1,
            workers: share.workers,
        })
    }

    #[inline]
    fn gap(&mut self) -> u128 {
        (exponential(&mut self.random) * self.mean).round() as u128
    }
}

/// A number above 0 and below 1: between the multiples of 2^-53.
#[inline]
fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) * (0.5f64).powi(53)
}

/// An exponentially distributed number of mean 1, by inversion: a uniform one is never 0.
#[inline]
fn exponential(random: &mut Xoshiro256PlusPlus) -> f64 {
    -uniform(random).ln()
}

impl Iterator for Poisson {
    type Item = Nanos;

    #[inline]
    fn next(&mut self) -> Option<Nanos> {
        for _ in 0..self.ahead {
            self.at += self.gap();
        }
        self.ahead = self.workers;
        Some(Nanos(u64::try_from(self.at >> FRACTION_BITS).unwrap_or(u64::MAX)))
    }
}

/// Exponential gaps are rounded to 2^-48 of the mean and summed as integers: sums stay exact.
const FRACTION: f64 = (1u64 << 48) as f64;

/// Arrival *k* is due where the cumulative rate reaches the *k*-th arrival of a process of rate
/// one: *k* itself, *k* off its place, or a sum of exponential gaps (Çinlar, Introduction to
/// Stochastic Processes, 1975). Each worker draws for all arrivals and keeps its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Shaped {
    curve: Curve,
    arrivals: Arrivals,
    random: Xoshiro256PlusPlus,
    index: u64,
    /// Exponential gaps so far, in units of 2^-48.
    sum: u128,
    /// Arrivals of others before the next own one.
    skip: u32,
    pub(super) workers: u32,
    last: Nanos,
    pub(super) gap_behind: Nanos,
}

impl Shaped {
    pub fn new(load: &Load, arrivals: Arrivals, seed: u64, share: Share) -> Result<Self> {
        if let Arrivals::Jitter(off) = arrivals
            && !(0.0..=JITTER_MAX).contains(&off)
        {
            let message = format!("arrivals cannot be off their places by {off} of the gap");
            return Err(Error::usage(message)
                .remedy("give at most half of the gap, for example --arrivals jitter:10%"));
        }
        let mean_gap = match arrivals {
            Arrivals::Poisson => Nanos::ZERO,
            _ => Nanos((1e9 / load.to_per_s) as u64),
        };
        Ok(Self {
            curve: Curve::new(load),
            arrivals,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            index: 0,
            sum: 0,
            skip: share.worker,
            workers: share.workers,
            last: Nanos::ZERO,
            gap_behind: mean_gap,
        })
    }

    /// The next arrival of the process of rate one.
    #[inline]
    fn unit(&mut self) -> f64 {
        let place = self.index as f64;
        self.index += 1;
        match self.arrivals {
            Arrivals::Constant => place,
            // Places lie so far in that no arrival is before the start.
            Arrivals::Jitter(off) => place + 2.0 * off * uniform(&mut self.random),
            Arrivals::Poisson => {
                self.sum += (exponential(&mut self.random) * FRACTION).round() as u128;
                self.sum as f64 / FRACTION
            }
        }
    }
}

impl Iterator for Shaped {
    type Item = Nanos;

    #[inline]
    fn next(&mut self) -> Option<Nanos> {
        for _ in 0..self.skip {
            self.unit();
        }
        self.skip = self.workers - 1;
        let unit = self.unit();
        // Rounding may turn two instants around that are nearer to each other than a nanosecond.
        self.last = self.last.max(self.curve.at(unit));
        Some(self.last)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Curve {
    from: f64,
    to: f64,
    hold_s: f64,
    ramp_s: f64,
    /// Arrivals while the first rate is held, and during the ramp.
    held: f64,
    ramped: f64,
}

impl Curve {
    fn new(load: &Load) -> Self {
        let (from, to) = (load.from_per_s, load.to_per_s);
        let (hold_s, ramp_s) = (load.hold.as_secs_f64(), load.ramp.as_secs_f64());
        Self {
            from,
            to,
            hold_s,
            ramp_s,
            held: from * hold_s,
            ramped: f64::midpoint(from, to) * ramp_s,
        }
    }

    #[inline]
    fn at(&self, count: f64) -> Nanos {
        let seconds = if self.from.to_bits() == self.to.to_bits() || count < self.held {
            count / self.from
        } else {
            let count = count - self.held;
            let into = if count >= self.ramped {
                self.ramp_s + (count - self.ramped) / self.to
            } else {
                // from·x + (to - from)·x²/(2·ramp) = count, solved in the form that subtracts no
                // near equals.
                let bend = 2.0 * count * (self.to - self.from) / self.ramp_s;
                2.0 * count / (self.from + self.from.mul_add(self.from, bend).sqrt())
            };
            self.hold_s + into
        };
        Nanos((seconds * 1e9).round() as u64)
    }
}
