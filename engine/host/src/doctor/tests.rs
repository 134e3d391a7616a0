//! The checks, on made-up machines.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};

use Level::{Note, Spoils, Unknown};

use super::interrupts::Interrupts;
use super::link::Via;
use super::sample::Noise;
use super::*;
use crate::cgroup::Throttling;
use crate::cpus::CPU_DIRECTORY;
use crate::fixtures::Fixture;
use crate::process::ns_per_tick;
use crate::usage::{Counters, Softnet, Ticks};
use tare_driver::Backend;
use tare_driver::sys::device::{Coalescing, Rings};
use tare_stats::result::Device;

const FINE: Level = Level::Ok;

/// A machine of made-up files, and of whatever is no file.
struct FakeHost {
    fixture: Fixture,
    snapshot: HostSnapshot,
}

impl Deref for FakeHost {
    type Target = HostSnapshot;
    fn deref(&self) -> &HostSnapshot {
        &self.snapshot
    }
}

impl DerefMut for FakeHost {
    fn deref_mut(&mut self) -> &mut HostSnapshot {
        &mut self.snapshot
    }
}

impl FakeHost {
    /// With these files, of which those without a slash at the front are the CPUs'.
    fn new(files: &[(&str, &str)]) -> Self {
        let fixture = Fixture::new(&[]);
        for (path, text) in files {
            if path.starts_with('/') {
                fixture.write(path, text);
            } else {
                fixture.write(&cpu_file(path), text);
            }
        }
        let backend = Backend::Uring;
        let snapshot = HostSnapshot {
            files: fixture.files(),
            cpus: Vec::new(),
            machine: Cpus::default(),
            environment: Environment::default(),
            link: Link::default(),
            sample: Sample::default(),
            descriptors_hard: Some(1 << 20),
            load: None,
            backend: Chosen { backend, reason: "io_uring works here".into(), advice: None },
        };
        Self { fixture, snapshot }
    }

    /// Measured on these CPUs, which the process may use.
    fn on(mut self, cpus: &[u32]) -> Self {
        self.cpus = cpus.to_vec();
        self.machine = Cpus::read(&self.files, cpus.to_vec());
        if self.machine.online.is_empty() {
            self.machine.online = vec![0, 1, 2];
            self.machine.online.retain(|cpu| !cpus.contains(cpu));
            self.machine.online.truncate(1);
            self.machine.online.extend(cpus);
        }
        self.environment = Environment {
            descriptors_limit: Some(1 << 20),
            memlock_limit_bytes: Some(u64::MAX),
            ..environment::read(&self.files, cpus, false)
        };
        self
    }

    /// Over a card.
    fn eth0(mut self) -> Self {
        let device = Device {
            name: "eth0".into(),
            mtu_bytes: Some(1_500),
            offloads: vec!["tx-checksum".into(), "rx-checksum".into(), "tso".into()],
            ..Device::default()
        };
        let device = Some(device);
        self.link = Link { via: Via::DefaultRoute, device, hardware: true, ..Link::default() };
        self
    }

    fn device(&mut self) -> &mut Device {
        self.link.device.as_mut().unwrap()
    }

    fn finding(&self, code: &str) -> Finding {
        checks().find(|check| check.code == code).unwrap().finding(self)
    }

    fn findings(&self) -> Vec<Finding> {
        checks().map(|check| check.finding(self)).collect()
    }

    /// A finding of that level whose text has these words.
    #[track_caller]
    fn is(&self, code: &str, level: Level, words: &str) -> Finding {
        let finding = self.finding(code);
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.what.contains(words), "{words}: {finding:?}");
        finding
    }

    /// A finding of that level and figure.
    #[track_caller]
    fn has(&self, code: &str, level: Level, value: impl Into<Option<f64>>) -> Finding {
        let finding = self.is(code, level, "");
        assert_eq!(finding.value, value.into(), "{finding:?}");
        finding
    }
}

fn cpu_file(path: &str) -> String {
    format!("{CPU_DIRECTORY}/{path}")
}

/// One that measures on CPU 0.
fn host(files: &[(&str, &str)]) -> FakeHost {
    FakeHost::new(files).on(&[0])
}

#[track_caller]
fn mends(finding: &Finding, mend: &str, undo: &str) {
    let commands = (finding.mend.as_deref(), finding.undo.as_deref());
    assert_eq!(commands, (Some(mend), Some(undo)));
}

#[test]
fn an_empty_machine_is_unknown_not_fine() {
    let findings = host(&[]).findings();
    let known = findings.iter().filter(|finding| finding.level != Unknown);
    let known: Vec<&str> = known.map(|finding| finding.code.as_str()).collect();
    // The host has a backend and limits, which are no files.
    assert_eq!(known, ["io-uring", "descriptors", "memlock"]);
}

/// Whether no word in braces was left as it stands in the table.
fn is_filled(finding: &Finding) -> bool {
    let texts = [Some(&finding.effect), Some(&finding.show), finding.mend.as_ref()];
    texts.into_iter().flatten().chain(finding.undo.as_ref()).all(|text| {
        let words = text.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        words.into_iter().all(|(word, _)| word.contains([' ', ',']))
    })
}

#[test]
fn every_finding_has_a_code_of_its_own_an_effect_and_a_command() {
    for host in [host(&[]), host(&[]).eth0()] {
        let findings = host.findings();
        let codes: BTreeSet<&str> = findings.iter().map(|f| f.code.as_str()).collect();
        assert_eq!(codes.len(), checks().count());
        for finding in &findings {
            let kebab = |c: char| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit();
            assert!(finding.code.chars().all(kebab), "{finding:?}");
            for text in [&finding.what, &finding.effect, &finding.show] {
                assert!(!text.is_empty(), "{finding:?}");
            }
            assert!(is_filled(finding), "{finding:?}");
            assert_eq!(finding.value.is_some(), finding.unit.is_some());
        }
    }
}

#[test]
fn shares_of_round_trips() {
    for (rate, share) in [(1000.0, "1"), (250.0, "0.2"), (12.0, "0.012"), (1e9, "100")] {
        assert!(pings_hit(rate).starts_with(&format!("about {share} % of")), "{rate}");
    }
    assert_eq!([0.5, 99.0, 100.0].map(rate_level), [FINE, Note, Spoils]);
}

#[test]
fn a_quota_that_the_look_would_use_up_is_left_alone() {
    for (quota, suffices) in [(None, true), (Some(2.5), true), (Some(2.0), false)] {
        let mut machine = Cpus::default();
        machine.quota = quota;
        assert_eq!(has_quota_for(&machine, &[0, 1]), suffices);
    }
}

fn plan() -> DoctorPlan {
    DoctorPlan { target: None, cpus: None, look: LOOK_RANGE.0, timeout: Nanos::from_secs(1) }
}

#[test]
fn without_a_target_both_ends_measure() {
    let machine = Cpus::read(&Fixture::new(&[]).files(), vec![0, 1, 2]);
    let mut plan = plan();
    assert_eq!(measuring(&machine, &plan).unwrap(), [1, 2]);
    plan.target = Some(Target::Host { host: "node-2".into(), port: 1 });
    assert_eq!(measuring(&machine, &plan).unwrap(), [2]);
    plan.cpus = Some(vec![0, 3]);
    let error = measuring(&machine, &plan).unwrap_err().to_string();
    assert!(error.contains("CPU 3"), "{error}");
}

#[test]
fn this_machine_is_examined_and_a_look_has_bounds() {
    let mut plan = DoctorPlan { target: Some(Target::Loopback), ..plan() };
    let diagnosis = examine(&plan).unwrap();
    assert_eq!(diagnosis.findings.len(), checks().count());
    assert_eq!(diagnosis.device.as_deref(), Some("lo"));
    assert!(diagnosis.look_ns >= plan.look.0);
    for look in [Nanos::ZERO, Nanos::from_secs(61)] {
        plan.look = look;
        let error = examine(&plan).unwrap_err().to_string();
        assert!(error.contains("write 10 ms to 60 s"), "{error}");
    }
}

#[test]
fn one_file_decides() {
    const HUGE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    const STATUS: &str = "/proc/self/status";
    const BALANCING: &str = "/proc/sys/kernel/numa_balancing";
    for (code, path, text, level) in [
        ("huge-pages", HUGE, "always [madvise] never\n", FINE),
        ("huge-pages", HUGE, "always madvise [never]\n", FINE),
        ("huge-pages", HUGE, "[always] madvise never\n", Note),
        ("huge-pages", HUGE, "\n", Unknown),
        ("seccomp", STATUS, "Seccomp:\t0\n", FINE),
        ("seccomp", STATUS, "Seccomp:\t2\nSeccomp_filters:\t3\n", Note),
        ("seccomp", STATUS, "Name:\tx\n", Unknown),
        ("hypervisor", "/proc/cpuinfo", "flags\t\t: fpu hypervisor\n", Note),
        ("hypervisor", "/proc/cpuinfo", "flags\t\t: fpu\n", FINE),
        ("numa-balancing", BALANCING, "0\n", FINE),
        ("numa-balancing", BALANCING, "2\n", Note),
        ("turbo", "cpufreq/boost", "0", FINE),
        ("irqs", "/proc/interrupts", "\n", Unknown),
        ("irq-affinity", "/proc/interrupts", "\n", Unknown),
        ("local-interrupts", "/proc/interrupts", "\n", Unknown),
    ] {
        let finding = host(&[(path, text)]).finding(code);
        assert_eq!(finding.level, level, "{text:?}: {finding:?}");
    }
    let undo = host(&[(BALANCING, "2\n")]).finding("numa-balancing").undo;
    assert_eq!(undo.as_deref(), Some("sysctl -w kernel.numa_balancing=2"));
}

#[test]
fn one_slow_governor_is_enough() {
    let of = |first: &str, second: &str| {
        let files = [
            ("cpu0/cpufreq/scaling_governor", first),
            ("cpu1/cpufreq/scaling_governor", second),
            ("cpu0/cpufreq/scaling_min_freq", "800000"),
            ("cpu0/cpufreq/scaling_max_freq", "4200000"),
        ];
        FakeHost::new(&files).on(&[0, 1])
    };
    of("performance", "performance").is("governor", FINE, "");
    let finding = of("performance", "powersave").is("governor", Spoils, "powersave on CPU 1");
    assert!(finding.effect.contains("800 of 4200 MHz"), "{finding:?}");
    assert_eq!(finding.undo.as_deref(), Some("cpupower -c 1 frequency-set -g powersave"));
    assert_eq!(of("performance", "").is("governor", Unknown, "").mend, None);
}

#[test]
fn turbo_is_undone_by_the_same_file() {
    for (file, is_on, is_off) in [("intel_pstate/no_turbo", 0, 1), ("cpufreq/boost", 1, 0)] {
        let on = host(&[(file, &is_on.to_string())]).is("turbo", Note, "");
        let set = |to| format!("echo {to} > {}", cpu_file(file));
        mends(&on, &set(is_off), &set(is_on));
    }
}

#[test]
fn idle_states_spoil_unless_they_are_kept_out_of() {
    const OPEN: i32 = 2_000_000_000;
    // CPU 0 has C1 (2 µs) and C6, which is disabled or not.
    for (c6_us, disabled, held_us, level, value, words) in [
        ("133", "0", None, Spoils, 133.0, "133 µs to leave C6"),
        ("133", "0", None, Spoils, 133.0, "cannot be read"),
        ("133", "1", None, FINE, 2.0, ""),
        ("133", "0", Some(OPEN), Spoils, 133.0, "is not held"),
        ("133", "0", Some(0), FINE, 0.0, ""),
        // Held at 50 µs, C6 is out of reach, and C1 is fine.
        ("133", "0", Some(50), FINE, 2.0, ""),
        ("40", "0", Some(50), Spoils, 40.0, ""),
    ] {
        let host = host(&[
            ("cpu0/cpuidle/state0/name", "C1"),
            ("cpu0/cpuidle/state0/latency", "2"),
            ("cpu0/cpuidle/state1/name", "C6"),
            ("cpu0/cpuidle/state1/latency", c6_us),
            ("cpu0/cpuidle/state1/disable", disabled),
        ]);
        if let Some(us) = held_us {
            host.fixture.write("/dev/cpu_dma_latency", i32::to_ne_bytes(us));
        }
        host.is("idle-states", level, words);
        host.has("idle-states", level, value);
    }
    host(&[("/dev/cpu_dma_latency", "\0\0\0\0")]).is("idle-states", FINE, "");
}

#[test]
fn a_busy_sibling_spoils_and_an_idle_one_is_noted() {
    let mut host = host(&[
        ("cpu0/topology/physical_package_id", "0"),
        ("cpu0/topology/core_id", "0"),
        ("cpu1/topology/physical_package_id", "0"),
        ("cpu1/topology/core_id", "1"),
        ("cpu2/topology/physical_package_id", "0"),
        ("cpu2/topology/core_id", "0"),
    ]);
    host.is("smt", Unknown, "");
    let ticks = |busy, total| [(Some(2), Ticks { busy, total, ..Ticks::default() })].into();
    host.sample.before.ticks = ticks(100, 1_000);
    host.sample.after.ticks = ticks(101, 1_100);
    host.is("smt", Note, "");
    host.sample.after.ticks = ticks(150, 1_100);
    assert_eq!(host.is("smt", Spoils, "CPU 2").value, Some(0.5));
    let host = host.on(&[1]);
    host.is("smt", FINE, "");
    host.on(&[0, 2]).is("smt", Spoils, "both measure");
}

#[test]
fn isolation_is_of_all_measuring_cpus() {
    for (isolated, tickless, level, what) in [
        ("2-3\n", "2-3\n", FINE, ""),
        ("1-3\n", " (null)\n", Note, "CPUs 2-3 are isolated, but with a tick"),
        ("3\n", "2-3\n", Note, "everything else on this machine"),
        ("\n", "\n", Note, ""),
    ] {
        let host = FakeHost::new(&[("isolated", isolated), ("nohz_full", tickless)]).on(&[2, 3]);
        assert!(host.is("cpu-isolation", level, "").what.ends_with(what), "{what}");
    }
}

#[test]
fn a_load_that_reaches_the_measuring_cpus_spoils() {
    for (average, level) in [("0.2", FINE), ("2.0", Note), ("2.1", Spoils)] {
        let text = format!("{average} 1.05 1.31 3/123 3403\n");
        let files = [("cpu0/online", "1"), ("cpu1/online", "1"), ("cpu2/x", "")];
        let mut host = FakeHost::new(&files).on(&[2]);
        host.fixture.write("/proc/loadavg", &text);
        host.load = load_average(&host.files);
        host.is("load", level, "on 3 CPUs of which 1 measure");
        host.has("load", level, average.parse::<f64>().unwrap());
    }
}

#[test]
fn any_stolen_time_spoils() {
    let mut host = host(&[]);
    host.sample.span = Nanos::from_secs(1);
    let ticks = |steal| [(Some(0), Ticks { steal, ..Ticks::default() })].into();
    host.sample.before.ticks = ticks(1);
    host.sample.after.ticks = ticks(1);
    host.is("steal", FINE, "");
    host.sample.after.ticks = ticks(1 + 20_000_000 / ns_per_tick());
    assert_eq!(host.is("steal", Spoils, "(2.0 %)").value, Some(2e7));
}

#[test]
fn noise_is_that_of_the_worst_cpu() {
    let mut host = FakeHost::new(&[]).on(&[0, 1]);
    let span = Nanos::from_secs(2);
    let of =
        |gaps, longest| Noise { span, gaps, longest: Nanos(longest), away: Nanos(gaps * 10_000) };
    // Ten times a second only, but for 1 % of the time.
    let seldom = Noise { away: Nanos(20_000_000), ..of(20, 1_000_000) };
    for (noise, level, value, words) in [
        ([of(0, 0), of(0, 0)], FINE, 0.0, ""),
        ([of(2, 900_000), of(100, 20_000)], Note, 50.0, "on CPU 1"),
        ([of(2, 900_000), of(100, 20_000)], Note, 50.0, "900 µs at most"),
        ([seldom, of(0, 0)], Spoils, 10.0, ""),
        ([of(2_000, 20_000), of(0, 0)], Spoils, 1_000.0, "(1.0 % of the time)"),
    ] {
        host.sample.noise = [0, 1].into_iter().zip(noise).collect();
        assert_eq!(host.is("noise", level, words).value, Some(value));
    }
}

#[test]
fn late_wakeups_are_noted() {
    let mut host = host(&[]);
    host.sample.wakeup = Some(Nanos(4_000));
    host.is("wake-up", FINE, "");
    host.sample.wakeup = Some(Nanos(48_000));
    let finding = host.is("wake-up", Note, "48 µs late on CPU 0");
    assert_eq!(finding.unit.as_deref(), Some("us"));
}

/// One that measures on CPU 2, which was interrupted so often by a card and by itself within 2 s.
fn interrupted(irq: u64, local: u64) -> FakeHost {
    let table = |irq, local, rest| {
        format!(
            "           CPU0       CPU2\n 24:      {rest}  {irq}  IO-APIC   5-edge      eth0-rx-0\n\
             LOC:      {rest}  {local}   Local timer interrupts\nERR:          0\n"
        )
    };
    let mut host = FakeHost::new(&[("/proc/interrupts", &table(50, 2000, 100))]).on(&[2]);
    host.sample.interrupts_before = Interrupts::read(&host.files);
    host.fixture.write("/proc/interrupts", &table(50 + irq, 2000 + local, 91_000));
    host.sample.interrupts = Interrupts::read(&host.files);
    host.sample.span = Nanos::from_secs(2);
    host
}

#[test]
fn interrupts_count_on_the_measuring_cpus_alone() {
    interrupted(0, 0).has("irqs", FINE, 0.0);
    let host = interrupted(100, 0);
    host.is("irqs", Note, "24 eth0-rx-0 50/s");
    host.has("irqs", Note, 50.0);
    let host = interrupted(2_000, 0);
    host.fixture.write("/proc/irq/24/smp_affinity_list", "0-2\n");
    let finding = host.has("irqs", Spoils, 1000.0);
    assert!(finding.mend.as_ref().unwrap().contains("echo 0 > /proc/irq/24/"), "{finding:?}");
    let undo = "echo 0-2 > /proc/irq/24/smp_affinity_list; systemctl start irqbalance";
    assert_eq!(finding.undo.as_deref(), Some(undo));
    assert!(finding.effect.contains("1 %"), "{}", finding.effect);
    // Ticks and calls between CPUs are apart from devices.
    interrupted(9_000, 500).has("local-interrupts", FINE, 250.0);
    let finding = interrupted(0, 10_000).is("local-interrupts", Note, "LOC 5000/s");
    assert_eq!(finding.value, Some(5000.0));
}

#[test]
fn affinities_tell_what_may_come() {
    let irqs = |first, second| {
        FakeHost::new(&[
            ("/proc/irq/24/smp_affinity_list", first),
            ("/proc/irq/25/smp_affinity_list", second),
            ("/proc/irq/default_smp_affinity", "4"),
        ])
        .on(&[2])
    };
    irqs("0-1", "1").is("irq-affinity", FINE, "");
    let finding = irqs("0-2", "1").has("irq-affinity", Note, 1.0);
    assert!(finding.mend.unwrap().contains("> irqs.saved"));
    assert!(finding.undo.unwrap().contains("< irqs.saved"));
}

#[test]
fn the_devices_interrupts_are_found_beside_its_parent_too() {
    let irq = ("/proc/irq/41/smp_affinity_list", "0-1");
    for below in ["device/msi_irqs/41", "msi_irqs/41"] {
        let path = format!("/sys/class/net/eth0/{below}");
        // `..` only leads somewhere from a directory that is there.
        let there = ("/sys/class/net/eth0/device/vendor", "x");
        let host = FakeHost::new(&[irq, there, (path.as_str(), "msix")]).eth0().on(&[1]);
        let finding = host.is("device-irqs", Note, "CPU 0-1");
        assert!(finding.mend.unwrap().contains(" /proc/irq/41/smp"), "{below}");
        host.on(&[3]).is("device-irqs", FINE, "");
    }
    host(&[]).eth0().is("device-irqs", Unknown, "");
}

#[test]
fn a_clock_is_slow_by_name_or_by_its_cost() {
    let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    for (name, cost, level) in
        [("tsc", 19, FINE), ("tsc", 900, Spoils), ("hpet", 1_100, Spoils), ("hpet", 100, Spoils)]
    {
        let mut host = host(&[(file, name)]);
        host.sample.clock_cost = Nanos(cost);
        host.is("clock-source", level, name);
    }
}

#[test]
fn a_slack_that_cannot_be_set_is_noted() {
    let mut host = host(&[("/proc/self/timerslack_ns", "50000\n")]);
    host.has("timer-slack", Note, 50_000.0);
    host.sample.slack_set = true;
    host.is("timer-slack", FINE, "");
}

#[test]
fn quotas_spoil_below_two_cpus_and_throttling_while_it_goes_on() {
    for (max, level, value) in [
        ("max 100000", FINE, None),
        ("150000 100000", Spoils, Some(1.5)),
        ("400000 100000", Note, Some(4.0)),
    ] {
        let host = host(&[("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/cpu.max", max)]);
        let finding = host.has("cpu-quota", level, value);
        assert_eq!(finding.show, "grep -H '' /sys/fs/cgroup/cpu.max");
    }
    for (before, after, level) in [(0, 0, FINE), (7, 7, Note), (7, 8, Spoils)] {
        let mut host = host(&[]);
        let at = |periods| Some(Throttling { periods, ns: periods * 1_000, enforced: 80 });
        host.sample.before.throttling = at(before);
        host.sample.after.throttling = at(after);
        host.is("cpu-throttling", level, "");
    }
}

#[test]
fn a_denied_ring_says_the_reason_and_the_advice() {
    let mut host = host(&[("/proc/sys/kernel/io_uring_disabled", "2\n")]);
    host.is("io-uring", FINE, "");
    host.backend.backend = Backend::Epoll;
    host.backend.reason = "io_uring is denied (EPERM)".into();
    host.backend.advice = Some("sysctl -w kernel.io_uring_disabled=0".into());
    let finding = host.finding("io-uring");
    assert_eq!(finding.level, Note);
    assert!(finding.what.starts_with("kernel.io_uring_disabled is 2; io_uring is denied"));
    assert_eq!(finding.mend, host.backend.advice);
}

#[test]
fn limits_of_descriptors_and_of_locked_memory() {
    let mut host = host(&[]);
    for (soft, hard, level, words) in [
        (Some(100), Some(255), Spoils, ""),
        (Some(1_024), Some(4_096), Note, ""),
        (Some(1_024), Some(1 << 20), FINE, "raises that by itself"),
        (None, None, Unknown, ""),
    ] {
        host.environment.descriptors_limit = soft;
        host.descriptors_hard = hard;
        host.is("descriptors", level, words);
    }
    for (bytes, level, value, undo) in [
        (Some(65_536), Note, Some(65_536.0), Some("ulimit -l 64")),
        (Some(8 << 20), FINE, Some(8_388_608.0), None),
        (Some(u64::MAX), FINE, None, None),
        (None, Unknown, None, None),
    ] {
        host.environment.memlock_limit_bytes = bytes;
        assert_eq!(host.has("memlock", level, value).undo.as_deref(), undo);
    }
}

#[test]
fn ports_in_use_are_not_free() {
    let idle = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1\n";
    let busy = "TCP: inuse 200 orphan 0 tw 27500 alloc 9 mem 1\n";
    for (range, sockstat, level, value) in [
        ("32768\t60999\n", idle, FINE, Some(28_224.0)),
        ("32768\t60999\n", busy, Spoils, Some(532.0)),
        ("32768\t42767\n", idle, Note, Some(9_992.0)),
        ("", idle, Unknown, None),
        ("32768\t60999\n", "", FINE, Some(28_232.0)),
    ] {
        let range = ("/proc/sys/net/ipv4/ip_local_port_range", range);
        host(&[range, ("/proc/net/sockstat", sockstat)]).has("ephemeral-ports", level, value);
    }
}

#[test]
fn a_full_table_spoils_and_no_table_is_fine() {
    let of = |used: &str| {
        host(&[
            ("/proc/sys/net/core/somaxconn", "4096"),
            ("/proc/sys/net/netfilter/nf_conntrack_count", used),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "1000"),
        ])
    };
    of("799").is("conntrack", Note, "");
    let full = of("800").has("conntrack", Spoils, 80.0);
    assert!(full.mend.unwrap().ends_with("nf_conntrack_max=2000"));
    let mend = of("0").finding("conntrack").mend.unwrap();
    assert!(mend.contains("th sport 7117 notrack"), "{mend}");
    of("").is("conntrack", FINE, "");
}

#[test]
fn the_route_is_the_targets_or_the_default_one() {
    for code in
        ["route", "path-mtu", "offloads", "lro", "coalescing", "gro-flush", "rings", "rps", "xps"]
    {
        host(&[]).is(code, Unknown, "no route");
    }
    let mut host = host(&[]).eth0();
    let what = host.finding("route").what;
    assert_eq!(what, "eth0, of the default route, since no target was given");
    host.link.via = Via::Target(Ipv4Addr::new(192, 0, 2, 9).into());
    host.link.target = Some("node-2".into());
    let finding = host.finding("route");
    assert_eq!(finding.what, "eth0, to node-2 (192.0.2.9)");
    assert_eq!(finding.show, "ip route get 192.0.2.9");
    // A device of the kernel's own has no card to examine.
    host.link.hardware = false;
    for code in ["lro", "coalescing", "rings"] {
        host.is(code, FINE, "eth0 is the kernel's own");
    }
}

#[test]
fn a_route_that_takes_less_than_its_device_is_noted() {
    let mut host = host(&[]).eth0();
    for (route, device, level, value) in [
        (None, Some(1_500), FINE, Some(1_500.0)),
        (Some(1_400), Some(1_500), Note, Some(1_400.0)),
        (None, Some(1_280), Note, Some(1_280.0)),
        (None, None, Unknown, None),
    ] {
        host.link.route_mtu_bytes = route;
        host.device().mtu_bytes = device;
        let undo = host.has("path-mtu", level, value).undo;
        let expected = device.filter(|_| level == Note);
        assert_eq!(undo, expected.map(|mtu| format!("ip link set eth0 mtu {mtu}")));
    }
}

#[test]
fn offloads_that_are_off_are_named_with_their_flags() {
    let mut host = host(&[]).eth0();
    host.is("offloads", FINE, "");
    host.device().offloads = ["rx-checksum", "gro"].map(str::to_owned).to_vec();
    let finding = host.is("offloads", Note, "");
    mends(&finding, "ethtool -K eth0 tx on tso on", "ethtool -K eth0 tx off tso off");
    host.device().offloads.clear();
    host.is("offloads", Unknown, "");
}

#[test]
fn what_the_card_holds_back_merges_and_drops() {
    let mut host = host(&[]).eth0();
    for code in ["coalescing", "rings", "lro"] {
        host.is(code, Unknown, "");
    }
    for (rx_us, adaptive_rx, level) in
        [(0, false, FINE), (10, false, Note), (0, true, Spoils), (64, true, Spoils)]
    {
        host.link.coalescing = Some(Coalescing { rx_us, adaptive_rx, ..Coalescing::default() });
        host.has("coalescing", level, f64::from(rx_us));
    }
    let undo = host.finding("coalescing").undo;
    assert_eq!(undo.as_deref(), Some("ethtool -C eth0 adaptive-rx on rx-usecs 64"));
    // Of 256 in all there is no more to have.
    for (rx, rx_max, level) in [(256, 4_096, Note), (512, 4_096, FINE), (256, 256, FINE)] {
        host.link.rings = Some(Rings { rx, rx_max, ..Rings::default() });
        host.is("rings", level, "");
    }
    for (lro, level) in [(false, FINE), (true, Note)] {
        host.link.lro = Some(lro);
        host.is("lro", level, "");
    }
}

#[test]
fn the_kernels_holding_back_is_undone_as_it_was() {
    let file = "/sys/class/net/eth0/gro_flush_timeout";
    let deferred = "/sys/class/net/eth0/napi_defer_hard_irqs";
    let of = |ns: &str| host(&[(file, ns), (deferred, "2")]).eth0();
    of("0").is("gro-flush", FINE, "");
    let undo = of("20000").is("gro-flush", Spoils, "").undo;
    assert_eq!(undo, Some(format!("echo 20000 > {file}; echo 2 > {deferred}")));
    of("").is("gro-flush", Unknown, "");
}

#[test]
fn steering_is_read_queue_by_queue() {
    let queue = |name: &str| format!("/sys/class/net/eth0/queues/{name}");
    let paths = ["rx-0/rps_cpus", "rx-1/rps_cpus", "tx-0/xps_cpus", "tx-1/xps_cpus"].map(queue);
    for (masks, rps, xps) in [
        (["0", "00000000,00000000", "1", "2"], FINE, FINE),
        (["0", "00000000,0000000c", "0", "0"], Note, Note),
        (["", "", "", ""], Unknown, Unknown),
    ] {
        let files: Vec<(&str, &str)> = paths.iter().map(String::as_str).zip(masks).collect();
        let host = host(&files).eth0();
        host.is("xps", xps, "");
        let finding = host.is("rps", rps, "");
        if rps == Note {
            assert_eq!(finding.value, Some(1.0));
            assert_eq!(finding.undo, Some(format!("echo 00000000,0000000c > {}", paths[1])));
        }
    }
    host(&[(&queue("tx-0/traffic_class"), "")]).eth0().is("xps", FINE, "one send queue");
}

#[test]
fn cpus_of_another_node_are_far() {
    let nodes = [
        ("/sys/devices/system/node/node0/cpulist", "0-1\n"),
        ("/sys/devices/system/node/node1/cpulist", "2-3\n"),
    ];
    let mut host = FakeHost::new(&nodes).eth0().on(&[1, 2]);
    host.is("numa-node", Unknown, "");
    host.device().numa_node = Some(0);
    let finding = host.is("numa-node", Spoils, "eth0 is of node 0, CPU 2 is not");
    assert!(finding.mend.unwrap().ends_with("0-1"));
    host = host.on(&[2]);
    host.device().numa_node = Some(1);
    host.is("numa-node", FINE, "");
    // One node: whatever the card says.
    FakeHost::new(&nodes[..1]).eth0().on(&[1]).is("numa-node", FINE, "");
}

#[test]
fn drops_count_while_they_grow() {
    let file = "/proc/net/softnet_stat";
    let stat = |dropped: u64, squeezed: u64| {
        format!("26b0dea8 00000187 0000001a 0\n22e8c8d0 {dropped:08x} {squeezed:08x} 0\n")
    };
    let mut host = host(&[(file, &stat(0x39e, 0x22))]);
    host.sample.before.softnet = Counters::read(&host.files, None).softnet;
    host.sample.after.softnet = host.sample.before.softnet;
    host.is("softnet-drops", FINE, "1317 since boot");
    host.is("softnet-squeezes", FINE, "");
    host.fixture.write(file, &stat(0x3a0, 0x23));
    host.sample.after.softnet = Counters::read(&host.files, None).softnet;
    let drops = host.has("softnet-drops", Spoils, 2.0);
    assert!(drops.mend.unwrap().contains("on the host"));
    host.has("softnet-squeezes", Note, 1.0);
    host.fixture.write("/proc/sys/net/core/netdev_budget", "300");
    host.sample.before.softnet = Some(Softnet::default());
    let noted = host.is("softnet-squeezes", Note, "");
    let set = |to| format!("sysctl -w net.core.netdev_budget={to}");
    mends(&noted, &set(600), &set(300));
}

#[test]
fn busy_polling_matters_with_a_card() {
    let files = [("/proc/sys/net/core/busy_poll", "0"), ("/proc/sys/net/core/busy_read", "0")];
    let mut host = host(&files).eth0();
    host.is("busy-poll", Note, "");
    host.link = Link::default();
    host.is("busy-poll", FINE, "");
}
