//! `tare bw`.

use tare_engine::error::Result;
use tare_engine::run;

use super::measure::measure;
use crate::args::bw::BwArgs;
use crate::exit::Exit;

pub(super) fn run(args: &BwArgs) -> Result<Exit> {
    measure(
        &args.common,
        Some(&args.secret),
        |secret| args.plan(secret),
        |plan| &mut plan.common,
        run::bw,
    )
}
