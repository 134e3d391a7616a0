//! Why the kernel says EADDRNOTAVAIL. It means three things: there is no address of that family to
//! send from, the address asked for is none of this machine, or every ephemeral port is taken.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::files::Files;
use tare_driver::shown;
use tare_units::error::Error;

/// `IFA_F_DADFAILED` and `IFA_F_TENTATIVE` of `linux/if_addr.h`: another machine of the link has
/// the address, and it is not known yet whether one has. Nothing is sent from such an address.
const DUPLICATE: u32 = 0x08;
const TENTATIVE: u32 = 0x40;

/// Why nothing can be sent to `to`, from `local` where that is given, as far as addresses are to
/// blame; absent where they are not, so that ports are. A datagram socket tells the two apart: it
/// needs the same addresses, and none of TCP's ports.
pub fn address(to: SocketAddr, local: Option<SocketAddr>) -> Option<Error> {
    let files = Files::default();
    let socket = match UdpSocket::bind(local.unwrap_or_else(|| any_address(to))) {
        Ok(socket) => socket,
        Err(error) => {
            return match (error.raw_os_error()?, local) {
                (libc::EADDRNOTAVAIL | libc::EINVAL, Some(local)) => Some(source(local)),
                (libc::EAFNOSUPPORT, _) => Some(no_ipv6(&files, None)),
                _ => None,
            };
        }
    };
    match socket.connect(to).err()?.raw_os_error()? {
        libc::EADDRNOTAVAIL => Some(no_source(&files, to)),
        libc::ENETUNREACH if to.is_ipv6() && ipv6_addresses(&files).is_empty() => {
            Some(no_ipv6(&files, None))
        }
        _ => None,
    }
}

/// What a socket is bound to that may send from any address of this machine towards `to`.
pub(crate) fn any_address(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Why nothing can be sent from `local`, which no socket could be bound to.
pub fn source(local: SocketAddr) -> Error {
    no_such_source(&Files::default(), local)
}

fn no_such_source(files: &Files, local: SocketAddr) -> Error {
    let name = shown(local);
    let fails = |what: String, remedy: &str| Error::environment(what).remedy(remedy);
    if let SocketAddr::V6(v6) = local {
        let all = ipv6_addresses(files);
        if all.is_empty() {
            return no_ipv6(files, None);
        }
        if v6.scope_id() == 0 && v6.ip().is_unicast_link_local() {
            let what = format!("{name} is a link-local address, and it lacks its device");
            return fails(what, &format!("write {name}%eth0, say, with the device that has it"));
        }
        let is_in_zone = |own: &OwnAddress| v6.scope_id() == 0 || v6.scope_id() == own.index;
        match all.iter().find(|own| own.ip == *v6.ip() && is_in_zone(own)) {
            Some(own) if own.is_tentative() => return tentative(&own.device),
            Some(own) if own.is_duplicate() => {
                let device = &own.device;
                let what = format!("another machine behind {device} has the address {name}, too");
                return fails(what, "give this machine another one");
            }
            _ => {}
        }
    }
    let what = format!("{name} is no address of this machine to send from");
    fails(what, "`ip address` lists those there are, each for targets of its own family")
}

fn no_source(files: &Files, to: SocketAddr) -> Error {
    let SocketAddr::V6(v6) = to else {
        let what = format!("there is no IPv4 address here to reach {} from", to.ip());
        return Error::environment(what).remedy("`ip -4 address` lists those there are");
    };
    // ::1 is reached from itself alone, a link-local address from its zone's device.
    let mut own = ipv6_addresses(files);
    own.retain(|own| own.ip.is_loopback() == v6.ip().is_loopback());
    let mut device = v6.ip().is_loopback().then(|| "lo".to_owned());
    if v6.scope_id() != 0 {
        own.retain(|own| own.index == v6.scope_id());
        device = shown(to).split_once('%').map(|(_, name)| name.to_owned());
    }
    match own.first() {
        None => no_ipv6(files, device.as_deref()),
        Some(first) if own.iter().all(OwnAddress::is_tentative) => tentative(&first.device),
        Some(_) => {
            let to = shown(to);
            Error::environment(format!("none of the IPv6 addresses here can be used to reach {to}"))
                .remedy("see `ip -6 address` and `ip -6 route`")
        }
    }
}

fn no_ipv6(files: &Files, device: Option<&str>) -> Error {
    let switch = |name: &str| format!("net/ipv6/conf/{name}/disable_ipv6");
    let is_off = |name: &str| files.number(format!("/proc/sys/{}", switch(name))) == Some(1);
    let place = |device: Option<&str>| {
        device.map_or_else(|| "here".to_owned(), |name| format!("on {name}"))
    };
    // The switch of all devices is the one that was most likely turned.
    if let Some(name) = ["all"].into_iter().chain(device).find(|name| is_off(name)) {
        // sysctl(8) takes slashes, too, so that a device's name may have a dot.
        let on = place(device.filter(|_| name != "all"));
        let name = switch(name);
        return Error::environment(format!("IPv6 is off {on} ({name} is 1)"))
            .remedy(format!("give an IPv4 address, or: sysctl -w {name}=0"));
    }
    if !files.exists("/proc/sys/net/ipv6") {
        return Error::environment("IPv6 is off here: the kernel runs without it")
            .remedy("give an IPv4 address");
    }
    Error::environment(format!("there is no IPv6 address {} to send from", place(device)))
        .remedy("give an IPv4 address (`ip -6 address` lists the IPv6 addresses there are)")
}

/// A new address is not used before the link was asked for others who have it (RFC 4862, 5.4).
fn tentative(device: &str) -> Error {
    Error::environment(format!(
        "the IPv6 address on {device} cannot be used yet: the link is still being asked whether another \
         machine has it"
    ))
    .remedy("try again in two seconds")
}

#[derive(Debug)]
pub(crate) struct OwnAddress {
    pub(crate) ip: Ipv6Addr,
    /// The number of its device.
    index: u32,
    pub(crate) device: String,
    flags: u32,
}

impl OwnAddress {
    const fn is_duplicate(&self) -> bool {
        self.flags & DUPLICATE != 0
    }

    /// The link is still being asked whether another machine has it.
    const fn is_tentative(&self) -> bool {
        self.flags & TENTATIVE != 0 && !self.is_duplicate()
    }
}

/// All of them, as `/proc/net/if_inet6` lists them: address, device's number, length of the prefix,
/// scope, flags (all in hexadecimal), and the device's name. None where there is no IPv6.
pub(crate) fn ipv6_addresses(files: &Files) -> Vec<OwnAddress> {
    let hex = |word: &str| u32::from_str_radix(word, 16).ok();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [ip, index, _, _, flags, device] = words[..] else { return None };
        let ip = Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).ok()?);
        Some(OwnAddress { ip, index: hex(index)?, device: device.to_owned(), flags: hex(flags)? })
    };
    let text = files.text("/proc/net/if_inet6").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

    const LO: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";
    const SWITCHES: &str = "/proc/sys/net/ipv6/conf";

    fn parsed(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn machine(addresses: &str, off: &[&str]) -> Fixture {
        let fixture = Fixture::new(&[
            ("/proc/net/if_inet6", addresses),
            (&format!("{SWITCHES}/all/disable_ipv6"), "0\n"),
        ]);
        for name in off {
            fixture.write(&format!("{SWITCHES}/{name}/disable_ipv6"), "1\n");
        }
        fixture
    }

    #[test]
    fn what_lacks_towards_a_target_is_named() {
        let global = "fd000000000000000000000000000005 0c 40 00 c0     eth0\n";
        for (addresses, off, to, part) in [
            ("", &["all", "lo"][..], "[::1]:80", "IPv6 is off here (net/ipv6/conf/all/"),
            ("", &["lo"], "[::1]:80", "IPv6 is off on lo (net/ipv6/conf/lo/"),
            ("", &[], "[::1]:80", "no IPv6 address on lo to send from"),
            (LO, &[], "[2001:db8::1]:80", "no IPv6 address here to send from"),
            (LO, &["all"], "[2001:db8::1]:80", "sysctl -w net/ipv6/conf/all/disable_ipv6=0"),
            (global, &[], "[2001:db8::1]:80", "on eth0 cannot be used yet"),
            (global, &[], "[fe80::1%12]:80", "on eth0 cannot be used yet"),
            (global, &[], "[fe80::1%4000000]:80", "no IPv6 address on 4000000"),
            ("", &[], "10.0.0.1:80", "no IPv4 address here"),
        ] {
            let error = no_source(&machine(addresses, off).files(), parsed(to)).to_string();
            assert!(error.contains(part), "{to}: {error}");
            assert!(!error.contains("ephemeral"), "{to}: {error}");
        }
        let without = Fixture::new(&[]);
        let error = no_source(&without.files(), parsed("[::1]:80")).to_string();
        assert!(error.contains("the kernel runs without it"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_source_is_named() {
        let others = "fd000000000000000000000000000005 0c 40 00 c0     eth0\n\
                      fd000000000000000000000000000006 0c 40 00 88     eth0\n\
                      fe800000000000000000000000000001 0c 40 20 80     eth0\n";
        for (addresses, off, local, part) in [
            (others, &[][..], "[fd00::5]:0", "on eth0 cannot be used yet"),
            (others, &[], "[fd00::6]:0", "another machine behind eth0"),
            (others, &[], "[fd00::7]:0", "fd00::7 is no address of this machine"),
            (others, &[], "[fe80::1]:0", "it lacks its device"),
            (others, &[], "[fe80::1%4000000]:0", "fe80::1%4000000 is no address"),
            ("", &["all"], "[fd00::5]:0", "IPv6 is off here"),
            (LO, &[], "192.0.2.1:0", "192.0.2.1 is no address of this machine"),
        ] {
            let error = no_such_source(&machine(addresses, off).files(), parsed(local)).to_string();
            assert!(error.contains(part), "{local}: {error}");
        }
    }

    #[test]
    fn where_addresses_are_fine_ports_are_to_blame() {
        assert!(address(parsed("127.0.0.1:9"), None).is_none());
        assert!(address(parsed("127.0.0.1:9"), Some(parsed("127.0.0.9:0"))).is_none());
        let error = address(parsed("127.0.0.1:9"), Some(parsed("192.0.2.77:0"))).unwrap();
        assert!(error.message().contains("192.0.2.77 is no address"), "{error}");
    }

    #[test]
    fn addresses_are_read_with_their_devices_and_states() {
        let fixture = machine(
            "00000000000000000000000000000001 01 80 10 80       lo\n\
             fe80000000000000000000fffe000001 0c 40 20 c0     eth0\n\
             fd000000000000000000000000000005 0c 40 00 88     eth0\nodd\n",
            &[],
        );
        let all = ipv6_addresses(&fixture.files());
        let shown = |own: &OwnAddress| {
            let state = (own.is_tentative(), own.is_duplicate());
            (format!("{} {} {}", own.ip, own.index, own.device), state)
        };
        let expected = [
            ("::1 1 lo", (false, false)),
            ("fe80::ff:fe00:1 12 eth0", (true, false)),
            ("fd00::5 12 eth0", (false, true)),
        ];
        let shown: Vec<_> = all.iter().map(shown).collect();
        assert_eq!(shown, expected.map(|(text, state)| (text.to_owned(), state)));
        assert!(ipv6_addresses(&Fixture::new(&[]).files()).is_empty());
    }
}
