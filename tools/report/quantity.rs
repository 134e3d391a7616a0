//! Values whose unit the result tells beside them: `ns`, `bit/s`, `1/s`, or none for a ratio.

use super::{NONE, figures, nanos, per_second};

/// A value in its unit.
pub(super) fn shown(unit: &str, value: f64) -> String {
    let size = value.abs();
    let text = match unit {
        "ns" if size > 0.0 && size < 10.0 => format!("{} ns", figures::significant(size, 2)),
        "ns" => nanos(size).to_string(),
        "bit/s" => figures::bits(size),
        "1/s" if size == 0.0 => "0/s".to_owned(),
        "1/s" => per_second(size),
        _ => figures::significant(size, 4),
    };
    if value < 0.0 { format!("−{text}") } else { text }
}

/// The same, with its sign always there.
pub(super) fn signed(unit: &str, value: f64) -> String {
    let plus = if value > 0.0 { "+" } else { "" };
    format!("{plus}{}", shown(unit, value))
}

/// A value that may be unknown.
pub(super) fn known(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), show)
}

/// `p99.9` for `p99_9`.
pub(super) fn measure_name(measure: &str) -> String {
    measure.replace('_', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

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
