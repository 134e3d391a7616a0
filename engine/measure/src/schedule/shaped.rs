//! Arrivals whose rate changes, and such as are off their places: a process of rate one, and time
//! bent under it.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use super::poisson::{exponential, uniform};
use super::{Arrivals, JITTER_MAX, Load, RATE_MAX_PER_S, Share, check_rate};
use tare_units::Nanos;
use tare_units::error::{Error, Result};

/// Exponential gaps are rounded to 2^-48 of the mean and summed as integers, so that nothing is
/// lost in long sums.
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
    workers: u32,
    last: Nanos,
    gap_behind: Nanos,
}

impl Shaped {
    /// A worker's arrivals of the process that `load`, `arrivals` and `seed` define over all
    /// workers.
    pub fn new(load: &Load, arrivals: Arrivals, seed: u64, share: Share) -> Result<Self> {
        check_rate(load.from_per_s, RATE_MAX_PER_S)?;
        check_rate(load.to_per_s, RATE_MAX_PER_S)?;
        if let Arrivals::Jitter(off) = arrivals
            && !(0.0..=JITTER_MAX).contains(&off)
        {
            let message = format!("arrivals cannot be off their places by {off} of the gap");
            return Err(Error::usage(message)
                .remedy("give at most half of the gap, for example --arrivals jitter:10%"));
        }
        Ok(Self {
            curve: Curve::new(load),
            arrivals,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            index: 0,
            sum: 0,
            skip: share.worker,
            workers: share.workers,
            last: Nanos::ZERO,
            gap_behind: match arrivals {
                Arrivals::Poisson => Nanos::ZERO,
                _ => mean_gap(load.to_per_s),
            },
        })
    }

    /// What belongs to an arrival behind it, once the rate is the last one: see
    /// [`super::Schedule::gap_behind`].
    pub const fn gap_behind(&self) -> Nanos {
        self.gap_behind
    }

    pub(crate) const fn workers(&self) -> u64 {
        self.workers as u64
    }

    /// The next arrival of the process of rate one.
    #[inline]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "10^9 a second are below 2^53 for 100 days; a gap is positive and below 2^6"
    )]
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

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive rate, and the cast saturates"
)]
fn mean_gap(rate_per_s: f64) -> Nanos {
    Nanos((1e9 / rate_per_s) as u64)
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
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and saturating is what is meant"
    )]
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
