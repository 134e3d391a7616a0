//! The checks of the device, on made-up ones.

use super::*;
use crate::usage::{Counters, Softnet};
use std::net::Ipv4Addr;
use tare_driver::sys::device::{Coalescing, Rings};

#[test]
fn without_a_route_nothing_is_known_of_the_device() {
    let host = FakeHost::new(&[]).on(&[0]);
    for code in
        ["route", "path-mtu", "offloads", "lro", "coalescing", "gro-flush", "rings", "rps", "xps"]
    {
        let finding = host.finding(code);
        assert_eq!(finding.level, Level::Unknown, "{finding:?}");
        assert!(finding.what.contains("no route"), "{finding:?}");
    }
}

#[test]
fn a_device_of_the_kernels_own_has_no_card_to_examine() {
    let mut host = FakeHost::new(&[]).hardware("veth7").on(&[0]);
    host.link.hardware = false;
    for code in ["lro", "coalescing", "rings"] {
        let finding = host.finding(code);
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
        assert!(finding.what.starts_with("veth7 is the kernel's own"));
    }
}

#[test]
fn the_route_says_whether_a_target_was_given() {
    let mut host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
    let what = host.finding("route").what;
    assert_eq!(what, "eth0, of the default route, since no target was given");
    host.link.via = Via::Target(Ipv4Addr::new(192, 0, 2, 9).into());
    host.link.target = Some("node-2".into());
    let finding = host.finding("route");
    assert_eq!(finding.what, "eth0, to node-2 (192.0.2.9)");
    assert_eq!(finding.show, "ip route get 192.0.2.9");
}

#[test]
fn a_route_that_takes_less_than_its_device_is_noted() {
    let mut host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
    assert_eq!(host.finding("path-mtu").level, Level::Ok);
    host.link.route_mtu_bytes = Some(1_400);
    let finding = host.finding("path-mtu");
    assert_eq!((finding.level, finding.value), (Level::Note, Some(1_400.0)));
    assert_eq!(finding.undo.as_deref(), Some("ip link set eth0 mtu 1500"));
    host.link.route_mtu_bytes = None;
    host.link.device.as_mut().unwrap().mtu_bytes = Some(1_280);
    assert_eq!(host.finding("path-mtu").level, Level::Note);
    host.link.device.as_mut().unwrap().mtu_bytes = None;
    assert_eq!(host.finding("path-mtu").level, Level::Unknown);
}

#[test]
fn offloads_that_are_off_are_named_with_their_flags() {
    let mut host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
    assert_eq!(host.finding("offloads").level, Level::Ok);
    let set = |host: &mut FakeHost, names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        host.link.device.as_mut().unwrap().offloads = names;
    };
    set(&mut host, &["rx-checksum", "gro"]);
    let finding = host.finding("offloads");
    assert_eq!(finding.level, Level::Note);
    assert_eq!(finding.mend.as_deref(), Some("ethtool -K eth0 tx on tso on"));
    assert_eq!(finding.undo.as_deref(), Some("ethtool -K eth0 tx off tso off"));
    set(&mut host, &[]);
    assert_eq!(host.finding("offloads").level, Level::Unknown);
}

#[test]
fn held_back_interrupts_are_told_by_how_long() {
    let of = |set: Option<(u32, bool)>| {
        let mut host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
        host.link.coalescing = set.map(|(rx_us, adaptive_rx)| Coalescing {
            rx_us,
            adaptive_rx,
            ..Coalescing::default()
        });
        host.finding("coalescing")
    };
    assert_eq!(of(Some((0, false))).level, Level::Ok);
    assert_eq!(of(Some((10, false))).level, Level::Note);
    assert_eq!(of(Some((0, true))).level, Level::Spoils);
    let finding = of(Some((64, true)));
    assert_eq!((finding.level, finding.value), (Level::Spoils, Some(64.0)));
    assert_eq!(finding.undo.as_deref(), Some("ethtool -C eth0 adaptive-rx on rx-usecs 64"));
    assert_eq!(of(None).level, Level::Unknown);
}

#[test]
fn the_kernels_holding_back_is_undone_as_it_was() {
    let file = "/sys/class/net/eth0/gro_flush_timeout";
    let deferred = "/sys/class/net/eth0/napi_defer_hard_irqs";
    let of = |ns: &str| {
        let host = FakeHost::new(&[(file, ns), (deferred, "2")]).hardware("eth0");
        host.on(&[0]).finding("gro-flush")
    };
    assert_eq!(of("0").level, Level::Ok);
    let finding = of("20000");
    assert_eq!(finding.level, Level::Spoils);
    let undo = format!("echo 20000 > {file}; echo 2 > {deferred}");
    assert_eq!(finding.undo, Some(undo));
    assert_eq!(of("").level, Level::Unknown);
}

#[test]
fn rings_and_merging() {
    let of = |rx, rx_max| {
        let mut host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
        host.link.rings = Some(Rings { rx, rx_max, ..Rings::default() });
        host.finding("rings").level
    };
    assert_eq!(of(256, 4_096), Level::Note);
    assert_eq!(of(512, 4_096), Level::Ok);
    assert_eq!(of(256, 256), Level::Ok, "there is no more to have");
    let mut host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
    assert_eq!(host.finding("rings").level, Level::Unknown);
    assert_eq!(host.finding("lro").level, Level::Unknown);
    host.link.lro = Some(false);
    assert_eq!(host.finding("lro").level, Level::Ok);
    host.link.lro = Some(true);
    assert_eq!(host.finding("lro").level, Level::Note);
}

#[test]
fn steering_is_read_queue_by_queue() {
    let queue = |name: &str| format!("/sys/class/net/eth0/queues/{name}");
    let of = |rx: [&str; 2], tx: [&str; 2]| {
        let paths = ["rx-0/rps_cpus", "rx-1/rps_cpus", "tx-0/xps_cpus", "tx-1/xps_cpus"].map(queue);
        let texts = [rx[0], rx[1], tx[0], tx[1]];
        let files: Vec<(&str, &str)> = paths.iter().map(String::as_str).zip(texts).collect();
        let host = FakeHost::new(&files).hardware("eth0").on(&[0]);
        (host.finding("rps"), host.finding("xps"))
    };
    let (receive, send) = of(["0", "00000000,00000000"], ["1", "2"]);
    assert_eq!((receive.level, send.level), (Level::Ok, Level::Ok));
    let (receive, send) = of(["0", "00000000,0000000c"], ["0", "0"]);
    assert_eq!((receive.level, send.level), (Level::Note, Level::Note));
    assert_eq!(receive.value, Some(1.0));
    assert_eq!(receive.undo, Some(format!("echo 00000000,0000000c > {}", queue("rx-1/rps_cpus"))));
    let (receive, send) = of(["", ""], ["", ""]);
    assert_eq!((receive.level, send.level), (Level::Unknown, Level::Unknown));
    let host = FakeHost::new(&[(&queue("tx-0/traffic_class"), "")]).hardware("eth0");
    assert_eq!(host.on(&[0]).finding("xps").level, Level::Ok, "one queue");
}

#[test]
fn drops_count_while_they_grow() {
    let stat = |dropped: &str, squeezed: &str| {
        format!("26b0dea8 00000187 0000001a 0\n22e8c8d0 {dropped} {squeezed} 0\n")
    };
    let file = "/proc/net/softnet_stat";
    let of = |dropped, squeezed| {
        let mut host = FakeHost::new(&[(file, &stat("0000039e", "00000022"))]).on(&[0]);
        host.sample.before.softnet = Counters::read(&host.files, None).softnet;
        host.write(file, &stat(dropped, squeezed));
        host.sample.after.softnet = Counters::read(&host.files, None).softnet;
        (host.finding("softnet-drops"), host.finding("softnet-squeezes"))
    };
    let (drops, squeezes) = of("0000039e", "00000022");
    assert_eq!((drops.level, squeezes.level), (Level::Ok, Level::Ok));
    assert!(drops.what.contains("1317 since boot"), "{drops:?}");
    let (drops, squeezes) = of("000003a0", "00000023");
    assert_eq!((drops.level, drops.value), (Level::Spoils, Some(2.0)));
    assert_eq!((squeezes.level, squeezes.value), (Level::Note, Some(1.0)));
    assert!(drops.mend.unwrap().contains("on the host"));
    let mut host = FakeHost::new(&[("/proc/sys/net/core/netdev_budget", "300")]).on(&[0]);
    host.sample.after.softnet = Some(Softnet { dropped: 0, squeezed: 1 });
    let noted = host.finding("softnet-squeezes");
    assert_eq!(noted.mend.as_deref(), Some("sysctl -w net.core.netdev_budget=600"));
    assert_eq!(noted.undo.as_deref(), Some("sysctl -w net.core.netdev_budget=300"));
    let host = FakeHost::new(&[]).on(&[0]);
    assert_eq!(host.finding("softnet-drops").level, Level::Unknown);
}

#[test]
fn busy_polling_matters_with_a_card() {
    let files = [("/proc/sys/net/core/busy_poll", "0"), ("/proc/sys/net/core/busy_read", "0")];
    let mut host = FakeHost::new(&files).hardware("eth0").on(&[0]);
    assert_eq!(host.finding("busy-poll").level, Level::Note);
    host.link = Link::default();
    assert_eq!(host.finding("busy-poll").level, Level::Ok);
    let host = FakeHost::new(&[]).on(&[0]);
    assert_eq!(host.finding("busy-poll").level, Level::Unknown);
}
