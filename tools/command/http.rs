//! `tare http`.

use tare_engine::error::Result;
use tare_engine::run;

use super::measure::measure;
use crate::args::http::HttpArgs;
use crate::exit::Exit;

pub(super) fn run(args: &HttpArgs) -> Result<Exit> {
    measure(
        &args.common,
        None,
        |_| args.plan(),
        |plan| &mut plan.common,
        run::http,
    )
}
