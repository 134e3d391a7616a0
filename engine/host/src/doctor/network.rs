//! The device of the route, and what the kernel does between it and a socket.

use super::link::Via;
use super::{
    Check, HostSnapshot, Needs, Seen, Texts, check, count, fine, found, noted, spoilt, unknown,
};
use crate::usage::Softnet;
use tare_driver::sys::affinity::format_cpus;
use tare_driver::sys::device::{Coalescing, Rings};
use tare_stats::result::Level;
use tare_units::CpuList;

/// Smaller receive rings drop bursts that a busy CPU is late for: 0.6 ms of 10 Gbit/s.
const RING_LEAST: u32 = 512;
/// Held-back interrupts up to this are near what the interrupt itself takes, microseconds.
const COALESCING_NOTE_US: u32 = 10;
/// What Ethernet carries everywhere, bytes.
const ETHERNET_MTU: u32 = 1_500;
/// Without these the CPU does the card's work; each with its flag of ethtool.
const WANTED_OFFLOADS: [(&str, &str); 3] =
    [("rx-checksum", "rx"), ("tx-checksum", "tx"), ("tso", "tso")];

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
    let way = match (&link.via, &link.target) {
        (Via::Target(address), Some(target)) if *target != address.to_string() => {
            format!("to {target} ({address})")
        }
        (Via::Target(address), _) => format!("to {address}"),
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
        let path = match link.via {
            Via::Target(_) => "the kernel knows of none smaller on the path",
            _ => "the path's is not known without a target",
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
    let level = if adaptive_rx || rx_us > COALESCING_NOTE_US {
        Level::Spoils
    } else if rx_us > 0 {
        Level::Note
    } else {
        Level::Ok
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
    noted(
        rx < RING_LEAST.min(rx_max),
        format!("{rx} of {rx_max} packets to receive, {tx} of {tx_max} to send"),
    )
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
    if queues == 0 {
        return unknown(format!("{name} shows no send queues"));
    } else if queues == 1 {
        return fine("there is one send queue");
    } else if known.is_empty() {
        return unknown(format!("{name} shows no xps_cpus"));
    }
    let on = known.iter().filter(names_any).count();
    noted(on == 0, format!("set for {on} of {queues} send queues"))
        .figure(count(on as u64), "queues")
}

fn numa_node(host: &HostSnapshot) -> Seen {
    const NODES: &str = "/sys/devices/system/node";
    let name = host.link.name();
    let names = host.files.names(NODES).into_iter();
    let nodes: Vec<(i32, Vec<u32>)> = names
        .filter_map(|name| {
            let node = name.strip_prefix("node")?.parse().ok()?;
            let CpuList(cpus) = host.files.number(format!("{NODES}/{name}/cpulist"))?;
            Some((node, cpus))
        })
        .collect();
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
