//! Host names to addresses, the same way in every build: a statically linked C library cannot load
//! the system's own name services, so `/etc/hosts` and `/etc/resolv.conf` are read here, and the
//! servers asked by `dns`. Other builds ask the system too, for names that only it knows (mDNS,
//! LDAP, …).

mod dns;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;

use crate::files::Files;
use crate::unavailable::{any_address, ipv6_addresses};
use tare_driver::device_name;
use tare_units::Nanos;
use tare_units::error::{Error, Fault, Result};

/// Resolves `host` to all its addresses, in the order to try them: those that there is a route to
/// first, IPv6 before IPv4 (RFC 6724). `timeout` bounds the whole lookup.
///
/// Addresses are taken as they are, at once, `fe80::1%eth0` among them.
///
/// # Errors
/// Usage, where `host` cannot be a name. Peer, where no such name is known: with the names tried
/// and the servers asked. Environment, where there is nobody to ask, or no answer in time.
pub fn resolve(host: &str, port: u16, timeout: Nanos) -> Result<Vec<SocketAddr>> {
    if let Some(address) = literal(host, port)? {
        return Ok(vec![address]);
    }
    let files = Files::default();
    let names = Names {
        hosts: files.text("/etc/hosts").unwrap_or_default(),
        resolv_conf: std::fs::read_to_string(files.path("/etc/resolv.conf")),
        dns_port: 53,
    };
    let timeout = Duration::from(timeout);
    let started = Instant::now();
    let addresses = names.lookup(host, timeout).or_else(|error| {
        if error.fault() == Fault::Usage {
            return Err(error);
        }
        ask_the_system(host, timeout.saturating_sub(started.elapsed())).ok_or(error)
    })?;
    let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    Ok(in_order(sockets, has_route))
}

/// The address that a target is, where it is one: an IPv4-mapped one as the IPv4 address that it
/// means, `0.0.0.0` and `::` as loopback, where the kernel connects to as well.
///
/// # Errors
/// A usage error for a zone that is no device, and for a link-local address without a zone.
pub fn literal(host: &str, port: u16) -> Result<Option<SocketAddr>> {
    let Some(mut address) = address(host, port)? else { return Ok(None) };
    match address {
        SocketAddr::V6(v6) if v6.scope_id() == 0 && v6.ip().is_unicast_link_local() => {
            return Err(needs_zone(&Files::default(), *v6.ip()));
        }
        _ if !address.ip().is_unspecified() => {}
        SocketAddr::V4(_) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(_) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
    }
    Ok(Some(address))
}

/// An address of this machine as typed, with brackets or without, and no port: `10.0.0.1`,
/// `fe80::1%eth0`. A link-local one without a zone is taken; it gets that of what is connected to.
///
/// # Errors
/// A usage error for what is none.
pub fn local(text: &str) -> Result<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Some(address) = address(bare, 0)? {
        return Ok(address);
    }
    let (why, remedy) = match bare.split_once('/') {
        Some((ip, _)) if is_ip(ip) => (": it has the length of a prefix", format!("write {ip}")),
        _ if if_nametoindex(bare).is_ok() => (
            ", it is a network device",
            format!("write one of the device's addresses (ip -br addr show dev {bare} lists them)"),
        ),
        _ => (
            "",
            "write one of this machine's as 10.0.0.1 or fd00::1 (ip -br addr lists them)".into(),
        ),
    };
    Err(Error::usage(format!("'{}' is no IP address{why}", text.escape_debug())).remedy(remedy))
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn address(text: &str, port: u16) -> Result<Option<SocketAddr>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(address.to_canonical(), port)));
    }
    let Some((address, zone)) = text.split_once('%').filter(|(ip, _)| is_ip(ip)) else {
        return Ok(None);
    };
    let Ok(address) = address.parse::<Ipv6Addr>() else {
        return Err(Error::usage(format!("{address} has no zone: it is an IPv4 address"))
            .remedy(format!("write {address}")));
    };
    if zone.is_empty() {
        return Err(needs_zone(&Files::default(), address));
    }
    let index = zone_index(zone).ok_or_else(|| {
        let device = decoded(zone).unwrap_or(zone).escape_debug();
        Error::usage(format!("{address}: there is no network device {device}"))
            .remedy("name one of this machine's, or its number (ip -br link lists them)")
    })?;
    Ok(Some(SocketAddrV6::new(address, port, 0, index).into()))
}

/// The number of the device that a zone names. URLs write the percent sign as %25 (RFC 6874,
/// section 2), so a zone that begins with 25 is taken without it, as by curl, unless a device has
/// that name.
fn zone_index(zone: &str) -> Option<u32> {
    let named = |name: &str| if_nametoindex(name).ok();
    let numbered = |digits: &str| digits.parse().ok().filter(|&index| device_name(index).is_some());
    let inner = decoded(zone).and_then(|zone| named(zone).or_else(|| numbered(zone)));
    named(zone).or(inner).or_else(|| numbered(zone))
}

fn decoded(zone: &str) -> Option<&str> {
    zone.strip_prefix("25").filter(|zone| !zone.is_empty())
}

/// Every link has addresses of that kind, so one alone does not say where to.
fn needs_zone(files: &Files, ip: Ipv6Addr) -> Error {
    let mut devices: Vec<String> = Vec::new();
    for own in ipv6_addresses(files) {
        if own.ip.is_unicast_link_local() && !devices.contains(&own.device) {
            devices.push(own.device);
        }
    }
    let example = devices.first().map_or("eth0", String::as_str);
    let those = match devices.as_slice() {
        [] => "no device here has such an address".to_owned(),
        all => format!("devices with such addresses: {}", all.join(", ")),
    };
    Error::usage(format!("{ip} is a link-local address, and every link has such")).remedy(format!(
        "say on which device: {ip}%{example}, with a port [{ip}%{example}]:PORT ({those})"
    ))
}

/// Where names are looked up.
#[derive(Debug)]
struct Names {
    hosts: String,
    resolv_conf: io::Result<String>,
    /// The port of the servers named there.
    dns_port: u16,
}

impl Names {
    fn lookup(&self, host: &str, timeout: Duration) -> Result<Vec<IpAddr>> {
        if !dns::is_name(host) {
            return Err(Error::usage(format!(
                "`{}` is neither an address nor a host name",
                host.escape_debug()
            ))
            .remedy("check its spelling; an international name has an ASCII form (xn--…)"));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let known = self.in_hosts(name);
        if !known.is_empty() {
            return Ok(known);
        }
        // Never to be asked for (RFC 6761, section 6.3).
        let top = name.rsplit('.').next();
        if top.is_some_and(|label| label.eq_ignore_ascii_case("localhost")) {
            return Ok(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
        }
        self.ask_servers(host, timeout)
    }

    /// The name as in `/etc/hosts`, which the C library too reads before any search list.
    fn in_hosts(&self, name: &str) -> Vec<IpAddr> {
        let address_of = |line: &str| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            let mut names = words.map(|word| word.trim_end_matches('.'));
            names.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        };
        let mut found: Vec<IpAddr> = self.hosts.lines().filter_map(address_of).collect();
        found.sort_by_key(IpAddr::is_ipv4);
        found
    }

    fn ask_servers(&self, host: &str, timeout: Duration) -> Result<Vec<IpAddr>> {
        let nobody = |why: &str| {
            Error::environment(format!("cannot resolve {host}: /etc/resolv.conf {why}"))
                .remedy("give an address, or name a server in /etc/resolv.conf")
        };
        let text = self.resolv_conf.as_ref();
        let text = text.map_err(|error| nobody(&format!("cannot be read ({error})")))?;
        let config = dns::Config::parse(text, self.dns_port);
        if config.servers.is_empty() {
            return Err(nobody("names no server"));
        }
        let tried = config.candidates(host);
        let asked: Vec<String> = config.servers.iter().map(|s| s.ip().to_string()).collect();
        let asked = asked.join(", ");
        let found = config.lookup(&tried, timeout).map_err(|why| {
            let why = why.unwrap_or_else(|| format!("no answer within {}", Nanos::from(timeout)));
            Error::environment(format!("cannot resolve {host} (servers {asked}): {why}"))
                .remedy("give an address, or check /etc/resolv.conf")
        })?;
        if found.is_empty() {
            let what =
                format!("there is no host {host}: {asked} knows none of {}", tried.join(", "));
            return Err(Error::peer(what).remedy("check its spelling, or give an address"));
        }
        Ok(found)
    }
}

/// The addresses without repetitions, reachable ones first, IPv6 first among them.
fn in_order(
    addresses: Vec<SocketAddr>,
    has_route: impl Fn(&SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    let mut ordered: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !ordered.contains(&address) {
            ordered.push(address);
        }
    }
    ordered.sort_by_cached_key(|address| (!has_route(address), address.is_ipv4()));
    ordered
}

/// Whether packets to `address` would leave this machine: connecting a datagram socket sends none.
fn has_route(address: &SocketAddr) -> bool {
    UdpSocket::bind(any_address(*address)).is_ok_and(|socket| socket.connect(address).is_ok())
}

/// What the system's own name services know, where this build can ask them; bounded by `timeout`,
/// since they have bounds of their own.
#[cfg(not(target_feature = "crt-static"))]
fn ask_the_system(host: &str, timeout: Duration) -> Option<Vec<IpAddr>> {
    use std::net::ToSocketAddrs as _;
    let (send, receive) = std::sync::mpsc::channel();
    let host = host.to_owned();
    // When it takes too long the thread is left behind; it holds nothing and ends by itself.
    std::thread::Builder::new()
        .name("tare-resolve".into())
        .spawn(move || {
            let addresses: Option<Vec<IpAddr>> = (host.as_str(), 0)
                .to_socket_addrs()
                .ok()
                .map(|all| all.map(|address| address.ip()).collect());
            let _ = send.send(addresses);
        })
        .ok()?;
    receive.recv_timeout(timeout).ok()?.filter(|addresses| !addresses.is_empty())
}

#[cfg(target_feature = "crt-static")]
fn ask_the_system(_host: &str, _timeout: Duration) -> Option<Vec<IpAddr>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;
    use simple_dns::rdata::{A, AAAA, RData};
    use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    const PATIENCE: Duration = Duration::from_secs(10);

    type Zone = &'static [(&'static str, &'static str)];

    /// A DNS server on loopback that knows `zone`, refuses what ends in `broken.`, ignores what
    /// ends in `silent.`, cuts its answers to what ends in `long.` off over UDP, and hands on the
    /// names it was asked for. It ends with the test's process.
    fn serve(zone: Zone) -> (u16, Receiver<String>) {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // Another test may have the same port over UDP.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, socket);
            }
        };
        let port = socket.local_addr().unwrap().port();
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let (name, answer) = answer(zone, &bytes[..length], false);
                let _ = send.send(name);
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(zone, &question, true).1.unwrap();
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
            }
        });
        (port, receive)
    }

    fn answer(zone: Zone, question: &[u8], over_tcp: bool) -> (String, Option<Vec<u8>>) {
        let mut answer = Packet::parse(question).unwrap().into_reply();
        let asked = answer.questions[0].clone();
        let name = format!("{}.", asked.qname);
        if name.ends_with("silent.") {
            return (name, None);
        }
        let same_name = |entry: &&(&str, &str)| name.eq_ignore_ascii_case(entry.0);
        let known = zone.iter().filter(same_name).map(|(_, address)| address.parse().unwrap());
        let known: Vec<IpAddr> = known.collect();
        *answer.rcode_mut() = if name.ends_with("broken.") {
            RCODE::ServerFailure
        } else if known.is_empty() {
            RCODE::NameError
        } else {
            RCODE::NoError
        };
        let is_cut = name.ends_with("long.") && !over_tcp;
        if is_cut {
            answer.set_flags(PacketFlag::TRUNCATION);
        }
        for address in known.into_iter().filter(|_| !is_cut) {
            let (kind, data) = match address {
                IpAddr::V4(ip) => (TYPE::A, RData::A(A { address: ip.into() })),
                IpAddr::V6(ip) => (TYPE::AAAA, RData::AAAA(AAAA { address: ip.into() })),
            };
            if asked.qtype == QTYPE::TYPE(kind) {
                let record = ResourceRecord::new(asked.qname.clone(), CLASS::IN, 60, data);
                answer.answers.push(record);
            }
        }
        (name, Some(answer.build_bytes_vec().unwrap()))
    }

    fn names(resolv_conf: &str, dns_port: u16) -> Names {
        Names {
            hosts: "127.0.0.1 localhost\n10.9.9.9 Gateway gw # home\nfd00::9 gateway\n".into(),
            resolv_conf: Ok(resolv_conf.to_owned()),
            dns_port,
        }
    }

    const LOOPBACK: &str = "nameserver 127.0.0.1\n";

    /// Looks a name up, and sorts what is found.
    fn found(names: &Names, host: &str) -> Vec<String> {
        let found = names.lookup(host, PATIENCE).unwrap();
        let mut all: Vec<String> = found.iter().map(ToString::to_string).collect();
        all.sort_unstable();
        all
    }

    /// Fails to look a name up, by whose fault and with these words.
    fn fails(names: &Names, host: &str, timeout: Duration, fault: Fault, words: &[&str]) {
        let error = names.lookup(host, timeout).unwrap_err();
        assert_eq!(error.fault(), fault, "{host:?}: {error}");
        for part in words {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }

    const POD: &str = "nameserver 127.0.0.1\n\
        search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

    #[test]
    fn a_short_name_is_found_through_the_search_list() {
        let (port, asked) =
            serve(&[("web.svc.cluster.local.", "10.0.0.7"), ("web.svc.cluster.local.", "fd00::7")]);
        assert_eq!(found(&names(POD, port), "web"), ["10.0.0.7", "fd00::7"]);
        let mut order: Vec<String> = asked.try_iter().collect();
        order.dedup();
        assert_eq!(order, ["web.shop.svc.cluster.local.", "web.svc.cluster.local."]);
    }

    #[test]
    fn what_a_server_knows_is_found_whichever_way_it_has_to_be_asked() {
        let (port, _) = serve(&[
            ("four.example.", "192.0.2.4"),
            ("six.example.", "2001:db8::6"),
            ("web.long.", "192.0.2.4"),
            ("web.long.", "2001:db8::6"),
        ]);
        let one = names(LOOPBACK, port);
        assert_eq!(found(&one, "four.example"), ["192.0.2.4"]);
        assert_eq!(found(&one, "six.example."), ["2001:db8::6"]);
        // What was cut off is asked for over TCP.
        assert_eq!(found(&one, "web.long"), ["192.0.2.4", "2001:db8::6"]);
        fails(&one, "other.long", PATIENCE, Fault::Peer, &[]);
        // A server that is down leaves time for the next.
        let two = "nameserver 127.0.0.2\nnameserver 127.0.0.1\n";
        assert_eq!(found(&names(two, port), "four.example"), ["192.0.2.4"]);
        for _ in 0..4 {
            let rotated = names(&format!("{two}options rotate\n"), port);
            assert_eq!(found(&rotated, "four.example"), ["192.0.2.4"]);
        }
    }

    #[test]
    fn the_configuration_is_read_as_its_manual_says() {
        let config = dns::Config::parse(
            "# comment\n; another\ndomain first.test\nsearch a.test. b.test bad..name\n\
             nameserver 10.0.0.1\nnameserver fd00::1 # trailing\nnameserver\nnameserver x\n\
             options ndots:99 timeout:0 attempts:2 rotate nonsense:1 timeout:x\n",
            53,
        );
        let text = format!("{config:?}");
        for part in [
            "servers: [10.0.0.1:53, [fd00::1]:53]",
            "search: [\"a.test\", \"b.test\"]",
            "ndots: 15",
            "timeout: 1s",
            "attempts: 2",
            "rotate: true",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn dots_decide_what_is_tried_first() {
        let tried = |host: &str, ndots: u32| {
            let text = POD.replace("ndots:5", &format!("ndots:{ndots}"));
            dns::Config::parse(&text, 53).candidates(host)
        };
        let searched =
            ["a.b.shop.svc.cluster.local.", "a.b.svc.cluster.local.", "a.b.cluster.local."];
        assert_eq!(tried("a.b", 5), [&searched[..], &["a.b."]].concat());
        assert_eq!(tried("a.b", 1), [&["a.b."], &searched[..]].concat());
        assert_eq!(tried("a.b.", 5), ["a.b."]);
    }

    #[test]
    fn why_nothing_is_found() {
        let (port, _) = serve(&[]);
        let pod = names(POD, port);
        let tried = ["no host web", "127.0.0.1", "web.svc.cluster.local.", " web."];
        fails(&pod, "web", PATIENCE, Fault::Peer, &tried);
        for host in ["", "a b", "a..b", "näme", "a\\.b", &"x".repeat(64)] {
            fails(&pod, host, PATIENCE, Fault::Usage, &[]);
        }
        // A server that fails or is silent is no unknown name.
        let one = names(LOOPBACK, port);
        fails(&one, "x.broken", PATIENCE, Fault::Environment, &["127.0.0.1"]);
        let silent = ["no answer within 200 ms"];
        fails(&one, "x.silent", Duration::from_millis(200), Fault::Environment, &silent);
        // Nobody is there to be asked.
        let missing = Names { resolv_conf: Err(io::ErrorKind::NotFound.into()), ..names("", 1) };
        for names in [&missing, &names("# nothing\n", 1)] {
            fails(names, "web", PATIENCE, Fault::Environment, &["/etc/resolv.conf"]);
        }
        // Hosts and localhost need no server.
        for (host, addresses) in [
            ("GATEWAY", &["10.9.9.9", "fd00::9"][..]),
            ("gw", &["10.9.9.9"]),
            ("x.localhost", &["127.0.0.1", "::1"]),
            ("x.localhost.", &["127.0.0.1", "::1"]),
            ("localhost", &["127.0.0.1"]),
            ("localhost.", &["127.0.0.1"]),
        ] {
            assert_eq!(found(&missing, host), addresses, "{host}");
        }
    }

    /// The one address that a literal is.
    fn one(host: &str) -> Result<String> {
        resolve(host, 7117, Nanos::ZERO).map(|all| all[0].to_string())
    }

    #[test]
    fn addresses_are_taken_as_they_are() {
        for (host, address) in [
            ("192.0.2.1", "192.0.2.1:7117"),
            ("2001:db8::1", "[2001:db8::1]:7117"),
            // Connecting to them is connecting to this machine (connect(2) of Linux).
            ("0.0.0.0", "127.0.0.1:7117"),
            ("::", "[::1]:7117"),
            ("::ffff:10.0.0.1", "10.0.0.1:7117"),
        ] {
            assert_eq!(one(host).unwrap(), address);
        }
    }

    #[test]
    fn zones_are_devices_by_name_or_number_and_as_urls_write_them() {
        let lo = if_nametoindex("lo").unwrap();
        for zone in ["lo", "25lo", &lo.to_string(), &format!("25{lo}")] {
            let address = one(&format!("fe80::1%{zone}")).unwrap();
            assert_eq!(address, format!("[fe80::1%{lo}]:7117"), "{zone}");
        }
        for (host, part) in [
            ("fe80::1%tare-no", "there is no network device tare-no;"),
            ("fe80::1%25tare-no", "there is no network device tare-no;"),
            ("fe80::1%4294967295", "there is no network device 4294967295;"),
            ("fe80::1", "say on which device: fe80::1%"),
            ("fe80::1:3133", "with a port [fe80::1:3133%"),
            ("fe80::1%", "say on which device: fe80::1%"),
            ("10.0.0.1%lo", "write 10.0.0.1"),
        ] {
            let error = one(host).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn devices_that_a_link_local_address_may_mean_are_listed() {
        let fixture = Fixture::new(&[(
            "/proc/net/if_inet6",
            "00000000000000000000000000000001 01 80 10 80       lo\n\
             fe800000000000000000000000000001 02 40 20 80     eth0\n\
             fe800000000000000000000000000002 02 40 20 80     eth0\n\
             fe800000000000000000000000000003 03 40 20 80    wlan0\n",
        )]);
        let error = needs_zone(&fixture.files(), "fe80::9".parse().unwrap()).to_string();
        assert!(error.contains("fe80::9%eth0, with a port [fe80::9%eth0]:PORT"), "{error}");
        assert!(error.contains("(devices with such addresses: eth0, wlan0)"), "{error}");
        let nowhere = Fixture::new(&[]);
        let error = needs_zone(&nowhere.files(), "fe80::9".parse().unwrap()).to_string();
        assert!(error.contains("no device here has"), "{error}");
    }

    #[test]
    fn local_addresses_are_addresses() {
        let one = |text: &str| local(text).map(|address| address.to_string());
        assert_eq!(one("10.0.0.1").unwrap(), "10.0.0.1:0");
        assert_eq!(one("[::1]").unwrap(), "[::1]:0");
        assert_eq!(one("fe80::1").unwrap(), "[fe80::1]:0");
        assert_eq!(one("::ffff:10.0.0.1").unwrap(), "10.0.0.1:0");
        for (text, part) in [
            ("10.0.0.1/24", "write 10.0.0.1"),
            ("fd00::1/64", "write fd00::1"),
            ("lo", "a network device; write one of the device's addresses"),
            ("node-2", "'node-2' is no IP address; write"),
            ("10.0.0.1:80", "is no IP address"),
            ("fe80::1%tare-no", "no network device tare-no"),
            ("", "is no IP address"),
        ] {
            let error = local(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn reachable_addresses_come_first() {
        let all = ["10.0.0.1:1", "[fd00::1]:1", "10.0.0.2:1", "[fd00::2]:1", "10.0.0.1:1"];
        let all: Vec<SocketAddr> = all.iter().map(|text| text.parse().unwrap()).collect();
        let unreachable = ["[fd00::1]:1".parse().unwrap()];
        let ordered = in_order(all, |address| !unreachable.contains(address));
        let texts: Vec<String> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["[fd00::2]:1", "10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"]);
    }

    #[test]
    fn this_machine_knows_itself() {
        let found = resolve("localhost", 80, Nanos::from_secs(2)).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        assert!(has_route(&found[0]), "{found:?}");
    }
}
