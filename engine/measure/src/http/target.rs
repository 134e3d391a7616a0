//! Where an HTTP load goes: names and what replaces them, local addresses, and which of several
//! addresses answers.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;

use crate::http::plan::HttpPlan;
use crate::run::peer::{Peer, resolve, unless};
use crate::worker::destination::Destination;
use tare_driver::{shown, towards};
use tare_host::unavailable;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

pub(super) fn unix(plan: &HttpPlan, path: &Path) -> Result<Peer> {
    let to_tcp = [("--bind", !plan.bind.is_empty()), ("--connect-to", plan.connect_to.is_some())];
    if let Some((flag, _)) = to_tcp.iter().find(|(_, given)| *given) {
        return Err(Error::usage(format!("{flag} does not go with a Unix socket"))
            .remedy(format!("leave {flag} out, or give an http:// URL")));
    }
    Ok(Peer::elsewhere(vec![Destination::Unix(path.to_owned())]))
}

/// Whether a server of this process can be had with these options.
pub(super) fn check_embedded(plan: &HttpPlan) -> Result<()> {
    if plan.connect_to.is_some() {
        return Err(Error::usage("--connect-to does not go with a server of this process")
            .remedy("leave it out, or give a URL"));
    }
    // Both are reached over IPv4.
    let embedded = SocketAddr::from(([127, 0, 0, 1], 0));
    check_bind(&plan.bind, &[embedded], &plan.target.to_string())
}

/// A server elsewhere. Where its name has several addresses each is tried until one accepts a
/// connection.
pub(super) fn host(plan: &HttpPlan, host: &str, port: u16, interrupt: &Interrupt) -> Result<Peer> {
    let (host, port) = match &plan.connect_to {
        Some((host, port)) => (host.as_str(), *port),
        None => (host, port),
    };
    let addresses = match resolved(&plan.resolve, host, port) {
        known if !known.is_empty() => known,
        _ => resolve(host, port, plan.connect_timeout, interrupt)?,
    };
    check_bind(&plan.bind, &addresses, host)?;
    let addresses = of_family(addresses, &plan.bind);
    let timeout = plan.connect_timeout.max(Nanos(1)).into();
    let probe = move |to: &SocketAddr| TcpStream::connect_timeout(to, timeout).map(drop);
    let name = host.to_owned();
    let (unreached, reached) = unless(interrupt, move || first_accepting(addresses, &name, probe))?;
    let tcp = |all: Vec<SocketAddr>| all.into_iter().map(Destination::Tcp).collect();
    let mut peer = Peer::elsewhere(tcp(reached));
    peer.unreached = tcp(unreached);
    Ok(peer)
}

/// The addresses that `--resolve` gives to that host and port, in the order given. Names are
/// compared as names are (RFC 4343): letter case does not count, nor the root's dot.
fn resolved(entries: &[(String, SocketAddr)], host: &str, port: u16) -> Vec<SocketAddr> {
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    let is_asked = |name: &str, at: &SocketAddr| plain(name) == plain(host) && at.port() == port;
    let mut addresses = Vec::new();
    for (name, address) in entries {
        if is_asked(name, address) && !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    addresses
}

/// Local addresses must be this machine's, and of the same family as at least one address of the
/// peer.
fn check_bind(bind: &[SocketAddr], addresses: &[SocketAddr], host: &str) -> Result<()> {
    let family = |is_ipv4: bool| if is_ipv4 { "IPv4" } else { "IPv6" };
    let Some(first) = bind.first() else { return Ok(()) };
    let name = shown(*first);
    let (own, theirs) = (family(first.is_ipv4()), family(!first.is_ipv4()));
    if let Some(other) = bind.iter().find(|ip| ip.is_ipv4() != first.is_ipv4()) {
        let other = shown(*other);
        return Err(Error::usage(format!("--bind {name} is {own}, and {other} is {theirs}"))
            .remedy("give addresses of one family: all connections go to the same address"));
    }
    let Some(to) = addresses.iter().find(|to| to.is_ipv4() == first.is_ipv4()) else {
        let message = format!("--bind {name} is {own}, and {host} has {theirs} addresses only");
        return Err(
            Error::usage(message).remedy(format!("bind to an {theirs} address of this machine"))
        );
    };
    for local in bind.iter().map(|local| towards(*local, *to)) {
        // A datagram socket: nothing is sent, and no port of TCP taken.
        let Err(error) = UdpSocket::bind(local) else { continue };
        let why = match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::EINVAL) => unavailable::source(local),
            _ => Error::environment(error.to_string()),
        };
        let message = format!("cannot connect from {} (--bind): {}", shown(local), why.message());
        let advice = why.advice().unwrap_or("`ip address` lists those there are");
        return Err(Error::usage(message).remedy(advice));
    }
    Ok(())
}

fn of_family(mut addresses: Vec<SocketAddr>, bind: &[SocketAddr]) -> Vec<SocketAddr> {
    if let Some(first) = bind.first() {
        addresses.retain(|address| address.is_ipv4() == first.is_ipv4());
    }
    addresses
}

/// The addresses before the first that accepts a connection, and it with those behind it. One alone
/// is not tried: the run does that.
fn first_accepting(
    mut addresses: Vec<SocketAddr>,
    host: &str,
    probe: impl Fn(&SocketAddr) -> std::io::Result<()>,
) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    if addresses.len() == 1 {
        return Ok((Vec::new(), addresses));
    }
    let mut refusals = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        match probe(address) {
            Ok(()) => {
                let reached = addresses.split_off(index);
                return Ok((addresses, reached));
            }
            Err(error) => {
                let why = unavailable::address(*address, None);
                let why = why.map_or_else(|| error.to_string(), |why| why.message().to_owned());
                refusals.push(format!("{address} ({why})"));
            }
        }
    }
    Err(Error::peer(format!("no address of {host} accepts a connection: {}", refusals.join(", ")))
        .remedy("start the server there, or check the port, the route and the firewall"))
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use super::*;
    use tare_units::error::Fault;

    fn sockets(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn entries_of_resolve_are_those_of_the_host_and_the_port() {
        let entries: Vec<(String, SocketAddr)> = [
            ("web.example", "192.0.2.1:80"),
            ("web.example", "192.0.2.2:8080"),
            ("WEB.example.", "[2001:db8::1]:80"),
            ("web.example", "192.0.2.1:80"),
            ("other", "192.0.2.3:80"),
        ]
        .map(|(host, address)| (host.to_owned(), address.parse().unwrap()))
        .into();
        let both = sockets(&["192.0.2.1:80", "[2001:db8::1]:80"]);
        assert_eq!(resolved(&entries, "Web.Example", 80), both);
        assert!(resolved(&entries, "web.example", 81).is_empty());
    }

    #[test]
    fn the_first_address_that_accepts_is_used() {
        let all = sockets(&["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"]);
        let refused = || Err(IoError::from(ErrorKind::ConnectionRefused));
        let probe = |address: &SocketAddr| if *address == all[0] { refused() } else { Ok(()) };
        let (unreached, reached) = first_accepting(all.clone(), "web", probe).unwrap();
        assert_eq!((unreached.as_slice(), reached.as_slice()), all.split_at(1));
        let error = first_accepting(all.clone(), "web", |_| refused()).unwrap_err();
        assert_eq!(error.fault(), Fault::Peer);
        assert!(all.iter().all(|a| error.message().contains(&a.to_string())), "{error}");
        let one = first_accepting(all[..1].to_vec(), "web", |_| refused()).unwrap();
        assert_eq!(one.1, all[..1]);
    }

    #[test]
    fn local_addresses_are_of_one_family_which_the_peer_has_and_exist() {
        let far = sockets(&["192.0.2.1:80"]);
        let local = |ip: &&str| tare_host::resolve::local(ip).unwrap();
        let check =
            |bind: &[&str]| check_bind(&bind.iter().map(local).collect::<Vec<_>>(), &far, "web");
        assert!(check(&[]).is_ok());
        assert!(check(&["127.0.0.1", "127.0.0.2"]).is_ok());
        for (bind, part) in [
            (&["127.0.0.1", "::1"][..], "IPv6"),
            (&["::1"], "IPv4 addresses only"),
            (&["192.0.2.77"], "no address of this machine"),
        ] {
            let error = check(bind).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage);
            assert!(error.message().contains(part), "{error}");
        }
        let both = sockets(&["[2001:db8::1]:80", "192.0.2.1:80"]);
        let v4 = ["127.0.0.1:0".parse().unwrap()];
        assert_eq!(of_family(both.clone(), &v4), both[1..]);
        assert_eq!(of_family(both.clone(), &[]), both);
    }
}
