//! `tare lat`.

use tare_engine::error::Result;
use tare_engine::run;

use super::measure::measure;
use crate::args::lat::LatArgs;
use crate::exit::Exit;

pub(super) fn run(args: &LatArgs) -> Result<Exit> {
    measure(
        &args.common,
        Some(&args.secret),
        |secret| args.plan(secret),
        |plan| &mut plan.common,
        run::lat,
    )
}
