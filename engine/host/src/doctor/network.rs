//! The device that a measurement would go through, of the target's route or of the default one, and
//! what the kernel does between it and a socket.

use std::net::{IpAddr, Ipv4Addr};

use super::{Check, HostSnapshot, Seen, Texts, check, count, fine, found, noted, spoilt, unknown};
use crate::environment::device_named;
use crate::files::Files;
use crate::netlink::Netlink;
use crate::resolve::resolve;
use crate::usage::Softnet;
use tare_driver::device_name;
use tare_driver::sys::affinity::format_cpus;
use tare_driver::sys::device::{self, Coalescing, Rings};
use tare_stats::result::{Device, Level};
use tare_units::error::{Error, Result};
use tare_units::target::Target;
use tare_units::{CpuList, Nanos};

/// Smaller receive rings drop bursts that a busy CPU is late for: 0.6 ms of 10 Gbit/s.
const RING_LEAST: u32 = 512;
/// Held-back interrupts up to this are near what the interrupt itself takes, microseconds.
const COALESCING_NOTE_US: u32 = 10;
/// What Ethernet carries everywhere, bytes.
const ETHERNET_MTU: u32 = 1_500;
/// Without these the CPU does the card's work; each with its flag of ethtool.
const WANTED_OFFLOADS: [(&str, &str); 3] =
    [("rx-checksum", "rx"), ("tx-checksum", "tx"), ("tso", "tso")];

/// A device, and what only it can be asked.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// As typed.
    pub(super) target: Option<String>,
    /// The target's, where there is a route to it.
    pub(super) address: Option<IpAddr>,
    pub(super) device: Option<Device>,
    /// Why there is no device, where there is none, and what shows it.
    pub(super) nowhere: String,
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
                    Some(name) => Self::of(files, &name),
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
                Self { address: Some(address), route_mtu_bytes, ..Self::of(files, &device) }
            }
            Ok((None, _)) => {
                Self::nowhere(format!("no route to {address}: the kernel names no device"))
            }
            Err(error) => Self::nowhere(format!("no route to {address}: {error}")),
        };
        Ok(Self { target: Some(name), ..link })
    }

    pub(super) fn nowhere(why: String) -> Self {
        Self { nowhere: why, ..Self::default() }
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

    /// How a check is that has nothing to look at.
    pub(super) fn lacks(&self, needs: Needs) -> Option<Seen> {
        match (needs, &self.device) {
            (Needs::Nothing, _) => None,
            (_, None) => Some(unknown(&self.nowhere)),
            (Needs::Card, Some(Device { name, .. })) if !self.hardware => {
                Some(fine(format!("{name} is the kernel's own: there is no card behind it")))
            }
            _ => None,
        }
    }
}

/// The device of the default route with the lowest metric, of IPv4 before IPv6.
pub(super) fn default_device(files: &Files) -> Option<String> {
    const UP: u32 = 1;
    const REJECT: u32 = 0x200;
    let usable = |flags: &str| {
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        flags & UP != 0 && flags & REJECT == 0
    };
    let v4 = files.lines("/proc/net/route", |line| {
        // Iface Destination Gateway Flags RefCnt Use Metric Mask …
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, "00000000", _, flags, _, _, metric, "00000000", ..] = words[..] else {
            return None;
        };
        usable(flags).then(|| (metric.parse().unwrap_or(u64::MAX), name.to_owned()))
    });
    let v6 = files.lines("/proc/net/ipv6_route", |line| {
        // destination prefix source prefix next-hop metric refcount use flags device
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, "00", _, _, _, metric, _, _, flags, name] = words[..] else { return None };
        let metric = u64::from_str_radix(metric, 16).unwrap_or(u64::MAX);
        let is_default = to.bytes().all(|b| b == b'0') && name != "lo";
        (is_default && usable(flags)).then(|| (metric, name.to_owned()))
    });
    let least = |routes: Vec<(u64, String)>| routes.into_iter().min();
    least(v4).or_else(|| least(v6)).map(|(_, name)| name)
}

pub(super) const CHECKS: [Check; 13] = [
    check("route", Needs::Route, route).texts(Texts {
        effect: "what is said of the device holds for measurements that go through it, and for no \
                 others",
        show: "{route}",
        mend: "",
        undo: "",
    }),
    check("path-mtu", Needs::Route, path_mtu).texts(Texts {
        effect: "messages above it (less some 40 to 60 bytes of headers) go in several packets; \
                 where the path takes less than the device, the first large one is lost, and sent \
                 again",
        show: "{route-and}cat /sys/class/net/{device}/mtu",
        mend: "ip link set {device} mtu {mend}",
        undo: "ip link set {device} mtu {undo}",
    }),
    check("offloads", Needs::Route, offloads).texts(Texts {
        effect: "without them the CPU checks and cuts each packet: some tenths of a µs each, and \
                 less bandwidth per CPU",
        show: "ethtool -k {device}",
        mend: "ethtool -K {device} {mend}",
        undo: "ethtool -K {device} {undo}",
    }),
    check("lro", Needs::Card, |host| match host.link.lro {
        None => {
            let name = host.link.name();
            unknown(format!("{name} does not tell whether it merges packets"))
        }
        Some(is_on) => noted(is_on, if is_on { "on" } else { "off" }),
    })
    .texts(Texts {
        effect: "the card holds packets back to merge them: round trips of several packets take \
                 some 10 µs longer, and forwarded ones are spoilt",
        show: "ethtool -k {device} | grep large-receive",
        mend: "ethtool -K {device} lro off",
        undo: "ethtool -K {device} lro on",
    }),
    check("coalescing", Needs::Card, coalescing).texts(Texts {
        effect: "the card waits so long for more packets before it interrupts: each round trip \
                 that wakes it is that much longer, and where it adapts, by a different amount \
                 each time",
        show: "ethtool -c {device}",
        mend: "ethtool -C {device} adaptive-rx off rx-usecs 0",
        undo: "ethtool -C {device} adaptive-rx {adaptive} rx-usecs {rx-us}",
    }),
    check("gro-flush", Needs::Route, gro_flush).texts(Texts {
        effect: "the kernel holds packets, and its interrupts, back for so long in order to merge \
                 them",
        show: "cat /sys/class/net/{device}/gro_flush_timeout \
               /sys/class/net/{device}/napi_defer_hard_irqs",
        mend: "echo 0 > /sys/class/net/{device}/napi_defer_hard_irqs; \
               echo 0 > /sys/class/net/{device}/gro_flush_timeout",
        undo: "echo {ns} > /sys/class/net/{device}/gro_flush_timeout; \
               echo {defers} > /sys/class/net/{device}/napi_defer_hard_irqs",
    }),
    check("rings", Needs::Card, rings).texts(Texts {
        effect: "a short receive ring drops bursts while its CPU is late: a retransmission of ms, \
                 or a lost datagram",
        show: "ethtool -g {device}",
        mend: "ethtool -G {device} rx {rx-max}",
        undo: "ethtool -G {device} rx {rx}",
    }),
    check("rps", Needs::Route, rps).texts(Texts {
        effect: "each received packet is handed to another CPU, by an interrupt between the two: \
                 some 1 to 5 µs",
        show: "grep . /sys/class/net/{device}/queues/rx-*/rps_cpus",
        mend: "for q in /sys/class/net/{device}/queues/rx-*/rps_cpus; do echo 0 > $q; done",
        undo: "{undo}",
    }),
    check("xps", Needs::Route, xps).texts(Texts {
        effect: "without it any CPU sends through any queue: their locks and the completions' \
                 interrupts cross between CPUs, some tenths of a µs each",
        show: "grep . /sys/class/net/{device}/queues/tx-*/xps_cpus",
        mend: "echo 1 > /sys/class/net/{device}/queues/tx-0/xps_cpus  # and so on, a queue for \
               each CPU",
        undo: "for q in /sys/class/net/{device}/queues/tx-*/xps_cpus; do echo 0 > $q; done",
    }),
    check("numa-node", Needs::Card, numa_node).texts(Texts {
        effect: "packets cross between the nodes: some 0.1 µs for each cache line that does, \
                 tenths of a µs a round trip",
        show: "cat /sys/class/net/{device}/device/numa_node; lscpu | grep NUMA",
        mend: "--cpus with CPUs of node {node}: {near}",
        undo: "",
    }),
    check("softnet-drops", Needs::Nothing, |host| {
        softnet(host, "packets", Level::Spoils, |all| all.dropped).raising(
            host,
            "net.core.netdev_max_backlog",
            4,
        )
    })
    .texts(Texts {
        effect: "a packet lost within this machine: a retransmission after some ms, or a datagram \
                 that never comes",
        show: "cat /proc/net/softnet_stat  # a line per CPU, hexadecimal: the second column",
        mend: "{mend}",
        undo: "{undo}",
    }),
    check("softnet-squeezes", Needs::Nothing, |host| {
        softnet(host, "times", Level::Note, |all| all.squeezed).raising(
            host,
            "net.core.netdev_budget",
            2,
        )
    })
    .texts(Texts {
        effect: "packets were left for the next softirq, or for ksoftirqd, which takes turns with \
                 other threads: some ms",
        show: "cat /proc/net/softnet_stat  # a line per CPU, hexadecimal: the third column",
        mend: "{mend}",
        undo: "{undo}",
    }),
    check("busy-poll", Needs::Nothing, |host| {
        let environment = &host.environment;
        let set = (environment.busy_read_us, environment.busy_poll_us);
        let (Some(read), Some(poll)) = set else {
            return unknown("net.core.busy_read and busy_poll do not show");
        };
        let is_missed = read == 0 && host.link.hardware;
        noted(is_missed, format!("busy_read is {read} µs, busy_poll {poll} µs"))
            .figure(count(read), "us")
            .with("read", read)
            .with("poll", poll)
    })
    .texts(Texts {
        effect: "without it each packet waits for an interrupt and a softirq, some 2 to 10 µs with \
                 a card; two machines that differ in it do not compare",
        show: "sysctl net.core.busy_read net.core.busy_poll",
        mend: "sysctl -w net.core.busy_read=50 net.core.busy_poll=50  # where the driver can",
        undo: "sysctl -w net.core.busy_read={read} net.core.busy_poll={poll}",
    }),
];

fn route(host: &HostSnapshot) -> Seen {
    let link = &host.link;
    let way = match (link.address, &link.target) {
        (Some(address), Some(target)) if *target != address.to_string() => {
            format!("to {target} ({address})")
        }
        (Some(address), _) => format!("to {address}"),
        _ => "of the default route, since no target was given".to_owned(),
    };
    let mut what = format!("{}, {way}", link.name());
    if let Some(driver) = link.device.as_ref().and_then(|device| device.driver.as_deref()) {
        what += &format!("; driver {driver}");
    }
    if let Some(speed) = link.device.as_ref().and_then(|device| device.speed_mbit_per_s) {
        what += &format!("; {speed} Mbit/s");
    }
    fine(what)
}

fn path_mtu(host: &HostSnapshot) -> Seen {
    let (link, name) = (&host.link, host.link.name());
    let Some(of_device) = link.device.as_ref().and_then(|device| device.mtu_bytes) else {
        return unknown(format!("the MTU of {name} does not show"));
    };
    let smaller = link.route_mtu_bytes.filter(|&of_route| of_route < of_device);
    let (is_small, what, mend) = if let Some(of_route) = smaller {
        let what = format!("{of_route} bytes on this route, {of_device} at {name}");
        (true, what, of_route.to_string())
    } else {
        let path = match link.address {
            Some(_) => "the kernel knows of none smaller on the path",
            None => "the path's is not known without a target",
        };
        let what = format!("{of_device} bytes at {name}; {path}");
        (of_device < ETHERNET_MTU, what, format!("{ETHERNET_MTU}  # where the path carries it"))
    };
    noted(is_small, what)
        .figure(smaller.unwrap_or(of_device).into(), "bytes")
        .with("mend", mend)
        .with("undo", of_device)
}

fn offloads(host: &HostSnapshot) -> Seen {
    let on = host.link.device.as_ref().map_or(&[][..], |device| &device.offloads);
    if on.is_empty() {
        return unknown(format!("{} does not tell its offloads", host.link.name()));
    }
    let is_off = |(name, _): &(&str, &str)| !on.iter().any(|on| on == name);
    let (missing, flags): (Vec<&str>, Vec<&str>) =
        WANTED_OFFLOADS.into_iter().filter(is_off).unzip();
    let on = on.join(", ");
    if missing.is_empty() {
        return fine(format!("on: {on}"));
    }
    let set = |to: &str| {
        let flags: Vec<String> = flags.iter().map(|flag| format!("{flag} {to}")).collect();
        flags.join(" ")
    };
    found(Level::Note, format!("off: {}; on: {on}", missing.join(", ")))
        .with("mend", set("on"))
        .with("undo", set("off"))
}

fn coalescing(host: &HostSnapshot) -> Seen {
    let name = host.link.name();
    let Some(set) = host.link.coalescing else {
        return unknown(format!("the driver of {name} does not tell how it holds back interrupts"));
    };
    let Coalescing { rx_us, rx_frames, tx_us, adaptive_rx, .. } = set;
    let level = match rx_us {
        _ if adaptive_rx || rx_us > COALESCING_NOTE_US => Level::Spoils,
        0 => Level::Ok,
        _ => Level::Note,
    };
    let (adapts, adaptive) = if adaptive_rx { (", and adapts", "on") } else { ("", "off") };
    let what = format!(
        "{name} waits {rx_us} µs or {rx_frames} packets after one came in{adapts}; {tx_us} µs \
         after one was sent"
    );
    found(level, what).figure(rx_us.into(), "us").with("adaptive", adaptive).with("rx-us", rx_us)
}

fn gro_flush(host: &HostSnapshot) -> Seen {
    let name = host.link.name();
    let number = |file| host.files.number::<u64>(format!("/sys/class/net/{name}/{file}"));
    let Some(ns) = number("gro_flush_timeout") else {
        return unknown(format!("{name} shows no gro_flush_timeout"));
    };
    let defers = number("napi_defer_hard_irqs").unwrap_or(0);
    spoilt(ns > 0, format!("gro_flush_timeout is {ns} ns, with {defers} deferred interrupts"))
        .figure(count(ns), "ns")
        .with("ns", ns)
        .with("defers", defers)
}

fn rings(host: &HostSnapshot) -> Seen {
    let Some(Rings { rx, rx_max, tx, tx_max }) = host.link.rings else {
        return unknown(format!("the driver of {} does not tell its rings", host.link.name()));
    };
    let what = format!("{rx} of {rx_max} packets to receive, {tx} of {tx_max} to send");
    noted(rx < RING_LEAST.min(rx_max), what)
        .figure(rx.into(), "packets")
        .with("rx", rx)
        .with("rx-max", rx_max)
}

/// How many queues of a kind (`rx-`, `tx-`) there are, and the files of theirs that can be read,
/// each with the mask of CPUs in it.
fn queues(host: &HostSnapshot, kind: &str, file: &str) -> (usize, Vec<(String, String)>) {
    let directory = format!("/sys/class/net/{}/queues", host.link.name());
    let mut names = host.files.names(&directory);
    names.retain(|name| name.starts_with(kind));
    let masks = names.iter().filter_map(|name| {
        let path = format!("{directory}/{name}/{file}");
        host.files.word(&path).map(|mask| (path, mask))
    });
    (names.len(), masks.collect())
}

/// Whether a mask of CPUs (`00000000,00000003`) names any.
fn names_any((_, mask): &&(String, String)) -> bool {
    mask.bytes().any(|b| b != b'0' && b != b',')
}

fn rps(host: &HostSnapshot) -> Seen {
    let (_, known) = queues(host, "rx-", "rps_cpus");
    if known.is_empty() {
        return unknown(format!("{} shows no rps_cpus", host.link.name()));
    }
    let on: Vec<_> = known.iter().filter(names_any).collect();
    // Each queue may have a mask of its own.
    let as_before: Vec<String> =
        on.iter().map(|(path, mask)| format!("echo {mask} > {path}")).collect();
    noted(!on.is_empty(), format!("on for {} of {} receive queues", on.len(), known.len()))
        .figure(count(on.len() as u64), "queues")
        .with("undo", as_before.join("; "))
}

fn xps(host: &HostSnapshot) -> Seen {
    let name = host.link.name();
    let (queues, known) = queues(host, "tx-", "xps_cpus");
    match queues {
        0 => unknown(format!("{name} shows no send queues")),
        1 => fine("there is one send queue"),
        _ if known.is_empty() => unknown(format!("{name} shows no xps_cpus")),
        _ => {
            let on = known.iter().filter(names_any).count();
            noted(on == 0, format!("set for {on} of {queues} send queues"))
                .figure(count(on as u64), "queues")
        }
    }
}

fn numa_node(host: &HostSnapshot) -> Seen {
    const NODES: &str = "/sys/devices/system/node";
    let name = host.link.name();
    let names = host.files.names(NODES).into_iter();
    let cpus_of = |name: String| {
        let node = name.strip_prefix("node")?.parse().ok()?;
        let CpuList(cpus) = host.files.number(format!("{NODES}/{name}/cpulist"))?;
        Some((node, cpus))
    };
    let nodes: Vec<(i32, Vec<u32>)> = names.filter_map(cpus_of).collect();
    if nodes.len() == 1 {
        return fine("there is one node");
    }
    let of_device = host.link.device.as_ref().and_then(|device| device.numa_node);
    let Some((node, near)) = nodes.iter().find(|(node, _)| Some(*node) == of_device) else {
        return unknown(format!("nothing tells the NUMA node of {name}"));
    };
    let far: Vec<u32> = host.cpus.iter().copied().filter(|cpu| !near.contains(cpu)).collect();
    let seen = if far.is_empty() {
        found(Level::Ok, format!("{name} and {} are of node {node}", host.cpus_text()))
    } else {
        let far = format_cpus(&far);
        found(Level::Spoils, format!("{name} is of node {node}, CPU {far} is not"))
    };
    seen.with("node", node).with("near", format_cpus(near))
}

/// What one of the counters of all CPUs grew by within the look; growth is as bad as `level`.
fn softnet(
    host: &HostSnapshot,
    unit: &'static str,
    level: Level,
    figure: fn(Softnet) -> u64,
) -> Seen {
    let Some(total) = host.sample.after.softnet else {
        return unknown("/proc/net/softnet_stat does not show");
    };
    let before = host.sample.before.softnet.unwrap_or_default();
    let (grown, total) = (figure(total.since(before)), figure(total));
    let level = if grown > 0 { level } else { Level::Ok };
    found(level, format!("{grown} within the look, {total} since boot")).figure(count(grown), unit)
}

impl Seen {
    /// It is mended by multiplying a sysctl, which not every network namespace has.
    fn raising(self, host: &HostSnapshot, sysctl: &str, times: u64) -> Self {
        let file = format!("/proc/sys/{}", sysctl.replace('.', "/"));
        let set = |to: u64| format!("sysctl -w {sysctl}={to}");
        let (mend, undo) = host.files.number::<u64>(file).map_or_else(
            || (format!("raise {sysctl} on the host, where it shows"), String::new()),
            |now| (set(now.saturating_mul(times)), set(now)),
        );
        self.with("mend", mend).with("undo", undo)
    }
}
