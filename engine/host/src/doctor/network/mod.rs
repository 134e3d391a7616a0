//! The device of the route, and what the kernel does between it and a socket.

use super::interrupts::count_as_f64;
use super::kernel::count;
use super::link::Via;
use super::{About, Scene};
use crate::files::Files;
use tare_driver::sys::device::{Coalescing, Rings};
use tare_stats::result::{Finding, Level};

/// Receive rings below this drop bursts that a busy CPU is late for: 512 packets are 0.6 ms of 10 Gbit/s.
const RING_LEAST: u32 = 512;
/// Held-back interrupts up to this are near what the interrupt itself takes, microseconds.
const COALESCING_NOTE_US: u32 = 10;
/// What Ethernet carries everywhere, bytes.
const ETHERNET_MTU: u32 = 1_500;
/// Without these the CPU does the card's work.
const WANTED_OFFLOADS: [&str; 3] = ["rx-checksum", "tx-checksum", "tso"];

/// A CPU's line of `/proc/net/softnet_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Softnet {
    /// Packets dropped since the backlog was full.
    dropped: u64,
    /// Times that a softirq ended with packets left, its budget or time used up.
    squeezed: u64,
}

impl Softnet {
    /// All CPUs; empty where the kernel does not tell.
    pub(super) fn read(files: &Files) -> Vec<Self> {
        let text = files.text("/proc/net/softnet_stat").unwrap_or_default();
        let parse = |line: &str| {
            // Hexadecimal: processed, dropped, time_squeeze, …
            let mut words = line.split_ascii_whitespace().skip(1);
            let mut next = || u64::from_str_radix(words.next()?, 16).ok();
            Some(Self { dropped: next()?, squeezed: next()? })
        };
        text.lines().filter_map(parse).collect()
    }
}

/// The device itself.
pub(super) fn route(scene: &Scene<'_>) -> Finding {
    let link = scene.link;
    let show = match (&link.via, &link.target) {
        (Via::Target(address), _) => format!("ip route get {address}"),
        _ => "ip route show default".to_owned(),
    };
    let about = About::new(
        "route",
        "what is said of the device holds for measurements that go through it, and for no others",
        show,
    );
    if let Some(nothing) = link.no_route() {
        return about.nothing(nothing);
    }
    let way = match (&link.via, &link.target) {
        (Via::Target(address), Some(target)) if *target != address.to_string() => {
            format!("to {target} ({address})")
        }
        (Via::Target(address), _) => format!("to {address}"),
        _ => "of the default route, since no target was given".to_owned(),
    };
    let device = link.device.as_ref();
    let mut what = format!("{}, {way}", link.name());
    if let Some(driver) = device.and_then(|device| device.driver.as_deref()) {
        what += &format!("; driver {driver}");
    }
    if let Some(speed) = device.and_then(|device| device.speed_mbit_per_s) {
        what += &format!("; {speed} Mbit/s");
    }
    about.finds(Level::Ok, what)
}

/// The largest packet.
pub(super) fn path_mtu(scene: &Scene<'_>) -> Finding {
    let link = scene.link;
    let name = link.name();
    let about = About::new(
        "path-mtu",
        "messages above it (less some 40 to 60 bytes of headers) go in several packets; where the path takes less than the \
         device, the first large one is lost, and sent again",
        match link.address() {
            Some(address) => format!("ip route get {address}; cat /sys/class/net/{name}/mtu"),
            None => format!("cat /sys/class/net/{name}/mtu"),
        },
    );
    if let Some(nothing) = link.no_route() {
        return about.nothing(nothing);
    }
    let Some(of_device) = link.device.as_ref().and_then(|device| device.mtu_bytes) else {
        return about.unknown(format!("the MTU of {name} does not show"));
    };
    match link.route_mtu_bytes {
        Some(of_route) if of_route < of_device => about
            .finds(Level::Note, format!("{of_route} bytes on this route, {of_device} at {name}"))
            .figure(f64::from(of_route), "bytes")
            .mend(format!("ip link set {name} mtu {of_route}"))
            .undo(format!("ip link set {name} mtu {of_device}")),
        _ => {
            let level = if of_device < ETHERNET_MTU { Level::Note } else { Level::Ok };
            let told = match link.via {
                Via::Target(_) => "the kernel knows of none smaller on the path",
                _ => "the path's is not known without a target",
            };
            about
                .finds(level, format!("{of_device} bytes at {name}; {told}"))
                .figure(f64::from(of_device), "bytes")
                .mend(format!("ip link set {name} mtu {ETHERNET_MTU}  # where the path carries it"))
                .undo(format!("ip link set {name} mtu {of_device}"))
        }
    }
}

/// What the card does in the CPU's stead.
pub(super) fn offloads(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "offloads",
        "without them the CPU checks and cuts each packet: some tenths of a µs each, and less bandwidth per CPU",
        format!("ethtool -k {name}"),
    );
    if let Some(nothing) = scene.link.no_route() {
        return about.nothing(nothing);
    }
    let on = scene.link.device.as_ref().map_or(&[][..], |d| &d.offloads);
    if on.is_empty() {
        return about.unknown(format!("{name} does not tell its offloads"));
    }
    let missing: Vec<&str> = WANTED_OFFLOADS
        .into_iter()
        .filter(|wanted| !on.iter().any(|name| name == wanted))
        .collect();
    if missing.is_empty() {
        return about.finds(Level::Ok, format!("on: {}", on.join(", ")));
    }
    let flags = |to: &str| -> String {
        let flags: Vec<String> = missing
            .iter()
            .map(|name| match *name {
                "rx-checksum" => format!("rx {to}"),
                "tx-checksum" => format!("tx {to}"),
                name => format!("{name} {to}"),
            })
            .collect();
        flags.join(" ")
    };
    let what = format!("off: {}; on: {}", missing.join(", "), on.join(", "));
    about
        .finds(Level::Note, what)
        .mend(format!("ethtool -K {name} {}", flags("on")))
        .undo(format!("ethtool -K {name} {}", flags("off")))
}

/// Packets merged by the card.
pub(super) fn lro(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "lro",
        "the card holds packets back to merge them: round trips of several packets take some 10 µs longer, and forwarded \
         ones are spoilt",
        format!("ethtool -k {name} | grep large-receive"),
    );
    if let Some(nothing) = scene.link.nothing_to_examine() {
        return about.nothing(nothing);
    }
    match scene.link.lro {
        None => about.unknown(format!("{name} does not tell whether it merges packets")),
        Some(false) => about.finds(Level::Ok, "off"),
        Some(true) => about
            .finds(Level::Note, "on")
            .mend(format!("ethtool -K {name} lro off"))
            .undo(format!("ethtool -K {name} lro on")),
    }
}

/// Interrupts that are held back.
pub(super) fn coalescing(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "coalescing",
        "the card waits so long for more packets before it interrupts: each round trip that wakes it is that much longer, and \
         where it adapts, by a different amount each time",
        format!("ethtool -c {name}"),
    );
    if let Some(nothing) = scene.link.nothing_to_examine() {
        return about.nothing(nothing);
    }
    let Some(set) = scene.link.coalescing else {
        return about
            .unknown(format!("the driver of {name} does not tell how it holds back interrupts"));
    };
    let Coalescing { rx_us, rx_frames, tx_us, adaptive_rx, .. } = set;
    let level = if adaptive_rx || rx_us > COALESCING_NOTE_US {
        Level::Spoils
    } else if rx_us > 0 {
        Level::Note
    } else {
        Level::Ok
    };
    let adapts = if adaptive_rx { ", and adapts" } else { "" };
    let on_off = |on: bool| if on { "on" } else { "off" };
    about
        .finds(
            level,
            format!(
                "{name} waits {rx_us} µs or {rx_frames} packets after one came in{adapts}; {tx_us} µs after one was sent"
            ),
        )
        .figure(f64::from(rx_us), "us")
        .mend(format!("ethtool -C {name} adaptive-rx off rx-usecs 0"))
        .undo(format!(
            "ethtool -C {name} adaptive-rx {} rx-usecs {rx_us}",
            on_off(adaptive_rx)
        ))
}

/// The kernel's own holding back.
pub(super) fn gro_flush(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let file = format!("/sys/class/net/{name}/gro_flush_timeout");
    let deferred = format!("/sys/class/net/{name}/napi_defer_hard_irqs");
    let about = About::new(
        "gro-flush",
        "the kernel holds packets, and its interrupts, back for so long in order to merge them",
        format!("cat {file} {deferred}"),
    );
    if let Some(nothing) = scene.link.no_route() {
        return about.nothing(nothing);
    }
    let Some(ns) = scene.files.number::<u64>(&file) else {
        return about.unknown(format!("{name} shows no gro_flush_timeout"));
    };
    let defers = scene.files.number::<u64>(&deferred).unwrap_or(0);
    let level = if ns == 0 { Level::Ok } else { Level::Spoils };
    about
        .finds(level, format!("gro_flush_timeout is {ns} ns, with {defers} deferred interrupts"))
        .figure(count(ns), "ns")
        .mend(format!("echo 0 > {deferred}; echo 0 > {file}"))
        .undo(format!("echo {ns} > {file}; echo {defers} > {deferred}"))
}

/// Room for bursts.
pub(super) fn rings(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "rings",
        "a short receive ring drops bursts while its CPU is late: a retransmission of ms, or a lost datagram",
        format!("ethtool -g {name}"),
    );
    if let Some(nothing) = scene.link.nothing_to_examine() {
        return about.nothing(nothing);
    }
    let Some(Rings { rx, rx_max, tx, tx_max }) = scene.link.rings else {
        return about.unknown(format!("the driver of {name} does not tell its rings"));
    };
    let level = if rx < RING_LEAST.min(rx_max) { Level::Note } else { Level::Ok };
    about
        .finds(level, format!("{rx} of {rx_max} packets to receive, {tx} of {tx_max} to send"))
        .figure(f64::from(rx), "packets")
        .mend(format!("ethtool -G {name} rx {rx_max}"))
        .undo(format!("ethtool -G {name} rx {rx}"))
}

/// The queues of a kind (`rx-`, `tx-`) with what a file of theirs says, where it can be read.
fn queues(scene: &Scene<'_>, kind: &str, file: &str) -> Vec<(String, Option<String>)> {
    let directory = format!("/sys/class/net/{}/queues", scene.link.name());
    let names = scene.files.names(&directory);
    names
        .into_iter()
        .filter(|name| name.starts_with(kind))
        .map(|name| {
            let text = scene.files.word(format!("{directory}/{name}/{file}"));
            (name, text)
        })
        .collect()
}

/// Whether a mask of CPUs (`00000000,00000003`) names any.
fn names_any(mask: &str) -> bool {
    mask.bytes().any(|b| b != b'0' && b != b',')
}

/// Received packets handed to other CPUs.
pub(super) fn rps(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "rps",
        "each received packet is handed to another CPU, by an interrupt between the two: some 1 to 5 µs",
        format!("grep . /sys/class/net/{name}/queues/rx-*/rps_cpus"),
    );
    if let Some(nothing) = scene.link.no_route() {
        return about.nothing(nothing);
    }
    let queues = queues(scene, "rx-", "rps_cpus");
    let known: Vec<(&String, &String)> =
        queues.iter().filter_map(|(queue, mask)| Some((queue, mask.as_ref()?))).collect();
    if known.is_empty() {
        return about.unknown(format!("{name} shows no rps_cpus"));
    }
    let on = known.iter().filter(|(_, mask)| names_any(mask)).count();
    let level = if on == 0 { Level::Ok } else { Level::Note };
    let what = format!("on for {on} of {} receive queues", known.len());
    let directory = format!("/sys/class/net/{name}/queues");
    // Each queue may have a mask of its own.
    let as_before: Vec<String> = known
        .iter()
        .filter(|(_, mask)| names_any(mask))
        .map(|(queue, mask)| format!("echo {mask} > {directory}/{queue}/rps_cpus"))
        .collect();
    about
        .finds(level, what)
        .figure(count_as_f64(on), "queues")
        .mend(format!("for q in {directory}/rx-*/rps_cpus; do echo 0 > $q; done"))
        .undo(as_before.join("; "))
}

/// Which queue a CPU sends through.
pub(super) fn xps(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "xps",
        "without it any CPU sends through any queue: their locks and the completions' interrupts cross between CPUs, some \
         tenths of a µs each",
        format!("grep . /sys/class/net/{name}/queues/tx-*/xps_cpus"),
    );
    if let Some(nothing) = scene.link.no_route() {
        return about.nothing(nothing);
    }
    let queues = queues(scene, "tx-", "xps_cpus");
    match queues.len() {
        0 => return about.unknown(format!("{name} shows no send queues")),
        1 => return about.finds(Level::Ok, "there is one send queue"),
        _ => {}
    }
    let known: Vec<&String> = queues.iter().filter_map(|(_, mask)| mask.as_ref()).collect();
    if known.is_empty() {
        return about.unknown(format!("{name} shows no xps_cpus"));
    }
    let on = known.iter().filter(|mask| names_any(mask)).count();
    let level = if on == 0 { Level::Note } else { Level::Ok };
    about
        .finds(level, format!("set for {on} of {} send queues", queues.len()))
        .figure(count_as_f64(on), "queues")
        .mend(format!(
            "echo 1 > /sys/class/net/{name}/queues/tx-0/xps_cpus  # and so on, a queue for each CPU"
        ))
        .undo(format!("for q in /sys/class/net/{name}/queues/tx-*/xps_cpus; do echo 0 > $q; done"))
}

/// What one figure of all CPUs grew by within the look, and what it is since boot.
fn grown(scene: &Scene<'_>, figure: impl Fn(&Softnet) -> u64) -> Option<(u64, u64)> {
    let sum = |all: &[Softnet]| all.iter().map(&figure).sum::<u64>();
    let after = &scene.look.after.softnet;
    let total = sum(after);
    let before = sum(&scene.look.before.softnet);
    (!after.is_empty()).then(|| (total.saturating_sub(before), total))
}

/// Packets that the kernel dropped before any socket saw them.
pub(super) fn softnet_drops(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "softnet-drops",
        "a packet lost within this machine: a retransmission after some ms, or a datagram that never comes",
        "cat /proc/net/softnet_stat  # a line per CPU, hexadecimal: the second column",
    );
    let Some((grown, total)) = grown(scene, |cpu| cpu.dropped) else {
        return about.unknown("/proc/net/softnet_stat does not show");
    };
    let level = if grown > 0 { Level::Spoils } else { Level::Ok };
    let what = format!("{grown} within the look, {total} since boot");
    let finding = about.finds(level, what).figure(count(grown), "packets");
    raise(scene, finding, "net.core.netdev_max_backlog", 4)
}

/// Mends by multiplying a sysctl, which not every network namespace has.
fn raise(scene: &Scene<'_>, finding: Finding, sysctl: &str, times: u64) -> Finding {
    let file = format!("/proc/sys/{}", sysctl.replace('.', "/"));
    match scene.files.number::<u64>(file) {
        Some(now) => finding
            .mend(format!("sysctl -w {sysctl}={}", now.saturating_mul(times)))
            .undo(format!("sysctl -w {sysctl}={now}")),
        None => finding.mend(format!("raise {sysctl} on the host, where it shows")),
    }
}

/// Softirqs that ended with work left.
pub(super) fn softnet_squeezes(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "softnet-squeezes",
        "packets were left for the next softirq, or for ksoftirqd, which takes turns with other threads: some ms",
        "cat /proc/net/softnet_stat  # a line per CPU, hexadecimal: the third column",
    );
    let Some((grown, total)) = grown(scene, |cpu| cpu.squeezed) else {
        return about.unknown("/proc/net/softnet_stat does not show");
    };
    let level = if grown > 0 { Level::Note } else { Level::Ok };
    let what = format!("{grown} within the look, {total} since boot");
    let finding = about.finds(level, what).figure(count(grown), "times");
    raise(scene, finding, "net.core.netdev_budget", 2)
}

/// Polling the card instead of waiting for its interrupt.
pub(super) fn busy_poll(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "busy-poll",
        "without it each packet waits for an interrupt and a softirq, some 2 to 10 µs with a card; two machines that differ \
         in it do not compare",
        "sysctl net.core.busy_read net.core.busy_poll",
    );
    let environment = scene.environment;
    let (Some(read), Some(poll)) = (environment.busy_read_us, environment.busy_poll_us) else {
        return about.unknown("net.core.busy_read and busy_poll do not show");
    };
    let what = format!("busy_read is {read} µs, busy_poll {poll} µs");
    let level = if read == 0 && scene.link.hardware { Level::Note } else { Level::Ok };
    about
        .finds(level, what)
        .figure(count(read), "us")
        .mend("sysctl -w net.core.busy_read=50 net.core.busy_poll=50  # where the driver can")
        .undo(format!("sysctl -w net.core.busy_read={read} net.core.busy_poll={poll}"))
}

#[cfg(test)]
mod tests;
