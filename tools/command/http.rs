//! `tare http`: its flags, and the plan they become.

mod requests;
#[cfg(test)]
mod tests;
mod values;

use std::net::IpAddr;

use clap::Args;
use tare_driver::shown;
use tare_engine::http::plan::{HttpPlan, Late, OpenLoop, Stage};
use tare_engine::run::plan::Stop;
use tare_engine::schedule::Arrivals;
use tare_proto::http1::status::StatusSet;
use tare_units::error::{Error, Result};
use tare_units::limits::{ADDRESS_CONNECTIONS_MAX, CONNECTIONS_MAX, PIPELINE_MAX, STEPS_MAX};
use tare_units::target::Target;
use tare_units::{Count, Counts, Nanos, PerSecond};

use super::options::{CommonArgs, assert_help, check_time, choice};
use super::target::endpoint;
use super::{demand, refuse};
use requests::RequestArgs;
use values::{Addresses, Resolve, Stages, is_of, resolve};

const DURATION: Nanos = Nanos::from_secs(10);

const LOAD: &str = "The load";
const CONNECTIONS: &str = "The connections";

const EXAMPLES: &str = "\
Examples:
  tare http                                   loopback: what this machine costs by itself
  tare http http://node-2:8080/posts          ten connections, each as fast as it is answered
  tare http node-2:8080/posts -c 50,100,150,200,250,500,1000,1500,3000,5000,10000 -o posts.md
                                              one result per number of connections
  tare http node-2 -c 100 -R 1000             1,000 requests a second, come what may: a stall counts
  tare http node-2 -c 100 --stages 1000:10s,3000:10s,5000:10s,10000:10s,20000:10s,50000:10s
                                              one result per rate; 1000-5000:30s is a ramp
  tare http 'fortio:8080/echo?status=511:20' -c 10 -n 1000 -R 200 --reconnect-on-error
                                              a circuit breaker: each code, how many, and since when
  tare http node-2 -c 20000 --connect-rate 5k that many connections, opened gently
  tare http node-2/orders --body-file order.json --content-type application/json --expect-status 201
  tare http unix:/run/app.sock:/healthz -o app.hgrm
  tare http node-2 -R 500 --assert 'p99<20ms' --assert 'status.5xx==0' && echo good enough

Exit codes: 0 measured, 1 could not measure (or no request was answered as expected), 2 usage,
3 an assertion failed, 4 disturbed (--strict), 5 cannot tell, 130 interrupted (what was measured is
printed).";

/// Measure HTTP/1.1 latency and throughput
///
/// Without --rate each connection sends as soon as it was answered (closed loop: a slow server is
/// asked less). With --rate or --stages requests go out on a schedule that waits for nobody (open
/// loop), and latencies count from when a request was due.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("duration", |arg| arg.help("Measure each step for that long [default: 10s]")))]
#[command(mut_arg("count", |arg| arg.help("End each step after that many requests instead of after a time")))]
#[command(mut_arg("timeout", |arg| {
    arg.help("Give up on a response that long after its request was really sent; connects have --connect-timeout")
}))]
#[command(mut_arg("assertions", |arg| {
    let examples = "'p99<20ms', 'status.5xx==0', 'stage=2:goodput>900'";
    arg.help(format!("Fail with exit code 3 unless this holds: {examples} (repeatable)")).long_help(assert_help(
        examples,
        "p50, p99.9 … min, mean, max, stdev (after service. response. lateness. connect. residence. or path. for another \
         latency), errors, timeouts, ops, loss, rate, goodput (per second) and codes: status.511, status.5xx. connections=8, \
         stage=2 and rate=1000 select steps.",
    ))
}))]
pub(crate) struct HttpArgs {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Keep that many connections; a list makes one result each: 50,100,500
    #[arg(short, long, value_name = "N", default_value = "10", help_heading = LOAD)]
    connections: Counts,
    /// Send that many requests a second over all connections, on a schedule: 1000, 2.5, 60/m
    ///
    /// The schedule does not wait for answers, so a stall counts against every request that was due
    /// in it.
    #[arg(short = 'R', long, value_name = "RATE", conflicts_with = "stages", help_heading = LOAD)]
    #[arg(allow_negative_numbers = true)]
    rate: Option<PerSecond>,
    /// Go through these rates, one result each: 1000:10s,3000:10s, and ramps: 1000-5000:30s
    #[arg(long, value_name = "LIST", help_heading = LOAD)]
    stages: Option<Stages>,
    /// Space the requests of a schedule like this: constant, poisson, jitter:10% [default:
    /// constant]
    ///
    /// Poisson is what many independent users amount to.
    #[arg(long, value_name = "HOW", help_heading = LOAD)]
    arrivals: Option<Arrivals>,
    /// Let a request that finds no free connection wait for one, or drop it; counted either way
    /// [default: queue]
    #[arg(long, value_name = "WHAT", help_heading = LOAD)]
    #[arg(value_parser = choice([("queue", Late::Queue), ("drop", Late::Drop)]))]
    late: Option<Late>,
    /// Have up to that many requests outstanding on each connection
    #[arg(long, value_name = "N", default_value = "1", help_heading = LOAD)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(PIPELINE_MAX)))]
    pipeline: u32,
    /// Count these codes as success, all else as failed: 2xx,304 [default: 2xx,3xx]
    ///
    /// What failed is counted and timed under its code, and is in no other latency.
    #[arg(long, value_name = "LIST", help_heading = LOAD)]
    expect_status: Option<StatusSet>,
}

#[derive(Debug, Args)]
struct ConnectionArgs {
    /// Keep connections, or ask the server to close after each request [default: keep-alive]
    #[arg(long = "connection", value_name = "HOW", help_heading = CONNECTIONS)]
    #[arg(value_parser = choice([("keep-alive", false), ("close", true)]))]
    closes: Option<bool>,
    /// Replace a connection after that many requests
    #[arg(long, value_name = "N", help_heading = CONNECTIONS)]
    requests_per_connection: Option<Count>,
    /// Replace a connection after a response that was not expected, as fortio does
    #[arg(long, help_heading = CONNECTIONS)]
    reconnect_on_error: bool,
    /// Give up on connecting after that long
    #[arg(long, value_name = "TIME", default_value = "2s", help_heading = CONNECTIONS)]
    connect_timeout: Nanos,
    /// Open that many connections a second before the start instead of as fast as it goes
    #[arg(long, value_name = "RATE", help_heading = CONNECTIONS)]
    connect_rate: Option<PerSecond>,
    /// Take this address for a name, as curl does (repeatable): node-2:80:10.0.0.2
    #[arg(long, value_name = "HOST:PORT:ADDRESS", value_parser = resolve)]
    #[arg(help_heading = CONNECTIONS)]
    resolve: Vec<Resolve>,
    /// Connect there instead, whatever the URL says; the Host header stays the URL's
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint, help_heading = CONNECTIONS)]
    connect_to: Option<(String, u16)>,
    /// Connect from these addresses of this machine, in turn: 10.0.0.5,10.0.0.6 or
    /// 127.0.0.1-127.0.0.8 or fe80::1%eth0
    ///
    /// Each has some 60,000 ports for connections to one server.
    #[arg(long, value_name = "LIST", help_heading = CONNECTIONS)]
    bind: Option<Addresses>,
}

impl HttpArgs {
    pub(super) fn plan(&self) -> Result<HttpPlan> {
        let per_connection = self.connection.per_connection(self.load.pipeline)?;
        let close = self.connection.closes == Some(true);
        let common = self.common.plan(DURATION, None)?;
        let open = self.load.open(&self.common, common.stop)?;
        let (target, requests) = self.request.requests(close)?;
        self.connection.check(&target)?;
        self.connection.check_resolve(&target)?;
        let bind = self.connection.bind.as_ref().map_or_else(Vec::new, |list| list.0.clone());
        let connections = connections(&self.load.connections, &target, bind.len())?;
        let stages = open.as_ref().map_or(1, |open| open.stages.len());
        let steps = connections.len() * stages;
        let message = format!("--connections times --stages makes {steps} steps");
        demand(steps <= STEPS_MAX, message, format!("at most {STEPS_MAX} are measured"))?;
        let kept = &self.connection;
        Ok(HttpPlan {
            target,
            requests,
            connections,
            open,
            pipeline: self.load.pipeline,
            requests_per_connection: per_connection,
            reconnect_on_error: kept.reconnect_on_error,
            connect_timeout: kept.connect_timeout,
            connect_rate_per_s: kept.connect_rate.map(|rate| rate.0),
            expect: self.load.expect_status.clone().unwrap_or_default(),
            resolve: kept.resolve.clone(),
            connect_to: kept.connect_to.clone(),
            bind,
            common,
        })
    }
}

impl LoadArgs {
    fn open(&self, common: &CommonArgs, stop: Stop) -> Result<Option<OpenLoop>> {
        let stages = match (&self.stages, self.rate) {
            (Some(stages), _) => stages.0.clone(),
            (None, Some(PerSecond(rate))) => {
                vec![Stage { from_per_s: rate, to_per_s: rate, duration: None }]
            }
            (None, None) => {
                let given =
                    [(self.arrivals.is_some(), "--arrivals"), (self.late.is_some(), "--late")];
                for (given, flag) in given {
                    let message = format!("{flag} is about a schedule, and there is none");
                    demand(!given, message, "give a rate with -R or --stages")?;
                }
                return Ok(None);
            }
        };
        check_stages(&stages, common, stop)?;
        Ok(Some(OpenLoop {
            stages,
            arrivals: self.arrivals.unwrap_or_default(),
            late: self.late.unwrap_or(Late::Queue),
        }))
    }
}

/// Checks who says how long the stages last.
fn check_stages(stages: &[Stage], common: &CommonArgs, stop: Stop) -> Result<()> {
    let timed = stages.iter().filter(|stage| stage.duration.is_some()).count();
    let by_count = matches!(stop, Stop::Count(_));
    let message = "--count ends a stage, and its own time does, too";
    let advice = "write the stages without times, or leave --count out";
    demand(!by_count || timed == 0, message, advice)?;
    let message = "how steep a ramp is follows from its time, and --count gives none";
    let advice = "write a time after it: 1000-5000:30s";
    demand(!by_count || !stages.iter().any(Stage::is_ramp), message, advice)?;
    let message = "--duration says nothing where each stage has a time of its own";
    demand(common.duration.is_none() || timed < stages.len(), message, "leave it out")
}

impl ConnectionArgs {
    fn per_connection(&self, pipeline: u32) -> Result<Option<u64>> {
        let close = self.closes == Some(true);
        let each = self.requests_per_connection.map(|Count(each)| each);
        demand(each != Some(0), "--requests-per-connection must be above zero", "write 1 or more")?;
        let each = each.or_else(|| close.then_some(1));
        let many = each.unwrap_or_default();
        let message = format!(
            "--connection close is one request per connection, and --requests-per-connection says {many}"
        );
        demand(!close || many <= 1, message, "leave one of the two out")?;
        let message =
            format!("--pipeline {pipeline} needs connections that last for as many requests");
        let advice = "lower it, or keep connections longer";
        demand(
            pipeline <= 1 || each.is_none_or(|each| each >= u64::from(pipeline)),
            message,
            advice,
        )?;
        check_time("--connect-timeout", self.connect_timeout)?;
        Ok(each)
    }

    /// Checks that each address of a name is asked for: one that is not is a mistake in its name or
    /// its port.
    fn check_resolve(&self, target: &Target) -> Result<()> {
        let (host, port, source) = match (&self.connect_to, target) {
            (Some((host, port)), _) => (host, *port, "--connect-to"),
            (None, Target::Host { host, port }) => (host, *port, "the URL"),
            (None, _) => return Ok(()),
        };
        let Some((name, at)) = self.resolve.iter().find(|entry| !is_of(entry, host, port)) else {
            return Ok(());
        };
        let (of_port, address) = (at.port(), shown(*at));
        let given = format!("--resolve {name}:{of_port}:{address}");
        let message =
            format!("{given} is for {name}:{of_port}, and {source} asks for {host}:{port}");
        refuse(
            message,
            match host.parse::<IpAddr>() {
                Ok(_) => "leave it out: an address needs no name".to_owned(),
                Err(_) => format!("write --resolve {host}:{port}:{address}"),
            },
        )
    }

    /// Checks that there is a name to resolve and an address to bind to.
    fn check(&self, target: &Target) -> Result<()> {
        let is_host = matches!(target, Target::Host { .. });
        for (given, flag) in
            [(!self.resolve.is_empty(), "--resolve"), (self.connect_to.is_some(), "--connect-to")]
        {
            let message = format!("{flag} is about a host, and {target} is none");
            demand(is_host || !given, message, "leave it out, or give a URL with a host")?;
        }
        let message = "--bind is about addresses, and a Unix socket has none";
        let is_socket = matches!(target, Target::Unix(_));
        demand(self.bind.is_none() || !is_socket, message, "leave it out")
    }
}

/// The numbers of connections asked for, as far as `addresses` have ports for them.
fn connections(asked: &Counts, target: &Target, addresses: usize) -> Result<Vec<u32>> {
    let ports = match target {
        Target::Unix(_) => u64::MAX,
        _ => u64::from(ADDRESS_CONNECTIONS_MAX) * addresses.max(1) as u64,
    };
    let check = |count: &u64| {
        let possible = u32::try_from(*count).ok().filter(|n| (1..=CONNECTIONS_MAX).contains(n));
        let possible = possible.ok_or_else(|| {
            Error::usage(format!("--connections {count} is out of range"))
                .remedy(format!("write 1 to {CONNECTIONS_MAX}"))
        })?;
        let needed = count.div_ceil(u64::from(ADDRESS_CONNECTIONS_MAX));
        demand(
            *count <= ports,
            format!(
                "--connections {count} is more than one client address has ports for (some {ADDRESS_CONNECTIONS_MAX})"
            ),
            format!("name {needed} addresses of this machine with --bind"),
        )?;
        Ok(possible)
    };
    asked.0.iter().map(check).collect()
}
