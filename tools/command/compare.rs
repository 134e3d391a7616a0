//! `tare compare`.

use tare_engine::error::{Error, Result};
use tare_engine::run;
use tare_engine::run::plan::{ArmPlan, ComparePlan, Measurement, Stop};
use tare_engine::units::Nanos;

use super::measure::{present, read};
use crate::args::Command;
use crate::args::compare::{Arm, CompareArgs, WARMUP};
use crate::exit::Exit;
use crate::report::Look;

pub(super) fn run(args: &CompareArgs) -> Result<Exit> {
    let typed = args.arms()?;
    let seed = args.seed();
    if args.block_duration() == Nanos::ZERO {
        return Err(Error::usage("--block-duration must be above zero").remedy("write it as 500ms"));
    }
    let quantiles = args.quantiles();
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
    let look = Look {
        percentiles: quantiles,
    };
    present(
        &args.result,
        look,
        |interrupt, observer| run::compare(&plan, interrupt, observer),
        |_| Vec::new(),
    )
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
        Command::Http(http) => (Measurement::Http(http.plan()?), http.common.warmup()),
        _ => return Err(Error::bug("a comparison of what measures nothing")),
    };
    let common = measurement.common_mut();
    common.stop = Stop::After(args.block_duration());
    common.warmup = warmup.unwrap_or(WARMUP);
    common.seed = seed;
    common.label.clone_from(&args.result.label);
    common.percentiles.extend(quantiles);
    Ok(ArmPlan {
        name: arm.name,
        measurement,
        options: arm.options,
        hooks: arm.hooks,
    })
}
