//! `tare compare`.

use tare_engine::compare::plan::{ArmPlan, ComparePlan, Measurement};
use tare_engine::run::plan::Stop;
use tare_host::hooks::HookSpec;
use tare_stats::assertion::{Asked, Assertion, evaluate_comparison};
use tare_units::Nanos;
use tare_units::error::{Error, Result};

use super::later;
use super::measure::{Measured as _, present, read};
use crate::args::Command;
use crate::args::compare::{Arm, CompareArgs, OPEN_LOOP_WARMUP, WARMUP};
use crate::exit::Exit;
use crate::output::OutputFile;
use crate::redact;
use crate::report::Look;

pub(super) fn run(args: &CompareArgs) -> Result<Exit> {
    if let Some(before) = &args.baseline_file {
        let options = later::Options {
            format: args.result.format,
            output: &args.result.output,
            assertions: &args.result.assertions,
            quiet: args.result.quiet,
        };
        return later::run(before, &args.later_file()?, &options);
    }
    let typed = args.arms()?;
    let measures_latency = !matches!(typed.arms[0].command, Command::Bw(_));
    let is_of_latencies = args.result.output.iter().any(OutputFile::is_of_latencies);
    if is_of_latencies && !measures_latency {
        return Err(Error::usage("-o as .hgrm or .hlog is of latencies, and bw measures none")
            .remedy("write it as .json .jsonl .csv .md .html or .txt"));
    }
    if args.chose_quantiles() && !measures_latency {
        return Err(Error::usage("--percentiles are of latencies, and bw measures none")
            .remedy("leave it out: the verdict is over the bandwidth"));
    }
    let seed = args.seed();
    if args.block_duration() == Nanos::ZERO {
        return Err(Error::usage("--block-duration must be above zero").remedy("write it as 500ms"));
    }
    let mut quantiles = args.quantiles();
    let assertions = args
        .result
        .assertions
        .iter()
        .map(|expr| Assertion::parse_comparison(expr))
        .collect::<Result<Vec<_>>>()?;
    // An assertion is over a cell, and so has its share in the error of all of them.
    for percent in assertions.iter().filter_map(Assertion::percentile) {
        if !quantiles.contains(&percent) {
            quantiles.push(percent);
        }
    }
    quantiles.sort_by(f64::total_cmp);
    let mut arms = Vec::new();
    for arm in typed.arms {
        arms.push(plan_of(arm, args, seed, &quantiles)?);
    }
    let plan = ComparePlan {
        arms,
        by_default: typed.by_default,
        blocks: args.blocks(),
        block_duration: args.block_duration(),
        settle: args.settle(),
        quantiles: quantiles.clone(),
        seed,
    };
    let names: Vec<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
    let asked = asked(&plan.arms[0].measurement);
    for assertion in &assertions {
        assertion.check_comparison(&asked, names[0], &names[1..])?;
    }
    let look = Look { percentiles: quantiles };
    present(
        &args.result,
        look,
        |interrupt, observer| tare_engine::compare::run(&plan, interrupt, observer),
        |report| evaluate_comparison(&assertions, report),
    )
}

/// What assertions can be about: all arms measure the same.
fn asked(measurement: &Measurement) -> Asked {
    match measurement {
        Measurement::Lat(plan) => plan.asked(),
        Measurement::Bw(plan) => plan.asked(),
        Measurement::Http(plan) => plan.asked(),
    }
}

/// What is measured over an arm in each of its visits.
fn plan_of(arm: Arm, args: &CompareArgs, seed: u64, quantiles: &[f64]) -> Result<ArmPlan> {
    let quiet = args.result.quiet;
    let (mut measurement, warmup) = match &arm.command {
        Command::Lat(lat) => {
            let plan = lat.plan(read(&lat.secret, quiet)?)?;
            (Measurement::Lat(plan), lat.common.warmup())
        }
        Command::Bw(bw) => {
            let plan = bw.plan(read(&bw.secret, quiet)?)?;
            (Measurement::Bw(plan), bw.common.warmup())
        }
        Command::Http(http) => (Measurement::Http(Box::new(http.plan()?)), http.common.warmup()),
        _ => return Err(Error::bug("a comparison of what measures nothing")),
    };
    let by_default = match &measurement {
        // What is due in the warm-up is in the queue before what is measured: of a server that is asked ten times what it
        // can do, nothing else would be seen.
        Measurement::Http(plan) if plan.open.is_some() => OPEN_LOOP_WARMUP,
        _ => WARMUP,
    };
    let common = measurement.common_mut();
    common.stop = Stop::After(args.block_duration());
    common.warmup = warmup.unwrap_or(by_default);
    common.seed = seed;
    common.command_line = Some(redact::command_line(std::env::args_os()));
    common.label.clone_from(&args.result.label);
    common.percentiles.extend(quantiles);
    let hook = |command: &Option<String>| {
        let command = command.as_deref()?;
        Some(redact::hook(command, args.record_hooks))
    };
    Ok(ArmPlan {
        shown: HookSpec { before: hook(&arm.hooks.before), after: hook(&arm.hooks.after) },
        name: arm.name,
        measurement,
        options: arm.options.as_deref().map(redact::options),
        hooks: arm.hooks,
    })
}
