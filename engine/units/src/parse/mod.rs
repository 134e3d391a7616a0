//! What a person types: `10ms`, `4K`, `1:256K:*64`, `60/m`, `200M`, `2-5,7`.
//!
//! Sizes and counts follow qperf: `K M G` (and `KiB MiB GiB`) are powers of 1,024, `k m g` (and `kB MB GB`)
//! powers of 1,000. Rates and bit rates are decimal whichever way they are written, as everybody means them.
//! Numbers are scaled in integers, so `1.5ms` is 1,500,000 ns and not one less.

use std::fmt;
use std::str::FromStr;

use super::Nanos;
use crate::error::{Error, Result};
use crate::limits::{CPUS_MAX, STEPS_MAX};

/// Digits of a typed number; 10^20 already exceeds what fits 64 bits.
const DIGITS_MAX: usize = 30;
/// The rarest and the densest schedule, operations per second.
const RATES_PER_S: std::ops::RangeInclusive<f64> = 1e-6..=1e9;

const DURATION_HELP: &str = "write it as 500us, 10ms, 2s or 5m";
const SIZE_HELP: &str = "write it as 64, 4K or 1M (K M G are binary, k m g decimal)";
const COUNT_HELP: &str = "write it as 64, 10k or 1m";
const SWEEP_HELP: &str = "write sweeps as 1:256K:*64 or 64:256:64 (first:last:step)";
const RATE_HELP: &str = "write it as 1000, 2.5, 10k or 60/m";
const BIT_RATE_HELP: &str = "write it as 200M or 1G";
const CPUS_HELP: &str = "write it as 2-5,7";

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// A whole number of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u64);

/// A list of sizes in bytes, sweeps written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(pub Vec<u64>);

/// A list of whole numbers, sweeps written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(pub Vec<u64>);

/// Operations per second: positive, at least one in eleven days, at most 10^9.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct PerSecond(pub f64);

/// Bits per second, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

/// CPU numbers in the order given, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(pub Vec<u32>);

pub(super) fn refuse(kind: &str, text: &str, why: &str, help: &str) -> Error {
    let shown: String = text.chars().take(40).collect();
    Error::usage(format!("'{}' is not a {kind}: {why}", shown.escape_debug())).remedy(help)
}

/// Splits `1.5ms` into the number and what follows it, spaces between them dropped.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `number` times `factor`, exactly, or why not.
fn scale(number: &str, factor: u64) -> std::result::Result<u64, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err("that is no number");
    }
    let fraction = fraction.trim_end_matches('0');
    if whole.len() + fraction.len() > DIGITS_MAX {
        return Err("it has too many digits");
    }
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| "that is no number")?;
    let divisor = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(u32::MAX));
    let product = digits.checked_mul(u128::from(factor)).ok_or("it is too large")?;
    if product % divisor != 0 {
        return Err("it is not a whole number of the smallest unit");
    }
    u64::try_from(product / divisor).map_err(|_| "it is too large")
}

impl FromStr for Nanos {
    type Err = Error;

    /// Parses `500ns`, `500us` (or `µs`), `1.5ms`, `2s`, `5m`, `1h`; and `0`, which needs no unit.
    ///
    /// # Errors
    /// A usage error for anything else, for fractions of a nanosecond and for spans beyond 584 years.
    fn from_str(text: &str) -> Result<Self> {
        let (number, unit) = split(text.trim());
        let refuse = |why: &str| refuse("duration", text, why, DURATION_HELP);
        let factor = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" if scale(number, 1) == Ok(0) => 1,
            "" if !number.is_empty() => return Err(refuse("it has no unit")),
            _ => return Err(refuse("its unit is none of ns, us, ms, s, m and h")),
        };
        scale(number, factor).map(Self).map_err(refuse)
    }
}

/// The factor of a size's or count's suffix.
fn magnitude(suffix: &str) -> Option<u64> {
    Some(match suffix {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        _ => return None,
    })
}

impl FromStr for Size {
    type Err = Error;

    /// Parses `64`, `4K`, `1.5M`, `4 KiB`, `100k`.
    ///
    /// # Errors
    /// A usage error for anything else, and for fractions of a byte.
    fn from_str(text: &str) -> Result<Self> {
        let (number, unit) = split(text.trim());
        let refuse = |why: &str| refuse("size", text, why, SIZE_HELP);
        let factor = match unit {
            "B" => Some(1),
            "KiB" | "kib" => magnitude("K"),
            "MiB" | "mib" => magnitude("M"),
            "GiB" | "gib" => magnitude("G"),
            "kB" | "kb" => magnitude("k"),
            "MB" | "mb" => magnitude("m"),
            "GB" | "gb" => magnitude("g"),
            other => magnitude(other),
        };
        let factor = factor.ok_or_else(|| refuse("its unit is unknown"))?;
        scale(number, factor).map(Self).map_err(refuse)
    }
}

impl fmt::Display for Size {
    /// Prints exactly, in the largest binary unit that divides it: `64 B`, `4 KiB`, `1 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            n if n != 0 && n % (1 << 30) == 0 => (n >> 30, "GiB"),
            n if n != 0 && n % (1 << 20) == 0 => (n >> 20, "MiB"),
            n if n != 0 && n % (1 << 10) == 0 => (n >> 10, "KiB"),
            n => (n, "B"),
        };
        f.pad(&format!("{value} {unit}"))
    }
}

impl FromStr for Count {
    type Err = Error;

    /// Parses `1000`, `10k` (10,000), `1K` (1,024).
    ///
    /// # Errors
    /// A usage error for anything else, and for fractions.
    fn from_str(text: &str) -> Result<Self> {
        let (number, unit) = split(text.trim());
        let refuse = |why: &str| refuse("count", text, why, COUNT_HELP);
        let factor = magnitude(unit).ok_or_else(|| refuse("what follows the number is unknown"))?;
        scale(number, factor).map(Self).map_err(refuse)
    }
}

impl FromStr for Sizes {
    type Err = Error;

    /// Parses a list whose parts are sizes or sweeps: `1,64,4K`, `1:256K:*64`.
    ///
    /// # Errors
    /// A usage error for empty parts, for a bad size, and for a sweep without end.
    fn from_str(text: &str) -> Result<Self> {
        list(text, "size", &|part| part.parse().map(|Size(n)| n)).map(Self)
    }
}

impl FromStr for Counts {
    type Err = Error;

    /// Parses a list whose parts are counts or sweeps: `1,8,64`, `1:256:*4`.
    ///
    /// # Errors
    /// A usage error for empty parts, for a bad count, and for a sweep without end.
    fn from_str(text: &str) -> Result<Self> {
        list(text, "count", &|part| part.parse().map(|Count(n)| n)).map(Self)
    }
}

type Item<'a> = &'a dyn Fn(&str) -> Result<u64>;

fn list(text: &str, kind: &str, item: Item<'_>) -> Result<Vec<u64>> {
    let mut values = Vec::new();
    for part in text.split(',') {
        if part.trim().is_empty() {
            let why = "a part of it is empty";
            return Err(refuse(&format!("list of {kind}s"), text, why, SWEEP_HELP));
        }
        if part.contains(':') {
            sweep(part, item, &mut values)?;
        } else {
            values.push(item(part)?);
        }
        if values.len() > STEPS_MAX {
            return Err(refuse("sweep", text, &too_many_steps(), SWEEP_HELP));
        }
    }
    Ok(values)
}

fn too_many_steps() -> String {
    format!("it has more than {STEPS_MAX} steps")
}

/// Writes out `first:last:step` as qperf counts: `last` is reached only if a step hits it; an empty `first`
/// is 1 where steps multiply and 0 where they add. What makes qperf loop for ever is refused.
fn sweep(text: &str, item: Item<'_>, values: &mut Vec<u64>) -> Result<()> {
    let refuse = |why: &str| refuse("sweep", text, why, SWEEP_HELP);
    let mut parts = text.split(':').map(str::trim);
    let (Some(first), Some(last), Some(step), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(refuse("it needs three parts"));
    };
    if last.is_empty() || step.is_empty() {
        return Err(refuse("it needs a last value and a step"));
    }
    let last = item(last)?;
    let multiplier = step.strip_prefix('*');
    let step = item(multiplier.unwrap_or(step))?;
    let multiplies = multiplier.is_some();
    let first = match first {
        "" => u64::from(multiplies),
        first => item(first)?,
    };
    if multiplies && step < 2 {
        return Err(refuse("multiplying by less than 2 never ends"));
    }
    if multiplies && first == 0 {
        return Err(refuse("multiplying 0 never ends"));
    }
    if step == 0 {
        return Err(refuse("adding 0 never ends"));
    }
    if first > last {
        return Err(refuse("its first value is above its last"));
    }
    let mut next = Some(first);
    while let Some(value) = next.filter(|value| *value <= last) {
        if values.len() >= STEPS_MAX {
            return Err(refuse(&too_many_steps()));
        }
        values.push(value);
        next = if multiplies { value.checked_mul(step) } else { value.checked_add(step) };
    }
    Ok(())
}

impl FromStr for PerSecond {
    type Err = Error;

    /// Parses `1000`, `2.5`, `10k`, `1M`, `60/m`, `100/s`, `5/h`.
    ///
    /// # Errors
    /// A usage error for anything else, for zero, and for rates that are beyond measuring.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| refuse("rate", text, why, RATE_HELP);
        let (amount, period) = match text.trim().split_once('/') {
            None => (text.trim(), "s"),
            Some((amount, period)) => (amount.trim(), period.trim()),
        };
        let period_s = match period {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(refuse("its period is none of s, m and h")),
        };
        let (number, unit) = split(amount);
        let factor = match unit {
            "" => 1.0,
            "k" | "K" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            _ => return Err(refuse("what follows the number is unknown")),
        };
        let number: f64 = number.parse().map_err(|_| refuse("that is no number"))?;
        let rate = number * factor / period_s;
        if !RATES_PER_S.contains(&rate) {
            return Err(refuse("it lies outside one in 1,000,000 seconds to 10^9 a second"));
        }
        Ok(Self(rate))
    }
}

impl fmt::Display for PerSecond {
    /// Prints exactly: `1000/s`, `2.5/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", self.0))
    }
}

impl FromStr for BitRate {
    type Err = Error;

    /// Parses `1G`, `200M`, `1.5Gbit`, `9600 bit/s`: powers of 1,000.
    ///
    /// # Errors
    /// A usage error for anything else, for zero, and for fractions of a bit.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| refuse("bit rate", text, why, BIT_RATE_HELP);
        let (number, unit) = split(text.trim());
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let factor = match unit.strip_suffix("bit").unwrap_or(unit) {
            "" => 1,
            "k" | "K" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(refuse("its unit is none of k, M, G and T")),
        };
        match scale(number, factor) {
            Ok(0) => Err(refuse("it must be above zero")),
            Ok(bits) => Ok(Self(bits)),
            Err(why) => Err(refuse(why)),
        }
    }
}

impl fmt::Display for BitRate {
    /// Prints exactly, in the largest unit that divides it: `1500 Mbit/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [
            (1_000_000_000_000, "Tbit/s"),
            (1_000_000_000, "Gbit/s"),
            (1_000_000, "Mbit/s"),
            (1_000, "kbit/s"),
        ];
        let (factor, unit) = UNITS
            .into_iter()
            .find(|(factor, _)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or((1, "bit/s"));
        f.pad(&format!("{} {unit}", self.0 / factor))
    }
}

impl FromStr for CpuList {
    type Err = Error;

    /// Parses `3`, `2-5,7`, as `taskset -c` and `/sys` write it.
    ///
    /// # Errors
    /// A usage error for anything else, for a CPU named twice, and for numbers that Linux cannot have.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| refuse("list of CPUs", text, why, CPUS_HELP);
        let number = |part: &str| -> Result<u32> {
            let part = part.trim();
            let all_digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let cpu = part.parse().ok().filter(|_| all_digits);
            let cpu: u32 = cpu.ok_or_else(|| refuse("a part of it is no number"))?;
            if cpu >= CPUS_MAX {
                return Err(refuse(&format!("CPU numbers end at {}", CPUS_MAX - 1)));
            }
            Ok(cpu)
        };
        let mut cpus = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                None => (number(part)?, number(part)?),
                Some((first, last)) => (number(first)?, number(last)?),
            };
            if first > last {
                return Err(refuse("a range of it runs backwards"));
            }
            for cpu in first..=last {
                if !seen.insert(cpu) {
                    return Err(refuse(&format!("it names CPU {cpu} twice")));
                }
                cpus.push(cpu);
            }
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    /// Prints as it parses, runs of neighbours as ranges: `2-5,7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: Vec<String> = self
            .0
            .chunk_by(|a, b| a + 1 == *b)
            .map(|run| match run {
                [only] => only.to_string(),
                _ => format!("{}-{}", run[0], run[run.len() - 1]),
            })
            .collect();
        f.pad(&runs.join(","))
    }
}

#[cfg(test)]
mod tests;
