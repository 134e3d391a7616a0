//! `tare doctor`.

use tare_engine::error::Result;
use tare_engine::result::Level;
use tare_engine::run::doctor;

use crate::args::doctor::DoctorArgs;
use crate::exit::Exit;
use crate::report::doctor::render;

pub(super) fn run(args: &DoctorArgs) -> Result<Exit> {
    let diagnosis = doctor::examine(&args.plan())?;
    let printed = super::print(render(args.format, &diagnosis).as_bytes())?;
    let spoilt = diagnosis.of(Level::Spoils).next().is_some();
    Ok(if args.strict && spoilt {
        Exit::Disturbed
    } else {
        printed
    })
}
