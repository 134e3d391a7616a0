//! `tare doctor`: its flags, and the examination they ask for.

use clap::Args;
use tare_host::doctor::{self, DoctorPlan};
use tare_stats::result::Level;
use tare_units::error::Result;
use tare_units::target::Target;
use tare_units::{CpuList, Nanos};

use super::target::target;
use crate::exit::Exit;
use crate::report::doctor::{DoctorFormat, render};

const EXAMPLES: &str = "\
Examples:
  tare doctor                      this machine, and the device of its default route
  tare doctor node-2               the device and the MTU of the route to node-2
  tare doctor loopback --cpus 2-3  these CPUs, whatever lies beyond them
  tare doctor --look 10s           more time for what happens now and then
  tare doctor --strict > /dev/null && tare lat node-2
  tare doctor --format json | jq -r '.findings[] | select(.level == \"spoils\") | .mend'

Nothing is changed on this machine, and nothing is sent but what finding the address of TARGET
takes. For a second it spins on the CPUs that would measure, as a measurement would.

Exit codes: 0 looked, 1 TARGET was not found, 2 usage, 4 something spoils a measurement (--strict).";

/// Tell what on this machine would spoil a microsecond measurement
///
/// Each finding says what is so, what that does to a measurement, the command that shows it, and
/// the one that mends it. What cannot be read here is said to be unknown, and never taken for fine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Examine the route to this host, and its device: HOST, HOST:PORT or loopback [default: the
    /// default route]
    #[arg(value_name = "TARGET", value_parser = target)]
    target: Option<Target>,
    /// Examine these CPUs: 2-5,7 [default: those that tare lat would measure on]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Watch for that long what only shows over time: interrupts, drops, stolen time
    #[arg(long, value_name = "TIME", default_value = "1s")]
    look: Nanos,
    /// Give up resolving the name of TARGET after that long
    #[arg(long, value_name = "TIME", default_value = "2s")]
    timeout: Nanos,
    /// Fail with exit code 4 if anything spoils a measurement
    #[arg(long)]
    strict: bool,
    /// Print the findings on stdout as this
    #[arg(long, value_enum, default_value = "text")]
    format: DoctorFormat,
}

pub(super) fn run(args: &DoctorArgs) -> Result<Exit> {
    let diagnosis = doctor::examine(&args.plan())?;
    let printed = super::print(render(args.format, &diagnosis).as_bytes())?;
    let spoilt = diagnosis.of(Level::Spoils).next().is_some();
    Ok(if args.strict && spoilt { Exit::Disturbed } else { printed })
}

impl DoctorArgs {
    fn plan(&self) -> DoctorPlan {
        DoctorPlan {
            target: self.target.clone(),
            cpus: self.cpus.as_ref().map(|list| list.0.clone()),
            look: self.look,
            timeout: self.timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parsed;

    #[test]
    fn every_flag_reaches_the_plan() {
        let args = |flags: &str| match parsed(&format!("doctor {flags}")) {
            Command::Doctor(args) => args,
            other => panic!("{other:?}"),
        };
        // By default the default route is examined for a second.
        let (default, plan) = (args(""), args("").plan());
        assert_eq!((plan.target, plan.cpus, plan.look), (None, None, Nanos::from_secs(1)));
        assert_eq!((default.strict, default.format), (false, DoctorFormat::Text));
        let flags = "node-2:99 --cpus 3,1 --look 250ms --timeout 1s --strict --format json";
        let (typed, plan) = (args(flags), args(flags).plan());
        let host = "node-2".to_owned();
        assert_eq!(plan.target, Some(Target::Host { host, port: 99 }));
        assert_eq!(plan.cpus, Some(vec![3, 1]));
        assert_eq!((plan.look, plan.timeout), (Nanos::from_millis(250), Nanos::from_secs(1)));
        assert_eq!((typed.strict, typed.format), (true, DoctorFormat::Json));
    }
}
