use super::*;
use crate::cgroup::Throttling;

#[test]
fn a_clock_is_slow_by_name_or_by_its_cost() {
    let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let level = |name: &str, cost: u64| {
        let mut host = FakeHost::new(&[(file, name)]).on(&[0]);
        host.sample.clock_cost = Nanos(cost);
        let finding = host.finding("clock-source");
        assert!(finding.what.contains(name), "{finding:?}");
        finding.level
    };
    assert_eq!(level("tsc", 19), Level::Ok);
    assert_eq!(level("tsc", 900), Level::Spoils);
    assert_eq!(level("hpet", 1_100), Level::Spoils);
    assert_eq!(level("hpet", 100), Level::Spoils);
    let host = FakeHost::new(&[]).on(&[0]);
    assert_eq!(host.finding("clock-source").level, Level::Unknown);
}

#[test]
fn a_slack_that_cannot_be_set_is_told() {
    let mut host = FakeHost::new(&[("/proc/self/timerslack_ns", "50000\n")]).on(&[0]);
    let finding = host.finding("timer-slack");
    assert_eq!((finding.level, finding.value), (Level::Note, Some(50_000.0)));
    host.sample.slack_set = true;
    assert_eq!(host.finding("timer-slack").level, Level::Ok);
}

#[test]
fn quotas_spoil_below_two_cpus() {
    let level = |max: &str| {
        let group = ("/proc/self/cgroup", "0::/\n");
        let host = FakeHost::new(&[group, ("/sys/fs/cgroup/cpu.max", max)]).on(&[0]);
        let finding = host.finding("cpu-quota");
        assert_eq!(finding.show, "grep -H '' /sys/fs/cgroup/cpu.max");
        (finding.level, finding.value)
    };
    assert_eq!(level("max 100000"), (Level::Ok, None));
    assert_eq!(level("150000 100000"), (Level::Spoils, Some(1.5)));
    assert_eq!(level("400000 100000"), (Level::Note, Some(4.0)));
    let host = FakeHost::new(&[]).on(&[0]);
    assert_eq!(host.finding("cpu-quota").level, Level::Unknown);
}

#[test]
fn throttling_is_worst_while_it_goes_on() {
    let level = |before: u64, after: u64| {
        let mut host = FakeHost::new(&[]).on(&[0]);
        let at =
            |periods| Some(Throttling { periods, ns: periods * 1_000, enforced: 10 * periods });
        host.sample.before.throttling = at(before);
        host.sample.after.throttling = at(after);
        host.finding("cpu-throttling").level
    };
    assert_eq!(level(0, 0), Level::Ok);
    assert_eq!(level(7, 7), Level::Note);
    assert_eq!(level(7, 8), Level::Spoils);
}

#[test]
fn a_filter_is_told_by_the_status() {
    let level = |status: &str| {
        let host = FakeHost::new(&[("/proc/self/status", status)]).on(&[0]);
        host.finding("seccomp").level
    };
    assert_eq!(level("Seccomp:\t0\n"), Level::Ok);
    assert_eq!(level("Seccomp:\t2\nSeccomp_filters:\t3\n"), Level::Note);
    assert_eq!(level("Name:\tx\n"), Level::Unknown);
}

#[test]
fn a_denied_ring_is_told_with_the_reason_and_the_advice() {
    let disabled = ("/proc/sys/kernel/io_uring_disabled", "2\n");
    let mut host = FakeHost::new(&[disabled]).on(&[0]);
    assert_eq!(host.finding("io-uring").level, Level::Ok);
    host.backend.backend = Backend::Epoll;
    host.backend.reason = "io_uring is denied (EPERM)".into();
    host.backend.advice = Some("sysctl -w kernel.io_uring_disabled=0".into());
    let finding = host.finding("io-uring");
    assert_eq!(finding.level, Level::Note);
    assert!(finding.what.starts_with("kernel.io_uring_disabled is 2; io_uring is denied"));
    assert_eq!(finding.mend, host.backend.advice);
}

#[test]
fn huge_pages_are_as_the_brackets_say() {
    let level = |text: &str| {
        let file = "/sys/kernel/mm/transparent_hugepage/enabled";
        FakeHost::new(&[(file, text)]).on(&[0]).finding("huge-pages").level
    };
    assert_eq!(level("always [madvise] never\n"), Level::Ok);
    assert_eq!(level("always madvise [never]\n"), Level::Ok);
    assert_eq!(level("[always] madvise never\n"), Level::Note);
    assert_eq!(level("\n"), Level::Unknown);
}

#[test]
fn balancing_is_undone_as_it_was() {
    let file = "/proc/sys/kernel/numa_balancing";
    let of = |text: &str| FakeHost::new(&[(file, text)]).on(&[0]).finding("numa-balancing");
    assert_eq!(of("0\n").level, Level::Ok);
    let finding = of("2\n");
    assert_eq!(finding.level, Level::Note);
    assert_eq!(finding.undo.as_deref(), Some("sysctl -w kernel.numa_balancing=2"));
}

#[test]
fn cpus_of_another_node_are_far() {
    let nodes = [
        ("/sys/devices/system/node/node0/cpulist", "0-1\n"),
        ("/sys/devices/system/node/node1/cpulist", "2-3\n"),
    ];
    let mut host = FakeHost::new(&nodes).hardware("eth0").on(&[1, 2]);
    assert_eq!(host.finding("numa-node").level, Level::Unknown);
    let near = |host: &mut FakeHost, node| {
        host.link.device.as_mut().unwrap().numa_node = Some(node);
        host.finding("numa-node")
    };
    let finding = near(&mut host, 0);
    assert_eq!(finding.level, Level::Spoils);
    assert_eq!(finding.what, "eth0 is of node 0, CPU 2 is not");
    assert!(finding.mend.unwrap().ends_with("0-1"));
    let mut host = host.on(&[2]);
    assert_eq!(near(&mut host, 1).level, Level::Ok);
    // One node: whatever the card says.
    let host = FakeHost::new(&nodes[..1]).hardware("eth0").on(&[1]);
    assert_eq!(host.finding("numa-node").level, Level::Ok);
}

#[test]
fn the_hard_limit_of_descriptors_counts() {
    let of = |soft, hard| {
        let mut host = FakeHost::new(&[]).on(&[0]);
        host.environment.descriptors_limit = soft;
        host.descriptors_hard = hard;
        host.finding("descriptors")
    };
    assert_eq!(of(Some(100), Some(255)).level, Level::Spoils);
    assert_eq!(of(Some(1_024), Some(4_096)).level, Level::Note);
    let fine = of(Some(1_024), Some(1 << 20));
    assert_eq!(fine.level, Level::Ok);
    assert!(fine.what.contains("raises that by itself"), "{fine:?}");
    assert_eq!(of(None, None).level, Level::Unknown);
}

#[test]
fn little_locked_memory_is_noted() {
    let of = |bytes| {
        let mut host = FakeHost::new(&[]).on(&[0]);
        host.environment.memlock_limit_bytes = bytes;
        host.finding("memlock")
    };
    let little = of(Some(65_536));
    assert_eq!((little.level, little.value), (Level::Note, Some(65_536.0)));
    assert_eq!(little.undo.as_deref(), Some("ulimit -l 64"));
    assert_eq!(of(Some(8 << 20)).level, Level::Ok);
    assert_eq!(of(Some(u64::MAX)).value, None);
    assert_eq!(of(None).level, Level::Unknown);
}

#[test]
fn ports_in_use_are_not_free() {
    let of = |range: &str, sockstat: &str| {
        let host = FakeHost::new(&[
            ("/proc/sys/net/ipv4/ip_local_port_range", range),
            ("/proc/net/sockstat", sockstat),
        ]);
        host.on(&[0]).finding("ephemeral-ports")
    };
    let idle = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1\n";
    let fine = of("32768\t60999\n", idle);
    assert_eq!((fine.level, fine.value), (Level::Ok, Some(28_224.0)));
    let busy = "TCP: inuse 200 orphan 0 tw 27500 alloc 9 mem 1\n";
    assert_eq!(of("32768\t60999\n", busy).level, Level::Spoils);
    assert_eq!(of("32768\t42767\n", idle).level, Level::Note);
    assert_eq!(of("", idle).level, Level::Unknown);
    assert_eq!(of("32768\t60999\n", "").value, Some(28_232.0));
}

#[test]
fn a_full_table_spoils_and_no_table_is_fine() {
    let of = |used: &str| {
        let host = FakeHost::new(&[
            ("/proc/sys/net/core/somaxconn", "4096"),
            ("/proc/sys/net/netfilter/nf_conntrack_count", used),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "1000"),
        ]);
        host.on(&[0]).finding("conntrack")
    };
    assert_eq!(of("799").level, Level::Note);
    let full = of("800");
    assert_eq!((full.level, full.value), (Level::Spoils, Some(80.0)));
    assert!(full.mend.unwrap().ends_with("nf_conntrack_max=2000"));
    assert!(of("0").mend.unwrap().contains("th sport 7117 notrack"));
    assert_eq!(of("").level, Level::Ok);
}
