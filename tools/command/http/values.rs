//! The values of `tare http`'s own flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use tare_engine::http::plan::Stage;
use tare_units::error::{Error, Result};
use tare_units::limits::STEPS_MAX;
use tare_units::{Nanos, PerSecond};

use crate::command::{no_such, target};

const ADDRESSES_MAX: u128 = 4_096;

/// Stretches of an open loop: `1000:10s,1000-5000:30s,5000`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stages(pub(super) Vec<Stage>);

impl FromStr for Stages {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let stages = text.split(',').map(stage).collect::<Result<Vec<_>>>()?;
        if stages.len() > STEPS_MAX {
            return Err(Error::usage(format!("more than {STEPS_MAX} stages")));
        }
        Ok(Self(stages))
    }
}

fn stage(text: &str) -> Result<Stage> {
    let text = text.trim();
    let advice = "write stages as 1000:10s,1000-5000:30s (rate, or first-last, then time)";
    let refuse = |why: &str| no_such("stage", text, why, advice);
    let (rates, duration) = match text.split_once(':') {
        Some((rates, time)) => (rates, Some(time.trim().parse::<Nanos>()?)),
        None => (text, None),
    };
    if duration == Some(Nanos::ZERO) {
        return Err(refuse("it lasts no time"));
    }
    let rate = |text: &str| match text.trim() {
        "" => Err(refuse("a rate is missing")),
        text => text.parse::<PerSecond>().map(|rate| rate.0),
    };
    let (from_per_s, to_per_s) = match rates.split_once('-') {
        Some((from, to)) => (rate(from)?, rate(to)?),
        None => (rate(rates)?, rate(rates)?),
    };
    Ok(Stage { from_per_s, to_per_s, duration })
}

/// An address of a name, as curl's `--resolve`: `node-2:8080:10.0.0.2`.
pub(super) type Resolve = (String, SocketAddr);

/// Whether it says where that host and port are. Letter case does not count in names, nor does the
/// root's dot (RFC 4343; RFC 1034, section 3.1).
pub(super) fn is_of((name, address): &Resolve, host: &str, port: u16) -> bool {
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    address.port() == port && plain(name) == plain(host)
}

pub(super) fn resolve(text: &str) -> Result<Resolve> {
    let refuse = |why| no_such("address of a name", text, why, "write HOST:PORT:ADDRESS");
    let mut parts = text.splitn(3, ':');
    let (Some(host), Some(port), Some(address)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(refuse("it has three parts"));
    };
    if host.is_empty() {
        return Err(refuse("the name is missing"));
    }
    let port = target::port(port).map_err(refuse)?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = tare_host::resolve::literal(bare.unwrap_or(address), port)?;
    let address = address.ok_or_else(|| refuse("the third part is no IP address"))?;
    Ok((host.to_ascii_lowercase(), address))
}

/// Local addresses: `10.0.0.1,10.0.0.2`, `127.0.0.1-127.0.0.8`, `fe80::1%eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses(pub(super) Vec<SocketAddr>);

impl FromStr for Addresses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let advice = "write 10.0.0.1,10.0.0.2 or 127.0.0.1-127.0.0.8";
        let refuse = |why: &str| no_such("list of addresses", text, why, advice);
        let one = |text: &str| tare_host::resolve::local(text.trim());
        let mut addresses = Vec::new();
        for part in text.split(',') {
            // A device's name may have a dash, too.
            let range = part.match_indices('-').find_map(|(at, _)| {
                let (first, last) = (one(&part[..at]), one(&part[at + 1..]));
                first.ok().zip(last.ok())
            });
            let (start, end) = match (range, one(part)) {
                (_, Ok(address)) => (address, address),
                (Some(range), _) => range,
                (None, Err(error)) => return Err(error),
            };
            let ((v4, first), (also_v4, last)) = (number(start.ip()), number(end.ip()));
            if v4 != also_v4 || first > last || zone(start) != zone(end) {
                return Err(refuse("a range goes from an address to a later one of its kind"));
            }
            if last - first >= ADDRESSES_MAX - addresses.len() as u128 {
                return Err(refuse(&format!("it has more than {ADDRESSES_MAX} addresses")));
            }
            addresses.extend((first..=last).map(|number| address(v4, number, zone(start))));
        }
        let mut seen = addresses.clone();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < addresses.len() {
            return Err(refuse("an address is in it twice"));
        }
        if addresses.iter().any(|a| a.is_ipv4() != addresses[0].is_ipv4()) {
            return Err(refuse("IPv4 and IPv6 do not reach one server"));
        }
        Ok(Self(addresses))
    }
}

fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (true, u128::from(address.to_bits())),
        IpAddr::V6(address) => (false, address.to_bits()),
    }
}

fn address(is_v4: bool, number: u128, zone: u32) -> SocketAddr {
    match u32::try_from(number) {
        Ok(number) if is_v4 => (Ipv4Addr::from_bits(number), 0).into(),
        _ => SocketAddrV6::new(Ipv6Addr::from_bits(number), 0, 0, zone).into(),
    }
}

const fn zone(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::target::endpoint;

    #[test]
    fn stages_are_steps_and_ramps() {
        let stages: Stages = "1000:10s, 1k-5k:30s,60/m".parse().unwrap();
        let stage = |from_per_s, to_per_s, s: u64| Stage {
            from_per_s,
            to_per_s,
            duration: (s > 0).then(|| Nanos::from_secs(s)),
        };
        assert_eq!(
            stages.0,
            [stage(1000.0, 1000.0, 10), stage(1000.0, 5000.0, 30), stage(1.0, 1.0, 0)]
        );
        for text in ["", "1000:", "1000:0", "1000:10", ":10s", "1-:1s", "0:1s", "1,,2", "1:2s:3s"] {
            let error = text.parse::<Stages>().expect_err(text);
            assert!(error.advice().is_some(), "{text}: {error}");
        }
    }

    #[test]
    fn places_and_addresses() {
        assert_eq!(endpoint("[::1]:80").unwrap(), ("::1".into(), 80));
        for text in ["n", "n:0", ":80", "n:x", "a/b:80"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (text, address) in
            [("N:80:10.0.0.2", "10.0.0.2"), ("n:80:[::1]", "::1"), ("n:80:::1", "::1")]
        {
            assert_eq!(resolve(text).unwrap(), ("n".into(), (ip(address), 80).into()));
        }
        let (_, at) = resolve("n:80:[fe80::1%lo]").unwrap();
        assert_eq!((at.ip(), at.port()), (ip("fe80::1"), 80));
        assert_ne!(zone(at), 0);
        let error = resolve("n:80:fe80::1").unwrap_err();
        assert!(error.to_string().contains("say on which device"), "{error}");
        for text in ["n:80", "n:0:::1", ":80:::1", "n:80:m"] {
            assert!(resolve(text).is_err(), "{text}");
        }
        let list: Addresses = "127.0.0.254-127.0.1.1, 10.0.0.1".parse().unwrap();
        let shown = list.0.iter().map(|address| address.ip().to_string());
        let shown: Vec<String> = shown.collect();
        assert_eq!(shown, ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1", "10.0.0.1"]);
        let list: Addresses = "::ff-::101".parse().unwrap();
        let some = ["::ff", "::100", "::101"];
        assert_eq!(list.0, some.map(|text| SocketAddr::new(ip(text), 0)));
        let list: Addresses = "fe80::1%lo-fe80::2%lo,fe80::9%lo,fe80::a".parse().unwrap();
        assert!(list.0[..3].iter().all(|local| zone(*local) != 0));
        assert_eq!((list.0.len(), zone(list.0[3])), (4, 0));
        let wrong = "x 10.0.0.2-10.0.0.1 1.1.1.1-::1 ::-::ffff 1.1.1.1,1.1.1.1 1.1.1.1,::1 lo \
                     fe80::1%lo-fe80::2 fe80::1%tare-no 10.0.0.1/24";
        for text in wrong.split(' ').chain([""]) {
            assert!(text.parse::<Addresses>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_typed_panics(text in "\\PC{0,30}|[0-9a-f.:,\\-\\[\\]%ms/k]{0,30}") {
            let _ = (text.parse::<Stages>(), endpoint(&text), resolve(&text));
            if let Ok(list) = text.parse::<Addresses>() {
                prop_assert!(!list.0.is_empty() && list.0.len() as u128 <= ADDRESSES_MAX);
            }
        }
    }
}
