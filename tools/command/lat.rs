//! `tare lat`: its flags, the plan they become, and the load beside it.

use std::net::SocketAddr;

use clap::error::ErrorKind;
use clap::{Args, Parser};
use tare_driver::BackendChoice;
use tare_engine::latency::plan::{LatPlan, Load};
use tare_engine::run::plan::{Common, Stop};
use tare_host::resolve::local;
use tare_proto::auth::Secret;
use tare_proto::hello::Transport;
use tare_units::error::{Error, Result};
use tare_units::target::Target;
use tare_units::{Counts, Nanos, PerSecond, Sizes};

use super::bw::TrafficArgs;
use super::options::{CommonArgs, DURATION, SecretArgs, WorkerArgs};
use super::target::{self, TargetArgs, TransportArgs};
use super::{demand, usage};

const EXAMPLES: &str = "\
Examples:
  tare lat                                    loopback: what this machine costs by itself
  tare lat node-2                             round trips to `tare serve` on node-2, port 7117
  tare lat node-2 --size 1:64K:*4 -o lat.csv  one result per size: 1, 4, 16, … 64 KiB
  tare lat pod-ip:30117 --udp -c 1,8,64       datagrams, one result per number of ping-pongs
  tare lat node-2 --rate 100                  sparse pings: shows what waking up costs
  tare lat node-2 --connect-each              connect, ask, close: what a new connection costs
  tare lat node-2 --under-load '-P 4'         idle, and beside four bulk streams: what queues add
  tare lat node-2 --assert 'p99<200us' && echo fast enough

Exit codes: 0 measured, 1 could not measure, 2 usage, 3 an assertion failed, 4 disturbed (--strict),
5 cannot tell, 130 interrupted (what was measured is printed).";

/// Measure round-trip latency
///
/// Sends a message, waits for the answer, and repeats. Latencies are full round trips; a column
/// beside them halves them, as qperf and sockperf do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("threads", |arg| arg.help("Use this many worker threads, a CPU each [default: 1]")))]
pub(crate) struct LatArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    transport: TransportArgs,

    /// Send messages of this size, both ways; a list or a sweep makes one result each: 1:64K:*4
    ///
    /// K M G are binary, k m g decimal. Sweeps are FIRST:LAST:STEP, where a step of *4 multiplies,
    /// as qperf writes them; LAST is measured only if a step hits it.
    #[arg(long, value_name = "SIZES", default_value = "64")]
    size: Sizes,
    /// Keep that many ping-pongs going at once; a list makes one result each: 1,8,64
    #[arg(short, long, value_name = "N", default_value = "1")]
    connections: Counts,
    /// Open a connection for every ping and close it after (TCP); connect time is reported apart
    #[arg(long, conflicts_with = "udp")]
    connect_each: bool,
    /// Ping on a schedule, that many a second over all connections, instead of back to back: 1000,
    /// 60/m
    ///
    /// The schedule does not wait for answers, so a stall counts against every ping that was due in
    /// it.
    #[arg(short = 'R', long, value_name = "RATE")]
    rate: Option<PerSecond>,
    /// Have the server hold each answer that long, spinning: shows whether the instrument can be
    /// trusted
    #[arg(long, value_name = "TIME", default_value = "0")]
    server_delay: Nanos,
    /// Measure each step twice, idle and while the path carries bulk traffic: the options of tare
    /// bw, quoted
    ///
    /// '-P 4 --direction down' is four streams downwards, '' one stream upwards. All options of
    /// tare bw are taken that say what goes over the path; target, time and result are those of
    /// tare lat.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    under_load: Option<String>,
    /// Send from this address of this machine: 10.0.0.1, fe80::1%eth0
    #[arg(long, value_name = "ADDRESS", value_parser = local)]
    bind: Option<SocketAddr>,

    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

impl LatArgs {
    pub(super) fn plan(&self, secret: Option<Secret>) -> Result<LatPlan> {
        let transport = self.transport.transport();
        let message = "--connect-each opens TCP connections; UDP has none";
        let advice = "leave one of the two out";
        demand(!self.connect_each || transport == Transport::Tcp, message, advice)?;
        let sizes = target::sizes(&self.size, transport)?;
        let connections = target::connections(&self.connections)?;
        // Under a load each step is measured twice.
        let times = if self.under_load.is_some() { 2 } else { 1 };
        target::check_steps(sizes.len() * connections.len() * times)?;
        let common = self.common.plan(DURATION, secret)?;
        let (delay, timeout) = (self.server_delay, common.timeout);
        let message = format!(
            "with --server-delay {delay} every answer would come after --timeout {timeout}"
        );
        demand(delay < timeout, message, "raise --timeout")?;
        let target = self.target.target.clone();
        target::check_bind(self.bind, &target)?;
        let under_load = self.under_load.as_ref();
        let under_load = under_load.map(|options| parse_load(options, target.clone(), &common));
        let mut under_load = under_load.transpose()?;
        // The load goes over the same path, unless it is sent from elsewhere.
        if let Some(load) = &mut under_load {
            load.plan.bind = load.plan.bind.or(self.bind);
        }
        Ok(LatPlan {
            target,
            transport,
            sizes,
            connections,
            connect_each: self.connect_each,
            rate_per_s: self.rate.map(|rate| rate.0),
            server_delay: self.server_delay,
            under_load,
            bind: self.bind,
            common,
        })
    }
}

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

/// The load that `options` ask for, options of `tare bw` and parsed as it would, over the path of a
/// latency run.
fn parse_load(options: &str, target: Target, of_lat: &Common) -> Result<Load> {
    let wrong =
        |why: &str| Error::usage(format!("--under-load '{}': {why}", options.escape_debug()));
    let words = shlex::split(options).ok_or_else(|| wrong("a quote is not closed"))?;
    let args = LoadArgs::try_parse_from(words).map_err(|refused| {
        let unknown = refused.kind() == ErrorKind::UnknownArgument;
        let line = usage::line(&refused);
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
    use tare_driver::Backend;
    use tare_engine::bandwidth::plan::BwPlan;
    use tare_proto::hello::{Direction, WaitMode};

    use super::*;
    use crate::command::Command;
    use crate::command::measure::Measuring;
    use crate::command::tests::{parsed, refuses};

    fn plan(flags: &str) -> Result<LatPlan> {
        match parsed(&format!("lat {flags}")) {
            Command::Measure(Measuring::Lat(args)) => args.plan(None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let plan = plan("").unwrap();
        assert_eq!((plan.target, plan.transport), (Target::Loopback, Transport::Tcp));
        assert_eq!((plan.sizes, plan.connections, plan.rate_per_s), (vec![64], vec![1], None));
        let Common { stop, warmup, timeout, interval, wait, backend, percentiles, .. } =
            plan.common;
        let [second, two] = [1, 2].map(Nanos::from_secs);
        assert_eq!((stop, warmup), (Stop::After(Nanos::from_secs(5)), Nanos::from_millis(500)));
        assert_eq!((timeout, interval), (two, second));
        assert_eq!((wait, backend, percentiles.len()), (None, BackendChoice::Auto, 7));
    }

    #[test]
    fn every_flag_reaches_the_plan() {
        let plan = plan(
            "node-2:99 --proto udp --size 16,1K -c 1,8 -R 60/m --server-delay 5us --wait block -n 10k \
             --warmup 0 --timeout 1s --threads 2 --cpus 3,1 --backend epoll --percentiles 99.5,50 --seed 7 \
             --interval 100ms --label x --no-idle --observe web=comm:nginx --observe it=pid:7 --bind 10.0.0.1",
        )
        .unwrap();
        assert_eq!((plan.target.to_string(), plan.transport), ("node-2:99".into(), Transport::Udp));
        assert_eq!((plan.sizes, plan.connections), (vec![16, 1024], vec![1, 8]));
        assert_eq!((plan.rate_per_s, plan.server_delay), (Some(1.0), Nanos::from_micros(5)));
        assert_eq!(plan.bind, Some("10.0.0.1:0".parse().unwrap()));
        let common = plan.common;
        assert_eq!((common.stop, common.warmup), (Stop::Count(10_000), Nanos::ZERO));
        assert_eq!((common.threads, common.cpus), (Some(2), Some(vec![3, 1])));
        assert_eq!((common.wait, common.timeout), (Some(WaitMode::Block), Nanos::from_secs(1)));
        assert_eq!(common.backend, BackendChoice::Only(Backend::Epoll));
        assert_eq!((common.percentiles, common.seed), (vec![50.0, 99.5], 7));
        assert_eq!((common.no_idle, common.label.as_deref()), (true, Some("x")));
        let observed = common.observe.iter().map(|one| format!("{}={}", one.name, one.what));
        assert_eq!(observed.collect::<Vec<_>>(), ["web=comm:nginx", "it=pid:7"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let cases = [
            ("--udp --size 8", "header of 16 bytes"),
            ("--size 5G", "too large"),
            ("-c 60001", "1 to 60000"),
            ("--proto udp --connect-each", "UDP has none"),
            ("-d 0", "--duration must be above zero"),
            ("-n 0", "--count must be above zero"),
            ("--timeout 0", "--timeout must be above zero"),
            ("--interval 10us", "--interval must be at least"),
            ("--server-delay 3s", "raise --timeout"),
            ("--threads 3 --cpus 1,2", "more than the 2"),
            ("--size 1:100:1 -c 1:11:1", "1100 steps"),
            ("[fe80::1%lo]:80 --bind 10.0.0.1", "one is IPv4"),
        ];
        refuses(plan, &cases);
        assert!(plan("--udp --size 16,65507").is_ok());
        assert!(plan("--size 1,16M --connect-each --rate 10").is_ok());
    }

    fn load(options: &str) -> Result<Load> {
        let of_lat = Common {
            stop: Stop::After(Nanos::from_secs(3)),
            wait: Some(WaitMode::Spin),
            threads: Some(1),
            cpus: Some(vec![3]),
            ..Common::default()
        };
        parse_load(options, Target::Veth, &of_lat)
    }

    #[test]
    fn a_load_takes_the_options_of_bw() {
        let nothing = load("").unwrap();
        assert_eq!(nothing.options, "");
        let BwPlan { target, direction, streams, common, .. } = *nothing.plan;
        assert_eq!((target, direction, streams), (Target::Veth, Direction::Up, vec![1]));
        assert_eq!(common.stop, Stop::After(Nanos::from_secs(3)));
        // The pings' own CPU is not the load's.
        assert_eq!((common.wait, common.threads, common.cpus), (None, None, None));

        let load = load("  -P 4 --direction 'down' --udp --size 1K --rate 1G --cpus 1,2 ").unwrap();
        assert_eq!(load.options, "-P 4 --direction 'down' --udp --size 1K --rate 1G --cpus 1,2");
        let plan = load.plan;
        assert_eq!((plan.direction, plan.streams), (Direction::Down, vec![4]));
        assert_eq!((plan.transport, plan.sizes), (Transport::Udp, vec![1_024]));
        assert_eq!(plan.common.cpus, Some(vec![1, 2]));
    }

    #[test]
    fn what_is_not_the_loads_is_refused_in_a_line() {
        for option in ["-d 5s", "--bytes 1G", "-o x.json", "--warmup 1s"] {
            let (flag, _) = option.split_once(' ').unwrap();
            refuses(load, &[(option, &format!("'{flag}'")), (option, "which are tare lat's")]);
        }
        let cases = [
            ("node-2", "'node-2'"),
            ("node-2", "but for TARGET"),
            ("-P", "--under-load '-P'"),
            ("-P", "value is required"),
            ("--help", "'--help'"),
            ("--help", "options of tare bw"),
            ("-P 'x", "a quote is not closed"),
            ("-P 1,8", "a list makes several loads, and one is carried; write one"),
            ("--size 1,2", "a list makes several loads, and one is carried; write one"),
            ("--udp --nodelay", "--nodelay is for TCP"),
            ("--threads 3 --cpus 1,2", "more than the 2"),
        ];
        refuses(load, &cases);
        for (options, _) in cases {
            refuses(load, &[(options, "--under-load")]);
        }
    }
}
