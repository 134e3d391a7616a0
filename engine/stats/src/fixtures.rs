//! What the tests of several modules share.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng as _;

use crate::result::{Arm, Cell, Comparison, ErrorCount, Report, StepResult, Summary};

/// A draw between 0 and 1, without either.
pub(crate) fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) * (0.5f64).powi(53)
}

/// Ten thousand samples, nanoseconds.
pub(crate) fn summary(p50: u64, p99: u64, p99_interval: (u64, u64)) -> Summary {
    Summary {
        count: 10_000,
        min_ns: Some(p50 / 2),
        mean_ns: Some(p50 as f64),
        stdev_ns: Some(5_000.0),
        p50_ns: Some(p50),
        p99_ns: Some(p99),
        max_ns: Some(2 * p99),
        intervals_ns: [("p99".to_owned(), p99_interval)].into(),
        ..Summary::default()
    }
}

pub(crate) fn error(phase: &str, cause: &str, count: u64) -> ErrorCount {
    ErrorCount { phase: phase.to_owned(), cause: cause.to_owned(), count }
}

/// A report of a comparison in two steps, whose baseline is the first of `arms`; `results` are of
/// an arm and a size each.
pub(crate) fn comparison(arms: &[&str], results: &[(&str, u64)], cells: Vec<Cell>) -> Report {
    let result = |&(arm, size_bytes): &(&str, u64)| {
        let mut step = StepResult { arm: Some(arm.to_owned()), ..StepResult::default() };
        (step.params.size_bytes, step.params.target) = (size_bytes, arm.to_owned());
        step
    };
    let arm = |name: &&str| Arm { name: (*name).to_owned(), ..Arm::default() };
    Report {
        kind: "compare".to_owned(),
        results: results.iter().map(result).collect(),
        comparison: Some(Box::new(Comparison {
            measured: "lat".to_owned(),
            baseline: arms[0].to_owned(),
            arms: arms.iter().map(arm).collect(),
            steps: 2,
            cells,
            ..Comparison::default()
        })),
        ..Report::default()
    }
}
