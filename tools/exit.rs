//! Exit codes: a contract with scripts, so each has one meaning for ever.

use std::process::ExitCode;

use tare_engine::error::{Error, Fault};
use tare_engine::result::{Instruments, Report, StepResult};
use tare_engine::run::Finished;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Measured, and all assertions hold.
    Measured = 0,
    /// The peer or this machine stood in the way, or nothing succeeded.
    CouldNotMeasure = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// An `--assert` failed.
    AssertionFailed = 3,
    /// `--strict`, and the generator was saturated or the run disturbed, or the machine would disturb one.
    Disturbed = 4,
    /// The data does not decide an assertion.
    CannotTell = 5,
    /// Interrupted; what was measured until then was printed.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.fault() {
            Fault::Usage => Self::Usage,
            _ => Self::CouldNotMeasure,
        }
    }
}

/// The exit code of a run that ended in a report. Where several hold: 130, then 1, 4, 3, 5.
pub(crate) fn of(finished: &Finished, strict: bool) -> Exit {
    if finished.interrupted {
        return Exit::Interrupted;
    }
    if let Some(error) = &finished.error {
        return error.into();
    }
    let report = &finished.report;
    let holds = |verdict| report.assertions.iter().any(|a| a.holds == verdict);
    if !measured(report) {
        Exit::CouldNotMeasure
    } else if strict && disturbed(report) {
        Exit::Disturbed
    } else if holds(Some(false)) {
        Exit::AssertionFailed
    } else if holds(None) {
        Exit::CannotTell
    } else {
        Exit::Measured
    }
}

/// Whether every step has something to show: a step in which nothing succeeded was not measured.
fn measured(report: &Report) -> bool {
    let succeeded = |step: &StepResult| match report.kind.as_str() {
        "bw" => step
            .bandwidth
            .as_ref()
            .is_some_and(|b| b.received_bytes > 0),
        _ => step.operations.completed > 0,
    };
    !report.results.is_empty() && report.results.iter().all(succeeded)
}

fn disturbed(report: &Report) -> bool {
    let spoiled = |Instruments { client, server }: &Instruments| {
        let server = server.as_ref();
        client.saturated || client.disturbed || server.is_some_and(|s| s.saturated || s.disturbed)
    };
    report.results.iter().any(|r| spoiled(&r.instrument))
}

#[cfg(test)]
mod tests {
    use tare_engine::result::{AssertionResult, Instrument};

    use super::*;
    use crate::report::fixtures;

    fn assertion(holds: Option<bool>) -> AssertionResult {
        AssertionResult {
            expr: "p99<2ms".into(),
            step: String::new(),
            actual: None,
            interval: None,
            holds,
        }
    }

    /// What may hold of a run, in the order of precedence.
    const INTERRUPTED: u8 = 1;
    const FAILED: u8 = 2;
    const NOTHING: u8 = 4;
    const DISTURBED: u8 = 8;
    const ASSERTION: u8 = 16;
    const UNDECIDED: u8 = 32;

    fn run(what: u8) -> Finished {
        let mut report = fixtures::one_step();
        if what & NOTHING != 0 {
            report.results[0].operations.completed = 0;
        }
        if what & DISTURBED != 0 {
            report.results[0].instrument.client.disturbed = true;
        }
        if what & ASSERTION != 0 {
            report.assertions.push(assertion(Some(false)));
        }
        if what & UNDECIDED != 0 {
            report.assertions.push(assertion(None));
        }
        report.assertions.push(assertion(Some(true)));
        Finished {
            report,
            error: (what & FAILED != 0).then(|| Error::peer("the server died")),
            interrupted: what & INTERRUPTED != 0,
        }
    }

    #[test]
    fn the_first_that_holds_decides() {
        for what in 0..64 {
            let expected = match what {
                w if w & INTERRUPTED != 0 => 130,
                w if w & (FAILED | NOTHING) != 0 => 1,
                w if w & DISTURBED != 0 => 4,
                w if w & ASSERTION != 0 => 3,
                w if w & UNDECIDED != 0 => 5,
                _ => 0,
            };
            assert_eq!(of(&run(what), true) as u8, expected, "{what:#b}");
        }
    }

    #[test]
    fn disturbance_counts_only_when_strict_and_at_either_end() {
        assert_eq!(of(&run(DISTURBED), false), Exit::Measured);
        assert_eq!(
            of(&run(DISTURBED | ASSERTION), false),
            Exit::AssertionFailed
        );
        for spoil in [
            |i: &mut Instruments| i.client.saturated = true,
            |i: &mut Instruments| {
                i.server = Some(Instrument {
                    disturbed: true,
                    ..Instrument::default()
                });
            },
        ] {
            let mut finished = run(0);
            spoil(&mut finished.report.results[0].instrument);
            assert_eq!(of(&finished, true), Exit::Disturbed);
        }
    }

    #[test]
    fn a_step_without_success_or_no_step_at_all_is_no_measurement() {
        let mut finished = run(0);
        finished.report = fixtures::sweep();
        finished.report.results[1].operations.completed = 0;
        assert_eq!(of(&finished, false), Exit::CouldNotMeasure);
        finished.report.results.clear();
        assert_eq!(of(&finished, false), Exit::CouldNotMeasure);
    }

    #[test]
    fn a_load_of_which_nothing_was_answered_as_expected_is_no_measurement() {
        let mut finished = run(0);
        finished.report = fixtures::http::nothing();
        assert_eq!(of(&finished, false), Exit::CouldNotMeasure);
        finished.report = fixtures::http::breaker();
        assert_eq!(of(&finished, false), Exit::Measured);
    }

    #[test]
    fn whose_fault_it_is_decides_an_error() {
        for (error, exit) in [
            (Error::usage("no such CPU"), Exit::Usage),
            (Error::environment("denied"), Exit::CouldNotMeasure),
            (Error::peer("refused"), Exit::CouldNotMeasure),
            (Error::bug("impossible"), Exit::CouldNotMeasure),
        ] {
            assert_eq!(Exit::from(&error), exit);
        }
    }
}
