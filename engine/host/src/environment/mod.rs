//! What is known of this machine that bears on microseconds, and what of it is known to spoil them.
//! What cannot be read is absent from the result, never zero.

mod isolation;
mod warnings;

use std::net::{IpAddr, SocketAddr};

pub(crate) use warnings::{CONNTRACK_FULL_PERCENT, EXIT_LATENCY_MAX_US, is_fast_clock};
pub use warnings::{WarningContext, warnings};

use crate::cgroup::Cgroups;
use crate::cpus::{CPU_DIRECTORY, Cpus};
use crate::files::Files;
use crate::guard::conntrack_fill;
use crate::netlink::Netlink;
use tare_driver::device_name;
use tare_driver::sys::affinity::{allowed_cpus, format_cpus};
use tare_driver::sys::{device, rlimit};
use tare_stats::result::{Device, Environment, IdleState};

/// Looks at this machine, and at the device of the route to `route_to`. To be called on a thread
/// that is not pinned, outside the measured phase.
pub fn capture(route_to: Option<SocketAddr>) -> Environment {
    let files = Files::default();
    let in_kubernetes = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    Environment {
        descriptors_limit: rlimit::descriptors_limit(),
        memlock_limit_bytes: rlimit::memlock_limit_bytes(),
        device: route_to.and_then(|to| match to {
            // A zone's: without it a link-local address is routed to any device.
            SocketAddr::V6(v6) if v6.scope_id() != 0 => device_numbered(v6.scope_id()),
            _ => route_device(to.ip()),
        }),
        ..read(&files, &allowed_cpus(), in_kubernetes)
    }
}

pub(crate) fn read(files: &Files, allowed: &[u32], in_kubernetes: bool) -> Environment {
    let cgroups = Cgroups::of_self(files);
    let first_cpu = allowed.first().copied().unwrap_or(0);
    let online = Cpus::read(files, allowed.to_vec()).online;
    let sysctl = |name: &str| format!("/proc/sys/{name}");
    Environment {
        tare_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: files.word(sysctl("kernel/hostname")),
        kernel: files.word(sysctl("kernel/osrelease")),
        cpu_model: cpu_model(files),
        cpus_online: u32::try_from(online.len()).ok().filter(|&count| count > 0),
        cpus_allowed: (!allowed.is_empty()).then(|| format_cpus(allowed)),
        cpus_isolated: files.word(format!("{CPU_DIRECTORY}/isolated")),
        governor: governor(files, first_cpu),
        turbo: turbo(files),
        idle_states: idle_states(files, first_cpu),
        smt: files.number::<u32>(format!("{CPU_DIRECTORY}/smt/active")).map(|active| active == 1),
        clock_source: files
            .word("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        hypervisor: isolation::hypervisor(files),
        container: isolation::container(files, in_kubernetes),
        seccomp: seccomp(files),
        cgroup_cpu_limit: cgroups.as_ref().and_then(Cgroups::cpu_quota),
        cgroup_version: cgroups.map(|groups| groups.version.to_owned()),
        io_uring_disabled: files.number(sysctl("kernel/io_uring_disabled")),
        congestion_control: files.word(sysctl("net/ipv4/tcp_congestion_control")),
        busy_poll_us: files.number(sysctl("net/core/busy_poll")),
        busy_read_us: files.number(sysctl("net/core/busy_read")),
        conntrack: conntrack_fill(files),
        ephemeral_ports: match files.numbers(sysctl("net/ipv4/ip_local_port_range"))[..] {
            [first, last] => Some((first, last)),
            _ => None,
        },
        ..Environment::default()
    }
}

fn cpu_model(files: &Files) -> Option<String> {
    // Arm names no model there, but the device tree names the machine.
    let device_tree = || files.word("/proc/device-tree/model");
    let model = files.value_of("/proc/cpuinfo", "model name").or_else(device_tree)?;
    Some(model.trim_end_matches('\0').to_owned())
}

pub(crate) fn governor(files: &Files, cpu: u32) -> Option<String> {
    files.word(format!("{CPU_DIRECTORY}/cpu{cpu}/cpufreq/scaling_governor"))
}

fn turbo(files: &Files) -> Option<bool> {
    let intel = files.number::<u32>(format!("{CPU_DIRECTORY}/intel_pstate/no_turbo"));
    let others = files.number::<u32>(format!("{CPU_DIRECTORY}/cpufreq/boost"));
    intel.map(|off| off == 0).or_else(|| others.map(|on| on != 0))
}

pub(crate) fn idle_states(files: &Files, cpu: u32) -> Vec<IdleState> {
    let directory = format!("{CPU_DIRECTORY}/cpu{cpu}/cpuidle");
    let state = |state: &String| {
        Some(IdleState {
            name: files.word(format!("{directory}/{state}/name"))?,
            exit_latency_us: files.number(format!("{directory}/{state}/latency"))?,
            disabled: files.number(format!("{directory}/{state}/disable")) == Some(1),
        })
    };
    files.names(&directory).iter().filter_map(state).collect()
}

fn seccomp(files: &Files) -> Option<String> {
    let mode: usize = files.value_of("/proc/self/status", "Seccomp")?.parse().ok()?;
    ["off", "strict", "filter"].get(mode).map(|&name| name.to_owned())
}

/// The device that packets to `to` leave through, as the kernel's own route lookup says: an address
/// of this very machine goes through `lo`, whichever device holds it.
pub fn route_device(to: IpAddr) -> Option<Device> {
    let index = Netlink::open().ok()?.route(to).ok()?.device?;
    device_numbered(index)
}

fn device_numbered(index: u32) -> Option<Device> {
    Some(device_named(&Files::default(), &device_name(index)?))
}

pub(crate) fn device_named(files: &Files, name: &str) -> Device {
    let directory = format!("/sys/class/net/{name}");
    let driver = std::fs::read_link(files.path(format!("{directory}/device/driver"))).ok();
    Device {
        name: name.to_owned(),
        mtu_bytes: files.number(format!("{directory}/mtu")),
        // −1 where the driver does not know; loopback refuses to be asked.
        speed_mbit_per_s: files.number(format!("{directory}/speed")),
        // −1 where there is but one.
        numa_node: files
            .number(format!("{directory}/device/numa_node"))
            .filter(|&node: &i32| node >= 0),
        // Of a fixture's devices the kernel knows none.
        offloads: if files.is_machine() { device::offloads(name) } else { Vec::new() },
        driver: driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;
    use std::net::Ipv4Addr;
    use tare_stats::result::Fill;

    #[test]
    fn every_field_is_read_from_its_file() {
        let cpu = "/sys/devices/system/cpu";
        let at = |path: &str| format!("{cpu}/{path}");
        let fixture = Fixture::new(&[
            ("/proc/sys/kernel/hostname", "bench-1\n"),
            ("/proc/sys/kernel/osrelease", "6.8.0\n"),
            ("/proc/sys/kernel/io_uring_disabled", "2\n"),
            ("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU @ 3GHz\n"),
            ("/proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/cpu.max", "150000 100000\n"),
            ("/proc/sys/net/ipv4/tcp_congestion_control", "bbr\n"),
            ("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("/proc/sys/net/core/busy_poll", "50\n"),
            ("/proc/sys/net/core/busy_read", "0\n"),
            ("/proc/sys/net/netfilter/nf_conntrack_count", "12\n"),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "65536\n"),
            ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
            (&at("isolated"), "2-3\n"),
            (&at("smt/active"), "1\n"),
            (&at("intel_pstate/no_turbo"), "1\n"),
            (&at("cpu2/cpufreq/scaling_governor"), "powersave\n"),
            (&at("cpu2/cpuidle/state0/name"), "POLL\n"),
            (&at("cpu2/cpuidle/state0/latency"), "0\n"),
            (&at("cpu2/cpuidle/state0/disable"), "0\n"),
            (&at("cpu2/cpuidle/state1/name"), "C6\n"),
            (&at("cpu2/cpuidle/state1/latency"), "133\n"),
            (&at("cpu2/cpuidle/state1/disable"), "1\n"),
        ]);
        let read = read(&fixture.files(), &[2, 3], false);
        let expected = Environment {
            tare_version: env!("CARGO_PKG_VERSION").into(),
            hostname: Some("bench-1".into()),
            kernel: Some("6.8.0".into()),
            cpu_model: Some("Some CPU @ 3GHz".into()),
            cpus_online: Some(1),
            cpus_allowed: Some("2-3".into()),
            cpus_isolated: Some("2-3".into()),
            governor: Some("powersave".into()),
            turbo: Some(false),
            idle_states: vec![
                IdleState { name: "POLL".into(), exit_latency_us: 0, disabled: false },
                IdleState { name: "C6".into(), exit_latency_us: 133, disabled: true },
            ],
            smt: Some(true),
            clock_source: Some("hpet".into()),
            seccomp: Some("filter".into()),
            cgroup_cpu_limit: Some(1.5),
            cgroup_version: Some("v2".into()),
            io_uring_disabled: Some(2),
            congestion_control: Some("bbr".into()),
            busy_poll_us: Some(50),
            busy_read_us: Some(0),
            conntrack: Some(Fill { used: 12, max: 65_536 }),
            ephemeral_ports: Some((32_768, 60_999)),
            ..Environment::default()
        };
        // `cpuN` directories exist for CPU 2 alone, which makes one CPU online.
        assert_eq!(read, expected);
    }

    #[test]
    fn an_empty_machine_is_unknown_not_zero() {
        let fixture = Fixture::new(&[]);
        let expected = Environment {
            tare_version: env!("CARGO_PKG_VERSION").into(),
            ..Environment::default()
        };
        assert_eq!(read(&fixture.files(), &[], false), expected);
        // Boost is turbo by another name.
        for (boost, is_on) in [("1", true), ("0", false)] {
            fixture.write("/sys/devices/system/cpu/cpufreq/boost", boost);
            assert_eq!(turbo(&fixture.files()), Some(is_on));
        }
    }

    #[test]
    fn a_device_without_hardware_behind_it_has_no_node_and_no_speed() {
        let fixture = Fixture::new(&[
            ("/sys/class/net/eth0/mtu", "9000"),
            ("/sys/class/net/eth0/speed", "25000"),
            ("/sys/class/net/eth0/device/numa_node", "1"),
            ("/sys/class/net/lo/mtu", "65536"),
            ("/sys/class/net/lo/speed", "-1"),
            ("/sys/class/net/lo/device/numa_node", "-1"),
        ]);
        let files = fixture.files();
        let driver = fixture.path("/sys/class/net/eth0/device/driver");
        std::os::unix::fs::symlink("../../bus/pci/drivers/ice", driver).unwrap();
        let expected = Device {
            name: "eth0".into(),
            mtu_bytes: Some(9000),
            speed_mbit_per_s: Some(25_000),
            numa_node: Some(1),
            offloads: vec![],
            driver: Some("ice".into()),
        };
        assert_eq!(device_named(&files, "eth0"), expected);
        let expected = Device { name: "lo".into(), mtu_bytes: Some(65_536), ..Device::default() };
        assert_eq!(device_named(&files, "lo"), expected);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_route_to_itself() {
        let environment = capture(Some((Ipv4Addr::LOCALHOST, 1).into()));
        assert!(environment.kernel.is_some());
        assert!(environment.cpus_allowed.is_some());
        assert!(environment.descriptors_limit.is_some_and(|limit| limit > 0));
        let device = environment.device.unwrap();
        assert_eq!(device.name, "lo");
        assert!(device.mtu_bytes.is_some_and(|mtu| mtu >= 1_500));
    }
}
