//! What a person types: `10ms`, `4K`, `1:256K:*64`, `60/m`, `200M`, `2-5,7`.
//!
//! Sizes and counts follow qperf: `K M G` (and `KiB MiB GiB`) are powers of 1,024,
//! `k m g` (and `kB MB GB`) powers of 1,000. Rates and bit rates are decimal whichever way they are
//! written, as everybody means them. Numbers are scaled in integers, so `1.5ms` is 1,500,000 ns and
//! not one less. What cannot be parsed is a usage error.

use std::fmt;
use std::str::FromStr;

use super::Nanos;
use crate::error::{Error, Result};
use crate::limits::{CPUS_MAX, STEPS_MAX};

/// Digits of a typed number; 10^20 already exceeds what fits 64 bits.
const DIGITS_MAX: usize = 30;
/// The rarest and the densest schedule, operations per second.
const RATES_PER_S: std::ops::RangeInclusive<f64> = 1e-6..=1e9;

/// A size in bytes: `64`, `4K`, `1.5M`, `4 KiB`, `100k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// A whole number of things: `1000`, `10k` (10,000), `1K` (1,024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u64);

/// Sizes in bytes, and sweeps over them, which are written out: `1,64,4K`, `1:256K:*64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(pub Vec<u64>);

/// Whole numbers, and sweeps over them, which are written out: `1,8,64`, `1:256:*4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(pub Vec<u64>);

/// Operations per second, at least one in eleven days, at most 10^9: `1000`, `2.5`, `10k`, `1M`,
/// `60/m`, `100/s`, `5/h`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct PerSecond(pub f64);

/// Bits per second, positive, in powers of 1,000: `1G`, `200M`, `1.5Gbit`, `9600 bit/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

/// CPU numbers in the order given, each once: `3`, `2-5,7`, as `taskset -c` and `/sys` write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(pub Vec<u32>);

/// A kind of number: its name and an example for errors, and its suffixes with their factors.
struct Kind {
    name: &'static str,
    help: &'static str,
    suffixes: &'static [(&'static [&'static str], u64)],
    unknown_suffix: &'static str,
}

const DURATION: Kind = Kind {
    name: "duration",
    help: "write it as 500us, 10ms, 2s or 5m",
    suffixes: &[
        (&["ns"], 1),
        (&["us", "µs", "μs"], 1_000),
        (&["ms"], 1_000_000),
        (&["s"], 1_000_000_000),
        (&["m", "min"], 60_000_000_000),
        (&["h"], 3_600_000_000_000),
    ],
    unknown_suffix: "its unit is none of ns, us, ms, s, m and h",
};

const SIZE: Kind = Kind {
    name: "size",
    help: "write it as 64, 4K or 1M (K M G are binary, k m g decimal)",
    suffixes: &[
        (&["", "B"], 1),
        (&["K", "KiB", "kib"], 1 << 10),
        (&["M", "MiB", "mib"], 1 << 20),
        (&["G", "GiB", "gib"], 1 << 30),
        (&["k", "kB", "kb"], 1_000),
        (&["m", "MB", "mb"], 1_000_000),
        (&["g", "GB", "gb"], 1_000_000_000),
    ],
    unknown_suffix: "its unit is unknown",
};

const COUNT: Kind = Kind {
    name: "count",
    help: "write it as 64, 10k or 1m",
    suffixes: &[
        (&[""], 1),
        (&["K"], 1 << 10),
        (&["M"], 1 << 20),
        (&["G"], 1 << 30),
        (&["k"], 1_000),
        (&["m"], 1_000_000),
        (&["g"], 1_000_000_000),
    ],
    unknown_suffix: "what follows the number is unknown",
};

const RATE: Kind = Kind {
    name: "rate",
    help: "write it as 1000, 2.5, 10k or 60/m",
    suffixes: &[(&[""], 1), (&["k", "K"], 1_000), (&["M"], 1_000_000), (&["G"], 1_000_000_000)],
    unknown_suffix: "what follows the number is unknown",
};

const BIT_RATE: Kind = Kind {
    name: "bit rate",
    help: "write it as 200M or 1G",
    suffixes: &[
        (&[""], 1),
        (&["k", "K"], 1_000),
        (&["M"], 1_000_000),
        (&["G"], 1_000_000_000),
        (&["T"], 1_000_000_000_000),
    ],
    unknown_suffix: "its unit is none of k, M, G and T",
};

const SWEEP_HELP: &str = "write sweeps as 1:256K:*64 or 64:256:64 (first:last:step)";

impl Kind {
    fn refuse(&self, text: &str, why: &str) -> Error {
        refuse(self.name, text, why, self.help)
    }

    fn factor(&self, suffix: &str) -> std::result::Result<u64, &'static str> {
        let known = self.suffixes.iter().find(|(names, _)| names.contains(&suffix));
        known.map(|(_, factor)| *factor).ok_or(self.unknown_suffix)
    }

    fn parse(&self, text: &str) -> Result<u64> {
        let (number, suffix) = split(text.trim());
        let value = self.factor(suffix).and_then(|factor| scale(number, factor));
        value.map_err(|why| self.refuse(text, why))
    }
}

fn refuse(kind: &str, text: &str, why: &str, help: &str) -> Error {
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
    fn from_str(text: &str) -> Result<Self> {
        match split(text.trim()) {
            (number, "") if scale(number, 1) == Ok(0) => Ok(Self::ZERO),
            (number, "") if !number.is_empty() => Err(DURATION.refuse(text, "it has no unit")),
            _ => DURATION.parse(text).map(Self),
        }
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        SIZE.parse(text).map(Self)
    }
}

impl FromStr for Count {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        COUNT.parse(text).map(Self)
    }
}

impl FromStr for Sizes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        list(text, &SIZE).map(Self)
    }
}

impl FromStr for Counts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        list(text, &COUNT).map(Self)
    }
}

fn list(text: &str, kind: &Kind) -> Result<Vec<u64>> {
    let mut values = Vec::new();
    for part in text.split(',') {
        if part.trim().is_empty() {
            let name = format!("list of {}s", kind.name);
            return Err(refuse(&name, text, "a part of it is empty", SWEEP_HELP));
        }
        if part.contains(':') {
            sweep(part, kind, &mut values)?;
        } else {
            values.push(kind.parse(part)?);
        }
        if values.len() > STEPS_MAX {
            let why = format!("it has more than {STEPS_MAX} steps");
            return Err(refuse("sweep", text, &why, SWEEP_HELP));
        }
    }
    Ok(values)
}

/// Writes out `first:last:step` as qperf counts, up to one value more than is allowed: `last` is
/// reached only if a step hits it; an empty `first` is 1 where steps multiply and 0 where they add.
/// What makes qperf loop for ever is refused.
fn sweep(text: &str, kind: &Kind, values: &mut Vec<u64>) -> Result<()> {
    let refuse = |why: &str| Err(refuse("sweep", text, why, SWEEP_HELP));
    let parts: Vec<&str> = text.split(':').map(str::trim).collect();
    let [first, last, step] = parts[..] else { return refuse("it needs three parts") };
    if last.is_empty() || step.is_empty() {
        return refuse("it needs a last value and a step");
    }
    let last = kind.parse(last)?;
    let multiplier = step.strip_prefix('*');
    let step = kind.parse(multiplier.unwrap_or(step))?;
    let multiplies = multiplier.is_some();
    let first = match first {
        "" => u64::from(multiplies),
        first => kind.parse(first)?,
    };
    match (multiplies, first, step) {
        (true, _, 0 | 1) => return refuse("multiplying by less than 2 never ends"),
        (true, 0, _) => return refuse("multiplying 0 never ends"),
        (false, _, 0) => return refuse("adding 0 never ends"),
        _ if first > last => return refuse("its first value is above its last"),
        _ => {}
    }
    let next =
        |value: &u64| if multiplies { value.checked_mul(step) } else { value.checked_add(step) };
    let all = std::iter::successors(Some(first), next).take_while(|value| *value <= last);
    values.extend(all.take(STEPS_MAX + 1));
    Ok(())
}

impl FromStr for PerSecond {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| RATE.refuse(text, why);
        let typed = text.trim();
        let (amount, period) = typed.split_once('/').unwrap_or((typed, "s"));
        let period_s = match period.trim() {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(refuse("its period is none of s, m and h")),
        };
        let (number, suffix) = split(amount.trim());
        let factor = RATE.factor(suffix).map_err(refuse)?;
        let number: f64 = number.parse().map_err(|_| refuse("that is no number"))?;
        let rate = number * factor as f64 / period_s;
        if !RATES_PER_S.contains(&rate) {
            return Err(refuse("it lies outside one in 1,000,000 seconds to 10^9 a second"));
        }
        Ok(Self(rate))
    }
}

impl FromStr for BitRate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, suffix) = split(text.trim());
        let suffix = suffix.strip_suffix("/s").unwrap_or(suffix);
        let suffix = suffix.strip_suffix("bit").unwrap_or(suffix);
        match BIT_RATE.factor(suffix).and_then(|factor| scale(number, factor)) {
            Ok(0) => Err(BIT_RATE.refuse(text, "it must be above zero")),
            Ok(bits) => Ok(Self(bits)),
            Err(why) => Err(BIT_RATE.refuse(text, why)),
        }
    }
}

impl FromStr for CpuList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| refuse("list of CPUs", text, why, "write it as 2-5,7");
        let number = |part: &str| {
            // Rust's own parser would take a sign.
            let digits = Some(part.trim()).filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
            match digits.and_then(|digits| digits.parse().ok()) {
                None => Err(refuse("a part of it is no number")),
                Some(CPUS_MAX..) => Err(refuse(&format!("CPU numbers end at {}", CPUS_MAX - 1))),
                Some(cpu) => Ok(cpu),
            }
        };
        let mut cpus = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (number(first)?, number(last)?);
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

impl fmt::Display for Size {
    /// Prints exactly, in the largest binary unit that divides it: `64 B`, `4 KiB`, `1 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let divides = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        let unit = units.into_iter().find(|(shift, _)| divides(*shift));
        let (shift, unit) = unit.unwrap_or((0, "B"));
        f.pad(&format!("{} {unit}", self.0 >> shift))
    }
}

impl fmt::Display for CpuList {
    /// Prints as it parses, runs of neighbours as ranges: `2-5,7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
            [only] => only.to_string(),
            _ => format!("{}-{}", run[0], run[run.len() - 1]),
        });
        f.pad(&runs.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests;
