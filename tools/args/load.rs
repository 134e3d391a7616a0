//! The value of `tare lat --under-load`: options of `tare bw`, parsed as `tare bw` would.

use clap::Parser;
use clap::error::ErrorKind;
use tare_driver::BackendChoice;
use tare_engine::latency::plan::Load;
use tare_engine::run::plan::{Common, Stop};
use tare_units::error::{Error, Result};
use tare_units::target::Target;

use super::Refused;
use super::bw::TrafficArgs;
use super::common::WorkerArgs;

/// What a load cannot be asked for, since it is asked of `tare lat`.
const ALLOWED: &str =
    "it takes the options of tare bw but for TARGET, how long and the result, which are tare lat's";

#[derive(Debug, Parser)]
#[command(name = "--under-load", no_binary_name = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
struct LoadArgs {
    #[command(flatten)]
    traffic: TrafficArgs,
    #[command(flatten)]
    workers: WorkerArgs,
}

/// The load that `options` ask for, over the path of a latency run.
///
/// # Errors
/// A usage error, in a line, where they make no sense, or there.
pub(super) fn parse(options: &str, target: Target, of_lat: &Common) -> Result<Load> {
    let wrong =
        |why: &str| Error::usage(format!("--under-load '{}': {why}", options.escape_debug()));
    let words = shlex::split(options).ok_or_else(|| wrong("a quote is not closed"))?;
    let args = LoadArgs::try_parse_from(words).map_err(|refused| {
        let unknown = refused.kind() == ErrorKind::UnknownArgument;
        let line = Refused::from(refused).line();
        let error = wrong(line.trim_end_matches("; see --help"));
        if unknown { error.remedy(ALLOWED) } else { error }
    })?;
    let mut common = of_lat.clone();
    args.workers.set(&mut common).map_err(|error| wrong(&error.to_string()))?;
    if common.backend == BackendChoice::Auto {
        common.backend = of_lat.backend;
    }
    if let Stop::Count(_) = common.stop {
        // How long so many round trips take is not known; the load goes on until they are over.
        common.stop = Common::default().stop;
    }
    let plan = args.traffic.plan(target, common).map_err(|error| wrong(&error.to_string()))?;
    if plan.sizes.len() > 1 || plan.streams.len() > 1 {
        return Err(wrong("a list makes several loads, and one is carried")
            .remedy("write one size and one number"));
    }
    Ok(Load { options: options.trim().to_owned(), plan: Box::new(plan) })
}

#[cfg(test)]
mod tests {
    use tare_proto::hello::{Direction, Transport, WaitMode};
    use tare_units::Nanos;

    use super::*;

    fn load(options: &str) -> Result<Load> {
        let of_lat = Common {
            stop: Stop::After(Nanos::from_secs(3)),
            wait: Some(WaitMode::Spin),
            threads: Some(1),
            cpus: Some(vec![3]),
            ..Common::default()
        };
        parse(options, Target::Veth, &of_lat)
    }

    #[test]
    fn nothing_is_one_stream_up() {
        let load = load("").unwrap();
        assert_eq!(load.options, "");
        let plan = load.plan;
        assert_eq!(plan.target, Target::Veth);
        assert_eq!((plan.direction, plan.streams), (Direction::Up, vec![1]));
        let common = plan.common;
        assert_eq!(common.stop, Stop::After(Nanos::from_secs(3)));
        // The pings' own CPU is not the load's.
        assert_eq!((common.wait, common.threads, common.cpus), (None, None, None));
    }

    #[test]
    fn options_are_those_of_bw() {
        let load = load("  -P 4 --direction 'down' --udp --size 1K --rate 1G --cpus 1,2 ").unwrap();
        assert_eq!(load.options, "-P 4 --direction 'down' --udp --size 1K --rate 1G --cpus 1,2");
        let plan = load.plan;
        assert_eq!((plan.direction, plan.streams), (Direction::Down, vec![4]));
        assert_eq!((plan.transport, plan.sizes), (Transport::Udp, vec![1_024]));
        assert_eq!(plan.common.cpus, Some(vec![1, 2]));
    }

    #[test]
    fn what_is_not_the_loads_is_refused_in_a_line() {
        for (options, whys) in [
            ("node-2", ["'node-2'", "but for TARGET"]),
            ("-d 5s", ["'-d'", "which are tare lat's"]),
            ("--bytes 1G", ["'--bytes'", "which are tare lat's"]),
            ("-o x.json", ["'-o'", "which are tare lat's"]),
            ("--warmup 1s", ["'--warmup'", "which are tare lat's"]),
            ("-P", ["--under-load '-P'", "value is required"]),
            ("--help", ["'--help'", "options of tare bw"]),
            ("-P 'x", ["a quote is not closed", "--under-load"]),
            ("-P 1,8", ["a list makes several loads", "write one"]),
            ("--size 1,2", ["a list makes several loads", "write one"]),
            ("--udp --nodelay", ["--nodelay is for TCP", "--under-load"]),
            ("--threads 3 --cpus 1,2", ["more than the 2", "--under-load"]),
        ] {
            let message = load(options).expect_err(options).to_string();
            for why in whys {
                assert!(message.contains(why), "{options}: {message}");
            }
            assert!(!message.contains('\n'), "{options}: {message}");
        }
    }
}
