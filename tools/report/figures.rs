//! Rates, volumes and shares as people read them: bits decimal, bytes binary, three or four digits.

use tare_units::Nanos;

use super::NONE;

/// A gibibyte, in the mebibytes that CPU time is given by.
pub(super) const MIB_PER_GIB: f64 = 1024.0;

/// A unit and what one of it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    factor: f64,
}

const BITS: [Unit; 4] =
    [unit("Gbit/s", 1e9), unit("Mbit/s", 1e6), unit("kbit/s", 1e3), unit("bit/s", 1.0)];
const BYTES_PER_S: [Unit; 4] =
    [unit("GB/s", 1e9), unit("MB/s", 1e6), unit("kB/s", 1e3), unit("B/s", 1.0)];
const BYTES: [Unit; 5] = [
    unit("TiB", 1_099_511_627_776.0),
    unit("GiB", 1_073_741_824.0),
    unit("MiB", 1_048_576.0),
    unit("KiB", 1_024.0),
    unit("B", 1.0),
];

const fn unit(name: &'static str, factor: f64) -> Unit {
    Unit { name, factor }
}

impl Unit {
    /// The largest of `units` that `value` holds at least once, else the smallest.
    fn of(value: f64, units: &[Self]) -> Self {
        let fitting = units.iter().find(|unit| value >= unit.factor);
        *fitting.unwrap_or(&units[units.len() - 1])
    }

    /// That for a rate in bits per second.
    pub(super) fn of_bits(bits_per_s: f64) -> Self {
        Self::of(bits_per_s, &BITS)
    }

    /// `value` in this unit, without its name.
    pub(super) fn number(self, value: f64, digits: u32) -> String {
        significant(value / self.factor, digits)
    }
}

/// A number with that many significant digits, no exponent, and nothing made up before the point.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the magnitude of a double lies between -324 and 308"
)]
pub(super) fn significant(value: f64, digits: u32) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    let decimals = |value: f64| i64::from(digits) - 1 - value.abs().log10().floor() as i64;
    let places = usize::try_from(decimals(value)).unwrap_or_default();
    let text = format!("{value:.places$}");
    // Rounding may have carried into one digit more: 9.9996 is 10.00, not 10.000.
    let rounded: f64 = text.parse().unwrap_or(value);
    match usize::try_from(decimals(rounded)) {
        Ok(fewer) if fewer < places => format!("{rounded:.fewer$}"),
        _ => text,
    }
}

/// `9.412 Gbit/s`.
pub(super) fn bits(bits_per_s: f64) -> String {
    let unit = Unit::of_bits(bits_per_s);
    format!("{} {}", unit.number(bits_per_s, 4), unit.name)
}

/// A rate that somebody chose, so mostly a round one: `200 Mbit/s`.
pub(super) fn round_bits(bits_per_s: f64) -> String {
    let unit = Unit::of_bits(bits_per_s);
    format!("{} {}", trimmed(&unit.number(bits_per_s, 4)), unit.name)
}

/// Without the zeros at the end of a fraction.
pub(super) fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// `9.412 ± 0.021 Gbit/s`, where there is an interval.
pub(super) fn bits_within(bits_per_s: Option<f64>, interval: Option<(f64, f64)>) -> String {
    let Some(bits_per_s) = bits_per_s else {
        return NONE.to_owned();
    };
    let unit = Unit::of_bits(bits_per_s);
    match interval {
        Some(interval) => {
            let half = half_width(interval, unit);
            format!("{} ± {half} {}", unit.number(bits_per_s, 4), unit.name)
        }
        None => bits(bits_per_s),
    }
}

/// Half the width of an interval, in `unit`.
pub(super) fn half_width((low, high): (f64, f64), unit: Unit) -> String {
    unit.number((high - low) / 2.0, 2)
}

/// The same rate as qperf prints it, in decimal multiples of bytes: `1.176 GB/s`.
pub(super) fn bytes_per_s(bits_per_s: f64) -> String {
    let bytes = bits_per_s / 8.0;
    let unit = Unit::of(bytes, &BYTES_PER_S);
    format!("{} {}", unit.number(bytes, 4), unit.name)
}

/// `5.48 GiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
pub(super) fn volume(bytes: u64) -> String {
    let unit = Unit::of(bytes as f64, &BYTES);
    match unit.name {
        "B" => format!("{bytes} B"),
        name => format!("{} {name}", unit.number(bytes as f64, 3)),
    }
}

/// `62 %`, `0.41 %`.
pub(super) fn percent(share: f64) -> String {
    let digits = if share >= 0.1 { 3 } else { 2 };
    let text = significant(share * 100.0, digits);
    format!("{} %", trimmed(&text))
}

/// CPU time per GiB: `0.82 s/GiB`.
pub(super) fn cpu_per_gib(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| NONE.into(), |s| format!("{} s/GiB", significant(s, 3)))
}

/// CPU time per MiB: `801 µs/MiB`.
pub(super) fn cpu_per_mib(ns: f64) -> String {
    format!("{}/MiB", super::nanos(ns))
}

/// A length in whole nanoseconds.
pub(super) fn span(ns: u64) -> String {
    Nanos(ns).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
