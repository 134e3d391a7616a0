//! What every measuring command does around its run: outputs, signals, assertions, exit code.

pub(super) use tare_engine::measurement::Measurement;
use tare_engine::run::Finished;
use tare_engine::run::observe::{Observer, Progress};
use tare_stats::assertion::{self, Asked, Assertion};
use tare_stats::result::{AssertionResult, Interval, Params, Report, Warning};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

use super::options::{CommonArgs, ResultArgs};
use crate::exit::{self, Exit};
use crate::output::{OutputFile, Outputs};
use crate::progress::{Bar, complain};
use crate::redact::Redactor;
use crate::report::{self, DisplayOptions, Format};

pub(super) fn all(list: &[u32]) -> Vec<u64> {
    list.iter().copied().map(u64::from).collect()
}

/// Checks that the result of a command that measures no latency is not to be written as one.
pub(super) fn check_outputs(output: &[OutputFile]) -> Result<()> {
    if output.iter().any(OutputFile::is_of_latencies) {
        return Err(Error::usage("-o as .hgrm or .hlog is of latencies, and bw measures none")
            .remedy("write it as .json .jsonl .csv .md .html or .txt"));
    }
    Ok(())
}

/// Carries out a plan; `asked` is what assertions can be about.
pub(super) fn measure(
    args: &CommonArgs,
    mut plan: Measurement,
    asked: &Asked,
    typed: &Redactor,
) -> Result<Exit> {
    let assertions = args.result.assertions.iter().map(|expr| Assertion::parse(expr));
    let assertions = assertions.collect::<Result<Vec<_>>>()?;
    assertions.iter().try_for_each(|a| a.check(asked))?;
    let common = plan.common_mut();
    common.command_line = Some(typed.command_line(std::env::args_os()));
    // An assertion on a quantile that is not printed needs it all the same.
    common.percentiles.extend(assertions.iter().filter_map(Assertion::percentile));
    let options = DisplayOptions { percentiles: args.percentiles() };
    present(
        &args.result,
        options,
        |interrupt, observer| plan.measure(interrupt, observer),
        |report| assertion::evaluate(&assertions, &report.results),
    )
}

pub(super) fn present(
    args: &ResultArgs,
    options: DisplayOptions,
    carry_out: impl FnOnce(&Interrupt, &mut dyn Observer) -> Result<Finished>,
    evaluate: impl FnOnce(&Report) -> Vec<AssertionResult>,
) -> Result<Exit> {
    let outputs = Outputs::open(args.format, &args.output, options)?;
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
    complain_of(&finished.report.assertions);
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

pub(super) fn complain_of(assertions: &[AssertionResult]) {
    let failed = assertions.iter().filter(|assertion| assertion.holds != Some(true));
    failed.for_each(|assertion| complain(&report::assertion(assertion)));
}

/// Hands what the run tells on to stdout, the files and the terminal.
struct Watcher {
    outputs: Outputs,
    bar: Bar,
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
        self.outputs.steps = total;
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
        !self.outputs.files.is_empty() || self.outputs.streams()
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
            self.bar.say(&format!("warning: {}", report::warning(warning)));
        }
    }

    fn warning(&mut self, warning: &Warning) {
        if self.tell_warnings {
            self.bar.say(&format!("warning: {}", report::warning(warning)));
        }
    }
}
