//! Durations, instants, rates and sizes as newtypes: how they parse, print and round. No clock
//! inside.
//!
//! What is typed is parsed exactly: a number is never rounded to fit its unit, it is refused.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bounds;
pub mod control;
pub mod error;
pub mod limits;
mod parse;
pub mod path;
pub mod target;
pub mod text;

pub use parse::{BitRate, Count, Counts, CpuList, PerSecond, Size, Sizes};

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time in whole nanoseconds.
///
/// Arithmetic saturates: a measurement never wraps and never panics.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest span that can be told.
    pub const MAX: Self = Self(u64::MAX);

    /// `us` microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// `s` seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }

    /// This span in seconds, rounded to the nearest double.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl From<Duration> for Nanos {
    fn from(d: Duration) -> Self {
        Self(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(n: Nanos) -> Self {
        Self::from_nanos(n.0)
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A point on the monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than every instant that a clock tells.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The time since `earlier`; zero where `earlier` is in fact later.
    pub const fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Nanos> for Instant {
    type Output = Self;
    fn add(self, span: Nanos) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl fmt::Display for Nanos {
    /// Prints with the largest unit that keeps the number at or above one, and three decimals at
    /// most: `850 ns`, `12.3 µs`, `2 ms`, `1.5 s`. Rounds to the nearest digit that is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            n if n < 1_000 => return f.pad(&format!("{n} ns")),
            n if n < 1_000_000 => (self.as_secs_f64() * 1e6, "µs"),
            n if n < 1_000_000_000 => (self.as_secs_f64() * 1e3, "ms"),
            _ => (self.as_secs_f64(), "s"),
        };
        let decimals = match value {
            ..10.0 => 2,
            ..100.0 => 1,
            _ => 0,
        };
        let text = format!("{value:.decimals$}");
        let text = match decimals {
            0 => &*text,
            _ => text.trim_end_matches('0').trim_end_matches('.'),
        };
        f.pad(&format!("{text} {unit}"))
    }
}
