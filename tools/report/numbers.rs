//! Numbers as people read them: times with their unit, bits decimal, bytes binary, three or four
//! digits.

use tare_stats::result::{Estimate, Summary, quantile_name};
use tare_units::Nanos;

/// Printed where a quantile has too few samples beyond it, or a figure is not known.
pub(super) const NONE: &str = "–";

/// A gibibyte, in the mebibytes that CPU time is given by.
pub(super) const MIB_PER_GIB: f64 = 1024.0;

pub(super) type Unit = (&'static str, f64);

const BITS: [Unit; 4] = [("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0)];
const BYTES_PER_S: [Unit; 4] = [("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)];
const BYTES: [Unit; 5] = [
    ("TiB", 1_099_511_627_776.0),
    ("GiB", 1_073_741_824.0),
    ("MiB", 1_048_576.0),
    ("KiB", 1_024.0),
    ("B", 1.0),
];

/// The largest of `units` that `value` holds at least once, else the smallest.
fn fitting(value: f64, units: &[Unit]) -> Unit {
    *units.iter().find(|unit| value >= unit.1).unwrap_or(&units[units.len() - 1])
}

pub(super) fn unit_of_bits(bits_per_s: f64) -> Unit {
    fitting(bits_per_s, &BITS)
}

/// Decimals that show so many significant digits of a number; none of zero.
pub(super) fn decimals(number: f64, digits: i64) -> usize {
    if number == 0.0 {
        return 0;
    }
    usize::try_from(digits - 1 - number.abs().log10().floor() as i64).unwrap_or_default()
}

/// A number with that many significant digits, no exponent, and nothing made up before the point.
pub(super) fn significant(value: f64, digits: i64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    let text = format!("{value:.*}", decimals(value, digits));
    // Rounding may have carried into one digit more: 9.9996 is 10.00, not 10.000.
    let rounded: f64 = text.parse().unwrap_or(value);
    format!("{rounded:.*}", decimals(rounded, digits).min(decimals(value, digits)))
}

fn in_unit(value: f64, (name, one): Unit, digits: i64) -> String {
    format!("{} {name}", significant(value / one, digits))
}

/// `9.412 Gbit/s`.
pub(crate) fn bits(bits_per_s: f64) -> String {
    in_unit(bits_per_s, unit_of_bits(bits_per_s), 4)
}

/// A rate that somebody chose, so mostly a round one: `200 Mbit/s`.
pub(super) fn round_bits(bits_per_s: f64) -> String {
    let (name, one) = unit_of_bits(bits_per_s);
    format!("{} {name}", trimmed(&significant(bits_per_s / one, 4)))
}

/// Without the zeros at the end of a fraction.
pub(super) fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// `9.412 ± 0.021 Gbit/s`, where there is an interval.
pub(super) fn bits_within(bits_per_s: Option<f64>, interval: Option<(f64, f64)>) -> String {
    match (bits_per_s, interval) {
        (Some(rate), Some(interval)) => {
            let unit = unit_of_bits(rate);
            let half = half_width(interval, unit);
            format!("{} ± {half} {}", significant(rate / unit.1, 4), unit.0)
        }
        (rate, _) => known(rate, bits),
    }
}

pub(super) fn half_width((low, high): (f64, f64), unit: Unit) -> String {
    significant((high - low) / 2.0 / unit.1, 2)
}

/// The same rate as qperf prints it, in decimal multiples of bytes: `1.176 GB/s`.
pub(super) fn bytes_per_s(bits_per_s: f64) -> String {
    in_unit(bits_per_s / 8.0, fitting(bits_per_s / 8.0, &BYTES_PER_S), 4)
}

/// `5.48 GiB`.
pub(super) fn volume(bytes: u64) -> String {
    match fitting(bytes as f64, &BYTES) {
        ("B", _) => format!("{bytes} B"),
        unit => in_unit(bytes as f64, unit, 3),
    }
}

/// `62 %`, `0.41 %`.
pub(super) fn percent(share: f64) -> String {
    let digits = if share >= 0.1 { 3 } else { 2 };
    format!("{} %", trimmed(&significant(share * 100.0, digits)))
}

/// `part` of `whole` in per cent, to the ten-thousandth.
pub(super) fn share(part: u64, whole: u64) -> String {
    match trimmed(&format!("{:.4}", part as f64 / whole.max(1) as f64 * 100.0)) {
        "0" => " (below 0.0001 %)".to_owned(),
        percent => format!(" ({percent} %)"),
    }
}

pub(super) fn cpu_per_gib(seconds: Option<f64>) -> String {
    known(seconds, |s| format!("{} s/GiB", significant(s, 3)))
}

/// CPU time per MiB: `801 µs/MiB`.
pub(super) fn cpu_per_mib(ns: f64) -> String {
    format!("{}/MiB", nanos(ns))
}

/// A whole number with its thousands set apart: `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// `1,234 round trips`.
pub(crate) fn plural(count: u64, what: &str) -> String {
    let s = if what.ends_with("ch") { "es" } else { "s" };
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { s })
}

/// Something per second, three digits at least: `108,231/s`, `2.5/s`.
pub(super) fn per_second(rate: f64) -> String {
    if rate >= 100.0 {
        return format!("{}/s", grouped(whole(rate)));
    }
    // Two digits that count, however slow: a request in a million seconds is not none.
    let digits = decimals(rate.max(1e-9), 2).max(2);
    format!("{}/s", trimmed(&format!("{rate:.digits$}")))
}

pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}

pub(super) fn nanos(ns: f64) -> Nanos {
    Nanos(whole(ns))
}

pub(super) fn time(ns: impl Into<Option<u64>>) -> String {
    known(ns.into(), |ns| Nanos(ns).to_string())
}

pub(super) fn known<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), show)
}

/// A value in the unit that the result tells beside it: `ns`, `bit/s`, `1/s`, or none for a ratio.
pub(super) fn shown(unit: &str, value: f64) -> String {
    let size = value.abs();
    let text = match unit {
        "ns" if size > 0.0 && size < 10.0 => format!("{} ns", significant(size, 2)),
        "ns" => nanos(size).to_string(),
        "bit/s" => bits(size),
        "1/s" if size == 0.0 => "0/s".to_owned(),
        "1/s" => per_second(size),
        _ => significant(size, 4),
    };
    if value < 0.0 { format!("−{text}") } else { text }
}

pub(super) fn signed(unit: &str, value: f64) -> String {
    let plus = if value > 0.0 { "+" } else { "" };
    format!("{plus}{}", shown(unit, value))
}

/// The interval of an estimate: `+1 µs to +2 µs`.
pub(super) fn interval(estimate: Option<Estimate>, show: impl Fn(f64) -> String) -> String {
    let ends = estimate.and_then(|estimate| estimate.interval);
    known(ends, |(low, high)| format!("{} to {}", show(low), show(high)))
}

/// `p99.9` for 99.9 per cent.
pub(super) fn heading(percent: f64) -> String {
    format!("p{percent}")
}

/// `p99.9` for `p99_9`.
pub(super) fn measure_name(measure: &str) -> String {
    measure.replace('_', ".")
}

/// A figure of a distribution. Where samples are only known to be at least so long it is marked:
/// `≥` where it is a lower bound, `≈` where it may come out either way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Statistic {
    Min,
    Mean,
    Stdev,
    Quantile(f64),
    Max,
}

impl Statistic {
    pub(super) fn name(self) -> String {
        match self {
            Self::Min => "min".to_owned(),
            Self::Mean => "mean".to_owned(),
            Self::Stdev => "stdev".to_owned(),
            Self::Quantile(percent) => heading(percent),
            Self::Max => "max".to_owned(),
        }
    }

    pub(super) fn ns(self, of: &Summary) -> Option<u64> {
        match self {
            Self::Min => of.min_ns,
            Self::Mean => of.mean_ns.map(whole),
            Self::Stdev => of.stdev_ns.map(whole),
            Self::Quantile(percent) => of.quantile_ns(percent),
            Self::Max => of.max_ns,
        }
    }

    pub(super) fn shown(self, of: &Summary) -> String {
        self.marked(of, self.ns(of))
    }

    /// Half of it; of the spread nobody wants that.
    pub(super) fn half(self, of: &Summary) -> String {
        match self {
            Self::Stdev => String::new(),
            _ => self.marked(of, self.ns(of).map(|ns| ns / 2)),
        }
    }

    fn marked(self, of: &Summary, ns: Option<u64>) -> String {
        let mark = match self {
            Self::Min => "",
            Self::Stdev if of.censored > 0 => "≈ ",
            Self::Stdev => "± ",
            Self::Quantile(percent) if of.lower_bounds.contains(&quantile_name(percent)) => "≥ ",
            Self::Mean | Self::Max if of.censored > 0 => "≥ ",
            _ => "",
        };
        known(ns, |ns| format!("{mark}{}", Nanos(ns)))
    }

    pub(super) fn if_quantile(self, show: impl FnOnce(f64) -> String) -> String {
        match self {
            Self::Quantile(percent) => show(percent),
            _ => String::new(),
        }
    }
}

pub(super) fn quantile(summary: &Summary, percent: f64) -> String {
    Statistic::Quantile(percent).shown(summary)
}

pub(super) fn mean(summary: &Summary) -> String {
    Statistic::Mean.shown(summary)
}

pub(super) fn longest(summary: &Summary) -> String {
    Statistic::Max.shown(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(per_second(108_230.7), "108,231/s");
        assert_eq!(per_second(2.5), "2.5/s");
        assert_eq!(per_second(0.0), "0/s");
        assert_eq!(per_second(0.000_001), "0.000001/s");
        assert_eq!(per_second(1.0 / 300.0), "0.0033/s");
        assert_eq!(per_second(99.999), "100/s");
        assert_eq!(share(1, 1000), " (0.1 %)");
        assert_eq!(share(100, 100), " (100 %)");
        assert_eq!(share(1, 100_000_000), " (below 0.0001 %)");
        assert_eq!(plural(1, "round trip"), "1 round trip");
    }

    #[test]
    fn lower_bounds_are_marked() {
        let mut summary = Summary { p99_ns: Some(2_000_000_000), ..Summary::default() };
        assert_eq!(quantile(&summary, 99.0), "2 s");
        summary.lower_bounds.push("p99".into());
        summary.lower_bounds.push("p50".into());
        assert_eq!(quantile(&summary, 99.0), "≥ 2 s");
        assert_eq!(quantile(&summary, 50.0), NONE);
        summary.mean_ns = Some(1_500.0);
        summary.stdev_ns = Some(100.0);
        let stdev = |summary: &Summary| Statistic::Stdev.shown(summary);
        assert_eq!([mean(&summary), stdev(&summary)], ["1.5 µs", "± 100 ns"]);
        summary.censored = 1;
        assert_eq!([mean(&summary), stdev(&summary)], ["≥ 1.5 µs", "≈ 100 ns"]);
    }

    #[test]
    fn digits_are_the_significant_ones() {
        for (value, digits, text) in [
            (9.4123, 4, "9.412"),
            (94.123, 4, "94.12"),
            (941.23, 4, "941.2"),
            (9_412.3, 4, "9412"),
            (123_456.0, 3, "123456"),
            (0.014_94, 3, "0.0149"),
            (9.999_96, 4, "10.00"),
            (0.099_99, 2, "0.10"),
            (0.0, 3, "0"),
            (f64::NAN, 3, "0"),
        ] {
            assert_eq!(significant(value, digits), text, "{value}");
        }
    }

    #[test]
    fn rates_and_volumes_have_the_unit_that_fits() {
        assert_eq!(bits(9.4123e9), "9.412 Gbit/s");
        assert_eq!(bits(14.94e6), "14.94 Mbit/s");
        assert_eq!(bits(999.0), "999.0 bit/s");
        assert_eq!(bits(0.0), "0 bit/s");
        assert_eq!(bits(2.5e12), "2500 Gbit/s");
        assert_eq!(bits_within(Some(9.4123e9), Some((9.39e9, 9.432e9))), "9.412 ± 0.021 Gbit/s");
        assert_eq!(bits_within(Some(1e6), None), "1.000 Mbit/s");
        assert_eq!(bits_within(None, None), NONE, "nobody told");
        assert_eq!(round_bits(200e6), "200 Mbit/s");
        assert_eq!(round_bits(1.5e9), "1.5 Gbit/s");
        assert_eq!(bytes_per_s(9.4123e9), "1.177 GB/s");
        assert_eq!(bytes_per_s(8e6), "1.000 MB/s");
        assert_eq!(volume(5_884_000_000), "5.48 GiB");
        assert_eq!(volume(1 << 20), "1.00 MiB");
        assert_eq!(volume(1_023), "1023 B");
        assert_eq!(percent(0.62), "62 %");
        assert_eq!(percent(0.004_1), "0.41 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(cpu_per_gib(Some(0.8204)), "0.820 s/GiB");
        assert_eq!(cpu_per_gib(None), NONE);
        assert_eq!(cpu_per_mib(801_200.0), "801 µs/MiB");
    }

    #[test]
    fn values_have_their_unit_and_their_sign() {
        assert_eq!(shown("ns", 12_300.4), "12.3 µs");
        assert_eq!(shown("ns", -0.42), "−0.42 ns");
        assert_eq!(signed("ns", 5_000.0), "+5 µs");
        assert_eq!(signed("bit/s", -2e9), "−2.000 Gbit/s");
        assert_eq!(signed("1/s", 0.0), "0/s");
        assert_eq!(shown("", 1.0345), "1.034");
        assert_eq!(known(None, |value| shown("ns", value)), NONE);
    }
}
