//! What every measuring command does around its run: outputs, signals, assertions, exit code.

use tare_engine::run::Finished;
use tare_engine::run::observe::{Observer, Progress};
use tare_engine::run::plan::Common;
use tare_proto::auth::Secret;
use tare_stats::assertion;
use tare_stats::assertion::{Asked, Assertion};
use tare_stats::result::{AssertionResult, Interval, Params, Report, Warning};
use tare_units::control::Interrupt;
use tare_units::error::Result;

use crate::args::common::{CommonArgs, ResultArgs, SecretArgs};
use crate::exit::{self, Exit};
use crate::output::{Format, Outputs};
use crate::progress::{Bar, complain};
use crate::redact;
use crate::report::Look;

/// What a measuring command is about.
pub(super) trait Measured {
    /// What all plans have.
    fn common(&mut self) -> &mut Common;
    /// What assertions can be about.
    fn asked(&self) -> Asked;
    /// The engine's part.
    fn carry_out(&self, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished>;
}

/// The numbers of a list as assertions have them.
pub(super) fn all(list: &[u32]) -> Vec<u64> {
    list.iter().copied().map(u64::from).collect()
}

/// Makes a plan of the flags and the secret (of commands that have one), and carries it out.
pub(super) fn measure<P: Measured>(
    common: &CommonArgs,
    secret: Option<&SecretArgs>,
    plan: impl FnOnce(Option<Secret>) -> Result<P>,
) -> Result<Exit> {
    let secret = secret.map_or_else(|| Ok(None), |secret| read(secret, common.result.quiet))?;
    let mut plan = plan(secret)?;
    let assertions = common
        .result
        .assertions
        .iter()
        .map(|expr| Assertion::parse(expr))
        .collect::<Result<Vec<_>>>()?;
    let asked = plan.asked();
    assertions.iter().try_for_each(|a| a.check(&asked))?;
    plan.common().command_line = Some(redact::command_line(std::env::args_os()));
    // An assertion on a quantile that is not printed needs it all the same.
    plan.common().percentiles.extend(assertions.iter().filter_map(Assertion::percentile));
    let look = Look { percentiles: common.percentiles() };
    present(
        &common.result,
        look,
        |interrupt, observer| plan.carry_out(interrupt, observer),
        |report| assertion::evaluate(&assertions, &report.results),
    )
}

/// Reads the secret, and warns of what is wrong about where it came from.
pub(super) fn read(secret: &SecretArgs, quiet: bool) -> Result<Option<Secret>> {
    let found = secret.read()?;
    if let Some(warning) = found.warning.filter(|_| !quiet) {
        complain(&format!("warning: {warning}"));
    }
    Ok(found.secret)
}

/// Carries a run out, and prints and writes what comes of it.
pub(super) fn present(
    args: &ResultArgs,
    look: Look,
    carry_out: impl FnOnce(&Interrupt, &mut dyn Observer) -> Result<Finished>,
    evaluate: impl FnOnce(&Report) -> Vec<AssertionResult>,
) -> Result<Exit> {
    let outputs = Outputs::open(args.format, &args.output, look)?;
    let interrupt = Interrupt::default();
    super::stop_on_signals(&interrupt)?;

    let mut watcher = Watcher {
        outputs,
        bar: Bar::new(args.quiet),
        step: 0,
        // In text the report begins with its warnings; twice on one screen would be once too often.
        tell_warnings: !args.quiet && args.format != Format::Text,
        announces: !args.quiet,
        interrupt: interrupt.clone(),
        left: false,
    };
    let mut finished = carry_out(&interrupt, &mut watcher)?;
    watcher.bar.clear();

    finished.report.assertions = evaluate(&finished.report);
    let written = watcher.outputs.finish(&finished.report);
    if let Some(error) = &finished.error {
        complain(&error.to_string());
    }
    for verdict in finished.report.assertions.iter().filter(|a| a.holds != Some(true)) {
        complain(&said_of(verdict));
    }
    if watcher.left {
        // Nobody reads on, and that is what ended the run.
        return Ok(Exit::Measured);
    }
    // The signal may have come when all was measured, and nobody read it.
    let exit = match &written {
        Err(_) if interrupt.is_raised() => Exit::Interrupted,
        _ => exit::of(&finished, args.strict),
    };
    match written {
        Err(error) if exit != Exit::Interrupted => Err(error),
        Err(error) => {
            complain(&error.to_string());
            Ok(exit)
        }
        Ok(()) => Ok(exit),
    }
}

/// Why an assertion does not let the command succeed, in a line.
pub(super) fn said_of(verdict: &AssertionResult) -> String {
    let step = match verdict.step.as_str() {
        "" => String::new(),
        step => format!(" at {step}"),
    };
    let fate = match verdict.holds {
        Some(false) => "does not hold",
        _ => "cannot be told from this data",
    };
    format!("assertion '{}' {fate}{step}", verdict.expr)
}

/// Hands what the run tells on to stdout, the files and the terminal.
struct Watcher {
    outputs: Outputs,
    bar: Bar,
    /// The running step, counted from zero.
    step: usize,
    tell_warnings: bool,
    announces: bool,
    interrupt: Interrupt,
    /// The run was ended because nobody reads its stream any more.
    left: bool,
}

impl Watcher {
    fn stop_if_nobody_reads(&mut self) {
        if self.outputs.nobody_reads() && !self.interrupt.is_raised() {
            self.left = true;
            self.interrupt.raise();
        }
    }
}

impl Observer for Watcher {
    fn step_started(&mut self, params: &Params, index: usize, total: usize) {
        self.step = index;
        self.outputs.expect_steps(total);
        self.bar.step(params, index, total);
    }

    fn progress(&mut self, progress: Progress) {
        self.bar.progress(progress);
    }

    fn wants_progress(&self) -> bool {
        self.bar.is_shown()
    }

    fn interval(&mut self, params: &Params, interval: &Interval) {
        self.outputs.interval(self.step, params, interval);
        self.stop_if_nobody_reads();
    }

    fn wants_intervals(&self) -> bool {
        self.outputs.streams()
    }

    fn wants_reports(&self) -> bool {
        self.outputs.writes_files() || self.outputs.streams()
    }

    fn announce(&mut self, text: &str) {
        if self.announces {
            self.bar.say(text);
        }
    }

    fn step_finished(&mut self, report: &Report) {
        self.outputs.blocks(report);
        self.outputs.step(report);
        self.stop_if_nobody_reads();
    }

    fn leftover(&mut self, warning: &Warning) {
        if self.announces {
            self.bar.say(&warned(warning));
        }
    }

    fn warning(&mut self, warning: &Warning) {
        if self.tell_warnings {
            self.bar.say(&warned(warning));
        }
    }
}

fn warned(warning: &Warning) -> String {
    format!("warning: {}", crate::report::warning(warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_that_does_not_hold_is_named() {
        let verdict = |holds, step: &str| AssertionResult {
            expr: "p99<2ms".into(),
            step: step.into(),
            actual: None,
            interval: None,
            holds,
        };
        assert_eq!(
            said_of(&verdict(Some(false), "size=64")),
            "assertion 'p99<2ms' does not hold at size=64"
        );
        assert_eq!(
            said_of(&verdict(None, "")),
            "assertion 'p99<2ms' cannot be told from this data"
        );
    }
}
