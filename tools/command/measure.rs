//! What every measuring command does around its run: outputs, signals, assertions, exit code.

use clap::Subcommand;
use tare_engine::measurement::Measurement;
use tare_engine::run::Finished;
use tare_engine::run::observe::{Observer, Progress};
use tare_proto::hello::{Direction, Transport};
use tare_stats::assertion::{self, Asked, Assertion, Kind};
use tare_stats::result::{AssertionResult, Interval, Params, Report, Warning};
use tare_units::control::Interrupt;
use tare_units::error::Result;

use super::bw::BwArgs;
use super::http::HttpArgs;
use super::lat::LatArgs;
use super::options::{CommonArgs, ResultArgs};
use crate::exit::{self, Exit};
use crate::output::{OutputFile, Outputs, complain};
use crate::progress::Bar;
use crate::redact::Redactor;
use crate::report::{self, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum Measuring {
    Lat(Box<LatArgs>),
    Bw(Box<BwArgs>),
    Http(Box<HttpArgs>),
}

impl Measuring {
    pub(super) fn common(&self) -> &CommonArgs {
        match self {
            Self::Lat(args) => &args.common,
            Self::Bw(args) => &args.common,
            Self::Http(args) => &args.common,
        }
    }

    /// The plan; unless `quiet` there are warnings of what is wrong about a secret's file.
    pub(super) fn plan(&self, quiet: bool) -> Result<Measurement> {
        Ok(match self {
            Self::Lat(args) => Measurement::Lat(args.plan(args.secret.read(quiet)?)?),
            Self::Bw(args) => Measurement::Bw(args.plan(args.secret.read(quiet)?)?),
            Self::Http(args) => Measurement::Http(Box::new(args.plan()?)),
        })
    }
}

pub(super) fn asked(plan: &Measurement) -> Asked {
    let all = |list: &[u32]| list.iter().copied().map(u64::from).collect::<Vec<_>>();
    let (kind, sizes, connections) = match plan {
        Measurement::Lat(plan) => (Kind::Lat, all(&plan.sizes), &plan.connections),
        Measurement::Bw(plan) => (Kind::Bw, all(&plan.sizes), &plan.streams),
        Measurement::Http(plan) => {
            let body = plan.requests.first().and_then(|w| w.request.body.as_ref());
            let size = body.map_or(0, |body| body.bytes.len() as u64);
            (Kind::Http, vec![size], &plan.connections)
        }
    };
    let stages = match plan {
        Measurement::Http(plan) => plan.open.as_ref().map_or(&[][..], |open| &open.stages),
        _ => &[],
    };
    let rate_per_s = match plan {
        Measurement::Lat(plan) => plan.rate_per_s,
        _ => None,
    };
    let (loaded, bulk) = match plan {
        Measurement::Lat(plan) => (true, plan.under_load.as_ref().map(|load| &*load.plan)),
        Measurement::Bw(plan) => (false, Some(plan)),
        Measurement::Http(_) => (false, None),
    };
    Asked {
        kind,
        sizes,
        connections: all(connections),
        // One alone is not numbered.
        stages: if stages.len() > 1 { stages.len() as u64 } else { 0 },
        rates_per_s: stages.iter().map(|stage| stage.from_per_s).chain(rate_per_s).collect(),
        loaded: loaded && bulk.is_some(),
        datagrams: bulk.is_some_and(|bulk| bulk.transport == Transport::Udp),
        up: bulk.is_some_and(|bulk| bulk.direction != Direction::Down),
        down: bulk.is_some_and(|bulk| bulk.direction != Direction::Up),
    }
}

/// Checks that the result of a command that measures no latency is not to be written as one.
pub(super) fn check_outputs(output: &[OutputFile]) -> Result<()> {
    let message = "-o as .hgrm or .hlog is of latencies, and bw measures none";
    let advice = "write it as .json .jsonl .csv .md .html or .txt";
    super::demand(output.iter().all(|file| file.format().is_some()), message, advice)
}

pub(super) fn run(command: &Measuring, typed: &Redactor) -> Result<Exit> {
    let args = command.common();
    let mut plan = command.plan(args.result.quiet)?;
    let assertions = args.result.assertions.iter().map(|expr| Assertion::parse(expr));
    let assertions = assertions.collect::<Result<Vec<_>>>()?;
    let asked = asked(&plan);
    assertions.iter().try_for_each(|a| a.check(&asked))?;
    let common = plan.common_mut();
    common.command_line = Some(typed.command_line(std::env::args_os()));
    // An assertion on a quantile that is not printed needs it all the same.
    common.percentiles.extend(assertions.iter().filter_map(Assertion::percentile));
    present(
        &args.result,
        args.percentiles(),
        |interrupt, observer| plan.measure(interrupt, observer),
        |report| assertion::evaluate(&assertions, &report.results),
    )
}

pub(super) fn present(
    args: &ResultArgs,
    percentiles: Vec<f64>,
    carry_out: impl FnOnce(&Interrupt, &mut dyn Observer) -> Result<Finished>,
    evaluate: impl FnOnce(&Report) -> Vec<AssertionResult>,
) -> Result<Exit> {
    let interrupt = Interrupt::default();
    let mut watcher = Watcher {
        outputs: Outputs::open(args.format, &args.output, percentiles)?,
        bar: Bar::new(args.quiet),
        step: 0,
        args,
        interrupt: interrupt.clone(),
        left: false,
    };
    super::stop_on_signals(&interrupt)?;
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
    match written {
        Err(error) if interrupt.is_raised() || finished.interrupted => {
            complain(&error.to_string());
            Ok(Exit::Interrupted)
        }
        written => written.map(|()| exit::of(&finished, args.strict)),
    }
}

pub(super) fn complain_of(assertions: &[AssertionResult]) {
    let failed = assertions.iter().filter(|assertion| assertion.holds != Some(true));
    failed.for_each(|assertion| complain(&report::assertion(assertion)));
}

/// Hands what comes of the run on to stdout, the files and the terminal.
struct Watcher<'a> {
    outputs: Outputs,
    bar: Bar,
    step: usize,
    args: &'a ResultArgs,
    interrupt: Interrupt,
    /// The run was ended because nobody reads its stream any more.
    left: bool,
}

impl Watcher<'_> {
    fn stop_if_nobody_reads(&mut self) {
        if self.outputs.nobody_reads() && !self.interrupt.is_raised() {
            self.left = true;
            self.interrupt.raise();
        }
    }
}

impl Observer for Watcher<'_> {
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
        if !self.args.quiet {
            self.bar.say(text);
        }
    }

    fn step_finished(&mut self, report: &Report) {
        self.outputs.step(report);
        self.stop_if_nobody_reads();
    }

    fn leftover(&mut self, warning: &Warning) {
        self.announce(&format!("warning: {}", report::warning(warning)));
    }

    fn warning(&mut self, warning: &Warning) {
        // In text the report begins with its warnings; twice on one screen would be once too often.
        if self.args.format != Format::Text {
            self.leftover(warning);
        }
    }
}
