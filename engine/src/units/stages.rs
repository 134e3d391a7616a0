//! A list of stages of load: `1000:10s,1000-5000:30s,20000:10s`.

use std::str::FromStr;

use super::parse::refuse;
use super::{Nanos, PerSecond};
use crate::error::{Error, Result};
use crate::limits::STEPS_MAX;

const HELP: &str = "write stages as RATE:DURATION, with a comma between them and a ramp as FROM-TO: 1000:10s,1000-5000:30s";

/// A stretch of load as it was typed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageText {
    /// Operations per second at its begin.
    pub from_per_s: f64,
    /// Operations per second at its end; the same where it is no ramp.
    pub to_per_s: f64,
    /// How long it lasts; above zero.
    pub duration: Nanos,
}

/// Stages, one after the other; at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages(pub Vec<StageText>);

impl FromStr for Stages {
    type Err = Error;

    /// Parses `1000:10s,1000-5000:30s`: a rate or a ramp from one rate to another, and a duration.
    ///
    /// # Errors
    /// A usage error for empty parts, for a bad rate or duration, and for more than [`STEPS_MAX`] stages.
    fn from_str(text: &str) -> Result<Self> {
        let mut stages = Vec::new();
        for part in text.split(',') {
            if stages.len() == STEPS_MAX {
                let why = format!("it has more than {STEPS_MAX} stages");
                return Err(refuse("list of stages", text, &why, HELP));
            }
            stages.push(stage(part.trim())?);
        }
        Ok(Self(stages))
    }
}

fn stage(text: &str) -> Result<StageText> {
    let refuse = |why: &str| refuse("stage", text, why, HELP);
    if text.is_empty() {
        return Err(refuse("it is empty"));
    }
    let (rates, duration) = text
        .split_once(':')
        .ok_or_else(|| refuse("it has no duration"))?;
    let within = |error: &Error| refuse(error.message());
    let rate = |text: &str| match text.parse() {
        Ok(PerSecond(rate)) => Ok(rate),
        Err(error) => Err(within(&error)),
    };
    let (from_per_s, to_per_s) = match rates.split_once('-') {
        Some((from, to)) => (rate(from)?, rate(to)?),
        None => (rate(rates)?, rate(rates)?),
    };
    let duration: Nanos = duration.parse().map_err(|error| within(&error))?;
    if duration == Nanos::ZERO {
        return Err(refuse("it lasts no time"));
    }
    Ok(StageText {
        from_per_s,
        to_per_s,
        duration,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use proptest::prelude::*;

    fn of(from_per_s: f64, to_per_s: f64, duration: Nanos) -> StageText {
        StageText {
            from_per_s,
            to_per_s,
            duration,
        }
    }

    #[test]
    fn stages_are_rates_and_ramps() {
        let seconds = Nanos::from_secs;
        for (text, stages) in [
            ("1000:10s", vec![of(1e3, 1e3, seconds(10))]),
            (
                "1000:10s, 1000-5000:30s ,20k:1.5m",
                vec![
                    of(1e3, 1e3, seconds(10)),
                    of(1e3, 5e3, seconds(30)),
                    of(2e4, 2e4, seconds(90)),
                ],
            ),
            (
                "60/m - 2.5 : 500ms",
                vec![of(1.0, 2.5, Nanos::from_millis(500))],
            ),
            ("5k-10:1h", vec![of(5e3, 10.0, seconds(3_600))]),
        ] {
            assert_eq!(text.parse::<Stages>().unwrap().0, stages, "{text}");
        }
    }

    #[test]
    fn what_is_no_stage_is_refused_with_advice() {
        let many = vec!["1:1s"; STEPS_MAX + 1].join(",");
        for (text, why) in [
            ("", "empty"),
            ("1000:10s,", "empty"),
            ("1000", "no duration"),
            ("1000:", "''"),
            ("1000:10", "no unit"),
            ("1000:0", "no time"),
            ("1000:10s:5s", "none of ns"),
            ("0:10s", "outside"),
            ("0-100:10s", "outside"),
            ("-100:10s", "no number"),
            ("100-:10s", "no number"),
            ("1-2-3:10s", "unknown"),
            ("fast:10s", "is not a rate"),
            (&many, "more than 1000 stages"),
        ] {
            let error = text.parse::<Stages>().expect_err(text);
            assert_eq!(error.fault(), Fault::Usage);
            assert!(
                error
                    .advice()
                    .is_some_and(|advice| advice.contains("1000-5000:30s"))
            );
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,24}|[0-9.km/:,-]{0,12}[:s,]{0,3}[0-9ms-]{0,6}") {
            if let Ok(Stages(stages)) = text.parse() {
                prop_assert!(!stages.is_empty());
                prop_assert!(stages.iter().all(|stage| stage.from_per_s > 0.0 && stage.to_per_s > 0.0));
            }
        }
    }
}
