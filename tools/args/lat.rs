//! The flags of `tare lat`, and the plan they become.

use std::net::Ipv6Addr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use tare_engine::error::{Error, Result};
use tare_engine::limits::{
    CONNECTIONS_MAX, DATAGRAM_HEADER, DATAGRAM_MAX, DEFAULT_PORT, MESSAGE_MAX, STEPS_MAX,
};
use tare_engine::run::plan::{LatPlan, Secret, Target, Transport};
use tare_engine::units::{Counts, Nanos, PerSecond, Size, Sizes};

use super::common::CommonArgs;

const EXAMPLES: &str = "\
Examples:
  tare lat                                    loopback: what this machine costs by itself
  tare lat node-2                             round trips to `tare serve` on node-2, port 7117
  tare lat node-2 --size 1:64K:*4 -o lat.csv  one result per size: 1, 4, 16, … 64 KiB
  tare lat pod-ip:30117 --udp -c 1,8,64       datagrams, one result per number of ping-pongs
  tare lat node-2 --rate 100                  sparse pings: shows what waking up costs
  tare lat node-2 --connect-each              connect, ask, close: what a new connection costs
  tare lat node-2 --assert 'p99<200us' && echo fast enough

Exit codes: 0 measured, 1 could not measure, 2 usage, 3 an assertion failed, 4 disturbed (--strict),
5 cannot tell, 130 interrupted (what was measured is printed).";

/// Measure round-trip latency
///
/// Sends a message, waits for the answer, and repeats. Latencies are full round trips; a column beside them
/// halves them, as qperf and sockperf do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LatArgs {
    /// Where `tare serve` listens: HOST, HOST:PORT or [IPV6]:PORT [default: loopback]
    ///
    /// The port is 7117 unless given. `loopback` starts a server within this process, on a CPU of its own;
    /// `veth` starts it in a network namespace made for the run (needs root), and undoes that afterwards.
    #[arg(value_name = "TARGET")]
    target: Option<TargetArg>,

    /// Ping over TCP connections (the default)
    #[arg(long, conflicts_with_all = ["udp", "proto"])]
    tcp: bool,
    /// Ping with UDP datagrams; lost ones are counted, and never waited for beyond --timeout
    #[arg(long, conflicts_with_all = ["tcp", "proto", "connect_each"])]
    udp: bool,
    /// The same as --tcp or --udp, for scripts
    #[arg(long, value_enum, value_name = "PROTO")]
    proto: Option<Proto>,
    /// Send messages of this size, both ways; a list or a sweep makes one result each: 1:64K:*4
    ///
    /// K M G are binary, k m g decimal. Sweeps are FIRST:LAST:STEP, where a step of *4 multiplies, as qperf
    /// writes them; LAST is measured only if a step hits it.
    #[arg(long, value_name = "SIZES", default_value = "64")]
    size: Sizes,
    /// Keep that many ping-pongs going at once; a list makes one result each: 1,8,64
    #[arg(short, long, value_name = "N", default_value = "1")]
    connections: Counts,
    /// Open a connection for every ping and close it after (TCP); connect time is reported apart
    #[arg(long)]
    connect_each: bool,
    /// Ping on a schedule, that many a second over all connections, instead of back to back: 1000, 60/m
    ///
    /// The schedule does not wait for answers, so a stall counts against every ping that was due in it.
    #[arg(short = 'R', long, value_name = "RATE")]
    rate: Option<PerSecond>,
    /// Have the far end hold each answer that long, spinning: shows whether the instrument can be trusted
    #[arg(long, value_name = "TIME", default_value = "0")]
    server_delay: Nanos,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
}

impl LatArgs {
    /// The plan that these flags ask for.
    ///
    /// # Errors
    /// A usage error where flags make no sense, alone or together.
    pub(crate) fn plan(&self, secret: Option<Secret>) -> Result<LatPlan> {
        let transport = if self.udp || self.proto == Some(Proto::Udp) {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        if self.connect_each && transport == Transport::Udp {
            return Err(
                Error::usage("--connect-each opens TCP connections; UDP has none")
                    .remedy("leave one of the two out"),
            );
        }
        let sizes = sizes(&self.size, transport)?;
        let connections = connections(&self.connections)?;
        let steps = sizes.len() * connections.len();
        if steps > STEPS_MAX {
            let message = format!("--size times --connections makes {steps} steps");
            return Err(Error::usage(message).remedy(format!("at most {STEPS_MAX} are measured")));
        }
        let common = self.common.plan(secret)?;
        if self.server_delay >= common.timeout {
            let message = format!(
                "with --server-delay {} every answer would come after --timeout {}",
                self.server_delay, common.timeout
            );
            return Err(Error::usage(message).remedy("raise --timeout"));
        }
        Ok(LatPlan {
            target: self.target.clone().map_or(Target::Loopback, |arg| arg.0),
            transport,
            sizes,
            connections,
            connect_each: self.connect_each,
            rate_per_s: self.rate.map(|rate| rate.0),
            server_delay: self.server_delay,
            under_load: None,
            common,
        })
    }
}

fn sizes(asked: &Sizes, transport: Transport) -> Result<Vec<u32>> {
    let (min, max) = match transport {
        Transport::Tcp => (1, MESSAGE_MAX),
        Transport::Udp => (DATAGRAM_HEADER, DATAGRAM_MAX),
    };
    let check = |size: &u64| {
        match u32::try_from(*size) {
        Ok(size) if (min..=max).contains(&size) => Ok(size),
        Ok(size) if size < min && transport == Transport::Udp => Err(Error::usage(format!(
            "--size {size} is too small for UDP: each datagram carries a header of {min} bytes (session and \
             sequence number)"
        ))
        .remedy(format!("write --size {min} or more, or leave out --udp"))),
        Ok(size) if size < min => Err(Error::usage(format!(
            "--size {size} leaves nothing to send"
        ))
        .remedy(format!("write --size {min} or more"))),
        _ => Err(Error::usage(format!(
            "--size {} is too large for {}",
            Size(*size),
            transport.name().to_uppercase()
        ))
        .remedy(format!("the largest message is {max} bytes"))),
    }
    };
    asked.0.iter().map(check).collect()
}

fn connections(asked: &Counts) -> Result<Vec<u32>> {
    let check = |count: &u64| {
        let count = u32::try_from(*count).ok();
        count
            .filter(|count| (1..=CONNECTIONS_MAX).contains(count))
            .ok_or_else(|| {
                Error::usage(format!(
                    "--connections takes 1 to {CONNECTIONS_MAX}, one client address has no ports for more"
                ))
            })
    };
    asked.0.iter().map(check).collect()
}

/// A target as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TargetArg(Target);

impl FromStr for TargetArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "loopback" => return Ok(Self(Target::Loopback)),
            "veth" => return Ok(Self(Target::Veth)),
            _ => {}
        }
        let refuse = |why: &str| {
            Error::usage(format!("'{}' is no target: {why}", text.escape_debug()))
                .remedy("write HOST:PORT, [IPV6]:PORT, loopback or veth")
        };
        if text.contains("://") {
            return Err(refuse("it is a URL"));
        }
        let (host, port) = host_and_port(text).map_err(refuse)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/@[]?#".contains(c);
        if host.is_empty() || host.len() > 253 || host.contains(odd) {
            return Err(refuse("that is no host name"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| refuse("its port is no number from 1 to 65535"))?,
        };
        Ok(Self(Target::Host {
            host: host.to_owned(),
            port,
        }))
    }
}

/// Splits `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`, and a bare IPv6 address, which cannot carry a port.
fn host_and_port(text: &str) -> std::result::Result<(&str, Option<&str>), &'static str> {
    let is_v6 = |host: &str| {
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        address.parse::<Ipv6Addr>().is_ok()
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("its bracket is not closed")?;
        if !is_v6(host) {
            return Err("the brackets hold no IPv6 address");
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("only :PORT may follow the brackets"),
        };
    }
    if is_v6(text) {
        return Ok((text, None));
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Err("an IPv6 address with a port needs brackets"),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tare_engine::run::plan::{BackendChoice, Stop, WaitMode};

    use super::*;
    use crate::args::{Command, parse};

    fn plan(flags: &str) -> Result<LatPlan> {
        let words = format!("tare lat {flags}");
        let cli = parse(words.split_whitespace().map(Into::into)).expect(flags);
        let Command::Lat(args) = cli.command else {
            panic!("lat became something else");
        };
        args.plan(None)
    }

    fn refused(flags: &str) -> String {
        plan(flags).expect_err(flags).to_string()
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let plan = plan("").unwrap();
        assert_eq!(plan.target, Target::Loopback);
        assert_eq!(plan.transport, Transport::Tcp);
        assert_eq!((plan.sizes, plan.connections), (vec![64], vec![1]));
        assert_eq!(plan.rate_per_s, None);
        let common = plan.common;
        assert_eq!(common.stop, Stop::After(Nanos::from_secs(5)));
        assert_eq!(common.warmup, Nanos::from_millis(500));
        assert_eq!(common.timeout, Nanos::from_secs(2));
        assert_eq!(common.interval, Nanos::from_secs(1));
        assert_eq!((common.wait, common.backend), (None, BackendChoice::Auto));
        assert_eq!(common.percentiles.len(), 7);
    }

    #[test]
    fn every_flag_reaches_the_plan() {
        let plan = plan(
            "node-2:99 --proto udp --size 16,1K -c 1,8 -R 60/m --server-delay 5us --wait block -n 10k \
             --warmup 0 --timeout 1s --threads 2 --cpus 3,1 --backend epoll --percentiles 99.5,50 --seed 7 \
             --interval 100ms --label x --no-idle",
        )
        .unwrap();
        let host = "node-2".to_owned();
        assert_eq!(plan.target, Target::Host { host, port: 99 });
        assert_eq!(plan.transport, Transport::Udp);
        assert_eq!((plan.sizes, plan.connections), (vec![16, 1024], vec![1, 8]));
        assert_eq!(plan.rate_per_s, Some(1.0));
        assert_eq!(plan.server_delay, Nanos::from_micros(5));
        let common = plan.common;
        assert_eq!(common.stop, Stop::Count(10_000));
        assert_eq!(
            (common.warmup, common.timeout),
            (Nanos::ZERO, Nanos::from_secs(1))
        );
        assert_eq!((common.threads, common.cpus), (Some(2), Some(vec![3, 1])));
        assert_eq!(common.wait, Some(WaitMode::Block));
        assert_ne!(common.backend, BackendChoice::Auto);
        assert_eq!(common.percentiles, [50.0, 99.5]);
        assert_eq!((common.seed, common.no_idle), (7, true));
        assert_eq!(common.label.as_deref(), Some("x"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (flags, why) in [
            ("--udp --size 8", "header of 16 bytes"),
            ("--udp --size 65508", "too large for UDP"),
            ("--size 17M", "too large for TCP"),
            ("--size 0", "nothing to send"),
            ("--size 5G", "too large"),
            ("-c 0", "1 to 60000"),
            ("-c 60001", "1 to 60000"),
            ("--proto udp --connect-each", "UDP has none"),
            ("-d 0", "--duration must be above zero"),
            ("-n 0", "--count must be above zero"),
            ("--timeout 0", "--timeout must be above zero"),
            ("--interval 10us", "--interval must be at least"),
            ("--server-delay 3s", "raise --timeout"),
            ("--threads 3 --cpus 1,2", "more than the 2"),
            ("--size 1:100:1 -c 1:11:1", "1100 steps"),
        ] {
            let message = refused(flags);
            assert!(message.contains(why), "{flags}: {message}");
            assert!(!message.contains('\n'), "{flags}: {message}");
        }
        assert!(plan("--udp --size 16,65507").is_ok());
        assert!(plan("--size 1,16M --connect-each --rate 10").is_ok());
    }

    #[test]
    fn targets() {
        let host = |host: &str, port| {
            let host = host.to_owned();
            TargetArg(Target::Host { host, port })
        };
        for (text, target) in [
            ("node-2", host("node-2", 7117)),
            ("node-2:80", host("node-2", 80)),
            ("10.0.0.1:80", host("10.0.0.1", 80)),
            ("[::1]:80", host("::1", 80)),
            ("[::1]", host("::1", 7117)),
            ("::1", host("::1", 7117)),
            ("[fe80::1%eth0]:80", host("fe80::1%eth0", 80)),
            ("loopback", TargetArg(Target::Loopback)),
            ("veth", TargetArg(Target::Veth)),
        ] {
            assert_eq!(text.parse::<TargetArg>().unwrap(), target, "{text}");
        }
        for (text, why) in [
            ("", "no host name"),
            (":80", "no host name"),
            ("a b", "no host name"),
            ("node/24", "no host name"),
            ("http://node", "URL"),
            ("node:0", "1 to 65535"),
            ("node:65536", "1 to 65535"),
            ("node:+80", "1 to 65535"),
            ("node:", "1 to 65535"),
            ("[::1", "not closed"),
            ("[node]:80", "no IPv6 address"),
            ("[::1]80", "may follow"),
            ("a:b:80", "needs brackets"),
        ] {
            let message = text.parse::<TargetArg>().unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn targets_never_panic(text in "\\PC{0,20}|[\\[\\]:%.a-f0-9]{0,20}") {
            let _ = text.parse::<TargetArg>();
        }

        #[test]
        fn printed_addresses_parse_back(address: std::net::SocketAddr) {
            prop_assume!(address.port() != 0);
            let parsed = address.to_string().parse::<TargetArg>().unwrap();
            let port = address.port();
            let TargetArg(Target::Host { host, port: found }) = parsed else {
                panic!("{address} became a built-in target");
            };
            prop_assert_eq!(found, port);
            let host = host.split('%').next().unwrap().to_owned();
            prop_assert_eq!(host.parse::<std::net::IpAddr>().unwrap(), address.ip());
        }
    }
}
