//! The device that a measurement would go through: of the target's or of the default route.

use std::net::{IpAddr, Ipv4Addr};

use super::{Seen, fine, unknown};
use crate::environment::device_named;
use crate::files::Files;
use crate::netlink::Netlink;
use crate::resolve::resolve;
use tare_driver::device_name;
use tare_driver::sys::device::{self, Coalescing, Rings};
use tare_stats::result::Device;
use tare_units::Nanos;
use tare_units::error::{Error, Result};
use tare_units::target::Target;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Via {
    DefaultRoute,
    Target(IpAddr),
    /// There is none: why, and what shows it.
    Nowhere(String),
}

impl Default for Via {
    fn default() -> Self {
        Self::Nowhere("there is no route".into())
    }
}

/// A device, and what only it can be asked.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// As typed.
    pub(super) target: Option<String>,
    pub(super) via: Via,
    pub(super) device: Option<Device>,
    /// There is a card behind it, real or virtual, that interrupts.
    pub(super) hardware: bool,
    /// The route's own MTU, where it differs from the device's.
    pub(super) route_mtu_bytes: Option<u32>,
    pub(super) coalescing: Option<Coalescing>,
    pub(super) rings: Option<Rings>,
    pub(super) lro: Option<bool>,
}

/// What a check looks at, of which there may be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Route,
    /// A card behind the device, and not one of the kernel's own such as loopback or a veth.
    Card,
}

impl Link {
    /// Follows the route to `target`, as the kernel would take it now; without one the default
    /// route. Nothing is sent but what resolving a name takes. A target that is made for a run is
    /// refused.
    pub(super) fn find(files: &Files, target: Option<&Target>, timeout: Nanos) -> Result<Self> {
        let (name, address): (String, IpAddr) = match target {
            None => {
                return Ok(match default_device(files) {
                    Some(name) => Self { via: Via::DefaultRoute, ..Self::of(files, &name) },
                    None => Self::nowhere("there is no default route: give a TARGET".into()),
                });
            }
            Some(Target::Loopback) => ("loopback".to_owned(), Ipv4Addr::LOCALHOST.into()),
            Some(Target::Host { host, port }) => {
                let addresses = resolve(host, *port, timeout)?;
                let first = addresses.first().ok_or_else(|| {
                    Error::peer(format!("{host} has no address")).remedy("give an address")
                })?;
                (host.clone(), first.ip())
            }
            Some(Target::Veth | Target::Unix(_)) => {
                return Err(Error::usage("only a host or loopback has a route to be examined")
                    .remedy("write HOST, or leave the target out for the default route"));
            }
        };
        let route = Netlink::open().and_then(|netlink| netlink.route(address));
        let link = match route.map(|route| (route.device.and_then(device_name), route.mtu_bytes)) {
            Ok((Some(device), route_mtu_bytes)) => {
                Self { via: Via::Target(address), route_mtu_bytes, ..Self::of(files, &device) }
            }
            Ok((None, _)) => {
                Self::nowhere(format!("no route to {address}: the kernel names no device"))
            }
            Err(error) => Self::nowhere(format!("no route to {address}: {error}")),
        };
        Ok(Self { target: Some(name), ..link })
    }

    fn nowhere(why: String) -> Self {
        Self { via: Via::Nowhere(why), ..Self::default() }
    }

    fn of(files: &Files, name: &str) -> Self {
        Self {
            hardware: files.exists(format!("/sys/class/net/{name}/device")),
            coalescing: device::coalescing(name),
            rings: device::rings(name),
            lro: device::large_receive_offload(name),
            device: Some(device_named(files, name)),
            ..Self::default()
        }
    }

    /// The device's name; a word to be replaced where there is none.
    pub(super) fn name(&self) -> &str {
        self.device.as_ref().map_or("DEVICE", |device| &device.name)
    }

    pub(super) const fn address(&self) -> Option<IpAddr> {
        match self.via {
            Via::Target(address) => Some(address),
            Via::DefaultRoute | Via::Nowhere(_) => None,
        }
    }

    /// How a check is that has nothing to look at.
    pub(super) fn lacks(&self, needs: Needs) -> Option<Seen> {
        match (needs, &self.via, &self.device) {
            (Needs::Nothing, ..) => None,
            (_, Via::Nowhere(why), _) => Some(unknown(why.as_str())),
            (_, _, None) => Some(unknown("the route has no device")),
            (Needs::Card, _, Some(device)) if !self.hardware => {
                let name = &device.name;
                Some(fine(format!("{name} is the kernel's own: there is no card behind it")))
            }
            _ => None,
        }
    }
}

/// The device of the default route with the lowest metric, of IPv4 before IPv6.
fn default_device(files: &Files) -> Option<String> {
    const UP: u32 = 1;
    const REJECT: u32 = 0x200;
    let usable = |flags: &str| {
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        flags & UP != 0 && flags & REJECT == 0
    };
    let v4 = files.text("/proc/net/route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(|line| {
        // Iface Destination Gateway Flags RefCnt Use Metric Mask …
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, "00000000", _, flags, _, _, metric, "00000000", ..] = words[..] else {
            return None;
        };
        usable(flags).then(|| (metric.parse().unwrap_or(u64::MAX), name.to_owned()))
    });
    let v6 = files.text("/proc/net/ipv6_route").unwrap_or_default();
    let v6 = v6.lines().filter_map(|line| {
        // destination prefix source prefix next-hop metric refcount use flags device
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, "00", _, _, _, metric, _, _, flags, name] = words[..] else {
            return None;
        };
        let metric = u64::from_str_radix(metric, 16).unwrap_or(u64::MAX);
        let is_default = to.bytes().all(|b| b == b'0') && name != "lo";
        (is_default && usable(flags)).then(|| (metric, name.to_owned()))
    });
    v4.min().or_else(|| v6.min()).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

    const HEADER: &str =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let fixture = Fixture::new(&[]);
        let device = || default_device(&fixture.files());
        assert_eq!(device(), None);
        let to_net = "eth9\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        fixture.write("/proc/net/route", &format!("{HEADER}{to_net}"));
        assert_eq!(device(), None);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth6\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        fixture.write("/proc/net/ipv6_route", v6);
        assert_eq!(device().as_deref(), Some("eth6"));
        let down = "eth8\t00000000\t010200C0\t0002\t0\t0\t5\t00000000\t0\t0\t0\n";
        let slow = "wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        let fast = "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let table = format!("{HEADER}{to_net}{down}{slow}{fast}");
        fixture.write("/proc/net/route", &table);
        assert_eq!(device().as_deref(), Some("eth0"));
    }

    #[test]
    fn loopback_has_a_route_and_no_hardware() {
        let files = Files::default();
        let find = |target: &Target| Link::find(&files, Some(target), Nanos::from_secs(1));
        let link = find(&Target::Loopback).unwrap();
        assert_eq!((link.name(), link.hardware), ("lo", false));
        assert!(link.lacks(Needs::Route).is_none());
        let lacks = link.lacks(Needs::Card).unwrap();
        assert!(lacks.what.starts_with("lo is the kernel's own"), "{}", lacks.what);
        let error = find(&Target::Veth).unwrap_err().to_string();
        assert!(error.contains("leave the target out"), "{error}");
    }

    #[test]
    fn without_a_default_route_that_is_said() {
        let fixture = Fixture::new(&[]);
        let link = Link::find(&fixture.files(), None, Nanos::from_secs(1)).unwrap();
        let what = link.lacks(Needs::Card).unwrap().what;
        assert!(what.contains("no default route"), "{what}");
        assert_eq!(link.name(), "DEVICE");
    }
}
