//! How arrivals are typed and told.

use std::fmt;
use std::str::FromStr;

use super::{Arrivals, JITTER_MAX};
use tare_units::error::{Error, Result};

/// Where only `jitter` is typed.
const JITTER_DEFAULT: f64 = 0.1;

impl Arrivals {
    /// The name in flags and results, without the share of jitter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
            Self::Jitter(_) => "jitter",
        }
    }
}

impl fmt::Display for Arrivals {
    /// Prints as it parses: `constant`, `poisson`, `jitter:10%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Jitter(share) = self else {
            return f.pad(self.name());
        };
        // 0.07 · 100 is a little more than 7.
        let percent = (share * 1e11).round() / 1e9;
        f.pad(&format!("jitter:{percent}%"))
    }
}

impl FromStr for Arrivals {
    type Err = Error;

    /// Parses `constant`, `poisson`, `jitter:10%` and `jitter`, which is 10 %.
    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(40).collect();
        let refuse = |why: &str| {
            Error::usage(format!("arrivals '{}' {why}", shown.escape_debug()))
                .remedy("write constant, poisson or jitter:10%")
        };
        let percent = match text.trim() {
            "constant" => return Ok(Self::Constant),
            "poisson" => return Ok(Self::Poisson),
            "jitter" => return Ok(Self::Jitter(JITTER_DEFAULT)),
            text => text.strip_prefix("jitter:").ok_or_else(|| refuse("are unknown"))?,
        };
        let number = percent
            .strip_suffix('%')
            .map(str::trim)
            .ok_or_else(|| refuse("have no share in percent"))?;
        let digits = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let share = number.parse::<f64>().ok().filter(|_| digits);
        let share = share.ok_or_else(|| refuse("have no share in percent"))? / 100.0;
        if share > JITTER_MAX {
            return Err(refuse("would overtake each other: half of the gap, 50 %, is the most"));
        }
        Ok(Self::Jitter(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_parse_and_print() {
        for (text, arrivals, printed) in [
            ("constant", Arrivals::Constant, "constant"),
            (" poisson ", Arrivals::Poisson, "poisson"),
            ("jitter", Arrivals::Jitter(0.1), "jitter:10%"),
            ("jitter:7%", Arrivals::Jitter(0.07), "jitter:7%"),
            ("jitter:12.5 %", Arrivals::Jitter(0.125), "jitter:12.5%"),
            ("jitter:50%", Arrivals::Jitter(0.5), "jitter:50%"),
            ("jitter:0%", Arrivals::Jitter(0.0), "jitter:0%"),
        ] {
            assert_eq!(text.parse::<Arrivals>().unwrap(), arrivals, "{text}");
            assert_eq!(arrivals.to_string(), printed);
            assert_eq!(printed.parse::<Arrivals>().unwrap(), arrivals);
            assert!(printed.starts_with(arrivals.name()));
        }
    }

    #[test]
    fn other_arrivals_are_refused_with_advice() {
        for text in [
            "",
            "Poisson",
            "uniform",
            "jitter:",
            "jitter:10",
            "jitter:%",
            "jitter:51%",
            "jitter:-1%",
            "jitter:1e1%",
            "jitter:nan%",
            "jitter:inf%",
            "jitter:1.2.3%",
            "jitter 10%",
        ] {
            let error = text.parse::<Arrivals>().expect_err(text);
            assert!(error.advice().is_some_and(|advice| advice.contains("jitter:10%")), "{text}");
        }
    }
}
