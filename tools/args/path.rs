//! What every measuring command asks about the path: against what, over what, in pieces of which size.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use tare_proto::hello::Transport;
use tare_units::error::{Error, Result};
use tare_units::limits::{
    ADDRESS_CONNECTIONS_MAX, DATAGRAM_HEADER, DATAGRAM_MAX, DEFAULT_PORT, MESSAGE_MAX, STEPS_MAX,
};
use tare_units::target::Target;
use tare_units::{Counts, Size, Sizes};

/// Against what.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Where `tare serve` listens: HOST, HOST:PORT or [IPV6]:PORT [default: loopback]
    ///
    /// The port is 7117 unless given. `loopback` starts a server within this process, on a CPU of its own;
    /// `veth` starts it in a network namespace made for the run (needs root), and undoes that afterwards.
    #[arg(value_name = "TARGET")]
    target: Option<TargetArg>,
}

impl TargetArgs {
    pub(crate) fn target(&self) -> Target {
        self.target.clone().map_or(Target::Loopback, |typed| typed.0)
    }
}

/// Over what.
#[derive(Debug, Args)]
pub(crate) struct TransportArgs {
    /// Measure over TCP connections (the default)
    #[arg(long, conflicts_with_all = ["udp", "proto"])]
    tcp: bool,
    /// Measure with UDP datagrams; lost ones are counted, and never waited for beyond --timeout
    #[arg(short, long, conflicts_with_all = ["tcp", "proto"])]
    udp: bool,
    /// The same as --tcp or --udp, for scripts
    #[arg(long, value_enum, value_name = "PROTO")]
    proto: Option<Proto>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
}

impl TransportArgs {
    pub(crate) fn transport(&self) -> Transport {
        if self.udp || self.proto == Some(Proto::Udp) { Transport::Udp } else { Transport::Tcp }
    }
}

/// The sizes asked for, each one that the transport carries.
///
/// # Errors
/// A usage error for the first that it does not.
pub(crate) fn sizes(asked: &Sizes, transport: Transport) -> Result<Vec<u32>> {
    asked.0.iter().map(|size| check_size(*size, transport)).collect()
}

fn check_size(size: u64, transport: Transport) -> Result<u32> {
    let (min, max) = match transport {
        Transport::Tcp => (1, MESSAGE_MAX),
        Transport::Udp => (DATAGRAM_HEADER, DATAGRAM_MAX),
    };
    match u32::try_from(size) {
        Ok(size) if (min..=max).contains(&size) => Ok(size),
        Ok(size) if size < min && transport == Transport::Udp => Err(Error::usage(format!(
            "--size {size} is too small for UDP: each datagram carries a header of {min} bytes (session and \
             sequence number)"
        ))
        .remedy(format!("write --size {min} or more, or leave out --udp"))),
        Ok(size) if size < min => Err(Error::usage(format!("--size {size} leaves nothing to send"))
            .remedy(format!("write --size {min} or more"))),
        _ => Err(Error::usage(format!(
            "--size {} is too large for {}",
            Size(size),
            transport.name().to_uppercase()
        ))
        .remedy(match transport {
            Transport::Tcp => format!("the largest message is {max} bytes"),
            Transport::Udp => format!("the largest datagram carries {max} bytes"),
        })),
    }
}

/// The numbers of connections asked for.
///
/// # Errors
/// A usage error for none, and for more than there are ports.
pub(crate) fn connections(asked: &Counts) -> Result<Vec<u32>> {
    let check = |count: &u64| {
        let count = u32::try_from(*count).ok();
        count
            .filter(|count| (1..=ADDRESS_CONNECTIONS_MAX).contains(count))
            .ok_or_else(|| {
                Error::usage(format!(
                    "--connections takes 1 to {ADDRESS_CONNECTIONS_MAX}, one client address has no ports for more"
                ))
            })
    };
    asked.0.iter().map(check).collect()
}

/// Checks how many steps the lists come to, multiplied.
///
/// # Errors
/// A usage error where there are more than a run measures.
pub(crate) fn check_steps(steps: usize) -> Result<()> {
    if steps > STEPS_MAX {
        let message = format!("--size times --connections makes {steps} steps");
        return Err(Error::usage(message).remedy(format!("at most {STEPS_MAX} are measured")));
    }
    Ok(())
}

/// A target as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetArg(pub(super) Target);

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
        if let Some((ip, _)) = text.split_once('/')
            && ip.parse::<IpAddr>().is_ok()
        {
            return Err(refuse("it has the length of a prefix").remedy(format!("write {ip}")));
        }
        let (host, port) = host_and_port(text).map_err(refuse)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/@[]?#".contains(c);
        if host.is_empty() || host.len() > 253 || host.contains(odd) {
            return Err(refuse("that is no host name"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some("") => return Err(refuse("its port is missing")),
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| refuse("its port is no number from 1 to 65535"))?,
        };
        Ok(Self(Target::Host { host: host.to_owned(), port }))
    }
}

/// Why an IPv6 address with a port, or what looks like one, is not taken.
pub(super) const NEEDS_BRACKETS: &str = "an IPv6 address with a port needs brackets";

/// Splits `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`, and a bare IPv6 address, which cannot carry a port.
pub(super) fn host_and_port(text: &str) -> std::result::Result<(&str, Option<&str>), &'static str> {
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
    let split = text.rsplit_once(':');
    // ::1:80 is an address, too, but of a kind that has long been given up (RFC 4291, section 2.5.5.1). And no device's
    // name has a colon.
    let is_given_up = |address: Ipv6Addr| {
        let segments = address.segments();
        segments[..6] == [0; 6] && segments[6] != 0
    };
    let has_port = |(host, port): (&str, &str)| {
        is_v6(host)
            && !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
            && (text.contains('%') || text.parse().is_ok_and(is_given_up))
    };
    if is_v6(text) && !split.is_some_and(has_port) {
        return Ok((text, None));
    }
    match split {
        Some((host, _)) if host.contains(':') => Err(NEEDS_BRACKETS),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// Refuses an address of another family than the target's, where that is an address itself.
///
/// # Errors
/// A usage error for the two.
pub(super) fn check_bind(bind: Option<SocketAddr>, target: &Target) -> Result<()> {
    let (Some(bind), Target::Host { host, .. }) = (bind, target) else {
        return Ok(());
    };
    let ip = host.split('%').next().unwrap_or_default();
    let Ok(target) = ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) else {
        return Ok(());
    };
    let bind = bind.ip();
    if target.is_ipv4() != bind.is_ipv4() {
        let message = format!("--bind {bind} cannot reach {target}: one is IPv4, the other IPv6");
        return Err(Error::usage(message).remedy("name addresses of one family"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            ("fe80::1", host("fe80::1", 7117)),
            ("fe80::1:a", host("fe80::1:a", 7117)),
            // The brackets are for a port: without them all of it is the address.
            ("fd00::1:2", host("fd00::1:2", 7117)),
            ("2001:db8::5:1234", host("2001:db8::5:1234", 7117)),
            ("fe80::1:3133", host("fe80::1:3133", 7117)),
            ("fe80::1:2%eth0", host("fe80::1:2%eth0", 7117)),
            ("2001:db8:1:2:3:4:5:80", host("2001:db8:1:2:3:4:5:80", 7117)),
            ("[2001:db8::5]:1234", host("2001:db8::5", 1234)),
            ("[fd00::1:2]:3", host("fd00::1:2", 3)),
            ("::", host("::", 7117)),
            ("::ffff:10.0.0.1", host("::ffff:10.0.0.1", 7117)),
            ("[::ffff:10.0.0.1]:80", host("::ffff:10.0.0.1", 80)),
            ("0.0.0.0:80", host("0.0.0.0", 80)),
            ("localhost.:80", host("localhost.", 80)),
            ("[fe80::1:80]", host("fe80::1:80", 7117)),
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
            ("node:", "its port is missing"),
            ("[::1]:", "its port is missing"),
            ("node:http", "1 to 65535"),
            ("10.0.0.1/24", "write 10.0.0.1"),
            ("fd00::1/64", "write fd00::1"),
            ("[::1", "not closed"),
            ("[node]:80", "no IPv6 address"),
            ("[::1]80", "may follow"),
            ("a:b:80", "needs brackets"),
            ("::1:80", "needs brackets"),
            ("fe80::1:31337", "needs brackets"),
            ("2001:db8:1:2:3:4:5:6:80", "needs brackets"),
            ("fe80::1%eth0:80", "needs brackets"),
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
        fn printed_addresses_parse_back(address: SocketAddr) {
            prop_assume!(address.port() != 0);
            let parsed = address.to_string().parse::<TargetArg>().unwrap();
            let port = address.port();
            let TargetArg(Target::Host { host, port: found }) = parsed else {
                panic!("{address} became a built-in target");
            };
            prop_assert_eq!(found, port);
            let host = host.split('%').next().unwrap().to_owned();
            prop_assert_eq!(host.parse::<IpAddr>().unwrap(), address.ip());
        }
    }
}
