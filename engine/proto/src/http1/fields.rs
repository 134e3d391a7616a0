//! Values of the header fields that decide framing and persistence.

use tare_units::Nanos;

/// The parts of a comma-separated list, spaces around them dropped (RFC 9110 section 5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim)
}

/// `value` without optional white space around it, of which the end of a folded line is a part.
pub(super) const fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..]
    | [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = value
    {
        value = rest;
    }
    value
}

/// Whether a list holds `token`, in whatever case.
pub(super) fn holds(value: &[u8], token: &[u8]) -> bool {
    list(value).any(|part| part.eq_ignore_ascii_case(token))
}

/// What the `Content-Length` and `Transfer-Encoding` fields of one head say together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lengths {
    pub(super) length: Option<u64>,
    pub(super) coded: bool,
    pub(super) chunked: bool,
    /// It names another coding as well.
    pub(super) other: bool,
}

impl Lengths {
    /// Adds a `Content-Length`: a number, or a list of equal ones (RFC 9112 section 6.3). None where
    /// it makes no sense, or contradicts another.
    pub(super) fn add_length(&mut self, value: &[u8]) -> Option<()> {
        for part in list(value) {
            let length = decimal(part)?;
            if *self.length.get_or_insert(length) != length {
                return None;
            }
        }
        Some(())
    }

    /// Adds a `Transfer-Encoding`, of which `chunked` must be the last coding, once.
    pub(super) fn add_coding(&mut self, value: &[u8]) -> Option<()> {
        self.coded = true;
        for part in list(value) {
            if self.chunked || part.is_empty() {
                return None;
            }
            self.chunked = part.eq_ignore_ascii_case(b"chunked");
            self.other |= !self.chunked;
        }
        Some(())
    }
}

/// A number of decimal digits alone that fits 64 bits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let add = |number: u64, byte: &u8| {
        let digit = char::from(*byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, add) }
}

/// The residence time that a `Server-Timing` field tells (W3C Server Timing section 3): the `dur`,
/// in milliseconds, of the metric `residence`. Digits beyond the nanosecond are dropped.
pub(super) fn residence(value: &[u8]) -> Option<Nanos> {
    let metrics = split_unquoted(value, b',').map(|metric| split_unquoted(metric, b';'));
    let ours = metrics.filter_map(|mut parts| {
        let name = parts.next()?;
        (trim(name) == b"residence").then_some(parts)
    });
    let duration = ours.flatten().find_map(|parameter| {
        let key = parameter.split(|byte| *byte == b'=').next()?;
        let is_duration = trim(key).eq_ignore_ascii_case(b"dur");
        parameter.get(key.len() + 1..).filter(|_| is_duration)
    })?;
    milliseconds(trim(duration))
}

/// Splits at each `mark` that stands in no quoted string.
fn split_unquoted(text: &[u8], mark: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&byte| {
        let splits = byte == mark && !quoted;
        quoted ^= byte == b'"' && !escaped;
        escaped = quoted && byte == b'\\' && !escaped;
        splits
    })
}

/// `1.234567` milliseconds, without rounding through a double.
fn milliseconds(text: &[u8]) -> Option<Nanos> {
    let text = match text {
        [b'"', inner @ .., b'"'] => inner,
        text => text,
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place| u64::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    let below = (0..6).fold(0, |ns, place| ns * 10 + digit(place));
    decimal(whole)?.checked_mul(1_000_000)?.checked_add(below).map(Nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_residence_is_read_to_the_nanosecond() {
        for (value, ns) in [
            ("residence;dur=1.234567", Some(1_234_567)),
            ("residence;dur=0.000001", Some(1)),
            ("residence;dur=0.1", Some(100_000)),
            ("residence;dur=12", Some(12_000_000)),
            ("residence;dur=1.2345679", Some(1_234_567)),
            ("residence; dur=\"2.5\"", Some(2_500_000)),
            ("residence ; desc=\"a, b; dur=9\" ; DUR = 3.0 , x", Some(3_000_000)),
            ("cache;dur=5, residence;dur=18446744073709.551615", Some(u64::MAX)),
            ("cache;desc=\"\\\", residence;dur=1\", residence;dur=7.", Some(7_000_000)),
            ("residence;dur=18446744073709.551616", None),
            ("residence;dur=99999999999999999999", None),
            ("residence;dur=-1", None),
            ("residence;dur=1e3", None),
            ("residence;dur=.5", None),
            ("residence;dur=", None),
            ("residence", None),
            ("residences;dur=1", None),
            ("x;desc=\"residence;dur=1", None),
            ("", None),
            (",,;=", None),
        ] {
            assert_eq!(residence(value.as_bytes()), ns.map(Nanos), "{value}");
        }
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"000000000000000000000000012"), Some(12));
        for text in [&b""[..], b"18446744073709551616", b"+1", b"-1", b"1 2", b"0x1", b"1.0"] {
            assert_eq!(decimal(text), None);
        }
    }
}
