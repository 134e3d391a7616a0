//! Exit codes: a contract with scripts, so each has one meaning for ever.

use std::process::ExitCode;

use tare_engine::run::Finished;
use tare_stats::assertion;
use tare_stats::diff::Diff;
use tare_stats::result::{AssertionResult, Instruments, Report, StepResult, Verdict};
use tare_units::error::{Error, Fault};

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
    /// `--strict`, and the generator was saturated or the run disturbed, or the machine would
    /// disturb one.
    Disturbed = 4,
    /// The data does not decide an assertion, or without one, a comparison.
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
    let failed = report.assertions.iter().any(|a| a.holds == Some(false));
    if !measured(report) {
        Exit::CouldNotMeasure
    } else if strict && disturbed(report) {
        Exit::Disturbed
    } else if failed {
        Exit::AssertionFailed
    } else if !decided(report) {
        Exit::CannotTell
    } else {
        Exit::Measured
    }
}

/// The exit code of two saved results that were compared. Plain ones are set side by side, which
/// asks nothing.
pub(crate) fn of_diff(later: &Diff, assertions: &[AssertionResult]) -> Exit {
    let is_answered = || {
        let judged = later.changes.iter().filter(|c| c.verdict.is_some());
        answered(&judged.map(|c| ((&c.arm, &c.params, c.of), c.verdict)).collect::<Vec<_>>())
    };
    match assertion::Verdict::of(assertions) {
        assertion::Verdict::Failed => Exit::AssertionFailed,
        assertion::Verdict::Undecided => Exit::CannotTell,
        assertion::Verdict::Holds if assertions.is_empty() && !is_answered() => Exit::CannotTell,
        assertion::Verdict::Holds => Exit::Measured,
    }
}

/// Whether every step has something to show: a step in which nothing succeeded was not measured. Of
/// a comparison, whether there is a block that all arms went through, and none was given up.
fn measured(report: &Report) -> bool {
    let comparison = report.comparison.as_deref();
    let measured = comparison.map_or(&report.kind, |comparison| &comparison.measured);
    let succeeded = |step: &StepResult| match measured.as_str() {
        "bw" => step.bandwidth.as_ref().is_some_and(|b| b.received_bytes > 0),
        _ => step.has_answers(),
    };
    let went_through = comparison.is_none_or(|comparison| {
        comparison.blocks_done > 0 && comparison.arms.iter().all(|arm| arm.failed.is_none())
    });
    went_through && !report.results.is_empty() && report.results.iter().all(succeeded)
}

/// Whether what was asked has its answer: the assertions, and where there is none the comparison
/// itself.
fn decided(report: &Report) -> bool {
    match (report.assertions.as_slice(), &report.comparison) {
        ([], Some(comparison)) => {
            let declared = comparison.cells.iter().filter(|cell| cell.declared);
            answered(&declared.map(|c| ((&c.arm, c.step), c.verdict)).collect::<Vec<_>>())
        }
        (assertions, _) => assertions.iter().all(|a| a.holds.is_some()),
    }
}

/// Whether all of these are answers, as "no difference shown" is one; each stands with the path and
/// step that it is of. Under overload, what that carried answers in place of the latencies.
fn answered<P: PartialEq>(verdicts: &[(P, Option<Verdict>)]) -> bool {
    let is_answer = |verdict: Option<Verdict>| {
        use Verdict::{Faster, NoDifferenceShown, Slower};
        matches!(verdict, Some(Slower | Faster | NoDifferenceShown))
    };
    verdicts.iter().all(|(place, verdict)| match verdict {
        Some(Verdict::Overload) => {
            verdicts.iter().any(|(other, verdict)| other == place && is_answer(*verdict))
        }
        verdict => is_answer(*verdict),
    })
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
    use tare_stats::diff;
    use tare_stats::result::{Cell, Comparison, Instrument};

    use super::*;
    use crate::report::fixtures;

    fn assertion(holds: Option<bool>) -> AssertionResult {
        AssertionResult { holds, ..fixtures::sweep().assertions.remove(0) }
    }

    /// What may hold of a run, in the order of precedence.
    const INTERRUPTED: u8 = 1;
    const FAILED: u8 = 2;
    const NOTHING: u8 = 4;
    const DISTURBED: u8 = 8;
    const ASSERTION: u8 = 16;
    const UNDECIDED: u8 = 32;

    fn nothing_came_of(step: &mut StepResult) {
        step.operations.completed = 0;
        step.rate.achieved_per_s = 0.0;
    }

    fn run(what: u8) -> Finished {
        let mut report = fixtures::one_step();
        let step = &mut report.results[0];
        if what & NOTHING != 0 {
            nothing_came_of(step);
        }
        step.instrument.client.disturbed = what & DISTURBED != 0;
        let fates = [(ASSERTION, Some(false)), (UNDECIDED, None)];
        let fates = fates.into_iter().filter(|(bit, _)| what & bit != 0);
        report.assertions.extend(fates.map(|(_, holds)| assertion(holds)));
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
        assert_eq!(of(&run(DISTURBED | ASSERTION), false), Exit::AssertionFailed);
        for spoil in [
            |i: &mut Instruments| i.client.saturated = true,
            |i: &mut Instruments| {
                i.server = Some(Instrument { disturbed: true, ..Instrument::default() });
            },
        ] {
            let mut finished = run(0);
            spoil(&mut finished.report.results[0].instrument);
            assert_eq!(of(&finished, true), Exit::Disturbed);
        }
    }

    fn of_report(report: Report) -> Exit {
        of(&Finished { report, ..run(0) }, false)
    }

    /// What `change` makes of a report, as its exit code.
    #[track_caller]
    fn changed(mut report: Report, change: impl FnOnce(&mut Report), exit: Exit) {
        change(&mut report);
        assert_eq!(of_report(report), exit);
    }

    fn comparison(report: &mut Report) -> &mut Comparison {
        report.comparison.as_mut().unwrap()
    }

    #[test]
    fn a_step_without_success_or_no_step_at_all_is_no_measurement() {
        use Exit::{CouldNotMeasure, Measured};
        changed(fixtures::sweep(), |r| nothing_came_of(&mut r.results[1]), CouldNotMeasure);
        changed(fixtures::sweep(), |r| r.results.clear(), CouldNotMeasure);
        assert_eq!(of_report(fixtures::http::nothing()), CouldNotMeasure);
        assert_eq!(of_report(fixtures::http::breaker()), Measured);
    }

    #[test]
    fn a_comparison_is_measured_by_whole_blocks_of_all_arms() {
        use Exit::{CouldNotMeasure, Measured};
        let measured = fixtures::compare::comparison;
        assert_eq!(of_report(measured()), Measured);
        assert_eq!(of_report(fixtures::compare::failed_arm()), CouldNotMeasure);
        changed(measured(), |r| comparison(r).blocks_done = 0, CouldNotMeasure);
        changed(measured(), |r| r.results[1].operations.completed = 0, CouldNotMeasure);
        let few_blocks = fixtures::compare::few_blocks();
        changed(few_blocks, |r| r.results[1].bandwidth = None, CouldNotMeasure);
    }

    #[test]
    fn no_difference_shown_is_an_answer_and_too_few_blocks_are_none() {
        use Exit::{AssertionFailed, CannotTell, Measured};
        let few_blocks = fixtures::compare::few_blocks;
        assert_eq!(of_report(few_blocks()), CannotTell);
        let decide = |report: &mut Report| {
            for cell in &mut comparison(report).cells {
                cell.verdict = cell.declared.then_some(Verdict::NoDifferenceShown);
            }
        };
        changed(few_blocks(), decide, Measured);
        let all_but_one = |report: &mut Report| {
            decide(report);
            comparison(report).cells[0].verdict = None;
        };
        changed(few_blocks(), all_but_one, CannotTell);
        // Nothing was to be decided.
        assert_eq!(of_report(fixtures::compare::alone()), Measured);
        // Where there are assertions they decide.
        let fates = [(Some(true), Measured), (None, CannotTell), (Some(false), AssertionFailed)];
        for (holds, exit) in fates {
            let both = [assertion(Some(true)), assertion(holds)];
            changed(few_blocks(), |report| report.assertions.extend(both), exit);
        }
        // Under overload what was carried decides.
        let overload = fixtures::compare::overload;
        assert_eq!(of_report(overload()), Measured);
        let undecided = |report: &mut Report| {
            let of_goodput = |cell: &&mut Cell| cell.measure == "goodput" && cell.overloaded;
            let goodput = comparison(report).cells.iter_mut().find(of_goodput);
            goodput.unwrap().verdict = Some(Verdict::NotEnoughBlocks);
        };
        changed(overload(), undecided, CannotTell);
        let without = |report: &mut Report| {
            comparison(report).cells.retain(|cell| cell.measure != "goodput");
        };
        changed(overload(), without, CannotTell);
    }

    #[test]
    fn two_saved_comparisons_are_to_answer_too() {
        let exit = |report: Report, assertions: &[AssertionResult]| {
            of_diff(&diff::compare(&report, &report).unwrap(), assertions)
        };
        let measured = fixtures::compare::comparison;
        assert_eq!(exit(measured(), &[]), Exit::Measured);
        // One of its arms went through two blocks.
        let two_blocks = fixtures::compare::failed_arm;
        assert_eq!(exit(two_blocks(), &[]), Exit::CannotTell);
        // The assertions are what was asked then.
        assert_eq!(exit(two_blocks(), &[assertion(Some(true))]), Exit::Measured);
        assert_eq!(exit(measured(), &[assertion(None)]), Exit::CannotTell);
        let both = [assertion(None), assertion(Some(false))];
        assert_eq!(exit(measured(), &both), Exit::AssertionFailed);
        // Latencies under overload give way to the goodput.
        let mut report = fixtures::compare::overload();
        assert_eq!(exit(report.clone(), &[]), Exit::Measured);
        let cells = &mut comparison(&mut report).cells;
        cells.retain(|cell| cell.measure != "goodput");
        assert_eq!(exit(report, &[]), Exit::CannotTell);
        // Plain results have no verdicts, and are to have none.
        assert_eq!(exit(fixtures::sweep(), &[]), Exit::Measured);
    }

    #[test]
    fn whose_fault_it_is_decides_an_error() {
        assert_eq!(Exit::from(&Error::usage("no such CPU")), Exit::Usage);
        for error in [Error::environment("denied"), Error::peer("refused"), Error::bug("no")] {
            assert_eq!(Exit::from(&error), Exit::CouldNotMeasure);
        }
    }
}
