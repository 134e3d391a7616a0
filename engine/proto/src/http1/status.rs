//! Which status codes were expected.

use std::ops::RangeInclusive;
use std::str::FromStr;

use tare_units::error::{Error, Result};

/// A set of status codes, 0 to 999.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet {
    text: String,
    bits: [u64; 16],
}

impl StatusSet {
    /// Whether `status` is in it.
    #[inline]
    pub const fn contains(&self, status: u16) -> bool {
        status < 1000 && self.bits[status as usize / 64] >> (status % 64) & 1 == 1
    }

    /// As it was typed: `2xx,304`.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Default for StatusSet {
    /// What is no error: `2xx,3xx`.
    fn default() -> Self {
        "2xx,3xx".parse().expect("a constant that parses")
    }
}

impl FromStr for StatusSet {
    type Err = Error;

    /// Parses `200`, `2xx,304`, `200-299,418`.
    ///
    /// # Errors
    /// A usage error for anything else, and for codes outside 100 to 599, which HTTP has none of
    /// (RFC 9110, section 15).
    fn from_str(text: &str) -> Result<Self> {
        let mut bits = [0; 16];
        for part in text.split(',') {
            let codes = range(part.trim()).ok_or_else(|| {
                let shown = part.escape_debug();
                Error::usage(format!("'{shown}' is no status code and no class of them"))
                    .remedy("write them as 200, 2xx, 200-299 or 2xx,304")
            })?;
            for code in codes {
                bits[code / 64] |= 1 << (code % 64);
            }
        }
        Ok(Self { text: text.trim().to_owned(), bits })
    }
}

fn range(part: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = match part.strip_suffix("xx") {
        Some(class) => (&*format!("{class}00"), &*format!("{class}99")),
        None => part.split_once('-').unwrap_or((part, part)),
    };
    let code = |text: &str| {
        let whole = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|code| whole && (100..600).contains(code))
    };
    Some(code(first)?..=code(last)?).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_codes_are_parsed_or_refused_with_advice() {
        let set: StatusSet = " 2xx, 304,500-502".parse().unwrap();
        assert_eq!(set.text(), "2xx, 304,500-502");
        for code in [200, 299, 304, 500, 502] {
            assert!(set.contains(code), "{code}");
        }
        for code in [0, 199, 300, 503, 599, 999, u16::MAX] {
            assert!(!set.contains(code), "{code}");
        }
        assert!(StatusSet::default().contains(302) && !StatusSet::default().contains(404));
        for text in [
            "", "2x", "xx", "0xx", "20", "2000", "+20", "299-200", "99", "2xx,", "ok", "10xx",
            "6xx", "600", "500-600",
        ] {
            let error = text.parse::<StatusSet>().expect_err(text);
            assert!(error.advice().is_some(), "{text}");
        }
    }
}
