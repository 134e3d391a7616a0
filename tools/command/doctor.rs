//! `tare doctor`.

use tare_host::doctor;
use tare_stats::result::Level;
use tare_units::error::Result;

use crate::args::doctor::DoctorArgs;
use crate::exit::Exit;
use crate::report::doctor::render;

pub(super) fn run(args: &DoctorArgs) -> Result<Exit> {
    let diagnosis = doctor::examine(&args.plan())?;
    let printed = super::print(render(args.format, &diagnosis).as_bytes())?;
    let spoilt = diagnosis.of(Level::Spoils).next().is_some();
    Ok(if args.strict && spoilt { Exit::Disturbed } else { printed })
}
